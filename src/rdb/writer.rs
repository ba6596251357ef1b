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
