//! Entries as they stand in the payloads of frames: keys and functions, whole or in parts.
//!
//! The body of a key is its name followed by its value, that of a function its source. An entry that does not fit in one
//! frame goes on in the node's next frame.

use super::error::ArchiveError;
use super::format::{Kind, PLAIN_MAX, u16_at, u32_at, u64_at};
use crate::rdb::{Access, KeyInfo, RdbVersion};

/// A part of an entry that is the whole of it.
pub(super) const WHOLE: u8 = 1;
/// The first part of an entry.
pub(super) const FIRST: u8 = 2;
/// Neither the first part nor the last.
pub(super) const MIDDLE: u8 = 3;
/// The last part of an entry.
pub(super) const LAST: u8 = 4;

/// Bit of a key that expires.
const EXPIRES: u8 = 1;
/// Bit of a key with an idle time.
const IDLE: u8 = 2;
/// Bit of a key with a frequency of use.
const FREQUENCY: u8 = 4;

/// Length in bytes of the number that precedes the bytes of a part.
pub(super) const LENGTH_BYTES: usize = 4;

/// What stands at the beginning of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryHead {
    /// A key. Its name is in the body, and empty here.
    Key {
        info: KeyInfo,
        version: RdbVersion,
        key_length: u32,
    },
    /// A library of functions.
    Function { version: RdbVersion },
}

/// A part of an entry.
pub(super) struct Part<'p> {
    /// Set if the entry begins with this part.
    pub(super) head: Option<EntryHead>,
    /// True if the entry ends with this part.
    pub(super) is_last: bool,
    pub(super) bytes: &'p [u8],
}

/// Writes the beginning of a key, up to the length of its first part.
pub(super) fn put_key(out: &mut Vec<u8>, info: &KeyInfo, version: RdbVersion, key_length: u32) {
    let access = match info.access {
        Access::Unknown => 0,
        Access::Idle(_) => IDLE,
        Access::Frequency(_) => FREQUENCY,
    };
    let expires = info.expires_at.map_or(0, |_| EXPIRES);
    out.extend_from_slice(&[WHOLE, info.value_type, access | expires]);
    out.extend_from_slice(&version.0.to_le_bytes());
    out.extend_from_slice(&info.db.to_le_bytes());
    out.extend_from_slice(&key_length.to_le_bytes());
    if let Some(at) = info.expires_at {
        out.extend_from_slice(&at.to_le_bytes());
    }
    match info.access {
        Access::Unknown => {}
        Access::Idle(seconds) => out.extend_from_slice(&seconds.to_le_bytes()),
        Access::Frequency(frequency) => out.push(frequency),
    }
}

/// Writes the beginning of a function, up to the length of its first part.
pub(super) fn put_function(out: &mut Vec<u8>, version: RdbVersion) {
    out.push(WHOLE);
    out.extend_from_slice(&version.0.to_le_bytes());
}

/// Cuts the payload of a frame of this kind into parts.
///
/// # Errors
///
/// A description, if it does not have the form of such a payload.
pub(super) fn parts(kind: Kind, payload: &[u8]) -> Result<Vec<Part<'_>>, &'static str> {
    let mut rest = payload;
    let mut parts = Vec::new();
    while let Some((&tag, after)) = rest.split_first() {
        rest = after;
        let head = match tag {
            WHOLE | FIRST => Some(head(kind, &mut rest)?),
            MIDDLE | LAST if parts.is_empty() => None,
            MIDDLE | LAST => return Err("an entry goes on within a frame"),
            _ => return Err("a part of an entry has an unknown tag"),
        };
        let length = u32_at(take(&mut rest, LENGTH_BYTES)?, 0);
        let bytes = take(&mut rest, length as usize)?;
        let is_last = matches!(tag, WHOLE | LAST);
        if !is_last && !rest.is_empty() {
            return Err("bytes follow an entry that goes on in the next frame");
        }
        parts.push(Part {
            head,
            is_last,
            bytes,
        });
    }
    Ok(parts)
}

/// Reads the beginning of an entry after its tag.
fn head(kind: Kind, rest: &mut &[u8]) -> Result<EntryHead, &'static str> {
    if kind == Kind::Functions {
        let version = RdbVersion(u16_at(take(rest, 2)?, 0));
        return Ok(EntryHead::Function { version });
    }
    let fixed = take(rest, 12)?;
    let (value_type, bits) = (fixed[0], fixed[1]);
    if bits & !(EXPIRES | IDLE | FREQUENCY) != 0 || bits & (IDLE | FREQUENCY) == IDLE | FREQUENCY {
        return Err("a key has properties that are not known");
    }
    let expires_at = match bits & EXPIRES {
        0 => None,
        _ => Some(u64_at(take(rest, 8)?, 0) as i64),
    };
    let access = match bits & (IDLE | FREQUENCY) {
        0 => Access::Unknown,
        IDLE => Access::Idle(u64_at(take(rest, 8)?, 0)),
        _ => Access::Frequency(take(rest, 1)?.first().copied().unwrap_or_default()),
    };
    Ok(EntryHead::Key {
        info: KeyInfo {
            db: u32_at(fixed, 4),
            key: Vec::new(),
            expires_at,
            access,
            value_type,
        },
        version: RdbVersion(u16_at(fixed, 2)),
        key_length: u32_at(fixed, 8),
    })
}

/// Takes some bytes off the beginning.
fn take<'p>(rest: &mut &'p [u8], count: usize) -> Result<&'p [u8], &'static str> {
    let (bytes, after) = rest
        .split_at_checked(count)
        .ok_or("the payload of a frame ends within an entry")?;
    *rest = after;
    Ok(bytes)
}

/// Refuses lengths of keys that cannot be written.
pub(super) fn key_length(info: &KeyInfo) -> Result<u32, ArchiveError> {
    u32::try_from(info.key.len())
        .map_err(|_| ArchiveError::Limit("a key is longer than 4 GiB".to_owned()))
}

/// Largest length in bytes of the beginning of an entry, with the length of its first part.
pub(super) const HEAD_MAX: usize = 1 + 12 + 8 + 8 + LENGTH_BYTES;

const _: () = assert!(HEAD_MAX < PLAIN_MAX);
