use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { message_bytes: 1000, binary: true };

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0xff);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    let from = bytes.len();
    bytes.extend_from_slice(payload);
    unmask(&mut mask, &mut bytes[from..]);
    bytes
}

/// What comes out when the bytes arrive in pieces of this size, and what was wrong in the end.
fn decode_in(bytes: &[u8], piece: usize, limits: Limits) -> (Vec<Message>, Option<Close>) {
    let (mut decoder, mut messages) = (Decoder::new(limits), Vec::new());
    for mut input in bytes.chunks(piece.max(1)) {
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(close) => return (messages, Some(close)),
            }
        }
        assert!(input.is_empty(), "what is not used up is lost");
    }
    (messages, None)
}

/// The same in every size of pieces, which must not matter.
fn decode(frames: &[Vec<u8>]) -> (Vec<Message>, Option<Close>) {
    let bytes = frames.concat();
    let at_once = decode_in(&bytes, bytes.len(), LIMITS);
    for piece in (1..bytes.len().min(40)).chain([bytes.len() / 2, bytes.len().saturating_sub(1)]) {
        assert_eq!(decode_in(&bytes, piece, LIMITS), at_once, "in pieces of {piece}");
    }
    at_once
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

fn fails(frames: &[Vec<u8>], close: Close) {
    assert_eq!(decode(frames).1, Some(close), "{frames:x?}");
}

#[test]
fn messages_whole_and_in_fragments() {
    let long = "x".repeat(200);
    let (messages, error) = decode(&[
        frame(0x81, b"Hello"),
        frame(0x82, &[0, 255]),
        frame(0x01, b"Hel"),
        frame(0x00, b""),
        frame(0x80, b"lo"),
        frame(0x81, b""),
        frame(0x81, long.as_bytes()),
        frame(0x02, &[]),
        frame(0x80, &[]),
    ]);
    let expected =
        [text("Hello"), Message::Binary(vec![0, 255]), text("Hello"), text(""), text(&long), Message::Binary(vec![])];
    assert_eq!((messages.as_slice(), error), (&expected[..], None));
}

#[test]
fn control_frames_come_between_fragments_and_at_once() {
    let (messages, error) = decode(&[
        frame(0x01, b"one "),
        frame(0x89, b"are you there?"),
        frame(0x00, b"two "),
        frame(0x8a, b"yes"),
        frame(0x80, b"three"),
        frame(0x89, &[7; 125]),
    ]);
    let ping = |payload: &[u8]| Message::Ping(payload.to_vec());
    let expected = [ping(b"are you there?"), Message::Pong, text("one two three"), ping(&[7; 125])];
    assert_eq!((messages.as_slice(), error), (&expected[..], None));
}

#[test]
fn fragments_out_of_turn_are_refused() {
    fails(&[frame(0x80, b"no beginning")], Close::PROTOCOL_ERROR);
    fails(&[frame(0x00, b"no beginning")], Close::PROTOCOL_ERROR);
    fails(&[frame(0x01, b"a"), frame(0x81, b"another beginning")], Close::PROTOCOL_ERROR);
    fails(&[frame(0x01, b"a"), frame(0x02, b"another beginning")], Close::PROTOCOL_ERROR);
    fails(&[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")], Close::PROTOCOL_ERROR);
}

#[test]
fn text_is_utf8_across_fragments_and_anything_else_is_seen_at_its_first_byte() {
    let word = "κόσμε 𐐷";
    let bytes = word.as_bytes();
    for cut in 0..=bytes.len() {
        let (messages, error) = decode(&[frame(0x01, &bytes[..cut]), frame(0x80, &bytes[cut..])]);
        assert_eq!((messages.as_slice(), error), (&[text(word)][..], None), "cut at {cut}");
    }
    // Cut short, an overlong form, a surrogate, beyond U+10FFFF, a lone continuation.
    for bad in [&b"\xce"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xff"] {
        fails(&[frame(0x81, bad)], Close::INVALID_UTF8);
        fails(&[frame(0x01, bad), frame(0x80, b"")], Close::INVALID_UTF8);
    }
    // Fail fast: neither the end of the frame nor that of the message is waited for.
    let bytes = frame(0x01, b"good so far \xf4\x90 and more");
    let until = bytes.len() - " and more".len();
    let (mut decoder, mut input) = (Decoder::new(LIMITS), &bytes[..until]);
    assert_eq!(decoder.decode(&mut input), Err(Close::INVALID_UTF8));
    // The same bytes are no fault in a binary message.
    assert_eq!(decode(&[frame(0x82, b"\xff")]).1, None);
}

#[test]
fn too_much_is_refused_by_its_header() {
    let (bytes, limit) = ([b'x'; 1000], Some(Close::TOO_BIG));
    assert_eq!(decode(&[frame(0x81, &bytes)]).1, None);
    let mut decoder = Decoder::new(LIMITS);
    let mut head = &frame(0x81, &[b'x'; 1001])[..8];
    assert_eq!(decoder.decode(&mut head), Err(Close::TOO_BIG));
    assert_eq!(decode(&[frame(0x01, &bytes[..600]), frame(0x80, &bytes[..401])]).1, limit);
    let largest = [&[0x81, 0xff, 0x7f][..], &[255; 7], &[0; 4]].concat();
    assert_eq!(decode(&[largest]).1, limit);
    let endless: Vec<_> = std::iter::once(frame(0x01, b"")).chain((0..100).map(|_| frame(0x00, b""))).collect();
    assert_eq!(decode(&endless).1, limit);
    let endless: Vec<_> = std::iter::once(frame(0x01, b"x")).chain((0..2000).map(|_| frame(0x00, b"x"))).collect();
    assert_eq!(decode(&endless).1, limit);
}

#[test]
fn binary_is_refused_where_it_is_not_taken() {
    let text_only = Limits { binary: false, ..LIMITS };
    let bytes = [frame(0x81, b"a"), frame(0x82, b"b")].concat();
    assert_eq!(decode_in(&bytes, 3, text_only), (vec![text("a")], Some(Close::BINARY)));
}

#[test]
fn close_frames_carry_nothing_or_a_code_and_text() {
    let close = |code: u16, reason: &[u8]| frame(0x88, &[&code.to_be_bytes()[..], reason].concat());
    assert_eq!(decode(&[frame(0x88, b"")]), (vec![Message::Close(None)], None));
    assert_eq!(decode(&[close(1000, b"")]), (vec![Message::Close(Some(1000))], None));
    assert_eq!(decode(&[close(4999, "auf Wiederhören".as_bytes())]), (vec![Message::Close(Some(4999))], None));
    assert_eq!(decode(&[close(3000, &[b'x'; 123])]), (vec![Message::Close(Some(3000))], None));
    fails(&[frame(0x88, b"x")], Close::PROTOCOL_ERROR);
    fails(&[close(1000, &[b'x'; 124])], Close::PROTOCOL_ERROR);
    fails(&[close(1000, b"\xce\xba\xff")], Close::INVALID_UTF8);
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000] {
        fails(&[close(code, b"")], Close::PROTOCOL_ERROR);
    }
}

#[test]
fn nothing_is_kept_between_messages() {
    let mut decoder = Decoder::new(Limits { message_bytes: 1 << 20, binary: true });
    let bytes = [frame(0x01, &[b'x'; 100_000]), frame(0x80, &[b'y'; 100_000])].concat();
    for mut input in bytes.chunks(1000) {
        assert!(decoder.under_way.is_some() || input.as_ptr() == bytes.as_ptr());
        let _ = decoder.decode(&mut input).expect("good frames");
    }
    assert!(decoder.under_way.is_none());
    assert_eq!(size_of::<Option<Box<UnderWay>>>(), 8);
}

/// Frames that mostly make sense.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        4 => Just(0x81_u8),
        2 => Just(0x82),
        2 => Just(0x01),
        3 => Just(0x00),
        3 => Just(0x80),
        2 => Just(0x89),
        1 => Just(0x8a),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
    ];
    let frames = proptest::collection::vec((first, payload), 0..12);
    frames.prop_map(|frames| frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect())
}

proptest! {
    #[test]
    fn how_bytes_are_cut_never_matters(bytes in frames(), piece in 1_usize..50) {
        let limits = Limits { message_bytes: 150, binary: true };
        prop_assert_eq!(decode_in(&bytes, bytes.len(), limits), decode_in(&bytes, piece, limits));
    }

    #[test]
    fn noise_neither_panics_nor_grows(bytes in proptest::collection::vec(any::<u8>(), 0..600), piece in 1_usize..70) {
        let limits = Limits { message_bytes: 150, binary: true };
        let (messages, error) = decode_in(&bytes, piece, limits);
        for message in &messages {
            let length = match message {
                Message::Text(text) => text.len(),
                Message::Binary(data) => data.len(),
                Message::Ping(_) | Message::Pong | Message::Close(_) => 0,
            };
            prop_assert!(length <= 150);
        }
        if let Some(close) = error {
            prop_assert!([1002, 1007, 1009].contains(&close.code));
        }
    }

    #[test]
    fn what_a_client_writes_is_what_is_read(texts in proptest::collection::vec("\\PC{0,60}", 1..6), cut in 0_usize..60) {
        let mut bytes = Vec::new();
        for text in &texts {
            let (head, tail) = text.as_bytes().split_at(cut.min(text.len()));
            bytes.extend(frame(0x01, head));
            bytes.extend(frame(0x89, b"between"));
            bytes.extend(frame(0x80, tail));
        }
        let (messages, error) = decode_in(&bytes, 7, LIMITS);
        let read: Vec<String> = messages
            .into_iter()
            .filter_map(|message| match message {
                Message::Text(text) => Some(text),
                _ => None,
            })
            .collect();
        prop_assert_eq!((read, error), (texts, None));
    }
}
