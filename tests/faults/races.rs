//! The races that must not exist, each forced at the front door: a line is slowed down or held up until the other side
//! has done its part. `tests/README.md` names the test of every race.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use crate::common::gateway::Settings;
use crate::common::proxy::Network;
use crate::common::{Answer, Event, Login, eventually};
use crate::rig::Rig;

/// How much later the victim hears each answer of its database. The servers do at once what they are told.
const LATE: Duration = Duration::from_millis(300);

/// The victim has sent this query for the `count`th time.
async fn has_sent(rig: &Rig, query: &str, count: u64) {
    eventually("the query is sent", async || {
        (rig.victim().queries().await.get(query).copied().unwrap_or(0) >= count).then_some(())
    })
    .await;
}

/// Postgres has done what was asked with this statement and waits for the next.
async fn was_executed(rig: &Rig, statement: &str) {
    const DONE: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'portcullis' \
        AND state LIKE 'idle%' AND query LIKE '%' || $1 || '%'";
    let mut connection = PgConnection::connect(&rig.database_url).await.expect("connect to Postgres");
    eventually("the statement is executed", async || {
        let done: i64 = sqlx::query_scalar(DONE).bind(statement).fetch_one(&mut connection).await.expect("a number");
        (done > 0).then_some(())
    })
    .await;
}

/// Fill after revoke: the read has seen the session alive, the logout is answered, and only then the read's answer
/// comes to the node, which heard of the logout before.
async fn a_late_fill(what: &str, ask: impl AsyncFn(&Rig, &Login) -> Answer) {
    let rig = Rig::start(Settings::embedded()).await;
    let alice = rig.node(0).signup().await;
    // The victim is to ask its database. The user's record is the last that the signup puts into Redis.
    eventually("Redis has her", async || (rig.redis.run(&["KEYS portcullis:*:u"])[0].trim() == "*1").then_some(()))
        .await;
    rig.redis.run(&["FLUSHALL"]);
    rig.victim().postgres.network(Network::Delays(LATE));
    let (answer, ()) = tokio::join!(ask(&rig, &alice), async {
        was_executed(&rig, "encode(s.secret_hash").await;
        rig.node(0).logout(&alice.token).await.expect(200);
    });
    // It was asked before the logout was answered, so that a yes would be fair; but none that lasts.
    assert!([200, 204, 401].contains(&answer.status), "{what}: {answer:#?}");
    eprintln!("{what}: {}", answer.status);
    if let Some(token) = answer["access_token"].as_str() {
        rig.victim().node.verify(token).await.is_bad_token();
    }
    rig.victim().node.verify(&alice.token).await.is_bad_token();
    rig.victim().node.validate(&alice.session_id).await.problem(&[401]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_comes_after_the_logout_brings_nobody_back() {
    a_late_fill("verify", async |rig, alice| rig.victim().node.verify(&alice.token).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_crosses_the_logout_is_worth_nothing() {
    a_late_fill("validate-session", async |rig, alice| rig.victim().node.validate(&alice.session_id).await).await;
}

/// The gap at admission: judged and found good, the ticket on its way into the database, and now the logout. No socket's
/// task runs yet that could be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_finds_the_socket_that_is_being_admitted() {
    let rig = Rig::start(Settings::embedded()).await;
    let alice = rig.node(0).signup().await;
    let ticket = rig.node(0).ticket(&alice.token, None).await;
    rig.victim().postgres.network(Network::Delays(LATE));
    let (opened, ()) = tokio::join!(rig.victim().node.socket().ticket(&ticket).try_open(), async {
        has_sent(&rig, "redeem_ticket", 1).await;
        rig.node(0).logout(&alice.token).await.expect(200);
    });
    let mut socket = opened.expect("it was good when it was judged");
    socket.expect_forced(4500, "logged out").await;
}

/// The same gap, and the node drains: whoever is not in yet is sent to another node, by an honest status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_turns_away_the_socket_that_is_being_admitted() {
    let rig = Rig::start(Settings::embedded().env("PORTCULLIS_DRAIN_WINDOW", "1s")).await;
    let alice = rig.node(0).signup().await;
    let ticket = rig.node(0).ticket(&alice.token, None).await;
    rig.victim().postgres.network(Network::Delays(LATE));
    let (answer, ()) = tokio::join!(rig.victim().node.socket().ticket(&ticket).attempt(), async {
        has_sent(&rig, "redeem_ticket", 1).await;
        rig.victim().gateway.terminate();
    });
    answer.is_problem(503, "draining");
    assert_eq!(rig.victim().gateway.exited().await, 0);
}

/// A late entry: what the bus held up arrives when the user has logged in again and is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_comes_late_spares_the_login_after_it() {
    let rig = Rig::start(Settings::embedded()).await;
    let alice = rig.node(0).signup().await;
    let mut old = rig.victim().node.connect(&alice.token).await;
    rig.victim().redis.network(Network::LosesAnswers);
    rig.node(0).logout_all(&alice.token).await.expect(200);
    // By the log.
    old.expect_forced(4501, "logged out everywhere").await;
    let again = rig.node(0).login(&alice).await;
    let mut new = rig.victim().node.connect(&again.token).await;
    rig.victim().redis.network(Network::Passes);
    // What it held up comes before what is published now, and that is seen to arrive.
    let push = eventually("something newer has come over the bus", async || {
        rig.node(0)
            .patch_profile(&again.token, &serde_json::json!({"full_name": uuid::Uuid::new_v4()}))
            .await
            .expect(200);
        match new.next_by(tokio::time::Instant::now() + Duration::from_millis(500)).await {
            Some(Event::Push(push)) => Some(push),
            Some(Event::Closed(code, reason)) => panic!("closed with {code} {reason}"),
            _ => None,
        }
    })
    .await;
    assert_eq!(push["message"]["data"]["type"], "user.updated");
    eventually("the bus is heard again", async || {
        let ready = rig.victim().node.get("/health/ready").send().await.expect(200);
        (ready.str("bus") == "subscribed").then_some(())
    })
    .await;
    new.expect_open().await;
}

/// The database goes away while the answer to the revoker's `COMMIT` is on its way: it took effect, and no node knows.
/// Whoever asked a third node would be told that it did, so nobody lets the session in; everybody else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_leaves_nobody_in() {
    let rig = Rig::start(Settings::embedded()).await;
    let (alice, bob) = (rig.node(0).signup().await, rig.node(0).signup().await);
    let (other, revoker) = (&rig.members[0], rig.victim());
    goes_by_the_lease(&rig, &bob).await;
    rig.works_for(&bob).await;
    other.node.verify(&alice.token).await.expect(204);

    other.postgres.network(Network::Refuses);
    revoker.postgres.network(Network::Delays(LATE));
    const ENDED: &str = "SELECT count(*) FROM sessions WHERE sid::text = $1 AND ended_at IS NOT NULL";
    let mut connection = PgConnection::connect(&rig.database_url).await.expect("connect to Postgres");
    let (answer, committed) = tokio::join!(revoker.node.logout(&alice.token), async {
        eventually("it has taken effect", async || {
            let ended = sqlx::query_scalar::<_, i64>(ENDED).bind(&alice.sid).fetch_one(&mut connection).await;
            (ended.expect("a number") == 1).then_some(())
        })
        .await;
        revoker.postgres.network(Network::Refuses);
        Instant::now()
    });
    answer.problem(&[503]);
    tokio::time::sleep_until((committed + Duration::from_secs(1)).into()).await;
    let mut others = 0;
    while committed.elapsed() < Duration::from_secs(3) {
        for member in &rig.members {
            member.node.verify(&alice.token).await.problem(&[503]);
            others += u32::from(member.node.verify(&bob.token).await.status == 204);
        }
    }
    assert!(others > 0, "the nodes' beats go on proving for everybody else");

    rig.postgres_network(Network::Passes);
    rig.works_for(&bob).await;
    for member in &rig.members {
        eventually("it is known how it ended", async || {
            (member.node.verify(&alice.token).await.status == 401).then_some(())
        })
        .await;
    }
}

/// Waits until both nodes can do without the database.
async fn goes_by_the_lease(rig: &Rig, who: &Login) {
    eventually("the nodes answer without their database", async || {
        rig.works_for(who).await;
        rig.postgres_network(Network::Refuses);
        let since = Instant::now();
        let mut proven = true;
        while proven && since.elapsed() < Duration::from_millis(1500) {
            for member in &rig.members {
                proven &= member.node.verify(&who.token).await.status == 204;
            }
        }
        rig.postgres_network(Network::Passes);
        proven.then_some(())
    })
    .await;
}
