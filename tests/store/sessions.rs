use portcullis::entry::EndReason;
use portcullis::ids::{Jti, Sid};
use portcullis::secret::SessionSecret;
use portcullis::store::{ListedToken, StoreError};
use time::OffsetDateTime;

use crate::database::{DAY, HOUR};
use crate::on_each;

fn close(left: OffsetDateTime, right: OffsetDateTime) -> bool {
    (left - right).abs() < time::Duration::seconds(30)
}

on_each! {
    async fn a_batch_answers_what_it_knows_and_leaves_the_rest_out(database) {
        let user = database.user().await;
        let mut sids = vec![Sid::random()];
        for _ in 0..5 {
            sids.push(database.session(user).await.session.sid);
        }
        let read = database.store.load_sessions(&sids).await.unwrap();
        assert_eq!(read.value.len(), 5);
        assert!(read.value.iter().all(|read| read.ended.is_none() && read.user.user.id == user));
        assert!(database.store.load_sessions(&[]).await.unwrap().value.is_empty());
        assert!(database.store.load_users(&[]).await.unwrap().value.is_empty());
        let unknown = database.store.load_sessions_by_secret(&[SessionSecret::random().hash()]).await.unwrap();
        assert!(unknown.value.is_empty());
        let too_many = vec![Sid::random(); 501];
        assert!(matches!(database.store.load_sessions(&too_many).await, Err(StoreError::Corrupt(_))));
    }

    async fn a_read_after_a_revocation_stands_above_it(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let before = database.store.load_sessions(&[sid]).await.unwrap();
        let revoked = database.store.end_session(sid, user, EndReason::LoggedOut, None).await.unwrap();
        let position = revoked.entries[0].position;
        assert!(before.stamp.position <= position);
        // On Postgres the transactions of other tests, in other databases, hold the horizon back for a while.
        let mut after = database.store.load_sessions(&[sid]).await.unwrap();
        assert!(after.stamp.read_at > before.stamp.read_at);
        while after.stamp.position <= position {
            assert!(!database.is_sqlite());
            after = database.store.load_sessions(&[sid]).await.unwrap();
        }
        let users = database.store.load_users(&[user]).await.unwrap();
        assert!(users.stamp.position > position);
    }

    async fn listed_tokens_come_with_their_session(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let jti = Jti::random();
        let expires_at = OffsetDateTime::now_utc() + HOUR;
        database.store.list_token(ListedToken { jti, sid, user_id: user, expires_at }).await.unwrap();
        assert_eq!(database.load(sid).await.unwrap().session.listed, [jti]);
        assert_eq!(database.store.listed_tokens().await.unwrap(), 1);
        database.run(format!("UPDATE listed_tokens SET expires_at = {}", database.moment(-3_600))).await;
        assert!(database.load(sid).await.unwrap().session.listed.is_empty());
        assert_eq!(database.store.listed_tokens().await.unwrap(), 0);
    }

    async fn a_device_list_shows_live_sessions_the_newest_use_first(database) {
        let (user, other) = (database.user().await, database.user().await);
        let old = database.session(user).await.session.sid;
        let new = database.session(user).await.session.sid;
        let ended = database.session(user).await.session.sid;
        let expired = database.session(user).await.session.sid;
        database.session(other).await;
        database.store.end_session(ended, user, EndReason::Revoked, None).await.unwrap();
        database.run(format!("UPDATE sessions SET expires_at = {} WHERE sid = '{expired}'", database.moment(-1))).await;
        database.run(format!("UPDATE sessions SET last_seen_at = {} WHERE sid = '{old}'", database.moment(-100))).await;
        let devices = database.store.devices(user).await.unwrap();
        assert_eq!(devices.iter().map(|device| device.sid).collect::<Vec<_>>(), [new, old]);
        assert_eq!(devices[0].device_name.as_deref(), Some("Ann's phone; DROP TABLE users'"));
        assert_eq!(devices[0].ip, "2001:db8::7".parse().ok());
        database.store.end_all_sessions(user, EndReason::LoggedOutEverywhere, false).await.unwrap();
        assert!(database.store.devices(user).await.unwrap().is_empty());
    }

    async fn a_use_slides_the_end_up_to_the_absolute_one(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        database.run(format!("UPDATE sessions SET last_seen_at = {}, expires_at = {}", database.moment(-7_200), database.moment(60))).await;
        let now = OffsetDateTime::now_utc();
        let touched = database.store.touch_sessions(&[(sid, now - HOUR), (Sid::random(), now)], 2 * DAY).await.unwrap();
        assert_eq!(touched.len(), 1);
        assert!(close(touched[0].1, now - HOUR) && close(touched[0].2, now - HOUR + 2 * DAY));
        let loaded = database.load(sid).await.unwrap().session;
        assert_eq!((loaded.sid, loaded.last_seen_at, loaded.expires_at), touched[0]);
        // An older use than the one known changes nothing; a use in the future counts as now; the absolute end stays.
        let older = database.store.touch_sessions(&[(sid, now - DAY)], 2 * DAY).await.unwrap();
        assert_eq!(older[0], touched[0]);
        let future = database.store.touch_sessions(&[(sid, now + DAY), (sid, now)], 90 * DAY).await.unwrap();
        assert_eq!(future.len(), 1);
        assert!(close(future[0].1, now));
        assert_eq!(future[0].2, loaded.max_expires_at);
    }

    async fn a_late_use_never_brings_a_session_back(database) {
        let user = database.user().await;
        let now = OffsetDateTime::now_utc();
        let ended = database.session(user).await.session.sid;
        let expired = database.session(user).await.session.sid;
        database.store.end_session(ended, user, EndReason::LoggedOut, None).await.unwrap();
        database.run(format!("UPDATE sessions SET expires_at = {} WHERE sid = '{expired}'", database.moment(-1))).await;
        let outdated = database.session(user).await.session.sid;
        // By hand: the rows are not marked as ended.
        database.run(format!("UPDATE users SET auth_epoch = auth_epoch + 1 WHERE id = '{user}'")).await;
        let uses = [(ended, now), (expired, now), (outdated, now)];
        assert!(database.store.touch_sessions(&uses, 7 * DAY).await.unwrap().is_empty());
        let disabled_user = database.user().await;
        let disabled = database.session(disabled_user).await.session.sid;
        database.store.set_disabled(disabled_user, true).await.unwrap();
        assert!(database.store.touch_sessions(&[(disabled, now)], 7 * DAY).await.unwrap().is_empty());
        for sid in [ended, outdated, disabled] {
            assert!(database.load(sid).await.unwrap().ended.is_some());
        }
        assert!(database.load(expired).await.unwrap().session.expires_at < now);
        assert!(database.store.touch_sessions(&[], DAY).await.unwrap().is_empty());
    }
}
