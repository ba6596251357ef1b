//! Many at a time: threads that share a blocking client, tasks that share an asynchronous one.
//!
//! `ONLY=tasks` leaves the threads out, `ONLY=threads` the tasks.

mod support;

use std::env;
use std::time::Duration;

use support::blocking::Shape;
use support::cluster::Cluster;
use support::core::Core;
use support::fleet::Fleet;
use support::measure::compare_in;
use support::{redis_benchmark, tasks, threads};

fn main() {
    let _core = Core::pin();
    let servers = (&Fleet::start(), &Cluster::start());
    let only = env::var("ONLY").unwrap_or_default();
    if only != "tasks" {
        THREADS
            .iter()
            .for_each(|&threads| of_threads(servers, threads));
    }
    if only != "threads" {
        TASKS.iter().for_each(|&tasks| of_tasks(servers, tasks));
    }
}

fn of_threads((fleet, cluster): (&Fleet, &Cluster), threads: usize) {
    let mut rows = threads::rows(fleet, cluster, threads);
    let addr = fleet.servers.addr(0);
    rows.extend(redis_benchmark::row(&addr, Shape::Get, threads));
    let title = format!("blocking, {threads} threads, per GET");
    compare_in(THREADS_ROUND, &title, 1, rows);
}

fn of_tasks(servers: (&Fleet, &Cluster), tasks: usize) {
    let runtime = tasks::runtime();
    for shape in Shape::ALL {
        let rows = tasks::rows(&runtime, servers, shape, tasks);
        let title = format!("asynchronous, one thread, {tasks} tasks: {}", shape.title());
        compare_in(TASKS_ROUND, &title, shape.units(), rows);
    }
}

/// Longer than that of the other benches, in which 64 threads would do little but start.
const THREADS_ROUND: Duration = Duration::from_millis(250);
/// Long enough for several batches of each of 64 tasks.
const TASKS_ROUND: Duration = Duration::from_millis(80);
const THREADS: [usize; 3] = [1, 8, 64];
const TASKS: [usize; 2] = [1, 64];
