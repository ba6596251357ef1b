//! [`SentinelGroup`]: the Sentinels of one or several nodes, and what their threads are told.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::endpoint::{Endpoint, PrimaryCell, PrimarySource};
use crate::observe::NodeObserver;
use crate::policy::ConnectError;
use crate::sentinel::asker::Asker;
use crate::sentinel::listener::{LISTENERS_MAX, Listener};
use crate::topology::HostPort;
use crate::topology::sentinel::SentinelList;

/// A function that maps the addresses that Sentinel names to those that can be connected to.
pub(crate) type AddressMap = Arc<dyn Fn(&str, u16) -> (String, u16) + Send + Sync>;

/// How the Sentinels of a group are reached.
#[derive(Clone)]
pub(crate) struct GroupSettings {
    /// Those that were given. Others are reached like the first, at their own address.
    pub(crate) sentinels: Vec<Endpoint>,
    /// Maximum duration of connecting to a node.
    pub(crate) connect_timeout: Duration,
    /// Maps the addresses that the Sentinels name.
    pub(crate) address_map: Option<AddressMap>,
}

/// The Sentinels that know the primaries of some nodes. The cells of these nodes keep it alive; when it is dropped, its
/// threads end.
pub(crate) struct SentinelGroup {
    inner: Arc<GroupState>,
}

/// State that the group and its threads share.
pub(super) struct GroupState {
    pub(super) settings: GroupSettings,
    /// The masters, and the cells of their nodes, in the order in which they were added. None is removed.
    masters: RwLock<Vec<(String, Weak<PrimaryCell>)>>,
    /// The Sentinels that are asked.
    pub(super) list: Mutex<SentinelList>,
    /// Those that are listened to.
    pub(super) listened: Mutex<BTreeSet<HostPort>>,
    signal: Mutex<Signal>,
    /// For the asker: the signal has changed.
    changed: Condvar,
}

/// What the threads are to do.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// True once the threads exist.
    is_started: bool,
    /// True once the group is gone.
    has_ended: bool,
    /// Masters whose primary is not known, or suspected not to be one any more.
    pub(super) suspected: BTreeSet<usize>,
    /// Masters whose primary was connected to.
    pub(super) confirmed: BTreeSet<usize>,
    /// A Sentinel has announced a new primary, or announcements may have been missed.
    pub(super) is_announced: bool,
}

impl SentinelGroup {
    /// The group of these Sentinels. Nothing is contacted.
    pub(crate) fn new(settings: GroupSettings) -> Arc<Self> {
        let given = settings
            .sentinels
            .iter()
            .filter_map(Endpoint::host_and_port);
        Arc::new(Self {
            inner: Arc::new(GroupState {
                list: Mutex::new(SentinelList::new(given)),
                listened: Mutex::default(),
                settings,
                masters: RwLock::default(),
                signal: Mutex::default(),
                changed: Condvar::new(),
            }),
        })
    }

    /// The cell of the node whose primary the Sentinels call `master`. For all nodes of a group before the first of them
    /// is used: all are asked for together.
    pub(crate) fn cell(
        self: &Arc<Self>,
        master: &str,
        observer: Arc<NodeObserver>,
    ) -> Arc<PrimaryCell> {
        let mut masters = self.inner.masters.write();
        let source: Arc<dyn PrimarySource> = Arc::<Self>::clone(self);
        // The place of a node that is gone is free, so that a client whose topology changes often stays small.
        let is_free =
            |(name, cell): &(String, Weak<PrimaryCell>)| name == master && cell.strong_count() == 0;
        let number = masters.iter().position(is_free).unwrap_or(masters.len());
        let cell = PrimaryCell::new(source, number, observer);
        let entry = (master.to_owned(), Arc::downgrade(&cell));
        match masters.get_mut(number) {
            Some(free) => *free = entry,
            None => masters.push(entry),
        }
        cell
    }
}

impl PrimarySource for SentinelGroup {
    fn ask(&self, master: usize) {
        let must_start = {
            let mut signal = self.inner.signal.lock();
            signal.suspected.insert(master);
            !std::mem::replace(&mut signal.is_started, true)
        };
        if must_start {
            self.start();
        }
        self.inner.changed.notify_all();
    }

    fn confirmed(&self, master: usize) {
        let mut signal = self.inner.signal.lock();
        signal.suspected.remove(&master);
        // Without waking the asker: there is nothing to do.
        signal.confirmed.insert(master);
    }
}

impl SentinelGroup {
    /// Starts the threads.
    fn start(&self) {
        let asker = Asker::new(Arc::clone(&self.inner));
        let started = spawn("redis-sharding sentinel", move || asker.run()).and_then(|()| {
            // Without them announcements are missed, and found out by the rounds all the same.
            (0..LISTENERS_MAX).try_for_each(|_| {
                let listener = Listener::new(Arc::clone(&self.inner));
                spawn("redis-sharding sentinel events", move || listener.run())
            })
        });
        if let Err(error) = started {
            let why = format!("the system has no thread to ask the Sentinels: {error}");
            for (_, cell) in self.inner.masters() {
                cell.unavailable(ConnectError::no_primary(cell.node_address(), &why));
            }
            self.inner.signal.lock().is_started = false;
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    // Detached: it may be connecting, and ends by itself.
    thread.spawn(run).map(drop)
}

impl Drop for SentinelGroup {
    fn drop(&mut self) {
        self.inner.signal.lock().has_ended = true;
        self.inner.changed.notify_all();
    }
}

impl GroupState {
    /// The masters whose nodes still exist, with their numbers and cells.
    pub(super) fn masters(&self) -> Vec<(usize, Arc<PrimaryCell>)> {
        let masters = self.masters.read();
        let numbered = masters.iter().enumerate();
        numbered
            .filter_map(|(number, (_, cell))| Some((number, cell.upgrade()?)))
            .collect()
    }

    /// The names of all masters.
    pub(super) fn names(&self) -> Vec<String> {
        let masters = self.masters.read();
        masters.iter().map(|(name, _)| name.clone()).collect()
    }

    /// True once the group is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.signal.lock().has_ended
    }

    /// True if a new primary was announced, and nobody has asked for it yet.
    pub(super) fn is_announced(&self) -> bool {
        self.signal.lock().is_announced
    }

    /// Reports that there may be a new primary.
    pub(super) fn announce(&self) {
        self.signal.lock().is_announced = true;
        self.changed.notify_all();
    }

    /// Waits until there is something new, or `pause` is over. `None` once the group is gone.
    pub(super) fn wait(&self, pause: Duration) -> Option<Signal> {
        let end = Instant::now() + pause;
        let mut signal = self.signal.lock();
        while !signal.has_ended
            && !signal.is_announced
            && signal.suspected.is_empty()
            && !self.changed.wait_until(&mut signal, end).timed_out()
        {}
        if signal.has_ended {
            return None;
        }
        Some(Signal {
            suspected: std::mem::take(&mut signal.suspected),
            confirmed: std::mem::take(&mut signal.confirmed),
            is_announced: std::mem::take(&mut signal.is_announced),
            ..Signal::default()
        })
    }

    /// Waits for `pause`, or until the group is gone. Returns false then.
    pub(super) fn sleep(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut signal = self.signal.lock();
        while !signal.has_ended && !self.changed.wait_until(&mut signal, end).timed_out() {}
        !signal.has_ended
    }

    /// The address at which a server is reached that a Sentinel names.
    pub(super) fn mapped(&self, named: HostPort) -> HostPort {
        let Some(map) = &self.settings.address_map else {
            return named;
        };
        // A panic would end the thread, and with it the search for primaries. The panic hook has printed it.
        let mapped = catch_unwind(AssertUnwindSafe(|| map(&named.host, named.port)));
        mapped.map_or(named, |(host, port)| HostPort { host, port })
    }
}

impl fmt::Debug for SentinelGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelGroup")
            .field("list", &self.inner.list.lock())
            .finish_non_exhaustive()
    }
}
