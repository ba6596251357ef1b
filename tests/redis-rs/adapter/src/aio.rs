//! redis-rs' async connections, which are clients of [`redis_sharding::aio`].

mod config;
mod connections;
mod monitor;
mod pubsub;
mod subscriptions;

pub use redis_rs::aio::*;

pub use config::{AsyncConnectionConfig, ConnectionManagerConfig};
pub use connections::{ConnectionManager, MultiplexedConnection};
pub use monitor::Monitor;
pub use pubsub::{PubSub, PubSubSink, PubSubStream};
