//! Properties of the replies of nodes: [`replies`], decoded, and [`frames`], cut out without decoding.

use std::io;

use redis::Value;

use super::{pieces, steps};
use crate::resp::FrameScanner;
use crate::resp::Protocol;
use crate::resp::{self, Slice};
use crate::resp::{RawFrame, ReplyDecoder};

/// Maximum number of bytes reserved for each byte of a reply: more than the largest size of a value.
const RESERVED_PER_BYTE: usize = 64;

/// The replies in some bytes, each with the offset of its end; `None` for a push message.
struct Decoded {
    replies: Vec<(Option<Value>, usize)>,
    end: End,
}

/// Reason why there are no more replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The rest has not arrived.
    Part,
    /// The rest is no reply.
    Malformed,
}

/// Bytes that a node sends are decoded to the same values however they arrive, and values are written so that
/// they are read as the same. No more work and no more memory is used than there are bytes.
pub fn replies(data: &[u8]) {
    let Some((piece, bytes)) = pieces(data) else {
        return;
    };
    let (whole, spent) = steps::of(|| decode(bytes));
    assert!(
        spent.reserved <= RESERVED_PER_BYTE * (bytes.len() + 64),
        "{spent:?} for {} bytes",
        bytes.len()
    );
    let (in_pieces, spent) = steps::of(|| decode_in_pieces(bytes, piece));
    let calls = bytes.len() / piece + 1 + whole.replies.len();
    assert!(
        spent.steps <= 8 * bytes.len() + 8 * calls,
        "{spent:?} for {} bytes",
        bytes.len()
    );
    let values: Vec<&Value> = whole
        .replies
        .iter()
        .filter_map(|(value, _)| value.as_ref())
        .collect();
    assert_eq!(
        format!("{in_pieces:?}"),
        format!("{values:?}"),
        "in pieces of {piece}"
    );
    for value in values {
        compare_written(value);
    }
}

/// The scanner finds the end of a reply where the decoder finds it, however the bytes arrive and however
/// large a reply may be to be kept.
pub fn frames(data: &[u8]) {
    let Some((piece, bytes)) = pieces(data) else {
        return;
    };
    let whole = decode(bytes);
    let mut at = 0;
    for &(_, end) in &whole.replies {
        assert_eq!(
            scan(&bytes[at..], piece),
            Some(end - at),
            "the reply at {at}"
        );
        at = end;
    }
    if whole.end == End::Part && at < bytes.len() {
        assert_eq!(
            scan(&bytes[at..], piece),
            None,
            "the reply at {at} has not arrived"
        );
    }
    for keep in [0, piece, usize::MAX] {
        compare_frames(bytes, piece, keep, &whole);
    }
}

fn decode(bytes: &[u8]) -> Decoded {
    let (mut input, mut replies) = (Slice(bytes), Vec::new());
    let end = loop {
        if input.0.is_empty() {
            break End::Part;
        }
        match resp::read_next(&mut input) {
            Ok(value) => replies.push((value, bytes.len() - input.0.len())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break End::Part,
            Err(_) => break End::Malformed,
        }
    };
    Decoded { replies, end }
}

/// Feeds bytes to a [`ReplyDecoder`] in pieces, and calls `take` after each.
fn feed(
    bytes: &[u8],
    piece: usize,
    mut take: impl FnMut(&mut ReplyDecoder) -> io::Result<()>,
) -> io::Result<()> {
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
    Ok(())
}

fn decode_in_pieces(bytes: &[u8], piece: usize) -> Vec<Value> {
    let mut values = Vec::new();
    // Malformed bytes end the replies as the end of the bytes does.
    let _ = feed(bytes, piece, |decoder| {
        while let Some(value) = decoder.next_reply()? {
            values.push(value);
        }
        Ok(())
    });
    values
}

/// Returns the offset at which the scanner ends the reply.
fn scan(bytes: &[u8], piece: usize) -> Option<usize> {
    let (mut scanner, mut at) = (FrameScanner::default(), 0);
    for piece in bytes.chunks(piece) {
        at += scanner.advance(piece).ok()?;
        if scanner.is_complete() {
            return Some(at);
        }
        assert!(scanner.scanned() >= at, "at least what has passed");
    }
    None
}

/// Compares replies that are cut out without decoding with decoded ones. Replies of more than `keep` bytes
/// may be dropped.
fn compare_frames(bytes: &[u8], piece: usize, keep: usize, whole: &Decoded) {
    let mut frames = Vec::new();
    let ((), spent) = steps::of(|| {
        let _ = feed(bytes, piece, |decoder| {
            loop {
                frames.push(match decoder.next_frame(keep)? {
                    RawFrame::Incomplete => return Ok(()),
                    RawFrame::Complete(frame) => Some(frame.to_vec()),
                    RawFrame::TooLarge => None,
                });
            }
        });
    });
    let calls = bytes.len() / piece + 1 + frames.len();
    assert!(
        spent.steps <= 8 * bytes.len() + 8 * calls,
        "{spent:?} for {} bytes",
        bytes.len()
    );
    let mut frames = frames.iter();
    let mut at = 0;
    for (value, end) in &whole.replies {
        let expected = &bytes[at..*end];
        at = *end;
        if value.is_some() {
            match frames.next() {
                Some(Some(frame)) => assert_eq!(frame, expected),
                Some(None) => assert!(expected.len() > keep, "{} bytes are kept", expected.len()),
                None => panic!("the reply that ends at {end} is missing"),
            }
        }
    }
}

/// Writes a value in both protocols and reads it again.
fn compare_written(value: &Value) {
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let mut written = Vec::new();
        protocol.write(&mut written, value);
        let read = decode(&written);
        let [(Some(again), end)] = &read.replies[..] else {
            panic!("{value:?} is written as {}", written.escape_ascii());
        };
        assert_eq!(
            *end,
            written.len(),
            "{value:?} is written as {}",
            written.escape_ascii()
        );
        if protocol == Protocol::Resp3 && is_plain(value) {
            assert_eq!(again, value, "written as {}", written.escape_ascii());
        }
        let mut twice = Vec::new();
        protocol.write(&mut twice, again);
        assert_eq!(
            twice.escape_ascii().to_string(),
            written.escape_ascii().to_string()
        );
    }
}

/// True if every part of the value has a form of its own in RESP3, so that it is read back as the same value.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Nil | Value::Int(_) | Value::BulkString(_) | Value::Okay | Value::Boolean(_) => true,
        Value::Array(items) | Value::Set(items) => items.iter().all(is_plain),
        Value::Map(pairs) => pairs
            .iter()
            .all(|(key, value)| is_plain(key) && is_plain(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_headers_without_elements_reserve_no_memory() {
        for headers in [
            "*1000000\r\n".repeat(100),
            "%1000000\r\n".repeat(100),
            "*1000000\r\n*1\r\n".repeat(50),
            "~4294967295\r\n".to_owned(),
            "$4000000000\r\n".to_owned(),
        ] {
            let (whole, spent) = steps::of(|| decode(headers.as_bytes()));
            assert_eq!(whole.end, End::Part);
            let most = RESERVED_PER_BYTE * headers.len();
            assert!(
                spent.reserved <= most,
                "{spent:?} for {} bytes",
                headers.len()
            );
        }
    }

    #[test]
    fn long_reply_line_in_pieces_is_decoded_in_linear_time() {
        let line = [b"+", &vec![b'x'; 1 << 20][..], b"\r\n"].concat();
        for keep in [0, usize::MAX] {
            compare_frames(&line, 100, keep, &decode(&line));
        }
        let (values, spent) = steps::of(|| decode_in_pieces(&line, 100));
        assert_eq!(values.len(), 1);
        assert!(spent.steps <= 8 * line.len(), "{spent:?}");
    }

    #[test]
    fn deeply_nested_reply_is_an_error_after_linear_time() {
        let deep = b"*1\r\n".repeat(200_000);
        let (_, spent) = steps::of(|| {
            assert_eq!(scan(&deep, 1000), None);
            assert!(FrameScanner::default().advance(&deep).is_err());
            assert_eq!(decode(&deep).end, End::Malformed);
            assert!(decode_in_pieces(&deep, 1000).is_empty());
        });
        assert!(spent.steps <= 8 * deep.len(), "{spent:?}");
    }
}
