//! Decides which node receives which part of a request, and how the replies of several nodes become one
//! reply.
//!
//! A request passes through these modules in this order:
//!
//! ```text
//! MGET a1 b1 a2
//!   │ router, owners      Plan::Split { a: keys 0, 2 · b: key 1 }     or an error of `refusal`
//!   ▼
//!   │ batch               a: MGET a1 a2 · b: MGET b1                  one NodeRequest per node
//!   ▼
//!   │ exchange, failure   sent, resent or failed                      Answers per node
//!   ▼
//!   │ merge               [a1, b1, a2]                                one reply, in the order of the request
//! ```
//!
//! `operation` drives these steps for the executors.
//!
//! From a request to a plan:
//!
//! * `router`: [`Router`], one snapshot of topology and command table; turns a request into a [`Plan`].
//!   `owners` groups the keys of one request by node, `routed` adds to a plan the properties of its command,
//!   `explain` prints it.
//! * `location`: where a key lives, and whether two keys may be used in one indivisible request. `hash_tags`:
//!   [`HashTags`], whether keys that share a node only by chance may.
//! * `keep_record`: commands that would do away with the record of a node.
//! * `refusal`, `lockout`: errors of requests that are refused before anything is sent. `command_errors`: those of
//!   single commands of a pipeline, as redis-rs lists them.
//! * `request`: packed pipelines, parsed and planned. `transaction`: MULTI ... EXEC, which must live on one
//!   node.
//!
//! From a plan to replies:
//!
//! * `batch`: many commands as one request per node, and the replies back in the order of the commands.
//! * `exchange`: requests in flight to several nodes. `failure`: the meaning of a missing reply, and which
//!   requests may be resent. `retries`: when there is another attempt. `other_node`: requests that the next
//!   node may serve instead. `partial`: replies of the reachable nodes only. `missing`: reads answered as if
//!   their keys did not exist. `servers`: the servers of one node, asked one after another. `outcome`: how the requests to one node ended, for metrics and traces.
//! * `moving`: where a request goes that was planned by an older topology, while a reshard moves keys.
//! * `replies`: the results of the commands of a pipeline, and the error of one that broke.
//! * `merge`: one reply made of the replies of several nodes.
//! * `operation`: one command or pipeline under way, as a state machine.
//!
//! Requests with a state of their own:
//!
//! * `ping`: PING to every node, with each node's own outcome. `probe`: PING to a node of a cache that has failed.
//! * `dedicated`: a connection that one user holds. `watch`: EXEC after a failed WATCH. `handle_command`: WATCH
//!   and CLIENT SETNAME through a client. `handle_nodes`: the node of a handle in a newer topology. `attempts`: the
//!   number of attempts of an optimistic transaction.
//! * `scripts`: keeps scripts and functions available on every node, as on a single server.
//! * `scan`: SCAN over all nodes. `pubsub`: subscriptions, desired and confirmed.
//! * `raw`: replies that the proxy forwards as bytes. `dry_run`: everything except the network, for
//!   benchmarks.
//!
//! Nothing here touches a socket, a thread, a clock or a lock: the time and random numbers are arguments.

mod attempts;
mod batch;
mod command_errors;
mod dedicated;
mod doubt;
#[cfg(feature = "testing")]
mod dry_run;
mod exchange;
mod explain;
mod failure;
mod handle_command;
mod handle_nodes;
mod hash_tags;
mod keep_record;
mod key_by_key;
mod location;
mod lockout;
mod merge;
mod missing;
mod moving;
mod operation;
mod other_node;
mod outcome;
mod owners;
mod partial;
mod ping;
mod probe;
pub(crate) mod pubsub;
#[cfg(feature = "proxy")]
mod raw;
mod redirects;
mod refusal;
mod replies;
mod request;
mod retries;
mod routed;
mod router;
mod scan;
mod scripts;
mod servers;
mod slot_guard;
mod transaction;
mod watch;

pub use attempts::TRANSACTION_ATTEMPTS_MAX;
pub use explain::Explanation;
pub use hash_tags::HashTags;
pub use missing::ReadsAs;
pub use partial::PartialReads;
pub use ping::NodePing;
pub use pubsub::{EVENT_BYTES_MAX, EVENTS_MAX, Event, Message, SubscriptionKind};
pub use router::{Router, SplitWrites};
pub use scan::{SCAN_COUNT_MAX, ScanPosition};
pub use scripts::{SCRIPT_BYTES_MAX, SCRIPTS_MAX};

pub(crate) use attempts::attempts_exhausted;
#[cfg(feature = "proxy")]
pub(crate) use batch::ServerOf;
pub(crate) use batch::{Batch, NodeRequest};
pub(crate) use dedicated::{DedicatedState, KeyCheck};
pub(crate) use exchange::{Attempt, AttemptKind, EarlyAttempt, Exchange, ExchangeStep};
#[cfg(feature = "tokio-comp")]
pub(crate) use exchange::{Hedge, NodeExchange, Pause};
pub(crate) use failure::{Answers, Cause, Failure, PoolUse, ReplyBuffer, is_of_replica};
pub(crate) use handle_command::{NameCommand, WatchCommand};
pub(crate) use location::KeyLocation;
pub(crate) use missing::Fallback;
pub(crate) use moving::{MOVING_PAUSE, Newest, is_chosen_again};
pub(crate) use operation::{
    CommandOperation, Operation, PipelineOperation, Request, ScriptStore, Selection, Step,
};
pub(crate) use outcome::RequestOutcome;
pub(crate) use probe::ProbeRequest;
#[cfg(feature = "proxy")]
pub(crate) use raw::{
    ByteMeter, LARGE_BYTES, OversizedReply, RawPipeline, RawReplies, ReplyRetention,
    SharedByteMeter, WriteProgress,
};
pub(crate) use redirects::ClusterReport;
pub(crate) use replies::PipelineReplies;
pub(crate) use request::{PipelineKind, parse_one};
pub(crate) use retries::{LastRefusal, NextAttempt, Retries};
pub(crate) use routed::RoutedCommand;
#[cfg(any(feature = "backup", feature = "testing"))]
pub(crate) use scan::glob_matches;
pub(crate) use scan::{ScanCursor, ScanState, ScanStep};
pub(crate) use scripts::{
    CacheSnapshot, FunctionRetry, Rewritten, Scope, ScriptCache, ScriptJournal, ScriptRewriter,
    TransactionState,
};
pub(crate) use slot_guard::WatchRoute;
pub(crate) use transaction::{ExpectedEnd, PlannedTransaction};
#[cfg(feature = "proxy")]
pub(crate) use watch::is_watch;
pub(crate) use watch::{beside_watch, contains_watch, exec_abort, watch_ended};

#[cfg(any(test, fuzzing))]
pub(crate) use scripts::keys_of_script;

use self::owners::Parts;
use crate::command::Merge;
use crate::partition::NodeIndex;

/// The nodes that receive a command, and how its replies become one.
///
/// Plans are data: they can be compared and printed, and making one sends nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Plan {
    /// One node receives the request unchanged.
    One(NodeIndex),
    /// Any one living node receives the request unchanged; the next one does when it cannot be reached.
    Any,
    /// Several nodes receive the command, each with its own keys; in a Redis Cluster one command for each slot.
    Split(Split),
    /// Every node receives the request unchanged. Nodes that are [out](crate::Topology::without) do not, not even
    /// FLUSHALL: one that comes back still has its keys.
    All(Merge),
    /// One node receives the next step of a scan over all nodes, with the node's own cursor in the request.
    Scan {
        /// The node to scan next.
        node: NodeIndex,
        /// The cursor that this node returned last; 0 begins its scan.
        cursor: u64,
        /// True if some node has replied to an earlier step of this scan.
        ///
        /// Lets a scan that skips unreachable nodes fail when it has skipped all of them.
        answered: bool,
        /// True in the second pass over the nodes, which there is while a reshard moves keys.
        is_second_pass: bool,
    },
    /// The servers of a Redis Cluster receive the next step of a scan over all slots; see the page `cluster` of
    /// [`guide`](crate::guide).
    ScanSlots {
        /// The slot to scan next. Others follow in the same step.
        slot: u16,
        /// The node that owns it as far as is known.
        node: NodeIndex,
    },
}

/// A command whose keys are divided among several nodes, or among the slots of a Redis Cluster.
///
/// The arguments of a command that can be split are a head, keys with a fixed number of arguments each, and a
/// tail:
///
/// ```text
/// MSET  a 1  b 2          head 1, step 2, tail 0
/// MGET  a  b              head 1, step 1, tail 0
/// JSON.MGET  a  b  $.x    head 1, step 1, tail 1
/// ```
///
/// Every part repeats the head and the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Split {
    /// How the replies to the parts become one reply.
    pub merge: Merge,
    /// Number of arguments before the first key: the names of the command and its subcommand.
    pub head: usize,
    /// Number of arguments per key, including the key itself.
    pub step: usize,
    /// Number of arguments after the last key; every part repeats them.
    pub tail: usize,
    /// Which keys belong together.
    parts: Parts,
}

/// The keys of one command of a split: those of one node or, in a Redis Cluster, those of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part<'s> {
    /// The node that owns the keys of this part.
    pub node: NodeIndex,
    /// Numbers of the keys within the request, ascending; 0 is the first key.
    pub keys: &'s [u32],
}

impl Plan {
    /// The name of the kind of plan, as traces show it.
    #[cfg(feature = "tracing")]
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::One(_) => "one",
            Self::Any => "any",
            Self::Split(_) => "split",
            Self::All(_) => "all",
            Self::Scan { .. } | Self::ScanSlots { .. } => "scan",
        }
    }
}

impl Split {
    /// Number of keys in the whole request.
    pub fn key_count(&self) -> usize {
        self.parts.key_count()
    }

    /// Iterates over the parts: one per node that owns a key, in node order; in a Redis Cluster one per slot, those of one
    /// node in the order of their slots.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = Part<'_>> {
        self.parts.iter()
    }

    /// Index of the argument that holds key number `key`.
    fn position(&self, key: u32) -> usize {
        self.head + key as usize * self.step
    }

    /// Appends the request for one part in the wire format. `args` are the arguments of the whole request.
    fn write_part(&self, part: Part<'_>, args: &[&[u8]], out: &mut Vec<u8>) {
        use crate::resp::{write_arg, write_header};
        // In the wire format the number of arguments comes first, so it is computed instead of counted.
        let tail = &args[args.len() - self.tail..];
        write_header(out, self.head + part.keys.len() * self.step + tail.len());
        for arg in &args[..self.head] {
            write_arg(out, arg);
        }
        // A key with its values, such as key and value of MSET, stays together.
        for &key in part.keys {
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
