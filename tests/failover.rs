//! Primaries, replicas and Sentinels die, hang and are cut off, while 16 workers count through both clients and a proxy.
//!
//! Each counter has one worker, which keeps account of every INCR: acknowledged, unknown, or certainly not done. Whatever
//! happens, `acknowledged <= value <= acknowledged + unknown`, beyond what replication itself loses: writes that the
//! replica did not have when the primary was lost. Those that it had, as WAIT has said, are all there. After the death of a
//! primary the service is back at most [`Source::served_within`] after Sentinel's own failover.
//!
//! Half of the workers know the primaries from Sentinel, half ask the servers for their roles.
//!
//! `FAILOVER_SECONDS` prolongs it, `FAILOVER_SEED` repeats the order of the faults (though not the timing).
#![cfg(feature = "tokio-comp")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use redis::{AsyncCommands, Commands, RedisError, RedisResult, cmd, pipe};
use redis_sharding::{Builder, Error, ErrorKind, PartStatus, Sentinel, ShardedClient};
use support::all_clients::{AllClients, AnyClient, End, KINDS, Kind, Random};
use support::cut::Mode;
use support::replicas::{Role, wait_until};
use support::sentinels::Events;
use support::{ReplicaSet, Sentinels};

const WORKERS: usize = 16;
/// Nodes, each a primary with one replica: what WAIT 1 has acknowledged is on the only server that can be promoted.
const NODES: usize = 2;
const MASTERS: [&str; NODES] = ["users-a", "users-b"];
/// Of every counter in every node.
const COUNTERS: usize = 2;
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long a primary is busy with one command.
const SLEEP: Duration = Duration::from_secs(6);
/// How long WAIT may wait, in milliseconds: less than it takes to make a replica of a former primary.
const WAIT_MS: u64 = 100;
/// How a client knows where the primaries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It asks Sentinel, and listens to it.
    Sentinel,
    /// It was given both servers of each node, and asks them for their roles.
    Roles,
}

const SOURCES: [Source; 2] = [Source::Sentinel, Source::Roles];

impl Source {
    /// After `+switch-master`.
    fn served_within(self) -> Duration {
        match self {
            Self::Sentinel => Duration::from_secs(1),
            // It asks about once a second, and a server that hangs takes its time.
            Self::Roles => Duration::from_secs(4),
        }
    }
}
/// An answer takes no longer, whatever happens.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

fn seed() -> u64 {
    let seed = std::env::var("FAILOVER_SEED").ok().map_or_else(
        || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |seed| seed.parse().expect("FAILOVER_SEED is a number"),
    );
    println!("FAILOVER_SEED={seed}");
    seed
}

/// How long faults are begun; `None`: each kind once.
fn duration() -> Option<Duration> {
    let seconds = std::env::var("FAILOVER_SECONDS").ok()?;
    let seconds = seconds.parse().expect("FAILOVER_SECONDS is a number");
    Some(Duration::from_secs(seconds))
}

/// What an INCR returned, and on how many replicas it was within [`WAIT_MS`], if that was asked for.
type Counted = RedisResult<(i64, u64)>;

fn incr(client: &mut AnyClient, key: &str) -> Counted {
    Ok((client.ask(&["INCR", key])?, 0))
}

/// With WAIT on the connection of INCR, in one pipeline.
fn incr_and_wait(client: &mut AnyClient, key: &str) -> Counted {
    let mut pipeline = pipe();
    pipeline.incr(key, 1).add_command(wait());
    match client {
        AnyClient::Blocking(client) => pipeline.query(&mut client.node_for(key)?),
        AnyClient::Async(client, runtime) => {
            let mut node = client.node_for(key)?;
            runtime.block_on(pipeline.query_async(&mut node))
        }
        // To all nodes: it counts only while all of them have their replicas.
        AnyClient::Proxy(..) => {
            let value = client.ask(&["INCR", key])?;
            Ok((value, client.command(&wait()).unwrap_or(0)))
        }
    }
}

/// Over a dedicated connection, WAIT after INCR has returned.
fn incr_dedicated(client: &mut AnyClient, key: &str) -> Counted {
    match client {
        AnyClient::Blocking(client) => {
            let mut connection = client.dedicated(key)?;
            let value = connection.incr(key, 1)?;
            Ok((value, wait().query(&mut connection).unwrap_or(0)))
        }
        AnyClient::Async(client, runtime) => runtime.block_on(async {
            let mut connection = client.dedicated(key).await?;
            let value = connection.incr(key, 1).await?;
            let replicas = wait().query_async(&mut connection).await;
            Ok((value, replicas.unwrap_or(0)))
        }),
        AnyClient::Proxy(..) => incr_and_wait(client, key),
    }
}

fn wait() -> redis::Cmd {
    let mut wait = cmd("WAIT");
    wait.arg(1).arg(WAIT_MS);
    wait
}

/// A counter and what its worker believes.
struct Counter {
    key: String,
    node: usize,
    /// Acknowledged, and on the replica.
    durable: i64,
    /// Acknowledged.
    at_risk: i64,
    unknown: i64,
}

impl Counter {
    fn new((node, key): (usize, String)) -> Self {
        Self {
            key,
            node,
            durable: 0,
            at_risk: 0,
            unknown: 0,
        }
    }

    fn counted(&mut self, outcome: &Counted) {
        match outcome {
            Ok((_, 1..)) => self.durable += 1,
            Ok((_, 0)) => self.at_risk += 1,
            // INCR was answered, and WAIT was not.
            Err(error) if is_done(error, &self.key) => self.at_risk += 1,
            Err(error) if is_unknown(error) => self.unknown += 1,
            Err(_) => {}
        }
    }

    /// Returns how many acknowledged writes are lost, at least.
    fn check(&self, value: i64) -> i64 {
        let Self { key, durable, .. } = self;
        assert!(
            value >= *durable,
            "{key} is {value}; the replica had {durable}"
        );
        let most = durable + self.at_risk + self.unknown;
        assert!(value <= most, "{key} is {value}; {most} were sent");
        (durable + self.at_risk - value).max(0)
    }
}

/// Whether the error of a pipeline says that its write of this key was done.
fn is_done(error: &RedisError, key: &str) -> bool {
    let parts = Error::of(error).map(Error::parts).unwrap_or_default();
    let of_key = |keys: &[Vec<u8>]| keys.iter().any(|own| own == key.as_bytes());
    let mut done = parts.iter().filter(|part| part.status == PartStatus::Done);
    done.any(|part| of_key(&part.keys))
}

/// Whether a write that failed may have been done.
fn is_unknown(error: &RedisError) -> bool {
    match ErrorKind::of(error) {
        ErrorKind::Unknown => true,
        ErrorKind::NodeDown | ErrorKind::PoolTimeout | ErrorKind::Timeout => false,
        // What servers say that refuse: the write was not done.
        ErrorKind::Redis if is_refusal(error) => false,
        other => panic!("{other:?} is no answer to a counter: {error}"),
    }
}

fn is_refusal(error: &RedisError) -> bool {
    const REFUSALS: [&str; 5] = ["BUSY", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN"];
    error.code().is_some_and(|code| REFUSALS.contains(&code))
}

/// When requests succeeded, by kind of client and node.
#[derive(Default)]
struct Successes([[[Mutex<Vec<Instant>>; NODES]; KINDS.len()]; SOURCES.len()]);

impl Successes {
    fn add(&self, source: Source, kind: Kind, node: usize) {
        self.0[source as usize][kind as usize][node]
            .lock()
            .unwrap()
            .push(Instant::now());
    }

    /// The first one at or after a time.
    fn first(&self, source: Source, kind: Kind, node: usize, since: Instant) -> Option<Instant> {
        let times = self.0[source as usize][kind as usize][node].lock().unwrap();
        // Each worker's are in order, all workers' nearly.
        let after = times.iter().rev().take_while(|&&at| at >= since);
        after.min().copied()
    }
}

/// Everything that a test has running, with what it needs to break it.
struct Fleet {
    sets: Vec<ReplicaSet>,
    sentinels: Sentinels,
    events: Events,
    successes: Successes,
    /// Of all workers; each changes its own.
    counters: Mutex<Vec<Arc<Mutex<Counter>>>>,
    /// Failovers that the workers have lived through.
    failovers: AtomicU64,
    ended: AtomicBool,
}

/// What is done to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillPrimary,
    PausePrimary,
    SleepingPrimary,
    CutPrimary,
    StalledPrimary,
    ResetPrimary,
    /// Shorter than it takes to be noticed by Sentinel.
    PauseShortly,
    KillReplica,
    PauseReplica,
    /// While one Sentinel is dead.
    KillPrimaryAndSentinel,
    /// While one Sentinel hangs.
    KillPrimaryAndPauseSentinel,
    /// While neither clients nor the other Sentinels reach one.
    KillPrimaryAndCutSentinel,
    /// While the primary is well.
    SentinelsHang,
    Command,
}

const FAULTS: [Fault; 14] = [
    Fault::KillPrimary,
    Fault::PausePrimary,
    Fault::CutPrimary,
    Fault::SleepingPrimary,
    Fault::KillPrimaryAndSentinel,
    Fault::KillReplica,
    Fault::StalledPrimary,
    Fault::KillPrimaryAndPauseSentinel,
    Fault::ResetPrimary,
    Fault::PauseReplica,
    Fault::SentinelsHang,
    Fault::KillPrimaryAndCutSentinel,
    Fault::PauseShortly,
    Fault::Command,
];

impl Fleet {
    fn start() -> Option<Self> {
        let sets: Option<Vec<_>> = (0..NODES)
            .map(|_| ReplicaSet::builder().password("secret").cuts().start(1))
            .collect();
        let sets = sets?;
        let sentinels = (0..NODES).fold(Sentinels::builder(), |builder, node| {
            builder.watch(MASTERS[node], &sets[node])
        });
        let sentinels = sentinels
            .password("word")
            .cuts()
            .failover_timeout(Duration::from_secs(2))
            .start(3);
        Some(Self {
            events: sentinels.events(),
            sets,
            sentinels,
            successes: Successes::default(),
            counters: Mutex::default(),
            failovers: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// A client over the nodes.
    fn describe(&self, source: Source) -> Builder {
        let builder = ShardedClient::builder();
        let builder = match source {
            Source::Sentinel => {
                let sentinel = Sentinel::new(self.sentinels.urls());
                let sentinel = sentinel.with_node("redis://:secret@primary/");
                builder.sentinel_nodes(sentinel, MASTERS)
            }
            Source::Roles => {
                let nodes = MASTERS.iter().zip(&self.sets);
                nodes.fold(builder, |builder, (name, set)| {
                    builder.node(*name, set.url(0)).replica(*name, set.url(1))
                })
            }
        };
        builder.connect_timeout(TIMEOUT).response_timeout(TIMEOUT)
    }

    fn primary(&self, node: usize) -> usize {
        let addr = self.sentinels.primary(MASTERS[node]);
        self.sets[node].index_of(&addr).expect("one of ours")
    }

    /// Breaks something of a node and mends it.
    fn break_one(&self, fault: Fault, node: usize) {
        let (set, primary) = (&self.sets[node], self.primary(node));
        let (replica, cut) = (1 - primary, set.cut(primary));
        let since = Instant::now();
        match fault {
            Fault::KillPrimary => self.kill_primary(node, primary),
            Fault::PausePrimary => {
                set.pause(primary);
                self.failed_over(fault, node, since);
                set.resume(primary);
            }
            Fault::SleepingPrimary => {
                set.sleep(primary, SLEEP);
                // On a busy machine it may be awake before the Sentinels have agreed.
                let end = since + SLEEP;
                let switch = self.events.wait_for_switch_until(MASTERS[node], since, end);
                match switch {
                    Some(_) => self.failed_over(fault, node, since),
                    None => self.is_served(node, end, fault),
                }
            }
            Fault::CutPrimary | Fault::StalledPrimary | Fault::ResetPrimary => {
                let mode = match fault {
                    Fault::CutPrimary => Mode::Drop,
                    Fault::StalledPrimary => Mode::Stall,
                    _ => Mode::Reset,
                };
                let touched =
                    || cut.bytes_dropped() + cut.bytes_stalled() + cut.connections_reset();
                let before = touched();
                cut.set(mode);
                self.failed_over(fault, node, since);
                assert!(touched() > before, "{fault:?} took no effect");
                cut.set(Mode::Pass);
            }
            Fault::PauseShortly => {
                set.pause(primary);
                thread::sleep(Duration::from_millis(200));
                set.resume(primary);
            }
            Fault::KillReplica => {
                set.kill(replica);
                thread::sleep(Duration::from_millis(500));
                set.restart_following(replica, primary);
            }
            Fault::PauseReplica => {
                set.pause(replica);
                thread::sleep(Duration::from_millis(500));
                set.resume(replica);
            }
            Fault::KillPrimaryAndSentinel => {
                self.sentinels.kill(node);
                self.kill_primary(node, primary);
                self.sentinels.restart(node);
            }
            Fault::KillPrimaryAndPauseSentinel => {
                self.sentinels.pause(node);
                self.kill_primary(node, primary);
                self.sentinels.resume(node);
            }
            Fault::KillPrimaryAndCutSentinel => {
                let cut = self.sentinels.cut(node);
                cut.set(Mode::Drop);
                self.kill_primary(node, primary);
                assert!(cut.bytes_dropped() > 0, "{fault:?} took no effect");
                cut.set(Mode::Pass);
            }
            Fault::SentinelsHang => {
                let each = 0..self.sentinels.len();
                each.clone().for_each(|index| self.sentinels.pause(index));
                thread::sleep(Duration::from_secs(1));
                let now = Instant::now();
                self.is_served(node, now, fault);
                each.for_each(|index| self.sentinels.resume(index));
            }
            Fault::Command => {
                self.sentinels.failover(MASTERS[node]);
                self.failed_over(fault, node, since);
            }
        }
        self.mended(node);
        println!("    {} acknowledged writes lost until now", self.lost(node));
    }

    /// How many acknowledged writes are not there, about: workers go on in the meantime.
    fn lost(&self, node: usize) -> i64 {
        let mut connection = self.sets[node].connection(self.primary(node));
        let counters = self.counters.lock().unwrap();
        let lost = counters.iter().map(|counter| {
            let counter = counter.lock().unwrap();
            let value: Option<i64> = connection.get(&counter.key).unwrap();
            let acknowledged = counter.durable + counter.at_risk;
            match counter.node == node {
                true => (acknowledged - value.unwrap_or(0)).max(0),
                false => 0,
            }
        });
        lost.sum()
    }

    fn kill_primary(&self, node: usize, primary: usize) {
        let since = Instant::now();
        self.sets[node].kill(primary);
        self.failed_over(Fault::KillPrimary, node, since);
        // Empty, and a primary until Sentinel says otherwise.
        self.sets[node].restart(primary);
    }

    /// Waits for Sentinel's failover, and checks that all clients follow it in time.
    fn failed_over(&self, fault: Fault, node: usize, since: Instant) {
        let switch = self.events.wait_for_switch(MASTERS[node], since);
        self.failovers.fetch_add(1, Ordering::Relaxed);
        println!(
            "{fault:?} of {}: switched after {:?}",
            MASTERS[node],
            switch.at - since
        );
        self.is_served(node, switch.at, fault);
    }

    /// Waits until all clients are served, and checks that this does not take long.
    fn is_served(&self, node: usize, since: Instant, fault: Fault) {
        for (source, kind) in SOURCES
            .into_iter()
            .flat_map(|source| KINDS.map(|kind| (source, kind)))
        {
            let first = || self.successes.first(source, kind, node, since);
            wait_until("the service is back", || first().is_some());
            let took = first().expect("it is there") - since;
            println!("    {source:?}, {kind:?}: served {took:?} later");
            let limit = source.served_within();
            assert!(
                took <= limit,
                "{source:?}, {kind:?}: {took:?} after {fault:?}"
            );
        }
    }

    /// Waits until the node has one primary and a replica, and the Sentinels agree.
    fn mended(&self, node: usize) {
        let set = &self.sets[node];
        wait_until("one primary and one replica", || {
            let roles = [0, 1].map(|index| set.role(index));
            roles.contains(&Ok(Role::Primary)) && roles.contains(&Ok(Role::Replica))
        });
        let primary = set.primaries()[0];
        self.sentinels
            .wait_until_agreed(MASTERS[node], &set.addr(primary), 1);
        set.wait_until_linked(primary);
    }
}

/// Who counts.
struct Worker<'a> {
    fleet: &'a Fleet,
    source: Source,
    kind: Kind,
    seed: u64,
}

/// Counts until it is told to end.
fn work(worker: Worker<'_>, client: &mut AnyClient, counters: &[Arc<Mutex<Counter>>]) {
    let Worker {
        fleet,
        source,
        kind,
        seed,
    } = worker;
    let mut random = Random(seed);
    while !fleet.ended.load(Ordering::Relaxed) {
        let shared = &counters[random.below(counters.len())];
        let key = shared.lock().unwrap().key.clone();
        let start = Instant::now();
        let outcome = match random.below(8) {
            0 => incr_dedicated(client, &key),
            1..=4 => incr_and_wait(client, &key),
            5 | 6 => incr(client, &key),
            _ => match client.ask::<Option<i64>>(&["GET", &key]) {
                Ok(_) => continue,
                Err(error) => {
                    // Nothing was written: only the kind of the error counts.
                    is_unknown(&error);
                    continue;
                }
            },
        };
        let took = start.elapsed();
        assert!(took < ANSWER_WITHIN, "{kind:?}: an answer after {took:?}");
        let mut counter = shared.lock().unwrap();
        counter.counted(&outcome);
        if outcome.is_ok() {
            fleet.successes.add(source, kind, counter.node);
        }
        drop(counter);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn counters_survive_failovers_and_clients_of_sentinel_and_of_roles_follow_in_time() {
    let Some(fleet) = Fleet::start() else {
        return;
    };
    let mut random = Random(seed());
    let clients = SOURCES.map(|source| AllClients::open(|| fleet.describe(source)));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let kind = KINDS[number % KINDS.len()];
                let source = SOURCES[number / KINDS.len() % SOURCES.len()];
                let clients = &clients[source as usize];
                let keys = clients.keys(&format!("counter-{number}"), COUNTERS);
                let counters = keys.into_iter().map(Counter::new).map(Mutex::new);
                let counters: Vec<_> = counters.map(Arc::new).collect();
                fleet
                    .counters
                    .lock()
                    .unwrap()
                    .extend(counters.iter().cloned());
                let (mut client, seed) = (clients.of(kind), random.next());
                let worker = Worker {
                    fleet: &fleet,
                    source,
                    kind,
                    seed,
                };
                scope.spawn(move || work(worker, &mut client, &counters))
            })
            .collect();
        let end = End(&fleet.ended);
        match duration() {
            None => {
                for (number, fault) in FAULTS.into_iter().enumerate() {
                    fleet.break_one(fault, number % NODES);
                }
            }
            Some(duration) => {
                let until = Instant::now() + duration;
                while Instant::now() < until {
                    let fault = FAULTS[random.below(FAULTS.len())];
                    fleet.break_one(fault, random.below(NODES));
                }
            }
        }
        drop(end);
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
    });
    settle(&fleet);
}

/// Everything is well again; compares.
fn settle(fleet: &Fleet) {
    (0..NODES).for_each(|node| fleet.mended(node));
    let [by_sentinel, by_roles] = SOURCES.map(|source| fleet.describe(source).build().unwrap());
    let counters = fleet.counters.lock().unwrap();
    let counters: Vec<_> = counters
        .iter()
        .map(|counter| counter.lock().unwrap())
        .collect();
    let mut lost = 0;
    for counter in &counters {
        let (set, primary) = (&fleet.sets[counter.node], fleet.primary(counter.node));
        let value: Option<i64> = set.connection(primary).get(&counter.key).unwrap();
        for client in [&by_sentinel, &by_roles] {
            // One that was given a primary that is a replica now has to ask first.
            wait_until("a new client reads what the primary has", || {
                client.clone().get(&counter.key) == Ok(value)
            });
        }
        lost += counter.check(value.unwrap_or(0));
    }
    // No counter is anywhere but at its owner.
    for node in 0..NODES {
        let mut connection = fleet.sets[node].connection(fleet.primary(node));
        let there: BTreeSet<String> = connection.keys("*").unwrap();
        let own = counters.iter().filter(|counter| counter.node == node);
        let own: BTreeSet<String> = own.map(|counter| counter.key.clone()).collect();
        assert!(there.is_subset(&own), "{there:?}");
    }
    let sum =
        |count: fn(&Counter) -> i64| counters.iter().map(|counter| count(counter)).sum::<i64>();
    let (durable, at_risk) = (
        sum(|counter| counter.durable),
        sum(|counter| counter.at_risk),
    );
    let unknown = sum(|counter| counter.unknown);
    println!(
        "{durable} acknowledged and on the replica, {at_risk} acknowledged, of which {lost} are lost, {unknown} unknown; \
         {} failovers",
        fleet.failovers.load(Ordering::Relaxed)
    );
    assert!(durable > 500, "only {durable} were on the replica");
    assert!(unknown > 0, "the faults met no request");
}
