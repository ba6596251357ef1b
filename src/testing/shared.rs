//! What the threads of a node share.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::database::Database;
use super::faults::{Fault, Script};
use super::received::ReceivedCommand;
use super::session::Session;

/// What the threads of a node share. The two locks are never held together.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) database: Mutex<Database>,
    pub(super) control: Mutex<Control>,
    changed: Condvar,
}

/// What a test sees and says.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) script: Script,
    pub(super) received: Vec<ReceivedCommand>,
    pub(super) accepted: u64,
    /// Open connections by their number.
    pub(super) open: BTreeMap<u64, TcpStream>,
}

impl Shared {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database: Mutex::new(database),
            control: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Counts a new connection; its number.
    pub(super) fn accept(&self, stream: TcpStream) -> u64 {
        let mut control = lock(&self.control);
        control.accepted += 1;
        let id = control.accepted;
        control.open.insert(id, stream);
        id
    }

    pub(super) fn begin_session(&self, id: u64, writer: Sender<Vec<u8>>) -> Session {
        let mut database = lock(&self.database);
        database.channels.connect(id, writer);
        database.clients += 1;
        Session {
            id,
            authenticated: database.password.is_none(),
            ..Session::default()
        }
    }

    pub(super) fn end_session(&self, id: u64) {
        let mut database = lock(&self.database);
        database.channels.disconnect(id);
        database.clients -= 1;
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&self, id: u64) {
        lock(&self.control).open.remove(&id);
    }

    pub(super) fn close_all(&self) {
        for stream in lock(&self.control).open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Writes a command down; what is to go wrong with it, unless the connection is silent anyway.
    pub(super) fn note(&self, command: &ReceivedCommand, mute: bool) -> Option<Fault> {
        let mut control = lock(&self.control);
        control.received.push(command.clone());
        match mute {
            true => None,
            false => control.script.take(command),
        }
    }

    pub(super) fn wait_for_change<'a>(
        &self,
        database: MutexGuard<'a, Database>,
        time: Duration,
    ) -> MutexGuard<'a, Database> {
        let waited = self.changed.wait_timeout(database, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn announce_change(&self) {
        self.changed.notify_all();
    }
}

/// One run of a node, from its start to its stop.
#[derive(Debug, Default)]
pub(super) struct Run {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Run {
    pub(super) fn stop(&self) {
        *lock(&self.stopped) = true;
        self.wake.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        *lock(&self.stopped)
    }

    /// Waits that long, or until the node stops.
    pub(super) fn pause(&self, time: Duration) {
        // A time beyond the clock's end has none.
        let deadline = Instant::now().checked_add(time);
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            let left = deadline.map_or(time, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return;
            }
            let waited = self.wake.wait_timeout(stopped, left);
            stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The lock, also after a test thread panicked with it: the node must still be able to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
