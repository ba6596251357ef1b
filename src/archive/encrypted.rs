//! The stream around an archive, encrypted with age for the holders of key pairs.
//!
//! What is written is an age file of version 1, which age's own tools decrypt. Passphrases are not offered: a backup runs
//! unattended, and its writer needs public keys only.

use std::io::{self, Cursor, Read, Write};

use age::x25519;
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};

use super::error::ArchiveError;
use super::reader::AGE_MAGIC;

/// Public keys (`age1...`): who can read an archive that is encrypted for them.
pub(crate) struct Recipients(Vec<x25519::Recipient>);

/// Secret keys (`AGE-SECRET-KEY-1...`): what can be read with them.
pub(crate) struct Identities(Vec<x25519::Identity>);

/// Encrypts what is written. It must be [finished](Self::finish).
pub(crate) struct EncryptedWriter<W: Write>(age::stream::StreamWriter<W>);

/// The bytes of a stream, of which the first were read before.
pub(crate) type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// A stream that may be encrypted.
pub(crate) enum MaybeEncrypted<R: Read> {
    /// It is not encrypted.
    Plain(Peeked<R>),
    /// It is, and is decrypted here.
    Decrypted(Box<age::stream::StreamReader<Peeked<R>>>),
}

impl Recipients {
    /// Reads public keys, one a line; empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    ///
    /// With the number of the line that is none, or if there is no key.
    pub(crate) fn parse(text: &str) -> Result<Self, ArchiveError> {
        let keys = keys(text, "a public key, which begins with age1")?;
        Ok(Self(keys))
    }

    /// Begins an encrypted stream.
    ///
    /// # Errors
    ///
    /// If the stream below fails.
    pub(crate) fn encrypt<W: Write>(&self, write: W) -> Result<EncryptedWriter<W>, ArchiveError> {
        let recipients = self.0.iter().map(|key| key as &dyn Recipient);
        let encryptor = Encryptor::with_recipients(recipients)
            .map_err(|error| ArchiveError::Keys(error.to_string()))?;
        Ok(EncryptedWriter(encryptor.wrap_output(write)?))
    }
}

impl Identities {
    /// Reads secret keys, one a line, as `age-keygen` writes them; empty lines and those that begin with `#` are left
    /// out.
    ///
    /// # Errors
    ///
    /// With the number of the line that is none, without the line, or if there is no key.
    pub(crate) fn parse(text: &str) -> Result<Self, ArchiveError> {
        let keys = keys(text, "a secret key, which begins with AGE-SECRET-KEY-1")?;
        Ok(Self(keys))
    }
}

impl<W: Write> EncryptedWriter<W> {
    /// Writes the end, without which the stream cannot be read to its end, flushes the stream below and returns it.
    ///
    /// # Errors
    ///
    /// If the stream below fails.
    pub(crate) fn finish(self) -> Result<W, ArchiveError> {
        let mut write = self.0.finish()?;
        write.flush()?;
        Ok(write)
    }
}

impl<W: Write> Write for EncryptedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<R: Read> MaybeEncrypted<R> {
    /// Decrypts the stream if it is encrypted.
    ///
    /// # Errors
    ///
    /// If it is encrypted and no identity is given, or none that fits; if the head of the encryption is damaged, or the
    /// stream fails.
    pub(crate) fn open(mut read: R, identities: Option<&Identities>) -> Result<Self, ArchiveError> {
        let mut head = Vec::new();
        read.by_ref()
            .take(AGE_MAGIC.len() as u64)
            .read_to_end(&mut head)?;
        let is_encrypted = head == AGE_MAGIC;
        let read = Cursor::new(head).chain(read);
        if !is_encrypted {
            return Ok(Self::Plain(read));
        }
        let identities = identities.ok_or(ArchiveError::Encrypted)?;
        let identities = identities.0.iter().map(|key| key as &dyn Identity);
        let decrypted = Decryptor::new(read).and_then(|decryptor| decryptor.decrypt(identities));
        Ok(Self::Decrypted(Box::new(decrypted.map_err(refusal)?)))
    }

    /// True if the stream is encrypted.
    #[cfg(test)]
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Decrypted(_))
    }
}

impl<R: Read> Read for MaybeEncrypted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(read) => read.read(buffer),
            Self::Decrypted(read) => read.read(buffer),
        }
    }
}

/// Reads keys, one a line. The text of a line is not repeated: it may be a secret.
fn keys<K: std::str::FromStr>(text: &str, what: &str) -> Result<Vec<K>, ArchiveError> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<K> = lines
        .map(|(number, line)| {
            let refused = |_| ArchiveError::Keys(format!("line {number} is not {what}"));
            line.parse().map_err(refused)
        })
        .collect::<Result<_, _>>()?;
    match keys.is_empty() {
        true => Err(ArchiveError::Keys(format!(
            "the file has no line with {what}"
        ))),
        false => Ok(keys),
    }
}

/// Why a stream cannot be decrypted.
fn refusal(error: DecryptError) -> ArchiveError {
    match error {
        DecryptError::Io(error) => ArchiveError::Io(error),
        DecryptError::NoMatchingKeys => ArchiveError::Keys(
            "the archive is encrypted for other keys than those in the identity file".into(),
        ),
        other => ArchiveError::Keys(format!("the archive cannot be decrypted: {other}")),
    }
}
