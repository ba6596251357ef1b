//! The RESP wire format, without I/O: where does a frame end, and what is in it?
//!
//! * `packed`: requests in the usual form (an array of bulk strings), read without a copy:
//!   [`PackedCommands`], [`write_command`].
//! * `request`: requests in every form that a server accepts: `RequestParser`.
//! * `decode`: replies, decoded from an `Input`: bytes that are there, or a socket that is waited for.
//! * `buffer`: `ReplyDecoder`, a buffer of received bytes and the replies in it. For callers that must not
//!   wait.
//! * `scan`: `FrameScanner`, which finds the end of a frame without keeping or decoding it.
//! * `encode`: `Protocol`, which writes replies in RESP2 or RESP3.
//! * `handshake`: the first commands of a new connection (HELLO, AUTH, SELECT, CLIENT SETNAME, CLIENT SETINFO)
//!   and the check of their replies.
//! * `own_requests`: requests without arguments that the client sends itself (PING, MULTI, EXEC, ...).
//! * `info`: fields of the text that INFO returns.
//! * `integer`: integers in their canonical form, the only one that a server accepts.
//!
//! # Strict and tolerant requests
//!
//! redis-rs packs a request in exactly one way, so `PackedCommands` accepts only that, and whatever else it
//! is given is an error. It never copies and has no state. Clients of the proxy send what a server accepts;
//! `RequestParser` reads that and rewrites it to the usual form, in which all other code sees it.
//!
//! | bytes | `PackedCommands` | `RequestParser` |
//! |---|---|---|
//! | `*1\r\n$4\r\nPING\r\n` | PING | PING |
//! | `PING\r\n` (inline) | error: no array | PING |
//! | `*1\r\n$4\r\nPI` (split) | error: truncated | incomplete: 14 bytes in all |
//! | `*0\r\n`, or an empty line | error | nothing to do |
//! | `*01\r\n` | error | protocol error, as on a server |
//! | `*1\rx$4\ryPINGzz` (no LF) | error | PING, as on a server |
//!
//! # A frame split over reads
//!
//! The reply `*2\r\n$1\r\na\r\n:1\r\n` arrives in three reads, at a `ReplyDecoder`:
//!
//! ```text
//! read        ReplyDecoder::next_reply
//! *2\r\n$1    decoding fails for want of bytes; a FrameScanner scans them from the start of the reply
//! \r\na\r     the scanner goes on behind the first read: not complete, nothing is decoded
//! \n:1\r\n    the scanner reaches the end: decoded once, Array([BulkString("a"), Int(1)])
//! ```
//!
//! So each byte is scanned once and decoded at most twice, however small the reads are. To try again from the
//! start after each read would take quadratic time for a large array.
//!
//! Nothing here knows a connection, the meaning of a command, or a clock. A length that a peer announces is
//! never a reason to reserve that much memory.

mod buffer;
mod decode;
mod encode;
mod handshake;
mod info;
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
pub(crate) use encode::write_error;
pub(crate) use encode::{Protocol, write_bulk, write_int, write_line, write_status};
pub use handshake::CLIENT_NAME_BYTES_MAX;
#[cfg(feature = "tokio-comp")]
pub(crate) use handshake::write_set_name;
pub(crate) use handshake::{CLIENT_NAME_RULE, Handshake, is_client_name};
pub(crate) use info::info_field;
pub(crate) use integer::canonical_integer;
pub(crate) use own_requests::{DISCARD, EXEC, INFO_REPLICATION, MULTI, PING, ROLE, UNWATCH};
pub(crate) use packed::{write_arg, write_header};
#[cfg(feature = "proxy")]
pub(crate) use request::*;
pub(crate) use scan::FrameScanner;
