//! What the record of a node means for a new connection: may it be used?
//!
//! | the record | the connection |
//! |---|---|
//! | is the one that the client goes by | is used |
//! | has a newer epoch | is not used: what the record says is followed first |
//! | is missing, or cannot be read | is refused |
//! | was written to another server (restored, copied or restarted) | is refused: it may be older than the data |
//! | has an older epoch | is refused: the node has lost a change |
//! | has the same epoch and another topology | is refused: the node belongs to another fleet |
//! | says that the node has left the fleet | is refused |

use std::fmt;

use crate::topology::record::{NodeRecord, RecordEpoch, RecordReply};

/// What a client goes by at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) epoch: RecordEpoch,
    /// Fingerprint of the topology in force.
    pub(crate) topology: u64,
}

/// What the record of a node means for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordDecision {
    /// It is the record that the client goes by.
    Current,
    /// It is newer, and to be followed first.
    Newer(Box<NodeRecord>),
    /// The connection must not be used.
    Refused(RecordProblem),
}

/// What is wrong with the record of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordProblem {
    /// There is none.
    Missing,
    /// It cannot be read, for this reason.
    Unreadable(String),
    /// It was written to another server, or before a restart.
    OtherServer,
    /// Its epoch is older than the one that the client has seen.
    Older {
        found: RecordEpoch,
        followed: RecordEpoch,
    },
    /// It names another topology.
    OtherTopology { found: u64, followed: u64 },
    /// The node has left the fleet.
    Retired,
}

/// What the record of a node means for a connection that has presented this epoch.
pub(crate) fn judge(followed: Followed, reply: &RecordReply) -> RecordDecision {
    let record = match reply.sealed() {
        Ok(record) => record,
        Err(problem) => return RecordDecision::Refused(problem),
    };
    if record.epoch > followed.epoch {
        return RecordDecision::Newer(Box::new(record));
    }
    if record.epoch < followed.epoch {
        return RecordDecision::Refused(RecordProblem::Older {
            found: record.epoch,
            followed: followed.epoch,
        });
    }
    if record.topology != followed.topology {
        return RecordDecision::Refused(RecordProblem::OtherTopology {
            found: record.topology,
            followed: followed.topology,
        });
    }
    match record.is_retired {
        true => RecordDecision::Refused(RecordProblem::Retired),
        false => RecordDecision::Current,
    }
}

/// The error text behind the name of the node, with the remedy.
impl fmt::Display for RecordProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "it keeps no record of its fleet; publish it with `redis-sharding topology publish`",
            ),
            Self::Unreadable(why) => write!(
                f,
                "{why}; look at it with `redis-sharding topology show`, and publish it again with \
                 `redis-sharding topology publish`"
            ),
            Self::OtherServer => f.write_str(
                "its record was written to another server, or before a restart, so its data may be older than the \
                 record; check it with `redis-sharding topology check`, and publish the record again with \
                 `redis-sharding topology publish`",
            ),
            Self::Older { found, followed } => write!(
                f,
                "its record is older than the one that this client has seen (epoch {found} instead of {followed}): the \
                 server has lost a change; check it with `redis-sharding topology check`"
            ),
            Self::OtherTopology { found, followed } => write!(
                f,
                "its record is that of another topology (fingerprint {found:016x} instead of {followed:016x}); use \
                 that one, or publish this one with `redis-sharding topology publish`"
            ),
            Self::Retired => f.write_str(
                "it has left the fleet; use the topology of the other nodes, which `redis-sharding topology show` prints",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::record::requests::RecordTexts;

    const FOLLOWED: Followed = Followed {
        epoch: RecordEpoch::new(3, 17),
        topology: 0xabc,
    };

    fn record() -> NodeRecord {
        NodeRecord {
            epoch: FOLLOWED.epoch,
            topology: FOLLOWED.topology,
            seal: "run-1".to_owned(),
            is_retired: false,
            mover: None,
            reshard: None,
        }
    }

    fn judged(record: Option<&NodeRecord>) -> RecordDecision {
        let reply = RecordReply {
            record: record.map(ToString::to_string),
            run_id: "run-1".to_owned(),
            texts: RecordTexts::default(),
        };
        judge(FOLLOWED, &reply)
    }

    #[test]
    fn record_that_the_client_goes_by_opens_the_door() {
        assert_eq!(judged(Some(&record())), RecordDecision::Current);
    }

    #[test]
    fn newer_record_is_followed_first_whatever_else_it_says() {
        for epoch in [RecordEpoch::new(3, 18), RecordEpoch::new(4, 1)] {
            for is_retired in [false, true] {
                let newer = NodeRecord {
                    epoch,
                    is_retired,
                    topology: 0xdef,
                    ..record()
                };
                assert_eq!(judged(Some(&newer)), RecordDecision::Newer(Box::new(newer)));
            }
        }
    }

    #[test]
    fn missing_and_unreadable_records_are_refused() {
        let missing = judged(None);
        assert_eq!(missing, RecordDecision::Refused(RecordProblem::Missing));
        let reply = RecordReply {
            record: Some("redis-sharding record 2\n".to_owned()),
            run_id: "run-1".to_owned(),
            texts: RecordTexts::default(),
        };
        let judged = judge(FOLLOWED, &reply);
        assert!(matches!(
            judged,
            RecordDecision::Refused(RecordProblem::Unreadable(_))
        ));
    }

    #[test]
    fn record_of_another_server_is_refused_also_if_it_is_newer() {
        for number in [16, 17, 18] {
            let copied = NodeRecord {
                seal: "run-2".to_owned(),
                epoch: RecordEpoch::new(3, number),
                ..record()
            };
            let expected = RecordDecision::Refused(RecordProblem::OtherServer);
            assert_eq!(judged(Some(&copied)), expected);
        }
    }

    #[test]
    fn older_record_is_refused_also_if_it_is_that_of_another_topology() {
        let older = NodeRecord {
            epoch: RecordEpoch::new(2, 99),
            topology: 0xdef,
            ..record()
        };
        let problem = RecordProblem::Older {
            found: older.epoch,
            followed: FOLLOWED.epoch,
        };
        assert_eq!(judged(Some(&older)), RecordDecision::Refused(problem));
    }

    #[test]
    fn other_topology_and_retired_nodes_are_refused() {
        let other = NodeRecord {
            topology: 0xdef,
            is_retired: true,
            ..record()
        };
        let problem = RecordProblem::OtherTopology {
            found: 0xdef,
            followed: 0xabc,
        };
        assert!(
            problem
                .to_string()
                .contains("0000000000000def instead of 0000000000000abc")
        );
        assert_eq!(judged(Some(&other)), RecordDecision::Refused(problem));
        let retired = NodeRecord {
            is_retired: true,
            ..record()
        };
        let expected = RecordDecision::Refused(RecordProblem::Retired);
        assert_eq!(judged(Some(&retired)), expected);
    }
}
