//! Everybody comes back at once, to a node that remembers nothing.
//!
//!     cargo test --release --test faults -- --ignored ten_thousand --nocapture

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::common::gateway::Settings;
use crate::common::people::claims;
use crate::common::{Event, Socket};
use crate::rig::Rig;

/// Sockets.
const SOCKETS: usize = 10_000;

/// Handshakes under way at once, so that the listener's backlog and not this test is what holds.
const AT_ONCE: usize = 512;

/// All nodes sign with it, and so does this test.
const SIGNING_KEY: &str = "a signing key of forty-two bytes for tests";

/// What the database may see of them.
const QUERIES: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs 10,000 files and a minute"]
async fn ten_thousand_sockets_come_back_to_a_cold_node() {
    let rig = Rig::start(crowded()).await;
    let tokens = sessions(&rig, SOCKETS).await;
    rig.victim().gateway.restart().await;
    tokio::task::block_in_place(|| drop(rig.redis.run(&["FLUSHALL"])));
    let before = rig.victim().queries().await;
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let started = Instant::now();
    let mut coming = JoinSet::new();
    for token in tokens {
        let (node, gate) = (rig.victim().node.clone(), Arc::clone(&gate));
        coming.spawn(async move {
            let _turn = gate.acquire().await.expect("an open gate");
            let asked = Instant::now();
            let mut refused = Vec::new();
            loop {
                let mut socket = node.socket().try_open().await.expect("a handshake");
                socket.send_command(json!({"connect": {"token": token}})).await;
                match socket.next().await {
                    Event::Reply(reply) if reply["connect"].is_object() => return (socket, asked.elapsed(), refused),
                    other => refused.push(format!("{other:?}")),
                }
                assert!(refused.len() < 20, "refused again and again: {refused:?}");
            }
        });
    }
    let mut open: Vec<Socket> = Vec::new();
    let (mut longest, mut refused) = (Duration::ZERO, Vec::new());
    while let Some(came) = coming.join_next().await {
        let (socket, waited, no) = came.expect("a socket");
        longest = longest.max(waited);
        refused.extend(no);
        open.push(socket);
    }
    let took = started.elapsed();
    let mut by_name = rig.victim().queries().await;
    by_name.iter_mut().for_each(|(name, count)| *count -= before.get(name).unwrap_or(&0));
    let queries: u64 = by_name.values().sum();
    eprintln!(
        "{} sockets in {took:.1?}, longest wait {longest:.1?}, {queries} queries {by_name:?}, {} refused: {:?}",
        open.len(),
        refused.len(),
        refused.first(),
    );
    assert!(refused.is_empty(), "{} were refused", refused.len());
    assert_eq!(open.len(), SOCKETS);
    assert!(queries <= QUERIES, "{queries} queries for {SOCKETS} sockets");
}

/// Nodes that take many sockets of one user and tokens that were signed here.
pub fn crowded() -> Settings {
    Settings::embedded()
        .env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "100000")
        .env("PORTCULLIS_SIGNING_ALGORITHM", "HS256")
        .env("PORTCULLIS_SIGNING_KEY", SIGNING_KEY)
        .env("RUST_LOG", "info")
}

/// Access tokens of as many sessions, without as many password hashes: copied in SQL from one login's, and signed here.
pub async fn sessions(rig: &Rig, count: usize) -> Vec<String> {
    const COPY: &str = "INSERT INTO sessions (sid, secret_hash, user_id, auth_epoch, expires_at, max_expires_at)
        SELECT gen_random_uuid(), sha256(gen_random_uuid()::text::bytea), user_id, auth_epoch, expires_at, max_expires_at
        FROM sessions, generate_series(1, $1) RETURNING sid";
    let owner = rig.node(0).signup().await;
    let mut connection = PgConnection::connect(&rig.database_url).await.expect("connect to Postgres");
    let sids: Vec<Uuid> =
        sqlx::query_scalar(COPY).bind(count as i64).fetch_all(&mut connection).await.expect("copy a session");
    let (header, _) = owner.token.split_once('.').expect("a JWT");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SIGNING_KEY.as_bytes());
    let token = |sid: Uuid| {
        let mut claims = claims(&owner.token);
        claims["sid"] = json!(sid);
        claims["jti"] = json!(Uuid::new_v4());
        let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
        format!("{signed}.{signature}")
    };
    sids.into_iter().map(token).collect()
}
