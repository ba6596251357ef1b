//! The blocking client: moves bytes to the nodes and back on the caller's thread.
//!
//! ```text
//!  ShardedClient · Node · Scan      Dedicated · PubSub        Subscriber
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
//! * `dedicated`: [`Dedicated`], a private connection for stateful commands; `pubsub`: [`PubSub`], SUBSCRIBE
//!   on one; `transaction`: the loop of WATCH, MULTI and EXEC on one; `watch`: WATCH
//!   through a client, whose connection is one.
//! * `scan`: [`Scan`], the keys of all nodes, one node after another.
//! * `subscriber`: [`Subscriber`], channels and patterns of all nodes; `pub_sub_connection`: the connection
//!   to one node and its thread; `event_channel`: the bounded queue between those threads and the subscriber.
//!
//! Under the handles:
//!
//! * `shared`: `Shared`, the state that all handles of one client have in common.
//! * `executor`: `Executor`, writes to all nodes of a request, then reads from all.
//! * `pool`: `Pool` and `Lease`, a bounded number of connections to one node.
//! * `connection`: `NodeConnection`, one connection, and `Connector`, how it is made.
//! * `resp_stream`: `RespStream`, the read buffer of a connection and its deadline.
//! * `socket`: `Socket`, TCP, Unix or TLS; `tls`: the encryption.
//!
//! Only subscribers start threads; a fan-out needs none. Nothing here decides which command goes where, what
//! its reply means or what may be sent again: that is `plan`, for the client on tokio as well.

mod build;
mod client;
mod connection;
mod dedicated;
mod event_channel;
mod executor;
mod node;
mod options;
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
mod watch;

pub use client::ShardedClient;
pub use dedicated::Dedicated;
pub use node::Node;
pub use pubsub::PubSub;
pub use scan::Scan;
pub use subscriber::Subscriber;

pub(crate) use shared::Shared;
