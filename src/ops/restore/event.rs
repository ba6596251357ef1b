//! [`RestoreEvent`]: what happens while keys are restored.

use std::time::Duration;

use super::RestoreReport;

/// Something that has happened while keys are restored.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RestoreEvent {
    /// The input was looked at, and the nodes can take it.
    Begun {
        /// Number of keys in the input, if that is known.
        keys: Option<u64>,
        /// Bytes of their values, if that is known.
        bytes: Option<u64>,
        /// Number of keys that an earlier run has restored.
        resumed: u64,
    },
    /// Nodes have acknowledged some keys.
    Restored {
        /// Number of keys that are dealt with, those that exist or are refused among them.
        keys: u64,
        /// Bytes of the values that were sent.
        bytes: u64,
    },
    /// A library of functions was loaded on all nodes.
    Function {
        /// Its name.
        library: String,
    },
    /// A value is so large that it blocks its server for a while.
    LargeValue {
        /// The key, escaped and cut.
        key: String,
        /// Bytes of the value.
        bytes: u64,
    },
    /// A key cannot be restored.
    Refused {
        /// The key, escaped and cut.
        key: String,
        /// Why.
        reason: String,
    },
    /// A node cannot be reached, or refuses for the time being. The batch is sent again.
    Waiting {
        /// The node, if it is known.
        node: Option<String>,
        /// Why.
        cause: String,
        /// The time until it is tried again.
        pause: Duration,
    },
    /// A part of the input is damaged.
    Lost {
        /// What is lost.
        what: String,
    },
    /// The restore has ended early, and this is what it has done.
    Stopped {
        /// What has become of the keys so far.
        report: RestoreReport,
    },
    /// Something that the operator should know.
    Remark {
        /// A sentence.
        text: String,
    },
}
