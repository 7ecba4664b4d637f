//! One connection's life: a single task that reads, writes, keeps time and heeds the verdict to close.
//!
//! The task owns its socket; others reach it through the registry's [`Link`] only. Everything that waits (the judge, an
//! rpc) goes through [`during`](Connection::during), which gives up as soon as the socket is to close.

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
use super::timers::{Tick, Timers, first_heartbeat, take_due};
use super::wire::{Incoming, Message, Outgoing, Wire};
use crate::auth::Principal;
use crate::protocol::{self, Close, HEARTBEAT, Line};
use crate::registry::{Closing, Link, Registration};

/// With so much queued within one frame's commands, what can be written is written before the next command. Also how
/// much of the waiting pushes is taken at once.
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
    Left(Option<u16>),
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

/// One live socket. Small, because there are many: what is rare is behind pointers, what waits is in the wire, and its
/// task keeps no more than a pointer to this.
pub(super) struct Connection {
    pub(super) state: Arc<SocketState>,
    wire: Wire,
    pub(super) registration: Registration,
    /// Proven at the last look. None until a credential was shown.
    pub(super) principal: Option<Principal>,
    pub(super) timers: Timers,
    rate: Option<Rate>,
    /// Since when the judge cannot tell.
    pub(super) unsure_since: Option<Tick>,
    pub(super) judged_at: Tick,
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
    pub(super) fn new(state: Arc<SocketState>, wire: Wire, admitted: Admitted) -> Box<Self> {
        let Admitted { registration, principal, visitor, frame_pings } = admitted;
        let (config, wheel) = (&state.config, &state.wheel);
        // The answer to the handshake, which leaves like everything else.
        registration.link().reserve_anyway(wire.pending());
        let first_heartbeat = first_heartbeat(registration.link().id(), config.ping_interval);
        let mut timers = Timers::new(wheel.after(first_heartbeat));
        timers.connect = principal.is_none().then(|| wheel.after(config.connect_timeout));
        let rate = config.throttling.then(|| Rate::new(config));
        let judged_at = wheel.now();
        let mut connection = Box::new(Self {
            wire,
            registration,
            principal,
            timers,
            rate,
            unsure_since: None,
            judged_at,
            origin: visitor.origin,
            ip: visitor.ip,
            frame_pings,
            connected: false,
            refused: false,
            counted: Counted::new(),
            state,
        });
        if connection.principal.is_some() {
            connection.went_live();
        }
        connection
    }

    /// Lives until there is a reason to end, then says goodbye.
    pub(super) async fn run(mut self: Box<Self>) {
        let exit = loop {
            // What waits is boxed, so that its room is not kept in every idle socket's task.
            let outcome = match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Message(Message::Text(text)) if text == HEARTBEAT => self.on_heartbeat(),
                Event::Message(Message::Text(text)) => Box::pin(self.on_text(text)).await,
                Event::Message(control) => self.on_control(control),
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
        self.queue(Outgoing::Text(&line))
    }

    fn queue(&mut self, outgoing: Outgoing<'_>) -> Result<(), Exit> {
        if !self.link().reserve(outgoing.frame_bytes()) {
            return Err(self.close(Close::SLOW));
        }
        self.wire.queue(outgoing);
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // Before anything is looked at, or a change in between would wake nobody.
        self.link().register_waker(cx.waker());
        if let Poll::Ready(Err(exit)) = self.poll_write(cx) {
            return Poll::Ready(Event::Exit(exit));
        }
        let glance = self.link().glance();
        if glance.closing {
            return Poll::Ready(Event::Exit(Exit::Closed));
        }
        // Pushes stay in the link, where all sockets share their text, until the client has read what went before.
        let pushes = glance.pushes && self.wire.pending() == 0 && self.timers.retry.is_none();
        if glance.rejudge || pushes {
            return Poll::Ready(Event::Signal);
        }
        match self.wire.poll_next(cx) {
            Poll::Ready(Incoming::Message(message)) => return Poll::Ready(Event::Message(message)),
            Poll::Ready(Incoming::Failed(close)) => return Poll::Ready(Event::Exit(Exit::Failed(close))),
            Poll::Pending => {}
        }
        self.timers.poll_due(&self.state.wheel, self.registration.link()).map(|()| Event::Due)
    }

    /// Writes what is queued; ready when all of it has left.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Exit>> {
        let waiting = self.wire.pending();
        if waiting == 0 {
            return Poll::Ready(Ok(()));
        }
        let outcome = self.wire.poll_flush(cx);
        self.link().release(waiting - self.wire.pending());
        outcome.map_err(|_| Exit::Failed(None))
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
                Incoming::Message(Message::Text(text)) if text == HEARTBEAT => {}
                Incoming::Message(Message::Text(_)) => return Poll::Ready(self.close(Close::BAD_REQUEST)),
                Incoming::Message(message) => {
                    if let Err(exit) = self.on_control(message) {
                        return Poll::Ready(exit);
                    }
                }
                Incoming::Failed(close) => return Poll::Ready(Exit::Failed(close)),
            }
        }
    }

    async fn on_text(&mut self, text: String) -> Result<(), Exit> {
        self.refused = false;
        self.charge(0, text.len())?;
        for line in text.split('\n') {
            match protocol::parse(line) {
                Ok(Line::Pong) => self.on_heartbeat()?,
                parsed => {
                    self.charge(1, 0)?;
                    self.on_line(parsed).await?;
                }
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

    async fn on_line(&mut self, line: Result<Line<'_>, protocol::Malformed>) -> Result<(), Exit> {
        match line {
            Ok(Line::Command { id, request }) => self.serve(id, request).await,
            Ok(Line::Send) if self.principal.is_some() => Err(self.close(Close::NOT_AVAILABLE)),
            Ok(Line::Send | Line::Pong) | Err(protocol::Malformed) => Err(self.close(Close::BAD_REQUEST)),
        }
    }

    /// `{}`: the answer to ours. One that nobody asked for is ignored.
    fn on_heartbeat(&mut self) -> Result<(), Exit> {
        if self.connected && !self.frame_pings {
            self.timers.pong = None;
        }
        self.charge(1, HEARTBEAT.len())
    }

    fn on_control(&mut self, message: Message) -> Result<(), Exit> {
        match message {
            // Counted, because a flood of them costs as much as one of commands.
            Message::Ping(payload) => {
                self.charge(1, payload.len())?;
                self.queue(Outgoing::Pong(&payload))
            }
            Message::Pong => {
                if !self.connected || self.frame_pings {
                    self.timers.pong = None;
                }
                self.charge(1, 0)
            }
            Message::Close(code) => Err(Exit::Left(code)),
            // The wire refuses binary messages before it has read them.
            Message::Binary(_) => Err(self.close(Close::BINARY)),
            Message::Text(_) => Ok(()),
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
            self.timers.retry = Some(self.state.wheel.after(RETRY));
            return Ok(());
        }
        // Judging may have waited; the pushes are judged by now, and what does not leave stays where it is.
        if self.wire.pending() == 0 {
            for line in self.link().take_pushes(WRITE_EARLY) {
                let push = Outgoing::Text(&line);
                // The text's room is reserved since it was queued.
                self.link().reserve_anyway(push.frame_bytes() - line.len());
                self.wire.queue(push);
            }
        }
        Ok(())
    }

    async fn on_due(&mut self) -> Result<(), Exit> {
        let now = self.state.wheel.now();
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
            if self.unsure_since.is_some() || now.since(self.judged_at) > REJUDGE_EVERY {
                self.judge().await?;
            }
        }
        if take_due(&mut self.timers.retry, now) {
            self.on_signal().await?;
        }
        Ok(())
    }

    fn beat(&mut self, now: Tick) -> Result<(), Exit> {
        let config = &self.state.config;
        self.timers.heartbeat = now.after(config.ping_interval);
        self.timers.pong.get_or_insert_with(|| self.state.wheel.after(config.pong_timeout));
        let by_frame = !self.connected || self.frame_pings;
        self.queue(if by_frame { Outgoing::Ping(b"") } else { Outgoing::Text(HEARTBEAT) })
    }

    /// `connect` was answered: the protocol's own heartbeat begins.
    pub(super) fn start_heartbeat(&mut self) {
        self.connected = true;
        self.timers.pong = None;
        let wait = first_heartbeat(self.link().id(), self.state.config.ping_interval);
        self.timers.heartbeat = self.state.wheel.after(wait);
    }

    async fn say_goodbye(mut self: Box<Self>, exit: Exit) {
        // Answers first: who logs out over the socket hears that it worked, then the close. All of it was executed, or
        // judged fit to be pushed, before the verdict.
        let _ = self.write_now().await;
        let closing = match exit {
            Exit::Left(code) => {
                self.log_end(code.unwrap_or(1005), "the client left");
                drop((self.registration, self.counted));
                return self.wire.answer_close(code).await;
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
            Exit::Failed(_) => self.wire.hang_up().await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;

    fn future_bytes<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What each idle socket holds of ours, in bytes. `docs/performance.md` has the rest of the budget.
    #[test]
    fn an_idle_socket_is_small() {
        let parts = [
            ("the connection", size_of::<Connection>(), 256),
            ("its wire", size_of::<Wire>(), 80),
            ("its link", size_of::<Link>(), 208),
            ("the future of its task", future_bytes(Socket::live), 128),
        ];
        for (name, bytes, most) in parts {
            println!("{name}: {bytes} bytes");
            assert!(bytes <= most, "{name}: {bytes} bytes");
        }
    }
}
