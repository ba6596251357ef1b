//! Moving keys: beside `redis-cli --cluster reshard` with the same data, what programs notice meanwhile, and how fast many
//! clients are told.
//!
//! `cargo bench --bench resharding -- speed foreground split followers` runs these parts, or all without a name.
//! `QUICK=yes` has a tenth of the data, `ROUNDS=5` repeats the first part.

mod support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, pipe};
use redis_sharding::hash::KeyHash;
use redis_sharding::ops::reshard::{Reshard, ReshardEvent, ReshardOptions, ReshardOutcome};
use redis_sharding::ops::{FleetRecord, PublishOptions};
use redis_sharding::partition::HashMod;
use redis_sharding::{ShardedClient, Topology};

use support::fleet::builder;
use support::tests::Servers;
use support::tests::clusters::{Cluster, key_in, redis_cli, servers};

/// What is moved.
#[derive(Clone, Copy)]
struct Data {
    title: &'static str,
    keys: usize,
    /// Number of slots that have the keys, and which redis-cli moves.
    slots: u16,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// With a value of so many bytes.
    Text(usize),
    /// A hash of so many fields of 10 bytes.
    Hash(usize),
}

/// Number of keys that redis-cli moves at a time.
const PIPELINES: [&str; 2] = ["10", "100"];

fn main() {
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|word| word == part);
    if is_wanted("speed") {
        speed();
    }
    if is_wanted("foreground") {
        foreground(6, builder);
    }
    if is_wanted("split") {
        // By this rule each new node takes keys from one node alone, and becomes a replica of it first.
        foreground(8, |urls| {
            builder(urls).partitioner(HashMod::new(KeyHash::Crc32))
        });
    }
    if is_wanted("followers") {
        followers();
    }
}

fn is_quick() -> bool {
    std::env::var("QUICK").is_ok()
}

fn scaled(count: usize) -> usize {
    match is_quick() {
        true => count / 10,
        false => count,
    }
}

/// All keys of some slots go from one node to another.
fn speed() {
    if redis_cli().is_none() {
        println!("redis-cli is not installed; nothing is compared");
        return;
    }
    let rounds: usize = std::env::var("ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(3);
    let data = [
        ("1 KB, sparse", 8_000, 4_096, Kind::Text(1_000)),
        ("16 KB, sparse", 8_000, 4_096, Kind::Text(16_000)),
        ("hashes of 100, sparse", 8_000, 4_096, Kind::Hash(100)),
        ("1 KB, full", 100_000, 128, Kind::Text(1_000)),
        ("16 KB, full", 10_000, 128, Kind::Text(16_000)),
        ("hashes of 100, full", 20_000, 128, Kind::Hash(100)),
    ];
    println!(
        "seconds; redis-cli --cluster reshard by its pipeline, and how many times as long it takes"
    );
    for (title, keys, slots, kind) in data {
        let data = Data {
            title,
            keys: scaled(keys),
            slots,
            kind,
        };
        let mut ours = Vec::new();
        let mut theirs = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            ours.push(move_ours(data));
            for (times, pipeline) in theirs.iter_mut().zip(PIPELINES) {
                times.push(move_theirs(data, pipeline));
            }
        }
        let ours = median(ours);
        print!("{title:22} {} keys in {slots} slots: {ours:.3}", data.keys);
        for (times, pipeline) in theirs.into_iter().zip(PIPELINES) {
            let theirs = median(times);
            print!("; {pipeline}: {theirs:.3} ({:.2})", theirs / ours);
        }
        println!();
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn fill(connection: &mut impl redis::ConnectionLike, data: Data) {
    let numbers: Vec<usize> = (0..data.keys).collect();
    // Bytes that do not compress.
    let text: String = {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'!' + (state >> 33) as u8 % 90)
        };
        (0..16_000).map(|_| next()).collect()
    };
    for batch in numbers.chunks(500) {
        let mut pipeline = pipe();
        for number in batch {
            let slot = (number % usize::from(data.slots)) as u16;
            let key = key_in(slot, &number.to_string());
            match data.kind {
                Kind::Text(bytes) => pipeline.set(key, &text[..bytes]).ignore(),
                Kind::Hash(fields) => {
                    let fields: Vec<(String, &str)> = (0..fields)
                        .map(|field| (format!("field:{field}"), &text[field..field + 10]))
                        .collect();
                    pipeline.hset_multiple(key, &fields).ignore()
                }
            };
        }
        pipeline
            .exec(connection)
            .expect("the server takes the keys");
    }
}

/// From one plain server to another, by a placement that leaves the first one nothing.
fn move_ours(data: Data) -> Duration {
    let servers = Servers::start(2).expect("a bench needs redis-server or valkey-server");
    let urls = servers.urls();
    let named = |number: usize| {
        ShardedClient::builder().node(format!("node-{number}"), urls[number].as_str())
    };
    let (from, to) = (
        named(0).build().unwrap().topology(),
        named(1).build().unwrap().topology(),
    );
    FleetRecord::new(named(0))
        .unwrap()
        .publish(&from, PublishOptions::default())
        .unwrap();
    fill(&mut servers.connection(0), data);
    let reshard = Reshard::new(named(0), to.as_ref().clone(), ReshardOptions::new()).unwrap();
    let begun = Instant::now();
    assert_eq!(reshard.run(|_| {}).unwrap(), ReshardOutcome::Finished);
    let took = begun.elapsed();
    let count: usize = redis::cmd("DBSIZE")
        .query(&mut servers.connection(1))
        .unwrap();
    assert_eq!(count, data.keys, "{}", data.title);
    took
}

/// From one primary of a cluster to another.
fn move_theirs(data: Data, pipeline: &str) -> Duration {
    let server = servers()
        .into_iter()
        .next()
        .expect("a bench needs redis-server or valkey-server");
    let cluster = Cluster::start(&server, 3, 0);
    let source = cluster.owner(0);
    let target = (0..3).find(|node| *node != source).unwrap();
    fill(&mut cluster.connection(source), data);
    let mut command = Command::new(redis_cli().unwrap());
    command.args([
        "--cluster",
        "reshard",
        &cluster.addr(source),
        "--cluster-yes",
    ]);
    command.args([
        "--cluster-from",
        &cluster.id(source),
        "--cluster-to",
        &cluster.id(target),
    ]);
    command.args([
        "--cluster-slots",
        &data.slots.to_string(),
        "--cluster-pipeline",
        pipeline,
    ]);
    let begun = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let took = begun.elapsed();
    assert!(status.unwrap().success(), "redis-cli has failed");
    let count: usize = redis::cmd("DBSIZE")
        .query(&mut cluster.connection(target))
        .unwrap();
    assert_eq!(count, data.keys, "{}", data.title);
    took
}

/// Throughput and stalls of programs while four nodes become so many.
fn foreground(nodes: usize, builder: impl Fn(Vec<String>) -> redis_sharding::Builder) {
    let servers = Servers::builder()
        .option(["--repl-diskless-sync-delay", "0"])
        .start(nodes)
        .expect("a bench needs redis-server or valkey-server");
    let urls = servers.urls();
    let four = || builder(urls[..4].to_vec());
    let old = four().build().unwrap().topology();
    let new = builder(urls.clone()).build().unwrap().topology();
    FleetRecord::new(four())
        .unwrap()
        .publish(&old, PublishOptions::default())
        .unwrap();
    let client = four().agreed().build().unwrap();
    let keys = scaled(200_000);
    let data = |number: usize| (format!("key:{number}"), "v".repeat(1_000));
    let numbers: Vec<usize> = (0..keys).collect();
    for batch in numbers.chunks(500) {
        let pairs: Vec<(String, String)> = batch.iter().map(|number| data(*number)).collect();
        client.clone().mset::<_, _, ()>(&pairs).unwrap();
    }
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4_u64)
            .map(|worker| {
                let mut client = client.clone();
                let (stop, count) = (&stop, &count);
                scope.spawn(move || {
                    let mut times = Vec::new();
                    let mut state = worker + 1;
                    while !stop.load(Ordering::Relaxed) {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        let key = format!("key:{}", (state >> 33) as usize % keys);
                        let begun = Instant::now();
                        match state.is_multiple_of(2) {
                            true => client.set::<_, _, ()>(key, "v".repeat(1_000)).unwrap(),
                            false => drop(client.get::<_, Option<String>>(key).unwrap()),
                        }
                        times.push(begun.elapsed());
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    times
                })
            })
            .collect();
        let rate = |time: Duration, before: u64| {
            (count.load(Ordering::Relaxed) - before) as f64 / time.as_secs_f64()
        };
        let before = count.load(Ordering::Relaxed);
        let begun = Instant::now();
        thread::sleep(Duration::from_secs(3));
        let rest = rate(begun.elapsed(), before);
        let before = count.load(Ordering::Relaxed);
        let begun = Instant::now();
        let closures = reshard(four(), &new);
        let moving = rate(begun.elapsed(), before);
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let mut times: Vec<Duration> = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect();
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "\n{keys} keys of 1 KB, 4 to {nodes} nodes in {took:.1?}, {} closures",
            closures.len()
        );
        println!(
            "requests a second: {rest:.0} at rest, {moving:.0} meanwhile ({:.2})",
            moving / rest
        );
        println!(
            "requests: p99 {:?}, p99.9 {:?}, longest {:?}",
            at(0.99),
            at(0.999),
            at(1.0)
        );
        println!(
            "units closed: median {:?}, longest {:?}",
            closures[closures.len() / 2],
            closures[closures.len() - 1]
        );
    });
}

/// Returns the times for which units were closed, in ascending order: those of splits, if there were some.
fn reshard(fleet: redis_sharding::Builder, to: &Topology) -> Vec<Duration> {
    let reshard = Reshard::new(fleet, to.clone(), ReshardOptions::new()).unwrap();
    let (mut batches, mut splits) = (Vec::new(), Vec::new());
    let outcome = reshard.run(|event| match event {
        ReshardEvent::Batch { closed, .. } => batches.push(closed),
        ReshardEvent::Split { closed, .. } => splits.push(closed),
        _ => {}
    });
    assert_eq!(outcome.unwrap(), ReshardOutcome::Finished);
    let mut closures = if splits.is_empty() { batches } else { splits };
    closures.sort();
    closures
}

/// How long it takes until many clients go by a new topology.
fn followers() {
    for clients in [10, 100, 1_000] {
        if is_quick() && clients > 100 {
            continue;
        }
        let servers = Servers::builder()
            .option(["--maxclients", "20000"])
            .start(2)
            .expect("a bench needs redis-server or valkey-server");
        let urls = servers.urls();
        let topology = builder(urls.clone()).build().unwrap().topology();
        let record = FleetRecord::new(builder(urls.clone())).unwrap();
        record
            .publish(&topology, PublishOptions::default())
            .unwrap();
        let all: Vec<ShardedClient> = (0..clients)
            .map(|_| {
                let client = builder(urls.clone()).agreed().build().unwrap();
                let _: Option<String> = client.clone().get("key").unwrap();
                client
            })
            .collect();
        // The same nodes by other addresses: another epoch of the same placement.
        let moved: Vec<String> = urls
            .iter()
            .map(|url| url.replace("?", "").to_owned() + "?protocol=resp3")
            .collect();
        let next = builder(moved).build().unwrap().topology();
        let epochs: Vec<u64> = all.iter().map(|client| client.topology().epoch()).collect();
        let begun = Instant::now();
        record.publish(&next, PublishOptions::default()).unwrap();
        let published = begun.elapsed();
        let is_told = |(client, epoch): (&ShardedClient, &u64)| client.topology().epoch() > *epoch;
        let mut told = 0;
        while begun.elapsed() < Duration::from_secs(30) {
            told = all
                .iter()
                .zip(&epochs)
                .filter(|pair| is_told((pair.0, pair.1)))
                .count();
            if told == clients {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        println!(
            "{clients} clients of one process: {told} told within {:?}, published in {published:?}",
            begun.elapsed()
        );
        let _: Arc<Topology> = topology;
    }
}
