//! The elements of a value, from the bytes that stand in an RDB or in the payload of `DUMP` behind the type.
//!
//! * [`visit`]: hands out the elements, one at a time. Nothing of a value is held but the string in which an element
//!   stands, decompressed, and of streams one group.
//! * [`Kind`]: which data type the number of a type stands for.
//! * `packed`: listpacks, ziplists, zipmaps, intsets. `stream`: streams.
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
//! All other types, among them those of modules and vector sets, are opaque.

mod packed;
mod stream;

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
