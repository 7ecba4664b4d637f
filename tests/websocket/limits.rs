//! Every limit: what is refused, with which status or code, and that it is counted.

use serde_json::json;

use crate::common::{Event, Login, Mode, Node, Socket, Stage, eventually, stages};

stages! {
    both: [
        one_more_than_a_user_may_have_is_429_before_the_upgrade_and_3504_on_connect,
        one_more_than_an_address_may_have_is_429,
        one_more_than_a_node_takes_is_503,
        one_more_that_waits_for_a_credential_is_503,
        handshakes_too_often_are_429,
        commands_too_often_are_3013,
        too_many_bytes_are_3013,
        without_throttling_there_are_no_rates,
    ],
    cluster: [
        without_redis_each_node_counts_for_itself,
        an_emptied_redis_learns_the_counts_again,
        a_node_that_died_takes_no_places,
        of_many_that_come_at_once_as_many_get_in_as_may,
    ],
}

async fn reached(node: &Node, limit: &str) -> u64 {
    let text = node.get("/metrics").send().await.expect(200).text;
    let name = format!("portcullis_limits_reached_total{{limit=\"{limit}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().expect("a number"))
}

/// A socket, or the code it was closed with.
async fn connect(node: &Node, who: &Login) -> Result<Socket, u16> {
    let mut socket = node.socket().open().await;
    socket.send_command(json!({"connect": {"token": who.token}})).await;
    match socket.next().await {
        Event::Reply(reply) if reply["connect"].is_object() => Ok(socket),
        Event::Closed(code, _) => Err(code),
        other => panic!("{other:?}"),
    }
}

async fn three_sockets(stage: &Stage, who: &Login) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for node in [stage.a(), stage.a(), stage.b()] {
        sockets.push(node.connect(&who.token).await);
    }
    sockets
}

async fn one_more_than_a_user_may_have_is_429_before_the_upgrade_and_3504_on_connect(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "3").start().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    let mut sockets = three_sockets(&stage, &alice).await;
    // Everywhere, whoever has how many; and on every device.
    let phone = stage.b().login(&alice).await;
    for node in stage.nodes() {
        for who in [&alice, &phone] {
            node.socket().bearer(&who.token).attempt().await.is_problem(429, "connection_limit");
            let mut socket = node.socket().open().await;
            socket.send_command(json!({"connect": {"token": who.token}})).await;
            socket.expect_close(3504, "connection limit").await;
        }
        assert!(reached(node, "user").await >= 4);
        node.connect(&bob.token).await;
    }
    for socket in &mut sockets {
        socket.expect_open().await;
    }
    // A place that is free again can be had on any node.
    drop(sockets.pop());
    drop(eventually("a place is free", async || connect(stage.a(), &phone).await.ok()).await);
    drop(eventually("a place is free", async || connect(stage.b(), &phone).await.ok()).await);
}

async fn one_more_than_an_address_may_have_is_429(mode: Mode) {
    let stage = mode
        .own()
        .env("PORTCULLIS_MAX_CONNECTIONS_PER_ADDRESS", "3")
        .env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1")
        .start()
        .await;
    let alice = stage.a().signup().await;
    let from = |node: &Node, address: &str| {
        let node = node.clone();
        let address = address.to_owned();
        async move { node.socket().header("x-forwarded-for", &address).open().await }
    };
    let mut sockets = Vec::new();
    for (node, host) in [(stage.a(), 1), (stage.b(), 2), (stage.a(), 3)] {
        sockets.push(from(node, &format!("2001:db8:1:1::{host}")).await);
    }
    for node in stage.nodes() {
        let knock = || node.socket().header("x-forwarded-for", "2001:db8:1:1::4");
        knock().attempt().await.is_problem(429, "connection_limit");
        // Also with a good credential.
        knock().bearer(&alice.token).attempt().await.is_problem(429, "connection_limit");
        assert!(reached(node, "address").await >= 2);
        // Another /64, and what a client writes into the header itself.
        from(node, "2001:db8:1:2::1").await;
        from(node, "2001:db8:1:1::4, 203.0.113.9").await;
    }
}

async fn one_more_than_a_node_takes_is_503(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_CONNECTIONS", "3").start().await;
    let alice = stage.a().signup().await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(stage.a().connect(&alice.token).await);
    }
    stage.a().socket().bearer(&alice.token).attempt().await.is_problem(503, "node_full");
    assert_eq!(reached(stage.a(), "node").await, 1);
    stage.a().get("/health").send().await.expect(200);
    if mode == Mode::Cluster {
        stage.b().connect(&alice.token).await;
    }
    drop(sockets);
    let knock = async || stage.a().socket().bearer(&alice.token).attempt().await;
    eventually("a place is free", async || (knock().await.status == 101).then_some(())).await;
}

async fn one_more_that_waits_for_a_credential_is_503(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_WAITING_CONNECTIONS", "2").start().await;
    let alice = stage.a().signup().await;
    let (mut first, _second) = (stage.a().socket().open().await, stage.a().socket().open().await);
    stage.a().socket().attempt().await.is_problem(503, "too_many_waiting");
    assert_eq!(reached(stage.a(), "waiting").await, 1);
    // Whoever shows one in the handshake does not wait, and whoever shows one later waits no longer.
    stage.a().socket().bearer(&alice.token).open().await.expect_admitted(&alice.user_id).await;
    assert!(first.connect(&alice.token).await["connect"].is_object());
    stage.a().socket().open().await;
}

async fn handshakes_too_often_are_429(mode: Mode) {
    let stage = mode
        .own()
        .without("PORTCULLIS_THROTTLING")
        .env("PORTCULLIS_MAX_HANDSHAKES_PER_SECOND", "1")
        .env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1")
        .start()
        .await;
    let knock = |host: u8| stage.a().socket().header("x-forwarded-for", &format!("203.0.113.{host}"));
    for _ in 0..5 {
        knock(1).open().await;
    }
    eventually("the address is refused", async || {
        let answer = knock(1).attempt().await;
        (answer.status == 429).then(|| answer.is_problem(429, "too_many_requests"))
    })
    .await;
    assert!(reached(stage.a(), "handshakes").await >= 1);
    knock(2).open().await;
}

async fn commands_too_often_are_3013(mode: Mode) {
    let stage =
        mode.own().without("PORTCULLIS_THROTTLING").env("PORTCULLIS_MAX_COMMANDS_PER_SECOND", "10").start().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().connect(&alice.token).await;
    let lines: Vec<String> = (10..100).map(|id| json!({"id": id, "ping": {}}).to_string()).collect();
    socket.send(&lines.join("\n")).await;
    socket.expect_close(3013, "too many requests").await;
    assert_eq!(reached(stage.a(), "messages").await, 1);
}

fn large_echo() -> String {
    json!({"id": 2, "rpc": {"method": "echo", "data": "x".repeat(60_000)}}).to_string()
}

async fn too_many_bytes_are_3013(mode: Mode) {
    let stage =
        mode.own().without("PORTCULLIS_THROTTLING").env("PORTCULLIS_MAX_BYTES_PER_SECOND", "1KiB").start().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().connect(&alice.token).await;
    // The largest message fits even into so small a rate, once.
    socket.send(&large_echo()).await;
    assert!(socket.reply(2).await["rpc"].is_object());
    socket.send(&large_echo()).await;
    socket.expect_close(3013, "too many requests").await;
    assert_eq!(reached(stage.a(), "bytes").await, 1);
}

async fn without_throttling_there_are_no_rates(mode: Mode) {
    let stage = mode
        .own()
        .env("PORTCULLIS_MAX_HANDSHAKES_PER_SECOND", "1")
        .env("PORTCULLIS_MAX_COMMANDS_PER_SECOND", "1")
        .env("PORTCULLIS_MAX_BYTES_PER_SECOND", "1KiB")
        .start()
        .await;
    let alice = stage.a().signup().await;
    for _ in 0..20 {
        stage.a().socket().open().await;
    }
    let mut socket = stage.a().connect(&alice.token).await;
    for _ in 0..3 {
        socket.send(&large_echo()).await;
        assert!(socket.reply(2).await["rpc"].is_object());
    }
    socket.expect_open().await;
}

async fn without_redis_each_node_counts_for_itself(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "3").start().await;
    let alice = stage.a().signup().await;
    let mut sockets = three_sockets(&stage, &alice).await;
    assert_eq!(connect(stage.b(), &alice).await.err(), Some(3504));
    stage.redis().kill();
    // No answer, no refusal: b has one of them.
    for _ in 0..2 {
        let socket = eventually("b takes it", async || connect(stage.b(), &alice).await.ok()).await;
        sockets.push(socket);
    }
    assert_eq!(connect(stage.b(), &alice).await.err(), Some(3504), "three are three, with Redis or without");
    // With Redis back, and empty, they are counted together again.
    stage.redis().restart();
    drop(sockets.pop());
    let refused = async || connect(stage.b(), &alice).await.err();
    assert_eq!(eventually("five are too many", refused).await, 3504);
}

/// Nothing fails when somebody empties Redis: a node finds out when it says the next time that it lives.
async fn an_emptied_redis_learns_the_counts_again(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "3").start().await;
    let alice = stage.a().signup().await;
    let _sockets = three_sockets(&stage, &alice).await;
    stage.redis().run(&["FLUSHALL"]);
    let refused = async || connect(stage.b(), &alice).await.err();
    assert_eq!(eventually("the counts are there again", refused).await, 3504);
}

async fn a_node_that_died_takes_no_places(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "3").start().await;
    let alice = stage.a().signup().await;
    let _sockets = three_sockets(&stage, &alice).await;
    assert_eq!(connect(stage.b(), &alice).await.err(), Some(3504));
    stage.gateways[0].kill();
    let mut more = Vec::new();
    for _ in 0..2 {
        more.push(eventually("its places are free", async || connect(stage.b(), &alice).await.ok()).await);
    }
    assert_eq!(connect(stage.b(), &alice).await.err(), Some(3504));
}

async fn of_many_that_come_at_once_as_many_get_in_as_may(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "5").start().await;
    let alice = stage.a().signup().await;
    for node in stage.nodes() {
        // Known to both, so that what is asked for at once is the count.
        node.me(&alice.token).await.expect(200);
    }
    let coming: Vec<_> = (0..40)
        .map(|index| {
            let (node, alice) = (stage.nodes()[index % 2].clone(), alice.clone());
            tokio::spawn(async move { connect(&node, &alice).await })
        })
        .collect();
    let mut open = Vec::new();
    for came in coming {
        match came.await.expect("an answer") {
            Ok(socket) => open.push(socket),
            Err(code) => assert_eq!(code, 3504),
        }
    }
    assert!(open.len() <= 5, "{} got in", open.len());
    // Who was refused beside others that were refused too may have left a place.
    while open.len() < 5 {
        open.push(eventually("the places are taken", async || connect(stage.b(), &alice).await.ok()).await);
    }
    assert_eq!(connect(stage.a(), &alice).await.err(), Some(3504));
}
