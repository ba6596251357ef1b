//! What a node says of the fleet that it belongs to.
//!
//! A plain server never replies MOVED: it does not know that there are other nodes. In a fleet that wants a referee, each
//! node therefore keeps a *record*: which topology is in force, and, while a reshard moves keys, which units of the
//! node's keys are where. Clients read it in the handshake of every connection, and are told when it changes.
//!
//! The record is a text, and a file format: what one version writes, every later one reads.
//!
//! ```text
//! redis-sharding record 1
//! epoch 3.17
//! topology 8c1f6d0a51f7c2e4
//! seal 1f0c4ea7b1f24d6d8b5e0a7d0f6f3a0c6f1f1d2e
//! mover m-7f3a
//! to 0b7e19d2f40c86a1
//! pair 4096 4352 "a" "e"
//! ```
//!
//! * `epoch`: term and number. Records of one node are ordered by it; those of different nodes count by themselves.
//! * `topology`: the fingerprint of the topology in force. Its text is kept beside the record.
//! * `seal`: the `run_id` of the server that the record was written to. Another server has it from a copy, which may be old.
//! * `retired`: the node has left the fleet.
//! * `mover`: who has claimed the term, to change what is where.
//! * `to`: the fingerprint of the topology that a reshard leads to.
//! * `pair`: of the keys that move from the first node to the second, the units below the first number are at the second
//!   node, and those from there to the second number are closed: nobody may read or write them.
//!
//! `check` decides what a record means for a new connection; `name` has the names of connections, and `script` the scripts
//! that clients send. `requests` are those that read and write the record, `reply` takes replies apart, and `view` decides
//! which topology follows from the records of all nodes. Nothing here connects to a node.

mod check;
mod name;
mod reply;
pub(crate) mod requests;
mod script;
mod view;

#[cfg(test)]
mod simulation;

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;
use crate::partition::line::{Line, Quoted, SyntaxError, lines};

pub(crate) use self::check::{Followed, RecordDecision, RecordProblem, judge};
pub(crate) use self::name::{ConnectionRole, NameSuffix};
pub(crate) use self::reply::RecordReply;
pub(crate) use self::script::{FLUSHALL_SCRIPT, READ_SCRIPT};
pub(crate) use self::view::{FollowedFleet, Learned, RecordView, Repair};

/// The logical database of every node that holds the record, so that commands about the data do not meet it.
pub(crate) const RECORD_DB: i64 = 15;

/// The key of the record.
#[cfg(test)]
pub(crate) const RECORD_KEY: &str = "redis-sharding:record";

/// The key of the text of the topology in force.
#[cfg(test)]
pub(crate) const TOPOLOGY_KEY: &str = "redis-sharding:topology";

/// The key of the text of the topology that a reshard leads to.
#[cfg(test)]
pub(crate) const TARGET_KEY: &str = "redis-sharding:target";

/// What the names of all these keys begin with, for those who want to be told of changes.
pub(crate) const RECORD_PREFIX: &str = "redis-sharding:";

/// Number of units that the keys between two nodes are divided into.
pub(crate) const UNITS: u32 = 1 << 16;

/// The words of the first line.
const HEAD: &str = "redis-sharding record";

/// Version of the text, after [`HEAD`]. It changes when the same text would be read differently.
const VERSION: &str = "1";

/// Returns the unit of a key: the upper 16 bits of the XXH3-64 of what the hash tag rule leaves of it. Keys that share a
/// hash tag share a unit, and move together.
#[inline]
pub(crate) fn unit_of(tag: &[u8]) -> u32 {
    // Sixteen bits are left.
    (xxh3_64(tag) >> 48) as u32
}

/// Orders the records of one node: by term, then by number.
///
/// Whoever changes the fleet first claims a term that nobody else has, so two of them never write the same epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordEpoch {
    pub(crate) term: u32,
    pub(crate) number: u32,
}

/// The record of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    pub(crate) epoch: RecordEpoch,
    /// Fingerprint of the topology in force.
    pub(crate) topology: u64,
    /// The `run_id` of the server that it was written to.
    pub(crate) seal: String,
    /// True if the node has left the fleet.
    pub(crate) is_retired: bool,
    /// Who has claimed the term.
    pub(crate) mover: Option<String>,
    /// The reshard under way.
    pub(crate) reshard: Option<ReshardRecord>,
}

/// What a node says of a reshard under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReshardRecord {
    /// Fingerprint of the topology that it leads to.
    pub(crate) to: u64,
    /// The pairs of which the node is the source or the target.
    pub(crate) pairs: Vec<PairRecord>,
}

/// How far the keys have moved that one node gives to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PairRecord {
    /// Name of the node that has the keys.
    pub(crate) source: String,
    /// Name of the node that gets them.
    pub(crate) target: String,
    pub(crate) progress: Progress,
}

/// How far the units of a pair of nodes have moved. They move in ascending order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Units below are at the target.
    pub(crate) moved: u32,
    /// Units from `moved` to below this one are closed, and all behind them at the source.
    pub(crate) closed: u32,
}

/// Where the keys of a unit are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnitState {
    AtSource,
    /// On the way: nobody may read or write them.
    Closed,
    AtTarget,
}

impl RecordEpoch {
    pub(crate) const fn new(term: u32, number: u32) -> Self {
        Self { term, number }
    }

    /// The epoch as a number with the same order. Zero stands for no record.
    pub(crate) const fn as_u64(self) -> u64 {
        (self.term as u64) << 32 | self.number as u64
    }

    pub(crate) const fn from_u64(epoch: u64) -> Self {
        Self::new((epoch >> 32) as u32, epoch as u32)
    }

    /// The next epoch of the same term.
    pub(crate) const fn next(self) -> Self {
        Self::new(self.term, self.number.saturating_add(1))
    }
}

impl fmt::Display for RecordEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.number)
    }
}

impl FromStr for RecordEpoch {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (term, number) = text.split_once('.').ok_or(())?;
        Ok(Self {
            term: decimal(term).ok_or(())?,
            number: decimal(number).ok_or(())?,
        })
    }
}

impl Progress {
    /// Where the keys of this unit are.
    #[inline]
    pub(crate) fn state(self, unit: u32) -> UnitState {
        match unit {
            unit if unit < self.moved => UnitState::AtTarget,
            unit if unit < self.closed => UnitState::Closed,
            _ => UnitState::AtSource,
        }
    }

    /// True if some units are closed.
    pub(crate) fn has_closed(self) -> bool {
        self.closed > self.moved
    }
}

impl NodeRecord {
    /// Reads the text of a record.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) with the number of the line.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        read(text).map_err(|error| Error::config(format!("the record cannot be read: {error}")))
    }

    /// How far the units of this pair have moved by this record alone.
    pub(crate) fn progress(&self, source: &str, target: &str) -> Option<Progress> {
        let pairs = &self.reshard.as_ref()?.pairs;
        let mut pairs = pairs.iter();
        let found = pairs.find(|pair| pair.source == source && pair.target == target);
        found.map(|pair| pair.progress)
    }
}

impl fmt::Display for NodeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD} {VERSION}")?;
        writeln!(f, "epoch {}", self.epoch)?;
        writeln!(f, "topology {:016x}", self.topology)?;
        writeln!(f, "seal {}", Quoted(self.seal.as_bytes()))?;
        if self.is_retired {
            writeln!(f, "retired")?;
        }
        if let Some(mover) = &self.mover {
            writeln!(f, "mover {}", Quoted(mover.as_bytes()))?;
        }
        let Some(reshard) = &self.reshard else {
            return Ok(());
        };
        writeln!(f, "to {:016x}", reshard.to)?;
        for pair in &reshard.pairs {
            let Progress { moved, closed } = pair.progress;
            let (source, target) = (
                Quoted(pair.source.as_bytes()),
                Quoted(pair.target.as_bytes()),
            );
            writeln!(f, "pair {moved} {closed} {source} {target}")?;
        }
        Ok(())
    }
}

/// What has been read of a record so far.
#[derive(Default)]
struct Statements {
    epoch: Option<RecordEpoch>,
    topology: Option<u64>,
    seal: Option<String>,
    is_retired: bool,
    mover: Option<String>,
    to: Option<u64>,
    pairs: Vec<PairRecord>,
}

fn read(text: &str) -> Result<NodeRecord, SyntaxError> {
    let mut all = lines(text);
    let Some(mut head) = all.next() else {
        return Err(SyntaxError {
            line: 1,
            cause: format!("a record begins with \"{HEAD} {VERSION}\""),
        });
    };
    if !(head.keyword("redis-sharding") && head.keyword("record")) {
        return Err(head.error(format!("a record begins with \"{HEAD} {VERSION}\"")));
    }
    if !head.keyword(VERSION) {
        let text = "the record was written by a newer version of redis-sharding; use that version";
        return Err(head.error(text));
    }
    let mut found = Statements::default();
    let mut last = head;
    for mut line in all {
        found.statement(&mut line)?;
        line.end()?;
        last = line;
    }
    found.record(&last)
}

impl Statements {
    fn statement(&mut self, line: &mut Line<'_>) -> Result<(), SyntaxError> {
        if line.keyword("epoch") {
            self.epoch = Some(required(
                line,
                |word| word.parse().ok(),
                "an epoch such as 1.2",
            )?);
        } else if line.keyword("topology") {
            self.topology = Some(fingerprint(line)?);
        } else if line.keyword("seal") {
            self.seal = Some(name(line)?);
        } else if line.keyword("retired") {
            self.is_retired = true;
        } else if line.keyword("mover") {
            self.mover = Some(name(line)?);
        } else if line.keyword("to") {
            self.to = Some(fingerprint(line)?);
        } else if line.keyword("pair") {
            let (moved, closed) = (unit(line)?, unit(line)?);
            if moved > closed {
                return Err(line.error("more units have moved than were closed"));
            }
            self.pairs.push(PairRecord {
                source: name(line)?,
                target: name(line)?,
                progress: Progress { moved, closed },
            });
        } else {
            return Err(line.error("it is no statement of a record"));
        }
        Ok(())
    }

    fn record(self, last: &Line<'_>) -> Result<NodeRecord, SyntaxError> {
        let missing = |what: &str| last.error(format!("the record has no {what}"));
        let reshard = match self.to {
            Some(to) => Some(ReshardRecord {
                to,
                pairs: self.pairs,
            }),
            None if self.pairs.is_empty() => None,
            None => return Err(missing("topology that its pairs lead to")),
        };
        Ok(NodeRecord {
            epoch: self.epoch.ok_or_else(|| missing("epoch"))?,
            topology: self.topology.ok_or_else(|| missing("topology"))?,
            seal: self.seal.ok_or_else(|| missing("seal"))?,
            is_retired: self.is_retired,
            mover: self.mover,
            reshard,
        })
    }
}

fn required<T>(
    line: &mut Line<'_>,
    parse: impl FnOnce(&str) -> Option<T>,
    what: &str,
) -> Result<T, SyntaxError> {
    let word = line.word().and_then(parse);
    word.ok_or_else(|| line.error(format!("{what} is missing")))
}

fn fingerprint(line: &mut Line<'_>) -> Result<u64, SyntaxError> {
    let parse = |word: &str| match word.len() {
        16 => u64::from_str_radix(word, 16).ok(),
        _ => None,
    };
    required(line, parse, "a fingerprint of 16 hex digits")
}

fn unit(line: &mut Line<'_>) -> Result<u32, SyntaxError> {
    let parse = |word: &str| decimal(word).filter(|unit| *unit <= UNITS);
    required(line, parse, "the number of a unit")
}

fn name(line: &mut Line<'_>) -> Result<String, SyntaxError> {
    match line.token()? {
        Some((name, _)) => Ok(name),
        None => Err(line.error("a name is missing")),
    }
}

/// A number without a sign.
fn decimal(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NodeRecord {
        let pair = |source: &str, target: &str, moved, closed| PairRecord {
            source: source.into(),
            target: target.into(),
            progress: Progress { moved, closed },
        };
        NodeRecord {
            epoch: RecordEpoch::new(3, 17),
            topology: 0x8c1f_6d0a_51f7_c2e4,
            seal: "1f0c4ea7".into(),
            is_retired: false,
            mover: Some("m-7f3a".into()),
            reshard: Some(ReshardRecord {
                to: 0x0b7e_19d2_f40c_86a1,
                pairs: vec![
                    pair("a", "e", 4096, 4352),
                    pair("a", "node \"6\"\n", 0, UNITS),
                ],
            }),
        }
    }

    #[test]
    fn record_text_is_frozen() {
        let expected = "redis-sharding record 1\nepoch 3.17\ntopology 8c1f6d0a51f7c2e4\nseal \"1f0c4ea7\"\n\
                        mover \"m-7f3a\"\nto 0b7e19d2f40c86a1\npair 4096 4352 \"a\" \"e\"\n\
                        pair 0 65536 \"a\" \"node \\\"6\\\"\\n\"\n";
        assert_eq!(record().to_string(), expected);
        let retired = NodeRecord {
            is_retired: true,
            mover: None,
            reshard: None,
            ..record()
        };
        let expected = "redis-sharding record 1\nepoch 3.17\ntopology 8c1f6d0a51f7c2e4\nseal \"1f0c4ea7\"\nretired\n";
        assert_eq!(retired.to_string(), expected);
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let plain = NodeRecord {
            is_retired: true,
            mover: None,
            reshard: None,
            ..record()
        };
        for record in [record(), plain] {
            assert_eq!(NodeRecord::parse(&record.to_string()).unwrap(), record);
        }
    }

    #[test]
    fn record_parse_error_names_the_line() {
        let text = record().to_string();
        for (from, to, expected) in [
            (
                "record 1",
                "record 2",
                "line 1: the record was written by a newer version",
            ),
            (
                "redis-sharding record",
                "redis",
                "line 1: a record begins with",
            ),
            (
                "epoch 3.17",
                "epoch 3",
                "line 2: an epoch such as 1.2 is missing",
            ),
            (
                "topology 8c",
                "topology ",
                "line 3: a fingerprint of 16 hex digits",
            ),
            (
                "pair 4096 4352",
                "pair 4353 4352",
                "line 7: more units have moved",
            ),
            (
                "pair 0 65536",
                "pair 0 65537",
                "line 8: the number of a unit",
            ),
            ("seal \"1f0c4ea7\"\n", "", "the record has no seal"),
            (
                "to 0b7e19d2f40c86a1\n",
                "",
                "the record has no topology that its pairs",
            ),
            ("mover", "mvoer", "line 5: it is no statement"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let error = NodeRecord::parse(&changed).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(NodeRecord::parse("").is_err());
    }

    #[test]
    fn record_epochs_are_ordered_by_term_and_then_by_number() {
        let epochs = [(0, 0), (0, 9), (1, 1), (1, 2), (2, 0)];
        let epochs = epochs.map(|(term, number)| RecordEpoch::new(term, number));
        assert!(epochs.is_sorted());
        for epoch in epochs {
            assert_eq!(RecordEpoch::from_u64(epoch.as_u64()), epoch);
            assert_eq!(epoch.to_string().parse(), Ok(epoch));
            assert!(epoch < epoch.next());
        }
        for text in ["", "1", "1.", ".1", "+1.2", "1.-2", "1.2.3", "4294967296.1"] {
            assert_eq!(text.parse::<RecordEpoch>(), Err(()), "{text}");
        }
    }

    #[test]
    fn units_of_hash_tags_are_frozen() {
        // XXH3-64 of the empty text is 2d06800538d394c2.
        assert_eq!(unit_of(b""), 0x2d06);
        let units = ["user:1", "user:2", "a"].map(|tag| unit_of(tag.as_bytes()));
        // As the xxhash package of Python computes them.
        assert_eq!(units, [15_191, 27_040, 59_078]);
    }

    #[test]
    fn progress_tells_where_a_unit_is() {
        let progress = Progress {
            moved: 2,
            closed: 3,
        };
        let states = [0, 1, 2, 3, UNITS - 1].map(|unit| progress.state(unit));
        use UnitState::{AtSource, AtTarget, Closed};
        assert_eq!(states, [AtTarget, AtTarget, Closed, AtSource, AtSource]);
        let done = Progress {
            moved: UNITS,
            closed: UNITS,
        };
        assert!(progress.has_closed() && !done.has_closed());
        assert_eq!(done.state(UNITS - 1), AtTarget);
    }
}
