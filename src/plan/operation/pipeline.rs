//! Many commands, or one transaction, until their replies.
//!
//! The commands of a pipeline go to their own nodes in one exchange. Scripts that a node may lack went ahead when it was
//! planned; functions that a node turned out to lack are brought there and called again in a second exchange, the only one.
//! A function that is called again runs behind the commands that followed it: a pipeline promises no order among nodes, and
//! the first call was refused, not run.

use std::time::Instant;

use redis::Value;

use crate::command::BlockingTime;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::batch::Batch;
use crate::plan::operation::command::over;
use crate::plan::operation::{Operation, ScriptStore, Step};
use crate::plan::request::{PlannedPipeline, finish_private, select_replies};
use crate::plan::{
    Exchange, FunctionRetry, PipelineKind, PlannedTransaction, Router, ScriptJournal,
};

/// A pipeline on its way.
pub(crate) struct PipelineOperation<'a> {
    router: &'a Router,
    scripts: &'a dyn ScriptStore,
    entropy: u64,
    exchange: Exchange,
    state: State<'a>,
}

/// Which replies `redis::Pipeline` wants: `offset` are left out, `count` are returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    pub(crate) kind: PipelineKind,
    pub(crate) offset: usize,
    pub(crate) count: usize,
}

impl Selection {
    /// What `redis::Pipeline` asks for together with these packed commands.
    pub(crate) fn of(packed: &[u8], offset: usize, count: usize) -> Self {
        Self {
            kind: PipelineKind::of(packed, offset, count),
            offset,
            count,
        }
    }
}

enum State<'a> {
    /// MULTI and EXEC with nothing between them, or refused.
    Known(Result<Vec<Value>, Error>),
    /// Commands that go to their own nodes.
    Batch(Batch<'a, 'a>, Option<ScriptJournal<'a>>),
    /// Functions that nodes lacked are called again.
    Retrying(FunctionRetry<'a>, Vec<Value>, ScriptJournal<'a>),
    /// MULTI ... EXEC at one node.
    Transaction(NodeIndex, Option<ScriptJournal<'a>>),
    /// Over a connection that the user holds.
    Private(NodeIndex, PipelineKind, Option<ScriptJournal<'a>>),
    Done,
}

impl<'a> PipelineOperation<'a> {
    /// One that goes as it is planned. `entropy` is any number: it decides where there is a choice.
    pub(crate) fn new(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        planned: PlannedPipeline<'a, 'a>,
        entropy: u64,
    ) -> Self {
        let nodes = router.topology().nodes().len();
        let (exchange, state) = match planned {
            PlannedPipeline::Empty => (
                Exchange::new([], BlockingTime::None, 0),
                State::Known(Ok(vec![Value::Array(Vec::new())])),
            ),
            PlannedPipeline::Transaction {
                node,
                request,
                journal,
            } => (
                Exchange::new([request], BlockingTime::None, nodes),
                State::Transaction(node, journal),
            ),
            PlannedPipeline::Batch { mut batch, journal } => {
                (batch.exchange(), State::Batch(batch, journal))
            }
        };
        Self {
            router,
            scripts,
            entropy,
            exchange,
            state,
        }
    }

    /// One that is sent over a connection that the user holds to `node`.
    pub(crate) fn private(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        node: NodeIndex,
        exchange: Exchange,
        journal: Option<ScriptJournal<'a>>,
        kind: PipelineKind,
    ) -> Self {
        Self {
            router,
            scripts,
            entropy: 0,
            exchange,
            state: State::Private(node, kind, journal),
        }
    }

    /// One that is refused, after what `exchange` holds, if anything, was sent. The reply to that does not matter.
    pub(crate) fn refused(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        exchange: Exchange,
        refusal: Error,
    ) -> Self {
        Self {
            router,
            scripts,
            entropy: 0,
            exchange,
            state: State::Known(Err(refusal)),
        }
    }

    /// Takes it out, and keeps its end for the one that may follow.
    fn take_exchange(&mut self) -> Exchange {
        let none = Exchange::new([], BlockingTime::None, 0).until(self.exchange.end());
        std::mem::replace(&mut self.exchange, none)
    }

    /// The replies of a batch. What failed is an error in its place, so a batch itself never fails. `None` when nodes lacked functions, which are brought to them and called again.
    fn handle_batch(
        &mut self,
        batch: &Batch<'a, 'a>,
        journal: Option<ScriptJournal<'a>>,
    ) -> Option<Vec<Value>> {
        let mut values = batch.finish(self.take_exchange(), self.entropy);
        let Some(journal) = journal else {
            return Some(values);
        };
        let cache = self.scripts.snapshot();
        if let Some(mut retry) = FunctionRetry::of(&journal, self.router, &cache, &values) {
            self.exchange = retry.exchange().until(self.exchange.end());
            self.state = State::Retrying(retry, values, journal);
            return None;
        }
        self.scripts.record_replies(&journal, &mut values);
        Some(values)
    }

    /// The replies of one node to all that was sent to it, without those to the libraries that went ahead. When the
    /// connection breaks, a transaction fails as a whole: whether EXEC was carried out nobody can say.
    fn handle_one(
        &mut self,
        node: NodeIndex,
        journal: Option<&ScriptJournal<'_>>,
        private: Option<PipelineKind>,
    ) -> Result<Vec<Value>, Error> {
        let (_, mut answers) = self
            .take_exchange()
            .into_last()
            .unwrap_or((node, Default::default()));
        if let Some(journal) = journal {
            journal.drop_preloads(&mut answers);
        }
        let name = self.router.name(node);
        let mut values = match private {
            Some(kind) => finish_private(name, kind, answers)?,
            None => vec![PlannedTransaction::finish(name, answers)?],
        };
        if let Some(journal) = journal {
            self.scripts.record_replies(journal, &mut values);
        }
        Ok(values)
    }
}

impl Operation for PipelineOperation<'_> {
    type Replies = Vec<Value>;
    /// All replies, before those that are wanted were [selected](Selection::select).
    type Output = Result<Vec<Value>, Error>;

    fn poll(&mut self, now: Instant) -> Step<'_, Vec<Value>, Self::Output> {
        loop {
            if self.exchange.poll(now) {
                return Step::Send(&mut self.exchange);
            }
            let result = match std::mem::replace(&mut self.state, State::Done) {
                State::Known(result) => result,
                State::Batch(batch, journal) => match self.handle_batch(&batch, journal) {
                    Some(values) => Ok(values),
                    None => continue,
                },
                State::Retrying(retry, mut values, journal) => {
                    retry.finish(self.take_exchange(), &mut values);
                    self.scripts.record_replies(&journal, &mut values);
                    Ok(values)
                }
                State::Transaction(node, journal) => self.handle_one(node, journal.as_ref(), None),
                State::Private(node, kind, journal) => {
                    self.handle_one(node, journal.as_ref(), Some(kind))
                }
                State::Done => Err(over()),
            };
            return Step::Done(result);
        }
    }
}

impl Selection {
    /// The replies that `redis::Pipeline` wants to see.
    pub(crate) fn select(self, values: Vec<Value>) -> Vec<Value> {
        select_replies(values, self.kind, self.offset, self.count)
    }
}
