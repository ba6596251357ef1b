//! What a TLS library does, without a socket.

use std::io;

/// The encryption of one connection, without its network.
pub(super) trait TlsSession: Send {
    /// Goes on with the handshake, as far as what was received allows. Whether it is over.
    fn handshake(&mut self) -> io::Result<bool>;

    /// Takes what came from the network; no byte is the end of it.
    fn receive(&mut self, encrypted: &[u8]);

    /// Reads what was received, decrypted. `WouldBlock` when more must be received first.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Encrypts bytes; how many it took.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Moves what is to be sent to the end of `out`.
    fn take_outgoing(&mut self, out: &mut Vec<u8>) -> io::Result<()>;
}
