//! Requests in flight to several nodes, until each node has all its replies or a final failure.
//!
//! An executor [polls](Exchange::poll) for pending requests, moves the bytes, and
//! [hands over](Exchange::handle) the replies. The consequences are decided here: a broken connection is
//! replaced and requests that are safe to repeat are resent, and a request that any node may serve goes to
//! the next node when its own cannot be reached.
//!
//! The requests that are pending at one time are a *wave* and may be sent concurrently. ECHO and GET in one
//! pipeline, while node `a` is down and the connection to `b` breaks:
//!
//! ```text
//! wave   sent to a        sent to b             result
//!  1     ECHO, GET a1     GET b1                a: connection refused; b: connection broke
//!  2                      GET b1 (reconnected)  b: a reply         a read is resent
//!  3                      ECHO                  b: a reply         any node may serve it; GET a1 has failed
//! ```
//!
//! There are at most [`RESENDS_MAX`] + 1 waves for each node of the topology, and none begins after the
//! [end](Exchange::end). Nothing here sleeps: a resend follows its failure at once, and the backoff of a node
//! that is down is the connection's, not the request's.

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

/// Counts the resends of one node's requests, up to [`RESENDS_MAX`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResendBudget {
    used: usize,
}

impl ResendBudget {
    /// Returns true if a single request without a reply is to be resent on a new connection after this
    /// failure.
    ///
    /// For callers without an [`Exchange`]. Each call counts as one resend, whatever the result.
    pub(crate) fn allows(&mut self, failure: &Failure, access: Access) -> bool {
        self.after(failure, 0, &[ReplySlot::whole(0, access)]) != Resend::No
    }

    /// Decides from where on requests are resent on a new connection, when `answered` of them have replies.
    ///
    /// Each call counts, also one that decides against it: after [`Resend::No`] the failure is final anyway.
    fn after(&mut self, failure: &Failure, answered: usize, slots: &[ReplySlot]) -> Resend {
        if self.used == RESENDS_MAX {
            return Resend::No;
        }
        self.used += 1;
        failure.resend(answered, slots)
    }
}

/// Requests for several nodes, and the replies received so far.
///
/// Used in this order: [`begin`](Self::begin) once; [`poll`](Self::poll), [`attempts`](Self::attempts) and
/// [`handle`](Self::handle) in turns, until `poll` returns false; then [`parts`](Self::parts),
/// [`into_parts`](Self::into_parts) or [`into_last`](Self::into_last). An executor that serves each node by
/// itself goes through [`nodes_mut`](Self::nodes_mut) instead, so that one node's second attempt need not
/// wait for another's first.
#[derive(Debug)]
pub(crate) struct Exchange<R = Vec<Value>> {
    /// In node order, followed by the requests moved to other nodes in the order in which they were moved.
    nodes: Vec<NodeExchange<R>>,
    /// How long the servers may hold replies back because the commands block.
    blocking: BlockingTime,
    /// Deadline of all waves; `None` before [`begin`](Exchange::begin), and when there is none.
    end: Option<Instant>,
    /// Number of nodes in the topology; 1 when requests must not move to another node.
    node_count: usize,
    /// Index into `nodes`: the failed requests before it were moved to another node already. Without it the
    /// same request would be moved to the same next node after every wave.
    unreachable_until: usize,
}

/// One node's requests, and the replies received so far over all attempts.
///
/// ```text
/// new ──▶ pending ──handle: all replies, or a final failure──▶ done
///            ▲ │
///            └─┘ handle: the connection broke, resending is safe
/// ```
#[derive(Debug)]
pub(crate) struct NodeExchange<R> {
    request: NodeRequest,
    /// The requests to resend, and the number of the first of them within `request`. Boxed, because it is
    /// rare and this struct is moved for every node of every pipeline.
    rest: Option<Box<(usize, NodeRequest)>>,
    /// Replies of all attempts: those of a resend are appended to those of the attempt before.
    answers: Answers<R>,
    resends: ResendBudget,
    /// True while an attempt is to be sent or has no result yet.
    is_pending: bool,
}

/// The requests to send to one node now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'e> {
    pub(crate) request: &'e NodeRequest,
    /// True if the connection of the previous attempt broke: the other idle connections to the node are
    /// probably dead too.
    pub(crate) needs_new_connection: bool,
}

/// Why requests are sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptKind {
    /// Their plan says so.
    First,
    /// The connection of the first attempt broke.
    Resend,
    /// Another node could not be reached.
    OtherNode,
}

impl Attempt<'_> {
    /// Why the requests are sent.
    pub(crate) fn kind(&self) -> AttemptKind {
        match (self.needs_new_connection, self.request.tried) {
            (true, _) => AttemptKind::Resend,
            (false, 0) => AttemptKind::First,
            (false, _) => AttemptKind::OtherNode,
        }
    }
}

impl<R: ReplyBuffer> Exchange<R> {
    /// An exchange of these requests, at most one per node. `node_count` is the number of nodes among which
    /// requests may move when their own node cannot be reached; 1 forbids it.
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

    /// Sets the latest end: the later exchanges of an operation share the deadline of its first.
    pub(crate) fn until(mut self, end: Option<Instant>) -> Self {
        self.end = end;
        self
    }

    /// How long the servers may hold replies back, in addition to the response timeout.
    pub(crate) fn blocking_time(&self) -> BlockingTime {
        self.blocking
    }

    /// Extends the time that servers may hold replies back, such as by CLIENT PAUSE.
    pub(crate) fn add_blocking(&mut self, blocking: BlockingTime) {
        self.blocking = blocking.then(self.blocking);
    }

    /// Starts the clock and returns the time that the exchange may take.
    ///
    /// `response` is the timeout of a reply that no server holds back. Returns `None` when there is no limit,
    /// because `response` is `None` or a command blocks without a timeout.
    pub(crate) fn begin(&mut self, now: Instant, response: Option<Duration>) -> Option<Duration> {
        let limit = self.blocking.with_response(response);
        let left = self.end.map(|end| end.saturating_duration_since(now));
        let limit = match (limit, left) {
            // A later exchange of an operation has both: its own limit, and what is left of the first one's.
            (Some(limit), Some(left)) => Some(limit.min(left)),
            (limit, left) => limit.or(left),
        };
        // A limit beyond the range of `Instant` is none.
        self.end = limit.and_then(|limit| now.checked_add(limit));
        limit
    }

    /// The deadline, once the exchange has [begun](Self::begin).
    pub(crate) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// Returns true if there are requests to send; all pending nodes may be sent to concurrently.
    ///
    /// Moves the requests of unreachable nodes to other nodes once nothing else is pending. After the
    /// deadline it gives up what is pending and returns false.
    pub(crate) fn poll(&mut self, now: Instant) -> bool {
        // The caller has stopped waiting, and a write that is sent all the same would have an unknown
        // outcome.
        if self.end.is_some_and(|end| end <= now) {
            self.nodes.iter_mut().for_each(NodeExchange::expire);
            return false;
        }
        if self.nodes.iter().any(|node| node.is_pending) {
            return true;
        }
        // Only now: while a node is pending, its resend may still succeed, and requests must not move before
        // that.
        let asked = self.nodes.len();
        let failed = &self.nodes[self.unreachable_until..];
        let more: Vec<NodeRequest> = failed
            .iter()
            .filter_map(|node| for_other_node(&node.request, &node.answers, self.node_count))
            .collect();
        // Requests that move again do so from the nodes added now, whose `tried` bounds them.
        self.unreachable_until = asked;
        self.nodes.extend(more.into_iter().map(NodeExchange::new));
        self.nodes.len() > asked
    }

    /// The requests of all nodes, to be completed before they are sent.
    #[cfg(feature = "proxy")]
    pub(in crate::plan) fn requests_mut(&mut self) -> impl Iterator<Item = &mut NodeRequest> {
        self.nodes.iter_mut().map(|node| &mut node.request)
    }

    /// All nodes, pending or not; see [`NodeExchange::attempt`].
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn nodes_mut(&mut self) -> &mut [NodeExchange<R>] {
        &mut self.nodes
    }

    /// The pending requests, in node order.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = Attempt<'_>> {
        self.nodes.iter().filter_map(NodeExchange::attempt)
    }

    /// Records the results of all [attempts](Self::attempts), in their order.
    pub(crate) fn handle(&mut self, answers: Vec<Answers<R>>) {
        // An attempt without a result is over too: if it stayed pending, the loop of the executor would never
        // end.
        let answers = answers
            .into_iter()
            .chain(iter::repeat_with(Answers::default));
        let pending = self.nodes.iter_mut().filter(|node| node.is_pending);
        for (node, answers) in pending.zip(answers) {
            node.handle(answers);
        }
    }

    /// Gives each node a meter that counts the bytes of replies forwarded undecoded.
    #[cfg(feature = "proxy")]
    pub(crate) fn set_meter(&mut self, meter: impl Fn() -> SharedByteMeter) {
        for node in &mut self.nodes {
            node.request.meter = Some(meter());
        }
    }

    /// The requests of each node and their replies.
    ///
    /// A request that moved from node to node occurs once for each of them, in that order: the last
    /// occurrence counts.
    #[cfg(feature = "proxy")]
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = (&NodeRequest, &Answers<R>)> {
        self.nodes.iter().map(NodeExchange::part)
    }

    /// Part number `number` of the [parts](Self::parts).
    ///
    /// # Panics
    ///
    /// When there is no part of that number.
    #[cfg(feature = "proxy")]
    pub(crate) fn part(&self, number: usize) -> (&NodeRequest, &Answers<R>) {
        self.nodes[number].part()
    }

    /// The requests of each node and their replies, by value. A request that moved from node to node occurs
    /// once for each of them, in that order: the last occurrence counts.
    pub(crate) fn into_parts(self) -> impl ExactSizeIterator<Item = (NodeRequest, Answers<R>)> {
        self.nodes
            .into_iter()
            .map(|node| (node.request, node.answers))
    }

    /// The last node that was tried, and its replies: those before it could not be reached. For exchanges
    /// that begin with one node. `None` when the exchange had no request.
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

    /// The requests to send to this node now; `None` when nothing is pending.
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

    /// Gives up the pending attempt. A resend fails with the failure of the attempt before; a first attempt
    /// fails with a timeout, as not sent.
    fn expire(&mut self) {
        if self.is_pending && self.rest.take().is_none() {
            let late = Cause::Timeout("timed out: no time was left to send it".into());
            self.answers = Answers::failed(Failure::not_sent(late));
        }
        self.is_pending = false;
    }

    /// Records the result of the attempt, and decides whether there is another one.
    pub(crate) fn handle(&mut self, answers: Answers<R>) {
        // The second attempt began with the first request that had no reply, so its replies continue those of
        // the first.
        match self.rest.take() {
            None => self.answers = answers,
            Some(rest) => self.answers.append(rest.0, answers),
        }
        self.is_pending = false;
        let Some(failure) = &self.answers.failure else {
            return;
        };
        // The meaning of a pinned request depends on the state of its connection (MULTI, WATCH, SELECT),
        // which is gone.
        if self.request.is_pinned {
            return;
        }
        let answered = self.answers.values.count();
        // Resending only the rest of a transaction would run its commands one by one, without MULTI.
        if self.request.ending == ExpectedEnd::Exec && answered > 0 {
            return;
        }
        // Against all slots, not those of the attempt: `append` has counted the failure from the first
        // request.
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
