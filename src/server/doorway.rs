//! Room for connections that are no sockets yet. When it is full, the one that has asked for nothing for the longest
//! gives way: however many hold the door without a word, or send theirs byte by byte, whoever comes next is heard.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ::metrics::counter;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::metrics::LIMITS_REACHED;

/// Visits that may be remembered although they have gone.
const SPARE: usize = 64;

/// The room.
pub(super) struct Doorway {
    most: usize,
    places: Arc<Semaphore>,
    /// Oldest first. Those that have left are taken out in passing.
    visits: Mutex<VecDeque<Weak<Visit>>>,
}

/// One connection that speaks HTTP. Its place is free again when it is dropped.
pub(super) struct Visit {
    _place: OwnedSemaphorePermit,
    /// Has asked for something since somebody looked for a place.
    asked: AtomicBool,
    give_way: Notify,
}

impl Visit {
    /// A request's head has arrived.
    pub(super) fn asks(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Ready when this connection is to end.
    pub(super) async fn gives_way(&self) {
        self.give_way.notified().await;
    }
}

impl Doorway {
    /// Room for so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, places: Arc::new(Semaphore::new(most)), visits: Mutex::default() }
    }

    /// A place for one more; none when the node stops meanwhile.
    pub(super) async fn enter(&self) -> Option<Arc<Visit>> {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.make_room();
                Arc::clone(&self.places).acquire_owned().await.ok()?
            }
        };
        let visit = Arc::new(Visit { _place: place, asked: AtomicBool::new(false), give_way: Notify::new() });
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        // What is left of those that have gone is never more than of those that are here.
        if visits.len() > 2 * (self.most - self.places.available_permits().min(self.most)) + SPARE {
            visits.retain(|visit| visit.strong_count() > 0);
        }
        visits.push_back(Arc::downgrade(&visit));
        Some(visit)
    }

    /// Sends the oldest away. Whoever has asked for something since the last time is passed over once.
    fn make_room(&self) {
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        // Twice round at the most: after the first time nobody has asked.
        for _ in 0..2 * visits.len() {
            let Some(oldest) = visits.pop_front() else { return };
            let Some(visit) = oldest.upgrade() else { continue };
            if visit.asked.swap(false, Ordering::Relaxed) {
                visits.push_back(oldest);
            } else {
                visit.give_way.notify_one();
                counter!(LIMITS_REACHED, "limit" => "http_connections").increment(1);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn gave_way(visit: &Visit) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(20), visit.gives_way()).await.is_ok()
    }

    #[tokio::test]
    async fn the_oldest_that_has_asked_for_nothing_gives_way() {
        let doorway = Arc::new(Doorway::new(3));
        let mut visits = Vec::new();
        for _ in 0..3 {
            visits.push(doorway.enter().await.expect("room"));
        }
        visits[0].asks();
        let newcomer = tokio::spawn({
            let doorway = Arc::clone(&doorway);
            async move { doorway.enter().await }
        });
        assert!(gave_way(&visits[1]).await);
        assert!(!gave_way(&visits[0]).await && !gave_way(&visits[2]).await);
        drop(visits.remove(1));
        assert!(newcomer.await.expect("the newcomer").is_some());
    }

    #[tokio::test]
    async fn those_that_left_take_no_room() {
        let doorway = Doorway::new(2);
        for _ in 0..100 {
            doorway.enter().await.expect("room");
        }
        assert!(doorway.visits.lock().unwrap().len() <= SPARE + 3);
    }
}
