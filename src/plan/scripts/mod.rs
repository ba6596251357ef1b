//! What must be done so that scripts and functions are on every node, as they would be on one server?
//!
//! A server has the scripts that were loaded into it or run by it, and forgets them when it starts again. Of many
//! servers each has others, so the client remembers what went through it, and brings it to the node that lacks it.
//!
//! * [`ScriptCache`]: what is remembered, bounded by [`SCRIPTS_MAX`] and [`SCRIPT_BYTES_MAX`].
//! * `command`: what one request has to do with scripts; `lua`: reads a script's source; `analysis`: the keys that it
//!   names literally, and so where a script without keys may go; `recovery`: what to do when a node lacks what the client
//!   remembers.
//! * [`TransactionState`]: whether a private connection runs commands at once; else the script goes along.
//! * [`ScriptRewriter`]: gives a pipeline the scripts that a node may lack before it is sent, since its order must hold;
//!   [`ScriptJournal`]: what is done with its replies.
//!
//! Nothing here holds a lock: a handle keeps the memory, and gives a snapshot of it to those who ask ([`CacheSnapshot`]).

mod analysis;
mod cache;
pub(in crate::plan) mod command;
mod lua;
mod recovery;
mod rewrite;
mod transaction_state;

use std::sync::Arc;

pub use cache::{SCRIPT_BYTES_MAX, SCRIPTS_MAX};

pub(crate) use cache::ScriptCache;
pub(crate) use command::Scope;
pub(in crate::plan) use recovery::LIST_LIBRARIES;
pub(crate) use recovery::{FunctionRetry, Recovery};
pub(crate) use rewrite::{Rewritten, ScriptJournal, ScriptRewriter};
pub(crate) use transaction_state::TransactionState;

pub(in crate::plan) use analysis::wrong_key_count;

#[cfg(any(test, fuzzing))]
pub(crate) use lua::keys as keys_of_script;

/// Gives a snapshot of the memory. It is called only for requests that concern scripts, so that all others are spared
/// the lock behind it.
pub(crate) type CacheSnapshot<'m> = &'m (dyn Fn() -> Arc<ScriptCache> + Sync);
