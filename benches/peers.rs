//! The four shapes of work, all clients in one run, in relation to redis-benchmark on one node.

mod support;

use std::time::Duration;

use support::blocking::{self, Shape};
use support::cluster::Cluster;
use support::core::Core;
use support::fleet::Fleet;
use support::measure::{Row, compare, compare_in};
use support::{redis_benchmark, tasks, threads};

fn main() {
    let _core = Core::pin();
    let servers = (&Fleet::start(), &Cluster::start());
    for shape in Shape::ALL {
        one_by_one(servers, shape);
    }
    many_at_a_time(servers);
}

fn one_by_one(servers: (&Fleet, &Cluster), shape: Shape) {
    let (fleet, cluster) = servers;
    let runtime = tasks::runtime();
    let mut rows: Vec<Row<'_>> = Vec::new();
    rows.extend(redis_benchmark::row(&fleet.servers.addr(0), shape, 1));
    rows.extend(blocking::rows(fleet, cluster, shape));
    rows.extend(tasks::rows(&runtime, servers, shape, 1));
    compare(shape.title(), shape.units(), rows);
}

fn many_at_a_time(servers: (&Fleet, &Cluster)) {
    let (fleet, cluster) = servers;
    let runtime = tasks::runtime();
    let addr = fleet.servers.addr(0);
    let mut rows: Vec<Row<'_>> = Vec::new();
    rows.extend(redis_benchmark::row(&addr, Shape::Get, CONCURRENT));
    rows.extend(threads::rows(fleet, cluster, CONCURRENT));
    rows.extend(tasks::rows(&runtime, servers, Shape::Get, CONCURRENT));
    compare_in(ROUND, "(d) 64 concurrent GETs, per GET", 1, rows);
}

const CONCURRENT: usize = 64;
/// Long enough for 64 threads to start and work.
const ROUND: Duration = Duration::from_millis(150);
