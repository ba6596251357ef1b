//! Many commands, or one transaction, from their plan to their replies.
//!
//! The commands of a pipeline go to their own nodes in one exchange. Scripts are no problem there: when the
//! pipeline was planned, the first EVALSHA of a script became EVAL. Functions that a node turns out to lack
//! are loaded there and called again in a second exchange; there is no third.
//!
//! ```text
//! Batch ───────────────────────────────▶ replies
//!   │ Function not found                    ▲
//!   └────▶ Retrying: FUNCTION LOAD, FCALL ──┘
//! Transaction, Private ────────────────▶ replies
//! Known ───────────────────────────────▶ an empty transaction, or a refusal
//! ```
//!
//! A function that is called again runs after commands that followed it in the pipeline. A pipeline over
//! several nodes promises no order among them, and the first call was refused, not run. A transaction and a
//! dedicated connection do promise an order, so nothing is called again there.

use std::time::Instant;

use redis::{RedisResult, Value};

use crate::command::{BlockingTime, Partial};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::batch::Batch;
use crate::plan::operation::command::over;
use crate::plan::operation::scan::{ScanInProgress, ScanProgress};
use crate::plan::operation::{Operation, ScriptStore, Step};
use crate::plan::refusal::redis_empty_command;
use crate::plan::replies::ReplyNode;
use crate::plan::request::{PlannedPipeline, finish_private, parse_one, select_replies};
use crate::plan::{
    Exchange, ExchangeStep, FunctionRetry, PipelineKind, PipelineReplies, PlannedTransaction,
    Router, ScriptJournal,
};
use crate::topology::LivingNodes;

/// A pipeline under way.
pub(crate) struct PipelineOperation<'a> {
    router: &'a Router,
    scripts: &'a dyn ScriptStore,
    /// Random bits, for replies that are chosen at random.
    entropy: u64,
    /// The exchange of the current state; empty where the state sends nothing.
    exchange: Exchange,
    state: State<'a>,
    /// SCANs over a cluster, carried out after the other commands: their numbers, the commands, and whether slots may be
    /// left out.
    scans: std::vec::IntoIter<(u32, &'a [u8], Partial)>,
}

/// The replies that `redis::Pipeline` returns to its caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    /// The kind of the pipeline.
    pub(crate) kind: PipelineKind,
    /// Number of replies to skip at the beginning.
    pub(crate) offset: usize,
    /// Number of replies to return after those.
    pub(crate) count: usize,
}

impl Selection {
    /// All replies of a pipeline that was not packed yet.
    pub(crate) fn of_pipeline(pipeline: &redis::Pipeline) -> Self {
        Self {
            kind: PipelineKind::of_pipeline(pipeline),
            offset: 0,
            count: pipeline.len(),
        }
    }

    /// All replies of a pipeline of this many commands that is no transaction.
    #[cfg(feature = "backup")]
    pub(crate) fn plain(count: usize) -> Self {
        Self {
            kind: PipelineKind::Plain,
            offset: 0,
            count,
        }
    }

    /// The selection that `redis::Pipeline` passes along with packed commands.
    ///
    /// # Errors
    ///
    /// When there are no commands: see [`redis_empty_command`].
    pub(crate) fn of(packed: &[u8], offset: usize, count: usize) -> RedisResult<Self> {
        if packed.is_empty() {
            return Err(redis_empty_command());
        }
        Ok(Self {
            kind: PipelineKind::of(packed, offset, count),
            offset,
            count,
        })
    }

    /// The name of the form of the pipeline and the number of its commands, as traces show them.
    #[cfg(feature = "tracing")]
    pub(crate) fn form(&self) -> (&'static str, usize) {
        match self.kind {
            PipelineKind::Atomic { commands } => ("MULTI", commands),
            PipelineKind::Plain => ("PIPELINE", self.offset + self.count),
        }
    }
}

/// The exchange under way, and what follows it.
enum State<'a> {
    /// The result is known: an empty transaction, or a refusal after an exchange that only ends a
    /// transaction.
    Known(Result<PipelineReplies, Error>),
    /// Commands for the nodes of their keys, or for one node that the user named.
    Batch(Batch<'a, 'a>, Option<ScriptJournal<'a>>),
    /// Functions that nodes lacked are loaded and called again; the other replies are complete.
    Retrying(FunctionRetry<'a>, PipelineReplies, ScriptJournal<'a>),
    /// SCAN over a cluster, the command with this number; the replies are complete but for those behind it.
    Scanning(u32, Box<ScanInProgress>, PipelineReplies),
    /// MULTI ... EXEC on one node.
    Transaction(NodeIndex, Option<ScriptJournal<'a>>),
    /// Any pipeline over a dedicated connection.
    Private(NodeIndex, PipelineKind, Option<ScriptJournal<'a>>),
    /// The result was returned.
    Done,
}

impl<'a> PipelineOperation<'a> {
    /// A packed pipeline whose commands go to the nodes of their keys. `entropy` is a random number, for what
    /// is chosen at random.
    ///
    /// # Errors
    ///
    /// When one of the commands is refused; nothing is sent then.
    pub(crate) fn by_keys(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        packed: &'a [u8],
        kind: PipelineKind,
        entropy: u64,
    ) -> Result<Self, Error> {
        let planned = router.route_pipeline(packed, kind, &|| scripts.snapshot(), entropy)?;
        let mut operation = Self::new(router, scripts, planned, entropy);
        operation.exchange = operation.exchange.for_router(router);
        Ok(operation)
    }

    /// A packed pipeline that goes to `node`, whatever its keys.
    ///
    /// # Errors
    ///
    /// When one of the commands is refused; nothing is sent then.
    pub(crate) fn at_node(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        node: NodeIndex,
        packed: &'a [u8],
        kind: PipelineKind,
    ) -> Result<Self, Error> {
        let planned = router.route_pipeline_at(node, packed, kind, &|| scripts.snapshot())?;
        // One node's replies leave no choice.
        let mut operation = Self::new(router, scripts, planned, 0);
        operation.exchange = operation.exchange.at_node(router);
        Ok(operation)
    }

    /// A planned pipeline. `entropy` is a random number for replies that are chosen at random.
    pub(crate) fn new(
        router: &'a Router,
        scripts: &'a dyn ScriptStore,
        planned: PlannedPipeline<'a, 'a>,
        entropy: u64,
    ) -> Self {
        let mut scans = Vec::new();
        let (exchange, state) = match planned {
            // The reply of a server to EXEC without commands.
            PlannedPipeline::Empty => (
                Exchange::new([], BlockingTime::None, LivingNodes::none()),
                State::Known(Ok(PipelineReplies::exec(
                    ReplyNode::Planned(NodeIndex::new(0)),
                    Value::Array(Vec::new()),
                ))),
            ),
            PlannedPipeline::Transaction {
                node,
                request,
                journal,
            } => (
                Exchange::new(
                    [request],
                    BlockingTime::None,
                    router.topology().living_nodes(),
                ),
                State::Transaction(node, journal),
            ),
            PlannedPipeline::Batch { mut batch, journal } => {
                scans = batch.take_scans();
                (batch.exchange(), State::Batch(batch, journal))
            }
        };
        Self {
            router,
            scripts,
            entropy,
            exchange,
            state,
            scans: scans.into_iter(),
        }
    }

    /// A pipeline over a dedicated connection to `node`, whose requests are in `exchange`.
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
            scans: Vec::new().into_iter(),
        }
    }

    /// A pipeline that is refused with `refusal` after `exchange`, which ends a transaction, was sent. Its
    /// reply is ignored.
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
            scans: Vec::new().into_iter(),
        }
    }

    /// Takes the exchange out, leaving an empty one that keeps the deadline for the next.
    fn take_exchange(&mut self) -> Exchange {
        let none = self.exchange.successor([], BlockingTime::None);
        std::mem::replace(&mut self.exchange, none)
    }

    /// The replies of a batch; `None` when nodes lacked functions and a second exchange was prepared.
    ///
    /// A failed command is an error in its place, so a batch itself never fails.
    fn handle_batch(
        &mut self,
        batch: &Batch<'a, 'a>,
        journal: Option<ScriptJournal<'a>>,
    ) -> Option<PipelineReplies> {
        let mut replies = batch.finish(self.take_exchange(), self.entropy);
        let Some(journal) = journal else {
            return Some(replies);
        };
        // Recorded only after the retry, so that the journal sees the final reply of each command.
        let cache = self.scripts.snapshot();
        if let Some(mut retry) = FunctionRetry::of(&journal, self.router, &cache, &replies.values) {
            let retry_exchange = retry.exchange().until(self.exchange.end());
            self.exchange = match self.exchange.is_following() {
                true => retry_exchange.for_router(self.router),
                false => retry_exchange,
            };
            self.state = State::Retrying(retry, replies, journal);
            return None;
        }
        self.scripts.record_replies(&journal, &mut replies.values);
        Some(replies)
    }

    /// Begins the next SCAN over a cluster; these replies are complete but for it and those behind it. Returns them if there
    /// is none left.
    fn begin_scan(&mut self, mut replies: PipelineReplies) -> Option<PipelineReplies> {
        for (number, frame, partial) in self.scans.by_ref() {
            let args = parse_one(frame).unwrap_or_default();
            match ScanInProgress::new(self.router, &args, partial != Partial::Refused) {
                Ok(scan) => {
                    self.state = State::Scanning(number, Box::new(scan), replies);
                    return None;
                }
                Err(error) => replies.set(number, Err(error)),
            }
        }
        Some(replies)
    }

    /// Takes the replies of an exchange for SCAN over a cluster; see [`begin_scan`](Self::begin_scan).
    fn scan_on(
        &mut self,
        number: u32,
        mut scan: Box<ScanInProgress>,
        mut replies: PipelineReplies,
    ) -> Option<PipelineReplies> {
        let done = self.take_exchange();
        match scan.next(self.router, done) {
            ScanProgress::Send(exchange) => {
                self.exchange = exchange.until(self.exchange.end());
                self.state = State::Scanning(number, scan, replies);
                None
            }
            ScanProgress::Done(reply) => {
                replies.set(number, reply);
                self.begin_scan(replies)
            }
        }
    }

    /// The replies of one node to a transaction, or to a pipeline over a dedicated connection when `private`
    /// has its kind.
    ///
    /// # Errors
    ///
    /// When the connection broke. A transaction then fails as a whole, since EXEC may have been carried out.
    fn handle_one(
        &mut self,
        node: NodeIndex,
        journal: Option<&ScriptJournal<'_>>,
        private: Option<PipelineKind>,
    ) -> Result<PipelineReplies, Error> {
        // An exchange of one request always has a last node; the default only spares a panic.
        let (last, answers) = self.take_exchange().into_last().unzip();
        let mut answers = answers.unwrap_or_default();
        // Before anything counts replies: those of the FUNCTION LOADs sent ahead are no part of the pipeline.
        if let Some(journal) = journal {
            journal.drop_preloads(&mut answers);
        }
        let name = last.as_ref().map(|last| last.node_name(self.router));
        let name = name.unwrap_or_else(|| self.router.name(node).into());
        let node = last
            .as_ref()
            .map_or(ReplyNode::Planned(node), ReplyNode::of);
        let mut replies = match private {
            Some(kind) => PipelineReplies::private(finish_private(&name, kind, answers)?),
            None => PipelineReplies::exec(node, PlannedTransaction::finish(&name, answers)?),
        };
        // Not recorded after a failure: what was carried out of the pipeline is not known then.
        if let Some(journal) = journal {
            self.scripts.record_replies(journal, &mut replies.values);
        }
        Ok(replies)
    }
}

impl Operation for PipelineOperation<'_> {
    type Replies = Vec<Value>;
    /// The results of all commands; [`Selection::select`] takes the replies that redis-rs expects.
    type Output = Result<PipelineReplies, Error>;

    fn poll(&mut self, now: Instant) -> Step<'_, Vec<Value>, Self::Output> {
        loop {
            if self.exchange.poll(now) != ExchangeStep::Done {
                return Step::Send(&mut self.exchange);
            }
            // Taken out first, so that a poll after the end finds `Done`.
            let result = match std::mem::replace(&mut self.state, State::Done) {
                State::Known(result) => result,
                State::Batch(batch, journal) => {
                    let replies = self.handle_batch(&batch, journal);
                    match replies.and_then(|replies| self.begin_scan(replies)) {
                        Some(replies) => Ok(replies),
                        None => continue,
                    }
                }
                State::Retrying(retry, mut replies, journal) => {
                    retry.finish(self.take_exchange(), &mut replies);
                    self.scripts.record_replies(&journal, &mut replies.values);
                    match self.begin_scan(replies) {
                        Some(replies) => Ok(replies),
                        None => continue,
                    }
                }
                State::Scanning(number, scan, replies) => {
                    match self.scan_on(number, scan, replies) {
                        Some(replies) => Ok(replies),
                        None => continue,
                    }
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
    /// Takes the selected replies out of all replies.
    pub(crate) fn select(self, values: Vec<Value>) -> Vec<Value> {
        select_replies(values, self.kind, self.offset, self.count)
    }
}
