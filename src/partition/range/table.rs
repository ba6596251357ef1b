//! The ranges of one kind of key.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use super::super::line::{Name, Quoted};
use super::{RangeEntry, RangeError};
use crate::partition::password::{holds_password, option_holds_password};

/// Ranges of the decimal number that follows a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumericTable(pub(super) Table<u64>);

impl NumericTable {
    /// The table of the keys that start with `prefix`. It has no ranges yet.
    pub fn new(prefix: impl AsRef<[u8]>) -> Self {
        Self(Table::new(prefix.as_ref()))
    }

    /// Adds a range, in any order: `0..=10_000`, `10_001..20_001`, `20_001..`.
    #[must_use]
    pub fn range(mut self, range: impl RangeBounds<u64>, node: impl Into<String>) -> Self {
        self.add(range, node.into(), None);
        self
    }

    pub(super) fn add(&mut self, range: impl RangeBounds<u64>, node: String, line: Option<usize>) {
        let after = |number: u64| number.checked_add(1);
        let start = match range.start_bound() {
            Bound::Included(&number) => Some(number),
            Bound::Excluded(&number) => after(number),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(&number) => after(number),
            Bound::Excluded(&number) => Some(number),
            Bound::Unbounded => None,
        };
        // Nothing comes after the largest number: that range is empty, and will be refused.
        let (start, end) = start.map_or((u64::MAX, Some(u64::MAX)), |start| (start, end));
        self.0.entries.push(Entry {
            start,
            end,
            node,
            line,
        });
    }

    /// The node of the keys that start with the prefix and are in no range. Defaults to none: they go to the
    /// overall default node, or are refused.
    #[must_use]
    pub fn default_node(mut self, node: impl Into<String>) -> Self {
        self.0.default = Some(node.into());
        self
    }
}

/// Ranges of the bytes that follow a prefix, in lexicographic order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytesTable(pub(super) Table<Vec<u8>>);

impl BytesTable {
    /// The table of the keys that start with `prefix`. It has no ranges yet.
    pub fn new(prefix: impl AsRef<[u8]>) -> Self {
        Self(Table::new(prefix.as_ref()))
    }

    /// Adds a range, in any order: `.."n"`, `"n".."t"`, `"t"..`.
    #[must_use]
    pub fn range<B: AsRef<[u8]>>(
        mut self,
        range: impl RangeBounds<B>,
        node: impl Into<String>,
    ) -> Self {
        self.add(range, node.into(), None);
        self
    }

    pub(super) fn add<B: AsRef<[u8]>>(
        &mut self,
        range: impl RangeBounds<B>,
        node: String,
        line: Option<usize>,
    ) {
        // The next string of bytes after any other is the same with a zero byte.
        let after = |bytes: &B| [bytes.as_ref(), &[0]].concat();
        let start = match range.start_bound() {
            Bound::Included(bytes) => bytes.as_ref().to_vec(),
            Bound::Excluded(bytes) => after(bytes),
            Bound::Unbounded => Vec::new(),
        };
        let end = match range.end_bound() {
            Bound::Included(bytes) => Some(after(bytes)),
            Bound::Excluded(bytes) => Some(bytes.as_ref().to_vec()),
            Bound::Unbounded => None,
        };
        self.0.entries.push(Entry {
            start,
            end,
            node,
            line,
        });
    }

    /// The node of the keys that start with the prefix and are in no range. Defaults to none: they go to the
    /// overall default node, or are refused.
    #[must_use]
    pub fn default_node(mut self, node: impl Into<String>) -> Self {
        self.0.default = Some(node.into());
        self
    }
}

/// A table of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeTable {
    /// Ranges of bytes.
    Bytes(BytesTable),
    /// Ranges of numbers.
    Numeric(NumericTable),
}

impl RangeTable {
    /// The prefix of the keys of this table.
    pub fn prefix(&self) -> &[u8] {
        match self {
            Self::Bytes(BytesTable(table)) => &table.prefix,
            Self::Numeric(NumericTable(table)) => &table.prefix,
        }
    }

    /// The default node of this table.
    pub fn default_node(&self) -> Option<&str> {
        match self {
            Self::Bytes(BytesTable(table)) => table.default.as_deref(),
            Self::Numeric(NumericTable(table)) => table.default.as_deref(),
        }
    }

    pub(super) fn check_passwords(&self) -> Result<(), RangeError> {
        match self {
            Self::Bytes(BytesTable(table)) => table.check_passwords(),
            Self::Numeric(NumericTable(table)) => table.check_passwords(),
        }
    }

    pub(super) fn checked(self) -> Result<Self, RangeError> {
        Ok(match self {
            Self::Bytes(BytesTable(table)) => Self::Bytes(BytesTable(table.checked()?)),
            Self::Numeric(NumericTable(table)) => Self::Numeric(NumericTable(table.checked()?)),
        })
    }

    /// The first line of the table as text, such as `numeric "user:"`.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Bytes(BytesTable(table)) => table.title(),
            Self::Numeric(NumericTable(table)) => table.title(),
        }
    }

    /// The other lines of the table as text.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Bytes(BytesTable(table)) => table.lines(),
            Self::Numeric(NumericTable(table)) => table.lines(),
        }
    }
}

impl From<BytesTable> for RangeTable {
    fn from(table: BytesTable) -> Self {
        Self::Bytes(table)
    }
}

impl From<NumericTable> for RangeTable {
    fn from(table: NumericTable) -> Self {
        Self::Numeric(table)
    }
}

/// A bound of a range: a number or a string of bytes.
pub(super) trait Place: Ord {
    /// The word for a table of such places.
    const KIND: &'static str;

    /// The range from `start` to just before `end`, as text.
    fn write(start: &Self, end: Option<&Self>) -> String;
}

impl Place for u64 {
    const KIND: &'static str = "numeric";

    fn write(start: &u64, end: Option<&u64>) -> String {
        match end.map(|end| end.checked_sub(1)) {
            None => format!("{start}.."),
            Some(Some(last)) => format!("{start}..={last}"),
            Some(None) => format!("{start}..0"),
        }
    }
}

impl Place for Vec<u8> {
    const KIND: &'static str = "bytes";

    fn write(start: &Vec<u8>, end: Option<&Vec<u8>>) -> String {
        let start = if start.is_empty() {
            String::new()
        } else {
            Quoted(start).to_string()
        };
        let end = end.map_or(String::new(), |end| Quoted(end).to_string());
        format!("{start}..{end}")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table<P> {
    pub(super) prefix: Vec<u8>,
    pub(super) entries: Vec<Entry<P>>,
    pub(super) default: Option<String>,
}

/// From `start` to just before `end`, or to the end of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry<P> {
    pub(super) start: P,
    pub(super) end: Option<P>,
    pub(super) node: String,
    /// The line it was read from, until it is checked.
    pub(super) line: Option<usize>,
}

impl<P: Place> Table<P> {
    fn new(prefix: &[u8]) -> Self {
        Self {
            prefix: prefix.to_vec(),
            entries: Vec::new(),
            default: None,
        }
    }

    fn check_passwords(&self) -> Result<(), RangeError> {
        let kind = P::KIND;
        if option_holds_password(&String::from_utf8_lossy(&self.prefix)) {
            let place = format!("the prefix of a table ({kind})");
            return Err(RangeError::Password { place });
        }
        let default = self.default.as_deref().filter(|name| holds_password(name));
        let default = default.map(|_| "the name of the default node".to_owned());
        let line = |entry: &Entry<P>| match entry.line {
            Some(line) => format!(" (line {line})"),
            None => String::new(),
        };
        let entry = |entry: &Entry<P>| {
            if holds_password(&entry.node) {
                return Some(format!("the name of the node of a range{}", line(entry)));
            }
            let bounds = P::write(&entry.start, entry.end.as_ref());
            option_holds_password(&bounds).then(|| format!("a bound of a range{}", line(entry)))
        };
        match default.or_else(|| self.entries.iter().find_map(entry)) {
            None => Ok(()),
            Some(place) => Err(RangeError::Password {
                place: format!("{place} of {}", self.title()),
            }),
        }
    }

    /// Sorts the table, and checks that its ranges hold something, do not overlap, and leave no gap.
    fn checked(mut self) -> Result<Self, RangeError> {
        if self.entries.is_empty() {
            return Err(RangeError::EmptyTable {
                table: self.title(),
            });
        }
        if let Some(entry) = self
            .entries
            .iter()
            .find(|entry| entry.end.as_ref().is_some_and(|end| *end <= entry.start))
        {
            return Err(RangeError::Inverted {
                entry: self.describe(entry),
            });
        }
        self.entries.sort_by(|a, b| a.start.cmp(&b.start));
        for pair in self.entries.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            // Described only where they are refused: the title may be long, and there may be many ranges.
            let described = || (self.describe(before), self.describe(after));
            if before.start == after.start {
                let (first, second) = described();
                return Err(RangeError::Duplicate { first, second });
            }
            match &before.end {
                Some(end) if *end == after.start => {}
                Some(end) if *end < after.start => {
                    if self.default.is_none() {
                        let (before, after) = described();
                        return Err(RangeError::Gap { before, after });
                    }
                }
                _ => {
                    let (first, second) = described();
                    return Err(RangeError::Overlap { first, second });
                }
            }
        }
        self.entries.iter_mut().for_each(|entry| entry.line = None);
        Ok(self)
    }

    pub(super) fn title(&self) -> String {
        format!("{} {}", P::KIND, Quoted(&self.prefix))
    }

    fn lines(&self) -> Vec<String> {
        let default = self
            .default
            .iter()
            .map(|node| format!("default {}", Name(node)));
        self.entries
            .iter()
            .map(Entry::to_string)
            .chain(default)
            .collect()
    }

    pub(super) fn describe(&self, entry: &Entry<P>) -> Box<RangeEntry> {
        Box::new(RangeEntry {
            table: self.title(),
            text: entry.to_string(),
            node: entry.node.clone(),
            line: entry.line,
        })
    }
}

impl<P: Place> fmt::Display for Entry<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            P::write(&self.start, self.end.as_ref()),
            Name(&self.node)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> NumericTable {
        NumericTable::new("n:")
    }

    fn refusal(table: impl Into<RangeTable>) -> String {
        table.into().checked().unwrap_err().to_string()
    }

    #[test]
    fn range_table_with_a_gap_needs_a_default_node() {
        let gap = numbers().range(11..=20, "b").range(0..=9, "a");
        assert_eq!(
            refusal(gap.clone()),
            "numeric \"n:\", 0..=9 a and numeric \"n:\", 11..=20 b leave a gap; \
             close it or give the table a default node",
        );
        assert!(RangeTable::from(gap.default_node("c")).checked().is_ok());
        let bytes = BytesTable::new("").range(..="m", "a").range("n".., "b");
        assert!(matches!(
            RangeTable::from(bytes).checked(),
            Err(RangeError::Gap { .. })
        ));
    }

    #[test]
    fn range_overlap_error_names_both_ranges() {
        let overlap = numbers().range(10.., "b").range(0..=10, "a");
        assert_eq!(
            refusal(overlap),
            "numeric \"n:\", 0..=10 a and numeric \"n:\", 10.. b overlap"
        );
        let inside = numbers().range(.., "a").range(5..=6, "b").default_node("c");
        assert_eq!(
            refusal(inside),
            "numeric \"n:\", 0.. a and numeric \"n:\", 5..=6 b overlap"
        );
        let bytes = BytesTable::new("b:").range(..="n", "a").range("n".., "b");
        assert_eq!(
            refusal(bytes),
            "bytes \"b:\", ..\"n\\x00\" a and bytes \"b:\", \"n\".. b overlap"
        );
    }

    #[test]
    fn range_duplicate_error_names_both_ranges() {
        let twice = numbers().range(0..=9, "a").range(0..=99, "b");
        assert_eq!(
            refusal(twice),
            "numeric \"n:\", 0..=9 a and numeric \"n:\", 0..=99 b start alike"
        );
    }

    #[test]
    fn empty_range_is_refused() {
        let cause = "holds nothing: its end is not after its start";
        #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
        let inverted = numbers().range(9..=3, "a");
        assert_eq!(
            refusal(inverted),
            format!("numeric \"n:\", 9..=3 a {cause}")
        );
        assert_eq!(
            refusal(numbers().range(0..0, "a")),
            format!("numeric \"n:\", 0..0 a {cause}")
        );
        let beyond = (Bound::Excluded(u64::MAX), Bound::Unbounded);
        assert!(refusal(numbers().range(beyond, "a")).ends_with(cause));
        assert_eq!(
            refusal(BytesTable::new("b:").range("b".."a", "a")),
            format!("bytes \"b:\", \"b\"..\"a\" a {cause}")
        );
    }

    #[test]
    fn range_table_without_ranges_is_refused() {
        assert_eq!(
            refusal(numbers().default_node("a")),
            "numeric \"n:\" has no ranges"
        );
    }

    #[test]
    fn range_up_to_u64_max_contains_u64_max() {
        assert_eq!(
            numbers().range(5..=u64::MAX, "a"),
            numbers().range(5.., "a")
        );
    }
}
