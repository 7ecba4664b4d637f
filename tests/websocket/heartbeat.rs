//! The heartbeat of the protocol and the one of RFC 6455.

use std::time::Duration;

use serde_json::json;

use crate::common::{Event, Mode, Stage, stages};

stages! {
    both: [
        no_pong_is_3012_and_a_pong_keeps_the_socket,
        the_answer_to_connect_says_the_interval,
        a_client_may_ask_for_the_pings_of_rfc_6455,
        no_heartbeat_comes_before_connect,
    ],
}

async fn quick(mode: Mode) -> Stage {
    mode.own().env("PORTCULLIS_PING_INTERVAL", "1s").start().await
}

async fn no_pong_is_3012_and_a_pong_keeps_the_socket(mode: Mode) {
    let stage = quick(mode).await;
    let alice = stage.a().signup().await;
    let mut answers = stage.a().connect(&alice.token).await;
    let mut ignores = stage.b().connect(&alice.token).await;
    ignores.answer_pings = false;
    ignores.next_ping().await;
    let keeps_answering = async {
        loop {
            answers.next_ping().await;
        }
    };
    // Ten seconds for the pong, and as many again for a slow machine.
    let (code, reason, goodbye) = tokio::select! {
        closed = ignores.closed_within(Duration::from_secs(25)) => closed,
        () = keeps_answering => unreachable!("it goes on for as long as the other"),
    };
    assert_eq!((code, reason.as_str(), goodbye), (3012, "no pong", None));
    answers.expect_open().await;
}

async fn the_answer_to_connect_says_the_interval(mode: Mode) {
    let stage = quick(mode).await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().socket().open().await;
    let reply = socket.connect(&alice.token).await;
    assert_eq!((&reply["connect"]["ping"], &reply["connect"]["pong"]), (&json!(1), &json!(true)));
}

async fn a_client_may_ask_for_the_pings_of_rfc_6455(mode: Mode) {
    let stage = quick(mode).await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().socket().path("/ws?cf_ws_frame_ping_pong=true").open().await;
    let reply = socket.connect(&alice.token).await;
    assert!(!reply["connect"]["pong"].as_bool().unwrap_or(false), "no `{{}}` is expected: {reply}");
    for _ in 0..2 {
        assert_eq!(socket.next().await, Event::FramePing, "one heartbeat, not two");
    }
    socket.expect_open().await;
}

async fn no_heartbeat_comes_before_connect(mode: Mode) {
    let stage = quick(mode).await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().socket().bearer(&alice.token).open().await;
    for _ in 0..2 {
        assert_eq!(socket.next().await, Event::FramePing);
    }
    assert!(socket.command(json!({"connect": {}})).await["connect"]["client"].is_string());
    socket.next_ping().await;
}
