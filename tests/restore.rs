//! Restoring RDB files of servers, and comparing what came of them.
#![cfg(all(unix, feature = "backup"))]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Connection, Value, cmd, pipe};
use redis_sharding::ops::backup::{Backup, BackupOptions, BackupReport};
use redis_sharding::ops::restore::{
    DiffOptions, DiffReport, DiffSide, Difference, ExistingKeys, KeyType, Restore, RestoreEvent,
    RestoreInput, RestoreOptions, RestoreReport, diff, inspect, verify,
};
use redis_sharding::{Builder, ErrorKind, ShardedClient};
use tempfile::TempDir;

use support::cut::{Cut, Direction, Mode};
use support::{Cluster, Servers, clusters};

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn run(connection: &mut Connection, words: &[&str]) -> Value {
    cmd(words[0]).arg(&words[1..]).query(connection).unwrap()
}

fn has_functions(connection: &mut Connection) -> bool {
    cmd("FUNCTION")
        .arg("LIST")
        .query::<Value>(connection)
        .is_ok()
}

/// Keys of every type and encoding, in three databases.
fn fill(connection: &mut Connection, prefix: &str) {
    let key = |name: &str| format!("{prefix}{name}");
    let mut requests = pipe();
    for (name, value) in [
        ("empty", ""),
        ("number", "12"),
        ("minus", "-100000"),
        ("wide", "123456789012"),
        ("zero", "007"),
        ("text", "the quick brown fox"),
    ] {
        requests.set(key(name), value).ignore();
    }
    requests.set(key("compressed"), "ab".repeat(5000)).ignore();
    requests.set(key("big"), vec![b'x'; 300_000]).ignore();
    requests
        .set(key("binary\0\r\n\u{ff}"), vec![0_u8, 255, 13, 10])
        .ignore();
    requests.set("12", "a key that is a number").ignore();
    for item in 0..2000 {
        let text = format!("item number {item}");
        requests.rpush(key("list"), &text).ignore();
        requests.sadd(key("table"), &text).ignore();
        requests
            .zadd(key("skiplist"), &text, f64::from(item) / 3.0)
            .ignore();
        requests.hset(key("hash table"), &text, item).ignore();
        requests.sadd(key("integers"), item).ignore();
    }
    for item in 0..5 {
        requests.rpush(key("short list"), item).ignore();
        requests.sadd(key("short set"), format!("m{item}")).ignore();
        requests
            .zadd(
                key("short sorted"),
                format!("m{item}"),
                f64::from(item) * 0.1,
            )
            .ignore();
        requests
            .hset(key("short hash"), format!("f{item}"), item)
            .ignore();
        requests.sadd(key("short integers"), item).ignore();
    }
    requests
        .cmd("ZADD")
        .arg(key("scores"))
        .arg(&["inf", "a", "-inf", "b", "-0", "c", "1e300", "d"])
        .ignore();
    requests
        .cmd("RPUSH")
        .arg(key("long item"))
        .arg(vec![b'y'; 20_000])
        .arg("short")
        .ignore();
    for id in 1..300 {
        requests
            .cmd("XADD")
            .arg(key("stream"))
            .arg(format!("{id}-1"))
            .arg(&["field", "value", "other", "text"])
            .ignore();
    }
    for (words, name) in [
        (&["XDEL", "5-1", "7-1"][..], "stream"),
        (&["XGROUP CREATE", "group", "0"], "stream"),
        (&["XGROUP CREATE", "idle", "$"], "stream"),
    ] {
        let mut parts = words[0].split(' ');
        let command = requests.cmd(parts.next().unwrap());
        for part in parts {
            command.arg(part);
        }
        command.arg(key(name)).arg(&words[1..]).ignore();
    }
    for consumer in ["alice", "bob"] {
        requests
            .cmd("XREADGROUP")
            .arg(&["GROUP", "group", consumer, "COUNT", "10", "STREAMS"])
            .arg(key("stream"))
            .arg(">")
            .ignore();
    }
    // Pending, and no longer there.
    requests.cmd("XDEL").arg(key("stream")).arg("3-1").ignore();
    requests
        .cmd("XADD")
        .arg(key("emptied"))
        .arg(&["MAXLEN", "0", "9-9", "a", "b"])
        .ignore();
    for number in 0..500 {
        let at = now() + 3_600_000 + number;
        requests
            .cmd("SET")
            .arg(key(&format!("expiring {number}")))
            .arg(number)
            .arg("PXAT")
            .arg(at)
            .ignore();
    }
    requests
        .cmd("SELECT")
        .arg(3)
        .ignore()
        .set(key("text"), "in database 3")
        .ignore();
    requests.cmd("SELECT").arg(0).ignore();
    let () = requests.query(connection).unwrap();
    let mut expire = cmd("HPEXPIRE");
    expire
        .arg(key("short hash"))
        .arg(&["7200000", "FIELDS", "2", "f1", "f3"]);
    // A server without expiries of fields refuses it.
    let _ = expire.query::<Value>(connection);
}

const LIBRARY: &str =
    "#!lua name=counting\nredis.register_function('one', function() return 1 end)";

/// The RDB file that a server writes now.
fn saved(servers: &Servers, index: usize) -> PathBuf {
    let connection = &mut servers.connection(index);
    let () = cmd("SAVE").query(connection).unwrap();
    let (_, folder): (String, String) = cmd("CONFIG")
        .arg(&["GET", "dir"])
        .query(connection)
        .unwrap();
    PathBuf::from(folder).join("dump.rdb")
}

/// A fleet of some servers.
fn fleet(servers: &Servers, indices: std::ops::Range<usize>) -> Builder {
    indices.fold(ShardedClient::builder(), |builder, index| {
        builder.node(format!("node-{index}"), servers.url(index))
    })
}

fn restore(
    target: Builder,
    rdb: &[PathBuf],
    options: RestoreOptions,
) -> Result<RestoreReport, redis_sharding::Error> {
    Restore::new(target, options)?.run(&mut RestoreInput::rdb(rdb), |_| ())
}

fn compare(rdb: &PathBuf, target: Builder) -> DiffReport {
    let first = DiffSide::Input(RestoreInput::rdb([rdb]));
    let second = DiffSide::Fleet(Box::new(target));
    diff(first, second, DiffOptions::new()).unwrap()
}

fn flush(servers: &Servers, indices: std::ops::Range<usize>) {
    for index in indices {
        run(&mut servers.connection(index), &["FLUSHALL"]);
    }
}

/// A server with all types, and its RDB file.
fn source() -> Option<(Servers, PathBuf, TempDir)> {
    let servers = Servers::start(1)?;
    let connection = &mut servers.connection(0);
    fill(connection, "user:");
    if has_functions(connection) {
        run(connection, &["FUNCTION", "LOAD", LIBRARY]);
    }
    let file = saved(&servers, 0);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("source.rdb");
    fs::copy(file, &copy).unwrap();
    Some((servers, copy, folder))
}

#[test]
fn rdb_file_is_restored_to_one_three_and_seven_nodes() {
    let (Some((_source, file, _folder)), Some(servers)) = (source(), Servers::start(7)) else {
        return;
    };
    let good = verify(&mut RestoreInput::rdb([&file])).unwrap();
    assert!(good.is_good(), "{good}");
    for count in [1, 3, 7] {
        let target = || fleet(&servers, 0..count);
        let report = restore(target(), std::slice::from_ref(&file), RestoreOptions::new()).unwrap();
        assert!(report.is_complete(), "{report}");
        assert_eq!((report.restored, report.read), (good.keys, good.keys));
        let found = compare(&file, target());
        assert!(found.is_equal(), "{count} nodes: {found}");
        assert_eq!(found.equal, good.keys);
        for index in 0..count {
            let connection = &mut servers.connection(index);
            if has_functions(connection) {
                let one: i64 = cmd("FCALL").arg(&["one", "0"]).query(connection).unwrap();
                assert_eq!(one, 1);
                run(connection, &["FUNCTION", "FLUSH"]);
            }
        }
        let mut client = target().build().unwrap();
        let length: u64 = cmd("XLEN").arg("user:stream").query(&mut client).unwrap();
        assert_eq!(length, 296);
        flush(&servers, 0..count);
    }
}

#[test]
fn values_are_made_element_by_element() {
    let (Some((_source, file, _folder)), Some(servers)) = (source(), Servers::start(2)) else {
        return;
    };
    let options = RestoreOptions::new().with_element_bytes(1);
    let report = restore(fleet(&servers, 0..2), std::slice::from_ref(&file), options).unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.by_elements, report.restored);
    let found = compare(&file, fleet(&servers, 0..2));
    assert!(found.is_equal(), "{found}");
}

#[test]
fn keys_that_exist_end_the_restore_stay_or_are_replaced() {
    let (Some((_source, file, _folder)), Some(servers)) = (source(), Servers::start(2)) else {
        return;
    };
    let target = || fleet(&servers, 0..2);
    let mut client = target().build().unwrap();
    let mine = || cmd("SET").arg("user:list").arg("mine").clone();
    let () = mine().query(&mut client).unwrap();
    let stopped = Mutex::new(None);
    let restorer = Restore::new(target(), RestoreOptions::new()).unwrap();
    let failed = restorer.run(&mut RestoreInput::rdb([&file]), |event| {
        if let RestoreEvent::Stopped { report } = event {
            *stopped.lock().unwrap() = Some(report);
        }
    });
    let failed = failed.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Config);
    assert!(failed.to_string().contains("user:list"), "{failed}");
    let stopped = stopped.into_inner().unwrap().unwrap();
    assert_eq!(stopped.existing_keys, ["\"user:list\""]);

    flush(&servers, 0..2);
    let () = mine().query(&mut client).unwrap();
    let skip = RestoreOptions::new().with_existing(ExistingKeys::Skip);
    let report = restore(target(), std::slice::from_ref(&file), skip.clone()).unwrap();
    assert_eq!((report.existing, report.restored), (1, report.read - 1));
    let found = compare(&file, target());
    assert_eq!((found.values, found.equal), (1, report.restored));
    assert_eq!(found.named[0].difference, Difference::Value);
    assert_eq!(found.named[0].key, "\"user:list\"");
    // Element by element as well.
    let report = restore(
        target(),
        std::slice::from_ref(&file),
        skip.with_element_bytes(1),
    )
    .unwrap();
    assert_eq!((report.existing, report.restored), (report.read, 0));

    let replace = RestoreOptions::new().with_existing(ExistingKeys::Replace);
    let report = restore(target(), std::slice::from_ref(&file), replace).unwrap();
    assert_eq!((report.existing, report.restored), (0, report.read));
    assert!(compare(&file, target()).is_equal());
}

#[test]
fn keys_are_chosen_and_renamed() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let connection = &mut servers.connection(0);
    fill(connection, "user:");
    run(connection, &["SET", "gone", "x", "PX", "5000"]);
    run(connection, &["SELECT", "15"]);
    run(
        connection,
        &["SET", "redis-sharding:record", "of another fleet"],
    );
    run(connection, &["SELECT", "0"]);
    let file = saved(&servers, 0);
    // Its time is up when the file is read.
    thread::sleep(Duration::from_millis(5000));
    let target = || fleet(&servers, 1..3);
    let options = RestoreOptions::new()
        .with_pattern("user:short*")
        .with_pattern("user:text")
        .with_type(KeyType::Hash)
        .with_type(KeyType::String)
        .with_prefix("user:", "copy:")
        .with_database(3, 5);
    let report = restore(target(), std::slice::from_ref(&file), options).unwrap();
    assert_eq!((report.restored, report.record), (3, 1), "{report}");
    assert_eq!(report.filtered, report.read - 4);
    let mut client = target().build().unwrap();
    let text: String = cmd("GET").arg("copy:text").query(&mut client).unwrap();
    assert_eq!(text, "the quick brown fox");
    let fields: u64 = cmd("HLEN")
        .arg("copy:short hash")
        .query(&mut client)
        .unwrap();
    assert_eq!(fields, 5);
    let in_five = (1..3).find_map(|index| {
        let connection = &mut servers.connection(index);
        run(connection, &["SELECT", "5"]);
        cmd("GET")
            .arg("copy:text")
            .query::<Option<String>>(connection)
            .unwrap()
    });
    assert_eq!(in_five.as_deref(), Some("in database 3"));

    flush(&servers, 1..3);
    let report = restore(target(), &[file], RestoreOptions::new()).unwrap();
    assert_eq!((report.expired, report.record), (1, 1), "{report}");
    assert_eq!(report.restored, report.read - 2);
}

#[test]
fn a_plan_counts_what_each_node_would_get() {
    let (Some((_source, file, _folder)), Some(servers)) = (source(), Servers::start(2)) else {
        return;
    };
    let restorer = Restore::new(fleet(&servers, 0..2), RestoreOptions::new()).unwrap();
    let plan = restorer.plan(&mut RestoreInput::rdb([&file])).unwrap();
    assert!(plan.is_possible(), "{plan}");
    let planned: Vec<u64> = plan.nodes.iter().map(|node| node.keys).collect();
    let size = |index| -> u64 { cmd("DBSIZE").query(&mut servers.connection(index)).unwrap() };
    assert_eq!((size(0), size(1)), (0, 0));
    restorer
        .run(&mut RestoreInput::rdb([&file]), |_| ())
        .unwrap();
    // Without the key of database 3.
    let restored = size(0) + size(1);
    assert_eq!(planned.iter().sum::<u64>(), restored + 1);
    assert!(planned[0].abs_diff(size(0)) <= 1 && planned[1].abs_diff(size(1)) <= 1);
}

#[test]
fn several_rdb_files_are_restored_together() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let files: Vec<PathBuf> = (0..2)
        .map(|index| {
            let connection = &mut servers.connection(index);
            fill(connection, &format!("of {index}:"));
            // Both have it.
            run(connection, &["DEL", "12"]);
            saved(&servers, index)
        })
        .collect();
    let report = restore(fleet(&servers, 2..4), &files, RestoreOptions::new()).unwrap();
    assert!(report.is_complete(), "{report}");
    let both = DiffSide::Input(RestoreInput::rdb(&files));
    let target = DiffSide::Fleet(Box::new(fleet(&servers, 2..4)));
    let found = diff(both, target, DiffOptions::new()).unwrap();
    assert!(
        found.is_equal() && found.equal == report.restored,
        "{found}"
    );
    // A fleet and a fleet.
    let old = DiffSide::Fleet(Box::new(fleet(&servers, 0..2)));
    let new = DiffSide::Fleet(Box::new(fleet(&servers, 2..4)));
    run(&mut servers.connection(2), &["SET", "more", "1"]);
    run(&mut servers.connection(0), &["DEL", "of 0:list"]);
    let found = diff(old, new, DiffOptions::new()).unwrap();
    assert_eq!((found.only_first, found.only_second), (0, 2), "{found}");
    let named: BTreeSet<&str> = found.named.iter().map(|named| &*named.key).collect();
    assert_eq!(named, BTreeSet::from(["\"more\"", "\"of 0:list\""]));
}

#[test]
fn redis_cluster_takes_database_0_alone() {
    let Some((_source, file, _folder)) = source() else {
        return;
    };
    let servers = clusters::servers().into_iter();
    // Older ones cannot be told the port of the bus.
    for server in servers.filter(|server| server.version >= (7, 0)) {
        let cluster = Cluster::start(&server, 3, 0);
        let target = || ShardedClient::builder().cluster(cluster.urls());
        if !(server.is_valkey && server.version >= (9, 0)) {
            let refused =
                restore(target(), std::slice::from_ref(&file), RestoreOptions::new()).unwrap_err();
            assert!(refused.to_string().contains("--db 3=0"), "{refused}");
        }
        let options = RestoreOptions::new()
            .with_existing(ExistingKeys::Replace)
            .with_prefix("user:text", "user:text 3")
            .with_pattern("user:*")
            .with_database(3, 0);
        let report = restore(target(), std::slice::from_ref(&file), options).unwrap();
        assert!(report.is_complete(), "{report}");
        let found = compare(&file, target());
        // Both texts have the same name now, and neither that of the file.
        assert_eq!(found.equal, report.restored - 2, "{found}");
    }
}

#[test]
fn target_that_evicts_is_refused_unless_told() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let evicting = Servers::builder()
        .option(["--maxmemory", "3mb"])
        .option(["--maxmemory-policy", "allkeys-lru"])
        .start(1)
        .unwrap();
    let connection = &mut servers.connection(0);
    for number in 0..400 {
        let () = cmd("SET")
            .arg(number)
            .arg(vec![b'a' + (number % 7) as u8; 40_000 + number])
            .query(connection)
            .unwrap();
    }
    run(connection, &["CONFIG", "SET", "rdbcompression", "no"]);
    let file = saved(&servers, 0);
    let target = || fleet(&evicting, 0..1);
    let refused =
        restore(target(), std::slice::from_ref(&file), RestoreOptions::new()).unwrap_err();
    assert!(refused.to_string().contains("allkeys-lru"), "{refused}");
    assert_eq!(refused.node(), Some("node-0"));
    let options = RestoreOptions::new().with_evicting(true);
    let refused = restore(target(), std::slice::from_ref(&file), options.clone()).unwrap_err();
    assert!(refused.to_string().contains("maxmemory"), "{refused}");
    let report = restore(
        target(),
        std::slice::from_ref(&file),
        options.with_little_memory(true),
    )
    .unwrap();
    assert_eq!(report.restored, 400);
    assert!(
        !report.is_complete() && report.evicted[0].1 > 100,
        "{report}"
    );
    // Without eviction the server says it.
    run(
        &mut evicting.connection(0),
        &["CONFIG", "SET", "maxmemory-policy", "noeviction"],
    );
    run(&mut evicting.connection(0), &["FLUSHALL"]);
    let options = RestoreOptions::new().with_little_memory(true);
    let failed = restore(target(), &[file], options).unwrap_err();
    assert!(failed.to_string().contains("OOM"), "{failed}");
}

#[test]
fn damaged_rdb_file_is_refused_and_restored_as_far_as_it_is_good() {
    let (Some((_source, file, folder)), Some(servers)) = (source(), Servers::start(1)) else {
        return;
    };
    let bytes = fs::read(&file).unwrap();
    let cut = folder.path().join("cut.rdb");
    fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let target = || fleet(&servers, 0..1);
    let refused = restore(target(), std::slice::from_ref(&cut), RestoreOptions::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Archive);
    assert!(refused.to_string().contains("keys with"), "{refused}");
    let size: u64 = cmd("DBSIZE").query(&mut servers.connection(0)).unwrap();
    assert_eq!(size, 0);
    let verified = verify(&mut RestoreInput::rdb([&cut])).unwrap();
    assert!(!verified.is_good() && verified.damage.len() == 1);
    let report = restore(
        target(),
        std::slice::from_ref(&cut),
        RestoreOptions::new().with_damaged(true),
    )
    .unwrap();
    assert!(!report.is_complete() && report.lost.len() == 1, "{report}");
    assert_eq!(report.restored, verified.keys);
    let found = compare(&file, target());
    assert_eq!((found.equal, found.only_second), (report.restored, 0));
    assert!(found.only_first > 0);
    let foreign = folder.path().join("foreign");
    fs::write(&foreign, "no archive").unwrap();
    let refused = restore(target(), &[foreign], RestoreOptions::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Archive);
}

#[test]
fn killed_target_is_waited_for_and_gone_on_with() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let targets = Servers::builder()
        .keeps_data()
        .option(["--appendonly", "yes"])
        .option(["--appendfsync", "always"])
        .start(2)
        .unwrap();
    let connection = &mut servers.connection(0);
    for chunk in (0..40_000).collect::<Vec<u32>>().chunks(2000) {
        let mut requests = pipe();
        for number in chunk {
            requests
                .set(format!("key:{number}"), format!("{number:0100}"))
                .ignore();
        }
        let () = requests.query(connection).unwrap();
    }
    fill(connection, "user:");
    let file = saved(&servers, 0);
    let folder = tempfile::tempdir().unwrap();
    let target = || fleet(&targets, 0..2);
    let options = || {
        RestoreOptions::new()
            .with_progress(folder.path().join("progress"))
            .with_outage_timeout(Duration::from_millis(300))
    };
    let slow = options()
        .with_bytes_per_second(1_000_000)
        .with_element_bytes(10_000);
    let restorer = Restore::new(target(), slow).unwrap();
    let restored = Mutex::new(0);
    let failed = restorer.run(&mut RestoreInput::rdb([&file]), |event| {
        if let RestoreEvent::Restored { keys, .. } = event {
            let mut restored = restored.lock().unwrap();
            let before = *restored;
            *restored += keys;
            if before < 5000 && *restored >= 5000 {
                targets.kill(1);
            }
        }
    });
    let failed = failed.unwrap_err();
    assert_eq!(failed.node(), Some("node-1"), "{failed}");
    targets.restart(1);
    // With the same options, or not at all.
    let other = options().with_existing(ExistingKeys::Skip);
    let refused = restore(target(), std::slice::from_ref(&file), other).unwrap_err();
    assert!(refused.to_string().contains("other options"), "{refused}");
    let refused = restore(target(), std::slice::from_ref(&file), options()).unwrap_err();
    assert!(
        refused.to_string().contains("--allow-restarted"),
        "{refused}"
    );
    let report = restore(
        target(),
        std::slice::from_ref(&file),
        options().with_restarted(true),
    )
    .unwrap();
    assert!(report.is_complete(), "{report}");
    assert!(report.resumed > 0 && report.existing == 0, "{report}");
    assert_eq!(report.resumed + report.restored, report.read);
    assert!(!folder.path().join("progress").exists());
    let found = compare(&file, target());
    assert!(found.is_equal(), "{found}");
}

#[test]
fn keys_whose_replies_were_lost_are_not_taken_for_those_of_others() {
    let (Some((_source, file, _folder)), Some(servers)) = (source(), Servers::start(1)) else {
        return;
    };
    let cut = Cut::start(&servers.addr(0));
    let target = || {
        ShardedClient::builder()
            .node("node-0", cut.url())
            .response_timeout(Duration::from_secs(1))
    };
    // One key is of somebody else.
    run(&mut servers.connection(0), &["SET", "user:stream", "mine"]);
    let options = RestoreOptions::new()
        .with_existing(ExistingKeys::Skip)
        // In many batches.
        .with_bytes_per_second(300_000)
        .with_reply_within(Duration::from_secs(1));
    let restorer = Restore::new(target(), options).unwrap();
    let mut batches = 0;
    let report = restorer.run(&mut RestoreInput::rdb([&file]), |event| match event {
        RestoreEvent::Restored { .. } => {
            batches += 1;
            if batches == 1 {
                // From now on keys arrive, and replies do not.
                cut.set_direction(Direction::ToClient, Mode::Drop);
            }
        }
        RestoreEvent::Waiting { .. } => cut.set(Mode::Pass),
        _ => {}
    });
    let report = report.unwrap();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.existing_keys, ["\"user:stream\""]);
    assert_eq!(report.restored, report.read - 1);
    assert!(report.confirmed > 0, "{report}");
    let found = compare(&file, fleet(&servers, 0..1));
    assert_eq!((found.equal, found.values), (report.restored, 1), "{found}");
}

#[test]
fn rdb_file_is_inspected() {
    let Some((_source, file, _folder)) = source() else {
        return;
    };
    let found = inspect(&mut RestoreInput::detect(&file).unwrap()).unwrap();
    let node = &found.nodes[0];
    assert_eq!(node.databases[&3], 1);
    assert_eq!(node.types[&KeyType::Stream], 2);
    assert!(node.server.is_some() && node.keys.unwrap() > 500);
    assert!(found.damage.is_empty());
}

/// A fleet with all types, and its archive.
fn archived(servers: &Servers, options: BackupOptions) -> (TempDir, PathBuf, BackupReport) {
    for index in 0..servers.len() {
        fill(&mut servers.connection(index), &format!("of {index}:"));
        // All have it.
        run(&mut servers.connection(index), &["DEL", "12"]);
    }
    if has_functions(&mut servers.connection(0)) {
        run(&mut servers.connection(0), &["FUNCTION", "LOAD", LIBRARY]);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.rsb");
    let backup = Backup::new(fleet(servers, 0..servers.len()), options).unwrap();
    let report = backup
        .run(fs::File::create(&file).unwrap(), |_| ())
        .unwrap();
    (folder, file, report)
}

fn from_archive(
    file: &Path,
    target: Builder,
    options: RestoreOptions,
) -> Result<RestoreReport, redis_sharding::Error> {
    Restore::new(target, options)?.run(&mut RestoreInput::archive(file), |_| ())
}

fn compare_archive(file: &Path, target: Builder) -> DiffReport {
    let first = DiffSide::Input(RestoreInput::archive(file));
    diff(first, DiffSide::Fleet(Box::new(target)), DiffOptions::new()).unwrap()
}

#[test]
fn archive_of_three_nodes_is_restored_to_two_and_to_a_pipe() {
    let (Some(sources), Some(targets)) = (Servers::start(3), Servers::start(2)) else {
        return;
    };
    let (_folder, file, made) = archived(&sources, BackupOptions::new());
    let found = inspect(&mut RestoreInput::archive(&file)).unwrap();
    assert_eq!(found.nodes.len(), 3);
    let keys: u64 = found.nodes.iter().filter_map(|node| node.keys).sum();
    assert_eq!(keys, made.keys());
    assert!(
        found.is_consistent == Some(true) && found.damage.is_empty(),
        "{found:?}"
    );
    let good = verify(&mut RestoreInput::archive(&file)).unwrap();
    assert!(good.is_good() && good.keys == keys, "{good}");
    let target = || fleet(&targets, 0..2);
    let report = from_archive(&file, target(), RestoreOptions::new()).unwrap();
    assert!(report.is_complete() && report.restored == keys, "{report}");
    let found = compare_archive(&file, target());
    assert!(found.is_equal() && found.equal == keys, "{found}");
    let old = DiffSide::Fleet(Box::new(fleet(&sources, 0..3)));
    let new = DiffSide::Fleet(Box::new(target()));
    let found = diff(old, new, DiffOptions::new()).unwrap();
    assert!(found.is_equal(), "{found}");
    if has_functions(&mut targets.connection(1)) {
        let one: i64 = cmd("FCALL")
            .arg(&["one", "0"])
            .query(&mut targets.connection(1))
            .unwrap();
        assert_eq!((one, report.functions), (1, 1));
    }
    // The library is there already, and is the same.
    run(&mut targets.connection(0), &["FLUSHALL"]);
    run(&mut targets.connection(1), &["FLUSHALL"]);
    let stream = fs::File::open(&file).unwrap();
    let restorer = Restore::new(target(), RestoreOptions::new()).unwrap();
    let report = restorer
        .run(&mut RestoreInput::archive_stream(stream), |_| ())
        .unwrap();
    assert!(report.is_complete() && report.restored == keys, "{report}");
}

#[test]
fn damaged_archive_is_refused_and_restored_as_far_as_it_is_good() {
    let (Some(sources), Some(targets)) = (Servers::start(2), Servers::start(1)) else {
        return;
    };
    let (folder, file, made) = archived(&sources, BackupOptions::new());
    let bytes = fs::read(&file).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let target = || fleet(&targets, 0..1);
    for (name, bytes) in [
        ("cut", &bytes[..bytes.len() * 3 / 4]),
        ("flipped", &flipped),
    ] {
        let damaged = folder.path().join(name);
        fs::write(&damaged, bytes).unwrap();
        let refused = from_archive(&damaged, target(), RestoreOptions::new()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Archive);
        assert!(refused.to_string().contains("--damaged"), "{refused}");
        let size: u64 = cmd("DBSIZE").query(&mut targets.connection(0)).unwrap();
        assert_eq!(size, 0);
        let verified = verify(&mut RestoreInput::archive(&damaged)).unwrap();
        assert!(
            !verified.is_good() && !verified.damage.is_empty(),
            "{verified}"
        );
        let accepted = RestoreOptions::new().with_damaged(true);
        let report = from_archive(&damaged, target(), accepted).unwrap();
        assert!(!report.is_complete() && !report.lost.is_empty(), "{report}");
        assert_eq!(report.restored, verified.keys);
        assert!(report.restored < made.keys());
        let found = compare_archive(&file, target());
        assert_eq!((found.equal, found.values), (report.restored, 0), "{found}");
        flush(&targets, 0..1);
    }
}

#[test]
#[cfg(feature = "backup-encryption")]
fn encrypted_archive_is_restored_with_its_identity() {
    let (Some(sources), Some(targets)) = (Servers::start(1), Servers::start(1)) else {
        return;
    };
    let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let options = BackupOptions::new().with_recipients(recipient);
    let (folder, file, made) = archived(&sources, options);
    let refused = from_archive(&file, fleet(&targets, 0..1), RestoreOptions::new()).unwrap_err();
    assert!(refused.to_string().contains("encrypted"), "{refused}");
    let identity = folder.path().join("identity");
    let key =
        "# a key\nAGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33\n";
    fs::write(&identity, key).unwrap();
    let input = || RestoreInput::archive(&file).with_identity(&identity);
    assert_eq!(inspect(&mut input()).unwrap().nodes.len(), 1);
    assert!(verify(&mut input()).unwrap().is_good());
    let restorer = Restore::new(fleet(&targets, 0..1), RestoreOptions::new()).unwrap();
    let report = restorer.run(&mut input(), |_| ()).unwrap();
    assert_eq!(report.restored, made.keys());
}

/// With `REDIS_SHARDING_SERVERS`, of each server to each.
#[test]
fn values_of_each_server_are_restored_to_each_other_one() {
    let servers = clusters::servers();
    let started: Vec<(Servers, PathBuf)> = servers
        .iter()
        .map(|server| {
            let started = Servers::builder().server(&server.path).start(1).unwrap();
            fill(&mut started.connection(0), "user:");
            let file = saved(&started, 0);
            (started, file)
        })
        .collect();
    for (source, (_, file)) in servers.iter().zip(&started) {
        for target in &servers {
            let to = Servers::builder().server(&target.path).start(1).unwrap();
            let strict = restore(
                fleet(&to, 0..1),
                std::slice::from_ref(file),
                RestoreOptions::new(),
            )
            .unwrap();
            let refused = strict.refused;
            // Only the hash whose fields expire.
            assert!(refused <= 1, "{source:?} {target:?} {strict}");
            assert_eq!(strict.restored + refused, strict.read);
            let found = compare(file, fleet(&to, 0..1));
            assert_eq!(
                (found.equal, found.only_first),
                (strict.restored, refused),
                "{source:?} {target:?} {found}"
            );
            let lossy = RestoreOptions::new()
                .with_existing(ExistingKeys::Replace)
                .with_dropped_field_expiries(true)
                .with_element_bytes(1000);
            let report = restore(fleet(&to, 0..1), std::slice::from_ref(file), lossy).unwrap();
            assert!(report.is_complete() && report.by_elements > 5, "{report}");
            assert_eq!(report.without_field_expiries, refused, "{report}");
            let found = compare(file, fleet(&to, 0..1));
            assert_eq!(
                (found.equal, found.values),
                (report.restored - refused, refused),
                "{source:?} {target:?} {found}"
            );
        }
    }
}
