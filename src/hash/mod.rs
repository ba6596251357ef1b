//! Which bytes of a key count, and what number do they give?
//!
//! * [`HashTag`]: picks the bytes.
//! * [`KeyHash`]: turns them into a number.
//! * [`slot`]: Redis Cluster's slot of these bytes. `slot_tag`: the other way round, bytes for a slot.
//! * `crc16`, `fnv`, `md5`, `murmur`, `sha`: the functions. `memcached`, `php`: functions with the deviations of
//!   libmemcached and of phpredis. `swar`: loads and searches eight bytes at a time. `named`: enumerations
//!   with frozen names.
//!
//! ```text
//!  {user:1}:cart ──HashTag::Braces──▶ user:1 ──KeyHash::Crc16──▶ 16 bits ──placement──▶ node
//! ```
//!
//! Every algorithm has a name and is frozen: another constant is another place for every key. Nothing here
//! knows a node, and nothing uses `std::hash::Hash`, whose bytes differ between machines and releases.

mod crc16;
mod fnv;
mod key_hash;
mod md5;
mod memcached;
mod murmur;
mod named;
mod php;
mod sha;
mod slot_tag;
mod swar;
mod tag;

pub(crate) use md5::words as md5_words;
pub(crate) use named::named;
pub(crate) use sha::{sha1_words, sha256_words};
pub(crate) use slot_tag::slot_tag;

pub use key_hash::{KeyHash, UnknownKeyHash};
pub use tag::HashTag;

/// Number of slots into which Redis Cluster divides the keys.
pub const SLOTS: u16 = 16_384;

/// Returns the slot of these bytes: CRC16/XMODEM modulo [`SLOTS`], as in the [Redis Cluster specification].
///
/// No hash tag is looked for: pass the bytes that [`HashTag::of`] returns.
///
/// ```
/// use redis_sharding::hash::{slot, HashTag};
///
/// assert_eq!(slot(HashTag::Braces.of(b"{user:1}:cart")), slot(b"user:1"));
/// assert_eq!(slot(b"foo"), 12182); // CLUSTER KEYSLOT foo
/// ```
///
/// [Redis Cluster specification]:
/// https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
#[inline]
pub fn slot(bytes: &[u8]) -> u16 {
    crc16::crc16(bytes) % SLOTS
}
