//! Keys that nodes make for themselves are replaced without an outage: the next one is published long before it is used,
//! and the tokens of the one before stay good until they expire.

use crate::common::wait::eventually_within;
use crate::common::{DEADLINE, Mode, Stage, eventually, stages};
use crate::{is_good_everywhere, kid, published};

stages! {
    both: [
        keys_change_with_time_and_no_token_is_refused,
        keys_change_when_the_operator_says_so,
        a_restart_finds_both_keys_again,
    ],
}

async fn new_token(stage: &Stage, session_id: &str) -> String {
    stage.a().validate(session_id).await.expect(200).str("access_token").to_owned()
}

/// Asks for tokens until one is signed with a key that is not among `known`. Every key must have been published on every
/// node before it signs.
async fn next_signature(stage: &Stage, session_id: &str, known: &[String]) -> String {
    eventually_within(3 * DEADLINE, "another key signs", async || {
        let mut before = Vec::new();
        for node in stage.nodes() {
            before.push(published(node).await);
        }
        let token = new_token(stage, session_id).await;
        assert!(
            before.iter().all(|keys| keys.contains(&kid(&token))),
            "a key signs that was not published: {before:?}"
        );
        (!known.contains(&kid(&token))).then_some(token)
    })
    .await
}

async fn keys_change_with_time_and_no_token_is_refused(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_SIGNING_KEY_ROTATION", "2s").start().await;
    let alice = stage.a().signup().await;
    let (mut tokens, mut kids) = (vec![alice.token.clone()], vec![kid(&alice.token)]);
    for _ in 0..2 {
        let token = next_signature(&stage, &alice.session_id, &kids).await;
        kids.push(kid(&token));
        tokens.push(token);
        for token in &tokens {
            is_good_everywhere(&stage, token).await;
        }
    }
    for node in stage.nodes() {
        let known = published(node).await;
        assert!(kids.iter().all(|kid| known.contains(kid)), "a retired key stays published: {known:?}");
    }
}

async fn keys_change_when_the_operator_says_so(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut open = stage.b().connect(&alice.token).await;
    let (status, said) = stage.gateways[0].operate(&["key", "rotate"]).await;
    assert_eq!(status, 0, "{said}");
    let token = next_signature(&stage, &alice.session_id, &[kid(&alice.token)]).await;
    is_good_everywhere(&stage, &token).await;
    is_good_everywhere(&stage, &alice.token).await;
    open.expect_open().await;
    eventually("the old key is retired", async || {
        let (_, said) = stage.gateways[0].operate(&["key", "list"]).await;
        said.lines().any(|line| line.starts_with(&kid(&alice.token)) && line.contains("retired")).then_some(())
    })
    .await;
}

async fn a_restart_finds_both_keys_again(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let before = published(stage.a()).await;
    stage.gateways[0].restart().await;
    assert_eq!(published(stage.a()).await, before, "no new keys");
    assert_eq!(kid(&new_token(&stage, &alice.session_id).await), kid(&alice.token));
    is_good_everywhere(&stage, &alice.token).await;
}
