//! A signing key that was revoked voids its tokens on every node within the bound, also those verified before, and closes
//! their sockets. Nobody is logged out: sessions live, and get tokens of another key.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::gateway::Settings;
use crate::common::proxy::{Network, Proxy};
use crate::common::servers::{PostgresServer, RedisServer};
use crate::common::{Gateway, Mode, Stage, eventually, stages};
use crate::{is_good_everywhere, kid, published, revoke, session_goes_on, sockets, token_is_void};

stages! {
    both: [
        a_revoked_key_voids_its_tokens_and_closes_their_sockets,
        a_node_goes_on_when_its_own_keys_are_revoked,
        a_revoked_key_stays_revoked_over_a_restart,
        a_key_that_is_unknown_is_not_revoked,
        a_key_deleted_by_hand_is_revoked,
    ],
    cluster: [
        a_revoked_key_is_void_with_redis_killed,
        a_revoked_key_is_void_with_redis_hung,
        tokens_of_other_keys_are_spared,
        a_node_cut_from_the_database_hears_of_keys_and_of_their_end,
        an_unknown_key_costs_no_query,
    ],
}

/// Somebody's token of the first node's key, known as good and in use everywhere; then the key is revoked.
async fn revoked_in_use(stage: &Stage, before: impl AsyncFn()) {
    let alice = stage.a().signup().await;
    let mut open = sockets(stage, &alice.token).await;
    is_good_everywhere(stage, &alice.token).await;
    before().await;
    let told = revoke(&stage.gateways[0], &kid(&alice.token)).await;
    for socket in &mut open {
        // The session lives, so clients are sent for a new token and not away.
        socket.expect_close(3014, "state invalidated").await;
    }
    token_is_void(stage, &alice.token, told).await;
    let token = session_goes_on(stage, &alice).await;
    assert_ne!(kid(&token), kid(&alice.token));
    for node in stage.nodes() {
        assert!(!published(node).await.contains(&kid(&alice.token)), "a revoked key is published no more");
    }
}

async fn a_revoked_key_voids_its_tokens_and_closes_their_sockets(mode: Mode) {
    let stage = mode.own().start().await;
    revoked_in_use(&stage, async || {}).await;
}

async fn a_revoked_key_is_void_with_redis_killed(mode: Mode) {
    let stage = mode.own().start().await;
    revoked_in_use(&stage, async || stage.redis().kill()).await;
}

async fn a_revoked_key_is_void_with_redis_hung(mode: Mode) {
    let stage = mode.own().start().await;
    revoked_in_use(&stage, async || stage.redis().stop_signal()).await;
}

async fn a_node_goes_on_when_its_own_keys_are_revoked(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut token = alice.token.clone();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(kid(&token));
        revoke(&stage.gateways[0], &kid(&token)).await;
        // At once: the next key was published before it was needed.
        token = session_goes_on(&stage, &alice).await;
        assert!(!seen.contains(&kid(&token)), "a revoked key signs no more");
        // The node makes another one meanwhile, so that there is one for the next time.
        eventually("a next key is published", async || {
            let known = published(stage.a()).await;
            (known.iter().filter(|known| !seen.contains(known)).count() >= 2 * stage.gateways.len()).then_some(())
        })
        .await;
    }
    // Both at once: for a moment there may be nothing to sign with, which is no fault of the caller.
    let (_, said) = stage.gateways[0].operate(&["key", "list", "--json"]).await;
    let keys: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    for key in keys.as_array().expect("a list").iter().filter(|key| key["state"] != "revoked") {
        revoke(&stage.gateways[0], key["kid"].as_str().expect("a kid")).await;
    }
    eventually("every node has made itself new keys", async || {
        for node in stage.nodes() {
            let answer = node.validate(&alice.session_id).await;
            if answer.status != 200 {
                answer.problem(&[503]);
                return None;
            }
        }
        Some(())
    })
    .await;
    session_goes_on(&stage, &alice).await;
}

async fn a_revoked_key_stays_revoked_over_a_restart(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    stage.gateways[0].kill();
    // Nobody signs with it just now, and the node finds out when it comes back with its file.
    let beside = stage.gateways.last().expect("a gateway");
    let (status, said) = beside.operate(&["key", "revoke", &kid(&alice.token)]).await;
    assert!(said.contains("is revoked"), "{status}: {said}");
    stage.gateways[0].restart().await;
    for node in stage.nodes() {
        node.me(&alice.token).await.is_bad_token();
    }
    session_goes_on(&stage, &alice).await;
    let (status, said) = beside.operate(&["key", "revoke", &kid(&alice.token)]).await;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("revoked before"), "{said}");
}

async fn a_key_that_is_unknown_is_not_revoked(mode: Mode) {
    let stage = mode.stage().await;
    let (status, said) = stage.gateways[0].operate(&["key", "revoke", "no-such-key"]).await;
    assert_ne!(status, 0, "{said}");
    assert!(said.contains("there is no key no-such-key"), "{said}");
    let (status, said) = stage.gateways[0].operate(&["key", "list"]).await;
    assert_eq!(status, 0, "{said}");
    let count = |state: &str| said.lines().filter(|line| line.contains(state)).count();
    assert_eq!((count("current"), count("next")), (stage.gateways.len(), stage.gateways.len()), "{said}");
    assert!(!said.contains("no-such-key"), "{said}");
}

async fn a_key_deleted_by_hand_is_revoked(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut open = sockets(&stage, &alice.token).await;
    stage.database.delete_key(&kid(&alice.token)).await;
    for socket in &mut open {
        socket.expect_close(3014, "state invalidated").await;
    }
    for node in stage.nodes() {
        node.me(&alice.token).await.is_bad_token();
    }
    let token = session_goes_on(&stage, &alice).await;
    assert_ne!(kid(&token), kid(&alice.token), "the node does not register it anew");
}

async fn tokens_of_other_keys_are_spared(mode: Mode) {
    let stage = mode.own().start().await;
    let (alice, bob) = (stage.a().signup().await, stage.b().signup().await);
    let mut spared = sockets(&stage, &bob.token).await;
    // A ticket's socket stands by its session and by no key.
    let ticket = stage.a().ticket(&alice.token, None).await;
    let mut by_ticket = stage.b().socket().ticket(&ticket).open().await;
    by_ticket.expect_admitted(&alice.user_id).await;
    let told = revoke(&stage.gateways[0], &kid(&alice.token)).await;
    token_is_void(&stage, &alice.token, told).await;
    for socket in &mut spared {
        socket.expect_open().await;
    }
    is_good_everywhere(&stage, &bob.token).await;
    by_ticket.expect_open().await;
}

/// While a node cannot reach the database, Redis brings it the keys of the others, and their end.
async fn a_node_cut_from_the_database_hears_of_keys_and_of_their_end(_: Mode) {
    let postgres = PostgresServer::shared();
    let (url, redis) = (postgres.database().await, RedisServer::start());
    let proxy = Proxy::before(postgres.port());
    let through = url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.port()));
    let settings = Settings::embedded().redis(&redis);
    let (here, cut) = (settings.clone().postgres(&url).spawn(), settings.postgres(&through).spawn());
    here.ready().await;
    cut.ready().await;
    let alice = here.node().signup().await;
    cut.node().me(&alice.token).await.expect(200);
    cut_off(&proxy, &cut, &alice.token).await;
    let mut token = alice.token;
    for round in 0..3 {
        // From the second round on, the key that is taken is one that no log has brought to the other node.
        let (_, said) = here.operate(&["key", "revoke", &kid(&token)]).await;
        assert!(said.contains("is revoked"), "{said}");
        let fresh = here.node().validate(&alice.session_id).await.expect(200).str("access_token").to_owned();
        assert_ne!(kid(&fresh), kid(&token));
        assert_eq!(cut.node().me(&token).await.status, 401, "round {round}: the revoked key's token");
        assert_eq!(cut.node().me(&fresh).await.status, 200, "round {round}: the new key's token");
        token = fresh;
        // Two of either node: the one in use and the next.
        eventually("the key made last is known there too", async || {
            (published(&here.node()).await.len() == 4 && published(&cut.node()).await.len() == 4).then_some(())
        })
        .await;
    }
}

/// Cuts a node from its database, once it has heard enough of the other one to go by its lease.
async fn cut_off(proxy: &Proxy, cut: &Gateway, token: &str) {
    eventually("the node answers without its database", async || {
        // Cut off in the middle of catching up, it would never come to hear enough.
        eventually("the node answers", async || (cut.node().me(token).await.status == 200).then_some(())).await;
        proxy.network(Network::Refuses);
        let since = Instant::now();
        // Past this, what it remembers is proven by the beats alone.
        while since.elapsed() < Duration::from_millis(1500) {
            if cut.node().me(token).await.status != 200 {
                proxy.network(Network::Passes);
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn an_unknown_key_costs_no_query(mode: Mode) {
    const TOKENS: usize = 40;
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut header = crate::common::people::token_header(&alice.token);
    let rest = alice.token.split_once('.').expect("a JWT").1.to_owned();
    let before = queries(&stage).await;
    for number in 0..TOKENS {
        header["kid"] = json!(format!("unknown-{number}"));
        let token = format!("{}.{rest}", crate::corpus::base64url(header.to_string()));
        stage.a().me(&token).await.is_bad_token();
    }
    let after = queries(&stage).await;
    assert!(after - before < TOKENS as u64 / 2, "{} look-ups of keys and sessions for {TOKENS} tokens", after - before);
}

/// Look-ups that a token could have caused.
async fn queries(stage: &Stage) -> u64 {
    let metrics = stage.a().get("/metrics").send().await.expect(200).text;
    let counted = |line: &&str| {
        line.starts_with("portcullis_database_queries_total")
            && ["keys", "load_sessions", "load_users"].iter().any(|query| line.contains(&format!("query=\"{query}\"")))
    };
    metrics.lines().filter(counted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}
