//! What a node never writes down, however much it is asked to log.

use serde_json::json;

use crate::common::people::{claims, new_password};
use crate::common::{Mode, stages};

stages! {
    both: [no_secret_reaches_the_log],
}

async fn no_secret_reaches_the_log(mode: Mode) {
    let open = mode.own().env("RUST_LOG", "trace").env("PORTCULLIS_COOKIES", "on");
    let stage = open.env("PORTCULLIS_DRAIN_WINDOW", "1s").start().await;
    let alice = stage.a().signup().await;
    let bob = stage.b().signup().await;
    let (wrong, new) = (new_password(), new_password());
    let ticket = stage.a().ticket(&alice.token, None).await;
    let unused = stage.a().ticket(&alice.token, None).await;
    let renewed = stage.b().validate(&alice.session_id).await.expect(200).str("access_token").to_owned();
    stage.a().try_login(&alice.email, &wrong).await.expect(401);
    let form = [("username", alice.email.as_str()), ("password", alice.password.as_str())];
    stage.a().post("/api/v1/auth/login").form(&form).send().await.expect(200);
    stage.a().change_password(&alice.token, &wrong, &new).await.expect(403);
    stage.a().change_password(&alice.token, &alice.password, &new).await.expect(200);

    let node = stage.b();
    let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
    let mut sockets = [
        node.connect(&alice.token).await,
        node.socket().bearer(&alice.token).open().await,
        node.socket().subprotocols(&offered).open().await,
        node.socket().ticket(&ticket).open().await,
        node.socket().cookie(&alice.session_id).origin(&node.url).open().await,
    ];
    node.socket().ticket(&ticket).attempt().await.problem(&[401]);
    let path = format!("/ws?token={}&ticket={unused}", alice.token);
    node.socket().path(&path).attempt().await.problem(&[400]);
    node.get(&format!("/api/v1/auth/me?token={}", alice.token)).send().await.problem(&[400, 401]);
    assert!(sockets[0].command(json!({"refresh": {"token": renewed}})).await["refresh"].is_object());
    // What cannot be read must not be quoted either.
    node.post("/api/v1/auth/login").body(format!("{{\"password\": \"{wrong}\", ")).send().await.problem(&[400]);
    node.post("/api/v1/auth/validate-session").json(&json!({"session_id": [bob.session_id]})).send().await;
    sockets[1].send(&format!("{{\"id\":1,\"connect\":{{\"token\":[\"{}\"]}}}}", bob.token)).await;
    sockets[1].expect_close(3501, "bad request").await;
    stage.a().logout_all(&alice.token).await.expect(200);
    sockets[0].expect_forced(4501, "logged out everywhere").await;
    for gateway in &stage.gateways {
        gateway.stop().await;
    }

    let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    let secrets = [
        ("a password", alice.password.clone()),
        ("a wrong password", wrong),
        ("a new password", new),
        ("a session_id", alice.session_id.clone()),
        ("a session_id", bob.session_id.clone()),
        ("a session_id without hyphens", alice.session_id.replace('-', "")),
        ("a token", signature(&alice.token)),
        ("a token", signature(&renewed)),
        ("a token", signature(&bob.token)),
        ("a ticket", ticket),
        ("a ticket", unused),
    ];
    for gateway in &stage.gateways {
        let log = gateway.log();
        // The wire-level crates are capped, and nothing of ours is finer than debug.
        assert!(log.contains("DEBUG"), "RUST_LOG is not heard, so this shows nothing");
        for (what, secret) in &secrets {
            let line = log.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{what} in the log: {}", line.unwrap_or_default());
        }
    }
    // The public handle is what logs are for.
    let sid = claims(&alice.token)["sid"].as_str().expect("a sid").to_owned();
    assert!(stage.gateways.iter().any(|gateway| gateway.log().contains(&sid)), "no log line names the session");
}
