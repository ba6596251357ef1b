//! `diff`: whether two backups, or a backup and a fleet, hold the same.

use std::io::{self, Write};

use clap::Args;
use redis_sharding::ShardedClient;
use redis_sharding::ops::restore::{DiffOptions, DiffReport, DiffSide, RestoreInput, diff};
use serde::Serialize;

use super::verify::IdentityArgs;
use crate::fleet::Fleet;
use crate::nodes::AccessArgs;
use crate::outcome::{Failure, Outcome};
use crate::output::{self, Text};

const EXAMPLES: &str = "\
Examples:
  redis-sharding diff users.rsb six-nodes.topology
  redis-sharding diff monday.rsb tuesday.rsb --all
  redis-sharding diff dump.rdb users.topology --json

Compared are databases, keys, values, expiries of keys and fields, and the groups of streams. How keys are encoded or were
used does not count. A fleet should be quiet meanwhile. 33 bytes of memory are needed for each key of FIRST.

Exit code 1 if they differ.

JSON: {equal, keys, equal_keys, only_first, only_second, values, expiries, expired, named: [{db, key, difference}]}";

/// Compares two backups, or a backup and a fleet
///
/// Each is an archive, an RDB file, or a topology's text, whose nodes are read.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Diff {
    /// An archive, an RDB file or a topology's text
    #[arg(value_name = "FIRST")]
    first: String,
    /// What it is compared with: an archive, an RDB file or a topology's text
    #[arg(value_name = "SECOND")]
    second: String,
    /// Names all keys that differ, not the first hundred alone
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Writes JSON
    #[arg(long)]
    json: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    access: AccessArgs,
}

impl Diff {
    pub fn run(self) -> Result<Outcome, Failure> {
        let (first, second) = (self.side(&self.first)?, self.side(&self.second)?);
        let mut options = DiffOptions::new();
        if self.all {
            options = options.with_named(usize::MAX);
        }
        let report = diff(first, second, options);
        let report = report.map_err(|error| Failure::Failed(error.to_string()))?;
        output::write(&Shown::of(&report), self.json)?;
        Ok(Outcome::of(report.is_equal()))
    }

    /// What a file stands for.
    fn side(&self, file: &str) -> Result<DiffSide, Failure> {
        // Archives and RDB files are no text.
        if let Ok(fleet) = Fleet::read_topology(file) {
            let builder = ShardedClient::builder().topology(&fleet.topology);
            return Ok(DiffSide::Fleet(Box::new(self.access.apply(builder)?)));
        }
        let input = RestoreInput::detect(file);
        let input = input.map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(DiffSide::Input(self.identity.apply(input)))
    }
}

#[derive(Serialize)]
struct Shown {
    equal: bool,
    keys: [u64; 2],
    equal_keys: u64,
    only_first: u64,
    only_second: u64,
    values: u64,
    expiries: u64,
    expired: u64,
    named: Vec<ShownKey>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct ShownKey {
    db: u32,
    key: String,
    difference: String,
}

impl Shown {
    fn of(report: &DiffReport) -> Self {
        let named = report.named.iter().map(|named| ShownKey {
            db: named.db,
            key: named.key.clone(),
            difference: named.difference.to_string(),
        });
        Self {
            equal: report.is_equal(),
            keys: report.keys,
            equal_keys: report.equal,
            only_first: report.only_first,
            only_second: report.only_second,
            values: report.values,
            expiries: report.expiries,
            expired: report.expired,
            named: named.collect(),
            text: report.to_string(),
        }
    }
}

impl Text for Shown {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        output.write_all(self.text.as_bytes())
    }
}
