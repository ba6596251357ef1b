//! One node as an [`OutlierDetector`](super::OutlierDetector) sees it.

use std::collections::VecDeque;
use std::time::Instant;

use crate::partition::NodeId;
use crate::policy::outlier_detector::{Actions, Flush, FlushCounts, Probe, ProbeOutcome};
use crate::policy::{Ejection, RAMP_STEPS, Readmission, pause_between};

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) state: State,
    /// True while a probe or a flush is under way.
    pub(super) is_busy: bool,
    /// True if that began before the node was ejected: its outcome says nothing about the node now.
    pub(super) is_outdated: bool,
    /// When the next probe is due. Not looked at while one is under way.
    pub(super) next_probe: Option<Instant>,
    /// When the last probe was sent.
    pub(super) probe_sent_at: Option<Instant>,
    /// Number of ejections in a row, each soon after the last readmission.
    pub(super) ejections: u32,
    /// When it was last readmitted.
    pub(super) readmitted_at: Option<Instant>,
    /// Since when it has been getting its keys back.
    pub(super) ramp_since: Option<Instant>,
    /// Since when the placement has done without it. It holds stale values then.
    pub(super) absent_since: Option<Instant>,
    /// The flushes that it has taken part in, or does not need. Valid while it is absent.
    pub(super) flushes: FlushCounts,
    /// True if it was emptied since it is absent.
    pub(super) is_flushed: bool,
    /// A flush that it missed, noticed only after it was readmitted.
    pub(super) late_flush: Option<Flush>,
}

#[derive(Debug)]
pub(super) enum State {
    In {
        /// When it failed, at most [`Ejection::failures`] times, without a success since.
        failures: VecDeque<Instant>,
        /// True if one of them is a write that was refused: only a probe that finds a primary clears them.
        is_read_only: bool,
    },
    Out {
        /// Number of failures for which it was ejected.
        failures: u32,
        failed_probes: u32,
        /// Number of probes in a row that have succeeded.
        passed_probes: u32,
        /// True once it serves requests again.
        is_back: bool,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::In {
            failures: VecDeque::new(),
            is_read_only: false,
        }
    }
}

impl Node {
    pub(super) fn eject(&mut self, ejection: &Ejection, failures: u32, now: Instant, jitter: f64) {
        let (_, pause_max) = ejection.probe_interval();
        let is_soon = |at: Instant| now.saturating_duration_since(at) <= pause_max;
        self.ejections = match self.readmitted_at.is_some_and(is_soon) {
            true => self.ejections.saturating_add(1),
            false => 1,
        };
        self.ramp_since = None;
        self.is_outdated = self.is_busy;
        self.state = State::Out {
            failures,
            failed_probes: 0,
            passed_probes: 0,
            is_back: false,
        };
        let pause = match ejection.retry_after() {
            Some(pause) => pause,
            None => pause_between(ejection.probe_interval(), self.ejections, jitter),
        };
        self.probe_at(now + pause, ejection.readmission());
    }

    /// Sets the time of the next probe, which is of no use before all values have expired.
    pub(super) fn probe_at(&mut self, due: Instant, readmission: Readmission) {
        let expiry = self.expiry(readmission);
        self.next_probe = Some(expiry.map_or(due, |expiry| expiry.max(due)));
    }

    /// When all values that the node holds have expired, if it must not be read before.
    pub(super) fn expiry(&self, readmission: Readmission) -> Option<Instant> {
        match readmission {
            Readmission::AfterTtl(ttl) => Some(self.absent_since? + ttl),
            Readmission::AsItIs | Readmission::Flushed => None,
        }
    }

    /// What was under way has ended. Returns true if its outcome is outdated.
    pub(super) fn ends_outdated(&mut self) -> bool {
        self.is_busy = false;
        std::mem::take(&mut self.is_outdated)
    }

    /// A probe or a flush of a node that is out has ended.
    pub(super) fn probed_while_out(
        &mut self,
        ejection: &Ejection,
        outcome: ProbeOutcome,
        now: Instant,
        jitter: f64,
    ) {
        let has_expired = self
            .expiry(ejection.readmission())
            .is_none_or(|at| at <= now);
        let State::Out {
            failed_probes,
            passed_probes,
            is_back,
            ..
        } = &mut self.state
        else {
            return;
        };
        let step = match outcome {
            ProbeOutcome::Passed => {
                *passed_probes = passed_probes.saturating_add(1);
                *is_back = has_expired && *passed_probes >= ejection.successes();
                1
            }
            ProbeOutcome::Failed | ProbeOutcome::Refused => {
                (*passed_probes, *is_back) = (0, false);
                *failed_probes = failed_probes.saturating_add(1);
                self.ejections.saturating_add(*failed_probes)
            }
        };
        if *is_back {
            self.next_probe = None;
            return;
        }
        let pause = match ejection.retry_after() {
            Some(pause) => pause,
            None => pause_between(ejection.probe_interval(), step, jitter),
        };
        self.probe_at(now + pause, ejection.readmission());
    }

    /// What happens to a node by the passing of time alone.
    pub(super) fn advance(&mut self, ejection: &Ejection, now: Instant, jitter: f64) {
        let is_due = self.next_probe.is_some_and(|due| due <= now);
        match &mut self.state {
            State::Out { is_back, .. }
                if ejection.retry_after().is_some() && is_due && !self.is_busy =>
            {
                *is_back = true;
                self.next_probe = None;
            }
            State::In { .. } if self.next_probe.is_none() && !self.is_busy => {
                // The first one after a part of the interval, or all nodes would be probed in step.
                let heartbeat = ejection.heartbeat();
                self.next_probe = heartbeat.map(|interval| now + interval.mul_f64(jitter));
            }
            _ => {}
        }
        if let (Some(since), Some(ramp)) = (self.ramp_since, ejection.ramp())
            && now.saturating_duration_since(since) >= ramp
        {
            self.ramp_since = None;
        }
    }

    /// Adds what is to be done for the node, and when to look at it again.
    pub(super) fn add_actions(
        &mut self,
        id: NodeId,
        ejection: &Ejection,
        flushes: FlushCounts,
        now: Instant,
        actions: &mut Actions,
    ) {
        if let (Some(since), Some(ramp)) = (self.ramp_since, ejection.ramp()) {
            let step = ramp / u32::from(RAMP_STEPS);
            let share = u32::from(self.ramp_share(ejection, now).unwrap_or(0));
            actions.wake_at(since + step * share);
        }
        if self.is_busy {
            return;
        }
        let flush = match self.state {
            State::Out { is_back: true, .. } => self.flush_due(ejection.readmission(), flushes),
            State::Out { .. } => None,
            State::In { .. } => self.late_flush,
        };
        if let Some(flush) = flush {
            self.is_busy = true;
            actions.flushes.push((id, flush));
            return;
        }
        match self.next_probe {
            Some(due) if due <= now => {
                self.is_busy = true;
                self.probe_sent_at = Some(now);
                let is_in = matches!(self.state, State::In { .. });
                let limit = is_in.then(|| ejection.suspect_interval());
                actions.probes.push(Probe { node: id, limit });
            }
            Some(due) => actions.wake_at(due),
            None => {}
        }
    }

    /// The placement does without the node from now on. Returns the number of failures that it was ejected for.
    pub(super) fn leave(&mut self, ejection: &Ejection, now: Instant, flushes: FlushCounts) -> u32 {
        self.absent_since = Some(now);
        self.flushes = flushes;
        self.is_flushed = false;
        if let Some(due) = self.next_probe {
            self.probe_at(due, ejection.readmission());
        }
        match self.state {
            State::Out { failures, .. } => failures,
            State::In { .. } => 0,
        }
    }

    pub(super) fn readmit(&mut self, now: Instant) {
        self.state = State::default();
        self.next_probe = None;
        self.readmitted_at = Some(now);
    }

    /// The flush that the node has missed.
    pub(super) fn missed(&self, flushes: FlushCounts) -> Option<Flush> {
        match self.flushes {
            FlushCounts { all, .. } if all != flushes.all => Some(Flush::All),
            FlushCounts { database, .. } if database != flushes.database => Some(Flush::Database),
            _ => None,
        }
    }

    /// The flush that must be done before the node is read.
    pub(super) fn flush_due(
        &self,
        readmission: Readmission,
        flushes: FlushCounts,
    ) -> Option<Flush> {
        self.absent_since?;
        let always = readmission == Readmission::Flushed && !self.is_flushed;
        self.missed(flushes).or(always.then_some(Flush::Database))
    }

    /// True if the node holds values that must not be read.
    pub(super) fn is_stale(&self, readmission: Readmission, flushes: FlushCounts) -> bool {
        self.expiry(readmission).is_some() || self.flush_due(readmission, flushes).is_some()
    }

    /// How much of its keys the node has, if not all.
    pub(super) fn ramp_share(&self, ejection: &Ejection, now: Instant) -> Option<u8> {
        let step = ejection.ramp()? / u32::from(RAMP_STEPS);
        let elapsed = now.saturating_duration_since(self.ramp_since?);
        let share = 1 + elapsed.as_nanos() / step.as_nanos().max(1);
        (share < u128::from(RAMP_STEPS)).then_some(share as u8)
    }
}

/// Drops the failures that the window does not reach.
pub(super) fn forget_old(failures: &mut VecDeque<Instant>, ejection: &Ejection, now: Instant) {
    let is_old = |&at: &Instant| now.saturating_duration_since(at) > ejection.window();
    while failures.front().is_some_and(is_old) {
        failures.pop_front();
    }
}
