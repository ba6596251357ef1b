//! Commands that the proxy carries out itself, because they concern the client's connection and no node.
//!
//! * CLIENT and its subcommands: `run_client_command`.
//! * PING, ECHO, SELECT, AUTH, HELLO, RESET, QUIT: `run_connection_command`.
//! * MULTI, EXEC, DISCARD, WATCH, UNWATCH: `run_transaction_command`. Changes the session's state, and leaves
//!   what needs a node to an [`Action`].
//! * SUBSCRIBE and its relatives: `run_subscription_command`.
//!
//! Each writes its reply into a buffer of the caller, who drops it after CLIENT REPLY OFF or SKIP.

use super::{ClientRequest, Disposition, Handled, Session, internal_refusal};
use crate::command::{CommandSpec, ConnectionCommand, SubscriptionCommand, TransactionCommand};
use crate::plan::Router;
use crate::plan::pubsub::{SubscriptionChange, SubscriptionKind};
use crate::proxy::action::{Action, SubscriptionRequest};
use crate::proxy::auth::hello_without_auth;
use crate::proxy::client_command::{self, ClientReply, ReplyMode};
use crate::proxy::hello::Hello;
use crate::proxy::refusal::{Refusal, not_an_integer, wrong_arity};
use crate::proxy::transaction::Transaction;
use crate::resp::canonical_integer;
use crate::resp::{write_bulk, write_line, write_status};

/// Maximum number of bytes of the keys that one client watches in a Redis Cluster.
const WATCHED_BYTES_MAX: usize = 1 << 20;

impl Session {
    /// Runs a subcommand of CLIENT.
    pub(super) fn run_client_command(
        &mut self,
        command: &CommandSpec,
        args: &[&[u8]],
        local: &mut Vec<u8>,
    ) -> Handled {
        self.info_changed = true;
        self.client.command = command.name().to_ascii_lowercase();
        match client_command::run(command, args, &mut self.client, local)? {
            ClientReply::Written => Ok(Disposition::Answered),
            ClientReply::Ask(ask) => Ok(Disposition::Act(Action::Registry(ask))),
            ClientReply::Replies(replies) => {
                // SKIP while replies are off leaves them off, as on a server.
                match (self.reply_mode, replies) {
                    (ReplyMode::Off, ReplyMode::SkipNext) => {}
                    _ => self.reply_mode = replies,
                }
                if replies != ReplyMode::On {
                    return Ok(Disposition::Answered);
                }
                write_status(local, "OK");
                Ok(Disposition::AnsweredAlways)
            }
        }
    }

    /// Runs a command about the connection itself. `command` is its row in the command table.
    pub(super) fn run_connection_command(
        &mut self,
        asked: ConnectionCommand,
        command: &CommandSpec,
        args: &[&[u8]],
        local: &mut Vec<u8>,
    ) -> Handled {
        let first = args.get(1).copied();
        match asked {
            ConnectionCommand::Ping if args.len() > 2 => return Err(wrong_arity(command)),
            // In subscribed mode of RESP2 a client expects messages only, so PONG comes as one.
            ConnectionCommand::Ping if self.is_subscribed_in_resp2() => {
                write_line(local, b'*', 2);
                write_bulk(local, b"pong");
                write_bulk(local, first.unwrap_or_default());
            }
            ConnectionCommand::Ping | ConnectionCommand::Echo => match first {
                None => write_status(local, "PONG"),
                Some(text) => write_bulk(local, text),
            },
            // A client library that sends SELECT 0 on each new connection must work; another database would
            // belong to one node's connection, and those are shared.
            ConnectionCommand::Select => {
                check_database(first.unwrap_or_default())?;
                write_status(local, "OK");
            }
            ConnectionCommand::Auth => {
                self.auth.check(args)?;
                self.authenticated = true;
                write_status(local, "OK");
            }
            ConnectionCommand::Hello => {
                let hello = Hello::parse(args, &self.auth)?;
                self.authenticated |= hello.lets_in;
                return match self.authenticated {
                    true => Ok(Disposition::Act(Action::Hello(hello))),
                    false => Err(hello_without_auth()),
                };
            }
            ConnectionCommand::Reset => return Ok(Disposition::Act(Action::Reset)),
            ConnectionCommand::Quit => {
                write_status(local, "OK");
                return Ok(Disposition::Act(Action::Close));
            }
        }
        Ok(Disposition::Answered)
    }

    /// Runs MULTI, EXEC, DISCARD, WATCH or UNWATCH. The transaction is taken out of the session first; arms
    /// that keep it put it back.
    pub(super) fn run_transaction_command(
        &mut self,
        asked: TransactionCommand,
        command: &CommandSpec,
        ClientRequest { frame, args, .. }: ClientRequest<'_, '_>,
        router: &Router,
        local: &mut Vec<u8>,
    ) -> Handled {
        self.info_changed = true;
        self.client.command = command.name().to_ascii_lowercase();
        match (asked, self.transaction.take()) {
            (TransactionCommand::Multi, None) => {
                self.transaction = Some(Transaction::begin(self.watched.as_ref()));
                write_status(local, "OK");
            }
            (TransactionCommand::Exec | TransactionCommand::Discard, None) => {
                return Err(Refusal::new(format!("{} without MULTI", command.name())));
            }
            (TransactionCommand::Discard, Some(_)) => {
                write_status(local, "OK");
                return Ok(self.unwatch());
            }
            (TransactionCommand::Exec, Some(transaction)) => {
                return Ok(self.exec(transaction, local));
            }
            (TransactionCommand::Watch, None) => return self.watch(router, frame, args),
            (TransactionCommand::Unwatch, None) => {
                write_status(local, "OK");
                return Ok(self.unwatch());
            }
            // Written as replies and not returned as refusals: a refusal would abort the transaction, and a
            // server does not abort it for these.
            (TransactionCommand::Multi, queuing) => {
                self.transaction = queuing;
                Refusal::new("MULTI calls can not be nested").write(local);
            }
            (TransactionCommand::Watch | TransactionCommand::Unwatch, queuing) => {
                self.transaction = queuing;
                Refusal::new("WATCH inside MULTI is not allowed").write(local);
            }
        }
        Ok(Disposition::Answered)
    }

    /// Runs EXEC as far as no node is needed: an aborted transaction, one whose WATCH has failed, and an
    /// empty one. The last still goes to the node if keys are watched, because only the node knows if they
    /// have changed.
    fn exec(&mut self, transaction: Transaction, local: &mut Vec<u8>) -> Disposition {
        if transaction.is_aborted() {
            let text = "Transaction discarded because of previous errors.";
            return self.abort_transaction(Refusal::with_code("EXECABORT", text), local);
        }
        // The node would run the commands, since it does not watch the keys. A nil reply tells the client to
        // try again.
        if self.watch_failed {
            self.client.protocol.write_nil_array(local);
            return self.unwatch();
        }
        if transaction.len() == 0 && self.watched.is_none() {
            write_line(local, b'*', 0);
            return Disposition::Answered;
        }
        let watched = std::mem::take(&mut self.watched_keys);
        // EXEC ends the watch, no matter how it ends.
        let is_watched = self.watched.take().is_some();
        Disposition::Act(Action::Exec(match is_watched && !watched.is_empty() {
            true => transaction.finish_guarded(&watched),
            false => transaction.finish(),
        }))
    }

    /// Keeps the keys of a WATCH for the check of EXEC.
    fn remember_watched(&mut self, keys: &[&[u8]]) -> Result<(), Refusal> {
        if self.watched.is_none() {
            self.watched_keys.clear();
        }
        let before: usize = self.watched_keys.iter().map(Vec::len).sum();
        let more: usize = keys.iter().map(|key| key.len()).sum();
        if before + more > WATCHED_BYTES_MAX {
            return Err(Refusal::new(format!(
                "WATCH of more than {WATCHED_BYTES_MAX} bytes of keys, which are sent again with EXEC in a cluster; watch \
                 fewer keys"
            )));
        }
        self.watched_keys
            .extend(keys.iter().map(|key| key.to_vec()));
        Ok(())
    }

    /// Runs WATCH: adds the keys to those that are watched already, all of which must be on one node.
    fn watch(&mut self, router: &Router, frame: &[u8], args: &[&[u8]]) -> Handled {
        let mut watched = self.watched.clone().unwrap_or_default();
        for key in &args[1..] {
            watched.add_key(router, key).map_err(internal_refusal)?;
        }
        if router.is_cluster() {
            self.remember_watched(&args[1..])?;
        }
        // By the current map: earlier keys may have been located by another one.
        let first = watched.first_key().unwrap_or_default();
        let node = router.owner(first).map_err(internal_refusal)?;
        // Before the node has replied. If WATCH fails there, the action calls `watch_failed`, which takes it
        // back.
        self.watched = Some(watched);
        let packed = frame.to_vec();
        Ok(Disposition::Act(Action::Watch { node, packed }))
    }

    /// Discards the transaction without running anything, writes `why`, and ends the watch, as a server does
    /// for EXECABORT.
    pub(super) fn abort_transaction(&mut self, why: Refusal, local: &mut Vec<u8>) -> Disposition {
        self.transaction = None;
        why.write(local);
        self.unwatch()
    }

    /// Forgets all watched keys, in the session at once and on the node by an action.
    fn unwatch(&mut self) -> Disposition {
        self.watch_failed = false;
        match self.watched.take() {
            Some(_) => Disposition::Act(Action::Unwatch),
            None => Disposition::Answered,
        }
    }

    /// Runs SUBSCRIBE, UNSUBSCRIBE or a relative. Without names, UNSUBSCRIBE means all of its kind.
    pub(super) fn run_subscription_command(
        &mut self,
        asked: SubscriptionCommand,
        args: &[&[u8]],
        local: &mut Vec<u8>,
    ) -> Disposition {
        let (kind, change) = kind_and_change(asked);
        let name = kind.command(change).to_ascii_lowercase();
        self.client.command = String::from_utf8_lossy(&name).into_owned();
        let names = match args.len() {
            1 => self.subscriptions.of(kind),
            _ => args[1..].iter().map(|name| name.to_vec()).collect(),
        };
        // Nothing to unsubscribe from. A server confirms that with a nil name, also after CLIENT REPLY OFF,
        // because confirmations are messages.
        if names.is_empty() {
            let protocol = self.client.protocol;
            self.subscriptions
                .change(change, kind, &[], protocol, local);
            return Disposition::AnsweredAlways;
        }
        Disposition::Act(Action::Subscribe(SubscriptionRequest {
            change,
            kind,
            names,
        }))
    }
}

/// Checks the number of SELECT. Only database 0 exists; the errors are those of a server with one database.
fn check_database(number: &[u8]) -> Result<(), Refusal> {
    match canonical_integer(number).map(i32::try_from) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(_)) => Err(Refusal::new("DB index is out of range")),
        Some(Err(_)) => Err(Refusal::new(
            "value is out of range, value must between -2147483648 and 2147483647",
        )),
        None => Err(not_an_integer()),
    }
}

/// Splits a command of pub/sub into what it names and what it does.
fn kind_and_change(asked: SubscriptionCommand) -> (SubscriptionKind, SubscriptionChange) {
    use SubscriptionChange::{Subscribe, Unsubscribe};
    use SubscriptionKind::{Channel, Pattern, Shard};
    match asked {
        SubscriptionCommand::Subscribe => (Channel, Subscribe),
        SubscriptionCommand::Unsubscribe => (Channel, Unsubscribe),
        SubscriptionCommand::Psubscribe => (Pattern, Subscribe),
        SubscriptionCommand::Punsubscribe => (Pattern, Unsubscribe),
        SubscriptionCommand::Ssubscribe => (Shard, Subscribe),
        SubscriptionCommand::Sunsubscribe => (Shard, Unsubscribe),
    }
}
