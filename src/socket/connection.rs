//! One connection's life: a single task that reads, writes, keeps time and heeds the verdict to close.
//!
//! The task owns its socket; others reach it through the registry's [`Link`] only. Everything that waits (the judge, an
//! rpc) goes through [`during`](Connection::during), which gives up as soon as the socket is to close.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::SocketState;
use super::admission::Admitted;
use super::measure::{self, Counted};
use super::rate::Rate;
use super::timers::{Timers, first_heartbeat, take_due};
use super::wire::{Incoming, Message, Wire};
use crate::auth::Principal;
use crate::protocol::{self, Close, HEARTBEAT, Line};
use crate::registry::{Closing, Link, Registration};

/// With so much queued within one frame's commands, what can be written is written before the next command.
const WRITE_EARLY: usize = 16 * 1024;
/// Between two tries to judge while freshness cannot be shown.
const RETRY: Duration = Duration::from_secs(1);
/// However quiet a socket is, it is judged this often.
const REJUDGE_EVERY: Duration = Duration::from_secs(30 * 60);

/// Why a connection's loop ends.
#[derive(Debug)]
pub(super) enum Exit {
    /// There is a verdict on the link.
    Closed,
    /// The peer sent a close frame, with this code.
    Left(u16),
    /// The stream broke; `Some` when the peer must be told why.
    Failed(Option<Close>),
}

enum Event {
    Message(Message),
    /// The link has something: pushes, or a wish to be judged again.
    Signal,
    Due,
    Exit(Exit),
}

/// One live socket.
pub(super) struct Connection {
    pub(super) state: Arc<SocketState>,
    wire: Wire,
    pub(super) registration: Registration,
    /// Proven at the last look. None until a credential was shown.
    pub(super) principal: Option<Principal>,
    ready: VecDeque<Message>,
    pub(super) timers: Timers,
    rate: Option<Rate>,
    /// Since when the judge cannot tell.
    pub(super) unsure_since: Option<Instant>,
    pub(super) judged_at: Instant,
    /// Kept for the log of a failed `connect`; dropped with the answer.
    pub(super) origin: Option<Box<str>>,
    pub(super) ip: IpAddr,
    pub(super) frame_pings: bool,
    /// `connect` was answered.
    pub(super) connected: bool,
    /// `connect` was answered with an error within the frame being read.
    pub(super) refused: bool,
    counted: Counted,
}

impl Connection {
    pub(super) fn new(state: Arc<SocketState>, wire: Wire, admitted: Admitted) -> Self {
        let Admitted { registration, principal, visitor, frame_pings } = admitted;
        let config = &state.config;
        let mut timers = Timers::new(first_heartbeat(registration.link().id(), config.ping_interval));
        timers.connect = principal.is_none().then(|| Instant::now() + config.connect_timeout);
        let rate = config.throttling.then(|| Rate::new(config));
        let mut connection = Self {
            wire,
            registration,
            principal,
            ready: VecDeque::new(),
            timers,
            rate,
            unsure_since: None,
            judged_at: Instant::now(),
            origin: visitor.origin,
            ip: visitor.ip,
            frame_pings,
            connected: false,
            refused: false,
            counted: Counted::new(),
            state,
        };
        if connection.principal.is_some() {
            connection.went_live();
        }
        connection
    }

    /// Lives until there is a reason to end, then says goodbye.
    pub(super) async fn run(mut self) {
        let exit = loop {
            let outcome = match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Message(message) => self.on_message(message).await,
                // Rare, so their room is not kept in every idle socket's task.
                Event::Signal => Box::pin(self.on_signal()).await,
                Event::Due => Box::pin(self.on_due()).await,
                Event::Exit(exit) => Err(exit),
            };
            if let Err(exit) = outcome {
                break exit;
            }
        };
        Box::pin(self.say_goodbye(exit)).await;
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        self.registration.link()
    }

    /// Notes that the socket is authenticated from now on.
    pub(super) fn went_live(&mut self) {
        self.timers.connect = None;
        self.arm_expiry();
        if let Some(principal) = &self.principal {
            let (user, sid) = (principal.session.user_id, principal.session.sid);
            let origin = self.origin.take();
            tracing::info!(client = %self.link().id(), %user, %sid, ip = %self.ip, ?origin, "socket connected");
        }
    }

    /// Passes a verdict of our own, unless there is one already.
    pub(super) fn close(&self, close: Close) -> Exit {
        self.link().close(Closing { close, revoked_at: None });
        Exit::Closed
    }

    /// Queues an answer. It is written once the commands at hand are done.
    pub(super) fn send(&mut self, line: String) -> Result<(), Exit> {
        self.queue(Message::Text(line.into()))
    }

    fn queue(&mut self, message: Message) -> Result<(), Exit> {
        if !self.link().reserve(message.len()) {
            return Err(self.close(Close::SLOW));
        }
        self.ready.push_back(message);
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // Before anything is looked at, or a change in between would wake nobody.
        self.link().register_waker(cx.waker());
        if let Poll::Ready(Err(exit)) = self.poll_write(cx) {
            return Poll::Ready(Event::Exit(exit));
        }
        let link = self.link();
        if link.closing().is_some() {
            return Poll::Ready(Event::Exit(Exit::Closed));
        }
        if link.take_rejudge() || (link.has_pushes() && self.timers.retry.is_none()) {
            return Poll::Ready(Event::Signal);
        }
        match self.wire.poll_next(cx) {
            Poll::Ready(Incoming::Message(message)) => return Poll::Ready(Event::Message(message)),
            Poll::Ready(Incoming::Failed(close)) => return Poll::Ready(Event::Exit(Exit::Failed(close))),
            Poll::Pending => {}
        }
        self.timers.poll_due(cx).map(|()| Event::Due)
    }

    /// Writes what is queued; ready when all of it has left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Exit>> {
        while !self.ready.is_empty() {
            ready!(self.wire.poll_room(cx)).map_err(Exit::Failed)?;
            let Some(message) = self.ready.pop_front() else { break };
            self.link().release(message.len());
            self.wire.put(message).map_err(Exit::Failed)?;
        }
        if self.ready.capacity() > 0 {
            // An idle socket keeps no queue.
            self.ready = VecDeque::new();
        }
        self.wire.poll_flush(cx).map_err(Exit::Failed)
    }

    /// Writes what can be written without waiting. A client that does not read gets no time for it here; its backlog
    /// grows until it is too long.
    async fn write_now(&mut self) -> Result<(), Exit> {
        poll_fn(|cx| match self.poll_write(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Waits for `work`, writing meanwhile. Gives up when the socket is to close. `early` says what to do with
    /// messages that arrive meanwhile: nothing (they wait), or take them to be commands out of turn.
    pub(super) async fn during<T>(&mut self, early: Early, work: impl Future<Output = T> + Send) -> Result<T, Exit> {
        let mut work = Box::pin(work);
        poll_fn(|cx| {
            self.link().register_waker(cx.waker());
            if self.link().closing().is_some() {
                return Poll::Ready(Err(Exit::Closed));
            }
            if let Poll::Ready(Err(exit)) = self.poll_write(cx) {
                return Poll::Ready(Err(exit));
            }
            if matches!(early, Early::Refused)
                && let Poll::Ready(exit) = self.poll_out_of_turn(cx)
            {
                return Poll::Ready(Err(exit));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Ready when a message came that may not come now. Heartbeats may at any time.
    fn poll_out_of_turn(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        loop {
            match ready!(self.wire.poll_next(cx)) {
                Incoming::Message(Message::Text(text)) if text.as_str() == HEARTBEAT => {}
                Incoming::Message(Message::Text(_)) => return Poll::Ready(self.close(Close::BAD_REQUEST)),
                Incoming::Message(message) => {
                    if let Err(exit) = self.on_control(&message) {
                        return Poll::Ready(exit);
                    }
                }
                Incoming::Failed(close) => return Poll::Ready(Exit::Failed(close)),
            }
        }
    }

    async fn on_message(&mut self, message: Message) -> Result<(), Exit> {
        let Message::Text(text) = message else { return self.on_control(&message) };
        self.refused = false;
        self.charge(0, text.len())?;
        for line in text.as_str().split('\n') {
            self.charge(1, 0)?;
            match protocol::parse(line) {
                Ok(Line::Pong) if self.connected && !self.frame_pings => self.timers.pong = None,
                Ok(Line::Pong) => {}
                Ok(Line::Send) if self.principal.is_some() => return Err(self.close(Close::NOT_AVAILABLE)),
                Ok(Line::Send) => return Err(self.close(Close::BAD_REQUEST)),
                Ok(Line::Command { id, request }) => self.serve(id, request).await?,
                Err(protocol::Malformed) => return Err(self.close(Close::BAD_REQUEST)),
            }
            if self.link().closing().is_some() {
                return Err(Exit::Closed);
            }
            if self.link().backlog() > WRITE_EARLY {
                self.write_now().await?;
            }
        }
        Ok(())
    }

    fn on_control(&mut self, message: &Message) -> Result<(), Exit> {
        match message {
            // Answered by the library; counted, because a flood of them costs as much as one of commands.
            Message::Ping(payload) => self.charge(1, payload.len()),
            Message::Pong(payload) => {
                if !self.connected || self.frame_pings {
                    self.timers.pong = None;
                }
                self.charge(1, payload.len())
            }
            Message::Close(frame) => Err(Exit::Left(frame.as_ref().map_or(1005, |frame| frame.code.into()))),
            Message::Binary(_) => Err(self.close(Close::BINARY)),
            Message::Text(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn charge(&mut self, commands: u32, bytes: usize) -> Result<(), Exit> {
        let Some(rate) = &mut self.rate else { return Ok(()) };
        rate.take(Instant::now(), commands, bytes, &self.state.config).map_err(|excess| {
            measure::limit_reached(excess.name());
            self.close(Close::TOO_MANY_REQUESTS)
        })
    }

    /// Pushes wait, or what was remembered is suspect: both are settled by judging.
    async fn on_signal(&mut self) -> Result<(), Exit> {
        if !self.judge().await? {
            self.timers.retry = Some(Instant::now() + RETRY);
            return Ok(());
        }
        // Their room is reserved since they were queued.
        let pushes = self.link().take_pushes();
        self.ready.extend(pushes.iter().map(|line| Message::Text((&**line).into())));
        Ok(())
    }

    async fn on_due(&mut self) -> Result<(), Exit> {
        let now = Instant::now();
        if take_due(&mut self.timers.connect, now) {
            return Err(self.close(Close::STALE));
        }
        if take_due(&mut self.timers.pong, now) {
            return Err(self.close(Close::NO_PONG));
        }
        if take_due(&mut self.timers.expiry, now) {
            self.on_expiry().await?;
        }
        if self.timers.heartbeat <= now {
            self.beat(now)?;
            // Quiet sockets find out that the judge can tell again, or that he has not been asked for long.
            if self.unsure_since.is_some() || self.judged_at.elapsed() > REJUDGE_EVERY {
                self.judge().await?;
            }
        }
        if take_due(&mut self.timers.retry, now) {
            self.on_signal().await?;
        }
        Ok(())
    }

    fn beat(&mut self, now: Instant) -> Result<(), Exit> {
        let config = &self.state.config;
        self.timers.heartbeat = now + config.ping_interval;
        self.timers.pong.get_or_insert(now + config.pong_timeout);
        let by_frame = !self.connected || self.frame_pings;
        self.queue(if by_frame { Message::Ping(bytes::Bytes::new()) } else { Message::Text(HEARTBEAT.into()) })
    }

    /// `connect` was answered: the protocol's own heartbeat begins.
    pub(super) fn start_heartbeat(&mut self) {
        self.connected = true;
        self.timers.pong = None;
        self.timers.heartbeat = first_heartbeat(self.link().id(), self.state.config.ping_interval);
    }

    async fn say_goodbye(mut self, exit: Exit) {
        // Answers first: who logs out over the socket hears that it worked, then the close. All of it was executed, or
        // judged fit to be pushed, before the verdict.
        let _ = self.write_now().await;
        let closing = match exit {
            Exit::Left(code) => {
                self.log_end(code, "the client left");
                drop((self.registration, self.counted));
                return self.wire.linger().await;
            }
            Exit::Failed(None) => return self.log_end(1006, "the connection broke"),
            Exit::Failed(Some(close)) => Closing { close, revoked_at: None },
            // A verdict is what brought us here.
            Exit::Closed => self.link().closing().unwrap_or(Closing { close: Close::INTERNAL_ERROR, revoked_at: None }),
        };
        let left = self.wire.close(closing.close).await;
        measure::closed(closing.close);
        if let (true, Some(revoked_at)) = (left, closing.revoked_at) {
            measure::revocation_delay(revoked_at, self.state.clock.now());
        }
        self.log_end(closing.close.code, closing.close.reason);
        // A client that comes back at once must not find its own place taken.
        drop((self.registration, self.counted));
        match exit {
            Exit::Failed(_) => self.wire.linger_broken().await,
            _ if left => self.wire.linger().await,
            _ => {}
        }
    }

    fn log_end(&self, code: u16, reason: &str) {
        let session = self.principal.as_ref().map(|principal| &principal.session);
        let (user, sid) = (session.map(|session| session.user_id), session.map(|session| session.sid));
        tracing::info!(client = %self.link().id(), ?user, ?sid, ip = %self.ip, code, reason, "socket closed");
    }
}

/// What to do with messages that come while an answer is being worked out.
#[derive(Clone, Copy)]
pub(super) enum Early {
    /// They wait their turn.
    Waits,
    /// Nothing may come now: 3501.
    Refused,
}
