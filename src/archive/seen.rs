//! What a reader has seen of an archive, and whether it fits together.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3Default;

use super::format::{Header, NO_NODE};
use super::frame::RawFrame;
use super::index::{EndMark, IndexEntry};
use super::totals::Totals;

/// What was seen of an archive so far, in memory for its nodes.
#[derive(Default)]
pub(super) struct Seen {
    nodes: BTreeMap<u16, NodeSeen>,
    frames: u64,
    chain: Xxh3Default,
    /// The index as it must be.
    index: Xxh3Default,
    /// The index as it was read.
    index_read: Xxh3Default,
    /// Where the totals begin.
    pub(super) totals_at: Option<u64>,
}

/// What was seen of the frames of a node.
#[derive(Clone, Copy, Default)]
struct NodeSeen {
    /// The sequence of the next frame.
    sequence: u64,
    /// The entries before the next frame.
    entries: u64,
    /// Number of frames and of entries in all, as far as damaged frames, the index and the totals show them.
    sequence_end: u64,
    entries_end: u64,
    /// Frames and entries in the index.
    indexed: (u64, u64),
    /// What the totals count.
    frames: u64,
    plain: u64,
    stored: u64,
}

/// How a frame fits to those before it.
pub(super) enum Place {
    Next,
    /// As many frames and entries are missing before it, from this sequence on.
    Behind {
        first: u64,
        frames: u64,
        entries: u64,
    },
    /// It was there before, or stands in the wrong place.
    Old,
    /// Its numbers contradict each other.
    Wrong,
}

impl Seen {
    /// Returns how a frame fits to those of its node before it.
    pub(super) fn place(&self, header: &Header) -> Place {
        let node = self.nodes.get(&header.node).copied().unwrap_or_default();
        let sequence = u64::from(header.sequence);
        if sequence < node.sequence {
            return Place::Old;
        }
        let frames = sequence - node.sequence;
        match header.entries_before.checked_sub(node.entries) {
            Some(0) if frames == 0 => Place::Next,
            Some(entries) if frames > 0 => Place::Behind {
                first: node.sequence,
                frames,
                entries,
            },
            _ => Place::Wrong,
        }
    }

    /// Takes a frame that is in its place.
    pub(super) fn pass(&mut self, frame: &RawFrame) {
        let header = &frame.header;
        let node = self.nodes.entry(header.node).or_default();
        node.sequence = u64::from(header.sequence) + 1;
        node.entries = header
            .entries_before
            .saturating_add(u64::from(header.entries));
        self.frames += 1;
        self.chain.update(&frame.checksum.to_le_bytes());
        if !header.kind.has_entries() {
            return;
        }
        node.frames += 1;
        node.plain += u64::from(header.plain);
        node.stored += frame.length();
        let entry = IndexEntry {
            offset: frame.offset,
            entries: header.entries,
            node: header.node,
            kind: header.kind,
        };
        self.index.update(&entry.bytes());
    }

    /// Takes the header of a frame whose payload is damaged.
    pub(super) fn know(&mut self, header: &Header) {
        let node = self.nodes.entry(header.node).or_default();
        let sequence = u64::from(header.sequence) + 1;
        node.sequence_end = node.sequence_end.max(sequence);
        let entries = header
            .entries_before
            .saturating_add(u64::from(header.entries));
        node.entries_end = node.entries_end.max(entries);
    }

    /// Takes a frame of the index; false if it is not one.
    pub(super) fn know_index(&mut self, plain: &[u8]) -> bool {
        self.index_read.update(plain);
        let Some(entries) = IndexEntry::read_all(plain) else {
            return false;
        };
        for entry in entries {
            let node = self.nodes.entry(entry.node).or_default();
            node.indexed.0 += 1;
            node.indexed.1 += u64::from(entry.entries);
        }
        true
    }

    /// Returns what each node has lost behind the last frame of it that was found: frames and entries.
    pub(super) fn lost_at_end(&self, totals: Option<&Totals>) -> Vec<(u16, u64, u64)> {
        let mut nodes = self.nodes.clone();
        let totals = totals.map(|totals| totals.nodes.as_slice());
        for (node, totals) in (0..NO_NODE).zip(totals.unwrap_or_default()) {
            let seen = nodes.entry(node).or_default();
            let entries = totals.keys.saturating_add(totals.functions);
            seen.sequence_end = seen.sequence_end.max(totals.frames);
            seen.entries_end = seen.entries_end.max(entries);
        }
        let lost = nodes.into_iter().map(|(node, seen)| {
            let frames = seen.sequence_end.max(seen.indexed.0);
            let entries = seen.entries_end.max(seen.indexed.1);
            let frames = frames.saturating_sub(seen.sequence);
            (node, frames, entries.saturating_sub(seen.entries))
        });
        lost.filter(|&(node, frames, entries)| node != NO_NODE && (frames, entries) != (0, 0))
            .collect()
    }

    /// Returns what contradicts the end mark, of which no frame was left out.
    pub(super) fn contradiction(
        &self,
        mark: &EndMark,
        end: u64,
        totals: Option<&Totals>,
    ) -> Option<String> {
        if mark.frames != self.frames || mark.chain != self.chain.digest() {
            return Some(
                "the end mark counts other frames than there are, or in another order".into(),
            );
        }
        if Some(mark.totals) != self.totals_at || mark.length != end {
            return Some("the end mark has other offsets than there are".into());
        }
        if self.index.digest() != self.index_read.digest() {
            return Some("the index names other frames than there are".into());
        }
        let Some(totals) = totals else {
            return Some("the totals are missing".into());
        };
        (0..NO_NODE).zip(&totals.nodes).find_map(|(node, totals)| {
            let seen = self.nodes.get(&node).copied().unwrap_or_default();
            let entries = totals.keys.saturating_add(totals.functions);
            let fits = totals.frames == seen.frames
                && totals.plain_bytes == seen.plain
                && totals.stored_bytes == seen.stored
                && entries == seen.entries;
            (!fits).then(|| format!("the totals of node number {node} are not those of its frames"))
        })
    }
}
