use portcullis::entry::{EndReason, LogEntry, Scope};
use time::OffsetDateTime;

use crate::on_each;

fn ids(entries: &[LogEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.id).collect()
}

on_each! {
    async fn each_entry_is_read_once(database) {
        let user = database.user().await;
        let first = database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries;
        let mut reader = database.store.log_reader();
        let read = reader.read().await.unwrap();
        assert!(!read.continuous);
        assert_eq!(read.entries, first, "the first read returns the whole retained log");
        assert!(reader.read().await.unwrap().entries.is_empty());
        let sid = database.session(user).await.session.sid;
        let second = database.store.end_session(sid, user, EndReason::LoggedOut, None).await.unwrap().entries;
        let third = database.store.end_all_sessions(user, EndReason::Revoked, true).await.unwrap().entries;
        let read = reader.read().await.unwrap();
        assert!(read.continuous);
        assert_eq!(read.entries, [second, third].concat());
        assert!(reader.read().await.unwrap().entries.is_empty());
    }

    async fn a_read_tells_the_databases_clock(database) {
        let before = OffsetDateTime::now_utc();
        let read = database.store.log_reader().read().await.unwrap();
        assert!((read.database_now - before).abs() < time::Duration::seconds(10));
        let user = database.user().await;
        let entry = database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries.remove(0);
        assert!((entry.at - before).abs() < time::Duration::seconds(10));
    }

    async fn what_was_rolled_back_is_never_read(database) {
        let user = database.user().await;
        let mut reader = database.store.log_reader();
        reader.read().await.unwrap();
        let mut hand = database.hand().await;
        hand.run(format!("BEGIN; UPDATE users SET auth_epoch = auth_epoch + 1 WHERE id = '{user}'")).await;
        assert!(reader.read().await.unwrap().entries.is_empty());
        hand.run("ROLLBACK").await;
        assert!(reader.read().await.unwrap().entries.is_empty());
        let entries = database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries;
        assert_eq!(ids(&reader.read().await.unwrap().entries), ids(&entries));
    }

    async fn another_deployment_is_noticed(database) {
        let user = database.user().await;
        database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap();
        let mut reader = database.store.log_reader();
        reader.read().await.unwrap();
        database.run(format!("UPDATE deployment SET id = '{user}'")).await;
        let read = reader.read().await.unwrap();
        assert!(!read.continuous);
        assert_eq!(read.entries.len(), 1);
        assert!(reader.read().await.unwrap().continuous);
    }

    async fn the_scope_says_whom_it_concerns(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        database.store.end_session(sid, user, EndReason::LoggedOut, None).await.unwrap();
        let scopes = database.scopes().await;
        assert_eq!(scopes, [Scope::Session { sid, user_id: user, reason: EndReason::LoggedOut }]);
    }
}
