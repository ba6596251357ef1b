//! A number for what a key holds, by which values are compared that servers have encoded in different ways.
//!
//! It depends on the database, the key, the data type, the elements and the expiry of the key and of its fields; not on
//! encodings, on the version of a server, or on how the key was used. It is XXH3 with 128 bits of these bytes:
//!
//! ```text
//! 4 bytes database | L and key | 1 byte data type | 1 byte 1 and 8 bytes expiry, or 1 byte 0 | content
//!
//! string       L and bytes
//! list         for each item: L and bytes
//! set          16 bytes sum of the XXH3 of each member's L and bytes | 8 bytes count
//! sorted set   the same, of: L and member | 8 bytes score, -0 as 0
//! hash         the same, of: L and field | L and value | 1 byte 1 and 8 bytes expiry, or 1 byte 0
//! stream       for each entry: 16 bytes ID | L fields | for each: L and field | L and value
//!              16 bytes last ID
//!              16 bytes sum of the XXH3 of each group | 8 bytes count
//! group        L and name | 16 bytes last ID |
//!              16 bytes sum of the XXH3 of each consumer's: L and name | L pending | for each: 16 bytes ID, 8 bytes deliveries
//! opaque       1 byte type | L and bytes as they stand in the RDB
//! ```
//!
//! All numbers are little-endian, L is a length of 8 bytes, sums wrap. An ID is its time and its sequence.
//!
//! Of a stream, what Redis 6.2 does not keep has no part in it: the first and the largest deleted ID, the numbers of
//! entries added and read. A server that is given a stream without them makes them up, so that they would differ
//! between two that hold the same. Nor have the times at which consumers were seen or entries were handed out.
//!
//! The numbers are kept in files and compared between releases: every byte above is frozen.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::bytes::Malformed;
use super::value::{Element, Group, Kind, StreamId, visit};
use super::{KeyInfo, RdbError, RdbVersion};

/// The digest of one key, or the wrapping sum of those of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyDigest(pub(crate) u128);

/// What is hashed of a value.
struct Content {
    /// Of what has an order.
    ordered: Xxh3,
    /// Of what has none: the sum, and how many there were.
    sum: u128,
    count: u64,
    /// The bytes of one element.
    record: Vec<u8>,
}

impl KeyDigest {
    /// Adds the digest of another key. The order does not count.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Returns the digest of a key.
///
/// # Errors
///
/// If the bytes of the value do not fit its type.
pub(crate) fn digest(
    info: &KeyInfo,
    value: &[u8],
    version: RdbVersion,
) -> Result<KeyDigest, RdbError> {
    let kind = Kind::of(info.value_type, version);
    let mut record = Vec::new();
    record.extend_from_slice(&info.db.to_le_bytes());
    put_text(&mut record, &info.key);
    record.push(kind_number(kind));
    put_expiry(&mut record, info.expires_at);
    let mut content = Content {
        ordered: Xxh3::new(),
        sum: 0,
        count: 0,
        record,
    };
    content.hash_in_order();
    if kind == Kind::Opaque {
        content.ordered.update(&[info.value_type]);
    }
    visit::<Malformed>(info.value_type, value, version, &mut |element| {
        content.add(kind, element);
        Ok(())
    })?;
    Ok(KeyDigest(content.finish(kind)))
}

impl Content {
    fn add(&mut self, kind: Kind, element: Element<'_>) {
        self.record.clear();
        match element {
            Element::Text(text) | Element::Opaque(text) => self.hash_text(text),
            Element::Item(item) if kind == Kind::List => self.hash_text(item),
            Element::Item(member) => {
                put_text(&mut self.record, member);
                self.hash_in_any_order();
            }
            Element::Member(member, score) => {
                put_text(&mut self.record, member);
                // -0 + 0 is 0.
                self.record
                    .extend_from_slice(&(score + 0.0).to_bits().to_le_bytes());
                self.hash_in_any_order();
            }
            Element::Field {
                field,
                value,
                expires_at,
            } => {
                put_text(&mut self.record, field);
                put_text(&mut self.record, value);
                put_expiry(&mut self.record, expires_at);
                self.hash_in_any_order();
            }
            Element::Entry { id, fields } => {
                put_id(&mut self.record, id);
                put_number(&mut self.record, fields.len() as u64);
                for (field, value) in fields {
                    put_text(&mut self.record, field);
                    put_text(&mut self.record, value);
                }
                self.hash_in_order();
            }
            Element::State(state) => {
                put_id(&mut self.record, state.last_id);
                self.hash_in_order();
            }
            Element::Group(group) => {
                put_group(&mut self.record, group);
                self.hash_in_any_order();
            }
        }
    }

    /// Adds a string that may be large, without a copy.
    fn hash_text(&mut self, text: &[u8]) {
        self.ordered.update(&(text.len() as u64).to_le_bytes());
        self.ordered.update(text);
    }

    fn hash_in_order(&mut self) {
        self.ordered.update(&self.record);
    }

    fn hash_in_any_order(&mut self) {
        self.sum = self.sum.wrapping_add(xxh3_128(&self.record));
        self.count += 1;
    }

    fn finish(mut self, kind: Kind) -> u128 {
        if matches!(
            kind,
            Kind::Set | Kind::SortedSet | Kind::Hash | Kind::Stream
        ) {
            self.ordered.update(&self.sum.to_le_bytes());
            self.ordered.update(&self.count.to_le_bytes());
        }
        self.ordered.digest128()
    }
}

/// The number of a data type in digests.
fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::String => 0,
        Kind::List => 1,
        Kind::Set => 2,
        Kind::SortedSet => 3,
        Kind::Hash => 4,
        Kind::Stream => 5,
        Kind::Opaque => 6,
    }
}

fn put_group(record: &mut Vec<u8>, group: &Group) {
    put_text(record, &group.name);
    put_id(record, group.last_id);
    let mut sum: u128 = 0;
    let mut own = Vec::new();
    for consumer in &group.consumers {
        own.clear();
        put_text(&mut own, &consumer.name);
        put_number(&mut own, consumer.pending.len() as u64);
        for entry in &consumer.pending {
            put_id(&mut own, entry.id);
            put_number(&mut own, entry.deliveries);
        }
        sum = sum.wrapping_add(xxh3_128(&own));
    }
    record.extend_from_slice(&sum.to_le_bytes());
}

fn put_text(record: &mut Vec<u8>, text: &[u8]) {
    put_number(record, text.len() as u64);
    record.extend_from_slice(text);
}

fn put_id(record: &mut Vec<u8>, id: StreamId) {
    put_number(record, id.ms);
    put_number(record, id.sequence);
}

fn put_expiry(record: &mut Vec<u8>, expires_at: Option<i64>) {
    match expires_at {
        Some(at) => {
            record.push(1);
            record.extend_from_slice(&at.to_le_bytes());
        }
        None => record.push(0),
    }
}

fn put_number(record: &mut Vec<u8>, number: u64) {
    record.extend_from_slice(&number.to_le_bytes());
}
