//! A request on its way over a shared connection, and the way back to its sender.

use std::time::Instant;

use redis::Value;
use tokio::sync::oneshot;

#[cfg(feature = "proxy")]
use crate::plan::RawReplies;
use crate::plan::{Answers, ExpectedEnd, Failure, NodeRequest, ReplyBuffer};

/// A request, and who waits for its replies.
pub(crate) struct InFlight {
    /// Length of the packed request in bytes; shows which requests at the end of the driver's buffer were
    /// never sent.
    pub(crate) bytes: usize,
    /// Number of replies still to come.
    pub(crate) remaining: usize,
    /// Number of replies to the whole request.
    pub(crate) count: usize,
    /// Required kind of the last reply, for the connection to be usable afterwards.
    pub(crate) ending: ExpectedEnd,
    /// When the request began.
    pub(crate) submitted_at: Instant,
    /// When the sender is given an error. `None` waits for ever.
    pub(crate) deadline: Option<Instant>,
    /// Instant from which the server counts as silent if it has sent nothing since `submitted_at`. Later than the
    /// deadline for a handle with a short timeout, which must not close a connection that others use.
    pub(crate) silent_from: Option<Instant>,
    /// `None` once an error has been sent; replies that still come are discarded.
    pub(crate) responder: Option<Responder>,
}

/// State of a request after one of its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyProgress {
    /// More replies are due.
    More,
    /// That was the last one.
    Complete,
    /// That was the last one, and the connection has been left inside a transaction.
    Poisoned,
}

/// The way back to the sender, with the replies that have arrived so far.
pub(crate) enum Responder {
    /// A single reply: no vector is allocated.
    One(oneshot::Sender<Result<Value, Failure>>),
    /// Several replies, or any number with a failure behind them.
    Many(oneshot::Sender<Answers>, Vec<Value>),
    /// Replies that the proxy passes on as bytes.
    #[cfg(feature = "proxy")]
    Raw(oneshot::Sender<Answers<RawReplies>>, RawReplies),
}

/// A form in which replies are collected: decoded values, or bytes for the proxy.
pub(crate) trait ReplyChannel: ReplyBuffer {
    /// An empty collection for the replies to this request.
    fn for_request(_: &NodeRequest) -> Self {
        Self::default()
    }

    /// A responder that appends replies in this form to `replies`.
    fn responder(sender: oneshot::Sender<Answers<Self>>, replies: Self) -> Responder;
}

impl ReplyChannel for Vec<Value> {
    fn responder(sender: oneshot::Sender<Answers<Self>>, replies: Self) -> Responder {
        Responder::Many(sender, replies)
    }
}

#[cfg(feature = "proxy")]
impl ReplyChannel for RawReplies {
    fn for_request(request: &NodeRequest) -> Self {
        Self::with_meter(request.meter.clone()).with_retention(request.retention)
    }

    fn responder(sender: oneshot::Sender<Answers<Self>>, replies: Self) -> Responder {
        Responder::Raw(sender, replies)
    }
}

impl InFlight {
    /// A request of this many bytes and one reply, which nobody waits for: it never runs out of time.
    pub(super) fn unattended(bytes: usize) -> Self {
        Self {
            bytes,
            remaining: 1,
            count: 1,
            ending: ExpectedEnd::Any,
            submitted_at: Instant::now(),
            deadline: None,
            silent_from: None,
            responder: None,
        }
    }

    /// Takes one decoded reply.
    pub(crate) fn take(&mut self, value: Value) -> ReplyProgress {
        let taken = self.count_down(|ending| ending.is_met_by(&value));
        match &mut self.responder {
            Some(Responder::One(_)) => {
                if let Some(Responder::One(sender)) = self.responder.take() {
                    // Fails if the sender's future was dropped.
                    let _ = sender.send(Ok(value));
                }
            }
            Some(Responder::Many(_, values)) => {
                if values.is_empty() {
                    // On the first reply, and not before: a request that fails early allocates nothing.
                    values.reserve_exact(self.count);
                }
                values.push(value);
                if self.remaining == 0 {
                    self.finish(None);
                }
            }
            #[cfg(feature = "proxy")]
            Some(Responder::Raw(..)) => debug_assert!(false, "it takes its answers as bytes"),
            None => {}
        }
        taken
    }

    /// Takes one reply as bytes.
    #[inline]
    pub(crate) fn take_frame(&mut self, frame: &[u8]) -> ReplyProgress {
        let taken = self.count_down(|ending| ending.is_met_by_frame(frame));
        #[cfg(feature = "proxy")]
        self.keep_raw(|frames| frames.push(frame));
        taken
    }

    /// Takes the place of one reply that was too large to keep.
    pub(crate) fn take_oversized(&mut self) -> ReplyProgress {
        // Its content is unknown, so it is no proof that the transaction has ended.
        let taken = self.count_down(|ending| ending != ExpectedEnd::Exec);
        #[cfg(feature = "proxy")]
        self.keep_raw(crate::plan::RawReplies::push_oversized);
        taken
    }

    /// Counts one reply; `is_met` examines it if it is the last.
    #[inline]
    fn count_down(&mut self, is_met: impl FnOnce(ExpectedEnd) -> bool) -> ReplyProgress {
        self.remaining -= 1;
        match self.remaining {
            0 if is_met(self.ending) => ReplyProgress::Complete,
            0 => ReplyProgress::Poisoned,
            _ => ReplyProgress::More,
        }
    }

    /// Completes the responder: with the replies so far and, if there is one, the failure that ended them.
    /// Does nothing the second time.
    pub(crate) fn finish(&mut self, failure: Option<Failure>) {
        // Sending fails if the sender's future was dropped.
        match (self.responder.take(), failure) {
            (Some(Responder::One(sender)), Some(failure)) => drop(sender.send(Err(failure))),
            (Some(Responder::Many(sender, values)), failure) => {
                let failure = failure.map(Box::new);
                drop(sender.send(Answers { values, failure }));
            }
            #[cfg(feature = "proxy")]
            (Some(Responder::Raw(sender, values)), failure) => {
                let failure = failure.map(Box::new);
                drop(sender.send(Answers { values, failure }));
            }
            (Some(Responder::One(_)), None) | (None, _) => {}
        }
    }
}

#[cfg(not(feature = "proxy"))]
impl InFlight {
    /// True if the replies need not be decoded.
    #[inline]
    pub(crate) fn is_raw(&self) -> bool {
        self.responder.is_none()
    }

    /// Maximum number of bytes of a reply that are kept: none.
    pub(crate) fn reply_bytes_max(&self) -> usize {
        0
    }
}

#[cfg(feature = "proxy")]
mod raw {
    use super::{InFlight, Responder};
    use crate::plan::RawReplies;

    /// Bytes of replies above which they are freed as soon as the sender is gone, rather than with the last
    /// reply. Below it, checking is not worth it.
    const ABANDONED_REPLY_BYTES_MIN: usize = 64 << 10;

    impl InFlight {
        /// True if the replies need not be decoded: they are passed on as bytes, or discarded.
        #[inline]
        pub(crate) fn is_raw(&self) -> bool {
            matches!(self.responder, None | Some(Responder::Raw(..)))
        }

        /// Maximum number of bytes of the next reply that are kept. Zero if nobody waits, so that a large
        /// reply is skipped as it arrives.
        pub(crate) fn reply_bytes_max(&self) -> usize {
            match &self.responder {
                Some(Responder::Raw(sender, frames)) if !sender.is_closed() => {
                    frames.reply_bytes_max()
                }
                _ => 0,
            }
        }

        /// Adds one reply to those that are passed on as bytes.
        #[inline]
        pub(super) fn keep_raw(&mut self, push: impl FnOnce(&mut RawReplies)) {
            let Some(Responder::Raw(sender, frames)) = &mut self.responder else {
                return;
            };
            if frames.byte_count() > ABANDONED_REPLY_BYTES_MIN && sender.is_closed() {
                self.responder = None;
                return;
            }
            push(frames);
            if self.remaining == 0 {
                self.finish(None);
            }
        }
    }
}
