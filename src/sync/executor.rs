//! Writes to all nodes of a plan, then reads from all.
//!
//! A fan-out costs the slowest node, not the sum, and needs no thread. Connections are taken in node order, so that two
//! requests over the same nodes never wait for each other in a circle.

use std::time::Duration;

use redis::Value;

use crate::command::Access;
use crate::command::BlockingTime;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Cause, Failure, NodeRequest, RESENDS_MAX, ReplySlot, Resend, retry_on_other_node,
};
use crate::sync::connection::{Connector, Delivery};
use crate::sync::deadline::Deadline;
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

    /// One request to one node, and its answer.
    pub(crate) fn call(
        &self,
        node: NodeIndex,
        request: &[u8],
        access: Access,
        blocking: BlockingTime,
    ) -> Result<Value, Failure> {
        let deadline = self.deadline(blocking);
        let pool = self.nodes[node.get()].pool(blocking);
        let mut wanted = Checkout::Reuse;
        for resends in 0.. {
            let mut lease = pool.lease(wanted, &deadline).map_err(Failure::not_sent)?;
            let send_error = match lease.connection().call(request, &deadline) {
                Ok(value) => {
                    lease.release(deadline.start);
                    return Ok(value);
                }
                Err(send_error) => send_error,
            };
            lease.discard(&send_error.cause);
            let failure = Failure {
                cause: send_error.cause,
                sent: if send_error.sent == Delivery::NotSent {
                    0
                } else {
                    1
                },
            };
            if resends == RESENDS_MAX
                || failure.resend(0, &[ReplySlot::whole(0, access)]) == Resend::No
            {
                return Err(failure);
            }
            wanted = Checkout::Fresh;
        }
        unreachable!("the loop ends by returning")
    }

    /// All requests of every exchange to its node, and their answers. Exchanges are in node order. What goes to another node
    /// because the first could not be reached is added behind them.
    pub(crate) fn exchange(
        &self,
        exchanges: &mut Vec<NodeRequest>,
        blocking: BlockingTime,
    ) -> Vec<Answers> {
        let deadline = self.deadline(blocking);
        let mut answers = self.exchange_each(exchanges, blocking, &deadline);
        let mut done = 0;
        while !deadline.is_over() {
            let more = retry_on_other_node(&exchanges[done..], &answers[done..], self.nodes.len());
            if more.is_empty() {
                break;
            }
            done = exchanges.len();
            answers.extend(self.exchange_each(&more, blocking, &deadline));
            exchanges.extend(more);
        }
        answers
    }

    fn exchange_each(
        &self,
        exchanges: &[NodeRequest],
        blocking: BlockingTime,
        deadline: &Deadline,
    ) -> Vec<Answers> {
        let mut answers = self.rounds(exchanges, Checkout::Reuse, blocking, deadline);
        for _ in 0..RESENDS_MAX {
            let again: Vec<(usize, usize)> = answers
                .iter()
                .zip(exchanges)
                .enumerate()
                .filter_map(|(number, (answers, exchange))| {
                    let failure = answers.failure.as_ref()?;
                    match failure.resend(answers.values.len(), &exchange.slots) {
                        Resend::From(first) => Some((number, first)),
                        Resend::No => None,
                    }
                })
                .collect();
            if again.is_empty() {
                break;
            }
            let rests: Vec<NodeRequest> = again
                .iter()
                .map(|&(number, first)| exchanges[number].rest(first))
                .collect();
            let more = self.rounds(&rests, Checkout::Fresh, blocking, deadline);
            for ((number, first), more) in again.into_iter().zip(more) {
                answers[number].append(first, more);
            }
        }
        answers
    }

    fn rounds(
        &self,
        exchanges: &[NodeRequest],
        wanted: Checkout,
        blocking: BlockingTime,
        deadline: &Deadline,
    ) -> Vec<Answers> {
        let mut talks: Vec<InFlight<'_>> = exchanges
            .iter()
            .map(|exchange| {
                let pool = self.nodes[exchange.node.get()].pool(blocking);
                InFlight::begin(exchange, pool.lease(wanted, deadline))
            })
            .collect();
        let rounds = exchanges.iter().map(NodeRequest::rounds).max().unwrap_or(0);
        for round in 0..rounds {
            for talk in &mut talks {
                talk.write(round, deadline);
            }
            // The node asked last answers last: once it has, the others rarely make anyone wait.
            for talk in talks.iter_mut().rev() {
                talk.read(round, deadline);
            }
        }
        talks.into_iter().map(|talk| talk.end(deadline)).collect()
    }
}

/// One exchange under way.
struct InFlight<'t> {
    exchange: &'t NodeRequest,
    lease: Option<Lease<'t>>,
    answers: Answers,
    sent: usize,
}

impl<'t> InFlight<'t> {
    fn begin(exchange: &'t NodeRequest, lease: Result<Lease<'t>, Cause>) -> Self {
        let mut talk = Self {
            exchange,
            lease: None,
            answers: Answers::default(),
            sent: 0,
        };
        match lease {
            Ok(lease) => {
                talk.answers.values.reserve(exchange.slots.len());
                talk.lease = Some(lease);
            }
            Err(cause) => talk.fail(cause),
        }
        talk
    }

    fn write(&mut self, round: usize, deadline: &Deadline) {
        let (Some(lease), Some(round)) = (&mut self.lease, self.exchange.round(round)) else {
            return;
        };
        let sent = lease.connection().send(round.bytes, deadline);
        // What is written in part may have arrived in part, so all of the round counts as sent.
        if !matches!(&sent, Err(send_error) if send_error.sent == Delivery::NotSent) {
            self.sent += round.count;
        }
        if let Err(send_error) = sent {
            self.fail(send_error.cause);
        }
    }

    fn read(&mut self, round: usize, deadline: &Deadline) {
        let (Some(lease), Some(round)) = (&mut self.lease, self.exchange.round(round)) else {
            return;
        };
        let read = lease
            .connection()
            .receive(round.count, deadline, &mut self.answers.values);
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
            && self.exchange.has_ended_well(&self.answers.values)
        {
            lease.release(deadline.start);
        }
        self.answers
    }
}
