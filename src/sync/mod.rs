//! How do the bytes go there and back? The blocking answer.
//!
//! * [`ShardedClient`]: the handle, a `redis::ConnectionLike` over all nodes. [`Node`]: the same for one node.
//! * [`Dedicated`]: a private connection for stateful talk. [`Scan`]: keys of all nodes, one after another.
//! * `executor`: writes to all nodes of a plan, then reads from all. `pool`: connections of one node. `link`: one
//!   connection, whose replies `wire` reads from a `socket`, which may be encrypted by `tls`.
//!
//! No thread is started, and nothing here decides: which command goes where, what its answers mean and what may be sent
//! again is said by `plan`.

mod build;
mod client;
mod connection;
mod deadline;
mod dedicated;
mod event_channel;
mod executor;
mod node;
mod pool;
mod pub_sub_connection;
mod pubsub;
#[cfg(feature = "r2d2")]
mod r2d2;
mod resp_stream;
mod scan;
mod shared;
mod socket;
mod subscriber;
mod tls;
mod transaction;

pub use client::ShardedClient;
pub use dedicated::Dedicated;
pub use node::Node;
pub use pubsub::PubSub;
pub use scan::Scan;
pub use subscriber::Subscriber;

pub(crate) use shared::Shared;
