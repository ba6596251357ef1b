//! Backups and restores of four nodes, beside `redis-cli --rdb` and `redis-cli --pipe`, one node after another.
//!
//! Rounds alternate between the ways, so that all of them meet the same moments of the machine; medians are shown.
//! `QUICK=yes` has a tenth of the data, `ROUNDS=5` sets the number of rounds, `cargo bench --bench backup -- restore` runs one
//! part only (`backup`, `pause`, `restore`).

mod support;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, pipe};
use redis_sharding::ops::backup::{Backup, BackupOptions, BackupReport};
use redis_sharding::ops::restore::{Restore, RestoreInput, RestoreOptions};

use support::fleet::{builder, client};
use support::tests::Servers;
use support::tests::clusters::redis_cli;

const NODES: usize = 4;

fn main() {
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|word| word == part);
    let folder = tempfile::tempdir().expect("a folder for files");
    // By default a server waits for 5 s whether other replicas come, which would be most of the time of redis-cli.
    let sources = Servers::builder()
        .option(["--repl-diskless-sync-delay", "0"])
        .start(NODES)
        .expect("a bench needs redis-server or valkey-server");
    fill(&sources);
    if is_wanted("backup") {
        backups(&sources, folder.path());
    }
    if is_wanted("pause") {
        pauses(&sources);
    }
    if is_wanted("restore") {
        restores(&sources, folder.path());
    }
}

fn keys_of_node() -> usize {
    match std::env::var("QUICK") {
        Ok(_) => 50_000,
        Err(_) => 500_000,
    }
}

fn rounds() -> usize {
    let rounds = std::env::var("ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

/// Strings of 200 hexadecimal digits, and one hash of 20 fields for every hundred of them.
fn fill(servers: &Servers) {
    let mut client = client(servers.urls());
    let keys = NODES * keys_of_node();
    let text = |number: usize| {
        let seed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let word = |part: u64| format!("{:016x}", seed.wrapping_mul(2 * part + 1).rotate_left(17));
        (1..=13).map(word).collect::<String>()
    };
    for first in (0..keys).step_by(10_000) {
        let mut pipeline = pipe();
        for number in first..(first + 10_000).min(keys) {
            pipeline
                .set(format!("key:{number:09}"), &text(number)[..200])
                .ignore();
            if number % 100 == 0 {
                let fields: Vec<_> = (0..20)
                    .map(|field| {
                        (
                            format!("field:{field}"),
                            text(number + field)[..20].to_owned(),
                        )
                    })
                    .collect();
                pipeline
                    .hset_multiple(format!("hash:{number:09}"), &fields)
                    .ignore();
            }
        }
        pipeline.exec(&mut client).expect("the servers take keys");
    }
}

/// A way to do it: a title, and what does it once.
type Way<'w> = (&'static str, Box<dyn FnMut() + 'w>);

/// Runs all ways in turn. Returns the median of each.
fn measure(ways: &mut [Way<'_>]) -> Vec<Duration> {
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..rounds() {
        for ((_, way), times) in ways.iter_mut().zip(&mut times) {
            let start = Instant::now();
            way();
            times.push(start.elapsed());
        }
    }
    times.into_iter().map(median).collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn print(ways: &[Way<'_>], times: &[Duration]) {
    let keys = (NODES * keys_of_node() * 101 / 100) as f64;
    for ((title, _), time) in ways.iter().zip(times) {
        println!(
            "{title:44} {:6.2} s {:9.0} keys/s {:5.2} of the first",
            time.as_secs_f64(),
            keys / time.as_secs_f64(),
            times[0].as_secs_f64() / time.as_secs_f64(),
        );
    }
}

fn backup(servers: &Servers, options: BackupOptions, write: impl Write + Send) -> BackupReport {
    let backup = Backup::new(builder(servers.urls()), options).expect("the servers make a fleet");
    backup.run(write, |_| {}).expect("a backup")
}

fn backups(servers: &Servers, folder: &Path) {
    let Some(cli) = redis_cli() else {
        println!("redis-cli is not installed; nothing is compared");
        return;
    };
    println!("{NODES} nodes of {} keys", keys_of_node() * 101 / 100);
    let archive = |level: i32, name: &str| {
        let file = File::create(folder.join(name)).expect("a file");
        backup(
            servers,
            BackupOptions::new().with_compression_level(level),
            file,
        );
    };
    let mut ways: [Way<'_>; 4] = [
        (
            "redis-cli --rdb, one after another",
            Box::new(|| {
                for index in 0..NODES {
                    let file = folder.join(format!("{index}.rdb"));
                    let status = Command::new(&cli)
                        .args(["-u", &servers.url(index), "--rdb"])
                        .arg(file)
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .status();
                    assert!(status.expect("redis-cli").success());
                }
            }),
        ),
        ("redis-sharding, zstd 1", Box::new(|| archive(1, "1.rsb"))),
        ("redis-sharding, zstd 3", Box::new(|| archive(3, "3.rsb"))),
        (
            "redis-sharding, zstd 1, nowhere",
            Box::new(|| {
                backup(servers, BackupOptions::new(), io::sink());
            }),
        ),
    ];
    let times = measure(&mut ways);
    print(&ways, &times);
    let size = |name: String| fs::metadata(folder.join(name)).map_or(0, |file| file.len());
    let rdb: u64 = (0..NODES).map(|index| size(format!("{index}.rdb"))).sum();
    println!(
        "RDB files {} MB, archive zstd 1 {} MB, zstd 3 {} MB; peak memory of this process {} MB",
        rdb / 1_000_000,
        size("1.rsb".to_owned()) / 1_000_000,
        size("3.rsb".to_owned()) / 1_000_000,
        peak_memory() / 1_000_000,
    );
}

/// For how long writes are paused, while eight threads write.
fn pauses(servers: &Servers) {
    let is_over = AtomicBool::new(false);
    let mut pauses = Vec::new();
    thread::scope(|scope| {
        for writer in 0..8 {
            let (is_over, urls) = (&is_over, servers.urls());
            scope.spawn(move || {
                let mut client = client(urls);
                let mut number = 0;
                while !is_over.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("writer:{writer}:{}", number % 1_000);
                    let _: () = client.set(key, number).expect("a write");
                }
            });
        }
        for _ in 0..rounds().max(3) {
            pauses.push(backup(servers, BackupOptions::new(), io::sink()).pause);
            thread::sleep(Duration::from_millis(500));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let longest = pauses.iter().max().copied().unwrap_or_default();
    println!(
        "writes were paused for {:.1} ms (median of {}), at most {:.1} ms",
        median(pauses.clone()).as_secs_f64() * 1000.0,
        pauses.len(),
        longest.as_secs_f64() * 1000.0,
    );
}

fn restores(sources: &Servers, folder: &Path) {
    let Some(cli) = redis_cli() else {
        println!("redis-cli is not installed; nothing is compared");
        return;
    };
    let archive = folder.join("restore.rsb");
    backup(
        sources,
        BackupOptions::new(),
        File::create(&archive).expect("a file"),
    );
    // What redis-cli --pipe sends: a RESTORE for each key.
    for index in 0..NODES {
        write_restores(sources, index, &folder.join(format!("{index}.resp")));
    }
    let targets = Servers::start(NODES).expect("servers");
    let flush = || {
        for index in 0..NODES {
            let mut connection = targets.connection(index);
            let _: () = redis::cmd("FLUSHALL")
                .query(&mut connection)
                .expect("FLUSHALL");
        }
    };
    let fewer = Servers::start(NODES - 1).expect("servers");
    let restore = |servers: &Servers| {
        let restore = Restore::new(builder(servers.urls()), RestoreOptions::new());
        let restore = restore.expect("the servers make a fleet");
        let report = restore.run(&mut RestoreInput::archive(&archive), |_| {});
        assert!(report.expect("a restore").is_complete());
    };
    let mut ways: [Way<'_>; 3] = [
        (
            "redis-cli --pipe, one after another",
            Box::new(|| {
                flush();
                for index in 0..NODES {
                    let file = File::open(folder.join(format!("{index}.resp"))).expect("a file");
                    let status = Command::new(&cli)
                        .args(["-u", &targets.url(index), "--pipe"])
                        .stdin(file)
                        .stdout(Stdio::null())
                        .status();
                    assert!(status.expect("redis-cli").success());
                }
            }),
        ),
        (
            "redis-sharding, to four nodes",
            Box::new(|| {
                flush();
                restore(&targets);
            }),
        ),
        (
            "redis-sharding, to three nodes",
            Box::new(|| {
                for index in 0..NODES - 1 {
                    let mut connection = fewer.connection(index);
                    let _: () = redis::cmd("FLUSHALL")
                        .query(&mut connection)
                        .expect("FLUSHALL");
                }
                restore(&fewer);
            }),
        ),
    ];
    let times = measure(&mut ways);
    print(&ways, &times);
    println!(
        "peak memory of this process {} MB",
        peak_memory() / 1_000_000
    );
}

/// Writes a RESTORE for each key of a node in the wire format.
fn write_restores(servers: &Servers, index: usize, file: &Path) {
    let mut connection = servers.connection(index);
    let mut out = io::BufWriter::new(File::create(file).expect("a file"));
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("COUNT")
            .arg(1000)
            .query(&mut connection)
            .expect("SCAN");
        let mut dumps = pipe();
        for key in &keys {
            dumps.cmd("DUMP").arg(key);
        }
        let dumps: Vec<Vec<u8>> = dumps.query(&mut connection).expect("DUMP");
        for (key, dump) in keys.iter().zip(dumps) {
            let restore = redis::cmd("RESTORE").arg(key).arg(0).arg(dump).to_owned();
            out.write_all(&restore.get_packed_command())
                .expect("a write");
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    out.flush().expect("a write");
}

/// The most memory that this process has had, in bytes, where the system tells it.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}
