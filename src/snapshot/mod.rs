//! Which map do requests go by, and how is it replaced while they run?
//!
//! * `cell`: [`SnapshotHandle`], from which a request loads its snapshot: the router of one topology with the
//!   connections to its nodes.
//! * `cluster_connections`: [`ClusterConnections`], the connections to the servers of a Redis Cluster.
//! * `carry_over`: the connections to nodes that stay, from one snapshot to the next.
//! * `latest`: [`Latest`], the newest snapshot, for requests that must be planned again because keys are moved.
//! * `publisher`: [`Publisher`], which gives a new topology to all handles of a client, of whatever kind.
//! * `monitor`: the thread that probes the nodes of a cache, and takes those that fail out of the placement.
//! * `topology_file`: the thread that reads a topology again when its file changes.
//!
//! ```text
//! set_topology ─▶ Publisher ─┬─▶ SnapshotFamily of the blocking client ─┬─▶ SnapshotCell ◀── handles, clones
//!                 one lock,  │                                          └─▶ SnapshotCell ◀── with_timeout(..)
//!                 one epoch  ├─▶ SnapshotFamily of its client on tokio
//!                            └─▶ SnapshotFamily of each thread of a proxy
//! ```
//!
//! A request loads one snapshot, without a lock, and ends by it, unless a reshard moves its keys: node indices, placement and connections always
//! belong together. Connections to a node that is reached as before are carried over to the next snapshot; those to
//! a node that has left are closed when the last request of an older snapshot has ended.
//!
//! Nothing here sends a request, or decides which topology is valid: see `topology` and `config`.

mod carry_over;
mod cell;
mod cluster_connections;
mod latest;
mod monitor;
mod publisher;
mod topology_file;

pub(crate) use carry_over::{OfEndpoint, carry_over};
pub(crate) use cell::{Snapshot, SnapshotHandle, SnapshotListener, Variant};
pub(crate) use cluster_connections::ClusterConnections;
pub(crate) use latest::Latest;
pub(crate) use publisher::Publisher;
