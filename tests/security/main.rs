//! Credentials as somebody sees them who should not have them: forged tokens, keys that are revoked and replaced, cookies
//! under foreign pages, and what is left lying about. The table of requirements is in `docs/security.md`.

#[path = "../common/mod.rs"]
mod common;

mod browser;
mod cookies;
mod corpus;
mod forged;
mod key_replacement;
mod key_revocation;
mod nothing_to_steal;
mod shared_keys;
mod table;

use std::time::{Duration, Instant};

use common::people::token_header;
use common::{DEADLINE, Gateway, Login, Node, Socket, Stage};

/// The bound of the first promise: a request whose first byte was sent later than this after the revocation was answered
/// is never accepted.
const BOUND: Duration = Duration::from_secs(1);

/// The id of the key that signed a token.
fn kid(token: &str) -> String {
    token_header(token)["kid"].as_str().expect("a kid").to_owned()
}

/// Revokes a key as an operator does, on the machine of this node. When the success was told.
async fn revoke(gateway: &Gateway, kid: &str) -> Instant {
    let (status, said) = gateway.operate(&["key", "revoke", kid]).await;
    let told = Instant::now();
    assert_eq!(status, 0, "{said}");
    assert!(said.contains(&format!("{kid} is revoked")), "{said}");
    told
}

/// Shows a token to every node until it is refused; fails when it was accepted later than the bound allows.
async fn token_is_void(stage: &Stage, token: &str, told: Instant) {
    for node in stage.nodes() {
        loop {
            let sent = told.elapsed();
            match node.me(token).await.status {
                401 => break,
                200 => assert!(sent <= BOUND, "accepted, though sent {sent:?} after its key was revoked"),
                503 => assert!(sent <= DEADLINE, "nobody can tell, {sent:?} after the key was revoked"),
                other => panic!("{other}"),
            }
        }
        node.me(token).await.is_bad_token();
        node.verify(token).await.is_bad_token();
        node.socket().bearer(token).attempt().await.is_bad_token();
        let mut socket = node.socket().open().await;
        socket.send(&serde_json::json!({"id": 1, "connect": {"token": token}}).to_string()).await;
        socket.expect_close(3500, "invalid token").await;
    }
}

/// The session behind a void token lives: it gets another one, good everywhere at once and at the first try.
async fn session_goes_on(stage: &Stage, login: &Login) -> String {
    let token = stage.a().validate(&login.session_id).await.expect(200).str("access_token").to_owned();
    is_good_everywhere(stage, &token).await;
    token
}

async fn is_good_everywhere(stage: &Stage, token: &str) {
    for node in stage.nodes() {
        node.me(token).await.expect(200);
        node.verify(token).await.expect(204);
        node.connect(token).await.expect_open().await;
    }
}

/// One socket with this token on every node.
async fn sockets(stage: &Stage, token: &str) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for node in stage.nodes() {
        sockets.push(node.connect(token).await);
    }
    sockets
}

/// The ids in a node's JWK set.
async fn published(node: &Node) -> Vec<String> {
    let jwks = node.get("/.well-known/jwks.json").send().await.expect(200);
    let keys = jwks["keys"].as_array().expect("keys").iter();
    keys.map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
}
