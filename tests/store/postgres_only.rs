//! Races that need two writers at once, and servers that break connections.

use std::time::Duration;

use portcullis::entry::{EndReason, LogEntry, Scope};
use portcullis::ids::UserId;
use portcullis::secret::SecretHash;
use portcullis::store::{MetadataChange, ProfileChange, Retention, StoreError};
use serde_json::json;
use time::OffsetDateTime;

use crate::database::{DAY, Database, HOUR, Hand, new_session};

async fn begin_raise(database: &Database, user: UserId) -> Hand {
    let mut hand = database.hand().await;
    hand.run(format!("BEGIN; UPDATE users SET auth_epoch = auth_epoch + 1 WHERE id = '{user}'")).await;
    hand
}

fn users(entries: &[LogEntry]) -> Vec<UserId> {
    entries
        .iter()
        .map(|entry| match entry.scope {
            Scope::UserEpoch { user_id, .. } => user_id,
            ref other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_commits_after_later_ids_were_read_still_arrives() {
    let database = Database::postgres().await;
    let (slow, quick) = (database.user().await, database.user().await);
    let mut reader = database.store.log_reader();
    reader.read().await.unwrap();
    let mut open = begin_raise(&database, slow).await;
    let later = database.store.end_all_sessions(quick, EndReason::Revoked, false).await.unwrap().entries;
    assert_eq!(reader.read().await.unwrap().entries, later);
    // Again and again while the other is open: nothing twice.
    assert!(reader.read().await.unwrap().entries.is_empty());
    open.run("COMMIT").await;
    let read = reader.read().await.unwrap();
    assert!(read.continuous);
    assert_eq!(users(&read.entries), [slow]);
    assert!(read.entries[0].id < later[0].id && read.entries[0].position < later[0].position);
    assert!(reader.read().await.unwrap().entries.is_empty());
}

/// As many of the gateway's transactions as `count` wait for a lock.
async fn wait_for_a_lock(database: &Database, count: i64) {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
        AND datname = current_database() AND application_name = 'portcullis'";
    while database.number(WAITING).await < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Two changes of one profile, both under way before either is written.
#[tokio::test(flavor = "multi_thread")]
async fn crossing_profile_changes_are_both_kept() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let mut hand = database.hand().await;
    hand.run(format!("BEGIN; UPDATE users SET full_name = 'held' WHERE id = '{user}'")).await;
    let crossing: Vec<_> = ["first", "second"]
        .map(|key| {
            let patch = MetadataChange::Merge([(key.to_owned(), json!(true))].into_iter().collect());
            let change = ProfileChange { metadata: Some(patch), ..ProfileChange::default() };
            let store = database.store.clone();
            tokio::spawn(async move { store.update_profile(user, change, 1000).await.unwrap() })
        })
        .into();
    wait_for_a_lock(&database, 2).await;
    hand.run("ROLLBACK").await;
    for change in crossing {
        change.await.unwrap();
    }
    let record = database.store.load_users(&[user]).await.unwrap().value.remove(0);
    assert_eq!(record.user.metadata, json!({"first": true, "second": true}));
}

/// Two redemptions of one ticket, the second under way before the first is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_being_redeemed_is_not_redeemed_twice() {
    let database = Database::postgres().await;
    let ticket = SecretHash::of(b"ticket");
    let mut hand = database.hand().await;
    let digits: String = ticket.0.iter().map(|byte| format!("{byte:02x}")).collect();
    hand.run(format!(
        "BEGIN; INSERT INTO used_tickets (ticket, expires_at) VALUES ('\\x{digits}', now() + interval '1 hour')"
    ))
    .await;
    let store = database.store.clone();
    let expires_at = OffsetDateTime::now_utc() + HOUR;
    let second = tokio::spawn(async move { store.redeem_ticket(ticket, expires_at).await.unwrap() });
    wait_for_a_lock(&database, 1).await;
    hand.run("COMMIT").await;
    assert!(!second.await.unwrap(), "redeemed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crossing_of_many_transactions_loses_nothing_and_repeats_nothing() {
    let database = Database::postgres().await;
    let mut reader = database.store.log_reader();
    reader.read().await.unwrap();
    let mut open = Vec::new();
    for _ in 0..4 {
        let user = database.user().await;
        open.push((user, begin_raise(&database, user).await));
    }
    let mut seen = Vec::new();
    // Last begun, first committed, with a quick one and a read between any two.
    while let Some((_, mut hand)) = open.pop() {
        let quick = database.user().await;
        database.store.end_all_sessions(quick, EndReason::Revoked, false).await.unwrap();
        seen.extend(reader.read().await.unwrap().entries);
        hand.run("COMMIT").await;
        seen.extend(reader.read().await.unwrap().entries);
    }
    let mut ids: Vec<_> = seen.iter().map(|entry| entry.id).collect();
    assert_eq!(ids.len(), 8);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_cannot_see_an_open_revocation_stands_below_it() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let sid = database.session(user).await.session.sid;
    let mut open = begin_raise(&database, user).await;
    let read = database.store.load_sessions(&[sid]).await.unwrap();
    assert_eq!(read.value[0].ended, None);
    // A login beside the open raise: it gets its session, which is dead once the raise commits.
    let epoch = database.epoch(user).await;
    let login = database.store.insert_session(user, epoch, new_session()).await.unwrap().unwrap();
    open.run("COMMIT").await;
    let entry = database.log().await.remove(0);
    assert!(read.stamp.position <= entry.position);
    assert!(login.stamp.position <= entry.position);
    assert_eq!(database.load(login.value.session.sid).await.unwrap().ended, Some(EndReason::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_does_not_wait_for_a_session_that_is_being_ended_and_does_not_revive_it() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let (held, free) = (database.session(user).await.session.sid, database.session(user).await.session.sid);
    let mut hand = database.hand().await;
    hand.run(format!("BEGIN; UPDATE sessions SET ended_at = now() WHERE sid = '{held}'")).await;
    let now = OffsetDateTime::now_utc();
    let uses = [(held, now), (free, now)];
    let touched = database.store.touch_sessions(&uses, 7 * DAY).await.unwrap();
    assert_eq!(touched.iter().map(|touched| touched.0).collect::<Vec<_>>(), [free]);
    hand.run("COMMIT").await;
    assert_eq!(database.store.touch_sessions(&uses, 7 * DAY).await.unwrap().len(), 1);
    assert_eq!(database.load(held).await.unwrap().ended, Some(EndReason::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_beside_a_change_of_password_ends_the_kept_session() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let keep = database.session(user).await.session.sid;
    // The change has lifted the session and is about to commit.
    let mut hand = database.hand().await;
    hand.run(format!(
        "BEGIN; UPDATE users SET auth_epoch = auth_epoch + 1, epoch_except = '{keep}', \
         epoch_reason_for = auth_epoch + 1 WHERE id = '{user}'; \
         UPDATE sessions SET auth_epoch = auth_epoch + 1 WHERE sid = '{keep}'"
    ))
    .await;
    let store = database.store.clone();
    let logout = tokio::spawn(async move { store.end_session(keep, user, EndReason::LoggedOut, None).await });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while database.number(waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    hand.run("COMMIT").await;
    let revoked = logout.await.unwrap().unwrap();
    assert_eq!(revoked.sessions, 1);
    assert!(matches!(revoked.entries[0].scope, Scope::Session { sid, .. } if sid == keep));
    assert_eq!(database.load(keep).await.unwrap().ended, Some(EndReason::LoggedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn trimming_leaves_what_an_open_transaction_holds_back() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let retention = Retention { sessions: HOUR, entries: HOUR, keys: HOUR, batch: 100 };
    let mut open = database.hand().await;
    open.run("BEGIN; SELECT pg_current_xact_id()").await;
    database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap();
    database.run("UPDATE revocations SET logged_at = now() - interval '1 day'").await;
    assert_eq!(database.store.sweep(&retention).await.unwrap().entries, 0);
    open.run("COMMIT").await;
    // Other tests' transactions hold the horizon back for a while, too.
    while database.store.sweep(&retention).await.unwrap().entries == 0 {}
    assert_eq!(database.number("SELECT count(*) FROM revocations").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_restored_dump_are_read_and_trimmed() {
    let database = Database::postgres().await;
    database.run("INSERT INTO revocations (position, logged_at, kind, kid) VALUES (1000000000000, now() - interval '1 day', 'key_removed', 'k')").await;
    let mut reader = database.store.log_reader();
    let read = reader.read().await.unwrap();
    assert_eq!(read.entries.len(), 1);
    assert!(read.entries[0].position < 1_000_000_000_000, "no transaction of this server comes near it");
    assert!(reader.read().await.unwrap().entries.is_empty());
    let retention = Retention { sessions: HOUR, entries: HOUR, keys: HOUR, batch: 100 };
    assert_eq!(database.store.sweep(&retention).await.unwrap().entries, 1);
    assert!(reader.read().await.unwrap().continuous);
}

/// Ends every connection of the store, as a restart of the server does.
async fn break_connections(database: &Database) -> i64 {
    database
        .number(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'portcullis'",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_pooled_connections_are_replaced_unnoticed() {
    let database = Database::postgres().await;
    let user = database.user().await;
    for _ in 0..2 {
        // Fill the pool.
        let loads = (0..12).map(|_| database.store.load_users(std::slice::from_ref(&user)));
        futures_util::future::try_join_all(loads).await.unwrap();
        assert!(break_connections(&database).await >= 2);
        assert_eq!(database.store.load_users(&[user]).await.unwrap().value.len(), 1);
        let loads = (0..12).map(|_| database.store.load_users(std::slice::from_ref(&user)));
        futures_util::future::try_join_all(loads).await.unwrap();
        break_connections(&database).await;
        assert_eq!(database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_connection_breaks_goes_on_where_it_was() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let mut reader = database.store.log_reader();
    reader.read().await.unwrap();
    break_connections(&database).await;
    let entries = database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries;
    assert!(matches!(reader.read().await, Err(StoreError::Unavailable(_))));
    let read = reader.read().await.unwrap();
    assert!(read.continuous);
    assert_eq!(read.entries, entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_given_up_in_the_middle_loses_nothing() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let mut reader = database.store.log_reader();
    reader.read().await.unwrap();
    let entries = database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries;
    let mut hand = database.hand().await;
    hand.run("BEGIN; LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE").await;
    assert!(tokio::time::timeout(Duration::from_millis(100), reader.read()).await.is_err());
    let started = std::time::Instant::now();
    assert!(matches!(reader.read().await, Err(StoreError::Unavailable(_))), "two seconds are the most");
    assert!(started.elapsed() < Duration::from_secs(4));
    hand.run("ROLLBACK").await;
    assert_eq!(reader.read().await.unwrap().entries, entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_ask_for_the_servers_identity_reads_the_log() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let role = format!("r{}", UserId::random().0.simple());
    database
        .run(format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; \
             REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public; \
             REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM public"
        ))
        .await;
    let store = database
        .another_store(|config| {
            let url = config.database_url.take().map(|url| secrecy::ExposeSecret::expose_secret(&url).to_owned());
            config.database_url = url.map(|url| url.replace("postgres@", &format!("{role}@")).into());
        })
        .await;
    let mut reader = store.log_reader();
    reader.read().await.unwrap();
    let entries = database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries;
    let read = reader.read().await.unwrap();
    assert!(read.continuous);
    assert_eq!(read.entries, entries);
    assert!(matches!(store.end_all_sessions(user, EndReason::Revoked, false).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test]
async fn a_truncated_table_would_tell_nobody_and_is_refused() {
    let database = Database::postgres().await;
    let user = database.user().await;
    database.session(user).await;
    for table in ["sessions", "users CASCADE", "signing_keys"] {
        assert!(database.hand().await.try_run(format!("TRUNCATE {table}")).await.is_err(), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_needs_one_connection() {
    let database = Database::postgres().await;
    let user = database.user().await;
    for _ in 0..10 {
        let sid = database.session(user).await.session.sid;
        database.store.end_session(sid, user, EndReason::LoggedOut, None).await.unwrap();
        database.load(sid).await.unwrap();
    }
    let status = database.store.pool_status();
    assert_eq!((status.open, status.idle), (1, 1));
    database.store.close().await;
    assert_eq!(database.store.pool_status().open, 0);
}
