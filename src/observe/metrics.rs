//! The metrics of one node, for recorders of the crate `metrics`.
//!
//! The handles are resolved once, when the client is built, so that a request costs a few atomic operations.
//! A client that was built before the program installed its recorder therefore has none.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::error::ErrorKind;
use crate::observe::{PoolKind, Stopwatch};
use crate::plan::{AttemptKind, RequestOutcome};

const REQUESTS: &str = "redis_sharding_requests_total";
const ERRORS: &str = "redis_sharding_request_errors_total";
const DURATION: &str = "redis_sharding_request_duration_seconds";
const FAN_OUT: &str = "redis_sharding_fan_out_nodes";
const RESENDS: &str = "redis_sharding_resends_total";
const OTHER_NODE: &str = "redis_sharding_other_node_total";
const REDIRECTS: &str = "redis_sharding_redirects_total";
const SENT: &str = "redis_sharding_sent_bytes_total";
const RECEIVED: &str = "redis_sharding_received_bytes_total";
const NODE_UP: &str = "redis_sharding_node_up";
const NODE_EJECTED: &str = "redis_sharding_node_ejected";
const EJECTIONS: &str = "redis_sharding_ejections_total";
const RECONNECTS: &str = "redis_sharding_reconnects_total";
const OPEN: &str = "redis_sharding_connections_open";
const IN_USE: &str = "redis_sharding_connections_in_use";
const WAITING: &str = "redis_sharding_connections_waiting";

/// The kinds of errors that requests to a node end with. Counted from zero, so that a rate is known from the
/// first error on.
const KINDS: [ErrorKind; 6] = [
    ErrorKind::Auth,
    ErrorKind::NodeDown,
    ErrorKind::PoolTimeout,
    ErrorKind::Redis,
    ErrorKind::Timeout,
    ErrorKind::Unknown,
];

/// Handles of the metrics of one node.
pub(super) struct NodeMetrics {
    /// The node's name, for kinds of errors that are not among [`KINDS`].
    node: String,
    requests: Counter,
    errors: [Counter; KINDS.len()],
    duration: Histogram,
    /// Without the label `node`.
    fan_out: Histogram,
    resends: Counter,
    other_node: Counter,
    redirects: Counter,
    sent: Counter,
    received: Counter,
    node_up: Gauge,
    node_ejected: Gauge,
    ejections: Counter,
    reconnects: Counter,
    shared: PoolMetrics,
    exclusive: PoolMetrics,
}

/// Handles of the metrics of one pool of a node.
struct PoolMetrics {
    open: Gauge,
    in_use: Gauge,
    waiting: Gauge,
}

impl NodeMetrics {
    /// Registers the metrics of the node called `node` with the current recorder.
    pub(super) fn new(node: &str) -> Self {
        // For each client, not once: tests and programs may change the recorder, and it is cheap.
        describe();
        let label = || ("node", node.to_owned());
        let pool = |kind: PoolKind| {
            let labels = || [("node", node.to_owned()), ("pool", kind.name().to_owned())];
            PoolMetrics {
                open: gauge!(OPEN, &labels()),
                in_use: gauge!(IN_USE, &labels()),
                waiting: gauge!(WAITING, &labels()),
            }
        };
        Self {
            node: node.to_owned(),
            requests: counter!(REQUESTS, &[label()]),
            errors: KINDS.map(|kind| errors(node, kind)),
            duration: histogram!(DURATION, &[label()]),
            fan_out: histogram!(FAN_OUT),
            resends: counter!(RESENDS, &[label()]),
            other_node: counter!(OTHER_NODE, &[label()]),
            redirects: counter!(REDIRECTS, &[label()]),
            sent: counter!(SENT, &[label()]),
            received: counter!(RECEIVED, &[label()]),
            node_up: gauge!(NODE_UP, &[label()]),
            node_ejected: gauge!(NODE_EJECTED, &[label()]),
            ejections: counter!(EJECTIONS, &[label()]),
            reconnects: counter!(RECONNECTS, &[label()]),
            shared: pool(PoolKind::Shared),
            exclusive: pool(PoolKind::Exclusive),
        }
    }

    /// Metrics that are not recorded.
    pub(super) fn disabled() -> Self {
        let pool = || PoolMetrics {
            open: Gauge::noop(),
            in_use: Gauge::noop(),
            waiting: Gauge::noop(),
        };
        Self {
            node: String::new(),
            requests: Counter::noop(),
            errors: KINDS.map(|_| Counter::noop()),
            duration: Histogram::noop(),
            fan_out: Histogram::noop(),
            resends: Counter::noop(),
            other_node: Counter::noop(),
            redirects: Counter::noop(),
            sent: Counter::noop(),
            received: Counter::noop(),
            node_up: Gauge::noop(),
            reconnects: Counter::noop(),
            node_ejected: Gauge::noop(),
            ejections: Counter::noop(),
            shared: pool(),
            exclusive: pool(),
        }
    }

    fn pool(&self, kind: PoolKind) -> &PoolMetrics {
        match kind {
            PoolKind::Shared => &self.shared,
            PoolKind::Exclusive => &self.exclusive,
        }
    }

    #[inline]
    pub(super) fn started(&self, kind: AttemptKind) {
        self.requests.increment(1);
        match kind {
            AttemptKind::First => {}
            AttemptKind::Resend => self.resends.increment(1),
            AttemptKind::OtherNode => self.other_node.increment(1),
            AttemptKind::Redirect => self.redirects.increment(1),
        }
    }

    #[inline]
    pub(super) fn finished(&self, stopwatch: Stopwatch, outcome: &RequestOutcome) {
        if let Some(elapsed) = stopwatch.elapsed() {
            self.duration.record(elapsed);
        }
        if outcome.error_replies > 0 {
            self.failed(ErrorKind::Redis, outcome.error_replies);
        }
        if let Some(kind) = outcome.failure {
            self.failed(kind, 1);
        }
    }

    /// Counts errors.
    fn failed(&self, kind: ErrorKind, count: usize) {
        match KINDS.iter().position(|known| *known == kind) {
            Some(known) => self.errors[known].increment(count as u64),
            None => errors(&self.node, kind).increment(count as u64),
        }
    }

    pub(super) fn resent(&self) {
        self.resends.increment(1);
    }

    pub(super) fn fan_out(&self, nodes: impl FnOnce() -> usize) {
        self.fan_out.record(nodes() as f64);
    }

    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.increment(bytes as u64);
    }

    #[inline]
    pub(super) fn received(&self, bytes: usize) {
        self.received.increment(bytes as u64);
    }

    pub(super) fn node_up(&self, is_up: bool) {
        self.node_up.set(f64::from(u8::from(is_up)));
    }

    pub(super) fn ejected(&self) {
        self.node_ejected.set(1.0);
        self.ejections.increment(1);
    }

    pub(super) fn readmitted(&self) {
        self.node_ejected.set(0.0);
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.increment(1);
    }

    pub(super) fn opened(&self, pool: PoolKind) {
        self.pool(pool).open.increment(1);
    }

    pub(super) fn closed(&self, pool: PoolKind) {
        self.pool(pool).open.decrement(1);
    }

    #[inline]
    pub(super) fn lent(&self, pool: PoolKind) {
        self.pool(pool).in_use.increment(1);
    }

    #[inline]
    pub(super) fn given_back(&self, pool: PoolKind) {
        self.pool(pool).in_use.decrement(1);
    }

    pub(super) fn waits(&self, pool: PoolKind) {
        self.pool(pool).waiting.increment(1);
    }

    pub(super) fn waited(&self, pool: PoolKind) {
        self.pool(pool).waiting.decrement(1);
    }
}

/// The counter of errors of one kind. Its label is the code word of the kind.
fn errors(node: &str, kind: ErrorKind) -> Counter {
    counter!(ERRORS, "node" => node.to_owned(), "kind" => kind.label())
}

/// Gives the recorder the unit and the description of each metric.
fn describe() {
    let count = Unit::Count;
    describe_counter!(
        REQUESTS,
        count,
        "Requests sent to the node; a pipeline counts once"
    );
    describe_counter!(
        ERRORS,
        count,
        "Requests to the node that failed, by kind of error, and error replies (REDIS)"
    );
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "From taking a connection to the last reply of the node; without blocking commands"
    );
    describe_histogram!(
        FAN_OUT,
        count,
        "Number of nodes that a split command, a pipeline or a command to all nodes went to"
    );
    describe_counter!(
        RESENDS,
        count,
        "Requests sent to the node again because their connection broke"
    );
    describe_counter!(
        OTHER_NODE,
        count,
        "Requests sent to the node because another one could not be reached"
    );
    describe_counter!(
        REDIRECTS,
        count,
        "Requests sent to the node because another server of the cluster has refused them"
    );
    describe_connections();
}

fn describe_connections() {
    let count = Unit::Count;
    describe_counter!(SENT, Unit::Bytes, "Bytes sent to the node");
    describe_counter!(RECEIVED, Unit::Bytes, "Bytes received from the node");
    describe_gauge!(
        NODE_UP,
        count,
        "1 if the last attempt to connect to the node succeeded, else 0"
    );
    describe_gauge!(
        NODE_EJECTED,
        count,
        "1 while keys of the node have other owners because it failed, else 0"
    );
    describe_counter!(
        EJECTIONS,
        count,
        "Number of times that the node was ejected"
    );
    describe_counter!(
        RECONNECTS,
        count,
        "Connections to the node made after one had broken"
    );
    describe_gauge!(OPEN, count, "Open connections to the node");
    describe_gauge!(
        IN_USE,
        count,
        "Connections to the node that are lent to a request or a handle"
    );
    describe_gauge!(
        WAITING,
        count,
        "Requests that wait for a connection to the node"
    );
}
