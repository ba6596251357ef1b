//! Events on their way from the threads that listen to the user of a subscriber.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::plan::pubsub::{Event, EventQueue};

/// A bounded queue with many writers and one reader.
#[derive(Debug, Default)]
pub(super) struct EventChannel {
    state: Mutex<State>,
    /// For the reader: there is an event.
    arrived: Condvar,
    /// For the writers: there is room, or no reader any more.
    taken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: EventQueue,
    /// How many writers wait for room.
    waiting: usize,
    closed: bool,
}

impl EventChannel {
    /// Adds an event as soon as there is room. Whether there is still a reader.
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

    /// The next event; `None` when none comes within `timeout`, if there is one.
    pub(super) fn receive(&self, timeout: Option<Duration>) -> Option<Event> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.state.lock();
        loop {
            if let Some(event) = state.queue.pop() {
                self.notify_writers(&state);
                return Some(event);
            }
            match end {
                None => self.arrived.wait(&mut state),
                Some(end) => {
                    if self.arrived.wait_until(&mut state, end).timed_out() {
                        return state.queue.pop();
                    }
                }
            }
        }
    }

    pub(super) fn set_bytes_max(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.queue.set_bytes_max(bytes);
        self.notify_writers(&state);
    }

    /// Takes more events while a change is waited for, until the guard is dropped.
    pub(super) fn take_more(&self) -> ExtraCapacity<'_> {
        self.set_changing(true);
        ExtraCapacity(self)
    }

    /// No event is read any more.
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

    fn notify_writers(&self, state: &State) {
        if state.waiting > 0 && state.queue.has_room() {
            self.taken.notify_all();
        }
    }
}

/// See [`EventChannel::take_more`].
pub(super) struct ExtraCapacity<'c>(&'c EventChannel);

impl Drop for ExtraCapacity<'_> {
    fn drop(&mut self) {
        self.0.set_changing(false);
    }
}
