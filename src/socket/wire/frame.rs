//! Frames of RFC 6455 section 5: how a header is read and written. No I/O, no state.

use crate::protocol::Close;

/// The longest header: two bytes, eight of length, four of mask.
pub(super) const HEADER_BYTES: usize = 14;
/// The largest payload of a control frame, section 5.5.
const CONTROL_BYTES: u64 = 125;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame is, section 11.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    fn read(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    pub(super) const fn is_control(self) -> bool {
        self as u8 >= 0x8
    }
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    pub(super) length: u64,
    pub(super) mask: [u8; 4],
    /// Bytes that the header itself takes.
    pub(super) size: usize,
}

impl Header {
    /// Reads the header at the beginning of `bytes`; `None` while some of it is missing. What is wrong is wrong as soon
    /// as its byte is there.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, Close> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & RESERVED_BITS != 0 {
            // No extension was negotiated that would give them a meaning.
            return Err(Close::PROTOCOL_ERROR);
        }
        let fin = first & FIN != 0;
        let opcode = Opcode::read(first & 0xf).ok_or(Close::PROTOCOL_ERROR)?;
        if opcode.is_control() && !fin {
            return Err(Close::PROTOCOL_ERROR);
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Close::PROTOCOL_ERROR);
        }
        let Some((length, after)) = read_length(second & !MASKED, bytes)? else { return Ok(None) };
        if opcode.is_control() && length > CONTROL_BYTES {
            return Err(Close::PROTOCOL_ERROR);
        }
        let Some(mask) = bytes.get(after..after + 4).and_then(|mask| mask.try_into().ok()) else { return Ok(None) };
        Ok(Some(Self { fin, opcode, length, mask, size: after + 4 }))
    }
}

/// The payload's length and where it ends. It must be written in the fewest bytes, and its highest bit is zero.
fn read_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, Close> {
    let (length, after, least) = match short {
        126 => {
            let Some(length) = bytes.get(2..4).and_then(|length| length.try_into().ok()) else { return Ok(None) };
            (u64::from(u16::from_be_bytes(length)), 4, 126)
        }
        127 => {
            let Some(length) = bytes.get(2..10).and_then(|length| length.try_into().ok()) else { return Ok(None) };
            (u64::from_be_bytes(length), 10, 1 << 16)
        }
        short => (u64::from(short), 2, 0),
    };
    if length < least || length >> 63 != 0 { Err(Close::PROTOCOL_ERROR) } else { Ok(Some((length, after))) }
}

/// Applies the mask in place, section 5.3, and turns it on to where the next byte of the frame stands.
pub(super) fn unmask(mask: &mut [u8; 4], bytes: &mut [u8]) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[index & 3];
    }
    mask.rotate_left(bytes.len() & 3);
}

/// Bytes that a server's frame with so large a payload takes on the wire.
pub(super) const fn frame_bytes(payload: usize) -> usize {
    payload
        + match payload {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        }
}

/// Appends a server's frame: whole and unmasked.
pub(super) fn write(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let bytes = frame_bytes(payload.len());
    // Mostly it is the only one that waits.
    if out.is_empty() {
        out.reserve_exact(bytes)
    } else {
        out.reserve(bytes)
    }
    out.push(FIN | opcode as u8);
    // The cases are the ranges of the types.
    match payload.len() {
        short @ 0..=125 => out.push(short as u8),
        middle @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Whether an endpoint may send this close code, section 7.4 and the registry of section 11.7.
pub(super) const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn head(first: u8, length: &[u8]) -> Vec<u8> {
        [&[first], length, &MASK].concat()
    }

    fn length_of(length: &[u8]) -> Result<Option<u64>, Close> {
        Header::read(&head(0x82, length)).map(|header| header.map(|header| header.length))
    }

    #[test]
    fn a_header_is_read_when_its_last_byte_is_there() {
        for length in [&[0x85_u8][..], &[0xfe, 0, 126], &[0xff, 0, 0, 0, 0, 0, 1, 0, 0]] {
            let bytes = head(0x81, length);
            for cut in 0..bytes.len() {
                assert_eq!(Header::read(&bytes[..cut]), Ok(None));
            }
            let header = Header::read(&bytes).expect("a header").expect("whole");
            assert_eq!((header.opcode, header.size, header.mask), (Opcode::Text, bytes.len(), MASK));
        }
    }

    #[test]
    fn lengths_are_minimal_and_below_two_to_the_63() {
        assert_eq!(length_of(&[0xfd]), Ok(Some(125)));
        assert_eq!(length_of(&[0xfe, 0, 126]), Ok(Some(126)));
        assert_eq!(length_of(&[0xff, 0, 0, 0, 0, 0, 1, 0, 0]), Ok(Some(65_536)));
        assert_eq!(length_of(&[0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255]), Ok(Some((1 << 63) - 1)));
        for wrong in [
            &[0xfe_u8, 0, 125][..],
            &[0xfe, 0, 0],
            &[0xff, 0, 0, 0, 0, 0, 0, 255, 255],
            &[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            &[0xff; 9],
        ] {
            assert_eq!(length_of(wrong), Err(Close::PROTOCOL_ERROR), "{wrong:?}");
        }
    }

    #[test]
    fn reserved_bits_and_opcodes_broken_control_frames_and_missing_masks_are_refused() {
        for first in [0xc1, 0xa1, 0x91, 0xf1, 0x83, 0x87, 0x8b, 0x8f, 0x08, 0x09, 0x0a] {
            assert_eq!(Header::read(&[first]), Err(Close::PROTOCOL_ERROR), "{first:x}, by its first byte");
        }
        assert_eq!(Header::read(&[0x81, 0x05]), Err(Close::PROTOCOL_ERROR), "no mask");
        assert_eq!(Header::read(&[0x89, 0xfe, 0, 126]), Err(Close::PROTOCOL_ERROR), "a long ping");
    }

    #[test]
    fn the_mask_goes_on_where_it_stopped() {
        let whole: Vec<u8> = (0..100).collect();
        let mut at_once = whole.clone();
        unmask(&mut MASK.clone(), &mut at_once);
        for cut in 0..=whole.len() {
            let (mut mask, mut pieces) = (MASK, whole.clone());
            let (first, second) = pieces.split_at_mut(cut);
            unmask(&mut mask, first);
            unmask(&mut mask, second);
            assert_eq!(pieces, at_once);
        }
    }

    #[test]
    fn what_is_written_takes_the_bytes_it_is_said_to() {
        for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            write(&mut out, Opcode::Text, &vec![b'x'; length]);
            assert_eq!((out.len(), out.len()), (head + length, frame_bytes(length)));
        }
    }

    #[test]
    fn close_codes_are_those_that_may_stand_on_the_wire() {
        for good in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
            assert!(may_be_sent(good), "{good}");
        }
        for bad in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            assert!(!may_be_sent(bad), "{bad}");
        }
    }
}
