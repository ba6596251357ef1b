//! [`KeyIndex`]: which keys of a source move where.

use std::collections::BTreeSet;

use crate::topology::record::UNITS;

/// What a key takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// The keys of one source that move, by pair and unit. Bounded: what does not fit is left out from the highest unit of the
/// last pair on, and the source is scanned again when the rest has moved.
///
/// It may have keys that do not exist any more, and must have all that exist: filled by SCAN before units are closed, and
/// kept true by what the server says of new keys.
#[derive(Debug)]
pub(super) struct KeyIndex {
    /// For each target, in the order in which the pairs move.
    pairs: Vec<PairKeys>,
    bytes: usize,
    bytes_max: usize,
}

/// The keys that move to one target.
#[derive(Debug)]
struct PairKeys {
    keys: BTreeSet<(u32, Box<[u8]>)>,
    /// Units below are complete.
    covered: u32,
    /// Units below have moved, so that they are never left out.
    moved: u32,
}

/// The keys of some units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UnitKeys {
    /// The units end before this one.
    pub(super) until: u32,
    pub(super) keys: Vec<Box<[u8]>>,
}

impl KeyIndex {
    /// An empty index of a source with this many targets, before its source is scanned. `moved` has for each target how
    /// far its pair has come.
    pub(super) fn new(moved: &[u32], bytes_max: usize) -> Self {
        let pair = |moved: &u32| PairKeys {
            keys: BTreeSet::new(),
            covered: UNITS,
            moved: *moved,
        };
        Self {
            pairs: moved.iter().map(pair).collect(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds a key of a unit that moves to this target.
    pub(super) fn insert(&mut self, pair: usize, unit: u32, key: &[u8]) {
        let Some(keys) = self.pairs.get_mut(pair) else {
            return;
        };
        if unit < keys.moved || unit >= keys.covered {
            return;
        }
        if keys.keys.insert((unit, key.into())) {
            self.bytes += key.len() + ENTRY_BYTES;
            while self.bytes > self.bytes_max && self.leave_out() {}
        }
    }

    /// Number of keys that move to this target, as far as they are known.
    pub(super) fn count(&self, pair: usize) -> usize {
        self.pairs.get(pair).map_or(0, |keys| keys.keys.len())
    }

    /// True if no key moves to this target, as far as the source has said: none was left out either.
    pub(super) fn has_none(&self, pair: usize) -> bool {
        let keys = self.pairs.get(pair);
        keys.is_some_and(|keys| keys.keys.is_empty() && keys.covered == UNITS)
    }

    /// True if the keys of this pair must be scanned again before anything else of it moves.
    pub(super) fn is_used_up(&self, pair: usize) -> bool {
        let keys = self.pairs.get(pair);
        keys.is_some_and(|keys| keys.covered <= keys.moved && keys.moved < UNITS)
    }

    /// The units that move next to this target: as many as have at most `size`, by what `size_of` says of each key, and
    /// at least one. Their keys stay in the index.
    pub(super) fn next_units(
        &self,
        pair: usize,
        size: u64,
        mut size_of: impl FnMut(&[u8]) -> u64,
    ) -> Option<u32> {
        let keys = self.pairs.get(pair)?;
        if keys.moved >= keys.covered {
            return None;
        }
        let mut sum = 0_u64;
        let mut first = None;
        for (unit, key) in &keys.keys {
            sum = sum.saturating_add(size_of(key));
            let first = *first.get_or_insert(*unit);
            if sum > size && *unit > first {
                return Some(*unit);
            }
            if sum > size {
                // The unit is large: it moves alone, to its end.
                return Some(unit + 1);
            }
        }
        Some(keys.covered)
    }

    /// The first keys that move next to this target, at most `count`.
    pub(super) fn peek(&self, pair: usize, count: usize) -> Vec<Box<[u8]>> {
        let keys = self.pairs.get(pair).into_iter().flat_map(|keys| &keys.keys);
        keys.take(count).map(|(_, key)| key.clone()).collect()
    }

    /// The keys of the units below `until` that have not moved.
    pub(super) fn keys_until(&self, pair: usize, until: u32) -> UnitKeys {
        let keys = self.pairs.get(pair).into_iter().flat_map(|keys| &keys.keys);
        let keys = keys.take_while(|(unit, _)| *unit < until);
        UnitKeys {
            until,
            keys: keys.map(|(_, key)| key.clone()).collect(),
        }
    }

    /// The units below `until` have moved: their keys are forgotten.
    pub(super) fn moved(&mut self, pair: usize, until: u32) {
        let Some(keys) = self.pairs.get_mut(pair) else {
            return;
        };
        keys.moved = keys.moved.max(until);
        let rest = keys.keys.split_off(&(until, Box::default()));
        let gone = std::mem::replace(&mut keys.keys, rest);
        let freed: usize = gone.iter().map(|(_, key)| key.len() + ENTRY_BYTES).sum();
        self.bytes = self.bytes.saturating_sub(freed);
    }

    /// Forgets everything, before the source is scanned again.
    pub(super) fn clear(&mut self) {
        for pair in &mut self.pairs {
            pair.keys.clear();
            pair.covered = UNITS;
        }
        self.bytes = 0;
    }

    /// Leaves out the highest unit of the last pair that has keys. False if that is the only unit left: one must fit, or
    /// nothing ever moves.
    fn leave_out(&mut self) -> bool {
        let has_keys = |pair: &PairKeys| !pair.keys.is_empty();
        let pairs_with_keys = self.pairs.iter().filter(|pair| has_keys(pair)).count();
        let Some(pair) = self.pairs.iter_mut().rev().find(|pair| has_keys(pair)) else {
            return false;
        };
        let (Some((first, _)), Some((last, _))) = (pair.keys.first(), pair.keys.last()) else {
            return false;
        };
        let last = *last;
        if pairs_with_keys == 1 && *first == last {
            return false;
        }
        let gone = pair.keys.split_off(&(last, Box::default()));
        let freed: usize = gone.iter().map(|(_, key)| key.len() + ENTRY_BYTES).sum();
        self.bytes = self.bytes.saturating_sub(freed);
        pair.covered = last;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1 << 20;

    fn index(bytes_max: usize, keys: &[(usize, u32, &str)]) -> KeyIndex {
        let mut index = KeyIndex::new(&[0, 0], bytes_max);
        for (pair, unit, key) in keys {
            index.insert(*pair, *unit, key.as_bytes());
        }
        index
    }

    fn keys(index: &KeyIndex, pair: usize, until: u32) -> Vec<String> {
        let found = index.keys_until(pair, until).keys;
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        found.iter().map(|key| text(key)).collect()
    }

    #[test]
    fn index_gives_whole_units_in_ascending_order() {
        let index = index(
            LARGE,
            &[
                (0, 9, "d"),
                (0, 3, "a"),
                (0, 3, "b"),
                (0, 5, "c"),
                (0, 3, "a"),
            ],
        );
        assert_eq!(index.count(0), 4);
        let next = |size| index.next_units(0, size, |_| 1);
        // One unit at least, and none in part.
        assert_eq!(
            [next(1), next(2), next(3), next(4)],
            [Some(4), Some(5), Some(9), Some(UNITS)]
        );
        assert_eq!(keys(&index, 0, 5), ["a", "b"]);
        assert_eq!(keys(&index, 0, UNITS), ["a", "b", "c", "d"]);
        // A pair without keys moves at once.
        assert_eq!(index.next_units(1, 1, |_| 1), Some(UNITS));
        assert!(index.has_none(1) && !index.has_none(0));
    }

    #[test]
    fn index_forgets_what_has_moved_and_takes_no_key_of_it() {
        let mut index = index(LARGE, &[(0, 3, "a"), (0, 5, "c")]);
        index.moved(0, 4);
        assert_eq!((index.count(0), index.bytes), (1, 1 + ENTRY_BYTES));
        index.insert(0, 3, b"late");
        assert_eq!(keys(&index, 0, UNITS), ["c"]);
        index.moved(0, UNITS);
        assert_eq!(index.bytes, 0);
        assert!(!index.is_used_up(0));
        assert_eq!(index.next_units(0, 1, |_| 1), None);
    }

    #[test]
    fn index_leaves_out_the_end_of_the_last_pair_first() {
        let three = 3 * (1 + ENTRY_BYTES);
        let all = [
            (0, 1, "a"),
            (0, 2, "b"),
            (1, 1, "c"),
            (1, 2, "d"),
            (0, 3, "e"),
        ];
        let mut index = index(three, &all);
        // Unit 0 of the second pair has no keys, and moves.
        assert_eq!(index.next_units(1, 100, |_| 1), Some(1));
        index.moved(1, 1);
        assert!(index.is_used_up(1) && !index.is_used_up(0));
        // What was left out may be in it.
        assert!(!index.has_none(1));
        assert_eq!(index.next_units(1, 100, |_| 1), None);
        assert_eq!(keys(&index, 0, UNITS), ["a", "b", "e"]);
        index.insert(0, 4, b"f");
        assert_eq!(index.next_units(0, 100, |_| 1), Some(4));
        index.moved(0, 4);
        assert!(index.is_used_up(0));
        // The second scan.
        index.clear();
        index.insert(0, 4, b"f");
        index.insert(0, 1, b"a");
        assert_eq!(keys(&index, 0, UNITS), ["f"]);
        assert_eq!(index.next_units(0, 100, |_| 1), Some(UNITS));
    }

    #[test]
    fn index_keeps_one_unit_of_a_later_pair_once_the_first_has_moved() {
        let mut index = index(1, &[(0, 7, "a")]);
        index.moved(0, UNITS);
        index.insert(1, 9, b"b");
        index.insert(1, 9, b"c");
        assert_eq!(index.next_units(1, 1, |_| 1), Some(10));
        assert_eq!(keys(&index, 1, 10), ["b", "c"]);
    }

    #[test]
    fn index_keeps_one_unit_that_is_larger_than_its_limit() {
        let mut index = index(1, &[(0, 7, "a"), (0, 7, "b")]);
        assert_eq!(index.count(0), 2);
        index.insert(0, 6, b"c");
        assert_eq!(
            (keys(&index, 0, UNITS), index.is_used_up(0)),
            (vec!["c".to_owned()], false)
        );
        assert_eq!(index.next_units(0, 100, |_| 1), Some(7));
    }
}
