//! One command, until its reply.
//!
//! The command goes as its plan says. Three replies are no end, because nothing was run and the client has what is missing:
//! NOSCRIPT (EVAL goes in the place of EVALSHA), `Function not found` (the libraries go, then FCALL again), and the router's
//! own refusal of a function without keys whose library it does not know (FUNCTION LIST, then a plan). Each is tried once.

use std::time::Instant;

use crate::command::{BlockingTime, Scripting};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::batch::{Batch, NodeRequest, ReplySlot};
use crate::plan::operation::{Operation, ReplyForm, ScriptStore, Step};
use crate::plan::scripts::{LIST_LIBRARIES, Recovery};
use crate::plan::{Exchange, ExpectedEnd, Plan, RoutedCommand, Router, Scope, ScriptCache};

/// One packed command and its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) packed: &'a [u8],
    pub(crate) args: &'a [&'a [u8]],
}

/// One command on its way: see the picture in the module above.
pub(crate) struct CommandOperation<'a, R: ReplyForm> {
    router: &'a Router,
    scripts: &'a dyn ScriptStore,
    request: Request<'a>,
    context: R::Context,
    entropy: u64,
    exchange: Exchange<R>,
    state: State<'a>,
    /// For how many nodes a script command is meant.
    scope: Scope,
    /// Sent over a connection that one user holds. What goes ahead of it goes over the same one.
    is_pinned: bool,
    /// Held back by somebody else's wish (CLIENT PAUSE), besides its own. Every exchange of the operation has this time,
    /// since the pause holds back each of them.
    held: BlockingTime,
}

enum State<'a> {
    /// Refused. What was sent, if anything, was sent to tidy up.
    Refused(Error),
    /// Refused, but the libraries of the nodes may show its keys: they are being listed.
    Listing(Error),
    /// Sent to several nodes.
    FanOut(Batch<'a, 'a>, Scripting),
    /// Sent to one node, or to any.
    Sent(RoutedCommand),
    /// The libraries that the node lacks are being loaded.
    Loading(NodeIndex, RoutedCommand),
    /// Sent again; whatever the node replies now is the reply.
    Resent(RoutedCommand),
    Done,
}

impl<'a, R: ReplyForm> CommandOperation<'a, R> {
    /// One that goes to the nodes of its keys. `routed` is what [`Router::route`] says of it. `entropy` is any number: it
    /// decides where there is a choice.
    pub(crate) fn new(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        routed: Result<RoutedCommand, Error>,
        context: R::Context,
        entropy: u64,
    ) -> Self {
        let mut operation = Self {
            router,
            scripts,
            request,
            context,
            entropy,
            exchange: Exchange::new([], BlockingTime::None, 0),
            state: State::Done,
            scope: Scope::AllNodes,
            is_pinned: false,
            held: BlockingTime::None,
        };
        match routed {
            Ok(routed) => operation.send(routed),
            Err(refusal) if scripts.snapshot().lacks_code_for(request.args) => {
                operation.list_libraries(refusal);
            }
            Err(refusal) => operation.state = State::Refused(refusal),
        }
        operation
    }

    /// One that goes to one node because the user says so. It never goes to another one, and a library that it loads is not
    /// brought to the others: see [`Scope::OneNode`].
    pub(crate) fn at_node(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        routed: RoutedCommand,
        context: R::Context,
    ) -> Self {
        let mut operation = Self::new(router, scripts, request, Ok(routed), context, 0);
        operation.scope = Scope::OneNode;
        operation
    }

    /// One that is sent over a connection to `node` that the user holds, and never over another one. `packed` is what is
    /// sent: inside MULTI the EVAL in the place of an EVALSHA, whose reply, QUEUED, cannot show that the script is missing.
    pub(crate) fn pinned(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        packed: Vec<u8>,
        routed: RoutedCommand,
        context: R::Context,
    ) -> Self {
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
                [NodeRequest::pinned(node, packed, 1, ExpectedEnd::Any)],
                routed.blocking,
                1,
            ),
            state: State::Sent(routed),
            scope: Scope::OneNode,
            is_pinned: true,
            held: BlockingTime::None,
        }
    }

    /// One that is refused, after `packed`, if any, was sent over the connection to `node` that the user holds.
    pub(crate) fn refused(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        request: Request<'a>,
        tidy_up: (NodeIndex, &[u8]),
        refusal: Error,
        context: R::Context,
    ) -> Self {
        let routed = RoutedCommand::write(tidy_up.0);
        let packed = tidy_up.1.to_vec();
        let mut operation = Self::pinned(router, scripts, request, packed, routed, context);
        operation.state = State::Refused(refusal);
        operation
    }

    /// Gives it the time besides that the servers may hold all commands back.
    #[cfg(feature = "proxy")]
    pub(crate) fn held_back(mut self, held: BlockingTime) -> Self {
        self.held = held;
        self.exchange.add_blocking(held);
        self
    }

    fn list_libraries(&mut self, refusal: Error) {
        // Nodes have the same libraries, or are meant to.
        // The first that can be reached is asked, not one by chance: where nodes differ, a function must not be there at one
        // time and not at another.
        let mut batch = Batch::new(self.router, LIST_LIBRARIES.len(), 0);
        batch.add_any(LIST_LIBRARIES, RoutedCommand::read(batch.any_node()));
        self.exchange = batch.exchange();
        self.state = State::Listing(refusal);
    }

    /// Sends the command as it is planned, in the time that the listing left, if there was one.
    fn send(&mut self, routed: RoutedCommand) {
        let nodes = self.router.topology().nodes().len();
        let end = self.exchange.end();
        let slot = ReplySlot::whole(0, routed.access);
        let (node, slot) = match routed.plan {
            Plan::One(node) => (node, slot),
            Plan::Any => (self.router.random_node(self.entropy), slot.anywhere()),
            Plan::Split(_) | Plan::All(_) | Plan::Scan { .. } => {
                let Request { packed, args } = self.request;
                let mut batch = Batch::new(self.router, packed.len(), self.entropy);
                let scripting = routed.scripting;
                batch.add(packed, args, routed);
                self.exchange = batch.exchange().until(end);
                self.state = State::FanOut(batch, scripting);
                return;
            }
        };
        let request = NodeRequest::single(node, self.request.packed.to_vec(), slot);
        self.exchange = Exchange::new([request], routed.blocking, nodes).until(end);
        self.state = State::Sent(routed);
    }

    /// Sends these requests to the node that replied, within the time that is left. A command that concerns scripts waits
    /// for nothing, so this ends after the response timeout at the latest, also where the first exchange had no end.
    fn send_to<P: AsRef<[u8]>>(&mut self, node: NodeIndex, requests: &[P], routed: &RoutedCommand) {
        let end = self.exchange.end();
        let mut request = match self.is_pinned {
            true => NodeRequest::pinned(node, Vec::new(), 0, ExpectedEnd::Any),
            false => NodeRequest::new(node),
        };
        let bytes = requests.iter().map(|packed| packed.as_ref().len());
        request.packed.reserve_exact(bytes.sum());
        for packed in requests {
            let slot = ReplySlot::whole(0, routed.access);
            request.push(slot, |out| out.extend_from_slice(packed.as_ref()));
        }
        self.exchange = Exchange::new([request], routed.blocking, 1).until(end);
        self.exchange.add_blocking(self.held);
    }

    fn take_exchange(&mut self) -> Exchange<R> {
        let none = Exchange::new([], BlockingTime::None, 0).until(self.exchange.end());
        std::mem::replace(&mut self.exchange, none)
    }

    /// Goes on after the libraries were listed: with the plan that they show, if they do.
    fn handle_listing(&mut self, refusal: Error) {
        let listed = self.take_exchange().into_last();
        let Some(libraries) = listed.and_then(|(_, answers)| answers.values.first_value()) else {
            self.state = State::Refused(refusal);
            return;
        };
        // What is listed is known from now on: the next call of the function is planned at once.
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

    /// The reply of the one node; `None` when it lacked a script, which is brought to it. The reply of a command that was
    /// resent stands as it is, or a node that forgets at once would be asked for ever.
    fn handle_reply(
        &mut self,
        routed: RoutedCommand,
        may_recover: bool,
    ) -> Option<Result<R::Reply, Error>> {
        let (node, answers) = self.take_exchange().into_last()?;
        let reply = match R::single(answers, self.router.name(node), routed.access) {
            Ok(reply) => reply,
            Err(error) => return Some(Err(error)),
        };
        if routed.scripting == Scripting::No || !may_recover {
            return Some(Ok(reply));
        }
        let args = self.request.args;
        match R::recovery(&self.scripts.snapshot(), args, &reply) {
            None => {
                let reply = R::record(self.scripts, args, self.scope, self.context, reply);
                return Some(Ok(reply));
            }
            Some(Recovery::Resend(request)) => {
                self.send_to(node, &[request], &routed);
                self.state = State::Resent(routed);
            }
            Some(Recovery::LoadThenResend(loads)) => {
                self.send_to(node, &loads, &RoutedCommand::write(node));
                self.state = State::Loading(node, routed);
            }
        }
        None
    }
}

impl<R: ReplyForm> Operation for CommandOperation<'_, R> {
    type Replies = R;
    type Output = Result<R::Reply, Error>;

    fn poll(&mut self, now: Instant) -> Step<'_, R, Self::Output> {
        // Every state leads on, and none comes twice: it is taken out before it is acted upon, so that a poll after the end
        // finds `Done`.
        loop {
            if self.exchange.poll(now) {
                return Step::Send(&mut self.exchange);
            }
            match std::mem::replace(&mut self.state, State::Done) {
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
                State::Sent(routed) => {
                    if let Some(result) = self.handle_reply(routed, true) {
                        return Step::Done(result);
                    }
                }
                State::Loading(node, routed) => {
                    // Whatever became of the libraries: a node says itself what it still lacks.
                    self.send_to(node, &[self.request.packed], &routed);
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

/// An executor that polls on after the end must not take anything for a reply.
pub(super) fn over() -> Error {
    Error::new(
        crate::error::ErrorKind::Unknown,
        "the reply was given already",
    )
}
