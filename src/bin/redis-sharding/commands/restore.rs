//! `restore`: the keys of a backup go to the nodes that own them now.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use redis_sharding::ops::restore::{
    ExistingKeys, KeyType, Restore as Restorer, RestoreEvent, RestoreInput, RestoreOptions,
    RestorePlan, RestoreReport,
};
use serde_json::{Value, json};

use super::verify::IdentityArgs;
use crate::nodes::NodeArgs;
use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::proxy_options;

const EXAMPLES: &str = "\
Examples:
  redis-sharding restore users.rsb --topology six-nodes.topology
  redis-sharding restore users.rsb --topology users.topology --dry-run
  redis-sharding restore users.rsb --topology users.topology --replace --match 'user:*' --prefix user:=test:user:
  redis-sharding restore users.rsb --cluster 10.0.0.1:6379 --db 3=0 --progress restore.progress
  redis-sharding restore --rdb a/dump.rdb b/dump.rdb --topology users.topology
  ssh backup@host cat users.rsb | redis-sharding restore - --topology users.topology

Exit code 1 if a key could not be restored, was evicted meanwhile, or is lost with a damaged part of the archive.";

/// Restores a backup to any number of nodes
///
/// Each key goes to the node that owns it by the topology that is given here. A key that exists ends the restore, unless
/// --skip or --replace says otherwise. See docs/backup.md.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Restore {
    /// The archive; - for standard input
    #[arg(
        value_name = "ARCHIVE",
        required_unless_present = "rdb",
        conflicts_with = "rdb"
    )]
    archive: Option<String>,
    /// RDB files of servers, in place of an archive
    #[arg(long, value_name = "FILE", num_args = 1..)]
    rdb: Vec<String>,
    /// Replaces keys that exist
    #[arg(long, conflicts_with_all = ["skip", "fail"])]
    replace: bool,
    /// Leaves keys alone that exist
    #[arg(long, conflicts_with = "fail")]
    skip: bool,
    /// Ends at the first key that exists, which is the default
    #[arg(long)]
    fail: bool,
    /// Restores only keys that match this pattern, as KEYS has it; may be repeated
    #[arg(long = "match", value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Restores only keys of this type: string, list, set, zset, hash, stream or module; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<KeyType>,
    /// Gives keys that begin with OLD a name that begins with NEW; may be repeated
    #[arg(long = "prefix", value_name = "OLD=NEW", value_parser = prefix)]
    prefixes: Vec<(String, String)>,
    /// Restores the keys of database FROM to database TO; may be repeated
    #[arg(long = "db", value_name = "FROM=TO", value_parser = databases)]
    databases: Vec<(u32, u32)>,
    /// Loads no functions
    #[arg(long)]
    no_functions: bool,
    /// Bytes of values that are sent in a second at most
    #[arg(long, value_name = "BYTES", value_parser = |value: &str| proxy_options::bytes("--rate", value))]
    rate: Option<usize>,
    /// Makes values of this size and above element by element, so that they do not block their server
    ///
    /// Readers see a part of such a value meanwhile. Without this option, it is done for values alone that are longer than
    /// the server's proto-max-bulk-len.
    #[arg(long, value_name = "BYTES", value_parser = |value: &str| proxy_options::bytes("--elements-above", value))]
    elements_above: Option<usize>,
    /// Number of threads that send keys [default: two for each node, 16 at most]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// For how long a node that cannot be reached is waited for
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    outage_timeout: u64,
    /// Keeps in a file how far all nodes have acknowledged, and goes on from there if it exists
    #[arg(long, value_name = "FILE")]
    progress: Option<String>,
    /// Restores what is still good of a damaged archive
    #[arg(long)]
    damaged: bool,
    /// Accepts nodes that evict keys when their memory is full
    #[arg(long)]
    allow_eviction: bool,
    /// Accepts nodes whose free memory seems too little
    #[arg(long)]
    allow_little_memory: bool,
    /// Goes on although a server was restarted, as all servers write each key to disk
    #[arg(long)]
    allow_restarted: bool,
    /// Keeps fields of hashes forever where the server cannot hold their expiry
    #[arg(long)]
    drop_field_expiries: bool,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Shows what would be restored where, and why it cannot be; changes nothing
    #[arg(long)]
    dry_run: bool,
    /// Writes JSON
    #[arg(long)]
    json: bool,
    // Last: its heading in the help would be that of what follows.
    #[command(flatten)]
    nodes: NodeArgs,
}

impl Restore {
    pub fn run(self) -> Result<Outcome, Failure> {
        let restorer = Restorer::new(self.nodes.builder()?, self.options())?;
        let mut input = self.input();
        if self.dry_run {
            let plan = restorer.plan(&mut input).map_err(failed)?;
            match self.json {
                true => output::write_json(&plan_json(&plan))?,
                false => print(&plan.to_string())?,
            }
            return Ok(Outcome::of(plan.is_possible()));
        }
        let mut progress = Progress::new();
        let restored = restorer.run(&mut input, |event| progress.event(event));
        progress.bar.finish_and_clear();
        let (report, failure) = match restored {
            Ok(report) => (report, None),
            Err(error) => match progress.stopped.take() {
                Some(report) => (report, Some(failed(error))),
                None => return Err(failed(error)),
            },
        };
        match self.json {
            true => output::write_json(&report_json(&report))?,
            false => print(&format!("{report}{}", progress.summary(&report)))?,
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(Outcome::of(report.is_complete())),
        }
    }

    fn options(&self) -> RestoreOptions {
        let existing = match (self.replace, self.skip) {
            (true, _) => ExistingKeys::Replace,
            (_, true) => ExistingKeys::Skip,
            _ => ExistingKeys::Fail,
        };
        let mut options = RestoreOptions::new()
            .with_existing(existing)
            .with_functions(!self.no_functions)
            .with_bytes_per_second(self.rate.map(|rate| rate as u64))
            .with_element_bytes(self.elements_above.map(|bytes| bytes as u64))
            .with_outage_timeout(Duration::from_secs(self.outage_timeout))
            .with_damaged(self.damaged)
            .with_evicting(self.allow_eviction)
            .with_little_memory(self.allow_little_memory)
            .with_restarted(self.allow_restarted)
            .with_dropped_field_expiries(self.drop_field_expiries);
        for pattern in &self.patterns {
            options = options.with_pattern(pattern.as_bytes());
        }
        for key_type in &self.types {
            options = options.with_type(*key_type);
        }
        for (from, to) in &self.prefixes {
            options = options.with_prefix(from.as_bytes(), to.as_bytes());
        }
        for (from, to) in &self.databases {
            options = options.with_database(*from, *to);
        }
        if let Some(workers) = self.workers {
            options = options.with_workers(workers);
        }
        match &self.progress {
            Some(file) => options.with_progress(file),
            None => options,
        }
    }

    fn input(&self) -> RestoreInput {
        let input = match self.archive.as_deref() {
            None => RestoreInput::rdb(&self.rdb),
            Some("-") => RestoreInput::archive_stream(io::stdin()),
            Some(file) => RestoreInput::archive(file),
        };
        self.identity.apply(input)
    }
}

/// What has happened in a run, and its bar on standard error.
struct Progress {
    bar: ProgressBar,
    start: Instant,
    bytes: u64,
    stopped: Option<RestoreReport>,
}

impl Progress {
    fn new() -> Self {
        Self {
            bar: ProgressBar::no_length(),
            start: Instant::now(),
            bytes: 0,
            stopped: None,
        }
    }

    fn event(&mut self, event: RestoreEvent) {
        match event {
            RestoreEvent::Begun { keys, resumed, .. } => {
                let template = match keys {
                    Some(keys) => {
                        self.bar.set_length(keys);
                        "{bar:30} {pos}/{len} keys, {per_sec}, {eta} left, {msg}"
                    }
                    None => "{spinner} {pos} keys, {per_sec}, {msg}",
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    self.bar.set_style(style);
                }
                self.bar.set_position(resumed);
            }
            RestoreEvent::Restored { keys, bytes } => {
                self.bytes += bytes;
                self.bar.inc(keys);
                self.bar.set_message(HumanBytes(self.bytes).to_string());
            }
            RestoreEvent::LargeValue { key, bytes } => {
                let size = HumanBytes(bytes);
                self.bar.println(format!(
                    "{key} has {size}: its server is blocked for a while; --elements-above avoids that"
                ));
            }
            RestoreEvent::Waiting { cause, .. } => self.bar.println(format!("waiting: {cause}")),
            RestoreEvent::Lost { what } => self.bar.println(format!("lost: {what}")),
            RestoreEvent::Remark { text } => self.bar.println(text),
            RestoreEvent::Stopped { report } => self.stopped = Some(report),
            _ => {}
        }
    }

    fn summary(&self, report: &RestoreReport) -> String {
        let (time, seconds) = (self.start.elapsed(), self.start.elapsed().as_secs_f64());
        let rate = (report.bytes as f64 / seconds.max(0.001)) as u64;
        format!("in {}, {}/s\n", HumanDuration(time), HumanBytes(rate))
    }
}

/// Parses `OLD=NEW`.
fn prefix(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err("--prefix takes OLD=NEW, such as user:=test:user:".into()),
    }
}

/// Parses `FROM=TO`.
fn databases(text: &str) -> Result<(u32, u32), String> {
    let pair = text
        .split_once('=')
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    pair.ok_or_else(|| "--db takes FROM=TO, two numbers of databases, such as 3=0".into())
}

fn report_json(report: &RestoreReport) -> Value {
    let refusals = report.refusals.iter();
    let refusals = refusals
        .map(|refusal| json!({"db": refusal.db, "key": refusal.key, "reason": refusal.reason}));
    let evicted = report.evicted.iter();
    let evicted = evicted.map(|(node, keys)| json!({"node": node, "keys": keys}));
    json!({
        "complete": report.is_complete(),
        "read": report.read,
        "resumed": report.resumed,
        "restored": report.restored,
        "bytes": report.bytes,
        "rewritten": report.rewritten,
        "by_elements": report.by_elements,
        "without_field_expiries": report.without_field_expiries,
        "confirmed": report.confirmed,
        "existing": report.existing,
        "existing_keys": report.existing_keys,
        "expired": report.expired,
        "filtered": report.filtered,
        "record": report.record,
        "functions": report.functions,
        "refused": report.refused,
        "refusals": refusals.collect::<Vec<_>>(),
        "lost": report.lost,
        "evicted": evicted.collect::<Vec<_>>(),
        "remarks": report.remarks,
    })
}

fn plan_json(plan: &RestorePlan) -> Value {
    let nodes = plan.nodes.iter().map(|node| {
        json!({"node": node.name, "keys": node.keys, "bytes": node.bytes, "free": node.free})
    });
    let refusals = plan.refusals.iter();
    let refusals = refusals.map(|refusal| json!({"node": refusal.node, "text": refusal.text}));
    json!({
        "possible": plan.is_possible(),
        "nodes": nodes.collect::<Vec<_>>(),
        "refusals": refusals.collect::<Vec<_>>(),
        "report": report_json(&plan.report),
    })
}

fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

fn failed(error: redis_sharding::Error) -> Failure {
    Failure::Failed(error.to_string())
}
