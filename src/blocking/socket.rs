//! The stream of bytes to a server: TCP, TLS over TCP, or a Unix socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use redis::ConnectionAddr;
use socket2::SockRef;

use crate::blocking::tls::TlsSocket;
use crate::endpoint::Deadline;
use crate::endpoint::{Endpoint, SocketOptions};

/// A connected socket.
pub(crate) enum Socket {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    #[cfg(unix)]
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsSocket>),
}

impl Socket {
    /// Connects, and performs the TLS handshake if the address asks for TLS.
    ///
    /// A Unix socket is connected without a time limit; connecting only blocks while the server's backlog is
    /// full.
    pub(crate) fn connect(endpoint: &Endpoint, deadline: &Deadline) -> io::Result<Self> {
        let options = &endpoint.options;
        match (endpoint.info.addr(), &endpoint.tls) {
            (ConnectionAddr::Tcp(host, port), _) => {
                connect_tcp(host, *port, options, deadline).map(Self::Tcp)
            }
            (ConnectionAddr::TcpTls { host, port, .. }, Some(tls)) => {
                let stream = connect_tcp(host, *port, options, deadline)?;
                let socket = TlsSocket::connect(stream, tls, deadline)?;
                Ok(Self::Tls(Box::new(socket)))
            }
            #[cfg(unix)]
            (ConnectionAddr::Unix(path), _) => UnixStream::connect(path).map(Self::Unix),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A second handle of this socket, so that one thread can write while another reads.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tls(socket) => Ok(Self::Tls(Box::new(socket.try_clone()?))),
        }
    }

    /// True if bytes that the socket took are not sent yet. Only TLS: an encrypted record must be sent to its
    /// end, so the next write or flush has to continue it.
    #[inline]
    pub(crate) fn holds_back(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            #[cfg(unix)]
            Self::Unix(_) => false,
            Self::Tls(socket) => socket.holds_back(),
        }
    }

    /// Ends the connection for all clones of the socket; a read that blocks in another thread returns.
    pub(crate) fn shutdown(&self) {
        // Fails if the connection has ended already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tls(socket) => socket.tcp().shutdown(Shutdown::Both),
        };
    }

    /// Sets the maximum time that one read or one write blocks.
    pub(crate) fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
            #[cfg(unix)]
            Self::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
            Self::Tls(socket) => {
                socket.tcp().set_read_timeout(limit)?;
                socket.tcp().set_write_timeout(limit)
            }
        }
    }

    /// Sets the limit of each read.
    pub(crate) fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(limit)),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Self::Tls(socket) => socket.tcp().set_read_timeout(Some(limit)),
        }
    }

    /// Sets the maximum time that one write blocks.
    pub(crate) fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(limit)),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_write_timeout(Some(limit)),
            Self::Tls(socket) => socket.tcp().set_write_timeout(Some(limit)),
        }
    }

    /// Reads what has arrived, without blocking. Returns the number of bytes, zero at the end of the stream,
    /// or `None` if nothing has arrived.
    pub(crate) fn read_ready(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        self.set_nonblocking(true)?;
        let read = loop {
            match self.read(into) {
                // A part of a TLS record has arrived, which decrypts to nothing yet.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        // Before the result is looked at: a socket left non-blocking would ignore every timeout.
        self.set_nonblocking(false)?;
        match read {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Switches between blocking and non-blocking, for all clones: the caller must be the only user.
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(nonblocking),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_nonblocking(nonblocking),
            Self::Tls(socket) => socket.tcp().set_nonblocking(nonblocking),
        }
    }

    /// Looks for a byte, without blocking. `WouldBlock` means that the connection is open and idle.
    pub(crate) fn peek(&self) -> io::Result<usize> {
        let mut byte = [0];
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let peeked = stream.peek(&mut byte);
                stream.set_nonblocking(false)?;
                peeked
            }
            // The standard library cannot peek at Unix sockets. Reading a byte instead does no harm: one that
            // is there was not asked for, and the connection is given up.
            #[cfg(unix)]
            Self::Unix(stream) => {
                stream.set_nonblocking(true)?;
                let read = { stream }.read(&mut byte);
                stream.set_nonblocking(false)?;
                read
            }
            Self::Tls(socket) => socket.peek(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            #[cfg(unix)]
            Self::Unix(stream) => stream.read(into),
            Self::Tls(socket) => socket.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            #[cfg(unix)]
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(socket) => socket.flush(),
            _ => Ok(()),
        }
    }
}

/// Connects to the first address of the host that accepts, within the deadline. The deadline does not cover
/// name resolution, which the system's resolver limits by itself.
fn connect_tcp(
    host: &str,
    port: u16,
    options: &SocketOptions,
    deadline: &Deadline,
) -> io::Result<TcpStream> {
    let mut last = None;
    for addr in (host, port).to_socket_addrs()? {
        // A zero timeout is an error; with a millisecond the error is a timeout, which it should be.
        let connected = match deadline.remaining() {
            Some(left) => TcpStream::connect_timeout(&addr, left.max(Duration::from_millis(1))),
            None => TcpStream::connect(addr),
        };
        match connected {
            Ok(stream) => {
                options.apply(SockRef::from(&stream))?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host name has no address")))
}
