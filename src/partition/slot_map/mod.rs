//! A table of slots that is data: who owns which of Redis Cluster's 16384 slots.
//!
//! `mod.rs` is the map itself and its placement, `rebalance.rs` changes it with the fewest moves, `text.rs`
//! writes and reads it. Nothing here moves a key.

mod rebalance;
mod text;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::catalogue::{OptionInfo, OptionValues, PartitionerInfo};
use super::line::{Name, SyntaxError, split};
use super::living::rehashed;
use super::{OutNodes, Partitioner, Placement, PlacementError, check_nodes, indexed, positions};
use crate::hash::{HashTag, KeyHash, SLOTS, slot};
use crate::partition::password::{ADVICE, holds_password};
use crate::partition::{NodeIndex, NodeSpec};

pub use rebalance::{Rebalance, SlotMove};

/// Redis Cluster's slots, handed out by a table: CRC16 of the key modulo 16384, then the owner of that slot.
///
/// An explicit map is for stores that will grow: it names an owner for every slot, so it can be written down
/// ([`Display`](fmt::Display), [`parse`](Self::parse)), compared, and changed by a list of moves
/// ([`rebalance`](Self::rebalance)). An [even](Self::even) map is a rule and fits any nodes, but *most keys
/// move when the nodes change*; make it explicit with [`over`](Self::over) and rebalance it instead.
///
/// While nodes are [out](OutNodes), only their own slots move: in the place of such a slot *s* stands slot
/// `mix(s + r * 0x9e3779b97f4a7c15)` (wrapping, `mix` as in [`Rendezvous`](super::Rendezvous)) modulo the number
/// of slots, for *r* = 1, 2, ... up to 64, until that belongs to a living node. So the slots go to all living
/// nodes by the number of slots that these have.
///
/// ```
/// use redis_sharding::partition::{Partitioner, SlotMap};
/// use redis_sharding::NodeSpec;
///
/// let two = ["a", "b"].map(|name| NodeSpec::new(name, format!("{name}.example:6379")));
/// let map = SlotMap::from_ranges([(0..=8191, "a"), (8192..=16383, "b")])?;
/// assert_eq!(map, SlotMap::even().over(&two)?);
/// assert_eq!(map.to_string(), "0-8191 a\n8192-16383 b\n");
///
/// let three = ["a", "b", "c"].map(|name| NodeSpec::new(name, format!("{name}.example:6379")));
/// let grown = map.rebalance(&two, &three)?;
/// let moves: Vec<String> = grown.moves.iter().map(|step| step.to_string()).collect();
/// assert_eq!(moves, ["5462-8191 a -> c", "13653-16383 b -> c"]);
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMap {
    numbering: Numbering,
    /// Sorted, every slot in exactly one range, no neighbours of one node; none for the even map.
    ranges: Option<Vec<SlotRange>>,
}

/// The number of slots, and which of them a key is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// CRC16 modulo 16384.
    Cluster,
    /// CRC32 modulo 1024.
    Codis,
}

impl Numbering {
    const fn slots(self) -> u16 {
        match self {
            Self::Cluster => SLOTS,
            Self::Codis => 1024,
        }
    }

    fn slot(self, key: &[u8]) -> u16 {
        match self {
            Self::Cluster => slot(key),
            Self::Codis => (KeyHash::Crc32.hash(key) % 1024) as u16,
        }
    }
}

/// Neighbouring slots of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotRange {
    /// The first and the last slot.
    pub slots: RangeInclusive<u16>,
    /// The name of the owner.
    pub node: String,
}

/// An error in a slot map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotMapError {
    /// Some slots have no owner.
    #[error("no node owns slots {}", Slots(slots))]
    Gap {
        /// The first gap.
        slots: RangeInclusive<u16>,
    },
    /// The last slot of a range comes before its first one.
    #[error("the range {0} ends before it starts")]
    Inverted(SlotRange),
    /// A slot is not below the number of slots: [`SLOTS`], or 1024 with Codis.
    #[error("the range {range} goes beyond slot {last}")]
    OutOfBounds {
        /// The range.
        range: SlotRange,
        /// The last slot there is.
        last: u16,
    },
    /// Some slots have two owners.
    #[error("the ranges {first} and {second} overlap")]
    Overlap {
        /// The range that starts first.
        first: SlotRange,
        /// The range that starts before the other one has ended.
        second: SlotRange,
    },
    /// The name of the owner of some slots holds a password, which is not repeated.
    #[error("the name of the node of slots {} {ADVICE}", Slots(slots))]
    Password {
        /// The slots.
        slots: RangeInclusive<u16>,
    },
    /// A line of text cannot be read.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A range belongs to a node that is not there.
    #[error("the range {0} belongs to a node that is not there")]
    UnknownNode(SlotRange),
}

impl SlotMap {
    /// The even map of whatever nodes there are: each node a run of slots, in node order, as long as its
    /// weight asks for (by largest remainder; of equal remainders the earlier node gets the slot more).
    ///
    /// The order of the nodes matters.
    pub const fn even() -> Self {
        Self::even_of(Numbering::Cluster)
    }

    pub(super) const fn even_of(numbering: Numbering) -> Self {
        Self {
            numbering,
            ranges: None,
        }
    }

    /// The explicit map of these ranges, in any order.
    ///
    /// # Errors
    ///
    /// Unless every slot is in exactly one range, or when a name holds a password.
    pub fn from_ranges<N: Into<String>>(
        ranges: impl IntoIterator<Item = (RangeInclusive<u16>, N)>,
    ) -> Result<Self, SlotMapError> {
        Self::from_ranges_of(Numbering::Cluster, ranges)
    }

    pub(super) fn from_ranges_of<N: Into<String>>(
        numbering: Numbering,
        ranges: impl IntoIterator<Item = (RangeInclusive<u16>, N)>,
    ) -> Result<Self, SlotMapError> {
        let last = numbering.slots() - 1;
        let mut sorted = Vec::new();
        for (slots, node) in ranges {
            let range = SlotRange {
                slots,
                node: node.into(),
            };
            if holds_password(&range.node) {
                let slots = range.slots;
                return Err(SlotMapError::Password { slots });
            }
            if *range.slots.end() > last {
                return Err(SlotMapError::OutOfBounds { range, last });
            }
            if range.slots.is_empty() {
                return Err(SlotMapError::Inverted(range));
            }
            sorted.push(range);
        }
        sorted.sort_by_key(|range| *range.slots.start());
        check_chain(&sorted, numbering.slots())?;
        Ok(Self {
            numbering,
            ranges: Some(merge_neighbours(sorted)),
        })
    }

    /// The ranges of an explicit map, sorted, neighbours of one node merged. None for the even map.
    pub fn ranges(&self) -> Option<&[SlotRange]> {
        self.ranges.as_deref()
    }

    /// Returns the explicit map that gives each slot the owner that it has over these nodes.
    ///
    /// # Errors
    ///
    /// When the map cannot be placed over these nodes.
    pub fn over(&self, nodes: &[NodeSpec]) -> Result<Self, PlacementError> {
        Ok(self.with_owners(&self.owners(nodes)?, nodes))
    }

    pub(super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "slot-map/1",
        summary: "a table of Redis Cluster's 16384 slots",
        options: &[OptionInfo {
            name: "map",
            meaning: "who owns which slots",
            default: Some("even"),
            values: OptionValues::Text("even, or ranges and nodes such as 0-8191 a, 8192-16383 b"),
        }],
        make: |given| {
            let map = given.read("map", |map| Some(Self::parse(&split(map))))??;
            Ok(Arc::new(map))
        },
    };

    /// The owner of every slot.
    fn owners(&self, nodes: &[NodeSpec]) -> Result<Vec<NodeIndex>, PlacementError> {
        check_nodes(nodes)?;
        let Some(ranges) = &self.ranges else {
            let shares = rebalance::shares(self.numbering.slots(), nodes, &vec![0; nodes.len()]);
            return Ok(indexed(nodes)
                .zip(shares)
                .flat_map(|((i, _), n)| std::iter::repeat_n(i, n))
                .collect());
        };
        let positions = positions(nodes);
        let mut owners = Vec::with_capacity(usize::from(self.numbering.slots()));
        for range in ranges {
            let owner = positions
                .get(&*range.node)
                .ok_or_else(|| SlotMapError::UnknownNode(range.clone()))?;
            owners.extend(range.slots.clone().map(|_| *owner));
        }
        Ok(owners)
    }

    /// The explicit map of these owners, one per slot.
    fn with_owners(&self, owners: &[NodeIndex], nodes: &[NodeSpec]) -> Self {
        let name = |owner: NodeIndex| nodes[owner.get()].name().to_owned();
        let single = |(slot, &owner)| SlotRange {
            slots: slot..=slot,
            node: name(owner),
        };
        Self {
            numbering: self.numbering,
            ranges: Some(merge_neighbours((0..).zip(owners).map(single))),
        }
    }
}

impl Partitioner for SlotMap {
    fn name(&self) -> &str {
        match self.numbering {
            Numbering::Cluster => "slot-map/1",
            Numbering::Codis => "codis/1",
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        let map = match &self.ranges {
            None => "even".to_owned(),
            Some(ranges) => ranges
                .iter()
                .map(SlotRange::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        };
        vec![("map".into(), map)]
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        Ok(Box::new(Placed {
            numbering: self.numbering,
            owners: self.owners(nodes)?.into(),
        }))
    }

    fn hash_tag(&self) -> HashTag {
        match self.numbering {
            Numbering::Cluster => HashTag::Braces,
            Numbering::Codis => HashTag::BracesEvenEmpty,
        }
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Slots(&self.slots), Name(&self.node))
    }
}

/// Slots as Redis writes them: `7` or `0-5460`.
struct Slots<'a>(&'a RangeInclusive<u16>);

impl fmt::Display for Slots<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first}-{last}")
        }
    }
}

#[derive(Debug)]
struct Placed {
    numbering: Numbering,
    /// One owner per slot.
    owners: Box<[NodeIndex]>,
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let slot = self.numbering.slot(key);
        self.owners.get(usize::from(slot)).copied()
    }

    fn locate_without(&self, key: &[u8], out: &OutNodes) -> Option<NodeIndex> {
        let slot = u64::from(self.numbering.slot(key));
        let slots = u64::from(self.numbering.slots());
        let mut others = std::iter::once(slot).chain(rehashed(slot).map(|number| number % slots));
        others.find_map(|slot| {
            let owner = self.owners.get(slot as usize).copied()?;
            (!out.contains(owner)).then_some(owner)
        })
    }
}

/// Refuses sorted ranges that do not hold every slot exactly once.
fn check_chain(sorted: &[SlotRange], slots: u16) -> Result<(), SlotMapError> {
    let mut next = 0;
    let mut before: Option<&SlotRange> = None;
    for range in sorted {
        let (first, last) = (*range.slots.start(), *range.slots.end());
        if first > next {
            return Err(SlotMapError::Gap {
                slots: next..=first - 1,
            });
        }
        if let Some(before) = before.filter(|_| first < next) {
            return Err(SlotMapError::Overlap {
                first: before.clone(),
                second: range.clone(),
            });
        }
        next = last + 1;
        before = Some(range);
    }
    if next < slots {
        return Err(SlotMapError::Gap {
            slots: next..=slots - 1,
        });
    }
    Ok(())
}

fn merge_neighbours(sorted: impl IntoIterator<Item = SlotRange>) -> Vec<SlotRange> {
    let mut merged: Vec<SlotRange> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if last.node == range.node => {
                last.slots = *last.slots.start()..=*range.slots.end()
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{nodes, out, splitmix, weighted};
    use super::*;

    #[test]
    fn even_slot_map_is_contiguous_and_follows_the_weights() {
        let even = |weights| {
            SlotMap::even()
                .over(&weighted(weights))
                .unwrap()
                .to_string()
        };
        assert_eq!(
            even(&[1, 1, 1]),
            "0-5461 node-0\n5462-10922 node-1\n10923-16383 node-2\n"
        );
        assert_eq!(even(&[1, 3]), "0-4095 node-0\n4096-16383 node-1\n");
        assert_eq!(even(&[5]), "0-16383 node-0\n");
    }

    #[test]
    fn slot_map_with_gaps_or_overlaps_is_refused() {
        let refusal = |ranges: &[(RangeInclusive<u16>, &str)]| {
            SlotMap::from_ranges(ranges.iter().cloned())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refusal(&[]), "no node owns slots 0-16383");
        assert_eq!(
            refusal(&[(0..=9, "a"), (11..=16383, "b")]),
            "no node owns slots 10"
        );
        assert_eq!(refusal(&[(5..=16383, "a")]), "no node owns slots 0-4");
        assert_eq!(
            refusal(&[(0..=16000, "a")]),
            "no node owns slots 16001-16383"
        );
        assert_eq!(
            refusal(&[(10..=16383, "b"), (0..=10, "a")]),
            "the ranges 0-10 a and 10-16383 b overlap"
        );
        assert_eq!(
            refusal(&[(0..=16383, "a"), (3..=4, "b")]),
            "the ranges 0-16383 a and 3-4 b overlap"
        );
        assert_eq!(
            refusal(&[(0..=16384, "a")]),
            "the range 0-16384 a goes beyond slot 16383"
        );
        #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
        let inverted = refusal(&[(9..=3, "a")]);
        assert_eq!(inverted, "the range 9-3 a ends before it starts");
    }

    #[test]
    fn slot_map_with_an_unknown_node_is_refused_when_placed() {
        let map = SlotMap::from_ranges([(0..=99, "node-0"), (100..=16383, "gone")]).unwrap();
        let refusal = map.place(&nodes(3)).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the range 100-16383 gone belongs to a node that is not there"
        );
    }

    proptest! {
        #[test]
        fn slot_map_owner_matches_a_naive_search(
            cuts in prop::collection::btree_set(1..SLOTS, 0..20),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 20),
        ) {
            let starts: Vec<u16> = [0].into_iter().chain(cuts).collect();
            let ends = starts[1..].iter().map(|start| start - 1).chain([SLOTS - 1]);
            let ranges: Vec<_> = starts.iter().zip(ends).map(|(&first, last)| first..=last).collect();
            let named = (0..).zip(&ranges).map(|(i, range): (usize, _)| (range.clone(), format!("node-{}", i % 5)));
            let placement = SlotMap::from_ranges(named).unwrap().place(&nodes(5)).unwrap();
            for key in keys {
                let slot = ::crc16::State::<::crc16::XMODEM>::calculate(&key) % 16384;
                let range = ranges.iter().position(|range| range.contains(&slot)).unwrap();
                prop_assert_eq!(placement.locate(&key).unwrap().get(), range % 5);
            }
        }

        #[test]
        fn slot_map_hashes_the_slots_of_nodes_that_are_out_again(
            numbering in prop::sample::select(vec![Numbering::Cluster, Numbering::Codis]),
            weights in prop::collection::vec(1..4_u32, 1..9),
            bits in any::<u32>(),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 20),
        ) {
            let nodes = weighted(&weights);
            let out = out(&nodes, bits);
            let map = SlotMap::even_of(numbering);
            let (owners, placement) = (map.owners(&nodes).unwrap(), map.place(&nodes).unwrap());
            for key in keys {
                let slot = match numbering {
                    Numbering::Cluster => u64::from(::crc16::State::<::crc16::XMODEM>::calculate(&key)) % 16384,
                    Numbering::Codis => u64::from(crc32fast::hash(&key)) % 1024,
                };
                let mut slots = vec![slot];
                slots.extend((1..=64).map(|round| splitmix(slot, round) % u64::from(numbering.slots())));
                let mut found = slots.into_iter().map(|slot| owners[slot as usize]);
                let expected = found.find(|owner| !out.contains(*owner));
                prop_assert_eq!(placement.locate_without(&key, &out), expected);
            }
        }
    }
}
