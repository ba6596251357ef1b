//! [`Run`]: what the reader of the input and the threads that send its keys have in common.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::clients::Clients;
use super::progress::ProgressFile;
use super::report::RestoreReport;
use super::window::Window;
use super::{RestoreEvent, RestoreOptions};
use crate::error::Error;
use crate::rdb::convert::Target;
use crate::rdb::{KeyInfo, RdbVersion};
use crate::topology::Topology;

/// Time between two writes of the file with the progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Called with each event.
pub(super) type Listener<'l> = Box<dyn FnMut(RestoreEvent) + Send + 'l>;

/// What all threads of a run share.
pub(super) struct Run<'r> {
    pub(super) options: &'r RestoreOptions,
    pub(super) clients: &'r Clients,
    /// By which keys are assigned to threads and servers. The clients go by newer ones.
    pub(super) topology: Arc<Topology>,
    /// How values are written for each node of that topology.
    pub(super) targets: Vec<Target>,
    /// Keys below may have been sent by an earlier run.
    pub(super) doubtful_below: u64,
    /// Keys that an earlier run has begun to make element by element.
    pub(super) begun: BTreeSet<u64>,
    /// Bytes of values that were read and not dealt with.
    pub(super) in_flight: AtomicU64,
    pub(super) report: Mutex<RestoreReport>,
    window: Mutex<Window>,
    progress: Option<Mutex<(ProgressFile, Instant)>>,
    stops: AtomicBool,
    failure: Mutex<Option<Error>>,
    listener: Mutex<Listener<'r>>,
}

/// A key on its way to the target.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its place in the input.
    pub(super) number: u64,
    /// The node that is to have it.
    pub(super) owner: usize,
    /// Its database in the input.
    pub(super) source_db: u32,
    /// With the database and the name that it has at the target.
    pub(super) info: KeyInfo,
    pub(super) version: RdbVersion,
    pub(super) value: Vec<u8>,
}

/// Keys of one database that are sent at once.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) db: u32,
    pub(super) units: Vec<Unit>,
    pub(super) bytes: u64,
    /// The place of the first one.
    pub(super) first: u64,
}

impl<'r> Run<'r> {
    /// Begins a run.
    pub(super) fn new(
        options: &'r RestoreOptions,
        clients: &'r Clients,
        topology: Arc<Topology>,
        targets: Vec<Target>,
        progress: Option<ProgressFile>,
        listener: Listener<'r>,
    ) -> Self {
        let (first, doubtful_below, begun) = match &progress {
            None => (0, 0, BTreeSet::new()),
            Some(file) => {
                let known = file.progress();
                (known.acknowledged, known.sent, known.begun.clone())
            }
        };
        Self {
            options,
            clients,
            topology,
            targets,
            doubtful_below,
            begun,
            in_flight: AtomicU64::new(0),
            report: Mutex::default(),
            window: Mutex::new(Window::from(first)),
            progress: progress.map(|file| Mutex::new((file, Instant::now()))),
            stops: AtomicBool::new(false),
            failure: Mutex::new(None),
            listener: Mutex::new(listener),
        }
    }

    /// Tells the listener.
    pub(super) fn notify(&self, event: RestoreEvent) {
        (self.listener.lock())(event);
    }

    /// Adds a remark to the report, and tells the listener.
    pub(super) fn remark(&self, text: String) {
        self.report.lock().remarks.push(text.clone());
        self.notify(RestoreEvent::Remark { text });
    }

    /// Adds a part of the input that is lost, and tells the listener.
    pub(super) fn lose(&self, what: String) {
        self.report.lock().lost.push(what.clone());
        self.notify(RestoreEvent::Lost { what });
    }

    /// True once the run is to end.
    pub(super) fn stops(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }

    /// Ends the run for this reason, unless there is one.
    pub(super) fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        self.stops.store(true, Ordering::Relaxed);
    }

    /// The reason why the run has ended early.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }

    /// The number of keys that an earlier run has dealt with.
    pub(super) fn resumed(&self) -> u64 {
        self.progress
            .as_ref()
            .map_or(0, |progress| progress.lock().0.progress().acknowledged)
    }

    /// A key needs nothing.
    pub(super) fn passed(&self, number: u64) {
        self.window.lock().read(number);
    }

    /// A key is put into a batch, of which it may be the first. Says so in the file, before anything is sent.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(super) fn taken(&self, number: u64, is_first: bool) -> Result<(), Error> {
        let mut window = self.window.lock();
        if is_first {
            window.open(number);
        }
        window.read(number);
        let done = window.done();
        drop(window);
        match &self.progress {
            None => Ok(()),
            Some(progress) => progress.lock().0.may_send(number, done),
        }
    }

    /// A key is made element by element from now on.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(super) fn begin(&self, number: u64) -> Result<(), Error> {
        match &self.progress {
            None => Ok(()),
            Some(progress) => progress.lock().0.begin(number),
        }
    }

    /// All keys of a batch are dealt with.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(super) fn finished(&self, first: u64) -> Result<(), Error> {
        let mut window = self.window.lock();
        window.close(first);
        let done = window.done();
        drop(window);
        let Some(progress) = &self.progress else {
            return Ok(());
        };
        let (file, last) = &mut *progress.lock();
        if last.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        *last = Instant::now();
        file.write(done)
    }

    /// Writes the file a last time, or removes it if all is done, and returns the report.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(super) fn close(self, is_done: bool) -> Result<RestoreReport, Error> {
        let done = self.window.into_inner().done();
        if let Some(progress) = self.progress {
            let (mut file, _) = progress.into_inner();
            match is_done {
                true => file.remove(),
                false => file.write(done)?,
            }
        }
        Ok(self.report.into_inner())
    }
}
