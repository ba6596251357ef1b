//! What is allocated: by a client, a node, a connection, and during requests.

mod support;

use std::alloc::System;

use redis::ConnectionLike;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use support::data::{KEYS, Keys};
use support::fleet::{Fleet, NODES, client, connect};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let fleet = Fleet::start();
    let fleet_urls = fleet.urls();
    let many_urls: Vec<String> = (0..MANY)
        .map(|port| format!("redis://127.0.0.1:{}/", port + 1))
        .collect();
    // What the first client of a process leaves behind belongs to all.
    drop(client(fleet_urls.clone()));

    println!("{:56} {:>12}", "held", "bytes");
    let (mut ours, few) = held(|| client(fleet_urls.clone()));
    held_line("client of four nodes, not connected", few);
    let (_many, many) = held(|| client(many_urls));
    held_line("each further node", (many - few) / (MANY - NODES) as isize);
    let mut keys = Keys::new();
    let ((), connected) = held(|| (0..100).for_each(|_| get(&mut ours, keys.next())));
    held_line("each connection", connected / NODES as isize);
    let (mut theirs, connection) = held(|| connect(&fleet_urls[0]));
    held_line("each connection of redis-rs", connection);

    println!(
        "\n{:56} {:>12} {:>12}",
        "per request", "allocations", "bytes"
    );
    let batch: Vec<&str> = (0..KEYS).map(|_| keys.next()).take(1000).collect();
    for (name, client) in [
        ("redis-rs, one node", &mut theirs as &mut dyn ConnectionLike),
        ("redis-sharding, four nodes", &mut ours),
    ] {
        request_line("GET", name, || get(client, keys.next()));
        request_line("pipeline of 100 GETs", name, || {
            pipeline(client, &batch[..100])
        });
        request_line("MGET of 1000", name, || mget(client, &batch));
    }
}

fn get(client: &mut dyn ConnectionLike, key: &str) {
    let _: Vec<u8> = redis::cmd("GET").arg(key).query(client).expect("a GET");
}

fn pipeline(client: &mut dyn ConnectionLike, keys: &[&str]) {
    let mut pipe = redis::pipe();
    keys.iter().for_each(|key| {
        pipe.get(key);
    });
    let _: Vec<Vec<u8>> = pipe.query(client).expect("a pipeline");
}

fn mget(client: &mut dyn ConnectionLike, keys: &[&str]) {
    let _: Vec<Vec<u8>> = redis::cmd("MGET").arg(keys).query(client).expect("an MGET");
}

/// What `work` makes, and the bytes it still holds afterwards.
fn held<T>(work: impl FnOnce() -> T) -> (T, isize) {
    let region = Region::new(ALLOCATOR);
    let made = work();
    let Stats {
        bytes_allocated,
        bytes_deallocated,
        ..
    } = region.change();
    (made, bytes_allocated as isize - bytes_deallocated as isize)
}

fn held_line(what: &str, bytes: isize) {
    println!("{what:56} {bytes:>12}");
}

fn request_line(request: &str, name: &str, mut work: impl FnMut()) {
    work();
    let region = Region::new(ALLOCATOR);
    work();
    let Stats {
        allocations,
        reallocations,
        bytes_allocated,
        ..
    } = region.change();
    let what = format!("{request}: {name}");
    println!(
        "{what:56} {:>12} {bytes_allocated:>12}",
        allocations + reallocations
    );
}

/// Nodes of the larger client.
const MANY: usize = 260;
