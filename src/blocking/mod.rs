//! How does a thread that may block send and receive bytes?
//!
//! * `resp_stream`: [`RespStream`], the read buffer of a connection and its deadline; `handshake`: how one is opened.
//! * `socket`: [`Socket`], TCP, Unix or TLS; `tls`: the encryption.
//!
//! Used by the blocking client and by the threads that work in the background for all kinds of clients. Nothing here
//! knows a pool, a node's backoff or a command.

mod handshake;
mod resp_stream;
mod socket;
mod tls;

pub(crate) use self::resp_stream::{RespStream, WRITE_POLL_INTERVAL};
pub(crate) use self::socket::Socket;
