//! Requests that concern the connection to us, and no node.

use super::{Session, Take, Taken, Work, ours};
use crate::command::CommandSpec;
use crate::front::client_command::{self, Outcome, Replies};
use crate::front::door::not_let_in;
use crate::front::greeting::Hello;
use crate::front::refusal::{Refusal, not_an_integer, not_here, wrong_arity};
use crate::front::request::integer;
use crate::front::transaction::Transaction;
use crate::plan::Router;
use crate::reply::{write_bulk, write_line, write_status};
use crate::subscribe::{Change, Subscription};

impl Session {
    pub(super) fn take_client(
        &mut self,
        command: &CommandSpec,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Take {
        self.has_news = true;
        self.client.command = command.name().to_ascii_lowercase();
        match client_command::run(command, args, &mut self.client, said)? {
            Outcome::Said => Ok(Taken::Said),
            Outcome::Ask(ask) => Ok(Taken::Work(Work::Clients(ask))),
            Outcome::Replies(replies) => {
                match (self.replies, replies) {
                    (Replies::Off, Replies::SkipNext) => {}
                    _ => self.replies = replies,
                }
                if replies != Replies::On {
                    return Ok(Taken::Said);
                }
                write_status(said, "OK");
                Ok(Taken::SaidAnyway)
            }
        }
    }

    pub(super) fn take_connection(
        &mut self,
        command: &CommandSpec,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Take {
        match (command.name(), args) {
            ("PING", [_, _, _, ..]) => return Err(wrong_arity(command)),
            ("PING", [_, rest @ ..]) if self.only_listens() => {
                write_line(said, b'*', 2);
                write_bulk(said, b"pong");
                write_bulk(said, rest.first().copied().unwrap_or_default());
            }
            ("PING", [_]) => write_status(said, "PONG"),
            ("PING" | "ECHO", [_, text, ..]) => write_bulk(said, text),
            ("SELECT", [_, number, ..]) => match integer(number).map(i32::try_from) {
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
                self.door.check(args)?;
                self.is_let_in = true;
                write_status(said, "OK");
            }
            ("HELLO", args) => {
                let hello = Hello::parse(args, &self.door)?;
                self.is_let_in |= hello.lets_in;
                return match self.is_let_in {
                    true => Ok(Taken::Work(Work::Greet(hello))),
                    false => Err(not_let_in("HELLO")),
                };
            }
            ("RESET", _) => return Ok(Taken::Work(Work::Reset)),
            ("QUIT", _) => {
                write_status(said, "OK");
                return Ok(Taken::Work(Work::Close));
            }
            _ => return Err(not_here(command)),
        }
        Ok(Taken::Said)
    }

    pub(super) fn take_transaction(
        &mut self,
        router: &Router,
        name: &str,
        frame: &[u8],
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Take {
        self.has_news = true;
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
            ("EXEC", Some(transaction)) if transaction.is_spoilt() => {
                let text = "Transaction discarded because of previous errors.";
                return Ok(self.give_up(Refusal::with_code("EXECABORT", text), said));
            }
            ("EXEC", Some(_)) if self.has_lost_watch => {
                self.client.protocol.write_nil_array(said);
                return Ok(self.unwatch());
            }
            ("EXEC", Some(transaction)) if transaction.len() == 0 && self.watched.is_none() => {
                write_line(said, b'*', 0);
            }
            ("EXEC", Some(transaction)) => {
                self.watched = None;
                return Ok(Taken::Work(Work::Exec(transaction.finish())));
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
        Ok(Taken::Said)
    }

    fn watch(&mut self, router: &Router, frame: &[u8], args: &[&[u8]]) -> Take {
        let mut watched = self.watched.clone().unwrap_or_default();
        for key in &args[1..] {
            watched.add_key(router, key).map_err(ours)?;
        }
        let node = watched.owner().map_err(ours)?;
        self.watched = Some(watched);
        let packed = frame.to_vec();
        Ok(Taken::Work(Work::Watch { node, packed }))
    }

    /// The transaction is over, and nothing of it is done.
    pub(super) fn give_up(&mut self, why: Refusal, said: &mut Vec<u8>) -> Taken {
        self.transaction = None;
        why.write(said);
        self.unwatch()
    }

    /// Nothing is watched any more.
    fn unwatch(&mut self) -> Taken {
        self.has_lost_watch = false;
        match self.watched.take() {
            Some(_) => Taken::Work(Work::Forget),
            None => Taken::Said,
        }
    }

    pub(super) fn take_subscription(
        &mut self,
        change: Change,
        kind: Subscription,
        args: &[&[u8]],
        said: &mut Vec<u8>,
    ) -> Taken {
        let name = kind.command(change).to_ascii_lowercase();
        self.client.command = String::from_utf8_lossy(&name).into_owned();
        let names = match args.len() {
            1 => self.subscriptions.of(kind),
            _ => args[1..].iter().map(|name| name.to_vec()).collect(),
        };
        if names.is_empty() {
            let protocol = self.client.protocol;
            self.subscriptions.change(change, kind, &[], protocol, said);
            return Taken::SaidAnyway;
        }
        Taken::Work(Work::Subscribe {
            change,
            kind,
            names,
        })
    }
}
