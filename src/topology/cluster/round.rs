//! [`AskingRound`]: which servers of a cluster are asked for the map, and when the next is asked as well.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::ClusterMap;
use crate::topology::HostPort;

/// Time after which another server is asked as well. One that has not replied by then may be dead.
const NEXT_AFTER: Duration = Duration::from_millis(100);

/// Number of servers that are asked at the same time.
const ASKED_MAX: usize = 16;

/// One search for a good answer. Ends with the first, or when all servers have been asked.
#[derive(Debug)]
pub(crate) struct AskingRound {
    waiting: VecDeque<HostPort>,
    /// Those whose answer is awaited.
    asked: Vec<HostPort>,
    /// When the last of them was asked.
    last: Option<Instant>,
    /// Those that gave no answer.
    failed: HashSet<HostPort>,
}

/// What is to be done in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoundStep {
    /// Ask this server.
    Ask(HostPort),
    /// Wait for an answer, but not longer. `None` is without a limit: each server that is asked answers or fails.
    Wait(Option<Duration>),
    /// There is nobody left to ask.
    End,
}

impl AskingRound {
    /// The round that begins with the servers that redirects have `named`, and goes on with those of the map, from one
    /// on that `entropy` chooses, and the seeds. Those that `failed` in the round before come last.
    pub(crate) fn new(
        map: &ClusterMap,
        named: Vec<HostPort>,
        seeds: &[HostPort],
        failed: &HashSet<HostPort>,
        entropy: u64,
    ) -> Self {
        // Before the map is known, the seeds are asked in the order in which they were given.
        let sources = match map.is_provisional() {
            true => Vec::new(),
            false => map.sources(entropy),
        };
        let all = named
            .into_iter()
            .chain(sources)
            .chain(seeds.iter().cloned());
        let mut known = HashSet::new();
        let all: Vec<HostPort> = all
            .filter(|address| known.insert(address.clone()))
            .collect();
        let (last, first): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|address| failed.contains(address));
        Self {
            waiting: first.into_iter().chain(last).collect(),
            asked: Vec::new(),
            last: None,
            failed: HashSet::new(),
        }
    }

    /// What is to be done now.
    pub(crate) fn step(&mut self, now: Instant) -> RoundStep {
        let since = |last: Instant| now.saturating_duration_since(last);
        let left = match self.last {
            Some(last) if !self.asked.is_empty() => NEXT_AFTER.saturating_sub(since(last)),
            _ => Duration::ZERO,
        };
        if self.asked.len() < ASKED_MAX {
            if left.is_zero()
                && let Some(next) = self.waiting.pop_front()
            {
                self.asked.push(next.clone());
                self.last = Some(now);
                return RoundStep::Ask(next);
            }
            if !self.waiting.is_empty() {
                return RoundStep::Wait(Some(left));
            }
        }
        match self.asked.is_empty() {
            true => RoundStep::End,
            false => RoundStep::Wait(None),
        }
    }

    /// A server has answered, but not well enough. Returns false for one whose answer is not awaited.
    pub(crate) fn answered(&mut self, address: &HostPort) -> bool {
        let before = self.asked.len();
        self.asked.retain(|asked| asked != address);
        self.asked.len() < before
    }

    /// A server gave no answer.
    pub(crate) fn failed(&mut self, address: &HostPort) {
        self.answered(address);
        self.failed.insert(address.clone());
    }

    /// Those that gave no answer, or none yet.
    pub(crate) fn into_failed(mut self) -> HashSet<HostPort> {
        self.failed.extend(self.asked);
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> HostPort {
        HostPort::new("10.0.0.1", port).unwrap()
    }

    fn round(named: &[u16], failed: &[u16], entropy: u64) -> AskingRound {
        let map = ClusterMap::new(vec![at(1), at(2), at(3)], |_| None);
        let failed = failed.iter().copied().map(at).collect();
        let named = named.iter().copied().map(at).collect();
        AskingRound::new(&map, named, &[at(3), at(9)], &failed, entropy)
    }

    fn order(mut round: AskingRound) -> Vec<u16> {
        let (mut order, now) = (Vec::new(), Instant::now());
        while let RoundStep::Ask(address) = round.step(now) {
            round.failed(&address);
            order.push(address.port);
        }
        order
    }

    #[test]
    fn cluster_map_is_asked_of_the_named_server_first_and_of_each_known_address_once() {
        assert_eq!(order(round(&[], &[], 0)), [1, 2, 3, 9]);
        assert_eq!(order(round(&[], &[], 7)), [2, 3, 1, 9]);
        assert_eq!(order(round(&[3, 8, 3], &[], 0)), [3, 8, 1, 2, 9]);
        assert_eq!(order(round(&[8], &[8, 1], 0)), [2, 3, 9, 8, 1]);
    }

    #[test]
    fn cluster_servers_that_do_not_reply_are_left_behind() {
        let (mut round, mut now) = (round(&[], &[], 0), Instant::now());
        let mut asked = Vec::new();
        loop {
            match round.step(now) {
                RoundStep::Ask(address) => asked.push(address.port),
                RoundStep::Wait(Some(time)) => {
                    assert_eq!(time, NEXT_AFTER);
                    now += time;
                }
                other => break assert_eq!(other, RoundStep::Wait(None)),
            }
        }
        assert_eq!(asked, [1, 2, 3, 9]);
        for port in [1, 2, 3] {
            round.failed(&at(port));
        }
        assert!(round.answered(&at(9)) && !round.answered(&at(9)));
        assert_eq!(round.step(now), RoundStep::End);
        assert_eq!(round.into_failed(), [at(1), at(2), at(3)].into());
    }

    #[test]
    fn cluster_map_is_asked_of_sixteen_servers_at_a_time_at_most() {
        let seeds: Vec<HostPort> = (1..=40).map(at).collect();
        let map = ClusterMap::provisional(&seeds);
        let mut round = AskingRound::new(&map, Vec::new(), &seeds, &HashSet::new(), 5);
        let mut now = Instant::now();
        let mut asked = Vec::new();
        while asked.len() < ASKED_MAX {
            match round.step(now) {
                RoundStep::Ask(address) => asked.push(address),
                RoundStep::Wait(time) => now += time.unwrap(),
                RoundStep::End => unreachable!("forty are to be asked"),
            }
        }
        assert_eq!(asked[0], at(1));
        assert_eq!(round.step(now + NEXT_AFTER), RoundStep::Wait(None));
        round.failed(&at(1));
        assert_eq!(round.step(now + NEXT_AFTER), RoundStep::Ask(at(17)));
    }
}
