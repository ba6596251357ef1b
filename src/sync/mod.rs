//! The blocking client: moves bytes to the nodes and back on the caller's thread.
//!
//! ```text
//!  ShardedClient · Node · Scan          Dedicated        Subscriber · PubSub
//!              │                           │                       │
//!            Shared                        │                 EventChannel
//!              │                           │                       │ one thread per node
//!           Executor   writes to all,      │                PubSubConnection
//!              │       then reads from all │                       │
//!              │ per node                  │                       │
//!            Pool ───── Lease ───▶ NodeConnection                  │
//!                                          │                       │
//!                                     RespStream                   │
//!                                          │                       │
//!                                       Socket ◀───────────────────┘
//!                                          │
//!                               TcpStream · UnixStream · TlsSocket
//! ```
//!
//! Handles, one file each:
//!
//! * `client`: [`ShardedClient`], a `redis::ConnectionLike` over all nodes; `build`: `Builder::build`;
//!   `r2d2`: a `ShardedClient` as the connection manager of an `r2d2` pool.
//! * `node`: [`Node`], a `ConnectionLike` over one node.
//! * `options`: handles with other timeouts and another retry policy.
//! * `dedicated`: [`Dedicated`], a private connection for stateful commands; `pubsub`: [`DedicatedPubSub`],
//!   SUBSCRIBE on one; `transaction`: the loop of WATCH, MULTI and EXEC on one; `watch`: WATCH through a
//!   client, whose connection is one.
//! * `scan`: [`Scan`], the keys of all nodes, one node after another.
//! * `subscriber`: [`Subscriber`], channels and patterns of all nodes; `pub_sub_connection`: the connection
//!   to one node and its thread; `event_channel`: the bounded queue between those threads and the subscriber.
//! * `client_pubsub`: [`PubSub`], a subscriber with the methods of `redis::PubSub`.
//!
//! Under the handles:
//!
//! * `shared`: `Shared`, the state that all handles of one client have in common; `async_client`: the client on
//!   tokio of the same description, for programs that use both.
//! * `executor`: `Executor`, writes to all nodes of a request, then reads from all.
//! * `node_pools`: `NodePools`, the connections to one node.
//! * `pool`: `Pool` and `Lease`, a bounded number of connections to one node.
//! * `connection`: `NodeConnection`, one connection, and `Connector`, how it is made.
//!
//! The bytes are moved by `blocking`.
//!
//! Only subscribers start threads; a fan-out needs none. Nothing here decides which command goes where, what
//! its reply means or what may be sent again: that is `plan`, for the client on tokio as well.

#[cfg(feature = "tokio-comp")]
mod async_client;
mod build;
mod call;
mod client;
mod client_pubsub;
mod connection;
mod dedicated;
mod event_channel;
mod executor;
mod hedged;
mod node;
mod node_pools;
mod options;
mod pool;
mod pub_sub_connection;
mod pubsub;
#[cfg(feature = "r2d2")]
mod r2d2;
mod reload;
mod scan;
mod shared;
mod subscriber;
mod transaction;
mod watch;

pub use client::ShardedClient;
pub use client_pubsub::PubSub;
pub use dedicated::Dedicated;
pub use node::Node;
pub use pubsub::DedicatedPubSub;
pub use scan::Scan;
pub use subscriber::Subscriber;

pub(crate) use shared::Shared;
