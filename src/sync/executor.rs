//! Writes to all nodes of a plan, then reads from all.
//!
//! A fan-out costs the slowest node, not the sum, and needs no thread. Connections are taken in node order, so that two
//! requests over the same nodes never wait for each other in a circle.

use std::time::{Duration, Instant};

use redis::Value;

use crate::command::{Access, BlockingTime};
use crate::endpoint::Deadline;
use crate::partition::NodeIndex;
use crate::plan::{Answers, Attempt, Cause, Exchange, Failure, NodeRequest, ResendBudget};
use crate::sync::connection::{Connector, Delivery};
use crate::sync::pool::{Checkout, Lease, Pool};

/// Every node's connections.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(super) nodes: Vec<NodePools>,
    pub(super) response_timeout: Option<Duration>,
}

/// One node's connections: those for commands that answer at once, and those for commands that may wait.
#[derive(Debug)]
pub(super) struct NodePools {
    pub(super) shared: Pool,
    pub(super) exclusive: Pool,
}

impl NodePools {
    fn pool(&self, blocking: BlockingTime) -> &Pool {
        match blocking {
            BlockingTime::None => &self.shared,
            BlockingTime::AtMost(_) | BlockingTime::Forever => &self.exclusive,
        }
    }
}

impl Executor {
    /// The deadline of a request that the server may hold back for `blocking`.
    pub(super) fn deadline(&self, blocking: BlockingTime) -> Deadline {
        Deadline::start(blocking.with_response(self.response_timeout))
    }

    /// How to make a connection of one's own to `node` for listening.
    pub(super) fn pub_sub_connector(&self, node: NodeIndex) -> (Connector, Duration) {
        self.nodes[node.get()].shared.connector()
    }

    /// One request to one node, and its reply.
    pub(crate) fn call(
        &self,
        node: NodeIndex,
        request: &[u8],
        access: Access,
        blocking: BlockingTime,
    ) -> Result<Value, Failure> {
        let deadline = self.deadline(blocking);
        let pool = self.nodes[node.get()].pool(blocking);
        let mut checkout = Checkout::Reuse;
        let mut resends = ResendBudget::default();
        loop {
            let mut lease = pool.lease(checkout, &deadline).map_err(Failure::not_sent)?;
            let error = match lease.connection().call(request, &deadline) {
                Ok(value) => {
                    lease.release(deadline.start);
                    return Ok(value);
                }
                Err(error) => error,
            };
            lease.discard(&error.cause);
            let failure = Failure {
                cause: error.cause,
                sent: usize::from(error.sent == Delivery::MaybeSent),
            };
            if !resends.allows(&failure, access) {
                return Err(failure);
            }
            checkout = Checkout::Fresh;
        }
    }

    /// Sends all that is pending, until nothing is.
    pub(crate) fn exchange(&self, exchange: &mut Exchange) {
        let limit = exchange.begin(Instant::now(), self.response_timeout);
        let deadline = Deadline::start(limit);
        let blocking = exchange.blocking_time();
        while exchange.poll(Instant::now()) {
            let answers = self.send(exchange.attempts(), blocking, &deadline);
            exchange.handle(answers);
        }
    }

    /// Writes to all nodes, then reads from all.
    fn send<'e>(
        &'e self,
        attempts: impl Iterator<Item = Attempt<'e>>,
        blocking: BlockingTime,
        deadline: &Deadline,
    ) -> Vec<Answers> {
        let lease = |attempt: &Attempt<'_>| {
            let checkout = match attempt.needs_new_connection {
                true => Checkout::Fresh,
                false => Checkout::Reuse,
            };
            let pool = self.nodes[attempt.request.node.get()].pool(blocking);
            pool.lease(checkout, deadline)
        };
        let mut in_flight: Vec<InFlight<'_>> = attempts
            .map(|attempt| InFlight::begin(attempt.request, lease(&attempt)))
            .collect();
        let chunks = in_flight.iter().map(|node| node.request.chunks()).max();
        for chunk in 0..chunks.unwrap_or(0) {
            for request in &mut in_flight {
                request.write(chunk, deadline);
            }
            // The node asked last answers last: once it has, the others rarely make anyone wait.
            for request in in_flight.iter_mut().rev() {
                request.read(chunk, deadline);
            }
        }
        in_flight
            .into_iter()
            .map(|request| request.end(deadline))
            .collect()
    }
}

/// The requests to one node under way.
struct InFlight<'t> {
    request: &'t NodeRequest,
    lease: Option<Lease<'t>>,
    answers: Answers,
    sent: usize,
}

impl<'t> InFlight<'t> {
    fn begin(request: &'t NodeRequest, lease: Result<Lease<'t>, Cause>) -> Self {
        let mut in_flight = Self {
            request,
            lease: None,
            answers: Answers::default(),
            sent: 0,
        };
        match lease {
            Ok(lease) => {
                in_flight.answers.values.reserve(request.slots.len());
                in_flight.lease = Some(lease);
            }
            Err(cause) => in_flight.fail(cause),
        }
        in_flight
    }

    fn write(&mut self, chunk: usize, deadline: &Deadline) {
        let (Some(lease), Some(chunk)) = (&mut self.lease, self.request.chunk(chunk)) else {
            return;
        };
        let sent = lease.connection().send(chunk.bytes, deadline);
        // What is written in part may have arrived in part, so all of the chunk counts as sent.
        if !matches!(&sent, Err(send_error) if send_error.sent == Delivery::NotSent) {
            self.sent += chunk.count;
        }
        if let Err(send_error) = sent {
            self.fail(send_error.cause);
        }
    }

    fn read(&mut self, chunk: usize, deadline: &Deadline) {
        let (Some(lease), Some(chunk)) = (&mut self.lease, self.request.chunk(chunk)) else {
            return;
        };
        let read = lease
            .connection()
            .receive(chunk.count, deadline, &mut self.answers.values);
        if let Err(cause) = read {
            self.fail(cause);
        }
    }

    /// The connection is closed: it may owe replies.
    fn fail(&mut self, cause: Cause) {
        if let Some(lease) = self.lease.take() {
            lease.discard(&cause);
        }
        self.answers.failure = Some(Failure {
            cause,
            sent: self.sent,
        });
    }

    fn end(self, deadline: &Deadline) -> Answers {
        if let Some(lease) = self.lease
            && self.request.has_ended_well(&self.answers.values)
        {
            lease.release(deadline.start);
        }
        self.answers
    }
}
