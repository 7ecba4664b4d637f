//! Bytes on their way, used up from the front. They exist only while there are some.

/// A run of bytes behind one pointer, which is all that an idle socket keeps for it.
#[derive(Debug, Default)]
pub(in crate::socket) struct Chunk(Option<Box<Bytes>>);

#[derive(Debug, Default)]
struct Bytes {
    bytes: Vec<u8>,
    used: usize,
}

impl Chunk {
    pub(in crate::socket) fn rest(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |chunk| &chunk.bytes[chunk.used..])
    }

    pub(in crate::socket) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Takes so many bytes off the front; with the last one the memory goes, too.
    pub(in crate::socket) fn advance(&mut self, bytes: usize) {
        if let Some(chunk) = &mut self.0 {
            chunk.used += bytes;
            if chunk.used >= chunk.bytes.len() {
                self.0 = None;
            }
        }
    }

    /// Lets `write` append.
    pub(in crate::socket) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let chunk = self.0.get_or_insert_default();
        if chunk.used > chunk.bytes.len() / 2 {
            // Moves each byte once on average, and keeps what is held below twice what waits.
            chunk.bytes.drain(..chunk.used);
            chunk.used = 0;
        }
        write(&mut chunk.bytes);
        if chunk.bytes.len() == chunk.used {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_leave_nothing_behind() {
        let (mut chunk, mut out) = (Chunk::default(), Vec::new());
        for turn in 0..200_u8 {
            chunk.append(|bytes| bytes.extend([turn; 7]));
            let taken = usize::from(turn % 9).min(chunk.rest().len());
            out.extend_from_slice(&chunk.rest()[..taken]);
            chunk.advance(taken);
        }
        out.extend_from_slice(chunk.rest());
        chunk.advance(chunk.rest().len());
        assert!(chunk.is_empty() && chunk.rest().is_empty());
        assert_eq!(out, (0..200_u8).flat_map(|turn| [turn; 7]).collect::<Vec<_>>());
        chunk.append(|_| {});
        assert!(chunk.is_empty());
        assert_eq!(size_of::<Chunk>(), 8);
    }
}
