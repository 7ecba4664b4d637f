//! What a node does with an entry, whichever carrier brought it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::cache::{Cache, marked_by};
use crate::entry::{LogEntry, Position, Scope};
use crate::freshness::Freshness;
use crate::ids::{NodeId, UserId};
use crate::metrics;
use crate::registry::Registry;
use crate::store::Store;
use crate::token::key_set::KeySet;
use crate::token::keys::VerifyingKey;

/// Entries remembered as applied. An entry that comes again after longer is applied again, which changes nothing.
const REMEMBERED: usize = 1 << 16;

/// Users whose sockets wait to be told of a change. More are dropped: the next read of the profile shows it anyway.
const ANNOUNCEMENTS: usize = 4096;

/// Users read in one statement to be announced.
const ANNOUNCEMENT_BATCH: usize = 200;

/// What an [`Applier`] is made of.
pub struct ApplierParts {
    /// This process.
    pub node: NodeId,
    /// To confirm entries and to read changed profiles.
    pub store: Store,
    /// G and H.
    pub freshness: Arc<Freshness>,
    /// Both tiers.
    pub cache: Arc<Cache>,
    /// The sockets.
    pub registry: Registry,
    /// The keys.
    pub keys: Arc<KeySet>,
    /// Where confirmations run.
    pub tasks: TaskTracker,
}

/// Applies entries, each once.
pub struct Applier {
    parts: ApplierParts,
    applied: Mutex<Remembered>,
    changed_users: mpsc::Sender<UserId>,
}

#[derive(Default)]
struct Remembered {
    ids: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Applier {
    /// The applier and the task that tells sockets of changed profiles.
    pub fn new(parts: ApplierParts) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (changed_users, queue) = mpsc::channel(ANNOUNCEMENTS);
        let announcer = announce(parts.store.clone(), parts.registry.clone(), queue);
        (Arc::new(Self { parts, applied: Mutex::default(), changed_users }), announcer)
    }

    /// Applies entries to this node: G for all, local entries for all, then keys and sockets. Never waits.
    ///
    /// The order protects the promise: whoever misses the closed socket or the dropped entry meets the mark. The two
    /// carriers take turns, so that an entry which one of them skips has been applied in full by the other.
    /// Returns the entries that were new here.
    pub fn apply(&self, entries: &[LogEntry]) -> Vec<LogEntry> {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<_> = entries.iter().filter(|entry| !applied.ids.contains(&entry.id)).collect();
        for entry in &new {
            marked_by(&entry.scope).for_each(|id| self.parts.freshness.mark(id, entry.position));
        }
        for entry in &new {
            self.parts.cache.forget_local(entry);
        }
        for entry in &new {
            let closed = self.apply_to_keys_and_sockets(entry);
            applied.insert(entry.id);
            self.count_and_confirm(entry, closed);
        }
        new.into_iter().cloned().collect()
    }

    /// Believes nothing of these ids until the log says how a transaction ended that may have revoked something of theirs.
    pub fn doubt(&self, about: &[Uuid], position: Position) {
        tracing::warn!(
            concerned = about.len(),
            "the database went away in the middle of a revocation; what it concerns waits for the log"
        );
        self.parts.freshness.doubt(about, position);
    }

    /// The last step, which needs Redis and may fail.
    pub async fn forget_in_redis(&self, entries: &[LogEntry]) {
        self.parts.cache.forget_in_redis(entries).await;
    }

    /// Forgets what was applied: the log may be another one now.
    pub fn start_over(&self) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = Remembered::default();
        self.parts.cache.clear();
    }

    pub(super) fn parts(&self) -> &ApplierParts {
        &self.parts
    }

    fn apply_to_keys_and_sockets(&self, entry: &LogEntry) -> usize {
        match &entry.scope {
            Scope::KeyAdded { key } => match VerifyingKey::from_public(key) {
                Ok(key) => self.parts.keys.add(key),
                Err(error) => tracing::warn!(kid = key.kid, %error, "ignored a signing key"),
            },
            Scope::KeyRemoved { kid } => self.parts.keys.remove(kid),
            Scope::UserChanged { user_id } if self.parts.registry.has_user(*user_id) => {
                // A full queue is an answer: the sockets miss a notice, nothing else.
                let _ = self.changed_users.try_send(*user_id);
            }
            Scope::UserChanged { .. }
            | Scope::Session { .. }
            | Scope::SessionChanged { .. }
            | Scope::Sessions { .. }
            | Scope::UserEpoch { .. }
            | Scope::Token { .. } => {}
        }
        self.parts.registry.apply(entry)
    }

    fn count_and_confirm(&self, entry: &LogEntry, closed: usize) {
        if let Some(kind) = entry.scope.revocation_kind() {
            ::metrics::counter!(metrics::REVOCATIONS, "kind" => kind).increment(1);
            tracing::debug!(entry = entry.id, kind, closed, "revocation applied");
        }
        if entry.confirm {
            let (store, id, node) = (self.parts.store.clone(), entry.id, self.parts.node);
            self.parts.tasks.spawn(async move {
                if let Err(error) = store.acknowledge(id, node, closed as u64).await {
                    tracing::debug!(%error, "failed to confirm a revocation");
                }
            });
        }
    }
}

impl Remembered {
    fn insert(&mut self, id: u64) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

/// Reads changed profiles in batches and tells the users' sockets.
async fn announce(store: Store, registry: Registry, mut queue: mpsc::Receiver<UserId>) {
    let mut changed = Vec::new();
    while queue.recv_many(&mut changed, ANNOUNCEMENT_BATCH).await > 0 {
        changed.sort_unstable();
        changed.dedup();
        match store.load_users(&changed).await {
            Ok(read) => {
                for record in read.value {
                    let push = crate::protocol::user_updated_push(&record.user);
                    registry.push_to_user(record.user.id, &push);
                }
            }
            Err(error) => tracing::warn!(%error, "failed to read changed profiles; open sockets were not told"),
        }
        changed.clear();
    }
}
