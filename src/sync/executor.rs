//! Sends each node its requests, then reads all replies: a fan-out takes as long as the slowest node, not as
//! all nodes together, and needs no thread.
//!
//! ```text
//!  connections   a, b, c                 in node order
//!  write         a ──▶  b ──▶  c ──▶     the servers work at the same time
//!  read          c ◀──  b ◀──  a ◀──
//! ```
//!
//! Large requests are written in chunks, and the replies to one chunk are read before the next is written: a
//! server that cannot write its replies stops reading, and both sides would wait for each other for ever.
//!
//! Connections are taken in node order, so that two requests over the same nodes never wait for each other's
//! connections in a circle.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use crate::command::{Access, BlockingTime};
use crate::config::ClientConfig;
use crate::endpoint::{Deadline, Endpoint};
use crate::observe::{NodeObserver, Stopwatch};
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Attempt, AttemptKind, Cause, ClusterReport, Exchange, ExchangeStep, Failure,
    LastRefusal, NextAttempt, NodeRequest, RequestOutcome, Retries,
};
use crate::policy::{HandshakeScope, RequestOptions};
use crate::snapshot::{ClusterConnections, Latest, carry_over};
use crate::sync::call::call;
use crate::sync::connection::{Delivery, NodeConnection};
use crate::sync::node_pools::{NodePools, ServerPools};
use crate::sync::pool::{Checkout, Lease};
use crate::topology::HostPort;

/// The connections to all nodes. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    /// In node order: indexed by [`NodeIndex`].
    pub(super) nodes: Arc<[Arc<NodePools>]>,
    /// How long requests may take, and when they are sent again.
    pub(super) options: RequestOptions,
    /// The epochs of the records that the placement follows, in node order, if the client follows records.
    pub(super) records: Option<Arc<[u64]>>,
    /// The connections to all servers of the cluster, if the nodes are those of one.
    cluster: Option<Arc<ClusterConnections<NodePools>>>,
    /// The newest connections of the client.
    pub(super) latest: Weak<Latest<Executor>>,
}

impl Executor {
    /// Prepares the connections to all nodes; nothing is contacted.
    pub(super) fn new(config: &ClientConfig, latest: &Arc<Latest<Self>>) -> Self {
        let settings = config.settings;
        let open = move |endpoint: &Arc<Endpoint>| NodePools::new(endpoint, &settings);
        let cluster = config
            .cluster
            .as_ref()
            .map(|servers| ClusterConnections::new(servers, open));
        Self {
            nodes: match &cluster {
                Some(cluster) => cluster.nodes(&config.endpoints),
                None => carry_over(&[], &config.endpoints, open),
            },
            options: config.settings.request_options(),
            records: config.records.clone(),
            cluster: cluster.map(Arc::new),
            latest: Arc::downgrade(latest),
        }
    }

    /// The connections to the nodes of another topology. Those to nodes that are reached as before are kept.
    pub(super) fn next(&self, config: &ClientConfig) -> Self {
        Self {
            nodes: match &self.cluster {
                Some(cluster) => cluster.nodes(&config.endpoints),
                None => carry_over(&self.nodes, &config.endpoints, |endpoint| {
                    NodePools::new(endpoint, &config.settings)
                }),
            },
            records: config.records.clone(),
            ..self.clone()
        }
    }

    /// The same connections for requests with other options.
    pub(super) fn with_options(&self, options: RequestOptions) -> Self {
        Self {
            options,
            ..self.clone()
        }
    }

    /// The epoch of the record that the placement follows at `node`. Zero without records.
    #[inline]
    pub(super) fn epoch(&self, node: NodeIndex) -> u64 {
        let records = self.records.as_ref();
        let epoch = records.and_then(|records| records.get(node.get()));
        epoch.copied().unwrap_or_default()
    }

    /// Has the connections that nobody uses present the records that the client goes by now.
    pub(super) fn acknowledge_idle(&self, deadline: &Deadline) {
        for node in &*self.nodes {
            node.shared.acknowledge_idle(deadline);
            node.exclusive.acknowledge_idle(deadline);
        }
    }

    /// The deadline, from now, of a request that the server may hold back for `blocking`.
    pub(crate) fn deadline(&self, blocking: BlockingTime) -> Deadline {
        Deadline::of_request(&self.options, blocking)
    }

    /// Sends one request to one node and returns its reply. `deadline` is [that](Self::deadline) of the request.
    pub(crate) fn call(
        &self,
        node: NodeIndex,
        request: &[u8],
        access: Access,
        blocking: BlockingTime,
        deadline: Deadline,
    ) -> Result<Value, Failure> {
        let epoch = self.epoch(node);
        let node = &self.nodes[node.get()];
        let pool = node.pool(blocking);
        let mut checkout = Checkout::Reuse;
        let retries = node.endpoint.retries(self.options.retry);
        let mut retries = retries.in_cluster(self.cluster.is_some());
        let mut refusal = LastRefusal::default();
        node.observer.started(AttemptKind::First);
        let stopwatch = Stopwatch::since(blocking, deadline.start);
        let result = loop {
            let result = call(pool, checkout, blocking.into(), (request, epoch), &deadline);
            let next = retries.after_call(&result, access, || request.to_vec());
            match next.and_then(|next| pause_before(next, &retries, &deadline)) {
                Some(wanted) => checkout = wanted,
                None => break refusal.settle(result, access),
            }
            node.observer
                .resent(|| RequestOutcome::of_reply(&result, access));
            refusal.keep(result);
        };
        node.observer
            .finished(stopwatch, || RequestOutcome::of_reply(&result, access));
        result
    }

    /// Takes a connection to `node` that nobody else uses. The caller gives it back to the pool.
    pub(super) fn take_exclusive(
        &self,
        node: NodeIndex,
        deadline: &Deadline,
    ) -> Result<NodeConnection, Cause> {
        if deadline.is_zero() {
            return Err(Cause::no_time_left());
        }
        let pool = &self.nodes[node.get()].exclusive;
        let mut retries = Retries::new(self.options.retry);
        loop {
            let cause = match pool.take(Checkout::Reuse, HandshakeScope::Full, deadline) {
                Ok(connection) => return Ok(connection),
                Err(cause) => cause,
            };
            let next = retries.after_connecting(&cause);
            if next
                .and_then(|next| pause_before(next, &retries, deadline))
                .is_none()
            {
                return Err(cause);
            }
        }
    }

    /// Starts the clock of an exchange.
    pub(super) fn begin(&self, exchange: &mut Exchange) -> Deadline {
        if self.records.is_some() {
            exchange.keep_records();
        }
        let deadline = Deadline::of_exchange(exchange, &self.options);
        exchange.set_failover(|node| self.nodes[node.get()].endpoint.may_fail_over());
        deadline
    }

    /// Sends everything that is pending, until nothing is.
    pub(crate) fn exchange(&self, exchange: &mut Exchange) {
        let deadline = self.begin(exchange);
        let blocking = exchange.blocking_time();
        if let Some(first) = exchange.attempts().next() {
            let observer = &self.nodes[first.request.receiver().get()].observer;
            observer.fan_out(|| exchange.attempts().count());
        }
        let mut newer: Option<Self> = None;
        loop {
            match exchange.poll(Instant::now()) {
                ExchangeStep::Send => {
                    let executor = newer.as_ref().unwrap_or(self);
                    executor.choose_servers(exchange);
                    if !executor.send_hedged(exchange, &deadline) {
                        let answers = executor.send(exchange.attempts(), blocking, &deadline);
                        exchange.handle(answers);
                    }
                }
                ExchangeStep::Wait(pause) => {
                    self.report(exchange);
                    thread::sleep(pause);
                }
                ExchangeStep::Reload(pause) => {
                    if !pause.is_zero() {
                        thread::sleep(pause);
                    }
                    newer = self.reload(newer, exchange);
                }
                ExchangeStep::Done => return self.report(exchange),
            }
        }
    }

    /// Reports to the source of the cluster's map.
    pub(super) fn report_to_cluster(&self, reports: Vec<ClusterReport>) {
        if let Some(cluster) = &self.cluster {
            cluster.report(reports);
        }
    }

    /// The connections to the server of the cluster that a redirect names so, and its name as a node.
    pub(super) fn redirected(&self, named: &HostPort) -> Option<(Arc<NodePools>, String)> {
        let pools = self.cluster.as_ref()?.redirected(named)?;
        let name = pools.endpoint.observer.node().name().to_owned();
        Some((pools, name))
    }

    /// Tells the source of the cluster's map what the replies have shown.
    fn report(&self, exchange: &mut Exchange) {
        self.report_to_cluster(exchange.take_reports());
    }

    /// The connections to the server that receives a request. `None` if it is no longer one of its node.
    fn server(&self, request: &NodeRequest) -> Option<ServerPools<'_>> {
        match (request.server(), &self.cluster) {
            (Some(address), Some(cluster)) => cluster.redirected(address).map(ServerPools::Other),
            _ => self.nodes[request.receiver().get()].server(request.target),
        }
    }

    /// Has the servers chosen to which reads go.
    fn choose_servers(&self, exchange: &mut Exchange) {
        for request in exchange.nodes_mut() {
            let Some(node) = request.needs_server(&self.options) else {
                continue;
            };
            let node = &*self.nodes[node.get()];
            let primary = (node, &*node.endpoint.address);
            match &node.replicas {
                Some(replicas) => replicas.choose(primary, |candidates| {
                    request.choose_server(&self.options, candidates, rand::random());
                }),
                None => request.choose_server(&self.options, &[], 0),
            }
        }
    }

    /// Sends to each of these nodes, and collects their replies in the same order.
    fn send<'e>(
        &'e self,
        attempts: impl Iterator<Item = Attempt<'e>>,
        blocking: BlockingTime,
        deadline: &Deadline,
    ) -> Vec<Answers> {
        let stopwatch = Stopwatch::start(blocking);
        // The connections of a replica are kept here for as long as they are used.
        let servers: Vec<(Attempt<'_>, Option<ServerPools<'_>>)> = attempts
            .map(|attempt| (attempt, self.server(attempt.request)))
            .collect();
        // All connections before the first write: while this thread waits for a slot or a handshake, no
        // server is left with a reply that is not read.
        let mut in_flight: Vec<InFlight<'_>> = servers
            .iter()
            .map(|(attempt, server)| {
                let deadline = match attempt.limit(deadline.remaining()) {
                    Some(limit) => deadline.within(limit),
                    None => *deadline,
                };
                match server {
                    Some(server) => {
                        let epoch = self.epoch(attempt.request.receiver());
                        InFlight::begin((*attempt, epoch), server, blocking, stopwatch, deadline)
                    }
                    None => {
                        let node = &self.nodes[attempt.request.receiver().get()];
                        InFlight::without_server(*attempt, &node.observer, stopwatch, deadline)
                    }
                }
            })
            .collect();
        // Nodes with fewer chunks skip the last rounds.
        let chunks = in_flight.iter().map(|node| node.request.chunks()).max();
        for chunk in 0..chunks.unwrap_or(0) {
            for request in &mut in_flight {
                request.write(chunk);
            }
            // In reverse: the node written to last replies last. By the time it has, the replies of the
            // others have arrived, so the thread blocks once instead of once per node.
            for request in in_flight.iter_mut().rev() {
                request.read(chunk);
            }
        }
        in_flight.into_iter().map(InFlight::end).collect()
    }
}

/// Sleeps until the next attempt, and returns the connection that it needs. `None` if there is no time for it.
fn pause_before(next: NextAttempt, retries: &Retries, deadline: &Deadline) -> Option<Checkout> {
    let delay = retries.delay(next, deadline.remaining(), rand::random())?;
    if !delay.is_zero() {
        thread::sleep(delay);
    }
    // A second reused connection might be dead as well.
    Some(match next.needs_new_connection {
        true => Checkout::Fresh,
        false => Checkout::Reuse,
    })
}

/// One node's requests on their way.
pub(super) struct InFlight<'t> {
    /// The requests, packed.
    request: &'t NodeRequest,
    /// The epoch of the record by which they were placed.
    epoch: u64,
    /// The connection. `None` once it has failed; the remaining chunks are then skipped.
    lease: Option<Lease<'t>>,
    /// The replies read so far, and the failure that ended them.
    answers: Answers,
    /// Number of requests that may have reached the server.
    sent: usize,
    /// Receives the outcome, for metrics and traces.
    observer: &'t NodeObserver,
    /// Measures the time until the last reply.
    stopwatch: Stopwatch,
    /// When the attempt ends.
    deadline: Deadline,
}

impl<'t> InFlight<'t> {
    /// Takes the connection for requests that were placed by the record of this epoch, or fails at once; the other nodes
    /// go on in either case.
    pub(super) fn begin(
        (attempt, epoch): (Attempt<'t>, u64),
        server: &'t NodePools,
        blocking: BlockingTime,
        stopwatch: Stopwatch,
        deadline: Deadline,
    ) -> Self {
        let mut in_flight = Self::new(attempt, &server.observer, stopwatch, deadline);
        in_flight.epoch = epoch;
        let checkout = match attempt.needs_new_connection {
            true => Checkout::Fresh,
            false => Checkout::Reuse,
        };
        match server
            .pool(blocking)
            .lease(checkout, blocking.into(), &in_flight.deadline)
        {
            Ok(lease) => {
                in_flight
                    .answers
                    .values
                    .reserve(attempt.request.slots.len());
                in_flight.lease = Some(lease);
            }
            Err(cause) => in_flight.fail(cause),
        }
        in_flight
    }

    /// Fails at once, as the server is one no longer.
    fn without_server(
        attempt: Attempt<'t>,
        observer: &'t NodeObserver,
        stopwatch: Stopwatch,
        deadline: Deadline,
    ) -> Self {
        let mut in_flight = Self::new(attempt, observer, stopwatch, deadline);
        in_flight.fail(Cause::server_left());
        in_flight
    }

    fn new(
        attempt: Attempt<'t>,
        observer: &'t NodeObserver,
        stopwatch: Stopwatch,
        deadline: Deadline,
    ) -> Self {
        observer.started(attempt.kind());
        Self {
            request: attempt.request,
            epoch: 0,
            lease: None,
            answers: Answers::default(),
            sent: 0,
            observer,
            stopwatch,
            deadline,
        }
    }

    /// Gives the attempt more time.
    pub(super) fn extend(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// True if the connection has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.lease.is_none()
    }

    /// Waits until the first reply begins to arrive. Returns false if it does not within this time; true also if the
    /// connection has failed.
    pub(super) fn wait(&mut self, time: Duration) -> bool {
        let Some(lease) = &mut self.lease else {
            return true;
        };
        match lease.connection().wait(&self.deadline.within(time)) {
            Ok(()) => true,
            Err(Cause::Timeout(_)) if !self.deadline.is_over() => false,
            Err(cause) => {
                self.fail(cause);
                true
            }
        }
    }

    /// Writes one chunk, if the connection has not failed.
    pub(super) fn write(&mut self, chunk: usize) {
        let (Some(lease), Some(chunk)) = (&mut self.lease, self.request.chunk(chunk)) else {
            return;
        };
        let connection = lease.connection();
        let sent = connection.send(chunk.bytes, self.epoch, &self.deadline);
        // A chunk written in part may have been executed in part: all of it counts as sent, and no write in
        // it may be sent again.
        if !matches!(&sent, Err(send_error) if send_error.sent == Delivery::NotSent) {
            self.sent += chunk.count;
        }
        if let Err(send_error) = sent {
            self.fail(send_error.cause);
        }
    }

    /// Reads the replies to one chunk, if the connection has not failed.
    pub(super) fn read(&mut self, number: usize) {
        let (Some(lease), Some(chunk)) = (&mut self.lease, self.request.chunk(number)) else {
            return;
        };
        let read =
            lease
                .connection()
                .receive(chunk.count, &self.deadline, &mut self.answers.values);
        match read {
            Err(cause) => self.fail(cause),
            // Now, and not when the other nodes have replied as well.
            Ok(()) if number + 1 == self.request.chunks() => self.report(),
            Ok(()) => {}
        }
    }

    /// Reports the outcome, which is final for this attempt.
    fn report(&self) {
        self.observer.finished(self.stopwatch, || {
            RequestOutcome::of_answers(&self.answers, &self.request.slots)
        });
    }

    /// Closes the connection, on which replies may be due, and records the failure.
    fn fail(&mut self, cause: Cause) {
        if let Some(lease) = self.lease.take() {
            lease.discard(&cause);
        }
        let sent = self.sent;
        self.answers.failure = Some(Box::new(Failure { cause, sent }));
        self.report();
    }

    /// Gives the connection back, unless the server has left a transaction open on it or closes it, and returns the
    /// replies.
    pub(super) fn end(self) -> Answers {
        if let Some(lease) = self.lease
            && self.request.has_ended_well(&self.answers.values)
        {
            lease.release(self.deadline.start);
        }
        self.answers
    }
}
