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
            Element::State(_)
            | Element::VectorSet(..)
            | Element::Vector { .. }
            | Element::Opaque(_) => 0,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::digest::digest;
    use super::super::golden::{Vector, describe, vectors};
    use super::super::server::ServerFamily;
    use super::super::{Access, KeyInfo};
    use super::*;

    const SERVERS: [(ServerFamily, &str); 8] = [
        (ServerFamily::Redis, "6.2.14"),
        (ServerFamily::Redis, "7.0.15"),
        (ServerFamily::Redis, "7.2.4"),
        (ServerFamily::Redis, "7.4.0"),
        (ServerFamily::Redis, "8.2.3"),
        (ServerFamily::Valkey, "7.2.8"),
        (ServerFamily::Valkey, "8.1.8"),
        (ServerFamily::Valkey, "9.1.2"),
    ];

    fn target(family: ServerFamily, version: &str) -> Target {
        Target {
            server: ServerVersion::parse(family, version).unwrap(),
            argument_max: 512 << 20,
            field_expiries: FieldExpiries::Required,
        }
    }

    #[test]
    fn types_are_written_as_the_table_says() {
        use Form::{Same, Unknown, Written};
        let forms = |value_type, version| {
            SERVERS.map(|(family, server)| {
                let server = ServerVersion::parse(family, server).unwrap();
                form(value_type, RdbVersion(version), server)
            })
        };
        for value_type in [0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 14, 15] {
            assert_eq!(forms(value_type, 12), [Same; 8], "{value_type}");
        }
        for (value_type, to) in [(16, 4), (17, 5), (18, 1), (19, 15)] {
            let expected = [Written(to), Same, Same, Same, Same, Same, Same, Same];
            assert_eq!(forms(value_type, 12), expected, "{value_type}");
        }
        let set = [Written(2), Written(2), Same, Same, Same, Same, Same, Same];
        assert_eq!(forms(20, 80), set);
        let stream = [Written(15), Written(19), Same, Same, Same, Same, Same, Same];
        assert_eq!(forms(21, 80), stream);
        let [hash, valkey, redis] = [4, 22, 24].map(Written);
        for value_type in [22, 23, 24, 25] {
            let expected = [hash, hash, hash, Same, Same, hash, hash, valkey];
            assert_eq!(forms(value_type, 12), expected, "{value_type}");
        }
        assert_eq!(
            forms(22, 80),
            [hash, hash, hash, redis, redis, hash, hash, Same]
        );
        // Of Redis 8.6, and of Valkey 9.2.
        assert_eq!(forms(26, 13), [Unknown; 8]);
        assert_eq!(forms(23, 81), [Unknown; 8]);
        assert_eq!(
            form(
                26,
                RdbVersion(13),
                target(ServerFamily::Redis, "8.6.0").server
            ),
            Same
        );
    }

    fn check(vector: &Vector, target: &Target) {
        let Vector {
            info,
            value,
            version,
            ..
        } = vector;
        let name = format!("{} for {:?}", vector.name(), target.server);
        let fit = fit(info.value_type, value, *version, target).unwrap();
        let (value_type, value, version) = match &fit {
            Fit::AsIs(footer) => (info.value_type, value, *footer),
            Fit::Rewritten {
                value_type,
                value,
                version,
                is_lossy,
            } => {
                assert!(!is_lossy, "{name}");
                (*value_type, value, *version)
            }
            Fit::Impossible(Obstacle::FieldExpiry) => {
                assert!(!target.server.has_field_expiry(), "{name}");
                assert!(
                    vector.lines.iter().any(|line| !line.ends_with('-')),
                    "{name}"
                );
                return;
            }
            other => panic!("{name}: {other:?}"),
        };
        assert!(target.server.takes_footer(version), "{name}");
        assert_eq!(
            form(value_type, version, target.server),
            Form::Same,
            "{name}"
        );
        let info = KeyInfo {
            value_type,
            ..info.clone()
        };
        assert_eq!(
            digest(&info, value, version).unwrap().to_string(),
            vector.digest,
            "{name}"
        );
        assert_eq!(
            describe(value_type, value, version).unwrap(),
            vector.lines,
            "{name}"
        );
    }

    #[test]
    fn recorded_values_are_the_same_in_the_form_for_every_server() {
        for vector in vectors() {
            for (family, version) in SERVERS {
                check(&vector, &target(family, version));
            }
        }
    }

    #[test]
    fn expiries_of_fields_are_dropped_only_if_told() {
        let value = b"\x01\x01f\x01v\x01\0\0\0\0\0\0\0";
        let valkey = RdbVersion(80);
        let mut old = target(ServerFamily::Redis, "7.0.15");
        let refused = Fit::Impossible(Obstacle::FieldExpiry);
        assert_eq!(fit(22, value, valkey, &old).unwrap(), refused);
        old.field_expiries = FieldExpiries::Dropped;
        let dropped = Fit::Rewritten {
            value_type: 4,
            value: b"\x01\x01f\x01v".to_vec(),
            version: RdbVersion(10),
            is_lossy: true,
        };
        assert_eq!(fit(22, value, valkey, &old).unwrap(), dropped);
        let late = b"\x01\x01f\x01v\0\0\0\0\0\0\0\x01";
        let redis = target(ServerFamily::Redis, "8.2.3");
        let refused = Fit::Impossible(Obstacle::FieldExpiryTooLate);
        assert_eq!(fit(22, late, valkey, &redis).unwrap(), refused);
        assert_eq!(
            fit(22, late, valkey, &target(ServerFamily::Valkey, "9.0.0")).unwrap(),
            Fit::AsIs(valkey)
        );
    }

    #[test]
    fn long_values_are_made_by_elements_if_their_parts_fit() {
        let mut target = target(ServerFamily::Redis, "7.0.15");
        target.argument_max = 20;
        let fit =
            |value_type, value: &[u8]| fit(value_type, value, RdbVersion(10), &target).unwrap();
        assert_eq!(fit(1, b"\x02\x03abc\x01d"), Fit::AsIs(RdbVersion(10)));
        assert_eq!(
            fit(1, b"\x02\x03abc\x06defghi"),
            Fit::Elements { is_lossy: false }
        );
        let long = [b"\x02\x01a\x15", &[b'x'; 21][..]].concat();
        let obstacle = Obstacle::TooLong {
            length: 21,
            most: 20,
        };
        assert_eq!(fit(2, &long), Fit::Impossible(obstacle));
        let obstacle = Obstacle::OpaqueTooLong { length: 36 };
        assert_eq!(fit(7, &long), Fit::Impossible(obstacle));
    }

    #[test]
    fn damaged_values_are_refused_when_they_are_written_anew() {
        let target = target(ServerFamily::Redis, "6.2.14");
        for value_type in [16, 17, 18, 19, 20, 21] {
            let error = fit(value_type, b"\x05abc", RdbVersion(11), &target).unwrap_err();
            assert!(
                matches!(error, RdbError::Malformed { .. }),
                "{value_type}: {error}"
            );
        }
        let info = KeyInfo {
            db: 0,
            key: vec![],
            expires_at: None,
            access: Access::Unknown,
            value_type: 1,
        };
        assert!(digest(&info, b"\x05abc", RdbVersion(11)).is_err());
    }

    proptest! {
        #[test]
        fn random_hashes_survive_the_way_to_the_other_family_and_back(
            fields in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 0..100),
                (prop::collection::vec(any::<u8>(), 0..100), prop::option::of(0..=REDIS_FIELD_EXPIRY_MAX)),
                1..20,
            )
        ) {
            let mut value = Vec::new();
            write_length(&mut value, fields.len() as u64);
            for (field, (text, expiry)) in &fields {
                write_string(&mut value, field);
                write_string(&mut value, text);
                value.extend(expiry.unwrap_or(-1).to_le_bytes());
            }
            let valkey = RdbVersion(80);
            let lines = describe(22, &value, valkey).unwrap();
            let there = fit(22, &value, valkey, &target(ServerFamily::Redis, "8.2.3")).unwrap();
            let Fit::Rewritten { value_type, value: redis, version, is_lossy: false } = there else {
                panic!("{there:?}");
            };
            prop_assert_eq!(&describe(value_type, &redis, version).unwrap(), &lines);
            let back = fit(value_type, &redis, version, &target(ServerFamily::Valkey, "9.1.2")).unwrap();
            let (value_type, value, version) = match back {
                Fit::Rewritten { value_type, value, version, .. } => (value_type, value, version),
                Fit::AsIs(version) => (value_type, redis, version),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(&describe(value_type, &value, version).unwrap(), &lines);
        }
    }
}
