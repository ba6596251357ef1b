//! The one backoff of a node, which all connections of a client to it feed and obey.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
#[cfg(feature = "tokio-comp")]
use tokio::sync::{Notify, futures::Notified};

use crate::plan::Cause;
use crate::policy::{Admission, AttemptId, Backoff, ConnectError, Down};

/// What a client knows of one node's reachability. Every connection to the node is made as a [`ConnectAttempt`]: shared and
/// exclusive ones, those for publish and subscribe, and those that stream.
#[derive(Default)]
pub(crate) struct NodeBackoff {
    state: Mutex<Backoff>,
    /// A connection was made, or an attempt failed.
    #[cfg(feature = "tokio-comp")]
    changed: Notify,
}

/// An attempt to connect. Dropped without an outcome, it says nothing of the node.
#[derive(Debug)]
pub(crate) struct ConnectAttempt {
    node: Arc<NodeBackoff>,
    id: AttemptId,
    ended: bool,
}

impl NodeBackoff {
    /// Begins an attempt to connect that takes no longer than `limit`, unless the node is known to be down and has to be left
    /// alone, or is tried by another connection.
    pub(crate) fn try_begin(self: &Arc<Self>, limit: Duration) -> Result<ConnectAttempt, Down> {
        match self.state.lock().try_acquire(Instant::now(), limit) {
            Admission::Down(down) => Err(down),
            Admission::Try(id) => Ok(ConnectAttempt {
                node: Arc::clone(self),
                id,
                ended: false,
            }),
        }
    }

    /// Why and since when the node cannot be reached, if so.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn outage(&self) -> Option<Down> {
        self.state.lock().outage(Instant::now())
    }

    /// Whether the next attempt may be made, or is under way.
    pub(crate) fn is_due(&self) -> bool {
        self.state.lock().is_due(Instant::now())
    }

    /// How many attempts have failed so far, of all connections.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn failed_count(&self) -> u64 {
        self.state.lock().failed_count()
    }

    /// Waits until a connection was made or an attempt failed.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Wakes who waits for a change.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn notify(&self) {
        self.changed.notify_waiters();
    }

    #[cfg(not(feature = "tokio-comp"))]
    fn notify(&self) {}
}

impl ConnectAttempt {
    /// A connection was made.
    pub(crate) fn connected(mut self) {
        self.ended = true;
        self.node.state.lock().connected();
        self.node.notify();
    }

    /// No connection could be made.
    pub(crate) fn failed(mut self, reason: ConnectError) {
        self.ended = true;
        let mut state = self.node.state.lock();
        state.failed(self.id, Instant::now(), rand::random(), reason);
        drop(state);
        self.node.notify();
    }

    /// Tells how it went.
    pub(crate) fn end<T>(self, made: Result<T, ConnectError>) -> Result<T, ConnectError> {
        match &made {
            Ok(_) => self.connected(),
            Err(error) => self.failed(error.clone()),
        }
        made
    }
}

impl Drop for ConnectAttempt {
    /// Who tried may have given up, or its runtime may have ended.
    fn drop(&mut self) {
        if !self.ended {
            self.node.state.lock().inconclusive(self.id);
            self.node.notify();
        }
    }
}

/// The request is not sent: the node is known to be down.
impl From<Down> for Cause {
    fn from(down: Down) -> Self {
        Self::Connect(down.reason)
    }
}

impl fmt::Debug for NodeBackoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.lock().fmt(f)
    }
}
