//! A read that is sent to a second server when the first one is late.
//!
//! ```text
//!  first server    write ──────────────────────── reply, if it comes first
//!  second server            ▲ late: write ─────── reply, if it comes first
//! ```
//!
//! One thread waits for both connections in turns, a short while for each. The connection whose reply comes too late is
//! closed, since that reply would be taken for that of the next request.

use std::time::Duration;

use crate::command::BlockingTime;
use crate::endpoint::Deadline;
use crate::observe::Stopwatch;
use crate::plan::{Answers, Attempt, Exchange};
use crate::sync::executor::{Executor, InFlight};
use crate::sync::node_pools::NodePools;

/// How long a connection without a reply is left before the other one is looked at.
const TURN: Duration = Duration::from_millis(1);

impl Executor {
    /// Sends the only request of the exchange, and sends it to a second server if the first one is late. Returns false,
    /// and does nothing, if that is not to be done.
    pub(super) fn send_hedged(&self, exchange: &mut Exchange, deadline: &Deadline) -> bool {
        let [request] = exchange.nodes_mut() else {
            return false;
        };
        let (Some(attempt), Some(hedge)) = (request.attempt(), request.hedge(&self.options)) else {
            return false;
        };
        let node = &self.nodes[attempt.request.receiver().get()];
        let servers = (
            node.server(attempt.request.target),
            node.server(hedge.target),
        );
        let (Some(first), Some(second), Some(replicas)) = (&servers.0, &servers.1, &node.replicas)
        else {
            return false;
        };
        let replicas = replicas.replicas();
        replicas.count_read();
        // Nobody looks at the other server while this thread connects.
        let limit = |target| replicas.connect_within(target, hedge.after);
        let first = (&**first, limit(attempt.request.target));
        let second = || {
            replicas
                .may_hedge()
                .then(|| (&**second, limit(hedge.target)))
        };
        let epoch = self.epoch(attempt.request.receiver());
        let attempt = (attempt, epoch);
        let (answers, is_second) = send(attempt, first, hedge.after, second, deadline);
        if is_second {
            request.replied_by_hedge();
        }
        request.handle(answers);
        true
    }
}

/// Sends the attempt to the first server, and to the second if there is no reply after this time. Returns the replies of
/// the server that was faster, and whether that was the second. With each server comes the time that connecting may take.
fn send<'p>(
    (attempt, epoch): (Attempt<'p>, u64),
    first: (&'p NodePools, Option<Duration>),
    after: Duration,
    second: impl FnOnce() -> Option<(&'p NodePools, Option<Duration>)>,
    deadline: &Deadline,
) -> (Answers, bool) {
    let within = |limit: Option<Duration>| limit.map_or(*deadline, |limit| deadline.within(limit));
    let begin = |(server, limit): (&'p NodePools, Option<Duration>), deadline: Deadline| {
        let stopwatch = Stopwatch::start(BlockingTime::None);
        let connecting = within(limit);
        let mut in_flight = InFlight::begin(
            (attempt, epoch),
            server,
            BlockingTime::None,
            stopwatch,
            connecting,
        );
        in_flight.extend(deadline);
        in_flight.write(0);
        in_flight
    };
    let mut first = begin(first, within(attempt.limit(deadline.remaining())));
    if first.wait(after) {
        first.read(0);
        return (first.end(), false);
    }
    let Some(second) = second() else {
        first.read(0);
        return (first.end(), false);
    };
    let mut second = begin(second, *deadline);
    loop {
        if !first.has_failed() && first.wait(TURN) {
            first.read(0);
            if !first.has_failed() {
                return (first.end(), false);
            }
        }
        if !second.has_failed() && second.wait(TURN) {
            second.read(0);
            if !second.has_failed() {
                return (second.end(), true);
            }
        }
        // One that has failed leaves it to the other.
        if first.has_failed() && second.has_failed() {
            return (second.end(), true);
        }
    }
}
