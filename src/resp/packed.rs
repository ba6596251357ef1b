//! Requests in the usual form: read without a copy, and written.
//!
//! The usual form is an array of bulk strings, with all numbers in decimal digits and without leading zeros:
//! what redis-rs and every other client library sends. Other forms are errors here; the proxy reads them with
//! `RequestParser`.

use smallvec::SmallVec;

/// Number of bytes of the shortest argument, `$0\r\n\r\n`.
const ARG_BYTES_MIN: usize = 6;
/// Maximum number of digits of a length. Ten are more than any server accepts.
const DIGITS_MAX: usize = 10;

/// The arguments of one request, the name first. They refer to the buffer that they were read from.
pub type Args<'a> = SmallVec<[&'a [u8]; 16]>;

/// Reads the requests of a buffer one after another: `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n...`.
///
/// Strict: numbers must be written as every client library writes them, and the buffer must end with the last
/// request.
///
/// ```
/// use redis_sharding::command::{Args, PackedCommands};
///
/// let packed = redis::cmd("GET").arg("key").get_packed_command();
/// let mut commands = PackedCommands::new(&packed);
/// let mut args = Args::new();
/// while let Some(frame) = commands.next(&mut args)? {
///     assert_eq!(frame, packed);
///     assert_eq!(args.as_slice(), [b"GET", b"key".as_slice()]);
/// }
/// # Ok::<(), redis_sharding::command::PackedError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PackedCommands<'a> {
    buffer: &'a [u8],
    /// Offset of the next request.
    at: usize,
}

/// The bytes at some place of a buffer are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset} of the packed request")]
pub struct PackedError {
    /// Offset in the buffer, in bytes.
    pub offset: usize,
    /// The rule that the bytes there break.
    pub problem: PackedProblem,
}

/// The rule that a packed request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedProblem {
    /// The buffer ends within a request.
    #[error("unexpected end")]
    Truncated,
    /// A request does not begin with `*`.
    #[error("expected `*`")]
    NoArray,
    /// An argument does not begin with `$`.
    #[error("expected `$`")]
    NoBulk,
    /// A number is empty, signed, too large, or begins with a zero.
    #[error("malformed number")]
    Number,
    /// CR LF is missing.
    #[error("expected CR LF")]
    NoCrLf,
    /// A request has no arguments, not even a name.
    #[error("empty command")]
    Empty,
}

impl<'a> PackedCommands<'a> {
    /// Creates a reader at the first byte of `buffer`.
    #[must_use]
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    /// Reads the next request. Its arguments replace those in `args`, and its bytes are returned; `None` at
    /// the end of the buffer.
    ///
    /// # Errors
    ///
    /// [`PackedError`] when the bytes are no request. The reader stays before it, and `args` is empty.
    #[inline]
    pub fn next(&mut self, args: &mut Args<'a>) -> Result<Option<&'a [u8]>, PackedError> {
        args.clear();
        if self.at == self.buffer.len() {
            return Ok(None);
        }
        let frame = &self.buffer[self.at..];
        match read(frame, args) {
            Ok(rest) => {
                self.at = self.buffer.len() - rest.len();
                Ok(Some(&frame[..frame.len() - rest.len()]))
            }
            Err(stop) => {
                args.clear();
                Err(PackedError {
                    offset: self.buffer.len() - stop.left,
                    problem: stop.problem,
                })
            }
        }
    }

    /// Returns the offset of the next request.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }
}

/// A problem, and the number of bytes from there to the end: the reading functions know no offset.
struct Stop {
    problem: PackedProblem,
    left: usize,
}

/// Reads one request, and returns the bytes after it.
#[inline]
fn read<'a>(bytes: &'a [u8], args: &mut Args<'a>) -> Result<&'a [u8], Stop> {
    let (count, mut rest) = number(bytes, b'*', PackedProblem::NoArray)?;
    // A server skips it without a reply, so it must not be counted as a request.
    if count == 0 {
        return Err(Stop::at(bytes, PackedProblem::Empty));
    }
    // `count` is what a client claims. No more is reserved than the bytes that are there can hold.
    args.reserve(count.min(rest.len() / ARG_BYTES_MIN));
    for _ in 0..count {
        let (len, text) = number(rest, b'$', PackedProblem::NoBulk)?;
        let (arg, end) = text.split_at_checked(len).ok_or(Stop::TRUNCATED)?;
        rest = after_cr_lf(end)?;
        args.push(arg);
    }
    Ok(rest)
}

/// Reads `*123\r\n` or `$123\r\n`, and returns the number and the bytes after it. One and two digits, by far
/// the most frequent, are matched as patterns.
#[inline]
fn number(bytes: &[u8], mark: u8, missing: PackedProblem) -> Result<(usize, &[u8]), Stop> {
    let digit = |byte: &u8| usize::from(byte - b'0');
    match bytes {
        [first, one @ b'0'..=b'9', b'\r', b'\n', rest @ ..] if *first == mark => {
            Ok((digit(one), rest))
        }
        [
            first,
            ten @ b'1'..=b'9',
            one @ b'0'..=b'9',
            b'\r',
            b'\n',
            rest @ ..,
        ] if *first == mark => Ok((10 * digit(ten) + digit(one), rest)),
        _ => any_number(bytes, mark, missing),
    }
}

/// Reads a number of any length.
fn any_number(bytes: &[u8], mark: u8, missing: PackedProblem) -> Result<(usize, &[u8]), Stop> {
    let (&first, digits) = bytes.split_first().ok_or(Stop::TRUNCATED)?;
    if first != mark {
        return Err(Stop::at(bytes, missing));
    }
    let count = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    // Before the check for the end: a client must not send digits without end.
    if count > DIGITS_MAX {
        return Err(Stop::at(&digits[DIGITS_MAX..], PackedProblem::Number));
    }
    let (digits, end) = digits.split_at(count);
    match digits {
        _ if end.is_empty() => Err(Stop::TRUNCATED),
        [] | [b'0', _, ..] => Err(Stop::at(&bytes[1..], PackedProblem::Number)),
        _ => {
            let add = |number: usize, digit: &u8| {
                number
                    .wrapping_mul(10)
                    .wrapping_add(usize::from(digit - b'0'))
            };
            Ok((digits.iter().fold(0, add), after_cr_lf(end)?))
        }
    }
}

/// Skips CR LF.
#[inline]
fn after_cr_lf(bytes: &[u8]) -> Result<&[u8], Stop> {
    match bytes {
        [b'\r', b'\n', rest @ ..] => Ok(rest),
        [] | [b'\r'] => Err(Stop::TRUNCATED),
        _ => Err(Stop::at(bytes, PackedProblem::NoCrLf)),
    }
}

impl Stop {
    const TRUNCATED: Self = Self {
        problem: PackedProblem::Truncated,
        left: 0,
    };

    fn at(bytes: &[u8], problem: PackedProblem) -> Self {
        Self {
            problem,
            left: bytes.len(),
        }
    }
}

/// Appends a request to `out`, byte for byte as redis-rs packs it.
pub fn write_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    // 16 bytes are room for the marker, the length and both line ends of any argument below 100 GB.
    let bytes: usize = args.iter().map(|arg| arg.len() + 16).sum();
    out.reserve(bytes + 16);
    write_header(out, args.len());
    for arg in args {
        write_arg(out, arg);
    }
}

/// Appends the first line of a request with this many arguments, the name included.
pub(crate) fn write_header(out: &mut Vec<u8>, args: usize) {
    write_number(out, b'*', args);
}

/// Appends one argument.
pub(crate) fn write_arg(out: &mut Vec<u8>, arg: &[u8]) {
    write_number(out, b'$', arg.len());
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

/// Appends a line with a number. One and two digits, by far the most frequent, are written without a loop.
#[inline]
fn write_number(out: &mut Vec<u8>, mark: u8, number: usize) {
    let digit = |number: usize| b'0' + (number % 10) as u8;
    match number {
        0..10 => out.extend_from_slice(&[mark, digit(number), b'\r', b'\n']),
        10..100 => out.extend_from_slice(&[mark, digit(number / 10), digit(number), b'\r', b'\n']),
        _ => write_any_number(out, mark, number),
    }
}

/// Appends a line with a number of any size.
fn write_any_number(out: &mut Vec<u8>, mark: u8, number: usize) {
    // The largest `u64` has 20 digits.
    let mut digits = [0; 20];
    let mut first = digits.len();
    let mut rest = number;
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(mark);
    out.extend_from_slice(&digits[first..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(buffer: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, PackedError> {
        let mut commands = PackedCommands::new(buffer);
        let mut args = Args::new();
        let mut all = Vec::new();
        while commands.next(&mut args)?.is_some() {
            all.push(args.iter().map(|arg| arg.to_vec()).collect());
        }
        Ok(all)
    }

    fn problem(buffer: &[u8]) -> (usize, PackedProblem) {
        let error = read(buffer).expect_err("a malformed request");
        (error.offset, error.problem)
    }

    proptest! {
        #[test]
        fn packed_commands_agree_with_redis_rs_and_are_parsed_back(
            commands in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..24), 0..6),
        ) {
            let mut ours = Vec::new();
            let mut theirs = Vec::new();
            for args in &commands {
                let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                write_command(&mut ours, &slices);
                let mut cmd = redis::Cmd::new();
                for arg in args {
                    cmd.arg(arg.as_slice());
                }
                theirs.extend(cmd.get_packed_command());
            }
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(read(&ours), Ok(commands));
        }

        #[test]
        fn packed_commands_never_panic_on_arbitrary_bytes(
            bytes in proptest::collection::vec(proptest::sample::select(b"*$0123456789\r\n-aG\xff".to_vec()), 0..60),
        ) {
            let _ = read(&bytes);
        }

        #[test]
        fn packed_commands_accept_only_what_write_command_writes(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            cut in 0usize..40,
        ) {
            let mut buffer = b"*2\r\n$3\r\nGET\r\n$4\r\nname\r\n"[..].to_vec();
            let cut = cut.min(buffer.len());
            buffer.splice(cut.., bytes);
            if let Ok(commands) = read(&buffer) {
                let mut written = Vec::new();
                for args in &commands {
                    write_command(&mut written, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
                }
                prop_assert_eq!(written, buffer);
            }
        }
    }

    #[test]
    fn packed_command_frames_are_the_bytes_of_each_command() {
        let (get, set) = (
            redis::cmd("GET").arg(1).get_packed_command(),
            redis::cmd("DEL").arg("x").get_packed_command(),
        );
        let buffer = [get.clone(), set.clone()].concat();
        let mut commands = PackedCommands::new(&buffer);
        let mut args = Args::new();
        assert_eq!(commands.next(&mut args), Ok(Some(get.as_slice())));
        assert_eq!(commands.offset(), get.len());
        assert_eq!(commands.next(&mut args), Ok(Some(set.as_slice())));
        assert_eq!(args.as_slice(), [b"DEL".as_slice(), b"x"]);
        assert_eq!(commands.next(&mut args), Ok(None));
        assert!(args.is_empty());
    }

    #[test]
    fn packed_pipeline_of_redis_rs_is_parsed() {
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("INCR").arg("a").cmd("GET").arg("b");
        let names: Vec<_> = read(&pipeline.get_packed_pipeline())
            .expect("well formed")
            .into_iter()
            .map(|args| String::from_utf8(args[0].clone()).expect("a name"))
            .collect();
        assert_eq!(names, ["MULTI", "INCR", "GET", "EXEC"]);
    }

    #[test]
    fn truncated_packed_command_is_reported_at_its_end() {
        let whole = redis::cmd("GET").arg("key").get_packed_command();
        for end in 1..whole.len() {
            assert_eq!(problem(&whole[..end]), (end, PackedProblem::Truncated));
        }
    }

    #[test]
    fn packed_command_error_names_offset_and_problem() {
        assert_eq!(problem(b"GET k\r\n"), (0, PackedProblem::NoArray));
        assert_eq!(problem(b"*1\r\n+GET\r\n"), (4, PackedProblem::NoBulk));
        assert_eq!(problem(b"*0\r\n"), (0, PackedProblem::Empty));
        assert_eq!(problem(b"*-1\r\n"), (1, PackedProblem::Number));
        assert_eq!(problem(b"*\r\n"), (1, PackedProblem::Number));
        assert_eq!(problem(b"*01\r\n$1\r\na\r\n"), (1, PackedProblem::Number));
        assert_eq!(problem(b"*1\r\n$00\r\n\r\n"), (5, PackedProblem::Number));
        assert_eq!(problem(b"*12345678901\r\n"), (11, PackedProblem::Number));
        assert_eq!(problem(b"*1\n$1\r\na\r\n"), (2, PackedProblem::NoCrLf));
        assert_eq!(problem(b"*1\r\n$1\r\nab\r\n"), (9, PackedProblem::NoCrLf));
        assert_eq!(
            problem(b"*1\r\n$9999999999\r\nab\r\n"),
            (21, PackedProblem::Truncated)
        );
        let error = read(b"*1\r\n$1\r\nab\r\n").expect_err("too long");
        assert_eq!(
            error.to_string(),
            "expected CR LF at byte 9 of the packed request"
        );
    }

    #[test]
    fn packed_command_error_leaves_the_offset_unchanged() {
        let mut buffer = redis::cmd("PING").get_packed_command();
        let good = buffer.len();
        buffer.extend_from_slice(b"*1\r\n$4\r\nPI");
        let mut commands = PackedCommands::new(&buffer);
        let mut args = Args::new();
        assert!(commands.next(&mut args).is_ok_and(|frame| frame.is_some()));
        assert!(commands.next(&mut args).is_err());
        assert_eq!(commands.offset(), good);
        assert!(args.is_empty());
    }
}
