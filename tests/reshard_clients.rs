//! Clients of all kinds go on while the keys of their fleet move: nothing that was acknowledged is lost, nothing that was
//! deleted is back, every key is found, and each has one owner and its expiry at the end.
//!
//! `REDIS_SHARDING_LONG=1` has 50,000 keys and 200,000 operations.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Cmd;
use redis_sharding::ops::reshard::{Reshard, ReshardEvent, ReshardOptions, ReshardOutcome};
use redis_sharding::ops::{FleetRecord, PublishOptions};
use redis_sharding::partition::{HashMod, Partitioner, Rendezvous, Ring};
use redis_sharding::{Builder, ShardedClient, Topology};

use self::support::Servers;
use self::support::all_clients::{AllClients, End, KINDS};
use self::support::reshard_model::Worker;

/// The size of a test.
struct Size {
    workers: usize,
    keys: usize,
    bystanders: usize,
    operations: u64,
}

fn size() -> Size {
    match std::env::var("REDIS_SHARDING_LONG").is_ok() {
        true => Size {
            workers: 16,
            keys: 400,
            bystanders: 25_000,
            operations: 200_000,
        },
        false => Size {
            workers: 6,
            keys: 60,
            bystanders: 3_000,
            operations: 3_000,
        },
    }
}

/// A description of a client over the first servers.
fn over(servers: &Servers, count: usize) -> Builder {
    let urls = servers.urls().into_iter().take(count);
    (0..)
        .zip(urls)
        .fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url)
        })
}

fn topology(servers: &Servers, count: usize, rule: impl Partitioner + 'static) -> Arc<Topology> {
    let client = over(servers, count).partitioner(rule).build().unwrap();
    client.topology()
}

/// Keys that no worker touches, with their expiries.
fn bystanders(client: &ShardedClient, count: usize) -> HashMap<String, Option<i64>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let far = now.unwrap().as_millis() as i64 + 50_000_000;
    let mut keys = HashMap::new();
    let mut pipeline = redis::pipe();
    for number in 0..count {
        let key = format!("bystander:{number}");
        match number % 4 {
            0 => pipeline.cmd("SET").arg(&key).arg(number),
            1 => pipeline.cmd("RPUSH").arg(&key).arg("a").arg(number),
            2 => pipeline.cmd("HSET").arg(&key).arg("field").arg(number),
            _ => pipeline.cmd("ZADD").arg(&key).arg(number).arg("member"),
        };
        let expiry = (number % 3 == 0).then_some(far + number as i64);
        if let Some(expiry) = expiry {
            pipeline.cmd("PEXPIREAT").arg(&key).arg(expiry);
        }
        keys.insert(key, expiry);
    }
    let _: redis::Value = pipeline.query(&mut client.clone()).unwrap();
    keys
}

/// Every key with the servers that have it, and its expiry there.
fn keys_of_servers(servers: &Servers) -> HashMap<String, Vec<(usize, i64)>> {
    let mut all: HashMap<String, Vec<(usize, i64)>> = HashMap::new();
    for server in 0..servers.len() {
        let mut connection = servers.connection(server);
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        let expiries = expiries(&mut connection, &keys);
        for (key, expiry) in keys.into_iter().zip(expiries) {
            all.entry(key).or_default().push((server, expiry));
        }
    }
    all
}

/// When these keys expire, in milliseconds of Unix time; -1 for those that do not.
fn expiries(connection: &mut redis::Connection, keys: &[String]) -> Vec<i64> {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("PEXPIRETIME").arg(key);
    }
    if keys.is_empty() {
        return Vec::new();
    }
    if let Ok(found) = pipeline.query(connection) {
        return found;
    }
    // Servers before 7.0 say how long it takes until then.
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("TIME");
    for key in keys {
        pipeline.cmd("PTTL").arg(key);
    }
    let (now, left): (Vec<i64>, Vec<i64>) = {
        let mut found: Vec<redis::Value> = pipeline.query(connection).unwrap();
        let left = found.split_off(1).into_iter().map(redis::from_redis_value);
        let now = redis::from_redis_value(found.remove(0)).unwrap();
        (now, left.collect::<Result<_, _>>().unwrap())
    };
    let now = now[0] * 1_000 + now[1] / 1_000;
    let at = left.into_iter().map(|left| match left {
        -1 => -1,
        left => now + left,
    });
    at.collect()
}

/// Each key is at its owner alone, with its expiry, and there are no others.
fn check_servers(servers: &Servers, topology: &Topology, expected: &HashMap<String, Option<i64>>) {
    let found = keys_of_servers(servers);
    for (key, places) in &found {
        let owner = topology.locate(key.as_bytes()).unwrap();
        let owner = topology.node(owner).address().to_owned();
        let at: Vec<String> = places
            .iter()
            .map(|(server, _)| servers.addr(*server))
            .collect();
        assert_eq!(at, [owner], "owners of {key}");
        let expiry = expected
            .get(key)
            .unwrap_or_else(|| panic!("{key} should not exist"));
        let found = places[0].1;
        assert!(
            (found - expiry.unwrap_or(-1)).abs() <= 5,
            "expiry of {key}: {found}, not {expiry:?}"
        );
    }
    let missing: Vec<_> = expected
        .keys()
        .filter(|key| !found.contains_key(*key))
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

/// Moves the keys to where `to` places them. Returns the times for which units were closed.
fn reshard(servers: &Servers, to: &Topology) -> Vec<Duration> {
    let options = ReshardOptions::new().with_administrator("test");
    let reshard = Reshard::new(over(servers, 1), to.clone(), options).unwrap();
    let mut closures = Vec::new();
    let begun = Instant::now();
    let outcome = reshard.run(|event| {
        if std::env::var("REDIS_SHARDING_TRACE").is_ok() {
            println!("{:?} {event:?}", begun.elapsed());
        }
        if let ReshardEvent::Batch { closed, .. } = event {
            closures.push(closed);
        }
    });
    assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
    closures
}

/// Waits until all clients go by this topology.
fn wait_until_followed(clients: &AllClients, to: &Topology) {
    let end = Instant::now() + Duration::from_secs(20);
    let is_there = |known: &Arc<Topology>| known.to_string() == to.to_string();
    while !clients.topologies().iter().all(is_there) {
        assert!(
            Instant::now() < end,
            "not followed: {:?}",
            clients.topologies()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn clients_lose_nothing_while_four_nodes_become_five_eight_three_and_other_placements() {
    let Some(servers) = Servers::start(8) else {
        return;
    };
    let size = size();
    let seed = std::env::var("REDIS_SHARDING_SEED").ok();
    let seed: u64 = seed
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| seed_of_now());
    println!("seed {seed}: REDIS_SHARDING_SEED={seed} repeats it");
    let first = topology(&servers, 4, Rendezvous::new());
    let record = FleetRecord::new(over(&servers, 4)).unwrap();
    record.publish(&first, PublishOptions::default()).unwrap();
    let clients = AllClients::open(|| over(&servers, 4).agreed());
    let mut expected = bystanders(&clients.blocking, size.bystanders);

    let ended = AtomicBool::new(false);
    let operations = AtomicU64::new(0);
    let worker = |number: usize| {
        let client = clients.of(KINDS[number % KINDS.len()]);
        Worker::new(
            format!("w{number}"),
            client,
            seed + number as u64,
            size.keys,
        )
    };
    let mut workers: Vec<Worker> = (0..size.workers).map(worker).collect();
    let steps: [(usize, Box<dyn Fn() -> Arc<Topology>>); 5] = [
        (5, Box::new(|| topology(&servers, 5, Rendezvous::new()))),
        (8, Box::new(|| topology(&servers, 8, Rendezvous::new()))),
        (3, Box::new(|| topology(&servers, 3, Rendezvous::new()))),
        (
            3,
            Box::new(|| {
                topology(
                    &servers,
                    3,
                    HashMod::new(redis_sharding::hash::KeyHash::Crc32),
                )
            }),
        ),
        (3, Box::new(|| topology(&servers, 3, Ring::new()))),
    ];
    thread::scope(|scope| {
        let end = End(&ended);
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        worker.step();
                        operations.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for (count, make) in &steps {
            let to = make();
            let before = operations.load(Ordering::Relaxed);
            let begun = Instant::now();
            let mut closures = reshard(&servers, &to);
            closures.sort();
            let took = begun.elapsed();
            wait_until_followed(&clients, &to);
            let done = operations.load(Ordering::Relaxed) - before;
            println!(
                "{count} nodes, {}: {took:?}, {} batches, closed {:?} median, {:?} longest; {done} operations",
                to.partitioner().name(),
                closures.len(),
                closures.get(closures.len() / 2),
                closures.last(),
            );
            assert!(
                !threads.iter().any(|thread| thread.is_finished()),
                "a worker has failed"
            );
        }
        while operations.load(Ordering::Relaxed) < size.operations
            && !threads.iter().any(|thread| thread.is_finished())
        {
            thread::sleep(Duration::from_millis(10));
        }
        drop(end);
        for thread in threads {
            thread.join().expect("no worker has met a fault");
        }
    });
    println!("{} operations", operations.load(Ordering::Relaxed));
    for worker in &mut workers {
        worker.check_all();
        let keys = worker.model.keys.iter();
        expected.extend(keys.map(|(key, (_, expiry))| (key.clone(), *expiry)));
    }
    let last = steps.last().unwrap().1();
    check_servers(&servers, &last, &expected);
    let count: usize = Cmd::new()
        .arg("DBSIZE")
        .query(&mut clients.blocking.clone())
        .unwrap();
    assert_eq!(count, expected.len());
}

/// A seed that differs from run to run.
fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_nanos() as u64 % 1_000_000
}
