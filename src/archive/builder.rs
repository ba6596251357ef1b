//! Makes frames of the keys and functions of one node.

use std::mem;

use super::entries::{
    FIRST, HEAD_MAX, LAST, LENGTH_BYTES, MIDDLE, WHOLE, key_length, put_function, put_key,
};
use super::error::ArchiveError;
use super::format::{Header, Kind, PLAIN_TARGET};
use super::frame::Frame;
use super::totals::NodeTotals;
use crate::rdb::{KeyInfo, RdbVersion};

/// Level of compression at which frames are stored as they are.
pub(crate) const LEVEL_STORED: i32 = 0;

/// The usual level of compression, of zstd.
pub(crate) const LEVEL_DEFAULT: i32 = 1;

/// The highest level of compression, of zstd.
pub(crate) const LEVEL_MAX: i32 = 19;

/// Makes frames of the keys and functions of one node, in the thread of that node.
///
/// For each key: [`begin`](Self::begin), [`value`](Self::value) for each piece of its value, [`end`](Self::end). The
/// frames that are ready are taken by [`frames`](Self::frames) after each call. Which frames are made depends on the
/// bytes alone, not on the pieces in which they come.
pub(crate) struct FrameBuilder {
    /// Of the next frame.
    header: Header,
    /// Length at which a frame is full.
    target: usize,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    /// The payload of the frame that is being made.
    plain: Vec<u8>,
    open: Option<Open>,
    ready: Vec<Frame>,
    totals: NodeTotals,
    compressed: Vec<u8>,
}

/// The entry that is being written.
struct Open {
    /// Where its part in the current frame begins.
    tag: usize,
    /// Where the length of that part stands.
    length: usize,
    /// Bytes of its value so far.
    value_bytes: u64,
    is_key: bool,
}

impl FrameBuilder {
    /// Makes frames of the node with this index in the manifest, for the archive of this
    /// [number](super::ArchiveWriter::id). `level` is one of zstd, or [`LEVEL_STORED`].
    ///
    /// # Errors
    ///
    /// If there is no such level.
    pub(crate) fn new(archive: u32, node: u16, level: i32) -> Result<Self, ArchiveError> {
        if !(LEVEL_STORED..=LEVEL_MAX).contains(&level) {
            return Err(ArchiveError::Limit(format!(
                "the level of compression is {LEVEL_STORED} (none) to {LEVEL_MAX}"
            )));
        }
        let compressor = match level {
            LEVEL_STORED => None,
            level => Some(zstd::bulk::Compressor::new(level)?),
        };
        Ok(Self {
            header: Header {
                kind: Kind::Keys,
                flags: 0,
                node,
                archive,
                sequence: 0,
                entries_before: 0,
                entries: 0,
                stored: 0,
                plain: 0,
            },
            target: PLAIN_TARGET,
            compressor,
            plain: Vec::new(),
            open: None,
            ready: Vec::new(),
            totals: NodeTotals::default(),
            compressed: Vec::new(),
        })
    }

    /// Begins a key, whose value was written in this version of RDB.
    ///
    /// # Errors
    ///
    /// If another one was not ended, or the key is too long.
    pub(crate) fn begin(
        &mut self,
        info: &KeyInfo,
        version: RdbVersion,
    ) -> Result<(), ArchiveError> {
        let key_length = key_length(info)?;
        self.make_room(Kind::Keys)?;
        let tag = self.plain.len();
        put_key(&mut self.plain, info, version, key_length);
        self.opened(tag, true)?;
        self.totals.count_key(info);
        self.body(&info.key)
    }

    /// Appends a piece of the value of the key that was begun: the bytes as they stand in an RDB stream after the type
    /// byte.
    ///
    /// # Errors
    ///
    /// If none was begun, or it cannot be compressed.
    pub(crate) fn value(&mut self, piece: &[u8]) -> Result<(), ArchiveError> {
        let open = self.open.as_mut();
        let open = open.ok_or(ArchiveError::Usage("a value without a key"))?;
        open.value_bytes += piece.len() as u64;
        self.body(piece)
    }

    /// Ends the key that was begun.
    ///
    /// # Errors
    ///
    /// If none was begun.
    pub(crate) fn end(&mut self) -> Result<(), ArchiveError> {
        let open = self.open.take();
        let open = open.ok_or(ArchiveError::Usage("the end of a key that was not begun"))?;
        let is_first = self.plain.get(open.tag) == Some(&WHOLE);
        self.close_part(&open, if is_first { WHOLE } else { LAST });
        if open.is_key {
            self.totals.count_value(open.value_bytes);
        }
        Ok(())
    }

    /// Writes a library of functions: the text of its source.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin).
    pub(crate) fn function(
        &mut self,
        source: &[u8],
        version: RdbVersion,
    ) -> Result<(), ArchiveError> {
        self.make_room(Kind::Functions)?;
        let tag = self.plain.len();
        put_function(&mut self.plain, version);
        self.opened(tag, false)?;
        self.totals.functions += 1;
        self.body(source)?;
        self.end()
    }

    /// Counts a key that had expired at the moment of the backup and is left out.
    pub(crate) fn expired(&mut self) {
        self.totals.expired += 1;
    }

    /// Takes the frames that are ready.
    pub(crate) fn frames(&mut self) -> impl Iterator<Item = Frame> + '_ {
        self.ready.drain(..)
    }

    /// Makes a frame of what is left, and returns what was counted. [`frames`](Self::frames) has the last frames.
    ///
    /// # Errors
    ///
    /// If a key was not ended.
    pub(crate) fn finish(&mut self) -> Result<NodeTotals, ArchiveError> {
        if self.open.is_some() {
            return Err(ArchiveError::Usage("a key was not ended"));
        }
        self.emit()?;
        Ok(self.totals.clone())
    }

    /// Sets the length at which a frame is full.
    #[cfg(any(test, fuzzing))]
    pub(super) fn with_target(mut self, target: usize) -> Self {
        self.target = target;
        self
    }

    /// Begins another frame if an entry of this kind should not begin in the current one.
    fn make_room(&mut self, kind: Kind) -> Result<(), ArchiveError> {
        if self.open.is_some() {
            return Err(ArchiveError::Usage(
                "a key was begun before the last one was ended",
            ));
        }
        if self.header.kind != kind || self.plain.len() + HEAD_MAX > self.target {
            self.emit()?;
        }
        self.header.kind = kind;
        Ok(())
    }

    /// Notes that an entry has been begun at `tag`.
    fn opened(&mut self, tag: usize, is_key: bool) -> Result<(), ArchiveError> {
        self.open = Some(Open {
            tag,
            length: self.plain.len(),
            value_bytes: 0,
            is_key,
        });
        self.plain.extend_from_slice(&[0; LENGTH_BYTES]);
        self.header.entries += 1;
        Ok(())
    }

    /// Appends to the body of the open entry, in as many frames as it takes.
    fn body(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            let room = self.target.saturating_sub(self.plain.len());
            if room == 0 {
                self.cut()?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.plain.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Ends the current frame within the open entry. An entry that has not become long yet begins again in the next one,
    /// so that most entries are whole in one frame.
    fn cut(&mut self) -> Result<(), ArchiveError> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let is_first = self.plain.get(open.tag) == Some(&WHOLE);
        if is_first && open.tag > 0 && self.plain.len() - open.tag < self.target / 4 {
            let entry = self.plain.split_off(open.tag);
            self.header.entries -= 1;
            self.emit()?;
            self.header.entries = 1;
            self.plain.extend_from_slice(&entry);
            open.length -= open.tag;
            open.tag = 0;
        } else {
            self.close_part(&open, if is_first { FIRST } else { MIDDLE });
            self.emit()?;
            // Not the tag of a beginning, so that it is not taken for one.
            self.plain.push(LAST);
            open.tag = 0;
            open.length = self.plain.len();
            self.plain.extend_from_slice(&[0; LENGTH_BYTES]);
        }
        self.open = Some(open);
        Ok(())
    }

    /// Sets the tag and the length of the part at the end of the frame.
    fn close_part(&mut self, open: &Open, tag: u8) {
        let begin = open.length + LENGTH_BYTES;
        // A frame is shorter than 4 GiB.
        let length = (self.plain.len() - begin) as u32;
        if let Some(place) = self.plain.get_mut(open.tag) {
            *place = tag;
        }
        if let Some(place) = self.plain.get_mut(open.length..begin) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Makes a frame of the payload, if there is any.
    fn emit(&mut self) -> Result<(), ArchiveError> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let next = self.header.sequence.checked_add(1);
        let next = next.ok_or_else(|| ArchiveError::Limit("a node has too many frames".into()))?;
        let stored = match &mut self.compressor {
            Some(compressor) => {
                self.compressed.clear();
                let bound = zstd::zstd_safe::compress_bound(self.plain.len());
                self.compressed.reserve(bound);
                compressor.compress_to_buffer(&self.plain, &mut self.compressed)?;
                Some(self.compressed.as_slice())
            }
            None => None,
        };
        let frame = Frame::new(self.header, &self.plain, stored);
        self.totals
            .count_frame(self.plain.len() as u64, frame.length() as u64);
        self.header.entries_before += u64::from(mem::take(&mut self.header.entries));
        self.header.sequence = next;
        self.ready.push(frame);
        self.plain.clear();
        Ok(())
    }
}
