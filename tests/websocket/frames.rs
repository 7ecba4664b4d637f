//! The wire: what `connect` answers, and what closes a socket that does not keep to the protocol.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use uuid::Uuid;

use crate::common::people::forged;
use crate::common::{Event, Mode, Node, Socket, stages};

stages! {
    both: [
        connect_answers_with_its_shape,
        a_second_connect_is_3501,
        a_command_before_connect_is_3501,
        a_command_without_an_id_is_3501,
        what_is_no_command_is_3501,
        an_empty_frame_is_3501,
        a_binary_frame_is_1003,
        a_message_over_64_kib_is_1009,
        a_message_of_64_kib_is_read,
        invalid_utf8_is_1007,
        a_protocol_error_is_1002,
        several_commands_in_one_frame_are_answered_in_order,
        commands_behind_connect_wait_for_its_answer,
        connect_without_a_credential_is_3500,
        connect_with_a_forged_token_is_3500,
        connect_with_the_token_of_another_session_is_3500,
        connect_with_a_token_governs_an_admitted_socket,
    ],
}

async fn connected(node: &Node) -> Socket {
    let somebody = node.signup().await;
    node.connect(&somebody.token).await
}

async fn connect_answers_with_its_shape(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().socket().open().await;
    let reply = socket.connect(&alice.token).await;
    let connect = reply["connect"].as_object().expect("an answer");
    Uuid::parse_str(connect["client"].as_str().expect("a client")).expect("a UUID");
    assert!(connect["version"].as_str().is_some_and(|version| !version.is_empty()), "{reply}");
    assert_eq!(connect["expires"], true);
    // 900 s less a fifth, at most 30 s; some of it may have passed.
    assert!((830..=870).contains(&connect["ttl"].as_i64().expect("a ttl")), "{reply}");
    assert_eq!((&connect["ping"], &connect["pong"]), (&json!(25), &json!(true)));
    assert!(!connect.contains_key("session") && !connect.contains_key("node"), "{reply}");
    let mut other = stage.b().socket().open().await;
    assert_ne!(other.connect(&alice.token).await["connect"]["client"], connect["client"]);
}

async fn a_second_connect_is_3501(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.a().connect(&alice.token).await;
    socket.send_command(json!({"connect": {"token": alice.token}})).await;
    socket.expect_close(3501, "bad request").await;
    // Also when the first one has no answer yet.
    let mut socket = stage.a().socket().open().await;
    let connect = |id: u8| json!({"id": id, "connect": {"token": alice.token}}).to_string();
    socket.send(&format!("{}\n{}", connect(1), connect(2))).await;
    socket.expect_close(3501, "bad request").await;
}

async fn a_command_before_connect_is_3501(mode: Mode) {
    let stage = mode.stage().await;
    for command in [
        json!({"rpc": {"method": "auth.me", "data": {}}}),
        json!({"ping": {}}),
        json!({"refresh": {"token": "x"}}),
        json!({"subscribe": {"channel": "news"}}),
    ] {
        let mut socket = stage.a().socket().open().await;
        socket.send_command(command).await;
        socket.expect_close(3501, "bad request").await;
    }
}

async fn a_command_without_an_id_is_3501(mode: Mode) {
    let stage = mode.stage().await;
    for command in [r#"{"rpc":{"method":"echo","data":1}}"#, r#"{"ping":{}}"#, r#"{"id":0,"ping":{}}"#] {
        let mut socket = connected(stage.a()).await;
        socket.send(command).await;
        socket.expect_close(3501, "bad request").await;
    }
    let alice = stage.a().signup().await;
    let mut socket = stage.a().socket().open().await;
    socket.send(&json!({"connect": {"token": alice.token}}).to_string()).await;
    socket.expect_close(3501, "bad request").await;
}

async fn what_is_no_command_is_3501(mode: Mode) {
    let stage = mode.stage().await;
    let deep = "[".repeat(10_000);
    for text in [
        "nonsense",
        "{",
        "[]",
        "null",
        "7",
        "\"text\"",
        r#"{"id":2}"#,
        r#"{"id":2,"dance":{}}"#,
        r#"{"id":"2","ping":{}}"#,
        r#"{"id":-1,"ping":{}}"#,
        r#"{"id":2,"rpc":"echo"}"#,
        r#"{"id":2,"rpc":{"method":7}}"#,
        r#"[{"id":2,"ping":{}}]"#,
        &deep,
    ] {
        let mut socket = connected(stage.a()).await;
        socket.send(text).await;
        let (code, reason, _) = socket.closed().await;
        assert_eq!((code, reason.as_str()), (3501, "bad request"), "{text:.80}");
    }
    for text in ["nonsense", r#"{"id":1,"connect":"token"}"#, r#"{"id":1,"connect":{"token":7}}"#] {
        let mut socket = stage.a().socket().open().await;
        socket.send(text).await;
        socket.expect_close(3501, "bad request").await;
    }
}

async fn an_empty_frame_is_3501(mode: Mode) {
    let stage = mode.stage().await;
    for text in ["", "\n", "{\"id\":2,\"ping\":{}}\n\n{\"id\":3,\"ping\":{}}"] {
        let mut socket = connected(stage.a()).await;
        socket.send(text).await;
        socket.expect_close(3501, "bad request").await;
    }
}

async fn a_binary_frame_is_1003(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = connected(stage.a()).await;
    socket.send_binary(br#"{"id":2,"ping":{}}"#).await;
    socket.expect_close_code(1003).await;
    let mut fresh = stage.a().socket().open().await;
    fresh.send_binary(b"\x00").await;
    fresh.expect_close_code(1003).await;
}

fn echo_of(bytes: usize) -> String {
    let empty = json!({"id": 2, "rpc": {"method": "echo", "data": ""}}).to_string().len();
    json!({"id": 2, "rpc": {"method": "echo", "data": "x".repeat(bytes - empty)}}).to_string()
}

async fn a_message_over_64_kib_is_1009(mode: Mode) {
    let stage = mode.stage().await;
    for bytes in [65_537, 200_000] {
        let mut socket = connected(stage.a()).await;
        socket.send(&echo_of(bytes)).await;
        socket.expect_close_code(1009).await;
    }
}

async fn a_message_of_64_kib_is_read(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = connected(stage.a()).await;
    socket.send(&echo_of(65_536)).await;
    let reply = socket.reply(2).await;
    assert!(reply["rpc"]["data"].as_str().is_some_and(|data| data.len() > 65_000));
}

async fn invalid_utf8_is_1007(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = connected(stage.a()).await;
    socket.send_as_text(b"{\"id\":2,\"rpc\":{\"method\":\"echo\",\"data\":\"\xff\xfe\"}}").await;
    socket.expect_close_code(1007).await;
}

async fn a_protocol_error_is_1002(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = connected(stage.a()).await;
    // A reserved opcode.
    socket.send_frame(OpCode::Data(Data::Reserved(3)), b"x").await;
    socket.expect_close_code(1002).await;
}

async fn several_commands_in_one_frame_are_answered_in_order(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = connected(stage.a()).await;
    let lines: Vec<String> = (10..20)
        .map(|id| match id % 2 {
            0 => json!({"id": id, "rpc": {"method": "echo", "data": id}}).to_string(),
            _ => json!({"id": id, "ping": {}}).to_string(),
        })
        .collect();
    socket.send(&lines.join("\n")).await;
    for id in 10..20 {
        match socket.next().await {
            Event::Reply(reply) => {
                assert_eq!(reply["id"], id, "{reply}");
                assert_eq!(reply["rpc"]["data"], if id % 2 == 0 { json!(id) } else { Value::Null });
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn commands_behind_connect_wait_for_its_answer(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let mut socket = stage.b().socket().open().await;
    let connect = json!({"id": 1, "connect": {"token": alice.token}});
    let me = json!({"id": 2, "rpc": {"method": "auth.me", "data": {}}});
    socket.send(&format!("{connect}\n{me}")).await;
    assert!(matches!(socket.next().await, Event::Reply(reply) if reply["id"] == 1 && reply["connect"].is_object()));
    assert_eq!(socket.reply(2).await["rpc"]["data"]["id"], alice.user_id);
}

async fn connect_without_a_credential_is_3500(mode: Mode) {
    let stage = mode.stage().await;
    for connect in [json!({}), json!({"token": ""}), json!({"token": null}), json!({"data": {"token": "x"}})] {
        let mut socket = stage.a().socket().open().await;
        socket.send_command(json!({"connect": connect})).await;
        socket.expect_close(3500, "invalid token").await;
    }
}

async fn connect_with_a_forged_token_is_3500(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    for token in [forged(&alice.token), "nonsense".to_owned(), alice.session_id.clone()] {
        let mut socket = stage.a().socket().open().await;
        socket.send_command(json!({"connect": {"token": token}})).await;
        socket.expect_close(3500, "invalid token").await;
    }
}

async fn connect_with_the_token_of_another_session_is_3500(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    // Another session of the same user is another session.
    for other in [stage.a().login(&alice).await, stage.a().signup().await] {
        let mut socket = stage.b().socket().bearer(&alice.token).open().await;
        socket.send_command(json!({"connect": {"token": other.token}})).await;
        socket.expect_close(3500, "invalid token").await;
        stage.b().me(&other.token).await.expect(200);
    }
    stage.b().me(&alice.token).await.expect(200);
}

async fn connect_with_a_token_governs_an_admitted_socket(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    let ticket = stage.a().ticket(&alice.token, None).await;
    let mut socket = stage.b().socket().ticket(&ticket).open().await;
    let reply = socket.connect(&alice.token).await;
    assert_eq!(reply["connect"]["expires"], true, "now the token's end is the socket's: {reply}");
    assert!(reply["connect"]["ttl"].is_u64(), "{reply}");
}
