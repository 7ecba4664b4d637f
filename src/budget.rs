//! One rate limit for any number of keys in a fixed amount of memory.

pub mod slots;

use std::hash::Hash;
use std::time::{Duration, Instant};

use slots::Slots;

/// A burst and then one in each interval, for each key (the generic cell rate algorithm).
pub struct Budget {
    /// Nanoseconds after `start` at which each slot will have paid off its debt.
    paid_off: Slots,
    start: Instant,
    burst: u64,
    interval: u64,
}

impl Budget {
    /// So many at once, and then one in each `interval`.
    #[must_use]
    pub fn new(burst: u32, interval: Duration) -> Self {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX / 1_000_000);
        Self { paid_off: Slots::new(), start: Instant::now(), burst: u64::from(burst), interval }
    }

    /// Takes one and says when the burst will be whole again; or says after how long there will be one again.
    pub fn spend(&self, key: &impl Hash, now: Instant) -> Result<Duration, Duration> {
        let now = u64::try_from(now.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        self.paid_off.update(key, |paid_off| {
            let debt_until = paid_off[0].min(paid_off[1]).max(now);
            let after = debt_until.saturating_add(self.interval);
            let debt = after.saturating_sub(now);
            let too_much = debt.saturating_sub(self.burst.saturating_mul(self.interval));
            if too_much > 0 {
                return (paid_off, Err(Duration::from_nanos(too_much)));
            }
            (paid_off.map(|slot| slot.max(after)), Ok(Duration::from_nanos(debt)))
        })
    }

    /// Gives one back.
    pub fn give_back(&self, key: &impl Hash) {
        self.paid_off.update(key, |paid_off| (paid_off.map(|slot| slot.saturating_sub(self.interval)), ()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_and_then_one_in_each_interval() {
        let budget = Budget::new(3, SECOND);
        let start = Instant::now();
        for _ in 0..3 {
            assert!(budget.spend(&"alice", start).is_ok());
        }
        assert_eq!(budget.spend(&"alice", start), Err(SECOND));
        assert!(budget.spend(&"bob", start).is_ok(), "another key has its own");
        assert_eq!(budget.spend(&"alice", start + SECOND / 2), Err(SECOND / 2));
        assert!(budget.spend(&"alice", start + SECOND).is_ok());
        assert!(budget.spend(&"alice", start + SECOND).is_err());
    }

    #[test]
    fn what_is_given_back_can_be_spent_again() {
        let budget = Budget::new(1, SECOND);
        let start = Instant::now();
        for _ in 0..10 {
            assert!(budget.spend(&"alice", start).is_ok());
            budget.give_back(&"alice");
        }
        assert!(budget.spend(&"alice", start).is_ok());
        assert!(budget.spend(&"alice", start).is_err());
    }

    #[test]
    fn a_thousand_exhausted_keys_harm_almost_nobody() {
        let budget = Budget::new(1, SECOND);
        let start = Instant::now();
        for key in 0..1_000 {
            let _ = budget.spend(&key, start);
        }
        let harmed = (1_000..11_000).filter(|key| budget.spend(key, start).is_err()).count();
        // Two slots of 65,536 out of at most 2,000 + 2 per newcomer before.
        assert!(harmed < 1_000, "{harmed}");
    }
}
