//! Credentials in a bad form, and bytes that are no HTTP at all.

use crate::common::{Mode, stages};

stages! {
    both: [
        secrets_that_are_no_uuid_are_refused,
        a_bearer_in_a_bad_form_is_401,
        two_authorization_headers_are_never_good,
        a_token_in_the_query_is_not_taken,
        what_is_no_http_gets_400,
    ],
}

async fn secrets_that_are_no_uuid_are_refused(mode: Mode) {
    let stage = mode.stage().await;
    let long = "f".repeat(5_000);
    for bad in ["", "x", "00000000-0000-4000-8000-00000000000", "' OR 1=1 --", "{}", &long] {
        stage.a().validate(bad).await.problem(&[400, 401, 422]);
    }
    let alice = stage.a().signup().await;
    for bad in ["x", "00000000-0000-4000-8000-00000000000", "%27%20OR%201=1", "%FF%FE"] {
        stage.a().end_session(&alice.token, bad).await.problem(&[400, 404, 422]);
    }
}

async fn a_bearer_in_a_bad_form_is_401(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let me = |value: Vec<u8>| stage.a().get("/api/v1/auth/me").header_bytes("authorization", &value).send();
    let good = &alice.token;
    let bad = [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Basic YWxpY2U6c2VjcmV0".to_owned(),
        format!("Basic {good}"),
        good.clone(),
        format!("Bearer{good}"),
        format!("Bearer {good} {good}"),
        format!("Bearer {good},Bearer {good}"),
        format!("Bearer \"{good}\""),
        format!("Token {good}"),
        format!("Bearer {}", "x".repeat(8_000)),
    ];
    for value in bad {
        me(value.into_bytes()).await.problem(&[401]);
    }
    me(b"Bearer \xff\xfe\x80".to_vec()).await.problem(&[401]);
    // The scheme's name has no case.
    me(format!("bearer {good}").into_bytes()).await.expect(200);
    me(format!("BEARER {good}").into_bytes()).await.expect(200);
}

async fn two_authorization_headers_are_never_good(mode: Mode) {
    let stage = mode.stage().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    for (first, second) in [(&alice.token, &bob.token), (&alice.token, &"x".to_owned())] {
        for (first, second) in [(first, second), (second, first)] {
            let call = stage.a().get("/api/v1/auth/me").bearer(first).bearer(second);
            call.send().await.problem(&[400, 401]);
        }
    }
}

async fn a_token_in_the_query_is_not_taken(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for name in ["token", "access_token"] {
        let answer = stage.a().get(&format!("/api/v1/auth/me?{name}={}", alice.token)).send().await;
        answer.problem(&[400, 401]);
    }
    let answer = stage.a().post(&format!("/api/v1/auth/logout?session_id={}", alice.session_id)).send().await;
    answer.problem(&[400, 401]);
    stage.a().validate(&alice.session_id).await.expect(200);
}

async fn what_is_no_http_gets_400(mode: Mode) {
    let stage = mode.stage().await;
    for request in
        [&b"nonsense\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"]
    {
        let answer = stage.a().raw(request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    stage.a().get("/health/live").send().await.expect(200);
}
