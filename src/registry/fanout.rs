//! Who has been told something and is to be woken for it: in turns, so that ten thousand tasks that all want to say
//! goodbye do not stand before everybody else's in the runtime's queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Link;

/// Tasks woken in one turn. What else is ready gets its turn in between.
const TURN: usize = 16;

/// Bounded by the number of sockets: a link is here at most once for each thing it can be told.
#[derive(Default)]
pub(super) struct Fanout {
    told: Mutex<VecDeque<Arc<Link>>>,
    more: Notify,
}

impl Fanout {
    pub(super) fn tell(&self, links: impl IntoIterator<Item = Arc<Link>>) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).extend(links);
        self.more.notify_one();
    }

    /// Wakes them, for ever.
    pub(super) async fn wake(&self) {
        let mut turn = Vec::with_capacity(TURN);
        loop {
            {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                let most = told.len().min(TURN);
                turn.extend(told.drain(..most));
                if told.is_empty() {
                    // Nothing is kept of the largest fan-out.
                    *told = VecDeque::new();
                }
            }
            if turn.is_empty() {
                self.more.notified().await;
            } else {
                turn.drain(..).for_each(|link| link.wake());
                tokio::task::yield_now().await;
            }
        }
    }
}
