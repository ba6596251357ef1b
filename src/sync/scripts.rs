//! Keeps what scripts went through the client, and carries out what `plan` says of them.

use std::sync::Arc;

use redis::{RedisResult, Value};

use crate::error::Error;
use crate::node::NodeIndex;
use crate::plan::{
    Answers, Atomic, Batch, Cure, Exchange, Hold, Notes, Planned, Reach, Remedy, ScriptMemory,
    libraries, loads_at,
};
use crate::sync::Shared;

impl Shared {
    /// What scripts went through the client so far.
    pub(super) fn recall(&self) -> Arc<ScriptMemory> {
        Arc::clone(&self.scripts.read())
    }

    /// Notes what a command about scripts did. Gives its answer as the client has to see it.
    pub(super) fn heard(&self, args: &[&[u8]], reach: Reach, mut answer: Value) -> Value {
        if self.scripts.read().is_news(args, reach, &answer) {
            ScriptMemory::hear(&mut self.scripts.write(), args, reach, &mut answer);
        }
        answer
    }

    /// The same for a pipeline.
    pub(super) fn heard_all(&self, notes: &Notes<'_>, values: &mut [Value]) {
        if !notes.is_empty() {
            notes.settle(&mut self.scripts.write(), values);
        }
    }

    /// What the libraries of the nodes are, for a verdict that needs it. They are the same on all nodes, so the first that can be reached is asked.
    pub(super) fn learn_libraries(&self, args: &[&[u8]]) -> bool {
        if !self.recall().lacks_code_for(args) {
            return false;
        }
        let mut list = libraries(&self.router);
        let answers: Vec<Answers> = self.executor.exchange(&mut list, Hold::No);
        let answer = answers
            .into_iter()
            .flat_map(|answers| answers.values)
            .next();
        if let Some(answer) = &answer {
            ScriptMemory::learn_libraries(&mut self.scripts.write(), answer);
        }
        answer.is_some()
    }

    /// One request about scripts to the node of its plan.
    pub(super) fn call_script(
        &self,
        node: NodeIndex,
        packed: &[u8],
        args: &[&[u8]],
        planned: &Planned,
        reach: Reach,
    ) -> Result<Value, Error> {
        let answer = self.call(node, packed, planned)?;
        self.cure_script(node, packed, args, planned, reach, answer)
    }

    /// The answer of `node` to a request about scripts, or what it answers when it is given what it lacks.
    pub(super) fn cure_script(
        &self,
        node: NodeIndex,
        packed: &[u8],
        args: &[&[u8]],
        planned: &Planned,
        reach: Reach,
        answer: Value,
    ) -> Result<Value, Error> {
        let remedy = match answer {
            Value::ServerError(_) => self.recall().remedy(args, &answer),
            _ => None,
        };
        match remedy {
            None => Ok(self.heard(args, reach, answer)),
            Some(Remedy::Instead(request)) => self.call(node, &request, planned),
            Some(Remedy::After(loads)) => {
                let mut loads = loads_at(&self.router, node, &loads);
                self.executor.exchange(&mut loads, Hold::No);
                self.call(node, packed, planned)
            }
        }
    }

    /// A pipeline with scripts in it.
    pub(super) fn run_scripted(
        &self,
        mut batch: Batch<'_, '_>,
        notes: &Notes<'_>,
    ) -> RedisResult<Vec<Value>> {
        let mut exchanges = batch.take_exchanges();
        let answers = self.executor.exchange(&mut exchanges, batch.hold());
        let mut values = batch.finish(&exchanges, answers, rand::random());
        if notes.is_empty() {
            return Ok(values);
        }
        if let Some(mut cure) = Cure::of(notes, &self.router, &self.recall(), &values) {
            let mut exchanges = cure.take_exchanges();
            let answers = self.executor.exchange(&mut exchanges, Hold::No);
            cure.finish(&exchanges, answers, &mut values);
        }
        self.heard_all(notes, &mut values);
        Ok(values)
    }

    /// A transaction with scripts in it.
    pub(super) fn run_scripted_atomic(
        &self,
        node: NodeIndex,
        exchange: Exchange,
        notes: &Notes<'_>,
    ) -> RedisResult<Vec<Value>> {
        let answers = self.executor.exchange(&mut vec![exchange], Hold::No);
        let mut answers = answers.into_iter().next().unwrap_or_default();
        notes.strip(&mut answers);
        let mut values = vec![Atomic::finish(self.router.name(node), answers)?];
        self.heard_all(notes, &mut values);
        Ok(values)
    }
}
