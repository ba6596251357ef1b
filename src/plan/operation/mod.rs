//! One request from its plan to its reply, through all failures and recoveries, as a state machine without
//! I/O.
//!
//! * `command`: [`CommandOperation`], one command, routed by its keys, to a named node, or over a dedicated
//!   connection.
//! * `pipeline`: [`PipelineOperation`], many commands, or one MULTI ... EXEC.
//! * `scan`: SCAN over the slots of a Redis Cluster.
//! * `form`: [`ReplyForm`], the two forms of a reply: a decoded [`Value`], or the frame as it was received.
//! * `simulation` (tests only): operations over simulated nodes that fail in every place.
//!
//! An executor loops: [`poll`](Operation::poll) returns an [`Exchange`] to send, or the reply.
//!
//! ```text
//!            plan refused, libraries unknown
//!  command ──────────────▶ Listing ─────────────▶ route again
//!     │ one node                                      │
//!     ▼                 NOSCRIPT: EVAL instead        ▼
//!  Sent ─────────────────────────────────────────▶ Resent ──▶ reply
//!     │ Function not found                            ▲
//!     └──────────────▶ Loading the libraries ─────────┘
//! ```
//!
//! Broken connections, unreachable nodes and temporary refusals are handled inside the [`Exchange`], which may
//! also wait before it sends again. All exchanges share the
//! deadline of the first: a step that would begin later is not taken, and fails as a request that was not
//! sent.
//!
//! No state is entered twice, so a command takes at most four exchanges: FUNCTION LIST, the command, FUNCTION
//! LOAD, the command again. A pipeline takes two.
//!
//! Nothing here knows about sockets or tasks, and nothing here decides about a resend.

mod command;
mod form;
mod pipeline;
mod scan;
#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::Instant;

use redis::Value;

use crate::plan::{Exchange, ReplyBuffer, Scope, ScriptCache, ScriptJournal};

pub(crate) use command::{CommandOperation, Request};
pub(crate) use form::ReplyForm;
pub(crate) use pipeline::{PipelineOperation, Selection};

/// A request under way.
///
/// EVALSHA of a script in the client's cache, on a node that was restarted:
///
/// ```text
/// poll ─▶ Send: EVALSHA to a     the executor sends it and records the reply, NOSCRIPT
/// poll ─▶ Send: EVAL to a        the executor sends it and records the reply, 1
/// poll ─▶ Done: 1
/// ```
///
/// An operation does nothing between two polls, so dropping it gives the request up; what was sent stays
/// sent.
pub(crate) trait Operation {
    /// The form in which replies are received.
    type Replies: ReplyBuffer;
    /// The result of the operation.
    type Output;

    /// Advances by the results recorded in the last exchange, and returns the next step.
    ///
    /// `now` must not go backwards. After [`Step::Done`] every further poll returns an error, never a second
    /// reply.
    fn poll(&mut self, now: Instant) -> Step<'_, Self::Replies, Self::Output>;
}

/// The next step of an operation.
///
/// An executor needs to know nothing else:
///
/// ```text
/// loop {
///     match operation.poll(Instant::now()) {
///         Step::Send(exchange) => executor.exchange(exchange),
///         Step::Done(result) => return result,
///     }
/// }
/// ```
#[derive(Debug)]
pub(crate) enum Step<'o, R, T> {
    /// Send the pending requests of this exchange and record the results in it, until it is done, then poll
    /// again.
    Send(&'o mut Exchange<R>),
    /// The operation is over with this result, which is returned once.
    Done(T),
}

/// The script cache of a client, shared by all its operations.
///
/// The cache is an `Arc` behind a lock in the handle: an operation reads a snapshot, which costs a reference
/// count, and takes the exclusive lock only to record something new. Another request may have changed the
/// cache since the snapshot, so changes are applied to the current cache, not to the snapshot.
pub(crate) trait ScriptStore: Sync {
    /// The current cache.
    fn snapshot(&self) -> Arc<ScriptCache>;
    /// Calls `change` with the current cache while no other request can change it.
    fn update(&self, change: &mut dyn FnMut(&mut Arc<ScriptCache>));
}

impl dyn ScriptStore + '_ {
    /// Records the effect of a script command, as its reply shows it, and returns the reply for the client:
    /// SCRIPT EXISTS is completed from the cache.
    fn record_reply(&self, args: &[&[u8]], scope: Scope, mut reply: Value) -> Value {
        // Checked on a snapshot first, because nearly all calls are EVALSHA of a known script, which must not
        // serialize all requests on the exclusive lock.
        if self.snapshot().would_change(args, scope, &reply) {
            self.update(&mut |cache| ScriptCache::record_reply(cache, args, scope, &mut reply));
        }
        reply
    }

    /// Records the effects of the script commands of a pipeline, and completes its replies from the cache.
    fn record_replies(&self, journal: &ScriptJournal<'_>, values: &mut [Value]) {
        if !journal.is_empty() {
            self.update(&mut |cache| journal.record(cache, values));
        }
    }
}
