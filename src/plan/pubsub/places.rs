//! Where subscriptions are made: on which node each channel or pattern is subscribed.
//!
//! | | plain nodes | Redis Cluster |
//! |---|---|---|
//! | SUBSCRIBE | the owner of the name | one node, by the name |
//! | PSUBSCRIBE | every node | one node, by the name |
//! | keyspace events, by channel or pattern | every node | every primary |
//! | SSUBSCRIBE | the owner of the name | the owner of its slot, or the server that MOVED has named |
//!
//! The servers of a cluster hand every PUBLISH on to each other, so a subscription on several of them would deliver
//! each message as often. The node of a name is chosen by rendezvous hashing over the primaries, and the name stays there
//! for as long as it is a primary that can be reached, whatever slots and primaries come: each move may cost messages. A
//! node that has failed the subscriber is given no such name any more, until it has left the cluster and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::Error;
use crate::hash::{HashTag, slot};
use crate::partition::{NodeId, NodeIndex};
use crate::plan::pubsub::{ChannelName, ClusterSignals, Loss, RedirectedNames, SubscriptionKind};
use crate::plan::redirects::REDIRECTS_AT_ONCE_MAX;
use crate::plan::{ClusterReport, Router};
use crate::topology::Topology;
use crate::topology::cluster::ClusterMap;

/// A slot that was not redirected for this long is redirected at once again.
const REDIRECTS_FORGOTTEN_AFTER: Duration = Duration::from_secs(1);

/// What a subscriber has learned of the places of its subscriptions, besides the topology. Empty over plain nodes.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionPlaces {
    /// Nodes of a cluster that were lost, and are given no classic subscriptions.
    avoided: BTreeSet<NodeId>,
    /// What servers have said about slots. At most one entry for each slot there is.
    redirects: BTreeMap<u16, SlotRedirect>,
    /// Names for which no connection could be prepared.
    unplaced: Vec<RedirectedNames>,
}

/// What the connections to the nodes of a cluster have learned.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// For the source of the map.
    pub(crate) reports: Vec<ClusterReport>,
    /// Names to subscribe at other servers.
    pub(crate) redirected: Vec<RedirectedNames>,
    /// True if names must be placed anew.
    pub(crate) is_changed: bool,
}

/// The last MOVED of a slot.
#[derive(Clone, Copy, Debug)]
struct SlotRedirect {
    /// The server that it has named. `None` once the map knows more.
    to: Option<NodeId>,
    /// Where the map wanted the slot at that time.
    mapped: Option<NodeId>,
    /// Number of redirects, each soon after the one before.
    hops: u16,
    at: Instant,
}

/// Where a name is subscribed.
enum Place {
    Everywhere,
    At(NodeId),
}

impl SubscriptionPlaces {
    /// Learns of a new topology.
    pub(crate) fn topology_changed(&mut self, topology: &Topology) {
        let Some(map) = topology.cluster() else {
            return;
        };
        self.avoided
            .retain(|node| topology.index_of_id(*node).is_some());
        for (node, id) in ids(topology) {
            if map.is_failing(node) {
                self.avoided.insert(id);
            }
        }
        for (slot, redirect) in &mut self.redirects {
            // If the map is wrong, the server that it names says so.
            if target(topology, map, *slot) != redirect.mapped {
                redirect.to = None;
            }
        }
    }

    /// Learns of what has happened to connections.
    pub(crate) fn learn(
        &mut self,
        topology: &Topology,
        signals: impl Iterator<Item = (NodeId, ClusterSignals)>,
    ) -> Learned {
        let mut learned = Learned {
            redirected: std::mem::take(&mut self.unplaced),
            ..Learned::default()
        };
        for (node, signals) in signals {
            if signals.loss != Loss::None || signals.is_ended {
                learned.reports.push(ClusterReport::Suspect);
            }
            if signals.loss == Loss::Unreachable {
                learned.is_changed |= self.avoid(topology, node);
            }
            for redirected in signals.redirected {
                let moved = ClusterReport::Moved(redirected.slot, redirected.to.clone());
                learned.reports.push(moved);
                // None if the reply was one to SUNSUBSCRIBE.
                if !redirected.interrupted.is_empty() || !redirected.new.is_empty() {
                    learned.redirected.push(redirected);
                }
            }
        }
        learned
    }

    /// Keeps names that could be subscribed nowhere, until [`learn`](Self::learn) returns them again.
    pub(crate) fn keep(&mut self, unplaced: RedirectedNames) {
        self.unplaced.push(unplaced);
    }

    /// Gives no more classic subscriptions to a node of a cluster. Returns true if they go elsewhere now.
    fn avoid(&mut self, topology: &Topology, node: NodeId) -> bool {
        let is_node = topology.cluster().is_some() && topology.index_of_id(node).is_some();
        is_node && self.avoided.insert(node)
    }

    /// Learns that a slot belongs to the server `to`. Returns true if its subscriptions should pause before they go
    /// there, because they were sent from server to server.
    pub(crate) fn moved(
        &mut self,
        topology: &Topology,
        slot: u16,
        to: NodeId,
        now: Instant,
    ) -> bool {
        let is_recent = |redirect: &SlotRedirect| {
            now.saturating_duration_since(redirect.at) < REDIRECTS_FORGOTTEN_AFTER
        };
        self.redirects
            .retain(|_, redirect| redirect.to.is_some() || is_recent(redirect));
        let before = self.redirects.get(&slot).filter(|last| is_recent(last));
        let hops = before.map_or(0, |last| last.hops).saturating_add(1);
        let mapped = topology
            .cluster()
            .and_then(|map| target(topology, map, slot));
        let redirect = SlotRedirect {
            to: Some(to),
            mapped,
            hops,
            at: now,
        };
        self.redirects.insert(slot, redirect);
        hops > REDIRECTS_AT_ONCE_MAX
    }

    /// True if a server that is no node of the topology has subscriptions, because MOVED has named it.
    pub(crate) fn is_redirected_to(&self, server: NodeId) -> bool {
        let mut redirects = self.redirects.values();
        redirects.any(|redirect| redirect.to == Some(server))
    }

    fn place(
        &self,
        router: &Router,
        kind: SubscriptionKind,
        name: &[u8],
        held: impl FnOnce(&[u8]) -> Option<NodeId>,
    ) -> Result<Place, Error> {
        let topology = router.topology();
        let owner = || Ok(topology.node(router.owner(name)?).id());
        let Some(map) = topology.cluster() else {
            return match kind == SubscriptionKind::Pattern || is_keyspace(kind, name) {
                true => Ok(Place::Everywhere),
                false => owner().map(Place::At),
            };
        };
        if is_keyspace(kind, name) {
            return Ok(Place::Everywhere);
        }
        let place = match kind {
            SubscriptionKind::Shard => {
                let redirect = self.redirects.get(&map.slot(name));
                redirect.and_then(|redirect| redirect.to)
            }
            SubscriptionKind::Channel | SubscriptionKind::Pattern => {
                let is_well = |node: &NodeId| {
                    topology.index_of_id(*node).is_some() && !self.avoided.contains(node)
                };
                let held = held(name).filter(is_well);
                held.or_else(|| self.one_node(topology, name))
            }
        };
        match place {
            Some(node) => Ok(Place::At(node)),
            None => owner().map(Place::At),
        }
    }

    /// The node of a classic subscription: the winner of those that have not failed; of all, if all have.
    fn one_node(&self, topology: &Topology, name: &[u8]) -> Option<NodeId> {
        let nodes = || ids(topology).map(|(_, node)| node);
        let weight = |node: &NodeId| (xxh3_64_with_seed(name, node.as_u64()), *node);
        let well = nodes().filter(|node| !self.avoided.contains(node));
        well.max_by_key(weight)
            .or_else(|| nodes().max_by_key(weight))
    }
}

/// Channels or patterns, grouped by the nodes on which they must be subscribed.
///
/// Names are added in slices of [`NAMES_AT_ONCE`](super::NAMES_AT_ONCE), so that a caller can yield in between.
pub(crate) struct NamesByNode {
    kind: SubscriptionKind,
    by_node: BTreeMap<NodeId, Vec<ChannelName>>,
}

impl NamesByNode {
    /// No names yet, of one kind.
    pub(crate) fn new(kind: SubscriptionKind) -> Self {
        Self {
            kind,
            by_node: BTreeMap::new(),
        }
    }

    /// Adds names to the nodes on which they must be subscribed. `held` gives the node on which a name is subscribed
    /// already: in a cluster it stays there.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](crate::ErrorKind::Unroutable) when the placement does not cover a channel.
    pub(crate) fn add<'n>(
        &mut self,
        router: &Router,
        places: &SubscriptionPlaces,
        names: impl IntoIterator<Item = &'n [u8]>,
        held: impl Fn(&[u8]) -> Option<NodeId>,
    ) -> Result<(), Error> {
        let topology = router.topology();
        for name in names {
            let place = places.place(router, self.kind, name, &held)?;
            let shared = ChannelName::from(name);
            match place {
                // Every living node needs it, even one that is down: it is subscribed there when the node is back.
                Place::Everywhere => {
                    for node in topology.living() {
                        let id = topology.node(node).id();
                        self.by_node
                            .entry(id)
                            .or_default()
                            .push(Arc::clone(&shared));
                    }
                }
                Place::At(node) => self.by_node.entry(node).or_default().push(shared),
            }
        }
        Ok(())
    }

    /// The nodes with at least one name, and their names.
    pub(crate) fn finish(self) -> BTreeMap<NodeId, Vec<ChannelName>> {
        self.by_node
    }
}

/// True if the name is one of keyspace events, or a pattern made for them.
///
/// A server publishes them itself, on the node that has the key, and to nobody else: `__keyspace@0__:user:1` is
/// published by the owner of `user:1`, not by the owner of that channel name.
fn is_keyspace(kind: SubscriptionKind, name: &[u8]) -> bool {
    match kind {
        SubscriptionKind::Channel => {
            name.starts_with(b"__keyspace@") || name.starts_with(b"__keyevent@")
        }
        // Also `__key*__:*`, as the documentation of Redis has it.
        SubscriptionKind::Pattern => name.starts_with(b"__key"),
        SubscriptionKind::Shard => false,
    }
}

/// The slot of a shard channel.
pub(super) fn channel_slot(name: &[u8]) -> u16 {
    slot(HashTag::Braces.of(name))
}

fn ids(topology: &Topology) -> impl Iterator<Item = (NodeIndex, NodeId)> {
    topology
        .indices()
        .map(|node| (node, topology.node(node).id()))
}

/// Where the map wants a slot.
fn target(topology: &Topology, map: &ClusterMap, slot: u16) -> Option<NodeId> {
    map.target(slot).map(|node| topology.node(node).id())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::command::CommandTable;
    use crate::plan::SplitWrites;
    use crate::topology::HostPort;

    /// A cluster of servers with these ports, which own the slots in turn, `shift` further.
    fn router(ports: &[u16], shift: usize) -> Router {
        let address = |port: &u16| HostPort {
            host: "10.0.0.1".to_owned(),
            port: *port,
        };
        let nodes = ports.len();
        let owner = move |slot| Some(NodeIndex::new(((usize::from(slot) + shift) % nodes) as u16));
        let map = Arc::new(ClusterMap::new(ports.iter().map(address).collect(), owner));
        let table = Cow::Borrowed(CommandTable::built_in());
        Router::new(
            Arc::new(map.topology().unwrap()),
            table,
            SplitWrites::Allowed,
        )
    }

    fn node(port: u16) -> NodeId {
        NodeId::of_name(&format!("10.0.0.1:{port}"))
    }

    fn at(
        places: &SubscriptionPlaces,
        router: &Router,
        kind: SubscriptionKind,
        name: &str,
        held: Option<NodeId>,
    ) -> Vec<NodeId> {
        let mut names = NamesByNode::new(kind);
        names
            .add(router, places, [name.as_bytes()], |_| held)
            .unwrap();
        names.finish().into_keys().collect()
    }

    const CLASSIC: [SubscriptionKind; 2] = [SubscriptionKind::Channel, SubscriptionKind::Pattern];

    #[test]
    fn classic_subscription_of_a_cluster_is_on_one_node_whatever_slots_and_primaries_come() {
        let (before, moved) = (router(&[1, 2, 3], 0), router(&[1, 2, 3], 1));
        let places = SubscriptionPlaces::default();
        let mut used = BTreeSet::new();
        for number in 0..100 {
            let name = format!("news:{number}*");
            for kind in CLASSIC {
                let first = at(&places, &before, kind, &name, None);
                assert_eq!(first.len(), 1);
                assert_eq!(at(&places, &moved, kind, &name, None), first);
                let grown = router(&[1, 2, 3, 4, 5], 0);
                let held = Some(first[0]);
                assert_eq!(at(&places, &grown, kind, &name, held), first);
                used.extend(first);
            }
        }
        assert_eq!(used.len(), 3, "spread over all nodes");
    }

    #[test]
    fn classic_subscription_leaves_a_node_that_was_lost_or_demoted() {
        let all = router(&[1, 2, 3], 0);
        let mut places = SubscriptionPlaces::default();
        let kind = SubscriptionKind::Channel;
        let first = at(&places, &all, kind, "news", None)[0];
        let demoted: Vec<u16> = (1..=3).filter(|port| node(*port) != first).collect();
        let next = at(&places, &router(&demoted, 0), kind, "news", Some(first));
        assert_ne!(next, [first]);
        assert!(places.avoid(all.topology(), first));
        assert!(!places.avoid(all.topology(), first), "known");
        assert_eq!(at(&places, &all, kind, "news", Some(first)), next);
        // It is not given back, unless all are lost.
        for port in demoted {
            places.avoid(all.topology(), node(port));
        }
        assert_eq!(at(&places, &all, kind, "news", None), [first]);
    }

    #[test]
    fn keyspace_events_of_a_cluster_are_subscribed_on_every_primary() {
        let router = router(&[1, 2, 3], 0);
        let places = SubscriptionPlaces::default();
        for (kind, name, count) in [
            (SubscriptionKind::Channel, "__keyspace@0__:k", 3),
            (SubscriptionKind::Channel, "__keyevent@0__:set", 3),
            (SubscriptionKind::Pattern, "__keyspace@0__:*", 3),
            (SubscriptionKind::Pattern, "__key*__:*", 3),
            (SubscriptionKind::Pattern, "*", 1),
            (SubscriptionKind::Shard, "__keyspace@0__:k", 1),
        ] {
            let nodes = at(&places, &router, kind, name, None);
            assert_eq!(nodes.len(), count, "{kind:?} {name}");
        }
    }

    #[test]
    fn shard_channel_goes_where_moved_says_until_the_map_knows_more() {
        let before = router(&[1, 2, 3], 0);
        let mut places = SubscriptionPlaces::default();
        let kind = SubscriptionKind::Shard;
        let owner = at(&places, &before, kind, "news", None);
        let now = Instant::now();
        // A server that is no node of the map.
        let slot = channel_slot(b"news");
        assert!(!places.moved(before.topology(), slot, node(9), now));
        assert_eq!(at(&places, &before, kind, "news", None), [node(9)]);
        assert!(places.is_redirected_to(node(9)));
        // Another map in which this slot is where it was.
        let grown = router(&[1, 2, 3], 3);
        places.topology_changed(grown.topology());
        assert_eq!(at(&places, &grown, kind, "news", None), [node(9)]);
        let after = router(&[1, 2, 3], 1);
        places.topology_changed(after.topology());
        assert!(!places.is_redirected_to(node(9)));
        let next = at(&places, &after, kind, "news", None);
        assert!(next != owner && next != [node(9)]);
    }

    #[test]
    fn subscriptions_pause_between_servers_that_redirect_to_each_other() {
        let router = router(&[1, 2], 0);
        let mut places = SubscriptionPlaces::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for round in 0..10 {
            let to = node(1 + round % 2);
            pauses.push(places.moved(router.topology(), 7, to, now));
            now += Duration::from_millis(1);
        }
        let at_once = pauses.iter().filter(|is_delayed| !**is_delayed).count();
        assert_eq!(at_once, usize::from(REDIRECTS_AT_ONCE_MAX));
        assert!(pauses.is_sorted());
        now += REDIRECTS_FORGOTTEN_AFTER;
        assert!(!places.moved(router.topology(), 7, node(1), now));
    }

    #[test]
    fn lost_node_of_a_cluster_makes_its_map_suspect_and_its_classic_names_go() {
        let router = router(&[1, 2], 0);
        let mut places = SubscriptionPlaces::default();
        let mut learn = |loss| {
            let signals = ClusterSignals {
                loss,
                ..ClusterSignals::default()
            };
            let learned = places.learn(router.topology(), [(node(1), signals)].into_iter());
            (learned.reports, learned.is_changed)
        };
        let suspect = vec![ClusterReport::Suspect];
        assert_eq!(learn(Loss::None), (Vec::new(), false));
        assert_eq!(learn(Loss::Broken), (suspect.clone(), false));
        assert_eq!(learn(Loss::Unreachable), (suspect.clone(), true));
        assert_eq!(learn(Loss::Unreachable), (suspect, false));
    }
}
