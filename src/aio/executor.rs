//! Hands each node its requests, then waits for all answers: a fan-out costs the slowest node, not the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;

use crate::aio::driver::Pace;
use crate::aio::link::{Limit, Link, Receive};
use crate::aio::station::{Connector, Station};
use crate::aio::waiting::{Lease, WaitingPool};
use crate::command::Access;
use crate::endpoint::Endpoint;
use crate::node::NodeIndex;
use crate::plan::{Answers, Cause, Exchange, Failure, Hold, RESENDS_MAX, Resend, Slot, elsewhere};
use crate::settings::Settings;

/// Every node's connections.
#[derive(Debug)]
pub(crate) struct Executor {
    nodes: Vec<NodeLinks>,
    response_timeout: Option<Duration>,
}

/// One node's connections: those that all share, and those for one user at a time.
#[derive(Debug)]
struct NodeLinks {
    shared: Vec<Arc<Station>>,
    next: AtomicUsize,
    waiting: Arc<WaitingPool>,
}

impl Executor {
    /// For so many users of connections of their own at a time.
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        settings: &Settings,
        users: usize,
        pace: Pace,
    ) -> Self {
        let node = |endpoint: Endpoint| {
            let connector = Connector::new(endpoint, settings.connect_timeout, pace);
            let station = |_| Arc::new(Station::new(connector.clone()));
            NodeLinks {
                shared: (0..settings.connections_per_node).map(station).collect(),
                next: AtomicUsize::new(0),
                waiting: Arc::new(WaitingPool::new(
                    connector.clone(),
                    settings.waiting_pool_size,
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
    pub(super) fn connector(&self, node: NodeIndex) -> Connector {
        self.nodes[node.get()].waiting.connector.clone()
    }

    /// How long an answer that comes at once may take.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.response_timeout
    }

    pub(super) fn limit(&self, hold: Hold) -> Limit {
        Limit::start(hold.with_response(self.response_timeout))
    }

    /// One request to one node, and its answer. `write` appends the request, each time it is sent.
    pub(super) async fn call(
        &self,
        node: NodeIndex,
        write: impl Fn(&mut Vec<u8>),
        access: Access,
        hold: Hold,
    ) -> Result<Value, Failure> {
        let limit = self.limit(hold);
        let node = &self.nodes[node.get()];
        let mut resends = 0;
        loop {
            let road = node.road(hold, limit).await.map_err(Failure::not_sent)?;
            let failure = match road.link().call(&write, limit).await {
                Ok(value) => {
                    road.end();
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            road.broken(&failure.cause);
            if resends == RESENDS_MAX || failure.resend(0, &[Slot::whole(0, access)]) == Resend::No
            {
                return Err(failure);
            }
            resends += 1;
        }
    }

    /// All requests of every exchange to its node, and their answers. What goes to another node because the first could not be
    /// reached is added behind them.
    pub(super) async fn exchange<R: Receive>(
        &self,
        exchanges: &mut Vec<Exchange>,
        hold: Hold,
    ) -> Vec<Answers<R>> {
        let limit = self.limit(hold);
        let mut answers = self.exchange_each(exchanges, hold, limit).await;
        let mut done = 0;
        while !limit.is_over() {
            let more = elsewhere(&exchanges[done..], &answers[done..], self.nodes.len());
            if more.is_empty() {
                break;
            }
            done = exchanges.len();
            answers.extend(Box::pin(self.exchange_each(&more, hold, limit)).await);
            exchanges.extend(more);
        }
        answers
    }

    async fn exchange_each<R: Receive>(
        &self,
        exchanges: &[Exchange],
        hold: Hold,
        limit: Limit,
    ) -> Vec<Answers<R>> {
        match exchanges {
            [one] => vec![self.exchange_one(one, hold, limit).await],
            all => join_all(all.iter().map(|one| self.exchange_one(one, hold, limit))).await,
        }
    }

    async fn exchange_one<R: Receive>(
        &self,
        exchange: &Exchange,
        hold: Hold,
        limit: Limit,
    ) -> Answers<R> {
        let node = &self.nodes[exchange.node.get()];
        let mut answers: Answers<R> = node.exchange(exchange, hold, limit).await;
        for _ in 0..RESENDS_MAX {
            let Some(failure) = &answers.failure else {
                break;
            };
            let Resend::From(first) = failure.resend(answers.values.count(), &exchange.slots)
            else {
                break;
            };
            let rest = exchange.rest(first);
            let more = Box::pin(node.exchange(&rest, hold, limit)).await;
            answers.append(first, more);
        }
        answers
    }

    /// A connection to `node` that nobody else uses.
    pub(super) async fn lease(&self, node: NodeIndex, limit: Limit) -> Result<Lease, Cause> {
        self.nodes[node.get()].waiting.lease(limit).await
    }
}

/// A connection, shared or one's own.
enum Road {
    Shared(Arc<Link>),
    Own(Lease),
}

impl Road {
    fn link(&self) -> &Link {
        match self {
            Self::Shared(link) => link,
            Self::Own(lease) => &lease.link,
        }
    }

    /// All answers have come.
    fn end(self) {
        if let Self::Own(lease) = self {
            lease.give_back();
        }
    }

    /// Not all answers have come.
    fn broken(self, cause: &Cause) {
        if let Self::Own(lease) = self {
            lease.broken(cause);
        }
    }
}

impl NodeLinks {
    async fn road(&self, hold: Hold, limit: Limit) -> Result<Road, Cause> {
        match hold {
            Hold::No => {
                let station = match &self.shared[..] {
                    [only] => only,
                    many => &many[self.next.fetch_add(1, Ordering::Relaxed) % many.len()],
                };
                Ok(Road::Shared(station.link(limit).await?))
            }
            Hold::AtMost(_) | Hold::Forever => {
                Ok(Road::Own(Box::pin(self.waiting.lease(limit)).await?))
            }
        }
    }

    async fn exchange<R: Receive>(
        &self,
        exchange: &Exchange,
        hold: Hold,
        limit: Limit,
    ) -> Answers<R> {
        let road = match self.road(hold, limit).await {
            Ok(road) => road,
            Err(cause) => return Answers::failed(Failure::not_sent(cause)),
        };
        let answers = road
            .link()
            .exchange_metered(
                &exchange.request,
                exchange.slots.len(),
                exchange.ending,
                limit,
                exchange.meter.clone(),
            )
            .await;
        match &answers.failure {
            None => road.end(),
            Some(failure) => road.broken(&failure.cause),
        }
        answers
    }
}
