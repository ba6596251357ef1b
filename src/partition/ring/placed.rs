//! Which arc of the circle holds a key?

use super::spec::{Direction, RingSpec};
use crate::partition::NodeIndex;
use crate::partition::{KeyNumber, Placement};

/// Arcs found by the top bits of the key's place: a table says where to start, and a step or two forward find
/// the arc.
#[derive(Debug)]
pub(super) struct Placed {
    hash: KeyNumber,
    /// Shifts a hash to its place on the circle.
    widen: u32,
    /// Shifts a place to its top bits.
    narrow: u32,
    /// For every value of the top bits, the first arc that does not end before it.
    starts: Box<[u32]>,
    /// The last place of every arc.
    ends: Box<[u64]>,
    /// The owner of every arc; apart, because they are asked once and the ends more often.
    owners: Box<[NodeIndex]>,
}

impl Placed {
    pub(super) fn new(spec: &RingSpec, points: &[(u64, NodeIndex)]) -> Self {
        let arcs = arcs(points, spec.direction);
        // Two to four entries per arc.
        let bits = (2 * arcs.len()).next_power_of_two().ilog2();
        let narrow = 64 - bits;
        let start = |top: u64| arcs.partition_point(|&(end, _)| end < top << narrow) as u32;
        Self {
            hash: KeyNumber::new(spec.key_hash, spec.empty_key),
            widen: 64 - spec.key_hash.bits(),
            narrow,
            starts: (0..1 << bits).map(start).collect(),
            ends: arcs.iter().map(|&(end, _)| end).collect(),
            owners: arcs.iter().map(|&(_, owner)| owner).collect(),
        }
    }
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let place = self.hash.of(key) << self.widen;
        let mut arc = *self.starts.get((place >> self.narrow) as usize)? as usize;
        // Nearly every key needs no step or one. Which of them is a coin toss, so it must not be a branch.
        arc += usize::from(*self.ends.get(arc)? < place);
        if *self.ends.get(arc)? < place {
            arc += further(self.ends.get(arc..)?, place);
        }
        self.owners.get(arc).copied()
    }
}

/// Number of arcs that end before `place`, when the first ones do.
///
/// Some peers' points lie in heaps, and so do their keys: the steps double until they go too far.
#[cold]
fn further(ends: &[u64], place: u64) -> usize {
    let mut bound = 2;
    while ends.get(bound).is_some_and(|&end| end < place) {
        bound *= 2;
    }
    ends[..ends.len().min(bound + 1)].partition_point(|&end| end < place)
}

/// The circle cut into arcs, each named by its last place; the last arc ends at `u64::MAX`.
pub(super) fn arcs(points: &[(u64, NodeIndex)], direction: Direction) -> Vec<(u64, NodeIndex)> {
    let (first, last) = match points {
        [] => return Vec::new(),
        [first, ..] => (first, points.last().unwrap_or(first)),
    };
    let mut arcs: Vec<_> = match direction {
        // An arc ends at the point that owns it.
        Direction::AtOrAfter => points.to_vec(),
        // An arc ends before the next point. Before the first point the last one owns.
        Direction::AtOrBefore => {
            let before_first = first.0.checked_sub(1).map(|end| (end, last.1));
            let between = points.windows(2).map(|pair| (pair[1].0 - 1, pair[0].1));
            before_first.into_iter().chain(between).collect()
        }
    };
    arcs.push((
        u64::MAX,
        if direction == Direction::AtOrAfter {
            first.1
        } else {
            last.1
        },
    ));
    arcs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_galloping_search_matches_a_linear_search() {
        let ends: Vec<u64> = (0..40).map(|i| 10 * i).chain([u64::MAX]).collect();
        for place in (0..420).chain([u64::MAX]) {
            let expected = ends.iter().position(|&end| end >= place).unwrap();
            assert_eq!(further(&ends, place), expected, "{place}");
        }
    }
}
