//! The backoff of a node, shared by all connections of a client to it.
//!
//! The rules are those of [`Backoff`]; this adds the lock, the clock, the randomness, the wake-up of tasks that
//! wait for a change, and the events of the node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
#[cfg(feature = "tokio-comp")]
use tokio::sync::{Notify, futures::Notified};

use crate::endpoint::{Endpoint, PrimaryCell};
use crate::observe::{NodeHealth, NodeObserver, NodeVotes, PoolHealth};
use crate::plan::Cause;
use crate::policy::{Admission, AttemptId, Backoff, ConnectError, Down, HandshakeScope};

/// The reachability of one node, as known to a client. Every connection to the node is made as a
/// [`ConnectAttempt`]: shared, exclusive and streaming ones, and those for pub/sub. One that cannot connect
/// therefore spares all others the attempt.
///
/// ```text
///  try_begin ──▶ ConnectAttempt ──▶ connected | failed | dropped ──▶ notify
///      └──────▶ Down: fail the request, or wait for `changed`
/// ```
pub(crate) struct NodeBackoff {
    /// Held for a few instructions only, and never while an event is delivered.
    state: Mutex<Backoff>,
    /// The last failure of an attempt or of a connection, and when it was noticed. Kept after a recovery.
    last_error: Mutex<Option<(Cause, Instant)>>,
    /// Receives the changes, for events and metrics.
    observer: Arc<NodeObserver>,
    /// The address of the node's primary, if it may change.
    primary: Option<Arc<PrimaryCell>>,
    /// Number of times that a probe has found the node to serve requests again, as far as is known here.
    recoveries: AtomicU64,
    /// Notified when an attempt has ended, whatever its outcome.
    #[cfg(feature = "tokio-comp")]
    changed: Notify,
}

/// An attempt to connect that was admitted. Must be ended with its outcome; dropped without one, it counts as
/// inconclusive.
#[derive(Debug)]
pub(crate) struct ConnectAttempt {
    /// Where the outcome is recorded.
    node: Arc<NodeBackoff>,
    /// Distinguishes it from other attempts that are under way.
    id: AttemptId,
    /// True once the outcome is recorded.
    ended: bool,
}

impl NodeBackoff {
    /// The backoff of a node that has not been tried.
    pub(crate) fn new(observer: Arc<NodeObserver>) -> Self {
        Self {
            state: Mutex::default(),
            last_error: Mutex::default(),
            recoveries: AtomicU64::new(observer.votes().map_or(0, NodeVotes::recoveries)),
            observer,
            primary: None,
            #[cfg(feature = "tokio-comp")]
            changed: Notify::new(),
        }
    }

    /// The backoff of the node at this endpoint, which has not been tried.
    pub(crate) fn of_endpoint(endpoint: &Endpoint) -> Arc<Self> {
        let backoff = Arc::new(Self {
            primary: endpoint.primary.clone(),
            ..Self::new(Arc::clone(&endpoint.observer))
        });
        if let Some(primary) = &endpoint.primary {
            primary.add_backoff(Arc::downgrade(&backoff));
        }
        backoff
    }

    /// The node is at another address from now on.
    pub(super) fn moved(&self) {
        self.state.lock().moved(Instant::now());
        self.notify();
    }

    /// The primary of the node may not be one any more, if that can change.
    pub(crate) fn suspect_primary(&self) {
        if let Some(primary) = &self.primary {
            primary.suspect();
        }
    }

    /// The observer of the node.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn observer(&self) -> &Arc<NodeObserver> {
        &self.observer
    }

    /// Records that a connection to the node broke.
    pub(crate) fn broke(&self, cause: &Cause) {
        self.state.lock().broke();
        self.record_error(cause.clone());
        self.suspect_primary();
    }

    /// The known state of the node, with these pools.
    pub(crate) fn health(&self, shared: PoolHealth, exclusive: PoolHealth) -> NodeHealth {
        let now = Instant::now();
        let node = self.observer.node();
        let last_error = self.last_error.lock().clone();
        let address = self.primary.as_ref().and_then(|primary| primary.address());
        let ejected = self.observer.votes().and_then(NodeVotes::absence);
        let state = self.state.lock();
        NodeHealth {
            id: node.id(),
            name: node.name().to_owned(),
            address: address.map_or_else(|| node.address().to_owned(), |found| found.to_string()),
            state: state.state(now),
            ejected,
            consecutive_failures: state.failures(),
            next_attempt: state.next_attempt(now),
            last_error: last_error
                .as_ref()
                .map(|(cause, _)| cause.to_error(node.name())),
            last_error_age: last_error.map(|(_, at)| now.saturating_duration_since(at)),
            reconnects: self.observer.reconnects(),
            shared,
            exclusive,
            replicas: Vec::new(),
        }
    }

    /// Ends the outage if a probe has found the node since.
    fn notice_recovery(&self) {
        let Some(recoveries) = self.observer.votes().map(NodeVotes::recoveries) else {
            return;
        };
        if self.recoveries.swap(recoveries, Ordering::AcqRel) != recoveries {
            self.state.lock().found();
            self.notify();
        }
    }

    /// Keeps the last error.
    fn record_error(&self, cause: Cause) {
        *self.last_error.lock() = Some((cause, Instant::now()));
    }

    /// Begins an attempt that takes at most `limit`, unless the node is known to be down and its pause is not
    /// over, or another connection is trying it.
    ///
    /// # Errors
    ///
    /// [`Down`], with the reason of the last failure and the time after which to ask again.
    pub(crate) fn try_begin(
        self: &Arc<Self>,
        limit: Duration,
        scope: HandshakeScope,
    ) -> Result<ConnectAttempt, Down> {
        self.notice_recovery();
        // Question and admission under one lock: of two requests that ask when an attempt is due, only one is
        // admitted.
        match self.state.lock().try_acquire(Instant::now(), limit, scope) {
            Admission::Down(down) => Err(down),
            Admission::Try(id) => Ok(ConnectAttempt {
                node: Arc::clone(self),
                id,
                ended: false,
            }),
        }
    }

    /// Why and since when the node is unreachable. `None` if it is not known to be.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn outage(&self) -> Option<Down> {
        self.notice_recovery();
        self.state.lock().outage(Instant::now())
    }

    /// True if the next attempt may be made, or is under way.
    pub(crate) fn is_due(&self) -> bool {
        self.notice_recovery();
        self.state.lock().is_due(Instant::now())
    }

    /// Number of attempts that have failed so far, over all connections.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn failed_count(&self) -> u64 {
        self.state.lock().failed_count()
    }

    /// Completes at the next change. To be enabled before the state is read, or a change in between goes
    /// unnoticed.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Wakes all tasks that wait for a change.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Without tokio nobody waits for a change.
    #[cfg(not(feature = "tokio-comp"))]
    fn notify(&self) {}
}

impl ConnectAttempt {
    /// Records that a connection was made.
    pub(crate) fn connected(mut self) {
        self.ended = true;
        let recovery = self.node.state.lock().connected(Instant::now());
        self.node.notify();
        self.node.observer.connected(recovery);
    }

    /// Records that no connection could be made, or that the server refused it for the time being.
    pub(crate) fn failed(mut self, reason: ConnectError) {
        self.ended = true;
        let cause = Cause::Connect(reason.clone());
        self.node.observer.connect_failed(&reason);
        // The jitter keeps many clients of a node that has failed from reconnecting in step.
        let jitter = rand::random();
        let mut state = self.node.state.lock();
        let (is_news, recovery) = match reason.is_refusal() {
            true => {
                let recovery = state.refused(self.id, Instant::now(), jitter, reason);
                (false, Some(recovery))
            }
            false => (state.failed(self.id, Instant::now(), jitter, reason), None),
        };
        // Woken tasks read the state at once.
        drop(state);
        self.node.record_error(cause.clone());
        self.node.notify();
        if let Some(recovery) = recovery {
            self.node.observer.connected(recovery);
        }
        self.node.suspect_primary();
        if is_news {
            self.node.observer.went_down(&cause);
        }
    }

    /// Records the outcome, and returns it.
    pub(crate) fn end<T>(self, made: Result<T, ConnectError>) -> Result<T, ConnectError> {
        // A clone of the error is kept for the requests that are refused until the next attempt.
        match &made {
            Ok(_) => self.connected(),
            // Says nothing about the node, which was reached: the next attempt goes by the newer record.
            Err(ConnectError::Superseded) => drop(self),
            Err(error) => self.failed(error.clone()),
        }
        made
    }
}

impl Drop for ConnectAttempt {
    /// Runs without an outcome when the request was given up or its runtime has ended. The next request may
    /// try at once.
    fn drop(&mut self) {
        // Otherwise the node would count as being tried until this attempt is overdue.
        if !self.ended {
            self.node.state.lock().inconclusive(self.id);
            self.node.notify();
        }
    }
}

/// The cause of a request that is not sent because its node is known to be down.
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
