//! Clients of all kinds go on while the keys of their fleet move: nothing that was acknowledged is lost, nothing that was
//! deleted is back, every key is found, and each has one owner and its expiry at the end.
//!
//! `REDIS_SHARDING_LONG=1` has 50,000 keys and 200,000 operations.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::Cmd;
use redis_sharding::Topology;
use redis_sharding::ops::reshard::{Reshard, ReshardEvent, ReshardOptions, ReshardOutcome};
use redis_sharding::ops::{FleetRecord, PublishOptions};
use redis_sharding::partition::{HashMod, Rendezvous, Ring};

use self::support::Servers;
use self::support::all_clients::{AllClients, End, KINDS};
use self::support::reshard_fleet::{over, seed_of_now, topology};
use self::support::reshard_model::{Worker, bystanders, check_servers, wait_until_followed};

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

/// Makes a topology of the servers of a test.
type Make<'s> = Box<dyn Fn() -> Arc<Topology> + 's>;

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

#[test]
fn clients_lose_nothing_while_four_nodes_become_five_eight_three_and_other_placements() {
    let Some(servers) = Servers::start(8) else {
        return;
    };
    let size = size();
    let seed = std::env::var("REDIS_SHARDING_SEED").ok();
    let seed: u64 = seed
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(seed_of_now);
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
    let steps: [(usize, Make<'_>); 5] = [
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
