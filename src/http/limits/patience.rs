//! Growing pauses after failures: a few are free, then each one doubles the wait for the next.

use std::hash::Hash;
use std::time::{Duration, Instant};

use super::quota::{Policy, Verdict};
use crate::budget::slots::Slots;

/// How the pauses grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    /// What clients know it as.
    pub name: &'static str,
    /// Failures without a pause between them.
    pub free: u32,
    /// The pause after the last free one; each further failure doubles it.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// So long after a pause everything is forgotten.
    pub memory: Duration,
}

impl Pauses {
    /// As clients are told.
    pub fn policy(&self) -> Policy {
        Policy { name: self.name, quota: self.free, window: self.memory }
    }

    /// The pause that follows this many failures.
    pub fn after(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.free) {
            Some(doublings) => self.first.saturating_mul(1 << doublings.min(30)).min(self.longest),
            None => Duration::ZERO,
        }
    }

    /// One more may be tried, and would be failure number `failures`.
    pub fn allowed(&self, failures: u32) -> Verdict {
        let remaining = self.free.saturating_sub(failures);
        Verdict { remaining, after: self.after(failures), allowed: true }
    }

    /// Not before this pause is over.
    pub fn refused(&self, wait: Duration) -> Verdict {
        Verdict { remaining: 0, after: wait, allowed: false }
    }
}

/// Failures by key and the pauses they cost, in this node's memory.
pub(super) struct Patience {
    pub pauses: Pauses,
    slots: Slots,
    start: Instant,
}

/// What a slot holds: failures, and milliseconds after the start until which the next attempt has to wait.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Failures {
    count: u32,
    until: u64,
}

impl Patience {
    pub fn new(pauses: Pauses) -> Self {
        Self { pauses, slots: Slots::new(), start: Instant::now() }
    }

    /// Charges one attempt, as if it had failed, unless a pause is not over.
    pub fn spend(&self, key: &impl Hash, now: Instant) -> Verdict {
        let now = millis(now.duration_since(self.start));
        self.slots.update(key, |slots| {
            let known = slots.map(|slot| self.remembered(slot, now));
            let milder = known[0].min(known[1]);
            if milder.until > now {
                return (slots, self.pauses.refused(Duration::from_millis(milder.until - now)));
            }
            let count = milder.count.saturating_add(1).min(MOST);
            let failed = Failures { count, until: now + millis(self.pauses.after(count)) };
            (known.map(|slot| slot.max(failed).pack()), self.pauses.allowed(count))
        })
    }

    /// The attempt was not judged: it counts for nothing.
    pub fn give_back(&self, key: &impl Hash, now: Instant) {
        let now = millis(now.duration_since(self.start));
        self.slots.update(key, |slots| {
            let one_less = |slot| {
                let Failures { count, until } = Failures::unpack(slot);
                Failures { count: count.saturating_sub(1), until: until.min(now) }.pack()
            };
            (slots.map(one_less), ())
        });
    }

    /// The password was right: the failures before it were the owner's.
    pub fn forget(&self, key: &impl Hash) {
        self.slots.update(key, |_| ([0; 2], ()));
    }

    fn remembered(&self, slot: u64, now: u64) -> Failures {
        let failures = Failures::unpack(slot);
        if failures.until + millis(self.pauses.memory) < now { Failures::default() } else { failures }
    }
}

/// What fits beside the time.
const MOST: u32 = 0xff;

impl Failures {
    fn unpack(slot: u64) -> Self {
        Self { count: (slot >> 56) as u32, until: slot & (u64::MAX >> 8) }
    }

    fn pack(self) -> u64 {
        u64::from(self.count.min(MOST)) << 56 | self.until.min(u64::MAX >> 8)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn patience() -> Patience {
        let pauses =
            Pauses { name: "test", free: 3, first: SECOND, longest: 8 * SECOND, memory: Duration::from_secs(3600) };
        Patience::new(pauses)
    }

    #[test]
    fn each_failure_after_the_free_ones_doubles_the_pause() {
        let (patience, mut now) = (patience(), Instant::now());
        for _ in 0..3 {
            assert!(patience.spend(&"alice", now).allowed);
        }
        for pause in [1, 2, 4, 8, 8, 8] {
            assert_eq!(patience.spend(&"alice", now), patience.pauses.refused(pause * SECOND));
            now += pause * SECOND;
            assert!(patience.spend(&"alice", now).allowed);
        }
        assert!(patience.spend(&"bob", now).allowed, "another key has its own");
    }

    #[test]
    fn the_right_password_forgets_and_one_that_was_not_judged_counts_for_nothing() {
        let (patience, now) = (patience(), Instant::now());
        for _ in 0..20 {
            assert!(patience.spend(&"alice", now).allowed);
            patience.give_back(&"alice", now);
        }
        for _ in 0..3 {
            assert!(patience.spend(&"alice", now).allowed);
        }
        assert!(!patience.spend(&"alice", now).allowed);
        patience.forget(&"alice");
        assert_eq!(patience.spend(&"alice", now).remaining, 2);
    }

    #[test]
    fn time_forgets_too() {
        let (patience, now) = (patience(), Instant::now());
        for _ in 0..3 {
            assert!(patience.spend(&"alice", now).allowed);
        }
        assert_eq!(patience.spend(&"alice", now + SECOND + 2 * patience.pauses.memory).remaining, 2);
    }

    #[test]
    fn fewer_than_a_hundred_guesses_fit_into_an_hour() {
        let pauses = super::super::GUESSES;
        let (patience, start) = (Patience::new(pauses), Instant::now());
        let mut now = start;
        let mut judged = 0;
        while now.duration_since(start) < Duration::from_secs(3600) {
            judged += u32::from(patience.spend(&"alice", now).allowed);
            now += SECOND / 2;
        }
        assert!((10..100).contains(&judged), "{judged}");
    }
}
