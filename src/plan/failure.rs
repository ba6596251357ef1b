//! The meaning of a missing reply, and whether its request may be sent again.
//!
//! * [`Answers`]: the replies of one node, and a [`Failure`] if there are fewer replies than requests.
//! * [`Failure`]: a [`Cause`], and the number of requests that may have reached the node.
//!
//! `retries` decides from them whether there is another attempt.
//!
//! A connection that breaks under five requests:
//!
//! ```text
//! request      0       1       2       3       4
//!              reply   reply   sent    sent    not sent
//!                              ▲               ▲
//!             values.count() = 2        sent = 4
//!
//! 0, 1   have their replies
//! 2, 3   sent without a reply: reads may be resent; a write fails with `Unknown`, it may have been applied
//! 4      certainly not sent: may be resent, also a write
//! ```
//!
//! Requests are resent only from the first without a reply on, all of them or none, so their order never
//! changes.

use std::borrow::Cow;
use std::fmt;
use std::io;

use redis::Value;

use crate::command::{Access, Merge};
use crate::error::{Error, ErrorKind, Retry};
use crate::plan::batch::ReplySlot;
use crate::plan::key_by_key::join_values;
use crate::policy::{ConnectError, IoFailure, is_timeout};

/// The replies of one node to its requests.
///
/// The requests are numbered from 0 in the order in which they were sent. An executor sets `failure` whenever
/// there are fewer replies than requests.
#[derive(Debug, Default)]
pub(crate) struct Answers<R = Vec<Value>> {
    /// Replies to the first requests, in order; `values.count()` is the number of the first request without a
    /// reply.
    pub(crate) values: R,
    /// Why the remaining replies are missing; `None` when there are none missing. Boxed, because it is rare and
    /// answers are moved for every node of every pipeline.
    pub(crate) failure: Option<Box<Failure>>,
}

/// Consecutive replies, decoded or as raw frames.
pub(crate) trait ReplyBuffer: Default {
    /// Number of replies.
    fn count(&self) -> usize;
    /// Keeps the first `count` replies and drops the others.
    fn keep(&mut self, count: usize);
    /// Appends replies that were received later.
    fn join(&mut self, more: Self);
    /// Drops every reply whose number `is_kept` does not return true for.
    fn retain(&mut self, is_kept: impl Fn(usize) -> bool);
    /// Puts the replies to a command that was sent key by key in the place of reply number `number`, as one. The reply
    /// stays if they cannot be joined.
    fn replace_with_joined(&mut self, number: usize, replies: &[(&Self, usize)], merge: Merge);
    /// Puts an error in the place of reply number `number`.
    fn replace_with_error(&mut self, number: usize, error: &Error);
    /// Appends an error as the next reply.
    fn push_error(&mut self, error: &Error);
    /// The code of reply number `number` if it is an error.
    fn error_code(&self, number: usize) -> Option<&[u8]>;
    /// True if the server has refused a write because it is a replica.
    fn shows_a_replica(&self) -> bool {
        (0..self.count())
            .any(|number| self.error_code(number) == Some(REFUSED_BY_REPLICA.as_bytes()))
    }
    /// The text behind the code of reply number `number` if it is an error.
    fn error_text(&self, number: usize) -> Option<&[u8]>;
    /// Reply number `number`, decoded. `None` if it is not there, or was not kept.
    fn decoded(&self, number: usize) -> Option<Cow<'_, Value>>;
    /// Number of replies that are errors.
    fn error_count(&self) -> usize {
        let is_error = |number: &usize| self.error_code(*number).is_some();
        (0..self.count()).filter(is_error).count()
    }
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

    fn retain(&mut self, is_kept: impl Fn(usize) -> bool) {
        let mut number = 0..;
        // The range has no end.
        Vec::retain(self, |_| number.next().is_some_and(&is_kept));
    }

    fn replace_with_joined(&mut self, number: usize, replies: &[(&Self, usize)], merge: Merge) {
        let values = replies.iter().map(|(values, number)| values.get(*number));
        let joined = values
            .collect::<Option<Vec<_>>>()
            .and_then(|values| join_values(&values, merge));
        if let (Some(place), Some(joined)) = (self.get_mut(number), joined) {
            *place = joined;
        }
    }

    fn replace_with_error(&mut self, number: usize, error: &Error) {
        if let Some(place) = self.get_mut(number) {
            *place = error.to_reply();
        }
    }

    fn push_error(&mut self, error: &Error) {
        self.push(error.to_reply());
    }

    fn decoded(&self, number: usize) -> Option<Cow<'_, Value>> {
        self.get(number).map(Cow::Borrowed)
    }

    fn error_code(&self, number: usize) -> Option<&[u8]> {
        match self.get(number)? {
            Value::ServerError(error) => Some(error.code().as_bytes()),
            _ => None,
        }
    }

    fn error_text(&self, number: usize) -> Option<&[u8]> {
        match self.get(number)? {
            Value::ServerError(error) => error.details().map(str::as_bytes),
            _ => None,
        }
    }
}

/// The error code with which a replica refuses a write.
const REFUSED_BY_REPLICA: &str = "READONLY";

/// True for a reply with which a replica refuses a write.
pub(crate) fn is_of_replica(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == REFUSED_BY_REPLICA)
}

/// Why a node sent no further reply.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The reason, as the executor saw it.
    pub(crate) cause: Cause,
    /// Number of requests that may have reached the node, counted from the first one and including those with
    /// replies.
    ///
    /// Requests from this number on were certainly not sent. An executor that does not know chooses the
    /// larger number: too large a number costs a resend, too small a number may run a write twice.
    pub(crate) sent: usize,
}

/// The cause of a request that got no connection.
impl From<ConnectError> for Cause {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Superseded => Self::Superseded,
            error => Self::Connect(error),
        }
    }
}

/// The reason of a failure.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// No connection: refused, unreachable, wrong password, or not attempted because the node is known to be
    /// down. The request may go to another node.
    Connect(ConnectError),
    /// The connection broke. The request may be resent on a new one, or go to another node.
    Dropped(IoFailure),
    /// No connection of the pool became free before the deadline. Nothing was sent, and no time is left.
    PoolTimeout(String),
    /// No reply, or no connection, before the deadline. No time is left for anything else.
    Timeout(String),
    /// The deadline passed before the node was asked, which says nothing about the node.
    NoTime,
    /// The request was planned by a topology that is no longer the one of its connection. Nothing was sent, and it must
    /// be planned again.
    Superseded,
    /// The keys are being moved to other nodes. Nothing was sent. The text says which key, and why it had to wait.
    Moving(String),
}

/// The pool of a node that a request takes its connection from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolUse {
    /// For requests that the server replies to without blocking.
    Shared,
    /// For blocking commands, transactions and dedicated connections.
    Exclusive,
}

impl Cause {
    /// True if the connection that was to be used is as it was before, and may be used further.
    pub(crate) fn keeps_connection(&self) -> bool {
        matches!(self, Self::Superseded)
    }

    /// The deadline passed before the request was sent.
    pub(crate) fn no_time_left() -> Self {
        Self::NoTime
    }

    /// No reply before the deadline.
    pub(crate) fn no_reply() -> Self {
        Self::Timeout("timed out: no reply in time".to_owned())
    }

    /// The deadline of the request passed before there was a connection to `address`. The node itself may be up.
    pub(crate) fn no_connection_in_time(address: &str) -> Self {
        Self::Timeout(format!("timed out: no connection to {address} in time"))
    }

    /// The server that was chosen is no longer one of its node.
    pub(crate) fn server_left() -> Self {
        Self::Connect("the replica has left the node".into())
    }

    /// The server closed a connection that nobody used.
    pub(crate) fn closed_while_idle() -> Self {
        Self::of_io(&io::ErrorKind::UnexpectedEof.into())
    }

    /// Every connection of a pool to `address` stayed in use until the deadline. The text names the setting
    /// to raise.
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

    /// Reading from or writing to a connection failed.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        // The timeouts of a socket are set from the deadline of the request, so one that expires is the
        // deadline itself.
        match is_timeout(error) {
            true => Self::no_reply(),
            false => Self::Dropped(IoFailure::broken(error)),
        }
    }

    /// The kind of the I/O error on which redis-rs' predicates are based. `None` for a refused password.
    fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Connect(error) => error.io_kind(),
            Self::Dropped(failure) => Some(failure.kind),
            Self::PoolTimeout(_) | Self::Timeout(_) | Self::NoTime => Some(io::ErrorKind::TimedOut),
            // A refusal of the client itself.
            Self::Superseded | Self::Moving(_) => None,
        }
    }

    /// The error for events and health of `node`: it concerns no request, so it has no advice.
    pub(crate) fn to_error(&self, node: &str) -> Error {
        let failure = Failure::not_sent(self.clone());
        if let Self::Connect(error) = self
            && error.is_refusal()
        {
            return failure.without_answer(node);
        }
        let kind = failure.kind(0, Access::Read);
        failure.about(node, kind, format!("node {node}: {self}"))
    }

    /// The dedicated connection broke earlier, and is not replaced.
    pub(crate) fn failed_before() -> Self {
        Self::Connect(ConnectError::FailedBefore)
    }
}

impl Answers {
    /// The result of a single request.
    pub(crate) fn of_call(result: Result<Value, Failure>) -> Self {
        match result {
            Ok(value) => Self {
                values: vec![value],
                failure: None,
            },
            Err(failure) => Self::failed(failure),
        }
    }
}

impl<R: ReplyBuffer> Answers<R> {
    /// A failure without any reply.
    pub(crate) fn failed(failure: Failure) -> Self {
        Self {
            values: R::default(),
            failure: Some(Box::new(failure)),
        }
    }

    /// Appends the result of a resend that began with request number `first`.
    pub(crate) fn append(&mut self, first: usize, more: Self) {
        // The resend counted its requests from 0, so `sent` is shifted into the numbers of the whole.
        self.values.keep(first);
        self.values.join(more.values);
        self.failure = more.failure;
        if let Some(failure) = &mut self.failure {
            failure.sent += first;
        }
    }
}

impl Failure {
    /// A failure of a dedicated connection under `count` requests.
    ///
    /// All of them count as sent unless there was no connection: nothing of them is resent anyway, so the
    /// number decides only between `Unknown` and a retryable error.
    pub(crate) fn on_held_connection(cause: Cause, count: usize) -> Self {
        let sent = match cause {
            Cause::Connect(_) | Cause::NoTime | Cause::Superseded | Cause::Moving(_) => 0,
            Cause::Dropped(_) | Cause::PoolTimeout(_) | Cause::Timeout(_) => count,
        };
        Self { cause, sent }
    }

    /// A failure before any request was sent.
    pub(crate) fn not_sent(cause: Cause) -> Self {
        Self { cause, sent: 0 }
    }

    /// True if the requests without a reply may be resent, when `answered` requests have replies: each of them
    /// was not sent or is a read.
    pub(crate) fn may_resend_rest(&self, answered: usize, slots: &[ReplySlot]) -> bool {
        // What has a reply was sent, whatever the executor counted; `slots` bounds the slice.
        let sent = self.sent.clamp(answered, slots.len());
        slots[answered..sent]
            .iter()
            .all(|slot| slot.access == Access::Read)
    }

    /// True if request number `number` may be sent again, or to another node: it was not sent, or is a read.
    pub(crate) fn may_send(&self, number: usize, access: Access) -> bool {
        number >= self.sent || access == Access::Read
    }

    /// True if the deadline has passed, so that nothing may have gone wrong but the time.
    pub(crate) fn is_out_of_time(&self) -> bool {
        match self.cause {
            Cause::PoolTimeout(_) | Cause::Timeout(_) | Cause::NoTime => true,
            Cause::Connect(_) | Cause::Dropped(_) | Cause::Superseded | Cause::Moving(_) => false,
        }
    }

    /// True if the request was refused before it was sent, as it was planned by a topology that is no longer the newest.
    #[inline]
    pub(crate) fn is_superseded(&self) -> bool {
        matches!(self.cause, Cause::Superseded)
    }

    /// The error for a request that is a read or was not sent: never `Unknown`.
    pub(crate) fn without_answer(&self, node: &str) -> Error {
        self.error(node, 0, Access::Read)
    }

    /// The error for request number `number` of those to `node`, with advice for the user.
    pub(crate) fn error(&self, node: &str, number: usize, access: Access) -> Error {
        if let Cause::Connect(error) = &self.cause
            && let Some(refusal) = error.refusal()
        {
            return Error::from_server(&refusal, Some(node));
        }
        let kind = self.kind(number, access);
        let advice = match kind {
            // The cause itself says that the connection is gone for good; "can be repeated" would be wrong
            // advice.
            _ if self.is_final() => "",
            ErrorKind::Auth
                if matches!(self.cause, Cause::Connect(ConnectError::Certificate(_))) =>
            {
                ""
            }
            ErrorKind::Auth => {
                "; check `Builder::username`, `Builder::password` or `Builder::credentials`, or the username and \
                 password in its URL"
            }
            ErrorKind::NodeDown => {
                "; nothing was changed, so it can be repeated when the node is back"
            }
            ErrorKind::Moving => "; nothing was sent, so it can be repeated",
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

    /// The kind of the error for a read.
    pub(in crate::plan) fn kind_of_read(&self) -> ErrorKind {
        self.kind(0, Access::Read)
    }

    /// An error about `node`, which is not retryable if every later request fails too.
    fn about(&self, node: &str, kind: ErrorKind, text: String) -> Error {
        let error = Error::new(kind, text).at_node(node);
        let error = error.with_io(self.cause.io_kind());
        let error = match self.is_of_node() {
            true => error,
            false => error.untried(),
        };
        match self.is_final() {
            true => error.with_retry(Retry::Unsafe),
            false => error,
        }
    }

    /// True if the node was tried, so that the failure says something about it.
    pub(in crate::plan) fn is_of_node(&self) -> bool {
        !matches!(
            self.cause,
            Cause::NoTime | Cause::Superseded | Cause::Moving(_)
        )
    }

    /// True if the node was asked and did not reply in time.
    pub(in crate::plan) fn is_late(&self) -> bool {
        matches!(self.cause, Cause::Timeout(_))
    }

    /// True if every later request over this connection fails too, so that a retry is pointless.
    fn is_final(&self) -> bool {
        matches!(self.cause, Cause::Connect(ConnectError::FailedBefore))
    }

    /// The kind of the error for request number `number`.
    pub(in crate::plan) fn kind(&self, number: usize, access: Access) -> ErrorKind {
        let sent = number < self.sent;
        match (&self.cause, sent, access) {
            // Before the row of writes: without a connection nothing was sent, whatever `sent` says.
            (Cause::PoolTimeout(_), _, _) => ErrorKind::PoolTimeout,
            (
                Cause::Superseded | Cause::Connect(ConnectError::Superseded) | Cause::Moving(_),
                false,
                _,
            ) => ErrorKind::Moving,
            (Cause::Connect(ConnectError::Refused(_)), _, _) => ErrorKind::Redis,
            // Before all other causes: why the reply is missing matters less than that the write may have
            // been applied.
            (_, true, Access::Write) => ErrorKind::Unknown,
            (Cause::Connect(ConnectError::Auth(_) | ConnectError::Certificate(_)), _, _) => {
                ErrorKind::Auth
            }
            (Cause::Connect(ConnectError::NoSuchMaster(_)), _, _) => ErrorKind::Config,
            (Cause::Connect(ConnectError::Stale(_)), _, _) => ErrorKind::Stale,
            (
                Cause::Superseded | Cause::Connect(ConnectError::Superseded) | Cause::Moving(_),
                true,
                _,
            ) => ErrorKind::Moving,
            (Cause::Timeout(_) | Cause::NoTime, _, _) => ErrorKind::Timeout,
            (Cause::Connect(_) | Cause::Dropped(_), _, _) => ErrorKind::NodeDown,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Dropped(failure) => write!(f, "the connection broke: {failure}"),
            Self::PoolTimeout(text) | Self::Timeout(text) => f.write_str(text),
            Self::NoTime => f.write_str("no time was left to send it"),
            Self::Superseded => f.write_str(
                "keys are being moved to other nodes, and the request was planned by a topology that is no longer the \
                 newest",
            ),
            Self::Moving(text) => f.write_str(text),
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
        assert!(dropped(3).may_resend_rest(1, &slots));
    }

    #[test]
    fn resend_never_repeats_a_write_without_a_reply() {
        let slots = slots(&[Access::Read, Access::Write, Access::Read]);
        assert!(!dropped(3).may_resend_rest(0, &slots));
        assert_eq!(
            dropped(3).error("a", 1, Access::Write).kind(),
            ErrorKind::Unknown
        );
    }

    #[test]
    fn resend_sends_a_write_that_was_never_sent() {
        let slots = slots(&[Access::Write, Access::Write]);
        assert!(dropped(1).may_resend_rest(1, &slots));
        assert!(dropped(0).may_resend_rest(0, &slots));
        assert_eq!(
            dropped(0).error("a", 0, Access::Write).kind(),
            ErrorKind::NodeDown
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
            (
                Cause::Connect(ConnectError::Certificate("refused".into())),
                [Auth, Unknown, Auth],
            ),
            (Cause::Dropped("gone".into()), [NodeDown, Unknown, NodeDown]),
            (Cause::failed_before(), [NodeDown, Unknown, NodeDown]),
            (
                Cause::Connect(ConnectError::PrimaryChanged),
                [NodeDown, Unknown, NodeDown],
            ),
            (
                Cause::Connect(ConnectError::NoSuchMaster("none".into())),
                [ErrorKind::Config, Unknown, ErrorKind::Config],
            ),
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
                let error = failure.error("cache-a", 0, access);
                assert_eq!(error.kind(), kind, "{cause:?} {sent} {access:?}");
                assert_eq!(error.node(), Some("cache-a"), "{error}");
                assert!(error.to_string().starts_with("node cache-a: "), "{error}");
                let retryable =
                    !matches!(kind, Auth | Unknown | ErrorKind::Config) && !failure.is_final();
                assert_eq!(error.is_retryable(), retryable, "{error:?}");
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
