//! What this crate adds to a request, without sockets: a packed request is read, planned and written for each node, and the
//! answers are read and put in order.

mod support;

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;

use redis_sharding::command::{Args, CommandTable, PackedCommands};
use redis_sharding::partition::Rendezvous;
use redis_sharding::plan::Router;
use redis_sharding::{NodeSpec, SplitWrites, Topology};
use support::core::Core;
use support::data::{BATCH, Keys, VALUE};
use support::fleet::NODES;
use support::measure::{Row, Spent, compare};

fn main() {
    let _core = Core::pin();
    let router = router();
    let keys = Keys::new().batch();
    let get = redis::cmd("GET").arg(&keys[0]).get_packed_command();
    let mut pipe = redis::pipe();
    keys.iter().for_each(|key| {
        pipe.get(key);
    });
    let pipe = pipe.get_packed_pipeline();
    let mget = redis::cmd("MGET").arg(keys).get_packed_command();
    let (pipe_replies, mget_replies) = replies(&router, keys);
    let rows = vec![
        row("GET: read and planned", 1, || {
            let mut args = Args::new();
            let read = PackedCommands::new(black_box(&get)).next(&mut args);
            read.expect("a request");
            black_box(router.plan(&args).expect("a plan"));
        }),
        row("pipeline of 100 GETs", BATCH, || {
            let values = router.dry_run(black_box(&pipe), &pipe_replies);
            assert_eq!(values.expect("answers").len(), BATCH);
        }),
        row("MGET of 100", BATCH, || {
            let values = router.dry_run(black_box(&mget), &mget_replies);
            assert_eq!(values.expect("answers").len(), 1);
        }),
    ];
    compare("without sockets, per key", 1, rows);
}

fn row<'r>(name: &'static str, keys: usize, operation: impl Fn() + 'r) -> Row<'r> {
    Row::timed(name, move |count| {
        let spent = Spent::on_this_thread(|| (0..count).for_each(|_| operation()));
        spent.scaled(1.0 / keys as f64)
    })
}

fn router() -> Router {
    let nodes =
        (0..NODES).map(|node| NodeSpec::new(format!("node-{node}"), format!("host-{node}:1")));
    let topology = Topology::new(nodes.collect(), Arc::new(Rendezvous::new()));
    Router::new(
        Arc::new(topology.expect("four nodes")),
        Cow::Borrowed(CommandTable::built_in()),
        SplitWrites::Allowed,
    )
}

/// What each node sends for the pipeline, and what for the MGET.
fn replies(router: &Router, keys: &[String]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut counts = [0; NODES];
    for key in keys {
        counts[router.owner(key.as_bytes()).expect("an owner").get()] += 1;
    }
    let value = [format!("${}\r\n", VALUE.len()).as_bytes(), &VALUE, b"\r\n"].concat();
    let pipe = counts.map(|count| value.repeat(count));
    let mget =
        counts.map(|count| [format!("*{count}\r\n").as_bytes(), &value.repeat(count)].concat());
    (pipe.into(), mget.into())
}
