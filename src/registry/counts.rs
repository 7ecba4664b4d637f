//! How many sockets a user or an address has on this node.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::Notify;

use crate::client_address::Network;
use crate::ids::UserId;

/// Whose sockets are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// One user's.
    User(UserId),
    /// One address's.
    Address(Network),
}

/// The place a socket took among those of its user and its address on this node: the first is 1. None where it took no
/// new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Among the user's.
    pub user: Option<(UserId, usize)>,
    /// Among the address's.
    pub address: Option<(Network, usize)>,
}

impl Standing {
    /// Both, one after the other.
    pub fn places(self) -> impl Iterator<Item = (Counted, usize)> {
        let user = self.user.map(|(user, place)| (Counted::User(user), place));
        let address = self.address.map(|(address, place)| (Counted::Address(address), place));
        user.into_iter().chain(address)
    }
}

/// Sockets by address.
#[derive(Default)]
pub(super) struct Addresses(DashMap<Network, usize>);

impl Addresses {
    /// Takes a place, if there are fewer than `limit`.
    pub(super) fn take(&self, address: Network, limit: usize) -> Option<usize> {
        let mut count = self.0.entry(address).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(*count)
    }

    /// Gives it back; says how many there were.
    pub(super) fn give_back(&self, address: Network) -> usize {
        let Entry::Occupied(mut entry) = self.0.entry(address) else { return 0 };
        let before = *entry.get();
        if before <= 1 {
            entry.remove();
        } else {
            *entry.get_mut() -= 1;
        }
        before
    }

    pub(super) fn count(&self, address: Network) -> usize {
        self.0.get(&address).map_or(0, |count| *count)
    }

    pub(super) fn at_least(&self, floor: usize) -> impl Iterator<Item = (Counted, usize)> {
        let large = self.0.iter().filter(move |entry| *entry.value() >= floor);
        large.map(|entry| (Counted::Address(*entry.key()), *entry.value()))
    }
}

/// Counts that have gone down and that somebody keeps a copy of. Nobody does below the floor, which is nowhere at first.
pub(super) struct Shrunk {
    pub(super) user_floor: AtomicUsize,
    pub(super) address_floor: AtomicUsize,
    /// Bounded by the sockets that close between two looks.
    whose: Mutex<HashSet<Counted>>,
    changed: Notify,
}

impl Default for Shrunk {
    fn default() -> Self {
        Self {
            user_floor: AtomicUsize::new(usize::MAX),
            address_floor: AtomicUsize::new(usize::MAX),
            whose: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Shrunk {
    pub(super) fn note(&self, counted: Counted, before: usize) {
        let floor = match counted {
            Counted::User(_) => &self.user_floor,
            Counted::Address(_) => &self.address_floor,
        };
        if before >= floor.load(Ordering::Relaxed) {
            self.whose.lock().unwrap_or_else(PoisonError::into_inner).insert(counted);
            self.changed.notify_one();
        }
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn take(&self) -> HashSet<Counted> {
        std::mem::take(&mut self.whose.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
