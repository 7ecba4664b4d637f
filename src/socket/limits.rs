//! Limits at the door: how often an address may knock, and how a limit that was reached is told.

use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::budget::Budget;
use crate::client_address::Network;
use crate::config::Config;
use crate::problem::Problem;
use crate::registry::LimitReached;

/// So many seconds' worth of handshakes may come at once: a whole office does after an outage.
const BURST_SECONDS: u32 = 5;

/// How often each address may ask for a socket.
pub(super) struct Handshakes(Option<Budget>);

impl Handshakes {
    /// With throttling off, as often as it likes.
    pub(super) fn new(config: &Config) -> Self {
        let per_second = config.max_handshakes_per_second.max(1);
        let budget = || Budget::new(per_second.saturating_mul(BURST_SECONDS), Duration::from_secs(1) / per_second);
        Self(config.throttling.then(budget))
    }

    /// Takes one; or says how long there will be none.
    pub(super) fn take(&self, address: Network) -> Result<(), Duration> {
        self.0.as_ref().map_or(Ok(()), |budget| budget.spend(&address, Instant::now()).map(drop))
    }
}

/// 429 before the upgrade.
pub(super) fn too_many_handshakes(wait: Duration) -> Problem {
    Problem::too_many_requests("This address opens sockets too quickly.", wait.as_secs() + 1)
}

impl LimitReached {
    /// Its name in the metric; none for a node that is draining, which is no limit.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            Self::User => Some("user"),
            Self::Address => Some("address"),
            Self::Node => Some("node"),
            Self::Waiting => Some("waiting"),
            Self::Draining => None,
        }
    }
}

/// The answer to a handshake that a limit refuses: 429 where the client is to blame, 503 where the node is.
impl From<LimitReached> for Problem {
    fn from(limit: LimitReached) -> Self {
        let connection_limit =
            |detail| Self::new(StatusCode::TOO_MANY_REQUESTS, "connection_limit", detail).retry_after(30);
        match limit {
            LimitReached::User => connection_limit("This user has as many sockets as one may have."),
            LimitReached::Address => connection_limit("This address has as many sockets as one may have."),
            LimitReached::Node => Self::overloaded("node_full", "This node has as many sockets as it takes.", 5),
            LimitReached::Waiting => {
                Self::overloaded("too_many_waiting", "Too many sockets here have shown no credential yet.", 5)
            }
            LimitReached::Draining => {
                Self::overloaded("draining", "This node is about to stop. Another one takes over.", 1)
            }
        }
    }
}
