//! Finds frames in a stream, and the next one behind damage.

use std::io::{self, Read};

use super::format::CHECKSUM_AT;
use super::format::{FRAME_MAGIC, HEADER_BYTES, Header, HeaderFault, checksum};
use super::frame::RawFrame;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 << 10;

/// Bytes that may be looked at twice in vain before whole frames are left out, so that no archive takes more than a
/// multiple of its length.
const WASTED_MAX: u64 = 64 << 20;

/// Reads frames from a stream. Its memory is that of the largest frame.
pub(super) struct Scanner<R> {
    read: R,
    /// Bytes that were read are those between `start` and `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in the stream the next byte is.
    position: u64,
    is_ended: bool,
    /// True if a stream whose bytes turn out to be wrong has ended there.
    is_lenient: bool,
    broken: Option<String>,
    /// Bytes of frames that did not fit their checksum.
    wasted: u64,
}

/// What stands at the position.
pub(super) enum Step {
    /// A frame that fits its checksums. It is behind the position.
    Frame(RawFrame),
    /// The end of the stream.
    Ended,
    /// No frame; the position stays.
    Fault(Fault),
}

/// Why there is no frame.
pub(super) enum Fault {
    /// These bytes are not the header of a frame.
    Header(HeaderFault),
    /// The payload does not fit the checksum.
    Payload(Header),
    /// The stream ends within the frame.
    CutShort(Option<Header>),
}

impl<R: Read> Scanner<R> {
    /// Reads a stream whose first byte is at `position` of the archive.
    pub(super) fn new(read: R, position: u64, is_lenient: bool) -> Self {
        Self {
            read,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            position,
            is_ended: false,
            is_lenient,
            broken: None,
            wasted: 0,
        }
    }

    /// Returns where in the stream the next byte is.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Returns why the stream has ended, if it was by an error.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Returns the next bytes, fewer at the end of the stream. They stay.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        self.fill(count)?;
        let rest = self.rest();
        Ok(rest.get(..count).unwrap_or(rest))
    }

    /// Passes over bytes that were peeked at.
    pub(super) fn skip(&mut self, count: usize) {
        let count = count.min(self.rest().len());
        self.start += count;
        self.position += count as u64;
    }

    /// Reads the frame at the position.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let head = self.peek(HEADER_BYTES)?;
        if head.is_empty() {
            return Ok(Step::Ended);
        }
        let Some(head) = head.first_chunk::<HEADER_BYTES>() else {
            let fault = match FRAME_MAGIC.starts_with(head.get(..4).unwrap_or(head)) {
                true => Fault::CutShort(None),
                false => Fault::Header(HeaderFault::Magic),
            };
            return Ok(Step::Fault(fault));
        };
        let (header, expected) = match Header::read(head) {
            Ok(read) => read,
            Err(fault) => return Ok(Step::Fault(Fault::Header(fault))),
        };
        let length = HEADER_BYTES + header.stored as usize;
        let bytes = self.peek(length)?;
        if bytes.len() < length {
            return Ok(Step::Fault(Fault::CutShort(Some(header))));
        }
        let (head, payload) = bytes.split_at(HEADER_BYTES);
        if checksum(&head[..CHECKSUM_AT], payload) != expected {
            return Ok(Step::Fault(Fault::Payload(header)));
        }
        let stored = payload.to_vec();
        let offset = self.position;
        self.skip(length);
        Ok(Step::Frame(RawFrame {
            offset,
            header,
            checksum: expected,
            stored,
        }))
    }

    /// Passes over a fault, up to the next bytes that look like the header of a frame of this archive, or to the end.
    pub(super) fn pass(&mut self, fault: &Fault, archive: Option<u32>) -> io::Result<()> {
        match fault {
            Fault::Payload(header) => {
                self.wasted += u64::from(header.stored);
                // A frame within this payload may be the next one, if bytes are missing.
                let is_costly = self.wasted > WASTED_MAX.max(self.position);
                self.skip(match is_costly {
                    true => HEADER_BYTES + header.stored as usize,
                    false => HEADER_BYTES,
                });
            }
            Fault::Header(_) | Fault::CutShort(_) => self.skip(1),
        }
        self.find(archive)
    }

    /// Passes over bytes up to the next ones that look like the header of a frame of this archive, or to the end.
    pub(super) fn find(&mut self, archive: Option<u32>) -> io::Result<()> {
        loop {
            let head = self.peek(HEADER_BYTES)?;
            let Some(head) = head.first_chunk::<HEADER_BYTES>() else {
                let rest = head.len();
                self.skip(rest);
                return Ok(());
            };
            let is_ours = |header: &Header| archive.is_none_or(|id| header.archive == id);
            if Header::read(head).is_ok_and(|(header, _)| is_ours(&header)) {
                return Ok(());
            }
            // The next byte that may begin one, within what is buffered; the last bytes are looked at again with those
            // that follow.
            let rest = self.rest();
            let begins = |&byte: &u8| byte == FRAME_MAGIC[0];
            let next = rest.iter().skip(1).position(begins);
            let next = next.map_or(rest.len(), |at| at + 1);
            self.skip(next);
        }
    }

    /// The bytes that are buffered.
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Buffers at least this many bytes, if the stream has them.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.rest().len() < count && !self.is_ended {
            if self.start > 0 && self.end + READ_BYTES > self.buffer.len() {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            // Only what is new is zeroed: a pipe may give a few bytes at a time.
            let room = self.buffer.len().max(self.end + READ_BYTES);
            self.buffer.resize(room, 0);
            let free = self.buffer.get_mut(self.end..).unwrap_or_default();
            let read = self.read.read(free);
            self.end += *read.as_ref().unwrap_or(&0);
            match read {
                Ok(0) => self.is_ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.is_lenient && is_about_bytes(&error) => {
                    self.broken = Some(error.to_string());
                    self.is_ended = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// True if the stream cannot give its bytes because they are wrong, such as one that is encrypted.
fn is_about_bytes(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}
