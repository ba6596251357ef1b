//! [`Dedicated`]: a private connection to one node.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use redis::{Cmd, ConnectionLike, RedisError, RedisResult, Value};

use crate::command::BlockingTime;
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::observe::Stopwatch;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Attempt, Cause, DedicatedState, Exchange, ExchangeStep, Failure, KeyCheck,
    MOVING_PAUSE, Operation, Request, RequestOutcome, Selection, Step, is_chosen_again, parse_one,
};
use crate::snapshot::SnapshotHandle;
use crate::sync::Shared;
use crate::sync::connection::NodeConnection;
use crate::sync::node_pools::NodePools;
use crate::topology::NodeRef;

/// A connection to one node that nobody else uses: WATCH, MULTI, SUBSCRIBE, CLIENT and other stateful
/// commands work on it as they do on `redis::Connection`. It is closed when dropped.
///
/// It is never reconnected, as its state would be lost: after a failure every call returns an error.
///
/// A connection from [`ShardedClient::dedicated`](crate::ShardedClient::dedicated) still checks keys: a
/// command for a key that another node owns is refused with [`CrossNode`](crate::ErrorKind::CrossNode).
pub struct Dedicated {
    pub(super) shared: SnapshotHandle<Shared>,
    node: NodeRef,
    /// The pools of its node, from which it was taken.
    pools: Arc<NodePools>,
    /// The connection, with a slot of the exclusive pool. `None` once it has failed.
    connection: Option<NodeConnection>,
    /// The epoch of the record by which the next request is checked.
    epoch: u64,
    /// The node, the key check, and what the commands sent so far have done to the connection's state.
    state: DedicatedState,
}

impl Dedicated {
    /// Takes a connection to the node that `choose` names out of the exclusive pool, within the response timeout.
    pub(super) fn open(
        handle: SnapshotHandle<Shared>,
        mut choose: impl FnMut(&Shared) -> Result<(NodeIndex, KeyCheck), Error>,
    ) -> Result<Self, Error> {
        let deadline = handle.ready()?.executor.deadline(BlockingTime::None);
        loop {
            let shared = handle.ready()?;
            let (node, keys) = choose(&shared)?;
            match Self::take(handle.clone(), &shared, node, keys, &deadline) {
                Err(error) if is_chosen_again(&error) && !deadline.is_over() => {
                    thread::sleep(MOVING_PAUSE);
                }
                taken => return taken,
            }
        }
    }

    fn take(
        handle: SnapshotHandle<Shared>,
        shared: &Shared,
        node: NodeIndex,
        keys: KeyCheck,
        deadline: &Deadline,
    ) -> Result<Self, Error> {
        let connection = shared
            .executor
            .take_exclusive(node, deadline)
            .map_err(|cause| Failure::not_sent(cause).without_answer(shared.router.name(node)))?;
        Ok(Self {
            node: shared.router.node_ref(node),
            pools: Arc::clone(&shared.executor.nodes[node.get()]),
            epoch: shared.executor.epoch(node),
            shared: handle,
            connection: Some(connection),
            state: DedicatedState::new(node, keys),
        })
    }

    /// The name of the node that the connection goes to.
    pub fn node_name(&self) -> &str {
        self.node.spec().name()
    }

    /// Finds the node in the current topology, by which the next request is checked.
    ///
    /// # Errors
    ///
    /// If the node has left or is reached otherwise, or keys have moved: the connection is closed then.
    pub(super) fn locate(&mut self) -> RedisResult<Guard<Arc<Shared>>> {
        let shared = self.shared.load();
        let keys = (self.state.keys(), self.state.relies_on_server());
        let located = shared.router.locate_dedicated(&self.node, keys, |node| {
            Arc::ptr_eq(&shared.executor.nodes[node.get()], &self.pools)
        });
        match located {
            Ok(node) => {
                self.state.set_node(node);
                self.epoch = shared.executor.epoch(node);
            }
            Err(error) => {
                self.state.set_moved(&shared.router);
                self.close();
                return Err(error.into());
            }
        }
        Ok(shared)
    }

    /// Finds the node for a packed request, once none of its keys is on the way to another node.
    fn locate_for(&mut self, packed: &[u8]) -> RedisResult<Guard<Arc<Shared>>> {
        let deadline = self.shared.load().executor.deadline(BlockingTime::None);
        loop {
            let shared = self.locate()?;
            let Some(error) = shared.router.held_back(packed, self.node_name()) else {
                return Ok(shared);
            };
            if deadline.is_over() {
                return Err(error.into());
            }
            thread::sleep(MOVING_PAUSE);
        }
    }

    /// Gets ready for subscriptions, after which nobody else may use the connection.
    pub(super) fn begin_pub_sub(&mut self) -> RedisResult<()> {
        self.state.begin_pub_sub()?;
        match self.connection {
            Some(_) => Ok(()),
            None => Err(self.broken().into()),
        }
    }

    /// Sends `packed` without reading a reply. The caller reads what comes with
    /// [`confirmation`](Self::confirmation).
    pub(super) fn send_only(&mut self, packed: &[u8]) -> RedisResult<()> {
        let deadline = self.shared.load().executor.deadline(BlockingTime::None);
        self.round_trip(packed, 0, &deadline, &mut Vec::new())
            .map_err(|cause| self.failed(cause))
    }

    /// Reads a reply or a message that is due now, within the response timeout.
    pub(super) fn confirmation(&mut self) -> RedisResult<Value> {
        let deadline = self.shared.load().executor.deadline(BlockingTime::None);
        let connection = self.connection.as_mut();
        let read = connection.map(|connection| connection.message(&deadline));
        read.unwrap_or_else(|| Err(Cause::failed_before()))
            .map_err(|cause| self.failed(cause))
    }

    /// Waits for a reply or a message. The connection stays open if none begins to arrive within `timeout`.
    pub(super) fn next_message(&mut self, timeout: Option<Duration>) -> RedisResult<Value> {
        let deadline = Deadline::start(timeout);
        let connection = self.connection.as_mut();
        let waited = connection.map(|connection| connection.wait(&deadline));
        match waited.unwrap_or_else(|| Err(Cause::failed_before())) {
            // The rest of a message that has begun is due now: a timeout in its middle would leave the stream
            // out of step.
            Ok(()) => self.confirmation(),
            // A timeout, as in redis-rs, after which its users go on.
            // Without closing the connection.
            Err(cause @ Cause::Timeout(_)) => Err(Failure::not_sent(cause)
                .without_answer(self.node_name())
                .into()),
            Err(cause) => Err(self.failed(cause)),
        }
    }

    /// Closes the connection, on which replies are still due.
    pub(super) fn abandon(&mut self) {
        self.close();
    }

    /// Closes the connection and returns the error for the request that failed.
    fn failed(&mut self, cause: Cause) -> RedisError {
        self.close();
        let failure = Failure { cause, sent: 0 };
        failure.without_answer(self.node_name()).into()
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

    /// Closes the connection, with an error, if the server has closed it: the outcome of a request on it would
    /// be unknown.
    pub(super) fn close_if_stale(&mut self) -> RedisResult<()> {
        match &self.connection {
            Some(connection) if connection.is_stale() => {
                let closed = io::ErrorKind::UnexpectedEof.into();
                Err(self.failed(Cause::of_io(&closed)))
            }
            _ => Ok(()),
        }
    }

    /// Ends the use. A connection whose state is unchanged goes back to the pool; any other is closed.
    pub(super) fn finish(mut self) {
        if self.state.is_pristine()
            && let Some(connection) = self.connection.take()
        {
            let used = connection.last_used;
            self.pool().release(connection, used);
        }
    }

    /// Closes the connection, once, and gives its slot back.
    fn close(&mut self) {
        // The connection is dropped by the condition, before its slot is given away. Not `discard_all_idle`,
        // whatever the cause: the user may have closed it with QUIT or CLIENT KILL.
        if self.connection.take().is_some() {
            self.pool().discard();
        }
    }

    /// The exclusive pool of the node.
    fn pool(&self) -> &crate::sync::pool::Pool {
        &self.pools.exclusive
    }

    /// Presents the credentials and the name of the client if they have changed, unless the user has changed the
    /// state of the connection, which may include both.
    fn renew_login(&mut self) -> RedisResult<()> {
        let shared = self.shared.load_full();
        let deadline = shared.executor.deadline(BlockingTime::None);
        // Without time the request is not sent either, and the connection stays.
        if !self.state.may_renew_login(&shared.router) || deadline.is_zero() {
            return Ok(());
        }
        let pools = Arc::clone(&self.pools);
        match self.connection.as_mut() {
            Some(connection) => pools
                .exclusive
                .renew(connection, &deadline)
                .map_err(|cause| self.failed(cause)),
            None => Ok(()),
        }
    }

    /// Sends one packed command, once the state of the connection permits it, and records its effect.
    fn send_command(&mut self, packed: &[u8]) -> RedisResult<Value> {
        // First: what it presents is not newer than the topology that is loaded then.
        self.renew_login()?;
        let shared = self.locate_for(packed)?;
        let args = &parse_one(packed)?;
        let operation = self
            .state
            .command(&shared.router, &**shared, Request { packed, args })?;
        let reply = self.run(operation)?;
        self.state.replied(args, &reply);
        self.state.check_slot(&shared.router)?;
        Ok(reply)
    }

    /// Polls an operation to its end, over this connection only.
    fn run<T>(&mut self, mut operation: impl Operation<Replies = Vec<Value>, Output = T>) -> T {
        loop {
            match operation.poll(Instant::now()) {
                Step::Send(exchange) => self.exchange(exchange),
                Step::Done(result) => return result,
            }
        }
    }

    /// Sends all pending requests over this connection, which is closed if one of them fails.
    fn exchange(&mut self, exchange: &mut Exchange) {
        let shared = self.shared.load();
        let deadline = shared.executor.begin(exchange);
        // Nothing is sent again over a dedicated connection, so there is no pause to wait for.
        while exchange.poll(Instant::now()) == ExchangeStep::Send {
            let attempts = exchange.attempts();
            let answers = attempts.map(|attempt| self.send(attempt, &deadline));
            let mut answers: Vec<Answers> = answers.collect();
            for answers in &mut answers {
                self.state.receive(&shared.router, answers);
            }
            exchange.handle(answers);
        }
        shared.executor.report_to_cluster(self.state.take_reports());
        if let Some(pause) = self.state.take_pause(rand::random()) {
            thread::sleep(pause);
        }
    }

    /// Sends one request and reads its replies.
    fn send(&mut self, attempt: Attempt<'_>, deadline: &Deadline) -> Answers {
        let request = attempt.request;
        let observer = Arc::clone(&self.pools.observer);
        observer.started(attempt.kind());
        // Not timed: blocking commands are sent here as well, and cannot be distinguished.
        let stopwatch = Stopwatch::start(BlockingTime::Forever);
        let mut answers = Answers::default();
        let count = request.slots.len();
        if let Err(cause) = self.round_trip(&request.packed, count, deadline, &mut answers.values) {
            if !cause.keeps_connection() {
                self.close();
            }
            answers.failure = Some(Box::new(Failure::on_held_connection(cause, count)));
        // Not a failure: the replies are all there. But the server closes the connection, or has left a transaction open,
        // in which the next command would be queued.
        } else if !request.has_ended_well(&answers.values) {
            self.close();
        }
        observer.finished(stopwatch, || {
            RequestOutcome::of_answers(&answers, &request.slots)
        });
        answers
    }

    /// Writes `packed` and reads `count` replies into `values`.
    fn round_trip(
        &mut self,
        packed: &[u8],
        count: usize,
        deadline: &Deadline,
        values: &mut Vec<Value>,
    ) -> Result<(), Cause> {
        let Some(connection) = &mut self.connection else {
            return Err(Cause::failed_before());
        };
        // Before the request: a connection that goes back to the pool was last known to work when this one
        // began.
        connection.last_used = deadline.start;
        connection
            .send(packed, self.epoch, deadline)
            .map_err(|error| error.cause)?;
        connection.receive(count, deadline, values)
    }

    /// The error for a request on a connection that has failed before.
    fn broken(&self) -> Error {
        Failure::not_sent(Cause::failed_before()).without_answer(self.node_name())
    }
}

impl fmt::Debug for Dedicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedicated")
            .field("node", &self.node_name())
            .field("open", &self.connection.is_some())
            .field("keys", &self.state.keys())
            .finish_non_exhaustive()
    }
}

impl Drop for Dedicated {
    /// A dropped handle has closed its connection, unless `finish` has taken it out.
    fn drop(&mut self) {
        self.close();
    }
}

impl ConnectionLike for Dedicated {
    fn req_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let packed = &cmd.get_packed_command();
        if !cmd.is_no_response() {
            return self.send_command(packed);
        }
        let args = &parse_one(packed)?;
        let shared = self.locate()?;
        if !shared.router.is_answered_by_push(args) {
            // The reply comes all the same: left unread, it would be taken for the next command's.
            return self.send_command(packed).map(|_| Value::Nil);
        }
        let request = Request { packed, args };
        let mut exchange = self.state.command_without_reply(&shared.router, request)?;
        self.exchange(&mut exchange);
        match exchange
            .into_last()
            .and_then(|(_, answers)| answers.failure)
        {
            Some(failure) => Err(failure.without_answer(self.node_name()).into()),
            None => Ok(Value::Nil),
        }
    }

    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        self.send_command(cmd)
    }

    fn req_packed_commands(
        &mut self,
        cmd: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let selection = Selection::of(cmd, offset, count)?;
        self.renew_login()?;
        let shared = self.locate_for(cmd)?;
        let operation = self
            .state
            .pipeline(&shared.router, &**shared, cmd, selection.kind)?;
        let values = self.run(operation)?.values;
        self.state.replied_all(cmd, selection.kind, &values);
        Ok(selection.select(values))
    }

    fn get_db(&self) -> i64 {
        self.shared.load().db
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.connection.is_some()
    }
}
