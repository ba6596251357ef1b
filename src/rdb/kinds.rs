//! The numbers of opcodes and of types of values, and how the bytes of each type are laid out.

use super::RdbError;
use super::version::{Family, RdbVersion};

/// Opcodes: bytes that begin a record, and are no type of a value.
pub(super) mod opcode {
    /// State of a slot that is being imported, in Valkey 9. In Redis 8.6 metadata of a key.
    pub(crate) const SLOT_IMPORT: u8 = 243;
    /// Sizes of a slot.
    pub(crate) const SLOT_INFO: u8 = 244;
    /// A library of functions.
    pub(crate) const FUNCTION: u8 = 245;
    /// What a module keeps beside its keys.
    pub(crate) const MODULE_AUX: u8 = 247;
    /// How long the next key was not used, in seconds.
    pub(crate) const IDLE: u8 = 248;
    /// How often the next key was used.
    pub(crate) const FREQUENCY: u8 = 249;
    /// A fact of the server, by name.
    pub(crate) const AUX: u8 = 250;
    /// How many keys the database has.
    pub(crate) const SIZES: u8 = 251;
    /// When the next key expires, in milliseconds.
    pub(crate) const EXPIRES_MS: u8 = 252;
    /// When the next key expires, in seconds.
    pub(crate) const EXPIRES_S: u8 = 253;
    /// The database of the next keys.
    pub(crate) const DATABASE: u8 = 254;
    /// The end.
    pub(crate) const END: u8 = 255;
}

/// How the bytes of a value follow one another: enough to find where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One string.
    String,
    /// A number of elements, each of some strings.
    Strings {
        /// Strings of each element.
        each: u8,
    },
    /// A number of nodes, each a number (its container) and a string.
    NumberedStrings,
    /// A number of members, each with a score of eight bytes.
    Scored,
    /// A number of members, each with a score as text.
    TextScored,
    /// The smallest time, a number of pairs, and each pair with its time before it.
    ExpiringPairs,
    /// A number of pairs, and each pair with its time before it.
    EarlyExpiringPairs,
    /// A number of pairs, each with its time in eight bytes behind it.
    PairsExpiring,
    /// The smallest time, and one string.
    ExpiringString,
    /// A module's ID, and what the module has written.
    Module,
    /// A stream.
    Stream {
        /// 1 to 3: what is written of it has grown.
        generation: u8,
    },
}

/// Returns how values of a type are laid out.
///
/// `offset` is where the type stands, for errors.
pub(super) fn layout(value_type: u8, version: RdbVersion, offset: u64) -> Result<Layout, RdbError> {
    let is_valkey = version.family() == Family::Valkey;
    Ok(match value_type {
        0 | 9..=13 | 16 | 17 | 20 => Layout::String,
        1 | 2 | 14 => Layout::Strings { each: 1 },
        4 => Layout::Strings { each: 2 },
        3 => Layout::TextScored,
        5 => Layout::Scored,
        7 => Layout::Module,
        15 => Layout::Stream { generation: 1 },
        19 => Layout::Stream { generation: 2 },
        21 => Layout::Stream { generation: 3 },
        18 => Layout::NumberedStrings,
        22 if is_valkey => Layout::PairsExpiring,
        22 => Layout::EarlyExpiringPairs,
        23 if !is_valkey => Layout::String,
        24 if !is_valkey => Layout::ExpiringPairs,
        25 if !is_valkey => Layout::ExpiringString,
        number => return Err(unreadable(number, version, offset)),
    })
}

/// Makes the error for a byte that is neither an opcode nor a type that can be read.
pub(super) fn unreadable(number: u8, version: RdbVersion, offset: u64) -> RdbError {
    match name(number, version.family()) {
        Some((name, since)) => RdbError::Unsupported {
            offset,
            number,
            name,
            since,
        },
        None => RdbError::Unknown { offset, number },
    }
}

/// What is known by name alone, and the server that writes it.
fn name(number: u8, family: Family) -> Option<(&'static str, &'static str)> {
    Some(match (number, family) {
        (6, _) => ("a module's value", "release candidates of Redis 4.0"),
        (246, _) => ("a library of functions", "release candidates of Redis 7.0"),
        (23, Family::Valkey) => ("a path hash", "Valkey 9.2"),
        (242, Family::Valkey) => ("a command of a save without a fork", "Valkey 9.2"),
        (26, Family::Redis) => ("a stream with idempotent producers", "Redis 8.6"),
        (27, Family::Redis) => ("a stream with refused entries", "Redis 8.8"),
        (28, Family::Redis) => ("an array", "Redis 8.8"),
        (29..=32, Family::Redis) => ("a hash with a template", "Redis 8.10"),
        (33, Family::Redis) => ("a rate limiter (GCRA)", "Redis 8.8"),
        (242, Family::Redis) => ("a template of hashes", "Redis 8.10"),
        (243, Family::Redis) => ("metadata of a key", "Redis 8.6"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDIS: RdbVersion = RdbVersion(12);
    const VALKEY: RdbVersion = RdbVersion(80);

    #[test]
    fn types_of_both_families_that_share_a_number_differ() {
        assert_eq!(layout(22, REDIS, 0).unwrap(), Layout::EarlyExpiringPairs);
        assert_eq!(layout(22, VALKEY, 0).unwrap(), Layout::PairsExpiring);
        assert_eq!(layout(25, REDIS, 0).unwrap(), Layout::ExpiringString);
        let error = layout(25, VALKEY, 0).unwrap_err();
        assert!(matches!(error, RdbError::Unknown { number: 25, .. }));
    }

    #[test]
    fn types_of_later_servers_are_refused_with_their_names() {
        for number in (26..=33).chain([242, 243]) {
            let error = layout(number, REDIS, 7).unwrap_err();
            let RdbError::Unsupported {
                offset: 7, since, ..
            } = error
            else {
                panic!("{number}: {error}");
            };
            assert!(since.starts_with("Redis 8."), "{number}: {since}");
            assert!(error.to_string().contains(since));
        }
        for number in [23, 242] {
            let error = layout(number, VALKEY, 7).unwrap_err().to_string();
            assert!(error.contains("Valkey 9.2"), "{error}");
        }
    }

    #[test]
    fn other_numbers_are_unknown() {
        for number in [8, 34, 100, 241] {
            let error = layout(number, REDIS, 7).unwrap_err();
            assert!(matches!(error, RdbError::Unknown { offset: 7, .. }));
        }
    }
}
