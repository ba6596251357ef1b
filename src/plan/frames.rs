//! Answers as they came over the wire, for those who only pass them on.

use crate::plan::Row;

/// Whole replies one after another, unread.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Frames {
    /// Adds a reply.
    #[inline]
    pub(crate) fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }

    /// Reply number `number`.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends.get(number)?;
        let start = match number.checked_sub(1) {
            Some(before) => self.ends[before],
            None => 0,
        };
        Some(&self.bytes[start..end])
    }
}

impl Row for Frames {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn keep(&mut self, count: usize) {
        self.ends.truncate(count);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    fn join(&mut self, more: Self) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&more.bytes);
        self.ends.extend(more.ends.iter().map(|end| before + end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_found_again_also_when_later_ones_are_asked_again() {
        let mut frames = Frames::default();
        for frame in [&b":1\r\n"[..], b"$3\r\nabc\r\n", b"+OK\r\n"] {
            frames.push(frame);
        }
        assert_eq!(frames.get(1), Some(&b"$3\r\nabc\r\n"[..]));
        frames.keep(2);
        assert_eq!(frames.get(2), None);
        let mut more = Frames::default();
        more.push(b":3\r\n");
        frames.join(more);
        assert_eq!((frames.count(), frames.get(2)), (3, Some(&b":3\r\n"[..])));
        frames.keep(0);
        assert!(frames.bytes.is_empty());
    }
}
