//! [`FrameQueue`]: what the threads of all nodes have made for the one that writes the archive.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Number of items of one node that wait at most, so that the memory is bounded, and no node waits for another one's turn.
pub(super) const PER_NODE: usize = 4;

/// A bounded queue. Nodes that produce faster than the archive takes wait for it.
pub(super) struct FrameQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<(usize, T)>,
    /// Number of items of each node.
    waiting: Vec<usize>,
    /// Number of nodes that have not ended.
    producers: usize,
    is_closed: bool,
}

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The queue was closed, as something has failed.
    Closed,
    /// The archive has taken nothing for the limit.
    Stalled,
}

impl<T> FrameQueue<T> {
    /// A queue from this number of nodes.
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                waiting: vec![0; nodes],
                producers: nodes,
                is_closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds an item of a node, and waits up to `limit` while there are too many of it.
    pub(super) fn push(&self, node: usize, item: T, limit: Duration) -> Result<(), NotTaken> {
        let end = Instant::now() + limit;
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return Err(NotTaken::Closed);
            }
            match state.waiting.get_mut(node) {
                Some(waiting) if *waiting < PER_NODE => {
                    *waiting += 1;
                    state.items.push_back((node, item));
                    self.changed.notify_all();
                    return Ok(());
                }
                Some(_) => {}
                None => return Err(NotTaken::Closed),
            }
            if self.changed.wait_until(&mut state, end).timed_out() {
                return Err(NotTaken::Stalled);
            }
        }
    }

    /// Takes the next item. `None` once all nodes have ended, or the queue was closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some((node, item)) = state.items.pop_front() {
                if let Some(waiting) = state.waiting.get_mut(node) {
                    *waiting -= 1;
                }
                self.changed.notify_all();
                return Some(item);
            }
            if state.producers == 0 {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// A node has no more items.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.producers = state.producers.saturating_sub(1);
        self.changed.notify_all();
    }

    /// Something has failed: nothing is taken or given any more.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn node_whose_items_are_not_taken_waits_and_the_other_does_not() {
        let queue = FrameQueue::new(2);
        for item in 0..PER_NODE {
            assert_eq!(queue.push(0, item, SHORT), Ok(()));
        }
        assert_eq!(queue.push(0, 9, SHORT), Err(NotTaken::Stalled));
        assert_eq!(queue.push(1, 10, SHORT), Ok(()));
        assert_eq!(queue.pop(), Some(0));
        assert_eq!(queue.push(0, 9, SHORT), Ok(()));
        queue.close();
        assert_eq!(queue.push(1, 10, SHORT), Err(NotTaken::Closed));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn queue_ends_when_all_nodes_have_ended() {
        let queue = FrameQueue::new(2);
        queue.push(1, 'a', SHORT).unwrap();
        queue.end();
        queue.end();
        assert_eq!((queue.pop(), queue.pop()), (Some('a'), None));
    }
}
