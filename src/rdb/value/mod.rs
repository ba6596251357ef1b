//! The elements of a value, from the bytes that stand in an RDB or in the payload of `DUMP` behind the type.
//!
//! * [`visit`]: hands out the elements, one at a time. Nothing of a value is held but the string in which an element
//!   stands, decompressed, and of streams one group.
//! * [`Kind`]: which data type the number of a type stands for.
//! * `packed`: listpacks, ziplists, zipmaps, intsets. `stream`: streams. `vector_set`: vector sets.
//!
//! ```text
//!  type  data type    value (L length, S string)                            since
//!  0     string       S
//!  1     list         L, S each
//!  10    list         S ziplist
//!  14    list         L, S ziplist each
//!  18    list         L, L container and S each: 1 one item, 2 a listpack    Redis 7.0
//!  2     set          L, S each
//!  11    set          S intset
//!  20    set          S listpack                                            Redis 7.2, Valkey 7.2
//!  3     sorted set   L, S and score as text each
//!  5     sorted set   L, S and 8 bytes each
//!  12    sorted set   S ziplist
//!  17    sorted set   S listpack                                            Redis 7.0
//!  4     hash         L, S and S each
//!  9     hash         S zipmap
//!  13    hash         S ziplist
//!  16    hash         S listpack                                            Redis 7.0
//!  22    hash         L, S, S and 8 bytes expiry each (-1: none)            Valkey 9.0
//!  22    hash         L, L expiry (0: none), S and S each                   release candidates of Redis 7.4
//!  23    hash         S listpack of field, value, expiry (0: none)          release candidates of Redis 7.4
//!  24    hash         8 bytes smallest expiry, L,                           Redis 7.4
//!                     L (0: none, else what it is later, plus 1), S and S each
//!  25    hash         8 bytes smallest expiry, S as of 23                   Redis 7.4
//!  15    stream       see `stream`                                          Redis 5.0
//!  19    stream       with first and largest deleted ID, entries added      Redis 7.0
//!                     and read
//!  21    stream       with the times at which consumers were active         Redis 7.2, Valkey 7.2
//! ```
//!
//! All other types are opaque, among them 7, of modules. Of vector sets, which are one of these, the vectors are read.

mod packed;
mod stream;
mod vector_set;

pub(super) use self::stream::rewrite as rewrite_stream;
pub(crate) use self::stream::{Consumer, Group, Pending, StreamId, StreamState};

use self::packed::{Entries, Form};
use super::bytes::{Cursor, Malformed};
use super::version::{Family, RdbVersion};

/// The numbers of types.
pub(crate) mod value_type {
    /// A string.
    pub(crate) const STRING: u8 = 0;
    /// A list, item by item.
    pub(crate) const LIST: u8 = 1;
    /// A set, member by member.
    pub(crate) const SET: u8 = 2;
    /// A sorted set with scores as text.
    pub(crate) const SORTED_SET_TEXT: u8 = 3;
    /// A hash, field by field.
    pub(crate) const HASH: u8 = 4;
    /// A sorted set with scores in eight bytes.
    pub(crate) const SORTED_SET: u8 = 5;
    /// A module's value.
    pub(crate) const MODULE: u8 = 7;
    /// A hash in a zipmap.
    pub(crate) const HASH_ZIPMAP: u8 = 9;
    /// A list in a ziplist.
    pub(crate) const LIST_ZIPLIST: u8 = 10;
    /// A set in an intset.
    pub(crate) const SET_INTSET: u8 = 11;
    /// A sorted set in a ziplist.
    pub(crate) const SORTED_SET_ZIPLIST: u8 = 12;
    /// A hash in a ziplist.
    pub(crate) const HASH_ZIPLIST: u8 = 13;
    /// A list in several ziplists.
    pub(crate) const LIST_QUICKLIST: u8 = 14;
    /// A stream.
    pub(crate) const STREAM: u8 = 15;
    /// A hash in a listpack.
    pub(crate) const HASH_LISTPACK: u8 = 16;
    /// A sorted set in a listpack.
    pub(crate) const SORTED_SET_LISTPACK: u8 = 17;
    /// A list in several listpacks.
    pub(crate) const LIST_QUICKLIST_2: u8 = 18;
    /// A stream with its history.
    pub(crate) const STREAM_2: u8 = 19;
    /// A set in a listpack.
    pub(crate) const SET_LISTPACK: u8 = 20;
    /// A stream with its history and the times at which consumers were active.
    pub(crate) const STREAM_3: u8 = 21;
    /// A hash with expiries of fields: of Valkey 9, or, in another form, of the release candidates of Redis 7.4.
    pub(crate) const HASH_2: u8 = 22;
    /// A hash with expiries of fields in a listpack, of the release candidates of Redis 7.4.
    pub(crate) const HASH_EXPIRING_LISTPACK_EARLY: u8 = 23;
    /// A hash with expiries of fields.
    pub(crate) const HASH_EXPIRING: u8 = 24;
    /// A hash with expiries of fields in a listpack.
    pub(crate) const HASH_EXPIRING_LISTPACK: u8 = 25;
}

/// The data types of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// One string.
    String,
    /// Items in an order.
    List,
    /// Members in any order.
    Set,
    /// Members with scores.
    SortedSet,
    /// Fields with values.
    Hash,
    /// Entries in the order of their IDs, and groups.
    Stream,
    /// A module's value, or one of a type that is not known.
    Opaque,
}

/// A part of a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Element<'e> {
    /// The whole of a string.
    Text(&'e [u8]),
    /// An item of a list, or a member of a set.
    Item(&'e [u8]),
    /// A member of a sorted set, with its score.
    Member(&'e [u8], f64),
    /// A field of a hash.
    Field {
        /// Its name.
        field: &'e [u8],
        /// Its value.
        value: &'e [u8],
        /// The time at which it expires, in milliseconds since 1970.
        expires_at: Option<i64>,
    },
    /// An entry of a stream.
    Entry {
        /// Its ID.
        id: StreamId,
        /// Its fields and their values.
        fields: &'e [(&'e [u8], &'e [u8])],
    },
    /// What a stream knows, behind its entries.
    State(StreamState),
    /// A group of a stream, behind its state.
    Group(&'e Group),
    /// The head of a vector set: its dimensions, its configuration, its flags and the dimensions before a projection;
    /// and the matrix of that.
    VectorSet([u64; 4], &'e [u8]),
    /// A vector of a vector set.
    Vector {
        /// Its name.
        name: &'e [u8],
        /// Its attributes, if it has any.
        attributes: &'e [u8],
        /// Its numbers, as the server keeps them.
        vector: &'e [u8],
        /// What these are multiplied by.
        scale: u64,
    },
    /// The whole of an opaque value, as it stands in the RDB.
    Opaque(&'e [u8]),
}

/// What is wrong with a negative time, or with one of more than 63 bits.
const NO_EXPIRY: &str = "no expiry of a field";

/// Takes the elements of a value.
pub(crate) type Sink<'s, E> = dyn FnMut(Element<'_>) -> Result<(), E> + 's;

impl Kind {
    /// Returns the data type that a number stands for.
    pub(crate) fn of(value_type: u8, version: RdbVersion) -> Self {
        let is_valkey = version.family() == Family::Valkey;
        match value_type {
            0 => Self::String,
            1 | 10 | 14 | 18 => Self::List,
            2 | 11 | 20 => Self::Set,
            3 | 5 | 12 | 17 => Self::SortedSet,
            4 | 9 | 13 | 16 | 22 => Self::Hash,
            23..=25 if !is_valkey => Self::Hash,
            15 | 19 | 21 => Self::Stream,
            _ => Self::Opaque,
        }
    }
}

/// Hands out the elements of a value. A string and an opaque value are one element.
///
/// # Errors
///
/// If the bytes do not fit the type, with the offset; what was handed out before is of no use then. And the errors of
/// `sink`.
pub(crate) fn visit<E: From<Malformed>>(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    use self::value_type as types;

    let cursor = &mut Cursor::new(value);
    let is_valkey = version.family() == Family::Valkey;
    match value_type {
        types::STRING => sink(Element::Text(&cursor.string()?))?,
        types::LIST | types::SET => {
            for _ in 0..cursor.length()? {
                sink(Element::Item(&cursor.string()?))?;
            }
        }
        types::SORTED_SET_TEXT | types::SORTED_SET => members(cursor, value_type, sink)?,
        types::HASH => {
            for _ in 0..cursor.length()? {
                sink_field(cursor, None, sink)?;
            }
        }
        types::HASH_ZIPMAP => string_of(cursor, Form::Zipmap, sink, packed_fields)?,
        types::LIST_ZIPLIST => string_of(cursor, Form::Ziplist, sink, packed_items)?,
        types::SET_INTSET => string_of(cursor, Form::Intset, sink, packed_items)?,
        types::SORTED_SET_ZIPLIST => string_of(cursor, Form::Ziplist, sink, packed_members)?,
        types::HASH_ZIPLIST => string_of(cursor, Form::Ziplist, sink, packed_fields)?,
        types::LIST_QUICKLIST => {
            for _ in 0..cursor.length()? {
                string_of(cursor, Form::Ziplist, sink, packed_items)?;
            }
        }
        types::LIST_QUICKLIST_2 => quicklist(cursor, sink)?,
        types::HASH_LISTPACK => string_of(cursor, Form::Listpack, sink, packed_fields)?,
        types::SORTED_SET_LISTPACK => string_of(cursor, Form::Listpack, sink, packed_members)?,
        types::SET_LISTPACK => string_of(cursor, Form::Listpack, sink, packed_items)?,
        types::STREAM | types::STREAM_2 | types::STREAM_3 => {
            stream::visit(cursor, value_type, sink)?;
        }
        types::HASH_2 if is_valkey => fields_expiring(cursor, sink)?,
        types::HASH_2 => early_expiring_fields(cursor, sink)?,
        types::HASH_EXPIRING_LISTPACK_EARLY if !is_valkey => {
            string_of(cursor, Form::Listpack, sink, packed_expiring_fields)?;
        }
        types::HASH_EXPIRING if !is_valkey => expiring_fields(cursor, sink)?,
        types::HASH_EXPIRING_LISTPACK if !is_valkey => {
            cursor.i64_le()?;
            string_of(cursor, Form::Listpack, sink, packed_expiring_fields)?;
        }
        types::MODULE if vector_set::is_vector_set(value) => vector_set::visit(cursor, sink)?,
        _ => return sink(Element::Opaque(value)),
    }
    Ok(cursor.end()?)
}

/// Reads a string, and the collection in it.
fn string_of<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    form: Form,
    sink: &mut Sink<'_, E>,
    read: impl Fn(Entries<'_>, &mut Sink<'_, E>) -> Result<(), E>,
) -> Result<(), E> {
    let start = cursor.offset();
    let text = cursor.string()?;
    let is_inflated = text.is_inflated();
    let base = match is_inflated {
        true => start,
        false => cursor.offset().saturating_sub(text.len() as u64),
    };
    read(
        Entries::new(form, Cursor::inside(&text, base, is_inflated))?,
        sink,
    )
}

fn packed_items<E: From<Malformed>>(
    mut entries: Entries<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    while let Some(item) = entries.next()? {
        sink(Element::Item(&item.text()))?;
    }
    Ok(())
}

fn packed_members<E: From<Malformed>>(
    mut entries: Entries<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    while let Some(member) = entries.next()? {
        let score = entries.require("a member without a score")?.score();
        let score = score.ok_or_else(|| entries.malformed("a score that is no number"))?;
        sink(Element::Member(&member.text(), score))?;
    }
    Ok(())
}

fn packed_fields<E: From<Malformed>>(
    mut entries: Entries<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    while let Some(field) = entries.next()? {
        let value = entries.require("a field without a value")?;
        sink(Element::Field {
            field: &field.text(),
            value: &value.text(),
            expires_at: None,
        })?;
    }
    Ok(())
}

fn packed_expiring_fields<E: From<Malformed>>(
    mut entries: Entries<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    while let Some(field) = entries.next()? {
        let value = entries.require("a field without a value")?;
        let expiry = entries.require_integer("a field without an expiry")?;
        sink(Element::Field {
            field: &field.text(),
            value: &value.text(),
            expires_at: expiry_of(expiry, 0, entries.malformed(NO_EXPIRY))?,
        })?;
    }
    Ok(())
}

fn members<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    value_type: u8,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    for _ in 0..cursor.length()? {
        let member = cursor.string()?;
        let score = if value_type == value_type::SORTED_SET {
            cursor.f64_le()?
        } else {
            cursor.f64_text()?
        };
        if score.is_nan() {
            return Err(cursor.malformed("a score that is no number").into());
        }
        sink(Element::Member(&member, score))?;
    }
    Ok(())
}

fn quicklist<E: From<Malformed>>(cursor: &mut Cursor<'_>, sink: &mut Sink<'_, E>) -> Result<(), E> {
    for _ in 0..cursor.length()? {
        match cursor.length()? {
            1 => sink(Element::Item(&cursor.string()?))?,
            2 => string_of(cursor, Form::Listpack, sink, packed_items)?,
            _ => return Err(cursor.malformed("no container of a list").into()),
        }
    }
    Ok(())
}

/// Reads a field and its value.
fn sink_field<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    expires_at: Option<i64>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    let (field, value) = (cursor.string()?, cursor.string()?);
    sink(Element::Field {
        field: &field,
        value: &value,
        expires_at,
    })
}

/// Returns the expiry that a number is, unless it is the one for none. No server writes a negative one.
fn expiry_of(number: i64, none: i64, error: Malformed) -> Result<Option<i64>, Malformed> {
    match number {
        _ if number == none => Ok(None),
        0.. => Ok(Some(number)),
        _ => Err(error),
    }
}

/// Reads the fields of a hash of Redis 7.4.
fn expiring_fields<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    let smallest = cursor.i64_le()?;
    for _ in 0..cursor.length()? {
        let expires_at = match cursor.length()? {
            0 => None,
            later => {
                let expiry = smallest.checked_add_unsigned(later - 1);
                expiry_of(expiry.unwrap_or(-1), 0, cursor.malformed(NO_EXPIRY))?
            }
        };
        sink_field(cursor, expires_at, sink)?;
    }
    Ok(())
}

/// Reads the fields of a hash of the release candidates of Redis 7.4.
fn early_expiring_fields<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    for _ in 0..cursor.length()? {
        let expiry = i64::try_from(cursor.length()?).unwrap_or(-1);
        let expires_at = expiry_of(expiry, 0, cursor.malformed(NO_EXPIRY))?;
        sink_field(cursor, expires_at, sink)?;
    }
    Ok(())
}

/// Reads the fields of a hash of Valkey 9.
fn fields_expiring<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    for _ in 0..cursor.length()? {
        let (field, value) = (cursor.string()?, cursor.string()?);
        let expiry = cursor.i64_le()?;
        sink(Element::Field {
            field: &field,
            value: &value,
            expires_at: expiry_of(expiry, -1, cursor.malformed(NO_EXPIRY))?,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bytes::{write_length, write_string};
    use super::super::golden::{describe, listpack, unhex, vectors};
    use super::*;

    const REDIS: RdbVersion = RdbVersion(12);
    const VALKEY: RdbVersion = RdbVersion(80);

    #[test]
    fn recorded_values_hold_what_their_servers_say() {
        let vectors = vectors();
        assert!(vectors.len() > 150);
        for vector in vectors {
            let lines = describe(vector.info.value_type, &vector.value, vector.version);
            assert_eq!(lines.unwrap(), vector.lines, "{}", vector.name());
        }
    }

    #[test]
    fn recorded_values_that_are_cut_off_or_longer_are_refused() {
        for vector in vectors() {
            let value_type = vector.info.value_type;
            let mut value = vector.value.clone();
            let last = value.len() - 1;
            let error = describe(value_type, &value[..last], vector.version).unwrap_err();
            assert!(error.at <= last as u64, "{}: {error}", vector.name());
            value.push(0);
            let error = describe(value_type, &value, vector.version).unwrap_err();
            assert_eq!(error.at, last as u64 + 1, "{}", vector.name());
        }
    }

    /// Types that no server of today writes, and others with the same elements. Servers have taken each of them.
    #[test]
    fn all_types_of_a_kind_hold_the_same_elements() {
        let groups: [&[(u8, &str, RdbVersion)]; 5] = [
            &[
                (1, "020161c005", REDIS),
                (10, "11110000000d0000000200000161030135ff", REDIS),
                (14, "0111110000000d0000000200000161030135ff", REDIS),
                (18, "02010161020a0a0000000100813502ff", REDIS),
            ],
            &[
                (2, "020161c005", REDIS),
                (20, "0d0d0000000200813502816102ff", REDIS),
            ],
            &[
                (3, "02016103312e35c005ff", REDIS),
                (5, "020161000000000000f83fc005000000000000f0ff", REDIS),
                (
                    12,
                    "1c1c00000016000000040000013503042d696e660601610303312e35ff",
                    REDIS,
                ),
                (
                    17,
                    "18180000000400813502842d696e660581610283312e3504ff",
                    REDIS,
                ),
            ],
            &[
                (4, "020166017601670177", REDIS),
                (9, "0e02016601007601670102775f5fff", REDIS),
                (
                    13,
                    "1717000000130000000400000166030176030167030177ff",
                    REDIS,
                ),
                (16, "13130000000400816602817602816702817702ff", REDIS),
            ],
            &[
                (22, "0281000003bb2cc3d800016601760001670177", REDIS),
                (
                    22,
                    "020166017600d8c32cbb03000001670177ffffffffffffffff",
                    VALKEY,
                ),
                (
                    23,
                    "1f1f0000000600816602817602f400d8c32cbb030000098167028177020001ff",
                    REDIS,
                ),
                (24, "00d8c32cbb0300000201016601760001670177", REDIS),
                (
                    25,
                    "00d8c32cbb0300001f1f0000000600816602817602f400d8c32cbb030000098167028177020001ff",
                    REDIS,
                ),
            ],
        ];
        for group in groups {
            let described: Vec<_> = group
                .iter()
                .map(|&(value_type, value, version)| {
                    describe(value_type, &unhex(value), version).unwrap()
                })
                .collect();
            assert_eq!(described[0].len(), 2);
            for (other, (value_type, ..)) in described.iter().zip(group) {
                assert_eq!(*other, described[0], "type {value_type}");
            }
        }
    }

    #[test]
    fn unknown_and_module_types_are_opaque() {
        for value_type in [6, 7, 8, 26, 33, 255] {
            let lines = describe(value_type, b"\x01\x02", REDIS).unwrap();
            assert_eq!(lines, ["opaque 0102"]);
            assert_eq!(Kind::of(value_type, REDIS), Kind::Opaque);
        }
        assert_eq!(Kind::of(25, VALKEY), Kind::Opaque);
    }

    #[test]
    fn values_that_no_server_writes_are_refused() {
        let refused = |value_type, value: &str, version| {
            let value = unhex(value);
            assert!(
                describe(value_type, &value, version).is_err(),
                "{value_type}"
            );
        };
        // Scores and expiries that are no numbers, a container of a list that is unknown, a field without a value.
        refused(5, "010161000000000000f87f", REDIS);
        refused(3, "010161fd", REDIS);
        refused(22, "0101660176feffffffffffffff", VALKEY);
        refused(24, "ffffffffffffff7f010501660176", REDIS);
        refused(18, "0103020161", REDIS);
        refused(16, "0a0a0000000100816602ff", REDIS);
        // As many elements as there are atoms.
        refused(1, "81ffffffffffffffff", REDIS);
        refused(15, "81ffffffffffffffff", REDIS);
    }

    #[test]
    fn pending_entries_belong_to_one_consumer_and_to_the_group() {
        let entry = "00000000000000010000000000000001";
        let stream = |group: &[&str], consumer: &[&str]| {
            let pending: String = group
                .iter()
                .map(|id| format!("{id}{}01", "00".repeat(8)))
                .collect();
            let own: String = consumer.concat();
            format!(
                "00000101010167000{}{pending}010163{}0{}{own}",
                group.len(),
                "00".repeat(8),
                consumer.len()
            )
        };
        // Entries, length, last ID, groups: name, last ID.
        let value = |group: &[&str], consumer: &[&str]| {
            let text = stream(group, consumer).replace("0000010101016700", "000001010101670000");
            describe(15, &unhex(&text), REDIS)
        };
        assert_eq!(
            value(&[entry], &[entry]).unwrap(),
            ["last 1-1", "group 67 0-0", "consumer 63", "pending 1-1 1"]
        );
        assert!(value(&[entry], &[]).is_err());
        assert!(value(&[], &[entry]).is_err());
        assert!(value(&[entry, entry], &[entry, entry]).is_err());
    }

    /// Text that is an integer, short, long, or arbitrary.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<i64>().prop_map(|number| number.to_string().into_bytes()),
            (-5000i64..5000).prop_map(|number| number.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..200),
            (0usize..5000).prop_map(|count| vec![b'x'; count]),
        ]
    }

    proptest! {
        #[test]
        fn random_elements_are_read_as_they_were_written(texts in prop::collection::vec(text(), 0..40)) {
            let mut plain = Vec::new();
            write_length(&mut plain, texts.len() as u64);
            texts.iter().for_each(|text| write_string(&mut plain, text));
            let mut packed = b"\x01\x02".to_vec();
            write_string(&mut packed, &listpack(&texts));
            let lines = describe(value_type::LIST, &plain, REDIS).unwrap();
            prop_assert_eq!(lines.len(), texts.len());
            prop_assert_eq!(&lines, &describe(value_type::LIST_QUICKLIST_2, &packed, REDIS).unwrap());
        }

        #[test]
        fn random_scores_are_read_as_they_were_written(scores in prop::collection::vec(any::<f64>(), 0..20)) {
            prop_assume!(scores.iter().all(|score| !score.is_nan()));
            let mut plain = vec![scores.len() as u8];
            let mut entries = Vec::new();
            for (number, score) in scores.iter().enumerate() {
                write_string(&mut plain, number.to_string().as_bytes());
                plain.extend(score.to_le_bytes());
                entries.extend([number.to_string().into_bytes(), format!("{score:e}").into_bytes()]);
            }
            let mut packed = Vec::new();
            write_string(&mut packed, &listpack(&entries));
            prop_assert_eq!(
                describe(value_type::SORTED_SET, &plain, REDIS).unwrap(),
                describe(value_type::SORTED_SET_LISTPACK, &packed, REDIS).unwrap()
            );
        }
    }
}
