//! What a connected socket can ask for, and what it is told.

use serde_json::{Value, json};

use crate::common::{DEADLINE, Mode, Socket, stages};

stages! {
    both: [
        auth_me_is_the_user,
        auth_sessions_marks_the_sockets_own,
        auth_logout_ends_the_session_with_4500,
        auth_logout_all_devices_ends_every_socket_with_4501,
        echo_gives_back_what_it_got,
        an_unknown_auth_method_is_104_and_any_other_108,
        ping_is_answered_in_kind,
        send_is_3508_until_something_takes_it,
        channels_are_108_for_now,
        an_unasked_pong_is_ignored,
        a_profile_change_is_pushed_to_every_socket_of_the_user,
    ],
}

async fn auth_me_is_the_user(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().connect(&alice.token).await;
    let reply = socket.rpc("auth.me", json!({})).await;
    assert_eq!(reply["rpc"]["data"], stage.a().me(&alice.token).await.expect(200).json);
    // Some clients leave `data` out or send null.
    for rpc in [json!({"method": "auth.me"}), json!({"method": "auth.me", "data": null})] {
        assert_eq!(socket.command(json!({ "rpc": rpc })).await["rpc"]["data"]["id"], alice.user_id);
    }
}

async fn auth_sessions_marks_the_sockets_own(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.a().login(&phone).await;
    let mut socket = stage.b().connect(&laptop.token).await;
    let reply = socket.rpc("auth.sessions", json!({})).await;
    let sessions = reply["rpc"]["data"]["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 2, "{reply}");
    let current: Vec<_> = sessions.iter().filter(|session| session["current"] == true).collect();
    assert_eq!(current.len(), 1, "{reply}");
    assert_eq!(current[0]["sid"], laptop.sid);
}

async fn auth_logout_ends_the_session_with_4500(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut own = stage.a().connect(&alice.token).await;
    let mut same_session = stage.b().connect(&alice.token).await;
    own.send_command(json!({"rpc": {"method": "auth.logout", "data": {}}})).await;
    own.expect_forced(4500, "logged out").await;
    same_session.expect_forced(4500, "logged out").await;
    stage.a().me(&alice.token).await.is_bad_token();
    stage.a().validate(&alice.session_id).await.is_unauthenticated();
}

async fn auth_logout_all_devices_ends_every_socket_with_4501(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.a().login(&phone).await;
    let mut own = stage.a().connect(&phone.token).await;
    let mut other = stage.b().connect(&laptop.token).await;
    own.send_command(json!({"rpc": {"method": "auth.logout_all_devices", "data": {}}})).await;
    own.expect_forced(4501, "logged out everywhere").await;
    other.expect_forced(4501, "logged out everywhere").await;
    stage.a().validate(&laptop.session_id).await.is_unauthenticated();
}

async fn echo_gives_back_what_it_got(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().connect(&alice.token).await;
    let long = "long ".repeat(2_000);
    for data in
        [json!({"text": "Zoë 🦀\n", "n": 1.5, "list": [1, null, {}]}), json!("text"), json!(7), json!([]), json!(long)]
    {
        let reply = socket.rpc("echo", data.clone()).await;
        assert_eq!(reply["rpc"]["data"], data);
        assert_eq!(reply.get("error"), None);
    }
}

async fn an_unknown_auth_method_is_104_and_any_other_108(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().connect(&alice.token).await;
    for method in ["auth.nothing", "auth.", "auth.me.more", "auth.Me"] {
        Socket::is_error(&socket.rpc(method, json!({})).await, 104);
    }
    for method in ["nothing", "authme", "Echo", ""] {
        Socket::is_error(&socket.rpc(method, json!({})).await, 108);
    }
    socket.expect_open().await;
}

async fn ping_is_answered_in_kind(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().connect(&alice.token).await;
    let reply = socket.command(json!({"ping": {}})).await;
    assert_eq!(reply["ping"], json!({}));
}

async fn send_is_3508_until_something_takes_it(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().connect(&alice.token).await;
    socket.send(r#"{"send":{"data":{"hello":"world"}}}"#).await;
    socket.expect_close(3508, "not available").await;
    stage.a().me(&alice.token).await.expect(200);
}

async fn channels_are_108_for_now(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().connect(&alice.token).await;
    for command in [
        json!({"subscribe": {"channel": "news"}}),
        json!({"unsubscribe": {"channel": "news"}}),
        json!({"publish": {"channel": "news", "data": {}}}),
        json!({"presence": {"channel": "news"}}),
        json!({"presence_stats": {"channel": "news"}}),
        json!({"history": {"channel": "news", "limit": 1}}),
        json!({"sub_refresh": {"channel": "news", "token": "x"}}),
    ] {
        Socket::is_error(&socket.command(command).await, 108);
    }
    socket.expect_open().await;
}

async fn an_unasked_pong_is_ignored(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().socket().open().await;
    socket.send("{}").await;
    assert!(socket.connect(&alice.token).await["connect"]["client"].is_string());
    for _ in 0..3 {
        socket.send("{}").await;
    }
    socket.expect_open().await;
}

async fn a_profile_change_is_pushed_to_every_socket_of_the_user(mode: Mode) {
    let stage = mode.stage().await;
    let phone = stage.a().signup().await;
    let laptop = stage.a().login(&phone).await;
    let bob = stage.a().signup().await;
    let mut sockets = [
        stage.a().connect(&phone.token).await,
        stage.b().connect(&phone.token).await,
        stage.b().connect(&laptop.token).await,
    ];
    let mut bystander = stage.b().connect(&bob.token).await;
    let change = json!({"full_name": "Alice", "metadata": {"theme": "dark"}});
    let user = stage.a().patch_profile(&phone.token, &change).await.expect(200).json;
    for socket in &mut sockets {
        let push = socket.next_push().await;
        assert_eq!(push, json!({"message": {"data": {"type": "user.updated", "user": user}}}));
    }
    // The next thing that the other user hears is their own news.
    stage.a().patch_profile(&bob.token, &json!({"full_name": "Bob"})).await.expect(200);
    let push = tokio::time::timeout(DEADLINE, bystander.next_push()).await.expect("a push");
    assert_eq!(push["message"]["data"]["user"]["id"], bob.user_id, "{push}");
    assert_eq!(push["message"]["data"]["user"].get("password"), None::<&Value>);
}
