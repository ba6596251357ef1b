//! Events on their way from the tasks that listen to the user of a subscriber.

use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::coop;

use crate::plan::pubsub::{Event, EventQueue};

/// A bounded queue with many writers and one reader.
#[derive(Debug, Default)]
pub(super) struct EventChannel {
    state: Mutex<State>,
    /// For the writers: there is room, or no reader any more.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: EventQueue,
    /// How many writers wait for room.
    waiting: usize,
    closed: bool,
    /// A writer ended with its runtime.
    stopped: bool,
    reader: Option<Waker>,
}

impl EventChannel {
    /// Adds an event as soon as there is room. Whether there is still a reader.
    pub(super) async fn send(&self, event: Event) -> bool {
        loop {
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
            // The task may be dropped while it waits.
            let _waiting = Waiting(self);
            taken.await;
        }
    }

    /// A writer ended with its runtime; the reader must start another. `event` is told of it in any case.
    pub(super) fn stop(&self, event: Option<Event>) {
        let mut state = self.state.lock();
        state.stopped = true;
        if let Some(event) = event {
            state.queue.push(event);
        }
        Self::wake_reader(state);
    }

    /// Whether a writer ended with its runtime since this was asked last.
    pub(super) fn take_stopped(&self) -> bool {
        std::mem::take(&mut self.state.lock().stopped)
    }

    /// The next event.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Event> {
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

    /// An event that has come already.
    #[cfg(feature = "proxy")]
    pub(super) fn try_receive(&self) -> Option<Event> {
        let mut state = self.state.lock();
        let event = state.queue.pop()?;
        self.notify_writers(state);
        Some(event)
    }

    pub(super) fn set_bytes_max(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.queue.set_bytes_max(bytes);
        self.notify_writers(state);
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
        self.taken.notify_waiters();
    }

    fn set_changing(&self, changing: bool) {
        let mut state = self.state.lock();
        state.queue.set_changing(changing);
        self.notify_writers(state);
    }

    fn notify_writers(&self, state: MutexGuard<'_, State>) {
        let tell = state.waiting > 0 && state.queue.has_room();
        drop(state);
        if tell {
            self.taken.notify_waiters();
        }
    }

    fn wake_reader(mut state: MutexGuard<'_, State>) {
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A writer that waits for room.
struct Waiting<'c>(&'c EventChannel);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

/// See [`EventChannel::take_more`].
pub(super) struct ExtraCapacity<'c>(&'c EventChannel);

impl Drop for ExtraCapacity<'_> {
    fn drop(&mut self) {
        self.0.set_changing(false);
    }
}
