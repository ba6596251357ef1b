//! Replies that are passed on as bytes, for the proxy: the counterparts of `batch`, `merge` and `scripts` that decode nothing
//! they need not read.
//!
//! * `replies`: [`RawReplies`], the frames of one node, counted in bytes.
//! * `pipeline`: [`RawPipeline`], one round of a client's requests and the writer of its replies.
//! * `merge`: the merges that can be done on frames. `scripts`: the script cache told by frames. `transaction`: what EXEC answered.
//!   `form`: bytes as the form in which an operation gives its reply. `failure`: errors for requests whose bytes the proxy writes itself.

mod failure;
mod form;
mod merge;
mod pipeline;
mod replies;
mod scripts;
mod transaction;

pub(crate) use pipeline::{OversizedReply, RawPipeline, WriteProgress};
pub(crate) use replies::{ByteMeter, LARGE_BYTES, RawReplies, SharedByteMeter};
