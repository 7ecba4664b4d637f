//! One clock for all sockets: a wheel of slots, each a tick of a tenth of a second, that one task turns.
//!
//! A timer of the runtime for each socket would cost more memory than its frames do. An entry here is a pointer; an
//! appointment that is put off, as each answered heartbeat does, costs no second entry; and nothing here is early.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::registry::{Link, Ring};

/// Length of a tick, and how late an alarm may be.
const TICK: Duration = Duration::from_millis(100);
/// Two of the usual heartbeats' intervals; alarms further away go round again.
const SLOTS: u32 = 512;

/// A moment by the wheel: ticks since it was made, rounded up, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::socket) struct Tick(NonZeroU32);

impl Tick {
    /// The moment so much later.
    pub(in crate::socket) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(ticks(duration)))
    }

    /// Time since `earlier`, in whole ticks.
    pub(in crate::socket) fn since(self, earlier: Self) -> Duration {
        TICK * self.0.get().saturating_sub(earlier.0.get())
    }
}

fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
}

/// The wheel. Locks: one slot at a time, for as long as a push to it takes.
pub struct Wheel {
    started: Instant,
    /// The last tick whose slot was emptied.
    turned: AtomicU32,
    slots: Box<[Mutex<Vec<Arc<Link>>>]>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

impl Wheel {
    /// A wheel that stands still until somebody [`turn`](Self::turn)s it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            turned: AtomicU32::new(0),
            slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The last tick that has begun.
    pub(in crate::socket) fn now(&self) -> Tick {
        let begun = self.started.elapsed().as_millis() / TICK.as_millis();
        Tick(NonZeroU32::MIN.saturating_add(u32::try_from(begun).unwrap_or(u32::MAX)))
    }

    /// The first tick that begins after so much time.
    pub(in crate::socket) fn after(&self, duration: Duration) -> Tick {
        // One more, for what has passed of this one.
        self.now().after(duration).after(TICK)
    }

    /// Has the link woken at this tick, and not at the one that was set before.
    pub(in crate::socket) fn set(&self, link: &Arc<Link>, at: Tick) {
        let latest = self.turned.load(Ordering::Relaxed).saturating_add(SLOTS - 1);
        if let Some(tick) = link.alarm().set(at.0.get(), latest) {
            self.enter(link, tick);
        }
    }

    fn enter(&self, link: &Arc<Link>, tick: u32) {
        let mut slot = self.slot(tick).lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the slot's lock, as it is written: a slot that was emptied comes round much too late.
        if self.turned.load(Ordering::Relaxed) < tick {
            slot.push(Arc::clone(link));
            return;
        }
        drop(slot);
        self.reach(link, tick);
    }

    fn reach(&self, link: &Arc<Link>, tick: u32) {
        let latest = self.turned.load(Ordering::Relaxed).saturating_add(SLOTS - 1);
        match link.alarm().ring(tick, latest) {
            Ring::Wake => link.wake(),
            Ring::Again(later) => self.enter(link, later),
            Ring::Stale => {}
        }
    }

    fn slot(&self, tick: u32) -> &Mutex<Vec<Arc<Link>>> {
        &self.slots[(tick % SLOTS) as usize]
    }

    /// Wakes whoever is due, for ever.
    pub async fn turn(&self) {
        loop {
            let next = self.turned.load(Ordering::Relaxed) + 1;
            // A tick has begun one tick before its number is reached: they count from 1.
            sleep_until(self.started + TICK * (next - 1)).await;
            self.empty(next);
        }
    }

    fn empty(&self, tick: u32) {
        let due = {
            let mut slot = self.slot(tick).lock().unwrap_or_else(PoisonError::into_inner);
            self.turned.store(tick, Ordering::Relaxed);
            std::mem::take(&mut *slot)
        };
        due.iter().for_each(|link| self.reach(link, tick));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::client_address::Network;
    use crate::registry::{Limits, Registration, Registry};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn socket() -> (Registration, Arc<Woken>) {
        let limits = Limits {
            connections: 10,
            waiting: 10,
            connections_per_user: 10,
            connections_per_address: 10,
            outbox_bytes: 1000,
        };
        let address = Network::of(std::net::Ipv4Addr::LOCALHOST.into());
        let (socket, _) = Registry::new(limits).register(None, address).expect("room");
        let woken = Arc::new(Woken::default());
        socket.link().register_waker(&Waker::from(woken.clone()));
        (socket, woken)
    }

    fn tick(number: u32) -> Tick {
        Tick(number.try_into().expect("ticks count from 1"))
    }

    fn times(woken: &Woken) -> usize {
        woken.0.load(Ordering::Relaxed)
    }

    fn empty_until(wheel: &Wheel, tick: u32) {
        for tick in wheel.turned.load(Ordering::Relaxed) + 1..=tick {
            wheel.empty(tick);
        }
    }

    #[test]
    fn a_socket_is_woken_at_its_tick_and_not_before() {
        let (wheel, (socket, woken)) = (Wheel::new(), socket());
        wheel.set(socket.link(), tick(30));
        empty_until(&wheel, 29);
        assert_eq!(times(&woken), 0);
        empty_until(&wheel, 30);
        assert_eq!(times(&woken), 1);
        empty_until(&wheel, 2000);
        assert_eq!(times(&woken), 1, "once is enough");
    }

    #[test]
    fn an_appointment_may_lie_beyond_the_whole_wheel() {
        let (wheel, (socket, woken)) = (Wheel::new(), socket());
        wheel.set(socket.link(), tick(SLOTS * 3 + 7));
        empty_until(&wheel, SLOTS * 3 + 6);
        assert_eq!(times(&woken), 0);
        empty_until(&wheel, SLOTS * 3 + 7);
        assert_eq!(times(&woken), 1);
    }

    #[test]
    fn put_off_or_brought_forward_only_the_last_word_counts() {
        let (wheel, (socket, woken)) = (Wheel::new(), socket());
        wheel.set(socket.link(), tick(20));
        wheel.set(socket.link(), tick(40));
        empty_until(&wheel, 39);
        assert_eq!(times(&woken), 0);
        wheel.set(socket.link(), tick(60));
        wheel.set(socket.link(), tick(45));
        empty_until(&wheel, 45);
        assert_eq!(times(&woken), 1);
    }

    #[test]
    fn a_tick_that_has_passed_wakes_at_once() {
        let (wheel, (socket, woken)) = (Wheel::new(), socket());
        empty_until(&wheel, 50);
        wheel.set(socket.link(), tick(50));
        assert_eq!(times(&woken), 1);
    }

    #[test]
    fn a_socket_that_has_left_is_neither_woken_nor_kept() {
        let (wheel, (socket, woken)) = (Wheel::new(), socket());
        wheel.set(socket.link(), tick(5));
        drop(socket);
        assert_eq!(Arc::strong_count(&woken), 1, "its task may go at once");
        empty_until(&wheel, 5);
        assert_eq!(times(&woken), 0);
    }

    #[tokio::test]
    async fn time_turns_it_and_never_early() {
        let (wheel, (socket, woken)) = (Wheel::new(), socket());
        let (asked, wait) = (Instant::now(), Duration::from_millis(250));
        wheel.set(socket.link(), wheel.after(wait));
        let watching = async {
            while times(&woken) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = wheel.turn() => unreachable!("it turns for ever"),
            () = watching => assert!(asked.elapsed() >= wait, "{:?}", asked.elapsed()),
        }
    }
}
