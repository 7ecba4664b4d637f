//! What the operator's side asks of the store: accounts and sessions of anybody, the trail, keys of the admin API, and the
//! outbox of webhooks. Attributed transactions write the operator's action down in the same transaction (`attribution`).

pub(super) mod rows;
mod types;

use std::time::Duration;

use time::OffsetDateTime;

use super::{Backend, SWEEP_LIMIT, Store, StoreResult, within};
use crate::ids::{AdminKeyId, Sid};
use crate::secret::SecretHash;

pub use types::*;

impl Store {
    // Keys of the admin API

    /// Adds a key. Only its hash is stored.
    pub async fn create_admin_key(&self, key: NewAdminKey) -> StoreResult<AdminKey> {
        ask!(self, create_admin_key(&key))?.ok_or_else(|| super::StoreError::Corrupt("a new key is not there".into()))
    }

    /// The key with this hash, good or not; notes its use.
    pub async fn admin_key(&self, hash: SecretHash) -> StoreResult<Option<AdminKey>> {
        ask!(self, admin_key(hash))
    }

    /// The newest 500 keys.
    pub async fn admin_keys(&self) -> StoreResult<Vec<AdminKey>> {
        ask!(self, admin_keys())
    }

    /// Ends a key. False when there is none such, or it was revoked before.
    pub async fn revoke_admin_key(&self, id: AdminKeyId) -> StoreResult<bool> {
        ask!(self, revoke_admin_key(id))
    }

    /// Adds `next` with the name and scopes of `id`, which ends after `overlap`. `None` when that one is not good.
    pub async fn rotate_admin_key(
        &self,
        id: AdminKeyId,
        overlap: Duration,
        next: NewAdminKey,
    ) -> StoreResult<Option<AdminKey>> {
        ask!(self, rotate_admin_key(id, overlap, &next))
    }

    // People

    /// Accounts in the order of their addresses, from after the one named.
    pub async fn find_users(&self, query: UserQuery) -> StoreResult<Vec<Account>> {
        ask!(self, find_users(&query))
    }

    /// Sessions, live and ended, newest use first, at most 500: of a user, or the one with this handle.
    pub async fn session_summaries(&self, of: SessionsOf) -> StoreResult<Vec<SessionSummary>> {
        let (user_id, sid) = match of {
            SessionsOf::User(user_id) => (Some(user_id), None),
            SessionsOf::Handle(sid) => (None, Some(sid)),
        };
        ask!(self, summaries(user_id, sid))
    }

    /// Ends at most `batch` live sessions that began before `before`, of whomever, in the order of their handles from
    /// after `after`. One log entry names them all. Sessions that another transaction holds are passed over.
    pub async fn end_sessions_before(
        &self,
        before: OffsetDateTime,
        after: Option<Sid>,
        batch: u32,
    ) -> StoreResult<MassEnd> {
        ask!(self, end_sessions_before(before, after, batch))
    }

    /// Whether such sessions are left, and the database's time.
    pub async fn remaining_before(&self, before: OffsetDateTime) -> StoreResult<Remaining> {
        ask!(self, remaining_before(before))
    }

    // The trail

    /// Writes down the action of the attribution around this call, and nothing else.
    pub async fn note_action(&self) -> StoreResult<()> {
        ask!(self, note_only())
    }

    /// Writes down what was counted elsewhere, such as failed logins.
    pub async fn note_audit(&self, notes: &[AuditNote]) -> StoreResult<()> {
        ask!(self, note(notes))
    }

    /// A page of the trail, newest first.
    pub async fn audit_page(&self, query: AuditQuery) -> StoreResult<Vec<AuditEntry>> {
        ask!(self, audit_page(&query))
    }

    /// Counts without names, over the last `window` in steps of `step`.
    pub async fn statistics(&self, window: Duration, step: Duration) -> StoreResult<Statistics> {
        ask!(self, statistics(window, step))
    }

    // Webhooks

    /// Says which receivers there are, by the hashes of their URLs: from now on the outbox is filled for them.
    pub async fn register_targets(&self, targets: &[String]) -> StoreResult<()> {
        ask!(self, register_targets(targets))
    }

    /// Takes at most `batch` events that are due for a receiver. Nobody else gets them until `lease` is over.
    pub async fn claim_events(&self, target: &str, lease: Duration, batch: u32) -> StoreResult<Vec<OutboxEvent>> {
        ask!(self, claim_events(target, lease, batch))
    }

    /// The receiver has it.
    pub async fn event_delivered(&self, id: u64) -> StoreResult<()> {
        ask!(self, event_delivered(id))
    }

    /// The receiver does not have it: again later, or never when it has been tried for `give_up_after`; true then.
    pub async fn event_failed(
        &self,
        event: &OutboxEvent,
        error: &str,
        again_in: Duration,
        give_up_after: Duration,
    ) -> StoreResult<bool> {
        ask!(self, event_failed(event, error, again_in, give_up_after))
    }

    /// A page of what is not delivered, newest first.
    pub async fn outbox_page(
        &self,
        before: Option<u64>,
        limit: u32,
        given_up_only: bool,
    ) -> StoreResult<Vec<OutboxEvent>> {
        ask!(self, outbox_page(before, limit, given_up_only))
    }

    /// Tries what was given up again: one event, or (at most a thousand of) all. How many.
    pub async fn retry_events(&self, id: Option<u64>) -> StoreResult<u64> {
        ask!(self, retry_events(id))
    }

    /// One bounded pass over what is older than `age`; how many rows of the kind that had most. Call again while that is
    /// `batch`.
    pub async fn sweep_operating(&self, age: Duration, batch: u32) -> StoreResult<u64> {
        ask!(self, SWEEP_LIMIT, sweep_operating(age, batch))
    }
}

/// What every string with this prefix is below of, in the order of bytes.
pub(super) fn prefix_end(prefix: &str) -> String {
    format!("{prefix}\u{10ffff}")
}

pub(super) fn to_page(rows: Vec<rows::AccountRow>) -> Vec<Account> {
    rows.into_iter().map(Account::from).collect()
}
