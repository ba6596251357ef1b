//! One connection that many requests share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;

use crate::command::{Args, PackedCommands};
use crate::plan::{Answers, Cause, Ending, Failure, Frames, Row};
use crate::reply::Protocol;

/// So many bytes of requests may wait for one connection to take them. What comes then is refused: a node that far behind
/// would not answer it in time.
const OUTGOING_BYTES_MAX: usize = 256 << 20;

/// A connection to one node. Requests are written in the order in which they are handed over, and answered in that order.
/// Closed when the last handle is dropped.
#[derive(Debug)]
pub(super) struct Link {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A socket of our own and the task that drives it.
    Plain(Arc<Mailbox>),
    /// redis-rs' connection: TLS, special socket options.
    RedisRs {
        connection: MultiplexedConnection,
        protocol: Protocol,
        closed: AtomicBool,
    },
}

/// Where requests wait for the driver.
#[derive(Default)]
pub(super) struct Mailbox {
    pub(super) state: Mutex<Mail>,
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
    pub(super) fn plain(mailbox: Arc<Mailbox>) -> Self {
        Self {
            kind: Kind::Plain(mailbox),
        }
    }

    pub(super) fn redis_rs(connection: MultiplexedConnection, protocol: Protocol) -> Self {
        Self {
            kind: Kind::RedisRs {
                connection,
                protocol,
                closed: AtomicBool::new(false),
            },
        }
    }

    /// Makes it carry out what was handed over even if nobody waits for it.
    pub(super) fn leave_when_answered(&self) {
        if let Kind::Plain(mailbox) = &self.kind {
            mailbox.state.lock().leave = Leave::WhenAnswered;
        }
    }

    /// Whether it is no more.
    pub(super) fn is_closed(&self) -> bool {
        match &self.kind {
            Kind::Plain(mailbox) => mailbox.state.lock().closed.is_some(),
            Kind::RedisRs { closed, .. } => closed.load(Ordering::Relaxed),
        }
    }

    /// One request and its answer. `write` appends the request.
    pub(super) async fn call(
        &self,
        write: impl FnOnce(&mut Vec<u8>),
        limit: Limit,
    ) -> Result<Value, Failure> {
        match &self.kind {
            Kind::Plain(mailbox) => {
                let (sender, receiver) = oneshot::channel();
                mailbox
                    .hand_over(write, 1, Ending::Any, limit, Reply::One(sender))
                    .map_err(Failure::not_sent)?;
                receiver.await.unwrap_or_else(|_| Err(lost(1)))
            }
            Kind::RedisRs { .. } => {
                let mut packed = Vec::new();
                write(&mut packed);
                let answers: Answers = self.exchange(&packed, 1, Ending::Any, limit).await;
                match (answers.values.into_iter().next(), answers.failure) {
                    (Some(value), _) => Ok(value),
                    (None, failure) => Err(failure.unwrap_or_else(|| lost(1))),
                }
            }
        }
    }

    /// `count` packed requests and their answers.
    pub(super) async fn exchange<R: Receive>(
        &self,
        packed: &[u8],
        count: usize,
        ending: Ending,
        limit: Limit,
    ) -> Answers<R> {
        if count == 0 {
            // Nobody would ever tell whoever waits for no answer.
            return Answers::default();
        }
        match &self.kind {
            Kind::Plain(mailbox) => {
                let (sender, receiver) = oneshot::channel();
                let write = |out: &mut Vec<u8>| out.extend_from_slice(packed);
                match mailbox.hand_over(write, count, ending, limit, R::reply(sender)) {
                    Ok(()) => receiver
                        .await
                        .unwrap_or_else(|_| Answers::failed(lost(count))),
                    Err(cause) => Answers::failed(Failure::not_sent(cause)),
                }
            }
            Kind::RedisRs {
                connection,
                protocol,
                closed,
            } => {
                let exchange = through_redis_rs(connection.clone(), packed, count, limit);
                let answers = Box::pin(exchange).await;
                let last = answers.values.last();
                if answers.failure.is_some() || !last.is_none_or(|last| ending.is_met_by(last)) {
                    closed.store(true, Ordering::Relaxed);
                }
                Answers {
                    values: R::of_values(answers.values, *protocol),
                    failure: answers.failure,
                }
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Kind::Plain(mailbox) = &self.kind {
            let mut mail = mailbox.state.lock();
            mail.abandoned = true;
            let sleeper = mail.sleeper.take();
            drop(mail);
            if let Some(sleeper) = sleeper {
                sleeper.wake();
            }
        }
    }
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

    /// What to say when it is over.
    pub(super) fn missed(&self) -> Cause {
        missed(self.length.unwrap_or_default())
    }
}

/// No answer within this time.
pub(super) fn missed(limit: Duration) -> Cause {
    Cause::Timeout(format!("no answer within {limit:?}"))
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
    ) -> Result<(), Cause> {
        let mut mail = self.state.lock();
        if let Some(cause) = &mail.closed {
            return Err(cause.clone());
        }
        if mail.outgoing.len() > OUTGOING_BYTES_MAX {
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
            frames: Frames::default(),
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

    /// So many bytes of an answer are of use to somebody.
    pub(super) fn keeps(&self) -> usize {
        match &self.reply {
            Some(_) => self.ending.keeps(),
            None => 0,
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

async fn through_redis_rs(
    mut connection: MultiplexedConnection,
    packed: &[u8],
    count: usize,
    limit: Limit,
) -> Answers {
    let pipeline = unpack(packed);
    let send = connection.send_packed_commands(&pipeline, 0, count);
    let result = match limit.end() {
        Some(end) => tokio::time::timeout_at(end.into(), send).await,
        None => Ok(send.await),
    };
    let cause = match result {
        Ok(Ok(values)) => {
            return Answers {
                values,
                failure: None,
            };
        }
        Ok(Err(error)) if error.is_timeout() => limit.missed(),
        Ok(Err(error)) => Cause::Dropped(error.to_string()),
        Err(_) => limit.missed(),
    };
    Answers::failed(Failure { cause, sent: count })
}

/// Packed requests as redis-rs' pipeline, for its own connection takes nothing else.
fn unpack(packed: &[u8]) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    let mut commands = PackedCommands::new(packed);
    let mut args = Args::new();
    while let Ok(Some(_)) = commands.next(&mut args) {
        let mut cmd = redis::Cmd::new();
        for arg in &args {
            cmd.arg(*arg);
        }
        pipeline.add_command(cmd);
    }
    pipeline
}
