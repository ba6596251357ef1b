//! [`SentinelList`]: which Sentinels are asked?

use std::time::{Duration, Instant};

use super::{HostPort, SENTINELS_MAX};
use crate::policy::pause_between;

/// Shortest and longest pause before a Sentinel that was given and does not reply is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The pauses of one that others name: it may be at an address that cannot be reached from here at all.
const PAUSES_OF_NAMED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The Sentinels of one group: those that were given, and those that they name. One that does not reply is left
/// alone for a while.
#[derive(Debug)]
pub(crate) struct SentinelList {
    entries: Vec<Entry>,
    /// The one that has replied last.
    preferred: Option<HostPort>,
}

#[derive(Debug)]
struct Entry {
    address: HostPort,
    /// Never dropped, even if the others do not name it.
    is_given: bool,
    /// Number of failures in a row.
    failures: u32,
    /// End of the pause after the last failure.
    retry_at: Option<Instant>,
}

impl SentinelList {
    /// The list of those that were given. Of several with one address, the first counts.
    pub(crate) fn new(given: impl IntoIterator<Item = HostPort>) -> Self {
        let mut list = Self {
            entries: Vec::new(),
            preferred: None,
        };
        for address in given {
            list.add(address, true);
        }
        list
    }

    fn add(&mut self, address: HostPort, is_given: bool) {
        let is_there = self.entries.iter().any(|entry| entry.address == address);
        if !is_there && (is_given || self.entries.len() < SENTINELS_MAX) {
            self.entries.push(Entry {
                address,
                is_given,
                failures: 0,
                retry_at: None,
            });
        }
    }

    /// Adds the Sentinels that another one names, and drops those that nobody names any more and that do not
    /// reply.
    pub(crate) fn learn(&mut self, named: &[HostPort]) {
        self.entries.retain(|entry| {
            entry.is_given || entry.failures == 0 || named.contains(&entry.address)
        });
        for address in named {
            self.add(address.clone(), false);
        }
    }

    /// Those that are to be asked now: all but those in a pause. The one that has replied last comes first.
    pub(crate) fn due(&self, now: Instant) -> Vec<HostPort> {
        let is_due = |entry: &&Entry| entry.retry_at.is_none_or(|at| at <= now);
        let due = self.entries.iter().filter(is_due);
        let mut due: Vec<HostPort> = due.map(|entry| entry.address.clone()).collect();
        // Stable: the others stay in the order in which they were given.
        due.sort_by_key(|address| self.preferred.as_ref() != Some(address));
        due
    }

    /// True if the Sentinel is on the list.
    pub(crate) fn contains(&self, address: &HostPort) -> bool {
        self.entries.iter().any(|entry| entry.address == *address)
    }

    /// The Sentinel has replied.
    pub(crate) fn replied(&mut self, address: &HostPort) {
        for entry in &mut self.entries {
            if entry.address == *address {
                (entry.failures, entry.retry_at) = (0, None);
                self.preferred = Some(address.clone());
            }
        }
    }

    /// The Sentinel could not be reached, or has sent something else than a reply. `jitter` in 0..1.
    pub(crate) fn failed(&mut self, address: &HostPort, now: Instant, jitter: f64) {
        for entry in &mut self.entries {
            if entry.address == *address {
                entry.failures = entry.failures.saturating_add(1);
                let pauses = match entry.is_given {
                    true => PAUSES,
                    false => PAUSES_OF_NAMED,
                };
                entry.retry_at = Some(now + pause_between(pauses, entry.failures, jitter));
            }
        }
        self.preferred = self.preferred.take().filter(|other| other != address);
    }

    /// How long one Sentinel may take, if a connection may take `limit`: short enough that the last one that was
    /// given is still asked within the time if the others do not reply.
    pub(crate) fn share_of(&self, limit: Duration) -> Duration {
        let given = self.entries.iter().filter(|entry| entry.is_given).count();
        (limit / given.max(1) as u32).max(SHARE_MIN)
    }
}

/// Time that a Sentinel has at least.
const SHARE_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> HostPort {
        HostPort {
            host: "s".into(),
            port,
        }
    }

    fn ports(due: &[HostPort]) -> Vec<u16> {
        due.iter().map(|address| address.port).collect()
    }

    #[test]
    fn sentinel_list_asks_given_and_named_ones_and_the_last_to_reply_first() {
        let now = Instant::now();
        let mut list = SentinelList::new([at(1), at(2), at(1)]);
        assert_eq!(ports(&list.due(now)), [1, 2]);
        list.learn(&[at(3), at(2)]);
        list.replied(&at(3));
        assert_eq!(ports(&list.due(now)), [3, 1, 2]);
        list.failed(&at(3), now, 1.0);
        assert_eq!(ports(&list.due(now)), [1, 2]);
        assert_eq!(ports(&list.due(now + Duration::from_secs(2))), [1, 2, 3]);
        // A given one stays whatever happens; another goes when nobody names it and it does not reply.
        list.failed(&at(1), now, 1.0);
        list.learn(&[at(2)]);
        assert!(list.contains(&at(1)) && !list.contains(&at(3)));
    }

    #[test]
    fn sentinel_list_is_bounded_but_keeps_all_that_were_given() {
        let given = (1..=40).map(at);
        let mut list = SentinelList::new(given);
        assert_eq!(list.due(Instant::now()).len(), 40);
        list.learn(&[at(100)]);
        assert!(!list.contains(&at(100)));
        let mut list = SentinelList::new([at(1)]);
        list.learn(&(2..=1000).map(at).collect::<Vec<_>>());
        assert_eq!(list.due(Instant::now()).len(), SENTINELS_MAX);
    }

    #[test]
    fn sentinels_share_the_time_of_one_connection() {
        let list = SentinelList::new([at(1), at(2), at(3), at(4)]);
        assert_eq!(
            list.share_of(Duration::from_secs(1)),
            Duration::from_millis(250)
        );
        assert_eq!(list.share_of(Duration::from_millis(1)), SHARE_MIN);
    }
}
