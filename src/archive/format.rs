//! The bytes of the head of an archive and of the headers of its frames, as `docs/archive.md` describes them.
//!
//! All integers are little-endian. A frame is checked twice: its header by itself, so that its lengths can be trusted, and
//! header and payload together.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// The first bytes of an archive. As in PNG, the bytes show transfers that change line ends or drop the eighth bit.
pub(super) const MAGIC: [u8; 8] = *b"\x89RSB\r\n\x1a\n";

/// The version of the format that is written, and the only one that is read.
pub(super) const VERSION: u16 = 1;

/// Length in bytes of the head.
pub(super) const HEAD_BYTES: usize = 16;

/// The first bytes of a frame.
pub(super) const FRAME_MAGIC: [u8; 4] = *b"\xf1RSF";

/// Length in bytes of the header of a frame.
pub(super) const HEADER_BYTES: usize = 48;

/// Maximum length in bytes of the payload of a frame, before it is compressed and as it is stored.
pub(super) const PLAIN_MAX: usize = 4 << 20;

/// Length in bytes at which a writer begins another frame.
pub(super) const PLAIN_TARGET: usize = 1 << 20;

/// The node of frames that belong to no node.
pub(super) const NO_NODE: u16 = u16::MAX;

/// Length in bytes of the payload of the end mark.
pub(super) const END_BYTES: usize = 32;

/// Flag: the payload is compressed.
pub(super) const COMPRESSED: u8 = 1;

/// Flag: the content goes on in the next frame of this kind.
pub(super) const MORE: u8 = 2;

/// Kinds of this value and above may be skipped by a reader that does not know them.
const SKIPPED_FROM: u8 = 128;

/// What a frame contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What was backed up, as text.
    Manifest,
    /// Keys of a node.
    Keys,
    /// Libraries of functions of a node.
    Functions,
    /// What was counted, as text.
    Totals,
    /// Where the frames are.
    Index,
    /// The last frame.
    End,
    /// A kind of a later version.
    Other(u8),
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) node: u16,
    /// Tells the frames of one archive from those of another that is, say, a value in it.
    pub(super) archive: u32,
    /// Number of this frame among those of the node, from 0.
    pub(super) sequence: u32,
    /// Number of entries of the node that begin in frames before this one.
    pub(super) entries_before: u64,
    /// Number of entries that begin in this frame.
    pub(super) entries: u32,
    pub(super) stored: u32,
    pub(super) plain: u32,
}

/// Why bytes are not the header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Magic,
    Check,
    Lengths,
}

impl Kind {
    /// Returns the kind of a byte.
    pub(super) fn of(byte: u8) -> Self {
        match byte {
            1 => Self::Manifest,
            2 => Self::Keys,
            3 => Self::Functions,
            4 => Self::Totals,
            5 => Self::Index,
            6 => Self::End,
            other => Self::Other(other),
        }
    }

    /// Returns the byte of the kind.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Manifest => 1,
            Self::Keys => 2,
            Self::Functions => 3,
            Self::Totals => 4,
            Self::Index => 5,
            Self::End => 6,
            Self::Other(other) => other,
        }
    }

    /// True if the frame holds entries of a node.
    pub(super) fn has_entries(self) -> bool {
        matches!(self, Self::Keys | Self::Functions)
    }

    /// True if a reader that does not know the kind may go on without it.
    pub(super) fn is_optional(self) -> bool {
        matches!(self, Self::Other(byte) if byte >= SKIPPED_FROM)
    }
}

impl Header {
    /// Writes the header with its check, and zeros in place of the checksum.
    fn without_checksum(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
            at += part.len();
        };
        put(&FRAME_MAGIC);
        put(&[self.kind.byte(), self.flags]);
        put(&self.node.to_le_bytes());
        put(&self.archive.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.entries_before.to_le_bytes());
        put(&self.entries.to_le_bytes());
        put(&self.stored.to_le_bytes());
        put(&self.plain.to_le_bytes());
        let check = check32(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..CHECKSUM_AT].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Writes the header of a frame with this payload, as it is stored; returns the checksum too.
    pub(super) fn bytes(&self, payload: &[u8]) -> ([u8; HEADER_BYTES], u64) {
        let mut bytes = self.without_checksum();
        let checksum = checksum(&bytes[..CHECKSUM_AT], payload);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        (bytes, checksum)
    }

    /// Reads the header at the start of `bytes`, with the checksum of the frame.
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u64), HeaderFault> {
        if !bytes.starts_with(&FRAME_MAGIC) {
            return Err(HeaderFault::Magic);
        }
        if u32_at(bytes, CHECKED_BYTES) != check32(&bytes[..CHECKED_BYTES]) {
            return Err(HeaderFault::Check);
        }
        let header = Self {
            kind: Kind::of(bytes[4]),
            flags: bytes[5],
            node: u16_at(bytes, 6),
            archive: u32_at(bytes, 8),
            sequence: u32_at(bytes, 12),
            entries_before: u64_at(bytes, 16),
            entries: u32_at(bytes, 24),
            stored: u32_at(bytes, 28),
            plain: u32_at(bytes, 32),
        };
        if header.stored > header.plain || header.plain as usize > PLAIN_MAX {
            return Err(HeaderFault::Lengths);
        }
        Ok((header, u64_at(bytes, CHECKSUM_AT)))
    }
}

/// Returns the checksum of a frame: of its header up to the checksum, and of its payload as it is stored.
pub(super) fn checksum(header: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3Default::new();
    hash.update(header);
    hash.update(payload);
    hash.digest()
}

/// Where in a header its check begins.
pub(super) const CHECKED_BYTES: usize = 36;

/// Where in a header the checksum of the frame begins.
pub(super) const CHECKSUM_AT: usize = 40;

/// The low half of the XXH3-64 of some bytes.
pub(super) fn check32(bytes: &[u8]) -> u32 {
    xxh3_64(bytes) as u32
}

/// Returns the head of an archive.
pub(super) fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..10].copy_from_slice(&VERSION.to_le_bytes());
    let check = check32(&head[..12]);
    head[12..].copy_from_slice(&check.to_le_bytes());
    head
}

/// Returns the two bytes at an offset as an integer; zero beyond the end.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    array_at(bytes, at).map_or(0, u16::from_le_bytes)
}

/// Returns the four bytes at an offset as an integer; zero beyond the end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array_at(bytes, at).map_or(0, u32::from_le_bytes)
}

/// Returns the eight bytes at an offset as an integer; zero beyond the end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    array_at(bytes, at).map_or(0, u64::from_le_bytes)
}

/// Returns the bytes at an offset, if there are as many.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
