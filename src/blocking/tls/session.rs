//! The interface to a TLS library, without a socket.

use std::io;

/// The TLS state of one connection. Pure computation: bytes come in with `receive` and go out with
/// `take_outgoing`.
pub(super) trait TlsSession: Send {
    /// Continues the handshake with what was received. Returns true once it is complete.
    fn handshake(&mut self) -> io::Result<bool>;

    /// Adds bytes from the network; an empty slice is the end of the stream.
    fn receive(&mut self, encrypted: &[u8]);

    /// Reads decrypted bytes. `WouldBlock` means that more must be received first; zero is the end of the
    /// stream.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Encrypts bytes and returns how many it has taken.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Moves the encrypted bytes to the end of `out`.
    fn take_outgoing(&mut self, out: &mut Vec<u8>) -> io::Result<()>;
}
