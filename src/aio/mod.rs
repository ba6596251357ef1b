//! The client on tokio: how do the bytes go there and back without blocking?
//!
//! * [`ShardedClient`]: the handle, a `redis::aio::ConnectionLike` over all nodes. [`Node`]: the same for one node.
//! * [`Dedicated`]: a private connection for stateful commands. [`Scan`]: keys of all nodes as a stream.
//! * [`Subscriber`]: channels of all nodes; `pub_sub_connection`: one node's connection for them, `event_channel`: what
//!   has arrived over all of them.
//! * `executor`: hands each node its requests, then waits for all replies. `reconnecting`: a node's shared connection,
//!   made again when it breaks. `exclusive_pool`: connections lent to one user at a time. `multiplexed`: one connection
//!   that many requests share; `driver` moves its bytes, `tls` encrypts them, `peek` sees that the server has closed it.
//!
//! Nothing here decides: `plan` says which command goes where, what its replies mean and what may be sent again, as for
//! the blocking client.
//!
//! # Dropped futures
//!
//! A future does nothing before it is first polled. From then on its command is handed to a connection: dropping the
//! future does not take it back, it is carried out all the same, and its answer is thrown away when it comes, also
//! after the client itself was dropped. The connection stays in step. A blocking command (BLPOP, ...) has a connection of
//! its own, which is closed when its future is dropped; an element that the server took off a list in that moment is
//! lost.
//!
//! # Runtimes
//!
//! Connections live on the runtime that first needed them, and end with it, whatever they have not sent by then. The next
//! request on another runtime makes new ones.
//!
//! A runtime of one thread runs only while somebody blocks on it. A node that was down is found again all the same: as soon as
//! the pause after the last attempt is over, one request at a time waits until the next attempt has been made, within its own
//! time, while all others fail at once. Connections on such a runtime that is not run any more are given up when requests
//! from another one get no sign of life from them for a second.

mod build;
mod client;
mod dedicated;
mod driver;
mod event_channel;
pub(crate) mod exclusive_pool;
mod executor;
pub(crate) mod multiplexed;
mod node;
pub(crate) mod peek;
mod pub_sub_connection;
pub(crate) mod reconnecting;
mod scan;
mod shared;
mod subscriber;
mod tls;
mod transaction;

pub use client::ShardedClient;
pub use dedicated::Dedicated;
pub use node::Node;
pub use scan::Scan;
pub use subscriber::Subscriber;

pub(crate) use driver::WriteCoalescing;
pub(crate) use executor::Executor;
pub(crate) use shared::Shared;
