//! One rate limit for any number of keys in a fixed amount of memory.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// 512 KiB per limit.
const SLOTS: usize = 1 << 16;

/// A burst and then one in each interval, for each key (the generic cell rate algorithm).
///
/// A key has two slots of a fixed table, and its debt is the smaller of the two. Keys that share one slot do not harm
/// each other; that somebody's both slots are those of exhausted keys is a matter of bad luck, because the hash is keyed.
/// Nothing grows, so nothing must be swept, however many keys an attacker makes up.
pub struct Budget {
    hashers: [RandomState; 2],
    /// Nanoseconds after `start` at which each slot will have paid off its debt.
    paid_off: Mutex<Box<[u64]>>,
    start: Instant,
    burst: u64,
    interval: u64,
}

impl Budget {
    /// So many at once, and then one in each `interval`.
    #[must_use]
    pub fn new(burst: u32, interval: Duration) -> Self {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX / 1_000_000);
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            paid_off: Mutex::new(vec![0; SLOTS].into()),
            start: Instant::now(),
            burst: u64::from(burst),
            interval,
        }
    }

    /// Takes one, or says after how long there will be one again.
    pub fn spend(&self, key: &impl Hash, now: Instant) -> Result<(), Duration> {
        let now = u64::try_from(now.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        let slots = self.slots(key);
        let mut paid_off = self.paid_off.lock().unwrap_or_else(PoisonError::into_inner);
        let debt_until = slots.map(|slot| paid_off[slot]).into_iter().min().unwrap_or(0).max(now);
        let after = debt_until.saturating_add(self.interval);
        let too_much = after.saturating_sub(now).saturating_sub(self.burst.saturating_mul(self.interval));
        if too_much > 0 {
            return Err(Duration::from_nanos(too_much));
        }
        for slot in slots {
            paid_off[slot] = paid_off[slot].max(after);
        }
        Ok(())
    }

    /// Gives one back.
    pub fn give_back(&self, key: &impl Hash) {
        let slots = self.slots(key);
        let mut paid_off = self.paid_off.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots {
            paid_off[slot] = paid_off[slot].saturating_sub(self.interval);
        }
    }

    fn slots(&self, key: &impl Hash) -> [usize; 2] {
        self.hashers.each_ref().map(|hasher| hasher.hash_one(key) as usize % SLOTS)
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
