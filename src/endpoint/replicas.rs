//! [`NodeReplicas`]: the replicas of one node, as they are known now; [`ReplicaConnections`]: connections to them.
//!
//! ```text
//!  ReplicationMonitor ── publish, set_usable, measured ──▶ NodeReplicas ◀── choose ── executors
//!   one per client                                         one per node      │
//!                                                                            ▼
//!                                       ReplicaConnections, one per node and set of connections
//! ```
//!
//! Which replicas may be read from is decided by [`ReplicaSet`](crate::topology::replication::ReplicaSet) in the background; a request
//! reads the result without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::endpoint::Endpoint;
use crate::observe::ReplicaHealth;
use crate::policy::{Candidate, HedgeBudget, ReplicaId, Target, Unusable};

/// Time for which a decision about replicas holds if no other follows. Several rounds, also with servers that do not
/// reply.
const CHECKED_FOR: Duration = Duration::from_secs(10);

/// Number of round trips that connecting may take in a hedged read: TCP, TLS and the handshake take up to five.
const CONNECT_ROUND_TRIPS: u32 = 8;

/// Time that connecting may take in a hedged read at least.
const CONNECT_WITHIN: Duration = Duration::from_millis(50);

/// Who asks the servers of nodes about their replication.
pub(crate) trait ReplicationWatch: Send + Sync {
    /// Begins to ask them, if that was not done yet. Returns at once.
    fn start(&self);
}

/// The replicas of one node. Shared by all connections of a client to it.
pub(crate) struct NodeReplicas {
    list: ArcSwap<ReplicaList>,
    primary_latency: Latency,
    /// The requests that may be sent twice.
    hedges: AtomicU32,
    /// When the replicas were checked last, in nanoseconds since `created`.
    checked: AtomicU64,
    created: Instant,
    /// Keeps the watch alive.
    watch: Arc<dyn ReplicationWatch>,
}

/// The replicas at one time.
struct ReplicaList {
    /// Counts the lists of one node.
    version: u64,
    servers: Vec<Arc<ReplicaServer>>,
}

/// A replica, how it is reached, and what is known of it.
pub(crate) struct ReplicaServer {
    pub(crate) id: ReplicaId,
    pub(crate) endpoint: Arc<Endpoint>,
    /// Zero if it may be read from; otherwise the number of the reason in [`REASONS`], plus one.
    usable: AtomicU8,
    latency: Latency,
}

/// Every reason for not reading from a replica, as numbered in [`ReplicaServer`].
const REASONS: [Unusable; 8] = [
    Unusable::Unchecked,
    Unusable::Unreachable,
    Unusable::NotReplica,
    Unusable::OtherPrimary,
    Unusable::LinkBroken,
    Unusable::Syncing,
    Unusable::BehindInBytes,
    Unusable::BehindInTime,
];

/// The time that a server takes to reply, averaged. Written by one thread.
#[derive(Debug, Default)]
struct Latency {
    /// In nanoseconds; zero if it was never measured.
    nanos: AtomicU64,
}

/// Connections to one server, of whichever kind.
pub(crate) trait ServerConnections {
    /// True if the server could not be reached and no further attempt is due.
    fn is_down(&self) -> bool;
}

/// The connections to the replicas of one node. Made when they are first needed.
pub(crate) struct ReplicaConnections<C> {
    replicas: Arc<NodeReplicas>,
    opened: ArcSwap<Opened<C>>,
    /// Held while `opened` is brought up to date.
    update: Mutex<()>,
    /// Prepares the connections to one server; nothing is contacted.
    make: Box<MakeConnections<C>>,
}

/// Prepares the connections to one server.
type MakeConnections<C> = dyn Fn(&Arc<Endpoint>) -> C + Send + Sync;

/// The connections for one list of replicas.
struct Opened<C> {
    /// That of the list.
    version: u64,
    servers: Vec<(Arc<ReplicaServer>, Arc<C>)>,
}

impl NodeReplicas {
    /// The replicas of a node, of which none has been asked yet.
    pub(crate) fn new(servers: Vec<Arc<ReplicaServer>>, watch: Arc<dyn ReplicationWatch>) -> Self {
        Self {
            list: ArcSwap::from_pointee(ReplicaList {
                version: 0,
                servers,
            }),
            primary_latency: Latency::default(),
            hedges: AtomicU32::new(HedgeBudget::FULL.0),
            checked: AtomicU64::new(0),
            created: Instant::now(),
            watch,
        }
    }

    /// What is known of the replicas.
    pub(crate) fn health(&self) -> Vec<ReplicaHealth> {
        let health = |server: &Arc<ReplicaServer>| ReplicaHealth {
            address: server.endpoint.address.clone(),
            unusable: server.usable().err().map(|reason| reason.to_string()),
            latency: server.latency.get(),
        };
        self.list.load().servers.iter().map(health).collect()
    }

    /// Replaces the replicas. Only called by the one thread that watches the node.
    pub(crate) fn publish(&self, servers: Vec<Arc<ReplicaServer>>) {
        let version = self.list.load().version + 1;
        self.list.store(Arc::new(ReplicaList { version, servers }));
    }

    /// Records that it was decided which replicas may be read from.
    pub(crate) fn checked(&self) {
        self.checked.store(self.age(), Ordering::Relaxed);
    }

    /// True if it was decided not long ago which replicas may be read from. False if the thread that does is held up.
    fn is_checked(&self) -> bool {
        let checked = self.checked.load(Ordering::Relaxed);
        Duration::from_nanos(self.age().saturating_sub(checked)) < CHECKED_FOR
    }

    /// Time since `created` in nanoseconds: enough for centuries.
    fn age(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Maximum duration of connecting to a server of which a hedged read has a reply if it comes after `after`: long
    /// enough for a server that is far away, but not for one that hangs. `None` if the server has not been asked yet.
    pub(crate) fn connect_within(&self, target: Target, after: Duration) -> Option<Duration> {
        let list = self.list.load();
        let latency = match target {
            Target::Primary => &self.primary_latency,
            Target::Replica(id) => &list.servers.iter().find(|server| server.id == id)?.latency,
        };
        let distance = latency.get()? * CONNECT_ROUND_TRIPS;
        Some(distance.max(after).max(CONNECT_WITHIN))
    }

    /// Records how long the primary took to reply.
    pub(crate) fn measured_primary(&self, time: Duration) {
        self.primary_latency.add(time);
    }

    /// Counts a read that may be sent twice.
    pub(crate) fn count_read(&self) {
        self.change_hedges(|budget| Some(budget.read()));
    }

    /// Takes the right to send a read a second time. False if too large a share of them was sent twice of late.
    pub(crate) fn may_hedge(&self) -> bool {
        self.change_hedges(HedgeBudget::hedge)
    }

    fn change_hedges(&self, change: impl Fn(HedgeBudget) -> Option<HedgeBudget>) -> bool {
        let next = |tokens| change(HedgeBudget(tokens)).map(|budget| budget.0);
        let order = Ordering::Relaxed;
        self.hedges.fetch_update(order, order, next).is_ok()
    }
}

impl ReplicaServer {
    /// A replica that has not been asked yet.
    pub(crate) fn new(id: ReplicaId, endpoint: Arc<Endpoint>) -> Arc<Self> {
        let server = Self {
            id,
            endpoint,
            usable: AtomicU8::new(0),
            latency: Latency::default(),
        };
        server.set_usable(Err(Unusable::Unchecked));
        Arc::new(server)
    }

    /// Records whether it may be read from.
    pub(crate) fn set_usable(&self, usable: Result<(), Unusable>) {
        let number = match usable {
            Ok(()) => 0,
            Err(reason) => {
                let number = REASONS.iter().position(|&other| other == reason);
                number.map_or(1, |number| number as u8 + 1)
            }
        };
        self.usable.store(number, Ordering::Relaxed);
    }

    /// Whether it may be read from.
    pub(crate) fn usable(&self) -> Result<(), Unusable> {
        match self.usable.load(Ordering::Relaxed).checked_sub(1) {
            None => Ok(()),
            Some(number) => Err(REASONS
                .get(usize::from(number))
                .copied()
                .unwrap_or(Unusable::Unchecked)),
        }
    }

    /// Records how long it took to reply.
    pub(crate) fn measured(&self, time: Duration) {
        self.latency.add(time);
    }
}

impl Latency {
    /// The weight of the newest measurement is one in this many.
    const WEIGHT: u64 = 4;

    fn add(&self, time: Duration) {
        let new = u64::try_from(time.as_nanos())
            .unwrap_or(u64::MAX / Self::WEIGHT)
            .max(1);
        let mean = match self.nanos.load(Ordering::Relaxed) {
            0 => new,
            old => old - old / Self::WEIGHT + new / Self::WEIGHT,
        };
        self.nanos.store(mean.max(1), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        match self.nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

impl<C: ServerConnections> ReplicaConnections<C> {
    /// Prepares the connections to the replicas, each made by `make`.
    pub(crate) fn new(
        replicas: &Arc<NodeReplicas>,
        make: impl Fn(&Arc<Endpoint>) -> C + Send + Sync + 'static,
    ) -> Self {
        Self {
            replicas: Arc::clone(replicas),
            opened: ArcSwap::from_pointee(Opened {
                version: u64::MAX,
                servers: Vec::new(),
            }),
            update: Mutex::new(()),
            make: Box::new(make),
        }
    }

    /// The replicas.
    pub(crate) fn replicas(&self) -> &Arc<NodeReplicas> {
        &self.replicas
    }

    /// Calls `choose` with the primary, which has these connections and this address, and all replicas.
    pub(crate) fn choose<T>(
        &self,
        (primary, address): (&C, &str),
        choose: impl FnOnce(&[Candidate<'_>]) -> T,
    ) -> T {
        self.replicas.watch.start();
        let opened = self.opened();
        let is_checked = self.replicas.is_checked();
        let usable = |server: &ReplicaServer| match server.usable() {
            Ok(()) if !is_checked => Err(Unusable::Unchecked),
            usable => usable,
        };
        let mut candidates: SmallVec<[Candidate<'_>; 4]> = SmallVec::new();
        candidates.push(Candidate {
            target: Target::Primary,
            address,
            usable: Ok(()),
            latency: self.replicas.primary_latency.get(),
            is_down: primary.is_down(),
        });
        candidates.extend(
            opened
                .servers
                .iter()
                .map(|(server, connections)| Candidate {
                    target: Target::Replica(server.id),
                    address: &server.endpoint.address,
                    usable: usable(server),
                    latency: server.latency.get(),
                    is_down: connections.is_down(),
                }),
        );
        choose(&candidates)
    }

    /// The connections to a replica. `None` if it is one no longer.
    pub(crate) fn get(&self, id: ReplicaId) -> Option<Arc<C>> {
        let opened = self.opened();
        let found = opened.servers.iter().find(|(server, _)| server.id == id);
        found.map(|(_, connections)| Arc::clone(connections))
    }

    /// The connections for the current list of replicas.
    fn opened(&self) -> Guard<Arc<Opened<C>>> {
        let opened = self.opened.load();
        if opened.version == self.replicas.list.load().version {
            return opened;
        }
        let _update = self.update.lock();
        let list = self.replicas.list.load();
        let former = self.opened.load_full();
        if former.version != list.version {
            let servers = list.servers.iter().map(|server| {
                let kept = former
                    .servers
                    .iter()
                    .find(|(other, _)| other.id == server.id);
                let connections = match kept {
                    Some((_, connections)) => Arc::clone(connections),
                    None => Arc::new((self.make)(&server.endpoint)),
                };
                (Arc::clone(server), connections)
            });
            self.opened.store(Arc::new(Opened {
                version: list.version,
                servers: servers.collect(),
            }));
        }
        self.opened.load()
    }
}

impl fmt::Debug for NodeReplicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.list.load();
        f.debug_list().entries(&list.servers).finish()
    }
}

impl fmt::Debug for ReplicaServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaServer")
            .field("id", &self.id)
            .field("address", &self.endpoint.address)
            .field("usable", &self.usable())
            .finish_non_exhaustive()
    }
}

impl<C> fmt::Debug for ReplicaConnections<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaConnections")
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_an_average_in_which_the_newest_measurement_weighs_a_quarter() {
        let latency = Latency::default();
        assert_eq!(latency.get(), None);
        latency.add(Duration::from_micros(100));
        assert_eq!(latency.get(), Some(Duration::from_micros(100)));
        latency.add(Duration::from_micros(500));
        assert_eq!(latency.get(), Some(Duration::from_micros(200)));
        for time in [Duration::ZERO, Duration::MAX] {
            latency.add(time);
            assert!(latency.get().is_some());
        }
    }
}
