//! A socket that speaks RESP, with one deadline for all that is written and read.
//!
//! redis-rs' own connection sets a limit for a single read, so an answer that trickles has no end; it does not tell
//! whether a failed write left the machine; and it zeroes its buffer for every reply.

use std::io::{self, Read, Write};
use std::time::Duration;

use redis::Value;

use crate::endpoint::Endpoint;
use crate::resp::{self, Input};
use crate::sync::deadline::Deadline;
use crate::sync::socket::Socket;

/// Bytes of the buffer to begin with.
const BUFFER_BYTES: usize = 16 * 1024;

/// It grows for a longer line, up to this.
const LINE_BYTES_MAX: usize = 16 << 20;

/// How long after the end of a request answers that have arrived are still read.
const GRACE: Duration = Duration::from_millis(100);

/// How long the socket waits when there is no time left: as good as not at all.
const A_LOOK: Duration = Duration::from_millis(1);

/// What is left may differ from what the socket was told by this share, so that it is not told anew for every read.
const PATIENCE_SLACK: u32 = 10;

/// A socket and what was read from it ahead.
pub(super) struct Wire {
    socket: Socket,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How long the socket waits, as set last.
    patience: Option<Duration>,
}

/// How a write failed.
pub(super) struct WriteError {
    pub(super) error: io::Error,
    /// How many bytes the socket took before.
    pub(super) written: usize,
}

impl Wire {
    pub(super) fn connect(endpoint: &Endpoint, deadline: &Deadline) -> io::Result<Self> {
        let socket = Socket::connect(endpoint, deadline)?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            patience: None,
        })
    }

    /// The socket, of which nothing was read ahead.
    pub(super) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Writes all of `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), WriteError> {
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
                Err(error) => return Err(WriteError { error, written }),
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

    /// Reads one reply; messages that RESP3 puts between replies are passed over.
    pub(super) fn read(&mut self, deadline: &Deadline) -> io::Result<Value> {
        resp::read(&mut Source {
            wire: self,
            deadline,
        })
    }

    /// Waits until something has come.
    pub(super) fn wait(&mut self, deadline: &Deadline) -> io::Result<()> {
        match self.start < self.end {
            true => Ok(()),
            false => Source {
                wire: self,
                deadline,
            }
            .fill(),
        }
    }

    /// Reads one reply, or one of those messages as an array.
    pub(super) fn read_message(&mut self, deadline: &Deadline) -> io::Result<Value> {
        resp::read_message(&mut Source {
            wire: self,
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
                wire: self,
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
                return Err(io::ErrorKind::TimedOut.into());
            }
            left => left.map(|left| left.max(A_LOOK)),
        };
        let near = match (self.patience, left) {
            (None, None) => true,
            (Some(set), Some(left)) => set.abs_diff(left) <= left / PATIENCE_SLACK,
            _ => false,
        };
        if !near {
            self.socket.set_timeouts(left)?;
            self.patience = left;
        }
        Ok(())
    }
}

/// A wire read under a deadline.
struct Source<'w> {
    wire: &'w mut Wire,
    deadline: &'w Deadline,
}

impl Source<'_> {
    fn read_socket(&mut self, into: Into<'_>) -> io::Result<usize> {
        let wire = &mut *self.wire;
        let mut into = into;
        loop {
            wire.arm(self.deadline)?;
            let result = match &mut into {
                Into::Buffer => {
                    let free = &mut wire.buffer[wire.end..];
                    wire.socket.read(free)
                }
                Into::Slice(slice) => wire.socket.read(slice),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

enum Into<'b> {
    Buffer,
    Slice(&'b mut [u8]),
}

impl Input for Source<'_> {
    #[inline]
    fn buffered(&self) -> &[u8] {
        &self.wire.buffer[self.wire.start..self.wire.end]
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.wire.start += count;
        if self.wire.start == self.wire.end {
            (self.wire.start, self.wire.end) = (0, 0);
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let wire = &mut *self.wire;
        if wire.start > 0 {
            wire.buffer.copy_within(wire.start..wire.end, 0);
            (wire.start, wire.end) = (0, wire.end - wire.start);
        }
        if wire.end == wire.buffer.len() {
            if wire.end >= LINE_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of the reply has no end",
                ));
            }
            wire.buffer.resize(2 * wire.end, 0);
        }
        self.wire.end += self.read_socket(Into::Buffer)?;
        Ok(())
    }

    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        let ready = self.buffered().len().min(into.len());
        into[..ready].copy_from_slice(&self.buffered()[..ready]);
        self.consume(ready);
        let mut filled = ready;
        while filled < into.len() {
            filled += self.read_socket(Into::Slice(&mut into[filled..]))?;
        }
        Ok(())
    }
}
