//! One node's part of an exchange: what is sent to it, attempt by attempt, until its replies or a failure are final.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::CommandTable;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::batch::NodeRequest;
use crate::plan::exchange::no_reply_to_key;
use crate::plan::key_by_key::KeyByKey;
use crate::plan::other_node::for_other_node;
use crate::plan::redirects::{ClusterReport, ClusterRouting, Redirect};
use crate::plan::servers::ServerQueue;
use crate::plan::{Answers, Cause, Failure, Fallback, ReplyBuffer, Retries};
use crate::policy::{Candidate, ConnectError, ReadFrom, RequestOptions, Target};
use crate::topology::LivingNodes;
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
    pub(super) request: NodeRequest,
    /// The requests to resend, and the number of the first of them within `request`. Boxed, because it is
    /// rare and this struct is moved for every node of every pipeline.
    pub(super) rest: Option<Box<(usize, NodeRequest)>>,
    /// Replies of all attempts: those of a resend are appended to those of the attempt before.
    pub(super) answers: Answers<R>,
    pub(super) retries: Retries,
    pub(super) state: State,
    /// The servers to ask, once they are chosen. `None` for requests that only the primary may serve. Boxed, as it is
    /// rare.
    pub(super) servers: Option<Box<ServerQueue>>,
    /// In a cluster: what replies of replicas are read by. Boxed, as it is rare.
    pub(super) doubts: Option<Arc<ClusterRouting>>,
    /// True for the only request of an exchange.
    pub(super) is_single: bool,
    /// True for a request that may block, and go on elsewhere if CLIENT UNBLOCK ends it.
    pub(super) may_be_unblocked: bool,
    /// True if it is held until all before it are final.
    pub(super) is_behind: bool,
    /// Number of the command among those sent key by key. The number of the command of each slot is that of its key.
    pub(super) key_by_key: Option<usize>,
}

/// Whether there is something to send to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// An attempt is to be sent or has no result yet.
    Pending,
    /// Another attempt is to be made after a pause.
    Paused,
    /// Another attempt is to be made at this time.
    Waiting(Instant),
    /// Nothing is sent until the newest topology says where to.
    Held,
    /// CLIENT UNBLOCK has ended the request, which goes on if that was done as its key moves.
    Unblocked,
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
    /// A server of a cluster has refused them, or they were planned again as keys are moved.
    Redirect,
}

impl Attempt<'_> {
    /// Why the requests are sent.
    pub(crate) fn kind(&self) -> AttemptKind {
        match (self.is_resend, self.request.tried) {
            (false, _) if self.request.redirected.is_some() || self.request.moved.is_some() => {
                AttemptKind::Redirect
            }
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

impl<R: ReplyBuffer> NodeExchange<R> {
    /// Has requests that would do away with the record of the node sent in a form that keeps it.
    pub(crate) fn keep_record(&mut self) {
        self.request.keep_record();
    }

    /// Has DBSIZE sent in a form that counts the node's own keys.
    pub(crate) fn count_own_keys(&mut self) {
        self.request.count_own_keys();
    }

    pub(super) fn new(request: NodeRequest) -> Self {
        Self {
            rest: request.for_sending().map(|rest| Box::new((0, rest))),
            answers: Answers::default(),
            retries: Retries::default(),
            // Its index is that of a newer topology than the executor begins with.
            state: match request.moved {
                Some(_) => State::Held,
                None => State::Pending,
            },
            request,
            servers: None,
            doubts: None,
            is_single: false,
            may_be_unblocked: false,
            is_behind: false,
            key_by_key: None,
        }
    }

    #[cfg(feature = "proxy")]
    pub(super) fn part(&self) -> (&NodeRequest, &Answers<R>) {
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
    pub(super) fn limit_blocking(&mut self, commands: &CommandTable, left: Duration) {
        if self.state != State::Pending {
            return;
        }
        match &mut self.rest {
            Some(rest) => rest.1.limit_blocking(commands, left),
            None if self.request.redirected.is_some() || self.request.moved.is_some() => {
                self.request.limit_blocking(commands, left);
            }
            None => {}
        }
    }

    /// True if the connection of the last attempt broke.
    pub(super) fn is_broken(&self) -> bool {
        let failure = self.answers.failure.as_ref();
        failure.is_some_and(|failure| matches!(failure.cause, Cause::Dropped(_)))
    }

    /// The requests that a server of a cluster has refused, on their way to others, once.
    pub(super) fn redirect(
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
    pub(super) fn reply(
        &self,
        number: usize,
        cluster: Option<&ClusterRouting>,
    ) -> Result<(&R, usize), Error> {
        if number < self.answers.values.count() {
            return Ok((&self.answers.values, number));
        }
        let access = self.request.slots[number].access;
        let moved = self.request.moved.as_ref().map(|moved| moved.name.clone());
        let name = moved.or_else(|| cluster?.name(&self.request));
        let failure = self.answers.failure.as_ref();
        Err(failure.map_or_else(no_reply_to_key, |failure| {
            failure.error(&name.unwrap_or_default(), number, access)
        }))
    }

    /// True if no replica has replied, and no other server is to.
    pub(super) fn wants_replicas_only(&self) -> bool {
        let failure = self.answers.failure.as_ref();
        failure.is_some_and(|failure| match &self.servers {
            Some(servers) => !servers.has_primary(),
            None => matches!(&failure.cause, Cause::Connect(error) if error.is_no_server()),
        })
    }

    /// True if nothing was sent, because the time is over, after the server before had refused the requests.
    pub(super) fn is_unsent_redirect(&self) -> bool {
        let is_unsent = self.answers.failure.is_none() && self.answers.values.count() == 0;
        self.request.redirected.is_some() && is_unsent
    }

    /// The state after the time is over, of requests that a server had refused before.
    pub(super) fn give_up_redirect(&mut self) {
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
    pub(super) fn expire(&mut self) {
        self.expire_held();
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
    pub(super) fn give_up(&mut self) {
        self.rest = None;
        match self.is_unsent_redirect() {
            true => self.give_up_redirect(),
            false => self.state = State::Over,
        }
    }

    /// Begins the attempt that has been waited for, if it is time.
    pub(super) fn resume(&mut self, now: Instant) {
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
    pub(super) fn leave(&mut self, living: &LivingNodes) -> Option<NodeRequest> {
        match self.state {
            State::Pending
            | State::Waiting(_)
            | State::Held
            | State::Unblocked
            | State::Moved
            | State::Void => return None,
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
    pub(super) fn may_leave_whole(&self) -> bool {
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
        is_needed.then_some(self.request.receiver())
    }

    /// True if the next attempt is the first at its server.
    pub(super) fn is_next_server(&self) -> bool {
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
    pub(super) fn set_target(&mut self, target: Target) {
        self.request.target = target;
        if let Some(rest) = &mut self.rest {
            rest.1.target = target;
        }
    }

    /// Has replies of replicas doubted that show a missing key, if redirects are followed.
    pub(super) fn set_doubts(&mut self, cluster: Option<&Arc<ClusterRouting>>) {
        self.doubts = cluster
            .filter(|_| self.request.may_use_replica)
            .map(Arc::clone);
    }

    /// True if the replies came from a replica of a cluster and show a key that it may lack.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubts.as_ref().is_some_and(|cluster| {
            self.answers.failure.is_none()
                && self.request.target != Target::Primary
                && cluster.shows_missing_key(&self.request, &self.answers.values)
        })
    }

    /// Prepares an attempt at the same server, or at the next one, if the last attempt calls for it.
    pub(super) fn ask_next_server(&mut self) -> bool {
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
        if self.keep_back_refused() || self.ask_next_server() {
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

/// True if an attempt had no time and no effect: nothing was answered, and no write was sent.
fn is_void<R: ReplyBuffer>(request: &NodeRequest, answers: &Answers<R>) -> bool {
    answers.failure.as_ref().is_some_and(|failure| {
        failure.is_out_of_time()
            && answers.values.count() == 0
            && failure.may_resend_rest(0, &request.slots)
    })
}
