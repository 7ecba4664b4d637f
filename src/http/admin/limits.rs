//! Limits of the admin API: few guesses for an address, many calls for a key. They protect the database from a script gone
//! wild, not the keys: nobody guesses 256 bits.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::client_address::Network;
use crate::ids::AdminKeyId;
use crate::problem::Problem;

/// All limits of the admin API.
pub(in crate::http) struct AdminLimits(Option<Budgets>);

struct Budgets {
    guesses: Budget,
    calls: Budget,
    introspections: Budget,
}

/// A guess that was charged.
#[must_use = "a good key, or one that nobody could judge, is given back"]
pub(in crate::http) struct Guess<'a> {
    budgets: Option<&'a Budgets>,
    from: Network,
}

impl AdminLimits {
    /// With `throttling` off, everything passes.
    pub fn new(throttling: bool) -> Self {
        Self(throttling.then(|| Budgets {
            guesses: Budget::new(50, Duration::from_secs(2)),
            calls: Budget::new(500, Duration::from_millis(10)),
            // Answered from memory like any request of a user.
            introspections: Budget::new(20_000, Duration::from_micros(100)),
        }))
    }

    /// Charges the showing of a key.
    pub fn guess(&self, ip: IpAddr) -> Result<Guess<'_>, Problem> {
        let from = Network::of(ip);
        let budgets = self.0.as_ref();
        if let Some(budgets) = budgets {
            budgets.guesses.spend(&from, Instant::now()).map_err(too_many)?;
        }
        Ok(Guess { budgets, from })
    }

    /// Charges a call of a good key.
    pub fn call(&self, key: AdminKeyId, introspection: bool) -> Result<(), Problem> {
        let Some(budgets) = &self.0 else { return Ok(()) };
        let budget = if introspection { &budgets.introspections } else { &budgets.calls };
        budget.spend(&key, Instant::now()).map(drop).map_err(too_many)
    }
}

impl Guess<'_> {
    /// It was none.
    pub fn give_back(self) {
        if let Some(budgets) = self.budgets {
            budgets.guesses.give_back(&self.from);
        }
    }
}

fn too_many(wait: Duration) -> Problem {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Problem::too_many_requests("Too many calls. Try again later.", seconds)
}
