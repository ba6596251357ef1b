//! Replies as they come over the wire, with their exact type, and connections without a client library in between.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// How long a reply may take. It is longer than any command of the tests waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// So much of a text is shown when a test fails.
const SHOWN_MAX: usize = 300;

/// One reply. `$-1` and `*-1`, `:1` and `#t`, an array and a set are all different.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// A line, under its mark: `+`, `-`, `:`, `,`, `#`, `(` or `_`.
    Line(u8, Vec<u8>),
    /// `$`, `=` or `!`, and bytes.
    Bulk(u8, Option<Vec<u8>>),
    /// `*`, `~`, `>`, `%` or `|`. Of the last two, keys and values take turns.
    Many(u8, Option<Vec<Reply>>),
}

impl Reply {
    /// The text of an error.
    pub fn error(&self) -> Option<&[u8]> {
        match self {
            Self::Line(b'-', text) | Self::Bulk(b'!', Some(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether it is nothing at all, in either protocol.
    pub fn is_nil(&self) -> bool {
        matches!(
            self,
            Self::Line(b'_', _) | Self::Bulk(_, None) | Self::Many(_, None)
        )
    }

    /// The first word of an error.
    pub fn error_word(&self) -> Option<&str> {
        let text = std::str::from_utf8(self.error()?).ok()?;
        text.split(' ').next()
    }

    pub fn is_line(&self, text: &str) -> bool {
        matches!(self, Self::Line(b'+', line) if line == text.as_bytes())
    }

    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Line(b':', digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// The bytes of a bulk string.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(b'$', Some(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// What is in an array, a set, a map or a push message.
    pub fn items(&self) -> Option<&[Reply]> {
        match self {
            Self::Many(_, Some(items)) => Some(items),
            _ => None,
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(mark, text) => write!(f, "{}{}", char::from(*mark), Shown(text)),
            Self::Bulk(mark, None) => write!(f, "{}-1", char::from(*mark)),
            Self::Bulk(mark, Some(text)) => write!(f, "{}\"{}\"", char::from(*mark), Shown(text)),
            Self::Many(mark, None) => write!(f, "{}-1", char::from(*mark)),
            Self::Many(mark, Some(items)) => {
                write!(f, "{}", char::from(*mark))?;
                f.debug_list().entries(items).finish()
            }
        }
    }
}

/// Bytes for people.
pub struct Shown<'t>(pub &'t [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        let shown = &bytes[..bytes.len().min(SHOWN_MAX)];
        write!(f, "{}", shown.escape_ascii())?;
        match bytes.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "... and {more} bytes"),
        }
    }
}

/// A connection that sends bytes and reads replies.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let stream = BufReader::with_capacity(32 * 1024, stream);
        Ok(Self { stream })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends one command and reads its reply.
    pub fn ask<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        pack(words, &mut bytes);
        self.send(&bytes)?;
        self.read()
    }

    /// Sends many commands at once and reads their replies.
    pub fn ask_all<W: AsRef<[u8]>>(&mut self, commands: &[Vec<W>]) -> io::Result<Vec<Reply>> {
        let mut bytes = Vec::new();
        commands
            .iter()
            .for_each(|words| pack(words.as_slice(), &mut bytes));
        self.send(&bytes)?;
        commands.iter().map(|_| self.read()).collect()
    }

    /// Reads one reply, or push message.
    pub fn read(&mut self) -> io::Result<Reply> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let (mark, text) = match line.as_slice() {
            [mark, text @ .., b'\r', b'\n'] => (*mark, text),
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => return Err(malformed(&line)),
        };
        match mark {
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => Ok(Reply::Line(mark, text.to_vec())),
            b'$' | b'=' | b'!' => {
                let length = length(text).ok_or_else(|| malformed(&line))?;
                let bytes = length.map(|length| self.bytes(length)).transpose()?;
                Ok(Reply::Bulk(mark, bytes))
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = length(text).ok_or_else(|| malformed(&line))?;
                let each = if matches!(mark, b'%' | b'|') { 2 } else { 1 };
                let items = count.map(|count| (0..count * each).map(|_| self.read()).collect());
                Ok(Reply::Many(mark, items.transpose()?))
            }
            _ => Err(malformed(&line)),
        }
    }

    /// Whether something has come that was not read.
    pub fn has_some(&mut self) -> io::Result<bool> {
        if !self.stream.buffer().is_empty() {
            return Ok(true);
        }
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        match peeked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            peeked => peeked.map(|_| true),
        }
    }

    /// Everything that comes until the other side closes the connection.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes)?;
        match bytes.split_off(length).as_slice() {
            b"\r\n" => Ok(bytes),
            _ => Err(malformed(&bytes)),
        }
    }
}

/// A length, `None` for -1; nothing when it is neither.
fn length(text: &[u8]) -> Option<Option<usize>> {
    let text = std::str::from_utf8(text).ok()?;
    match text {
        "-1" => Some(None),
        digits => digits.parse().ok().map(Some),
    }
}

fn malformed(line: &[u8]) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not a reply: {}", Shown(line)),
    )
}

/// Writes a command as an array of bulk strings.
pub fn pack<W: AsRef<[u8]>>(words: &[W], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
}
