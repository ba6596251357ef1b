//! Moves the bytes of one connection.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::aio::multiplexed::{InFlight, OnLastHandle, ReplyProgress, SendQueue};
use crate::aio::peek::Peek;
use crate::config::DEFAULT_RESPONSE_TIMEOUT;
use crate::config::PROBE_AFTER;
use crate::plan::{Cause, Failure};
use crate::policy::broken_text;
use crate::resp::{RawFrame, ReplyDecoder};

/// A task that writes what is in the queue and gives every reply to who waits for it. Ends when the connection does.
pub(super) struct Driver<S> {
    stream: S,
    queue: Arc<SendQueue>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the socket has taken.
    written: usize,
    decoder: ReplyDecoder,
    /// Those whose requests are in `outgoing` or gone out, the oldest first.
    in_flight: VecDeque<InFlight>,
    timer: Pin<Box<Sleep>>,
    timer_set: bool,
    /// No request ends before. It need not be the first in the row: one that waited for the connection, or is sent again,
    /// has less time left than those before it.
    earliest: Option<Instant>,
    /// No handle is left, and answers are still to come.
    draining: bool,
    /// When the last bytes came.
    last_read: Instant,
    /// When the socket was looked at.
    last_probe: Instant,
    coalescing: WriteCoalescing,
    /// Others are given the time to hand over something, too.
    coalescing_yield: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// When requests are written that several have handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteCoalescing {
    /// At once.
    Off,
    /// When the runtime has looked at all sockets once more: where many others have sent something meanwhile, it goes out in
    /// the same call.
    #[cfg(feature = "proxy")]
    OneYield,
}

/// A buffer of more bytes is given back when it is empty.
const OUTGOING_BYTES_KEPT: usize = 1 << 20;

/// Read in a row at most, before other tasks have their turn.
const READ_BYTES_PER_POLL: usize = 1 << 20;

/// Room for so many requests is kept when none is under way.
const IN_FLIGHT_KEPT: usize = 1024;

impl<S: AsyncRead + AsyncWrite + Peek + Unpin> Driver<S> {
    pub(super) fn new(stream: S, queue: Arc<SendQueue>, coalescing: WriteCoalescing) -> Self {
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
            coalescing_yield: None,
        }
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        loop {
            if self.probe_closed() {
                return Poll::Ready(broken(&io::ErrorKind::UnexpectedEof.into()));
            }
            let gathered = self.poll_coalesce(cx).is_ready();
            if gathered {
                self.collect(None);
            }
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(broken(&error));
            }
            if let Poll::Ready(cause) = self.poll_read(cx) {
                return Poll::Ready(cause);
            }
            if let Poll::Ready(cause) = self.poll_timer(cx) {
                return Poll::Ready(cause);
            }
            let collected = match gathered {
                true => self.collect(Some(cx)),
                false => Collected::Nothing,
            };
            match collected {
                Collected::More => {}
                Collected::Nothing => return Poll::Pending,
                Collected::Abandoned => {
                    // Encryption may hold back the end of what it took.
                    let _ = ready!(Pin::new(&mut self.stream).poll_flush(cx));
                    return Poll::Ready(Cause::Dropped("the client was dropped".into()));
                }
            }
        }
    }

    /// Whether what is in the queue may be taken.
    fn poll_coalesce(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.coalescing == WriteCoalescing::Off {
            return Poll::Ready(());
        }
        if self.coalescing_yield.is_none() {
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

    /// Whether there is something in the queue for a connection that was idle and that the server has closed. The runtime
    /// may not have looked at the socket since: it may not have been run meanwhile.
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
        drop(state);
        self.last_probe = Instant::now();
        self.stream.is_closed()
    }

    /// Takes what is in the queue, once all that was taken before is written. With a context it falls asleep when there
    /// is nothing.
    fn collect(&mut self, sleep: Option<&Context<'_>>) -> Collected {
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
        // That the connection is open is known by now.
        if let Some(look) = state.probe.take() {
            let _ = look.send(());
        }
        if !state.outgoing.is_empty() {
            std::mem::swap(&mut self.outgoing, &mut state.outgoing);
            if state.pending.len() < IN_FLIGHT_KEPT {
                state.pending.shrink_to(IN_FLIGHT_KEPT);
            }
            for request in state.pending.drain(..) {
                if let Some(end) = request.deadline
                    && self.earliest.is_none_or(|earliest| end < earliest)
                {
                    (self.earliest, self.timer_set) = (Some(end), false);
                }
                self.in_flight.push_back(request);
            }
            return Collected::More;
        }
        // Whoever still waits has a handle, so nobody does; and all that was handed over is written.
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

    /// Nobody is there who could end it any more, so nothing is waited for without deadline.
    fn shrink_in_flight(&mut self) {
        let end = Instant::now() + DEFAULT_RESPONSE_TIMEOUT;
        for request in &mut self.in_flight {
            request.deadline.get_or_insert(end);
        }
        let earliest = self.earliest.get_or_insert(end);
        *earliest = end.min(*earliest);
        self.timer_set = false;
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.outgoing.len() {
            let rest = &self.outgoing[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        let mut turn = 0;
        loop {
            if turn > READ_BYTES_PER_POLL {
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
            self.decoder.advance(count);
            self.last_read = Instant::now();
            if let Some(cause) = self.deliver_replies() {
                return Poll::Ready(cause);
            }
        }
    }

    /// Gives every answer that has arrived to who waits for it; why the connection ends, if it does.
    fn deliver_replies(&mut self) -> Option<Cause> {
        loop {
            let taken = match self.in_flight.front_mut() {
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
                    self.in_flight.pop_front();
                    let text = "closed, as the server left a transaction open on it";
                    return Some(Cause::Dropped(text.into()));
                }
            }
        }
    }

    /// Tells those whose time is over. Their replies are still owed and will be thrown away, so the connection stays in
    /// step; but when nothing at all has come since the oldest request, it is given up.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        loop {
            if self.timer_set {
                ready!(self.timer.as_mut().poll(cx));
                self.timer_set = false;
                let now = Instant::now();
                let mut silent = false;
                self.earliest = None;
                for request in &mut self.in_flight {
                    if request.deadline.is_none_or(|end| end > now) {
                        if request.responder.is_some() {
                            let ends = self.earliest.into_iter().chain(request.deadline);
                            self.earliest = ends.min();
                        }
                        continue;
                    }
                    silent |= self.last_read < request.submitted_at;
                    request.finish(Some(Failure {
                        cause: Cause::no_reply(),
                        sent: request.count,
                    }));
                }
                if silent {
                    let text = "closed, as the server sent nothing in time";
                    return Poll::Ready(Cause::Dropped(text.into()));
                }
            }
            let Some(earliest) = self.earliest else {
                return Poll::Pending;
            };
            self.timer.as_mut().reset(earliest.into());
            self.timer_set = true;
        }
    }

    /// Closes the queue, and tells everybody who waits.
    fn close(&mut self, cause: &Cause) {
        // The queue first: a request that is resent as soon as it is told must not find this connection open.
        self.queue.close(cause);
        // The requests at the end of the row that the socket has not begun to take were certainly not sent.
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

enum Collected {
    More,
    Nothing,
    Abandoned,
}

impl<S: AsyncRead + AsyncWrite + Peek + Unpin> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.run.store(true, Ordering::Relaxed);
        let cause = ready!(self.poll_drive(cx));
        self.close(&cause);
        Poll::Ready(())
    }
}

impl<S> Drop for Driver<S> {
    /// The runtime may end before the connection does.
    fn drop(&mut self) {
        let closed = self.queue.state.lock().closed.is_some();
        if !closed {
            let text = "its runtime has ended";
            self.queue.close(&Cause::Dropped(text.into()));
        }
    }
}

fn broken(error: &io::Error) -> Cause {
    Cause::Dropped(broken_text(error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::aio::multiplexed::MultiplexedConnection;
    use crate::endpoint::Deadline;
    use crate::plan::{Answers, ExpectedEnd};

    #[tokio::test]
    async fn multiplexed_connection_times_out_the_request_with_the_earliest_deadline_first() {
        let queue = Arc::new(SendQueue::default());
        let (stream, _silent) = tokio::io::duplex(1024);
        let driver = tokio::spawn(Driver::new(
            stream,
            Arc::clone(&queue),
            WriteCoalescing::Off,
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
            answers.failure,
            Some(Failure {
                cause: Cause::Timeout(_) | Cause::Dropped(_),
                sent: 1
            })
        ));
        drop(link);
        driver.await.unwrap();
    }
}
