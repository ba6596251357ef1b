//! Keys are moved while movers, nodes, clients and connections fail, and clients go on: what was acknowledged is there, what
//! was deleted is not, and an operation that fails says truly whether it has changed anything.
//!
//! Every fault is a test. `REDIS_SHARDING_LONG=1` stops the mover at every step of a reshard instead of once at each kind, and repeats what is left
//! to chance. `REDIS_SHARDING_SEED` repeats a run.
#![cfg(all(unix, feature = "tokio-comp", feature = "testing"))]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, RedisResult, cmd};
use redis_sharding::ops::reshard::{
    Reshard, ReshardMethod, ReshardOptions, ReshardOutcome, ReshardStage,
};
use redis_sharding::ops::{FleetRecord, PublishOptions};
use redis_sharding::partition::Rendezvous;
use redis_sharding::{Builder, Error, ErrorKind, NodeSpec, ShardedClient, Topology};

use self::support::Servers;
use self::support::all_clients::{AllClients, End, KINDS, Random};
use self::support::children::{Part, hear, part, say};
use self::support::reshard_model::{Worker, bystanders, check_servers, wait_until_followed};
use self::support::servers::own_address;

/// Number of keys of each type and worker.
const KEYS: usize = 24;

/// Number of keys that no worker touches.
const BYSTANDERS: usize = 400;

/// Number of keys with a thousand bytes, so that there are several batches.
const PADDED: usize = 700;

/// How long clients may take until they go on.
const GOES_ON_WITHIN: Duration = Duration::from_secs(20);

fn is_long() -> bool {
    std::env::var("REDIS_SHARDING_LONG").is_ok()
}

fn seed() -> u64 {
    let seed = std::env::var("REDIS_SHARDING_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64 % 1_000_000
    });
    println!("REDIS_SHARDING_SEED={seed} repeats this");
    seed
}

/// Servers, and where clients and movers find them.
struct Fleet {
    servers: Arc<Servers>,
    addresses: Vec<String>,
}

/// Clients at work.
struct Load<'l> {
    clients: &'l AllClients,
    /// Successful operations of each worker.
    done: &'l [AtomicU64],
    ended: &'l [AtomicBool],
}

impl Fleet {
    fn start(count: usize) -> Option<Self> {
        Servers::start(count).map(Self::of)
    }

    fn of(servers: Servers) -> Self {
        Self {
            addresses: (0..servers.len()).map(|at| servers.addr(at)).collect(),
            servers: Arc::new(servers),
        }
    }

    /// The topology of the first nodes.
    fn topology(&self, count: usize) -> Arc<Topology> {
        let nodes = self.addresses.iter().take(count).enumerate();
        let nodes = nodes.map(|(number, address)| NodeSpec::new(format!("node-{number}"), address));
        Arc::new(Topology::new(nodes.collect(), Arc::new(Rendezvous::new())).unwrap())
    }

    fn describe(&self, topology: &Topology) -> Builder {
        ShardedClient::builder().topology(topology)
    }

    fn publish(&self, topology: &Topology) {
        let record = FleetRecord::new(self.describe(topology)).unwrap();
        record.publish(topology, PublishOptions::default()).unwrap();
    }

    fn mover(&self, to: &Topology, options: ReshardOptions) -> Reshard {
        let url = format!("redis://{}/", self.addresses[0]);
        let seed = ShardedClient::builder().node("node-0", url);
        let options = options.with_administrator(ADMINISTRATOR);
        Reshard::new(seed, to.clone(), options).unwrap()
    }

    fn run(&self, to: &Topology, options: ReshardOptions) -> Result<ReshardOutcome, Error> {
        let begun = Instant::now();
        self.mover(to, options).run(|event| {
            if std::env::var("REDIS_SHARDING_TRACE").is_ok() {
                println!("{:?} {event:?}", begun.elapsed());
            }
        })
    }

    fn finish(&self, to: &Topology) {
        let outcome = self.run(to, options());
        assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
    }

    /// A connection that no mover closes.
    fn connection(&self, server: usize) -> redis::Connection {
        let mut connection = self.servers.connection(server);
        let name = cmd("CLIENT")
            .arg("SETNAME")
            .arg(ADMINISTRATOR)
            .query(&mut connection);
        let () = name.unwrap();
        connection
    }

    /// Runs `act` while three clients work with a fleet of `count` nodes, and checks everything at the end by the topology
    /// that it returns, in which there are these other keys.
    fn under_load(
        &self,
        count: usize,
        act: impl FnOnce(&Load<'_>) -> (Arc<Topology>, Vec<String>),
    ) {
        self.load(count, |load| Some(act(load)), |_| {});
    }

    /// Like [`under_load`](Self::under_load). Without a topology nothing is checked at the end but what `look` does.
    fn load(
        &self,
        count: usize,
        act: impl FnOnce(&Load<'_>) -> Option<(Arc<Topology>, Vec<String>)>,
        look: impl FnOnce(&mut [Worker]),
    ) {
        let seed = seed();
        let first = self.topology(count);
        self.publish(&first);
        let clients = AllClients::open(|| self.describe(&first).agreed());
        let mut expected = bystanders(&clients.blocking, BYSTANDERS);
        for number in 0..PADDED {
            let key = format!("padded:{number}");
            let () = clients
                .blocking
                .clone()
                .set(&key, "x".repeat(1000))
                .unwrap();
            expected.insert(key, None);
        }
        let worker = |(number, kind): (usize, &_)| {
            let seed = seed + number as u64;
            Worker::new(format!("w{number}"), clients.of(*kind), seed, KEYS).tolerant()
        };
        let mut workers: Vec<Worker> = KINDS.iter().enumerate().map(worker).collect();
        let end = AtomicBool::new(false);
        let done = KINDS.map(|_| AtomicU64::new(0));
        let ended = KINDS.map(|_| AtomicBool::new(false));
        let load = Load {
            clients: &clients,
            done: &done,
            ended: &ended,
        };
        let result = thread::scope(|scope| {
            let stop = End(&end);
            let workers = workers.iter_mut().zip(&done).zip(&ended);
            let threads = workers.map(|((worker, done), ended)| {
                let end = &end;
                scope.spawn(move || {
                    let _ended = End(ended);
                    while !end.load(Ordering::Relaxed) {
                        let failed = worker.refused + worker.unknown;
                        worker.step();
                        if worker.refused + worker.unknown == failed {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            });
            let threads: Vec<_> = threads.collect();
            load.goes_on();
            let result = act(&load);
            if result.is_some() {
                load.goes_on();
            }
            drop(stop);
            for thread in threads {
                thread.join().expect("no worker has met a fault");
            }
            result
        });
        for worker in &workers {
            println!(
                "{} operations, {} refused, {} unknown",
                worker.operations, worker.refused, worker.unknown
            );
        }
        look(&mut workers);
        let Some((to, others)) = result else {
            return;
        };
        wait_until_followed(&clients, &to);
        for worker in &mut workers {
            worker.check_all();
            let keys = worker.model.keys.iter();
            expected.extend(keys.map(|(key, (_, expiry))| (key.clone(), *expiry)));
        }
        expected.extend(others.into_iter().map(|key| (key, None)));
        check_servers(&self.servers, &to, &expected);
    }
}

/// The name of connections of these tests.
const ADMINISTRATOR: &str = "test";

impl Load<'_> {
    /// Waits until each worker has succeeded with some more operations.
    fn goes_on(&self) {
        let counts = || self.done.iter().map(|done| done.load(Ordering::Relaxed));
        let before: Vec<u64> = counts().collect();
        let deadline = Instant::now() + GOES_ON_WITHIN;
        while !counts()
            .zip(&before)
            .all(|(now, before)| now >= before + 20)
        {
            self.check();
            assert!(Instant::now() < deadline, "a worker does not go on");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn check(&self) {
        let failed = self.ended.iter().any(|ended| ended.load(Ordering::Relaxed));
        assert!(!failed, "a worker has met a fault");
    }
}

/// Options of movers here: what waits for clients that are gone is short.
fn options() -> ReshardOptions {
    // Splits have tests of their own.
    ReshardOptions::new()
        .with_method(ReshardMethod::Copy)
        .with_sources_at_once(1)
        .with_announce_bound(Duration::from_millis(500))
}

/// Calls `act` before the step of this number that begins with these words, and stops the mover there if it returns false.
fn before_step(
    start: &str,
    number: usize,
    act: impl Fn() -> bool + Send + Sync + 'static,
) -> (ReshardOptions, Arc<AtomicBool>) {
    let (start, count) = (start.to_owned(), AtomicUsize::new(0));
    let (stopped, reached) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
    let was_reached = Arc::clone(&reached);
    let options = options().with_step_observer(move |step| {
        let rest = step.strip_prefix(&*start);
        let is_it =
            rest.is_some_and(|rest| start.is_empty() || rest.is_empty() || rest.starts_with(' '));
        let is_it = is_it && count.fetch_add(1, Ordering::SeqCst) == number;
        if is_it {
            was_reached.store(true, Ordering::SeqCst);
            stopped.store(!act(), Ordering::SeqCst);
        }
        // Other threads of a mover that is killed end with it.
        !stopped.load(Ordering::SeqCst)
    });
    (options, reached)
}

/// Stops the mover before a step, as if it were killed.
fn killed_before(fleet: &Fleet, to: &Topology, step: &str, number: usize) -> bool {
    let (options, reached) = before_step(step, number, || false);
    let outcome = fleet.run(to, options);
    let was_reached = reached.load(Ordering::SeqCst);
    match outcome {
        Ok(_) => assert!(!was_reached, "{step}"),
        Err(error) => assert!(
            error.to_string().contains("stopped before"),
            "{step}: {error}"
        ),
    }
    was_reached
}

/// The names of all steps of a reshard.
fn steps_of(fleet: &Fleet, to: &Topology) -> Vec<String> {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&steps);
    let options = options().with_step_observer(move |step| {
        seen.lock().unwrap().push(step.to_owned());
        true
    });
    assert_eq!(fleet.run(to, options).unwrap(), ReshardOutcome::Finished);
    std::mem::take(&mut *steps.lock().unwrap())
}

/// The kinds of steps, in the order in which they come first.
fn kinds(steps: &[String]) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for step in steps {
        let kind = step.split(' ').next().unwrap_or_default();
        if !kinds.iter().any(|known| known == kind) {
            kinds.push(kind.to_owned());
        }
    }
    kinds
}

#[test]
fn mover_that_is_killed_before_any_step_is_followed_by_another() {
    let Some(fleet) = Fleet::start(3) else {
        return;
    };
    fleet.under_load(2, |load| {
        let topologies = [fleet.topology(3), fleet.topology(2)];
        let steps = steps_of(&fleet, &topologies[0]);
        let kinds = kinds(&steps);
        println!("{} steps: {kinds:?}", steps.len());
        for step in [
            "claim",
            "close",
            "fence",
            "copy",
            "publish-target",
            "publish-source",
            "unlink",
            "end",
        ] {
            assert!(kinds.iter().any(|kind| kind == step), "{step} is missing");
        }
        let stops: Vec<(String, usize)> = match is_long() {
            true => (0..steps.len())
                .map(|number| (String::new(), number))
                .collect(),
            false => kinds.into_iter().map(|kind| (kind, 0)).collect(),
        };
        let mut targets = topologies.iter().cycle().skip(1);
        for (step, number) in &stops {
            let to = targets.next().unwrap();
            killed_before(&fleet, to, step, *number);
            load.check();
            // The one that takes over is killed where only such a one comes by.
            if step == "publish-source" {
                assert!(killed_before(&fleet, to, "publish-source-again", 0));
                assert!(killed_before(&fleet, to, "claim", 1));
            }
            fleet.finish(to);
            load.goes_on();
        }
        let last = stops.len() % 2;
        (Arc::clone(&topologies[last]), Vec::new())
    });
}

/// Starts a mover in another process, which waits before the step of this number that begins like this.
fn mover_process(fleet: &Fleet, to: &Topology, step: &str, number: usize) -> Part {
    let (text, number) = (to.to_string(), number.to_string());
    let variables = [
        ("SEED", &*fleet.addresses[0]),
        ("TO", &*text),
        ("STEP", step),
        ("NUMBER", &*number),
    ];
    let part = Part::start("process_of_a_test", "mover", &variables);
    part.expect("waits");
    part
}

/// Plays a part in another test. By itself it does nothing.
#[test]
fn process_of_a_test() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let fleet =
        |address: String| ShardedClient::builder().node("node-0", format!("redis://{address}/"));
    match part().as_deref() {
        Some("mover") => {
            let to: Topology = variable("TO").parse().unwrap();
            let number = variable("NUMBER").parse().unwrap();
            let (options, _) = before_step(&variable("STEP"), number, || {
                say("waits");
                hear();
                true
            });
            let options = options.with_administrator(ADMINISTRATOR);
            let reshard = Reshard::new(fleet(variable("SEED")), to, options).unwrap();
            match reshard.run(|_| {}) {
                Ok(outcome) => say(&format!("outcome {outcome:?}")),
                Err(error) => say(&format!("outcome {error}")),
            }
            hear();
        }
        Some("client") => count_in_process(&variable("SEED")),
        Some(other) => panic!("{other}"),
        None => {}
    }
}

/// A client that increments its keys until it is told to stop.
fn count_in_process(address: &str) {
    let client = ShardedClient::discover([format!("redis://{address}/")]).unwrap();
    let stops = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stops);
    thread::spawn(move || {
        hear();
        told.store(true, Ordering::SeqCst);
    });
    let mut counts: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let mut random = Random(7);
    let mut done = 0;
    while !stops.load(Ordering::SeqCst) {
        let key = format!("process:{}", random.below(40));
        let result: RedisResult<i64> = client.clone().incr(&key, 1);
        let (acknowledged, unknown) = counts.entry(key.clone()).or_default();
        match result {
            Ok(_) => {
                *acknowledged += 1;
                done += 1;
                if done % 20 == 0 {
                    say("counts");
                }
            }
            Err(error) => match ErrorKind::of(&error) {
                ErrorKind::Unknown => *unknown += 1,
                // Not Stale: before a client is refused it asks the other nodes.
                ErrorKind::Moving | ErrorKind::NodeDown | ErrorKind::Timeout => {}
                _ => panic!("{key}: {error}"),
            },
        }
    }
    for (key, (acknowledged, unknown)) in counts {
        say(&format!("key {key} {acknowledged} {unknown}"));
    }
    say("end");
    hear();
}

#[test]
fn mover_process_that_is_killed_is_followed_by_another() {
    let Some(fleet) = Fleet::start(3) else {
        return;
    };
    fleet.under_load(2, |load| {
        let topologies = [fleet.topology(3), fleet.topology(2)];
        let stops = [("copy", 1), ("publish-source", 0), ("unlink", 0)];
        for ((step, number), to) in stops.iter().zip(topologies.iter().cycle()) {
            mover_process(&fleet, to, step, *number).kill();
            load.check();
            fleet.finish(to);
            load.goes_on();
        }
        (Arc::clone(&topologies[0]), Vec::new())
    });
}

#[test]
fn mover_process_that_is_stopped_and_goes_on_after_another_changes_nothing() {
    let Some(fleet) = Fleet::start(3) else {
        return;
    };
    fleet.under_load(2, |load| {
        let topologies = [fleet.topology(3), fleet.topology(2)];
        let stops = [
            "close",
            "clear",
            "copy",
            "publish-target",
            "publish-source",
            "unlink",
        ];
        for (step, to) in stops.iter().zip(topologies.iter().cycle()) {
            let mut mover = mover_process(&fleet, to, step, 0);
            mover.pause();
            fleet.finish(to);
            load.goes_on();
            mover.resume();
            mover.tell("go on");
            let outcome = mover.expect("outcome");
            assert!(outcome.contains("this mover stops"), "{step}: {outcome}");
            load.goes_on();
        }
        (Arc::clone(&topologies[1]), Vec::new())
    });
}

#[test]
fn client_process_that_is_stopped_for_a_whole_reshard_loses_no_write() {
    let Some(fleet) = Fleet::start(3) else {
        return;
    };
    fleet.under_load(2, |load| {
        let topologies = [fleet.topology(3), fleet.topology(2), fleet.topology(3)];
        let seed = [("SEED", &*fleet.addresses[0])];
        let mut client = Part::start("process_of_a_test", "client", &seed);
        client.expect("counts");
        for to in &topologies {
            client.pause();
            fleet.finish(to);
            load.goes_on();
            client.resume();
            client.forget();
            for _ in 0..3 {
                client.expect("counts");
            }
        }
        client.tell("stop");
        let mut keys = Vec::new();
        loop {
            let line = client.expect("");
            let words: Vec<&str> = line.split(' ').collect();
            let ["key", key, acknowledged, unknown] = words[..] else {
                match line == "end" {
                    true => break,
                    false => continue,
                }
            };
            let number = |text: &str| text.parse::<i64>().unwrap();
            let (acknowledged, unknown) = (number(acknowledged), number(unknown));
            let found: i64 = load.clients.blocking.clone().get(key).unwrap();
            let possible = acknowledged..=acknowledged + unknown;
            assert!(
                possible.contains(&found),
                "{key}: {found}, not {possible:?}"
            );
            keys.push(key.to_owned());
        }
        assert!(keys.len() > 20);
        (Arc::clone(&topologies[2]), keys)
    });
}

#[test]
fn nodes_that_are_killed_and_come_back_with_their_data_lose_nothing() {
    let builder = Servers::builder().keeps_data();
    let builder = builder.option(["--appendonly", "yes"]);
    // They read their data for a while, and say so.
    let builder = builder.option(["--key-load-delay", "50"]);
    let builder = builder.option(["--loading-process-events-interval-bytes", "1024"]);
    let Some(servers) = builder.option(["--appendfsync", "always"]).start(3) else {
        return;
    };
    let fleet = Fleet::of(servers);
    fleet.under_load(2, |load| {
        let topologies = [fleet.topology(3), fleet.topology(2)];
        // Three nodes become two by what leaves the third one.
        let all: &[(&str, &[usize])] = &[
            ("copy node-0", &[0]),
            ("publish-target node-2", &[0]),
            ("publish-source node-0 node-2", &[2]),
            ("publish-target node-2", &[0, 2]),
            ("fence node-0 node-2", &[0]),
            ("copy node-2 node-0", &[0]),
            ("close node-0 node-2", &[0, 2]),
            ("unlink node-2", &[2]),
            ("announce node-1", &[0]),
            ("end", &[0, 1]),
        ];
        let count = if is_long() { all.len() } else { 4 };
        for ((step, victims), to) in all.iter().take(count).zip(topologies.iter().cycle()) {
            let servers = Arc::clone(&fleet.servers);
            let (options, reached) = before_step(step, 0, move || {
                victims.iter().for_each(|victim| servers.kill(*victim));
                victims.iter().for_each(|victim| servers.restart(*victim));
                true
            });
            // A mover may give up, and another one finds a server that still reads its data.
            let mut outcome = fleet.run(to, options);
            for _ in 0..20 {
                let Err(error) = outcome else {
                    break;
                };
                println!("{step}: {error}");
                thread::sleep(Duration::from_millis(200));
                outcome = fleet.run(to, self::options());
            }
            assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
            assert!(reached.load(Ordering::SeqCst), "{step} was not reached");
            load.goes_on();
        }
        (Arc::clone(&topologies[(count + 1) % 2]), Vec::new())
    });
}

/// Waits until the record of a server was written to that very process. False if that does not happen.
fn is_sealed_soon(fleet: &Fleet, server: usize, within: Duration) -> bool {
    let begun = Instant::now();
    let mut connection = fleet.connection(server);
    let info: redis::InfoDict = cmd("INFO").arg("server").query(&mut connection).unwrap();
    let run_id: String = info.get("run_id").unwrap();
    let () = cmd("SELECT").arg(15).query(&mut connection).unwrap();
    while begun.elapsed() < within {
        // A server that has just been started says that it is loading.
        let record: RedisResult<Option<String>> = connection.get("redis-sharding:record");
        if record.is_ok_and(|record| record.is_some_and(|record| record.contains(&run_id))) {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn node_that_comes_back_while_others_are_moved_is_used_before_the_end() {
    let Some(servers) = Servers::builder()
        .keeps_data()
        .option(["--appendonly", "yes"])
        .start(3)
    else {
        return;
    };
    let fleet = Fleet::of(servers);
    fleet.under_load(2, |load| {
        let to = fleet.topology(3);
        let (servers, addresses) = (Arc::clone(&fleet.servers), fleet.addresses.clone());
        let is_used = Arc::new(AtomicBool::new(false));
        let was_used = Arc::clone(&is_used);
        let client = load.clients.blocking.clone();
        // The first one has nothing more to do in this reshard.
        let (options, reached) = before_step("close node-1 node-2", 0, move || {
            servers.kill(0);
            servers.restart(0);
            let fleet = Fleet {
                servers: Arc::clone(&servers),
                addresses: addresses.clone(),
            };
            assert!(is_sealed_soon(&fleet, 0, GOES_ON_WITHIN));
            let topology = client.topology();
            let own =
                |key: &String| topology.locate(key.as_bytes()).map(|node| node.get()) == Some(0);
            let key = (0..)
                .map(|number| format!("padded:{number}"))
                .find(own)
                .unwrap();
            wait_until(|| client.clone().get::<_, String>(&key).is_ok());
            was_used.store(true, Ordering::SeqCst);
            true
        });
        assert_eq!(fleet.run(&to, options).unwrap(), ReshardOutcome::Finished);
        assert!(reached.load(Ordering::SeqCst) && is_used.load(Ordering::SeqCst));
        (to, Vec::new())
    });
}

#[test]
fn units_are_closed_at_a_source_that_has_lost_that_they_are() {
    let Some(servers) = Servers::builder().keeps_data().start(2) else {
        return;
    };
    let fleet = Fleet::of(servers);
    let (from, to) = (fleet.topology(1), fleet.topology(2));
    fleet.publish(&from);
    let client = fleet.describe(&from).agreed().build().unwrap();
    let keys: Vec<String> = (0..1500).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        let () = client.clone().set(key, "x".repeat(1000)).unwrap();
    }
    let closed = AtomicUsize::new(0);
    let is_done = AtomicBool::new(false);
    let (servers, addresses) = (Arc::clone(&fleet.servers), fleet.addresses.clone());
    let late: Arc<Mutex<Vec<String>>> = Arc::default();
    let (acknowledged, writer, moving) = (Arc::clone(&late), client.clone(), Arc::clone(&to));
    let options = options().with_step_observer(move |step| {
        let fleet = Fleet {
            servers: Arc::clone(&servers),
            addresses: addresses.clone(),
        };
        // The snapshot is older than the closure of the second batch.
        if step == "close node-0 node-1" && closed.fetch_add(1, Ordering::SeqCst) == 1 {
            let () = cmd("SAVE").query(&mut fleet.connection(0)).unwrap();
        }
        let is_second = closed.load(Ordering::SeqCst) == 2;
        if step == "publish-target node-0 node-1"
            && is_second
            && !is_done.swap(true, Ordering::SeqCst)
        {
            servers.restart(0);
            is_sealed_soon(&fleet, 0, Duration::from_secs(3));
            // What is not yet at the target: the keys of this batch among them.
            let topology = writer.topology();
            let node = |topology: &Topology, key: &str| {
                topology.locate(key.as_bytes()).map(|node| node.get())
            };
            let left = (0..1500).map(|number| format!("key:{number}"));
            let left =
                left.filter(|key| node(&topology, key) == Some(0) && node(&moving, key) == Some(1));
            let left: Vec<String> = left.collect();
            assert!(left.len() > 100);
            thread::scope(|scope| {
                for key in left.iter().step_by(10) {
                    let mut client = writer.with_timeout(Duration::from_millis(500));
                    let acknowledged = &acknowledged;
                    scope.spawn(move || {
                        if client.set::<_, _, ()>(key, "late").is_ok() {
                            acknowledged.lock().unwrap().push(key.clone());
                        }
                    });
                }
            });
        }
        true
    });
    assert_eq!(fleet.run(&to, options).unwrap(), ReshardOutcome::Finished);
    wait_until(|| client.topology().to_string() == to.to_string());
    let late = late.lock().unwrap();
    println!("{} keys were written", late.len());
    let found = read(&client, &late);
    for key in late.iter() {
        assert_eq!(found[key].as_deref(), Some("late"), "{key}");
    }
    let expected = keys.into_iter().map(|key| (key, None)).collect();
    check_servers(&fleet.servers, &to, &expected);
}

#[test]
fn target_that_comes_back_empty_before_it_was_told_gets_the_keys_again() {
    let Some(fleet) = Fleet::start(2) else {
        return;
    };
    fleet.under_load(1, |load| {
        let to = fleet.topology(2);
        let servers = Arc::clone(&fleet.servers);
        let (options, reached) = before_step("publish-target", 0, move || {
            servers.restart(1);
            true
        });
        let error = fleet.run(&to, options).unwrap_err();
        assert!(reached.load(Ordering::SeqCst));
        assert!(error.to_string().contains("its record is gone"), "{error}");
        // Nothing is closed.
        load.goes_on();
        fleet.finish(&to);
        (to, Vec::new())
    });
}

#[test]
fn target_that_comes_back_empty_after_it_was_told_is_refused_and_never_read_as_empty() {
    let Some(fleet) = Fleet::start(2) else {
        return;
    };
    let to = fleet.topology(2);
    let act = |_: &Load<'_>| {
        let servers = Arc::clone(&fleet.servers);
        let closed = AtomicUsize::new(0);
        let small = options().with_step_observer(move |step| {
            if step.starts_with("close node-0 node-1") && closed.fetch_add(1, Ordering::SeqCst) == 1
            {
                servers.restart(1);
            }
            true
        });
        let error = fleet.run(&to, small).unwrap_err();
        assert!(error.to_string().contains("its record is gone"), "{error}");
        let again = fleet.run(&to, options()).unwrap_err();
        assert!(again.to_string().contains("older data"), "{again}");
        None
    };
    // The workers find no key of which they know missing, and those that have not moved.
    fleet.load(1, act, |workers| {
        let found: usize = workers.iter_mut().map(Worker::check_reachable).sum();
        println!("{found} keys are left");
    });
}

#[test]
fn full_target_ends_the_run_and_clients_go_on() {
    let Some(fleet) = Fleet::start(3) else {
        return;
    };
    fleet.under_load(2, |load| {
        let to = fleet.topology(3);
        let limit = |fleet: &Fleet, bytes: &str| {
            let mut set = cmd("CONFIG");
            set.arg("SET").arg("maxmemory").arg(bytes);
            let () = set.query(&mut fleet.connection(2)).unwrap();
        };
        let mut node = fleet.connection(2);
        let (options, reached) = before_step("copy node-1 node-2", 0, {
            let node = Mutex::new(fleet.connection(2));
            move || {
                let mut set = cmd("CONFIG");
                set.arg("SET").arg("maxmemory").arg(1);
                let () = set.query(&mut *node.lock().unwrap()).unwrap();
                true
            }
        });
        let error = fleet.run(&to, options).unwrap_err();
        assert!(reached.load(Ordering::SeqCst));
        assert!(error.to_string().contains("give it more memory"), "{error}");
        let status = fleet.mover(&to, ReshardOptions::new()).status().unwrap();
        assert!(status.pairs.iter().all(|pair| pair.closed == 0), "{status}");
        load.goes_on();
        // Once more while it is full: it can be announced, and goes no further.
        fleet.run(&to, self::options()).unwrap_err();
        load.goes_on();
        let _: () = cmd("PING").query::<String>(&mut node).map(drop).unwrap();
        limit(&fleet, "0");
        fleet.finish(&to);
        (to, Vec::new())
    });
}

#[test]
fn of_two_movers_at_a_time_one_finishes() {
    let Some(fleet) = Fleet::start(3) else {
        return;
    };
    fleet.under_load(2, |load| {
        let topologies = [fleet.topology(3), fleet.topology(2)];
        let rounds = if is_long() { 30 } else { 6 };
        for (round, to) in topologies.iter().cycle().take(rounds).enumerate() {
            let results: Vec<Result<ReshardOutcome, Error>> = thread::scope(|scope| {
                let run = |number: usize| {
                    let fleet = &fleet;
                    scope.spawn(move || {
                        // At a time in the first rounds, and then one behind the other.
                        thread::sleep(Duration::from_millis((number * round * 8) as u64));
                        fleet.run(to, options())
                    })
                };
                let threads: Vec<_> = (0..2).map(run).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            println!("{results:?}");
            assert!(
                results.iter().any(Result::is_ok),
                "round {round}: {results:?}"
            );
            for error in results.iter().filter_map(|result| result.as_ref().err()) {
                // The winner may close a connection of the other one before that has read the records.
                let text = error.to_string();
                let said = ["this mover stops", "broke: "].map(|part| text.contains(part));
                assert!(said.contains(&true), "{text}");
            }
            load.goes_on();
        }
        (Arc::clone(&topologies[(rounds + 1) % 2]), Vec::new())
    });
}

#[test]
fn reshard_is_given_up_at_any_stage_before_the_first_unit_has_moved() {
    let Some(fleet) = Fleet::start(3) else {
        return;
    };
    fleet.under_load(2, |load| {
        let to = fleet.topology(3);
        let abort = || fleet.mover(&to, options()).abort();
        let steps = [
            "claim",
            "kill-former-mover",
            "functions",
            "announce",
            "announce-fence",
            "close",
            "fence",
            "settle",
            "clear",
            "copy",
            "compare",
            "replicate",
            "publish-target",
        ];
        for step in steps {
            killed_before(&fleet, &to, step, 0);
            let stage = fleet.mover(&to, options()).status().unwrap().stage;
            match stage {
                // A term is claimed, and nobody was told.
                ReshardStage::NotBegun => {
                    let error = abort().unwrap_err();
                    assert!(error.to_string().contains("no reshard"), "{step}: {error}");
                }
                _ => abort().unwrap_or_else(|error| panic!("{step}: {error}")),
            }
            let status = fleet.mover(&to, options()).status().unwrap();
            assert_eq!(status.stage, ReshardStage::NotBegun, "{step}");
            load.goes_on();
        }
        // An abort that is killed as well.
        killed_before(&fleet, &to, "publish-target", 0);
        for step in ["claim", "kill-former-mover", "reopen", "clean-up", "end"] {
            let (options, _) = before_step(step, 0, || false);
            let stopped = fleet.mover(&to, options).abort().unwrap_err();
            assert!(
                stopped.to_string().contains("stopped before"),
                "{step}: {stopped}"
            );
        }
        abort().unwrap();
        load.goes_on();
        // Behind the point of no return.
        killed_before(&fleet, &to, "publish-source", 0);
        let error = abort().unwrap_err();
        assert!(
            error.to_string().contains("keys have moved already"),
            "{error}"
        );
        fleet.finish(&to);
        (to, Vec::new())
    });
}

/// What a client reads of keys, as far as it may: a new one needs a while until it knows the fleet.
fn read(client: &ShardedClient, keys: &[String]) -> HashMap<String, Option<String>> {
    let (mut found, begun) = (HashMap::new(), Instant::now());
    while found.len() < keys.len() && begun.elapsed() < Duration::from_secs(3) {
        for key in keys {
            match client.clone().get(key) {
                Ok(value) => drop(found.insert(key.clone(), value)),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
    found
}

#[test]
fn old_values_of_a_source_that_was_rolled_back_are_never_read() {
    for is_announced in [false, true] {
        let Some(servers) = Servers::builder().keeps_data().start(3) else {
            return;
        };
        let fleet = Fleet::of(servers);
        let (from, to) = (fleet.topology(2), fleet.topology(3));
        fleet.publish(&from);
        let client = fleet.describe(&from).agreed().build().unwrap();
        let keys: Vec<String> = (0..2000).map(|number| format!("key:{number}")).collect();
        // Long, so that there are several batches.
        let value = |text: &str| text.repeat(400);
        for key in &keys {
            let () = client.clone().set(key, value("old")).unwrap();
        }
        if is_announced {
            assert!(killed_before(&fleet, &to, "close", 0));
        }
        let () = cmd("SAVE").query(&mut fleet.connection(0)).unwrap();
        // Some units of the first node have moved.
        let closed = AtomicUsize::new(0);
        let small = options().with_step_observer(move |step| {
            !step.starts_with("close node-0 node-2") || closed.fetch_add(1, Ordering::SeqCst) < 1
        });
        let stopped = fleet.run(&to, small).unwrap_err();
        assert!(stopped.to_string().contains("stopped before"), "{stopped}");
        let mut moved = Vec::new();
        for key in &keys {
            let () = client.clone().set(key, value("new")).unwrap();
            let topology = client.topology();
            let owner = topology.node(topology.locate(key.as_bytes()).unwrap());
            if owner.name() == "node-2" {
                moved.push(key.clone());
            }
        }
        println!("{} of {} keys have moved", moved.len(), keys.len());
        assert!(!moved.is_empty());
        fleet.servers.restart(0);
        let check = |client: &ShardedClient, who: &str| {
            let found = read(client, &moved);
            let wrong: Vec<_> = found
                .iter()
                .filter(|(_, found)| **found != Some(value("new")))
                .collect();
            assert!(
                wrong.is_empty(),
                "{who}, announced {is_announced}: {} of {}: {:?}",
                wrong.len(),
                moved.len(),
                wrong[0].0
            );
            println!(
                "{who}: {} of {} moved keys are read",
                found.len(),
                moved.len()
            );
        };
        check(&client, "old client");
        match fleet.describe(&from).agreed().build() {
            Ok(new) => check(&new, "new client"),
            Err(error) => println!("new client: {error}"),
        }
        for node in 0..2 {
            match ShardedClient::discover([format!("redis://{}/", fleet.addresses[node])]) {
                Ok(new) => check(&new, &format!("discovered by node-{node}")),
                Err(error) => println!("discovered by node-{node}: {error}"),
            }
        }
        // A mover that is killed when it has sealed the records again, and clients that do not reach the new node.
        let (killed, _) = before_step("kill-former-mover", 0, || false);
        fleet.run(&to, killed).unwrap_err();
        fleet.servers.pause(2);
        for node in 0..2 {
            match ShardedClient::discover([format!("redis://{}/", fleet.addresses[node])]) {
                Ok(new) => check(&new, &format!("cut off, discovered by node-{node}")),
                Err(error) => println!("cut off, discovered by node-{node}: {error}"),
            }
        }
        fleet.servers.resume(2);
        check(&client, "old client");
        fleet.finish(&to);
        wait_until(|| client.topology().to_string() == to.to_string());
        let found = read(&client, &keys);
        assert_eq!(found.len(), keys.len());
        for key in &moved {
            assert!(found[key] == Some(value("new")), "{key}");
        }
        let expected = keys.iter().map(|key| (key.clone(), None)).collect();
        check_servers(&fleet.servers, &to, &expected);
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + GOES_ON_WITHIN;
    while !is_so() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Stands before a server, and cuts connections of movers when it is told to.
struct MoverCut {
    address: String,
    connections: Arc<Mutex<Vec<[TcpStream; 2]>>>,
}

impl MoverCut {
    fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind((&*own_address(), 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections: Arc<Mutex<Vec<[TcpStream; 2]>>> = Arc::default();
        let (movers, upstream) = (Arc::clone(&connections), upstream.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, Ok(server)) = (client.unwrap(), TcpStream::connect(&upstream)) else {
                    continue;
                };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let pair = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
                let ([client, server], movers) = (pair(), Arc::clone(&movers));
                let [to_client, from_server] = pair();
                thread::spawn(move || forward(&client, &server, Some(&movers)));
                thread::spawn(move || forward(&from_server, &to_client, None));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Cuts one connection of a mover, if there is one. What has been sent over it may arrive or not.
    fn cut(&self, random: &mut Random) -> bool {
        let mut connections = self.connections.lock().unwrap();
        if connections.is_empty() {
            return false;
        }
        let at = random.below(connections.len());
        let pair = connections.swap_remove(at);
        let ways = [Shutdown::Both, Shutdown::Read, Shutdown::Write];
        pair[random.below(2)]
            .shutdown(ways[random.below(3)])
            .is_ok()
    }
}

/// Copies bytes one way. A connection that presents the name of a mover is added to `movers`.
fn forward(from: &TcpStream, to: &TcpStream, movers: Option<&Mutex<Vec<[TcpStream; 2]>>>) {
    let (mut buffer, mut is_known) = (vec![0; 16 * 1024], movers.is_none());
    let (mut reader, mut writer) = (from, to);
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        let bytes = &buffer[..length];
        if !is_known && bytes.windows(6).any(|bytes| bytes == b"#rs.m.") {
            is_known = true;
            let pair = [from.try_clone().unwrap(), to.try_clone().unwrap()];
            movers.unwrap().lock().unwrap().push(pair);
        }
        if writer.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn mover_whose_connections_are_cut_at_random_finishes() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let cuts: Vec<MoverCut> = (0..3)
        .map(|at| MoverCut::start(&servers.addr(at)))
        .collect();
    let mut fleet = Fleet::of(servers);
    fleet.addresses = cuts.iter().map(|cut| cut.address.clone()).collect();
    let seed = seed();
    fleet.under_load(2, |load| {
        let topologies = [fleet.topology(3), fleet.topology(2)];
        let rounds = if is_long() { 40 } else { 4 };
        let mut random = Random(seed);
        for to in topologies.iter().cycle().take(rounds) {
            let ended = AtomicBool::new(false);
            thread::scope(|scope| {
                let stop = End(&ended);
                let (random, cuts, ended) = (&mut random, &cuts, &ended);
                scope.spawn(move || {
                    let mut left = 40;
                    while left > 0 && !ended.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(2 + random.below(12) as u64));
                        let at = random.below(cuts.len());
                        left -= usize::from(cuts[at].cut(random));
                    }
                });
                let mut runs = 1;
                while let Err(error) = fleet.run(to, options()) {
                    println!("run {runs}: {error}");
                    runs += 1;
                    assert!(runs < 60, "{error}");
                }
                println!("{runs} runs");
                drop(stop);
            });
            load.goes_on();
        }
        (Arc::clone(&topologies[(rounds + 1) % 2]), Vec::new())
    });
}
