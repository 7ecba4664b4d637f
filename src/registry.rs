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
//!
//! A fan-out marks every link at once, so that nothing is executed or pushed any more, and wakes their tasks in turns
//! ([`Registry::wake_told`]).

mod alarm;
mod counts;
mod fanout;
mod link;
mod members;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::client_address::Network;
use crate::config::Config;
use crate::entry::{LogEntry, Scope};
use crate::ids::{ConnectionId, UserId};
use crate::protocol::Close;

pub use alarm::{Alarm, Ring};
use counts::{Addresses, Shrunk};
pub use counts::{Counted, Standing};
use fanout::Fanout;
use link::Pushed;
pub use link::{Closing, Glance, Link, Subject};
use members::Members;

/// How much this node takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Live sockets on this node.
    pub connections: usize,
    /// Those of them that have shown no credential yet.
    pub waiting: usize,
    /// Live sockets of one user on this node.
    pub connections_per_user: usize,
    /// Live sockets of one address on this node.
    pub connections_per_address: usize,
    /// The backlog of one socket, in bytes.
    pub outbox_bytes: usize,
}

impl Limits {
    /// Those of the settings, and no more sockets than the process may have open files for.
    #[must_use]
    pub fn new(config: &Config, open_files: usize) -> Self {
        let connections = config.max_connections.min(open_files);
        Self {
            connections,
            waiting: config.max_waiting_connections.unwrap_or(connections - connections / 4),
            connections_per_user: config.max_connections_per_user,
            connections_per_address: config.max_connections_per_address,
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
    /// The address has.
    #[error("the address has too many sockets")]
    Address,
    /// The node has.
    #[error("the node has too many sockets")]
    Node,
    /// The node has too many that have shown no credential yet.
    #[error("too many sockets wait for a credential")]
    Waiting,
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
    addresses: Addresses,
    shrunk: Shrunk,
    fanout: Fanout,
    live: AtomicUsize,
    waiting: AtomicUsize,
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
            addresses: Addresses::default(),
            shrunk: Shrunk::default(),
            fanout: Fanout::default(),
            live: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
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
            Scope::Sessions { sessions, reason } => sessions
                .iter()
                .map(|(ended, user_id)| {
                    self.close_where(*user_id, closing(Close::for_end(*reason)), |subject| subject.sid == *ended)
                })
                .sum(),
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
                let closing = closing(Close::STATE_INVALIDATED);
                let signed = |subject: &mut Subject| subject.kid.as_deref() == Some(kid);
                self.tell(self.all(), |link| link.close_if(closing, signed))
            }
            Scope::KeyAdded { .. } | Scope::SessionChanged { .. } | Scope::UserChanged { .. } => 0,
        }
    }

    /// Whether this user has a socket here.
    pub fn has_user(&self, user_id: UserId) -> bool {
        self.0.users.contains_key(&user_id)
    }

    /// Queues a push (one JSON line) to every socket of the user. Each socket checks its principal before sending.
    pub fn push_to_user(&self, user_id: UserId, line: &Arc<str>) -> usize {
        let mut queued = 0;
        self.tell(self.of_user(user_id), |link| {
            let pushed = link.push(line);
            queued += usize::from(pushed != Pushed::No);
            pushed == Pushed::First
        });
        queued
    }

    /// Asks every socket to look its principal up again: what was remembered is suspect.
    pub fn rejudge_all(&self) {
        self.tell(self.all(), |link| link.wants_rejudging());
    }

    /// Wakes the tasks of those who were told something, in turns, for ever. One of the node's duties.
    pub async fn wake_told(&self) {
        self.0.fanout.wake().await;
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
    pub fn register(
        &self,
        subject: Option<Subject>,
        address: Network,
    ) -> Result<(Registration, Standing), LimitReached> {
        let Inner { limits, addresses, live, waiting, .. } = &*self.0;
        let place = addresses.take(address, limits.connections_per_address).ok_or(LimitReached::Address)?;
        let (earlier, earlier_waiting) =
            (live.fetch_add(1, Ordering::Relaxed), waiting.fetch_add(1, Ordering::Relaxed));
        // From here on the guard gives back what was taken.
        let link = Arc::new(Link::new(ConnectionId::random(), limits.outbox_bytes));
        let registration = Registration { registry: self.clone(), link: Arc::clone(&link), address };
        if earlier >= limits.connections {
            return Err(LimitReached::Node);
        }
        if subject.is_none() && earlier_waiting >= limits.waiting {
            return Err(LimitReached::Waiting);
        }
        self.0.connections.insert(link.id(), link);
        let mut standing = Standing { user: None, address: Some((address, place)) };
        if let Some(subject) = subject {
            standing.user = registration.bind(subject)?.user;
        }
        // The drain raises its flag before it takes its list, and this looks at the flag after it is on the list.
        let draining = self.0.draining.load(Ordering::SeqCst);
        if draining { Err(LimitReached::Draining) } else { Ok((registration, standing)) }
    }

    /// How many sockets of these there are on this node.
    pub fn count(&self, counted: Counted) -> usize {
        match counted {
            Counted::User(user_id) => self.0.users.get(&user_id).map_or(0, |members| members.len()),
            Counted::Address(address) => self.0.addresses.count(address),
        }
    }

    /// Waits until a count has gone down that was at its kind's floor or above, users' and addresses' alike.
    pub async fn shrunk(&self) {
        self.0.shrunk.changed().await;
    }

    /// Whose counts have, since this was last asked.
    pub fn take_shrunk(&self) -> HashSet<Counted> {
        self.0.shrunk.take()
    }

    /// Sets the floors, and says who is there.
    pub fn counts_from(&self, user_floor: usize, address_floor: usize) -> Vec<(Counted, usize)> {
        self.0.shrunk.user_floor.store(user_floor, Ordering::Relaxed);
        self.0.shrunk.address_floor.store(address_floor, Ordering::Relaxed);
        let users = self.0.users.iter().filter(|entry| entry.value().len() >= user_floor);
        let users = users.map(|entry| (Counted::User(*entry.key()), entry.value().len()));
        users.chain(self.0.addresses.at_least(address_floor)).collect()
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
        self.tell(self.of_user(user_id), |link| link.close_if(closing, &mut concerned))
    }

    /// Tells the links something, and lets those be woken to whom it is news. Says how many these are.
    fn tell(&self, mut links: Vec<Arc<Link>>, mut is_news: impl FnMut(&Link) -> bool) -> usize {
        links.retain(|link| is_news(link));
        let news = links.len();
        if news > 0 {
            self.0.fanout.tell(links);
        }
        news
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
    address: Network,
}

impl Registration {
    /// What the registry and the socket's task share.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Enters whose socket it is; a socket without a credential learns that later. Also takes a new token of the same
    /// user. What was said of [`Registry::register`] holds here: enter first, check afterwards.
    pub fn bind(&self, subject: Subject) -> Result<Standing, LimitReached> {
        let (user_id, waiting) = (subject.user_id, &self.registry.0.waiting);
        // The subject goes in before the user's entry: who finds the link there must be able to judge it.
        match self.link.set_subject(subject) {
            Some(before) if before.user_id == user_id => return Ok(Standing::default()),
            Some(before) => self.leave(before.user_id),
            None => {
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let entered = self.enter(user_id);
        if entered.is_err() && self.link.clear_subject().is_some() {
            waiting.fetch_add(1, Ordering::Relaxed);
        }
        entered.map(|place| Standing { user: Some((user_id, place)), address: None })
    }

    fn enter(&self, user_id: UserId) -> Result<usize, LimitReached> {
        let inner = &self.registry.0;
        let limit = inner.limits.connections_per_user;
        match inner.users.entry(user_id) {
            Entry::Occupied(entry) if entry.get().len() >= limit => Err(LimitReached::User),
            Entry::Vacant(_) if limit == 0 => Err(LimitReached::User),
            Entry::Occupied(mut entry) => {
                entry.get_mut().insert(Arc::clone(&self.link));
                Ok(entry.get().len())
            }
            Entry::Vacant(entry) => {
                entry.insert(Members::One(Arc::clone(&self.link)));
                Ok(1)
            }
        }
    }

    fn leave(&self, user_id: UserId) {
        let Entry::Occupied(mut entry) = self.registry.0.users.entry(user_id) else { return };
        let before = entry.get().len();
        if entry.get_mut().remove(self.link.id()) {
            // Checked and removed under one lock: a socket that registers now finds no entry and makes its own.
            entry.remove();
        }
        self.registry.0.shrunk.note(Counted::User(user_id), before);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.link.retire();
        let inner = &self.registry.0;
        match self.link.clear_subject() {
            Some(subject) => self.leave(subject.user_id),
            None => {
                inner.waiting.fetch_sub(1, Ordering::Relaxed);
            }
        }
        inner.shrunk.note(Counted::Address(self.address), inner.addresses.give_back(self.address));
        inner.connections.remove(&self.link.id());
        inner.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
