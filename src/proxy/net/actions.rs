//! Carries out the steps of an [`ActionTask`]: each becomes bytes to a node or to the client, or a change of
//! what all clients share.
//!
//! The steps, and what the client gets for their outcomes, are decided in
//! [`proxy::action`](crate::proxy::action). Here is only how a step is done: over which connection, with
//! which deadline, and what else is watched in the meantime.

use std::io;
use std::ops::ControlFlow;
use std::pin::pin;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::aio::{Shared, Subscriber};
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{Exchange, ExpectedEnd, PlannedTransaction, ScriptStore};
use crate::proxy::net::call::{self, CallContext, Waiting, send_for};
use crate::proxy::net::client_io::Interrupt;
use crate::proxy::net::connection::ClientConnection;
use crate::proxy::{
    Action, ActionContext, ActionOutcome, ActionStep, ActionTask, QueuedTransaction,
    RegistryRequest, SubscriptionRequest,
};
use crate::resp::Protocol;

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ClientConnection<'_, S> {
    /// Carries out `action`. `wants_reply` is false if CLIENT REPLY has switched the reply off. Returns
    /// `Break` if the connection is to be closed.
    pub(super) async fn perform(
        &mut self,
        action: Action,
        wants_reply: bool,
    ) -> io::Result<ControlFlow<()>> {
        let mut task = ActionTask::new(action, wants_reply);
        let flow = loop {
            let shared = self.shared();
            let step = task.poll(&mut self.action_context(&shared));
            if let ActionStep::Done(flow) = step {
                break flow;
            }
            let outcome = self.take_step(step).await?;
            task.handle(outcome, &mut self.action_context(&shared));
        };
        // An action may have changed the protocol, the name or the subscriptions.
        self.entry.publish(self.session.client());
        Ok(flow)
    }

    /// Borrows what a task may read and change. Made anew for each step, because a pause may begin or end
    /// between two.
    fn action_context<'c>(&'c mut self, shared: &'c Shared) -> ActionContext<'c> {
        ActionContext {
            router: &shared.router,
            pause: self.proxy.registry.pause(),
            session: &mut self.session,
            out: &mut self.out,
        }
    }

    /// Carries out one step.
    async fn take_step(&mut self, step: ActionStep) -> io::Result<ActionOutcome> {
        let registry = &self.proxy.registry;
        match step {
            ActionStep::Done(_) => {}
            ActionStep::Flush => self.flush().await?,
            ActionStep::Yield => tokio::task::yield_now().await,
            ActionStep::Lease(node) => return Ok(ActionOutcome::Leased(self.lease(node).await)),
            ActionStep::LeaseInCluster { node, packed } => {
                let (server, answers) = Box::pin(self.lease_in_cluster(node, packed)).await?;
                return Ok(ActionOutcome::Watched { server, answers });
            }
            ActionStep::SendOnLease {
                packed,
                replies,
                expected_end,
            } => {
                let answers = self.send_on_lease(&packed, replies, expected_end).await;
                return Ok(ActionOutcome::Answered(answers));
            }
            ActionStep::ReleaseLease => {
                if let Some(leased) = self.lease.take() {
                    leased.lease.release();
                }
            }
            ActionStep::DropLease => self.lease = None,
            ActionStep::Call { packed } => {
                return Ok(ActionOutcome::Reply(self.call(&packed).await?));
            }
            ActionStep::CallNode { node, packed } => {
                return Ok(ActionOutcome::Reply(self.call_node(node, &packed).await?));
            }
            ActionStep::CallBlocking { packed } => return self.call_blocking(&packed).await,
            ActionStep::SetBlocked(blocked) => self.entry.set_blocked(blocked),
            ActionStep::Exec {
                transaction,
                on_lease,
            } => {
                return self.exec(&transaction, on_lease).await;
            }
            ActionStep::Subscribe(request) => {
                return Ok(ActionOutcome::Subscribed(self.subscribe(request).await));
            }
            ActionStep::PassOnMessages => return self.pass_on_messages().await,
            ActionStep::DropSubscriber => self.io.subscriber = None,
            ActionStep::BeginPause { pause, length } => registry.begin_pause(pause, length),
            ActionStep::EndPause => registry.end_pause(),
            ActionStep::Registry(request) => {
                return Ok(ActionOutcome::Reply(self.ask_registry(&request)));
            }
            ActionStep::ServerVersion => return Ok(ActionOutcome::Version(registry.version())),
            ActionStep::SetServerVersion(version) => registry.set_version(&version),
        }
        Ok(ActionOutcome::Done)
    }

    /// Returns the deadline of a request sent now. The nodes may hold replies back for as long as they are
    /// paused.
    pub(super) fn deadline(&self, shared: &Shared) -> Deadline {
        shared.executor.deadline(self.proxy.registry.pause_time())
    }

    /// Returns how a command outside of a round is sent.
    fn call_context(&self) -> CallContext {
        let (session, pause) = (&self.session, self.proxy.registry.pause_time());
        (session.protocol(), pause, session.reads_as(), self.meter())
    }

    /// Sends one command to the node of its keys, or to all nodes.
    async fn call(&mut self, packed: &[u8]) -> io::Result<Vec<u8>> {
        let (how, shared) = (self.call_context(), self.shared());
        call::call(&shared, packed, how, Some(self.waiting())).await
    }

    /// Sends one command to this node.
    async fn call_node(&mut self, node: NodeIndex, packed: &[u8]) -> io::Result<Vec<u8>> {
        let (how, shared) = (self.call_context(), self.shared());
        call::call_at(&shared, node, packed, how, Some(self.waiting())).await
    }

    /// This client, whose socket is watched while it waits for a node.
    pub(super) fn waiting(&mut self) -> Waiting<'_, S> {
        Waiting {
            io: &mut self.io,
            session: &self.session,
        }
    }

    /// Sends one command that may wait, until its reply, CLIENT UNBLOCK, or the end of the client or of the
    /// proxy. Bytes that the client sends in the meantime are kept.
    ///
    /// Dropping the future of the command closes its exclusive connection, so that a client that has gone
    /// takes no element from a list.
    async fn call_blocking(&mut self, packed: &[u8]) -> io::Result<ActionOutcome> {
        let shared = self.shared();
        let how = self.call_context();
        // Its socket is watched below.
        let mut reply = pin!(call::call(&shared, packed, how, None::<Waiting<'_, S>>));
        loop {
            // `ClientIo::read` reports only that some flag was set, so each wait begins with a look at them.
            if self.entry.is_killed() || self.proxy.registry.is_stopping() {
                return Ok(ActionOutcome::Closed);
            }
            if let Some(how) = self.entry.take_unblocked() {
                return Ok(ActionOutcome::Unblocked(how));
            }
            // All bytes are read, because the end of the stream shows only behind them, and a client that has
            // gone must not take an element from the list. The query limit ends a client that sends without
            // end.
            self.io.take_arrived(&mut self.input);
            let behind = self.input.len();
            if behind > self.io.limits.query_bytes {
                return Ok(ActionOutcome::Closed);
            }
            self.count_memory();
            let listen = self.io.read(&mut self.input, behind + 1, &self.session);
            // Polls the reply first: one that has arrived wins over CLIENT UNBLOCK, since its element has
            // left the list already.
            let interrupt = match select(reply.as_mut(), pin!(listen)).await {
                Either::Left((reply, _)) => return Ok(ActionOutcome::Reply(reply?)),
                Either::Right((interrupt, _)) => interrupt?,
            };
            match interrupt {
                Interrupt::Bytes(0) => return Ok(ActionOutcome::Closed),
                Interrupt::Bytes(_) | Interrupt::Notified => {}
                Interrupt::Event(event) => {
                    if self.push_event(event).is_break() {
                        return Ok(ActionOutcome::Closed);
                    }
                    self.flush().await?;
                }
            }
        }
    }

    /// Sends MULTI ... EXEC. Scripts that the node may lack are loaded within the transaction.
    async fn exec(
        &mut self,
        transaction: &QueuedTransaction,
        on_lease: bool,
    ) -> io::Result<ActionOutcome> {
        let protocol = self.session.protocol();
        let shared = self.shared();
        let snapshot = || shared.snapshot();
        let mut node = transaction.node_of(&shared.router, rand::random());
        let rewritten = transaction.rewritten(node, &snapshot);
        let packed = rewritten
            .as_ref()
            .map_or(&transaction.packed, |rewritten| &rewritten.packed);
        // The loads come before the client's commands, and their replies are dropped below.
        let ahead = rewritten
            .as_ref()
            .map_or(0, |rewritten| rewritten.journal.preloads());
        let commands = ahead + transaction.commands;
        let mut answers = match on_lease {
            true => {
                let sent = (&packed[..], commands + 2);
                let answers = self.send_on_lease(sent.0, sent.1, ExpectedEnd::Exec).await;
                if self.is_discarded_by_cluster(&shared, sent, &answers) {
                    return Ok(ActionOutcome::Moved);
                }
                answers
            }
            false => {
                let living = shared.router.topology().living_nodes();
                let request = transaction.exchange(node, packed, commands);
                let blocking = self.proxy.registry.pause_time();
                let mut requests =
                    Exchange::new([request], blocking, living).for_router(&shared.router);
                let meter = self.meter();
                send_for(&shared, &mut requests, &meter, &mut self.waiting()).await?;
                // A transaction without keys may have moved to another node.
                let (last, answers) = requests.into_last().unzip();
                node = last.map_or(node, |last| last.node);
                answers.unwrap_or_default()
            }
        };
        if let Some(rewritten) = &rewritten {
            rewritten.journal.drop_raw_preloads(&mut answers);
            let mut reply = Vec::new();
            let name = shared.router.name(node);
            PlannedTransaction::raw_exec_reply(name, &answers, protocol, &mut reply);
            if !rewritten.journal.is_empty() {
                shared.update(&mut |cache| rewritten.journal.record_raw(cache, &reply));
            }
        }
        Ok(ActionOutcome::Executed { node, answers })
    }

    /// Changes subscriptions, and waits until the nodes have confirmed.
    async fn subscribe(&mut self, request: SubscriptionRequest) -> Result<(), Error> {
        // Messages are encoded again for the client's protocol, so the connections of one protocol serve all
        // clients.
        let shared = self.proxy.shared(Protocol::Resp2);
        let subscriber = self
            .io
            .subscriber
            .get_or_insert_with(|| Subscriber::new(shared.clone()));
        subscriber
            .change(request.change, request.kind, request.names)
            .await
    }

    /// Writes the messages that have arrived, until there are none: what came before the confirmation of
    /// UNSUBSCRIBE belongs before it.
    async fn pass_on_messages(&mut self) -> io::Result<ActionOutcome> {
        loop {
            let before = self.out.len();
            if self.push_events().is_break() {
                return Ok(ActionOutcome::Closed);
            }
            if self.out.len() == before {
                return Ok(ActionOutcome::Done);
            }
            self.flush().await?;
        }
    }

    /// Carries out a request about clients.
    fn ask_registry(&self, request: &RegistryRequest) -> Vec<u8> {
        // The client's own line in CLIENT LIST must be up to date.
        self.entry.publish(self.session.client());
        let (id, protocol) = (self.session.id(), self.session.protocol());
        let mut reply = Vec::new();
        self.proxy
            .registry
            .answer(request, id, protocol, &mut reply);
        reply
    }

    /// Writes an error of this crate as a reply.
    pub(super) fn write_error_reply(&mut self, error: &Error) {
        let protocol = self.session.protocol();
        protocol.write(&mut self.out, &error.to_reply());
    }
}
