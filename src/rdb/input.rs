//! The buffer of the reader: bytes as they come, and their checksum as they pass.

use std::io::{self, Read};

use super::RdbError;
use super::crc64::Crc64;

/// The size of the buffer, in bytes.
const BUFFER: usize = 256 * 1024;

/// Bytes that were read, and how far they have passed.
///
/// ```text
/// buffer: [ passed, in the checksum | passed | read | spare ]
///                                   ↑ summed ↑ at   ↑ end
/// ```
pub(super) struct Input<R> {
    read: R,
    buffer: Vec<u8>,
    /// Offset behind the last byte in the checksum.
    summed: usize,
    /// Offset of the first byte that has not passed.
    at: usize,
    /// Offset behind the last byte that was read.
    end: usize,
    /// The checksum of all bytes up to `summed`.
    crc: Crc64,
    /// The number of bytes that came before the first of the buffer.
    before: u64,
}

impl<R: Read> Input<R> {
    /// Makes an empty buffer before a reader.
    pub(super) fn new(read: R) -> Self {
        Self {
            read,
            buffer: vec![0; BUFFER],
            summed: 0,
            at: 0,
            end: 0,
            crc: Crc64::default(),
            before: 0,
        }
    }

    /// Returns how many bytes have passed.
    pub(super) fn offset(&self) -> u64 {
        self.before + self.at as u64
    }

    /// Returns the offset in the buffer up to which bytes have passed: changed by [`consume`](Self::consume), and set
    /// back by [`compact`](Self::compact).
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Returns the bytes of the buffer from `start` on that have passed.
    pub(super) fn passed(&self, start: usize) -> &[u8] {
        self.buffer.get(start..self.at).unwrap_or_default()
    }

    /// Returns the bytes that were read and have not passed.
    #[inline]
    pub(super) fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..self.end).unwrap_or_default()
    }

    /// Lets bytes of the [rest](Self::rest) pass.
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        self.at = self.at.saturating_add(count).min(self.end);
    }

    /// Returns true if nothing can be read before the buffer is [compacted](Self::compact).
    pub(super) fn is_full(&self) -> bool {
        self.end == self.buffer.len()
    }

    /// Drops the bytes that have passed, which makes room.
    pub(super) fn compact(&mut self) {
        self.sum();
        self.before += self.at as u64;
        self.buffer.copy_within(self.at..self.end, 0);
        (self.at, self.summed, self.end) = (0, 0, self.end - self.at);
    }

    /// Reads at least one more byte. Must not be [full](Self::is_full).
    pub(super) fn fill(&mut self) -> Result<(), RdbError> {
        let spare = self.buffer.get_mut(self.end..).unwrap_or_default();
        let read = loop {
            match self.read.read(spare) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let offset = self.before + self.end as u64;
        match read {
            Ok(0) => Err(RdbError::Truncated { offset }),
            Ok(count) => {
                self.end = self.end.saturating_add(count).min(self.buffer.len());
                Ok(())
            }
            Err(error) => Err(RdbError::Read { offset, error }),
        }
    }

    /// Returns the checksum of all bytes that have passed.
    pub(super) fn checksum(&mut self) -> u64 {
        self.sum();
        self.crc.value()
    }

    /// Returns the reader, and what was read from it and has not passed.
    #[cfg(test)]
    pub(super) fn into_inner(mut self) -> (R, Vec<u8>) {
        self.buffer.truncate(self.end);
        self.buffer.drain(..self.at);
        (self.read, self.buffer)
    }

    fn sum(&mut self) {
        self.crc
            .update(self.buffer.get(self.summed..self.at).unwrap_or_default());
        self.summed = self.at;
    }
}
