//! End a credential everywhere; and what to do when one is heard of.
//!
//! The sentence that joins store, freshness, cache, registry and bus. Outgoing: commit, apply here, publish, answer.
//! Incoming, from either carrier: mark G, forget local entries, close sockets, forget in Redis: in this order.

use std::time::Duration;

use crate::ids::{Sid, UserId};
use crate::store::{ListedToken, PasswordOutcome, ProfileChange, ProfileOutcome, Revoked, StoreResult};

/// What the nodes said to `Prefer: wait`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// Sockets closed, on all nodes that confirmed.
    pub sockets_closed: u64,
    /// Nodes that confirmed.
    pub nodes_confirmed: u64,
    /// Nodes that are alive.
    pub nodes_live: u64,
}

/// Ends credentials.
#[derive(Clone)]
pub struct Revoker(());

#[allow(unused_variables, clippy::todo)]
impl Revoker {
    /// Logs one session out (4500) and lists the token that asked, if one did.
    pub async fn log_out(&self, sid: Sid, user_id: UserId, token: Option<ListedToken>) -> StoreResult<Revoked> { todo!() }
    /// Ends every session of the user (4501). With `wait`, until the live nodes have confirmed or the time is over.
    pub async fn log_out_everywhere(&self, user_id: UserId, wait: Option<Duration>) -> StoreResult<(Revoked, Option<Confirmation>)> { todo!() }
    /// Ends another session of the same user (4502).
    pub async fn end_session(&self, sid: Sid, user_id: UserId) -> StoreResult<Revoked> { todo!() }
    /// Changes the password; every session but `keep` ends (4504).
    pub async fn change_password(&self, user_id: UserId, keep: Sid, verified_hash: &str, new_hash: &str) -> StoreResult<PasswordOutcome> { todo!() }
    /// Changes the profile; caches on every node follow, open sockets are told.
    pub async fn update_profile(&self, user_id: UserId, change: ProfileChange) -> StoreResult<ProfileOutcome> { todo!() }
}
