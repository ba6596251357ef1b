//! Four servers become six while programs go on, and nothing is lost: `cargo run --release --example resharding`.
//!
//! Starts six servers of its own, fills four of them with 200,000 keys (or as many as you say), and has a client count
//! visits all the while. At the end every key is counted at its server, and every visit that was acknowledged is there.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

#[path = "support/fleet.rs"]
#[allow(dead_code, reason = "shared with the quickstart, which uses all of it")]
mod fleet;

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use redis_sharding::ops::reshard::{Reshard, ReshardEvent, ReshardOptions};
use redis_sharding::ops::{FleetRecord, PublishOptions};
use redis_sharding::redis::{self, Commands};
use redis_sharding::{Builder, ShardedClient};

use fleet::Fleet;

/// Number of keys unless another is given.
const KEYS: usize = 200_000;
/// Number of pages whose visits are counted.
const PAGES: usize = 1_000;
const ABOUT: &str = "\
Reshards four servers to six while a client goes on, and proves that nothing is lost.

The operand is the number of keys, 200000 unless given. Servers are started for it.";

fn main() -> ExitCode {
    let program = cli::Program {
        name: "resharding",
        operands: "[KEYS]",
        most: 1,
        about: ABOUT,
    };
    program.run(|operands| {
        let keys = match &cli::texts(operands)?[..] {
            [] => KEYS,
            [keys, ..] => keys.parse().map_err(|_| "the number of keys is a number")?,
        };
        run(keys)
    })
}

fn run(keys: usize) -> Result<(), Box<dyn Error>> {
    let fleet = Fleet::find(Vec::new(), 6)?;
    if let Fleet::InProcess(_) = fleet {
        println!(
            "There is neither redis-server nor valkey-server here, so there is nothing to move."
        );
        return Ok(());
    }
    let urls = fleet.urls();
    let four = describe(&urls[..4]);
    let old = four().build()?.topology();
    let new = describe(&urls)().build()?.topology();

    // The record makes the nodes tell which topology is in force; `agreed` makes a client go by it.
    FleetRecord::new(four())?.publish(&old, PublishOptions::default())?;
    let client = four().agreed().build()?;
    fill(&client, keys)?;
    println!(
        "{keys} keys on {} nodes: {}",
        old.nodes().len(),
        sizes(&urls)?
    );

    let reshard = Reshard::new(four(), new.as_ref().clone(), ReshardOptions::new())?;
    let plan = reshard.plan()?;
    println!("\n{plan}");
    if let Some(refusal) = plan.refusals.first() {
        return Err(refusal.text.clone().into());
    }
    let is_over = AtomicBool::new(false);
    let counted = thread::scope(|scope| {
        let visits = scope.spawn(|| count_visits(client.clone(), &is_over));
        let moved = show(&reshard);
        is_over.store(true, Ordering::Relaxed);
        let counted = visits.join().map_err(|_| "the client has panicked")?;
        moved.map_err(|error| error.to_string())?;
        counted
    })?;
    check(&client, &urls, keys, &counted)
}

/// Describes a client over these servers.
fn describe(urls: &[String]) -> impl Fn() -> Builder + use<'_> {
    move || {
        let nodes = (1..).zip(urls);
        nodes.fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url.as_str())
        })
    }
}

fn fill(client: &ShardedClient, keys: usize) -> Result<(), Box<dyn Error>> {
    let mut client = client.clone();
    let numbers: Vec<usize> = (0..keys).collect();
    for batch in numbers.chunks(1_000) {
        let mut pipeline = redis::pipe();
        for number in batch {
            pipeline
                .set(format!("user:{number}"), format!("user number {number}"))
                .ignore();
        }
        pipeline.exec(&mut client)?;
    }
    Ok(())
}

/// What the counter has seen.
#[derive(Default)]
struct Visits {
    /// Acknowledged, for each page.
    pages: HashMap<usize, u64>,
    /// The longest time that a request took.
    longest: Duration,
    /// Number of requests in a second.
    rate: f64,
}

/// Counts visits until it is told to stop. No request fails: those for keys on their way wait a moment.
fn count_visits(mut client: ShardedClient, is_over: &AtomicBool) -> Result<Visits, String> {
    let mut visits = Visits::default();
    let begun = Instant::now();
    let mut total = 0;
    while !is_over.load(Ordering::Relaxed) {
        let page = total % PAGES;
        let sent = Instant::now();
        let count: u64 = client
            .incr(format!("visits:{page}"), 1)
            .map_err(|error| format!("a visit was not counted: {error}"))?;
        visits.longest = visits.longest.max(sent.elapsed());
        let known = visits.pages.entry(page).or_default();
        *known += 1;
        if count != *known {
            return Err(format!("page {page} has {count} visits instead of {known}"));
        }
        total += 1;
    }
    visits.rate = total as f64 / begun.elapsed().as_secs_f64();
    Ok(visits)
}

/// Runs the reshard, with a bar for each node that gives keys away.
fn show(reshard: &Reshard) -> Result<(), redis_sharding::Error> {
    let bars = MultiProgress::new();
    let mut by_source: HashMap<String, ProgressBar> = HashMap::new();
    let (mut closures, mut keys) = (Vec::new(), 0);
    let begun = Instant::now();
    reshard.run(|event| match event {
        ReshardEvent::Scanned { source, keys } => {
            let all: usize = keys.iter().map(|(_, keys)| keys).sum();
            let bar = bars.add(ProgressBar::new(all as u64));
            let style =
                ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} keys, {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(source.clone());
            by_source.insert(source, bar);
        }
        ReshardEvent::Batch {
            source,
            keys: moved,
            closed,
            ..
        } => {
            closures.push(closed);
            keys += moved;
            if let Some(bar) = by_source.get(&source) {
                bar.inc(moved as u64);
            }
        }
        _ => {}
    })?;
    for bar in by_source.values() {
        bar.finish();
    }
    closures.sort();
    println!(
        "\nmoved {keys} keys in {:.1} s; units were closed for {:?} (median), {:?} (longest)",
        begun.elapsed().as_secs_f64(),
        closures
            .get(closures.len() / 2)
            .copied()
            .unwrap_or_default(),
        closures.last().copied().unwrap_or_default(),
    );
    Ok(())
}

/// The number of keys on each server.
fn sizes(urls: &[String]) -> Result<String, Box<dyn Error>> {
    let sizes = urls
        .iter()
        .map(|url| count_at(url).map(|count| count.to_string()));
    Ok(sizes.collect::<Result<Vec<_>, _>>()?.join(", "))
}

fn count_at(url: &str) -> Result<usize, Box<dyn Error>> {
    let mut connection = redis::Client::open(url)?.get_connection()?;
    Ok(redis::cmd("DBSIZE").query(&mut connection)?)
}

/// Compares what there is with what was acknowledged.
fn check(
    client: &ShardedClient,
    urls: &[String],
    keys: usize,
    visits: &Visits,
) -> Result<(), Box<dyn Error>> {
    let mut client = client.clone();
    println!(
        "keys on {} nodes: {}",
        client.topology().nodes().len(),
        sizes(urls)?
    );
    let counts = urls.iter().map(|url| count_at(url));
    let found: usize = counts.sum::<Result<usize, _>>()?;
    let expected = keys + visits.pages.len();
    if found != expected {
        return Err(format!("{found} keys instead of {expected}").into());
    }
    for number in 0..keys {
        // Each key has its value, at the node that owns it now.
        if number % 97 == 0 {
            let value: Option<String> = client.get(format!("user:{number}"))?;
            if value != Some(format!("user number {number}")) {
                return Err(format!("user:{number} is {value:?}").into());
            }
        }
    }
    let total: u64 = visits.pages.values().sum();
    for (page, count) in &visits.pages {
        let found: u64 = client.get(format!("visits:{page}"))?;
        if found != *count {
            return Err(format!("page {page} has {found} visits instead of {count}").into());
        }
    }
    println!(
        "{total} visits were acknowledged meanwhile, {:.0} a second, the slowest after {:?}: all are there",
        visits.rate, visits.longest
    );
    Ok(())
}
