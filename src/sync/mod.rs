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
mod deadline;
mod dedicated;
mod ear;
mod event_channel;
mod executor;
mod link;
mod node;
mod pool;
#[cfg(feature = "r2d2")]
mod r2d2;
mod scan;
mod scripts;
mod socket;
mod subscriber;
mod transaction;
mod wire;

pub use client::ShardedClient;
pub use dedicated::Dedicated;
pub use node::Node;
pub use scan::Scan;
pub use subscriber::Subscriber;

pub(crate) use client::Shared;

use link::LinkKind;

use crate::settings::Settings;

/// Pools for every node; none of them is connected yet.
pub(crate) fn executor(
    clients: Vec<(redis::Client, String)>,
    settings: &Settings,
) -> executor::Executor {
    let pool = |(client, address): &(redis::Client, String), size: usize, kind: LinkKind| {
        let settings = pool::PoolSettings {
            size,
            connect_timeout: settings.connect_timeout,
            idle_check: settings.idle_check,
        };
        let connector = link::Connector::new(client.clone(), kind);
        pool::Pool::new(connector, address.clone(), settings)
    };
    executor::Executor {
        nodes: clients
            .iter()
            .map(|node| executor::NodePools {
                prompt: pool(node, settings.pool_size, LinkKind::Plain),
                waiting: pool(node, settings.waiting_pool_size, LinkKind::Plain),
            })
            .collect(),
        response_timeout: settings.response_timeout,
    }
}
