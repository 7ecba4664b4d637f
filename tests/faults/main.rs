//! The promises under single faults: nobody who was logged out is let in, nobody who is good is sent away.
//!
//! Each case runs two real nodes with a network of their own to a real Redis and a real Postgres, clients of every kind,
//! and revocations of every kind before, under and after one fault. See `ledger.rs` for what is counted.

#[path = "../common/mod.rs"]
mod common;

mod at_the_edge;
mod delays;
mod fault;
mod flood;
mod herd;
mod ledger;
mod mix;
mod people;
mod races;
mod random;
mod rig;
mod run;
mod silence;
mod story;
mod table;

use fault::Fault;
use run::{Plan, run};

/// A test for each fault, named after it.
macro_rules! faults {
    ($($name:ident: $fault:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                run(Fault::$fault, Plan::SHORT).await.must_keep_the_promises();
            }
        )*

        #[test]
        fn every_fault_has_a_test() {
            assert_eq!(Fault::ALL.to_vec(), [$(Fault::$fault),*]);
        }
    };
}

faults! {
    nothing_wrong: Nothing,
    redis_killed: RedisKilled,
    redis_frozen: RedisFrozen,
    redis_flushed: RedisFlushed,
    redis_restarted_empty: RedisRestartedEmpty,
    subscriptions_killed: SubscriptionsKilled,
    redis_full: RedisFull,
    redis_password_rotated: RedisPasswordRotated,
    redis_read_only: RedisReadOnly,
    redis_loading: RedisLoading,
    redis_master_demoted: RedisMasterDemoted,
    postgres_killed: PostgresKilled,
    postgres_frozen: PostgresFrozen,
    postgres_connections_used_up: PostgresConnectionsUsedUp,
    postgres_slow: PostgresSlow,
    a_node_cut_from_redis: NodeCutFromRedis,
    a_node_deaf_to_redis: NodeDeafToRedis,
    a_node_unheard_by_redis: NodeUnheardByRedis,
    a_node_cut_from_the_database: NodeCutFromDatabase,
    a_node_cut_from_both: NodeCutFromBoth,
    a_node_refused_by_both: NodeRefusedByBoth,
    a_node_forgotten_by_the_database: NodeForgottenByDatabase,
    a_node_forgotten_by_redis: NodeForgottenByRedis,
    a_node_killed: NodeKilled,
    a_node_stopped: NodeStopped,
    entries_lost: EntriesLost,
    a_subscription_silently_dead: SubscriptionDead,
}
