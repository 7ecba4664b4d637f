//! End a credential everywhere; and what to do when one is heard of.
//!
//! The sentence that joins store, freshness, cache, registry and bus. Outgoing: commit, apply here, publish, answer.
//! Incoming, from either carrier: mark G, forget local entries, close sockets, forget in Redis: in this order.

mod apply;
mod follow;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::bus::{Announced, Bus};
use crate::cache::marked_by;
use crate::entry::{EndReason, LogEntry};
use crate::ids::{Sid, UserId};
use crate::store::attribution::{self, inherited};
use crate::store::before_commit::{BeforeCommit, before_commit};
use crate::store::{
    EmailOutcome, Fingerprint, ListedToken, MassEnd, NewSecret, PasswordOutcome, ProfileChange, ProfileOutcome,
    RemovalOutcome, Revoked, RotationOutcome, Store, StoreError, StoreResult,
};
pub use apply::{Applier, ApplierParts};
pub use follow::follow_log;

/// Most bytes of a user's metadata, as JSON text.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;

/// How long a revocation waits for Redis before it is answered anyway.
const PUBLISH_WITHIN: Duration = Duration::from_millis(50);

/// How often `Prefer: wait` looks for confirmations.
const CONFIRMATION_POLL: Duration = Duration::from_millis(20);

/// A node that has not said so for longer is not counted as alive.
pub const NODE_ALIVE_WITHIN: Duration = Duration::from_secs(6);

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
pub struct Revoker {
    store: Store,
    applier: Arc<Applier>,
    bus: Option<Arc<Bus>>,
    tasks: TaskTracker,
}

impl Revoker {
    /// Joins the parts. `tasks` keeps a node that stops from cutting a revocation in two.
    #[must_use]
    pub fn new(store: Store, applier: Arc<Applier>, bus: Option<Arc<Bus>>, tasks: TaskTracker) -> Self {
        Self { store, applier, bus, tasks }
    }

    /// Logs one session out (4500) and lists the token that asked, if one did.
    ///
    /// # Errors
    /// [`StoreError`]; it may have taken effect, and repeating it is safe. So for everything here.
    pub async fn log_out(&self, sid: Sid, user_id: UserId, token: Option<ListedToken>) -> StoreResult<Revoked> {
        self.run(async move |store| store.end_session(sid, user_id, EndReason::LoggedOut, token).await).await
    }

    /// Ends every session of the user (4501). With `wait`, until the live nodes have confirmed or the time is over.
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn log_out_everywhere(
        &self,
        user_id: UserId,
        wait: Option<Duration>,
    ) -> StoreResult<(Revoked, Option<Confirmation>)> {
        let confirm = wait.is_some();
        let reason = EndReason::LoggedOutEverywhere;
        let revoked = self.run(async move |store| store.end_all_sessions(user_id, reason, confirm).await).await?;
        let confirmation = match (wait, revoked.entries.iter().find(|entry| entry.confirm)) {
            (Some(wait), Some(entry)) => Some(self.confirmations(entry.id, wait).await),
            _ => None,
        };
        Ok((revoked, confirmation))
    }

    /// Ends another session of the same user (4502).
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn end_session(&self, sid: Sid, user_id: UserId) -> StoreResult<Revoked> {
        self.run(async move |store| store.end_session(sid, user_id, EndReason::Revoked, None).await).await
    }

    /// Ends a session one of whose spent secrets was shown again (4502).
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn end_replayed(&self, sid: Sid, user_id: UserId) -> StoreResult<Revoked> {
        self.run(async move |store| store.end_session(sid, user_id, EndReason::SecretReplayed, None).await).await
    }

    /// Gives a session a new secret; what the nodes remember of the session is old then. Given up after `limit`, so that
    /// a database which comes back does not carry out what nobody was told of.
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn rotate_secret(&self, secret: NewSecret, limit: Duration) -> StoreResult<RotationOutcome> {
        let rotate = async move |store: Store| {
            let rotating = tokio::time::timeout(limit, store.rotate_secret(secret)).await;
            rotating.unwrap_or_else(|_| Err(StoreError::Unavailable("no rotation in time".into())))
        };
        self.run(rotate).await
    }

    /// Writes down that a session was used from elsewhere; with `adopt` it is at home there from now on.
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn note_fingerprint(&self, sid: Sid, seen: Fingerprint, adopt: bool) -> StoreResult<()> {
        self.run(async move |store| store.note_fingerprint(sid, &seen, adopt).await).await.map(drop)
    }

    /// Changes the e-mail address; caches on every node follow, open sockets are told.
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn change_email(&self, user_id: UserId, verified_hash: &str, email: String) -> StoreResult<EmailOutcome> {
        let verified_hash = verified_hash.to_owned();
        self.run(async move |store| store.change_email(user_id, &verified_hash, &email).await).await
    }

    /// Removes an account at its owner's wish; every session ends (4503).
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn remove_own_account(&self, user_id: UserId, verified_hash: &str) -> StoreResult<RemovalOutcome> {
        let verified_hash = verified_hash.to_owned();
        self.run(async move |store| store.remove_own_account(user_id, &verified_hash).await).await
    }

    /// Changes the password; every session but `keep` ends (4504).
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn change_password(
        &self,
        user_id: UserId,
        keep: Sid,
        verified_hash: &str,
        new_hash: &str,
    ) -> StoreResult<PasswordOutcome> {
        let (verified_hash, new_hash) = (verified_hash.to_owned(), new_hash.to_owned());
        self.run(async move |store| store.change_password(user_id, keep, &verified_hash, &new_hash).await).await
    }

    /// Changes the profile; caches on every node follow, open sockets are told.
    ///
    /// # Errors
    /// As [`log_out`](Self::log_out).
    pub async fn update_profile(&self, user_id: UserId, change: ProfileChange) -> StoreResult<ProfileOutcome> {
        self.run(async move |store| store.update_profile(user_id, change, MAX_METADATA_BYTES).await).await
    }

    /// Commit (announced right before), apply here, publish. In a task of its own, so that a client who goes away in the middle leaves no
    /// revocation committed but not applied.
    pub(crate) async fn run<T, F, Fut>(&self, transaction: F) -> StoreResult<T>
    where
        T: Logged + Send + 'static,
        F: FnOnce(Store) -> Fut + Send + 'static,
        Fut: Future<Output = StoreResult<T>> + Send,
    {
        let this = self.clone();
        let attribution = attribution::current();
        let task = self.tasks.spawn(inherited(attribution, async move {
            let (outcome, announced) = this.commit(transaction(this.store.clone())).await;
            if outcome.is_err() {
                this.doubt(announced).await;
                return outcome;
            }
            let entries = outcome.as_ref().map_or(&[][..], Logged::entries);
            // Own sockets close first, whatever Redis does.
            this.applier.apply(entries);
            if let Some((announced, _)) = announced {
                // A failed PUBLISH does not hold the answer: every node reads the log.
                let _ = tokio::time::timeout(PUBLISH_WITHIN, announced.publish(entries)).await;
            }
            this.forget_in_redis(entries);
            outcome
        }));
        task.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the node is stopping".into())))
    }

    /// Runs a transaction, which is announced on the bus right before it commits.
    async fn commit<T>(&self, transaction: impl Future<Output = T>) -> (T, Option<(Announced, Vec<LogEntry>)>) {
        let Some(bus) = self.bus.clone() else { return (transaction.await, None) };
        let slot = Arc::new(Mutex::new(None));
        let announce: BeforeCommit = {
            let slot = slot.clone();
            Arc::new(move |logged| {
                let (bus, slot) = (bus.clone(), slot.clone());
                Box::pin(async move {
                    let announced = bus.announce().await;
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((announced, logged));
                })
            })
        };
        let outcome = before_commit(announce, transaction).await;
        let announced = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        (outcome, announced)
    }

    /// The transaction was about to commit, and failed: it may have taken effect all the same. Whoever asks again may be
    /// told so, from a read, before any node has heard of the entry; so it is said now whom it concerns.
    async fn doubt(&self, announced: Option<(Announced, Vec<LogEntry>)>) {
        let Some((announced, logged)) = announced else { return };
        let revoking: Vec<_> = logged.iter().filter(|entry| entry.scope.revocation_kind().is_some()).collect();
        let about: Vec<_> = revoking.iter().flat_map(|entry| marked_by(&entry.scope)).collect();
        let Some(position) = revoking.iter().map(|entry| entry.position).max() else {
            let _ = tokio::time::timeout(PUBLISH_WITHIN, announced.publish(&[])).await;
            return;
        };
        self.applier.doubt(&about, position);
        let _ = tokio::time::timeout(PUBLISH_WITHIN, announced.publish_doubt(&about, position)).await;
        let freshness = self.applier.parts().freshness.clone();
        // None of the node's tasks: a node that stops does not wait for its database.
        tokio::spawn(async move {
            freshness.until_settled(&about).await;
            drop(announced);
        });
    }

    /// Only saves other nodes a look at what the check refuses anyway: nobody waits for it.
    fn forget_in_redis(&self, entries: &[LogEntry]) {
        if !entries.is_empty() {
            let (applier, entries) = (self.applier.clone(), entries.to_vec());
            self.tasks.spawn(async move { applier.forget_in_redis(&entries).await });
        }
    }

    async fn confirmations(&self, entry_id: u64, wait: Duration) -> Confirmation {
        let deadline = tokio::time::Instant::now() + wait;
        let mut confirmation = Confirmation::default();
        loop {
            if let Ok(latest) = self.count_confirmations(entry_id).await {
                confirmation = latest;
            }
            let complete = confirmation.nodes_live > 0 && confirmation.nodes_confirmed >= confirmation.nodes_live;
            if complete || tokio::time::Instant::now() >= deadline {
                return confirmation;
            }
            tokio::time::sleep(CONFIRMATION_POLL).await;
        }
    }

    async fn count_confirmations(&self, entry_id: u64) -> StoreResult<Confirmation> {
        let live = self.store.live_nodes(NODE_ALIVE_WITHIN).await?;
        let confirmed = self.store.acknowledgements(entry_id).await?;
        let of_live = |node| live.iter().any(|alive| alive.node == node);
        Ok(Confirmation {
            sockets_closed: confirmed.iter().map(|&(_, closed)| closed).sum(),
            nodes_confirmed: confirmed.iter().filter(|&&(node, _)| of_live(node)).count() as u64,
            nodes_live: live.len() as u64,
        })
    }
}

/// An outcome that knows what its transaction logged.
pub(crate) trait Logged {
    /// In the order of their ids.
    fn entries(&self) -> &[LogEntry];
}

impl Logged for MassEnd {
    fn entries(&self) -> &[LogEntry] {
        &self.revoked.entries
    }
}

impl Logged for Revoked {
    fn entries(&self) -> &[LogEntry] {
        &self.entries
    }
}

impl Logged for PasswordOutcome {
    fn entries(&self) -> &[LogEntry] {
        match self {
            Self::Changed { entries } => entries,
            Self::Superseded => &[],
        }
    }
}

impl Logged for EmailOutcome {
    fn entries(&self) -> &[LogEntry] {
        match self {
            Self::Changed { entries, .. } => entries,
            Self::Taken | Self::Superseded => &[],
        }
    }
}

impl Logged for RemovalOutcome {
    fn entries(&self) -> &[LogEntry] {
        match self {
            Self::Removed(revoked) => &revoked.entries,
            Self::Superseded => &[],
        }
    }
}

impl Logged for RotationOutcome {
    fn entries(&self) -> &[LogEntry] {
        &self.entries
    }
}

impl Logged for Vec<LogEntry> {
    fn entries(&self) -> &[LogEntry] {
        self
    }
}

impl Logged for ProfileOutcome {
    fn entries(&self) -> &[LogEntry] {
        match self {
            Self::Updated { entries, .. } => entries,
            Self::MetadataTooLarge | Self::NotFound => &[],
        }
    }
}
