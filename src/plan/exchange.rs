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
//! Each node fails at most as often as the policy says, and no wave begins after the [end](Exchange::end). Nothing
//! here sleeps.

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
use crate::plan::other_node::for_other_node;
use crate::plan::redirects::{ClusterReport, ClusterRouting, Redirect};
use crate::plan::servers::ServerQueue;
use crate::plan::{Answers, Cause, Failure, Fallback, ReplyBuffer, Retries, Router};
use crate::policy::{Candidate, ConnectError, ReadFrom, RequestOptions, RetryPolicy, Target};
use crate::topology::LivingNodes;

/// What an executor does next with an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeStep {
    /// Send what is pending; all pending nodes may be sent to concurrently.
    Send,
    /// Wait this long, then poll again.
    Wait(Duration),
    /// Nothing more is to be sent.
    Done,
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

/// One node's requests, and the replies received so far over all attempts.
///
/// ```text
/// new ──▶ pending ──handle: all replies, or a final failure──▶ over ──poll: any node may serve it──▶ moved
///          ▲ ▲ │                                                                                       ▲
///          │ └─┘ handle: the connection broke, resending is safe                                       │
///          │   └──handle: may be resent after a pause──▶ paused ──poll: any node may serve it──────────┘
///          └─────────────────poll: the pause is over───────┘
/// ```
#[derive(Debug)]
pub(crate) struct NodeExchange<R> {
    request: NodeRequest,
    /// The requests to resend, and the number of the first of them within `request`. Boxed, because it is
    /// rare and this struct is moved for every node of every pipeline.
    rest: Option<Box<(usize, NodeRequest)>>,
    /// Replies of all attempts: those of a resend are appended to those of the attempt before.
    answers: Answers<R>,
    retries: Retries,
    state: State,
    /// The servers to ask, once they are chosen. `None` for requests that only the primary may serve. Boxed, as it is
    /// rare.
    servers: Option<Box<ServerQueue>>,
    /// In a cluster: what replies of replicas are read by. Boxed, as it is rare.
    doubts: Option<Arc<ClusterRouting>>,
    /// True for the only request of an exchange.
    is_single: bool,
    /// Number of the command among those sent key by key. The number of the command of each slot is that of its key.
    key_by_key: Option<usize>,
}

/// Whether there is something to send to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// An attempt is to be sent or has no result yet.
    Pending,
    /// Another attempt is to be made after a pause.
    Paused,
    /// Another attempt is to be made at this time.
    Waiting(Instant),
    /// The replies, or the failure, are final, unless another node may serve the requests.
    Over,
    /// Final: what other nodes may serve was moved to one, if there was something.
    Moved,
    /// Nothing was sent, as the time is over: the refusal of the server before counts.
    Void,
}

/// The requests to send to one node now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt<'e> {
    pub(crate) request: &'e NodeRequest,
    /// True if the connection of the previous attempt broke: the other idle connections to the node are
    /// probably dead too.
    pub(crate) needs_new_connection: bool,
    /// True if the node was sent these requests before.
    is_resend: bool,
    /// Number of servers that can be asked, this one included.
    servers_left: u32,
}

/// A second server for a read whose first is late.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hedge {
    /// Time without a reply after which it is asked.
    pub(crate) after: Duration,
    /// The server.
    pub(crate) target: Target,
}

/// Why requests are sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptKind {
    /// Their plan says so.
    First,
    /// The connection of the attempt before broke, or the node was down or refused them for the time being.
    Resend,
    /// Another node could not be reached.
    OtherNode,
    /// A server of a cluster has refused them.
    Redirect,
}

impl Attempt<'_> {
    /// Why the requests are sent.
    pub(crate) fn kind(&self) -> AttemptKind {
        match (self.is_resend, self.request.tried) {
            (false, _) if self.request.redirected.is_some() => AttemptKind::Redirect,
            (true, _) => AttemptKind::Resend,
            (false, 0) => AttemptKind::First,
            (false, _) => AttemptKind::OtherNode,
        }
    }

    /// The same attempt at a server behind which no other is asked.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn last(self) -> Self {
        Self {
            servers_left: 1,
            ..self
        }
    }

    /// Maximum duration of the attempt, if `left` is the time that the exchange has left. `None` if that is all of it:
    /// while other servers are left to be asked, each gets its share.
    pub(crate) fn limit(&self, left: Option<Duration>) -> Option<Duration> {
        left.filter(|_| self.servers_left > 1)
            .map(|left| left / self.servers_left)
    }
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
            early: None,
        }
    }

    /// Has the redirects followed if the nodes of the router are those of a cluster. Not for requests to a node that
    /// the user has named.
    pub(crate) fn for_router(mut self, router: &Router) -> Self {
        self.cluster = router.cluster().map(Arc::clone);
        for node in &mut self.nodes {
            node.set_doubts(self.cluster.as_ref());
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
            ..Self::new(requests, blocking, LivingNodes::none()).until(self.end)
        }
    }

    /// True if redirects are followed.
    pub(in crate::plan) fn is_following(&self) -> bool {
        self.cluster.is_some()
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
        if step == ExchangeStep::Send {
            self.limit_blocking(now);
        }
        if step == ExchangeStep::Done {
            self.settle();
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
                node.limit_blocking(cluster, left);
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

impl<R: ReplyBuffer> NodeExchange<R> {
    fn new(request: NodeRequest) -> Self {
        Self {
            rest: request.for_sending().map(|rest| Box::new((0, rest))),
            request,
            answers: Answers::default(),
            retries: Retries::default(),
            state: State::Pending,
            servers: None,
            doubts: None,
            is_single: false,
            key_by_key: None,
        }
    }

    #[cfg(feature = "proxy")]
    fn part(&self) -> (&NodeRequest, &Answers<R>) {
        (&self.request, &self.answers)
    }

    /// The requests to send to this node now; `None` when nothing is pending.
    pub(crate) fn attempt(&self) -> Option<Attempt<'_>> {
        let servers_left = self.servers.as_ref().map_or(1, |servers| servers.left());
        let attempt = match &self.rest {
            None => Attempt {
                request: &self.request,
                needs_new_connection: false,
                is_resend: false,
                servers_left,
            },
            Some(rest) => Attempt {
                request: &rest.1,
                needs_new_connection: self.is_broken() && !self.is_next_server(),
                is_resend: rest.0 > 0
                    || self.answers.failure.is_some()
                    || self.answers.values.count() > 0,
                servers_left,
            },
        };
        (self.state == State::Pending).then_some(attempt)
    }

    /// Has the commands of an attempt that is not the first block for this time at most.
    fn limit_blocking(&mut self, cluster: &ClusterRouting, left: Duration) {
        if self.state != State::Pending {
            return;
        }
        match &mut self.rest {
            Some(rest) => rest.1.limit_blocking(cluster.commands(), left),
            None if self.request.redirected.is_some() => {
                self.request.limit_blocking(cluster.commands(), left);
            }
            None => {}
        }
    }

    /// True if the connection of the last attempt broke.
    fn is_broken(&self) -> bool {
        let failure = self.answers.failure.as_ref();
        failure.is_some_and(|failure| matches!(failure.cause, Cause::Dropped(_)))
    }

    /// The requests that a server of a cluster has refused, on their way to others, once.
    fn redirect(
        &mut self,
        cluster: &ClusterRouting,
        index: usize,
        reports: &mut Vec<ClusterReport>,
    ) -> Vec<(Self, Option<KeyByKey>)> {
        if self.state != State::Over || self.wants_replicas_only() {
            return Vec::new();
        }
        let policy = self.retries.policy();
        let redirects = cluster.redirect(&self.request, &self.answers, policy, index, reports);
        if !redirects.is_empty() {
            self.state = State::Moved;
        }
        let next = |redirect: Redirect| {
            let next = Self {
                retries: match redirect.is_delayed {
                    true => self.retries.before_redirect(),
                    false => self.retries,
                },
                state: match redirect.is_delayed {
                    true => State::Paused,
                    false => State::Pending,
                },
                ..Self::new(redirect.request)
            };
            (next, redirect.key_by_key)
        };
        redirects.into_iter().map(next).collect()
    }

    /// The reply to request number `number`, or why there is none.
    fn reply(&self, number: usize, cluster: Option<&ClusterRouting>) -> Result<(&R, usize), Error> {
        if number < self.answers.values.count() {
            return Ok((&self.answers.values, number));
        }
        let access = self.request.slots[number].access;
        let name = cluster.and_then(|cluster| cluster.name(&self.request));
        let failure = self.answers.failure.as_ref();
        Err(failure.map_or_else(no_reply_to_key, |failure| {
            failure.error(&name.unwrap_or_default(), number, access)
        }))
    }

    /// True if no replica has replied, and no other server is to.
    fn wants_replicas_only(&self) -> bool {
        let failure = self.answers.failure.as_ref();
        failure.is_some_and(|failure| match &self.servers {
            Some(servers) => !servers.has_primary(),
            None => matches!(&failure.cause, Cause::Connect(error) if error.is_no_server()),
        })
    }

    /// True if nothing was sent, because the time is over, after the server before had refused the requests.
    fn is_unsent_redirect(&self) -> bool {
        let is_unsent = self.answers.failure.is_none() && self.answers.values.count() == 0;
        self.request.redirected.is_some() && is_unsent
    }

    /// The state after the time is over, of requests that a server had refused before.
    fn give_up_redirect(&mut self) {
        let way = self.request.redirected.as_ref();
        self.state = match way.is_some_and(|way| way.is_named) {
            // A redirect is no error for a caller.
            true => {
                self.answers = Answers::failed(Failure::not_sent(Cause::no_time_left()));
                State::Over
            }
            false => State::Void,
        };
    }

    /// Gives up the attempt that is pending or waited for. A resend leaves the outcome of the attempt before; a
    /// first attempt fails with a timeout, as not sent.
    fn expire(&mut self) {
        if !matches!(self.state, State::Moved | State::Void) && self.is_unsent_redirect() {
            return self.give_up_redirect();
        }
        if self.state == State::Pending && self.rest.is_none() {
            self.answers = Answers::failed(Failure::not_sent(Cause::no_time_left()));
        }
        if !matches!(self.state, State::Moved | State::Void) {
            self.give_up();
        }
    }

    /// Makes no further attempt at this node.
    fn give_up(&mut self) {
        self.rest = None;
        match self.is_unsent_redirect() {
            true => self.give_up_redirect(),
            false => self.state = State::Over,
        }
    }

    /// Begins the attempt that has been waited for, if it is time.
    fn resume(&mut self, now: Instant) {
        if let State::Waiting(at) = self.state
            && at <= now
        {
            self.state = State::Pending;
            // Chosen anew: the pause was there for things to change.
            if self.servers.take().is_some() {
                self.rest = Some(Box::new((0, self.request.rest(0))));
            }
        }
    }

    /// The requests to move to another node, once: what is left of them here is final.
    fn leave(&mut self, living: &LivingNodes) -> Option<NodeRequest> {
        match self.state {
            State::Pending | State::Waiting(_) | State::Moved | State::Void => return None,
            // If some may only be served here, all of them stay: what has moved must not be repeated here.
            State::Paused if !self.may_leave_whole() => return None,
            State::Paused | State::Over => {}
        }
        let request = for_other_node(&self.request, &self.answers, living);
        if request.is_some() || self.state == State::Over {
            self.rest = None;
            self.state = State::Moved;
        }
        request
    }

    /// True if any other node may serve all requests that have no reply.
    fn may_leave_whole(&self) -> bool {
        let answered = self.answers.values.count().min(self.request.slots.len());
        self.request.slots[answered..]
            .iter()
            .all(|slot| slot.fallback == Fallback::OtherNode)
    }

    /// The node to whose servers [`choose_server`](Self::choose_server) is to be applied before the next attempt, if it
    /// is.
    #[inline]
    pub(crate) fn needs_server(&self, options: &RequestOptions) -> Option<NodeIndex> {
        let is_needed = options.read_from != ReadFrom::Primary
            && self.request.may_use_replica
            && self.servers.is_none()
            && self.state == State::Pending;
        is_needed.then_some(self.request.node)
    }

    /// True if the next attempt is the first at its server.
    fn is_next_server(&self) -> bool {
        self.servers
            .as_ref()
            .is_some_and(|servers| servers.is_new())
    }

    /// The server to ask as well if the attempt has no reply after some time. `None` if none is to be.
    pub(crate) fn hedge(&self, options: &RequestOptions) -> Option<Hedge> {
        let servers = self.servers.as_ref().filter(|_| self.is_single)?;
        Some(Hedge {
            after: options.hedge_after?,
            target: servers.next()?,
        })
    }

    /// Records that the server of a [`hedge`](Self::hedge) was asked, and that the result is its own.
    pub(crate) fn replied_by_hedge(&mut self) {
        if let Some(servers) = &mut self.servers {
            servers.advance();
            let target = servers.current();
            self.set_target(target);
        }
    }

    /// Chooses the server for the next attempt among those of the node, and the order of the others. Without one the
    /// attempt has failed. `entropy` is a random number.
    pub(crate) fn choose_server(
        &mut self,
        options: &RequestOptions,
        candidates: &[Candidate<'_>],
        entropy: u64,
    ) {
        match options.read_from.order(candidates, entropy) {
            Ok(order) => {
                let queue = ServerQueue::new(order);
                self.set_target(queue.current());
                self.servers = Some(Box::new(queue));
            }
            // As a node that cannot be reached.
            Err(none) => {
                let error = ConnectError::no_server(&none);
                self.handle(Answers::failed(Failure::not_sent(Cause::Connect(error))));
            }
        }
    }

    /// Sets the server that receives the next attempt.
    fn set_target(&mut self, target: Target) {
        self.request.target = target;
        if let Some(rest) = &mut self.rest {
            rest.1.target = target;
        }
    }

    /// Has replies of replicas doubted that show a missing key, if redirects are followed.
    fn set_doubts(&mut self, cluster: Option<&Arc<ClusterRouting>>) {
        self.doubts = cluster
            .filter(|_| self.request.may_use_replica)
            .map(Arc::clone);
    }

    /// True if the replies came from a replica of a cluster and show a key that it may lack.
    fn is_doubtful(&self) -> bool {
        self.doubts.as_ref().is_some_and(|cluster| {
            self.answers.failure.is_none()
                && self.request.target != Target::Primary
                && cluster.shows_missing_key(&self.request, &self.answers.values)
        })
    }

    /// Prepares an attempt at the same server, or at the next one, if the last attempt calls for it.
    fn ask_next_server(&mut self) -> bool {
        let (resends, is_doubtful) = (self.retries.resends(), self.is_doubtful());
        let next = self.servers.as_mut().and_then(|servers| match is_doubtful {
            true => Some(servers.turn_to_primary()),
            false => servers.after(&self.request, &self.answers, resends),
        });
        let Some(target) = next else {
            return false;
        };
        // All of them, also those with a reply: the replies to one request come from one server. They are reads.
        self.rest = Some(Box::new((0, self.request.rest(0))));
        self.set_target(target);
        self.state = State::Pending;
        true
    }

    /// Records the result of the attempt, and decides whether there is another one.
    pub(crate) fn handle(&mut self, mut answers: Answers<R>) {
        if let Some(rest) = &self.rest {
            rest.1.drop_asking(&mut answers);
        }
        // A later attempt began with the first request that is sent again, so its replies continue those
        // before it.
        match self.rest.take() {
            None => self.answers = answers,
            // The errors for which the node was waited for say more than that the time is over now.
            Some(rest) if self.answers.failure.is_none() && is_void(&rest.1, &answers) => {
                self.state = State::Over;
                return;
            }
            Some(rest) => self.answers.append(rest.0, answers),
        }
        if self.ask_next_server() {
            return;
        }
        // With all requests and replies, not those of the attempt: `append` has counted the failure from the
        // first request.
        let Some(next) = self.retries.after(&self.request, &self.answers) else {
            self.state = State::Over;
            return;
        };
        self.rest = Some(Box::new((next.first, self.request.rest(next.first))));
        self.state = match next.is_delayed {
            true => State::Paused,
            false => State::Pending,
        };
    }
}

fn no_reply_to_key() -> Error {
    let text = "the command was sent key by key, and the reply to one of its keys is missing";
    Error::new(ErrorKind::Unknown, text)
}

/// True if an attempt had no time and no effect: nothing was answered, and no write was sent.
fn is_void<R: ReplyBuffer>(request: &NodeRequest, answers: &Answers<R>) -> bool {
    answers.failure.as_ref().is_some_and(|failure| {
        failure.is_out_of_time()
            && answers.values.count() == 0
            && failure.may_resend_rest(0, &request.slots)
    })
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
