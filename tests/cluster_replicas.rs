//! Reads from the replicas of a Redis Cluster, through both clients and on every server that is there: slots that move,
//! failovers, replicas that are added.
#![cfg(feature = "tokio-comp")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use redis::{RedisResult, Value, cmd, pipe};
use redis_sharding::{Builder, ReadFrom};
use support::cluster_clients::{ClusterClient, describe, each_client_of};
use support::clusters::{Cluster, key_in, on_each_server};
use support::replicas::wait_until;

fn reading(cluster: &Cluster, read_from: ReadFrom) -> Builder {
    describe(cluster).discover_replicas().read_from(read_from)
}

/// Reads from replicas of a cluster of three primaries with one replica each.
fn each_reader(read_from: ReadFrom, test: impl Fn(&mut ClusterClient<'_>) + Sync) {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        each_client_of(&cluster, || reading(&cluster, read_from), &test);
    });
}

/// A replica is found when the map is asked for again, which is done every half minute if nothing happens.
const FOUND_WITHIN: Duration = Duration::from_secs(60);

/// Waits until a read of this key, which has a value, goes to this node.
fn wait_until_read_from(case: &mut ClusterClient<'_>, node: usize, key: &str) {
    let deadline = Instant::now() + FOUND_WITHIN;
    loop {
        let before = case.cluster.calls(node, "get");
        // None can be read from before they were asked about their replication.
        let value: RedisResult<Option<String>> = case.client.ask(&["GET", key]);
        assert_ne!(value, Ok(None));
        if case.cluster.calls(node, "get") > before {
            return;
        }
        assert!(Instant::now() < deadline, "not within {FOUND_WITHIN:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the replica of node 0 says that it lacks a key.
fn wait_until_gone(cluster: &Cluster, key: &str) {
    wait_until("the replica has lost it", || {
        let mut replica = cluster.connection(3);
        let asked = pipe().cmd("READONLY").ignore().get(key).clone();
        let asked: RedisResult<(Option<String>,)> = asked.query(&mut replica);
        !matches!(asked, Ok((Some(_),)))
    });
}

#[test]
fn replica_of_a_cluster_serves_reads_also_over_new_connections() {
    each_reader(ReadFrom::Replica, |case| {
        let key = case.key("k");
        assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
        wait_until_read_from(case, 3, &key);
        for node in 0..6 {
            let words = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
            let _: i64 = case.cluster.ask(node, &words).unwrap();
        }
        wait_until_read_from(case, 3, &key);
        (0..6).for_each(|node| case.cluster.reset_stats(node));
        for _ in 0..20 {
            assert_eq!(case.client.ask(&["GET", &key]), Ok("v".to_owned()));
        }
        assert_eq!(case.cluster.calls(3, "get"), 20);
        assert_eq!(case.cluster.calls(0, "get"), 0);
        assert_eq!(case.cluster.errors(3, "MOVED"), 0);
    });
}

#[test]
fn missing_key_of_a_replica_is_asked_for_at_the_primary_once() {
    each_reader(ReadFrom::Replica, |case| {
        let [key, missing] = ["k", "missing"].map(|name| case.key(name));
        assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
        wait_until_read_from(case, 3, &key);
        (0..6).for_each(|node| case.cluster.reset_stats(node));
        assert_eq!(case.client.ask(&["GET", &missing]), Ok(None::<String>));
        assert_eq!(case.client.ask(&["GET", &key]), Ok("v".to_owned()));
        assert_eq!(case.cluster.calls(3, "get"), 2);
        assert_eq!(case.cluster.calls(0, "get"), 1);
        // All of a pipeline, whose replies come from one server.
        let both = pipe().get(&key).get(&missing).clone();
        let replies: RedisResult<(String, Option<String>)> = case.client.query(&both);
        assert_eq!(replies, Ok(("v".to_owned(), None)));
        assert_eq!(case.cluster.calls(3, "get"), 4);
        assert_eq!(case.cluster.calls(0, "get"), 3);
    });
}

#[test]
fn no_read_from_a_replica_misses_keys_that_leave_with_their_slot() {
    each_reader(ReadFrom::Replica, |case| {
        let [gone, gone_too, here, hash] =
            ["gone", "gone too", "here", "hash"].map(|name| case.key(name));
        for key in [&gone, &gone_too, &here] {
            assert_eq!(case.client.ask(&["SET", key, "v"]), Ok(()));
        }
        assert_eq!(case.client.ask(&["HSET", &hash, "f", "v"]), Ok(1));
        assert_eq!(case.client.ask(&["EXPIRE", &gone, "1000"]), Ok(1));
        wait_until_read_from(case, 3, &gone);
        let moving = case.cluster.begin_move(case.slot, 1);
        moving.these_keys(&[&gone, &gone_too, &hash]);
        wait_until_gone(case.cluster, &gone);
        let v = || "v".to_owned();
        let read = |case: &mut ClusterClient<'_>| {
            let client = &mut case.client;
            assert_eq!(client.ask(&["GET", &gone]), Ok(v()));
            assert_eq!(client.ask(&["GET", &here]), Ok(v()));
            assert_eq!(client.ask(&["MGET", &gone_too, &gone]), Ok(vec![v(), v()]));
            assert_eq!(client.ask(&["EXISTS", &gone_too, &gone, &hash]), Ok(3));
            assert_eq!(client.ask(&["TYPE", &hash]), Ok("hash".to_owned()));
            assert_eq!(
                client.ask(&["HGETALL", &hash]),
                Ok(vec![("f".to_owned(), v())])
            );
            assert_eq!(client.ask(&["STRLEN", &gone]), Ok(1));
            let left: RedisResult<i64> = client.ask(&["TTL", &gone]);
            assert!(left.as_ref().is_ok_and(|left| *left > 900), "{left:?}");
            let script = "return redis.call('GET', KEYS[1])";
            assert_eq!(client.ask(&["EVAL_RO", script, "1", &gone]), Ok(v()));
            let all = pipe().get(&here).get(&gone).hget(&hash, "f").clone();
            assert_eq!(client.query(&all), Ok((v(), v(), v())));
        };
        read(case);
        moving.all_keys();
        moving.end();
        // The map learns of it later.
        read(case);
    });
}

#[test]
fn reads_go_on_at_the_former_primary_after_a_failover() {
    each_reader(ReadFrom::PreferReplica, |case| {
        let cluster = case.cluster;
        let primary = if cluster.primaries().contains(&0) {
            0
        } else {
            3
        };
        let replica = 3 - primary;
        let key = key_in(cluster.own_slot(primary), "k");
        assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
        wait_until_read_from(case, replica, &key);
        cluster.failover(replica);
        for number in 0..20 {
            assert_eq!(case.client.ask(&["GET", &key]), Ok("v".to_owned()));
            let text = number.to_string();
            assert_eq!(case.client.ask(&["SET", &key, &text]), Ok(()));
            assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
            thread::sleep(Duration::from_millis(10));
        }
        cluster.wait_until_agreed();
        cluster.wait_until_linked();
        wait_until_read_from(case, primary, &key);
        // Nothing is written to it.
        assert_eq!(case.client.ask(&["SET", &key, "w"]), Ok(()));
        assert_eq!(
            cluster.ask::<String>(replica, &["GET", &key]),
            Ok("w".to_owned())
        );
    });
}

#[test]
fn replica_that_is_added_is_read_from() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let added = cluster.add_primary();
        let id = cluster.id(0);
        let () = cluster.ask(added, &["CLUSTER", "REPLICATE", &id]).unwrap();
        let describe = || reading(&cluster, ReadFrom::PreferReplica);
        each_client_of(&cluster, describe, |case| {
            let key = case.key("k");
            assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
            wait_until_read_from(case, added, &key);
        });
    });
}

#[test]
fn read_of_a_dead_primary_goes_to_its_replica_before_the_failover() {
    on_each_server(|server| {
        let builder = Cluster::builder(server).node_timeout(Duration::from_millis(1500));
        let cluster = builder.start(3, 1);
        let describe = || reading(&cluster, ReadFrom::PreferReplica);
        each_client_of(&cluster, describe, |case| {
            let primary = if cluster.primaries().contains(&0) {
                0
            } else {
                3
            };
            let key = key_in(cluster.own_slot(primary), "k");
            assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
            wait_until_read_from(case, 3 - primary, &key);
            cluster.kill(primary);
            for _ in 0..10 {
                let mut get = cmd("GET");
                assert_eq!(case.client.command(get.arg(&key)), Ok("v".to_owned()));
            }
            cluster.wait_until_promoted(primary);
            assert_eq!(case.client.ask(&["INCR", &case.key("n")]), Ok(1));
            let missing: RedisResult<Value> = case.client.ask(&["GET", &case.key("missing")]);
            assert_eq!(missing, Ok(Value::Nil));
            cluster.restart(primary);
            cluster.wait_until_agreed();
            cluster.wait_until_linked();
        });
    });
}
