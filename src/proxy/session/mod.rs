//! The state of one client, and what becomes of each of its requests.
//!
//! * [`Session`]: CLIENT INFO, authentication, transaction, watched keys, subscriptions, reply mode.
//! * [`NextStep`]: what the executor does after a round.
//! * `round`: which requests make up a round. `local_commands`: commands that are run here, without a node.
//!
//! For each request the session [dispatches](Session::dispatch) in a fixed order: unknown command,
//! authentication, arity, subscribed mode, transaction, and then the command itself. The order shows in the
//! errors: an error of arity within MULTI aborts the transaction, and a command that subscribed mode does not
//! allow is refused and not queued.
//!
//! The session never waits: it sees only bytes that have arrived, and an [`Action`] carries out what takes
//! more.

mod local_commands;
mod round;

use crate::command::{
    BlockingTime, CommandSpec, InsideMulti, Lookup, ProxyRole, Route, Scripting, TransactionCommand,
};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::pubsub::{Message, SubscriptionChange, SubscriptionKind};
use crate::plan::{Plan, PlannedTransaction, RawPipeline, ReadsAs, is_watch};
use crate::proxy::action::Action;
use crate::proxy::auth::{Auth, auth_required};
use crate::proxy::client_command::ReplyMode;
use crate::proxy::client_info::ClientInfo;
use crate::proxy::cluster_mode::{ClusterReply, EmulatedNode};
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

/// Maximum number of bytes of requests that may wait before AUTH. A server closes the connection at the same
/// size.
const UNAUTHENTICATED_QUERY_BYTES_MAX: usize = 1 << 20;

/// State of one client: its CLIENT INFO, transaction, watched keys, subscriptions and reply mode.
#[derive(Debug)]
pub(crate) struct Session {
    /// CLIENT INFO, except for the counts: [`client`](Self::client) adds those.
    client: ClientInfo,
    /// Copied when the client connects: a password set later applies to later clients.
    auth: Auth,
    /// What the client is told about a cluster. Copied when the client connects.
    cluster: EmulatedNode,
    /// True if no password is needed, or the right one was given.
    authenticated: bool,
    /// Set by CLIENT REPLY.
    reply_mode: ReplyMode,
    /// Commands since MULTI. `None` outside of a transaction.
    transaction: Option<Transaction>,
    /// The watched keys and their node, all of them on one. `None` while nothing is watched.
    watched: Option<PlannedTransaction>,
    /// The watched keys, if the nodes are those of a Redis Cluster: see [`QueuedTransaction`]. Left over when the watch ends.
    ///
    /// [`QueuedTransaction`]: crate::proxy::QueuedTransaction
    watched_keys: Vec<Vec<u8>>,
    /// True after a WATCH that failed, for whatever reason: its keys may have changed, so EXEC replies nil
    /// until the watch ends.
    watch_failed: bool,
    /// Why the map of the Redis Cluster behind the proxy is not known, if it is one and it is not.
    map_error: Option<Error>,
    /// Set while the connection of WATCH is held: the protocol of the connections that it was taken from.
    /// After HELLO it may differ from the client's protocol, and then the connection cannot be given back.
    lease: Option<Protocol>,
    /// Confirmed subscriptions only.
    subscriptions: Subscriptions,
    /// Remembers how far a request that has not arrived entirely was searched.
    parser: RequestParser,
    /// The pause in force when the round began.
    pause: Pause,
    /// True if CLIENT INFO may have changed since [`take_info`](Self::take_info).
    info_changed: bool,
    /// Maximum number of commands in the next round; adapted by [`answered`](Self::answered).
    round_commands_max: u32,
}

/// Result of reading a round from the input.
#[derive(Debug)]
pub(crate) struct RoundInput {
    /// Number of bytes at the beginning of the input that are done with.
    pub(crate) consumed: usize,
    pub(crate) next: NextStep,
}

/// The executor's next step, once the replies of the round are in the output.
#[derive(Debug)]
pub(crate) enum NextStep {
    /// More input is needed: at least this many bytes after those that are left.
    Input(usize),
    /// The next round may follow; the input need not be empty.
    Round,
    /// Requests that came in an unusual form, here in the usual one. They are read before the rest of the
    /// input.
    Requests(Vec<u8>),
    /// The first bytes of the input, this many, are one request with very many arguments. It is read with
    /// [`Session::read_heavy_round`], on a thread for blocking work: a DEL of a million keys would stop all
    /// other clients of the thread.
    Heavy(usize),
    /// A large request begins the input. Its bytes are forwarded to this node as they arrive.
    Upload { node: NodeIndex },
    /// A request that takes more than a part of a round. `wants_reply` is false after CLIENT REPLY OFF or
    /// SKIP.
    Act { action: Action, wants_reply: bool },
    /// The input is no request. This error is written, and the connection closed.
    Broken(Vec<u8>),
}

/// One whole request of the input.
#[derive(Clone, Copy)]
pub(super) struct ClientRequest<'f, 'a> {
    /// The bytes of the request, in the usual form.
    pub(super) frame: &'f [u8],
    /// Its arguments, the name first. Never empty.
    pub(super) args: &'a [&'f [u8]],
    /// True if nothing has arrived behind it.
    is_last: bool,
}

/// Outcome of a request that was not refused.
enum Disposition {
    /// It is part of the round, and a node will reply.
    Queued,
    /// Its reply was written locally.
    Answered,
    /// Its reply was written locally, and is sent even if replies are switched off.
    AnsweredAlways,
    /// The action sends what is needed, after the round.
    Act(Action),
}

type Handled = Result<Disposition, Refusal>;

impl Session {
    /// Creates the state of a client that has just connected.
    pub(crate) fn new(client: ClientInfo, auth: Auth) -> Self {
        Self {
            client,
            authenticated: auth.is_open(),
            auth,
            cluster: EmulatedNode::default(),
            reply_mode: ReplyMode::On,
            transaction: None,
            watched: None,
            watched_keys: Vec::new(),
            watch_failed: false,
            map_error: None,
            lease: None,
            subscriptions: Subscriptions::default(),
            parser: RequestParser::default(),
            pause: Pause::Nothing,
            info_changed: false,
            round_commands_max: FIRST_ROUND_COMMANDS_MAX,
        }
    }

    /// Sets what the client is told about a cluster. Defaults to that there is none.
    pub(crate) fn with_cluster(mut self, cluster: EmulatedNode) -> Self {
        self.cluster = cluster;
        self
    }

    /// Returns the protocol of the client's replies.
    pub(crate) fn protocol(&self) -> Protocol {
        self.client.protocol
    }

    /// Returns the client's id, as CLIENT ID shows it.
    pub(crate) fn id(&self) -> u64 {
        self.client.id
    }

    /// Returns CLIENT INFO if it may have changed since the last call, so that a round of plain commands
    /// costs the registry nothing.
    pub(crate) fn take_info(&mut self) -> Option<ClientInfo> {
        std::mem::take(&mut self.info_changed).then(|| self.client())
    }

    /// Returns CLIENT INFO as it is now.
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

    /// Sets the pause that is in force now. Called before each round.
    pub(crate) fn set_pause(&mut self, pause: Pause) {
        self.pause = pause;
    }

    /// Sets why the map of the Redis Cluster behind the proxy is not known; `None` once it is. Called before each round.
    pub(crate) fn set_map_error(&mut self, error: Option<Error>) {
        self.map_error = error;
    }

    /// One of the watched keys, all of which live together. `None` while nothing is watched.
    pub(crate) fn watched_key(&self) -> Option<&[u8]> {
        self.watched.as_ref()?.first_key()
    }

    /// Number of bytes of memory that the client holds here: the commands queued since MULTI, and the watched keys.
    pub(crate) fn held(&self) -> usize {
        let queued = self.transaction.as_ref().map_or(0, Transaction::held);
        queued + self.watched_keys.iter().map(Vec::capacity).sum::<usize>()
    }

    /// Maximum number of bytes of requests that may wait, where `limit` is that of authenticated clients.
    pub(crate) fn query_bytes_max(&self, limit: usize) -> usize {
        match self.authenticated {
            true => limit,
            false => limit.min(UNAUTHENTICATED_QUERY_BYTES_MAX),
        }
    }

    /// Handles one request: adds it to the round, or writes a local reply to the pipeline. Returns the next
    /// step if it ends the round.
    ///
    /// Applies CLIENT REPLY: a reply of a node is suppressed when it comes, a local one is not added.
    #[inline]
    fn answer<'f>(
        &mut self,
        request: ClientRequest<'f, '_>,
        pipeline: &mut RawPipeline<'_, 'f>,
    ) -> Option<NextStep> {
        let silent = self.reply_mode != ReplyMode::On;
        // Before the command runs, so that CLIENT REPLY SKIP sets it again for the command after it.
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
        let mut local = Vec::new();
        let action = match self.dispatch(request, pipeline, &mut local) {
            Ok(Disposition::Queued) => {
                if silent {
                    // The node replies all the same: CLIENT REPLY OFF on its connection would concern all
                    // clients that share it.
                    pipeline.suppress_last();
                }
                return None;
            }
            Ok(Disposition::Answered) => None,
            Ok(Disposition::AnsweredAlways) => {
                pipeline.push_local(|out| out.extend_from_slice(&local));
                return None;
            }
            Ok(Disposition::Act(action)) => {
                // RESET switches replies on, and its own is the first. After SKIP it is skipped like that of
                // any other command.
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
                        // A server cannot refuse WATCH for keys of two nodes. A client that ignores the error
                        // must not have its EXEC run as if the keys had been watched.
                        self.watch_failed |= request.args.first().is_some_and(|name| is_watch(name))
                    }
                }
                refusal.write(&mut local);
                None
            }
        };
        if !silent && !local.is_empty() {
            pipeline.push_local(|out| out.extend_from_slice(&local));
        }
        action
    }

    /// Decides what becomes of a request, after the checks of a server's `processCommand`. Unlike there, a
    /// client without AUTH gets NOAUTH before an error of arity.
    #[inline]
    fn dispatch<'f>(
        &mut self,
        request: ClientRequest<'f, '_>,
        pipeline: &mut RawPipeline<'_, 'f>,
        local: &mut Vec<u8>,
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
        // The seeds are not asked instead: one that is no server of a cluster would serve any key.
        if let Some(error) = &self.map_error
            && role.needs_nodes()
        {
            return Err(internal_refusal(error.clone()));
        }
        // Short cut for GET, SET and the like: `forward` checks the arity while it looks for the key. Inside
        // MULTI and in subscribed mode the checks below come first.
        if command.sole_key().is_some()
            && self.transaction.is_none()
            && !self.is_subscribed_in_resp2()
        {
            return forward(command, request, pipeline, self.pause, self.reads_as());
        }
        if !command.accepts(args.len()) {
            let refusal = wrong_arity(command);
            // A malformed EXEC ends the transaction on a server, instead of only aborting it.
            if role == ProxyRole::Transaction(TransactionCommand::Exec) {
                return Ok(self.abort_transaction(refusal.ends_transaction(), local));
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
                    write_status(local, "QUEUED");
                    return Ok(Disposition::Answered);
                }
            }
        }
        self.carry_out(command, request, pipeline, local)
    }

    /// Runs a command by its role, once the state of the connection allows it.
    fn carry_out<'f>(
        &mut self,
        command: &CommandSpec,
        request: ClientRequest<'f, '_>,
        pipeline: &mut RawPipeline<'_, 'f>,
        local: &mut Vec<u8>,
    ) -> Handled {
        let ClientRequest { frame, args, .. } = request;
        match command.proxy_role {
            ProxyRole::Forward | ProxyRole::NoMulti | ProxyRole::Container => {
                forward(command, request, pipeline, self.pause, self.reads_as())
            }
            ProxyRole::Pause => match Pause::parse(args) {
                Some((pause, length)) => Ok(Disposition::Act(Action::Pause {
                    pause,
                    length,
                    packed: frame.to_vec(),
                })),
                // Malformed. The nodes reply with the error.
                None => forward(command, request, pipeline, self.pause, self.reads_as()),
            },
            ProxyRole::Unpause => Ok(Disposition::Act(Action::Unpause(frame.to_vec()))),
            ProxyRole::Client => self.run_client_command(command, args, local),
            ProxyRole::Connection(asked) => {
                self.run_connection_command(asked, command, args, local)
            }
            ProxyRole::Transaction(asked) => {
                self.run_transaction_command(asked, command, request, pipeline.router(), local)
            }
            ProxyRole::Subscription(asked) => Ok(self.run_subscription_command(asked, args, local)),
            ProxyRole::Info if pipeline.router().is_cluster() || self.cluster.is_shown() => {
                Ok(Disposition::Act(Action::Info(frame.to_vec())))
            }
            ProxyRole::Info => forward(command, request, pipeline, self.pause, self.reads_as()),
            ProxyRole::ClusterOnly => {
                let in_cluster = pipeline.router().is_cluster();
                let client = &self.client;
                match self.cluster.run(command, args, client, in_cluster, local)? {
                    ClusterReply::Written => Ok(Disposition::Answered),
                    ClusterReply::Forward => {
                        forward(command, request, pipeline, self.pause, self.reads_as())
                    }
                }
            }
        }
    }

    /// The most that the client's reads may be taken for when their node is out of reach. Not for misses while
    /// keys are watched: what the client reads then decides what its transaction writes.
    #[inline]
    pub(crate) fn reads_as(&self) -> ReadsAs {
        match self.watched.is_some() || self.watch_failed {
            true => ReadsAs::Error,
            false => ReadsAs::Miss,
        }
    }

    /// True if the client has subscriptions in RESP2, where messages cannot be told from replies. Only a few
    /// commands are allowed then.
    #[inline]
    fn is_subscribed_in_resp2(&self) -> bool {
        self.client.protocol == Protocol::Resp2 && !self.subscriptions.is_empty()
    }

    /// True while a transaction or a watch depends on where its keys live.
    pub(crate) fn has_placed_keys(&self) -> bool {
        self.transaction.is_some() || self.watched.is_some()
    }

    /// Records that keys of the transaction, and those that are watched, may live on another node now: EXEC is
    /// refused.
    pub(crate) fn keys_moved(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.abort();
        }
        if self.watched.is_some() {
            self.watch_failed();
        }
    }

    /// Records that WATCH failed or that its connection is gone. No key is watched any more, and EXEC replies
    /// nil.
    pub(crate) fn watch_failed(&mut self) {
        self.watched = None;
        self.watch_failed = true;
    }

    /// Returns the protocol of the connections that the connection of WATCH was taken from, while it is held.
    pub(crate) fn lease(&self) -> Option<Protocol> {
        self.lease
    }

    /// Records that an exclusive connection was taken, from those of the client's current protocol.
    pub(crate) fn begin_lease(&mut self) {
        self.lease = Some(self.client.protocol);
    }

    /// Records that the exclusive connection is given back or closed. Returns the protocol of those that it
    /// was taken from, or `None` if there was none.
    pub(crate) fn end_lease(&mut self) -> Option<Protocol> {
        self.lease.take()
    }

    /// Adds or removes subscriptions, once the nodes have confirmed them, and writes the confirmations to
    /// `out`.
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

    /// Writes a message to `out`, unless the client has unsubscribed from its channel or pattern: nodes may
    /// still send it for a while, but a client must get none after the confirmation.
    pub(crate) fn message(&self, message: &Message, out: &mut Vec<u8>) {
        let name = message.pattern.as_ref().unwrap_or(&message.channel);
        if self.is_subscribed_to(message.kind, name) {
            write_message(message, self.client.protocol, out);
        }
    }

    /// True if the client is subscribed to this channel or pattern.
    pub(crate) fn is_subscribed_to(&self, kind: SubscriptionKind, name: &[u8]) -> bool {
        self.subscriptions.has(kind, name)
    }

    /// True if the client has any subscription.
    pub(crate) fn is_subscribed(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// Applies HELLO: its protocol and its name.
    pub(crate) fn hello(&mut self, hello: &Hello) {
        hello.apply(&mut self.client);
    }

    /// Writes the reply to HELLO, for servers of this version.
    pub(crate) fn write_hello(&self, version: &str, out: &mut Vec<u8>) {
        write_server_info(&self.client, version, self.cluster.is_shown(), out);
    }

    /// The reply to INFO that the client gets instead of that of the nodes.
    pub(crate) fn shown_info(&self, reply: &[u8]) -> Vec<u8> {
        self.cluster.shown_info(reply, self.client.protocol)
    }

    /// Applies RESET: the state of a new connection, except for the id, the addresses and the library.
    pub(crate) fn reset(&mut self) {
        self.client.name.clear();
        self.client.protocol = Protocol::Resp2;
        let (client, cluster) = (
            std::mem::take(&mut self.client),
            std::mem::take(&mut self.cluster),
        );
        *self = Self::new(client, self.auth.clone()).with_cluster(cluster);
    }
}

/// Forwards a command to the nodes: in the round, or by an action when it may block, is held back by a pause,
/// or its script must be known first.
#[inline]
fn forward<'f>(
    command: &CommandSpec,
    request: ClientRequest<'f, '_>,
    pipeline: &mut RawPipeline<'_, 'f>,
    pause: Pause,
    reads_as: ReadsAs,
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
    // Refused because the code of a function library is missing. The action fetches the code from the nodes
    // and routes the command again.
    if routed.is_err() && pipeline.snapshot()().lacks_code_for(args) {
        return Ok(Disposition::Act(Action::Script(frame.to_vec())));
    }
    let routed = routed.map_err(internal_refusal)?.limited_to(reads_as);
    let may_be_held = pause.may_delay(routed.access);
    // What it sends next depends on what the servers reply.
    if matches!(routed.plan, Plan::ScanSlots { .. }) && !may_be_held {
        return Ok(Disposition::Act(Action::Script(frame.to_vec())));
    }
    // On a shared connection it would hold up the requests of all other clients behind it.
    if routed.blocking != BlockingTime::None || (may_be_held && routed.scripting == Scripting::No) {
        return Ok(Disposition::Act(Action::RunBlocking(frame.to_vec())));
    }
    if routed.scripting == Scripting::Yes {
        // Alone, EVALSHA is sent as it is and the text follows only after NOSCRIPT. Within a round a NOSCRIPT
        // would come too late: the commands behind it have run by then, so the text is sent ahead.
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

/// Converts an error of this crate into one for the client.
fn internal_refusal(error: Error) -> Refusal {
    Refusal::of(&error)
}

/// True for the first line of an HTTP POST and for a Host header.
///
/// A web page can make a browser send such a request to a port of the user's network, with Redis commands in
/// its body. A server closes the connection for these two words as well.
fn speaks_http(args: &[&[u8]]) -> bool {
    let first = args.first().copied().unwrap_or_default();
    first.eq_ignore_ascii_case(b"POST") || first.eq_ignore_ascii_case(b"Host:")
}
