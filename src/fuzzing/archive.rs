//! A property of archives: [`archive`].

use std::io::{self, Read};

use super::pieces;
use crate::archive::{
    ArchiveError, ArchiveReader, Damage, EntryAssembler, Item, RawFrame, Summary, repaired, verify,
};

/// Maximum length in bytes of values that are joined.
const LIMIT: usize = 1 << 16;

/// Maximum length in bytes of a frame's payload, by the format.
const PLAIN_MAX: usize = 4 << 20;

/// Whatever the bytes are, also where their checksums fit: what a strict reader gives is given by the recovering one too;
/// if the strict reader finds nothing wrong, they give the same, and all sums fit.
pub fn archive(data: &[u8]) {
    let Some((piece, bytes)) = pieces(data) else {
        return;
    };
    agree(bytes, piece);
    agree(&repaired(bytes), piece);
}

/// Reads bytes in pieces.
struct Pieces<'b> {
    bytes: &'b [u8],
    piece: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.min(self.bytes.len()).min(buffer.len());
        let (now, later) = self.bytes.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.bytes = later;
        Ok(count)
    }
}

fn agree(bytes: &[u8], piece: usize) {
    let read = || Pieces { bytes, piece };
    let (strict, result) = frames(ArchiveReader::new(read()));
    let (recovered, _) = frames(ArchiveReader::recover(bytes));
    let again = frames(ArchiveReader::recover(read())).0;
    assert_eq!(recovered.0, again.0, "pieces matter");
    match result {
        Ok(()) => {
            assert_eq!(strict.0, recovered.0);
            assert!(recovered.1.is_none(), "{:?}", recovered.1);
            let of_stream = Summary::of_stream(bytes);
            assert!(of_stream.is_ok_and(|summary| summary.bytes == bytes.len() as u64));
            assert!(Summary::of_file(io::Cursor::new(bytes)).is_ok());
        }
        Err(_) => assert!(recovered.0.starts_with(&strict.0)),
    }
    let mut given = 0;
    let count = |_: u16, item: &Item| {
        given += usize::from(!matches!(item, Item::Incomplete(_)));
        Ok(())
    };
    let verified = verify(bytes, LIMIT, count);
    assert_eq!(given, items(&recovered.0));
    assert!(!verified.is_ok_and(|found| found.is_good()) || recovered.1.is_none());
}

/// The frames that a reader gives before its end or its first error, and the damage that it has found.
fn frames<R: Read>(
    reader: Result<ArchiveReader<R>, ArchiveError>,
) -> ((Vec<RawFrame>, Damage), Result<(), ArchiveError>) {
    let mut frames = Vec::new();
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => return ((frames, Damage::default()), Err(error)),
    };
    let result = loop {
        match reader.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    ((frames, reader.damage().clone()), result)
}

/// The number of whole entries in frames.
fn items(frames: &[RawFrame]) -> usize {
    let mut assembler = EntryAssembler::new(LIMIT);
    let mut whole = 0;
    for frame in frames {
        let Ok(decoded) = frame.clone().decode() else {
            continue;
        };
        assert!(decoded.length() <= PLAIN_MAX);
        let items = assembler.push(&decoded).unwrap_or_default();
        let is_whole = |item: &&Item| !matches!(item, Item::Incomplete(_));
        whole += items.iter().filter(is_whole).count();
    }
    whole
}
