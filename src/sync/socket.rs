//! A socket: TCP, by itself or encrypted, or unix.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::Duration;

use redis::ConnectionAddr;
use socket2::SockRef;

use crate::endpoint::Deadline;
use crate::endpoint::{Endpoint, SocketOptions};
use crate::sync::tls::TlsSocket;

/// A stream of bytes to a server.
pub(super) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Tls(Box<TlsSocket>),
}

impl Socket {
    pub(super) fn connect(endpoint: &Endpoint, deadline: &Deadline) -> io::Result<Self> {
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

    /// A second handle of this socket, for another thread.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tls(socket) => Ok(Self::Tls(Box::new(socket.try_clone()?))),
        }
    }

    /// Whether bytes that were taken have not gone out: an encrypted record goes out whole or not at all.
    #[inline]
    pub(super) fn holds_back(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            #[cfg(unix)]
            Self::Unix(_) => false,
            Self::Tls(socket) => socket.holds_back(),
        }
    }

    /// Ends the connection for all clones of the socket.
    pub(super) fn shutdown(&self) {
        // It may be over already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tls(socket) => socket.tcp().shutdown(Shutdown::Both),
        };
    }

    /// How long a read or a write may wait.
    pub(super) fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
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

    /// How long a write may wait.
    pub(super) fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(limit)),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_write_timeout(Some(limit)),
            Self::Tls(socket) => socket.tcp().set_write_timeout(Some(limit)),
        }
    }

    /// Reads what has arrived without waiting: how many bytes, none of them at the end; `None` when nothing has.
    pub(super) fn read_ready(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        self.set_nonblocking(true)?;
        let read = loop {
            match self.read(into) {
                // What came may decrypt to nothing yet.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.set_nonblocking(false)?;
        match read {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(nonblocking),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_nonblocking(nonblocking),
            Self::Tls(socket) => socket.tcp().set_nonblocking(nonblocking),
        }
    }

    /// Looks for a byte without waiting and without taking it.
    pub(super) fn peek(&self) -> io::Result<usize> {
        let mut byte = [0];
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let peeked = stream.peek(&mut byte);
                stream.set_nonblocking(false)?;
                peeked
            }
            // The standard library does not peek into unix sockets; reading takes a byte only if the link is given up.
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

fn connect_tcp(
    host: &str,
    port: u16,
    options: &SocketOptions,
    deadline: &Deadline,
) -> io::Result<TcpStream> {
    let mut last = None;
    for addr in (host, port).to_socket_addrs()? {
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
