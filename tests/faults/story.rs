//! The story of the gateway this one grew out of: Redis dies, two thousand clients fall through to a small database that
//! is slow, and are told that they are not logged in. They are not told that here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::common::gateway::Settings;
use crate::common::proxy::Network;
use crate::rig::Rig;

/// Clients that ask at the same time.
const CLIENTS: usize = 2000;

/// Logins they come from; a password hash for each client would take the test minutes.
const LOGINS: usize = 40;

/// How long everybody keeps asking.
const LASTS: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_under_two_thousand_clients_of_a_slow_database() {
    // Fifteen connections in all: six in each pool, and one each for the reader of the log; one to spare.
    let rig = Rig::start(Settings::embedded().env("PORTCULLIS_DATABASE_POOL_SIZE", "6")).await;
    let owner = rig.node(0).signup().await;
    let mut logins = vec![owner.clone()];
    for _ in 1..LOGINS {
        logins.push(rig.node(logins.len()).login(&owner).await);
    }
    rig.postgres_network(Network::Delays(Duration::from_millis(200)));
    // Nobody remembers anything: the first question of each session goes all the way.
    tokio::task::block_in_place(|| drop(rig.redis.run(&["FLUSHALL"])));
    let until = Instant::now() + LASTS;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (node, token) = (rig.node(client).clone(), logins[client % LOGINS].token.clone());
        clients.spawn(async move {
            let mut answers = BTreeMap::new();
            while Instant::now() < until {
                let call = node.get("/api/v1/auth/verify").bearer(&token).timeout(Duration::from_secs(10));
                let status = call.try_send().await.map_or(0, |answer| answer.status);
                *answers.entry(status).or_insert(0_u64) += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            answers
        });
    }
    tokio::time::sleep(LASTS / 2).await;
    rig.redis.kill();
    let mut sums = BTreeMap::new();
    while let Some(answers) = clients.join_next().await {
        for (status, count) in answers.expect("a client ends") {
            *sums.entry(status).or_insert(0_u64) += count;
        }
    }
    eprintln!("answers by status (0: none): {sums:?}; queries: {:?}", rig.queries().await);
    assert!(sums.keys().all(|status| [0, 204, 503].contains(status)), "{sums:?}");
    assert!(sums.get(&204).is_some_and(|good| *good > CLIENTS as u64), "{sums:?}");
}
