//! Signup, login, validate-session: how a session begins and is taken up again.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::common::people::{claims, new_email, new_password, token_header};
use crate::common::{Answer, Login, Mode, stages};

stages! {
    both: [
        signup_answers_with_a_session,
        signup_keeps_the_name,
        signup_refuses_a_taken_address,
        signup_refuses_what_is_not_allowed,
        login_begins_another_session,
        login_takes_the_oauth2_form,
        login_does_not_tell_unknown_from_wrong,
        a_disabled_account_is_told_only_after_the_right_password,
        validate_session_gives_a_new_token_for_the_same_session,
        validate_session_refuses_an_unknown_secret,
        the_seed_frontend_returns_without_a_password,
        nothing_under_auth_may_be_stored,
    ],
    embedded: [guessing_is_throttled],
}

/// Names of an object's members.
fn members(object: &Value) -> BTreeSet<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[track_caller]
fn is_user(user: &Value) {
    let expected = ["avatar_url", "created_at", "email", "full_name", "id", "metadata", "updated_at"];
    assert_eq!(members(user), BTreeSet::from(expected), "a user's members, no more and no less");
    Uuid::parse_str(user["id"].as_str().expect("an id")).expect("a UUID");
    for member in ["created_at", "updated_at"] {
        let at = OffsetDateTime::parse(user[member].as_str().expect("a time"), &Rfc3339).expect("RFC 3339");
        assert!(at.offset().is_utc(), "{member} in UTC");
    }
}

#[track_caller]
fn is_login(answer: &Answer) {
    assert_eq!(answer.header("content-type").split(';').next(), Some("application/json"));
    assert_eq!(answer["token_type"], "bearer");
    assert_eq!(answer["expires_in"], 900);
    assert_eq!(Uuid::parse_str(answer.str("session_id")).expect("a UUID").get_version_num(), 4);
    is_user(&answer["user"]);
    let token = answer.str("access_token");
    assert_eq!(token_header(token)["typ"], "at+jwt");
    let claims = claims(token);
    assert_eq!(members(&claims), BTreeSet::from(["aud", "exp", "iat", "iss", "jti", "nbf", "sid", "sub"]));
    assert_eq!(claims["sub"], answer["user"]["id"]);
    assert_eq!(claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat"), 900);
    assert_ne!(claims["sid"], answer["session_id"], "the secret is not the handle");
    assert!(!token_text(token).contains(answer.str("session_id")), "the secret is never in a token");
}

fn token_text(token: &str) -> String {
    format!("{}{}", token_header(token), claims(token))
}

async fn signup_answers_with_a_session(mode: Mode) {
    let stage = mode.stage().await;
    let (email, password) = (new_email(), new_password());
    let body = json!({"email": email, "password": password, "device_name": "phone"});
    let answer = stage.a().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
    is_login(&answer);
    assert_eq!(answer["user"]["email"], email);
    assert_eq!(answer["user"]["full_name"], Value::Null);
    assert_eq!(answer["user"]["metadata"], json!({}));
    let login = Login::read(&answer, &email, &password);
    assert_eq!(stage.b().me(&login.token).await.expect(200)["id"], answer["user"]["id"]);
}

async fn signup_keeps_the_name(mode: Mode) {
    let stage = mode.stage().await;
    let body = json!({"email": new_email(), "password": new_password(), "full_name": "Zoë Ångström 🦀"});
    let answer = stage.a().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
    assert_eq!(answer["user"]["full_name"], "Zoë Ångström 🦀");
}

async fn signup_refuses_a_taken_address(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for email in [alice.email.clone(), alice.email.to_uppercase()] {
        let body = json!({"email": email, "password": new_password()});
        let again = stage.b().post("/api/v1/auth/signup").json(&body).send().await;
        again.is_problem(409, "email_taken");
    }
}

async fn signup_refuses_what_is_not_allowed(mode: Mode) {
    let stage = mode.stage().await;
    let (email, password) = (new_email(), new_password());
    let refused = [
        json!({"email": "no address", "password": password}),
        json!({"email": "", "password": password}),
        json!({"email": "a@b@c", "password": password}),
        json!({"email": format!("{}@example.test", "x".repeat(400)), "password": password}),
        json!({"email": "line\nbreak@example.test", "password": password}),
        json!({"email": email, "password": "short"}),
        json!({"email": email, "password": ""}),
        json!({"email": email, "password": "x".repeat(20_000)}),
        json!({"email": email, "password": password, "full_name": "x".repeat(20_000)}),
        json!({"email": email, "password": password, "device_name": "x".repeat(20_000)}),
    ];
    for body in refused {
        stage.a().post("/api/v1/auth/signup").json(&body).send().await.problem(&[422]);
    }
    let body = json!({"email": email, "password": "a long one, 64 letters and more, is as good as any other password"});
    stage.a().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
}

async fn login_begins_another_session(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let answer = stage.b().try_login(&phone.email, &phone.password).await.expect(200);
    is_login(&answer);
    let laptop = Login::read(&answer, &phone.email, &phone.password);
    assert_eq!(laptop.user_id, phone.user_id);
    assert_ne!(laptop.session_id, phone.session_id);
    assert_ne!(laptop.sid, phone.sid);
    stage.a().me(&phone.token).await.expect(200);
    stage.a().me(&laptop.token).await.expect(200);
}

async fn login_takes_the_oauth2_form(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let login = |fields: Vec<(&'static str, String)>| {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        stage.a().post("/api/v1/auth/login").form(&fields).send()
    };
    let good = vec![("username", alice.email.clone()), ("password", alice.password.clone())];
    is_login(&login(good).await.expect(200));
    let fastapi = vec![
        ("grant_type", "password".to_owned()),
        ("username", alice.email.clone()),
        ("password", alice.password.clone()),
        ("scope", String::new()),
    ];
    is_login(&login(fastapi).await.expect(200));
    let wrong = vec![("username", alice.email.clone()), ("password", new_password())];
    login(wrong).await.is_problem(401, "invalid_credentials");
    login(vec![("username", alice.email.clone())]).await.problem(&[400, 422]);
}

async fn login_does_not_tell_unknown_from_wrong(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let wrong = stage.a().try_login(&alice.email, &new_password()).await;
    let unknown = stage.a().try_login(&new_email(), &new_password()).await;
    for answer in [&wrong, &unknown] {
        answer.is_problem(401, "invalid_credentials");
        answer.is_unauthenticated();
    }
    assert_eq!(wrong.text, unknown.text);
    let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(names(&wrong), names(&unknown));
    stage.a().try_login(&alice.email.to_uppercase(), &alice.password).await.expect(200);
}

async fn a_disabled_account_is_told_only_after_the_right_password(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.database.disable(&alice.email).await;
    for node in stage.nodes() {
        node.try_login(&alice.email, &new_password()).await.is_problem(401, "invalid_credentials");
        node.try_login(&alice.email, &alice.password).await.is_problem(403, "account_disabled");
    }
}

async fn validate_session_gives_a_new_token_for_the_same_session(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let answer = stage.b().validate(&alice.session_id).await.expect(200);
    is_login(&answer);
    assert_eq!(answer["valid"], true);
    assert_eq!(answer["session_id"], alice.session_id);
    let renewed = Login::read(&answer, &alice.email, &alice.password);
    assert_eq!((renewed.sid, renewed.user_id), (alice.sid, alice.user_id));
    assert_ne!(claims(&renewed.token)["jti"], claims(&alice.token)["jti"]);
    // Two tabs that renew at the same moment log nobody out.
    stage.a().me(&alice.token).await.expect(200);
    stage.a().me(&renewed.token).await.expect(200);
}

async fn validate_session_refuses_an_unknown_secret(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.a().validate(&Uuid::new_v4().to_string()).await.is_unauthenticated();
    // The public handle opens nothing.
    stage.a().validate(&alice.sid).await.is_unauthenticated();
    stage.a().validate(&alice.user_id).await.is_unauthenticated();
}

async fn the_seed_frontend_returns_without_a_password(mode: Mode) {
    let stage = mode.stage().await;
    let (email, password) = (new_email(), new_password());
    let body = json!({"email": email, "password": password});
    stage.a().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
    let login = stage.a().post("/api/v1/auth/login").json(&body).send().await.expect(200);
    for member in ["access_token", "token_type", "user", "session_id"] {
        assert!(!login[member].is_null(), "login answers {member}");
    }

    // "Check if user has a valid session", as the page does it.
    let request = json!({"session_id": login["session_id"]}).to_string();
    let back = stage.b().post("/api/v1/auth/validate-session").body_as("application/json", request).send().await;
    let token = back.expect(200).str("access_token").to_owned();
    stage.a().me(&token).await.expect(200);

    // "Logout": no body, no content type; then the secret is worth nothing.
    stage.a().post("/api/v1/auth/logout").bearer(&token).send().await.expect(200);
    stage.a().validate(login.str("session_id")).await.is_unauthenticated();
}

async fn nothing_under_auth_may_be_stored(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let answers = [
        stage.a().try_login(&alice.email, &alice.password).await,
        stage.a().try_login(&alice.email, "wrong").await,
        stage.a().validate(&alice.session_id).await,
        stage.a().validate(&Uuid::new_v4().to_string()).await,
        stage.a().me(&alice.token).await,
        stage.a().me("x.y.z").await,
        stage.a().verify(&alice.token).await,
        stage.a().sessions(&alice.token).await,
        stage.a().post("/api/v1/auth/ws-ticket").bearer(&alice.token).send().await,
        stage.a().get("/api/v1/auth/nothing-here").send().await,
        stage.a().post("/api/v1/auth/login").body("{").send().await,
        stage.a().logout(&alice.token).await,
    ];
    for answer in answers {
        assert!(answer.header("cache-control").contains("no-store"), "{answer:#?}");
    }
}

async fn guessing_is_throttled(mode: Mode) {
    let stage = mode.own().without("PORTCULLIS_THROTTLING").start().await;
    let alice = stage.a().signup().await;
    // At most 100 failed attempts an hour for one account, says our security table.
    for _ in 0..=100 {
        let answer = stage.a().try_login(&alice.email, "a wrong password").await;
        match answer.status {
            401 => {}
            _ => {
                answer.problem(&[429]);
                return;
            }
        }
    }
    panic!("more than a hundred guesses were judged");
}
