//! A cache whose nodes fail and come back: ejection and readmission, through both clients and the proxy.
#![cfg(all(feature = "proxy", feature = "testing"))]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::partition::{OutNodes, Partitioner, Placement, PlacementError, Rendezvous};
use redis_sharding::testing::{Fault, ReceivedCommand, TestNode};
use redis_sharding::{
    Builder, ClientEvent, Ejection, Event, NodeIndex, NodeSpec, Readmission, Refusal,
    ShardedClient, Topology, aio,
};
use support::local_proxy::LocalProxy;
use support::{Servers, builder_over};
use tokio::runtime::Runtime;

/// How long anything may take that is not asserted to take less.
const PATIENCE: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_millis(600);
const NODES: usize = 4;

/// What a program talks to.
enum Door {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Runtime),
    Proxy(Box<LocalProxy>, redis::Client),
}

/// A cache, and what was reported about its nodes.
struct Cache {
    door: Door,
    events: Events,
}

#[derive(Clone, Debug, Default)]
struct Events(Arc<Mutex<Vec<(Instant, String)>>>);

impl Events {
    fn listen(&self, builder: Builder) -> Builder {
        let events = Arc::clone(&self.0);
        builder.on_event(move |event| {
            let kind = match event {
                ClientEvent::Ejected { .. } => "ejected",
                ClientEvent::Readmitted { .. } => "readmitted",
                ClientEvent::FlushFailed { .. } => "flush failed",
                _ => return,
            };
            let node = event.node().unwrap().name();
            let entry = (Instant::now(), format!("{kind} {node}"));
            events.lock().unwrap().push(entry);
        })
    }

    fn count(&self, text: &str) -> usize {
        let events = self.0.lock().unwrap();
        events.iter().filter(|(_, event)| event == text).count()
    }

    #[track_caller]
    fn wait(&self, text: &str) -> Instant {
        until(text, || self.count(text) > 0);
        let events = self.0.lock().unwrap();
        events.iter().rfind(|(_, event)| event == text).unwrap().0
    }
}

#[track_caller]
fn until(what: &str, mut is_done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_done() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn ejection() -> Ejection {
    Ejection::new()
        .with_window(WINDOW)
        .with_probe_interval(Duration::from_millis(50), Duration::from_millis(200))
}

/// A cache behind each door, one after the other.
fn caches(describe: impl Fn() -> Builder) -> impl Iterator<Item = Cache> {
    let doors: [fn(Builder) -> Door; 3] = [
        |builder| Door::Blocking(builder.build().unwrap()),
        |builder| {
            let client = builder.build_async().unwrap();
            Door::Async(client, Runtime::new().unwrap())
        },
        |builder| {
            let proxy = LocalProxy::open(builder);
            let client = redis::Client::open(format!("redis://{}/", proxy.address())).unwrap();
            Door::Proxy(Box::new(proxy), client)
        },
    ];
    doors.into_iter().map(move |open| {
        let events = Events::default();
        let builder = describe()
            .connect_timeout(Duration::from_millis(300))
            .response_timeout(Duration::from_millis(300));
        Cache {
            door: open(events.listen(builder)),
            events,
        }
    })
}

impl Cache {
    fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> RedisResult<T> {
        match &self.door {
            Door::Blocking(client) => cmd.query(&mut client.clone()),
            Door::Async(client, runtime) => runtime.block_on(cmd.query_async(&mut client.clone())),
            Door::Proxy(_, client) => cmd.query(&mut client.get_connection()?),
        }
    }

    fn query_pipe<T: FromRedisValue>(&self, pipe: &Pipeline) -> RedisResult<T> {
        match &self.door {
            Door::Blocking(client) => pipe.query(&mut client.clone()),
            Door::Async(client, runtime) => runtime.block_on(pipe.query_async(&mut client.clone())),
            Door::Proxy(_, client) => pipe.query(&mut client.get_connection()?),
        }
    }

    fn get(&self, key: &str) -> RedisResult<Option<String>> {
        self.query(cmd("GET").arg(key))
    }

    fn set(&self, key: &str, value: &str) -> RedisResult<()> {
        self.query(cmd("SET").arg(key).arg(value))
    }

    fn topology(&self) -> Arc<Topology> {
        match &self.door {
            Door::Blocking(client) => client.topology(),
            Door::Async(client, _) => client.topology(),
            Door::Proxy(proxy, _) => proxy.proxy.topology(),
        }
    }

    /// The name of the owner by the nodes that are in.
    fn owner(&self, key: &str) -> usize {
        self.topology().locate(key.as_bytes()).unwrap().get()
    }

    fn out(&self) -> Vec<usize> {
        self.topology().out().iter().map(NodeIndex::get).collect()
    }

    /// Keys that this node owns while all are in.
    fn keys_of(&self, node: usize, count: usize) -> Vec<String> {
        let all = self.topology().without(&OutNodes::none()).unwrap();
        let keys = (0..).map(|number| format!("key:{number}"));
        let owns = |key: &String| all.locate(key.as_bytes()).unwrap().get() == node;
        keys.filter(owns).take(count).collect()
    }

    /// Sends requests for keys of the node until it is out.
    #[track_caller]
    fn wait_ejected(&self, node: usize) -> Instant {
        let key = &self.keys_of(node, 1)[0];
        until("ejected", || {
            let _ = self.get(key);
            self.out().contains(&node)
        });
        self.events.wait(&format!("ejected node-{node}"))
    }

    #[track_caller]
    fn wait_readmitted(&self, node: usize) -> Instant {
        until("readmitted", || !self.out().contains(&node));
        self.events.wait(&format!("readmitted node-{node}"))
    }
}

fn without(topology: &Topology, nodes: &[usize]) -> Topology {
    let nodes = nodes.iter().map(|&node| NodeIndex::new(node as u16));
    topology.without(&nodes.collect()).unwrap()
}

fn has(servers: &Servers, node: usize, key: &str) -> bool {
    let exists = cmd("EXISTS").arg(key).to_owned();
    exists.query(&mut servers.connection(node)).unwrap()
}

#[test]
fn cache_sends_the_keys_of_a_killed_node_to_the_others_until_it_is_back() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for cache in caches(|| builder_over(servers.urls()).cache(ejection())) {
        let keys: Vec<String> = (0..60).map(|number| format!("key:{number}")).collect();
        for key in &keys {
            cache.set(key, "before").unwrap();
        }
        servers.kill(2);
        let killed = Instant::now();
        let ejected = cache.wait_ejected(2);
        // The first request after the kill notices it. With some room for a busy machine.
        assert!(
            ejected - killed < WINDOW + PATIENCE / 10,
            "{:?}",
            ejected - killed
        );
        for key in &keys {
            cache.set(key, "without").unwrap();
        }
        let living = without(&cache.topology(), &[2]);
        for key in &keys {
            let owner = living.locate(key.as_bytes()).unwrap().get();
            assert_eq!(cache.owner(key), owner, "{key}");
            assert!(has(&servers, owner, key), "{key} is not at node-{owner}");
            assert_eq!(cache.get(key).unwrap().as_deref(), Some("without"));
        }
        servers.restart(2);
        cache.wait_readmitted(2);
        // At once, and not after the backoff of a node that is down.
        for key in &keys {
            cache.set(key, "after").unwrap();
        }
        let all = cache.topology();
        assert!(all.out().is_empty());
        for key in &keys {
            let owner = all.locate(key.as_bytes()).unwrap().get();
            assert!(has(&servers, owner, key), "{key} is not at node-{owner}");
        }
        assert_eq!(cache.events.count("ejected node-2"), 1);
        assert_eq!(cache.events.count("readmitted node-2"), 1);
        let () = cache.query(&cmd("FLUSHALL")).unwrap();
    }
}

#[test]
fn commands_to_many_nodes_do_without_the_one_that_is_out() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for cache in caches(|| builder_over(servers.urls()).cache(ejection())) {
        servers.kill(1);
        cache.wait_ejected(1);
        let keys: Vec<String> = (0..40).map(|number| format!("key:{number}")).collect();
        let mut mset = cmd("MSET");
        for key in &keys {
            mset.arg(key).arg("value");
        }
        let () = cache.query(&mset).unwrap();
        let values: Vec<String> = cache.query(cmd("MGET").arg(&keys)).unwrap();
        assert_eq!(values, vec!["value"; keys.len()]);
        let mut pipe = pipe();
        for key in &keys {
            pipe.get(key);
        }
        pipe.cmd("DBSIZE");
        let mut replies: Vec<Value> = cache.query_pipe(&pipe).unwrap();
        assert_eq!(replies.pop(), Some(Value::Int(keys.len() as i64)));
        let found: BTreeSet<String> = cache.query(cmd("KEYS").arg("*")).unwrap();
        assert_eq!(found.len(), keys.len());
        let mut scanned = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = cmd("SCAN");
            let (next, page): (String, Vec<String>) = cache.query(scan.arg(&cursor)).unwrap();
            scanned.extend(page);
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(scanned, found);
        let () = cache.query(&cmd("FLUSHALL")).unwrap();
        assert_eq!(cache.query::<usize>(&cmd("DBSIZE")).unwrap(), 0);
        servers.restart(1);
        cache.wait_readmitted(1);
    }
}

#[test]
fn paused_node_is_ejected_and_stale_values_are_read_only_if_it_is_readmitted_as_it_is() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for readmission in [Readmission::AsItIs, Readmission::Flushed] {
        let ejection = ejection().with_readmission(readmission);
        for cache in caches(|| builder_over(servers.urls()).cache(ejection)) {
            let key = &cache.keys_of(3, 1)[0];
            cache.set(key, "old").unwrap();
            servers.pause(3);
            cache.wait_ejected(3);
            cache.set(key, "new").unwrap();
            let is_over = AtomicBool::new(false);
            let stale = thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let (mut stale, mut reads) = (0, 0);
                    while !is_over.load(Ordering::Relaxed) {
                        if let Ok(Some(value)) = cache.get(key) {
                            stale += usize::from(value == "old");
                            reads += 1;
                        }
                    }
                    assert!(reads > 0, "nothing was read");
                    stale
                });
                servers.resume(3);
                cache.wait_readmitted(3);
                // The owner is the node that was paused.
                let value = cache.get(key).unwrap();
                let expected = (readmission == Readmission::AsItIs).then(|| "old".to_owned());
                assert_eq!(value, expected);
                thread::sleep(Duration::from_millis(100));
                is_over.store(true, Ordering::Relaxed);
                reader.join().unwrap()
            });
            assert_eq!(stale > 0, readmission == Readmission::AsItIs, "{stale}");
            let () = cache.query(&cmd("FLUSHALL")).unwrap();
        }
    }
}

#[test]
fn node_is_readmitted_only_after_its_values_have_expired() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let ttl = Duration::from_millis(1500);
    let ejection = ejection().with_readmission(Readmission::AfterTtl(ttl));
    for cache in caches(|| builder_over(servers.urls()).cache(ejection)) {
        servers.pause(0);
        let ejected = cache.wait_ejected(0);
        servers.resume(0);
        let readmitted = cache.wait_readmitted(0);
        // The events are reported shortly after.
        let absence = readmitted - ejected;
        assert!(absence + Duration::from_millis(50) > ttl, "{absence:?}");
    }
}

#[test]
fn node_that_was_out_during_a_flush_has_no_values_when_it_is_back() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for flush in ["FLUSHALL", "flushdb"] {
        for cache in caches(|| builder_over(servers.urls()).cache(ejection())) {
            let key = &cache.keys_of(2, 1)[0];
            cache.set(key, "old").unwrap();
            servers.pause(2);
            cache.wait_ejected(2);
            let mut pipe = pipe();
            pipe.cmd("PING").cmd(flush);
            let () = cache.query_pipe(&pipe).unwrap();
            servers.resume(2);
            cache.wait_readmitted(2);
            assert_eq!(cache.get(key).unwrap(), None);
            assert!(!has(&servers, 2, key));
        }
    }
}

#[test]
fn node_that_may_not_be_flushed_stays_out_and_is_reported() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let ejection = ejection().with_readmission(Readmission::Flushed);
    let acl = |node: usize, rule: &str| {
        let mut connection = servers.connection(node);
        let command = cmd("ACL")
            .arg("SETUSER")
            .arg("default")
            .arg(rule)
            .to_owned();
        command.exec(&mut connection).unwrap();
    };
    for cache in caches(|| builder_over(servers.urls()).cache(ejection)) {
        acl(1, "-flushdb");
        servers.pause(1);
        cache.wait_ejected(1);
        servers.resume(1);
        cache.events.wait("flush failed node-1");
        assert_eq!(cache.out(), [1]);
        acl(1, "+flushdb");
        cache.wait_readmitted(1);
    }
}

#[test]
fn all_nodes_count_as_in_while_more_than_the_share_have_failed() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for cache in caches(|| builder_over(servers.urls()).cache(ejection())) {
        for dead in 1..NODES {
            servers.kill(dead);
        }
        let keys: Vec<String> = (1..NODES)
            .map(|node| cache.keys_of(node, 1).remove(0))
            .collect();
        // Two of them are out at first, and in again when the third has failed as often.
        let mut most = 0;
        let mut in_since = Instant::now();
        until("all in", || {
            for key in &keys {
                let _ = cache.get(key);
            }
            let out = cache.out().len();
            most = most.max(out);
            if out > 0 {
                in_since = Instant::now();
            }
            in_since.elapsed() > WINDOW * 2
        });
        assert!(most <= NODES / 2, "{most}");
        for key in &keys {
            let error = cache.get(key).unwrap_err();
            assert!(error.to_string().contains("node-"), "{error}");
        }
        servers.restart(1);
        until("the two that are dead are out", || cache.out() == [2, 3]);
        for key in &keys {
            cache.set(key, "value").unwrap();
        }
        for dead in 2..NODES {
            servers.restart(dead);
        }
        until("all are back", || cache.out().is_empty());
    }
}

#[test]
fn node_that_sleeps_is_ejected_and_readmitted() {
    let builder = Servers::builder().option(["--enable-debug-command", "yes"]);
    let Some(servers) = builder.start(NODES) else {
        return;
    };
    for cache in caches(|| builder_over(servers.urls()).cache(ejection())) {
        let sleeper = {
            let mut connection = servers.connection(1);
            thread::spawn(move || {
                cmd("DEBUG")
                    .arg("SLEEP")
                    .arg(3)
                    .exec(&mut connection)
                    .unwrap();
            })
        };
        thread::sleep(Duration::from_millis(50));
        cache.wait_ejected(1);
        let key = &cache.keys_of(1, 1)[0];
        cache.set(key, "elsewhere").unwrap();
        sleeper.join().unwrap();
        cache.wait_readmitted(1);
        cache.set(key, "back").unwrap();
        assert!(has(&servers, 1, key));
    }
}

#[test]
fn refusals_eject_a_node_only_if_they_are_chosen() {
    for chosen in [true, false] {
        let refusals: &[Refusal] = if chosen { &[Refusal::Loading] } else { &[] };
        let nodes = TestNode::start_many(NODES).unwrap();
        let urls = || nodes.iter().map(TestNode::url);
        let ejection = ejection().with_refusals(refusals);
        for cache in caches(|| builder_over(urls()).cache(ejection)) {
            let is_loading = Arc::new(AtomicBool::new(true));
            let flag = Arc::clone(&is_loading);
            let is_refused = move |command: &ReceivedCommand| {
                flag.load(Ordering::Relaxed) && ["GET", "PING"].contains(&&*command.name())
            };
            let fault = Fault::Error("LOADING the dataset is being read".into());
            nodes[0].fail_if(is_refused, fault, usize::MAX);
            let key = &cache.keys_of(0, 1)[0];
            if chosen {
                cache.wait_ejected(0);
                assert_eq!(cache.get(key).unwrap(), None);
            } else {
                let start = Instant::now();
                while start.elapsed() < WINDOW * 2 {
                    assert!(cache.get(key).is_err());
                    thread::sleep(Duration::from_millis(10));
                }
                assert!(cache.out().is_empty());
            }
            is_loading.store(false, Ordering::Relaxed);
            cache.get(key).unwrap();
            until("in", || cache.out().is_empty());
        }
    }
}

#[test]
fn messages_of_a_channel_whose_node_is_out_arrive_by_another_node() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let events = Events::default();
    let client = events
        .listen(builder_over(servers.urls()))
        .cache(ejection())
        .build()
        .unwrap();
    let cache = Cache {
        door: Door::Blocking(client.clone()),
        events,
    };
    let channel = &cache.keys_of(2, 1)[0];
    let mut subscriber = client.subscriber();
    subscriber.subscribe(channel).unwrap();
    servers.kill(2);
    cache.wait_ejected(2);
    until("a message has arrived", || {
        let _ = cache.query::<Value>(cmd("PUBLISH").arg(channel).arg("hello"));
        let event = subscriber.next_event(Duration::from_millis(50));
        matches!(event, Some(Event::Message(_)))
    });
}

#[test]
fn heartbeat_ejects_a_node_that_no_request_needs() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let ejection = Ejection::go_redis().with_heartbeat(Some(Duration::from_millis(100)));
    for cache in caches(|| builder_over(servers.urls()).cache(ejection)) {
        servers.kill(3);
        cache.events.wait("ejected node-3");
        assert_eq!(cache.out(), [3]);
        servers.restart(3);
        cache.wait_readmitted(3);
    }
}

#[test]
fn health_shows_a_node_that_is_ejected() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let cache = caches(|| builder_over(servers.urls()).cache(ejection()));
    let cache = cache.into_iter().next().unwrap();
    let Door::Blocking(client) = &cache.door else {
        panic!("the first is the blocking client");
    };
    servers.kill(1);
    cache.wait_ejected(1);
    let health = client.health();
    let node = health.node("node-1").unwrap();
    assert!(node.ejected.is_some() && !node.is_up());
    assert!(health.to_string().contains("EJECTED"), "{health}");
    servers.restart(1);
    cache.wait_readmitted(1);
    assert_eq!(client.health().node("node-1").unwrap().ejected, None);
}

#[test]
fn data_store_keeps_the_keys_of_a_dead_node_where_they_are() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    for never in [false, true] {
        let describe = || match never {
            true => builder_over(servers.urls()).cache(Ejection::never()),
            false => builder_over(servers.urls()),
        };
        for cache in caches(describe) {
            servers.kill(2);
            let key = &cache.keys_of(2, 1)[0];
            let start = Instant::now();
            while start.elapsed() < WINDOW * 2 {
                assert!(cache.set(key, "value").is_err());
                thread::sleep(Duration::from_millis(10));
            }
            assert!(cache.out().is_empty());
            servers.restart(2);
            until("up", || cache.set(key, "value").is_ok());
        }
    }
}

#[test]
fn node_gets_its_keys_back_share_by_share() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let ramp = Duration::from_millis(1600);
    let ejection = ejection().with_ramp(Some(ramp));
    for cache in caches(|| builder_over(servers.urls()).cache(ejection)) {
        let keys = cache.keys_of(1, 100);
        servers.kill(1);
        cache.wait_ejected(1);
        servers.restart(1);
        cache.wait_readmitted(1);
        let start = Instant::now();
        let mut shares = Vec::new();
        until("all keys are back", || {
            let back = keys.iter().filter(|key| cache.owner(key) == 1).count();
            shares.push(back);
            cache.set(&keys[0], "value").unwrap();
            back == keys.len()
        });
        assert!(shares.is_sorted(), "{shares:?}");
        shares.dedup();
        assert!(shares.len() > 4, "{shares:?}");
        // The first share came with the readmission, and the last before the end.
        assert!(start.elapsed() > ramp / 2, "{:?}", start.elapsed());
    }
}

/// Rendezvous, but slow to place keys while nodes are out.
#[derive(Debug)]
struct SlowRule(Arc<Mutex<Vec<Option<String>>>>);

impl Partitioner for SlowRule {
    fn name(&self) -> &str {
        "slow/1"
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        Rendezvous::new().place(nodes)
    }

    fn place_without(
        &self,
        _: &[NodeSpec],
        _: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        thread::sleep(Duration::from_millis(300));
        let name = thread::current().name().map(str::to_owned);
        self.0.lock().unwrap().push(name);
        Ok(None)
    }
}

#[test]
fn placement_without_ten_of_a_thousand_nodes_is_built_while_requests_go_on() {
    const ALL: usize = 1000;
    const DEAD: usize = 10;
    let nodes = TestNode::start_many(ALL).unwrap();
    let built_by = Arc::default();
    let events = Events::default();
    let client = events
        .listen(builder_over(nodes.iter().map(TestNode::url)))
        .partitioner(SlowRule(Arc::clone(&built_by)))
        .cache(ejection())
        .build()
        .unwrap();
    let cache = Cache {
        door: Door::Blocking(client),
        events,
    };
    let all = cache.topology();
    let owner = |key: &String| all.locate(key.as_bytes()).unwrap().get();
    let keys: Vec<String> = (0..40_000).map(|number| format!("key:{number}")).collect();
    let of_dead = keys.iter().filter(|key| owner(key) < DEAD).take(200);
    let of_dead: Vec<&String> = of_dead.collect();
    let living = keys.iter().find(|key| owner(key) >= DEAD).unwrap();
    let is_over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        // A request for a node that lives, again and again.
        let requests = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                let before = built_by.lock().unwrap().len();
                let mut count = 0;
                while built_by.lock().unwrap().len() == before && !is_over.load(Ordering::Relaxed) {
                    cache.set(living, "value").unwrap();
                    count += 1;
                }
                most = most.max(count);
            }
            most
        });
        nodes[..DEAD].iter().for_each(TestNode::stop);
        until("ten are out", || {
            for key in &of_dead {
                let _ = cache.get(key);
            }
            cache.out().len() == DEAD
        });
        for node in &nodes[..DEAD] {
            node.restart().unwrap();
        }
        until("ten are back", || cache.out().is_empty());
        is_over.store(true, Ordering::Relaxed);
        requests.join().unwrap()
    });
    assert!(most > 1, "{most}");
    let built_by = built_by.lock().unwrap();
    assert!(!built_by.is_empty());
    // Linux keeps 15 bytes of the name, std all of it.
    let monitor = Some("redis-sharding monitor".to_owned());
    assert!(built_by.iter().all(|name| *name == monitor), "{built_by:?}");
}

#[cfg(feature = "tokio-rustls-comp")]
#[test]
fn node_is_probed_over_tls() {
    use support::authority::Authority;

    let authority = Authority::new("the tests");
    let Some(servers) = Servers::builder().tls(&authority, false).start(NODES) else {
        return;
    };
    let urls = || (0..NODES).map(|node| servers.tls_url(node));
    let certificates = || redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(authority.pem().into_bytes()),
    };
    for cache in caches(|| {
        builder_over(urls())
            .tls_certificates(certificates())
            .cache(ejection())
    }) {
        let key = &cache.keys_of(2, 1)[0];
        cache.set(key, "value").unwrap();
        servers.kill(2);
        cache.wait_ejected(2);
        servers.restart(2);
        cache.wait_readmitted(2);
        cache.set(key, "value").unwrap();
    }
}

#[test]
fn node_that_refuses_writes_is_ejected_though_it_serves_reads() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let replicate = |words: [&str; 2]| {
        let mut connection = servers.connection(0);
        let command = cmd("REPLICAOF").arg(&words).to_owned();
        command.exec(&mut connection).unwrap();
    };
    let ejection = ejection().with_refusals(&[Refusal::ReadOnly]);
    for cache in caches(|| builder_over(servers.urls()).cache(ejection)) {
        let key = &cache.keys_of(0, 1)[0];
        cache.set(key, "value").unwrap();
        let primary = servers.addr(3);
        let (host, port) = primary.rsplit_once(':').unwrap();
        replicate([host, port]);
        until("ejected", || {
            let refused = cache.set(key, "elsewhere");
            let _ = cache.get(key);
            refused.is_ok()
        });
        assert_eq!(cache.out(), [0]);
        replicate(["NO", "ONE"]);
        cache.wait_readmitted(0);
        cache.set(key, "back").unwrap();
        assert!(has(&servers, 0, key));
    }
}

#[test]
fn topology_change_is_an_event_and_keeps_a_node_out() {
    let Some(servers) = Servers::start(NODES) else {
        return;
    };
    let changes = Arc::new(Mutex::new(Vec::new()));
    let events = Events::default();
    let sink = Arc::clone(&changes);
    let client = events
        .listen(builder_over(servers.urls()).cache(ejection()))
        .on_event(move |event| {
            if let ClientEvent::TopologyChanged { from, to, .. } = event {
                sink.lock().unwrap().push((*from, *to));
            }
        })
        .build()
        .unwrap();
    let cache = Cache {
        door: Door::Blocking(client.clone()),
        events,
    };
    servers.kill(2);
    cache.wait_ejected(2);
    let epoch = client.topology().epoch();
    // The nodes in another order, and one less.
    let nodes = [3, 2, 1].map(|node| format!("node node-{node} {}\n", servers.addr(node)));
    let text = format!(
        "redis-sharding topology 1\nplacement rendezvous/1\n{}",
        nodes.concat()
    );
    client.set_topology(&text.parse().unwrap()).unwrap();
    let now = client.topology().epoch();
    assert!(now > epoch);
    assert_eq!(changes.lock().unwrap()[..], [(epoch, now)]);
    assert_eq!(cache.out(), [1]);
    for number in 0..50 {
        cache.set(&format!("key:{number}"), "value").unwrap();
    }
    servers.restart(2);
    until("back", || cache.out().is_empty());
    cache.events.wait("readmitted node-2");
}
