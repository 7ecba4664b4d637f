//! Connections that mean no good: silent, slow, broken off. The door stays open for everybody else.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Mode, Node, eventually, eventually_within, stages};

stages! {
    both: [
        whoever_is_silent_the_longest_gives_way,
        a_connection_that_never_sends_a_byte_is_closed,
        a_head_that_never_ends_is_cut,
        a_body_that_never_ends_is_408,
        large_and_many_headers_are_431,
        a_handshake_with_missing_or_repeated_headers_is_refused,
        resets_at_every_stage_leave_nothing_behind,
    ],
}

/// Room for so many connections that are no sockets, where a test fills it.
const DOORWAY: usize = 40;

async fn open(node: &Node) -> TcpStream {
    TcpStream::connect(node.authority()).await.expect("connect")
}

async fn open_and_send(node: &Node, text: &str) -> TcpStream {
    let mut stream = open(node).await;
    stream.write_all(text.as_bytes()).await.expect("send");
    stream
}

/// Whether the other side has hung up.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Reads to the end; says what came.
async fn end_of(mut stream: TcpStream, limit: Duration) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "still open after {limit:?}: {:?}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

async fn healthy(node: &Node) {
    // On a connection of its own: one from before may be sent away at this very moment.
    node.get("/health").header("connection", "close").send().await.expect(200);
}

async fn whoever_is_silent_the_longest_gives_way(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_HTTP_CONNECTIONS", &DOORWAY.to_string()).start().await;
    let node = stage.a();
    let alice = node.signup().await;
    let mut socket = node.connect(&alice.token).await;
    let head = "GET /health/live HTTP/1.1\r\nHost: x\r\n";
    let body =
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let mut flood = Vec::new();
    for round in 0..10 {
        for index in 0..DOORWAY {
            // Some send nothing, some half a head, some half a body.
            flood.push(open_and_send(node, ["", head, body][(round + index) % 3]).await);
        }
        healthy(node).await;
        node.me(&alice.token).await.expect(200);
        socket.expect_open().await;
    }
    eventually("all but the last have given way", async || {
        (flood.iter().filter(|stream| !is_closed(stream)).count() <= DOORWAY).then_some(())
    })
    .await;
    let metrics = node.get("/metrics").send().await.expect(200).text;
    assert!(metrics.contains("portcullis_limits_reached_total{limit=\"http_connections\"}"), "{metrics}");
    // Sockets are not among those who give way.
    socket.expect_open().await;
    node.connect(&alice.token).await;
}

async fn a_connection_that_never_sends_a_byte_is_closed(mode: Mode) {
    let stage = mode.stage().await;
    let silent = open(stage.a()).await;
    assert_eq!(end_of(silent, Duration::from_secs(40)).await, "");
}

async fn a_head_that_never_ends_is_cut(mode: Mode) {
    let stage = mode.stage().await;
    let (mut reader, mut writer) = open(stage.a()).await.into_split();
    writer.write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n").await.expect("send");
    let dripping = tokio::spawn(async move {
        // A byte at a time renews nothing.
        while writer.write_all(b"X-Slow: x\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(40), reader.read_to_end(&mut answer)).await;
    assert!(reading.is_ok(), "the head may go on for ever");
    dripping.abort();
    healthy(stage.a()).await;
}

async fn a_body_that_never_ends_is_408(mode: Mode) {
    let stage = mode.stage().await;
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
        Content-Length: 1000\r\n\r\n";
    let (mut reader, mut writer) = open_and_send(stage.a(), head).await.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = [0; 16];
    let reading = tokio::time::timeout(Duration::from_secs(40), reader.read_exact(&mut answer)).await;
    assert!(matches!(reading, Ok(Ok(_))), "no answer to a body that never ends");
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    dripping.abort();
    healthy(stage.a()).await;
}

async fn large_and_many_headers_are_431(mode: Mode) {
    let stage = mode.stage().await;
    let one_large = format!("X-Large: {}\r\n", "x".repeat(64 * 1024));
    let many: String = (0..500).map(|index| format!("X-{index}: x\r\n")).collect();
    for headers in [one_large, many] {
        for path in ["/ws", "/health", "/api/v1/auth/me"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
            let answer = stage.a().raw(request.as_bytes()).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer:.200}");
        }
    }
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "x".repeat(64 * 1024));
    let answer = stage.a().raw(long_path.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:.200}");
    healthy(stage.a()).await;
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

async fn a_handshake_with_missing_or_repeated_headers_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let bearer = format!("Authorization: Bearer {}\r\n", alice.token);
    let close = "Connection: close\r\n";
    for (headers, status) in [
        (format!("{close}{KEY}{VERSION}"), 426),
        (format!("Connection: close, Upgrade\r\n{KEY}{VERSION}"), 426),
        (format!("{close}Upgrade: websocket\r\n{KEY}{VERSION}"), 426),
        (format!("{close}{UPGRADE}{VERSION}"), 400),
        (format!("{close}{UPGRADE}{VERSION}{KEY}{KEY}"), 400),
        (format!("{close}{UPGRADE}{KEY}"), 426),
        (format!("{close}{UPGRADE}{KEY}{VERSION}{VERSION}"), 426),
        (format!("{close}{UPGRADE}{KEY}{VERSION}{bearer}{bearer}"), 400),
    ] {
        let answer = stage.a().raw(format!("GET /ws HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers} should be {status}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

async fn resets_at_every_stage_leave_nothing_behind(mode: Mode) {
    let stage = mode.own().start().await;
    let node = stage.a();
    let alice = node.signup().await;
    let handshake = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{UPGRADE}{KEY}{VERSION}");
    let admitted = format!("{handshake}Authorization: Bearer {}\r\n\r\n", alice.token);
    let connect = masked(&json!({"id": 1, "connect": {"token": alice.token}}).to_string());
    let echo = masked(&json!({"id": 2, "rpc": {"method": "echo", "data": "x".repeat(20_000)}}).to_string());
    let with = |head: &str, frames: &[&[u8]]| [&[head.as_bytes()], frames].concat().concat();
    let open = format!("{handshake}\r\n");
    let stages: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"GET".to_vec(),
        handshake.clone().into_bytes(),
        with(&open, &[]),
        with(&admitted, &[]),
        with(&open, &[&connect[..1]]),
        with(&open, &[&connect[..10]]),
        with(&open, &[&connect]),
        with(&open, &[&connect, &echo[..5_000]]),
        with(&open, &[&connect, &echo, &echo, &echo]),
        // A close frame, and gone before the answer.
        with(&open, &[&connect, &[0x88, 0x80, 0, 0, 0, 0]]),
    ];
    for sent in &stages {
        for wait_for_an_answer in [false, true] {
            for _ in 0..5 {
                let mut stream = self::open(node).await;
                stream.write_all(sent).await.expect("send");
                if wait_for_an_answer && sent.ends_with(b"\r\n\r\n") {
                    stream.readable().await.expect("an answer");
                }
                stream.set_zero_linger().expect("a reset");
            }
        }
        healthy(node).await;
    }
    eventually_within(Duration::from_secs(30), "every socket is gone", async || {
        let health = node.get("/health").send().await.expect(200);
        (health["node"]["connections"] == 0).then_some(())
    })
    .await;
    node.connect(&alice.token).await.expect_open().await;
}

/// A text frame as a client sends it, masked with zeros.
fn masked(text: &str) -> Vec<u8> {
    let length = text.len();
    let mut frame = vec![0x81];
    match u8::try_from(length) {
        Ok(short) if short < 126 => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).expect("a short text").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}
