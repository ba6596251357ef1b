//! Threads that share a blocking client, each with one GET after another.

use std::thread;

use redis::cluster::ClusterClient;
use redis_sharding::ShardedClient;

use super::blocking::get;
use super::cluster::Cluster;
use super::data::Keys;
use super::fleet::{Fleet, client, open, owner};
use super::joined::Joined;
use super::measure::{Row, Spent};

/// A row for every way to share.
pub fn rows(fleet: &Fleet, cluster: &Cluster, threads: usize) -> Vec<Row<'static>> {
    vec![
        row("redis-rs, r2d2, one node", threads, || {
            let pool = pool(open(&fleet.servers.url(0)), threads);
            move |key: &str| get(&mut pool.get().expect("a connection"), key)
        }),
        row("redis-rs, r2d2 for each node, by hand", threads, || {
            let placement = client(fleet.urls());
            let pools: Vec<_> = fleet
                .urls()
                .iter()
                .map(|url| pool(open(url), threads))
                .collect();
            move |key: &str| {
                let pool = &pools[owner(&placement.topology(), key)];
                get(&mut pool.get().expect("a connection"), key);
            }
        }),
        row("redis-sharding, one client", threads, || {
            let client: ShardedClient = client(fleet.urls());
            move |key: &str| get(&mut client.clone(), key)
        }),
        row("redis-sharding, one client, cluster", threads, || {
            let client = ShardedClient::cluster(cluster.urls()).expect("seeds of a cluster");
            move |key: &str| get(&mut client.clone(), key)
        }),
        row("commands of all threads joined", threads, || {
            let client = Joined::connect(fleet.urls());
            move |key: &str| client.get(key)
        }),
        row("redis-rs cluster, r2d2", threads, || {
            let client = ClusterClient::new(cluster.urls()).expect("addresses");
            let pool = pool(client, threads);
            move |key: &str| get(&mut pool.get().expect("a connection"), key)
        }),
    ]
}

/// Threads that all use what `prepare` gives.
fn row<G: Fn(&str) + Sync + 'static>(
    name: &'static str,
    threads: usize,
    prepare: impl FnOnce() -> G,
) -> Row<'static> {
    let get = prepare();
    let mut keys: Vec<Keys> = (0..threads as u64).map(Keys::from_anywhere).collect();
    Row::timed(name, move |count| {
        let each = count.div_ceil(threads as u64);
        let spent = Spent::on(|| {
            thread::scope(|scope| {
                for keys in &mut keys {
                    scope.spawn(|| (0..each).for_each(|_| get(keys.next())));
                }
            });
        });
        spent.scaled(count as f64 / (each * threads as u64) as f64)
    })
}

/// As many connections as threads, and none is asked before it is used.
fn pool<M: r2d2::ManageConnection>(manager: M, size: usize) -> r2d2::Pool<M> {
    r2d2::Pool::builder()
        .max_size(size as u32)
        .test_on_check_out(false)
        .build(manager)
        .expect("the servers listen")
}
