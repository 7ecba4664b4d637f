//! What an operator writes by hand is logged like anything else.

use portcullis::entry::{EndReason, Scope};
use portcullis::ids::{Jti, UserId};

use crate::database::Database;
use crate::on_each;

async fn only_scope(database: &Database, sql: String) -> Scope {
    let before = database.log().await.len();
    database.run(sql).await;
    let mut scopes = database.scopes().await.split_off(before);
    assert_eq!(scopes.len(), 1, "{scopes:?}");
    scopes.remove(0)
}

fn epoch_scope(user_id: UserId, below: u64, reason: EndReason) -> Scope {
    Scope::UserEpoch { user_id, below, except: None, reason }
}

on_each! {
    async fn a_raised_epoch_is_the_operators_unless_somebody_said_why(database) {
        let user = database.user().await;
        let raise = format!("UPDATE users SET auth_epoch = auth_epoch + 1 WHERE id = '{user}'");
        let scope = only_scope(&database, raise.clone()).await;
        assert_eq!(scope, epoch_scope(user, database.epoch(user).await, EndReason::Revoked));
        // The reason and the exception of an earlier raise do not stick to a later one.
        let keep = database.session(user).await.session.sid;
        database.store.change_password(user, keep, "$old", "$new").await.unwrap();
        let scope = only_scope(&database, raise).await;
        assert_eq!(scope, epoch_scope(user, database.epoch(user).await, EndReason::Revoked));
        assert_eq!(database.load(keep).await.unwrap().ended, Some(EndReason::Revoked));
    }

    async fn disabling_by_hand_ends_every_session(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let sql = format!("UPDATE users SET disabled_at = {} WHERE id = '{user}'", database.moment(0));
        let scope = only_scope(&database, sql).await;
        assert_eq!(scope, epoch_scope(user, database.epoch(user).await, EndReason::AccountDisabled));
        assert_eq!(database.load(sid).await.unwrap().ended, Some(EndReason::AccountDisabled));
        let scope = only_scope(&database, format!("UPDATE users SET disabled_at = NULL WHERE id = '{user}'")).await;
        assert_eq!(scope, Scope::UserChanged { user_id: user });
        assert_eq!(database.load(sid).await.unwrap().ended, Some(EndReason::AccountDisabled));
    }

    async fn disabling_and_raising_at_once_is_one_entry(database) {
        let user = database.user().await;
        let set = format!("disabled_at = {}, auth_epoch = auth_epoch + 1, password_hash = 'x'", database.moment(0));
        let scope = only_scope(&database, format!("UPDATE users SET {set} WHERE id = '{user}'")).await;
        assert_eq!(scope, epoch_scope(user, database.epoch(user).await, EndReason::AccountDisabled));
    }

    async fn a_new_password_by_hand_ends_every_session(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let sql = format!("UPDATE users SET password_hash = '$reset' WHERE id = '{user}'");
        let scope = only_scope(&database, sql.clone()).await;
        assert_eq!(scope, epoch_scope(user, database.epoch(user).await, EndReason::CredentialsChanged));
        assert_eq!(database.load(sid).await.unwrap().ended, Some(EndReason::CredentialsChanged));
        let logged = database.log().await.len();
        database.run(sql).await;
        assert_eq!(database.log().await.len(), logged, "the same hash again is no change");
    }

    async fn an_epoch_cannot_be_lowered(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        database.store.end_all_sessions(user, EndReason::LoggedOutEverywhere, false).await.unwrap();
        let lowered = database.hand().await.try_run("UPDATE users SET auth_epoch = 1").await;
        assert!(lowered.is_err());
        assert!(database.load(sid).await.unwrap().ended.is_some());
    }

    async fn ending_or_deleting_a_session_by_hand_is_logged(database) {
        let user = database.user().await;
        let (ended, deleted) = (database.session(user).await.session.sid, database.session(user).await.session.sid);
        let reason = EndReason::Revoked;
        let sql = format!("UPDATE sessions SET ended_at = {} WHERE sid = '{ended}'", database.moment(0));
        assert_eq!(only_scope(&database, sql).await, Scope::Session { sid: ended, user_id: user, reason });
        assert_eq!(database.load(ended).await.unwrap().ended, Some(reason));
        let sql = format!("DELETE FROM sessions WHERE sid = '{deleted}'");
        assert_eq!(only_scope(&database, sql).await, Scope::Session { sid: deleted, user_id: user, reason });
        assert!(database.load(deleted).await.is_none());
        // A reason that is none of ours counts as the operator's.
        let odd = database.session(user).await.session.sid;
        let sql = format!("UPDATE sessions SET ended_at = {}, end_reason = 'gremlins' WHERE sid = '{odd}'", database.moment(0));
        assert_eq!(only_scope(&database, sql).await, Scope::Session { sid: odd, user_id: user, reason });
    }

    async fn deleting_a_dead_session_is_not_news(database) {
        let user = database.user().await;
        let ended = database.session(user).await.session.sid;
        database.store.end_session(ended, user, EndReason::LoggedOut, None).await.unwrap();
        let expired = database.session(user).await.session.sid;
        database.run(format!("UPDATE sessions SET expires_at = {} WHERE sid = '{expired}'", database.moment(-1))).await;
        database.session(user).await;
        database.run("UPDATE users SET auth_epoch = auth_epoch + 1").await;
        let logged = database.log().await.len();
        database.run("DELETE FROM sessions").await;
        assert_eq!(database.log().await.len(), logged);
    }

    async fn deleting_a_user_ends_all_and_is_one_entry(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        database.session(user).await;
        let epoch = database.epoch(user).await;
        let scope = only_scope(&database, format!("DELETE FROM users WHERE id = '{user}'")).await;
        assert_eq!(scope, epoch_scope(user, epoch + 1, EndReason::AccountDisabled));
        assert!(database.load(sid).await.is_none());
    }

    async fn profile_columns_count_and_others_do_not(database) {
        let user = database.user().await;
        for set in ["email = 'new@example.org'", "full_name = NULL", "avatar_url = 'x'", "metadata = '{\"a\":1}'"] {
            let scope = only_scope(&database, format!("UPDATE users SET {set} WHERE id = '{user}'")).await;
            assert_eq!(scope, Scope::UserChanged { user_id: user });
        }
        let logged = database.log().await.len();
        database.run(format!("UPDATE users SET email = email, created_at = {}", database.moment(0))).await;
        assert_eq!(database.log().await.len(), logged);
    }

    async fn a_token_listed_by_hand_is_logged(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let jti = Jti::random();
        let values = format!("'{jti}', '{sid}', '{user}', {}", database.moment(60));
        let scope = only_scope(&database, format!("INSERT INTO listed_tokens (jti, sid, user_id, expires_at) VALUES ({values})")).await;
        assert!(matches!(scope, Scope::Token { jti: logged, .. } if logged == jti));
    }
}
