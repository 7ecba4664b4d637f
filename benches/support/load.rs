//! A load generator that costs little: HTTP/1.1 with keep-alive over a handful of TCP connections, one request at a time on
//! each, two system calls a request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One TCP connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, valid until the next request.
pub struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// Bytes of head and body together.
    pub size: usize,
    /// The body.
    pub body: &'a [u8],
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(authority: &str) -> Self {
        let stream = TcpStream::connect(authority).await.expect("connect");
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        Self { stream, buffer: vec![0; 64 * 1024] }
    }

    /// Several of them.
    pub async fn open_many(authority: &str, count: usize) -> Vec<Self> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            connections.push(Self::open(authority).await);
        }
        connections
    }

    /// Sends a request and waits for the end of the answer.
    pub async fn ask(&mut self, request: &[u8]) -> Answer<'_> {
        self.stream.write_all(request).await.expect("send a request");
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await.expect("read an answer");
            assert!(
                read > 0,
                "the server hung up in the middle: {:?}",
                String::from_utf8_lossy(&self.buffer[..filled])
            );
            filled += read;
            if let Some(body_from) = body_of_complete(&self.buffer[..filled]) {
                let answer = &self.buffer[..filled];
                return Answer { status: status_of(answer), size: filled, body: &answer[body_from..] };
            }
        }
    }

    /// Sends a request whose answer must have this status.
    pub async fn expect(&mut self, status: u16, request: &[u8]) -> Answer<'_> {
        let answer = self.ask(request).await;
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(answer.body));
        answer
    }
}

/// Where the body of this answer begins, if the answer is complete.
fn body_of_complete(answer: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    // The hot path of this program: no body, and nothing behind the head.
    if answer.ends_with(END) && answer.get(9..12) == Some(b"204") {
        return Some(answer.len());
    }
    let head = answer.windows(END.len()).position(|window| window == END)? + END.len();
    (answer.len() >= head + content_length(&answer[..head])).then_some(head)
}

fn content_length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).expect("a head of plain text");
    let length = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().expect("a number of bytes"))
    });
    length.unwrap_or(0)
}

fn status_of(answer: &[u8]) -> u16 {
    answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).expect("a status line")
}

/// Forward-auth with this token.
pub fn verify_request(authority: &str, token: &str) -> Vec<u8> {
    format!("GET /api/v1/auth/verify HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\r\n")
        .into_bytes()
}

/// A POST with a JSON body.
pub fn post_request(authority: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Asks on all connections at once until `limit` has passed, each connection going round the requests from a place of its
/// own. Every answer must be 204. Says how many came.
pub async fn for_a_while(connections: &mut [Connection], requests: &[Vec<u8>], limit: Duration) -> u64 {
    let (until, apart) = (Instant::now() + limit, requests.len().div_ceil(connections.len()));
    let asking = connections.iter_mut().enumerate().map(async |(index, connection)| {
        let mut answers = 0;
        for request in requests.iter().cycle().skip(index * apart) {
            if Instant::now() >= until {
                break;
            }
            connection.expect(204, request).await;
            answers += 1;
        }
        answers
    });
    join_all(asking).await.into_iter().sum()
}

/// Sends the requests with these numbers in this order, shared among the connections. Every answer must be 204.
pub async fn replay(connections: &mut [Connection], requests: &[Vec<u8>], order: &[u32]) -> Duration {
    let (started, next) = (Instant::now(), AtomicUsize::new(0));
    let asking = connections.iter_mut().map(async |connection| {
        while let Some(&number) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            connection.expect(204, &requests[number as usize]).await;
        }
    });
    join_all(asking).await;
    started.elapsed()
}

/// The time of each of these requests, sent one after the other on one connection. Every answer must be 204.
pub async fn one_by_one<'a>(authority: &str, requests: impl IntoIterator<Item = &'a Vec<u8>>) -> Latencies {
    let mut connection = Connection::open(authority).await;
    let mut latencies = Vec::new();
    for request in requests {
        let sent = Instant::now();
        connection.expect(204, request).await;
        latencies.push(sent.elapsed());
    }
    latencies.sort();
    Latencies(latencies)
}

/// Times, sorted.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The one that this share of them does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }
}
