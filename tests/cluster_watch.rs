//! WATCH, transactions and dedicated connections in a Redis Cluster whose slots move, through both clients and on every
//! server that is there.
#![cfg(feature = "tokio-comp")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use redis::{Cmd, Commands, FromRedisValue, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::{Dedicated, aio};
use support::all_clients::{AnyClient, End};
use support::cluster_clients::{ClusterClient, describe, each_client, each_client_of};
use support::clusters::{Cluster, key_in, on_each_server};
use support::replicas::wait_until;
use tokio::runtime::Handle;

/// A dedicated connection of either client.
enum AnyDedicated {
    Blocking(Dedicated),
    Async(aio::Dedicated, Handle),
}

impl AnyDedicated {
    fn open(client: &AnyClient, key: &str) -> Self {
        match client {
            AnyClient::Blocking(client) => Self::Blocking(client.dedicated(key).unwrap()),
            AnyClient::Async(client, runtime) => {
                let opened = runtime.block_on(client.dedicated(key));
                Self::Async(opened.unwrap(), runtime.clone())
            }
            AnyClient::Proxy(..) => panic!("no proxy"),
        }
    }

    fn command<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Blocking(connection) => command.query(connection),
            Self::Async(connection, runtime) => runtime.block_on(command.query_async(connection)),
        }
    }

    fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> RedisResult<T> {
        self.command(cmd(words[0]).arg(&words[1..]))
    }

    fn query<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Blocking(connection) => pipeline.query(connection),
            Self::Async(connection, runtime) => runtime.block_on(pipeline.query_async(connection)),
        }
    }
}

/// Adds 1 to a number by an optimistic transaction of the client: reads it, and sets it.
fn increment(client: &mut AnyClient, key: &str) -> RedisResult<i64> {
    match client {
        AnyClient::Blocking(client) => client.transaction(key, |connection, pipeline| {
            let old: Option<i64> = connection.get(key)?;
            let new = old.unwrap_or(0) + 1;
            let set = pipeline.set(key, new).ignore().get(key);
            Ok(set.query::<Option<(i64,)>>(connection)?.map(|(new,)| new))
        }),
        AnyClient::Async(client, runtime) => {
            runtime.block_on(client.transaction(key, async |connection, pipeline| {
                let old: Option<i64> = cmd("GET").arg(key).query_async(connection).await?;
                let new = old.unwrap_or(0) + 1;
                let set = pipeline.set(key, new).ignore().get(key);
                let set: Option<(i64,)> = set.query_async(connection).await?;
                Ok(set.map(|(new,)| new))
            }))
        }
        AnyClient::Proxy(..) => panic!("no proxy"),
    }
}

/// The servers forget a watched key that is absent when its slot leaves, and run what has no key of the slot.
#[test]
fn transaction_without_a_key_is_aborted_when_the_slot_of_its_absent_watched_key_has_left() {
    each_client(|case| {
        for name in ["absent", "there"] {
            for is_whole in [true, false] {
                case.next_slot();
                let key = case.key(name);
                if name == "there" {
                    assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
                }
                let mut connection = AnyDedicated::open(&case.client, &key);
                assert_eq!(connection.ask(&["WATCH", &key]), Ok(()));
                if is_whole {
                    case.cluster.move_slot(case.slot, 1);
                    let ping = pipe().atomic().cmd("PING").clone();
                    let outcome: RedisResult<Option<Vec<String>>> = connection.query(&ping);
                    match outcome {
                        Ok(none) => assert_eq!(none, None, "{name}"),
                        // The map may have learned of it before the connection was used again.
                        Err(error) => {
                            let text = error.to_string();
                            assert!(text.contains("may live on another node now"), "{text}");
                        }
                    }
                } else {
                    assert_eq!(connection.ask(&["MULTI"]), Ok(()));
                    assert_eq!(connection.ask(&["PING"]), Ok("QUEUED".to_owned()));
                    case.cluster.move_slot(case.slot, 1);
                    assert_eq!(connection.ask(&["EXEC"]), Ok(Value::Nil), "{name}");
                }
            }
        }
    });
}

#[test]
fn transaction_is_aborted_when_its_absent_watched_key_is_made_at_the_target_of_its_slot() {
    each_client(|case| {
        let [watched, here] = ["absent", "here"].map(|name| case.key(name));
        assert_eq!(case.client.ask(&["SET", &here, "1"]), Ok(()));
        let mut connection = AnyDedicated::open(&case.client, &here);
        assert_eq!(connection.ask(&["WATCH", &watched, &here]), Ok(()));
        let moving = case.cluster.begin_move(case.slot, 1);
        assert_eq!(case.client.ask(&["SET", &watched, "theirs"]), Ok(()));
        // Nothing that the source knows of has changed.
        let incr = pipe().atomic().incr(&here, 1).clone();
        assert_eq!(connection.query(&incr), Ok(None::<(i64,)>));
        moving.all_keys();
        moving.end();
        assert_eq!(case.client.ask(&["GET", &here]), Ok(1));
    });
}

#[test]
fn replies_to_transactions_that_watch_keys_are_as_those_of_a_single_server() {
    each_client(|case| {
        let [key, other] = ["k", "n"].map(|name| case.key(name));
        let mut connection = AnyDedicated::open(&case.client, &key);
        assert_eq!(connection.ask(&["WATCH", &key]), Ok(()));
        let atomic = pipe().atomic().incr(&other, 1).get(&key).clone();
        assert_eq!(connection.query(&atomic), Ok((1, None::<String>)));
        // One command after the other.
        assert_eq!(connection.ask(&["WATCH", &key, &other]), Ok(()));
        assert_eq!(connection.ask(&["GET", &other]), Ok(1));
        assert_eq!(connection.ask(&["MULTI"]), Ok(()));
        assert_eq!(connection.ask(&["INCR", &other]), Ok("QUEUED".to_owned()));
        assert_eq!(connection.ask(&["EXEC"]), Ok((2,)));
        // As a plain pipeline.
        let mut plain = pipe();
        plain
            .cmd("WATCH")
            .arg(&key)
            .cmd("MULTI")
            .cmd("INCR")
            .arg(&other);
        plain.cmd("EXEC").cmd("GET").arg(&other);
        let replies: RedisResult<(String, String, String, (i64,), i64)> = connection.query(&plain);
        let queued = ("OK".into(), "OK".into(), "QUEUED".into(), (3,), 3);
        assert_eq!(replies, Ok(queued));
        // A change, an empty transaction, DISCARD.
        assert_eq!(connection.ask(&["WATCH", &key]), Ok(()));
        assert_eq!(case.client.ask(&["SET", &key, "theirs"]), Ok(()));
        assert_eq!(connection.query(&atomic), Ok(None::<Value>));
        assert_eq!(connection.ask(&["WATCH", &key]), Ok(()));
        assert_eq!(connection.ask(&["MULTI"]), Ok(()));
        assert_eq!(connection.ask(&["EXEC"]), Ok(Vec::<Value>::new()));
        assert_eq!(connection.ask(&["WATCH", &key]), Ok(()));
        assert_eq!(connection.ask(&["MULTI"]), Ok(()));
        assert_eq!(connection.ask(&["DISCARD"]), Ok(()));
        assert_eq!(connection.query(&atomic), Ok((4, "theirs".to_owned())));
        assert_eq!(connection.query(&atomic), Ok((5, "theirs".to_owned())));
    });
}

#[test]
fn optimistic_transactions_of_both_kinds_are_exact_while_their_slot_goes_back_and_forth() {
    // A cluster of its own: MIGRATE in both directions at once would stop both nodes.
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        each_client_of(
            &cluster,
            || describe(&cluster),
            |case| {
                let slot = case.slot;
                let cluster = &cluster;
                let key = case.key("n");
                let ended = AtomicBool::new(false);
                let rounds = thread::scope(|scope| {
                    let mover = scope.spawn(|| {
                        let end = End(&ended);
                        for round in 0..6 {
                            thread::sleep(Duration::from_millis(20));
                            let moving = cluster.begin_move(slot, 1 - round % 2);
                            thread::sleep(Duration::from_millis(20));
                            moving.all_keys();
                            thread::sleep(Duration::from_millis(20));
                            moving.end();
                        }
                        drop(end);
                    });
                    let adders: Vec<_> = (0..3)
                        .map(|number| {
                            let mut client = case.other();
                            let (ended, key) = (&ended, &key);
                            scope.spawn(move || {
                                let mut done = 0_i64;
                                while !ended.load(Ordering::Relaxed) {
                                    match number {
                                        0 => drop(increment(&mut client, key).unwrap()),
                                        // By `redis::transaction`, or the same for the async client.
                                        _ => while !watched_increment(&mut client, key) {},
                                    }
                                    done += 1;
                                }
                                done
                            })
                        })
                        .collect();
                    mover.join().unwrap();
                    adders
                        .into_iter()
                        .map(|adder| adder.join().unwrap())
                        .sum::<i64>()
                });
                println!("    {rounds} transactions");
                assert!(rounds > 0);
                assert_eq!(case.client.ask(&["GET", &key]), Ok(rounds));
            },
        );
    });
}

/// One attempt by WATCH on the client itself.
fn watched_increment(client: &mut AnyClient, key: &str) -> bool {
    let () = client.ask(&["WATCH", key]).unwrap();
    let old: Option<i64> = client.ask(&["GET", key]).unwrap();
    let set = pipe().atomic().set(key, old.unwrap_or(0) + 1).clone();
    client.query::<Option<Vec<Value>>>(&set).unwrap().is_some()
}

#[test]
fn optimistic_transactions_of_a_slot_that_rests_half_moved_run_at_either_side() {
    each_client(|case| {
        let [gone, here, new] = ["gone", "here", "new"].map(|name| case.key(name));
        for key in [&gone, &here] {
            assert_eq!(case.client.ask(&["SET", key, "10"]), Ok(()));
        }
        let moving = case.cluster.begin_move(case.slot, 1);
        moving.these_keys(&[&gone]);
        for key in [&gone, &here, &new] {
            let first = if *key == new { 1 } else { 11 };
            assert_eq!(increment(&mut case.client, key), Ok(first), "{key}");
            assert!(watched_increment(&mut case.client, key), "{key}");
            assert_eq!(increment(&mut case.client, key), Ok(first + 2), "{key}");
        }
        moving.all_keys();
        moving.end();
        for (key, value) in [(&gone, 13), (&here, 13), (&new, 3)] {
            assert_eq!(case.client.ask(&["GET", key]), Ok(value), "{key}");
            assert_eq!(increment(&mut case.client, key), Ok(value + 1), "{key}");
        }
    });
}

#[test]
fn dedicated_connection_says_that_its_keys_have_moved_and_the_map_learns_of_it() {
    each_client(|case| {
        let key = case.key("k");
        let mut connection = AnyDedicated::open(&case.client, &key);
        assert_eq!(connection.ask(&["SET", &key, "1"]), Ok(()));
        let moving = case.cluster.begin_move(case.slot, 1);
        let error = connection
            .ask::<Value>(&["INCR", &case.key("absent")])
            .unwrap_err();
        assert!(error.to_string().contains("are moving"), "{error}");
        assert_eq!(connection.ask(&["INCR", &key]), Ok(2));
        moving.all_keys();
        moving.end();
        let error = connection.ask::<Value>(&["INCR", &key]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("may live on another node now"), "{text}");
        assert!(text.contains("open a new one"), "{text}");
        let owner = case.cluster.addr(1);
        wait_until("the map is mended", || {
            let topology = case.client.topology();
            let node = topology.locate(key.as_bytes()).unwrap();
            topology.nodes()[node.get()].address() == owner
        });
        let mut connection = AnyDedicated::open(&case.client, &key);
        assert_eq!(connection.ask(&["INCR", &key]), Ok(3));
        // Inside MULTI the server's own errors stay.
        assert_eq!(connection.ask(&["MULTI"]), Ok(()));
        case.cluster.move_slot(case.slot, 2);
        let error = connection.ask::<Value>(&["INCR", &key]).unwrap_err();
        assert_eq!(error.code(), Some("MOVED"), "{error}");
        let error = connection.ask::<Value>(&["EXEC"]).unwrap_err();
        assert_eq!(error.code(), Some("EXECABORT"), "{error}");
    });
}

#[test]
fn user_who_may_not_check_watched_keys_learns_why_the_transaction_is_discarded() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        for node in 0..3 {
            let words = [
                "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-exists",
            ];
            let () = cluster.ask(node, &words).unwrap();
        }
        let describe = || describe(&cluster).username("app").password("pw");
        each_client_of(&cluster, describe, |case| {
            let key = case.key("k");
            assert_eq!(case.client.ask(&["WATCH", &key]), Ok(()));
            let error = case
                .client
                .query::<Value>(pipe().atomic().incr(&key, 1))
                .unwrap_err();
            assert_eq!(error.code(), Some("EXECABORT"), "{error}");
            assert!(error.to_string().contains("EXISTS"), "{error}");
            assert_eq!(case.client.ask(&["GET", &key]), Ok(None::<String>));
        });
    });
}

#[test]
fn watched_transaction_is_aborted_by_a_failover_and_runs_at_the_new_primary() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        each_client_of(
            &cluster,
            || describe(&cluster),
            |case: &mut ClusterClient<'_>| {
                let node = if cluster.primaries().contains(&0) {
                    0
                } else {
                    3
                };
                let slot = cluster.own_slot(node);
                let [watched, key] = ["absent", "n"].map(|name| key_in(slot, name));
                assert_eq!(case.client.ask(&["WATCH", &watched]), Ok(()));
                cluster.failover(3 - node);
                let incr = pipe().atomic().incr(&key, 1).clone();
                assert_eq!(case.client.query(&incr), Ok(None::<(i64,)>));
                assert_eq!(increment(&mut case.client, &key), Ok(1));
                cluster.wait_until_agreed();
                cluster.wait_until_linked();
            },
        );
    });
}

/// What is refused when it is queued (Redis), and by EXEC (Valkey): nothing of it has run.
#[test]
fn transaction_without_watch_is_redirected_as_a_whole_and_runs_once() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        each_client_of(
            &cluster,
            || describe(&cluster),
            |case| {
                let [gone, new] = ["gone", "new"].map(|name| case.key(name));
                assert_eq!(case.client.ask(&["SET", &gone, "v"]), Ok(()));
                let moving = cluster.begin_move(case.slot, 1);
                moving.these_keys(&[&gone]);
                (0..3).for_each(|node| cluster.reset_stats(node));
                let atomic = pipe()
                    .atomic()
                    .append(&gone, "1")
                    .append(&gone, "2")
                    .clone();
                assert_eq!(case.client.query(&atomic), Ok((2, 3)));
                let atomic = pipe().atomic().incr(&new, 1).incr(&new, 1).clone();
                assert_eq!(case.client.query(&atomic), Ok((1, 2)));
                assert_eq!(
                    (cluster.calls(0, "append"), cluster.calls(0, "incrby")),
                    (0, 0)
                );
                assert_eq!(
                    (cluster.calls(1, "append"), cluster.calls(1, "incrby")),
                    (2, 2)
                );
                assert!(cluster.errors(0, "ASK") > 0);
                moving.all_keys();
                moving.end();
                // And by MOVED.
                let atomic = pipe().atomic().append(&gone, "3").incr(&new, 1).clone();
                assert_eq!(case.client.query(&atomic), Ok((4, 3)));
            },
        );
    });
}
