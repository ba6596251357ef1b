//! A private connection to one node.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionLike, RedisError, RedisResult, Value};

use crate::command::BlockingTime;
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Attempt, Cause, DedicatedState, Exchange, Failure, KeyCheck, Operation, Request,
    Selection, Step, empty_pipeline, parse_one,
};
use crate::sync::Shared;
use crate::sync::connection::NodeConnection;
use crate::sync::pool::Checkout;

/// A connection to one node that nobody else uses: WATCH, MULTI, SUBSCRIBE, CLIENT and other stateful talk work on it as
/// they do on `redis::Connection`. It is closed when dropped.
///
/// One from [`ShardedClient::dedicated`](crate::ShardedClient::dedicated) still checks keys: a command for a key that
/// lives on another node is refused with [`CrossNode`](crate::ErrorKind::CrossNode).
pub struct Dedicated {
    shared: Arc<Shared>,
    node_name: String,
    /// `None` once it has failed.
    connection: Option<NodeConnection>,
    state: DedicatedState,
}

impl Dedicated {
    pub(super) fn open(
        shared: Arc<Shared>,
        node: NodeIndex,
        keys: KeyCheck,
    ) -> Result<Self, Error> {
        let deadline = shared.executor.deadline(BlockingTime::None);
        let connection = shared.executor.nodes[node.get()]
            .exclusive
            .take(Checkout::Reuse, &deadline)
            .map_err(|cause| Failure::not_sent(cause).without_answer(shared.router.name(node)))?;
        Ok(Self {
            node_name: shared.router.name(node).to_owned(),
            shared,
            connection: Some(connection),
            state: DedicatedState::new(node, keys),
        })
    }

    /// The name of the node it goes to.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Gets ready for subscriptions, after which nobody else may use the connection.
    pub(super) fn begin_pub_sub(&mut self) -> RedisResult<()> {
        self.state.alter();
        match self.connection {
            Some(_) => Ok(()),
            None => Err(self.broken().into()),
        }
    }

    /// Sends `packed` and reads no reply.
    pub(super) fn send_only(&mut self, packed: &[u8]) -> RedisResult<()> {
        let deadline = self.shared.executor.deadline(BlockingTime::None);
        self.round_trip(packed, 0, &deadline, &mut Vec::new())
            .map_err(|cause| self.failed(cause))
    }

    /// Reads what the node answers at once: a reply or a message.
    pub(super) fn confirmation(&mut self) -> RedisResult<Value> {
        let deadline = self.shared.executor.deadline(BlockingTime::None);
        let connection = self.connection.as_mut();
        let read = connection.map(|connection| connection.message(&deadline));
        read.unwrap_or_else(|| Err(Cause::failed_before()))
            .map_err(|cause| self.failed(cause))
    }

    /// Waits for a reply or a message. The connection stays, when none begins to come within `timeout`.
    pub(super) fn next_message(&mut self, timeout: Option<Duration>) -> RedisResult<Value> {
        let deadline = Deadline::start(timeout);
        let connection = self.connection.as_mut();
        let waited = connection.map(|connection| connection.wait(&deadline));
        match waited.unwrap_or_else(|| Err(Cause::failed_before())) {
            Ok(()) => self.confirmation(),
            // As redis-rs says it: who listens with a limit goes on after it.
            Err(Cause::Timeout(text)) => Err(io::Error::new(io::ErrorKind::TimedOut, text).into()),
            Err(cause) => Err(self.failed(cause)),
        }
    }

    /// Closes the connection, which owes something.
    pub(super) fn abandon(&mut self) {
        self.close();
    }

    /// The error for a request that failed. The connection is closed.
    fn failed(&mut self, cause: Cause) -> RedisError {
        self.close();
        let failure = Failure { cause, sent: 0 };
        failure.without_answer(self.node_name()).into()
    }

    /// Ends it: a connection whose state is as it was goes back to the pool.
    pub(super) fn finish(mut self) {
        if self.state.is_pristine()
            && let Some(connection) = self.connection.take()
        {
            let used = connection.last_used;
            self.pool().release(connection, used);
        }
    }

    fn close(&mut self) {
        if self.connection.take().is_some() {
            self.pool().discard();
        }
    }

    fn pool(&self) -> &crate::sync::pool::Pool {
        &self.shared.executor.nodes[self.state.node().get()].exclusive
    }

    fn send_command(&mut self, packed: &[u8]) -> RedisResult<Value> {
        let args = &parse_one(packed)?;
        let shared = Arc::clone(&self.shared);
        let operation = self
            .state
            .command(&shared.router, &*shared, Request { packed, args })?;
        let reply = self.run(operation)?;
        self.state.replied(args, &reply);
        Ok(reply)
    }

    fn run<T>(&mut self, mut operation: impl Operation<Replies = Vec<Value>, Output = T>) -> T {
        loop {
            match operation.poll(Instant::now()) {
                Step::Send(exchange) => self.exchange(exchange),
                Step::Done(result) => return result,
            }
        }
    }

    /// Sends all that is pending over this connection, which is closed when that fails.
    fn exchange(&mut self, exchange: &mut Exchange) {
        let response_timeout = self.shared.executor.response_timeout;
        let limit = exchange.begin(Instant::now(), response_timeout);
        let deadline = Deadline::start(limit);
        while exchange.poll(Instant::now()) {
            let attempts = exchange.attempts();
            let answers = attempts.map(|attempt| self.send(attempt, &deadline));
            let answers = answers.collect();
            exchange.handle(answers);
        }
    }

    fn send(&mut self, attempt: Attempt<'_>, deadline: &Deadline) -> Answers {
        let request = attempt.request;
        let mut answers = Answers::default();
        let count = request.slots.len();
        if let Err(cause) = self.round_trip(&request.packed, count, deadline, &mut answers.values) {
            self.close();
            answers.failure = Some(Failure::on_held_connection(cause, count));
        } else if !request.has_ended_well(&answers.values) {
            self.close();
        }
        answers
    }

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
        connection.last_used = deadline.start;
        connection
            .send(packed, deadline)
            .map_err(|error| error.cause)?;
        connection.receive(count, deadline, values)
    }

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
        if !self.shared.router.is_answered_by_push(args) {
            // The reply comes all the same: left unread, it would be taken for the next command's.
            return self.send_command(packed).map(|_| Value::Nil);
        }
        let request = Request { packed, args };
        let mut exchange = self
            .state
            .command_without_reply(&self.shared.router, request)?;
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
        if cmd.is_empty() {
            return Err(empty_pipeline());
        }
        let selection = Selection::of(cmd, offset, count);
        let shared = Arc::clone(&self.shared);
        let operation = self
            .state
            .pipeline(&shared.router, &*shared, cmd, selection.kind)?;
        let values = self.run(operation)?;
        self.state.replied_all(cmd, selection.kind, &values);
        Ok(selection.select(values))
    }

    fn get_db(&self) -> i64 {
        self.shared.db
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.connection.is_some()
    }
}
