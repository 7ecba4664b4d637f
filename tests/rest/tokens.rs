//! Forward-auth, and every way an access token can be wrong.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::common::people::{claims, forged, token_header};
use crate::common::{Mode, stages};

stages! {
    both: [
        verify_names_the_user_in_headers,
        every_guarded_endpoint_asks_for_a_bearer,
        a_token_signed_with_a_public_key_is_refused,
        an_unsigned_token_is_refused,
        an_altered_token_is_refused,
        an_expired_token_is_refused,
        an_access_token_is_no_session_and_a_session_no_token,
        a_token_of_one_node_is_good_on_every_node,
    ],
}

const GUARDED: &[(&str, &str)] = &[
    ("GET", "/api/v1/auth/me"),
    ("PUT", "/api/v1/auth/update-profile"),
    ("PATCH", "/api/v1/auth/update-profile"),
    ("POST", "/api/v1/auth/change-password"),
    ("POST", "/api/v1/auth/change-email"),
    ("POST", "/api/v1/auth/delete-account"),
    ("GET", "/api/v1/auth/sessions"),
    ("DELETE", "/api/v1/auth/sessions/00000000-0000-4000-8000-000000000000"),
    ("POST", "/api/v1/auth/ws-ticket"),
    ("POST", "/api/v1/auth/logout-all-devices"),
    ("GET", "/api/v1/auth/verify"),
];

async fn verify_names_the_user_in_headers(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for node in stage.nodes() {
        let answer = node.verify(&alice.token).await.expect(204);
        assert_eq!(answer.header("x-auth-user-id"), alice.user_id);
        assert_eq!(answer.header("x-auth-session"), alice.sid);
        assert_eq!(answer.header("x-auth-email"), alice.email);
        assert_eq!(answer.text, "");
    }
    let refused = stage.a().verify(&forged(&alice.token)).await;
    refused.is_bad_token();
    for name in ["x-auth-user-id", "x-auth-session", "x-auth-email"] {
        assert_eq!(refused.header(name), "", "a refusal names nobody");
    }
}

async fn every_guarded_endpoint_asks_for_a_bearer(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for (method, path) in GUARDED.iter().copied() {
        let call = || stage.a().call(method.parse().expect("a method"), path);
        call().send().await.is_unauthenticated();
        call().bearer(&forged(&alice.token)).send().await.is_bad_token();
        call().bearer("nonsense").send().await.is_bad_token();
    }
}

async fn a_token_signed_with_a_public_key_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let jwks = stage.a().get("/.well-known/jwks.json").send().await.expect(200);
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some("at+jwt".to_owned());
    header.kid = token_header(&alice.token)["kid"].as_str().map(str::to_owned);
    for key in jwks["keys"].as_array().expect("keys") {
        let public = key["x"].as_str().expect("a public key");
        for secret in [
            EncodingKey::from_secret(public.as_bytes()),
            EncodingKey::from_base64_secret(public)
                .unwrap_or_else(|_| EncodingKey::from_secret(key.to_string().as_bytes())),
        ] {
            let token = jsonwebtoken::encode(&header, &claims(&alice.token), &secret).expect("a token");
            stage.a().me(&token).await.is_bad_token();
        }
    }
}

async fn an_unsigned_token_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let payload = alice.token.split('.').nth(1).expect("a payload");
    for algorithm in ["none", "None", "NONE", ""] {
        let header = json!({"typ": "at+jwt", "alg": algorithm, "kid": token_header(&alice.token)["kid"]});
        for signature in ["", "AAAA"] {
            let token = format!("{}.{payload}.{signature}", base64url(&header.to_string()));
            stage.a().me(&token).await.is_bad_token();
        }
    }
}

async fn an_altered_token_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    // Good once, so that a cache knows the original.
    stage.a().me(&alice.token).await.expect(200);
    let [header, payload, signature] = parts(&alice.token);
    let [_, payload_of_bob, signature_of_bob] = parts(&bob.token);
    let mut longer = claims(&alice.token);
    longer["exp"] = (longer["exp"].as_i64().expect("exp") + 60).into();
    let mut other_kid = token_header(&alice.token);
    other_kid["kid"] = "unknown".into();
    let altered = [
        format!("{header}.{payload_of_bob}.{signature}"),
        format!("{header}.{payload}.{signature_of_bob}"),
        format!("{header}.{}.{signature}", base64url(&longer.to_string())),
        format!("{}.{payload}.{signature}", base64url(&other_kid.to_string())),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{signature}.{signature}"),
        format!("{header}.{payload}.{signature}A"),
        format!(".{payload}.{signature}"),
        "..".to_owned(),
    ];
    for token in altered {
        stage.a().me(&token).await.is_bad_token();
    }
    stage.a().me(&alice.token).await.expect(200);
}

async fn an_expired_token_is_refused(mode: Mode) {
    let short = mode.own().env("PORTCULLIS_ACCESS_TOKEN_TTL", "1s").env("PORTCULLIS_TOKEN_LEEWAY", "0s");
    let stage = short.start().await;
    let alice = stage.a().signup().await;
    // Known to the caches as good; the expiry counts on a hit too.
    stage.a().expired(&alice.token).await;
    for node in stage.nodes() {
        node.me(&alice.token).await.is_bad_token();
        node.verify(&alice.token).await.is_bad_token();
        node.validate(&alice.session_id).await.expect(200);
    }
}

async fn an_access_token_is_no_session_and_a_session_no_token(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.a().me(&alice.session_id).await.is_bad_token();
    stage.a().me(&alice.sid).await.is_bad_token();
    stage.a().validate(&alice.token).await.problem(&[400, 401, 422]);
}

async fn a_token_of_one_node_is_good_on_every_node(mode: Mode) {
    let stage = mode.stage().await;
    let logins = [stage.a().signup().await, stage.b().signup().await];
    for node in stage.nodes() {
        for login in &logins {
            node.me(&login.token).await.expect(200);
            node.verify(&login.token).await.expect(204);
            node.validate(&login.session_id).await.expect(200);
        }
    }
}

fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().expect("three parts")
}

fn base64url(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text)
}
