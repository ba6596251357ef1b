//! The bytes in which servers write their data: RDB streams and files, and the payloads of `DUMP` and `RESTORE`.
//!
//! Nothing here knows a connection, a node or an archive.
//!
//! An RDB is a head with a version, records, and a checksum. A record begins with one byte: an opcode (a database is
//! selected, the next key expires at a time, a library of functions follows) or the type of a value, behind which the
//! key and the value stand. The same bytes of a value, with the type before and a footer behind, are what `DUMP`
//! returns and `RESTORE` takes, so that keys are moved without decoding them.
//!
//! * `reader`: the records of a stream, one at a time, in bounded memory. `input` is its buffer, `walk` skips a value by
//!   its lengths, `kinds` has the numbers of types and opcodes.
//! * `writer`: an RDB file that servers load.
//! * `payload`: what `DUMP` returns and `RESTORE` takes.
//! * `bytes`: lengths, strings and numbers in a slice.
//! * `value`: the elements of a value, whatever its encoding. `digest`: a number for what a key holds. `convert`: which
//!   values a server takes, and how others are written for it. `elements`: the commands that make a value. `server`: the
//!   versions of servers.
//! * `version`: the versions of the format; `crc64`: the checksum.

pub(crate) mod bytes;
pub(crate) mod convert;
mod crc64;
pub(crate) mod digest;
pub(crate) mod elements;
#[cfg(test)]
mod golden;
mod input;
mod kinds;
#[cfg(test)]
mod live;
mod payload;
mod reader;
#[cfg(test)]
mod recorded;
pub(crate) mod server;
pub(crate) mod value;
mod version;
mod walk;
#[cfg(any(test, fuzzing))]
mod writer;

use std::io;

pub(crate) use self::digest::{KeyDigest, digest};
pub(crate) use self::payload::{FOOTER_LENGTH, of_dump, write_payload};
#[cfg(any(test, fuzzing))]
pub(crate) use self::payload::{functions_of_dump, functions_payload, payload};
pub(crate) use self::reader::{RdbItem, RdbReader};
#[cfg(test)]
pub(crate) use self::version::Family;
pub(crate) use self::version::RdbVersion;
#[cfg(any(test, fuzzing))]
pub(crate) use self::writer::RdbWriter;

/// What is known of a key beside its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyInfo {
    /// The number of its database.
    pub(crate) db: u32,
    /// The key, decoded.
    pub(crate) key: Vec<u8>,
    /// The time at which it expires, in milliseconds since 1970.
    pub(crate) expires_at: Option<i64>,
    /// How it was used, as far as the server keeps count.
    pub(crate) access: Access,
    /// The type of the value in RDB: its encoding too.
    pub(crate) value_type: u8,
}

/// How a key was used: which of both is known depends on the server's eviction policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// The server does not write it.
    #[default]
    Unknown,
    /// Under LRU policies: the seconds since the last use.
    Idle(u64),
    /// Under LFU policies: the logarithmic counter.
    Frequency(u8),
}

/// The reason why bytes are no RDB that can be read, or why they could not be written.
///
/// Offsets count from the first byte of the stream, or of the value or payload. No message holds bytes of a value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RdbError {
    /// The head is not one of an RDB.
    #[error("these bytes are no RDB: it begins with REDIS or VALKEY and the number of its version")]
    NotRdb,
    /// The version of the format is newer than those whose records are known.
    #[error(
        "RDB version {version} is newer than those that are known (up to 12 of Redis, 80 of Valkey); \
         use a later redis-sharding, or a server up to Redis 8.2 or Valkey 9.1"
    )]
    NewerVersion {
        /// The version.
        version: u16,
    },
    /// The bytes end before the record does.
    #[error(
        "the RDB ends at byte {offset}, inside of a record: the connection broke, or the file was cut off"
    )]
    Truncated {
        /// Where the bytes end.
        offset: u64,
    },
    /// The bytes of a record contradict each other.
    #[error("the RDB is damaged at byte {offset}: {what}")]
    Malformed {
        /// Where it stands.
        offset: u64,
        /// What is wrong, in a few words.
        what: &'static str,
    },
    /// The type of a value or an opcode is known by name only: its length is not.
    #[error(
        "the RDB has {name} at byte {offset} ({number} of {since}), which cannot be read yet, and nothing behind it; \
         use a later redis-sharding, or delete such keys"
    )]
    Unsupported {
        /// Where it stands.
        offset: u64,
        /// The byte.
        number: u8,
        /// What it stands for.
        name: &'static str,
        /// The server that writes it.
        since: &'static str,
    },
    /// The type of a value or an opcode is not known.
    #[error(
        "the RDB has {number} at byte {offset}, which is no known opcode and no known type of value: \
         it is damaged, or of a later server"
    )]
    Unknown {
        /// Where it stands.
        offset: u64,
        /// The byte.
        number: u8,
    },
    /// A string that must be held in memory, such as a key, is longer than any server takes.
    #[error("the RDB has {what} of {length} bytes at byte {offset}: more than 512 MiB")]
    TooLong {
        /// Where it stands.
        offset: u64,
        /// What it is.
        what: &'static str,
        /// Its length, as the stream has it.
        length: u64,
    },
    /// The checksum does not fit the bytes.
    #[error(
        "the RDB is damaged: its checksum is {found:016x}, and that of its bytes is {computed:016x}"
    )]
    Checksum {
        /// The checksum in the bytes.
        found: u64,
        /// The checksum of the bytes.
        computed: u64,
    },
    /// The reader failed.
    #[error("the RDB cannot be read at byte {offset}: {error}")]
    Read {
        /// Up to where it was read.
        offset: u64,
        /// What the reader returned.
        #[source]
        error: io::Error,
    },
    /// What takes the bytes of a value failed.
    #[error("the bytes of the RDB cannot be written: {0}")]
    Write(#[source] io::Error),
}

impl From<bytes::Malformed> for RdbError {
    fn from(malformed: bytes::Malformed) -> Self {
        Self::Malformed {
            offset: malformed.at,
            what: malformed.what,
        }
    }
}
