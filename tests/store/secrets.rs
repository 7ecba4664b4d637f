//! Rotation of secrets, fingerprints, and what takes the current hash.

use std::time::Duration;

use portcullis::entry::{EndReason, Scope};
use portcullis::secret::SecretHash;
use portcullis::store::{EmailOutcome, Fingerprint, NewSecret, RemovalOutcome, SessionRead};
use uuid::Uuid;

use crate::database::DAY;
use crate::on_each;

const GRACE: Duration = Duration::from_secs(60);

fn rotation(read: &SessionRead, to: u8, pause: Duration) -> NewSecret {
    let (sid, from) = (read.session.sid, read.session.secret_hash);
    NewSecret { sid, from, to: SecretHash([to; 32]), salt: Uuid::new_v4(), grace: GRACE, pause }
}

fn at(network: &str) -> Fingerprint {
    Fingerprint { browser: Some("firefox".into()), network: Some(network.into()) }
}

on_each! {
    async fn a_rotation_replaces_the_secret_and_nothing_else(database) {
        let user = database.user().await;
        let before = database.session(user).await;
        let new = rotation(&before, 1, GRACE);
        let outcome = database.store.rotate_secret(new).await.unwrap();
        let sid = before.session.sid;
        let scopes: Vec<_> = outcome.entries.into_iter().map(|entry| entry.scope).collect();
        assert_eq!(scopes, [Scope::SessionChanged { sid, user_id: user }], "caches must follow");
        let after = outcome.session.unwrap();
        let rotated = after.session.rotation.unwrap();
        assert_eq!((after.session.secret_hash, rotated.previous_hash, rotated.salt), (new.to, new.from, new.salt));
        assert_eq!(rotated.previous_until - rotated.rotated_at, GRACE);
        assert_eq!((after.ended, after.session.expires_at), (None, before.session.expires_at));
        assert_eq!(after.session.max_expires_at, before.session.max_expires_at);
        assert_eq!(database.load(sid).await.unwrap().session, after.session);
        assert_eq!(database.store.spent_secrets(&[new.from, new.to]).await.unwrap(), [(new.from, sid, user)]);
        assert!(database.store.load_sessions_by_secret(&[new.from]).await.unwrap().value.is_empty());
    }

    async fn of_two_that_rotate_the_same_secret_one_wins_and_both_know(database) {
        let user = database.user().await;
        let before = database.session(user).await;
        let (one, other) = (rotation(&before, 1, GRACE), rotation(&before, 2, GRACE));
        let (first, second) = tokio::join!(database.store.rotate_secret(one), database.store.rotate_secret(other));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.session.unwrap().session, second.session.unwrap().session);
        assert_eq!(first.entries.len() + second.entries.len(), 1, "one of them changed nothing");
    }

    async fn nothing_rotates_too_soon_nor_what_is_dead(database) {
        let user = database.user().await;
        let before = database.session(user).await;
        let after = database.store.rotate_secret(rotation(&before, 1, GRACE)).await.unwrap().session.unwrap();
        let again = database.store.rotate_secret(rotation(&after, 2, GRACE)).await.unwrap();
        assert_eq!((again.session.unwrap().session, again.entries.len()), (after.session.clone(), 0));
        let again = database.store.rotate_secret(rotation(&after, 2, Duration::ZERO)).await.unwrap();
        let after = again.session.unwrap();
        assert_eq!(after.session.secret_hash, SecretHash([2; 32]));

        database.store.end_session(after.session.sid, user, EndReason::SecretReplayed, None).await.unwrap();
        let dead = database.store.rotate_secret(rotation(&after, 3, Duration::ZERO)).await.unwrap();
        assert!(dead.entries.is_empty());
        let dead = dead.session.unwrap();
        assert_eq!((dead.ended, dead.session.secret_hash), (Some(EndReason::SecretReplayed), SecretHash([2; 32])));

        let outdated = database.session(user).await;
        database.store.end_all_sessions(user, EndReason::LoggedOutEverywhere, false).await.unwrap();
        let dead = database.store.rotate_secret(rotation(&outdated, 4, Duration::ZERO)).await.unwrap();
        assert_eq!(dead.session.unwrap().session.secret_hash, outdated.session.secret_hash);
    }

    async fn spent_secrets_go_with_their_session_and_after_a_week(database) {
        let user = database.user().await;
        let before = database.session(user).await;
        let after = database.store.rotate_secret(rotation(&before, 1, GRACE)).await.unwrap().session.unwrap();
        database.run(format!("UPDATE spent_secrets SET spent_at = {}", database.moment(-8 * DAY.as_secs() as i64))).await;
        database.store.rotate_secret(rotation(&after, 2, Duration::ZERO)).await.unwrap();
        let known = database.store.spent_secrets(&[before.session.secret_hash, after.session.secret_hash]).await.unwrap();
        assert_eq!(known.iter().map(|(hash, ..)| *hash).collect::<Vec<_>>(), [after.session.secret_hash]);
        database.store.remove_user(user).await.unwrap();
        assert_eq!(database.number("SELECT count(*) FROM spent_secrets").await, 0);
    }

    async fn a_secret_written_by_hand_is_logged(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let hash = "ab".repeat(32);
        let hash = if database.is_sqlite() { format!("'{hash}'") } else { format!("'\\x{hash}'") };
        database.run(format!("UPDATE sessions SET secret_hash = {hash} WHERE sid = '{sid}'")).await;
        assert_eq!(database.scopes().await, [Scope::SessionChanged { sid, user_id: user }]);
    }

    async fn a_fingerprint_is_written_down_and_taken_over_or_not(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        let knocked = database.store.note_fingerprint(sid, &at("192.0.2.0/24"), false).await.unwrap();
        assert!(knocked.is_empty(), "what is remembered of the session stays true");
        assert_eq!(database.load(sid).await.unwrap().session.seen_from, Fingerprint::default());
        let change = database.store.devices(user).await.unwrap().remove(0).fingerprint_change.unwrap();
        assert_eq!((change.browser.as_deref(), change.network.as_deref()), (Some("firefox"), Some("192.0.2.0/24")));
        let again = database.store.note_fingerprint(sid, &at("192.0.2.0/24"), false).await.unwrap();
        assert!(again.is_empty());
        let same = database.store.devices(user).await.unwrap().remove(0).fingerprint_change.unwrap();
        assert_eq!(same.at, change.at, "not for each knock at the door");

        let moved = database.store.note_fingerprint(sid, &at("198.51.100.0/24"), true).await.unwrap();
        assert_eq!(moved[0].scope, Scope::SessionChanged { sid, user_id: user });
        assert_eq!(database.load(sid).await.unwrap().session.seen_from, at("198.51.100.0/24"));
        let email = database.load(sid).await.unwrap().user.user.email;
        for (network, known) in [("198.51.100.0/24", true), ("192.0.2.0/24", false)] {
            let row = database.store.login_row(&email, Some(network)).await.unwrap().unwrap();
            assert_eq!(row.known_network, known, "{network}");
        }
        assert!(!database.store.login_row(&email, None).await.unwrap().unwrap().known_network);
    }

    async fn a_better_hash_of_the_same_password_ends_nothing(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        assert!(database.store.rehash(user, "$old", "$better").await.unwrap());
        assert!(!database.store.rehash(user, "$old", "$other").await.unwrap(), "it is not the old one any more");
        assert!(database.store.rehash(user, "$better", "$best").await.unwrap());
        assert_eq!(database.store.login_row_by_id(user).await.unwrap().unwrap().password_hash, "$best");
        assert_eq!(database.load(sid).await.unwrap().ended, None);
        assert!(database.log().await.is_empty());
        // A password that is written by hand is another one, as before.
        database.run(format!("UPDATE users SET password_hash = '$reset' WHERE id = '{user}'")).await;
        assert_eq!(database.load(sid).await.unwrap().ended, Some(EndReason::CredentialsChanged));
    }

    async fn an_address_changes_under_the_hash_that_was_verified(database) {
        let (user, other) = (database.user().await, database.user().await);
        let taken = database.store.load_users(&[other]).await.unwrap().value.remove(0).user.email;
        let change = async |hash: &str, email: &str| database.store.change_email(user, hash, email).await.unwrap();
        assert!(matches!(change("$wrong", "new@example.org").await, EmailOutcome::Superseded));
        assert!(matches!(change("$old", &taken.to_uppercase()).await, EmailOutcome::Taken));
        let EmailOutcome::Changed { user: record, entries } = change("$old", "New@Example.org").await else { panic!() };
        assert_eq!(record.user.email, "New@Example.org");
        assert_eq!(entries[0].scope, Scope::UserChanged { user_id: user });
        assert!(database.store.login_row("new@example.ORG", None).await.unwrap().is_some());
    }

    async fn an_account_goes_under_the_hash_that_was_verified(database) {
        let user = database.user().await;
        let sid = database.session(user).await.session.sid;
        database.session(user).await;
        let superseded = database.store.remove_own_account(user, "$wrong").await.unwrap();
        assert!(matches!(superseded, RemovalOutcome::Superseded));
        assert!(database.load(sid).await.is_some());
        let below = database.epoch(user).await + 1;
        let RemovalOutcome::Removed(revoked) = database.store.remove_own_account(user, "$old").await.unwrap() else { panic!() };
        assert_eq!(revoked.sessions, 2);
        let scopes: Vec<_> = revoked.entries.into_iter().map(|entry| entry.scope).collect();
        let reason = EndReason::AccountDisabled;
        assert_eq!(scopes, [Scope::UserEpoch { user_id: user, below, except: None, reason }]);
        assert!(database.load(sid).await.is_none());
        assert!(matches!(database.store.remove_own_account(user, "$old").await.unwrap(), RemovalOutcome::Superseded));
    }
}
