//! [`RestoreReport`]: what has become of the keys of an input.

use crate::error::KeyText;
use std::fmt;

/// The most keys that a report names for one reason.
pub const NAMED_KEYS_MAX: usize = 100;

/// What has become of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Number of keys that were read from the input, those of an earlier run among them.
    pub read: u64,
    /// Number of keys that an earlier run has dealt with.
    pub resumed: u64,
    /// Number of keys that were restored.
    pub restored: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Number of them that were written in an older form, as the target is older.
    pub rewritten: u64,
    /// Number of them that were made element by element.
    pub by_elements: u64,
    /// Number of hashes whose fields no longer expire.
    pub without_field_expiries: u64,
    /// Number of them that were sent again because a connection had broken, and that the node turned out to have.
    pub confirmed: u64,
    /// Number of keys that were left alone because they exist at the target.
    pub existing: u64,
    /// Number of keys that had expired.
    pub expired: u64,
    /// Number of keys that do not fit the patterns and types.
    pub filtered: u64,
    /// Number of keys of the record of the fleet that was backed up. They are never restored.
    pub record: u64,
    /// Number of keys that could not be restored.
    pub refused: u64,
    /// Those keys, [`NAMED_KEYS_MAX`] at most.
    pub refusals: Vec<KeyRefusal>,
    /// Keys that exist at the target, [`NAMED_KEYS_MAX`] at most, escaped and cut.
    pub existing_keys: Vec<String>,
    /// Number of libraries of functions that were loaded.
    pub functions: u64,
    /// What of the input is lost because it is damaged.
    pub lost: Vec<String>,
    /// Nodes that have evicted keys meanwhile, and how many.
    pub evicted: Vec<(String, u64)>,
    /// What else the operator should know.
    pub remarks: Vec<String>,
}

/// A key that could not be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRefusal {
    /// The database in the input.
    pub db: u32,
    /// The key, escaped and cut.
    pub key: String,
    /// Why.
    pub reason: String,
}

impl RestoreReport {
    /// True if every key that was to be restored is there.
    pub fn is_complete(&self) -> bool {
        self.refused == 0 && self.lost.is_empty() && self.evicted.is_empty()
    }

    /// Adds a key that cannot be restored.
    pub(super) fn refuse(&mut self, db: u32, key: &[u8], reason: impl Into<String>) {
        self.refused += 1;
        if self.refusals.len() < NAMED_KEYS_MAX {
            self.refusals.push(KeyRefusal {
                db,
                key: KeyText(key).to_string(),
                reason: reason.into(),
            });
        }
    }

    /// Adds a key that exists.
    pub(super) fn exists(&mut self, key: &[u8]) {
        self.existing += 1;
        if self.existing_keys.len() < NAMED_KEYS_MAX {
            self.existing_keys.push(KeyText(key).to_string());
        }
    }

    /// Adds what another thread has counted.
    pub(super) fn add(&mut self, other: Self) {
        self.restored += other.restored;
        self.bytes += other.bytes;
        self.rewritten += other.rewritten;
        self.by_elements += other.by_elements;
        self.without_field_expiries += other.without_field_expiries;
        self.confirmed += other.confirmed;
        self.existing += other.existing;
        self.expired += other.expired;
        self.refused += other.refused;
        self.refusals.extend(other.refusals);
        self.refusals.truncate(NAMED_KEYS_MAX);
        self.existing_keys.extend(other.existing_keys);
        self.existing_keys.truncate(NAMED_KEYS_MAX);
    }
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "restored {} of {} keys, {} bytes of values",
            self.restored, self.read, self.bytes
        )?;
        for (count, text) in [
            (self.resumed, "keys were restored by an earlier run"),
            (self.rewritten, "keys were written in an older form"),
            (self.by_elements, "keys were made element by element"),
            (
                self.without_field_expiries,
                "hashes have lost the expiries of their fields",
            ),
            (
                self.confirmed,
                "keys were there already after a connection had broken",
            ),
            (
                self.existing,
                "keys exist at the target and were left alone",
            ),
            (self.expired, "keys had expired and were left out"),
            (self.filtered, "keys were filtered out"),
            (self.record, "keys of the fleet's record were left out"),
            (self.functions, "libraries of functions were loaded"),
            (self.refused, "keys could not be restored"),
        ] {
            if count > 0 {
                writeln!(f, "{count} {text}")?;
            }
        }
        for KeyRefusal { db, key, reason } in &self.refusals {
            writeln!(f, "  {key} of database {db}: {reason}")?;
        }
        for what in &self.lost {
            writeln!(f, "lost: {what}")?;
        }
        for (node, keys) in &self.evicted {
            writeln!(f, "node {node:?} has evicted {keys} keys meanwhile")?;
        }
        for remark in &self.remarks {
            writeln!(f, "{remark}")?;
        }
        Ok(())
    }
}
