//! Joins the entries of frames: keys and functions, whole.

use std::collections::BTreeMap;
use std::mem;

use super::entries::{EntryHead, Part, parts};
use super::error::ArchiveError;
use super::frame::DecodedFrame;
use super::totals::NodeTotals;
use crate::rdb::{KeyInfo, RdbVersion};

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) info: KeyInfo,
    /// The version of RDB in which the value is written.
    pub(crate) version: RdbVersion,
    /// The value as it stands in an RDB stream after the type byte.
    pub(crate) value: Vec<u8>,
}

/// A library of functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// The version of RDB of the server that it comes from.
    pub(crate) version: RdbVersion,
    /// The text of its source.
    pub(crate) source: Vec<u8>,
}

/// What a frame contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A key.
    Entry(Entry),
    /// A library of functions.
    Function(Function),
    /// An entry of which not all is there, or that is larger than the limit.
    Incomplete(Incomplete),
}

/// An entry of which not all is there, or that is larger than the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incomplete {
    /// The key, as far as it is known; `None` for a function, and if the beginning is lost.
    pub(crate) info: Option<KeyInfo>,
    /// Why it is not given.
    pub(crate) reason: IncompleteReason,
    /// Number of bytes of its body that were there.
    pub(crate) bytes: u64,
}

/// Why an entry is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncompleteReason {
    /// Its beginning is in a frame that is lost.
    BeginningLost,
    /// Its rest is in a frame that is lost.
    RestLost,
    /// It is larger than the limit.
    TooLarge,
}

/// Joins the entries of the frames of one or more nodes. The frames of a node must come in their order; some may be
/// missing.
pub(crate) struct EntryAssembler {
    /// Maximum length in bytes of a body.
    limit: usize,
    nodes: BTreeMap<u16, NodeState>,
}

#[derive(Default)]
struct NodeState {
    /// The sequence of the last frame.
    last: Option<u32>,
    open: Option<Open>,
    /// True if the parts that follow are of an entry that is not given.
    is_passing: bool,
    counted: NodeTotals,
}

/// An entry whose rest is in later frames.
struct Open {
    head: EntryHead,
    body: Vec<u8>,
    /// Length of the body so far, also of what was dropped.
    bytes: u64,
}

impl EntryAssembler {
    /// Joins entries whose body (key and value, or source) has at most `limit` bytes. Of others only the key is given.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            nodes: BTreeMap::new(),
        }
    }

    /// Takes a frame, and returns the entries that end in it.
    ///
    /// # Errors
    ///
    /// If its content does not have the form of such a frame. It counts as lost then.
    pub(crate) fn push(&mut self, frame: &DecodedFrame) -> Result<Vec<Item>, ArchiveError> {
        let damaged = |what| ArchiveError::damaged(frame.offset, what);
        let parts = parts(frame.header.kind, &frame.plain).map_err(damaged)?;
        let begun = parts.iter().filter(|part| part.head.is_some()).count();
        if begun != frame.header.entries as usize {
            return Err(damaged(
                "a frame has another number of entries than its header says",
            ));
        }
        let state = self.nodes.entry(frame.header.node).or_default();
        let mut items = Vec::with_capacity(begun);
        let sequence = frame.header.sequence;
        let is_next = state
            .last
            .is_none_or(|last| last.checked_add(1) == Some(sequence));
        let continues = parts.first().is_some_and(|part| part.head.is_none());
        if !is_next || !continues {
            state.drop_open(&mut items);
        }
        state.last = Some(sequence);
        for part in parts {
            if let Some(item) = state.take(part, self.limit).map_err(damaged)? {
                items.push(item);
            }
        }
        Ok(items)
    }

    /// Returns the entries whose end did not come, with the node of each.
    pub(crate) fn finish(&mut self) -> Vec<(u16, Item)> {
        let mut found = Vec::new();
        for (&node, state) in &mut self.nodes {
            let mut items = Vec::new();
            state.drop_open(&mut items);
            found.extend(items.into_iter().map(|item| (node, item)));
        }
        found
    }

    /// Returns what was counted of the entries of a node that were whole, for comparison with the archive's totals: keys
    /// and functions, bytes, types and databases.
    pub(crate) fn counted(&self, node: u16) -> NodeTotals {
        let state = self.nodes.get(&node);
        state.map_or_else(NodeTotals::default, |state| state.counted.clone())
    }
}

impl NodeState {
    /// Takes a part; returns the entry that ends with it.
    fn take(&mut self, part: Part<'_>, limit: usize) -> Result<Option<Item>, &'static str> {
        if let Some(head) = part.head {
            self.is_passing = false;
            self.open = Some(Open {
                head,
                body: Vec::new(),
                bytes: 0,
            });
        }
        let Some(open) = &mut self.open else {
            // Reported once, at the first part of it that is there.
            let is_known = mem::replace(&mut self.is_passing, !part.is_last);
            let incomplete = Incomplete {
                info: None,
                reason: IncompleteReason::BeginningLost,
                bytes: part.bytes.len() as u64,
            };
            return Ok((!is_known).then_some(Item::Incomplete(incomplete)));
        };
        open.bytes += part.bytes.len() as u64;
        if open.bytes <= limit as u64 {
            open.body.extend_from_slice(part.bytes);
        } else {
            let kept = open.head.key_length().min(limit);
            let missing = kept.saturating_sub(open.body.len());
            let more = part.bytes.get(..missing).unwrap_or(part.bytes);
            open.body.extend_from_slice(more);
            open.body.truncate(kept);
            open.body.shrink_to_fit();
        }
        if !part.is_last {
            return Ok(None);
        }
        let open = self.open.take();
        open.map(|open| self.whole(open, limit)).transpose()
    }

    /// Makes an entry of all its parts.
    fn whole(&mut self, open: Open, limit: usize) -> Result<Item, &'static str> {
        let key_length = open.head.key_length();
        let value_bytes = open.bytes.checked_sub(key_length as u64);
        let value_bytes = value_bytes.ok_or("an entry ends within its key")?;
        match &open.head {
            EntryHead::Key { info, .. } => {
                self.counted.count_key(info);
                self.counted.count_value(value_bytes);
            }
            EntryHead::Function { .. } => self.counted.functions += 1,
        }
        if open.bytes > limit as u64 {
            return Ok(Item::Incomplete(
                open.incomplete(IncompleteReason::TooLarge),
            ));
        }
        Ok(match open.head {
            EntryHead::Function { version } => Item::Function(Function {
                version,
                source: open.body,
            }),
            EntryHead::Key {
                mut info, version, ..
            } => {
                let mut key = open.body;
                let value = key.split_off(key_length.min(key.len()));
                key.shrink_to_fit();
                info.key = key;
                Item::Entry(Entry {
                    info,
                    version,
                    value,
                })
            }
        })
    }

    /// Gives up an entry whose rest does not come.
    fn drop_open(&mut self, items: &mut Vec<Item>) {
        self.is_passing = false;
        if let Some(open) = self.open.take() {
            let incomplete = open.incomplete(IncompleteReason::RestLost);
            items.push(Item::Incomplete(incomplete));
        }
    }
}

impl Open {
    /// What is known of an entry that is not given.
    fn incomplete(self, reason: IncompleteReason) -> Incomplete {
        let key_length = self.head.key_length();
        let info = match self.head {
            EntryHead::Function { .. } => None,
            EntryHead::Key { mut info, .. } => {
                info.key = self.body;
                info.key.truncate(key_length);
                Some(info)
            }
        };
        Incomplete {
            info,
            reason,
            bytes: self.bytes,
        }
    }
}

impl EntryHead {
    /// Length in bytes of the key.
    fn key_length(&self) -> usize {
        match self {
            Self::Key { key_length, .. } => *key_length as usize,
            Self::Function { .. } => 0,
        }
    }
}
