//! EXEC after a failed WATCH.
//!
//! A transaction that relies on a WATCH must not run when its keys are not watched: it would overwrite what
//! others wrote in between. A server refuses a WATCH only for the number of its arguments or inside MULTI, so
//! programs often ignore its reply. Here a WATCH may also name keys of several nodes, or its node may be
//! down. EXEC is therefore refused from then on, until EXEC, DISCARD, UNWATCH or RESET ends the attempt.
//!
//! ```text
//!            WATCH failed                       WATCH +OK, any other command
//! Intact ─────────────────────▶ Failed          leave the state as it is
//!        ◀─────────────────────
//!   EXEC, DISCARD, UNWATCH, RESET
//! ```

use redis::{RedisError, Value};

use crate::command::{Args, PackedCommands};
use crate::error::{Error, ErrorKind, server_error};
use crate::plan::Router;

/// The outcome of the WATCHes of a connection since the last EXEC, DISCARD, UNWATCH or RESET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WatchState {
    /// Each succeeded, or there was none: EXEC may run.
    #[default]
    Intact,
    /// At least one failed: EXEC must not run.
    Failed,
}

impl WatchState {
    /// The state after one command: `answered` is its reply, or `Err` when it was refused before it was sent.
    pub(crate) fn after(self, args: &[&[u8]], answered: Result<&Value, ()>) -> Self {
        let name = args.first().copied().unwrap_or_default();
        if is_watch(name) {
            return match answered {
                Ok(Value::Okay) => self,
                // Refused because of MULTI: the keys watched before MULTI are watched still.
                Ok(Value::ServerError(error)) if is_inside_multi(error) => self,
                _ => Self::Failed,
            };
        }
        // Any reply ends the attempt, also an error: by sending DISCARD without MULTI a program has given it
        // up all the same.
        match ends_watch(name) && answered.is_ok() {
            true => Self::Intact,
            false => self,
        }
    }

    /// The state after a packed pipeline; `answers` are the replies to its commands, in their order.
    pub(crate) fn after_all(self, packed: &[u8], answers: &[Value]) -> Self {
        // Most pipelines contain no WATCH, and an intact state can only change by one.
        let mut state = self;
        if state == Self::Intact && self.after_refused(packed) == Self::Intact {
            return state;
        }
        let mut args = Args::new();
        let mut commands = PackedCommands::new(packed);
        // By the replies: after a failure there are fewer of them, and the connection is closed anyway.
        for answer in answers {
            match commands.next(&mut args) {
                Ok(Some(_)) => state = state.after(&args, Ok(answer)),
                _ => break,
            }
        }
        state
    }

    /// The state after a packed pipeline was refused as a whole: a WATCH in it has failed. What would have
    /// ended an attempt was not sent, so it ends nothing.
    pub(crate) fn after_refused(self, packed: &[u8]) -> Self {
        let mut args = Args::new();
        let mut commands = PackedCommands::new(packed);
        while let Ok(Some(_)) = commands.next(&mut args) {
            if args.first().is_some_and(|name| is_watch(name)) {
                return Self::Failed;
            }
        }
        self
    }

    /// True if these packed commands contain an EXEC that must not run. One after DISCARD, UNWATCH or RESET
    /// may.
    pub(crate) fn forbids(self, packed: &[u8]) -> bool {
        let mut state = self;
        let mut args = Args::new();
        let mut commands = PackedCommands::new(packed);
        while state == Self::Failed
            && let Ok(Some(_)) = commands.next(&mut args)
        {
            let name = args.first().copied().unwrap_or_default();
            if name.eq_ignore_ascii_case(b"EXEC") {
                return true;
            }
            if ends_watch(name) {
                state = Self::Intact;
            }
        }
        false
    }
}

impl Router {
    /// True if `error` is that of a transaction in a cluster which was not sent: if the watched keys have left its node,
    /// it is aborted, as if one of them had changed.
    pub(crate) fn is_unsent_exec(&self, error: &RedisError) -> bool {
        self.topology().cluster().is_some() && ErrorKind::of(error) == ErrorKind::NodeDown
    }
}

/// The error returned instead of the reply to EXEC: EXECABORT, which programs treat as a transaction that did
/// not take place.
pub(crate) fn exec_abort() -> Error {
    aborted(
        "Transaction discarded because an earlier WATCH failed, so its keys are not watched; WATCH them again",
    )
}

/// The error of a transaction whose WATCH a clone of the client has ended, by EXEC or UNWATCH.
pub(crate) fn watch_ended() -> Error {
    aborted(
        "Transaction discarded because a clone of this client has ended its WATCH; WATCH the keys again",
    )
}

/// The error of a transaction that would run beside the connection that watches keys for it.
pub(crate) fn beside_watch() -> Error {
    Error::new(
        ErrorKind::Stateful,
        "this client watches keys, which `execute_pipeline` does not see; run the transaction with `query` of the \
         pipeline, or end the attempt with UNWATCH",
    )
}

/// True if a packed pipeline contains WATCH.
pub(crate) fn contains_watch(packed: &[u8]) -> bool {
    WatchState::Intact.after_refused(packed) == WatchState::Failed
}

fn aborted(text: &'static str) -> Error {
    let error = server_error("EXECABORT", text);
    Error::new(ErrorKind::Redis, format!("EXECABORT: {text}"))
        .caused_by(std::sync::Arc::new(error.into()))
}

/// True if `name` is WATCH, in any case.
pub(crate) fn is_watch(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"WATCH")
}

/// True for the commands after which a connection watches no key.
pub(in crate::plan) fn ends_watch(name: &[u8]) -> bool {
    ["DISCARD", "EXEC", "RESET", "UNWATCH"]
        .iter()
        .any(|end| name.eq_ignore_ascii_case(end.as_bytes()))
}

/// True for the error of WATCH inside MULTI, recognized by its text: its code is the generic ERR.
fn is_inside_multi(error: &redis::ServerError) -> bool {
    error
        .details()
        .is_some_and(|text| text.starts_with("WATCH inside MULTI"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(requests: &[&str]) -> Vec<u8> {
        let mut packed = Vec::new();
        for request in requests {
            let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            crate::command::write_command(&mut packed, &args);
        }
        packed
    }

    fn error(text: &str) -> Value {
        Value::ServerError(server_error("ERR", text))
    }

    #[test]
    fn failed_watch_forbids_exec_until_unwatch_discard_or_reset() {
        let intact = WatchState::Intact;
        let failed = intact.after(&[b"watch", b"k"], Err(()));
        assert_eq!(failed, WatchState::Failed);
        assert!(failed.forbids(&packed(&["MULTI", "SET k v", "exec"])));
        assert!(failed.forbids(&packed(&["EXEC"])));
        assert!(!failed.forbids(&packed(&["MULTI", "SET k EXEC"])));
        for end in ["UNWATCH", "discard", "RESET"] {
            assert!(!failed.forbids(&packed(&[end, "MULTI", "EXEC"])), "{end}");
            assert_eq!(failed.after(&[end.as_bytes()], Ok(&Value::Okay)), intact);
        }
        assert!(!intact.forbids(&packed(&["MULTI", "EXEC"])));
    }

    #[test]
    fn watch_refused_by_the_server_has_failed_unless_inside_multi() {
        let intact = WatchState::Intact;
        let all = |answers: &[Value]| intact.after_all(&packed(&["WATCH a", "GET a"]), answers);
        assert_eq!(all(&[Value::Okay, Value::Nil]), intact);
        assert_eq!(all(&[error("no"), Value::Nil]), WatchState::Failed);
        let inside = error("WATCH inside MULTI is not allowed");
        assert_eq!(intact.after(&[b"WATCH", b"a"], Ok(&inside)), intact);
    }

    #[test]
    fn watch_in_a_refused_pipeline_has_failed() {
        let refused = |requests: &[&str]| WatchState::Intact.after_refused(&packed(requests));
        assert_eq!(refused(&["GET a", "WATCH a", "GET b"]), WatchState::Failed);
        assert_eq!(refused(&["GET a", "SET b WATCH"]), WatchState::Intact);
    }

    #[test]
    fn exec_after_a_failed_watch_is_an_execabort_error() {
        let error: redis::RedisError = exec_abort().into();
        assert_eq!(error.code(), Some("EXECABORT"));
    }
}
