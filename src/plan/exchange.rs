//! Requests on their way to several nodes, until each has its replies or a failure that stands.
//!
//! An executor asks what is [pending](Exchange::poll), moves the bytes, and [hands over](Exchange::handle) what came back. What
//! that means is decided here: a broken connection is replaced and what is safe to repeat is sent again, and a request that
//! any node may answer goes to the next one when its node cannot be reached.

use std::iter;
use std::time::{Duration, Instant};

use redis::Value;

use crate::command::BlockingTime;
use crate::partition::NodeIndex;
#[cfg(feature = "proxy")]
use crate::plan::SharedByteMeter;
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::other_node::for_other_node;
use crate::plan::{Answers, Cause, ExpectedEnd, Failure, RESENDS_MAX, ReplyBuffer, Resend};

/// How often one request may still be resent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResendBudget {
    used: usize,
}

impl ResendBudget {
    /// Decides whether what is unanswered after this failure is sent again on a new connection, and counts it if so.
    pub(crate) fn after(
        &mut self,
        failure: &Failure,
        answered: usize,
        slots: &[ReplySlot],
    ) -> Resend {
        if self.used == RESENDS_MAX {
            return Resend::No;
        }
        self.used += 1;
        failure.resend(answered, slots)
    }
}

/// Requests for several nodes, and what came back so far.
#[derive(Debug)]
pub(crate) struct Exchange<R = Vec<Value>> {
    /// In node order; those for other nodes, because the first could not be reached, behind them.
    nodes: Vec<NodeExchange<R>>,
    /// How long the servers may hold replies back by the commands' own wish.
    blocking: BlockingTime,
    /// When all of it ends; `None` before it has begun, and when it never does.
    end: Option<Instant>,
    /// Nodes of the topology.
    node_count: usize,
    /// Those before were asked for what another node may answer.
    unreachable_until: usize,
}

/// One node's requests, and what came back so far.
#[derive(Debug)]
pub(crate) struct NodeExchange<R> {
    request: NodeRequest,
    /// What is sent again after a failure: from this request on. In a box, because it is rare and requests are moved.
    rest: Option<Box<(usize, NodeRequest)>>,
    answers: Answers<R>,
    resends: ResendBudget,
    is_pending: bool,
}

/// What is to be sent to one node now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'e> {
    pub(crate) request: &'e NodeRequest,
    /// A connection broke under the attempt before, so this one needs a new one.
    pub(crate) needs_new_connection: bool,
}

impl<R: ReplyBuffer> Exchange<R> {
    pub(crate) fn new(
        requests: impl IntoIterator<Item = NodeRequest>,
        blocking: BlockingTime,
        node_count: usize,
    ) -> Self {
        Self {
            nodes: requests.into_iter().map(NodeExchange::new).collect(),
            blocking,
            end: None,
            node_count,
            unreachable_until: 0,
        }
    }

    /// One that ends no later than `end`.
    pub(crate) fn until(mut self, end: Option<Instant>) -> Self {
        self.end = end;
        self
    }

    /// How long the servers may hold replies back.
    pub(crate) fn blocking_time(&self) -> BlockingTime {
        self.blocking
    }

    /// Lengthens it by the time that the servers may hold replies back for another reason.
    pub(crate) fn hold(&mut self, blocking: BlockingTime) {
        self.blocking = blocking.then(self.blocking);
    }

    /// Begins it. Gives the time it may take, when a reply that is not held back may take `response`.
    pub(crate) fn begin(&mut self, now: Instant, response: Option<Duration>) -> Option<Duration> {
        let limit = self.blocking.with_response(response);
        let left = self.end.map(|end| end.saturating_duration_since(now));
        let limit = match (limit, left) {
            (Some(limit), Some(left)) => Some(limit.min(left)),
            (limit, left) => limit.or(left),
        };
        self.end = limit.and_then(|limit| now.checked_add(limit));
        limit
    }

    /// When it ends, once it has begun.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// Whether something is to be sent. All nodes that are pending may be sent to at once. After the end nothing is.
    pub(crate) fn poll(&mut self, now: Instant) -> bool {
        // Nobody waits for a reply any more, and a write that is sent all the same would be one of unknown fate.
        if self.end.is_some_and(|end| end <= now) {
            self.nodes.iter_mut().for_each(NodeExchange::expire);
            return false;
        }
        if self.nodes.iter().any(|node| node.is_pending) {
            return true;
        }
        let asked = self.nodes.len();
        let failed = &self.nodes[self.unreachable_until..];
        let more: Vec<NodeRequest> = failed
            .iter()
            .filter_map(|node| for_other_node(&node.request, &node.answers, self.node_count))
            .collect();
        self.unreachable_until = asked;
        self.nodes.extend(more.into_iter().map(NodeExchange::new));
        self.nodes.len() > asked
    }

    /// What each node gets.
    #[cfg(feature = "proxy")]
    pub(in crate::plan) fn requests_mut(&mut self) -> impl Iterator<Item = &mut NodeRequest> {
        self.nodes.iter_mut().map(|node| &mut node.request)
    }

    /// The nodes, of which those that are pending must be sent to.
    pub(crate) fn nodes_mut(&mut self) -> &mut [NodeExchange<R>] {
        &mut self.nodes
    }

    /// What is to be sent, in node order.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = Attempt<'_>> {
        self.nodes.iter().filter_map(NodeExchange::attempt)
    }

    /// Takes what came back for each of the [attempts](Self::attempts), in their order.
    pub(crate) fn handle(&mut self, answers: Vec<Answers<R>>) {
        // Each attempt is over, also one that nothing is said of: were it still pending, it would be sent for ever.
        let answers = answers
            .into_iter()
            .chain(iter::repeat_with(Answers::default));
        let pending = self.nodes.iter_mut().filter(|node| node.is_pending);
        for (node, answers) in pending.zip(answers) {
            node.handle(answers);
        }
    }

    /// Has the bytes of the replies counted that are passed on as they come.
    #[cfg(feature = "proxy")]
    pub(crate) fn set_meter(&mut self, meter: impl Fn() -> SharedByteMeter) {
        for node in &mut self.nodes {
            node.request.meter = Some(meter());
        }
    }

    /// The requests, and what came back for them.
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = (&NodeRequest, &Answers<R>)> {
        self.nodes.iter().map(NodeExchange::part)
    }

    /// One of the [parts](Self::parts).
    pub(crate) fn part(&self, number: usize) -> (&NodeRequest, &Answers<R>) {
        self.nodes[number].part()
    }

    /// The requests, and what came back for them.
    pub(crate) fn into_parts(self) -> impl ExactSizeIterator<Item = (NodeRequest, Answers<R>)> {
        self.nodes
            .into_iter()
            .map(|node| (node.request, node.answers))
    }

    /// The node that was asked last, and what came back from it: all before it could not be reached. For requests that go
    /// to one node at a time.
    pub(crate) fn into_last(self) -> Option<(NodeIndex, Answers<R>)> {
        let (request, answers) = self.into_parts().last()?;
        Some((request.node, answers))
    }
}

impl<R: ReplyBuffer> NodeExchange<R> {
    fn new(request: NodeRequest) -> Self {
        Self {
            request,
            rest: None,
            answers: Answers::default(),
            resends: ResendBudget::default(),
            is_pending: true,
        }
    }

    fn part(&self) -> (&NodeRequest, &Answers<R>) {
        (&self.request, &self.answers)
    }

    /// What is to be sent to this node now.
    pub(crate) fn attempt(&self) -> Option<Attempt<'_>> {
        let attempt = match &self.rest {
            None => Attempt {
                request: &self.request,
                needs_new_connection: false,
            },
            Some(rest) => Attempt {
                request: &rest.1,
                needs_new_connection: true,
            },
        };
        self.is_pending.then_some(attempt)
    }

    /// Gives up what is still to be sent. What broke before stays the reason; what was never sent was too late.
    fn expire(&mut self) {
        if self.is_pending && self.rest.take().is_none() {
            let late = Cause::Timeout("no time was left to send it".into());
            self.answers = Answers::failed(Failure::not_sent(late));
        }
        self.is_pending = false;
    }

    /// Takes what came back for the attempt.
    pub(crate) fn handle(&mut self, answers: Answers<R>) {
        match self.rest.take() {
            None => self.answers = answers,
            Some(rest) => self.answers.append(rest.0, answers),
        }
        self.is_pending = false;
        let Some(failure) = &self.answers.failure else {
            return;
        };
        // What is sent on a connection of somebody's own depends on that connection's state.
        if self.request.is_pinned {
            return;
        }
        let answered = self.answers.values.count();
        // The end of a transaction is none: its commands would be run one by one.
        if self.request.ending == ExpectedEnd::Exec && answered > 0 {
            return;
        }
        if let Resend::From(first) = self.resends.after(failure, answered, &self.request.slots) {
            self.rest = Some(Box::new((first, self.request.rest(first))));
            self.is_pending = true;
        }
    }
}
