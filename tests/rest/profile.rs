//! The user: reading, changing, and the password.

use serde_json::{Value, json};

use crate::common::people::new_password;
use crate::common::{Mode, Node, eventually, stages};

stages! {
    both: [
        me_is_the_user_of_the_login,
        patch_merges_metadata,
        put_replaces_what_it_names,
        only_the_profile_fields_can_be_written,
        a_profile_change_reaches_every_node,
        two_crossing_updates_are_both_kept,
        metadata_is_bounded,
        a_new_password_ends_every_other_session,
        a_wrong_current_password_logs_nobody_out,
        a_new_password_obeys_the_rules_of_signup,
    ],
}

async fn me_is_the_user_of_the_login(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let login = stage.a().try_login(&alice.email, &alice.password).await.expect(200);
    for node in stage.nodes() {
        assert_eq!(node.me(&alice.token).await.expect(200).json, login["user"]);
    }
}

async fn patch_merges_metadata(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let first = json!({"full_name": "Alice", "metadata": {"theme": "dark", "beta": true}});
    let answer = stage.a().patch_profile(&alice.token, &first).await.expect(200);
    assert_eq!(answer["full_name"], "Alice");
    assert_eq!(answer["metadata"], json!({"theme": "dark", "beta": true}));

    let second = json!({"avatar_url": "https://example.test/a.png", "metadata": {"theme": "light", "n": 7}});
    let answer = stage.a().patch_profile(&alice.token, &second).await.expect(200);
    assert_eq!(answer["full_name"], "Alice", "what is not named stays");
    assert_eq!(answer["avatar_url"], "https://example.test/a.png");
    assert_eq!(answer["metadata"], json!({"theme": "light", "beta": true, "n": 7}));
    assert_eq!(stage.a().me(&alice.token).await.expect(200).json, answer.json);
}

async fn put_replaces_what_it_names(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let first = json!({"full_name": "Alice", "metadata": {"theme": "dark"}});
    stage.a().put_profile(&alice.token, &first).await.expect(200);
    let answer = stage.a().put_profile(&alice.token, &json!({"metadata": {"n": 7}})).await.expect(200);
    assert_eq!(answer["metadata"], json!({"n": 7}), "replaced, not merged");
    assert_eq!(answer["full_name"], "Alice", "not named, not replaced");
    assert_eq!(stage.a().me(&alice.token).await.expect(200).json, answer.json);
}

async fn only_the_profile_fields_can_be_written(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let before = stage.a().me(&alice.token).await.expect(200);
    let greedy = json!({
        "id": "00000000-0000-4000-8000-000000000000", "email": "other@example.test", "created_at": "2001-01-01T00:00:00Z",
        "disabled_at": "2001-01-01T00:00:00Z", "auth_epoch": 99, "password_hash": "x", "role": "admin", "full_name": "Al",
    });
    let after = stage.a().patch_profile(&alice.token, &greedy).await.expect(200);
    for member in ["id", "email", "created_at", "metadata", "avatar_url"] {
        assert_eq!(after[member], before[member], "{member}");
    }
    assert_eq!(after["full_name"], "Al");
    stage.a().try_login(&alice.email, &alice.password).await.expect(200);
    stage.a().me(&alice.token).await.expect(200);
}

async fn a_profile_change_reaches_every_node(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    // Both nodes have the old profile at hand.
    for node in stage.nodes() {
        node.me(&alice.token).await.expect(200);
    }
    stage.a().patch_profile(&alice.token, &json!({"full_name": "New"})).await.expect(200);
    // The node that changed it knows at once, the other one when it has heard of it.
    assert_eq!(stage.a().me(&alice.token).await.expect(200)["full_name"], "New");
    eventually("the other node shows the new name", async || {
        (stage.b().me(&alice.token).await.expect(200)["full_name"] == "New").then_some(())
    })
    .await;
}

async fn two_crossing_updates_are_both_kept(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let change = |node: &Node, round: usize, side: &str| {
        let (node, token) = (node.clone(), alice.token.clone());
        let metadata = json!({ "metadata": { format!("{side}{round}"): round } });
        tokio::spawn(async move { node.patch_profile(&token, &metadata).await.expect(200) })
    };
    let rounds: Vec<_> = (0..8).flat_map(|n| [change(stage.a(), n, "a"), change(stage.b(), n, "b")]).collect();
    for answer in rounds {
        answer.await.expect("an update");
    }
    let kept = stage.a().patch_profile(&alice.token, &json!({})).await.expect(200);
    assert_eq!(kept["metadata"].as_object().map(serde_json::Map::len), Some(16), "{:#}", kept["metadata"]);
}

async fn metadata_is_bounded(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let filled = |name: &str, bytes: usize| json!({ "metadata": { name: "x".repeat(bytes) } });
    // 64 KiB in all, the name, the quotes and the braces included.
    stage.a().put_profile(&alice.token, &filled("a", 65_536 - 100)).await.expect(200);
    stage.a().put_profile(&alice.token, &filled("a", 65_536 + 1)).await.problem(&[413, 422]);
    stage.a().patch_profile(&alice.token, &filled("a", 65_536 + 1)).await.problem(&[413, 422]);
    // Each half passes, both together do not.
    stage.a().put_profile(&alice.token, &filled("a", 40_000)).await.expect(200);
    stage.a().patch_profile(&alice.token, &filled("b", 40_000)).await.problem(&[413, 422]);
    let kept = stage.a().me(&alice.token).await.expect(200);
    assert_eq!(kept["metadata"]["a"].as_str().map(str::len), Some(40_000));
    assert_eq!(kept["metadata"]["b"], Value::Null);
}

async fn a_new_password_ends_every_other_session(mode: Mode) {
    let stage = mode.stage().await;
    let own = stage.a().signup().await;
    let other = stage.b().login(&own).await;
    let new = new_password();
    stage.a().change_password(&own.token, &own.password, &new).await.expect(200);

    stage.a().me(&own.token).await.expect(200);
    stage.a().validate(&own.session_id).await.expect(200);
    stage.a().me(&other.token).await.is_bad_token();
    stage.a().validate(&other.session_id).await.is_unauthenticated();
    stage.a().try_login(&own.email, &own.password).await.is_problem(401, "invalid_credentials");
    stage.b().try_login(&own.email, &own.password).await.is_problem(401, "invalid_credentials");
    stage.b().try_login(&own.email, &new).await.expect(200);
}

async fn a_wrong_current_password_logs_nobody_out(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let other = stage.a().login(&alice).await;
    let answer = stage.a().change_password(&alice.token, &new_password(), &new_password()).await;
    answer.is_problem(403, "invalid_current_password");
    stage.a().me(&alice.token).await.expect(200);
    stage.a().me(&other.token).await.expect(200);
    stage.a().try_login(&alice.email, &alice.password).await.expect(200);
}

async fn a_new_password_obeys_the_rules_of_signup(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for refused in ["", "short", &"x".repeat(20_000)] {
        stage.a().change_password(&alice.token, &alice.password, refused).await.problem(&[422]);
    }
    stage.a().try_login(&alice.email, &alice.password).await.expect(200);
}
