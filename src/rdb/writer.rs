//! An RDB file that servers load.

use std::io::Write;

use super::bytes::write_length;
use super::crc64::Crc64;
use super::kinds::opcode;
use super::version::RdbVersion;
use super::{Access, KeyInfo, RdbError};

/// The bytes that are kept before they are written.
const BUFFER: usize = 64 * 1024;

/// Writes an RDB, in the order in which servers do: facts, libraries of functions, and keys by database.
///
/// The values must be of types that servers of the version know.
pub(crate) struct RdbWriter<W> {
    write: W,
    buffer: Vec<u8>,
    crc: Crc64,
    /// The database of the keys that were last written.
    db: Option<u32>,
}

impl<W: Write> RdbWriter<W> {
    /// Writes the head.
    ///
    /// # Errors
    ///
    /// If it cannot be written; so too for all other methods.
    pub(crate) fn new(write: W, version: RdbVersion) -> Result<Self, RdbError> {
        let mut writer = Self {
            write,
            buffer: Vec::with_capacity(2 * BUFFER),
            crc: Crc64::default(),
            db: None,
        };
        writer.put(&version.head())?;
        Ok(writer)
    }

    /// Writes a fact, such as `redis-ver`, `valkey-ver` or `ctime`.
    pub(crate) fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<(), RdbError> {
        self.buffer.push(opcode::AUX);
        self.put_string(name)?;
        self.put_string(value)
    }

    /// Writes a library of functions.
    pub(crate) fn function(&mut self, source: &[u8]) -> Result<(), RdbError> {
        self.buffer.push(opcode::FUNCTION);
        self.put_string(source)
    }

    /// Selects the database of the next keys, and writes how many it has: servers make room for them.
    pub(crate) fn database(&mut self, db: u32, keys: u64, expiring: u64) -> Result<(), RdbError> {
        self.select(db);
        self.buffer.push(opcode::SIZES);
        write_length(&mut self.buffer, keys);
        write_length(&mut self.buffer, expiring);
        self.drain()
    }

    /// Writes all of a key but its value, which must follow. Selects its database, unless the key before was there.
    pub(crate) fn key(&mut self, info: &KeyInfo) -> Result<(), RdbError> {
        if self.db != Some(info.db) {
            self.select(info.db);
        }
        if let Some(time) = info.expires_at {
            self.buffer.push(opcode::EXPIRES_MS);
            self.buffer.extend_from_slice(&time.to_le_bytes());
        }
        match info.access {
            Access::Unknown => {}
            Access::Idle(seconds) => {
                self.buffer.push(opcode::IDLE);
                write_length(&mut self.buffer, seconds);
            }
            Access::Frequency(counter) => {
                self.buffer.extend_from_slice(&[opcode::FREQUENCY, counter]);
            }
        }
        self.buffer.push(info.value_type);
        self.put_string(&info.key)
    }

    /// Writes bytes of the value of the last key, as they stand in an RDB: once, or in pieces.
    pub(crate) fn value(&mut self, piece: &[u8]) -> Result<(), RdbError> {
        self.put(piece)
    }

    /// Writes the end and the checksum, and returns the writer, flushed.
    pub(crate) fn finish(mut self) -> Result<W, RdbError> {
        self.buffer.push(opcode::END);
        self.write_out()?;
        let checksum = self.crc.value().to_le_bytes();
        self.write.write_all(&checksum).map_err(RdbError::Write)?;
        self.write.flush().map_err(RdbError::Write)?;
        Ok(self.write)
    }

    fn select(&mut self, db: u32) {
        self.buffer.push(opcode::DATABASE);
        write_length(&mut self.buffer, u64::from(db));
        self.db = Some(db);
    }

    fn put_string(&mut self, string: &[u8]) -> Result<(), RdbError> {
        write_length(&mut self.buffer, string.len() as u64);
        self.put(string)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), RdbError> {
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return self.drain();
        }
        self.write_out()?;
        self.crc.update(bytes);
        self.write.write_all(bytes).map_err(RdbError::Write)
    }

    /// Writes what is kept if it is much.
    fn drain(&mut self) -> Result<(), RdbError> {
        if self.buffer.len() < BUFFER {
            return Ok(());
        }
        self.write_out()
    }

    fn write_out(&mut self) -> Result<(), RdbError> {
        self.crc.update(&self.buffer);
        let written = self.write.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(RdbError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::super::crc64::crc64;
    use super::*;

    fn info(db: u32, key: &[u8], expires_at: Option<i64>, access: Access) -> KeyInfo {
        KeyInfo {
            db,
            key: key.to_vec(),
            expires_at,
            access,
            value_type: 0,
        }
    }

    #[test]
    fn every_record_is_written_byte_by_byte_as_servers_do() {
        let mut writer = RdbWriter::new(Vec::new(), RdbVersion(80)).unwrap();
        writer.aux(b"valkey-ver", b"9.1.2").unwrap();
        writer.function(b"#!lua name=a").unwrap();
        writer.database(0, 2, 1).unwrap();
        writer
            .key(&info(0, b"a", Some(0x0102), Access::Idle(100)))
            .unwrap();
        writer.value(b"\x04te").unwrap();
        writer.value(b"xt").unwrap();
        writer
            .key(&info(0, b"12", None, Access::Frequency(7)))
            .unwrap();
        writer.value(b"\xc0\x01").unwrap();
        // Selected without sizes: they are not known, and servers do without.
        writer.key(&info(3, b"b", None, Access::Unknown)).unwrap();
        writer.value(b"\x01x").unwrap();
        let written = writer.finish().unwrap();
        let expected =
            b"VALKEY080\xfa\x0avalkey-ver\x059.1.2\xf5\x0c#!lua name=a\xfe\x00\xfb\x02\x01\
            \xfc\x02\x01\x00\x00\x00\x00\x00\x00\xf8\x40\x64\x00\x01a\x04text\
            \xf9\x07\x00\x0212\xc0\x01\xfe\x03\x00\x01b\x01x\xff";
        let (body, checksum) = written.split_last_chunk::<8>().unwrap();
        assert_eq!(
            body.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        assert_eq!(u64::from_le_bytes(*checksum), crc64(body));
    }

    #[test]
    fn pieces_of_any_size_are_written_in_their_order() {
        let sizes = [
            0,
            1,
            BUFFER - 1,
            BUFFER,
            3 * BUFFER,
            10,
            BUFFER / 2,
            BUFFER / 2 + 20,
        ];
        let mut writer = RdbWriter::new(Vec::new(), RdbVersion(10)).unwrap();
        let mut expected = RdbVersion(10).head();
        for (at, size) in sizes.into_iter().enumerate() {
            let piece = vec![at as u8; size];
            writer.value(&piece).unwrap();
            expected.extend_from_slice(&piece);
        }
        expected.push(255);
        let checksum = crc64(&expected).to_le_bytes();
        expected.extend_from_slice(&checksum);
        assert!(writer.finish().unwrap() == expected);
    }

    #[test]
    fn failure_to_write_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut writer = RdbWriter::new(Full, RdbVersion(10)).unwrap();
        assert!(matches!(
            writer.value(&[0; 2 * BUFFER]),
            Err(RdbError::Write(_))
        ));
        assert!(matches!(writer.finish(), Err(RdbError::Write(_))));
    }
}
