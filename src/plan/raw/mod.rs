//! How does the proxy pass replies on without decoding them?
//!
//! A proxy's client gets the bytes that the node sent, so decoding them into values and encoding those again
//! would cost time, memory and fidelity: a node's RESP3 attributes, its choice of null, the bytes of its
//! errors all survive only as bytes. Where a frame ends is found by the connection (`resp`); this module
//! keeps whole frames and copies them to the client in the order of its requests. It is the counterpart of
//! `batch`, `merge` and `scripts` for frames.
//!
//! * `replies`: [`RawReplies`], the frames of one node; bounds the memory that they take.
//! * `pipeline`: [`RawPipeline`], one round of a client's requests, and the writer of its replies.
//! * `merge`: the merge rules that work on frames; all others decode the parts of that one reply.
//! * `scripts`: the script cache, recording from frames.
//! * `transaction`: the reply to EXEC. `redirected`: requests to a Redis Cluster that are no round.
//! * `form`: [`RawReplies`] as the [`ReplyForm`](super::operation::ReplyForm) of an operation. `failure`:
//!   errors of writes that the proxy makes itself.
//!
//! # What is read all the same
//!
//! ```text
//!  frame                             read
//!  any                               its first byte, for the kind; its length is known
//!  part of a fan-out                 number or array header (Sum, Concat), elements' lengths (KeyOrder);
//!                                    decoded whole for every other merge, and when the parts differ in kind
//!  error to EVALSHA, FCALL           decoded: NOSCRIPT may have to be repaired
//!  reply to SCRIPT EXISTS            decoded, completed from the cache, and encoded again
//!  EXEC with scripts                 decoded, to record its scripts; the client gets the frame
//! ```
//!
//! # Large replies
//!
//! A proxy with many clients cannot keep each reply that a client asks for and is slow to read. If a round
//! sends a node nothing but reads, each for that node alone, its replies can be asked for again, so one over
//! [`LARGE_BYTES`] is counted but not kept ([`RawReplies::push_oversized`]). When its turn comes the writer
//! stops with [`WriteProgress::Until`], and the proxy sends that request again, this time passing the reply
//! on piece by piece. All other replies are kept whole whatever their size: a write cannot be repeated, and a
//! part is needed for the merge.
//!
//! This module does no I/O, and never changes the bytes of a frame that came from a single node.

mod failure;
mod form;
mod merge;
mod pipeline;
mod redirected;
mod replies;
mod scripts;
mod transaction;

pub(crate) use pipeline::{OversizedReply, RawPipeline, WriteProgress};
pub(crate) use replies::{ByteMeter, LARGE_BYTES, RawReplies, ReplyRetention, SharedByteMeter};
