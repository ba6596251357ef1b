//! MULTI ... EXEC as one request: all its keys live on one node, or it is refused before a byte is sent.
//!
//! * [`PlannedTransaction`]: gathers the commands, checks that their keys have one owner, and reads the
//!   replies.
//! * [`ExpectedEnd`]: the last reply of a request, by which an executor knows that the connection left the
//!   transaction and stays open.
//!
//! Nothing here runs an optimistic transaction: WATCH needs a connection of its own (`dedicated`).

use redis::{ServerError, Value};

use crate::command::{Access, Route, Scripting};
use crate::error::{Error, ErrorKind, KeyText, Retry, server_error};
use crate::partition::NodeIndex;
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::command_errors::aborted;
use crate::plan::redirects::UNBLOCKED_BY_CLIENT;
use crate::plan::refusal::typed_name;
use crate::plan::{Answers, CacheSnapshot, KeyLocation, Router};

/// A transaction whose commands are being checked, one after another. The commands themselves stay in the
/// packed request.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlannedTransaction {
    /// Where all keys so far live, and the first of them, for error messages; `None` before the first key.
    owner: Option<(KeyLocation, Vec<u8>)>,
    /// Number of commands so far.
    commands: usize,
    /// `Yes` if any of the commands concerns scripts.
    scripting: Scripting,
}

/// The last reply that a request must have for its connection to be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedEnd {
    /// Any reply but UNBLOCKED, unless by CLIENT UNBLOCK: the server has been demoted and closes the connection, with
    /// whatever is sent on it meanwhile.
    Any,
    /// A reply that ends a transaction: an array, nil, or EXECABORT.
    ///
    /// A server that refuses EXEC with any other error (the command is renamed or forbidden by ACL, or an old
    /// server is loading) leaves the connection inside the transaction: the reply to the next user's command
    /// would be QUEUED.
    Exec,
}

/// Codes of errors in reply to EXEC with which the server has left the transaction: it was discarded, or a server of a
/// cluster does not own the slot of its keys any more.
const ENDING_CODES: [&str; 5] = ["EXECABORT", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"];

/// True if the server closes the connection behind this error.
fn closes_connection(error: &ServerError) -> bool {
    error.code() == "UNBLOCKED"
        && !error
            .details()
            .is_some_and(|text| text.as_bytes().starts_with(UNBLOCKED_BY_CLIENT))
}

impl ExpectedEnd {
    /// True if `last` is an acceptable last reply.
    #[inline]
    pub(crate) fn is_met_by(self, last: &Value) -> bool {
        match (self, last) {
            (Self::Exec, Value::Array(_) | Value::Nil) => true,
            (Self::Exec, Value::ServerError(error)) => ENDING_CODES.contains(&error.code()),
            (Self::Exec, _) => false,
            (Self::Any, Value::ServerError(error)) => !closes_connection(error),
            (Self::Any, _) => true,
        }
    }

    /// True if `last`, a reply in the wire format, is an acceptable last reply.
    #[cfg(feature = "tokio-comp")]
    #[inline]
    pub(crate) fn is_met_by_frame(self, last: &[u8]) -> bool {
        let error = last.strip_prefix(b"-").unwrap_or_default();
        match self {
            Self::Any => {
                let text = error.strip_prefix(b"UNBLOCKED ");
                text.is_none_or(|text| text.starts_with(UNBLOCKED_BY_CLIENT))
            }
            // An array, or the nil of RESP2 (of either type) or RESP3.
            Self::Exec => {
                matches!(last, [b'*' | b'_', ..])
                    || last.starts_with(b"$-1\r")
                    || ENDING_CODES
                        .iter()
                        .any(|code| error.starts_with(code.as_bytes()))
            }
        }
    }
}

impl PlannedTransaction {
    /// Checks one command between MULTI and EXEC: its keys must live on the node of the keys before.
    ///
    /// That holds for declared keys, for literal keys in the text of a script that declares none, and for
    /// keys made of patterns.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when a key lives on another node,
    /// [`Unroutable`](ErrorKind::Unroutable) for commands that concern more than one node or the connection.
    pub(crate) fn add(
        &mut self,
        router: &Router,
        args: &[&[u8]],
        snapshot: CacheSnapshot<'_>,
    ) -> Result<(), Error> {
        self.commands += 1;
        // An unknown command is refused here too: it may have keys of another node.
        let command = router.lookup(args)?;
        self.scripting = self.scripting.or(command.scripting());
        match command.route() {
            Route::Keys | Route::Split { .. } | Route::Any | Route::AnyFor { .. } => {}
            // PING goes to all nodes otherwise; inside MULTI it only concerns the connection.
            Route::All(_) if command.name() == "PING" => {}
            Route::Stateful
            | Route::Refused
            | Route::Scan
            | Route::All(_)
            | Route::NodeOnly
            | Route::Slot { .. } => {
                return Err(Error::new(
                    ErrorKind::Unroutable,
                    format!(
                        "{} (command {} of the transaction) does not concern the keys of one node; leave it out, or run \
                         the transaction on `client.node(name)`",
                        typed_name(command),
                        self.commands,
                    ),
                ));
            }
        }
        let at = router.keys(command, args)?;
        for &position in &at.keys {
            self.add_key(router, args[position as usize])?;
        }
        // Like a script outside of a transaction: its text must show the keys if the request does not.
        if at.keys.is_empty()
            && command.route() == Route::Keys
            && command.scripting() == Scripting::Yes
        {
            for key in router.literal_keys(command, args, &snapshot())? {
                self.add_key(router, key)?;
            }
        }
        // After all keys: a pattern must match the owner, but cannot determine it. The owner of the pattern's
        // own text says nothing about the keys made of it.
        for &position in &at.patterns {
            let location = self.location()?;
            let pattern = args[position as usize];
            router.check_pattern(command, pattern, location)?;
            self.add_key(router, pattern)?;
        }
        Ok(())
    }

    /// The node that owns all keys.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](ErrorKind::Unroutable) when there was no key.
    pub(crate) fn owner(&self) -> Result<NodeIndex, Error> {
        Ok(self.location()?.node)
    }

    /// The key that determines the node. `None` if there was no key.
    #[cfg(feature = "proxy")]
    pub(crate) fn first_key(&self) -> Option<&[u8]> {
        self.owner.as_ref().map(|(_, key)| &key[..])
    }

    /// Where all keys live.
    fn location(&self) -> Result<KeyLocation, Error> {
        match &self.owner {
            Some((location, _)) => Ok(*location),
            None => Err(Error::new(
                ErrorKind::Unroutable,
                "the transaction was given no key, so no node can be chosen; give it a key, or run it on \
                 `client.node(name)`",
            )),
        }
    }

    /// `Yes` if any of the commands concerns scripts.
    pub(crate) fn scripting(&self) -> Scripting {
        self.scripting
    }

    /// Adds a key that the transaction touches; the first one determines the node.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when it lives on another node, in a cluster in another slot, than the keys
    /// before, or shares no hash tag with them although it must.
    pub(crate) fn add_key(&mut self, router: &Router, key: &[u8]) -> Result<(), Error> {
        let location = router.location(key)?;
        match &self.owner {
            None => {
                self.owner = Some((location, key.to_vec()));
                Ok(())
            }
            Some((owner, first)) if location.slot.is_some() || *owner == location => {
                router.check_together("the transaction", (first, *owner), (key, location))
            }
            Some((owner, first)) => Err(Error::new(
                ErrorKind::CrossNode,
                format!(
                    "a transaction runs on one node, but the key {} lives on node {} and the key {} on node {}; put all \
                     its keys under one hash tag, such as {{tag}}a and {{tag}}b",
                    KeyText(first),
                    router.name(owner.node),
                    KeyText(key),
                    router.name(location.node),
                ),
            )
            .about_keys([&first[..], key])),
        }
    }

    /// The packed MULTI ... EXEC as one request. `commands` is the number of commands without MULTI and EXEC.
    pub(crate) fn exchange(node: NodeIndex, packed: &[u8], commands: usize) -> NodeRequest {
        // All slots count as writes, so nothing is resent once any byte may have reached the server: even
        // reads must not run outside their transaction.
        let slots = vec![ReplySlot::whole(0, Access::Write); commands + 2];
        NodeRequest::transaction(node, packed.to_vec(), slots)
    }

    /// Turns the replies to MULTI, the commands and EXEC into the reply that `redis::Pipeline` expects: that
    /// to EXEC.
    ///
    /// # Errors
    ///
    /// When the connection failed: [`Unknown`](ErrorKind::Unknown), unless nothing was sent. When the server
    /// refused commands: EXECABORT with all of them, which the server's own reply to EXEC does not name.
    pub(crate) fn finish(node: &str, answers: Answers) -> Result<Value, Error> {
        if let Some(failure) = &answers.failure {
            return Err(failure.error(node, 0, Access::Write));
        }
        let mut values = answers.values;
        // Before EXEC the only replies are OK and QUEUED, or the error of a command that was not queued.
        let exec = values.pop().unwrap_or_default();
        let mut replies = values.into_iter();
        let multi = match replies.next() {
            Some(Value::ServerError(error)) => Some(error),
            _ => None,
        };
        let refused: Vec<_> = replies
            .enumerate()
            .filter_map(|(index, value)| match value {
                Value::ServerError(error) => Some((index, error)),
                _ => None,
            })
            .collect();
        match (multi, exec) {
            // Without MULTI the server ran the commands one by one as they came in: the error must not look
            // like EXECABORT, which promises that nothing was done.
            (Some(error), _) => {
                let details = error.details().unwrap_or_default();
                let text = format!(
                    "{details} (MULTI itself was refused: the commands after it may have run one by one)"
                );
                let error = server_error(error.code(), &text);
                Err(Error::from_server(&error, Some(node)).with_retry(Retry::Unsafe))
            }
            (None, _) if !refused.is_empty() => Err(aborted(refused).at_node(node)),
            (None, Value::ServerError(error)) => Err(Error::from_server(&error, Some(node))),
            (None, value) => Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoded_and_raw_last_replies_agree_on_whether_a_connection_may_be_reused() {
        let error = |text: &str| {
            let (code, details) = text.split_once(' ').unwrap();
            (
                format!("-{text}\r\n"),
                Value::ServerError(server_error(code, details)),
            )
        };
        let rows = [
            (("+OK\r\n".into(), Value::Okay), true, false),
            (("$-1\r\n".into(), Value::Nil), true, true),
            (("*0\r\n".into(), Value::Array(vec![])), true, true),
            (error("ERR unknown command"), true, false),
            (error("EXECABORT Transaction discarded"), true, true),
            (
                error("UNBLOCKED force unblock, instance state changed"),
                false,
                false,
            ),
            (
                error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
                true,
                false,
            ),
        ];
        for ((frame, value), any, exec) in rows {
            for (ending, is_met) in [(ExpectedEnd::Any, any), (ExpectedEnd::Exec, exec)] {
                assert_eq!(ending.is_met_by(&value), is_met, "{ending:?}: {frame}");
                #[cfg(feature = "tokio-comp")]
                assert_eq!(
                    ending.is_met_by_frame(frame.as_bytes()),
                    is_met,
                    "{ending:?}: {frame}"
                );
            }
        }
    }
}
