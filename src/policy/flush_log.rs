//! [`FlushLog`]: flushes that nodes have missed because they were out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::{Flush, FlushCounts};

/// Counts the flushes that were sent to all nodes but those that are out. A node that was out compares the counts
/// before it is used again: see [`OutlierDetector`](crate::policy::OutlierDetector).
#[derive(Debug, Default)]
pub(crate) struct FlushLog {
    all: AtomicU64,
    database: AtomicU64,
}

impl FlushLog {
    /// A flush is about to be sent while nodes are out.
    pub(crate) fn record(&self, flush: Flush) {
        let count = match flush {
            Flush::All => &self.all,
            Flush::Database => &self.database,
        };
        count.fetch_add(1, Ordering::AcqRel);
    }

    /// Number of each so far.
    pub(crate) fn counts(&self) -> FlushCounts {
        FlushCounts {
            all: self.all.load(Ordering::Acquire),
            database: self.database.load(Ordering::Acquire),
        }
    }
}

impl Flush {
    /// The flush that a command does.
    pub(crate) fn of_command(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"FLUSHALL") {
            return Some(Self::All);
        }
        name.eq_ignore_ascii_case(b"FLUSHDB")
            .then_some(Self::Database)
    }
}
