//! One snapshot of a client on tokio with what all its snapshots share, and how an operation is run.
//!
//! A command that goes to one node as it is takes a short cut: no operation, no plan, one request through
//! [`Executor::call`]. Everything else is an [`Operation`], polled in a loop.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use redis::{Arg, Cmd, Pipeline, RedisResult, Value};

use crate::aio::executor::Executor;
use crate::aio::in_flight::ReplyChannel;
use crate::aio::node_connections::ConnectionPurpose;
use crate::command::Args;
use crate::config::ClientConfig;
#[cfg(feature = "proxy")]
use crate::endpoint::Endpoint;
use crate::endpoint::{Deadline, Identity};
use crate::error::Error;
use crate::observe::{ClientHealth, RequestSpan};
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, CommandOperation, NodePing, Operation, PipelineOperation, Request, Router,
    ScriptCache, ScriptStore, Selection, Step, parse_one,
};
use crate::snapshot::{Latest, Snapshot, Variant};
#[cfg(feature = "proxy")]
use crate::topology::NodeRef;

/// One snapshot of a client: router and connections of one topology, with the state that all snapshots share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Where each command goes.
    pub(crate) router: Arc<Router>,
    /// The connections.
    pub(crate) executor: Executor,
    /// The newest of both, for requests that were begun by an older snapshot.
    latest: Arc<Latest<Executor>>,
    /// Scripts seen so far, replaced as a whole when one is added. The proxy's threads share one cache, hence
    /// the outer `Arc`.
    pub(crate) scripts: Arc<RwLock<Arc<ScriptCache>>>,
    /// The database that all nodes use.
    pub(crate) db: i64,
    /// The name of the client, which may change.
    pub(crate) identity: Arc<Identity>,
}

impl ScriptStore for Shared {
    fn snapshot(&self) -> Arc<ScriptCache> {
        Arc::clone(&self.scripts.read())
    }

    fn update(&self, change: &mut dyn FnMut(&mut Arc<ScriptCache>)) {
        change(&mut self.scripts.write());
    }
}

impl Snapshot for Shared {
    fn next(&self, config: &ClientConfig) -> Self {
        let router = Arc::new(self.executor.router(config));
        let executor = self.executor.next(config);
        self.latest.set(&router, executor.clone());
        Self {
            router,
            executor,
            ..self.clone()
        }
    }

    fn acknowledge_idle(&self, _: &Deadline) {
        self.executor.acknowledge_idle();
    }

    #[inline]
    fn is_provisional(&self) -> bool {
        self.router.topology().is_provisional()
    }

    fn variant(&self, variant: &Variant) -> Self {
        let watching = variant.is_watching.then(|| self.router.while_watching());
        Self {
            router: watching
                .flatten()
                .map_or_else(|| Arc::clone(&self.router), Arc::new),
            executor: self.executor.with_options(variant.options),
            ..self.clone()
        }
    }
}

impl Shared {
    /// The first snapshot of a client whose scripts are in `scripts`.
    pub(crate) fn new(
        config: &ClientConfig,
        scripts: Arc<RwLock<Arc<ScriptCache>>>,
        purpose: ConnectionPurpose,
    ) -> Self {
        let latest = Arc::default();
        let executor = Executor::new(config, purpose, &latest);
        let router = Arc::new(executor.router(config));
        latest.set(&router, executor.clone());
        Self {
            router,
            executor,
            latest,
            scripts,
            db: config.db,
            identity: Arc::clone(&config.identity),
        }
    }

    /// True if `node` is in this topology, and reached by this endpoint.
    #[cfg(feature = "proxy")]
    pub(crate) fn leads_to(&self, node: &NodeRef, endpoint: &Arc<Endpoint>) -> bool {
        let index = self.router.locate_node(node);
        index.is_ok_and(|index| Arc::ptr_eq(self.executor.endpoint(index), endpoint))
    }

    /// Runs one command, routed by its keys.
    pub(crate) async fn request(&self, cmd: &Cmd) -> Result<Value, Error> {
        // Arguments are borrowed from the command if possible; packing it is left to the connection, which
        // packs into its own buffer.
        let packed;
        let args = match simple_args(cmd) {
            Some(args) => args,
            None => {
                packed = cmd.get_packed_command();
                parse_one(&packed)?
            }
        };
        let routed = self.router.route(&args, &|| self.snapshot());
        if routed.is_err()
            && let Some(command) = self.router.name_command(&args)
        {
            return command.map(|command| self.identity.answer(command));
        }
        let span = RequestSpan::command(&self.router, self.db, &args, routed.as_ref());
        if let Ok(routed) = &routed
            && let Some(node) = routed.direct(self.executor.options.read_from)
            && !self.router.is_moving()
        {
            let write = |out: &mut Vec<u8>| cmd.write_packed_command(out);
            let deadline = self.executor.deadline(routed.blocking);
            let called = self
                .executor
                .call(node, write, routed.access, routed.blocking, deadline);
            let called = span.instrument(called).await;
            if self.router.may_go_on(&called, routed.blocking) {
                let attempt = deadline.early_attempt(Answers::of_call(called));
                let packed = &cmd.get_packed_command();
                let args = &args;
                let request = Request { packed, args };
                let routed = Ok(routed.clone());
                let operation = CommandOperation::new(&self.router, self, request, routed, (), 0)
                    .after_attempt(attempt);
                return span.end(Box::pin(span.instrument(self.run(operation))).await);
            }
            return span.end(routed.reply(&self.router, node, &args, called));
        }
        // Boxed, so that the future of every GET is not as large as that of a fan-out.
        let operation = async {
            let packed = &cmd.get_packed_command();
            let args = &args;
            let request = Request { packed, args };
            let entropy = rand::random();
            let operation: CommandOperation<'_, Vec<Value>> =
                CommandOperation::new(&self.router, self, request, routed, (), entropy);
            self.run(operation).await
        };
        span.end(Box::pin(span.instrument(operation)).await)
    }

    /// Runs one command on `node`, whatever its keys.
    pub(crate) async fn request_at(&self, node: NodeIndex, cmd: &Cmd) -> Result<Value, Error> {
        let packed = &cmd.get_packed_command();
        let args = &parse_one(packed)?;
        let routed = self.router.route_at(node, args);
        let span = RequestSpan::command(&self.router, self.db, args, routed.as_ref());
        let routed = span.end(routed)?;
        let is_direct = routed.direct(self.executor.options.read_from).is_some();
        if is_direct && !self.router.is_moving() {
            let write = |out: &mut Vec<u8>| out.extend_from_slice(packed);
            let deadline = self.executor.deadline(routed.blocking);
            let called = self
                .executor
                .call(node, write, routed.access, routed.blocking, deadline);
            let called = span.instrument(called).await;
            if self.router.is_planned_again(&called) {
                let attempt = deadline.early_attempt(Answers::of_call(called));
                let request = Request { packed, args };
                let operation = CommandOperation::at_node(&self.router, self, request, routed, ())
                    .after_attempt(attempt);
                return span.end(Box::pin(span.instrument(self.run(operation))).await);
            }
            return span.end(routed.reply(&self.router, node, args, called));
        }
        let request = Request { packed, args };
        let operation: CommandOperation<'_, Vec<Value>> =
            CommandOperation::at_node(&self.router, self, request, routed, ());
        span.end(Box::pin(span.instrument(self.run(operation))).await)
    }

    /// Runs a pipeline. Returns `count` replies after the first `offset`, as `redis::Pipeline` asks for: with
    /// MULTI and EXEC only the reply to EXEC is of interest.
    pub(crate) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let packed = &pipeline.get_packed_pipeline();
        let selection = Selection::of(packed, offset, count)?;
        let kind = selection.kind;
        let span = RequestSpan::pipeline(&self.router, self.db, &selection, None);
        let operation =
            PipelineOperation::by_keys(&self.router, self, packed, kind, rand::random());
        let operation = span.end(operation)?;
        let replies = span.instrument(self.run(operation)).await;
        let replies = replies
            .map_err(|error| self.router.with_transaction(error, packed))
            .and_then(|replies| replies.whole(&self.router, packed, None));
        Ok(selection.select(span.end(replies)?))
    }

    /// Runs a pipeline and returns the result of each command.
    pub(crate) async fn pipeline_results(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let packed = &pipeline.get_packed_pipeline();
        let selection = Selection::of_pipeline(pipeline);
        let kind = selection.kind;
        let span = RequestSpan::pipeline(&self.router, self.db, &selection, None);
        let operation =
            PipelineOperation::by_keys(&self.router, self, packed, kind, rand::random());
        let operation = span.end(operation)?;
        let replies = span.instrument(self.run(operation)).await;
        let replies = replies.map_err(|error| self.router.with_transaction(error, packed));
        Ok(span.end(replies)?.each(&self.router, packed))
    }

    /// Runs a pipeline on `node`, whatever its keys.
    pub(crate) async fn pipeline_at(
        &self,
        node: NodeIndex,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let packed = &pipeline.get_packed_pipeline();
        let selection = Selection::of(packed, offset, count)?;
        let kind = selection.kind;
        let span = RequestSpan::pipeline(&self.router, self.db, &selection, Some(node));
        let operation = PipelineOperation::at_node(&self.router, self, node, packed, kind);
        let operation = span.end(operation)?;
        let replies = span.instrument(self.run(operation)).await;
        let replies = replies
            .map_err(|error| self.router.with_transaction(error, packed))
            .and_then(|replies| replies.whole(&self.router, packed, Some(node)));
        Ok(selection.select(span.end(replies)?))
    }

    /// The known state of each node, in node order. Reads state only.
    pub(crate) fn health(&self) -> ClientHealth {
        self.executor.health()
    }

    /// Sends PING to every node, and returns the outcomes in node order.
    pub(crate) async fn ping_nodes(&self) -> Vec<NodePing> {
        let mut exchange = self.router.ping_nodes();
        self.executor.exchange(&mut exchange).await;
        self.router.pings(exchange)
    }

    /// Runs an operation: sends what it asks for, until it is done.
    pub(crate) async fn run<R: ReplyChannel, T>(
        &self,
        mut operation: impl Operation<Replies = R, Output = T>,
    ) -> T {
        loop {
            match operation.poll(Instant::now()) {
                Step::Send(exchange) => self.executor.exchange(exchange).await,
                Step::Done(result) => return result,
            }
        }
    }
}

/// The arguments of a command. `None` if one of them is a cursor, whose value only the packed command has.
fn simple_args(cmd: &Cmd) -> Option<Args<'_>> {
    cmd.args_iter()
        .map(|arg| match arg {
            Arg::Simple(arg) => Some(arg),
            _ => None,
        })
        .collect()
}
