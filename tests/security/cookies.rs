//! Cookie mode over HTTP: what the cookie looks like behind TLS, and what a login does about one that came along. What
//! browsers make of it is in `browser.rs`.

use std::time::Instant;

use serde_json::json;

use crate::common::client::Call;
use crate::common::{Login, Mode, Node, Stage, stages};

stages! {
    both: [
        behind_tls_the_cookie_is_secure_and_bound_to_its_host,
        behind_tls_a_cookie_of_plain_http_counts_for_nothing,
        only_a_trusted_proxy_says_tls,
        a_login_ends_the_session_of_the_cookie_that_came_along,
        a_failed_login_ends_nothing,
        a_foreign_page_logs_nobody_in,
        without_cookie_mode_a_login_may_come_from_anywhere,
    ],
}

const NAME_BEHIND_TLS: &str = "__Host-portcullis_session";

/// A stage behind a proxy that ends TLS, which is this test.
async fn behind_tls(mode: Mode) -> Stage {
    with_cookies(mode).env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1").start().await
}

fn with_cookies(mode: Mode) -> crate::common::stage::StageBuilder {
    mode.own().env("PORTCULLIS_COOKIES", "on")
}

fn log_in(node: &Node, who: &Login) -> Call {
    node.post("/api/v1/auth/login").json(&json!({"email": who.email, "password": who.password}))
}

fn over_tls(call: Call) -> Call {
    call.header("x-forwarded-proto", "https")
}

async fn behind_tls_the_cookie_is_secure_and_bound_to_its_host(mode: Mode) {
    let stage = behind_tls(mode).await;
    let alice = stage.a().signup().await;
    let answer = over_tls(log_in(stage.a(), &alice)).send().await.expect(200);
    let cookie = answer.header("set-cookie");
    let (pair, attributes) = cookie.split_once(';').expect("attributes");
    assert_eq!(pair, format!("{NAME_BEHIND_TLS}={}", answer.str("session_id")));
    assert!(pair.len() <= 4096, "{}", pair.len());
    let mut attributes: Vec<_> = attributes.split(';').map(|attribute| attribute.trim().to_lowercase()).collect();
    attributes.sort();
    let [httponly, max_age, path, samesite, secure] = attributes.as_slice() else { panic!("{cookie}") };
    assert_eq!(
        [httponly, path, samesite, secure].map(String::as_str),
        ["httponly", "path=/", "samesite=lax", "secure"]
    );
    let seconds: u32 = max_age.strip_prefix("max-age=").expect("Max-Age").parse().expect("seconds");
    assert_eq!(seconds, 7 * 86_400);
    // It serves, and logout clears it under the same name and attributes.
    let cookie = format!("{NAME_BEHIND_TLS}={}", answer.str("session_id"));
    let verify = stage.b().get("/api/v1/auth/verify").header("cookie", &cookie);
    over_tls(verify).send().await.expect(204);
    let logout =
        stage.b().post("/api/v1/auth/logout").header("cookie", &cookie).header("sec-fetch-site", "same-origin");
    let cleared = over_tls(logout).send().await.expect(200);
    let cleared = cleared.header("set-cookie").to_lowercase();
    for part in ["__host-portcullis_session=;", "max-age=0", "path=/", "secure"] {
        assert!(cleared.contains(part), "no {part}: {cleared}");
    }
}

/// A neighbouring host, or somebody in between on plain http, can plant a cookie without the prefix.
async fn behind_tls_a_cookie_of_plain_http_counts_for_nothing(mode: Mode) {
    let stage = behind_tls(mode).await;
    let (mallory, alice) = (stage.a().signup().await, stage.a().signup().await);
    let planted = format!("portcullis_session={}", mallory.session_id);
    let both = format!("{planted}; {NAME_BEHIND_TLS}={}", alice.session_id);
    for node in stage.nodes() {
        let with = |cookie: &str| over_tls(node.get("/api/v1/auth/verify").header("cookie", cookie));
        with(&planted).send().await.is_unauthenticated();
        assert_eq!(with(&both).send().await.expect(204).header("x-auth-user-id"), alice.user_id);
        let origin = format!("https://{}", node.authority());
        let socket =
            |cookie: &str| node.socket().header("cookie", cookie).header("x-forwarded-proto", "https").origin(&origin);
        socket(&both).open().await.expect_admitted(&alice.user_id).await;
        let mut socket = socket(&planted).open().await;
        socket.send(r#"{"id":1,"connect":{}}"#).await;
        socket.expect_close(3500, "invalid token").await;
    }
}

async fn only_a_trusted_proxy_says_tls(mode: Mode) {
    let stage = with_cookies(mode).start().await;
    let alice = stage.a().signup().await;
    let answer = over_tls(log_in(stage.a(), &alice)).send().await.expect(200);
    assert!(answer.header("set-cookie").starts_with("portcullis_session="), "{}", answer.header("set-cookie"));
}

async fn a_login_ends_the_session_of_the_cookie_that_came_along(mode: Mode) {
    let stage = with_cookies(mode).start().await;
    // Mallory has planted a session of hers, and waits for Alice to make it worth something.
    let (mallory, alice) = (stage.a().signup().await, stage.b().signup().await);
    let mut open = stage.b().connect(&mallory.token).await;
    let cookie = format!("portcullis_session={}", mallory.session_id);
    let fresh = log_in(stage.a(), &alice).header("cookie", &cookie).send().await.expect(200);
    let answered = Instant::now();
    open.expect_forced(4500, "logged out").await;
    for node in stage.nodes() {
        while node.validate(&mallory.session_id).await.status != 401 {
            assert!(answered.elapsed() < crate::BOUND, "the planted session lives");
        }
    }
    // Nothing of hers has become Alice's, and Alice's other session is none the worse.
    assert_ne!(fresh.str("session_id"), mallory.session_id);
    assert!(fresh.header("set-cookie").contains(fresh.str("session_id")));
    stage.b().validate(&alice.session_id).await.expect(200);
    stage.b().validate(fresh.str("session_id")).await.expect(200);
    // A signup does the same.
    let cookie = format!("portcullis_session={}", fresh.str("session_id"));
    let body = json!({"email": crate::common::people::new_email(), "password": crate::common::people::new_password()});
    stage.b().post("/api/v1/auth/signup").header("cookie", &cookie).json(&body).send().await.expect(201);
    assert_eq!(stage.b().validate(fresh.str("session_id")).await.status, 401);
}

async fn a_failed_login_ends_nothing(mode: Mode) {
    let stage = with_cookies(mode).start().await;
    let alice = stage.a().signup().await;
    let cookie = format!("portcullis_session={}", alice.session_id);
    let body = json!({"email": alice.email, "password": "not the password"});
    let answer = stage.a().post("/api/v1/auth/login").header("cookie", &cookie).json(&body).send().await;
    answer.is_problem(401, "invalid_credentials");
    assert_eq!(answer.header("set-cookie"), "");
    stage.a().validate(&alice.session_id).await.expect(200);
}

/// Login CSRF: a page of Mallory's sends the browser's user into Mallory's account, and reads later what they did there.
async fn a_foreign_page_logs_nobody_in(mode: Mode) {
    let stage = with_cookies(mode).start().await;
    let mallory = stage.a().signup().await;
    let form = [("username", mallory.email.as_str()), ("password", mallory.password.as_str())];
    let foreign: [&[(&str, &str)]; 4] = [
        &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
    ];
    for headers in foreign {
        let calls = [
            stage.a().post("/api/v1/auth/login").form(&form),
            log_in(stage.a(), &mallory),
            stage.a().post("/api/v1/auth/validate-session").json(&json!({"session_id": mallory.session_id})),
            stage
                .a()
                .post("/api/v1/auth/signup")
                .json(&json!({"email": "x@example.test", "password": "Long enough 1"})),
        ];
        for call in calls {
            let call = headers.iter().fold(call, |call, (name, value)| call.header(name, value));
            let answer = call.send().await;
            answer.is_problem(403, "csrf");
            assert_eq!(answer.header("set-cookie"), "");
        }
    }
    // Programs send no such headers, and one's own page the right ones.
    log_in(stage.a(), &mallory).send().await.expect(200);
    log_in(stage.a(), &mallory).header("origin", &stage.a().url).send().await.expect(200);
}

async fn without_cookie_mode_a_login_may_come_from_anywhere(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let answer = log_in(stage.a(), &alice).header("origin", "https://elsewhere.example").send().await.expect(200);
    assert_eq!(answer.header("set-cookie"), "");
    assert_eq!(answer.header("access-control-allow-origin"), "", "that page cannot read it");
}
