//! The state that the threads of a node share.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::database::Database;
use super::faults::{Fault, Script};
use super::received::ReceivedCommand;
use super::session::Session;

/// The state that the threads of a node share. The two locks are never held together, so their order does not
/// matter.
#[derive(Debug)]
pub(super) struct Shared {
    /// The data. Held while a command runs, so commands are atomic.
    pub(super) database: Mutex<Database>,
    /// The test's side. Held for moments only, so a test can look while a command blocks.
    pub(super) control: Mutex<Control>,
    /// Signalled after each command; blocked commands wait for it with `database`.
    changed: Condvar,
}

/// Injected faults and records.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) script: Script,
    /// All commands, in the order in which they were read.
    pub(super) received: Vec<ReceivedCommand>,
    /// Number of connections ever accepted.
    pub(super) accepted: u64,
    /// Open connections by their number, to be closed from outside of their threads.
    pub(super) open: BTreeMap<u64, TcpStream>,
}

impl Shared {
    /// Returns the state of a node without connections.
    pub(super) fn new(database: Database) -> Self {
        Self {
            database: Mutex::new(database),
            control: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Adds a connection. Returns its number.
    pub(super) fn accept(&self, stream: TcpStream) -> u64 {
        let mut control = lock(&self.control);
        control.accepted += 1;
        let id = control.accepted;
        control.open.insert(id, stream);
        id
    }

    /// Returns the initial state of a connection, which messages reach by `writer` from now on.
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

    /// Removes a connection from the data: its subscriptions, and its count in INFO.
    pub(super) fn end_session(&self, id: u64) {
        let mut database = lock(&self.database);
        database.channels.disconnect(id);
        // Each session ends once: by the drop of its connection.
        database.clients -= 1;
    }

    /// Removes a connection that has ended.
    pub(super) fn forget(&self, id: u64) {
        lock(&self.control).open.remove(&id);
    }

    /// Shuts all open connections down. Their threads find out by themselves.
    pub(super) fn close_all(&self) {
        for stream in lock(&self.control).open.values() {
            // The connection may have ended; its thread removes it from the list.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Records a command. Returns the fault injected into it, if any; none on a connection that is silent
    /// anyway.
    pub(super) fn note(&self, command: &ReceivedCommand, mute: bool) -> Option<Fault> {
        let mut control = lock(&self.control);
        // One lock for both: a test that sees the command recorded also sees its fault counted.
        control.received.push(command.clone());
        match mute {
            true => None,
            false => control.script.take(command),
        }
    }

    /// Waits until another command has run, or for this long. Releases the lock in between.
    pub(super) fn wait_for_change<'a>(
        &self,
        database: MutexGuard<'a, Database>,
        time: Duration,
    ) -> MutexGuard<'a, Database> {
        let waited = self.changed.wait_timeout(database, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Wakes all blocked commands. None can miss it: from its look at the data to its wait it holds the lock.
    pub(super) fn announce_change(&self) {
        self.changed.notify_all();
    }
}

/// One run of a node, from its start to its stop.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Set once, never cleared: a restart begins a new run.
    stopped: Mutex<bool>,
    /// Signalled by `stop`.
    wake: Condvar,
}

impl Run {
    /// Ends all pauses, and lets every thread find out that it is to end.
    pub(super) fn stop(&self) {
        *lock(&self.stopped) = true;
        self.wake.notify_all();
    }

    /// True once the run has ended.
    pub(super) fn is_stopped(&self) -> bool {
        *lock(&self.stopped)
    }

    /// Waits for this long, or until the node stops.
    pub(super) fn pause(&self, time: Duration) {
        // A time beyond the clock's range has no deadline, and lasts until the node stops.
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

/// Locks a mutex even if a test panicked while holding it: the node must still be able to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
