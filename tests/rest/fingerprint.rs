//! A session's secret that turns up elsewhere: seen, asked about, or ended, as the operator wants it.

use serde_json::{Value, json};

use crate::common::people::{new_email, new_password};
use crate::common::{Answer, Login, Mode, Node, Stage, eventually, stages};

stages! {
    both: [
        by_default_nobody_looks,
        a_change_is_shown_in_the_device_list,
        a_challenge_asks_for_the_password_and_harms_nobody,
        a_denial_ends_the_session,
        a_cookie_is_looked_at_too,
    ],
}

const HOME: &str = "203.0.113.7";
const NEXT_DOOR: &str = "203.0.113.200";
const ELSEWHERE: &str = "198.51.100.9";
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0";
const NEWER_FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";

async fn with_policy(mode: Mode, policy: &str) -> Stage {
    let stage = mode.own().env("PORTCULLIS_FINGERPRINT", policy).env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1");
    stage.env("PORTCULLIS_COOKIES", "on").start().await
}

async fn signup(node: &Node) -> Login {
    let (email, password) = (new_email(), new_password());
    let body = json!({"email": email, "password": password});
    let call = node.post("/api/v1/auth/signup").header("x-forwarded-for", HOME).header("user-agent", FIREFOX);
    Login::read(&call.json(&body).send().await.expect(201), &email, &password)
}

async fn validate(node: &Node, session_id: &str, from: &str, user_agent: &str) -> Answer {
    let call =
        node.post("/api/v1/auth/validate-session").header("x-forwarded-for", from).header("user-agent", user_agent);
    call.json(&json!({"session_id": session_id})).send().await
}

async fn listed(node: &Node, login: &Login) -> Value {
    let answer = node.sessions(&login.token).await.expect(200);
    answer["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|session| session["sid"] == login.sid)
        .cloned()
        .expect("it")
}

async fn by_default_nobody_looks(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1").start().await;
    let alice = signup(stage.a()).await;
    validate(stage.b(), &alice.session_id, ELSEWHERE, "curl/8.5.0").await.expect(200);
    assert_eq!(listed(stage.a(), &alice).await["fingerprint_change"], Value::Null);
}

async fn a_change_is_shown_in_the_device_list(mode: Mode) {
    let stage = with_policy(mode, "log").await;
    let alice = signup(stage.a()).await;
    for node in stage.nodes() {
        validate(node, &alice.session_id, HOME, FIREFOX).await.expect(200);
        // A neighbour's address, a newer version: the same place for all we can see.
        validate(node, &alice.session_id, NEXT_DOOR, NEWER_FIREFOX).await.expect(200);
    }
    assert_eq!(listed(stage.a(), &alice).await["fingerprint_change"], Value::Null);
    validate(stage.b(), &alice.session_id, ELSEWHERE, FIREFOX).await.expect(200);
    let change = listed(stage.a(), &alice).await["fingerprint_change"].clone();
    assert_eq!((&change["browser"], &change["network"]), (&json!("firefox"), &json!("198.51.100.0/24")), "{change}");
    // It is at home there now, on every node: the same again is no change.
    eventually("every node knows where it is at home", async || {
        let before = listed(stage.a(), &alice).await["fingerprint_change"]["at"].clone();
        for node in stage.nodes() {
            validate(node, &alice.session_id, ELSEWHERE, FIREFOX).await.expect(200);
        }
        (listed(stage.a(), &alice).await["fingerprint_change"]["at"] == before).then_some(())
    })
    .await;
    validate(stage.a(), &alice.session_id, ELSEWHERE, "curl/8.5.0").await.expect(200);
    assert_eq!(listed(stage.b(), &alice).await["fingerprint_change"]["browser"], "curl");
    stage.b().me(&alice.token).await.expect(200);
    // The list shows the last change, the trail each of them.
    let trail = stage.a().get("/api/v1/auth/audit?limit=200").bearer(&alice.token).send().await.expect(200);
    let told: Vec<_> = trail["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .filter(|entry| entry["event"] == "session_elsewhere")
        .map(|entry| (entry["sid"].clone(), entry["details"].clone()))
        .collect();
    let change = |browser: &str| (json!(alice.sid), json!({"browser": browser, "network": "198.51.100.0/24"}));
    assert_eq!(told.first(), Some(&change("curl")), "the newest first");
    assert_eq!(told.last(), Some(&change("firefox")));
}

async fn a_challenge_asks_for_the_password_and_harms_nobody(mode: Mode) {
    let stage = with_policy(mode, "challenge").await;
    let alice = signup(stage.a()).await;
    for _ in 0..2 {
        for node in stage.nodes() {
            let challenged = validate(node, &alice.session_id, ELSEWHERE, FIREFOX).await;
            challenged.is_problem(403, "reauthentication_required");
            assert_eq!(challenged.header("set-cookie"), "");
            validate(node, &alice.session_id, HOME, "curl/8.5.0").await.is_problem(403, "reauthentication_required");
        }
    }
    // The owner, at home, goes on, and sees that somebody knocked.
    for node in stage.nodes() {
        validate(node, &alice.session_id, HOME, FIREFOX).await.expect(200);
        node.me(&alice.token).await.expect(200);
    }
    assert_eq!(listed(stage.a(), &alice).await["fingerprint_change"]["browser"], "curl");
    // Whoever has the password begins a session there.
    let body = json!({"email": alice.email, "password": alice.password});
    let call = stage.a().post("/api/v1/auth/login").header("x-forwarded-for", ELSEWHERE).header("user-agent", FIREFOX);
    let there = Login::read(&call.json(&body).send().await.expect(200), &alice.email, &alice.password);
    validate(stage.b(), &there.session_id, ELSEWHERE, FIREFOX).await.expect(200);
}

async fn a_denial_ends_the_session(mode: Mode) {
    let stage = with_policy(mode, "deny").await;
    let alice = signup(stage.a()).await;
    let mut socket = stage.b().connect(&alice.token).await;
    validate(stage.a(), &alice.session_id, NEXT_DOOR, NEWER_FIREFOX).await.expect(200);
    validate(stage.a(), &alice.session_id, ELSEWHERE, FIREFOX).await.is_unauthenticated();
    socket.expect_forced(4502, "session revoked").await;
    for node in stage.nodes() {
        eventually("the token is refused", async || (node.me(&alice.token).await.status == 401).then_some(())).await;
        validate(node, &alice.session_id, HOME, FIREFOX).await.is_unauthenticated();
    }
}

async fn a_cookie_is_looked_at_too(mode: Mode) {
    let stage = with_policy(mode, "challenge").await;
    let alice = signup(stage.a()).await;
    let cookie = format!("portcullis_session={}", alice.session_id);
    let verify = async |from: &str| {
        let call = stage.b().get("/api/v1/auth/verify").header("cookie", &cookie).header("x-forwarded-for", from);
        call.header("user-agent", FIREFOX).header("sec-fetch-site", "same-origin").send().await
    };
    verify(HOME).await.expect(204);
    verify(ELSEWHERE).await.is_problem(403, "reauthentication_required");
    verify(NEXT_DOOR).await.expect(204);
}
