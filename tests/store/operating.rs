use std::collections::HashSet;
use std::time::Duration;

use portcullis::entry::{EndReason, Scope};
use portcullis::ids::Sid;
use portcullis::store::attribution::{Action, Actor, Attribution, attributed};
use portcullis::store::{AuditQuery, OutboxEvent, StoreError};

use crate::database::HOUR;
use crate::on_each;

fn acting() -> Attribution {
    let action = Action { event: "operator.test", user_id: None, sid: None, details: None };
    let ip = Some("2001:db8::1".parse().expect("an address"));
    Attribution { actor: Actor::Operator(None), ip, action: Some(action) }
}

on_each! {
    async fn everybody_is_ended_in_bounded_batches_with_one_entry_each(database) {
        let mut sids = HashSet::new();
        for _ in 0..3 {
            let user = database.user().await;
            for _ in 0..3 {
                sids.insert(database.session(user).await.session.sid);
            }
        }
        let before = database.store.remaining_before(time::OffsetDateTime::UNIX_EPOCH).await.unwrap().now + HOUR;
        let logged = database.log().await.len();
        let (mut after, mut batches, mut named) = (None, Vec::new(), HashSet::<Sid>::new());
        loop {
            let ended = database.store.end_sessions_before(before, after, 4).await.unwrap();
            for entry in &ended.revoked.entries {
                let Scope::Sessions { sessions, reason: EndReason::Revoked } = &entry.scope else { panic!("{entry:?}") };
                named.extend(sessions.iter().map(|(sid, _)| *sid));
            }
            if ended.last.is_none() {
                break;
            }
            after = ended.last;
            batches.push(ended.revoked.sessions);
        }
        assert_eq!(batches, [4, 4, 1]);
        assert_eq!(named, sids);
        assert_eq!(database.log().await.len(), logged + 3, "one entry for a batch");
        assert!(!database.store.remaining_before(before).await.unwrap().any);
        let sids: Vec<_> = sids.into_iter().collect();
        let read = database.store.load_sessions(&sids).await.unwrap().value;
        assert!(read.iter().all(|session| session.ended == Some(EndReason::Revoked)));
    }

    async fn an_action_is_written_with_what_it_does_or_not_at_all(database) {
        let user = database.user().await;
        database.session(user).await;
        attributed(acting(), database.store.end_all_sessions(user, EndReason::Revoked, false)).await.unwrap();
        let told = database.store.audit_page(AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap();
        let by_operator: Vec<_> = told.iter().filter(|entry| entry.actor == "operator").collect();
        let mut events: Vec<_> = by_operator.iter().map(|entry| entry.event.as_str()).collect();
        events.sort_unstable();
        assert_eq!(events, ["operator.test", "user_epoch"]);
        assert!(by_operator.iter().all(|entry| entry.ip == acting().ip));
        // Without the trail nothing is done.
        database.run("ALTER TABLE audit RENAME TO away").await;
        let done = attributed(acting(), database.store.end_all_sessions(user, EndReason::Revoked, false)).await;
        assert!(matches!(done, Err(StoreError::Corrupt(_) | StoreError::Unavailable(_))));
        database.run("ALTER TABLE away RENAME TO audit").await;
        let epochs = database.store.load_users(&[user]).await.unwrap().value[0].auth_epoch;
        assert_eq!(epochs, 2);
    }

    async fn nobody_inherits_an_attribution(database) {
        let user = database.user().await;
        database.session(user).await;
        attributed(acting(), database.store.end_all_sessions(user, EndReason::Revoked, false)).await.unwrap();
        database.session(user).await;
        database.store.end_all_sessions(user, EndReason::LoggedOutEverywhere, false).await.unwrap();
        let query = AuditQuery { event: Some("user_epoch".into()), limit: 10, ..AuditQuery::default() };
        let told = database.store.audit_page(query).await.unwrap();
        let told: Vec<_> = told.iter().map(|entry| (entry.actor.as_str(), entry.ip)).collect();
        assert_eq!(told, [("user", None), ("operator", acting().ip)]);
    }

    async fn an_event_is_one_nodes_until_its_lease_is_over(database) {
        database.store.register_targets(&["here".into()]).await.unwrap();
        let user = database.user().await;
        for _ in 0..3 {
            let sid = database.session(user).await.session.sid;
            database.store.end_session(sid, user, EndReason::LoggedOut, None).await.unwrap();
        }
        let first = database.store.claim_events("here", HOUR, 2).await.unwrap();
        let second = database.store.claim_events("here", HOUR, 2).await.unwrap();
        let ids = |events: &[OutboxEvent]| events.iter().map(|event| event.id).collect::<HashSet<_>>();
        assert_eq!((first.len(), second.len()), (2, 1));
        assert!(ids(&first).is_disjoint(&ids(&second)));
        assert!(database.store.claim_events("here", HOUR, 2).await.unwrap().is_empty());
        assert!(database.store.claim_events("elsewhere", HOUR, 2).await.unwrap().is_empty());
        // The node died: the lease ran out.
        database.run(format!("UPDATE webhook_outbox SET leased_until = {}", database.moment(-1))).await;
        let again = database.store.claim_events("here", HOUR, 9).await.unwrap();
        assert_eq!(again.len(), 3);
        assert!(again.iter().all(|event| event.attempts == 2));
        // The dead node comes back and tells of a failure: it is its event no more.
        assert!(!database.store.event_failed(&first[0], "late", HOUR, Duration::ZERO).await.unwrap());
        assert_eq!(database.number("SELECT count(*) FROM webhook_outbox WHERE last_error = 'late'").await, 0);
        for event in &again {
            database.store.event_delivered(event.id).await.unwrap();
        }
        assert_eq!(database.number("SELECT count(*) FROM webhook_outbox").await, 0);
    }

    async fn nothing_is_put_into_the_outbox_without_a_receiver(database) {
        let user = database.user().await;
        database.session(user).await;
        database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap();
        assert_eq!(database.number("SELECT count(*) FROM webhook_outbox").await, 0);
    }

    async fn a_receiver_that_is_gone_is_swept_with_what_it_was_to_be_told(database) {
        database.store.register_targets(&["gone".into(), "here".into()]).await.unwrap();
        let user = database.user().await;
        database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap();
        let past = database.moment(-8 * 24 * 3600);
        database.run(format!("UPDATE webhook_targets SET last_seen_at = {past} WHERE target = 'gone'")).await;
        database.store.sweep_operating(90 * 24 * HOUR, 100).await.unwrap();
        assert_eq!(database.number("SELECT count(*) FROM webhook_targets").await, 1);
        assert_eq!(database.number("SELECT count(*) FROM webhook_outbox WHERE target = 'gone'").await, 0);
        assert_eq!(database.number("SELECT count(*) FROM webhook_outbox WHERE target = 'here'").await, 1);
    }
}
