//! A private connection to one node.

use std::fmt;
use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use crate::aio::Shared;
use crate::aio::exclusive_pool::Lease;
use crate::command::BlockingTime;
use crate::command::{Access, Scripting};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Cause, ExpectedEnd, Failure, PipelineKind, PipelineSummary, Recovery, RoutedCommand,
    Scope, TransactionState, WatchState, check_each, empty_pipeline, exec_abort, finish_private,
    parse_one, select_replies, with_node_name,
};

/// A connection to one node that nobody else uses: WATCH, MULTI, CLIENT and other stateful talk work on it as they do on
/// a connection of redis-rs. It is closed when dropped, and when a future of it is dropped before it is done.
///
/// One from [`ShardedClient::dedicated`](crate::aio::ShardedClient::dedicated) still checks keys: a command for a key that
/// lives on another node is refused with [`CrossNode`](crate::ErrorKind::CrossNode).
pub struct Dedicated {
    shared: Arc<Shared>,
    node: NodeIndex,
    /// `None` once it has failed, and while a request is under way.
    lease: Option<Lease>,
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
    pub(super) async fn open(
        shared: Arc<Shared>,
        node: NodeIndex,
        check_keys: bool,
    ) -> Result<Self, Error> {
        let deadline = shared.executor.deadline(BlockingTime::None);
        let lease = shared.executor.lease(node, deadline).await;
        let lease = lease.map_err(|cause| {
            Failure::not_sent(cause).error(shared.router.name(node), 0, Access::Read)
        })?;
        Ok(Self {
            shared,
            node,
            lease: Some(lease),
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

    /// Ends it: a connection whose state is as it was may be used again.
    pub(super) fn finish(self) {
        if let (true, Some(lease)) = (self.pristine, self.lease) {
            lease.release();
        }
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
    async fn abort(&mut self) -> Error {
        const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
        const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";
        let end = match self.moment {
            TransactionState::Idle => UNWATCH,
            TransactionState::Queuing => DISCARD,
        };
        self.round_trip(end, 1, ExpectedEnd::Any, BlockingTime::None)
            .await;
        self.moment = TransactionState::Idle;
        self.watch = WatchState::Intact;
        exec_abort()
    }

    /// Sends `packed` and waits for `count` answers. The connection is taken for the time being, so that one whose future
    /// is dropped is closed and not used again.
    async fn round_trip(
        &mut self,
        packed: &[u8],
        count: usize,
        ending: ExpectedEnd,
        blocking: BlockingTime,
    ) -> Answers {
        let Some(lease) = self.lease.take() else {
            return Answers::failed(Failure::not_sent(Cause::failed_before()));
        };
        let deadline = self.shared.executor.deadline(blocking);
        let answers = lease
            .connection
            .exchange(packed, count, ending, deadline)
            .await;
        if answers.failure.is_none() {
            self.lease = Some(lease);
        }
        answers
    }

    async fn send_command(&mut self, packed: &[u8]) -> RedisResult<Value> {
        let args = parse_one(packed)?;
        if self.watch.forbids(packed) {
            return Err(self.abort().await.into());
        }
        let routed = self.check(&args)?;
        if routed.scripting == Scripting::No {
            let answer = self.send_planned(packed, &routed).await?;
            self.watch = self.watch.after(&args, Ok(&answer));
            return Ok(answer);
        }
        let rewritten = self.moment.rewrite(&args, &|| self.shared.snapshot());
        let answer = self
            .send_planned(rewritten.as_deref().unwrap_or(packed), &routed)
            .await?;
        let remedy = self.shared.snapshot().recovery(&args, &answer);
        match remedy {
            None => Ok(self
                .shared
                .record_script_reply(&args, Scope::OneNode, answer)),
            Some(Recovery::Resend(request)) => self.send_planned(&request, &routed).await,
            Some(Recovery::LoadThenResend(loads)) => {
                self.round_trip(
                    &loads.concat(),
                    loads.len(),
                    ExpectedEnd::Any,
                    BlockingTime::None,
                )
                .await;
                self.send_planned(packed, &routed).await
            }
        }
    }

    async fn send_planned(&mut self, packed: &[u8], routed: &RoutedCommand) -> RedisResult<Value> {
        let mut answers = self
            .round_trip(packed, 1, ExpectedEnd::Any, routed.blocking)
            .await;
        match answers.failure {
            Some(failure) => Err(failure.error(self.node_name(), 0, routed.access).into()),
            None => Ok(with_node_name(
                answers.values.pop().unwrap_or_default(),
                self.node_name(),
            )),
        }
    }

    async fn send_pipeline(
        &mut self,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        if packed.is_empty() {
            return Err(empty_pipeline());
        }
        if self.watch.forbids(packed) {
            return Err(self.abort().await.into());
        }
        let checked = self.check_all(packed)?;
        let asked = packed;
        let shape = PipelineKind::of(packed, offset, count);
        let woven = checked.rewritten(self.node, packed, shape, &|| self.shared.snapshot());
        let (packed, ahead) = woven.as_ref().map_or((packed, 0), |woven| {
            (&woven.packed, woven.journal.preloads())
        });
        let ending = match shape {
            PipelineKind::Plain => ExpectedEnd::Any,
            PipelineKind::Atomic { .. } => ExpectedEnd::Exec,
        };
        let mut answers = self
            .round_trip(packed, ahead + checked.commands, ending, checked.blocking)
            .await;
        if let Some(woven) = &woven {
            woven.journal.drop_preloads(&mut answers);
        }
        let mut values = finish_private(self.node_name(), shape, answers)?;
        if shape == PipelineKind::Plain {
            self.watch = self.watch.after_all(asked, &values);
        }
        if let Some(woven) = &woven {
            self.shared
                .record_script_replies(&woven.journal, &mut values);
        }
        Ok(select_replies(values, shape, offset, count))
    }
}

impl fmt::Debug for Dedicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedicated")
            .field("node", &self.node_name())
            .field("open", &self.lease.is_some())
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl ConnectionLike for Dedicated {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let reply = self.send_command(&cmd.get_packed_command()).await?;
            Ok(if cmd.is_no_response() {
                Value::Nil
            } else {
                reply
            })
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
        self.shared.db
    }
}
