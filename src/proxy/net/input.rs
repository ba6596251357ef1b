//! What a client has sent and nobody has taken yet.

/// A buffer of more bytes is given back when it is empty.
const BYTES_KEPT: usize = 256 << 10;

/// Bytes, of which a first part may have been taken. Requests in unusual forms go before them in the usual one.
#[derive(Default)]
pub(super) struct RequestBuffer {
    /// Whole requests in the usual form, to be taken before all others.
    rewritten: Taking,
    bytes: Taking,
}

/// Bytes of which a first part was taken.
#[derive(Default)]
struct Taking {
    bytes: Vec<u8>,
    start: usize,
}

impl Taking {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > BYTES_KEPT {
                self.bytes = Vec::new();
            }
        }
    }

    /// Its bytes begin where the rest does.
    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
    }
}

impl RequestBuffer {
    /// What is taken next.
    pub(super) fn rest(&self) -> &[u8] {
        match self.rewritten.rest() {
            [] => self.bytes.rest(),
            rewritten => rewritten,
        }
    }

    /// Whether rewritten requests are taken next.
    pub(super) fn is_rewritten(&self) -> bool {
        !self.rewritten.rest().is_empty()
    }

    /// How many bytes are still to be taken.
    pub(super) fn len(&self) -> usize {
        self.rewritten.rest().len() + self.bytes.rest().len()
    }

    /// Removes the first `count` bytes of the rest.
    pub(super) fn consume(&mut self, count: usize) {
        match self.rewritten.rest() {
            [] => self.bytes.consume(count),
            _ => self.rewritten.consume(count),
        }
    }

    /// The first so many bytes of the rest, by themselves.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        let taking = match self.rewritten.rest() {
            [] => &mut self.bytes,
            _ => &mut self.rewritten,
        };
        if taking.start == 0 && taking.bytes.len() == count {
            return std::mem::take(&mut taking.bytes);
        }
        let taken = taking.rest()[..count].to_vec();
        taking.consume(count);
        taken
    }

    /// These whole requests come before the rest.
    pub(super) fn put_before(&mut self, requests: Vec<u8>) {
        debug_assert!(self.rewritten.rest().is_empty());
        self.rewritten = Taking {
            bytes: requests,
            start: 0,
        };
    }

    /// Bytes of memory that it takes.
    pub(super) fn held(&self) -> usize {
        self.bytes.bytes.capacity() + self.rewritten.bytes.capacity()
    }

    /// A vector that ends with the rest, to append to.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        self.bytes.compact();
        &mut self.bytes.bytes
    }

    /// These bytes come behind the rest.
    pub(super) fn append(&mut self, mut bytes: Vec<u8>) {
        match self.bytes.rest() {
            [] => self.bytes = Taking { bytes, start: 0 },
            _ => self.room().append(&mut bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewritten_requests_are_read_before_later_input() {
        let mut input = RequestBuffer::default();
        input.append(b"one two".to_vec());
        input.consume(4);
        input.append(b" three".to_vec());
        input.put_before(b"zero".to_vec());
        assert_eq!(input.rest(), b"zero");
        input.consume(4);
        assert_eq!(input.rest(), b"two three");
        input.room().extend_from_slice(b" four");
        assert_eq!(input.rest(), b"two three four");
        input.consume(14);
        assert_eq!(input.rest(), b"");
    }
}
