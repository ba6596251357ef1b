//! Events on their way to the user of a subscriber, bounded by number and by bytes.

use std::collections::VecDeque;

use super::{EVENT_BYTES_MAX, EVENTS_MAX, Event};

/// Room for so many events is kept when none waits.
const EVENTS_KEPT: usize = 1024;

/// Events that wait for the user of a subscriber.
#[derive(Debug)]
pub(crate) struct EventQueue {
    events: VecDeque<Event>,
    bytes: usize,
    bytes_max: usize,
    /// A change is waited for. The confirmation comes behind the messages that are there, so more of them are taken.
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
    /// Whether another event may be added, however large it is.
    pub(crate) fn has_room(&self) -> bool {
        let times = if self.changing { 2 } else { 1 };
        self.events.len() < EVENTS_MAX * times && self.bytes < self.bytes_max.saturating_mul(times)
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.events.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes -= event.bytes();
        if self.events.is_empty() && self.events.capacity() > EVENTS_KEPT {
            self.events = VecDeque::new();
        }
        Some(event)
    }

    pub(crate) fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = bytes;
    }

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
