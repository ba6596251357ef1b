//! [`Drain`]: the keys of one node on their way into frames of the archive.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::BackupEvent;
use super::cut::stopped;
use super::queue::{FrameQueue, NotTaken};
use super::scan::Piece;
use super::stream::SyncStream;
use crate::archive::{ArchiveError, Frame, FrameBuilder, NodeTotals};
use crate::error::{Error, ErrorKind};
use crate::rdb::{KeyInfo, RdbError, RdbItem, RdbReader, RdbVersion};
use crate::topology::record::{RECORD_DB, RECORD_PREFIX};

/// How often the progress of a node is reported.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// What the threads of all nodes share.
pub(super) struct Drains<'d> {
    pub(super) queue: FrameQueue<Frame>,
    /// Libraries of functions that are in the archive already: all nodes have the same as a rule.
    pub(super) functions: Mutex<HashSet<u128>>,
    /// For how long the archive may take nothing.
    pub(super) stall: Duration,
    pub(super) stop: &'d AtomicBool,
    pub(super) on_event: &'d (dyn Fn(BackupEvent) + Sync),
    pub(super) remarks: Mutex<Vec<String>>,
    /// The first error.
    pub(super) failure: Mutex<Option<Error>>,
}

/// Makes frames of the keys of one node.
pub(super) struct Drain<'d> {
    pub(super) shared: &'d Drains<'d>,
    pub(super) index: usize,
    pub(super) node: &'d str,
    pub(super) builder: FrameBuilder,
    /// The time of the cut, in milliseconds since 1970. Keys that had expired are left out.
    pub(super) time: i64,
    keys: u64,
    reported: Instant,
}

/// What was taken of a node.
pub(super) struct Drained {
    pub(super) totals: NodeTotals,
    pub(super) bytes: u64,
}

impl<'d> Drains<'d> {
    /// The threads of this number of nodes.
    pub(super) fn new(
        nodes: usize,
        stall: Duration,
        stop: &'d AtomicBool,
        on_event: &'d (dyn Fn(BackupEvent) + Sync),
    ) -> Self {
        Self {
            queue: FrameQueue::new(nodes),
            functions: Mutex::default(),
            stall,
            stop,
            on_event,
            remarks: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// Notes an error, and has all threads end. What fails because of that is no cause.
    pub(super) fn fail(&self, error: Error) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            // The user has stopped it: what has failed because of that is no cause.
            let is_stopped = self.stop.load(Ordering::Relaxed);
            *failure = Some(if is_stopped { stopped() } else { error });
        }
        self.stop.store(true, Ordering::Relaxed);
        self.queue.close();
    }

    /// Notes what a reader of the archive should know, once.
    fn note(&self, text: String) {
        let mut notes = self.remarks.lock();
        if !notes.contains(&text) {
            notes.push(text);
        }
    }
}

impl<'d> Drain<'d> {
    pub(super) fn new(
        shared: &'d Drains<'d>,
        index: usize,
        node: &'d str,
        builder: FrameBuilder,
        time: i64,
    ) -> Self {
        Self {
            shared,
            index,
            node,
            builder,
            time,
            keys: 0,
            reported: Instant::now(),
        }
    }

    /// Reads the data that a server sends, to its end. Nothing of it counts unless all of it was whole.
    ///
    /// # Errors
    ///
    /// If the data is not whole, has something that is not known, or the archive takes it no more.
    pub(super) fn stream(mut self, stream: &mut SyncStream) -> Result<Drained, Error> {
        let mut reader =
            RdbReader::allowing_newer(&mut *stream).map_err(|error| self.damaged(&error))?;
        let version = reader.version();
        while let Some(item) = reader.next().map_err(|error| self.damaged(&error))? {
            match item {
                RdbItem::Function(source) => self.function(&source, version)?,
                RdbItem::ModuleAux { module } => self.shared.note(format!(
                    "what the module {module:?} keeps beside keys cannot be restored by commands, and is left out"
                )),
                RdbItem::Key(info) => {
                    if !self.is_taken(&info) {
                        continue;
                    }
                    self.begin(&info, version)?;
                    let mut failed = None;
                    let read = reader.value(&mut |piece| {
                        self.piece(piece).map_err(|error| {
                            let text = error.to_string();
                            failed = Some(error);
                            io::Error::other(text)
                        })
                    });
                    match (failed, read) {
                        (Some(error), _) => return Err(error),
                        (None, read) => read.map_err(|error| self.damaged(&error))?,
                    };
                    self.end(reader.offset())?;
                }
                RdbItem::Aux { .. }
                | RdbItem::Database(_)
                | RdbItem::Sizes { .. }
                | RdbItem::Slot { .. }
                | RdbItem::SlotImport { .. } => {}
            }
        }
        let bytes = reader.offset();
        drop(reader);
        stream.finish().map_err(|error| self.broken(&error))?;
        self.finish(bytes)
    }

    /// Takes what was read one by one.
    ///
    /// # Errors
    ///
    /// If the archive takes it no more.
    pub(super) fn take(&mut self, piece: Piece, bytes: &mut u64) -> Result<(), Error> {
        match piece {
            Piece::Note(text) => self.shared.note(text),
            Piece::Function(source, version) => self.function(&source, version)?,
            Piece::Key(info, version, value) => {
                *bytes += (info.key.len() + value.len()) as u64;
                if self.is_taken(&info) {
                    self.begin(&info, version)?;
                    self.piece(&value)?;
                    self.end(*bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the work of a node when the backup has failed elsewhere.
    pub(super) fn check_stop(&self) -> Result<(), Error> {
        match self.shared.stop.load(Ordering::Relaxed) {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    /// Ends the frames of the node.
    pub(super) fn finish(mut self, bytes: u64) -> Result<Drained, Error> {
        let totals = self.builder.finish().map_err(failed)?;
        self.push()?;
        (self.shared.on_event)(BackupEvent::Read {
            node: self.node.to_owned(),
            keys: self.keys,
            bytes,
        });
        (self.shared.on_event)(BackupEvent::NodeDone {
            node: self.node.to_owned(),
        });
        Ok(Drained { totals, bytes })
    }

    /// False for the record of the fleet, which belongs to the nodes and not to the data, and for what had expired.
    fn is_taken(&mut self, info: &KeyInfo) -> bool {
        if i64::from(info.db) == RECORD_DB && info.key.starts_with(RECORD_PREFIX.as_bytes()) {
            return false;
        }
        let has_expired = info.expires_at.is_some_and(|at| at < self.time);
        if has_expired {
            self.builder.expired();
        }
        !has_expired
    }

    fn function(&mut self, source: &[u8], version: RdbVersion) -> Result<(), Error> {
        if self.shared.functions.lock().insert(xxh3_128(source)) {
            self.builder.function(source, version).map_err(failed)?;
        }
        self.push()
    }

    fn begin(&mut self, info: &KeyInfo, version: RdbVersion) -> Result<(), Error> {
        self.builder
            .begin(info, version)
            .map_err(|error| failed(error).about_keys([info.key.as_slice()]))
    }

    /// A piece of the value. Frames leave as soon as they are full, so that a large value needs no memory.
    fn piece(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.builder.value(piece).map_err(failed)?;
        self.push()
    }

    fn end(&mut self, bytes: u64) -> Result<(), Error> {
        self.builder.end().map_err(failed)?;
        self.keys += 1;
        self.push()?;
        // The clock costs more than a small key.
        if self.keys.is_multiple_of(256) && self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            (self.shared.on_event)(BackupEvent::Read {
                node: self.node.to_owned(),
                keys: self.keys,
                bytes,
            });
        }
        Ok(())
    }

    /// Sends the frames that are full to the archive.
    fn push(&mut self) -> Result<(), Error> {
        let shared = self.shared;
        for frame in self.builder.frames() {
            match shared.queue.push(self.index, frame, shared.stall) {
                Ok(()) => {}
                Err(NotTaken::Closed) => return Err(stopped()),
                Err(NotTaken::Stalled) => {
                    let limit = shared.stall;
                    (shared.on_event)(BackupEvent::Stalled { limit });
                    return Err(stalled(limit));
                }
            }
        }
        Ok(())
    }

    fn damaged(&self, error: &RdbError) -> Error {
        let kind = match error {
            RdbError::Read { .. } | RdbError::Truncated { .. } => ErrorKind::NodeDown,
            _ => ErrorKind::Archive,
        };
        let node = self.node;
        let text =
            format!("the data of node {node:?} is not whole: {error}; take the backup again");
        Error::new(kind, text).at_node(node)
    }

    fn broken(&self, error: &io::Error) -> Error {
        let node = self.node;
        let text =
            format!("the data of node {node:?} is not whole: {error}; take the backup again");
        Error::new(ErrorKind::NodeDown, text).at_node(node)
    }
}

/// The error of an archive that cannot be written.
pub(super) fn failed(error: ArchiveError) -> Error {
    Error::new(ErrorKind::Archive, error.to_string())
}

fn stalled(limit: Duration) -> Error {
    let text = format!(
        "the archive has taken nothing for {limit:?}, half of the time after which servers drop a reader that stalls \
         (repl-timeout); write it to where it is taken faster"
    );
    Error::new(ErrorKind::Archive, text)
}
