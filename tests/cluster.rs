//! Redis Cluster through both clients and the proxy, on every server that is there: redirects, ASKING, slots that rest half
//! moved or are on their way, transactions, WATCH, scripts, clusters that are down.
//!
//! What servers do in each case was measured before; a test that looks odd checks for such a fact.
#![cfg(feature = "tokio-comp")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::{Builder, ErrorKind, ShardedClient};
use support::all_clients::{AllClients, AnyClient, KINDS, Kind};
use support::clusters::{Cluster, SlotMove, key_in, on_each_server};
use support::replicas::wait_until;

/// How long a slot is on its way in tests that wait for its arrival.
const MOVING: Duration = Duration::from_millis(200);
/// Long enough for everything that is only late.
const PATIENCE: Duration = Duration::from_secs(10);

fn describe(cluster: &Cluster) -> Builder {
    let builder = ShardedClient::builder().cluster(cluster.urls());
    builder.response_timeout(PATIENCE)
}

/// One client, and a slot of node 0 that nobody else touches.
struct Case<'a> {
    cluster: &'a Cluster,
    client: AnyClient,
    clients: &'a AllClients,
    kind: Kind,
    slot: u16,
}

/// Runs a test with every client over every server. The cluster is shared: nodes stay as they are.
fn each_client(test: impl Fn(&mut Case<'_>) + Sync) {
    on_each_server(|server| {
        let cluster = Cluster::shared(server);
        each_client_of(&cluster, &test);
    });
}

/// One kind after the other, all of them.
fn each_client_of(cluster: &Cluster, test: impl Fn(&mut Case<'_>) + Sync) {
    let clients = AllClients::open(|| describe(cluster));
    let failed: Vec<Kind> = KINDS
        .into_iter()
        .filter(|&kind| {
            let run = || {
                println!("{}, {kind:?}", cluster.server.name);
                test(&mut Case {
                    cluster,
                    client: clients.of(kind),
                    clients: &clients,
                    kind,
                    slot: cluster.own_slot(0),
                });
            };
            thread::scope(|scope| scope.spawn(run).join()).is_err()
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} fails by {failed:?}",
        cluster.server.name
    );
}

impl<'a> Case<'a> {
    fn key(&self, name: &str) -> String {
        key_in(self.slot, name)
    }

    /// Writes keys at the source, begins to move their slot to node 1, and moves some of them. Their values are their names.
    fn half_moved(&self, moved: &[&str], staying: &[&str]) -> SlotMove<'a> {
        self.half_moved_slot(self.slot, moved, staying)
    }

    fn half_moved_slot(&self, slot: u16, moved: &[&str], staying: &[&str]) -> SlotMove<'a> {
        let mut source = self.cluster.connection(0);
        for name in moved.iter().chain(staying) {
            let set = cmd("SET")
                .arg(key_in(slot, name))
                .arg(name)
                .exec(&mut source);
            set.unwrap();
        }
        let moving = self.cluster.begin_move(slot, 1);
        let moved: Vec<String> = moved.iter().map(|name| key_in(slot, name)).collect();
        moving.these_keys(&moved.iter().map(String::as_str).collect::<Vec<_>>());
        moving
    }

    /// Does something while the slot is on its way, and arrives after [`MOVING`].
    fn while_moving<T>(&mut self, moving: SlotMove<'a>, act: impl FnOnce(&mut Self) -> T) -> T {
        thread::scope(|scope| {
            let mover = scope.spawn(move || {
                thread::sleep(MOVING);
                moving.all_keys();
                moving.end();
            });
            let done = act(self);
            mover.join().unwrap();
            done
        })
    }

    /// What is really there, by the slot's owner.
    fn stored<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let owner = self.cluster.owner(self.slot);
        self.cluster.ask(owner, words).unwrap()
    }
}

#[test]
fn moved_is_followed_and_mends_the_map() {
    each_client(|case| {
        let (slot, key) = (case.slot, case.key("k"));
        assert_eq!(case.client.ask(&["SET", &key, "1"]), Ok(()));
        case.cluster.move_slot(slot, 2);
        assert_eq!(case.client.ask(&["INCR", &key]), Ok(2));
        let owner = case.cluster.addr(2);
        let client = &case.client;
        wait_until("the map is mended", || {
            let topology = client.topology();
            let node = topology.locate(key.as_bytes()).unwrap();
            topology.nodes()[node.get()].address() == owner
        });
        assert_eq!(case.client.ask(&["INCR", &key]), Ok(3));
        assert_eq!(case.stored::<String>(&["GET", &key]), "3");
    });
}

#[test]
fn moved_slot_is_redirected_until_the_map_is_mended_and_not_again() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        each_client_of(&cluster, |case| {
            let (slot, key) = (case.slot, case.key("k"));
            assert_eq!(case.client.ask(&["SET", &key, "0"]), Ok(()));
            case.cluster.move_slot(slot, 1);
            (0..3).for_each(|node| case.cluster.reset_stats(node));
            for number in 1..=20 {
                assert_eq!(case.client.ask(&["INCR", &key]), Ok(number));
            }
            // The map is mended beside the requests.
            let redirects = case.cluster.errors(0, "MOVED");
            assert!((1..=5).contains(&redirects), "{redirects} redirects");
            assert_eq!(case.cluster.errors(1, "MOVED"), 0);
        });
    });
}

#[test]
fn pipeline_over_moved_slots_runs_each_command_once_and_in_order() {
    each_client(|case| {
        let slots: Vec<u16> = (0..30)
            .map(|number| case.cluster.own_slot(number % 3))
            .collect();
        let mut pipeline = pipe();
        for round in 1..=3 {
            for slot in &slots {
                pipeline.cmd("APPEND").arg(key_in(*slot, "k")).arg(round);
            }
        }
        assert!(case.client.pipeline(&pipeline).is_ok());
        // Two nodes lose slots that the client does not know of.
        for slot in slots.iter().step_by(2) {
            case.cluster
                .move_slot(*slot, (case.cluster.owner(*slot) + 1) % 3);
        }
        let lengths: RedisResult<Vec<usize>> = case.client.query(&pipeline);
        let expected: Vec<usize> = (4..=6)
            .flat_map(|length| vec![length; slots.len()])
            .collect();
        assert_eq!(lengths, Ok(expected));
        for slot in slots {
            let stored: String = {
                let owner = case.cluster.owner(slot);
                case.cluster
                    .ask(owner, &["GET", &key_in(slot, "k")])
                    .unwrap()
            };
            assert_eq!(stored, "123123");
        }
    });
}

#[test]
fn commands_of_several_slots_are_cut_by_slot_or_refused() {
    each_client(|case| {
        let slots: Vec<u16> = (0..24)
            .map(|number| case.cluster.own_slot(number % 3))
            .collect();
        // Two keys of each slot, not beside each other.
        let keys: Vec<String> = ["a", "b"]
            .iter()
            .flat_map(|name| slots.iter().map(|slot| key_in(*slot, name)))
            .collect();
        let with = |name: &str| {
            let mut command = cmd(name);
            command.arg(&keys);
            command
        };
        let mut mset = cmd("MSET");
        keys.iter().for_each(|key| {
            mset.arg(key).arg(key);
        });
        assert_eq!(case.client.command(&mset), Ok(()));
        assert_eq!(case.client.command(&with("MGET")), Ok(keys.clone()));
        for name in ["EXISTS", "TOUCH"] {
            assert_eq!(case.client.command(&with(name)), Ok(keys.len()), "{name}");
        }
        assert_eq!(case.client.command(&with("DEL")), Ok(keys.len()));
        assert_eq!(case.client.command(&with("UNLINK")), Ok(0));
        // Of one node, and yet of two slots.
        let (one, other) = (&keys[0], &keys[3]);
        for words in [["RENAME", one, other], ["SUNION", one, other]] {
            let refused: RedisResult<Value> = case.client.ask(&words);
            let error = refused.unwrap_err();
            assert_eq!(error.code(), Some("CROSSNODE"), "{error}");
        }
        let refused: RedisResult<Value> = case.client.ask(&["MSETNX", one, "1", other, "1"]);
        assert_eq!(refused.unwrap_err().code(), Some("CROSSNODE"));
        let refused = case
            .client
            .pipeline(pipe().atomic().incr(one, 1).incr(other, 1));
        let code = match case.kind {
            // As a server that refuses a command of a transaction.
            Kind::Proxy => "EXECABORT",
            _ => "CROSSNODE",
        };
        assert_eq!(refused.unwrap_err().code(), Some(code));
        assert_eq!(case.client.command(&with("EXISTS")), Ok(0));
    });
}

#[test]
fn single_commands_find_every_key_of_a_slot_that_rests_half_moved() {
    each_client(|case| {
        let moving = case.half_moved(&["gone"], &["here"]);
        let [gone, here, new, newer] = ["gone", "here", "new", "newer"].map(|name| case.key(name));
        let client = &mut case.client;
        for _ in 0..3 {
            assert_eq!(client.ask(&["GET", &gone]), Ok("gone".to_owned()));
            assert_eq!(client.ask(&["GET", &here]), Ok("here".to_owned()));
            assert_eq!(client.ask(&["GET", &new]), Ok(None::<String>));
        }
        // What is new is made at the target.
        assert_eq!(client.ask(&["INCR", &new]), Ok(1));
        assert_eq!(client.ask(&["SET", &newer, "x", "NX"]), Ok(true));
        assert_eq!(client.ask(&["APPEND", &gone, "!"]), Ok(5));
        assert_eq!(client.ask(&["APPEND", &here, "!"]), Ok(5));
        assert_eq!(client.ask(&["EXISTS", &new]), Ok(1));
        assert_eq!(client.ask(&["EXISTS", &gone, &gone]), Ok(2));
        assert_eq!(client.ask(&["DEL", &newer]), Ok(1));
        assert_eq!(client.ask(&["EXISTS", &newer, &newer]), Ok(0));
        assert_eq!(client.ask(&["TYPE", &gone]), Ok("string".to_owned()));
        let slot = case.slot.to_string();
        let count = |node: usize| {
            let words = ["CLUSTER", "COUNTKEYSINSLOT", &slot];
            case.cluster.ask::<usize>(node, &words).unwrap()
        };
        assert_eq!((count(0), count(1)), (1, 2));
        moving.all_keys();
        moving.end();
        assert_eq!(case.stored::<String>(&["GET", &gone]), "gone!");
        assert_eq!(case.stored::<String>(&["GET", &here]), "here!");
        assert_eq!(case.client.ask(&["INCR", &new]), Ok(2));
    });
}

#[test]
fn pipelines_keep_the_order_of_each_key_in_a_slot_that_rests_half_moved() {
    each_client(|case| {
        let moving = case.half_moved(&["gone"], &["here"]);
        let other = case.cluster.own_slot(1);
        let keys = [
            case.key("gone"),
            case.key("here"),
            case.key("new"),
            key_in(other, "k"),
        ];
        let mut pipeline = pipe();
        for round in 0..5 {
            for key in &keys {
                pipeline.cmd("APPEND").arg(key).arg(round).ignore();
                pipeline.cmd("GETRANGE").arg(key).arg(-1).arg(-1);
            }
        }
        let expected: Vec<String> = (0..20).map(|number| (number / 4).to_string()).collect();
        assert_eq!(case.client.query(&pipeline), Ok(expected));
        let ends = ["gone01234", "here01234", "01234", "01234"];
        for (key, end) in keys.iter().zip(ends) {
            assert_eq!(case.client.ask(&["GET", key]), Ok(end.to_owned()));
        }
        moving.all_keys();
        moving.end();
        assert_eq!(case.stored::<String>(&["GET", &keys[1]]), "here01234");
    });
}

#[test]
fn split_commands_over_a_half_moved_slot_lose_and_invent_nothing() {
    each_client(|case| {
        let moving = case.half_moved(&["a", "b"], &["c", "d"]);
        let others: Vec<u16> = (0..6)
            .map(|number| case.cluster.own_slot(number % 3))
            .collect();
        let names = ["a", "b", "c", "d", "missing"];
        let mut keys: Vec<String> = names.iter().map(|name| case.key(name)).collect();
        keys.extend(others.iter().map(|slot| key_in(*slot, "k")));
        for key in &keys[5..] {
            assert_eq!(case.client.ask(&["SET", key, "k"]), Ok(()));
        }
        let mut expected: Vec<Option<String>> =
            names[..4].iter().map(|&name| Some(name.into())).collect();
        expected.push(None);
        expected.extend(others.iter().map(|_| Some("k".to_owned())));
        let mut mget = cmd("MGET");
        mget.arg(&keys);
        let mut exists = cmd("EXISTS");
        exists.arg(&keys);
        case.while_moving(moving, |case| {
            assert_eq!(case.client.command(&mget), Ok(expected.clone()));
            assert_eq!(case.client.command(&exists), Ok(10));
        });
        assert_eq!(case.client.command(&mget), Ok(expected.clone()));
        // The same with writes.
        let slot = case.cluster.own_slot(0);
        let moving = case.half_moved_slot(slot, &["a", "b"], &["c", "d"]);
        let keys: Vec<String> = names.iter().map(|name| key_in(slot, name)).collect();
        let mut mset = cmd("MSET");
        keys.iter().zip(0..).for_each(|(key, number)| {
            mset.arg(key).arg(number);
        });
        let mut delete = cmd("DEL");
        delete.arg(&keys).arg(key_in(others[0], "k"));
        case.while_moving(moving, |case| {
            assert_eq!(case.client.command(&mset), Ok(()));
        });
        let mut mget = cmd("MGET");
        mget.arg(&keys);
        assert_eq!(
            case.client.command(&mget),
            Ok([0, 1, 2, 3, 4].map(Some).to_vec())
        );
        assert_eq!(case.client.command(&delete), Ok(6));
    });
}

#[test]
fn split_commands_over_a_slot_that_rests_half_moved_are_answered() {
    each_client(|case| {
        let moving = case.half_moved(&["a", "b"], &["c", "d"]);
        let names = ["a", "b", "c", "d", "missing"];
        let keys = names.map(|name| case.key(name));
        let with = |name: &str| {
            let mut command = cmd(name);
            command.arg(&keys);
            command
        };
        let expected = ["a", "b", "c", "d"].map(|name| Some(name.to_owned()));
        let expected = [&expected[..], &[None]].concat();
        assert_eq!(case.client.command(&with("MGET")), Ok(expected));
        assert_eq!(case.client.command(&with("EXISTS")), Ok(4));
        let mut mset = cmd("MSET");
        keys.iter().for_each(|key| {
            mset.arg(key).arg("v");
        });
        assert_eq!(case.client.command(&mset), Ok(()));
        let all = vec![Some("v".to_owned()); 5];
        assert_eq!(case.client.command(&with("MGET")), Ok(all));
        assert_eq!(case.client.command(&with("DEL")), Ok(5));
        assert_eq!(case.client.command(&with("EXISTS")), Ok(0));
        moving.all_keys();
        moving.end();
    });
}

#[test]
fn indivisible_commands_wait_until_their_half_moved_slot_has_arrived() {
    each_client(|case| {
        let [a, b, new] = ["a", "b", "new"].map(|name| case.key(name));
        let moving = case.half_moved(&["a"], &["b"]);
        case.while_moving(moving, |case| {
            // The destination counts as a key that is not there.
            assert_eq!(case.client.ask(&["RENAME", &a, &new]), Ok(()));
        });
        assert_eq!(
            case.stored::<Vec<Option<String>>>(&["MGET", &a, &b, &new]),
            [None, Some("b".to_owned()), Some("a".to_owned())]
        );
        let slot = case.cluster.own_slot(0);
        let moving = case.half_moved_slot(slot, &["a"], &["b"]);
        let [a, b, c] = ["a", "b", "c"].map(|name| key_in(slot, name));
        case.while_moving(moving, |case| {
            assert_eq!(case.client.ask(&["MSETNX", &a, "1", &b, "1"]), Ok(0));
            assert_eq!(case.client.ask(&["COPY", &b, &c]), Ok(1));
        });
        assert_eq!(case.client.ask(&["GET", &c]), Ok("b".to_owned()));
    });
}

/// A flag on a connection that tasks share would be used up by another task's command.
#[test]
fn asking_is_never_lent_to_another_command_of_the_connection() {
    each_client(|case| {
        let moving = case.half_moved(&["gone"], &["here"]);
        let theirs = key_in(case.cluster.own_slot(1), "k");
        let (gone, here) = (case.key("gone"), case.key("here"));
        let (clients, kind) = (case.clients, case.kind);
        thread::scope(|scope| {
            for number in 0..8 {
                let (gone, here, theirs) = (&gone, &here, &theirs);
                scope.spawn(move || {
                    let mut client = clients.of(kind);
                    for _ in 0..40 {
                        match number % 4 {
                            0 => assert_eq!(client.ask(&["GET", gone]), Ok("gone".to_owned())),
                            1 => assert_eq!(client.ask(&["GET", here]), Ok("here".to_owned())),
                            // Commands of the target itself, and one of an arity that uses the flag up.
                            2 => assert!(client.ask::<i64>(&["INCR", theirs]).is_ok()),
                            _ => {
                                assert!(client.ask::<Value>(&["GET", gone, theirs, here]).is_err());
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(case.client.ask(&["GET", &theirs]), Ok(80));
        moving.take_back();
    });
}

#[test]
fn transaction_of_moved_and_of_absent_keys_runs_whole_at_the_target() {
    each_client(|case| {
        let moving = case.half_moved(&["a", "b"], &["c"]);
        let [a, b, c, new] = ["a", "b", "c", "new"].map(|name| case.key(name));
        let both = pipe()
            .atomic()
            .append(&a, 1)
            .append(&b, 2)
            .get(&a)
            .get(&b)
            .clone();
        let expected = (2, 2, "a1".to_owned(), "b2".to_owned());
        assert_eq!(case.client.query(&both), Ok(expected));
        let create = pipe().atomic().incr(&new, 1).incr(&new, 1).clone();
        // It is absent at both: told when it is queued, or by EXEC on Valkey.
        assert_eq!(case.client.query(&create), Ok((1, 2)));
        let stay = pipe().atomic().append(&c, 3).get(&c).clone();
        assert_eq!(case.client.query(&stay), Ok((2, "c3".to_owned())));
        moving.all_keys();
        moving.end();
        assert_eq!(case.client.query(&create), Ok((3, 4)));
    });
}

#[test]
fn transaction_of_keys_on_both_sides_waits_until_its_slot_has_arrived() {
    each_client(|case| {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| case.key(name));
        let moving = case.half_moved(&["a"], &["b"]);
        let both = pipe()
            .atomic()
            .append(&a, 1)
            .append(&b, 2)
            .incr(&c, 1)
            .incr(&d, 1)
            .clone();
        case.while_moving(moving, |case| {
            assert_eq!(case.client.query(&both), Ok((2, 2, 1, 1)));
        });
        assert_eq!(case.client.query(&both), Ok((3, 3, 2, 2)));
    });
}

#[test]
fn transactions_pipelines_and_scripts_are_exact_while_their_slot_goes_back_and_forth() {
    each_client(|case| {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let (slot, cluster) = (case.slot, case.cluster);
        let keys = NAMES.map(|name| key_in(slot, name));
        let script = "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])";
        let ended = AtomicBool::new(false);
        let rounds = thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let end = support::all_clients::End(&ended);
                for round in 0..12 {
                    let moving = cluster.begin_move(slot, 1 - round % 2);
                    for _ in 0..2 {
                        thread::sleep(Duration::from_millis(10));
                        moving.keys(2);
                    }
                    moving.all_keys();
                    moving.end();
                }
                drop(end);
            });
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) || rounds < 5 {
                let mut atomic = pipe();
                atomic.atomic();
                let mut plain = pipe();
                for key in &keys {
                    atomic.incr(key, 1);
                    plain.incr(key, 1);
                }
                let next = |step: i64| vec![rounds * 6 + step; 4];
                assert_eq!(case.client.query(&atomic), Ok(next(1)));
                assert_eq!(case.client.query(&plain), Ok(next(2)));
                for (one, other) in [(0, 1), (2, 3)] {
                    let words = ["EVAL", script, "2", &keys[one], &keys[other]];
                    assert_eq!(case.client.ask(&words), Ok(next(3)[0]));
                    assert_eq!(case.client.ask(&["INCR", &keys[one]]), Ok(next(4)[0]));
                    assert_eq!(case.client.ask(&["INCR", &keys[other]]), Ok(next(4)[0]));
                }
                let mut mget = cmd("MGET");
                mget.arg(&keys);
                assert_eq!(case.client.command(&mget), Ok(next(4)));
                assert_eq!(case.client.query(&atomic), Ok(next(5)));
                assert_eq!(case.client.query(&plain), Ok(next(6)));
                rounds += 1;
            }
            mover.join().unwrap();
            rounds
        });
        println!("    {rounds} rounds");
        let mut mget = cmd("MGET");
        mget.arg(&keys);
        assert_eq!(case.client.command(&mget), Ok(vec![rounds * 6; 4]));
    });
}

/// Watches, lets something happen, and returns what EXEC says: nothing if it was aborted.
fn watched(
    case: &mut Case<'_>,
    watched: &str,
    written: &str,
    then: impl FnOnce(&mut Case<'_>),
) -> Option<Vec<i64>> {
    assert_eq!(case.client.ask(&["WATCH", watched]), Ok(()));
    then(case);
    exec(&mut case.client, pipe().atomic().incr(written, 1))
}

fn exec<T: FromRedisValue>(client: &mut AnyClient, transaction: &Pipeline) -> Option<T> {
    match client.query(transaction) {
        Ok(replies) => replies,
        Err(error) if error.code() == Some("EXECABORT") => None,
        Err(error) => panic!("EXEC: {error}"),
    }
}

#[test]
fn transaction_that_watches_runs_in_a_cluster_and_fails_when_its_key_has_changed() {
    each_client(|case| {
        let (key, count) = (case.key("k"), case.key("n"));
        assert_eq!(watched(case, &key, &count, |_| {}), Some(vec![1]));
        let changed = watched(case, &key, &count, |case| {
            let mut other = case.clients.of(case.kind);
            assert_eq!(other.ask(&["SET", &key, "theirs"]), Ok(()));
        });
        assert_eq!(changed, None);
        assert_eq!(watched(case, &key, &count, |_| {}), Some(vec![2]));
    });
}

#[test]
fn transaction_is_aborted_when_the_slot_of_its_watched_key_has_left() {
    each_client(|case| {
        // There; and absent, whose WATCH the servers forget without a word.
        for name in ["there", "absent"] {
            case.slot = case.cluster.own_slot(0);
            let (slot, key, count) = (case.slot, case.key(name), case.key("n"));
            if name == "there" {
                assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
            }
            let outcome = watched(case, &key, &count, |case| {
                case.cluster.move_slot(slot, 1);
                let mut other = case.clients.of(case.kind);
                assert_eq!(other.ask(&["SET", &key, "theirs"]), Ok(()));
            });
            assert_eq!(outcome, None, "{name}");
            assert!(!case.stored::<bool>(&["EXISTS", &count]), "{name}");
            // There and back again: the guard is gone all the same.
            case.slot = case.cluster.own_slot(0);
            let (slot, key, count) = (case.slot, case.key(name), case.key("n"));
            if name == "there" {
                assert_eq!(case.client.ask(&["SET", &key, "v"]), Ok(()));
            }
            let outcome = watched(case, &key, &count, |case| {
                case.cluster.move_slot(slot, 1);
                let mut other = case.clients.of(case.kind);
                assert_eq!(other.ask(&["SET", &key, "theirs"]), Ok(()));
                case.cluster.move_slot(slot, 0);
            });
            assert_eq!(outcome, None, "{name}, there and back");
            assert!(!case.stored::<bool>(&["EXISTS", &count]), "{name}");
            // The next attempt is like any other.
            assert_eq!(watched(case, &key, &count, |_| {}), Some(vec![1]));
        }
    });
}

#[test]
fn transaction_is_aborted_or_runs_when_its_watched_key_is_on_the_way() {
    each_client(|case| {
        let [gone, here] = ["gone", "here"].map(|name| case.key(name));
        let moving = case.half_moved(&["gone"], &["here"]);
        // At the target, by ASKING; and at the source.
        for key in [&gone, &here] {
            let outcome = case.client.ask::<()>(&["WATCH", key]);
            assert_eq!(outcome, Ok(()), "{key}");
            let outcome = exec(&mut case.client, pipe().atomic().append(key, "!"));
            assert_eq!(outcome, Some(vec![5]), "{key}");
        }
        // It leaves after WATCH.
        assert_eq!(case.client.ask(&["WATCH", &here]), Ok(()));
        moving.these_keys(&[&here]);
        let outcome: Option<Vec<i64>> = exec(&mut case.client, pipe().atomic().append(&here, "?"));
        assert_eq!(outcome, None);
        moving.end();
        assert_eq!(case.stored::<String>(&["GET", &here]), "here!");
    });
}

#[test]
fn optimistic_transactions_are_exact_while_their_slot_goes_back_and_forth() {
    each_client(|case| {
        let (slot, cluster) = (case.slot, case.cluster);
        let key = case.key("n");
        let ended = AtomicBool::new(false);
        let rounds = thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let end = support::all_clients::End(&ended);
                for round in 0..6 {
                    thread::sleep(Duration::from_millis(30));
                    cluster.move_slot(slot, 1 - round % 2);
                }
                drop(end);
            });
            let mut done = 0_i64;
            while !ended.load(Ordering::Relaxed) {
                let step: RedisResult<()> = case.client.ask(&["WATCH", &key]);
                step.unwrap();
                let old: Option<i64> = case.client.ask(&["GET", &key]).unwrap();
                assert_eq!(old.unwrap_or(0), done);
                let new = done + 1;
                let set: Option<Vec<Value>> =
                    exec(&mut case.client, pipe().atomic().set(&key, new));
                if set.is_some() {
                    done = new;
                }
            }
            mover.join().unwrap();
            done
        });
        println!("    {rounds} transactions");
        assert!(rounds > 0);
        assert_eq!(case.client.ask(&["GET", &key]), Ok(rounds));
    });
}

#[test]
fn scripts_follow_their_slot_and_wait_for_keys_on_both_sides() {
    each_client(|case| {
        let [gone, here, new, newer] = ["gone", "here", "new", "newer"].map(|name| case.key(name));
        let moving = case.half_moved(&["gone"], &["here"]);
        let append = "return redis.call('APPEND', KEYS[1], ARGV[1])";
        for (key, length) in [(&gone, 5), (&here, 5), (&new, 1), (&newer, 1)] {
            assert_eq!(
                case.client.ask(&["EVAL", append, "1", key, "!"]),
                Ok(length)
            );
        }
        let both = "redis.call('APPEND', KEYS[1], 'x') return redis.call('APPEND', KEYS[2], 'y')";
        case.while_moving(moving, |case| {
            let words = ["EVAL", both, "2", &gone, &here];
            assert_eq!(case.client.ask(&words), Ok(6));
        });
        assert_eq!(
            case.client.ask(&["MGET", &gone, &here]),
            Ok(["gone!x", "here!y"].map(str::to_owned))
        );
        // NOSCRIPT comes after MOVED, from a node that never saw the script.
        let sha: String = case.client.ask(&["SCRIPT", "LOAD", append]).unwrap();
        let slot = case.cluster.own_slot(0);
        let key = key_in(slot, "k");
        assert_eq!(case.client.ask(&["EVALSHA", &sha, "1", &key, "1"]), Ok(1));
        case.cluster.move_slot(slot, 2);
        let () = case.cluster.ask(2, &["SCRIPT", "FLUSH"]).unwrap();
        assert_eq!(case.client.ask(&["EVALSHA", &sha, "1", &key, "2"]), Ok(2));
        assert_eq!(case.client.ask(&["GET", &key]), Ok("12".to_owned()));
    });
}

/// It is an error after the script's earlier writes.
#[test]
fn script_that_touches_a_key_of_another_node_is_never_sent_again() {
    each_client(|case| {
        let other = key_in(case.cluster.own_slot(1), "k");
        let key = case.key("n");
        let script = "redis.call('INCR', KEYS[1]) return redis.call('GET', ARGV[1])";
        let words = ["EVAL", script, "1", &key, &other];
        let error = case.client.ask::<Value>(&words).unwrap_err();
        assert!(error.to_string().contains("non local key"), "{error}");
        assert_eq!(case.client.ask(&["GET", &key]), Ok(1));
        let moving = case.half_moved(&[], &["here"]);
        // Absent at the source, whose target is asked.
        let new = case.key("new");
        let words = ["EVAL", script, "1", &new, &other];
        let outcome: RedisResult<Value> = case.client.ask(&words);
        match outcome {
            Err(error) => assert!(error.to_string().contains("non local key"), "{error}"),
            // The other key lives at the target.
            Ok(value) => assert_eq!(value, Value::Nil),
        }
        assert_eq!(case.client.ask(&["GET", &new]), Ok(1));
        moving.all_keys();
        moving.end();
    });
}

#[test]
fn blpop_goes_on_where_its_slot_has_gone_and_takes_an_element_once() {
    each_client(|case| {
        let (cluster, clients, kind) = (case.cluster, case.clients, case.kind);
        let list = case.key("list");
        thread::scope(|scope| {
            let taken = scope.spawn(|| {
                let start = Instant::now();
                let taken: RedisResult<Option<(String, String)>> =
                    clients.of(kind).ask(&["BLPOP", &list, "8"]);
                (taken, start.elapsed())
            });
            thread::sleep(MOVING / 2);
            let moving = cluster.begin_move(case.slot, 1);
            // Made at the target, of which the blocked client hears nothing yet.
            assert_eq!(case.client.ask(&["RPUSH", &list, "x", "y"]), Ok(2));
            thread::sleep(MOVING / 2);
            moving.end();
            let (taken, time) = taken.join().unwrap();
            assert_eq!(taken, Ok(Some((list.clone(), "x".to_owned()))));
            assert!(time < Duration::from_secs(6), "{time:?}");
        });
        assert_eq!(
            case.client.ask(&["LRANGE", &list, "0", "-1"]),
            Ok(vec!["y".to_owned()])
        );
        // The time that is left is the remaining time.
        let other = case.cluster.own_slot(0);
        let list = key_in(other, "list");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let start = Instant::now();
                let nothing: RedisResult<Option<Vec<String>>> =
                    clients.of(kind).ask(&["BLPOP", &list, "1.5"]);
                (nothing, start.elapsed())
            });
            thread::sleep(Duration::from_millis(700));
            cluster.move_slot(other, 1);
            let (nothing, time) = waiting.join().unwrap();
            assert_eq!(nothing, Ok(None));
            assert!((1400..2500).contains(&time.as_millis()), "{time:?}");
        });
    });
}

#[test]
fn xreadgroup_goes_on_where_its_stream_has_gone() {
    each_client(|case| {
        let (cluster, clients, kind) = (case.cluster, case.clients, case.kind);
        let stream = case.key("stream");
        assert_eq!(
            case.client
                .ask(&["XGROUP", "CREATE", &stream, "g", "$", "MKSTREAM"]),
            Ok(())
        );
        thread::scope(|scope| {
            let read = scope.spawn(|| {
                let words = [
                    "XREADGROUP",
                    "GROUP",
                    "g",
                    "me",
                    "BLOCK",
                    "8000",
                    "STREAMS",
                    &stream,
                    ">",
                ];
                clients.of(kind).ask::<Value>(&words)
            });
            thread::sleep(MOVING / 2);
            // UNBLOCKED on Redis 7, ASK on the others.
            cluster.move_slot(case.slot, 1);
            let id: String = case.client.ask(&["XADD", &stream, "*", "f", "v"]).unwrap();
            let read = format!("{:?}", read.join().unwrap().unwrap());
            assert!(read.contains(&id), "{read}");
        });
        let pending: (usize, Value, Value, Value) =
            case.client.ask(&["XPENDING", &stream, "g"]).unwrap();
        assert_eq!(pending.0, 1);
    });
}

#[test]
fn dbsize_keys_and_scan_see_each_key_of_half_moved_slots_once() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        each_client_of(&cluster, |case| {
            let case = &mut *case;
            assert_eq!(case.client.ask(&["FLUSHALL"]), Ok(()));
            let mut names = Vec::new();
            for node in 0..3 {
                for _ in 0..20 {
                    let slot = case.cluster.own_slot(node);
                    names.push(key_in(slot, "x"));
                    names.push(key_in(slot, "y"));
                }
            }
            for name in &names {
                assert_eq!(case.client.ask(&["SET", name, "v"]), Ok(()));
            }
            let moving = case.half_moved(&["gone"], &["here"]);
            let other = case.cluster.own_slot(0);
            let moved = case.half_moved_slot(other, &["a", "b"], &[]);
            names.extend([
                case.key("gone"),
                case.key("here"),
                key_in(other, "a"),
                key_in(other, "b"),
            ]);
            names.sort();
            assert_eq!(case.client.ask(&["DBSIZE"]), Ok(names.len()));
            let mut keys: Vec<String> = case.client.ask(&["KEYS", "*"]).unwrap();
            keys.sort();
            assert_eq!(keys, names);
            let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
            loop {
                let (next, some): (String, Vec<String>) =
                    case.client.ask(&["SCAN", &cursor, "COUNT", "10"]).unwrap();
                found.extend(some);
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
            found.sort();
            assert_eq!(found, names);
            moving.take_back();
            moved.take_back();
        });
    });
}

#[test]
fn slot_without_an_owner_is_an_error_for_its_keys_alone() {
    on_each_server(|server| {
        let builder = Cluster::builder(server);
        let cluster = builder
            .option(["--cluster-require-full-coverage", "no"])
            .start(3, 0);
        let slot = cluster.own_slot(0);
        let text = slot.to_string();
        for node in 0..3 {
            let () = cluster.ask(node, &["CLUSTER", "DELSLOTS", &text]).unwrap();
        }
        let describe = || describe(&cluster).response_timeout(Duration::from_millis(800));
        let clients = AllClients::open(describe);
        for kind in KINDS {
            let mut client = clients.of(kind);
            let start = Instant::now();
            let refused: RedisResult<Value> = client.ask(&["GET", &key_in(slot, "k")]);
            let error = refused.unwrap_err();
            assert_eq!(error.code(), Some("CLUSTERDOWN"), "{kind:?}: {error}");
            assert!(
                start.elapsed() < PATIENCE / 2,
                "{kind:?}: {:?}",
                start.elapsed()
            );
            for node in 0..3 {
                let key = key_in(cluster.own_slot(node), "k");
                assert_eq!(client.ask(&["INCR", &key]), Ok(1), "{kind:?}");
            }
        }
        // It gets one again.
        let () = cluster.ask(1, &["CLUSTER", "ADDSLOTS", &text]).unwrap();
        for (kind, number) in KINDS.into_iter().zip(1..) {
            let key = key_in(slot, "k");
            wait_until("the slot is served", || {
                clients.of(kind).ask(&["EXISTS", &key]) == Ok((number > 1) as i64)
            });
            assert_eq!(
                clients.of(kind).ask(&["INCR", &key]),
                Ok(number),
                "{kind:?}"
            );
        }
    });
}

#[test]
fn requests_wait_while_the_cluster_is_down_for_a_moment() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        each_client_of(&cluster, |case| {
            let cluster = case.cluster;
            let (gap, text) = (case.slot, case.slot.to_string());
            let keys: Vec<String> = (0..3)
                .map(|node| key_in(cluster.own_slot(node), "k"))
                .collect();
            for key in &keys {
                assert_eq!(case.client.ask(&["SET", key, "1"]), Ok(()));
            }
            // One slot without an owner, and all nodes refuse everything.
            for node in 0..3 {
                let () = cluster.ask(node, &["CLUSTER", "DELSLOTS", &text]).unwrap();
            }
            wait_until("it is down", || {
                (0..3).all(|node| {
                    let info: String = cluster.ask(node, &["CLUSTER", "INFO"]).unwrap();
                    info.contains("cluster_state:fail")
                })
            });
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(MOVING);
                    let () = cluster.ask(0, &["CLUSTER", "ADDSLOTS", &text]).unwrap();
                });
                assert_eq!(case.client.ask(&["INCR", &keys[0]]), Ok(2));
                let mut mget = cmd("MGET");
                mget.arg(&keys);
                assert_eq!(case.client.command(&mget), Ok(vec![2, 1, 1]));
                assert_eq!(
                    case.client.query(pipe().atomic().incr(&keys[1], 1)),
                    Ok((2,))
                );
            });
            cluster.wait_until_agreed();
            assert_eq!(cluster.owner(gap), 0);
        });
    });
}

#[test]
fn requests_wait_while_a_primary_loads_its_data() {
    on_each_server(|server| {
        let builder =
            Cluster::builder(server).option(["--loading-process-events-interval-bytes", "1024"]);
        let cluster = builder.start(3, 0);
        each_client_of(&cluster, |case| {
            let cluster = case.cluster;
            let key = case.key("n");
            let value = "v".repeat(100);
            let mut fill = pipe();
            for number in 0..400 {
                fill.set(case.key(&number.to_string()), &value).ignore();
            }
            let () = case.client.query(&fill).unwrap();
            assert_eq!(case.client.ask(&["INCR", &key]), Ok(1));
            // In microseconds for each key.
            let () = cluster
                .ask(0, &["CONFIG", "SET", "key-load-delay", "1000"])
                .unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let () = cluster.ask(0, &["DEBUG", "RELOAD"]).unwrap();
                });
                cluster.reset_stats(0);
                wait_until("it loads", || {
                    cluster.errors(0, "LOADING") > 0 || {
                        cluster.ask::<Value>(0, &["GET", &key]).is_err()
                    }
                });
                assert_eq!(case.client.ask(&["INCR", &key]), Ok(2));
                assert_eq!(
                    case.client.query(pipe().incr(&key, 1).incr(&key, 1)),
                    Ok((3, 4))
                );
            });
            let () = cluster
                .ask(0, &["CONFIG", "SET", "key-load-delay", "0"])
                .unwrap();
            assert_eq!(case.client.ask(&["GET", &key]), Ok(4));
        });
    });
}

#[test]
fn moved_without_a_host_or_by_host_name_leads_to_the_node() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let set = |name: &str, value: &str| {
            for node in 0..3 {
                let () = cluster.ask(node, &["CONFIG", "SET", name, value]).unwrap();
            }
        };
        // An address in figures may be a name.
        set(
            "cluster-announce-hostname",
            &support::servers::own_address(),
        );
        for kind in ["unknown-endpoint", "hostname"] {
            set("cluster-preferred-endpoint-type", kind);
            let slot = cluster.own_slot(0);
            let key = key_in(slot, "k");
            let moved = cluster.ask::<Value>(1, &["GET", &key]).unwrap_err();
            assert_eq!(moved.code(), Some("MOVED"));
            let clients = AllClients::open(|| describe(&cluster));
            for (number, mut client) in clients.each().into_iter().enumerate() {
                assert_eq!(client.ask(&["INCR", &key]), Ok(number + 1), "{kind}");
            }
            cluster.move_slot(slot, 2);
            for mut client in clients.each() {
                assert!(client.ask::<i64>(&["INCR", &key]).is_ok(), "{kind}");
            }
            cluster.move_slot(slot, 0);
            let () = cluster.ask(0, &["SET", &key, "0"]).unwrap();
            let () = cluster.ask(0, &["DEL", &key]).unwrap();
        }
    });
}

/// Its outcome is unknown: to repeat it might do it twice.
#[test]
fn write_without_a_reply_in_time_is_unknown_and_not_called_unsent() {
    on_each_server(|server| {
        let builder = Cluster::builder(server).node_timeout(PATIENCE * 3);
        let cluster = builder.start(3, 0);
        let slot = cluster.own_slot(0);
        let describe = || describe(&cluster).response_timeout(MOVING);
        let clients = AllClients::open(describe);
        let mut expected = 0;
        for kind in KINDS {
            let (mut client, key) = (clients.of(kind), key_in(slot, "n"));
            for pipelined in [false, true] {
                expected += 2;
                assert_eq!(client.ask(&["INCR", &key]), Ok(expected - 1), "{kind:?}");
                cluster.pause(0);
                let outcome: RedisResult<Value> = match pipelined {
                    false => client.ask(&["INCR", &key]),
                    true => client.query(pipe().incr(&key, 1)),
                };
                let error = outcome.unwrap_err();
                cluster.resume(0);
                let is_unknown = match kind {
                    Kind::Proxy => error.to_string().contains("UNKNOWN"),
                    _ => ErrorKind::of(&error) == ErrorKind::Unknown,
                };
                assert!(is_unknown, "{kind:?}: {error}");
                // It was applied in the end.
                let done = || cluster.ask(0, &["GET", &key]) == Ok(Some(expected));
                wait_until("the node goes on", done);
            }
        }
    });
}

#[test]
fn one_living_seed_is_enough_and_seeds_may_be_replicas() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        let dead = (0..2).map(|_| format!("redis://{}:1/", support::servers::own_address()));
        for living in [1, 4] {
            let seeds: Vec<String> = dead.clone().chain([cluster.url(living)]).collect();
            let clients = AllClients::open(|| {
                ShardedClient::builder()
                    .cluster(seeds.clone())
                    .response_timeout(PATIENCE)
            });
            for mut client in clients.each() {
                for node in 0..3 {
                    let key = key_in(cluster.own_slot(node), "k");
                    assert_eq!(client.ask(&["INCR", &key]), Ok(1));
                }
                let names = client.topology().nodes().len();
                assert_eq!(names, 3);
            }
        }
        // None lives.
        let seeds: Vec<String> = dead.collect();
        let clients = AllClients::open(|| {
            let builder = ShardedClient::builder().cluster(seeds.clone());
            builder.response_timeout(Duration::from_millis(500))
        });
        for mut client in clients.each() {
            let start = Instant::now();
            let error = client.ask::<Value>(&["GET", "k"]).unwrap_err();
            assert!(
                error.is_io_error() || error.code() == Some("NODEDOWN"),
                "{error}"
            );
            assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        }
    });
}

/// Redis 7 and 8 say nil at a replica whose primary gives a slot away.
#[test]
fn nil_of_a_replica_is_not_believed_while_its_slot_moves() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        let clients = AllClients::open(|| {
            describe(&cluster)
                .discover_replicas()
                .read_from(redis_sharding::ReadFrom::Replica)
        });
        for kind in KINDS {
            let slot = cluster.own_slot(0);
            let keys = ["gone", "here"].map(|name| key_in(slot, name));
            let mut client = clients.of(kind);
            for key in &keys {
                assert_eq!(client.ask(&["SET", key, "v"]), Ok(()));
            }
            wait_until("reads go to the replica", || {
                // An error until a replica is known.
                let before = cluster.calls(3, "GET");
                let read = client.ask::<String>(&["GET", &keys[0]]);
                read.is_ok() && cluster.calls(3, "GET") > before
            });
            let moving = cluster.begin_move(slot, 1);
            moving.these_keys(&[&keys[0]]);
            wait_until("the replica has lost it", || {
                let mut replica = cluster.connection(3);
                let asked = pipe().cmd("READONLY").ignore().get(&keys[0]).clone();
                let asked: RedisResult<(Option<String>,)> = asked.query(&mut replica);
                asked != Ok((Some("v".to_owned()),))
            });
            for _ in 0..10 {
                for key in &keys {
                    assert_eq!(client.ask(&["GET", key]), Ok("v".to_owned()), "{kind:?}");
                }
                let mut mget = cmd("MGET");
                mget.arg(&keys);
                let both = vec!["v".to_owned(); 2];
                assert_eq!(client.command(&mget), Ok(both), "{kind:?}");
            }
            moving.all_keys();
            moving.end();
            for key in &keys {
                assert_eq!(client.ask(&["GET", key]), Ok("v".to_owned()), "{kind:?}");
            }
        }
    });
}

#[test]
fn atomic_migration_of_slots_shows_nothing_but_moved() {
    on_each_server(|server| {
        if !server.moves_atomically() {
            return;
        }
        let cluster = Cluster::start(server, 3, 0);
        each_client_of(&cluster, |case| {
            let keys: Vec<String> = (100..200).map(|slot| key_in(slot, "n")).collect();
            let ended = AtomicBool::new(false);
            let from = case.cluster.owner(100);
            let to = 1 - from;
            let mut delete = cmd("DEL");
            delete.arg(&keys);
            assert!(case.client.command::<i64>(&delete).is_ok());
            thread::scope(|scope| {
                scope.spawn(|| {
                    let end = support::all_clients::End(&ended);
                    thread::sleep(MOVING / 4);
                    case.cluster.migrate_slots(100..=199, to);
                    drop(end);
                });
                let mut rounds = 0_i64;
                while !ended.load(Ordering::Relaxed) {
                    rounds += 1;
                    let mut pipeline = pipe();
                    keys.iter().for_each(|key| {
                        pipeline.incr(key, 1);
                    });
                    assert_eq!(case.client.query(&pipeline), Ok(vec![rounds; 100]));
                    let mut mget = cmd("MGET");
                    mget.arg(&keys);
                    assert_eq!(case.client.command(&mget), Ok(vec![rounds; 100]));
                }
                println!("    {rounds} rounds");
            });
            assert_eq!(case.cluster.owner(150), to);
        });
    });
}
