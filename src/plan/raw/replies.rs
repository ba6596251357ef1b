//! Replies as they came from a node, one frame after another.
//!
//! [`RawReplies`] is built for many small replies and few large ones: small frames share pieces of memory, a
//! large one has its own. The bytes held are reported to a [`ByteMeter`], by which the proxy limits what one
//! client may keep waiting.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use redis::Value;

use crate::command::Merge;
use crate::error::Error;
use crate::plan::ReplyBuffer;
use crate::plan::missing::decode_miss;
use crate::resp::{Protocol, write_int, write_line};

/// Growth in bytes that is reported to the meter. Less is not, so that small replies cost nothing.
const METERED_BYTES_MIN: usize = 64 << 10;

/// Counts the bytes of replies that are held for one client. Shared by the exchanges of a round, hence
/// `&self`.
pub(crate) trait ByteMeter: fmt::Debug + Send + Sync {
    /// Called when this many more bytes are held.
    fn add(&self, bytes: usize);
    /// Called when this many bytes were freed.
    fn subtract(&self, bytes: usize);
}

/// One meter, shared by the replies of all nodes.
pub(crate) type SharedByteMeter = Arc<dyn ByteMeter>;

/// Size in bytes above which a repeatable reply is not kept.
pub(crate) const LARGE_BYTES: usize = 4 << 20;

/// Total in bytes of repeatable replies above which only small ones are kept, of up to [`SMALL_BYTES`]: a
/// pipeline of many replies just below [`LARGE_BYTES`] would otherwise add up.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// Size in bytes up to which a reply is always kept: asking again would cost more than its memory.
const SMALL_BYTES: usize = 64 << 10;

/// Size in bytes of the pieces of memory that small replies share; a larger reply has a piece of its own.
///
/// Only the first piece grows, up to this size; all others are allocated once and never copied. The memory of
/// a large reply returns to the system as soon as it is freed.
const PIECE_BYTES: usize = 64 << 10;

/// Which replies to a request are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReplyRetention {
    /// All of them.
    #[default]
    All,
    /// Not those that are too large. All requests are reads, so the reply can be requested again.
    Small,
}

/// Frames of replies in the order in which they came, not decoded.
///
/// ```text
///  pieces  [ +OK | :1 | $3 abc ] [ $100000 ... ] [ +OK ]
///  ends       0,5   0,9  0,18       1,100011        2,5
/// ```
#[derive(Debug, Default)]
pub(crate) struct RawReplies {
    /// Frames end to end. A frame never spans two pieces.
    pieces: Vec<Vec<u8>>,
    /// One per reply, ascending.
    ends: Vec<ReplyEnd>,
    /// Total length of the pieces.
    bytes: usize,
    /// Which replies are kept.
    retention: ReplyRetention,
    /// Counts the bytes; `None` if nobody limits them.
    meter: Option<SharedByteMeter>,
    /// Bytes that the meter counts for this value; given back on drop.
    metered: usize,
}

/// A reply that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawReply<'r> {
    /// All of its bytes, line ends included.
    Complete(&'r [u8]),
    /// It was too large to be kept, and the request has to be sent again: see
    /// [`ReplyRetention::Small`].
    Oversized,
}

/// End of one reply. It begins where the one before it ends, or at the beginning of its piece.
#[derive(Clone, Copy, Debug)]
struct ReplyEnd {
    /// Index of its piece.
    piece: u32,
    /// Nothing of the reply is kept. The flag lies in what would be padding, so it costs no memory.
    is_oversized: bool,
    /// Offset in the piece.
    end: usize,
}

impl RawReplies {
    /// Returns an empty list; `meter` counts the bytes of replies to come.
    pub(crate) fn with_meter(meter: Option<SharedByteMeter>) -> Self {
        let mut frames = Self::default();
        frames.meter = meter;
        frames
    }

    /// Keeps only some replies.
    pub(crate) fn with_retention(mut self, retention: ReplyRetention) -> Self {
        self.retention = retention;
        self
    }

    /// Maximum size in bytes up to which the next reply is kept.
    pub(crate) fn reply_bytes_max(&self) -> usize {
        match self.retention {
            ReplyRetention::All => usize::MAX,
            ReplyRetention::Small if self.bytes < KEPT_BYTES_MAX => LARGE_BYTES,
            ReplyRetention::Small => SMALL_BYTES,
        }
    }

    /// Appends a reply, which must be one whole frame.
    #[inline]
    pub(crate) fn push(&mut self, frame: &[u8]) {
        self.push_reply(frame, false);
    }

    /// Appends a reply that came but was too large to be kept. It takes a place, so that those after it keep
    /// theirs.
    pub(crate) fn push_oversized(&mut self) {
        self.push_reply(b"", true);
    }

    /// Appends the frame to the last piece if it fits, or else to a new one.
    #[inline]
    fn push_reply(&mut self, frame: &[u8], is_oversized: bool) {
        match self.pieces.last_mut() {
            Some(piece) if piece.len() + frame.len() <= PIECE_BYTES => {
                piece.extend_from_slice(frame);
            }
            last => {
                let mut piece = Vec::new();
                // The first piece grows as needed: most exchanges have few replies. One that follows a full
                // piece will probably fill up as well.
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

    /// Total length of the kept replies in bytes.
    pub(crate) fn byte_count(&self) -> usize {
        self.bytes
    }

    /// Reports the memory that the replies take now. `ends` is counted too: millions of five-byte replies
    /// take more there than in the pieces.
    fn update_meter(&mut self) {
        if let Some(meter) = &self.meter {
            let held = self.bytes + self.ends.capacity() * size_of::<ReplyEnd>();
            // Two calls, since the difference may have either sign and a meter counts in `usize`; one of them
            // is 0.
            meter.add(held.saturating_sub(self.metered));
            meter.subtract(self.metered.saturating_sub(held));
            self.metered = held;
        }
    }

    /// Reply number `number`; `None` if it has not come.
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

    /// Bytes of reply number `number`; `None` if it has not come, or was too large to be kept. The latter
    /// only happens to [`ReplyRetention::Small`] requests.
    #[inline]
    pub(crate) fn frame(&self, number: usize) -> Option<&[u8]> {
        match self.get(number)? {
            RawReply::Complete(frame) => Some(frame),
            RawReply::Oversized => None,
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
        // Counted anew, and reported whatever the difference: memory was freed.
        self.bytes = self.pieces.iter().map(Vec::len).sum();
        self.update_meter();
    }

    fn join(&mut self, mut more: Self) {
        // `more` begins with a piece of its own, so its first reply begins at 0 and its ends stay valid but
        // for the index.
        let before = self.pieces.len() as u32;
        self.pieces.append(&mut more.pieces);
        self.ends.extend(more.ends.iter().map(|last| ReplyEnd {
            piece: before + last.piece,
            ..*last
        }));
        self.bytes += more.bytes;
        // `more` gives back on drop what it metered; `self.update_meter` then counts its bytes here. With no
        // meter of its own this value counted nothing so far.
        if self.meter.is_none() {
            self.meter.clone_from(&more.meter);
        }
        self.update_meter();
    }

    fn retain(&mut self, is_kept: impl Fn(usize) -> bool) {
        let mut kept = Self::with_meter(self.meter.clone()).with_retention(self.retention);
        for number in (0..self.ends.len()).filter(|&number| is_kept(number)) {
            match self.get(number) {
                Some(RawReply::Complete(frame)) => kept.push(frame),
                Some(RawReply::Oversized) => kept.push_oversized(),
                None => {}
            }
        }
        *self = kept;
    }

    fn replace_with_joined(&mut self, number: usize, replies: &[(&Self, usize)], merge: Merge) {
        let frames = replies.iter().map(|(values, number)| values.frame(*number));
        let joined = frames
            .collect::<Option<Vec<_>>>()
            .and_then(|frames| join_frames(&frames, merge));
        if let Some(joined) = joined {
            self.replace(number, &joined);
        }
    }

    fn replace_with_error(&mut self, number: usize, error: &Error) {
        let mut frame = Vec::new();
        Protocol::Resp2.write(&mut frame, &error.to_reply());
        self.replace(number, &frame);
    }

    fn push_error(&mut self, error: &Error) {
        let mut frame = Vec::new();
        Protocol::Resp2.write(&mut frame, &error.to_reply());
        self.push(&frame);
    }

    fn decoded(&self, number: usize) -> Option<Cow<'_, Value>> {
        match self.get(number)? {
            RawReply::Complete(frame) => decode_miss(frame).map(Cow::Owned),
            RawReply::Oversized => None,
        }
    }

    fn error_code(&self, number: usize) -> Option<&[u8]> {
        // The code is the first word; a line that is only a code ends with it.
        self.error(number)?
            .split(|byte| b" \r".contains(byte))
            .next()
    }

    fn error_text(&self, number: usize) -> Option<&[u8]> {
        let line = self.error(number)?.strip_suffix(b"\r\n")?;
        line.splitn(2, |&byte| byte == b' ').nth(1)
    }
}

/// The replies to a command that was sent key by key as one. `None` if they are not of the kind that the rule joins.
fn join_frames(frames: &[&[u8]], merge: Merge) -> Option<Vec<u8>> {
    let mut joined = Vec::new();
    match merge {
        Merge::KeyOrder => {
            write_line(&mut joined, b'*', frames.len());
            for frame in frames {
                joined.extend_from_slice(frame.strip_prefix(b"*1\r\n")?);
            }
        }
        Merge::Sum => {
            let mut sum = 0_i64;
            for frame in frames {
                let count = frame.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
                let count: i64 = str::from_utf8(count).ok()?.parse().ok()?;
                sum = sum.checked_add(count)?;
            }
            write_int(&mut joined, sum);
        }
        _ => joined.extend_from_slice(frames.first()?),
    }
    Some(joined)
}

impl RawReplies {
    /// Puts a frame in the place of reply number `number`.
    fn replace(&mut self, number: usize, frame: &[u8]) {
        let mut replaced = Self::with_meter(self.meter.clone()).with_retention(self.retention);
        for other in 0..self.ends.len() {
            match self.get(other) {
                Some(_) if other == number => replaced.push(frame),
                Some(RawReply::Complete(kept)) => replaced.push(kept),
                Some(RawReply::Oversized) => replaced.push_oversized(),
                None => {}
            }
        }
        *self = replaced;
    }

    /// Reply number `number` if it is an error: its code and text, with the end of the line.
    fn error(&self, number: usize) -> Option<&[u8]> {
        let frame = self.frame(number)?;
        match frame.first()? {
            b'-' => Some(&frame[1..]),
            // An error of RESP3 with its length: the text is behind the first line.
            b'!' => frame.splitn(2, |&byte| byte == b'\n').nth(1),
            _ => None,
        }
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
