use proptest::prelude::*;

use super::*;
use crate::entry::EndReason;

fn rpc(line: &str) -> (u32, String, Option<String>) {
    match parse(line) {
        Ok(Line::Command { id, request: Request::Rpc { method, data } }) => {
            (id, method.into_owned(), data.map(|data| data.get().to_owned()))
        }
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_answer_to_a_heartbeat_is_an_empty_object() {
    for line in ["{}", "{ }", " {}\r"] {
        assert!(matches!(parse(line), Ok(Line::Pong)), "{line:?}");
    }
}

#[test]
fn a_token_that_is_empty_or_null_is_none() {
    for body in ["{}", r#"{"token":""}"#, r#"{"token":null}"#, r#"{"data":{"token":"x"}}"#] {
        let line = format!(r#"{{"id":1,"connect":{body}}}"#);
        assert!(matches!(parse(&line), Ok(Line::Command { id: 1, request: Request::Connect(None) })), "{line}");
    }
    let line = r#"{"id":7,"refresh":{"token":"a.b.c"}}"#;
    let Ok(Line::Command { id: 7, request: Request::Refresh(Some(token)) }) = parse(line) else { panic!("{line}") };
    assert_eq!(token.expose(), "a.b.c");
}

#[test]
fn rpc_keeps_its_data_as_it_came() {
    assert_eq!(
        rpc(r#"{"id":2,"rpc":{"method":"echo","data":{"n": 1.50}}}"#),
        (2, "echo".into(), Some(r#"{"n": 1.50}"#.into()))
    );
    assert_eq!(rpc(r#"{"id":2,"rpc":{"method":"auth.me","data":null}}"#), (2, "auth.me".into(), None));
    assert_eq!(rpc(r#"{"rpc":{},"id":2}"#), (2, String::new(), None));
    assert_eq!(rpc(r#"{"rpc":{"method":"\u0061"},"id":2}"#).1, "a");
}

#[test]
fn send_needs_no_id() {
    assert!(matches!(parse(r#"{"send":{"data":1}}"#), Ok(Line::Send)));
    assert!(matches!(parse(r#"{"id":3,"send":{}}"#), Ok(Line::Send)));
}

#[test]
fn channel_commands_are_known() {
    for name in ["subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history", "sub_refresh"] {
        let line = format!(r#"{{"id":1,"{name}":{{"channel":"news"}}}}"#);
        assert!(matches!(parse(&line), Ok(Line::Command { id: 1, request: Request::Channel })), "{line}");
    }
}

#[test]
fn what_is_no_command_is_malformed() {
    let deep = "[".repeat(100_000);
    let deep_inside = format!(r#"{{"id":1,"rpc":{{"data":{deep}}}}}"#);
    for line in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "null",
        "7",
        "\"text\"",
        "nonsense",
        r#"{"id":2}"#,
        r#"{"id":2,"dance":{}}"#,
        r#"{"dance":{}}"#,
        r#"{"id":"2","ping":{}}"#,
        r#"{"id":-1,"ping":{}}"#,
        r#"{"id":4294967296,"ping":{}}"#,
        r#"{"id":1.5,"ping":{}}"#,
        r#"{"ping":{}}"#,
        r#"{"id":0,"ping":{}}"#,
        r#"{"id":2,"rpc":"echo"}"#,
        r#"{"id":2,"rpc":{"method":7}}"#,
        r#"{"id":2,"connect":["a.b.c"]}"#,
        r#"{"id":2,"connect":{"token":7}}"#,
        r#"{"id":2,"ping":[]}"#,
        r#"[{"id":2,"ping":{}}]"#,
        r#"{"id":2,"ping":{},"rpc":{"method":"echo"}}"#,
        r#"{"id":2,"id":3,"ping":{}}"#,
        r#"{"id":2,"ping":{}}{}"#,
        &deep,
        &deep_inside,
    ] {
        assert!(matches!(parse(line), Err(Malformed)), "{line:.80}");
    }
}

proptest! {
    #[test]
    fn no_line_makes_the_parser_panic(line in ".*") {
        let _ = parse(&line);
    }

    #[test]
    fn nothing_that_looks_like_a_command_makes_the_parser_panic(
        line in r#"\{("(id|connect|rpc|ping|send|refresh)":(\{("(token|method|data)":("[a-z\\]*"|[0-9e.-]*|null|\[\])?,?)*\}|[0-9-]{0,12}|null),?)*\}"#,
    ) {
        let _ = parse(&line);
    }
}

#[test]
fn replies_have_the_published_shape() {
    let client = ConnectionId::random();
    let admission = Admission { client, version: "1.0", expires: true, ttl: Some(870), ping: Some(25), pong: true };
    assert_eq!(
        connect_reply(1, admission.clone()),
        format!(
            r#"{{"id":1,"connect":{{"client":"{client}","version":"1.0","expires":true,"ttl":870,"ping":25,"pong":true}}}}"#
        )
    );
    let without = Admission { expires: false, ttl: None, ping: None, pong: false, ..admission };
    assert_eq!(refresh_reply(2, without), format!(r#"{{"id":2,"refresh":{{"client":"{client}","version":"1.0"}}}}"#));
    assert_eq!(ping_reply(3), r#"{"id":3,"ping":{}}"#);
    assert_eq!(rpc_reply(4, &serde_json::json!({"a": 1})), r#"{"id":4,"rpc":{"data":{"a":1}}}"#);
    assert_eq!(error_reply(5, ReplyError::NOT_AVAILABLE), r#"{"id":5,"error":{"code":108,"message":"not available"}}"#);
    assert!(error_reply(6, ReplyError::INTERNAL).contains(r#""temporary":true"#));
}

#[test]
fn a_forced_disconnect_is_announced_in_the_published_shape() {
    assert_eq!(
        disconnect_push(Close::LOGGED_OUT_EVERYWHERE),
        r#"{"push":{"disconnect":{"code":4501,"reason":"logged out everywhere","reconnect":false}}}"#
    );
}

#[test]
fn a_token_is_refreshed_a_fifth_of_its_life_early() {
    let cases =
        [(900, 870), (150, 120), (151, 121), (100, 80), (10, 8), (2, 1), (1, 1), (0, 1), (-5, 1), (i64::MAX, u32::MAX)];
    for (remaining, ttl) in cases {
        assert_eq!(refresh_ttl(remaining), ttl, "{remaining}");
    }
}

#[test]
fn trouble_is_never_a_close_that_forbids_coming_back() {
    for close in [
        Close::SHUTDOWN,
        Close::INTERNAL_ERROR,
        Close::SLOW,
        Close::AUTH_UNAVAILABLE,
        Close::EXPIRED,
        Close::STATE_INVALIDATED,
    ] {
        assert!(close.reconnects() && !close.is_announced(), "{close:?}");
    }
}

#[test]
fn every_end_of_a_session_is_a_forced_disconnect() {
    let ends = [
        (EndReason::LoggedOut, 4500),
        (EndReason::LoggedOutEverywhere, 4501),
        (EndReason::Revoked, 4502),
        (EndReason::AccountDisabled, 4503),
        (EndReason::CredentialsChanged, 4504),
    ];
    for (reason, code) in ends {
        let close = Close::for_end(reason);
        assert_eq!((close.code, close.is_announced(), close.reconnects()), (code, true, false));
    }
}
