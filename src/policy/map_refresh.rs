//! [`MapRefresh`]: when the map of a cluster is asked for again.

use std::time::{Duration, Instant};

/// Time after which the map is asked for again without a reason, of which up to a quarter is taken off at random: a slot
/// that nobody uses gives no hint that it has moved.
const PERIOD: Duration = Duration::from_secs(30);

/// Pause between two rounds with a reason, of which up to a half is taken off at random, so that many clients do not ask
/// at the same time. It is doubled while reasons go on.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest such pause. A replica that is promoted is found within it.
const PAUSE_MAX: Duration = Duration::from_millis(800);

/// Time without a reason after which the pause is the shortest again.
const QUIET: Duration = Duration::from_secs(3);

/// The longest pause between the rounds that follow a suspicion. The first is [`PAUSE_MIN`], and each is twice the one
/// before, so that there are seven: the server that was asked may not have heard yet of what the suspicion is about, and
/// has repeated what is known. The last comes when the servers have sent each other their regular messages as well.
const DOUBT_PAUSE_MAX: Duration = Duration::from_millis(6_400);

/// The longest pause after a round without a good answer, if there is no reason to ask again.
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Time after which the answers of servers are believed although a map that is newer by its epochs was known: the cluster
/// was made anew, or restored.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// When the map is asked for again. Requests that were redirected, and connections that were lost, are reasons; however
/// many there are, one round answers them all. A redirect names who knows more, and is asked first; without one, as after
/// a lost connection, the map is a suspect, and a few rounds follow.
#[derive(Debug)]
pub(crate) struct MapRefresh {
    /// When the next round is due.
    due: Instant,
    /// When a round with a reason may begin.
    earliest: Instant,
    /// Before the next round with a reason.
    pause: Duration,
    /// After the next round without a good answer.
    failed_pause: Duration,
    /// When there was a reason last.
    reason_at: Option<Instant>,
    /// The pause before the next round that follows a suspicion.
    doubt_pause: Option<Duration>,
    /// True if there was one since the round began, whose answers may be older than that.
    is_wanted_again: bool,
    /// Since when all answers are older than what is known.
    behind_since: Option<Instant>,
}

/// How a round has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundOutcome {
    /// With an answer that is as new as all that is known.
    Known,
    /// With answers that are older than what is known.
    Behind,
    /// Without a good answer.
    Failed,
}

impl MapRefresh {
    /// The first round is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            due: now,
            earliest: now,
            pause: PAUSE_MIN,
            failed_pause: PAUSE_MIN,
            reason_at: None,
            doubt_pause: None,
            is_wanted_again: false,
            behind_since: None,
        }
    }

    /// There is a reason to ask.
    pub(crate) fn want(&mut self, now: Instant) {
        let is_quiet = self
            .reason_at
            .is_none_or(|at| now.saturating_duration_since(at) > QUIET);
        if is_quiet {
            self.pause = PAUSE_MIN;
        }
        self.reason_at = Some(now);
        self.is_wanted_again = true;
        self.due = self.due.min(self.earliest.max(now));
    }

    /// There is a reason to ask, and nobody has said who knows more.
    pub(crate) fn suspect(&mut self, now: Instant) {
        self.want(now);
        self.doubt_pause = Some(PAUSE_MIN);
    }

    /// Time until the next round is due: zero if it is.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// A round begins.
    pub(crate) fn began(&mut self) {
        self.is_wanted_again = false;
    }

    /// A round has ended. Returns true if what the servers say is to be believed although it is older than what is known.
    /// `entropy` is from 0 to 1.
    pub(crate) fn ended(&mut self, outcome: RoundOutcome, now: Instant, entropy: f64) -> bool {
        let entropy = entropy.clamp(0.0, 1.0);
        self.earliest = now + self.pause.mul_f64(1.0 - entropy / 2.0);
        self.pause = (2 * self.pause).min(PAUSE_MAX);
        match outcome {
            RoundOutcome::Known => {
                self.failed_pause = PAUSE_MIN;
                self.behind_since = None;
                self.due = now + PERIOD.mul_f64(1.0 - entropy / 4.0);
            }
            RoundOutcome::Behind | RoundOutcome::Failed => {
                self.due = now + self.failed_pause.mul_f64(1.0 - entropy / 2.0);
                self.failed_pause = (2 * self.failed_pause).min(FAILED_PAUSE_MAX);
            }
        }
        if self.is_wanted_again {
            self.due = self.due.min(self.earliest);
        }
        if let Some(pause) = self.doubt_pause {
            let next = self.earliest.max(now + pause.mul_f64(1.0 - entropy / 2.0));
            self.due = self.due.min(next);
            self.doubt_pause = Some(2 * pause).filter(|pause| *pause <= DOUBT_PAUSE_MAX);
        }
        if outcome != RoundOutcome::Behind {
            return false;
        }
        let since = *self.behind_since.get_or_insert(now);
        let is_over = now.saturating_duration_since(since) >= BEHIND_MAX;
        if is_over {
            self.behind_since = None;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of one millisecond while `tasks` tasks have a reason every millisecond for `time`. Returns when they began.
    fn rounds(tasks: usize, time: Duration, outcome: RoundOutcome) -> Vec<Duration> {
        let start = Instant::now();
        let mut refresh = MapRefresh::new(start);
        refresh.ended(RoundOutcome::Known, start, 0.5);
        let (mut began, mut now) = (Vec::new(), start + PERIOD / 2);
        let first = now;
        while now < first + time {
            for _ in 0..tasks {
                refresh.want(now);
            }
            if refresh.wait(now).is_zero() {
                began.push(now - first);
                refresh.began();
                now += Duration::from_millis(1);
                refresh.ended(outcome, now, 0.5);
            }
            now += Duration::from_millis(1);
        }
        began
    }

    #[test]
    fn redirects_of_many_tasks_are_one_refresh_of_the_cluster_map_at_once() {
        for tasks in [1, 10, 16_384] {
            let began = rounds(tasks, Duration::from_millis(20), RoundOutcome::Known);
            assert_eq!(began, [Duration::ZERO], "{tasks} tasks");
        }
    }

    #[test]
    fn redirects_that_go_on_for_a_minute_refresh_the_cluster_map_about_twice_a_second() {
        let began = rounds(3, Duration::from_secs(60), RoundOutcome::Known);
        assert!((60..=130).contains(&began.len()), "{} rounds", began.len());
        let pauses: Vec<Duration> = began.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses[0] < Duration::from_millis(120), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX), "{pauses:?}");
    }

    #[test]
    fn cluster_map_is_refreshed_periodically_at_different_times_and_soon_after_a_failure() {
        let now = Instant::now();
        let wait = |outcome, entropy| {
            let mut refresh = MapRefresh::new(now);
            assert!(refresh.wait(now).is_zero());
            refresh.ended(outcome, now, entropy);
            refresh.wait(now)
        };
        assert_eq!(wait(RoundOutcome::Known, 0.0), PERIOD);
        assert_eq!(wait(RoundOutcome::Known, 1.0), PERIOD * 3 / 4);
        assert_eq!(wait(RoundOutcome::Failed, 0.0), PAUSE_MIN);
        let mut refresh = MapRefresh::new(now);
        for _ in 0..20 {
            refresh.ended(RoundOutcome::Failed, now, 0.0);
        }
        assert_eq!(refresh.wait(now), FAILED_PAUSE_MAX);
        refresh.want(now);
        assert!(refresh.wait(now) <= PAUSE_MAX);
    }

    #[test]
    fn pause_between_refreshes_of_the_cluster_map_is_short_again_after_a_quiet_time() {
        let mut now = Instant::now();
        let mut refresh = MapRefresh::new(now);
        for _ in 0..10 {
            refresh.want(now);
            now += refresh.wait(now);
            refresh.began();
            refresh.ended(RoundOutcome::Known, now, 0.0);
        }
        refresh.want(now);
        assert_eq!(refresh.wait(now), PAUSE_MAX);
        now += QUIET + PAUSE_MAX + Duration::from_millis(1);
        refresh.want(now);
        assert!(refresh.wait(now).is_zero());
        refresh.began();
        refresh.ended(RoundOutcome::Known, now, 0.0);
        refresh.want(now);
        assert_eq!(refresh.wait(now), PAUSE_MIN);
    }

    #[test]
    fn redirect_during_a_refresh_of_the_cluster_map_is_followed_by_another_one() {
        let now = Instant::now();
        let mut refresh = MapRefresh::new(now);
        refresh.began();
        refresh.want(now);
        refresh.ended(RoundOutcome::Known, now, 0.0);
        assert_eq!(refresh.wait(now), PAUSE_MIN);
        refresh.began();
        refresh.ended(RoundOutcome::Known, now, 0.0);
        assert_eq!(refresh.wait(now), PERIOD);
    }

    #[test]
    fn suspected_cluster_map_is_asked_for_again_as_the_first_server_may_not_know_yet() {
        for (entropy, last) in [(0.0, 12_700), (1.0, 6_350)] {
            let mut now = Instant::now();
            let mut refresh = MapRefresh::new(now);
            refresh.ended(RoundOutcome::Known, now, entropy);
            now += PERIOD / 2;
            let start = now;
            refresh.suspect(now);
            // Two at the same time are one.
            refresh.suspect(now);
            let mut began = Vec::new();
            while refresh.wait(now) <= DOUBT_PAUSE_MAX {
                now += refresh.wait(now);
                began.push((now - start).as_millis());
                refresh.began();
                refresh.ended(RoundOutcome::Known, now, entropy);
            }
            assert_eq!(began.len(), 8, "{began:?}");
            assert_eq!((began[0], began[7]), (0, last), "{began:?}");
            assert!(refresh.wait(now) >= PERIOD * 3 / 4);
        }
    }

    #[test]
    fn older_answers_of_all_servers_are_believed_after_ten_seconds() {
        let start = Instant::now();
        let mut refresh = MapRefresh::new(start);
        let mut at = |outcome, seconds| {
            let now = start + Duration::from_secs(seconds);
            refresh.ended(outcome, now, 0.5)
        };
        assert!(!at(RoundOutcome::Behind, 0));
        assert!(!at(RoundOutcome::Failed, 5));
        assert!(!at(RoundOutcome::Behind, 9));
        assert!(at(RoundOutcome::Behind, 10));
        // Counted anew.
        assert!(!at(RoundOutcome::Behind, 11));
        assert!(!at(RoundOutcome::Known, 12));
        assert!(!at(RoundOutcome::Behind, 22));
    }
}
