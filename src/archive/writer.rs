//! Writes an archive as one stream.

use std::io::Write;

use xxhash_rust::xxh3::Xxh3Default;

use super::error::ArchiveError;
use super::format::{Header, Kind, MORE, NO_NODE, PLAIN_TARGET, head};
use super::frame::Frame;
use super::index::{EndMark, IndexEntry};
use super::manifest::Manifest;
use super::totals::Totals;

/// Writes an archive as one stream. It never seeks: what is only known at the end stands at the end.
pub(crate) struct ArchiveWriter<W: Write> {
    write: W,
    /// Number of bytes written.
    position: u64,
    archive: u32,
    /// For each node, what its next frame must be.
    nodes: Vec<Expected>,
    /// The sequence of the next frame of no node.
    own_sequence: u32,
    frames: u64,
    chain: Xxh3Default,
    index: Vec<IndexEntry>,
}

/// What the next frame of a node must be.
#[derive(Clone, Copy, Default)]
struct Expected {
    sequence: u32,
    entries: u64,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive with its manifest.
    ///
    /// # Errors
    ///
    /// If the stream fails, or the manifest has too many nodes.
    pub(crate) fn new(write: W, manifest: &Manifest) -> Result<Self, ArchiveError> {
        manifest.check()?;
        let text = manifest.to_text();
        let mut writer = Self {
            write,
            position: 0,
            archive: Manifest::archive_id(&text),
            nodes: vec![Expected::default(); manifest.nodes.len()],
            own_sequence: 0,
            frames: 0,
            chain: Xxh3Default::new(),
            index: Vec::new(),
        };
        writer.write.write_all(&head())?;
        writer.position = head().len() as u64;
        writer.write_own(Kind::Manifest, text.as_bytes())?;
        Ok(writer)
    }

    /// Returns the number by which the frames of this archive name it.
    pub(crate) fn id(&self) -> u32 {
        self.archive
    }

    /// Writes a frame. Those of one node must come in the order in which they were made; nodes may alternate.
    ///
    /// # Errors
    ///
    /// If the stream fails, or the frame is not the next one of its node.
    pub(crate) fn write(&mut self, frame: &Frame) -> Result<(), ArchiveError> {
        let header = &frame.header;
        let expected = self.nodes.get_mut(usize::from(header.node));
        let expected = expected.ok_or(ArchiveError::Usage("the manifest has no such node"))?;
        let is_next = header.archive == self.archive
            && header.sequence == expected.sequence
            && header.entries_before == expected.entries;
        if !is_next || !header.kind.has_entries() {
            return Err(ArchiveError::Usage(
                "this is not the next frame of its node",
            ));
        }
        expected.sequence += 1;
        expected.entries += u64::from(header.entries);
        self.index.push(IndexEntry {
            offset: self.position,
            entries: header.entries,
            node: header.node,
            kind: header.kind,
        });
        self.put(frame)
    }

    /// Writes the totals, the index and the end mark, flushes the stream and returns it. Without this, the archive has no
    /// end, and a reader says so.
    ///
    /// # Errors
    ///
    /// If the stream fails, or the totals are not those of the nodes of the manifest.
    pub(crate) fn finish(mut self, totals: &Totals) -> Result<W, ArchiveError> {
        if totals.nodes.len() != self.nodes.len() {
            return Err(ArchiveError::Usage("the totals are of other nodes"));
        }
        let mut end = EndMark {
            totals: self.position,
            ..EndMark::default()
        };
        self.write_own(Kind::Totals, totals.to_text().as_bytes())?;
        let index = std::mem::take(&mut self.index);
        let index: Vec<u8> = index.iter().flat_map(IndexEntry::bytes).collect();
        self.write_own(Kind::Index, &index)?;
        end.frames = self.frames;
        end.chain = self.chain.digest();
        let mark = |end: &EndMark| Frame::new(self.own_header(Kind::End), &end.bytes(), None);
        end.length = self.position + mark(&end).length() as u64;
        let mark = mark(&end);
        self.put(&mark)?;
        self.write.flush()?;
        Ok(self.write)
    }

    /// Writes content that belongs to no node, in as many frames as it takes, and in one if it is empty.
    fn write_own(&mut self, kind: Kind, mut content: &[u8]) -> Result<(), ArchiveError> {
        loop {
            let (now, later) = content.split_at(PLAIN_TARGET.min(content.len()));
            let mut header = self.own_header(kind);
            if !later.is_empty() {
                header.flags |= MORE;
            }
            self.put(&Frame::new(header, now, None))?;
            self.own_sequence += 1;
            content = later;
            if content.is_empty() {
                return Ok(());
            }
        }
    }

    /// The header of the next frame that belongs to no node.
    fn own_header(&self, kind: Kind) -> Header {
        Header {
            kind,
            flags: 0,
            node: NO_NODE,
            archive: self.archive,
            sequence: self.own_sequence,
            entries_before: 0,
            entries: 0,
            stored: 0,
            plain: 0,
        }
    }

    /// Writes any frame.
    fn put(&mut self, frame: &Frame) -> Result<(), ArchiveError> {
        self.write.write_all(&frame.bytes)?;
        self.position += frame.length() as u64;
        self.frames += 1;
        self.chain.update(&frame.checksum.to_le_bytes());
        Ok(())
    }
}
