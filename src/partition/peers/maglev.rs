//! The lookup table of Maglev, with weights as in Envoy.

use xxhash_rust::xxh64::xxh64;

use super::super::Placement;
use crate::hash::KeyHash;
use crate::partition::NodeIndex;

/// Owners by the hash of the key modulo the table.
#[derive(Debug)]
pub(super) struct Maglev {
    hash: fn(&[u8]) -> u64,
    table: Box<[NodeIndex]>,
}

/// A host that takes its turns.
struct Turn {
    host: NodeIndex,
    /// The host's part of all weight.
    part: f64,
    /// A round in which round times `part` is less than this is sat out.
    target: f64,
    /// The entry that is looked at next.
    entry: usize,
    /// How far apart two entries are that are looked at one after the other.
    skip: usize,
}

impl Maglev {
    /// The table of `size` entries, a prime, over these hosts: label, index, and part of all weight.
    pub(super) fn new(
        key_hash: KeyHash,
        size: u32,
        mut hosts: Vec<(&str, NodeIndex, f64)>,
    ) -> Self {
        hosts.sort_by_key(|&(label, ..)| label);
        let largest = hosts.iter().map(|&(.., part)| part).fold(0.0, f64::max);
        let mut turns: Vec<Turn> = hosts
            .into_iter()
            .map(|(label, host, part)| Turn::new(label, host, part, u64::from(size)))
            .collect();
        let mut table = vec![FREE; size as usize];
        let mut free = size;
        for round in 1_u32.. {
            if free == 0 || turns.is_empty() {
                break;
            }
            for turn in &mut turns {
                if free == 0 || f64::from(round) * turn.part < turn.target {
                    continue;
                }
                turn.target += largest;
                turn.take(&mut table);
                free -= 1;
            }
        }
        Self {
            hash: key_hash.function(),
            table: table.into(),
        }
    }
}

impl Turn {
    fn new(label: &str, host: NodeIndex, part: f64, size: u64) -> Self {
        let label = label.as_bytes();
        Self {
            host,
            part,
            target: 0.0,
            entry: (xxh64(label, 0) % size) as usize,
            skip: (xxh64(label, 1) % (size - 1) + 1) as usize,
        }
    }

    /// Takes the next free entry. The size of the table is a prime, so every entry comes up.
    fn take(&mut self, table: &mut [NodeIndex]) {
        for _ in 0..table.len() {
            let entry = self.entry;
            self.entry = (entry + self.skip) % table.len();
            if let Some(owner) = table.get_mut(entry).filter(|owner| **owner == FREE) {
                *owner = self.host;
                return;
            }
        }
    }
}

impl Placement for Maglev {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let entry = (self.hash)(key).checked_rem(self.table.len() as u64)?;
        self.table.get(entry as usize).copied()
    }
}

/// An entry that nobody has taken. No node has this index, as there are fewer.
const FREE: NodeIndex = NodeIndex::new(u16::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(labels: &[(&'static str, f64)], size: u32) -> Vec<usize> {
        let total: f64 = labels.iter().map(|&(_, weight)| weight).sum();
        let hosts = (0..).map(NodeIndex::new).zip(labels);
        let hosts = hosts.map(|(index, &(label, weight))| (label, index, weight / total));
        let maglev = Maglev::new(KeyHash::Murmur64AStd, size, hosts.collect());
        assert!(!maglev.table.contains(&FREE));
        (0..labels.len() as u16)
            .map(|host| {
                let of = maglev.table.iter().filter(|owner| owner.as_u16() == host);
                of.count()
            })
            .collect()
    }

    /// Numbers of entries as Envoy's own statistics showed them.
    #[test]
    fn maglev_hosts_have_the_entries_that_envoy_counts() {
        const LABELS: [&str; 5] = [
            "127.0.0.1:24010",
            "127.0.0.1:24011",
            "127.0.0.1:24012",
            "127.0.0.1:24013",
            "127.0.0.1:24014",
        ];
        let counts = |weights: &[f64], size| {
            let labels: Vec<_> = LABELS.into_iter().zip(weights.iter().copied()).collect();
            counts(&labels, size)
        };
        assert_eq!(counts(&[1.0], 65_537), [65_537]);
        assert_eq!(counts(&[1.0; 3], 65_537), [21_846, 21_846, 21_845]);
        assert_eq!(
            counts(&[1.0; 5], 65_537),
            [13_108, 13_108, 13_107, 13_107, 13_107]
        );
        assert_eq!(
            counts(&[1.0, 2.0, 1.0, 3.0], 65_537),
            [9363, 18_725, 9363, 28_086]
        );
        assert_eq!(counts(&[100.0, 50.0, 1.0], 65_537), [43_401, 21_701, 435]);
    }

    #[test]
    fn maglev_table_smaller_than_the_hosts_is_filled_by_the_first_labels() {
        assert_eq!(counts(&[("c", 1.0), ("a", 1.0), ("b", 1.0)], 2), [0, 1, 1]);
    }
}
