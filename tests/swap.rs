//! The topology of a client is replaced while it is used: 500 times under load, with both clients and a proxy, and what
//! becomes of connections, subscribers, transactions, scans and node handles.
#![cfg(feature = "tokio-comp")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use redis::{AsyncCommands, Commands, RedisResult, Value, cmd, pipe};
use redis_sharding::hash::KeyHash;
use redis_sharding::partition::{HashMod, Ring};
use redis_sharding::{Builder, Ejection, Error, ErrorKind, Event, ShardedClient, Topology};
use support::Servers;
use support::all_clients::{AllClients, AnyClient, End, KINDS, Kind, Random};
use support::replicas::wait_until;
use support::servers::own_address;

const SERVERS: usize = 6;
const SWAPS: usize = 500;
/// Both are right, so that a topology may have either.
const PASSWORDS: [&str; 2] = ["one", "two"];
/// The name of the connections of the clients.
const NAME: &str = "swapped";

/// Servers with two addresses and two passwords each.
struct Fleet(Servers);

/// How a topology has a node.
#[derive(Clone, Copy)]
struct Entry {
    server: usize,
    weight: u32,
    address: usize,
    password: usize,
}

impl Entry {
    fn plain(server: usize) -> Self {
        Self {
            server,
            weight: 1,
            address: 0,
            password: 0,
        }
    }
}

impl Fleet {
    fn start(servers: usize) -> Option<Self> {
        let builder = Servers::builder().password(PASSWORDS[0]);
        let builder = builder.option(["--bind", &own_address(), "127.0.0.1"]);
        let servers = builder.start(servers)?;
        for server in 0..servers.len() {
            let mut add = cmd("ACL");
            let password = format!(">{}", PASSWORDS[1]);
            add.arg(&["SETUSER", "default", &password]);
            add.exec(&mut servers.connection(server)).unwrap();
        }
        Some(Self(servers))
    }

    fn address(&self, server: usize, address: usize) -> String {
        let first = self.0.addr(server);
        let (_, port) = first.rsplit_once(':').unwrap();
        [first.clone(), format!("127.0.0.1:{port}")][address].clone()
    }

    /// Nodes called `node-0`, `node-1`, ... after their servers.
    fn builder(&self, entries: &[Entry]) -> Builder {
        let builder = ShardedClient::builder().client_name(NAME);
        entries.iter().fold(builder, |builder, entry| {
            let name = format!("node-{}", entry.server);
            let address = self.address(entry.server, entry.address);
            let url = format!("redis://:{}@{address}/", PASSWORDS[entry.password]);
            builder.weighted_node(name, url, NonZeroU32::new(entry.weight).unwrap())
        })
    }

    fn topology(&self, entries: &[Entry]) -> Arc<Topology> {
        self.builder(entries).build().unwrap().topology()
    }

    fn all(&self) -> Vec<Entry> {
        (0..self.0.len()).map(Entry::plain).collect()
    }

    /// Some of the servers in any order, with any weights, addresses and passwords.
    fn any(&self, random: &mut Random) -> Vec<Entry> {
        let mut servers: Vec<usize> = (0..self.0.len()).collect();
        let count = 1 + random.below(servers.len());
        let mut chosen = Vec::new();
        while chosen.len() < count {
            let server = servers.swap_remove(random.below(servers.len()));
            chosen.push(Entry {
                server,
                weight: 1 + random.below(3) as u32,
                address: random.below(2),
                password: random.below(2),
            });
        }
        chosen
    }

    /// How many connections the clients have to a server.
    fn connections(&self, server: usize) -> usize {
        self.connection_ids(server).len()
    }

    fn connection_ids(&self, server: usize) -> BTreeSet<u64> {
        let mut list = cmd("CLIENT");
        let list: String = list
            .arg("LIST")
            .query(&mut self.0.connection(server))
            .unwrap();
        named_ids(&list)
    }

    /// Where every key is.
    fn keys(&self) -> HashMap<String, Vec<usize>> {
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        for server in 0..self.0.len() {
            let keys: Vec<String> = self.0.connection(server).keys("*").unwrap();
            for key in keys {
                places.entry(key).or_default().push(server);
            }
        }
        places
    }
}

/// The ids of the clients' connections in a CLIENT LIST.
fn named_ids(list: &str) -> BTreeSet<u64> {
    let name = format!(" name={NAME} ");
    let ours = list.lines().filter(|line| line.contains(&name));
    let id = |line: &str| {
        line.split_once("id=")
            .unwrap()
            .1
            .split_once(' ')
            .unwrap()
            .0
            .parse()
            .unwrap()
    };
    ours.map(id).collect()
}

fn server_of(topology: &Topology, key: &str) -> usize {
    let owner = topology
        .locate(key.as_bytes())
        .expect("every key has an owner");
    let name = topology.node(owner).name();
    name.strip_prefix("node-").unwrap().parse().unwrap()
}

/// Keys that one request has written, and the epochs in which it may have run.
struct Written {
    keys: Vec<String>,
    epochs: std::ops::RangeInclusive<u64>,
}

/// Requests of all kinds until the end; every one succeeds. Each key is written once.
fn write_until(end: &AtomicBool, client: &mut AnyClient, prefix: &str) -> Vec<Written> {
    let mut written = Vec::new();
    for number in 0.. {
        if end.load(Ordering::Relaxed) {
            break;
        }
        let keys: Vec<String> = (0..4).map(|at| format!("{prefix}:{number}:{at}")).collect();
        let first = client.topology().epoch();
        let (result, count) = match number % 5 {
            0 => {
                let mut mset = cmd("MSET");
                for key in &keys {
                    mset.arg(key).arg(1);
                }
                (client.command(&mset), 4)
            }
            1 => {
                let mut pipeline = pipe();
                for key in &keys {
                    pipeline.incr(key, 1).get(key);
                }
                let values = client.pipeline(&pipeline);
                let read = |values: Vec<Value>| {
                    // By one map from beginning to end.
                    assert_eq!(values[0], Value::Int(1));
                    assert_eq!(values[1], Value::BulkString(b"1".to_vec()));
                    Value::Okay
                };
                (values.map(read), 4)
            }
            2 => (client.ask(&["BLPOP", &keys[0], "0.001"]), 0),
            3 => {
                let (list, key) = (&keys[0], &keys[0]);
                let pushed = client.ask(&["RPUSH", list, "x"]);
                // It may have moved in the meantime, but it must be an answer.
                let length = client.ask(&["LLEN", key]).unwrap();
                assert!(matches!(length, Value::Int(0 | 1)), "{length:?}");
                (pushed, 1)
            }
            _ => (client.ask(&["SET", &keys[0], "1"]), 1),
        };
        let result = result.unwrap_or_else(|error| panic!("{prefix}, request {number}: {error}"));
        assert!(!matches!(result, Value::ServerError(_)));
        written.push(Written {
            epochs: first..=client.topology().epoch(),
            keys: keys[..count].to_vec(),
        });
        thread::sleep(Duration::from_millis(3));
    }
    written
}

#[test]
fn cache_is_given_500_topologies_under_load_without_an_error_a_leak_or_a_misplaced_key() {
    let Some(fleet) = Fleet::start(SERVERS) else {
        return;
    };
    let full = fleet.topology(&fleet.all());
    let clients = AllClients::open(|| fleet.builder(&fleet.all()).cache(Ejection::never()));
    // By epoch; all clients have the same sequence.
    let topologies = RwLock::new(vec![Arc::clone(&full)]);
    let swap = |topology: &Arc<Topology>| {
        topologies.write().unwrap().push(Arc::clone(topology));
        clients.set_topology(topology).unwrap();
    };
    let run = |name: &str, swaps: &dyn Fn()| -> Vec<Written> {
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..9)
                .map(|number| {
                    let mut client = clients.of(KINDS[number % 3]);
                    let (end, prefix) = (&end, format!("{name}:{:?}:{number}", KINDS[number % 3]));
                    scope.spawn(move || write_until(end, &mut client, &prefix))
                })
                .collect();
            let ended = End(&end);
            swaps();
            drop(ended);
            let written = workers.into_iter().map(|worker| worker.join().unwrap());
            written.flatten().collect()
        })
    };
    let counts = || -> Vec<usize> {
        (0..SERVERS)
            .map(|server| fleet.connections(server))
            .collect()
    };
    let calm = || thread::sleep(Duration::from_millis(500));
    let mut written = run("before", &calm);
    let before = counts();
    written.extend(run("during", &|| {
        let mut random = Random(12);
        for _ in 0..SWAPS {
            let builder = fleet.builder(&fleet.any(&mut random));
            // The others take long to place without optimization.
            let builder = match random.below(20) {
                0 => builder,
                1 | 2 => builder.partitioner(Ring::new()),
                _ => builder.partitioner(HashMod::new(KeyHash::Xxh3)),
            };
            swap(&builder.build().unwrap().topology());
            thread::sleep(Duration::from_millis(random.below(10) as u64));
        }
    }));
    // Nobody is connected to servers that have left.
    swap(&fleet.topology(&[Entry::plain(3)]));
    let alone = |count: usize, server: usize| server == 3 || count == 0;
    wait_until("connections to nodes that have left are closed", || {
        counts()
            .into_iter()
            .zip(0..)
            .all(|(count, server)| alone(count, server))
    });
    swap(&full);
    written.extend(run("after", &calm));
    let after = counts();
    println!("connections before {before:?}, after {after:?}");
    for (before, after) in before.iter().zip(&after) {
        // Three threads of the blocking client need one each, if they come at once.
        assert!(*after <= before + 3, "{before} before, {after} after");
    }
    check_places(&fleet, &written, &topologies.into_inner().unwrap());
    drop(clients);
    wait_until("a client that is dropped closes its connections", || {
        counts().iter().all(|&count| count == 0)
    });
}

/// Every key is at its owner by a topology of its request, and nowhere else.
fn check_places(fleet: &Fleet, written: &[Written], topologies: &[Arc<Topology>]) {
    let places = fleet.keys();
    let (mut keys, mut moved) = (0, 0);
    for Written { keys: own, epochs } in written {
        let found: Vec<usize> = own
            .iter()
            .map(|key| match &places.get(key).map(Vec::as_slice) {
                Some([server]) => *server,
                other => panic!("{key} is at the servers {other:?}"),
            })
            .collect();
        let fits = |epoch: &u64| {
            let topology = &topologies[*epoch as usize];
            own.iter()
                .zip(&found)
                .all(|(key, server)| server_of(topology, key) == *server)
        };
        assert!(
            epochs.clone().any(|epoch| fits(&epoch)),
            "{own:?} are at {found:?}, by none of the epochs {epochs:?}"
        );
        keys += own.len();
        moved += usize::from(!fits(epochs.end()));
    }
    println!(
        "{keys} keys of {} requests, {moved} of them by an older map",
        written.len()
    );
    assert_eq!(places.len(), keys, "no other key is anywhere");
    assert!(keys > 2000, "only {keys} keys were written");
}

#[test]
fn store_takes_addresses_and_passwords_under_load_and_refuses_another_placement() {
    let Some(fleet) = Fleet::start(4) else {
        return;
    };
    let clients = AllClients::open(|| fleet.builder(&fleet.all()));
    let (end, added) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|number| {
                let (mut client, end, added) = (clients.of(KINDS[number % 3]), &end, &added);
                scope.spawn(move || {
                    let mut random = Random(number as u64);
                    while !end.load(Ordering::Relaxed) {
                        let key = format!("counter:{}", random.below(20));
                        let _: u64 = client.ask(&["INCR", &key]).unwrap();
                        added.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let ended = End(&end);
        let mut random = Random(7);
        for _ in 0..100 {
            let mut entries = fleet.all();
            for entry in &mut entries {
                (entry.address, entry.password) = (random.below(2), random.below(2));
            }
            clients.set_topology(&fleet.topology(&entries)).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        drop(ended);
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
    });
    let mut sum = 0;
    for number in 0..20 {
        sum += clients
            .blocking
            .clone()
            .get::<_, u64>(format!("counter:{number}"))
            .unwrap();
    }
    assert_eq!(sum, added.into_inner());
    // What would move keys is refused, with how many.
    let current = clients.topologies();
    let mut lighter = fleet.all();
    lighter[1].weight = 2;
    let fewer = &fleet.all()[..3];
    let refused: [(&[Entry], _); 2] = [(&lighter, 50..400), (fewer, 150..350)];
    for (entries, expected) in refused {
        let topology = fleet.topology(entries);
        let results = [
            clients.blocking.set_topology(&topology),
            clients.tokio.set_topology(&topology),
            clients.proxy.proxy.set_topology(&topology),
        ];
        for result in results {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let text = error.to_string();
            let (before, _) = text
                .split_once(" of 1000 sample keys would move")
                .expect(&text);
            let count: usize = before.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(expected.contains(&count), "{text}");
            assert!(text.contains("Builder::cache"), "{text}");
            for password in PASSWORDS {
                assert!(!text.contains(&format!(":{password}@")));
            }
        }
    }
    for (before, after) in current.iter().zip(clients.topologies()) {
        assert!(
            Arc::ptr_eq(before, &after),
            "a refused topology changes nothing"
        );
    }
}

/// A cache over servers of one address and password each, all of them in the topology at first.
fn small(servers: usize) -> Option<(Fleet, AllClients)> {
    let fleet = Fleet::start(servers)?;
    let clients = AllClients::open(|| fleet.builder(&fleet.all()).cache(Ejection::never()));
    Some((fleet, clients))
}

/// A key that the first topology gives to one server and the second to another.
fn moving_key(first: &Topology, from: usize, second: &Topology, to: usize) -> String {
    let mut keys = (0..).map(|number| format!("moving:{number}"));
    let moves = |key: &String| (server_of(first, key), server_of(second, key)) == (from, to);
    keys.find(moves).unwrap()
}

/// A value that every server is asked for.
fn on_all_servers(fleet: &Fleet, key: &str) -> Vec<Option<String>> {
    let servers = 0..fleet.0.len();
    servers
        .map(|server| fleet.0.connection(server).get(key).unwrap())
        .collect()
}

#[test]
fn connections_of_nodes_that_stay_are_kept_and_those_with_another_password_replaced() {
    let Some((fleet, clients)) = small(3) else {
        return;
    };
    let mut users = clients.each();
    let mut use_all = || {
        for client in &mut users {
            let _: u64 = client.ask(&["DBSIZE"]).unwrap();
        }
    };
    let ids =
        || -> Vec<BTreeSet<u64>> { (0..3).map(|server| fleet.connection_ids(server)).collect() };
    use_all();
    let before = ids();
    assert!(before.iter().all(|ids| ids.len() >= 3), "{before:?}");
    // Other positions and weights.
    let mut entries = fleet.all();
    entries.reverse();
    entries[0].weight = 3;
    clients.set_topology(&fleet.topology(&entries)).unwrap();
    use_all();
    assert_eq!(ids(), before);
    // Without node 1, and with it again.
    clients
        .set_topology(&fleet.topology(&[Entry::plain(2), Entry::plain(0)]))
        .unwrap();
    use_all();
    wait_until("the connections to node 1 are closed", || {
        ids()[1].is_empty()
    });
    clients.set_topology(&fleet.topology(&fleet.all())).unwrap();
    use_all();
    let now = ids();
    assert_eq!((&now[0], &now[2]), (&before[0], &before[2]));
    assert!(now[1].len() >= 3, "{now:?}");
    // Another password, and the former one is not right any more.
    let mut entries = fleet.all();
    entries[2].password = 1;
    clients.set_topology(&fleet.topology(&entries)).unwrap();
    let mut remove = cmd("ACL");
    remove.arg(&["SETUSER", "default", "resetpass", ">two"]);
    remove.exec(&mut fleet.0.connection(2)).unwrap();
    use_all();
    wait_until(
        "the connections with the former password are closed",
        || {
            let url = format!("redis://:two@{}/", fleet.address(2, 0));
            let mut direct = redis::Client::open(url).unwrap().get_connection().unwrap();
            let list: String = cmd("CLIENT").arg("LIST").query(&mut direct).unwrap();
            let now = named_ids(&list);
            now.len() >= 3 && now.is_disjoint(&before[2])
        },
    );
}

#[test]
fn request_on_its_way_ends_by_its_map_and_its_connection_is_closed_then() {
    let Some((fleet, clients)) = small(2) else {
        return;
    };
    let (full, alone) = (
        clients.blocking.topology(),
        fleet.topology(&[Entry::plain(0)]),
    );
    let key = moving_key(&full, 1, &alone, 0);
    thread::scope(|scope| {
        let waiting: Vec<_> = clients
            .each()
            .into_iter()
            .map(|mut client| {
                let key = &key;
                scope.spawn(move || client.ask(&["BLPOP", key, "20"]))
            })
            .collect();
        let blocked = || {
            let mut info = cmd("INFO");
            let info: redis::InfoDict = info
                .arg("clients")
                .query(&mut fleet.0.connection(1))
                .unwrap();
            info.get::<usize>("blocked_clients").unwrap()
        };
        wait_until("all three wait", || blocked() == 3);
        clients.set_topology(&alone).unwrap();
        // Through the clients it is pushed to the new owner.
        for client in &mut clients.each() {
            let _: u64 = client.ask(&["RPUSH", &key, "new"]).unwrap();
        }
        assert_eq!(blocked(), 3);
        let () = fleet
            .0
            .connection(1)
            .rpush(&key, &["old", "old", "old"])
            .unwrap();
        for waiting in waiting {
            let popped = waiting.join().unwrap().unwrap();
            let (_, value): (String, String) = redis::from_redis_value(popped).unwrap();
            assert_eq!(value, "old");
        }
    });
    wait_until("their connections are closed", || fleet.connections(1) == 0);
    assert_eq!(fleet.0.connection(0).llen(&key), Ok(3));
}

#[test]
fn clones_and_handles_made_before_a_swap_go_by_the_new_topology() {
    let Some((fleet, clients)) = small(3) else {
        return;
    };
    let (full, fewer) = (
        clients.blocking.topology(),
        fleet.topology(&[Entry::plain(2), Entry::plain(0)]),
    );
    let key = moving_key(&full, 1, &fewer, 2);
    let timeout = Duration::from_secs(4);
    let mut blocking = [
        clients.blocking.clone(),
        clients.blocking.with_timeout(timeout),
    ];
    let mut tokio = [clients.tokio.clone(), clients.tokio.with_timeout(timeout)];
    let nodes: Vec<_> = clients.blocking.nodes().collect();
    let tokio_nodes: Vec<_> = clients.tokio.nodes().collect();
    clients.set_topology(&fewer).unwrap();
    for (number, client) in blocking.iter_mut().enumerate() {
        assert_eq!(client.topology().nodes().len(), 2);
        let () = client.set(&key, format!("blocking {number}")).unwrap();
        let expected = [None, None, Some(format!("blocking {number}"))];
        assert_eq!(on_all_servers(&fleet, &key), expected);
    }
    for (number, client) in tokio.iter_mut().enumerate() {
        let set = client.set(&key, format!("async {number}"));
        let () = clients.runtime.block_on(set).unwrap();
        let expected = [None, None, Some(format!("async {number}"))];
        assert_eq!(on_all_servers(&fleet, &key), expected);
    }
    // Handles of nodes: at their server, or told that it has left.
    for (server, mut node) in nodes.into_iter().enumerate() {
        let size: RedisResult<u64> = cmd("DBSIZE").query(&mut node);
        check_node(server, size);
    }
    for (server, mut node) in tokio_nodes.into_iter().enumerate() {
        let size = clients
            .runtime
            .block_on(cmd("DBSIZE").query_async(&mut node));
        check_node(server, size);
    }
}

fn check_node(server: usize, size: RedisResult<u64>) {
    match server {
        1 => {
            let error = size.unwrap_err();
            assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable);
            assert!(
                error.to_string().contains("node \"node-1\" is no longer"),
                "{error}"
            );
        }
        _ => assert_eq!(size, Ok(u64::from(server == 2))),
    }
}

#[test]
fn dedicated_connection_fails_when_its_keys_or_its_server_have_moved_and_not_otherwise() {
    let Some((fleet, clients)) = small(2) else {
        return;
    };
    let (full, alone) = (
        clients.blocking.topology(),
        fleet.topology(&[Entry::plain(0)]),
    );
    let key = moving_key(&full, 0, &alone, 0);
    let gone = moving_key(&full, 1, &alone, 0);
    let (client, tokio, runtime) = (&clients.blocking, &clients.tokio, &clients.runtime);
    let dedicated = |key: &str| client.dedicated(key).unwrap();
    let dedicated_async = |key: &str| runtime.block_on(tokio.dedicated(key)).unwrap();
    let mut of_keys = (dedicated(&key), dedicated_async(&key));
    let mut of_gone = (dedicated(&gone), dedicated_async(&gone));
    let mut of_node = (
        client.node("node-0").unwrap().dedicated().unwrap(),
        runtime
            .block_on(tokio.node("node-0").unwrap().dedicated())
            .unwrap(),
    );
    // The same placement, another password for the other node: nothing is lost.
    let mut entries = fleet.all();
    entries[1].password = 1;
    clients.set_topology(&fleet.topology(&entries)).unwrap();
    assert_eq!(of_keys.0.exists(&key), Ok(false));
    assert_eq!(runtime.block_on(of_keys.1.exists(&key)), Ok(false));
    let moved = |error: redis::RedisError| {
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
        let text = error.to_string();
        assert!(text.contains("the topology has changed"), "{text}");
    };
    moved(of_gone.0.set::<_, _, ()>(&gone, 1).unwrap_err());
    moved(
        runtime
            .block_on(of_gone.1.set::<_, _, ()>(&gone, 1))
            .unwrap_err(),
    );
    let mut of_gone = (dedicated(&gone), dedicated_async(&gone));
    clients.set_topology(&alone).unwrap();
    // Other keys of the connection may have come to this node or left it.
    moved(of_keys.0.set::<_, _, ()>(&key, 1).unwrap_err());
    moved(
        runtime
            .block_on(of_keys.1.set::<_, _, ()>(&key, 1))
            .unwrap_err(),
    );
    moved(of_gone.0.set::<_, _, ()>(&gone, 1).unwrap_err());
    moved(
        runtime
            .block_on(of_gone.1.set::<_, _, ()>(&gone, 1))
            .unwrap_err(),
    );
    // What belongs to a node stays.
    assert_eq!(of_node.0.set(&key, 1), Ok(()));
    assert_eq!(runtime.block_on(of_node.1.set(&key, 1)), Ok(()));
    assert_eq!(on_all_servers(&fleet, &gone), [None, None]);
    let mut other = Entry::plain(0);
    other.password = 1;
    clients.set_topology(&fleet.topology(&[other])).unwrap();
    moved(of_node.0.set::<_, _, ()>(&key, 1).unwrap_err());
    moved(
        runtime
            .block_on(of_node.1.set::<_, _, ()>(&key, 1))
            .unwrap_err(),
    );
}

#[test]
fn watched_transaction_over_a_swap_that_moves_its_keys_is_not_executed() {
    let Some((fleet, clients)) = small(2) else {
        return;
    };
    let (full, alone) = (
        fleet.topology(&fleet.all()),
        fleet.topology(&[Entry::plain(0)]),
    );
    let key = moving_key(&full, 1, &alone, 0);
    let mut transaction = pipe();
    transaction.atomic().set(&key, "done");
    // WATCH through the clients.
    for kind in [Kind::Blocking, Kind::Async] {
        clients.set_topology(&full).unwrap();
        let mut client = clients.of(kind);
        let _: Value = client.ask(&["WATCH", &key]).unwrap();
        clients.set_topology(&alone).unwrap();
        let error = client.pipeline(&transaction).unwrap_err();
        println!("{kind:?}: {error}");
        assert_eq!(on_all_servers(&fleet, &key), [None, None], "{kind:?}");
        // The handle is free again.
        client.pipeline(&transaction).unwrap();
        assert_eq!(
            on_all_servers(&fleet, &key),
            [Some("done".to_owned()), None]
        );
        let _: Value = client.ask(&["DEL", &key]).unwrap();
    }
    // MULTI, and WATCH before it, through the proxy.
    for watch in [false, true] {
        clients.set_topology(&full).unwrap();
        let mut talk = clients.proxy.talk();
        if watch {
            assert_eq!(talk.ask(&format!("WATCH {key}")), "+OK");
        } else {
            assert_eq!(talk.ask("MULTI"), "+OK");
            assert_eq!(talk.ask(&format!("SET {key} done")), "+QUEUED");
        }
        clients.set_topology(&alone).unwrap();
        if watch {
            assert_eq!(talk.ask("MULTI"), "+OK");
            assert_eq!(talk.ask(&format!("SET {key} done")), "+QUEUED");
        }
        let reply = talk.ask("EXEC");
        // As if another client had written to the watched key: programs begin again.
        match watch {
            true => assert_eq!(reply, "*-1"),
            false => assert!(reply.starts_with("-EXECABORT"), "{reply}"),
        }
        assert_eq!(on_all_servers(&fleet, &key), [None, None]);
        assert_eq!(talk.ask(&format!("SET {key} later")), "+OK");
        assert_eq!(
            on_all_servers(&fleet, &key),
            [Some("later".to_owned()), None]
        );
        assert_eq!(talk.ask(&format!("DEL {key}")), ":1");
    }
    // `transaction` of the clients.
    clients.set_topology(&full).unwrap();
    let result: RedisResult<Vec<Value>> = clients.blocking.transaction(&key, |connection, pipe| {
        clients.set_topology(&alone).unwrap();
        pipe.set(&key, "done").query(connection)
    });
    assert_eq!(ErrorKind::of(&result.unwrap_err()), ErrorKind::NodeDown);
    assert_eq!(on_all_servers(&fleet, &key), [None, None]);
}

#[test]
fn scan_over_a_swap_goes_on_with_the_same_placement_and_ends_with_an_error_otherwise() {
    let Some((fleet, clients)) = small(3) else {
        return;
    };
    let mut client = clients.blocking.clone();
    let names: BTreeSet<String> = (0..500).map(|number| format!("key:{number}")).collect();
    let pairs: Vec<(&String, i32)> = names.iter().map(|name| (name, 1)).collect();
    let () = client.mset(&pairs).unwrap();
    let mut readdressed = fleet.all();
    for entry in &mut readdressed {
        (entry.address, entry.password) = (1, 1);
    }
    for (entries, same) in [(readdressed, true), (fleet.all()[..2].to_vec(), false)] {
        clients.set_topology(&fleet.topology(&fleet.all())).unwrap();
        let mut scan = client.scan_all();
        let first: Vec<Result<Vec<u8>, Error>> = scan.by_ref().take(150).collect();
        clients.set_topology(&fleet.topology(&entries)).unwrap();
        let all: Result<BTreeSet<Vec<u8>>, Error> = first.into_iter().chain(scan).collect();
        match all {
            Ok(all) if same => {
                let names = names.iter().map(|name| name.clone().into_bytes());
                assert_eq!(all, names.collect());
            }
            Err(error) if !same => {
                assert_eq!(error.kind(), ErrorKind::Config);
                assert!(error.to_string().contains("another topology"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Receives messages until it is dropped, as `channel payload`.
struct Received(std::sync::mpsc::Receiver<String>);

impl Received {
    fn is_received(&self, text: &str) -> bool {
        self.0.try_iter().any(|received| received == text)
    }
}

fn text_of(event: Event) -> Option<String> {
    let Event::Message(message) = event else {
        return None;
    };
    let [channel, payload] =
        [message.channel, message.payload].map(|part| String::from_utf8(part).unwrap());
    Some(format!("{channel} {payload}"))
}

/// Subscribers of both clients and of the proxy, to one channel and one pattern each.
fn subscribed(clients: &AllClients, channel: &str, pattern: &str) -> [Received; 3] {
    let (channel, pattern) = (channel.to_owned(), pattern.to_owned());
    let mut blocking = clients.blocking.subscriber();
    blocking.subscribe(&channel).unwrap();
    blocking.psubscribe(&pattern).unwrap();
    let (send, received) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for event in blocking.by_ref() {
            if let Some(text) = text_of(event)
                && send.send(text).is_err()
            {
                break;
            }
        }
    });
    let mut tokio = clients.tokio.subscriber();
    clients.runtime.block_on(async {
        tokio.subscribe(&channel).await.unwrap();
        tokio.psubscribe(&pattern).await.unwrap();
    });
    let (send, received_async) = std::sync::mpsc::channel();
    clients.runtime.spawn(async move {
        while let Some(event) = tokio.next_event(None).await {
            if let Some(text) = text_of(event)
                && send.send(text).is_err()
            {
                break;
            }
        }
    });
    let client = redis::Client::open(format!("redis://{}/", clients.proxy.address())).unwrap();
    let (send, received_by_proxy) = std::sync::mpsc::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || {
        // When messages may have been missed, the proxy closes the connection, and the program subscribes again.
        while let Ok(mut connection) = client.get_connection() {
            let mut subscriber = connection.as_pubsub();
            subscriber.subscribe(&channel).unwrap();
            subscriber.psubscribe(&pattern).unwrap();
            let _ = ready.send(());
            while let Ok(message) = subscriber.get_message() {
                let payload: String = message.get_payload().unwrap();
                let text = format!("{} {payload}", message.get_channel_name());
                if send.send(text).is_err() {
                    return;
                }
            }
        }
    });
    is_ready.recv().unwrap();
    [received, received_async, received_by_proxy].map(Received)
}

#[test]
fn subscribers_receive_what_is_published_by_the_new_topology() {
    let Some((fleet, clients)) = small(3) else {
        return;
    };
    let (full, fewer) = (
        fleet.topology(&fleet.all()),
        fleet.topology(&[Entry::plain(2), Entry::plain(0)]),
    );
    let channel = moving_key(&full, 1, &fewer, 2);
    let matched = moving_key(&full, 1, &fewer, 0).replace("moving", "{moving}");
    let pattern = "{moving}*";
    let received = subscribed(&clients, &channel, pattern);
    let mut readdressed = fleet.all();
    for entry in &mut readdressed {
        (entry.address, entry.password) = (1, 1);
    }
    for (round, topology) in [&full, &fewer, &full, &fleet.topology(&readdressed)]
        .into_iter()
        .enumerate()
    {
        clients.set_topology(topology).unwrap();
        for (kind, received) in KINDS.into_iter().zip(&received) {
            for channel in [&channel, &matched] {
                let what = format!("round {round}: {kind:?} receives messages of {channel}");
                let mut number = 0;
                wait_until(&what, || {
                    number += 1;
                    let text = format!("{round}:{number}");
                    let _: u64 = clients.blocking.clone().publish(channel, &text).unwrap();
                    thread::sleep(Duration::from_millis(20));
                    received.is_received(&format!("{channel} {text}"))
                });
            }
        }
        for received in &received {
            received.0.try_iter().for_each(drop);
        }
        // Each message comes once.
        for channel in [&channel, &matched] {
            let _: u64 = clients.blocking.clone().publish(channel, "once").unwrap();
        }
        thread::sleep(Duration::from_millis(100));
        for (kind, received) in KINDS.into_iter().zip(&received) {
            let texts: BTreeSet<String> = [&channel, &matched]
                .map(|channel| format!("{channel} once"))
                .into();
            let mut came: Vec<String> = received.0.try_iter().collect();
            came.sort_unstable();
            assert_eq!(
                came,
                texts.into_iter().collect::<Vec<_>>(),
                "round {round}: {kind:?}"
            );
        }
        if topology.nodes().len() == 2 {
            wait_until("nobody is subscribed at a node that has left", || {
                fleet.connections(1) == 0
            });
        }
    }
}
