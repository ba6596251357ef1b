//! Tasks that share an asynchronous client, each with one operation after another, on one thread.

use tokio::runtime::{self, Runtime};
use tokio::task::JoinSet;

use super::asynchronous::{
    Client, at_once, by_hand, fred_cluster, one_node, ours, ours_cluster, redis_rs_cluster, run,
    rustis_cluster,
};
use super::blocking::Shape;
use super::cluster::Cluster;
use super::data::Keys;
use super::fleet::Fleet;
use super::measure::{Row, Spent};

pub fn runtime() -> Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A row for every client.
pub fn rows<'r>(
    runtime: &'r Runtime,
    (fleet, cluster): (&Fleet, &Cluster),
    shape: Shape,
    tasks: usize,
) -> Vec<Row<'r>> {
    let row = Rows {
        runtime,
        shape,
        tasks,
    };
    let mut rows = vec![
        row.of("redis-rs async, one node", one_node(fleet)),
        row.of("redis-rs async, four connections by hand", by_hand(fleet)),
        row.of("redis-sharding async, four nodes", async { ours(fleet) }),
        row.of("redis-sharding async, cluster of four", async {
            ours_cluster(cluster)
        }),
        row.of("redis-rs cluster_async", redis_rs_cluster(cluster)),
        row.of("fred cluster", fred_cluster(cluster)),
        row.of("rustis cluster", rustis_cluster(cluster)),
    ];
    if shape == Shape::Pipeline {
        let client = at_once(redis_rs_cluster(cluster));
        rows.push(row.of("redis-rs cluster_async, GETs at once", client));
        let client = at_once(fred_cluster(cluster));
        rows.push(row.of("fred cluster, GETs at once", client));
        let client = at_once(rustis_cluster(cluster));
        rows.push(row.of("rustis cluster, GETs at once", client));
    }
    rows
}

/// What the rows of a table have in common.
struct Rows<'r> {
    runtime: &'r Runtime,
    shape: Shape,
    tasks: usize,
}

impl<'r> Rows<'r> {
    fn of<C: Client>(&self, name: &'static str, connect: impl Future<Output = C>) -> Row<'r> {
        let Self {
            runtime,
            shape,
            tasks,
        } = *self;
        let mut client = runtime.block_on(connect);
        let attempt = runtime.block_on(run(shape, &mut client, &mut Keys::new()));
        if let Err(reason) = attempt {
            return Row::refused(name, reason);
        }
        Row::timed(name, move |count| {
            let each = count.div_ceil(tasks as u64);
            let keys = (0..tasks as u64).map(Keys::from_anywhere).collect();
            let spent = Spent::on(|| runtime.block_on(work(shape, &client, keys, each)));
            spent.scaled(count as f64 / (each * tasks as u64) as f64)
        })
    }
}

async fn work<C: Client>(shape: Shape, client: &C, keys: Vec<Keys>, each: u64) {
    let mut tasks = JoinSet::new();
    for mut keys in keys {
        let mut client = client.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                let answer = run(shape, &mut client, &mut keys).await;
                answer.expect("it was answered before");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("every operation is answered");
    }
}
