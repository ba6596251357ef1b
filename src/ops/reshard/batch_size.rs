//! [`BatchSize`]: how much is moved under one closure.

use std::time::Duration;

/// What a key costs beside its bytes: the replies and requests about it.
pub(super) const KEY_OVERHEAD: u64 = 256;

/// The size that the first batch has.
const FIRST: u64 = 256 << 10;

/// The smallest size of a batch: what is closed for fewer keys is closed for the round trips.
const SIZE_MIN: u64 = 16 << 10;

/// The largest size of a batch.
const SIZE_MAX: u64 = 64 << 20;

/// By how much a batch may be larger than the one before.
const GROWTH_MAX: f64 = 2.0;

/// By how much a batch may be smaller than the one before.
const SHRINK_MAX: f64 = 0.1;

/// The size of the next batch: bytes of values, with [`KEY_OVERHEAD`] for each key. It follows the time that closures take.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchSize {
    size: u64,
    /// How long a closure is to take.
    goal: Duration,
}

impl BatchSize {
    pub(super) fn new(goal: Duration) -> Self {
        Self { size: FIRST, goal }
    }

    /// The size of the next batch.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Learns how long the units of a batch of this size were closed: until nothing was written to them any more, and until
    /// they were published. The first does not depend on the size.
    pub(super) fn closed_for(&mut self, size: u64, fence: Duration, all: Duration) {
        // Where clients are slow to acknowledge, small batches would cost all the speed and win nothing.
        let goal = self.goal.saturating_sub(fence).max(self.goal / 2);
        let time = all.saturating_sub(fence);
        let ratio = goal.as_secs_f64() / time.as_secs_f64().max(1e-6);
        let ratio = ratio.clamp(SHRINK_MAX, GROWTH_MAX);
        // A batch that the keys of the pair did not fill says nothing about larger ones.
        let base = match ratio > 1.0 {
            true if size < self.size / 2 => return,
            true => self.size,
            false => size.min(self.size),
        };
        let next = (base as f64 * ratio) as u64;
        self.size = next.clamp(SIZE_MIN, SIZE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Duration = Duration::from_millis(50);
    const NONE: Duration = Duration::ZERO;

    #[test]
    fn batch_size_follows_the_time_of_closures() {
        let mut batch = BatchSize::new(GOAL);
        let first = batch.size();
        batch.closed_for(first, NONE, GOAL / 10);
        assert_eq!(batch.size(), 2 * first);
        batch.closed_for(2 * first, NONE, 2 * GOAL);
        assert_eq!(batch.size(), first);
        // A long stall, by a server that is busy otherwise, costs a few batches and not the whole speed.
        batch.closed_for(first, NONE, 1000 * GOAL);
        assert_eq!(batch.size(), first / 10);
    }

    #[test]
    fn batch_that_was_not_full_does_not_enlarge_the_next() {
        let mut batch = BatchSize::new(GOAL);
        let first = batch.size();
        batch.closed_for(first / 3, NONE, GOAL / 10);
        assert_eq!(batch.size(), first);
    }

    #[test]
    fn batch_size_does_not_fall_because_clients_acknowledge_late() {
        let mut batch = BatchSize::new(GOAL);
        let first = batch.size();
        batch.closed_for(first, 10 * GOAL, 10 * GOAL + GOAL / 2);
        assert_eq!(batch.size(), first);
    }

    #[test]
    fn batch_size_has_bounds() {
        let mut batch = BatchSize::new(GOAL);
        for _ in 0..100 {
            batch.closed_for(batch.size(), NONE, Duration::ZERO);
        }
        assert_eq!(batch.size(), SIZE_MAX);
        for _ in 0..100 {
            batch.closed_for(batch.size(), NONE, 100 * GOAL);
        }
        assert_eq!(batch.size(), SIZE_MIN);
    }
}
