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

use crate::plan::{Answers, Cause, Ending, Failure, Frames, Meter, Row};

/// So many bytes of requests may wait for one connection to take them. What comes then is refused: a node that far behind
/// would not answer it in time.
const OUTGOING_BYTES_MAX: usize = 256 << 20;

/// Replies of more bytes are freed as soon as nobody waits for them any more, rather than when the last has come.
const ABANDONED_BYTES_MIN: usize = 64 << 10;

/// A driver on a runtime that runs only while somebody blocks on it is asked so often for a sign of life by requests from
/// elsewhere. Without one its connection is given up.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// A connection to one node. Requests are written in the order in which they are handed over, and answered in that order.
/// Closed when the last handle is dropped.
#[derive(Debug)]
pub(super) struct Link {
    mailbox: Arc<Mailbox>,
    /// The runtime of the driver, if it runs only while somebody blocks on it.
    home: Option<Id>,
}

/// Where requests wait for the driver.
#[derive(Default)]
pub(super) struct Mailbox {
    pub(super) state: Mutex<Mail>,
    /// The driver has run since this was cleared.
    pub(super) run: AtomicBool,
}

/// Requests that the driver has not taken yet.
#[derive(Default)]
pub(super) struct Mail {
    /// Their bytes.
    pub(super) outgoing: Vec<u8>,
    /// Who waits for their answers, in the order of the bytes.
    pub(super) arrivals: Vec<Waiter>,
    /// Wakes the driver, when it sleeps.
    pub(super) sleeper: Option<Waker>,
    /// Who wants to know whether the connection is still open.
    pub(super) look: Option<oneshot::Sender<()>>,
    pub(super) closed: Option<Cause>,
    /// No handle is left.
    pub(super) abandoned: bool,
    /// What is done then.
    pub(super) leave: Leave,
}

/// When a connection that nobody has a handle of is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leave {
    /// As soon as all is written. The server forgets a blocking command that waits.
    #[default]
    AtOnce,
    /// When all is answered, or too late. A server that finds a connection closed while it answers throws away what it has
    /// not read yet.
    WhenAnswered,
}

/// Who waits for answers.
pub(super) struct Waiter {
    /// How many bytes its request has.
    pub(super) bytes: usize,
    /// How many answers are still to come.
    pub(super) missing: usize,
    /// How many were asked for.
    pub(super) count: usize,
    pub(super) ending: Ending,
    values: Vec<Value>,
    frames: Frames,
    pub(super) handed_over: Instant,
    pub(super) deadline: Option<Instant>,
    /// `None` once it was told that time is over; the answers still come and are thrown away.
    pub(super) reply: Option<Reply>,
}

/// Whether an answer was the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    More,
    Last,
    /// It was, and leaves the connection other than it was.
    BadLast,
}

/// The way back to who asked.
pub(super) enum Reply {
    One(oneshot::Sender<Result<Value, Failure>>),
    Many(oneshot::Sender<Answers>),
    Unread(oneshot::Sender<Answers<Frames>>),
}

/// A form in which answers are given back.
pub(super) trait Receive: Row {
    /// The way back for answers in this form.
    fn reply(sender: oneshot::Sender<Answers<Self>>) -> Reply;
}

impl Receive for Vec<Value> {
    fn reply(sender: oneshot::Sender<Answers<Self>>) -> Reply {
        Reply::Many(sender)
    }
}

impl Receive for Frames {
    fn reply(sender: oneshot::Sender<Answers<Self>>) -> Reply {
        Reply::Unread(sender)
    }
}

impl Link {
    /// A connection, of which a driver takes the mail. `home` is the runtime of that driver, if it runs only while somebody
    /// blocks on it.
    pub(super) fn plain(mailbox: Arc<Mailbox>, home: Option<Id>) -> Self {
        Self { mailbox, home }
    }

    /// Makes it carry out what was handed over even if nobody waits for it.
    pub(super) fn leave_when_answered(&self) {
        self.mailbox.state.lock().leave = Leave::WhenAnswered;
    }

    /// Whether it is no more.
    pub(super) fn is_closed(&self) -> bool {
        self.mailbox.state.lock().closed.is_some()
    }

    /// Whether its driver lives on a runtime that may not be run while this one is.
    pub(super) fn is_away(&self) -> bool {
        is_away(self.home)
    }

    /// Whether the server has closed it, as far as can be told without asking it: the driver looks at the socket.
    pub(super) async fn is_stale(&self) -> bool {
        let (sender, looked) = oneshot::channel();
        {
            let mut mail = self.mailbox.state.lock();
            if mail.closed.is_some() {
                return true;
            }
            mail.look = Some(sender);
        }
        self.mailbox.wake();
        looked.await.is_err()
    }

    /// One request and its answer. `write` appends the request.
    pub(super) async fn call(
        &self,
        write: impl FnOnce(&mut Vec<u8>),
        limit: Limit,
    ) -> Result<Value, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.mailbox
            .hand_over(write, 1, Ending::Any, limit, Reply::One(sender), None)
            .map_err(Failure::not_sent)?;
        let answer = match is_away(self.home) {
            false => receiver.await.ok(),
            true => Box::pin(self.mailbox.await_elsewhere(receiver)).await,
        };
        answer.unwrap_or_else(|| Err(lost(1)))
    }

    /// `count` packed requests and their answers.
    pub(super) async fn exchange<R: Receive>(
        &self,
        packed: &[u8],
        count: usize,
        ending: Ending,
        limit: Limit,
    ) -> Answers<R> {
        self.exchange_metered(packed, count, ending, limit, None)
            .await
    }

    /// `count` packed requests and their answers, whose bytes `meter` counts as far as they are left unread.
    pub(super) async fn exchange_metered<R: Receive>(
        &self,
        packed: &[u8],
        count: usize,
        ending: Ending,
        limit: Limit,
        meter: Option<Meter>,
    ) -> Answers<R> {
        if count == 0 {
            // Nobody would ever tell whoever waits for no answer.
            return Answers::default();
        }
        let (sender, receiver) = oneshot::channel();
        let write = |out: &mut Vec<u8>| out.extend_from_slice(packed);
        let reply = R::reply(sender);
        match self
            .mailbox
            .hand_over(write, count, ending, limit, reply, meter)
        {
            Ok(()) => {
                let answers = match is_away(self.home) {
                    false => receiver.await.ok(),
                    true => Box::pin(self.mailbox.await_elsewhere(receiver)).await,
                };
                answers.unwrap_or_else(|| Answers::failed(lost(count)))
            }
            Err(cause) => Answers::failed(Failure::not_sent(cause)),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.mailbox.state.lock().abandoned = true;
        self.mailbox.wake();
    }
}

/// Whether what lives on this runtime may not be run while the caller's is.
pub(super) fn is_away(home: Option<Id>) -> bool {
    home.is_some_and(|home| Handle::try_current().is_ok_and(|here| here.id() != home))
}

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) start: Instant,
    pub(super) length: Option<Duration>,
}

impl Limit {
    pub(super) fn start(length: Option<Duration>) -> Self {
        Self {
            start: Instant::now(),
            length,
        }
    }

    pub(super) fn end(&self) -> Option<Instant> {
        self.length
            .and_then(|length| self.start.checked_add(length))
    }

    /// Whether it has passed.
    pub(super) fn is_over(&self) -> bool {
        self.end().is_some_and(|end| end <= Instant::now())
    }
}

/// No answer within this time.
pub(super) fn missed(limit: Duration) -> Cause {
    Cause::Timeout(format!("no answer within {limit:?}"))
}

impl Mail {
    /// Has the driver waked when something comes.
    pub(super) fn sleep(&mut self, cx: &Context<'_>) {
        match &mut self.sleeper {
            Some(sleeper) => sleeper.clone_from(cx.waker()),
            sleeper => *sleeper = Some(cx.waker().clone()),
        }
    }
}

impl Mailbox {
    /// Hands a request to the driver. From here on it will be carried out, whoever waits for it or not.
    fn hand_over(
        &self,
        write: impl FnOnce(&mut Vec<u8>),
        count: usize,
        ending: Ending,
        limit: Limit,
        reply: Reply,
        meter: Option<Meter>,
    ) -> Result<(), Cause> {
        let mut mail = self.state.lock();
        if let Some(cause) = &mail.closed {
            return Err(cause.clone());
        }
        let waiters = mail.arrivals.len() * size_of::<Waiter>();
        if mail.outgoing.len() + waiters > OUTGOING_BYTES_MAX {
            return Err(Cause::PoolTimeout(format!(
                "{OUTGOING_BYTES_MAX} bytes of requests wait to be sent already"
            )));
        }
        let before = mail.outgoing.len();
        write(&mut mail.outgoing);
        let bytes = mail.outgoing.len() - before;
        mail.arrivals.push(Waiter {
            bytes,
            missing: count,
            count,
            ending,
            values: Vec::new(),
            frames: Frames::with_meter(meter),
            handed_over: limit.start,
            deadline: limit.end(),
            reply: Some(reply),
        });
        let sleeper = mail.sleeper.take();
        drop(mail);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        Ok(())
    }

    /// Wakes the driver.
    fn wake(&self) {
        let sleeper = self.state.lock().sleeper.take();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Waits for an answer on another runtime than the driver's. A driver that is not run says nothing of time either, so it
    /// is asked for a sign of life; without one the connection is given up, and what the driver has not taken is not sent.
    async fn await_elsewhere<T>(&self, mut answer: oneshot::Receiver<T>) -> Option<T> {
        loop {
            self.run.store(false, Ordering::Relaxed);
            self.wake();
            if let Ok(answer) = tokio::time::timeout(SIGN_OF_LIFE, &mut answer).await {
                return answer.ok();
            }
            if !self.run.load(Ordering::Relaxed) {
                self.close(&Cause::Dropped(
                    "the runtime of the connection is not run".into(),
                ));
                return answer.try_recv().ok();
            }
        }
    }

    /// Takes no more requests. Those that the driver has not taken are not sent.
    pub(super) fn close(&self, cause: &Cause) {
        let mut mail = self.state.lock();
        mail.closed = Some(cause.clone());
        mail.outgoing = Vec::new();
        mail.look = None;
        let arrivals = std::mem::take(&mut mail.arrivals);
        drop(mail);
        for mut waiter in arrivals {
            waiter.finish(Some(Failure::not_sent(cause.clone())));
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mail = self.state.lock();
        f.debug_struct("Mailbox")
            .field("outgoing", &mail.outgoing.len())
            .field("closed", &mail.closed)
            .finish_non_exhaustive()
    }
}

impl Waiter {
    /// Whether nobody wants to read the answers here.
    #[inline]
    pub(super) fn leaves_unread(&self) -> bool {
        matches!(self.reply, None | Some(Reply::Unread(_)))
    }

    /// Whether nobody waits for the answers any more.
    fn is_abandoned(&self) -> bool {
        matches!(&self.reply, Some(Reply::Unread(sender)) if sender.is_closed())
    }

    /// So many bytes of an answer are of use to somebody.
    pub(super) fn keeps(&self) -> usize {
        match &self.reply {
            Some(_) if !self.is_abandoned() => self.ending.keeps(self.frames.byte_count()),
            _ => 0,
        }
    }

    /// Takes one answer.
    pub(super) fn take(&mut self, value: Value) -> Taken {
        let taken = self.count_down(|ending| ending.is_met_by(&value));
        match &self.reply {
            Some(Reply::One(_)) => {
                if let Some(Reply::One(sender)) = self.reply.take() {
                    // Who asked may have gone.
                    let _ = sender.send(Ok(value));
                }
            }
            Some(_) => {
                if self.values.is_empty() {
                    self.values.reserve_exact(self.count);
                }
                self.values.push(value);
                if self.missing == 0 {
                    self.finish(None);
                }
            }
            None => {}
        }
        taken
    }

    /// Takes one answer unread.
    #[inline]
    pub(super) fn take_frame(&mut self, frame: &[u8]) -> Taken {
        let taken = self.count_down(|ending| ending.is_met_by_frame(frame));
        if self.frames.byte_count() > ABANDONED_BYTES_MIN && self.is_abandoned() {
            self.reply = None;
            self.frames = Frames::default();
        }
        if self.reply.is_some() {
            self.frames.push(frame);
            if self.missing == 0 {
                self.finish(None);
            }
        }
        taken
    }

    #[inline]
    fn count_down(&mut self, is_met: impl FnOnce(Ending) -> bool) -> Taken {
        self.missing -= 1;
        match self.missing {
            0 if is_met(self.ending) => Taken::Last,
            0 => Taken::BadLast,
            _ => Taken::More,
        }
    }

    /// Tells who asked that there will be no more answers.
    pub(super) fn finish(&mut self, failure: Option<Failure>) {
        match (self.reply.take(), failure) {
            (Some(Reply::One(sender)), Some(failure)) => drop(sender.send(Err(failure))),
            (Some(Reply::Many(sender)), failure) => {
                let values = std::mem::take(&mut self.values);
                drop(sender.send(Answers { values, failure }));
            }
            (Some(Reply::Unread(sender)), failure) => {
                let values = std::mem::take(&mut self.frames);
                drop(sender.send(Answers { values, failure }));
            }
            _ => {}
        }
    }
}

/// The driver is gone with the runtime it lived on.
fn lost(count: usize) -> Failure {
    Failure {
        cause: Cause::Dropped("the runtime of the connection has ended".into()),
        sent: count,
    }
}
