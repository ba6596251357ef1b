//! May this node be asked now?
//!
//! A node that cannot be reached is left alone for a while, so that commands for it fail at once instead of waiting for
//! a connection one after another; then one command at a time tries again. Pure: time and jitter come in as arguments.

use std::time::{Duration, Instant};

use crate::policy::ConnectError;

/// The first pause after a failed attempt.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is known of one node's reachability.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    trouble: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    failures: u32,
    retry_at: Instant,
    attempt: Attempt,
    reason: ConnectError,
}

#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    None,
    /// If it is not over by then, whoever makes it does not go on with it: its runtime may not be run any more.
    Running {
        overdue: Instant,
    },
}

/// Whether to try for a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Try, and tell how it went.
    Try,
    /// Do not: the last attempt failed for this reason.
    Down {
        reason: ConnectError,
        /// How long ago the node was last known to be well.
        since: Duration,
    },
}

impl Attempt {
    fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::None => true,
            Self::Running { overdue } => now >= *overdue,
        }
    }
}

impl Backoff {
    /// Asks whether to try for a connection, which takes no longer than `limit`. Who gets [`Admission::Try`] must call
    /// [`connected`](Self::connected), [`failed`](Self::failed) or [`inconclusive`](Self::inconclusive) afterwards.
    pub(crate) fn try_acquire(&mut self, now: Instant, limit: Duration) -> Admission {
        match &mut self.trouble {
            None => Admission::Try,
            Some(trouble) if now >= trouble.retry_at && trouble.attempt.is_over(now) => {
                trouble.attempt = Attempt::Running {
                    overdue: now + 2 * limit,
                };
                Admission::Try
            }
            Some(trouble) => Admission::Down {
                reason: trouble.reason.clone(),
                since: now.saturating_duration_since(trouble.since),
            },
        }
    }

    /// Why and since when the node cannot be reached, if so.
    pub(crate) fn outage(&self, now: Instant) -> Option<(&ConnectError, Duration)> {
        let trouble = self.trouble.as_ref()?;
        Some((
            &trouble.reason,
            now.saturating_duration_since(trouble.since),
        ))
    }

    /// Whether the pause after the last failure is over: the next attempt may be made.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.trouble
            .as_ref()
            .is_none_or(|trouble| now >= trouble.retry_at)
    }

    /// A connection was made.
    pub(crate) fn connected(&mut self) {
        self.trouble = None;
    }

    /// The attempt that was asked for says nothing.
    pub(crate) fn inconclusive(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.attempt = Attempt::None;
        }
    }

    /// No connection could be made. `jitter` in 0..1 spreads the attempts of many clients; the pause is between half and
    /// all of its length. Returns it.
    pub(crate) fn failed(&mut self, now: Instant, jitter: f64, reason: ConnectError) -> Duration {
        let (since, failures) = match &self.trouble {
            Some(trouble) => (trouble.since, trouble.failures.saturating_add(1)),
            None => (now, 1),
        };
        let pause = BACKOFF_MIN
            .saturating_mul(1 << (failures - 1).min(16))
            .min(BACKOFF_MAX)
            .mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        self.trouble = Some(Outage {
            since,
            failures,
            retry_at: now + pause,
            attempt: Attempt::None,
            reason,
        });
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn a_node_in_trouble_is_tried_by_one_at_a_time() {
        let mut health = Backoff::default();
        let start = Instant::now();
        assert_eq!(health.try_acquire(start, LIMIT), Admission::Try);
        health.failed(start, 1.0, "refused".into());
        assert!(matches!(
            health.try_acquire(start, LIMIT),
            Admission::Down { .. }
        ));
        let later = start + BACKOFF_MIN;
        assert_eq!(health.try_acquire(later, LIMIT), Admission::Try);
        let Admission::Down { reason, since } = health.try_acquire(later, LIMIT) else {
            panic!("a second attempt beside the first");
        };
        assert_eq!((reason, since), ("refused".into(), BACKOFF_MIN));
        assert_eq!(
            health.try_acquire(later + 2 * LIMIT, LIMIT),
            Admission::Try,
            "the one who tries does not go on"
        );
    }

    #[test]
    fn the_pause_grows_to_its_limit_and_no_further() {
        let mut health = Backoff::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            health.failed(now, 1.0, "refused".into());
            now += BACKOFF_MAX;
            assert_eq!(
                health.try_acquire(now, LIMIT),
                Admission::Try,
                "after the longest pause there is an attempt"
            );
        }
    }

    #[test]
    fn an_attempt_that_says_nothing_leaves_the_next_one_free() {
        let mut health = Backoff::default();
        let now = Instant::now();
        health.failed(now, 1.0, "refused".into());
        assert_eq!(health.try_acquire(now + BACKOFF_MIN, LIMIT), Admission::Try);
        health.inconclusive();
        assert_eq!(health.try_acquire(now + BACKOFF_MIN, LIMIT), Admission::Try);
    }

    #[test]
    fn a_node_that_comes_back_is_well_again() {
        let mut health = Backoff::default();
        let now = Instant::now();
        health.failed(now, 0.0, "refused".into());
        health.connected();
        assert_eq!(health.try_acquire(now, LIMIT), Admission::Try);
        assert_eq!(health.try_acquire(now, LIMIT), Admission::Try);
    }
}
