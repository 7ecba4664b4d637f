//! Guessing and floods: what is counted, on which node, and who is never locked out by it.

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::common::people::{new_email, new_password};
use crate::common::{Answer, Mode, Node, Stage, eventually, stages};

stages! {
    both: [
        a_refused_guess_says_when_to_come_back,
        guesses_are_counted_by_all_nodes_together,
        unknown_users_are_throttled_like_known_ones,
        the_right_password_wipes_the_slate_clean,
        strangers_who_guess_from_everywhere_lock_nobody_out,
        nobody_escapes_by_forged_addresses,
        the_current_password_cannot_be_guessed_either,
        signups_are_limited,
        session_secrets_are_limited,
        switched_off_nothing_is_limited,
    ],
    cluster: [
        each_node_counts_alone_while_redis_is_away,
        a_hung_redis_costs_nobody_a_login,
        redis_holds_no_address_in_the_clear,
    ],
}

/// What may be guessed at once.
const FREE: usize = 5;

/// With more patience for Redis than usual: on a busy machine each node would count alone for a moment.
async fn throttled(mode: Mode) -> Stage {
    mode.own().without("PORTCULLIS_THROTTLING").env("PORTCULLIS_REDIS_TIMEOUT", "5s").start().await
}

/// Behind a proxy, so that a test can come from anywhere.
async fn behind_a_proxy(mode: Mode) -> Stage {
    let stage = mode.own().without("PORTCULLIS_THROTTLING").env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1");
    stage.env("PORTCULLIS_REDIS_TIMEOUT", "5s").start().await
}

async fn guess_from(node: &Node, email: &str, password: &str, from: &str) -> Answer {
    let body = json!({"email": email, "password": password});
    node.post("/api/v1/auth/login").header("x-forwarded-for", from).json(&body).send().await
}

/// Twenty wrong guesses at once, by turns at each node: how many were judged. The first of the growing pauses is a second
/// long, in which all of them have been counted; a second or two more are granted to a busy machine.
async fn judged_at_once(stage: &Stage, email: &str) -> usize {
    let nodes = stage.nodes().iter().cycle();
    let guesses = nodes.take(20).map(|node| async { node.try_login(email, "a wrong password").await });
    let answers = join_all(guesses).await;
    for answer in &answers {
        answer.problem(&[401, 429]);
    }
    answers.iter().filter(|answer| answer.status == 401).count()
}

/// Guesses until it is told to wait.
async fn exhaust(node: &Node, email: &str) -> Answer {
    for _ in 0..100 {
        let answer = node.try_login(email, "a wrong password").await;
        match answer.status {
            401 => {}
            _ => return answer,
        }
    }
    panic!("a hundred guesses were judged");
}

async fn a_refused_guess_says_when_to_come_back(mode: Mode) {
    let stage = throttled(mode).await;
    let alice = stage.a().signup().await;
    let first = stage.a().try_login(&alice.email, "a wrong password").await;
    first.is_problem(401, "invalid_credentials");
    assert_eq!(first.header("ratelimit-policy"), "\"logins\";q=50;w=5, \"guesses\";q=5;w=3600");
    assert!(first.header("ratelimit").contains("\"guesses\";r=4;t="), "{first:#?}");
    let refused = exhaust(stage.a(), &alice.email).await;
    refused.is_problem(429, "too_many_requests");
    let seconds: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=300).contains(&seconds), "{refused:#?}");
    assert!(refused.header("ratelimit").contains(&format!("\"guesses\";r=0;t={seconds}")), "{refused:#?}");
    // Another account is another matter, and the session goes on.
    let bob = stage.a().signup().await;
    stage.a().login(&bob).await;
    stage.a().me(&alice.token).await.expect(200);
    // It is a pause, not a lockout.
    eventually("alice gets in again", async || {
        let answer = stage.a().try_login(&alice.email, &alice.password).await;
        answer.status.ne(&429).then(|| answer.expect(200))
    })
    .await;
}

async fn guesses_are_counted_by_all_nodes_together(mode: Mode) {
    let stage = throttled(mode).await;
    let alice = stage.a().signup().await;
    let judged = judged_at_once(&stage, &alice.email).await;
    // Counted apart, two nodes would judge ten.
    assert!((FREE..=FREE + 2).contains(&judged), "{judged}");
}

async fn unknown_users_are_throttled_like_known_ones(mode: Mode) {
    let stage = throttled(mode).await;
    let judged = judged_at_once(&stage, &new_email()).await;
    assert!((FREE..=FREE + 2).contains(&judged), "{judged}");
}

async fn the_right_password_wipes_the_slate_clean(mode: Mode) {
    let stage = throttled(mode).await;
    let alice = stage.a().signup().await;
    for _ in 0..4 {
        for _ in 0..FREE - 1 {
            stage.b().try_login(&alice.email, "a wrong password").await.is_problem(401, "invalid_credentials");
        }
        stage.b().login(&alice).await;
        // Told to the other nodes behind the answer.
        eventually("the failures are forgotten", async || {
            let answer = stage.a().try_login(&alice.email, &alice.password).await;
            // Until then it may ask for the second that follows a fifth failure.
            if answer.status == 429 {
                return None;
            }
            answer.expect(200).header("ratelimit").contains("\"guesses\";r=4;").then_some(())
        })
        .await;
    }
}

async fn strangers_who_guess_from_everywhere_lock_nobody_out(mode: Mode) {
    let stage = behind_a_proxy(mode).await;
    let (email, password, home) = (new_email(), new_password(), "203.0.113.7");
    let body = json!({"email": email, "password": password});
    stage.a().post("/api/v1/auth/signup").header("x-forwarded-for", home).json(&body).send().await.expect(201);
    let unknown = new_email();
    let mut refused = [0, 0];
    for (target, refused) in [&email, &unknown].into_iter().zip(&mut refused) {
        for twenty in 0..6 {
            let hosts = (0..20).map(|host| format!("198.51.{twenty}.{host}"));
            let nodes = stage.nodes().iter().cycle();
            let guesses = hosts
                .zip(nodes)
                .map(|(from, node)| async move { guess_from(node, target, "a wrong password", &from).await });
            let answers = join_all(guesses).await;
            for answer in &answers {
                answer.problem(&[401, 429]);
            }
            *refused += answers.iter().filter(|answer| answer.status == 429).count();
        }
        // A hundred and twenty guesses from as many addresses; at most a hundred in an hour may be judged.
        assert!(*refused >= 20, "{refused}");
    }
    // A stranger must wait, and is not told whether there is such an account.
    for target in [&email, &unknown] {
        let answer = guess_from(stage.a(), target, &password, "192.0.2.1").await;
        answer.is_problem(429, "too_many_requests");
    }
    // The owner comes from where they have been before; a neighbour's address is near enough.
    for (node, from) in [(stage.a(), home), (stage.b(), "203.0.113.99")] {
        guess_from(node, &email, &password, from).await.expect(200);
    }
}

async fn nobody_escapes_by_forged_addresses(mode: Mode) {
    let stage = throttled(mode).await;
    let alice = stage.a().signup().await;
    let guesses = (0..20).map(|host| {
        let (node, email, from) = (stage.a(), &alice.email, format!("198.51.100.{host}"));
        async move { guess_from(node, email, "a wrong password", &from).await }
    });
    let judged = join_all(guesses).await.iter().filter(|answer| answer.status == 401).count();
    assert!((FREE..=FREE + 2).contains(&judged), "{judged}");
}

async fn the_current_password_cannot_be_guessed_either(mode: Mode) {
    let stage = throttled(mode).await;
    let alice = stage.a().signup().await;
    let next = new_password();
    let guesses = (0..20).map(|_| stage.a().change_password(&alice.token, "a wrong password", &next));
    let answers = join_all(guesses).await;
    for answer in &answers {
        answer.problem(&[403, 429]);
    }
    let judged = answers.iter().filter(|answer| answer.status == 403).count();
    assert!((FREE..=FREE + 2).contains(&judged), "{judged}");
}

async fn signups_are_limited(mode: Mode) {
    let stage = throttled(mode).await;
    // Refused for its password, which costs nobody a hash, but counted.
    let body = json!({"email": new_email(), "password": "short"});
    let answer = eventually("signups are refused", async || {
        let signups = (0..40).map(|_| stage.b().post("/api/v1/auth/signup").json(&body).send());
        join_all(signups).await.into_iter().find(|answer| answer.status == 429)
    })
    .await;
    answer.is_problem(429, "too_many_requests");
    assert!(answer.header("ratelimit-policy").starts_with("\"signups\";q=50"), "{answer:#?}");
}

async fn session_secrets_are_limited(mode: Mode) {
    let stage = throttled(mode).await;
    let alice = stage.a().signup().await;
    let answer = eventually("made-up secrets are refused", async || {
        let made_up: Vec<String> = (0..200).map(|_| Uuid::new_v4().to_string()).collect();
        let shown = made_up.iter().map(|secret| stage.a().validate(secret));
        let answers = join_all(shown).await;
        for answer in &answers {
            answer.problem(&[401, 429]);
        }
        answers.into_iter().find(|answer| answer.status == 429)
    })
    .await;
    assert!(answer.header("ratelimit-policy").starts_with("\"validations\";q=500"), "{answer:#?}");
    // Nobody is logged out by it.
    eventually("good secrets are taken again", async || {
        let answer = stage.a().validate(&alice.session_id).await;
        answer.status.ne(&429).then(|| answer.expect(200))
    })
    .await;
}

async fn switched_off_nothing_is_limited(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for _ in 0..2 * FREE {
        let answer = stage.a().try_login(&alice.email, "a wrong password").await;
        answer.is_problem(401, "invalid_credentials");
        assert_eq!(answer.header("ratelimit"), "");
    }
}

async fn each_node_counts_alone_while_redis_is_away(mode: Mode) {
    let stage = throttled(mode).await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    let judged = judged_at_once(&stage, &alice.email).await;
    assert!((FREE..=FREE + 2).contains(&judged), "{judged}");
    stage.redis().kill();
    // What this node has counted itself stays counted.
    exhaust(stage.a(), &alice.email).await.is_problem(429, "too_many_requests");
    let judged = judged_at_once(&stage, &bob.email).await;
    assert!((FREE..=2 * FREE + 4).contains(&judged), "{judged}");
    let carol = stage.b().signup().await;
    stage.a().login(&carol).await;
}

async fn a_hung_redis_costs_nobody_a_login(mode: Mode) {
    let stage = mode.own().without("PORTCULLIS_THROTTLING").start().await;
    let alice = stage.a().signup().await;
    stage.redis().stop_signal();
    for _ in 0..2 * FREE {
        stage.a().login(&alice).await;
    }
    stage.a().validate(&alice.session_id).await.expect(200);
    exhaust(stage.a(), &alice.email).await.is_problem(429, "too_many_requests");
    stage.redis().cont_signal();
}

async fn redis_holds_no_address_in_the_clear(mode: Mode) {
    let stage = throttled(mode).await;
    let alice = stage.a().signup().await;
    exhaust(stage.a(), &alice.email).await;
    let client = redis::Client::open(stage.redis().url()).expect("a URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.expect("keys");
    let (mut dump, mut counted) = (names.join("\n"), 0);
    for name in &names {
        assert!(name.starts_with("portcullis:"), "{name}");
        let kind: String = redis::cmd("TYPE").arg(name).query_async(&mut redis).await.expect("a type");
        let mut read = match kind.as_str() {
            "hash" => redis::cmd("HGETALL"),
            "string" => redis::cmd("GET"),
            "set" => redis::cmd("SMEMBERS"),
            "zset" => redis::cmd("ZRANGE"),
            other => panic!("{name} is a {other}, which this test cannot read"),
        };
        read.arg(name);
        if kind == "zset" {
            read.arg(0).arg(-1).arg("WITHSCORES");
        }
        let value: redis::Value = read.query_async(&mut redis).await.expect("a value");
        dump.push_str(&format!("{value:?}"));
        if name.contains(":limit:") {
            counted += 1;
            let life: i64 = redis::cmd("TTL").arg(name).query_async(&mut redis).await.expect("a life");
            assert!((0..=4_000).contains(&life), "nothing is kept for longer than it matters: {name} {life}");
        }
    }
    assert!(counted >= 3, "an address, a pair and an account are counted: {names:?}");
    let (local, _) = alice.email.split_once('@').expect("an address");
    for clear in [local, "127.0.0.1", &alice.user_id] {
        assert!(!dump.contains(clear), "{clear} stands in Redis");
    }
}
