//! `verify`: whether a backup is good.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;
use redis_sharding::ops::restore::{RestoreInput, VerifyReport, verify};
use serde::Serialize;

use crate::outcome::{Failure, Outcome};
use crate::output::{self, Text};

const EXAMPLES: &str = "\
Examples:
  redis-sharding verify users.rsb
  redis-sharding verify dump.rdb --json

Exit code 1 if a part is damaged or missing, or a value cannot be decoded.

JSON: {good, keys, bytes, functions, types, digest, damage, malformed, malformed_keys: [{db, key, reason}], remarks}";

/// Reads all of a backup, and says whether it is good
///
/// Checks every checksum, decodes every value, and compares the numbers with those that the archive has of itself. The
/// digest is the same for backups that hold the same, whatever the servers and encodings.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Verify {
    /// An archive or an RDB file; - for an archive on standard input
    #[arg(value_name = "ARCHIVE")]
    archive: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Writes JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self) -> Result<Outcome, Failure> {
        let mut input = input(&self.archive, &self.identity)?;
        let report = verify(&mut input).map_err(|error| Failure::Failed(error.to_string()))?;
        output::write(&Shown::of(&report), self.json)?;
        Ok(Outcome::of(report.is_good()))
    }
}

/// The key of an encrypted archive.
#[derive(Args)]
pub struct IdentityArgs {
    /// File with the key of an encrypted archive, as age-keygen writes it
    #[cfg(feature = "backup-encryption")]
    #[arg(long, value_name = "FILE")]
    identity: Option<String>,
}

impl IdentityArgs {
    /// Has the input read with this key.
    #[cfg(feature = "backup-encryption")]
    pub fn apply(&self, input: RestoreInput) -> RestoreInput {
        match &self.identity {
            Some(identity) => input.with_identity(identity),
            None => input,
        }
    }

    /// Archives are not encrypted.
    #[cfg(not(feature = "backup-encryption"))]
    pub fn apply(&self, input: RestoreInput) -> RestoreInput {
        input
    }
}

/// The archive or RDB file that the command line names.
pub fn input(file: &str, identity: &IdentityArgs) -> Result<RestoreInput, Failure> {
    let input = match file {
        "-" => RestoreInput::archive_stream(io::stdin()),
        file => {
            let input = RestoreInput::detect(file);
            input.map_err(|error| Failure::Usage(error.to_string()))?
        }
    };
    Ok(identity.apply(input))
}

#[derive(Serialize)]
struct Shown {
    good: bool,
    keys: u64,
    bytes: u64,
    functions: u64,
    types: BTreeMap<&'static str, u64>,
    digest: String,
    damage: Vec<String>,
    malformed: u64,
    malformed_keys: Vec<ShownKey>,
    remarks: Vec<String>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct ShownKey {
    db: u32,
    key: String,
    reason: String,
}

impl Shown {
    fn of(report: &VerifyReport) -> Self {
        let types = report.types.iter();
        let malformed = report.malformed_keys.iter().map(|key| ShownKey {
            db: key.db,
            key: key.key.clone(),
            reason: key.reason.clone(),
        });
        Self {
            good: report.is_good(),
            keys: report.keys,
            bytes: report.bytes,
            functions: report.functions,
            types: types.map(|(name, keys)| (name.name(), *keys)).collect(),
            digest: report.digest.clone(),
            damage: report.damage.clone(),
            malformed: report.malformed,
            malformed_keys: malformed.collect(),
            remarks: report.remarks.clone(),
            text: report.to_string(),
        }
    }
}

impl Text for Shown {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        output.write_all(self.text.as_bytes())
    }
}
