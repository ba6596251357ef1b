//! [`ReplicationMonitor`]: watches the nodes of one client that may have replicas.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::endpoint::{
    Endpoint, NodeReplicas, PrimaryCell, PrimarySource, ReplicaServer, ReplicationWatch,
};
use crate::replication::rounds::Rounds;
use crate::sentinel::AddressMap;
use crate::topology::HostPort;
use crate::topology::replication::LagLimits;

/// Knows the replicas of the primary at an address, at addresses that need no mapping. `None` if it is not known.
pub(crate) type ListedReplicas = Arc<dyn Fn(&HostPort) -> Option<Vec<HostPort>> + Send + Sync>;

/// The choices of the user.
#[derive(Clone)]
pub(crate) struct MonitorSettings {
    /// How far replicas may be behind.
    pub(crate) limits: LagLimits,
    /// True if replicas are found by asking the primary.
    pub(crate) discovers: bool,
    /// True if the successor of a primary is found here, unless Sentinel names it. Those of a cluster are found by its map.
    pub(crate) elects: bool,
    /// Maximum duration of connecting to a server.
    pub(crate) connect_timeout: Duration,
    /// Maps the addresses that primaries list.
    pub(crate) address_map: Option<AddressMap>,
    /// The replicas of the primary at an address, in place of those that it lists itself, if somebody knows them better.
    pub(crate) listed: Option<ListedReplicas>,
}

/// Watches the nodes of one client. Its nodes keep it alive; when it is dropped, its thread ends.
pub(crate) struct ReplicationMonitor {
    state: Arc<MonitorState>,
}

/// State that the monitor and its thread share.
pub(super) struct MonitorState {
    pub(super) settings: MonitorSettings,
    /// True once the thread exists. Read by every request that may use a replica.
    is_started: AtomicBool,
    signal: Mutex<Signal>,
    /// The signal has changed.
    changed: Condvar,
}

/// What the thread is to do.
#[derive(Default)]
struct Signal {
    /// True once the monitor is gone.
    has_ended: bool,
    /// True if the next round is to begin at once.
    is_urgent: bool,
    /// Nodes that the thread does not know yet.
    new: Vec<WatchedNode>,
}

/// A node to be watched.
pub(super) struct WatchedNode {
    pub(super) replicas: Weak<NodeReplicas>,
    /// How its primary is reached. Without what keeps this monitor alive.
    pub(super) primary: Endpoint,
    /// The address of its primary, if it may change.
    pub(super) cell: Weak<PrimaryCell>,
    /// True if the address is found here.
    pub(super) elects: bool,
    /// True if the address does not change.
    pub(super) is_fixed: bool,
    /// The replicas that were given.
    pub(super) given: Vec<Arc<ReplicaServer>>,
}

impl ReplicationMonitor {
    /// A monitor without nodes. Nothing is contacted before a replica is needed.
    pub(crate) fn new(settings: MonitorSettings) -> Arc<Self> {
        Arc::new(Self {
            state: Arc::new(MonitorState {
                settings,
                is_started: AtomicBool::new(false),
                signal: Mutex::default(),
                changed: Condvar::new(),
            }),
        })
    }

    /// Adds a node with the replicas that were given for it, which have the ids 1, 2, ... Gives the endpoint of its
    /// primary what it needs to read from replicas, and to find another primary.
    pub(crate) fn add_node(
        self: &Arc<Self>,
        endpoint: &mut Endpoint,
        given: Vec<Arc<ReplicaServer>>,
    ) {
        let watch: Arc<dyn ReplicationWatch> = Arc::<Self>::clone(self);
        let replicas = Arc::new(NodeReplicas::new(given.clone(), watch));
        let is_fixed = endpoint.primary.is_none() && !self.state.settings.elects;
        let elects = endpoint.primary.is_none() && !is_fixed;
        if elects && let Some(address) = endpoint.host_and_port() {
            let source: Arc<dyn PrimarySource> = Arc::<Self>::clone(self);
            let cell = PrimaryCell::new(source, 0, Arc::clone(&endpoint.observer));
            cell.publish(address);
            endpoint.primary = Some(cell);
        }
        endpoint.replicas = Some(Arc::clone(&replicas));
        let cell = endpoint.primary.as_ref();
        self.state.signal.lock().new.push(WatchedNode {
            replicas: Arc::downgrade(&replicas),
            primary: Endpoint {
                replicas: None,
                record: None,
                primary: None,
                sentinel: None,
                pushes: None,
                ..endpoint.clone()
            },
            cell: cell.map(Arc::downgrade).unwrap_or_default(),
            elects,
            is_fixed,
            given,
        });
        self.state.changed.notify_all();
    }
}

impl ReplicationWatch for ReplicationMonitor {
    fn start(&self) {
        let started = &self.state.is_started;
        if started.load(Ordering::Relaxed) || started.swap(true, Ordering::Relaxed) {
            return;
        }
        let state = Arc::clone(&self.state);
        let thread = thread::Builder::new().name("redis-sharding replicas".into());
        if thread.spawn(move || Rounds::new(state).run()).is_err() {
            // No replica is read from without it. The next request tries again.
            started.store(false, Ordering::Relaxed);
        }
    }
}

/// The nodes whose primary is found by asking their servers. All are asked in one round, so it does not matter which.
impl PrimarySource for ReplicationMonitor {
    fn ask(&self, _: usize) {
        self.state.hurry();
        self.start();
    }

    fn confirmed(&self, _: usize) {
        // From the first connection on: to find the successor of a primary, its data must have been known before.
        self.start();
    }
}

impl MonitorState {
    /// Waits for this time, or until a round is urgent. `None` once the monitor is gone; otherwise the nodes that were
    /// added.
    pub(super) fn wait(&self, time: Duration) -> Option<Vec<WatchedNode>> {
        let end = Instant::now() + time;
        let mut signal = self.signal.lock();
        while !signal.has_ended && !signal.is_urgent && signal.new.is_empty() {
            if self.changed.wait_until(&mut signal, end).timed_out() {
                break;
            }
        }
        signal.is_urgent = false;
        (!signal.has_ended).then(|| std::mem::take(&mut signal.new))
    }

    /// Begins the next round at once.
    pub(super) fn hurry(&self) {
        self.signal.lock().is_urgent = true;
        self.changed.notify_all();
    }

    /// True once the monitor is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.signal.lock().has_ended
    }
}

impl Drop for ReplicationMonitor {
    fn drop(&mut self) {
        self.state.signal.lock().has_ended = true;
        self.state.changed.notify_all();
    }
}

impl fmt::Debug for ReplicationMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicationMonitor")
            .field("limits", &self.state.settings.limits)
            .finish_non_exhaustive()
    }
}
