//! Cookie mode: what a browser sends by itself authorises nothing that another site asked for.

use std::time::Instant;

use crate::common::{Answer, Login, Mode, Stage, stages};
use crate::refused_everywhere;

stages! {
    both: [
        the_cookie_is_set_and_cleared,
        no_cookie_is_set_by_default,
        a_cookie_serves_forward_auth,
        a_logout_from_a_foreign_page_is_refused,
        a_logout_from_our_own_page_passes,
        a_bearer_needs_no_origin,
        a_cookie_of_an_ended_session_is_401,
    ],
}

const LISTED: &str = "https://app.example";

async fn with_cookies(mode: Mode) -> Stage {
    mode.own().env("PORTCULLIS_COOKIES", "on").env("PORTCULLIS_ALLOWED_ORIGINS", LISTED).start().await
}

fn cookie(login: &Login) -> String {
    format!("portcullis_session={}", login.session_id)
}

fn set_cookie(answer: &Answer) -> &str {
    answer.header("set-cookie")
}

async fn the_cookie_is_set_and_cleared(mode: Mode) {
    let stage = with_cookies(mode).await;
    let alice = stage.a().signup().await;
    let set = [
        stage.a().try_login(&alice.email, &alice.password).await.expect(200),
        stage.a().validate(&alice.session_id).await.expect(200),
    ];
    for answer in set {
        let cookie = set_cookie(&answer);
        assert!(cookie.starts_with(&format!("portcullis_session={}", answer.str("session_id"))), "{cookie}");
        let attributes = cookie.to_lowercase();
        for attribute in ["httponly", "samesite=", "path=/"] {
            assert!(attributes.contains(attribute), "no {attribute}: {cookie}");
        }
        assert!(!attributes.contains("domain="), "{cookie}");
    }
    let answer = stage.a().post("/api/v1/auth/logout").header("cookie", &cookie(&alice)).header("origin", LISTED);
    let answer = answer.send().await.expect(200);
    let cleared = set_cookie(&answer).to_lowercase();
    assert!(cleared.starts_with("portcullis_session=;"), "{cleared}");
    assert!(cleared.contains("max-age=0") || cleared.contains("1970"), "{cleared}");
}

async fn no_cookie_is_set_by_default(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let login = stage.a().try_login(&alice.email, &alice.password).await.expect(200);
    let validate = stage.a().validate(&alice.session_id).await.expect(200);
    assert_eq!((set_cookie(&login), set_cookie(&validate)), ("", ""));
    let verify = stage.a().get("/api/v1/auth/verify").header("cookie", &cookie(&alice)).send().await;
    verify.is_unauthenticated();
}

async fn a_cookie_serves_forward_auth(mode: Mode) {
    let stage = with_cookies(mode).await;
    let alice = stage.a().signup().await;
    for node in stage.nodes() {
        let answer = node.get("/api/v1/auth/verify").header("cookie", &format!("theme=dark; {}", cookie(&alice)));
        let answer = answer.send().await.expect(204);
        assert_eq!(answer.header("x-auth-user-id"), alice.user_id);
        assert_eq!(answer.header("x-auth-session"), alice.sid);
    }
}

async fn a_logout_from_a_foreign_page_is_refused(mode: Mode) {
    let stage = with_cookies(mode).await;
    let alice = stage.a().signup().await;
    let foreign: [&[(&str, &str)]; 6] = [
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "https://app.example.evil.example")],
        &[("origin", "http://app.example")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
    ];
    for headers in foreign {
        let mut call = stage.a().post("/api/v1/auth/logout").header("cookie", &cookie(&alice));
        for (name, value) in headers {
            call = call.header(name, value);
        }
        call.send().await.problem(&[403]);
        stage.a().validate(&alice.session_id).await.expect(200);
    }
}

async fn a_logout_from_our_own_page_passes(mode: Mode) {
    let stage = with_cookies(mode).await;
    let own = [vec![("origin", LISTED)], vec![("sec-fetch-site", "same-origin")]];
    for headers in own {
        let alice = stage.a().signup().await;
        let mut socket = stage.b().connect(&alice.token).await;
        let mut call = stage.a().post("/api/v1/auth/logout").header("cookie", &cookie(&alice));
        for (name, value) in headers {
            call = call.header(name, value);
        }
        call.send().await.expect(200);
        let answered = Instant::now();
        socket.expect_forced(4500, "logged out").await;
        refused_everywhere(&stage, &alice, answered).await;
    }
}

async fn a_bearer_needs_no_origin(mode: Mode) {
    let stage = with_cookies(mode).await;
    let alice = stage.a().signup().await;
    // A token is shown by whoever has it and never by a browser alone.
    let call = stage.a().post("/api/v1/auth/logout").bearer(&alice.token).header("origin", "https://evil.example");
    call.header("sec-fetch-site", "cross-site").send().await.expect(200);
}

async fn a_cookie_of_an_ended_session_is_401(mode: Mode) {
    let stage = with_cookies(mode).await;
    let alice = stage.a().signup().await;
    stage.a().logout(&alice.token).await.expect(200);
    let answer = stage.a().get("/api/v1/auth/verify").header("cookie", &cookie(&alice)).send().await;
    answer.is_unauthenticated();
    // Logging out what has ended is no error.
    let again = stage.a().post("/api/v1/auth/logout").header("cookie", &cookie(&alice)).header("origin", LISTED);
    again.send().await.expect(200);
}
