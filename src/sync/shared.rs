//! State that all handles of one blocking client share, and how an operation is run.
//!
//! A command that goes to one node as it is takes a short cut: no operation, no plan, one request through
//! [`Executor::call`]. Everything else is an [`Operation`], polled in a loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use redis::{Pipeline, RedisResult, Value};

use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    CommandOperation, Operation, PipelineKind, PipelineOperation, Request, RoutedCommand, Router,
    ScriptCache, ScriptStore, Selection, Step, parse_one,
};
#[cfg(feature = "tokio-comp")]
use crate::sync::async_client::AsyncClient;
use crate::sync::executor::Executor;

/// State that all handles of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where each command goes.
    pub(crate) router: Router,
    /// The connections.
    pub(crate) executor: Executor,
    /// Scripts seen so far, replaced as a whole when one is added.
    pub(crate) scripts: RwLock<Arc<ScriptCache>>,
    /// The database that all nodes use.
    pub(crate) db: i64,
    /// The client on tokio of the same description.
    #[cfg(feature = "tokio-comp")]
    pub(crate) async_client: AsyncClient,
}

impl ScriptStore for Shared {
    fn snapshot(&self) -> Arc<ScriptCache> {
        // An `Arc`, so that the lock is not held while a command is routed.
        Arc::clone(&self.scripts.read())
    }

    fn update(&self, change: &mut dyn FnMut(&mut Arc<ScriptCache>)) {
        change(&mut self.scripts.write());
    }
}

impl Shared {
    /// Runs one packed command, routed by its keys.
    pub(crate) fn request(&self, packed: &[u8]) -> Result<Value, Error> {
        let args = parse_one(packed)?;
        let routed = self.router.route(&args, &|| self.snapshot());
        if let Ok(routed) = &routed
            && let Some(node) = routed.direct()
        {
            return self.call(node, packed, routed);
        }
        let args = &args;
        let request = Request { packed, args };
        let entropy = rand::random();
        self.run(CommandOperation::new(
            &self.router,
            self,
            request,
            routed,
            (),
            entropy,
        ))
    }

    /// Runs one packed command on `node`, whatever its keys.
    pub(crate) fn request_at(&self, node: NodeIndex, packed: &[u8]) -> Result<Value, Error> {
        let args = parse_one(packed)?;
        let routed = self.router.route_at(node, &args)?;
        if routed.direct().is_some() {
            return self.call(node, packed, &routed);
        }
        let args = &args;
        let request = Request { packed, args };
        self.run(CommandOperation::at_node(
            &self.router,
            self,
            request,
            routed,
            (),
        ))
    }

    /// Runs one command whose reply is returned as it is.
    fn call(&self, node: NodeIndex, packed: &[u8], routed: &RoutedCommand) -> Result<Value, Error> {
        let result = self
            .executor
            .call(node, packed, routed.access, routed.blocking);
        routed.reply(self.router.name(node), result)
    }

    /// Runs a packed pipeline. Returns `count` replies after the first `offset`, as `redis::Pipeline` asks
    /// for: with MULTI and EXEC only the reply to EXEC is of interest.
    pub(crate) fn pipeline(
        &self,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let selection = Selection::of(packed, offset, count)?;
        let kind = selection.kind;
        let operation =
            PipelineOperation::by_keys(&self.router, self, packed, kind, rand::random())?;
        let replies = self.run(operation)?;
        Ok(selection.select(replies.whole(&self.router, packed, None)?))
    }

    /// Runs a pipeline and returns the result of each command.
    pub(crate) fn pipeline_results(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let packed = &pipeline.get_packed_pipeline();
        let kind = PipelineKind::of_pipeline(pipeline);
        let operation =
            PipelineOperation::by_keys(&self.router, self, packed, kind, rand::random())?;
        Ok(self.run(operation)?.each(&self.router, packed))
    }

    /// Runs a packed pipeline on `node`, whatever its keys.
    pub(crate) fn pipeline_at(
        &self,
        node: NodeIndex,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let selection = Selection::of(packed, offset, count)?;
        let kind = selection.kind;
        let operation = PipelineOperation::at_node(&self.router, self, node, packed, kind)?;
        let replies = self.run(operation)?;
        Ok(selection.select(replies.whole(&self.router, packed, Some(node))?))
    }

    /// Runs one packed command, routed by its keys, with `timeout` in place of the response timeout.
    pub(crate) fn request_within(
        &self,
        packed: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Value, Error> {
        let args = &parse_one(packed)?;
        let routed = self.router.route(args, &|| self.snapshot());
        let request = Request { packed, args };
        let entropy = rand::random();
        let operation = CommandOperation::new(&self.router, self, request, routed, (), entropy);
        self.run_within(operation, timeout)
    }

    /// Runs an operation: sends what it asks for, until it is done.
    fn run<T>(&self, operation: impl Operation<Replies = Vec<Value>, Output = T>) -> T {
        self.run_within(operation, self.executor.response_timeout())
    }

    /// Runs an operation with `timeout` in place of the response timeout.
    fn run_within<T>(
        &self,
        mut operation: impl Operation<Replies = Vec<Value>, Output = T>,
        timeout: Option<Duration>,
    ) -> T {
        loop {
            match operation.poll(Instant::now()) {
                Step::Send(exchange) => self.executor.exchange_within(exchange, timeout),
                Step::Done(result) => return result,
            }
        }
    }
}
