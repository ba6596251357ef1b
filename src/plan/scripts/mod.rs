//! How do scripts and functions come to be on every node, as they would be on one server?
//!
//! A server keeps the scripts that it ran or loaded and loses them when it restarts. Over several nodes
//! that breaks the usual client code: EVAL with one key, then EVALSHA with another, fails with NOSCRIPT on a
//! node that never saw the source. The client therefore remembers each source that passes through it and
//! supplies it where it is missing.
//!
//! * `cache`: [`ScriptCache`], the remembered sources and libraries, bounded by [`SCRIPTS_MAX`] and
//!   [`SCRIPT_BYTES_MAX`].
//! * `command`: the script command in a request (EVALSHA, FUNCTION LOAD, ...), its [`Scope`], and the SHA1 of
//!   a source.
//! * `analysis`: routes a script that declares no keys, by the literal keys that `lua` finds in its source.
//! * `lua`: the scanner. It extracts keys, function names and library names, and evaluates nothing.
//! * `recovery`: [`Recovery`], what to resend after NOSCRIPT or `Function not found`; [`FunctionRetry`], the
//!   same for a pipeline.
//! * `rewrite`: [`ScriptRewriter`] replaces EVALSHA by EVAL in a pipeline before it is sent;
//!   [`ScriptJournal`] lists the commands whose replies must be looked at afterwards.
//! * `transaction_state`: [`TransactionState`], whether a dedicated connection is between MULTI and EXEC.
//!
//! # Before and after sending
//!
//! A single command is sent as it is and repaired after the fact: on NOSCRIPT nothing was run, so EVAL can
//! follow. A pipeline cannot wait for that, because its later commands would run before the repaired one;
//! sources are therefore put in ahead. Functions have no such form (FCALL never carries code), so a pipeline
//! calls them again in a second exchange, and a MULTI is preceded by FUNCTION LOADs.
//!
//! ```text
//!   request
//!      │  numkeys 0: routed by the literal keys of the source (analysis, lua)
//!      ▼
//!    Plan
//!      ├─ one command ─▶ node ─▶ reply ─▶ Recovery: EVAL, or FUNCTION LOAD and FCALL ─▶ node ─▶ reply
//!      │                                                                                          │
//!      └─ pipeline ─▶ ScriptRewriter ─▶ nodes ─▶ replies ─▶ FunctionRetry ─▶ nodes ─▶ replies     │
//!                     EVALSHA to EVAL                           ▲                        │        │
//!                           └─────────▶ ScriptJournal ──────────┘                        ▼        ▼
//!                                                          ScriptCache ◀──────────── record ──────┘
//! ```
//!
//! # Example
//!
//! The cache holds the source `return redis.call('INCR', KEYS[1])`, whose SHA1 is `s`. Keys `a` and `a2`
//! belong to node A, `b` to node B. A pipeline of three EVALSHA becomes:
//!
//! ```text
//!  place  command              sent to A             sent to B
//!  0      EVALSHA s 1 a        EVAL source 1 a
//!  1      EVALSHA s 1 b                              EVAL source 1 b
//!  2      EVALSHA s 1 a2       EVALSHA s 1 a2
//! ```
//!
//! Each node gets the source once; place 2 follows place 0 on the same connection, so node A has the script
//! by then. The journal stays empty, since EVALSHA teaches the cache nothing. With `EVAL "return 2" 0` at
//! place 3 it would have one entry: once the reply shows that the script compiled, its source is recorded.
//! With `FCALL f 1 b` at place 3 it would have one too: on `Function not found` node B is sent the remembered
//! FUNCTION LOADs and the FCALL again, and the new reply takes place 3.
//!
//! # What it never does
//!
//! It holds no lock: a handle keeps the cache behind one and lends a snapshot ([`CacheSnapshot`]). It never
//! guesses keys: a script whose source does not show them is refused. It never brings a library to other
//! nodes that was loaded on one by name ([`Scope::OneNode`]).

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

/// Returns a snapshot of the script cache. Called only for requests that concern scripts, so that all others
/// are spared the lock behind it.
pub(crate) type CacheSnapshot<'m> = &'m (dyn Fn() -> Arc<ScriptCache> + Sync);
