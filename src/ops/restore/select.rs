//! [`Selection`]: which keys are restored, and under which names.

use std::fmt;
use std::str::FromStr;

use crate::plan::glob_matches;
use crate::rdb::value::Kind;
use crate::rdb::{KeyInfo, RdbVersion};
use crate::topology::record::{RECORD_DB, RECORD_PREFIX};

/// The data type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// One string.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
    /// A value of a module, or of a type that is not known.
    Module,
}

/// Which keys are taken, and what becomes of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) patterns: Vec<Vec<u8>>,
    pub(super) types: Vec<KeyType>,
    pub(super) prefixes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) databases: Vec<(u32, u32)>,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It is restored to this database.
    Take(u32),
    /// It has expired.
    Expired,
    /// It does not fit the selection.
    Filtered,
    /// It is part of the record of the fleet that was backed up.
    Record,
}

impl KeyType {
    /// All types.
    pub const ALL: [Self; 7] = [
        Self::String,
        Self::List,
        Self::Set,
        Self::SortedSet,
        Self::Hash,
        Self::Stream,
        Self::Module,
    ];

    /// The name, as the server's `TYPE` has it; `module` for the last one.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Module => "module",
        }
    }

    /// The type of a value.
    pub(super) fn of(value_type: u8, version: RdbVersion) -> Self {
        match Kind::of(value_type, version) {
            Kind::String => Self::String,
            Kind::List => Self::List,
            Kind::Set => Self::Set,
            Kind::SortedSet => Self::SortedSet,
            Kind::Hash => Self::Hash,
            Kind::Stream => Self::Stream,
            Kind::Opaque => Self::Module,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no type of keys; there are {names}")
        })
    }
}

impl Selection {
    /// Decides about a key at a time, in milliseconds since 1970.
    pub(super) fn choose(&self, info: &KeyInfo, version: RdbVersion, now: i64) -> Choice {
        if is_record(info) {
            return Choice::Record;
        }
        let is_matched = self.patterns.is_empty()
            || self
                .patterns
                .iter()
                .any(|pattern| glob_matches(pattern, &info.key));
        let is_of_type =
            self.types.is_empty() || self.types.contains(&KeyType::of(info.value_type, version));
        if !is_matched || !is_of_type {
            return Choice::Filtered;
        }
        if info.expires_at.is_some_and(|at| at <= now) {
            return Choice::Expired;
        }
        let mapped = self.databases.iter().find(|(from, _)| *from == info.db);
        Choice::Take(mapped.map_or(info.db, |(_, to)| *to))
    }

    /// Replaces the prefix of a key.
    pub(super) fn rename(&self, key: Vec<u8>) -> Vec<u8> {
        let renamed = self.prefixes.iter().find_map(|(from, to)| {
            let rest = key.strip_prefix(&from[..])?;
            Some([to, rest].concat())
        });
        renamed.unwrap_or(key)
    }

    /// What distinguishes this selection from others, for the file of a run that is gone on with.
    pub(super) fn text(&self) -> String {
        let patterns = self
            .patterns
            .iter()
            .map(|pattern| pattern.escape_ascii().to_string());
        let prefixes = self
            .prefixes
            .iter()
            .map(|(from, to)| format!("{}={}", from.escape_ascii(), to.escape_ascii()));
        format!(
            "{:?} {:?} {:?} {:?}",
            patterns.collect::<Vec<_>>(),
            self.types,
            prefixes.collect::<Vec<_>>(),
            self.databases
        )
    }
}

/// True for the keys in which a node keeps the record of its fleet. Restored elsewhere, they would name the wrong fleet.
pub(super) fn is_record(info: &KeyInfo) -> bool {
    i64::from(info.db) == RECORD_DB && info.key.starts_with(RECORD_PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::Access;

    fn info(db: u32, key: &str, value_type: u8) -> KeyInfo {
        KeyInfo {
            db,
            key: key.into(),
            expires_at: None,
            access: Access::Unknown,
            value_type,
        }
    }

    #[test]
    fn restore_selects_by_pattern_type_expiry_and_database() {
        let version = RdbVersion(10);
        let all = Selection::default();
        assert_eq!(all.choose(&info(3, "k", 0), version, 0), Choice::Take(3));
        let mut expired = info(0, "k", 0);
        expired.expires_at = Some(10);
        assert_eq!(all.choose(&expired, version, 10), Choice::Expired);
        assert_eq!(all.choose(&expired, version, 9), Choice::Take(0));
        assert_eq!(
            all.choose(&info(15, "redis-sharding:record", 0), version, 0),
            Choice::Record
        );
        assert_eq!(
            all.choose(&info(0, "redis-sharding:record", 0), version, 0),
            Choice::Take(0)
        );
        let some = Selection {
            patterns: vec![b"user:*".to_vec(), b"x".to_vec()],
            types: vec![KeyType::Hash],
            databases: vec![(2, 0)],
            ..Selection::default()
        };
        assert_eq!(
            some.choose(&info(2, "user:1", 16), version, 0),
            Choice::Take(0)
        );
        assert_eq!(some.choose(&info(1, "x", 4), version, 0), Choice::Take(1));
        assert_eq!(
            some.choose(&info(2, "user:1", 0), version, 0),
            Choice::Filtered
        );
        assert_eq!(
            some.choose(&info(2, "other", 4), version, 0),
            Choice::Filtered
        );
    }

    #[test]
    fn restore_replaces_the_first_prefix_that_fits() {
        let selection = Selection {
            prefixes: vec![
                (b"a:".to_vec(), b"b:".to_vec()),
                (b"a".to_vec(), b"".to_vec()),
            ],
            ..Selection::default()
        };
        assert_eq!(selection.rename(b"a:1".to_vec()), b"b:1");
        assert_eq!(selection.rename(b"ab".to_vec()), b"b");
        assert_eq!(selection.rename(b"c".to_vec()), b"c");
    }

    #[test]
    fn key_types_are_read_by_their_names() {
        for key_type in KeyType::ALL {
            assert_eq!(key_type.to_string().parse(), Ok(key_type));
        }
        assert!("table".parse::<KeyType>().is_err());
    }
}
