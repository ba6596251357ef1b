//! The queue of events between the connections of a subscriber and its user, bounded by number and by bytes.
//!
//! When it is full, the connections stop reading, and the server's own limit on output buffers applies. The
//! bound is checked before a push, not by it: one event of any size fits into a queue that has room, so a
//! large message cannot be stuck.

use std::collections::VecDeque;

use super::{EVENT_BYTES_MAX, EVENTS_MAX, Event};

/// Maximum capacity, in events, kept by an empty queue; more is freed, so that one burst does not hold memory
/// forever.
const EVENTS_KEPT: usize = 1024;

/// Events that the user of a subscriber has not taken yet.
#[derive(Debug)]
pub(crate) struct EventQueue {
    events: VecDeque<Event>,
    /// Approximate size of the queued events, in bytes.
    bytes: usize,
    /// Limit of `bytes`.
    bytes_max: usize,
    /// True while the user waits for a change of subscriptions, which doubles both limits.
    ///
    /// The confirmation arrives after messages already sent, and the user takes none of them while waiting:
    /// with a full queue the confirmation would never be read.
    changing: bool,
}

impl Default for EventQueue {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            bytes_max: EVENT_BYTES_MAX,
            changing: false,
        }
    }
}

impl EventQueue {
    /// True if another event may be pushed, however large it is.
    pub(crate) fn has_room(&self) -> bool {
        let times = if self.changing { 2 } else { 1 };
        // `bytes_max` comes from the user and may be `usize::MAX`.
        self.events.len() < EVENTS_MAX * times && self.bytes < self.bytes_max.saturating_mul(times)
    }

    /// Appends an event. The caller has checked [`has_room`](Self::has_room).
    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.events.push_back(event);
    }

    /// Takes the oldest event.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes -= event.bytes();
        // A `VecDeque` never shrinks by itself, and shrinking one that is not empty would copy its events.
        if self.events.is_empty() && self.events.capacity() > EVENTS_KEPT {
            self.events = VecDeque::new();
        }
        Some(event)
    }

    /// Sets the limit in bytes. Defaults to [`EVENT_BYTES_MAX`]. Events already queued stay.
    pub(crate) fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = bytes;
    }

    /// Sets whether the user is waiting for a change of subscriptions. Afterwards the queue may be over its
    /// limit until enough events are taken.
    pub(crate) fn set_changing(&mut self, changing: bool) {
        self.changing = changing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::pubsub::{Message, SubscriptionKind};

    #[test]
    fn event_queue_is_limited_by_number_and_by_bytes() {
        let message = |bytes: usize| {
            Event::Message(Message {
                channel: b"c".to_vec(),
                pattern: None,
                payload: vec![0; bytes],
                kind: SubscriptionKind::Channel,
            })
        };
        let mut queue = EventQueue::default();
        queue.set_bytes_max(10_000);
        while queue.has_room() {
            queue.push(message(1000));
        }
        let room = 10_000_usize.div_ceil(message(1000).bytes());
        assert_eq!(queue.events.len(), room);
        queue.set_changing(true);
        while queue.has_room() {
            queue.push(message(1000));
        }
        assert_eq!(
            queue.events.len(),
            20_000_usize.div_ceil(message(1000).bytes())
        );
        queue.set_changing(false);
        while queue.pop().is_some() {}
        assert_eq!(queue.bytes, 0);
        assert!(queue.has_room());
        queue.set_bytes_max(usize::MAX);
        while queue.has_room() {
            queue.push(message(0));
        }
        assert_eq!(queue.events.len(), EVENTS_MAX);
        while queue.pop().is_some() {}
        assert!(
            queue.events.capacity() <= EVENTS_KEPT,
            "memory is given back"
        );
    }
}
