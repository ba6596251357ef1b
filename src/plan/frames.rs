//! Answers as they came over the wire, for those who only pass them on.

use std::fmt;
use std::sync::Arc;

use crate::plan::Row;

/// The meter is told of growth by at least this many bytes, so that small replies cost it nothing.
const METERED_BYTES_MIN: usize = 64 << 10;

/// Counts the bytes of replies that are held for one client.
pub(crate) trait ByteMeter: fmt::Debug + Send + Sync {
    /// More bytes are held.
    fn add(&self, bytes: usize);
    /// Bytes were freed.
    fn subtract(&self, bytes: usize);
}

/// A meter that several replies share.
pub(crate) type Meter = Arc<dyn ByteMeter>;

/// Whole replies one after another, unread.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    meter: Option<Meter>,
    /// What the meter was told.
    metered: usize,
}

impl Frames {
    /// No replies yet; `meter` counts the bytes of those to come.
    pub(crate) fn with_meter(meter: Option<Meter>) -> Self {
        let mut frames = Self::default();
        frames.meter = meter;
        frames
    }

    /// Adds a reply.
    #[inline]
    pub(crate) fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
        if self.bytes.capacity() >= self.metered + METERED_BYTES_MIN {
            self.update_meter();
        }
    }

    /// How many bytes the replies have together.
    pub(crate) fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Tells the meter how much memory the replies take now.
    fn update_meter(&mut self) {
        if let Some(meter) = &self.meter {
            let held = self.bytes.capacity() + self.ends.capacity() * size_of::<usize>();
            meter.add(held.saturating_sub(self.metered));
            meter.subtract(self.metered.saturating_sub(held));
            self.metered = held;
        }
    }

    /// Reply number `number`.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<&[u8]> {
        let end = *self.ends.get(number)?;
        let start = match number.checked_sub(1) {
            Some(before) => self.ends[before],
            None => 0,
        };
        Some(&self.bytes[start..end])
    }
}

impl Row for Frames {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn keep(&mut self, count: usize) {
        self.ends.truncate(count);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    fn join(&mut self, more: Self) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&more.bytes);
        self.ends.extend(more.ends.iter().map(|end| before + end));
        self.update_meter();
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            meter.subtract(self.metered);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Count(AtomicUsize);

    impl ByteMeter for Count {
        fn add(&self, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }

        fn subtract(&self, bytes: usize) {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_meter_of_raw_replies_counts_what_is_held_and_nothing_afterwards() {
        let count = Arc::new(Count::default());
        let meter = || Some(Arc::clone(&count) as Meter);
        let held = || count.0.load(Ordering::Relaxed);
        let mut frames = Frames::with_meter(meter());
        frames.push(b"+OK\r\n");
        assert_eq!(held(), 0);
        frames.push(&vec![b'x'; 1 << 20]);
        assert!(held() >= 1 << 20);
        let mut more = Frames::with_meter(meter());
        more.push(&vec![b'x'; 1 << 20]);
        frames.join(more);
        assert!(held() >= 2 << 20);
        drop(frames);
        assert_eq!(held(), 0);
    }

    #[test]
    fn replies_are_found_again_also_when_later_ones_are_asked_again() {
        let mut frames = Frames::default();
        for frame in [&b":1\r\n"[..], b"$3\r\nabc\r\n", b"+OK\r\n"] {
            frames.push(frame);
        }
        assert_eq!(frames.get(1), Some(&b"$3\r\nabc\r\n"[..]));
        frames.keep(2);
        assert_eq!(frames.get(2), None);
        let mut more = Frames::default();
        more.push(b":3\r\n");
        frames.join(more);
        assert_eq!((frames.count(), frames.get(2)), (3, Some(&b":3\r\n"[..])));
        frames.keep(0);
        assert!(frames.bytes.is_empty());
    }
}
