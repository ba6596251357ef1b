//! Where the frames of an archive are: its index, and its end mark.

use super::format::{END_BYTES, Kind, u16_at, u32_at, u64_at};

/// Length in bytes of an entry of the index.
pub(super) const INDEX_ENTRY_BYTES: usize = 16;

/// Where a frame of keys or functions is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Where the frame begins in the archive.
    pub(crate) offset: u64,
    /// Number of keys and functions that begin in it.
    pub(crate) entries: u32,
    /// The index of its node in the manifest.
    pub(crate) node: u16,
    /// What it contains.
    pub(crate) kind: Kind,
}

impl IndexEntry {
    /// Writes the entry.
    pub(super) fn bytes(&self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.entries.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.node.to_le_bytes());
        bytes[14] = self.kind.byte();
        bytes
    }

    /// Reads the entries of a frame of the index; `None` if its length is wrong.
    pub(super) fn read_all(payload: &[u8]) -> Option<Vec<Self>> {
        let (entries, rest) = payload.as_chunks::<INDEX_ENTRY_BYTES>();
        let entry = |bytes: &[u8; INDEX_ENTRY_BYTES]| Self {
            offset: u64_at(bytes, 0),
            entries: u32_at(bytes, 8),
            node: u16_at(bytes, 12),
            kind: Kind::of(bytes[14]),
        };
        rest.is_empty().then(|| entries.iter().map(entry).collect())
    }
}

/// What the end mark says of the archive before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EndMark {
    /// Where the first frame of the totals begins.
    pub(super) totals: u64,
    /// Number of frames before the end mark.
    pub(super) frames: u64,
    /// XXH3-64 of the checksums of all these frames, in their order.
    pub(super) chain: u64,
    /// Length of the whole archive, with the end mark.
    pub(super) length: u64,
}

impl EndMark {
    /// Writes the payload of the end mark.
    pub(super) fn bytes(&self) -> [u8; END_BYTES] {
        let mut bytes = [0; END_BYTES];
        bytes[..8].copy_from_slice(&self.totals.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.frames.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.chain.to_le_bytes());
        bytes[24..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// Reads the payload of an end mark; `None` if its length is wrong.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        (payload.len() == END_BYTES).then(|| Self {
            totals: u64_at(payload, 0),
            frames: u64_at(payload, 8),
            chain: u64_at(payload, 16),
            length: u64_at(payload, 24),
        })
    }
}
