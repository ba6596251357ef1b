//! Hands each node its requests, then waits for all answers: a fan-out costs the slowest node, not the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::Value;

use crate::aio::driver::WriteCoalescing;
use crate::aio::exclusive_pool::{ExclusivePool, Lease};
use crate::aio::multiplexed::{MultiplexedConnection, ReplyChannel};
use crate::aio::reconnecting::{Connector, ReconnectingConnection};
use crate::command::{Access, BlockingTime};
use crate::config::Settings;
use crate::endpoint::Deadline;
use crate::endpoint::Endpoint;
use crate::partition::NodeIndex;
use crate::plan::{Answers, Cause, Exchange, Failure, NodeExchange, NodeRequest, ResendBudget};

/// Every node's connections.
#[derive(Debug)]
pub(crate) struct Executor {
    nodes: Vec<NodeConnections>,
    response_timeout: Option<Duration>,
}

/// One node's connections: those that all share, and those for one user at a time.
#[derive(Debug)]
struct NodeConnections {
    shared: Vec<Arc<ReconnectingConnection>>,
    next: AtomicUsize,
    waiting: Arc<ExclusivePool>,
}

impl Executor {
    /// For so many users of connections of their own at a time.
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        settings: &Settings,
        users: usize,
        coalescing: WriteCoalescing,
    ) -> Self {
        let node = |endpoint: Endpoint| {
            let connector = Connector::new(endpoint, settings.connect_timeout, coalescing);
            let station = |_| Arc::new(ReconnectingConnection::new(connector.clone()));
            NodeConnections {
                shared: (0..settings.connections_per_node).map(station).collect(),
                next: AtomicUsize::new(0),
                waiting: Arc::new(ExclusivePool::new(
                    connector.clone(),
                    settings.blocking_pool_size,
                    users,
                )),
            }
        };
        Self {
            nodes: endpoints.into_iter().map(node).collect(),
            response_timeout: settings.response_timeout,
        }
    }

    /// How to make a connection of one's own to `node`.
    pub(crate) fn connector(&self, node: NodeIndex) -> Connector {
        self.nodes[node.get()].waiting.connector.clone()
    }

    /// How long an answer that comes at once may take.
    pub(crate) fn response_timeout(&self) -> Option<Duration> {
        self.response_timeout
    }

    pub(crate) fn deadline(&self, blocking: BlockingTime) -> Deadline {
        Deadline::start(blocking.with_response(self.response_timeout))
    }

    /// One request to one node, and its answer. `write` appends the request, each time it is sent.
    pub(crate) async fn call(
        &self,
        node: NodeIndex,
        write: impl Fn(&mut Vec<u8>),
        access: Access,
        blocking: BlockingTime,
    ) -> Result<Value, Failure> {
        let deadline = self.deadline(blocking);
        let node = &self.nodes[node.get()];
        let mut resends = ResendBudget::default();
        loop {
            let acquired = node
                .acquire(blocking, deadline)
                .await
                .map_err(Failure::not_sent)?;
            let failure = match acquired.connection().call(&write, deadline).await {
                Ok(value) => {
                    acquired.release();
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            acquired.discard(&failure.cause);
            if !resends.allows(&failure, access) {
                return Err(failure);
            }
        }
    }

    /// Sends all that is pending, until nothing is.
    pub(crate) async fn exchange<R: ReplyChannel>(&self, exchange: &mut Exchange<R>) {
        let limit = exchange.begin(Instant::now(), self.response_timeout);
        let deadline = Deadline::start(limit);
        let blocking = exchange.blocking_time();
        while exchange.poll(Instant::now()) {
            match exchange.nodes_mut() {
                [one] => self.exchange_with(one, blocking, deadline).await,
                all => {
                    let all = all.iter_mut();
                    join_all(all.map(|one| self.exchange_with(one, blocking, deadline))).await;
                }
            }
        }
    }

    /// Sends what is pending at one node, until nothing is.
    async fn exchange_with<R: ReplyChannel>(
        &self,
        exchange: &mut NodeExchange<R>,
        blocking: BlockingTime,
        deadline: Deadline,
    ) {
        while let Some(attempt) = exchange.attempt() {
            let node = &self.nodes[attempt.request.node.get()];
            let answers = node.send(attempt.request, blocking, deadline).await;
            exchange.handle(answers);
        }
    }

    /// A connection to `node` that nobody else uses.
    pub(crate) async fn lease(&self, node: NodeIndex, deadline: Deadline) -> Result<Lease, Cause> {
        self.nodes[node.get()].waiting.lease(deadline).await
    }
}

/// A connection, shared or one's own.
enum Acquired {
    Shared(Arc<MultiplexedConnection>),
    Exclusive(Lease),
}

impl Acquired {
    fn connection(&self) -> &MultiplexedConnection {
        match self {
            Self::Shared(connection) => connection,
            Self::Exclusive(lease) => &lease.connection,
        }
    }

    /// All answers have come.
    fn release(self) {
        if let Self::Exclusive(lease) = self {
            lease.release();
        }
    }

    /// Not all answers have come.
    fn discard(self, cause: &Cause) {
        if let Self::Exclusive(lease) = self {
            lease.discard(cause);
        }
    }
}

impl NodeConnections {
    async fn acquire(&self, blocking: BlockingTime, deadline: Deadline) -> Result<Acquired, Cause> {
        match blocking {
            BlockingTime::None => {
                let station = match &self.shared[..] {
                    [only] => only,
                    many => &many[self.next.fetch_add(1, Ordering::Relaxed) % many.len()],
                };
                Ok(Acquired::Shared(station.acquire(deadline).await?))
            }
            BlockingTime::AtMost(_) | BlockingTime::Forever => Ok(Acquired::Exclusive(
                Box::pin(self.waiting.lease(deadline)).await?,
            )),
        }
    }

    async fn send<R: ReplyChannel>(
        &self,
        request: &NodeRequest,
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
                &request.packed,
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
