//! [`RecordView`]: what a client knows of the records of all nodes, and which topology follows from it.
//!
//! ```text
//! readings of the nodes ──▶ RecordView ──┬─▶ topology and epochs to go by, when they change
//! texts beside the records ─▶            └─▶ records to be repaired: of nodes that have lost theirs
//! ```
//!
//! * A reshard from the topology in force is followed as soon as one node names it.
//! * Another topology is followed if a reshard has led to it, or if most nodes name it; a client whose own topology no node
//!   has ever named follows none.
//! * A record is repaired only if no reshard is under way, nobody has claimed a term, and most of the other nodes, asked
//!   again, name the topology in force: a change that the node may have missed is known to most nodes, so one of these would
//!   say so.

use std::collections::{BTreeMap, HashMap};

use super::requests::{RecordReading, RecordTexts};
use super::{NodeRecord, RecordEpoch};
use crate::error::Error;
use crate::topology::{ReshardView, Topology};

/// What a client knows of the records of all nodes.
pub(crate) struct RecordView {
    /// The topology in force, or the one that a reshard leads from.
    base: Topology,
    /// The topology that the reshard leads to.
    target: Option<Topology>,
    /// True once a node has named the client's own topology.
    is_agreed: bool,
    /// By name.
    nodes: BTreeMap<String, KnownNode>,
    /// By fingerprint, with the term of the record that the text was beside.
    topologies: HashMap<u64, (Topology, u32)>,
    /// What was followed last.
    followed: BTreeMap<String, RecordEpoch>,
    /// True if something has changed that `followed` does not contain.
    is_changed: bool,
    /// Number of times that a node has lost its record, or named another topology. What the others have said before does not
    /// count for what follows: they may have been cut off from here since, and go by another topology.
    doubts: u64,
}

/// What is known of one node.
#[derive(Default)]
struct KnownNode {
    /// Its newest record, written to the server that it was read from.
    record: Option<NodeRecord>,
    /// What the node says instead, if that is no such record.
    problem: Option<RecordReading>,
    /// Number of doubts that were known when its record was asked for last.
    asked_after: u64,
}

/// What a client is to go by.
pub(crate) struct FollowedFleet {
    pub(crate) topology: Topology,
    /// By the name of the node. A node that is missing has said nothing yet that could be followed.
    pub(crate) epochs: BTreeMap<String, RecordEpoch>,
}

/// A record that a node has lost, to be written again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Repair {
    pub(crate) node: String,
    /// The epoch that the node says it has.
    pub(crate) expected: Option<RecordEpoch>,
    pub(crate) record: NodeRecord,
    pub(crate) texts: RecordTexts,
}

/// What a reading has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// Nothing new.
    Known,
    /// Something new.
    News,
    /// The node has lost its record, or has one that was written to another server, or an older one.
    Lost,
}

impl RecordView {
    /// The view of a client that begins with this topology.
    pub(crate) fn new(own: Topology) -> Self {
        let topologies = HashMap::from([(own.fingerprint(), (own.clone(), 0))]);
        Self {
            base: own,
            target: None,
            is_agreed: false,
            nodes: BTreeMap::new(),
            topologies,
            followed: BTreeMap::new(),
            is_changed: false,
            doubts: 0,
        }
    }

    /// The fingerprint of the topology in force.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.base.fingerprint()
    }

    /// The epoch that is followed at a node. Zero for none.
    pub(crate) fn followed(&self, node: &str) -> RecordEpoch {
        self.followed.get(node).copied().unwrap_or_default()
    }

    /// True if the texts beside this record are to be read: it names a topology that is not known, or the texts may have
    /// changed with the term.
    pub(crate) fn wants_texts(&self, record: &NodeRecord) -> bool {
        let target = record.reshard.as_ref().map(|reshard| reshard.to);
        let is_unknown = |fingerprint: u64| !self.topologies.contains_key(&fingerprint);
        let is_newer = self
            .topologies
            .get(&record.topology)
            // While a term is claimed and nothing was changed yet, the text is still that of the former one.
            .is_some_and(|(_, term)| record.mover.is_none() && record.epoch.term > *term);
        is_unknown(record.topology) || target.is_some_and(is_unknown) || is_newer
    }

    /// True if the client does not go by this topology and will not, as far as can be said now: no node has ever named its
    /// own.
    pub(crate) fn is_foreign(&self, record: &NodeRecord) -> bool {
        let own = self.base.fingerprint();
        let target = record.reshard.as_ref().map(|reshard| reshard.to);
        !self.is_agreed && record.topology != own && target != Some(own)
    }

    /// True if a node has this record, and the client does not go by it although it knows all that it can: most other nodes
    /// name another topology, and have been asked since. A client that was stopped for a while meets one node first.
    pub(crate) fn disagrees(&self, node: &str, record: &NodeRecord) -> bool {
        let known = self.nodes.get(node).and_then(|node| node.record.as_ref());
        self.is_agreed
            && !self.is_changed
            && known == Some(record)
            && self.followed(node) != record.epoch
            && !self.may_follow(record.topology)
    }

    /// True if most nodes may name this topology by now: they do, as far as they have been asked since one of them did.
    fn may_follow(&self, fingerprint: u64) -> bool {
        let nodes = self.base.nodes().iter().map(|node| node.name());
        let known = |name| {
            let node = self.nodes.get(name);
            let record = node.and_then(|node| node.record.as_ref());
            let names_it = record.is_some_and(|record| record.topology == fingerprint);
            (
                names_it,
                node.is_some_and(|node| node.asked_after >= self.doubts),
            )
        };
        let (all, mut named, mut unasked) = (self.base.nodes().len(), 0, 0);
        for name in nodes {
            match known(name) {
                (true, _) => named += 1,
                (false, true) => {}
                (false, false) => unasked += 1,
            }
        }
        // Without its text it cannot be followed yet either.
        let has_text = self.topologies.contains_key(&fingerprint);
        2 * (named + unasked) > all && (unasked > 0 || !has_text)
    }

    /// A node whose record names a topology that is not known.
    pub(crate) fn node_with_texts(&self) -> Option<&str> {
        let is_unknown = |record: &NodeRecord| {
            let target = record.reshard.as_ref().map(|reshard| reshard.to);
            let mut named = target.into_iter().chain([record.topology]);
            named.any(|fingerprint| !self.topologies.contains_key(&fingerprint))
        };
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|(_, node)| node.record.as_ref().is_some_and(is_unknown));
        found.map(|(name, _)| name.as_str())
    }

    /// True if a reshard that has ended at other nodes leads here by this record: it places keys alike.
    pub(crate) fn has_led_here(&self, record: &NodeRecord) -> bool {
        let reshard = record.reshard.as_ref();
        reshard.is_some_and(|reshard| reshard.to == self.base.fingerprint())
    }

    /// Number of doubts so far, to be taken before a node is asked.
    pub(crate) fn doubts(&self) -> u64 {
        self.doubts
    }

    /// True if a node is to be asked again, as another one has lost its record since, or named another
    /// topology.
    pub(crate) fn is_to_be_asked(&self, node: &str) -> bool {
        let known = self.nodes.get(node);
        known.is_some_and(|known| known.asked_after < self.doubts)
    }

    /// Takes in what a node has said, which was asked when so many doubts were known.
    ///
    /// # Errors
    ///
    /// If a text beside the record cannot be read.
    pub(crate) fn learn(
        &mut self,
        node: &str,
        reading: &RecordReading,
        asked_after: u64,
    ) -> Result<Learned, Error> {
        let texts = self.learn_texts(reading);
        let known = self.nodes.entry(node.to_owned()).or_default();
        let is_confirmed = known.asked_after < asked_after;
        known.asked_after = known.asked_after.max(asked_after);
        let newest = known.record.as_ref().map(|record| record.epoch);
        let usable = reading.record.as_ref().filter(|record| {
            reading.is_sealed() == Some(true) && newest.is_none_or(|epoch| record.epoch >= epoch)
        });
        let Some(record) = usable else {
            let is_known = known
                .problem
                .as_ref()
                .is_some_and(|problem| problem.record == reading.record);
            known.problem = Some(reading.clone());
            texts?;
            if is_known {
                return Ok(Learned::Known);
            }
            self.doubts += 1;
            return Ok(Learned::Lost);
        };
        let was_lost = known.problem.take().is_some();
        let is_new = known.record.as_ref() != Some(record);
        if is_new {
            known.record = Some(record.clone());
            self.is_changed = true;
        }
        let own = self.base.fingerprint();
        let target = record.reshard.as_ref().map(|reshard| reshard.to);
        let moves_to = self.target.as_ref().map(Topology::fingerprint);
        let leads_elsewhere = record.topology != own && target != Some(own);
        if is_new && self.is_agreed && leads_elsewhere && moves_to != Some(record.topology) {
            self.doubts += 1;
        }
        if !self.is_agreed && (record.topology == own || target == Some(own)) {
            self.is_agreed = true;
        }
        texts?;
        Ok(match self.is_changed || was_lost || is_confirmed {
            true => Learned::News,
            false => Learned::Known,
        })
    }

    fn learn_texts(&mut self, reading: &RecordReading) -> Result<(), Error> {
        let Some(record) = &reading.record else {
            return Ok(());
        };
        let texts = [&reading.texts.topology, &reading.texts.target];
        for text in texts.into_iter().flatten() {
            let topology = match Topology::parse(text) {
                Ok(topology) => topology,
                // A rule of the application, which the client has from it.
                Err(_) if record.topology == self.base.fingerprint() => continue,
                Err(error) => return Err(error),
            };
            let term = record.epoch.term;
            let fingerprint = topology.fingerprint();
            let known = self.topologies.get(&fingerprint);
            if known.is_some_and(|(_, known)| *known >= term) {
                continue;
            }
            let is_same = known.is_some_and(|(known, _)| known.to_string() == topology.to_string());
            let known = known.map(|(known, _)| known.clone());
            // The one that is in use stays if nothing has changed.
            let is_first = known.is_none();
            let topology = known.filter(|_| is_same).unwrap_or(topology);
            if !is_same && fingerprint == self.base.fingerprint() {
                self.base = topology.clone();
                self.is_changed = true;
            }
            // What was named before its text was known may be followed now.
            self.is_changed |= is_first;
            self.topologies.insert(fingerprint, (topology, term));
        }
        Ok(())
    }

    /// What the client is to go by, if that has changed since the last call. `None` also while a text is missing.
    ///
    /// # Errors
    ///
    /// If the topologies of a reshard do not fit together.
    pub(crate) fn next(&mut self) -> Result<Option<FollowedFleet>, Error> {
        if !self.is_changed || !self.is_agreed {
            return Ok(None);
        }
        self.settle();
        let own = self.base.fingerprint();
        let target = self.target_named();
        let topology = match target {
            None => {
                self.target = None;
                self.base.clone()
            }
            Some(to) => {
                let Some((target, _)) = self.topologies.get(&to) else {
                    return Ok(None);
                };
                self.target = Some(target.clone());
                let mut view = ReshardView::default();
                for (name, node) in &self.nodes {
                    let record = node.record.iter().find(|record| record.topology == own);
                    record.into_iter().for_each(|record| view.add(name, record));
                }
                Topology::while_moving(&self.base, target, &view)?
            }
        };
        let names = topology.nodes().iter().map(|node| node.name());
        let epoch = |name: &str| {
            let record = self.nodes.get(name)?.record.as_ref()?;
            // The last: a reshard that has ended at other nodes.
            let leads_to = record.reshard.as_ref().map(|reshard| reshard.to);
            let is_ours = record.topology == own || Some(record.topology) == target;
            let is_ours = is_ours || leads_to == Some(own);
            is_ours.then(|| (name.to_owned(), record.epoch))
        };
        let epochs: BTreeMap<String, RecordEpoch> = names.filter_map(epoch).collect();
        self.nodes
            .retain(|name, _| topology.index_of(name).is_some());
        self.is_changed = false;
        self.followed.clone_from(&epochs);
        Ok(Some(FollowedFleet { topology, epochs }))
    }

    /// Goes over to another topology if the records say that it is in force.
    fn settle(&mut self) {
        let own = self.base.fingerprint();
        let of = |fingerprint: u64| {
            let records = self.nodes.values().filter_map(|node| node.record.as_ref());
            records.filter(move |record| record.topology == fingerprint)
        };
        // A reshard that was followed has ended.
        let moved = self.target.as_ref().map(Topology::fingerprint);
        let moved = moved.filter(|target| of(*target).any(|record| !record.is_retired));
        // Or most nodes say so, in a newer term than those that do not.
        let term = |fingerprint| of(fingerprint).map(|record| record.epoch.term).max();
        let count = |fingerprint: u64| {
            let nodes = self.base.nodes().iter();
            let named = nodes.filter(|node| {
                let known = self.nodes.get(node.name());
                let record = known.and_then(|node| node.record.as_ref());
                record.is_some_and(|record| record.topology == fingerprint)
            });
            named.count()
        };
        let all = self.base.nodes().len();
        let mut others = self.topologies.keys().copied();
        let next = moved.or_else(|| {
            others
                .find(|other| *other != own && 2 * count(*other) > all && term(*other) >= term(own))
        });
        if let Some((topology, _)) = next.and_then(|next| self.topologies.get(&next)) {
            self.base = topology.clone().after(&self.base);
            self.target = None;
        }
    }

    /// The topology that a reshard leads to from the one in force.
    fn target_named(&self) -> Option<u64> {
        let own = self.base.fingerprint();
        let records = self.nodes.values().filter_map(|node| node.record.as_ref());
        let mut records = records.filter(|record| record.topology == own);
        records.find_map(|record| Some(record.reshard.as_ref()?.to))
    }

    /// The records that are to be written again, as far as that may be done.
    pub(crate) fn repairs(&self) -> Vec<Repair> {
        let own = self.base.fingerprint();
        let records = || {
            let nodes = self.nodes.iter();
            nodes.filter_map(|(name, node)| Some((name, node.record.as_ref()?, &node.problem)))
        };
        let is_changing =
            records().any(|(_, record, _)| record.reshard.is_some() || record.mover.is_some());
        if is_changing || !self.is_agreed || self.target.is_some() {
            return Vec::new();
        }
        let term = records()
            .map(|(_, record, _)| record.epoch.term)
            .max()
            .unwrap_or_default();
        let nodes = self.base.nodes().iter();
        let lost = nodes.filter_map(|node| {
            let known = self.nodes.get(node.name())?;
            Some((node.name(), known, known.problem.as_ref()?))
        });
        let repair = |(name, known, problem): (&str, &KnownNode, &RecordReading)| {
            let agreeing = records().filter(|(other, record, problem)| {
                let is_sound = problem.is_none() && !record.is_retired;
                let is_asked = !self.is_to_be_asked(other);
                is_sound && is_asked && *other != name && record.topology == own
            });
            let others = self.base.nodes().len() - 1;
            if others > 0 && 2 * agreeing.count() <= others {
                return None;
            }
            let said = problem.record.as_ref();
            let may_differ = said.is_some_and(|said| {
                said.topology != own || said.is_retired || said.reshard.is_some()
            });
            let newest = known.record.as_ref().map(|record| record.epoch);
            let epoch = newest.max(said.map(|said| said.epoch));
            let epoch = epoch.filter(|epoch| epoch.term >= term);
            let record = NodeRecord {
                epoch: epoch.unwrap_or(RecordEpoch::new(term, 1)),
                topology: own,
                seal: problem.run_id.clone(),
                is_retired: false,
                mover: None,
                reshard: None,
            };
            (!may_differ && term > 0).then(|| Repair {
                node: name.to_owned(),
                expected: problem.epoch(),
                record,
                texts: RecordTexts {
                    topology: Some(self.base.to_string()),
                    target: None,
                },
            })
        };
        lost.filter_map(repair).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::partition::{NodeSpec, Rendezvous};
    use crate::topology::record::{PairRecord, Progress, ReshardRecord};

    fn topology(names: &[&str]) -> Topology {
        let node = |name: &&str| NodeSpec::new(*name, format!("{name}:6379"));
        let nodes = names.iter().map(node).collect();
        Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap()
    }

    fn record(epoch: (u32, u32), topology: &Topology) -> NodeRecord {
        NodeRecord {
            epoch: RecordEpoch::new(epoch.0, epoch.1),
            topology: topology.fingerprint(),
            seal: "run".into(),
            is_retired: false,
            mover: None,
            reshard: None,
        }
    }

    fn reading(record: NodeRecord) -> RecordReading {
        RecordReading {
            record: Some(record),
            run_id: "run".into(),
            texts: RecordTexts::default(),
        }
    }

    fn empty() -> RecordReading {
        RecordReading {
            record: None,
            run_id: "other".into(),
            texts: RecordTexts::default(),
        }
    }

    fn with_texts(
        reading: RecordReading,
        topology: &Topology,
        target: Option<&Topology>,
    ) -> RecordReading {
        RecordReading {
            texts: RecordTexts {
                topology: Some(topology.to_string()),
                target: target.map(Topology::to_string),
            },
            ..reading
        }
    }

    /// A view of three nodes that have all named its topology.
    fn agreed() -> (RecordView, Topology) {
        let own = topology(&["a", "b", "c"]);
        let mut view = RecordView::new(own.clone());
        for name in ["a", "b", "c"] {
            let reading = reading(record((1, 1), &own));
            assert_eq!(view.learn(name, &reading, 0).unwrap(), Learned::News);
        }
        let next = view.next().unwrap().unwrap();
        assert_eq!(next.epochs.len(), 3);
        assert_eq!(next.topology.fingerprint(), own.fingerprint());
        assert!(view.next().unwrap().is_none());
        (view, own)
    }

    #[test]
    fn view_follows_each_node_that_names_the_own_topology() {
        let own = topology(&["a", "b"]);
        let mut view = RecordView::new(own.clone());
        let newest = record((3, 7), &own);
        assert!(!view.is_foreign(&newest));
        view.learn("b", &reading(newest.clone()), 0).unwrap();
        let next = view.next().unwrap().unwrap();
        assert_eq!(
            next.epochs,
            BTreeMap::from([("b".to_owned(), RecordEpoch::new(3, 7))])
        );
        assert_eq!(view.followed("b"), RecordEpoch::new(3, 7));
        assert_eq!(view.followed("a"), RecordEpoch::default());
        assert_eq!(
            view.learn("b", &reading(newest), 0).unwrap(),
            Learned::Known
        );
    }

    #[test]
    fn view_whose_topology_no_node_has_named_follows_none() {
        let (own, other) = (topology(&["a", "b"]), topology(&["a", "b", "c"]));
        let mut view = RecordView::new(own);
        for name in ["a", "b"] {
            let record = record((1, 1), &other);
            assert!(view.is_foreign(&record));
            assert_eq!(view.wants_texts(&record), name == "a");
            view.learn(name, &with_texts(reading(record), &other, None), 0)
                .unwrap();
        }
        assert!(view.next().unwrap().is_none());
        assert!(view.repairs().is_empty());
    }

    #[test]
    fn view_goes_over_to_another_topology_once_most_nodes_name_it() {
        let (mut view, own) = agreed();
        let other = topology(&["a", "b", "c", "d"]);
        let named = || with_texts(reading(record((2, 1), &other)), &other, None);
        view.learn("a", &named(), 0).unwrap();
        let next = view.next().unwrap().unwrap();
        assert_eq!(next.topology.fingerprint(), own.fingerprint());
        // What it names is not followed there yet, so nothing is sent to it.
        assert!(!next.epochs.contains_key("a"));
        // The others may name it by now.
        assert!(!view.disagrees("a", &record((2, 1), &other)));
        assert!(view.is_to_be_asked("b") && view.is_to_be_asked("c"));
        let doubts = view.doubts();
        for (name, disagrees) in [("b", false), ("c", true)] {
            view.learn(name, &reading(record((1, 1), &own)), doubts)
                .unwrap();
            assert_eq!(view.disagrees("a", &record((2, 1), &other)), disagrees);
        }
        view.learn("b", &named(), 0).unwrap();
        let next = view.next().unwrap().unwrap();
        assert_eq!(next.topology.fingerprint(), other.fingerprint());
        let epochs: Vec<&str> = next.epochs.keys().map(String::as_str).collect();
        assert_eq!(epochs, ["a", "b"]);
    }

    #[test]
    fn view_follows_a_topology_whose_text_comes_after_the_records() {
        let (mut view, _) = agreed();
        let other = topology(&["a", "b", "c", "d"]);
        for name in ["a", "b", "c"] {
            let named = reading(record((2, 1), &other));
            view.learn(name, &named, view.doubts()).unwrap();
            view.next().unwrap();
        }
        assert!(!view.disagrees("a", &record((2, 1), &other)));
        let named = with_texts(reading(record((2, 1), &other)), &other, None);
        view.learn("a", &named, view.doubts()).unwrap();
        let next = view.next().unwrap().unwrap();
        assert_eq!(next.topology.fingerprint(), other.fingerprint());
    }

    #[test]
    fn view_follows_a_reshard_from_its_first_record_to_its_first_end() {
        let (mut view, own) = agreed();
        let to = topology(&["a", "b", "c", "d"]);
        let moving = |number, moved, closed| NodeRecord {
            mover: Some("m".into()),
            reshard: Some(ReshardRecord {
                to: to.fingerprint(),
                pairs: vec![PairRecord {
                    source: "a".into(),
                    target: "d".into(),
                    progress: Progress { moved, closed },
                }],
            }),
            ..record((2, number), &own)
        };
        let announced = reading(moving(1, 0, 0));
        assert!(view.wants_texts(announced.record.as_ref().unwrap()));
        view.learn("a", &announced, 0).unwrap();
        // Nothing to go by before the text is known.
        assert!(view.next().unwrap().is_none());
        assert_eq!(view.node_with_texts(), Some("a"));
        view.learn("a", &with_texts(announced, &own, Some(&to)), 0)
            .unwrap();
        assert_eq!(view.node_with_texts(), None);
        let next = view.next().unwrap().unwrap();
        assert_eq!(next.topology.nodes().len(), 4);
        assert!(next.topology.moving().is_some());
        assert_eq!(next.epochs["a"], RecordEpoch::new(2, 1));
        assert_eq!(next.epochs["b"], RecordEpoch::new(1, 1));
        // While it is under way nothing is repaired.
        view.learn("b", &empty(), 0).unwrap();
        assert!(view.repairs().is_empty());
        view.learn("a", &reading(moving(2, 0, 9)), 0).unwrap();
        assert!(
            view.next()
                .unwrap()
                .unwrap()
                .topology
                .moving()
                .unwrap()
                .has_closed()
        );
        view.learn("d", &reading(record((2, 3), &to)), 0).unwrap();
        let next = view.next().unwrap().unwrap();
        assert_eq!(next.topology.fingerprint(), to.fingerprint());
        assert!(next.topology.moving().is_none());
        // A node where the end has not arrived yet places keys alike.
        assert_eq!(next.epochs["a"], RecordEpoch::new(2, 2));
        assert!(view.has_led_here(&moving(2, 0, 9)));
    }

    #[test]
    fn view_takes_over_other_addresses_in_a_newer_term() {
        let (mut view, own) = agreed();
        let moved = own.to_string().replace("b:6379", "b:6380");
        let moved = Topology::parse(&moved).unwrap();
        assert_eq!(moved.fingerprint(), own.fingerprint());
        let claimed = NodeRecord {
            mover: Some("p".into()),
            ..record((2, 0), &own)
        };
        assert!(!view.wants_texts(&claimed));
        assert!(view.wants_texts(&record((2, 1), &own)));
        let named = with_texts(reading(record((2, 1), &own)), &moved, None);
        view.learn("a", &named, 0).unwrap();
        let next = view.next().unwrap().unwrap();
        assert_eq!(next.topology.nodes()[1].address(), "b:6380");
        assert!(!view.wants_texts(&record((2, 1), &own)));
    }

    #[test]
    fn lost_record_is_repaired_once_most_other_nodes_were_asked_again() {
        let (mut view, own) = agreed();
        assert_eq!(view.learn("b", &empty(), 0).unwrap(), Learned::Lost);
        assert_eq!(view.learn("b", &empty(), 0).unwrap(), Learned::Known);
        // What they have said before may be out of date.
        assert!(view.repairs().is_empty());
        assert!(view.is_to_be_asked("a") && view.is_to_be_asked("c"));
        let doubts = view.doubts();
        let again = || reading(record((1, 1), &own));
        assert_eq!(view.learn("a", &again(), doubts).unwrap(), Learned::News);
        assert!(view.repairs().is_empty());
        view.learn("c", &again(), doubts).unwrap();
        let repairs = view.repairs();
        assert_eq!(repairs.len(), 1);
        assert_eq!((&*repairs[0].node, repairs[0].expected), ("b", None));
        let expected = NodeRecord {
            seal: "other".into(),
            ..record((1, 1), &own)
        };
        assert_eq!(repairs[0].record, expected);
        assert_eq!(repairs[0].texts.topology, Some(own.to_string()));
        let repaired = RecordReading {
            record: Some(expected),
            ..empty()
        };
        assert_eq!(view.learn("b", &repaired, doubts).unwrap(), Learned::News);
        assert!(view.repairs().is_empty());
    }

    #[test]
    fn record_of_another_server_is_repaired_only_if_it_names_the_same_topology() {
        for (epoch, names, is_repaired) in [
            ((1, 1), &["a", "b", "c"][..], true),
            ((1, 0), &["a", "b", "c"], true),
            ((1, 1), &["a", "b"], false),
        ] {
            let (mut view, own) = agreed();
            let copied = RecordReading {
                run_id: "other".into(),
                ..reading(record(epoch, &topology(names)))
            };
            view.learn("b", &copied, 0).unwrap();
            let doubts = view.doubts();
            for name in ["a", "c"] {
                view.learn(name, &reading(record((1, 1), &own)), doubts)
                    .unwrap();
            }
            let repairs = view.repairs();
            assert_eq!(!repairs.is_empty(), is_repaired, "{repairs:?}");
            let is_sealed = |repair: &Repair| {
                repair.record.seal == "other" && repair.record.epoch == RecordEpoch::new(1, 1)
            };
            assert!(repairs.iter().all(is_sealed));
        }
    }

    #[test]
    fn record_is_not_repaired_while_a_term_is_claimed() {
        let (mut view, own) = agreed();
        view.learn("b", &empty(), 0).unwrap();
        let doubts = view.doubts();
        view.learn("a", &reading(record((1, 1), &own)), doubts)
            .unwrap();
        let claimed = NodeRecord {
            mover: Some("m".into()),
            ..record((2, 0), &own)
        };
        view.learn("c", &reading(claimed), doubts).unwrap();
        assert!(view.repairs().is_empty());
    }
}
