//! The client on tokio: moves bytes to the nodes and back without blocking a thread.
//!
//! ```text
//!  ShardedClient · Node · Scan · Dedicated     handles: clone an Arc of Shared
//!                 │
//!               Shared                         routes a command; drives its Operation step by step
//!                 │
//!              Executor                        one request per node, all nodes at once
//!                 │ per node
//!         ┌───────┴──────────────────┐
//!  ReconnectingConnection      ExclusivePool   left: one connection for all tasks, replaced when it
//!         │                          │         breaks; right: blocking commands, transactions, Dedicated
//!         └───────┬──────────────────┘
//!       MultiplexedConnection                  appends a request, then awaits its oneshot
//!                 │
//!             SendQueue                        bytes not yet taken, and who waits for their replies
//!                 │ one spawned task per connection
//!              Driver                          writes, reads, decodes, enforces deadlines
//!                 │
//!      TcpStream · UnixStream · TLS
//! ```
//!
//! Handles, one file each:
//!
//! * `client`: [`ShardedClient`], a `redis::aio::ConnectionLike` over all nodes; `build`:
//!   `Builder::build_async`; `bb8`, `deadpool`: a `ShardedClient` as the manager of a pool.
//! * `node`: [`Node`], a `ConnectionLike` over one node.
//! * `options`: handles with other timeouts and another retry policy.
//! * `dedicated`: [`Dedicated`], a private connection for stateful commands; `transaction`: the loop of
//!   WATCH, MULTI and EXEC on one; `watch`: WATCH through a client, whose connection is one.
//! * `scan`: [`Scan`], the keys of all nodes as a stream.
//! * `subscriber`: [`Subscriber`], channels and patterns of all nodes; `pub_sub_connection`: the connection
//!   to one node and its task; `event_channel`: the bounded queue between those tasks and the subscriber.
//! * `pubsub`: [`PubSub`], a subscriber with the methods of `redis::aio::PubSub`.
//!
//! Under the handles:
//!
//! * `shared`: `Shared`, the state that all handles of one client have in common.
//! * `executor`: `Executor`, sends each node its requests, then waits for all replies. `node_connections`: the connections
//!   to one node; `acquired`: that of one request; `reload`: what goes on by a newer topology.
//! * `reconnecting`: `ReconnectingConnection`, a node's shared connection; `connector`: `Connector`, how a connection
//!   is made; `connect`: its socket and its handshake.
//! * `exclusive_pool`: `ExclusivePool`, connections lent to one user at a time; `leased_exchange`: requests over one that
//!   is kept afterwards.
//! * `multiplexed`: `MultiplexedConnection` and its `SendQueue`, one connection that many requests share; `in_flight`: a
//!   request on its way, and the way back to its sender.
//! * `driver`: `Driver`, the task that moves the bytes of one connection.
//! * `tls`: encrypted streams; `peek`: detects that the server has closed a socket.
//!
//! Nothing here decides which command goes where, what its reply means or what may be sent again: that is
//! `plan`, for the blocking client as well.
//!
//! # Dropped futures
//!
//! A future does nothing before it is first polled. From then on its command belongs to a connection:
//! dropping the future does not cancel it. The command is still executed, even if the client itself is
//! dropped, its reply is discarded when it arrives, and the connection stays in step. A blocking command
//! (BLPOP, ...) has a connection of its own, which is closed when its future is dropped; an element that the
//! server pops at that very moment is lost.
//!
//! # Runtimes
//!
//! A connection lives on the runtime that was current when it was made and ends with that runtime, together
//! with everything it has not sent by then. The next request on another runtime makes a new one.
//!
//! A current-thread runtime only makes progress inside `block_on`, so nothing reconnects in the background. A
//! node that was down is still found again: once the pause after the last attempt is over, one request at a
//! time waits, within its own deadline, for the next attempt, while all others fail at once. A connection on
//! such a runtime that is no longer run is given up when a request from another runtime sees no sign of life
//! from it for one second.

mod acquired;
#[cfg(feature = "bb8")]
mod bb8;
mod build;
mod client;
mod connect;
pub(crate) mod connector;
#[cfg(feature = "deadpool")]
mod deadpool;
mod dedicated;
mod driver;
mod event_channel;
pub(crate) mod exclusive_pool;
mod executor;
mod hedged;
pub(crate) mod in_flight;
#[cfg(feature = "proxy")]
mod leased_exchange;
pub(crate) mod multiplexed;
mod node;
mod node_connections;
mod options;
pub(crate) mod peek;
mod pub_sub_connection;
mod pubsub;
pub(crate) mod reconnecting;
mod reload;
mod scan;
mod shared;
mod subscriber;
mod tls;
mod transaction;
mod watch;

pub use client::ShardedClient;
pub use dedicated::Dedicated;
pub use node::Node;
pub use pubsub::{PubSub, PubSubSink, PubSubStream};
pub use scan::Scan;
pub use subscriber::Subscriber;

#[cfg(feature = "proxy")]
pub(crate) use leased_exchange::LeaseOfServer;
pub(crate) use node_connections::ConnectionPurpose;
pub(crate) use shared::Shared;
