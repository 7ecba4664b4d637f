//! Floods of credentials that nobody has: they cost the database next to nothing, and their neighbours nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::common::gateway::Settings;
use crate::common::people::{forged, token_header};
use crate::common::proxy::Network;
use crate::common::{Login, Node};
use crate::rig::{Member, Rig};

/// Distinct credentials.
const FLOOD: usize = 4000;

/// Under way at once.
const AT_ONCE: usize = 400;

/// How much later every answer of the database comes.
const DELAY: Duration = Duration::from_millis(100);

/// What is shown to a node.
#[derive(Clone)]
enum Shown {
    Secret(String),
    Token(String),
}

/// Shows all of them, and counts the answers by status.
async fn show_all(node: &Node, credentials: Vec<Shown>) -> BTreeMap<u16, usize> {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut clients = JoinSet::new();
    for credential in credentials {
        let (node, gate) = (node.clone(), Arc::clone(&gate));
        clients.spawn(async move {
            let _turn = gate.acquire().await.expect("an open gate");
            let call = match credential {
                Shown::Secret(secret) => {
                    node.post("/api/v1/auth/validate-session").json(&json!({"session_id": secret}))
                }
                Shown::Token(token) => node.get("/api/v1/auth/verify").bearer(&token),
            };
            call.try_send().await.map_or(0, |answer| answer.status)
        });
    }
    let mut statuses = BTreeMap::new();
    while let Some(status) = clients.join_next().await {
        *statuses.entry(status.expect("a client ends")).or_default() += 1;
    }
    statuses
}

/// Loads of sessions so far, by handle and by secret.
async fn loads(member: &Member) -> u64 {
    let queries = member.queries().await;
    ["load_sessions", "load_sessions_by_secret"].iter().map(|name| queries.get(*name).copied().unwrap_or(0)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_secrets_reach_the_database_once_and_in_batches() {
    let rig = Rig::start(Settings::embedded()).await;
    let owner = rig.node(0).signup().await;
    rig.postgres_network(Network::Delays(DELAY));
    let unknown: Vec<_> = (0..FLOOD).map(|_| Shown::Secret(Uuid::new_v4().to_string())).collect();
    let before = loads(rig.victim()).await;
    let started = Instant::now();
    let (statuses, ()) = tokio::join!(show_all(&rig.victim().node, unknown.clone()), neighbour(&rig, &owner));
    let (took, after) = (started.elapsed(), loads(rig.victim()).await);
    assert_eq!(statuses, BTreeMap::from([(401, FLOOD)]));
    let queries = after - before;
    eprintln!("{FLOOD} unknown secrets in {took:.1?}: {queries} loads");
    // By secret and by handle at most one is under way, and each takes the delay.
    let room = 2 * took.as_millis() / DELAY.as_millis() + 2;
    assert!(u128::from(queries) <= room, "{queries} loads in {took:?}");
    assert!(queries <= FLOOD as u64 / 10, "{queries} loads");
    // Known as unknown now, whoever asks and however often.
    for _ in 0..2 {
        assert_eq!(show_all(&rig.victim().node, unknown.clone()).await, BTreeMap::from([(401, FLOOD)]));
    }
    assert_eq!(loads(rig.victim()).await, after, "asked again about what was found to be nobody's");
}

/// Somebody real, not known to this node yet, comes in the middle of the flood.
async fn neighbour(rig: &Rig, owner: &Login) {
    let login = rig.node(0).login(owner).await;
    rig.victim().node.validate(&login.session_id).await.expect(200);
    rig.victim().node.verify(&login.token).await.expect(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_and_unknown_keys_reach_no_database() {
    let rig = Rig::start(Settings::embedded()).await;
    let owner = rig.node(0).signup().await;
    rig.works_for(&owner).await;
    let before = rig.victim().queries().await;
    let shown: Vec<_> = (0..FLOOD)
        .map(|n| {
            Shown::Token(if n % 2 == 0 { forged(&with_noise(&owner.token)) } else { with_a_new_key(&owner.token) })
        })
        .collect();
    let statuses = show_all(&rig.victim().node, shown).await;
    // A node too busy to read its log in time cannot tell whether a key is new.
    assert!(statuses.keys().all(|status| [401, 503].contains(status)), "{statuses:?}");
    assert!(statuses.get(&401).is_some_and(|refused| *refused > FLOOD / 2), "{statuses:?}");
    let mut queries = rig.victim().queries().await;
    queries.retain(|name, count| {
        *count -= before.get(name).unwrap_or(&0);
        // What a node does by itself, and to announce the profile that was changed before.
        *count > 0 && !["log_read", "beat", "live_nodes", "load_users"].contains(&name.as_str())
    });
    assert_eq!(queries, BTreeMap::new(), "forged tokens were asked about");
}

/// The token with another payload of the same user's session, so that each is a new one to the node.
fn with_noise(token: &str) -> String {
    let mut claims = crate::common::people::claims(token);
    claims["jti"] = json!(Uuid::new_v4());
    claims["sid"] = json!(Uuid::new_v4());
    replaced(token, 1, &claims)
}

/// The token as if signed by a key that no node has registered.
fn with_a_new_key(token: &str) -> String {
    let mut header = token_header(token);
    header["kid"] = json!(Uuid::new_v4());
    replaced(token, 0, &header)
}

fn replaced(token: &str, part: usize, value: &serde_json::Value) -> String {
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts[part] = BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    parts.join(".")
}
