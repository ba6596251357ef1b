//! Which server is the primary that Sentinel names, and when is Sentinel asked again?
//!
//! * [`SentinelWatch`]: decides from the replies of several Sentinels which address a node's connections go to.
//! * `replies`: the requests to one Sentinel, and its replies; `list`: the Sentinels that are asked.
//! * `source`: a group of Sentinels as the address of a node, and its URL.
//!
//! Sentinels are asked in rounds: every one that can be reached, each for all masters of the group. A Sentinel may lag
//! behind the others, so its config-epoch decides:
//!
//! ```text
//!  reply of one Sentinel                             known primary
//!  ─────────────────────                             ─────────────
//!  the first ones: from a majority of the group ───▶ none yet: the one of the largest epoch
//!  a larger epoch ─────────────────────────────────▶ replaced at once
//!  the same epoch, or a smaller one ───────────────▶ kept
//!    unless a majority contradicts it for LAG_MAX,   replaced: the group was set up anew
//!    and no Sentinel confirms it
//! ```
//!
//! Time and jitter are arguments, and nothing is sent here: `sentinel` moves the bytes.

mod list;
mod replies;
mod source;
mod url;

use std::time::{Duration, Instant};

use crate::policy::pause_between;

pub(crate) use self::list::SentinelList;
pub use self::replies::SENTINELS_MAX;
pub(crate) use self::replies::{HostPort, MasterReport, Questions, Report, is_pong, subscribe};
pub(crate) use self::source::{NodeAccess, SentinelSource, at_host};
pub(super) use self::url::{SentinelUrl, has_sentinel_scheme};

/// Time between two rounds while nothing is suspected: announcements can be lost.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// Shortest and longest time between two rounds while an answer is awaited.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long the rounds are more frequent after a primary was suspected, if Sentinel names no other.
const SUSPICION_MAX: Duration = Duration::from_secs(60);

/// How long a Sentinel may lag behind: they send one another their view every two seconds.
const LAG_MAX: Duration = Duration::from_secs(10);

/// The primaries of the masters that one group of Sentinels watches.
#[derive(Debug)]
pub(crate) struct SentinelWatch {
    masters: Vec<MasterWatch>,
    /// Number of Sentinels that were given: the group is at least as large, whatever one of them claims.
    given: usize,
    /// When the next round is due.
    next: Instant,
    /// When the last round ended.
    last: Option<Instant>,
    /// Number of rounds since the last change of what is awaited, for the pauses between them.
    tries: u32,
}

/// What is known of one master.
#[derive(Debug, Default)]
struct MasterWatch {
    current: Option<Primary>,
    /// The answers of this round, at most one for each Sentinel.
    answers: Vec<Answer>,
    /// Since when its primary is suspected not to be one any more.
    suspected: Option<Instant>,
    /// Since when a majority contradicts `current`.
    contradicted: Option<Instant>,
}

/// A primary, with the config-epoch in which it became one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Primary {
    address: HostPort,
    epoch: u64,
}

/// The answer of one Sentinel.
#[derive(Debug)]
struct Answer {
    /// The id of the Sentinel, or its address.
    sentinel: String,
    /// `None` if it does not know the master.
    primary: Option<Primary>,
    /// Number of Sentinels that watch the master, as far as this one knows.
    group: usize,
}

/// How a round ended for one master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoundEnd {
    /// Its primary is known, and has not changed.
    Known,
    /// Its connections go to this address from now on.
    Switch(HostPort),
    /// Every Sentinel that replied has no master of this name.
    NoSuchMaster,
    /// No Sentinel replied.
    NoReply,
}

impl SentinelWatch {
    /// No masters of a group of which `given` Sentinels are known.
    pub(crate) fn new(given: usize, now: Instant) -> Self {
        Self {
            masters: Vec::new(),
            given,
            next: now,
            last: None,
            tries: 0,
        }
    }

    /// Makes room for masters, of which nothing is known: the next round is due.
    pub(crate) fn extend_to(&mut self, count: usize, now: Instant) {
        if self.masters.len() < count {
            self.masters.resize_with(count, MasterWatch::default);
            self.announced(now);
        }
    }

    /// The address of the primary of this master, if it is known.
    pub(crate) fn current(&self, master: usize) -> Option<&HostPort> {
        let primary = self.masters.get(master)?.current.as_ref()?;
        Some(&primary.address)
    }

    /// True if every primary is known. Before that, a round is not cut short: its end decides.
    pub(crate) fn knows_all(&self) -> bool {
        self.masters.iter().all(|master| master.current.is_some())
    }

    /// Time until the next round is due.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// A connection to the primary of this master was lost or could not be made, or the server turned out to be a
    /// replica: the next round is due at once, or soon if there was one just now.
    pub(crate) fn suspect(&mut self, master: usize, now: Instant) {
        let Some(master) = self.masters.get_mut(master) else {
            return;
        };
        if master.suspected.is_none() {
            self.tries = 0;
        }
        master.suspected = Some(now);
        let soonest = self.last.map_or(now, |last| last + ASK_AGAIN.0);
        let due = self.next.min(soonest + self.pause_of_tries());
        self.next = due.max(now);
    }

    /// A connection to the primary of this master was made, and the server says that it is one.
    pub(crate) fn confirmed(&mut self, master: usize) {
        if let Some(master) = self.masters.get_mut(master) {
            master.suspected = None;
        }
    }

    /// A Sentinel has announced a new primary, or announcements may have been missed: the next round is due at once.
    pub(crate) fn announced(&mut self, now: Instant) {
        self.tries = 0;
        self.next = now;
    }

    /// Records what one Sentinel, known by its id or address, says of a master. Returns the address that
    /// connections go to from now on, if it is another one.
    pub(crate) fn answered(
        &mut self,
        master: usize,
        sentinel: &str,
        report: Option<&MasterReport>,
    ) -> Option<HostPort> {
        let master = self.masters.get_mut(master)?;
        // One server may be known by several addresses, and must not count twice.
        let is_known = master.answers.iter().any(|one| one.sentinel == sentinel);
        if is_known || master.answers.len() >= SENTINELS_MAX {
            return None;
        }
        let primary = report.map(|report| Primary {
            address: report.address.clone(),
            epoch: report.epoch,
        });
        master.answers.push(Answer {
            sentinel: sentinel.to_owned(),
            primary: primary.clone(),
            group: report.map_or(1, |report| 1 + report.sentinels.len()),
        });
        match &master.current {
            None if master.answers.len() >= master.majority(self.given) => master.take_newest(),
            Some(current) if primary.as_ref()?.epoch > current.epoch => master.set(primary?),
            _ => None,
        }
    }

    /// Ends the round for one master: everyone that can be reached was asked.
    pub(crate) fn end_round(&mut self, master: usize, now: Instant) -> RoundEnd {
        let Some(master) = self.masters.get_mut(master) else {
            return RoundEnd::Known;
        };
        let switched = match master.current {
            None => master.take_newest(),
            Some(_) => master.give_in(self.given, now),
        };
        let is_empty = master.answers.is_empty();
        master.answers.clear();
        if master
            .suspected
            .is_some_and(|since| now.saturating_duration_since(since) > SUSPICION_MAX)
        {
            master.suspected = None;
        }
        match switched {
            Some(address) => RoundEnd::Switch(address),
            None if master.current.is_some() => RoundEnd::Known,
            None if is_empty => RoundEnd::NoReply,
            None => RoundEnd::NoSuchMaster,
        }
    }

    /// Schedules the next round, after this one has ended for all masters. `jitter` in 0..1 keeps many clients from
    /// asking in step.
    pub(crate) fn schedule(&mut self, now: Instant, jitter: f64) {
        self.last = Some(now);
        self.tries = self.tries.saturating_add(1);
        let is_awaited = |master: &MasterWatch| {
            master.current.is_none() || master.suspected.is_some() || master.contradicted.is_some()
        };
        let pause = match self.masters.iter().any(is_awaited) {
            true => pause_between(ASK_AGAIN, self.tries, jitter),
            false => {
                self.tries = 0;
                ASK_INTERVAL.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
            }
        };
        self.next = now + pause;
    }

    /// The pause that the rounds so far have earned, without jitter.
    fn pause_of_tries(&self) -> Duration {
        match self.tries {
            0 => Duration::ZERO,
            tries => pause_between(ASK_AGAIN, tries, 0.0),
        }
    }
}

impl MasterWatch {
    /// Number of Sentinels that are a majority of the group.
    fn majority(&self, given: usize) -> usize {
        let group = self.answers.iter().map(|answer| answer.group).max();
        group.unwrap_or(1).max(given) / 2 + 1
    }

    /// Records the primary. Returns its address if it is another one, and the suspicion against the one before is over.
    fn set(&mut self, primary: Primary) -> Option<HostPort> {
        self.contradicted = None;
        let before = self.current.replace(primary.clone());
        let is_same = before.is_some_and(|before| before.address == primary.address);
        if !is_same {
            self.suspected = None;
        }
        (!is_same).then_some(primary.address)
    }

    /// Takes the answer of the largest epoch; of several, the one that most Sentinels give.
    fn take_newest(&mut self) -> Option<HostPort> {
        let known = || self.answers.iter().filter_map(|one| one.primary.as_ref());
        let votes = |primary: &Primary| known().filter(|other| *other == primary).count();
        let newest = known().max_by_key(|primary| (primary.epoch, votes(primary)));
        let newest = newest.cloned()?;
        self.set(newest)
    }

    /// Replaces a primary that a majority has contradicted for long, and that nobody confirms.
    fn give_in(&mut self, given: usize, now: Instant) -> Option<HostPort> {
        let current = self.current.as_ref()?;
        let known = || self.answers.iter().filter_map(|one| one.primary.as_ref());
        let votes = |address: &HostPort| known().filter(|one| one.address == *address).count();
        let rival = known()
            .filter(|other| other.address != current.address)
            .max_by_key(|other| (votes(&other.address), other.epoch))
            .filter(|other| votes(&other.address) >= self.majority(given))
            .filter(|_| votes(&current.address) == 0)
            .cloned();
        let Some(rival) = rival else {
            // Without a majority of the group nothing is known of the others: the time so far still counts.
            if votes(&current.address) > 0 {
                self.contradicted = None;
            }
            return None;
        };
        let since = *self.contradicted.get_or_insert(now);
        match now.saturating_duration_since(since) >= LAG_MAX {
            true => self.set(rival),
            false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> HostPort {
        HostPort {
            host: "10.0.0.1".into(),
            port,
        }
    }

    /// The report of a Sentinel of a group of `group`.
    fn report(port: u16, epoch: u64, group: u16) -> MasterReport {
        MasterReport {
            address: at(port),
            epoch,
            sentinels: (1..group).map(|other| at(26_000 + other)).collect(),
        }
    }

    /// One master, of whose Sentinels one was given.
    fn watch(now: Instant) -> SentinelWatch {
        watch_of(1, now)
    }

    fn watch_of(given: usize, now: Instant) -> SentinelWatch {
        let mut watch = SentinelWatch::new(given, now);
        watch.extend_to(1, now);
        watch
    }

    /// One round in which these Sentinels answer; returns every switch and the end.
    fn round(
        watch: &mut SentinelWatch,
        now: Instant,
        answers: &[(&str, u16, u64)],
    ) -> (Vec<u16>, RoundEnd) {
        let mut switches = Vec::new();
        for (sentinel, port, epoch) in answers {
            let switched = watch.answered(0, sentinel, Some(&report(*port, *epoch, 3)));
            switches.extend(switched.map(|address| address.port));
        }
        let end = watch.end_round(0, now);
        watch.schedule(now, 0.5);
        (switches, end)
    }

    #[test]
    fn first_primary_is_that_of_the_largest_epoch_within_a_majority() {
        let now = Instant::now();
        // The first Sentinel lags behind. Two of three are a majority, so the third is not waited for.
        let mut behind = watch(now);
        let lag = report(1, 4, 3);
        assert_eq!(behind.answered(0, "s1", Some(&lag)), None);
        // The same Sentinel under another address is no second voice.
        assert_eq!(behind.answered(0, "s1", Some(&lag)), None);
        assert_eq!(
            behind.answered(0, "s2", Some(&report(2, 5, 3))),
            Some(at(2))
        );
        assert_eq!(behind.answered(0, "s3", Some(&report(2, 5, 3))), None);
        assert_eq!(behind.end_round(0, now), RoundEnd::Known);
        // If no other can be reached, the end of the round decides.
        let mut alone = watch(now);
        assert_eq!(
            round(&mut alone, now, &[("s1", 1, 4)]).1,
            RoundEnd::Switch(at(1))
        );
        // A group of one is its own majority.
        let single = watch(now).answered(0, "s1", Some(&report(7, 0, 1)));
        assert_eq!(single, Some(at(7)));
        // One that claims to be alone is not believed if others were given.
        let mut watch = watch_of(3, now);
        assert_eq!(watch.answered(0, "s1", Some(&report(1, 0, 1))), None);
        assert_eq!(watch.answered(0, "s2", Some(&report(2, 5, 2))), Some(at(2)));
    }

    #[test]
    fn larger_epoch_switches_at_once_and_a_smaller_one_never_switches_back() {
        let now = Instant::now();
        let mut watch = watch(now);
        round(&mut watch, now, &[("s1", 1, 4), ("s2", 1, 4), ("s3", 1, 4)]);
        // One Sentinel of three leads the failover and knows the new primary first.
        let (switches, end) = round(&mut watch, now, &[("s1", 1, 4), ("s2", 2, 5), ("s3", 1, 4)]);
        assert_eq!((switches, end), (vec![2], RoundEnd::Known));
        // The others lag behind, and one of them does so for ever, cut off from the rest.
        for second in 0..3600 {
            let now = now + Duration::from_secs(second);
            let answers: &[_] = match second {
                0..5 => &[("s1", 1, 4), ("s3", 1, 4)],
                _ => &[("s1", 1, 4)],
            };
            let (switches, end) = round(&mut watch, now, answers);
            assert_eq!((switches, end), (vec![], RoundEnd::Known), "{second}");
        }
    }

    #[test]
    fn larger_epoch_for_the_same_address_is_no_switch_and_counts_from_then_on() {
        let now = Instant::now();
        let mut watch = watch(now);
        round(&mut watch, now, &[("s1", 1, 4), ("s2", 1, 4)]);
        assert!(round(&mut watch, now, &[("s1", 1, 6)]).0.is_empty());
        assert!(round(&mut watch, now, &[("s2", 2, 5)]).0.is_empty());
        assert_eq!(round(&mut watch, now, &[("s2", 2, 7)]).0, [2]);
    }

    #[test]
    fn group_that_was_set_up_anew_is_believed_after_a_majority_has_insisted() {
        let start = Instant::now();
        let mut watch = watch(start);
        round(
            &mut watch,
            start,
            &[("s1", 1, 9), ("s2", 1, 9), ("s3", 1, 9)],
        );
        // SENTINEL REMOVE and SENTINEL MONITOR: the epoch begins at zero again.
        let renewed = [("s1", 2, 0), ("s2", 2, 0)];
        let mut switched = Vec::new();
        for tenth in 0..200 {
            let now = start + Duration::from_millis(100 * tenth);
            if let RoundEnd::Switch(address) = round(&mut watch, now, &renewed).1 {
                switched.push((tenth, address.port));
            }
            // Awaited: asked again soon.
            assert!(!switched.is_empty() || watch.wait(now) <= ASK_AGAIN.1);
        }
        assert_eq!(switched, [(100, 2)]);
        // One that confirms the old primary in between begins the time anew.
        let mut watch = watch_of(1, start);
        round(&mut watch, start, &[("s1", 1, 9), ("s2", 1, 9)]);
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            let is_confirmed = second % 9 == 8;
            let answers: &[_] = match is_confirmed {
                true => &[("s1", 1, 9), ("s2", 2, 0), ("s3", 2, 0)],
                false => &renewed,
            };
            assert_eq!(
                round(&mut watch, now, answers).1,
                RoundEnd::Known,
                "{second}"
            );
        }
    }

    #[test]
    fn unknown_master_and_silent_sentinels_are_different_ends_of_a_round() {
        let now = Instant::now();
        let mut watch = watch(now);
        assert_eq!(round(&mut watch, now, &[]).1, RoundEnd::NoReply);
        assert_eq!(watch.answered(0, "s1", None), None);
        assert_eq!(watch.end_round(0, now), RoundEnd::NoSuchMaster);
        // One that knows it is enough.
        assert_eq!(watch.answered(0, "s1", None), None);
        assert_eq!(watch.answered(0, "s2", Some(&report(1, 0, 3))), Some(at(1)));
        // Once known, it stays known.
        assert_eq!(round(&mut watch, now, &[]).1, RoundEnd::Known);
    }

    #[test]
    fn sentinels_are_asked_rarely_at_rest_and_often_but_not_too_often_in_doubt() {
        let start = Instant::now();
        let mut watch = watch(start);
        assert_eq!(watch.wait(start), Duration::ZERO);
        round(&mut watch, start, &[("s1", 1, 1), ("s2", 1, 1)]);
        assert!((ASK_INTERVAL / 2..=ASK_INTERVAL).contains(&watch.wait(start)));
        // A hundred requests that fail at once are one reason to ask; nobody is asked more often than every 50 ms.
        let (mut now, mut rounds) = (start + Duration::from_secs(2), 0);
        let end = now + Duration::from_secs(30);
        while now < end {
            for _ in 0..100 {
                watch.suspect(0, now);
            }
            if watch.wait(now).is_zero() {
                rounds += 1;
                round(&mut watch, now, &[("s1", 1, 1), ("s2", 1, 1)]);
            }
            now += Duration::from_millis(1);
        }
        assert!((30..=80).contains(&rounds), "{rounds}");
        // An announcement does not wait.
        watch.announced(now);
        assert_eq!(watch.wait(now), Duration::ZERO);
        // The suspicion ends with a connection, or after a while.
        watch.confirmed(0);
        round(&mut watch, now, &[("s1", 1, 1)]);
        assert!(watch.wait(now) >= ASK_INTERVAL / 2);
        watch.suspect(0, now);
        round(&mut watch, now, &[("s1", 1, 1)]);
        assert!(watch.wait(now) <= ASK_AGAIN.1);
        let later = now + SUSPICION_MAX + Duration::from_secs(1);
        round(&mut watch, later, &[("s1", 1, 1)]);
        assert!(watch.wait(later) >= ASK_INTERVAL / 2);
    }

    #[test]
    fn first_suspicion_is_followed_by_a_round_at_once() {
        let start = Instant::now();
        let mut watch = watch(start);
        round(&mut watch, start, &[("s1", 1, 1), ("s2", 1, 1)]);
        let now = start + Duration::from_secs(3);
        watch.suspect(0, now);
        assert_eq!(watch.wait(now), Duration::ZERO);
    }
}
