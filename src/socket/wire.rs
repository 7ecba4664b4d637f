//! One socket's frames on the bare TCP stream (RFC 6455 sections 5 to 8), and how to say goodbye so that the peer hears it.
//!
//! Made for sockets that are idle: bytes are read into a buffer that all sockets of a thread share, and what waits to be
//! read or written is held only while it waits. Public for `examples/ws_echo`, which runs the RFC's test suite against
//! this very code; everything else lives above it, in `connection`.

mod chunk;
mod decoder;
mod frame;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::protocol::{Close, disconnect_push};
use decoder::Decoder;
use frame::Opcode;

pub(super) use chunk::Chunk;
pub use decoder::{Limits, Message};

/// How long a close frame may take to leave.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// How long the peer has to answer it.
const LINGER_TIME: Duration = Duration::from_secs(3);
/// Bytes that are read and thrown away while the peer takes notice.
const LINGER_BYTES: usize = 4 << 20;
/// A message of the usual size limit comes in with one call.
const READ_BUFFER: usize = 64 * 1024;

thread_local! {
    /// Used between two awaits only.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER].into());
}

/// What was read.
#[derive(Debug)]
pub enum Incoming {
    /// A message, or a control frame.
    Message(Message),
    /// The stream is at its end; `Some` when the peer must be told what was wrong with it.
    Failed(Option<Close>),
}

/// What may be sent.
#[derive(Clone, Copy, Debug)]
pub enum Outgoing<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping; at most 125 bytes.
    Ping(&'a [u8]),
    /// The answer to one.
    Pong(&'a [u8]),
}

impl<'a> Outgoing<'a> {
    fn parts(self) -> (Opcode, &'a [u8]) {
        match self {
            Self::Text(text) => (Opcode::Text, text.as_bytes()),
            Self::Binary(data) => (Opcode::Binary, data),
            Self::Ping(payload) => (Opcode::Ping, payload),
            Self::Pong(payload) => (Opcode::Pong, payload),
        }
    }

    /// Bytes it takes on the wire.
    #[must_use]
    pub fn frame_bytes(self) -> usize {
        frame::frame_bytes(self.parts().1.len())
    }
}

/// A socket's frames, in and out.
pub struct Wire {
    stream: TcpStream,
    decoder: Decoder,
    /// Read, but not looked at yet: more than one message came at once.
    unread: Chunk,
    unsent: Chunk,
}

impl Wire {
    /// Frames on a stream whose opening handshake is done. `already_read` are bytes that came behind it.
    #[must_use]
    pub fn new(stream: TcpStream, already_read: &[u8], limits: Limits) -> Self {
        let mut unread = Chunk::default();
        unread.append(|bytes| bytes.extend_from_slice(already_read));
        Self { stream, decoder: Decoder::new(limits), unread, unsent: Chunk::default() }
    }

    /// The same for a stream whose client waits for the answer to its opening handshake, which leaves first.
    #[must_use]
    pub fn answering(stream: TcpStream, answer: &[u8], already_read: &[u8], limits: Limits) -> Self {
        let mut wire = Self::new(stream, already_read, limits);
        wire.unsent.append(|bytes| bytes.extend_from_slice(answer));
        wire
    }

    /// The next message.
    pub async fn next(&mut self) -> Incoming {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same to be polled. Call it no more after a close frame or a failure.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            if !self.unread.is_empty() {
                let mut input = self.unread.rest();
                let before = input.len();
                let outcome = self.decoder.decode(&mut input);
                let used = before - input.len();
                self.unread.advance(used);
                if let Some(incoming) = told(outcome) {
                    return Poll::Ready(incoming);
                }
            }
            if let Some(incoming) = READ.with_borrow_mut(|buffer| self.poll_read(cx, buffer)) {
                return incoming;
            }
        }
    }

    /// Reads once; `None` when that brought no whole message.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Option<Poll<Incoming>> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Some(Poll::Pending),
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) => return Some(Poll::Ready(Incoming::Failed(None))),
        }
        let mut input = buffer.filled();
        let outcome = self.decoder.decode(&mut input);
        if !input.is_empty() {
            self.unread.append(|bytes| bytes.extend_from_slice(input));
        }
        told(outcome).map(Poll::Ready)
    }

    /// Queues a message, in a frame of its own. It leaves with the next [`poll_flush`](Self::poll_flush); whoever queues
    /// bounds what is [`pending`](Self::pending).
    pub fn queue(&mut self, outgoing: Outgoing<'_>) {
        let (opcode, payload) = outgoing.parts();
        self.unsent.append(|bytes| frame::write(bytes, opcode, payload));
    }

    /// Bytes that wait to leave.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.unsent.rest().len()
    }

    /// Ready when all that was queued has left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, self.unsent.rest()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.unsent.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until all that was queued has left.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends the close frame, behind the push that announces it where there is one, in one write. False when it could
    /// not leave in time.
    pub async fn close(&mut self, close: Close) -> bool {
        if close.is_announced() {
            self.queue(Outgoing::Text(&disconnect_push(close)));
        }
        self.send_close(Some(close.code), close.reason).await
    }

    async fn send_close(&mut self, code: Option<u16>, reason: &str) -> bool {
        let payload = code.map(|code| [&code.to_be_bytes(), reason.as_bytes()].concat()).unwrap_or_default();
        self.unsent.append(|bytes| frame::write(bytes, Opcode::Close, &payload));
        matches!(timeout(FLUSH_TIME, self.flush()).await, Ok(Ok(())))
    }

    /// Answers the peer's close frame with its own code, section 5.5.1, and ends the connection.
    pub async fn answer_close(mut self, code: Option<u16>) {
        if self.send_close(code, "").await {
            self.hang_up().await;
        }
    }

    /// After our close frame: waits for the peer's, and ends the connection. What comes before it is not looked at.
    pub async fn linger(mut self) {
        let answered = timeout(LINGER_TIME, async {
            let mut total = 0;
            while total < LINGER_BYTES {
                match self.next().await {
                    Incoming::Message(Message::Text(text)) => total += text.len(),
                    Incoming::Message(Message::Binary(data)) => total += data.len(),
                    Incoming::Message(Message::Ping(_) | Message::Pong) => total += 1024,
                    Incoming::Message(Message::Close(_)) => return true,
                    Incoming::Failed(close) => return close.is_some(),
                }
            }
            true
        });
        if answered.await == Ok(true) {
            self.hang_up().await;
        }
    }

    /// Ends the connection after the last word. Reads on without looking, because closing a TCP connection with unread
    /// bytes resets it, and the peer would lose the close frame.
    pub async fn hang_up(mut self) {
        let hanging_up = async {
            poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await?;
            let mut total = 0;
            while total < LINGER_BYTES {
                match poll_fn(|cx| self.poll_discard(cx)).await? {
                    0 => break,
                    read => total += read,
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(LINGER_TIME, hanging_up).await;
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READ.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("stream", &self.stream).field("pending", &self.pending()).finish_non_exhaustive()
    }
}

fn told(outcome: Result<Option<Message>, Close>) -> Option<Incoming> {
    match outcome {
        Ok(Some(message)) => Some(Incoming::Message(message)),
        Ok(None) => None,
        Err(close) => Some(Incoming::Failed(Some(close))),
    }
}
