//! Sends each node its requests, then waits for all replies: a fan-out takes as long as the slowest node, not
//! as all nodes together.
//!
//! Which requests there are, and whether a failed one may be sent again, is up to the [`Exchange`]; here
//! connections are taken, used and given back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
#[cfg(feature = "proxy")]
use redis::ProtocolVersion;
use redis::Value;

use crate::aio::acquired::Acquired;
use crate::aio::driver::WriteCoalescing;
use crate::aio::exclusive_pool::{ExclusivePool, Lease};
use crate::aio::multiplexed::ReplyChannel;
use crate::aio::reconnecting::{Connector, ReconnectingConnection};
use crate::command::{Access, BlockingTime};
use crate::config::{ClientConfig, Settings};
use crate::endpoint::{Deadline, Endpoint};
use crate::endpoint::{ReplicaConnections, ServerConnections};
use crate::observe::{ClientHealth, NodeHealth, NodeObserver, PoolHealth, Stopwatch};
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Attempt, AttemptKind, Cause, ClusterReport, Exchange, ExchangeStep, Failure,
    LastRefusal, NextAttempt, NodeExchange, NodeRequest, Pause, RequestOutcome, Retries, Router,
};
use crate::policy::{HandshakeScope, RequestOptions, Target};
use crate::snapshot::{ClusterConnections, Latest, OfEndpoint, carry_over};
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

/// The user of the connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConnectionPurpose {
    /// The tasks of a program.
    Client,
    /// The clients of a proxy that use this version of the protocol.
    #[cfg(feature = "proxy")]
    Proxy(ProtocolVersion),
}

/// The connections to one node.
#[derive(Debug)]
pub(super) struct NodeConnections {
    /// How the node is reached.
    pub(super) endpoint: Arc<Endpoint>,
    /// Shared by all tasks; used in turn if there are several.
    shared: Vec<Arc<ReconnectingConnection>>,
    /// Counts the turns.
    next: AtomicUsize,
    /// For one user at a time.
    pub(super) exclusive: Arc<ExclusivePool>,
    /// Counts and times the requests.
    pub(super) observer: Arc<NodeObserver>,
    /// The connections to the replicas of the node, if it may have any.
    pub(super) replicas: Option<ReplicaConnections<NodeConnections>>,
}

impl NodeConnections {
    /// How to make a connection that the caller drives itself.
    pub(super) fn connector(&self) -> Connector {
        self.exclusive.connector.clone()
    }
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

impl OfEndpoint for NodeConnections {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn retire(&self) {
        self.exclusive.retire();
    }
}

impl ServerConnections for NodeConnections {
    fn is_down(&self) -> bool {
        !self.exclusive.connector.backoff.is_due()
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

impl NodeConnections {
    /// Prepares the connections to one node; nothing is contacted.
    fn new(endpoint: &Arc<Endpoint>, settings: &Settings, purpose: ConnectionPurpose) -> Self {
        let (own, users, coalescing) = match purpose {
            // As many users as connections are kept.
            ConnectionPurpose::Client => (
                Endpoint::clone(endpoint),
                settings.blocking_pool_size,
                WriteCoalescing::Off,
            ),
            // No limit on exclusive connections: a client queued for one would miss the element that its BLPOP
            // waits for.
            #[cfg(feature = "proxy")]
            ConnectionPurpose::Proxy(version) => (
                endpoint.speaking(version),
                usize::MAX,
                WriteCoalescing::OneYield,
            ),
        };
        // One connector, hence one backoff, for all connections to the node.
        let connector = Connector::new(own, settings.connect_timeout, coalescing);
        let connection = |_| Arc::new(ReconnectingConnection::new(connector.clone()));
        let replicas = endpoint.replicas.as_ref().map(|replicas| {
            let settings = *settings;
            ReplicaConnections::new(replicas, move |replica| {
                Self::new(replica, &settings, purpose)
            })
        });
        Self {
            replicas,
            endpoint: Arc::clone(endpoint),
            shared: (0..settings.connections_per_node).map(connection).collect(),
            next: AtomicUsize::new(0),
            observer: Arc::clone(&endpoint.observer),
            exclusive: Arc::new(ExclusivePool::new(
                connector.clone(),
                settings.blocking_pool_size,
                users,
            )),
        }
    }

    /// The known state of the node.
    fn health(&self) -> NodeHealth {
        let connected = |connection: &&Arc<ReconnectingConnection>| connection.is_connected();
        let open = self.shared.iter().filter(connected).count();
        let shared = PoolHealth {
            open,
            // Requests of all tasks share them.
            in_use: open,
            max: self.shared.len(),
            ..PoolHealth::default()
        };
        let backoff = &self.exclusive.connector.backoff;
        NodeHealth {
            replicas: self
                .replicas
                .as_ref()
                .map(|replicas| replicas.replicas().health())
                .unwrap_or_default(),
            ..backoff.health(shared, self.exclusive.health())
        }
    }

    /// Takes a shared connection for a request that is served at once, and an exclusive one for a blocking
    /// command, which would hold up everything behind it.
    async fn acquire(&self, blocking: BlockingTime, deadline: Deadline) -> Result<Acquired, Cause> {
        match blocking {
            BlockingTime::None => {
                let connection = match &self.shared[..] {
                    [only] => only,
                    many => &many[self.next.fetch_add(1, Ordering::Relaxed) % many.len()],
                };
                Ok(Acquired::Shared(connection.acquire(deadline).await?))
            }
            BlockingTime::AtMost(_) | BlockingTime::Forever => Ok(Acquired::Exclusive(
                Box::pin(self.exclusive.lease(blocking.into(), deadline)).await?,
            )),
        }
    }

    /// Sends one request, appended by `write` and placed by the record of this epoch, and returns its reply.
    async fn call(
        &self,
        (write, epoch): (impl FnOnce(&mut Vec<u8>), u64),
        blocking: BlockingTime,
        deadline: Deadline,
    ) -> Result<Value, Failure> {
        if deadline.is_zero() {
            return Err(Failure::not_sent(Cause::no_time_left()));
        }
        let acquired = self
            .acquire(blocking, deadline)
            .await
            .map_err(Failure::not_sent)?;
        let result = acquired.connection().call(write, epoch, deadline).await;
        match &result {
            Ok(_) => acquired.release(),
            Err(failure) => acquired.discard(&failure.cause),
        }
        result
    }

    /// The connections to one server of the node. `None` if it is no longer one of them.
    pub(super) fn server(self: &Arc<Self>, target: Target) -> Option<Arc<Self>> {
        match target {
            Target::Primary => Some(Arc::clone(self)),
            Target::Replica(id) => self.replicas.as_ref()?.get(id),
        }
    }

    /// Makes an attempt at this server, with requests that were placed by the record of this epoch, and collects its
    /// replies.
    pub(super) async fn attempt<R: ReplyChannel>(
        &self,
        (attempt, epoch): (Attempt<'_>, u64),
        blocking: BlockingTime,
        deadline: Deadline,
    ) -> Answers<R> {
        let deadline = match attempt.limit(deadline.remaining()) {
            Some(limit) => deadline.within(limit),
            None => deadline,
        };
        self.observer.started(attempt.kind());
        let stopwatch = Stopwatch::start(blocking);
        let request = (attempt.request, epoch);
        let answers = self.send(request, blocking, deadline).await;
        self.observer.finished(stopwatch, || {
            RequestOutcome::of_answers(&answers, &attempt.request.slots)
        });
        answers
    }

    /// Sends one request, placed by the record of this epoch, and collects its replies.
    async fn send<R: ReplyChannel>(
        &self,
        (request, epoch): (&NodeRequest, u64),
        blocking: BlockingTime,
        deadline: Deadline,
    ) -> Answers<R> {
        let acquired = match self.acquire(blocking, deadline).await {
            Ok(acquired) => acquired,
            Err(cause) => return Answers::failed(Failure::not_sent(cause)),
        };
        let answers = acquired
            .connection()
            .exchange_into(
                (&request.packed, epoch),
                request.slots.len(),
                request.ending,
                deadline,
                R::for_request(request),
            )
            .await;
        match &answers.failure {
            None => acquired.release(),
            Some(failure) => acquired.discard(&failure.cause),
        }
        answers
    }
}
