//! [`Votes`]: the failures and successes of the nodes of a cache, for the decision which of them are out.
//!
//! What is decided is up to [`OutlierDetector`]; this adds the lock, the clock, the randomness, and the wake-up of
//! the thread that probes.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::partition::NodeId;
use crate::plan::RequestOutcome;
use crate::policy::{ConnectError, Ejection, FailureKind, FlushLog, OutlierDetector, Refusal};

/// The health of all nodes of one cache, for all of its connections. One per client.
pub(crate) struct Votes {
    ejection: Ejection,
    /// Held for a few instructions only.
    detector: Mutex<OutlierDetector>,
    /// Notified when there is something to do.
    changed: Condvar,
    /// Starts the thread that does it. Called once, when there is something to do for the first time.
    start: OnceLock<Start>,
    is_started: AtomicBool,
    is_closed: AtomicBool,
    /// Flushes sent while nodes were out.
    flush_log: Arc<FlushLog>,
}

/// Starts a thread.
type Start = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The votes about one node.
pub(crate) struct NodeVotes {
    votes: Arc<Votes>,
    node: NodeId,
    /// True if the node has failed and no success was recorded since. A success costs no more than reading it.
    is_suspect: AtomicBool,
    /// Number of times that the node was found to serve requests again.
    recoveries: AtomicU64,
}

impl Votes {
    /// The votes about these nodes, which have not failed yet.
    pub(crate) fn new(ejection: Ejection, nodes: impl IntoIterator<Item = NodeId>) -> Arc<Self> {
        Arc::new(Self {
            ejection,
            detector: Mutex::new(OutlierDetector::new(ejection, nodes)),
            changed: Condvar::new(),
            start: OnceLock::new(),
            is_started: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            flush_log: Arc::default(),
        })
    }

    /// The votes about one node.
    pub(crate) fn of_node(self: &Arc<Self>, node: NodeId) -> NodeVotes {
        NodeVotes {
            votes: Arc::clone(self),
            node,
            is_suspect: AtomicBool::new(false),
            recoveries: AtomicU64::new(0),
        }
    }

    /// Sets what starts the thread that probes.
    pub(crate) fn on_start(&self, start: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        // Set once, when the client is built.
        let _ = self.start.set(Box::new(start));
    }

    /// Starts the thread that probes, or wakes it.
    pub(crate) fn wake(&self) {
        if !self.is_started.swap(true, Ordering::AcqRel)
            && let Some(start) = self.start.get()
            && start().is_err()
        {
            // The next failure tries again.
            self.is_started.store(false, Ordering::Release);
        }
        self.changed.notify_all();
    }

    /// Wakes the thread that probes, if there is one.
    pub(crate) fn changed(&self) {
        self.changed.notify_all();
    }

    /// Ends the thread that probes.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        // Under the lock, or the thread might be about to wait.
        drop(self.detector.lock());
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(crate) fn detector(&self) -> MutexGuard<'_, OutlierDetector> {
        self.detector.lock()
    }

    /// Waits until something happens, or until `wake`.
    pub(crate) fn wait(
        &self,
        detector: &mut MutexGuard<'_, OutlierDetector>,
        wake: Option<Instant>,
    ) {
        if self.is_closed() {
            return;
        }
        match wake {
            Some(wake) => {
                self.changed.wait_until(detector, wake);
            }
            None => self.changed.wait(detector),
        }
    }

    /// The settings.
    pub(crate) fn ejection(&self) -> &Ejection {
        &self.ejection
    }

    /// The flushes that were sent while nodes were out.
    pub(crate) fn flush_log(&self) -> Arc<FlushLog> {
        Arc::clone(&self.flush_log)
    }
}

impl NodeVotes {
    /// No connection could be made.
    pub(crate) fn connect_failed(&self, error: &ConnectError) {
        let is_chosen = |refusal: &Refusal| self.votes.ejection.refusals().contains(*refusal);
        match error {
            ConnectError::Unreachable(_) => self.failed(FailureKind::NoReply),
            ConnectError::Refused(_) => {
                let refusal = error.refusal_code().and_then(Refusal::of_code);
                if let Some(refusal) = refusal.filter(is_chosen) {
                    self.failed(refusal.into());
                }
            }
            // A server that refuses the password or the certificate is alive, and its keys must not move.
            ConnectError::Auth(_)
            | ConnectError::Certificate(_)
            | ConnectError::FailedBefore
            | ConnectError::NoSuchMaster(_)
            | ConnectError::PrimaryChanged
            | ConnectError::Stale(_)
            | ConnectError::Superseded => {}
        }
    }

    /// A request has ended.
    #[inline]
    pub(crate) fn finished(&self, outcome: &RequestOutcome) {
        let refusal = outcome
            .refusal
            .filter(|refusal| self.votes.ejection.refusals().contains(*refusal));
        match refusal {
            Some(refusal) => self.failed(refusal.into()),
            None if outcome.is_served && self.is_suspect.load(Ordering::Relaxed) => {
                self.succeeded();
            }
            None => {}
        }
        if outcome.is_late {
            self.failed(FailureKind::NoReply);
        }
    }

    /// A request got no reply in time.
    #[cfg(feature = "proxy")]
    pub(crate) fn timed_out(&self) {
        self.failed(FailureKind::NoReply);
    }

    /// How long keys of this node have had other owners. `None` if they do not.
    pub(crate) fn absence(&self) -> Option<Duration> {
        self.votes
            .detector
            .lock()
            .absence(self.node, Instant::now())
    }

    /// The node was found to serve requests again, before it is used.
    pub(crate) fn recovered(&self) {
        self.recoveries.fetch_add(1, Ordering::AcqRel);
    }

    /// Number of times that the node was found to serve requests again.
    pub(crate) fn recoveries(&self) -> u64 {
        self.recoveries.load(Ordering::Acquire)
    }

    #[cold]
    fn failed(&self, kind: FailureKind) {
        self.is_suspect.store(true, Ordering::Relaxed);
        let mut detector = self.votes.detector.lock();
        let is_news = detector.failed(self.node, kind, Instant::now(), rand::random());
        drop(detector);
        if is_news {
            self.votes.wake();
        }
    }

    #[cold]
    fn succeeded(&self) {
        self.is_suspect.store(false, Ordering::Relaxed);
        self.votes.detector.lock().succeeded(self.node);
    }
}

impl fmt::Debug for Votes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Votes")
            .field("ejection", &self.ejection)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::FlushCounts;

    const SERVED: RequestOutcome = RequestOutcome {
        error_replies: 0,
        failure: None,
        is_served: true,
        is_late: false,
        refusal: None,
    };
    const LATE: RequestOutcome = RequestOutcome {
        is_served: false,
        is_late: true,
        ..SERVED
    };

    /// The votes about the first of two nodes, of which one failure is enough.
    fn votes() -> (Arc<Votes>, NodeVotes) {
        let ejection = Ejection::new()
            .with_failures(1)
            .with_refusals(&[Refusal::Loading]);
        let [a, b] = ["a", "b"].map(NodeId::of_name);
        let votes = Votes::new(ejection, [a, b]);
        let node = votes.of_node(a);
        (votes, node)
    }

    fn is_out(votes: &Votes) -> bool {
        let mut detector = votes.detector();
        let actions = detector.poll(Instant::now(), 7, FlushCounts::default());
        actions.install.is_some()
    }

    #[test]
    fn votes_count_timeouts_failed_connects_and_chosen_refusals() {
        let refused = |refusal| RequestOutcome {
            refusal: Some(refusal),
            ..SERVED
        };
        let outcomes = [
            (SERVED, false),
            (LATE, true),
            (refused(Refusal::Loading), true),
            (refused(Refusal::ReadOnly), false),
            (
                RequestOutcome {
                    is_served: false,
                    failure: Some(crate::ErrorKind::NodeDown),
                    ..SERVED
                },
                false,
            ),
        ];
        for (outcome, expected) in outcomes {
            let (votes, node) = votes();
            node.finished(&outcome);
            assert_eq!(is_out(&votes), expected, "{outcome:?}");
        }
        let errors = [
            (ConnectError::from("refused"), true),
            (ConnectError::Auth("no".into()), false),
            (ConnectError::Certificate("no".into()), false),
            (ConnectError::FailedBefore, false),
        ];
        for (error, expected) in errors {
            let (votes, node) = votes();
            node.connect_failed(&error);
            assert_eq!(is_out(&votes), expected, "{error:?}");
        }
    }

    #[test]
    fn votes_start_the_thread_at_the_first_failure_alone() {
        let (votes, node) = votes();
        let starts = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&starts);
        votes.on_start(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        node.finished(&SERVED);
        assert_eq!(starts.load(Ordering::Relaxed), 0);
        node.finished(&LATE);
        node.finished(&LATE);
        assert_eq!(starts.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn success_takes_the_lock_only_after_a_failure() {
        let (votes, node) = votes();
        let detector = votes.detector();
        // Would wait for ever.
        node.finished(&SERVED);
        drop(detector);
        assert!(!node.is_suspect.load(Ordering::Relaxed));
        node.finished(&LATE);
        assert!(node.is_suspect.load(Ordering::Relaxed));
        node.finished(&SERVED);
        assert!(!node.is_suspect.load(Ordering::Relaxed));
    }
}
