//! The bytes in which servers write their data: RDB streams and files, and the payloads of `DUMP` and `RESTORE`.
//!
//! Nothing here knows a connection, a node or an archive.

pub(crate) mod bytes;
