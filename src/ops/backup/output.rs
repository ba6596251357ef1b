//! [`Output`]: where an archive goes: as it is, or encrypted.

use std::io::{self, Write};

use crate::error::{Error, ErrorKind};

/// Where an archive goes.
pub(super) enum Output<W: Write> {
    /// As it is.
    Plain(Counter<W>),
    /// Encrypted for recipients of age.
    #[cfg(feature = "backup-encryption")]
    Encrypted(Box<age::stream::StreamWriter<Counter<W>>>),
}

/// Counts what is written.
pub(super) struct Counter<W> {
    write: W,
    bytes: u64,
}

impl<W: Write> Output<W> {
    /// The output for these recipients, as it is if there are none.
    ///
    /// # Errors
    ///
    /// If a recipient is none of age, or the beginning cannot be written.
    #[cfg(feature = "backup-encryption")]
    pub(super) fn new(write: W, recipients: &[String]) -> Result<Self, Error> {
        let counter = Counter { write, bytes: 0 };
        if recipients.is_empty() {
            return Ok(Self::Plain(counter));
        }
        let recipients = parse(recipients)?;
        let recipients = recipients
            .iter()
            .map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients)
            .map_err(|error| Error::config(format!("the archive cannot be encrypted: {error}")))?;
        let stream = encryptor
            .wrap_output(counter)
            .map_err(|error| failed(&error))?;
        Ok(Self::Encrypted(Box::new(stream)))
    }

    /// The output as it is.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(feature = "backup-encryption"))]
    pub(super) fn new(write: W, _: &[String]) -> Result<Self, Error> {
        Ok(Self::Plain(Counter { write, bytes: 0 }))
    }

    /// Writes what is left, and returns the number of bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(super) fn finish(self) -> Result<u64, Error> {
        let finished = match self {
            Self::Plain(counter) => Ok(counter),
            #[cfg(feature = "backup-encryption")]
            Self::Encrypted(stream) => stream.finish(),
        };
        let flushed = finished.and_then(|mut counter| {
            counter.flush()?;
            Ok(counter.bytes)
        });
        flushed.map_err(|error| failed(&error))
    }
}

/// Checks recipients before anything is done.
///
/// # Errors
///
/// If one of them is none of age.
#[cfg(feature = "backup-encryption")]
pub(super) fn check(recipients: &[String]) -> Result<(), Error> {
    parse(recipients).map(drop)
}

/// There are none.
#[cfg(not(feature = "backup-encryption"))]
pub(super) fn check(_: &[String]) -> Result<(), Error> {
    Ok(())
}

#[cfg(feature = "backup-encryption")]
fn parse(recipients: &[String]) -> Result<Vec<age::x25519::Recipient>, Error> {
    let recipients = recipients.iter().enumerate();
    let parsed = recipients.map(|(index, text)| {
        text.trim().parse().map_err(|_| {
            let number = index + 1;
            let text = format!("recipient number {number} is none of age, which begins with age1");
            Error::config(text)
        })
    });
    parsed.collect()
}

fn failed(error: &io::Error) -> Error {
    let text = format!("the archive cannot be written: {error}");
    Error::new(ErrorKind::Archive, text).with_io(Some(error.kind()))
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
