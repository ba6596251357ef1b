//! Which values a server takes by `RESTORE`, and how the others are written in a form that it takes.
//!
//! What must be done follows from the type, the version and the server: nothing is tried.
//!
//! ```text
//! server           types                                  written instead
//! all              0-5, 9-15                              20 as 2, 16 as 4, 17 as 5, 18 as 1, 19 and 21 as 15
//! Redis 7.0        16-19 too                              20 as 2, 21 as 19
//! Redis 7.2,
//! Valkey 7.2, 8    20, 21 too                             22-25 as 4, if no field expires
//! Redis 7.4        24, 25 too (and the early 22, 23)      22 of Valkey as 24
//! Valkey 9.0       22 of its own too                      22-25 of Redis as 22
//! ```
//!
//! A payload that is written anew is restored by one `RESTORE`, as any other. Its footer is the target's own version,
//! unless the target takes that of the source.

use super::RdbError;
use super::bytes::{Malformed, write_length, write_string};
use super::payload::FOOTER_LENGTH;
use super::server::ServerVersion;
use super::value::{Element, Kind, rewrite_stream, value_type as types, visit};
use super::version::{Family, RdbVersion};

/// The latest expiry of a field that Redis takes: its times have 48 bits.
const REDIS_FIELD_EXPIRY_MAX: i64 = (1 << 48) - 2;

/// The server for which values are written, and what may be given up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Its version.
    pub(crate) server: ServerVersion,
    /// The longest argument that it takes: `proto-max-bulk-len`.
    pub(crate) argument_max: u64,
    /// What is done with the expiries of fields that the target cannot hold.
    pub(crate) field_expiries: FieldExpiries,
}

/// What is done with the expiries of fields that a server cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldExpiries {
    /// The key is refused.
    Required,
    /// The fields stay forever.
    Dropped,
}

/// How a value comes into a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// By `RESTORE` of the bytes as they are, with this version in the footer.
    AsIs(RdbVersion),
    /// By `RESTORE` of other bytes.
    Rewritten {
        /// Their type.
        value_type: u8,
        /// The bytes behind the type.
        value: Vec<u8>,
        /// The version for the footer.
        version: RdbVersion,
        /// True if expiries of fields were left out.
        is_lossy: bool,
    },
    /// Element by element, since the payload is longer than the target's longest argument.
    Elements {
        /// True if expiries of fields are left out.
        is_lossy: bool,
    },
    /// Not at all.
    Impossible(Obstacle),
}

/// The reason why a value cannot come into a server.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Fields expire, and the server has no such thing.
    #[error(
        "fields of this hash expire, which the target cannot hold: it takes Redis 7.4 or Valkey 9.0, \
         or the permission to keep such fields forever"
    )]
    FieldExpiry,
    /// A field expires later than the server can hold.
    #[error("a field of this hash expires later than Redis can hold, in the year 10889")]
    FieldExpiryTooLate,
    /// A part of the value is longer than the server's longest argument.
    #[error(
        "this value has a part of {length} bytes, and the target takes {most}: raise its proto-max-bulk-len"
    )]
    TooLong {
        /// The number of bytes.
        length: u64,
        /// The most that the target takes.
        most: u64,
    },
    /// A module's value, or one of an unknown type, that cannot be taken apart.
    #[error(
        "this value is a module's or of a type that is not known, and longer than the target takes: \
         raise its proto-max-bulk-len to {length}"
    )]
    OpaqueTooLong {
        /// The number of bytes of the payload.
        length: u64,
    },
    /// A type that the server does not know.
    #[error("the target does not know values of type {0}: it takes a server as new as the source")]
    UnknownType(u8),
}

/// Returns how a value comes into a server.
///
/// # Errors
///
/// If the value must be written anew, and its bytes do not fit its type.
pub(crate) fn fit(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
    target: &Target,
) -> Result<Fit, RdbError> {
    let fit = match form(value_type, version, target.server) {
        Form::Same => Fit::AsIs(footer(version, target.server)),
        Form::Unknown => Fit::Impossible(Obstacle::UnknownType(value_type)),
        Form::Written(to) => written(value_type, value, version, target, to)?,
    };
    let (length, is_lossy) = match &fit {
        Fit::AsIs(_) => (value.len(), false),
        Fit::Rewritten {
            value, is_lossy, ..
        } => (value.len(), *is_lossy),
        Fit::Elements { .. } | Fit::Impossible(_) => return Ok(fit),
    };
    let length = (1 + length + FOOTER_LENGTH) as u64;
    if length <= target.argument_max {
        return Ok(fit);
    }
    let obstacle = obstacle(value_type, value, version, target, length)?;
    Ok(obstacle.map_or(Fit::Elements { is_lossy }, Fit::Impossible))
}

/// The form in which a server takes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As it is.
    Same,
    /// As this type.
    Written(u8),
    /// In none.
    Unknown,
}

/// The table at the top.
fn form(value_type: u8, version: RdbVersion, server: ServerVersion) -> Form {
    let has_redis_7_2 = server.is_redis_from(7, 2) || server.is_valkey_from(0, 0);
    let has_own_expiries = match version.family() {
        Family::Redis => server.is_redis_from(7, 4),
        Family::Valkey => server.is_valkey_from(9, 0),
    };
    let hash = if server.is_redis_from(7, 4) {
        types::HASH_EXPIRING
    } else if server.is_valkey_from(9, 0) {
        types::HASH_2
    } else {
        types::HASH
    };
    match value_type {
        0..=5 | 9..=15 => Form::Same,
        types::HASH_LISTPACK..=types::STREAM_2 if server.has_redis_7() => Form::Same,
        types::HASH_LISTPACK => Form::Written(types::HASH),
        types::SORTED_SET_LISTPACK => Form::Written(types::SORTED_SET),
        types::LIST_QUICKLIST_2 => Form::Written(types::LIST),
        types::STREAM_2 => Form::Written(types::STREAM),
        types::SET_LISTPACK | types::STREAM_3 if has_redis_7_2 => Form::Same,
        types::SET_LISTPACK => Form::Written(types::SET),
        types::STREAM_3 if server.has_redis_7() => Form::Written(types::STREAM_2),
        types::STREAM_3 => Form::Written(types::STREAM),
        _ if Kind::of(value_type, version) == Kind::Hash => {
            if has_own_expiries {
                Form::Same
            } else {
                Form::Written(hash)
            }
        }
        // A module's value, which the target takes if it has the module.
        6 | 7 => Form::Same,
        _ if server.takes_footer(version) => Form::Same,
        _ => Form::Unknown,
    }
}

/// Returns the version for the footer of a payload whose type the server knows.
fn footer(version: RdbVersion, server: ServerVersion) -> RdbVersion {
    if server.takes_footer(version) {
        version
    } else {
        server.rdb_version()
    }
}

/// Writes a value as another type.
fn written(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
    target: &Target,
    to: u8,
) -> Result<Fit, RdbError> {
    let (mut to, mut is_lossy) = (to, false);
    if Kind::of(value_type, version) == Kind::Hash && value_type != types::HASH_LISTPACK {
        let latest = latest_expiry(value_type, value, version)?;
        match latest {
            None => to = types::HASH,
            Some(_) if to == types::HASH && target.field_expiries == FieldExpiries::Required => {
                return Ok(Fit::Impossible(Obstacle::FieldExpiry));
            }
            Some(_) if to == types::HASH => is_lossy = true,
            Some(latest) if to == types::HASH_EXPIRING && latest > REDIS_FIELD_EXPIRY_MAX => {
                return Ok(Fit::Impossible(Obstacle::FieldExpiryTooLate));
            }
            Some(_) => {}
        }
    }
    let written = match to {
        types::STREAM | types::STREAM_2 => rewrite_stream(value, value_type, to)?,
        types::HASH_EXPIRING => expiring_hash(value_type, value, version)?,
        _ => plain(value_type, value, version, to)?,
    };
    Ok(Fit::Rewritten {
        value_type: to,
        value: written,
        version: target.server.rdb_version(),
        is_lossy,
    })
}

/// Returns the time at which the last field of a hash expires that does.
fn latest_expiry(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
) -> Result<Option<i64>, Malformed> {
    let mut latest = None;
    visit::<Malformed>(value_type, value, version, &mut |element| {
        if let Element::Field { expires_at, .. } = element {
            latest = latest.max(expires_at);
        }
        Ok(())
    })?;
    Ok(latest)
}

/// Writes the elements one after the other, behind their number.
fn plain(value_type: u8, value: &[u8], version: RdbVersion, to: u8) -> Result<Vec<u8>, Malformed> {
    let (mut elements, mut count) = (Vec::new(), 0);
    visit::<Malformed>(value_type, value, version, &mut |element| {
        count += 1;
        match element {
            Element::Item(item) => write_string(&mut elements, item),
            Element::Member(member, score) => {
                write_string(&mut elements, member);
                elements.extend_from_slice(&score.to_le_bytes());
            }
            Element::Field {
                field,
                value,
                expires_at,
            } => {
                write_string(&mut elements, field);
                write_string(&mut elements, value);
                if to == types::HASH_2 {
                    elements.extend_from_slice(&expires_at.unwrap_or(-1).to_le_bytes());
                }
            }
            // Of types that are never written as these.
            _ => {}
        }
        Ok(())
    })?;
    let mut out = Vec::with_capacity(elements.len() + 9);
    write_length(&mut out, count);
    out.extend_from_slice(&elements);
    Ok(out)
}

/// Writes a hash whose fields expire, for Redis.
fn expiring_hash(value_type: u8, value: &[u8], version: RdbVersion) -> Result<Vec<u8>, Malformed> {
    let (mut smallest, mut count) = (None, 0);
    visit::<Malformed>(value_type, value, version, &mut |element| {
        count += 1;
        if let Element::Field {
            expires_at: Some(at),
            ..
        } = element
        {
            smallest = Some(smallest.map_or(at, |smallest: i64| smallest.min(at)));
        }
        Ok(())
    })?;
    let smallest = smallest.unwrap_or_default();
    let mut out = smallest.to_le_bytes().to_vec();
    write_length(&mut out, count);
    visit::<Malformed>(value_type, value, version, &mut |element| {
        if let Element::Field {
            field,
            value,
            expires_at,
        } = element
        {
            let later = expires_at.map_or(0, |at| at.abs_diff(smallest).saturating_add(1));
            write_length(&mut out, later);
            write_string(&mut out, field);
            write_string(&mut out, value);
        }
        Ok(())
    })?;
    Ok(out)
}

/// Returns what keeps a value from being made element by element.
fn obstacle(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
    target: &Target,
    length: u64,
) -> Result<Option<Obstacle>, RdbError> {
    let mut longest = 0;
    visit::<Malformed>(value_type, value, version, &mut |element| {
        let longer = match element {
            Element::Text(text) | Element::Item(text) | Element::Member(text, _) => text.len(),
            Element::Field { field, value, .. } => field.len().max(value.len()),
            Element::Entry { fields, .. } => fields
                .iter()
                .map(|(field, value)| field.len().max(value.len()))
                .max()
                .unwrap_or_default(),
            Element::Group(group) => group.name.len(),
            Element::State(_) | Element::Opaque(_) => 0,
        };
        longest = longest.max(longer as u64);
        Ok(())
    })?;
    Ok(if Kind::of(value_type, version) == Kind::Opaque {
        Some(Obstacle::OpaqueTooLong { length })
    } else {
        (longest > target.argument_max).then_some(Obstacle::TooLong {
            length: longest,
            most: target.argument_max,
        })
    })
}
