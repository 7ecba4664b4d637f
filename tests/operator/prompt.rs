//! The subcommands, run as processes beside living nodes: what they write reaches every node through the log.

use serde_json::json;

use crate::common::people::{claims, new_email};
use crate::common::{Mode, eventually, stages};
use crate::{all_forced, refused, sockets};

stages! {
    both: [
        disabling_at_the_prompt_throws_out_everywhere,
        sessions_are_listed_and_ended_at_the_prompt,
        a_token_is_revoked_at_the_prompt,
        everybody_is_ended_at_the_prompt,
        people_are_found_at_the_prompt,
        keys_are_made_and_ended_at_the_prompt,
        mistakes_are_told_with_an_exit_code,
        the_prompt_is_audited,
    ],
    cluster: [what_is_done_at_the_prompt_is_seen_without_redis],
}

async fn disabling_at_the_prompt_throws_out_everywhere(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    let said = stage.gateways[0].run(&["user", "disable", &alice.email.to_uppercase()]).await.well();
    assert!(said.stdout.contains("1 live sessions ended"), "{said:#?}");
    all_forced(&mut ending, 4503, "account disabled").await;
    refused(&stage, &alice).await;
    stage.b().try_login(&alice.email, &alice.password).await.is_problem(403, "account_disabled");
    stage.gateways[0].run(&["user", "disable", &alice.user_id]).await.well();
    let said = stage.gateways[0].run(&["user", "enable", &alice.user_id, "--json"]).await.well();
    assert_eq!(said.json(), json!({"id": alice.user_id, "disabled": false, "sessions_revoked": 0}));
    stage.b().login(&alice).await;
}

async fn what_is_done_at_the_prompt_is_seen_without_redis(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    stage.redis().kill();
    stage.gateways[0].run(&["user", "disable", &alice.user_id]).await.well();
    all_forced(&mut ending, 4503, "account disabled").await;
    refused(&stage, &alice).await;
}

async fn sessions_are_listed_and_ended_at_the_prompt(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let gateway = &stage.gateways[0];
    let listed = gateway.run(&["session", "list", &phone.email, "--json"]).await.well().json();
    assert_eq!(listed["sessions"].as_array().expect("sessions").len(), 2);
    let mut ending = sockets(&stage, &phone).await;
    let mut spared = sockets(&stage, &laptop).await;
    gateway.run(&["session", "revoke", &phone.sid]).await.well();
    all_forced(&mut ending, 4502, "session revoked").await;
    refused(&stage, &phone).await;
    for socket in &mut spared {
        socket.expect_open().await;
    }
    let shown = gateway.run(&["session", "show", &phone.sid]).await.well();
    assert!(shown.stdout.contains("revoked") && shown.stdout.contains(&phone.user_id), "{shown:#?}");
    let said = gateway.run(&["session", "revoke", "--user", &phone.email, "--json"]).await.well();
    assert_eq!(said.json(), json!({"sessions_revoked": 1}));
    all_forced(&mut spared, 4502, "session revoked").await;
    refused(&stage, &laptop).await;
}

async fn a_token_is_revoked_at_the_prompt(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let jti = claims(&alice.token)["jti"].as_str().expect("a jti").to_owned();
    stage.gateways[0].run(&["token", "revoke", &jti, "--session", &alice.sid]).await.well();
    for node in stage.nodes() {
        eventually("the token is refused", async || (node.me(&alice.token).await.status == 401).then_some(())).await;
        node.validate(&alice.session_id).await.expect(200);
    }
}

async fn everybody_is_ended_at_the_prompt(mode: Mode) {
    let stage = mode.own().start().await;
    let (alice, bob) = (stage.a().signup().await, stage.b().signup().await);
    let mut ending = sockets(&stage, &alice).await;
    ending.extend(sockets(&stage, &bob).await);
    assert_eq!(stage.gateways[0].run(&["revoke"]).await.code, Some(2), "everybody must be asked for");
    let said = stage.gateways[0].run(&["revoke", "--all", "--created-before", "1h", "--json"]).await.well();
    assert_eq!(said.json()["sessions_revoked"], 0, "nobody has been here for an hour");
    let said = stage.gateways[0].run(&["revoke", "--all", "--json"]).await.well();
    assert_eq!((&said.json()["sessions_revoked"], &said.json()["complete"]), (&json!(2), &json!(true)));
    all_forced(&mut ending, 4502, "session revoked").await;
    refused(&stage, &alice).await;
    refused(&stage, &bob).await;
    stage.a().login(&alice).await;
}

async fn people_are_found_at_the_prompt(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let gateway = &stage.gateways[0];
    for arguments in [["--email", &alice.email], ["--prefix", &alice.email[..20]]] {
        let found = gateway.run(&[&["user", "find", "--json"], &arguments[..]].concat()).await.well().json();
        assert_eq!(found["users"][0]["id"], json!(alice.user_id));
    }
    let shown = gateway.run(&["user", "show", &alice.email]).await.well();
    assert!(shown.stdout.contains(&alice.user_id) && shown.stdout.contains("enabled"), "{shown:#?}");
    let counted = gateway.run(&["counts", "--days", "1", "--json"]).await.well().json();
    assert!(counted["users"]["total"].as_u64().expect("a count") >= 1);
    assert!(gateway.run(&["counts"]).await.well().stdout.contains("signup"));
    gateway.run(&["webhook", "list"]).await.well();
}

async fn keys_are_made_and_ended_at_the_prompt(mode: Mode) {
    let stage = mode.stage().await;
    let gateway = &stage.gateways[0];
    let create = ["admin-key", "create", "--name", "ops", "--scope", "stats:read", "--scope", "audit:read"];
    let made = gateway.run(&create).await.well();
    let key = made.stdout.trim();
    assert!(key.starts_with("portcullis_admin_") && !made.stderr.contains(key), "the key alone is on stdout");
    let ask = |key: &str| stage.b().get("/api/v1/admin/stats").bearer(key).send();
    ask(key).await.expect(200);
    let listed = gateway.run(&["admin-key", "list", "--json"]).await.well();
    assert!(!listed.stdout.contains(key));
    let id = made.stderr.split_whitespace().nth(1).expect("an id").to_owned();
    let next = gateway.run(&["admin-key", "rotate", &id, "--overlap", "0s"]).await.well();
    eventually("the old key ends", async || (ask(key).await.status == 401).then_some(())).await;
    ask(next.stdout.trim()).await.expect(200);
    let next_id = next.stderr.split_whitespace().nth(1).expect("an id").to_owned();
    gateway.run(&["admin-key", "revoke", &next_id]).await.well();
    eventually("the key ends", async || (ask(next.stdout.trim()).await.status == 401).then_some(())).await;
    assert_eq!(gateway.run(&["admin-key", "revoke", &next_id]).await.code, Some(3));
}

async fn mistakes_are_told_with_an_exit_code(mode: Mode) {
    let stage = mode.stage().await;
    let gateway = &stage.gateways[0];
    let nobody = "00000000-0000-4000-8000-000000000000";
    for arguments in [
        &["user", "show", &new_email()][..],
        &["user", "disable", nobody],
        &["session", "list", nobody],
        &["session", "revoke", nobody],
        &["session", "revoke", "--user", nobody],
        &["token", "revoke", nobody, "--session", nobody],
    ] {
        let said = gateway.run(arguments).await;
        assert_eq!(said.code, Some(3), "{arguments:?}: {said:#?}");
        assert!(said.stderr.contains("there is no such"), "{said:#?}");
    }
    for arguments in [
        &["user"][..],
        &["session", "show", "x"],
        &["token", "revoke", nobody],
        &["revoke", "--all", "--created-before", "yesterday"],
        &["revoke", "--all", "--created-before", "2999-01-01T00:00:00Z"],
        &["admin-key", "create", "--name", "x", "--scope", "everything"],
    ] {
        let said = gateway.run(arguments).await;
        assert_eq!(said.code, Some(2), "{arguments:?}: {said:#?}");
    }
    let elsewhere = gateway.run(&["user", "find", "--data-dir", "nowhere"]).await;
    assert_eq!(elsewhere.code, Some(if mode == Mode::Embedded { 1 } else { 0 }), "{elsewhere:#?}");
}

async fn the_prompt_is_audited(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.gateways[0].run(&["user", "disable", &alice.user_id]).await.well();
    let said = stage.gateways[0].run(&["audit", "--user", &alice.user_id, "--json"]).await.well().json();
    let told = said["entries"].as_array().expect("entries");
    let by_prompt: Vec<_> = told.iter().filter(|entry| entry["actor"] == "operator").collect();
    let events: Vec<_> = by_prompt.iter().map(|entry| entry["event"].as_str().expect("an event")).collect();
    assert!(events.contains(&"operator.user_disable") && events.contains(&"user_epoch"), "{told:#?}");
    assert!(by_prompt.iter().all(|entry| entry["actor_id"].is_null()));
    let read = stage.gateways[0].run(&["audit", "--user", &alice.email]).await.well();
    assert!(read.stdout.contains("command line"), "{read:#?}");
}
