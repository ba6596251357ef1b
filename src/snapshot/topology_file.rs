//! The thread that reads the topology of a client again when its file changes.
//!
//! It polls: notifications of the system differ from one to the next, and do not come from network file systems. It
//! ends with the last handle of the client.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::config::{TopologyFile, hash_content, read_topology_file};
use crate::error::Error;
use crate::observe::ClientEvent;
use crate::policy::{FileChanges, FileContent};
use crate::snapshot::Publisher;
use crate::topology::Topology;

/// Time between two looks at the file.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Time after which a file that has changed is read once more.
const SETTLE_TIME: Duration = Duration::from_millis(250);

/// Age from which on the time of a file's last change tells whether it has changed since. Before that it may change
/// again without a difference, as some file systems count whole seconds.
const STAMP_AGE_MIN: Duration = Duration::from_secs(3);

/// Ends the thread when it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    _end: Sender<()>,
}

/// Reads the file of the client again from now on.
///
/// # Errors
///
/// If the system has no thread for it.
pub(super) fn watch(publisher: &Arc<Publisher>, file: &TopologyFile) -> Result<Watch, Error> {
    let (end, ended) = channel();
    let mut reader = Reader {
        publisher: Arc::downgrade(publisher),
        path: Arc::clone(&file.path),
        changes: FileChanges::since(file.content),
        stamp: None,
    };
    thread::Builder::new()
        .name("redis-sharding topology".into())
        .spawn(move || reader.run(&ended))
        .map_err(|error| {
            let text = format!(
                "no thread could be started to watch {:?}: {error}; raise the limit on threads",
                file.path
            );
            Error::config(text)
        })?;
    Ok(Watch { _end: end })
}

struct Reader {
    /// Weak, so that the thread does not keep the client.
    publisher: Weak<Publisher>,
    path: Arc<Path>,
    changes: FileChanges,
    /// When the file was changed last, and its length, if they are the same as long as the file is.
    stamp: Option<(SystemTime, u64)>,
}

impl Reader {
    fn run(&mut self, ended: &Receiver<()>) {
        let mut pause = POLL_EVERY;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(pause) {
            pause = match self.read() {
                FileContent::Unsettled => SETTLE_TIME,
                FileContent::Same | FileContent::New => POLL_EVERY,
            };
        }
    }

    /// Looks at the file, and takes over what is new in it.
    fn read(&mut self) -> FileContent {
        let stamp = stamp(&self.path);
        if stamp.is_some() && stamp == self.stamp {
            return FileContent::Same;
        }
        let text = read_topology_file(&self.path);
        let content = self.changes.read(hash_content(&text));
        if content == FileContent::New
            && let Some(publisher) = self.publisher.upgrade()
            && let Err(error) = text.and_then(|text| take_over(&publisher, &text))
        {
            let error = Error::config(format!(
                "the topology in {:?} was not taken over: {error}",
                self.path
            ));
            publisher
                .config()
                .deliver(|| ClientEvent::TopologyRefused { error });
        }
        // Only when nothing is left to do for this content.
        self.stamp = stamp.filter(|(changed, _)| {
            let age = changed.elapsed().unwrap_or_default();
            content != FileContent::Unsettled && age >= STAMP_AGE_MIN
        });
        content
    }
}

/// Replaces the topology of the client by this one, unless it is the same.
fn take_over(publisher: &Publisher, text: &str) -> Result<(), Error> {
    let topology = Topology::parse(text)?;
    let config = publisher.config();
    let current = config.router.topology();
    // The placement of nodes that are out is not part of the text.
    match current.to_string() == topology.to_string() {
        true => Ok(()),
        false => publisher.set_topology(&topology),
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
