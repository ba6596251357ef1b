//! [`diff`]: whether two backups, or a backup and a fleet, hold the same.
//!
//! Of one side a digest of each key is kept, 33 bytes for each; the keys of the other one are compared with these as they
//! are read. What was not met is named by reading the first side again.

use std::fmt;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::clients::Clients;
use super::fleet_keys::{self, FleetKey};
use super::input::{InputKey, Item, RestoreInput};
use super::report::NAMED_KEYS_MAX;
use super::select::is_record;
use crate::config::Builder;
use crate::error::{Error, ErrorKind, KeyText};
use crate::ops::clock::own_time;
use crate::rdb::KeyInfo;
use crate::rdb::digest::digest_of_lasting;

/// Maximum duration of a reply.
const REPLY_WITHIN: Duration = Duration::from_secs(120);

/// Fields of hashes that expire within this time after the beginning are not compared: servers delete them when they like.
const FIELDS_MS: i64 = 600_000;

/// Stands for a key that does not expire.
const NEVER: i64 = i64::MAX;

/// One of two things that are compared.
#[derive(Debug)]
pub enum DiffSide {
    /// An archive, or RDB files. Streams can be read only once, and are refused.
    Input(RestoreInput),
    /// The nodes of a fleet or of a Redis Cluster, with the keys that they have now. While clients write, it is no
    /// moment.
    Fleet(Box<Builder>),
}

/// Settings of [`diff`].
#[derive(Clone, Copy, Debug)]
pub struct DiffOptions {
    named: usize,
}

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Difference {
    /// Only the first side has the key.
    OnlyFirst,
    /// Only the second side has the key.
    OnlySecond,
    /// The values differ: elements, their order where there is one, expiries of fields, groups of streams.
    Value,
    /// The values are equal, and the key expires at another time.
    Expiry,
}

/// A key that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DifferentKey {
    /// Its database.
    pub db: u32,
    /// The key, escaped and cut.
    pub key: String,
    /// What is different.
    pub difference: Difference,
}

/// What is different between two sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffReport {
    /// Number of keys of the first and of the second side, without those that have expired.
    pub keys: [u64; 2],
    /// Number of keys that have expired, or did so meanwhile.
    pub expired: u64,
    /// Number of keys that both sides hold alike.
    pub equal: u64,
    /// Number of keys of the first side alone.
    pub only_first: u64,
    /// Number of keys of the second side alone.
    pub only_second: u64,
    /// Number of keys with different values.
    pub values: u64,
    /// Number of keys with equal values that expire at different times.
    pub expiries: u64,
    /// The keys that are different, as many as were asked for.
    pub named: Vec<DifferentKey>,
}

/// What is kept of a key.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Of the database, the key and the value, without the expiry.
    digest: u128,
    /// Of the database and the key.
    id: u64,
    expires_at: i64,
}

/// A key that is compared.
struct Digested {
    kept: Kept,
    db: u32,
    key: Vec<u8>,
    /// By how many milliseconds its expiry may be later than it is given.
    slack: u64,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            named: NAMED_KEYS_MAX,
        }
    }
}

impl DiffOptions {
    /// Returns the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many keys are named. Defaults to [`NAMED_KEYS_MAX`].
    #[must_use]
    pub fn with_named(mut self, keys: usize) -> Self {
        self.named = keys;
        self
    }
}

impl DiffReport {
    /// True if both sides hold the same.
    pub fn is_equal(&self) -> bool {
        self.only_first + self.only_second + self.values + self.expiries == 0
    }

    fn add(&mut self, difference: Difference, db: u32, key: &[u8], named: usize) {
        let count = match difference {
            Difference::OnlyFirst => &mut self.only_first,
            Difference::OnlySecond => &mut self.only_second,
            Difference::Value => &mut self.values,
            Difference::Expiry => &mut self.expiries,
        };
        *count += 1;
        self.name(difference, db, key, named);
    }

    fn name(&mut self, difference: Difference, db: u32, key: &[u8], named: usize) {
        if self.named.len() < named {
            self.named.push(DifferentKey {
                db,
                key: KeyText(key).to_string(),
                difference,
            });
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyFirst => "only in the first",
            Self::OnlySecond => "only in the second",
            Self::Value => "another value",
            Self::Expiry => "another expiry",
        })
    }
}

impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.keys;
        writeln!(f, "{first} and {second} keys, {} equal", self.equal)?;
        for (count, text) in [
            (self.only_first, "only in the first"),
            (self.only_second, "only in the second"),
            (self.values, "with another value"),
            (self.expiries, "with another expiry"),
            (self.expired, "expired, and not compared"),
        ] {
            if count > 0 {
                writeln!(f, "{count} keys {text}")?;
            }
        }
        for DifferentKey {
            db,
            key,
            difference,
        } in &self.named
        {
            writeln!(f, "  {key} of database {db}: {difference}")?;
        }
        let different = self.only_first + self.only_second + self.values + self.expiries;
        match different.saturating_sub(self.named.len() as u64) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}

/// Compares two sides: databases, keys, values, expiries of keys and of fields, and the groups of streams. How keys were
/// used, and functions, are not compared. Nor are fields of hashes that expire within ten minutes: servers delete them when
/// they like.
///
/// Needs 33 bytes of memory for each key of the first side.
///
/// # Errors
///
/// If a node cannot be reached, or an input is damaged.
pub fn diff(
    mut first: DiffSide,
    mut second: DiffSide,
    options: DiffOptions,
) -> Result<DiffReport, Error> {
    let mut report = DiffReport::default();
    let lasting = own_time().saturating_add(FIELDS_MS);
    let mut kept: Vec<Kept> = Vec::new();
    // Of all keys, as none is kept for each.
    let mut first_slack = 0;
    first.read(lasting, &mut |key| {
        first_slack = first_slack.max(key.slack);
        match is_over(&key) {
            true => report.expired += 1,
            false => kept.push(key.kept),
        }
        Ok(())
    })?;
    kept.sort_unstable_by_key(|kept| (kept.id, kept.digest));
    // A key that a scan has met twice.
    kept.dedup_by_key(|kept| (kept.id, kept.digest));
    report.keys = [kept.len() as u64, 0];
    let mut seen = vec![false; kept.len()];
    second.read(lasting, &mut |key| {
        if is_over(&key) {
            report.expired += 1;
            return Ok(());
        }
        let slack = key.slack + first_slack;
        compare(&key, slack, (&kept, &mut seen), &mut report, options.named);
        Ok(())
    })?;
    missing(
        &mut first,
        lasting,
        (&kept, &seen),
        &mut report,
        options.named,
    )?;
    Ok(report)
}

/// Compares a key of the second side with what is known of the first one.
fn compare(
    key: &Digested,
    slack: u64,
    (kept, seen): (&[Kept], &mut [bool]),
    report: &mut DiffReport,
    named: usize,
) {
    let start = kept.partition_point(|kept| kept.id < key.kept.id);
    let alike = kept.iter().zip(seen).skip(start);
    let mut other = None;
    for (kept, seen) in alike.take_while(|(kept, _)| kept.id == key.kept.id) {
        if kept.digest != key.kept.digest {
            other = other.or((!*seen).then_some(seen));
            continue;
        }
        if std::mem::replace(seen, true) {
            // A scan has met it twice.
            return;
        }
        report.keys[1] += 1;
        match kept.expires_at.abs_diff(key.kept.expires_at) <= slack {
            true => report.equal += 1,
            false => report.add(Difference::Expiry, key.db, &key.key, named),
        }
        return;
    }
    report.keys[1] += 1;
    match other {
        Some(seen) => {
            *seen = true;
            report.add(Difference::Value, key.db, &key.key, named);
        }
        None => report.add(Difference::OnlySecond, key.db, &key.key, named),
    }
}

/// Counts and names the keys that the second side does not have.
fn missing(
    first: &mut DiffSide,
    lasting: i64,
    (kept, seen): (&[Kept], &[bool]),
    report: &mut DiffReport,
    named: usize,
) -> Result<(), Error> {
    let now = own_time();
    let unseen = kept.iter().zip(seen).filter(|(_, seen)| !**seen);
    let mut ids = Vec::new();
    for (kept, _) in unseen {
        // It may have been removed before the second side was read.
        match kept.expires_at <= now {
            true => report.expired += 1,
            false => {
                report.only_first += 1;
                ids.push(kept.id);
            }
        }
    }
    if ids.is_empty() || report.named.len() >= named {
        return Ok(());
    }
    let until = named.min(report.named.len() + ids.len());
    let read = first.read(lasting, &mut |key| {
        if ids.binary_search(&key.kept.id).is_ok() {
            report.name(Difference::OnlyFirst, key.db, &key.key, named);
        }
        match report.named.len() >= until {
            // All are named.
            true => Err(enough()),
            false => Ok(()),
        }
    });
    match read {
        Err(_) if report.named.len() >= until => Ok(()),
        other => other,
    }
}

/// Ends the reading, and is not returned.
fn enough() -> Error {
    Error::config("all keys are named")
}

impl DiffSide {
    /// Reads all keys but those of the record.
    /// Fields of hashes that expire before `lasting` do not count.
    fn read(
        &mut self,
        lasting: i64,
        sink: &mut dyn FnMut(Digested) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self {
            Self::Fleet(builder) => {
                let clients = Clients::new((**builder).clone(), REPLY_WITHIN);
                let map = |FleetKey { key, slack }: FleetKey| Digested::of(key, slack, lasting);
                fleet_keys::read(&clients, &map, &mut |key| key.map_or(Ok(()), &mut *sink))
            }
            Self::Input(input) => {
                input.fingerprint("")?;
                let mut items = input.items(false)?;
                while let Some(item) = items.next()? {
                    if let Item::Key(key) = item
                        && let Some(key) = Digested::of(key, 0, lasting)?
                    {
                        sink(key)?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Digested {
    /// `None` for a key of the record, and for a hash whose fields expire before `lasting`.
    fn of(key: InputKey, slack: u64, lasting: i64) -> Result<Option<Self>, Error> {
        let InputKey {
            mut info,
            version,
            value,
        } = key;
        if is_record(&info) {
            return Ok(None);
        }
        let expires_at = info.expires_at.take().unwrap_or(NEVER);
        let digest = digest_of_lasting(&info, &value, version, lasting).map_err(|error| {
            let text = format!("the value of {} is damaged: {error}", KeyText(&info.key));
            Error::new(ErrorKind::Archive, text).about_keys([&info.key[..]])
        })?;
        let Some(digest) = digest else {
            return Ok(None);
        };
        let id = id_of(&info);
        Ok(Some(Self {
            kept: Kept {
                digest: digest.0,
                id,
                expires_at,
            },
            db: info.db,
            key: info.key,
            slack,
        }))
    }
}

fn id_of(info: &KeyInfo) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&info.db.to_le_bytes());
    hash.update(&info.key);
    hash.digest()
}

fn is_over(key: &Digested) -> bool {
    key.kept.expires_at <= own_time()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(id: u64, digest: u128, expires_at: i64) -> Kept {
        Kept {
            digest,
            id,
            expires_at,
        }
    }

    #[test]
    fn keys_are_compared_by_id_value_and_expiry() {
        let first = [
            kept(1, 10, NEVER),
            kept(2, 20, 5000),
            kept(3, 30, NEVER),
            kept(3, 31, NEVER),
            kept(4, 40, 7000),
        ];
        let mut seen = [false; 5];
        let mut report = DiffReport::default();
        let mut meet = |id, digest, expires_at, slack| {
            let key = Digested {
                kept: kept(id, digest, expires_at),
                db: 0,
                key: format!("k{id}").into_bytes(),
                slack: 0,
            };
            compare(&key, slack, (&first, &mut seen), &mut report, 2);
        };
        meet(1, 10, NEVER, 0);
        meet(1, 10, NEVER, 0); // again
        meet(2, 20, 5050, 100);
        meet(3, 31, NEVER, 0);
        meet(3, 99, NEVER, 0);
        meet(4, 40, 7001, 0);
        meet(5, 50, NEVER, 0);
        assert_eq!((report.keys[1], report.equal), (6, 3));
        assert_eq!(
            (report.values, report.expiries, report.only_second),
            (1, 1, 1)
        );
        assert_eq!(report.named.len(), 2);
        assert!(report.to_string().contains("and 1 more"), "{report}");
        assert_eq!(seen, [true; 5]);
    }

    #[test]
    fn what_is_kept_of_a_key_has_32_bytes() {
        assert_eq!(size_of::<Kept>(), 32);
    }
}
