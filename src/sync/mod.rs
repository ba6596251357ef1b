//! How do the bytes go there and back? The blocking answer.
//!
//! * [`ShardedClient`]: the handle, a `redis::ConnectionLike` over all nodes. [`Node`]: the same for one node.
//! * [`Dedicated`]: a private connection for stateful commands. [`Scan`]: keys of all nodes, one after another.
//! * [`Subscriber`]: channels of all nodes; `pub_sub_connection`: one node's connection for them, with a thread of its
//!   own; `event_channel`: what has arrived over all of them.
//! * `executor`: writes to all nodes of a plan, then reads from all. `pool`: connections of one node. `connection`: one
//!   of them, whose replies `resp_stream` reads from a `socket`, which may be encrypted by `tls`.
//!
//! Only subscribers start threads. Nothing here decides: `plan` says which command goes where, what its replies mean and
//! what may be sent again.

mod build;
mod client;
mod connection;
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
