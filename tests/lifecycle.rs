//! How a node starts, stops and comes back; and what it never writes down.

mod common;

use std::time::{Duration, Instant};

use common::gateway::Settings;
use common::people::{claims, new_password};
use common::servers::{PostgresServer, RedisServer};
use common::{DEADLINE, Mode, Socket, eventually, stages};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

stages! {
    both: [
        sigterm_drains_and_ends_with_0,
        sockets_are_told_of_a_shutdown_one_after_the_other,
        a_draining_node_takes_no_new_sockets,
        a_request_in_flight_is_finished,
        a_second_signal_cuts,
        a_restart_keeps_sessions_and_tokens,
        a_crash_loses_nothing_that_was_answered,
        no_secret_reaches_the_log,
    ],
    cluster: [
        two_nodes_start_at_once_on_an_empty_database,
        the_other_node_serves_while_one_is_gone,
    ],
    embedded: [a_bad_setting_stops_the_start_and_is_named, a_start_says_where_everything_is, keys_are_for_their_owner_alone],
}

async fn many_sockets(node: &common::Node, count: usize) -> Vec<Socket> {
    let alice = node.signup().await;
    let mut sockets = Vec::new();
    for _ in 0..count {
        sockets.push(node.connect(&alice.token).await);
    }
    sockets
}

async fn sigterm_drains_and_ends_with_0(mode: Mode) {
    let stage = mode
        .own()
        .env("PORTCULLIS_DRAIN_WINDOW", "1s")
        .start()
        .await;
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
    let stage = mode
        .own()
        .env("PORTCULLIS_DRAIN_WINDOW", "4s")
        .start()
        .await;
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
    let herd = ends
        .windows(20)
        .map(|half| half[19] - half[0])
        .min()
        .expect("ends");
    assert!(
        herd > WINDOW / 8,
        "20 of 40 sockets were closed within {herd:?}: {ends:?}"
    );
    assert_eq!(stage.gateways[0].exited().await, 0);
}

async fn a_draining_node_takes_no_new_sockets(mode: Mode) {
    let stage = mode
        .own()
        .env("PORTCULLIS_DRAIN_WINDOW", "8s")
        .start()
        .await;
    let node = stage.a();
    let alice = node.signup().await;
    let mut open = many_sockets(node, 20).await;
    stage.gateways[0].terminate();
    eventually("the node is not ready any more", async || {
        (node.get("/health/ready").send().await.status == 503).then_some(())
    })
    .await;
    node.socket()
        .bearer(&alice.token)
        .attempt()
        .await
        .problem(&[503]);
    node.socket().attempt().await.problem(&[503]);
    node.get("/health/live").send().await.expect(200);
    for socket in &mut open {
        socket.expect_close(3001, "shutdown").await;
    }
    assert_eq!(stage.gateways[0].exited().await, 0);
}

async fn a_request_in_flight_is_finished(mode: Mode) {
    let stage = mode
        .own()
        .env("PORTCULLIS_DRAIN_WINDOW", "3s")
        .start()
        .await;
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
    slow.write_all(format!("{head}{first}").as_bytes())
        .await
        .expect("half a request");
    // Answered on another connection: the node has read what was sent before.
    node.me(&alice.token).await.expect(200);
    stage.gateways[0].terminate();
    eventually("the node drains", async || {
        (node.get("/health/ready").send().await.status == 503).then_some(())
    })
    .await;
    slow.write_all(rest.as_bytes())
        .await
        .expect("the other half");
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(DEADLINE, slow.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("access_token"),
        "{reading:?} {answer}"
    );
    assert_eq!(stage.gateways[0].exited().await, 0);
}

async fn a_second_signal_cuts(mode: Mode) {
    let stage = mode
        .own()
        .env("PORTCULLIS_DRAIN_WINDOW", "10m")
        .start()
        .await;
    let _open = many_sockets(stage.a(), 20).await;
    stage.gateways[0].terminate();
    eventually("the node drains", async || {
        (stage.a().get("/health/ready").send().await.status == 503).then_some(())
    })
    .await;
    assert_eq!(
        stage.gateways[0].exit_code(),
        None,
        "it drains for ten minutes"
    );
    stage.gateways[0].terminate();
    stage.gateways[0].exited().await;
}

async fn a_restart_keeps_sessions_and_tokens(mode: Mode) {
    let stage = mode
        .own()
        .env("PORTCULLIS_DRAIN_WINDOW", "1s")
        .start()
        .await;
    let (alice, ended) = (stage.a().signup().await, stage.a().signup().await);
    stage.a().logout(&ended.token).await.expect(200);
    for _ in 0..2 {
        stage.gateways[0].stop().await;
        stage.gateways[0].restart().await;
        for node in stage.nodes() {
            node.me(&alice.token).await.expect(200);
            node.validate(&alice.session_id).await.expect(200);
            node.connect(&alice.token).await.expect_open().await;
            node.me(&ended.token).await.is_bad_token();
            node.validate(&ended.session_id).await.is_unauthenticated();
        }
    }
    stage
        .a()
        .try_login(&alice.email, &alice.password)
        .await
        .expect(200);
}

async fn a_crash_loses_nothing_that_was_answered(mode: Mode) {
    let stage = mode.own().start().await;
    for _ in 0..3 {
        let (alice, ended) = (stage.a().signup().await, stage.a().signup().await);
        let new = new_password();
        stage
            .a()
            .change_password(&alice.token, &alice.password, &new)
            .await
            .expect(200);
        stage.a().logout(&ended.token).await.expect(200);
        stage.gateways[0].kill();
        stage.gateways[0].restart().await;
        stage.a().me(&ended.token).await.is_bad_token();
        stage
            .a()
            .validate(&ended.session_id)
            .await
            .is_unauthenticated();
        stage.a().me(&alice.token).await.expect(200);
        stage
            .a()
            .try_login(&alice.email, &alice.password)
            .await
            .is_problem(401, "invalid_credentials");
        stage.a().try_login(&alice.email, &new).await.expect(200);
    }
}

async fn two_nodes_start_at_once_on_an_empty_database(_: Mode) {
    for _ in 0..3 {
        let database = PostgresServer::shared().database().await;
        let redis = RedisServer::start();
        let settings = Settings::embedded().postgres(&database).redis(&redis);
        let gateways = [
            settings.clone().spawn(),
            settings.clone().spawn(),
            settings.spawn(),
        ];
        for gateway in &gateways {
            gateway.ready().await;
        }
        for issuer in &gateways {
            let alice = issuer.node().signup().await;
            for node in gateways.iter().map(common::Gateway::node) {
                // At once: no second try.
                node.me(&alice.token).await.expect(200);
                node.validate(&alice.session_id).await.expect(200);
                node.connect(&alice.token).await.expect_open().await;
            }
        }
    }
}

async fn the_other_node_serves_while_one_is_gone(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut open = stage.b().connect(&alice.token).await;
    stage.gateways[0].kill();
    // Its signature is good though it cannot be asked any more.
    stage.b().me(&alice.token).await.expect(200);
    let next = stage.b().login(&alice).await;
    open.expect_open().await;
    stage.b().logout_all(&next.token).await.expect(200);
    open.expect_forced(4501, "logged out everywhere").await;
    stage.gateways[0].restart().await;
    stage.a().me(&alice.token).await.is_bad_token();
    stage.a().me(&next.token).await.is_bad_token();
    let again = stage.a().login(&alice).await;
    stage.b().me(&again.token).await.expect(200);
}

async fn a_bad_setting_stops_the_start_and_is_named(_: Mode) {
    for (name, value) in [
        ("PORTCULLIS_ACCESS_TOKEN_TTL", "banana"),
        ("PORTCULLIS_ACCESS_TOKEN_TTL", "0s"),
        ("PORTCULLIS_SESSION_TTL", "-1d"),
        ("PORTCULLIS_CONNECT_TIMEOUT", "15"),
        ("PORTCULLIS_MAX_MESSAGE_BYTES", "many"),
        ("PORTCULLIS_COOKIES", "perhaps"),
        ("PORTCULLIS_THROTTLING", "sometimes"),
        (
            "PORTCULLIS_ALLOWED_ORIGINS",
            "https://app.example/with/a/path",
        ),
        ("PORTCULLIS_TRUSTED_PROXIES", "everybody"),
        ("PORT", "70000"),
        ("HOST", "not a host"),
        ("DATABASE_URL", "nonsense://somewhere"),
        ("REDIS_URL", "nonsense://somewhere"),
    ] {
        let gateway = Settings::embedded().env(name, value).spawn();
        let code = gateway.exited().await;
        assert!(
            code != 0 && code < 128,
            "{name}={value}: it ended with {code}"
        );
        let log = gateway.log();
        assert!(log.contains(name), "{name}={value} is not named: {log}");
        assert!(!log.contains("panicked"), "{name}={value}: {log}");
    }
}

async fn a_start_says_where_everything_is(_: Mode) {
    let gateway = Settings::embedded().without("RUST_LOG").start().await;
    let log = gateway.log();
    for said in [
        gateway.node().authority(),
        &gateway.data_dir().display().to_string(),
    ] {
        assert!(log.contains(said), "{said} is not said: {log}");
    }
    assert!(
        log.to_lowercase().contains("throttling"),
        "switched off rate limits are said: {log}"
    );
}

async fn keys_are_for_their_owner_alone(_: Mode) {
    use std::os::unix::fs::PermissionsExt;
    let gateway = Settings::embedded().start().await;
    let mut found = 0;
    let mut folders = vec![gateway.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("read DATA_DIR").flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().expect("metadata"));
            if metadata.is_dir() {
                folders.push(path);
            } else if String::from_utf8_lossy(&std::fs::read(&path).expect("read"))
                .contains("PRIVATE KEY")
            {
                found += 1;
                assert_eq!(
                    metadata.permissions().mode() & 0o777,
                    0o600,
                    "{}",
                    path.display()
                );
            }
        }
    }
    assert!(
        found > 0,
        "no private key in {}",
        gateway.data_dir().display()
    );
}

async fn no_secret_reaches_the_log(mode: Mode) {
    let open = mode
        .own()
        .env("RUST_LOG", "trace")
        .env("PORTCULLIS_COOKIES", "on");
    let stage = open.env("PORTCULLIS_DRAIN_WINDOW", "1s").start().await;
    let alice = stage.a().signup().await;
    let bob = stage.b().signup().await;
    let (wrong, new) = (new_password(), new_password());
    let ticket = stage.a().ticket(&alice.token, None).await;
    let unused = stage.a().ticket(&alice.token, None).await;
    let renewed = stage
        .b()
        .validate(&alice.session_id)
        .await
        .expect(200)
        .str("access_token")
        .to_owned();
    stage.a().try_login(&alice.email, &wrong).await.expect(401);
    let form = [
        ("username", alice.email.as_str()),
        ("password", alice.password.as_str()),
    ];
    stage
        .a()
        .post("/api/v1/auth/login")
        .form(&form)
        .send()
        .await
        .expect(200);
    stage
        .a()
        .change_password(&alice.token, &wrong, &new)
        .await
        .expect(403);
    stage
        .a()
        .change_password(&alice.token, &alice.password, &new)
        .await
        .expect(200);

    let node = stage.b();
    let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
    let mut sockets = vec![
        node.connect(&alice.token).await,
        node.socket().bearer(&alice.token).open().await,
        node.socket().subprotocols(&offered).open().await,
        node.socket().ticket(&ticket).open().await,
        node.socket()
            .cookie(&alice.session_id)
            .origin(&node.url)
            .open()
            .await,
    ];
    node.socket()
        .ticket(&ticket)
        .attempt()
        .await
        .problem(&[401]);
    let path = format!("/ws?token={}&ticket={unused}", alice.token);
    node.socket().path(&path).attempt().await.problem(&[400]);
    node.get(&format!("/api/v1/auth/me?token={}", alice.token))
        .send()
        .await
        .problem(&[400, 401]);
    assert!(
        sockets[0]
            .command(json!({"refresh": {"token": renewed}}))
            .await["refresh"]
            .is_object()
    );
    // What cannot be read must not be quoted either.
    node.post("/api/v1/auth/login")
        .body(format!("{{\"password\": \"{wrong}\", "))
        .send()
        .await
        .problem(&[400]);
    node.post("/api/v1/auth/validate-session")
        .json(&json!({"session_id": [bob.session_id]}))
        .send()
        .await;
    sockets[1]
        .send(&format!(
            "{{\"id\":1,\"connect\":{{\"token\":[\"{}\"]}}}}",
            bob.token
        ))
        .await;
    sockets[1].expect_close(3501, "bad request").await;
    stage.a().logout_all(&alice.token).await.expect(200);
    sockets[0]
        .expect_forced(4501, "logged out everywhere")
        .await;
    for gateway in &stage.gateways {
        gateway.stop().await;
    }

    let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    let secrets = [
        ("a password", alice.password.clone()),
        ("a wrong password", wrong),
        ("a new password", new),
        ("a session_id", alice.session_id.clone()),
        ("a session_id", bob.session_id.clone()),
        (
            "a session_id without hyphens",
            alice.session_id.replace('-', ""),
        ),
        ("a token", signature(&alice.token)),
        ("a token", signature(&renewed)),
        ("a token", signature(&bob.token)),
        ("a ticket", ticket),
        ("a ticket", unused),
    ];
    for gateway in &stage.gateways {
        let log = gateway.log();
        assert!(
            log.contains("TRACE"),
            "RUST_LOG is not heard, so this shows nothing"
        );
        for (what, secret) in &secrets {
            let line = log.lines().find(|line| line.contains(secret.as_str()));
            assert!(
                line.is_none(),
                "{what} in the log: {}",
                line.unwrap_or_default()
            );
        }
    }
    // The public handle is what logs are for.
    let sid = claims(&alice.token)["sid"]
        .as_str()
        .expect("a sid")
        .to_owned();
    assert!(
        stage
            .gateways
            .iter()
            .any(|gateway| gateway.log().contains(&sid)),
        "no log line names the session"
    );
}
