//! Redis killed, hung, and back again: revocations arrive by the log, and nothing good is refused.

use std::time::Instant;

use serde_json::json;

use crate::common::people::new_password;
use crate::common::{DEADLINE, Mode, Stage, eventually, stages};
use crate::{accepted_everywhere, all_forced, all_open, refused_everywhere, sockets};

stages! {
    cluster: [
        a_revocation_is_seen_with_redis_killed,
        a_revocation_is_seen_with_redis_hung,
        every_kind_of_revocation_is_seen_with_redis_killed,
        redis_restarting_refuses_nobody,
        redis_hanging_refuses_nobody,
        a_restarted_redis_carries_again,
        what_ended_while_redis_was_away_stays_ended,
        the_gateway_starts_without_its_redis,
        a_flushed_redis_brings_nobody_back,
    ],
}

async fn redis_is_seen(stage: &Stage, connected: bool) {
    for node in stage.nodes() {
        eventually("the node notices its Redis", async || {
            let health = node.get("/health").send().await.expect(200);
            (health["redis_cache"]["connected"] == connected).then_some(())
        })
        .await;
    }
}

async fn a_revocation_is_seen_with_redis_killed(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    accepted_everywhere(&stage, &alice).await;
    stage.redis().kill();
    stage.a().logout(&alice.token).await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4500, "logged out").await;
    refused_everywhere(&stage, &alice, answered).await;
}

async fn a_revocation_is_seen_with_redis_hung(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    accepted_everywhere(&stage, &alice).await;
    stage.redis().stop_signal();
    stage.a().logout_all(&alice.token).await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4501, "logged out everywhere").await;
    refused_everywhere(&stage, &alice, answered).await;
}

async fn every_kind_of_revocation_is_seen_with_redis_killed(mode: Mode) {
    let stage = mode.own().start().await;
    stage.redis().kill();
    let own = stage.a().signup().await;
    let ended = stage.b().login(&own).await;
    let mut ending = sockets(&stage, &ended).await;
    stage.a().end_session(&own.token, &ended.sid).await.expect(204);
    let answered = Instant::now();
    all_forced(&mut ending, 4502, "session revoked").await;
    refused_everywhere(&stage, &ended, answered).await;

    let other = stage.b().login(&own).await;
    let mut ending = sockets(&stage, &other).await;
    let mut spared = sockets(&stage, &own).await;
    stage.a().change_password(&own.token, &own.password, &new_password()).await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4504, "credentials changed").await;
    refused_everywhere(&stage, &other, answered).await;

    stage.database.disable(&own.email).await;
    let answered = Instant::now();
    all_forced(&mut spared, 4503, "account disabled").await;
    refused_everywhere(&stage, &own, answered).await;
}

async fn redis_restarting_refuses_nobody(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut open = sockets(&stage, &alice).await;
    accepted_everywhere(&stage, &alice).await;
    for _ in 0..3 {
        stage.redis().kill();
        for _ in 0..10 {
            accepted_everywhere(&stage, &alice).await;
        }
        let newcomer = stage.a().signup().await;
        accepted_everywhere(&stage, &newcomer).await;
        redis_is_seen(&stage, false).await;
        accepted_everywhere(&stage, &alice).await;
        stage.redis().restart();
        accepted_everywhere(&stage, &alice).await;
        redis_is_seen(&stage, true).await;
        accepted_everywhere(&stage, &alice).await;
        accepted_everywhere(&stage, &newcomer).await;
        all_open(&mut open).await;
    }
}

async fn redis_hanging_refuses_nobody(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut open = sockets(&stage, &alice).await;
    stage.redis().stop_signal();
    for _ in 0..5 {
        accepted_everywhere(&stage, &alice).await;
    }
    let newcomer = stage.b().signup().await;
    accepted_everywhere(&stage, &newcomer).await;
    stage.redis().cont_signal();
    redis_is_seen(&stage, true).await;
    accepted_everywhere(&stage, &newcomer).await;
    all_open(&mut open).await;
}

async fn a_restarted_redis_carries_again(mode: Mode) {
    let stage = mode.own().start().await;
    stage.redis().kill();
    redis_is_seen(&stage, false).await;
    stage.redis().restart();
    redis_is_seen(&stage, true).await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    accepted_everywhere(&stage, &alice).await;
    stage.a().logout(&alice.token).await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4500, "logged out").await;
    refused_everywhere(&stage, &alice, answered).await;
    // Records are kept there again.
    let bob = stage.a().signup().await;
    eventually("Redis caches again", async || {
        accepted_everywhere(&stage, &bob).await;
        let health = stage.b().get("/health").send().await.expect(200);
        (health["redis_cache"]["sessions_cached"].as_u64()? > 0).then_some(())
    })
    .await;
}

async fn what_ended_while_redis_was_away_stays_ended(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    accepted_everywhere(&stage, &alice).await;
    // Frozen, it keeps the records of the session in memory and hears nothing of its end.
    stage.redis().stop_signal();
    stage.a().logout(&alice.token).await.expect(200);
    let answered = Instant::now();
    refused_everywhere(&stage, &alice, answered).await;
    stage.redis().cont_signal();
    redis_is_seen(&stage, true).await;
    refused_everywhere(&stage, &alice, answered).await;
    // A node that remembers nothing asks Redis and must not believe it.
    stage.gateways[1].restart().await;
    refused_everywhere(&stage, &alice, answered).await;
}

async fn the_gateway_starts_without_its_redis(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    stage.redis().kill();
    stage.gateways[1].restart().await;
    accepted_everywhere(&stage, &alice).await;
    let health = stage.b().get("/health").send().await.expect(200);
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["redis_cache"]["enabled"], true);
    assert_eq!(health["redis_cache"]["connected"], false);
    let mut ending = sockets(&stage, &alice).await;
    stage.a().logout(&alice.token).await.expect(200);
    all_forced(&mut ending, 4500, "logged out").await;
    stage.redis().restart();
    redis_is_seen(&stage, true).await;
    eventually("health is good again", async || {
        (stage.b().get("/health").send().await.expect(200)["status"] == "ok").then_some(())
    })
    .await;
}

async fn a_flushed_redis_brings_nobody_back(mode: Mode) {
    let stage = mode.own().start().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    accepted_everywhere(&stage, &alice).await;
    stage.a().logout(&alice.token).await.expect(200);
    let answered = Instant::now();
    flush(&stage).await;
    refused_everywhere(&stage, &alice, answered).await;
    accepted_everywhere(&stage, &bob).await;
    // Records that others wrote are no records: the gateway reads on in the database.
    overwrite_all(&stage).await;
    for node in 0..2 {
        stage.gateways[node].restart().await;
    }
    accepted_everywhere(&stage, &bob).await;
    refused_everywhere(&stage, &alice, answered).await;
    let change = stage.a().patch_profile(&bob.token, &json!({"full_name": "Bob"})).await.expect(200);
    assert_eq!(change["full_name"], "Bob");
}

async fn connection(stage: &Stage) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(stage.redis().url()).expect("a URL");
    let connecting = client.get_multiplexed_async_connection();
    tokio::time::timeout(DEADLINE, connecting).await.expect("Redis in time").expect("Redis")
}

async fn flush(stage: &Stage) {
    let mut redis = connection(stage).await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.expect("flush");
}

async fn overwrite_all(stage: &Stage) {
    let mut redis = connection(stage).await;
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.expect("keys");
    for key in keys {
        redis::cmd("SET").arg(key).arg("nonsense").query_async::<()>(&mut redis).await.expect("set");
    }
}
