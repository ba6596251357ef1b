//! One command, from its plan to its reply.
//!
//! The command is sent to the nodes of its plan. Three refusals are not final, because nothing was run and
//! the client has, or can get, what is missing. Each recovery is tried once:
//!
//! | refusal | recovery |
//! |---|---|
//! | NOSCRIPT from the node | EVAL with the source instead of EVALSHA |
//! | `Function not found` from the node | FUNCTION LOAD of all known libraries, then FCALL again |
//! | the router's own, for a function without keys of an unknown library | FUNCTION LIST, then route again |

use std::time::Instant;

use crate::command::{BlockingTime, Partial, Scripting};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::batch::{Batch, NodeRequest, ReplySlot, ServerOf};
use crate::plan::operation::scan::{ScanInProgress, ScanProgress};
use crate::plan::operation::{Operation, ReplyForm, ScriptStore, Step};
use crate::plan::scripts::{LIST_LIBRARIES, Recovery};
use crate::plan::{
    Answers, EarlyAttempt, Exchange, ExchangeStep, ExpectedEnd, Plan, RoutedCommand, Router, Scope,
    ScriptCache,
};
use crate::topology::LivingNodes;

/// One packed command and its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The command in the wire format.
    pub(crate) packed: &'a [u8],
    /// Its arguments; the first is its name. Slices of `packed`.
    pub(crate) args: &'a [&'a [u8]],
}

/// One command under way. The parent module has a picture of its states.
pub(crate) struct CommandOperation<'a, R: ReplyForm> {
    router: &'a Router,
    scripts: &'a dyn ScriptStore,
    request: Request<'a>,
    context: R::Context,
    /// Random bits, for commands that any node may serve and for RANDOMKEY.
    entropy: u64,
    /// The exchange of the current state; empty where the state sends nothing.
    exchange: Exchange<R>,
    state: State<'a>,
    /// The nodes that a script command concerns: all, or only its own.
    scope: Scope,
    /// True if the command is sent over a dedicated connection. FUNCTION LOADs before it are sent over that
    /// one too.
    is_pinned: bool,
    /// How long CLIENT PAUSE may hold each exchange back, besides the time that the command itself blocks.
    held: BlockingTime,
}

/// The exchange under way, and what follows it.
enum State<'a> {
    /// Refused with this error. The exchange, if it has a request, only ends a transaction; its reply is
    /// ignored.
    Refused(Error),
    /// FUNCTION LIST. The command was refused with this error, which stands if the libraries do not show its
    /// keys.
    Listing(Error),
    /// The command, to several nodes; the replies are merged.
    FanOut(Batch<'a, 'a>, Scripting),
    /// The requests of SCAN over a cluster; see `scan`.
    Scanning(Box<ScanInProgress>),
    /// The command, to one node or to any. The only state whose reply may lead to a recovery.
    Sent(RoutedCommand),
    /// FUNCTION LOAD of all known libraries on the node that lacked a function.
    Loading(ServerOf, RoutedCommand),
    /// The command again, or EVAL in its place; its reply is final.
    Resent(RoutedCommand),
    /// The result was returned.
    Done,
}

impl<'a, R: ReplyForm> CommandOperation<'a, R> {
    /// A command for the nodes of its keys. `routed` is the result of [`Router::route`] for it, `entropy` a
    /// random number that chooses among nodes where any may serve it.
    pub(crate) fn new(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        routed: Result<RoutedCommand, Error>,
        context: R::Context,
        entropy: u64,
    ) -> Self {
        let mut operation = Self::empty(router, scripts, request, context, entropy);
        operation.begin(routed);
        operation
    }

    fn empty(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        context: R::Context,
        entropy: u64,
    ) -> Self {
        Self {
            router,
            scripts,
            request,
            context,
            entropy,
            exchange: Exchange::new([], BlockingTime::None, LivingNodes::none()),
            state: State::Done,
            scope: Scope::AllNodes,
            is_pinned: false,
            held: BlockingTime::None,
        }
    }

    /// Prepares the first exchange.
    fn begin(&mut self, routed: Result<RoutedCommand, Error>) {
        match routed {
            Ok(routed) => self.send(routed),
            // Only for a function without keys whose library is unknown; no other refusal depends on the
            // nodes.
            Err(refusal) if self.scripts.snapshot().lacks_code_for(self.request.args) => {
                self.list_libraries(refusal);
            }
            Err(refusal) => self.state = State::Refused(refusal),
        }
    }

    /// The command after it was sent to its node once, with this result. It may have to go elsewhere.
    pub(crate) fn after_attempt(mut self, attempt: EarlyAttempt<R>) -> Self {
        self.exchange.set_early(attempt);
        self
    }

    /// A command for one node that the user named.
    ///
    /// It never moves to another node, and a library that it loads is not distributed to the other nodes: see
    /// [`Scope::OneNode`].
    pub(crate) fn at_node(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        routed: RoutedCommand,
        context: R::Context,
    ) -> Self {
        // No randomness is needed: the node is given.
        let mut operation = Self::empty(router, scripts, request, context, 0);
        operation.scope = Scope::OneNode;
        operation.begin(Ok(routed));
        operation
    }

    /// A command over a dedicated connection, and never over another one.
    ///
    /// `packed` is sent instead of the request. They differ inside MULTI, where EVAL replaces EVALSHA: the
    /// reply, QUEUED, could not show that the script is missing. Its second part is the number of replies, of which one is
    /// that to the request.
    pub(crate) fn pinned(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        (packed, replies): (Vec<u8>, usize),
        routed: RoutedCommand,
        context: R::Context,
    ) -> Self {
        // Commands for dedicated connections are always planned for one node; the executor uses its own
        // connection anyway.
        let node = match routed.plan {
            Plan::One(node) => node,
            _ => NodeIndex::new(0),
        };
        Self {
            router,
            scripts,
            request,
            context,
            entropy: 0,
            exchange: Exchange::new(
                [NodeRequest::pinned(node, packed, replies, ExpectedEnd::Any)],
                routed.blocking,
                LivingNodes::none(),
            ),
            state: State::Sent(routed),
            scope: Scope::OneNode,
            is_pinned: true,
            held: BlockingTime::None,
        }
    }

    /// A command that is refused with `refusal` after `tidy_up` was sent: a packed command for the dedicated
    /// connection to that node. Its reply is ignored.
    pub(crate) fn refused(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        tidy_up: (NodeIndex, &[u8]),
        refusal: Error,
        context: R::Context,
    ) -> Self {
        let routed = RoutedCommand::write(tidy_up.0);
        let packed = (tidy_up.1.to_vec(), 1);
        let mut operation = Self::pinned(router, scripts, request, packed, routed, context);
        operation.state = State::Refused(refusal);
        operation
    }

    /// Extends every exchange by the time that CLIENT PAUSE may hold commands back.
    #[cfg(feature = "proxy")]
    pub(crate) fn held_back(mut self, held: BlockingTime) -> Self {
        self.held = held;
        self.exchange.add_blocking(held);
        self
    }

    /// Begins to list the libraries of a node, which may show the keys of a function that was refused with
    /// `refusal`.
    fn list_libraries(&mut self, refusal: Error) {
        // All nodes should have the same libraries, so one is enough. The first reachable one, not a random
        // one: where nodes differ after all, a function must not exist in one call and be missing in the
        // next.
        let mut batch = Batch::new(self.router, LIST_LIBRARIES.len(), 0);
        batch.add_any(LIST_LIBRARIES, RoutedCommand::read(batch.any_node()));
        self.exchange = batch.exchange();
        self.state = State::Listing(refusal);
    }

    /// Prepares the exchange of the planned command, within the time that an earlier FUNCTION LIST has left.
    fn send(&mut self, routed: RoutedCommand) {
        let end = self.exchange.end();
        let slot = ReplySlot::whole(0, routed.access);
        let (node, slot) = match routed.plan {
            Plan::One(node) => (node, slot),
            Plan::Any => {
                let chosen = routed.preferred;
                let node = chosen.unwrap_or_else(|| self.router.random_node(self.entropy));
                (node, slot.anywhere())
            }
            Plan::ScanSlots { .. } => {
                let is_partial = routed.partial != Partial::Refused;
                let scan = ScanInProgress::new(self.router, self.request.args, is_partial);
                self.state = match scan {
                    Ok(scan) => State::Scanning(Box::new(scan)),
                    Err(refusal) => State::Refused(refusal),
                };
                return;
            }
            Plan::Split(_) | Plan::All(_) | Plan::Scan { .. } => {
                let Request { packed, args } = self.request;
                let mut batch = Batch::new(self.router, packed.len(), self.entropy);
                let scripting = routed.scripting;
                batch.add(packed, args, routed);
                self.exchange = self.following(batch.exchange().until(end));
                self.state = State::FanOut(batch, scripting);
                return;
            }
        };
        let mut request = NodeRequest::single(node, self.request.packed.to_vec(), slot);
        request.may_use_replica = routed.may_use_replica;
        request.repairs_noscript = routed.may_use_replica
            && routed.scripting == Scripting::Yes
            && self.scripts.snapshot().repairs_noscript(self.request.args);
        let living = self.router.topology().living_nodes();
        self.exchange =
            self.following(Exchange::new([request], routed.blocking, living).until(end));
        self.state = State::Sent(routed);
    }

    /// Has the redirects of a cluster followed, unless the user has named the node.
    fn following(&self, exchange: Exchange<R>) -> Exchange<R> {
        match self.scope {
            Scope::AllNodes => exchange.for_router(self.router),
            Scope::OneNode => exchange.at_node(self.router),
        }
    }

    /// Prepares an exchange of these requests with one node, within the time that is left.
    ///
    /// Commands about scripts do not block, so it ends after the response timeout at the latest.
    fn send_to<P: AsRef<[u8]>>(
        &mut self,
        server: ServerOf,
        requests: &[P],
        routed: &RoutedCommand,
    ) {
        let mut request = match self.is_pinned {
            true => NodeRequest::pinned(server.node, Vec::new(), 0, ExpectedEnd::Any),
            false => NodeRequest::at_server(server),
        };
        // Libraries can be large: one allocation of the exact size.
        let bytes = requests.iter().map(|packed| packed.as_ref().len());
        request.packed.reserve_exact(bytes.sum());
        for packed in requests {
            let slot = ReplySlot::whole(0, routed.access);
            request.push(slot, |out| out.extend_from_slice(packed.as_ref()));
        }
        // What this node lacks must be sent to this node.
        self.exchange = self.exchange.successor([request], routed.blocking);
        self.exchange.add_blocking(self.held);
    }

    /// Takes the exchange out, leaving an empty one that keeps the deadline for the next.
    fn take_exchange(&mut self) -> Exchange<R> {
        let none = self.exchange.successor([], BlockingTime::None);
        std::mem::replace(&mut self.exchange, none)
    }

    /// Records the listed libraries, and routes the command again with what they show.
    fn handle_listing(&mut self, refusal: Error) {
        let listed = self.take_exchange().into_last();
        let Some(libraries) = listed.and_then(|(_, answers)| answers.values.first_value()) else {
            // No node replied: that the function is unknown is the better error, since it names the way out.
            self.state = State::Refused(refusal);
            return;
        };
        // Recorded in the cache of the client, so that the next call of the function is planned without a
        // listing.
        let scripts = self.scripts;
        scripts.update(&mut |cache| ScriptCache::record_libraries(cache, &libraries));
        match self.router.route(self.request.args, &|| scripts.snapshot()) {
            Ok(routed) => {
                self.send(routed);
                self.exchange.add_blocking(self.held);
            }
            Err(refusal) => self.state = State::Refused(refusal),
        }
    }

    /// The reply to a read whose node is out of reach, if it is answered as if its keys did not exist.
    fn miss_reply(
        &self,
        routed: &RoutedCommand,
        node: NodeIndex,
        answers: &Answers<R>,
    ) -> Option<R::Reply> {
        let failure = answers.failure.as_ref()?;
        let (fallback, args) = (routed.reads_as.into(), self.request.args);
        let mut frame = Vec::new();
        let is_missed = answers.values.count() == 0
            && self
                .router
                .miss_reply(fallback, node, args, failure, &mut frame);
        is_missed.then(|| R::from_frame(frame)).flatten()
    }

    /// The result of a command that went to one node; `None` when the node lacked a script and a recovery was
    /// prepared.
    ///
    /// `may_recover` is false after a recovery: otherwise a node that forgets its scripts at once (SCRIPT
    /// FLUSH in a loop) would be sent the command forever.
    fn handle_reply(
        &mut self,
        routed: RoutedCommand,
        may_recover: bool,
    ) -> Option<Result<R::Reply, Error>> {
        let servers = self.exchange.take_servers();
        let (last, answers) = self.take_exchange().into_last()?;
        let node = last.node;
        if let Some(reply) = self.miss_reply(&routed, node, &answers) {
            return Some(Ok(reply));
        }
        let name = last.node_name(self.router);
        let reply = match R::single(answers, &name, routed.access) {
            Ok(reply) => reply,
            Err(error) => return Some(Err(error)),
        };
        if routed.scripting == Scripting::No || !may_recover {
            return Some(self.result(&name, reply));
        }
        // By the current cache: it may have learned the script after this command was routed.
        let args = self.request.args;
        match R::recovery(self.scripts, args, &reply) {
            None => {
                let reply = R::record(self.scripts, args, self.scope, self.context, reply);
                return Some(self.result(&name, reply));
            }
            Some(Recovery::Resend(request)) => {
                self.send_to(last.into_server(), &[request], &routed);
                // To the server that lacked the script: another one may lack it as well.
                self.exchange.set_servers(servers);
                self.state = State::Resent(routed);
            }
            Some(Recovery::LoadThenResend(loads)) => {
                let server = last.into_server();
                self.send_to(server.clone(), &loads, &RoutedCommand::write(node));
                self.state = State::Loading(server, routed);
            }
        }
        None
    }

    /// The result of a command whose reply is `reply`. A dedicated connection needs the reply itself, even if
    /// it is an error: it shows the connection's state.
    fn result(&self, node: &str, reply: R::Reply) -> Result<R::Reply, Error> {
        match self.is_pinned {
            true => Ok(reply),
            false => R::result(reply, node),
        }
    }
}

impl<R: ReplyForm> Operation for CommandOperation<'_, R> {
    type Replies = R;
    type Output = Result<R::Reply, Error>;

    fn poll(&mut self, now: Instant) -> Step<'_, R, Self::Output> {
        // Each state is taken out before it is acted upon, and no state leads back to an earlier one. So the
        // loop ends, and a poll after the end finds `Done`.
        loop {
            if self.exchange.poll(now) != ExchangeStep::Done {
                return Step::Send(&mut self.exchange);
            }
            match std::mem::replace(&mut self.state, State::Done) {
                // After the exchange, if any: the transaction on the server must be ended before the user
                // learns of it.
                State::Refused(refusal) => return Step::Done(Err(refusal)),
                State::Listing(refusal) => self.handle_listing(refusal),
                State::FanOut(batch, scripting) => {
                    let exchange = self.take_exchange();
                    let merged = R::merged(batch, exchange, self.context, self.entropy);
                    return Step::Done(match (merged, scripting) {
                        (Ok(reply), Scripting::Yes) => Ok(R::record(
                            self.scripts,
                            self.request.args,
                            self.scope,
                            self.context,
                            reply,
                        )),
                        (merged, _) => merged,
                    });
                }
                State::Scanning(mut scan) => {
                    let done = self.take_exchange();
                    match scan.next(self.router, done) {
                        ScanProgress::Send(exchange) => {
                            self.exchange = exchange.until(self.exchange.end());
                            self.exchange.add_blocking(self.held);
                            self.state = State::Scanning(scan);
                        }
                        ScanProgress::Done(reply) => {
                            let context = self.context;
                            return Step::Done(reply.map(|value| R::from_value(value, context)));
                        }
                    }
                }
                State::Sent(routed) => {
                    if let Some(result) = self.handle_reply(routed, true) {
                        return Step::Done(result);
                    }
                }
                State::Loading(server, routed) => {
                    // The replies to FUNCTION LOAD do not matter: a library may exist already, and if a
                    // function is still missing, the node's reply to the command itself shows it.
                    self.send_to(server, &[self.request.packed], &routed);
                    self.state = State::Resent(routed);
                }
                State::Resent(routed) => {
                    if let Some(result) = self.handle_reply(routed, false) {
                        return Step::Done(result);
                    }
                }
                State::Done => return Step::Done(Err(over())),
            }
        }
    }
}

/// The error of a poll after the end: an executor that polls on must not mistake anything for a reply.
pub(super) fn over() -> Error {
    Error::new(
        crate::error::ErrorKind::Unknown,
        "the result was already returned",
    )
}
