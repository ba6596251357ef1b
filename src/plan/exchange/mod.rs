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
//! When nothing else is left to send, and the [`RetryPolicy`](crate::RetryPolicy) allows it, the exchange
//! [waits](ExchangeStep::Wait) before the next wave: for a node that is down, or that has refused requests for
//! the time being. A request that any node may serve goes to all other nodes before that.
//!
//! `node` is what is sent to one node, attempt by attempt; `replan` is what is planned again, while keys are moved.
//!
//! Each node fails at most as often as the policy says, and no wave begins after the [end](Exchange::end). Nothing
//! here sleeps.

mod node;
mod replan;

use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use crate::command::BlockingTime;
use crate::error::{Error, ErrorKind};
use crate::partition::NodeIndex;
#[cfg(feature = "proxy")]
use crate::plan::SharedByteMeter;
use crate::plan::batch::NodeRequest;
use crate::plan::key_by_key::KeyByKey;
use crate::plan::moving::Placing;
use crate::plan::redirects::{ClusterReport, ClusterRouting};
use crate::plan::servers::ServerQueue;
use crate::plan::{Answers, ReplyBuffer, Retries, Router};
use crate::policy::{RequestOptions, RetryPolicy};
use crate::topology::LivingNodes;

#[cfg(feature = "tokio-comp")]
pub(crate) use self::node::Hedge;
use self::node::State;
pub(crate) use self::node::{Attempt, AttemptKind, NodeExchange};

/// What an executor does next with an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeStep {
    /// Send what is pending; all pending nodes may be sent to concurrently.
    Send,
    /// Wait this long, then poll again.
    Wait(Duration),
    /// Wait this long, then [plan again](Exchange::replan) by the newest topology, and poll again.
    Reload(Duration),
    /// Nothing more is to be sent.
    Done,
}

/// A pause of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg(feature = "tokio-comp")]
pub(crate) struct Pause {
    /// Its length; may be zero.
    pub(crate) time: Duration,
    /// True if the exchange is planned again behind it.
    pub(crate) reloads: bool,
}

#[cfg(feature = "tokio-comp")]
impl Pause {
    /// A pause before the next attempt.
    pub(crate) fn before_attempt(time: Duration) -> Self {
        Self {
            time,
            reloads: false,
        }
    }

    /// A pause before the exchange is planned again.
    pub(crate) fn before_reload(time: Duration) -> Self {
        Self {
            time,
            reloads: true,
        }
    }
}

/// Requests for several nodes, and the replies received so far.
///
/// Used in this order: [`begin`](Self::begin) once; [`poll`](Self::poll), [`attempts`](Self::attempts) and
/// [`handle`](Self::handle) in turns, until `poll` returns [`Done`](ExchangeStep::Done); then
/// [`parts`](Self::parts),
/// [`into_parts`](Self::into_parts) or [`into_last`](Self::into_last). An executor that serves each node by
/// itself goes through [`nodes_mut`](Self::nodes_mut) instead, so that one node's second attempt need not
/// wait for another's first.
#[derive(Debug)]
pub(crate) struct Exchange<R = Vec<Value>> {
    /// In node order, followed by the requests moved to other nodes in the order in which they were moved.
    nodes: Vec<NodeExchange<R>>,
    /// How long the servers may hold replies back because the commands block.
    blocking: BlockingTime,
    /// How long the commands themselves may block, without the time that the proxy holds them back.
    own_blocking: BlockingTime,
    /// When the clock was started; `None` before [`begin`](Exchange::begin).
    started: Option<Instant>,
    /// Deadline of all waves; `None` before [`begin`](Exchange::begin), and when there is none.
    end: Option<Instant>,
    /// The nodes among which requests may move; none when they must not move.
    living: LivingNodes,
    /// When requests are sent again.
    retry: RetryPolicy,
    /// A random number, for the jitter of pauses.
    entropy: u64,
    /// In a cluster: what redirects are read by. `None` if they are not followed.
    cluster: Option<Arc<ClusterRouting>>,
    /// True if the servers are those of a cluster, whose redirects somebody else follows.
    is_unfollowed: bool,
    /// What the map of the cluster must learn.
    reports: Vec<ClusterReport>,
    /// The commands that were sent key by key.
    key_by_key: Vec<KeyByKey>,
    /// How the requests were placed.
    placing: Placing,
    /// Number of times that the newest topology was taken so far.
    reloads: u16,
    /// The result of an attempt that was made at the only node before the exchange begins.
    early: Option<Box<Answers<R>>>,
}

/// An attempt that was made before there was an exchange.
pub(crate) struct EarlyAttempt<R> {
    /// Its result.
    pub(crate) answers: Answers<R>,
    /// When it began.
    pub(crate) started: Instant,
    /// Its deadline.
    pub(crate) end: Option<Instant>,
}

impl<R: ReplyBuffer> Exchange<R> {
    /// An exchange of these requests, at most one per node. `living` are the nodes among which requests may move
    /// when their own node cannot be reached; [`LivingNodes::none`] forbids it.
    pub(crate) fn new(
        requests: impl IntoIterator<Item = NodeRequest>,
        blocking: BlockingTime,
        living: LivingNodes,
    ) -> Self {
        let mut nodes: Vec<NodeExchange<R>> = requests.into_iter().map(NodeExchange::new).collect();
        if let [node] = &mut nodes[..] {
            node.is_single = node.request.slots.len() == 1;
        }
        Self {
            nodes,
            blocking,
            own_blocking: blocking,
            started: None,
            end: None,
            living,
            retry: RetryPolicy::default(),
            entropy: 0,
            cluster: None,
            is_unfollowed: false,
            reports: Vec::new(),
            key_by_key: Vec::new(),
            placing: Placing::default(),
            reloads: 0,
            early: None,
        }
    }

    /// Has the redirects followed if the nodes of the router are those of a cluster, and holds what cannot be sent while
    /// keys are moved. Not for requests to a node that the user has named.
    pub(crate) fn for_router(mut self, router: &Router) -> Self {
        self.cluster = router.cluster().map(Arc::clone);
        self.placing = Placing {
            is_by_keys: true,
            is_while_moving: router.is_moving(),
        };
        let may_block = self.blocking != BlockingTime::None;
        for node in &mut self.nodes {
            node.set_doubts(self.cluster.as_ref());
            node.may_be_unblocked = may_block && node.request.slots.len() == 1;
        }
        if router.is_moving() {
            self.keep_back_what_moves(router);
        }
        self
    }

    /// For requests to a node that the user has named: holds what cannot be sent while keys are moved.
    pub(in crate::plan) fn at_node(mut self, router: &Router) -> Self {
        if router.is_moving() {
            self.keep_back_what_moves(router);
        }
        self
    }

    /// For servers of a cluster whose redirects the caller follows. `reports` is what the map must learn from those so
    /// far.
    pub(in crate::plan) fn unfollowed(mut self, reports: Vec<ClusterReport>) -> Self {
        self.is_unfollowed = true;
        self.reports = reports;
        self
    }

    /// Begins with the result of an attempt that was made at the only node, and which is not part of its time.
    pub(in crate::plan) fn set_early_answers(&mut self, answers: Answers<R>) {
        self.early = Some(Box::new(answers));
    }

    /// Begins with the result of an attempt that was made at the only node.
    pub(in crate::plan) fn set_early(&mut self, attempt: EarlyAttempt<R>) {
        self.set_early_answers(attempt.answers);
        self.started = Some(attempt.started);
        self.end = attempt.end;
    }

    /// Takes what the map of the cluster must learn from the replies so far.
    #[inline]
    pub(crate) fn take_reports(&mut self) -> Vec<ClusterReport> {
        std::mem::take(&mut self.reports)
    }

    /// An exchange of these requests with the same end, which follows redirects if this one does. They stay with their
    /// nodes otherwise.
    pub(in crate::plan) fn successor(
        &self,
        requests: impl IntoIterator<Item = NodeRequest>,
        blocking: BlockingTime,
    ) -> Self {
        Self {
            cluster: self.cluster.clone(),
            placing: self.placing,
            ..Self::new(requests, blocking, LivingNodes::none()).until(self.end)
        }
    }

    /// True if the requests are placed by their keys, and redirects are followed.
    pub(in crate::plan) fn is_following(&self) -> bool {
        self.placing.is_by_keys
    }

    /// True if keys were being moved by the topology by which the requests are placed.
    pub(in crate::plan) fn is_while_moving(&self) -> bool {
        self.placing.is_while_moving
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

    /// Starts the clock and returns the time that the exchange may take; `None` when there is no limit.
    /// `entropy` is a random number.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        options: &RequestOptions,
        entropy: u64,
    ) -> Option<Duration> {
        self.retry = options.retry;
        self.entropy = entropy;
        self.started.get_or_insert(now);
        for node in &mut self.nodes {
            node.retries = Retries::new(options.retry)
                .in_cluster(self.cluster.is_some() || self.is_unfollowed);
        }
        self.handle_early();
        let limit = options.limit(self.blocking);
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

    /// Records the result of the attempt that was made before.
    fn handle_early(&mut self) {
        if let (Some(early), [node]) = (self.early.take(), &mut self.nodes[..]) {
            node.handle(*early);
        }
    }

    /// Has READONLY waited for at the nodes that may get another primary, once the exchange has [begun](Self::begin).
    pub(crate) fn set_failover(&mut self, may_fail_over: impl Fn(NodeIndex) -> bool) {
        for node in &mut self.nodes {
            if may_fail_over(node.request.node) {
                node.retries = node.retries.with_failover();
            }
        }
    }

    /// The deadline, once the exchange has [begun](Self::begin).
    pub(crate) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// Returns what is to be done next.
    ///
    /// Moves the requests of unreachable nodes to other nodes once nothing else is pending. After the
    /// deadline it gives up what is pending.
    pub(crate) fn poll(&mut self, now: Instant) -> ExchangeStep {
        // An attempt was made, so whatever the time is, this is not one without any. The executor begins the exchange
        // and takes the reports.
        if self.early.is_some() {
            return ExchangeStep::Send;
        }
        // The caller has stopped waiting, and a write that is sent all the same would have an unknown
        // outcome.
        if self.end.is_some_and(|end| end <= now) {
            self.stop();
            return ExchangeStep::Done;
        }
        for node in &mut self.nodes {
            node.resume(now);
        }
        // Requests that have moved may be held back at first.
        if self.is_pending() || self.move_requests() && self.is_pending() {
            self.limit_blocking(now);
            return ExchangeStep::Send;
        }
        let step = self.next_pause(now);
        match step {
            ExchangeStep::Send => self.limit_blocking(now),
            ExchangeStep::Wait(pause) if self.keeps_back() => {
                return match self.next_reload(now) {
                    ExchangeStep::Reload(reload) => ExchangeStep::Reload(reload.min(pause)),
                    step => step,
                };
            }
            ExchangeStep::Done if self.keeps_back() => return self.next_reload(now),
            ExchangeStep::Done => self.settle(),
            ExchangeStep::Wait(_) | ExchangeStep::Reload(_) => {}
        }
        step
    }

    /// Makes no further attempt: what waits for one has the result of the last.
    pub(crate) fn stop(&mut self) {
        self.handle_early();
        let is_late = |node: &NodeExchange<R>| {
            let failure = node.answers.failure.as_ref();
            failure.is_some_and(|failure| failure.is_late())
        };
        // A primary that hangs may have been replaced.
        if self.cluster.is_some() && self.nodes.iter().any(is_late) {
            self.reports.push(ClusterReport::Suspect);
        }
        self.nodes.iter_mut().for_each(NodeExchange::expire);
        self.settle();
    }

    /// Puts the replies to commands that were sent key by key in their places, once all are final, and forgets what was
    /// never sent.
    fn settle(&mut self) {
        for (id, command) in self.key_by_key.drain(..).enumerate() {
            let mut answers = std::mem::take(&mut self.nodes[command.parent].answers);
            let parts = self.nodes.iter().filter(|node| node.key_by_key == Some(id));
            let mut replies: Vec<Result<(&R, usize), Error>> =
                (0..command.keys).map(|_| Err(no_reply_to_key())).collect();
            for node in parts.filter(|node| node.state != State::Void) {
                for (number, slot) in node.request.slots.iter().enumerate() {
                    if let Some(reply) = replies.get_mut(slot.command as usize) {
                        *reply = node.reply(number, self.cluster.as_deref());
                    }
                }
            }
            command.join(&mut answers, &replies);
            drop(replies);
            self.nodes[command.parent].answers = answers;
        }
        self.nodes
            .retain(|node| node.state != State::Void && node.key_by_key.is_none());
    }

    /// In a cluster, has commands that go on at another server block only for the time that is left.
    fn limit_blocking(&mut self, now: Instant) {
        if let (Some(cluster), BlockingTime::AtMost(time)) = (&self.cluster, self.own_blocking) {
            let elapsed = self
                .started
                .map(|started| now.saturating_duration_since(started));
            let left = time.saturating_sub(elapsed.unwrap_or_default());
            for node in &mut self.nodes {
                node.limit_blocking(cluster.commands(), left);
            }
        }
    }

    /// True if there is something to send now.
    fn is_pending(&self) -> bool {
        self.nodes.iter().any(|node| node.state == State::Pending)
    }

    /// Moves the requests of unreachable nodes to other nodes, and those that a server of a cluster has refused. Returns
    /// true if there were any.
    fn move_requests(&mut self) -> bool {
        // Only now: while a node is pending, its resend may still succeed, and requests must not move before
        // that.
        let asked = self.nodes.len();
        let mut more = Vec::new();
        let retries = Retries::new(self.retry).in_cluster(self.cluster.is_some());
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(cluster) = &self.cluster {
                let redirects = node.redirect(cluster, index, &mut self.reports);
                for (mut next, command) in redirects {
                    next.key_by_key = match command {
                        Some(command) => {
                            self.key_by_key.push(command);
                            Some(self.key_by_key.len() - 1)
                        }
                        None => node.key_by_key,
                    };
                    more.push(next);
                }
            }
            more.extend(node.leave(&self.living).map(|request| NodeExchange {
                retries,
                ..NodeExchange::new(request)
            }));
        }
        self.nodes.extend(more);
        self.nodes.len() > asked
    }

    /// Begins the pauses of nodes that have just failed, and returns the time until the first ends.
    fn next_pause(&mut self, now: Instant) -> ExchangeStep {
        let left = self.end.map(|end| end.saturating_duration_since(now));
        let mut first: Option<Instant> = None;
        for (node, turn) in self.nodes.iter_mut().zip((0..).step_by(7)) {
            if node.state == State::Paused {
                // Other bits for each node, or nodes that have failed together would be tried together.
                let pause = node.retries.pause(left, self.entropy.rotate_left(turn));
                match pause.and_then(|pause| now.checked_add(pause)) {
                    Some(at) => node.state = State::Waiting(at),
                    None => node.give_up(),
                }
            }
            if let State::Waiting(at) = node.state {
                first = Some(first.map_or(at, |first| first.min(at)));
            }
        }
        match first {
            Some(at) => ExchangeStep::Wait(at.saturating_duration_since(now)),
            // Those that have just been given up may still move.
            None if self.move_requests() => match self.is_pending() {
                true => ExchangeStep::Send,
                false => self.next_pause(now),
            },
            None => ExchangeStep::Done,
        }
    }

    /// The requests of all nodes, to be completed before they are sent.
    #[cfg(feature = "proxy")]
    pub(in crate::plan) fn requests_mut(&mut self) -> impl Iterator<Item = &mut NodeRequest> {
        self.nodes.iter_mut().map(|node| &mut node.request)
    }

    /// All nodes, pending or not; see [`NodeExchange::attempt`].
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
        let pending = self
            .nodes
            .iter_mut()
            .filter(|node| node.state == State::Pending);
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

    /// The server that the last request was sent to, and those to ask after it.
    pub(in crate::plan) fn take_servers(&mut self) -> Option<Box<ServerQueue>> {
        self.nodes.last_mut()?.servers.take()
    }

    /// Sends the only request to the first of these servers, and to the others if it fails.
    pub(in crate::plan) fn set_servers(&mut self, servers: Option<Box<ServerQueue>>) {
        if let (Some(node), Some(servers)) = (self.nodes.last_mut(), servers) {
            node.request.may_use_replica = true;
            node.set_target(servers.current());
            node.servers = Some(servers);
            node.set_doubts(self.cluster.as_ref());
        }
    }

    /// The last node that was tried, and its replies: those before it could not be reached. For exchanges
    /// that begin with one node. `None` when the exchange had no request.
    pub(crate) fn into_last(self) -> Option<(NodeRequest, Answers<R>)> {
        self.into_parts().last()
    }
}

fn no_reply_to_key() -> Error {
    let text = "the command was sent key by key, and the reply to one of its keys is missing";
    Error::new(ErrorKind::Unknown, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::batch::ReplySlot;

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
        let mut exchange: Exchange =
            Exchange::new([request], BlockingTime::None, LivingNodes::none());
        let now = Instant::now();
        assert_eq!(exchange.poll(now), ExchangeStep::Send);
        exchange.handle(Vec::new());
        assert_eq!(exchange.poll(now), ExchangeStep::Done);
    }
}
