//! SIGTERM: nothing new, nothing cut short, and no herd for the nodes that stay.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{DEADLINE, Mode, Node, Socket, eventually, stages};

stages! {
    both: [
        sigterm_drains_and_ends_with_0,
        sockets_are_told_of_a_shutdown_one_after_the_other,
        a_draining_node_takes_no_new_sockets,
        a_request_in_flight_is_finished,
        a_second_signal_cuts,
    ],
}

async fn many_sockets(node: &Node, count: usize) -> Vec<Socket> {
    let alice = node.signup().await;
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(node.connect(&alice.token).await);
    }
    sockets
}

async fn sigterm_drains_and_ends_with_0(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "1s").start().await;
    let mut sockets = many_sockets(stage.a(), 3).await;
    sockets.push(stage.a().socket().open().await);
    stage.gateways[0].terminate();
    for socket in &mut sockets {
        socket.expect_close(3001, "shutdown").await;
    }
    assert_eq!(stage.gateways[0].exited().await, 0);
}

async fn sockets_are_told_of_a_shutdown_one_after_the_other(mode: Mode) {
    const WINDOW: Duration = Duration::from_secs(4);
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "4s").start().await;
    let sockets = many_sockets(stage.a(), 40).await;
    let started = Instant::now();
    stage.gateways[0].terminate();
    let waiting: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            tokio::spawn(async move {
                socket.expect_close(3001, "shutdown").await;
                started.elapsed()
            })
        })
        .collect();
    let mut ends = Vec::new();
    for end in waiting {
        ends.push(end.await.expect("a close"));
    }
    ends.sort_unstable();
    // Evenly spread they would be 100 ms apart. What must not be is a herd: half of them within an eighth of the window.
    let herd = ends.windows(20).map(|half| half[19] - half[0]).min().expect("ends");
    assert!(herd > WINDOW / 8, "20 of 40 sockets were closed within {herd:?}: {ends:?}");
    assert_eq!(stage.gateways[0].exited().await, 0);
}

async fn a_draining_node_takes_no_new_sockets(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "8s").start().await;
    let node = stage.a();
    let alice = node.signup().await;
    let mut open = many_sockets(node, 20).await;
    stage.gateways[0].terminate();
    eventually("the node is not ready any more", async || {
        (node.get("/health/ready").send().await.status == 503).then_some(())
    })
    .await;
    node.socket().bearer(&alice.token).attempt().await.problem(&[503]);
    node.socket().attempt().await.problem(&[503]);
    node.get("/health/live").send().await.expect(200);
    for socket in &mut open {
        socket.expect_close(3001, "shutdown").await;
    }
    assert_eq!(stage.gateways[0].exited().await, 0);
}

async fn a_request_in_flight_is_finished(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "3s").start().await;
    let node = stage.a();
    let alice = node.signup().await;
    // Something that keeps the node alive while the slow request is on its way.
    let _open = many_sockets(node, 10).await;
    let body = json!({"email": alice.email, "password": alice.password}).to_string();
    let (first, rest) = body.split_at(10);
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        node.authority(),
        body.len()
    );
    let mut slow = TcpStream::connect(node.authority()).await.expect("connect");
    slow.write_all(format!("{head}{first}").as_bytes()).await.expect("half a request");
    // Answered on another connection: the node has read what was sent before.
    node.me(&alice.token).await.expect(200);
    stage.gateways[0].terminate();
    eventually("the node drains", async || (node.get("/health/ready").send().await.status == 503).then_some(())).await;
    slow.write_all(rest.as_bytes()).await.expect("the other half");
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(DEADLINE, slow.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("access_token"), "{reading:?} {answer}");
    assert_eq!(stage.gateways[0].exited().await, 0);
}

async fn a_second_signal_cuts(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "10m").start().await;
    let _open = many_sockets(stage.a(), 20).await;
    stage.gateways[0].terminate();
    eventually("the node drains", async || (stage.a().get("/health/ready").send().await.status == 503).then_some(()))
        .await;
    assert_eq!(stage.gateways[0].exit_code(), None, "it drains for ten minutes");
    stage.gateways[0].terminate();
    stage.gateways[0].exited().await;
}
