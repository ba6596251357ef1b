//! [`ProgressFile`]: how far a restore has come, so that another run goes on from there.
//!
//! ```text
//! redis-sharding restore 1
//! input 8c1f6d0a51f7c2e4             of the input and the options
//! acknowledged 120000                keys below are dealt with
//! sent 131072                        keys from here on were not sent
//! begun 120003                       keys that are made element by element
//! server a 1f0c4ea7b1f24d6d8b5e      the processes that have acknowledged
//! ```
//!
//! Before a key is sent, the file says so: whatever stops the program, the next run knows which keys it may have sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// The first line.
const HEAD: &str = "redis-sharding restore 1";

/// How many keys may be sent before the file is written again.
const AHEAD: u64 = 1 << 16;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Of the input and the options.
    pub(super) input: u64,
    /// Keys below are dealt with.
    pub(super) acknowledged: u64,
    /// Keys from here on were not sent.
    pub(super) sent: u64,
    /// Keys that are made element by element.
    pub(super) begun: BTreeSet<u64>,
    /// The `run_id` of each node.
    pub(super) servers: BTreeMap<String, String>,
}

/// The file of a run.
#[derive(Debug)]
pub(super) struct ProgressFile {
    path: PathBuf,
    progress: Progress,
}

impl Progress {
    fn to_text(&self) -> String {
        let begun = self.begun.iter().map(|key| format!("begun {key}\n"));
        let begun: String = begun.collect();
        let servers = self.servers.iter();
        let servers: String = servers
            .map(|(node, run_id)| format!("server {run_id} {node}\n"))
            .collect();
        format!(
            "{HEAD}\ninput {:016x}\nacknowledged {}\nsent {}\n{begun}{servers}end\n",
            self.input, self.acknowledged, self.sent
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next()? == HEAD).then_some(())?;
        let mut progress = Self::default();
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "input" => progress.input = u64::from_str_radix(rest, 16).ok()?,
                "acknowledged" => progress.acknowledged = rest.parse().ok()?,
                "sent" => progress.sent = rest.parse().ok()?,
                "begun" => {
                    progress.begun.insert(rest.parse().ok()?);
                }
                "server" => {
                    let (run_id, node) = rest.split_once(' ')?;
                    progress.servers.insert(node.to_owned(), run_id.to_owned());
                }
                "end" => return Some(progress),
                _ => return None,
            }
        }
        None
    }
}

impl ProgressFile {
    /// Reads the file if it is there, and begins a new one otherwise.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if it is of another input, and [`Archive`](ErrorKind::Archive) if it cannot be read.
    pub(super) fn open(path: &Path, input: u64) -> Result<Self, Error> {
        let progress = match fs::read_to_string(path) {
            Ok(text) => Progress::parse(&text).ok_or_else(|| {
                Error::config(format!(
                    "{} is no file with the progress of a restore",
                    path.display()
                ))
            })?,
            Err(error) if error.kind() == IoKind::NotFound => Progress {
                input,
                ..Progress::default()
            },
            Err(error) => return Err(failed(path, &error)),
        };
        if progress.input != input {
            return Err(Error::config(format!(
                "{} is the progress of a restore of another input, or with other options; go on with those, or remove \
                 the file and begin again with --replace",
                path.display()
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            progress,
        })
    }

    /// What the file says.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Sets the processes that acknowledge from now on.
    pub(super) fn set_servers(&mut self, servers: BTreeMap<String, String>) {
        self.progress.servers = servers;
    }

    /// Says that keys below `done` are dealt with, and that the key of this number may be sent.
    ///
    /// # Errors
    ///
    /// [`Archive`](ErrorKind::Archive) if the file cannot be written.
    pub(super) fn may_send(&mut self, number: u64, done: u64) -> Result<(), Error> {
        if number < self.progress.sent {
            return Ok(());
        }
        self.progress.sent = number + AHEAD;
        self.write(done)
    }

    /// Says that a key is made element by element from now on. It stays in the file until all keys below are dealt with,
    /// so that a next run knows who has made it.
    ///
    /// # Errors
    ///
    /// [`Archive`](ErrorKind::Archive) if the file cannot be written.
    pub(super) fn begin(&mut self, number: u64) -> Result<(), Error> {
        self.progress.begun.insert(number);
        self.write(self.progress.acknowledged)
    }

    /// Writes the file, beside the old one first, so that one of both is whole.
    ///
    /// # Errors
    ///
    /// [`Archive`](ErrorKind::Archive) if it cannot be written.
    pub(super) fn write(&mut self, done: u64) -> Result<(), Error> {
        // Threads may come here in another order than they have counted in.
        let done = self.progress.acknowledged.max(done);
        self.progress.acknowledged = done;
        self.progress.begun.retain(|number| *number >= done);
        let written = self.path.with_extension("new");
        let write = || {
            let mut file = File::create(&written)?;
            file.write_all(self.progress.to_text().as_bytes())?;
            file.sync_data()?;
            fs::rename(&written, &self.path)
        };
        write().map_err(|error| failed(&self.path, &error))
    }

    /// Removes the file at the end.
    pub(super) fn remove(self) {
        // A file that stays is refused or of no effect: all of its keys are acknowledged.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Archive, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_it_was_written() {
        let progress = Progress {
            input: 77,
            acknowledged: 12,
            sent: 40,
            begun: [13, 20].into(),
            servers: [("node a".to_owned(), "f00".to_owned())].into(),
        };
        let text = progress.to_text();
        assert_eq!(Progress::parse(&text), Some(progress));
        assert_eq!(Progress::parse(text.trim_end_matches("end\n")), None);
        assert_eq!(Progress::parse("other 1\nend\n"), None);
    }

    #[test]
    fn progress_file_says_that_keys_are_sent_before_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("restore.progress");
        let mut file = ProgressFile::open(&path, 5).unwrap();
        file.may_send(0, 0).unwrap();
        file.may_send(1, 0).unwrap();
        file.begin(1).unwrap();
        let again = ProgressFile::open(&path, 5).unwrap();
        assert_eq!(again.progress().sent, AHEAD);
        assert_eq!(again.progress().begun, BTreeSet::from([1]));
        let other = ProgressFile::open(&path, 6).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Config);
        file.write(2).unwrap();
        let last = ProgressFile::open(&path, 5).unwrap();
        assert!(last.progress().begun.is_empty());
        last.remove();
        assert!(!path.exists());
    }
}
