//! An encrypted socket.
//!
//! A [`TlsSession`] turns bytes into encrypted bytes and back, and knows no socket; [`TlsSocket`] moves the encrypted
//! ones. So a read or a write waits no longer than the socket's own limit, one thread can write while another reads,
//! and both libraries are used alike.

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

/// Encrypted at once at most, so that what waits to go out has a limit.
const CHUNK_BYTES: usize = 64 * 1024;

/// Read from the network at once at most.
const RECEIVED_BYTES: usize = 32 * 1024;

/// Looked through at most for a byte that nobody asked for. More than that is not what a healthy server sends by
/// itself.
const PEEKED_BYTES_MAX: usize = 64 * 1024;

/// A socket whose bytes are encrypted.
pub(super) struct TlsSocket {
    tcp: TcpStream,
    shared: Arc<Shared>,
    /// Room for what comes from the network.
    received: Vec<u8>,
}

/// What the clones of a socket share.
struct Shared {
    /// Locked before the session. A writer that waits for the network holds this one only, and does not keep a reader
    /// waiting.
    outgoing: Mutex<Outgoing>,
    session: Mutex<Box<dyn TlsSession>>,
}

/// Encrypted bytes that are to go out.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

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
    /// Shakes hands over a new connection.
    pub(super) fn connect(tcp: TcpStream, tls: &Tls, deadline: &Deadline) -> io::Result<Self> {
        Self::shake_hands(tcp, tls, deadline).map_err(|error| match error.kind() {
            // So says a socket whose time is over.
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }

    fn shake_hands(tcp: TcpStream, tls: &Tls, deadline: &Deadline) -> io::Result<Self> {
        let session = begin(tls).map_err(|error| tls.handshake_error(error))?;
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
                // What the server is told of it may have gone out or not.
                Err(error) => return Err(tls.handshake_error(error)),
                Ok(true) => {
                    sent?;
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

    /// Sends all that the session wants to send.
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

    fn arm(&self, deadline: &Deadline) -> io::Result<()> {
        if deadline.is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = deadline.remaining();
        self.tcp.set_read_timeout(left)?;
        self.tcp.set_write_timeout(left)
    }

    /// The connection beneath.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// A second handle of this socket, for another thread.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            tcp: self.tcp.try_clone()?,
            shared: Arc::clone(&self.shared),
            received: Vec::new(),
        })
    }

    /// Whether encrypted bytes have not gone out.
    pub(super) fn holds_back(&self) -> bool {
        self.shared.outgoing.lock().is_left()
    }

    /// Receives once, and decrypts it.
    fn fill(&mut self) -> io::Result<()> {
        self.received.resize(RECEIVED_BYTES, 0);
        let count = (&self.tcp).read(&mut self.received)?;
        self.shared.session.lock().receive(&self.received[..count]);
        Ok(())
    }

    /// Looks for a byte without waiting. It is taken: a connection on which something comes that nobody asked for is
    /// given up. What the encryption itself has to say, such as a ticket for a later connection, is no such byte; its
    /// end is one.
    pub(super) fn peek(&self) -> io::Result<usize> {
        let mut byte = [0];
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
                // The end, or an error other than `WouldBlock`.
                _ => break,
            }
        }
        self.tcp.set_nonblocking(false)?;
        found
    }

    /// Sends what the session has to say by itself, such as that it has new keys too. If somebody writes now, it goes
    /// out with that.
    fn answer(&self) {
        if let Some(mut outgoing) = self.shared.outgoing.try_lock() {
            let mut session = self.shared.session.lock();
            let taken = session.take_outgoing(&mut outgoing.bytes);
            drop(session);
            if taken.is_ok() && outgoing.is_left() {
                // A failure shows with the next read or write.
                let _ = outgoing.push(&self.tcp);
            }
        }
    }
}

impl Read for TlsSocket {
    /// Waits for the network once: `Interrupted` when what came decrypts to nothing yet.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let would_block = io::ErrorKind::WouldBlock;
        let is_empty =
            |read: &io::Result<usize>| matches!(read, Err(error) if error.kind() == would_block);
        let read = self.shared.session.lock().read(into);
        if !is_empty(&read) {
            return read;
        }
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
    /// Waits for the network once, and no more than twice. What it took may be held back: [`flush`](Self::flush) sends
    /// it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut outgoing = self.shared.outgoing.lock();
        outgoing.push(&self.tcp)?;
        let mut session = self.shared.session.lock();
        let count = session.write(&bytes[..bytes.len().min(CHUNK_BYTES)])?;
        session.take_outgoing(&mut outgoing.bytes)?;
        drop(session);
        // These bytes are taken. An error comes again when the rest of them is sent.
        let _ = outgoing.push(&self.tcp);
        Ok(count)
    }

    /// Waits for the network once: `Interrupted` when something is still held back.
    fn flush(&mut self) -> io::Result<()> {
        self.shared.outgoing.lock().push(&self.tcp)
    }
}

impl Outgoing {
    fn is_left(&self) -> bool {
        self.sent < self.bytes.len()
    }

    /// Writes once; `Interrupted` when something is left.
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
