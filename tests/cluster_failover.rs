//! Primaries of a Redis Cluster die, hang, are cut off and are replaced, while 16 workers count through both clients and a
//! proxy.
//!
//! Each counter has one worker, which keeps account of every INCR: acknowledged, unknown, or certainly not done. Whatever
//! happens, `acknowledged <= value <= acknowledged + unknown`, beyond what the servers lose by themselves: writes that no
//! replica had when the primary died, and those that a primary acknowledges after its replica's promotion, of which it has
//! not heard. Both are counted; WAIT shows them: what it has acknowledged is all there. The service is back soon after each
//! promotion.
//!
//! `FAILOVER_SECONDS` prolongs it, `FAILOVER_SEED` repeats the order of the faults (though not the timing).
#![cfg(feature = "tokio-comp")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use redis::{RedisError, RedisResult, pipe};
use redis_sharding::{Builder, Error, ErrorKind, PartStatus, ShardedClient};
use support::all_clients::{AllClients, AnyClient, End, KINDS, Kind, Random};
use support::clusters::{Cluster, SLOTS, Server, key_in, on_each_server};
use support::cut::Mode;
use support::replicas::wait_until;

const WORKERS: usize = 16;
/// Of these, so many wait for an answer until a primary that was stopped goes on, and hear what it says then.
const PATIENT: usize = 4;
/// Primaries, each with one replica: what WAIT 1 has acknowledged is on the only node that can be promoted.
const SHARDS: usize = 3;
/// Of every worker in every shard.
const COUNTERS: usize = 2;
const NODE_TIMEOUT: Duration = Duration::from_millis(1000);
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long WAIT may wait, in milliseconds: less than it takes to make a replica of a former primary.
const WAIT_MS: u64 = 100;
/// After a promotion. One second on a machine with nothing else to do.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// An answer takes no longer, whatever happens.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(15);

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

/// What is done to a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    /// CLUSTER FAILOVER: nothing may be lost.
    Command,
    /// SIGSTOP, and back after the promotion: it goes on as a primary for a moment.
    Pause,
    /// Other nodes and clients do not reach it.
    CutOff,
    /// Other nodes do not reach it, clients do: it goes on acknowledging until it finds itself in a minority.
    Part,
    /// Connections of clients are reset.
    Reset,
    /// Shorter than the node timeout.
    PauseShortly,
    KillReplica,
}

const FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::Command,
    Fault::Pause,
    Fault::CutOff,
    Fault::Part,
    Fault::Reset,
    Fault::PauseShortly,
    Fault::KillReplica,
];

/// A counter and what its worker believes.
struct Counter {
    key: String,
    shard: usize,
    /// Acknowledged, and on the replica.
    durable: i64,
    /// Acknowledged.
    at_risk: i64,
    unknown: i64,
    /// Of those at risk, those whose value was not seen, so that nobody can tell whether they are lost.
    unseen: i64,
    /// Which values were acknowledged, and when: those above a later one are lost.
    acknowledged: Vec<(i64, Instant)>,
    lost: Vec<Instant>,
    /// What was not simply the next number, to look at when the sum is wrong.
    odd: Vec<String>,
}

impl Counter {
    fn new(shard: usize, key: String) -> Self {
        Self {
            key,
            shard,
            durable: 0,
            at_risk: 0,
            unknown: 0,
            unseen: 0,
            acknowledged: Vec::new(),
            lost: Vec::new(),
            odd: Vec::new(),
        }
    }

    fn counted(&mut self, outcome: &RedisResult<(i64, u64)>, how: &str) {
        let last = self.acknowledged.last().map_or(0, |(value, _)| *value);
        let event = match outcome {
            Ok((value, replicas)) => format!("{value} after {last}, on {replicas} replicas"),
            Err(error) => format!("{:?} {error}", ErrorKind::of(error)),
        };
        self.odd.push(format!("{how}: {event}"));
        match outcome {
            Ok((value, replicas)) => {
                self.forget_from(*value);
                self.acknowledged.push((*value, Instant::now()));
                match replicas {
                    0 => self.at_risk += 1,
                    _ => self.durable += 1,
                }
            }
            // INCR was answered, and WAIT was not.
            Err(error) if is_done(error, &self.key) => {
                self.at_risk += 1;
                self.unseen += 1;
            }
            Err(error) if is_unknown(error) => self.unknown += 1,
            Err(_) => {}
        }
    }

    /// What was acknowledged and is not there.
    fn forget_from(&mut self, value: i64) {
        while let Some((_, at)) = self.acknowledged.pop_if(|(own, _)| *own >= value) {
            self.lost.push(at);
        }
    }

    fn check(&mut self, value: i64) {
        self.forget_from(value + 1);
        let Self { key, durable, .. } = self;
        assert!(
            value >= *durable,
            "{key} is {value}; the replica had {durable}"
        );
        let acknowledged = *durable + self.at_risk;
        let lost = self.lost.len() as i64;
        assert!(
            value >= acknowledged - lost - self.unseen,
            "{key} is {value} of {acknowledged}, {lost} of which the servers have lost"
        );
        let most = acknowledged + self.unknown;
        assert!(
            value <= most,
            "{key} is {value}; {most} were sent; {:#?}",
            self.odd
        );
    }
}

/// Whether the error of a pipeline says that its write of this key was done.
fn is_done(error: &RedisError, key: &str) -> bool {
    let text = error.to_string();
    if text.starts_with("Pipeline failure") {
        // WAIT alone was refused, say because the primary has become a replica.
        return !text.contains("(Index 0,");
    }
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
        // The node of a handle is a replica by now: see `incr`.
        ErrorKind::Unroutable => false,
        // What nodes say that refuse: the write was not done.
        ErrorKind::Redis if is_refusal(error) => false,
        other => panic!("{other:?} is no answer to a counter: {error}"),
    }
}

fn is_refusal(error: &RedisError) -> bool {
    const REFUSALS: [&str; 6] = [
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        // Of a handle to one node: see `incr`.
        "MOVED",
        "READONLY",
        "TRYAGAIN",
    ];
    error.code().is_some_and(|code| REFUSALS.contains(&code))
}

fn incr(client: &mut AnyClient, key: &str) -> RedisResult<(i64, u64)> {
    let start = Instant::now();
    let value: RedisResult<i64> = client.ask(&["INCR", key]);
    if let Err(error) = &value {
        assert_ne!(ErrorKind::of(error), ErrorKind::Unroutable, "{error}");
        // To a dead node, until the time was over.
        let (is_moved, took) = (error.code() == Some("MOVED"), start.elapsed());
        assert!(
            !is_moved || took >= RESPONSE_TIMEOUT / 2,
            "{error} after {took:?}"
        );
    }
    Ok((value?, 0))
}

/// With WAIT on the connection of INCR, in one pipeline.
fn incr_and_wait(client: &mut AnyClient, key: &str) -> RedisResult<(i64, u64)> {
    let mut pipeline = pipe();
    pipeline.incr(key, 1).cmd("WAIT").arg(1).arg(WAIT_MS);
    match client {
        AnyClient::Blocking(client) => pipeline.query(&mut client.node_for(key)?),
        AnyClient::Async(client, runtime) => {
            let mut node = client.node_for(key)?;
            runtime.block_on(pipeline.query_async(&mut node))
        }
        // WAIT asks all nodes there.
        AnyClient::Proxy(..) => incr(client, key),
    }
}

/// When requests succeeded, by kind of client and shard.
#[derive(Default)]
struct Successes([[Mutex<Vec<Instant>>; SHARDS]; KINDS.len()]);

impl Successes {
    fn add(&self, kind: Kind, shard: usize) {
        self.0[kind as usize][shard]
            .lock()
            .unwrap()
            .push(Instant::now());
    }

    /// The first one at or after a time.
    fn first(&self, kind: Kind, shard: usize, since: Instant) -> Option<Instant> {
        let times = self.0[kind as usize][shard].lock().unwrap();
        // Each worker's are in order, all workers' nearly.
        let after = times.iter().rev().take_while(|&&at| at >= since);
        after.min().copied()
    }
}

/// Everything that a test has running, with what it needs to break it.
struct Fleet {
    cluster: Cluster,
    successes: Successes,
    /// Of all workers; each changes its own.
    counters: Mutex<Vec<Arc<Mutex<Counter>>>>,
    /// By shard: when its replica was promoted, and since when its former primary knows that it is none.
    promotions: Mutex<Vec<(usize, Instant)>>,
    slowest: Mutex<Duration>,
    start: Instant,
    ended: AtomicBool,
}

impl Fleet {
    fn start(server: &Server) -> Self {
        let builder = Cluster::builder(server).cuts().node_timeout(NODE_TIMEOUT);
        Self {
            cluster: builder.start(SHARDS, 1),
            successes: Successes::default(),
            counters: Mutex::default(),
            promotions: Mutex::default(),
            slowest: Mutex::default(),
            start: Instant::now(),
            ended: AtomicBool::new(false),
        }
    }

    fn describe(&self, response_timeout: Duration) -> Builder {
        let builder = ShardedClient::builder().cluster(self.cluster.urls());
        let builder = builder.connect_timeout(RESPONSE_TIMEOUT);
        builder.response_timeout(response_timeout)
    }

    /// The primary and the replica of a shard.
    fn pair(&self, shard: usize) -> (usize, usize) {
        let pair = [shard, shard + SHARDS];
        let primaries = self.cluster.primaries();
        let primary = pair.into_iter().find(|node| primaries.contains(node));
        let primary = primary.expect("one of two is a primary");
        (primary, pair[0] + pair[1] - primary)
    }

    /// Breaks something of a shard and mends it.
    fn break_one(&self, fault: Fault, shard: usize) {
        let cluster = &self.cluster;
        let (primary, replica) = self.pair(shard);
        let (start, lost) = (Instant::now(), self.lost(shard));
        println!(
            "{:?}: {}: {fault:?} of shard {shard}: {primary} with {replica}",
            self.start.elapsed(),
            self.cluster.server.name
        );
        match fault {
            Fault::Kill => {
                cluster.kill(primary);
                self.promoted(fault, shard, primary, start);
                cluster.restart(primary);
            }
            Fault::Command => {
                let at = cluster.failover(replica);
                self.is_served(fault, shard, at);
            }
            Fault::Pause => {
                cluster.pause(primary);
                self.promoted(fault, shard, primary, start);
                cluster.resume(primary);
            }
            Fault::CutOff => {
                cluster.part(&[primary]);
                cluster.with_cut(primary, |cut| cut.set(Mode::Drop));
                self.promoted(fault, shard, primary, start);
                let dropped = cluster.with_cut(primary, |cut| cut.bytes_dropped());
                assert!(dropped > 0, "{fault:?} took no effect");
                cluster.with_cut(primary, |cut| cut.set(Mode::Pass));
                cluster.heal();
            }
            Fault::Part => {
                let before = cluster.bus_bytes_dropped();
                cluster.part(&[primary]);
                self.promoted(fault, shard, primary, start);
                assert!(cluster.bus_bytes_dropped() > before);
                cluster.heal();
            }
            Fault::Reset => {
                let reset = |cut: &support::cut::Cut| {
                    cut.reset_connections();
                    cut.connections_reset()
                };
                assert!(
                    cluster.with_cut(primary, reset) > 0,
                    "{fault:?} took no effect"
                );
                self.is_served(fault, shard, Instant::now());
            }
            Fault::PauseShortly => {
                cluster.pause(primary);
                thread::sleep(NODE_TIMEOUT / 4);
                cluster.resume(primary);
                self.is_served(fault, shard, Instant::now());
            }
            Fault::KillReplica => {
                cluster.kill(replica);
                thread::sleep(NODE_TIMEOUT / 2);
                cluster.restart(replica);
                self.is_served(fault, shard, Instant::now());
            }
        }
        self.mended(shard);
        let lost = self.lost(shard) - lost;
        println!("    {} acknowledged writes lost by the servers", lost);
        if matches!(
            fault,
            Fault::Command | Fault::Reset | Fault::PauseShortly | Fault::KillReplica
        ) {
            assert_eq!(lost, 0, "{fault:?} loses nothing");
        }
    }

    /// How many acknowledged writes have been found lost until now.
    fn lost(&self, shard: usize) -> usize {
        let counters = self.counters.lock().unwrap();
        let lost = counters.iter().map(|counter| {
            let counter = counter.lock().unwrap();
            if counter.shard == shard {
                counter.lost.len()
            } else {
                0
            }
        });
        lost.sum()
    }

    /// Waits for the promotion, and checks that all clients follow it in time.
    fn promoted(&self, fault: Fault, shard: usize, primary: usize, since: Instant) {
        let (_, at) = self.cluster.wait_until_promoted(primary);
        self.promotions.lock().unwrap().push((shard, at));
        let name = &self.cluster.server.name;
        println!(
            "{name}: {fault:?} of shard {shard}: promoted after {:?}",
            at - since
        );
        self.is_served(fault, shard, at);
    }

    /// Waits until all clients are served, and checks that this does not take long.
    fn is_served(&self, fault: Fault, shard: usize, since: Instant) {
        for kind in KINDS {
            let first = || self.successes.first(kind, shard, since);
            wait_until("the service is back", || first().is_some());
            let took = first().expect("it is there") - since;
            let name = &self.cluster.server.name;
            println!("    {name}: {fault:?}, {kind:?}: served {took:?} later");
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = took.max(*slowest);
            assert!(
                took <= SERVED_WITHIN,
                "{name}, {kind:?}: {took:?} after {fault:?}"
            );
        }
    }

    /// Waits until all nodes are well, and each shard has a primary and a replica.
    fn mended(&self, shard: usize) {
        wait_until("one primary and one replica", || {
            let primaries = self.cluster.primaries();
            let of_shard = primaries.iter().filter(|&node| node % SHARDS == shard);
            of_shard.count() == 1 && primaries.len() == SHARDS
        });
        self.cluster.wait_until_agreed();
        self.cluster.wait_until_linked();
    }
}

/// Who counts.
struct Worker<'a> {
    fleet: &'a Fleet,
    kind: Kind,
    client: AnyClient,
    is_patient: bool,
    counters: Vec<Arc<Mutex<Counter>>>,
    random: Random,
}

impl Worker<'_> {
    /// Counts until it is told to end.
    fn work(mut self) {
        let Self { fleet, kind, .. } = self;
        while !fleet.ended.load(Ordering::Relaxed) {
            let shared = &self.counters[self.random.below(self.counters.len())];
            let key = shared.lock().unwrap().key.clone();
            let start = Instant::now();
            let (name, outcome) = match self.random.below(3) {
                0 if !self.is_patient => ("with WAIT", incr_and_wait(&mut self.client, &key)),
                _ => ("INCR", incr(&mut self.client, &key)),
            };
            let took = start.elapsed();
            let how = format!("{:?} {name} took {took:?}", start - fleet.start);
            let limit = if self.is_patient {
                PATIENCE + ANSWER_WITHIN
            } else {
                ANSWER_WITHIN
            };
            assert!(took < limit, "{kind:?}: an answer after {took:?}");
            let mut counter = shared.lock().unwrap();
            counter.counted(&outcome, &how);
            if outcome.is_ok() && !self.is_patient {
                fleet.successes.add(kind, counter.shard);
            }
            drop(counter);
            thread::sleep(Duration::from_millis(3));
        }
    }
}

#[test]
fn counters_survive_failovers_of_a_cluster_and_clients_follow_in_time() {
    let seed = seed();
    on_each_server(|server| {
        let fleet = Fleet::start(server);
        let mut random = Random(seed);
        let clients = AllClients::open(|| fleet.describe(RESPONSE_TIMEOUT));
        let patient = AllClients::open(|| fleet.describe(PATIENCE));
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|number| {
                    let kind = KINDS[number % KINDS.len()];
                    let counters = (0..SHARDS * COUNTERS).map(|at| {
                        let slot = (at * usize::from(SLOTS) / (SHARDS * COUNTERS) + 31 * number + 1)
                            as u16;
                        let key = key_in(slot, &format!("counter:{number}"));
                        Arc::new(Mutex::new(Counter::new(fleet.cluster.owner(slot), key)))
                    });
                    let counters: Vec<_> = counters.collect();
                    fleet
                        .counters
                        .lock()
                        .unwrap()
                        .extend(counters.iter().cloned());
                    let is_patient = number >= WORKERS - PATIENT;
                    let clients = if is_patient { &patient } else { &clients };
                    let worker = Worker {
                        fleet: &fleet,
                        kind,
                        client: clients.of(kind),
                        is_patient,
                        counters,
                        random: Random(random.next()),
                    };
                    scope.spawn(move || worker.work())
                })
                .collect();
            let end = End(&fleet.ended);
            match duration() {
                None => {
                    for (number, fault) in FAULTS.into_iter().enumerate() {
                        fleet.break_one(fault, number % SHARDS);
                    }
                }
                Some(duration) => {
                    let until = Instant::now() + duration;
                    while Instant::now() < until {
                        let fault = FAULTS[random.below(FAULTS.len())];
                        fleet.break_one(fault, random.below(SHARDS));
                    }
                }
            }
            drop(end);
            workers
                .into_iter()
                .for_each(|worker| worker.join().unwrap());
        });
        settle(&fleet);
    });
}

/// Everything is well again; compares.
fn settle(fleet: &Fleet) {
    (0..SHARDS).for_each(|shard| fleet.mended(shard));
    let mut client = fleet.describe(PATIENCE).build().unwrap();
    let counters = fleet.counters.lock().unwrap();
    let (mut sums, mut lost) = ([0; 3], Vec::new());
    for counter in counters.iter() {
        let mut counter = counter.lock().unwrap();
        let (primary, _) = fleet.pair(counter.shard);
        let value: Option<i64> = fleet.cluster.ask(primary, &["GET", &counter.key]).unwrap();
        let ours: RedisResult<Option<i64>> = redis::Commands::get(&mut client, &counter.key);
        assert_eq!(ours, Ok(value), "{}", counter.key);
        counter.check(value.unwrap_or(0));
        sums[0] += counter.durable;
        sums[1] += counter.at_risk;
        sums[2] += counter.unknown;
        lost.extend(counter.lost.iter().map(|at| (counter.shard, *at)));
    }
    // By a primary that did not know yet that it was none.
    let promotions = fleet.promotions.lock().unwrap();
    let is_late = |(shard, at): &&(usize, Instant)| {
        let of_shard = promotions.iter().filter(|(own, _)| own == shard);
        // Until the former primary is told, which takes less than that.
        of_shard
            .into_iter()
            .any(|(_, promoted)| at >= promoted && *at < *promoted + ANSWER_WITHIN)
    };
    let late = lost.iter().filter(is_late).count();
    let [durable, at_risk, unknown] = sums;
    println!(
        "{}: {durable} acknowledged and on the replica, {at_risk} acknowledged, {unknown} unknown; lost by the servers: {} \
         before a promotion, {late} acknowledged after it by the former primary; {} promotions, served {:?} later at most",
        fleet.cluster.server.name,
        lost.len() - late,
        promotions.len(),
        fleet.slowest.lock().unwrap()
    );
    assert!(durable > 100, "only {durable} were on the replica");
    assert!(unknown > 0, "the faults met no request");
}
