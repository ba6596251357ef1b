//! Answers as they came over the wire, for those who only pass them on.

use std::fmt;
use std::sync::Arc;

use crate::plan::ReplyBuffer;

/// The meter is told of growth by at least this many bytes, so that small replies cost it nothing.
const METERED_BYTES_MIN: usize = 64 << 10;

/// Counts the bytes of replies that are held for one client.
pub(crate) trait ByteMeter: fmt::Debug + Send + Sync {
    /// More bytes are held.
    fn add(&self, bytes: usize);
    /// Bytes were freed.
    fn subtract(&self, bytes: usize);
}

/// A meter that several replies share.
pub(crate) type SharedByteMeter = Arc<dyn ByteMeter>;

/// Small replies are kept together in pieces of memory of up to so many bytes; a larger one has a piece of its own.
///
/// So no piece is copied because it grows, and large ones go back to the system as soon as they are freed.
const PIECE_BYTES: usize = 64 << 10;

/// Whole replies one after another, unread.
#[derive(Debug, Default)]
pub(crate) struct RawReplies {
    pieces: Vec<Vec<u8>>,
    /// Where each reply ends: its piece, and the place in it.
    ends: Vec<(u32, usize)>,
    bytes: usize,
    meter: Option<SharedByteMeter>,
    /// What the meter was told.
    metered: usize,
}

impl RawReplies {
    /// No replies yet; `meter` counts the bytes of those to come.
    pub(crate) fn with_meter(meter: Option<SharedByteMeter>) -> Self {
        let mut frames = Self::default();
        frames.meter = meter;
        frames
    }

    /// Adds a reply.
    #[inline]
    pub(crate) fn push(&mut self, frame: &[u8]) {
        match self.pieces.last_mut() {
            Some(piece) if piece.len() + frame.len() <= PIECE_BYTES => {
                piece.extend_from_slice(frame);
            }
            last => {
                let mut piece = Vec::new();
                // One that follows a full one will probably be full as well.
                if last.is_some() {
                    piece.reserve_exact(PIECE_BYTES.max(frame.len()));
                }
                piece.extend_from_slice(frame);
                self.pieces.push(piece);
            }
        }
        let piece = self.pieces.len() - 1;
        self.ends.push((piece as u32, self.pieces[piece].len()));
        self.bytes += frame.len();
        if self.bytes >= self.metered + METERED_BYTES_MIN {
            self.update_meter();
        }
    }

    /// How many bytes the replies have together.
    pub(crate) fn byte_count(&self) -> usize {
        self.bytes
    }

    /// Tells the meter how much memory the replies take now.
    fn update_meter(&mut self) {
        if let Some(meter) = &self.meter {
            let held = self.bytes + self.ends.capacity() * size_of::<(u32, usize)>();
            meter.add(held.saturating_sub(self.metered));
            meter.subtract(self.metered.saturating_sub(held));
            self.metered = held;
        }
    }

    /// Reply number `number`.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<&[u8]> {
        let (piece, end) = *self.ends.get(number)?;
        let start = match number.checked_sub(1).map(|before| self.ends[before]) {
            Some((before, start)) if before == piece => start,
            _ => 0,
        };
        Some(&self.pieces[piece as usize][start..end])
    }
}

impl ReplyBuffer for RawReplies {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn keep(&mut self, count: usize) {
        self.ends.truncate(count);
        match self.ends.last() {
            Some(&(piece, end)) => {
                self.pieces.truncate(piece as usize + 1);
                self.pieces[piece as usize].truncate(end);
            }
            None => self.pieces.clear(),
        }
        self.bytes = self.pieces.iter().map(Vec::len).sum();
        self.update_meter();
    }

    fn join(&mut self, mut more: Self) {
        let before = self.pieces.len() as u32;
        self.pieces.append(&mut more.pieces);
        let ends = more.ends.iter();
        self.ends
            .extend(ends.map(|&(piece, end)| (before + piece, end)));
        self.bytes += more.bytes;
        // Where nothing came before, nothing was metered.
        if self.meter.is_none() {
            self.meter.clone_from(&more.meter);
        }
        self.update_meter();
    }
}

impl Drop for RawReplies {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.subtract(self.metered);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Count(AtomicUsize);

    impl ByteMeter for Count {
        fn add(&self, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }

        fn subtract(&self, bytes: usize) {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_meter_of_raw_replies_counts_what_is_held_and_nothing_afterwards() {
        let count = Arc::new(Count::default());
        let meter = || Some(Arc::clone(&count) as SharedByteMeter);
        let held = || count.0.load(Ordering::Relaxed);
        let mut frames = RawReplies::with_meter(meter());
        frames.push(b"+OK\r\n");
        assert_eq!(held(), 0);
        frames.push(&vec![b'x'; 1 << 20]);
        assert!(held() >= 1 << 20);
        let mut more = RawReplies::with_meter(meter());
        more.push(&vec![b'x'; 1 << 20]);
        frames.join(more);
        assert!(held() >= 2 << 20);
        drop(frames);
        assert_eq!(held(), 0);
    }

    #[test]
    fn replies_that_come_after_a_resend_are_metered_though_none_came_before() {
        let count = Arc::new(Count::default());
        let held = || count.0.load(Ordering::Relaxed);
        let mut more = RawReplies::with_meter(Some(Arc::clone(&count) as SharedByteMeter));
        more.push(&vec![b'x'; 1 << 20]);
        let mut answers = RawReplies::default();
        answers.join(more);
        assert!(held() >= 1 << 20);
        drop(answers);
        assert_eq!(held(), 0);
    }

    #[test]
    fn replies_are_found_again_also_when_later_ones_are_asked_again() {
        let mut frames = RawReplies::default();
        for frame in [&b":1\r\n"[..], b"$3\r\nabc\r\n", b"+OK\r\n"] {
            frames.push(frame);
        }
        assert_eq!(frames.get(1), Some(&b"$3\r\nabc\r\n"[..]));
        frames.keep(2);
        assert_eq!(frames.get(2), None);
        let mut more = RawReplies::default();
        more.push(b":3\r\n");
        frames.join(more);
        assert_eq!((frames.count(), frames.get(2)), (3, Some(&b":3\r\n"[..])));
        frames.keep(0);
        assert_eq!((frames.byte_count(), frames.get(0)), (0, None));
    }

    #[test]
    fn replies_of_any_size_are_found_again() {
        let sizes = [5, PIECE_BYTES - 5, 1, 3 * PIECE_BYTES, 7, PIECE_BYTES, 0, 2];
        let replies: Vec<Vec<u8>> = (0..)
            .zip(sizes)
            .map(|(byte, size)| vec![byte; size])
            .collect();
        let mut frames = RawReplies::default();
        replies.iter().for_each(|reply| frames.push(reply));
        let mut more = RawReplies::default();
        replies.iter().for_each(|reply| more.push(reply));
        frames.keep(5);
        frames.join(more);
        let expected = replies[..5].iter().chain(&replies);
        for (number, reply) in expected.enumerate() {
            assert_eq!(frames.get(number), Some(&reply[..]), "reply {number}");
        }
        assert_eq!(frames.get(13), None);
        let bytes: usize = sizes.iter().chain(&sizes[..5]).sum();
        assert_eq!(frames.byte_count(), bytes);
    }
}
