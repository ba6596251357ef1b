//! One client that speaks the wire format to us.

mod local_commands;
mod round;

use crate::command::{
    BlockingTime, CommandSpec, InsideMulti, Lookup, ProxyRole, Route, Scripting, TransactionCommand,
};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::pubsub::{Message, SubscriptionChange, SubscriptionKind};
use crate::plan::{PlannedTransaction, RawPipeline, RoutedCommand, is_watch};
use crate::proxy::action::Action;
use crate::proxy::auth::{Auth, auth_required};
use crate::proxy::client_command::ReplyMode;
use crate::proxy::client_info::ClientInfo;
use crate::proxy::hello::{Hello, write_server_info};
use crate::proxy::pause::Pause;
use crate::proxy::refusal::{
    Refusal, not_here, not_while_subscribed, unknown_command, unknown_subcommand, wrong_arity,
};
use crate::proxy::session::round::FIRST_ROUND_COMMANDS_MAX;
use crate::proxy::subscriptions::{Subscriptions, write_message};
use crate::proxy::transaction::Transaction;
use crate::resp::RequestParser;
use crate::resp::{Protocol, write_status};

/// Requests of so many bytes may wait of one who is not let in yet.
const UNAUTHENTICATED_QUERY_BYTES_MAX: usize = 1 << 20;

/// What is told of a client, and everything that its next command depends on.
#[derive(Debug)]
pub(crate) struct Session {
    client: ClientInfo,
    auth: Auth,
    authenticated: bool,
    reply_mode: ReplyMode,
    transaction: Option<Transaction>,
    /// The watched keys, and the node where they are.
    watched: Option<PlannedTransaction>,
    /// A WATCH failed, for whatever reason, so its keys may have changed: EXEC answers as if they had.
    watch_failed: bool,
    /// The protocol of the connections that the exclusive connection of WATCH was taken from, while there is one.
    lease: Option<Protocol>,
    subscriptions: Subscriptions,
    parser: RequestParser,
    pause: Pause,
    /// What is told of it may have changed.
    info_changed: bool,
    /// The next round has no more commands.
    round_commands_max: u32,
}

/// How much of the input was taken, and what comes next.
#[derive(Debug)]
pub(crate) struct RoundInput {
    pub(crate) consumed: usize,
    pub(crate) next: NextStep,
}

/// What comes when the round is answered.
#[derive(Debug)]
pub(crate) enum NextStep {
    /// More input is needed: what is left and so many bytes more, at least.
    Input(usize),
    /// There may be another round in the input.
    Round,
    /// Requests in an unusual form, here in the usual one, come before the rest of the input.
    Requests(Vec<u8>),
    /// The first bytes of the input, so many, are one request with very many arguments: it is taken with
    /// [`TlsSession::read_heavy_round`], where nobody waits for that.
    Heavy(usize),
    /// A large request for this node is at the beginning of the input, and goes there as it comes.
    Upload { node: NodeIndex },
    /// A request that is more than a part of a round. Without `wants_reply` the client has switched its reply off.
    Act { action: Action, wants_reply: bool },
    /// What comes is no request. This is said, and the connection closed.
    Broken(Vec<u8>),
}

/// One request of the input.
#[derive(Clone, Copy)]
pub(super) struct ClientRequest<'f, 'a> {
    pub(super) frame: &'f [u8],
    pub(super) args: &'a [&'f [u8]],
    /// Nothing has arrived behind it.
    is_last: bool,
}

/// What becomes of a request.
enum Disposition {
    /// It is in the round.
    Queued,
    /// It was answered.
    Answered,
    /// The same, and the answer comes even if none is wanted.
    AnsweredAlways,
    Act(Action),
}

type Handled = Result<Disposition, Refusal>;

impl Session {
    pub(crate) fn new(client: ClientInfo, auth: Auth) -> Self {
        Self {
            client,
            authenticated: auth.is_open(),
            auth,
            reply_mode: ReplyMode::On,
            transaction: None,
            watched: None,
            watch_failed: false,
            lease: None,
            subscriptions: Subscriptions::default(),
            parser: RequestParser::default(),
            pause: Pause::Nothing,
            info_changed: false,
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
    pub(crate) fn take_info(&mut self) -> Option<ClientInfo> {
        std::mem::take(&mut self.info_changed).then(|| self.client())
    }

    /// What is told of it now.
    pub(crate) fn client(&self) -> ClientInfo {
        ClientInfo {
            channels: self.subscriptions.count(SubscriptionKind::Channel),
            patterns: self.subscriptions.count(SubscriptionKind::Pattern),
            shard_channels: self.subscriptions.count(SubscriptionKind::Shard),
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
        match self.authenticated {
            true => limit,
            false => limit.min(UNAUTHENTICATED_QUERY_BYTES_MAX),
        }
    }

    /// Takes one request: into the round, or answers it; or says what action it is.
    #[inline]
    fn answer<'f>(
        &mut self,
        request: ClientRequest<'f, '_>,
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> Option<NextStep> {
        let silent = self.reply_mode != ReplyMode::On;
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
        let mut said = Vec::new();
        let action = match self.dispatch(request, pipeline, &mut said) {
            Ok(Disposition::Queued) => {
                if silent {
                    pipeline.suppress_last();
                }
                return None;
            }
            Ok(Disposition::Answered) => None,
            Ok(Disposition::AnsweredAlways) => {
                pipeline.push_local(|out| out.extend_from_slice(&said));
                return None;
            }
            Ok(Disposition::Act(action)) => {
                // Replies come again with the one to RESET; but that may be skipped like any other.
                let comes_again =
                    matches!(action, Action::Reset) && self.reply_mode == ReplyMode::Off;
                let wants_reply = !silent || comes_again;
                Some(NextStep::Act {
                    action,
                    wants_reply,
                })
            }
            Err(refusal) => {
                match &mut self.transaction {
                    Some(transaction) => transaction.abort(),
                    None => {
                        self.watch_failed |= request.args.first().is_some_and(|name| is_watch(name))
                    }
                }
                refusal.write(&mut said);
                None
            }
        };
        if !silent && !said.is_empty() {
            pipeline.push_local(|out| out.extend_from_slice(&said));
        }
        action
    }

    #[inline]
    fn dispatch<'f>(
        &mut self,
        request: ClientRequest<'f, '_>,
        pipeline: &mut RawPipeline<'_, 'f>,
        said: &mut Vec<u8>,
    ) -> Handled {
        let ClientRequest { frame: _, args, .. } = request;
        let router = pipeline.router();
        let command = match router.find(args) {
            Lookup::Found(command) => command,
            Lookup::UnknownSubcommand => return Err(unknown_subcommand(args)),
            Lookup::UnknownCommand if speaks_http(args) => {
                return Ok(Disposition::Act(Action::Close));
            }
            Lookup::UnknownCommand => return Err(unknown_command(args)),
        };
        let role = command.proxy_role;
        if !self.authenticated && !role.is_allowed_unauthenticated() {
            return Err(auth_required());
        }
        if command.sole_key().is_some()
            && self.transaction.is_none()
            && !self.is_subscribed_in_resp2()
        {
            return forward(command, request, pipeline, self.pause);
        }
        if !command.accepts(args.len()) {
            let refusal = wrong_arity(command);
            if role == ProxyRole::Transaction(TransactionCommand::Exec) {
                return Ok(self.abort_transaction(refusal.ends_transaction(), said));
            }
            return Err(refusal);
        }
        if role == ProxyRole::Container && args.len() > 1 {
            return Err(unknown_subcommand(args));
        }
        if self.is_subscribed_in_resp2() && !role.is_allowed_while_subscribed() {
            return Err(not_while_subscribed(command));
        }
        if let Some(transaction) = &mut self.transaction {
            match role.inside_multi() {
                InsideMulti::Run => {}
                InsideMulti::Refused => {
                    return Err(Refusal::new("Command not allowed inside a transaction"));
                }
                InsideMulti::Queued => {
                    transaction
                        .add(router, pipeline.snapshot(), command, request)
                        .map_err(internal_refusal)?;
                    self.info_changed = true;
                    write_status(said, "QUEUED");
                    return Ok(Disposition::Answered);
                }
            }
        }
        self.carry_out(command, request, pipeline, said)
    }

    /// Does with a command what its role says, now that the state of the connection allows it.
    fn carry_out<'f>(
        &mut self,
        command: &CommandSpec,
        request: ClientRequest<'f, '_>,
        pipeline: &mut RawPipeline<'_, 'f>,
        said: &mut Vec<u8>,
    ) -> Handled {
        let ClientRequest { frame, args, .. } = request;
        match command.proxy_role {
            ProxyRole::Forward | ProxyRole::NoMulti | ProxyRole::Container => {
                forward(command, request, pipeline, self.pause)
            }
            ProxyRole::Pause => match Pause::parse(args) {
                Some((pause, length)) => Ok(Disposition::Act(Action::Pause {
                    pause,
                    length,
                    packed: frame.to_vec(),
                })),
                // The nodes say what is wrong with it.
                None => forward(command, request, pipeline, self.pause),
            },
            ProxyRole::Unpause => Ok(Disposition::Act(Action::Unpause(frame.to_vec()))),
            ProxyRole::Client => self.run_client_command(command, args, said),
            ProxyRole::Connection(asked) => self.run_connection_command(asked, command, args, said),
            ProxyRole::Transaction(asked) => {
                self.run_transaction_command(asked, command, request, pipeline.router(), said)
            }
            ProxyRole::Subscription(asked) => Ok(self.run_subscription_command(asked, args, said)),
            ProxyRole::ClusterOnly => {
                Err(Refusal::new("This instance has cluster support disabled"))
            }
        }
    }

    /// Whether the client listens in the protocol that cannot tell messages from replies.
    #[inline]
    fn is_subscribed_in_resp2(&self) -> bool {
        self.client.protocol == Protocol::Resp2 && !self.subscriptions.is_empty()
    }

    /// WATCH did not succeed, or its connection is no more: what was watched is not watched any more.
    pub(crate) fn watch_failed(&mut self) {
        self.watched = None;
        self.watch_failed = true;
    }

    /// The protocol of the connections that the exclusive connection of WATCH was taken from, while there is one.
    pub(crate) fn lease(&self) -> Option<Protocol> {
        self.lease
    }

    /// An exclusive connection was taken from those that speak the client's protocol.
    pub(crate) fn begin_lease(&mut self) {
        self.lease = Some(self.client.protocol);
    }

    /// The exclusive connection is given back or closed, if there is one. Gives the protocol of those it was taken from.
    pub(crate) fn end_lease(&mut self) -> Option<Protocol> {
        self.lease.take()
    }

    /// Channels or patterns have begun or ended: the confirmations.
    pub(crate) fn subscribed(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
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
        if self.is_subscribed_to(message.kind, name) {
            write_message(message, self.client.protocol, out);
        }
    }

    /// Whether the client listens to this.
    pub(crate) fn is_subscribed_to(&self, kind: SubscriptionKind, name: &[u8]) -> bool {
        self.subscriptions.has(kind, name)
    }

    /// Whether the client listens to anything.
    pub(crate) fn is_subscribed(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// HELLO: takes over its protocol and name.
    pub(crate) fn hello(&mut self, hello: &Hello) {
        hello.apply(&mut self.client);
    }

    /// The reply to HELLO, where the servers have this version.
    pub(crate) fn write_hello(&self, version: &str, out: &mut Vec<u8>) {
        write_server_info(&self.client, version, out);
    }

    /// RESET: as it was in the beginning.
    pub(crate) fn reset(&mut self) {
        self.client.name.clear();
        self.client.protocol = Protocol::Resp2;
        *self = Self::new(std::mem::take(&mut self.client), self.auth.clone());
    }
}

/// A command for the nodes: into the round, or alone when it may wait.
#[inline]
fn forward<'f>(
    command: &CommandSpec,
    request: ClientRequest<'f, '_>,
    pipeline: &mut RawPipeline<'_, 'f>,
    pause: Pause,
) -> Handled {
    let ClientRequest {
        frame,
        args,
        is_last,
    } = request;
    match command.route() {
        Route::NodeOnly | Route::Stateful | Route::Refused => return Err(not_here(command)),
        _ => {}
    }
    let routed = pipeline
        .router()
        .route_as(command, args, pipeline.snapshot());
    if routed.is_err() && pipeline.snapshot()().lacks_code_for(args) {
        return Ok(Disposition::Act(Action::Script(frame.to_vec())));
    }
    let routed: RoutedCommand = routed.map_err(internal_refusal)?;
    let may_be_held = pause.may_delay(routed.access);
    if routed.blocking != BlockingTime::None || (may_be_held && routed.scripting == Scripting::No) {
        return Ok(Disposition::Act(Action::RunBlocking(frame.to_vec())));
    }
    if routed.scripting == Scripting::Yes {
        // By itself a script is sent by its sum; in a round its text may have to go along.
        let by_itself = is_last && pipeline.size().0 == 0;
        return Ok(
            match !by_itself && !may_be_held && pipeline.try_add_script(frame, args, &routed) {
                true => Disposition::Queued,
                false => Disposition::Act(Action::Script(frame.to_vec())),
            },
        );
    }
    pipeline.add(frame, args, routed);
    Ok(Disposition::Queued)
}

/// An error of this crate, as a refusal.
fn internal_refusal(error: Error) -> Refusal {
    Refusal::of(&error)
}

/// A browser that was led here must not get its requests carried out. Servers hang up as well.
fn speaks_http(args: &[&[u8]]) -> bool {
    let first = args.first().copied().unwrap_or_default();
    first.eq_ignore_ascii_case(b"POST") || first.eq_ignore_ascii_case(b"Host:")
}
