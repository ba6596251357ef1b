//! Reports about all keys together: the balance, and the keys that move.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use redis_sharding::NodeIndex;

use super::each_key;
use super::nodes::Fleet;

/// Maximum length of a bar of the chart.
const BAR: usize = 40;

/// Number of keys of each node.
pub struct Balance {
    nodes: Vec<Load>,
    unowned: u64,
}

struct Load {
    name: String,
    weight: u32,
    keys: u64,
}

impl Balance {
    pub fn count(fleet: &Fleet, keys: impl BufRead) -> io::Result<Self> {
        let mut counts = vec![0; fleet.names.len()];
        let mut unowned = 0;
        each_key(keys, |key| {
            match fleet.topology.locate(key) {
                Some(node) => counts[node.get()] += 1,
                None => unowned += 1,
            }
            Ok(())
        })?;
        let nodes = fleet.topology.nodes().iter().zip(&fleet.names).zip(counts);
        let load = nodes.map(|((node, name), keys)| Load {
            name: name.clone(),
            weight: node.weight().get(),
            keys,
        });
        Ok(Self {
            nodes: load.collect(),
            unowned,
        })
    }

    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let keys: u64 = self.nodes.iter().map(|node| node.keys).sum();
        let weights: u64 = self.nodes.iter().map(|node| u64::from(node.weight)).sum();
        let fair = |node: &Load| keys as f64 * f64::from(node.weight) / weights as f64;
        let load = |node: &Load| {
            if keys == 0 {
                0.0
            } else {
                node.keys as f64 / fair(node)
            }
        };
        let loads = || self.nodes.iter().map(load);
        let (most, least) = (
            loads().fold(0.0, f64::max),
            loads().fold(f64::MAX, f64::min),
        );

        let width = self
            .nodes
            .iter()
            .map(|node| node.name.chars().count())
            .max();
        let width = width.unwrap_or_default().max("node".len());
        writeln!(
            output,
            "{:width$} {:>12} {:>8} {:>8} {:>6}",
            "node", "keys", "share", "weight", "load"
        )?;
        for node in &self.nodes {
            let (load, weight) = (load(node), node.weight);
            let share = percent(node.keys, keys);
            let length = if most == 0.0 {
                0.0
            } else {
                load / most * BAR as f64
            };
            let bar = "█".repeat(length.round() as usize);
            writeln!(
                output,
                "{:width$} {:>12} {share:>7.2}% {weight:>8} {load:>6.3} {bar}",
                node.name, node.keys
            )?;
        }
        writeln!(output)?;
        writeln!(
            output,
            "keys {keys}   max/mean {most:.3}   min/mean {least:.3}"
        )?;
        writeln!(
            output,
            "load: keys of the node against its share by weight, 1 being fair"
        )?;
        match self.unowned {
            0 => Ok(()),
            unowned => writeln!(
                output,
                "without an owner: {unowned} keys, counted nowhere above"
            ),
        }
    }
}

/// Numbers of keys that change their owner, by old and new owner.
pub struct Diff {
    keys: u64,
    /// Sorted by number of keys, largest first.
    moves: Vec<Move>,
    nodes: (usize, usize),
}

/// Keys that move from one node to another.
struct Move {
    from: String,
    to: String,
    keys: u64,
}

impl Diff {
    pub fn count(before: &Fleet, after: &Fleet, keys: impl BufRead) -> io::Result<Self> {
        let same = same_nodes(before, after);
        let mut total = 0;
        let mut counts: HashMap<_, u64> = HashMap::new();
        each_key(keys, |key| {
            total += 1;
            let (from, to) = (before.topology.locate(key), after.topology.locate(key));
            let stays = match (from, to) {
                (Some(from), Some(to)) => same[to.get()] == Some(from.get()),
                (None, None) => true,
                _ => false,
            };
            if !stays {
                *counts.entry((from, to)).or_default() += 1;
            }
            Ok(())
        })?;
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&((from, to), keys)| (u64::MAX - keys, from, to));
        let name = |fleet: &Fleet, node: Option<NodeIndex>| match node {
            Some(node) => fleet.names[node.get()].clone(),
            None => "(nobody)".to_owned(),
        };
        let moves = counts.into_iter().map(|((from, to), keys)| Move {
            from: name(before, from),
            to: name(after, to),
            keys,
        });
        Ok(Self {
            keys: total,
            moves: moves.collect(),
            nodes: (before.names.len(), after.names.len()),
        })
    }

    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let moved: u64 = self.moves.iter().map(|row| row.keys).sum();
        let share = percent(moved, self.keys);
        let (before, after) = self.nodes;
        writeln!(output, "nodes {before} -> {after}")?;
        writeln!(output, "keys {}   moved {moved} ({share:.2}%)", self.keys)?;
        if self.moves.is_empty() {
            return Ok(());
        }
        let width = |name: fn(&Move) -> &str, least: usize| {
            let widths = self.moves.iter().map(|row| name(row).chars().count());
            widths.fold(least, usize::max)
        };
        let from_width = width(|row| &row.from, "from".len());
        let to_width = width(|row| &row.to, "to".len());
        writeln!(output)?;
        writeln!(
            output,
            "{:from_width$}    {:to_width$} {:>12} {:>8}",
            "from", "to", "keys", "share"
        )?;
        for Move { from, to, keys } in &self.moves {
            let share = percent(*keys, self.keys);
            writeln!(
                output,
                "{from:from_width$} -> {to:to_width$} {keys:>12} {share:>7.2}%"
            )?;
        }
        Ok(())
    }
}

/// The old position of every new node: that of the node with the same name, or else with the same address.
fn same_nodes(before: &Fleet, after: &Fleet) -> Vec<Option<usize>> {
    let (old, new) = (before.topology.nodes(), after.topology.nodes());
    let named = |name: &str| before.names.iter().position(|other| other == name);
    let mut same: Vec<_> = after.names.iter().map(|name| named(name)).collect();
    for (at, node) in new.iter().enumerate() {
        if same[at].is_none() {
            let twin = |other: usize| {
                old[other].address() == node.address() && !same.contains(&Some(other))
            };
            same[at] = (0..old.len()).find(|&other| twin(other));
        }
    }
    same
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}
