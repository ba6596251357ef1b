//! Properties of RDB streams and payloads of `DUMP`: [`rdb`].

use std::io::{self, Read};

use super::{pieces, steps};
use crate::rdb::{
    self, KeyInfo, RdbError, RdbItem, RdbReader, RdbVersion, RdbWriter, functions_of_dump,
};

/// Maximum number of bytes reserved for each byte that is read: what three bytes of a compressed string can become.
const RESERVED_PER_BYTE: usize = 88;

/// The last version that has no checksum: nothing is written in it.
const UNCHECKED_MAX: RdbVersion = RdbVersion(4);

/// What was read up to the end or an error.
#[derive(Default)]
struct Contents {
    version: Option<RdbVersion>,
    /// All records; keys with the bytes of their values.
    records: Vec<(RdbItem, Option<Vec<u8>>)>,
    /// The bytes that were read as records, if it has ended well.
    length: Option<u64>,
    /// What was wrong.
    error: Option<RdbError>,
}

/// A reader that returns a few bytes at a time.
struct Slow<'b> {
    bytes: &'b [u8],
    piece: usize,
}

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.min(into.len());
        self.bytes.read(&mut into[..count])
    }
}

/// An RDB is read as the same records however its bytes come, with no more memory than they can become; what was read
/// is written so that it is read as the same again, and values are the same in payloads.
pub fn rdb(data: &[u8]) {
    // Errors are as good as values here.
    let _ = (rdb::of_dump(data), functions_of_dump(data));
    let Some((piece, bytes)) = pieces(data) else {
        return;
    };
    let (whole, spent) = steps::of(|| read(bytes));
    assert!(
        spent.reserved <= RESERVED_PER_BYTE * bytes.len(),
        "{spent:?} for {} bytes",
        bytes.len()
    );
    let in_pieces = read(Slow { bytes, piece });
    assert_eq!(
        in_pieces.records, whole.records,
        "in pieces of {piece} bytes"
    );
    assert_eq!(in_pieces.length, whole.length);
    assert_eq!(
        format!("{:?}", in_pieces.error),
        format!("{:?}", whole.error)
    );
    if let Some(version) = whole.version.filter(|&version| version > UNCHECKED_MAX) {
        compare_written(&whole, version);
    }
}

/// Reads all that can be read.
fn read(read: impl Read) -> Contents {
    let mut contents = Contents::default();
    if let Err(error) = read_into(&mut contents, read) {
        contents.error = Some(error);
    }
    contents
}

fn read_into(contents: &mut Contents, read: impl Read) -> Result<(), RdbError> {
    let mut reader = RdbReader::new(read)?;
    contents.version = Some(reader.version());
    while let Some(item) = reader.next()? {
        let mut value = matches!(item, RdbItem::Key(_)).then(Vec::new);
        if let Some(value) = &mut value {
            let start = reader.offset();
            let length = reader.value(&mut |piece| {
                value.extend_from_slice(piece);
                Ok(())
            })?;
            assert_eq!(length, value.len() as u64);
            assert_eq!(length, reader.offset() - start);
        }
        contents.records.push((item, value));
    }
    contents.length = Some(reader.offset());
    Ok(())
}

impl Contents {
    /// The keys with their values.
    fn keys(&self) -> Vec<(&KeyInfo, &[u8])> {
        let mut keys = Vec::new();
        for (item, value) in &self.records {
            if let (RdbItem::Key(info), Some(value)) = (item, value) {
                keys.push((info, &value[..]));
            }
        }
        keys
    }

    /// Facts and libraries of functions.
    fn others(&self) -> Vec<&RdbItem> {
        let items = self.records.iter().map(|(item, _)| item);
        items
            .filter(|item| matches!(item, RdbItem::Aux { .. } | RdbItem::Function(_)))
            .collect()
    }
}

/// Writes what was read, and reads it again.
fn compare_written(contents: &Contents, version: RdbVersion) {
    let written = write(contents, version).expect("a vector takes all bytes");
    let again = read(&written[..]);
    assert!(again.error.is_none(), "{:?}", again.error);
    assert_eq!(again.length, Some(written.len() as u64));
    assert_eq!(again.keys(), contents.keys());
    assert_eq!(again.others(), contents.others());
    for (info, value) in contents.keys() {
        let payload = rdb::payload(info.value_type, value, version);
        let taken = rdb::of_dump(&payload).expect("the checksum fits");
        assert_eq!(taken, (info.value_type, value, version));
    }
}

fn write(contents: &Contents, version: RdbVersion) -> Result<Vec<u8>, RdbError> {
    let mut writer = RdbWriter::new(Vec::new(), version)?;
    for item in contents.others() {
        match item {
            RdbItem::Aux { name, value } => writer.aux(name, value)?,
            RdbItem::Function(source) => writer.function(source)?,
            _ => {}
        }
    }
    for (info, value) in contents.keys() {
        writer.key(info)?;
        writer.value(value)?;
    }
    writer.finish()
}
