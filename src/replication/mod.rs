//! How are the servers of a node asked about their replication?
//!
//! * [`ReplicationMonitor`]: watches the nodes of one client that may have replicas.
//! * `rounds`: the thread that asks all their servers in rounds; `connection`: a connection to one of them.
//!
//! ```text
//!  NodeReplicas ── start ──▶ ReplicationMonitor ──▶ thread ── INFO replication ──▶ every server
//!       ▲                                             │
//!       └── publish, set_usable, measured ────────────┘
//! ```
//!
//! It is a plain thread with blocking sockets, for clients of every kind and on every runtime. It is started when
//! replicas are first needed, keeps no client alive, and ends soon after the last handle is gone. What the replies mean is
//! decided by [`ReplicaSet`](crate::topology::replication::ReplicaSet).

mod connection;
mod monitor;
mod rounds;

pub(crate) use self::monitor::{ListedReplicas, MonitorSettings, ReplicationMonitor};
