//! The lookup of a key in tables of ranges.

use std::collections::HashMap;

use super::table::{BytesTable, Entry, NumericTable, Place, RangeTable, Table};
use super::{Range, RangeError};
use crate::partition::NodeIndex;
use crate::partition::Placement;

/// Sorted tables, each with sorted cuts.
#[derive(Debug)]
pub(super) struct Placed {
    tables: Box<[PlacedTable]>,
    default: Option<NodeIndex>,
}

#[derive(Debug)]
struct PlacedTable {
    prefix: Box<[u8]>,
    /// The table of the longest prefix that this one's prefix starts with.
    parent: Option<usize>,
    cuts: Cuts,
}

/// Where the owner changes. The owners before the first cut come first, so there is one more of them than
/// cuts.
#[derive(Debug)]
enum Cuts {
    Bytes {
        /// The first eight bytes of each start as a big-endian number, padded with zeros, which has the same
        /// order.
        heads: Box<[u64]>,
        starts: Box<[Box<[u8]>]>,
        owners: Box<[Option<NodeIndex>]>,
    },
    Numeric {
        starts: Box<[u64]>,
        owners: Box<[Option<NodeIndex>]>,
    },
}

impl Placed {
    pub(super) fn new(
        rule: &Range,
        positions: &HashMap<&str, NodeIndex>,
    ) -> Result<Self, RangeError> {
        let find_default =
            |place: &str, node: Option<&str>| match node {
                None => Ok(None),
                Some(node) => positions.get(node).copied().map(Some).ok_or_else(|| {
                    RangeError::UnknownDefault {
                        place: place.to_owned(),
                        node: node.to_owned(),
                    }
                }),
            };
        let default = find_default("the default", rule.default_node())?;
        let mut tables: Vec<PlacedTable> = Vec::with_capacity(rule.tables().len());
        for table in rule.tables() {
            let own = find_default(
                &format!("the default of {}", table.title()),
                table.default_node(),
            )?;
            let cuts = Cuts::new(table, own.or(default), positions)?;
            let mut parent = tables.len().checked_sub(1);
            while let Some(i) = parent.filter(|&i| !table.prefix().starts_with(&tables[i].prefix)) {
                parent = tables[i].parent;
            }
            tables.push(PlacedTable {
                prefix: table.prefix().into(),
                parent,
                cuts,
            });
        }
        Ok(Self {
            tables: tables.into(),
            default,
        })
    }

    /// The table of the longest prefix of the key.
    ///
    /// Of all prefixes that sort before the key, the last one is that prefix or starts with it.
    fn table(&self, key: &[u8]) -> Option<&PlacedTable> {
        let mut candidate = self
            .tables
            .partition_point(|table| *table.prefix <= *key)
            .checked_sub(1);
        while let Some(table) = candidate.and_then(|i| self.tables.get(i)) {
            if key.starts_with(&table.prefix) {
                return Some(table);
            }
            candidate = table.parent;
        }
        None
    }
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        match self.table(key) {
            Some(table) => table.cuts.owner(&key[table.prefix.len()..]),
            None => self.default,
        }
    }
}

impl Cuts {
    fn new(
        table: &RangeTable,
        outside: Option<NodeIndex>,
        positions: &HashMap<&str, NodeIndex>,
    ) -> Result<Self, RangeError> {
        Ok(match table {
            RangeTable::Bytes(BytesTable(table)) => {
                let (starts, owners) = cut(table, outside, positions)?;
                let heads = starts.iter().map(|start| head(start)).collect();
                Self::Bytes {
                    heads,
                    starts: starts.into_iter().map(Vec::into_boxed_slice).collect(),
                    owners,
                }
            }
            RangeTable::Numeric(NumericTable(table)) => {
                let (starts, owners) = cut(table, outside, positions)?;
                Self::Numeric {
                    starts: starts.into(),
                    owners,
                }
            }
        })
    }

    /// The owner of what follows the prefix.
    fn owner(&self, rest: &[u8]) -> Option<NodeIndex> {
        match self {
            Self::Bytes {
                heads,
                starts,
                owners,
            } => {
                let head = head(rest);
                // Starts with a smaller head are smaller; those with the same head are compared in full.
                let smaller = heads.partition_point(|&other| other < head);
                let alike = heads[smaller..].partition_point(|&other| other == head);
                let before = smaller
                    + starts[smaller..smaller + alike].partition_point(|start| **start <= *rest);
                *owners.get(before)?
            }
            Self::Numeric { starts, owners } => match number(rest) {
                Some(number) => *owners.get(starts.partition_point(|&start| start <= number))?,
                None => *owners.first()?,
            },
        }
    }
}

type StartsAndOwners<P> = (Vec<P>, Box<[Option<NodeIndex>]>);

/// Where the owner changes, and the owners before the first and after each of those places.
fn cut<P: Place + Clone>(
    table: &Table<P>,
    outside: Option<NodeIndex>,
    positions: &HashMap<&str, NodeIndex>,
) -> Result<StartsAndOwners<P>, RangeError> {
    let mut starts = Vec::new();
    let mut owners = vec![outside];
    let mut entries = table.entries.iter().peekable();
    while let Some(entry) = entries.next() {
        let Entry {
            start, end, node, ..
        } = entry;
        let owner = positions.get(&**node);
        let owner = owner.ok_or_else(|| RangeError::UnknownNode {
            entry: table.describe(entry),
        })?;
        starts.push(start.clone());
        owners.push(Some(*owner));
        if let Some(end) = end
            .as_ref()
            .filter(|end| entries.peek().is_none_or(|next| next.start != **end))
        {
            starts.push(end.clone());
            owners.push(outside);
        }
    }
    Ok((starts, owners.into()))
}

/// The decimal number up to the end or the first `:`.
fn number(bytes: &[u8]) -> Option<u64> {
    let mut number = None;
    for byte in bytes {
        let digit = match byte {
            b':' => break,
            b'0'..=b'9' => u64::from(byte - b'0'),
            _ => return None,
        };
        number = Some(
            number
                .unwrap_or(0_u64)
                .checked_mul(10)?
                .checked_add(digit)?,
        );
    }
    number
}

fn head(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    let length = bytes.len().min(8);
    padded[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(padded)
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::super::super::Partitioner;
    use super::super::super::testing::nodes;
    use super::*;

    #[test]
    fn range_number_ends_at_a_colon_or_with_the_key() {
        let cases: [(&str, Option<u64>); 14] = [
            ("7", Some(7)),
            ("7:name", Some(7)),
            ("7:8:9", Some(7)),
            ("007", Some(7)),
            ("00000000000000000000000000000000007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            (":7", None),
            ("-7", None),
            ("+7", None),
            ("7a", None),
            ("7 ", None),
            ("٧", None),
        ];
        for (text, expected) in cases {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn range_uses_only_the_table_with_the_longest_prefix() {
        let rule = Range::builder()
            .table(NumericTable::new("user:").range(0..=9, "node-0"))
            .table(BytesTable::new("user:1").range("x".., "node-1"))
            .table(BytesTable::new("user:10:").range::<&str>(.., "node-2"))
            .build()
            .unwrap();
        let placement = rule.place(&nodes(3)).unwrap();
        let owner = |key: &str| placement.locate(key.as_bytes()).map(NodeIndex::get);
        assert_eq!(owner("user:2"), Some(0));
        assert_eq!(owner("user:1"), None);
        assert_eq!(owner("user:1x"), Some(1));
        assert_eq!(owner("user:10:"), Some(2));
        assert_eq!(owner("user:10;"), None);
        assert_eq!(owner("user"), None);
        assert_eq!(owner("{user:2}"), None);
    }

    #[test]
    fn range_key_outside_of_all_ranges_goes_to_the_nearest_default() {
        let rule = Range::builder()
            .table(
                NumericTable::new("a:")
                    .range(10..=19, "node-0")
                    .range(30..=39, "node-0")
                    .default_node("node-1"),
            )
            .table(NumericTable::new("b:").range(10..=19, "node-0"))
            .default_node("node-2")
            .build()
            .unwrap();
        let placement = rule.place(&nodes(3)).unwrap();
        let owner = |key: &str| placement.locate(key.as_bytes()).unwrap().get();
        assert_eq!(["a:10", "a:19", "a:35"].map(owner), [0; 3]);
        assert_eq!(
            ["a:9", "a:20", "a:29", "a:40", "a:x", "a:"].map(owner),
            [1; 6]
        );
        assert_eq!(["b:9", "b:20", "b:x", "c:10", "", "a"].map(owner), [2; 6]);
    }

    /// Few letters and one that is zero, so that keys, starts and prefixes meet often.
    fn words(length: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"\0ab".to_vec()), 0..length)
    }

    proptest! {
        #[test]
        fn range_of_bytes_matches_a_naive_search(
            cuts in prop::collection::btree_set(words(12), 2..12),
            keys in prop::collection::vec(words(14), 30),
        ) {
            let cuts: Vec<Vec<u8>> = cuts.into_iter().collect();
            let ranges: Vec<_> = cuts.windows(2).map(|pair| (Bound::Included(&pair[0]), Bound::Excluded(&pair[1]))).collect();
            let table = ranges.iter().enumerate().fold(BytesTable::new("k"), |table, (i, range)| {
                table.range::<Vec<u8>>(*range, format!("node-{}", i % 5))
            });
            let placement = Range::builder().table(table).build().unwrap().place(&nodes(5)).unwrap();
            for key in keys {
                let naive = cuts.windows(2).position(|pair| pair[0] <= key && key < pair[1]).map(|i| i % 5);
                prop_assert_eq!(placement.locate(&[b"k", &*key].concat()).map(NodeIndex::get), naive);
            }
        }

        #[test]
        fn range_of_numbers_matches_a_naive_search(
            starts in prop::collection::btree_set(prop_oneof![0..99_u64, any::<u64>()], 1..12),
            keys in prop::collection::vec(prop_oneof![0..99_u64, any::<u64>()], 30),
            bounded in any::<bool>(),
        ) {
            let starts: Vec<u64> = starts.into_iter().collect();
            let last = if bounded { starts.last().unwrap().saturating_add(9) } else { u64::MAX };
            let ends: Vec<u64> = starts[1..].iter().map(|start| start - 1).chain([last]).collect();
            let ranges: Vec<_> = starts.iter().zip(ends).map(|(&start, end)| start..=end).collect();
            let table = ranges.iter().enumerate().fold(NumericTable::new("n:"), |table, (i, range)| {
                table.range(range.clone(), format!("node-{}", i % 5))
            });
            let placement = Range::builder().table(table).build().unwrap().place(&nodes(5)).unwrap();
            for key in keys {
                let naive = ranges.iter().position(|range| range.contains(&key)).map(|i| i % 5);
                prop_assert_eq!(placement.locate(format!("n:{key}").as_bytes()).map(NodeIndex::get), naive);
                prop_assert_eq!(placement.locate(format!("n:00{key}:x").as_bytes()).map(NodeIndex::get), naive);
            }
        }

        #[test]
        fn range_longest_prefix_matches_a_naive_search(
            prefixes in prop::collection::btree_set(words(5), 1..12),
            keys in prop::collection::vec(words(7), 30),
        ) {
            let prefixes: Vec<Vec<u8>> = prefixes.into_iter().collect();
            let rule = prefixes.iter().enumerate().fold(Range::builder(), |rule, (i, prefix)| {
                rule.table(BytesTable::new(prefix).range::<&str>(.., format!("node-{i}")))
            });
            let placement = rule.build().unwrap().place(&nodes(12)).unwrap();
            for key in keys {
                let fitting = (0..prefixes.len()).filter(|&i| key.starts_with(&prefixes[i]));
                let naive = fitting.max_by_key(|&i| prefixes[i].len());
                prop_assert_eq!(placement.locate(&key).map(NodeIndex::get), naive);
            }
        }
    }
}
