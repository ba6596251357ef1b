//! Ranges of keys, one table per kind of key.
//!
//! `mod.rs` is the partitioner and its builder, `table.rs` the tables and their checks, `placed.rs` the
//! lookup, `text.rs` the text file, `error.rs` what can be wrong. A key is never rounded to a neighbouring
//! range.

mod error;
mod placed;
mod table;
mod text;

use std::sync::Arc;

use super::catalogue::{OptionInfo, OptionValues, PartitionerInfo};
use super::line::{Name, split};
use super::{Partitioner, Placement, PlacementError, check_nodes, positions};
use crate::hash::HashTag;
use crate::partition::NodeSpec;
use crate::partition::password::holds_password;

pub use error::{RangeEntry, RangeError};
pub use table::{BytesTable, NumericTable, RangeTable};

/// Ranges of keys, one table per kind of key; a kind is a prefix such as `user:`.
///
/// The only partitioner that keeps neighbours together, and the only one that may leave a key without an
/// owner: a key that no table covers goes to the table's default node, or else to the overall default node,
/// or else is refused.
///
/// - The *longest* registered prefix of the key picks the table, and only that table is asked.
/// - A [`NumericTable`] reads the decimal number right after the prefix, up to the end of the key or the next
///   `:`. So `user:7`, `user:007` and `user:7:name` are all number 7. No digit, anything but digits, or a
///   number above `u64::MAX` is outside of every range.
/// - A [`BytesTable`] compares all bytes after the prefix, lexicographically: there `9` comes after `10`.
/// - Hash tags do not count: the whole key is looked at.
///
/// Ranges may not overlap, nor leave a gap between them unless their table has a default node. Below the
/// first and above the last range there may be nothing.
///
/// ```
/// use redis_sharding::partition::{BytesTable, NumericTable, Partitioner, Range};
/// use redis_sharding::NodeSpec;
///
/// let rule = Range::builder()
///     .table(NumericTable::new("user:").range(0..=10_000, "a").range(10_001..=20_000, "b"))
///     .table(BytesTable::new("city:").range(.."n", "a").range("n".., "b"))
///     .build()?;
/// let nodes = ["a", "b"].map(|name| NodeSpec::new(name, format!("{name}.example:6379")));
/// let placement = rule.place(&nodes)?;
/// let owner = |key: &str| placement.locate(key.as_bytes()).map(|node| nodes[node.get()].name());
/// assert_eq!(owner("user:10000:name"), Some("a"));
/// assert_eq!(owner("user:20001"), None);
/// assert_eq!(owner("city:Oslo"), Some("a")); // "O" comes before "n"
/// assert_eq!(owner("city:oslo"), Some("b"));
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Sorted by prefix.
    tables: Vec<RangeTable>,
    default: Option<String>,
}

impl Range {
    /// Starts without tables and without a default node.
    pub fn builder() -> RangeBuilder {
        RangeBuilder::default()
    }

    /// The tables, sorted by prefix.
    pub fn tables(&self) -> &[RangeTable] {
        &self.tables
    }

    /// The node of the keys that no table covers.
    pub fn default_node(&self) -> Option<&str> {
        self.default.as_deref()
    }

    pub(super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "range/1",
        summary: "tables of ranges, one per kind of key; hash tags do not count",
        options: &[
            OptionInfo {
                name: "default",
                meaning: "the node of the keys that no table covers; without it they have no owner",
                default: None,
                values: OptionValues::Text("the name of a node"),
            },
            OptionInfo {
                name: "bytes \"PREFIX\"",
                meaning: "ranges of the bytes that follow this prefix, and their nodes",
                default: None,
                values: OptionValues::Text("such as ..\"n\" a, \"n\"..\"t\" b, default c"),
            },
            OptionInfo {
                name: "numeric \"PREFIX\"",
                meaning: "ranges of the decimal number that follows this prefix, and their nodes",
                default: None,
                values: OptionValues::Text("such as 0..=9999 a, 10000.. b, default c"),
            },
        ],
        make: |given| Ok(Arc::new(Self::from_options(given.options)?)),
    };

    /// Reads what [`options`](Partitioner::options) writes.
    fn from_options(options: &[(String, String)]) -> Result<Self, RangeError> {
        let (defaults, tables): (Vec<_>, Vec<_>) =
            options.iter().partition(|(option, _)| option == "default");
        let mut text = String::new();
        for (_, node) in defaults {
            text += &format!("default {}\n", Name(node));
        }
        for (title, statements) in tables {
            text += &format!("{title}\n{}\n", split(statements));
        }
        Self::parse(&text)
    }
}

/// Builds a [`Range`] in code.
#[derive(Clone, Debug, Default)]
pub struct RangeBuilder {
    tables: Vec<RangeTable>,
    default: Option<String>,
}

impl RangeBuilder {
    /// Adds the table of one kind of key.
    #[must_use]
    pub fn table(mut self, table: impl Into<RangeTable>) -> Self {
        self.tables.push(table.into());
        self
    }

    /// The node of the keys that no table covers, and of those outside of their table's ranges when the table
    /// has no default node of its own. Defaults to none: such keys are refused.
    #[must_use]
    pub fn default_node(mut self, node: impl Into<String>) -> Self {
        self.default = Some(node.into());
        self
    }

    /// Checks the tables. Whether their nodes exist turns out when they are placed.
    ///
    /// # Errors
    ///
    /// Every [`RangeError`] but an unknown node; the first that is found.
    pub fn build(mut self) -> Result<Range, RangeError> {
        if self.tables.is_empty() {
            return Err(RangeError::NoTables);
        }
        // Before anything else: what is refused is shown.
        if self.default.as_deref().is_some_and(holds_password) {
            let place = "the name of the default node".to_owned();
            return Err(RangeError::Password { place });
        }
        self.tables
            .iter()
            .try_for_each(RangeTable::check_passwords)?;
        self.tables = self
            .tables
            .into_iter()
            .map(RangeTable::checked)
            .collect::<Result<_, _>>()?;
        self.tables.sort_by(|a, b| a.prefix().cmp(b.prefix()));
        if let Some(twins) = self
            .tables
            .windows(2)
            .find(|pair| pair[0].prefix() == pair[1].prefix())
        {
            return Err(RangeError::DuplicateTable {
                first: twins[0].title(),
                second: twins[1].title(),
            });
        }
        Ok(Range {
            tables: self.tables,
            default: self.default,
        })
    }
}

impl Partitioner for Range {
    fn name(&self) -> &str {
        "range/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        let default = self
            .default
            .iter()
            .map(|node| ("default".to_owned(), node.clone()));
        let tables = self
            .tables
            .iter()
            .map(|table| (table.title(), table.lines().join(", ")));
        default.chain(tables).collect()
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_nodes(nodes)?;
        Ok(Box::new(placed::Placed::new(self, &positions(nodes))?))
    }

    /// The whole key counts.
    fn hash_tag(&self) -> HashTag {
        HashTag::None
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::nodes;
    use super::*;

    #[test]
    fn range_with_an_unknown_node_is_refused_when_placed() {
        let refusal = |rule: RangeBuilder| {
            rule.build()
                .unwrap()
                .place(&nodes(2))
                .unwrap_err()
                .to_string()
        };
        let users = || NumericTable::new("user:").range(0..=9, "node-0");
        assert_eq!(
            refusal(Range::builder().table(users().range(10.., "c"))),
            "numeric \"user:\", 10.. c: there is no node \"c\"",
        );
        assert_eq!(
            refusal(Range::builder().table(users().default_node("d"))),
            "the default of numeric \"user:\": there is no node \"d\"",
        );
        assert_eq!(
            refusal(Range::builder().table(users()).default_node("e")),
            "the default: there is no node \"e\""
        );
    }

    #[test]
    fn range_without_tables_is_refused() {
        assert_eq!(
            Range::builder().default_node("a").build(),
            Err(RangeError::NoTables)
        );
    }

    #[test]
    fn range_with_two_tables_of_one_prefix_is_refused() {
        let numbers = NumericTable::new("user:").range(.., "a");
        let names = BytesTable::new("user:").range::<&str>(.., "a");
        let refusal = Range::builder()
            .table(numbers)
            .table(names)
            .build()
            .unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "numeric \"user:\" and bytes \"user:\" have the same prefix"
        );
    }

    #[test]
    fn range_options_contain_all_tables_and_defaults() {
        let rule = Range::builder()
            .table(
                NumericTable::new("user:")
                    .range(10.., "b")
                    .range(..10, "a")
                    .default_node("c"),
            )
            .default_node("d")
            .build()
            .unwrap();
        let expected = [
            ("default", "d"),
            ("numeric \"user:\"", "0..=9 a, 10.. b, default c"),
        ];
        assert_eq!(
            rule.options(),
            expected.map(|(option, value)| (option.to_owned(), value.to_owned()))
        );
        assert_eq!(rule.hash_tag().name(), "none");
    }
}
