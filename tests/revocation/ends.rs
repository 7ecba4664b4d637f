//! Every way to end a credential, seen on sockets and over HTTP on every node; and who is spared.

use std::time::Instant;

use serde_json::json;

use crate::common::people::new_password;
use crate::common::{DEADLINE, Mode, stages};
use crate::{accepted_everywhere, all_forced, all_open, refused_everywhere, sockets};

stages! {
    both: [
        a_logout_ends_its_session_alone,
        a_logout_by_the_secret_ends_the_session,
        a_logout_everywhere_ends_every_session_and_spares_the_next,
        one_session_is_ended_from_another,
        ending_ones_own_session_is_a_logout,
        a_new_password_ends_all_but_its_own_session,
        an_operator_disables_a_user_by_hand,
        an_operator_raises_the_epoch_by_hand,
        every_kind_of_socket_is_closed,
        a_kill_is_final_and_no_refresh_undoes_it,
        the_login_with_the_old_password_does_not_survive_its_change,
        refresh_and_logout_crossing_leave_nothing_behind,
        many_sockets_are_all_closed,
        prefer_wait_counts_sockets_and_nodes,
    ],
}

async fn a_logout_ends_its_session_alone(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let mut ending = sockets(&stage, &phone).await;
    let mut spared = sockets(&stage, &laptop).await;
    stage.a().logout(&phone.token).await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4500, "logged out").await;
    refused_everywhere(&stage, &phone, answered).await;
    all_open(&mut spared).await;
    accepted_everywhere(&stage, &laptop).await;
}

async fn a_logout_by_the_secret_ends_the_session(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    let body = json!({"session_id": alice.session_id});
    stage.a().post("/api/v1/auth/logout").json(&body).send().await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4500, "logged out").await;
    refused_everywhere(&stage, &alice, answered).await;
}

async fn a_logout_everywhere_ends_every_session_and_spares_the_next(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let bob = stage.b().signup().await;
    let mut ending = sockets(&stage, &phone).await;
    ending.extend(sockets(&stage, &laptop).await);
    let mut bystanders = sockets(&stage, &bob).await;
    let answer = stage.a().logout_all(&phone.token).await.expect(200);
    let answered = Instant::now();
    assert_eq!(answer.json, json!({"sessions_revoked": 2}));
    // Logged in again while the news may still be on its way.
    let next = stage.b().login(&phone).await;
    let mut next_sockets = sockets(&stage, &next).await;
    all_forced(&mut ending, 4501, "logged out everywhere").await;
    refused_everywhere(&stage, &phone, answered).await;
    refused_everywhere(&stage, &laptop, answered).await;
    all_open(&mut next_sockets).await;
    accepted_everywhere(&stage, &next).await;
    all_open(&mut bystanders).await;
    accepted_everywhere(&stage, &bob).await;
}

async fn one_session_is_ended_from_another(mode: Mode) {
    let stage = mode.stage().await;
    let laptop = stage.a().signup().await;
    let phone = stage.b().login(&laptop).await;
    let mut ending = sockets(&stage, &phone).await;
    let mut spared = sockets(&stage, &laptop).await;
    stage.a().end_session(&laptop.token, &phone.sid).await.expect(204);
    let answered = Instant::now();
    all_forced(&mut ending, 4502, "session revoked").await;
    refused_everywhere(&stage, &phone, answered).await;
    all_open(&mut spared).await;
    accepted_everywhere(&stage, &laptop).await;
}

async fn ending_ones_own_session_is_a_logout(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    stage.b().end_session(&alice.token, &alice.sid).await.expect(204);
    let answered = Instant::now();
    all_forced(&mut ending, 4500, "logged out").await;
    refused_everywhere(&stage, &alice, answered).await;
}

async fn a_new_password_ends_all_but_its_own_session(mode: Mode) {
    let stage = mode.stage().await;
    let own = stage.a().signup().await;
    let others = [stage.a().login(&own).await, stage.b().login(&own).await];
    let mut spared = sockets(&stage, &own).await;
    let mut ending = sockets(&stage, &others[0]).await;
    ending.extend(sockets(&stage, &others[1]).await);
    let new = new_password();
    stage.a().change_password(&own.token, &own.password, &new).await.expect(200);
    let answered = Instant::now();
    all_forced(&mut ending, 4504, "credentials changed").await;
    for other in &others {
        refused_everywhere(&stage, other, answered).await;
    }
    for node in stage.nodes() {
        node.try_login(&own.email, &own.password).await.is_problem(401, "invalid_credentials");
        node.try_login(&own.email, &new).await.expect(200);
    }
    all_open(&mut spared).await;
    accepted_everywhere(&stage, &own).await;
}

async fn an_operator_disables_a_user_by_hand(mode: Mode) {
    let stage = mode.stage().await;
    let (alice, bob) = (stage.a().signup().await, stage.a().signup().await);
    let mut ending = sockets(&stage, &alice).await;
    let mut bystanders = sockets(&stage, &bob).await;
    stage.database.disable(&alice.email).await;
    let answered = Instant::now();
    all_forced(&mut ending, 4503, "account disabled").await;
    refused_everywhere(&stage, &alice, answered).await;
    for node in stage.nodes() {
        node.try_login(&alice.email, &alice.password).await.is_problem(403, "account_disabled");
    }
    all_open(&mut bystanders).await;
}

async fn an_operator_raises_the_epoch_by_hand(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut ending = sockets(&stage, &alice).await;
    stage.database.raise_epoch(&alice.email).await;
    let answered = Instant::now();
    for socket in &mut ending {
        let (code, reason, goodbye) = socket.closed().await;
        // An operator gave no reason; either is fair.
        assert!([4501, 4502].contains(&code), "{code} {reason}");
        assert_eq!(goodbye, Some(json!({"code": code, "reason": reason, "reconnect": false})));
    }
    refused_everywhere(&stage, &alice, answered).await;
    let next = stage.b().login(&alice).await;
    accepted_everywhere(&stage, &next).await;
}

async fn every_kind_of_socket_is_closed(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_COOKIES", "on").start().await;
    let alice = stage.a().signup().await;
    let ticket = stage.a().ticket(&alice.token, None).await;
    let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
    let node = stage.b();
    let mut ending = vec![
        node.socket().bearer(&alice.token).open().await,
        node.socket().subprotocols(&offered).open().await,
        node.socket().ticket(&ticket).open().await,
        node.socket().cookie(&alice.session_id).origin(&node.url).open().await,
        node.connect(&alice.token).await,
    ];
    stage.a().logout_all(&alice.token).await.expect(200);
    all_forced(&mut ending, 4501, "logged out everywhere").await;
}

async fn a_kill_is_final_and_no_refresh_undoes_it(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let spare = stage.a().validate(&alice.session_id).await.expect(200).str("access_token").to_owned();
    let mut socket = stage.b().connect(&alice.token).await;
    stage.a().logout(&alice.token).await.expect(200);
    let answered = Instant::now();
    // The refresh races the news on the other node; whoever is first, the socket ends as logged out.
    socket.send_command(json!({"refresh": {"token": spare}})).await;
    let (code, reason, _) = socket.closed().await;
    assert_eq!((code, reason.as_str()), (4500, "logged out"));
    refused_everywhere(&stage, &alice.with_token(&spare), answered).await;
}

async fn the_login_with_the_old_password_does_not_survive_its_change(mode: Mode) {
    let stage = mode.stage().await;
    for _ in 0..3 {
        let alice = stage.a().signup().await;
        // Several logins wait for their hash while the password changes under them.
        let waiting: Vec<_> = (0..6)
            .map(|n| {
                let (node, alice) = (stage.nodes()[n % stage.nodes().len()].clone(), alice.clone());
                tokio::spawn(async move { node.try_login(&alice.email, &alice.password).await })
            })
            .collect();
        let new = new_password();
        stage.a().change_password(&alice.token, &alice.password, &new).await.expect(200);
        let answered = Instant::now();
        for login in waiting {
            let login = login.await.expect("an answer");
            match login.status {
                200 => {
                    let stale = crate::common::Login::read(&login, &alice.email, &alice.password);
                    refused_everywhere(&stage, &stale, answered).await;
                }
                503 => {}
                _ => login.is_problem(401, "invalid_credentials"),
            }
        }
        accepted_everywhere(&stage, &alice).await;
    }
}

async fn refresh_and_logout_crossing_leave_nothing_behind(mode: Mode) {
    let stage = mode.stage().await;
    for _ in 0..5 {
        let alice = stage.a().signup().await;
        accepted_everywhere(&stage, &alice).await;
        let renewals: Vec<_> = (0..8)
            .map(|n| {
                let (node, secret) = (stage.nodes()[n % stage.nodes().len()].clone(), alice.session_id.clone());
                tokio::spawn(async move { node.validate(&secret).await })
            })
            .collect();
        stage.a().logout(&alice.token).await.expect(200);
        let answered = Instant::now();
        for renewal in renewals {
            let renewal = renewal.await.expect("an answer");
            if renewal.status == 200 {
                let token = renewal.str("access_token");
                refused_everywhere(&stage, &alice.with_token(token), answered).await;
            }
        }
        refused_everywhere(&stage, &alice, answered).await;
    }
}

async fn many_sockets_are_all_closed(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut ending = Vec::new();
    for _ in 0..15 {
        ending.extend(sockets(&stage, &alice).await);
    }
    stage.a().logout_all(&alice.token).await.expect(200);
    all_forced(&mut ending, 4501, "logged out everywhere").await;
}

async fn prefer_wait_counts_sockets_and_nodes(mode: Mode) {
    let stage = mode.stage().await;
    let nodes = stage.nodes().len();
    let started = Instant::now();
    loop {
        let alice = stage.a().signup().await;
        let mut ending = sockets(&stage, &alice).await;
        let call = stage.a().post("/api/v1/auth/logout-all-devices").bearer(&alice.token).header("prefer", "wait=5");
        let answer = call.send().await.expect(200);
        assert_eq!(answer["sessions_revoked"], 1);
        all_forced(&mut ending, 4501, "logged out everywhere").await;
        // Nodes that started a moment ago may not know each other yet.
        if answer["nodes_live"] == nodes {
            assert_eq!(answer["nodes_confirmed"], nodes, "{answer:#?}");
            assert_eq!(answer["sockets_closed"], nodes, "one a node: {answer:#?}");
            return;
        }
        assert!(started.elapsed() < DEADLINE, "the nodes do not find each other: {answer:#?}");
    }
}
