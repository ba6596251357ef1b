//! [`ReshardStatus`]: how far a reshard has come, by the records of the nodes.

use std::fmt;

use super::records::Stage;
use super::view::View;
use crate::error::Error;
use crate::topology::record::UNITS;

/// How far a reshard has come.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReshardStatus {
    /// Fingerprint of the topology that the reshard has begun with.
    pub from: u64,
    /// Fingerprint of the topology that it leads to.
    pub to: u64,
    /// How far it has come as a whole.
    pub stage: ReshardStage,
    /// How far each pair of nodes has come.
    pub pairs: Vec<PairStatus>,
    /// The movers that the records name: more than one if a takeover has not reached all nodes.
    pub movers: Vec<String>,
    /// True if a pause was [requested](super::Reshard::request_pause): nothing moves before it is resumed.
    pub is_paused: bool,
}

/// How far a reshard has come as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReshardStage {
    /// No node knows of it.
    NotBegun,
    /// It is under way: `run` goes on with it.
    UnderWay,
    /// All keys have moved, and not all nodes have the new topology yet: `run` ends it.
    Finishing,
    /// The new topology is in force at all nodes.
    Finished,
}

/// How far the keys between two nodes have moved.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PairStatus {
    /// The node that has the keys.
    pub source: String,
    /// The node that gets them.
    pub target: String,
    /// Units that have moved, of 65 536.
    pub moved: u32,
    /// Number of units that are closed: nobody can read or write their keys.
    pub closed: u32,
}

impl ReshardStatus {
    pub(super) fn of(view: &View) -> Result<Self, Error> {
        let stage = match view.stage()? {
            Stage::NotBegun => ReshardStage::NotBegun,
            Stage::UnderWay => ReshardStage::UnderWay,
            Stage::Finishing => ReshardStage::Finishing,
            Stage::Finished => ReshardStage::Finished,
        };
        let mut reshard = crate::topology::ReshardView::default();
        let mut names: Vec<(String, String)> = Vec::new();
        let mut movers: Vec<String> = Vec::new();
        for node in view.known()? {
            let Some(record) = &node.record else {
                continue;
            };
            reshard.add(&node.name, record);
            movers.extend(record.mover.clone());
            let pairs = record.reshard.iter().flat_map(|reshard| &reshard.pairs);
            names.extend(pairs.map(|pair| (pair.source.clone(), pair.target.clone())));
        }
        names.sort();
        names.dedup();
        movers.sort();
        movers.dedup();
        let pairs = names.into_iter().map(|(source, target)| {
            let progress = reshard.progress(&source, &target);
            PairStatus {
                source,
                target,
                moved: progress.moved,
                closed: progress.closed - progress.moved.min(progress.closed),
            }
        });
        Ok(Self {
            from: view.from.fingerprint(),
            to: view.to.fingerprint(),
            stage,
            pairs: pairs.collect(),
            movers,
            is_paused: stage == ReshardStage::UnderWay && view.is_paused(),
        })
    }

    /// The share of all units that have moved, from 0 to 1.
    pub fn share(&self) -> f64 {
        match (self.stage, self.pairs.len()) {
            (ReshardStage::Finished | ReshardStage::Finishing, _) => 1.0,
            (_, 0) => 0.0,
            (_, pairs) => {
                let moved: f64 = self.pairs.iter().map(|pair| f64::from(pair.moved)).sum();
                moved / (f64::from(UNITS) * pairs as f64)
            }
        }
    }
}

impl fmt::Display for ReshardStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            ReshardStage::NotBegun => "not begun",
            ReshardStage::UnderWay => "under way",
            ReshardStage::Finishing => "all keys have moved",
            ReshardStage::Finished => "finished",
        };
        let percent = 100.0 * self.share();
        let paused = match self.is_paused {
            true => "; paused, `redis-sharding reshard resume` goes on",
            false => "",
        };
        writeln!(
            f,
            "topology {:016x} -> {:016x}: {stage}, {percent:.1} %{paused}",
            self.from, self.to
        )?;
        for mover in &self.movers {
            writeln!(f, "mover {mover}")?;
        }
        for pair in &self.pairs {
            let PairStatus {
                source,
                target,
                moved,
                closed,
            } = pair;
            let percent = 100.0 * f64::from(*moved) / f64::from(UNITS);
            write!(f, "  {source} -> {target}: {percent:.1} %")?;
            match closed {
                0 => writeln!(f)?,
                closed => writeln!(f, ", {closed} units are closed")?,
            }
        }
        Ok(())
    }
}
