//! What redis-rs' tests see as the crate `redis`: redis-rs itself, with [`Client`], [`Connection`] and the connections
//! of [`aio`] replaced by redis-sharding's clients over four servers.
//!
//! Only what is declared here shadows redis-rs; all else is redis-rs' own: commands, pipelines, scripts, conversions,
//! errors, transactions.
//!
//! What the adapter does by itself, because redis-rs' tests ask it of a client and a sharded client has no like of it:
//!
//! * `Client::open` finds the three further servers by the port of the first; see `four-servers.rs`.
//! * A connection is opened when the first server listens; then `get_connection` asks one of the nodes.
//! * A timeout or a receiver of push messages that is set on a live connection gives it a new client.
//! * PING on a connection with subscriptions is an UNSUBSCRIBE of nothing, with the answer of a server to PING.
//! * MONITOR is a connection of redis-rs to the first server.

mod client;
mod nodes;
mod sync;

pub mod aio;

pub use redis_rs::*;

pub use aio::AsyncConnectionConfig;
pub use client::Client;
pub use sync::{Connection, PubSub};
