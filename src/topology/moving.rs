//! A topology while a reshard moves keys to where another one places them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::record::{NodeRecord, Progress, UNITS, UnitState, unit_of};
use super::{Topology, ids};
use crate::error::Error;
use crate::partition::{NodeIndex, NodeSpec, Placement};

/// How far each pair of nodes has come, by what is known of their records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReshardView {
    pairs: HashMap<(String, String), Progress>,
}

/// What a topology knows of the reshard that is under way.
pub(crate) struct Moving {
    from: Topology,
    to: Topology,
    /// For each node of `to`, its index in the moving topology.
    targets: Box<[NodeIndex]>,
    /// By the indices of source and target in the moving topology. A pair that is missing has not begun.
    pairs: HashMap<(NodeIndex, NodeIndex), Progress>,
    /// True if a unit of any pair is closed.
    has_closed: bool,
}

/// Where a key is while a reshard is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyPlace {
    /// The node that has it.
    pub(crate) owner: NodeIndex,
    /// True if it is on the way: nobody may read or write it.
    pub(crate) is_closed: bool,
}

/// The owners of keys while a reshard is under way.
struct MovingPlacement(Arc<Moving>);

impl ReshardView {
    /// Adds what the record of the node called `node` says of its pairs.
    ///
    /// Where units are at the target is true as soon as either node says so. What is closed is up to the source, which
    /// may open it again.
    pub(crate) fn add(&mut self, node: &str, record: &NodeRecord) {
        let pairs = record.reshard.iter().flat_map(|reshard| &reshard.pairs);
        for pair in pairs {
            let name = (pair.source.clone(), pair.target.clone());
            let known = self.pairs.entry(name).or_default();
            known.moved = known.moved.max(pair.progress.moved);
            if pair.source == node {
                known.closed = pair.progress.closed;
            }
        }
        for progress in self.pairs.values_mut() {
            progress.closed = progress.closed.max(progress.moved);
        }
    }

    /// How far this pair has come.
    pub(crate) fn progress(&self, source: &str, target: &str) -> Progress {
        let name = (source.to_owned(), target.to_owned());
        self.pairs.get(&name).copied().unwrap_or_default()
    }
}

impl Topology {
    /// Returns the topology while a reshard leads from `from` to `to`: the nodes of `from` at their indices, and behind them
    /// those that only `to` has. Each key belongs to the node that has it now.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the two divide keys by different hash tag rules, or have more nodes together
    /// than a topology may have.
    pub(crate) fn while_moving(from: &Self, to: &Self, view: &ReshardView) -> Result<Self, Error> {
        if from.tag.name() != to.tag.name() {
            return Err(Error::config(
                "a reshard cannot change the hash tag rule: keys that belong together would part on the way",
            ));
        }
        let mut nodes: Vec<NodeSpec> = from.nodes.to_vec();
        let mut urls = from.urls.to_vec();
        let mut targets = Vec::with_capacity(to.nodes.len());
        for (node, url) in to.nodes.iter().zip(&*to.urls) {
            // By name: it is what both place keys by.
            let known = nodes.iter().position(|known| known.name() == node.name());
            let index = known.unwrap_or(nodes.len());
            if known.is_none() {
                nodes.push(node.clone());
                urls.push(url.clone());
            }
            targets.push(index);
        }
        super::check_count(nodes.len())?;
        let index = |position: usize| NodeIndex::new(position as u16);
        let ids = ids(&nodes)?;
        let mut moving = Moving {
            from: from.clone(),
            to: to.clone(),
            targets: targets.into_iter().map(index).collect(),
            pairs: HashMap::new(),
            has_closed: view.pairs.values().any(|progress| progress.has_closed()),
        };
        let position = |name: &str| nodes.iter().position(|node| node.name() == name);
        for ((source, target), progress) in &view.pairs {
            if let (Some(source), Some(target)) = (position(source), position(target)) {
                let pair = (index(source), index(target));
                moving.pairs.insert(pair, *progress);
            }
        }
        let moving = Arc::new(moving);
        Ok(Self {
            nodes: nodes.into(),
            urls: urls.into(),
            placement: Arc::new(MovingPlacement(Arc::clone(&moving))),
            ids: ids.into(),
            moving: Some(moving),
            ..from.clone()
        })
    }

    /// Returns this topology as the one that replaces `before`, by which programs have begun to scan.
    pub(crate) fn after(self, before: &Self) -> Self {
        let before = Self {
            former: None,
            ..before.clone()
        };
        // Topologies that do not fit together have no scans that could go on.
        let former = Self::while_moving(&before, &self, &ReshardView::default()).ok();
        Self {
            former: former.map(Arc::new),
            ..self
        }
    }

    /// Returns the topology while keys moved to this one, if a reshard has led here.
    pub(crate) fn former(&self) -> Option<&Self> {
        self.former.as_deref()
    }

    /// Returns the reshard that is under way.
    #[inline]
    pub(crate) fn moving(&self) -> Option<&Arc<Moving>> {
        self.moving.as_ref()
    }
}

impl Moving {
    /// The topology that the reshard has begun with.
    pub(crate) fn from(&self) -> &Topology {
        &self.from
    }

    /// True if any unit is closed.
    pub(crate) fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// True if nobody may read or write this key now.
    pub(crate) fn is_closed(&self, key: &[u8]) -> bool {
        if !self.has_closed {
            return false;
        }
        let tag = self.from.tag.of(key);
        self.place(tag).is_some_and(|place| place.is_closed)
    }

    /// True if programs that scan this node are to see this key, which it has. For a while nodes also have keys that belong to
    /// others: copies that are not published yet, what has moved and is not deleted yet, and what a replica has taken in.
    /// What is on the way is seen at both nodes.
    pub(crate) fn shows(&self, node: NodeIndex, key: &[u8]) -> bool {
        let tag = self.from.tag.of(key);
        match (self.owners(tag), self.place(tag)) {
            (Some((source, target)), Some(place)) if place.is_closed => {
                [source, target].contains(&node)
            }
            (_, Some(place)) => place.owner == node,
            (_, None) => true,
        }
    }

    /// The nodes that have a key before and after the reshard, and its unit, if it moves. `tag` is what the hash tag rule
    /// leaves of it.
    pub(crate) fn way(&self, tag: &[u8]) -> Option<(NodeIndex, NodeIndex, u32)> {
        let (source, target) = self.owners(tag)?;
        (source != target).then(|| (source, target, unit_of(tag)))
    }

    /// The owners before and after. `None` if either topology leaves the key without one.
    fn owners(&self, tag: &[u8]) -> Option<(NodeIndex, NodeIndex)> {
        let source = self.from.placement.locate(tag)?;
        let target = self.to.placement.locate(tag)?;
        let target = *self.targets.get(target.get())?;
        (source.get() < self.from.nodes.len()).then_some((source, target))
    }

    fn place(&self, tag: &[u8]) -> Option<KeyPlace> {
        let (source, target) = self.owners(tag)?;
        let stays = KeyPlace {
            owner: source,
            is_closed: false,
        };
        if source == target {
            return Some(stays);
        }
        let Some(progress) = self.pairs.get(&(source, target)) else {
            return Some(stays);
        };
        Some(match progress.state(unit_of(tag)) {
            UnitState::AtSource => stays,
            UnitState::Closed => KeyPlace {
                owner: source,
                is_closed: true,
            },
            UnitState::AtTarget => KeyPlace {
                owner: target,
                is_closed: false,
            },
        })
    }
}

impl Placement for MovingPlacement {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        self.0.place(key).map(|place| place.owner)
    }
}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving")
            .field("from", &format_args!("{:016x}", self.from.fingerprint()))
            .field("to", &format_args!("{:016x}", self.to.fingerprint()))
            .field("pairs", &self.pairs.len())
            .field("units", &UNITS)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MovingPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashTag;
    use crate::partition::Rendezvous;
    use crate::partition::peers::PhpRedis;
    use crate::topology::record::{PairRecord, RecordEpoch, ReshardRecord};

    fn topology(names: &[&str]) -> Topology {
        let node = |name: &&str| NodeSpec::new(*name, format!("{name}:6379"));
        let nodes = names.iter().map(node).collect();
        Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap()
    }

    fn record(source: &str, target: &str, moved: u32, closed: u32) -> NodeRecord {
        NodeRecord {
            epoch: RecordEpoch::new(1, 1),
            topology: 1,
            seal: "s".into(),
            is_retired: false,
            mover: None,
            reshard: Some(ReshardRecord {
                to: 2,
                pairs: vec![PairRecord {
                    source: source.into(),
                    target: target.into(),
                    progress: Progress { moved, closed },
                }],
            }),
        }
    }

    fn keys() -> impl Iterator<Item = Vec<u8>> {
        (0..2000).map(|number| format!("{{tag:{number}}}:key").into_bytes())
    }

    #[test]
    fn topology_that_has_not_moved_yet_places_keys_as_before() {
        let (from, to) = (topology(&["a", "b"]), topology(&["b", "c", "a"]));
        let view = ReshardView::default();
        let moving = Topology::while_moving(&from, &to, &view).unwrap();
        let names: Vec<&str> = moving.nodes().iter().map(NodeSpec::name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        for key in keys() {
            assert_eq!(moving.locate(&key), from.locate(&key));
            assert!(!moving.moving().unwrap().is_closed(&key));
        }
        assert_eq!(moving.to_string(), from.to_string());
        assert_eq!(moving.fingerprint(), from.fingerprint());
    }

    #[test]
    fn key_is_at_its_source_closed_or_at_its_target_by_its_unit() {
        let (from, to) = (topology(&["a", "b"]), topology(&["a", "b", "c"]));
        let mut view = ReshardView::default();
        view.add("a", &record("a", "c", 20_000, 40_000));
        let moving = Topology::while_moving(&from, &to, &view).unwrap();
        let state = moving.moving().unwrap();
        let mut seen = [0; 3];
        for key in keys() {
            let (before, after) = (from.locate(&key).unwrap(), to.locate(&key).unwrap());
            let unit = unit_of(moving.hash_tag().of(&key));
            let moves = before.get() == 0 && after.get() == 2;
            let (owner, is_closed) = match (moves, unit) {
                (false, _) => (before, false),
                (true, 0..20_000) => (after, false),
                (true, 20_000..40_000) => (before, true),
                (true, _) => (before, false),
            };
            assert_eq!(moving.locate(&key), Some(owner));
            assert_eq!(state.is_closed(&key), is_closed);
            let shown = [before, after].map(|node| state.shows(node, &key));
            assert_eq!(
                shown,
                [is_closed || owner == before, is_closed || owner == after]
            );
            if moves {
                seen[usize::from(is_closed) + 2 * usize::from(owner == after)] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
    }

    #[test]
    fn all_units_at_their_targets_place_keys_as_afterwards() {
        let (from, to) = (topology(&["a", "b", "c"]), topology(&["d", "b", "a"]));
        let mut view = ReshardView::default();
        for source in ["a", "b", "c"] {
            for target in ["a", "b", "d"] {
                view.add(target, &record(source, target, UNITS, UNITS));
            }
        }
        let moving = Topology::while_moving(&from, &to, &view).unwrap();
        for key in keys() {
            let name = |topology: &Topology| {
                let index = topology.locate(&key).unwrap();
                topology.node(index).name().to_owned()
            };
            assert_eq!(name(&moving), name(&to));
        }
    }

    #[test]
    fn view_takes_what_has_moved_from_either_node_and_what_is_closed_from_the_source() {
        let mut view = ReshardView::default();
        view.add("a", &record("a", "b", 1, 5));
        view.add("b", &record("a", "b", 3, 3));
        let progress = |view: &ReshardView| {
            let Progress { moved, closed } = view.progress("a", "b");
            (moved, closed)
        };
        assert_eq!(progress(&view), (3, 5));
        // The target's record is never asked for what is closed.
        view.add("b", &record("a", "b", 3, 9));
        assert_eq!(progress(&view), (3, 5));
        // The source opens again.
        view.add("a", &record("a", "b", 3, 3));
        assert_eq!(progress(&view), (3, 3));
        assert_eq!(view.progress("b", "a"), Progress::default());
    }

    #[test]
    fn reshard_to_another_hash_tag_rule_is_refused() {
        let from = topology(&["a", "b"]);
        let whole = PhpRedis::range().with_hash_tag(HashTag::None);
        let to = Topology::new(from.nodes().to_vec(), Arc::new(whole)).unwrap();
        let error = Topology::while_moving(&from, &to, &ReshardView::default()).unwrap_err();
        assert!(error.to_string().contains("hash tag rule"), "{error}");
    }
}
