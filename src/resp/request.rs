//! Requests as clients send them to a server, in every form that a server accepts, and with a server's errors
//! for those it does not.
//!
//! * [`RequestParser`]: reads requests that are inline, split over reads, or unusual in other ways, and
//!   rewrites them to the usual form.
//! * [`parse_prefix`], [`announced_args`]: what is known of a request before all of it has arrived.
//!
//! The model is `readQueryFromClient` in networking.c of Redis, down to its quirks (any byte after CR counts
//! as LF, a NUL hides the end of a line): what a server accepts must not be refused here, and what it refuses
//! must not be taken for something else.
//!
//! Every function takes the bytes from the beginning of a request. Offsets in the parser avoid that bytes are
//! searched again when more arrive.

use crate::resp::{Args, PackedCommands, canonical_integer, write_command};

/// Maximum number of bytes of an inline request, and of a line with a number, as on a server. Without it, a
/// client could fill the memory with a line that never ends.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// Maximum number of bytes of an argument, the default of a server (`proto-max-bulk-len`).
pub(crate) const ARG_BYTES_MAX: usize = 512 << 20;

/// Maximum number of arguments of a request, as on a server.
const ARGS_MAX: i64 = i32::MAX as i64;

/// Maximum number of arguments that [`parse_prefix`] returns. The key of a command that is forwarded in
/// pieces is one of the first.
const PREFIX_ARGS_MAX: usize = 16;

/// Maximum number of bytes searched for the end of an array's first line, if its number is one.
const ANNOUNCEMENT_BYTES_MAX: usize = 24;

/// An array without elements, which has no reply.
pub(crate) const EMPTY_REQUEST: &[u8] = b"*0\r\n";

/// Result of [`RequestParser::parse`]. Numbers count bytes from the beginning of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The request has not arrived entirely. It has at least this many bytes.
    Incomplete(usize),
    /// This many bytes are a request without arguments, which a server skips.
    Empty(usize),
    /// `length` bytes are a request, which is `packed` in the usual form.
    Request { length: usize, packed: Vec<u8> },
    /// The bytes are no request, and neither is what follows. A server replies with this error and closes the
    /// connection. It repeats a byte of the input, so it need not be UTF-8.
    Invalid(Vec<u8>),
}

/// Result of [`RequestParser::normalize`]: requests from the beginning of some input, in the usual form.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Normalized {
    /// Number of bytes of the input that the requests were.
    pub(crate) consumed: usize,
    /// The requests, in the form that [`PackedCommands`] reads. Consecutive empty requests are kept as one
    /// `*0\r\n`, because even an empty request ends CLIENT REPLY SKIP.
    pub(crate) packed: Vec<u8>,
    /// Number of requests in `packed`, without the empty ones.
    pub(crate) requests: usize,
    /// Reason why it ends there.
    pub(crate) end: NormalizedEnd,
}

/// Reason why [`RequestParser::normalize`] went no further.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum NormalizedEnd {
    /// The limit was reached or all input was consumed; more requests may follow.
    #[default]
    More,
    /// The next request has not arrived entirely. It has at least this many bytes.
    Incomplete(usize),
    /// The bytes that follow are no request: see [`Parsed::Invalid`].
    Invalid(Vec<u8>),
}

/// Progress in a request that has not arrived entirely.
///
/// When bytes before that request are consumed, a new parser must be used, since the offsets count from its
/// first byte.
///
/// ```text
/// *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\nvvv      at: the line `$1000`; left: 1; searched: 5
/// ```
#[derive(Debug, Default)]
pub(crate) struct RequestParser {
    /// Offset of the current line.
    at: usize,
    /// Number of bytes of that line that were searched for its end.
    searched: usize,
    /// Number of arguments still to come. `None` before the first line has been read, and for inline
    /// requests.
    left: Option<usize>,
}

/// As [`Parsed`], for a request that is appended to a buffer of the caller instead.
enum ParsedInto {
    Incomplete(usize),
    Empty(usize),
    Request(usize),
}

impl RequestParser {
    /// True if a part of a request was parsed.
    #[inline]
    pub(crate) fn is_under_way(&self) -> bool {
        self.left.is_some() || self.searched > 0
    }

    /// Parses the beginning of `bytes`, which are those of the last call and possibly more.
    pub(crate) fn parse(&mut self, bytes: &[u8]) -> Parsed {
        let mut packed = Vec::new();
        match self.find(bytes, &mut packed) {
            Ok(ParsedInto::Incomplete(needed)) => Parsed::Incomplete(needed),
            Ok(ParsedInto::Empty(length)) => Parsed::Empty(length),
            Ok(ParsedInto::Request(length)) => Parsed::Request { length, packed },
            Err(broken) => Parsed::Invalid(broken),
        }
    }

    /// Returns the length of the request that `bytes` begin with, if it is an array and has arrived entirely.
    /// Does not look at the arguments otherwise, nor copy them.
    pub(crate) fn whole_array(&mut self, bytes: &[u8]) -> Option<usize> {
        let is_whole = matches!(self.resume(bytes), Ok(None)) && self.at > 0;
        is_whole.then(|| std::mem::take(self).at)
    }

    /// Rewrites whole requests of any form from the beginning of `bytes`, which are those of the last call
    /// and possibly more. In one pass: no byte is looked at more than a few times, however the forms are
    /// mixed.
    ///
    /// At least one request is taken if one has arrived, and further ones as long as they fit into
    /// `max_bytes`, both as they came and in the usual form. The rest is left for the next call.
    pub(crate) fn normalize(&mut self, bytes: &[u8], max_bytes: usize) -> Normalized {
        let mut taken = Normalized::default();
        let mut args = Args::new();
        let mut after_nothing = false;
        while taken.consumed < bytes.len() {
            let rest = &bytes[taken.consumed..];
            let before = taken.packed.len();
            // A usual request between unusual ones is copied as it is.
            let found = match self.next_frame(rest, &mut args) {
                Some(frame) => {
                    taken.packed.extend_from_slice(frame);
                    Ok(ParsedInto::Request(frame.len()))
                }
                None => self.find(rest, &mut taken.packed),
            };
            let (length, is_nothing) = match found {
                Ok(ParsedInto::Request(length)) => (length, false),
                Ok(ParsedInto::Empty(length)) => {
                    if !after_nothing {
                        taken.packed.extend_from_slice(EMPTY_REQUEST);
                    }
                    (length, true)
                }
                Ok(ParsedInto::Incomplete(needed)) => {
                    taken.end = NormalizedEnd::Incomplete(needed);
                    break;
                }
                Err(broken) => {
                    taken.end = NormalizedEnd::Invalid(broken);
                    break;
                }
            };
            let fits = taken.packed.len().max(taken.consumed + length) <= max_bytes;
            // The first request is taken whatever its size: otherwise it would never be.
            if !fits && taken.consumed > 0 {
                // It was appended to be measured.
                taken.packed.truncate(before);
                break;
            }
            taken.consumed += length;
            taken.requests += usize::from(!is_nothing);
            after_nothing = is_nothing;
        }
        if taken.consumed > 0 {
            // The offsets count from the beginning of bytes that the caller now removes.
            *self = Self::default();
        }
        taken
    }

    /// Returns the next request if it is whole and in the usual form. Not when one is under way: what the
    /// parser has seen of it must be continued.
    fn next_frame<'b>(&self, bytes: &'b [u8], args: &mut Args<'b>) -> Option<&'b [u8]> {
        match self.is_under_way() {
            true => None,
            false => PackedCommands::new(bytes).next(args).ok().flatten(),
        }
    }

    /// Parses one request of any form, and appends it to `packed`.
    fn find(&mut self, bytes: &[u8], packed: &mut Vec<u8>) -> Result<ParsedInto, Vec<u8>> {
        let found = match bytes.first() {
            None => Ok(ParsedInto::Incomplete(1)),
            // The first byte decides, as on a server.
            Some(b'*') => self.array(bytes, packed),
            Some(_) => self.inline(bytes, packed),
        };
        if !matches!(found, Ok(ParsedInto::Incomplete(_))) {
            *self = Self::default();
        }
        found
    }

    /// Parses an array.
    fn array(&mut self, bytes: &[u8], packed: &mut Vec<u8>) -> Result<ParsedInto, Vec<u8>> {
        if let Some(needed) = self.resume(bytes)? {
            return Ok(ParsedInto::Incomplete(needed));
        }
        let args = arguments(&bytes[..self.at]);
        if args.is_empty() {
            return Ok(ParsedInto::Empty(self.at));
        }
        write_command(packed, &args);
        Ok(ParsedInto::Request(self.at))
    }

    /// Continues to the end of the array or of the bytes. Returns the number of bytes that it has at least,
    /// if they are not there, and `None` when it is complete; `at` is its length then.
    fn resume(&mut self, bytes: &[u8]) -> Result<Option<usize>, Vec<u8>> {
        let mut left = match self.left {
            Some(left) => left,
            None => {
                let Some((number, next)) = self.line(bytes, "mbulk")? else {
                    return Ok(Some(bytes.len() + 1));
                };
                let count = number.filter(|&count| count <= ARGS_MAX);
                let count = count.ok_or(b"Protocol error: invalid multibulk length")?;
                self.begin_line(next);
                // A negative number counts as zero, as on a server.
                usize::try_from(count).unwrap_or(0)
            }
        };
        while left > 0 {
            self.left = Some(left);
            let Some((number, next)) = self.line(bytes, "bulk")? else {
                return Ok(Some(bytes.len() + 1));
            };
            // Only once the line is whole, as on a server, which waits for it first.
            if bytes[self.at] != b'$' {
                let got = bytes[self.at];
                return Err([b"Protocol error: expected '$', got '", &[got][..], b"'"].concat());
            }
            let length = number
                .and_then(|length| usize::try_from(length).ok())
                .filter(|&length| length <= ARG_BYTES_MAX)
                .ok_or(b"Protocol error: invalid bulk length")?;
            // The two bytes behind an argument are not checked, since a server does not check them either.
            let end = next + length + 2;
            // `at` stays at the line of the length, so nothing is lost when the call is repeated with more
            // bytes.
            if bytes.len() < end {
                return Ok(Some(end));
            }
            self.begin_line(end);
            left -= 1;
        }
        // Repeated calls return at once.
        self.left = Some(0);
        Ok(None)
    }

    /// Parses an inline request: words in a line, as typed into telnet.
    fn inline(&mut self, bytes: &[u8], packed: &mut Vec<u8>) -> Result<ParsedInto, Vec<u8>> {
        let Some(end) = self.search(bytes, b'\n') else {
            return match bytes.len() > LINE_BYTES_MAX {
                true => Err(b"Protocol error: too big inline request".into()),
                false => Ok(ParsedInto::Incomplete(bytes.len() + 1)),
            };
        };
        let text = &bytes[..end];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let words = words(text).ok_or(b"Protocol error: unbalanced quotes in request")?;
        if words.is_empty() {
            return Ok(ParsedInto::Empty(end + 1));
        }
        let args: Args<'_> = words.iter().map(Vec::as_slice).collect();
        write_command(packed, &args);
        Ok(ParsedInto::Request(end + 1))
    }

    /// Reads the current line. Returns its number, if it is one, and the offset of the next line; `None`
    /// while it has not arrived. As on a server, any byte after CR counts as its LF.
    fn line(&mut self, bytes: &[u8], what: &str) -> Result<Option<(Option<i64>, usize)>, Vec<u8>> {
        match self.search(bytes, b'\r') {
            None if bytes.len() - self.at > LINE_BYTES_MAX => {
                Err(format!("Protocol error: too big {what} count string").into())
            }
            Some(end) if end + 1 < bytes.len() => Ok(Some((number(&bytes[self.at..end]), end + 2))),
            _ => Ok(None),
        }
    }

    /// Returns the offset of the end of the current line. A server searches with `strchr`, so it sees nothing
    /// behind a NUL, and waits for the line until it is too long.
    fn search(&mut self, bytes: &[u8], end: u8) -> Option<usize> {
        let from = self.at + self.searched;
        let rest = bytes.get(from..).unwrap_or_default();
        let found = rest.iter().position(|&byte| byte == end || byte == 0);
        let stop = from + found.unwrap_or(rest.len());
        #[cfg(any(test, fuzzing))]
        crate::fuzzing::steps::add(stop - from + 1);
        self.searched = stop - self.at;
        (bytes.get(stop) == Some(&end)).then_some(stop)
    }

    /// Makes the line at this offset the current one.
    fn begin_line(&mut self, at: usize) {
        self.at = at;
        self.searched = 0;
    }
}

/// Parses the number behind the first byte of a line.
fn number(line: &[u8]) -> Option<i64> {
    line.get(1..).and_then(canonical_integer)
}

/// Returns the number of arguments that a request announces, if it is 1000 or more. Looks at the first line
/// only; the pattern is cheap enough for every request.
#[inline]
pub(crate) fn announced_args(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'*', b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', ..] => {
            let line = &bytes[..bytes.len().min(ANNOUNCEMENT_BYTES_MAX)];
            usize::try_from(number(&line[..line_end(line)?])?).ok()
        }
        _ => None,
    }
}

/// Parses what has arrived of a request: the number of its arguments, and the first of them. Returns `None`
/// if it is not in the usual form, in which it could be forwarded as it arrives.
pub(crate) fn parse_prefix(bytes: &[u8]) -> Option<(usize, Vec<&[u8]>)> {
    let (count, mut rest) = usual_line(bytes)?;
    let (mut args, mut left) = (Vec::new(), count);
    while left > 0 && !rest.is_empty() {
        let (length, text) = usual_line(rest)?;
        left -= 1;
        let Some((arg, end)) = text.split_at_checked(length) else {
            break;
        };
        rest = match end {
            [] | [b'\r'] => &[],
            [b'\r', b'\n', rest @ ..] => rest,
            _ => return None,
        };
        if args.len() < PREFIX_ARGS_MAX {
            args.push(arg);
        }
    }
    Some((count, args))
}

/// Reads a line in the usual form. Returns its number and the bytes after it.
fn usual_line(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = line_end(bytes)?;
    let rest = bytes[end..].strip_prefix(b"\r\n")?;
    Some((usize::try_from(number(&bytes[..end])?).ok()?, rest))
}

/// Returns the arguments of a whole array, whose lines [`resume`](RequestParser::resume) has checked.
fn arguments(request: &[u8]) -> Vec<&[u8]> {
    let mut args = Vec::new();
    let Some(end) = line_end(request) else {
        return args;
    };
    let mut rest = request.get(end + 2..).unwrap_or_default();
    while let Some(end) = line_end(rest)
        && let Some(length) = number(&rest[..end]).and_then(|length| usize::try_from(length).ok())
        && let Some(text) = rest.get(end + 2..)
        && let Some((arg, end)) = text.split_at_checked(length)
    {
        #[cfg(any(test, fuzzing))]
        crate::fuzzing::steps::add(1);
        args.push(arg);
        rest = end.get(2..).unwrap_or_default();
    }
    args
}

/// Returns the offset of the end of a line that is known to have one.
fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\r')
}

/// Splits an inline request into words, with quotes and escapes as `sdssplitargs` of a server. Returns `None`
/// when a quote is not closed, or something other than a blank follows it.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    // `isspace` of C separates words and may follow a quote, but only these four end a word.
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let ends_word = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|byte| blank(byte)).count();
        if at == line.len() {
            return Some(words);
        }
        let mut word = Vec::new();
        while at < line.len() && !ends_word(&line[at]) {
            match line[at] {
                quote @ (b'"' | b'\'') => {
                    at = quoted(line, at + 1, quote, &mut word)?;
                    if line.get(at).is_some_and(|byte| !blank(byte)) {
                        return None;
                    }
                    break;
                }
                byte => {
                    word.push(byte);
                    at += 1;
                }
            }
        }
        words.push(word);
    }
}

/// Reads up to the closing quote, and returns the offset behind it. Escapes other than `\'` have a meaning
/// within double quotes only.
fn quoted(line: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Option<usize> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    loop {
        let (byte, used) = match line[at.min(line.len())..] {
            [] => return None,
            [end, ..] if end == quote => return Some(at + 1),
            [b'\\', b'x', high, low, ..] if quote == b'"' && hex(high).and(hex(low)).is_some() => {
                let value = hex(high)
                    .zip(hex(low))
                    .map_or(0, |(high, low)| high * 16 + low);
                (value as u8, 4)
            }
            [b'\\', escaped, ..] if quote == b'"' => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                };
                (byte, 2)
            }
            [b'\\', b'\'', ..] => (b'\'', 2),
            [byte, ..] => (byte, 1),
        };
        word.push(byte);
        at += used;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Args, PackedCommands};

    fn args_of(arrived: &Parsed) -> Vec<Vec<u8>> {
        let Parsed::Request { packed, .. } = arrived else {
            panic!("no request: {arrived:?}");
        };
        let mut args = Args::new();
        PackedCommands::new(packed).next(&mut args).unwrap();
        args.iter().map(|arg| arg.to_vec()).collect()
    }

    fn typed(line: &str) -> Vec<String> {
        let arrived = RequestParser::default().parse(format!("{line}\r\n").as_bytes());
        let args = args_of(&arrived).into_iter();
        args.map(|arg| String::from_utf8_lossy(&arg).into_owned())
            .collect()
    }

    #[test]
    fn inline_request_is_parsed_as_by_a_server() {
        assert_eq!(typed("PING"), ["PING"]);
        assert_eq!(typed("  set   k \t v "), ["set", "k", "v"]);
        assert_eq!(typed(r#"SET k "a b\n\x41\"""#), ["SET", "k", "a b\nA\""]);
        assert_eq!(typed(r"SET k 'a\'b\n'"), ["SET", "k", r"a'b\n"]);
        assert_eq!(typed(r#"SET k """#), ["SET", "k", ""]);
        assert_eq!(typed(r#"k"a""#), ["ka"]);
        for line in ["\"a", "'a", "\"a\"b", "'a'b"] {
            assert_eq!(
                RequestParser::default().parse(format!("{line}\n").as_bytes()),
                Parsed::Invalid(b"Protocol error: unbalanced quotes in request".into())
            );
        }
        // A vertical tab separates words only where a blank does, or where a quote has ended.
        assert_eq!(typed("\x0b a\x0bb \x0c c"), ["a\x0bb", "c"]);
        assert_eq!(typed("'a'\x0bb"), ["a", "b"]);
        assert_eq!(
            RequestParser::default().parse(b"\r\nPING\r\n"),
            Parsed::Empty(2)
        );
        assert_eq!(
            RequestParser::default().parse(b"PIN"),
            Parsed::Incomplete(4)
        );
    }

    #[test]
    fn malformed_request_has_the_protocol_error_of_a_server() {
        let long = vec![b'1'; LINE_BYTES_MAX + 2];
        let cases: [(&[u8], &str); 9] = [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*2147483648\r\n", "invalid multibulk length"),
            (b"*1\r\n:3\r\n", "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$x\r\n", "invalid bulk length"),
            (b"*1\r\n$2000000000\r\n", "invalid bulk length"),
            (
                &[b"*".as_slice(), &long].concat(),
                "too big mbulk count string",
            ),
            (
                &[b"*1\r\n$".as_slice(), &long].concat(),
                "too big bulk count string",
            ),
            (&long, "too big inline request"),
        ];
        for (bytes, text) in cases {
            let expected = Parsed::Invalid(format!("Protocol error: {text}").into());
            assert_eq!(RequestParser::default().parse(bytes), expected);
        }
    }

    #[test]
    fn protocol_error_repeats_a_byte_that_is_not_utf8() {
        let arrived = RequestParser::default().parse(b"*1\r\n\xff3\r\n");
        let expected = b"Protocol error: expected '$', got '\xff'";
        assert_eq!(arrived, Parsed::Invalid(expected.into()));
    }

    #[test]
    fn request_line_with_a_nul_byte_has_no_end() {
        for bytes in [
            b"PING\0\r\n".as_slice(),
            b"*1\0\r\n$4\r\nPING\r\n",
            b"*1\r\n$4\0\r\nPING\r\n",
            b"*1\r\n\0$4\r\nPING\r\n",
        ] {
            let mut look = RequestParser::default();
            for end in 1..=bytes.len() {
                let arrived = look.parse(&bytes[..end]);
                assert!(matches!(arrived, Parsed::Incomplete(_)), "{arrived:?}");
            }
            let flood = [bytes, &vec![b'x'; LINE_BYTES_MAX + 1]].concat();
            let arrived = look.parse(&flood);
            assert!(matches!(arrived, Parsed::Invalid(_)), "{arrived:?}");
        }
    }

    #[test]
    fn empty_array_is_an_empty_request() {
        for nothing in ["*0\r\n", "*-1\r\n", "*-10\r\n"] {
            let arrived = RequestParser::default().parse(nothing.as_bytes());
            assert_eq!(arrived, Parsed::Empty(nothing.len()));
        }
    }

    #[test]
    fn incomplete_request_reports_the_bytes_it_needs() {
        let mut look = RequestParser::default();
        assert_eq!(
            look.parse(b"*2\r\n$3\r\nGET\r\n$1000\r\n"),
            Parsed::Incomplete(1022)
        );
    }

    fn requests_of(normalized: &Normalized) -> Vec<Vec<Vec<u8>>> {
        let mut look = RequestParser::default();
        let (mut rest, mut requests) = (&normalized.packed[..], Vec::new());
        while !rest.is_empty() {
            let arrived = look.parse(rest);
            let length = match &arrived {
                Parsed::Empty(length) => *length,
                Parsed::Request { length, .. } => {
                    requests.push(args_of(&arrived));
                    *length
                }
                other => panic!("{other:?}"),
            };
            rest = &rest[length..];
        }
        requests
    }

    #[test]
    fn inline_and_multibulk_requests_are_normalized_together() {
        let bytes = b"\r\nset k 'a b'\r\n\n\r\n*1\r\n$4\r\nPING\r\n*01\r\n";
        let taken = RequestParser::default().normalize(bytes, 1000);
        let set = "*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\na b\r\n";
        let packed = format!("*0\r\n{set}*0\r\n*1\r\n$4\r\nPING\r\n");
        assert_eq!(
            taken.packed.escape_ascii().to_string(),
            packed.escape_default().to_string()
        );
        assert_eq!((taken.consumed, taken.requests), (bytes.len() - 5, 2));
        let broken = b"Protocol error: invalid multibulk length".to_vec();
        assert_eq!(taken.end, NormalizedEnd::Invalid(broken));
        // A length without CR LF behind it is unusual, but it is a length.
        let taken = RequestParser::default().normalize(b"*1\rx$4\ryPINGzz*0\r\n", 1000);
        assert_eq!(taken.packed, b"*1\r\n$4\r\nPING\r\n*0\r\n");
        assert_eq!(
            RequestParser::default().normalize(b"", 1000),
            Normalized::default()
        );
    }

    #[test]
    fn incomplete_request_is_not_normalized() {
        let bytes = b"PING\r\n*2\r\n$3\r\nGET\r\n$1000\r\n";
        let mut look = RequestParser::default();
        let taken = look.normalize(bytes, 1000);
        assert_eq!(
            (taken.consumed, taken.end),
            (6, NormalizedEnd::Incomplete(1022))
        );
        assert!(!look.is_under_way(), "the next bytes begin elsewhere");
        let taken = look.normalize(&bytes[6..], 1000);
        assert_eq!(
            (taken.consumed, taken.end),
            (0, NormalizedEnd::Incomplete(1022))
        );
        assert!(look.is_under_way());
        let whole = [&bytes[6..], &[b'k'; 1000], b"\r\nPING\n"].concat();
        let taken = look.normalize(&whole, 100);
        assert_eq!((taken.consumed, taken.requests), (whole.len() - 5, 1));
    }

    #[test]
    fn many_inline_requests_are_normalized_in_one_pass() {
        let bytes = b"SET k v\r\n".repeat(100_000);
        let (mut rest, mut requests, mut calls) = (&bytes[..], 0, 0);
        while !rest.is_empty() {
            let taken = RequestParser::default().normalize(rest, 64 << 10);
            assert!(taken.packed.len() <= 64 << 10);
            assert_eq!(requests_of(&taken).len(), taken.requests);
            requests += taken.requests;
            rest = &rest[taken.consumed..];
            calls += 1;
        }
        assert_eq!(requests, 100_000);
        assert!(calls < 60, "each takes as much as it may: {calls}");
    }

    proptest! {
        #[test]
        fn normalize_agrees_with_parsing_requests_one_by_one(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "PING\r\n", "\n", "*0\r\n", "*1\r\n$4\r\nPING\r\n", "set k 'a b'\n", "*1\rx$1\rxaxx", "*-1\r\n",
                "*2\r\n$3\r\nGET\r\n$30\r\n012345678901234567890123456789\r\n", "*x\r\n", "'", "*3\r\n$1\r\n",
            ]), 0..20),
            max_bytes in 1_usize..100,
        ) {
            let bytes = pieces.concat().into_bytes();
            let (mut one_by_one, mut at) = (Vec::new(), 0);
            let end = loop {
                let arrived = RequestParser::default().parse(&bytes[at..]);
                match arrived {
                    Parsed::Empty(length) => at += length,
                    Parsed::Request { length, .. } => {
                        one_by_one.push(args_of(&arrived));
                        at += length;
                    }
                    Parsed::Incomplete(_) if at == bytes.len() => break NormalizedEnd::More,
                    Parsed::Incomplete(needed) => break NormalizedEnd::Incomplete(needed),
                    Parsed::Invalid(why) => break NormalizedEnd::Invalid(why),
                }
            };
            let (mut normalized, mut consumed, mut look) = (Vec::new(), 0, RequestParser::default());
            loop {
                let taken = look.normalize(&bytes[consumed..], max_bytes);
                let requests = requests_of(&taken);
                prop_assert_eq!(requests.len(), taken.requests);
                let many = requests.len() > 1;
                prop_assert!(!many || taken.packed.len().max(taken.consumed) <= max_bytes);
                normalized.extend(requests);
                consumed += taken.consumed;
                if taken.consumed == 0 {
                    prop_assert_eq!(taken.end, end);
                    break;
                }
            }
            prop_assert_eq!((normalized, consumed), (one_by_one, at));
        }

        #[test]
        fn request_in_pieces_is_parsed_as_the_whole(
            args in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..8),
            piece in 1_usize..30,
        ) {
            let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            let mut bytes = Vec::new();
            write_command(&mut bytes, &slices);
            let mut look = RequestParser::default();
            for end in (0..bytes.len()).step_by(piece) {
                match look.parse(&bytes[..end]) {
                    Parsed::Incomplete(needed) => prop_assert!(needed > end && needed <= bytes.len()),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let whole = look.parse(&bytes);
            prop_assert_eq!(args_of(&whole), args);
        }

        #[test]
        fn request_parser_never_panics_on_arbitrary_bytes(
            bytes in proptest::collection::vec(proptest::sample::select(b"*$0123456789\r\n-aG\"'\\x ".to_vec()), 0..80),
        ) {
            let mut look = RequestParser::default();
            for end in 0..bytes.len() {
                let _ = look.parse(&bytes[..end]);
            }
        }
    }
}
