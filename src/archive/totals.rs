//! What was counted while an archive was written: one of its last frames, as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::error::ArchiveError;
use super::text::{Statement, first_line, put_attribute, put_line, statements};
use crate::rdb::KeyInfo;

/// The name of the text.
const TEXT: &str = "totals";

/// What was counted while an archive was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// When the archive was finished, in milliseconds since 1970.
    pub(crate) finished_at: Option<u64>,
    /// For each node of the manifest, in its order.
    pub(crate) nodes: Vec<NodeTotals>,
    /// What else a reader should know, one sentence each.
    pub(crate) remarks: Vec<String>,
    /// Lines of later versions, as they stand.
    pub(crate) unknown: Vec<String>,
}

/// What was counted of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeTotals {
    /// Frames of keys and functions.
    pub(crate) frames: u64,
    /// Keys.
    pub(crate) keys: u64,
    /// Libraries of functions.
    pub(crate) functions: u64,
    /// Keys that had expired at the moment of the backup and were left out.
    pub(crate) expired: u64,
    /// Bytes of the values of keys, as the server writes them.
    pub(crate) value_bytes: u64,
    /// Bytes of the largest value.
    pub(crate) largest: u64,
    /// Bytes of the payloads of frames before they were compressed.
    pub(crate) plain_bytes: u64,
    /// Bytes of frames as they are stored, with their headers.
    pub(crate) stored_bytes: u64,
    /// Keys by the type byte of RDB.
    pub(crate) types: BTreeMap<u8, u64>,
    /// Keys by database.
    pub(crate) databases: BTreeMap<u32, u64>,
}

impl Totals {
    /// Writes the totals.
    pub(crate) fn to_text(&self) -> String {
        let mut text = first_line(TEXT) + "\n";
        put_line(&mut text, "finished_at", self.finished_at);
        for (index, node) in self.nodes.iter().enumerate() {
            node.put(index, &mut text);
        }
        for note in &self.remarks {
            put_line(&mut text, "note", Some(note));
        }
        text
    }

    /// Reads totals.
    ///
    /// # Errors
    ///
    /// With the number of the line, if they cannot be read, or if a later version has written something that must be
    /// known.
    pub(crate) fn parse(text: &str) -> Result<Self, ArchiveError> {
        let mut totals = Self::default();
        for mut line in statements(TEXT, text)? {
            match line.word {
                "finished_at" => totals.finished_at = Some(line.number()?),
                "node" => {
                    let node = NodeTotals::read(totals.nodes.len(), &mut line)?;
                    totals.nodes.push(node);
                }
                "type" => {
                    let node = totals.node(&mut line)?;
                    node.types.insert(line.number()?, line.number()?);
                }
                "database" => {
                    let node = totals.node(&mut line)?;
                    node.databases.insert(line.number()?, line.number()?);
                }
                "note" => totals.remarks.push(line.value()?),
                other => {
                    line.ignore(other)?;
                    totals.unknown.push(line.line.to_owned());
                }
            }
        }
        Ok(totals)
    }

    /// Returns the sums over all nodes.
    pub(crate) fn sum(&self) -> NodeTotals {
        let mut sum = NodeTotals::default();
        for node in &self.nodes {
            sum.add(node);
        }
        sum
    }

    /// Returns the node whose index is the next token of a line.
    fn node(&mut self, line: &mut Statement<'_>) -> Result<&mut NodeTotals, ArchiveError> {
        let index: usize = line.number()?;
        let node = self.nodes.get_mut(index);
        node.ok_or_else(|| line.error("the line of this node must come before"))
    }
}

impl NodeTotals {
    /// Counts a key without its value.
    pub(super) fn count_key(&mut self, info: &KeyInfo) {
        self.keys += 1;
        *self.types.entry(info.value_type).or_default() += 1;
        *self.databases.entry(info.db).or_default() += 1;
    }

    /// Counts a whole value.
    pub(super) fn count_value(&mut self, bytes: u64) {
        self.value_bytes = self.value_bytes.saturating_add(bytes);
        self.largest = self.largest.max(bytes);
    }

    /// Counts a frame.
    pub(super) fn count_frame(&mut self, plain: u64, stored: u64) {
        self.frames += 1;
        self.plain_bytes = self.plain_bytes.saturating_add(plain);
        self.stored_bytes = self.stored_bytes.saturating_add(stored);
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.frames, other.frames),
            (&mut self.keys, other.keys),
            (&mut self.functions, other.functions),
            (&mut self.expired, other.expired),
            (&mut self.value_bytes, other.value_bytes),
            (&mut self.plain_bytes, other.plain_bytes),
            (&mut self.stored_bytes, other.stored_bytes),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.largest = self.largest.max(other.largest);
        for (value_type, keys) in &other.types {
            let sum = self.types.entry(*value_type).or_default();
            *sum = sum.saturating_add(*keys);
        }
        for (database, keys) in &other.databases {
            let sum = self.databases.entry(*database).or_default();
            *sum = sum.saturating_add(*keys);
        }
    }

    fn put(&self, index: usize, text: &mut String) {
        let _ = write!(text, "node {index}");
        put_attribute(text, "frames", Some(self.frames));
        put_attribute(text, "keys", Some(self.keys));
        put_attribute(text, "functions", Some(self.functions));
        put_attribute(text, "expired", Some(self.expired));
        put_attribute(text, "value_bytes", Some(self.value_bytes));
        put_attribute(text, "largest", Some(self.largest));
        put_attribute(text, "plain_bytes", Some(self.plain_bytes));
        put_attribute(text, "stored_bytes", Some(self.stored_bytes));
        text.push('\n');
        for (value_type, keys) in &self.types {
            let _ = writeln!(text, "type {index} {value_type} {keys}");
        }
        for (database, keys) in &self.databases {
            let _ = writeln!(text, "database {index} {database} {keys}");
        }
    }

    fn read(expected: usize, line: &mut Statement<'_>) -> Result<Self, ArchiveError> {
        if line.number::<usize>()? != expected {
            return Err(line.error("nodes are not in the order of the manifest"));
        }
        let mut node = Self::default();
        while let Some((name, value)) = line.attribute()? {
            let place = match name.as_str() {
                "frames" => &mut node.frames,
                "keys" => &mut node.keys,
                "functions" => &mut node.functions,
                "expired" => &mut node.expired,
                "value_bytes" => &mut node.value_bytes,
                "largest" => &mut node.largest,
                "plain_bytes" => &mut node.plain_bytes,
                "stored_bytes" => &mut node.stored_bytes,
                other => {
                    line.ignore(other)?;
                    continue;
                }
            };
            *place = line.parsed(&value)?;
        }
        Ok(node)
    }
}
