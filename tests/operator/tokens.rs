//! Introspection (RFC 7662) and revocation (RFC 7009) for services with a key.

use serde_json::{Value, json};

use crate::common::people::{claims, forged};
use crate::common::{Answer, Mode, Stage, stages};
use crate::{Admin, refused, sockets};

stages! {
    both: [
        a_good_token_is_told_with_its_claims,
        what_is_not_good_is_inactive_and_nothing_else,
        a_revoked_token_is_dead_and_its_session_lives,
        revoking_a_secret_ends_its_session_with_all_tokens,
        revoking_what_is_unknown_is_200,
        a_token_is_revoked_by_its_id,
    ],
    cluster: [trouble_is_503_and_never_inactive],
}

async fn introspect(stage: &Stage, key: &str, token: &str) -> Answer {
    stage.b().post("/api/v1/admin/introspect").bearer(key).form(&[("token", token)]).send().await
}

async fn revoke(stage: &Stage, key: &str, token: &str) -> Answer {
    stage.a().post("/api/v1/admin/revoke").bearer(key).form(&[("token", token), ("token_type_hint", "x")]).send().await
}

async fn a_good_token_is_told_with_its_claims(mode: Mode) {
    let stage = mode.stage().await;
    let key = stage.gateways[0].admin_key(&["tokens:introspect"]).await;
    let alice = stage.a().signup().await;
    let claims = claims(&alice.token);
    let told = introspect(&stage, &key, &alice.token).await.expect(200);
    let expected = json!({
        "active": true, "token_type": "Bearer", "iss": claims["iss"], "aud": claims["aud"], "sub": alice.user_id,
        "username": alice.email, "sid": alice.sid, "jti": claims["jti"], "exp": claims["exp"], "nbf": claims["nbf"],
    });
    assert_eq!(told.json, expected);
    assert_eq!(told.header("cache-control"), "no-store");
    let as_json = stage.a().post("/api/v1/admin/introspect").bearer(&key).json(&json!({"token": alice.token}));
    assert_eq!(as_json.send().await.expect(200).json, expected);
    let secret = introspect(&stage, &key, &alice.session_id).await.expect(200);
    assert_eq!((&secret["active"], &secret["sid"], &secret["jti"]), (&json!(true), &json!(alice.sid), &Value::Null));
    let none = stage.a().post("/api/v1/admin/introspect").bearer(&key).form(&[("x", "y")]).send().await;
    none.is_problem(422, "missing_field");
    assert!(!told.text.contains(&alice.session_id));
}

async fn what_is_not_good_is_inactive_and_nothing_else(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_ACCESS_TOKEN_TTL", "3s").env("PORTCULLIS_TOKEN_LEEWAY", "0s").start().await;
    let key = stage.gateways[0].admin_key(&["tokens:introspect"]).await;
    let alice = stage.a().signup().await;
    let gone = stage.a().signup().await;
    stage.a().logout_all(&gone.token).await.expect(200);
    refused(&stage, &gone).await;
    stage.b().expired(&alice.token).await;
    let damaged = forged(&alice.token);
    for token in
        [&alice.token, &gone.token, &gone.session_id, &damaged, "x", "a.b.c", &uuid::Uuid::new_v4().to_string()]
    {
        assert_eq!(introspect(&stage, &key, token).await.expect(200).text, r#"{"active":false}"#);
    }
}

async fn a_revoked_token_is_dead_and_its_session_lives(mode: Mode) {
    let stage = mode.stage().await;
    let key = stage.gateways[0].admin_key(&["tokens:introspect", "tokens:revoke"]).await;
    let alice = stage.a().signup().await;
    let mut sockets = sockets(&stage, &alice).await;
    revoke(&stage, &key, &alice.token).await.expect(200);
    for socket in &mut sockets {
        socket.expect_close(3014, "state invalidated").await;
    }
    for node in stage.nodes() {
        crate::common::eventually("the token is refused", async || {
            (node.me(&alice.token).await.status == 401).then_some(())
        })
        .await;
        node.validate(&alice.session_id).await.expect(200);
    }
    assert_eq!(introspect(&stage, &key, &alice.token).await.expect(200).json, json!({"active": false}));
    revoke(&stage, &key, &alice.token).await.expect(200);
}

async fn revoking_a_secret_ends_its_session_with_all_tokens(mode: Mode) {
    let stage = mode.stage().await;
    let key = stage.gateways[0].admin_key(&["tokens:revoke"]).await;
    let alice = stage.a().signup().await;
    let other = stage.b().validate(&alice.session_id).await.expect(200);
    let mut sockets = sockets(&stage, &alice.with_token(other.str("access_token"))).await;
    revoke(&stage, &key, &alice.session_id).await.expect(200);
    crate::all_forced(&mut sockets, 4502, "session revoked").await;
    refused(&stage, &alice).await;
}

async fn revoking_what_is_unknown_is_200(mode: Mode) {
    let stage = mode.stage().await;
    let key = stage.gateways[0].admin_key(&["tokens:revoke"]).await;
    let alice = stage.a().signup().await;
    for token in ["x", &forged(&alice.token), &uuid::Uuid::new_v4().to_string()] {
        revoke(&stage, &key, token).await.expect(200);
    }
    stage.b().me(&alice.token).await.expect(200);
}

async fn a_token_is_revoked_by_its_id(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::with(&stage, &["tokens:revoke"]).await;
    let alice = stage.a().signup().await;
    let jti = claims(&alice.token)["jti"].clone();
    admin.post("/tokens/revoke", &json!({"jti": jti, "sid": alice.sid})).await.expect(200);
    crate::common::eventually("the token is refused", async || {
        (stage.b().me(&alice.token).await.status == 401).then_some(())
    })
    .await;
    stage.b().validate(&alice.session_id).await.expect(200);
    let nobody = "00000000-0000-4000-8000-000000000000";
    admin.post("/tokens/revoke", &json!({"jti": jti, "sid": nobody})).await.is_problem(404, "no_such_session");
    admin.post("/tokens/revoke", &json!({"jti": "x", "sid": nobody})).await.problem(&[422]);
}

async fn trouble_is_503_and_never_inactive(mode: Mode) {
    let stage = mode.own().own_postgres().start().await;
    let key = stage.gateways[0].admin_key(&["tokens:introspect", "tokens:revoke"]).await;
    let alice = stage.a().signup().await;
    introspect(&stage, &key, &alice.token).await.expect(200);
    stage.postgres().kill();
    stage.redis().kill();
    crate::common::eventually("nobody can tell any more", async || {
        let answer = introspect(&stage, &key, &alice.token).await;
        assert_ne!(answer.json, json!({"active": false}));
        (answer.status == 503).then_some(())
    })
    .await;
    revoke(&stage, &key, &alice.token).await.is_problem(503, "unavailable");
}
