//! Many GETs at a time: threads that share a blocking client, tasks that share an asynchronous one.

mod support;

use std::thread;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis_sharding::ShardedClient;
use support::blocking::{Shape, get};
use support::cluster::Cluster;
use support::core::Core;
use support::data::Keys;
use support::fleet::{Fleet, client, open};
use support::joined::Joined;
use support::measure::{Row, Spent, compare_in};
use support::{redis_benchmark, tasks};

fn main() {
    let _core = Core::pin();
    let (fleet, cluster) = (Fleet::start(), Cluster::start());
    for threads in THREADS {
        let mut rows = vec![
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
                    let owner = placement.topology().locate(key.as_bytes());
                    let pool = &pools[owner.expect("every key has an owner").get()];
                    get(&mut pool.get().expect("a connection"), key);
                }
            }),
            row("redis-sharding, one client", threads, || {
                let client: ShardedClient = client(fleet.urls());
                move |key: &str| get(&mut client.clone(), key)
            }),
            row("commands of all threads joined", threads, || {
                let client = Joined::connect(fleet.urls());
                move |key: &str| client.get(key)
            }),
            row("redis-rs cluster, r2d2", threads, || {
                let pool = pool(
                    ClusterClient::new(cluster.urls()).expect("addresses"),
                    threads,
                );
                move |key: &str| get(&mut pool.get().expect("a connection"), key)
            }),
        ];
        rows.extend(redis_benchmark::row(
            &fleet.servers.addr(0),
            Shape::Get,
            threads,
        ));
        compare_in(
            ROUND,
            &format!("blocking, {threads} threads, per GET"),
            1,
            rows,
        );
    }
    tasks::compare_all(&fleet, &cluster);
}

/// Threads that all use what `prepare` gives.
fn row<'r, G: Fn(&str) + Sync + 'r>(
    name: &'static str,
    threads: usize,
    prepare: impl FnOnce() -> G,
) -> Row<'r> {
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

/// Longer than that of the other benches, in which 64 threads would do little but start.
const ROUND: Duration = Duration::from_millis(250);
const THREADS: [usize; 3] = [1, 8, 64];
