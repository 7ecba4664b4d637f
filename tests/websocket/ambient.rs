//! Tickets and cookies: what a browser can show in a handshake, and the origin it is bound to.

use serde_json::json;
use uuid::Uuid;

use crate::common::people::forged;
use crate::common::{Mode, Stage, stages};

stages! {
    both: [
        a_ticket_admits_once,
        a_ticket_is_redeemed_once_however_many_try,
        a_ticket_is_bound_to_its_origin,
        the_cookie_admits_from_a_listed_origin,
        the_cookie_counts_for_nothing_by_default,
        a_bad_cookie_counts_as_none,
        an_explicit_credential_goes_before_the_cookie,
    ],
}

const LISTED: &str = "https://app.example";
const ALSO_LISTED: &str = "https://other.example";
const FOREIGN: &str = "https://evil.example";

async fn with_origins(mode: Mode) -> Stage {
    let origins = format!("{LISTED},{ALSO_LISTED}");
    mode.own().env("PORTCULLIS_COOKIES", "on").env("PORTCULLIS_ALLOWED_ORIGINS", &origins).start().await
}

async fn a_ticket_admits_once(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let ticket = stage.a().ticket(&alice.token, None).await;
    let mut socket = stage.b().socket().ticket(&ticket).open().await;
    let reply = socket.command(json!({"connect": {}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    assert_eq!(reply["connect"].get("ttl"), None, "a ticket's socket has no token to refresh");
    assert!(!reply["connect"]["expires"].as_bool().unwrap_or(false), "{reply}");
    assert_eq!(socket.rpc("auth.me", json!({})).await["rpc"]["data"]["id"], alice.user_id);
    for node in stage.nodes() {
        node.socket().ticket(&ticket).attempt().await.problem(&[401]);
    }
    stage.a().socket().ticket("never-issued").attempt().await.problem(&[401]);
    stage.a().socket().ticket("").attempt().await.problem(&[400, 401]);
}

async fn a_ticket_is_redeemed_once_however_many_try(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for _ in 0..5 {
        let ticket = stage.a().ticket(&alice.token, None).await;
        let attempts: Vec<_> = (0..8)
            .map(|n| {
                let (node, ticket) = (stage.nodes()[n % stage.nodes().len()].clone(), ticket.clone());
                tokio::spawn(async move { node.socket().ticket(&ticket).attempt().await.status })
            })
            .collect();
        let mut statuses = Vec::new();
        for attempt in attempts {
            statuses.push(attempt.await.expect("an attempt"));
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [101, 401, 401, 401, 401, 401, 401, 401]);
    }
}

async fn a_ticket_is_bound_to_its_origin(mode: Mode) {
    let stage = with_origins(mode).await;
    let alice = stage.a().signup().await;
    for wrong in [ALSO_LISTED, FOREIGN, "null"] {
        let ticket = stage.a().ticket(&alice.token, Some(LISTED)).await;
        stage.b().socket().ticket(&ticket).origin(wrong).attempt().await.problem(&[401, 403]);
    }
    let ticket = stage.a().ticket(&alice.token, Some(LISTED)).await;
    stage.b().socket().ticket(&ticket).attempt().await.problem(&[401, 403]);
    let ticket = stage.a().ticket(&alice.token, Some(LISTED)).await;
    stage.b().socket().ticket(&ticket).origin(LISTED).open().await.expect_admitted(&alice.user_id).await;
}

async fn the_cookie_admits_from_a_listed_origin(mode: Mode) {
    let stage = with_origins(mode).await;
    let alice = stage.a().signup().await;
    let with_cookie = || stage.b().socket().cookie(&alice.session_id);
    let mut socket = with_cookie().origin(LISTED).open().await;
    let reply = socket.command(json!({"connect": {}})).await;
    assert_eq!(reply["connect"].get("ttl"), None, "a cookie's socket has no token to refresh");
    assert_eq!(socket.rpc("auth.me", json!({})).await["rpc"]["data"]["id"], alice.user_id);
    for origin in
        [FOREIGN, "null", "http://app.example", "https://app.example.evil.example", "https://app.example:8443"]
    {
        with_cookie().origin(origin).attempt().await.problem(&[403]);
    }
    let cross_site = with_cookie().origin(FOREIGN).header("sec-fetch-site", "cross-site");
    cross_site.attempt().await.problem(&[403]);
}

async fn the_cookie_counts_for_nothing_by_default(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().socket().cookie(&alice.session_id).origin(&stage.a().url).open().await;
    socket.send(r#"{"id":1,"connect":{}}"#).await;
    socket.expect_close(3500, "invalid token").await;
}

async fn a_bad_cookie_counts_as_none(mode: Mode) {
    let stage = with_origins(mode).await;
    let alice = stage.a().signup().await;
    for bad in [Uuid::new_v4().to_string(), "nonsense".to_owned(), String::new(), alice.sid.clone()] {
        let mut socket = stage.a().socket().cookie(&bad).origin(LISTED).open().await;
        assert!(socket.connect(&alice.token).await["connect"]["client"].is_string());
        let mut socket = stage.a().socket().cookie(&bad).origin(LISTED).open().await;
        socket.send(r#"{"id":1,"connect":{}}"#).await;
        socket.expect_close(3500, "invalid token").await;
    }
}

async fn an_explicit_credential_goes_before_the_cookie(mode: Mode) {
    let stage = with_origins(mode).await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    let both = || stage.a().socket().cookie(&alice.session_id).bearer(&bob.token).origin(LISTED);
    both().open().await.expect_admitted(&bob.user_id).await;
    // Bad is bad: no falling back to what the browser happens to hold.
    let bad = stage.a().socket().cookie(&alice.session_id).bearer(&forged(&bob.token)).origin(LISTED);
    bad.attempt().await.is_bad_token();
}
