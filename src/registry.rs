//! The sockets on this node, by connection, session and user. No I/O.

use std::sync::Arc;

use crate::entry::LogEntry;
use crate::ids::UserId;

/// The sockets on this node.
#[derive(Clone)]
pub struct Registry(());

#[allow(unused_variables, clippy::todo)]
impl Registry {
    /// Applies an entry: every socket it concerns is marked closed at once (first reason wins) and told to leave.
    /// Returns how many. Never waits, never holds a lock across the fan-out.
    pub fn apply(&self, entry: &LogEntry) -> usize { todo!() }
    /// Whether this user has a socket here.
    pub fn has_user(&self, user_id: UserId) -> bool { todo!() }
    /// Queues a push (one JSON line) to every socket of the user. Each socket checks its principal before sending.
    pub fn push_to_user(&self, user_id: UserId, line: &Arc<str>) -> usize { todo!() }
    /// Asks every socket to look its principal up again: what was remembered is suspect.
    pub fn rejudge_all(&self) { todo!() }
    /// Live sockets.
    pub fn len(&self) -> usize { todo!() }
    /// No live sockets.
    pub fn is_empty(&self) -> bool { self.len() == 0 }
}
