//! `inspect`: what a backup says of itself.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::Args;
use indicatif::HumanBytes;
use redis_sharding::ops::restore::{InspectedNode, Inspection, KeyType, inspect};
use serde::Serialize;

use super::verify::{IdentityArgs, input};
use crate::outcome::{Failure, Outcome};
use crate::output::{self, BAD, HEAD, Text};

const EXAMPLES: &str = "\
Examples:
  redis-sharding inspect users.rsb
  redis-sharding inspect users.rsb --topology > users.topology
  redis-sharding inspect dump.rdb --json

Exit code 1 if the end of an archive is missing, or an RDB file is damaged. `verify` looks at all of an archive.

JSON: {created_at, tool, cut, consistent, whole_writes, paused_for, topology, fingerprint, remarks, damage,
nodes: [{name, address, server, rdb_version, replication_offset, keys, bytes, largest, functions, expired, types, databases}]}
Times are milliseconds since 1970, the pause is in microseconds. What is not known is null.";

/// Shows what a backup says of itself: when and how it was made, and what it holds
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// An archive or an RDB file; - for an archive on standard input
    #[arg(value_name = "ARCHIVE")]
    archive: String,
    /// Writes the text of the topology alone
    #[arg(long, conflicts_with = "json")]
    topology: bool,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Writes JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> Result<Outcome, Failure> {
        let mut input = input(&self.archive, &self.identity)?;
        let found = inspect(&mut input).map_err(|error| Failure::Failed(error.to_string()))?;
        if self.topology {
            let text = found.topology.as_deref().ok_or_else(|| {
                Failure::Failed("the backup does not say which topology the fleet had".into())
            })?;
            let mut output = io::stdout().lock();
            output.write_all(text.as_bytes())?;
            output.flush()?;
            return Ok(Outcome::Fine);
        }
        output::write(&Shown::of(&found), self.json)?;
        Ok(Outcome::of(found.damage.is_empty()))
    }
}

#[derive(Serialize)]
struct Shown {
    created_at: Option<u64>,
    tool: Option<String>,
    cut: Option<String>,
    consistent: Option<bool>,
    whole_writes: Option<bool>,
    paused_for: Option<u64>,
    topology: Option<String>,
    fingerprint: Option<String>,
    nodes: Vec<ShownNode>,
    remarks: Vec<String>,
    damage: Vec<String>,
}

#[derive(Serialize)]
struct ShownNode {
    name: String,
    address: Option<String>,
    server: Option<String>,
    rdb_version: Option<u16>,
    replication_offset: Option<u64>,
    keys: Option<u64>,
    bytes: Option<u64>,
    largest: Option<u64>,
    functions: Option<u64>,
    expired: Option<u64>,
    types: BTreeMap<&'static str, u64>,
    databases: BTreeMap<u32, u64>,
}

impl Shown {
    fn of(found: &Inspection) -> Self {
        Self {
            created_at: found.created_at,
            tool: found.tool.clone(),
            cut: found.cut.clone(),
            consistent: found.is_consistent,
            whole_writes: found.has_whole_writes,
            paused_for: found.paused_for,
            topology: found.topology.clone(),
            fingerprint: found.fingerprint.map(|number| format!("{number:016x}")),
            nodes: found.nodes.iter().map(ShownNode::of).collect(),
            remarks: found.remarks.clone(),
            damage: found.damage.clone(),
        }
    }
}

impl ShownNode {
    fn of(node: &InspectedNode) -> Self {
        let types = node.types.iter();
        Self {
            name: node.name.clone(),
            address: node.address.clone(),
            server: node.server.clone(),
            rdb_version: node.rdb_version,
            replication_offset: node.replication_offset,
            keys: node.keys,
            bytes: node.bytes,
            largest: node.largest,
            functions: node.functions,
            expired: node.expired,
            types: types
                .map(|(key_type, keys): (&KeyType, &u64)| (key_type.name(), *keys))
                .collect(),
            databases: node.databases.clone(),
        }
    }
}

impl Text for Shown {
    fn write(&self, output: &mut impl Write) -> io::Result<()> {
        if let Some(created_at) = self.created_at {
            let tool = self.tool.as_deref().unwrap_or("a server");
            writeln!(output, "made at {} by {tool}", utc(created_at))?;
        }
        if let Some(cut) = &self.cut {
            let moment = match self.consistent {
                Some(true) => "all nodes at one moment",
                _ => "no common moment",
            };
            let pause = self.paused_for.map(|pause| {
                let ms = pause as f64 / 1000.0;
                format!(", writes paused for {ms:.1} ms")
            });
            writeln!(output, "cut: {cut}, {moment}{}", pause.unwrap_or_default())?;
        }
        match self.whole_writes {
            Some(true) => writeln!(output, "writes to several keys are whole")?,
            Some(false) => writeln!(output, "writes to several nodes may be there in part")?,
            None => {}
        }
        if let Some(fingerprint) = &self.fingerprint {
            writeln!(output, "topology {fingerprint}")?;
        }
        writeln!(
            output,
            "\n{HEAD}{:>12} {:>12}  node{HEAD:#}",
            "keys", "bytes"
        )?;
        for node in &self.nodes {
            write_node(node, output)?;
        }
        for remark in &self.remarks {
            writeln!(output, "{remark}")?;
        }
        for damage in &self.damage {
            writeln!(output, "{BAD}{damage}{BAD:#}")?;
        }
        Ok(())
    }
}

fn write_node(node: &ShownNode, output: &mut impl Write) -> io::Result<()> {
    let known = |number: Option<u64>, text: fn(u64) -> String| number.map_or("?".into(), text);
    let keys = known(node.keys, |keys| keys.to_string());
    let bytes = known(node.bytes, |bytes| HumanBytes(bytes).to_string());
    let server = node.server.as_deref().unwrap_or("an unknown server");
    writeln!(output, "{keys:>12} {bytes:>12}  {} ({server})", node.name)?;
    let databases = node
        .databases
        .iter()
        .map(|(db, keys)| format!("db{db}: {keys}"));
    let types = node
        .types
        .iter()
        .map(|(name, keys)| format!("{name}: {keys}"));
    let parts: Vec<String> = databases.chain(types).collect();
    if !parts.is_empty() {
        writeln!(output, "{:26}{}", "", parts.join(", "))?;
    }
    Ok(())
}

/// A time in milliseconds since 1970, as date and time of UTC.
fn utc(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from the first of March of the year 0, in periods of 400 years (Howard Hinnant, `civil_from_days`).
    let from_march = days + 719_468;
    let (period, day) = (
        from_march.div_euclid(146_097),
        from_march.rem_euclid(146_097),
    );
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + 400 * period + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_847_127_231), "2026-11-28 06:25:27 UTC");
    }
}
