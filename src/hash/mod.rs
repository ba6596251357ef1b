//! Which bytes of a key count, and what number do they give?
//!
//! [`HashTag`] picks the bytes, [`KeyHash`] turns them into a number, [`slot`] is Redis Cluster's answer to both
//! questions at once. Every algorithm has a name and is frozen: another constant is another place for every key.
//!
//! Nothing here knows a node. Nothing here is `std::hash::Hash`, whose bytes differ between machines and releases.

mod crc16;
mod fnv;
mod key_hash;
mod md5;
mod memcached;
mod murmur;
mod named;
mod php;
mod swar;
mod tag;

pub(crate) use md5::words as md5_words;
pub(crate) use named::named;

pub use key_hash::{KeyHash, UnknownKeyHash};
pub use tag::HashTag;

/// How many slots Redis Cluster divides the keys into.
pub const SLOTS: u16 = 16_384;

/// The slot of these bytes: CRC16/XMODEM modulo [`SLOTS`], as in the [Redis Cluster specification].
///
/// The tag is not looked for: hand over what [`HashTag::of`] left of the key.
///
/// ```
/// use redis_sharding::hash::{slot, HashTag};
///
/// assert_eq!(slot(HashTag::Braces.of(b"{user:1}:cart")), slot(b"user:1"));
/// assert_eq!(slot(b"foo"), 12182); // CLUSTER KEYSLOT foo
/// ```
///
/// [Redis Cluster specification]: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
#[inline]
pub fn slot(bytes: &[u8]) -> u16 {
    crc16::crc16(bytes) % SLOTS
}
