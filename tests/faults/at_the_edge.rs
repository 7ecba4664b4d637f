//! Faults that begin in the very moment in which a revocation was answered.

use std::time::{Duration, Instant};

use crate::common::gateway::Settings;
use crate::common::proxy::Network;
use crate::common::{Login, Node};
use crate::fault::{Fault, Hogs};
use crate::ledger::{Credential, Ledger, Taken};
use crate::people::PATIENCE;
use crate::rig::Rig;

/// Shows the credential to every node until well after the bound.
async fn watch(rig: &Rig, ledger: &Ledger, credential: &Credential, answered: Instant) {
    while answered.elapsed() < Duration::from_secs(4) {
        for member in &rig.members {
            let sent = Instant::now();
            let taken = show(&member.node, &credential.login()).await;
            ledger.used(credential, "verify", sent, &taken);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn show(node: &Node, login: &Login) -> Taken {
    Taken::by(node.get("/api/v1/auth/verify").bearer(&login.token).timeout(PATIENCE).try_send().await.as_ref())
}

async fn ends_although(fault: Fault, end: impl AsyncFn(&Rig, &Login)) {
    let rig = Rig::start(Settings::embedded()).await;
    let (ledger, hogs) = (Ledger::default(), Hogs::default());
    let credential = Credential::new(rig.node(0).signup().await);
    rig.works_for(&credential.login()).await;
    // Long enough for the nodes to have proof of each other.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        for member in &rig.members {
            assert_eq!(show(&member.node, &credential.login()).await, Taken::Accepted);
        }
    }
    credential.ending();
    end(&rig, &credential.login()).await;
    let answered = Instant::now();
    credential.ended(answered);
    fault.begin(&rig).await;
    watch(&rig, &ledger, &credential, answered).await;
    fault.end(&rig, &hogs).await;
    watch(&rig, &ledger, &credential, Instant::now()).await;
    let sums = ledger.sums();
    assert!(sums.violations.is_empty(), "accepted after the bound: {:#?}", sums.violations);
}

async fn log_out(rig: &Rig, login: &Login) {
    rig.node(0).logout(&login.token).await.expect(200);
}

async fn disable_by_hand(rig: &Rig, login: &Login) {
    rig.database.disable(&login.email).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_answered_just_before_redis_freezes() {
    ends_although(Fault::RedisFrozen, log_out).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_answered_just_before_postgres_freezes() {
    ends_although(Fault::PostgresFrozen, log_out).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not promised: the operator's client is a revoker that no node has heard of, and it is not on the bus"]
async fn a_user_disabled_by_hand_just_before_postgres_freezes() {
    ends_although(Fault::PostgresFrozen, disable_by_hand).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_disabled_by_hand_just_before_redis_freezes() {
    ends_although(Fault::RedisFrozen, disable_by_hand).await;
}

/// No node is there to announce it on the bus, and the beats of both go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not promised: the operator's client is a revoker that no node has heard of, and it is not on the bus"]
async fn a_user_disabled_by_hand_while_no_node_reaches_the_database() {
    ends_although(Fault::Nothing, async |rig, login| {
        rig.postgres_network(Network::Swallows);
        disable_by_hand(rig, login).await;
    })
    .await;
}
