//! The record that a node keeps of its fleet, as the connections of one client see it.
//!
//! ```text
//! handshake        … CLIENT SETNAME web#rs.c.3.17 … EVAL (reads the record)      the name first: it is the proof
//! the record       3.17: the connection is used
//!                  3.18: the source learns of it, and the connection is not used: Superseded
//!                  missing, or of another server: Stale
//! later            the source publishes the topology of 3.18, then sets the cell: the next name is web#rs.c.3.18
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::Value;

use crate::policy::ConnectError;
use crate::topology::record::{ConnectionRole, NameSuffix, RecordEpoch};

/// Who knows the records of the nodes of a client, and follows them.
pub(crate) trait RecordSource: Send + Sync {
    /// The epoch of the record that the client goes by at this node, asked for once for each new endpoint.
    fn followed(&self, node: &str) -> RecordEpoch;

    /// Judges the record that a new connection to this node has read, after it has presented this epoch. `reply` is
    /// that of [`READ_SCRIPT`](crate::topology::record::READ_SCRIPT).
    ///
    /// A connection that has presented an older epoch than the one that the source goes by now is superseded, whatever it
    /// has read. A newer record is followed: a topology is published, then the epoch of the cell is set, before or after this
    /// returns. Called from tasks and threads that connect, so it must not wait for a server.
    fn read_at_door(&self, node: &str, presented: RecordEpoch, reply: &Value) -> Door;
}

/// Whether a new connection may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// The record is the one that was presented.
    Current,
    /// It is newer. The connection is closed, and another one is made by the newer record.
    Superseded,
    /// The connection must not be used, for this reason, which ends with the remedy.
    Refused(String),
}

/// What one client knows of the record of one node. One for all connections of the client to the node.
pub(crate) struct RecordCell {
    /// The name of the node.
    node: Arc<str>,
    /// [`RecordEpoch::as_u64`] of the record that the client goes by. It only grows.
    epoch: AtomicU64,
    source: Arc<dyn RecordSource>,
}

impl RecordCell {
    /// The cell of a node, which begins with the epoch that the source goes by.
    pub(crate) fn new(node: &str, source: &Arc<dyn RecordSource>) -> Arc<Self> {
        Arc::new(Self {
            node: node.into(),
            epoch: AtomicU64::new(source.followed(node).as_u64()),
            source: Arc::clone(source),
        })
    }

    /// The epoch of the record that the client goes by, as a number.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Goes by a newer record from now on. To be called after its topology was published, and before
    /// [`Publisher::records_changed`](crate::snapshot::Publisher::records_changed).
    pub(crate) fn set_epoch(&self, epoch: RecordEpoch) {
        self.epoch.fetch_max(epoch.as_u64(), Ordering::AcqRel);
    }

    /// What follows the user's name in the name of a connection that goes by the record of this epoch.
    pub(crate) fn suffix(role: ConnectionRole, epoch: u64) -> NameSuffix {
        NameSuffix {
            role,
            epoch: RecordEpoch::from_u64(epoch),
        }
    }

    /// Judges the record that a new connection has read.
    pub(super) fn admit(&self, presented: u64, reply: &Value) -> Result<(), ConnectError> {
        let presented = RecordEpoch::from_u64(presented);
        match self.source.read_at_door(&self.node, presented, reply) {
            Door::Current => Ok(()),
            Door::Superseded => Err(ConnectError::Superseded),
            Door::Refused(why) => Err(ConnectError::Stale(why)),
        }
    }
}

impl fmt::Debug for RecordCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordCell")
            .field("node", &self.node)
            .field("epoch", &RecordEpoch::from_u64(self.epoch()))
            .finish_non_exhaustive()
    }
}
