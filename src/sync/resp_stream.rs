//! A socket that speaks RESP, with one deadline for all that is written and read.
//!
//! redis-rs' own connection sets a limit for a single read, so an answer that trickles has no end; it does not tell
//! whether a failed write left the machine; and it zeroes its buffer for every reply.

use std::io::{self, Read, Write};
use std::time::Duration;

use redis::Value;

use crate::endpoint::Deadline;
use crate::endpoint::Endpoint;
use crate::resp::{self, Input};
use crate::sync::socket::Socket;

/// Bytes of the buffer to begin with.
const BUFFER_BYTES: usize = 16 * 1024;

/// It grows for a longer line, up to this.
const LINE_BYTES_MAX: usize = 16 << 20;

/// How long after the end of a request answers that have arrived are still read.
const GRACE: Duration = Duration::from_millis(100);

/// How long the socket waits when there is no time left: as good as not at all.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Requests of more bytes are written in turns: their replies may fill the buffers of both sockets before all is written,
/// and a server that waits until they are read reads nothing more itself. What has been sent on a connection that owed
/// nothing, and is not larger, fits into the buffers.
const WRITE_WHOLE: usize = 16 * 1024;

/// The longest that a write waits before what has arrived is read.
pub(super) const WRITE_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A buffer of more bytes is given back when all is read.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// What is left may differ from what the socket was told by this share, so that it is not told anew for every read.
const TIMEOUT_SLACK: u32 = 10;

/// A socket and what was read from it ahead.
pub(super) struct RespStream {
    socket: Socket,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How long the socket waits, as set last.
    socket_timeout: Option<Duration>,
}

/// How a write failed.
pub(super) struct WriteError {
    pub(super) error: io::Error,
    /// How many bytes the socket took before.
    pub(super) written: usize,
}

impl RespStream {
    pub(super) fn connect(endpoint: &Endpoint, deadline: &Deadline) -> io::Result<Self> {
        let socket = Socket::connect(endpoint, deadline)?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            socket_timeout: None,
        })
    }

    /// The socket, of which nothing was read ahead.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Writes all of `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), WriteError> {
        if bytes.len() > WRITE_WHOLE {
            return self.write_while_reading(bytes, deadline);
        }
        let mut written = 0;
        while written < bytes.len() {
            let result = self
                .arm(deadline)
                .and_then(|()| self.socket.write(&bytes[written..]));
            match result {
                Ok(0) => {
                    return Err(WriteError {
                        error: io::ErrorKind::WriteZero.into(),
                        written,
                    });
                }
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = plain_timeout(error);
                    return Err(WriteError { error, written });
                }
            }
        }
        while self.socket.holds_back() {
            let flushed = self.arm(deadline).and_then(|()| self.socket.flush());
            if let Err(error) = flushed
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(WriteError { error, written });
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`, and reads what arrives while the socket takes no more.
    fn write_while_reading(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), WriteError> {
        let mut written = 0;
        let failed = |error: io::Error, written| WriteError {
            error: plain_timeout(error),
            written,
        };
        while written < bytes.len() || self.socket.holds_back() {
            let turn = self.arm(deadline).and_then(|()| {
                let turn = deadline.within(WRITE_POLL_INTERVAL).remaining();
                self.socket
                    .set_write_timeout(turn.unwrap_or_default().max(POLL_INTERVAL))
            });
            turn.map_err(|error| failed(error, written))?;
            // The next one to wait must not do it for as short.
            self.socket_timeout = Some(Duration::ZERO);
            let wrote = match &bytes[written..] {
                // An encrypted record may have gone out in part.
                [] => self.socket.flush().map(|()| 0),
                rest => self.socket.write(rest),
            };
            match wrote {
                Ok(0) if written < bytes.len() => {
                    return Err(failed(io::ErrorKind::WriteZero.into(), written));
                }
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(failed(error, written)),
            }
            if written < bytes.len() || self.socket.holds_back() {
                self.take_arrived()
                    .map_err(|error| failed(error, written))?;
            }
        }
        Ok(())
    }

    /// Reads what has arrived into the buffer, which grows for it: whoever asked keeps the replies in memory anyway.
    fn take_arrived(&mut self) -> io::Result<()> {
        loop {
            if self.buffer.len() - self.end < BUFFER_BYTES / 4 {
                self.buffer.resize(2 * self.buffer.len(), 0);
            }
            match self.socket.read_ready(&mut self.buffer[self.end..])? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(count) => self.end += count,
                None => return Ok(()),
            }
        }
    }

    /// Reads one reply; messages that RESP3 puts between replies are passed over.
    pub(super) fn read(&mut self, deadline: &Deadline) -> io::Result<Value> {
        resp::read(&mut Source {
            stream: self,
            deadline,
        })
    }

    /// Waits until something has come.
    pub(super) fn wait(&mut self, deadline: &Deadline) -> io::Result<()> {
        match self.start < self.end {
            true => Ok(()),
            false => Source {
                stream: self,
                deadline,
            }
            .fill(),
        }
    }

    /// Reads one reply, or one of those messages as an array.
    pub(super) fn read_message(&mut self, deadline: &Deadline) -> io::Result<Value> {
        resp::read_message(&mut Source {
            stream: self,
            deadline,
        })
    }

    /// Reads `count` replies; those that came stay in `replies` when one does not.
    pub(super) fn read_all(
        &mut self,
        count: usize,
        deadline: &Deadline,
        replies: &mut Vec<Value>,
    ) -> io::Result<()> {
        resp::read_all(
            &mut Source {
                stream: self,
                deadline,
            },
            count,
            replies,
        )
    }

    /// Whether the other side has closed the connection, or sent something that nobody asked for. Does not wait.
    pub(super) fn is_stale(&self) -> bool {
        if self.start < self.end {
            return true;
        }
        let peeked = self.socket.peek();
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Makes the socket wait no longer than what is left. After the end, what has arrived may still be read: one node that
    /// took all the time must not take the others' answers with it.
    fn arm(&mut self, deadline: &Deadline) -> io::Result<()> {
        let left = match deadline.remaining() {
            Some(Duration::ZERO) if deadline.is_past(GRACE) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, TIMED_OUT));
            }
            left => left.map(|left| left.max(POLL_INTERVAL)),
        };
        let near = match (self.socket_timeout, left) {
            (None, None) => true,
            (Some(set), Some(left)) => set.abs_diff(left) <= left / TIMEOUT_SLACK,
            _ => false,
        };
        if !near {
            self.socket.set_timeouts(left)?;
            self.socket_timeout = left;
        }
        Ok(())
    }
}

const TIMED_OUT: &str = "timed out";

/// Whether a socket has waited as long as it may.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

/// The end of a socket's socket_timeout, in words: the system's own are "Resource temporarily unavailable".
fn plain_timeout(error: io::Error) -> io::Error {
    match is_timeout(&error) {
        true => io::Error::new(io::ErrorKind::TimedOut, TIMED_OUT),
        false => error,
    }
}

/// A stream that is read under a deadline.
struct Source<'w> {
    stream: &'w mut RespStream,
    deadline: &'w Deadline,
}

impl Source<'_> {
    fn read_socket(&mut self, into: ReadTarget<'_>) -> io::Result<usize> {
        let stream = &mut *self.stream;
        let mut into = into;
        loop {
            stream.arm(self.deadline)?;
            let result = match &mut into {
                ReadTarget::Buffer => {
                    let free = &mut stream.buffer[stream.end..];
                    stream.socket.read(free)
                }
                ReadTarget::Slice(slice) => stream.socket.read(slice),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(plain_timeout),
            }
        }
    }
}

enum ReadTarget<'b> {
    Buffer,
    Slice(&'b mut [u8]),
}

impl Input for Source<'_> {
    #[inline]
    fn buffered(&self) -> &[u8] {
        &self.stream.buffer[self.stream.start..self.stream.end]
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.stream.start += count;
        if self.stream.start == self.stream.end {
            (self.stream.start, self.stream.end) = (0, 0);
            if self.stream.buffer.len() > BUFFER_BYTES_KEPT {
                self.stream.buffer = vec![0; BUFFER_BYTES];
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let stream = &mut *self.stream;
        if stream.start > 0 {
            stream.buffer.copy_within(stream.start..stream.end, 0);
            (stream.start, stream.end) = (0, stream.end - stream.start);
        }
        if stream.end == stream.buffer.len() {
            if stream.end >= LINE_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of the reply has no end",
                ));
            }
            stream.buffer.resize(2 * stream.end, 0);
        }
        self.stream.end += self.read_socket(ReadTarget::Buffer)?;
        Ok(())
    }

    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let ready = self.buffered().len().min(into.len());
        into[..ready].copy_from_slice(&self.buffered()[..ready]);
        self.consume(ready);
        let mut filled = ready;
        while filled < into.len() {
            filled += self.read_socket(ReadTarget::Slice(&mut into[filled..]))?;
        }
        Ok(())
    }
}
