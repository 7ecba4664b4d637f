//! The list of devices, ending them, logging out, and tickets.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::common::people::forged;
use crate::common::{DEADLINE, Login, Mode, stages, wait::eventually_within};

stages! {
    both: [
        the_list_shows_each_device_and_no_secret,
        one_session_can_be_ended_from_another,
        ones_own_session_can_be_ended,
        nobody_ends_the_session_of_another_user,
        logout_ends_the_session_and_may_be_repeated,
        logout_takes_the_secret_instead_of_a_token,
        logout_needs_some_credential,
        logout_takes_a_token_whose_only_fault_is_its_expiry,
        logout_all_counts_and_spares_the_next_login,
        a_ticket_is_short_lived_and_needs_a_bearer,
    ],
}

async fn the_list_shows_each_device_and_no_secret(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let body = json!({"email": alice.email, "password": alice.password, "device_name": "Alice's phone"});
    let login = stage.b().post("/api/v1/auth/login").header("user-agent", "phone/1.0").json(&body);
    let phone = Login::read(&login.send().await.expect(200), &alice.email, &alice.password);

    let answer = stage.b().sessions(&phone.token).await.expect(200);
    let sessions = answer["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 2, "{answer:#?}");
    let of = |sid: &str| sessions.iter().find(|session| session["sid"] == sid).expect("the session");
    let (own, other) = (of(&phone.sid), of(&alice.sid));
    assert_eq!((&own["current"], &other["current"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(own["device_name"], "Alice's phone");
    assert_eq!(own["user_agent"], "phone/1.0");
    assert_eq!(other["device_name"], Value::Null);
    for session in sessions {
        assert_eq!(session["ip"], "127.0.0.1");
        let times = ["created_at", "last_seen_at", "expires_at"].map(|member| {
            OffsetDateTime::parse(session[member].as_str().expect("a time"), &Rfc3339).expect("RFC 3339")
        });
        assert!(times[0] <= times[1] && times[1] < times[2], "{session}");
        assert_eq!(session.as_object().map(serde_json::Map::len), Some(8), "nothing more than promised: {session}");
    }
    for secret in [&alice.session_id, &phone.session_id] {
        assert!(!answer.text.contains(secret.as_str()), "the list shows a secret");
    }
}

async fn one_session_can_be_ended_from_another(mode: Mode) {
    let stage = mode.stage().await;
    let laptop = stage.a().signup().await;
    let phone = stage.a().login(&laptop).await;
    let answer = stage.a().end_session(&laptop.token, &phone.sid).await.expect(204);
    assert_eq!(answer.text, "");
    stage.a().me(&phone.token).await.is_bad_token();
    stage.a().validate(&phone.session_id).await.is_unauthenticated();
    stage.a().me(&laptop.token).await.expect(200);
    assert_eq!(stage.a().sessions(&laptop.token).await["sessions"].as_array().map(Vec::len), Some(1));
}

async fn ones_own_session_can_be_ended(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.a().end_session(&alice.token, &alice.sid).await.expect(204);
    stage.a().me(&alice.token).await.is_bad_token();
    stage.a().validate(&alice.session_id).await.is_unauthenticated();
}

async fn nobody_ends_the_session_of_another_user(mode: Mode) {
    let stage = mode.stage().await;
    let (alice, mallory) = (stage.a().signup().await, stage.a().signup().await);
    let foreign = stage.a().end_session(&mallory.token, &alice.sid).await;
    let unknown = stage.a().end_session(&mallory.token, &Uuid::new_v4().to_string()).await;
    assert_eq!(foreign.problem(&[404]), unknown.problem(&[404]), "a foreign session looks like none");
    // The secret is not a handle, not even one's own.
    stage.a().end_session(&mallory.token, &mallory.session_id).await.problem(&[404]);
    stage.a().end_session(&mallory.token, "not-a-uuid").await.problem(&[400, 404, 422]);
    stage.a().me(&alice.token).await.expect(200);
    stage.a().me(&mallory.token).await.expect(200);
}

async fn logout_ends_the_session_and_may_be_repeated(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let twin = stage.a().validate(&alice.session_id).await.expect(200).str("access_token").to_owned();
    stage.a().logout(&alice.token).await.expect(200);
    stage.a().me(&alice.token).await.is_bad_token();
    stage.a().me(&twin).await.is_bad_token();
    stage.a().validate(&alice.session_id).await.is_unauthenticated();
    for _ in 0..2 {
        for node in stage.nodes() {
            node.logout(&alice.token).await.expect(200);
        }
    }
}

async fn logout_takes_the_secret_instead_of_a_token(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let request = json!({"session_id": alice.session_id});
    stage.a().post("/api/v1/auth/logout").json(&request).send().await.expect(200);
    stage.a().me(&alice.token).await.is_bad_token();
    stage.a().validate(&alice.session_id).await.is_unauthenticated();
    stage.a().post("/api/v1/auth/logout").json(&request).send().await.expect(200);
}

async fn logout_needs_some_credential(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.a().post("/api/v1/auth/logout").send().await.is_unauthenticated();
    stage.a().logout(&forged(&alice.token)).await.is_bad_token();
    stage.a().me(&alice.token).await.expect(200);
}

async fn logout_takes_a_token_whose_only_fault_is_its_expiry(mode: Mode) {
    let short = mode.own().env("PORTCULLIS_ACCESS_TOKEN_TTL", "1s").env("PORTCULLIS_TOKEN_LEEWAY", "0s");
    let stage = short.start().await;
    let alice = stage.a().signup().await;
    stage.a().expired(&alice.token).await;
    stage.a().logout(&forged(&alice.token)).await.is_bad_token();
    stage.a().validate(&alice.session_id).await.expect(200);
    stage.a().logout(&alice.token).await.expect(200);
    stage.a().validate(&alice.session_id).await.is_unauthenticated();
    stage.a().logout(&alice.token).await.expect(200);
}

async fn logout_all_counts_and_spares_the_next_login(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let answer = stage.a().logout_all(&phone.token).await.expect(200);
    assert_eq!(answer.json, json!({"sessions_revoked": 2}));
    for ended in [&phone, &laptop] {
        stage.a().me(&ended.token).await.is_bad_token();
        stage.a().validate(&ended.session_id).await.is_unauthenticated();
    }
    let next = stage.a().login(&phone).await;
    for node in stage.nodes() {
        node.me(&next.token).await.expect(200);
    }
    // The entry also reaches the other node late; it must not touch the new login there.
    eventually_within(DEADLINE, "the other node knows of it", async || {
        node_knows(stage.b().me(&laptop.token).await.status)
    })
    .await;
    stage.b().me(&next.token).await.expect(200);
}

fn node_knows(status: u16) -> Option<()> {
    (status == 401).then_some(())
}

async fn a_ticket_is_short_lived_and_needs_a_bearer(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let answer = stage.a().post("/api/v1/auth/ws-ticket").bearer(&alice.token).send().await.expect(200);
    assert_eq!(answer["expires_in"], 30);
    assert!(answer.str("ticket").len() >= 22, "at least 128 bits");
    let url_safe = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    assert!(answer.str("ticket").chars().all(url_safe), "fit for a query string");
    stage.a().post("/api/v1/auth/ws-ticket").send().await.is_unauthenticated();
    // A ticket is no access token and no session.
    stage.a().me(answer.str("ticket")).await.is_bad_token();
    stage.a().post("/api/v1/auth/ws-ticket").bearer("x").send().await.is_bad_token();
}
