//! Tokens that run out, with and without a refresh in time.

use serde_json::{Value, json};

use crate::common::people::forged;
use crate::common::{Event, Login, Mode, Socket, Stage, stages};

stages! {
    both: [
        refresh_with_a_new_token_goes_on,
        refresh_carries_a_socket_over_many_lives_of_its_token,
        refresh_closes_no_other_socket_of_the_session,
        refresh_with_the_token_of_another_session_is_3500,
        refresh_with_a_forged_token_is_3500,
        an_empty_refresh_is_3501,
        refresh_without_an_expiry_is_3501,
        a_token_that_runs_out_is_3005,
        an_expired_token_in_connect_is_109_and_a_good_one_may_follow,
        an_expired_token_in_connect_is_3502_if_none_follows,
        an_expired_token_in_the_handshake_is_401,
        no_connect_in_time_is_3502,
        silence_without_a_credential_is_3502_whatever_else_is_sent,
    ],
    cluster: [refresh_with_an_expired_token_is_3005],
}

/// Tokens of one second, without the usual leeway.
async fn short_tokens(mode: Mode, life: &str) -> Stage {
    let short = mode.own().env("PORTCULLIS_ACCESS_TOKEN_TTL", life).env("PORTCULLIS_TOKEN_LEEWAY", "0s");
    short.env("PORTCULLIS_CONNECT_TIMEOUT", "3s").start().await
}

async fn renewed(stage: &Stage, login: &Login) -> String {
    stage.a().validate(&login.session_id).await.expect(200).str("access_token").to_owned()
}

async fn refresh(socket: &mut Socket, token: &str) -> Value {
    socket.command(json!({"refresh": {"token": token}})).await
}

async fn refresh_with_a_new_token_goes_on(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().socket().open().await;
    let connect = socket.connect(&alice.token).await["connect"].clone();
    let reply = refresh(&mut socket, &renewed(&stage, &alice).await).await;
    let answer = &reply["refresh"];
    assert_eq!(answer["client"], connect["client"]);
    assert_eq!(answer["version"], connect["version"]);
    assert_eq!(answer["expires"], true);
    assert!((830..=870).contains(&answer["ttl"].as_i64().expect("a ttl")), "{reply}");
    socket.expect_open().await;
}

async fn refresh_carries_a_socket_over_many_lives_of_its_token(mode: Mode) {
    let stage = short_tokens(mode, "3s").await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().connect(&renewed(&stage, &alice).await).await;
    // One that is not refreshed measures the time.
    for _ in 0..3 {
        let mut left_alone = stage.b().connect(&renewed(&stage, &alice).await).await;
        let renewals = async {
            loop {
                let reply = refresh(&mut socket, &renewed(&stage, &alice).await).await;
                assert!(reply["refresh"]["ttl"].as_i64().is_some_and(|ttl| (1..=3).contains(&ttl)), "{reply}");
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            () = left_alone.expect_close(3005, "connection expired") => {}
            () = renewals => {}
        }
    }
}

async fn refresh_closes_no_other_socket_of_the_session(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut tabs = [stage.a().connect(&alice.token).await, stage.b().connect(&alice.token).await];
    let (one, other) = (renewed(&stage, &alice).await, renewed(&stage, &alice).await);
    assert!(refresh(&mut tabs[0], &one).await["refresh"].is_object());
    assert!(refresh(&mut tabs[1], &other).await["refresh"].is_object());
    for tab in &mut tabs {
        tab.expect_open().await;
    }
    for token in [&alice.token, &one, &other] {
        stage.b().me(token).await.expect(200);
    }
}

async fn refresh_with_the_token_of_another_session_is_3500(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for other in [stage.a().login(&alice).await, stage.a().signup().await] {
        let mut socket = stage.b().connect(&alice.token).await;
        socket.send_command(json!({"refresh": {"token": other.token}})).await;
        socket.expect_close(3500, "invalid token").await;
        stage.b().me(&other.token).await.expect(200);
    }
    stage.b().me(&alice.token).await.expect(200);
}

async fn refresh_with_a_forged_token_is_3500(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for bad in [forged(&alice.token), "nonsense".to_owned()] {
        let mut socket = stage.a().connect(&alice.token).await;
        socket.send_command(json!({"refresh": {"token": bad}})).await;
        socket.expect_close(3500, "invalid token").await;
    }
}

async fn refresh_with_an_expired_token_is_3005(_: Mode) {
    // One node gives tokens that last and the other one tokens that do not, so that the socket itself has time.
    let short = Mode::Cluster.own().env("PORTCULLIS_TOKEN_LEEWAY", "0s").env_of_b("PORTCULLIS_ACCESS_TOKEN_TTL", "1s");
    let stage = short.start().await;
    let alice = stage.a().signup().await;
    let brief = stage.b().validate(&alice.session_id).await.expect(200).str("access_token").to_owned();
    let mut socket = stage.a().connect(&alice.token).await;
    stage.a().expired(&brief).await;
    socket.expect_open().await;
    socket.send_command(json!({"refresh": {"token": brief}})).await;
    socket.expect_close(3005, "connection expired").await;
}

async fn an_empty_refresh_is_3501(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for empty in [json!({}), json!({"token": ""})] {
        let mut socket = stage.a().connect(&alice.token).await;
        socket.send_command(json!({"refresh": empty})).await;
        socket.expect_close(3501, "bad request").await;
    }
}

async fn refresh_without_an_expiry_is_3501(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let ticket = stage.a().ticket(&alice.token, None).await;
    let mut socket = stage.a().socket().ticket(&ticket).open().await;
    socket.command(json!({"connect": {}})).await;
    socket.send_command(json!({"refresh": {"token": alice.token}})).await;
    socket.expect_close(3501, "bad request").await;
}

async fn a_token_that_runs_out_is_3005(mode: Mode) {
    let stage = short_tokens(mode, "2s").await;
    let alice = stage.a().signup().await;
    let fresh = renewed(&stage, &alice).await;
    let mut in_connect = stage.a().connect(&fresh).await;
    let mut in_header = stage.b().socket().bearer(&renewed(&stage, &alice).await).open().await;
    in_connect.expect_close(3005, "connection expired").await;
    in_header.expect_close(3005, "connection expired").await;
    // The session lives: only the token was over.
    stage.a().validate(&alice.session_id).await.expect(200);
}

async fn an_expired_token_in_connect_is_109_and_a_good_one_may_follow(mode: Mode) {
    let stage = short_tokens(mode, "2s").await;
    let alice = stage.a().signup().await;
    stage.a().expired(&alice.token).await;
    let mut socket = stage.b().socket().open().await;
    Socket::is_error(&socket.connect(&alice.token).await, 109);
    let reply = socket.connect(&renewed(&stage, &alice).await).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
}

async fn an_expired_token_in_connect_is_3502_if_none_follows(mode: Mode) {
    let stage = short_tokens(mode, "1s").await;
    let alice = stage.a().signup().await;
    stage.a().expired(&alice.token).await;
    let mut socket = stage.b().socket().open().await;
    Socket::is_error(&socket.connect(&alice.token).await, 109);
    socket.expect_close(3502, "stale").await;
}

async fn an_expired_token_in_the_handshake_is_401(mode: Mode) {
    let stage = short_tokens(mode, "1s").await;
    let alice = stage.a().signup().await;
    stage.a().expired(&alice.token).await;
    stage.b().socket().bearer(&alice.token).attempt().await.is_bad_token();
    let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
    stage.b().socket().subprotocols(&offered).attempt().await.is_bad_token();
}

async fn no_connect_in_time_is_3502(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_CONNECT_TIMEOUT", "1s").start().await;
    let alice = stage.a().signup().await;
    let mut connected = stage.a().connect(&alice.token).await;
    stage.a().socket().open().await.expect_close(3502, "stale").await;
    connected.expect_open().await;
}

async fn silence_without_a_credential_is_3502_whatever_else_is_sent(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_CONNECT_TIMEOUT", "1s").start().await;
    let mut socket = stage.a().socket().open().await;
    // Pongs are ignored and buy no time.
    let ended = async {
        loop {
            socket.send("{}").await;
            let soon = tokio::time::Instant::now() + std::time::Duration::from_millis(100);
            if let Some(Event::Closed(code, reason)) = socket.next_by(soon).await {
                return (code, reason);
            }
        }
    };
    let (code, reason) = tokio::time::timeout(crate::common::DEADLINE, ended).await.expect("it is closed");
    assert_eq!((code, reason.as_str()), (3502, "stale"));
}
