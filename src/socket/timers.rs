//! One socket's appointments.

mod wheel;

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::ids::ConnectionId;
use crate::registry::Link;

pub(super) use wheel::Tick;
pub use wheel::Wheel;

/// What a socket waits for. `None` means that it does not.
pub(super) struct Timers {
    /// A good `connect` must have come.
    pub(super) connect: Option<Tick>,
    /// The next heartbeat.
    pub(super) heartbeat: Tick,
    /// The answer to the last one.
    pub(super) pong: Option<Tick>,
    /// The credential ends.
    pub(super) expiry: Option<Tick>,
    /// Another try to judge, with pushes waiting.
    pub(super) retry: Option<Tick>,
}

impl Timers {
    pub(super) fn new(heartbeat: Tick) -> Self {
        Self { connect: None, heartbeat, pong: None, expiry: None, retry: None }
    }

    fn earliest(&self) -> Tick {
        let others = [self.connect, self.pong, self.expiry, self.retry];
        others.into_iter().flatten().fold(self.heartbeat, Tick::min)
    }

    /// Ready when one of them is due. Otherwise the link's waker is called when it is.
    pub(super) fn poll_due(&self, wheel: &Wheel, link: &Arc<Link>) -> Poll<()> {
        let earliest = self.earliest();
        if wheel.now() >= earliest {
            return Poll::Ready(());
        }
        wheel.set(link, earliest);
        Poll::Pending
    }
}

/// Whether this appointment has come; one that has is forgotten.
pub(super) fn take_due(appointment: &mut Option<Tick>, now: Tick) -> bool {
    let due = appointment.is_some_and(|at| at <= now);
    if due {
        *appointment = None;
    }
    due
}

/// How long the first heartbeat waits: half to a whole interval. Sockets that came together, after a restart say, must
/// not beat together for ever. A version 4 UUID is random enough to choose by.
pub(super) fn first_heartbeat(id: ConnectionId, interval: Duration) -> Duration {
    let share = f64::from(u32::try_from(id.0.as_u128() & 0xffff_ffff).unwrap_or(0)) / f64::from(u32::MAX);
    interval.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_heartbeat_comes_in_the_second_half_of_the_interval() {
        let interval = Duration::from_secs(25);
        for _ in 0..1000 {
            let wait = first_heartbeat(ConnectionId::random(), interval);
            assert!(wait > Duration::from_secs(12) && wait <= interval, "{wait:?}");
        }
    }
}
