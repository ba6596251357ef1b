//! One request from its plan to its reply, whatever may happen to it: a state machine without I/O.
//!
//! * [`CommandOperation`]: one command, routed by its keys, to one node, or over a connection that one user holds.
//! * [`PipelineOperation`]: many commands, or one MULTI ... EXEC.
//! * `form`: the two forms of a reply: a decoded [`Value`](redis::Value), or the frame as it came.
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
//! first exchange.

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
pub(crate) trait Operation {
    /// The form in which replies are read.
    type Replies: ReplyBuffer;
    /// What comes of it.
    type Output;

    /// Goes on with what came back for the exchange that was given last. `now` is the time.
    fn poll(&mut self, now: Instant) -> Step<'_, Self::Replies, Self::Output>;
}

/// What an operation needs next.
#[derive(Debug)]
pub(crate) enum Step<'o, R, T> {
    /// These requests sent, and their replies recorded in them.
    Send(&'o mut Exchange<R>),
    /// Nothing: this is what came of it. It is given once.
    Done(T),
}

/// Where a client keeps its script cache.
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
