//! Sends each node its requests, then waits for all replies: a fan-out takes as long as the slowest node, not
//! as all nodes together.
//!
//! Which requests there are, and whether a failed one may be sent again, is up to the [`Exchange`]; here
//! connections are taken, used and given back.

use std::sync::{Arc, Weak};
#[cfg(feature = "proxy")]
use std::time::Duration;
use std::time::Instant;

use futures_util::future::join_all;
use redis::Value;

#[cfg(feature = "proxy")]
use crate::aio::connector::Connector;
use crate::aio::exclusive_pool::Lease;
use crate::aio::in_flight::ReplyChannel;
use crate::aio::node_connections::{ConnectionPurpose, NodeConnections};
use crate::command::{Access, BlockingTime};
use crate::config::ClientConfig;
use crate::endpoint::{Deadline, Endpoint};
use crate::observe::{ClientHealth, Stopwatch};
use crate::partition::NodeIndex;
#[cfg(feature = "proxy")]
use crate::plan::NodeRequest;
use crate::plan::{
    Answers, AttemptKind, Cause, ClusterReport, Exchange, ExchangeStep, Failure, LastRefusal,
    NextAttempt, NodeExchange, Pause, RequestOutcome, Retries, Router,
};
use crate::policy::{HandshakeScope, RequestOptions, Target};
use crate::snapshot::{ClusterConnections, Latest, carry_over};
use crate::topology::HostPort;

/// The connections to all nodes. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    /// In node order: indexed by [`NodeIndex`].
    pub(super) nodes: Arc<[Arc<NodeConnections>]>,
    /// How long requests may take, and when they are sent again.
    pub(super) options: RequestOptions,
    purpose: ConnectionPurpose,
    /// The epochs of the records that the placement follows, in node order, if the client follows records.
    pub(super) records: Option<Arc<[u64]>>,
    /// The connections to all servers of the cluster, if the nodes are those of one.
    cluster: Option<Arc<ClusterConnections<NodeConnections>>>,
    /// The newest connections of the client.
    pub(super) latest: Weak<Latest<Executor>>,
}

impl Executor {
    /// Prepares the connections to all nodes; nothing is contacted.
    pub(super) fn new(
        config: &ClientConfig,
        purpose: ConnectionPurpose,
        latest: &Arc<Latest<Self>>,
    ) -> Self {
        let settings = config.settings;
        let open =
            move |endpoint: &Arc<Endpoint>| NodeConnections::new(endpoint, &settings, purpose);
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
            purpose,
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
                    NodeConnections::new(endpoint, &config.settings, self.purpose)
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

    /// The router for these connections, which knows their protocol.
    pub(super) fn router(&self, config: &ClientConfig) -> Router {
        let router = config.router.clone();
        match self.purpose {
            ConnectionPurpose::Client => router,
            #[cfg(feature = "proxy")]
            ConnectionPurpose::Proxy(version) => {
                router.with_protocols(config.endpoints.iter().map(|_| version.into()))
            }
        }
    }

    /// The known state of each node, in node order.
    pub(crate) fn health(&self) -> ClientHealth {
        ClientHealth {
            nodes: self.nodes.iter().map(|node| node.health()).collect(),
        }
    }

    /// How `node` is reached.
    #[cfg(feature = "proxy")]
    pub(crate) fn endpoint(&self, node: NodeIndex) -> &Arc<Endpoint> {
        &self.nodes[node.get()].endpoint
    }

    /// The connections to `node`.
    pub(super) fn connections(&self, node: NodeIndex) -> &Arc<NodeConnections> {
        &self.nodes[node.get()]
    }

    /// How to make a connection to `node` that the caller drives itself.
    #[cfg(feature = "proxy")]
    pub(crate) fn connector(&self, node: NodeIndex) -> Connector {
        self.nodes[node.get()].connector()
    }

    /// True if the client follows the records of its nodes.
    #[cfg(feature = "proxy")]
    pub(crate) fn follows_records(&self) -> bool {
        self.records.is_some()
    }

    /// The epoch of the record that the placement follows at `node`. Zero without records.
    #[inline]
    pub(crate) fn epoch(&self, node: NodeIndex) -> u64 {
        let records = self.records.as_ref();
        let epoch = records.and_then(|records| records.get(node.get()));
        epoch.copied().unwrap_or_default()
    }

    /// Has the shared and the idle connections present the records that the client goes by now. Waits for nothing.
    pub(super) fn acknowledge_idle(&self) {
        for node in &*self.nodes {
            for shared in &node.shared {
                shared.acknowledge_idle();
            }
            node.exclusive.acknowledge_idle();
        }
    }

    /// Maximum duration of a request that the server does not hold back.
    #[cfg(feature = "proxy")]
    pub(crate) fn response_timeout(&self) -> Option<Duration> {
        self.options.response_timeout
    }

    /// The deadline, from now, of a request that the server may hold back for `blocking`.
    pub(crate) fn deadline(&self, blocking: BlockingTime) -> Deadline {
        Deadline::of_request(&self.options, blocking)
    }

    /// Sends one request to one node and returns its reply. `write` appends the request, and is called again
    /// if the request is resent. `deadline` is [that](Self::deadline) of the request, which includes the time for
    /// resending.
    pub(crate) async fn call(
        &self,
        node: NodeIndex,
        write: impl Fn(&mut Vec<u8>),
        access: Access,
        blocking: BlockingTime,
        deadline: Deadline,
    ) -> Result<Value, Failure> {
        let epoch = self.epoch(node);
        let node = &self.nodes[node.get()];
        let retries = node.endpoint.retries(self.options.retry);
        let mut retries = retries.in_cluster(self.cluster.is_some());
        let mut refusal = LastRefusal::default();
        node.observer.started(AttemptKind::First);
        let stopwatch = Stopwatch::since(blocking, deadline.start);
        let result = loop {
            let result = node.call((&write, epoch), blocking, deadline).await;
            let packed = || {
                let mut packed = Vec::new();
                write(&mut packed);
                packed
            };
            let Some(next) = retries.after_call(&result, access, packed) else {
                break refusal.settle(result, access);
            };
            // Boxed, as its timer would enlarge the future of every request.
            if !Box::pin(pause_before(next, retries, deadline)).await {
                break result;
            }
            node.observer
                .resent(|| RequestOutcome::of_reply(&result, access));
            refusal.keep(result);
        };
        node.observer
            .finished(stopwatch, || RequestOutcome::of_reply(&result, access));
        result
    }

    /// Starts the clock of an exchange.
    pub(super) fn begin<R: ReplyChannel>(&self, exchange: &mut Exchange<R>) -> Deadline {
        if self.records.is_some() {
            exchange.keep_records();
        }
        let deadline = Deadline::of_exchange(exchange, &self.options);
        exchange.set_failover(|node| self.nodes[node.get()].endpoint.may_fail_over());
        deadline
    }

    /// Sends everything that is pending, until nothing is.
    pub(crate) async fn exchange<R: ReplyChannel>(&self, exchange: &mut Exchange<R>) {
        let deadline = self.begin_all(exchange);
        if let Some(pause) = self.exchange_until_pause(exchange, deadline).await {
            // Boxed, as above.
            Box::pin(self.exchange_after(pause, exchange, deadline)).await;
        }
    }

    /// Starts the clock of an exchange with any number of nodes.
    pub(crate) fn begin_all<R: ReplyChannel>(&self, exchange: &mut Exchange<R>) -> Deadline {
        let deadline = self.begin(exchange);
        if let Some(first) = exchange.attempts().next() {
            let observer = &self.nodes[first.request.receiver().get()].observer;
            observer.fan_out(|| exchange.attempts().count());
        }
        deadline
    }

    /// Sends everything that is pending, until nothing is, or until there is a pause of this length before the next
    /// attempt, or before the exchange is to be [planned again](Self::reload).
    pub(crate) async fn exchange_until_pause<R: ReplyChannel>(
        &self,
        exchange: &mut Exchange<R>,
        deadline: Deadline,
    ) -> Option<Pause> {
        let blocking = exchange.blocking_time();
        loop {
            match exchange.poll(Instant::now()) {
                ExchangeStep::Send => match exchange.nodes_mut() {
                    // Spares the allocations of `join_all`.
                    [one] => self.exchange_with(one, blocking, deadline).await,
                    all => {
                        let all = all.iter_mut();
                        join_all(all.map(|one| self.exchange_with(one, blocking, deadline))).await;
                    }
                },
                ExchangeStep::Wait(pause) => {
                    self.report(exchange.take_reports());
                    return Some(Pause::before_attempt(pause));
                }
                ExchangeStep::Reload(pause) => return Some(Pause::before_reload(pause)),
                ExchangeStep::Done => {
                    self.report(exchange.take_reports());
                    return None;
                }
            }
        }
    }

    /// The connections to the server of the cluster that a redirect names so, and its name as a node.
    pub(super) fn redirected(&self, named: &HostPort) -> Option<(Arc<NodeConnections>, String)> {
        let connections = self.cluster.as_ref()?.redirected(named)?;
        let name = connections.endpoint.observer.node().name().to_owned();
        Some((connections, name))
    }

    /// Tells the source of the cluster's map what replies have shown.
    pub(crate) fn report(&self, reports: Vec<ClusterReport>) {
        if let Some(cluster) = &self.cluster {
            cluster.report(reports);
        }
    }

    /// The connections to the server of a request. `None` if there is no such server any more.
    #[cfg(feature = "proxy")]
    pub(super) fn server_for(&self, request: &NodeRequest) -> Option<Arc<NodeConnections>> {
        let node = &self.nodes[request.receiver().get()];
        match request.server() {
            None => Some(Arc::clone(node)),
            address => self.other_server(node, address, Target::Primary),
        }
    }

    /// Sends what is pending at one node, until nothing is. A resend to this node does not wait for the other
    /// nodes.
    async fn exchange_with<R: ReplyChannel>(
        &self,
        exchange: &mut NodeExchange<R>,
        blocking: BlockingTime,
        deadline: Deadline,
    ) {
        loop {
            self.choose_server(exchange);
            let Some(attempt) = exchange.attempt() else {
                return;
            };
            let epoch = self.epoch(attempt.request.receiver());
            let attempt = (attempt, epoch);
            let node = &self.nodes[attempt.0.request.receiver().get()];
            if let Some(hedge) = exchange.hedge(&self.options)
                && let Some(replicas) = &node.replicas
            {
                // Boxed, so that the future of every request is not as large as that of a hedged one.
                let sent =
                    Box::pin(node.send_hedged(attempt, hedge, replicas.replicas(), deadline));
                let (answers, is_second) = sent.await;
                if is_second {
                    exchange.replied_by_hedge();
                }
                exchange.handle(answers);
                continue;
            }
            let request = attempt.0.request;
            let answers = match (request.server(), request.target) {
                (None, Target::Primary) => node.attempt(attempt, blocking, deadline).await,
                (address, target) => match self.other_server(node, address, target) {
                    Some(server) => server.attempt(attempt, blocking, deadline).await,
                    None => Answers::failed(Failure::not_sent(Cause::server_left())),
                },
            };
            exchange.handle(answers);
        }
    }

    /// The connections to the server at an address that a redirect has named, or to one of the node. `None` if it is no
    /// longer one of them.
    fn other_server(
        &self,
        node: &Arc<NodeConnections>,
        address: Option<&HostPort>,
        target: Target,
    ) -> Option<Arc<NodeConnections>> {
        match (address, &self.cluster) {
            (Some(address), Some(cluster)) => cluster.redirected(address),
            _ => node.server(target),
        }
    }

    /// Has the server chosen to which a read goes.
    fn choose_server<R: ReplyChannel>(&self, exchange: &mut NodeExchange<R>) {
        let Some(node) = exchange.needs_server(&self.options) else {
            return;
        };
        let node = &*self.nodes[node.get()];
        let primary = (node, &*node.endpoint.address);
        match &node.replicas {
            Some(replicas) => replicas.choose(primary, |candidates| {
                exchange.choose_server(&self.options, candidates, rand::random());
            }),
            None => exchange.choose_server(&self.options, &[], 0),
        }
    }

    /// Leases a connection to `node` that nobody else uses.
    pub(crate) async fn lease(&self, node: NodeIndex, deadline: Deadline) -> Result<Lease, Cause> {
        if deadline.is_zero() {
            return Err(Cause::no_time_left());
        }
        let pool = &self.nodes[node.get()].exclusive;
        let mut retries = Retries::new(self.options.retry);
        loop {
            let cause = match pool.lease(HandshakeScope::Full, deadline).await {
                Ok(lease) => return Ok(lease),
                Err(cause) => cause,
            };
            match retries.after_connecting(&cause) {
                Some(next) if pause_before(next, retries, deadline).await => {}
                _ => return Err(cause),
            }
        }
    }
}

/// Sleeps until the next attempt. Returns false if there is no time for it.
async fn pause_before(next: NextAttempt, retries: Retries, deadline: Deadline) -> bool {
    let Some(delay) = retries.delay(next, deadline.remaining(), rand::random()) else {
        return false;
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    true
}
