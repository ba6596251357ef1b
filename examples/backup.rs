//! Four servers are backed up while a program writes, and restored to three and to seven: `cargo run --release --features backup --example backup`.
//!
//! Starts fourteen servers of its own, fills four of them with 200,000 keys (or as many as you say), and makes one archive while
//! a client goes on writing. The archive is restored twice, and compared with what came of it, key by key.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

#[path = "support/fleet.rs"]
#[allow(dead_code, reason = "shared with the quickstart, which uses all of it")]
mod fleet;

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use redis_sharding::ops::backup::{Backup, BackupOptions};
use redis_sharding::ops::restore::{
    DiffOptions, DiffSide, Restore, RestoreEvent, RestoreInput, RestoreOptions, diff, verify,
};
use redis_sharding::redis::{self, Commands};
use redis_sharding::{Builder, ShardedClient};

use fleet::Fleet;

/// Number of keys unless another is given.
const KEYS: usize = 200_000;
/// Number of counters that are written meanwhile.
const COUNTERS: u64 = 1_000;
/// The nodes of the fleet, and of those that the archive is restored to.
const NODES: [usize; 3] = [4, 3, 7];
const ABOUT: &str = "\
Backs up four servers while a client writes, restores the archive to three and to seven servers, and proves that all
hold the same.

The operand is the number of keys, 200000 unless given. Servers are started for it.";

fn main() -> ExitCode {
    let program = cli::Program {
        name: "backup",
        operands: "[KEYS]",
        most: 1,
        about: ABOUT,
    };
    program.run(|operands| {
        let keys = match &cli::texts(operands)?[..] {
            [] => KEYS,
            [keys, ..] => keys.parse().map_err(|_| "the number of keys is a number")?,
        };
        run(keys)
    })
}

fn run(keys: usize) -> Result<(), Box<dyn Error>> {
    let fleet = Fleet::find(Vec::new(), NODES.iter().sum())?;
    if let Fleet::InProcess(_) = fleet {
        println!(
            "There is neither redis-server nor valkey-server here, so there is nothing to back up."
        );
        return Ok(());
    }
    let urls = fleet.urls();
    let (four, others) = urls.split_at(NODES[0]);
    let (three, seven) = others.split_at(NODES[1]);
    fill(&describe(four).build()?, keys)?;

    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("users.rsb");
    let is_over = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let writes = scope.spawn(|| write(describe(four), &is_over));
        // A client that writes before, while and after.
        thread::sleep(Duration::from_millis(300));
        let made = back_up(describe(four), &archive);
        is_over.store(true, Ordering::Relaxed);
        let written = writes.join().map_err(|_| "the client has panicked")?;
        made.map_err(|error| error.to_string())?;
        written
    })?;
    println!("{written} writes were acknowledged meanwhile");

    let verified = verify(&mut RestoreInput::archive(&archive))?;
    if !verified.is_good() {
        return Err(verified.to_string().into());
    }
    let size = archive.metadata()?.len();
    println!(
        "the archive has {} keys in {size} bytes, digest {}",
        verified.keys, verified.digest
    );
    for nodes in [three, seven] {
        restore(&archive, describe(nodes), nodes.len())?;
        let (first, second) = (
            DiffSide::Input(RestoreInput::archive(&archive)),
            DiffSide::Fleet(Box::new(describe(nodes))),
        );
        let found = diff(first, second, DiffOptions::new())?;
        if !found.is_equal() {
            return Err(found.to_string().into());
        }
        println!("{} nodes hold what the archive holds: {found}", nodes.len());
    }
    Ok(())
}

/// Describes a client over these servers.
fn describe(urls: &[String]) -> Builder {
    let nodes = (1..).zip(urls);
    nodes.fold(ShardedClient::builder(), |builder, (number, url)| {
        builder.node(format!("node-{number}"), url.as_str())
    })
}

fn fill(client: &ShardedClient, keys: usize) -> Result<(), Box<dyn Error>> {
    let mut client = client.clone();
    let numbers: Vec<usize> = (0..keys).collect();
    for batch in numbers.chunks(1_000) {
        let mut pipeline = redis::pipe();
        for number in batch {
            let (key, text) = (format!("user:{number}"), format!("user number {number}"));
            match number % 10 {
                0 => pipeline.hset(key, "name", text).ignore(),
                1 => pipeline.zadd(key, text, *number).ignore(),
                2 => pipeline.set_ex(key, text, 86_400).ignore(),
                _ => pipeline.set(key, text).ignore(),
            };
        }
        pipeline.exec(&mut client)?;
    }
    println!("{keys} keys on {} nodes", client.nodes().len());
    Ok(())
}

/// Counts until it is told to stop.
fn write(fleet: Builder, is_over: &AtomicBool) -> Result<u64, String> {
    let mut client = fleet.build().map_err(|error| error.to_string())?;
    let mut written = 0;
    while !is_over.load(Ordering::Relaxed) {
        let () = client
            .incr(format!("counter:{}", written % COUNTERS), 1)
            .map_err(|error| format!("a write failed: {error}"))?;
        written += 1;
    }
    Ok(written)
}

fn back_up(fleet: Builder, file: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let backup = Backup::new(fleet, BackupOptions::new())?;
    let report = backup.run(BufWriter::new(File::create(file)?), |_| ())?;
    println!(
        "backed up {} keys in {:.1} s; writes were paused for {:?}",
        report.keys(),
        begun.elapsed().as_secs_f64(),
        report.pause
    );
    Ok(())
}

/// Restores with a bar.
fn restore(file: &std::path::Path, target: Builder, nodes: usize) -> Result<(), Box<dyn Error>> {
    let bar = ProgressBar::no_length();
    let style = ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} keys, {per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(format!("to {nodes} nodes"));
    let begun = Instant::now();
    let restorer = Restore::new(target, RestoreOptions::new())?;
    let report = restorer.run(&mut RestoreInput::archive(file), |event| match event {
        RestoreEvent::Begun { keys, .. } => bar.set_length(keys.unwrap_or_default()),
        RestoreEvent::Restored { keys, .. } => bar.inc(keys),
        _ => {}
    })?;
    bar.finish();
    if !report.is_complete() {
        return Err(report.to_string().into());
    }
    println!(
        "restored to {nodes} nodes in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}
