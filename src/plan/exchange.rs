//! Requests on their way to several nodes, until each has its replies or a failure that stands.
//!
//! An executor asks what is [pending](Exchange::poll), moves the bytes, and [hands over](Exchange::handle) what came back. What
//! that means is decided here: a broken connection is replaced and what is safe to repeat is sent again, and a request that
//! any node may answer goes to the next one when its node cannot be reached.
//!
//! All that is pending at one time is a *wave*: its requests may be sent at once. ECHO and GET in one pipeline, while node
//! `a` is down and the connection to `b` breaks:
//!
//! ```text
//! wave   sent to a        sent to b             what came back
//!  1     ECHO, GET a1     GET b1                a: connection refused; b: connection broke
//!  2                      GET b1, a new one     b: a reply             a read is resent
//!  3                      ECHO                  b: a reply             any node may answer it; GET a1 stays failed
//! ```
//!
//! There are at most [`RESENDS_MAX`] + 1 waves for each node of the topology, and none begins after the
//! [end](Exchange::end).

use std::iter;
use std::time::{Duration, Instant};

use redis::Value;

use crate::command::{Access, BlockingTime};
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
    /// Decides whether the only request that was sent is sent again on a new connection after this failure, and counts it.
    pub(crate) fn allows(&mut self, failure: &Failure, access: Access) -> bool {
        self.after(failure, 0, &[ReplySlot::whole(0, access)]) != Resend::No
    }

    /// Decides whether what is unanswered after this failure is sent again on a new connection, and counts it if so.
    fn after(&mut self, failure: &Failure, answered: usize, slots: &[ReplySlot]) -> Resend {
        if self.used == RESENDS_MAX {
            return Resend::No;
        }
        self.used += 1;
        failure.resend(answered, slots)
    }
}

/// Requests for several nodes, and what came back so far.
///
/// Used in this order: [`begin`](Self::begin) once; [`poll`](Self::poll), [`attempts`](Self::attempts) and
/// [`handle`](Self::handle) in turns, until `poll` says that nothing is to be sent; then [`parts`](Self::parts),
/// [`into_parts`](Self::into_parts) or [`into_last`](Self::into_last). An executor that serves each node by itself goes
/// through [`nodes_mut`](Self::nodes_mut) instead, so that one node's second attempt need not wait for another's first.
#[derive(Debug)]
pub(crate) struct Exchange<R = Vec<Value>> {
    /// In node order; those for other nodes, because the first could not be reached, behind them.
    nodes: Vec<NodeExchange<R>>,
    /// How long the servers may hold replies back by the commands' own wish.
    blocking: BlockingTime,
    /// When all of it ends; `None` before it has begun, and when it never does.
    end: Option<Instant>,
    /// Nodes of the topology; one, when no other node may be asked.
    node_count: usize,
    /// What is left of the nodes before this one was given to another node already. Without it the same request would go
    /// to the same next node in every wave.
    unreachable_until: usize,
}

/// One node's requests, and what came back so far.
#[derive(Debug)]
pub(crate) struct NodeExchange<R> {
    request: NodeRequest,
    /// What is sent again after a failure: from this request on. In a box, because it is rare and requests are moved.
    rest: Option<Box<(usize, NodeRequest)>>,
    /// Of all attempts: those of a later one are joined to those that an earlier one brought.
    answers: Answers<R>,
    resends: ResendBudget,
    /// There is an attempt that nothing has come back for yet.
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

    /// One that ends no later than `end`: the later exchanges of an operation have what the first one left of its time.
    pub(crate) fn until(mut self, end: Option<Instant>) -> Self {
        self.end = end;
        self
    }

    /// How long the servers may hold replies back.
    pub(crate) fn blocking_time(&self) -> BlockingTime {
        self.blocking
    }

    /// Lengthens it by the time that the servers may hold replies back for another reason.
    pub(crate) fn add_blocking(&mut self, blocking: BlockingTime) {
        self.blocking = blocking.then(self.blocking);
    }

    /// Begins it. Gives the time it may take, when a reply that is not held back may take `response`; `None` when it may
    /// take for ever, because `response` is `None` or a command waits for ever by its own wish.
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
        // Nothing is pending: what is left of the nodes that could not be reached goes to others.
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
    #[cfg(feature = "tokio-comp")]
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

    /// The requests, and what came back for them. A request that went from node to node is there once for each of them, in
    /// that order, so the last one that is looked at counts.
    #[cfg(feature = "proxy")]
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = (&NodeRequest, &Answers<R>)> {
        self.nodes.iter().map(NodeExchange::part)
    }

    /// One of the [parts](Self::parts).
    ///
    /// # Panics
    ///
    /// When there are no more than `number` of them.
    #[cfg(feature = "proxy")]
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

    #[cfg(feature = "proxy")]
    fn part(&self) -> (&NodeRequest, &Answers<R>) {
        (&self.request, &self.answers)
    }

    /// What is to be sent to this node now; `None` when nothing is pending there.
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

    /// Takes what came back for the attempt, and decides whether there is another one.
    pub(crate) fn handle(&mut self, answers: Answers<R>) {
        // Replies of the second attempt follow those of the first: it began where these ended.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_exchange_is_at_most_twice_as_large_as_a_node_request() {
        // Both are moved for every node of every pipeline.
        assert!(size_of::<NodeExchange<Vec<Value>>>() <= 2 * size_of::<NodeRequest>());
    }

    #[test]
    fn exchange_ends_an_attempt_without_an_outcome() {
        let slot = ReplySlot::whole(0, crate::command::Access::Read);
        let request =
            NodeRequest::single(NodeIndex::new(0), b"*1\r\n$4\r\nPING\r\n".to_vec(), slot);
        let mut exchange: Exchange = Exchange::new([request], BlockingTime::None, 1);
        let now = Instant::now();
        assert!(exchange.poll(now));
        exchange.handle(Vec::new());
        assert!(!exchange.poll(now));
    }
}
