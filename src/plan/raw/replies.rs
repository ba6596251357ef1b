//! Answers as they came over the wire, for those who only pass them on.

use std::fmt;
use std::sync::Arc;

use crate::plan::{ExpectedEnd, ReplyBuffer};

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

/// An answer of more bytes need not be kept when it can be asked for again.
pub(crate) const LARGE_BYTES: usize = 4 << 20;

/// Once so many bytes of repeatable answers are kept, only small ones are added: those of up to [`SMALL_BYTES`].
const KEPT_BYTES_MAX: usize = 16 << 20;
const SMALL_BYTES: usize = 64 << 10;

/// Small replies are kept together in pieces of memory of up to so many bytes; a larger one has a piece of its own.
///
/// So no piece is copied because it grows, and large ones go back to the system as soon as they are freed.
const PIECE_BYTES: usize = 64 << 10;

/// Replies one after another, not decoded.
#[derive(Debug, Default)]
pub(crate) struct RawReplies {
    pieces: Vec<Vec<u8>>,
    ends: Vec<ReplyEnd>,
    bytes: usize,
    meter: Option<SharedByteMeter>,
    /// What the meter was told.
    metered: usize,
}

/// One reply as it came over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawReply<'r> {
    /// All of its bytes.
    Complete(&'r [u8]),
    /// It came, and was too large to be kept: see [`ExpectedEnd::Repeatable`](crate::plan::ExpectedEnd).
    Oversized,
}

/// Where one reply ends.
#[derive(Clone, Copy, Debug)]
struct ReplyEnd {
    piece: u32,
    /// Nothing of the reply is kept. The flag lies in what would be padding, so it costs no memory.
    is_oversized: bool,
    /// The place in the piece.
    end: usize,
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
        self.push_reply(frame, false);
    }

    /// Adds a reply that was too large to be kept.
    pub(crate) fn push_oversized(&mut self) {
        self.push_reply(b"", true);
    }

    #[inline]
    fn push_reply(&mut self, frame: &[u8], is_oversized: bool) {
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
        self.ends.push(ReplyEnd {
            piece: piece as u32,
            is_oversized,
            end: self.pieces[piece].len(),
        });
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
            let held = self.bytes + self.ends.capacity() * size_of::<ReplyEnd>();
            meter.add(held.saturating_sub(self.metered));
            meter.subtract(self.metered.saturating_sub(held));
            self.metered = held;
        }
    }

    /// Reply number `number`, if it has come.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<RawReply<'_>> {
        let last = *self.ends.get(number)?;
        if last.is_oversized {
            return Some(RawReply::Oversized);
        }
        let start = match number.checked_sub(1).map(|before| self.ends[before]) {
            Some(before) if before.piece == last.piece => before.end,
            _ => 0,
        };
        let frame = &self.pieces[last.piece as usize][start..last.end];
        Some(RawReply::Complete(frame))
    }

    /// The bytes of reply number `number`, if it has come and was kept. All replies are kept but those to
    /// [`ExpectedEnd::Repeatable`](crate::plan::ExpectedEnd) requests.
    #[inline]
    pub(crate) fn frame(&self, number: usize) -> Option<&[u8]> {
        match self.get(number)? {
            RawReply::Complete(frame) => Some(frame),
            RawReply::Oversized => None,
        }
    }
}

impl ExpectedEnd {
    /// How many bytes of the next answer are kept, when it is passed on unread and `kept` bytes of those before it are.
    pub(crate) fn reply_bytes_max(self, kept: usize) -> usize {
        match self {
            Self::Repeatable if kept < KEPT_BYTES_MAX => LARGE_BYTES,
            Self::Repeatable => SMALL_BYTES,
            _ => usize::MAX,
        }
    }
}

impl ReplyBuffer for RawReplies {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn keep(&mut self, count: usize) {
        self.ends.truncate(count);
        match self.ends.last() {
            Some(last) => {
                let piece = last.piece as usize;
                self.pieces.truncate(piece + 1);
                self.pieces[piece].truncate(last.end);
            }
            None => self.pieces.clear(),
        }
        self.bytes = self.pieces.iter().map(Vec::len).sum();
        self.update_meter();
    }

    fn join(&mut self, mut more: Self) {
        let before = self.pieces.len() as u32;
        self.pieces.append(&mut more.pieces);
        self.ends.extend(more.ends.iter().map(|last| ReplyEnd {
            piece: before + last.piece,
            ..*last
        }));
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
    fn raw_replies_meter_counts_held_bytes_until_they_are_dropped() {
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
    fn raw_replies_after_a_resend_are_metered() {
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
    fn raw_replies_are_found_by_number_after_a_resend() {
        let mut frames = RawReplies::default();
        for frame in [&b":1\r\n"[..], b"$3\r\nabc\r\n", b"+OK\r\n"] {
            frames.push(frame);
        }
        assert_eq!(frames.frame(1), Some(&b"$3\r\nabc\r\n"[..]));
        frames.keep(2);
        assert_eq!(frames.get(2), None);
        let mut more = RawReplies::default();
        more.push(b":3\r\n");
        frames.join(more);
        assert_eq!((frames.count(), frames.frame(2)), (3, Some(&b":3\r\n"[..])));
        frames.keep(0);
        assert_eq!((frames.byte_count(), frames.get(0)), (0, None));
    }

    #[test]
    fn raw_replies_keep_the_place_of_an_oversized_reply() {
        let mut frames = RawReplies::default();
        frames.push_oversized();
        frames.push(b":1\r\n");
        frames.push_oversized();
        let mut more = RawReplies::default();
        more.push_oversized();
        more.push(b"");
        frames.join(more);
        let replies: Vec<_> = (0..6).map(|number| frames.get(number)).collect();
        assert_eq!(
            replies,
            [
                Some(RawReply::Oversized),
                Some(RawReply::Complete(b":1\r\n")),
                Some(RawReply::Oversized),
                Some(RawReply::Oversized),
                Some(RawReply::Complete(b"")),
                None,
            ]
        );
        assert_eq!((frames.frame(0), frames.frame(4)), (None, Some(&b""[..])));
        frames.keep(1);
        assert_eq!(
            (frames.count(), frames.get(0)),
            (1, Some(RawReply::Oversized))
        );
        // The flag takes no room: a reply costs two words besides its bytes.
        assert_eq!(size_of::<ReplyEnd>(), size_of::<(u32, usize)>());
    }

    #[test]
    fn raw_replies_of_any_size_are_found_by_number() {
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
            assert_eq!(frames.frame(number), Some(&reply[..]), "reply {number}");
        }
        assert_eq!(frames.get(13), None);
        let bytes: usize = sizes.iter().chain(&sizes[..5]).sum();
        assert_eq!(frames.byte_count(), bytes);
    }
}
