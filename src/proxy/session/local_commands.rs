//! Requests that concern the connection to us, and no node.

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

impl Session {
    pub(super) fn run_client_command(
        &mut self,
        command: &CommandSpec,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Handled {
        self.info_changed = true;
        self.client.command = command.name().to_ascii_lowercase();
        match client_command::run(command, args, &mut self.client, said)? {
            ClientReply::Written => Ok(Disposition::Answered),
            ClientReply::Ask(ask) => Ok(Disposition::Act(Action::Registry(ask))),
            ClientReply::Replies(replies) => {
                match (self.reply_mode, replies) {
                    (ReplyMode::Off, ReplyMode::SkipNext) => {}
                    _ => self.reply_mode = replies,
                }
                if replies != ReplyMode::On {
                    return Ok(Disposition::Answered);
                }
                write_status(said, "OK");
                Ok(Disposition::AnsweredAlways)
            }
        }
    }

    pub(super) fn run_connection_command(
        &mut self,
        asked: ConnectionCommand,
        command: &CommandSpec,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Handled {
        let first = args.get(1).copied();
        match asked {
            ConnectionCommand::Ping if args.len() > 2 => return Err(wrong_arity(command)),
            ConnectionCommand::Ping if self.is_subscribed_in_resp2() => {
                write_line(said, b'*', 2);
                write_bulk(said, b"pong");
                write_bulk(said, first.unwrap_or_default());
            }
            ConnectionCommand::Ping | ConnectionCommand::Echo => match first {
                None => write_status(said, "PONG"),
                Some(text) => write_bulk(said, text),
            },
            ConnectionCommand::Select => {
                check_database(first.unwrap_or_default())?;
                write_status(said, "OK");
            }
            ConnectionCommand::Auth => {
                self.auth.check(args)?;
                self.authenticated = true;
                write_status(said, "OK");
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
                write_status(said, "OK");
                return Ok(Disposition::Act(Action::Close));
            }
        }
        Ok(Disposition::Answered)
    }

    pub(super) fn run_transaction_command(
        &mut self,
        asked: TransactionCommand,
        command: &CommandSpec,
        ClientRequest { frame, args, .. }: ClientRequest<'_, '_>,
        router: &Router,
        said: &mut Vec<u8>,
    ) -> Handled {
        self.info_changed = true;
        self.client.command = command.name().to_ascii_lowercase();
        match (asked, self.transaction.take()) {
            (TransactionCommand::Multi, None) => {
                self.transaction = Some(Transaction::begin(self.watched.as_ref()));
                write_status(said, "OK");
            }
            (TransactionCommand::Exec | TransactionCommand::Discard, None) => {
                return Err(Refusal::new(format!("{} without MULTI", command.name())));
            }
            (TransactionCommand::Discard, Some(_)) => {
                write_status(said, "OK");
                return Ok(self.unwatch());
            }
            (TransactionCommand::Exec, Some(transaction)) => {
                return Ok(self.exec(transaction, said));
            }
            (TransactionCommand::Watch, None) => return self.watch(router, frame, args),
            (TransactionCommand::Unwatch, None) => {
                write_status(said, "OK");
                return Ok(self.unwatch());
            }
            // These do no harm to the transaction, so they are no refusals.
            (TransactionCommand::Multi, queuing) => {
                self.transaction = queuing;
                Refusal::new("MULTI calls can not be nested").write(said);
            }
            (TransactionCommand::Watch | TransactionCommand::Unwatch, queuing) => {
                self.transaction = queuing;
                Refusal::new("WATCH inside MULTI is not allowed").write(said);
            }
        }
        Ok(Disposition::Answered)
    }

    fn exec(&mut self, transaction: Transaction, said: &mut Vec<u8>) -> Disposition {
        if transaction.is_aborted() {
            let text = "Transaction discarded because of previous errors.";
            return self.abort_transaction(Refusal::with_code("EXECABORT", text), said);
        }
        if self.watch_failed {
            self.client.protocol.write_nil_array(said);
            return self.unwatch();
        }
        if transaction.len() == 0 && self.watched.is_none() {
            write_line(said, b'*', 0);
            return Disposition::Answered;
        }
        self.watched = None;
        Disposition::Act(Action::Exec(transaction.finish()))
    }

    fn watch(&mut self, router: &Router, frame: &[u8], args: &[&[u8]]) -> Handled {
        let mut watched = self.watched.clone().unwrap_or_default();
        for key in &args[1..] {
            watched.add_key(router, key).map_err(internal_refusal)?;
        }
        let node = watched.owner().map_err(internal_refusal)?;
        self.watched = Some(watched);
        let packed = frame.to_vec();
        Ok(Disposition::Act(Action::Watch { node, packed }))
    }

    /// The transaction is over, and nothing of it is done.
    pub(super) fn abort_transaction(&mut self, why: Refusal, said: &mut Vec<u8>) -> Disposition {
        self.transaction = None;
        why.write(said);
        self.unwatch()
    }

    /// Nothing is watched any more.
    fn unwatch(&mut self) -> Disposition {
        self.watch_failed = false;
        match self.watched.take() {
            Some(_) => Disposition::Act(Action::Unwatch),
            None => Disposition::Answered,
        }
    }

    pub(super) fn run_subscription_command(
        &mut self,
        asked: SubscriptionCommand,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Disposition {
        let (kind, change) = kind_and_change(asked);
        let name = kind.command(change).to_ascii_lowercase();
        self.client.command = String::from_utf8_lossy(&name).into_owned();
        let names = match args.len() {
            1 => self.subscriptions.of(kind),
            _ => args[1..].iter().map(|name| name.to_vec()).collect(),
        };
        if names.is_empty() {
            let protocol = self.client.protocol;
            self.subscriptions.change(change, kind, &[], protocol, said);
            return Disposition::AnsweredAlways;
        }
        Disposition::Act(Action::Subscribe(SubscriptionRequest {
            change,
            kind,
            names,
        }))
    }
}

/// The only database is number 0.
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
