//! The sockets on this node, by connection, session and user. No I/O.
//!
//! Sockets register themselves; `revocation` applies log entries to them; the drain goes through them. What happens to
//! a socket is written into its [`Link`], which wakes the socket's task; nobody here waits for it.
//!
//! There is no map by session: an entry that ends a session names its user, and one user's sockets are few enough to
//! look through. That saves a map entry for every socket.
//!
//! Locks: one shard of a map, or the state of one link, never both and never during a fan-out: the links concerned are
//! copied out first. A socket that registers in between is not missed, because it is judged again after it registered.

mod link;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::config::Config;
use crate::entry::{LogEntry, Scope};
use crate::ids::{ConnectionId, UserId};
use crate::protocol::Close;

pub use link::{Closing, Link, Subject};

/// How much this node takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Live sockets on this node.
    pub connections: usize,
    /// Live sockets of one user on this node.
    pub connections_per_user: usize,
    /// The backlog of one socket, in bytes.
    pub outbox_bytes: usize,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        Self {
            connections: config.max_connections,
            connections_per_user: config.max_connections_per_user,
            outbox_bytes: config.outbox_bytes,
        }
    }
}

/// Why a socket is not taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// The user has as many as one may have.
    #[error("the user has too many sockets")]
    User,
    /// The node has.
    #[error("the node has too many sockets")]
    Node,
    /// The node is draining.
    #[error("the node is draining")]
    Draining,
}

/// The sockets on this node.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    limits: Limits,
    connections: DashMap<ConnectionId, Arc<Link>>,
    users: DashMap<UserId, Members>,
    live: AtomicUsize,
    draining: AtomicBool,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            connections: DashMap::new(),
            users: DashMap::new(),
            live: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }))
    }

    /// Applies an entry: every socket it concerns is marked closed at once (first reason wins) and told to leave.
    /// Returns how many. Never waits, never holds a lock across the fan-out.
    pub fn apply(&self, entry: &LogEntry) -> usize {
        let closing = |close| Closing { close, revoked_at: Some(entry.at) };
        match &entry.scope {
            Scope::Session { sid, user_id, reason } => {
                self.close_where(*user_id, closing(Close::for_end(*reason)), |subject| subject.sid == *sid)
            }
            Scope::UserEpoch { user_id, below, except, reason } => {
                self.close_where(*user_id, closing(Close::for_end(*reason)), |subject| {
                    if *except == Some(subject.sid) {
                        // Lifted to the new epoch by the transaction that raised it.
                        subject.auth_epoch = subject.auth_epoch.max(*below);
                    }
                    subject.auth_epoch < *below
                })
            }
            Scope::Token { jti, user_id, .. } => {
                self.close_where(*user_id, closing(Close::STATE_INVALIDATED), |subject| subject.jti == Some(*jti))
            }
            Scope::KeyRemoved { kid } => {
                let closing = closing(Close::INVALID_TOKEN);
                let signed = |subject: &mut Subject| subject.kid.as_deref() == Some(kid);
                self.all().iter().filter(|link| link.close_if(closing, signed)).count()
            }
            Scope::KeyAdded { .. } | Scope::UserChanged { .. } => 0,
        }
    }

    /// Whether this user has a socket here.
    pub fn has_user(&self, user_id: UserId) -> bool {
        self.0.users.contains_key(&user_id)
    }

    /// Queues a push (one JSON line) to every socket of the user. Each socket checks its principal before sending.
    pub fn push_to_user(&self, user_id: UserId, line: &Arc<str>) -> usize {
        self.of_user(user_id).iter().filter(|link| link.push(line)).count()
    }

    /// Asks every socket to look its principal up again: what was remembered is suspect.
    pub fn rejudge_all(&self) {
        for link in self.all() {
            link.ask_to_rejudge();
        }
    }

    /// Live sockets.
    pub fn len(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    /// No live sockets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes on a socket, which is found by every entry applied from here on. Call it before the last check of the
    /// credential: what was applied earlier is seen by that check, what is applied later finds the socket here.
    pub fn register(&self, subject: Option<Subject>) -> Result<Registration, LimitReached> {
        let earlier = self.0.live.fetch_add(1, Ordering::Relaxed);
        // From here on the guard gives back what was taken.
        let link = Arc::new(Link::new(ConnectionId::random(), self.0.limits.outbox_bytes));
        let registration = Registration { registry: self.clone(), link: Arc::clone(&link) };
        if earlier >= self.0.limits.connections {
            return Err(LimitReached::Node);
        }
        self.0.connections.insert(link.id(), link);
        if let Some(subject) = subject {
            registration.bind(subject)?;
        }
        // The drain raises its flag before it takes its list, and this looks at the flag after it is on the list.
        if self.0.draining.load(Ordering::SeqCst) { Err(LimitReached::Draining) } else { Ok(registration) }
    }

    /// Closes every socket with 3001, one after the other and evenly over `window`, and lets no more in. Returns when
    /// the last one was told. No client takes a delay from the server, so the spread must come from here.
    pub async fn drain(&self, window: Duration) {
        self.0.draining.store(true, Ordering::SeqCst);
        self.close_all(Close::SHUTDOWN, window, || true).await;
    }

    /// Closes every socket that has a principal with 4000, spread over `window`, for as long as `still` says so.
    pub async fn close_unjudgeable(&self, window: Duration, still: impl Fn() -> bool) {
        self.close_all(Close::AUTH_UNAVAILABLE, window, still).await;
    }

    async fn close_all(&self, close: Close, window: Duration, still: impl Fn() -> bool) {
        // Thousands of timers a second would be finer than a timer is; a step closes a handful.
        const STEP: Duration = Duration::from_millis(20);
        let links = self.all();
        let steps = usize::try_from(window.as_millis() / STEP.as_millis()).unwrap_or(usize::MAX).max(1);
        let started = tokio::time::Instant::now();
        let mut closed = 0;
        for step in 1..=steps {
            let until = links.len().saturating_mul(step).div_ceil(steps);
            for link in &links[closed..until] {
                if close == Close::SHUTDOWN || link.is_bound() {
                    link.close(Closing { close, revoked_at: None });
                }
            }
            closed = until;
            if closed == links.len() || !still() {
                return;
            }
            tokio::time::sleep_until(started + STEP * u32::try_from(step).unwrap_or(u32::MAX)).await;
        }
    }

    fn close_where(&self, user_id: UserId, closing: Closing, mut concerned: impl FnMut(&mut Subject) -> bool) -> usize {
        self.of_user(user_id).iter().filter(|link| link.close_if(closing, &mut concerned)).count()
    }

    fn all(&self) -> Vec<Arc<Link>> {
        self.0.connections.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    fn of_user(&self, user_id: UserId) -> Vec<Arc<Link>> {
        self.0.users.get(&user_id).map(|members| members.to_vec()).unwrap_or_default()
    }
}

/// A socket's place in the registry; gives it up when dropped. Exists before the socket's task does, so that a
/// handshake that comes to nothing leaves nothing behind.
pub struct Registration {
    registry: Registry,
    link: Arc<Link>,
}

impl Registration {
    /// What the registry and the socket's task share.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Enters whose socket it is; a socket without a credential learns that later. Also takes a new token of the same
    /// user. What was said of [`Registry::register`] holds here: enter first, check afterwards.
    pub fn bind(&self, subject: Subject) -> Result<(), LimitReached> {
        let user_id = subject.user_id;
        // The subject goes in before the user's entry: who finds the link there must be able to judge it.
        match self.link.set_subject(subject) {
            Some(before) if before.user_id == user_id => return Ok(()),
            Some(before) => self.leave(before.user_id),
            None => {}
        }
        let entered = self.enter(user_id);
        if entered.is_err() {
            self.link.clear_subject();
        }
        entered
    }

    fn enter(&self, user_id: UserId) -> Result<(), LimitReached> {
        let inner = &self.registry.0;
        let limit = inner.limits.connections_per_user;
        match inner.users.entry(user_id) {
            Entry::Occupied(entry) if entry.get().len() >= limit => Err(LimitReached::User),
            Entry::Vacant(_) if limit == 0 => Err(LimitReached::User),
            Entry::Occupied(mut entry) => {
                entry.get_mut().insert(Arc::clone(&self.link));
                Ok(())
            }
            Entry::Vacant(entry) => {
                entry.insert(Members::One(Arc::clone(&self.link)));
                Ok(())
            }
        }
    }

    fn leave(&self, user_id: UserId) {
        if let Entry::Occupied(mut entry) = self.registry.0.users.entry(user_id)
            && entry.get_mut().remove(self.link.id())
        {
            // Checked and removed under one lock: a socket that registers now finds no entry and makes its own.
            entry.remove();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(subject) = self.link.clear_subject() {
            self.leave(subject.user_id);
        }
        let inner = &self.registry.0;
        inner.connections.remove(&self.link.id());
        inner.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sockets of one user. Nearly everybody has one.
enum Members {
    One(Arc<Link>),
    Many(HashMap<ConnectionId, Arc<Link>>),
}

impl Members {
    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(links) => links.len(),
        }
    }

    fn to_vec(&self) -> Vec<Arc<Link>> {
        match self {
            Self::One(link) => vec![Arc::clone(link)],
            Self::Many(links) => links.values().cloned().collect(),
        }
    }

    fn insert(&mut self, link: Arc<Link>) {
        match self {
            Self::One(first) => *self = Self::Many([(first.id(), Arc::clone(first)), (link.id(), link)].into()),
            Self::Many(links) => {
                links.insert(link.id(), link);
            }
        }
    }

    /// Says whether nobody is left.
    fn remove(&mut self, id: ConnectionId) -> bool {
        match self {
            Self::One(link) => link.id() == id,
            Self::Many(links) => {
                links.remove(&id);
                links.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests;
