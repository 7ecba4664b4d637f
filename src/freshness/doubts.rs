//! Revocations of which nobody knows whether they committed: the database went away in the middle of `COMMIT`.
//!
//! Nothing may be believed of whom they concern until the log shows how it ended; everybody else goes on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use uuid::Uuid;

use crate::clock::BootInstant;
use crate::entry::Position;

/// Ids in doubt at a time. When there are more, everybody is.
const MOST: usize = 1 << 16;

/// Who is in doubt. Costs one atomic read while nobody is.
#[derive(Default)]
pub(super) struct Doubts {
    any: AtomicBool,
    held: RwLock<Held>,
}

#[derive(Default)]
struct Held {
    by_id: HashMap<Uuid, Doubt>,
    everybody: Option<Doubt>,
}

#[derive(Clone, Copy)]
struct Doubt {
    /// Of the transaction.
    position: Position,
    since: BootInstant,
}

impl Doubts {
    /// A transaction that would revoke something of these ids may have committed, or may yet.
    pub(super) fn raise(&self, ids: &[Uuid], position: Position) {
        let doubt = Doubt { position, since: BootInstant::now() };
        let later = |known: &mut Doubt| *known = Doubt { position: known.position.max(position), ..doubt };
        let mut held = self.write();
        for &id in ids {
            if held.by_id.len() < MOST || held.by_id.contains_key(&id) {
                held.by_id.entry(id).and_modify(later).or_insert(doubt);
            } else {
                held.everybody = Some(Doubt {
                    position: held.everybody.map_or(position, |known| known.position.max(position)),
                    ..doubt
                });
            }
        }
        self.any.store(!held.is_empty(), Ordering::SeqCst);
    }

    /// The entry of that transaction has come, and has been marked.
    pub(super) fn settle(&self, id: Uuid, position: Position) {
        if self.any.load(Ordering::SeqCst) {
            let mut held = self.write();
            held.by_id.retain(|&known, doubt| known != id || doubt.position != position);
            self.any.store(!held.is_empty(), Ordering::SeqCst);
        }
    }

    /// A complete log read, sent at `sent_at`, has been applied: transactions below `position` were over by then, and
    /// what they logged is marked.
    pub(super) fn settle_below(&self, position: Position, sent_at: BootInstant) {
        if self.any.load(Ordering::SeqCst) {
            let stays = |doubt: &Doubt| doubt.position >= position || doubt.since >= sent_at;
            let mut held = self.write();
            held.by_id.retain(|_, doubt| stays(doubt));
            held.everybody = held.everybody.filter(stays);
            self.any.store(!held.is_empty(), Ordering::SeqCst);
        }
    }

    /// Whether anything of these is in doubt.
    pub(super) fn concern(&self, ids: &[Uuid]) -> bool {
        self.any.load(Ordering::SeqCst) && {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            held.everybody.is_some() || ids.iter().any(|id| held.by_id.contains_key(id))
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.everybody.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_lasts_until_a_read_that_began_later_is_beyond_its_transaction() {
        let (doubts, id) = (Doubts::default(), Uuid::new_v4());
        let before = BootInstant::now();
        doubts.raise(&[id], 40);
        let after = BootInstant::now();
        assert!(doubts.concern(&[Uuid::new_v4(), id]) && !doubts.concern(&[Uuid::new_v4()]));
        doubts.settle_below(41, before);
        assert!(doubts.concern(&[id]), "what was read before says nothing");
        doubts.settle_below(40, after);
        assert!(doubts.concern(&[id]), "the transaction may still commit");
        doubts.settle_below(41, after);
        assert!(!doubts.concern(&[id]));
    }

    #[test]
    fn the_entry_itself_settles_its_own_doubt_alone() {
        let (doubts, id) = (Doubts::default(), Uuid::new_v4());
        doubts.raise(&[id], 40);
        doubts.settle(id, 39);
        assert!(doubts.concern(&[id]));
        doubts.settle(id, 40);
        assert!(!doubts.concern(&[id]));
    }

    #[test]
    fn too_many_are_everybody() {
        let doubts = Doubts::default();
        let ids: Vec<_> = (0..=MOST).map(|_| Uuid::new_v4()).collect();
        doubts.raise(&ids, 40);
        assert!(doubts.concern(&[Uuid::new_v4()]));
        doubts.settle_below(41, BootInstant::now());
        assert!(!doubts.concern(&ids));
    }
}
