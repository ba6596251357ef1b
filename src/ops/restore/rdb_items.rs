//! [`RdbItems`]: the keys of RDB files.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::input::{InputKey, InputSummary, Item, Items, unreadable};
use crate::error::{Error, ErrorKind};
use crate::rdb::{RdbError, RdbItem, RdbReader};

/// The keys of files, one file after another.
pub(super) struct RdbItems {
    files: VecDeque<PathBuf>,
    current: Option<(PathBuf, RdbReader<File>)>,
    takes_damaged: bool,
}

impl RdbItems {
    /// Those of these files.
    pub(super) fn new(files: Vec<PathBuf>, takes_damaged: bool) -> Self {
        Self {
            files: files.into(),
            current: None,
            takes_damaged,
        }
    }

    /// What is lost if the current file cannot be read on.
    fn damaged(&mut self, error: &RdbError) -> Result<Option<Item>, Error> {
        let file = self.current.take().map(|(file, _)| file);
        let text = damage(&file.unwrap_or_default(), error);
        match self.takes_damaged {
            true => Ok(Some(Item::Lost(text))),
            false => Err(Error::new(ErrorKind::Archive, text)),
        }
    }
}

impl Items for RdbItems {
    fn next(&mut self) -> Result<Option<Item>, Error> {
        loop {
            let Some((file, reader)) = &mut self.current else {
                let Some(file) = self.files.pop_front() else {
                    return Ok(None);
                };
                let opened = File::open(&file).map_err(|error| unreadable(&file, &error))?;
                match RdbReader::new(opened) {
                    Ok(reader) => self.current = Some((file, reader)),
                    Err(error) => {
                        return Err(Error::new(ErrorKind::Archive, damage(&file, &error)));
                    }
                }
                continue;
            };
            match reader.next() {
                Ok(Some(RdbItem::Key(info))) => {
                    let version = reader.version();
                    let mut value = Vec::new();
                    let read = reader.value(&mut |piece| {
                        value.extend_from_slice(piece);
                        Ok(())
                    });
                    return match read {
                        Ok(_) => Ok(Some(Item::Key(InputKey {
                            info,
                            version,
                            value,
                        }))),
                        Err(error) => self.damaged(&error),
                    };
                }
                Ok(Some(RdbItem::Function(source))) => return Ok(Some(Item::Function(source))),
                Ok(Some(RdbItem::ModuleAux { module })) => {
                    let text = format!(
                        "{} has data of the module {module} beside its keys, which no command restores",
                        file.display()
                    );
                    return Ok(Some(Item::Remark(text)));
                }
                Ok(Some(_)) => {}
                Ok(None) => self.current = None,
                Err(error) => return self.damaged(&error),
            }
        }
    }
}

/// Counts the keys of files, and looks for damage.
///
/// # Errors
///
/// If a file cannot be opened, or is no RDB.
pub(super) fn summary(files: &[PathBuf]) -> Result<InputSummary, Error> {
    let mut summary = InputSummary::default();
    for file in files {
        let opened = File::open(file).map_err(|error| unreadable(file, &error))?;
        let reader = RdbReader::new(opened);
        let reader =
            reader.map_err(|error| Error::new(ErrorKind::Archive, damage(file, &error)))?;
        if let Err(error) = count(reader, &mut summary) {
            summary.lost.push(damage(file, &error));
        }
    }
    Ok(summary)
}

fn count(mut reader: RdbReader<File>, summary: &mut InputSummary) -> Result<(), RdbError> {
    while let Some(item) = reader.next()? {
        match item {
            RdbItem::Key(_) => {
                summary.bytes += reader.skip_value()?;
                summary.keys += 1;
            }
            RdbItem::Function(_) => summary.functions += 1,
            _ => {}
        }
    }
    Ok(())
}

fn damage(file: &Path, error: &RdbError) -> String {
    format!("{}: {error}", file.display())
}
