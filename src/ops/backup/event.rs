//! [`BackupEvent`]: what happens during a backup.

use std::time::Duration;

use super::report::CutKind;

/// Something that has happened during a backup.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BackupEvent {
    /// A server is busy with a save or a rewrite, which is waited for.
    Waiting {
        /// The node.
        node: String,
    },
    /// A cut was given up; the next one is tried.
    Void {
        /// Why.
        cause: String,
    },
    /// The servers do not allow the best kind of cut, so another one is taken.
    FellBack {
        /// The kind that is taken.
        to: CutKind,
        /// Why.
        cause: String,
    },
    /// The cut is taken, and writes go on. The keys are read from now on.
    Cut {
        /// How it was taken.
        cut: CutKind,
        /// For how long writes were paused.
        pause: Duration,
        /// Number of keys of each node, as far as known, with those that have expired.
        keys: Vec<(String, u64)>,
    },
    /// Some keys of a node were read.
    Read {
        /// The node.
        node: String,
        /// Number of its keys so far.
        keys: u64,
        /// Number of bytes that it has sent so far.
        bytes: u64,
    },
    /// All keys of a node were read, and its stream was whole.
    NodeDone {
        /// The node.
        node: String,
    },
    /// The archive takes nothing for so long that the servers would drop the backup: it has failed. A write that blocks
    /// for ever keeps [`run`](super::Backup::run) from returning.
    Stalled {
        /// The limit.
        limit: Duration,
    },
}
