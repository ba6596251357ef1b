//! What the number of nodes costs: GET and MGET of 100 over 4 to 256 nodes.
//!
//! The nodes live in this process, and the client's part is the CPU time of its thread. A GET should cost the same over any
//! number of nodes; an MGET costs one request for each node that owns one of its keys.

mod support;

use std::time::Duration;

use redis_sharding::testing::TestNode;
use support::blocking::{Name, Shape};
use support::core::Core;
use support::data::Keys;
use support::fleet::{client, fill};
use support::measure::{Row, Spent, compare_in};

fn main() {
    let _core = Core::pin();
    let fleets: Vec<Vec<TestNode>> = NODES
        .map(|count| TestNode::start_many(count).expect("free ports"))
        .into();
    for nodes in &fleets {
        fill(&mut client(urls(nodes)));
    }
    let rows = |name, shape| fleets.iter().map(move |nodes| row(name, shape, nodes));
    // Bare connections tell what the machine makes of so many sockets.
    let gets = rows(Name::Ours, Shape::Get).chain(rows(Name::ByHand, Shape::Get));
    compare_in(
        ROUND,
        Shape::Get.title(),
        Shape::Get.units(),
        gets.collect(),
    );
    let mgets = rows(Name::Ours, Shape::MGet);
    compare_in(
        ROUND,
        Shape::MGet.title(),
        Shape::MGet.units(),
        mgets.collect(),
    );
}

fn row(name: Name, shape: Shape, nodes: &[TestNode]) -> Row<'static> {
    let client = match name {
        Name::Ours => "redis-sharding",
        _ => "redis-rs by hand",
    };
    let (mut contender, mut keys) = (name.connect(urls(nodes)), Keys::new());
    Row::timed(format!("{client}, {} nodes", nodes.len()), move |count| {
        Spent::on_this_thread(|| {
            for _ in 0..count {
                shape.run(&mut *contender, &mut keys);
            }
        })
    })
}

fn urls(nodes: &[TestNode]) -> Vec<String> {
    nodes.iter().map(TestNode::url).collect()
}

/// Long enough that every connection is used many times in it.
const ROUND: Duration = Duration::from_millis(500);
const NODES: [usize; 4] = [4, 16, 64, 256];
