//! [`OutlierDetector`]: which nodes of a cache are out, as one client sees it.
//!
//! ```text
//!             failures             enough of them            probes succeed, and
//!             in a row             within the window         values are flushed or expired
//!  in, healthy ─────▶ in, suspect ──────────────▶ out ─────────────────────────────────▶ in, healthy
//!       ▲                 │                        ▲ │                                    (perhaps a share
//!       └──── a success ──┘                        └─┘ a probe fails: longer pause         of its keys first)
//! ```
//!
//! A node that is out is left out of the placement, unless more are out than [`Ejection`] permits.
//!
//! Time, randomness and the outcomes of probes are arguments: an executor calls [`poll`](OutlierDetector::poll),
//! does what it says, and reports what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::partition::NodeId;
use crate::policy::outlier_node::{Node, State, forget_old};
use crate::policy::{Ejection, Refusal};

/// The health of all nodes of one client.
#[derive(Debug)]
pub(crate) struct OutlierDetector {
    ejection: Ejection,
    nodes: BTreeMap<NodeId, Node>,
    /// What the placement goes by.
    installed: OutSet,
    /// What it shall go by next, from [`poll`](Self::poll) to [`installed`](Self::installed).
    proposed: Option<Proposal>,
    /// What the partitioner could not place keys without.
    refused: Option<OutSet>,
}

/// The nodes that the placement does not use, or not for all of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutSet {
    pub(crate) out: BTreeSet<NodeId>,
    /// How much of its keys a node has back, in parts of [`RAMP_STEPS`].
    pub(crate) ramping: BTreeMap<NodeId, u8>,
}

/// What an executor has to do now.
#[derive(Debug, Default)]
pub(crate) struct Actions {
    /// Let the placement go by this set, and then call [`installed`](OutlierDetector::installed) or
    /// [`refused`](OutlierDetector::refused). First of all.
    pub(crate) install: Option<OutSet>,
    /// Send a probe to each of these nodes, and report its outcome with [`probed`](OutlierDetector::probed).
    pub(crate) probes: Vec<Probe>,
    /// Empty each of these nodes, and report the outcome with [`flushed`](OutlierDetector::flushed).
    pub(crate) flushes: Vec<(NodeId, Flush)>,
    /// When to poll again, unless something happens before. `None` if nothing is due.
    pub(crate) wake: Option<Instant>,
}

/// A PING to a node over a connection that is not one of the requests'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) node: NodeId,
    /// Longest duration, connecting included. `None` leaves it to the connect timeout.
    pub(crate) limit: Option<Duration>,
}

/// The outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeOutcome {
    /// The node serves requests.
    Passed,
    /// It does not, in a way that counts as a failure.
    Failed,
    /// It does not, in a way that does not count: it is alive, but refuses the password, or is loading.
    Refused,
}

/// What a node has failed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No connection, or no reply in time, or a reply that it serves no requests for now.
    NoReply,
    /// The server is a replica and refuses writes. That it serves reads says nothing against it.
    ReadOnly,
}

impl From<Refusal> for FailureKind {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ReadOnly => Self::ReadOnly,
            Refusal::Loading | Refusal::MasterDown => Self::NoReply,
        }
    }
}

/// How a node is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// All databases.
    All,
    /// That of the client.
    Database,
}

/// Number of times that the client has sent each flush to the nodes that were in, while others were out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlushCounts {
    pub(crate) all: u64,
    pub(crate) database: u64,
}

/// What the installation of a set changes.
#[derive(Debug, Default)]
pub(crate) struct OutChange {
    /// The nodes that were ejected, with the number of failures in a row.
    pub(crate) ejected: Vec<(NodeId, u32)>,
    /// The nodes that are in again, with the time that they were out.
    pub(crate) readmitted: Vec<(NodeId, Duration)>,
}

#[derive(Debug)]
struct Proposal {
    set: OutSet,
    flushes: FlushCounts,
}

impl OutlierDetector {
    /// The detector of a client whose nodes have not failed yet.
    pub(crate) fn new(ejection: Ejection, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let nodes = nodes.into_iter().map(|id| (id, Node::default()));
        Self {
            ejection,
            nodes: nodes.collect(),
            installed: OutSet::default(),
            proposed: None,
            refused: None,
        }
    }

    /// The topology has these nodes now. Those that stay keep their state; the ones that are out are probed at once,
    /// as they may have another address. A topology that was replaced goes by the same [`OutSet`], as far as it has
    /// these nodes.
    pub(crate) fn set_nodes(&mut self, nodes: impl IntoIterator<Item = NodeId>, now: Instant) {
        let mut former = std::mem::take(&mut self.nodes);
        for id in nodes {
            let mut node = former.remove(&id).unwrap_or_default();
            if matches!(node.state, State::Out { is_back: false, .. }) {
                node.probe_at(now, self.ejection.readmission());
            }
            self.nodes.insert(id, node);
        }
        let nodes = &self.nodes;
        self.installed.out.retain(|id| nodes.contains_key(id));
        self.installed
            .ramping
            .retain(|id, _| nodes.contains_key(id));
        self.refused = None;
    }

    /// The set that the placement goes by.
    #[cfg(test)]
    pub(crate) fn outs(&self) -> &OutSet {
        &self.installed
    }

    /// Number of nodes that have failed and are not back, whether or not the placement uses them.
    #[cfg(test)]
    pub(crate) fn failed_nodes(&self) -> usize {
        let is_out = |node: &&Node| matches!(node.state, State::Out { .. });
        self.nodes.values().filter(is_out).count()
    }

    /// How long the placement has done without this node. `None` if it does not.
    pub(crate) fn absence(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let since = self.nodes.get(&node)?.absent_since?;
        Some(now.saturating_duration_since(since))
    }

    /// A request to the node, or an attempt to connect to it, has failed. `jitter` in 0..1. Returns true if there is
    /// something to do.
    pub(crate) fn failed(
        &mut self,
        node: NodeId,
        kind: FailureKind,
        now: Instant,
        jitter: f64,
    ) -> bool {
        self.ejection.requests_count() && self.fail(node, kind, now, jitter)
    }

    /// A request to the node was served.
    pub(crate) fn succeeded(&mut self, node: NodeId) {
        let is_read_only = |node: &Node| match node.state {
            State::In { is_read_only, .. } => is_read_only,
            State::Out { .. } => false,
        };
        if self.ejection.requests_count() && !self.nodes.get(&node).is_some_and(is_read_only) {
            self.succeed(node);
        }
    }

    fn fail(&mut self, id: NodeId, kind: FailureKind, now: Instant, jitter: f64) -> bool {
        let ejection = &self.ejection;
        let (Some(limit), Some(node)) = (ejection.failures(), self.nodes.get_mut(&id)) else {
            return false;
        };
        let State::In {
            failures,
            is_read_only,
        } = &mut node.state
        else {
            return false;
        };
        *is_read_only |= kind == FailureKind::ReadOnly;
        forget_old(failures, ejection, now);
        let last = failures.back();
        if last
            .is_some_and(|&last| now.saturating_duration_since(last) < ejection.failure_spacing())
        {
            return false;
        }
        failures.push_back(now);
        if failures.len() as u64 >= u64::from(limit) {
            node.eject(ejection, limit, now, jitter);
        } else if ejection.retry_after().is_none() {
            // Not at once if one was sent just before: each opens a connection.
            let spacing = ejection.failure_spacing();
            let due = node
                .probe_sent_at
                .map_or(now, |sent| now.max(sent + spacing));
            node.next_probe = Some(node.next_probe.map_or(due, |next| next.min(due)));
        }
        true
    }

    fn succeed(&mut self, id: NodeId) {
        let heartbeat = self.ejection.heartbeat();
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if let State::In {
            failures,
            is_read_only,
        } = &mut node.state
            && !failures.is_empty()
        {
            failures.clear();
            *is_read_only = false;
            // With a heartbeat, the probe that is due is sent all the same.
            if heartbeat.is_none() {
                node.next_probe = None;
            }
        }
    }

    /// A probe has ended.
    pub(crate) fn probed(&mut self, id: NodeId, outcome: ProbeOutcome, now: Instant, jitter: f64) {
        let ejection = self.ejection;
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if node.ends_outdated() {
            return;
        }
        node.next_probe = None;
        if let State::Out { .. } = node.state {
            node.probed_while_out(&ejection, outcome, now, jitter);
            return;
        }
        match outcome {
            ProbeOutcome::Passed => self.succeed(id),
            ProbeOutcome::Failed => {
                self.fail(id, FailureKind::NoReply, now, jitter);
            }
            ProbeOutcome::Refused => {}
        }
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let State::In { failures, .. } = &mut node.state else {
            return;
        };
        forget_old(failures, &ejection, now);
        let interval = match failures.is_empty() {
            true => ejection.heartbeat(),
            false => Some(ejection.suspect_interval()),
        };
        node.next_probe = interval.map(|interval| now + interval.mul_f64(0.5 + 0.5 * jitter));
    }

    /// A flush has ended. `flushes` are the counts at its beginning. A node that cannot be flushed stays out.
    pub(crate) fn flushed(
        &mut self,
        id: NodeId,
        done: bool,
        flushes: FlushCounts,
        now: Instant,
        jitter: f64,
    ) {
        let ejection = self.ejection;
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.late_flush = None;
        if node.ends_outdated() {
            return;
        }
        if done {
            node.flushes = flushes;
            node.is_flushed = true;
        } else if matches!(node.state, State::Out { .. }) {
            node.probed_while_out(&ejection, ProbeOutcome::Refused, now, jitter);
        }
    }

    /// What is to be done now. `entropy` is a random number; `flushes` counts those sent so far.
    pub(crate) fn poll(&mut self, now: Instant, entropy: u64, flushes: FlushCounts) -> Actions {
        let mut actions = Actions::default();
        for (id, node) in &mut self.nodes {
            let jitter = jitter(entropy, *id);
            node.advance(&self.ejection, now, jitter);
            let is_absent = self.installed.out.contains(id);
            // The placement uses it already, as too many are out.
            if !is_absent && matches!(node.state, State::Out { is_back: true, .. }) {
                node.readmit(now);
            }
            node.add_actions(*id, &self.ejection, flushes, now, &mut actions);
        }
        let set = self.wanted(now, flushes);
        if set != self.installed && self.refused.as_ref() != Some(&set) {
            actions.install = Some(set.clone());
            self.proposed = Some(Proposal { set, flushes });
        }
        actions
    }

    /// The placement goes by the set that was proposed last. `flushes` counts those sent so far.
    pub(crate) fn installed(&mut self, now: Instant, flushes: FlushCounts) -> OutChange {
        let mut change = OutChange::default();
        let Some(proposal) = self.proposed.take() else {
            return change;
        };
        self.refused = None;
        let former = std::mem::replace(&mut self.installed, proposal.set);
        for (&id, node) in &mut self.nodes {
            match (former.out.contains(&id), self.installed.out.contains(&id)) {
                (false, true) => {
                    let failures = node.leave(&self.ejection, now, proposal.flushes);
                    change.ejected.push((id, failures));
                }
                (true, false) => {
                    let since = node.absent_since.take().unwrap_or(now);
                    let absence = now.saturating_duration_since(since);
                    change.readmitted.push((id, absence));
                    if matches!(node.state, State::Out { is_back: true, .. }) {
                        node.readmit(now);
                        node.ramp_since = self.ejection.ramp().map(|_| now);
                    }
                    // Sent between the proposal and now, to all nodes but this one.
                    node.late_flush = node.missed(flushes);
                }
                _ => {}
            }
        }
        change
    }

    /// The partitioner cannot place keys without the nodes of the set that was proposed last: the former set stays,
    /// until another one is wanted.
    pub(crate) fn refused(&mut self) {
        self.refused = self.proposed.take().map(|proposal| proposal.set);
    }

    /// The set that the placement should go by.
    fn wanted(&self, now: Instant, flushes: FlushCounts) -> OutSet {
        let readmission = self.ejection.readmission();
        let is_out = |node: &Node| match node.state {
            State::In { .. } => false,
            State::Out { is_back, .. } => {
                !is_back || node.flush_due(readmission, flushes).is_some()
            }
        };
        let nodes = self.nodes.iter().filter(|(_, node)| is_out(node));
        let mut out: BTreeSet<NodeId> = nodes.clone().map(|(id, _)| *id).collect();
        let max = self.ejection.max_ejected(self.nodes.len());
        if out.len() > max {
            let must_not_be_read = nodes.filter(|(_, node)| node.is_stale(readmission, flushes));
            out = must_not_be_read.map(|(id, _)| *id).collect();
        }
        // Only after nodes have left the topology.
        while out.len() > max {
            out.pop_last();
        }
        let share =
            |(id, node): (&NodeId, &Node)| Some((*id, node.ramp_share(&self.ejection, now)?));
        OutSet {
            ramping: self.nodes.iter().filter_map(share).collect(),
            out,
        }
    }
}

impl Actions {
    /// True if there is nothing to do now.
    pub(crate) fn is_empty(&self) -> bool {
        self.install.is_none() && self.probes.is_empty() && self.flushes.is_empty()
    }

    /// Polls at this time at the latest.
    pub(super) fn wake_at(&mut self, due: Instant) {
        self.wake = Some(self.wake.map_or(due, |wake| wake.min(due)));
    }
}

/// A number in 0..1, another one for each node.
fn jitter(entropy: u64, node: NodeId) -> f64 {
    // The finalizer of SplitMix64.
    let mut bits = entropy ^ node.as_u64();
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{RAMP_STEPS, Readmission};
    const START_JITTER: f64 = 1.0;

    fn ids(count: usize) -> Vec<NodeId> {
        let names = (0..count).map(|number| format!("node-{number}"));
        names.map(|name| NodeId::of_name(&name)).collect()
    }

    fn detector(ejection: Ejection, count: usize) -> (OutlierDetector, Vec<NodeId>) {
        let ids = ids(count);
        (OutlierDetector::new(ejection, ids.iter().copied()), ids)
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Polls once, and installs what is wanted.
    fn poll(detector: &mut OutlierDetector, now: Instant) -> (Actions, OutChange) {
        let flushes = FlushCounts::default();
        let actions = detector.poll(now, 7, flushes);
        let change = match actions.install {
            Some(_) => detector.installed(now, flushes),
            None => OutChange::default(),
        };
        (actions, change)
    }

    /// Ejects the nodes, and has that installed.
    fn eject(detector: &mut OutlierDetector, nodes: &[NodeId], now: Instant) -> OutChange {
        for &node in nodes {
            for number in 0..detector.ejection.failures().unwrap() {
                let at = now - millis(1000) + FAILURES_APART * number;
                detector.failed(node, FailureKind::NoReply, at, START_JITTER);
            }
        }
        poll(detector, now).1
    }

    const FAILURES_APART: Duration = Duration::from_millis(100);

    #[test]
    fn node_is_ejected_after_failures_in_a_row_and_not_after_as_many_with_a_success_between() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let start = Instant::now();
        for number in 0..10 {
            let now = start + FAILURES_APART * number;
            detector.failed(ids[0], FailureKind::NoReply, now, START_JITTER);
            if number % 2 == 1 {
                detector.succeeded(ids[0]);
            }
        }
        assert!(
            poll(&mut detector, start + millis(1000))
                .1
                .ejected
                .is_empty()
        );
        detector.succeeded(ids[0]);
        for number in 0..3 {
            let now = start + millis(1000) + FAILURES_APART * number;
            assert!(detector.failed(ids[0], FailureKind::NoReply, now, START_JITTER));
        }
        let change = poll(&mut detector, start + millis(1200)).1;
        assert_eq!(change.ejected, [(ids[0], 3)]);
        assert_eq!(detector.outs().out, BTreeSet::from([ids[0]]));
        let absence = detector.absence(ids[0], start + millis(1700));
        assert_eq!(absence, Some(millis(500)));
    }

    #[test]
    fn failures_at_the_same_time_count_as_one_and_old_ones_do_not_count() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let start = Instant::now();
        for _ in 0..100 {
            detector.failed(ids[0], FailureKind::NoReply, start, START_JITTER);
        }
        detector.failed(
            ids[0],
            FailureKind::NoReply,
            start + FAILURES_APART,
            START_JITTER,
        );
        assert!(poll(&mut detector, start).1.ejected.is_empty());
        // The two are more than the window ago.
        let late = start + millis(3200);
        detector.failed(ids[0], FailureKind::NoReply, late, START_JITTER);
        detector.failed(
            ids[0],
            FailureKind::NoReply,
            late + FAILURES_APART,
            START_JITTER,
        );
        assert!(poll(&mut detector, late).1.ejected.is_empty());
        detector.failed(
            ids[0],
            FailureKind::NoReply,
            late + FAILURES_APART * 2,
            START_JITTER,
        );
        assert_eq!(poll(&mut detector, late).1.ejected.len(), 1);
    }

    #[test]
    fn node_with_a_single_failed_request_is_ejected_within_the_window_if_its_probes_fail() {
        for failures in [1, 2, 3, 7, 50] {
            for takes_long in [false, true] {
                let ejection = Ejection::new().with_failures(failures);
                let (mut detector, ids) = detector(ejection, 4);
                let start = Instant::now();
                detector.failed(ids[1], FailureKind::NoReply, start, START_JITTER);
                let mut now = start;
                let mut probes = 0;
                let ejected = loop {
                    let (actions, change) = poll(&mut detector, now);
                    if !change.ejected.is_empty() {
                        break now - start;
                    }
                    if let [probe] = actions.probes[..] {
                        probes += 1;
                        assert_eq!(probe.node, ids[1]);
                        if takes_long {
                            now += probe.limit.unwrap();
                        }
                        detector.probed(ids[1], ProbeOutcome::Failed, now, START_JITTER);
                    } else {
                        now = actions.wake.expect("a suspect is probed");
                    }
                };
                assert!(ejected <= ejection.window(), "{failures}: {ejected:?}");
                assert!(probes <= failures, "{probes}");
            }
        }
    }

    #[test]
    fn suspect_is_no_longer_probed_after_a_probe_has_passed() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let start = Instant::now();
        detector.failed(ids[0], FailureKind::NoReply, start, START_JITTER);
        let (actions, _) = poll(&mut detector, start);
        assert_eq!(actions.probes.len(), 1);
        // One at a time.
        assert!(poll(&mut detector, start + millis(900)).0.probes.is_empty());
        detector.probed(
            ids[0],
            ProbeOutcome::Passed,
            start + millis(901),
            START_JITTER,
        );
        let (actions, _) = poll(&mut detector, start + millis(901));
        assert!(actions.probes.is_empty() && actions.wake.is_none());
    }

    #[test]
    fn suspect_that_fails_and_passes_in_turn_is_probed_ten_times_a_second_at_most() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let start = Instant::now();
        let mut probes = 0;
        for number in 0..1000 {
            let now = start + millis(number);
            detector.failed(ids[0], FailureKind::NoReply, now, START_JITTER);
            for probe in poll(&mut detector, now).0.probes {
                probes += 1;
                detector.probed(probe.node, ProbeOutcome::Passed, now, START_JITTER);
            }
        }
        assert_eq!(probes, 10);
    }

    #[test]
    fn more_than_the_share_of_failed_nodes_lets_all_nodes_in() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let now = Instant::now() + millis(2000);
        eject(&mut detector, &ids[..2], now);
        assert_eq!(detector.outs().out.len(), 2);
        let change = eject(&mut detector, &ids[2..3], now);
        assert_eq!(change.readmitted.len(), 2);
        assert!(detector.outs().out.is_empty());
        // One of the three is back: the other two are out again.
        let probed = poll(&mut detector, now + millis(1100)).0;
        assert_eq!(probed.probes.len(), 3);
        detector.probed(
            ids[0],
            ProbeOutcome::Passed,
            now + millis(1100),
            START_JITTER,
        );
        poll(&mut detector, now + millis(1100));
        assert_eq!(detector.outs().out, BTreeSet::from([ids[1], ids[2]]));
    }

    #[test]
    fn stale_nodes_stay_out_though_more_than_the_share_have_failed() {
        for readmission in [Readmission::Flushed, Readmission::AfterTtl(millis(5000))] {
            let ejection = Ejection::new().with_readmission(readmission);
            let (mut detector, ids) = detector(ejection, 4);
            let now = Instant::now() + millis(2000);
            eject(&mut detector, &ids[..2], now);
            let change = eject(&mut detector, &ids[2..3], now);
            assert!(change.ejected.is_empty() && change.readmitted.is_empty());
            assert_eq!(detector.outs().out, BTreeSet::from([ids[0], ids[1]]));
        }
    }

    #[test]
    fn node_is_flushed_before_it_is_readmitted_and_stays_out_if_it_cannot_be() {
        let ejection = Ejection::new().with_readmission(Readmission::Flushed);
        let (mut detector, ids) = detector(ejection, 4);
        let mut now = Instant::now() + millis(2000);
        eject(&mut detector, &ids[..1], now);
        for done in [false, true] {
            now += millis(20_000);
            assert_eq!(poll(&mut detector, now).0.probes.len(), 1);
            detector.probed(ids[0], ProbeOutcome::Passed, now, START_JITTER);
            let (actions, change) = poll(&mut detector, now);
            assert_eq!(actions.flushes, [(ids[0], Flush::Database)]);
            assert!(change.readmitted.is_empty());
            detector.flushed(ids[0], done, FlushCounts::default(), now, START_JITTER);
            let (_, change) = poll(&mut detector, now);
            assert_eq!(change.readmitted.len(), usize::from(done));
        }
    }

    #[test]
    fn node_that_was_out_during_flushall_is_flushed_before_it_is_readmitted() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let now = Instant::now() + millis(2000);
        eject(&mut detector, &ids[..1], now);
        let flushes = FlushCounts {
            all: 1,
            database: 0,
        };
        let later = now + millis(20_000);
        detector.poll(later, 7, flushes);
        detector.probed(ids[0], ProbeOutcome::Passed, later, START_JITTER);
        let actions = detector.poll(later, 7, flushes);
        assert_eq!(actions.flushes, [(ids[0], Flush::All)]);
        assert_eq!(actions.install, None);
        // Another one in the meantime.
        let again = FlushCounts {
            all: 1,
            database: 1,
        };
        detector.flushed(ids[0], true, flushes, later, START_JITTER);
        let actions = detector.poll(later, 7, again);
        assert_eq!(actions.flushes, [(ids[0], Flush::Database)]);
        detector.flushed(ids[0], true, again, later, START_JITTER);
        assert!(detector.poll(later, 7, again).install.is_some());
        // And one while the set is being installed.
        let late = FlushCounts {
            all: 2,
            database: 1,
        };
        assert_eq!(detector.installed(later, late).readmitted.len(), 1);
        assert_eq!(
            detector.poll(later, 7, late).flushes,
            [(ids[0], Flush::All)]
        );
    }

    #[test]
    fn node_stays_out_until_its_values_have_expired() {
        let ttl = millis(60_000);
        let ejection = Ejection::new().with_readmission(Readmission::AfterTtl(ttl));
        let (mut detector, ids) = detector(ejection, 4);
        let now = Instant::now() + millis(2000);
        eject(&mut detector, &ids[..1], now);
        let (actions, _) = poll(&mut detector, now + millis(59_999));
        assert!(actions.probes.is_empty());
        assert_eq!(actions.wake, Some(now + ttl));
        assert_eq!(poll(&mut detector, now + ttl).0.probes.len(), 1);
    }

    #[test]
    fn node_that_fails_again_soon_is_out_for_twice_as_long() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let mut now = Instant::now() + millis(2000);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            eject(&mut detector, &ids[..1], now);
            let due = poll(&mut detector, now).0.wake.unwrap();
            // From the last failure on.
            pauses.push((due - now + millis(800)).as_millis());
            now = due;
            poll(&mut detector, now);
            detector.probed(ids[0], ProbeOutcome::Passed, now, START_JITTER);
            assert_eq!(poll(&mut detector, now).1.readmitted.len(), 1);
            now += millis(1000);
        }
        assert_eq!(pauses, [1000, 2000, 4000, 8000, 10_000, 10_000]);
        // In for long enough to count as healthy.
        now += millis(20_000);
        eject(&mut detector, &ids[..1], now);
        let due = poll(&mut detector, now).0.wake.unwrap();
        assert_eq!(due - now + millis(800), millis(1000));
    }

    #[test]
    fn probe_that_began_before_the_ejection_does_not_readmit_the_node() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let now = Instant::now() + millis(2000);
        detector.failed(
            ids[0],
            FailureKind::NoReply,
            now - millis(1500),
            START_JITTER,
        );
        assert_eq!(poll(&mut detector, now - millis(1500)).0.probes.len(), 1);
        eject(&mut detector, &ids[..1], now);
        detector.probed(ids[0], ProbeOutcome::Passed, now, START_JITTER);
        assert!(poll(&mut detector, now).1.readmitted.is_empty());
        assert_eq!(poll(&mut detector, now + millis(1000)).0.probes.len(), 1);
    }

    #[test]
    fn twemproxy_preset_readmits_after_its_timeout_without_a_probe() {
        let (mut detector, ids) = detector(Ejection::twemproxy(), 3);
        let now = Instant::now() + millis(2000);
        eject(&mut detector, &ids[..2], now);
        assert_eq!(detector.outs().out.len(), 2);
        let (actions, change) = poll(&mut detector, now + millis(29_000));
        assert!(actions.probes.is_empty() && change.readmitted.is_empty());
        let (actions, change) = poll(&mut detector, now + millis(30_000));
        assert!(actions.probes.is_empty());
        assert_eq!(change.readmitted.len(), 2);
    }

    #[test]
    fn go_redis_preset_counts_failed_heartbeats_only() {
        let (mut detector, ids) = detector(Ejection::go_redis(), 3);
        let mut now = Instant::now();
        for number in 0..10 {
            assert!(!detector.failed(
                ids[0],
                FailureKind::NoReply,
                now + FAILURES_APART * number,
                START_JITTER
            ));
        }
        let (start, mut beats) = (now, 0);
        while detector.outs().out.is_empty() {
            let (actions, _) = poll(&mut detector, now);
            for probe in &actions.probes {
                beats += usize::from(probe.node == ids[0]);
                let outcome = match probe.node == ids[0] {
                    true => ProbeOutcome::Failed,
                    false => ProbeOutcome::Passed,
                };
                detector.probed(probe.node, outcome, now, START_JITTER);
            }
            if actions.probes.is_empty() && actions.install.is_none() {
                now = actions.wake.expect("a heartbeat has no end");
            }
        }
        assert_eq!(beats, 3);
        assert!(now - start <= millis(1500), "{:?}", now - start);
        assert_eq!(detector.outs().out, BTreeSet::from([ids[0]]));
    }

    #[test]
    fn ramp_gives_a_node_its_keys_back_in_equal_steps() {
        let ejection = Ejection::new().with_ramp(Some(millis(1600)));
        let (mut detector, ids) = detector(ejection, 4);
        let mut now = Instant::now() + millis(2000);
        eject(&mut detector, &ids[..1], now);
        now += millis(20_000);
        poll(&mut detector, now);
        detector.probed(ids[0], ProbeOutcome::Passed, now, START_JITTER);
        assert_eq!(poll(&mut detector, now).1.readmitted.len(), 1);
        let (start, mut shares) = (now, Vec::new());
        loop {
            let (actions, _) = poll(&mut detector, now);
            if let Some(set) = actions.install {
                match set.ramping.get(&ids[0]) {
                    Some(&share) => shares.push(share),
                    None => break,
                }
            }
            now = poll(&mut detector, now).0.wake.unwrap();
        }
        assert!(shares.iter().copied().eq(1..RAMP_STEPS), "{shares:?}");
        assert_eq!(now - start, millis(1500));
    }

    #[test]
    fn refused_writes_count_though_reads_succeed() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let start = Instant::now();
        for number in 0..3 {
            let now = start + FAILURES_APART * number;
            detector.failed(ids[0], FailureKind::ReadOnly, now, START_JITTER);
            detector.succeeded(ids[0]);
        }
        assert_eq!(poll(&mut detector, start).1.ejected.len(), 1);
    }

    #[test]
    fn topology_change_keeps_the_state_of_nodes_that_stay() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let now = Instant::now() + millis(2000);
        eject(&mut detector, &ids[..2], now);
        let newcomer = NodeId::of_name("newcomer");
        let next = [newcomer, ids[3], ids[2], ids[1]];
        detector.set_nodes(next, now);
        let (actions, _) = poll(&mut detector, now);
        assert_eq!(actions.install, None);
        assert_eq!(detector.outs().out, BTreeSet::from([ids[1]]));
        assert!(detector.absence(ids[1], now).is_some());
        // It may have another address.
        assert_eq!(actions.probes.len(), 1);
        // A node that has left is unknown.
        assert!(!detector.failed(ids[0], FailureKind::NoReply, now, START_JITTER));
    }

    #[test]
    fn set_that_the_partitioner_refuses_is_not_proposed_again() {
        let (mut detector, ids) = detector(Ejection::new(), 4);
        let now = Instant::now() + millis(2000);
        for number in 0..3 {
            let at = now - FAILURES_APART * (3 - number);
            detector.failed(ids[0], FailureKind::NoReply, at, START_JITTER);
        }
        assert!(
            detector
                .poll(now, 7, FlushCounts::default())
                .install
                .is_some()
        );
        detector.refused();
        assert!(
            detector
                .poll(now, 7, FlushCounts::default())
                .install
                .is_none()
        );
        assert_eq!(eject(&mut detector, &ids[1..2], now).ejected.len(), 2);
    }
}
