//! One connection that many requests share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use crate::endpoint::Deadline;
#[cfg(feature = "proxy")]
use crate::plan::RawReplies;
use crate::plan::{Answers, Cause, ExpectedEnd, Failure, NodeRequest, ReplyBuffer};

/// So many bytes of requests may wait for one connection to take them. What comes then is refused: a node that far behind
/// would not answer it in time.
const OUTGOING_BYTES_MAX: usize = 256 << 20;

/// A driver on a runtime that runs only while somebody blocks on it is asked so often for a sign of life by requests from
/// elsewhere. Without one its connection is given up.
pub(crate) const DRIVER_PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to one node. Requests are written in the order in which they are handed over, and answered in that order.
/// Closed when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct MultiplexedConnection {
    queue: Arc<SendQueue>,
    /// The runtime of the driver, if it runs only while somebody blocks on it.
    driver_runtime: Option<Id>,
}

/// Where requests wait for the driver.
#[derive(Default)]
pub(crate) struct SendQueue {
    pub(crate) state: Mutex<SendQueueState>,
    /// The driver has run since this was cleared.
    pub(crate) run: AtomicBool,
}

/// Requests that the driver has not taken yet.
#[derive(Default)]
pub(crate) struct SendQueueState {
    /// Their bytes.
    pub(crate) outgoing: Vec<u8>,
    /// Who waits for their answers, in the order of the bytes.
    pub(crate) pending: Vec<InFlight>,
    /// Wakes the driver, when it sleeps.
    pub(crate) waker: Option<Waker>,
    /// Who wants to know whether the connection is still open.
    pub(crate) probe: Option<oneshot::Sender<()>>,
    pub(crate) closed: Option<Cause>,
    /// No handle is left.
    pub(crate) detached: bool,
    /// What is done then.
    pub(crate) on_last_handle: OnLastHandle,
}

/// When a connection that nobody has a handle of is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnLastHandle {
    /// As soon as all is written. The server forgets a blocking command that waits.
    #[default]
    Close,
    /// When all is answered, or too late. A server that finds a connection closed while it answers throws away what it has
    /// not read yet.
    Drain,
}

/// Who waits for answers.
pub(crate) struct InFlight {
    /// How many bytes its request has.
    pub(crate) bytes: usize,
    /// How many answers are still to come.
    pub(crate) remaining: usize,
    /// How many were asked for.
    pub(crate) count: usize,
    pub(crate) ending: ExpectedEnd,
    pub(crate) submitted_at: Instant,
    pub(crate) deadline: Option<Instant>,
    /// `None` once it was told that time is over; the answers still come and are thrown away.
    pub(crate) responder: Option<Responder>,
}

/// Whether an answer was the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyProgress {
    More,
    Complete,
    /// It was, and leaves the connection other than it was.
    Poisoned,
}

/// The way back to the caller, with the replies that have arrived for it.
pub(crate) enum Responder {
    One(oneshot::Sender<Result<Value, Failure>>),
    Many(oneshot::Sender<Answers>, Vec<Value>),
    /// Replies that are passed on as bytes.
    #[cfg(feature = "proxy")]
    Raw(oneshot::Sender<Answers<RawReplies>>, RawReplies),
}

/// A form in which replies are given back.
pub(crate) trait ReplyChannel: ReplyBuffer {
    /// No replies yet, for those to this request.
    fn for_request(_: &NodeRequest) -> Self {
        Self::default()
    }

    /// The way back for replies in this form, which are added to `replies`.
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
        Self::with_meter(request.meter.clone())
    }

    fn responder(sender: oneshot::Sender<Answers<Self>>, replies: Self) -> Responder {
        Responder::Raw(sender, replies)
    }
}

impl MultiplexedConnection {
    /// A connection, of which a driver takes the state. `home` is the runtime of that driver, if it runs only while somebody
    /// blocks on it.
    pub(crate) fn new(queue: Arc<SendQueue>, home: Option<Id>) -> Self {
        Self {
            queue,
            driver_runtime: home,
        }
    }

    /// Makes it carry out what was handed over even if nobody waits for it.
    pub(crate) fn drain_on_drop(&self) {
        self.queue.state.lock().on_last_handle = OnLastHandle::Drain;
    }

    /// Whether it is no more.
    pub(crate) fn is_closed(&self) -> bool {
        self.queue.state.lock().closed.is_some()
    }

    /// Whether its driver lives on a runtime that may not be run while this one is.
    pub(crate) fn is_on_foreign_runtime(&self) -> bool {
        is_away(self.driver_runtime)
    }

    /// Whether the server has closed it, as far as can be told without asking it: the driver looks at the socket.
    pub(crate) async fn is_stale(&self) -> bool {
        let (sender, looked) = oneshot::channel();
        {
            let mut state = self.queue.state.lock();
            if state.closed.is_some() {
                return true;
            }
            state.probe = Some(sender);
        }
        self.queue.wake();
        looked.await.is_err()
    }

    /// One request and its answer. `write` appends the request.
    pub(crate) async fn call(
        &self,
        write: impl FnOnce(&mut Vec<u8>),
        deadline: Deadline,
    ) -> Result<Value, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.queue
            .submit(write, 1, ExpectedEnd::Any, deadline, Responder::One(sender))
            .map_err(Failure::not_sent)?;
        let answer = match is_away(self.driver_runtime) {
            false => receiver.await.ok(),
            true => Box::pin(self.queue.await_from_foreign_runtime(receiver)).await,
        };
        answer.unwrap_or_else(|| Err(lost(1)))
    }

    /// `count` packed requests and their answers.
    pub(crate) async fn exchange<R: ReplyChannel>(
        &self,
        packed: &[u8],
        count: usize,
        ending: ExpectedEnd,
        deadline: Deadline,
    ) -> Answers<R> {
        self.exchange_into(packed, count, ending, deadline, R::default())
            .await
    }

    /// `count` packed requests and their answers, which are added to `replies`.
    pub(crate) async fn exchange_into<R: ReplyChannel>(
        &self,
        packed: &[u8],
        count: usize,
        ending: ExpectedEnd,
        deadline: Deadline,
        replies: R,
    ) -> Answers<R> {
        if count == 0 {
            // Nobody would ever tell whoever waits for no answer.
            return Answers::default();
        }
        let (sender, receiver) = oneshot::channel();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(packed);
        let responder = R::responder(sender, replies);
        match self.queue.submit(write, count, ending, deadline, responder) {
            Ok(()) => {
                let answers = match is_away(self.driver_runtime) {
                    false => receiver.await.ok(),
                    true => Box::pin(self.queue.await_from_foreign_runtime(receiver)).await,
                };
                answers.unwrap_or_else(|| Answers::failed(lost(count)))
            }
            Err(cause) => Answers::failed(Failure::not_sent(cause)),
        }
    }
}

impl Drop for MultiplexedConnection {
    fn drop(&mut self) {
        self.queue.state.lock().detached = true;
        self.queue.wake();
    }
}

/// Whether what lives on this runtime may not be run while the caller's is.
pub(crate) fn is_away(home: Option<Id>) -> bool {
    home.is_some_and(|home| Handle::try_current().is_ok_and(|here| here.id() != home))
}

impl SendQueueState {
    /// Has the driver waked when something comes.
    pub(crate) fn park(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(sleeper) => sleeper.clone_from(cx.waker()),
            sleeper => *sleeper = Some(cx.waker().clone()),
        }
    }
}

impl SendQueue {
    /// Hands a request to the driver. From here on it will be carried out, whoever waits for it or not.
    fn submit(
        &self,
        write: impl FnOnce(&mut Vec<u8>),
        count: usize,
        ending: ExpectedEnd,
        deadline: Deadline,
        responder: Responder,
    ) -> Result<(), Cause> {
        let mut state = self.state.lock();
        if let Some(cause) = &state.closed {
            return Err(cause.clone());
        }
        let queued = state.pending.len() * size_of::<InFlight>();
        if state.outgoing.len() + queued > OUTGOING_BYTES_MAX {
            return Err(Cause::PoolTimeout(format!(
                "{} MiB of requests wait to be sent already; send fewer at a time",
                OUTGOING_BYTES_MAX >> 20
            )));
        }
        let before = state.outgoing.len();
        write(&mut state.outgoing);
        let bytes = state.outgoing.len() - before;
        state.pending.push(InFlight {
            bytes,
            remaining: count,
            count,
            ending,
            submitted_at: deadline.start,
            deadline: deadline.end(),
            responder: Some(responder),
        });
        let sleeper = state.waker.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// Wakes the driver.
    fn wake(&self) {
        let sleeper = self.state.lock().waker.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Waits for an answer on another runtime than the driver's. A driver that is not run says nothing of time either, so it
    /// is asked for a sign of life; without one the connection is given up, and what the driver has not taken is not sent.
    async fn await_from_foreign_runtime<T>(&self, mut answer: oneshot::Receiver<T>) -> Option<T> {
        loop {
            self.run.store(false, Ordering::Relaxed);
            self.wake();
            if let Ok(answer) = tokio::time::timeout(DRIVER_PROBE_TIMEOUT, &mut answer).await {
                return answer.ok();
            }
            if !self.run.load(Ordering::Relaxed) {
                self.close(&Cause::Dropped(
                    "its runtime is not being run; use the client on a runtime that is".into(),
                ));
                return answer.try_recv().ok();
            }
        }
    }

    /// Takes no more requests. Those that the driver has not taken are not sent.
    pub(crate) fn close(&self, cause: &Cause) {
        let mut state = self.state.lock();
        state.closed = Some(cause.clone());
        state.outgoing = Vec::new();
        state.probe = None;
        let arrivals = std::mem::take(&mut state.pending);
        drop(state);
        for mut request in arrivals {
            request.finish(Some(Failure::not_sent(cause.clone())));
        }
    }
}

impl fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SendQueue")
            .field("outgoing", &state.outgoing.len())
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}

impl InFlight {
    /// Takes one answer.
    pub(crate) fn take(&mut self, value: Value) -> ReplyProgress {
        let taken = self.count_down(|ending| ending.is_met_by(&value));
        match &mut self.responder {
            Some(Responder::One(_)) => {
                if let Some(Responder::One(sender)) = self.responder.take() {
                    // Who asked may have gone.
                    let _ = sender.send(Ok(value));
                }
            }
            Some(Responder::Many(_, values)) => {
                if values.is_empty() {
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

    /// Takes one answer as bytes.
    #[inline]
    pub(crate) fn take_frame(&mut self, frame: &[u8]) -> ReplyProgress {
        let taken = self.count_down(|ending| ending.is_met_by_frame(frame));
        #[cfg(feature = "proxy")]
        self.keep_raw(|frames| frames.push(frame));
        taken
    }

    /// Takes one answer that was too large to be kept.
    pub(crate) fn take_oversized(&mut self) -> ReplyProgress {
        // Nobody has looked at it, so it does not show that a transaction has ended.
        let taken = self.count_down(|ending| ending != ExpectedEnd::Exec);
        #[cfg(feature = "proxy")]
        self.keep_raw(crate::plan::RawReplies::push_oversized);
        taken
    }

    #[inline]
    fn count_down(&mut self, is_met: impl FnOnce(ExpectedEnd) -> bool) -> ReplyProgress {
        self.remaining -= 1;
        match self.remaining {
            0 if is_met(self.ending) => ReplyProgress::Complete,
            0 => ReplyProgress::Poisoned,
            _ => ReplyProgress::More,
        }
    }

    /// Tells who asked that there will be no more answers.
    pub(crate) fn finish(&mut self, failure: Option<Failure>) {
        // Who asked may have gone.
        match (self.responder.take(), failure) {
            (Some(Responder::One(sender)), Some(failure)) => drop(sender.send(Err(failure))),
            (Some(Responder::Many(sender, values)), failure) => {
                drop(sender.send(Answers { values, failure }));
            }
            #[cfg(feature = "proxy")]
            (Some(Responder::Raw(sender, values)), failure) => {
                drop(sender.send(Answers { values, failure }));
            }
            (Some(Responder::One(_)), None) | (None, _) => {}
        }
    }
}

#[cfg(not(feature = "proxy"))]
impl InFlight {
    /// Whether nobody wants to read the answers here.
    #[inline]
    pub(crate) fn is_raw(&self) -> bool {
        self.responder.is_none()
    }

    /// So many bytes of an answer are of use to somebody.
    pub(crate) fn reply_bytes_max(&self) -> usize {
        0
    }
}

#[cfg(feature = "proxy")]
mod raw {
    use super::{InFlight, Responder};
    use crate::plan::RawReplies;

    /// Replies of more bytes are freed as soon as nobody waits for them any more, rather than when the last has come.
    const ABANDONED_REPLY_BYTES_MIN: usize = 64 << 10;

    impl InFlight {
        /// Whether nobody wants to read the answers here.
        #[inline]
        pub(crate) fn is_raw(&self) -> bool {
            matches!(self.responder, None | Some(Responder::Raw(..)))
        }

        /// So many bytes of an answer are of use to somebody.
        pub(crate) fn reply_bytes_max(&self) -> usize {
            match &self.responder {
                Some(Responder::Raw(sender, frames)) if !sender.is_closed() => {
                    self.ending.reply_bytes_max(frames.byte_count())
                }
                _ => 0,
            }
        }

        /// Adds one answer to those that are passed on as bytes.
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

/// The driver is gone with the runtime it lived on.
fn lost(count: usize) -> Failure {
    Failure {
        cause: Cause::Dropped("its runtime has ended".into()),
        sent: count,
    }
}
