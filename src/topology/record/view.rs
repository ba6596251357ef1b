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
//! * A record is repaired only if no reshard is under way, nobody has claimed a term, and most of the other nodes name the
//!   topology in force: a change that the node may have missed is known to most nodes, so one of these would say so.

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
}

/// What is known of one node.
#[derive(Default)]
struct KnownNode {
    /// Its newest record, written to the server that it was read from.
    record: Option<NodeRecord>,
    /// What the node says instead, if that is no such record.
    problem: Option<RecordReading>,
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
    /// name another topology.
    pub(crate) fn disagrees(&self, node: &str, record: &NodeRecord) -> bool {
        let known = self.nodes.get(node).and_then(|node| node.record.as_ref());
        self.is_agreed
            && !self.is_changed
            && known == Some(record)
            && self.followed(node) != record.epoch
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

    /// Takes in what a node has said.
    ///
    /// # Errors
    ///
    /// If a text beside the record cannot be read.
    pub(crate) fn learn(&mut self, node: &str, reading: &RecordReading) -> Result<Learned, Error> {
        let texts = self.learn_texts(reading);
        let known = self.nodes.entry(node.to_owned()).or_default();
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
            return Ok(if is_known { Learned::Known } else { Learned::Lost });
        };
        let was_lost = known.problem.take().is_some();
        if known.record.as_ref() != Some(record) {
            known.record = Some(record.clone());
            self.is_changed = true;
        }
        let own = self.base.fingerprint();
        let target = record.reshard.as_ref().map(|reshard| reshard.to);
        if !self.is_agreed && (record.topology == own || target == Some(own)) {
            self.is_agreed = true;
        }
        texts?;
        Ok(match self.is_changed || was_lost {
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
            let topology = known.filter(|_| is_same).unwrap_or(topology);
            if !is_same && fingerprint == self.base.fingerprint() {
                self.base = topology.clone();
                self.is_changed = true;
            }
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
        self.nodes.retain(|name, _| topology.index_of(name).is_some());
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
            others.find(|other| {
                *other != own && 2 * count(*other) > all && term(*other) >= term(own)
            })
        });
        if let Some((topology, _)) = next.and_then(|next| self.topologies.get(&next)) {
            self.base = topology.clone();
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
                is_sound && *other != name && record.topology == own
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
