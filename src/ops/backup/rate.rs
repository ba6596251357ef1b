//! [`RateLimit`]: how many bytes are read from all nodes in a second.

use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The longest time for which a node is not read, so that its server never takes it for dead.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// Limits the bytes of all threads that share it.
pub(super) struct RateLimit {
    bytes_per_second: u64,
    /// When the bytes that were read so far would have come at this rate.
    due: Mutex<Instant>,
}

impl RateLimit {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            due: Mutex::new(Instant::now()),
        }
    }

    /// How many bytes are read at a time at most.
    pub(super) fn chunk(&self) -> usize {
        usize::try_from(self.bytes_per_second / 20)
            .unwrap_or(usize::MAX)
            .clamp(512, 64 * 1024)
    }

    /// Waits until these bytes were allowed.
    pub(super) fn wait(&self, bytes: usize) {
        let now = Instant::now();
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let due = {
            let mut due = self.due.lock();
            // What was not used is not saved up.
            *due = (*due).max(now) + time;
            *due
        };
        thread::sleep(due.saturating_duration_since(now).min(SLEEP_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_above_the_rate_are_waited_for() {
        let limit = RateLimit::new(1000);
        let start = Instant::now();
        limit.wait(20);
        limit.wait(20);
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert_eq!(limit.chunk(), 512);
        assert_eq!(RateLimit::new(u64::MAX).chunk(), 64 * 1024);
    }
}
