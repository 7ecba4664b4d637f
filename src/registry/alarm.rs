//! When a socket wants to be woken, as the wheel of timers sees it. No clock, no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// One socket's entry in a wheel of timers: the tick it waits for, and the tick under which it is entered, which may be
/// an earlier one. Ticks count from 1. Both in one word, so that setting an alarm that stands costs one load.
#[derive(Debug, Default)]
pub struct Alarm(AtomicU64);

/// What a wheel does with an entry that it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// The time has come.
    Wake,
    /// It was put off: enter it again under this tick.
    Again(u32),
    /// There is an earlier entry, or none is wanted.
    Stale,
}

impl Alarm {
    fn split(word: u64) -> (u32, u32) {
        ((word >> 32) as u32, word as u32)
    }

    fn join(wanted: u32, entered: u32) -> u64 {
        u64::from(wanted) << 32 | u64::from(entered)
    }

    /// Waits for `tick` from now on, at most to be entered under `latest`. Says under which tick to enter it, when it
    /// is not entered early enough.
    #[must_use]
    pub fn set(&self, tick: u32, latest: u32) -> Option<u32> {
        let mut new_entry = None;
        self.change(|_, entered| {
            let stands = entered != 0 && entered <= tick;
            new_entry = (!stands).then_some(tick.min(latest));
            (tick, new_entry.unwrap_or(entered))
        });
        new_entry
    }

    /// The entry under `tick` has been reached; if it is to be entered again, then under `latest` at most.
    pub fn ring(&self, tick: u32, latest: u32) -> Ring {
        let mut ring = Ring::Stale;
        self.change(|wanted, entered| {
            if entered != tick {
                ring = Ring::Stale;
                (wanted, entered)
            } else if wanted <= tick {
                ring = Ring::Wake;
                (0, 0)
            } else {
                let again = wanted.min(latest);
                ring = Ring::Again(again);
                (wanted, again)
            }
        });
        ring
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn change(&self, mut change: impl FnMut(u32, u32) -> (u32, u32)) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (wanted, entered) = Self::split(word);
            let (wanted, entered) = change(wanted, entered);
            let new = Self::join(wanted, entered);
            if new == word {
                return;
            }
            match self.0.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => word = found,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATEST: u32 = 100;

    #[test]
    fn an_alarm_is_entered_once_and_put_off_without_another_entry() {
        let alarm = Alarm::default();
        assert_eq!(alarm.set(10, LATEST), Some(10));
        assert_eq!(alarm.set(10, LATEST), None);
        assert_eq!(alarm.set(25, LATEST), None, "the entry at 10 will see to it");
        assert_eq!(alarm.ring(10, LATEST), Ring::Again(25));
        assert_eq!(alarm.ring(25, LATEST), Ring::Wake);
        assert_eq!(alarm.ring(25, LATEST), Ring::Stale, "nothing was set since");
    }

    #[test]
    fn an_earlier_alarm_makes_the_later_entry_stale() {
        let alarm = Alarm::default();
        assert_eq!(alarm.set(50, LATEST), Some(50));
        assert_eq!(alarm.set(20, LATEST), Some(20));
        assert_eq!(alarm.ring(20, LATEST), Ring::Wake);
        assert_eq!(alarm.set(70, LATEST), Some(70));
        assert_eq!(alarm.ring(50, LATEST), Ring::Stale);
        assert_eq!(alarm.ring(70, LATEST), Ring::Wake);
    }

    #[test]
    fn beyond_the_wheel_s_reach_an_alarm_goes_by_stages() {
        let alarm = Alarm::default();
        assert_eq!(alarm.set(250, 100), Some(100));
        assert_eq!(alarm.ring(100, 200), Ring::Again(200));
        assert_eq!(alarm.ring(200, 300), Ring::Again(250));
        assert_eq!(alarm.ring(250, 300), Ring::Wake);
    }

    #[test]
    fn a_cleared_alarm_rings_for_nobody() {
        let alarm = Alarm::default();
        assert_eq!(alarm.set(10, LATEST), Some(10));
        alarm.clear();
        assert_eq!(alarm.ring(10, LATEST), Ring::Stale);
    }
}
