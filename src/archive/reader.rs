//! Reads an archive as one stream, strictly or with damage left out.

use std::io::Read;

use super::damage::{Damage, DamagedPlace};
use super::error::ArchiveError;
use super::format::{
    COMPRESSED, HEAD_BYTES, HEADER_BYTES, HeaderFault, Kind, MAGIC, MORE, NO_NODE, VERSION,
    check32, u16_at, u32_at,
};
use super::frame::RawFrame;
use super::index::EndMark;
use super::manifest::Manifest;
use super::scanner::{Fault, Scanner, Step};
use super::seen::{Place, Seen};
use super::totals::Totals;

/// Maximum length in bytes of the text of a manifest or of totals.
const TEXT_MAX: usize = 64 << 20;

/// The first bytes of a stream that age has encrypted.
pub(super) const AGE_MAGIC: &[u8] = b"age-encryption";

/// Reads an archive as one stream, in memory for a few frames.
///
/// Strictly, the first thing that does not fit is an error; what came before is good. Recovering, it is noted in the
/// [`damage`](Self::damage), and the frames behind it are given.
pub(crate) struct ArchiveReader<R: Read> {
    scanner: Scanner<R>,
    is_recovering: bool,
    /// The number by which the frames of this archive name it.
    archive: Option<u32>,
    manifest: Option<Manifest>,
    totals: Option<Totals>,
    damage: Damage,
    seen: Seen,
    /// The text of a manifest or of totals, over several frames.
    text: Vec<u8>,
    /// True if a part of it is missing.
    text_is_broken: bool,
    /// The first frame of a node, if it was met while the manifest was looked for.
    pending: Option<RawFrame>,
    state: State,
}

/// How far a reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Done,
    /// It has returned an error.
    Failed,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads the manifest, strictly.
    ///
    /// # Errors
    ///
    /// If this is no archive, is encrypted, or its beginning is damaged.
    pub(crate) fn new(read: R) -> Result<Self, ArchiveError> {
        Self::open(read, false)
    }

    /// Reads the manifest, and leaves out what is damaged.
    ///
    /// # Errors
    ///
    /// If no frame is found, the archive is encrypted or of a later version, or the stream fails.
    pub(crate) fn recover(read: R) -> Result<Self, ArchiveError> {
        Self::open(read, true)
    }

    /// Returns the manifest. A strict reader always has one.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Returns the totals, which are known after the last frame.
    pub(crate) fn totals(&self) -> Option<&Totals> {
        self.totals.as_ref()
    }

    /// Returns what was left out so far.
    pub(crate) fn damage(&self) -> &Damage {
        &self.damage
    }

    /// Returns the number of bytes that were read.
    #[cfg(test)]
    pub(crate) fn position(&self) -> u64 {
        self.scanner.position()
    }

    /// Returns the next frame of keys or functions; `None` behind the end mark, whose sums then fit.
    ///
    /// # Errors
    ///
    /// For a strict reader, the first thing that does not fit. For both, an error of the stream.
    pub(crate) fn next(&mut self) -> Result<Option<RawFrame>, ArchiveError> {
        if let Some(frame) = self.pending.take() {
            return Ok(Some(frame));
        }
        loop {
            match self.state {
                State::Reading => {}
                State::Done => return Ok(None),
                State::Failed => return Err(ArchiveError::Usage("this reader has failed before")),
            }
            match self.step() {
                Ok(None) => {}
                Ok(Some(frame)) => return Ok(Some(frame)),
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error);
                }
            }
        }
    }

    fn open(read: R, is_recovering: bool) -> Result<Self, ArchiveError> {
        let mut reader = Self {
            scanner: Scanner::new(read, 0, is_recovering),
            is_recovering,
            archive: None,
            manifest: None,
            totals: None,
            damage: Damage::default(),
            seen: Seen::default(),
            text: Vec::new(),
            text_is_broken: false,
            pending: None,
            state: State::Reading,
        };
        reader.read_head()?;
        while reader.manifest.is_none()
            && reader.pending.is_none()
            && reader.state == State::Reading
        {
            reader.pending = reader.step()?;
        }
        if reader.archive.is_none() {
            return Err(ArchiveError::NotAnArchive);
        }
        if reader.manifest.is_none() {
            let at = reader.scanner.position();
            reader.fault(at, 0, None, "the manifest is missing")?;
        }
        Ok(reader)
    }

    /// Reads the head. A recovering reader does without.
    fn read_head(&mut self) -> Result<(), ArchiveError> {
        let head = self.scanner.peek(HEAD_BYTES)?;
        if head.starts_with(AGE_MAGIC) {
            return Err(ArchiveError::Encrypted);
        }
        let is_cut = head.len() < HEAD_BYTES && !head.is_empty();
        let fits = !is_cut && u32_at(head, 12) == check32(head.get(..12).unwrap_or_default());
        let error = if head.starts_with(&MAGIC) && fits {
            if (u16_at(head, 8), u16_at(head, 10)) == (VERSION, 0) {
                self.scanner.skip(HEAD_BYTES);
                return Ok(());
            }
            return Err(ArchiveError::Version(u16_at(head, 8)));
        } else if is_cut && (head.starts_with(&MAGIC) || MAGIC.starts_with(head)) {
            let offset = head.len() as u64;
            ArchiveError::CutShort { offset }
        } else if head.starts_with(&MAGIC) {
            ArchiveError::damaged(0, "the head does not fit its checksum")
        } else if is_changed_as_text(head) {
            ArchiveError::TextMode
        } else {
            ArchiveError::NotAnArchive
        };
        if !self.is_recovering {
            return Err(error);
        }
        self.scanner.find(None)?;
        let bytes = self.scanner.position();
        self.fault(0, bytes, None, "the head is damaged")
    }

    /// Reads one frame, and returns it if it is one of a node.
    fn step(&mut self) -> Result<Option<RawFrame>, ArchiveError> {
        let position = self.scanner.position();
        match self.scanner.step()? {
            Step::Frame(frame) => self.accept(frame),
            Step::Ended => self.ended(position).map(|()| None),
            Step::Fault(Fault::CutShort(_)) if !self.is_recovering => {
                Err(ArchiveError::CutShort { offset: position })
            }
            Step::Fault(fault) => {
                let what = self.describe(&fault);
                let mut node = None;
                if self.is_recovering {
                    if let Fault::Payload(header) | Fault::CutShort(Some(header)) = &fault
                        && self.archive == Some(header.archive)
                    {
                        self.seen.know(header);
                        node = Some(header.node);
                    }
                    self.scanner.pass(&fault, self.archive)?;
                }
                let bytes = self.scanner.position() - position;
                self.fault(position, bytes, node, what)?;
                Ok(None)
            }
        }
    }

    /// Takes a frame that fits its checksum.
    fn accept(&mut self, frame: RawFrame) -> Result<Option<RawFrame>, ArchiveError> {
        let header = frame.header;
        if *self.archive.get_or_insert(header.archive) != header.archive {
            self.fault_of(&frame, "this frame belongs to another archive")?;
            return Ok(None);
        }
        if !self.is_in_place(&frame)? {
            return Ok(None);
        }
        if header.kind == Kind::End {
            return self.end(&frame).map(|()| None);
        }
        self.seen.pass(&frame);
        let is_newer = header.flags & !(COMPRESSED | MORE) != 0
            || matches!(header.kind, Kind::Other(_)) && !header.kind.is_optional();
        if is_newer {
            self.newer(&frame)?;
            return Ok(None);
        }
        match header.kind {
            Kind::Keys | Kind::Functions => self.entries(frame),
            Kind::Manifest | Kind::Totals => self.text(&frame).map(|()| None),
            Kind::Index => self.index(&frame).map(|()| None),
            Kind::End | Kind::Other(_) => Ok(None),
        }
    }

    /// True if a frame stands where its numbers say. What is missing before it is noted.
    fn is_in_place(&mut self, frame: &RawFrame) -> Result<bool, ArchiveError> {
        let (node, number) = (frame.node(), frame.sequence());
        let of_node = self.of_node(node);
        match self.seen.place(&frame.header) {
            Place::Next => Ok(true),
            Place::Behind {
                first,
                frames,
                entries,
            } => {
                let what = format!(
                    "{frames} frames{of_node} are missing here, from number {first} on, in which {entries} keys begin"
                );
                self.fault(frame.offset, 0, Some(node), what)?;
                if node != NO_NODE {
                    self.damage.lose(node, frames, entries);
                }
                self.text_is_broken |= node == NO_NODE;
                Ok(true)
            }
            Place::Old => {
                let what = format!(
                    "frame number {number}{of_node} stands here a second time, or in the wrong place"
                );
                self.fault_of(frame, what)?;
                Ok(false)
            }
            Place::Wrong => {
                let what = format!("the numbers of a frame{of_node} contradict those before it");
                self.fault_of(frame, what)?;
                Ok(false)
            }
        }
    }

    /// Refuses, or leaves out, a frame that only a later version understands.
    fn newer(&mut self, frame: &RawFrame) -> Result<(), ArchiveError> {
        let header = &frame.header;
        let what = format!(
            "a frame of kind {} with flags {}",
            header.kind.byte(),
            header.flags
        );
        if !self.is_recovering {
            let offset = frame.offset;
            return Err(ArchiveError::TooNew { offset, what });
        }
        if header.node != NO_NODE {
            self.damage.lose(header.node, 1, u64::from(header.entries));
        }
        self.fault_of(frame, what + ", which this version does not know")
    }

    /// Takes a frame of keys or functions.
    fn entries(&mut self, frame: RawFrame) -> Result<Option<RawFrame>, ArchiveError> {
        let node = frame.node();
        let nodes = self.manifest.as_ref().map(|manifest| manifest.nodes.len());
        let is_known = match nodes {
            Some(nodes) => usize::from(node) < nodes,
            // Before the manifest, which a recovering reader may miss.
            None => self.is_recovering && node != NO_NODE,
        };
        if !is_known {
            self.fault_of(&frame, "a frame has a node that the manifest has not")?;
            return Ok(None);
        }
        if self.seen.totals_at.is_some() {
            self.fault(frame.offset, 0, Some(node), "keys stand behind the totals")?;
        }
        Ok(Some(frame))
    }

    /// Takes a frame of the manifest or of the totals.
    fn text(&mut self, frame: &RawFrame) -> Result<(), ArchiveError> {
        let kind = frame.kind();
        let is_again = match kind {
            Kind::Manifest => self.manifest.is_some() || self.seen.totals_at.is_some(),
            _ => self.totals.is_some(),
        };
        if is_again || frame.node() != NO_NODE {
            return self.fault_of(frame, "a manifest or totals stand in the wrong place");
        }
        if kind == Kind::Totals && self.seen.totals_at.is_none() {
            self.seen.totals_at = Some(frame.offset);
        }
        match frame.plain() {
            Ok(plain) => self.text.extend_from_slice(&plain),
            Err(error) => self.refuse(frame, error)?,
        }
        if self.text.len() > TEXT_MAX {
            self.text.clear();
            self.text_is_broken = true;
            self.fault_of(frame, "the manifest or the totals are longer than 64 MiB")?;
        }
        if frame.has_more() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        if std::mem::take(&mut self.text_is_broken) {
            return self.fault_of(frame, "a part of the manifest or of the totals is missing");
        }
        let parsed = self.parse(kind, &text, frame.offset);
        parsed.or_else(|error| self.refuse(frame, error))
    }

    /// Reads a whole text.
    fn parse(&mut self, kind: Kind, text: &[u8], offset: u64) -> Result<(), ArchiveError> {
        let is_text = |_| ArchiveError::damaged(offset, "the manifest or the totals are not UTF-8");
        let text = std::str::from_utf8(text).map_err(is_text)?;
        if kind == Kind::Totals {
            self.totals = Some(Totals::parse(text)?);
            return Ok(());
        }
        if self.archive != Some(Manifest::archive_id(text)) {
            let what = "the manifest is that of another archive";
            return Err(ArchiveError::damaged(offset, what));
        }
        self.manifest = Some(Manifest::parse(text)?);
        Ok(())
    }

    /// Takes a frame of the index.
    fn index(&mut self, frame: &RawFrame) -> Result<(), ArchiveError> {
        let plain = match frame.plain() {
            Ok(plain) => plain,
            Err(error) => return self.refuse(frame, error),
        };
        match self.seen.know_index(&plain) {
            true => Ok(()),
            false => self.fault_of(frame, "a frame of the index has a wrong length"),
        }
    }

    /// Takes the end mark.
    fn end(&mut self, frame: &RawFrame) -> Result<(), ArchiveError> {
        let Some(mark) = EndMark::read(&frame.stored) else {
            return self.fault_of(frame, "the end mark has a wrong length");
        };
        self.state = State::Done;
        let end = frame.offset + frame.length();
        // Where something was left out, the sums cannot fit.
        if self.damage.is_none() {
            let totals = self.totals.as_ref();
            if let Some(what) = self.seen.contradiction(&mark, end, totals) {
                self.fault_of(frame, what)?;
            }
        }
        self.lose_the_end(frame.offset)?;
        if !self.scanner.peek(1)?.is_empty() {
            self.fault(end, 0, None, "bytes follow the end mark")?;
        }
        Ok(())
    }

    /// Takes the end of the stream, without an end mark.
    fn ended(&mut self, position: u64) -> Result<(), ArchiveError> {
        if !self.is_recovering {
            return Err(ArchiveError::CutShort { offset: position });
        }
        self.state = State::Done;
        self.damage.end_is_missing = true;
        let broken = self.scanner.broken().map(|why| format!(": {why}"));
        let what = format!("the end is missing{}", broken.unwrap_or_default());
        self.fault(position, 0, None, what)?;
        self.lose_the_end(position)
    }

    /// Notes what the nodes have lost behind their last frames.
    fn lose_the_end(&mut self, position: u64) -> Result<(), ArchiveError> {
        for (node, frames, entries) in self.seen.lost_at_end(self.totals.as_ref()) {
            let of_node = self.of_node(node);
            let what = format!(
                "the last {frames} frames{of_node} are missing, in which {entries} keys begin"
            );
            self.fault(position, 0, Some(node), what)?;
            self.damage.lose(node, frames, entries);
        }
        Ok(())
    }

    /// Notes an error about a frame; a strict reader returns it.
    fn refuse(&mut self, frame: &RawFrame, error: ArchiveError) -> Result<(), ArchiveError> {
        match self.is_recovering {
            true => self.fault_of(frame, error.to_string()),
            false => Err(error),
        }
    }

    /// Notes that a whole frame is left out; for a strict reader this is an error.
    fn fault_of(&mut self, frame: &RawFrame, what: impl Into<String>) -> Result<(), ArchiveError> {
        let node = Some(frame.node());
        self.fault(frame.offset, frame.length(), node, what)
    }

    /// Notes damage; for a strict reader it is an error.
    fn fault(
        &mut self,
        offset: u64,
        bytes: u64,
        node: Option<u16>,
        what: impl Into<String>,
    ) -> Result<(), ArchiveError> {
        if !self.is_recovering {
            return Err(ArchiveError::damaged(offset, what));
        }
        self.damage.note(DamagedPlace {
            offset,
            bytes,
            node: node.filter(|&node| node != NO_NODE),
            what: what.into(),
        });
        Ok(())
    }

    /// Describes a fault.
    fn describe(&self, fault: &Fault) -> String {
        match fault {
            Fault::Header(HeaderFault::Magic) => "no frame begins here".into(),
            Fault::Header(HeaderFault::Check) => {
                "the header of a frame does not fit its checksum".into()
            }
            Fault::Header(HeaderFault::Lengths) => {
                "a frame is longer than the format allows".into()
            }
            Fault::Payload(header) => format!(
                "frame number {}{}, in which {} keys begin, does not fit its checksum",
                header.sequence,
                self.of_node(header.node),
                header.entries
            ),
            Fault::CutShort(Some(header)) => format!(
                "the archive ends within frame number {}{}, which has {} bytes",
                header.sequence,
                self.of_node(header.node),
                HEADER_BYTES + header.stored as usize
            ),
            Fault::CutShort(None) => "the archive ends within the header of a frame".into(),
        }
    }

    /// Returns ` of node NAME`, and nothing for frames of no node.
    fn of_node(&self, node: u16) -> String {
        if node == NO_NODE {
            return String::new();
        }
        let known = self.manifest.as_ref();
        let name = known.map_or_else(|| format!("#{node}"), |known| known.node_name(node));
        format!(" of node {}", name.escape_debug())
    }
}

/// True if the bytes are those of an archive whose line ends or eighth bits were changed.
fn is_changed_as_text(head: &[u8]) -> bool {
    let is_seven_bit = head.starts_with(b"\x09RSB");
    let is_utf8 = head.starts_with(b"\xc2\x89RSB") || head.starts_with(b"\xef\xbf\xbdRSB");
    is_seven_bit || is_utf8 || head.starts_with(&MAGIC[..4]) && !head.starts_with(&MAGIC)
}
