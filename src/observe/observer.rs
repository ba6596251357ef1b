//! [`NodeObserver`]: passes on what the executors and the backoff of a node report.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Error;
#[cfg(feature = "metrics")]
use crate::observe::metrics::NodeMetrics;
#[cfg(not(feature = "metrics"))]
use crate::observe::no_metrics::NodeMetrics;
#[cfg(feature = "tracing")]
use crate::observe::trace;
use crate::observe::{ClientEvent, NodeVotes, PoolKind, Stopwatch, Votes};
use crate::partition::NodeSpec;
use crate::plan::{AttemptKind, Cause, RequestOutcome};
use crate::policy::{ConnectError, Recovery};

/// A closure of [`Builder::on_event`](crate::Builder::on_event).
type Listener = Arc<dyn Fn(&ClientEvent) + Send + Sync>;

/// The closures that are called with each event, in the order in which they were set.
#[derive(Clone, Default)]
pub(crate) struct Listeners(Vec<Listener>);

/// Receives what happens to one node and to the requests to it. One per node, for all connections of a client.
pub(crate) struct NodeObserver {
    /// With the address of the replica, if it is one.
    node: NodeSpec,
    /// True for a replica of the node: it says nothing about the node as a whole.
    is_replica: bool,
    listeners: Listeners,
    /// Number of connections made after one had broken.
    reconnects: AtomicU64,
    metrics: NodeMetrics,
    /// Whether the node serves requests, for its ejection. `None` unless the client is a cache.
    votes: Option<NodeVotes>,
}

impl Listeners {
    /// Adds a closure.
    pub(crate) fn add(&mut self, listener: impl Fn(&ClientEvent) + Send + Sync + 'static) {
        self.0.push(Arc::new(listener));
    }

    /// Calls the closures, if there are any.
    pub(crate) fn deliver(&self, event: impl FnOnce() -> ClientEvent) {
        if self.0.is_empty() && cfg!(not(feature = "tracing")) {
            return;
        }
        let event = event();
        #[cfg(feature = "tracing")]
        trace::event(&event);
        for listener in &self.0 {
            // A panic would end the request or the task that happens to report the event. The panic hook has
            // printed it.
            let _ = catch_unwind(AssertUnwindSafe(|| listener(&event)));
        }
    }
}

impl NodeObserver {
    /// The observer of `node`, for one client. `votes` are those about all nodes of a cache.
    pub(crate) fn new(
        node: NodeSpec,
        listeners: Listeners,
        votes: Option<&Arc<Votes>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            votes: votes.map(|votes| votes.of_node(node.id())),
            metrics: NodeMetrics::new(node.name()),
            node,
            is_replica: false,
            listeners,
            reconnects: AtomicU64::new(0),
        })
    }

    /// The observer of a replica of this node, at this address.
    pub(crate) fn of_replica(&self, address: &str) -> Arc<Self> {
        let node = NodeSpec::new(self.node.name(), address).with_weight(self.node.weight());
        Arc::new(Self {
            // A replica that fails says nothing about the node.
            votes: None,
            metrics: NodeMetrics::new(node.name()),
            node,
            is_replica: true,
            listeners: self.listeners.clone(),
            reconnects: AtomicU64::new(0),
        })
    }

    /// The observer of a server that is no node, such as a Sentinel: nothing is recorded.
    pub(crate) fn of_no_node(server: NodeSpec) -> Arc<Self> {
        Arc::new(Self {
            metrics: NodeMetrics::disabled(),
            node: server,
            is_replica: false,
            votes: None,
            listeners: Listeners::default(),
            reconnects: AtomicU64::new(0),
        })
    }

    /// True for a replica of the node.
    pub(crate) fn is_replica(&self) -> bool {
        self.is_replica
    }

    /// The node.
    pub(crate) fn node(&self) -> &NodeSpec {
        &self.node
    }

    /// The votes about the node. `None` unless the client is a cache.
    pub(crate) fn votes(&self) -> Option<&NodeVotes> {
        self.votes.as_ref()
    }

    /// Number of connections made after one had broken.
    pub(crate) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Records that the node is down, and was not known to be.
    pub(crate) fn went_down(&self, cause: &Cause) {
        let error = cause.to_error(self.node.name());
        if self.is_replica {
            return self.deliver(|node| ClientEvent::ReplicaDown { node, error });
        }
        self.metrics.node_up(false);
        self.deliver(|node| ClientEvent::NodeDown { node, error });
    }

    /// Records that a connection was made, and what that has changed.
    pub(crate) fn connected(&self, recovery: Recovery) {
        if !self.is_replica {
            self.metrics.node_up(true);
        }
        if let Some(outage) = recovery.outage {
            self.deliver(|node| match self.is_replica {
                true => ClientEvent::ReplicaUp { node, outage },
                false => ClientEvent::NodeUp { node, outage },
            });
        }
        if recovery.is_reconnect {
            self.reconnects.fetch_add(1, Ordering::Relaxed);
            self.metrics.reconnected();
            self.deliver(|node| ClientEvent::Reconnected { node });
        }
    }

    /// Records that the node's primary is another server.
    pub(crate) fn primary_changed(&self, from: &str, to: &str) {
        self.deliver(|node| ClientEvent::PrimaryChanged {
            node,
            from: from.to_owned(),
            to: to.to_owned(),
        });
    }

    /// Records that an attempt to connect has failed.
    pub(crate) fn connect_failed(&self, error: &ConnectError) {
        if let Some(votes) = &self.votes {
            votes.connect_failed(error);
        }
    }

    /// Records that a probe has found the node to serve requests.
    pub(crate) fn found(&self) {
        if let Some(votes) = &self.votes {
            votes.recovered();
        }
    }

    /// Records that keys of the node have other owners from now on.
    pub(crate) fn ejected(&self, failures: u32) {
        self.metrics.ejected();
        self.deliver(|node| ClientEvent::Ejected { node, failures });
    }

    /// Records that the node is used again.
    pub(crate) fn readmitted(&self, absence: Duration) {
        self.metrics.readmitted();
        self.deliver(|node| ClientEvent::Readmitted { node, absence });
    }

    /// Records that the node could not be emptied.
    pub(crate) fn flush_failed(&self, error: &Error) {
        self.deliver(|node| ClientEvent::FlushFailed {
            node,
            error: error.clone(),
        });
    }

    /// A connection of this pool was made.
    pub(super) fn opened(&self, pool: PoolKind) {
        self.metrics.opened(pool);
        self.deliver(|node| ClientEvent::ConnectionOpened { node, pool });
    }

    /// A connection of this pool ended.
    pub(super) fn closed(&self, pool: PoolKind) {
        self.metrics.closed(pool);
        self.deliver(|node| ClientEvent::ConnectionClosed { node, pool });
    }

    /// Calls the closures, if there are any.
    fn deliver(&self, event: impl FnOnce(NodeSpec) -> ClientEvent) {
        self.listeners.deliver(|| event(self.node.clone()));
    }
}

/// Facts about requests and connections, for the metrics. Without the features `metrics` and `tracing` all of
/// these are empty, but for the votes of a cache.
impl NodeObserver {
    /// Requests are about to be sent to the node.
    #[inline]
    pub(crate) fn started(&self, kind: AttemptKind) {
        self.metrics.started(kind);
    }

    /// The requests have ended.
    #[inline]
    pub(crate) fn finished(&self, stopwatch: Stopwatch, outcome: impl FnOnce() -> RequestOutcome) {
        #[cfg(any(feature = "metrics", feature = "tracing"))]
        {
            let outcome = outcome();
            if let Some(votes) = &self.votes {
                votes.finished(&outcome);
            }
            self.metrics.finished(stopwatch, &outcome);
            #[cfg(feature = "tracing")]
            trace::finished(&self.node, &outcome);
        }
        #[cfg(not(any(feature = "metrics", feature = "tracing")))]
        {
            let _ = stopwatch;
            if let Some(votes) = &self.votes {
                votes.finished(&outcome());
            }
        }
    }

    /// A request that is forwarded in pieces got no reply in time.
    #[cfg(feature = "proxy")]
    pub(crate) fn timed_out(&self) {
        if let Some(votes) = &self.votes {
            votes.timed_out();
        }
    }

    /// Records that a request is sent again, and how the attempt before ended.
    pub(crate) fn resent(&self, outcome: impl FnOnce() -> RequestOutcome) {
        if let Some(votes) = &self.votes {
            votes.finished(&outcome());
        }
        self.metrics.resent();
    }

    /// Records a request to this many nodes, of which this is the first.
    #[inline]
    pub(crate) fn fan_out(&self, nodes: impl FnOnce() -> usize) {
        self.metrics.fan_out(nodes);
    }

    /// The socket of a connection took bytes.
    #[inline]
    pub(crate) fn sent(&self, bytes: usize) {
        self.metrics.sent(bytes);
    }

    /// Bytes arrived over a connection.
    #[inline]
    pub(crate) fn received(&self, bytes: usize) {
        self.metrics.received(bytes);
    }

    /// A connection is lent to a request or a handle.
    #[inline]
    pub(crate) fn lent(&self, pool: impl Into<PoolKind>) {
        self.metrics.lent(pool.into());
    }

    /// A connection that was lent is given back or closed.
    #[inline]
    pub(crate) fn given_back(&self, pool: impl Into<PoolKind>) {
        self.metrics.given_back(pool.into());
    }

    /// A request begins to wait for a connection.
    pub(super) fn waits(&self, pool: PoolKind) {
        self.metrics.waits(pool);
    }

    /// A request no longer waits for a connection.
    pub(super) fn waited(&self, pool: PoolKind) {
        self.metrics.waited(pool);
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}

impl fmt::Debug for NodeObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeObserver")
            .field("node", &self.node)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}
