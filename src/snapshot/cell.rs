//! [`SnapshotHandle`]: the snapshot that a handle's next request goes by.

use std::fmt;
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use crate::command::BlockingTime;
use crate::config::ClientConfig;
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::policy::RequestOptions;
use crate::snapshot::Publisher;
use crate::snapshot::publisher::TopologyObserver;

/// The router of one topology, and the connections to its nodes.
pub(crate) trait Snapshot: Clone + Send + Sync + 'static {
    /// The snapshot that follows this one. Connections to nodes that are reached as before are carried over.
    fn next(&self, config: &ClientConfig) -> Self;

    /// The same snapshot for handles with these options.
    fn variant(&self, variant: &Variant) -> Self;

    /// Has the connections that nobody uses present the records that the client goes by now, within this time. Returns
    /// sooner if there is nothing to present.
    fn acknowledge_idle(&self, deadline: &Deadline);

    /// True if the nodes are the seeds of a cluster whose map is not known yet.
    fn is_provisional(&self) -> bool;
}

/// Someone who waits for something else, and must look at the snapshot when there is a new one.
pub(crate) trait SnapshotListener: Send + Sync {
    /// There is a new snapshot. Must return at once, and not replace the topology.
    fn snapshot_changed(&self);
}

/// How the snapshots of one handle differ from those of other handles of the client.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    /// The timeouts and the retry policy.
    pub(crate) options: RequestOptions,
    /// True while the handle watches keys: see [`Router::while_watching`](crate::plan::Router::while_watching).
    pub(crate) is_watching: bool,
}

/// The current snapshot, for one handle and its clones.
pub(crate) struct SnapshotHandle<S> {
    cell: Arc<SnapshotCell<S>>,
}

struct SnapshotCell<S> {
    /// Read by every request; written under the lock of the family.
    current: ArcSwap<S>,
    variant: Variant,
    family: Arc<SnapshotFamily<S>>,
}

/// All cells over one set of connections.
struct SnapshotFamily<S> {
    members: Mutex<Members<S>>,
    publisher: Arc<Publisher>,
}

struct Members<S> {
    /// The current snapshot, with the options of the client.
    current: S,
    /// The cells of all handles that may still exist.
    cells: Vec<Weak<SnapshotCell<S>>>,
    /// Woken when there is a new snapshot.
    listeners: Vec<Weak<dyn SnapshotListener>>,
    /// Number of cells at which those of dropped handles are removed.
    cleanup_at: usize,
}

/// Number of cells that are kept before those of dropped handles are looked for.
const CLEANUP_MIN: usize = 16;

impl<S: Snapshot> SnapshotHandle<S> {
    /// The handle of a new set of connections, which `first` makes for the publisher's current topology, and which
    /// receives the topologies that follow.
    pub(crate) fn open(publisher: &Arc<Publisher>, first: impl FnOnce(&ClientConfig) -> S) -> Self {
        publisher.observe(|config| {
            let current = first(config);
            let variant = Variant {
                options: config.settings.request_options(),
                is_watching: false,
            };
            let family = Arc::new(SnapshotFamily {
                members: Mutex::new(Members {
                    current,
                    cells: Vec::new(),
                    listeners: Vec::new(),
                    cleanup_at: CLEANUP_MIN,
                }),
                publisher: Arc::clone(publisher),
            });
            let weak = Arc::downgrade(&family);
            (family.cell(variant), weak)
        })
    }

    /// The snapshot for one request, without a change of a reference count in the common case.
    #[inline]
    pub(crate) fn load(&self) -> Guard<Arc<S>> {
        self.cell.current.load()
    }

    /// The snapshot for one request that may be awaited, or moves to another thread.
    #[inline]
    pub(crate) fn load_full(&self) -> Arc<S> {
        self.cell.current.load_full()
    }

    /// The snapshot for one request. The first ones over a cluster wait for its map, within their time.
    ///
    /// # Errors
    ///
    /// Why the map is not known.
    #[inline]
    pub(crate) fn ready(&self) -> Result<Guard<Arc<S>>, Error> {
        let current = self.load();
        match current.is_provisional() {
            false => Ok(current),
            true => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> Result<Guard<Arc<S>>, Error> {
        let deadline = self.deadline();
        if let Some(monitor) = self.publisher().config().cluster_monitor() {
            monitor.wait(&deadline)?;
        }
        Ok(Guard::from_inner(self.within(&deadline)))
    }

    /// The snapshot for one request that may be awaited. The first ones over a cluster wait for its map, within their
    /// time.
    ///
    /// # Errors
    ///
    /// Why the map is not known.
    #[cfg(feature = "tokio-comp")]
    #[inline]
    pub(crate) async fn ready_async(&self) -> Result<Arc<S>, Error> {
        let current = self.load_full();
        match current.is_provisional() {
            false => Ok(current),
            // Boxed, so that the future of every request is not as large as that of the first.
            true => Box::pin(self.wait_async()).await,
        }
    }

    #[cfg(feature = "tokio-comp")]
    async fn wait_async(&self) -> Result<Arc<S>, Error> {
        let deadline = self.deadline();
        // Not borrowed: the description must not be kept while it is waited.
        let monitor = self.publisher().config().cluster_monitor().map(Arc::clone);
        if let Some(monitor) = monitor {
            monitor.wait_async(&deadline).await?;
        }
        Ok(self.within(&deadline))
    }

    /// The deadline of a request that begins now.
    fn deadline(&self) -> Deadline {
        Deadline::of_request(&self.cell.variant.options, BlockingTime::None)
    }

    /// The current snapshot for a request that has waited, and has what is left of its time.
    fn within(&self, deadline: &Deadline) -> Arc<S> {
        let mut variant = self.cell.variant.clone();
        if let Some(left) = deadline.remaining() {
            variant.options.response_timeout = Some(left);
        }
        Arc::new(self.load().variant(&variant))
    }

    /// A handle over the same connections with other options.
    pub(crate) fn with_variant(&self, change: impl FnOnce(&mut Variant)) -> Self {
        let mut variant = self.cell.variant.clone();
        change(&mut variant);
        self.cell.family.cell(variant)
    }

    /// A handle over the same connections whose requests have other options.
    pub(crate) fn with_options(&self, change: impl FnOnce(&mut RequestOptions)) -> Self {
        self.with_variant(|variant| change(&mut variant.options))
    }

    /// Has `listener` called for each new snapshot, for as long as it exists.
    pub(crate) fn listen(&self, listener: Weak<dyn SnapshotListener>) {
        let mut members = self.cell.family.members.lock();
        members
            .listeners
            .retain(|listener| listener.strong_count() > 0);
        members.listeners.push(listener);
    }

    /// Where new topologies come from.
    pub(crate) fn publisher(&self) -> &Arc<Publisher> {
        &self.cell.family.publisher
    }
}

impl<S: Snapshot> SnapshotFamily<S> {
    /// A cell that is kept up to date.
    fn cell(self: &Arc<Self>, variant: Variant) -> SnapshotHandle<S> {
        let mut members = self.members.lock();
        let cell = Arc::new(SnapshotCell {
            // Under the lock, or the next topology might be missed.
            current: ArcSwap::from_pointee(members.current.variant(&variant)),
            variant,
            family: Arc::clone(self),
        });
        members.add(Arc::downgrade(&cell));
        SnapshotHandle { cell }
    }
}

impl<S: Snapshot> TopologyObserver for SnapshotFamily<S> {
    fn topology_changed(&self, config: &ClientConfig) {
        let mut members = self.members.lock();
        let next = members.current.next(config);
        // Dropped after the lock is released: this may close connections.
        let mut former = Vec::with_capacity(members.cells.len() + 1);
        for cell in members.cells.iter().filter_map(Weak::upgrade) {
            let variant = next.variant(&cell.variant);
            former.push(cell.current.swap(Arc::new(variant)));
        }
        former.push(Arc::new(std::mem::replace(&mut members.current, next)));
        let listeners = members.listeners.clone();
        drop(members);
        drop(former);
        for listener in listeners.iter().filter_map(Weak::upgrade) {
            listener.snapshot_changed();
        }
    }

    fn records_changed(&self, deadline: &Deadline) {
        // Not under the lock: this may wait for servers.
        let current = self.members.lock().current.clone();
        current.acknowledge_idle(deadline);
    }
}

impl<S> Members<S> {
    fn add(&mut self, cell: Weak<SnapshotCell<S>>) {
        // Handles with a timeout of their own may be made for every request.
        if self.cells.len() >= self.cleanup_at {
            self.cells.retain(|cell| cell.strong_count() > 0);
            self.cleanup_at = CLEANUP_MIN.max(2 * self.cells.len());
        }
        self.cells.push(cell);
    }
}

impl<S> Clone for SnapshotHandle<S> {
    fn clone(&self) -> Self {
        Self {
            cell: Arc::clone(&self.cell),
        }
    }
}

impl<S> fmt::Debug for SnapshotHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotHandle")
            .field("variant", &self.cell.variant)
            .finish_non_exhaustive()
    }
}
