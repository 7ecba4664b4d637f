//! The faults, by name: how each begins, goes on and ends.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::common::proxy::Network;
use crate::rig::Rig;

/// Payloads of the bus above this size carry entries; beats are smaller.
const LARGEST_BEAT: usize = 300;

/// A single thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    RedisKilled,
    RedisFrozen,
    RedisFlushed,
    RedisRestartedEmpty,
    SubscriptionsKilled,
    RedisFull,
    RedisPasswordRotated,
    RedisReadOnly,
    RedisLoading,
    RedisMasterDemoted,
    PostgresKilled,
    PostgresFrozen,
    PostgresConnectionsUsedUp,
    PostgresSlow,
    NodeCutFromRedis,
    NodeDeafToRedis,
    NodeUnheardByRedis,
    NodeCutFromDatabase,
    NodeCutFromBoth,
    NodeRefusedByBoth,
    NodeForgottenByDatabase,
    NodeForgottenByRedis,
    NodeKilled,
    NodeStopped,
    EntriesLost,
    SubscriptionDead,
}

impl Fault {
    /// All of them, in the table's order.
    pub const ALL: [Self; 27] = [
        Self::Nothing,
        Self::RedisKilled,
        Self::RedisFrozen,
        Self::RedisFlushed,
        Self::RedisRestartedEmpty,
        Self::SubscriptionsKilled,
        Self::RedisFull,
        Self::RedisPasswordRotated,
        Self::RedisReadOnly,
        Self::RedisLoading,
        Self::RedisMasterDemoted,
        Self::PostgresKilled,
        Self::PostgresFrozen,
        Self::PostgresConnectionsUsedUp,
        Self::PostgresSlow,
        Self::NodeCutFromRedis,
        Self::NodeDeafToRedis,
        Self::NodeUnheardByRedis,
        Self::NodeCutFromDatabase,
        Self::NodeCutFromBoth,
        Self::NodeRefusedByBoth,
        Self::NodeForgottenByDatabase,
        Self::NodeForgottenByRedis,
        Self::NodeKilled,
        Self::NodeStopped,
        Self::EntriesLost,
        Self::SubscriptionDead,
    ];

    /// What the table calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Nothing => "nothing wrong",
            Self::RedisKilled => "Redis killed",
            Self::RedisFrozen => "Redis stopped (SIGSTOP)",
            Self::RedisFlushed => "`FLUSHALL`, twice a second",
            Self::RedisRestartedEmpty => "Redis restarted empty",
            Self::SubscriptionsKilled => "`CLIENT KILL TYPE pubsub`, twice a second",
            Self::RedisFull => "Redis at `maxmemory`, noeviction",
            Self::RedisPasswordRotated => "Redis password rotated, connections killed",
            Self::RedisReadOnly => "Redis a read-only replica of a dead master",
            Self::RedisLoading => "Redis restarted, loading its data",
            Self::RedisMasterDemoted => "one node still with a demoted master, which accepts `PUBLISH`",
            Self::PostgresKilled => "Postgres stopped at once (immediate)",
            Self::PostgresFrozen => "Postgres stopped (SIGSTOP)",
            Self::PostgresConnectionsUsedUp => "Postgres `max_connections` used up",
            Self::PostgresSlow => "every answer of Postgres 200 ms late",
            Self::NodeCutFromRedis => "a node cut from Redis",
            Self::NodeDeafToRedis => "a node that hears nothing of Redis",
            Self::NodeUnheardByRedis => "a node that Redis hears nothing of",
            Self::NodeCutFromDatabase => "a node cut from the database",
            Self::NodeCutFromBoth => "a node cut from both",
            Self::NodeRefusedByBoth => "a node reset and refused by both",
            Self::NodeForgottenByDatabase => "a node's connections to the database silently dead",
            Self::NodeForgottenByRedis => "a node's connections to Redis silently dead",
            Self::NodeKilled => "a node killed and started again",
            Self::NodeStopped => "a node stopped (SIGSTOP) and resumed",
            Self::EntriesLost => "every revocation lost on the bus, beats delivered",
            Self::SubscriptionDead => "a subscription silently dead",
        }
    }

    /// Begins it.
    pub async fn begin(self, rig: &Rig) {
        tokio::task::block_in_place(|| match self {
            Self::Nothing | Self::RedisFlushed | Self::SubscriptionsKilled => {}
            Self::PostgresConnectionsUsedUp => rig.nodes_have_no_connection.store(true, Ordering::SeqCst),
            Self::RedisKilled => rig.redis.kill(),
            Self::RedisFrozen => rig.redis.stop_signal(),
            Self::RedisRestartedEmpty => {
                rig.redis.kill();
                rig.redis.restart();
            }
            Self::RedisFull => {
                drop(rig.redis.run(&["CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"]))
            }
            Self::RedisPasswordRotated => {
                let kill = ["CLIENT KILL TYPE pubsub", "CLIENT KILL TYPE normal SKIPME yes"];
                rig.redis.run(&["CONFIG SET requirepass rotated", "AUTH rotated", kill[0], kill[1]]);
            }
            Self::RedisReadOnly => drop(rig.redis.run(&["REPLICAOF 127.0.0.1 1"])),
            Self::RedisLoading => rig.redis.restart_loading(),
            Self::RedisMasterDemoted => {
                // What the new master is told reaches the old one too, and nothing goes the other way.
                rig.redis.run(&[&format!("REPLICAOF 127.0.0.1 {}", rig.other_redis().port())]);
                rig.victim().redis.lead_to(rig.other_redis().port());
            }
            Self::PostgresKilled => rig.postgres.kill(),
            Self::PostgresFrozen => rig.postgres.stop_signal(),
            Self::PostgresSlow => rig.postgres_network(Network::Delays(Duration::from_millis(200))),
            Self::NodeCutFromRedis => rig.victim().redis.network(Network::Swallows),
            Self::NodeDeafToRedis => rig.victim().redis.network(Network::LosesAnswers),
            Self::NodeUnheardByRedis => rig.victim().redis.network(Network::LosesRequests),
            Self::NodeCutFromDatabase => rig.victim().postgres.network(Network::Swallows),
            Self::NodeCutFromBoth => {
                rig.victim().redis.network(Network::Swallows);
                rig.victim().postgres.network(Network::Swallows);
            }
            Self::NodeRefusedByBoth => {
                rig.victim().redis.network(Network::Refuses);
                rig.victim().postgres.network(Network::Refuses);
            }
            Self::NodeForgottenByDatabase => rig.victim().postgres.forget(),
            Self::NodeForgottenByRedis => rig.victim().redis.forget(),
            Self::NodeKilled => rig.victim().gateway.kill(),
            Self::NodeStopped => rig.victim().gateway.signal("STOP"),
            Self::EntriesLost => {
                rig.members
                    .iter()
                    .for_each(|member| member.redis.lose_messages(|payload| payload.len() > LARGEST_BEAT));
            }
            Self::SubscriptionDead => rig.victim().redis.lose_messages(|_| true),
        });
    }

    /// Twice a second while it lasts.
    pub async fn go_on(self, rig: &Rig, hogs: &Hogs) {
        match self {
            Self::RedisFlushed => tokio::task::block_in_place(|| drop(rig.redis.run(&["FLUSHALL"]))),
            Self::SubscriptionsKilled => {
                tokio::task::block_in_place(|| drop(rig.redis.run(&["CLIENT KILL TYPE pubsub"])));
            }
            Self::PostgresConnectionsUsedUp => hogs.take_all(&rig.database_url).await,
            _ => {}
        }
    }

    /// Ends it.
    pub async fn end(self, rig: &Rig, hogs: &Hogs) {
        tokio::task::block_in_place(|| match self {
            Self::Nothing
            | Self::RedisFlushed
            | Self::RedisRestartedEmpty
            | Self::SubscriptionsKilled
            | Self::NodeForgottenByDatabase
            | Self::NodeForgottenByRedis => {}
            Self::RedisKilled => rig.redis.restart(),
            Self::RedisFrozen => rig.redis.cont_signal(),
            Self::RedisFull => drop(rig.redis.run(&["CONFIG SET maxmemory 0"])),
            Self::RedisPasswordRotated => drop(rig.redis.run(&["AUTH rotated", "CONFIG SET requirepass \"\""])),
            Self::RedisReadOnly => drop(rig.redis.run(&["REPLICAOF NO ONE"])),
            Self::RedisLoading => rig.redis.finish_loading(),
            Self::RedisMasterDemoted => {
                rig.redis.run(&["REPLICAOF NO ONE"]);
                rig.victim().redis.lead_to(rig.redis.port());
            }
            Self::PostgresKilled => rig.postgres.restart(),
            Self::PostgresFrozen => rig.postgres.cont_signal(),
            Self::PostgresConnectionsUsedUp => {
                hogs.let_go();
                rig.nodes_have_no_connection.store(false, Ordering::SeqCst);
            }
            Self::PostgresSlow => rig.postgres_network(Network::Passes),
            Self::NodeCutFromRedis
            | Self::NodeDeafToRedis
            | Self::NodeUnheardByRedis
            | Self::NodeCutFromDatabase
            | Self::NodeCutFromBoth
            | Self::NodeRefusedByBoth => {
                rig.victim().redis.network(Network::Passes);
                rig.victim().postgres.network(Network::Passes);
            }
            Self::NodeKilled => rig.victim().gateway.start_again(),
            Self::NodeStopped => rig.victim().gateway.signal("CONT"),
            Self::EntriesLost | Self::SubscriptionDead => {
                let lost: u64 = rig.members.iter().map(|member| member.redis.lost()).sum();
                assert!(lost > 0, "no message was lost: the fault did not happen");
                rig.members.iter().for_each(|member| member.redis.lose_nothing());
            }
        });
    }
}

/// Connections that are held so that nobody else gets one.
#[derive(Default)]
pub struct Hogs(Mutex<Vec<PgConnection>>);

impl Hogs {
    /// Takes every free connection, throws everybody else out, and takes theirs.
    async fn take_all(&self, url: &str) {
        const THROW_OUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'hog'";
        loop {
            let hog = PgConnection::connect(&format!("{url}?application_name=hog")).await;
            let Ok(hog) = hog else { break };
            self.hold(hog);
        }
        let one = self.0.lock().expect("hogs").pop();
        if let Some(mut one) = one {
            sqlx::query(THROW_OUT).execute(&mut one).await.expect("throw the others out");
            self.hold(one);
        }
        while let Ok(hog) = PgConnection::connect(&format!("{url}?application_name=hog")).await {
            self.hold(hog);
        }
    }

    fn hold(&self, hog: PgConnection) {
        self.0.lock().expect("hogs").push(hog);
    }

    fn let_go(&self) {
        self.0.lock().expect("hogs").clear();
    }
}
