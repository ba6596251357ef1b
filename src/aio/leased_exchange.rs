//! Requests over an exclusive connection that is kept afterwards, wherever the servers of a Redis Cluster send them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::aio::connector::Connector;
use crate::aio::exclusive_pool::Lease;
use crate::aio::executor::Executor;
use crate::aio::in_flight::ReplyChannel;
use crate::command::BlockingTime;
use crate::endpoint::{Deadline, Endpoint};
use crate::observe::Stopwatch;
use crate::plan::{
    Answers, Cause, Exchange, ExchangeStep, Failure, NodeExchange, NodeRequest, RequestOutcome,
};
use crate::policy::HandshakeScope;

/// An exclusive connection, and how its server is reached.
pub(crate) type LeaseOfServer = (Lease, Arc<Endpoint>);

impl Executor {
    /// Sends everything that is pending, until nothing is, or until there is a pause of this length before the next
    /// attempt. The connection of the last attempt is left in `lease`, unless it broke.
    pub(crate) async fn exchange_on_lease<R: ReplyChannel>(
        &self,
        exchange: &mut Exchange<R>,
        lease: &mut Option<LeaseOfServer>,
        deadline: Deadline,
    ) -> Option<Duration> {
        let blocking = exchange.blocking_time();
        loop {
            match exchange.poll(Instant::now()) {
                ExchangeStep::Send => {
                    for node in exchange.nodes_mut() {
                        self.attempts_on_lease(node, lease, blocking, deadline)
                            .await;
                    }
                }
                ExchangeStep::Wait(pause) => {
                    self.report(exchange.take_reports());
                    return Some(pause);
                }
                // The servers of a cluster have no records.
                ExchangeStep::Reload(_) => exchange.give_up_held(),
                ExchangeStep::Done => {
                    self.report(exchange.take_reports());
                    return None;
                }
            }
        }
    }

    async fn attempts_on_lease<R: ReplyChannel>(
        &self,
        node: &mut NodeExchange<R>,
        lease: &mut Option<LeaseOfServer>,
        blocking: BlockingTime,
        deadline: Deadline,
    ) {
        while let Some(attempt) = node.attempt() {
            // Refused, so its state is that of a new one.
            if let Some((former, _)) = lease.take() {
                former.release();
            }
            let request = attempt.request;
            let answers = match self.lease_for(request, deadline).await {
                Err(cause) => Answers::failed(Failure::not_sent(cause)),
                Ok((leased, endpoint)) => {
                    leased.observer().started(attempt.kind());
                    let stopwatch = Stopwatch::start(blocking);
                    let replies = request.slots.len();
                    let connection = &leased.connection;
                    let epoch = self.epoch(request.receiver());
                    let answers = connection
                        .exchange_into(
                            (&request.packed, epoch),
                            replies,
                            request.ending,
                            deadline,
                            R::for_request(request),
                        )
                        .await;
                    leased.observer().finished(stopwatch, || {
                        RequestOutcome::of_answers(&answers, &request.slots)
                    });
                    match &answers.failure {
                        Some(failure) => leased.discard(&failure.cause),
                        None => *lease = Some((leased, endpoint)),
                    }
                    answers
                }
            };
            node.handle(answers);
        }
    }

    /// Leases a connection to the server of a request.
    async fn lease_for(
        &self,
        request: &NodeRequest,
        deadline: Deadline,
    ) -> Result<LeaseOfServer, Cause> {
        if deadline.is_zero() {
            return Err(Cause::no_time_left());
        }
        let server = self.server_for(request);
        let server = server.ok_or_else(Cause::server_left)?;
        let lease = server
            .exclusive
            .lease(HandshakeScope::Full, deadline)
            .await?;
        Ok((lease, Arc::clone(&server.endpoint)))
    }

    /// How to make a connection to the server of a request that the caller drives itself. `None` if there is no such
    /// server any more.
    pub(crate) fn connector_for(&self, request: &NodeRequest) -> Option<Connector> {
        Some(self.server_for(request)?.exclusive.connector.clone())
    }
}
