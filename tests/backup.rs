//! Backups of several real servers: one moment of all nodes, and what stands against it.
//!
//! `REDIS_SHARDING_CUT_ROUNDS` has the cut under load taken more often.
#![cfg(all(unix, feature = "backup", feature = "testing"))]

mod support;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, cmd};
use redis_sharding::ops::backup::{Backup, BackupEvent, BackupOptions, BackupReport, CutKind};
use redis_sharding::{Builder, Error, ErrorKind, ShardedClient};
#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
use support::authority::Authority;
use support::children::{self, Part};
use support::{Cluster, ReplicaSet, Servers, clusters};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Number of writers, and of the nodes that each of them writes to one after another.
const WRITERS: usize = 4;

fn builder(servers: &Servers) -> Builder {
    (0..servers.len()).fold(ShardedClient::builder(), |builder, index| {
        builder.node(NAMES[index], servers.url(index))
    })
}

/// The helpers of these tests start no cluster and no replicas of Redis 6.2.
fn is_6_2() -> bool {
    env::var("REDISRS_SERVER_BIN").is_ok_and(|path| path.contains("6.2"))
}

fn options() -> BackupOptions {
    BackupOptions::new()
}

/// Takes a backup, and returns the archive and what has happened.
fn backup(
    builder: Builder,
    options: BackupOptions,
) -> (Result<BackupReport, Error>, Vec<u8>, Vec<BackupEvent>) {
    let (mut archive, mut events) = (Vec::new(), Vec::new());
    let taker = Backup::new(builder, options).unwrap();
    let report = taker.run(&mut archive, |event| events.push(event));
    (report, archive, events)
}

fn set(connection: &mut Connection, key: &str, value: impl redis::ToRedisArgs) {
    let () = cmd("SET").arg(key).arg(value).query(connection).unwrap();
}

fn config(connection: &mut Connection, name: &str, value: &str) {
    let set = cmd("CONFIG").arg("SET").arg(name).arg(value).to_owned();
    let () = set.query(connection).unwrap();
}

/// Has saves take this long for each key, in microseconds.
fn slow_saves(servers: &Servers, index: usize, microseconds: u64) {
    config(
        &mut servers.connection(index),
        "rdb-key-save-delay",
        &microseconds.to_string(),
    );
}

/// How long a write to a server takes.
fn write_time(servers: &Servers, index: usize) -> Duration {
    let start = Instant::now();
    set(&mut servers.connection(index), "write", 1);
    start.elapsed()
}

/// Loads a file into a server of its own, and returns the values of these keys.
fn loaded(folder: &Path, file: &str, keys: &[String]) -> Vec<Option<u64>> {
    let dir = folder.to_str().unwrap();
    let servers = Servers::builder()
        .option(["--dir", dir])
        .option(["--dbfilename", file])
        .start(1)
        .unwrap();
    let mut mget = cmd("MGET");
    mget.arg(keys).query(&mut servers.connection(0)).unwrap()
}

// -------------------------------------------------------------------------------------------------- the cut under load

/// Writers that each set their own key at one node after another, all to the same number, and then to the next one.
struct Load {
    stop: Arc<AtomicBool>,
    /// The number that each writer has set at all nodes.
    done: Arc<Vec<AtomicU64>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(servers: &Arc<Servers>) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let done: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
        let writer = |writer: usize| {
            let (servers, stop, done) = (Arc::clone(servers), Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || {
                let nodes = 0..servers.len();
                let mut connections: Vec<_> = nodes.map(|node| servers.connection(node)).collect();
                let key = key(writer);
                for number in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    for connection in &mut connections {
                        set(connection, &key, number);
                    }
                    done[writer].store(number, Ordering::SeqCst);
                }
            })
        };
        let threads = (0..WRITERS).map(writer).collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    fn done(&self) -> Vec<u64> {
        let done = self.done.iter();
        done.map(|number| number.load(Ordering::SeqCst)).collect()
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn key(writer: usize) -> String {
    format!("writer:{writer}")
}

/// The numbers of all writers at each node, from their files.
fn numbers(folder: &Path, files: &[String]) -> Vec<Vec<u64>> {
    let keys: Vec<String> = (0..WRITERS).map(key).collect();
    let of_file = |file: &String| {
        let values = loaded(folder, file, &keys).into_iter();
        values.map(Option::unwrap_or_default).collect()
    };
    files.iter().map(of_file).collect()
}

/// Whether a later node has what an earlier one has not: a writer sets the later one only after the reply of the earlier.
fn is_causal(numbers: &[Vec<u64>]) -> bool {
    numbers.windows(2).all(|pair| {
        let writers = pair[0].iter().zip(&pair[1]);
        writers.into_iter().all(|(first, second)| first >= second)
    })
}

#[test]
fn cut_under_load_is_one_moment_of_all_nodes() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let servers = Arc::new(servers);
    let rounds = env::var("REDIS_SHARDING_CUT_ROUNDS").ok();
    let rounds = rounds.map_or(2, |rounds| rounds.parse().unwrap());
    let load = Load::start(&servers);
    let files: Vec<String> = NAMES[..3]
        .iter()
        .map(|name| format!("{name}.rdb"))
        .collect();
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        while load.done().iter().any(|done| *done < 10 * (round + 1)) {
            thread::sleep(Duration::from_millis(5));
        }
        let before = load.done();
        let mut after = Vec::new();
        let taker = Backup::new(builder(&servers), options()).unwrap();
        let report = taker.run_as_rdb(folder.path(), |event| {
            if let BackupEvent::Cut { .. } = event {
                after = load.done();
            }
        });
        let report = report.unwrap();
        assert_eq!(report.cut, CutKind::Stream, "{:?}", report.warnings);
        assert!(report.pause < Duration::from_secs(1));
        let numbers = numbers(folder.path(), &files);
        assert!(is_causal(&numbers), "{numbers:?}");
        for node in &numbers {
            for writer in 0..WRITERS {
                // What was replied before is there, and what began after is not.
                assert!(node[writer] >= before[writer], "{numbers:?} {before:?}");
                assert!(node[writer] <= after[writer] + 2, "{numbers:?} {after:?}");
            }
            // At most one number is under way.
            let first = numbers[0].iter().zip(node);
            assert!(
                first.into_iter().all(|(first, now)| first - now <= 1),
                "{numbers:?}"
            );
        }
    }
    load.end();
}

/// What a replica is sent, over a connection that asks for nothing but the data.
fn raw_sync(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    stream.write_all(b"REPLCONF rdb-only 1\r\n").unwrap();
    // A server refuses PSYNC while a reply is on its way.
    let mut ok = [0; 5];
    stream.read_exact(&mut ok).unwrap();
    stream.write_all(b"PSYNC ? -1\r\n").unwrap();
    stream
}

/// Reads up to the line that begins the stream: the server has forked.
fn wait_for_fork(stream: &mut TcpStream) {
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !read.ends_with(b"\n") || !String::from_utf8_lossy(&read).contains("+FULLRESYNC") {
        stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
}

#[test]
fn streams_that_begin_one_after_another_without_a_pause_are_no_moment() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let servers = Arc::new(servers);
    let load = Load::start(&servers);
    let folder = tempfile::tempdir().unwrap();
    let files = ["0.rdb".to_owned(), "1.rdb".to_owned()];
    while load.done().iter().any(|done| *done < 10) {
        thread::sleep(Duration::from_millis(5));
    }
    for (index, file) in files.iter().enumerate() {
        let mut stream = raw_sync(&servers.addr(index));
        wait_for_fork(&mut stream);
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        let at = data
            .windows(5)
            .position(|bytes| bytes == b"REDIS" || bytes == b"VALKE");
        fs::write(folder.path().join(file), &data[at.unwrap()..]).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    load.end();
    let numbers = numbers(folder.path(), &files);
    assert!(!is_causal(&numbers), "the check finds nothing: {numbers:?}");
}

// ------------------------------------------------------------------------------------------------- what is in a backup

/// Keys of two databases, one that has expired, the record of the fleet, and a function at both nodes.
fn fill(servers: &Servers) {
    for index in 0..2 {
        let mut connection = servers.connection(index);
        config(&mut connection, "save", "");
        let () = cmd("DEBUG")
            .arg("SET-ACTIVE-EXPIRE")
            .arg(0)
            .query(&mut connection)
            .unwrap();
        for key in 0..100 {
            set(&mut connection, &format!("{index}:{key}"), "value");
        }
        let mut soon = cmd("SET");
        soon.arg("expired").arg(1).arg("PX").arg(1);
        let () = soon.query(&mut connection).unwrap();
        let () = redis::pipe()
            .cmd("SELECT")
            .arg(3)
            .ignore()
            .cmd("RPUSH")
            .arg("list")
            .arg("one")
            .arg("two")
            .ignore()
            .cmd("SELECT")
            .arg(15)
            .ignore()
            .cmd("SET")
            .arg("redis-sharding:other")
            .arg("x")
            .ignore()
            .query(&mut connection)
            .unwrap();
        let code = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
        // Servers before 7.0 have none.
        let _ = cmd("FUNCTION")
            .arg("LOAD")
            .arg(code)
            .query::<String>(&mut servers.connection(index));
    }
    thread::sleep(Duration::from_millis(5));
}

fn has_functions(servers: &Servers) -> bool {
    let list = cmd("FUNCTION")
        .arg("LIST")
        .query::<redis::Value>(&mut servers.connection(0));
    list.is_ok()
}

#[test]
fn backup_of_each_kind_has_all_keys_but_those_that_have_expired_and_the_record() {
    let servers = match is_6_2() {
        true => Servers::start(2),
        false => Servers::builder()
            .option(["--enable-debug-command", "yes"])
            .start(2),
    };
    let Some(servers) = servers else { return };
    fill(&servers);
    for kind in CutKind::ALL {
        let (report, archive, events) = backup(builder(&servers), options().with_cut(kind));
        let report = report.unwrap();
        assert_eq!((report.cut, report.keys()), (kind, 202), "{report:?}");
        assert_eq!(
            report.functions,
            u64::from(has_functions(&servers)),
            "{kind}"
        );
        assert!(report.archive_bytes > 100 && archive.len() as u64 >= report.archive_bytes);
        assert_eq!(report.pause > Duration::ZERO, kind != CutKind::Scan);
        let is_stream = matches!(kind, CutKind::Stream | CutKind::Disk);
        // SCAN leaves them out by itself.
        assert_eq!(report.expired(), if is_stream { 2 } else { 0 }, "{kind}");
        assert_eq!(report.nodes[0].offset.is_some(), is_stream);
        let done = events
            .iter()
            .filter(|event| matches!(event, BackupEvent::NodeDone { .. }));
        assert_eq!(done.count(), 2);
        for index in 0..2 {
            assert!(
                write_time(&servers, index) < Duration::from_millis(900),
                "{kind}"
            );
            let get = cmd("CONFIG")
                .arg("GET")
                .arg("repl-diskless-sync-delay")
                .to_owned();
            let delay: BTreeMap<String, String> =
                get.query(&mut servers.connection(index)).unwrap();
            assert_eq!(delay["repl-diskless-sync-delay"], "5");
        }
        for index in 0..2 {
            let () = cmd("DEL")
                .arg("write")
                .query(&mut servers.connection(index))
                .unwrap();
        }
    }
}

#[test]
fn files_of_servers_are_loaded_by_servers_and_never_replaced() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    for index in 0..2 {
        set(&mut servers.connection(index), "key", index);
    }
    let folder = tempfile::tempdir().unwrap();
    let take = || {
        Backup::new(builder(&servers), options())
            .unwrap()
            .run_as_rdb(folder.path(), |_| {})
    };
    assert_eq!(take().unwrap().keys(), 2);
    for (index, file) in ["a.rdb", "b.rdb"].into_iter().enumerate() {
        let value = loaded(folder.path(), file, &["key".to_owned()]);
        assert_eq!(value, [Some(index as u64)]);
    }
    let error = take().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Archive);
    assert!(error.to_string().contains("a.rdb exists"), "{error}");
}

#[test]
fn user_without_the_rights_for_the_best_cut_gets_the_next_one_with_a_warning() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let user = |name: &str, rights: &[&str]| {
        for index in 0..2 {
            let mut command = cmd("ACL");
            command
                .arg("SETUSER")
                .arg(name)
                .arg("on")
                .arg(">pass")
                .arg(rights);
            let () = command.query(&mut servers.connection(index)).unwrap();
        }
    };
    for index in 0..2 {
        set(&mut servers.connection(index), "key", index);
    }
    user("no-config", &["~*", "+@all", "-config"]);
    user("no-sync", &["~*", "+@all", "-config", "-psync"]);
    user(
        "no-pause",
        &["~*", "+@all", "-client", "+client|setname", "-psync"],
    );
    for (name, kind, reason) in [
        ("no-config", CutKind::Disk, "CONFIG SET"),
        ("no-sync", CutKind::PausedScan, "PSYNC"),
        ("no-pause", CutKind::Scan, "CLIENT PAUSE"),
    ] {
        let builder = builder(&servers).username(name).password("pass");
        let (report, _, events) = backup(builder, options());
        let report = report.unwrap();
        assert_eq!((report.cut, report.keys()), (kind, 2), "{name}: {report:?}");
        let warnings = report.warnings.join(" ");
        assert!(warnings.contains(reason), "{name}: {warnings}");
        assert!(
            events
                .iter()
                .any(|event| matches!(event, BackupEvent::FellBack { .. }))
        );
    }
    let builder = builder(&servers).username("no-sync").password("pass");
    let (report, archive, _) = backup(builder, options().with_cut(CutKind::Stream));
    let error = report.unwrap_err();
    assert!(error.to_string().contains("does not allow"), "{error}");
    assert!(archive.is_empty());
}

#[test]
fn backup_of_replicas_pauses_the_primary_and_reads_the_replica() {
    if is_6_2() {
        return;
    }
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    set.wait_until_linked(0);
    let mut primary = set.connection(0);
    for key in 0..50 {
        self::set(&mut primary, &format!("key:{key}"), key);
    }
    let builder = || ShardedClient::builder().node("a", set.url(0));
    let (report, ..) = backup(builder(), options().with_replicas(true));
    let report = report.unwrap();
    assert_eq!((report.keys(), report.cut), (50, CutKind::Stream));
    assert_eq!(report.nodes[0].address, set.addr(1));
    let error = backup(ShardedClient::builder().node("a", set.url(1)), options()).0;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("is a replica"), "{error}");
}

#[test]
fn backup_of_a_cluster_has_the_keys_of_all_primaries_unless_slots_move() {
    if is_6_2() {
        return;
    }
    let Some(server) = clusters::servers().into_iter().next() else {
        return;
    };
    let cluster = Cluster::start(&server, 3, 0);
    let mut client = ShardedClient::cluster(cluster.urls()).unwrap();
    for key in 0..60 {
        let () = cmd("SET")
            .arg(format!("key:{key}"))
            .arg(key)
            .query(&mut client)
            .unwrap();
    }
    let take = || backup(ShardedClient::builder().cluster(cluster.urls()), options()).0;
    let report = take().unwrap();
    assert_eq!((report.keys(), report.nodes.len()), (60, 3), "{report:?}");
    let moving = cluster.begin_move(cluster.own_slot(0), 1);
    let error = take().unwrap_err().to_string();
    assert!(error.contains("slots of the cluster are moving"), "{error}");
    moving.end();
    assert_eq!(take().unwrap().keys(), 60);
}

#[test]
fn backup_is_refused_while_keys_move_or_another_topology_is_in_force() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let fingerprint = builder(&servers).build().unwrap().topology().fingerprint();
    for (topology, rest, expected) in [
        (
            fingerprint,
            "to 0123456789abcdef\n",
            "a reshard is under way",
        ),
        (!fingerprint, "", "another topology is in force"),
        (fingerprint, "retired\n", "has left the fleet"),
        (fingerprint, "", ""),
    ] {
        let record = format!(
            "redis-sharding record 1\nepoch 1.1\ntopology {topology:016x}\nseal \"s\"\n{rest}"
        );
        let () = redis::pipe()
            .cmd("SELECT")
            .arg(15)
            .ignore()
            .cmd("SET")
            .arg("redis-sharding:record")
            .arg(record)
            .ignore()
            .query(&mut servers.connection(1))
            .unwrap();
        let (report, ..) = backup(builder(&servers), options());
        match (report, expected) {
            (Ok(report), "") => assert_eq!(report.keys(), 0),
            (Err(error), expected) => assert!(error.to_string().contains(expected), "{error}"),
            (Ok(_), expected) => panic!("not refused: {expected}"),
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- faults

const KILLED: &str =
    "process_that_is_killed_within_the_pause_pauses_writes_for_less_than_two_seconds";

#[test]
fn process_that_is_killed_within_the_pause_pauses_writes_for_less_than_two_seconds() {
    if children::part().is_some() {
        let urls = env::var("URLS").unwrap();
        let nodes = urls.split(' ').zip(NAMES);
        let builder = nodes.fold(ShardedClient::builder(), |builder, (url, name)| {
            builder.node(name, url)
        });
        let observer = |step: &str| {
            if step == "paused" {
                children::say("paused");
                thread::sleep(Duration::from_secs(60));
            }
        };
        let _ = backup(builder, options().with_step_observer(observer));
        return;
    }
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let urls = servers.urls().join(" ");
    let mut part = Part::start(KILLED, "backup", &[("URLS", &urls)]);
    part.expect("paused");
    part.kill();
    let times: Vec<Duration> = (0..2).map(|index| write_time(&servers, index)).collect();
    assert!(
        times.iter().all(|time| *time < Duration::from_secs(2)),
        "{times:?}"
    );
}

#[test]
fn panic_within_the_pause_ends_it_and_puts_settings_back() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let observer = |step: &str| assert_ne!(step, "asked", "as wanted");
    let options = options()
        .with_pause_limit(Duration::from_secs(60))
        .with_step_observer(observer);
    let taker = Backup::new(builder(&servers), options).unwrap();
    let run = std::panic::AssertUnwindSafe(|| taker.run(Vec::new(), |_| {}));
    assert!(std::panic::catch_unwind(run).is_err());
    for index in 0..2 {
        assert!(write_time(&servers, index) < Duration::from_secs(5));
        let get = cmd("CONFIG")
            .arg("GET")
            .arg("repl-diskless-sync-delay")
            .to_owned();
        let delay: Vec<String> = get.query(&mut servers.connection(index)).unwrap();
        assert_eq!(delay[1], "5");
    }
}

#[test]
fn save_that_runs_is_waited_for_outside_of_the_pause() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut connection = servers.connection(1);
    for key in 0..100 {
        set(&mut connection, &format!("key:{key}"), key);
    }
    slow_saves(&servers, 1, 5000);
    let _: String = cmd("BGSAVE").query(&mut connection).unwrap();
    slow_saves(&servers, 1, 0);
    let (report, _, events) = backup(builder(&servers), options());
    let report = report.unwrap();
    assert_eq!((report.keys(), report.attempts), (100, 1));
    let waiting = BackupEvent::Waiting { node: "b".into() };
    assert!(events.contains(&waiting), "{events:?}");
}

#[test]
fn stream_that_is_older_than_the_pause_voids_the_cut() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let servers = Arc::new(servers);
    let mut connection = servers.connection(1);
    for key in 0..100 {
        set(&mut connection, &format!("key:{key}"), key);
    }
    let foreign: Arc<Mutex<Option<TcpStream>>> = Arc::default();
    let (theirs, held) = (Arc::clone(&servers), Arc::clone(&foreign));
    let observer = move |step: &str| {
        let mut held = held.lock().unwrap();
        if step == "pause" && held.is_none() {
            // Another replica, for which the server saves to its disk, and a write that this save has not.
            slow_saves(&theirs, 1, 5000);
            let mut stream = raw_sync(&theirs.addr(1));
            wait_for_fork(&mut stream);
            set(&mut theirs.connection(1), "late", 1);
            slow_saves(&theirs, 1, 0);
            *held = Some(stream);
        }
    };
    let (report, _, events) = backup(builder(&servers), options().with_step_observer(observer));
    let report = report.unwrap();
    let void = |event: &BackupEvent| match event {
        BackupEvent::Void { cause } => Some(cause.clone()),
        _ => None,
    };
    let voids: Vec<String> = events.iter().filter_map(void).collect();
    assert!(
        voids
            .iter()
            .any(|cause| cause.contains("not of the moment of the pause")),
        "{voids:?}"
    );
    assert!(report.attempts > 1);
    assert_eq!(report.keys(), 101);
}

/// A backup of two nodes, to the second of which something happens at a step.
fn disturbed(
    servers: &Arc<Servers>,
    step: &'static str,
    disturb: impl Fn(&Servers) + Send + Sync + 'static,
) -> Result<BackupReport, Error> {
    let theirs = Arc::clone(servers);
    let observer = move |now: &str| {
        if now == step {
            disturb(&theirs);
        }
    };
    let options = options().with_attempts(1).with_step_observer(observer);
    backup(builder(servers), options).0
}

#[test]
fn stream_that_breaks_off_is_an_error_and_no_short_archive() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let servers = Arc::new(servers);
    let mut connection = servers.connection(1);
    for command in [vec!["FLUSHALL"], vec!["REPLICAOF", "127.0.0.1", "1"]] {
        for key in 0..300 {
            set(&mut connection, &format!("key:{key}"), noise(20_000));
        }
        slow_saves(&servers, 1, 10_000);
        let words = command.clone();
        let report = disturbed(&servers, "read", move |servers| {
            let mut command = cmd(words[0]);
            command.arg(&words[1..]);
            let () = command.query(&mut servers.connection(1)).unwrap();
        });
        match report {
            // Servers from 7.0 on keep their replicas until they have another history: what they send is whole.
            Ok(report) if command[0] == "REPLICAOF" => assert_eq!(report.keys(), 300),
            report => {
                let error = report.expect_err(command[0]);
                assert!(
                    error.to_string().contains("is not whole"),
                    "{command:?}: {error}"
                );
                assert_eq!(error.node(), Some("b"));
            }
        }
        slow_saves(&servers, 1, 0);
    }
}

#[test]
fn node_that_dies_at_any_step_is_an_error_and_the_others_go_on() {
    for step in ["pause", "paused", "asked", "resumed", "read"] {
        let Some(servers) = Servers::start(2) else {
            return;
        };
        let servers = Arc::new(servers);
        let mut connection = servers.connection(1);
        for key in 0..300 {
            set(&mut connection, &format!("key:{key}"), noise(20_000));
        }
        slow_saves(&servers, 1, 10_000);
        let start = Instant::now();
        let report = disturbed(&servers, step, |servers| servers.kill(1));
        let error = match report {
            // Where a child process sends the data by itself, as in Redis 8, it comes whole after the death of its parent.
            Ok(report) if step == "read" => {
                assert_eq!(report.keys(), 300);
                continue;
            }
            report => report.expect_err(step),
        };
        assert!(start.elapsed() < Duration::from_secs(10), "{step}");
        assert!(error.to_string().contains("\"b\""), "{step}: {error}");
        assert!(write_time(&servers, 0) < Duration::from_secs(2), "{step}");
    }
}

/// Takes so many bytes, and then at most as many at a time as another one says.
struct Sink<F>(usize, F);

impl<F: FnMut() -> io::Result<usize>> Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.checked_sub(bytes.len()) {
            Some(left) => {
                self.0 = left;
                Ok(bytes.len())
            }
            None => Ok((self.1)()?.min(bytes.len())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that cannot be compressed, so that a server sends them as soon as it has some.
fn noise(bytes: usize) -> Vec<u8> {
    static STATE: AtomicU64 = AtomicU64::new(1);
    let mut state = STATE.fetch_add(1, Ordering::SeqCst);
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Two servers with 8 MB at each that cannot be compressed.
fn large() -> Option<Servers> {
    let servers = Servers::start(2)?;
    for index in 0..2 {
        for key in 0..8 {
            set(
                &mut servers.connection(index),
                &format!("{index}:{key}"),
                noise(1 << 20),
            );
        }
    }
    Some(servers)
}

#[test]
fn archive_that_takes_no_more_fails_the_backup() {
    let Some(servers) = large() else { return };
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::BrokenPipe] {
        let taker = Backup::new(builder(&servers), options()).unwrap();
        let sink = Sink(3 << 20, || Err(kind.into()));
        let error = taker.run(sink, |_| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Archive, "{error}");
        assert!(error.to_string().contains(&kind.to_string()), "{error}");
    }
    let taker = Backup::new(
        builder(&servers),
        options().with_stall_limit(Duration::from_secs(1)),
    );
    let stalls = || {
        thread::sleep(Duration::from_secs(2));
        Ok(1 << 16)
    };
    let mut is_told = false;
    let report = taker.unwrap().run(Sink(1 << 20, stalls), |event| {
        is_told |= matches!(event, BackupEvent::Stalled { .. });
    });
    let error = report.unwrap_err();
    assert!(
        is_told && error.to_string().contains("repl-timeout"),
        "{error}"
    );
}

#[test]
fn slow_archive_takes_all_and_a_rate_is_kept() {
    let Some(servers) = large() else { return };
    let taker = Backup::new(builder(&servers), options()).unwrap();
    let slow = || {
        thread::sleep(Duration::from_millis(1));
        Ok(1 << 15)
    };
    let report = taker.run(Sink(0, slow), |_| {}).unwrap();
    assert_eq!(report.keys(), 16);
    let start = Instant::now();
    let (report, ..) = backup(
        builder(&servers),
        options().with_bytes_per_second(16_u64 << 20),
    );
    assert_eq!(report.unwrap().keys(), 16);
    assert!(start.elapsed() > Duration::from_millis(800));
}

#[test]
fn backup_that_is_stopped_ends_with_an_error() {
    let Some(servers) = large() else { return };
    let taker = Backup::new(
        builder(&servers),
        options().with_bytes_per_second(1_u64 << 20),
    );
    let taker = taker.unwrap();
    let stop = taker.stop_handle();
    let start = Instant::now();
    let report = taker.run(Vec::new(), |event| {
        if let BackupEvent::Cut { .. } = event {
            stop.stop();
        }
    });
    assert!(report.is_err());
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn backup_over_unix_sockets_is_that_over_tcp() {
    let Some(servers) = Servers::builder().unix().start(1) else {
        return;
    };
    set(&mut servers.connection(0), "key", 1);
    let (report, ..) = backup(builder(&servers), options());
    assert_eq!(report.unwrap().keys(), 1);
}

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
#[test]
fn backup_over_tls_is_that_over_tcp() {
    let authority = Authority::new("the tests' own");
    let servers = Servers::builder().tls(&authority, false).start(1);
    let Some(servers) = servers else { return };
    for key in 0..300 {
        set(
            &mut servers.connection(0),
            &format!("key:{key}"),
            noise(20_000),
        );
    }
    let builder = ShardedClient::builder()
        .node("a", servers.tls_url(0))
        .tls_certificates(redis::TlsCertificates {
            client_tls: None,
            root_cert: Some(authority.pem().into_bytes()),
        });
    let (report, archive, _) = backup(builder, options());
    assert_eq!(report.unwrap().keys(), 300);
    assert!(archive.len() > 6_000_000);
}

// ------------------------------------------------------------------------------------------------------------ the tool

#[cfg(feature = "cli")]
mod tool {
    use std::process::{Child, Command, Output, Stdio};

    use serde_json::Value;

    use super::*;

    fn command(servers: &Servers, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redis-sharding"));
        command.arg("backup").args(arguments);
        for (index, name) in NAMES[..servers.len()].iter().enumerate() {
            command
                .arg("--node")
                .arg(format!("{name}={}", servers.addr(index)));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.env_remove("REDIS_SHARDING_NODE_PASSWORD");
        command
    }

    fn run(servers: &Servers, arguments: &[&str]) -> Output {
        command(servers, arguments).output().unwrap()
    }

    fn stderr(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    #[test]
    fn tool_writes_a_whole_archive_or_none_and_replaces_one_on_demand_only() {
        let Some(servers) = large() else { return };
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("all.rsb");
        let path = out.to_str().unwrap();
        let done = run(&servers, &["--json", path]);
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(
            (report["keys"].as_u64(), report["cut"].as_str()),
            (Some(16), Some("cut"))
        );
        assert_eq!(
            fs::metadata(&out).unwrap().len(),
            report["archive_bytes"].as_u64().unwrap()
        );
        let refused = run(&servers, &[path]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
        let forced = run(&servers, &["--force", path]);
        assert_eq!(forced.status.code(), Some(0), "{}", stderr(&forced));
        let text = String::from_utf8(forced.stdout).unwrap();
        assert!(
            text.contains("16 keys") && text.contains("writes were paused"),
            "{text}"
        );
        servers.kill(1);
        let failed = run(
            &servers,
            &[folder.path().join("other.rsb").to_str().unwrap()],
        );
        assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
        let files = fs::read_dir(folder.path()).unwrap();
        assert_eq!(files.count(), 1, "what is not whole is removed");
    }

    #[test]
    fn tool_writes_to_standard_output_and_fails_if_that_is_closed() {
        let Some(servers) = large() else { return };
        let done = run(&servers, &["-"]);
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        assert!(done.stdout.len() > 8 << 20);
        assert!(stderr(&done).contains("16 keys"), "{}", stderr(&done));
        let mut child: Child = command(&servers, &["-"]).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}
