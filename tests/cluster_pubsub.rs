//! Publish and subscribe over Redis Cluster, by the subscribers of both clients, on every server that is there.
#![cfg(feature = "tokio-comp")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, RedisResult, pipe};
use redis_sharding::{Error, Event, Message, ShardedClient, Subscriber, SubscriptionKind, aio};
use support::all_clients::End;
use support::clusters::{Cluster, Server, key_in, on_each_server};
use support::replicas::wait_until;
use tokio::runtime::{Handle, Runtime};

/// Long enough for everything that is only late.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long nothing may arrive where nothing is expected.
const SILENCE: Duration = Duration::from_millis(300);

/// The clients of a cluster. Requests go by the blocking one, also beside the async subscriber.
struct Clients {
    client: ShardedClient,
    tokio: aio::ShardedClient,
    runtime: Runtime,
}

enum AnySubscriber {
    Blocking(Subscriber),
    Async(Box<aio::Subscriber>, Handle),
}

impl Clients {
    fn open(cluster: &Cluster, protocol: &str) -> Self {
        let urls = cluster.urls();
        let urls: Vec<String> = urls
            .iter()
            .map(|url| format!("{}/?protocol={protocol}", url.trim_end_matches('/')))
            .collect();
        let describe = || {
            let builder = ShardedClient::builder().cluster(urls.clone());
            builder.response_timeout(PATIENCE)
        };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        Self {
            client: describe().build().unwrap(),
            tokio: describe().build_async().unwrap(),
            runtime,
        }
    }

    fn subscribers(&self) -> [AnySubscriber; 2] {
        [
            AnySubscriber::Blocking(self.client.subscriber()),
            AnySubscriber::Async(
                Box::new(self.tokio.subscriber()),
                self.runtime.handle().clone(),
            ),
        ]
    }
}

/// Runs a test with the subscribers of both clients, by RESP2 and RESP3, over a cluster of three primaries that tests share.
fn each_subscriber(test: impl Fn(&Cluster, &mut ShardedClient, &mut AnySubscriber) + Sync) {
    on_each_server(|server| {
        let cluster = Cluster::shared(server);
        for protocol in ["resp2", "resp3"] {
            each_subscriber_of(&cluster, protocol, &test);
        }
    });
}

fn each_subscriber_of(
    cluster: &Cluster,
    protocol: &str,
    test: impl Fn(&Cluster, &mut ShardedClient, &mut AnySubscriber),
) {
    let clients = Clients::open(cluster, protocol);
    for mut subscriber in clients.subscribers() {
        println!("{}, {}, {protocol}", cluster.server.name, subscriber.kind());
        test(cluster, &mut clients.client.clone(), &mut subscriber);
    }
}

impl AnySubscriber {
    fn kind(&self) -> &'static str {
        match self {
            Self::Blocking(_) => "blocking",
            Self::Async(..) => "async",
        }
    }

    fn subscribe(&mut self, names: &[String]) -> Result<(), Error> {
        match self {
            Self::Blocking(subscriber) => subscriber.subscribe(names),
            Self::Async(subscriber, runtime) => runtime.block_on(subscriber.subscribe(names)),
        }
    }

    fn unsubscribe(&mut self, names: &[String]) -> Result<(), Error> {
        match self {
            Self::Blocking(subscriber) => subscriber.unsubscribe(names),
            Self::Async(subscriber, runtime) => runtime.block_on(subscriber.unsubscribe(names)),
        }
    }

    fn psubscribe(&mut self, names: &[String]) -> Result<(), Error> {
        match self {
            Self::Blocking(subscriber) => subscriber.psubscribe(names),
            Self::Async(subscriber, runtime) => runtime.block_on(subscriber.psubscribe(names)),
        }
    }

    fn ssubscribe(&mut self, names: &[String]) -> Result<(), Error> {
        match self {
            Self::Blocking(subscriber) => subscriber.ssubscribe(names),
            Self::Async(subscriber, runtime) => runtime.block_on(subscriber.ssubscribe(names)),
        }
    }

    fn sunsubscribe(&mut self, names: &[String]) -> Result<(), Error> {
        match self {
            Self::Blocking(subscriber) => subscriber.sunsubscribe(names),
            Self::Async(subscriber, runtime) => runtime.block_on(subscriber.sunsubscribe(names)),
        }
    }

    fn next(&mut self, timeout: Duration) -> Option<Event> {
        match self {
            Self::Blocking(subscriber) => subscriber.next_event(timeout),
            Self::Async(subscriber, runtime) => runtime.block_on(subscriber.next_event(timeout)),
        }
    }

    /// So many messages, as channel and payload, in any order; nothing else may come.
    fn messages(&mut self, count: usize) -> Vec<(SubscriptionKind, String, String)> {
        let mut messages = Vec::new();
        while messages.len() < count {
            match self.next(PATIENCE) {
                Some(Event::Message(message)) => messages.push(text(&message)),
                other => panic!("{other:?} after {} of {count} messages", messages.len()),
            }
        }
        assert_eq!(self.next(SILENCE), None, "after {count} messages");
        messages.sort();
        messages
    }
}

fn text(message: &Message) -> (SubscriptionKind, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (message.kind, text(&message.channel), text(&message.payload))
}

/// Names that no other test of this process has.
fn prefix() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}:{number}"))
        .collect()
}

fn missed(events: &[Event]) -> usize {
    let is_missed = |event: &&Event| matches!(event, Event::Missed { .. });
    events.iter().filter(is_missed).count()
}

#[test]
fn subscribe_and_psubscribe_over_a_cluster_deliver_each_message_once() {
    each_subscriber(|cluster, client, subscriber| {
        let prefix = prefix();
        let channels = names(&prefix, 30);
        subscriber.subscribe(&channels).unwrap();
        subscriber.psubscribe(&[format!("{prefix}:1?")]).unwrap();
        let mut expected = Vec::new();
        for (number, channel) in channels.iter().enumerate() {
            // By the client, and at every node.
            let sender = number % 4;
            let _: i64 = match sender {
                3 => client.publish(channel, "hello").unwrap(),
                node => cluster.ask(node, &["PUBLISH", channel, "hello"]).unwrap(),
            };
            expected.push((
                SubscriptionKind::Channel,
                channel.clone(),
                "hello".to_owned(),
            ));
            if (10..20).contains(&number) {
                expected.push((
                    SubscriptionKind::Pattern,
                    channel.clone(),
                    "hello".to_owned(),
                ));
            }
        }
        expected.sort();
        assert_eq!(subscriber.messages(40), expected);
        // They are spread over the nodes, each on one.
        let subscribed = |node: usize| {
            let found: Vec<String> = cluster
                .ask(node, &["PUBSUB", "CHANNELS", &format!("{prefix}:*")])
                .unwrap();
            found
        };
        let at: Vec<Vec<String>> = (0..3).map(subscribed).collect();
        assert!(at.iter().all(|channels| !channels.is_empty()), "{at:?}");
        assert_eq!(at.iter().map(Vec::len).sum::<usize>(), 30);

        subscriber.unsubscribe(&channels[1..]).unwrap();
        assert_eq!((0..3).map(|node| subscribed(node).len()).sum::<usize>(), 1);
    });
}

#[test]
fn ssubscribe_over_a_cluster_takes_channels_of_any_slots() {
    each_subscriber(|cluster, client, subscriber| {
        let prefix = prefix();
        let mut channels = names(&prefix, 30);
        // Several of one slot.
        channels.extend((0..5).map(|number| format!("{{{prefix}:0}}{number}")));
        subscriber.ssubscribe(&channels).unwrap();
        let mut pipeline = pipe();
        for channel in &channels[10..] {
            pipeline.cmd("SPUBLISH").arg(channel).arg("hello");
        }
        let heard: Vec<i64> = pipeline.query(client).unwrap();
        assert!(heard.iter().all(|count| *count == 1), "{heard:?}");
        for channel in &channels[..10] {
            let heard: i64 = redis::cmd("SPUBLISH")
                .arg(channel)
                .arg("hello")
                .query(client)
                .unwrap();
            assert_eq!(heard, 1);
        }
        let expected: BTreeSet<_> = channels
            .iter()
            .map(|channel| (SubscriptionKind::Shard, channel.clone(), "hello".to_owned()))
            .collect();
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(subscriber.messages(35), expected);

        subscriber.sunsubscribe(&channels[1..]).unwrap();
        let left = |node: usize| -> usize {
            let command = ["PUBSUB", "SHARDCHANNELS", &format!("*{prefix}:*")];
            let found: Vec<String> = cluster.ask(node, &command).unwrap();
            found.len()
        };
        assert_eq!((0..3).map(left).sum::<usize>(), 1);
    });
}

#[test]
fn keyspace_events_of_a_cluster_come_from_every_primary_once() {
    each_subscriber(|cluster, client, subscriber| {
        for node in 0..3 {
            let set = ["CONFIG", "SET", "notify-keyspace-events", "KEA"];
            let () = cluster.ask(node, &set).unwrap();
        }
        let prefix = prefix();
        let keys: Vec<String> = (0..3)
            .map(|node| key_in(cluster.own_slot(node), &prefix))
            .collect();
        let channel = format!("__keyspace@0__:{}", keys[0]);
        subscriber
            .subscribe(std::slice::from_ref(&channel))
            .unwrap();
        subscriber
            .psubscribe(&[format!("__keyspace@0__:*{prefix}")])
            .unwrap();
        for key in &keys {
            let () = client.set(key, "1").unwrap();
        }
        let event = |kind, key: &String| (kind, format!("__keyspace@0__:{key}"), "set".to_owned());
        let mut expected: Vec<_> = keys
            .iter()
            .map(|key| event(SubscriptionKind::Pattern, key))
            .collect();
        expected.push(event(SubscriptionKind::Channel, &keys[0]));
        expected.sort();
        assert_eq!(subscriber.messages(4), expected);
    });
}

/// Publishes numbers to shard channels, one after the other, until it is told to end. Returns how many.
fn publish_numbers(client: &mut ShardedClient, channels: &[String], end: &AtomicBool) -> usize {
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        for channel in channels {
            let sent: RedisResult<i64> = redis::cmd("SPUBLISH")
                .arg(channel)
                .arg(number)
                .query(client);
            sent.unwrap();
        }
        number += 1;
        thread::sleep(Duration::from_millis(1));
    }
    number
}

#[test]
fn ssubscribe_moves_with_its_slot_and_one_missed_marks_the_gap() {
    each_subscriber(|cluster, client, subscriber| {
        let slot = cluster.own_slot(0);
        let prefix = prefix();
        let channels: Vec<String> = (0..3)
            .map(|number| key_in(slot, &format!("{prefix}:{number}")))
            .collect();
        subscriber.ssubscribe(&channels).unwrap();
        let end = AtomicBool::new(false);
        let mut publisher = client.clone();
        thread::scope(|scope| {
            let _end = End(&end);
            let published = scope.spawn(|| publish_numbers(&mut publisher, &channels, &end));
            for to in [1, 2, 0] {
                // Messages come before the move, and all the time in a slot on its way.
                let moving = cluster.begin_move(slot, to);
                let events: Vec<Event> =
                    (0..60).filter_map(|_| subscriber.next(PATIENCE)).collect();
                assert_eq!(events.len(), 60);
                assert_eq!(missed(&events), 0, "{events:?}");
                moving.end();
                let mut last: BTreeMap<String, usize> = BTreeMap::new();
                let (mut missed, mut after) = (0, 0);
                let until = Instant::now() + PATIENCE;
                while after < 300 {
                    assert!(Instant::now() < until, "messages arrive again");
                    match subscriber.next(PATIENCE) {
                        Some(Event::Message(message)) => {
                            let (_, channel, number) = text(&message);
                            let number: usize = number.parse().unwrap();
                            let before = last.insert(channel, number);
                            if missed > 0 && after > 3 {
                                assert_eq!(before.map(|before| before + 1), Some(number));
                            } else {
                                assert!(before.is_none_or(|before| before < number), "twice");
                            }
                            after += usize::from(missed > 0);
                        }
                        Some(Event::Missed { node }) => {
                            assert_eq!(node, cluster.addr(to));
                            missed += 1;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(missed, 1);
                assert_eq!(last.len(), 3, "of all channels");
            }
            end.store(true, Ordering::Relaxed);
            assert!(published.join().unwrap() > 300);
        });
    });
}

#[test]
fn ssubscribe_follows_moved_to_a_server_that_the_map_does_not_know() {
    on_each_server(|server| {
        for protocol in ["resp2", "resp3"] {
            let cluster = Cluster::start(server, 3, 0);
            let clients = Clients::open(&cluster, protocol);
            let [mut one, mut other] = clients.subscribers();
            let slot = cluster.own_slot(0);
            let channels = [key_in(slot, "a"), key_in(slot, "b")];
            one.ssubscribe(&channels[..1]).unwrap();
            other.ssubscribe(&channels[..1]).unwrap();
            let new = cluster.add_primary();
            cluster.move_slot(slot, new);
            for subscriber in [&mut one, &mut other] {
                let missed = Event::Missed {
                    node: cluster.addr(new),
                };
                assert_eq!(subscriber.next(PATIENCE), Some(missed));
                subscriber.ssubscribe(&channels[1..]).unwrap();
            }
            for channel in &channels {
                let heard: i64 = cluster.ask(new, &["SPUBLISH", channel, "x"]).unwrap();
                assert_eq!(heard, 2);
            }
            for subscriber in [&mut one, &mut other] {
                assert_eq!(subscriber.messages(2).len(), 2);
            }
        }
    });
}

#[test]
fn ssubscribe_to_a_slot_without_an_owner_is_made_when_it_has_one() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let slot = cluster.own_slot(1);
        let slot_text = slot.to_string();
        each_subscriber_of(&cluster, "resp2", |cluster, client, subscriber| {
            let channel = key_in(slot, "a");
            let () = client.set("warm", "up").unwrap();
            for node in 0..3 {
                // Each has to know the owner of the slot to forget it.
                wait_until("the slot has no owner", || {
                    let forget = ["CLUSTER", "DELSLOTS", &slot_text];
                    cluster.ask::<()>(node, &forget).is_ok()
                });
            }
            let before: u64 = (0..3).map(|node| cluster.errors(node, "CLUSTERDOWN")).sum();
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(300));
                    let () = cluster
                        .ask(1, &["CLUSTER", "ADDSLOTS", &slot_text])
                        .unwrap();
                });
                subscriber
                    .ssubscribe(std::slice::from_ref(&channel))
                    .unwrap();
            });
            let after: u64 = (0..3).map(|node| cluster.errors(node, "CLUSTERDOWN")).sum();
            assert!((1..50).contains(&(after - before)), "{}", after - before);
            wait_until("the slot is served", || {
                cluster.ask::<i64>(1, &["SPUBLISH", &channel, "x"]) == Ok(1)
            });
            let mut messages = 0;
            while let Some(event) = subscriber.next(SILENCE) {
                // The map may have given the slot to another node while the subscription was not made yet.
                messages += usize::from(!matches!(event, Event::Missed { .. }));
            }
            assert_eq!(messages, 1);
        });
    });
}

/// The channels of each node on which they are subscribed now.
fn channels_at(cluster: &Cluster, node: usize, command: &str, prefix: &str) -> Vec<String> {
    let command = ["PUBSUB", command, &format!("*{prefix}*")];
    cluster.ask(node, &command).unwrap()
}

fn failover_of(server: &Server, protocol: &str, is_killed: bool) {
    let cluster = Cluster::start(server, 3, 3);
    each_subscriber_of(&cluster, protocol, |cluster, client, subscriber| {
        let prefix = prefix();
        let channels = names(&prefix, 30);
        let shards = names(&format!("s{prefix}"), 30);
        subscriber.subscribe(&channels).unwrap();
        subscriber.ssubscribe(&shards).unwrap();
        let victim = cluster
            .index_of(client.topology().nodes()[0].address())
            .unwrap();
        let held = channels_at(cluster, victim, "CHANNELS", &prefix);
        let held_shards = channels_at(cluster, victim, "SHARDCHANNELS", &prefix);
        assert!(!held.is_empty() && !held_shards.is_empty());
        let promoted = match is_killed {
            true => {
                cluster.kill(victim);
                cluster.wait_until_promoted(victim).0
            }
            false => {
                let replica = cluster.replicas(victim)[0];
                cluster.failover(replica);
                replica
            }
        };
        // The subscriber is read all the time, as programs do.
        let mut events = Vec::new();
        let end = Instant::now() + PATIENCE;
        let is_moved = || {
            let running = cluster.running();
            let at = |command| -> usize {
                let at = |node: &usize| *node != victim;
                let running = running.iter().filter(|node| at(node));
                running
                    .map(|node| channels_at(cluster, *node, command, &prefix).len())
                    .sum()
            };
            at("CHANNELS") == channels.len() && at("SHARDCHANNELS") == shards.len()
        };
        while !is_moved() {
            assert!(Instant::now() < end, "{events:?}");
            events.extend(subscriber.next(Duration::from_millis(20)));
        }
        for shard in &shards {
            let sent: RedisResult<i64> = redis::cmd("SPUBLISH").arg(shard).arg("x").query(client);
            // By a map that may be old: a demoted node takes it as well, and hands it on.
            assert!(sent.is_ok(), "{sent:?}");
        }
        for channel in &channels {
            let _: i64 = cluster.ask(promoted, &["PUBLISH", channel, "x"]).unwrap();
        }
        let _: i64 = cluster
            .ask(promoted, &["PUBLISH", &channels[0], "last"])
            .unwrap();
        let mut messages = 0;
        while messages < 61 {
            let event = subscriber.next(PATIENCE).expect("a message");
            messages += usize::from(matches!(event, Event::Message(_)));
            events.push(event);
        }
        while let Some(event) = subscriber.next(SILENCE) {
            assert!(!matches!(event, Event::Message(_)), "twice: {event:?}");
            events.push(event);
        }
        // One for each node that took over: the promoted one has the shard channels, others classic ones.
        let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
        for event in &events {
            if let Event::Missed { node } = event {
                *by_node.entry(node.clone()).or_default() += 1;
            }
        }
        assert!(by_node.contains_key(&cluster.addr(promoted)), "{events:?}");
        let most = by_node.values().max();
        assert!(most <= Some(&2), "{by_node:?}");
        if is_killed {
            cluster.restart(victim);
        }
        wait_until("the cluster is whole again", || {
            cluster.replicas(promoted).contains(&victim)
        });
        cluster.wait_until_agreed();
        cluster.wait_until_linked();
    });
}

#[test]
fn subscriptions_go_on_when_their_node_is_demoted() {
    on_each_server(|server| failover_of(server, "resp2", false));
}

#[test]
fn shard_channels_of_a_demoted_node_move_although_the_other_nodes_hear_late_of_the_failover() {
    on_each_server(|server| {
        let builder = Cluster::builder(server).cuts();
        let cluster = builder.node_timeout(Duration::from_secs(4)).start(3, 3);
        let replica = cluster.replicas(0)[0];
        let channels: Vec<String> = (0..30)
            .map(|number| key_in(cluster.own_slot(0), &number.to_string()))
            .collect();
        let clients = ["resp2", "resp3"].map(|protocol| Clients::open(&cluster, protocol));
        let mut subscribers: Vec<AnySubscriber> =
            clients.iter().flat_map(Clients::subscribers).collect();
        for subscriber in &mut subscribers {
            subscriber.ssubscribe(&channels).unwrap();
        }
        // Only the demoted node hears of it. The map is asked of any of three, and the others repeat the old one.
        let side: Vec<usize> = cluster.replicas(0).into_iter().chain([0]).collect();
        cluster.part(&side);
        let () = cluster
            .ask(replica, &["CLUSTER", "FAILOVER", "TAKEOVER"])
            .unwrap();
        cluster.wait_until_promoted(0);
        let heals_at = Instant::now() + Duration::from_millis(700);
        let mut is_healed = false;
        let mut events = Vec::new();
        let mut command = vec!["PUBSUB", "SHARDNUMSUB"];
        command.extend(channels.iter().map(String::as_str));
        let end = Instant::now() + PATIENCE;
        loop {
            let counts: BTreeMap<String, usize> = cluster.ask(replica, &command).unwrap();
            if counts.values().all(|count| *count == subscribers.len()) {
                break;
            }
            assert!(Instant::now() < end, "{counts:?}, {events:?}");
            for subscriber in &mut subscribers {
                events.extend(subscriber.next(Duration::from_millis(5)));
            }
            if !is_healed && Instant::now() > heals_at {
                cluster.heal();
                is_healed = true;
            }
        }
    });
}

#[test]
fn subscriptions_go_on_when_their_node_is_killed() {
    on_each_server(|server| failover_of(server, "resp3", true));
}

#[test]
fn classic_subscriptions_leave_a_killed_node_before_the_cluster_has_noticed() {
    on_each_server(|server| {
        // Nothing is promoted, and the map stays as it is for long.
        let cluster = Cluster::builder(server)
            .node_timeout(Duration::from_secs(30))
            .start(3, 0);
        let clients = Clients::open(&cluster, "resp2");
        let subscribers = clients.subscribers();
        let channels = names("c", 30);
        let mut subscribers = subscribers.map(|mut subscriber| {
            subscriber.subscribe(&channels).unwrap();
            subscriber
        });
        let lost = channels_at(&cluster, 2, "CHANNELS", "c:");
        assert!(!lost.is_empty());
        cluster.kill(2);
        for subscriber in &mut subscribers {
            let gone = subscriber.next(PATIENCE);
            assert!(
                matches!(&gone, Some(Event::Disconnected { node }) if *node == cluster.addr(2))
            );
            let missed = subscriber.next(PATIENCE);
            assert!(matches!(missed, Some(Event::Missed { .. })), "{missed:?}");
            // Subscribed for the first time at a node that is known to be down.
            subscriber.subscribe(&names("new", 30)).unwrap();
        }
        let _: i64 = cluster.ask(0, &["PUBLISH", "c:0", "last"]).unwrap();
        for channel in lost.iter().chain(&names("new", 30)) {
            let _: i64 = cluster.ask(0, &["PUBLISH", channel, "x"]).unwrap();
        }
        for subscriber in &mut subscribers {
            let mut messages = 0;
            while let Some(event) = subscriber.next(Duration::from_secs(1)) {
                match event {
                    Event::Message(_) => messages += 1,
                    // Another node took over as well.
                    Event::Missed { .. } => {}
                    _ => panic!("{event:?}"),
                }
            }
            assert_eq!(messages, lost.len() + 31);
        }
    });
}
