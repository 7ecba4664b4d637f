//! `portcullis key`: which keys tokens are signed with, and what an operator does about them. Works on the database,
//! also while no node runs; nodes that run hear of it by the log, as they hear of everything that ends a credential.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::app::store_config;
use crate::bus::Bus;
use crate::config::Config;
use crate::entry::LogEntry;
use crate::ids::NodeId;
use crate::redis_link::RedisLink;
use crate::revocation::NODE_ALIVE_WITHIN;
use crate::seal::Sealer;
use crate::store::{LiveNode, RegisteredKey, Store, StoreResult};
use crate::token::keys::SigningKey;

/// How long the command waits for the nodes that run.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// How long Redis may take here.
const REDIS_WITHIN: Duration = Duration::from_secs(1);

/// The kid of a shared secret begins so; it is in no database.
const SHARED_SECRET: &str = "hs256-";

/// Arguments of `portcullis key`.
#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    action: Action,
}

/// What to do with the keys.
#[derive(Debug, Subcommand)]
enum Action {
    /// Show the signing keys: current, next, retired, revoked
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Void every token that a key has signed, on every node; open sockets are told to fetch a new one
    Revoke {
        /// The key's id; it may begin with a hyphen, as one in sixty-four does
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
    /// Have every node go over to its next key; tokens of the old one stay good until they expire
    Rotate,
}

/// A key as operators see it.
#[derive(Serialize)]
struct Row {
    kid: String,
    algorithm: String,
    state: &'static str,
    /// Live nodes that sign with it.
    nodes: usize,
    #[serde(with = "time::serde::rfc3339")]
    created_at: time::OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    used_at: Option<time::OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    last_seen_at: time::OffsetDateTime,
}

/// Does it.
///
/// # Errors
/// When the database cannot be reached or has not been migrated.
pub async fn run(arguments: &KeyArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let store = Store::open(&store_config(config)).await?;
    let code = match &arguments.action {
        Action::List { json } => list(&store, config, *json).await,
        Action::Revoke { kid } => revoke(&store, config, kid).await,
        Action::Rotate => rotate(&store, config).await,
    };
    store.close().await;
    code
}

async fn list(store: &Store, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let nodes = store.live_nodes(NODE_ALIVE_WITHIN).await?;
    let rows: Vec<_> = store.keys().await?.into_iter().map(|key| row(key, &nodes)).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<44} {:<9} {:<8} {:>5}  {:<20} {:<20}", "kid", "algorithm", "state", "nodes", "created", "last seen");
    for Row { kid, algorithm, state, nodes, created_at, last_seen_at, .. } in rows {
        let (created, seen) = (to_the_second(created_at)?, to_the_second(last_seen_at)?);
        println!("{kid:<44} {algorithm:<9} {state:<8} {nodes:>5}  {created:<20} {seen:<20}");
    }
    if config.signing_algorithm == "HS256" {
        for (place, secret) in config.signing_keys().into_iter().enumerate() {
            let key = SigningKey::from_secret(secret.as_bytes())?;
            println!("{:<44} HS256     {}", key.kid(), if place == 0 { "signs" } else { "verifies" });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(key: RegisteredKey, nodes: &[LiveNode]) -> Row {
    let RegisteredKey { key, revoked, created_at, used_at, last_seen_at, .. } = key;
    let signing = nodes.iter().filter(|node| node.kid.as_deref() == Some(&key.kid)).count();
    let state = match (revoked, used_at) {
        (true, _) => "revoked",
        (false, _) if signing > 0 => "current",
        (false, None) => "next",
        (false, Some(_)) => "retired",
    };
    Row { kid: key.kid, algorithm: key.algorithm, state, nodes: signing, created_at, used_at, last_seen_at }
}

fn to_the_second(at: time::OffsetDateTime) -> anyhow::Result<String> {
    Ok(at.replace_nanosecond(0)?.format(&Rfc3339)?)
}

async fn revoke(store: &Store, config: &Config, kid: &str) -> anyhow::Result<ExitCode> {
    let revoked = store
        .revoke_key(kid, kid.starts_with(SHARED_SECRET))
        .await
        .with_context(|| "the key may have been revoked or not; repeat the command, which is safe")?;
    let Some(entry) = revoked.entries.first() else {
        let known = store.keys().await?.into_iter().any(|key| key.key.kid == kid);
        anyhow::ensure!(known, "there is no key {kid}; `portcullis key list` shows them");
        println!("{kid} was revoked before.");
        return Ok(ExitCode::SUCCESS);
    };
    // The fast way to those who are cut from the database. Everybody else reads the log.
    if let Err(error) = publish(store, config, &revoked.entries).await {
        eprintln!("Redis was not told ({error:#}); the nodes read the log.");
    }
    let (confirmed, live, closed) = confirmations(store, entry.id).await?;
    println!("{kid} is revoked. {confirmed} of {live} running nodes have confirmed, and closed {closed} sockets.");
    if confirmed < live {
        eprintln!("A node that has not confirmed accepts nothing that the key signed, once it has read the log.");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn publish(store: &Store, config: &Config, entries: &[LogEntry]) -> anyhow::Result<()> {
    let Some(url) = &config.redis_url else { return Ok(()) };
    let deployment = store.deployment().await?;
    let record_keys = config.record_keys(&deployment.record_key);
    let sealer = std::sync::Arc::new(Sealer::new(&deployment.record_key, &record_keys)?);
    let link = std::sync::Arc::new(RedisLink::new(url, REDIS_WITHIN)?);
    let bus = std::sync::Arc::new(Bus::new(NodeId::random(), link, sealer, deployment.id));
    Ok(bus.pass_on(entries).await?)
}

/// Nodes that confirmed, nodes alive, and sockets closed, once all have confirmed or the time is over.
async fn confirmations(store: &Store, entry_id: u64) -> StoreResult<(usize, usize, u64)> {
    let deadline = tokio::time::Instant::now() + CONFIRMED_WITHIN;
    loop {
        let live = store.live_nodes(NODE_ALIVE_WITHIN).await?;
        let heard = store.acknowledgements(entry_id).await?;
        let confirmed = live.iter().filter(|alive| heard.iter().any(|(node, _)| *node == alive.node)).count();
        if confirmed == live.len() || tokio::time::Instant::now() >= deadline {
            return Ok((confirmed, live.len(), heard.iter().map(|(_, closed)| closed).sum()));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn rotate(store: &Store, config: &Config) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        config.signing_keys().is_empty(),
        "the signing key comes from the settings: put a new one before it, and send every node SIGHUP"
    );
    let count = store.outdate_keys().await?;
    println!("{count} keys are outdated. The nodes that sign with them go over to their next ones within seconds.");
    Ok(ExitCode::SUCCESS)
}
