//! `backup`: one archive of all nodes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use redis_sharding::ops::backup::{
    Backup as Taker, BackupEvent, BackupOptions, BackupReport, BackupStop, CutKind,
};
use serde_json::{Value, json};

use crate::nodes::NodeArgs;
use crate::outcome::{FOUND, Failure, Outcome};
use crate::output;
use crate::proxy_options;

const EXAMPLES: &str = "\
Examples:
  redis-sharding backup --topology users.topology users.rsb
  redis-sharding backup --discover 10.0.0.1:6379 - | aws s3 cp - s3://backups/users.rsb
  redis-sharding backup --cluster 10.0.0.1:7000 --as-rdb users-rdb

Writes are paused at all nodes for some milliseconds, so that the archive has what all of them had at one moment. A write to
several nodes that is under way at that moment may be there in part.";

/// What stands behind the name of a file that is not whole.
const PARTIAL: &str = ".partial";

/// The name of standard output.
const STDOUT: &str = "-";

/// Number of nodes that have a bar each.
const BARS_MAX: usize = 16;

/// Writes one archive with the keys of all nodes, as they were at one moment
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Backup {
    /// The archive; - for standard output
    ///
    /// It is called FILE.partial until it is whole.
    #[arg(value_name = "FILE", required_unless_present = "as_rdb")]
    out: Option<PathBuf>,
    /// Writes an RDB file for each node into this folder instead, as the servers have sent them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "level", "force"])]
    as_rdb: Option<PathBuf>,
    /// Replaces an archive of this name
    #[arg(long)]
    force: bool,
    /// How keys are read [default: the best way that the servers allow]
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Milliseconds for which writes are paused at most
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=600_000))]
    pause_limit: u64,
    /// Number of times that a moment of all nodes is tried for
    #[arg(long, value_name = "N", default_value_t = 5)]
    attempts: u32,
    /// Seconds for which saves of the servers are waited for, before writes are paused
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    save_wait: u64,
    /// Bytes that are read from all nodes in a second at most
    #[arg(long, value_name = "BYTES", value_parser = |value: &str| proxy_options::bytes("--rate", value))]
    rate: Option<usize>,
    /// Level of compression, from 0 (none) to 19
    #[arg(long, value_name = "N", default_value_t = 1)]
    level: i32,
    /// Reads the keys of nodes that have replicas from these
    #[arg(long)]
    replicas: bool,
    /// Encrypts the archive for the recipients of age in this file: public keys, one in a line
    #[cfg(feature = "backup-encryption")]
    #[arg(long, value_name = "FILE", conflicts_with = "as_rdb")]
    recipients: Option<String>,
    /// Writes the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    nodes: NodeArgs,
}

/// How keys are read.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// One moment of all nodes, over streams of their servers
    Cut,
    /// One moment of all nodes, over files on the disks of their servers
    Disk,
    /// One moment of all nodes, key by key while writes are paused
    PausedScan,
    /// Each key as it is when it is read
    Scan,
}

impl From<Kind> for CutKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Cut => Self::Stream,
            Kind::Disk => Self::Disk,
            Kind::PausedScan => Self::PausedScan,
            Kind::Scan => Self::Scan,
        }
    }
}

impl Backup {
    pub fn run(self) -> Result<Outcome, Failure> {
        if let Some(out) = self
            .out
            .as_deref()
            .filter(|out| !self.force && out.exists())
        {
            let text = format!("{} exists; --force replaces it", out.display());
            return Err(Failure::Usage(text));
        }
        let taker = Taker::new(self.nodes.builder()?, self.options()?)?;
        stop_on_signal(taker.stop_handle())?;
        let (report, is_stdout) = match (&self.as_rdb, &self.out) {
            (Some(folder), _) => (self.to_files(taker, folder)?, false),
            (None, Some(out)) if out == Path::new(STDOUT) => {
                let mut progress = Progress::new(None);
                let done = taker.run(io::stdout(), |event| progress.event(&event));
                progress.end();
                (done.map_err(failed)?, true)
            }
            (None, Some(out)) => (to_file(taker, out)?, false),
            (None, None) => return Err(Failure::Usage("no FILE was given".into())),
        };
        self.print(&report, is_stdout)?;
        Ok(Outcome::Fine)
    }

    fn options(&self) -> Result<BackupOptions, Failure> {
        let options = BackupOptions::new()
            .with_cut(self.kind.map(CutKind::from))
            .with_pause_limit(Duration::from_millis(self.pause_limit))
            .with_attempts(self.attempts)
            .with_save_wait(Duration::from_secs(self.save_wait))
            .with_bytes_per_second(self.rate.map(|rate| rate as u64))
            .with_compression_level(self.level)
            .with_replicas(self.replicas);
        #[cfg(feature = "backup-encryption")]
        if let Some(file) = &self.recipients {
            let text = crate::fleet::read(file).map_err(Failure::Usage)?;
            return Ok(options.with_recipients(text));
        }
        Ok(options)
    }

    fn to_files(&self, taker: Taker, folder: &Path) -> Result<BackupReport, Failure> {
        let mut progress = Progress::new(None);
        let done = taker.run_as_rdb(folder, |event| progress.event(&event));
        progress.end();
        done.map_err(failed)
    }

    /// Prints the report: on standard error if the archive is on standard output.
    fn print(&self, report: &BackupReport, is_stdout: bool) -> Result<(), Failure> {
        let text = match self.json {
            true => format!("{:#}\n", report_json(report)),
            false => summary(report),
        };
        match (is_stdout, self.json) {
            (false, true) => output::write_json(&report_json(report))?,
            (false, false) => {
                let mut output = io::stdout().lock();
                output.write_all(text.as_bytes())?;
                output.flush()?;
            }
            // If standard error is closed, the archive is whole all the same.
            (true, _) => drop(io::stderr().write_all(text.as_bytes())),
        }
        Ok(())
    }
}

/// Writes the archive under another name until it is whole.
fn to_file(taker: Taker, out: &Path) -> Result<BackupReport, Failure> {
    let mut partial = out.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let at =
        |path: &Path, error: io::Error| Failure::Failed(format!("{}: {error}", path.display()));
    let file = File::create(&partial).map_err(|error| at(&partial, error))?;
    let mut progress = Progress::new(Some(partial.clone()));
    let done = taker.run(&file, |event| progress.event(&event));
    progress.end();
    let kept = done.map_err(failed).and_then(|report| {
        file.sync_all().map_err(|error| at(&partial, error))?;
        fs::rename(&partial, out).map_err(|error| at(out, error))?;
        Ok(report)
    });
    if kept.is_err() {
        // What is not whole is of no use.
        let _ = fs::remove_file(&partial);
    }
    kept
}

/// The bars on standard error.
struct Progress {
    bars: MultiProgress,
    nodes: HashMap<String, ProgressBar>,
    start: Instant,
    /// The file that is not whole.
    partial: Option<PathBuf>,
}

impl Progress {
    fn new(partial: Option<PathBuf>) -> Self {
        Self {
            bars: MultiProgress::new(),
            nodes: HashMap::new(),
            start: Instant::now(),
            partial,
        }
    }

    fn event(&mut self, event: &BackupEvent) {
        match event {
            BackupEvent::Waiting { node } => {
                self.note(&format!("node {node} is busy; waiting for it"))
            }
            BackupEvent::Void { cause } => self.note(&format!("{cause}; once more")),
            BackupEvent::FellBack { to, cause } => self.note(&format!("{cause}; reading by {to}")),
            BackupEvent::Cut { cut, pause, keys } => {
                if cut.is_consistent() {
                    self.note(&format!("writes were paused for {} ms", pause.as_millis()));
                }
                self.begin(keys);
            }
            BackupEvent::Read { node, keys, bytes } => {
                if let Some(bar) = self.nodes.get(node) {
                    bar.set_position(*keys);
                    bar.set_message(HumanBytes(*bytes).to_string());
                }
            }
            BackupEvent::NodeDone { node } => {
                if let Some(bar) = self.nodes.get(node) {
                    bar.finish();
                }
            }
            BackupEvent::Stalled { limit } => self.stalled(*limit),
            _ => {}
        }
    }

    fn begin(&mut self, keys: &[(String, u64)]) {
        self.start = Instant::now();
        let template = "{prefix:12!} {bar:30} {pos}/{len} keys, {msg}, {per_sec}, {eta} left";
        for (node, keys) in keys.iter().take(BARS_MAX) {
            let bar = self.bars.add(ProgressBar::new(*keys));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(node.clone());
            self.nodes.insert(node.clone(), bar);
        }
    }

    /// A line above the bars. Without a terminal there are none, and no lines.
    fn note(&self, text: &str) {
        let _ = self.bars.println(text);
    }

    /// A write that blocks for ever would keep the program from ending.
    fn stalled(&self, limit: Duration) {
        if let Some(partial) = &self.partial {
            let _ = fs::remove_file(partial);
        }
        let _ = writeln!(
            io::stderr(),
            "redis-sharding: the archive has taken nothing for {limit:?}, half of the time after which servers drop a reader \
             that stalls (repl-timeout); write it to where it is taken faster"
        );
        process::exit(FOUND.into());
    }

    fn end(&self) {
        let _ = self.bars.clear();
    }
}

/// Stops the backup on the first Ctrl-C or SIGTERM, and ends the program on the second one.
fn stop_on_signal(stop: BackupStop) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wait = move || {
        runtime.block_on(async {
            if signal().await {
                stop.stop();
            }
            if signal().await {
                process::exit(130);
            }
        });
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

/// Waits for a signal to end. False if that is not possible.
#[cfg(unix)]
async fn signal() -> bool {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return tokio::signal::ctrl_c().await.is_ok();
    };
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.is_ok(),
        _ = terminate.recv() => true,
    }
}

#[cfg(not(unix))]
async fn signal() -> bool {
    tokio::signal::ctrl_c().await.is_ok()
}

fn summary(report: &BackupReport) -> String {
    let mut text = String::new();
    for warning in &report.warnings {
        text += &format!("warning: {warning}\n");
    }
    for node in &report.nodes {
        text += &format!(
            "{} ({}, {}): {} keys, {}\n",
            node.node,
            node.address,
            node.server,
            node.keys,
            HumanBytes(node.bytes)
        );
    }
    let pause = match report.cut.is_consistent() {
        true => format!("; writes were paused for {} ms", report.pause.as_millis()),
        false => "; each key is as it was when it was read".to_owned(),
    };
    let expired = match report.expired() {
        0 => String::new(),
        expired => format!(", {expired} left out that had expired"),
    };
    let archive = match report.archive_bytes {
        0 => String::new(),
        bytes => format!(", archive of {}", HumanBytes(bytes)),
    };
    let (keys, bytes) = (report.keys(), HumanBytes(report.bytes()));
    text + &format!("{keys} keys, {bytes} read{expired}{archive}{pause}\n")
}

fn report_json(report: &BackupReport) -> Value {
    let nodes = report.nodes.iter().map(|node| {
        json!({"node": node.node, "address": node.address, "server": node.server, "keys": node.keys,
               "expired": node.expired, "bytes": node.bytes, "offset": node.offset})
    });
    json!({
        "cut": report.cut.name(),
        "attempts": report.attempts,
        "pause_ms": report.pause.as_secs_f64() * 1000.0,
        "cut_at": report.cut_at,
        "keys": report.keys(),
        "expired": report.expired(),
        "functions": report.functions,
        "bytes": report.bytes(),
        "archive_bytes": report.archive_bytes,
        "nodes": nodes.collect::<Vec<_>>(),
        "warnings": report.warnings,
    })
}

fn failed(error: redis_sharding::Error) -> Failure {
    Failure::Failed(error.to_string())
}
