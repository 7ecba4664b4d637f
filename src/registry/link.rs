//! What a socket's task shares with everybody else: its subject, its inbox of pushes, and the one verdict to close.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use time::OffsetDateTime;

use super::alarm::Alarm;
use crate::ids::{ConnectionId, Jti, Sid, UserId};
use crate::protocol::Close;

/// Whose socket it is and by what it was admitted: all that an entry's scope is compared with.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The user.
    pub user_id: UserId,
    /// The session.
    pub sid: Sid,
    /// The user's epoch that the session belongs to.
    pub auth_epoch: u64,
    /// The access token; none for cookies and tickets.
    pub jti: Option<Jti>,
    /// The key that signed it.
    pub kid: Option<Arc<str>>,
}

/// The verdict to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// What the client is told.
    pub close: Close,
    /// Database time of the revocation behind it.
    pub revoked_at: Option<OffsetDateTime>,
}

/// What became of a push.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// Queued, and the task does not know yet.
    First,
    /// Queued behind one that the task is to be woken for anyway.
    Behind,
    /// The socket is closing.
    No,
}

/// One socket as others see it. The lock is held for a few instructions and never while another one is taken.
pub struct Link {
    id: ConnectionId,
    outbox_limit: usize,
    /// Bytes queued for the client, here and by its task.
    backlog: AtomicUsize,
    waker: AtomicWaker,
    alarm: Alarm,
    state: Mutex<State>,
}

/// What is rare is behind a pointer: there are many links.
#[derive(Default)]
struct State {
    subject: Option<Subject>,
    closing: Option<Box<Closing>>,
    rejudge: bool,
    #[allow(clippy::box_collection, reason = "a pointer in place of four words that are nearly always empty")]
    pushes: Option<Box<VecDeque<Arc<str>>>>,
}

/// What a socket's task has to heed, in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// There is a verdict.
    pub closing: bool,
    /// The principal is to be looked up again. Said once.
    pub rejudge: bool,
    /// Pushes wait.
    pub pushes: bool,
}

impl Link {
    pub(super) fn new(id: ConnectionId, outbox_limit: usize) -> Self {
        Self {
            id,
            outbox_limit,
            backlog: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            alarm: Alarm::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; and a poisoned link must still close.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Passes the verdict. The first one stands: false when there was one already.
    pub fn close(&self, closing: Closing) -> bool {
        let first = self.settle(|state| state.closing.is_none().then_some(closing));
        if first {
            self.wake();
        }
        first
    }

    /// The same for a socket whose subject is concerned; wakes nobody. From here on nothing is executed or pushed.
    pub(super) fn close_if(&self, closing: Closing, concerned: impl FnOnce(&mut Subject) -> bool) -> bool {
        self.settle(|state| {
            let concerned = state.subject.as_mut().is_some_and(concerned);
            (concerned && state.closing.is_none()).then_some(closing)
        })
    }

    fn settle(&self, verdict: impl FnOnce(&mut State) -> Option<Closing>) -> bool {
        let mut state = self.state();
        let Some(closing) = verdict(&mut state) else { return false };
        state.closing = Some(Box::new(closing));
        let dropped = std::mem::take(&mut state.pushes);
        drop(state);
        drop(dropped);
        true
    }

    /// The verdict, once there is one.
    #[must_use]
    pub fn closing(&self) -> Option<Closing> {
        self.state().closing.as_deref().copied()
    }

    /// All that its task has to heed.
    #[must_use]
    pub fn glance(&self) -> Glance {
        let mut state = self.state();
        Glance {
            closing: state.closing.is_some(),
            rejudge: std::mem::take(&mut state.rejudge),
            pushes: state.pushes.is_some(),
        }
    }

    /// Queues a push and wakes nobody; a client whose backlog is full is closed as slow instead.
    pub(super) fn push(&self, line: &Arc<str>) -> Pushed {
        if self.closing().is_some() {
            return Pushed::No;
        }
        if !self.reserve(line.len()) {
            self.close(Closing { close: Close::SLOW, revoked_at: None });
            return Pushed::No;
        }
        let mut state = self.state();
        let pushes = state.pushes.get_or_insert_default();
        pushes.push_back(Arc::clone(line));
        if pushes.len() == 1 { Pushed::First } else { Pushed::Behind }
    }

    /// Makes room for a message of so many bytes. A single message is taken whatever its size.
    pub fn reserve(&self, bytes: usize) -> bool {
        let before = self.backlog.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(bytes) <= self.outbox_limit;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    /// Gives the room back once the message was written.
    pub fn release(&self, bytes: usize) {
        self.backlog.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes queued.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Makes room for what must be sent in any case.
    pub fn reserve_anyway(&self, bytes: usize) {
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes queued pushes, the oldest first, until they have about so many bytes together; one at least. Their room
    /// stays reserved until they are written. The others stay here, where all sockets share the text.
    #[must_use]
    pub fn take_pushes(&self, bytes: usize) -> Vec<Arc<str>> {
        let mut state = self.state();
        let Some(pushes) = &mut state.pushes else { return Vec::new() };
        let (mut taken, mut total) = (Vec::new(), 0);
        while total < bytes
            && let Some(line) = pushes.pop_front()
        {
            total += line.len();
            taken.push(line);
        }
        if pushes.is_empty() {
            state.pushes = None;
        }
        taken
    }

    /// Asks the task to look its principal up again.
    pub fn ask_to_rejudge(&self) {
        self.wants_rejudging();
        self.wake();
    }

    /// The same without waking it. False when that was asked already.
    pub(super) fn wants_rejudging(&self) -> bool {
        !std::mem::replace(&mut self.state().rejudge, true)
    }

    /// Has `waker` called upon the next change. Call it before looking at the state, or a change is missed.
    pub fn register_waker(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// When the task wants to be woken.
    #[must_use]
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Wakes the task.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Lets go of the task, which has ended; whoever still holds the link holds nothing else.
    pub(super) fn retire(&self) {
        self.alarm.clear();
        drop(self.waker.take());
    }

    pub(super) fn is_bound(&self) -> bool {
        self.state().subject.is_some()
    }

    pub(super) fn set_subject(&self, subject: Subject) -> Option<Subject> {
        self.state().subject.replace(subject)
    }

    pub(super) fn clear_subject(&self) -> Option<Subject> {
        self.state().subject.take()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).finish_non_exhaustive()
    }
}
