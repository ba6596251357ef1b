//! Why an archive cannot be written or read.

use std::io;

/// Why an archive cannot be written or read. No text here holds a value or a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// The stream below failed.
    #[error("the archive cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The first bytes are not those of an archive.
    #[error("this is no archive of redis-sharding: its first bytes are others")]
    NotAnArchive,
    /// The first bytes are those of an archive after a transfer that changes the ends of lines.
    #[error(
        "the archive was changed by a transfer as text, which alters line ends or the eighth bit: transfer it again as binary"
    )]
    TextMode,
    /// The stream is encrypted with age.
    #[error(
        "the archive is encrypted: name the file with the identity (AGE-SECRET-KEY-1...) that it was encrypted for"
    )]
    Encrypted,
    /// A later version of the format.
    #[error(
        "the archive has version {0} of the format, and this program reads version 1: use a newer redis-sharding"
    )]
    Version(u16),
    /// Something that only a later version of the program understands.
    #[error(
        "at byte {offset} the archive has {what}, which this version does not know: use a newer redis-sharding"
    )]
    TooNew {
        /// Where it stands.
        offset: u64,
        /// What it is.
        what: String,
    },
    /// The stream ends before the end mark.
    #[error(
        "the archive ends at byte {offset} without its end mark: it was cut, or its writer did not finish; a reader that recovers \
         gets what is before"
    )]
    CutShort {
        /// The number of bytes that are there.
        offset: u64,
    },
    /// Bytes differ from those that were written.
    #[error(
        "the archive is damaged at byte {offset}: {what}; a reader that recovers gets the rest"
    )]
    Damaged {
        /// Where the frame or the damage begins.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// The text of a manifest or of totals.
    #[error("line {line} of the {text}: {cause}")]
    Text {
        /// Which text.
        text: &'static str,
        /// The number of the line, from one.
        line: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// A limit of the format.
    #[error("{0}")]
    Limit(String),
    /// A program used a writer in the wrong order.
    #[error("archive writer: {0}")]
    Usage(&'static str),
    /// The keys of an encrypted archive.
    #[error("{0}")]
    #[cfg(feature = "backup-encryption")]
    Keys(String),
}

impl ArchiveError {
    /// Damage at an offset.
    pub(super) fn damaged(offset: u64, what: impl Into<String>) -> Self {
        let what = what.into();
        Self::Damaged { offset, what }
    }
}
