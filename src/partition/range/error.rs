//! Errors in tables of ranges.

use std::fmt;

use super::super::line::SyntaxError;
use crate::partition::password::ADVICE;

/// An error in tables of ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// Two ranges of one table start alike.
    #[error("{first} and {second} start alike")]
    Duplicate {
        /// The range that was given first.
        first: Box<RangeEntry>,
        /// The other one.
        second: Box<RangeEntry>,
    },
    /// Two tables have one prefix.
    #[error("{first} and {second} have the same prefix")]
    DuplicateTable {
        /// The table that was given first.
        first: String,
        /// The other one.
        second: String,
    },
    /// A table has no ranges.
    #[error("{table} has no ranges")]
    EmptyTable {
        /// The table.
        table: String,
    },
    /// Two neighbouring ranges leave keys between them without an owner, and the table has no default node.
    #[error("{before} and {after} leave a gap; close it or give the table a default node")]
    Gap {
        /// The range below the gap.
        before: Box<RangeEntry>,
        /// The range above the gap.
        after: Box<RangeEntry>,
    },
    /// A range ends before it starts, or holds nothing.
    #[error("{entry} holds nothing: its end is not after its start")]
    Inverted {
        /// The range.
        entry: Box<RangeEntry>,
    },
    /// There is no table at all.
    #[error("there is no table of ranges")]
    NoTables,
    /// Two ranges of one table have keys in common.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The range that starts first.
        first: Box<RangeEntry>,
        /// The range that starts before the other one has ended.
        second: Box<RangeEntry>,
    },
    /// A name of a node, a prefix or a bound holds a password, which is not repeated.
    #[error("{place} {ADVICE}")]
    Password {
        /// Where it stands.
        place: String,
    },
    /// A line of text cannot be read.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A default node is not there.
    #[error("{place}: there is no node {node:?}")]
    UnknownDefault {
        /// Whose default it is.
        place: String,
        /// The name.
        node: String,
    },
    /// A range belongs to a node that is not there.
    #[error("{entry}: there is no node {:?}", entry.node)]
    UnknownNode {
        /// The range.
        entry: Box<RangeEntry>,
    },
}

/// One range of one table, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeEntry {
    /// The table, such as `numeric "user:"`.
    pub table: String,
    /// The range and its node as text, such as `0..=10000 a`.
    pub text: String,
    /// The name of the node.
    pub node: String,
    /// The number of the line, from one, when the table was read from text.
    pub line: Option<usize>,
}

impl fmt::Display for RangeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.table, self.text)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}
