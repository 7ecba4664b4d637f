//! Every forged and damaged token is refused alike wherever it can be shown, and none of them troubles the node.

use futures_util::StreamExt;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::common::people::{claims, token_header};
use crate::common::{Event, Login, Mode, Node, Stage, stages};
use crate::corpus::{self, Forgery};

stages! {
    both: [
        what_can_be_made_without_the_key_is_refused,
        what_was_signed_here_for_another_use_is_refused,
        an_expired_token_is_refused_and_a_socket_is_told_to_fetch_another,
    ],
    embedded: [a_public_rsa_key_is_no_secret, a_public_p256_key_is_no_secret],
}

/// Tokens shown at once.
const AT_ONCE: usize = 12;

async fn what_can_be_made_without_the_key_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut corpus = corpus::without_the_key(&alice.token);
    corpus.extend(corpus::with_an_embedded_key(&alice.token));
    corpus.extend(corpus::with_the_public_key_as_secret(&alice.token, &jwk_of(&stage, &alice.token).await));
    refused_alike(&stage, &alice, corpus).await;
}

async fn what_was_signed_here_for_another_use_is_refused(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let key = own_key(&stage, "eddsa");
    // The key is the right one: an unchanged token that it signs is good.
    let (header, body) = (token_header(&alice.token).to_string(), claims(&alice.token).to_string());
    stage.a().me(&corpus::sign(&header, &body, &key, Algorithm::EdDSA)).await.expect(200);
    refused_alike(&stage, &alice, corpus::signed_by_ourselves(&alice.token, &key, Algorithm::EdDSA)).await;
}

async fn an_expired_token_is_refused_and_a_socket_is_told_to_fetch_another(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let key = own_key(&stage, "eddsa");
    let now = claims(&alice.token)["iat"].as_i64().expect("iat");
    // Beyond the leeway of five seconds, long ago, at the beginning of time, and before it.
    for exp in [now - 6, now - 3_000_000, 0, -1, i64::MIN] {
        let mut body = claims(&alice.token);
        body["exp"] = json!(exp);
        let header = token_header(&alice.token).to_string();
        let token = corpus::sign(&header, body.to_string(), &key, Algorithm::EdDSA);
        for node in stage.nodes() {
            node.me(&token).await.is_bad_token();
            node.verify(&token).await.is_bad_token();
            node.socket().bearer(&token).attempt().await.is_bad_token();
            let mut socket = node.socket().open().await;
            crate::common::Socket::is_error(&socket.connect(&token).await, 109);
        }
    }
    stage.a().me(&alice.token).await.expect(200);
}

/// The classic: a verifier that lets the header choose takes the public key for the secret of an HMAC.
async fn a_public_rsa_key_is_no_secret(mode: Mode) {
    a_public_key_is_no_secret(mode, "RS256").await;
}

async fn a_public_p256_key_is_no_secret(mode: Mode) {
    a_public_key_is_no_secret(mode, "ES256").await;
}

async fn a_public_key_is_no_secret(mode: Mode, algorithm: &str) {
    let stage = mode.own().env("PORTCULLIS_SIGNING_ALGORITHM", algorithm).start().await;
    let alice = stage.a().signup().await;
    assert_eq!(token_header(&alice.token)["alg"], algorithm);
    let mut corpus = corpus::without_the_key(&alice.token);
    corpus.extend(corpus::with_an_embedded_key(&alice.token));
    if algorithm == "RS256" {
        corpus.extend(corpus::with_the_public_key_as_secret(&alice.token, &jwk_of(&stage, &alice.token).await));
    }
    refused_alike(&stage, &alice, corpus).await;
}

/// The private key of the first node, from its file.
fn own_key(stage: &Stage, algorithm: &str) -> EncodingKey {
    let path = stage.gateways[0].data_dir().join(format!("signing-key-{algorithm}.pem"));
    EncodingKey::from_ed_pem(&std::fs::read(path).expect("the node's key")).expect("a key")
}

/// The published key that signed this token.
async fn jwk_of(stage: &Stage, token: &str) -> Value {
    let jwks = stage.a().get("/.well-known/jwks.json").send().await.expect(200);
    let mut keys = jwks["keys"].as_array().expect("keys").iter();
    keys.find(|key| key["kid"] == token_header(token)["kid"]).expect("the key is published").clone()
}

/// Shows each to every surface. The session they were made of is none the worse for it.
async fn refused_alike(stage: &Stage, alice: &Login, corpus: Vec<Forgery>) {
    assert!(corpus.len() > 50, "a corpus of {}", corpus.len());
    assert!(corpus.iter().all(|(_, token)| *token != alice.token), "the good token is not in it");
    let mut open = stage.b().connect(&alice.token).await;
    let showing = corpus.iter().enumerate().map(|(number, forgery)| {
        let node = &stage.nodes()[number % stage.nodes().len()];
        refused(node, forgery)
    });
    futures_util::stream::iter(showing).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    open.expect_open().await;
    for node in stage.nodes() {
        node.me(&alice.token).await.expect(200);
    }
    for gateway in &stage.gateways {
        let log = gateway.log();
        let trouble = log.lines().find(|line| line.contains("panicked") || line.contains("ERROR"));
        assert!(trouble.is_none(), "{}", trouble.unwrap_or_default());
    }
}

async fn refused(node: &Node, (what, token): &Forgery) {
    // What cannot stand in a header can still come in a command.
    if token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.is_empty() {
        for path in ["me", "verify", "sessions"] {
            let answer = node.get(&format!("/api/v1/auth/{path}")).bearer(token).send().await;
            // The server takes no endless head.
            assert!([401, 431].contains(&answer.status), "{what}: {path} answered {}", answer.status);
            if answer.status == 401 {
                answer.is_bad_token();
            }
        }
        // A logout of a session that is over, or never was, is well; and whoever can sign may list a token.
        if !["sub \"", "sid \""].iter().any(|member| what.starts_with(member)) {
            let logout = node.post("/api/v1/auth/logout").bearer(token).send().await;
            assert!([401, 431].contains(&logout.status), "{what}: logout answered {}", logout.status);
        }
        let handshake = node.socket().bearer(token).attempt().await;
        assert!([401, 431].contains(&handshake.status), "{what}: the handshake answered {}", handshake.status);
        if is_a_protocol_name(token) {
            let offered = format!("portcullis.bearer.{token}, portcullis.v1");
            let handshake = node.socket().subprotocols(&offered).attempt().await;
            assert!([401, 431].contains(&handshake.status), "{what}: the subprotocol got {}", handshake.status);
        }
    }
    let mut socket = node.socket().open().await;
    socket.send_command(json!({"connect": {"token": token}})).await;
    match socket.next().await {
        Event::Closed(3500, reason) => assert_eq!(reason, "invalid token", "{what}"),
        other => panic!("{what}: connect got {other:?}"),
    }
}

/// A token as HTTP has it (RFC 9110 section 5.6.2), which subprotocols are.
fn is_a_protocol_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
