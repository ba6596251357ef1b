//! One request from its plan to its reply, whatever may happen to it: a state machine without I/O.
//!
//! * [`CommandOperation`]: one command, routed by its keys, to one node, or over a connection that one user holds.
//! * [`PipelineOperation`]: many commands, or one MULTI ... EXEC.
//! * `form`: the two forms of a reply: a decoded [`Value`], or the frame as it came.
//!
//! An executor loops: [`poll`](Operation::poll) gives an [`Exchange`] to send, or the reply.
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
//! Broken connections and nodes out of reach are matters of the [`Exchange`] itself. All of it ends within the time of the
//! first exchange: a step that would begin later is not taken, and fails as a request that was not sent.
//!
//! No state comes twice, so an operation takes at most four exchanges: FUNCTION LIST, the command, FUNCTION LOAD, the command
//! again. A pipeline takes two. `simulation` runs them over nodes that break in every place.

mod command;
mod form;
mod pipeline;
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
/// EVALSHA of a script that the client knows, at a node that was restarted:
///
/// ```text
/// poll ─▶ Send: EVALSHA to a     the executor sends it and records the reply, NOSCRIPT
/// poll ─▶ Send: EVAL to a        the executor sends it and records the reply, 1
/// poll ─▶ Done: 1
/// ```
///
/// It does nothing between two calls, so one that is dropped is given up: what was sent stays sent.
pub(crate) trait Operation {
    /// The form in which replies are read.
    type Replies: ReplyBuffer;
    /// What comes of it.
    type Output;

    /// Goes on with what came back for the exchange that was given last. `now` is the time; it never goes back. After
    /// [`Step::Done`] there is an error for those who poll on, and never a second reply.
    fn poll(&mut self, now: Instant) -> Step<'_, Self::Replies, Self::Output>;
}

/// What an operation needs next.
///
/// An executor knows these two and nothing of what is behind them:
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
    /// These requests sent, and their replies recorded in them.
    Send(&'o mut Exchange<R>),
    /// Nothing: this is what came of it. It is given once.
    Done(T),
}

/// Where a client keeps its script cache.
///
/// A cache is an `Arc` behind a lock of the handle's: an operation reads a snapshot, which costs a reference, and takes the
/// lock alone only for what is new. Between the two another request may have changed the cache, so every change is made to
/// the cache as it is then, not to the snapshot.
pub(crate) trait ScriptStore: Sync {
    /// The cache as it is now.
    fn snapshot(&self) -> Arc<ScriptCache>;
    /// Changes it.
    fn update(&self, change: &mut dyn FnMut(&mut Arc<ScriptCache>));
}

impl dyn ScriptStore + '_ {
    /// Records what a script command did by its reply. Gives the reply as the client has to see it.
    fn record_reply(&self, args: &[&[u8]], scope: Scope, mut reply: Value) -> Value {
        // A script that runs again and again needs no lock that only one can hold.
        if self.snapshot().would_change(args, scope, &reply) {
            self.update(&mut |cache| ScriptCache::record_reply(cache, args, scope, &mut reply));
        }
        reply
    }

    /// Records what the script commands of a pipeline did by its replies, and corrects these.
    fn record_replies(&self, journal: &ScriptJournal<'_>, values: &mut [Value]) {
        if !journal.is_empty() {
            self.update(&mut |cache| journal.record(cache, values));
        }
    }
}
