//! What it costs to find the owner of a key: tag search, hash and lookup, through the same calls the client makes.
//!
//! The keys are 16 bytes long and come in random order, more of them than a branch predictor can remember. Figures are
//! throughput on one core: nanoseconds per key when many keys are placed in a row.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use redis_sharding::hash::KeyHash;
use redis_sharding::partition::{
    HashMod, NumericTable, OutNodes, Partitioner, Range, Rendezvous, Ring, SlotMap, by_name,
    catalogue, from_fn,
};
use redis_sharding::{NodeIndex, NodeSpec, Topology};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let keys = keys();
    let mut figures = Vec::new();
    let mut group = criterion.benchmark_group("placement");
    group.throughput(Throughput::Elements(KEYS as u64));
    for nodes in NODES {
        for (name, partitioner) in partitioners(nodes) {
            let placement = partitioner
                .place(&specs(nodes))
                .expect("every partitioner takes these nodes");
            let placement = black_box(&*placement);
            let tag = black_box(partitioner.hash_tag());
            let mut best = f64::INFINITY;
            group.bench_function(BenchmarkId::new(name, nodes), |bencher| {
                bencher.iter_custom(|rounds| {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        let owners = keys.iter().filter_map(|key| placement.locate(tag.of(key)));
                        black_box(owners.fold(0, |sum, owner| sum ^ owner.get()));
                    }
                    let elapsed = start.elapsed();
                    best = best.min(elapsed.as_secs_f64() * 1e9 / (rounds as f64 * KEYS as f64));
                    elapsed
                });
            });
            figures.push((name, nodes, best));
        }
    }
    group.finish();
    while_out(&mut criterion, &keys);
    criterion.final_summary();
    print_table(&figures);
}

/// A thousand nodes, of which ten are out: what a request pays for it, and what the thread that probes pays once for a set
/// of nodes.
fn while_out(criterion: &mut Criterion, keys: &[[u8; 16]]) {
    let ketama = by_name("twemproxy-ketama/1", &[]).expect("the catalogue has it");
    let rules: [(_, Arc<dyn Partitioner>); 3] = [
        ("rendezvous (xxh3)", Arc::new(Rendezvous::new())),
        ("ring (xxh3)", Arc::new(Ring::new())),
        ("twemproxy-ketama/1", ketama),
    ];
    let out: OutNodes = (0..OUT).map(|i| NodeIndex::new(i * 97)).collect();
    let mut group = criterion.benchmark_group("while-out");
    for (name, rule) in rules {
        let all = Topology::new(specs(MANY), rule).expect("every partitioner takes these nodes");
        let some = all.without(&out).expect("they can be out");
        group.throughput(Throughput::Elements(keys.len() as u64));
        for (state, topology) in [("all in", &all), ("ten out", &some)] {
            group.bench_function(BenchmarkId::new(name, state), |bencher| {
                bencher.iter(|| {
                    let owners = keys.iter().filter_map(|key| topology.locate(key));
                    owners.fold(0, |sum, owner| sum ^ owner.get())
                });
            });
        }
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new(name, "without ten"), |bencher| {
            bencher.iter(|| all.without(black_box(&out)));
        });
    }
    group.finish();
}

fn partitioners(nodes: usize) -> Vec<(&'static str, Arc<dyn Partitioner>)> {
    let width = USERS.div_ceil(nodes as u64);
    let users = (0..nodes as u64).fold(NumericTable::new("user:"), |table, i| {
        table.range(i * width..(i + 1) * width, format!("node-{i}"))
    });
    let range = Range::builder()
        .table(users)
        .build()
        .expect("the ranges follow one another");
    let own: [(_, Arc<dyn Partitioner>); 7] = [
        ("slot map (crc16)", Arc::new(SlotMap::even())),
        ("rendezvous (xxh3)", Arc::new(Rendezvous::new())),
        ("ring (xxh3)", Arc::new(Ring::new())),
        ("hash-mod (crc32)", Arc::new(HashMod::new(KeyHash::Crc32))),
        ("hash-mod (xxh3)", Arc::new(HashMod::new(KeyHash::Xxh3))),
        ("range (numeric)", Arc::new(range)),
        (
            "function (length)",
            Arc::new(from_fn("length/1", |key, nodes| key.len() % nodes.len())),
        ),
    ];
    // The presets of other clients and proxies, as they are without options.
    let presets = catalogue().iter().filter_map(|entry| {
        let preset = by_name(entry.name, &[]).ok()?;
        (!OWN.contains(&entry.name)).then_some((entry.name, preset))
    });
    own.into_iter().chain(presets).collect()
}

fn specs(count: usize) -> Vec<NodeSpec> {
    (0..count)
        .map(|i| NodeSpec::new(format!("node-{i}"), format!("10.0.0.{i}:6379")))
        .collect()
}

fn keys() -> Vec<[u8; 16]> {
    let mut state = 1_u64;
    let mut next = || {
        // Knuth's MMIX generator; the high bits are random enough.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 16) % USERS
    };
    let mut key = || {
        format!("user:{:011}", next())
            .into_bytes()
            .try_into()
            .expect("16 bytes")
    };
    (0..KEYS).map(|_| key()).collect()
}

/// The best sample of each row, and how it compares to the first row of the same number of nodes.
fn print_table(figures: &[(&str, usize, f64)]) {
    println!(
        "\n{:<31} {}",
        "ns per key (ratio)",
        NODES.map(|nodes| format!("{nodes:>10} nodes")).join(" ")
    );
    let rows = figures.len() / NODES.len();
    for row in 0..rows {
        let cells = figures
            .iter()
            .enumerate()
            .skip(row)
            .step_by(rows)
            .map(|(i, &(.., own))| {
                let (.., first) = figures[i - row];
                format!("{own:>8.2} ({:>5.2})", own / first)
            });
        println!(
            "{:<31} {}",
            figures[row].0,
            cells.collect::<Vec<_>>().join(" ")
        );
    }
}

/// What has rows of its own.
const OWN: [&str; 5] = [
    "hash-mod/1",
    "range/1",
    "rendezvous/1",
    "ring/1",
    "slot-map/1",
];
const KEYS: usize = 1 << 16;
/// Nodes of the rows with nodes that are out, and how many are.
const MANY: usize = 1000;
const OUT: u16 = 10;
const NODES: [usize; 3] = [4, 16, 128];
/// Keys are `user:` and a number below this one.
const USERS: u64 = 100_000_000_000;
