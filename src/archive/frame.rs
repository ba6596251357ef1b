//! Frames: as a writer makes them, and as a reader finds them.

use std::borrow::Cow;

use super::error::ArchiveError;
use super::format::{COMPRESSED, HEADER_BYTES, Header, Kind, MORE};

/// A frame that is ready to be written. It can be made in one thread and written in another.
pub(crate) struct Frame {
    pub(super) header: Header,
    pub(super) checksum: u64,
    /// Header and payload.
    pub(super) bytes: Vec<u8>,
}

/// A frame as it was read, with its checksum verified. It can be decoded in another thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawFrame {
    /// Where the frame begins in the archive.
    pub(crate) offset: u64,
    pub(super) header: Header,
    pub(super) checksum: u64,
    /// The payload as it is stored.
    pub(super) stored: Vec<u8>,
}

/// A frame of keys or functions whose payload is decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodedFrame {
    /// Where the frame begins in the archive.
    pub(super) offset: u64,
    pub(super) header: Header,
    pub(super) plain: Vec<u8>,
}

impl Frame {
    /// Makes a frame. `stored` is the payload compressed, if that made it smaller.
    pub(super) fn new(mut header: Header, plain: &[u8], stored: Option<&[u8]>) -> Self {
        let payload = stored.filter(|stored| stored.len() < plain.len());
        header.flags &= !COMPRESSED;
        if payload.is_some() {
            header.flags |= COMPRESSED;
        }
        let payload = payload.unwrap_or(plain);
        // Frames are made no longer than the limit, which fits.
        header.plain = plain.len() as u32;
        header.stored = payload.len() as u32;
        let (head, checksum) = header.bytes(payload);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload);
        Self {
            header,
            checksum,
            bytes,
        }
    }

    /// Returns the length in bytes, with the header.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }
}

impl RawFrame {
    /// Returns what the frame contains.
    pub(crate) fn kind(&self) -> Kind {
        self.header.kind
    }

    /// Returns the index of the node in the manifest.
    pub(crate) fn node(&self) -> u16 {
        self.header.node
    }

    /// Returns the number of this frame among those of its node, from 0.
    pub(crate) fn sequence(&self) -> u32 {
        self.header.sequence
    }

    /// Returns the number of keys and functions that begin in this frame.
    pub(crate) fn entries(&self) -> u32 {
        self.header.entries
    }

    /// Returns the length in bytes in the archive, with the header.
    pub(crate) fn length(&self) -> u64 {
        (HEADER_BYTES + self.stored.len()) as u64
    }

    /// Decompresses the payload. This takes most of the time of reading, and can be done in another thread.
    ///
    /// # Errors
    ///
    /// If it is not what the header says.
    pub(crate) fn decode(self) -> Result<DecodedFrame, ArchiveError> {
        let is_stored = self.header.flags & COMPRESSED == 0;
        let plain = match is_stored && self.stored.len() == self.header.plain as usize {
            true => self.stored,
            false => self.plain()?.into_owned(),
        };
        Ok(DecodedFrame {
            offset: self.offset,
            header: self.header,
            plain,
        })
    }

    /// True if the content goes on in the next frame of this kind.
    pub(super) fn has_more(&self) -> bool {
        self.header.flags & MORE != 0
    }

    /// Returns the payload as it was before it was compressed.
    ///
    /// # Errors
    ///
    /// If it is not what the header says.
    pub(super) fn plain(&self) -> Result<Cow<'_, [u8]>, ArchiveError> {
        let damaged = |what: &str| ArchiveError::damaged(self.offset, what);
        let length = self.header.plain as usize;
        if self.header.flags & COMPRESSED == 0 {
            return match self.stored.len() == length {
                true => Ok(Cow::Borrowed(&self.stored)),
                false => Err(damaged("a frame that is not compressed has two lengths")),
            };
        }
        // The header was checked, so the length is at most the limit of the format.
        let plain = zstd::bulk::decompress(&self.stored, length)
            .map_err(|_| damaged("a frame cannot be decompressed to the length in its header"))?;
        match plain.len() == length {
            true => Ok(Cow::Owned(plain)),
            false => Err(damaged("a frame is shorter than its header says")),
        }
    }
}

#[cfg(any(test, fuzzing))]
impl DecodedFrame {
    /// Returns the length in bytes of the payload.
    pub(crate) fn length(&self) -> usize {
        self.plain.len()
    }
}
