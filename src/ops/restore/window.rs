//! [`Window`]: below which key of the input all have been dealt with.

use std::collections::BTreeSet;

/// The batches under way, by the number of their first key. Keys are numbered in the order of the input.
#[derive(Debug, Default)]
pub(super) struct Window {
    open: BTreeSet<u64>,
    next: u64,
}

impl Window {
    /// A window that begins with the key of this number.
    pub(super) fn from(next: u64) -> Self {
        Self {
            open: BTreeSet::new(),
            next,
        }
    }

    /// The key of this number has been read: all below are in batches, or need none.
    pub(super) fn read(&mut self, number: u64) {
        self.next = self.next.max(number + 1);
    }

    /// A batch begins with the key of this number, which was not read before.
    pub(super) fn open(&mut self, first: u64) {
        self.open.insert(first);
    }

    /// All keys of the batch that begins with the key of this number have been dealt with.
    pub(super) fn close(&mut self, first: u64) {
        self.open.remove(&first);
    }

    /// All keys below this number have been dealt with.
    pub(super) fn done(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_is_done_below_its_oldest_open_batch() {
        let mut window = Window::from(5);
        assert_eq!(window.done(), 5);
        window.open(6);
        window.read(6);
        window.open(8);
        window.read(9);
        assert_eq!(window.done(), 6);
        window.close(8);
        assert_eq!(window.done(), 6);
        window.close(6);
        assert_eq!(window.done(), 10);
    }
}
