//! The connections to one node: shared ones for requests that are served at once, and exclusive ones for one user at a
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(feature = "proxy")]
use redis::ProtocolVersion;
use redis::Value;

use crate::aio::acquired::Acquired;
use crate::aio::connector::Connector;
use crate::aio::driver::WriteCoalescing;
use crate::aio::exclusive_pool::ExclusivePool;
use crate::aio::in_flight::ReplyChannel;
use crate::aio::reconnecting::ReconnectingConnection;
use crate::command::BlockingTime;
use crate::config::Settings;
use crate::endpoint::{Deadline, Endpoint, ReplicaConnections, ServerConnections};
use crate::observe::{NodeHealth, NodeObserver, PoolHealth, Stopwatch};
use crate::plan::{Answers, Attempt, Cause, Failure, NodeRequest, RequestOutcome};
use crate::policy::Target;
use crate::snapshot::OfEndpoint;

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
    pub(super) shared: Vec<Arc<ReconnectingConnection>>,
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

impl NodeConnections {
    /// Prepares the connections to one node; nothing is contacted.
    pub(super) fn new(
        endpoint: &Arc<Endpoint>,
        settings: &Settings,
        purpose: ConnectionPurpose,
    ) -> Self {
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
    pub(super) fn health(&self) -> NodeHealth {
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
    pub(super) async fn call(
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
