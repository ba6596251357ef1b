//! A fleet of servers whose keys move.

use std::sync::Arc;

use redis_sharding::partition::Partitioner;
use redis_sharding::{Builder, ShardedClient, Topology};

use super::Servers;

/// A description of a client over the first servers.
pub fn over(servers: &Servers, count: usize) -> Builder {
    let urls = servers.urls().into_iter().take(count);
    (0..)
        .zip(urls)
        .fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url)
        })
}

pub fn topology(
    servers: &Servers,
    count: usize,
    rule: impl Partitioner + 'static,
) -> Arc<Topology> {
    let client = over(servers, count).partitioner(rule).build().unwrap();
    client.topology()
}

/// A seed that differs from run to run.
pub fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_nanos() as u64 % 1_000_000
}
