//! How do the bytes go there and back? The blocking answer.
//!
//! * [`ShardedClient`]: the handle, a `redis::ConnectionLike` over all nodes. [`Node`]: the same for one node.
//! * [`Dedicated`]: a private connection for stateful talk. [`Scan`]: keys of all nodes, one after another.
//! * `executor`: writes to all nodes of a plan, then reads from all. `pool`: connections of one node. `link`: one
//!   connection, by `wire` of our own or by redis-rs.
//!
//! No thread is started, and nothing here decides: which command goes where, what its answers mean and what may be sent
//! again is said by `plan`.

mod client;
mod dedicated;
mod executor;
mod link;
mod node;
mod pool;
#[cfg(feature = "r2d2")]
mod r2d2;
mod scan;
mod transaction;
mod wire;

pub use client::ShardedClient;
pub use dedicated::Dedicated;
pub use node::Node;
pub use scan::{Scan, ScanPosition};
pub use transaction::TRANSACTION_ATTEMPTS_MAX;

pub(crate) use client::Shared;

use link::LinkKind;

use crate::builder::Settings;
use crate::topology::Topology;

/// Pools for every node; none of them is connected yet.
pub(crate) fn executor(
    topology: &Topology,
    clients: Vec<redis::Client>,
    settings: Settings,
) -> executor::Executor {
    let pool = |client: &redis::Client, address: &str, size: usize, kind: LinkKind| {
        let settings = pool::PoolSettings {
            size,
            connect_timeout: settings.connect_timeout,
            idle_check: settings.idle_check,
        };
        pool::Pool::new(
            link::Connector::new(client.clone(), kind),
            address.to_owned(),
            settings,
        )
    };
    executor::Executor {
        nodes: topology
            .nodes()
            .iter()
            .zip(&clients)
            .map(|(node, client)| executor::NodePools {
                prompt: pool(client, node.address(), settings.pool_size, LinkKind::Plain),
                waiting: pool(
                    client,
                    node.address(),
                    settings.waiting_pool_size,
                    LinkKind::RedisRs,
                ),
            })
            .collect(),
        response_timeout: settings.response_timeout,
    }
}
