//! [`Pace`]: how long the mover leaves a source to programs between two batches.
//!
//! What programs get while the mover works is compared with what they get while it does not. Batches stay as large as they
//! are: smaller ones, or pauses within them, would keep requests for closed units waiting for longer.

use std::time::Duration;

/// Commands per second below which nobody is taken to be there. What a few clients ask about the record is not more.
const RATE_MIN: f64 = 500.0;

/// The time of work after which the rate of programs at rest is measured again.
const MEASURED_EVERY: Duration = Duration::from_millis(500);

/// The shortest pause: long enough for batches of other sources to end, and to measure.
const PAUSE_MIN: Duration = Duration::from_millis(60);

/// By how much an older measurement of the rate at rest counts less than the one before: programs may have become fewer.
const REST_KEPT: f64 = 0.9;

/// How much the newest measurement of the rate meanwhile counts.
const WORK_NEWEST: f64 = 0.3;

/// How much of a source is left to programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The share of their rate at rest that programs are to have, from 0 to below 1.
    share: f64,
    /// Commands of programs in a second while the mover pauses; the highest of late, as others may copy to the node
    /// meanwhile.
    rest: Option<f64>,
    /// Commands of programs in a second while it works.
    work: Option<f64>,
    /// Time of work since the last pause.
    worked: Duration,
}

impl Pace {
    pub(super) fn new(share: f64) -> Self {
        Self {
            share,
            rest: None,
            work: None,
            worked: Duration::ZERO,
        }
    }

    /// True if programs may have everything taken from them, so that nothing is to be measured.
    pub(super) fn is_off(&self) -> bool {
        self.share <= 0.0
    }

    /// Programs have sent so many commands while the mover worked for this time. Returns the pause that is due.
    pub(super) fn worked(&mut self, commands: u64, time: Duration) -> Option<Duration> {
        let rate = rate(commands, time);
        let former = self.work.unwrap_or(rate);
        let work = former + WORK_NEWEST * (rate - former);
        self.work = Some(work);
        self.worked += time;
        if self.is_off() || (work < RATE_MIN && self.rest.is_none_or(|rest| rest < RATE_MIN)) {
            return None;
        }
        let is_due = self.rest.is_none() || self.worked >= MEASURED_EVERY;
        let rest = self.rest.unwrap_or(work);
        // Together they have `share` of the rate at rest: (work * worked + rest * pause) / (worked + pause).
        let missing = (self.share * rest - work).max(0.0);
        let pause = self.worked.as_secs_f64() * missing / (rest * (1.0 - self.share)).max(1.0);
        let pause = Duration::from_secs_f64(pause);
        (is_due || pause >= PAUSE_MIN).then(|| pause.max(PAUSE_MIN))
    }

    /// Programs have sent so many commands in this time of a pause.
    pub(super) fn rested(&mut self, commands: u64, time: Duration) {
        let former = self.rest.unwrap_or_default();
        self.rest = Some(rate(commands, time).max(REST_KEPT * former));
        self.worked = Duration::ZERO;
    }
}

fn rate(commands: u64, time: Duration) -> f64 {
    commands as f64 / time.as_secs_f64().max(1e-3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Duration = Duration::from_millis(50);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The share of their rate at rest that programs have if they are slowed down to `slowed` while the mover works.
    fn share(share: f64, slowed: f64) -> f64 {
        const REST: f64 = 20_000.0;
        let mut pace = Pace::new(share);
        let (mut commands, mut time) = (0.0, Duration::ZERO);
        let sent = |rate: f64, time: Duration| rate * time.as_secs_f64();
        for _ in 0..1000 {
            commands += sent(slowed * REST, BATCH);
            time += BATCH;
            if let Some(pause) = pace.worked(sent(slowed * REST, BATCH) as u64, BATCH) {
                commands += sent(REST, pause);
                time += pause;
                pace.rested(sent(REST, pause) as u64, pause);
            }
        }
        commands / time.as_secs_f64() / REST
    }

    #[test]
    fn programs_have_their_share() {
        for slowed in [0.1, 0.2, 0.45, 0.58] {
            let has = share(0.6, slowed);
            assert!((0.58..0.65).contains(&has), "{slowed}: {has}");
        }
        // They have it without any pause.
        let has = share(0.6, 0.8);
        assert!((0.8..0.83).contains(&has), "{has}");
        assert!(share(0.9, 0.3) > 0.88);
    }

    #[test]
    fn nothing_is_left_to_programs_that_are_not_there() {
        let mut pace = Pace::new(0.6);
        // What the mover has not counted of its own.
        assert!((0..100).all(|_| pace.worked(10, BATCH).is_none()));
        // They come, and go.
        assert_eq!(pace.worked(5000, BATCH), Some(PAUSE_MIN));
        pace.rested(300, PAUSE_MIN);
        let pauses = |pace: &mut Pace| {
            let paused = (0..200).filter(|_| {
                let pause = pace.worked(0, BATCH);
                pause.inspect(|pause| pace.rested(0, *pause)).is_some()
            });
            paused.count()
        };
        assert!(pauses(&mut pace) > 10);
        assert_eq!(pauses(&mut pace), 0);
    }

    #[test]
    fn pause_is_off_without_a_share() {
        let mut pace = Pace::new(0.0);
        assert!(pace.is_off());
        assert_eq!(pace.worked(1000, millis(1)), None);
    }
}
