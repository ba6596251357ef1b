//! Errors of single commands of a pipeline or a transaction, in the form in which redis-rs reports them: a list with
//! the index of each command, from [`RedisError::into_server_errors`].
//!
//! * [`at_command`]: the first command that is refused before a pipeline is sent.
//! * [`QueueErrors`]: all commands of a transaction that a server would refuse to queue.
//! * [`aborted`]: a transaction that was not executed because of some of its commands.
//!
//! redis-rs' own error for an aborted transaction cannot be made from outside of redis-rs, and the kind of a list is
//! that of its first error. Programs expect EXECABORT when nothing was applied, so each command of an aborted
//! transaction is listed with the code EXECABORT, and with its own error as the details.

use std::sync::Arc;

use redis::{ConnectionLike, RedisError, RedisResult, ServerError, Value};

use crate::error::{Error, ErrorKind, server_error};

/// Maximum number of commands that the message of an aborted transaction names. The list has them all.
const ABORT_CAUSES_MAX: usize = 8;

/// The commands of a transaction that a server would refuse to queue: those with a wrong number of arguments.
#[derive(Debug, Default)]
pub(super) struct QueueErrors {
    /// Number of commands checked so far.
    commands: usize,
    /// The errors with the indices of their commands.
    refused: Vec<(usize, ServerError)>,
}

impl QueueErrors {
    /// Takes the result of checking the next command, and keeps an error that is worded as a server's.
    ///
    /// # Errors
    ///
    /// Any other error, which says more than that the transaction was aborted.
    pub(super) fn check<T>(&mut self, checked: Result<T, Error>) -> Result<Option<T>, Error> {
        let index = self.commands;
        self.commands += 1;
        match checked {
            Ok(value) => Ok(Some(value)),
            Err(error) => match error.server_reply() {
                Some(reply) => {
                    self.refused.push((index, reply));
                    Ok(None)
                }
                None => Err(error),
            },
        }
    }

    /// Fails if a command was refused: nothing may be sent then.
    ///
    /// # Errors
    ///
    /// [`aborted`], without a node.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.refused.is_empty() {
            true => Ok(()),
            false => Err(aborted(self.refused)),
        }
    }
}

/// The error for a transaction of which these commands were refused, with their indices from zero. There is at least
/// one.
pub(super) fn aborted(refused: Vec<(usize, ServerError)>) -> Error {
    let mut message = "EXECABORT: Transaction discarded because of".to_owned();
    for (place, (index, error)) in refused.iter().take(ABORT_CAUSES_MAX).enumerate() {
        let separator = if place == 0 { "" } else { ";" };
        let number = index + 1;
        message.push_str(&format!("{separator} command {number}: {}", text(error)));
    }
    if refused.len() > ABORT_CAUSES_MAX {
        message.push_str("; and of others");
    }
    let listed = refused
        .into_iter()
        .map(|(index, error)| (index, server_error("EXECABORT", &text(&error))));
    Error::new(ErrorKind::Redis, message).caused_by(Arc::new(pipeline_error(listed.collect())))
}

/// Adds the number of a command, counted from zero, to the error because of which its pipeline is not sent.
pub(super) fn at_command(error: Error, number: usize) -> Error {
    let reply = error.server_reply();
    let error = error.at_command(number);
    match reply {
        Some(reply) => error.caused_by(Arc::new(pipeline_error(vec![(number, reply)]))),
        None => error,
    }
}

/// An error reply as a server writes it.
fn text(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// redis-rs' error for a pipeline with these errors. There is no constructor: only a pipeline makes it, of the replies
/// that it gets.
fn pipeline_error(errors: Vec<(usize, ServerError)>) -> RedisError {
    let replies = errors.last().map_or(0, |(index, _)| index + 1);
    let mut values = vec![Value::Nil; replies];
    for (index, error) in errors {
        values[index] = Value::ServerError(error);
    }
    let result = redis::pipe().query::<()>(&mut Replies(values));
    result
        .err()
        .unwrap_or_else(|| RedisError::from(server_error("ERR", "no error in a pipeline")))
}

/// A connection that has these replies to the next pipeline.
struct Replies(Vec<Value>);

impl ConnectionLike for Replies {
    fn req_packed_command(&mut self, _: &[u8]) -> RedisResult<Value> {
        Ok(Value::Nil)
    }

    fn req_packed_commands(&mut self, _: &[u8], _: usize, _: usize) -> RedisResult<Vec<Value>> {
        Ok(std::mem::take(&mut self.0))
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        true
    }

    fn is_open(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborted_transaction_lists_its_commands_by_index_under_the_kind_execabort() {
        let refused = vec![
            (1, server_error("READONLY", "You can't write")),
            (3, server_error("ERR", "unknown command 'NOPE'")),
        ];
        let error = aborted(refused);
        assert_eq!(
            error.to_string(),
            "EXECABORT: Transaction discarded because of command 2: READONLY You can't write; command 4: ERR unknown \
             command 'NOPE'"
        );
        let error = RedisError::from(error);
        assert_eq!(error.kind(), redis::ServerErrorKind::ExecAbort.into());
        assert_eq!(error.code(), Some("EXECABORT"));
        let errors = error.into_server_errors().unwrap();
        let listed: Vec<_> = errors
            .iter()
            .map(|(index, error)| (*index, error.details()))
            .collect();
        assert_eq!(
            listed,
            [
                (1, Some("READONLY You can't write")),
                (3, Some("ERR unknown command 'NOPE'"))
            ]
        );
    }

    #[test]
    fn message_of_an_aborted_transaction_names_a_limited_number_of_commands() {
        let refused = (0..1000)
            .map(|index| (index, server_error("ERR", "no")))
            .collect();
        let error = aborted(refused);
        assert!(
            error
                .to_string()
                .ends_with("command 8: ERR no; and of others"),
            "{error}"
        );
        let errors = RedisError::from(error).into_server_errors().unwrap();
        assert_eq!(errors.len(), 1000);
    }
}
