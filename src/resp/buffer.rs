//! A buffer of received bytes, and the replies in it: [`ReplyDecoder`].
//!
//! For callers that read what is there and go on: `next_reply` returns `None`, and `next_frame` returns
//! `Incomplete`, until a whole reply has arrived. Pushes are skipped, or handed to a [`PushHandler`]. See the [module](super) for a reply
//! that is split over reads.

use std::io;

use redis::Value;

use crate::resp::FrameScanner;
use crate::resp::{self, Input, Slice};

/// Initial size of the buffer, in bytes.
const BYTES: usize = 16 * 1024;

/// A buffer of more bytes is replaced by one of the initial size when it becomes empty, so that one large
/// reply does not cost memory for the rest of the connection.
const BYTES_KEPT: usize = 1 << 20;

/// Maximum number of bytes by which the buffer grows at once.
const CHUNK_MAX: usize = 1 << 20;

/// Takes the items of each push message, kind first, in the order of their arrival.
pub(crate) type PushHandler = Box<dyn Fn(&[Value]) + Send + Sync>;

/// Received bytes, and how far they have been decoded.
///
/// ```text
/// buffer: [ decoded | received | spare ]
///                   ↑ start    ↑ end
/// ```
pub(crate) struct ReplyDecoder {
    buffer: Vec<u8>,
    /// Offset of the first byte that is not decoded.
    start: usize,
    /// Offset behind the last received byte.
    end: usize,
    /// Set while the reply at `start` has not arrived entirely: how far it was scanned.
    partial: Option<FrameSkip>,
    /// Set while a reply that is too large is dropped as it arrives.
    passing: Option<FrameScanner>,
    /// Where push messages go; without it they are skipped.
    on_push: Option<PushHandler>,
}

/// Bytes that are there, and where push messages among them go.
struct Received<'b> {
    bytes: Slice<'b>,
    on_push: Option<&'b PushHandler>,
}

impl Input for Received<'_> {
    #[inline]
    fn buffered(&self) -> &[u8] {
        self.bytes.buffered()
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.bytes.consume(count);
    }

    fn fill(&mut self) -> io::Result<()> {
        self.bytes.fill()
    }

    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.bytes.read_exact(into)
    }

    fn push_message(&mut self, items: &[Value]) {
        if let Some(on_push) = self.on_push {
            on_push(items);
        }
    }
}

/// A reply that has not arrived entirely: how far it was scanned.
#[derive(Default)]
struct FrameSkip {
    /// Number of bytes scanned, from the beginning of the reply.
    at: usize,
    scanner: FrameScanner,
}

/// A reply that is not decoded.
#[cfg(feature = "tokio-comp")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RawFrame<'b> {
    /// No whole reply has arrived.
    Incomplete,
    /// All bytes of a reply.
    Complete(&'b [u8]),
    /// The next reply is larger than the caller keeps. Its bytes are dropped as they arrive.
    TooLarge,
}

impl ReplyDecoder {
    /// Creates an empty decoder.
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; BYTES],
            start: 0,
            end: 0,
            partial: None,
            passing: None,
            on_push: None,
        }
    }

    /// Hands push messages to `handler`, which is called while replies are taken and must not block.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn on_push(&mut self, handler: PushHandler) {
        self.on_push = Some(handler);
    }

    /// Returns the spare part of the buffer, to read into; makes room first if little is left. Never empty.
    ///
    /// [`advance`](Self::advance) must be called with the number of bytes that were read.
    pub(crate) fn spare_mut(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // Only here, where nothing has to be copied.
            if self.buffer.len() > BYTES_KEPT {
                self.buffer = vec![0; BYTES];
            }
        } else if self.buffer.len() - self.end < BYTES / 4 {
            if self.start > 0 {
                // Received bytes are moved only when room is short, and most often there are few: the
                // beginning of a split reply.
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            if self.buffer.len() - self.end < BYTES / 4 {
                // Grows with the bytes that arrive, and not with the length that a peer announces.
                let more = self.buffer.len().min(CHUNK_MAX);
                self.buffer.resize(self.buffer.len() + more, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// Records that `count` bytes were read into the spare part.
    pub(crate) fn advance(&mut self, count: usize) {
        self.end += count;
    }

    /// Decodes the next whole reply. Returns `None` if none has arrived. Push messages are no replies.
    ///
    /// # Errors
    ///
    /// When the bytes are no reply. The connection cannot be used any more: where the next reply begins is
    /// unknown.
    pub(crate) fn next_reply(&mut self) -> io::Result<Option<Value>> {
        loop {
            self.skip_frame()?;
            let arrived = &self.buffer[self.start..self.end];
            if arrived.is_empty() {
                return Ok(None);
            }
            // A reply is decoded twice at most: at once, in the hope that it is whole, and when the scanner
            // has reached its end.
            if let Some(partial) = &mut self.partial
                && !partial.is_complete(arrived)?
            {
                return Ok(None);
            }
            let mut received = Received {
                bytes: Slice(arrived),
                on_push: self.on_push.as_ref(),
            };
            match resp::read_next(&mut received) {
                Ok(value) => {
                    self.start = self.end - received.bytes.0.len();
                    self.partial = None;
                    if value.is_some() {
                        return Ok(value);
                    }
                }
                // The scanner has found the end, and the decoder wants more: they disagree about a malformed
                // reply. To scan again would never end.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && self.partial.is_some() =>
                {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the reply is longer than it says",
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.partial = Some(FrameSkip::default());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Drops the received bytes of a reply that is too large.
    fn skip_frame(&mut self) -> io::Result<()> {
        if let Some(scanner) = &mut self.passing {
            self.start += scanner.advance(&self.buffer[self.start..self.end])?;
            if scanner.is_complete() {
                self.passing = None;
            }
        }
        Ok(())
    }
}

/// Replies as bytes: those that the proxy passes on, and those to requests that were given up.
#[cfg(feature = "tokio-comp")]
impl ReplyDecoder {
    /// Returns the next whole reply without decoding it, if it has no more than `keep` bytes. Push messages
    /// are skipped.
    ///
    /// # Errors
    ///
    /// As for [`next_reply`](Self::next_reply).
    pub(crate) fn next_frame(&mut self, keep: usize) -> io::Result<RawFrame<'_>> {
        loop {
            self.skip_frame()?;
            let arrived = &self.buffer[self.start..self.end];
            if arrived.is_empty() {
                return Ok(RawFrame::Incomplete);
            }
            // Short cut for replies of one line or one bulk string. A scanner that has begun must go on, as
            // it counts from where it stopped.
            let simple = match self.partial {
                None => resp::simple_length(arrived),
                Some(_) => None,
            };
            let length = match simple {
                Some(length) => length,
                None => {
                    let skip = self.partial.get_or_insert_default();
                    if !skip.is_complete(arrived)? {
                        // Includes the announced length of a bulk string, so a large value is dropped from
                        // its first bytes on.
                        let is_push = arrived[0] == b'>';
                        if skip.scanner.scanned() <= keep || is_push && self.on_push.is_some() {
                            return Ok(RawFrame::Incomplete);
                        }
                        // A push is no reply, so no request may be told that its reply was too large.
                        self.start += skip.at;
                        // The scanner goes on in the bytes to come: where the reply ends must be known to
                        // find the next one.
                        self.passing = self.partial.take().map(|skip| skip.scanner);
                        return Ok(match is_push {
                            true => RawFrame::Incomplete,
                            false => RawFrame::TooLarge,
                        });
                    }
                    skip.at
                }
            };
            self.partial = None;
            let start = self.start;
            self.start += length;
            if self.buffer[start] != b'>' {
                return Ok(RawFrame::Complete(&self.buffer[start..start + length]));
            }
            if self.on_push.is_some() {
                resp::read_next(&mut Received {
                    bytes: Slice(&self.buffer[start..start + length]),
                    on_push: self.on_push.as_ref(),
                })?;
            }
        }
    }
}

impl FrameSkip {
    /// True if the reply at the beginning of `bytes` has arrived entirely. Goes on where it stopped the last
    /// time, so `bytes` must begin at the same place and may only have grown.
    fn is_complete(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.at += self
            .scanner
            .advance(bytes.get(self.at..).unwrap_or_default())?;
        Ok(self.scanner.is_complete())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives the bytes in pieces, and calls `take` behind each.
    fn feed_to(
        bytes: &[u8],
        piece: usize,
        mut take: impl FnMut(&mut ReplyDecoder) -> io::Result<()>,
    ) -> io::Result<ReplyDecoder> {
        let mut decoder = ReplyDecoder::new();
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                let room = decoder.spare_mut();
                let count = room.len().min(piece.len());
                room[..count].copy_from_slice(&piece[..count]);
                decoder.advance(count);
                piece = &piece[count..];
                take(&mut decoder)?;
            }
        }
        Ok(decoder)
    }

    fn feed(bytes: &[u8], piece: usize) -> io::Result<Vec<Value>> {
        let mut values = Vec::new();
        feed_to(bytes, piece, |decoder| {
            while let Some(value) = decoder.next_reply()? {
                values.push(value);
            }
            Ok(())
        })?;
        Ok(values)
    }

    #[test]
    fn reply_decoder_finds_the_same_replies_in_pieces_of_any_size() {
        let bytes: &[u8] = b"+OK\r\n*2\r\n$3\r\na\r\n\r\n*1\r\n:1\r\n>2\r\n+x\r\n:2\r\n|1\r\n+ttl\r\n:1\r\n$-1\r\n\
            %1\r\n+k\r\n~1\r\n#t\r\n=6\r\ntxt:ab\r\n-ERR no\r\n*0\r\n$0\r\n\r\n";
        let whole = feed(bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 8);
        for piece in 1..bytes.len() {
            assert_eq!(feed(bytes, piece).unwrap(), whole, "in pieces of {piece}");
        }
    }

    #[cfg(feature = "tokio-comp")]
    #[test]
    fn reply_decoder_hands_over_each_push_message_once_and_in_order() {
        use std::sync::{Arc, Mutex};

        // The longest reply of those below; messages may be longer.
        const KEEP: usize = 5;
        let bytes: &[u8] =
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n+OK\r\n>1\r\n+a\r\n>1\r\n+b\r\n:1\r\n\
            >1\r\n$30\r\n012345678901234567890123456789\r\n:2\r\n";
        let long = || Value::BulkString(b"012345678901234567890123456789".to_vec());
        let push = |items: Vec<Value>| format!("push {items:?}");
        let invalidate = Value::BulkString(b"invalidate".to_vec());
        let keys = Value::Array(vec![Value::BulkString(b"k".to_vec())]);
        let expected = [
            push(vec![invalidate, keys]),
            "reply".into(),
            push(vec![Value::SimpleString("a".into())]),
            push(vec![Value::SimpleString("b".into())]),
            "reply".into(),
            push(vec![long()]),
            "reply".into(),
        ];
        for (as_frames, piece) in [false, true]
            .into_iter()
            .flat_map(|as_frames| (1..=bytes.len()).map(move |piece| (as_frames, piece)))
        {
            let log = Arc::new(Mutex::new(Vec::new()));
            let fed = feed_to(bytes, piece, |decoder| {
                if decoder.on_push.is_none() {
                    let log = Arc::clone(&log);
                    decoder.on_push(Box::new(move |items| {
                        log.lock().unwrap().push(push(items.to_vec()));
                    }));
                }
                loop {
                    let is_reply = match as_frames {
                        true => match decoder.next_frame(KEEP)? {
                            RawFrame::Incomplete => false,
                            RawFrame::Complete(_) => true,
                            RawFrame::TooLarge => panic!("no reply is that large"),
                        },
                        false => decoder.next_reply()?.is_some(),
                    };
                    if !is_reply {
                        return Ok(());
                    }
                    log.lock().unwrap().push("reply".into());
                }
            });
            fed.unwrap();
            assert_eq!(*log.lock().unwrap(), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn reply_decoder_takes_linear_time_for_a_long_reply_in_pieces() {
        let mut bytes = b"*100000\r\n".to_vec();
        for number in 0..100_000 {
            bytes.extend_from_slice(
                format!("${}\r\n{number}\r\n", number.to_string().len()).as_bytes(),
            );
        }
        let values = feed(&bytes, 1000).unwrap();
        assert!(matches!(&values[..], [Value::Array(items)] if items.len() == 100_000));
    }

    #[test]
    fn reply_decoder_skips_and_reports_frames_that_are_too_large() {
        let large = format!("${}\r\n{}\r\n", 100_000, "x".repeat(100_000));
        let bytes = [b"+OK\r\n", large.as_bytes(), b":1\r\n"].concat();
        for piece in [1000, 4096, 100_000] {
            let mut heard = Vec::new();
            let fed = feed_to(&bytes, piece, |decoder| {
                loop {
                    heard.push(match decoder.next_frame(50_000)? {
                        RawFrame::Incomplete => return Ok(()),
                        RawFrame::Complete(frame) => frame.escape_ascii().to_string(),
                        RawFrame::TooLarge => "large".into(),
                    });
                }
            });
            let decoder = fed.unwrap();
            assert_eq!(
                heard,
                [r"+OK\r\n", "large", r":1\r\n"],
                "in pieces of {piece}"
            );
            assert!(decoder.buffer.len() <= 4 * BYTES, "nothing of it was kept");
        }
    }

    #[test]
    fn reply_decoder_does_not_count_a_large_push_as_a_reply() {
        let push = format!(">2\r\n+x\r\n${}\r\n{}\r\n", 10_000, "x".repeat(10_000));
        let bytes = [push.as_bytes(), b":1\r\n"].concat();
        for keep in [0, 100] {
            let mut decoder = ReplyDecoder::new();
            let mut heard = Vec::new();
            for piece in bytes.chunks(1000) {
                decoder.spare_mut()[..piece.len()].copy_from_slice(piece);
                decoder.advance(piece.len());
                match decoder.next_frame(keep).unwrap() {
                    RawFrame::Incomplete => {}
                    RawFrame::Complete(frame) => heard.push(frame.escape_ascii().to_string()),
                    RawFrame::TooLarge => heard.push("large".into()),
                }
            }
            assert_eq!(heard, [r":1\r\n"], "when {keep} bytes are kept");
        }
    }

    #[test]
    fn reply_decoder_refuses_malformed_replies() {
        assert!(feed(b"?\r\n", 1).is_err());
        assert!(feed(b"$99999999999\r\nx", 3).is_err());
    }

    /// A reply in the wire format, of any kind of RESP3.
    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let text = "[a-z \r\n*$%|+:-]{0,20}";
        let line = "[a-z *$%|+:]{0,20}";
        let leaf = prop_oneof![
            line.prop_map(|line| format!("+{line}\r\n")),
            line.prop_map(|line| format!("-ERR {line}\r\n")),
            any::<i64>().prop_map(|number| format!(":{number}\r\n")),
            text.prop_map(|text| format!("${}\r\n{text}\r\n", text.len())),
            text.prop_map(|text| format!("={}\r\ntxt:{text}\r\n", text.len() + 4)),
            text.prop_map(|text| format!("!{}\r\nERR {text}\r\n", text.len() + 4)),
            proptest::sample::select(vec![
                "$-1\r\n",
                "*-1\r\n",
                "*0\r\n",
                "_\r\n",
                "#t\r\n",
                "#f\r\n",
                ",3.25\r\n",
                ",inf\r\n",
                "(3492890328409238509324850943850943825024385\r\n",
            ])
            .prop_map(str::to_owned),
        ]
        .prop_map(String::into_bytes);
        leaf.prop_recursive(4, 40, 6, |inner| {
            let items = proptest::collection::vec(inner.clone(), 0..6);
            let pairs = proptest::collection::vec((inner.clone(), inner.clone()), 0..3);
            prop_oneof![
                (proptest::sample::select(vec!['*', '~']), items).prop_map(|(mark, items)| {
                    [
                        format!("{mark}{}\r\n", items.len()).into_bytes(),
                        items.concat(),
                    ]
                    .concat()
                }),
                (pairs.clone(), Just(Vec::new())).prop_map(packed_pairs('%')),
                (pairs, inner).prop_map(packed_pairs('|')),
            ]
        })
    }

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn packed_pairs(mark: char) -> impl Fn((Pairs, Vec<u8>)) -> Vec<u8> {
        move |(pairs, after)| {
            let mut packed = format!("{mark}{}\r\n", pairs.len()).into_bytes();
            for (key, value) in pairs {
                packed.extend(key);
                packed.extend(value);
            }
            packed.extend(after);
            packed
        }
    }

    proptest! {
        #[test]
        fn reply_decoder_agrees_with_redis_rs_on_random_replies(
            replies in proptest::collection::vec(wire(), 1..6),
            piece in 1_usize..60,
        ) {
            let values = feed(&replies.concat(), piece).unwrap();
            let expected: Vec<Value> = replies
                .iter()
                .map(|reply| redis::parse_redis_value(reply).unwrap())
                .collect();
            prop_assert_eq!(format!("{values:?}"), format!("{expected:?}"));
        }

        #[test]
        fn reply_decoder_never_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..20) {
            let _ = feed(&bytes, piece);
        }
    }
}
