//! Keys of the admin API: who is let in, who is not, and when nobody can tell.

use serde_json::json;

use crate::Admin;
use crate::common::people::token_header;
use crate::common::{Mode, eventually, stages};

stages! {
    both: [
        nobody_gets_in_without_a_good_key,
        each_call_needs_its_scope,
        a_key_gives_no_more_than_it_has,
        a_rotated_key_is_followed_by_its_next,
        a_revoked_key_is_dead_on_every_node,
        a_key_ends_by_itself,
        guesses_are_limited_and_good_keys_are_not,
        the_document_describes_every_endpoint,
        answers_are_not_stored_and_no_page_may_read_them,
    ],
    cluster: [a_database_that_is_away_is_503],
}

const SOMEBODY: &str = "00000000-0000-4000-8000-000000000000";

/// Every endpoint: method, path, scope.
const ENDPOINTS: [(&str, &str, &str); 20] = [
    ("POST", "/users/search", "users:read"),
    ("GET", "/users/{id}", "users:read"),
    ("POST", "/users/{id}/disable", "users:write"),
    ("POST", "/users/{id}/enable", "users:write"),
    ("GET", "/users/{id}/sessions", "users:read"),
    ("DELETE", "/users/{id}/sessions", "sessions:revoke"),
    ("GET", "/sessions/{sid}", "users:read"),
    ("DELETE", "/sessions/{sid}", "sessions:revoke"),
    ("POST", "/sessions/revoke", "sessions:revoke_all"),
    ("POST", "/introspect", "tokens:introspect"),
    ("POST", "/revoke", "tokens:revoke"),
    ("POST", "/tokens/revoke", "tokens:revoke"),
    ("GET", "/audit", "audit:read"),
    ("GET", "/stats", "stats:read"),
    ("GET", "/webhooks", "webhooks:manage"),
    ("POST", "/webhooks/retry", "webhooks:manage"),
    ("GET", "/keys", "keys:manage"),
    ("POST", "/keys", "keys:manage"),
    ("DELETE", "/keys/{id}", "keys:manage"),
    ("POST", "/keys/{id}/rotate", "keys:manage"),
];

/// A body that every endpoint takes.
fn body() -> serde_json::Value {
    json!({"token": "x", "jti": SOMEBODY, "sid": SOMEBODY, "name": "x", "scopes": ["stats:read"]})
}

fn path(template: &str) -> String {
    format!("/api/v1/admin{}", template.replace("{id}", SOMEBODY).replace("{sid}", SOMEBODY))
}

async fn nobody_gets_in_without_a_good_key(mode: Mode) {
    let stage = mode.stage().await;
    let good = stage.gateways[0].admin_key(&["all"]).await;
    let alice = stage.a().signup().await;
    let mut other = good.clone();
    other.replace_range(20..21, if &good[20..21] == "A" { "B" } else { "A" });
    assert_eq!(token_header(&alice.token)["typ"], "at+jwt");
    for (method, template, _) in ENDPOINTS {
        let call = || stage.a().call(method.parse().expect("a method"), &path(template)).json(&body());
        call().send().await.is_unauthenticated();
        for bad in [&other, &alice.token, &alice.session_id, "portcullis_admin_", "x"] {
            call().bearer(bad).send().await.is_bad_token();
        }
        call().header("authorization", "Basic %%%").send().await.is_bad_token();
        let cookie = format!("portcullis_session={}", alice.session_id);
        call().header("cookie", &cookie).send().await.is_unauthenticated();
    }
    stage.a().get("/api/v1/auth/me").bearer(&good).send().await.is_bad_token();
    stage.a().get("/api/v1/admin/stats").bearer(&good).send().await.expect(200);
    let basic = format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("ops:{good}")));
    stage.b().get("/api/v1/admin/stats").header("authorization", &basic).send().await.expect(200);
}

async fn each_call_needs_its_scope(mode: Mode) {
    let stage = mode.stage().await;
    let scopes: Vec<_> = ENDPOINTS.iter().map(|(_, _, scope)| *scope).collect();
    for (method, template, scope) in ENDPOINTS {
        let mut others: Vec<_> = scopes.iter().copied().filter(|other| *other != scope).collect();
        others.dedup();
        let key = stage.gateways[0].admin_key(&others).await;
        let call = stage.a().call(method.parse().expect("a method"), &path(template)).json(&body()).bearer(&key);
        let answer = call.send().await;
        answer.is_problem(403, "insufficient_scope");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""));
    }
}

async fn a_key_gives_no_more_than_it_has(mode: Mode) {
    let stage = mode.stage().await;
    let maker = Admin::with(&stage, &["keys:manage", "stats:read"]).await;
    let wanted = |scopes: &[&str]| json!({"name": "child", "scopes": scopes, "expires_in": 3600});
    maker.post("/keys", &wanted(&["stats:read", "users:write"])).await.is_problem(403, "more_than_own");
    maker.post("/keys", &wanted(&[])).await.is_problem(422, "invalid_field");
    maker.post("/keys", &wanted(&["everything"])).await.is_problem(422, "invalid_field");
    maker.post("/keys", &json!({"name": " ", "scopes": ["stats:read"]})).await.is_problem(422, "invalid_field");
    let made = maker.post("/keys", &wanted(&["stats:read"])).await.expect(201);
    let child = made.str("key").to_owned();
    assert!(child.len() >= 43, "256 bits");
    stage.b().get("/api/v1/admin/stats").bearer(&child).send().await.expect(200);
    let strong = Admin::of(&stage).await;
    let listed = strong.get("/keys").await.expect(200);
    assert!(!listed.text.contains(&child), "a key is shown once");
    let all =
        listed["keys"].as_array().expect("keys").iter().find(|key| key["scopes"].as_array().expect("scopes").len() > 5);
    let all = all.expect("the strong key")["id"].as_str().expect("an id").to_owned();
    maker.post(&format!("/keys/{all}/rotate"), &json!({})).await.is_problem(403, "more_than_own");
}

async fn a_rotated_key_is_followed_by_its_next(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let made = admin.post("/keys", &json!({"name": "old", "scopes": ["stats:read"]})).await.expect(201);
    let (old, id) = (made.str("key").to_owned(), made.str("id").to_owned());
    let next = admin.post(&format!("/keys/{id}/rotate"), &json!({"overlap": 3600})).await.expect(201);
    assert_eq!((&next["name"], &next["scopes"]), (&json!("old"), &json!(["stats:read"])));
    let stats = |key: &str| stage.b().get("/api/v1/admin/stats").bearer(key).send();
    stats(&old).await.expect(200);
    stats(next.str("key")).await.expect(200);
    let last = admin.post(&format!("/keys/{}/rotate", next.str("id")), &json!({"overlap": 0})).await.expect(201);
    eventually("the old key ends", async || (stats(next.str("key")).await.status == 401).then_some(())).await;
    stats(last.str("key")).await.expect(200);
    admin.post(&format!("/keys/{}/rotate", next.str("id")), &json!({})).await.is_problem(404, "no_such_key");
}

async fn a_revoked_key_is_dead_on_every_node(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let made = admin.post("/keys", &json!({"name": "doomed", "scopes": ["stats:read"]})).await.expect(201);
    for node in stage.nodes() {
        node.get("/api/v1/admin/stats").bearer(made.str("key")).send().await.expect(200);
    }
    admin.delete(&format!("/keys/{}", made.str("id"))).await.expect(204);
    for node in stage.nodes() {
        let ask = || node.get("/api/v1/admin/stats").bearer(made.str("key")).send();
        eventually("the key is refused", async || (ask().await.status == 401).then_some(())).await;
    }
    admin.delete(&format!("/keys/{}", made.str("id"))).await.is_problem(404, "no_such_key");
    admin.delete("/keys/x").await.problem(&[404]);
}

async fn a_key_ends_by_itself(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let body = json!({"name": "short", "scopes": ["stats:read"], "expires_in": 2});
    let made = admin.post("/keys", &body).await.expect(201);
    let ask = || stage.b().get("/api/v1/admin/stats").bearer(made.str("key")).send();
    ask().await.expect(200);
    eventually("the key expires", async || (ask().await.status == 401).then_some(())).await;
}

async fn guesses_are_limited_and_good_keys_are_not(mode: Mode) {
    let stage = mode.own().without("PORTCULLIS_THROTTLING").start().await;
    let admin = Admin::of(&stage).await;
    for _ in 0..200 {
        admin.get("/audit?limit=1").await.expect(200);
    }
    let guess = || stage.a().get("/api/v1/admin/stats").bearer("x").send();
    let mut refused = 0;
    let limited = loop {
        let answer = guess().await;
        if answer.status == 429 {
            break answer;
        }
        answer.is_bad_token();
        refused += 1;
        assert!(refused < 1_000, "nothing limits guesses");
    };
    limited.is_problem(429, "too_many_requests");
}

async fn the_document_describes_every_endpoint(mode: Mode) {
    let stage = mode.stage().await;
    let document = stage.a().get("/api/openapi.json").send().await.expect(200);
    for (method, template, _) in ENDPOINTS {
        let operation = &document["paths"][format!("/api/v1/admin{template}")][method.to_lowercase()];
        for status in ["401", "403", "429", "503"] {
            assert!(operation["responses"][status].is_object(), "{method} {template} {status}");
        }
        assert_eq!(operation["security"][0], json!({"admin_key": []}), "{method} {template}");
    }
    assert!(document["paths"]["/api/v1/auth/audit"]["get"]["responses"]["200"].is_object());
    let described = document["paths"].as_object().expect("paths").keys();
    let described = described.filter(|path| path.starts_with("/api/v1/admin"));
    for path in described {
        let known = ENDPOINTS.iter().any(|(_, template, _)| format!("/api/v1/admin{template}") == *path);
        assert!(known, "{path} is tested by nobody");
    }
}

async fn answers_are_not_stored_and_no_page_may_read_them(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_ALLOWED_ORIGINS", "https://app.example").start().await;
    let admin = Admin::of(&stage).await;
    let answer = stage.a().get("/api/v1/admin/stats").bearer(&admin.key).header("origin", "https://app.example");
    let answer = answer.send().await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

async fn a_database_that_is_away_is_503(mode: Mode) {
    let stage = mode.own().own_postgres().start().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    admin.get("/stats").await.expect(200);
    stage.postgres().kill();
    for path in ["/stats", "/audit", "/keys"] {
        admin.get(path).await.is_problem(503, "unavailable");
    }
    let answer = stage.b().get("/api/v1/admin/stats").bearer("portcullis_admin_x").send().await;
    answer.is_bad_token();
    let unknown = format!("portcullis_admin_{}", "x".repeat(43));
    stage.b().get("/api/v1/admin/stats").bearer(&unknown).send().await.is_problem(503, "unavailable");
    admin.post(&format!("/users/{}/disable", alice.user_id), &json!({})).await.is_problem(503, "unavailable");
}
