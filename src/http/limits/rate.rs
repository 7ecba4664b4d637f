//! A budget as clients are told of it.

use std::hash::Hash;
use std::time::{Duration, Instant};

use super::quota::{Policy, Verdict};
use crate::budget::Budget;

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// What clients know it as.
    pub name: &'static str,
    /// So many at once.
    pub burst: u32,
    /// Then one in each of these.
    pub interval: Duration,
}

impl Rate {
    /// As clients are told.
    pub fn policy(&self) -> Policy {
        Policy { name: self.name, quota: self.burst, window: self.interval * self.burst }
    }

    /// What it means that a key's debt will be paid off after so long, one that was just taken included.
    pub fn allowed(&self, debt: Duration) -> Verdict {
        let whole = self.interval * self.burst;
        let left = whole.saturating_sub(debt).as_nanos() / self.interval.as_nanos().max(1);
        Verdict { remaining: u32::try_from(left).unwrap_or(u32::MAX), after: debt, allowed: true }
    }

    /// There will be one again after so long.
    pub fn refused(&self, wait: Duration) -> Verdict {
        Verdict { remaining: 0, after: wait, allowed: false }
    }
}

/// This node's own count for a rate.
pub(super) struct Limit {
    pub rate: Rate,
    budget: Budget,
}

impl Limit {
    pub fn new(rate: Rate) -> Self {
        Self { rate, budget: Budget::new(rate.burst, rate.interval) }
    }

    /// Takes one, if there is one.
    pub fn spend(&self, key: &impl Hash, now: Instant) -> Verdict {
        match self.budget.spend(key, now) {
            Ok(debt) => self.rate.allowed(debt),
            Err(wait) => self.rate.refused(wait),
        }
    }

    /// Gives one back.
    pub fn give_back(&self, key: &impl Hash) {
        self.budget.give_back(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_what_is_left() {
        let second = Duration::from_secs(1);
        let (limit, start) = (Limit::new(Rate { name: "test", burst: 3, interval: second }), Instant::now());
        for remaining in [2, 1, 0] {
            let verdict = limit.spend(&"alice", start);
            assert_eq!((verdict.allowed, verdict.remaining), (true, remaining));
        }
        assert_eq!(limit.spend(&"alice", start), limit.rate.refused(second));
        assert_eq!(limit.rate.policy(), Policy { name: "test", quota: 3, window: 3 * second });
    }
}
