//! What a missing answer means, and whether the request may be sent again.

use std::fmt;
use std::io;

use redis::Value;

use crate::command::Access;
use crate::error::{Error, ErrorKind, Retry};
use crate::plan::batch::ReplySlot;
use crate::policy::{ConnectError, broken_text, is_timeout};

/// How often a request is resent after its connection broke, when resending is safe.
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
    Connect(ConnectError),
    /// The connection broke.
    Dropped(String),
    /// No connection of the pool became free before the deadline.
    PoolTimeout(String),
    /// No answer, or no connection, before the deadline.
    Timeout(String),
}

/// Which of a node's pools a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolUse {
    /// For requests that are answered at once.
    Shared,
    /// For blocking commands, transactions and dedicated connections.
    Exclusive,
}

impl Cause {
    /// No reply before the deadline.
    pub(crate) fn no_reply() -> Self {
        Self::Timeout("no reply in time".to_owned())
    }

    /// The deadline of the request was over before there was a connection to `address`; the node may be well.
    pub(crate) fn no_connection_in_time(address: &str) -> Self {
        Self::Timeout(format!("no connection to {address} in time"))
    }

    /// Every connection of a pool to `address` stayed in use until the deadline.
    pub(crate) fn pool_exhausted(address: &str, of: PoolUse) -> Self {
        let (which, setting) = match of {
            PoolUse::Shared => ("", "pool_size"),
            PoolUse::Exclusive => (
                " for blocking commands, transactions and dedicated connections",
                "blocking_pool_size",
            ),
        };
        Self::PoolTimeout(format!(
            "all connections to {address}{which} stayed in use; raise `Builder::{setting}`, or send fewer requests at a \
             time"
        ))
    }

    /// Reading or writing failed.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match is_timeout(error) {
            true => Self::no_reply(),
            false => Self::Dropped(broken_text(error)),
        }
    }

    /// A dedicated connection has failed before.
    pub(crate) fn failed_before() -> Self {
        Self::Connect(ConnectError::FailedBefore)
    }
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
            _ if self.is_final() => "",
            ErrorKind::Auth => {
                "; check `Builder::password`, or the username and password in its URL"
            }
            ErrorKind::NodeDown => {
                "; nothing was changed, so it can be repeated when the node is back"
            }
            ErrorKind::Timeout => {
                "; nothing was changed, so it can be repeated; if the node is only slow, raise \
                 `Builder::response_timeout`"
            }
            ErrorKind::Unknown => {
                "; the command was sent and may or may not have been applied; check before you repeat it"
            }
            _ => "",
        };
        self.about(node, kind, format!("node {node}: {}{advice}", self.cause))
    }

    /// The error for a request of a pipeline behind another one that failed for the same reason: the reason stands in the
    /// first error only, so that a long pipeline over a dead node stays short.
    pub(crate) fn error_again(&self, node: &str, number: usize, access: Access) -> Error {
        let kind = self.kind(number, access);
        self.about(
            node,
            kind,
            format!("node {node}: same failure as an earlier command"),
        )
    }

    fn about(&self, node: &str, kind: ErrorKind, text: String) -> Error {
        let error = Error::new(kind, text).at_node(node);
        match self.is_final() {
            true => error.with_retry(Retry::Unsafe),
            false => error,
        }
    }

    /// Whether each later request fails in the same way.
    fn is_final(&self) -> bool {
        matches!(self.cause, Cause::Connect(ConnectError::FailedBefore))
    }

    fn kind(&self, number: usize, access: Access) -> ErrorKind {
        let sent = number < self.sent;
        match (&self.cause, sent, access) {
            (Cause::PoolTimeout(_), _, _) => ErrorKind::PoolTimeout,
            (_, true, Access::Write) => ErrorKind::Unknown,
            (Cause::Connect(ConnectError::Auth(_)), _, _) => ErrorKind::Auth,
            (Cause::Timeout(_), _, _) => ErrorKind::Timeout,
            (Cause::Connect(_) | Cause::Dropped(_), _, _) => ErrorKind::NodeDown,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
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
    fn resend_repeats_a_read_without_a_reply() {
        let slots = slots(&[Access::Write, Access::Read, Access::Read]);
        assert_eq!(dropped(3).resend(1, &slots), Resend::From(1));
    }

    #[test]
    fn resend_never_repeats_a_write_without_a_reply() {
        let slots = slots(&[Access::Read, Access::Write, Access::Read]);
        assert_eq!(dropped(3).resend(0, &slots), Resend::No);
        assert_eq!(
            dropped(3).error("a", 1, Access::Write).kind(),
            ErrorKind::Unknown
        );
    }

    #[test]
    fn resend_sends_a_write_that_was_never_sent() {
        let slots = slots(&[Access::Write, Access::Write]);
        assert_eq!(dropped(1).resend(1, &slots), Resend::From(1));
        assert_eq!(dropped(0).resend(0, &slots), Resend::From(0));
        assert_eq!(
            dropped(0).error("a", 0, Access::Write).kind(),
            ErrorKind::NodeDown
        );
    }

    #[test]
    fn resend_never_repeats_a_read_that_timed_out() {
        let failure = Failure {
            cause: Cause::Timeout("late".into()),
            sent: 1,
        };
        assert_eq!(failure.resend(0, &slots(&[Access::Read])), Resend::No);
        assert_eq!(
            failure.error("a", 0, Access::Read).kind(),
            ErrorKind::Timeout
        );
    }

    /// Every cause, with the kind for a read, for a write that was sent, and for a write that was not.
    #[test]
    fn each_failure_cause_has_its_error_kind_and_retryable_flag() {
        use ErrorKind::{Auth, NodeDown, PoolTimeout, Timeout, Unknown};
        let causes = [
            (
                Cause::Connect("refused".into()),
                [NodeDown, Unknown, NodeDown],
            ),
            (
                Cause::Connect(ConnectError::Auth("refused".into())),
                [Auth, Unknown, Auth],
            ),
            (Cause::Dropped("gone".into()), [NodeDown, Unknown, NodeDown]),
            (Cause::failed_before(), [NodeDown, Unknown, NodeDown]),
            (
                Cause::pool_exhausted("h:1", PoolUse::Shared),
                [PoolTimeout, PoolTimeout, PoolTimeout],
            ),
            (Cause::no_reply(), [Timeout, Unknown, Timeout]),
            (
                Cause::no_connection_in_time("h:1"),
                [Timeout, Unknown, Timeout],
            ),
        ];
        for (cause, kinds) in causes {
            let requests = [(1, Access::Read), (1, Access::Write), (0, Access::Write)];
            for ((sent, access), kind) in requests.into_iter().zip(kinds) {
                let failure = Failure {
                    cause: cause.clone(),
                    sent,
                };
                for error in [
                    failure.error("cache-a", 0, access),
                    failure.error_again("cache-a", 0, access),
                ] {
                    assert_eq!(error.kind(), kind, "{cause:?} {sent} {access:?}");
                    assert_eq!(error.node(), Some("cache-a"), "{error}");
                    assert!(error.to_string().starts_with("node cache-a: "), "{error}");
                    let retryable = !matches!(kind, Auth | Unknown) && !failure.is_final();
                    assert_eq!(error.is_retryable(), retryable, "{error:?}");
                }
            }
        }
    }

    #[test]
    fn io_errors_are_timeouts_or_broken_connections() {
        for (kind, timeout) in [
            (io::ErrorKind::TimedOut, true),
            (io::ErrorKind::WouldBlock, true),
            (io::ErrorKind::ConnectionReset, false),
            (io::ErrorKind::InvalidData, false),
        ] {
            let cause = Cause::of_io(&kind.into());
            assert_eq!(matches!(cause, Cause::Timeout(_)), timeout, "{kind:?}");
        }
    }
}
