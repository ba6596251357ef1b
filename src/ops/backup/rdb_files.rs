//! A file for each node, as its server has sent it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;

use super::BackupEvent;
use super::report::{BackupReport, CutKind};
use super::session::{Data, Session};
use super::stream::SyncStream;
use crate::error::{Error, ErrorKind};
use crate::rdb::{RdbItem, RdbReader};

/// What the name of a file that is not whole ends with.
const PARTIAL: &str = ".partial";

/// How many keys are read between two reports.
const REPORT_KEYS: u64 = 10_000;

/// What is counted in a file.
struct Counted {
    keys: u64,
    functions: u64,
    bytes: u64,
}

impl Session<'_> {
    /// Takes the cut, and writes the files.
    ///
    /// # Errors
    ///
    /// Why there is none, or not all files are whole.
    pub(super) fn rdb_files(mut self, folder: &Path) -> Result<BackupReport, Error> {
        let names: Vec<&str> = self.nodes.iter().map(|node| &*node.name).collect();
        let files: Vec<PathBuf> = file_names(&names)
            .iter()
            .map(|name| folder.join(name))
            .collect();
        fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        if let Some(file) = files.iter().find(|file| file.exists()) {
            let text = format!("{} exists; name another folder", file.display());
            return Err(Error::new(ErrorKind::Archive, text));
        }
        let may_disk = self.nodes.iter().all(|node| node.abilities.may_configure);
        let kind = match self.options.cut {
            None if !may_disk => CutKind::Disk,
            None => CutKind::Stream,
            Some(kind) if kind.is_stream() => kind,
            Some(kind) => {
                let text = format!("keys that are read by {kind} make no RDB files; leave it out");
                return Err(Error::config(text));
            }
        };
        let taken = self.cut(Some(kind))?;
        let mut report = self.report(&taken);
        let Data::Streams(cut) = taken.data else {
            return Err(Error::config("the servers send no streams"));
        };
        let nodes = self.nodes.iter().map(|node| node.name.clone());
        let streams = cut.streams.into_iter().map(|node| node.stream);
        let parts = nodes.zip(streams).zip(&files);
        let write = &|node: String, stream: SyncStream, file: &Path| {
            let written = self.file(&node, stream, file);
            if written.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            written
        };
        // All at once: a server drops those that do not read.
        let counted = thread::scope(|scope| {
            let threads: Vec<_> = parts
                .map(|((node, stream), file)| scope.spawn(move || write(node, stream, file)))
                .collect();
            let panicked = |_| {
                Err(Error::new(
                    ErrorKind::Archive,
                    "a thread of the backup has failed",
                ))
            };
            let threads = threads.into_iter();
            threads
                .map(|thread| thread.join().unwrap_or_else(panicked))
                .collect()
        });
        let counted = match first_cause(counted) {
            Ok(counted) => counted,
            Err(error) => {
                // What is not whole is of no use.
                files
                    .iter()
                    .for_each(|file| drop(fs::remove_file(partial(file))));
                return Err(error);
            }
        };
        for (file, (node, counted)) in files.iter().zip(report.nodes.iter_mut().zip(counted)) {
            fs::rename(partial(file), file).map_err(|error| failed(file, &error))?;
            (node.keys, node.bytes) = (counted.keys, counted.bytes);
            report.functions = report.functions.max(counted.functions);
        }
        Ok(report)
    }

    /// Writes the file of a node, and reads it meanwhile: only what is whole is kept.
    fn file(&self, node: &str, mut stream: SyncStream, path: &Path) -> Result<Counted, Error> {
        let file = File::create(partial(path)).map_err(|error| failed(path, &error))?;
        let mut tee = Tee {
            from: &mut stream,
            to: BufWriter::with_capacity(1 << 20, file),
            failure: None,
        };
        let counted = self.items(node, &mut tee);
        if let Some(error) = tee.failure.take() {
            return Err(failed(path, &error));
        }
        let counted = counted?;
        let file = tee.to.into_inner();
        let synced = file.map_err(io::IntoInnerError::into_error);
        let synced = synced.and_then(|file| file.sync_all());
        synced.map_err(|error| failed(path, &error))?;
        let finished = stream.finish();
        finished.map_err(|error| not_whole(node, &error))?;
        let (keys, bytes) = (counted.keys, counted.bytes);
        (self.on_event)(BackupEvent::Read {
            node: node.to_owned(),
            keys,
            bytes,
        });
        (self.on_event)(BackupEvent::NodeDone {
            node: node.to_owned(),
        });
        Ok(counted)
    }

    fn items(&self, node: &str, read: impl Read) -> Result<Counted, Error> {
        let mut counted = Counted {
            keys: 0,
            functions: 0,
            bytes: 0,
        };
        let mut reader =
            RdbReader::allowing_newer(read).map_err(|error| not_whole(node, &error))?;
        while let Some(item) = reader.next().map_err(|error| not_whole(node, &error))? {
            match item {
                RdbItem::Key(_) => counted.keys += 1,
                RdbItem::Function(_) => counted.functions += 1,
                _ => continue,
            }
            if counted.keys.is_multiple_of(REPORT_KEYS) {
                (self.on_event)(BackupEvent::Read {
                    node: node.to_owned(),
                    keys: counted.keys,
                    bytes: reader.offset(),
                });
            }
        }
        counted.bytes = reader.offset();
        Ok(counted)
    }
}

/// Writes what is read.
struct Tee<'s, W: Write> {
    from: &'s mut SyncStream,
    to: W,
    /// Why it could not be written.
    failure: Option<io::Error>,
}

impl<W: Write> Read for Tee<'_, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        let read = into.get(..count).unwrap_or_default();
        match self.to.write_all(read) {
            Ok(()) => Ok(count),
            Err(error) => {
                let text = error.to_string();
                self.failure = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}

/// The first error that is no consequence of another one.
fn first_cause(results: Vec<Result<Counted, Error>>) -> Result<Vec<Counted>, Error> {
    let is_consequence = |error: &Error| error.to_string().contains(super::stream::STOPPED);
    let mut causes = results.iter().filter_map(|result| result.as_ref().err());
    if let Some(cause) = causes.find(|error| !is_consequence(error)) {
        return Err(cause.clone());
    }
    results.into_iter().collect()
}

/// A name for each file that every file system has.
fn file_names(nodes: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let plain = node.chars().map(|c| if is_plain(&c) { c } else { '_' });
        let plain: String = plain.take(100).collect();
        let name = format!("{plain}.rdb");
        let is_free = !plain.starts_with('.') && !names.contains(&name);
        names.push(match is_free {
            true => name,
            false => format!("node-{index}{plain}.rdb"),
        });
    }
    names
}

fn partial(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

fn failed(file: &Path, error: &io::Error) -> Error {
    let text = format!("{} cannot be written: {error}", file.display());
    Error::new(ErrorKind::Archive, text).with_io(Some(error.kind()))
}

fn not_whole(node: &str, error: &dyn std::fmt::Display) -> Error {
    let text = format!("the data of node {node:?} is not whole: {error}; take the backup again");
    Error::new(ErrorKind::NodeDown, text).at_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_plain_and_differ() {
        let names = file_names(&["a", "10.0.0.1:6379", "10.0.0.1_6379", "..", "ä/b"]);
        let expected = [
            "a.rdb",
            "10.0.0.1_6379.rdb",
            "node-210.0.0.1_6379.rdb",
            "node-3...rdb",
            "__b.rdb",
        ];
        assert_eq!(names, expected);
    }
}
