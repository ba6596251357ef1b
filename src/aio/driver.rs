//! The I/O of one multiplexed connection: a task that writes what is queued, decodes replies and enforces
//! deadlines.
//!
//! A request moves through three places. [`SendQueue`] holds it until the driver is ready for more;
//! `outgoing` holds its bytes until the socket has taken them, while it already counts as `in_flight`; there
//! it stays until its last reply has come. Replies carry no number, so `in_flight` is in the order of the
//! bytes, and the oldest request owns the next reply.
//!
//! A request whose deadline has passed fails but stays in flight, because its reply is still to be read and
//! discarded. The connection is only closed if the server has sent nothing at all since such a request was
//! submitted, for as long as requests of this client usually may take, and no request before it may take longer.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use redis::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::aio::in_flight::{InFlight, ReplyProgress};
use crate::aio::multiplexed::{OnLastHandle, SendQueue};
use crate::aio::peek::Peek;
use crate::config::DEFAULT_RESPONSE_TIMEOUT;
use crate::config::PROBE_AFTER;
use crate::endpoint::NodeBackoff;
use crate::endpoint::push::PushTarget;
use crate::observe::NodeObserver;
use crate::plan::{Cause, Failure};
use crate::policy::IoFailure;
use crate::resp::{RawFrame, ReplyDecoder};

/// The task of one connection: a future that completes when the connection has ended, after every request has
/// been failed.
pub(super) struct Driver<S> {
    /// The socket, encrypted or not.
    stream: S,
    /// Shared with the handles, which append requests to it.
    queue: Arc<SendQueue>,
    /// Bytes taken from the queue. Swapped with the queue's buffer, so that both allocations are reused.
    outgoing: Vec<u8>,
    /// Number of bytes of `outgoing` that the socket has taken.
    written: usize,
    /// Bytes received that do not make a complete reply yet.
    decoder: ReplyDecoder,
    /// Requests whose bytes are in `outgoing` or sent, and whose replies have not all come; the oldest first.
    in_flight: VecDeque<InFlight>,
    /// Set to `earliest`; boxed once and reset, as a new timer per request would be an allocation each.
    timer: Pin<Box<Sleep>>,
    /// True if `timer` is set to `earliest`. Cleared when a request with an earlier deadline is taken.
    timer_set: bool,
    /// Earliest deadline in flight. Not always the oldest request's: one that queued for the connection or
    /// was resent has less time left.
    earliest: Option<Instant>,
    /// True once no handle is left and replies are still to come.
    draining: bool,
    /// When the last bytes arrived. If a request was submitted after that, the server has been silent since.
    last_read: Instant,
    /// When [`probe_closed`](Self::probe_closed) last peeked at the socket.
    last_probe: Instant,
    /// When requests are taken from the queue.
    coalescing: WriteCoalescing,
    /// Where push messages go, and the message that the connection is lost.
    pushes: Option<PushTarget>,
    /// The yield under way while other tasks are given time to add requests.
    coalescing_yield: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Counts the bytes sent and received.
    observer: Arc<NodeObserver>,
    /// Notified when the connection breaks.
    backoff: Arc<NodeBackoff>,
}

/// When the driver writes requests that several tasks have queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteCoalescing {
    /// At once: the lowest latency.
    Off,
    /// After one yield to the runtime, when at least two requests are queued: tasks that become ready in that
    /// turn add theirs, and all of them go out in one write. Used by the proxy, whose clients arrive in
    /// bursts.
    #[cfg(feature = "proxy")]
    OneYield,
}

/// Capacity in bytes above which an empty buffer is freed, so that one huge pipeline does not hold memory for
/// good.
const OUTGOING_BYTES_KEPT: usize = 1 << 20;

/// Maximum number of bytes read in one poll, before other tasks have their turn.
const READ_BYTES_PER_POLL: usize = 1 << 20;

/// Capacity, in requests, that is kept while nothing is in flight.
const IN_FLIGHT_KEPT: usize = 1024;

impl<S: AsyncRead + AsyncWrite + Peek + Unpin> Driver<S> {
    /// A driver for a connected stream; to be spawned by the caller.
    pub(super) fn new(
        stream: S,
        queue: Arc<SendQueue>,
        coalescing: WriteCoalescing,
        backoff: Arc<NodeBackoff>,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            queue,
            outgoing: Vec::new(),
            written: 0,
            decoder: ReplyDecoder::new(),
            in_flight: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            timer_set: false,
            earliest: None,
            draining: false,
            last_read: now,
            last_probe: now,
            coalescing,
            pushes: None,
            coalescing_yield: None,
            observer: Arc::clone(backoff.observer()),
            backoff,
        }
    }

    /// Sends push messages to `pushes`.
    pub(super) fn with_pushes(mut self, pushes: Option<PushTarget>) -> Self {
        if let Some(target) = pushes.clone() {
            let handler = move |items: &[Value]| target.message(items);
            self.decoder.on_push(Box::new(handler));
        }
        self.pushes = pushes;
        self
    }

    /// Moves bytes in both directions until nothing can be done. Ready when the connection has ended, with
    /// the reason.
    ///
    /// The order matters: the queue is looked at last, with the waker, so that a request queued during this
    /// poll is either taken now or wakes the task.
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        loop {
            // Before anything is taken from the queue: requests that were not taken count as not sent, and
            // may be resent even if they are writes.
            if self.probe_closed() {
                return Poll::Ready(broken(&io::ErrorKind::UnexpectedEof.into()));
            }
            let gathered = self.poll_coalesce(cx).is_ready();
            if gathered {
                // Without a context: the waker is only stored by the second call, when all the rest is
                // pending.
                self.collect(None);
            }
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                // A server that has closed the connection may have replied before, or sent the reason: the
                // alert of TLS about a certificate.
                return Poll::Ready(match self.poll_read(cx) {
                    Poll::Ready(cause) => cause,
                    Poll::Pending => broken(&error),
                });
            }
            if let Poll::Ready(cause) = self.poll_read(cx) {
                return Poll::Ready(cause);
            }
            if let Poll::Ready(cause) = self.poll_timer(cx) {
                return Poll::Ready(cause);
            }
            // Reading may have completed requests and writing may have emptied `outgoing`, so look again
            // before sleeping.
            let collected = match gathered {
                true => self.collect(Some(cx)),
                false => Collected::Nothing,
            };
            match collected {
                Collected::More => {}
                Collected::Nothing => return Poll::Pending,
                Collected::Abandoned => {
                    // With replies still due, its user has given it up after a failure.
                    if self.in_flight.is_empty() {
                        self.pushes = None;
                    }
                    // TLS may hold back the last record that it has encrypted.
                    let _ = ready!(Pin::new(&mut self.stream).poll_flush(cx));
                    return Poll::Ready(Cause::Dropped("the client was dropped".into()));
                }
            }
        }
    }

    /// Ready when the queue may be taken; see [`WriteCoalescing`].
    fn poll_coalesce(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.coalescing == WriteCoalescing::Off {
            return Poll::Ready(());
        }
        if self.coalescing_yield.is_none() {
            // A lone request gains nothing by waiting for others.
            if self.queue.state.lock().pending.len() < 2 {
                return Poll::Ready(());
            }
            self.coalescing_yield = Some(Box::pin(tokio::task::yield_now()));
        }
        if let Some(gathering) = &mut self.coalescing_yield {
            ready!(gathering.as_mut().poll(cx));
        }
        self.coalescing_yield = None;
        Poll::Ready(())
    }

    /// True if the connection was idle, the server has closed it, and a request is queued.
    ///
    /// The runtime may not have polled the socket since: on a current-thread runtime between two `block_on`,
    /// nothing is polled. A write on the closed socket would succeed and its outcome would be unknown;
    /// peeking first avoids that.
    fn probe_closed(&mut self) -> bool {
        let was_idle = self.in_flight.is_empty()
            && self.last_read.elapsed() >= PROBE_AFTER
            && self.last_probe.elapsed() >= PROBE_AFTER;
        if !was_idle {
            return false;
        }
        let state = self.queue.state.lock();
        if state.pending.is_empty() && state.probe.is_none() {
            return false;
        }
        // Peeking is a system call, so not under the lock that senders take.
        drop(state);
        self.last_probe = Instant::now();
        self.stream.is_closed()
    }

    /// Takes the queued requests, once all bytes taken before are written. With a context, stores its waker
    /// if there is nothing to take.
    fn collect(&mut self, sleep: Option<&Context<'_>>) -> Collected {
        // Backpressure: while the socket is full, requests stay in the queue, where they still count as not
        // sent and where their total size is bounded.
        if self.written < self.outgoing.len() {
            if let Some(cx) = sleep {
                self.queue.state.lock().park(cx);
            }
            return Collected::Nothing;
        }
        self.outgoing.clear();
        self.written = 0;
        if self.outgoing.capacity() > OUTGOING_BYTES_KEPT {
            self.outgoing = Vec::new();
        }
        if self.in_flight.is_empty() && self.in_flight.capacity() > IN_FLIGHT_KEPT {
            self.in_flight.shrink_to(IN_FLIGHT_KEPT);
        }
        let mut state = self.queue.state.lock();
        // `probe_closed` has just found the socket open, or a reply was read moments ago.
        if let Some(look) = state.probe.take() {
            let _ = look.send(());
        }
        if !state.outgoing.is_empty() {
            // No copy, and the lock is held for as long as a swap takes.
            std::mem::swap(&mut self.outgoing, &mut state.outgoing);
            if state.pending.len() < IN_FLIGHT_KEPT {
                state.pending.shrink_to(IN_FLIGHT_KEPT);
            }
            for request in state.pending.drain(..) {
                if let Some(end) = request.deadline
                    && self.earliest.is_none_or(|earliest| end < earliest)
                {
                    // Only a deadline that is earlier than the timer resets it.
                    (self.earliest, self.timer_set) = (Some(end), false);
                }
                self.in_flight.push_back(request);
            }
            return Collected::More;
        }
        // Everything queued has been written, and no handle is left to wait for a reply.
        if state.detached {
            let answered = self
                .in_flight
                .iter()
                .all(|request| request.responder.is_none());
            if answered || state.on_last_handle == OnLastHandle::Close {
                return Collected::Abandoned;
            }
            if !std::mem::replace(&mut self.draining, true) {
                drop(state);
                self.shrink_in_flight();
                return Collected::More;
            }
        }
        if let Some(cx) = sleep {
            state.park(cx);
        }
        Collected::Nothing
    }

    /// Gives every request without a deadline one of [`DEFAULT_RESPONSE_TIMEOUT`]. With no handle left,
    /// nothing else would end the task if the server never replied.
    fn shrink_in_flight(&mut self) {
        let end = Instant::now() + DEFAULT_RESPONSE_TIMEOUT;
        for request in &mut self.in_flight {
            request.deadline.get_or_insert(end);
            request.silent_from.get_or_insert(end);
        }
        let earliest = self.earliest.get_or_insert(end);
        *earliest = end.min(*earliest);
        self.timer_set = false;
    }

    /// Writes `outgoing`. Ready when all of it is written, or with the error.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.outgoing.len() {
            let rest = &self.outgoing[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.written += count;
                    self.observer.sent(count);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until the socket has no more, and hands out replies. Ready only when the connection has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        let mut turn = 0;
        loop {
            if turn > READ_BYTES_PER_POLL {
                // A server that sends without end must not starve the other tasks of this runtime, nor the
                // writes and timers of this connection.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut room = ReadBuf::new(self.decoder.spare_mut());
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room)) {
                Err(error) => return Poll::Ready(broken(&error)),
                Ok(()) if room.filled().is_empty() => {
                    return Poll::Ready(broken(&io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(()) => {}
            }
            let count = room.filled().len();
            turn += count;
            self.observer.received(count);
            self.decoder.advance(count);
            self.last_read = Instant::now();
            if let Some(cause) = self.deliver_replies() {
                return Poll::Ready(cause);
            }
        }
    }

    /// Delivers every complete reply to its request. Returns the reason if the connection must be closed.
    fn deliver_replies(&mut self) -> Option<Cause> {
        loop {
            let taken = match self.in_flight.front_mut() {
                // Nobody wants a decoded value: the proxy passes bytes on, and an abandoned reply is only
                // skipped.
                Some(request) if request.is_raw() => {
                    match self.decoder.next_frame(request.reply_bytes_max()) {
                        Ok(RawFrame::Incomplete) => return None,
                        Ok(RawFrame::Complete(frame)) => request.take_frame(frame),
                        Ok(RawFrame::TooLarge) => request.take_oversized(),
                        Err(error) => return Some(broken(&error)),
                    }
                }
                request => match (self.decoder.next_reply(), request) {
                    (Ok(None), _) => return None,
                    (Ok(Some(value)), Some(request)) => request.take(value),
                    // A reply without a request means that both sides no longer agree on the order: every
                    // later reply would go to the wrong request.
                    (Ok(Some(_)), None) => {
                        return Some(Cause::Dropped("unexpected reply from the server".into()));
                    }
                    (Err(error), _) => return Some(broken(&error)),
                },
            };
            match taken {
                ReplyProgress::More => {}
                ReplyProgress::Complete => drop(self.in_flight.pop_front()),
                ReplyProgress::Poisoned => {
                    // A transaction is still open on the server, in which the next request on this connection would
                    // be queued; or the server closes the connection.
                    self.in_flight.pop_front();
                    let text =
                        "closed, as the server left a transaction open on it, or was demoted";
                    return Some(Cause::Dropped(text.into()));
                }
            }
        }
    }

    /// Fails the requests whose deadline has passed. Their replies are still owed and are discarded when they
    /// come, so the connection stays in step. If the server is [silent](InFlight::silent_from), the connection
    /// is closed.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        loop {
            if self.timer_set {
                ready!(self.timer.as_mut().poll(cx));
                self.timer_set = false;
                let now = Instant::now();
                if self.expire(now) {
                    let text = "timed out: closed, as the server sent nothing in time";
                    return Poll::Ready(Cause::Dropped(IoFailure::timed_out(text)));
                }
            }
            let Some(earliest) = self.earliest else {
                return Poll::Pending;
            };
            self.timer.as_mut().reset(earliest.into());
            self.timer_set = true;
        }
    }

    /// Fails the requests whose deadline has passed, and sets `earliest`. Returns true if the server is silent.
    fn expire(&mut self, now: Instant) -> bool {
        let (mut is_silent, mut is_busy) = (false, false);
        self.earliest = None;
        for request in &mut self.in_flight {
            let end = match request.deadline {
                Some(end) if end <= now => {
                    request.finish(Some(Failure {
                        cause: Cause::no_reply(),
                        sent: request.count,
                    }));
                    // Any byte since then proves that the server is alive and only slow. So may be a server
                    // that works on an earlier request which may take longer, such as a long script.
                    match request.silent_from {
                        Some(end) if !is_busy && self.last_read < request.submitted_at => {
                            is_silent |= end <= now;
                            Some(end)
                        }
                        _ => continue,
                    }
                }
                end => {
                    is_busy = true;
                    end
                }
            };
            self.earliest = self.earliest.into_iter().chain(end).min();
        }
        is_silent
    }

    /// Closes the queue and fails all requests.
    fn close(&mut self, cause: &Cause) {
        // The queue first: a request that is resent as soon as it has failed must not find this connection
        // open.
        self.queue.close(cause);
        // Requests are in the order of their bytes, so those at the end of `in_flight` were certainly not
        // sent as long as no byte of them was written, and may be resent. The request that the socket has
        // taken in part counts as sent.
        let mut unwritten = self.outgoing.len() - self.written;
        for request in self.in_flight.iter_mut().rev() {
            let sent = match unwritten.checked_sub(request.bytes) {
                Some(rest) if request.bytes > 0 => {
                    unwritten = rest;
                    0
                }
                _ => {
                    unwritten = 0;
                    request.count
                }
            };
            request.finish(Some(Failure {
                cause: cause.clone(),
                sent,
            }));
        }
        self.in_flight.clear();
    }
}

/// Outcome of [`Driver::collect`].
enum Collected {
    /// Requests were taken, or the state has changed: poll again.
    More,
    /// Nothing to take.
    Nothing,
    /// No handle is left and no reply is awaited: close the connection.
    Abandoned,
}

impl<S: AsyncRead + AsyncWrite + Peek + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The sign of life that requests from another runtime wait for.
        self.queue.run.store(true, Ordering::Relaxed);
        let cause = ready!(self.poll_drive(cx));
        // Before the requests are failed: one that is resent at once may make the next connection.
        if self.queue.is_in_use() {
            self.backoff.broke(&cause);
        }
        self.close(&cause);
        self.report_lost();
        Poll::Ready(())
    }
}

impl<S> Driver<S> {
    /// Reports the loss of a connection that had been made, once, to the receiver of its push messages.
    fn report_lost(&mut self) {
        if let Some(pushes) = self.pushes.take()
            && self.queue.is_established()
        {
            pushes.disconnected();
        }
    }
}

impl<S> Drop for Driver<S> {
    /// Runs with the connection still open when the runtime shuts down and drops the task. What is in the
    /// queue must be failed, or its senders would wait for ever; requests in flight fail because their
    /// oneshots are dropped.
    fn drop(&mut self) {
        let closed = self.queue.state.lock().closed.is_some();
        if !closed {
            let text = "its runtime has ended";
            self.queue.close(&Cause::Dropped(text.into()));
        }
        self.report_lost();
    }
}

/// The cause for an I/O error.
fn broken(error: &io::Error) -> Cause {
    Cause::Dropped(IoFailure::broken(error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::aio::multiplexed::MultiplexedConnection;
    use crate::endpoint::Deadline;
    use crate::observe::Listeners;
    use crate::partition::NodeSpec;
    use crate::plan::{Answers, ExpectedEnd};

    #[tokio::test]
    async fn multiplexed_connection_times_out_the_request_with_the_earliest_deadline_first() {
        let queue = Arc::new(SendQueue::default());
        let (stream, _silent) = tokio::io::duplex(1024);
        let driver = tokio::spawn(Driver::new(
            stream,
            Arc::clone(&queue),
            WriteCoalescing::Off,
            Arc::new(NodeBackoff::new(NodeObserver::new(
                NodeSpec::unnamed("h:1"),
                Listeners::default(),
                None,
            ))),
        ));
        let link = Arc::new(MultiplexedConnection::new(queue, None));
        let ping: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        let ask = |deadline| {
            let link = Arc::clone(&link);
            async move {
                let deadline = Deadline::start(Some(deadline));
                let answers: Answers = link.exchange(ping, 1, ExpectedEnd::Any, deadline).await;
                answers
            }
        };
        let first = Box::pin(ask(Duration::from_secs(60)));
        let second = Box::pin(ask(Duration::from_millis(50)));
        let both = futures_util::future::select(first, second);
        let answers = tokio::time::timeout(Duration::from_secs(10), both).await;
        let answers = answers.expect("in time").factor_first().0;
        assert!(matches!(
            answers.failure.as_deref(),
            Some(Failure {
                cause: Cause::Timeout(_) | Cause::Dropped(_),
                sent: 1
            })
        ));
        drop(link);
        driver.await.unwrap();
    }
}
