//! One client that speaks the wire format to us.

mod own;
mod round;

use std::time::Duration;

use crate::command::{CommandSpec, Lookup, Route, Scripting};
use crate::error::Error;
use crate::front::client::Client;
use crate::front::client_command::{Ask, Replies};
use crate::front::door::{Door, not_let_in};
use crate::front::greeting::Hello;
use crate::front::pause::Pause;
use crate::front::refusal::{
    Refusal, not_here, not_while_listening, unknown_command, unknown_subcommand, wrong_arity,
};
use crate::front::request::Look;
use crate::front::session::round::FIRST_ROUND_COMMANDS_MAX;
use crate::front::subscriptions::{Subscriptions, write_message};
use crate::front::transaction::{Ready, Transaction};
use crate::node::NodeIndex;
use crate::plan::{Atomic, Hold, Planned, Relay, is_watch};
use crate::reply::{Protocol, write_status};
use crate::subscribe::{Change, Message, Subscription};

/// Requests of so many bytes may wait of one who is not let in yet.
const STRANGER_QUERY_BYTES_MAX: usize = 1 << 20;

/// What is told of a client, and everything that its next command depends on.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    door: Door,
    is_let_in: bool,
    replies: Replies,
    transaction: Option<Transaction>,
    /// The watched keys, and the node where they are.
    watched: Option<Atomic>,
    /// A WATCH failed, for whatever reason, so its keys may have changed: EXEC answers as if they had.
    has_lost_watch: bool,
    subscriptions: Subscriptions,
    look: Look,
    pause: Pause,
    /// What is told of it may have changed.
    has_news: bool,
    /// The next round has no more commands.
    round_commands_max: u32,
}

/// How much of the input was taken, and what comes next.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) consumed: usize,
    pub(crate) next: Next,
}

/// What comes when the round is answered.
#[derive(Debug)]
pub(crate) enum Next {
    /// More input is needed: what is left and so many bytes more, at least.
    Input(usize),
    /// There may be another round in the input.
    Round,
    /// Requests in an unusual form, here in the usual one, come before the rest of the input.
    Requests(Vec<u8>),
    /// The first bytes of the input, so many, are one request with very many arguments: it is taken with
    /// [`Session::gather_heavy`], where nobody waits for that.
    Heavy(usize),
    /// A large request for this node is at the beginning of the input, and goes there as it comes.
    Upload { node: NodeIndex },
    /// Something that is not a round of requests. When it is silent, its reply is thrown away.
    Work { work: Work, silent: bool },
    /// What comes is no request. This is said, and the connection closed.
    Broken(Vec<u8>),
}

/// What takes more than to pass requests on and answers back.
#[derive(Debug)]
pub(crate) enum Work {
    /// A command that may wait, on a connection of its own.
    Wait(Vec<u8>),
    /// A command about scripts whose answer must be looked at.
    Script(Vec<u8>),
    /// CLIENT PAUSE: what is held back from now on, and for how long.
    Pause {
        pause: Pause,
        length: Duration,
        packed: Vec<u8>,
    },
    /// CLIENT UNPAUSE.
    Unpause(Vec<u8>),
    /// WATCH, on a connection that is kept.
    Watch { node: NodeIndex, packed: Vec<u8> },
    /// The connection of WATCH is not needed any more.
    Forget,
    /// A transaction, on the connection of WATCH if there is one.
    Exec(Ready),
    /// Channels or patterns begin or end.
    Subscribe {
        change: Change,
        kind: Subscription,
        names: Vec<Vec<u8>>,
    },
    /// About the clients of the front end.
    Clients(Ask),
    /// HELLO.
    Greet(Hello),
    /// RESET: no connection and no subscription is left.
    Reset,
    /// QUIT.
    Close,
}

/// One request of the input.
#[derive(Clone, Copy)]
struct Request<'f, 'a> {
    frame: &'f [u8],
    args: &'a [&'f [u8]],
    /// Nothing has arrived behind it.
    is_last: bool,
}

/// What becomes of a request.
enum Taken {
    /// It is in the round.
    Sent,
    /// It was answered.
    Said,
    /// The same, and the answer comes even if none is wanted.
    SaidAnyway,
    Work(Work),
}

type Take = Result<Taken, Refusal>;

impl Session {
    pub(crate) fn new(client: Client, door: Door) -> Self {
        Self {
            client,
            is_let_in: door.is_open(),
            door,
            replies: Replies::On,
            transaction: None,
            watched: None,
            has_lost_watch: false,
            subscriptions: Subscriptions::default(),
            look: Look::default(),
            pause: Pause::Nothing,
            has_news: false,
            round_commands_max: FIRST_ROUND_COMMANDS_MAX,
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.client.protocol
    }

    pub(crate) fn id(&self) -> u64 {
        self.client.id
    }

    /// What is told of it now, if that may have changed since the last time.
    pub(crate) fn take_news(&mut self) -> Option<Client> {
        std::mem::take(&mut self.has_news).then(|| self.client())
    }

    /// What is told of it now.
    pub(crate) fn client(&self) -> Client {
        Client {
            channels: self.subscriptions.count(Subscription::Channel),
            patterns: self.subscriptions.count(Subscription::Pattern),
            shard_channels: self.subscriptions.count(Subscription::Shard),
            queued: self.transaction.as_ref().map(Transaction::len),
            watched: self.watched.is_some().into(),
            ..self.client.clone()
        }
    }

    /// What the nodes hold back now.
    pub(crate) fn set_pause(&mut self, pause: Pause) {
        self.pause = pause;
    }

    /// Bytes of memory that are kept for the client: queued commands.
    pub(crate) fn held(&self) -> usize {
        self.transaction.as_ref().map_or(0, Transaction::held)
    }

    /// How many bytes of requests may wait to be carried out, where `limit` is that of clients who are let in.
    pub(crate) fn query_bytes_max(&self, limit: usize) -> usize {
        match self.is_let_in {
            true => limit,
            false => limit.min(STRANGER_QUERY_BYTES_MAX),
        }
    }

    /// Takes one request: into the round, or answers it; or says what work it is.
    #[inline]
    fn answer<'f>(&mut self, request: Request<'f, '_>, relay: &mut Relay<'_, 'f>) -> Option<Next> {
        let silent = self.replies != Replies::On;
        if self.replies == Replies::SkipNext {
            self.replies = Replies::On;
        }
        let mut said = Vec::new();
        let work = match self.take(request, relay, &mut said) {
            Ok(Taken::Sent) => {
                if silent {
                    relay.silence();
                }
                return None;
            }
            Ok(Taken::Said) => None,
            Ok(Taken::SaidAnyway) => {
                relay.say(|out| out.extend_from_slice(&said));
                return None;
            }
            Ok(Taken::Work(work)) => {
                // Replies come again with the one to RESET; but that may be skipped like any other.
                let is_wanted = matches!(work, Work::Reset) && self.replies == Replies::Off;
                let silent = silent && !is_wanted;
                Some(Next::Work { work, silent })
            }
            Err(refusal) => {
                match &mut self.transaction {
                    Some(transaction) => transaction.spoil(),
                    None => {
                        self.has_lost_watch |=
                            request.args.first().is_some_and(|name| is_watch(name))
                    }
                }
                refusal.write(&mut said);
                None
            }
        };
        if !silent && !said.is_empty() {
            relay.say(|out| out.extend_from_slice(&said));
        }
        work
    }

    #[inline]
    fn take<'f>(
        &mut self,
        request: Request<'f, '_>,
        relay: &mut Relay<'_, 'f>,
        said: &mut Vec<u8>,
    ) -> Take {
        let Request { frame, args, .. } = request;
        let router = relay.router();
        let command = match router.find(args) {
            Lookup::Found(command) => command,
            Lookup::UnknownSubcommand => return Err(unknown_subcommand(args)),
            Lookup::UnknownCommand if speaks_http(args) => return Ok(Taken::Work(Work::Close)),
            Lookup::UnknownCommand => return Err(unknown_command(args)),
        };
        if !self.is_let_in && !matches!(command.name(), "AUTH" | "HELLO" | "QUIT" | "RESET") {
            return Err(not_let_in(command.name()));
        }
        if command.sole_key().is_some() && self.transaction.is_none() && !self.only_listens() {
            return pass_on(command, request, relay, self.pause);
        }
        let name = command.name();
        if !command.accepts(args.len()) {
            return match name {
                "EXEC" => Ok(self.give_up(wrong_arity(command).ends_transaction(), said)),
                _ => Err(wrong_arity(command)),
            };
        }
        if name == "COMMAND" && args.len() > 1 {
            return Err(unknown_subcommand(args));
        }
        if self.only_listens() && !may_be_said_while_listening(name) {
            return Err(not_while_listening(command));
        }
        if let Some(transaction) = &mut self.transaction
            && !matches!(
                name,
                "EXEC" | "DISCARD" | "MULTI" | "WATCH" | "QUIT" | "RESET"
            )
        {
            if matches!(name, "PSYNC" | "SAVE" | "SHUTDOWN" | "SYNC") {
                return Err(Refusal::new("Command not allowed inside a transaction"));
            }
            transaction
                .add(router, relay.recall(), command, (frame, args))
                .map_err(ours)?;
            self.has_news = true;
            write_status(said, "QUEUED");
            return Ok(Taken::Said);
        }
        match name.split('|').next() {
            Some("CLIENT") if name == "CLIENT|UNPAUSE" => {
                Ok(Taken::Work(Work::Unpause(frame.to_vec())))
            }
            Some("CLIENT") if name == "CLIENT|PAUSE" => match Pause::parse(args) {
                Some((pause, length)) => Ok(Taken::Work(Work::Pause {
                    pause,
                    length,
                    packed: frame.to_vec(),
                })),
                None => pass_on(command, request, relay, self.pause),
            },
            Some("CLIENT") if command.route() != Route::Any => {
                self.take_client(command, args, said)
            }
            Some("PING" | "ECHO" | "SELECT" | "AUTH" | "HELLO" | "RESET" | "QUIT") => {
                self.take_connection(command, args, said)
            }
            Some("MULTI" | "EXEC" | "DISCARD" | "WATCH" | "UNWATCH") => {
                self.take_transaction(router, name, frame, args, said)
            }
            Some("ASKING" | "CLUSTER" | "READONLY" | "READWRITE") if name != "CLUSTER|HELP" => {
                Err(Refusal::new("This instance has cluster support disabled"))
            }
            _ => match subscription(name) {
                Some((kind, change)) => Ok(self.take_subscription(change, kind, args, said)),
                None => pass_on(command, request, relay, self.pause),
            },
        }
    }

    /// Whether the client listens in the protocol that cannot tell messages from replies.
    #[inline]
    fn only_listens(&self) -> bool {
        self.client.protocol == Protocol::Resp2 && !self.subscriptions.is_empty()
    }

    /// WATCH did not succeed, or its connection is no more: what was watched is not watched any more.
    pub(crate) fn watch_failed(&mut self) {
        self.watched = None;
        self.has_lost_watch = true;
    }

    /// The reply to WATCH, if there is one. Whether the keys are watched.
    pub(crate) fn watch_answered(&mut self, reply: Option<&[u8]>) -> bool {
        let is_done = reply == Some(b"+OK\r\n");
        if !is_done {
            self.watch_failed();
        }
        is_done
    }

    /// Channels or patterns have begun or ended: the confirmations.
    pub(crate) fn subscribed(
        &mut self,
        change: Change,
        kind: Subscription,
        names: &[Vec<u8>],
        out: &mut Vec<u8>,
    ) {
        let protocol = self.client.protocol;
        self.subscriptions
            .change(change, kind, names, protocol, out);
    }

    /// A message that is passed on, unless it is about something that has ended.
    pub(crate) fn message(&self, message: &Message, out: &mut Vec<u8>) {
        let name = message.pattern.as_ref().unwrap_or(&message.channel);
        if self.listens_to(message.kind, name) {
            write_message(message, self.client.protocol, out);
        }
    }

    /// Whether the client listens to this.
    pub(crate) fn listens_to(&self, kind: Subscription, name: &[u8]) -> bool {
        self.subscriptions.has(kind, name)
    }

    /// Whether the client listens to anything.
    pub(crate) fn listens(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// HELLO, once the version of the servers is known.
    pub(crate) fn greet(&mut self, hello: &Hello, version: &str, out: &mut Vec<u8>) {
        hello.greet(&mut self.client, version, out);
    }

    /// RESET: as it was in the beginning.
    pub(crate) fn reset(&mut self, out: &mut Vec<u8>) {
        self.client.name.clear();
        self.client.protocol = Protocol::Resp2;
        *self = Self::new(std::mem::take(&mut self.client), self.door.clone());
        write_status(out, "RESET");
    }
}

/// A command for the nodes: into the round, or alone when it may wait.
#[inline]
fn pass_on<'f>(
    command: &CommandSpec,
    request: Request<'f, '_>,
    relay: &mut Relay<'_, 'f>,
    pause: Pause,
) -> Take {
    let Request {
        frame,
        args,
        is_last,
    } = request;
    match command.route() {
        Route::Named | Route::Stateful | Route::Refused => return Err(not_here(command)),
        _ => {}
    }
    let planned = relay.router().planned_as(command, args, relay.recall());
    if planned.is_err() && relay.recall()().lacks_code_for(args) {
        return Ok(Taken::Work(Work::Script(frame.to_vec())));
    }
    let planned: Planned = planned.map_err(ours)?;
    let may_be_held = pause.may_hold(planned.access);
    if planned.hold != Hold::No || (may_be_held && planned.scripting == Scripting::No) {
        return Ok(Taken::Work(Work::Wait(frame.to_vec())));
    }
    if planned.scripting == Scripting::Yes {
        // By itself a script is sent by its sum; in a round its text may have to go along.
        let by_itself = is_last && relay.size().0 == 0;
        return Ok(
            match !by_itself && !may_be_held && relay.try_add_script(frame, args, &planned) {
                true => Taken::Sent,
                false => Taken::Work(Work::Script(frame.to_vec())),
            },
        );
    }
    relay.add(frame, args, planned);
    Ok(Taken::Sent)
}

/// An error of this crate, as a refusal.
fn ours(error: Error) -> Refusal {
    Refusal::of(&error)
}

/// A browser that was led here must not get its requests carried out. Servers hang up as well.
fn speaks_http(args: &[&[u8]]) -> bool {
    let first = args.first().copied().unwrap_or_default();
    first.eq_ignore_ascii_case(b"POST") || first.eq_ignore_ascii_case(b"Host:")
}

fn may_be_said_while_listening(name: &str) -> bool {
    subscription(name).is_some() || matches!(name, "PING" | "QUIT" | "RESET")
}

fn subscription(name: &str) -> Option<(Subscription, Change)> {
    Some(match name {
        "SUBSCRIBE" => (Subscription::Channel, Change::Begin),
        "UNSUBSCRIBE" => (Subscription::Channel, Change::End),
        "PSUBSCRIBE" => (Subscription::Pattern, Change::Begin),
        "PUNSUBSCRIBE" => (Subscription::Pattern, Change::End),
        "SSUBSCRIBE" => (Subscription::Shard, Change::Begin),
        "SUNSUBSCRIBE" => (Subscription::Shard, Change::End),
        _ => return None,
    })
}
