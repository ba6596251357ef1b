//! Random histories of failures and recoveries, as several clients see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::partition::{NodeId, NodeSpec, Rendezvous};
use crate::policy::{
    Ejection, FailureKind, Flush, FlushCounts, OutlierDetector, ProbeOutcome, Readmission,
};
use crate::topology::Topology;

const NODES: usize = 5;
const CLIENTS: usize = 3;
const HISTORIES: u32 = 1000;

/// The resolution of the simulated time.
const TICK: Duration = Duration::from_millis(10);
/// How long the nodes fail and recover by chance.
const CHAOS: Duration = Duration::from_secs(2);
const PROBE_MIN: Duration = Duration::from_millis(100);
const PROBE_MAX: Duration = Duration::from_millis(400);
const TTL: Duration = Duration::from_millis(700);

/// Random numbers from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn jitter(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One client: its detector, what is under way, and what the test knows of each node.
struct Client {
    detector: OutlierDetector,
    wake: Option<Instant>,
    /// True if something has happened since the last poll.
    is_due: bool,
    /// The probes and flushes under way, with their end.
    pending: Vec<(Instant, NodeId, Option<Flush>, FlushCounts)>,
    flushes: FlushCounts,
    history: BTreeMap<NodeId, Absence>,
    /// The placement that its requests go by.
    topology: Topology,
}

#[derive(Default)]
struct Absence {
    ejected_at: Option<Instant>,
    readmitted_at: Option<Instant>,
    /// Ejections in a row, by the test's own count.
    in_a_row: u32,
    flushed_at: Option<Instant>,
    /// True if more nodes than permitted had failed at some time of this absence or of the time before.
    overlaps_panic: bool,
    missed_flush: bool,
}

struct World {
    now: Instant,
    ids: Vec<NodeId>,
    topology: Topology,
    up: BTreeMap<NodeId, bool>,
    ejection: Ejection,
    chance: Chance,
}

impl Client {
    fn new(world: &World) -> Self {
        Self {
            detector: OutlierDetector::new(world.ejection, world.ids.iter().copied()),
            wake: None,
            is_due: true,
            pending: Vec::new(),
            flushes: FlushCounts::default(),
            topology: world.topology.clone(),
            history: world
                .ids
                .iter()
                .map(|id| (*id, Absence::default()))
                .collect(),
        }
    }

    /// Where the request for this key goes.
    fn owner(&self, key: u64) -> NodeId {
        let owner = self.topology.locate(&key.to_le_bytes());
        self.topology.node(owner.expect("a node is in")).id()
    }

    /// One request, of which the node is probably not asked again for a while.
    fn request(&mut self, world: &mut World) {
        let key = world.chance.next();
        let node = self.owner(key);
        if world.up[&node] {
            self.detector.succeeded(node);
        } else {
            let jitter = world.chance.jitter();
            self.is_due |= self
                .detector
                .failed(node, FailureKind::NoReply, world.now, jitter);
        }
    }

    /// FLUSHALL to the nodes that are in.
    fn flush_all(&mut self) {
        if self.detector.outs().out.is_empty() {
            return;
        }
        self.flushes.all += 1;
        for id in &self.detector.outs().out {
            self.history.get_mut(id).unwrap().missed_flush = true;
        }
        self.is_due = true;
    }

    /// Ends what is under way, and does what the detector says.
    fn step(&mut self, world: &mut World) {
        let now = world.now;
        let (ended, pending) = self.pending.drain(..).partition(|(end, ..)| *end <= now);
        self.pending = pending;
        let ended: Vec<_> = ended;
        for (_, node, flush, flushes) in ended {
            let (up, jitter) = (world.up[&node], world.chance.jitter());
            match flush {
                Some(_) => {
                    self.detector.flushed(node, up, flushes, now, jitter);
                    if up {
                        let history = self.history.get_mut(&node).unwrap();
                        history.flushed_at = Some(now);
                        history.missed_flush = flushes != self.flushes;
                    }
                }
                None => {
                    let outcome = match (up, world.chance.below(10)) {
                        (true, _) => ProbeOutcome::Passed,
                        (false, 0) => ProbeOutcome::Refused,
                        (false, _) => ProbeOutcome::Failed,
                    };
                    self.detector.probed(node, outcome, now, jitter);
                }
            }
            self.is_due = true;
        }
        while self.is_due || self.wake.is_some_and(|wake| wake <= now) {
            self.is_due = false;
            self.poll(world);
        }
    }

    fn poll(&mut self, world: &mut World) {
        let now = world.now;
        let actions = self.detector.poll(now, world.chance.next(), self.flushes);
        self.wake = actions.wake;
        assert!(self.wake.is_none_or(|wake| wake > now), "a busy loop");
        for probe in &actions.probes {
            assert!(
                self.pending.iter().all(|(_, node, ..)| *node != probe.node),
                "two probes"
            );
            let takes = TICK * (1 + world.chance.below(8) as u32);
            let takes = probe.limit.map_or(takes, |limit| takes.min(limit));
            self.pending
                .push((now + takes, probe.node, None, self.flushes));
        }
        for &(node, flush) in &actions.flushes {
            let takes = TICK * (1 + world.chance.below(4) as u32);
            self.pending
                .push((now + takes, node, Some(flush), self.flushes));
        }
        let max = world.ejection.max_ejected(NODES);
        if self.detector.failed_nodes() > max {
            for history in self.history.values_mut() {
                history.overlaps_panic = true;
            }
        }
        if actions.install.is_some() {
            self.is_due = true;
            let change = self.detector.installed(now, self.flushes);
            let out = self.detector.outs().out.iter();
            let out = out.filter_map(|id| world.topology.index_of_id(*id));
            self.topology = world.topology.without(&out.collect()).unwrap();
            for (node, _) in change.ejected {
                self.ejected(world, node);
            }
            for (node, _) in change.readmitted {
                self.readmitted(world, node);
            }
        }
        assert!(self.detector.outs().out.len() <= max);
    }

    fn ejected(&mut self, world: &World, node: NodeId) {
        let history = self.history.get_mut(&node).unwrap();
        let is_soon = |at: Instant| world.now - at <= PROBE_MAX;
        // An ejection because fewer nodes fail than before is none of the node's own.
        history.in_a_row = match history.readmitted_at.is_some_and(is_soon) {
            true if !history.overlaps_panic => history.in_a_row + 1,
            _ => 1,
        };
        history.ejected_at = Some(world.now);
        history.flushed_at = None;
    }

    /// A node is used again: neither too soon nor with values that it must not have.
    fn readmitted(&mut self, world: &World, node: NodeId) {
        let history = self.history.get_mut(&node).unwrap();
        let absence = world.now - history.ejected_at.unwrap();
        let readmission = world.ejection.readmission();
        assert!(!history.missed_flush, "not flushed after FLUSHALL");
        if readmission == Readmission::Flushed {
            assert!(history.flushed_at.is_some(), "not flushed");
        }
        if let Readmission::AfterTtl(ttl) = readmission {
            assert!(absence >= ttl, "after {absence:?}");
        }
        if !std::mem::take(&mut history.overlaps_panic) {
            let pause = (PROBE_MIN * (1 << (history.in_a_row - 1).min(8))).min(PROBE_MAX);
            // The node may have been ejected a tick before that was installed.
            assert!(
                absence + TICK >= pause / 2,
                "after {absence:?}, not {pause:?}"
            );
        }
        history.readmitted_at = Some(world.now);
    }
}

/// Clients that see the same set have the same owners, whatever came before.
fn compare_owners(clients: &[Client]) {
    for pair in clients.windows(2) {
        if pair[0].detector.outs() == pair[1].detector.outs() {
            for key in 0..20 {
                assert_eq!(pair[0].owner(key), pair[1].owner(key));
            }
        }
    }
}

fn run(seed: u64, ejection: Ejection) -> usize {
    let names = (0..NODES).map(|number| format!("node-{number}:6379"));
    let nodes: Vec<NodeSpec> = names.map(NodeSpec::unnamed).collect();
    let ids: Vec<NodeId> = nodes.iter().map(NodeSpec::id).collect();
    let rule = Rendezvous::new().with_slot_bits(6);
    let start = Instant::now();
    let mut world = World {
        now: start,
        up: ids.iter().map(|id| (*id, true)).collect(),
        ids,
        topology: Topology::new(nodes, Arc::new(rule)).unwrap(),
        ejection,
        chance: Chance(seed),
    };
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new(&world)).collect();
    let mut seen: BTreeSet<BTreeSet<NodeId>> = BTreeSet::new();
    // The worst: a flush that failed in the last tick of chaos, and then all that a readmission may take.
    let settled = CHAOS + TTL + PROBE_MAX * 3 + PROBE_MIN * ejection.successes() * 2;
    while world.now < start + settled {
        world.now += TICK;
        let is_chaos = world.now < start + CHAOS;
        let mut has_changed = false;
        for number in 0..NODES {
            let id = world.ids[number];
            let flips = world.chance.below(40) == 0;
            let up = world.up.get_mut(&id).unwrap();
            *up = !is_chaos || (*up != flips);
        }
        for client in &mut clients {
            // Some clients are busy, some are not.
            if world.chance.below(3) > 0 {
                client.request(&mut world);
            }
            if is_chaos && world.chance.below(100) == 0 {
                client.flush_all();
            }
            client.step(&mut world);
            has_changed |= seen.insert(client.detector.outs().out.clone());
        }
        if has_changed {
            compare_owners(&clients);
        }
    }
    for client in &clients {
        assert!(client.detector.outs().out.is_empty(), "never readmitted");
        assert_eq!(client.detector.failed_nodes(), 0);
    }
    seen.len()
}

fn ejections() -> impl Strategy<Value = Ejection> {
    let readmission = prop_oneof![
        Just(Readmission::AsItIs),
        Just(Readmission::Flushed),
        Just(Readmission::AfterTtl(TTL)),
    ];
    let heartbeat = prop_oneof![Just(None), Just(Some(PROBE_MIN))];
    let percent = prop_oneof![Just(50), Just(20), Just(100)];
    (1..4_u32, 1..4_u32, readmission, heartbeat, percent).prop_map(
        |(failures, successes, readmission, heartbeat, percent)| {
            Ejection::new()
                .with_failures(failures)
                .with_successes(successes)
                .with_window(Duration::from_millis(300))
                .with_probe_interval(PROBE_MIN, PROBE_MAX)
                .with_readmission(readmission)
                .with_heartbeat(heartbeat)
                .with_max_ejected_percent(percent)
        },
    )
}

proptest! {
    #![proptest_config(Config { cases: HISTORIES, failure_persistence: None, ..Config::default() })]

    #[test]
    fn outlier_detection_holds_its_limits_in_random_histories(seed: u64, ejection in ejections()) {
        run(seed, ejection);
    }
}

#[test]
fn outlier_simulation_sees_many_sets_of_nodes_that_are_out() {
    let ejection = Ejection::new()
        .with_failures(2)
        .with_window(Duration::from_millis(300))
        .with_probe_interval(PROBE_MIN, PROBE_MAX);
    let sets: usize = (0..10).map(|seed| run(seed, ejection)).sum();
    assert!(sets > 80, "{sets}");
}
