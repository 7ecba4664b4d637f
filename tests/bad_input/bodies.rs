//! Bodies that are malformed, mistyped, too large or random.

use crate::common::people::{new_email, new_password};
use crate::common::{Answer, Mode, Node, stages};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

stages! {
    both: [
        malformed_json_is_400,
        missing_fields_and_wrong_types_are_refused,
        unknown_fields_are_ignored,
        another_content_type_is_415,
        an_announced_body_over_the_limit_is_413,
        an_endless_body_is_413,
        invalid_utf8_is_400,
        deep_nesting_is_400,
        nothing_random_makes_a_500,
    ],
}

/// Endpoints that read a body, each with one that it would take.
fn readers() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("POST", "/api/v1/auth/signup", json!({"email": new_email(), "password": new_password()})),
        ("POST", "/api/v1/auth/login", json!({"email": new_email(), "password": new_password()})),
        ("POST", "/api/v1/auth/validate-session", json!({"session_id": "00000000-0000-4000-8000-000000000000"})),
        ("PATCH", "/api/v1/auth/update-profile", json!({"full_name": "Alice"})),
        ("PUT", "/api/v1/auth/update-profile", json!({"full_name": "Alice"})),
        ("POST", "/api/v1/auth/change-password", json!({"current_password": "x", "new_password": new_password()})),
        ("POST", "/api/v1/auth/change-email", json!({"current_password": "x", "email": new_email()})),
        ("POST", "/api/v1/auth/delete-account", json!({"current_password": "x"})),
    ]
}

fn call(node: &Node, method: &str, path: &str, token: &str) -> crate::common::client::Call {
    let call = node.call(method.parse().expect("a method"), path);
    // Only where a bearer is asked for, so that the body is what is judged.
    let guarded = ["profile", "password", "email", "account"].iter().any(|end| path.ends_with(end));
    if guarded { call.bearer(token) } else { call }
}

async fn malformed_json_is_400(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for (method, path, good) in readers() {
        let good = good.to_string();
        let cut = good[..good.len() - 1].to_owned();
        let bad = ["", "{", "nonsense", "{\"email\": }", "{'email': 'x'}", "\u{feff}", &cut, &format!("{good}{good}")];
        for body in bad {
            call(stage.a(), method, path, &alice.token).body(body).send().await.problem(&[400]);
        }
    }
    // Logout reads a body only when there is one.
    stage.a().post("/api/v1/auth/logout").body("{").send().await.problem(&[400]);
}

async fn missing_fields_and_wrong_types_are_refused(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for (method, path, good) in readers() {
        let whole = [json!(null), json!([]), json!("text"), json!(7), json!(true), json!([good])];
        for body in whole {
            call(stage.a(), method, path, &alice.token).json(&body).send().await.problem(&[400, 422]);
        }
        for member in good.as_object().expect("an object").keys() {
            let mut missing = good.clone();
            missing.as_object_mut().expect("an object").remove(member);
            let mut bodies = vec![];
            if !path.ends_with("profile") {
                bodies.push(missing);
            }
            for wrong in [json!(7), json!(true), json!([]), json!({}), json!(["x"]), json!({"$gt": ""})] {
                let mut body = good.clone();
                body[member] = wrong;
                bodies.push(body);
            }
            for body in bodies {
                let answer = call(stage.a(), method, path, &alice.token).json(&body).send().await;
                answer.problem(&[400, 422]);
            }
        }
    }
    for metadata in [json!("text"), json!(7), json!([1])] {
        stage.a().patch_profile(&alice.token, &json!({"metadata": metadata})).await.problem(&[400, 422]);
    }
    for url in ["javascript:alert(1)", "no url", "data:text/html,x"] {
        stage.a().patch_profile(&alice.token, &json!({"avatar_url": url})).await.problem(&[422]);
    }
}

async fn unknown_fields_are_ignored(mode: Mode) {
    let stage = mode.stage().await;
    let (email, password) = (new_email(), new_password());
    let body = json!({"email": email, "password": password, "colour": "blue", "nested": {"deep": [1, 2]}});
    let signup = stage.a().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
    stage.a().post("/api/v1/auth/login").json(&body).send().await.expect(200);
    let body = json!({"session_id": signup["session_id"], "colour": "blue"});
    stage.a().post("/api/v1/auth/validate-session").json(&body).send().await.expect(200);
    let token = signup.str("access_token");
    let body = json!({"full_name": "Alice", "colour": "blue"});
    assert_eq!(stage.a().patch_profile(token, &body).await.expect(200)["full_name"], "Alice");
}

async fn another_content_type_is_415(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for (method, path, good) in readers() {
        for content_type in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "nonsense"] {
            let call = call(stage.a(), method, path, &alice.token);
            call.body_as(content_type, good.to_string()).send().await.problem(&[415]);
        }
        let untyped = call(stage.a(), method, path, &alice.token).untyped_body(good.to_string());
        untyped.send().await.problem(&[415]);
    }
    // A form is for login alone.
    let form = [("session_id", alice.session_id.as_str())];
    stage.a().post("/api/v1/auth/validate-session").form(&form).send().await.problem(&[415]);
    let good = json!({"session_id": alice.session_id}).to_string();
    for content_type in ["application/json; charset=utf-8", "application/JSON"] {
        let call = stage.a().post("/api/v1/auth/validate-session");
        call.body_as(content_type, good.clone()).send().await.expect(200);
    }
}

fn head(node: &Node, path: &str, more: &str) -> String {
    let host = node.authority();
    format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n{more}\r\n")
}

#[track_caller]
fn is_raw_problem(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.to_lowercase().contains("content-type: application/problem+json"), "{answer}");
    assert!(answer.contains("\"code\""), "{answer}");
}

async fn an_announced_body_over_the_limit_is_413(mode: Mode) {
    let stage = mode.stage().await;
    for path in ["/api/v1/auth/login", "/api/v1/auth/signup", "/api/v1/auth/logout"] {
        // Judged by what is announced: the bytes need not come.
        let request = head(stage.a(), path, "Content-Length: 104857600\r\n") + "{\"email\":\"";
        is_raw_problem(&stage.a().raw(request.as_bytes()).await, 413);
    }
}

async fn an_endless_body_is_413(mode: Mode) {
    let stage = mode.stage().await;
    let mut request = head(stage.a(), "/api/v1/auth/login", "Transfer-Encoding: chunked\r\n");
    request += "a\r\n{\"email\":\"\r\n";
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
    for _ in 0..1024 {
        request += &chunk;
    }
    is_raw_problem(&stage.a().raw(request.as_bytes()).await, 413);
}

async fn invalid_utf8_is_400(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for bytes in
        [&b"\xff\xfe"[..], b"{\"email\": \"\xc3\x28\", \"password\": \"x\"}", b"{\"full_name\": \"\xed\xa0\x80\"}"]
    {
        for (method, path, _) in readers() {
            call(stage.a(), method, path, &alice.token).body(bytes).send().await.problem(&[400]);
        }
    }
    let form = b"username=%FF%FE&password=x".to_vec();
    let login = stage.a().post("/api/v1/auth/login").body_as("application/x-www-form-urlencoded", form);
    login.send().await.problem(&[400, 401, 422]);
    // A lone surrogate is good JSON grammar and no text.
    stage.a().post("/api/v1/auth/login").body(r#"{"email": "\ud800", "password": "x"}"#).send().await.problem(&[400]);
    // Postgres has no zero byte in its texts.
    let zero = json!({"email": "zero\0@example.test", "password": new_password()});
    stage.a().post("/api/v1/auth/signup").json(&zero).send().await.problem(&[422]);
    let login = stage.a().post("/api/v1/auth/login").json(&zero).send().await;
    login.problem(&[401, 422]);
    for change in [json!({"full_name": "a\0b"}), json!({"metadata": {"a\0b": "c\0d"}})] {
        let answer = stage.a().patch_profile(&alice.token, &change).await;
        assert!(answer.status == 200 || !answer.problem(&[400, 422]).is_empty(), "{answer:#?}");
    }
}

async fn deep_nesting_is_400(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let deep = format!("{{\"metadata\":{}1{}}}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    for method in ["PATCH", "PUT"] {
        let call = call(stage.a(), method, "/api/v1/auth/update-profile", &alice.token);
        call.body(deep.clone()).send().await.problem(&[400]);
    }
    let call = stage.a().post("/api/v1/auth/login").body("[".repeat(30_000));
    call.send().await.problem(&[400]);
}

/// Each body is a good one with some bytes changed, cut or repeated; each is sent to each endpoint that reads a body.
async fn nothing_random_makes_a_500(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut runner = TestRunner::deterministic();
    let damage = proptest::collection::vec((proptest::num::usize::ANY, 0..4_u8, proptest::num::u8::ANY), 1..4);
    for round in 0..60 {
        let damage = damage.new_tree(&mut runner).expect("a value").current();
        for (method, path, good) in readers() {
            let body = damaged(good.to_string().into_bytes(), &damage);
            let answer = call(stage.a(), method, path, &alice.token).body(body.clone()).send().await;
            let body = String::from_utf8_lossy(&body);
            assert!(answer.status < 500, "round {round}, {method} {path} {body}: {answer:#?}");
            is_clear(&answer);
        }
    }
}

fn damaged(mut body: Vec<u8>, damage: &[(usize, u8, u8)]) -> Vec<u8> {
    for &(at, kind, byte) in damage {
        let at = at % body.len().max(1);
        match kind {
            0 if at < body.len() => body[at] = byte,
            1 => body.truncate(at),
            2 => body.insert(at.min(body.len()), byte),
            _ => body.extend_from_within(at.min(body.len())..),
        }
    }
    body
}

#[track_caller]
fn is_clear(answer: &Answer) {
    if answer.status >= 400 {
        answer.problem(&[answer.status]);
    }
}
