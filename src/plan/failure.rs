//! What a missing answer means, and whether the request may be sent again.

use std::fmt;

use redis::Value;

use crate::command::Access;
use crate::error::{Error, ErrorKind};
use crate::plan::batch::ReplySlot;

/// A request that fails with a broken connection is tried on a new one so often, if it may be.
pub(crate) const RESENDS_MAX: usize = 1;

/// What came back from one node.
#[derive(Debug, Default)]
pub(crate) struct Answers<R = Vec<Value>> {
    /// The first so many answers, in order.
    pub(crate) values: R,
    /// Why there are not more.
    pub(crate) failure: Option<Failure>,
}

/// Answers in a row, in whatever form they are kept.
pub(crate) trait ReplyBuffer: Default {
    /// How many there are.
    fn count(&self) -> usize;
    /// Keeps the first `count` of them.
    fn keep(&mut self, count: usize);
    /// Adds those that came later.
    fn join(&mut self, more: Self);
}

impl ReplyBuffer for Vec<Value> {
    fn count(&self) -> usize {
        self.len()
    }

    fn keep(&mut self, count: usize) {
        self.truncate(count);
    }

    fn join(&mut self, more: Self) {
        self.extend(more);
    }
}

/// Why a node gave no further answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    /// Requests from this one on were certainly not sent.
    pub(crate) sent: usize,
}

/// What happened on the way.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// No connection: refused, unreachable, wrong password, or known to be down.
    Connect(String),
    /// The connection broke.
    Dropped(String),
    /// No connection of the pool became free before the deadline.
    PoolTimeout(String),
    /// No answer before the deadline.
    Timeout(String),
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resend {
    /// Ask again on a new connection, from this request on.
    From(usize),
    /// Report it.
    No,
}

impl<R: ReplyBuffer> Answers<R> {
    /// No answer at all.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn failed(failure: Failure) -> Self {
        Self {
            values: R::default(),
            failure: Some(failure),
        }
    }

    /// Adds what came of asking again from request number `first` on.
    pub(crate) fn append(&mut self, first: usize, more: Self) {
        self.values.keep(first);
        self.values.join(more.values);
        self.failure = more.failure.map(|failure| Failure {
            sent: failure.sent + first,
            ..failure
        });
    }
}

impl Cause {
    /// A connection that one user holds is not made again: its state is gone.
    pub(crate) fn failed_before() -> Self {
        Self::Connect("this connection has failed before".into())
    }
}

impl Failure {
    /// A connection that one user holds failed under `count` requests. What was sent of them is not known, unless there was
    /// no connection at all.
    pub(crate) fn on_held_connection(cause: Cause, count: usize) -> Self {
        let sent = match cause {
            Cause::Connect(_) => 0,
            Cause::Dropped(_) | Cause::PoolTimeout(_) | Cause::Timeout(_) => count,
        };
        Self { cause, sent }
    }

    pub(crate) fn not_sent(cause: Cause) -> Self {
        Self { cause, sent: 0 }
    }

    /// Whether what is unanswered may be sent again: what was never sent may, and so may reads; a write whose answer is
    /// missing may not. Only a broken connection is worth it, since a new one may work at once.
    pub(crate) fn resend(&self, answered: usize, slots: &[ReplySlot]) -> Resend {
        let Cause::Dropped(_) = self.cause else {
            return Resend::No;
        };
        let sent = self.sent.clamp(answered, slots.len());
        match slots[answered..sent]
            .iter()
            .all(|slot| slot.access == Access::Read)
        {
            true => Resend::From(answered),
            false => Resend::No,
        }
    }

    /// Whether request number `number` may be sent to another node: it was not sent to this one, or changes nothing.
    pub(crate) fn may_send(&self, number: usize, access: Access) -> bool {
        number >= self.sent || access == Access::Read
    }

    /// The error for a request that changes nothing, or was not sent.
    pub(crate) fn without_answer(&self, node: &str) -> Error {
        self.error(node, 0, Access::Read)
    }

    /// The error for a request that was number `number` of those to `node`.
    pub(crate) fn error(&self, node: &str, number: usize, access: Access) -> Error {
        let kind = self.kind(number, access);
        let advice = match kind {
            ErrorKind::Unknown => {
                "; the command was sent and may or may not have been applied; look before you repeat it"
            }
            _ => "",
        };
        Error::new(kind, format!("node {node}: {}{advice}", self.cause))
    }

    /// The error for a request behind another one of which the cause was told already: a long pipeline over a dead node need
    /// not say it for every command.
    pub(crate) fn error_again(&self, node: &str, number: usize, access: Access) -> Error {
        let kind = self.kind(number, access);
        Error::new(
            kind,
            format!("node {node}: for the same reason as a command before"),
        )
    }

    fn kind(&self, number: usize, access: Access) -> ErrorKind {
        let sent = number < self.sent;
        match (&self.cause, sent, access) {
            (Cause::PoolTimeout(_), _, _) => ErrorKind::PoolTimeout,
            (_, true, Access::Write) => ErrorKind::Unknown,
            _ => ErrorKind::NodeDown,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(text) => write!(f, "no connection: {text}"),
            Self::Dropped(text) => write!(f, "the connection broke: {text}"),
            Self::PoolTimeout(text) | Self::Timeout(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(accesses: &[Access]) -> Vec<ReplySlot> {
        accesses
            .iter()
            .map(|&access| ReplySlot::whole(0, access))
            .collect()
    }

    fn dropped(sent: usize) -> Failure {
        Failure {
            cause: Cause::Dropped("gone".into()),
            sent,
        }
    }

    #[test]
    fn a_read_may_be_asked_again() {
        let slots = slots(&[Access::Write, Access::Read, Access::Read]);
        assert_eq!(dropped(3).resend(1, &slots), Resend::From(1));
    }

    #[test]
    fn a_write_without_an_answer_is_never_sent_again() {
        let slots = slots(&[Access::Read, Access::Write, Access::Read]);
        assert_eq!(dropped(3).resend(0, &slots), Resend::No);
        assert_eq!(
            dropped(3).error("a", 1, Access::Write).kind(),
            ErrorKind::Unknown
        );
    }

    #[test]
    fn what_was_never_sent_may_be_sent_again() {
        let slots = slots(&[Access::Write, Access::Write]);
        assert_eq!(dropped(1).resend(1, &slots), Resend::From(1));
        assert_eq!(dropped(0).resend(0, &slots), Resend::From(0));
        assert_eq!(
            dropped(0).error("a", 0, Access::Write).kind(),
            ErrorKind::NodeDown
        );
    }

    #[test]
    fn a_timeout_is_not_repeated() {
        let failure = Failure {
            cause: Cause::Timeout("late".into()),
            sent: 1,
        };
        assert_eq!(failure.resend(0, &slots(&[Access::Read])), Resend::No);
        assert_eq!(
            failure.error("a", 0, Access::Read).kind(),
            ErrorKind::NodeDown
        );
    }
}
