//! Where a credential comes from, and what is refused before the upgrade.

use serde_json::json;

use crate::common::people::forged;
use crate::common::{Mode, stages};

stages! {
    both: [
        a_bearer_header_admits,
        a_bearer_subprotocol_admits_and_is_not_echoed,
        a_token_in_connect_admits,
        a_bad_credential_is_refused_before_the_upgrade,
        an_ended_session_is_refused_before_the_upgrade,
        two_credentials_that_differ_are_refused,
        two_credentials_that_agree_are_one,
        a_token_in_the_query_is_refused,
        centrifuge_json_is_selected_when_offered,
        protobuf_is_refused_before_the_upgrade,
        what_is_no_handshake_is_refused,
        both_paths_lead_to_the_socket,
        a_socket_admitted_in_the_handshake_is_live_without_connect,
    ],
}

async fn a_bearer_header_admits(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().socket().bearer(&alice.token).open().await;
    assert_eq!(socket.subprotocol, None);
    let reply = socket.command(json!({"connect": {}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    assert_eq!(socket.rpc("auth.me", json!({})).await["rpc"]["data"]["id"], alice.user_id);
}

async fn a_bearer_subprotocol_admits_and_is_not_echoed(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
    let mut socket = stage.b().socket().subprotocols(&offered).open().await;
    assert_eq!(socket.subprotocol.as_deref(), Some("portcullis.v1"));
    socket.command(json!({"connect": {}})).await;
    assert_eq!(socket.rpc("auth.me", json!({})).await["rpc"]["data"]["id"], alice.user_id);
    let answer = stage.a().socket().subprotocols(&offered).attempt().await;
    assert_eq!(answer.status, 101);
    assert!(!format!("{:?}", answer.headers).contains(&alice.token), "the token is echoed");
}

async fn a_token_in_connect_admits(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for node in stage.nodes() {
        let mut socket = node.connect(&alice.token).await;
        assert_eq!(socket.rpc("auth.me", json!({})).await["rpc"]["data"]["id"], alice.user_id);
    }
}

async fn a_bad_credential_is_refused_before_the_upgrade(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for bad in [forged(&alice.token), "nonsense".to_owned(), alice.session_id.clone()] {
        stage.a().socket().bearer(&bad).attempt().await.is_bad_token();
        let offered = format!("portcullis.bearer.{bad}, portcullis.v1");
        stage.a().socket().subprotocols(&offered).attempt().await.is_bad_token();
    }
}

async fn an_ended_session_is_refused_before_the_upgrade(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let ticket = stage.a().ticket(&alice.token, None).await;
    stage.a().logout(&alice.token).await.expect(200);
    stage.a().socket().bearer(&alice.token).attempt().await.is_bad_token();
    stage.a().socket().ticket(&ticket).attempt().await.problem(&[401]);
    let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
    stage.a().socket().subprotocols(&offered).attempt().await.is_bad_token();
}

async fn two_credentials_that_differ_are_refused(mode: Mode) {
    let stage = mode.stage().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    let of_bob = format!("portcullis.bearer.{}, portcullis.v1", bob.token);
    stage.a().socket().bearer(&alice.token).subprotocols(&of_bob).attempt().await.problem(&[400]);
    stage.a().socket().bearer(&alice.token).bearer(&bob.token).attempt().await.problem(&[400]);
    let twice = format!("portcullis.bearer.{}, portcullis.bearer.{}, portcullis.v1", alice.token, bob.token);
    stage.a().socket().subprotocols(&twice).attempt().await.problem(&[400]);
    let ticket = stage.a().ticket(&alice.token, None).await;
    stage.a().socket().ticket(&ticket).bearer(&bob.token).attempt().await.problem(&[400]);
}

async fn two_credentials_that_agree_are_one(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
    let both = stage.a().socket().bearer(&alice.token).subprotocols(&offered);
    both.open().await.expect_admitted(&alice.user_id).await;
}

async fn a_token_in_the_query_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let path = format!("/ws?token={}", alice.token);
    stage.a().socket().path(&path).attempt().await.problem(&[400]);
    stage.a().socket().path(&path).bearer(&alice.token).attempt().await.problem(&[400]);
}

async fn centrifuge_json_is_selected_when_offered(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().socket().subprotocols("centrifuge-json").open().await;
    assert_eq!(socket.subprotocol.as_deref(), Some("centrifuge-json"));
    assert!(socket.connect(&alice.token).await["connect"]["client"].is_string());
    let none = stage.a().socket().subprotocols("something-else").attempt().await;
    assert_eq!(none.header("sec-websocket-protocol"), "", "what is not known is not selected");
}

async fn protobuf_is_refused_before_the_upgrade(mode: Mode) {
    let stage = mode.stage().await;
    let attempts = [
        stage.a().socket().subprotocols("centrifuge-protobuf"),
        stage.a().socket().path("/ws?format=protobuf"),
        stage.a().socket().path("/ws?cf_protocol=protobuf"),
        stage.a().socket().path("/connection/websocket?format=protobuf"),
    ];
    for attempt in attempts {
        attempt.attempt().await.is_problem(400, "unsupported_encoding");
    }
    stage.a().socket().path("/ws?format=json&cf_protocol=json&cf_protocol_version=v2").open().await;
}

async fn what_is_no_handshake_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    stage.a().get("/ws").send().await.problem(&[400, 426]);
    stage.a().post("/ws").send().await.problem(&[405]);
    let with = |version: &str, key: &str| {
        let call = stage.a().get("/ws").header("connection", "Upgrade").header("upgrade", "websocket");
        call.header("sec-websocket-version", version).header("sec-websocket-key", key).send_head()
    };
    with("12", "dGhlIHNhbXBsZSBub25jZQ==").await.problem(&[400, 426]);
    assert_eq!(with("13", "dGhlIHNhbXBsZSBub25jZQ==").await.status, 101);
    let no_key = stage.a().get("/ws").header("connection", "Upgrade").header("upgrade", "websocket");
    no_key.header("sec-websocket-version", "13").send_head().await.problem(&[400]);
}

async fn both_paths_lead_to_the_socket(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for path in ["/ws", "/connection/websocket"] {
        let mut socket = stage.a().socket().path(path).open().await;
        assert!(socket.connect(&alice.token).await["connect"]["client"].is_string(), "{path}");
    }
    let answer = stage.a().socket().path("/connection/websocket").attempt().await.expect(101);
    assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

async fn a_socket_admitted_in_the_handshake_is_live_without_connect(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_CONNECT_TIMEOUT", "1s").start().await;
    let alice = stage.a().signup().await;
    let mut silent = stage.b().socket().bearer(&alice.token).open().await;
    // As long as it takes for a socket without a credential to be given up.
    stage.b().socket().open().await.expect_close(3502, "stale").await;
    stage.a().patch_profile(&alice.token, &json!({"full_name": "Alice"})).await.expect(200);
    assert_eq!(silent.next_push().await["message"]["data"]["type"], "user.updated");
    stage.a().logout(&alice.token).await.expect(200);
    silent.expect_forced(4500, "logged out").await;
}
