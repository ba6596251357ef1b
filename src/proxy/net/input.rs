//! Bytes that a client has sent and that have not been carried out yet.

/// A buffer with a larger capacity, in bytes, is freed when it becomes empty, so that one large request does
/// not cost memory for the rest of the connection.
const BYTES_KEPT: usize = 256 << 10;

/// The input of one client: rewritten requests first, then what arrived after them.
///
/// ```text
/// rewritten: [ done | SET k v ]     bytes: [ done | GET k ... ]
///                     └─ rest()                     └─ rest() once `rewritten` is empty
/// ```
#[derive(Default)]
pub(super) struct RequestBuffer {
    /// Whole requests in the usual form that were rewritten from unusual ones. Their original bytes are gone
    /// from `bytes`.
    rewritten: Taking,
    /// Bytes as they arrived.
    bytes: Taking,
}

/// Bytes and how many of them have been consumed.
#[derive(Default)]
struct Taking {
    bytes: Vec<u8>,
    /// Offset of the rest. Consumed bytes are removed only when the buffer is appended to or becomes empty,
    /// so a round of many requests moves no bytes.
    start: usize,
}

impl Taking {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Skips the first `count` bytes of the rest.
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

    /// Removes the consumed bytes.
    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
    }
}

impl RequestBuffer {
    /// Returns the bytes to be read next.
    pub(super) fn rest(&self) -> &[u8] {
        match self.rewritten.rest() {
            [] => self.bytes.rest(),
            rewritten => rewritten,
        }
    }

    /// True if the rest consists of rewritten requests. More bytes may follow behind them, even if no request
    /// is left in these.
    pub(super) fn is_rewritten(&self) -> bool {
        !self.rewritten.rest().is_empty()
    }

    /// Number of bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.rewritten.rest().len() + self.bytes.rest().len()
    }

    /// Skips the first `count` bytes of the rest.
    pub(super) fn consume(&mut self, count: usize) {
        match self.rewritten.rest() {
            [] => self.bytes.consume(count),
            _ => self.rewritten.consume(count),
        }
    }

    /// Removes the first `count` bytes of the rest and returns them, without a copy if they are all of a
    /// buffer.
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

    /// Puts whole requests in the usual form before the rest. No rewritten requests may be left.
    pub(super) fn put_before(&mut self, requests: Vec<u8>) {
        debug_assert!(self.rewritten.rest().is_empty());
        self.rewritten = Taking {
            bytes: requests,
            start: 0,
        };
    }

    /// Number of bytes of memory that the buffers hold.
    pub(super) fn held(&self) -> usize {
        self.bytes.bytes.capacity() + self.rewritten.bytes.capacity()
    }

    /// Returns a vector that ends with the rest, to append to.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        self.bytes.compact();
        &mut self.bytes.bytes
    }

    /// Adds bytes behind the rest.
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
