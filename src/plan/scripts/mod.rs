//! What must be done so that scripts and functions are on every node, as they would be on one server?
//!
//! A server has the scripts that were loaded into it or run by it, and forgets them when it starts again. Of many
//! servers each has others, so the client remembers what went through it, and brings it to the node that lacks it.
//!
//! * [`ScriptMemory`]: what is remembered, bounded by [`SCRIPTS_MAX`] and [`SCRIPT_BYTES_MAX`].
//! * `concern`: what one request has to do with scripts; `text`: what a script's text shows; `judge`: where a script
//!   without keys may go; `remedy`: what to do when a node lacks what the client remembers.
//! * [`Moment`]: whether a private connection runs commands at once; else the script goes along.
//! * `unread`: the same for answers that are passed on as they came.
//! * [`Weave`]: the same ahead of time for a pipeline, whose order must hold; [`Notes`]: what is done with its answers.
//!
//! Nothing here holds a lock: a handle keeps the memory, and gives a snapshot of it to those who ask ([`Recall`]).

mod concern;
mod judge;
mod memory;
mod moment;
mod remedy;
mod text;
mod unread;
mod weave;

use std::sync::Arc;

pub use memory::{SCRIPT_BYTES_MAX, SCRIPTS_MAX};

pub(crate) use concern::Reach;
pub(crate) use memory::ScriptMemory;
pub(crate) use moment::Moment;
pub(crate) use remedy::{Cure, Remedy, libraries, loads_at};
pub(crate) use weave::{Notes, Weave, Woven};

pub(super) use judge::wrong_count;

#[cfg(any(test, fuzzing))]
pub(crate) use text::keys as keys_of_script;

/// Gives a snapshot of the memory. It is called only for requests that concern scripts, so that all others are spared
/// the lock behind it.
pub(crate) type Recall<'m> = &'m (dyn Fn() -> Arc<ScriptMemory> + Sync);
