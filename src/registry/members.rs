//! The sockets of one user on this node.

use std::collections::HashMap;
use std::sync::Arc;

use super::Link;
use crate::ids::ConnectionId;

/// The sockets of one user. Nearly everybody has one.
pub(super) enum Members {
    One(Arc<Link>),
    Many(HashMap<ConnectionId, Arc<Link>>),
}

impl Members {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(links) => links.len(),
        }
    }

    pub(super) fn to_vec(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(link) => vec![Arc::clone(link)],
            Self::Many(links) => links.values().cloned().collect(),
        }
    }

    pub(super) fn insert(&mut self, link: Arc<Link>) {
        match self {
            Self::One(first) => *self = Self::Many([(first.id(), Arc::clone(first)), (link.id(), link)].into()),
            Self::Many(links) => {
                links.insert(link.id(), link);
            }
        }
    }

    /// Says whether nobody is left.
    pub(super) fn remove(&mut self, id: ConnectionId) -> bool {
        match self {
            Self::One(link) => link.id() == id,
            Self::Many(links) => {
                links.remove(&id);
                links.is_empty()
            }
        }
    }
}
