//! Keeps what scripts went through the client, and carries out what `plan` says of them.

use std::sync::Arc;

use redis::{RedisResult, Value};

use crate::aio::Shared;
use crate::command::BlockingTime;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Batch, FunctionRetry, NodeRequest, PlannedTransaction, Recovery, RoutedCommand, Scope,
    ScriptCache, ScriptJournal, libraries, loads_at,
};

impl Shared {
    /// What scripts went through the client so far.
    pub(crate) fn snapshot(&self) -> Arc<ScriptCache> {
        Arc::clone(&self.scripts.read())
    }

    /// Notes what a command about scripts did. Gives its answer as the client has to see it.
    pub(super) fn record_script_reply(
        &self,
        args: &[&[u8]],
        scope: Scope,
        mut answer: Value,
    ) -> Value {
        if self.scripts.read().would_change(args, scope, &answer) {
            ScriptCache::record_reply(&mut self.scripts.write(), args, scope, &mut answer);
        }
        answer
    }

    /// Notes what the commands of a pipeline did.
    pub(super) fn record_script_replies(&self, journal: &ScriptJournal<'_>, values: &mut [Value]) {
        if !journal.is_empty() {
            journal.record(&mut self.scripts.write(), values);
        }
    }

    /// What the libraries of the nodes are, for a verdict that needs it. They are the same on all nodes, so the first that can be reached is asked.
    pub(super) async fn fetch_libraries(&self, args: &[&[u8]]) -> bool {
        if !self.snapshot().lacks_code_for(args) {
            return false;
        }
        let mut list = libraries(&self.router);
        let answers: Vec<Answers> = self.executor.exchange(&mut list, BlockingTime::None).await;
        let answer = answers
            .into_iter()
            .flat_map(|answers| answers.values)
            .next();
        if let Some(answer) = &answer {
            ScriptCache::record_libraries(&mut self.scripts.write(), answer);
        }
        answer.is_some()
    }

    /// One request about scripts to the node of its plan.
    pub(super) async fn call_script(
        &self,
        node: NodeIndex,
        packed: &[u8],
        args: &[&[u8]],
        routed: &RoutedCommand,
        scope: Scope,
    ) -> Result<Value, Error> {
        let answer = self.call_packed(node, packed, routed).await?;
        self.recover_script(node, packed, args, routed, scope, answer)
            .await
    }

    /// The answer of `node` to a request about scripts, or what it answers when it is given what it lacks.
    pub(super) async fn recover_script(
        &self,
        node: NodeIndex,
        packed: &[u8],
        args: &[&[u8]],
        routed: &RoutedCommand,
        scope: Scope,
        answer: Value,
    ) -> Result<Value, Error> {
        let remedy = match answer {
            Value::ServerError(_) => self.snapshot().recovery(args, &answer),
            _ => None,
        };
        match remedy {
            None => Ok(self.record_script_reply(args, scope, answer)),
            Some(Recovery::Resend(request)) => self.call_packed(node, &request, routed).await,
            Some(Recovery::LoadThenResend(loads)) => {
                let mut loads = loads_at(&self.router, node, &loads);
                let _: Vec<Answers> = self.executor.exchange(&mut loads, BlockingTime::None).await;
                self.call_packed(node, packed, routed).await
            }
        }
    }

    /// A pipeline with scripts in it.
    pub(super) async fn run_scripted(
        &self,
        mut batch: Batch<'_, '_>,
        journal: &ScriptJournal<'_>,
    ) -> RedisResult<Vec<Value>> {
        let mut exchanges = batch.take_exchanges();
        let answers = self
            .executor
            .exchange(&mut exchanges, batch.blocking_time())
            .await;
        let mut values = batch.finish(&exchanges, answers, rand::random());
        if journal.is_empty() {
            return Ok(values);
        }
        if let Some(mut cure) = FunctionRetry::of(journal, &self.router, &self.snapshot(), &values)
        {
            let mut exchanges = cure.take_exchanges();
            let answers = self
                .executor
                .exchange(&mut exchanges, BlockingTime::None)
                .await;
            cure.finish(&exchanges, answers, &mut values);
        }
        self.record_script_replies(journal, &mut values);
        Ok(values)
    }

    /// A transaction with scripts in it.
    pub(super) async fn run_scripted_atomic(
        &self,
        node: NodeIndex,
        exchange: NodeRequest,
        journal: &ScriptJournal<'_>,
    ) -> RedisResult<Vec<Value>> {
        let answers = self
            .executor
            .exchange(&mut vec![exchange], BlockingTime::None)
            .await;
        let mut answers = answers.into_iter().next().unwrap_or_default();
        journal.drop_preloads(&mut answers);
        let mut values = vec![PlannedTransaction::finish(self.router.name(node), answers)?];
        self.record_script_replies(journal, &mut values);
        Ok(values)
    }
}
