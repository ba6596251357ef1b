//! [`ClusterMonitor`]: knows the map of one client's cluster, and is told what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
#[cfg(feature = "tokio-comp")]
use tokio::sync::Notify;

use crate::cluster::watcher::Watcher;
use crate::endpoint::{ClusterSource, Deadline, Endpoint};
use crate::error::{Error, ErrorKind};
use crate::sentinel::AddressMap;
use crate::topology::HostPort;
use crate::topology::cluster::{ClusterMap, ClusterView};

/// Describes the connection to a server.
type DescribeServer = dyn Fn(&HostPort) -> Result<Endpoint, Error> + Send + Sync;

/// How the servers of a cluster are asked.
pub(crate) struct ClusterSettings {
    /// The servers that were given.
    pub(crate) seeds: Vec<HostPort>,
    /// Describes the connection to a server, for a thread that blocks.
    pub(crate) endpoint: Box<DescribeServer>,
    /// Maximum duration of connecting to a server.
    pub(crate) connect_timeout: Duration,
    /// Maps the addresses that the servers name.
    pub(crate) address_map: Option<AddressMap>,
}

/// Where the map of a client is kept, and given to its connections.
pub(crate) trait MapPublisher: Send + Sync {
    /// The current map.
    fn map(&self) -> Option<Arc<ClusterMap>>;

    /// Replaces the map by the one that `next` makes of it, if it makes one.
    ///
    /// # Errors
    ///
    /// If no connection can be described for a node; nothing has changed then.
    fn change_map(
        &self,
        next: &mut dyn FnMut(&ClusterMap) -> Option<ClusterMap>,
    ) -> Result<(), Error>;
}

/// Watches the map of one client's cluster. The client keeps it alive; when it is dropped, its thread ends.
pub(crate) struct ClusterMonitor {
    state: Arc<MonitorState>,
}

/// State that the monitor and its threads share.
pub(super) struct MonitorState {
    pub(super) settings: ClusterSettings,
    /// Where maps go. Set once, soon after the monitor is made. Weak, so that the thread does not keep the client.
    pub(super) publisher: OnceLock<Weak<dyn MapPublisher>>,
    signal: Mutex<Signal>,
    /// For the watcher: the signal has changed.
    changed: Condvar,
    first: Mutex<FirstMap>,
    /// For threads: the first map is known, or could not be found.
    first_changed: Condvar,
    /// For tasks: the same.
    #[cfg(feature = "tokio-comp")]
    first_notify: Notify,
}

/// What the watcher is told.
#[derive(Default)]
pub(super) struct Signal {
    /// True once the thread exists.
    is_started: bool,
    /// True once the monitor is gone.
    has_ended: bool,
    /// True if the map is to be asked for.
    pub(super) is_wanted: bool,
    /// True if the map may be wrong, and nobody has said who knows more.
    pub(super) is_suspect: bool,
    /// Slots with another owner, as redirects have named it. At most one entry for each slot there is.
    pub(super) moved: BTreeMap<u16, HostPort>,
    /// What servers have answered, with the number of the round in which they were asked.
    pub(super) answers: Vec<Answer>,
}

/// What a server has answered.
pub(super) struct Answer {
    pub(super) round: u64,
    pub(super) server: HostPort,
    pub(super) view: Result<ClusterView, Error>,
}

/// The search for the first map.
#[derive(Default)]
struct FirstMap {
    is_known: bool,
    /// Number of rounds that have found none.
    failed: u64,
    /// Why.
    reason: Option<Error>,
}

impl ClusterSettings {
    /// The address that leads to a server from here, which the servers name so.
    pub(crate) fn mapped(&self, named: &HostPort) -> HostPort {
        mapped(self.address_map.as_ref(), named)
    }
}

/// The address that leads to a server from here.
pub(crate) fn mapped(map: Option<&AddressMap>, named: &HostPort) -> HostPort {
    // A panic would end the thread, and with it the search for maps. The panic hook has printed it.
    let mapped =
        map.and_then(|map| catch_unwind(AssertUnwindSafe(|| map(&named.host, named.port))).ok());
    mapped.map_or_else(|| named.clone(), |(host, port)| HostPort { host, port })
}

impl ClusterMonitor {
    /// The monitor of a cluster. Nothing is contacted before the map is needed.
    pub(crate) fn new(settings: ClusterSettings) -> Arc<Self> {
        Arc::new(Self {
            state: Arc::new(MonitorState {
                settings,
                publisher: OnceLock::new(),
                signal: Mutex::default(),
                changed: Condvar::new(),
                first: Mutex::default(),
                first_changed: Condvar::new(),
                #[cfg(feature = "tokio-comp")]
                first_notify: Notify::new(),
            }),
        })
    }

    /// Sets where maps go.
    pub(crate) fn attach(&self, publisher: Weak<dyn MapPublisher>) {
        // The first one stays: there is one publisher for each monitor.
        let _ = self.state.publisher.set(publisher);
    }

    /// Waits for the first map until the deadline.
    ///
    /// # Errors
    ///
    /// Why there is none: the reason that was found since the call, or else the end of the time.
    pub(crate) fn wait(&self, deadline: &Deadline) -> Result<(), Error> {
        let mut first = self.state.first.lock();
        let failed_before = first.failed;
        drop(first);
        self.ask();
        loop {
            first = self.state.first.lock();
            if let Some(result) = first.progress(failed_before) {
                return result;
            }
            if deadline.is_over() {
                return Err(self.late(&first));
            }
            match deadline.end() {
                Some(end) => drop(self.state.first_changed.wait_until(&mut first, end)),
                None => self.state.first_changed.wait(&mut first),
            }
            drop(first);
        }
    }

    /// Waits for the first map until the deadline.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    #[cfg(feature = "tokio-comp")]
    pub(crate) async fn wait_async(&self, deadline: &Deadline) -> Result<(), Error> {
        let failed_before = self.state.first.lock().failed;
        self.ask();
        let known = async {
            loop {
                // Before the state is looked at: what happens in between must not be missed.
                let mut notified = std::pin::pin!(self.state.first_notify.notified());
                notified.as_mut().enable();
                if let Some(result) = self.state.first.lock().progress(failed_before) {
                    return result;
                }
                notified.await;
            }
        };
        match deadline.end() {
            None => known.await,
            Some(end) => match tokio::time::timeout_at(end.into(), known).await {
                Ok(result) => result,
                Err(_) => Err(self.late(&self.state.first.lock())),
            },
        }
    }

    /// The error of a request whose time is over.
    fn late(&self, first: &FirstMap) -> Error {
        first.reason.clone().unwrap_or_else(|| {
            let seeds = self.state.settings.seed_list();
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "none of the servers of the cluster at {seeds} has named its slots in time; nothing was sent, so it \
                     can be repeated"
                ),
            )
        })
    }

    /// The addresses of the replicas of the primary at this address. `None` if it is not known.
    pub(crate) fn replicas_of(&self, primary: &HostPort) -> Option<Vec<HostPort>> {
        let publisher = self.state.publisher.get()?.upgrade()?;
        publisher.map()?.replicas_of(primary)
    }

    /// Has the map asked for.
    fn ask(&self) {
        self.notify(|signal| signal.is_wanted = true);
    }

    /// Notifies the watcher, which is started if it does not run.
    fn notify(&self, change: impl FnOnce(&mut Signal)) {
        let must_start = {
            let mut signal = self.state.signal.lock();
            change(&mut signal);
            !std::mem::replace(&mut signal.is_started, true)
        };
        self.state.changed.notify_all();
        if must_start {
            self.start();
        }
    }

    fn start(&self) {
        let state = Arc::clone(&self.state);
        let thread = thread::Builder::new().name("redis-sharding cluster".into());
        // Detached: it ends by itself.
        if let Err(error) = thread.spawn(move || Watcher::new(state).run()) {
            self.state.signal.lock().is_started = false;
            self.state.not_found(Error::new(
                ErrorKind::NodeDown,
                format!(
                    "the system has no thread to ask a cluster for its slots: {error}; raise the limit on threads"
                ),
            ));
        }
    }
}

impl ClusterSource for ClusterMonitor {
    fn moved(&self, slot: u16, to: &HostPort) {
        if slot < crate::hash::SLOTS {
            self.notify(|signal| drop(signal.moved.insert(slot, to.clone())));
        }
    }

    fn suspect(&self) {
        self.notify(|signal| signal.is_suspect = true);
    }
}

impl FirstMap {
    /// The result of the search, once there is one after `failed_before` failed rounds.
    fn progress(&self, failed_before: u64) -> Option<Result<(), Error>> {
        if self.is_known {
            return Some(Ok(()));
        }
        let reason = self.reason.clone()?;
        (self.failed != failed_before).then_some(Err(reason))
    }
}

impl ClusterSettings {
    /// The addresses of the seeds, for messages.
    pub(super) fn seed_list(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(HostPort::to_string).collect();
        seeds.join(", ")
    }
}

impl MonitorState {
    /// Waits until there is something new, or this time is over. `None` once the monitor is gone.
    pub(super) fn wait(&self, time: Option<Duration>) -> Option<Signal> {
        let end = time.map(|time| Instant::now() + time);
        let mut signal = self.signal.lock();
        while !signal.has_ended && !signal.is_new() {
            match end {
                None => self.changed.wait(&mut signal),
                Some(end) => {
                    if self.changed.wait_until(&mut signal, end).timed_out() {
                        break;
                    }
                }
            }
        }
        (!signal.has_ended).then(|| Signal {
            is_wanted: std::mem::take(&mut signal.is_wanted),
            is_suspect: std::mem::take(&mut signal.is_suspect),
            moved: std::mem::take(&mut signal.moved),
            answers: std::mem::take(&mut signal.answers),
            ..Signal::default()
        })
    }

    /// Gives the watcher an answer.
    pub(super) fn answer(&self, answer: Answer) {
        self.signal.lock().answers.push(answer);
        self.changed.notify_all();
    }

    /// A map is known and published.
    pub(super) fn found(&self) {
        let was_known = {
            let mut first = self.first.lock();
            first.reason = None;
            std::mem::replace(&mut first.is_known, true)
        };
        if !was_known {
            self.wake();
        }
    }

    /// No map was found, for this reason.
    pub(super) fn not_found(&self, reason: Error) {
        {
            let mut first = self.first.lock();
            if first.is_known {
                return;
            }
            first.failed += 1;
            first.reason = Some(reason);
        }
        self.wake();
    }

    fn wake(&self) {
        self.first_changed.notify_all();
        #[cfg(feature = "tokio-comp")]
        self.first_notify.notify_waiters();
    }
}

impl Signal {
    fn is_new(&self) -> bool {
        self.is_wanted || self.is_suspect || !self.moved.is_empty() || !self.answers.is_empty()
    }
}

impl Drop for ClusterMonitor {
    fn drop(&mut self) {
        self.state.signal.lock().has_ended = true;
        self.state.changed.notify_all();
    }
}

impl fmt::Debug for ClusterMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterMonitor")
            .field("seeds", &self.state.settings.seeds)
            .finish_non_exhaustive()
    }
}
