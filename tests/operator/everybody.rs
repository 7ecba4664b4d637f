//! The end of everybody's sessions, in batches that name sessions and compare no times on any node.

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::common::{Mode, Stage, stages};
use crate::{Admin, all_forced, refused, sockets};

stages! {
    both: [
        everybody_is_out_and_the_next_login_is_spared,
        only_what_began_before_is_ended,
        a_time_to_come_is_refused,
    ],
    cluster: [everybody_is_out_without_redis],
}

/// Calls until nothing is left, as the answer says; how many sessions ended.
async fn end_everybody(admin: &Admin<'_>, created_before: Option<&str>) -> u64 {
    let mut body = json!({ "created_before": created_before });
    let mut ended = 0;
    for _ in 0..20 {
        let answer = admin.post("/sessions/revoke", &body).await.expect(200);
        ended += answer["sessions_revoked"].as_u64().expect("a count");
        if answer["complete"] == true {
            return ended;
        }
        body = json!({ "created_before": answer["created_before"] });
    }
    panic!("everybody's sessions do not come to an end");
}

async fn out(stage: &Stage, without_redis: bool) {
    let admin = Admin::of(stage).await;
    let alice = stage.a().signup().await;
    let bob = stage.b().signup().await;
    let laptop = stage.b().login(&bob).await;
    let mut ending = sockets(stage, &alice).await;
    ending.extend(sockets(stage, &bob).await);
    ending.extend(sockets(stage, &laptop).await);
    if without_redis {
        stage.redis().kill();
    }
    assert_eq!(end_everybody(&admin, None).await, 3);
    all_forced(&mut ending, 4502, "session revoked").await;
    for login in [&alice, &bob, &laptop] {
        refused(stage, login).await;
    }
    let anew = stage.a().login(&bob).await;
    for node in stage.nodes() {
        node.me(&anew.token).await.expect(200);
        node.connect(&anew.token).await.expect_open().await;
    }
    let entries = "SELECT count(*) FROM revocations WHERE kind IN ('session', 'sessions', 'user_epoch')";
    assert_eq!(stage.database.number(entries).await, 1, "one entry for the whole batch");
    assert_eq!(stage.database.number("SELECT count(*) FROM audit WHERE event = 'session'").await, 3);
}

async fn everybody_is_out_and_the_next_login_is_spared(mode: Mode) {
    out(&mode.own().start().await, false).await;
}

async fn everybody_is_out_without_redis(mode: Mode) {
    out(&mode.own().start().await, true).await;
}

async fn only_what_began_before_is_ended(mode: Mode) {
    let stage = mode.own().start().await;
    let admin = Admin::of(&stage).await;
    let old = stage.a().signup().await;
    // The beginning of the second session, as the database has it, is the time.
    let new = stage.b().login(&old).await;
    let shown = admin.get(&format!("/sessions/{}", new.sid)).await.expect(200);
    let mut ending = sockets(&stage, &old).await;
    let mut spared = sockets(&stage, &new).await;
    assert_eq!(end_everybody(&admin, Some(shown.str("created_at"))).await, 1);
    all_forced(&mut ending, 4502, "session revoked").await;
    refused(&stage, &old).await;
    for socket in &mut spared {
        socket.expect_open().await;
    }
    for node in stage.nodes() {
        node.validate(&new.session_id).await.expect(200);
    }
}

async fn a_time_to_come_is_refused(mode: Mode) {
    let stage = mode.stage().await;
    let admin = Admin::of(&stage).await;
    let tomorrow = (OffsetDateTime::now_utc() + time::Duration::days(1)).format(&Rfc3339).expect("a time");
    let answer = admin.post("/sessions/revoke", &json!({"created_before": tomorrow})).await;
    answer.is_problem(422, "invalid_field");
    admin.post("/sessions/revoke", &json!({"created_before": "yesterday"})).await.problem(&[422]);
}
