//! A [`Session`] of native-tls.
//!
//! The library works on a stream, so it is given one in memory.

use std::io::{self, Read, Write};

use native_tls::{HandshakeError, MidHandshakeTlsStream, TlsConnector, TlsStream};

use super::session::TlsSession;

/// An in-memory stream: `incoming` is read by the library, `outgoing` written by it.
#[derive(Debug, Default)]
struct Memory {
    /// Encrypted bytes received.
    incoming: Vec<u8>,
    /// Number of bytes of `incoming` that the library has read.
    read: usize,
    /// True once the network has ended.
    ended: bool,
    /// Encrypted bytes to be sent.
    outgoing: Vec<u8>,
}

/// State of the session; the library has one type for each.
enum NativeSession {
    /// The handshake waits for bytes.
    Handshake(MidHandshakeTlsStream<Memory>),
    /// The handshake is complete.
    Open(TlsStream<Memory>),
    /// The handshake has failed, or is being continued.
    Failed,
}

/// Starts a session, which has the client's first message ready to be sent.
pub(super) fn begin(
    connector: &TlsConnector,
    server_name: &str,
) -> io::Result<impl TlsSession + use<>> {
    NativeSession::of(connector.connect(server_name, Memory::default()))
}

impl NativeSession {
    /// The state after a step of the handshake.
    fn of(shaken: Result<TlsStream<Memory>, HandshakeError<Memory>>) -> io::Result<Self> {
        match shaken {
            Ok(stream) => Ok(Self::Open(stream)),
            Err(HandshakeError::WouldBlock(handshake)) => Ok(Self::Handshake(handshake)),
            Err(HandshakeError::Failure(error)) => Err(io::Error::other(error)),
        }
    }

    /// The stream in memory, if there is still one.
    fn memory(&mut self) -> Option<&mut Memory> {
        match self {
            Self::Handshake(handshake) => Some(handshake.get_mut()),
            Self::Open(stream) => Some(stream.get_mut()),
            Self::Failed => None,
        }
    }

    /// The stream of a completed handshake.
    fn open(&mut self) -> io::Result<&mut TlsStream<Memory>> {
        match self {
            Self::Open(stream) => Ok(stream),
            Self::Handshake(_) | Self::Failed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl TlsSession for NativeSession {
    fn handshake(&mut self) -> io::Result<bool> {
        *self = match std::mem::replace(self, Self::Failed) {
            Self::Handshake(handshake) => Self::of(handshake.handshake())?,
            other => other,
        };
        Ok(matches!(self, Self::Open(_)))
    }

    fn receive(&mut self, encrypted: &[u8]) {
        if let Some(memory) = self.memory() {
            memory.ended |= encrypted.is_empty();
            memory.incoming.extend_from_slice(encrypted);
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.open()?.read(into)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open()?.write(bytes)
    }

    fn take_outgoing(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(memory) = self.memory() {
            out.append(&mut memory.outgoing);
        }
        Ok(())
    }
}

impl Read for Memory {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.incoming[self.read..];
        if rest.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        if self.read == self.incoming.len() {
            self.incoming.clear();
            self.read = 0;
        }
        Ok(count)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
