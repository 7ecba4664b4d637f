//! Starting, alone and at once with others, and coming back with everything that was answered.

use crate::common::gateway::Settings;
use crate::common::people::new_password;
use crate::common::servers::{PostgresServer, RedisServer};
use crate::common::{Gateway, Mode, stages};

stages! {
    both: [a_restart_keeps_sessions_and_tokens, a_crash_loses_nothing_that_was_answered],
    cluster: [two_nodes_start_at_once_on_an_empty_database, the_other_node_serves_while_one_is_gone],
    embedded: [
        a_bad_setting_stops_the_start_and_is_named,
        a_start_says_where_everything_is,
        keys_are_for_their_owner_alone,
    ],
}

async fn a_restart_keeps_sessions_and_tokens(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "1s").start().await;
    let (alice, ended) = (stage.a().signup().await, stage.a().signup().await);
    stage.a().logout(&ended.token).await.expect(200);
    for _ in 0..2 {
        stage.gateways[0].stop().await;
        stage.gateways[0].restart().await;
        for node in stage.nodes() {
            node.me(&alice.token).await.expect(200);
            node.validate(&alice.session_id).await.expect(200);
            node.connect(&alice.token).await.expect_open().await;
            node.me(&ended.token).await.is_bad_token();
            node.validate(&ended.session_id).await.is_unauthenticated();
        }
    }
    stage.a().try_login(&alice.email, &alice.password).await.expect(200);
}

async fn a_crash_loses_nothing_that_was_answered(mode: Mode) {
    let stage = mode.own().start().await;
    for _ in 0..3 {
        let (alice, ended) = (stage.a().signup().await, stage.a().signup().await);
        let new = new_password();
        stage.a().change_password(&alice.token, &alice.password, &new).await.expect(200);
        stage.a().logout(&ended.token).await.expect(200);
        stage.gateways[0].kill();
        stage.gateways[0].restart().await;
        stage.a().me(&ended.token).await.is_bad_token();
        stage.a().validate(&ended.session_id).await.is_unauthenticated();
        stage.a().me(&alice.token).await.expect(200);
        stage.a().try_login(&alice.email, &alice.password).await.is_problem(401, "invalid_credentials");
        stage.a().try_login(&alice.email, &new).await.expect(200);
    }
}

async fn two_nodes_start_at_once_on_an_empty_database(_: Mode) {
    for _ in 0..3 {
        let database = PostgresServer::shared().database().await;
        let redis = RedisServer::start();
        let settings = Settings::embedded().postgres(&database).redis(&redis);
        let gateways = [settings.clone().spawn(), settings.clone().spawn(), settings.spawn()];
        for gateway in &gateways {
            gateway.ready().await;
        }
        for issuer in &gateways {
            let alice = issuer.node().signup().await;
            for node in gateways.iter().map(Gateway::node) {
                // At once: no second try.
                node.me(&alice.token).await.expect(200);
                node.validate(&alice.session_id).await.expect(200);
                node.connect(&alice.token).await.expect_open().await;
            }
        }
    }
}

async fn the_other_node_serves_while_one_is_gone(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    let mut open = stage.b().connect(&alice.token).await;
    stage.gateways[0].kill();
    // Its signature is good though it cannot be asked any more.
    stage.b().me(&alice.token).await.expect(200);
    let next = stage.b().login(&alice).await;
    open.expect_open().await;
    stage.b().logout_all(&next.token).await.expect(200);
    open.expect_forced(4501, "logged out everywhere").await;
    stage.gateways[0].restart().await;
    stage.a().me(&alice.token).await.is_bad_token();
    stage.a().me(&next.token).await.is_bad_token();
    let again = stage.a().login(&alice).await;
    stage.b().me(&again.token).await.expect(200);
}

async fn a_bad_setting_stops_the_start_and_is_named(_: Mode) {
    for (name, value) in [
        ("PORTCULLIS_ACCESS_TOKEN_TTL", "banana"),
        ("PORTCULLIS_ACCESS_TOKEN_TTL", "0s"),
        ("PORTCULLIS_SESSION_TTL", "-1d"),
        ("PORTCULLIS_CONNECT_TIMEOUT", "15"),
        ("PORTCULLIS_MAX_MESSAGE_BYTES", "many"),
        ("PORTCULLIS_COOKIES", "perhaps"),
        ("PORTCULLIS_THROTTLING", "sometimes"),
        ("PORTCULLIS_ALLOWED_ORIGINS", "https://app.example/with/a/path"),
        ("PORTCULLIS_TRUSTED_PROXIES", "everybody"),
        ("PORT", "70000"),
        ("HOST", "not a host"),
        ("DATABASE_URL", "nonsense://somewhere"),
        ("REDIS_URL", "nonsense://somewhere"),
    ] {
        let gateway = Settings::embedded().env(name, value).spawn();
        let code = gateway.exited().await;
        assert!(code != 0 && code < 128, "{name}={value}: it ended with {code}");
        let log = gateway.log();
        assert!(log.contains(name), "{name}={value} is not named: {log}");
        assert!(!log.contains("panicked"), "{name}={value}: {log}");
    }
}

async fn a_start_says_where_everything_is(_: Mode) {
    let gateway = Settings::embedded().without("RUST_LOG").start().await;
    let log = gateway.log();
    for said in [gateway.node().authority(), &gateway.data_dir().display().to_string()] {
        assert!(log.contains(said), "{said} is not said: {log}");
    }
    assert!(log.to_lowercase().contains("throttling"), "switched off rate limits are said: {log}");
}

async fn keys_are_for_their_owner_alone(_: Mode) {
    use std::os::unix::fs::PermissionsExt;
    let gateway = Settings::embedded().start().await;
    let mut found = 0;
    let mut folders = vec![gateway.data_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("read DATA_DIR").flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().expect("metadata"));
            if metadata.is_dir() {
                folders.push(path);
            } else if String::from_utf8_lossy(&std::fs::read(&path).expect("read")).contains("PRIVATE KEY") {
                found += 1;
                assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{}", path.display());
            }
        }
    }
    assert!(found > 0, "no private key in {}", gateway.data_dir().display());
}
