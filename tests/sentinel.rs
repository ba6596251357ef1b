//! Nodes whose addresses real Sentinels know, through both clients and the proxy.
#![cfg(feature = "tokio-comp")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike as _;
use redis::{Commands, RedisResult, Value, cmd};
use redis_sharding::{
    Builder, ClientEvent, ErrorKind, Event, RetryPolicy, Sentinel, SentinelMaster, ShardedClient,
    Topology,
};
use support::cut::{Cut, Mode};
use support::replicas::{Role, wait_until};
use support::{ReplicaSet, Sentinels, Servers};

/// What may pass, at most, from a switch by the Sentinels to the first write that the new primary acknowledges.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// What may pass from a switch to the end of a request that the former primary has received and never replies to. Far less
/// than the time that the request has.
const RECEIVED_WITHIN: Duration = Duration::from_secs(6);

/// A primary with two replicas, and three Sentinels.
fn start() -> Option<(ReplicaSet, Sentinels)> {
    let set = ReplicaSet::start(2)?;
    let sentinels = Sentinels::builder().watch("users-a", &set).start(3);
    Some((set, sentinels))
}

fn builder(sentinels: &Sentinels) -> Builder {
    patient(ShardedClient::builder()).sentinel(sentinels.urls(), "users-a")
}

/// With requests that wait for a new primary.
fn patient(builder: Builder) -> Builder {
    let retry = RetryPolicy::attempts(1000)
        .with_backoff(Duration::from_millis(10), Duration::from_millis(100));
    builder
        .retry(retry)
        .response_timeout(Duration::from_secs(15))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The events of a client that are of interest here: from and to where its primary moved.
#[derive(Clone, Default)]
struct Moves(Arc<Mutex<Vec<(String, String, String)>>>);

impl Moves {
    fn of(self, builder: Builder) -> Builder {
        builder.on_event(move |event| {
            if let ClientEvent::PrimaryChanged { node, from, to, .. } = event {
                let moved = (node.name().to_owned(), from.clone(), to.clone());
                self.0.lock().unwrap().push(moved);
            }
        })
    }

    fn all(&self) -> Vec<(String, String, String)> {
        self.0.lock().unwrap().clone()
    }
}

/// The address that a client has for a node.
fn address(client: &ShardedClient, node: &str) -> String {
    client.health().node(node).unwrap().address.clone()
}

/// A value of INFO of a server, by a connection of the test.
fn get(set: &ReplicaSet, index: usize, key: &str) -> Option<String> {
    set.connection(index).get(key).unwrap()
}

/// Writes a key.
type Write = Box<dyn FnMut(&str) -> RedisResult<()> + Send>;

/// Counts with one client while a test does something to the servers: each write has a key of its own, so that it can be
/// asked for afterwards where it is.
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    /// When each acknowledged write began and ended.
    acknowledged: Arc<Mutex<Vec<(Instant, Instant, String)>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Writers {
    fn start(write: Vec<Write>) -> Self {
        let mut writers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            acknowledged: Arc::default(),
            errors: Arc::default(),
        };
        for (number, mut write) in write.into_iter().enumerate() {
            let stop = Arc::clone(&writers.stop);
            let acknowledged = Arc::clone(&writers.acknowledged);
            let errors = Arc::clone(&writers.errors);
            writers.threads.push(thread::spawn(move || {
                for count in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("w{number}:{count}");
                    let began = Instant::now();
                    match write(&key) {
                        Ok(()) => acknowledged
                            .lock()
                            .unwrap()
                            .push((began, Instant::now(), key)),
                        Err(error) => errors.lock().unwrap().push(error.to_string()),
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }));
        }
        writers
    }

    /// Two blocking threads, two on tokio, and two clients of a proxy.
    fn of_all_kinds(
        build: impl Fn() -> Builder,
        runtime: &tokio::runtime::Runtime,
    ) -> (Self, Vec<support::local_proxy::LocalProxy>) {
        let client = build().build().unwrap();
        let on_tokio = build().build_async().unwrap();
        let proxy = support::local_proxy::LocalProxy::open(build());
        let mut writes: Vec<Write> = Vec::new();
        for _ in 0..2 {
            let mut client = client.clone();
            writes.push(Box::new(move |key| client.set(key, 1)));
            let (mut client, handle) = (on_tokio.clone(), runtime.handle().clone());
            writes.push(Box::new(move |key| {
                let write = cmd("SET").arg(key).arg(1).clone();
                handle
                    .block_on(async { client.req_packed_command(&write).await })
                    .map(drop)
            }));
            let url = format!("redis://{}/", proxy.address());
            let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
            writes.push(Box::new(move |key| connection.set(key, 1)));
        }
        (Self::start(writes), vec![proxy])
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn wait_for(&self, more: usize) {
        let before = self.count();
        wait_until("writes", || self.count() >= before + more);
    }

    /// The end of the first write after this time that every one of them has made.
    fn all_back_at(&self, since: Instant) -> Instant {
        let mut first: BTreeMap<String, Instant> = BTreeMap::new();
        for (_, ended, key) in self.acknowledged.lock().unwrap().iter() {
            if *ended >= since {
                let writer = key.split(':').next().unwrap().to_owned();
                first.entry(writer).or_insert(*ended);
            }
        }
        assert_eq!(
            first.len(),
            self.threads.len(),
            "a writer has not come back"
        );
        *first.values().max().unwrap()
    }

    fn finish(self) -> (Vec<(Instant, Instant, String)>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let errors = self.errors.lock().unwrap().clone();
        (acknowledged, errors)
    }
}

#[test]
fn node_behind_sentinel_is_served_by_the_primary_that_sentinel_names() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let mut client = builder(&sentinels).build().unwrap();
    // Nothing is contacted before the first command.
    let configured = format!(
        "users-a@{}",
        (0..3)
            .map(|at| sentinels.addr(at))
            .collect::<Vec<_>>()
            .join(",")
    );
    assert_eq!(address(&client, "users-a"), configured);
    assert_eq!(client.topology().nodes()[0].address(), configured);
    let () = client.set("k", "v").unwrap();
    assert_eq!(get(&set, 0, "k").as_deref(), Some("v"));
    assert_eq!(address(&client, "users-a"), set.addr(0));
    // Each connection to a primary has checked its role.
    let made = |set: &ReplicaSet| set.calls(0, "role");
    assert!(made(&set) >= 1);
    let runtime = runtime();
    runtime.block_on(async {
        let mut client = builder(&sentinels).build_async().unwrap();
        let value: String = redis::cmd("GET")
            .arg("k")
            .query_async(&mut client)
            .await
            .unwrap();
        assert_eq!(value, "v");
    });
}

#[test]
fn killed_primary_costs_the_failover_of_sentinel_and_at_most_a_second_more() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let runtime = runtime();
    let moves = Moves::default();
    let (writers, _proxy) =
        Writers::of_all_kinds(|| moves.clone().of(builder(&sentinels)), &runtime);
    writers.wait_for(100);
    let (events, since) = (sentinels.events(), Instant::now());
    set.kill(0);
    let switch = events.wait_for_switch("users-a", since);
    thread::sleep(BACK_WITHIN);
    let back = writers.all_back_at(switch.at);
    assert!(back <= switch.at + BACK_WITHIN, "{:?}", back - switch.at);
    writers.wait_for(100);
    let (acknowledged, errors) = writers.finish();
    // Writes without a reply are unknown; all others have waited.
    for error in &errors {
        assert!(
            error.contains("may or may not have been applied"),
            "{error}"
        );
    }
    let now = set.index_of(&switch.to).unwrap();
    for (began, _, key) in &acknowledged {
        if *began > switch.at {
            assert!(get(&set, now, key).is_some(), "{key}");
        }
    }
    // One event for each family of handles, with both addresses.
    let expected = ("users-a".to_owned(), set.addr(0), switch.to.clone());
    let moves = moves.all();
    assert_eq!(moves, vec![expected; 3], "{moves:?}");
}

#[test]
fn failover_by_command_under_load_costs_no_write_that_was_acknowledged_after_it() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let runtime = runtime();
    let (writers, _proxy) = Writers::of_all_kinds(|| builder(&sentinels), &runtime);
    writers.wait_for(100);
    for _ in 0..2 {
        let (events, since) = (sentinels.events(), Instant::now());
        sentinels.failover("users-a");
        let switch = events.wait_for_switch("users-a", since);
        thread::sleep(BACK_WITHIN);
        assert!(writers.all_back_at(switch.at) <= switch.at + BACK_WITHIN);
        let primary = set.index_of(&switch.to).unwrap();
        wait_until("the others follow", || set.primaries() == [primary]);
        sentinels.wait_until_agreed("users-a", &switch.to, 2);
        // Whatever was acknowledged after that is on the new primary, and nothing on the former one.
        let from = writers.count();
        let settled = Instant::now();
        writers.wait_for(50);
        let keys: Vec<String> = {
            let all = writers.acknowledged.lock().unwrap();
            all[from..]
                .iter()
                .filter(|(began, ..)| *began > settled)
                .map(|(_, _, key)| key.clone())
                .collect()
        };
        assert!(!keys.is_empty());
        for key in keys {
            assert!(get(&set, primary, &key).is_some(), "{key}");
        }
    }
    let (_, errors) = writers.finish();
    for error in &errors {
        assert!(
            error.contains("may or may not have been applied"),
            "{error}"
        );
    }
}

#[test]
fn primary_that_was_stopped_and_returns_as_a_stale_primary_is_not_written_to() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    // Clients with connections to the primary that they do not use while it is stopped.
    let mut client = builder(&sentinels).build().unwrap();
    let () = client.set("before", 1).unwrap();
    let runtime = runtime();
    let mut on_tokio = builder(&sentinels).build_async().unwrap();
    let write = |key: &str| cmd("SET").arg(key).arg(1).clone();
    let set_on_tokio = |client: &mut redis_sharding::aio::ShardedClient, key: &str| {
        runtime.block_on(async { client.req_packed_command(&write(key)).await })
    };
    set_on_tokio(&mut on_tokio, "before").unwrap();
    let proxy = support::local_proxy::LocalProxy::open(builder(&sentinels));
    let url = format!("redis://{}/", proxy.address());
    let mut proxied = redis::Client::open(url).unwrap().get_connection().unwrap();
    let () = proxied.set("before", 1).unwrap();
    let (events, since) = (sentinels.events(), Instant::now());
    set.pause(0);
    let switch = events.wait_for_switch("users-a", since);
    thread::sleep(BACK_WITHIN);
    // Cut off from the Sentinels it would stay a primary: so these are stopped before it goes on.
    (0..3).for_each(|at| sentinels.pause(at));
    set.resume(0);
    wait_until("it replies", || set.role(0).is_ok());
    assert_eq!(set.role(0), Ok(Role::Primary), "it is stale");
    let () = client.set("blocking", 1).unwrap();
    set_on_tokio(&mut on_tokio, "tokio").unwrap();
    let () = proxied.set("proxy", 1).unwrap();
    let new = set.index_of(&switch.to).unwrap();
    for key in ["blocking", "tokio", "proxy"] {
        assert_eq!(get(&set, 0, key), None, "{key}");
        assert_eq!(get(&set, new, key).as_deref(), Some("1"), "{key}");
    }
    (0..3).for_each(|at| sentinels.resume(at));
}

#[test]
fn subscribers_move_to_the_new_primary_with_disconnected_and_missed_events() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let client = builder(&sentinels).build().unwrap();
    let mut blocking = client.subscriber();
    blocking.subscribe("news").unwrap();
    let runtime = runtime();
    let on_tokio = builder(&sentinels).build_async().unwrap();
    let mut subscriber = runtime.block_on(async {
        let mut subscriber = on_tokio.subscriber();
        subscriber.subscribe("news").await.unwrap();
        subscriber
    });
    let (events, since) = (sentinels.events(), Instant::now());
    // Stopped, not killed: its connections stay open, and only the switch shows that they are of no use.
    set.pause(0);
    let switch = events.wait_for_switch("users-a", since);
    let next = |wanted: &str, event: Option<Event>| {
        let event = event.unwrap_or_else(|| panic!("no {wanted}"));
        assert!(format!("{event:?}").starts_with(wanted), "{event:?}");
    };
    for wanted in ["Disconnected", "Missed"] {
        next(wanted, blocking.next_event(Duration::from_secs(3)));
        let event = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(3), subscriber.next_event(None)).await
        });
        next(wanted, event.ok().flatten());
    }
    let new = set.index_of(&switch.to).unwrap();
    let receivers: u32 = set.connection(new).publish("news", "hello").unwrap();
    assert_eq!(receivers, 2);
    next("Message", blocking.next_event(Duration::from_secs(3)));
    let event = runtime.block_on(subscriber.next_event(Duration::from_secs(3)));
    next("Message", event);
    set.resume(0);
}

#[test]
fn dedicated_connection_to_a_former_primary_refuses_its_next_command() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let client = builder(&sentinels).build().unwrap();
    let mut dedicated = client.dedicated("k").unwrap();
    let () = cmd("WATCH").arg("k").query(&mut dedicated).unwrap();
    let runtime = runtime();
    let on_tokio = builder(&sentinels).build_async().unwrap();
    let mut on_tokio = runtime.block_on(async {
        let mut dedicated = on_tokio.dedicated("k").await.unwrap();
        let () = cmd("WATCH")
            .arg("k")
            .query_async(&mut dedicated)
            .await
            .unwrap();
        dedicated
    });
    let (events, since) = (sentinels.events(), Instant::now());
    set.pause(0);
    let switch = events.wait_for_switch("users-a", since);
    thread::sleep(BACK_WITHIN);
    let refused = |error: redis::RedisError| {
        assert!(error.to_string().contains("another primary now"), "{error}");
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown);
    };
    // At once, though the former primary does not reply.
    let began = Instant::now();
    refused(cmd("SET").arg("k").arg(1).exec(&mut dedicated).unwrap_err());
    let write = cmd("SET").arg("k").arg(1).clone();
    refused(
        runtime
            .block_on(async { on_tokio.req_packed_command(&write).await })
            .unwrap_err(),
    );
    assert!(began.elapsed() < Duration::from_secs(1));
    set.resume(0);
    let new = set.index_of(&switch.to).unwrap();
    assert_eq!(get(&set, new, "k"), None);
    let mut again = client.dedicated("k").unwrap();
    let () = cmd("SET").arg("k").arg(2).query(&mut again).unwrap();
    assert_eq!(get(&set, new, "k").as_deref(), Some("2"));
}

#[test]
fn requests_that_a_stopped_primary_has_received_end_soon_after_the_switch() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let mut client = builder(&sentinels).build().unwrap();
    let () = client.set("k", "v").unwrap();
    set.wait_until_linked(0);
    let on_tokio = builder(&sentinels).build_async().unwrap();
    let runtime = runtime();
    let request = |words: &[&str]| {
        let mut request = cmd(words[0]);
        request.arg(&words[1..]);
        request
    };
    let (pop, read) = (request(&["BLPOP", "list", "30"]), request(&["GET", "k"]));
    type Reply = (RedisResult<Value>, Instant);
    let mut waiting: Vec<(&str, thread::JoinHandle<Reply>)> = Vec::new();
    let mut begin = |name, request: &redis::Cmd| {
        let (mut client, sent) = (client.clone(), request.clone());
        let blocking = thread::spawn(move || {
            let reply = redis::ConnectionLike::req_command(&mut client, &sent);
            (reply, Instant::now())
        });
        let (mut client, sent, handle) =
            (on_tokio.clone(), request.clone(), runtime.handle().clone());
        let task = thread::spawn(move || {
            let reply = handle.block_on(async { client.req_packed_command(&sent).await });
            (reply, Instant::now())
        });
        waiting.extend([(name, blocking), (name, task)]);
    };
    begin("BLPOP", &pop);
    wait_until("both wait", || {
        let list: String = cmd("CLIENT")
            .arg("LIST")
            .query(&mut set.connection(0))
            .unwrap();
        list.matches("cmd=blpop").count() == 2
    });
    let (events, since) = (sentinels.events(), Instant::now());
    set.pause(0);
    begin("GET", &read);
    let switch = events.wait_for_switch("users-a", since);
    for (name, waiting) in waiting {
        let (reply, ended) = waiting.join().unwrap();
        assert!(
            ended <= switch.at + RECEIVED_WITHIN,
            "{name}: {:?}",
            ended - switch.at
        );
        match name {
            // It may have taken an element.
            "BLPOP" => assert_eq!(ErrorKind::of(&reply.unwrap_err()), ErrorKind::Unknown),
            // Sent again.
            _ => assert_eq!(reply.unwrap(), Value::BulkString(b"v".to_vec())),
        }
    }
    set.resume(0);
}

#[test]
fn topology_may_move_a_node_behind_sentinel_and_back_under_a_running_client() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let text = |address: &str| {
        let text =
            format!("redis-sharding topology 1\nplacement rendezvous/1\nnode users-a {address}\n");
        Topology::parse(&text).unwrap()
    };
    let hosts: Vec<String> = (0..3).map(|at| sentinels.addr(at)).collect();
    let behind = text(&format!("redis-sentinel://{}#users-a", hosts.join(",")));
    let fixed = text(&set.addr(0));
    let moves = Moves::default();
    let mut client = moves
        .clone()
        .of(patient(ShardedClient::builder()).topology(&fixed))
        .build()
        .unwrap();
    let () = client.set("k", 1).unwrap();
    client.set_topology(&behind).unwrap();
    let () = client.set("k", 2).unwrap();
    assert_eq!(address(&client, "users-a"), set.addr(0));
    // The same again keeps the connections: no address is asked for anew.
    let roles = set.calls(0, "role");
    client.set_topology(&behind).unwrap();
    let () = client.set("k", 3).unwrap();
    assert_eq!(set.calls(0, "role"), roles);
    sentinels.failover("users-a");
    wait_until("the failover", || {
        address(&client, "users-a") != set.addr(0)
    });
    let () = client.set("k", 4).unwrap();
    assert_eq!(moves.all().len(), 1);
    client
        .set_topology(&text(&sentinels.primary("users-a")))
        .unwrap();
    let value: i64 = client.get("k").unwrap();
    assert_eq!(value, 4);
    assert_eq!(address(&client, "users-a"), sentinels.primary("users-a"));
}

#[test]
fn values_larger_than_a_proxy_keeps_are_forwarded_to_and_from_the_primary() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let proxy = support::local_proxy::LocalProxy::open(builder(&sentinels));
    let url = format!("redis://{}/", proxy.address());
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let value = vec![b'x'; 100 << 20];
    let () = connection.set("large", &value).unwrap();
    let length: usize = set.connection(0).strlen("large").unwrap();
    assert_eq!(length, value.len());
    let read: Vec<u8> = connection.get("large").unwrap();
    assert_eq!(read.len(), value.len());
}

#[test]
fn killed_sentinel_is_replaced_by_another_as_the_source_of_announcements() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    // Only the first is given; it names the others.
    let mut client = patient(ShardedClient::builder())
        .sentinel([sentinels.url(0)], "users-a")
        .build()
        .unwrap();
    let () = client.set("k", 1).unwrap();
    sentinels.kill(0);
    let () = client.set("k", 2).unwrap();
    let (events, since) = (sentinels.events(), Instant::now());
    set.kill(0);
    let switch = events.wait_for_switch("users-a", since);
    let () = client.set("k", 3).unwrap();
    assert!(Instant::now() <= switch.at + BACK_WITHIN);
    assert_eq!(address(&client, "users-a"), switch.to);
}

#[test]
fn sentinel_that_is_cut_off_and_names_the_former_primary_is_not_believed() {
    let Some(set) = ReplicaSet::start(2) else {
        return;
    };
    let sentinels = Sentinels::builder().watch("users-a", &set).cuts().start(3);
    // Stopped during the failover, the first one knows nothing of it; let on later, it is cut off from the rest, and asked
    // directly by the client.
    sentinels.pause(0);
    let (events, since) = (sentinels.events(), Instant::now());
    sentinels_failover(&sentinels, &[1, 2]);
    let switch = events.wait_for_switch("users-a", since);
    let new = set.index_of(&switch.to).unwrap();
    for (at, others) in [(0, [1, 2]), (0, [2, 1])] {
        let lagging = sentinels.addr(at);
        let urls: Vec<String> = [at, others[0], others[1]]
            .map(|at| sentinels.url(at))
            .to_vec();
        let fake = LaggingSentinel::start(&set.addr(0));
        assert_ne!(fake.addr(), lagging);
        let urls: Vec<String> = [fake.url()].into_iter().chain(urls).collect();
        let moves = Moves::default();
        let mut client = moves
            .clone()
            .of(patient(ShardedClient::builder()).sentinel(urls, "users-a"))
            .build()
            .unwrap();
        let () = client.set("k", 1).unwrap();
        assert_eq!(address(&client, "users-a"), switch.to);
        assert!(fake.asked() >= 1);
        // It announces what it believes, again and again.
        for _ in 0..20 {
            fake.announce(&switch.to, &set.addr(0));
            thread::sleep(Duration::from_millis(50));
            let () = client.set("k", 2).unwrap();
            assert_eq!(address(&client, "users-a"), switch.to);
        }
        assert_eq!(moves.all(), []);
    }
    assert_eq!(get(&set, new, "k").as_deref(), Some("2"));
    sentinels.resume(0);
}

/// Asks one of these Sentinels for a failover.
fn sentinels_failover(sentinels: &Sentinels, among: &[usize]) {
    wait_until("SENTINEL FAILOVER", || {
        among.iter().any(|&index| {
            let connection = sentinels.connection(index);
            connection.is_ok_and(|mut connection| {
                cmd("SENTINEL")
                    .arg("FAILOVER")
                    .arg("users-a")
                    .exec(&mut connection)
                    .is_ok()
            })
        })
    });
}

#[test]
fn passwords_and_tls_of_sentinels_and_nodes_are_apart() {
    let Some((set, sentinels)) = ({
        let set = ReplicaSet::builder().password("of-the-nodes").start(1);
        set.map(|set| {
            let builder = Sentinels::builder().password("of-the-sentinels");
            // Leaked, as the sentinels borrow nothing after they are started.
            let sentinels = builder.watch("users-a", &set).start(3);
            (set, sentinels)
        })
    }) else {
        return;
    };
    let bare: Vec<String> = (0..3)
        .map(|at| format!("redis://{}/", sentinels.addr(at)))
        .collect();
    let group = Sentinel::new(bare.clone())
        .with_password("of-the-sentinels")
        .with_node("redis://:of-the-nodes@nowhere/");
    let mut client = patient(ShardedClient::builder())
        .sentinel_nodes(group, ["users-a"])
        .build()
        .unwrap();
    let () = client.set("k", 1).unwrap();
    sentinels.failover("users-a");
    wait_until("the failover", || {
        address(&client, "users-a") == set.addr(1)
    });
    let () = client.set("k", 2).unwrap();
    // The password of the nodes by the builder, those of the Sentinels in their URLs.
    let mut client = builder(&sentinels)
        .password("of-the-nodes")
        .build()
        .unwrap();
    let value: i64 = client.get("k").unwrap();
    assert_eq!(value, 2);
    // Neither is shown to the other kind.
    let mut client = ShardedClient::builder()
        .sentinel(bare, "users-a")
        .password("of-the-nodes")
        .build()
        .unwrap();
    let error = client.get::<_, Option<i64>>("k").unwrap_err();
    assert!(
        error.to_string().contains("Sentinel::with_password"),
        "{error}"
    );
    let mut client = ShardedClient::builder()
        .sentinel(sentinels.urls(), "users-a")
        .build()
        .unwrap();
    let error = client.get::<_, Option<i64>>("k").unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Auth);
    assert!(!error.to_string().contains("of-the-"), "{error}");
}

#[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
#[test]
fn sentinels_and_nodes_are_reached_over_tls_and_certificates_are_checked_against_each_host() {
    use redis::TlsCertificates;
    use support::authority::Authority;

    let authority = Authority::new("the tests' own");
    let Some(set) = ReplicaSet::builder().tls(&authority).start(1) else {
        return;
    };
    let sentinels = Sentinels::builder()
        .tls(&authority)
        .watch("users-a", &set)
        .start(3);
    let trusting = || TlsCertificates {
        client_tls: None,
        root_cert: Some(authority.pem().into_bytes()),
    };
    let group = || Sentinel::new(sentinels.urls()).with_node("rediss://nowhere/");
    let builder = || {
        patient(ShardedClient::builder())
            .sentinel_nodes(group(), ["users-a"])
            .tls_certificates(trusting())
    };
    let mut client = builder().build().unwrap();
    let () = client.set("k", 1).unwrap();
    let runtime = runtime();
    let mut on_tokio = builder().build_async().unwrap();
    let get = cmd("GET").arg("k").clone();
    let value = runtime.block_on(async { on_tokio.req_packed_command(&get).await });
    assert_eq!(value.unwrap(), Value::BulkString(b"1".to_vec()));
    sentinels.failover("users-a");
    wait_until("the failover", || {
        address(&client, "users-a") == set.addr(1)
    });
    let () = client.set("k", 2).unwrap();
    // Both certificates are checked: the issuer is not known here.
    let mut client = ShardedClient::builder()
        .sentinel_nodes(group(), ["users-a"])
        .build()
        .unwrap();
    let error = client.get::<_, Option<i64>>("k").unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    // The topology says all of it.
    let text = builder().build().unwrap().topology().to_string();
    assert!(text.contains("rediss-sentinel://"), "{text}");
    let topology = Topology::parse(&text).unwrap();
    let again = ShardedClient::builder()
        .topology(&topology)
        .tls_certificates(trusting());
    let value: i64 = again.build().unwrap().get("k").unwrap();
    assert_eq!(value, 2);
}

#[test]
fn several_masters_of_one_group_are_nodes_that_fail_over_apart() {
    let (Some(a), Some(b)) = (ReplicaSet::start(1), ReplicaSet::start(1)) else {
        return;
    };
    let sentinels = Sentinels::builder()
        .watch("users-a", &a)
        .watch("users-b", &b)
        .start(3);
    let masters = [
        SentinelMaster::new("users-a"),
        SentinelMaster::new("users-b").with_name("second"),
    ];
    let moves = Moves::default();
    let mut client = moves
        .clone()
        .of(patient(ShardedClient::builder())
            .sentinel_nodes(Sentinel::new(sentinels.urls()), masters))
        .build()
        .unwrap();
    let keys: Vec<String> = (0..50).map(|key| format!("k{key}")).collect();
    for key in &keys {
        let () = client.set(key, key).unwrap();
    }
    let sizes = |set: &ReplicaSet, at| {
        cmd("DBSIZE")
            .query::<usize>(&mut set.connection(at))
            .unwrap()
    };
    assert_eq!(sizes(&a, 0) + sizes(&b, 0), 50);
    assert!(sizes(&a, 0) > 0 && sizes(&b, 0) > 0);
    a.wait_until_linked(0);
    let (events, since) = (sentinels.events(), Instant::now());
    a.kill(0);
    let switch = events.wait_for_switch("users-a", since);
    let values: Vec<String> = client.mget(&keys).unwrap();
    assert_eq!(values, keys);
    assert_eq!(address(&client, "users-a"), switch.to);
    assert_eq!(address(&client, "second"), b.addr(0));
    let names: Vec<String> = moves.all().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["users-a"]);
    // Two groups of one client have nothing to do with each other.
    let other = Sentinels::builder().watch("other-b", &b).quorum(1).start(1);
    let mut client = patient(ShardedClient::builder())
        .sentinel(sentinels.urls(), "users-a")
        .sentinel(other.urls(), "other-b")
        .build()
        .unwrap();
    let error = client.mget::<_, Vec<Option<String>>>(&keys);
    assert!(error.is_ok(), "{error:?}");
    assert_eq!(address(&client, "other-b"), b.addr(0));
}

#[test]
fn unknown_master_and_unreachable_sentinels_are_errors_that_name_node_and_remedy() {
    let Some((_set, sentinels)) = start() else {
        return;
    };
    let mut client = patient(ShardedClient::builder())
        .sentinel(sentinels.urls(), "nobody")
        .build()
        .unwrap();
    let began = Instant::now();
    let error = client.get::<_, Option<i64>>("k").unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Config, "{error}");
    for part in ["node nobody", "sentinel monitor", "nobody@"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "found out at once"
    );
    // A node in place of a Sentinel.
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut client = ShardedClient::builder()
        .sentinel(servers.urls(), "users-a")
        .build()
        .unwrap();
    let error = client.get::<_, Option<i64>>("k").unwrap_err();
    assert!(error.to_string().contains("it is no Sentinel"), "{error}");
    servers.kill(0);
    let error = client.get::<_, Option<i64>>("k").unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
    let runtime = runtime();
    let mut client = ShardedClient::builder()
        .sentinel(servers.urls(), "users-a")
        .build_async()
        .unwrap();
    let get = cmd("GET").arg("k").clone();
    let error = runtime
        .block_on(async { client.req_packed_command(&get).await })
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
    for part in ["node users-a", "no Sentinel can be asked", &servers.addr(0)] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // A Sentinel that never answers: the time to connect is the limit.
    let cut = Cut::start(&sentinels.addr(0));
    cut.set(Mode::Drop);
    let mut client = ShardedClient::builder()
        .sentinel([format!("redis://{}/", cut.addr())], "users-a")
        .connect_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let began = Instant::now();
    let error = client.get::<_, Option<i64>>("k").unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
    // Once it answers, so does the node.
    cut.set(Mode::Pass);
    wait_until("the Sentinel answers", || {
        client.get::<_, Option<i64>>("k").is_ok()
    });
}

#[test]
fn address_map_applies_to_primaries_and_to_other_sentinels() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    // Everything behind one gateway, which the client reaches at other ports.
    let gates: BTreeMap<String, Cut> = (0..3)
        .map(|at| set.addr(at))
        .chain((1..3).map(|at| sentinels.addr(at)))
        .map(|inner| (inner.clone(), Cut::start(&inner)))
        .collect();
    let outer: BTreeMap<String, String> = gates
        .iter()
        .map(|(inner, cut)| (inner.clone(), cut.addr()))
        .collect();
    let map = outer.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let names = Arc::clone(&seen);
    let mut client = patient(ShardedClient::builder())
        .sentinel([sentinels.url(0)], "users-a")
        .address_map(move |host, port| {
            let inner = format!("{host}:{port}");
            names.lock().unwrap().push(inner.clone());
            match map.get(&inner).and_then(|outer| outer.rsplit_once(':')) {
                Some((host, port)) => (host.to_owned(), port.parse().unwrap()),
                None => (host.to_owned(), port),
            }
        })
        .build()
        .unwrap();
    let () = client.set("k", 1).unwrap();
    assert_eq!(address(&client, "users-a"), outer[&set.addr(0)]);
    assert!(gates[&set.addr(0)].accepted() >= 1);
    wait_until("the other Sentinels are asked", || {
        (1..3).all(|at| gates[&sentinels.addr(at)].accepted() >= 1)
    });
    sentinels.failover("users-a");
    wait_until("the failover", || {
        address(&client, "users-a") != outer[&set.addr(0)]
    });
    let () = client.set("k", 2).unwrap();
    let new = sentinels.primary("users-a");
    assert_eq!(address(&client, "users-a"), outer[&new]);
    assert!(seen.lock().unwrap().contains(&set.addr(0)));
}

#[test]
fn user_without_the_right_to_role_is_an_auth_error_that_says_what_it_needs() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    for at in 0..set.len() {
        let () = cmd("ACL")
            .arg(&["SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-role"])
            .query(&mut set.connection(at))
            .unwrap();
    }
    let group = Sentinel::new(sentinels.urls()).with_node("redis://app:pw@nowhere/");
    let client = || {
        ShardedClient::builder()
            .sentinel_nodes(group.clone(), ["users-a"])
            .build()
            .unwrap()
    };
    let error = client().get::<_, Option<i64>>("k").unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{error}");
    assert!(error.to_string().contains("`+role`"), "{error}");
    let () = cmd("ACL")
        .arg(&["SETUSER", "app", "+role"])
        .query(&mut set.connection(0))
        .unwrap();
    let value: Option<i64> = client().get("k").unwrap();
    assert_eq!(value, None);
}

#[test]
fn server_that_is_a_replica_by_the_time_of_the_connection_is_refused_and_sentinel_asked_again() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    // A Sentinel that still names the former primary, which is a replica already.
    set.promote(1);
    set.wait_until_linked(1);
    let sentinel = LaggingSentinel::start(&set.addr(0));
    let mut client = ShardedClient::builder()
        .sentinel([sentinel.url()], "users-a")
        .build()
        .unwrap();
    let error = client.set::<_, _, ()>("k", 1).unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
    assert!(error.to_string().contains("it is a replica"), "{error}");
    let asked = sentinel.asked();
    wait_until("Sentinel is asked again", || sentinel.asked() > asked);
    sentinel.name(&set.addr(1), 1);
    wait_until("the client follows", || {
        client.set::<_, _, ()>("k", 2).is_ok()
    });
    assert_eq!(get(&set, 1, "k").as_deref(), Some("2"));
}

#[test]
fn write_that_a_demoted_primary_refuses_is_sent_again_to_the_new_one() {
    let Some(set) = ReplicaSet::start(1) else {
        return;
    };
    let sentinel = LaggingSentinel::start(&set.addr(0));
    let runtime = runtime();
    let build = || patient(ShardedClient::builder()).sentinel([sentinel.url()], "users-a");
    let mut client = build().build().unwrap();
    let mut on_tokio = build().build_async().unwrap();
    let write = |key: &str| cmd("SET").arg(key).arg(1).clone();
    let () = client.set("before", 1).unwrap();
    runtime
        .block_on(async { on_tokio.req_packed_command(&write("before")).await })
        .unwrap();
    // Demoted by hand, so that its connections stay: REPLICAOF does not close them.
    set.promote(1);
    set.wait_until_linked(1);
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| client.set::<_, _, ()>("a", 1));
        let second = scope
            .spawn(|| runtime.block_on(async { on_tokio.req_packed_command(&write("b")).await }));
        thread::sleep(Duration::from_millis(300));
        assert!(!first.is_finished() && !second.is_finished(), "they wait");
        sentinel.name(&set.addr(1), 1);
        (first.join().unwrap(), second.join().unwrap())
    });
    first.unwrap();
    second.unwrap();
    for key in ["a", "b"] {
        assert_eq!(get(&set, 1, key).as_deref(), Some("1"));
    }
}

#[test]
fn topology_text_has_nodes_behind_sentinel_and_no_passwords_and_the_same_fingerprint() {
    let text = "redis-sharding topology 1\nplacement rendezvous/1\n\
                node users-a redis-sentinel://app:SECRET@s1:26379,s2:1/0?sentinel_password=SECRET#m-a\n\
                node redis-sentinel://s1#m-b weight=2\n";
    let topology = Topology::parse(text).unwrap();
    let names: Vec<&str> = topology.nodes().iter().map(|node| node.name()).collect();
    assert_eq!(names, ["users-a", "m-b"]);
    assert_eq!(topology.nodes()[0].address(), "m-a@s1:26379,s2:1");
    let written = topology.to_string();
    assert!(!written.contains("SECRET"), "{written}");
    let again = Topology::parse(&written).unwrap();
    assert_eq!(again.to_string(), written);
    assert_eq!(again.fingerprint(), topology.fingerprint());
    let whole = topology.text_with_passwords();
    assert_eq!(whole.matches("SECRET").count(), 2, "{whole}");
    // The address is no part of what places keys.
    let fixed = Topology::parse(
        "redis-sharding topology 1\nplacement rendezvous/1\nnode users-a h:1\nnode m-b h:2 weight=2\n",
    );
    assert_eq!(fixed.unwrap().fingerprint(), topology.fingerprint());
    // A client writes what it was built from.
    let client = ShardedClient::builder()
        .topology(&topology)
        .build()
        .unwrap();
    assert_eq!(client.topology().to_string(), written);
    let error = Topology::parse(
        "redis-sharding topology 1\nplacement rendezvous/1\nnode a redis-sentinel://:SECRET@s1\n",
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("line 3") && !error.contains("SECRET"),
        "{error}"
    );
}

#[test]
fn wrong_descriptions_of_sentinels_are_config_errors_that_name_the_node() {
    let none: [&str; 0] = [];
    let builder = ShardedClient::builder;
    for (builder, expected) in [
        (
            builder().sentinel(none, "users-a"),
            "node \"users-a\": no Sentinel was given",
        ),
        (
            builder().sentinel(["redis://s1"], ""),
            "the name of the master is empty",
        ),
        (
            builder().sentinel(["redis://s1"], "a b"),
            "the name of a master has",
        ),
        (
            builder().sentinel(["redis://s1", "nonsense://"], "users-a"),
            "Sentinel number 2",
        ),
        (
            builder().sentinel(["unix:///run/redis.sock"], "users-a"),
            "by a host and a port",
        ),
        (
            builder().sentinel(["redis://s1/3"], "users-a"),
            "a Sentinel has no databases",
        ),
        (
            builder()
                .sentinel(["redis://s1"], "a")
                .sentinel(["redis://s1"], "a"),
            "\"a\"",
        ),
        (
            builder().sentinel_nodes(
                Sentinel::new(["redis://s1"]),
                [
                    SentinelMaster::new("m").with_name("a"),
                    SentinelMaster::new("m").with_name("b"),
                ],
            ),
            "the same address, m@s1:6379",
        ),
        (
            builder().node("b", "redis://h/1").sentinel_nodes(
                Sentinel::new(["redis://s1"]).with_node("redis://h/2"),
                ["a"],
            ),
            "all nodes must use the same",
        ),
        (
            builder().sentinel(["redis://:SECRET@s1", "redis://:secret@s2"], "users-a"),
            "its Sentinels differ",
        ),
        (
            builder().sentinel_nodes(
                Sentinel::new(["redis://s1"]).with_node("nonsense://"),
                ["a"],
            ),
            "with_node",
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(
            !error.to_string().to_lowercase().contains("secret"),
            "{error}"
        );
    }
}

#[test]
fn threads_that_ask_sentinels_end_with_the_client_and_do_not_exist_without_sentinel() {
    let Some((set, sentinels)) = start() else {
        return;
    };
    let connections = |at: usize| {
        let list: String = cmd("CLIENT")
            .arg("LIST")
            .query(&mut sentinels.connection(at).unwrap())
            .unwrap();
        list.lines()
            .filter(|line| line.contains("name=ends-soon"))
            .count()
    };
    let mut client = builder(&sentinels)
        .client_name("ends-soon")
        .build()
        .unwrap();
    assert_eq!((0..3).map(connections).sum::<usize>(), 0);
    let () = client.set("k", 1).unwrap();
    // One for questions to each, and one for its announcements.
    wait_until("the connections", || {
        (0..3).map(connections).sum::<usize>() == 6
    });
    let clone = client.clone();
    drop(client);
    thread::sleep(Duration::from_millis(100));
    assert_eq!((0..3).map(connections).sum::<usize>(), 6);
    drop(clone);
    wait_until("they end", || (0..3).map(connections).sum::<usize>() == 0);
    drop(set);
}

/// A server that speaks for a Sentinel which knows what a test tells it.
struct LaggingSentinel {
    addr: String,
    state: Arc<Mutex<LaggingState>>,
    asked: Arc<AtomicU64>,
}

struct LaggingState {
    primary: String,
    epoch: u64,
    subscribers: Vec<std::net::TcpStream>,
}

impl LaggingSentinel {
    /// It names this primary, in epoch 0, and no other Sentinel.
    fn start(primary: &str) -> Self {
        let listener = std::net::TcpListener::bind((support::servers::own_address(), 0)).unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(LaggingState {
            primary: primary.to_owned(),
            epoch: 0,
            subscribers: Vec::new(),
        }));
        let asked = Arc::new(AtomicU64::new(0));
        let (shared, count) = (Arc::downgrade(&state), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, count) = (shared.clone(), Arc::clone(&count));
                thread::spawn(move || {
                    let mut input = std::io::BufReader::new(stream.try_clone().unwrap());
                    let mut parser = redis::Parser::new();
                    while let Ok(request) = parser.parse_value(&mut input) {
                        let Some(state) = shared.upgrade() else {
                            return;
                        };
                        let words: Vec<String> = redis::from_redis_value(request).unwrap();
                        let reply =
                            Self::reply(&words, &mut state.lock().unwrap(), &stream, &count);
                        let mut output = &stream;
                        if std::io::Write::write_all(&mut output, reply.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, state, asked }
    }

    fn reply(
        words: &[String],
        state: &mut LaggingState,
        stream: &std::net::TcpStream,
        asked: &AtomicU64,
    ) -> String {
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let (host, port) = state.primary.rsplit_once(':').unwrap();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match &words[..] {
            ["SENTINEL", "MYID"] => bulk(&"f".repeat(40)),
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _] => {
                asked.fetch_add(1, Ordering::Relaxed);
                format!("*2\r\n{}{}", bulk(host), bulk(port))
            }
            ["SENTINEL", "MASTER", _] => {
                format!(
                    "*2\r\n{}{}",
                    bulk("config-epoch"),
                    bulk(&state.epoch.to_string())
                )
            }
            ["SENTINEL", "SENTINELS", _] => "*0\r\n".into(),
            ["SUBSCRIBE", channel] => {
                state.subscribers.push(stream.try_clone().unwrap());
                format!("*3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(channel))
            }
            ["PING"] => "+PONG\r\n".into(),
            _ => "-ERR unknown command\r\n".into(),
        }
    }

    fn addr(&self) -> &str {
        &self.addr
    }

    fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// From now on it names this one.
    fn name(&self, primary: &str, epoch: u64) {
        let mut state = self.state.lock().unwrap();
        state.primary = primary.to_owned();
        state.epoch = epoch;
    }

    /// Publishes a switch on `+switch-master`.
    fn announce(&self, from: &str, to: &str) {
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let text = format!("users-a {from} {to}").replace(':', " ");
        let message = format!(
            "*3\r\n{}{}{}",
            bulk("message"),
            bulk("+switch-master"),
            bulk(&text)
        );
        for mut subscriber in &self.state.lock().unwrap().subscribers {
            let _ = std::io::Write::write_all(&mut subscriber, message.as_bytes());
        }
    }
}
