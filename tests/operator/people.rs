//! Accounts and sessions of anybody, as an operator finds and ends them; seen on sockets of every node.

use serde_json::json;

use crate::common::people::new_email;
use crate::common::{Mode, eventually, stages};
use crate::{Admin, all_forced, refused, sockets};

stages! {
    both: [
        accounts_are_found_by_address_prefix_and_id,
        a_disabled_account_is_thrown_out_everywhere,
        an_enabled_account_logs_in_again_and_nothing_comes_back,
        all_sessions_of_a_user_are_ended,
        one_session_is_ended_and_the_others_spared,
    ],
    cluster: [a_disabled_account_is_thrown_out_without_redis],
}

async fn accounts_are_found_by_address_prefix_and_id(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let prefix = format!("find-{}", uuid::Uuid::new_v4().simple());
    let mut ids = Vec::new();
    for number in 0..5 {
        let email = format!("{prefix}-{number}@Example.test");
        let body = json!({"email": email, "password": "a very long password"});
        let answer = stage.a().post("/api/v1/auth/signup").json(&body).send().await.expect(201);
        ids.push(answer["user"]["id"].as_str().expect("an id").to_owned());
    }
    let found = |answer: &crate::Answer| -> Vec<String> {
        let users = answer["users"].as_array().expect("users");
        users.iter().map(|user| user["id"].as_str().expect("an id").to_owned()).collect()
    };
    let one = admin.post("/users/search", &json!({"email": format!("{}-3@EXAMPLE.TEST", prefix.to_uppercase())})).await;
    assert_eq!(found(&one.expect(200)), [ids[3].clone()]);
    let mut paged = Vec::new();
    let mut after = serde_json::Value::Null;
    loop {
        let page =
            admin.post("/users/search", &json!({"prefix": prefix, "limit": 2, "after": after})).await.expect(200);
        paged.extend(found(&page));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(paged, ids, "in the order of the addresses, each once");
    let shown = admin.get(&format!("/users/{}", ids[0])).await.expect(200);
    assert_eq!((&shown["live_sessions"], &shown["disabled_at"]), (&json!(1), &json!(null)));
    assert_eq!(found(&admin.post("/users/search", &json!({"id": ids[1]})).await.expect(200)), [ids[1].clone()]);
    assert!(!shown.text.contains("argon2"), "a password's hash is nobody's business");
    assert_eq!(found(&admin.post("/users/search", &json!({"email": new_email()})).await.expect(200)).len(), 0);
    admin.post("/users/search", &json!({"id": ids[1], "prefix": "x"})).await.is_problem(422, "invalid_body");
    admin.post("/users/search", &json!({"limit": 0})).await.is_problem(422, "invalid_field");
    // What a LIKE would take for a pattern is text.
    assert_eq!(found(&admin.post("/users/search", &json!({"prefix": "find_%"})).await.expect(200)).len(), 0);
    for unknown in ["00000000-0000-4000-8000-000000000000", "x", "%00"] {
        admin.get(&format!("/users/{unknown}")).await.problem(&[404]);
    }
}

async fn a_disabled_account_is_thrown_out_everywhere(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let bob = stage.b().signup().await;
    let mut ending = sockets(&stage, &phone).await;
    ending.extend(sockets(&stage, &laptop).await);
    let mut spared = sockets(&stage, &bob).await;
    let answer = admin.post(&format!("/users/{}/disable", phone.user_id), &json!({})).await.expect(200);
    assert_eq!(answer["sessions_revoked"], 2);
    all_forced(&mut ending, 4503, "account disabled").await;
    refused(&stage, &phone).await;
    refused(&stage, &laptop).await;
    stage.b().try_login(&phone.email, &phone.password).await.is_problem(403, "account_disabled");
    for socket in &mut spared {
        socket.expect_open().await;
    }
    let again = admin.post(&format!("/users/{}/disable", phone.user_id), &json!({})).await.expect(200);
    assert_eq!(again["sessions_revoked"], 0);
    let nobody = "/users/00000000-0000-4000-8000-000000000000/disable";
    admin.post(nobody, &json!({})).await.is_problem(404, "no_such_user");
}

async fn an_enabled_account_logs_in_again_and_nothing_comes_back(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    admin.post(&format!("/users/{}/disable", alice.user_id), &json!({})).await.expect(200);
    admin.post(&format!("/users/{}/enable", alice.user_id), &json!({})).await.expect(200);
    refused(&stage, &alice).await;
    let anew = eventually("the account logs in", async || {
        let answer = stage.b().try_login(&alice.email, &alice.password).await;
        (answer.status == 200).then(|| crate::Login::read(&answer, &alice.email, &alice.password))
    })
    .await;
    for node in stage.nodes() {
        node.me(&anew.token).await.expect(200);
    }
}

async fn all_sessions_of_a_user_are_ended(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let mut ending = sockets(&stage, &phone).await;
    ending.extend(sockets(&stage, &laptop).await);
    let path = format!("/users/{}/sessions", phone.user_id);
    assert_eq!(admin.get(&path).await.expect(200)["sessions"].as_array().expect("sessions").len(), 2);
    assert_eq!(admin.delete(&path).await.expect(200)["sessions_revoked"], 2);
    all_forced(&mut ending, 4502, "session revoked").await;
    refused(&stage, &phone).await;
    let states = admin.get(&path).await.expect(200);
    let states = states["sessions"].as_array().expect("sessions").iter().map(|session| session["state"].clone());
    assert_eq!(states.collect::<Vec<_>>(), ["revoked", "revoked"]);
    let anew = stage.a().login(&phone).await;
    stage.b().me(&anew.token).await.expect(200);
    admin.delete("/users/00000000-0000-4000-8000-000000000000/sessions").await.is_problem(404, "no_such_user");
}

async fn one_session_is_ended_and_the_others_spared(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let mut ending = sockets(&stage, &phone).await;
    let mut spared = sockets(&stage, &laptop).await;
    let path = format!("/sessions/{}", phone.sid);
    assert_eq!(admin.get(&path).await.expect(200)["state"], "live");
    admin.delete(&path).await.expect(204);
    all_forced(&mut ending, 4502, "session revoked").await;
    refused(&stage, &phone).await;
    for socket in &mut spared {
        socket.expect_open().await;
    }
    admin.delete(&path).await.expect(204);
    assert_eq!(admin.get(&path).await.expect(200)["state"], "revoked");
    for unknown in ["/sessions/00000000-0000-4000-8000-000000000000", "/sessions/x"] {
        admin.delete(unknown).await.problem(&[404]);
        admin.get(unknown).await.problem(&[404]);
    }
}

async fn a_disabled_account_is_thrown_out_without_redis(mode: Mode) {
    let stage = mode.own().start().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    stage.redis().kill();
    admin.post(&format!("/users/{}/disable", alice.user_id), &json!({})).await.expect(200);
    all_forced(&mut ending, 4503, "account disabled").await;
    refused(&stage, &alice).await;
}
