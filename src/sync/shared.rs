//! One snapshot of a blocking client with what all its snapshots share, and how an operation is run.
//!
//! A command that goes to one node as it is takes a short cut: no operation, no plan, one request through
//! [`Executor::call`]. Everything else is an [`Operation`], polled in a loop.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;
use redis::{Pipeline, RedisResult, Value};

use crate::config::ClientConfig;
use crate::endpoint::{Deadline, Identity};
use crate::error::Error;
use crate::observe::{ClientHealth, RequestSpan};
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, CommandOperation, NodePing, Operation, PipelineOperation, Request, RoutedCommand,
    Router, ScriptCache, ScriptStore, Selection, Step, parse_one,
};
use crate::snapshot::{Latest, Snapshot, Variant};
#[cfg(feature = "tokio-comp")]
use crate::sync::async_client::AsyncClient;
use crate::sync::executor::Executor;

/// One snapshot of a client: router and connections of one topology, with the state that all snapshots share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Where each command goes.
    pub(crate) router: Arc<Router>,
    /// The connections.
    pub(crate) executor: Executor,
    /// The newest of both, for requests that were begun by an older snapshot.
    pub(crate) latest: Arc<Latest<Executor>>,
    /// Scripts seen so far, replaced as a whole when one is added.
    pub(crate) scripts: Arc<RwLock<Arc<ScriptCache>>>,
    /// The database that all nodes use.
    pub(crate) db: i64,
    /// The name of the client, which may change.
    pub(crate) identity: Arc<Identity>,
    /// The client on tokio of the same description.
    #[cfg(feature = "tokio-comp")]
    pub(crate) async_client: Arc<AsyncClient>,
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

impl Snapshot for Shared {
    fn next(&self, config: &ClientConfig) -> Self {
        let router = Arc::new(config.router.clone());
        let executor = self.executor.next(config);
        self.latest.set(&router, executor.clone());
        Self {
            router,
            executor,
            ..self.clone()
        }
    }

    fn acknowledge_idle(&self, deadline: &Deadline) {
        self.executor.acknowledge_idle(deadline);
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
    /// Runs one packed command, routed by its keys.
    pub(crate) fn request(&self, packed: &[u8]) -> Result<Value, Error> {
        let args = parse_one(packed)?;
        let routed = self.router.route(&args, &|| self.snapshot());
        if routed.is_err()
            && let Some(command) = self.router.name_command(&args)
        {
            return command.map(|command| self.identity.answer(command));
        }
        let span = RequestSpan::command(&self.router, self.db, &args, routed.as_ref());
        let _entered = span.enter();
        if let Ok(routed) = &routed
            && let Some(node) = routed.direct(self.executor.options.read_from)
            && !self.router.is_moving()
        {
            return span.end(self.call(node, packed, &args, routed, true));
        }
        let args = &args;
        let request = Request { packed, args };
        let entropy = rand::random();
        span.end(self.run(CommandOperation::new(
            &self.router,
            self,
            request,
            routed,
            (),
            entropy,
        )))
    }

    /// Runs one packed command on `node`, whatever its keys.
    pub(crate) fn request_at(&self, node: NodeIndex, packed: &[u8]) -> Result<Value, Error> {
        let args = parse_one(packed)?;
        let routed = self.router.route_at(node, &args);
        let span = RequestSpan::command(&self.router, self.db, &args, routed.as_ref());
        let _entered = span.enter();
        let routed = span.end(routed)?;
        let is_direct = routed.direct(self.executor.options.read_from).is_some();
        if is_direct && !self.router.is_moving() {
            return span.end(self.call(node, packed, &args, &routed, false));
        }
        let args = &args;
        let request = Request { packed, args };
        span.end(self.run(CommandOperation::at_node(
            &self.router,
            self,
            request,
            routed,
            (),
        )))
    }

    /// Runs one command whose reply is returned as it is, unless it is to be planned again, or a server of a cluster
    /// refuses it and it `follows` redirects.
    fn call(
        &self,
        node: NodeIndex,
        packed: &[u8],
        args: &[&[u8]],
        routed: &RoutedCommand,
        follows: bool,
    ) -> Result<Value, Error> {
        let deadline = self.executor.deadline(routed.blocking);
        let result = self
            .executor
            .call(node, packed, routed.access, routed.blocking, deadline);
        let goes_on = match follows {
            true => self.router.may_go_on(&result, routed.blocking),
            false => self.router.is_planned_again(&result),
        };
        if goes_on {
            let request = Request { packed, args };
            let routed = routed.clone();
            let attempt = deadline.early_attempt(Answers::of_call(result));
            let operation = match follows {
                true => CommandOperation::new(&self.router, self, request, Ok(routed), (), 0),
                false => CommandOperation::at_node(&self.router, self, request, routed, ()),
            };
            return self.run(operation.after_attempt(attempt));
        }
        routed.reply(&self.router, node, args, result)
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
        let span = RequestSpan::pipeline(&self.router, self.db, &selection, None);
        let _entered = span.enter();
        let operation =
            PipelineOperation::by_keys(&self.router, self, packed, kind, rand::random());
        let operation = span.end(operation)?;
        let replies = self.run(operation);
        let replies = replies
            .map_err(|error| self.router.with_transaction(error, packed))
            .and_then(|replies| replies.whole(&self.router, packed, None));
        Ok(selection.select(span.end(replies)?))
    }

    /// Runs a pipeline and returns the result of each command.
    pub(crate) fn pipeline_results(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let packed = &pipeline.get_packed_pipeline();
        self.packed_results(packed, Selection::of_pipeline(pipeline))
    }

    /// Runs a packed pipeline and returns the result of each command.
    pub(crate) fn packed_results(
        &self,
        packed: &[u8],
        selection: Selection,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let kind = selection.kind;
        let span = RequestSpan::pipeline(&self.router, self.db, &selection, None);
        let _entered = span.enter();
        let operation =
            PipelineOperation::by_keys(&self.router, self, packed, kind, rand::random());
        let operation = span.end(operation)?;
        let replies = self.run(operation);
        let replies = replies.map_err(|error| self.router.with_transaction(error, packed));
        Ok(span.end(replies)?.each(&self.router, packed))
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
        let span = RequestSpan::pipeline(&self.router, self.db, &selection, Some(node));
        let _entered = span.enter();
        let operation = PipelineOperation::at_node(&self.router, self, node, packed, kind);
        let operation = span.end(operation)?;
        let replies = self.run(operation);
        let replies = replies
            .map_err(|error| self.router.with_transaction(error, packed))
            .and_then(|replies| replies.whole(&self.router, packed, Some(node)));
        Ok(selection.select(span.end(replies)?))
    }

    /// The known state of each node, in node order. Reads state only.
    pub(crate) fn health(&self) -> ClientHealth {
        let nodes = self.executor.nodes.iter();
        ClientHealth {
            nodes: nodes.map(|node| node.health()).collect(),
        }
    }

    /// Sends PING to every node, and returns the outcomes in node order.
    pub(crate) fn ping_nodes(&self) -> Vec<NodePing> {
        let mut exchange = self.router.ping_nodes();
        self.executor.exchange(&mut exchange);
        self.router.pings(exchange)
    }

    /// Runs an operation: sends what it asks for, until it is done.
    fn run<T>(&self, mut operation: impl Operation<Replies = Vec<Value>, Output = T>) -> T {
        loop {
            match operation.poll(Instant::now()) {
                Step::Send(exchange) => self.executor.exchange(exchange),
                Step::Done(result) => return result,
            }
        }
    }
}
