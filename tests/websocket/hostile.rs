//! Clients that mean no good: they are closed with the right code, cost no more than they may, and trouble nobody else.

use std::time::Duration;

use serde_json::json;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::common::raw::{RawSocket, close_frame, frame};
use crate::common::{Mode, Node, Stage, eventually, stages};

stages! {
    embedded: [
        a_flood_of_pings_is_3013,
        who_does_not_read_is_3008_and_costs_no_more_than_the_outbox,
        resets_at_every_stage_leave_nothing_behind,
        noise_is_closed_and_troubles_nobody,
    ],
}

const OUTBOX: usize = 64 * 1024;

/// One value from `/metrics`; 0 when there is none.
async fn metric(node: &Node, line: &str) -> f64 {
    let answer = node.get("/metrics").send().await.expect(200);
    let value = answer.text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or(0.0)
}

async fn is_healthy(node: &Node) {
    node.get("/health").send().await.expect(200);
}

async fn a_flood_of_pings_is_3013(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_THROTTLING", "on").start().await;
    let token = stage.a().signup().await.token;
    for ping in [frame(0x89, b""), frame(0x89, &[b'x'; 125]), frame(0x8a, b""), frame(0x81, b"{}")] {
        let mut socket = stage.a().raw_socket(&token).await;
        socket.write(&ping.repeat(500)).await;
        assert_eq!(socket.ended_with().await, 3013);
    }
    is_healthy(stage.a()).await;
}

async fn who_does_not_read_is_3008_and_costs_no_more_than_the_outbox(mode: Mode) {
    const CLIENTS: usize = 1000;
    let stage = mode.own().env("PORTCULLIS_OUTBOX_BYTES", "64KiB").start().await;
    let token = stage.a().signup().await.token;
    let before = metric(stage.a(), "process_resident_memory_bytes").await;
    let echo = json!({"id": 1, "rpc": {"method": "echo", "data": "x".repeat(16 * 1024)}}).to_string();
    let echo = frame(0x81, echo.as_bytes());
    let mut sockets = Vec::new();
    for _ in 0..CLIENTS {
        let socket = TcpSocket::new_v4().expect("a socket");
        // What the kernel holds for the client is no part of the outbox.
        socket.set_recv_buffer_size(4096).expect("set SO_RCVBUF");
        let stream = socket.connect(stage.a().authority().parse().expect("an address")).await.expect("connect");
        sockets.push(RawSocket::open(stream, &stage.a().handshake_bytes(&token)).await);
    }
    let floods = sockets.iter_mut().map(async |socket| {
        // Until the server has had enough.
        let _ = timeout(Duration::from_secs(60), async { while socket.stream.write_all(&echo).await.is_ok() {} }).await;
    });
    futures_util::future::join_all(floods).await;
    let closed = eventually("all of them are closed as slow", async || {
        let closed = metric(stage.a(), r#"portcullis_forced_disconnects_total{code="3008"}"#).await;
        (closed >= CLIENTS as f64).then_some(closed)
    });
    assert!((closed.await - CLIENTS as f64).abs() < 0.5);
    let grown = metric(stage.a(), "process_resident_memory_bytes").await - before;
    // The outbox, as much again for its growth, a message on its way, and what the program takes for itself.
    let allowed = CLIENTS * (2 * OUTBOX + 64 * 1024) + (16 << 20);
    eprintln!("grown by {grown} bytes");
    assert!(grown < allowed as f64, "grown by {grown} bytes");
    drop(sockets);
    is_healthy(stage.a()).await;
    stage.a().connect(&token).await.expect_open().await;
}

async fn connections_are_gone(stage: &Stage) {
    eventually("no connection is left", async || {
        (metric(stage.a(), "portcullis_websocket_connections").await == 0.0).then_some(())
    })
    .await;
}

async fn resets_at_every_stage_leave_nothing_behind(mode: Mode) {
    let stage = mode.own().start().await;
    let token = stage.a().signup().await.token;
    let handshake = stage.a().handshake_bytes(&token);
    let echo = frame(0x81, br#"{"id":1,"rpc":{"method":"echo","data":1}}"#);
    for cut in [0, 1, 30, handshake.len() - 1, handshake.len()] {
        let mut stream = stage.a().tcp().await;
        stream.write_all(&handshake[..cut]).await.expect("write");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set SO_LINGER");
    }
    let halves: [&[u8]; 6] = [b"", &echo[..1], &echo[..5], &echo[..20], &echo, &close_frame(1000, b"")];
    for sent in halves {
        let mut socket = stage.a().raw_socket(&token).await;
        socket.write(sent).await;
        socket.reset();
        is_healthy(stage.a()).await;
    }
    // While the server waits for the answer to its close frame.
    let mut socket = stage.a().raw_socket(&token).await;
    socket.write(&frame(0x82, b"binary")).await;
    assert_eq!(socket.answer().await.close_code(), 1003);
    socket.reset();
    connections_are_gone(&stage).await;
    stage.a().connect(&token).await.expect_open().await;
}

async fn noise_is_closed_and_troubles_nobody(mode: Mode) {
    let stage = mode.own().start().await;
    let token = stage.a().signup().await.token;
    let mut other = stage.a().connect(&token).await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..40 {
        let noise: Vec<u8> = (0..2000)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let mut socket = stage.a().raw_socket(&token).await;
        // Half of it as the payload of good frames.
        let bytes = if round % 2 == 0 { noise } else { frame(0x81, &noise) };
        socket.write(&bytes).await;
        let code = socket.ended_with().await;
        assert!([1002, 1003, 1007, 1009].contains(&code), "{code}");
    }
    assert_eq!(other.rpc("echo", json!(1)).await["rpc"]["data"], 1);
    is_healthy(stage.a()).await;
    drop(other);
    connections_are_gone(&stage).await;
}
