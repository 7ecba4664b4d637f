use std::collections::HashSet;

use portcullis::entry::{EndReason, Scope};
use portcullis::ids::{Sid, UserId};
use portcullis::store::{MetadataChange, NewUser, PasswordOutcome, ProfileChange, ProfileOutcome, SignupOutcome};
use serde_json::{Value, json};

use crate::database::new_session;
use crate::on_each;

fn ann(email: &str) -> NewUser {
    NewUser { email: email.into(), password_hash: "$hash".into(), full_name: None }
}

fn metadata(value: Value, merge: bool) -> ProfileChange {
    let Value::Object(map) = value else { panic!("metadata is an object") };
    let change = if merge { MetadataChange::Merge(map) } else { MetadataChange::Replace(map) };
    ProfileChange { metadata: Some(change), ..ProfileChange::default() }
}

on_each! {
    async fn a_signup_makes_the_account_and_its_first_session(database) {
        let session = new_session();
        let outcome = database.store.sign_up(ann("Ann@Example.org"), Some(session.clone())).await.unwrap();
        let SignupOutcome::Created { user, session: Some(read) } = outcome else { panic!("{outcome:?}") };
        assert_eq!(user.user.email, "Ann@Example.org");
        assert_eq!(user.user.metadata, json!({}));
        assert!(!user.disabled);
        assert_eq!(read.value.user, user);
        assert_eq!(read.value.session.sid, session.sid);
        assert_eq!(read.value.session.secret_hash, session.secret_hash);
        assert_eq!(read.value.session.expires_at - read.value.session.created_at, session.ttl);
        assert_eq!(read.value.session.max_expires_at - read.value.session.created_at, session.max_age);
        assert_eq!(read.value.ended, None);
        assert!(read.stamp.read_at.is_some());
        let loaded = database.store.load_sessions_by_secret(&[session.secret_hash]).await.unwrap();
        assert_eq!(loaded.value.len(), 1);
        assert_eq!(loaded.value[0].session, read.value.session);
        assert!(database.log().await.is_empty(), "a signup ends nothing");
    }

    async fn an_address_is_taken_whatever_its_case(database) {
        database.store.sign_up(ann("Straße@Example.org"), None).await.unwrap();
        let again = database.store.sign_up(ann("STRASSE@example.ORG"), Some(new_session())).await.unwrap();
        assert!(matches!(again, SignupOutcome::EmailTaken));
        assert_eq!(database.number("SELECT count(*) FROM sessions").await, 0);
        let row = database.store.login_row(" strasse@EXAMPLE.org ", None).await.unwrap().unwrap();
        assert_eq!(row.password_hash, "$hash");
        assert!(database.store.login_row("nobody@example.org", None).await.unwrap().is_none());
    }

    async fn a_sliding_life_never_exceeds_the_absolute_one(database) {
        let user = database.user().await;
        let session = portcullis::store::NewSession { ttl: 40 * crate::database::DAY, ..new_session() };
        let epoch = database.epoch(user).await;
        let read = database.store.insert_session(user, epoch, session).await.unwrap().unwrap();
        assert_eq!(read.value.session.expires_at, read.value.session.max_expires_at);
    }

    async fn the_old_passwords_login_loses_against_a_change_of_password(database) {
        let user = database.user().await;
        let verified = database.store.login_row_by_id(user).await.unwrap().unwrap();
        // The hash is being computed; meanwhile the password changes.
        let keep = database.session(user).await.session.sid;
        database.store.change_password(user, keep, "$old", "$new").await.unwrap();
        let late = database.store.insert_session(user, verified.auth_epoch, new_session()).await.unwrap();
        assert!(late.is_none());
        assert_eq!(database.number("SELECT count(*) FROM sessions").await, 1);
    }

    async fn no_session_is_made_for_a_disabled_account(database) {
        let user = database.user().await;
        database.store.set_disabled(user, true).await.unwrap();
        let row = database.store.login_row_by_id(user).await.unwrap().unwrap();
        assert!(row.disabled);
        assert!(database.store.insert_session(user, row.auth_epoch, new_session()).await.unwrap().is_none());
        database.store.set_disabled(user, false).await.unwrap();
        assert!(database.store.insert_session(user, row.auth_epoch, new_session()).await.unwrap().is_some());
        assert!(database.store.insert_session(UserId::random(), 1, new_session()).await.unwrap().is_none());
    }

    async fn a_change_of_password_keeps_one_session_and_ends_the_others(database) {
        let user = database.user().await;
        let keep = database.session(user).await.session.sid;
        let other = database.session(user).await.session.sid;
        let outcome = database.store.change_password(user, keep, "$old", "$new").await.unwrap();
        let PasswordOutcome::Changed { entries } = outcome else { panic!("{outcome:?}") };
        let below = database.epoch(user).await;
        let reason = EndReason::CredentialsChanged;
        let scopes: Vec<_> = entries.iter().map(|entry| entry.scope.clone()).collect();
        assert_eq!(scopes, [Scope::UserEpoch { user_id: user, below, except: Some(keep), reason }]);
        assert_eq!(database.log().await, entries, "what was returned is what was logged");
        let kept = database.load(keep).await.unwrap();
        assert_eq!((kept.ended, kept.session.auth_epoch), (None, below));
        assert_eq!(database.load(other).await.unwrap().ended, Some(reason));
        assert_eq!(database.store.login_row_by_id(user).await.unwrap().unwrap().password_hash, "$new");
    }

    async fn a_change_of_password_that_verified_an_older_one_is_refused(database) {
        let user = database.user().await;
        let keep = database.session(user).await.session.sid;
        database.store.change_password(user, keep, "$old", "$new").await.unwrap();
        let late = database.store.change_password(user, keep, "$old", "$stolen").await.unwrap();
        assert!(matches!(late, PasswordOutcome::Superseded));
        assert_eq!(database.store.login_row_by_id(user).await.unwrap().unwrap().password_hash, "$new");
        let nobody = database.store.change_password(UserId::random(), keep, "$old", "$new").await.unwrap();
        assert!(matches!(nobody, PasswordOutcome::Superseded));
    }

    async fn a_change_of_password_does_not_bring_the_kept_session_back(database) {
        let user = database.user().await;
        let ended = database.session(user).await.session.sid;
        database.store.end_session(ended, user, EndReason::LoggedOut, None).await.unwrap();
        let outdated = database.session(user).await.session.sid;
        database.run("UPDATE users SET auth_epoch = auth_epoch + 1").await;
        for keep in [ended, outdated, Sid::random()] {
            let hash = database.store.login_row_by_id(user).await.unwrap().unwrap().password_hash;
            database.store.change_password(user, keep, &hash, &format!("{hash}+")).await.unwrap();
        }
        assert_eq!(database.load(ended).await.unwrap().ended, Some(EndReason::LoggedOut));
        assert!(database.load(outdated).await.unwrap().ended.is_some());
        let excepted = database.scopes().await.into_iter().filter(|scope| matches!(scope, Scope::UserEpoch { except: Some(_), .. }));
        assert_eq!(excepted.count(), 0);
    }

    async fn a_profile_changes_where_it_is_named(database) {
        let user = database.user().await;
        let change = ProfileChange { avatar_url: Some(Some("https://x/y.png".into())), ..ProfileChange::default() };
        let outcome = database.store.update_profile(user, change, 1_000).await.unwrap();
        let ProfileOutcome::Updated { user: record, entries } = outcome else { panic!("{outcome:?}") };
        assert_eq!(record.user.full_name.as_deref(), Some("Ann"));
        assert_eq!(record.user.avatar_url.as_deref(), Some("https://x/y.png"));
        assert!(record.user.updated_at > record.user.created_at);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].scope, Scope::UserChanged { user_id: user });
        let clear = ProfileChange { full_name: Some(None), ..ProfileChange::default() };
        database.store.update_profile(user, clear, 1_000).await.unwrap();
        let read = database.store.load_users(&[user, UserId::random()]).await.unwrap();
        assert_eq!(read.value.len(), 1);
        assert_eq!(read.value[0].user.full_name, None);
        let nobody = database.store.update_profile(UserId::random(), ProfileChange::default(), 1_000).await.unwrap();
        assert!(matches!(nobody, ProfileOutcome::NotFound));
    }

    async fn a_change_that_changes_nothing_is_not_logged(database) {
        let user = database.user().await;
        database.store.update_profile(user, metadata(json!({"a": {"b": 1}}), true), 1_000).await.unwrap();
        let logged = database.log().await.len();
        for change in [
            metadata(json!({"a": {"b": 1}}), true),
            metadata(json!({"nothing": null}), true),
            metadata(json!({"a": {"b": 1}}), false),
            ProfileChange { full_name: Some(Some("Ann".into())), ..ProfileChange::default() },
            ProfileChange::default(),
        ] {
            let outcome = database.store.update_profile(user, change, 1_000).await.unwrap();
            let ProfileOutcome::Updated { entries, .. } = outcome else { panic!("{outcome:?}") };
            assert!(entries.is_empty());
        }
        assert_eq!(database.log().await.len(), logged);
    }

    async fn metadata_has_a_limit_after_the_merge(database) {
        let user = database.user().await;
        let limit = r#"{"a":"12345","b":"1"}"#.len();
        database.store.update_profile(user, metadata(json!({"a": "12345"}), true), limit).await.unwrap();
        database.store.update_profile(user, metadata(json!({"b": "1"}), true), limit).await.unwrap();
        let outcome = database.store.update_profile(user, metadata(json!({"b": "12"}), true), limit).await.unwrap();
        assert!(matches!(outcome, ProfileOutcome::MetadataTooLarge));
        let read = database.store.load_users(&[user]).await.unwrap();
        assert_eq!(read.value[0].user.metadata, json!({"a": "12345", "b": "1"}));
    }

    async fn metadata_comes_back_as_it_was_given(database) {
        let user = database.user().await;
        let odd = json!({"nul": "\u{0}", "quote": "'\"\\", "big": 1e300, "emoji": "🦀", "list": [null, {"x": []}]});
        database.store.update_profile(user, metadata(odd.clone(), false), 1_000).await.unwrap();
        assert_eq!(database.store.load_users(&[user]).await.unwrap().value[0].user.metadata, odd);
    }

    async fn crossing_patches_both_count(database) {
        let user = database.user().await;
        let patches = (0..12).map(|number| {
            let store = database.store.clone();
            let patch = metadata(json!({ "nested": { format!("k{number}"): number } }), true);
            tokio::spawn(async move { store.update_profile(user, patch, 10_000).await.unwrap() })
        });
        for patch in patches.collect::<Vec<_>>() {
            patch.await.unwrap();
        }
        let record = database.store.load_users(&[user]).await.unwrap().value.remove(0);
        let keys: HashSet<_> = record.user.metadata["nested"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys.len(), 12);
    }

    async fn metadata_that_cannot_be_read_locks_nobody_out(database) {
        let (odd, well) = (database.user().await, database.user().await);
        // A lone surrogate is JSON to a lenient parser.
        database.run(format!(r#"UPDATE users SET metadata = '{{"a": "\ud800"}}' WHERE id = '{odd}'"#)).await;
        assert_eq!(database.store.load_users(&[odd, well]).await.unwrap().value.len(), 2);
    }
}
