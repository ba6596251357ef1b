//! [`ArchiveItems`]: the keys of an archive.

use std::io::Read;
use std::path::Path;

use super::input::{InputSummary, Item, Items};
use super::inspect::Inspection;
use crate::error::{Error, ErrorKind};

/// The keys of an archive.
pub(super) struct ArchiveItems;

impl ArchiveItems {
    /// Those of an archive.
    pub(super) fn new(
        _read: Box<dyn Read + Send>,
        _name: String,
        _identity: Option<&Path>,
        _takes_damaged: bool,
    ) -> Result<Self, Error> {
        Err(Error::new(ErrorKind::Archive, "archives cannot be read yet"))
    }
}

impl Items for ArchiveItems {
    fn next(&mut self) -> Result<Option<Item>, Error> {
        Ok(None)
    }
}

/// Counts.
pub(super) fn summary(_file: &Path, _identity: Option<&Path>) -> Result<InputSummary, Error> {
    Ok(InputSummary::default())
}

/// Inspects.
pub(super) fn inspect(
    _read: Box<dyn Read + Send>,
    _name: &str,
    _identity: Option<&Path>,
) -> Result<Inspection, Error> {
    Err(Error::new(ErrorKind::Archive, "archives cannot be read yet"))
}
