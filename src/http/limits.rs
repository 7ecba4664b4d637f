//! Rate limits against guessing and floods: per address (IPv6 by /64), per account, and per pair of both.
//!
//! Only what fails counts for long: an attempt is charged before the password is hashed, so that parallel guesses count
//! too, and given back unless the password was wrong. The pair is refused; an account guessed at from many addresses is
//! only slowed down, so that nobody can lock its owner out.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::client_address::Network;
use crate::problem::Problem;

/// The longest that a login is slowed down for its account's sake.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// All limits of this node.
pub(super) struct Limits(Option<Budgets>);

struct Budgets {
    signups_by_address: Budget,
    logins_by_address: Budget,
    validations_by_address: Budget,
    failures_by_pair: Budget,
    failures_by_account: Budget,
}

impl Limits {
    /// With `throttling` off, everything passes.
    pub fn new(throttling: bool) -> Self {
        Self(throttling.then(|| Budgets {
            signups_by_address: Budget::new(50, per_second(5)),
            logins_by_address: Budget::new(50, per_second(10)),
            // A whole office comes back at once after an outage, and nobody guesses 122 bits.
            validations_by_address: Budget::new(500, per_second(100)),
            // 100 in the first hour (OWASP ASVS 4.0.3, 2.2.1).
            failures_by_pair: Budget::new(10, Duration::from_secs(40)),
            failures_by_account: Budget::new(50, Duration::from_secs(40)),
        }))
    }

    /// May this address sign up once more?
    pub fn signup(&self, ip: IpAddr) -> Result<(), Problem> {
        self.check(|budgets| budgets.signups_by_address.spend(&Network::of(ip), Instant::now()))
    }

    /// May this address show one more session secret?
    pub fn validation(&self, ip: IpAddr) -> Result<(), Problem> {
        self.check(|budgets| budgets.validations_by_address.spend(&Network::of(ip), Instant::now()))
    }

    /// May this address log in once more?
    pub fn login(&self, ip: IpAddr) -> Result<(), Problem> {
        self.check(|budgets| budgets.logins_by_address.spend(&Network::of(ip), Instant::now()))
    }

    /// Charges one guess at the account's password.
    pub fn guess(&self, ip: IpAddr, email: &str) -> Result<Guess<'_>, Problem> {
        let pair = (Network::of(ip), email.to_lowercase());
        self.check(|budgets| budgets.failures_by_pair.spend(&pair, Instant::now()))?;
        let delay = match &self.0 {
            Some(budgets) => budgets.failures_by_account.spend(&pair.1, Instant::now()).err().unwrap_or_default(),
            None => Duration::ZERO,
        };
        Ok(Guess { budgets: self.0.as_ref(), pair, delay: delay.min(LONGEST_DELAY) })
    }

    fn check(&self, spend: impl FnOnce(&Budgets) -> Result<(), Duration>) -> Result<(), Problem> {
        let Some(budgets) = &self.0 else { return Ok(()) };
        spend(budgets).map_err(|wait| {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Problem::too_many_requests("Too many attempts. Try again later.", seconds)
        })
    }
}

/// A guess that was charged.
#[must_use = "a guess that was not wrong is given back"]
pub(super) struct Guess<'a> {
    budgets: Option<&'a Budgets>,
    pair: (Network, String),
    delay: Duration,
}

impl Guess<'_> {
    /// Waits a little when many have guessed at this account.
    pub async fn wait(&self) {
        tokio::time::sleep(self.delay).await;
    }

    /// The password was right, or nobody looked: it counts for nothing.
    pub fn give_back(self) {
        if let Some(budgets) = self.budgets {
            budgets.failures_by_pair.give_back(&self.pair);
            budgets.failures_by_account.give_back(&self.pair.1);
        }
    }
}

fn per_second(times: u32) -> Duration {
    Duration::from_secs(1) / times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn wrong_passwords_are_refused_after_ten_and_only_there() {
        let (limits, email) = (Limits::new(true), "alice@example.test");
        let attacker = ip("203.0.113.9");
        for _ in 0..10 {
            assert!(limits.guess(attacker, email).is_ok());
        }
        let refused = limits.guess(attacker, "ALICE@example.test").err().unwrap();
        assert_eq!(refused.status(), 429);
        assert!(limits.guess(attacker, "bob@example.test").is_ok());
        assert!(limits.guess(ip("198.51.100.1"), email).is_ok(), "the owner gets in from elsewhere");
    }

    #[test]
    fn right_passwords_cost_nothing() {
        let (limits, email) = (Limits::new(true), "alice@example.test");
        for _ in 0..200 {
            limits.guess(ip("203.0.113.9"), email).unwrap().give_back();
        }
    }

    #[test]
    fn an_account_guessed_at_from_everywhere_is_slowed_down_and_not_locked() {
        let (limits, email) = (Limits::new(true), "alice@example.test");
        for host in 0..50 {
            let _ = limits.guess(ip(&format!("198.51.100.{host}")), email).unwrap();
        }
        assert_eq!(limits.guess(ip("203.0.113.9"), email).unwrap().delay, LONGEST_DELAY);
    }

    #[test]
    fn with_throttling_off_everything_passes() {
        let (limits, email) = (Limits::new(false), "alice@example.test");
        for _ in 0..1_000 {
            assert!(limits.guess(ip("203.0.113.9"), email).is_ok() && limits.signup(ip("::1")).is_ok());
        }
    }
}
