//! Commands for all nodes: one answer, such as one server gives, by both clients in both protocols, over real servers.
#![cfg(all(feature = "tokio-comp", feature = "testing"))]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use redis::{Commands, InfoDict, RedisResult, Value, cmd, from_redis_value};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, ErrorKind, ShardedClient};
use support::Servers;

/// Asks one client in one protocol.
type Ask<'a> = dyn FnMut(&[&str]) -> RedisResult<Value> + 'a;

fn command(words: &[&str]) -> redis::Cmd {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command
}

fn describe(servers: &Servers, protocol: &str) -> Builder {
    (0..)
        .zip(servers.urls())
        .fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(
                format!("node-{number}"),
                format!("{url}?protocol={protocol}"),
            )
        })
}

/// Runs `test` with both clients in both protocols.
fn by_both(servers: &Servers, mut test: impl FnMut(&mut Ask<'_>)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for protocol in ["resp2", "resp3"] {
        let mut client = describe(servers, protocol).build().unwrap();
        test(&mut |words| command(words).query(&mut client));
        let _context = runtime.enter();
        let mut client = describe(servers, protocol).build_async().unwrap();
        test(&mut |words| runtime.block_on(command(words).query_async(&mut client)));
    }
}

fn debuggable(count: usize) -> Option<Servers> {
    Servers::builder()
        .option(["--enable-debug-command", "yes"])
        .start(count)
}

fn get<T: redis::FromRedisValue>(ask: &mut Ask<'_>, words: &[&str]) -> T {
    let value = ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    from_redis_value(value).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn text(ask: &mut Ask<'_>, words: &[&str]) -> String {
    get(ask, words)
}

/// Keys of every type, the same wherever they are written.
fn fill(ask: &mut Ask<'_>, keys: usize) {
    get::<()>(ask, &["FLUSHALL"]);
    for number in 0..keys {
        let key = format!("key:{number}");
        match number % 5 {
            0 => drop(ask(&["SET", &key, "value"]).unwrap()),
            1 => drop(ask(&["RPUSH", &key, "a", "b", &key]).unwrap()),
            2 => drop(ask(&["SADD", &key, "a", "b", &key]).unwrap()),
            3 => drop(ask(&["ZADD", &key, "1", "a", "2.5", &key]).unwrap()),
            _ => drop(ask(&["HSET", &key, "f", "1", "g", &key]).unwrap()),
        }
        if number % 7 == 0 {
            get::<()>(ask, &["EXPIRE", &key, "1000"]);
        }
    }
}

/// What a program that knows one server can tell apart.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Int(_) => "number",
        Value::BulkString(_) => "bulk",
        Value::VerbatimString { .. } => "verbatim",
        Value::Array(_) => "array",
        Value::SimpleString(_) | Value::Okay => "status",
        Value::Map(_) => "map",
        Value::Set(_) => "set",
        Value::Double(_) => "double",
        Value::Boolean(_) => "boolean",
        _ => "other",
    }
}

#[test]
fn replies_of_all_nodes_have_the_types_of_one_server() {
    let (Some(servers), Some(one)) = (debuggable(4), debuggable(1)) else {
        return;
    };
    let lines = [
        "ACL LOG",
        "ACL LOG RESET",
        "CLIENT LIST",
        "CONFIG GET maxmemory",
        "CONFIG RESETSTAT",
        "CONFIG SET maxmemory-samples 6",
        "DBSIZE",
        "DEBUG CHANGE-REPL-ID",
        "DEBUG DIGEST",
        "DEBUG DIGEST-VALUE key:1 key:2 key:3 key:4",
        "DEBUG HELP",
        "DEBUG HTSTATS 0",
        "DEBUG HTSTATS-KEY key:99",
        "DEBUG LISTPACK key:3",
        "DEBUG OBJECT key:1",
        "DEBUG PROTOCOL map",
        "DEBUG PROTOCOL set",
        "DEBUG QUICKLIST-PACKED-THRESHOLD 100B",
        "DEBUG QUICKLIST key:1",
        "DEBUG RELOAD",
        "DEBUG SDSLEN key:0",
        "DEBUG SET-ACTIVE-EXPIRE 1",
        "DEBUG SLEEP 0.001",
        "DEBUG STRUCTSIZE",
        "FUNCTION STATS",
        "INFO",
        "INFO nosuch",
        "KEYS *",
        "LASTSAVE",
        "LATENCY DOCTOR",
        "LATENCY HISTOGRAM",
        "LATENCY HISTORY command",
        "LATENCY LATEST",
        "LATENCY RESET",
        "MEMORY DOCTOR",
        "MEMORY MALLOC-STATS",
        "MEMORY PURGE",
        "MEMORY STATS",
        "PING",
        "PUBSUB CHANNELS",
        "PUBSUB NUMPAT",
        "PUBSUB NUMSUB a b",
        "PUBSUB SHARDCHANNELS",
        "PUBSUB SHARDNUMSUB a b",
        "RANDOMKEY",
        "ROLE",
        "SAVE",
        "SCAN 0",
        "SCRIPT EXISTS a b",
        "SLOWLOG GET",
        "SLOWLOG LEN",
        "SLOWLOG RESET",
        "TIME",
        "WAIT 0 1",
        "FLUSHALL",
        "RANDOMKEY",
    ];
    let mut kinds: Vec<Vec<String>> = Vec::new();
    for servers in [&servers, &one] {
        by_both(servers, |ask| {
            fill(ask, 100);
            let kind = |line: &&str| {
                let words: Vec<&str> = line.split(' ').collect();
                match ask(&words) {
                    Ok(value) => format!("{line}: {}", kind(&value)),
                    Err(error) => format!("{line}: {:?}", error.code()),
                }
            };
            kinds.push(lines.iter().map(kind).collect());
        });
    }
    let (fleet, one) = kinds.split_at(4);
    for (fleet, one) in fleet.iter().zip(one) {
        assert_eq!(fleet, one);
    }
}

#[test]
fn info_of_all_nodes_is_one_text_that_parses() {
    let (Some(servers), Some(one)) = (Servers::start(4), Servers::start(1)) else {
        return;
    };
    by_both(&servers, |ask| {
        fill(ask, 100);
        for sections in [
            vec!["INFO"],
            vec!["INFO", "all"],
            vec!["INFO", "everything"],
            vec!["INFO", "memory"],
            vec!["INFO", "server", "clients"],
            vec!["INFO", "commandstats"],
            vec!["INFO", "keyspace"],
            vec!["INFO", "nosuch"],
        ] {
            let merged = text(ask, &sections);
            let expected: String = command(&sections).query(&mut one.connection(0)).unwrap();
            let has = InfoDict::new(&merged);
            for line in merged
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                assert!(line.contains(':'), "{line}");
            }
            for field in InfoDict::new(&expected).keys() {
                let of_commands = field.starts_with("cmdstat_") || field.starts_with("latency_");
                assert!(of_commands || has.contains_key(&field.as_str()), "{field}");
            }
        }
        let info: InfoDict = get(ask, &["INFO"]);
        let nodes: Vec<InfoDict> = (0..4)
            .map(|node| cmd("INFO").query(&mut servers.connection(node)).unwrap())
            .collect();
        let keys = info.get::<String>("db0").unwrap();
        assert!(keys.starts_with("keys=100,expires=15,avg_ttl="), "{keys}");
        let memory: u64 = nodes
            .iter()
            .map(|node| node.get::<u64>("total_system_memory").unwrap())
            .sum();
        assert_eq!(info.get::<u64>("total_system_memory"), Some(memory));
        assert!(info.get::<u64>("connected_clients").unwrap() >= 4);
        assert_eq!(info.get::<String>("role").as_deref(), Some("master"));
        let version = nodes[0].get::<String>("redis_version").unwrap();
        assert_eq!(info.get::<String>("redis_version"), Some(version.clone()));
        let ids: Vec<String> = (0..4)
            .map(|node| format!("node-{node}={}", servers.pid(node)))
            .collect();
        assert_eq!(info.get::<String>("process_id"), Some(ids.join(",")));
        let human = info.get::<String>("used_memory_human").unwrap();
        assert!(human.ends_with('M'), "{human}");
        for node in 0..4 {
            let line = info.get::<String>(&format!("node_node-{node}")).unwrap();
            assert!(
                line.starts_with(&format!("redis_version={version},role=master,")),
                "{line}"
            );
            let keys: u64 = cmd("DBSIZE").query(&mut servers.connection(node)).unwrap();
            assert!(line.ends_with(&format!(",keys={keys}")), "{line}");
        }
        let calls = text(ask, &["INFO", "commandstats"]);
        let sets: u64 = calls
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_sadd:calls="))
            .and_then(|rest| rest.split(',').next()?.parse().ok())
            .unwrap();
        assert!(sets.is_multiple_of(20) && sets > 0, "{sets}");
    });
}

#[test]
fn config_get_of_all_nodes_is_one_map_that_lists_differences_by_node() {
    let (Some(servers), Some(one)) = (Servers::start(4), Servers::start(1)) else {
        return;
    };
    let names = |settings: &HashMap<String, String>| -> BTreeSet<String> {
        settings.keys().cloned().collect()
    };
    let expected: HashMap<String, String> = cmd("CONFIG")
        .arg(&["GET", "*"])
        .query(&mut one.connection(0))
        .unwrap();
    by_both(&servers, |ask| {
        let all: HashMap<String, String> = get(ask, &["CONFIG", "GET", "*"]);
        assert_eq!(names(&all), names(&expected));
        for name in ["maxmemory", "appendonly", "save", "maxmemory-policy"] {
            assert_eq!(all[name], expected[name], "{name}");
        }
        let ports: Vec<String> = (0..4)
            .map(|node| {
                let addr = servers.addr(node);
                format!("node-{node}={}", addr.rsplit(':').next().unwrap())
            })
            .collect();
        assert_eq!(all["port"], ports.join(","));
        get::<()>(ask, &["CONFIG", "SET", "maxmemory-samples", "9"]);
        let two: HashMap<String, String> =
            get(ask, &["CONFIG", "GET", "maxmemory-samples", "maxmemory"]);
        assert_eq!(two.len(), 2);
        assert_eq!(two["maxmemory-samples"], "9");
        let none: HashMap<String, String> = get(ask, &["CONFIG", "GET", "nosuch"]);
        assert!(none.is_empty());
    });
}

#[test]
fn slowlog_of_all_nodes_is_one_log() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    by_both(&servers, |ask| {
        get::<()>(ask, &["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
        get::<()>(ask, &["SLOWLOG", "RESET"]);
        fill(ask, 40);
        get::<()>(ask, &["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
        let count = |ask: &mut Ask<'_>, words: &[&str]| match ask(words).unwrap() {
            Value::Array(entries) => {
                let times: Vec<i64> = entries
                    .iter()
                    .map(|entry| match entry {
                        Value::Array(items) => from_redis_value(items[1].clone()).unwrap(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert!(times.is_sorted_by(|one, other| one >= other), "{times:?}");
                times.len()
            }
            other => panic!("{other:?}"),
        };
        let all: usize = get(ask, &["SLOWLOG", "LEN"]);
        assert!(all > 40, "{all}");
        assert_eq!(count(ask, &["SLOWLOG", "GET"]), 10);
        assert_eq!(count(ask, &["SLOWLOG", "GET", "3"]), 3);
        assert_eq!(count(ask, &["SLOWLOG", "GET", "25"]), 25);
        assert_eq!(count(ask, &["SLOWLOG", "GET", "0"]), 0);
        assert_eq!(count(ask, &["SLOWLOG", "GET", "-1"]), all);
        let error = ask(&["SLOWLOG", "GET", "x"]).unwrap_err();
        assert_eq!(error.code(), Some("ERR"));
    });
}

#[test]
fn acl_log_of_all_nodes_is_one_log() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    by_both(&servers, |ask| {
        for node in 0..4 {
            let denied = cmd("AUTH")
                .arg(&["nobody", "secret"])
                .exec(&mut servers.connection(node));
            assert!(denied.is_err());
        }
        let entries: Vec<HashMap<String, Value>> = get(ask, &["ACL", "LOG"]);
        assert_eq!(entries.len(), 4);
        let two: Vec<HashMap<String, Value>> = get(ask, &["ACL", "LOG", "2"]);
        assert_eq!(two.len(), 2);
        assert_eq!(ask(&["ACL", "LOG", "RESET"]).unwrap(), Value::Okay);
        let none: Vec<Value> = get(ask, &["ACL", "LOG"]);
        assert!(none.is_empty());
    });
}

#[test]
fn latency_latest_history_and_graph_cover_all_nodes() {
    let Some(servers) = debuggable(4) else {
        return;
    };
    by_both(&servers, |ask| {
        get::<()>(ask, &["CONFIG", "SET", "latency-monitor-threshold", "5"]);
        get::<()>(ask, &["LATENCY", "RESET"]);
        get::<()>(ask, &["CONFIG", "RESETSTAT"]);
        // One node alone first, and a graph of it.
        cmd("DEBUG")
            .arg(&["SLEEP", "0.03"])
            .exec(&mut servers.connection(2))
            .unwrap();
        let graph = text(ask, &["LATENCY", "GRAPH", "command"]);
        assert!(graph.contains("# Node node-0\nERR No samples"), "{graph}");
        assert!(graph.contains("# Node node-2\ncommand - high"), "{graph}");
        let start = Instant::now();
        get::<()>(ask, &["DEBUG", "SLEEP", "0.2"]);
        let taken = start.elapsed();
        assert!(
            taken >= Duration::from_millis(200) && taken < Duration::from_millis(700),
            "all nodes sleep at the same time: {taken:?}"
        );
        let latest: Vec<Vec<Value>> = get(ask, &["LATENCY", "LATEST"]);
        let command: Vec<_> = latest
            .iter()
            .filter(|event| event[0] == Value::BulkString(b"command".into()))
            .collect();
        assert_eq!(command.len(), 1, "{latest:?}");
        let worst: i64 = from_redis_value(command[0][3].clone()).unwrap();
        assert!(worst >= 200, "{latest:?}");
        let history: Vec<(i64, i64)> = get(ask, &["LATENCY", "HISTORY", "command"]);
        assert!(history.is_sorted() && history.iter().any(|sample| sample.1 >= 200));
        let doctor = text(ask, &["LATENCY", "DOCTOR"]);
        assert!((0..4).all(|node| doctor.contains(&format!("# Node node-{node}\n"))));
        assert!(get::<i64>(ask, &["LATENCY", "RESET"]) >= 4);
        let error = ask(&["LATENCY", "GRAPH", "command"]).unwrap_err();
        assert_eq!(error.code(), Some("ERR"), "no node has samples: {error}");

        for number in 0..50 {
            get::<()>(ask, &["SET", &format!("key:{number}"), "v"]);
        }
        let histograms: HashMap<String, HashMap<String, Value>> =
            get(ask, &["LATENCY", "HISTOGRAM", "set", "get"]);
        assert_eq!(histograms["set"]["calls"], Value::Int(50));
        let steps: Vec<(i64, i64)> =
            from_redis_value(histograms["set"]["histogram_usec"].clone()).unwrap();
        assert!(
            steps.is_sorted() && steps.last().unwrap().1 == 50,
            "{steps:?}"
        );
    });
}

#[test]
fn memory_stats_and_doctor_cover_all_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    by_both(&servers, |ask| {
        fill(ask, 100);
        let stats: HashMap<String, Value> = get(ask, &["MEMORY", "STATS"]);
        assert_eq!(stats["keys.count"], Value::Int(100));
        let of = |name: &str| from_redis_value::<f64>(stats[name].clone()).unwrap();
        assert!(of("total.allocated") > 4.0 * 500_000.0);
        let mean = (of("total.allocated") - of("startup.allocated")) / 100.0;
        assert!((of("keys.bytes-per-key") - mean).abs() < 1.0);
        assert!(of("dataset.percentage") <= 100.0);
        for words in [["MEMORY", "DOCTOR"], ["MEMORY", "MALLOC-STATS"]] {
            let text = text(ask, &words);
            assert!(text.starts_with("# Node node-0\n"), "{text}");
            assert!(text.contains("\n# Node node-3\n"), "{text}");
        }
    });
}

#[test]
fn client_list_contains_the_clients_of_all_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    by_both(&servers, |ask| {
        let list = text(ask, &["CLIENT", "LIST"]);
        for node in 0..4 {
            let here = format!("laddr={} ", servers.addr(node));
            assert!(list.contains(&here), "{here} in {list}");
        }
        assert!(list.lines().all(|line| line.starts_with("id=")), "{list}");
    });
}

#[test]
fn debug_digest_is_that_of_one_server_with_all_keys() {
    let (Some(servers), Some(one)) = (debuggable(4), debuggable(1)) else {
        return;
    };
    let mut connection = one.connection(0);
    let mut single = |words: &[&str]| command(words).query::<Value>(&mut connection);
    by_both(&servers, |ask| {
        for keys in [0, 1, 2, 3, 60] {
            fill(ask, keys);
            fill(&mut single, keys);
            let digest = ["DEBUG", "DIGEST"];
            assert_eq!(
                ask(&digest).unwrap(),
                single(&digest).unwrap(),
                "{keys} keys"
            );
        }
        let names: Vec<String> = (0..70).map(|number| format!("key:{number}")).collect();
        let mut words = vec!["DEBUG", "digest-value"];
        words.extend(names.iter().map(String::as_str));
        assert_eq!(ask(&words).unwrap(), single(&words).unwrap());
        assert!(ask(&["DEBUG", "DIGEST-VALUE"]).is_err());
        get::<()>(ask, &["DEBUG", "RELOAD"]);
        assert_eq!(get::<usize>(ask, &["DBSIZE"]), 60);
        let object = text(ask, &["DEBUG", "OBJECT", "key:0"]);
        assert!(object.contains("encoding:embstr"), "{object}");
    });
}

#[test]
fn debug_populate_and_swapdb_need_a_node_handle() {
    let Some(servers) = debuggable(2) else {
        return;
    };
    by_both(&servers, |ask| {
        for words in [
            &["DEBUG", "POPULATE", "10"][..],
            &["DEBUG", "SEGFAULT"],
            &["DEBUG", "RESTART"],
            &["DEBUG", "REPLICATE", "all", "SET", "a", "b"],
            &["SWAPDB", "0", "1"],
        ] {
            let error = ask(words).unwrap_err();
            assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable, "{words:?}");
            assert!(error.to_string().contains("client.node(name)"), "{error}");
        }
        let error = ask(&["SWAPDB", "0", "1"]).unwrap_err().to_string();
        assert!(error.contains("would be mixed"), "{error}");
        assert_eq!(get::<usize>(ask, &["DBSIZE"]), 0);
    });
}

#[test]
fn randomkey_returns_keys_of_every_node() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    by_both(&servers, |ask| {
        get::<()>(ask, &["FLUSHALL"]);
        assert_eq!(ask(&["RANDOMKEY"]).unwrap(), Value::Nil);
        for number in 0..60 {
            get::<()>(ask, &["SET", &format!("key:{number}"), "v"]);
        }
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            seen.insert(text(ask, &["RANDOMKEY"]));
        }
        let client = describe(&servers, "resp2").build().unwrap();
        let nodes: BTreeSet<String> = seen
            .iter()
            .map(|key| client.node_for(key).unwrap().name().to_owned())
            .collect();
        assert_eq!(nodes.len(), 4, "{seen:?}");
    });
}

#[test]
fn randomkey_in_a_pipeline_is_chosen_anew_for_each_command() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = describe(&servers, "resp2").build().unwrap();
    for number in 0..60 {
        let _: () = client.set(format!("key:{number}"), 1).unwrap();
    }
    let mut pipeline = redis::pipe();
    for _ in 0..64 {
        pipeline.cmd("RANDOMKEY");
    }
    let keys: Vec<String> = pipeline.query(&mut client).unwrap();
    let nodes: BTreeSet<String> = keys
        .iter()
        .map(|key| client.node_for(key).unwrap().name().to_owned())
        .collect();
    assert!(nodes.len() > 1, "{keys:?}");
}

#[test]
fn role_of_equal_nodes_is_one_reply_and_of_different_nodes_an_error() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    by_both(&servers, |ask| {
        let role: Value = ask(&["ROLE"]).unwrap();
        let Value::Array(items) = &role else {
            panic!("{role:?}");
        };
        assert_eq!(items[0], Value::BulkString(b"master".into()));
        assert_eq!(items[2], Value::Array(Vec::new()));
    });
    cmd("REPLICAOF")
        .arg(&["127.0.0.1", "1"])
        .exec(&mut servers.connection(1))
        .unwrap();
    by_both(&servers, |ask| {
        let error = ask(&["ROLE"]).unwrap_err();
        assert_eq!(error.code(), Some("ERR"));
        let error = error.to_string();
        assert!(error.contains("node-0 master, node-1 slave"), "{error}");
        let info: InfoDict = get(ask, &["INFO", "replication"]);
        assert_eq!(
            info.get::<String>("role").as_deref(),
            Some("node-0=master,node-1=slave")
        );
    });
}

#[test]
fn script_kill_and_function_kill_reach_the_node_that_runs_the_script() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    by_both(&servers, |ask| {
        for kill in [["SCRIPT", "KILL"], ["FUNCTION", "KILL"]] {
            let error = ask(&kill).unwrap_err();
            assert_eq!(error.code(), Some("NOTBUSY"), "{error}");
        }
        get::<()>(ask, &["CONFIG", "SET", "lua-time-limit", "20"]);
        let mut busy = servers.connection(1);
        let running = std::thread::spawn(move || {
            cmd("EVAL")
                .arg(&["while true do end", "0"])
                .exec(&mut busy)
                .unwrap_err()
        });
        let start = Instant::now();
        while let Err(error) = ask(&["SCRIPT", "KILL"]) {
            assert!(
                error.code() == Some("NOTBUSY") && start.elapsed() < Duration::from_secs(10),
                "{error}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        running.join().unwrap();
        let stats: HashMap<String, Value> = get(ask, &["FUNCTION", "STATS"]);
        assert_eq!(stats["running_script"], Value::Nil);
        assert!(stats.contains_key("engines"));
    });
}

#[test]
fn script_kill_reports_unkillable_rather_than_notbusy() {
    let nodes = TestNode::start_many(3).unwrap();
    let mut client = nodes
        .iter()
        .fold(ShardedClient::builder(), |builder, node| {
            builder.unnamed_node(node.url())
        })
        .build()
        .unwrap();
    for (number, node) in nodes.iter().enumerate() {
        let error = match number {
            1 => "UNKILLABLE Sorry the script already executed write commands",
            _ => "NOTBUSY No scripts in execution right now.",
        };
        node.fail("SCRIPT", Fault::Error(error.into()), 1);
    }
    let error = command(&["SCRIPT", "KILL"]).exec(&mut client).unwrap_err();
    assert_eq!(error.code(), Some("UNKILLABLE"));
    for node in &nodes {
        assert_eq!(node.faults_left(), 0);
    }
}

#[test]
fn keys_dbsize_and_info_report_a_dead_node() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    servers.kill(1);
    by_both(&servers, |ask| {
        for words in [&["KEYS", "*"][..], &["DBSIZE"], &["RANDOMKEY"]] {
            let error = ask(words).unwrap_err();
            assert_eq!(ErrorKind::of(&error), ErrorKind::Partial, "{words:?}");
            assert!(error.to_string().contains("node-1"), "{error}");
        }
        let info: String = get(ask, &["INFO"]);
        assert!(info.contains("node_node-1:status=unreachable"), "{info}");
    });
}

#[test]
fn scan_over_all_nodes_returns_every_key_once() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    by_both(&servers, |ask| {
        fill(ask, 700);
        let mut scan = |options: &[&str]| -> Vec<String> {
            let mut keys = Vec::new();
            let mut cursor = "0".to_owned();
            loop {
                let mut words = vec!["SCAN", cursor.as_str()];
                words.extend(options);
                let (next, page): (String, Vec<String>) = get(ask, &words);
                keys.extend(page);
                cursor = next;
                if cursor == "0" {
                    keys.sort();
                    return keys;
                }
            }
        };
        let expected = |wanted: fn(usize) -> bool| -> Vec<String> {
            let mut keys: Vec<String> = (0..700)
                .filter(|&number| wanted(number))
                .map(|number| format!("key:{number}"))
                .collect();
            keys.sort();
            keys
        };
        assert_eq!(scan(&[]), expected(|_| true));
        assert_eq!(scan(&["COUNT", "1"]), expected(|_| true));
        assert_eq!(scan(&["COUNT", "10000"]), expected(|_| true));
        assert_eq!(
            scan(&["TYPE", "list", "COUNT", "7"]),
            expected(|number| number % 5 == 1)
        );
        assert_eq!(
            scan(&["MATCH", "key:?", "COUNT", "50"]),
            expected(|number| number < 10)
        );
        assert_eq!(
            scan(&["COUNT", "50", "MATCH", "key:*0", "TYPE", "string"]),
            expected(|number| number % 10 == 0)
        );
        for cursor in ["x", "1x", "99999999999999999999", "18446744073709551615"] {
            let error = ask(&["SCAN", cursor]).unwrap_err();
            assert_eq!(error.code(), Some("ERR"));
            assert!(error.to_string().contains("invalid cursor"), "{error}");
        }
        let error = ask(&["SCAN", "0", "COUNT", "x"]).unwrap_err();
        assert!(error.to_string().contains("not an integer"), "{error}");
    });
}
