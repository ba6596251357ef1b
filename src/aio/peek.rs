//! Has the other side closed a connection? Asked of the socket itself: what the runtime knows of it may be old.

use std::io;
use std::mem::MaybeUninit;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A stream whose socket can be looked at.
pub(crate) trait Peek {
    /// Whether the other side has closed it and nothing is left to be read. Does not wait.
    fn is_closed(&self) -> bool;
}

/// A stream to a server, of whichever kind.
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

/// The alert that ends an encrypted connection has fewer bytes with every cipher, and whatever else a server sends by
/// itself, such as a ticket for a later connection, has more.
#[cfg(any(feature = "tokio-native-tls-comp", feature = "tokio-rustls-comp"))]
const ALERT_BYTES_MAX: usize = 64;

/// Whether the other side has closed an encrypted connection on which no reply is due: its last words may still lie there.
#[cfg(any(feature = "tokio-native-tls-comp", feature = "tokio-rustls-comp"))]
pub(crate) fn is_encrypted_closed(stream: &TcpStream) -> bool {
    match SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); ALERT_BYTES_MAX]) {
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

/// Of a socket that does not block, as all of the runtime's.
fn is_closed(socket: &SockRef<'_>) -> bool {
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}
