//! What RFC 6455 demands of a server, byte by byte. (`examples/ws_echo` runs the same code against the Autobahn suite.)

use std::time::Duration;

use serde_json::json;

use crate::common::raw::{RawSocket, Said, close_frame, frame};
use crate::common::{Mode, Stage, stages};

stages! {
    embedded: [
        frames_that_make_no_sense_are_1002,
        lengths_that_cannot_be_are_refused_by_the_header,
        text_that_is_no_utf8_is_1007_before_it_ends,
        a_message_may_come_in_any_pieces,
        pings_are_answered_in_kind_and_at_once,
        a_close_frame_is_answered_with_its_code,
        close_frames_that_may_not_be_are_refused,
        nothing_is_heard_after_a_close_frame,
        fragments_without_end_are_1009,
        a_handshake_may_come_in_pieces_and_with_frames_behind_it,
    ],
}

async fn opened(stage: &Stage) -> RawSocket {
    let token = stage.a().signup().await.token;
    stage.a().raw_socket(&token).await
}

async fn is_refused(stage: &Stage, token: &str, bytes: &[u8], code: u16) {
    let mut socket = stage.a().raw_socket(token).await;
    socket.write(bytes).await;
    let shown = bytes.len().min(24);
    assert_eq!(socket.ended_with().await, code, "{:x?}", &bytes[..shown]);
}

const ECHO: &str = r#"{"id":7,"rpc":{"method":"echo","data":"Grüße, κόσμε 𐐷"}}"#;

async fn frames_that_make_no_sense_are_1002(mode: Mode) {
    let stage = mode.stage().await;
    let token = stage.a().signup().await.token;
    let unmasked = [b"\x81\x02{}".to_vec(), b"\x89\x00".to_vec(), b"\x88\x02\x03\xe8".to_vec()];
    let reserved_bits = [0xc1, 0xa1, 0x91, 0xf1].map(|first| frame(first, b"{}"));
    let reserved_opcodes =
        [0x83, 0x84, 0x85, 0x86, 0x87, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f].map(|first| frame(first, b"{}"));
    let control = [frame(0x09, b""), frame(0x0a, b""), frame(0x08, b""), frame(0x89, &[b'x'; 126])];
    let out_of_turn = [
        frame(0x80, b"{}"),
        frame(0x00, b"{}"),
        [frame(0x01, b"{"), frame(0x81, b"}")].concat(),
        [frame(0x01, b"{"), frame(0x01, b"}")].concat(),
    ];
    for bytes in [&unmasked[..], &reserved_bits, &reserved_opcodes, &control, &out_of_turn].concat() {
        is_refused(&stage, &token, &bytes, 1002).await;
    }
}

async fn lengths_that_cannot_be_are_refused_by_the_header(mode: Mode) {
    let stage = mode.stage().await;
    let token = stage.a().signup().await.token;
    // Nothing but the header is ever sent.
    let long = |length: u64| [&[0x81, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
    for (bytes, code) in [
        (long(1 << 63), 1002),
        (long(u64::MAX), 1002),
        (long((1 << 63) - 1), 1009),
        (long(1 << 32), 1009),
        (long(65_537), 1009),
        (long(65_535), 1002),
        (long(1), 1002),
        (vec![0x81, 0xfe, 0, 125, 0, 0, 0, 0], 1002),
        (vec![0x81, 0xfe, 0, 0, 0, 0, 0, 0], 1002),
    ] {
        is_refused(&stage, &token, &bytes, code).await;
    }
}

async fn text_that_is_no_utf8_is_1007_before_it_ends(mode: Mode) {
    let stage = mode.stage().await;
    let token = stage.a().signup().await.token;
    for bad in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xce", b"\x80"] {
        is_refused(&stage, &token, &frame(0x81, bad), 1007).await;
    }
    // Neither the frame nor the message is ever finished.
    is_refused(&stage, &token, &frame(0x01, b"\xce\xba\xff"), 1007).await;
    let unfinished = &frame(0x81, b"\xce\xba\xf4\x90 and so on")[..6 + 4];
    is_refused(&stage, &token, unfinished, 1007).await;
}

async fn a_message_may_come_in_any_pieces(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = opened(&stage).await;
    let bytes = ECHO.as_bytes();
    // One byte a frame, which cuts characters too.
    let (last, others) = bytes.split_last().expect("bytes");
    let mut frames = frame(0x01, &[]);
    frames.extend(others.iter().flat_map(|byte| frame(0x00, &[*byte])));
    frames.extend(frame(0x80, &[*last]));
    // One byte a packet.
    let whole = frame(0x81, bytes);
    for piece in whole.chunks(1) {
        socket.write(piece).await;
        tokio::task::yield_now().await;
    }
    socket.write(&frames).await;
    // Several at once.
    socket.write(&whole.repeat(3)).await;
    for _ in 0..5 {
        let Said { first, payload } = socket.answer().await;
        let answer: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!((first, &answer["rpc"]["data"]), (0x81, &json!("Grüße, κόσμε 𐐷")));
    }
}

async fn pings_are_answered_in_kind_and_at_once(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = opened(&stage).await;
    let (head, tail) = ECHO.as_bytes().split_at(20);
    for payload in [&b""[..], b"are you there?", &[0xff; 125]] {
        socket.write(&[frame(0x01, head), frame(0x89, payload)].concat()).await;
        // The message it interrupts is not waited for.
        assert_eq!(socket.answer().await, Said { first: 0x8a, payload: payload.to_vec() });
        socket.write(&[frame(0x8a, b"unasked"), frame(0x80, tail)].concat()).await;
        assert_eq!(socket.answer().await.first, 0x81);
    }
}

async fn a_close_frame_is_answered_with_its_code(mode: Mode) {
    let stage = mode.stage().await;
    let token = stage.a().signup().await.token;
    let cases = [
        (frame(0x88, b""), 1005),
        (close_frame(1000, b""), 1000),
        (close_frame(1001, b"going away"), 1001),
        (close_frame(1011, "tschüß".as_bytes()), 1011),
        (close_frame(3000, &[b'x'; 123]), 3000),
        (close_frame(4999, b""), 4999),
    ];
    for (bytes, code) in cases {
        is_refused(&stage, &token, &bytes, code).await;
    }
}

async fn close_frames_that_may_not_be_are_refused(mode: Mode) {
    let stage = mode.stage().await;
    let token = stage.a().signup().await.token;
    is_refused(&stage, &token, &frame(0x88, b"\x03"), 1002).await;
    is_refused(&stage, &token, &close_frame(1000, &[b'x'; 124]), 1002).await;
    is_refused(&stage, &token, &close_frame(1000, b"\xce\xba\xff"), 1007).await;
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        is_refused(&stage, &token, &close_frame(code, b""), 1002).await;
    }
}

async fn nothing_is_heard_after_a_close_frame(mode: Mode) {
    let stage = mode.stage().await;
    let mut socket = opened(&stage).await;
    socket.write(&[close_frame(1000, b"bye"), frame(0x81, ECHO.as_bytes()), frame(0x89, b"still?")].concat()).await;
    assert_eq!(socket.next().await.map(|said| said.close_code()), Some(1000));
    assert_eq!(socket.next().await, None);
    // After our own close frame likewise: only the peer's is waited for.
    let mut socket = opened(&stage).await;
    socket.write(&[frame(0x82, b"binary"), frame(0x81, ECHO.as_bytes()), frame(0x89, b"still?")].concat()).await;
    assert_eq!(socket.ended_with().await, 1003);
}

async fn fragments_without_end_are_1009(mode: Mode) {
    let stage = mode.stage().await;
    for payload in [&b""[..], b"x", &[b'x'; 1000]] {
        let mut socket = opened(&stage).await;
        let more = frame(0x00, payload).repeat(1000);
        socket.write(&frame(0x01, b"x")).await;
        for _ in 0..70 {
            socket.write(&more).await;
        }
        assert_eq!(socket.ended_with().await, 1009);
    }
}

async fn a_handshake_may_come_in_pieces_and_with_frames_behind_it(mode: Mode) {
    let stage = mode.stage().await;
    let token = stage.a().signup().await.token;
    let all = [stage.a().handshake_bytes(&token), frame(0x81, ECHO.as_bytes())].concat();
    for cut in [0, 1, 10, 100, all.len() - 20] {
        let mut stream = stage.a().tcp().await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, &all[..cut]).await.expect("write");
        if cut > 0 {
            // So that the pieces arrive apart.
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let mut socket = RawSocket::open(stream, &all[cut..]).await;
        assert_eq!(socket.answer().await.first, 0x81, "cut at {cut}");
    }
}
