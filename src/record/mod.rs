//! Who reads the records of the nodes, and is told when they change?
//!
//! * `monitor`: [`RecordMonitor`], which knows the records of one client's nodes, and judges what new connections read.
//! * `watcher`: the threads that are told by the nodes when a record changes; `merger`: the thread that has the client
//!   follow, and repairs records that were lost.
//! * `connection`: [`NodeConnection`], a connection to one node over which its record is read and written.
//! * `discover`: the topology that a node names.
//!
//! ```text
//!  new connections ── check_record ──▶ RecordMonitor ─▶ RecordView ─▶ merger ─▶ FleetPublisher
//!  nodes ── push ──▶ watchers ── learn ─────────────────────┘            └─▶ records that were lost
//! ```
//!
//! Plain threads with blocking sockets, for clients of every kind and on every runtime. They are started when the first
//! connection of the client is made, keep no client alive, and end with the last handle. What a record is, and which one
//! counts, is decided by `topology::record`. That a client never acts on an old record does not depend on them: each
//! connection reads the record itself before it is used.

mod connection;
mod discover;
mod merger;
mod monitor;
mod watcher;

pub(crate) use self::connection::NodeConnection;
pub(crate) use self::discover::discover;
pub(crate) use self::monitor::{FleetPublisher, RecordMonitor};
