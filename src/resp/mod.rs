//! The RESP wire format, without I/O: where does a frame end, and what does it say?
//!
//! * `packed`: requests as redis-rs packs them (strict, zero-copy): [`PackedCommands`], [`write_command`].
//! * `request`: requests as clients send them to a server (inline, split anywhere, malformed): [`RequestParser`].
//! * `decode`: replies read from an [`RequestBuffer`]. `buffer`: [`ReplyDecoder`], the same for bytes that arrive in pieces.
//! * `scan`: [`FrameScanner`], which finds the end of a reply without building it. `encode`: [`Protocol`], which writes replies.
//! * `handshake`: the commands of a new connection (HELLO, AUTH, SELECT, CLIENT SETNAME) and the check of their replies.
//! * `own_requests`: requests without arguments that the client writes itself (PING, MULTI, EXEC, UNWATCH).
//! * `integer`: the one reading of an integer in its canonical form.
//!
//! Nothing here knows a connection, a command's meaning or a clock.

mod buffer;
mod decode;
#[cfg(feature = "proxy")]
mod encode;
mod handshake;
mod integer;
mod own_requests;
mod packed;
#[cfg(feature = "proxy")]
mod request;
mod scan;

pub use packed::{Args, PackedCommands, PackedError, PackedProblem, write_command};

#[cfg(feature = "tokio-comp")]
pub(crate) use buffer::RawFrame;
pub(crate) use buffer::ReplyDecoder;
#[cfg(feature = "tokio-comp")]
pub(crate) use decode::simple_length;
pub(crate) use decode::{
    Input, Slice, length, line_end, read, read_all, read_message, read_next, some_length,
};
#[cfg(feature = "proxy")]
pub(crate) use encode::{Protocol, write_bulk, write_error, write_int, write_line, write_status};
pub(crate) use handshake::Handshake;
pub(crate) use integer::canonical_integer;
pub(crate) use own_requests::{DISCARD, EXEC, MULTI, PING, UNWATCH};
pub(crate) use packed::{write_arg, write_header};
#[cfg(feature = "proxy")]
pub(crate) use request::*;
pub(crate) use scan::FrameScanner;
