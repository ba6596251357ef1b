//! Commands that a Redis Cluster treats in its own way, through both clients and the proxy, on every server that is there:
//! what `docs/cluster.md` says of them.
#![cfg(feature = "tokio-comp")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::{RedisResult, Value, cmd, pipe};
use redis_sharding::{Builder, ShardedClient, SplitWrites};
use support::all_clients::{AllClients, AnyClient, KINDS, Kind};
use support::clusters::{Cluster, Server, key_in, on_each_server, slot_of};

/// Long enough for everything that is only late.
const PATIENCE: Duration = Duration::from_secs(10);

fn describe(cluster: &Cluster) -> Builder {
    let builder = ShardedClient::builder().cluster(cluster.urls());
    builder.response_timeout(PATIENCE)
}

/// Runs a test with every client over a cluster that other tests use too.
fn each_client(test: impl Fn(&Cluster, Kind, &mut AnyClient) + Sync) {
    on_each_server(|server| {
        let cluster = Cluster::shared(server);
        let clients = AllClients::open(|| describe(&cluster));
        for kind in KINDS {
            println!("{}, {kind:?}", server.name);
            test(&cluster, kind, &mut clients.of(kind));
        }
    });
}

/// Runs a test over a cluster of its own, of three primaries with so many replicas each.
fn own_cluster(replicas: usize, test: impl Fn(&Cluster, &AllClients) + Sync) {
    on_each_server(|server: &Server| {
        println!("{}", server.name);
        let cluster = Cluster::start(server, 3, replicas);
        test(&cluster, &AllClients::open(|| describe(&cluster)));
    });
}

#[test]
fn wait_waits_for_the_writes_of_other_connections() {
    own_cluster(1, |cluster, clients| {
        let replica = cluster.replicas(0)[0];
        let key = key_in(cluster.own_slot(0), "wait");
        for kind in KINDS {
            // Connections that have written nothing.
            let mut client = clients.of(kind);
            cluster.pause(replica);
            let written: RedisResult<String> = cluster.ask(0, &["SET", &key, "1"]);
            written.unwrap();
            let behind: RedisResult<u64> = client.ask(&["WAIT", "1", "100"]);
            cluster.resume(replica);
            assert_eq!(behind, Ok(0), "{kind:?}");
            assert_eq!(client.ask(&["WAIT", "1", "5000"]), Ok(1), "{kind:?}");
        }
        // What is sent before WAIT leaves no trace.
        for node in cluster.running() {
            let libraries: Vec<Value> = cluster.ask(node, &["FUNCTION", "LIST"]).unwrap();
            assert_eq!(libraries, []);
        }
    });
}

#[test]
fn publish_reaches_the_subscribers_of_every_node_in_order() {
    each_client(|cluster, kind, client| {
        let channel = format!("publish-{kind:?}");
        let mut connections: Vec<_> = (0..3).map(|node| cluster.connection(node)).collect();
        let mut listeners: Vec<_> = connections.iter_mut().map(|c| c.as_pubsub()).collect();
        for listener in &mut listeners {
            listener.set_read_timeout(Some(PATIENCE)).unwrap();
            listener.subscribe(&channel).unwrap();
        }
        for number in 0..50 {
            let sent: RedisResult<u64> = client.ask(&["PUBLISH", &channel, &number.to_string()]);
            assert_eq!(sent, Ok(1), "the subscriber of one node is counted");
        }
        for listener in &mut listeners {
            for number in 0..50 {
                let message = listener.get_message().unwrap();
                assert_eq!(message.get_payload(), Ok(number));
            }
        }
        let counts: RedisResult<Vec<(String, u64)>> = client.ask(&["PUBSUB", "NUMSUB", &channel]);
        assert_eq!(counts, Ok(vec![(channel.clone(), 3)]));
    });
}

#[test]
fn channels_are_no_keys_of_transactions_and_scripts() {
    each_client(|cluster, kind, client| {
        let key = key_in(cluster.own_slot(0), "publishing");
        // In a slot of another node than the key.
        let channel = key_in(cluster.own_slot(1), &format!("{kind:?}"));
        let atomic = client.query(pipe().atomic().set(&key, 1).publish(&channel, "x"));
        assert_eq!(atomic, Ok((true, 0)));
        let script = "redis.call('PUBLISH', ARGV[1], 'x') return redis.call('INCR', KEYS[1])";
        let eval: RedisResult<u64> = client.ask(&["EVAL", script, "1", &key, &channel]);
        assert_eq!(eval, Ok(2));
        let literal =
            format!("redis.call('PUBLISH', '{channel}', 'x') return redis.call('INCR', '{key}')");
        assert_eq!(client.ask(&["EVAL", &literal, "0"]), Ok(3));
        // A sharded channel is one: it lives in a slot.
        let refused = client.pipeline(pipe().atomic().set(&key, 1).spublish(&channel, "x"));
        let code = match kind {
            // The error of EXEC.
            Kind::Proxy => "EXECABORT",
            _ => "CROSSNODE",
        };
        assert_eq!(refused.unwrap_err().code(), Some(code));
        assert_eq!(client.ask(&["SPUBLISH", &channel, "x"]), Ok(0));
    });
}

#[test]
fn cluster_commands_about_slots_and_the_map_need_no_named_node() {
    each_client(|cluster, kind, client| {
        // A proxy replies as a server that is no part of a cluster.
        if kind == Kind::Proxy {
            return;
        }
        assert_eq!(client.ask(&["CLUSTER", "KEYSLOT", "a"]), Ok(15495));
        let info: String = client.ask(&["CLUSTER", "INFO"]).unwrap();
        assert!(info.starts_with("cluster_state:ok"), "{info}");
        let nodes: String = client.ask(&["CLUSTER", "NODES"]).unwrap();
        assert!(nodes.lines().count() >= 3, "{nodes}");
        let slots: Vec<Value> = client.ask(&["CLUSTER", "SLOTS"]).unwrap();
        assert!(slots.len() >= 3);
        for node in 0..3 {
            let slot = cluster.own_slot(node);
            let key = key_in(slot, &format!("{kind:?}"));
            client.ask::<()>(&["SET", &key, "1"]).unwrap();
            let slot = slot.to_string();
            assert_eq!(client.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot]), Ok(1));
            let keys: RedisResult<Vec<String>> =
                client.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
            assert_eq!(keys, Ok(vec![key.clone()]));
            client.ask::<()>(&["DEL", &key]).unwrap();
        }
        let wrong: RedisResult<u64> = client.ask(&["CLUSTER", "COUNTKEYSINSLOT", "16384"]);
        assert_eq!(wrong.unwrap_err().detail(), Some("Invalid slot"));
        for words in [
            &["CLUSTER", "MYID"][..],
            &["CLUSTER", "RESET"],
            &["CLUSTER", "SETSLOT", "1", "STABLE"],
            &["SWAPDB", "0", "1"],
            &["MIGRATE", "127.0.0.1", "1", "a", "0", "1"],
        ] {
            let error = client.ask::<Value>(words).unwrap_err();
            assert_eq!(error.code(), Some("UNROUTABLE"), "{words:?}: {error}");
        }
        for word in ["ASKING", "READONLY", "READWRITE"] {
            let error = client.ask::<Value>(&[word]).unwrap_err();
            assert_eq!(error.code(), Some("STATEFUL"), "{error}");
            assert!(error.to_string().contains("Builder::read_from"), "{error}");
        }
    });
}

#[test]
fn keys_dbsize_flushall_and_scripts_concern_all_primaries() {
    own_cluster(0, |cluster, clients| {
        for kind in KINDS {
            let mut client = clients.of(kind);
            let keys: BTreeMap<String, u16> = (0..60)
                .map(|number| format!("key:{number}"))
                .map(|key| (key.clone(), slot_of(key.as_bytes())))
                .collect();
            let mut mset = cmd("MSET");
            keys.iter().for_each(|(key, slot)| {
                mset.arg(key).arg(slot);
            });
            client.command::<()>(&mset).unwrap();
            assert_eq!(client.ask(&["DBSIZE"]), Ok(60));
            let found: BTreeSet<String> = client.ask(&["KEYS", "key:*"]).unwrap();
            assert!(found.iter().eq(keys.keys()));
            let random: String = client.ask(&["RANDOMKEY"]).unwrap();
            assert!(keys.contains_key(&random));

            let sha: String = client.ask(&["SCRIPT", "LOAD", "return KEYS[1]"]).unwrap();
            assert_eq!(client.ask(&["SCRIPT", "EXISTS", &sha]), Ok(vec![true]));
            let code =
                "#!lua name=lib\nredis.register_function('f', function(keys) return keys[1] end)";
            let loaded: String = client.ask(&["FUNCTION", "LOAD", "REPLACE", code]).unwrap();
            assert_eq!(loaded, "lib");
            for key in keys.keys() {
                let eval: RedisResult<String> = client.ask(&["EVALSHA", &sha, "1", key]);
                let fcall: RedisResult<String> = client.ask(&["FCALL", "f", "1", key]);
                assert_eq!((eval, fcall), (Ok(key.clone()), Ok(key.clone())));
            }
            client.ask::<()>(&["FUNCTION", "DELETE", "lib"]).unwrap();
            client.ask::<()>(&["FLUSHALL"]).unwrap();
            for node in 0..3 {
                assert_eq!(cluster.ask(node, &["DBSIZE"]), Ok(0), "node {node}");
                let libraries: Vec<Value> = cluster.ask(node, &["FUNCTION", "LIST"]).unwrap();
                assert_eq!(libraries, [], "node {node}");
            }
        }
    });
}

#[test]
fn split_writes_that_are_refused_are_so_by_slot() {
    on_each_server(|server| {
        let cluster = Cluster::shared(server);
        let clients = AllClients::open(|| describe(&cluster).split_writes(SplitWrites::Refused));
        for kind in KINDS {
            let mut client = clients.of(kind);
            // Two slots of one node.
            let (one, other) = (cluster.own_slot(0), cluster.own_slot(0));
            let (a, b) = (key_in(one, "a"), key_in(one, "b"));
            let c = key_in(other, "c");
            client.ask::<()>(&["MSET", &a, "1", &b, "2"]).unwrap();
            let refused = client.ask::<()>(&["MSET", &a, "3", &c, "4"]).unwrap_err();
            assert_eq!(refused.code(), Some("CROSSNODE"), "{refused}");
            let text = format!("(slot {one}) and");
            assert!(refused.to_string().contains(&text), "{refused}");
            let values: RedisResult<Vec<Option<u8>>> = client.ask(&["MGET", &a, &c, &b]);
            assert_eq!(values, Ok(vec![Some(1), None, Some(2)]));
            client.ask::<()>(&["DEL", &a, &c]).unwrap_err();
            assert_eq!(client.ask(&["DEL", &a, &b]), Ok(2));
        }
    });
}

#[test]
fn sort_makes_keys_of_patterns_in_the_slot_of_its_key_where_the_server_allows_it() {
    each_client(|cluster, _, client| {
        let tag = |name: &str| key_in(cluster.own_slot(0), name);
        let list = tag("list");
        let (weight, other) = (list.replace("list", "w*"), tag("w*"));
        client.ask::<()>(&["RPUSH", &list, "2", "1"]).unwrap();
        let weights = [(weight.replace('*', "1"), 5), (weight.replace('*', "2"), 4)];
        for (key, value) in &weights {
            client.ask::<()>(&["SET", key, &value.to_string()]).unwrap();
        }
        let sorted: RedisResult<Vec<u8>> = client.ask(&["SORT", &list, "BY", &weight]);
        match cluster.server.version {
            (7, _) if !cluster.server.is_valkey => {
                let detail = sorted.unwrap_err().to_string();
                assert!(detail.contains("denied in Cluster mode"), "{detail}");
            }
            _ => assert_eq!(sorted, Ok(vec![2, 1])),
        }
        for pattern in [&other[..], "w*"] {
            let error = client
                .ask::<Value>(&["SORT", &list, "BY", pattern])
                .unwrap_err();
            assert_eq!(error.code(), Some("CROSSNODE"), "{error}");
        }
        let keys = [&list, &weights[0].0, &weights[1].0];
        assert_eq!(client.ask(&["DEL", keys[0], keys[1], keys[2]]), Ok(3));
    });
}
