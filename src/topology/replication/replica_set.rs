//! [`ReplicaSet`]: the servers of one node over time. Which is the primary, which replicas may be read from?
//!
//! The executor asks all servers in rounds, about once a second, and at once when the primary seems lost:
//!
//! ```text
//!  record(server, reply or none)   for each server
//!  finish_round(now)               ──▶ changes: a replica was found, has left, or is the primary now
//!  usable(replica, now)            ──▶ may it be read from, or why not
//! ```
//!
//! **In step.** A replica may be read from while its link is up, its data are those of the primary (the replication id),
//! and it is behind by no more than [`LagLimits`]. Bytes are counted by the offsets. Time is that since the primary had
//! data which the replica lacks, for which the offsets of the primary are remembered. While the primary is down nothing
//! new is written, so a replica that lost its link together with the primary is as good as before.
//!
//! **Failover.** The primary stays the primary as long as it says so, even if another server says so too. When it does
//! not (it is lost, or a replica now), the one other server that says it is a primary takes its place, if it is its
//! successor: a promoted replica remembers the replication id of the primary that it followed. So neither an empty server
//! at the address of a replica takes over, nor a former primary that comes back and has missed the writes since.
//!
//! ```text
//!        id    previous
//!  A     X               the primary
//!  B     Y     X         promoted: succeeds A
//!  A     Z     X         restarted later, while B is lost: does not succeed B (Y)
//!  A     W     Y         has been a replica of B, and was promoted: succeeds B
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::policy::{ReplicaId, Unusable};
use crate::topology::HostPort;
use crate::topology::replication::{
    History, Link, PrimaryReport, REPLICAS_MAX, ReplicaReport, Replication,
};

/// Time after which a replica that was found, and that the primary does not list any more, is forgotten. Long enough for
/// one that is restarted.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// How finely the offsets of the primary are remembered, as parts of the limit in time.
const SAMPLES_PER_LIMIT: u32 = 32;

/// How far a replica may be behind the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LagLimits {
    /// In bytes of the replication stream. `None` is unlimited.
    pub(crate) bytes: Option<u64>,
    /// `None` is unlimited.
    pub(crate) time: Option<Duration>,
}

/// How the servers of a node are watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetOptions {
    /// How far replicas may be behind.
    pub(crate) limits: LagLimits,
    /// Replicas that the primary lists become members.
    pub(crate) discovers: bool,
    /// The primary is found here. False if somebody else knows it, such as Sentinel.
    pub(crate) elects: bool,
}

/// The servers of one node.
#[derive(Debug)]
pub(crate) struct ReplicaSet {
    options: SetOptions,
    /// The primary and the replicas, in the order of their ids.
    members: Vec<Member>,
    primary: ReplicaId,
    /// The largest id so far.
    last_id: u32,
    /// The data of the primary, when it last replied.
    history: Option<History>,
    /// When the primary last replied as one.
    seen: Option<Instant>,
    /// What the primary had when. Ascending in both.
    samples: VecDeque<Sample>,
}

/// A server of the node.
#[derive(Debug)]
struct Member {
    id: ReplicaId,
    /// `None` for a socket.
    address: Option<HostPort>,
    /// True for servers that were given, which are never forgotten.
    is_given: bool,
    /// The last reply, or why there was none, and when. `None` before the first round.
    report: Option<(Result<Replication, Unanswered>, Instant)>,
    /// When the primary last listed it, or it was the primary.
    listed: Option<Instant>,
    /// True if it was the primary, and has not been a replica in step since.
    is_demoted: bool,
}

/// A server did not reply to INFO or ROLE, or not with what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered;

/// The offset of the primary at one time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    offset: u64,
}

/// What a round has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetChange {
    /// The primary lists a replica that was not known.
    Joined(ReplicaId, HostPort),
    /// A replica that had been found is gone.
    Left(ReplicaId),
    /// This server is the primary now.
    Promoted(ReplicaId),
}

impl ReplicaSet {
    /// A set of a primary and of replicas that were given, by their addresses: their ids are 0 for the primary, then 1,
    /// 2, ...
    pub(crate) fn new(
        primary: Option<HostPort>,
        replicas: impl IntoIterator<Item = Option<HostPort>>,
        options: SetOptions,
    ) -> Self {
        let given = std::iter::once(primary).chain(replicas);
        let members: Vec<Member> = (0..)
            .zip(given)
            .map(|(id, address)| Member {
                is_given: true,
                ..Member::new(ReplicaId(id), address)
            })
            .collect();
        Self {
            options,
            last_id: members.last().map_or(0, |member| member.id.0),
            members,
            primary: ReplicaId(0),
            history: None,
            seen: None,
            samples: VecDeque::new(),
        }
    }

    /// The server that is the primary.
    pub(crate) fn primary(&self) -> ReplicaId {
        self.primary
    }

    /// The address of a server.
    pub(crate) fn address(&self, id: ReplicaId) -> Option<&HostPort> {
        let member = self.members.iter().find(|member| member.id == id)?;
        member.address.as_ref()
    }

    /// Records what a server has replied in this round.
    pub(crate) fn record(
        &mut self,
        id: ReplicaId,
        report: Result<Replication, Unanswered>,
        now: Instant,
    ) {
        let history = self.history.as_ref().map(|history| history.id.as_str());
        let Some(member) = self.members.iter_mut().find(|member| member.id == id) else {
            return;
        };
        if let Ok(Replication::Replica(replica)) = &report
            && replica.link == Link::Up
            && replica
                .history_id()
                .is_none_or(|id| history.is_none_or(|own| own == id))
        {
            member.is_demoted = false;
        }
        member.report = Some((report, now));
    }

    /// Ends a round in which each server was recorded.
    pub(crate) fn finish_round(&mut self, now: Instant) -> Vec<SetChange> {
        let mut changes = Vec::new();
        if self.options.elects
            && self.primary_report().is_none()
            && let Some(next) = self.successor()
        {
            self.promote(next);
            changes.push(SetChange::Promoted(next));
        }
        let Some(report) = self.primary_report().cloned() else {
            return changes;
        };
        self.seen = Some(now);
        self.sample(report.offset, now);
        if report.history.is_some() {
            self.history = report.history;
        }
        if self.options.discovers {
            self.add_members(&report.replicas, now, &mut changes);
        }
        self.forget_members(now, &mut changes);
        changes
    }

    /// Makes the server at this address the primary, since somebody else knows that it is: Sentinel.
    pub(crate) fn set_primary(&mut self, address: &HostPort) -> Vec<SetChange> {
        if self.address(self.primary) == Some(address) {
            return Vec::new();
        }
        let known = |member: &&Member| member.address.as_ref() == Some(address);
        let mut changes = Vec::new();
        let id = match self.members.iter().find(known) {
            Some(member) => member.id,
            None => {
                let id = self.next_id();
                self.members.push(Member::new(id, Some(address.clone())));
                changes.push(SetChange::Joined(id, address.clone()));
                id
            }
        };
        self.promote(id);
        changes.push(SetChange::Promoted(id));
        changes
    }

    /// An id that no server had before.
    fn next_id(&mut self) -> ReplicaId {
        self.last_id += 1;
        ReplicaId(self.last_id)
    }

    /// True if this replica may be read from.
    ///
    /// # Errors
    ///
    /// The reason if it may not.
    pub(crate) fn usable(&self, id: ReplicaId, now: Instant) -> Result<(), Unusable> {
        let member = self.members.iter().find(|member| member.id == id);
        let report = member.and_then(|member| member.report.as_ref());
        let (report, at) = match report {
            None => return Err(Unusable::Unchecked),
            Some((Err(Unanswered), _)) => return Err(Unusable::Unreachable),
            Some((Ok(Replication::Primary(_)), _)) => return Err(Unusable::NotReplica),
            Some((Ok(Replication::Replica(report)), at)) => (report, *at),
        };
        if let (Some(id), Some(own)) = (report.history_id(), &self.history)
            && id != own.id
        {
            return Err(Unusable::OtherPrimary);
        }
        self.check_link(report, at)?;
        self.check_lag(report, now)
    }

    /// Checks the link of a replica whose report came at this time.
    fn check_link(&self, report: &ReplicaReport, at: Instant) -> Result<(), Unusable> {
        let since = match report.link {
            Link::Up => return Ok(()),
            Link::Syncing => return Err(Unusable::Syncing),
            Link::Down { since } => since,
        };
        let (None, Some(since)) = (self.primary_report(), since) else {
            return Err(Unusable::LinkBroken);
        };
        // The primary is down. What it may have written after the link broke and before it went down is missing.
        let missed = match self.seen {
            Some(seen) => {
                let age = at.saturating_duration_since(seen);
                since.saturating_sub(age)
            }
            None => since,
        };
        match self.options.limits.time {
            Some(limit) if missed > limit => Err(Unusable::LinkBroken),
            _ => Ok(()),
        }
    }

    /// Checks how far a replica is behind.
    fn check_lag(&self, report: &ReplicaReport, now: Instant) -> Result<(), Unusable> {
        let Some(offset) = report.offset else {
            return Err(Unusable::Syncing);
        };
        let Some(last) = self.samples.back() else {
            // Nothing is known of the primary, so only the replica's own word is left.
            let is_late = |limit| report.silent_for.is_some_and(|silent| silent > limit);
            return match self.options.limits.time.is_some_and(is_late) {
                true => Err(Unusable::BehindInTime),
                false => Ok(()),
            };
        };
        let behind = last.offset.saturating_sub(offset);
        if self
            .options
            .limits
            .bytes
            .is_some_and(|limit| behind > limit)
        {
            return Err(Unusable::BehindInBytes);
        }
        // While the primary is down, time does not pass: the replica misses nothing new.
        let until = match self.primary_report() {
            Some(_) => now,
            None => self.seen.unwrap_or(now),
        };
        let missing = self.samples.iter().find(|sample| sample.offset > offset);
        let lag = missing.map(|sample| until.saturating_duration_since(sample.at));
        match (lag, self.options.limits.time) {
            (Some(lag), Some(limit)) if lag > limit => Err(Unusable::BehindInTime),
            _ => Ok(()),
        }
    }

    /// What the primary replied in this round, if it replied as one.
    fn primary_report(&self) -> Option<&PrimaryReport> {
        self.members
            .iter()
            .find(|member| member.id == self.primary)?
            .primary_report()
    }

    /// The only server that may take the place of the primary.
    fn successor(&self) -> Option<ReplicaId> {
        let line = self.line();
        let mut successors = self.members.iter().filter(|member| {
            member.id != self.primary
                && member.primary_report().is_some_and(|report| {
                    match (&report.history, line.is_empty()) {
                        (Some(history), false) => history.descends_from(&line),
                        // Without ids, only those that never were the primary, or have been its replica since.
                        _ => !member.is_demoted,
                    }
                })
        });
        let first = successors.next()?;
        // Two of them are two halves of a network that was split, or an operator's mistake: no guess is right.
        successors.next().is_none().then_some(first.id)
    }

    /// The replication ids of the primary and of what is known to have succeeded it, in however many steps.
    fn line(&self) -> BTreeSet<&str> {
        let mut line: BTreeSet<&str> = BTreeSet::new();
        let Some(own) = &self.history else {
            return line;
        };
        line.insert(&own.id);
        let known: Vec<&History> = self
            .members
            .iter()
            .filter_map(|member| match &member.report {
                Some((Ok(Replication::Replica(report)), _)) => report.history.as_ref(),
                _ => None,
            })
            .collect();
        // Each pass but the last adds an id, of which there are as many as members.
        while known
            .iter()
            .any(|history| history.descends_from(&line) && line.insert(&history.id))
        {}
        line
    }

    /// Makes a member the primary.
    fn promote(&mut self, id: ReplicaId) {
        for member in &mut self.members {
            if member.id == self.primary {
                member.is_demoted = true;
            }
            if member.id == id {
                member.is_demoted = false;
                self.history = member.report.as_ref().and_then(|(report, _)| match report {
                    Ok(Replication::Primary(report)) => report.history.clone(),
                    _ => None,
                });
            }
        }
        self.primary = id;
        self.samples.clear();
        self.seen = None;
    }

    /// Remembers the offset of the primary.
    fn sample(&mut self, offset: u64, now: Instant) {
        // It begins anew when a primary is restarted without its data.
        if self.samples.back().is_some_and(|last| last.offset > offset) {
            self.samples.clear();
        }
        let limit = self.options.limits.time.unwrap_or_default();
        let is_close =
            |sample: &Sample| now.saturating_duration_since(sample.at) < limit / SAMPLES_PER_LIMIT;
        match self
            .samples
            .len()
            .checked_sub(2)
            .map(|before| self.samples[before])
        {
            // The last one is moved, so that it is always the current one, unless that would widen the gap before it.
            Some(before) if is_close(&before) => {
                self.samples.pop_back();
            }
            _ => {}
        }
        if self.samples.back().is_none_or(|last| last.offset < offset) {
            self.samples.push_back(Sample { at: now, offset });
        }
        // One that is older than the limit is kept, as it is the evidence of a lag that is too long.
        while let Some(second) = self.samples.get(1)
            && now.saturating_duration_since(second.at) > limit
        {
            self.samples.pop_front();
        }
    }

    /// Adds the replicas that the primary lists.
    fn add_members(&mut self, listed: &[HostPort], now: Instant, changes: &mut Vec<SetChange>) {
        for address in listed {
            let known = self
                .members
                .iter_mut()
                .find(|member| member.address.as_ref() == Some(address));
            if let Some(member) = known {
                member.listed = Some(now);
            } else if self.members.len() <= REPLICAS_MAX {
                let id = self.next_id();
                let mut member = Member::new(id, Some(address.clone()));
                member.listed = Some(now);
                self.members.push(member);
                changes.push(SetChange::Joined(id, address.clone()));
            }
        }
    }

    /// Removes the servers that were found and that the primary does not list any more. Where it is not asked which
    /// replicas it has, those that do not reply: former primaries, which would become more with each failover.
    fn forget_members(&mut self, now: Instant, changes: &mut Vec<SetChange>) {
        let primary = self.primary;
        let discovers = self.options.discovers;
        for member in &mut self.members {
            let replies = matches!(member.report, Some((Ok(_), _)));
            if member.id == primary || member.listed.is_none() || !discovers && replies {
                member.listed = Some(now);
            }
        }
        self.members.retain(|member| {
            let is_gone = !member.is_given
                && member.id != primary
                && member
                    .listed
                    .is_some_and(|listed| now.saturating_duration_since(listed) > FORGET_AFTER);
            if is_gone {
                changes.push(SetChange::Left(member.id));
            }
            !is_gone
        });
    }
}

impl Member {
    fn new(id: ReplicaId, address: Option<HostPort>) -> Self {
        Self {
            id,
            address,
            is_given: false,
            report: None,
            listed: None,
            is_demoted: false,
        }
    }

    /// Its last report, if it said that it is a primary.
    fn primary_report(&self) -> Option<&PrimaryReport> {
        match &self.report {
            Some((Ok(Replication::Primary(report)), _)) => Some(report),
            _ => None,
        }
    }
}

impl ReplicaReport {
    /// The id of its data, if it was told.
    fn history_id(&self) -> Option<&str> {
        self.history.as_ref().map(|history| history.id.as_str())
    }
}

impl History {
    /// True if these are data of this line, or follow them.
    fn descends_from(&self, line: &BTreeSet<&str>) -> bool {
        let previous = self.previous.as_deref();
        line.contains(self.id.as_str()) || previous.is_some_and(|previous| line.contains(previous))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LagLimits = LagLimits {
        bytes: Some(1000),
        time: Some(Duration::from_secs(10)),
    };
    const A: ReplicaId = ReplicaId(0);
    const B: ReplicaId = ReplicaId(1);
    const C: ReplicaId = ReplicaId(2);

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// `X` alone, or `Y<X` with the id before.
    fn history(text: &str) -> Option<History> {
        let (id, previous) = match text.split_once('<') {
            Some((id, previous)) => (id, Some(previous.to_owned())),
            None => (text, None),
        };
        (!id.is_empty()).then(|| History {
            id: id.to_owned(),
            previous,
        })
    }

    fn primary(text: &str, offset: u64) -> Result<Replication, Unanswered> {
        Ok(Replication::Primary(PrimaryReport {
            history: history(text),
            offset,
            replicas: Vec::new(),
        }))
    }

    fn at(port: u16) -> HostPort {
        HostPort {
            host: "r".into(),
            port,
        }
    }

    const OPTIONS: SetOptions = SetOptions {
        limits: LIMITS,
        discovers: false,
        elects: true,
    };

    /// A set with so many replicas.
    fn set_of(replicas: usize, options: SetOptions) -> ReplicaSet {
        ReplicaSet::new(None, (0..replicas).map(|_| None), options)
    }

    fn listing(offset: u64, ports: &[u16]) -> Result<Replication, Unanswered> {
        let address = |&port: &u16| at(port);
        Ok(Replication::Primary(PrimaryReport {
            history: history("X"),
            offset,
            replicas: ports.iter().map(address).collect(),
        }))
    }

    fn linked(text: &str, offset: u64, link: Link) -> Result<Replication, Unanswered> {
        Ok(Replication::Replica(ReplicaReport {
            history: history(text),
            link,
            offset: Some(offset),
            silent_for: Some(secs(1)),
        }))
    }

    fn replica(text: &str, offset: u64) -> Result<Replication, Unanswered> {
        linked(text, offset, Link::Up)
    }

    fn broken(text: &str, offset: u64, since: u64) -> Result<Replication, Unanswered> {
        let since = Some(secs(since));
        linked(text, offset, Link::Down { since })
    }

    const LOST: Result<Replication, Unanswered> = Err(Unanswered);

    /// A set of three whose rounds are a second apart.
    struct Rounds {
        set: ReplicaSet,
        now: Instant,
    }

    impl Rounds {
        fn new() -> Self {
            Self {
                set: set_of(2, OPTIONS),
                now: Instant::now(),
            }
        }

        /// One round with these replies of A, B and C, a second after the one before.
        fn round(&mut self, replies: [Result<Replication, Unanswered>; 3]) -> Vec<SetChange> {
            self.now += secs(1);
            for (id, reply) in [A, B, C].into_iter().zip(replies) {
                self.set.record(id, reply, self.now);
            }
            self.set.finish_round(self.now)
        }

        fn usable(&self, id: ReplicaId) -> Result<(), Unusable> {
            self.set.usable(id, self.now)
        }
    }

    #[test]
    fn replica_is_usable_while_it_follows_the_primary_and_is_not_too_far_behind() {
        let mut rounds = Rounds::new();
        assert_eq!(rounds.usable(B), Err(Unusable::Unchecked));
        assert_eq!(
            rounds.round([primary("X", 5000), replica("X", 4000), replica("X", 3999)]),
            []
        );
        assert_eq!(rounds.usable(B), Ok(()));
        assert_eq!(rounds.usable(C), Err(Unusable::BehindInBytes));
        rounds.round([primary("X", 5000), broken("X", 5000, 0), LOST]);
        assert_eq!(rounds.usable(B), Err(Unusable::LinkBroken));
        assert_eq!(rounds.usable(C), Err(Unusable::Unreachable));
        rounds.round([
            primary("X", 5000),
            linked("X", 5000, Link::Syncing),
            replica("Z", 5000),
        ]);
        assert_eq!(rounds.usable(B), Err(Unusable::Syncing));
        assert_eq!(rounds.usable(C), Err(Unusable::OtherPrimary));
        rounds.round([primary("X", 5000), primary("Y<X", 1), replica("X", 5000)]);
        assert_eq!(rounds.usable(B), Err(Unusable::NotReplica));
        assert_eq!(rounds.usable(C), Ok(()));
    }

    #[test]
    fn replica_that_has_lacked_data_for_longer_than_the_limit_is_not_usable() {
        let mut rounds = Rounds::new();
        // B stops at offset 100, of which the primary is never far ahead in bytes; C follows a second behind.
        for second in 1..=30_u64 {
            let offset = 100 + second;
            rounds.round([
                primary("X", offset),
                replica("X", 101),
                replica("X", offset - 1),
            ]);
            // The first byte that B lacks was there in round 2.
            let expected = match second {
                0..=12 => Ok(()),
                13.. => Err(Unusable::BehindInTime),
            };
            assert_eq!(rounds.usable(B), expected, "round {second}");
            assert_eq!(rounds.usable(C), Ok(()), "round {second}");
            let bound = 2 * SAMPLES_PER_LIMIT as usize;
            assert!(
                rounds.set.samples.len() <= bound,
                "{:?}",
                rounds.set.samples
            );
        }
    }

    #[test]
    fn replica_of_an_idle_primary_is_usable_however_long_nothing_is_written() {
        let mut rounds = Rounds::new();
        for _ in 0..100 {
            rounds.round([primary("X", 100), replica("X", 100), replica("X", 99)]);
        }
        assert_eq!(rounds.usable(B), Ok(()));
        assert_eq!(rounds.usable(C), Err(Unusable::BehindInTime));
    }

    #[test]
    fn replica_that_lost_its_link_together_with_the_primary_stays_usable() {
        let mut rounds = Rounds::new();
        // The link of C breaks 20 s before the primary is lost.
        for second in 1..=20 {
            rounds.round([
                primary("X", 100),
                replica("X", 100),
                broken("X", 100, second),
            ]);
        }
        for second in 1..=100 {
            let (b, c) = (broken("X", 100, second), broken("X", 100, 20 + second));
            rounds.round([LOST, b, c]);
            assert_eq!(rounds.usable(B), Ok(()), "{second} s later");
            assert_eq!(
                rounds.usable(C),
                Err(Unusable::LinkBroken),
                "{second} s later"
            );
        }
        // The primary is back, and the link is not.
        rounds.round([primary("X", 100), broken("X", 100, 101), LOST]);
        assert_eq!(rounds.usable(B), Err(Unusable::LinkBroken));
    }

    #[test]
    fn samples_of_a_primary_are_bounded_and_show_a_lag_to_a_part_of_the_limit() {
        let mut set = set_of(1, OPTIONS);
        let start = Instant::now();
        for milli in 0..100_000_u64 {
            let now = start + Duration::from_millis(milli);
            set.record(A, primary("X", milli), now);
            set.finish_round(now);
            assert!(set.samples.len() <= 2 * SAMPLES_PER_LIMIT as usize);
        }
        let now = start + secs(100);
        let limits = LagLimits {
            bytes: None,
            ..LIMITS
        };
        set.options.limits = limits;
        let is_late = |behind: u64| {
            let report = ReplicaReport {
                history: None,
                link: Link::Up,
                offset: Some(100_000 - behind),
                silent_for: None,
            };
            set.check_lag(&report, now) == Err(Unusable::BehindInTime)
        };
        assert!(!is_late(9_000) && is_late(10_700));
    }

    #[test]
    fn promoted_replica_takes_the_place_of_a_lost_primary() {
        let mut rounds = Rounds::new();
        rounds.round([primary("X", 9), replica("X", 9), replica("X", 9)]);
        assert_eq!(
            rounds.round([LOST, broken("X", 9, 1), broken("X", 9, 1)]),
            []
        );
        let changes = rounds.round([LOST, primary("Y<X", 9), broken("X", 9, 2)]);
        assert_eq!(changes, [SetChange::Promoted(B)]);
        assert_eq!(rounds.set.primary(), B);
        rounds.round([LOST, primary("Y<X", 20), replica("Y<X", 20)]);
        assert_eq!(rounds.usable(C), Ok(()));
        // The former primary returns as one, and then as a replica.
        assert_eq!(
            rounds.round([primary("X", 9), primary("Y<X", 30), replica("Y<X", 30)]),
            []
        );
        assert_eq!(rounds.usable(A), Err(Unusable::NotReplica));
        rounds.round([replica("Y<X", 30), primary("Y<X", 30), replica("Y<X", 30)]);
        assert_eq!(rounds.usable(A), Ok(()));
        assert_eq!(rounds.set.primary(), B);
    }

    #[test]
    fn primary_that_says_so_is_kept_when_another_says_so_too() {
        let mut rounds = Rounds::new();
        rounds.round([primary("X", 9), replica("X", 9), replica("X", 9)]);
        for _ in 0..5 {
            assert_eq!(
                rounds.round([primary("X", 9), primary("Y<X", 9), replica("X", 9)]),
                []
            );
        }
        // It becomes a replica of the other: that one takes over.
        let changes = rounds.round([replica("Y<X", 9), primary("Y<X", 9), replica("Y<X", 9)]);
        assert_eq!(changes, [SetChange::Promoted(B)]);
    }

    #[test]
    fn empty_server_at_the_address_of_a_replica_does_not_take_over() {
        let mut rounds = Rounds::new();
        rounds.round([primary("X", 9), replica("X", 9), replica("X", 9)]);
        for _ in 0..5 {
            assert_eq!(rounds.round([LOST, primary("E", 0), broken("X", 9, 1)]), []);
        }
        let changes = rounds.round([LOST, primary("E", 0), primary("Y<X", 9)]);
        assert_eq!(changes, [SetChange::Promoted(C)], "the one that succeeds A");
    }

    #[test]
    fn two_promoted_replicas_are_no_successor() {
        let mut rounds = Rounds::new();
        rounds.round([primary("X", 9), replica("X", 9), replica("X", 9)]);
        assert_eq!(
            rounds.round([LOST, primary("Y<X", 9), primary("Z<X", 9)]),
            []
        );
        assert_eq!(rounds.set.primary(), A);
    }

    #[test]
    fn demoted_primary_takes_over_only_after_it_was_promoted_again() {
        let mut rounds = Rounds::new();
        rounds.round([primary("X", 9), replica("X", 9), replica("X", 9)]);
        rounds.round([LOST, primary("Y<X", 9), LOST]);
        assert_eq!(rounds.set.primary(), B);
        // B is lost, and A returns with old data: the id of a restarted primary is new, and the old one before it.
        for returned in ["X", "Z<X"] {
            assert_eq!(
                rounds.round([primary(returned, 9), LOST, LOST]),
                [],
                "{returned}"
            );
        }
        let changes = rounds.round([primary("W<Y", 30), LOST, LOST]);
        assert_eq!(changes, [SetChange::Promoted(A)]);
    }

    #[test]
    fn demoted_primary_without_replication_ids_must_have_been_a_replica_since() {
        let mut rounds = Rounds::new();
        rounds.round([primary("", 9), replica("", 9), replica("", 9)]);
        assert_eq!(
            rounds.round([LOST, primary("", 9), LOST]),
            [SetChange::Promoted(B)]
        );
        assert_eq!(rounds.round([primary("", 9), LOST, LOST]), []);
        rounds.round([replica("", 9), primary("", 9), LOST]);
        assert_eq!(
            rounds.round([primary("", 9), LOST, LOST]),
            [SetChange::Promoted(A)]
        );
    }

    #[test]
    fn successor_of_a_successor_takes_over_if_a_replica_shows_the_step_between() {
        let mut rounds = Rounds::new();
        rounds.round([primary("X", 9), replica("X", 9), replica("X", 9)]);
        // B was promoted and died between two rounds; C had followed it.
        rounds.round([LOST, LOST, broken("Y<X", 9, 1)]);
        let mut unseen = Rounds::new();
        unseen.round([primary("X", 9), replica("X", 9), replica("X", 9)]);
        assert_eq!(
            unseen.round([LOST, LOST, primary("Z<Y", 9)]),
            [],
            "of unknown origin"
        );
        // A third server that still shows the step makes C a successor.
        let mut set = set_of(3, OPTIONS);
        let now = Instant::now();
        let replies = [LOST, LOST, primary("Z<Y", 9), broken("Y<X", 9, 1)];
        set.record(A, primary("X", 9), now);
        set.finish_round(now);
        for (number, reply) in (0..).zip(replies) {
            set.record(ReplicaId(number), reply, now);
        }
        assert_eq!(set.finish_round(now), [SetChange::Promoted(C)]);
    }

    #[test]
    fn replicas_that_the_primary_lists_join_and_those_that_it_does_not_list_leave() {
        let mut set = set_of(
            0,
            SetOptions {
                discovers: true,
                ..OPTIONS
            },
        );
        let start = Instant::now();
        let round = |set: &mut ReplicaSet, at: u64, reply| {
            let now = start + secs(at);
            set.record(A, reply, now);
            set.finish_round(now)
        };
        let joined = |id, port| SetChange::Joined(id, at(port));
        let changes = round(&mut set, 0, listing(9, &[1, 2]));
        assert_eq!(changes, [joined(B, 1), joined(C, 2)]);
        assert_eq!(round(&mut set, 1, listing(9, &[1, 2])), []);
        assert_eq!(round(&mut set, 20, listing(9, &[2])), []);
        assert_eq!(round(&mut set, 32, listing(9, &[2])), [SetChange::Left(B)]);
        // Never while the primary does not reply.
        assert_eq!(round(&mut set, 500, LOST), []);
        let ids: Vec<ReplicaId> = set.members.iter().map(|member| member.id).collect();
        assert_eq!(ids, [A, C]);
        // An id is never used again.
        assert_eq!(
            round(&mut set, 501, listing(9, &[1, 2])),
            [joined(ReplicaId(3), 1)]
        );
    }

    #[test]
    fn former_primaries_that_are_gone_are_forgotten() {
        for discovers in [false, true] {
            let options = SetOptions {
                elects: false,
                discovers,
                ..OPTIONS
            };
            let mut set = ReplicaSet::new(Some(at(1)), [Some(at(2))], options);
            let mut now = Instant::now();
            for failover in 0..100 {
                now += secs(60);
                set.set_primary(&at(1000 + failover));
                for reply in [LOST, listing(9, &[]), listing(9, &[])] {
                    now += secs(1);
                    let ids: Vec<ReplicaId> = set.members.iter().map(|one| one.id).collect();
                    for id in ids {
                        let is_primary = id == set.primary();
                        set.record(id, if is_primary { reply.clone() } else { LOST }, now);
                    }
                    set.finish_round(now);
                }
                // Those that were given, the primary, and the one before.
                assert!(set.members.len() <= 4, "{} {discovers}", set.members.len());
            }
        }
    }

    #[test]
    fn primary_that_sentinel_names_is_the_primary_whatever_the_servers_say() {
        let options = SetOptions {
            elects: false,
            ..OPTIONS
        };
        let mut set = ReplicaSet::new(Some(at(1)), [Some(at(2))], options);
        let now = Instant::now();
        let round = |set: &mut ReplicaSet, replies: [Result<Replication, Unanswered>; 2]| {
            for (id, reply) in [A, B].into_iter().zip(replies) {
                set.record(id, reply, now);
            }
            set.finish_round(now)
        };
        assert_eq!(round(&mut set, [primary("X", 9), replica("X", 9)]), []);
        assert_eq!(
            round(&mut set, [LOST, primary("Y<X", 9)]),
            [],
            "not before Sentinel says so"
        );
        assert_eq!(set.set_primary(&at(2)), [SetChange::Promoted(B)]);
        assert_eq!(set.set_primary(&at(2)), []);
        round(&mut set, [replica("Y<X", 9), primary("Y<X", 9)]);
        assert_eq!(set.usable(A, now), Ok(()));
        let joined = SetChange::Joined(C, at(3));
        assert_eq!(set.set_primary(&at(3)), [joined, SetChange::Promoted(C)]);
        assert_eq!((set.primary(), set.address(C)), (C, Some(&at(3))));
    }
}
