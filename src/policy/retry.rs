//! [`RetryPolicy`]: how often may a request be sent again, and after which pause?
//!
//! [`TemporaryErrors`] is its choice for nodes that reply, but serve nothing for a while.

use std::time::Duration;

use crate::policy::{BACKOFF_MAX, BACKOFF_MIN, pause_between};

/// Maximum number of times that a request is resent under [`RetryPolicy::READS`].
///
/// One is enough for a connection that the server or a middlebox closed while it was idle. A node that breaks
/// new connections as well is not helped by more of them.
const RESENDS_MAX: u16 = 1;

/// Maximum number of attempts that [`RetryPolicy::attempts`] can set.
pub const RETRY_ATTEMPTS_MAX: u32 = 1000;

/// Longest pause that [`RetryPolicy::with_backoff`] can set.
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);

/// Shortest pause that [`RetryPolicy::with_backoff`] can set: without pauses, a node that is down would be tried
/// in a busy loop.
pub(crate) const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(1);

/// Longest time that a request without a deadline waits, in pauses, for a node that replies with
/// [temporary errors](TemporaryErrors). With a deadline, the deadline alone decides.
pub const TEMPORARY_ERRORS_WAIT_MAX: Duration = Duration::from_secs(60);

/// What follows an error reply with which a server turns a command down for the time being, before any of it has
/// run: `LOADING` (it reads its data set after a restart), `BUSY` (a script runs), `MASTERDOWN` (a replica without
/// its primary), `CLUSTERDOWN` and `TRYAGAIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemporaryErrors {
    /// The error is returned, like any other error reply.
    Returned,
    /// The request is sent again, with pauses in between, until the node serves it. When its time is over, the
    /// server's last error is returned. The time is that of the request: see
    /// [`Builder::response_timeout`](crate::Builder::response_timeout). A request without a deadline waits for
    /// [`TEMPORARY_ERRORS_WAIT_MAX`](crate::builder::TEMPORARY_ERRORS_WAIT_MAX).
    Waited,
}

/// When a request that failed is sent again, within its one response timeout.
///
/// Under every policy, a write that may have been applied is never repeated: it fails with
/// [`Unknown`](crate::ErrorKind::Unknown). Only requests that were never sent, reads without a reply, and
/// commands that the server refused before it ran them are repeated.
///
/// | failure | [`OFF`](Self::OFF) | [`READS`](Self::READS) | [`attempts`](Self::attempts) |
/// |---|---|---|---|
/// | the connection broke: a read, or never sent | returned | resent once, at once | resent, the first time at once |
/// | no connection: refused, unreachable, the node is known to be down | returned | returned | resent after a pause |
/// | `LOADING`, `BUSY`, `MASTERDOWN`, `CLUSTERDOWN`, `TRYAGAIN`: see [`TemporaryErrors`] | returned | resent after pauses, until the deadline | resent after pauses, until the deadline |
/// | `READONLY`, `NOREPLICAS` | returned | returned | resent after a pause |
/// | the connection broke under a write that was sent | returned | returned | returned |
/// | no reply in time, no free connection, wrong password | returned | returned | returned |
///
/// A request is repeated on its own node. Of a command that is split or goes to all nodes, and of a pipeline,
/// only the requests of the node that failed are repeated, from the first that failed on, so that their order
/// never changes: a pipeline in which a write without an error follows a refused command keeps the refusal. A
/// transaction is repeated as a whole, and only if none of it was run.
///
/// These are returned at once under every policy:
///
/// * Error replies to `EVAL`, `EVALSHA` and `FCALL`: the script may have chosen the code itself, after it has
///   written. Those to `EVAL_RO`, `EVALSHA_RO` and `FCALL_RO` are repeated if their text is that of a server.
/// * Temporary errors in reply to `PING`, `INFO` and `ROLE`, which ask for the state of the node:
///   [`ping_nodes`](crate::ShardedClient::ping_nodes) never waits.
/// * Everything over a [`Dedicated`](crate::Dedicated) connection. Opening one is repeated, also if the node
///   replies to the handshake with a temporary error.
///
/// ```
/// use std::time::Duration;
///
/// use redis_sharding::{RetryPolicy, ShardedClient};
///
/// let patient = RetryPolicy::attempts(6).with_backoff(Duration::from_millis(100), Duration::from_secs(2));
/// let client = ShardedClient::builder().node("a", "redis://10.0.0.1/").retry(patient).build()?;
/// let hasty = client.with_retry(RetryPolicy::OFF);
/// # Ok::<(), redis_sharding::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Maximum number of times that a request is sent to one node. Small types, as each node of a request keeps a
    /// copy of the policy.
    attempts: u16,
    /// True if failures that take time to pass are waited for.
    waits: bool,
    temporary_errors: TemporaryErrors,
    /// The first pause and the longest one, in milliseconds.
    backoff_min: u32,
    backoff_max: u32,
}

impl RetryPolicy {
    /// Sends nothing again: the first failure is returned.
    pub const OFF: Self = Self::new(1, false).with_temporary_errors(TemporaryErrors::Returned);

    /// Resends a request whose connection broke once, without a pause, if it is a read or was never sent. Waits for
    /// a node that replies with [temporary errors](TemporaryErrors).
    pub const READS: Self = Self::new(1 + RESENDS_MAX, false);

    /// Sends a request up to `attempts` times, the first time included, with pauses in between. From 1 to
    /// [`RETRY_ATTEMPTS_MAX`]. Attempts that end with a [temporary error](TemporaryErrors) are not counted.
    ///
    /// An attempt that would begin after the response timeout is not made, and the last failure is returned
    /// at once.
    pub const fn attempts(attempts: u32) -> Self {
        // `u16::MAX` is out of range too, so the builder refuses whatever does not fit.
        let is_small = attempts < u16::MAX as u32;
        Self::new(if is_small { attempts as u16 } else { u16::MAX }, true)
    }

    const fn new(attempts: u16, waits: bool) -> Self {
        Self {
            attempts,
            waits,
            temporary_errors: TemporaryErrors::Waited,
            backoff_min: BACKOFF_MIN.as_millis() as u32,
            backoff_max: BACKOFF_MAX.as_millis() as u32,
        }
    }

    /// Sets what follows a temporary error, such as `LOADING`. Defaults to [`TemporaryErrors::Waited`], except for
    /// [`OFF`](Self::OFF).
    #[must_use]
    pub const fn with_temporary_errors(self, temporary_errors: TemporaryErrors) -> Self {
        Self {
            temporary_errors,
            ..self
        }
    }

    /// Sets the pauses between attempts: the first takes `min`, and each further one twice as long, up to `max`.
    /// Each is shortened at random, by up to a half. Pauses for a node that replies with
    /// [temporary errors](TemporaryErrors) are counted by themselves, and become shorter before the deadline. From 1 ms to [`RETRY_BACKOFF_MAX`], in whole milliseconds.
    /// Defaults to 50 ms and 1 s.
    #[must_use]
    pub const fn with_backoff(self, min: Duration, max: Duration) -> Self {
        Self {
            backoff_min: millis(min),
            backoff_max: millis(max),
            ..self
        }
    }

    /// Maximum number of times that a request is sent to one node.
    pub(crate) fn attempts_max(&self) -> u32 {
        self.attempts.into()
    }

    /// What follows a temporary error.
    pub(crate) fn temporary_errors(&self) -> TemporaryErrors {
        self.temporary_errors
    }

    /// True if failures that take time to pass are waited for.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// The first pause and the longest one.
    pub(crate) fn backoff(&self) -> (Duration, Duration) {
        let millis = |count: u32| Duration::from_millis(count.into());
        (millis(self.backoff_min), millis(self.backoff_max))
    }

    /// Pause number `number`, from 1; `jitter` in 0..1.
    pub(crate) fn pause(&self, number: u32, jitter: f64) -> Duration {
        pause_between(self.backoff(), number, jitter)
    }

    /// The policy with each number that is out of its range replaced by the nearest one.
    pub(crate) fn clamped(mut self) -> Self {
        let (min, max) = self.backoff();
        let clamp = |pause: Duration| pause.clamp(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX);
        self.attempts = self.attempts.clamp(1, RETRY_ATTEMPTS_MAX as u16);
        self.with_backoff(clamp(min), clamp(max).max(clamp(min)))
    }
}

impl Default for RetryPolicy {
    /// [`READS`](Self::READS).
    fn default() -> Self {
        Self::READS
    }
}

/// Whole milliseconds, or the largest number of them.
const fn millis(pause: Duration) -> u32 {
    let millis = pause.as_millis();
    if millis > u32::MAX as u128 {
        u32::MAX
    } else {
        millis as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_pauses_double_up_to_the_longest_and_at_most_half_is_taken_off() {
        let policy = RetryPolicy::attempts(9)
            .with_backoff(Duration::from_millis(10), Duration::from_millis(45));
        let pauses =
            |jitter| [1, 2, 3, 4, 1000].map(|number| policy.pause(number, jitter).as_micros());
        assert_eq!(pauses(1.0), [10_000, 20_000, 40_000, 45_000, 45_000]);
        assert_eq!(pauses(0.0), [5_000, 10_000, 20_000, 22_500, 22_500]);
    }

    #[test]
    fn retry_policy_out_of_its_range_is_clamped_for_a_handle() {
        let ranges = [
            (RetryPolicy::attempts(0), 1),
            (RetryPolicy::attempts(u32::MAX), RETRY_ATTEMPTS_MAX),
        ];
        for (policy, attempts) in ranges {
            let policy = policy.with_backoff(Duration::MAX, Duration::ZERO).clamped();
            assert_eq!(policy.attempts_max(), attempts);
            assert_eq!(policy.backoff(), (RETRY_BACKOFF_MAX, RETRY_BACKOFF_MAX));
        }
        let kept = RetryPolicy::attempts(5);
        assert_eq!(kept.clamped(), kept);
    }
}
