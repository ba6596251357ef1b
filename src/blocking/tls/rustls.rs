//! A [`Session`] of rustls.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::session::TlsSession;

/// A connection of rustls, with the bytes that it has not taken yet: it takes no more than it has room for.
struct RustlsSession {
    connection: ClientConnection,
    /// Encrypted bytes received.
    incoming: Vec<u8>,
    /// Number of bytes of `incoming` that the connection has taken.
    taken: usize,
    /// True once the network has ended.
    ended: bool,
}

/// Starts a session, which has the client's first message ready to be sent.
pub(super) fn begin(
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
) -> io::Result<impl TlsSession + use<>> {
    let connection = ClientConnection::new(Arc::clone(config), name.clone());
    Ok(RustlsSession {
        connection: connection.map_err(io::Error::other)?,
        incoming: Vec::new(),
        taken: 0,
        ended: false,
    })
}

impl RustlsSession {
    /// Gives the connection one piece of what was received. Returns false if there is none.
    fn process(&mut self) -> io::Result<bool> {
        let mut rest = &self.incoming[self.taken..];
        if rest.is_empty() {
            return match self.ended {
                // An end without close_notify, which an attacker can forge; but a reply that was cut is seen
                // by its length anyway.
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(false),
            };
        }
        self.taken += self.connection.read_tls(&mut rest)?;
        if self.taken == self.incoming.len() {
            self.incoming.clear();
            self.taken = 0;
        }
        let processed = self.connection.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(true)
    }
}

impl TlsSession for RustlsSession {
    fn handshake(&mut self) -> io::Result<bool> {
        while self.connection.is_handshaking() {
            if !self.process()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn receive(&mut self, encrypted: &[u8]) {
        self.ended |= encrypted.is_empty();
        self.incoming.extend_from_slice(encrypted);
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.process()? {
                        return Err(error);
                    }
                }
                read => return read,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.connection.writer().write(bytes)
    }

    fn take_outgoing(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(out)?;
        }
        Ok(())
    }
}
