//! What redis-rs' tests see as the crate `redis`: redis-rs itself, with [`Client`], [`Connection`] and the connections
//! of [`aio`] replaced by redis-sharding's clients over four servers.
//!
//! Only what is declared here shadows redis-rs; all else is redis-rs' own: commands, pipelines, scripts, conversions,
//! errors, transactions.
//!
//! What the adapter does by itself, because redis-rs' tests ask it of a client and a sharded client has no like of it:
//!
//! * `Client::open` finds the three further servers by the port of the first; see `four-servers.rs`.
//! * A blocking connection is opened when the first server listens, an async one when all have answered PING, beside the
//!   node that `get_connection` or its async counterpart asks.
//! * A timeout that is set on a live connection is that of commands without end as well: `blocking_timeout`.
//! * CLIENT INFO, LIST and KILL go to the first node, CLIENT ID to a dedicated connection to it, SLAVEOF to every node:
//!   `client.node(name)`.
//! * The receiver of push messages of an async connection is told of lost connections to the first node only.
//! * A blocking connection is open unless all nodes are down by `client.health()`; a client is never closed.
//! * CLIENT TRACKING goes to a dedicated connection to every node. The commands that follow go to that of their key;
//!   those of a pipeline one after another.
//! * SUBSCRIBE on an async connection is one of the client's `PubSub`, whose messages the adapter hands to the receiver
//!   of push messages. It writes the confirmations itself, with the number of subscriptions of the connection.
//! * PING on a connection with subscriptions is an UNSUBSCRIBE of nothing, with the answer of a server to PING.
//! * MONITOR is a connection of redis-rs to every server.

mod client;
mod nodes;
mod recipient;
mod sync;

pub mod aio;

pub use redis_rs::*;

pub use aio::AsyncConnectionConfig;
pub use client::Client;
pub use sync::{Connection, PubSub};
