//! The database frozen or gone: nobody can tell, and nobody says no.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Answer, DEADLINE, Event, Login, Mode, Socket, Stage, eventually, stages};
use crate::{accepted_everywhere, all_open, sockets};

stages! {
    cluster: [
        a_frozen_database_is_503_and_never_no,
        a_killed_database_is_503_and_never_no,
        a_muted_socket_is_told_to_come_again_and_lives_on,
        after_the_grace_time_sockets_are_closed_with_4000,
        connect_that_cannot_be_checked_is_4000,
        a_node_that_can_serve_nobody_says_so,
        a_stopped_node_believes_nothing_it_knew,
    ],
}

/// A stage whose nodes can be left without any proof: with Redis in order they may go on, and should.
async fn breakable(mode: Mode) -> Stage {
    mode.own().own_postgres().start().await
}

fn freeze_both(stage: &Stage) {
    stage.postgres().stop_signal();
    stage.redis().stop_signal();
}

fn thaw_both(stage: &Stage) {
    stage.redis().cont_signal();
    stage.postgres().cont_signal();
}

/// Every call that shows a credential, once on every node. They go out together: each may wait for its bound.
async fn ask_everything(stage: &Stage, who: &Login) -> Vec<(&'static str, Answer)> {
    let mut answers = Vec::new();
    for node in stage.nodes() {
        let profile = json!({"full_name": "Alice"});
        let (me, verify, validate, sessions, login, patch, ticket, socket) = tokio::join!(
            node.me(&who.token),
            node.verify(&who.token),
            node.validate(&who.session_id),
            node.sessions(&who.token),
            node.try_login(&who.email, &who.password),
            node.patch_profile(&who.token, &profile),
            node.post("/api/v1/auth/ws-ticket").bearer(&who.token).send(),
            node.socket().bearer(&who.token).attempt(),
        );
        answers.extend([("me", me), ("verify", verify), ("validate", validate), ("sessions", sessions)]);
        answers.extend([("login", login), ("patch", patch), ("ticket", ticket), ("socket", socket)]);
    }
    answers
}

/// Asks until each call has been answered with 503 once, and fails when one is answered with a no.
async fn all_turn_to_503(stage: &Stage, who: &Login) {
    turn_to_503(stage, who).await;
    // By now nobody can tell anything. Each says so in good time, whatever it has to ask: the bound of one question is
    // 2 s, and the rest is room for a busy machine.
    let asked = Instant::now();
    for (call, answer) in ask_everything(stage, who).await {
        assert_eq!(answer.status, 503, "{call}: {answer:#?}");
    }
    let waited = asked.elapsed() / stage.nodes().len() as u32;
    eprintln!("all calls were answered 503 within {waited:.1?}");
    assert!(waited < Duration::from_secs(4), "the slowest 503 took {waited:?}");
}

async fn turn_to_503(stage: &Stage, who: &Login) {
    let started = Instant::now();
    let mut seen: BTreeMap<&str, u16> = BTreeMap::new();
    loop {
        for (call, answer) in ask_everything(stage, who).await {
            if answer.status == 503 {
                answer.problem(&[503]);
            } else {
                assert!([101, 200, 204].contains(&answer.status), "{call}: {answer:#?}");
            }
            let worst = seen.entry(call).or_default();
            *worst = answer.status.max(*worst);
        }
        if seen.values().all(|worst| *worst == 503) {
            return;
        }
        assert!(started.elapsed() < 2 * DEADLINE, "not everything is 503: {seen:?}");
    }
}

async fn all_turn_good_again(stage: &Stage, who: &Login) {
    eventually("everything works again", async || {
        let answers = ask_everything(stage, who).await;
        for (call, answer) in &answers {
            assert!([101, 200, 204, 503].contains(&answer.status), "{call}: {answer:#?}");
        }
        answers.iter().all(|(_, answer)| answer.status != 503).then_some(())
    })
    .await;
}

async fn a_frozen_database_is_503_and_never_no(mode: Mode) {
    let stage = breakable(mode).await;
    let alice = stage.a().signup().await;
    accepted_everywhere(&stage, &alice).await;
    freeze_both(&stage);
    all_turn_to_503(&stage, &alice).await;
    thaw_both(&stage);
    all_turn_good_again(&stage, &alice).await;
    accepted_everywhere(&stage, &alice).await;
}

async fn a_killed_database_is_503_and_never_no(mode: Mode) {
    let stage = breakable(mode).await;
    let alice = stage.a().signup().await;
    accepted_everywhere(&stage, &alice).await;
    stage.redis().kill();
    stage.postgres().kill();
    all_turn_to_503(&stage, &alice).await;
    stage.postgres().restart();
    all_turn_good_again(&stage, &alice).await;
    stage.redis().restart();
    all_turn_good_again(&stage, &alice).await;
    accepted_everywhere(&stage, &alice).await;
}

async fn a_muted_socket_is_told_to_come_again_and_lives_on(mode: Mode) {
    let stage = breakable(mode).await;
    let alice = stage.a().signup().await;
    let mut open = sockets(&stage, &alice).await;
    freeze_both(&stage);
    for socket in &mut open {
        eventually("the socket is muted", async || {
            let reply = socket.rpc("auth.me", json!({})).await;
            if reply["rpc"].is_object() {
                return None;
            }
            Socket::is_error(&reply, 100);
            Some(())
        })
        .await;
        // A refresh that cannot be checked is no reason to close.
        Socket::is_error(&socket.command(json!({"refresh": {"token": alice.token}})).await, 100);
    }
    thaw_both(&stage);
    for socket in &mut open {
        eventually("the socket speaks again", async || {
            let reply = socket.rpc("auth.me", json!({})).await;
            (reply["rpc"]["data"]["id"] == alice.user_id).then_some(())
        })
        .await;
    }
    all_open(&mut open).await;
}

async fn after_the_grace_time_sockets_are_closed_with_4000(mode: Mode) {
    let stage = mode.own().own_postgres().env("PORTCULLIS_GRACE_TIME", "2s").start().await;
    let alice = stage.a().signup().await;
    let mut open = sockets(&stage, &alice).await;
    freeze_both(&stage);
    for socket in &mut open {
        socket.expect_close(4000, "auth unavailable").await;
    }
    thaw_both(&stage);
    all_turn_good_again(&stage, &alice).await;
}

async fn connect_that_cannot_be_checked_is_4000(mode: Mode) {
    let stage = breakable(mode).await;
    let alice = stage.a().signup().await;
    freeze_both(&stage);
    eventually("connect cannot be checked", async || {
        let mut socket = stage.b().socket().open().await;
        socket.send_command(json!({"connect": {"token": alice.token}})).await;
        match socket.next().await {
            // Proven fresh a moment ago.
            Event::Reply(reply) if reply["connect"].is_object() => None,
            Event::Closed(code, reason) => {
                assert_eq!((code, reason.as_str()), (4000, "auth unavailable"));
                Some(())
            }
            other => panic!("{other:?}"),
        }
    })
    .await;
    thaw_both(&stage);
}

async fn a_node_that_can_serve_nobody_says_so(mode: Mode) {
    let stage = breakable(mode).await;
    freeze_both(&stage);
    for node in stage.nodes() {
        eventually("health is 503", async || (node.get("/health").send().await.status == 503).then_some(())).await;
        // Restarting it would help nobody.
        node.get("/health/live").send().await.expect(200);
    }
    thaw_both(&stage);
    for node in stage.nodes() {
        eventually("health is good", async || {
            let health = node.get("/health").send().await;
            (health.status == 200 && health["status"] == "ok").then_some(())
        })
        .await;
    }
}

/// A node stopped for longer than its knowledge holds, and a revocation meanwhile.
async fn a_stopped_node_believes_nothing_it_knew(mode: Mode) {
    let stage = mode.own().start().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    accepted_everywhere(&stage, &alice).await;
    let mut ending = stage.b().connect(&alice.token).await;
    let mut spared = stage.b().connect(&bob.token).await;
    stage.gateways[1].signal("STOP");
    stage.a().logout(&alice.token).await.expect(200);
    let answered = Instant::now();
    stage.a().me(&alice.token).await.is_bad_token();
    // What it knew is older than the bound when it wakes.
    while answered.elapsed() < crate::BOUND + Duration::from_millis(200) {
        stage.a().me(&bob.token).await.expect(200);
        tokio::time::sleep(crate::common::wait::POLL).await;
    }
    // Waiting in its sockets when it wakes.
    let request = tokio::spawn({
        let (node, token) = (stage.b().clone(), alice.token.clone());
        async move { node.me(&token).await }
    });
    ending.send_command(json!({"rpc": {"method": "auth.me", "data": {}}})).await;
    stage.gateways[1].signal("CONT");
    let answer = request.await.expect("an answer");
    assert!([401, 503].contains(&answer.status), "{answer:#?}");
    loop {
        match ending.next().await {
            Event::Reply(reply) => Socket::is_error(&reply, 100),
            Event::Closed(code, reason) => {
                assert_eq!((code, reason.as_str()), (4500, "logged out"));
                break;
            }
            Event::Push(_) | Event::Ping | Event::FramePing => {}
        }
    }
    crate::refused_everywhere(&stage, &alice, answered).await;
    spared.expect_open().await;
}
