//! [`RestorePlan`]: what a restore would do.

use std::fmt;

use super::RestoreOptions;
use super::report::{NAMED_KEYS_MAX, RestoreReport};
use super::run::{Run, Unit};
use super::servers::{Findings, TargetServer, fit_of};
use crate::error::KeyText;
use crate::rdb::convert::Fit;

/// What would be restored, and why it cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestorePlan {
    /// What each node would get.
    pub nodes: Vec<PlannedNode>,
    /// What would become of the keys. `restored` are those that would be sent; whether they exist is not known.
    pub report: RestoreReport,
    /// Why the restore would be refused.
    pub refusals: Vec<RestoreRefusal>,
}

/// What a node would get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedNode {
    /// Its name.
    pub name: String,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Bytes that it may still use; `None` without a limit.
    pub free: Option<u64>,
}

/// Why a restore would be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreRefusal {
    /// The node, if it is about one.
    pub node: Option<String>,
    /// Why, and the remedy.
    pub text: String,
}

impl RestorePlan {
    /// True if nothing stands against the restore, and all keys can be restored.
    pub fn is_possible(&self) -> bool {
        self.refusals.is_empty() && self.report.is_complete()
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            let free = match node.free {
                None => String::new(),
                Some(free) => format!(", {free} bytes free"),
            };
            writeln!(
                f,
                "node {:?}: {} keys, {} bytes of values{free}",
                node.name, node.keys, node.bytes
            )?;
        }
        write!(f, "would have {}", self.report)?;
        for refusal in &self.refusals {
            match &refusal.node {
                Some(node) => writeln!(f, "refused: node {node:?}: {}", refusal.text)?,
                None => writeln!(f, "refused: {}", refusal.text)?,
            }
        }
        Ok(())
    }
}

/// Counts what each node would get.
pub(super) struct Planner {
    nodes: Vec<PlannedNode>,
    counts: RestoreReport,
    /// Number of values that block their server for a while.
    large: u64,
}

impl Planner {
    /// For these nodes.
    pub(super) fn new(servers: &[TargetServer]) -> Self {
        let node = |server: &TargetServer| PlannedNode {
            name: server.name.clone(),
            free: server.free(),
            ..PlannedNode::default()
        };
        Self {
            nodes: servers.iter().map(node).collect(),
            counts: RestoreReport::default(),
            large: 0,
        }
    }

    /// Counts a key.
    pub(super) fn add(&mut self, run: &Run<'_>, unit: &Unit) {
        let counts = &mut self.counts;
        let bytes = unit.value.len() as u64;
        let (Some(node), Some(target)) =
            (self.nodes.get_mut(unit.owner), run.targets.get(unit.owner))
        else {
            return;
        };
        match fit_of(unit, target, run.options) {
            Ok(Fit::AsIs(_)) => {}
            Ok(Fit::Rewritten { is_lossy, .. }) => {
                counts.rewritten += 1;
                counts.without_field_expiries += u64::from(is_lossy);
            }
            Ok(Fit::Elements { is_lossy }) => {
                counts.by_elements += 1;
                counts.without_field_expiries += u64::from(is_lossy);
            }
            Ok(Fit::Impossible(obstacle)) => {
                return counts.refuse(unit.source_db, &unit.info.key, obstacle.to_string());
            }
            Err(error) => {
                let reason = format!("its value is damaged: {error}");
                return counts.refuse(unit.source_db, &unit.info.key, reason);
            }
        }
        if bytes >= run.options.warning_bytes {
            self.large += 1;
            if counts.remarks.len() < NAMED_KEYS_MAX {
                counts.remarks.push(format!(
                    "{} of database {} has {bytes} bytes: its server is blocked for a while, unless it is made element \
                     by element",
                    KeyText(&unit.info.key),
                    unit.source_db
                ));
            }
        }
        counts.restored += 1;
        counts.bytes += bytes;
        node.keys += 1;
        node.bytes += bytes;
    }

    /// The plan.
    pub(super) fn finish(
        self,
        mut report: RestoreReport,
        findings: Findings,
        options: &RestoreOptions,
    ) -> RestorePlan {
        let more = self.large - self.counts.remarks.len() as u64;
        report.remarks.extend(self.counts.remarks.iter().cloned());
        if more > 0 {
            report
                .remarks
                .push(format!("{more} more values are as large"));
        }
        report.add(self.counts);
        report.remarks.extend(findings.remarks);
        let refusals = findings.refusals.into_iter();
        let mut refusals: Vec<RestoreRefusal> = refusals
            .map(|(node, text)| RestoreRefusal {
                node: Some(node),
                text,
            })
            .collect();
        if let Some(what) = report.lost.first().filter(|_| !options.takes_damaged) {
            refusals.push(RestoreRefusal {
                node: None,
                text: format!("{what}; --damaged restores what is still good"),
            });
        }
        RestorePlan {
            nodes: self.nodes,
            report,
            refusals,
        }
    }
}
