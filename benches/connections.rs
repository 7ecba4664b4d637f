//! `cargo bench --bench connections`: how many connections a node holds to Postgres.
//!
//! Two nodes under a light load of every kind (checks, token renewals, profiles, logins), and then left alone. Counted by
//! `pg_stat_activity`, the log reader's connection included. Aim: at most 2 a node in steady state. The floor is 1: the
//! reader's.

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, Row as _};

use common::gateway::Settings;
use common::servers::{PostgresServer, RedisServer};
use common::{Login, Node};
use support::role::Role;
use support::{Spread, seed};

const SESSIONS: usize = 200;
const LOADED_FOR: Duration = Duration::from_secs(15);
/// Longer than the pool keeps what it does not need.
const ALONE_FOR: Duration = Duration::from_secs(25);
const EVERY: Duration = Duration::from_millis(100);
const AIM: usize = 2;

fn main() {
    if let Role::Measure = Role::of_this_process() {
        measure();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure() {
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let database = postgres.database().await;
    let settings = Settings::embedded().without("RUST_LOG").redis(&redis);
    let named = |name: &str| settings.clone().postgres(&format!("{database}?application_name={name}"));
    let gateways = (named("node_a").start().await, named("node_b").start().await);
    let (a, b) = (gateways.0.node(), gateways.1.node());
    let secrets = seed::sessions(&database, SESSIONS).await;
    let tokens = seed::tokens(&a, &secrets).await;
    let (on_a, on_b) = (a.signup().await, b.signup().await);
    let mut watcher = PgConnection::connect(&database).await.expect("connect to Postgres");

    println!("Connections to Postgres per node, the log reader's included; a look every {} ms", EVERY.as_millis());
    println!("                                      node        least   median   most");
    let loads = async { tokio::join!(load(&a, &on_a, &tokens), load(&b, &on_b, &tokens)) };
    let (steady, asked) = tokio::join!(watch(&mut watcher, LOADED_FOR), loads);
    report("light load", &steady);
    println!("    {} requests to node_a, {} to node_b", asked.0, asked.1);
    tokio::time::sleep(Duration::from_secs(12)).await;
    let alone = watch(&mut watcher, ALONE_FOR - Duration::from_secs(12)).await;
    report("left alone", &alone);
    println!("aim: at most {AIM}; floor: 1");
}

/// Some hundred requests a second, a login a second among them.
async fn load(node: &Node, someone: &Login, tokens: &[String]) -> usize {
    let (until, mut asked) = (Instant::now() + LOADED_FOR, 0);
    for (turn, token) in tokens.iter().cycle().enumerate() {
        if Instant::now() >= until {
            break;
        }
        node.verify(token).await.expect(204);
        if turn % 10 == 0 {
            node.me(token).await.expect(200);
            node.validate(&someone.session_id).await.expect(200);
            asked += 2;
        }
        if turn % 100 == 0 {
            node.login(someone).await;
            asked += 1;
        }
        if turn % 100 == 50 {
            node.sessions(token).await.expect(200);
            asked += 1;
        }
        asked += 1;
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    asked
}

/// The counts of both nodes, look by look.
async fn watch(connection: &mut PgConnection, limit: Duration) -> [Vec<f64>; 2] {
    let held = "SELECT count(*) FILTER (WHERE application_name = 'node_a'), count(*) FILTER (WHERE application_name = 'node_b')
        FROM pg_stat_activity";
    let (until, mut counts) = (Instant::now() + limit, [Vec::new(), Vec::new()]);
    while Instant::now() < until {
        let row = sqlx::query(held).fetch_one(&mut *connection).await.expect("pg_stat_activity");
        for (node, counts) in counts.iter_mut().enumerate() {
            counts.push(row.get::<i64, _>(node) as f64);
        }
        tokio::time::sleep(EVERY).await;
    }
    counts
}

fn report(when: &str, counts: &[Vec<f64>; 2]) {
    for (name, counts) in ["node_a", "node_b"].iter().zip(counts) {
        let spread = Spread::of(counts.iter().copied());
        println!("{when:36}  {name:10} {:>6} {:>8} {:>6}", spread.least, spread.middle, spread.most);
    }
}
