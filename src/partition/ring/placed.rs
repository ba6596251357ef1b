//! Which arc of the circle holds a key?

use super::spec::{Direction, RingSpec};
use crate::partition::NodeIndex;
use crate::partition::{KeyNumber, OutNodes, Placement};

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
    /// Which way to the next point: from arc to arc.
    direction: Direction,
    /// Arcs whose point fell on one place with points of other nodes, and those nodes in the order in which they
    /// have it when the nodes before them are out. Sorted by arc.
    ties: Box<[(u32, NodeIndex)]>,
}

impl Placed {
    /// `points` are sorted, and of equal points the one that counts is first.
    pub(super) fn new(spec: &RingSpec, points: &[(u64, NodeIndex)]) -> Self {
        let places = places(points);
        let arcs = arcs(&places, spec.direction);
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
            owners: arcs.iter().map(|&(_, nodes)| nodes[0].1).collect(),
            direction: spec.direction,
            ties: ties(&arcs),
        }
    }

    /// The arc that holds a key.
    #[inline]
    fn arc(&self, key: &[u8]) -> Option<usize> {
        let place = self.hash.of(key) << self.widen;
        let mut arc = *self.starts.get((place >> self.narrow) as usize)? as usize;
        // Nearly every key needs no step or one. Which of them is a coin toss, so it must not be a branch.
        arc += usize::from(*self.ends.get(arc)? < place);
        if *self.ends.get(arc)? < place {
            arc += further(self.ends.get(arc..)?, place);
        }
        Some(arc)
    }

    /// The living node that has the point of an arc.
    fn living(&self, arc: usize, out: &OutNodes) -> Option<NodeIndex> {
        let owner = self.owners.get(arc).copied()?;
        if !out.contains(owner) {
            return Some(owner);
        }
        let first = self
            .ties
            .partition_point(|&(tied, _)| (tied as usize) < arc);
        let tied = self.ties.get(first..)?.iter();
        let mut tied = tied.take_while(|(tied, _)| *tied as usize == arc);
        tied.find(|(_, node)| !out.contains(*node))
            .map(|&(_, node)| node)
    }
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        self.owners.get(self.arc(key)?).copied()
    }

    /// Arc by arc in the ring's direction, once around. Half of the points out cost two steps on average.
    fn locate_without(&self, key: &[u8], out: &OutNodes) -> Option<NodeIndex> {
        let (own, arcs) = (self.arc(key)?, self.owners.len());
        let arc = |step: usize| match self.direction {
            Direction::AtOrAfter | Direction::After if own + step < arcs => own + step,
            Direction::AtOrAfter | Direction::After => own + step - arcs,
            Direction::AtOrBefore if step <= own => own - step,
            Direction::AtOrBefore => own + arcs - step,
        };
        (0..arcs).find_map(|step| self.living(arc(step), out))
    }
}

/// Points on one place, as a part of all sorted points.
pub(super) type Points<'p> = &'p [(u64, NodeIndex)];

/// The places on which points fall, each with its points, the one that counts first.
pub(super) fn places(points: Points<'_>) -> Vec<(u64, Points<'_>)> {
    let places = points.chunk_by(|a, b| a.0 == b.0);
    places.map(|points| (points[0].0, points)).collect()
}

/// The nodes, besides the owner, that have a point where an arc's point is.
fn ties(arcs: &[(u64, Points<'_>)]) -> Box<[(u32, NodeIndex)]> {
    let mut ties = Vec::new();
    for (arc, (_, points)) in (0..).zip(arcs) {
        ties.extend(points[1..].iter().map(|&(_, node)| (arc, node)));
    }
    ties.into()
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
pub(super) fn arcs<T: Copy>(points: &[(u64, T)], direction: Direction) -> Vec<(u64, T)> {
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
        // An arc ends before the point that owns it.
        Direction::After => {
            let ends = |&(point, owner): &(u64, T)| Some((point.checked_sub(1)?, owner));
            points.iter().filter_map(ends).collect()
        }
    };
    let behind_last = match direction {
        Direction::AtOrAfter | Direction::After => first.1,
        Direction::AtOrBefore => last.1,
    };
    arcs.push((u64::MAX, behind_last));
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
