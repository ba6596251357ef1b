//! Has the other side closed a connection? Asked of the socket itself: what the runtime knows of it may be old.

use std::io;
use std::mem::MaybeUninit;

use socket2::SockRef;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A stream whose socket can be looked at.
pub(super) trait Peek {
    /// Whether the other side has closed it and nothing is left to be read. Does not wait.
    fn is_closed(&self) -> bool;
}

impl Peek for TcpStream {
    fn is_closed(&self) -> bool {
        is_closed(&SockRef::from(self))
    }
}

#[cfg(unix)]
impl Peek for UnixStream {
    fn is_closed(&self) -> bool {
        is_closed(&SockRef::from(self))
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
