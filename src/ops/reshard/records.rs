//! The records that the mover writes: each is made from the one before it, in a newer epoch.

use crate::error::Error;
use crate::topology::record::{NodeRecord, PairRecord, Progress, RecordEpoch, ReshardRecord};

/// A node of either topology, and what it says of the fleet.
#[derive(Clone, Debug)]
pub(super) struct KnownNode {
    pub(super) name: String,
    /// True for a node that has keys before the reshard.
    pub(super) is_old: bool,
    pub(super) record: Option<NodeRecord>,
    /// The `run_id` of the server now.
    pub(super) run_id: String,
}

/// The two topologies, by their fingerprints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprints {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// How far a reshard has come, by the records of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No node knows of it.
    NotBegun,
    /// Some nodes have been told, or all.
    UnderWay,
    /// All keys have moved, and some nodes have the new topology already.
    Finishing,
    /// The new topology is in force at all nodes.
    Finished,
}

impl KnownNode {
    /// Checks that the record belongs to this reshard, or to the fleet before it.
    fn check(&self, all: Fingerprints) -> Result<(), Error> {
        let refuse = |text: String| {
            let text = format!("node {:?}: {text}", self.name);
            Err(Error::config(text).at_node(&self.name))
        };
        let Some(record) = &self.record else {
            return match self.is_old {
                true => refuse(
                    "it has no record of the fleet; `redis-sharding topology publish` writes one"
                        .into(),
                ),
                false => Ok(()),
            };
        };
        if let Some(reshard) = record
            .reshard
            .as_ref()
            .filter(|reshard| reshard.to != all.to)
        {
            return refuse(format!(
                "a reshard to the topology {:016x} is under way; finish or abort that one first",
                reshard.to
            ));
        }
        if self.is_old && self.is_unsealed() && record.reshard.is_none() && !record.is_retired {
            return refuse(
                "the server was restarted or replaced since its record was written, so its data may be old; once it is \
                 not, `redis-sharding topology publish` writes the record again"
                    .into(),
            );
        }
        let is_known = [all.from, all.to].contains(&record.topology);
        if !is_known && (self.is_old || !record.is_retired) {
            return refuse(format!(
                "its record has the topology {:016x}, and the fleet has {:016x}; is it a node of another fleet? \
                 `redis-sharding topology retire` removes the record of a node that is not used any more",
                record.topology, all.from
            ));
        }
        Ok(())
    }

    /// True if the server is another one than the record was written to, so that the record may be older than its own.
    fn is_unsealed(&self) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.seal != self.run_id)
    }

    /// True if the node has been told of the reshard.
    fn is_announced(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.reshard.is_some())
    }

    /// True if the node says that the new topology is in force.
    fn is_finished(&self, all: Fingerprints) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.topology == all.to && record.reshard.is_none())
    }
}

/// Refuses a target that says less than its sources: units are called moved by the target first, so it was restarted with
/// older data or none, and keys that were moved to it may be lost.
fn check_restarted(nodes: &[KnownNode], all: Fingerprints) -> Result<(), Error> {
    for target in nodes.iter().filter(|node| !node.is_finished(all)) {
        let of = |node: &KnownNode, source: &KnownNode| {
            let record = node.record.as_ref()?;
            Some(record.progress(&source.name, &target.name)?.moved)
        };
        let is_ahead = |source: &&KnownNode| match (of(source, source), of(target, source)) {
            // A server that runs on has lost nothing: its record was read before that of the source, while a mover went on.
            (Some(known), Some(own)) => target.is_unsealed() && known > own,
            (Some(known), None) => known > 0,
            (None, _) => false,
        };
        if let Some(source) = nodes.iter().find(is_ahead) {
            let text = format!(
                "node {:?}: the server was restarted with older data than it had when keys were moved to it from node {:?}; \
                 restore its newest data",
                target.name, source.name
            );
            return Err(Error::config(text).at_node(&target.name));
        }
    }
    Ok(())
}

/// Decides how far the reshard has come.
///
/// # Errors
///
/// If a node belongs to another fleet, was restarted with old data, or another reshard is under way.
pub(super) fn stage(nodes: &[KnownNode], all: Fingerprints) -> Result<Stage, Error> {
    nodes.iter().try_for_each(|node| node.check(all))?;
    check_restarted(nodes, all)?;
    let told = nodes.iter().any(KnownNode::is_announced);
    // The two are equal if only addresses differ, and there is nothing to do.
    let finished = |node: &KnownNode| node.is_finished(all);
    Ok(
        match (nodes.iter().all(finished), nodes.iter().any(finished)) {
            (true, _) => Stage::Finished,
            (false, true) if all.from != all.to => Stage::Finishing,
            _ if told => Stage::UnderWay,
            _ => Stage::NotBegun,
        },
    )
}

/// The term that a mover claims: one that nobody has had.
pub(super) fn next_term<'r>(records: impl Iterator<Item = &'r NodeRecord>) -> u32 {
    let terms = records.map(|record| record.epoch.term);
    terms.max().unwrap_or_default().saturating_add(1)
}

/// True if so many of all nodes are more than half.
pub(super) fn is_majority(nodes: usize, all: usize) -> bool {
    2 * nodes > all
}

/// The record of a node whose term this mover claims. What else it says stays.
pub(super) fn claimed(node: &KnownNode, from: u64, term: u32, mover: &str) -> NodeRecord {
    let claimed = RecordEpoch::new(term, 1);
    let record = node.record.clone().unwrap_or_else(|| NodeRecord {
        epoch: claimed,
        topology: from,
        seal: String::new(),
        // It does not belong to the fleet before it is told of the reshard.
        is_retired: true,
        mover: None,
        reshard: None,
    });
    NodeRecord {
        epoch: claimed.max(record.epoch.next()),
        seal: node.run_id.clone(),
        mover: Some(mover.to_owned()),
        ..record
    }
}

/// The record that tells a node of the reshard. Pairs that it knows already stay as they are.
pub(super) fn announced(
    record: &NodeRecord,
    all: Fingerprints,
    pairs: &[(&str, &str)],
) -> NodeRecord {
    let pairs = pairs.iter().map(|(source, target)| PairRecord {
        source: (*source).to_owned(),
        target: (*target).to_owned(),
        progress: record.progress(source, target).unwrap_or_default(),
    });
    NodeRecord {
        epoch: record.epoch.next(),
        topology: all.from,
        is_retired: false,
        reshard: Some(ReshardRecord {
            to: all.to,
            pairs: pairs.collect(),
        }),
        ..record.clone()
    }
}

/// The record with another progress of one pair.
pub(super) fn with_progress(
    record: &NodeRecord,
    source: &str,
    target: &str,
    progress: Progress,
) -> NodeRecord {
    let mut next = record.clone();
    next.epoch = record.epoch.next();
    let pairs = next
        .reshard
        .iter_mut()
        .flat_map(|reshard| &mut reshard.pairs);
    for pair in pairs.filter(|pair| pair.source == source && pair.target == target) {
        pair.progress = progress;
    }
    next
}

/// The last record of a reshard that ends with this topology.
pub(super) fn ended(record: &NodeRecord, topology: u64, is_member: bool) -> NodeRecord {
    NodeRecord {
        epoch: record.epoch.next(),
        topology,
        is_retired: !is_member,
        mover: None,
        reshard: None,
        ..record.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::record::UNITS;

    const ALL: Fingerprints = Fingerprints { from: 1, to: 2 };

    fn record(topology: u64) -> NodeRecord {
        NodeRecord {
            epoch: RecordEpoch::new(3, 4),
            topology,
            seal: "run".into(),
            is_retired: false,
            mover: None,
            reshard: None,
        }
    }

    fn node(name: &str, is_old: bool, record: Option<NodeRecord>) -> KnownNode {
        KnownNode {
            name: name.into(),
            is_old,
            record,
            run_id: "run".into(),
        }
    }

    fn announced_record() -> NodeRecord {
        announced(&record(1), ALL, &[("a", "b"), ("a", "c")])
    }

    #[test]
    fn stage_of_a_reshard_is_read_from_all_records() {
        let stage = |a: NodeRecord, b: Option<NodeRecord>| {
            stage(&[node("a", true, Some(a)), node("b", false, b)], ALL)
        };
        assert_eq!(stage(record(1), None).unwrap(), Stage::NotBegun);
        assert_eq!(stage(announced_record(), None).unwrap(), Stage::UnderWay);
        let finishing = stage(announced_record(), Some(record(2)));
        assert_eq!(finishing.unwrap(), Stage::Finishing);
        assert_eq!(stage(record(2), Some(record(2))).unwrap(), Stage::Finished);
    }

    #[test]
    fn records_of_other_fleets_and_reshards_are_refused() {
        let refusal = |node: KnownNode| stage(&[node], ALL).unwrap_err().to_string();
        let missing = refusal(node("a", true, None));
        assert!(missing.contains("topology publish"), "{missing}");
        let other = refusal(node("a", true, Some(record(9))));
        assert!(other.contains("another fleet"), "{other}");
        let mut reshard = announced_record();
        reshard.reshard.as_mut().unwrap().to = 7;
        let other = refusal(node("a", true, Some(reshard)));
        assert!(other.contains("0000000000000007 is under way"), "{other}");
        // A node that has left another fleet, or this one, may be used again.
        let mut retired = record(9);
        retired.is_retired = true;
        assert!(stage(&[node("e", false, Some(retired))], ALL).is_ok());
    }

    #[test]
    fn target_that_was_restarted_with_older_data_is_refused() {
        let moving = |moved| {
            let progress = Progress {
                moved,
                closed: moved,
            };
            Some(with_progress(&announced_record(), "a", "b", progress))
        };
        let stage = |source, target, run_id: &str| {
            let mut target = node("b", false, moving(target));
            target.run_id = run_id.into();
            stage(&[node("a", true, moving(source)), target], ALL)
        };
        assert!(stage(9, 4, "run").is_ok());
        assert!(stage(9, 9, "later").is_ok());
        assert!(stage(4, 9, "run").is_ok());
        let refusal = stage(9, 4, "later").unwrap_err().to_string();
        assert!(refusal.contains("restarted with older data"), "{refusal}");
        let emptied = [node("a", true, moving(9)), node("b", false, None)];
        assert!(super::stage(&emptied, ALL).is_err());
        let ended = [
            node("a", true, moving(9)),
            node("b", false, Some(record(2))),
        ];
        assert_eq!(super::stage(&ended, ALL).unwrap(), Stage::Finishing);
        let mut restarted = node("a", true, Some(record(1)));
        restarted.run_id = "later".into();
        let refusal = super::stage(&[restarted], ALL).unwrap_err().to_string();
        assert!(refusal.contains("topology publish"), "{refusal}");
    }

    #[test]
    fn claim_takes_a_term_that_nobody_has_had() {
        let records = [record(1), record(1)];
        assert_eq!(next_term(records.iter()), 4);
        assert_eq!(next_term([].iter()), 1);
        assert_eq!(
            [1, 2, 3].map(|nodes| is_majority(nodes, 4)),
            [false, false, true]
        );
        let mut old = node("a", true, Some(announced_record()));
        old.run_id = "later".into();
        assert!(old.is_unsealed());
        let claimed_record = claimed(&old, 1, 4, "m-1");
        assert_eq!(claimed_record.epoch, RecordEpoch::new(4, 1));
        assert_eq!(
            (&*claimed_record.seal, claimed_record.mover.as_deref()),
            ("later", Some("m-1"))
        );
        assert_eq!(claimed_record.reshard, announced_record().reshard);
        let fresh = claimed(&node("e", false, None), 1, 4, "m-1");
        assert!(fresh.is_retired && fresh.topology == 1 && fresh.reshard.is_none());
    }

    #[test]
    fn announcement_keeps_the_progress_of_a_reshard_under_way() {
        let first = announced_record();
        assert_eq!(first.progress("a", "b"), Some(Progress::default()));
        let moved = Progress {
            moved: 4,
            closed: 9,
        };
        let moving = with_progress(&first, "a", "b", moved);
        assert_eq!(moving.epoch, first.epoch.next());
        let again = announced(&moving, ALL, &[("a", "b"), ("a", "c")]);
        assert_eq!(again.progress("a", "b"), Some(moved));
        assert_eq!(again.progress("a", "c"), Some(Progress::default()));
    }

    #[test]
    fn last_record_has_the_topology_alone() {
        let moving = with_progress(
            &announced_record(),
            "a",
            "b",
            Progress {
                moved: UNITS,
                closed: UNITS,
            },
        );
        let stays = ended(&moving, 2, true);
        assert_eq!(
            (stays.topology, stays.is_retired, stays.mover),
            (2, false, None)
        );
        assert!(stays.reshard.is_none() && stays.epoch > moving.epoch);
        assert!(ended(&moving, 2, false).is_retired);
    }
}
