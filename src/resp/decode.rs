//! Replies, decoded into [`Value`]s as they are read from an [`Input`].
//!
//! * [`read`], [`read_next`], [`read_all`], [`read_message`]: one reply, one reply or push, many replies, one
//!   message.
//! * [`length`], [`some_length`], [`line_end`], `simple_length`: parts of the format that `scan` and `buffer`
//!   need too.
//!
//! The frequent types (bulk strings, integers, OK) are decoded here when they have arrived entirely; rare
//! ones of one line are left to redis-rs, so that they become the same values as there. A server is not
//! trusted: depth, lengths and reserved memory have limits.

use std::io;

use redis::Value;

/// Maximum depth of nested replies. Each level is a call, so a hostile server could exhaust the stack without
/// it.
const DEPTH_MAX: usize = 128;

/// Maximum number of bytes reserved for a bulk string or an array before its content has arrived.
const RESERVE_MAX: usize = 1 << 20;

/// Maximum number of digits of a length. `scan` keeps only the beginning of a line and must agree on what is
/// a length, so this is less than what it keeps.
const LENGTH_DIGITS_MAX: usize = 20;

/// Number of bytes of the shortest element of an array, `_\r\n`.
const ELEMENT_BYTES_MIN: usize = 3;

/// Maximum number of digits that fit into 32 bits without a check for overflow.
const SHORT_DIGITS: usize = 9;

/// Bytes of replies, as they arrive.
pub(crate) trait Input {
    /// Returns the bytes that have arrived and were not consumed.
    fn buffered(&self) -> &[u8];
    /// Marks the first `count` buffered bytes as consumed.
    fn consume(&mut self, count: usize);
    /// Waits until at least one more byte is buffered.
    fn fill(&mut self) -> io::Result<()>;
    /// Reads exactly as many bytes as `into` has, buffered ones first.
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()>;
    /// Receives a push message, kind first: it is not a reply. Drops it unless the input has a use for it.
    fn push_message(&mut self, _items: &[Value]) {}
}

/// Bytes that are there, with none to come: asking for more is the error
/// [`WouldBlock`](io::ErrorKind::WouldBlock).
pub(crate) struct Slice<'b>(pub(crate) &'b [u8]);

impl Input for Slice<'_> {
    fn buffered(&self) -> &[u8] {
        self.0
    }

    fn consume(&mut self, count: usize) {
        self.0 = &self.0[count..];
    }

    fn fill(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let (head, rest) = self
            .0
            .split_at_checked(into.len())
            .ok_or(io::ErrorKind::WouldBlock)?;
        into.copy_from_slice(head);
        self.0 = rest;
        Ok(())
    }
}

/// Reads `count` replies and appends them to `replies`. Push messages go to
/// [`Input::push_message`].
///
/// # Errors
///
/// When a reply cannot be read. Those before it stay in `replies`, so that the caller knows which requests
/// were answered.
pub(crate) fn read_all(
    input: &mut impl Input,
    count: usize,
    replies: &mut Vec<Value>,
) -> io::Result<()> {
    let wanted = replies.len() + count;
    replies.reserve(count);
    while replies.len() < wanted {
        // Adds nothing for a push message.
        replies.extend(value(input, 0)?);
    }
    Ok(())
}

/// Reads one reply, or one push message and returns `None`.
pub(crate) fn read_next(input: &mut impl Input) -> io::Result<Option<Value>> {
    value(input, 0)
}

/// Reads one reply. Push messages before it go to [`Input::push_message`].
pub(crate) fn read(input: &mut impl Input) -> io::Result<Value> {
    loop {
        if let Some(value) = value(input, 0)? {
            return Ok(value);
        }
    }
}

/// Reads one reply, or one push message as the array that RESP2 has in its place. For pub/sub connections.
pub(crate) fn read_message(input: &mut impl Input) -> io::Result<Value> {
    let length = line_length(input)?;
    match input.buffered() {
        [b'>', ..] => {
            let count = some_length(&input.buffered()[1..length])?;
            input.consume(length + 2);
            let items = items(input, count, 0)?;
            input.push_message(&items);
            Ok(Value::Array(items))
        }
        _ => read(input),
    }
}

/// Reads one value. Returns `None` for a push message.
#[inline]
fn value(input: &mut impl Input, depth: usize) -> io::Result<Option<Value>> {
    match ready(input.buffered()) {
        Some((value, length)) => {
            input.consume(length);
            Ok(Some(value))
        }
        None => any_value(input, depth),
    }
}

/// Decodes a value of a frequent type that has arrived entirely. Returns it and its length; `None` for
/// everything else, including malformed values.
#[inline]
fn ready(buffered: &[u8]) -> Option<(Value, usize)> {
    match buffered {
        [b'$', b'-', b'1', b'\r', b'\n', ..] => Some((Value::Nil, 5)),
        [b'$', digits @ ..] => {
            let (length, used) = short_number(digits)?;
            let (text, rest) = digits[used..].split_at_checked(length)?;
            rest.starts_with(b"\r\n")
                .then(|| (Value::BulkString(text.to_vec()), 1 + used + length + 2))
        }
        [b':', digits @ ..] => {
            let (number, used) = short_number(digits)?;
            Some((Value::Int(number as i64), 1 + used))
        }
        [b'+', b'O', b'K', b'\r', b'\n', ..] => Some((Value::Okay, 5)),
        _ => None,
    }
}

/// Parses a number without a sign, of so few digits that it cannot overflow. Returns it and its length, CR LF
/// included.
#[inline]
fn short_number(digits: &[u8]) -> Option<(usize, usize)> {
    let mut number = 0;
    for (at, &byte) in digits.iter().enumerate().take(SHORT_DIGITS + 1) {
        match byte.wrapping_sub(b'0') {
            digit @ 0..=9 => number = 10 * number + usize::from(digit),
            _ if at > 0 && digits[at..].starts_with(b"\r\n") => return Some((number, at + 2)),
            _ => return None,
        }
    }
    None
}

/// Returns the length of the first line, without its CR LF. A CR alone does not end a line.
#[inline]
pub(crate) fn line_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    let end = loop {
        let Some(at) = bytes[from..].iter().position(|&byte| byte == b'\r') else {
            break None;
        };
        from += at + 1;
        match bytes.get(from) {
            Some(b'\n') => break Some(from - 1),
            Some(_) => {}
            None => break None,
        }
    };
    #[cfg(any(test, fuzzing))]
    crate::fuzzing::steps::add(end.unwrap_or(bytes.len()) + 1);
    end
}

/// Parses a length: decimal digits, at most 4 GB. Returns `None` for the -1 of nil.
///
/// # Errors
///
/// [`InvalidData`](io::ErrorKind::InvalidData) for anything else.
#[inline]
pub(crate) fn length(digits: &[u8]) -> io::Result<Option<usize>> {
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.len() > LENGTH_DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed("a length of the reply cannot be read"));
    }
    let length = reply_integer(digits)?;
    // No server stores more. A larger number means that the stream is out of step, and waiting would never
    // end.
    let length = u32::try_from(length)
        .ok()
        .and_then(|length| usize::try_from(length).ok());
    length
        .map(Some)
        .ok_or_else(|| malformed("a length of the reply is too large"))
}

/// Parses the length of something that cannot be nil.
#[inline]
pub(crate) fn some_length(digits: &[u8]) -> io::Result<usize> {
    length(digits)?.ok_or_else(|| malformed("a length of the reply is negative"))
}

/// Returns the length of the reply at the beginning of `bytes`, if it is one bulk string or one line and has
/// arrived entirely.
#[cfg(feature = "tokio-comp")]
#[inline]
pub(crate) fn simple_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'$', b'-', b'1', b'\r', b'\n', ..] => Some(5),
        [b'$', digits @ ..] => {
            let (length, used) = short_number(digits)?;
            let whole = 1 + used + length + 2;
            (bytes.get(whole - 2..whole)? == b"\r\n").then_some(whole)
        }
        [b':' | b'+' | b'-' | b'_' | b'#' | b',' | b'(', ..] => Some(line_end(bytes)? + 2),
        _ => None,
    }
}

/// Reads one value of any type. Consumes its first line only once its type is known, because the line may
/// still be needed.
fn any_value(input: &mut impl Input, depth: usize) -> io::Result<Option<Value>> {
    if depth > DEPTH_MAX {
        return Err(malformed("the reply is nested too deeply"));
    }
    let length = line_length(input)?;
    let line = &input.buffered()[..length];
    let (&mark, rest) = line
        .split_first()
        .ok_or_else(|| malformed("a line of the reply is empty"))?;
    let value = match mark {
        b'$' => match self::length(rest)? {
            None => Value::Nil,
            Some(bytes) => {
                input.consume(length + 2);
                return bulk(input, bytes).map(|bytes| Some(Value::BulkString(bytes)));
            }
        },
        b':' => Value::Int(reply_integer(rest)?),
        b'+' if rest == b"OK" => Value::Okay,
        b'*' | b'~' => match self::length(rest)? {
            None => Value::Nil,
            Some(count) => {
                input.consume(length + 2);
                let items = items(input, count, depth)?;
                return Ok(Some(match mark {
                    b'*' => Value::Array(items),
                    _ => Value::Set(items),
                }));
            }
        },
        b'>' => {
            let count = some_length(rest)?;
            input.consume(length + 2);
            let items = items(input, count, depth)?;
            input.push_message(&items);
            return Ok(None);
        }
        b'%' | b'|' => {
            let count = some_length(rest)?;
            input.consume(length + 2);
            let pairs = pairs(input, count, depth)?;
            if mark == b'%' {
                return Ok(Some(Value::Map(pairs)));
            }
            // An attribute belongs to the value that follows it, and the two are one reply.
            let data = Box::new(element(input, depth)?);
            let attributes = pairs;
            return Ok(Some(Value::Attribute { data, attributes }));
        }
        b'_' => Value::Nil,
        b'#' if rest == b"t" => Value::Boolean(true),
        b'#' if rest == b"f" => Value::Boolean(false),
        b'=' | b'!' => {
            let bytes = some_length(rest)?;
            input.consume(length + 2);
            let text = bulk(input, bytes)?;
            // redis-rs parses whole frames only, so the frame is put together again.
            let mut packed = format!("{}{}\r\n", char::from(mark), text.len()).into_bytes();
            packed.extend_from_slice(&text);
            packed.extend_from_slice(b"\r\n");
            return parsed(&packed).map(Some);
        }
        b'+' | b'-' if std::str::from_utf8(rest).is_err() => not_text(mark, rest)?,
        // Statuses, errors, doubles and big numbers are one line and rare: redis-rs decides what they become.
        _ => parsed(&input.buffered()[..length + 2])?,
    };
    input.consume(length + 2);
    Ok(Some(value))
}

/// Waits for a whole line, and returns its length without CR LF.
#[inline]
fn line_length(input: &mut impl Input) -> io::Result<usize> {
    let mut searched = 0;
    loop {
        let buffered = input.buffered();
        if let Some(at) = line_end(&buffered[searched..]) {
            return Ok(searched + at);
        }
        // The last byte may be the CR of the line end, so it is searched again.
        searched = buffered.len().saturating_sub(1);
        input.fill()?;
    }
}

/// Reads a bulk string of `length` bytes and the CR LF behind it.
fn bulk(input: &mut impl Input, length: usize) -> io::Result<Vec<u8>> {
    if let Some(text) = input.buffered().get(..length + 2) {
        let (text, end) = text.split_at(length);
        check_end(end)?;
        let text = text.to_vec();
        input.consume(length + 2);
        return Ok(text);
    }
    // Grows in steps as bytes arrive: a server may announce 4 GB and send nothing.
    let mut text = Vec::with_capacity(length.min(RESERVE_MAX));
    while text.len() < length {
        let from = text.len();
        text.resize((from + RESERVE_MAX).min(length), 0);
        input.read_exact(&mut text[from..])?;
    }
    let mut end = [0; 2];
    input.read_exact(&mut end)?;
    check_end(&end)?;
    Ok(text)
}

/// Reads `count` elements.
fn items(input: &mut impl Input, count: usize, depth: usize) -> io::Result<Vec<Value>> {
    let mut items = Vec::with_capacity(count.min(room(input, depth)));
    #[cfg(any(test, fuzzing))]
    crate::fuzzing::steps::reserve(items.capacity() * size_of::<Value>());
    while items.len() < count {
        items.push(element(input, depth)?);
    }
    Ok(items)
}

/// Reads `count` pairs of a map.
fn pairs(input: &mut impl Input, count: usize, depth: usize) -> io::Result<Vec<(Value, Value)>> {
    let mut pairs = Vec::with_capacity(count.min(room(input, depth) / 2));
    #[cfg(any(test, fuzzing))]
    crate::fuzzing::steps::reserve(pairs.capacity() * size_of::<(Value, Value)>());
    while pairs.len() < count {
        pairs.push((element(input, depth)?, element(input, depth)?));
    }
    Ok(pairs)
}

/// Number of elements to reserve memory for before they are read: no more than may have arrived, and half as
/// many at each level, since a server may open an array in every element and would be given memory for all of
/// them.
#[inline]
fn room(input: &impl Input, depth: usize) -> usize {
    let arrived = input.buffered().len() / ELEMENT_BYTES_MIN;
    let most = arrived.min(RESERVE_MAX / size_of::<Value>());
    most.checked_shr(depth as u32).unwrap_or(0)
}

/// Reads one element of an aggregate.
#[inline]
fn element(input: &mut impl Input, depth: usize) -> io::Result<Value> {
    value(input, depth + 1)?.ok_or_else(|| malformed("a push message inside a reply"))
}

/// Parses an integer. Replies may have a plus sign and leading zeros.
#[inline]
fn reply_integer(digits: &[u8]) -> io::Result<i64> {
    let (negative, digits) = match digits {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(malformed("a number of the reply is empty"));
    }
    // Summed as a negative number: `i64::MIN` has no positive counterpart.
    let mut number: i64 = 0;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        number = match digit {
            0..=9 => number
                .checked_mul(10)
                .and_then(|number| number.checked_sub(digit.into())),
            _ => None,
        }
        .ok_or_else(|| malformed("a number of the reply cannot be read"))?;
    }
    match negative {
        true => Ok(number),
        false => number
            .checked_neg()
            .ok_or_else(|| malformed("a number of the reply is too large")),
    }
}

/// Checks the CR LF behind a bulk string.
fn check_end(end: &[u8]) -> io::Result<()> {
    match end {
        b"\r\n" => Ok(()),
        _ => Err(malformed("a string of the reply is longer than it says")),
    }
}

/// Decodes one whole reply with redis-rs.
fn parsed(packed: &[u8]) -> io::Result<Value> {
    redis::parse_redis_value(packed).map_err(|error| malformed(&error.to_string()))
}

/// Decodes a status or an error that is not UTF-8: a server repeats in an error what it was sent, and cuts it
/// anywhere. That is no reason to give up a connection on which other requests are waiting.
fn not_text(mark: u8, line: &[u8]) -> io::Result<Value> {
    match mark {
        b'+' => Ok(Value::BulkString(line.to_vec())),
        _ => parsed(format!("-{}\r\n", String::from_utf8_lossy(line)).as_bytes()),
    }
}

/// An error for bytes that are no reply.
fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that arrive in pieces.
    struct Pieces<'b> {
        bytes: &'b [u8],
        arrived: usize,
        start: usize,
        piece: usize,
    }

    impl Input for Pieces<'_> {
        fn buffered(&self) -> &[u8] {
            &self.bytes[self.start..self.arrived]
        }
        fn consume(&mut self, count: usize) {
            self.start += count;
        }
        fn fill(&mut self) -> io::Result<()> {
            if self.arrived == self.bytes.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.arrived = (self.arrived + self.piece).min(self.bytes.len());
            Ok(())
        }
        fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
            while self.buffered().len() < into.len() {
                self.fill()?;
            }
            into.copy_from_slice(&self.buffered()[..into.len()]);
            self.consume(into.len());
            Ok(())
        }
    }

    fn read_in(bytes: &[u8], piece: usize) -> io::Result<Value> {
        read(&mut Pieces {
            bytes,
            arrived: 0,
            start: 0,
            piece,
        })
    }

    const REPLIES: &[&[u8]] = &[
        b"+OK\r\n",
        b"+PONG\r\n",
        b"-WRONGTYPE Operation against a key\r\n",
        b":42\r\n",
        b":-9223372036854775808\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n",
        b"%1\r\n+key\r\n:1\r\n",
        b"~2\r\n:1\r\n:2\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",3.25\r\n",
        b"(3492890328409238509324850943850943825024385\r\n",
        b"=6\r\ntxt:ab\r\n",
        b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
    ];

    #[test]
    fn decode_agrees_with_redis_rs_in_pieces_of_any_size() {
        for reply in REPLIES {
            let expected = redis::parse_redis_value(reply).unwrap();
            for piece in 1..=reply.len() {
                let text = reply.escape_ascii();
                assert_eq!(
                    read_in(reply, piece).unwrap(),
                    expected,
                    "{text} in pieces of {piece}"
                );
            }
        }
    }

    #[test]
    fn decode_reads_consecutive_replies_in_pieces_of_any_size() {
        let bytes = REPLIES.concat();
        let expected: Vec<Value> = REPLIES
            .iter()
            .map(|reply| redis::parse_redis_value(reply).unwrap())
            .collect();
        for piece in [1, 2, 3, 7, bytes.len()] {
            let mut replies = Vec::new();
            let mut input = Pieces {
                bytes: &bytes,
                arrived: 0,
                start: 0,
                piece,
            };
            read_all(&mut input, REPLIES.len(), &mut replies).unwrap();
            assert_eq!(replies, expected, "in pieces of {piece}");
            assert!(read_all(&mut input, 1, &mut replies).is_err());
            assert_eq!(replies.len(), expected.len());
        }
    }

    #[test]
    fn decode_accepts_lines_that_are_not_utf8() {
        let error = read_in(
            b"-ERR unknown command 'x', with args beginning with: '\xc3' \r\n",
            5,
        );
        assert!(
            matches!(&error, Ok(Value::ServerError(error)) if error.code() == "ERR"),
            "{error:?}"
        );
        assert_eq!(
            read_in(b"+\xff\r\n", 5).unwrap(),
            Value::BulkString(b"\xff".to_vec())
        );
    }

    #[test]
    fn decode_skips_push_messages() {
        let bytes = b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n:1\r\n";
        assert_eq!(read_in(bytes, 3).unwrap(), Value::Int(1));
    }

    #[test]
    fn decode_refuses_truncated_and_malformed_replies() {
        let deep = b"*1\r\n".repeat(10_000);
        for bytes in [
            &b"$5\r\nabc"[..],
            b"$3\r\nabcd\r\n",
            b"*2\r\n:1\r\n",
            b":1x\r\n",
            b"$-2\r\n",
            b"\r\n",
            b"?\r\n",
            &deep,
        ] {
            assert!(
                read_in(bytes, 4096).is_err(),
                "{}",
                bytes[..8.min(bytes.len())].escape_ascii()
            );
        }
        assert!(
            read_in(b"$9223372036854775807\r\n", 64).is_err(),
            "nothing is reserved on a server's word"
        );
    }

    proptest! {
        #[test]
        fn decode_never_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_in(&bytes, 7);
        }

        #[test]
        fn decode_agrees_with_redis_rs_on_random_strings_and_arrays(
            items in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
            piece in 1_usize..400,
        ) {
            let mut bytes = format!("*{}\r\n", items.len()).into_bytes();
            for item in &items {
                match item {
                    None => bytes.extend_from_slice(b"$-1\r\n"),
                    Some(item) => {
                        bytes.extend_from_slice(format!("${}\r\n", item.len()).as_bytes());
                        bytes.extend_from_slice(item);
                        bytes.extend_from_slice(b"\r\n");
                    }
                }
            }
            prop_assert_eq!(read_in(&bytes, piece).unwrap(), redis::parse_redis_value(&bytes).unwrap());
        }
    }
}
