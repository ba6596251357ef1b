//! The requests by which a client finds out whether a node serves requests again, and by which it empties the node; the
//! flushes that nodes miss because they are out.

use std::sync::Arc;

use redis::Value;

use crate::plan::Router;
use crate::policy::{ConnectError, Ejection, Flush, FlushLog, ProbeOutcome, Refusal, Refusals};
use crate::resp::PING;

const PING_AND_ROLE: &[u8] = b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nROLE\r\n";
const FLUSHALL_ASYNC: &[u8] = b"*2\r\n$8\r\nFLUSHALL\r\n$5\r\nASYNC\r\n";
const FLUSHDB_ASYNC: &[u8] = b"*2\r\n$7\r\nFLUSHDB\r\n$5\r\nASYNC\r\n";

/// The probes of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProbeRequest {
    refusals: Refusals,
}

impl ProbeRequest {
    /// Probes that fail as this says.
    pub(crate) fn new(ejection: &Ejection) -> Self {
        Self {
            refusals: ejection.refusals(),
        }
    }

    /// The packed request, and its number of replies.
    pub(crate) fn packed(self) -> (&'static [u8], usize) {
        // PING is refused by a server that is loading or has lost its primary, but not by a replica.
        match self.refusals.contains(Refusal::ReadOnly) {
            true => (PING_AND_ROLE, 2),
            false => (PING, 1),
        }
    }

    /// What the replies say.
    pub(crate) fn outcome(self, replies: &[Value]) -> ProbeOutcome {
        match replies {
            [Value::ServerError(error), ..] => self.refused(error.code()),
            // A user that may not ask for the role is no reason to leave the node out.
            [_, Value::Array(role)] if is_replica(role) => ProbeOutcome::Failed,
            _ => ProbeOutcome::Passed,
        }
    }

    /// The outcome of a probe that got no connection.
    pub(crate) fn connect_failed(self, error: &ConnectError) -> ProbeOutcome {
        match error {
            ConnectError::Unreachable(_) | ConnectError::PrimaryChanged => ProbeOutcome::Failed,
            ConnectError::Refused(line) => self.refused(line.split(' ').next().unwrap_or_default()),
            ConnectError::Auth(_)
            | ConnectError::Certificate(_)
            | ConnectError::FailedBefore
            | ConnectError::NoSuchMaster(_)
            | ConnectError::Stale(_)
            | ConnectError::Superseded => ProbeOutcome::Refused,
        }
    }

    fn refused(self, code: &str) -> ProbeOutcome {
        match Refusal::of_code(code.as_bytes()) {
            Some(refusal) if self.refusals.contains(refusal) => ProbeOutcome::Failed,
            // The user may not send PING, which the server has looked up.
            None if code == "NOPERM" => ProbeOutcome::Passed,
            _ => ProbeOutcome::Refused,
        }
    }
}

impl Flush {
    /// The packed request. The keys are gone before its reply; their memory is freed later.
    pub(crate) fn packed(self) -> &'static [u8] {
        match self {
            Self::All => FLUSHALL_ASYNC,
            Self::Database => FLUSHDB_ASYNC,
        }
    }
}

impl Router {
    /// Sets where flushes are recorded that nodes miss because they are out. Defaults to nowhere.
    #[must_use]
    pub(crate) fn with_flush_log(mut self, log: Option<Arc<FlushLog>>) -> Self {
        self.flush_log = log;
        self
    }

    /// Called with each command that is about to be sent to all nodes that are in.
    pub(in crate::plan) fn record_flush(&self, args: &[&[u8]]) {
        let flush = args.first().and_then(|name| Flush::of_command(name));
        if let (Some(log), Some(flush)) = (&self.flush_log, flush)
            && !self.topology().out().is_empty()
        {
            log.record(flush);
        }
    }
}

/// True if this reply to ROLE is that of a replica.
fn is_replica(role: &[Value]) -> bool {
    match role.first() {
        Some(Value::BulkString(name)) => name == b"slave",
        Some(Value::SimpleString(name)) => name == "slave",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> Value {
        Value::ServerError(crate::error::server_error(code, "no"))
    }

    #[test]
    fn probe_replies_count_as_chosen() {
        use ProbeOutcome::{Failed, Passed, Refused};
        let plain = ProbeRequest::new(&Ejection::new());
        let all = [Refusal::Loading, Refusal::MasterDown, Refusal::ReadOnly];
        let strict = ProbeRequest::new(&Ejection::new().with_refusals(&all));
        let pong = Value::SimpleString("PONG".into());
        let role = |name: &str| Value::Array(vec![Value::BulkString(name.into()), Value::Int(1)]);
        let rows = [
            (vec![pong.clone()], Passed, Passed),
            (vec![error("LOADING")], Refused, Failed),
            (vec![error("MASTERDOWN")], Refused, Failed),
            (vec![error("NOPERM")], Passed, Passed),
            (vec![error("NOAUTH")], Refused, Refused),
            (vec![error("BUSY")], Refused, Refused),
            (vec![pong.clone(), role("master")], Passed, Passed),
            (vec![pong.clone(), role("slave")], Failed, Failed),
            (vec![pong, error("NOPERM")], Passed, Passed),
        ];
        for (replies, by_plain, by_strict) in rows {
            assert_eq!(plain.outcome(&replies), by_plain, "{replies:?}");
            assert_eq!(strict.outcome(&replies), by_strict, "{replies:?}");
        }
        let loading = ConnectError::Refused("LOADING no".into());
        assert_eq!(plain.connect_failed(&loading), Refused);
        assert_eq!(strict.connect_failed(&loading), Failed);
        assert_eq!(plain.packed().1, 1);
        assert_eq!(strict.packed().1, 2);
    }
}
