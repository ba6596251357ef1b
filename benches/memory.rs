//! What is allocated: by a client, a node, a connection, and during requests.

mod support;

use std::alloc::System;

use redis::{AsyncCommands, Commands, ConnectionLike, aio};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use support::blocking::gets;
use support::data::{KEYS, Keys};
use support::fleet::{Fleet, NODES, builder, client, connect, open};
use support::tasks;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let fleet = Fleet::start();
    let keys: Vec<String> = {
        let mut keys = Keys::new();
        (0..KEYS).map(|_| keys.next().to_owned()).collect()
    };
    // What the first client of a process leaves behind belongs to all.
    drop(client(fleet.urls()));
    blocking(&fleet, &keys);
    asynchronous(&fleet, &keys);
}

fn blocking(fleet: &Fleet, keys: &[String]) {
    heading("blocking: held", &["bytes"]);
    let (mut ours, few) = held(|| client(fleet.urls()));
    line("client of four nodes, not connected", &[few]);
    let (_many, many) = held(|| client(many_urls()));
    line("each further node", &[(many - few) / FURTHER]);
    let ((), connected) = held(|| get_each(&mut ours, &keys[..100]));
    line("each connection", &[connected / NODES as isize]);
    let (mut theirs, connection) = held(|| {
        let mut theirs = connect(&fleet.servers.url(0));
        get_each(&mut theirs, &keys[..100]);
        theirs
    });
    line("each connection of redis-rs", &[connection]);

    heading("blocking: per request", &["allocations", "bytes"]);
    requests("redis-rs, one node", &mut theirs, keys);
    requests("redis-sharding, four nodes", &mut ours, keys);
}

fn requests(name: &str, client: &mut impl ConnectionLike, keys: &[String]) {
    request("GET", name, || get_each(client, &keys[..1]));
    request("pipeline of 100 GETs", name, || {
        let _: Vec<Vec<u8>> = gets(&keys[..100]).query(client).expect("a pipeline");
    });
    request("MGET of 1000", name, || {
        let _: Vec<Vec<u8>> = Commands::mget(client, &keys[..1000]).expect("an MGET");
    });
}

fn asynchronous(fleet: &Fleet, keys: &[String]) {
    let runtime = tasks::runtime();
    let of = |urls| builder(urls).build_async().expect("a valid client");
    heading("asynchronous: held", &["bytes"]);
    let (mut ours, few) = held(|| of(fleet.urls()));
    line("client of four nodes, not connected", &[few]);
    let (_many, many) = held(|| of(many_urls()));
    line("each further node", &[(many - few) / FURTHER]);
    // The runtime's own first connection costs it something once.
    let redis_rs = || {
        runtime.block_on(async {
            let client = open(&fleet.servers.url(0));
            let connection = client.get_multiplexed_async_connection().await;
            let mut connection = connection.expect("the server listens");
            get_each_async(&mut connection, &keys[..100]).await;
            connection
        })
    };
    let _first = redis_rs();
    let ((), connected) = held(|| runtime.block_on(get_each_async(&mut ours, &keys[..100])));
    line("each connection", &[connected / NODES as isize]);
    let (mut theirs, connection) = held(redis_rs);
    line("each connection of redis-rs", &[connection]);

    heading("asynchronous: per request", &["allocations", "bytes"]);
    requests_async("redis-rs, one node", &mut theirs, &runtime, keys);
    requests_async("redis-sharding, four nodes", &mut ours, &runtime, keys);
}

fn requests_async(
    name: &str,
    client: &mut (impl aio::ConnectionLike + Send + Sync),
    runtime: &Runtime,
    keys: &[String],
) {
    request("GET", name, || {
        runtime.block_on(get_each_async(client, &keys[..1]));
    });
    request("pipeline of 100 GETs", name, || {
        let pipe = gets(&keys[..100]);
        let values = runtime.block_on(pipe.query_async(client));
        let _: Vec<Vec<u8>> = values.expect("a pipeline");
    });
    request("MGET of 1000", name, || {
        let values = runtime.block_on(AsyncCommands::mget(client, &keys[..1000]));
        let _: Vec<Vec<u8>> = values.expect("an MGET");
    });
}

fn get_each(client: &mut impl ConnectionLike, keys: &[String]) {
    for key in keys {
        let _: Vec<u8> = redis::cmd("GET").arg(key).query(client).expect("a GET");
    }
}

async fn get_each_async(client: &mut (impl aio::ConnectionLike + Send + Sync), keys: &[String]) {
    for key in keys {
        let _: Vec<u8> = AsyncCommands::get(client, key).await.expect("a GET");
    }
}

fn many_urls() -> Vec<String> {
    (0..MANY)
        .map(|port| format!("redis://127.0.0.1:{}/", port + 1))
        .collect()
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

/// What is allocated when it happens for the second time.
fn request(request: &str, name: &str, mut work: impl FnMut()) {
    work();
    let region = Region::new(ALLOCATOR);
    work();
    let Stats {
        allocations,
        reallocations,
        bytes_allocated,
        ..
    } = region.change();
    let allocations = (allocations + reallocations) as isize;
    line(
        &format!("{request}: {name}"),
        &[allocations, bytes_allocated as isize],
    );
}

fn heading(what: &str, columns: &[&str]) {
    print!("\n{what:56}");
    columns.iter().for_each(|column| print!(" {column:>12}"));
    println!();
}

fn line(what: &str, figures: &[isize]) {
    print!("{what:56}");
    figures.iter().for_each(|figure| print!(" {figure:>12}"));
    println!();
}

/// Nodes of the larger client.
const MANY: usize = 260;
const FURTHER: isize = (MANY - NODES) as isize;
