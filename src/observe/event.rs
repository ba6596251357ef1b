//! [`ClientEvent`]: what happened to a node.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::partition::NodeSpec;
use crate::plan::PoolUse;

/// What happened to a node, as a client noticed it: see [`Builder::on_event`](crate::Builder::on_event).
///
/// `Display` is a line for a log; it never contains a password.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The node cannot be reached: an attempt to connect failed, and the node was not known to be down. Not
    /// repeated for the attempts that follow.
    #[non_exhaustive]
    NodeDown {
        /// The node.
        node: NodeSpec,
        /// The error, of the kind [`NodeDown`](crate::ErrorKind::NodeDown), or [`Auth`](crate::ErrorKind::Auth) if
        /// the username, the password or a certificate was refused.
        error: Error,
    },
    /// A node that was down is reachable again.
    #[non_exhaustive]
    NodeUp {
        /// The node.
        node: NodeSpec,
        /// Time since its [`NodeDown`](Self::NodeDown).
        outage: Duration,
    },
    /// A replica of the node cannot be reached: an attempt to connect failed, and it was not known to be down. Not
    /// repeated for the attempts that follow.
    #[non_exhaustive]
    ReplicaDown {
        /// The node, with the address of the replica.
        node: NodeSpec,
        /// The error, as of [`NodeDown`](Self::NodeDown).
        error: Error,
    },
    /// A replica that was down is reachable again.
    #[non_exhaustive]
    ReplicaUp {
        /// The node, with the address of the replica.
        node: NodeSpec,
        /// Time since its [`ReplicaDown`](Self::ReplicaDown).
        outage: Duration,
    },
    /// The node of a cache has failed too often: its keys have other owners from now on. See
    /// [`Ejection`](crate::Ejection).
    #[non_exhaustive]
    Ejected {
        /// The node.
        node: NodeSpec,
        /// Number of failures in a row.
        failures: u32,
    },
    /// A node that was ejected owns its keys again: it has recovered, or more nodes have failed than may be out.
    #[non_exhaustive]
    Readmitted {
        /// The node.
        node: NodeSpec,
        /// Time since its [`Ejected`](Self::Ejected).
        absence: Duration,
    },
    /// A node that was ejected and replies again could not be emptied, and stays out for now. See
    /// [`Readmission`](crate::Readmission).
    #[non_exhaustive]
    FlushFailed {
        /// The node.
        node: NodeSpec,
        /// The error of FLUSHDB or FLUSHALL.
        error: Error,
    },
    /// The nodes of the client, or their placement, were replaced. Of a cluster: other primaries own its slots. Slots that
    /// move between these are not reported, as a reshard may move them all.
    #[non_exhaustive]
    TopologyChanged {
        /// The [epoch](crate::Topology::epoch) of the former topology.
        from: u64,
        /// The epoch of the topology from now on.
        to: u64,
    },
    /// The topology in the file of [`Builder::watch_topology`](crate::Builder::watch_topology) was not taken over: the
    /// file cannot be read, or is wrong, or would move keys of a store. Reported once for each content.
    #[non_exhaustive]
    TopologyRefused {
        /// The error, of the kind [`Config`](crate::ErrorKind::Config), with the path.
        error: Error,
    },
    /// The node has lost the record of its fleet, or has an older one, or one that was written to another server: it was
    /// emptied by somebody else, restarted, or replaced. Connections are refused there until the record is repaired. See
    /// [`Builder::agreed`](crate::Builder::agreed).
    #[non_exhaustive]
    RecordLost {
        /// The node.
        node: NodeSpec,
    },
    /// This client has written the record of the node again, as most of the other nodes agree on it.
    #[non_exhaustive]
    RecordRepaired {
        /// The node.
        node: NodeSpec,
    },
    /// A connection was made after one to the same node had broken. Follows
    /// [`NodeUp`](Self::NodeUp) if the node was down in between.
    #[non_exhaustive]
    Reconnected {
        /// The node.
        node: NodeSpec,
    },
    /// The node's primary is another server now: see [`Builder::sentinel`](crate::Builder::sentinel). Connections
    /// to the one before are not used any more.
    #[non_exhaustive]
    PrimaryChanged {
        /// The node.
        node: NodeSpec,
        /// The address of the primary before: `host:port`.
        from: String,
        /// The address of the primary now.
        to: String,
    },
    /// A connection for commands was made.
    #[non_exhaustive]
    ConnectionOpened {
        /// The node.
        node: NodeSpec,
        /// The pool that it belongs to.
        pool: PoolKind,
    },
    /// A connection for commands ended, by whichever side.
    #[non_exhaustive]
    ConnectionClosed {
        /// The node.
        node: NodeSpec,
        /// The pool that it belonged to.
        pool: PoolKind,
    },
}

/// The connections of a client to one node that serve one kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolKind {
    /// For requests that the server replies to without blocking. The blocking client lends such a connection
    /// to one request at a time; the async client sends the requests of all tasks over it.
    Shared,
    /// For blocking commands, transactions and dedicated connections, one user at a time.
    Exclusive,
}

impl ClientEvent {
    /// The node that the event concerns. `None` if it concerns no single one.
    pub fn node(&self) -> Option<&NodeSpec> {
        match self {
            Self::TopologyChanged { .. } | Self::TopologyRefused { .. } => None,
            Self::NodeDown { node, .. }
            | Self::Ejected { node, .. }
            | Self::FlushFailed { node, .. }
            | Self::Readmitted { node, .. }
            | Self::NodeUp { node, .. }
            | Self::ReplicaDown { node, .. }
            | Self::ReplicaUp { node, .. }
            | Self::Reconnected { node }
            | Self::RecordLost { node }
            | Self::RecordRepaired { node }
            | Self::PrimaryChanged { node, .. }
            | Self::ConnectionOpened { node, .. }
            | Self::ConnectionClosed { node, .. } => Some(node),
        }
    }
}

impl PoolKind {
    /// The name in labels and texts: `shared` or `exclusive`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }
}

impl From<PoolUse> for PoolKind {
    fn from(pool: PoolUse) -> Self {
        match pool {
            PoolUse::Shared => Self::Shared,
            PoolUse::Exclusive => Self::Exclusive,
        }
    }
}

impl fmt::Display for PoolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for ClientEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The error begins with the name of the node.
            Self::NodeDown { error, .. } => write!(f, "down: {error}"),
            Self::NodeUp { node, outage } => {
                write!(f, "up: node {} after {outage:.1?}", node.name())
            }
            Self::ReplicaDown { node, error } => {
                write!(f, "replica down: {}, {error}", node.address())
            }
            Self::ReplicaUp { node, outage } => {
                let (name, address) = (node.name(), node.address());
                write!(f, "replica up: {address} of node {name} after {outage:.1?}")
            }
            Self::Ejected { node, failures } => {
                write!(f, "ejected: node {} after {failures} failures", node.name())
            }
            Self::Readmitted { node, absence } => {
                write!(f, "readmitted: node {} after {absence:.1?}", node.name())
            }
            // The error begins with the name of the node.
            Self::FlushFailed { error, .. } => write!(f, "flush failed: {error}"),
            Self::TopologyChanged { from, to } => {
                write!(f, "topology changed: from epoch {from} to {to}")
            }
            Self::TopologyRefused { error } => write!(f, "topology refused: {error}"),
            Self::RecordLost { node } => write!(f, "record lost: node {}", node.name()),
            Self::RecordRepaired { node } => write!(f, "record repaired: node {}", node.name()),
            Self::Reconnected { node } => write!(f, "reconnected: node {}", node.name()),
            Self::PrimaryChanged { node, from, to } => {
                write!(
                    f,
                    "primary changed: node {} from {from} to {to}",
                    node.name()
                )
            }
            Self::ConnectionOpened { node, pool } => {
                write!(f, "connection opened: node {}, {pool} pool", node.name())
            }
            Self::ConnectionClosed { node, pool } => {
                write!(f, "connection closed: node {}, {pool} pool", node.name())
            }
        }
    }
}
