//! Nodes with replicas, over real servers: which server is asked, and what happens when it is behind, slow or gone. Through
//! both clients and a proxy.
#![cfg(all(feature = "tokio-comp", feature = "proxy"))]

mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use redis::{Cmd, Commands, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::command::CommandTable;
use redis_sharding::proxy::LoopbackProxy;
use redis_sharding::{Builder, ErrorKind, ReadFrom, ShardedClient, aio};
use support::ReplicaSet;
use support::cut::{Direction, Mode};
use support::replicas::wait_until;
use tokio::runtime::Runtime;

/// One way to use a client: everything is asked through each of them.
enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Runtime),
    /// A connection of redis-rs to a proxy.
    Proxy(
        Box<redis::Connection>,
        #[allow(dead_code, reason = "serves until dropped")] LoopbackProxy,
    ),
}

impl Client {
    fn all(describe: impl Fn() -> Builder) -> Vec<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let proxy = describe().proxy_on_loopback().unwrap();
        let connection = redis::Client::open(proxy.url())
            .unwrap()
            .get_connection()
            .unwrap();
        vec![
            Self::Blocking(describe().build().unwrap()),
            Self::Async(describe().build_async().unwrap(), runtime),
            Self::Proxy(Box::new(connection), proxy),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Blocking(_) => "blocking",
            Self::Async(..) => "async",
            Self::Proxy(..) => "proxy",
        }
    }

    fn run<T: redis::FromRedisValue>(&mut self, cmd: &Cmd) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => cmd.query(client),
            Self::Async(client, runtime) => runtime.block_on(cmd.query_async(client)),
            Self::Proxy(connection, _) => cmd.query(connection),
        }
    }

    fn pipe<T: redis::FromRedisValue>(&mut self, pipe: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => pipe.query(client),
            Self::Async(client, runtime) => runtime.block_on(pipe.query_async(client)),
            Self::Proxy(connection, _) => pipe.query(connection),
        }
    }
}

fn command(words: &str) -> Cmd {
    let mut command = Cmd::new();
    for word in words.split(' ') {
        command.arg(word);
    }
    command
}

/// A client over these sets, with the nodes `n0`, `n1`, ...
fn over(sets: &[&ReplicaSet], read_from: ReadFrom) -> Builder {
    let mut builder = ShardedClient::builder().read_from(read_from);
    for (number, set) in sets.iter().enumerate() {
        let name = format!("n{number}");
        builder = builder.node(&name, set.url(0));
        for replica in 1..set.len() {
            builder = builder.replica(&name, set.url(replica));
        }
    }
    builder
}

/// How often each server has run a command.
fn calls(set: &ReplicaSet, command: &str) -> Vec<u64> {
    (0..set.len())
        .map(|index| set.calls(index, command))
        .collect()
}

fn reset(set: &ReplicaSet) {
    for index in 0..set.len() {
        set.reset_stats(index);
    }
}

/// No replica has refused a write.
fn assert_no_write_at_a_replica(set: &ReplicaSet) {
    for index in 0..set.len() {
        let stats = set.info(index, "errorstats").unwrap();
        assert_eq!(
            stats.get::<String>("errorstat_READONLY"),
            None,
            "server {index}"
        );
    }
}

/// Waits until replicas are read from, which is when they have been checked.
fn wait_for_reads(client: &mut Client, set: &ReplicaSet, expected: impl Fn(&[u64]) -> bool) {
    wait_until("reads of other servers", || {
        reset(set);
        for _ in 0..20 {
            let _: Value = client.run(&command("STRLEN warm")).unwrap();
        }
        expected(&calls(set, "strlen"))
    });
    reset(set);
}

#[test]
fn each_read_from_reads_from_its_servers_and_writes_go_to_the_primary() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    /// Which servers may be read from, and which must be.
    type Expected = fn(&[u64]) -> bool;
    let rows: [(ReadFrom, Expected); 5] = [
        (ReadFrom::Primary, |calls| {
            calls[0] > 0 && calls[1] + calls[2] == 0
        }),
        (ReadFrom::PreferPrimary, |calls| {
            calls[0] > 0 && calls[1] + calls[2] == 0
        }),
        (ReadFrom::PreferReplica, |calls| {
            calls[0] == 0 && calls[1] > 0 && calls[2] > 0
        }),
        (ReadFrom::Replica, |calls| {
            calls[0] == 0 && calls[1] > 0 && calls[2] > 0
        }),
        (ReadFrom::Random, |calls| {
            calls.iter().all(|&calls| calls > 0)
        }),
    ];
    for (read_from, expected) in rows {
        for mut client in Client::all(|| over(&[&set], read_from)) {
            let name = format!("{} {read_from:?}", client.name());
            wait_for_reads(&mut client, &set, expected);
            for number in 0..40 {
                let key = format!("k{number}");
                let () = client.run(cmd("SET").arg(&key).arg(number)).unwrap();
                let _: Option<i64> = client.run(cmd("GET").arg(&key)).unwrap();
            }
            let gets = calls(&set, "get");
            assert!(expected(&gets), "{name}: {gets:?}");
            assert_eq!(gets.iter().sum::<u64>(), 40, "{name}: {gets:?}");
            // Replicas run the writes as well, but none that a client has sent.
            assert_eq!(set.calls(0, "set"), 40, "{name}");
            assert_no_write_at_a_replica(&set);
        }
    }
}

#[test]
fn read_from_nearest_reads_from_the_server_that_replies_first() {
    let Some(set) = ReplicaSet::builder().cuts().start(2) else {
        return;
    };
    let late = Mode::Delay(Duration::from_millis(30));
    for (fast, slow) in [(1, [0, 2]), (0, [1, 2])] {
        set.cut(fast).set(Mode::Pass);
        for index in slow {
            set.cut(index).set_direction(Direction::ToClient, late);
        }
        for mut client in Client::all(|| over(&[&set], ReadFrom::Nearest)) {
            wait_for_reads(&mut client, &set, |calls| calls[fast] == 20);
        }
    }
}

#[test]
fn commands_that_may_use_replicas_are_reads_to_the_server() {
    let Some(set) = ReplicaSet::start(0) else {
        return;
    };
    let mut connection = set.connection(0);
    let mut checked = 0;
    for spec in CommandTable::built_in()
        .iter()
        .filter(|spec| spec.may_use_replica())
    {
        let name = spec.name().to_lowercase();
        let info: Vec<Value> = cmd("COMMAND")
            .arg("INFO")
            .arg(&name)
            .query(&mut connection)
            .unwrap();
        // Unknown to this server: of a module, or newer.
        let Some(Value::Array(row)) = info.into_iter().next() else {
            continue;
        };
        let flags: HashSet<String> = redis::from_redis_value(row[2].clone()).unwrap();
        assert!(
            flags.contains("readonly") || name.contains("_ro"),
            "{name}: {flags:?}"
        );
        assert!(
            !flags.contains("write") && !flags.contains("blocking") || name == "xread",
            "{name}"
        );
        checked += 1;
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn only_reads_by_key_go_to_replicas() {
    let (Some(first), Some(second)) = (ReplicaSet::start(1), ReplicaSet::start(1)) else {
        return;
    };
    let sets = [&first, &second];
    for mut client in Client::all(|| over(&sets, ReadFrom::Replica)) {
        let name = client.name();
        // Keys on both nodes.
        let keys: Vec<String> = (0..20).map(|number| format!("key:{number}")).collect();
        for key in &keys {
            let () = client.run(cmd("SET").arg(key).arg("v")).unwrap();
        }
        let () = client.run(&command("HSET hash f v")).unwrap();
        let () = client.run(&command("DEL stream")).unwrap();
        let _: String = client.run(&command("XADD stream 1-1 f v")).unwrap();
        for set in sets {
            set.wait_until_linked(0);
            reset(set);
        }
        // What is counted, at the primaries and at the replicas.
        let counts = |command: &str| {
            let sum = |index| {
                sets.iter()
                    .map(|set| set.calls(index, command))
                    .sum::<u64>()
            };
            (sum(0), sum(1))
        };
        let values: Vec<String> = client.run(cmd("MGET").arg(&keys)).unwrap();
        assert_eq!(values, vec!["v"; 20]);
        assert_eq!(counts("mget"), (0, 2), "{name}: a part for each node");
        let count: i64 = client.run(cmd("EXISTS").arg(&keys)).unwrap();
        assert_eq!((count, counts("exists")), (20, (0, 2)), "{name}");
        let script = "return redis.call('GET', KEYS[1])";
        let value: String = client
            .run(cmd("EVAL_RO").arg(script).arg(1).arg("key:1"))
            .unwrap();
        assert_eq!((&*value, counts("eval_ro")), ("v", (0, 1)), "{name}");
        let _: Value = client
            .run(&command("XREAD COUNT 1 STREAMS stream 0"))
            .unwrap();
        assert_eq!(counts("xread"), (0, 1), "{name}");
        // These go to the primary.
        let _: Value = client
            .run(&command("XREAD BLOCK 1 STREAMS stream $"))
            .unwrap();
        assert_eq!(counts("xread"), (1, 1), "{name}");
        let _: Value = client.run(&command("HSCAN hash 0")).unwrap();
        assert_eq!(counts("hscan"), (1, 0), "{name}");
        let _: Value = client.run(&command("OBJECT ENCODING hash")).unwrap();
        assert_eq!(counts("object|encoding"), (1, 0), "{name}");
        let _: Value = client.run(&command("DBSIZE")).unwrap();
        assert_eq!(counts("dbsize"), (2, 0), "{name}");
        let _: i64 = client.run(&command("WAIT 1 1000")).unwrap();
        assert_eq!(counts("wait"), (2, 0), "{name}");
        // A pipeline: the node that is only read from is read from its replica, the other one from its primary.
        let on_node = |node: &str| {
            let router = over(&sets, ReadFrom::Primary).build().unwrap();
            let found = keys
                .iter()
                .find(|key| router.node_for(key).unwrap().name() == node);
            found.unwrap().clone()
        };
        let (read, written) = (on_node("n0"), on_node("n1"));
        for set in sets {
            reset(set);
        }
        let mut pipeline = pipe();
        pipeline
            .get(&read)
            .set(&written, "w")
            .ignore()
            .get(&written)
            .strlen(&read);
        let values: (String, String, i64) = client.pipe(&pipeline).unwrap();
        assert_eq!(
            values,
            ("v".into(), "w".into(), 1),
            "{name}: it reads its own write"
        );
        assert_eq!(calls(&first, "get"), [0, 1], "{name}");
        assert_eq!(calls(&second, "get"), [1, 0], "{name}");
        // A transaction.
        let mut atomic = pipe();
        atomic.atomic().get(&read).get(&read);
        let _: (String, String) = client.pipe(&atomic).unwrap();
        assert_eq!(calls(&first, "get"), [2, 1], "{name}");
        for set in sets {
            assert_no_write_at_a_replica(set);
        }
    }
}

#[test]
fn reads_under_watch_and_over_dedicated_connections_go_to_the_primary() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    let mut client = over(&[&set], ReadFrom::Replica).build().unwrap();
    let () = client.set("k", 1).unwrap();
    set.wait_until_linked(0);
    reset(&set);
    let (value,): (i64,) = redis::transaction(&mut client, &["k"], |connection, pipe| {
        let old: i64 = connection.get("k")?;
        pipe.set("k", old + 1).ignore().get("k").query(connection)
    })
    .unwrap();
    assert_eq!((value, calls(&set, "get")), (2, vec![2, 0]));
    let mut dedicated = client.dedicated("k").unwrap();
    let _: i64 = dedicated.get("k").unwrap();
    assert_eq!(calls(&set, "get"), [3, 0]);
    wait_until("the write at the replica", || {
        client.get::<_, i64>("k").unwrap() == 2
    });
    assert_eq!(
        set.calls(0, "get"),
        3,
        "after the transaction the replica is read again"
    );
    // A client of a proxy.
    for mut client in Client::all(|| over(&[&set], ReadFrom::Replica))
        .into_iter()
        .skip(2)
    {
        reset(&set);
        let () = client.run(&command("WATCH k")).unwrap();
        let _: i64 = client.run(&command("GET k")).unwrap();
        assert_eq!(calls(&set, "get"), [1, 0]);
        let () = client.run(&command("UNWATCH")).unwrap();
        let _: i64 = client.run(&command("GET k")).unwrap();
        assert_eq!(calls(&set, "get"), [1, 1]);
    }
}

#[test]
fn read_from_is_a_property_of_the_handle() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    let client = over(&[&set], ReadFrom::Primary).build().unwrap();
    let mut of_replica = client.with_read_from(ReadFrom::Replica);
    let mut of_primary = of_replica.with_read_from(ReadFrom::Primary);
    let _: Option<String> = of_replica.get("k").unwrap();
    let _: Option<String> = of_primary.get("k").unwrap();
    assert_eq!(calls(&set, "get"), [1, 1]);
    let mut node = client.node("n0").unwrap().with_read_from(ReadFrom::Replica);
    let _: Option<String> = node.get("k").unwrap();
    assert_eq!(calls(&set, "get"), [1, 2]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = over(&[&set], ReadFrom::Primary).build_async().unwrap();
        let mut handle = client.with_read_from(ReadFrom::Replica);
        let _: Option<String> = redis::AsyncCommands::get(&mut handle, "k").await.unwrap();
    });
    assert_eq!(calls(&set, "get"), [1, 3]);
}

#[test]
fn script_that_a_replica_lacks_is_brought_to_it() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    let script = "return redis.call('GET', KEYS[1]) or 'none'";
    for mut client in Client::all(|| over(&[&set], ReadFrom::PreferReplica)) {
        wait_for_reads(&mut client, &set, |calls| calls[1] > 0 && calls[2] > 0);
        for index in 0..set.len() {
            let () = cmd("SCRIPT")
                .arg("FLUSH")
                .query(&mut set.connection(index))
                .unwrap();
        }
        let load = cmd("SCRIPT").arg("LOAD").arg(script).clone();
        let sha: String = client.run(&load).unwrap();
        reset(&set);
        let evalsha = cmd("EVALSHA_RO").arg(&sha).arg(1).arg("k").clone();
        for _ in 0..40 {
            let value: String = client.run(&evalsha).unwrap();
            assert_eq!(value, "none", "{}", client.name());
        }
        // Each replica lacked it once, and was given it: after that EVALSHA_RO is enough.
        assert_eq!(calls(&set, "eval_ro"), [0, 1, 1], "{}", client.name());
        assert_eq!(set.calls(0, "evalsha_ro"), 0, "{}", client.name());
        // In a pipeline.
        for index in 1..set.len() {
            let () = cmd("SCRIPT")
                .arg("FLUSH")
                .query(&mut set.connection(index))
                .unwrap();
        }
        let mut pipeline = pipe();
        pipeline
            .add_command(evalsha.clone())
            .add_command(evalsha.clone())
            .get("k");
        for _ in 0..10 {
            let values: (String, String, Option<String>) = client.pipe(&pipeline).unwrap();
            assert_eq!(values.1, "none", "{}", client.name());
        }
        assert_eq!(set.calls(0, "get"), 0, "{}", client.name());
    }
}

#[test]
fn script_that_only_the_primary_has_is_run_there() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    let script = "return 7 + #KEYS";
    let mut primary = set.connection(0);
    let sha: String = cmd("SCRIPT")
        .arg("LOAD")
        .arg(script)
        .query(&mut primary)
        .unwrap();
    for mut client in Client::all(|| over(&[&set], ReadFrom::PreferReplica)) {
        wait_for_reads(&mut client, &set, |calls| calls[1] > 0);
        let evalsha = cmd("EVALSHA_RO").arg(&sha).arg(1).arg("k").clone();
        // No client has seen its source.
        assert_eq!(client.run::<i64>(&evalsha).unwrap(), 8, "{}", client.name());
        assert_eq!(calls(&set, "evalsha_ro"), [1, 1], "{}", client.name());
        let mut pipeline = pipe();
        pipeline.get("k").add_command(evalsha);
        let values: (Option<String>, i64) = client.pipe(&pipeline).unwrap();
        assert_eq!(values.1, 8, "{}", client.name());
    }
}

#[test]
fn function_is_called_at_replicas() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    let library = "#!lua name=lib\nredis.register_function{function_name='read', callback=function(keys) return \
                   redis.call('GET', keys[1]) end, flags={'no-writes'}}";
    for mut client in Client::all(|| over(&[&set], ReadFrom::Replica)) {
        let () = client.run(&command("SET k v")).unwrap();
        let load = cmd("FUNCTION")
            .arg("LOAD")
            .arg("REPLACE")
            .arg(library)
            .clone();
        let _: String = client.run(&load).unwrap();
        set.wait_until_linked(0);
        reset(&set);
        let call = cmd("FCALL_RO").arg("read").arg(1).arg("k").clone();
        assert_eq!(
            client.run::<String>(&call).unwrap(),
            "v",
            "{}",
            client.name()
        );
        assert_eq!(calls(&set, "fcall_ro"), [0, 1], "{}", client.name());
    }
}

/// The URL of a server that leads by no cut.
fn direct_url(set: &ReplicaSet, index: usize) -> String {
    let port: u16 = set.info(index, "server").unwrap().get("tcp_port").unwrap();
    format!("redis://{}:{port}/", support::servers::own_address())
}

/// A client that no cut disturbs, over servers that replicate through cuts.
fn beside_cuts(set: &ReplicaSet, read_from: ReadFrom) -> Builder {
    let builder = ShardedClient::builder()
        .read_from(read_from)
        .node("n0", direct_url(set, 0));
    (1..set.len()).fold(builder, |builder, index| {
        builder.replica("n0", direct_url(set, index))
    })
}

#[test]
fn replica_with_a_broken_link_is_not_read_from() {
    let Some(set) = ReplicaSet::builder().cuts().start(1) else {
        return;
    };
    let mut clients = Client::all(|| beside_cuts(&set, ReadFrom::PreferReplica));
    let strict = beside_cuts(&set, ReadFrom::Replica).build().unwrap();
    for client in &mut clients {
        wait_for_reads(client, &set, |calls| calls[1] == 20);
    }
    set.cut(0).set(Mode::Refuse);
    assert!(set.cut(0).connections_reset() > 0, "the link was cut");
    for client in &mut clients {
        wait_for_reads(client, &set, |calls| calls[0] == 20);
        let () = client.run(&command("SET k new")).unwrap();
        assert_eq!(
            client.run::<String>(&command("GET k")).unwrap(),
            "new",
            "{}",
            client.name()
        );
    }
    wait_until("a refusal", || {
        strict.clone().get::<_, Option<String>>("k").is_err()
    });
    let error = strict.execute(&command("GET k")).unwrap_err();
    assert_eq!(
        (error.kind(), error.node()),
        (ErrorKind::NodeDown, Some("n0"))
    );
    let text = error.to_string();
    assert!(text.contains("has lost its link to the primary"), "{text}");
    assert!(text.contains("ReadFrom::PreferReplica"), "{text}");
    set.cut(0).set(Mode::Pass);
    for client in &mut clients {
        wait_for_reads(client, &set, |calls| calls[1] == 20);
    }
}

#[test]
fn replica_that_is_too_far_behind_is_not_read_from() {
    let builder = ReplicaSet::builder()
        .cuts()
        .option(["--repl-timeout", "600"]);
    let Some(set) = builder.start(1) else {
        return;
    };
    let second = Duration::from_secs(1);
    let in_bytes = || beside_cuts(&set, ReadFrom::PreferReplica).max_replica_lag(20_000, None);
    let in_time = || beside_cuts(&set, ReadFrom::PreferReplica).max_replica_lag(None, second);
    let unlimited = || beside_cuts(&set, ReadFrom::PreferReplica).max_replica_lag(None, None);
    let mut all: Vec<Vec<Client>> = vec![
        Client::all(in_bytes),
        Client::all(in_time),
        Client::all(unlimited),
    ];
    for client in all.iter_mut().flatten() {
        wait_for_reads(client, &set, |calls| calls[1] == 20);
    }
    // The link stays up, and nothing arrives over it.
    set.cut(0).set_direction(Direction::ToClient, Mode::Stall);
    let [in_bytes, in_time, unlimited] = &mut all[..] else {
        unreachable!();
    };
    let mut primary = set.connection(0);
    // A few bytes: too much in time, but not in bytes.
    let () = primary.set("k", "v").unwrap();
    for client in in_time.iter_mut() {
        wait_for_reads(client, &set, |calls| calls[0] == 20);
    }
    for client in in_bytes.iter_mut() {
        wait_for_reads(client, &set, |calls| calls[1] == 20);
    }
    let () = primary.set("k", "v".repeat(30_000)).unwrap();
    for client in in_bytes.iter_mut() {
        wait_for_reads(client, &set, |calls| calls[0] == 20);
    }
    assert!(set.cut(0).bytes_stalled() > 0, "the replica lacks them");
    for client in unlimited {
        wait_for_reads(client, &set, |calls| calls[1] == 20);
    }
    set.cut(0).set(Mode::Pass);
    for client in in_bytes.iter_mut().chain(in_time) {
        wait_for_reads(client, &set, |calls| calls[1] == 20);
    }
}

/// Reads for a while, and returns the errors.
fn errors_while_reading(client: &mut Client, time: Duration) -> Vec<String> {
    let end = Instant::now() + time;
    let mut errors = Vec::new();
    while Instant::now() < end {
        if let Err(error) = client.run::<Value>(&command("GET k")) {
            errors.push(error.to_string());
        }
    }
    errors
}

#[test]
fn reads_go_on_when_a_replica_dies_and_when_it_freezes() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    let quick = || over(&[&set], ReadFrom::PreferReplica).response_timeout(Duration::from_secs(4));
    for mut client in Client::all(quick) {
        let name = client.name();
        wait_for_reads(&mut client, &set, |calls| calls[1] > 0 && calls[2] > 0);
        set.pause(1);
        let errors = errors_while_reading(&mut client, Duration::from_secs(3));
        assert_eq!(errors, Vec::<String>::new(), "{name}: frozen");
        // It is found out, and not asked any more.
        let start = Instant::now();
        for _ in 0..50 {
            let _: Value = client.run(&command("GET k")).unwrap();
        }
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{name}: {:?}",
            start.elapsed()
        );
        set.resume(1);
        set.kill(2);
        let errors = errors_while_reading(&mut client, Duration::from_millis(500));
        assert_eq!(errors, Vec::<String>::new(), "{name}: dead");
        set.restart_following(2, 0);
        set.wait_until_linked(0);
        wait_for_reads(&mut client, &set, |calls| calls[1] > 0 && calls[2] > 0);
    }
}

#[test]
fn prefer_primary_reads_from_replicas_while_the_primary_is_dead() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    let () = set.connection(0).set("k", "v").unwrap();
    set.wait_until_linked(0);
    let mut clients = Client::all(|| over(&[&set], ReadFrom::PreferPrimary));
    for client in &mut clients {
        assert_eq!(client.run::<String>(&command("GET k")).unwrap(), "v");
    }
    assert_eq!(set.calls(1, "get"), 0);
    // The state of the replicas is known before the primary dies.
    std::thread::sleep(Duration::from_secs(2));
    set.kill(0);
    for client in &mut clients {
        wait_until("reads from the replica", || {
            client.run::<String>(&command("GET k")).is_ok()
        });
        let errors = errors_while_reading(client, Duration::from_millis(500));
        assert_eq!(errors, Vec::<String>::new(), "{}", client.name());
        let write = client.run::<()>(&command("SET k w")).unwrap_err();
        assert!(
            write.is_io_error() || write.to_string().contains("connection"),
            "{write}"
        );
    }
    assert!(set.calls(1, "get") > 0);
    let stats = set.info(1, "errorstats").unwrap();
    assert_eq!(
        stats.get::<String>("errorstat_READONLY"),
        None,
        "no write at the replica"
    );
}

#[test]
fn replicas_are_discovered_and_forgotten_as_the_primary_lists_them() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    let describe = || {
        ShardedClient::builder()
            .node("n0", set.url(0))
            .discover_replicas()
            .read_from(ReadFrom::PreferReplica)
    };
    for mut client in Client::all(describe) {
        wait_for_reads(&mut client, &set, |calls| {
            calls[0] == 0 && calls[1] > 0 && calls[2] > 0
        });
    }
    // A replica that follows nobody any more is not read from, whatever it is asked.
    for mut client in Client::all(describe) {
        wait_for_reads(&mut client, &set, |calls| {
            calls[0] == 0 && calls[1] > 0 && calls[2] > 0
        });
        let () = cmd("REPLICAOF")
            .arg(&["NO", "ONE"])
            .query(&mut set.connection(2))
            .unwrap();
        wait_for_reads(&mut client, &set, |calls| calls[0] == 0 && calls[2] == 0);
        set.follow(2, 0).unwrap();
        set.wait_until_linked(0);
    }
}

#[test]
fn late_replica_is_overtaken_by_a_hedged_read() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    let after = Duration::from_millis(20);
    let hedged = || over(&[&set], ReadFrom::PreferReplica).hedged_reads(after);
    for mut client in Client::all(hedged) {
        let name = client.name();
        wait_for_reads(&mut client, &set, |calls| calls[1] > 0 && calls[2] > 0);
        let sleep = Duration::from_secs(2);
        set.sleep(1, sleep);
        let start = Instant::now();
        for _ in 0..10 {
            let _: Value = client.run(&command("GET k")).unwrap();
        }
        let elapsed = start.elapsed();
        assert!(elapsed < sleep / 2, "{name}: {elapsed:?}");
        // Replies that came too late are not taken for those of later requests.
        std::thread::sleep(sleep);
        for number in 0..50 {
            let () = client.run(cmd("SET").arg("n").arg(number)).unwrap();
            let echo: String = client
                .run(
                    cmd("EVAL_RO")
                        .arg("return ARGV[1]")
                        .arg(1)
                        .arg("n")
                        .arg(number),
                )
                .unwrap();
            assert_eq!(echo, number.to_string(), "{name}");
        }
        assert_no_write_at_a_replica(&set);
    }
}

#[test]
fn hedged_reads_are_a_tenth_of_all_reads_when_all_replies_are_late() {
    let Some(set) = ReplicaSet::builder().cuts().start(2) else {
        return;
    };
    for index in [1, 2] {
        set.cut(index)
            .set_direction(Direction::ToClient, Mode::Delay(Duration::from_millis(10)));
    }
    let hedged = || over(&[&set], ReadFrom::PreferReplica).hedged_reads(Duration::from_millis(2));
    for mut client in Client::all(hedged) {
        wait_for_reads(&mut client, &set, |calls| calls[1] > 0 && calls[2] > 0);
        for _ in 0..100 {
            let _: Value = client.run(&command("GET k")).unwrap();
        }
        // A tenth of these, and of those before up to ten.
        let sent: u64 = calls(&set, "get").iter().sum();
        assert!((101..=120).contains(&sent), "{}: {sent}", client.name());
    }
}

#[test]
fn replicas_that_contradict_the_nodes_are_config_errors() {
    let node = || ShardedClient::builder().node("a", "redis://10.0.0.1/2");
    let error = |builder: Builder| builder.build().unwrap_err().to_string();
    let cases = [
        (
            node().replica("b", "redis://10.0.0.2/"),
            "there is no node of that name",
        ),
        (
            node().replica("a", "redis://10.0.0.1/"),
            "which is that of node \"a\"",
        ),
        (
            node()
                .replica("a", "redis://10.0.0.2/")
                .replica("a", "redis://10.0.0.2/"),
            "was given twice",
        ),
        (node().replica("a", "redis://10.0.0.2/3"), "uses database 3"),
        (node().replica("a", "no url"), "a replica of node \"a\""),
        (node().hedged_reads(Duration::ZERO), "hedged_reads is 0ns"),
        (
            (0..65).fold(node(), |builder, number| {
                builder.replica("a", format!("redis://10.0.1.{number}/"))
            }),
            "more than 64 replicas",
        ),
    ];
    for (builder, expected) in cases {
        let text = error(builder);
        assert!(text.contains(expected), "{text}");
    }
    let secret = node().replica("a", "redis://:s3cret@10.0.0.1:bad/");
    assert!(!error(secret).contains("s3cret"));
    assert!(node().replica("a", "redis://10.0.0.2/").build().is_ok());
}

/// The names of this process' threads.
#[cfg(target_os = "linux")]
fn replica_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    // The kernel keeps 15 characters of a name.
    names
        .filter(|name| name.starts_with("redis-sharding"))
        .count()
}

#[cfg(target_os = "linux")]
#[test]
fn thread_that_watches_replicas_ends_with_its_client() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    // In a process of its own, since other tests have such threads, too.
    if std::env::var_os("REPLICA_THREADS").is_none() {
        let exe = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(exe);
        child.args([
            "--exact",
            "thread_that_watches_replicas_ends_with_its_client",
            "--nocapture",
        ]);
        let status = child.env("REPLICA_THREADS", "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let mut plain = ShardedClient::builder()
        .node("n0", set.url(0))
        .build()
        .unwrap();
    let _: Option<String> = plain.get("k").unwrap();
    assert_eq!(replica_threads(), 0, "no replicas, no thread");
    let client = over(&[&set], ReadFrom::Primary).build().unwrap();
    assert_eq!(replica_threads(), 0, "nothing was asked yet");
    let mut reader = client.with_read_from(ReadFrom::Replica);
    let _: Option<String> = reader.get("k").unwrap();
    // Others exist for as long as it connects.
    wait_until("one thread for all clones", || replica_threads() == 1);
    drop((client, reader));
    wait_until("the end of the thread", || replica_threads() == 0);
}

// --------------------------------------------------------------------------------------------------------- failovers

/// Counters that workers increment, each of its own key.
struct Counters {
    /// The beginning of the keys.
    name: &'static str,
    /// For each worker: the largest reply to INCR that a replica had as well (WAIT), the largest reply, and the number of
    /// requests that were sent.
    counts: Vec<(i64, i64, i64)>,
    /// The longest time without a reply.
    outage: Duration,
}

/// Lets threads count while `fault` happens, and for a while before and after.
fn count_during(
    client: &ShardedClient,
    name: &'static str,
    workers: usize,
    fault: impl FnOnce(),
) -> Counters {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let last = std::sync::Mutex::new((Instant::now(), Duration::ZERO));
    std::thread::scope(|scope| {
        let work = |number: usize| {
            let (mut client, stop, last) = (client.clone(), &stop, &last);
            scope.spawn(move || {
                let key = format!("{name}:{number}");
                let mut count = (0, 0, 0);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    count.2 += 1;
                    let Ok(value) = client.incr::<_, _, i64>(&key, 1) else {
                        continue;
                    };
                    count.1 = value;
                    let mut last = last.lock().unwrap();
                    last.1 = last.1.max(last.0.elapsed());
                    last.0 = Instant::now();
                    drop(last);
                    let wait = cmd("WAIT").arg(1).arg(500).clone();
                    if wait
                        .query::<i64>(&mut client)
                        .is_ok_and(|replicas| replicas > 0)
                    {
                        count.0 = value;
                    }
                }
                count
            })
        };
        let workers: Vec<_> = (0..workers).map(work).collect();
        std::thread::sleep(Duration::from_millis(500));
        fault();
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let counts = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect();
        let outage = last.lock().unwrap().1;
        Counters {
            name,
            counts,
            outage,
        }
    })
}

impl Counters {
    /// No increment that a replica had is lost, and none was made twice.
    fn check(&self, primary: &mut redis::Connection) {
        for (number, &(safe, replied, sent)) in self.counts.iter().enumerate() {
            let value: i64 = primary.get(format!("{}:{number}", self.name)).unwrap();
            assert!(safe > 0 && replied > 0, "worker {number} has counted");
            assert!(
                (safe..=sent).contains(&value),
                "{safe} <= {value} <= {sent}"
            );
        }
    }
}

/// Writes wait for the new primary.
fn patient() -> redis_sharding::RetryPolicy {
    let (min, max) = (Duration::from_millis(20), Duration::from_millis(100));
    redis_sharding::RetryPolicy::attempts(100).with_backoff(min, max)
}

#[test]
fn promoted_replica_takes_over_from_a_dead_primary_and_the_dead_one_is_never_written_to_again() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    let client = over(&[&set], ReadFrom::PreferReplica)
        .retry(patient())
        .build()
        .unwrap();
    let mut promoted = 0;
    let counters = count_during(&client, "first", 8, || {
        set.kill(0);
        // The one that has more: it has all that any replica has confirmed.
        let offset = |index| set.offset(index).unwrap();
        promoted = if offset(1) >= offset(2) { 1 } else { 2 };
        set.promote(promoted);
    });
    counters.check(&mut set.connection(promoted));
    assert!(
        counters.outage < Duration::from_secs(3),
        "{:?}",
        counters.outage
    );
    let health = client.health();
    assert_eq!(health.nodes[0].address, set.addr(promoted), "{health}");
    // It returns, and says that it is a primary: empty, but at the address that was given.
    set.restart(0);
    let counters = count_during(&client, "second", 4, || {
        std::thread::sleep(Duration::from_secs(2))
    });
    counters.check(&mut set.connection(promoted));
    assert_eq!(calls(&set, "incr")[0], 0);
    let health = client.health();
    assert!(health.to_string().contains("is not a replica"), "{health}");
    // The new primary dies as well. The old one still says that it is one, and has missed everything.
    set.kill(promoted);
    let error = client.with_retry(redis_sharding::RetryPolicy::OFF);
    let mut refused = error.clone();
    std::thread::sleep(Duration::from_secs(2));
    assert!(refused.set::<_, _, ()>("k", "v").is_err());
    let keys: i64 = cmd("DBSIZE").query(&mut set.connection(0)).unwrap();
    assert_eq!(keys, 0, "nothing was written to it");
    // The other replica is promoted: it is the successor of the second primary.
    let third = 3 - promoted;
    let () = cmd("REPLICAOF")
        .arg(&["NO", "ONE"])
        .query(&mut set.connection(third))
        .unwrap();
    wait_until("the third primary", || {
        refused.set::<_, _, ()>("k", "v").is_ok()
    });
    assert_eq!(set.connection(third).get::<_, String>("k").unwrap(), "v");
}

#[test]
fn primary_that_becomes_a_replica_while_it_runs_hands_over_to_the_new_one() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    let client = over(&[&set], ReadFrom::Primary)
        .retry(patient())
        .build()
        .unwrap();
    let counters = count_during(&client, "first", 8, || {
        // No write is lost if none is made while the roles change.
        let pause = cmd("CLIENT").arg("PAUSE").arg(10_000).arg("WRITE").clone();
        let () = pause.query(&mut set.connection(0)).unwrap();
        wait_until("the replica", || {
            set.offset(0).unwrap() == set.offset(1).unwrap()
        });
        set.promote(1);
        let () = cmd("CLIENT")
            .arg("UNPAUSE")
            .query(&mut set.connection(0))
            .unwrap();
    });
    counters.check(&mut set.connection(1));
    assert_eq!(client.health().nodes[0].address, set.addr(1));
}

#[test]
fn failover_is_followed_by_the_async_client_and_the_proxy_and_by_discovered_replicas() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    let describe = || {
        ShardedClient::builder()
            .node("n0", set.url(0))
            .discover_replicas()
            .read_from(ReadFrom::PreferReplica)
            .retry(patient())
    };
    let mut clients = Client::all(describe);
    for client in &mut clients {
        let () = client.run(&command("SET k before")).unwrap();
        wait_for_reads(client, &set, |calls| {
            calls[0] == 0 && calls[1] > 0 && calls[2] > 0
        });
    }
    set.kill(0);
    set.promote(1);
    set.wait_until_linked(1);
    for client in &mut clients {
        let name = client.name();
        wait_until("the new primary", || {
            client.run::<()>(&command("SET k after")).is_ok()
        });
        set.wait_until_linked(1);
        let value: String = client.run(&command("GET k")).unwrap();
        assert_eq!(value, "after", "{name}");
        wait_until("reads from the other replica", || {
            set.reset_stats(2);
            for _ in 0..10 {
                let _: Value = client.run(&command("STRLEN k")).unwrap();
            }
            set.calls(2, "strlen") > 0
        });
    }
    let sets: i64 = set.calls(1, "set") as i64;
    assert!(sets >= 3, "{sets}");
}

#[test]
fn replica_is_read_by_a_user_who_may_run_role_and_not_info() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    for index in 0..set.len() {
        let user = ["SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info"];
        let () = cmd("ACL")
            .arg(&user)
            .query(&mut set.connection(index))
            .unwrap();
    }
    let describe = || {
        over(&[&set], ReadFrom::PreferReplica)
            .username("app")
            .password("pw")
    };
    for mut client in Client::all(describe) {
        wait_for_reads(&mut client, &set, |calls| calls[1] == 20);
    }
}

#[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
#[test]
fn replicas_are_reached_with_the_password_and_the_certificates_of_their_node() {
    let authority = support::authority::Authority::new("replicas");
    let builder = ReplicaSet::builder().password("s3cret").tls(&authority);
    let Some(set) = builder.start(1) else {
        return;
    };
    let certificates = || redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(authority.pem().into_bytes()),
    };
    // The replica's URL has no password.
    let describe = || {
        ShardedClient::builder()
            .node("n0", set.url(0))
            .replica("n0", format!("rediss://{}/", set.addr(1)))
            .tls_certificates(certificates())
            .read_from(ReadFrom::Replica)
    };
    for mut client in Client::all(describe) {
        let _: Option<String> = client.run(&command("GET k")).unwrap();
    }
    assert_eq!(calls(&set, "get"), [0, 3]);
    let discovered = || {
        ShardedClient::builder()
            .node("n0", set.url(0))
            .discover_replicas()
            .tls_certificates(certificates())
            .read_from(ReadFrom::PreferReplica)
    };
    for mut client in Client::all(discovered) {
        wait_for_reads(&mut client, &set, |calls| calls[1] == 20);
    }
}
