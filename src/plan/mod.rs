//! What must be sent where, and how do the answers become one?
//!
//! * [`Router`]: one snapshot of topology and command table; turns a request into a [`Plan`].
//! * [`Plan`]: *one* node, *any* node, *split* by node, *all* nodes, or a step of a scan. Plans are data: comparable and printable.
//! * `batch`: many commands as one request per node, and the answers back in the order asked.
//! * `scripts`: what must be done so that scripts and functions are on every node, as on one server.
//! * `merge`: the answers of several nodes as one; `failure`: what a missing answer means, and whether to ask again;
//!   `other_node`: which requests another node may answer instead; `partial`: whether the nodes in reach answer for all.
//! * `raw`: replies that the proxy passes on as bytes. `pubsub`: subscriptions, desired and confirmed. `scan`: SCAN over all
//!   nodes.
//! * `lockout`: commands that would take away the client's own way to its nodes. `watch`: EXEC after a WATCH that failed.
//!
//! Nothing here touches a socket, a thread, a clock or a lock.

mod attempts;
mod batch;
mod dedicated;
#[cfg(feature = "testing")]
mod dry_run;
mod exchange;
mod explain;
mod failure;
mod lockout;
mod merge;
mod operation;
mod other_node;
mod owners;
mod partial;
pub(crate) mod pubsub;
#[cfg(feature = "proxy")]
mod raw;
mod refusal;
mod request;
mod routed;
mod router;
mod scan;
mod scripts;
mod transaction;
mod watch;

pub use attempts::TRANSACTION_ATTEMPTS_MAX;
pub use explain::Explanation;
pub use partial::PartialReads;
pub use pubsub::{EVENT_BYTES_MAX, EVENTS_MAX, Event, Message, SubscriptionKind};
pub use router::{Router, SplitWrites};
pub use scan::{SCAN_COUNT_MAX, ScanPosition};
pub use scripts::{SCRIPT_BYTES_MAX, SCRIPTS_MAX};

pub(crate) use attempts::attempts_exhausted;
pub(crate) use batch::{Batch, NodeRequest, with_node_name};
pub(crate) use dedicated::{DedicatedState, KeyCheck};
#[cfg(feature = "tokio-comp")]
pub(crate) use exchange::NodeExchange;
pub(crate) use exchange::{Attempt, Exchange, ResendBudget};
pub(crate) use failure::{Answers, Cause, Failure, PoolUse, RESENDS_MAX, ReplyBuffer, Resend};
pub(crate) use operation::{
    CommandOperation, Operation, PipelineOperation, Request, ScriptStore, Selection, Step,
};
#[cfg(feature = "proxy")]
pub(crate) use raw::{
    ByteMeter, LARGE_BYTES, OversizedReply, RawPipeline, RawReplies, SharedByteMeter, WriteProgress,
};
pub(crate) use request::{PipelineKind, empty_pipeline, parse_one};
pub(crate) use routed::RoutedCommand;
pub(crate) use scan::{ScanCursor, ScanState, ScanStep};
pub(crate) use scripts::{
    CacheSnapshot, FunctionRetry, Rewritten, Scope, ScriptCache, ScriptJournal, ScriptRewriter,
    TransactionState,
};
pub(crate) use transaction::{ExpectedEnd, PlannedTransaction};
#[cfg(feature = "proxy")]
pub(crate) use watch::is_watch;

#[cfg(any(test, fuzzing))]
pub(crate) use scripts::keys_of_script;

use crate::command::Merge;
use crate::partition::NodeIndex;

/// What one command becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plan {
    /// One node gets the request as it is.
    One(NodeIndex),
    /// Any one node gets the request as it is, and another one when that cannot be reached.
    Any,
    /// Several nodes get the command, each with its own keys.
    Split(Split),
    /// Every node gets the request as it is.
    All(Merge),
    /// One node gets the next step of a scan over all nodes, with the node's own cursor.
    Scan {
        /// The node whose turn it is.
        node: NodeIndex,
        /// The cursor that this node gave last.
        cursor: u64,
        /// Whether a node has answered an earlier step of this scan.
        answered: bool,
    },
}

/// A command cut by node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Split {
    /// One part per node that owns a key, in node order.
    pub parts: Vec<Part>,
    /// How the answers become one.
    pub merge: Merge,
    /// Arguments before the first key: the command's name, and its subcommand's.
    pub head: usize,
    /// Arguments that a key brings along, itself included.
    pub step: usize,
    /// Arguments behind the last key that every part repeats.
    pub tail: usize,
}

/// One node's share of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The node that owns the keys of this part.
    pub node: NodeIndex,
    /// Which keys of the request: 0 is the first key. Ascending.
    pub keys: Vec<u32>,
}

impl Split {
    /// How many keys the request has.
    pub fn key_count(&self) -> usize {
        self.parts.iter().map(|part| part.keys.len()).sum()
    }

    /// The argument that is key number `key`.
    fn position(&self, key: u32) -> usize {
        self.head + key as usize * self.step
    }

    /// Appends the request of one part, in the wire format.
    fn write_part(&self, part: &Part, args: &[&[u8]], out: &mut Vec<u8>) {
        use crate::resp::{write_arg, write_header};
        let tail = &args[args.len() - self.tail..];
        write_header(out, self.head + part.keys.len() * self.step + tail.len());
        for arg in &args[..self.head] {
            write_arg(out, arg);
        }
        for &key in &part.keys {
            let at = self.position(key);
            for arg in &args[at..at + self.step] {
                write_arg(out, arg);
            }
        }
        for arg in tail {
            write_arg(out, arg);
        }
    }
}
