//! Hands each node its requests, then waits for all answers: a fan-out costs the slowest node, not the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;

use crate::aio::driver::WriteCoalescing;
use crate::aio::exclusive_pool::{ExclusivePool, Lease};
use crate::aio::multiplexed::{Deadline, MultiplexedConnection, ReplyChannel};
use crate::aio::reconnecting::{Connector, ReconnectingConnection};
use crate::command::Access;
use crate::command::BlockingTime;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Cause, Failure, NodeRequest, RESENDS_MAX, ReplySlot, Resend, retry_on_other_node,
};

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
    #[cfg(feature = "proxy")]
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
        let mut resends = 0;
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
            if resends == RESENDS_MAX
                || failure.resend(0, &[ReplySlot::whole(0, access)]) == Resend::No
            {
                return Err(failure);
            }
            resends += 1;
        }
    }

    /// All requests of every exchange to its node, and their answers. What goes to another node because the first could not be
    /// reached is added behind them.
    pub(crate) async fn exchange<R: ReplyChannel>(
        &self,
        exchanges: &mut Vec<NodeRequest>,
        blocking: BlockingTime,
    ) -> Vec<Answers<R>> {
        let deadline = self.deadline(blocking);
        let mut answers = self.exchange_each(exchanges, blocking, deadline).await;
        let mut done = 0;
        while !deadline.is_over() {
            let more = retry_on_other_node(&exchanges[done..], &answers[done..], self.nodes.len());
            if more.is_empty() {
                break;
            }
            done = exchanges.len();
            answers.extend(Box::pin(self.exchange_each(&more, blocking, deadline)).await);
            exchanges.extend(more);
        }
        answers
    }

    async fn exchange_each<R: ReplyChannel>(
        &self,
        exchanges: &[NodeRequest],
        blocking: BlockingTime,
        deadline: Deadline,
    ) -> Vec<Answers<R>> {
        match exchanges {
            [one] => vec![self.exchange_one(one, blocking, deadline).await],
            all => {
                join_all(
                    all.iter()
                        .map(|one| self.exchange_one(one, blocking, deadline)),
                )
                .await
            }
        }
    }

    async fn exchange_one<R: ReplyChannel>(
        &self,
        exchange: &NodeRequest,
        blocking: BlockingTime,
        deadline: Deadline,
    ) -> Answers<R> {
        let node = &self.nodes[exchange.node.get()];
        let mut answers: Answers<R> = node.exchange(exchange, blocking, deadline).await;
        for _ in 0..RESENDS_MAX {
            let Some(failure) = &answers.failure else {
                break;
            };
            let Resend::From(first) = failure.resend(answers.values.count(), &exchange.slots)
            else {
                break;
            };
            let rest = exchange.rest(first);
            let more = Box::pin(node.exchange(&rest, blocking, deadline)).await;
            answers.append(first, more);
        }
        answers
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

    async fn exchange<R: ReplyChannel>(
        &self,
        exchange: &NodeRequest,
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
                &exchange.packed,
                exchange.slots.len(),
                exchange.ending,
                deadline,
                R::for_request(exchange),
            )
            .await;
        match &answers.failure {
            None => acquired.release(),
            Some(failure) => acquired.discard(&failure.cause),
        }
        answers
    }
}
