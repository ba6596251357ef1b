//! Encrypted sockets of the blocking client.
//!
//! A [`Session`] encrypts and decrypts bytes and has no socket; [`TlsSocket`] moves the encrypted bytes. With
//! the two apart, a read or a write blocks no longer than the socket's own timeout, one thread can write
//! while another reads, and both libraries are used alike. The TLS streams of the libraries offer none of
//! that.
//!
//! ```text
//!  write ──▶ Session ──▶ Outgoing ──▶ TcpStream      under the lock of `outgoing`
//!  read  ◀── Session ◀── received ◀── TcpStream      under no lock while it blocks
//! ```
//!
//! Lock order: `outgoing` before `session`. `session` is held for computing only, never over network I/O, so
//! a reader that has received something waits at most for an encryption.
//!
//! Connections are closed without close_notify. RESP carries the length of everything that is longer than a
//! line, so neither side can take a stream that was cut for a complete one.
//!
//! `rustls` and `native_tls`: one session each; `session`: the trait.

#[cfg(feature = "tls-native-tls")]
mod native_tls;
#[cfg(feature = "tls-rustls")]
mod rustls;
mod session;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use parking_lot::Mutex;

use self::session::TlsSession;
use crate::endpoint::Deadline;
use crate::endpoint::tls::Tls;

/// Maximum number of bytes encrypted per write, which bounds what is queued in [`Outgoing`].
const CHUNK_BYTES: usize = 64 * 1024;

/// Maximum number of encrypted bytes per read.
const RECEIVED_BYTES: usize = 32 * 1024;

/// Maximum number of bytes examined by [`TlsSocket::peek`]. A healthy server sends less than that unasked, so
/// the loop need not go on for as long as an attacker likes.
const PEEKED_BYTES_MAX: usize = 64 * 1024;

/// A TCP socket whose bytes are encrypted.
pub(crate) struct TlsSocket {
    /// The connection beneath; clones share its timeouts.
    tcp: TcpStream,
    shared: Arc<Shared>,
    /// Receive buffer of this handle; empty until its first read.
    received: Vec<u8>,
}

/// State that the clones of a socket share.
struct Shared {
    /// Locked before `session`. A writer that waits for the network holds this lock only, so that it does not
    /// block readers.
    outgoing: Mutex<Outgoing>,
    /// Keys and buffers of the connection.
    session: Mutex<Box<dyn TlsSession>>,
}

/// Encrypted bytes to be sent, in order. A record must be sent to its end before the next one.
#[derive(Default)]
struct Outgoing {
    /// Records, the first perhaps sent in part.
    bytes: Vec<u8>,
    /// Number of bytes of `bytes` that the socket has taken.
    sent: usize,
}

/// Starts the session of whichever library was chosen.
fn begin(tls: &Tls) -> io::Result<Box<dyn TlsSession>> {
    match tls.config {
        #[cfg(feature = "tls-rustls")]
        crate::endpoint::tls::Config::Rustls(ref config, ref name) => {
            Ok(Box::new(rustls::begin(config, name)?))
        }
        #[cfg(feature = "tls-native-tls")]
        crate::endpoint::tls::Config::NativeTls(ref connector) => {
            Ok(Box::new(native_tls::begin(connector, &tls.server_name)?))
        }
    }
}

impl TlsSocket {
    /// Performs the TLS handshake on a new connection, within the deadline.
    pub(crate) fn connect(tcp: TcpStream, tls: &Tls, deadline: &Deadline) -> io::Result<Self> {
        Self::shake_hands(tcp, tls, deadline).map_err(|error| match error.kind() {
            // What a blocking socket reports when its timeout has passed.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }

    /// Drives the handshake: sends what the session produces, feeds it what arrives.
    fn shake_hands(tcp: TcpStream, tls: &Tls, deadline: &Deadline) -> io::Result<Self> {
        let session = begin(tls).map_err(|error| tls.handshake_error(&error))?;
        let mut socket = Self {
            tcp,
            shared: Arc::new(Shared {
                outgoing: Mutex::default(),
                session: Mutex::new(session),
            }),
            received: Vec::new(),
        };
        loop {
            let shaken = socket.shared.session.lock().handshake();
            let sent = socket.send_answers(deadline);
            match shaken {
                // The alert to the server was sent if possible; whether it was does not matter here.
                Err(error) => return Err(tls.handshake_error(&error)),
                Ok(true) => {
                    sent?;
                    // The handshake's own timeouts must not stay: `RespStream` assumes that none is set.
                    socket.tcp.set_read_timeout(None)?;
                    socket.tcp.set_write_timeout(None)?;
                    return Ok(socket);
                }
                Ok(false) => {
                    sent?;
                    socket.arm(deadline)?;
                    match socket.fill() {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        filled => filled?,
                    }
                }
            }
        }
    }

    /// Sends everything that the session has produced.
    fn send_answers(&self, deadline: &Deadline) -> io::Result<()> {
        let mut outgoing = self.shared.outgoing.lock();
        let mut session = self.shared.session.lock();
        session.take_outgoing(&mut outgoing.bytes)?;
        drop(session);
        while outgoing.is_left() {
            self.arm(deadline)?;
            match outgoing.push(&self.tcp) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                pushed => pushed?,
            }
        }
        Ok(())
    }

    /// Sets the socket's timeouts to the time left.
    fn arm(&self, deadline: &Deadline) -> io::Result<()> {
        if deadline.is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = deadline.remaining();
        self.tcp.set_read_timeout(left)?;
        self.tcp.set_write_timeout(left)
    }

    /// The connection beneath.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// A second handle of this socket, so that one thread can write while another reads.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            tcp: self.tcp.try_clone()?,
            shared: Arc::clone(&self.shared),
            received: Vec::new(),
        })
    }

    /// True if encrypted bytes are not sent yet.
    pub(crate) fn holds_back(&self) -> bool {
        self.shared.outgoing.lock().is_left()
    }

    /// Reads once from the network and gives the bytes to the session.
    fn fill(&mut self) -> io::Result<()> {
        self.received.resize(RECEIVED_BYTES, 0);
        // Without a lock: this is where a reader spends its time.
        let count = (&self.tcp).read(&mut self.received)?;
        self.shared.session.lock().receive(&self.received[..count]);
        Ok(())
    }

    /// Looks for decrypted bytes or the end of the stream, without blocking. A byte found is consumed, as a
    /// connection with unasked data is given up anyway. Session tickets and key updates are processed and do
    /// not count as data.
    pub(crate) fn peek(&self) -> io::Result<usize> {
        let mut byte = [0];
        // Decrypted data that was not read would not show on the socket.
        match self.shared.session.lock().read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            found => return found,
        }
        self.tcp.set_nonblocking(true)?;
        let mut received = [0; 1024];
        let mut found = Ok(1);
        for _ in 0..PEEKED_BYTES_MAX / received.len() {
            let count = match (&self.tcp).read(&mut received) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    found = Err(error);
                    break;
                }
            };
            let mut session = self.shared.session.lock();
            session.receive(&received[..count]);
            match session.read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && count > 0 => {}
                // A byte, the end of the stream, or an error: not an idle connection in any case.
                _ => break,
            }
        }
        // Whatever was found: a socket left non-blocking would ignore every timeout.
        self.tcp.set_nonblocking(false)?;
        found
    }

    /// Sends what the session produces by itself, such as the reply to a key update.
    fn answer(&self) {
        // Only if nobody is writing: a reader must not block on a writer, which will send these bytes as
        // well.
        if let Some(mut outgoing) = self.shared.outgoing.try_lock() {
            let mut session = self.shared.session.lock();
            let taken = session.take_outgoing(&mut outgoing.bytes);
            drop(session);
            if taken.is_ok() && outgoing.is_left() {
                // An error is met again by the next read or write.
                let _ = outgoing.push(&self.tcp);
            }
        }
    }
}

impl Read for TlsSocket {
    /// Blocks at most once. `Interrupted` means that what arrived does not decrypt to anything yet.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let would_block = io::ErrorKind::WouldBlock;
        let is_empty =
            |read: &io::Result<usize>| matches!(read, Err(error) if error.kind() == would_block);
        let read = self.shared.session.lock().read(into);
        if !is_empty(&read) {
            return read;
        }
        // The session's lock is released here; no other thread reads, so nothing is taken from under us.
        self.fill()?;
        let read = self.shared.session.lock().read(into);
        self.answer();
        match is_empty(&read) {
            false => read,
            true => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

impl Write for TlsSocket {
    /// Blocks at most twice. Bytes counted as written may still be queued; [`flush`](Self::flush) sends them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut outgoing = self.shared.outgoing.lock();
        // The rest of the last record first. If the socket does not take it, nothing new is encrypted, so the
        // queue stays bounded.
        outgoing.push(&self.tcp)?;
        let mut session = self.shared.session.lock();
        let count = session.write(&bytes[..bytes.len().min(CHUNK_BYTES)])?;
        // Both locks: the records of two writers must be queued in the order in which they were encrypted.
        session.take_outgoing(&mut outgoing.bytes)?;
        drop(session);
        // The session has taken these bytes, so they count as written. An error is met again when the rest
        // is sent.
        let _ = outgoing.push(&self.tcp);
        Ok(count)
    }

    /// Blocks at most once. `Interrupted` means that something is still queued.
    fn flush(&mut self) -> io::Result<()> {
        self.shared.outgoing.lock().push(&self.tcp)
    }
}

impl Outgoing {
    /// True if something is still to be sent.
    fn is_left(&self) -> bool {
        self.sent < self.bytes.len()
    }

    /// Writes once. `Interrupted` means that something is left.
    fn push(&mut self, mut tcp: &TcpStream) -> io::Result<()> {
        if self.is_left() {
            match tcp.write(&self.bytes[self.sent..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.sent += count,
            }
        }
        if self.is_left() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}
