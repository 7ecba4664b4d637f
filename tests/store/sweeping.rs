use std::time::Duration;

use portcullis::entry::{EndReason, PublicKey};
use portcullis::ids::{Jti, NodeId};
use portcullis::secret::SecretHash;
use portcullis::store::{ListedToken, Retention, Swept};
use serde_json::json;
use time::OffsetDateTime;

use crate::database::HOUR;
use crate::on_each;

const RETENTION: Retention = Retention { sessions: HOUR, entries: HOUR, keys: HOUR, batch: 2 };

on_each! {
    async fn sweeping_takes_bounded_batches_and_logs_nothing(database) {
        let user = database.user().await;
        for number in 0..10 {
            let sid = database.session(user).await.session.sid;
            // Of ten: three ended long ago, two expired long ago, two ended just now, two expired just now, one lives.
            let set = match number {
                0..3 => format!("ended_at = {}", database.moment(-7_200)),
                3..5 => format!("expires_at = {}", database.moment(-7_200)),
                5..7 => format!("ended_at = {}", database.moment(-10)),
                7..9 => format!("expires_at = {}", database.moment(-10)),
                _ => continue,
            };
            database.run(format!("UPDATE sessions SET {set} WHERE sid = '{sid}'")).await;
        }
        let logged = database.log().await.len();
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(database.store.sweep(&RETENTION).await.unwrap().sessions);
        }
        assert_eq!(taken, [2, 2, 1, 0]);
        assert_eq!(database.number("SELECT count(*) FROM sessions").await, 5);
        assert_eq!(database.log().await.len(), logged);
    }

    async fn everything_that_is_past_its_time_goes(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let expires_at = OffsetDateTime::now_utc() + HOUR;
        for number in 0..2 {
            database.store.list_token(ListedToken { jti: Jti::random(), sid, user_id: user, expires_at }).await.unwrap();
            database.store.redeem_ticket(SecretHash::of(&[number]), expires_at).await.unwrap();
            let jwk = json!({"kty": "OKP"});
            database.store.register_key(&PublicKey { kid: format!("k{number}"), algorithm: "EdDSA".into(), jwk }).await.unwrap();
            database.store.beat(NodeId::random(), None).await.unwrap();
            database.store.acknowledge(number.into(), NodeId::random(), 0).await.unwrap();
        }
        assert_eq!(database.store.sweep(&RETENTION).await.unwrap(), Swept::default());
        let past = database.moment(-7_200);
        for (table, column, key) in [
            ("listed_tokens", "expires_at", "jti"),
            ("used_tickets", "expires_at", "ticket"),
            ("signing_keys", "last_seen_at", "kid"),
            ("nodes", "last_seen_at", "node"),
            ("acknowledgements", "acknowledged_at", "node"),
        ] {
            let one = format!("(SELECT {key} FROM {table} ORDER BY {key} LIMIT 1)");
            database.run(format!("UPDATE {table} SET {column} = {past} WHERE {key} = {one}")).await;
        }
        let logged = database.log().await.len();
        let swept = database.store.sweep(&RETENTION).await.unwrap();
        assert_eq!(swept, Swept { sessions: 0, tokens: 1, tickets: 1, entries: 0, keys: 2 });
        assert_eq!(database.number("SELECT count(*) FROM acknowledgements").await, 1);
        assert_eq!(database.store.keys().await.unwrap().len(), 1);
        assert_eq!(database.log().await.len(), logged, "a silent node's key is gone and not revoked");
    }

    async fn a_revoked_key_is_never_forgotten(database) {
        let key = PublicKey { kid: "k".into(), algorithm: "EdDSA".into(), jwk: json!({}) };
        database.store.register_key(&key).await.unwrap();
        database.store.revoke_key("k", false).await.unwrap();
        database.run(format!("UPDATE signing_keys SET last_seen_at = {}", database.moment(-7_200))).await;
        assert_eq!(database.store.sweep(&RETENTION).await.unwrap().keys, 0);
        assert!(database.store.register_key(&key).await.unwrap().is_empty(), "its node comes back with the same key");
    }

    async fn a_reader_that_may_have_missed_trimmed_entries_is_told(database) {
        let user = database.user().await;
        let (mut kept_up, mut late) = (database.store.log_reader(), database.store.log_reader());
        assert!(!kept_up.read().await.unwrap().continuous, "the first read");
        assert!(!late.read().await.unwrap().continuous, "the first read");
        for _ in 0..5 {
            database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap();
        }
        let read = kept_up.read().await.unwrap();
        assert_eq!(read.entries.len(), 5);
        let last = read.entries[4].position;
        // On Postgres the transactions of other tests, in other databases, hold the horizon back for a while.
        while kept_up.read().await.unwrap().position <= last {
            assert!(!database.is_sqlite());
        }
        let past = database.moment(-7_200);
        database.run(format!("UPDATE revocations SET logged_at = {past} WHERE id <= (SELECT min(id) + 2 FROM revocations)")).await;
        let mut trimmed = Vec::new();
        for _ in 0..3 {
            trimmed.push(database.store.sweep(&RETENTION).await.unwrap().entries);
        }
        assert_eq!(trimmed, [2, 1, 0]);
        let after = kept_up.read().await.unwrap();
        assert!(after.continuous && after.entries.is_empty());
        let after = late.read().await.unwrap();
        assert!(!after.continuous);
        assert_eq!(after.entries.len(), 2, "all that is retained");
        assert!(after.watermark > 0 && after.watermark <= after.position);
        assert!(late.read().await.unwrap().continuous);
        // Positions go on where they were, though the log is empty.
        database.run(format!("UPDATE revocations SET logged_at = {past}")).await;
        let position = after.position;
        assert_eq!(database.store.sweep(&RETENTION).await.unwrap().entries, 2);
        let user_read = database.store.load_users(&[user]).await.unwrap();
        assert!(user_read.stamp.position >= position);
        let read = late.read().await.unwrap();
        assert!(read.continuous && read.position >= position);
    }

    async fn young_entries_stay(database) {
        let user = database.user().await;
        database.store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap();
        let retention = Retention { entries: Duration::from_secs(60), ..RETENTION };
        assert_eq!(database.store.sweep(&retention).await.unwrap(), Swept::default());
        assert_eq!(database.log().await.len(), 1);
    }
}
