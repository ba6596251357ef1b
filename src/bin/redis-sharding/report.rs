//! Reports about all keys together: the balance, and the keys that move. Shared with the example `locate`.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use redis_sharding::NodeIndex;

use super::fleet::Fleet;
use super::keys::each_key;

/// Maximum length of a bar of the chart.
const BAR: usize = 40;

/// Number of keys of each node.
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Balance {
    /// Number of keys that have an owner.
    pub keys: u64,
    /// Number of keys that have none. They count nowhere else.
    pub unowned: u64,
    /// Load of the busiest node.
    pub max_over_mean: f64,
    /// Load of the idlest node.
    pub min_over_mean: f64,
    pub nodes: Vec<NodeLoad>,
}

/// Number of keys of one node.
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct NodeLoad {
    pub node: String,
    pub keys: u64,
    /// Part of all keys, from 0 to 1.
    pub share: f64,
    pub weight: u32,
    /// Keys of the node against its share by weight; 1 is fair, 0 if there are no keys.
    pub load: f64,
}

impl Balance {
    pub fn count(fleet: &Fleet, keys: impl BufRead) -> io::Result<Self> {
        let mut counts = vec![0_u64; fleet.names.len()];
        let mut unowned = 0;
        each_key(keys, |key| {
            match fleet.topology.locate(key) {
                Some(node) => counts[node.get()] += 1,
                None => unowned += 1,
            }
            Ok(())
        })?;
        let all: u64 = counts.iter().sum();
        let nodes = fleet.topology.nodes();
        let weights: u64 = nodes
            .iter()
            .map(|node| u64::from(node.weight().get()))
            .sum();
        let loads = nodes.iter().zip(&fleet.names).zip(counts);
        let loads = loads.map(|((node, name), keys)| {
            let weight = node.weight().get();
            let fair = all as f64 * f64::from(weight) / weights as f64;
            NodeLoad {
                node: name.clone(),
                keys,
                share: share(keys, all),
                weight,
                load: if all == 0 { 0.0 } else { keys as f64 / fair },
            }
        });
        let nodes: Vec<NodeLoad> = loads.collect();
        let loads = || nodes.iter().map(|node| node.load);
        Ok(Self {
            keys: all,
            unowned,
            max_over_mean: loads().fold(0.0, f64::max),
            min_over_mean: loads().fold(f64::MAX, f64::min),
            nodes,
        })
    }

    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let Self {
            keys,
            unowned,
            max_over_mean: most,
            min_over_mean: least,
            nodes,
        } = self;
        let width = nodes.iter().map(|node| node.node.chars().count()).max();
        let width = width.unwrap_or_default().max("node".len());
        writeln!(
            output,
            "{:width$} {:>12} {:>8} {:>8} {:>6}",
            "node", "keys", "share", "weight", "load"
        )?;
        for NodeLoad {
            node,
            keys,
            share,
            weight,
            load,
        } in nodes
        {
            let length = if *most == 0.0 {
                0.0
            } else {
                load / most * BAR as f64
            };
            let bar = "█".repeat(length.round() as usize);
            let share = 100.0 * share;
            writeln!(
                output,
                "{node:width$} {keys:>12} {share:>7.2}% {weight:>8} {load:>6.3} {bar}"
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
        match unowned {
            0 => Ok(()),
            unowned => writeln!(
                output,
                "without an owner: {unowned} keys, counted nowhere above"
            ),
        }
    }
}

/// Numbers of keys that change their owner, by old and new owner.
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Diff {
    pub nodes_before: usize,
    pub nodes_after: usize,
    pub keys: u64,
    /// Number of keys that have another owner, of all `keys`.
    pub moved: u64,
    /// Sorted by number of keys, largest first.
    pub moves: Vec<Move>,
}

/// Keys that move from one node to another.
#[cfg_attr(feature = "cli", derive(serde::Serialize))]
pub struct Move {
    /// `None` if the keys have no owner there.
    pub from: Option<String>,
    pub to: Option<String>,
    pub keys: u64,
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
        let name = |fleet: &Fleet, node: Option<NodeIndex>| {
            node.map(|node| fleet.names[node.get()].clone())
        };
        let moves = counts.into_iter().map(|((from, to), keys)| Move {
            from: name(before, from),
            to: name(after, to),
            keys,
        });
        let moves: Vec<Move> = moves.collect();
        Ok(Self {
            nodes_before: before.names.len(),
            nodes_after: after.names.len(),
            keys: total,
            moved: moves.iter().map(|row| row.keys).sum(),
            moves,
        })
    }

    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let (before, after) = (self.nodes_before, self.nodes_after);
        let (keys, moved) = (self.keys, self.moved);
        let percent = |keys: u64| 100.0 * share(keys, self.keys);
        let share = percent(moved);
        writeln!(output, "nodes {before} -> {after}")?;
        writeln!(output, "keys {keys}   moved {moved} ({share:.2}%)")?;
        if self.moves.is_empty() {
            return Ok(());
        }
        let width = |name: fn(&Move) -> &str, least: usize| {
            let widths = self.moves.iter().map(|row| name(row).chars().count());
            widths.fold(least, usize::max)
        };
        let from_width = width(|row| shown_owner(&row.from), "from".len());
        let to_width = width(|row| shown_owner(&row.to), "to".len());
        writeln!(output)?;
        writeln!(
            output,
            "{:from_width$}    {:to_width$} {:>12} {:>8}",
            "from", "to", "keys", "share"
        )?;
        for Move { from, to, keys } in &self.moves {
            let (from, to) = (shown_owner(from), shown_owner(to));
            let share = percent(*keys);
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

fn shown_owner(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or("(nobody)")
}

/// Part of a whole, from 0 to 1; 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
