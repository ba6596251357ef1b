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
//! vector set   1 byte 7 | 8 bytes each: dimensions, configuration, flags, dimensions before a projection | L and matrix
//!              16 bytes sum of the XXH3 of each vector's: L and name | L and attributes | L and vector | 8 bytes scale
//!              8 bytes count
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
    /// True if it is a vector set.
    has_vectors: bool,
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
    let content = content(info, value, version, i64::MIN)?;
    Ok(content.finish(Kind::of(info.value_type, version)))
}

/// Returns the digest of a key without the fields of a hash that expire before a time, in milliseconds since 1970; or
/// nothing if no field is left, since the server deletes such a key.
///
/// To compare two servers, or a server with what was kept of it: each deletes fields that have expired when it likes, and
/// does not say that they are gone. With a time shortly after the last value was read, both sides leave out the same.
///
/// # Errors
///
/// If the bytes of the value do not fit its type.
pub(crate) fn digest_of_lasting(
    info: &KeyInfo,
    value: &[u8],
    version: RdbVersion,
    expire_from: i64,
) -> Result<Option<KeyDigest>, RdbError> {
    let content = content(info, value, version, expire_from)?;
    let kind = Kind::of(info.value_type, version);
    let is_gone = kind == Kind::Hash && content.count == 0;
    Ok((!is_gone).then(|| content.finish(kind)))
}

/// Hashes what a key holds, but for the fields that expire before a time.
fn content(
    info: &KeyInfo,
    value: &[u8],
    version: RdbVersion,
    expire_from: i64,
) -> Result<Content, RdbError> {
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
        has_vectors: false,
        record,
    };
    content.hash_in_order();
    if kind == Kind::Opaque {
        content.ordered.update(&[info.value_type]);
    }
    visit::<Malformed>(info.value_type, value, version, &mut |element| {
        match element {
            Element::Field {
                expires_at: Some(at),
                ..
            } if at < expire_from => {}
            element => content.add(kind, element),
        }
        Ok(())
    })?;
    Ok(content)
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
            Element::VectorSet(numbers, matrix) => {
                self.has_vectors = true;
                for number in numbers {
                    put_number(&mut self.record, number);
                }
                put_text(&mut self.record, matrix);
                self.hash_in_order();
            }
            Element::Vector {
                name,
                attributes,
                vector,
                scale,
            } => {
                put_text(&mut self.record, name);
                put_text(&mut self.record, attributes);
                put_text(&mut self.record, vector);
                put_number(&mut self.record, scale);
                self.hash_in_any_order();
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

    fn finish(mut self, kind: Kind) -> KeyDigest {
        let has_sum = matches!(
            kind,
            Kind::Set | Kind::SortedSet | Kind::Hash | Kind::Stream
        );
        if has_sum || self.has_vectors {
            self.ordered.update(&self.sum.to_le_bytes());
            self.ordered.update(&self.count.to_le_bytes());
        }
        KeyDigest(self.ordered.digest128())
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::super::bytes::write_string;
    use super::super::golden::{listpack, unhex, vectors};
    use super::super::{Access, Family, of_dump};
    use super::*;

    const REDIS: RdbVersion = RdbVersion(12);

    fn info(value_type: u8) -> KeyInfo {
        KeyInfo {
            db: 0,
            key: b"k".to_vec(),
            expires_at: None,
            access: Access::Unknown,
            value_type,
        }
    }

    fn of(value_type: u8, value: &[u8]) -> String {
        let digest = digest(&info(value_type), value, REDIS).unwrap();
        digest.to_string()
    }

    /// Archives hold these numbers: none of them may ever change.
    #[test]
    fn digests_are_frozen() {
        assert_eq!(
            of(1, b"\x02\x01a\xc0\x05"),
            "7f889677c6e36f2aa11e0dc48ac8aab8"
        );
        assert_eq!(
            of(2, b"\x02\x01a\xc0\x05"),
            "d67c54e7db02a8d2e6f2e526407421d4"
        );
        let scores = b"\x02\x01a\x031.5\xc0\x05\xff";
        assert_eq!(of(3, scores), "4cb84a871dd852ea918a199e7484605a");
        let fields = b"\x02\x01f\x01v\x01g\x01w";
        assert_eq!(of(4, fields), "12893953a31a1528255965e727627e04");
        let expiring = unhex("00d8c32cbb0300000201016601760001670177");
        assert_eq!(of(24, &expiring), "9bf869c8ad1b7031307322989cd1dc0c");
        for vector in vectors() {
            let digest = digest(&vector.info, &vector.value, vector.version).unwrap();
            assert_eq!(digest.to_string(), vector.digest, "{}", vector.name());
        }
    }

    #[test]
    fn the_same_key_has_the_same_digest_on_every_server() {
        let mut keys: BTreeMap<Vec<u8>, HashSet<String>> = BTreeMap::new();
        let mut types = HashSet::new();
        for vector in vectors() {
            let is_valkey = vector.version.family() == Family::Valkey;
            types.insert((vector.info.value_type, is_valkey));
            keys.entry(vector.info.key)
                .or_default()
                .insert(vector.digest);
        }
        assert!(types.len() > 20, "{types:?}");
        for (key, digests) in &keys {
            assert_eq!(digests.len(), 1, "{}", key.escape_ascii());
        }
        let all: HashSet<_> = keys.values().flatten().collect();
        assert_eq!(all.len(), keys.len());
    }

    #[test]
    fn whatever_differs_between_keys_changes_the_digest() {
        let value = b"\x02\x01a\x01b";
        let base = info(1);
        let mut digests = HashSet::new();
        let mut add = |info: &KeyInfo, value: &[u8]| {
            let digest = digest(info, value, REDIS).unwrap();
            assert!(digests.insert(digest), "{info:?} {}", value.escape_ascii());
        };
        add(&base, value);
        add(
            &KeyInfo {
                db: 1,
                ..base.clone()
            },
            value,
        );
        add(
            &KeyInfo {
                key: b"l".to_vec(),
                ..base.clone()
            },
            value,
        );
        add(
            &KeyInfo {
                expires_at: Some(0),
                ..base.clone()
            },
            value,
        );
        add(
            &KeyInfo {
                expires_at: Some(1),
                ..base.clone()
            },
            value,
        );
        for other in [
            &b"\x02\x01b\x01a"[..],
            b"\x02\x02ab\x00",
            b"\x01\x02ab",
            b"\x03\x01a\x01b\x00",
            b"\x00",
        ] {
            add(&base, other);
        }
        // Sets and hashes.
        for value in [
            &b"\x02\x01a\x01b"[..],
            b"\x02\x02ab\x00",
            b"\x01\x01a",
            b"\x00",
        ] {
            add(&info(2), value);
            if value[0] != 1 {
                let mut doubled = value.to_vec();
                doubled[0] /= 2;
                add(&info(4), &doubled);
            }
        }
        // Opaque values of several types.
        add(&info(7), value);
        add(&info(6), value);
    }

    #[test]
    fn order_and_use_do_not_change_the_digest() {
        assert_eq!(of(2, b"\x02\x01b\x01a"), of(2, b"\x02\x01a\x01b"));
        assert_eq!(
            of(4, b"\x02\x01g\x01w\x01f\x01v"),
            of(4, b"\x02\x01f\x01v\x01g\x01w")
        );
        let zero = |text: &[u8]| of(3, &[b"\x01\x01a", text].concat());
        assert_eq!(zero(b"\x010"), zero(b"\x02-0"));
        assert_ne!(zero(b"\x010"), zero(b"\x011"));
        let used = KeyInfo {
            access: Access::Idle(7),
            ..info(1)
        };
        assert_eq!(
            digest(&used, b"\x01\x01a", REDIS).unwrap().to_string(),
            of(1, b"\x01\x01a")
        );
        let [one, two] = [KeyDigest(u128::MAX), KeyDigest(2)];
        assert_eq!(one.plus(two), KeyDigest(1));
        assert_eq!(one.plus(two), two.plus(one));
    }

    #[test]
    fn vector_sets_keep_their_digest_when_their_graph_is_made_anew() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/dump/vector-sets.txt"
        );
        let text = std::fs::read_to_string(path).unwrap();
        let mut sets: BTreeMap<&str, (HashSet<Vec<u8>>, HashSet<String>)> = BTreeMap::new();
        for line in text.lines() {
            let (name, payload) = line.split_once(' ').unwrap();
            let payload = unhex(payload);
            let (value_type, value, _) = of_dump(&payload).unwrap();
            let (payloads, digests) = sets.entry(name).or_default();
            payloads.insert(value.to_vec());
            digests.insert(of(value_type, value));
            assert!(digest(&info(7), &value[..value.len() - 1], REDIS).is_err());
        }
        assert_eq!(sets.len(), 6);
        for (name, (payloads, digests)) in &sets {
            assert!(
                payloads.len() > 1 && digests.len() == 1,
                "{name}: {digests:?}"
            );
        }
        let all: HashSet<_> = sets.values().flat_map(|(_, digests)| digests).collect();
        assert_eq!(all.len(), 6);
        assert_eq!(
            sets["q8"].1,
            HashSet::from(["7da8fb3621ff266348c2e912ed903c73".to_owned()])
        );
    }

    #[test]
    fn fields_that_expire_before_a_time_are_left_out() {
        let info = info(24);
        let both = unhex("0a000000000000000201016101310b01620132");
        let [first, second] = [
            "0a00000000000000010101610131",
            "1400000000000000010101620132",
        ]
        .map(unhex);
        let lasting = |value: &[u8], from| digest_of_lasting(&info, value, REDIS, from).unwrap();
        let whole = |value: &[u8]| Some(digest(&info, value, REDIS).unwrap());
        assert_eq!(lasting(&both, 10), whole(&both));
        assert_eq!(lasting(&both, 11), whole(&second));
        assert_eq!(lasting(&first, 10), whole(&first));
        assert_eq!(lasting(&both, 21), None);
        assert_eq!(lasting(&first, 11), None);
    }

    /// A stream of one entry with one group and one consumer, in the layout of Redis 6.2.
    fn stream(id: u8, last: u8, group: &[u8], consumer: &[u8], count: Option<u8>) -> Vec<u8> {
        let entry: [&[u8]; 11] = [
            b"1", b"0", b"1", b"f", b"0", b"2", b"0", b"0", b"v", b"4", b"0",
        ];
        let mut value = vec![1];
        let mut node = [0; 16];
        node[7] = id;
        write_string(&mut value, &node);
        let entry: Vec<Vec<u8>> = entry[..10].iter().map(|entry| entry.to_vec()).collect();
        write_string(&mut value, &listpack(&entry));
        value.extend([1, last, 0, 1]);
        write_string(&mut value, group);
        value.extend([id, 0]);
        let pending: Vec<u8> = count
            .iter()
            .flat_map(|&count| {
                let mut pending = node.to_vec();
                pending.extend([9; 8]);
                pending.push(count);
                pending
            })
            .collect();
        value.push(u8::from(count.is_some()));
        value.extend(&pending);
        value.push(1);
        write_string(&mut value, consumer);
        value.extend([8; 8]);
        value.push(u8::from(count.is_some()));
        value.extend(pending.iter().take(16));
        value
    }

    #[test]
    fn every_part_of_a_stream_changes_the_digest() {
        let streams = [
            stream(1, 1, b"g", b"c", Some(1)),
            stream(2, 2, b"g", b"c", Some(1)),
            stream(1, 2, b"g", b"c", Some(1)),
            stream(1, 1, b"h", b"c", Some(1)),
            stream(1, 1, b"g", b"d", Some(1)),
            stream(1, 1, b"g", b"c", Some(2)),
            stream(1, 1, b"g", b"c", None),
        ];
        let digests: HashSet<_> = streams.iter().map(|stream| of(15, stream)).collect();
        assert_eq!(digests.len(), streams.len());
        // Nothing but the time at which the consumer was seen.
        let mut seen = streams[0].clone();
        let place = seen.windows(8).position(|bytes| bytes == [8; 8]).unwrap();
        seen[place] = 7;
        assert_eq!(of(15, &seen), of(15, &streams[0]));
    }
}
