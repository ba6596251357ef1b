//! One archive of all nodes of a fleet, and back to any number of nodes.
//!
//! [`Backup`] takes it. `decide` says without any connection whether what was seen is one moment of all nodes, and what to do
//! if it is not; `facts` reads what servers say of themselves, and `options`, `event` and `report` are what a user sees. These
//! carry it out:
//!
//! * `fleet`: the nodes, and whether keys move between them; `node`: one node with its connections and settings.
//! * `cut`: the pause of writes, and the moment of all nodes; `stream`: what a server sends from then on.
//! * `scan`: keys one by one, where servers send no streams.
//! * `drain`: the keys of a node on their way into frames; `queue`: their way to the thread that writes.
//! * `session`: a backup from the first connection to the cut; `archiving`, `rdb_files`: what is written then; `output`: where to.
//!
//! Memory: for each node a frame that is being made, and four that wait, of about 1 MiB each; a buffer of 128 KiB; and the
//! longest key. Where keys are read one by one, also 32 values, and about 40 bytes for each key; under a pause, all data of
//! the nodes, which is at most what can be read in half of its limit.

mod archiving;
mod cut;
mod decide;
mod drain;
mod event;
mod facts;
mod fleet;
mod node;
mod options;
mod output;
mod queue;
mod rdb_files;
mod report;
mod scan;
mod session;
mod stream;

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

pub use self::event::BackupEvent;
pub use self::options::BackupOptions;
pub use self::report::{BackupReport, CutKind, NodeBackup};

use self::fleet::SourceFleet;
use self::session::Session;
use crate::config::Builder;
use crate::error::Error;

/// Takes a backup of all nodes of a fleet.
///
/// What is in it is what all nodes had at one moment: everything whose reply had come before is there, nothing that was sent
/// after is, and of two writes that follow one another the second is not there without the first, also if they went to
/// different nodes. For that, writes are paused at all nodes for some milliseconds; reads are not. A write to several nodes
/// that was under way at that moment may be there in part, such as half of an MSET.
///
/// Servers that do not allow the means for it are read by poorer ones, as far as
/// [the options](BackupOptions::with_cut) allow: [`CutKind`] says which, and the archive does too.
///
/// In the archive are all keys of all databases with their expiries, and functions. Left out are keys that had expired, and
/// the record of the fleet. Users, settings, and scripts that were loaded are none of the data of servers.
///
/// ```no_run
/// use std::fs::File;
///
/// use redis_sharding::ShardedClient;
/// use redis_sharding::ops::backup::{Backup, BackupOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let fleet = ShardedClient::builder()
///     .node("a", "redis://10.0.0.1/")
///     .node("b", "redis://10.0.0.2/");
/// let backup = Backup::new(fleet, BackupOptions::new())?;
/// let report = backup.run(File::create_new("fleet.rsb")?, |_| {})?;
/// println!("{} keys, writes were paused for {:?}", report.keys(), report.pause);
/// # Ok(()) }
/// ```
pub struct Backup {
    fleet: SourceFleet,
    options: BackupOptions,
    stop: Arc<AtomicBool>,
}

/// Stops a [`Backup`] from another thread.
#[derive(Clone, Debug)]
pub struct BackupStop(Arc<AtomicBool>);

impl BackupStop {
    /// Ends the backup with an error. Writes go on, and settings are put back.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Backup {
    /// Describes a backup of the nodes of a client that is described so: those of a topology, or the primaries of a Redis
    /// Cluster. They are reached like by that client. Nothing is contacted.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) as for [`Builder::build`].
    pub fn new(fleet: Builder, options: BackupOptions) -> Result<Self, Error> {
        Ok(Self {
            fleet: SourceFleet::new(fleet)?,
            options,
            stop: Arc::default(),
        })
    }

    /// Returns a handle by which another thread, or a handler of a signal, stops the run.
    pub fn stop_handle(&self) -> BackupStop {
        BackupStop(Arc::clone(&self.stop))
    }

    /// Takes the backup and writes the archive as one stream, so that it may go to a file, a pipe or an object store. Calls
    /// `listener` with what happens, from several threads, one at a time.
    ///
    /// A cut that fails is tried again as long as nothing is written. From then on, whatever fails makes the whole backup
    /// fail: a server cannot go on with a stream that has broken. `write` has a beginning of an archive then, which a reader
    /// tells from a whole one.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached; if a reshard is under way; if the cut fails each time, or is not of the
    /// [kind that is demanded](BackupOptions::with_cut); if a stream is not whole; if `write` fails, or
    /// [takes nothing for long](BackupOptions::with_stall_limit).
    pub fn run(
        self,
        write: impl Write + Send,
        listener: impl FnMut(BackupEvent) + Send,
    ) -> Result<BackupReport, Error> {
        let listener = Mutex::new(listener);
        let on_event = |event| (*listener.lock())(event);
        Session::new(&self.fleet, &self.options, &self.stop, &on_event)?.archive(write)
    }

    /// Takes the backup and writes a file for each node, named after it, as the server has sent it: one that servers load and
    /// `redis-check-rdb` accepts. Keys that have expired and the record of the fleet are in it. Files that exist are not
    /// replaced. Calls `listener` as [`run`](Self::run) does.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run), and if a server does not allow PSYNC: nothing else has such files.
    pub fn run_as_rdb(
        self,
        folder: &Path,
        listener: impl FnMut(BackupEvent) + Send,
    ) -> Result<BackupReport, Error> {
        let listener = Mutex::new(listener);
        let on_event = |event| (*listener.lock())(event);
        Session::new(&self.fleet, &self.options, &self.stop, &on_event)?.rdb_files(folder)
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup")
            .field("fleet", &self.fleet)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
