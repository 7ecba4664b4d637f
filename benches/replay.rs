//! `cargo bench --bench replay`: how much of the checks reaches the database.
//!
//! A Zipf-shaped replay of 1,000,000 checks by 10,000 logged-in users, three times: with everything cold, warm, and on a
//! node that was replaced while Redis stayed. Aim: less than 0.5 % of the checks when warm, and with everything cold at most
//! one read per session. Without a cache every check is a read, which is the floor.

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use common::Gateway;
use common::gateway::Settings;
use common::servers::{PostgresServer, RedisServer};
use support::load::{self, Connection, verify_request};
use support::role::Role;
use support::scrape::Counters;
use support::{grouped, seed, size};

const USERS: usize = 10_000;
const CHECKS: usize = 1_000_000;
const CONNECTIONS: usize = 64;
/// Exponent of the distribution: the user of rank r is as frequent as 1 / r.
const EXPONENT: f64 = 1.0;
const AIM_PERCENT: f64 = 0.5;

/// Postgres backends publish what they have counted when they have been idle for ten seconds.
const STATISTICS_AFTER: Duration = Duration::from_secs(12);

fn main() {
    if let Role::Measure = Role::of_this_process() {
        measure(size(CHECKS));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(checks: usize) {
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let database = postgres.database().await;
    // Tokens must outlive the whole run, however slow the machine.
    let settings = Settings::embedded().without("RUST_LOG").env("PORTCULLIS_ACCESS_TOKEN_TTL", "6h");
    let gateway = settings.postgres(&database).redis(&redis).start().await;
    let secrets = seed::sessions(&database, USERS).await;
    let tokens = seed::tokens(&gateway.node(), &secrets).await;
    let requests: Vec<_> = tokens.iter().map(|token| verify_request(gateway.node().authority(), token)).collect();
    println!(
        "{} checks by {} users (Zipf, exponent {EXPONENT}), {CONNECTIONS} connections",
        grouped(checks as u64),
        grouped(USERS as u64)
    );
    println!("                    users   answered by   reached the                           Redis errors   checks");
    println!(
        "                     seen         Redis      database     share   statements   seen by checks   a second"
    );

    gateway.kill();
    redis.restart();
    tokio::time::sleep(STATISTICS_AFTER).await;
    gateway.restart().await;
    let empty = support::redis::memory(&redis);
    let rows_before = session_rows_read(&database).await;
    let cold = replay(&gateway, "all cold", &requests, &zipf(1, checks)).await;
    tokio::time::sleep(STATISTICS_AFTER).await;
    let rows = session_rows_read(&database).await - rows_before;
    let in_redis = support::redis::records(&redis);
    let occupied = support::redis::memory(&redis).saturating_sub(empty);
    let warm = replay(&gateway, "warm", &requests, &zipf(2, checks)).await;
    gateway.restart().await;
    replay(&gateway, "node replaced", &requests, &zipf(3, checks)).await;
    println!("no cache: the floor {:>33} 100.000 %", grouped(checks as u64));

    println!("warm: {:.3} % of the checks reach the database; aim: less than {AIM_PERCENT} %", warm.percent);
    println!(
        "cold: Postgres looked up {} sessions while {} were seen, {:.4} reads a session; aim: at most 1",
        grouped(rows),
        grouped(cold.sessions as u64),
        rows as f64 / cold.sessions as f64
    );
    // A session, its user, and the way from the secret to the session.
    println!(
        "after the cold replay Redis held {} of {} records, {} bytes a session",
        grouped(in_redis),
        grouped(3 * cold.sessions as u64),
        grouped(occupied / cold.sessions as u64)
    );
}

struct Outcome {
    sessions: usize,
    percent: f64,
}

async fn replay(gateway: &Gateway, name: &str, requests: &[Vec<u8>], order: &[u32]) -> Outcome {
    let node = gateway.node();
    let mut connections = Connection::open_many(node.authority(), CONNECTIONS).await;
    let before = Counters::of(&node).await;
    let took = load::replay(&mut connections, requests, order).await;
    let counted = Counters::of(&node).await.since(&before);
    let sessions = order.iter().collect::<HashSet<_>>().len();
    let from_redis = counted.cache("session", "redis", "hit");
    let from_database: u64 =
        ["hit", "miss", "error"].map(|result| counted.cache("session", "database", result)).iter().sum();
    let percent = 100.0 * from_database as f64 / order.len() as f64;
    let queries = counted.queries();
    println!(
        "{name:16} {:>8} {:>13} {:>13} {percent:>7.3} % {:>12} {:>16} {:>10}",
        grouped(sessions as u64),
        grouped(from_redis),
        grouped(from_database),
        grouped(queries.asked()),
        grouped(counted.cache("session", "redis", "error")),
        grouped((order.len() as f64 / took.as_secs_f64()) as u64),
    );
    println!("    statements: {}", queries.describe());
    Outcome { sessions, percent }
}

/// Sessions that Postgres has looked up so far, by its own account. The planner's own looks at the ends of other indexes
/// are no reads of sessions.
async fn session_rows_read(url: &str) -> u64 {
    let mut connection = PgConnection::connect(url).await.expect("connect to Postgres");
    let counted = "SELECT (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'sessions') +
        (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes
         WHERE indexrelname IN ('sessions_pkey', 'sessions_secret_hash'))";
    let rows: i64 = sqlx::query_scalar(counted).fetch_one(&mut connection).await.expect("statistics");
    connection.close().await.expect("leave Postgres");
    rows.unsigned_abs()
}

/// The same numbers of users for the same seed, on every machine.
fn zipf(seed: u64, count: usize) -> Vec<u32> {
    let mut sum = 0.0;
    let up_to: Vec<f64> = (1..=USERS)
        .map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        })
        .collect();
    let mut state = seed;
    let mut uniform = || {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    let user = |_| {
        let place = uniform() * sum;
        up_to.partition_point(|&up_to| up_to <= place).min(USERS - 1) as u32
    };
    (0..count).map(user).collect()
}
