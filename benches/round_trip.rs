//! Blocking clients over real servers: GET after GET, pipelines of 100 GETs, MGETs of 100; and MGET where the way to the
//! servers takes time.

mod support;

use std::time::Duration;

use support::blocking::{self, Name, Shape, row};
use support::cluster::Cluster;
use support::core::Core;
use support::fleet::{Fleet, NODES};
use support::measure::compare;
use support::redis_benchmark;
use support::tests::delay_proxy::DelayProxy;

fn main() {
    let core = Core::pin();
    let (fleet, cluster) = (Fleet::start(), Cluster::start());
    for shape in Shape::ALL {
        let mut rows = blocking::rows(&fleet, &cluster, shape);
        rows.extend(redis_benchmark::row(&fleet.servers.addr(0), shape, 1));
        compare(shape.title(), shape.units(), rows);
    }
    core.unpin();
    far_away(&fleet);
}

/// A fan-out should cost the slowest node, not the sum.
fn far_away(fleet: &Fleet) {
    let proxies: Vec<DelayProxy> = (0..NODES)
        .map(|node| {
            let upstream = fleet.servers.addr(node);
            DelayProxy::start(&upstream, ROUND_TRIP / 2).expect("a free port")
        })
        .collect();
    let urls: Vec<String> = proxies.iter().map(DelayProxy::url).collect();
    compare(
        "MGET of 100 with a round trip of 1 ms, per MGET",
        1,
        vec![
            row(Name::OneNode, Shape::MGet, urls.clone()),
            row(Name::ByHand, Shape::MGet, urls.clone()),
            row(Name::Ours, Shape::MGet, urls),
        ],
    );
}

const ROUND_TRIP: Duration = Duration::from_millis(1);
