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
use crate::sync::executor::{Executor, InFlight, NodePools};

/// How long a connection without a reply is left before the other one is looked at.
const TURN: Duration = Duration::from_millis(1);

/// Maximum duration of connecting to the second server, or the delay of the hedge if that is longer: the reply of the
/// first may come in the meantime.
const CONNECT_WITHIN: Duration = Duration::from_millis(50);

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
        let node = &self.nodes[attempt.request.node.get()];
        let servers = (
            node.server(attempt.request.target),
            node.server(hedge.target),
        );
        let (Some(first), Some(second), Some(replicas)) = (&servers.0, &servers.1, &node.replicas)
        else {
            return false;
        };
        replicas.replicas().count_read();
        let second = || replicas.replicas().may_hedge().then_some(&**second);
        let (answers, is_second) = send(attempt, first, hedge.after, second, deadline);
        if is_second {
            request.replied_by_hedge();
        }
        request.handle(answers);
        true
    }
}

/// Sends the attempt to the first server, and to the second if there is no reply after this time. Returns the replies of
/// the server that was faster, and whether that was the second.
fn send<'p>(
    attempt: Attempt<'p>,
    first: &'p NodePools,
    after: Duration,
    second: impl FnOnce() -> Option<&'p NodePools>,
    deadline: &Deadline,
) -> (Answers, bool) {
    let begin = |server: &'p NodePools, deadline: Deadline| {
        let stopwatch = Stopwatch::start(BlockingTime::None);
        let mut in_flight =
            InFlight::begin(attempt, server, BlockingTime::None, stopwatch, deadline);
        in_flight.write(0);
        in_flight
    };
    let limit = attempt.limit(deadline.remaining());
    let own = limit.map_or(*deadline, |limit| deadline.within(limit));
    let mut first = begin(first, own);
    if first.wait(after) {
        first.read(0);
        return (first.end(), false);
    }
    let Some(second) = second() else {
        first.read(0);
        return (first.end(), false);
    };
    let mut second = begin(second, deadline.within(CONNECT_WITHIN.max(after)));
    second.extend(*deadline);
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
