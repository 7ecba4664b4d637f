//! One socket's appointments behind a single timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::ids::ConnectionId;

/// What a socket waits for. `None` means that it does not.
pub(super) struct Timers {
    sleep: Pin<Box<Sleep>>,
    /// A good `connect` must have come.
    pub(super) connect: Option<Instant>,
    /// The next heartbeat.
    pub(super) heartbeat: Instant,
    /// The answer to the last one.
    pub(super) pong: Option<Instant>,
    /// The credential ends.
    pub(super) expiry: Option<Instant>,
    /// Another try to judge, with pushes waiting.
    pub(super) retry: Option<Instant>,
}

impl Timers {
    pub(super) fn new(heartbeat: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(heartbeat)),
            connect: None,
            heartbeat,
            pong: None,
            expiry: None,
            retry: None,
        }
    }

    fn earliest(&self) -> Instant {
        let others = [self.connect, self.pong, self.expiry, self.retry];
        others.into_iter().flatten().fold(self.heartbeat, Instant::min)
    }

    /// Ready when one of them is due.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let earliest = self.earliest();
        if self.sleep.deadline() != earliest {
            self.sleep.as_mut().reset(earliest);
        }
        self.sleep.as_mut().poll(cx)
    }
}

/// Whether this appointment has come; one that has is forgotten.
pub(super) fn take_due(appointment: &mut Option<Instant>, now: Instant) -> bool {
    let due = appointment.is_some_and(|at| at <= now);
    if due {
        *appointment = None;
    }
    due
}

/// When the first heartbeat goes out: half to a whole interval from now. Sockets that came together, after a restart
/// say, must not beat together for ever. A version 4 UUID is random enough to choose by.
pub(super) fn first_heartbeat(id: ConnectionId, interval: Duration) -> Instant {
    let share = f64::from(u32::try_from(id.0.as_u128() & 0xffff_ffff).unwrap_or(0)) / f64::from(u32::MAX);
    Instant::now() + interval.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_heartbeat_comes_in_the_second_half_of_the_interval() {
        let interval = Duration::from_secs(25);
        for _ in 0..1000 {
            let wait = first_heartbeat(ConnectionId::random(), interval).duration_since(Instant::now());
            assert!(wait > Duration::from_secs(12) && wait <= interval, "{wait:?}");
        }
    }
}
