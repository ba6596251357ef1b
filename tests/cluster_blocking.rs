//! Blocking commands in a Redis Cluster, through both clients and on every server that is there: their slots move, and
//! their nodes are demoted or die.
#![cfg(feature = "tokio-comp")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use redis::{RedisResult, Value, cmd};
use support::all_clients::AnyClient;
use support::cluster_clients::{ClusterClient, PATIENCE, describe, each_client, each_client_of};
use support::clusters::{Cluster, key_in, on_each_server};
use support::replicas::wait_until;

/// Long enough for a command to be blocked at its server.
const BLOCKED: Duration = Duration::from_millis(250);

/// A blocking command, and what makes it reply with `x`. `K` stands for a key.
const COMMANDS: [(&str, &str); 9] = [
    ("BLPOP K 8", "RPUSH K x"),
    ("BRPOP K 8", "RPUSH K x"),
    ("BLMOVE K Kto LEFT LEFT 8", "RPUSH K x"),
    ("BRPOPLPUSH K Kto 8", "RPUSH K x"),
    ("BLMPOP 8 2 K Kother LEFT", "RPUSH K x"),
    ("BZPOPMIN K 8", "ZADD K 1 x"),
    ("BZMPOP 8 1 K MIN", "ZADD K 1 x"),
    ("XREAD BLOCK 8000 STREAMS K 0", "XADD K * f x"),
    ("BLPOP K 0", "RPUSH K x"),
];

fn ask(client: &mut AnyClient, words: &str, key: &str) -> RedisResult<Value> {
    let words: Vec<String> = words
        .split(' ')
        .map(|word| match word.strip_prefix('K') {
            Some(end) => format!("{key}{end}"),
            None => word.to_owned(),
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    client.ask(&words)
}

/// Whether a reply contains the element `x`.
fn has_element(reply: &RedisResult<Value>) -> bool {
    reply
        .as_ref()
        .is_ok_and(|reply| format!("{reply:?}").contains("'\"x\"'"))
}

/// Waits until so many clients are blocked at a node.
fn wait_until_blocked(cluster: &Cluster, node: usize, count: usize) {
    wait_until("the commands block", || {
        let info = cluster.info(node, "clients").unwrap();
        info.get::<usize>("blocked_clients") >= Some(count)
    });
}

#[test]
fn blocking_commands_go_on_where_their_slots_have_gone_and_take_an_element_once() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let each = |case: &mut ClusterClient<'_>| {
            let slots: Vec<u16> = COMMANDS.iter().map(|_| cluster.own_slot(0)).collect();
            thread::scope(|scope| {
                let blocked: Vec<_> = COMMANDS
                    .iter()
                    .zip(&slots)
                    .map(|(&(words, _), &slot)| {
                        let mut client = case.other();
                        scope.spawn(move || ask(&mut client, words, &key_in(slot, "k")))
                    })
                    .collect();
                wait_until_blocked(&cluster, 0, COMMANDS.len());
                cluster.move_slots(&slots, 1);
                wait_until_blocked(&cluster, 1, COMMANDS.len());
                for (&(_, push), &slot) in COMMANDS.iter().zip(&slots) {
                    let pushed = ask(&mut case.client, push, &key_in(slot, "k"));
                    assert!(pushed.is_ok(), "{push}: {pushed:?}");
                }
                for (blocked, (words, _)) in blocked.into_iter().zip(COMMANDS) {
                    let reply = blocked.join().unwrap();
                    assert!(has_element(&reply), "{words}: {reply:?}");
                }
            });
            for ((words, _), slot) in COMMANDS.iter().zip(slots) {
                // Those that take it have taken it once, from a list that is gone.
                let left: RedisResult<bool> = case.client.ask(&["EXISTS", &key_in(slot, "k")]);
                assert_eq!(left, Ok(words.starts_with("XREAD")), "{words}");
            }
        };
        each_client_of(&cluster, || describe(&cluster), each);
    });
}

#[test]
fn blocking_commands_have_the_time_that_is_left_when_their_slot_has_moved() {
    each_client(|case| {
        let slots = [0; 3].map(|_| case.cluster.own_slot(0));
        let commands = [
            "BLPOP K 1.5",
            "BZPOPMIN K 1.5",
            "XREAD BLOCK 1500 STREAMS K 0",
        ];
        thread::scope(|scope| {
            let waiting: Vec<_> = commands
                .into_iter()
                .zip(slots)
                .map(|(words, slot)| {
                    let mut client = case.other();
                    scope.spawn(move || {
                        let start = Instant::now();
                        let reply = ask(&mut client, words, &key_in(slot, "k"));
                        (words, reply, start.elapsed())
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(700));
            for slot in slots {
                case.cluster.move_slot(slot, 1);
            }
            for waiting in waiting {
                let (words, reply, time) = waiting.join().unwrap();
                assert_eq!(reply, Ok(Value::Nil), "{words}");
                assert!(
                    (1450..2150).contains(&time.as_millis()),
                    "{words}: {time:?}"
                );
            }
        });
    });
}

#[test]
fn blocking_command_waits_at_the_target_of_a_slot_that_rests_half_moved() {
    each_client(|case| {
        let key = case.key("list");
        let moving = case.cluster.begin_move(case.slot, 1);
        thread::scope(|scope| {
            let mut other = case.other();
            let key = &key;
            let taken = scope.spawn(move || ask(&mut other, "BLPOP K 8", key));
            thread::sleep(BLOCKED);
            assert_eq!(case.client.ask(&["RPUSH", key, "x", "y"]), Ok(2));
            let taken = taken.join().unwrap();
            assert!(has_element(&taken), "{taken:?}");
        });
        moving.all_keys();
        moving.end();
        let left: RedisResult<Vec<String>> = case.client.ask(&["LRANGE", &key, "0", "-1"]);
        assert_eq!(left, Ok(vec!["y".to_owned()]));
    });
}

#[test]
fn client_unblock_is_final_and_so_is_nil_at_the_timeout() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let each = |case: &mut ClusterClient<'_>| {
            for how in ["ERROR", "TIMEOUT"] {
                let key = case.key("list");
                let mut other = case.other();
                cluster.reset_stats(0);
                let reply = thread::scope(|scope| {
                    let taken = scope.spawn(move || ask(&mut other, "BLPOP K 8", &key));
                    wait_until_blocked(&cluster, 0, 1);
                    let list: String = cluster.ask(0, &["CLIENT", "LIST"]).unwrap();
                    let line = list.lines().find(|line| line.contains(" flags=b "));
                    let mut fields = line.expect("it blocks").split(' ');
                    let id = fields.find_map(|field| field.strip_prefix("id=")).unwrap();
                    let unblocked: RedisResult<i64> =
                        cluster.ask(0, &["CLIENT", "UNBLOCK", id, how]);
                    assert_eq!(unblocked, Ok(1));
                    taken.join().unwrap()
                });
                match how {
                    "TIMEOUT" => assert_eq!(reply, Ok(Value::Nil)),
                    _ => assert_eq!(reply.unwrap_err().code(), Some("UNBLOCKED")),
                }
                assert_eq!(cluster.calls(0, "blpop"), 1);
            }
        };
        each_client_of(&cluster, || describe(&cluster), each);
    });
}

#[test]
fn blocking_commands_go_on_at_the_replica_that_takes_over() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        each_client_of(
            &cluster,
            || describe(&cluster),
            |case| {
                let node = 3 - next_of(&cluster);
                let commands = &COMMANDS[..8];
                let slots: Vec<u16> = commands.iter().map(|_| cluster.own_slot(node)).collect();
                thread::scope(|scope| {
                    let blocked: Vec<_> = commands
                        .iter()
                        .zip(&slots)
                        .map(|(&(words, _), &slot)| {
                            let mut client = case.other();
                            scope.spawn(move || ask(&mut client, words, &key_in(slot, "k")))
                        })
                        .collect();
                    wait_until_blocked(&cluster, node, commands.len());
                    cluster.failover(3 - node);
                    for (&(_, push), &slot) in commands.iter().zip(&slots) {
                        let pushed = ask(&mut case.client, push, &key_in(slot, "k"));
                        assert!(pushed.is_ok(), "{push}: {pushed:?}");
                    }
                    for (blocked, (words, _)) in blocked.into_iter().zip(commands) {
                        let reply = blocked.join().unwrap();
                        assert!(has_element(&reply), "{words}: {reply:?}");
                    }
                });
                cluster.wait_until_agreed();
                cluster.wait_until_linked();
            },
        );
    });
}

/// The replica of the first shard.
fn next_of(cluster: &Cluster) -> usize {
    match cluster.primaries().contains(&0) {
        true => 3,
        false => 0,
    }
}

#[test]
fn blocking_pop_whose_node_dies_is_unknown_and_one_that_was_not_sent_waits_for_the_failover() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        each_client_of(
            &cluster,
            || describe(&cluster),
            |case| {
                let replica = next_of(&cluster);
                let node = 3 - replica;
                let (list, later) = (key_in(cluster.own_slot(node), "l"), case.key("later"));
                let later = match node {
                    0 => later,
                    _ => key_in(cluster.own_slot(node), "later"),
                };
                thread::scope(|scope| {
                    let mut other = case.other();
                    let list = &list;
                    let taken = scope.spawn(move || ask(&mut other, "BLPOP K 8", list));
                    wait_until_blocked(&cluster, node, 1);
                    cluster.kill(node);
                    let error = taken.join().unwrap().unwrap_err();
                    // An element may have been taken by it.
                    assert!(error.to_string().contains("may or may not"), "{error}");
                    let mut other = case.other();
                    let later = &later;
                    let waits = scope.spawn(move || ask(&mut other, "BLPOP K 9", later));
                    cluster.wait_until_promoted(node);
                    let pushed: RedisResult<i64> = case.client.ask(&["RPUSH", later, "x"]);
                    assert_eq!(pushed, Ok(1));
                    let reply = waits.join().unwrap();
                    assert!(has_element(&reply), "{reply:?}");
                });
                cluster.restart(node);
                cluster.wait_until_agreed();
                cluster.wait_until_linked();
            },
        );
    });
}

/// What was replicated is not known of a primary that is one no longer.
#[test]
fn wait_at_a_node_that_is_demoted_is_an_error() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        each_client_of(
            &cluster,
            || describe(&cluster),
            |case| {
                let replica = next_of(&cluster);
                let node = 3 - replica;
                thread::scope(|scope| {
                    let mut other = case.other();
                    let waits = scope.spawn(move || other.ask::<Value>(&["WAIT", "5", "2500"]));
                    wait_until_blocked(&cluster, node, 1);
                    cluster.failover(replica);
                    let reply = waits.join().unwrap();
                    match (server.is_valkey, reply) {
                        // It goes on waiting, and counts the replicas of each primary.
                        (true, Ok(Value::Int(0..=1))) => {}
                        (false, Err(error)) if error.to_string().contains("UNBLOCKED") => {}
                        (_, reply) => panic!("{reply:?}"),
                    }
                });
                cluster.wait_until_agreed();
                cluster.wait_until_linked();
            },
        );
    });
}

#[test]
fn pipeline_of_blocking_commands_goes_on_where_their_slot_has_gone() {
    each_client(|case| {
        let [list, count] = [case.key("list"), case.key("n")];
        let mut pipeline = redis::pipe();
        pipeline.cmd("INCR").arg(&count);
        pipeline.cmd("BLPOP").arg(&list).arg(8);
        pipeline.cmd("INCR").arg(&count);
        thread::scope(|scope| {
            let mut other = case.other();
            let blocked = scope.spawn(move || other.pipeline(&pipeline));
            thread::sleep(BLOCKED);
            case.cluster.move_slot(case.slot, 1);
            let pushed: RedisResult<i64> = case.client.command(cmd("RPUSH").arg(&list).arg("x"));
            assert_eq!(pushed, Ok(1));
            let start = Instant::now();
            let replies = blocked.join().unwrap().unwrap();
            assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
            assert_eq!(replies[0], Value::Int(1));
            assert_eq!(replies[2], Value::Int(2));
            assert!(has_element(&Ok(replies[1].clone())), "{replies:?}");
        });
    });
}
