//! What all handles of one blocking client share, and how it carries out an operation.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use redis::{RedisResult, Value};

use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    CommandOperation, Operation, PipelineOperation, Request, RoutedCommand, Router, ScriptCache,
    ScriptStore, Selection, Step, empty_pipeline, parse_one,
};
use crate::sync::executor::Executor;

/// What all clones of a handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) router: Router,
    pub(crate) executor: Executor,
    pub(crate) scripts: RwLock<Arc<ScriptCache>>,
    pub(crate) db: i64,
}

impl ScriptStore for Shared {
    fn snapshot(&self) -> Arc<ScriptCache> {
        Arc::clone(&self.scripts.read())
    }

    fn update(&self, change: &mut dyn FnMut(&mut Arc<ScriptCache>)) {
        change(&mut self.scripts.write());
    }
}

impl Shared {
    /// One packed command, routed by its keys.
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

    /// One packed command to `node`, because the user says so.
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

    /// One command whose reply needs nothing but to be given back.
    fn call(&self, node: NodeIndex, packed: &[u8], routed: &RoutedCommand) -> Result<Value, Error> {
        let result = self
            .executor
            .call(node, packed, routed.access, routed.blocking);
        routed.reply(self.router.name(node), result)
    }

    /// A packed pipeline. `offset` replies are left out, `count` are returned, as `redis::Pipeline` wants it.
    pub(crate) fn pipeline(
        &self,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        if packed.is_empty() {
            return Err(empty_pipeline());
        }
        let selection = Selection::of(packed, offset, count);
        let entropy = rand::random();
        let planned =
            self.router
                .route_pipeline(packed, selection.kind, &|| self.snapshot(), entropy)?;
        let operation = PipelineOperation::new(&self.router, self, planned, entropy);
        Ok(selection.select(self.run(operation)?))
    }

    /// A packed pipeline to `node`, because the user says so.
    pub(crate) fn pipeline_at(
        &self,
        node: NodeIndex,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        if packed.is_empty() {
            return Err(empty_pipeline());
        }
        let selection = Selection::of(packed, offset, count);
        let planned = self
            .router
            .route_pipeline_at(node, packed, selection.kind, &|| self.snapshot())?;
        let operation = PipelineOperation::new(&self.router, self, planned, rand::random());
        Ok(selection.select(self.run(operation)?))
    }

    fn run<T>(&self, mut operation: impl Operation<Replies = Vec<Value>, Output = T>) -> T {
        loop {
            match operation.poll(Instant::now()) {
                Step::Send(exchange) => self.executor.exchange(exchange),
                Step::Done(result) => return result,
            }
        }
    }
}
