//! From bytes to messages, however the bytes are cut: RFC 6455 sections 5 and 8.1. No I/O.
//!
//! Between two messages it holds nothing. Within one it holds what came of it so far, never what a header promises.

use super::frame::{HEADER_BYTES, Header, Opcode, may_be_sent, unmask};
use crate::protocol::Close;

/// Frames without a byte of payload in one message: they would cost time without ever coming to the size limit.
const EMPTY_FRAMES: u16 = 64;

/// What a socket takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest message in bytes, its fragments together; larger ones are 1009.
    pub message_bytes: usize,
    /// Whether binary messages are taken; otherwise they are 1003.
    pub binary: bool,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A ping, to be answered with a pong of the same payload.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The closing handshake, with its code where there is one. Nothing comes after it.
    Close(Option<u16>),
}

/// The state of one direction of one connection.
#[derive(Debug)]
pub(super) struct Decoder {
    limits: Limits,
    under_way: Option<Box<UnderWay>>,
}

/// What has begun and not ended.
#[derive(Debug, Default)]
struct UnderWay {
    head: [u8; HEADER_BYTES],
    head_filled: usize,
    frame: Option<Frame>,
    message: Option<Assembly>,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    fin: bool,
    left: u64,
    mask: [u8; 4],
}

#[derive(Debug)]
struct Assembly {
    is_text: bool,
    data: Vec<u8>,
    /// So much of `data` is known to be UTF-8.
    valid: usize,
    empty_frames: u16,
}

impl Decoder {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, under_way: None }
    }

    /// Takes bytes off `input` until a message is complete; `None` when `input` is used up.
    pub(super) fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Close> {
        // Worked on by value: a message that comes in one piece needs no allocation but its own.
        let mut work = self.under_way.take().map_or_else(UnderWay::default, |under_way| *under_way);
        let message = work.decode(input, self.limits)?;
        if work.has_begun() {
            self.under_way = Some(Box::new(work));
        }
        Ok(message)
    }
}

impl UnderWay {
    fn has_begun(&self) -> bool {
        self.head_filled > 0 || self.frame.is_some() || self.message.is_some()
    }

    fn decode(&mut self, input: &mut &[u8], limits: Limits) -> Result<Option<Message>, Close> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.read_head(input)? {
                    Some(header) => self.begin(header, limits)?,
                    None => return Ok(None),
                },
            };
            self.take_payload(&mut frame, input)?;
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            if let Some(message) = self.end(frame)? {
                return Ok(Some(message));
            }
        }
    }

    fn read_head(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Close> {
        if self.head_filled == 0
            && let Some(header) = Header::read(input)?
        {
            *input = &input[header.size..];
            return Ok(Some(header));
        }
        // Cut within the header, which is rare and short.
        while let Some((&byte, rest)) = input.split_first() {
            self.head[self.head_filled] = byte;
            self.head_filled += 1;
            *input = rest;
            if let Some(header) = Header::read(&self.head[..self.head_filled])? {
                self.head_filled = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Is there a place for this frame now?
    fn begin(&mut self, header: Header, limits: Limits) -> Result<Frame, Close> {
        let Header { opcode, fin, length, mask, .. } = header;
        if !opcode.is_control() {
            let message = match (opcode, self.message.is_some()) {
                (Opcode::Continuation, true) | (Opcode::Text | Opcode::Binary, false) => {
                    self.message.get_or_insert_with(|| Assembly::new(opcode))
                }
                _ => return Err(Close::PROTOCOL_ERROR),
            };
            if !message.is_text && !limits.binary {
                return Err(Close::BINARY);
            }
            // Refused by what the header says, before the first byte of it is read.
            let room = limits.message_bytes.saturating_sub(message.data.len());
            message.empty_frames += u16::from(length == 0);
            if length > room as u64 || message.empty_frames > EMPTY_FRAMES {
                return Err(Close::TOO_BIG);
            }
        }
        Ok(Frame { opcode, fin, left: length, mask })
    }

    fn take_payload(&mut self, frame: &mut Frame, input: &mut &[u8]) -> Result<(), Close> {
        let taken = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len());
        let (chunk, rest) = input.split_at(taken);
        *input = rest;
        frame.left -= taken as u64;
        let data = match &mut self.message {
            Some(message) if !frame.opcode.is_control() => &mut message.data,
            _ => &mut self.control,
        };
        let filled = data.len();
        if filled == 0 {
            // Often this is all of it.
            data.reserve_exact(taken);
        }
        data.extend_from_slice(chunk);
        unmask(&mut frame.mask, &mut data[filled..]);
        let is_last = frame.fin && frame.left == 0;
        match &mut self.message {
            // The last piece is checked together with the whole.
            Some(message) if !frame.opcode.is_control() && !is_last => message.check_text(),
            _ => Ok(()),
        }
    }

    fn end(&mut self, frame: Frame) -> Result<Option<Message>, Close> {
        Ok(match frame.opcode {
            Opcode::Ping => Some(Message::Ping(std::mem::take(&mut self.control))),
            Opcode::Pong => {
                self.control = Vec::new();
                Some(Message::Pong)
            }
            Opcode::Close => Some(Message::Close(read_close(&std::mem::take(&mut self.control))?)),
            _ if !frame.fin => None,
            _ => self.message.take().map(Assembly::finish).transpose()?,
        })
    }
}

impl Assembly {
    fn new(opcode: Opcode) -> Self {
        Self { is_text: opcode == Opcode::Text, data: Vec::new(), valid: 0, empty_frames: 0 }
    }

    /// Finds out as soon as can be that this will never be UTF-8, whatever follows.
    fn check_text(&mut self) -> Result<(), Close> {
        if self.is_text {
            match std::str::from_utf8(&self.data[self.valid..]) {
                Ok(text) => self.valid += text.len(),
                // Cut within a character that may yet become a good one.
                Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
                Err(_) => return Err(Close::INVALID_UTF8),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Message, Close> {
        if self.is_text {
            String::from_utf8(self.data).map(Message::Text).map_err(|_| Close::INVALID_UTF8)
        } else {
            Ok(Message::Binary(self.data))
        }
    }
}

/// The code of a close frame, section 5.5.1. Its reason is for people; but it must be text.
fn read_close(payload: &[u8]) -> Result<Option<u16>, Close> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Close::PROTOCOL_ERROR) };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(Close::PROTOCOL_ERROR);
    }
    std::str::from_utf8(reason).map(|_| Some(code)).map_err(|_| Close::INVALID_UTF8)
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
