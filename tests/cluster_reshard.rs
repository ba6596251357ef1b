//! Slots move through a Redis Cluster under load: by `redis-cli --cluster reshard` and `rebalance`, and by Valkey's
//! CLUSTER MIGRATESLOTS. Meanwhile 16 workers count, with all clients: single commands, pipelines, MGET and MSET over many
//! slots, transactions, scripts, blocking commands, sharded channels, SCAN.
//!
//! Every key has one worker, which knows its value: nothing may be lost, done twice, read as missing, or end with an error.
//!
//! `RESHARD_SECONDS` prolongs it, `RESHARD_SEED` repeats the order of what workers do (though not the timing).
#![cfg(feature = "tokio-comp")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use redis::{RedisResult, Value, cmd, pipe};
use redis_sharding::{Event, ShardedClient};
use support::all_clients::{AllClients, AnyClient, End, KINDS, Kind, Random};
use support::clusters::{Cluster, SLOTS, Server, key_in, redis_cli, servers};

const WORKERS: usize = 16;
/// Slots of every worker, each with several keys.
const SLOTS_EACH: usize = 24;
/// Keys that nobody touches, for SCAN.
const RESTING: usize = 2000;
/// Channels and lists, each in a slot of its own.
const NAMES: usize = 6;
/// How many slots a short step moves: the first ones of a node.
const STEP: usize = 60;
/// Slots of workers are among so many first ones of every node, which move most.
const ZONE: usize = 150;
/// Between two requests of a worker, and between two passes of SCAN: the nodes and redis-cli need the machine as well.
const PAUSE: Duration = Duration::from_millis(3);
const SCAN_PAUSE: Duration = Duration::from_millis(100);
const DEFAULT_SECONDS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(20);

fn seed() -> u64 {
    let seed = std::env::var("RESHARD_SEED").ok().map_or_else(
        || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |seed| seed.parse().expect("RESHARD_SEED is a number"),
    );
    println!("RESHARD_SEED={seed}");
    seed
}

/// How long steps are begun; `None`: the short form.
fn duration() -> Option<Duration> {
    let seconds = std::env::var("RESHARD_SECONDS").ok()?;
    let seconds = seconds.parse().expect("RESHARD_SECONDS is a number");
    Some(Duration::from_secs(seconds))
}

/// What all workers share.
struct Load<'a> {
    cluster: &'a Cluster,
    clients: AllClients,
    ended: AtomicBool,
    requests: AtomicU64,
    /// In microseconds.
    longest: AtomicU64,
}

impl Load<'_> {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The answer, which must be this one.
    fn check<T: PartialEq + Debug>(
        &self,
        kind: Kind,
        what: &str,
        ask: impl FnOnce() -> RedisResult<T>,
        expected: &T,
    ) {
        let answer = self.timed(kind, what, ask);
        assert_eq!(
            &answer, expected,
            "{what} by {kind:?} on {}",
            self.cluster.server.name
        );
    }

    fn timed<T>(&self, kind: Kind, what: &str, ask: impl FnOnce() -> RedisResult<T>) -> T {
        let start = Instant::now();
        let answer = ask();
        let took = u64::try_from(start.elapsed().as_micros()).unwrap();
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(took, Ordering::Relaxed);
        let name = &self.cluster.server.name;
        answer.unwrap_or_else(|error| panic!("{what} by {kind:?} on {name}: {error}"))
    }
}

/// The keys of one worker, and what they are.
struct Worker {
    kind: Kind,
    client: AnyClient,
    random: Random,
    /// By slot: counters of three kinds of requests.
    counters: Vec<[(String, i64); 3]>,
    texts: Vec<(String, String)>,
    generation: u64,
}

impl Worker {
    fn new(number: usize, load: &Load<'_>, mut random: Random) -> Self {
        let kind = KINDS[number % KINDS.len()];
        let slots: Vec<u16> = (0..SLOTS_EACH)
            .map(|_| {
                let first = random.below(3) * usize::from(SLOTS) / 3;
                (first + random.below(ZONE)) as u16
            })
            .collect();
        // Two of them may have the same slot.
        let key = |at: usize, name: &str| key_in(slots[at], &format!("{number}:{at}:{name}"));
        Self {
            kind,
            client: load.clients.of(kind),
            counters: (0..SLOTS_EACH)
                .map(|at| ["a", "b", "c"].map(|name| (key(at, name), 0)))
                .collect(),
            texts: (0..SLOTS_EACH)
                .map(|at| (key(at, "text"), String::new()))
                .collect(),
            random,
            generation: 0,
        }
    }

    fn work(&mut self, load: &Load<'_>) {
        self.write_all(load);
        while !load.has_ended() {
            match self.random.below(6) {
                0 => self.increment(load),
                1 => self.pipeline(load),
                2 => self.write_all(load),
                3 => self.transaction(load),
                4 => self.script(load),
                _ => self.read_all(load),
            }
            thread::sleep(PAUSE);
        }
        self.read_all(load);
        self.compare(load);
    }

    fn increment(&mut self, load: &Load<'_>) {
        let at = self.random.below(SLOTS_EACH);
        let (key, count) = &mut self.counters[at][0];
        *count += 1;
        let ask = || self.client.ask(&["INCR", key]);
        load.check(self.kind, "INCR", ask, count);
    }

    /// Two commands for each key, and all keys.
    fn pipeline(&mut self, load: &Load<'_>) {
        let (mut pipeline, mut expected) = (pipe(), Vec::new());
        for _ in 0..2 {
            for [_, (key, count), _] in &mut self.counters {
                pipeline.incr(&*key, 1);
                *count += 1;
                expected.push(*count);
            }
        }
        let ask = || self.client.query(&pipeline);
        load.check(self.kind, "a pipeline", ask, &expected);
    }

    fn write_all(&mut self, load: &Load<'_>) {
        self.generation += 1;
        let mut mset = cmd("MSET");
        for (at, (key, text)) in self.texts.iter_mut().enumerate() {
            *text = format!("{}:{at}", self.generation);
            mset.arg(&*key).arg(&*text);
        }
        let ask = || self.client.command(&mset);
        load.check(self.kind, "MSET", ask, &());
    }

    fn read_all(&mut self, load: &Load<'_>) {
        let mut mget = cmd("MGET");
        let mut expected = Vec::new();
        for (key, text) in &self.texts {
            mget.arg(key);
            expected.push(Some(text.clone()));
        }
        let ask = || self.client.command(&mget);
        load.check(self.kind, "MGET", ask, &expected);
        let at = self.random.below(SLOTS_EACH);
        let (key, text) = &self.texts[at];
        let ask = || self.client.ask(&["GET", key]);
        load.check(self.kind, "GET", ask, &Some(text.clone()));
    }

    fn transaction(&mut self, load: &Load<'_>) {
        let at = self.random.below(SLOTS_EACH);
        let [one, other, _] = &mut self.counters[at];
        let mut atomic = pipe();
        atomic.atomic().incr(&one.0, 1).incr(&other.0, 1);
        one.1 += 1;
        other.1 += 1;
        let ask = || self.client.query(&atomic);
        load.check(self.kind, "a transaction", ask, &(one.1, other.1));
    }

    fn script(&mut self, load: &Load<'_>) {
        let at = self.random.below(SLOTS_EACH);
        let [one, _, other] = &mut self.counters[at];
        one.1 += 1;
        other.1 += 1;
        let script = "return {redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}";
        let ask = || self.client.ask(&["EVAL", script, "2", &one.0, &other.0]);
        load.check(self.kind, "EVAL", ask, &(one.1, other.1));
    }

    /// Everything, in the end.
    fn compare(&mut self, load: &Load<'_>) {
        let (mut mget, mut expected) = (cmd("MGET"), Vec::new());
        for (key, count) in self.counters.iter().flatten() {
            mget.arg(key);
            expected.push((*count > 0).then_some(*count));
        }
        let ask = || self.client.command(&mget);
        load.check(self.kind, "MGET of all counters", ask, &expected);
    }
}

fn slot_of_name(number: usize) -> u16 {
    (number * usize::from(SLOTS) / NAMES + 7) as u16
}

/// Elements of lists come once, and in order.
fn push_and_pop(load: &Load<'_>, kind: Kind) {
    let lists: Vec<String> = (0..NAMES)
        .map(|number| key_in(slot_of_name(number), &format!("list:{kind:?}")))
        .collect();
    thread::scope(|scope| {
        let popper = scope.spawn(|| {
            let mut client = load.clients.of(kind);
            let mut seen = vec![0_u64; NAMES];
            for number in (0..NAMES).cycle() {
                let what = "BLPOP";
                let taken: Option<(String, String)> =
                    load.timed(kind, what, || client.ask(&["BLPOP", &lists[number], "15"]));
                let (_, element) = taken.expect("BLPOP: an element was pushed");
                if element == "end" {
                    break;
                }
                seen[number] += 1;
                assert_eq!(element, seen[number].to_string(), "BLPOP by {kind:?}");
            }
            seen
        });
        let mut client = load.clients.of(kind);
        let mut pushed = 0_u64;
        while !load.has_ended() {
            pushed += 1;
            for list in &lists {
                let text = pushed.to_string();
                load.timed(kind, "RPUSH", || client.ask::<i64>(&["RPUSH", list, &text]));
                thread::sleep(PAUSE);
            }
        }
        load.timed(kind, "RPUSH", || {
            client.ask::<i64>(&["RPUSH", &lists[0], "end"])
        });
        let seen = popper.join().unwrap();
        assert_eq!(seen, vec![pushed; NAMES], "elements by {kind:?}");
        println!("    {kind:?}: {} elements", pushed * NAMES as u64);
    });
}

/// What sharded channels have brought.
#[derive(Default)]
struct Heard {
    last: BTreeMap<Vec<u8>, u64>,
    messages: u64,
    gaps: u64,
    missed: u64,
}

impl Heard {
    /// False at the end.
    fn take(&mut self, event: Option<Event>) -> bool {
        match event {
            Some(Event::Message(message)) => {
                if message.payload == b"end" {
                    return false;
                }
                let number: u64 = String::from_utf8(message.payload).unwrap().parse().unwrap();
                let last = self.last.entry(message.channel).or_default();
                assert!(number > *last, "{number} of a channel after {last}");
                self.messages += 1;
                self.gaps += u64::from(number > *last + 1 && *last > 0);
                *last = number;
            }
            Some(Event::Missed { .. }) => self.missed += 1,
            Some(_) => {}
            None => panic!("no message within {PATIENCE:?}"),
        }
        true
    }
}

/// Sharded channels move with their slots: in order, never twice, and no gap is kept secret.
fn publish_and_hear(load: &Load<'_>) {
    let channels: Vec<String> = (0..NAMES)
        .map(|number| key_in(slot_of_name(number), "channel"))
        .collect();
    thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let blocking = {
            let ready = ready.clone();
            scope.spawn({
                let channels = &channels;
                move || {
                    let mut subscriber = load.clients.blocking.subscriber();
                    subscriber.ssubscribe(channels).unwrap();
                    ready.send(()).unwrap();
                    let mut heard = Heard::default();
                    while heard.take(subscriber.next_event(PATIENCE)) {}
                    heard
                }
            })
        };
        let tokio = scope.spawn({
            let channels = &channels;
            move || {
                load.clients.runtime.block_on(async {
                    let mut subscriber = load.clients.tokio.subscriber();
                    subscriber.ssubscribe(channels).await.unwrap();
                    ready.send(()).unwrap();
                    let mut heard = Heard::default();
                    while heard.take(subscriber.next_event(PATIENCE).await) {}
                    heard
                })
            }
        });
        is_ready.recv().unwrap();
        is_ready.recv().unwrap();
        let mut client = load.clients.of(Kind::Blocking);
        let mut number = 0_u64;
        while !load.has_ended() {
            number += 1;
            for channel in &channels {
                let text = number.to_string();
                let ask = || client.ask::<i64>(&["SPUBLISH", channel, &text]);
                load.timed(Kind::Blocking, "SPUBLISH", ask);
                thread::sleep(PAUSE);
            }
        }
        // One of them may be about to be subscribed anew.
        while !(blocking.is_finished() && tokio.is_finished()) {
            let ask = || client.ask::<i64>(&["SPUBLISH", &channels[0], "end"]);
            load.timed(Kind::Blocking, "SPUBLISH", ask);
            thread::sleep(Duration::from_millis(20));
        }
        for (name, thread) in [("blocking", blocking), ("on tokio", tokio)] {
            let heard = thread.join().unwrap();
            println!(
                "    subscriber {name}: {} of {} messages, {} gaps, {} times missed",
                heard.messages,
                number * NAMES as u64,
                heard.gaps,
                heard.missed
            );
            assert!(heard.missed > 0, "no channel has moved");
            assert!(heard.gaps <= heard.missed * NAMES as u64, "a secret gap");
            assert!(heard.messages > number * NAMES as u64 / 2);
        }
    });
}

/// Each pass of SCAN finds every key that rests, once.
fn scan(load: &Load<'_>, kind: Kind) {
    let mut client = load.clients.of(kind);
    let mut passes = 0;
    while !load.has_ended() || passes == 0 {
        let mut found: Vec<String> = match &mut client {
            AnyClient::Blocking(client) => {
                let keys = client.scan_all().with_pattern("*:resting:*");
                keys.map(|key| String::from_utf8(key.unwrap()).unwrap())
                    .collect()
            }
            other => {
                let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
                loop {
                    let words = ["SCAN", &cursor, "MATCH", "*:resting:*", "COUNT", "500"];
                    let ask = || other.ask::<(String, Vec<String>)>(&words);
                    let (next, some) = load.timed(kind, "SCAN", ask);
                    found.extend(some);
                    cursor = next;
                    if cursor == "0" {
                        break found;
                    }
                }
            }
        };
        found.sort();
        let count = found.len();
        found.dedup();
        assert_eq!((count, found.len()), (RESTING, RESTING), "SCAN by {kind:?}");
        passes += 1;
        thread::sleep(SCAN_PAUSE);
    }
    println!("    {kind:?}: {passes} passes of SCAN");
}

/// Moves slots until the time is over. Returns how many.
fn move_slots(cluster: &Cluster, until: Instant) -> usize {
    let mut moved = 0;
    if duration().is_none() {
        for step in 0.. {
            if Instant::now() > until && step > 2 {
                break;
            }
            let (from, to) = (step % 3, (step + 1) % 3);
            match step % 3 {
                2 if redis_cli().is_some() => moved += rebalance(cluster, &[1.0, 1.02, 0.98], step),
                _ => moved += reshard(cluster, from, to, STEP),
            }
            if cluster.server.moves_atomically() {
                moved += migrate(cluster, to, from, STEP);
            }
        }
        return moved;
    }
    // Everything of one node, and everything back.
    for step in 0.. {
        if Instant::now() > until {
            break;
        }
        let (from, to) = (step % 3, (step + 1) % 3);
        moved += match step % 3 {
            0 if cluster.server.moves_atomically() => migrate(cluster, from, to, SLOTS.into()),
            0 | 1 => reshard(cluster, from, to, count(cluster, from)),
            _ => rebalance(cluster, &[1.0, 1.0, 1.0], step),
        };
    }
    moved
}

fn count(cluster: &Cluster, node: usize) -> usize {
    cluster.slots(node).into_iter().map(Iterator::count).sum()
}

fn reshard(cluster: &Cluster, from: usize, to: usize, slots: usize) -> usize {
    let start = Instant::now();
    let slots = reshard_now(cluster, from, to, slots);
    println!(
        "    reshard: {slots} slots from {from} to {to} in {:?}",
        start.elapsed()
    );
    slots
}

fn reshard_now(cluster: &Cluster, from: usize, to: usize, slots: usize) -> usize {
    let slots = slots.min(count(cluster, from));
    if slots > 0 && !cluster.reshard(from, to, slots) {
        let own: Vec<u16> = cluster
            .slots(from)
            .into_iter()
            .flatten()
            .take(slots)
            .collect();
        cluster.move_slots(&own, to);
    }
    slots
}

fn rebalance(cluster: &Cluster, weights: &[f64], step: usize) -> usize {
    let counts = || (0..3).map(|node| count(cluster, node)).collect::<Vec<_>>();
    let before = counts();
    let weights: Vec<(usize, f64)> = (0..3)
        .map(|node| (node, weights[(node + step) % 3]))
        .collect();
    if !cluster.rebalance(&weights) {
        return reshard(cluster, 0, 1, STEP);
    }
    let after = counts();
    before
        .iter()
        .zip(after)
        .map(|(before, after)| after.saturating_sub(*before))
        .sum()
}

/// Whole ranges, by Valkey itself.
fn migrate(cluster: &Cluster, from: usize, to: usize, most: usize) -> usize {
    let mut moved = 0;
    for range in cluster.slots(from) {
        let left = most - moved;
        if left == 0 {
            break;
        }
        let last = usize::from(*range.end()).min(usize::from(*range.start()) + left - 1);
        moved += last + 1 - usize::from(*range.start());
        cluster.migrate_slots(*range.start()..=last as u16, to);
    }
    moved
}

fn reshard_under_load(server: &Server) {
    let cluster = Cluster::start(server, 3, 0);
    let describe = || {
        let builder = ShardedClient::builder().cluster(cluster.urls());
        builder.response_timeout(PATIENCE)
    };
    let load = Load {
        cluster: &cluster,
        clients: AllClients::open(describe),
        ended: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        longest: AtomicU64::new(0),
    };
    let mut random = Random(seed());
    let mut mset = cmd("MSET");
    for number in 0..RESTING {
        let slot = random.below(SLOTS.into()) as u16;
        mset.arg(key_in(slot, &format!(":resting:{number}")))
            .arg(number);
    }
    assert_eq!(load.clients.of(Kind::Blocking).command(&mset), Ok(()));
    let start = Instant::now();
    let until = start + duration().unwrap_or(Duration::from_secs(DEFAULT_SECONDS));
    let moved = thread::scope(|scope| {
        let end = End(&load.ended);
        for number in 0..WORKERS {
            let (load, random) = (&load, Random(random.next()));
            scope.spawn(move || Worker::new(number, load, random).work(load));
        }
        for kind in KINDS {
            let load = &load;
            scope.spawn(move || push_and_pop(load, kind));
        }
        for kind in KINDS {
            let load = &load;
            scope.spawn(move || scan(load, kind));
        }
        scope.spawn(|| publish_and_hear(&load));
        let moved = move_slots(&cluster, until);
        drop(end);
        moved
    });
    cluster.wait_until_agreed();
    let total = |code: &str| (0..3).map(|node| cluster.errors(node, code)).sum::<u64>();
    println!(
        "{}: {moved} slots moved in {:?} under {} requests; {} MOVED, {} ASK, {} TRYAGAIN; the longest took {:?}",
        server.name,
        start.elapsed(),
        load.requests.load(Ordering::Relaxed),
        total("MOVED"),
        total("ASK"),
        total("TRYAGAIN"),
        Duration::from_micros(load.longest.load(Ordering::Relaxed)),
    );
    assert!(total("MOVED") > 0, "no request met a slot that had moved");
    // No key is anywhere but at its owner.
    let mut client = load.clients.of(Kind::Blocking);
    let all: usize = client.ask(&["DBSIZE"]).unwrap();
    let mut owned = 0;
    for node in 0..3 {
        let mut counts = pipe();
        let slots: Vec<u16> = cluster.slots(node).into_iter().flatten().collect();
        for slot in &slots {
            counts.cmd("CLUSTER").arg("COUNTKEYSINSLOT").arg(slot);
        }
        if !slots.is_empty() {
            let counts: Vec<usize> = counts.query(&mut cluster.connection(node)).unwrap();
            owned += counts.into_iter().sum::<usize>();
        }
    }
    assert_eq!(all, owned);
    let _: Value = client.ask(&["PING"]).unwrap();
}

#[test]
fn nothing_is_lost_doubled_or_missing_while_slots_move_under_load() {
    servers().iter().for_each(reshard_under_load);
}
