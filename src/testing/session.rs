//! What a node remembers of one connection: protocol, password, transaction.

use std::time::Duration;

use super::commands::{self, Answer, Call, Command, Failure};
use super::database::Database;
use super::protocol::{Protocol, Reply};

/// One connection's state.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) name: Vec<u8>,
    pub(super) protocol: Protocol,
    pub(super) authenticated: bool,
    /// What was queued since MULTI.
    pub(super) queue: Option<Vec<Vec<Vec<u8>>>>,
    /// Whether EXEC must refuse, since something queued was wrong.
    pub(super) aborted: bool,
    /// Watched keys and their versions when the watch began.
    pub(super) watched: Vec<(Vec<u8>, u64)>,
    /// Whether commands run inside EXEC now, where nothing blocks.
    pub(super) in_exec: bool,
    /// Set by a blocking command that found nothing: how long to wait, `None` for ever.
    pub(super) waiting: Option<Option<Duration>>,
    /// Set by QUIT.
    pub(super) closing: bool,
    /// How many channels and patterns the connection listens to.
    pub(super) subscriptions: usize,
}

impl Session {
    /// Runs one command, or queues it.
    pub(super) fn execute(&mut self, database: &mut Database, args: &[Vec<u8>]) -> Reply {
        self.answer(database, args)
            .unwrap_or_else(Failure::into_reply)
    }

    fn answer(&mut self, database: &mut Database, args: &[Vec<u8>]) -> Answer {
        let command = match commands::find(args) {
            Ok(command) => command,
            Err(failure) => {
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
            Some(queue) if !command.is_transaction() => {
                queue.push(args.to_vec());
                Ok(Reply::Status("QUEUED"))
            }
            _ => self.run(command, database, args),
        }
    }

    fn run(&mut self, command: &Command, database: &mut Database, args: &[Vec<u8>]) -> Answer {
        (command.run)(&mut Call {
            database,
            session: self,
            args,
        })
    }

    /// An EXEC that is wrong in itself ends its transaction.
    fn abort(&mut self, cause: &Failure) -> Failure {
        self.end_transaction();
        let cause = cause.text().trim_start_matches("ERR ");
        Failure::new(format!(
            "EXECABORT Transaction discarded because of: {cause}"
        ))
    }

    /// Forgets the transaction and what it watched.
    pub(super) fn end_transaction(&mut self) {
        self.queue = None;
        self.aborted = false;
        self.watched.clear();
    }

    /// Notes that a fault refused a command: a refused EXEC ends its transaction, any other one aborts it.
    pub(super) fn refuse(&mut self, name: &str) {
        match name {
            "EXEC" => self.end_transaction(),
            _ => self.aborted = true,
        }
    }
}
