//! [`Dedicated`]: a private connection to one node.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use crate::aio::Shared;
use crate::aio::exclusive_pool::Lease;
use crate::aio::node_connections::NodeConnections;
use crate::command::BlockingTime;
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::observe::{NodeObserver, Stopwatch};
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Attempt, Cause, DedicatedState, Exchange, ExchangeStep, Failure, KeyCheck,
    MOVING_PAUSE, Operation, Request, RequestOutcome, Selection, Step, is_chosen_again, parse_one,
};
use crate::snapshot::SnapshotHandle;
use crate::topology::NodeRef;

/// A connection to one node that nobody else uses: WATCH, MULTI, CLIENT and other stateful commands work on
/// it as they do on a connection of redis-rs. For SUBSCRIBE, use a [`Subscriber`](crate::aio::Subscriber), or in
/// RESP3 a command with `set_no_response(true)`, whose messages go to the
/// [push sender](crate::Builder::push_sender).
///
/// The connection is closed when the handle is dropped, and when one of its futures is dropped before it
/// completes. It is never reconnected, as its state would be lost: after a failure every call returns an
/// error.
///
/// A connection from [`ShardedClient::dedicated`](crate::aio::ShardedClient::dedicated) still checks keys: a
/// command for a key that another node owns is refused with [`CrossNode`](crate::ErrorKind::CrossNode).
pub struct Dedicated {
    pub(super) shared: SnapshotHandle<Shared>,
    /// The node's name, owned: the handle borrows nothing from a router.
    node: NodeRef,
    /// The connections to its node, from which it was taken. Not kept alive: they are closed when the node leaves.
    connections: Weak<NodeConnections>,
    observer: Arc<NodeObserver>,
    /// The connection. `None` once it has failed, and while a request is under way.
    lease: Option<Lease>,
    /// The epoch of the record by which the next request is checked.
    epoch: u64,
    /// The node, the key check, and what the commands sent so far have done to the connection's state.
    state: DedicatedState,
}

impl Dedicated {
    /// Leases a connection to the node that `choose` names, within the response timeout.
    pub(super) async fn open(
        handle: SnapshotHandle<Shared>,
        mut choose: impl FnMut(&Shared) -> Result<(NodeIndex, KeyCheck), Error>,
    ) -> Result<Self, Error> {
        let ready = handle.ready_async().await?;
        let deadline = ready.executor.deadline(BlockingTime::None);
        drop(ready);
        loop {
            let shared = handle.ready_async().await?;
            let (node, keys) = choose(&shared)?;
            match Self::take(handle.clone(), &shared, node, keys, deadline).await {
                Err(error) if is_chosen_again(&error) && !deadline.is_over() => {
                    tokio::time::sleep(MOVING_PAUSE).await;
                }
                taken => return taken,
            }
        }
    }

    async fn take(
        handle: SnapshotHandle<Shared>,
        shared: &Shared,
        node: NodeIndex,
        keys: KeyCheck,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let lease = shared.executor.lease(node, deadline).await;
        let lease = lease
            .map_err(|cause| Failure::not_sent(cause).without_answer(shared.router.name(node)))?;
        Ok(Self {
            node: shared.router.node_ref(node),
            connections: Arc::downgrade(shared.executor.connections(node)),
            observer: Arc::clone(&shared.executor.connections(node).observer),
            epoch: shared.executor.epoch(node),
            shared: handle,
            lease: Some(lease),
            state: DedicatedState::new(node, keys),
        })
    }

    /// The name of the node that the connection goes to.
    pub fn node_name(&self) -> &str {
        self.node.spec().name()
    }

    /// What the connection's user has done to it.
    pub(super) fn state(&self) -> &DedicatedState {
        &self.state
    }

    /// Makes it a connection to the server that imports the slot of its keys.
    pub(super) fn set_asking(&mut self, is_asking: bool) {
        self.state.set_asking(is_asking);
    }

    /// The node of the connection.
    pub(super) fn node(&self) -> NodeIndex {
        self.state.node()
    }

    /// Finds the node in the current topology, by which the next request is checked.
    ///
    /// # Errors
    ///
    /// If the node has left or is reached otherwise, or keys have moved: the connection is closed then.
    pub(super) fn locate(&mut self) -> RedisResult<Arc<Shared>> {
        let shared = self.shared.load_full();
        let keys = (self.state.keys(), self.state.relies_on_server());
        let located = shared.router.locate_dedicated(&self.node, keys, |node| {
            let connections = shared.executor.connections(node);
            Arc::downgrade(connections).ptr_eq(&self.connections)
        });
        match located {
            Ok(node) => {
                self.state.set_node(node);
                self.epoch = shared.executor.epoch(node);
            }
            Err(error) => {
                self.state.set_moved(&shared.router);
                self.lease = None;
                return Err(error.into());
            }
        }
        Ok(shared)
    }

    /// Finds the node for a packed request, once none of its keys is on the way to another node.
    async fn locate_for(&mut self, packed: &[u8]) -> RedisResult<Arc<Shared>> {
        let shared = self.locate()?;
        match shared.router.held_back(packed, self.node_name()) {
            None => Ok(shared),
            Some(_) => Box::pin(self.wait_for(packed)).await,
        }
    }

    async fn wait_for(&mut self, packed: &[u8]) -> RedisResult<Arc<Shared>> {
        let deadline = self.shared.load().executor.deadline(BlockingTime::None);
        loop {
            tokio::time::sleep(MOVING_PAUSE).await;
            let shared = self.locate()?;
            match shared.router.held_back(packed, self.node_name()) {
                None => return Ok(shared),
                Some(error) if deadline.is_over() => return Err(error.into()),
                Some(_) => {}
            }
        }
    }

    /// False once the connection has failed.
    pub(super) fn is_open(&self) -> bool {
        self.lease.is_some()
    }

    /// Ends the use. A connection whose state is unchanged goes back to the pool; any other is closed.
    pub(super) fn finish(self) {
        if let (true, Some(lease)) = (self.state.is_pristine(), self.lease) {
            lease.release();
        }
    }

    /// Presents the credentials and the name of the client if they have changed, unless the user has changed the
    /// state of the connection, which may include both.
    async fn renew_login(&mut self) -> RedisResult<()> {
        let shared = self.shared.load_full();
        let deadline = shared.executor.deadline(BlockingTime::None);
        // Without time the request is not sent either, and the connection stays.
        if !self.state.may_renew_login(&shared.router) || deadline.is_zero() {
            return Ok(());
        }
        // Taken out for the duration: a connection that could not be renewed is closed.
        let Some(lease) = self.lease.take() else {
            return Ok(());
        };
        let renewed = lease.renew(deadline).await;
        let renewed = renewed.map_err(Failure::not_sent);
        renewed.map_err(|failure| failure.without_answer(self.node_name()))?;
        self.lease = Some(lease);
        Ok(())
    }

    /// Sends one packed command, once the state of the connection permits it, and records its effect.
    async fn send_command(&mut self, packed: &[u8]) -> RedisResult<Value> {
        // First: what it presents is not newer than the topology that is loaded then.
        self.renew_login().await?;
        let shared = self.locate_for(packed).await?;
        let args = &parse_one(packed)?;
        let operation = self
            .state
            .command(&shared.router, &*shared, Request { packed, args })?;
        let reply = self.run(operation).await?;
        self.state.replied(args, &reply);
        self.state.check_slot(&shared.router)?;
        Ok(reply)
    }

    /// Sends one packed command whose reply the caller does not want: SUBSCRIBE and the like in RESP3, which are
    /// confirmed by push messages. The reply to any other command is read and dropped.
    async fn send_without_reply(&mut self, packed: &[u8]) -> RedisResult<Value> {
        let args = &parse_one(packed)?;
        let shared = self.locate()?;
        if !shared.router.is_answered_by_push(args) {
            return self.send_command(packed).await.map(|_| Value::Nil);
        }
        let request = Request { packed, args };
        let mut exchange = self.state.command_before_ping(&shared.router, request)?;
        self.exchange(&mut exchange).await;
        let answers = exchange.into_last().map(|(_, answers)| answers);
        let mut answers = answers.unwrap_or_default();
        if let Some(failure) = answers.failure {
            return Err(failure.without_answer(self.node_name()).into());
        }
        match answers.values.pop() {
            Some(refusal @ Value::ServerError(_)) => {
                self.lease = None;
                Ok(refusal)
            }
            _ => Ok(Value::Nil),
        }
    }

    /// Sends a packed pipeline and returns `count` of its replies, after the first `offset`.
    async fn send_pipeline(
        &mut self,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let selection = Selection::of(packed, offset, count)?;
        self.renew_login().await?;
        let shared = self.locate_for(packed).await?;
        let operation = self
            .state
            .pipeline(&shared.router, &*shared, packed, selection.kind)?;
        let values = self.run(operation).await?.values;
        self.state.replied_all(packed, selection.kind, &values);
        Ok(selection.select(values))
    }

    /// Polls an operation to its end, over this connection only.
    async fn run<T>(
        &mut self,
        mut operation: impl Operation<Replies = Vec<Value>, Output = T>,
    ) -> T {
        loop {
            match operation.poll(Instant::now()) {
                Step::Send(exchange) => self.exchange(exchange).await,
                Step::Done(result) => return result,
            }
        }
    }

    /// Sends all pending requests over this connection, which is closed if one of them fails.
    async fn exchange(&mut self, exchange: &mut Exchange) {
        let shared = self.shared.load_full();
        let deadline = shared.executor.begin(exchange);
        // Nothing is sent again over a dedicated connection, so there is no pause to wait for.
        while exchange.poll(Instant::now()) == ExchangeStep::Send {
            for node in exchange.nodes_mut() {
                while let Some(attempt) = node.attempt() {
                    let mut answers = self.send(attempt, deadline).await;
                    self.state.receive(&shared.router, &mut answers);
                    node.handle(answers);
                }
            }
        }
        shared.executor.report(self.state.take_reports());
        if let Some(pause) = self.state.take_pause(rand::random()) {
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends one request and reads its replies.
    async fn send(&mut self, attempt: Attempt<'_>, deadline: Deadline) -> Answers {
        // Taken out for the duration: if the future is dropped before the replies have come, the lease is
        // dropped with it and the connection is closed, instead of handing those replies to the next command.
        let Some(lease) = self.lease.take() else {
            return Answers::failed(Failure::not_sent(Cause::failed_before()));
        };
        let request = attempt.request;
        let observer = Arc::clone(&self.observer);
        observer.started(attempt.kind());
        // Not timed: blocking commands are sent here as well, and cannot be distinguished.
        let stopwatch = Stopwatch::start(BlockingTime::Forever);
        let answers = lease
            .connection
            .exchange_into(
                (&request.packed, self.epoch),
                request.slots.len(),
                request.ending,
                deadline,
                Vec::new(),
            )
            .await;
        observer.finished(stopwatch, || {
            RequestOutcome::of_answers(&answers, &request.slots)
        });
        let failure = answers.failure.as_ref();
        if failure.is_none_or(|failure| failure.cause.keeps_connection()) {
            self.lease = Some(lease);
        }
        answers
    }
}

impl fmt::Debug for Dedicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedicated")
            .field("node", &self.node_name())
            .field("open", &self.lease.is_some())
            .field("keys", &self.state.keys())
            .finish_non_exhaustive()
    }
}

impl ConnectionLike for Dedicated {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let packed = cmd.get_packed_command();
            match cmd.is_no_response() {
                true => self.send_without_reply(&packed).await,
                false => self.send_command(&packed).await,
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            self.send_pipeline(&pipeline.get_packed_pipeline(), offset, count)
                .await
        })
    }

    fn get_db(&self) -> i64 {
        self.shared.load().db
    }
}
