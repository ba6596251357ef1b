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

use crate::aio::link::{Leave, Mailbox, Taken, Waiter, missed};
use crate::aio::peek::Peek;
use crate::builder::RESPONSE_TIMEOUT;
use crate::inbox::{Framed, Inbox};
use crate::plan::{Cause, Failure};
use crate::settings::LOOK_AFTER;

/// A task that writes what is in the mailbox and gives every reply to who waits for it. Ends when the connection does.
pub(super) struct Driver<S> {
    stream: S,
    mailbox: Arc<Mailbox>,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the socket has taken.
    written: usize,
    inbox: Inbox,
    /// Those whose requests are in `outgoing` or gone out, the oldest first.
    waiters: VecDeque<Waiter>,
    timer: Pin<Box<Sleep>>,
    timer_set: bool,
    /// No request ends before. It need not be the first in the row: one that waited for the connection, or is sent again,
    /// has less time left than those before it.
    earliest: Option<Instant>,
    /// No handle is left, and answers are still to come.
    leaving: bool,
    /// When the last bytes came.
    heard: Instant,
    /// When the socket was looked at.
    looked: Instant,
    pace: Pace,
    /// Others are given the time to hand over something, too.
    gathering: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// When requests are written that several have handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    AtOnce,
    /// When the runtime has looked at all sockets once more: where many others have sent something meanwhile, it goes out in
    /// the same call.
    Gathering,
}

/// A buffer of more bytes is given back when it is empty.
const OUTGOING_BYTES_KEPT: usize = 1 << 20;

/// Read in a row at most, before other tasks have their turn.
const TURN_BYTES: usize = 1 << 20;

/// Room for so many requests is kept when none is under way.
const WAITERS_KEPT: usize = 1024;

impl<S: AsyncRead + AsyncWrite + Peek + Unpin> Driver<S> {
    pub(super) fn new(stream: S, mailbox: Arc<Mailbox>, pace: Pace) -> Self {
        let now = Instant::now();
        Self {
            stream,
            mailbox,
            outgoing: Vec::new(),
            written: 0,
            inbox: Inbox::new(),
            waiters: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            timer_set: false,
            earliest: None,
            leaving: false,
            heard: now,
            looked: now,
            pace,
            gathering: None,
        }
    }

    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        loop {
            if self.is_found_closed() {
                return Poll::Ready(broken(&io::ErrorKind::UnexpectedEof.into()));
            }
            let gathered = self.poll_gather(cx).is_ready();
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

    /// Whether what is in the mailbox may be taken.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pace == Pace::AtOnce {
            return Poll::Ready(());
        }
        if self.gathering.is_none() {
            if self.mailbox.state.lock().arrivals.len() < 2 {
                return Poll::Ready(());
            }
            self.gathering = Some(Box::pin(tokio::task::yield_now()));
        }
        if let Some(gathering) = &mut self.gathering {
            ready!(gathering.as_mut().poll(cx));
        }
        self.gathering = None;
        Poll::Ready(())
    }

    /// Whether there is something in the mailbox for a connection that was idle and that the server has closed. The runtime
    /// may not have looked at the socket since: it may not have been run meanwhile.
    fn is_found_closed(&mut self) -> bool {
        let was_idle = self.waiters.is_empty()
            && self.heard.elapsed() >= LOOK_AFTER
            && self.looked.elapsed() >= LOOK_AFTER;
        if !was_idle {
            return false;
        }
        let mail = self.mailbox.state.lock();
        if mail.arrivals.is_empty() && mail.look.is_none() {
            return false;
        }
        drop(mail);
        self.looked = Instant::now();
        self.stream.is_closed()
    }

    /// Takes what is in the mailbox, once all that was taken before is written. With a context it falls asleep when there
    /// is nothing.
    fn collect(&mut self, sleep: Option<&Context<'_>>) -> Collected {
        if self.written < self.outgoing.len() {
            if let Some(cx) = sleep {
                self.mailbox.state.lock().sleep(cx);
            }
            return Collected::Nothing;
        }
        self.outgoing.clear();
        self.written = 0;
        if self.outgoing.capacity() > OUTGOING_BYTES_KEPT {
            self.outgoing = Vec::new();
        }
        if self.waiters.is_empty() && self.waiters.capacity() > WAITERS_KEPT {
            self.waiters.shrink_to(WAITERS_KEPT);
        }
        let mut mail = self.mailbox.state.lock();
        // That the connection is open is known by now.
        if let Some(look) = mail.look.take() {
            let _ = look.send(());
        }
        if !mail.outgoing.is_empty() {
            std::mem::swap(&mut self.outgoing, &mut mail.outgoing);
            if mail.arrivals.len() < WAITERS_KEPT {
                mail.arrivals.shrink_to(WAITERS_KEPT);
            }
            for waiter in mail.arrivals.drain(..) {
                if let Some(end) = waiter.deadline
                    && self.earliest.is_none_or(|earliest| end < earliest)
                {
                    (self.earliest, self.timer_set) = (Some(end), false);
                }
                self.waiters.push_back(waiter);
            }
            return Collected::More;
        }
        // Whoever still waits has a handle, so nobody does; and all that was handed over is written.
        if mail.abandoned {
            let answered = self.waiters.iter().all(|waiter| waiter.reply.is_none());
            if answered || mail.leave == Leave::AtOnce {
                return Collected::Abandoned;
            }
            if !std::mem::replace(&mut self.leaving, true) {
                drop(mail);
                self.limit_waiters();
                return Collected::More;
            }
        }
        if let Some(cx) = sleep {
            mail.sleep(cx);
        }
        Collected::Nothing
    }

    /// Nobody is there who could end it any more, so nothing is waited for without limit.
    fn limit_waiters(&mut self) {
        let end = Instant::now() + RESPONSE_TIMEOUT;
        for waiter in &mut self.waiters {
            waiter.deadline.get_or_insert(end);
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
            if turn > TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut room = ReadBuf::new(self.inbox.room());
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room)) {
                Err(error) => return Poll::Ready(broken(&error)),
                Ok(()) if room.filled().is_empty() => {
                    return Poll::Ready(broken(&io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(()) => {}
            }
            let count = room.filled().len();
            turn += count;
            self.inbox.arrived(count);
            self.heard = Instant::now();
            if let Some(cause) = self.hand_back() {
                return Poll::Ready(cause);
            }
        }
    }

    /// Gives every answer that has arrived to who waits for it; why the connection ends, if it does.
    fn hand_back(&mut self) -> Option<Cause> {
        loop {
            let taken = match self.waiters.front_mut() {
                Some(waiter) if waiter.leaves_unread() => match self.inbox.frame(waiter.keeps()) {
                    Ok(Framed::Nothing) => return None,
                    Ok(Framed::Whole(frame)) => waiter.take_frame(frame),
                    // An empty frame is no answer, but in the place of one.
                    Ok(Framed::Large) => waiter.take_frame(b""),
                    Err(error) => return Some(broken(&error)),
                },
                waiter => match (self.inbox.reply(), waiter) {
                    (Ok(None), _) => return None,
                    (Ok(Some(value)), Some(waiter)) => waiter.take(value),
                    (Ok(Some(_)), None) => {
                        return Some(Cause::Dropped("a reply that nobody asked for".into()));
                    }
                    (Err(error), _) => return Some(broken(&error)),
                },
            };
            match taken {
                Taken::More => {}
                Taken::Last => drop(self.waiters.pop_front()),
                Taken::BadLast => {
                    self.waiters.pop_front();
                    let text = "given up, for the server did not end a transaction on it";
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
                let mut silent = None;
                self.earliest = None;
                for waiter in &mut self.waiters {
                    if waiter.deadline.is_none_or(|end| end > now) {
                        if waiter.reply.is_some() {
                            let ends = self.earliest.into_iter().chain(waiter.deadline);
                            self.earliest = ends.min();
                        }
                        continue;
                    }
                    let limit = waiter
                        .deadline
                        .map(|end| end - waiter.handed_over)
                        .unwrap_or_default();
                    if self.heard < waiter.handed_over {
                        silent = Some(limit);
                    }
                    waiter.finish(Some(Failure {
                        cause: missed(limit),
                        sent: waiter.count,
                    }));
                }
                if let Some(limit) = silent {
                    return Poll::Ready(Cause::Dropped(format!(
                        "given up, for nothing came for {limit:?}"
                    )));
                }
            }
            let Some(earliest) = self.earliest else {
                return Poll::Pending;
            };
            self.timer.as_mut().reset(earliest.into());
            self.timer_set = true;
        }
    }

    /// Tells everybody who waits, and closes the mailbox.
    fn close(&mut self, cause: &Cause) {
        // The requests at the end of the row that the socket has not begun to take were certainly not sent.
        let mut unwritten = self.outgoing.len() - self.written;
        for waiter in self.waiters.iter_mut().rev() {
            let sent = match unwritten.checked_sub(waiter.bytes) {
                Some(rest) if waiter.bytes > 0 => {
                    unwritten = rest;
                    0
                }
                _ => {
                    unwritten = 0;
                    waiter.count
                }
            };
            waiter.finish(Some(Failure {
                cause: cause.clone(),
                sent,
            }));
        }
        self.waiters.clear();
        self.mailbox.close(cause);
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
        self.mailbox.run.store(true, Ordering::Relaxed);
        let cause = ready!(self.poll_drive(cx));
        self.close(&cause);
        Poll::Ready(())
    }
}

impl<S> Drop for Driver<S> {
    /// The runtime may end before the connection does.
    fn drop(&mut self) {
        let closed = self.mailbox.state.lock().closed.is_some();
        if !closed {
            let text = "the runtime of the connection has ended";
            self.mailbox.close(&Cause::Dropped(text.into()));
        }
    }
}

fn broken(error: &io::Error) -> Cause {
    Cause::Dropped(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::aio::link::{Limit, Link};
    use crate::plan::{Answers, Ending};

    #[tokio::test]
    async fn who_has_less_time_is_told_sooner_whatever_the_row() {
        let mailbox = Arc::new(Mailbox::default());
        let (stream, _silent) = tokio::io::duplex(1024);
        let driver = tokio::spawn(Driver::new(stream, Arc::clone(&mailbox), Pace::AtOnce));
        let link = Arc::new(Link::plain(mailbox, None));
        let ping: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        let ask = |limit| {
            let link = Arc::clone(&link);
            async move {
                let limit = Limit::start(Some(limit));
                let answers: Answers = link.exchange(ping, 1, Ending::Any, limit).await;
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
