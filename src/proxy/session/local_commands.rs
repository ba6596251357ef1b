//! Requests that concern the connection to us, and no node.

use super::{Action, Disposition, Handled, Session, internal_refusal};
use crate::command::CommandSpec;
use crate::plan::Router;
use crate::plan::pubsub::{SubscriptionChange, SubscriptionKind};
use crate::proxy::auth::auth_required;
use crate::proxy::client_command::{self, ClientReply, ReplyMode};
use crate::proxy::hello::Hello;
use crate::proxy::refusal::{Refusal, not_an_integer, not_here, wrong_arity};
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
            ClientReply::Ask(ask) => Ok(Disposition::Act(Action::Clients(ask))),
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
        command: &CommandSpec,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Handled {
        match (command.name(), args) {
            ("PING", [_, _, _, ..]) => return Err(wrong_arity(command)),
            ("PING", [_, rest @ ..]) if self.is_subscribed_in_resp2() => {
                write_line(said, b'*', 2);
                write_bulk(said, b"pong");
                write_bulk(said, rest.first().copied().unwrap_or_default());
            }
            ("PING", [_]) => write_status(said, "PONG"),
            ("PING" | "ECHO", [_, text, ..]) => write_bulk(said, text),
            ("SELECT", [_, number, ..]) => match canonical_integer(number).map(i32::try_from) {
                Some(Ok(0)) => write_status(said, "OK"),
                Some(Ok(_)) => return Err(Refusal::new("DB index is out of range")),
                Some(Err(_)) => {
                    return Err(Refusal::new(
                        "value is out of range, value must between -2147483648 and 2147483647",
                    ));
                }
                None => return Err(not_an_integer()),
            },
            ("AUTH", args) => {
                self.auth.check(args)?;
                self.authenticated = true;
                write_status(said, "OK");
            }
            ("HELLO", args) => {
                let hello = Hello::parse(args, &self.auth)?;
                self.authenticated |= hello.lets_in;
                return match self.authenticated {
                    true => Ok(Disposition::Act(Action::Hello(hello))),
                    false => Err(auth_required("HELLO")),
                };
            }
            ("RESET", _) => return Ok(Disposition::Act(Action::Reset)),
            ("QUIT", _) => {
                write_status(said, "OK");
                return Ok(Disposition::Act(Action::Close));
            }
            _ => return Err(not_here(command)),
        }
        Ok(Disposition::Answered)
    }

    pub(super) fn run_transaction_command(
        &mut self,
        router: &Router,
        name: &str,
        frame: &[u8],
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Handled {
        self.info_changed = true;
        self.client.command = name.to_ascii_lowercase();
        match (name, self.transaction.take()) {
            ("MULTI", None) => {
                self.transaction = Some(Transaction::begin(self.watched.as_ref()));
                write_status(said, "OK");
            }
            ("EXEC" | "DISCARD", None) => {
                return Err(Refusal::new(format!("{name} without MULTI")));
            }
            ("DISCARD", Some(_)) => {
                write_status(said, "OK");
                return Ok(self.unwatch());
            }
            ("EXEC", Some(transaction)) if transaction.is_aborted() => {
                let text = "Transaction discarded because of previous errors.";
                return Ok(self.abort_transaction(Refusal::with_code("EXECABORT", text), said));
            }
            ("EXEC", Some(_)) if self.watch_failed => {
                self.client.protocol.write_nil_array(said);
                return Ok(self.unwatch());
            }
            ("EXEC", Some(transaction)) if transaction.len() == 0 && self.watched.is_none() => {
                write_line(said, b'*', 0);
            }
            ("EXEC", Some(transaction)) => {
                self.watched = None;
                return Ok(Disposition::Act(Action::Exec(transaction.finish())));
            }
            ("WATCH", None) => return self.watch(router, frame, args),
            ("UNWATCH", None) => {
                write_status(said, "OK");
                return Ok(self.unwatch());
            }
            (name, transaction) => {
                // These do no harm to the transaction, so they are no refusals.
                self.transaction = transaction;
                Refusal::new(match name {
                    "MULTI" => "MULTI calls can not be nested",
                    _ => "WATCH inside MULTI is not allowed",
                })
                .write(said);
            }
        }
        Ok(Disposition::Answered)
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
            Some(_) => Disposition::Act(Action::ReleaseWatch),
            None => Disposition::Answered,
        }
    }

    pub(super) fn run_subscription_command(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Disposition {
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
        Disposition::Act(Action::Subscribe {
            change,
            kind,
            names,
        })
    }
}
