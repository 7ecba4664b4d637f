//! The audit trail: what is in it, what never is, and who may read what.

use serde_json::{Value, json};

use crate::common::people::new_password;
use crate::common::{Answer, Mode, Node, eventually, stages};
use crate::{Admin, Login};

stages! {
    both: [
        the_trail_tells_a_users_story,
        everybody_reads_their_own_alone,
        every_use_of_an_operator_is_written_down,
        a_flood_of_failures_is_one_row,
        no_secret_is_in_the_trail,
        counts_name_nobody,
        a_hand_written_change_is_told_as_such,
    ],
    embedded: [what_is_past_its_time_is_swept],
}

async fn own(node: &Node, login: &Login, query: &str) -> Answer {
    node.get(&format!("/api/v1/auth/audit{query}")).bearer(&login.token).send().await.expect(200)
}

fn entries(answer: &Answer) -> Vec<Value> {
    answer["entries"].as_array().expect("entries").clone()
}

fn events(answer: &Answer) -> Vec<String> {
    entries(answer).iter().map(|entry| entry["event"].as_str().expect("an event").to_owned()).collect()
}

async fn the_trail_tells_a_users_story(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let tablet = stage.b().login(&phone).await;
    stage.a().patch_profile(&phone.token, &json!({"full_name": "Alice"})).await.expect(200);
    stage.a().end_session(&phone.token, &tablet.sid).await.expect(204);
    stage.b().logout(&laptop.token).await.expect(200);
    let new = new_password();
    stage.a().change_password(&phone.token, &phone.password, &new).await.expect(200);
    let told = own(stage.b(), &phone, "?limit=200").await;
    let mut story = events(&told);
    story.reverse();
    let expected = ["signup", "login", "login", "login", "user_changed", "session", "session", "token", "user_epoch"];
    story.sort();
    let mut sorted = expected.to_vec();
    sorted.sort_unstable();
    assert_eq!(story, sorted, "{told:#?}");
    for entry in entries(&told) {
        assert_eq!((&entry["actor"], &entry["ip"]), (&json!("user"), &json!("127.0.0.1")), "{entry:#}");
        assert_eq!(entry["user_id"], json!(phone.user_id));
    }
    let reasons: Vec<_> =
        entries(&told).iter().filter_map(|entry| Some(entry["reason"].as_str()?.to_owned())).collect();
    for reason in ["revoked", "logged_out", "credentials_changed"] {
        assert!(reasons.iter().any(|said| said == reason), "{reason}: {reasons:?}");
    }
}

async fn everybody_reads_their_own_alone(mode: Mode) {
    let stage = mode.stage().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    let admin = Admin::of(&stage).await;
    admin.get(&format!("/users/{}", alice.user_id)).await.expect(200);
    for _ in 0..4 {
        stage.b().login(&alice).await;
    }
    let all = own(stage.a(), &alice, "").await;
    assert!(entries(&all).iter().all(|entry| entry["user_id"] == json!(alice.user_id)));
    assert!(!all.text.contains(&bob.user_id) && !all.text.contains("operator."), "{all:#?}");
    let mut paged = Vec::new();
    let mut before = String::new();
    loop {
        let page = own(stage.a(), &alice, &format!("?limit=2{before}")).await;
        paged.extend(entries(&page));
        let Some(next) = page["next"].as_u64() else { break };
        before = format!("&before={next}");
    }
    assert_eq!(paged, entries(&all));
    stage.a().get("/api/v1/auth/audit").send().await.is_unauthenticated();
    let wrong = stage.a().get("/api/v1/auth/audit?limit=x").bearer(&alice.token).send().await;
    wrong.is_problem(422, "invalid_field");
    assert_eq!(all.header("cache-control"), "no-store");
}

async fn every_use_of_an_operator_is_written_down(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    let user = format!("/users/{}", alice.user_id);
    admin.get(&user).await.expect(200);
    admin.get(&format!("{user}/sessions")).await.expect(200);
    admin.post(&format!("{user}/disable"), &json!({})).await.expect(200);
    admin.post(&format!("{user}/enable"), &json!({})).await.expect(200);
    admin.delete(&format!("{user}/sessions")).await.expect(200);
    let told = admin.get(&format!("/audit?user_id={}&limit=200", alice.user_id)).await.expect(200);
    for (event, count) in [
        ("operator.user_show", 1),
        ("operator.session_list", 1),
        ("operator.user_disable", 1),
        ("operator.user_enable", 1),
        ("operator.sessions_revoke", 1),
        ("user_enabled", 1),
        ("user_epoch", 2),
    ] {
        let told: Vec<_> = entries(&told).into_iter().filter(|entry| entry["event"] == event).collect();
        assert_eq!(told.len(), count, "{event}");
        for entry in told {
            assert_eq!((&entry["actor"], &entry["ip"]), (&json!("operator"), &json!("127.0.0.1")), "{entry:#}");
            assert!(entry["actor_id"].is_string(), "{entry:#}");
            let named = entry["details"]["by"] == "of the tests";
            assert_eq!(named, event.starts_with("operator."), "{entry:#}");
        }
    }
    let read = admin.get(&format!("/audit?event=operator.audit_read&user_id={}", alice.user_id)).await.expect(200);
    assert_eq!(entries(&read).len(), 2, "reading the trail is a use, too");
}

async fn a_flood_of_failures_is_one_row(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_PASSWORD_QUEUE", "1000").start().await;
    let alice = stage.a().signup().await;
    let guesses = (0..30).map(|_| stage.a().try_login(&alice.email, "wrong but long enough"));
    for answer in futures_util::future::join_all(guesses).await {
        answer.is_problem(401, "invalid_credentials");
    }
    let rows = eventually("the failures are written", async || {
        let told = own(stage.b(), &alice, "?limit=200").await;
        let failures: Vec<_> = entries(&told).into_iter().filter(|entry| entry["event"] == "login_failed").collect();
        let counted: u64 = failures.iter().filter_map(|entry| entry["count"].as_u64()).sum();
        assert!(counted <= 30);
        (counted == 30).then_some(failures.len())
    })
    .await;
    assert!(rows < 20, "{rows} rows for 30 failures");
}

async fn no_secret_is_in_the_trail(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    let wrong = new_password();
    stage.a().try_login(&alice.email, &wrong).await.expect(401);
    stage
        .a()
        .post("/api/v1/admin/revoke")
        .bearer(&admin.key)
        .form(&[("token", &*alice.token)])
        .send()
        .await
        .expect(200);
    let made = admin.post("/keys", &json!({"name": "shown once", "scopes": ["stats:read"]})).await.expect(201);
    eventually("the failure is written", async || {
        let told = admin.get("/audit?limit=200&event=login_failed").await.expect(200);
        told.text.contains(&alice.user_id).then_some(())
    })
    .await;
    let told = admin.get("/audit?limit=200").await.expect(200);
    let signature = alice.token.rsplit('.').next().expect("a signature");
    for secret in [&alice.password, &wrong, &alice.session_id, signature, made.str("key"), &admin.key, &alice.email] {
        assert!(!told.text.contains(secret), "{secret}");
    }
}

async fn counts_name_nobody(mode: Mode) {
    let stage = mode.own().start().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    let phone = stage.a().post("/api/v1/auth/login").header("user-agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0)");
    phone.json(&json!({"email": alice.email, "password": alice.password})).send().await.expect(200);
    let bob = stage.b().signup().await;
    stage.b().logout(&bob.token).await.expect(200);
    let told = admin.get("/stats?days=1").await.expect(200);
    assert_eq!(told["users"], json!({"total": 2, "disabled": 0, "active_day": 2, "active_week": 2}));
    assert_eq!(told["live_sessions"]["ios"], 1);
    let sum = |event: &str, reason: Option<&str>| -> u64 {
        let told = told["events"].as_array().expect("events").iter();
        let told = told.filter(|row| row["event"] == event && row["reason"] == json!(reason));
        told.filter_map(|row| row["count"].as_u64()).sum()
    };
    assert_eq!((sum("login", None), sum("signup", None), sum("session", Some("logged_out"))), (3, 2, 1), "{told:#?}");
    for name in [&alice.email, &alice.user_id, &bob.user_id, &bob.sid, "127.0.0.1"] {
        assert!(!told.text.contains(name));
    }
    admin.get("/stats?days=0").await.is_problem(422, "invalid_field");
}

async fn a_hand_written_change_is_told_as_such(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    stage.database.raise_epoch(&alice.email).await;
    let told = admin.get(&format!("/audit?event=user_epoch&user_id={}", alice.user_id)).await.expect(200);
    let told = entries(&told);
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["actor"], &told[0]["reason"]), (&json!("database"), &json!("revoked")));
}

async fn what_is_past_its_time_is_swept(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    assert!(entries(&own(stage.a(), &alice, "").await).len() >= 2);
    // By the store itself, on the same file: the sweeper of the node comes by once a minute.
    let config = portcullis::store::StoreConfig {
        database_url: None,
        data_dir: stage.gateways[0].data_dir(),
        pool_size: 1,
        acquire_timeout: crate::common::DEADLINE,
        statement_timeout: crate::common::DEADLINE,
    };
    let store = portcullis::store::Store::open(&config).await.expect("the store");
    eventually("the trail is old", async || {
        let swept = store.sweep_operating(std::time::Duration::from_millis(1), 1).await.expect("a sweep");
        assert!(swept <= 1, "bounded batches");
        (swept == 0).then_some(())
    })
    .await;
    assert_eq!(entries(&own(stage.a(), &alice, "").await).len(), 0);
}
