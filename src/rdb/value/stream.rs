//! Streams: entries in listpacks, each of which has a head with the fields that most of its entries have, and groups
//! with what they have handed out.
//!
//! ```text
//! listpack   entries, deleted ones, number of fields, fields, 0,
//!            and for each entry: flags, ID as a difference to that of the listpack,
//!            number of fields and fields with values, or values alone; the number of these listpack entries
//! ```

use std::collections::BTreeMap;
use std::fmt;

use super::super::bytes::{Cursor, Malformed};
use super::packed::{Entries, Form};
use super::{Element, Sink, value_type};

/// Flag of an entry that was deleted.
const DELETED: i64 = 1;

/// Flag of an entry that has the fields of the listpack's head.
const SAME_FIELDS: i64 = 2;

/// The ID of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId {
    /// The time, in milliseconds.
    pub(crate) ms: u64,
    /// The number among the entries of that time.
    pub(crate) sequence: u64,
}

/// What a stream knows beside its entries and groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamState {
    /// Number of its entries, as the stream has it.
    pub(crate) length: u64,
    /// The last ID that was given.
    pub(crate) last_id: StreamId,
    /// From Redis 7.0 on.
    pub(crate) history: Option<StreamHistory>,
}

/// What is known of entries that are no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamHistory {
    /// The largest ID of a deleted entry.
    pub(crate) max_deleted: StreamId,
    /// Number of entries that were ever added.
    pub(crate) entries_added: u64,
}

/// A group of consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its name.
    pub(crate) name: Vec<u8>,
    /// The last ID that it has handed out.
    pub(crate) last_id: StreamId,
    /// Number of entries that it has read, from Redis 7.0 on and if it is known.
    pub(crate) entries_read: Option<u64>,
    /// Its consumers.
    pub(crate) consumers: Vec<Consumer>,
}

/// A consumer of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Consumer {
    /// Its name.
    pub(crate) name: Vec<u8>,
    /// What it was given and has not acknowledged.
    pub(crate) pending: Vec<Pending>,
}

/// An entry that was handed out and is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The entry, which may be deleted.
    pub(crate) id: StreamId,
    /// When it was handed out for the last time, in milliseconds since 1970.
    pub(crate) delivered_at: i64,
    /// How often it was handed out.
    pub(crate) deliveries: u64,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)
    }
}

impl StreamId {
    /// Reads an ID of 16 bytes, big-endian.
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            ms: cursor.u64_be()?,
            sequence: cursor.u64_be()?,
        })
    }

    /// Reads an ID of two lengths.
    fn read_lengths(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            ms: cursor.length()?,
            sequence: cursor.length()?,
        })
    }

    /// Adds the differences of an entry, in which a smaller number is a large difference.
    fn plus(self, ms: i64, sequence: i64) -> Self {
        Self {
            ms: self.ms.wrapping_add_signed(ms),
            sequence: self.sequence.wrapping_add_signed(sequence),
        }
    }
}

/// Reads a stream, and hands out its entries, its state, and its groups, in this order.
pub(super) fn visit<E: From<Malformed>>(
    cursor: &mut Cursor<'_>,
    stream_type: u8,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    for _ in 0..cursor.length()? {
        let at = cursor.offset();
        let id = cursor.string()?;
        let mut bytes = Cursor::inside(&id, at, true);
        let id = StreamId::read(&mut bytes)?;
        bytes.end()?;
        let at = cursor.offset();
        let listpack = cursor.string()?;
        let bytes = Cursor::inside(&listpack, at, true);
        visit_listpack(id, Entries::new(Form::Listpack, bytes)?, sink)?;
    }
    sink(Element::State(read_state(cursor, stream_type)?))?;
    for _ in 0..cursor.length()? {
        sink(Element::Group(&read_group(cursor, stream_type)?))?;
    }
    Ok(())
}

/// Copies a stream to an older type by leaving out what that cannot hold.
pub(crate) fn rewrite(value: &[u8], from: u8, to: u8) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(value.len());
    let mut cursor = Cursor::new(value);
    // Copies what `read` passes over, if it is to be kept.
    let mut copy = |cursor: &mut Cursor<'_>,
                    is_kept: bool,
                    read: &dyn Fn(&mut Cursor<'_>) -> Result<u64, Malformed>| {
        let before = cursor.rest();
        let number = read(cursor)?;
        let count = before.len() - cursor.rest().len();
        if is_kept {
            out.extend_from_slice(before.get(..count).unwrap_or_default());
        }
        Ok::<u64, Malformed>(number)
    };
    let lengths =
        |count: u8| move |cursor: &mut Cursor<'_>| (0..count).try_fold(0, |_, _| cursor.length());
    let string = |cursor: &mut Cursor<'_>| cursor.skip_string().map(|()| 0);
    let bytes = |count: u64| move |cursor: &mut Cursor<'_>| cursor.take(count).map(|_| 0);
    let has_history = from != value_type::STREAM;
    let keeps_history = has_history && to != value_type::STREAM;

    for _ in 0..copy(&mut cursor, true, &lengths(1))? {
        copy(&mut cursor, true, &string)?;
        copy(&mut cursor, true, &string)?;
    }
    copy(&mut cursor, true, &lengths(3))?;
    if has_history {
        copy(&mut cursor, keeps_history, &lengths(5))?;
    }
    for _ in 0..copy(&mut cursor, true, &lengths(1))? {
        copy(&mut cursor, true, &string)?;
        copy(&mut cursor, true, &lengths(2))?;
        if has_history {
            copy(&mut cursor, keeps_history, &lengths(1))?;
        }
        for _ in 0..copy(&mut cursor, true, &lengths(1))? {
            copy(&mut cursor, true, &bytes(24))?;
            copy(&mut cursor, true, &lengths(1))?;
        }
        for _ in 0..copy(&mut cursor, true, &lengths(1))? {
            copy(&mut cursor, true, &string)?;
            copy(&mut cursor, true, &bytes(8))?;
            if from == value_type::STREAM_3 {
                copy(&mut cursor, to == value_type::STREAM_3, &bytes(8))?;
            }
            for _ in 0..copy(&mut cursor, true, &lengths(1))? {
                copy(&mut cursor, true, &bytes(16))?;
            }
        }
    }
    cursor.end()?;
    Ok(out)
}

/// Hands out the entries of one listpack that are not deleted.
fn visit_listpack<E: From<Malformed>>(
    first: StreamId,
    mut listpack: Entries<'_>,
    sink: &mut Sink<'_, E>,
) -> Result<(), E> {
    const END: &str = "a listpack of a stream that ends inside of an entry";
    listpack.require_integer(END)?;
    listpack.require_integer(END)?;
    let mut names = Vec::new();
    for _ in 0..listpack.require_integer(END)? {
        names.push(listpack.require(END)?.text());
    }
    listpack.require_integer(END)?;
    let (mut own_names, mut values) = (Vec::new(), Vec::new());
    while let Some(flags) = listpack.next()? {
        let Some(flags) = flags.integer() else {
            return Err(listpack.malformed("no flags of an entry").into());
        };
        let ms = listpack.require_integer(END)?;
        let id = first.plus(ms, listpack.require_integer(END)?);
        values.clear();
        own_names.clear();
        if flags & SAME_FIELDS != 0 {
            for _ in &names {
                values.push(listpack.require(END)?.text());
            }
        } else {
            for _ in 0..listpack.require_integer(END)? {
                own_names.push(listpack.require(END)?.text());
                values.push(listpack.require(END)?.text());
            }
        }
        listpack.require_integer(END)?;
        if flags & DELETED == 0 && values.is_empty() {
            return Err(listpack.malformed("an entry without fields").into());
        }
        if flags & DELETED == 0 {
            let names = if flags & SAME_FIELDS != 0 {
                &names
            } else {
                &own_names
            };
            let texts = names.iter().zip(&values);
            let fields: Vec<(&[u8], &[u8])> =
                texts.map(|(name, value)| (&**name, &**value)).collect();
            sink(Element::Entry {
                id,
                fields: &fields,
            })?;
        }
    }
    Ok(())
}

fn read_state(cursor: &mut Cursor<'_>, stream_type: u8) -> Result<StreamState, Malformed> {
    let length = cursor.length()?;
    let last_id = StreamId::read_lengths(cursor)?;
    let history = if stream_type == value_type::STREAM {
        None
    } else {
        // The ID of the first entry.
        StreamId::read_lengths(cursor)?;
        Some(StreamHistory {
            max_deleted: StreamId::read_lengths(cursor)?,
            entries_added: cursor.length()?,
        })
    };
    Ok(StreamState {
        length,
        last_id,
        history,
    })
}

fn read_group(cursor: &mut Cursor<'_>, stream_type: u8) -> Result<Group, Malformed> {
    let name = cursor.string()?.into_vec();
    let last_id = StreamId::read_lengths(cursor)?;
    let entries_read = if stream_type == value_type::STREAM {
        None
    } else {
        // -1 if it is not known.
        let number = cursor.length()?;
        i64::try_from(number).is_ok().then_some(number)
    };
    let mut pending = BTreeMap::new();
    for _ in 0..cursor.length()? {
        let id = StreamId::read(cursor)?;
        let entry = Pending {
            id,
            delivered_at: cursor.i64_le()?,
            deliveries: cursor.length()?,
        };
        if pending.insert(id, entry).is_some() {
            return Err(cursor.malformed("an entry that is pending twice"));
        }
    }
    let mut consumers = Vec::new();
    for _ in 0..cursor.length()? {
        let name = cursor.string()?.into_vec();
        // When it was seen, and when it was active.
        cursor.i64_le()?;
        if stream_type == value_type::STREAM_3 {
            cursor.i64_le()?;
        }
        let mut own = Vec::new();
        for _ in 0..cursor.length()? {
            let entry = pending.remove(&StreamId::read(cursor)?);
            let Some(entry) = entry else {
                return Err(cursor.malformed("an entry pending for a consumer, not for its group"));
            };
            own.push(entry);
        }
        own.sort_unstable_by_key(|entry: &Pending| entry.id);
        consumers.push(Consumer { name, pending: own });
    }
    if !pending.is_empty() {
        return Err(cursor.malformed("a pending entry without a consumer"));
    }
    Ok(Group {
        name,
        last_id,
        entries_read,
        consumers,
    })
}
