//! [`PrimaryCell`]: the address of a node whose primary may change.
//!
//! ```text
//!  PrimarySource (Sentinel) ── publish ──▶ PrimaryCell ──▶ version: one atomic load per request
//!          ▲                                   │
//!          │                                   └─ the connection was made to another version: it is not used again
//!          └── ask ── a connection was lost, could not be made, or leads to a replica
//! ```
//!
//! Every connection keeps the [`PrimaryVersion`] that it was made to. A change is not sent to the connections: each is
//! compared before its next request, as with a login that has changed, so nothing keeps a list of them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
#[cfg(feature = "tokio-comp")]
use tokio::sync::Notify;

use crate::endpoint::{Deadline, NodeBackoff};
use crate::observe::NodeObserver;
use crate::policy::ConnectError;
use crate::topology::HostPort;

/// Time in which connections are replaced at most once because a server has refused a write as a replica.
const DEMOTED_ONCE_IN: Duration = Duration::from_secs(1);

/// How long a former primary may still reply to what it was sent: one that is well has done so by then, one that is gone
/// never will.
pub(crate) const FORMER_PRIMARY_GRACE: Duration = Duration::from_millis(500);

/// Who knows the address of a primary.
pub(crate) trait PrimarySource: Send + Sync {
    /// Asks for the primary of this master, the first time and whenever it is suspected not to be one any more. Returns
    /// at once.
    fn ask(&self, master: usize);

    /// A connection to the primary of this master was made.
    fn confirmed(&self, master: usize);
}

/// The current address of a node's primary.
pub(crate) struct PrimaryCell {
    /// Number of changes of the address; zero until it is known. Grows under the lock of `state`.
    version: AtomicU64,
    state: Mutex<State>,
    /// For threads: the address or the reason for having none has changed.
    changed: Condvar,
    /// For tasks: the same.
    #[cfg(feature = "tokio-comp")]
    notify: Notify,
    /// Keeps the source alive.
    source: Arc<dyn PrimarySource>,
    /// Number of the master at the source.
    master: usize,
    observer: Arc<NodeObserver>,
    /// The backoffs of this node, which begin anew with another primary. One per client and thread of a proxy.
    backoffs: Mutex<Vec<Weak<NodeBackoff>>>,
}

#[derive(Default)]
struct State {
    current: Option<HostPort>,
    /// Why the address is not known.
    reason: Option<ConnectError>,
    /// Number of times that the source has given a reason.
    failed: u64,
    /// When a server has last refused a write as a replica.
    demoted_at: Option<Instant>,
}

/// The version of the address that a connection was made to.
#[derive(Clone)]
pub(crate) struct PrimaryVersion {
    cell: Arc<PrimaryCell>,
    version: u64,
}

impl PrimaryCell {
    /// The cell of a master whose address is not known yet. The source is asked when it is first needed.
    pub(crate) fn new(
        source: Arc<dyn PrimarySource>,
        master: usize,
        observer: Arc<NodeObserver>,
    ) -> Arc<Self> {
        Arc::new(Self {
            version: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            #[cfg(feature = "tokio-comp")]
            notify: Notify::new(),
            source,
            master,
            observer,
            backoffs: Mutex::default(),
        })
    }

    /// The current address, if it is known.
    pub(crate) fn address(&self) -> Option<HostPort> {
        self.state.lock().current.clone()
    }

    /// The address of the node as it was configured: the master and its Sentinels.
    pub(crate) fn node_address(&self) -> &str {
        self.observer.node().address()
    }

    /// Adds a backoff that begins anew with another primary.
    pub(super) fn add_backoff(&self, backoff: Weak<NodeBackoff>) {
        let mut backoffs = self.backoffs.lock();
        backoffs.retain(|backoff| backoff.strong_count() > 0);
        backoffs.push(backoff);
    }

    /// Records the address to which connections go from now on.
    pub(crate) fn publish(&self, address: HostPort) {
        let before = {
            let mut state = self.state.lock();
            state.reason = None;
            if state.current.as_ref() == Some(&address) {
                return;
            }
            let before = state.current.replace(address.clone());
            // Under the lock, so that a version belongs to one address.
            self.version.fetch_add(1, Ordering::Release);
            before
        };
        self.wake();
        let backoffs = self.backoffs.lock().clone();
        for backoff in backoffs.iter().filter_map(Weak::upgrade) {
            backoff.moved();
        }
        if let Some(before) = before {
            self.observer
                .primary_changed(&before.to_string(), &address.to_string());
        }
    }

    /// Records why the address is not known. Has no effect once it is.
    pub(crate) fn unavailable(&self, reason: ConnectError) {
        {
            let mut state = self.state.lock();
            if state.current.is_some() {
                return;
            }
            state.reason = Some(reason);
            state.failed += 1;
        }
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_all();
        #[cfg(feature = "tokio-comp")]
        self.notify.notify_waiters();
    }

    /// The primary may not be one any more: its source is asked.
    pub(crate) fn suspect(&self) {
        self.source.ask(self.master);
    }

    /// The address and its version. Waits for the source until the deadline if it is not known yet.
    ///
    /// # Errors
    ///
    /// Why it is not known: the reason that the source has given since the call, or else the end of the time.
    pub(super) fn wait(
        self: &Arc<Self>,
        deadline: &Deadline,
    ) -> Result<(HostPort, PrimaryVersion), ConnectError> {
        let failed_before = match self.progress(None) {
            Ok(found) => return Ok(found),
            Err((failed, _)) => failed,
        };
        self.source.ask(self.master);
        loop {
            let mut state = self.state.lock();
            let is_over = deadline.is_over();
            match self.progress_of(&state, Some(failed_before)) {
                Ok(found) => return Ok(found),
                Err((_, Some(reason))) => return Err(reason),
                Err(_) if is_over => return Err(self.late(&state)),
                Err(_) => {}
            }
            match deadline.end() {
                Some(end) => drop(self.changed.wait_until(&mut state, end)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// The address and its version. Waits for the source if it is not known yet.
    ///
    /// # Errors
    ///
    /// The reason that the source has given since the call.
    #[cfg(feature = "tokio-comp")]
    pub(super) async fn wait_async(
        self: &Arc<Self>,
    ) -> Result<(HostPort, PrimaryVersion), ConnectError> {
        let failed_before = match self.progress(None) {
            Ok(found) => return Ok(found),
            Err((failed, _)) => failed,
        };
        self.source.ask(self.master);
        loop {
            // Before the state is looked at: what happens in between must not be missed.
            let mut notified = std::pin::pin!(self.notify.notified());
            notified.as_mut().enable();
            match self.progress(Some(failed_before)) {
                Ok(found) => return Ok(found),
                Err((_, Some(reason))) => return Err(reason),
                Err(_) => notified.await,
            }
        }
    }

    /// Why there is no address, for an attempt whose time is over.
    #[cfg(feature = "tokio-comp")]
    pub(super) fn late_reason(&self) -> Option<ConnectError> {
        let state = self.state.lock();
        state.current.is_none().then(|| self.late(&state))
    }

    fn late(&self, state: &State) -> ConnectError {
        state.reason.clone().unwrap_or_else(|| {
            ConnectError::no_primary(self.node_address(), "no Sentinel has replied in time")
        })
    }

    fn progress(self: &Arc<Self>, failed_before: Option<u64>) -> Result<Found, Missing> {
        self.progress_of(&self.state.lock(), failed_before)
    }

    /// The address, or the number of reasons given so far and the last if it came after `failed_before`.
    fn progress_of(
        self: &Arc<Self>,
        state: &State,
        failed_before: Option<u64>,
    ) -> Result<Found, Missing> {
        match &state.current {
            Some(address) => Ok((
                address.clone(),
                PrimaryVersion {
                    cell: Arc::clone(self),
                    version: self.version.load(Ordering::Acquire),
                },
            )),
            None => {
                let is_new = failed_before.is_some_and(|before| before != state.failed);
                let reason = state.reason.clone().filter(|_| is_new);
                Err((state.failed, reason))
            }
        }
    }
}

/// An address and its version.
type Found = (HostPort, PrimaryVersion);

/// The number of reasons for having no address, and the last one.
type Missing = (u64, Option<ConnectError>);

impl PrimaryVersion {
    /// True if the address has not changed since the connection was made.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.cell.version.load(Ordering::Acquire) == self.version
    }

    /// Completes once the address has changed.
    #[cfg(feature = "tokio-comp")]
    pub(crate) async fn moved(&self) {
        loop {
            // Before the version is looked at: a change in between must not be missed.
            let mut notified = std::pin::pin!(self.cell.notify.notified());
            notified.as_mut().enable();
            if !self.is_current() {
                return;
            }
            notified.await;
        }
    }

    /// The connection was made, and the server says that it is a primary.
    pub(crate) fn confirmed(&self) {
        if self.is_current() {
            self.cell.source.confirmed(self.cell.master);
        }
    }

    /// The server has refused a write as a replica: no connection of this version is used again, and the source is
    /// asked.
    pub(crate) fn demoted(&self) {
        let now = Instant::now();
        let is_news = {
            let mut state = self.cell.state.lock();
            let is_recent = |at: Instant| now.saturating_duration_since(at) < DEMOTED_ONCE_IN;
            // A script may return this error on a primary as often as it likes.
            let is_news = self.is_current() && !state.demoted_at.is_some_and(is_recent);
            if is_news {
                state.demoted_at = Some(now);
                self.cell.version.fetch_add(1, Ordering::Release);
            }
            is_news
        };
        if is_news {
            self.cell.wake();
        }
        self.cell.suspect();
    }
}

impl fmt::Debug for PrimaryCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrimaryCell")
            .field("current", &self.address())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PrimaryVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrimaryVersion")
            .field(&self.version)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::observe::Listeners;
    use crate::partition::NodeSpec;
    use crate::policy::HandshakeScope;

    /// Counts how often it is asked and told.
    #[derive(Default)]
    struct Source {
        asked: AtomicUsize,
        confirmed: AtomicUsize,
    }

    impl PrimarySource for Source {
        fn ask(&self, _: usize) {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }

        fn confirmed(&self, _: usize) {
            self.confirmed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn at(port: u16) -> HostPort {
        HostPort {
            host: "10.0.0.1".into(),
            port,
        }
    }

    type Moves = Arc<Mutex<Vec<String>>>;

    fn cell() -> (Arc<PrimaryCell>, Arc<Source>, Moves) {
        let moves = Moves::default();
        let mut listeners = Listeners::default();
        let seen = Arc::clone(&moves);
        listeners.add(move |event| seen.lock().push(event.to_string()));
        let observer = NodeObserver::new(NodeSpec::new("a", "m@s1:1"), listeners, None);
        let source = Arc::new(Source::default());
        let shared: Arc<dyn PrimarySource> = Arc::<Source>::clone(&source);
        (PrimaryCell::new(shared, 0, observer), source, moves)
    }

    fn soon() -> Deadline {
        Deadline::start(Some(Duration::from_millis(50)))
    }

    #[test]
    fn primary_cell_gives_connections_the_version_of_their_address() {
        let (cell, source, moves) = cell();
        cell.publish(at(1));
        let (address, first) = cell.wait(&soon()).unwrap();
        assert_eq!((address, first.is_current()), (at(1), true));
        // The same address again is no change.
        cell.publish(at(1));
        assert!(first.is_current());
        cell.publish(at(2));
        let (address, second) = cell.wait(&soon()).unwrap();
        assert_eq!((address, second.is_current()), (at(2), true));
        // An address that has come back is another version: its connections may have been made to another server.
        cell.publish(at(1));
        assert!(!first.is_current() && !second.is_current());
        // One event for each change, none for the first address.
        let expected = [
            "primary changed: node a from 10.0.0.1:1 to 10.0.0.1:2",
            "primary changed: node a from 10.0.0.1:2 to 10.0.0.1:1",
        ];
        assert_eq!(*moves.lock(), expected);
        // A connection of an older version confirms nothing.
        second.confirmed();
        assert_eq!(source.confirmed.load(Ordering::Relaxed), 0);
        assert_eq!(source.asked.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn attempt_to_connect_waits_for_the_first_address_and_fails_with_a_reason_given_since() {
        let (cell, source, _) = cell();
        let error = cell.wait(&soon()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no Sentinel has replied in time"),
            "{error}"
        );
        assert_eq!(source.asked.load(Ordering::Relaxed), 1);
        let within = |act: fn(&PrimaryCell)| {
            let other = Arc::clone(&cell);
            let waiting = std::thread::spawn(move || {
                other.wait(&Deadline::start(Some(Duration::from_secs(20))))
            });
            while source.asked.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            act(&cell);
            let waited = waiting.join().unwrap();
            source.asked.store(1, Ordering::Relaxed);
            waited.map(|(address, _)| address)
        };
        let reason = |why: &str| ConnectError::no_primary("m@s1:1", why);
        let refused =
            within(|cell| cell.unavailable(ConnectError::no_primary("m@s1:1", "refused")));
        assert_eq!(refused, Err(reason("refused")));
        // An old reason is not the answer to a new question.
        let found = within(|cell| cell.publish(at(1)));
        assert_eq!(found, Ok(at(1)));
        // Once known, it stays known, whatever Sentinel fails to reply.
        cell.unavailable(reason("refused"));
        assert_eq!(cell.wait(&soon()).map(|(address, _)| address), Ok(at(1)));
    }

    #[cfg(feature = "tokio-comp")]
    #[tokio::test]
    async fn task_that_waits_for_an_address_or_a_change_is_woken() {
        let (cell, _, _) = cell();
        let other = Arc::clone(&cell);
        let waiting =
            tokio::spawn(async move { other.wait_async().await.map(|(_, version)| version) });
        tokio::task::yield_now().await;
        cell.publish(at(1));
        let version = waiting.await.unwrap().unwrap();
        let watched = version.clone();
        let moved = tokio::spawn(async move { watched.moved().await });
        tokio::task::yield_now().await;
        assert!(!moved.is_finished());
        cell.publish(at(2));
        moved.await.unwrap();
        version.moved().await;
    }

    #[test]
    fn readonly_voids_the_connections_of_its_version_at_most_once_a_second() {
        let (cell, source, moves) = cell();
        cell.publish(at(1));
        let (_, first) = cell.wait(&soon()).unwrap();
        first.demoted();
        assert!(!first.is_current());
        assert_eq!(source.asked.load(Ordering::Relaxed), 1);
        // A script that returns the error is no reason to reconnect for each of its calls.
        let (_, second) = cell.wait(&soon()).unwrap();
        for _ in 0..100 {
            second.demoted();
            first.demoted();
        }
        assert!(second.is_current());
        assert_eq!(source.asked.load(Ordering::Relaxed), 201);
        assert!(moves.lock().is_empty());
    }

    #[test]
    fn backoffs_of_a_node_begin_anew_when_its_primary_changes() {
        let (cell, _, _) = cell();
        let backoff = Arc::new(NodeBackoff::new(Arc::clone(&cell.observer)));
        cell.add_backoff(Arc::downgrade(&backoff));
        cell.publish(at(1));
        let limit = Duration::from_secs(1);
        backoff
            .try_begin(limit, HandshakeScope::Full)
            .unwrap()
            .failed("refused".into());
        assert!(backoff.try_begin(limit, HandshakeScope::Full).is_err());
        cell.publish(at(2));
        backoff
            .try_begin(limit, HandshakeScope::Full)
            .unwrap()
            .connected();
    }
}
