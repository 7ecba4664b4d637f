//! Webhooks: signed, in CAEP's words, at least once, whatever the receiver and the nodes do.

use std::collections::BTreeSet;

use serde_json::json;

use crate::Admin;
use crate::common::people::token_header;
use crate::common::stage::StageBuilder;
use crate::common::{Mode, eventually, stages};
use crate::receiver::{Received, Receiver, SECRET};

stages! {
    both: [
        what_ends_is_told_in_caeps_words,
        an_account_that_is_deleted_is_told_with_its_author,
        a_receiver_that_fails_at_first_is_told_again,
        a_receiver_that_never_takes_it_is_given_up_and_can_be_retried,
        redirects_are_not_followed,
    ],
    cluster: [
        two_nodes_share_the_work_and_a_dead_one_loses_nothing,
        what_ends_at_the_prompt_is_told_too,
    ],
}

const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

fn with(mode: Mode, receiver: &Receiver) -> StageBuilder {
    let stage = mode.own().env("PORTCULLIS_WEBHOOK_URLS", &receiver.url).env("PORTCULLIS_WEBHOOK_SECRET", SECRET);
    stage.env("PORTCULLIS_WEBHOOK_TIMEOUT", "1s").env("PORTCULLIS_ISSUER", "https://issuer.example")
}

fn of_session<'a>(taken: &'a [Received], sid: &str) -> Vec<&'a Received> {
    taken.iter().filter(|request| request.claims["sub_id"]["session"]["id"] == sid).collect()
}

async fn what_ends_is_told_in_caeps_words(mode: Mode) {
    let receiver = Receiver::start(&[]).await;
    let stage = with(mode, &receiver).start().await;
    let admin = Admin::of(&stage).await;
    let phone = stage.a().signup().await;
    let laptop = stage.b().login(&phone).await;
    let tablet = stage.b().login(&phone).await;
    stage.a().logout(&phone.token).await.expect(200);
    // Ends the tablet's session and spares its own.
    stage.a().change_password(&laptop.token, &phone.password, "another long password").await.expect(200);
    admin.post(&format!("/users/{}/disable", phone.user_id), &json!({})).await.expect(200);
    let taken = receiver.taken(3).await;
    for request in &taken {
        let header = token_header(&request.token);
        assert_eq!((&header["typ"], &header["alg"]), (&json!("secevent+jwt"), &json!("EdDSA")));
        let keys = stage.a().get("/.well-known/jwks.json").send().await.expect(200);
        let known = keys["keys"].as_array().expect("keys").iter().any(|key| key["kid"] == header["kid"]);
        assert!(known, "a receiver finds the key in the JWKS");
        assert_eq!(request.claims["iss"], "https://issuer.example");
        let shown = receiver.url.replace("tester:hunter2@", "").replace("?key=secret", "");
        assert_eq!(request.claims["aud"], json!(shown), "without what may be secret");
        assert_eq!(request.claims["jti"], json!(request.id));
        assert_eq!((request.path.as_str(), request.authorization.is_empty()), ("/hook?key=secret", false));
        let subject = &request.claims["sub_id"];
        let user = json!({"format": "iss_sub", "iss": "https://issuer.example", "sub": phone.user_id});
        assert_eq!((&subject["format"], &subject["user"]), (&json!("complex"), &user));
        assert!(request.claims["events"][REVOKED]["event_timestamp"].is_i64());
        stage.a().get("/api/v1/auth/me").bearer(&request.token).send().await.is_bad_token();
    }
    let told = |sid: &str| {
        let told = of_session(&taken, sid);
        assert_eq!(told.len(), 1, "{taken:#?}");
        told[0].claims["events"][REVOKED].clone()
    };
    assert_eq!(
        (&told(&phone.sid)["initiating_entity"], &told(&phone.sid)["reason_admin"]["en"]),
        (&json!("user"), &json!("logged_out"))
    );
    assert_eq!(told(&tablet.sid)["reason_admin"]["en"], "credentials_changed");
    assert!(of_session(&taken, &laptop.sid).is_empty(), "it went on");
    let all: Vec<_> = taken.iter().filter(|request| request.claims["sub_id"].get("session").is_none()).collect();
    assert_eq!(all.len(), 1);
    let all = &all[0].claims["events"][REVOKED];
    assert_eq!((&all["initiating_entity"], &all["reason_admin"]["en"]), (&json!("admin"), &json!("account_disabled")));
    for gateway in &stage.gateways {
        assert!(!gateway.log().contains("hunter2") && !gateway.log().contains("key=secret"));
    }
}

async fn an_account_that_is_deleted_is_told_with_its_author(mode: Mode) {
    let receiver = Receiver::start(&[]).await;
    let stage = with(mode, &receiver).start().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    stage.b().login(&alice).await;
    let body = json!({"current_password": alice.password});
    stage.a().post("/api/v1/auth/delete-account").bearer(&alice.token).json(&body).send().await.expect(200);
    let taken = receiver.taken(1).await;
    let event = &taken[0].claims["events"][REVOKED];
    assert_eq!(taken[0].claims["sub_id"]["user"]["sub"], json!(alice.user_id));
    assert_eq!(taken[0].claims["sub_id"].get("session"), None, "all sessions of the user");
    assert_eq!(event["initiating_entity"], "user", "{event:#}");
    // The trail outlives the account.
    let trail = admin.get(&format!("/audit?user_id={}", alice.user_id)).await.expect(200);
    let entries = trail["entries"].as_array().expect("entries");
    let end = entries.iter().find(|entry| entry["event"] == "user_epoch").expect("its end");
    assert_eq!((&end["actor"], &end["ip"]), (&json!("user"), &json!("127.0.0.1")), "{end:#}");
}

async fn a_receiver_that_fails_at_first_is_told_again(mode: Mode) {
    // The third answer does not come in time.
    let receiver = Receiver::start(&[500, 404, 0]).await;
    let stage = with(mode, &receiver).start().await;
    let alice = stage.a().signup().await;
    stage.a().logout(&alice.token).await.expect(200);
    let taken = receiver.taken(1).await;
    let received = receiver.received();
    assert_eq!(received.iter().map(|request| request.answered).collect::<Vec<_>>(), [500, 404, 0, 202]);
    let ids: BTreeSet<_> = received.iter().map(|request| request.id.clone()).collect();
    assert_eq!(ids.len(), 1, "by its id a receiver knows what it has");
    assert_eq!(of_session(&taken, &alice.sid).len(), 1);
    let left = "SELECT count(*) FROM webhook_outbox";
    eventually("nothing is left", async || (stage.database.number(left).await == 0).then_some(())).await;
}

async fn a_receiver_that_never_takes_it_is_given_up_and_can_be_retried(mode: Mode) {
    let receiver = Receiver::start(&[]).await;
    receiver.always(Some(503));
    let stage = with(mode, &receiver).env("PORTCULLIS_WEBHOOK_GIVE_UP_AFTER", "2s").start().await;
    let admin = Admin::of(&stage).await;
    let alice = stage.a().signup().await;
    stage.a().logout(&alice.token).await.expect(200);
    let waiting = admin.get("/webhooks?waiting=true").await.expect(200);
    assert_eq!(waiting["events"].as_array().expect("events").len(), 1);
    let given_up = eventually("it is given up", async || {
        let listed = admin.get("/webhooks").await.expect(200);
        listed["events"].as_array().expect("events").first().cloned()
    })
    .await;
    assert_eq!((&given_up["sid"], &given_up["last_error"]), (&json!(alice.sid), &json!("answered 503")));
    receiver.always(None);
    let retried = admin.post("/webhooks/retry", &json!({"id": given_up["id"]})).await.expect(200);
    assert_eq!(retried["retried"], 1);
    assert_eq!(of_session(&receiver.taken(1).await, &alice.sid).len(), 1);
    let delivered = "portcullis_webhook_deliveries_total{result=\"delivered\"} 1";
    eventually("it is counted", async || {
        let metrics =
            futures_util::future::join_all(stage.nodes().iter().map(|node| node.get("/metrics").send())).await;
        metrics.iter().any(|answer| answer.text.contains(delivered)).then_some(())
    })
    .await;
}

async fn redirects_are_not_followed(mode: Mode) {
    let receiver = Receiver::start(&[302, 307]).await;
    let stage = with(mode, &receiver).start().await;
    let alice = stage.a().signup().await;
    stage.a().logout(&alice.token).await.expect(200);
    receiver.taken(1).await;
    assert!(receiver.received().iter().all(|request| request.path.starts_with("/hook")));
}

async fn two_nodes_share_the_work_and_a_dead_one_loses_nothing(mode: Mode) {
    // The first requests hang until the node that sent them is dead.
    let receiver = Receiver::start(&[0; 8]).await;
    let stage = with(mode, &receiver).start().await;
    let mut sids = BTreeSet::new();
    for _ in 0..20 {
        let somebody = stage.b().signup().await;
        stage.b().logout(&somebody.token).await.expect(200);
        sids.insert(somebody.sid);
    }
    eventually("a delivery is under way", async || (!receiver.received().is_empty()).then_some(())).await;
    stage.gateways[0].kill();
    let told = eventually("everything is told", async || {
        let taken: Vec<_> = receiver.received().into_iter().filter(|request| request.answered == 202).collect();
        let told: BTreeSet<_> = taken
            .iter()
            .filter_map(|request| Some(request.claims["sub_id"]["session"]["id"].as_str()?.to_owned()))
            .collect();
        (told.len() == sids.len()).then_some(told)
    })
    .await;
    assert_eq!(told, sids);
}

async fn what_ends_at_the_prompt_is_told_too(mode: Mode) {
    let receiver = Receiver::start(&[]).await;
    let stage = with(mode, &receiver).start().await;
    let alice = stage.a().signup().await;
    stage.gateways[0].run(&["session", "revoke", &alice.sid]).await.well();
    let taken = receiver.taken(1).await;
    let told = &of_session(&taken, &alice.sid)[0].claims["events"][REVOKED];
    assert_eq!((&told["initiating_entity"], &told["reason_admin"]["en"]), (&json!("admin"), &json!("revoked")));
}
