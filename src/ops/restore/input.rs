//! [`RestoreInput`]: where keys are read from.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::archive_items::ArchiveItems;
use super::rdb_items::RdbItems;
use crate::error::{Error, ErrorKind};
use crate::rdb::{KeyInfo, RdbVersion};

/// Bytes at the beginning of a file by which it is recognized.
const HEAD_BYTES: u64 = 1 << 16;

/// What keys are read from: an archive, or RDB files of servers.
pub struct RestoreInput {
    pub(super) source: Source,
    /// The keys of an encrypted archive.
    pub(super) identity: Option<PathBuf>,
}

/// Where the bytes are.
pub(super) enum Source {
    ArchiveFile(PathBuf),
    /// Taken when it is read.
    ArchiveStream(Option<Box<dyn Read + Send>>),
    RdbFiles(Vec<PathBuf>),
}

/// What an input holds.
#[derive(Debug)]
pub(super) enum Item {
    /// A key with its value.
    Key(InputKey),
    /// The source text of a library of functions.
    Function(Vec<u8>),
    /// A part that is damaged, if that is accepted.
    Lost(String),
    /// What the operator should know.
    Remark(String),
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct InputKey {
    pub(super) info: KeyInfo,
    pub(super) version: RdbVersion,
    pub(super) value: Vec<u8>,
}

/// What an input holds, one after another.
pub(super) trait Items {
    /// The next item; `None` at the end.
    fn next(&mut self) -> Result<Option<Item>, Error>;
}

/// What an input holds, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InputSummary {
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) functions: u64,
    pub(super) lost: Vec<String>,
}

impl RestoreInput {
    /// An archive in a file. It is checked as a whole before anything is restored.
    pub fn archive(file: impl AsRef<Path>) -> Self {
        Self::of(Source::ArchiveFile(file.as_ref().to_owned()))
    }

    /// An archive from a stream, such as a pipe. What is damaged is seen when it is reached: keys before it are restored
    /// by then.
    pub fn archive_stream(read: impl Read + Send + 'static) -> Self {
        Self::of(Source::ArchiveStream(Some(Box::new(read))))
    }

    /// RDB files of servers. They are checked as a whole before anything is restored.
    pub fn rdb(files: impl IntoIterator<Item = impl AsRef<Path>>) -> Self {
        let files = files.into_iter().map(|file| file.as_ref().to_owned());
        Self::of(Source::RdbFiles(files.collect()))
    }

    /// An archive, or an RDB file, whichever the file is.
    ///
    /// # Errors
    ///
    /// [`Archive`](ErrorKind::Archive) if the file cannot be read.
    pub fn detect(file: impl AsRef<Path>) -> Result<Self, Error> {
        let file = file.as_ref();
        let mut head = Vec::new();
        let opened = File::open(file);
        opened
            .and_then(|opened| opened.take(6).read_to_end(&mut head))
            .map_err(|error| unreadable(file, &error))?;
        match head.starts_with(b"REDIS") || head.starts_with(b"VALKEY") {
            true => Ok(Self::rdb([file])),
            false => Ok(Self::archive(file)),
        }
    }

    /// Sets the file with the keys of an encrypted archive, as `age-keygen` writes it.
    #[must_use]
    #[cfg(feature = "backup-encryption")]
    pub fn with_identity(mut self, file: impl AsRef<Path>) -> Self {
        self.identity = Some(file.as_ref().to_owned());
        self
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            identity: None,
        }
    }

    /// Counts what a file holds, and looks for damage. `None` for a stream, which can be read only once.
    ///
    /// # Errors
    ///
    /// If it cannot be read at all.
    pub(super) fn summary(&self) -> Result<Option<InputSummary>, Error> {
        match &self.source {
            Source::ArchiveFile(file) => {
                super::archive_items::summary(file, self.identity.as_deref()).map(Some)
            }
            Source::ArchiveStream(_) => Ok(None),
            Source::RdbFiles(files) => super::rdb_items::summary(files).map(Some),
        }
    }

    /// What distinguishes this input from others, with these options.
    ///
    /// # Errors
    ///
    /// For a stream, of which a second run could not read the beginning; and if a file cannot be read.
    pub(super) fn fingerprint(&self, options: &str) -> Result<u64, Error> {
        let files = match &self.source {
            Source::ArchiveFile(file) => std::slice::from_ref(file),
            Source::RdbFiles(files) => &files[..],
            Source::ArchiveStream(_) => {
                return Err(Error::config(
                    "a restore from a stream cannot be gone on with; use a file, or leave out --progress",
                ));
            }
        };
        let mut hash = Xxh3::new();
        hash.update(options.as_bytes());
        for file in files {
            let mut head = Vec::new();
            let length = File::open(file).and_then(|opened| {
                let length = opened.metadata()?.len();
                opened.take(HEAD_BYTES).read_to_end(&mut head)?;
                Ok(length)
            });
            let length = length.map_err(|error| unreadable(file, &error))?;
            hash.update(&length.to_le_bytes());
            hash.update(&head);
        }
        Ok(hash.digest())
    }

    /// Begins to read. If `takes_damaged`, damage is an item, and an error otherwise.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn items(&mut self, takes_damaged: bool) -> Result<Box<dyn Items>, Error> {
        let identity = self.identity.as_deref();
        match &mut self.source {
            Source::ArchiveFile(file) => {
                let read = File::open(&*file).map_err(|error| unreadable(file, &error))?;
                let name = file.display().to_string();
                Ok(Box::new(ArchiveItems::new(
                    Box::new(read),
                    name,
                    identity,
                    takes_damaged,
                )?))
            }
            Source::ArchiveStream(read) => {
                let read = read
                    .take()
                    .ok_or_else(|| Error::config("a stream can be read only once"))?;
                let name = "the archive".to_owned();
                Ok(Box::new(ArchiveItems::new(
                    read,
                    name,
                    identity,
                    takes_damaged,
                )?))
            }
            Source::RdbFiles(files) => Ok(Box::new(RdbItems::new(files.clone(), takes_damaged))),
        }
    }
}

impl fmt::Debug for RestoreInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::ArchiveFile(file) => f.debug_tuple("ArchiveFile").field(file).finish(),
            Source::ArchiveStream(_) => f.write_str("ArchiveStream"),
            Source::RdbFiles(files) => f.debug_tuple("RdbFiles").field(files).finish(),
        }
    }
}

/// The error for a file that cannot be read.
pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Archive, format!("{}: {error}", file.display()))
}
