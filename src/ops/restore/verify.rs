//! [`verify`]: whether an input is good.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::archive_items::{self, ArchiveBytes};
use super::input::{Item, RestoreInput, Source};
use super::report::{KeyRefusal, NAMED_KEYS_MAX};
use super::select::KeyType;
use crate::error::{Error, KeyText};
use crate::rdb::{KeyDigest, KeyInfo, RdbVersion, digest};

/// What an input holds, and what of it is damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Number of keys that are good.
    pub keys: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Number of libraries of functions.
    pub functions: u64,
    /// Number of keys of each type.
    pub types: BTreeMap<KeyType, u64>,
    /// A number for all keys, values and expiries, in whichever order and encoding: 32 hexadecimal digits.
    pub digest: String,
    /// Parts that are damaged.
    pub damage: Vec<String>,
    /// Number of keys whose bytes are whole, and whose value cannot be decoded.
    pub malformed: u64,
    /// Those keys, [`NAMED_KEYS_MAX`] at most.
    pub malformed_keys: Vec<KeyRefusal>,
    /// What else is to be known.
    pub remarks: Vec<String>,
}

impl VerifyReport {
    /// True if all is good.
    pub fn is_good(&self) -> bool {
        self.damage.is_empty() && self.malformed == 0
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} keys with {} bytes of values are good, and {} libraries of functions",
            self.keys, self.bytes, self.functions
        )?;
        for (key_type, keys) in &self.types {
            writeln!(f, "  {key_type}: {keys}")?;
        }
        writeln!(f, "digest {}", self.digest)?;
        for what in &self.damage {
            writeln!(f, "damaged: {what}")?;
        }
        if self.malformed > 0 {
            writeln!(f, "{} keys cannot be decoded", self.malformed)?;
        }
        for KeyRefusal { db, key, reason } in &self.malformed_keys {
            writeln!(f, "  {key} of database {db}: {reason}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "{remark}")?;
        }
        Ok(())
    }
}

/// Reads all of an input, with its checksums, decodes every value, and compares the numbers with those that the input has
/// of itself.
///
/// # Errors
///
/// If the input cannot be read at all, such as a file that is no archive.
pub fn verify(input: &mut RestoreInput) -> Result<VerifyReport, Error> {
    let mut report = VerifyReport::default();
    let mut sum = KeyDigest::default();
    match &mut input.source {
        Source::RdbFiles(_) => {
            let mut items = input.items(true)?;
            while let Some(item) = items.next()? {
                match item {
                    Item::Lost(what) => report.damage.push(what),
                    Item::Remark(text) => report.remarks.push(text),
                    Item::Function(_) => report.functions += 1,
                    Item::Key(key) => {
                        add(&mut report, &mut sum, &key.info, (&key.value, key.version));
                    }
                }
            }
        }
        Source::ArchiveFile(file) => {
            let (name, read) = (file.display().to_string(), archive_items::open(file)?);
            of_archive(
                read,
                &name,
                input.identity.as_deref(),
                &mut report,
                &mut sum,
            )?;
        }
        Source::ArchiveStream(read) => {
            let read = read.take();
            let read = read.ok_or_else(|| Error::config("a stream can be read only once"))?;
            let identity = input.identity.as_deref();
            of_archive(read, "the archive", identity, &mut report, &mut sum)?;
        }
    }
    report.digest = sum.to_string();
    Ok(report)
}

fn of_archive(
    read: ArchiveBytes,
    name: &str,
    identity: Option<&Path>,
    report: &mut VerifyReport,
    sum: &mut KeyDigest,
) -> Result<(), Error> {
    let found = archive_items::verify(read, name, identity, &mut |entry| {
        add(report, sum, &entry.info, (&entry.value, entry.version));
        // Named in this report already.
        Ok(())
    })?;
    report.functions = found.sum().functions;
    report.damage = archive_items::verification_texts(&found);
    Ok(())
}

fn add(
    report: &mut VerifyReport,
    sum: &mut KeyDigest,
    info: &KeyInfo,
    (value, version): (&[u8], RdbVersion),
) {
    match digest(info, value, version) {
        Ok(digest) => {
            *sum = sum.plus(digest);
            report.keys += 1;
            report.bytes += value.len() as u64;
            let key_type = KeyType::of(info.value_type, version);
            *report.types.entry(key_type).or_default() += 1;
        }
        Err(error) => {
            report.malformed += 1;
            if report.malformed_keys.len() < NAMED_KEYS_MAX {
                report.malformed_keys.push(KeyRefusal {
                    db: info.db,
                    key: KeyText(&info.key).to_string(),
                    reason: error.to_string(),
                });
            }
        }
    }
}
