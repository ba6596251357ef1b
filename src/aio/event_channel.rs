//! The bounded queue between the tasks of a subscriber's connections and its user.
//!
//! Many writers, one reader. A full queue suspends the writers, which then read nothing from their sockets,
//! so the pressure reaches the servers.

use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::coop;

use crate::plan::pubsub::{Event, EventQueue};
use crate::snapshot::SnapshotListener;

/// A bounded queue of events with many writers and one reader.
#[derive(Debug, Default)]
pub(super) struct EventChannel {
    state: Mutex<State>,
    /// Notified when there is room again, and when the reader is gone.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Events not read yet.
    queue: EventQueue,
    /// Number of writers that wait for room. Saves a notification per event read.
    waiting: usize,
    /// True once the subscriber is dropped; writers end.
    closed: bool,
    /// True if a writer ended with its runtime since [`EventChannel::take_stopped`] last returned.
    stopped: bool,
    /// True if a connection has signals for the subscriber.
    has_signals: bool,
    /// Waker of the reader, if it waits.
    reader: Option<Waker>,
}

impl EventChannel {
    /// Appends an event as soon as there is room. Returns false if there is no reader any more.
    pub(super) async fn send(&self, event: Event) -> bool {
        loop {
            // Registered before the queue is checked: room made between the check and the wait would go
            // unnoticed otherwise.
            let mut taken = pin!(self.taken.notified());
            taken.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.closed {
                    return false;
                }
                if state.queue.has_room() {
                    state.queue.push(event);
                    Self::wake_reader(state);
                    return true;
                }
                state.waiting += 1;
            }
            // A guard, as the task may be dropped during the wait: a count that stays too high costs needless
            // notifications for good.
            let _waiting = Waiting(self);
            taken.await;
        }
    }

    /// Marks that a writer ended with its runtime, so that the reader starts another. `event` is appended
    /// even if the queue is full: this runs in a destructor, which cannot wait.
    pub(super) fn stop(&self, event: Option<Event>) {
        let mut state = self.state.lock();
        state.stopped = true;
        if let Some(event) = event {
            state.queue.push(event);
        }
        Self::wake_reader(state);
    }

    /// True if a writer ended with its runtime since the last call.
    pub(super) fn take_stopped(&self) -> bool {
        std::mem::take(&mut self.state.lock().stopped)
    }

    /// Marks that a connection has signals for the subscriber, which wakes the reader.
    pub(super) fn signal(&self) {
        let mut state = self.state.lock();
        state.has_signals = true;
        Self::wake_reader(state);
    }

    /// True if a connection has signals since the last call.
    pub(super) fn take_signals(&self) -> bool {
        std::mem::take(&mut self.state.lock().has_signals)
    }

    /// Returns the next event, or stores the waker.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Event> {
        // A reader that always finds an event would never yield to the runtime; this takes part in tokio's
        // cooperative budget.
        let progress = ready!(coop::poll_proceed(cx));
        let mut state = self.state.lock();
        let Some(event) = state.queue.pop() else {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.notify_writers(state);
        progress.made_progress();
        Poll::Ready(event)
    }

    /// Wakes the reader, if one waits, so that it polls again.
    pub(super) fn wake(&self) {
        Self::wake_reader(self.state.lock());
    }

    /// The next event, if one has arrived.
    #[cfg(feature = "proxy")]
    pub(super) fn try_receive(&self) -> Option<Event> {
        let mut state = self.state.lock();
        let event = state.queue.pop()?;
        self.notify_writers(state);
        Some(event)
    }

    /// Sets the maximum number of bytes of queued events.
    pub(super) fn set_bytes_max(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.queue.set_bytes_max(bytes);
        self.notify_writers(state);
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
        self.taken.notify_waiters();
    }

    fn set_changing(&self, changing: bool) {
        let mut state = self.state.lock();
        state.queue.set_changing(changing);
        self.notify_writers(state);
    }

    /// Wakes the writers if there is room. Takes the guard, because waking under the lock would make each of
    /// them block on it.
    fn notify_writers(&self, state: MutexGuard<'_, State>) {
        let tell = state.waiting > 0 && state.queue.has_room();
        drop(state);
        if tell {
            // All of them, as the room may be enough for several; those that find none wait again.
            self.taken.notify_waiters();
        }
    }

    /// Wakes the reader after the lock is released.
    fn wake_reader(mut state: MutexGuard<'_, State>) {
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl SnapshotListener for EventChannel {
    /// The reader looks at the topology whenever it polls.
    fn snapshot_changed(&self) {
        self.wake();
    }
}

/// A writer that waits for room; counted down when dropped.
struct Waiting<'c>(&'c EventChannel);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

/// Guard of [`EventChannel::take_more`].
pub(super) struct ExtraCapacity<'c>(&'c EventChannel);

impl Drop for ExtraCapacity<'_> {
    fn drop(&mut self) {
        self.0.set_changing(false);
    }
}
