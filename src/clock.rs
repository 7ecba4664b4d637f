//! Two clocks. `Instant` measures durations on this node and goes on while the machine sleeps; [`DatabaseClock`]
//! estimates the time of the database, in which every credential is made and judged.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;

/// Nanoseconds of `CLOCK_BOOTTIME`. Unlike `std::time::Instant` it counts suspended time, so a node that was stopped
/// with its machine knows that its knowledge is old.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct BootInstant(pub u64);

impl BootInstant {
    /// Reads the clock.
    #[must_use]
    pub fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self((t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved on by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos() as u64))
    }
}

/// The database's wall clock as this node knows it: its own clock plus an offset measured at every log read.
#[derive(Debug, Default)]
pub struct DatabaseClock {
    offset_micros: AtomicI64,
}

impl DatabaseClock {
    /// The database's time now, as estimated.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + time::Duration::microseconds(self.offset_micros.load(Ordering::Relaxed))
    }

    /// The same in whole seconds since 1970, the unit of JWT claims.
    #[must_use]
    pub fn now_unix(&self) -> i64 {
        self.now().unix_timestamp()
    }

    /// Takes a measurement: the database said `database_now` somewhere between `sent` and now, by the local wall clock.
    pub fn measure(&self, sent: OffsetDateTime, database_now: OffsetDateTime) {
        let received = OffsetDateTime::now_utc();
        let round_trip: time::Duration = received - sent;
        let offset: time::Duration = database_now - (sent + round_trip / 2);
        let offset = offset.whole_microseconds();
        self.offset_micros.store(offset as i64, Ordering::Relaxed);
    }

    /// Database time minus local time, in seconds. For gauges and `doctor`.
    #[must_use]
    pub fn offset_seconds(&self) -> f64 {
        self.offset_micros.load(Ordering::Relaxed) as f64 / 1e6
    }
}
