//! The proxy beside twemproxy: the same four nodes, the same placement, so the same keys in the same places.
//!
//! redis-benchmark asks: 50 connections, random keys, values of 64 bytes. Both proxies are processes of their own, and so
//! are the servers; the cores are left to the system. `PROXIES=name=PATH,...` in the environment adds other builds of the
//! example to the rows.

mod support;

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use support::cluster::Cluster;
use support::fleet::{Fleet, NODES, connect, fill};
use support::measure::{median, rounds};
use support::proxies::{Proxy, nutcracker, own_binary};
use support::redis_benchmark::{Commands, LEAST, Load, is_installed};

const OWN: &str = "redis-sharding";
/// Connections at a time.
const CONNECTIONS: usize = 50;
/// How long a row runs in one round, in seconds. redis-benchmark needs some to start.
const ROUND: f64 = 0.5;

/// Who is asked.
struct Contender {
    name: String,
    address: String,
    pid: u32,
}

/// One row in one round.
#[derive(Clone, Copy)]
struct Sample {
    /// Requests a second.
    rate: f64,
    /// CPU seconds of the proxy per request, in the kernel and altogether.
    kernel: f64,
    cpu: f64,
}

fn main() {
    if !is_installed() {
        println!("redis-benchmark is not installed; nothing is measured");
        return;
    }
    let fleet = Fleet::start();
    let addresses: Vec<String> = (0..NODES).map(|node| fleet.servers.addr(node)).collect();
    let mut proxies = Vec::new();
    match nutcracker() {
        Some(binary) => proxies.push(("nutcracker", Proxy::nutcracker(&binary, &addresses))),
        None => println!("nutcracker is not installed and left out"),
    }
    proxies.push((OWN, Proxy::own(&own_binary(), &addresses, 1)));
    proxies.push((
        "redis-sharding, 2 threads",
        Proxy::own(&own_binary(), &addresses, 2),
    ));
    let cluster = Cluster::start();
    proxies.push((
        "redis-sharding, cluster of four",
        Proxy::own_cluster(&own_binary(), &cluster.addrs(), 1),
    ));
    let others = std::env::var("PROXIES").unwrap_or_default();
    for (name, binary) in others.split(',').filter_map(|other| other.split_once('=')) {
        proxies.push((name, Proxy::own(binary.as_ref(), &addresses, 1)));
    }
    let contender = |(name, proxy): &(&str, Proxy)| Contender {
        name: (*name).to_owned(),
        address: proxy.address().to_owned(),
        pid: proxy.pid(),
    };
    let mut contenders: Vec<Contender> = proxies.iter().map(contender).collect();
    // Every key is on the node where proxies look for it; server 0 has them all, for those who ask it alone.
    let own = contenders.iter().find(|own| own.name == OWN);
    let own = own.expect("it was started");
    fill(&mut connect(&format!("redis://{}/", own.address)));
    contenders.push(Contender {
        name: "one server, no proxy".to_owned(),
        address: addresses[0].clone(),
        pid: fleet.servers.pid(0),
    });
    for pipeline in [1, 100] {
        for commands in Commands::ALL {
            let load = Load {
                commands,
                pipeline,
                connections: CONNECTIONS,
            };
            compare(load, &contenders);
        }
    }
}

/// Measures every contender under this load, and prints the medians.
fn compare(load: Load, contenders: &[Contender]) {
    let counts: Vec<u64> = contenders
        .iter()
        .map(|contender| (load.rate(&contender.address, LEAST) * ROUND) as u64)
        .map(|count| count.max(LEAST))
        .collect();
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    for _ in 0..rounds() {
        order.shuffle(&mut rand::rng());
        for &place in &order {
            let sample = sample(load, &contenders[place], counts[place]);
            samples.entry(place).or_default().push(sample);
        }
    }
    println!("\n{load}");
    println!(
        "{:30} {:>12} {:>7} {:>10} {:>12}",
        "", "requests/s", "ratio", "CPU", "in kernel"
    );
    for (place, contender) in contenders.iter().enumerate() {
        let own = &samples[&place];
        let ratios = own
            .iter()
            .zip(&samples[&0])
            .map(|(own, first)| own.rate / first.rate);
        println!(
            "{:30} {:>12.0} {:>7.2} {:>7.2} us {:>9.2} us",
            contender.name,
            median(own.iter().map(|sample| sample.rate)),
            median(ratios),
            median(own.iter().map(|sample| sample.cpu)) * 1e6,
            median(own.iter().map(|sample| sample.kernel)) * 1e6,
        );
    }
}

fn sample(load: Load, contender: &Contender, count: u64) -> Sample {
    let before = cpu_seconds(contender.pid);
    let rate = load.rate(&contender.address, count);
    let after = cpu_seconds(contender.pid);
    let kernel = (after.1 - before.1) / count as f64;
    Sample {
        rate,
        kernel,
        cpu: (after.0 - before.0) / count as f64 + kernel,
    }
}

/// What a process has used of the cores: for itself, and in the kernel.
fn cpu_seconds(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may contain anything.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let seconds = |number: usize| {
        let ticks = fields.get(number).and_then(|field| field.parse().ok());
        // Linux has counted a hundred ticks a second since it runs on PCs.
        ticks.unwrap_or(f64::NAN) / 100.0
    };
    (seconds(11), seconds(12))
}
