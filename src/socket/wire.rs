//! One socket's frames: tungstenite on the bare TCP stream, and how to say goodbye so that the peer hears it.
//!
//! The only place that knows the WebSocket library.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

pub(super) use tokio_tungstenite::tungstenite::Message;

use crate::protocol::{Close, disconnect_push};

/// How long a close frame may take to leave.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// How long the peer has to answer it.
const LINGER_TIME: Duration = Duration::from_secs(3);
/// Bytes of a broken stream that are read and thrown away while the peer takes notice.
const LINGER_BYTES: usize = 4 << 20;
/// Allocated at once and kept: most of what an idle socket costs.
const READ_BUFFER: usize = 512;
/// Messages up to here are gathered into one write.
const GATHERED: usize = 1024;
/// The outbox bounds what waits; this only stops the library's own answers to a flood of pings.
const WRITE_FUSE: usize = 1 << 20;

/// The connection under the frames.
pub(super) enum Io {
    /// What our server hands over, without a layer in between.
    Tcp(TcpStream),
    /// Whatever another server (of a test, say) hands over.
    Other(Box<TokioIo<Upgraded>>),
}

impl Io {
    /// Takes the connection out of hyper, with the bytes that it has read already.
    pub(super) fn from_upgraded(upgraded: Upgraded) -> (Self, Vec<u8>) {
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => {
                let tcp = parts.io.into_inner();
                // A close frame must not wait for the peer's acknowledgement of what was sent before it.
                let _ = tcp.set_nodelay(true);
                (Self::Tcp(tcp), parts.read_buf.to_vec())
            }
            Err(upgraded) => (Self::Other(Box::new(TokioIo::new(upgraded))), Vec::new()),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Other(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Other(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
            Self::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// What was read.
pub(super) enum Incoming {
    Message(Message),
    /// The stream is at its end; `Some` when the peer must be told what was wrong with it.
    Failed(Option<Close>),
}

/// A socket's frames, in and out.
pub(super) struct Wire {
    frames: WebSocketStream<Io>,
    unflushed: bool,
}

impl Wire {
    pub(super) async fn new(io: Io, already_read: Vec<u8>, max_message_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(GATHERED)
            .max_write_buffer_size(WRITE_FUSE + max_message_bytes)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        let frames = WebSocketStream::from_partially_read(io, already_read, Role::Server, Some(config)).await;
        Self { frames, unflushed: false }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let next = ready!(Pin::new(&mut self.frames).poll_next(cx));
        Poll::Ready(match next {
            Some(Ok(message)) => Incoming::Message(message),
            Some(Err(error)) => Incoming::Failed(answer_to(&error)),
            None => Incoming::Failed(None),
        })
    }

    /// Ready when a message may be [`put`](Self::put).
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Option<Close>>> {
        Pin::new(&mut self.frames).poll_ready(cx).map_err(|error| answer_to(&error))
    }

    pub(super) fn put(&mut self, message: Message) -> Result<(), Option<Close>> {
        self.unflushed = true;
        Pin::new(&mut self.frames).start_send(message).map_err(|error| answer_to(&error))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Option<Close>>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.frames).poll_flush(cx)).map_err(|error| answer_to(&error))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the close frame, behind the push that announces it where there is one, in one write. False when it could
    /// not leave in time.
    pub(super) async fn close(&mut self, close: Close) -> bool {
        let leaving = async {
            if close.is_announced() {
                self.frames.feed(Message::Text(disconnect_push(close).into())).await?;
            }
            let frame = CloseFrame { code: close.code.into(), reason: Utf8Bytes::from_static(close.reason) };
            self.frames.send(Message::Close(Some(frame))).await
        };
        matches!(timeout(FLUSH_TIME, leaving).await, Ok(Ok(())))
    }

    /// Waits for the peer's close frame, or for the answer to it to leave.
    pub(super) async fn linger(mut self) {
        let _ = timeout(LINGER_TIME, async {
            while let Some(Ok(_)) = self.frames.next().await {}
            self.frames.flush().await
        })
        .await;
    }

    /// After a stream that made no sense: reads on without looking, because closing a TCP connection with unread bytes
    /// resets it, and the peer would lose the close frame.
    pub(super) async fn linger_broken(self) {
        let mut io = self.frames.into_inner();
        let _ = timeout(LINGER_TIME, async move {
            io.shutdown().await?;
            let mut sink = [0; 1024];
            let mut total = 0;
            while total < LINGER_BYTES {
                match io.read(&mut sink).await? {
                    0 => break,
                    read => total += read,
                }
            }
            io::Result::Ok(())
        })
        .await;
    }
}

/// The close frame that an error of the stream calls for, which the library leaves to us. None when there is nobody
/// left to tell.
fn answer_to(error: &Error) -> Option<Close> {
    match error {
        Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake
            | ProtocolError::ReceivedAfterClosing
            | ProtocolError::SendAfterClosing,
        ) => None,
        Error::Protocol(_) | Error::AttackAttempt => Some(Close::PROTOCOL_ERROR),
        Error::Utf8(_) => Some(Close::INVALID_UTF8),
        Error::Capacity(_) => Some(Close::TOO_BIG),
        Error::WriteBufferFull(_) => Some(Close::SLOW),
        _ => None,
    }
}
