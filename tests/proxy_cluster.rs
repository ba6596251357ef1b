//! A proxy in front of a Redis Cluster: a program that knows one server sees nothing of slots that move and nodes that fail
//! over; what cluster clients are told.
#![cfg(feature = "proxy")]

mod support;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis_sharding::proxy::ClusterMode;
use redis_sharding::{Builder, ShardedClient};
use support::Servers;
use support::clusters::{Cluster, Server, key_in, on_each_server};
use support::local_proxy::{LocalProxy, RawClient};

/// Larger than what is kept of a reply that can be asked for again.
const LARGE: usize = 5 << 20;
/// Words that no program for one server knows.
const CLUSTER_WORDS: [&str; 5] = ["-MOVED", "-ASK", "-TRYAGAIN", "-CLUSTERDOWN", "-CROSSSLOT"];

fn describe(cluster: &Cluster) -> Builder {
    let builder = ShardedClient::builder().cluster(cluster.urls());
    builder.response_timeout(Duration::from_secs(15))
}

/// The value of a key that names it.
fn large(name: &str) -> String {
    name.repeat(LARGE / name.len() + 1)
}

fn each(test: impl Fn(&Cluster, &LocalProxy) + Sync) {
    on_each_server(|server: &Server| {
        let cluster = Cluster::start(server, 3, 0);
        let proxy = LocalProxy::open(describe(&cluster));
        test(&cluster, &proxy);
    });
}

/// The value of a key, by a node that has it.
fn stored(cluster: &Cluster, slot: u16, key: &str) -> String {
    cluster.ask(cluster.owner(slot), &["GET", key]).unwrap()
}

#[test]
fn program_for_one_server_sees_nothing_of_slots_that_move() {
    each(|cluster, proxy| {
        let slots: Vec<u16> = (0..6).map(|number| cluster.own_slot(number % 3)).collect();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..2 {
                    for (number, &slot) in slots.iter().enumerate() {
                        let to = (cluster.owner(slot) + 1 + (round + number) % 2) % 3;
                        cluster.move_slot(slot, to);
                    }
                }
                is_over.store(true, Ordering::SeqCst);
            });
            let mut client = proxy.talk();
            let keys: Vec<String> = slots.iter().map(|&slot| key_in(slot, "k")).collect();
            let counters: Vec<String> = slots.iter().map(|&slot| key_in(slot, "n")).collect();
            let mut rounds = 0;
            while !is_over.load(Ordering::SeqCst) {
                rounds += 1;
                round(&mut client, &keys, &counters, rounds);
            }
            assert!(rounds > 3, "{rounds}");
        });
        assert!(
            (0..3)
                .map(|node| cluster.errors(node, "MOVED"))
                .sum::<u64>()
                > 0,
            "the proxy was never redirected"
        );
    });
}

/// What programs do, all at once; each slot has a key and a counter.
fn round(client: &mut RawClient, keys: &[String], counters: &[String], number: usize) {
    let mut expected = Vec::new();
    let mut ask = |request: String, reply: String| {
        client.say(&request);
        expected.push((request, reply));
    };
    let pairs: Vec<String> = keys.iter().map(|key| format!("{key} {number}")).collect();
    ask(format!("MSET {}", pairs.join(" ")), "+OK".into());
    let values: Vec<String> = keys.iter().map(|_| number.to_string()).collect();
    let values = format!("*{} {}", keys.len(), values.join(" "));
    ask(format!("MGET {}", keys.join(" ")), values);
    for counter in counters {
        ask(format!("INCR {counter}"), format!(":{}", 3 * number - 2));
    }
    for (key, counter) in keys.iter().zip(counters) {
        ask("MULTI".into(), "+OK".into());
        ask(format!("INCR {counter}"), "+QUEUED".into());
        ask(format!("APPEND {key} x"), "+QUEUED".into());
        ask(
            "EXEC".into(),
            format!("*2 :{} :{}", 3 * number - 1, number.to_string().len() + 1),
        );
        let script = format!("return{{KEYS[1],redis.call('INCR',KEYS[1]),{number}}}");
        ask(
            format!("EVAL {script} 1 {counter}"),
            format!("*3 {counter} :{} :{number}", 3 * number),
        );
    }
    ask(
        format!("DEL {}", keys.join(" ")),
        format!(":{}", keys.len()),
    );
    ask(format!("EXISTS {}", keys.join(" ")), ":0".into());
    for (request, reply) in expected {
        let heard = client.hear();
        assert!(
            !CLUSTER_WORDS.iter().any(|word| heard.contains(word)),
            "{request}: {heard}"
        );
        assert_eq!(heard, reply, "{request}");
    }
}

#[test]
fn large_values_are_written_and_read_where_their_slot_has_gone() {
    each(|cluster, proxy| {
        let mut client = proxy.talk();
        let slot = cluster.own_slot(0);
        let (key, value) = (key_in(slot, "large"), large("a value of many bytes;"));
        assert_eq!(client.ask(&format!("SET {key} -")), "+OK");
        // The proxy learns of each move by the request itself.
        cluster.move_slot(slot, 1);
        assert_eq!(client.ask_words(&["SET", &key, &value]), "+OK");
        assert_eq!(cluster.errors(0, "MOVED"), 1);
        assert_eq!(stored(cluster, slot, &key), value);
        cluster.move_slot(slot, 2);
        assert!(client.ask(&format!("GET {key}")) == value);
        assert_eq!(cluster.errors(1, "MOVED"), 1);
        // A reply that is not larger than others, and one that is no value.
        assert_eq!(
            client.ask(&format!("STRLEN {key}")),
            format!(":{}", value.len())
        );
        assert!(
            client
                .ask_words(&["LPUSH", &key, &value])
                .starts_with("-WRONGTYPE ")
        );
        assert_eq!(client.ask("PING"), "+PONG");
    });
}

#[test]
fn large_values_of_a_slot_that_rests_half_moved_are_written_and_read() {
    each(|cluster, proxy| {
        let mut client = proxy.talk();
        let slot = cluster.own_slot(0);
        let keys = ["gone", "here", "new"].map(|name| key_in(slot, name));
        for key in &keys[..2] {
            assert_eq!(client.ask_words(&["SET", key, "-"]), "+OK");
        }
        let moving = cluster.begin_move(slot, 1);
        moving.these_keys(&[&keys[0]]);
        for key in &keys {
            let value = large(key);
            assert_eq!(client.ask_words(&["SET", key, &value]), "+OK", "{key}");
            assert!(client.ask_words(&["GET", key]) == value, "{key}");
        }
        // One for each request about a key that the source lacks.
        assert_eq!(cluster.errors(0, "ASK"), 4);
        moving.all_keys();
        moving.end();
        for key in &keys {
            assert_eq!(stored(cluster, slot, key), large(key));
        }
    });
}

#[test]
fn watch_of_a_key_that_does_not_exist_ends_when_its_slot_leaves() {
    each(|cluster, proxy| {
        let slot = cluster.own_slot(0);
        let key = key_in(slot, "absent");
        let mut client = proxy.talk();
        let attempt = |client: &mut RawClient, between: &dyn Fn()| {
            assert_eq!(client.ask(&format!("WATCH {key}")), "+OK");
            between();
            // Without a key of the slot a server would run it.
            assert_eq!(client.ask("MULTI"), "+OK");
            assert_eq!(client.ask("PING"), "+PONG".replace("+PONG", "+QUEUED"));
            client.ask("EXEC")
        };
        assert_eq!(attempt(&mut client, &|| ()), "*1 +PONG");
        assert_eq!(attempt(&mut client, &|| cluster.move_slot(slot, 1)), "*-1");
        // The next attempt finds the new owner, and one that is about to become it.
        assert_eq!(attempt(&mut client, &|| ()), "*1 +PONG");
        let moving = cluster.begin_move(slot, 2);
        assert_eq!(attempt(&mut client, &|| ()), "*1 +PONG");
        assert_eq!(client.ask(&format!("WATCH {key}")), "+OK");
        assert_eq!(client.ask("MULTI"), "+OK");
        assert_eq!(client.ask(&format!("SET {key} 1")), "+QUEUED");
        assert_eq!(client.ask("EXEC"), "*1 +OK");
        moving.all_keys();
        moving.end();
        assert_eq!(stored(cluster, slot, &key), "1");
    });
}

#[test]
fn transaction_is_not_aborted_by_other_slots_that_move_and_runs_where_its_own_has_gone() {
    each(|cluster, proxy| {
        let (slot, other) = (cluster.own_slot(0), cluster.own_slot(0));
        let key = key_in(slot, "k");
        let mut client = proxy.talk();
        assert_eq!(client.ask("MULTI"), "+OK");
        assert_eq!(client.ask(&format!("INCR {key}")), "+QUEUED");
        cluster.move_slot(other, 1);
        cluster.move_slot(slot, 2);
        // Another client has the map mended.
        for slot in [slot, other] {
            assert_eq!(
                proxy.talk().ask(&format!("GET {}", key_in(slot, "x"))),
                "$-1"
            );
        }
        assert_eq!(client.ask(&format!("INCR {key}")), "+QUEUED");
        assert_eq!(client.ask("EXEC"), "*2 :1 :2");
    });
}

#[test]
fn program_for_one_server_sees_a_failover_as_a_pause() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 3);
        let proxy = LocalProxy::open(describe(&cluster));
        let mut client = proxy.talk();
        let slot = cluster.own_slot(0);
        let (key, counter) = (key_in(slot, "k"), key_in(slot, "n"));
        let value = large("large;");
        assert_eq!(client.ask(&format!("SET {key} 1")), "+OK");
        cluster.kill(0);
        // Sent before anybody knows.
        assert_eq!(client.ask_words(&["SET", &key, &value]), "+OK");
        assert!(client.ask(&format!("GET {key}")) == value);
        let begin = Instant::now();
        for number in 1..=20 {
            assert_eq!(client.ask(&format!("INCR {counter}")), format!(":{number}"));
        }
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert_eq!(client.ask(&format!("WATCH {key}")), "+OK");
        assert_eq!(client.ask("MULTI"), "+OK");
        assert_eq!(client.ask(&format!("INCR {counter}")), "+QUEUED");
        assert_eq!(client.ask("EXEC"), "*1 :21");
    });
}

#[test]
fn seeds_that_are_no_servers_of_a_cluster_get_no_command() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let builder = ShardedClient::builder().cluster(servers.urls());
    let proxy = LocalProxy::open(builder.response_timeout(Duration::from_secs(2)));
    let mut client = proxy.talk();
    for request in [
        "SET k 1",
        "MSET a 1 b 2",
        "DBSIZE",
        "WATCH k",
        "SUBSCRIBE c",
        "EVAL return 0",
    ] {
        let reply = client.ask(request);
        assert!(reply.contains("cluster-enabled"), "{request}: {reply}");
        assert!(reply.contains("Builder::node"), "{request}: {reply}");
    }
    assert!(
        client
            .ask_words(&["SET", "k", &large("x")])
            .contains("cluster-enabled")
    );
    // What concerns the connection alone is answered.
    assert_eq!(client.ask("PING"), "+PONG");
    assert!(client.ask("CLIENT ID").starts_with(':'));
    for node in 0..2 {
        let mut direct = RawClient::connect(&servers.addr(node));
        assert_eq!(direct.ask("DBSIZE"), ":0");
    }
}

#[test]
fn program_is_told_of_no_cluster_unless_one_is_emulated() {
    each(|cluster, proxy| {
        let mut client = proxy.talk();
        let refused = "-ERR This instance has cluster support disabled";
        for request in [
            "CLUSTER SLOTS",
            "CLUSTER INFO",
            "CLUSTER MEET h 1",
            "READONLY",
            "ASKING",
        ] {
            assert_eq!(client.ask(request), refused, "{request}");
        }
        for (request, mode, enabled) in [("INFO", true, true), ("INFO cluster", false, true)] {
            let info = client.ask(request);
            assert_eq!(
                info.contains("_mode:standalone\r\n"),
                mode,
                "{request}: {info}"
            );
            assert_eq!(
                info.contains("cluster_enabled:0\r\n"),
                enabled,
                "{request}: {info}"
            );
            assert!(!info.contains("cluster_enabled:1") && !info.contains("mode:cluster"));
        }
        assert!(client.ask("HELLO 3").contains(" mode standalone "));

        let emulated = proxy.proxy.clone().with_cluster_mode(ClusterMode::Emulated);
        let mut client = proxy.talk();
        let (host, port) = proxy.address().rsplit_once(':').map(own).unwrap();
        let id = client.ask("CLUSTER MYID");
        assert_eq!(id.len(), 40);
        assert_eq!(
            client.ask("CLUSTER SLOTS"),
            format!("*1 *3 :0 :16383 *4 {host} :{port} {id} *0")
        );
        assert!(
            client
                .ask("CLUSTER NODES")
                .ends_with(" connected 0-16383\n")
        );
        assert!(
            client
                .ask("CLUSTER SHARDS")
                .contains(&format!(" port :{port} "))
        );
        assert!(
            client
                .ask("CLUSTER INFO")
                .starts_with("cluster_state:ok\r\n")
        );
        for request in ["READONLY", "READWRITE", "ASKING"] {
            assert_eq!(client.ask(request), "+OK");
        }
        let info = client.ask("INFO");
        assert!(info.contains("_mode:cluster\r\n") && info.contains("cluster_enabled:1\r\n"));
        assert!(client.ask("HELLO 3").contains(" mode cluster "));
        let slot = cluster.own_slot(1);
        let key = key_in(slot, "k");
        assert_eq!(
            client.ask(&format!("CLUSTER KEYSLOT {key}")),
            format!(":{slot}")
        );
        assert_eq!(client.ask(&format!("SET {key} 1")), "+OK");
        assert_eq!(client.ask(&format!("CLUSTER COUNTKEYSINSLOT {slot}")), ":1");
        assert_eq!(
            client.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 5")),
            format!("*1 {key}")
        );
        assert!(client.ask("CLUSTER FORGET x").starts_with("-UNROUTABLE "));
        drop(emulated);
        let announced = proxy
            .proxy
            .clone()
            .with_cluster_announce("proxy.example", 7777);
        let slots = proxy.talk().ask("CLUSTER SLOTS");
        assert!(slots.contains(" *4 proxy.example :7777 "), "{slots}");
        drop(announced);
    });
}

fn own((host, port): (&str, &str)) -> (String, String) {
    (host.to_owned(), port.to_owned())
}

#[test]
fn redis_py_cluster_works_through_an_emulated_cluster() {
    let Some(python) = client("venv/bin/python") else {
        return;
    };
    cluster_client(|| Command::new(&python), "redis_py_cluster.py", &["2", "3"]);
}

#[test]
fn ioredis_cluster_works_through_an_emulated_cluster() {
    let Some(modules) = client("node_modules/ioredis") else {
        return;
    };
    let node = || {
        let mut command = Command::new("node");
        command.env("NODE_PATH", modules.parent().unwrap());
        command
    };
    cluster_client(node, "ioredis_cluster.js", &[""]);
}

/// Runs a script of `tests/clients`, which checks by itself, over a cluster and over plain nodes.
fn cluster_client(program: impl Fn() -> Command, script: &str, protocols: &[&str]) {
    let run = |builder: Builder| {
        let proxy = builder.build_proxy().unwrap();
        let proxy = LocalProxy::open_for(proxy.with_cluster_mode(ClusterMode::Emulated));
        let address = proxy.address();
        let (_, port) = address.rsplit_once(':').unwrap();
        for protocol in protocols {
            let mut command = program();
            command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients"));
            let output = command.arg(script).args([port, protocol]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    };
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let nodes = servers.urls().into_iter().enumerate();
    run(
        nodes.fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url.as_str())
        }),
    );
    for server in support::clusters::servers() {
        let cluster = Cluster::start(&server, 3, 0);
        run(describe(&cluster));
    }
}

/// Something in the folder of clients of other languages, as in tests/proxy_clients.rs; `None` when it is not there.
fn client(path: &str) -> Option<PathBuf> {
    let named = env::var_os("REDIS_SHARDING_CLIENTS").map(PathBuf::from);
    let folder = named.clone().unwrap_or_else(|| {
        // target/PROFILE/deps/TEST
        let test = env::current_exe().unwrap();
        test.ancestors().nth(3).unwrap().join("clients")
    });
    let file = folder.join(path);
    let exists = file.exists();
    assert!(exists || named.is_none(), "there is no {}", file.display());
    if !exists {
        println!("SKIPPED: no {path} on this machine; tests/run installs it");
    }
    exists.then_some(file)
}
