//! Nothing waits without a bound, and "cannot tell" comes soon.

use std::time::{Duration, Instant};

use portcullis::entry::EndReason;
use portcullis::ids::Sid;
use portcullis::store::{ProfileChange, StoreError};

use crate::on_each;

const SOON: Duration = Duration::from_millis(300);

fn is_unavailable<T>(answer: Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Unavailable(_)))
}

on_each! {
    async fn a_write_gives_up_on_a_lock_that_is_not_released(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let store = database.another_store(|config| config.statement_timeout = SOON).await;
        let mut hand = database.hand().await;
        hand.run(format!("BEGIN; UPDATE users SET full_name = 'held' WHERE id = '{user}'")).await;
        let started = Instant::now();
        assert!(is_unavailable(store.end_all_sessions(user, EndReason::Revoked, false).await));
        assert!(started.elapsed() < Duration::from_secs(2));
        hand.run("ROLLBACK").await;
        assert_eq!(database.load(sid).await.unwrap().ended, None);
        // The connection that met the lock is in order again.
        assert_eq!(store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().sessions, 1);
    }

    async fn a_full_pool_says_so_soon(database) {
        let user = database.user().await;
        let store = database.another_store(|config| {
            config.pool_size = 1;
            config.acquire_timeout = SOON;
            config.statement_timeout = Duration::from_secs(3);
        }).await;
        let mut hand = database.hand().await;
        hand.run(format!("BEGIN; UPDATE users SET full_name = 'held' WHERE id = '{user}'")).await;
        let change = ProfileChange { full_name: Some(Some("Eve".into())), ..ProfileChange::default() };
        let holding = { let store = store.clone(); tokio::spawn(async move { store.update_profile(user, change, 100).await }) };
        while store.pool_status().open == store.pool_status().idle {
            tokio::task::yield_now().await;
        }
        let started = Instant::now();
        // Writes: SQLite has a pool of its own for reads.
        assert!(is_unavailable(store.end_session(Sid::random(), user, EndReason::Revoked, None).await));
        let waited = started.elapsed();
        assert!(waited >= SOON && waited < Duration::from_secs(2), "{waited:?}");
        // More than may wait are not made to wait.
        let crowd: Vec<_> = (0..40).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let started = Instant::now();
                assert!(is_unavailable(store.end_session(Sid::random(), user, EndReason::Revoked, None).await));
                started.elapsed()
            })
        }).collect();
        let mut at_once = 0;
        for member in crowd {
            at_once += u32::from(member.await.unwrap() < SOON);
        }
        assert!(at_once >= 20, "{at_once} were refused at once");
        hand.run("ROLLBACK").await;
        holding.await.unwrap().unwrap();
    }

    async fn callers_that_go_away_leave_the_pool_whole(database) {
        let user = database.user().await;
        let store = database.another_store(|config| config.pool_size = 2).await;
        let mut hand = database.hand().await;
        hand.run(format!("BEGIN; UPDATE users SET full_name = 'held' WHERE id = '{user}'")).await;
        for _ in 0..6 {
            let call = store.end_all_sessions(user, EndReason::Revoked, false);
            assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
        }
        hand.run("ROLLBACK").await;
        assert_eq!(database.session(user).await.ended, None);
        assert_eq!(store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().sessions, 1);
        assert_eq!(database.log().await.len(), 1, "what was given up was rolled back");
    }
}
