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

    fn micros(self) -> i64 {
        i64::try_from(self.0 / 1_000).unwrap_or(i64::MAX)
    }

    /// This instant moved on by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos() as u64))
    }
}

/// The database's wall clock as this node knows it: its own boot clock plus an offset measured at every log read.
/// Not its own wall clock: a step of that one (NTP, an operator) would end or prolong every token until the next read.
#[derive(Debug)]
pub struct DatabaseClock {
    /// Microseconds since 1970 in the database when the boot clock stood at zero.
    epoch_micros: AtomicI64,
}

impl Default for DatabaseClock {
    /// Before the first measurement, what this machine's wall clock says.
    fn default() -> Self {
        Self { epoch_micros: AtomicI64::new(unix_micros(OffsetDateTime::now_utc()) - BootInstant::now().micros()) }
    }
}

impl DatabaseClock {
    /// The database's time now, as estimated.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        self.at(BootInstant::now())
    }

    /// The database's time at this instant, for whoever has read the clock already.
    #[must_use]
    pub fn at(&self, instant: BootInstant) -> OffsetDateTime {
        let micros = i128::from(self.micros_at(instant));
        OffsetDateTime::from_unix_timestamp_nanos(micros * 1_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// The same in whole seconds since 1970, the unit of JWT claims.
    #[must_use]
    pub fn now_unix(&self) -> i64 {
        self.micros_at(BootInstant::now()).div_euclid(1_000_000)
    }

    /// Takes a measurement: the database said `database_now` somewhere between `sent` and now.
    pub fn measure(&self, sent: BootInstant, database_now: OffsetDateTime) {
        let middle = sent.plus(BootInstant::now().since(sent) / 2);
        self.epoch_micros.store(unix_micros(database_now) - middle.micros(), Ordering::Relaxed);
    }

    /// Database time minus this machine's wall clock, in seconds. For gauges and `doctor`.
    #[must_use]
    pub fn offset_seconds(&self) -> f64 {
        (self.now() - OffsetDateTime::now_utc()).as_seconds_f64()
    }

    /// Microseconds since 1970 in the database at this instant.
    fn micros_at(&self, instant: BootInstant) -> i64 {
        self.epoch_micros.load(Ordering::Relaxed).saturating_add(instant.micros())
    }
}

fn unix_micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}
