//! A private connection to one node.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ConnectionLike, RedisError, RedisResult, Value};

use crate::command::BlockingTime;
use crate::command::{Access, Scripting};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Cause, ExpectedEnd, Failure, PipelineKind, PipelineSummary, Recovery, RoutedCommand,
    Scope, TransactionState, WatchState, check_each, empty_pipeline, exec_abort, finish_private,
    parse_one, select_replies, with_node_name,
};
use crate::sync::connection::NodeConnection;
use crate::sync::deadline::Deadline;
use crate::sync::pool::Checkout;
use crate::sync::{PubSub, Shared};

/// A connection to one node that nobody else uses: WATCH, MULTI, SUBSCRIBE, CLIENT and other stateful talk work on it as
/// they do on `redis::Connection`. It is closed when dropped.
///
/// One from [`ShardedClient::dedicated`](crate::ShardedClient::dedicated) still checks keys: a command for a key that
/// lives on another node is refused with [`CrossNode`](crate::ErrorKind::CrossNode).
pub struct Dedicated {
    shared: Arc<Shared>,
    node: NodeIndex,
    /// `None` once it has failed.
    connection: Option<NodeConnection>,
    keys: Keys,
    /// Whether its state is as it was when it was made, transactions apart.
    pristine: bool,
    moment: TransactionState,
    watch: WatchState,
}

/// Whether a connection lets keys of other nodes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    Checked,
    Unchecked,
}

impl Dedicated {
    pub(super) fn open(
        shared: Arc<Shared>,
        node: NodeIndex,
        check_keys: bool,
    ) -> Result<Self, Error> {
        let deadline = shared.executor.deadline(BlockingTime::None);
        let connection = shared.executor.nodes[node.get()]
            .exclusive
            .take(Checkout::Reuse, &deadline)
            .map_err(|cause| {
                Failure::not_sent(cause).error(shared.router.name(node), 0, Access::Read)
            })?;
        Ok(Self {
            shared,
            node,
            connection: Some(connection),
            keys: if check_keys {
                Keys::Checked
            } else {
                Keys::Unchecked
            },
            pristine: true,
            moment: TransactionState::Idle,
            watch: WatchState::default(),
        })
    }

    /// The name of the node it goes to.
    pub fn node_name(&self) -> &str {
        self.shared.router.name(self.node)
    }

    /// Listens to channels, as `redis::Connection::as_pubsub`. Messages are waited for without limit, unless
    /// [`PubSub::set_read_timeout`] sets one.
    ///
    /// # Errors
    ///
    /// When the connection has failed before, when its state was changed before, and when no connection can be made.
    pub fn as_pubsub(&mut self) -> RedisResult<PubSub<'_>> {
        self.pristine = false;
        match self.connection {
            Some(_) => Ok(PubSub::new(self)),
            None => Err(self.broken().into()),
        }
    }

    /// Sends `packed` and reads no reply.
    pub(super) fn send_only(&mut self, packed: &[u8]) -> RedisResult<()> {
        match self.round_trip(packed, 0, BlockingTime::None).failure {
            Some(failure) => Err(self.failed(failure.cause)),
            None => Ok(()),
        }
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
        failure.error(self.node_name(), 0, Access::Read).into()
    }

    /// Ends it: a connection whose state is as it was goes back to the pool.
    pub(super) fn finish(mut self) {
        if self.pristine
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
        &self.shared.executor.nodes[self.node.get()].exclusive
    }

    /// Checks one command, and says how long it may take.
    fn check(&mut self, args: &[&[u8]]) -> Result<RoutedCommand, Error> {
        let router = &self.shared.router;
        self.pristine &= !router.alters_connection(args);
        self.moment = self.moment.after(args);
        let checked = match self.keys {
            Keys::Checked => router.route_private(self.node, args),
            Keys::Unchecked => router.route_unchecked_private(self.node, args),
        };
        if checked.is_err() {
            self.watch = self.watch.after(args, Err(()));
        }
        checked
    }

    /// Checks a pipeline. When it is refused, so is every WATCH in it.
    fn check_all(&mut self, packed: &[u8]) -> Result<PipelineSummary, Error> {
        let checked = check_each(packed, |args| self.check(args));
        if checked.is_err() {
            self.watch = self.watch.after_refused(packed);
        }
        checked
    }

    /// Ends a transaction whose EXEC must not run, and whatever is watched.
    fn abort(&mut self) -> Error {
        const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
        const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";
        let end = match self.moment {
            TransactionState::Idle => UNWATCH,
            TransactionState::Queuing => DISCARD,
        };
        self.round_trip(end, 1, BlockingTime::None);
        self.moment = TransactionState::Idle;
        self.watch = WatchState::Intact;
        exec_abort()
    }

    /// Sends `packed` and reads `count` replies. The connection is closed when that fails.
    fn round_trip(&mut self, packed: &[u8], count: usize, blocking: BlockingTime) -> Answers {
        let deadline = self.shared.executor.deadline(blocking);
        let mut answers = Answers::default();
        if let Err(cause) = self.try_round_trip(packed, count, &deadline, &mut answers.values) {
            let sent = if matches!(cause, Cause::Connect(_)) {
                0
            } else {
                count
            };
            self.close();
            answers.failure = Some(Failure { cause, sent });
        }
        answers
    }

    fn try_round_trip(
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
            .map_err(|lost| lost.cause)?;
        connection.receive(count, deadline, values)
    }

    fn broken(&self) -> Error {
        Failure::not_sent(Cause::failed_before()).error(self.node_name(), 0, Access::Read)
    }

    fn send_command(&mut self, packed: &[u8]) -> RedisResult<Value> {
        let args = parse_one(packed)?;
        if self.watch.forbids(packed) {
            return Err(self.abort().into());
        }
        let routed = self.check(&args)?;
        if routed.scripting == Scripting::No {
            let answer = self.send_planned(packed, &routed)?;
            self.watch = self.watch.after(&args, Ok(&answer));
            return Ok(answer);
        }
        let rewritten = self.moment.rewrite(&args, &|| self.shared.script_cache());
        let answer = self.send_planned(rewritten.as_deref().unwrap_or(packed), &routed)?;
        match self.shared.script_cache().recovery(&args, &answer) {
            None => Ok(self
                .shared
                .record_script_reply(&args, Scope::OneNode, answer)),
            Some(Recovery::Resend(request)) => self.send_planned(&request, &routed),
            Some(Recovery::LoadThenResend(loads)) => {
                self.round_trip(&loads.concat(), loads.len(), BlockingTime::None);
                self.send_planned(packed, &routed)
            }
        }
    }

    fn send_planned(&mut self, packed: &[u8], routed: &RoutedCommand) -> RedisResult<Value> {
        let mut answers = self.round_trip(packed, 1, routed.blocking);
        match answers.failure {
            Some(failure) => Err(failure.error(self.node_name(), 0, routed.access).into()),
            None => Ok(with_node_name(
                answers.values.pop().unwrap_or_default(),
                self.node_name(),
            )),
        }
    }
}

impl fmt::Debug for Dedicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedicated")
            .field("node", &self.node_name())
            .field("open", &self.connection.is_some())
            .field("keys", &self.keys)
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
        let packed = cmd.get_packed_command();
        if !cmd.is_no_response() {
            return self.send_command(&packed);
        }
        let args = parse_one(&packed)?;
        if !self.shared.router.is_answered_by_push(&args) {
            // The answer comes all the same: left unread, it would be taken for the next command's.
            return self.send_command(&packed).map(|_| Value::Nil);
        }
        let routed = self.check(&args)?;
        match self.round_trip(&packed, 0, routed.blocking).failure {
            Some(failure) => Err(failure.error(self.node_name(), 0, routed.access).into()),
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
        if self.watch.forbids(cmd) {
            return Err(self.abort().into());
        }
        let checked = self.check_all(cmd)?;
        let shape = PipelineKind::of(cmd, offset, count);
        let woven = checked.rewritten(self.node, cmd, shape, &|| self.shared.script_cache());
        let (packed, ahead) = woven
            .as_ref()
            .map_or((cmd, 0), |woven| (&woven.packed, woven.journal.preloads()));
        let mut answers = self.round_trip(packed, ahead + checked.commands, checked.blocking);
        let transaction = shape != PipelineKind::Plain;
        let ended = answers.values.last();
        if transaction && !ended.is_some_and(|last| ExpectedEnd::Exec.is_met_by(last)) {
            self.close();
        }
        if let Some(woven) = &woven {
            woven.journal.drop_preloads(&mut answers);
        }
        let mut values = finish_private(self.node_name(), shape, answers)?;
        if !transaction {
            self.watch = self.watch.after_all(cmd, &values);
        }
        if let Some(woven) = &woven {
            self.shared
                .record_script_replies(&woven.journal, &mut values);
        }
        Ok(select_replies(values, shape, offset, count))
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
