//! [`Publisher`]: gives each topology of a client to all sets of connections.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cluster::MapPublisher;
use crate::config::{ClientConfig, Purpose};
use crate::endpoint::{Deadline, Endpoint};
use crate::error::Error;
use crate::observe::{ClientEvent, Votes};
use crate::partition::{NodeId, NodeSpec, OutNodes};
use crate::record::FleetPublisher;
use crate::snapshot::monitor;
use crate::snapshot::topology_file::{self, Watch};
use crate::topology::cluster::ClusterMap;
use crate::topology::record::FollowedFleet;
use crate::topology::{RampingNodes, Topology};

/// Number of keys whose owners are compared when a topology is refused.
const SAMPLE_KEYS: usize = 1000;

/// Maximum duration of having idle connections present new records.
const RECORDS_WITHIN: Duration = Duration::from_millis(500);

/// A set of connections that is given each new topology.
pub(super) trait TopologyObserver: Send + Sync {
    /// Replaces the snapshot.
    fn topology_changed(&self, config: &ClientConfig);

    /// Has the connections that nobody uses present the records that the client goes by now.
    fn records_changed(&self, deadline: &Deadline);
}

/// The current topology of a client, and everything that must learn of the next one.
pub(crate) struct Publisher {
    /// Held while a topology is checked and given to all observers, so that all of them see the same sequence.
    /// No request waits for it.
    state: Mutex<State>,
    /// What the connections know of the nodes, for their ejection.
    votes: Option<Arc<Votes>>,
    /// Reads the topology again when its file changes.
    watch: OnceLock<Watch>,
}

struct State {
    config: Arc<ClientConfig>,
    /// In the order in which they were added.
    observers: Vec<Weak<dyn TopologyObserver>>,
}

impl Publisher {
    /// The publisher of a client that begins with this topology.
    ///
    /// # Errors
    ///
    /// If the file of the topology is to be watched, and the system has no thread for it.
    pub(crate) fn new(config: ClientConfig) -> Result<Arc<Self>, Error> {
        let votes = config.votes().map(Arc::clone);
        let ids = node_ids(&config);
        let publisher = Arc::new(Self {
            state: Mutex::new(State {
                config: Arc::new(config),
                observers: Vec::new(),
            }),
            votes,
            watch: OnceLock::new(),
        });
        if let Some(file) = publisher.config().topology_file() {
            // Empty before: this is the only place that sets it.
            let _ = publisher.watch.set(topology_file::watch(&publisher, file)?);
        }
        if let Some(monitor) = publisher.config().cluster_monitor() {
            let weak: Weak<dyn MapPublisher> = Arc::<Self>::downgrade(&publisher);
            monitor.attach(weak);
        }
        if let Some(monitor) = publisher.config().record_monitor() {
            monitor.attach(&publisher);
        }
        if let Some(votes) = &publisher.votes {
            votes.detector().set_nodes(ids, Instant::now());
            monitor::attach(&publisher, votes);
        }
        Ok(publisher)
    }

    /// The description of the client over the current topology.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.state.lock().config)
    }

    /// Adds a set of connections, which `open` makes for the current topology.
    pub(super) fn observe<T>(
        &self,
        open: impl FnOnce(&ClientConfig) -> (T, Weak<dyn TopologyObserver>),
    ) -> T {
        let mut state = self.state.lock();
        let (opened, observer) = open(&state.config);
        state
            .observers
            .retain(|observer| observer.strong_count() > 0);
        state.observers.push(observer);
        opened
    }

    /// Replaces the nodes and their placement.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the topology does not fit the client, or would move keys of a store.
    pub(crate) fn set_topology(&self, topology: &Topology) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.config.cluster_monitor().is_some() {
            return Err(Error::config(
                "the nodes of a cluster come from its servers, and cannot be set; build another client for other nodes",
            ));
        }
        if topology.cluster().is_some() {
            return Err(Error::config(
                "the topology is that of a cluster, and the client one of other nodes; build another client for it",
            ));
        }
        if state.config.record_monitor().is_some() {
            return Err(Error::config(
                "the topology comes from the record of the nodes, and cannot be set; publish another one with \
                 `redis-sharding topology publish`, or move keys with `redis-sharding reshard`",
            ));
        }
        let next = state.config.for_topology(topology)?;
        if next.purpose() == Purpose::Store {
            check_placement(state.config.router.topology(), next.router.topology())?;
        }
        // Nodes that are out stay out, also at another index, and those that are coming back keep their shares.
        let former = state.config.router.topology();
        let index = |node| {
            let id = former.node(node).id();
            next.router.topology().index_of_id(id)
        };
        let out: OutNodes = former.out().iter().filter_map(index).collect();
        let ramping = former.ramping().moved(index);
        let next = match out.is_empty() && ramping.is_empty() {
            true => next,
            false => next.without(&out, ramping)?,
        };
        if let Some(votes) = &self.votes {
            votes.detector().set_nodes(node_ids(&next), Instant::now());
        }
        let from = former.epoch();
        state.publish(next);
        let config = Arc::clone(&state.config);
        drop(state);
        let to = config.router.topology().epoch();
        config.deliver(|| ClientEvent::TopologyChanged { from, to });
        if let Some(votes) = &self.votes {
            votes.changed();
        }
        Ok(())
    }

    /// Has the connections that nobody uses present the records that the client goes by now, on all sets of connections:
    /// shared ones and idle ones. Those in use do so when they are given back. To be called after the epochs of the
    /// cells were set. May wait for servers, but not beyond the deadline; no request waits for it.
    pub(crate) fn records_changed(&self, deadline: &Deadline) {
        let observers = self.state.lock().observers.clone();
        for observer in observers.iter().filter_map(Weak::upgrade) {
            observer.records_changed(deadline);
        }
    }

    /// Has the client go by the topology and the epochs that the records of its nodes name: publishes both, sets the epochs
    /// of the cells, and has the connections that nobody uses present them, in this order.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the topology does not fit the client; nothing has changed then.
    pub(crate) fn follow_records(&self, fleet: &FollowedFleet) -> Result<(), Error> {
        let epoch = |node: &NodeSpec| fleet.epochs.get(node.name()).copied().unwrap_or_default();
        let nodes = fleet.topology.nodes();
        let records = nodes.iter().map(|node| epoch(node).as_u64()).collect();
        let mut state = self.state.lock();
        let former = Arc::clone(state.config.router.topology());
        let next = state.config.for_record(&fleet.topology)?;
        state.publish(next.with_records(records));
        let config = Arc::clone(&state.config);
        drop(state);
        for (node, endpoint) in nodes.iter().zip(&config.endpoints) {
            if let Some(record) = &endpoint.record {
                record.set_epoch(epoch(node));
            }
        }
        let topology = config.router.topology();
        let is_same =
            former.nodes() == topology.nodes() && former.fingerprint() == topology.fingerprint();
        if !is_same {
            let (from, to) = (former.epoch(), topology.epoch());
            config.deliver(|| ClientEvent::TopologyChanged { from, to });
        }
        self.records_changed(&Deadline::start(Some(RECORDS_WITHIN)));
        Ok(())
    }

    /// Replaces the map of the cluster by the one that `next` makes of it, if it makes one.
    ///
    /// A map of the same nodes costs little more than its slots: neither nodes nor connections are made anew. Nothing is
    /// delivered for it either, as a reshard moves every slot for itself.
    ///
    /// # Errors
    ///
    /// If no connection can be described for a node; nothing has changed then.
    pub(crate) fn set_cluster_map(
        &self,
        next: impl FnOnce(&ClusterMap) -> Option<ClusterMap>,
    ) -> Result<(), Error> {
        let mut state = self.state.lock();
        let former = Arc::clone(state.config.router.topology());
        let Some(map) = former.cluster().and_then(|map| next(map)) else {
            return Ok(());
        };
        let config = state.config.for_map(map)?;
        let nodes = config.router.topology().nodes();
        let is_same_nodes = nodes == former.nodes() && !former.is_provisional();
        state.publish(config);
        let config = Arc::clone(&state.config);
        drop(state);
        if !is_same_nodes {
            let (from, to) = (former.epoch(), config.router.topology().epoch());
            config.deliver(|| ClientEvent::TopologyChanged { from, to });
        }
        Ok(())
    }

    /// Takes these nodes out of the placement, and all others back in, some of them with a share of their keys. `out` is called with the current topology, to
    /// which its indices belong. The placement may be built anew, which takes a while: never call this where a
    /// request waits for it.
    ///
    /// # Errors
    ///
    /// If the partitioner cannot place keys over the others; nothing has changed then.
    pub(crate) fn set_out(
        &self,
        out: impl FnOnce(&Topology) -> (OutNodes, RampingNodes),
    ) -> Result<(), Error> {
        let mut state = self.state.lock();
        let topology = state.config.router.topology();
        let (out, ramping) = out(topology);
        if out == *topology.out() && ramping == topology.ramping() {
            return Ok(());
        }
        let next = state.config.without(&out, ramping)?;
        state.publish(next);
        Ok(())
    }
}

#[cfg(test)]
impl Publisher {
    /// Publishes the same topology, which follows the records of these epochs.
    pub(crate) fn set_records(&self, epochs: Arc<[u64]>) {
        let mut state = self.state.lock();
        let next = ClientConfig::clone(&state.config).with_records(epochs);
        state.publish(next);
    }
}

impl MapPublisher for Publisher {
    fn map(&self) -> Option<Arc<ClusterMap>> {
        self.config().router.topology().cluster().cloned()
    }

    fn change_map(
        &self,
        next: &mut dyn FnMut(&ClusterMap) -> Option<ClusterMap>,
    ) -> Result<(), Error> {
        self.set_cluster_map(next)
    }
}

impl FleetPublisher for Publisher {
    fn topology(&self) -> Arc<Topology> {
        Arc::clone(self.config().router.topology())
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.config().endpoints.clone()
    }

    fn follow(&self, fleet: &FollowedFleet) -> Result<(), Error> {
        self.follow_records(fleet)
    }

    fn deliver_event(&self, event: ClientEvent) {
        self.config().deliver(|| event);
    }
}

impl State {
    fn publish(&mut self, config: ClientConfig) {
        self.config = Arc::new(config);
        for observer in self.observers.iter().filter_map(Weak::upgrade) {
            observer.topology_changed(&self.config);
        }
    }
}

fn node_ids(config: &ClientConfig) -> Vec<NodeId> {
    let nodes = config.router.topology().nodes();
    nodes.iter().map(NodeSpec::id).collect()
}

impl Drop for Publisher {
    /// Runs after the last handle is dropped.
    fn drop(&mut self) {
        if let Some(votes) = &self.votes {
            votes.close();
        }
    }
}

/// Refuses a topology that places keys otherwise than the current one.
fn check_placement(current: &Topology, next: &Topology) -> Result<(), Error> {
    if current.fingerprint() == next.fingerprint() {
        return Ok(());
    }
    let owner = |topology: &Topology, key: &str| {
        let index = topology.locate(key.as_bytes())?;
        Some(topology.node(index).id())
    };
    let moved = (0..SAMPLE_KEYS)
        .map(|number| format!("key:{number}"))
        .filter(|key| owner(current, key) != owner(next, key))
        .count();
    Err(Error::config(format!(
        "the topology places keys otherwise: {moved} of {SAMPLE_KEYS} sample keys would move to another node, where \
         their data is not (fingerprint {:016x} instead of {:016x}); names, weights, the order of the nodes and the \
         partitioner must stay as they are, unless the data is a cache: see `Builder::cache`",
        next.fingerprint(),
        current.fingerprint(),
    )))
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::NodeIndex;
    use crate::topology::HostPort;
    use crate::{Ejection, ShardedClient};

    #[test]
    fn slot_that_moves_in_a_cluster_makes_neither_nodes_nor_connections_anew() {
        let at = |port| HostPort::new("10.0.0.1", port).unwrap();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&changes);
        let client = ShardedClient::builder()
            .cluster(["redis://10.0.0.9:7000"])
            .on_event(move |event| events.lock().push(event.to_string()))
            .build()
            .unwrap();
        let publisher = client.shared().publisher();
        let owner = |slot: u16| Some(NodeIndex::new(slot % 2));
        let first = ClusterMap::new(vec![at(7000), at(7001)], owner);
        publisher.set_cluster_map(|_| Some(first)).unwrap();
        let before = publisher.config();
        assert_eq!(before.endpoints.len(), 2);
        let node = || client.node_for("{slot 2}").unwrap().name().to_owned();
        let (slot, former) = (crate::hash::slot(b"slot 2"), node());
        let other = 7000 + u16::from(former.ends_with('0'));
        publisher
            .set_cluster_map(|map| map.moved(slot, &at(other)))
            .unwrap();
        assert_eq!(node(), at(other).to_string());
        let after = publisher.config();
        let endpoints = before.endpoints.iter().zip(&after.endpoints);
        assert!(
            endpoints
                .into_iter()
                .all(|(one, other)| Arc::ptr_eq(one, other))
        );
        let topologies = [&before, &after].map(|config| Arc::clone(config.router.topology()));
        assert!(std::ptr::eq(topologies[0].nodes(), topologies[1].nodes()));
        assert_eq!(topologies.map(|topology| topology.epoch()), [1, 2]);
        // Another primary beside a node that stays.
        let grown = ClusterMap::new(vec![at(7001), at(7002)], owner);
        publisher.set_cluster_map(|_| Some(grown)).unwrap();
        let grown = publisher.config();
        assert!(Arc::ptr_eq(&grown.endpoints[0], &after.endpoints[1]));
        publisher.set_cluster_map(|_| None).unwrap();
        assert_eq!(publisher.config().router.topology().epoch(), 3);
        let expected = [
            "topology changed: from epoch 0 to 1",
            "topology changed: from epoch 2 to 3",
        ];
        assert_eq!(*changes.lock(), expected);
    }

    #[test]
    fn replaced_topology_keeps_the_nodes_that_are_out_and_the_shares_of_those_that_come_back() {
        let nodes = ["a", "b", "c"];
        let open = |names: &[&str]| {
            let builder = ShardedClient::builder().cache(Ejection::default());
            let node = |builder: crate::Builder, name: &&str| {
                builder.node(*name, format!("redis://{name}.example/"))
            };
            names.iter().fold(builder, node).build().unwrap()
        };
        let client = open(&nodes);
        let publisher = client.shared().publisher();
        let (out, ramping) = (NodeIndex::new(0), NodeIndex::new(1));
        publisher
            .set_out(|_| {
                (
                    OutNodes::from_iter([out]),
                    RampingNodes::new([(ramping, 3)]),
                )
            })
            .unwrap();
        let reversed = open(&["c", "b", "a"]).topology();
        client.set_topology(&reversed).unwrap();
        let topology = client.topology();
        assert_eq!(*topology.out(), OutNodes::from_iter([NodeIndex::new(2)]));
        assert_eq!(topology.ramping(), RampingNodes::new([(ramping, 3)]));
        client.set_topology(&open(&["a", "c"]).topology()).unwrap();
        assert_eq!(client.topology().ramping(), RampingNodes::default());
    }
}
