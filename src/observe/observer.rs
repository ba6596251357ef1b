//! [`NodeObserver`]: passes on what the executors and the backoff of a node report.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::{ClientEvent, PoolKind};
use crate::partition::NodeSpec;
use crate::plan::Cause;
use crate::policy::Recovery;

/// A closure of [`Builder::on_event`](crate::Builder::on_event).
type Listener = Arc<dyn Fn(&ClientEvent) + Send + Sync>;

/// The closures that are called with each event, in the order in which they were set.
#[derive(Clone, Default)]
pub(crate) struct Listeners(Vec<Listener>);

/// Told what happens to one node and to the requests to it. One per node, for all connections of a client.
pub(crate) struct NodeObserver {
    node: NodeSpec,
    listeners: Listeners,
    /// Number of connections made after one had broken.
    reconnects: AtomicU64,
}

impl Listeners {
    /// Adds a closure.
    pub(crate) fn add(&mut self, listener: impl Fn(&ClientEvent) + Send + Sync + 'static) {
        self.0.push(Arc::new(listener));
    }
}

impl NodeObserver {
    /// The observer of `node`, for one client.
    pub(crate) fn new(node: NodeSpec, listeners: Listeners) -> Arc<Self> {
        Arc::new(Self {
            node,
            listeners,
            reconnects: AtomicU64::new(0),
        })
    }

    /// The node.
    pub(crate) fn node(&self) -> &NodeSpec {
        &self.node
    }

    /// Number of connections made after one had broken.
    pub(crate) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// The node is down, which it was not known to be.
    pub(crate) fn went_down(&self, cause: &Cause) {
        self.deliver(|node| ClientEvent::NodeDown {
            error: cause.to_error(node.name()),
            node,
        });
    }

    /// A connection was made, which has changed this.
    pub(crate) fn connected(&self, recovery: Recovery) {
        if let Some(outage) = recovery.outage {
            self.deliver(|node| ClientEvent::NodeUp { node, outage });
        }
        if recovery.is_reconnect {
            self.reconnects.fetch_add(1, Ordering::Relaxed);
            self.deliver(|node| ClientEvent::Reconnected { node });
        }
    }

    /// A connection of this pool was made.
    pub(super) fn opened(&self, pool: PoolKind) {
        self.deliver(|node| ClientEvent::ConnectionOpened { node, pool });
    }

    /// A connection of this pool ended.
    pub(super) fn closed(&self, pool: PoolKind) {
        self.deliver(|node| ClientEvent::ConnectionClosed { node, pool });
    }

    /// Calls the closures, if there are any.
    fn deliver(&self, event: impl FnOnce(NodeSpec) -> ClientEvent) {
        if self.listeners.0.is_empty() {
            return;
        }
        let event = event(self.node.clone());
        for listener in &self.listeners.0 {
            // A panic would end the request or the task that happens to report the event. The panic hook has
            // printed it.
            let _ = catch_unwind(AssertUnwindSafe(|| listener(&event)));
        }
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
