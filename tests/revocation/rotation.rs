//! Secrets that rotate: the old one dies everywhere, a second tab does not suffer, and a thief is found out.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::common::people::claims;
use crate::common::{Answer, Login, Mode, Node, Stage, eventually, stages};
use crate::{all_forced, all_open, refused_everywhere, sockets};

stages! {
    both: [
        without_rotation_the_secret_stays,
        a_new_secret_is_handed_out_for_the_same_session,
        tabs_that_come_at_once_get_the_same_secret,
        the_old_secret_leads_to_the_new_one_for_a_while,
        a_late_use_of_the_old_secret_ends_the_session,
        a_much_older_secret_ends_it_too,
        sockets_live_through_rotations,
        no_rotation_makes_a_session_live_longer,
        a_cookie_gets_the_new_value,
        a_logout_by_the_old_secret_is_a_logout,
    ],
    cluster: [
        a_thief_is_found_out_with_redis_killed,
        with_the_database_away_tokens_are_issued_and_nothing_rotates,
    ],
}

const GRACE: Duration = Duration::from_secs(2);

async fn rotating(mode: Mode) -> Stage {
    with_grace(mode, "2s").await
}

async fn with_grace(mode: Mode, grace: &str) -> Stage {
    mode.own().env("PORTCULLIS_SESSION_ROTATION", "on").env("PORTCULLIS_SESSION_ROTATION_GRACE", grace).start().await
}

async fn next(node: &Node, secret: &str) -> Login {
    let answer = node.validate(secret).await.expect(200);
    assert_eq!(Uuid::parse_str(answer.str("session_id")).expect("a UUID").get_version_num(), 4);
    Login::read(&answer, "", "")
}

/// Waits until the secret shown is due for another rotation, and rotates it.
async fn rotated(node: &Node, login: &Login) -> Login {
    eventually("the secret rotates", async || {
        let after = next(node, &login.session_id).await;
        (after.session_id != login.session_id).then_some(after)
    })
    .await
}

/// The time that a secret was rotated away at most, and its grace with it.
async fn grace_is_over(rotated: Instant) {
    tokio::time::sleep_until((rotated + GRACE + Duration::from_millis(300)).into()).await;
}

async fn replays(node: &Node) -> u64 {
    let metrics = node.get("/metrics").send().await.expect(200).text;
    let line = metrics.lines().find(|line| line.starts_with("portcullis_revocations_total{kind=\"secret_replayed\"}"));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|count| count.parse().ok()).unwrap_or(0)
}

async fn without_rotation_the_secret_stays(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for node in stage.nodes() {
        assert_eq!(next(node, &alice.session_id).await.session_id, alice.session_id);
    }
}

async fn a_new_secret_is_handed_out_for_the_same_session(mode: Mode) {
    let stage = rotating(mode).await;
    let alice = stage.a().signup().await;
    let first = next(stage.a(), &alice.session_id).await;
    assert_ne!(first.session_id, alice.session_id);
    assert_eq!((&first.sid, &first.user_id), (&alice.sid, &alice.user_id));
    for node in stage.nodes() {
        node.me(&first.token).await.expect(200);
        node.me(&alice.token).await.expect(200);
    }
    let mut latest = first;
    for node in stage.nodes() {
        let after = rotated(node, &latest).await;
        assert_eq!(after.sid, alice.sid);
        latest = after;
    }
    // Nothing about it in the token or in the list of devices.
    let answer = stage.b().sessions(&latest.token).await.expect(200);
    assert!(!answer.text.contains(&latest.session_id));
    assert_ne!(claims(&latest.token)["sid"], latest.session_id.as_str());
}

async fn tabs_that_come_at_once_get_the_same_secret(mode: Mode) {
    let stage = with_grace(mode, "1m").await;
    for _ in 0..5 {
        let alice = stage.a().signup().await;
        let tabs = (0..8).map(|tab| stage.nodes()[tab % stage.nodes().len()].validate(&alice.session_id));
        let answers: Vec<Answer> = futures_util::future::join_all(tabs).await;
        let secrets: Vec<_> =
            answers.into_iter().map(|answer| answer.expect(200).str("session_id").to_owned()).collect();
        assert!(secrets.iter().all(|secret| secret == &secrets[0]), "they would take each other for thieves");
        assert_ne!(secrets[0], alice.session_id);
        for node in stage.nodes() {
            assert_eq!(next(node, &secrets[0]).await.session_id, secrets[0], "not again at once");
        }
    }
}

async fn the_old_secret_leads_to_the_new_one_for_a_while(mode: Mode) {
    let stage = with_grace(mode, "1m").await;
    let alice = stage.a().signup().await;
    let first = next(stage.a(), &alice.session_id).await;
    for _ in 0..3 {
        for node in stage.nodes() {
            let tab = next(node, &alice.session_id).await;
            assert_eq!(tab.session_id, first.session_id);
            node.me(&tab.token).await.expect(200);
        }
    }
}

async fn a_late_use_of_the_old_secret_ends_the_session(mode: Mode) {
    let stage = rotating(mode).await;
    let alice = stage.a().signup().await;
    let laptop = stage.a().login(&alice).await;
    let mut ending = sockets(&stage, &alice).await;
    // Every node has seen the first secret as the present one.
    for node in stage.nodes() {
        node.me(&alice.token).await.expect(200);
    }
    let first = next(stage.a(), &alice.session_id).await;
    let rotated = Instant::now();
    grace_is_over(rotated).await;
    let before = replays(stage.b()).await;
    stage.b().validate(&alice.session_id).await.is_unauthenticated();
    let answered = Instant::now();
    all_forced(&mut ending, 4502, "session revoked").await;
    // Both holders are out: nobody can tell which of them is the thief.
    refused_everywhere(&stage, &first, answered).await;
    refused_everywhere(&stage, &alice, answered).await;
    assert_eq!(replays(stage.b()).await, before + 1);
    // The user's other devices are not concerned.
    for node in stage.nodes() {
        node.me(&laptop.token).await.expect(200);
    }
}

async fn a_much_older_secret_ends_it_too(mode: Mode) {
    let stage = with_grace(mode, "1s").await;
    let alice = stage.a().signup().await;
    let first = rotated(stage.a(), &alice).await;
    let second = rotated(stage.b(), &first).await;
    let third = rotated(stage.a(), &second).await;
    // A node that remembers nothing finds it, too.
    let node = stage.gateways.last().expect("a node");
    node.restart().await;
    stage.b().validate(&alice.session_id).await.is_unauthenticated();
    let answered = Instant::now();
    refused_everywhere(&stage, &third, answered).await;
}

async fn sockets_live_through_rotations(mode: Mode) {
    let stage = with_grace(mode, "1s").await;
    let alice = stage.a().signup().await;
    let mut open = sockets(&stage, &alice).await;
    let mut latest = alice;
    for round in 0..3 {
        latest = rotated(&stage.nodes()[round % stage.nodes().len()], &latest).await;
        for socket in &mut open {
            assert_eq!(
                socket.rpc("auth.me", serde_json::Value::Null).await["rpc"]["data"]["id"],
                latest.user_id.as_str()
            );
        }
        all_open(&mut open).await;
    }
}

async fn no_rotation_makes_a_session_live_longer(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_SESSION_ROTATION", "on").env("PORTCULLIS_SESSION_ROTATION_GRACE", "1s");
    let stage = stage.env("PORTCULLIS_SESSION_TTL", "5s").env("PORTCULLIS_SESSION_MAX_AGE", "5s").start().await;
    let mut latest = stage.a().signup().await;
    let started = Instant::now();
    let end = claims(&latest.token)["exp"].as_i64().expect("exp");
    loop {
        let answer = stage.b().validate(&latest.session_id).await;
        if answer.status == 401 {
            break;
        }
        latest = Login::read(&answer.expect(200), "", "");
        assert!(claims(&latest.token)["exp"].as_i64().expect("exp") <= end + 1, "a token outlives its session");
        assert!(started.elapsed() < crate::common::DEADLINE, "the session does not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(3), "it ended early");
}

async fn a_cookie_gets_the_new_value(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_SESSION_ROTATION", "on").env("PORTCULLIS_COOKIES", "on").start().await;
    let alice = stage.a().signup().await;
    let validate = stage.b().post("/api/v1/auth/validate-session").header("sec-fetch-site", "same-origin");
    let answer =
        validate.header("cookie", &format!("portcullis_session={}", alice.session_id)).send().await.expect(200);
    let secret = answer.str("session_id");
    assert_ne!(secret, alice.session_id);
    assert!(answer.header("set-cookie").starts_with(&format!("portcullis_session={secret};")), "{answer:#?}");
    let verify = async |secret: &str| {
        let call = stage.a().get("/api/v1/auth/verify").header("cookie", &format!("portcullis_session={secret}"));
        call.header("sec-fetch-site", "same-origin").send().await
    };
    // Requests that were under way still carry the old one.
    verify(secret).await.expect(204);
    verify(&alice.session_id).await.expect(204);
}

async fn a_logout_by_the_old_secret_is_a_logout(mode: Mode) {
    let stage = with_grace(mode, "1s").await;
    let alice = stage.a().signup().await;
    let first = rotated(stage.a(), &alice).await;
    let second = rotated(stage.a(), &first).await;
    let mut ending = sockets(&stage, &second).await;
    let body = serde_json::json!({"session_id": alice.session_id});
    stage.b().post("/api/v1/auth/logout").json(&body).send().await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4500, "logged out").await;
    refused_everywhere(&stage, &second, answered).await;
}

async fn a_thief_is_found_out_with_redis_killed(mode: Mode) {
    let stage = rotating(mode).await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    for node in stage.nodes() {
        node.me(&alice.token).await.expect(200);
    }
    stage.redis().kill();
    // The thief is faster; the owner comes to the other node, with the secret that was the present one there.
    let stolen = next(stage.a(), &alice.session_id).await;
    grace_is_over(Instant::now()).await;
    stage.b().validate(&alice.session_id).await.is_unauthenticated();
    let answered = Instant::now();
    all_forced(&mut ending, 4502, "session revoked").await;
    refused_everywhere(&stage, &stolen, answered).await;
}

/// Freezes the database once the nodes have heard enough of each other to go by their lease.
async fn freeze_under_the_lease(stage: &Stage, who: &Login) {
    eventually("the nodes answer without their database", async || {
        for node in stage.nodes() {
            eventually("the node answers", async || (node.verify(&who.token).await.status == 204).then_some(())).await;
        }
        stage.postgres().stop_signal();
        let since = Instant::now();
        // Past this, what they remember is proven by the beats alone.
        while since.elapsed() < Duration::from_millis(1500) {
            for node in stage.nodes() {
                if node.verify(&who.token).await.status != 204 {
                    stage.postgres().cont_signal();
                    return None;
                }
            }
        }
        Some(())
    })
    .await;
}

async fn with_the_database_away_tokens_are_issued_and_nothing_rotates(mode: Mode) {
    let stage = mode.own().own_postgres().env("PORTCULLIS_SESSION_ROTATION", "on").start().await;
    let alice = stage.a().signup().await;
    // Both nodes and Redis know the session; then its record is what memory and the lease vouch for.
    for node in stage.nodes() {
        node.me(&alice.token).await.expect(200);
    }
    freeze_under_the_lease(&stage, &alice).await;
    for _ in 0..3 {
        for node in stage.nodes() {
            let answer = node.validate(&alice.session_id).await.expect(200);
            assert_eq!(answer["session_id"], alice.session_id, "nothing rotates while nothing can be written");
            node.me(answer.str("access_token")).await.expect(200);
        }
    }
    stage.postgres().cont_signal();
    let after = rotated(stage.a(), &alice).await;
    stage.b().me(&after.token).await.expect(200);
    assert_eq!(after.sid, alice.sid);
}
