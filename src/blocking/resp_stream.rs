//! The RESP side of a socket: a read buffer, and one deadline for everything that is written and read.
//!
//! It is used instead of redis-rs' own connection, which limits each single read, so that a reply that
//! trickles in is never late; does not report whether a failed write may have reached the server; and zeroes
//! its buffer for every reply.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use crate::blocking::socket::Socket;
use crate::endpoint::Deadline;
use crate::endpoint::Endpoint;
use crate::endpoint::push::PushTarget;
use crate::observe::NodeObserver;
use crate::policy::is_timeout;
use crate::resp::{self, Input};

/// Initial size of the buffer in bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Maximum length in bytes of a line, to which the buffer grows. Stops a server that never ends one.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Time after the deadline in which replies that have already arrived are still read.
const GRACE: Duration = Duration::from_millis(100);

/// Shortest timeout that is set on a socket; zero would mean none. Long enough to read what has arrived.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Maximum size in bytes of a request that is written without reading in between. Replies to more than that
/// may fill the buffers of both sockets before all of it is written, and a server whose replies are not read
/// stops reading. On a connection on which nothing is due, this much fits into the buffers.
const WRITE_WHOLE: usize = 16 * 1024;

/// Maximum time that a write blocks before arrived replies are read.
pub(crate) const WRITE_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Buffer size in bytes above which the buffer is freed when it is empty.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// The timeout set on the socket may differ from the time left by one part in this many, which saves a system
/// call per read.
const TIMEOUT_SLACK: u32 = 10;

/// A socket and the bytes that were read ahead from it.
pub(crate) struct RespStream {
    socket: Socket,
    /// Bytes read ahead are those between `start` and `end`.
    buffer: Vec<u8>,
    /// First byte that is not consumed.
    start: usize,
    /// End of the bytes read; the rest of the buffer is free.
    end: usize,
    /// The timeout last set on the socket, for reads and writes alike.
    socket_timeout: Option<Duration>,
    /// Counts the bytes sent and received.
    observer: Arc<NodeObserver>,
    /// Where push messages go, until the connection is lost.
    pushes: Option<PushTarget>,
}

/// How a write failed.
pub(crate) struct WriteError {
    pub(crate) error: io::Error,
    /// Number of bytes that the socket took before. Zero means that the request was certainly not sent.
    pub(crate) written: usize,
}

impl RespStream {
    /// Connects a socket and allocates its buffer.
    pub(crate) fn connect(endpoint: &Endpoint, deadline: &Deadline) -> io::Result<Self> {
        let socket = Socket::connect(endpoint, deadline)?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            socket_timeout: None,
            observer: Arc::clone(&endpoint.observer),
            pushes: None,
        })
    }

    /// Sets where push messages go from here on, and the message that the connection is lost.
    pub(crate) fn set_pushes(&mut self, pushes: Option<PushTarget>) {
        self.pushes = pushes;
    }

    /// Reports that the connection is given up, once.
    pub(crate) fn lost(&mut self) {
        if let Some(pushes) = self.pushes.take() {
            pushes.disconnected();
        }
    }

    /// Reports a failure after which the connection is not used any more.
    fn check_lost<T, E>(&mut self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            self.lost();
        }
        result
    }

    /// Returns the socket. Nothing may have been read ahead.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), WriteError> {
        let written = match bytes.len() > WRITE_WHOLE {
            true => self.write_while_reading(bytes, deadline),
            false => self.write_whole(bytes, deadline),
        };
        self.check_lost(written)
    }

    /// Writes all of `bytes`, which are few.
    fn write_whole(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), WriteError> {
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
                Ok(count) => {
                    written += count;
                    self.observer.sent(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = plain_timeout(error);
                    return Err(WriteError { error, written });
                }
            }
        }
        // TLS has taken everything, but a part of the last record may not be sent yet.
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

    /// Writes all of `bytes`, and reads what arrives whenever the socket takes no more.
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
            // Forgets what was set, as the next read must not time out this early.
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
                Ok(count) => {
                    written += count;
                    self.observer.sent(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The short timeout of this turn; `arm` above fails when the whole deadline has passed.
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

    /// Reads what has arrived into the buffer, which grows as needed: the sender of a large request keeps its
    /// replies in memory anyway.
    fn take_arrived(&mut self) -> io::Result<()> {
        loop {
            if self.buffer.len() - self.end < BUFFER_BYTES / 4 {
                self.buffer.resize(2 * self.buffer.len(), 0);
            }
            match self.socket.read_ready(&mut self.buffer[self.end..])? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(count) => {
                    self.end += count;
                    self.observer.received(count);
                }
                None => return Ok(()),
            }
        }
    }

    /// Reads one reply; RESP3 push messages in front of it are sent on, or skipped.
    pub(crate) fn read(&mut self, deadline: &Deadline) -> io::Result<Value> {
        let read = resp::read(&mut Source {
            stream: self,
            deadline,
        });
        self.check_lost(read)
    }

    /// Waits until bytes have arrived.
    pub(crate) fn wait(&mut self, deadline: &Deadline) -> io::Result<()> {
        if self.start < self.end {
            return Ok(());
        }
        let filled = Source {
            stream: self,
            deadline,
        }
        .fill();
        match filled {
            // Nothing has begun to arrive, so the connection can be used on.
            Err(error) if is_timeout(&error) => Err(error),
            other => self.check_lost(other),
        }
    }

    /// Reads one reply, or one push message as an array.
    pub(crate) fn read_message(&mut self, deadline: &Deadline) -> io::Result<Value> {
        let read = resp::read_message(&mut Source {
            stream: self,
            deadline,
        });
        self.check_lost(read)
    }

    /// Reads `count` replies. On an error, the replies read before it stay in `replies`.
    pub(crate) fn read_all(
        &mut self,
        count: usize,
        deadline: &Deadline,
        replies: &mut Vec<Value>,
    ) -> io::Result<()> {
        let mut source = Source {
            stream: self,
            deadline,
        };
        let read = resp::read_all(&mut source, count, replies);
        self.check_lost(read)
    }

    /// Reads bytes that are no reply, such as those behind one that announces them: some that have arrived, or those that
    /// arrive first. Returns zero at the end of the stream. After a timeout the connection can be used on.
    #[cfg(feature = "backup")]
    pub(crate) fn read_bytes(&mut self, into: &mut [u8], deadline: &Deadline) -> io::Result<usize> {
        let mut source = Source {
            stream: self,
            deadline,
        };
        let ready = source.buffered().len().min(into.len());
        if ready > 0 {
            into[..ready].copy_from_slice(&source.buffered()[..ready]);
            source.consume(ready);
            return Ok(ready);
        }
        match source.read_socket(ReadTarget::Slice(into)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }

    /// True if the server has closed the connection or sent something unasked. Does not block.
    pub(crate) fn is_stale(&self) -> bool {
        if self.start < self.end {
            return true;
        }
        // Anything but "nothing there" is a reason not to send a request: data would be taken for its reply.
        let peeked = self.socket.peek();
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sets the socket's timeout to the time left. After the deadline, replies that have arrived may still be
    /// read for [`GRACE`]: one node that used up all the time must not take the others' replies with it.
    fn arm(&mut self, deadline: &Deadline) -> io::Result<()> {
        // Never zero, which would mean no timeout at all.
        let left = match deadline.remaining() {
            Some(Duration::ZERO) if deadline.is_past(GRACE) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, TIMED_OUT));
            }
            left => left.map(|left| left.max(POLL_INTERVAL)),
        };
        // Setting the timeout is a system call per read otherwise; a tenth too long or too short does no
        // harm.
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

/// Text of a timeout.
const TIMED_OUT: &str = "timed out";

/// Replaces the text of a socket timeout; the system's is "Resource temporarily unavailable".
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
    /// Reads once from the socket; the end of the stream is an error.
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
                Ok(count) => {
                    stream.observer.received(count);
                    return Ok(count);
                }
                Err(error) => return Err(plain_timeout(error)),
            }
        }
    }
}

/// Where bytes are read to.
enum ReadTarget<'b> {
    /// The free part of the stream's buffer.
    Buffer,
    /// The destination of a long bulk string, past the buffer.
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
            // Empty: starting over is free here, while moving bytes to the front in `fill` is not.
            (self.stream.start, self.stream.end) = (0, 0);
            if self.stream.buffer.len() > BUFFER_BYTES_KEPT {
                self.stream.buffer = vec![0; BUFFER_BYTES];
            }
        }
    }

    fn push_message(&mut self, items: &[Value]) {
        if let Some(pushes) = &self.stream.pushes {
            pushes.message(items);
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let stream = &mut *self.stream;
        if stream.start > 0 {
            // Moves what is left to the front, so that one buffer serves for the life of the connection.
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
