//! Limits of bytes in a second: [`Pace`] says how long to wait, and [`RateLimit`] waits.

use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Shorter pauses are put off, so that what is small is sent together.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest time for which a node is not read, so that its server never takes its reader for dead.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// How many bytes may be sent or read by now.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: Option<u64>,
    /// When the bytes so far would have passed at this rate.
    due: Instant,
}

impl Pace {
    /// Begins to count.
    pub(super) fn new(per_second: Option<u64>, begun: Instant) -> Self {
        Self {
            per_second: per_second.map(|rate| rate.max(1)),
            due: begun,
        }
    }

    /// Counts bytes, and returns the time to wait before they may pass: that of those before, so that a first large value
    /// need not wait.
    pub(super) fn pause(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(per_second) = self.per_second else {
            return Duration::ZERO;
        };
        // What was not used is not saved up.
        let start = self.due.max(now);
        let time = Duration::try_from_secs_f64(bytes as f64 / per_second as f64);
        self.due = time
            .ok()
            .and_then(|time| start.checked_add(time))
            .unwrap_or(start);
        let pause = start.saturating_duration_since(now);
        match pause >= PAUSE_MIN {
            true => pause,
            false => Duration::ZERO,
        }
    }
}

/// Limits the bytes of all threads that share it.
pub(super) struct RateLimit {
    /// How many bytes pass at a time at most.
    chunk: usize,
    pace: Mutex<Pace>,
}

impl RateLimit {
    /// Begins to count.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        let chunk = usize::try_from(bytes_per_second / 20).unwrap_or(usize::MAX);
        Self {
            chunk: chunk.clamp(512, 64 * 1024),
            pace: Mutex::new(Pace::new(Some(bytes_per_second), Instant::now())),
        }
    }

    /// How many bytes pass at a time at most.
    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Counts bytes, and waits until they may pass.
    pub(super) fn wait(&self, bytes: usize) {
        let pause = self.pace.lock().pause(bytes as u64, Instant::now());
        thread::sleep(pause.min(SLEEP_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_waits_for_what_has_passed_before() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(1000), begun);
        assert_eq!(pace.pause(500, begun), Duration::ZERO);
        assert_eq!(pace.pause(500, begun), Duration::from_millis(500));
        let later = begun + Duration::from_millis(1500);
        assert_eq!(pace.pause(1, later), Duration::ZERO);
        let mut unlimited = Pace::new(None, begun);
        assert_eq!(unlimited.pause(u64::MAX, begun), Duration::ZERO);
        assert_eq!(unlimited.pause(u64::MAX, begun), Duration::ZERO);
        let mut slow = Pace::new(Some(0), begun);
        assert_eq!(slow.pause(u64::MAX, begun), Duration::ZERO);
    }

    #[test]
    fn bytes_above_the_rate_are_waited_for() {
        let limit = RateLimit::new(1000);
        let start = Instant::now();
        limit.wait(40);
        limit.wait(40);
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert_eq!(limit.chunk(), 512);
        assert_eq!(RateLimit::new(u64::MAX).chunk(), 64 * 1024);
    }
}
