//! The state of one connection: protocol, authentication, transaction.
//!
//! A session ends with its connection; nothing of it outlasts a reconnect, as on a real server.

use std::time::Duration;

use super::commands::{self, Answer, Call, Command, Failure};
use super::database::Database;
use super::protocol::{Protocol, Reply};

/// The state of one connection, as commands see and change it.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Number of the connection, counted from one.
    pub(super) id: u64,
    /// From CLIENT SETNAME; empty if there is none.
    pub(super) name: Vec<u8>,
    pub(super) protocol: Protocol,
    /// True from the start if the node has no password.
    pub(super) authenticated: bool,
    /// Commands since MULTI; `None` outside of a transaction.
    pub(super) queue: Option<Vec<Vec<Vec<u8>>>>,
    /// EXEC must refuse, because a command was refused when it was queued.
    pub(super) aborted: bool,
    /// Watched keys, and their versions when the watch began.
    pub(super) watched: Vec<(Vec<u8>, u64)>,
    /// Commands of a transaction are being run, so that none may block.
    pub(super) in_exec: bool,
    /// Set by a blocking command that found nothing: the time to wait, `None` for ever.
    pub(super) waiting: Option<Option<Duration>>,
    /// Set by QUIT: the connection is closed after the reply.
    pub(super) closing: bool,
    /// Number of channels and patterns subscribed to.
    pub(super) subscriptions: usize,
}

impl Session {
    /// Runs one command or queues it. Returns its reply.
    pub(super) fn execute(&mut self, database: &mut Database, args: &[Vec<u8>]) -> Reply {
        self.answer(database, args)
            .unwrap_or_else(Failure::into_reply)
    }

    /// Checks what a server checks before any command, in its order: the name and the number of arguments,
    /// authentication, subscriptions, MULTI.
    fn answer(&mut self, database: &mut Database, args: &[Vec<u8>]) -> Answer {
        let command = match commands::find(args) {
            Ok(command) => command,
            Err(failure) => {
                // Outside of MULTI this has no effect: MULTI clears it.
                self.aborted = true;
                return Err(match args[0].eq_ignore_ascii_case(b"EXEC") {
                    true => self.abort(&failure),
                    false => failure,
                });
            }
        };
        if !self.authenticated && !matches!(command.name, "AUTH" | "HELLO" | "QUIT" | "RESET") {
            self.aborted = true;
            return Err("NOAUTH Authentication required.".into());
        }
        if self.subscriptions > 0 && self.protocol == Protocol::Resp2 && !command.is_subscriber() {
            return Err(Failure::new(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                 this context",
                command.name.to_ascii_lowercase()
            )));
        }
        match &mut self.queue {
            // Checked for name and number of arguments only: errors of the command itself appear in the reply
            // to EXEC.
            Some(queue) if !command.is_transaction() => {
                queue.push(args.to_vec());
                Ok(Reply::Status("QUEUED"))
            }
            _ => self.run(command, database, args),
        }
    }

    /// Runs one command.
    fn run(&mut self, command: &Command, database: &mut Database, args: &[Vec<u8>]) -> Answer {
        (command.run)(&mut Call {
            database,
            session: self,
            args,
        })
    }

    /// Ends the transaction of a malformed EXEC. Returns the error for it.
    fn abort(&mut self, cause: &Failure) -> Failure {
        self.end_transaction();
        let cause = cause.text().trim_start_matches("ERR ");
        Failure::new(format!(
            "EXECABORT Transaction discarded because of: {cause}"
        ))
    }

    /// Drops the transaction and the watched keys.
    pub(super) fn end_transaction(&mut self) {
        self.queue = None;
        self.aborted = false;
        self.watched.clear();
    }

    /// Records that a fault refused a command: a refused EXEC ends its transaction, any other command aborts
    /// it.
    pub(super) fn refuse(&mut self, name: &str) {
        match name {
            "EXEC" => self.end_transaction(),
            _ => self.aborted = true,
        }
    }
}
