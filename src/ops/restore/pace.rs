//! [`Pace`]: a limit of bytes in a second.

use std::time::{Duration, Instant};

/// Shorter pauses are put off, so that keys are sent together.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// How many bytes may be sent by now.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: Option<u64>,
    begun: Instant,
    sent: u64,
}

impl Pace {
    /// Begins to count.
    pub(super) fn new(per_second: Option<u64>, begun: Instant) -> Self {
        Self {
            per_second,
            begun,
            sent: 0,
        }
    }

    /// Counts bytes, and returns the time to wait before they may be sent.
    pub(super) fn pause(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(per_second) = self.per_second else {
            return Duration::ZERO;
        };
        // What was sent before, so that a first large value need not wait.
        let due = Duration::from_secs_f64(self.sent as f64 / per_second as f64);
        self.sent += bytes;
        let pause = due.saturating_sub(now.saturating_duration_since(self.begun));
        match pause >= PAUSE_MIN {
            true => pause,
            false => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_waits_for_what_was_sent_before() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(1000), begun);
        assert_eq!(pace.pause(500, begun), Duration::ZERO);
        assert_eq!(pace.pause(500, begun), Duration::from_millis(500));
        assert_eq!(
            pace.pause(1, begun + Duration::from_millis(1500)),
            Duration::ZERO
        );
        assert_eq!(
            Pace::new(None, begun).pause(u64::MAX, begun),
            Duration::ZERO
        );
    }
}
