//! What an archive contains, and whether all of it is good.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use super::assembler::{EntryAssembler, Incomplete, Item};
use super::damage::Damage;
use super::error::ArchiveError;
use super::format::{END_BYTES, HEADER_BYTES, Kind, NO_NODE};
use super::frame::RawFrame;
use super::index::{EndMark, IndexEntry};
use super::manifest::Manifest;
use super::reader::ArchiveReader;
use super::scanner::{Scanner, Step};
use super::totals::{NodeTotals, Totals};

/// Maximum number of keys that a report names.
const NAMED_MAX: usize = 1000;

/// What an archive contains, without its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// What it is a backup of.
    pub(crate) manifest: Manifest,
    /// What was counted while it was written.
    pub(crate) totals: Totals,
    /// Length in bytes, without encryption.
    pub(crate) bytes: u64,
    /// Where the frames are; empty if the archive was read as a stream.
    pub(crate) index: Vec<IndexEntry>,
}

/// Whether all of an archive is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verification {
    /// What it is a backup of, if that can be read.
    pub(crate) manifest: Option<Manifest>,
    /// What was counted while it was written, if that can be read.
    pub(crate) totals: Option<Totals>,
    /// What was counted while it was read, by the index of the node.
    pub(crate) counted: BTreeMap<u16, NodeTotals>,
    /// What is damaged.
    pub(crate) damage: Damage,
    /// Entries of which not all is there. At most 1000 of them.
    pub(crate) incomplete: Vec<(u16, Incomplete)>,
    /// Entries whose value is not good, with the reason: node, key and reason. At most 1000 of them.
    pub(crate) refused: Vec<(u16, Vec<u8>, String)>,
    /// Number of entries that are not named in the two lists.
    pub(crate) more: u64,
    /// What contradicts the totals.
    pub(crate) contradictions: Vec<String>,
}

impl Summary {
    /// Reads the beginning and the end of an archive.
    ///
    /// # Errors
    ///
    /// If either is damaged; [`of_stream`](Self::of_stream) and [`verify`] then say more.
    pub(crate) fn of_file<R: Read + Seek>(mut read: R) -> Result<Self, ArchiveError> {
        read.seek(SeekFrom::Start(0))?;
        let reader = ArchiveReader::new(&mut read)?;
        let manifest = reader.manifest().cloned().unwrap_or_default();
        let bytes = read.seek(SeekFrom::End(0))?;
        let mark_at = bytes.saturating_sub((HEADER_BYTES + END_BYTES) as u64);
        let mark = frames_from(&mut read, mark_at)?.pop();
        let mark = mark.and_then(|frame| EndMark::read(&frame.stored));
        let mark = mark.filter(|mark| mark.length == bytes && mark.totals < mark_at);
        let mark = mark.ok_or(ArchiveError::CutShort { offset: bytes })?;
        let (mut text, mut index) = (Vec::new(), Vec::new());
        for frame in frames_from(&mut read, mark.totals)? {
            match frame.kind() {
                Kind::Totals => text.extend_from_slice(&frame.plain()?),
                Kind::Index => {
                    let damaged = || ArchiveError::damaged(frame.offset, "this is no index");
                    let entries = IndexEntry::read_all(&frame.plain()?).ok_or_else(damaged)?;
                    index.extend(entries);
                }
                _ => {}
            }
        }
        let is_text = |_| ArchiveError::damaged(mark.totals, "the totals are not UTF-8");
        let totals = Totals::parse(std::str::from_utf8(&text).map_err(is_text)?)?;
        Ok(Self {
            manifest,
            totals,
            bytes,
            index,
        })
    }

    /// Reads all of an archive; frames are checked, not decoded.
    ///
    /// # Errors
    ///
    /// The first thing that does not fit.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_stream<R: Read>(read: R) -> Result<Self, ArchiveError> {
        let mut reader = ArchiveReader::new(read)?;
        while reader.next()?.is_some() {}
        Ok(Self {
            manifest: reader.manifest().cloned().unwrap_or_default(),
            totals: reader.totals().cloned().unwrap_or_default(),
            bytes: reader.position(),
            index: Vec::new(),
        })
    }
}

/// Reads all frames from an offset on, up to the end mark.
fn frames_from<R: Read + Seek>(read: &mut R, offset: u64) -> Result<Vec<RawFrame>, ArchiveError> {
    read.seek(SeekFrom::Start(offset))?;
    let mut scanner = Scanner::new(read, offset, false);
    let mut frames = Vec::new();
    loop {
        match scanner.step()? {
            Step::Frame(frame) => {
                let is_end = frame.kind() == Kind::End;
                if frame.node() == NO_NODE {
                    frames.push(frame);
                }
                if is_end {
                    return Ok(frames);
                }
            }
            Step::Ended => {
                return Err(ArchiveError::CutShort {
                    offset: scanner.position(),
                });
            }
            Step::Fault(_) => {
                let what = "the totals, the index or the end mark cannot be read";
                return Err(ArchiveError::damaged(scanner.position(), what));
            }
        }
    }
}

/// Reads all of an archive and decodes every frame. `check` looks at each entry and returns why it is not good, without
/// a value in the text. Values that are larger than `limit` bytes are not given to it.
///
/// # Errors
///
/// As for [`ArchiveReader::recover`]: damage is no error, but stands in the result.
pub(crate) fn verify<R: Read>(
    read: R,
    limit: usize,
    mut check: impl FnMut(u16, &Item) -> Result<(), String>,
) -> Result<Verification, ArchiveError> {
    let mut reader = ArchiveReader::recover(read)?;
    let mut assembler = EntryAssembler::new(limit);
    let mut found = Verification::default();
    let mut nodes = Vec::new();
    while let Some(frame) = reader.next()? {
        let node = frame.node();
        if let Err(at) = nodes.binary_search(&node) {
            nodes.insert(at, node);
        }
        let offset = frame.offset;
        match frame.decode().and_then(|frame| assembler.push(&frame)) {
            Ok(items) => found.take(node, items, &mut check),
            Err(error) => found
                .contradictions
                .push(format!("the frame at byte {offset}: {error}")),
        }
    }
    for (node, item) in assembler.finish() {
        found.take(node, vec![item], &mut check);
    }
    found.damage = reader.damage().clone();
    found.manifest = reader.manifest().cloned();
    found.totals = reader.totals().cloned();
    for node in nodes {
        found.counted.insert(node, assembler.counted(node));
    }
    if found.damage.is_none() {
        found.compare();
    }
    Ok(found)
}

impl Verification {
    /// True if nothing is damaged, and everything fits.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_good(&self) -> bool {
        self.damage.is_none()
            && self.incomplete.is_empty()
            && self.refused.is_empty()
            && self.contradictions.is_empty()
            && self.more == 0
    }

    /// Returns what was counted over all nodes.
    pub(crate) fn sum(&self) -> NodeTotals {
        let mut sum = NodeTotals::default();
        for node in self.counted.values() {
            sum.add(node);
        }
        sum
    }

    /// Looks at the entries of a frame.
    fn take(
        &mut self,
        node: u16,
        items: Vec<Item>,
        check: &mut impl FnMut(u16, &Item) -> Result<(), String>,
    ) {
        for item in items {
            let result = check(node, &item);
            let key = match item {
                Item::Incomplete(incomplete) => {
                    match self.incomplete.len() < NAMED_MAX {
                        true => self.incomplete.push((node, incomplete)),
                        false => self.more += 1,
                    }
                    continue;
                }
                Item::Entry(entry) => entry.info.key,
                Item::Function(_) => Vec::new(),
            };
            if let Err(why) = result {
                match self.refused.len() < NAMED_MAX {
                    true => self.refused.push((node, key, why)),
                    false => self.more += 1,
                }
            }
        }
    }

    /// Compares what was counted with the totals.
    fn compare(&mut self) {
        let Some(totals) = &self.totals else {
            return;
        };
        for (node, expected) in (0..NO_NODE).zip(&totals.nodes) {
            let counted = self.counted.get(&node).cloned().unwrap_or_default();
            let same = counted.keys == expected.keys
                && counted.functions == expected.functions
                && counted.value_bytes == expected.value_bytes
                && counted.largest == expected.largest
                && counted.types == expected.types
                && counted.databases == expected.databases;
            if !same {
                let name = self
                    .manifest
                    .as_ref()
                    .map(|manifest| manifest.node_name(node));
                self.contradictions.push(format!(
                    "the totals of node {} are not those of its keys",
                    name.unwrap_or_default().escape_debug()
                ));
            }
        }
    }
}
