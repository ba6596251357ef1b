//! Clients over the servers of a test.

use redis_sharding::{Builder, ShardedClient};

use super::Servers;

/// A client over all servers, whose nodes are called `node-0`, `node-1`, ...
pub fn client(servers: &Servers) -> ShardedClient {
    builder(servers)
        .build()
        .expect("the servers make a valid client")
}

/// The description of such a client.
pub fn builder(servers: &Servers) -> Builder {
    builder_over(servers.urls())
}

/// The same over nodes at these URLs.
pub fn builder_over(urls: impl IntoIterator<Item = String>) -> Builder {
    (0..)
        .zip(urls)
        .fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url)
        })
}
