use portcullis::entry::{EndReason, Scope};
use portcullis::ids::{Jti, Sid, UserId};
use portcullis::secret::SecretHash;
use portcullis::store::ListedToken;
use time::OffsetDateTime;

use crate::database::HOUR;
use crate::on_each;

fn token(sid: Sid, user_id: UserId) -> ListedToken {
    ListedToken { jti: Jti::random(), sid, user_id, expires_at: OffsetDateTime::now_utc() + HOUR }
}

on_each! {
    async fn ending_a_session_logs_the_session_first_and_its_token_second(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let listed = token(sid, user);
        let reason = EndReason::LoggedOut;
        let revoked = database.store.end_session(sid, user, reason, Some(listed)).await.unwrap();
        assert_eq!(revoked.sessions, 1);
        let scopes: Vec<_> = revoked.entries.iter().map(|entry| entry.scope.clone()).collect();
        assert_eq!(scopes.len(), 2);
        assert_eq!(scopes[0], Scope::Session { sid, user_id: user, reason });
        let Scope::Token { jti, sid: token_sid, user_id, expires_at } = scopes[1] else { panic!("{scopes:?}") };
        assert_eq!((jti, token_sid, user_id), (listed.jti, sid, user));
        assert!((expires_at - listed.expires_at).abs() < time::Duration::milliseconds(1));
        assert_eq!(database.log().await, revoked.entries);
        let read = database.load(sid).await.unwrap();
        assert_eq!(read.ended, Some(reason));
        assert_eq!(read.session.listed, [listed.jti]);
    }

    async fn what_has_ended_is_no_error_and_no_news(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let listed = token(sid, user);
        database.store.end_session(sid, user, EndReason::LoggedOut, Some(listed)).await.unwrap();
        let again = database.store.end_session(sid, user, EndReason::Revoked, Some(listed)).await.unwrap();
        assert_eq!((again.sessions, again.entries.len()), (0, 0));
        let listed_again = database.store.list_token(listed).await.unwrap();
        assert!(listed_again.entries.is_empty());
        let unknown = database.store.end_session(Sid::random(), user, EndReason::LoggedOut, None).await.unwrap();
        assert!(unknown.entries.is_empty());
        assert_eq!(database.load(sid).await.unwrap().ended, Some(EndReason::LoggedOut), "the first reason stands");
    }

    async fn nobody_ends_anothers_session(database) {
        let (user, other) = (database.user().await, database.user().await);
        let sid = database.session(user).await.session.sid;
        let revoked = database.store.end_session(sid, other, EndReason::Revoked, None).await.unwrap();
        assert_eq!((revoked.sessions, revoked.entries.len()), (0, 0));
        assert_eq!(database.load(sid).await.unwrap().ended, None);
    }

    async fn an_expired_token_is_not_listed(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let expired = ListedToken { expires_at: OffsetDateTime::now_utc() - HOUR, ..token(sid, user) };
        assert!(database.store.list_token(expired).await.unwrap().entries.is_empty());
        let ended = database.store.end_session(sid, user, EndReason::LoggedOut, Some(expired)).await.unwrap();
        assert_eq!(ended.entries.len(), 1);
    }

    async fn a_session_that_expired_a_moment_ago_is_still_ended(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        database.run(format!("UPDATE sessions SET expires_at = {}", database.moment(-2))).await;
        let revoked = database.store.end_session(sid, user, EndReason::LoggedOut, None).await.unwrap();
        assert_eq!((revoked.sessions, revoked.entries.len()), (0, 1), "within the leeway it may still be in use");
    }

    async fn logging_out_everywhere_is_one_entry_however_many_sessions(database) {
        let user = database.user().await;
        let mut sids = Vec::new();
        for _ in 0..4 {
            sids.push(database.session(user).await.session.sid);
        }
        database.store.end_session(sids[0], user, EndReason::LoggedOut, None).await.unwrap();
        database.run(format!("UPDATE sessions SET expires_at = {} WHERE sid = '{}'", database.moment(-1), sids[1])).await;
        let logged = database.log().await.len();
        let reason = EndReason::LoggedOutEverywhere;
        let revoked = database.store.end_all_sessions(user, reason, true).await.unwrap();
        assert_eq!(revoked.sessions, 2, "one had ended, one had expired");
        assert_eq!(revoked.entries.len(), 1);
        assert!(revoked.entries[0].confirm);
        let below = database.epoch(user).await;
        assert_eq!(revoked.entries[0].scope, Scope::UserEpoch { user_id: user, below, except: None, reason });
        assert_eq!(database.log().await[logged..], revoked.entries[..]);
        assert_eq!(database.load(sids[0]).await.unwrap().ended, Some(EndReason::LoggedOut));
        assert_eq!(database.load(sids[3]).await.unwrap().ended, Some(reason));
        assert_eq!(database.load(sids[3]).await.unwrap().session.auth_epoch, below - 1);
    }

    async fn two_raises_in_a_row_each_have_their_reason(database) {
        let user = database.user().await;
        for reason in [EndReason::LoggedOutEverywhere, EndReason::LoggedOutEverywhere, EndReason::Revoked] {
            let sid = database.session(user).await.session.sid;
            let revoked = database.store.end_all_sessions(user, reason, false).await.unwrap();
            assert_eq!(revoked.sessions, 1);
            assert!(!revoked.entries[0].confirm);
            let Scope::UserEpoch { reason: logged, .. } = revoked.entries[0].scope else { panic!("{revoked:?}") };
            assert_eq!(logged, reason);
            assert_eq!(database.load(sid).await.unwrap().ended, Some(reason));
        }
        // A late session of the epoch that was just left dies of the raise, without a mark of its own.
        let sid = database.session(user).await.session.sid;
        database.run("UPDATE sessions SET auth_epoch = auth_epoch - 1").await;
        assert_eq!(database.load(sid).await.unwrap().ended, Some(EndReason::Revoked));
        let nobody = database.store.end_all_sessions(UserId::random(), EndReason::Revoked, true).await.unwrap();
        assert!(nobody.entries.is_empty());
    }

    async fn disabling_ends_everything_and_enabling_brings_nothing_back(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let disabled = database.store.set_disabled(user, true).await.unwrap();
        assert_eq!(disabled.sessions, 1);
        let below = database.epoch(user).await;
        let reason = EndReason::AccountDisabled;
        assert_eq!(disabled.entries.len(), 1);
        assert_eq!(disabled.entries[0].scope, Scope::UserEpoch { user_id: user, below, except: None, reason });
        assert!(database.store.set_disabled(user, true).await.unwrap().entries.is_empty());
        let enabled = database.store.set_disabled(user, false).await.unwrap();
        assert_eq!(enabled.entries.len(), 1);
        assert_eq!(enabled.entries[0].scope, Scope::UserChanged { user_id: user });
        assert_eq!(database.load(sid).await.unwrap().ended, Some(reason));
        assert!(!database.load(sid).await.unwrap().user.disabled);
        assert!(database.store.set_disabled(user, false).await.unwrap().entries.is_empty());
    }

    async fn a_ticket_is_redeemed_once(database) {
        let ticket = SecretHash::of(b"ticket");
        let expires_at = OffsetDateTime::now_utc() + HOUR;
        let redeeming = (0..8).map(|_| {
            let store = database.store.clone();
            tokio::spawn(async move { store.redeem_ticket(ticket, expires_at).await.unwrap() })
        });
        let mut redeemed = 0;
        for attempt in redeeming.collect::<Vec<_>>() {
            redeemed += u32::from(attempt.await.unwrap());
        }
        assert_eq!(redeemed, 1);
        let expired = OffsetDateTime::now_utc() - HOUR;
        assert!(!database.store.redeem_ticket(SecretHash::of(b"old"), expired).await.unwrap());
    }
}
