//! Detects that the server has closed a connection, by peeking at the socket.
//!
//! The runtime's own knowledge may be old: between two `block_on` of a current-thread runtime no readiness is
//! collected. A write on a socket that the server has closed succeeds, and its outcome is then unknown; a
//! system call before it is cheap.

use std::io;
use std::mem::MaybeUninit;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A stream whose socket can be peeked at.
pub(crate) trait Peek {
    /// True if the server has closed it and nothing is left to read. Does not block.
    fn is_closed(&self) -> bool;
}

/// Any stream to a server: TCP, Unix or TLS.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Peek + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Peek + Send + Unpin> Duplex for S {}

impl Peek for TcpStream {
    fn is_closed(&self) -> bool {
        is_closed(&SockRef::from(self))
    }
}

impl<P: Peek + ?Sized> Peek for Box<P> {
    fn is_closed(&self) -> bool {
        (**self).is_closed()
    }
}

#[cfg(unix)]
impl Peek for UnixStream {
    fn is_closed(&self) -> bool {
        is_closed(&SockRef::from(self))
    }
}

/// Upper bound in bytes of a TLS close_notify alert, whichever the cipher. Everything else that a server
/// sends unasked, such as a session ticket, is longer.
#[cfg(any(feature = "tokio-native-tls-comp", feature = "tokio-rustls-comp"))]
const ALERT_BYTES_MAX: usize = 64;

/// True if the server has closed an encrypted connection on which no reply is due. A close_notify alert may
/// still be unread in front of the end of the stream, so a few bytes count as closed too.
#[cfg(any(feature = "tokio-native-tls-comp", feature = "tokio-rustls-comp"))]
pub(crate) fn is_encrypted_closed(stream: &TcpStream) -> bool {
    match SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); ALERT_BYTES_MAX]) {
        // More bytes than that are left to the driver: it will read a ticket, and then the end of the stream
        // if there is one.
        Ok(count) => count < ALERT_BYTES_MAX,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
impl Peek for tokio::io::DuplexStream {
    fn is_closed(&self) -> bool {
        false
    }
}

/// Peeks at a non-blocking socket, as all sockets of the runtime are.
fn is_closed(socket: &SockRef<'_>) -> bool {
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}
