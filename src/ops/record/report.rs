//! What the nodes of a fleet say of their records.

use std::fmt;

use crate::error::Error;
use crate::ops::connection::FleetNode;
use crate::topology::Topology;
use crate::topology::record::requests::RecordReading;

/// What the nodes of a fleet say: see [`FleetRecord::check`](crate::ops::FleetRecord::check).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FleetReport {
    /// Fingerprint of the topology that the nodes were compared with.
    pub fingerprint: u64,
    /// The nodes, in the order of that topology.
    pub nodes: Vec<NodeReport>,
}

/// What one node says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeReport {
    /// Name of the node.
    pub node: String,
    /// Where it is reached.
    pub address: String,
    /// What its record is.
    pub state: RecordState,
    /// Term and number of its record, such as `3.17`. `None` without one.
    pub epoch: Option<String>,
    /// Fingerprint of the topology in force by its record. `None` without one.
    pub fingerprint: Option<u64>,
    /// Why it could not be asked.
    pub error: Option<Error>,
}

/// What the record of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordState {
    /// That of the topology, in the newest term.
    Current,
    /// That of the topology, while a reshard moves keys.
    Moving,
    /// That of the topology, but somebody has claimed the term and not finished: see
    /// [`FleetRecord::publish`](crate::ops::FleetRecord::publish), which ends that.
    Claimed,
    /// That of the topology in an older term than that of other nodes: a change has not arrived.
    Behind,
    /// That of the topology, with another text beside it, such as other addresses.
    OtherText,
    /// That of another topology.
    OtherTopology,
    /// There is none.
    Missing,
    /// It was written to another server, or before a restart: the data may be older than the record.
    Unsealed,
    /// The node has left the fleet.
    Retired,
    /// Unknown: the node cannot be asked.
    Unreachable,
}

impl FleetReport {
    /// Compares what nodes have said with the topology that they are to have.
    pub(super) fn new(
        topology: &Topology,
        asked: Vec<(FleetNode, Result<RecordReading, Error>)>,
    ) -> Self {
        let epochs = asked.iter().filter_map(|(_, asked)| asked.as_ref().ok());
        let terms = epochs.filter_map(|reading| Some(reading.epoch()?.term));
        let newest = terms.max().unwrap_or_default();
        let text = topology.to_string();
        let state = |reading: &RecordReading| {
            let Some(record) = &reading.record else {
                return RecordState::Missing;
            };
            let target = record.reshard.as_ref().map(|reshard| reshard.to);
            if reading.is_sealed() != Some(true) {
                RecordState::Unsealed
            } else if record.is_retired {
                RecordState::Retired
            } else if record.topology != topology.fingerprint()
                && target != Some(topology.fingerprint())
            {
                RecordState::OtherTopology
            } else if record.epoch.term < newest {
                RecordState::Behind
            } else if record.reshard.is_some() {
                RecordState::Moving
            } else if record.mover.is_some() {
                RecordState::Claimed
            } else if reading.texts.topology.as_deref() != Some(&text) {
                RecordState::OtherText
            } else {
                RecordState::Current
            }
        };
        let report = |(node, asked): (FleetNode, Result<RecordReading, Error>)| {
            let address = node.endpoint.address.clone();
            match asked {
                Ok(reading) => NodeReport {
                    node: node.name,
                    address,
                    state: state(&reading),
                    epoch: reading.epoch().map(|epoch| epoch.to_string()),
                    fingerprint: reading.record.map(|record| record.topology),
                    error: None,
                },
                Err(error) => NodeReport {
                    node: node.name,
                    address,
                    state: RecordState::Unreachable,
                    epoch: None,
                    fingerprint: None,
                    error: Some(error),
                },
            }
        };
        Self {
            fingerprint: topology.fingerprint(),
            nodes: asked.into_iter().map(report).collect(),
        }
    }

    /// True if clients of the topology can use every node.
    pub fn is_fine(&self) -> bool {
        self.nodes.iter().all(|node| node.state.is_fine())
    }
}

impl RecordState {
    /// True if clients of the topology can use the node.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Current | Self::Moving)
    }

    /// The state in words, for a report.
    pub fn text(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Moving => "current, during a reshard",
            Self::Claimed => "current, but claimed by somebody who has not finished",
            Self::Behind => "behind: of an older term than other nodes",
            Self::OtherText => "current, but with another text",
            Self::OtherTopology => "of another topology",
            Self::Missing => "missing",
            Self::Unsealed => "unsealed: of another server, or of before a restart",
            Self::Retired => "retired",
            Self::Unreachable => "out of reach",
        }
    }
}

impl fmt::Display for RecordState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
