//! [`Output`]: where an archive goes: as it is, or encrypted.

use std::io::{self, Write};

#[cfg(feature = "backup-encryption")]
use super::drain::failed;
#[cfg(feature = "backup-encryption")]
use crate::archive::{EncryptedWriter, Recipients};
use crate::error::Error;

/// Where an archive goes.
pub(super) enum Output<W: Write> {
    /// As it is.
    Plain(Counter<W>),
    /// Encrypted for recipients of age.
    #[cfg(feature = "backup-encryption")]
    Encrypted(Box<EncryptedWriter<Counter<W>>>),
}

/// Counts what is written.
pub(super) struct Counter<W> {
    write: W,
    bytes: u64,
}

impl<W: Write> Output<W> {
    /// The output for these recipients, one in a line; as it is if none are given.
    ///
    /// # Errors
    ///
    /// If a recipient is none of age, or the beginning cannot be written.
    #[cfg(feature = "backup-encryption")]
    pub(super) fn new(write: W, recipients: Option<&str>) -> Result<Self, Error> {
        let counter = Counter { write, bytes: 0 };
        let Some(recipients) = recipients else {
            return Ok(Self::Plain(counter));
        };
        let recipients = Recipients::parse(recipients).map_err(failed)?;
        let stream = recipients.encrypt(counter).map_err(failed)?;
        Ok(Self::Encrypted(Box::new(stream)))
    }

    /// The output as it is.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(feature = "backup-encryption"))]
    pub(super) fn new(write: W, _: Option<&str>) -> Result<Self, Error> {
        Ok(Self::Plain(Counter { write, bytes: 0 }))
    }

    /// Writes what is left, and returns the number of bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(super) fn finish(self) -> Result<u64, Error> {
        let counter = match self {
            Self::Plain(counter) => counter,
            #[cfg(feature = "backup-encryption")]
            Self::Encrypted(stream) => stream.finish().map_err(failed)?,
        };
        Ok(counter.bytes)
    }
}

/// Checks recipients before anything is done.
///
/// # Errors
///
/// If one of them is none of age.
#[cfg(feature = "backup-encryption")]
pub(super) fn check(recipients: Option<&str>) -> Result<(), Error> {
    match recipients {
        Some(text) => Recipients::parse(text).map(drop).map_err(failed),
        None => Ok(()),
    }
}

/// There are none.
///
/// # Errors
///
/// None.
#[cfg(not(feature = "backup-encryption"))]
pub(super) fn check(_: Option<&str>) -> Result<(), Error> {
    Ok(())
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(counter) => counter.write(bytes),
            #[cfg(feature = "backup-encryption")]
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(counter) => counter.flush(),
            #[cfg(feature = "backup-encryption")]
            Self::Encrypted(stream) => stream.flush(),
        }
    }
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.write.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.flush()
    }
}
