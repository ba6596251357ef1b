//! [`ReshardPlan`]: what a reshard would move, what it needs, and why it cannot begin.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::error::KeyText;

/// Number of keys that a plan names for their size.
const BIGGEST: usize = 10;

/// Bytes that are copied in a second, for the estimate: what DUMP and RESTORE reach with small values.
const BYTES_PER_SECOND: f64 = 50e6;

/// What a key costs beside its bytes, for the estimate.
const SECONDS_PER_KEY: f64 = 15e-6;

/// What the closure of an empty batch costs, for the estimate.
const SECONDS_PER_PAIR: f64 = 20e-3;

/// By how much the memory for keys may exceed what a sample says.
const MEMORY_MARGIN: f64 = 1.1;

/// What a reshard would move. Its [`Display`](fmt::Display) is a report for operators.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReshardPlan {
    /// Fingerprint of the topology in force.
    pub from: u64,
    /// Fingerprint of the topology that the reshard leads to.
    pub to: u64,
    /// Number of pairs of nodes between which keys may move.
    pub pairs: usize,
    /// The pairs between which keys move, by their sample.
    pub moves: Vec<PlannedMove>,
    /// The pairs whose target becomes a replica of the source first.
    pub splits: Vec<PlannedSplit>,
    /// The biggest keys of the sample, and how many bytes each has. They move with all others, those above a limit element
    /// by element.
    pub biggest: Vec<(String, Vec<u8>, u64)>,
    /// The nodes, and what their memory has to hold.
    pub nodes: Vec<PlannedNode>,
    /// Why the reshard cannot begin. Empty if it can.
    pub refusals: Vec<ReshardRefusal>,
    /// What the operator should know.
    pub remarks: Vec<String>,
    /// How long it takes, by a rate of 50 MB in a second.
    pub estimate: Duration,
}

/// The keys that move from one node to another, by a sample.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PlannedMove {
    /// The node that has the keys.
    pub source: String,
    /// The node that gets them.
    pub target: String,
    /// Number of keys.
    pub keys: u64,
    /// By how many keys the number may be wrong, in 19 of 20 cases; zero if all keys were looked at.
    pub keys_error: u64,
    /// Number of bytes in memory.
    pub bytes: u64,
}

/// A new node that becomes a replica of the one node that it takes keys from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedSplit {
    /// The node that has the keys.
    pub source: String,
    /// The new node.
    pub target: String,
    /// Number of keys that move.
    pub keys: u64,
}

/// A node, and what its memory has to hold.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PlannedNode {
    /// The node's name.
    pub name: String,
    /// Number of its keys.
    pub keys: u64,
    /// Number of its keys that were looked at.
    pub sampled: u64,
    /// Number of bytes that it uses.
    pub used_memory: u64,
    /// Number of bytes that it may use; zero without a limit.
    pub max_memory: u64,
    /// Number of bytes of the keys that it gets.
    pub gets: u64,
    /// Number of bytes of the keys that leave it.
    pub gives: u64,
}

/// A reason why a reshard cannot begin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReshardRefusal {
    /// What it is.
    pub kind: ReshardRefusalKind,
    /// The node that it concerns.
    pub node: String,
    /// What is wrong, and the remedy.
    pub text: String,
}

/// The kinds of [`ReshardRefusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReshardRefusalKind {
    /// A node cannot be reached, or does not reply.
    Unreachable,
    /// A node belongs to another fleet, has no record, or is part of another reshard.
    Record,
    /// A node that is added has keys already.
    ForeignData,
    /// A node that gets keys has too little memory for them.
    Memory,
    /// A node may remove any key when its memory is full.
    Eviction,
    /// Clients are connected that do not follow the record.
    Clients,
    /// A node is a replica.
    Replica,
    /// Keys have no owner by the new topology.
    Unowned,
    /// Two names stand for one server.
    SameServer,
}

/// What was found among the keys of one node.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Number of all keys of the node.
    pub(super) all: u64,
    /// Number of keys that were looked at.
    pub(super) sampled: u64,
    /// By target: number of keys that move there, and their bytes.
    moves: BTreeMap<usize, (u64, u64)>,
    /// The biggest keys.
    biggest: Vec<(u64, Vec<u8>)>,
    /// A key without an owner by the new topology.
    pub(super) unowned: Option<Vec<u8>>,
}

impl ReshardRefusal {
    pub(super) fn new(kind: ReshardRefusalKind, node: &str, text: impl Into<String>) -> Self {
        Self {
            kind,
            node: node.to_owned(),
            text: text.into(),
        }
    }
}

impl Sample {
    /// A sample of a node with this many keys.
    pub(super) fn new(all: u64) -> Self {
        Self {
            all,
            ..Self::default()
        }
    }

    /// Adds a key of so many bytes, and the node that it moves to.
    pub(super) fn add(&mut self, key: &[u8], bytes: u64, target: Option<usize>) {
        self.sampled += 1;
        if let Some(target) = target {
            let (keys, sum) = self.moves.entry(target).or_default();
            *keys += 1;
            *sum += bytes;
        }
        let at = self.biggest.partition_point(|(other, _)| *other >= bytes);
        if at < BIGGEST {
            self.biggest.insert(at, (bytes, key.to_vec()));
            self.biggest.truncate(BIGGEST);
        }
    }

    /// The moves from `source`, for all keys of the node.
    pub(super) fn moves(
        &self,
        source: &str,
        name_of: impl Fn(usize) -> String,
    ) -> Vec<PlannedMove> {
        let sampled = self.sampled.max(1) as f64;
        // SCAN may return a key twice, and keys are written meanwhile.
        let scale = (self.all as f64 / sampled).max(1.0);
        let is_whole = self.sampled >= self.all;
        let moves = self.moves.iter().map(|(target, (keys, bytes))| {
            let share = *keys as f64 / sampled;
            let deviation = (share * (1.0 - share) / sampled).sqrt();
            let error = 1.96 * deviation * self.all as f64;
            PlannedMove {
                source: source.to_owned(),
                target: name_of(*target),
                keys: (*keys as f64 * scale).round() as u64,
                keys_error: if is_whole { 0 } else { error.ceil() as u64 },
                bytes: (*bytes as f64 * scale).round() as u64,
            }
        });
        moves.collect()
    }
}

impl ReshardPlan {
    /// Adds what was found at one node.
    pub(super) fn add(&mut self, node: &str, sample: &Sample, name_of: impl Fn(usize) -> String) {
        self.moves.extend(sample.moves(node, name_of));
        let biggest = sample.biggest.iter();
        let biggest = biggest.map(|(bytes, key)| (node.to_owned(), key.clone(), *bytes));
        self.biggest.extend(biggest);
        self.biggest
            .sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        self.biggest.truncate(BIGGEST);
    }

    /// Computes what follows from the moves: memory and time.
    pub(super) fn complete(&mut self, bytes_per_second: Option<u64>, sources_at_once: usize) {
        for node in &mut self.nodes {
            let sum = |which: fn(&PlannedMove) -> &String| -> u64 {
                let moves = self
                    .moves
                    .iter()
                    .filter(|planned| *which(planned) == node.name);
                moves.map(|planned| planned.bytes).sum()
            };
            node.gets = sum(|planned| &planned.target);
            node.gives = sum(|planned| &planned.source);
            let needed = node.used_memory as f64 + node.gets as f64 * MEMORY_MARGIN;
            if node.max_memory > 0 && node.gets > 0 && needed > node.max_memory as f64 {
                let text = format!(
                    "it uses {} of {} and gets {}; raise its maxmemory",
                    Bytes(node.used_memory),
                    Bytes(node.max_memory),
                    Bytes(node.gets)
                );
                let refusal = ReshardRefusal::new(ReshardRefusalKind::Memory, &node.name, text);
                self.refusals.push(refusal);
            }
        }
        let rate =
            bytes_per_second.map_or(BYTES_PER_SECOND, |limit| BYTES_PER_SECOND.min(limit as f64));
        let seconds = |planned: &PlannedMove| {
            planned.bytes as f64 / rate + planned.keys as f64 * SECONDS_PER_KEY
        };
        let mut by_source: BTreeMap<&str, f64> = BTreeMap::new();
        for planned in &self.moves {
            *by_source.entry(&planned.source).or_default() += seconds(planned);
        }
        let all: f64 = by_source.values().sum();
        let longest = by_source.values().copied().fold(0.0, f64::max);
        let seconds = longest.max(all / sources_at_once as f64);
        let pairs = self.pairs as f64 * SECONDS_PER_PAIR;
        self.estimate = Duration::try_from_secs_f64(seconds + pairs).unwrap_or(Duration::MAX);
    }

    /// Number of keys that move.
    pub fn keys(&self) -> u64 {
        self.moves.iter().map(|planned| planned.keys).sum()
    }

    /// Number of bytes that move.
    pub fn bytes(&self) -> u64 {
        self.moves.iter().map(|planned| planned.bytes).sum()
    }

    /// True if nothing stands against the reshard.
    pub fn is_possible(&self) -> bool {
        self.refusals.is_empty()
    }
}

impl fmt::Display for ReshardPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "topology {:016x} -> {:016x}", self.from, self.to)?;
        let (keys, bytes) = (self.keys(), Bytes(self.bytes()));
        writeln!(
            f,
            "moves {keys} keys, {bytes}, in about {}",
            Seconds(self.estimate)
        )?;
        for planned in &self.moves {
            let PlannedMove {
                source,
                target,
                keys,
                keys_error,
                bytes,
            } = planned;
            write!(f, "  {source} -> {target}: {keys} keys")?;
            if *keys_error > 0 {
                write!(f, " (± {keys_error})")?;
            }
            let is_split =
                |split: &&PlannedSplit| split.source == *source && split.target == *target;
            let how = match self.splits.iter().find(is_split) {
                Some(_) => ", by replication",
                None => "",
            };
            writeln!(f, ", {}{how}", Bytes(*bytes))?;
        }
        for node in self
            .nodes
            .iter()
            .filter(|node| node.gets > 0 || node.gives > 0)
        {
            let limit = match node.max_memory {
                0 => "no limit".to_owned(),
                limit => format!("of {}", Bytes(limit)),
            };
            writeln!(
                f,
                "  {} uses {} ({limit}), gets {}, gives {}",
                node.name,
                Bytes(node.used_memory),
                Bytes(node.gets),
                Bytes(node.gives)
            )?;
        }
        for (node, key, bytes) in &self.biggest {
            writeln!(f, "  big: {} at {node}, {}", KeyText(key), Bytes(*bytes))?;
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        for refusal in &self.refusals {
            writeln!(f, "refused: node {:?}: {}", refusal.node, refusal.text)?;
        }
        Ok(())
    }
}

/// Bytes for people: `1.5 MB`.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "kB", "MB", "GB"] {
            if value < 1000.0 {
                return match unit {
                    "B" => write!(f, "{value} B"),
                    unit => write!(f, "{value:.1} {unit}"),
                };
            }
            value /= 1000.0;
        }
        write!(f, "{value:.1} TB")
    }
}

/// A duration for people.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..120 => write!(f, "{} s", seconds.max(1)),
            seconds @ 120..7200 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{} h", seconds / 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, used_memory: u64, max_memory: u64) -> PlannedNode {
        PlannedNode {
            name: name.into(),
            used_memory,
            max_memory,
            ..PlannedNode::default()
        }
    }

    fn plan(limit: u64) -> ReshardPlan {
        let mut sample = Sample::new(4000);
        for i in 0..1000_u64 {
            let target = (i % 4 == 0).then_some(1);
            sample.add(format!("k{i}").as_bytes(), 100 + i, target);
        }
        let mut plan = ReshardPlan {
            nodes: vec![node("a", 1_000_000, 0), node("b", 500_000, limit)],
            pairs: 1,
            ..ReshardPlan::default()
        };
        plan.add("a", &sample, |_| "b".into());
        plan.complete(None, 2);
        plan
    }

    #[test]
    fn plan_estimates_all_keys_from_a_sample_with_its_error() {
        let plan = plan(0);
        let planned = plan.moves.first().unwrap();
        assert_eq!(
            (planned.keys, planned.bytes),
            (1000, 4 * (0..1000).step_by(4).map(|i| 100 + i).sum::<u64>())
        );
        // 1.96 standard deviations of a share of a quarter among a thousand.
        assert_eq!(planned.keys_error, 108);
        assert!(plan.is_possible());
        let sizes: Vec<u64> = plan.biggest.iter().map(|(_, _, bytes)| *bytes).collect();
        assert_eq!((sizes.len(), sizes.first()), (BIGGEST, Some(&1099)));
        assert!(sizes.is_sorted_by(|one, other| one >= other));
    }

    #[test]
    fn plan_knows_the_number_of_keys_if_all_were_looked_at() {
        let mut sample = Sample::new(2);
        sample.add(b"k", 10, Some(0));
        sample.add(b"l", 10, None);
        let moves = sample.moves("a", |_| "b".into());
        assert_eq!(
            (moves[0].keys, moves[0].keys_error, moves[0].bytes),
            (1, 0, 10)
        );
    }

    #[test]
    fn plan_refuses_a_target_with_too_little_memory() {
        let refused = plan(1_000_000);
        let refusal = refused.refusals.first().unwrap();
        assert_eq!(
            (refusal.kind, &*refusal.node),
            (ReshardRefusalKind::Memory, "b")
        );
        assert!(plan(2_000_000).is_possible());
        let text = refused.to_string();
        assert!(
            text.contains("a -> b: 1000 keys (± 108), 598.0 kB"),
            "{text}"
        );
        assert!(
            text.contains("refused: node \"b\": it uses 500.0 kB of 1.0 MB"),
            "{text}"
        );
    }
}
