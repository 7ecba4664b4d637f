//! A subscription over which nothing comes any more, although its connection stands: seen within the bound, and healed.

use std::time::{Duration, Instant};

use crate::common::eventually;
use crate::common::gateway::Settings;
use crate::rig::{Member, Rig};

async fn bus(member: &Member) -> String {
    let ready = member.node.get("/health/ready").send().await.expect(200);
    ready.str("bus").to_owned()
}

async fn gauge(member: &Member) -> Option<f64> {
    member.metric("portcullis_bus_subscribed").await.first().map(|(_, value)| *value)
}

async fn is_shown(member: &Member, state: &str, value: f64) {
    eventually("the subscription's state is shown", async || {
        (bus(member).await == state && gauge(member).await == Some(value)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_falls_silent_is_shown_and_heals() {
    let rig = Rig::start(Settings::embedded()).await;
    let alice = rig.node(0).signup().await;
    rig.works_for(&alice).await;
    is_shown(rig.victim(), "subscribed", 1.0).await;
    // The connections stand and are dead; only new ones work.
    rig.victim().redis.forget();
    let began = Instant::now();
    is_shown(rig.victim(), "silent", 0.0).await;
    eprintln!("shown after {:.2?}", began.elapsed());
    let given_up = rig.victim().gateway.log().contains("the subscription broke");
    assert!(!given_up, "seen only when it was given up, {:?} after", began.elapsed());
    // Ready all the same: the log brings what the bus does not.
    let ended = rig.node(0).login(&alice).await;
    rig.node(0).logout(&ended.token).await.expect(200);
    let answered = Instant::now();
    eventually("the log brings it", async || {
        let status = rig.victim().node.verify(&ended.token).await.status;
        assert!([401, 204].contains(&status) && (status == 401 || answered.elapsed() < Duration::from_secs(2)));
        (status == 401).then_some(())
    })
    .await;
    is_shown(rig.victim(), "subscribed", 1.0).await;
    assert_eq!(bus(&rig.members[0]).await, "subscribed", "the other node never noticed anything");
}

/// What the circuit breaker does, by the metrics.
async fn breaker(member: &Member) -> String {
    let states = member.metric("portcullis_circuit_breaker_state").await;
    let now: Vec<_> = states.into_iter().filter(|(_, value)| *value > 0.0).map(|(labels, _)| labels).collect();
    now.join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circuit_breaker_opens_once_and_closes_again() {
    let rig = Rig::start(Settings::embedded()).await;
    let alice = rig.node(0).signup().await;
    rig.works_for(&alice).await;
    let victim = rig.victim();
    eventually("closed", async || breaker(victim).await.contains("\"closed\"").then_some(())).await;
    rig.redis.stop_signal();
    eventually("open", async || breaker(victim).await.contains("\"open\"").then_some(())).await;
    for _ in 0..20 {
        victim.node.verify(&alice.token).await.expect(204);
    }
    rig.redis.cont_signal();
    eventually("closed again", async || breaker(victim).await.contains("\"closed\"").then_some(())).await;
    let openings = victim.metric("portcullis_circuit_breaker_openings_total").await;
    assert!(openings.iter().map(|(_, count)| *count).sum::<f64>() >= 1.0, "{openings:?}");
}

/// A firewall forgets the node's connections to Redis: nobody says so, and nothing is answered on them any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_on_which_nothing_is_answered_is_made_anew() {
    let rig = Rig::start(Settings::embedded()).await;
    let alice = rig.node(0).signup().await;
    rig.works_for(&alice).await;
    rig.victim().redis.forget();
    eventually("it was noticed, and mended", async || {
        let noticed = rig.victim().metric("portcullis_circuit_breaker_openings_total").await;
        let health = rig.victim().node.get("/health").send().await.expect(200);
        (noticed.iter().any(|(_, count)| *count >= 1.0) && health["redis_cache"]["connected"] == true).then_some(())
    })
    .await;
}
