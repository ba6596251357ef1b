//! [`ReshardEvent`]: what happens while keys are moved.

use std::time::Duration;

/// Something that has happened while keys are moved.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ReshardEvent {
    /// All nodes know of the reshard, and all their clients have acknowledged it.
    Announced {
        /// Number of pairs of nodes between which keys may move.
        pairs: usize,
    },
    /// The keys of a node that move have been counted.
    Scanned {
        /// The node that has the keys.
        source: String,
        /// Number of its keys that move, for each node that gets some.
        keys: Vec<(String, usize)>,
    },
    /// The keys of some units have moved.
    Batch {
        /// The node that had the keys.
        source: String,
        /// The node that has them now.
        target: String,
        /// Number of units of this pair that have moved so far, of 65 536.
        units: u32,
        /// Number of keys in this batch.
        keys: usize,
        /// Number of bytes that were sent to the target for it.
        bytes: u64,
        /// Time for which the units were closed.
        closed: Duration,
    },
    /// A batch is copied again, because a connection broke or the copy differed.
    Repeated {
        /// The node that has the keys.
        source: String,
        /// The node that gets them.
        target: String,
        /// Why.
        cause: String,
    },
    /// All keys of a pair have moved, and are deleted at the source.
    PairDone {
        /// The node that had the keys.
        source: String,
        /// The node that has them now.
        target: String,
    },
}

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReshardOutcome {
    /// The new topology is in force.
    Finished,
    /// The run was [paused](super::Reshard::pause) between two batches, or a pause was
    /// [requested](super::Reshard::request_pause) at the nodes. No unit is closed; another run goes on from there, in the
    /// second case only by [`resume`](super::Reshard::resume).
    Paused,
}
