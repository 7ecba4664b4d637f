//! A socket client that writes bytes: for frames that no library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Node;
use super::wait::DEADLINE;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame: masked, its length in the fewest bytes.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0xff);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A close frame with a code and a reason.
pub fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes()[..], reason].concat())
}

/// What the server wrote in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The first byte: FIN and the opcode.
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Said {
    /// The code of a close frame; 1005 when it has none, 0 when this is no close frame.
    pub fn close_code(&self) -> u16 {
        match (self.first, self.payload.first_chunk::<2>()) {
            (0x88, Some(code)) => u16::from_be_bytes(*code),
            (0x88, None) => 1005,
            _ => 0,
        }
    }
}

/// A connection whose opening handshake is done.
pub struct RawSocket {
    /// The connection.
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Node {
    /// The bytes of a handshake with this token.
    pub fn handshake_bytes(&self, token: &str) -> Vec<u8> {
        format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n",
            self.authority()
        )
        .into_bytes()
    }

    /// A TCP connection.
    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.authority()).await.expect("connect")
    }

    /// A socket that is admitted by this token and has sent nothing yet.
    pub async fn raw_socket(&self, token: &str) -> RawSocket {
        RawSocket::open(self.tcp().await, &self.handshake_bytes(token)).await
    }
}

impl RawSocket {
    /// Opens a socket on a connection.
    pub async fn open(stream: TcpStream, handshake: &[u8]) -> Self {
        let mut socket = Self { stream, read: Vec::new() };
        socket.write(handshake).await;
        let end = loop {
            if let Some(at) = socket.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(socket.fill().await, "no answer: {:?}", String::from_utf8_lossy(&socket.read));
        };
        let head: Vec<u8> = socket.read.drain(..end).collect();
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&head));
        socket
    }

    /// Writes bytes. A server that has closed already says why in what it wrote before.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Said> {
        loop {
            if let Some((said, size)) = parse(&self.read) {
                self.read.drain(..size);
                return Some(said);
            }
            if !timeout(DEADLINE, self.fill()).await.expect("the server said nothing") {
                return None;
            }
        }
    }

    /// The next frame that is no heartbeat.
    pub async fn answer(&mut self) -> Said {
        loop {
            match self.next().await.expect("the stream ended") {
                Said { first: 0x89, .. } => {}
                said => return said,
            }
        }
    }

    /// Reads on to the end of the stream. The close frame must be the last thing; this is its code.
    pub async fn ended_with(&mut self) -> u16 {
        let mut last = None;
        while let Some(said) = self.next().await {
            last = Some(said);
        }
        last.expect("a close frame").close_code()
    }

    /// Whether nothing is said for a while.
    pub async fn is_silent_for(&mut self, limit: Duration) -> bool {
        self.read.is_empty() && timeout(limit, self.fill()).await.is_err()
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("set SO_LINGER");
    }

    async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.is_ok_and(|read| read > 0)
    }
}

fn parse(bytes: &[u8]) -> Option<(Said, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (length, from) = match second {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let until = from + usize::try_from(length).expect("a length");
    Some((Said { first, payload: bytes.get(from..until)?.to_vec() }, until))
}
