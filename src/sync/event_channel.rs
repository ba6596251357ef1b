//! The bounded queue between the threads of a subscriber's connections and its user.
//!
//! Many writers, one reader. A full queue blocks the writers, which then read nothing from their sockets, so
//! the pressure reaches the servers.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::plan::pubsub::{Event, EventQueue};
use crate::snapshot::SnapshotListener;

/// A bounded queue of events with many writers and one reader.
#[derive(Debug, Default)]
pub(super) struct EventChannel {
    state: Mutex<State>,
    /// For the reader: an event was appended.
    arrived: Condvar,
    /// For the writers: there is room, or the reader is gone.
    taken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Events not read yet.
    queue: EventQueue,
    /// Number of writers that wait for room. Saves a notification per event read.
    waiting: usize,
    /// True once the subscriber is dropped; writers end.
    closed: bool,
    /// True if the reader must look at the topology before it waits on.
    is_interrupted: bool,
    /// True if a connection has signals for the subscriber.
    has_signals: bool,
}

/// The outcome of waiting for an event.
#[derive(Debug)]
pub(super) enum Received {
    /// An event.
    Event(Event),
    /// Nothing has arrived in time.
    Nothing,
    /// The topology has changed, or a connection has signals.
    Interrupted,
}

impl EventChannel {
    /// Appends an event as soon as there is room. Returns false if there is no reader any more.
    pub(super) fn send(&self, event: Event) -> bool {
        let mut state = self.state.lock();
        while !state.closed && !state.queue.has_room() {
            state.waiting += 1;
            self.taken.wait(&mut state);
            state.waiting -= 1;
        }
        if state.closed {
            return false;
        }
        state.queue.push(event);
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// Waits for the next event until `end`; for ever without one.
    pub(super) fn receive(&self, end: Option<Instant>) -> Received {
        let mut state = self.state.lock();
        loop {
            if let Some(event) = state.queue.pop() {
                self.notify_writers(&state);
                return Received::Event(event);
            }
            if std::mem::take(&mut state.is_interrupted) {
                return Received::Interrupted;
            }
            match end {
                None => self.arrived.wait(&mut state),
                Some(end) => {
                    if self.arrived.wait_until(&mut state, end).timed_out() {
                        // The timeout and an event may coincide.
                        return state.queue.pop().map_or(Received::Nothing, Received::Event);
                    }
                }
            }
        }
    }

    /// Marks that a connection has signals for the subscriber, which wakes the reader.
    pub(super) fn signal(&self) {
        let mut state = self.state.lock();
        state.has_signals = true;
        state.is_interrupted = true;
        drop(state);
        self.arrived.notify_one();
    }

    /// True if a connection has signals since the last call.
    pub(super) fn take_signals(&self) -> bool {
        std::mem::take(&mut self.state.lock().has_signals)
    }

    /// Sets the maximum number of bytes of queued events.
    pub(super) fn set_bytes_max(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.queue.set_bytes_max(bytes);
        self.notify_writers(&state);
    }

    /// Doubles the room while a subscription change awaits its confirmation, until the guard is dropped. The
    /// confirmation may be behind messages on the same socket; a full queue that nobody reads would hold it
    /// back for ever.
    pub(super) fn take_more(&self) -> ExtraCapacity<'_> {
        self.set_changing(true);
        ExtraCapacity(self)
    }

    /// Discards all events, and ends the writers.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.queue = EventQueue::default();
        drop(state);
        self.taken.notify_all();
    }

    fn set_changing(&self, changing: bool) {
        let mut state = self.state.lock();
        state.queue.set_changing(changing);
        self.notify_writers(&state);
    }

    /// Wakes the writers if there is room.
    fn notify_writers(&self, state: &State) {
        if state.waiting > 0 && state.queue.has_room() {
            // All of them, as the room may be enough for several; those that find none wait again.
            self.taken.notify_all();
        }
    }
}

impl SnapshotListener for EventChannel {
    fn snapshot_changed(&self) {
        self.state.lock().is_interrupted = true;
        self.arrived.notify_one();
    }
}

/// Guard of [`EventChannel::take_more`].
pub(super) struct ExtraCapacity<'c>(&'c EventChannel);

impl Drop for ExtraCapacity<'_> {
    fn drop(&mut self) {
        self.0.set_changing(false);
    }
}
