//! The reconnect backoff of one node: exponential, with jitter.
//!
//! A node that cannot be reached is left alone for a while, so that requests for it fail at once instead of
//! waiting for a connect timeout each. Then one attempt at a time is admitted. One [`Backoff`] covers all
//! connections of a client to the node: the outcome of one attempt applies to all.
//!
//! ```text
//!           first failure             pause over: one attempt admitted
//!  reachable ──────────▶ down, pause ─────────────────────────────────▶ down, trying
//!      ▲                    ▲                                             │
//!      │ connected          └────── failed: pause doubled ────────────────┤
//!      │                    ◀────── inconclusive, or overdue: free again ─┤
//!      └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Time and jitter are arguments, so the rules can be tested without waiting.

use std::time::{Duration, Instant};

use crate::command::BlockingTime;
use crate::policy::ConnectError;

/// Pause after the first failed attempt, before jitter.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Longest pause between two attempts at a node that replies to the handshake with a temporary error: its data set may
/// be loaded at any time, and requests wait for it.
const BACKOFF_REFUSED_MAX: Duration = Duration::from_millis(250);

/// How much longer than its limit an attempt may take before another is admitted: its runtime may not be
/// running any more.
pub(crate) const OVERDUE_SLACK: Duration = Duration::from_millis(100);

/// The reachability of one node.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// `None` while nothing speaks against an attempt; any number of them is then admitted. The node is down unless it
    /// has replied to the last attempt with a temporary error.
    outage: Option<Outage>,
    /// Number of attempts admitted while the node was down, which is the number of the last one.
    retries: u64,
    /// Number of connections made.
    connected: u64,
    /// Number of times that the node has moved to another address.
    moves: u64,
    /// Number of failed attempts.
    failed: u64,
    /// Number of attempts without an outcome so far.
    under_way: usize,
    /// When the node was found to be reachable. `None` while it is down, and before the first connection.
    up_since: Option<Instant>,
    /// True if a connection broke and none was made since.
    broke: bool,
    /// When the outage began that was ended by somebody else, until a connection was made.
    found_since: Option<Instant>,
}

/// The state of a node, as far as a client knows it from its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeState {
    /// The client has not connected to it yet: nothing has needed it.
    Unknown,
    /// The first attempt to connect is under way.
    Connecting,
    /// The last attempt to connect succeeded.
    #[non_exhaustive]
    Up {
        /// Time since the first success after none, or after an outage.
        since: Duration,
    },
    /// The last attempt to connect failed. Requests fail at once until the next attempt.
    #[non_exhaustive]
    Down {
        /// Time since the first failure of this outage.
        since: Duration,
    },
}

/// What a new connection has changed, for those who watch the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// How long the node was down before. `None` if it was not known to be.
    pub(crate) outage: Option<Duration>,
    /// True if it is the first connection after one that broke.
    pub(crate) is_reconnect: bool,
}

/// A node that is down, or has replied to the handshake with a temporary error.
#[derive(Debug)]
struct Outage {
    /// When it failed first.
    since: Instant,
    /// Number of failures in a row, which determines the pause.
    failures: u32,
    /// End of the pause.
    retry_at: Instant,
    /// The admitted attempt under way. Others, begun before the node was known to be down, may end as well.
    retry: Option<Retry>,
    /// Why the last attempt failed; given to every request that is refused.
    reason: ConnectError,
}

/// The attempt admitted while the node is down.
#[derive(Debug)]
struct Retry {
    /// Distinguishes it from earlier ones that were overdue.
    number: u64,
    /// If it has not ended by then, it is presumed dead.
    overdue: Instant,
}

/// An attempt that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptId {
    /// Number of the retry. `None` if the node was not known to be down.
    retry: Option<u64>,
    /// Number of connections made and of moves when it began.
    generation: u64,
}

/// How much of the handshake a new connection goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeScope {
    /// All of it: the connection serves any requests.
    Full,
    /// The protocol and the login only, for a single command that servers obey while a script runs (SCRIPT KILL). They
    /// refuse SELECT and CLIENT SETNAME in the meantime, so a node that has just refused another handshake is tried.
    LoginOnly,
}

impl From<BlockingTime> for HandshakeScope {
    fn from(blocking: BlockingTime) -> Self {
        match blocking.is_out_of_band() {
            true => Self::LoginOnly,
            false => Self::Full,
        }
    }
}

/// The decision about an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Connect, and report the outcome.
    Try(AttemptId),
    /// Do not connect.
    Down(Down),
}

/// A node that is known to be down, or to refuse connections for the time being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Down {
    /// Why the last attempt failed.
    pub(crate) reason: ConnectError,
    /// Time since the node failed first.
    pub(crate) since: Duration,
    /// Time after which to ask again. An attempt under way may end sooner.
    pub(crate) retry_in: Duration,
}

impl Backoff {
    /// Asks to connect, which takes at most `limit`. An attempt admitted with [`Admission::Try`] must be
    /// ended with [`connected`](Self::connected), [`failed`](Self::failed), [`refused`](Self::refused) or
    /// [`inconclusive`](Self::inconclusive).
    pub(crate) fn try_acquire(
        &mut self,
        now: Instant,
        limit: Duration,
        scope: HandshakeScope,
    ) -> Admission {
        let generation = self.generation();
        let outage = self.outage.as_mut();
        let Some(outage) =
            outage.filter(|outage| outage.is_down() || scope == HandshakeScope::Full)
        else {
            self.under_way += 1;
            return Admission::Try(AttemptId {
                retry: None,
                generation,
            });
        };
        let free_at = outage.free_at();
        if now < free_at {
            return Admission::Down(outage.down(now));
        }
        self.retries += 1;
        self.under_way += 1;
        outage.retry = Some(Retry {
            number: self.retries,
            overdue: now + limit + OVERDUE_SLACK,
        });
        Admission::Try(AttemptId {
            retry: Some(self.retries),
            generation,
        })
    }

    /// True if the pause after the last failure is over: the next attempt may be made, or is under way.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.outage
            .as_ref()
            .is_none_or(|outage| now >= outage.retry_at)
    }

    /// A connection was made: the node is reachable for all. Returns what that has changed.
    pub(crate) fn connected(&mut self, now: Instant) -> Recovery {
        self.end_attempt();
        self.connected += 1;
        let found_since = self.found_since.take();
        let outage = self.outage.take().filter(Outage::is_down);
        let down_since = outage.map(|outage| outage.since);
        // Another connection does not begin another period of being up.
        self.up_since.get_or_insert(now);
        Recovery {
            outage: (down_since.or(found_since)).map(|since| now.saturating_duration_since(since)),
            is_reconnect: std::mem::take(&mut self.broke),
        }
    }

    /// Somebody else has found the node to be reachable: it may be tried by all. The outage ends for those who watch
    /// the node when a connection was made.
    pub(crate) fn found(&mut self) {
        if let Some(outage) = self.outage.take().filter(Outage::is_down) {
            self.found_since = Some(outage.since);
        }
    }

    /// A connection that had been made broke.
    pub(crate) fn broke(&mut self) {
        // One that broke during the first handshake was never there.
        self.broke |= self.connected > 0;
    }

    /// The node is at another address from now on: the next attempt may be made at once, and those under way prove
    /// nothing.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.moves += 1;
        if let Some(outage) = &mut self.outage {
            outage.failures = 0;
            outage.retry_at = now;
            outage.retry = None;
        }
    }

    /// Compared by attempts, to detect that a connection was made or the node has moved since they began.
    fn generation(&self) -> u64 {
        self.connected + self.moves
    }

    /// Counts the end of an attempt.
    fn end_attempt(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The attempt ended without an outcome: another one may be made at once.
    pub(crate) fn inconclusive(&mut self, attempt: AttemptId) {
        self.end_attempt();
        if let Some(outage) = &mut self.outage
            && outage.is_made_by(attempt)
        {
            outage.retry = None;
        }
    }

    /// No connection could be made. `jitter` in 0..1 spreads the attempts of many clients. Returns true if
    /// the node was not known to be down before, and is now.
    ///
    /// Of several attempts begun before the node was known to be down, only the first failure counts, as all
    /// of them have one cause. A failure is ignored if a connection was made after the attempt began.
    pub(crate) fn failed(
        &mut self,
        attempt: AttemptId,
        now: Instant,
        jitter: f64,
        reason: ConnectError,
    ) -> bool {
        let was_down = self.down().is_some() || self.found_since.is_some();
        let is_recorded = self.record(attempt, now, jitter, reason);
        if is_recorded {
            self.up_since = None;
        }
        is_recorded && !was_down
    }

    /// The server replied to the handshake with a temporary error: the node is reachable, and the next attempt is made
    /// after a pause. Returns what that has changed.
    pub(crate) fn refused(
        &mut self,
        attempt: AttemptId,
        now: Instant,
        jitter: f64,
        reason: ConnectError,
    ) -> Recovery {
        let down_since = self.down().map(|outage| outage.since).or(self.found_since);
        if !self.record(attempt, now, jitter, reason) {
            return Recovery::default();
        }
        self.up_since.get_or_insert(now);
        Recovery {
            outage: down_since.map(|since| now.saturating_duration_since(since)),
            is_reconnect: false,
        }
    }

    /// Records that an attempt made no connection. Returns false if that is ignored.
    fn record(
        &mut self,
        attempt: AttemptId,
        now: Instant,
        jitter: f64,
        reason: ConnectError,
    ) -> bool {
        self.end_attempt();
        self.failed += 1;
        let is_down = !reason.is_refusal();
        let (since, failures) = match &self.outage {
            // The node became reachable, or moved, while this attempt was under way; its failure is older news.
            None if attempt.generation != self.generation() => return false,
            None => (self.found_since.take().unwrap_or(now), 1),
            Some(outage) if !outage.is_made_by(attempt) => return false,
            Some(outage) if outage.is_down() == is_down => {
                (outage.since, outage.failures.saturating_add(1))
            }
            Some(_) => (now, 1),
        };
        let pause = pause(failures, jitter);
        self.outage = Some(Outage {
            since,
            failures,
            retry_at: match is_down {
                true => now + pause,
                false => now + pause.min(BACKOFF_REFUSED_MAX),
            },
            retry: None,
            reason,
        });
        true
    }

    /// The outage of a node that is down.
    fn down(&self) -> Option<&Outage> {
        self.outage.as_ref().filter(|outage| outage.is_down())
    }

    /// The known state of the node.
    pub(crate) fn state(&self, now: Instant) -> NodeState {
        match (self.down(), self.up_since) {
            (Some(outage), _) => NodeState::Down {
                since: now.saturating_duration_since(outage.since),
            },
            (None, Some(since)) => NodeState::Up {
                since: now.saturating_duration_since(since),
            },
            (None, None) if self.under_way > 0 => NodeState::Connecting,
            (None, None) => NodeState::Unknown,
        }
    }

    /// Number of failures in a row; zero unless the node is down.
    pub(crate) fn failures(&self) -> u32 {
        self.down().map_or(0, |outage| outage.failures)
    }

    /// Time until the next attempt is admitted. `None` unless the node is down.
    pub(crate) fn next_attempt(&self, now: Instant) -> Option<Duration> {
        let outage = self.down()?;
        Some(outage.retry_at.saturating_duration_since(now))
    }
}

/// For connections that are made again in the background.
#[cfg(any(feature = "tokio-comp", test))]
impl Backoff {
    /// Why and since when the node is unreachable. `None` if it is not known to be.
    pub(crate) fn outage(&self, now: Instant) -> Option<Down> {
        self.outage.as_ref().map(|outage| outage.down(now))
    }

    /// Number of attempts that have failed so far.
    pub(crate) fn failed_count(&self) -> u64 {
        self.failed
    }
}

impl Outage {
    /// True if the node cannot be reached.
    fn is_down(&self) -> bool {
        !self.reason.is_refusal()
    }

    /// Earliest time of the next attempt, unless the one under way ends before.
    fn free_at(&self) -> Instant {
        match &self.retry {
            None => self.retry_at,
            Some(retry) => retry.overdue.max(self.retry_at),
        }
    }

    /// The state, as given to a request that is refused.
    fn down(&self, now: Instant) -> Down {
        Down {
            reason: self.reason.clone(),
            since: now.saturating_duration_since(self.since),
            // Capped, as an attempt may have a connect timeout of minutes, and its end can be noticed only by
            // asking.
            retry_in: (self.free_at().saturating_duration_since(now)).min(BACKOFF_MAX),
        }
    }

    /// True if `attempt` is the retry under way; one that was overdue and replaced is not.
    fn is_made_by(&self, attempt: AttemptId) -> bool {
        let under_way = self.retry.as_ref().map(|retry| retry.number);
        under_way.is_some() && under_way == attempt.retry
    }
}

/// Pause after `failures` failures in a row: [`BACKOFF_MIN`], doubled with each, at most [`BACKOFF_MAX`], of
/// which between half and all, by `jitter`.
pub(crate) fn pause(failures: u32, jitter: f64) -> Duration {
    pause_between((BACKOFF_MIN, BACKOFF_MAX), failures, jitter)
}

/// Pause after `failures` failures in a row: `min`, doubled with each, at most `max`, of which between half
/// and all, by `jitter`.
pub(crate) fn pause_between(
    (min, max): (Duration, Duration),
    failures: u32,
    jitter: f64,
) -> Duration {
    // The shift stops where the maximum has long been reached, before it overflows.
    min.saturating_mul(1 << failures.saturating_sub(1).min(24))
        .min(max)
        .mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn node_that_moves_is_tried_at_once_and_attempts_at_its_old_address_prove_nothing() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let attempt = |admission| match admission {
            Admission::Try(attempt) => attempt,
            Admission::Down(down) => panic!("{down:?}"),
        };
        for number in 1..=5 {
            let later = now + number * Duration::from_secs(60);
            let id = attempt(backoff.try_acquire(later, LIMIT, HandshakeScope::Full));
            backoff.failed(id, later, 1.0, "refused".into());
        }
        let now = now + 5 * Duration::from_secs(60);
        assert!(!backoff.is_due(now));
        backoff.moved(now);
        let first = attempt(backoff.try_acquire(now, LIMIT, HandshakeScope::Full));
        // It moves again while that attempt is under way, whose failure says nothing of the new address.
        backoff.moved(now);
        attempt(backoff.try_acquire(now, LIMIT, HandshakeScope::Full));
        assert!(!backoff.failed(first, now, 1.0, "refused".into()));
        assert!(backoff.connected(now).outage.is_some());
        // So it is for one that began before the node was known to be down.
        let early = attempt(backoff.try_acquire(now, LIMIT, HandshakeScope::Full));
        backoff.moved(now);
        assert!(!backoff.failed(early, now, 1.0, "refused".into()));
        assert_eq!(backoff.failures(), 0);
    }

    /// An attempt that must be admitted.
    #[track_caller]
    fn attempt(backoff: &mut Backoff, now: Instant) -> AttemptId {
        match backoff.try_acquire(now, LIMIT, HandshakeScope::Full) {
            Admission::Try(attempt) => attempt,
            Admission::Down(down) => panic!("{down:?}"),
        }
    }

    #[track_caller]
    fn down(backoff: &mut Backoff, now: Instant) -> Down {
        match backoff.try_acquire(now, LIMIT, HandshakeScope::Full) {
            Admission::Try(_) => panic!("an attempt too many"),
            Admission::Down(down) => down,
        }
    }

    fn fail(backoff: &mut Backoff, now: Instant) {
        let attempt = attempt(backoff, now);
        backoff.failed(attempt, now, 1.0, "refused".into());
    }

    #[test]
    fn backoff_allows_one_attempt_at_a_time() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        fail(&mut backoff, start);
        assert_eq!(down(&mut backoff, start).retry_in, BACKOFF_MIN);
        let later = start + BACKOFF_MIN;
        attempt(&mut backoff, later);
        let taken_over = LIMIT + OVERDUE_SLACK;
        let expected = Down {
            reason: "refused".into(),
            since: BACKOFF_MIN,
            retry_in: BACKOFF_MAX,
        };
        assert_eq!(down(&mut backoff, later), expected, "beside the first");
        // The one who tries does not go on, and what comes of it counts no more.
        let second = attempt(&mut backoff, later + taken_over);
        backoff.inconclusive(AttemptId {
            retry: Some(1),
            generation: 0,
        });
        down(&mut backoff, later + taken_over);
        backoff.inconclusive(second);
        attempt(&mut backoff, later + taken_over);
    }

    #[test]
    fn backoff_grows_up_to_its_maximum() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            fail(&mut backoff, now);
            let pause = down(&mut backoff, now).retry_in;
            assert!(pause >= last && pause <= BACKOFF_MAX, "{pause:?}");
            last = pause;
            now += BACKOFF_MAX;
        }
        assert_eq!(last, BACKOFF_MAX);
    }

    #[test]
    fn backoff_counts_simultaneous_failures_as_one() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let together: Vec<_> = (0..50).map(|_| attempt(&mut backoff, now)).collect();
        for attempt in together {
            backoff.failed(attempt, now, 1.0, "refused".into());
        }
        assert_eq!(down(&mut backoff, now).retry_in, BACKOFF_MIN);
        assert_eq!(backoff.failed_count(), 50);
    }

    #[test]
    fn backoff_ignores_a_failure_after_another_attempt_succeeded() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let slow = attempt(&mut backoff, now);
        attempt(&mut backoff, now);
        backoff.connected(now);
        backoff.failed(slow, now + LIMIT, 1.0, "timed out".into());
        assert_eq!(backoff.outage(now + LIMIT), None);
    }

    #[test]
    fn backoff_allows_the_next_attempt_after_an_inconclusive_one() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let early = attempt(&mut backoff, now);
        fail(&mut backoff, now);
        let due = now + BACKOFF_MIN;
        let retry = attempt(&mut backoff, due);
        backoff.inconclusive(early);
        down(&mut backoff, due);
        backoff.inconclusive(retry);
        attempt(&mut backoff, due);
    }

    #[test]
    fn backoff_is_reset_for_all_connections_by_one_success() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        fail(&mut backoff, now);
        assert!(!backoff.is_due(now) && backoff.is_due(now + BACKOFF_MIN));
        backoff.connected(now);
        assert!(backoff.is_due(now));
        attempt(&mut backoff, now);
        attempt(&mut backoff, now);
        // It starts with the shortest pause again.
        fail(&mut backoff, now);
        assert_eq!(down(&mut backoff, now).retry_in, BACKOFF_MIN);
    }

    #[test]
    fn node_that_refuses_a_handshake_for_the_time_being_is_up_and_tried_after_short_pauses() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        fail(&mut backoff, start);
        let mut now = start + BACKOFF_MAX;
        let refuse = |backoff: &mut Backoff, now| {
            let attempt = attempt(backoff, now);
            backoff.refused(
                attempt,
                now,
                1.0,
                ConnectError::Refused("LOADING no".into()),
            )
        };
        let recovery = refuse(&mut backoff, now);
        assert_eq!(recovery.outage, Some(BACKOFF_MAX), "it is reached again");
        for _ in 0..10 {
            let since = now - start - BACKOFF_MAX;
            assert_eq!(backoff.state(now), NodeState::Up { since });
            assert_eq!((backoff.failures(), backoff.next_attempt(now)), (0, None));
            let down = down(&mut backoff, now);
            assert!(down.reason.is_refusal() && down.retry_in <= BACKOFF_REFUSED_MAX);
            // SCRIPT KILL is not held up.
            let admission = backoff.try_acquire(now, LIMIT, HandshakeScope::LoginOnly);
            let Admission::Try(attempt) = admission else {
                panic!("{admission:?}");
            };
            backoff.inconclusive(attempt);
            now += down.retry_in;
            assert_eq!(refuse(&mut backoff, now), Recovery::default());
        }
        now += BACKOFF_REFUSED_MAX;
        attempt(&mut backoff, now);
        assert_eq!(backoff.connected(now), Recovery::default(), "it was up");
        // And a node that refuses can go down.
        refuse(&mut backoff, now);
        now += BACKOFF_REFUSED_MAX;
        let attempt = attempt(&mut backoff, now);
        assert!(backoff.failed(attempt, now, 1.0, "refused".into()));
        let since = Duration::ZERO;
        assert_eq!(backoff.state(now), NodeState::Down { since });
    }

    #[test]
    fn node_state_follows_the_attempts_to_connect() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        assert_eq!(backoff.state(start), NodeState::Unknown);
        let given_up = attempt(&mut backoff, start);
        assert_eq!(backoff.state(start), NodeState::Connecting);
        backoff.inconclusive(given_up);
        assert_eq!(backoff.state(start), NodeState::Unknown);
        let first = attempt(&mut backoff, start);
        assert!(backoff.failed(first, start, 1.0, "refused".into()));
        let later = start + BACKOFF_MIN;
        let since = BACKOFF_MIN;
        assert_eq!(backoff.state(later), NodeState::Down { since });
        assert_eq!(backoff.failures(), 1);
        assert_eq!(backoff.next_attempt(start), Some(BACKOFF_MIN));
        let second = attempt(&mut backoff, later);
        // The outage goes on, so it is no news.
        assert!(!backoff.failed(second, later, 1.0, "refused".into()));
        assert_eq!(backoff.failures(), 2);
        let back = later + BACKOFF_MAX;
        attempt(&mut backoff, back);
        let recovery = backoff.connected(back);
        assert_eq!(recovery.outage, Some(back - start));
        assert!(!recovery.is_reconnect, "nothing broke");
        assert_eq!((backoff.failures(), backoff.next_attempt(back)), (0, None));
        // A second connection does not begin another period.
        attempt(&mut backoff, back);
        assert_eq!(backoff.connected(back + LIMIT), Recovery::default());
        let since = LIMIT;
        assert_eq!(backoff.state(back + LIMIT), NodeState::Up { since });
    }

    #[test]
    fn backoff_admits_all_attempts_once_somebody_else_has_found_the_node() {
        for reconnects in [true, false] {
            let mut backoff = Backoff::default();
            let start = Instant::now();
            fail(&mut backoff, start);
            down(&mut backoff, start);
            backoff.found();
            let both = [attempt(&mut backoff, start), attempt(&mut backoff, start)];
            let later = start + LIMIT;
            if reconnects {
                // The end of the outage is news with the first connection, and once.
                assert_eq!(backoff.connected(later).outage, Some(LIMIT));
                assert_eq!(backoff.connected(later).outage, None);
            } else {
                // The same outage goes on.
                let is_news = backoff.failed(both[0], later, 1.0, "refused".into());
                assert!(!is_news);
                assert_eq!(backoff.state(later), NodeState::Down { since: LIMIT });
            }
        }
    }

    #[test]
    fn recovery_is_a_reconnect_once_after_a_connection_that_broke() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        backoff.broke();
        attempt(&mut backoff, now);
        let first = backoff.connected(now);
        assert!(!first.is_reconnect, "during the handshake nothing was made");
        backoff.broke();
        backoff.broke();
        for expected in [true, false] {
            attempt(&mut backoff, now);
            assert_eq!(backoff.connected(now).is_reconnect, expected);
        }
    }
}
