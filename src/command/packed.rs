//! Requests in the wire format: read without copying, and written.

use smallvec::SmallVec;

/// The arguments of one request; refer to the buffer they came from.
pub type Args<'a> = SmallVec<[&'a [u8]; 16]>;

/// Reads the requests of a buffer one after another: `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n...`.
///
/// Strict: the numbers must be written as every client writes them, and the buffer must end with the last request.
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
    at: usize,
}

/// Why a buffer is not a row of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset} of the packed request")]
pub struct PackedError {
    /// Where in the buffer.
    pub offset: usize,
    /// What is wrong there.
    pub problem: PackedProblem,
}

/// What is wrong with a packed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedProblem {
    /// The buffer ends inside a request.
    #[error("unexpected end")]
    Truncated,
    /// A request does not begin with `*`.
    #[error("expected `*`")]
    NoArray,
    /// An argument does not begin with `$`.
    #[error("expected `$`")]
    NoBulk,
    /// A number is empty, signed, begins with a zero or is too large.
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
    /// Begins at the first byte of `buffer`.
    #[must_use]
    pub fn new(buffer: &'a [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    /// Reads the next request: its arguments go into `args`, in the place of those that were there, and its bytes are
    /// returned. `None` at the end of the buffer.
    ///
    /// # Errors
    /// [`PackedError`] when the bytes are not a request; the reader stays before it, and `args` is empty.
    #[inline]
    pub fn next(&mut self, args: &mut Args<'a>) -> Result<Option<&'a [u8]>, PackedError> {
        args.clear();
        if self.at == self.buffer.len() {
            return Ok(None);
        }
        let start = self.at;
        let read = self.read(args);
        if read.is_err() {
            args.clear();
            self.at = start;
        }
        read.map(|()| Some(&self.buffer[start..self.at]))
    }

    /// Where the next request begins.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    #[inline]
    fn read(&mut self, args: &mut Args<'a>) -> Result<(), PackedError> {
        let start = self.at;
        let count = self.number(b'*', PackedProblem::NoArray)?;
        if count == 0 {
            return Err(PackedError {
                offset: start,
                problem: PackedProblem::Empty,
            });
        }
        // Nothing is reserved for a number that the buffer may not honour.
        for _ in 0..count {
            let len = self.number(b'$', PackedProblem::NoBulk)?;
            let bytes = self.buffer[self.at..]
                .get(..len)
                .ok_or_else(|| self.truncated())?;
            self.at += len;
            self.cr_lf()?;
            args.push(bytes);
        }
        Ok(())
    }

    /// Reads `*123\r\n` or `$123\r\n`.
    #[inline]
    fn number(&mut self, mark: u8, missing: PackedProblem) -> Result<usize, PackedError> {
        match self.buffer.get(self.at) {
            Some(&byte) if byte == mark => self.at += 1,
            Some(_) => return Err(self.error(missing)),
            None => return Err(self.truncated()),
        }
        let start = self.at;
        let mut number: usize = 0;
        while let Some(digit @ b'0'..=b'9') = self.buffer.get(self.at) {
            // Ten digits are more than any server takes.
            if self.at - start == 10 {
                return Err(self.error(PackedProblem::Number));
            }
            number = number
                .wrapping_mul(10)
                .wrapping_add(usize::from(digit - b'0'));
            self.at += 1;
        }
        let digits = self.at - start;
        if self.at == self.buffer.len() {
            return Err(self.truncated());
        }
        if digits == 0 || (digits > 1 && self.buffer[start] == b'0') {
            return Err(PackedError {
                offset: start,
                problem: PackedProblem::Number,
            });
        }
        self.cr_lf()?;
        Ok(number)
    }

    #[inline]
    fn cr_lf(&mut self) -> Result<(), PackedError> {
        match self.buffer[self.at..] {
            [b'\r', b'\n', ..] => {
                self.at += 2;
                Ok(())
            }
            [] | [b'\r'] => Err(self.truncated()),
            _ => Err(self.error(PackedProblem::NoCrLf)),
        }
    }

    #[cold]
    fn error(&self, problem: PackedProblem) -> PackedError {
        PackedError {
            offset: self.at,
            problem,
        }
    }

    #[cold]
    fn truncated(&self) -> PackedError {
        PackedError {
            offset: self.buffer.len(),
            problem: PackedProblem::Truncated,
        }
    }
}

/// Appends a request to `out`, byte for byte as redis-rs packs it.
pub fn write_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    let bytes: usize = args.iter().map(|arg| arg.len() + 16).sum();
    out.reserve(bytes + 16);
    write_header(out, args.len());
    for arg in args {
        write_arg(out, arg);
    }
}

/// Begins a request of so many arguments, the name included.
pub(crate) fn write_header(out: &mut Vec<u8>, args: usize) {
    write_number(out, b'*', args);
}

/// Appends one argument.
pub(crate) fn write_arg(out: &mut Vec<u8>, arg: &[u8]) {
    write_number(out, b'$', arg.len());
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

fn write_number(out: &mut Vec<u8>, mark: u8, number: usize) {
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
