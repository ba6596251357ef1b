//! The metrics of a node without the feature `metrics`: empty functions.

use crate::observe::PoolKind;
#[cfg(feature = "tracing")]
use crate::observe::Stopwatch;
use crate::plan::AttemptKind;
#[cfg(feature = "tracing")]
use crate::plan::RequestOutcome;

/// No metrics.
pub(super) struct NodeMetrics;

impl NodeMetrics {
    pub(super) fn new(_: &str) -> Self {
        Self
    }

    pub(super) fn disabled() -> Self {
        Self
    }

    pub(super) fn started(&self, _: AttemptKind) {}

    #[cfg(feature = "tracing")]
    pub(super) fn finished(&self, _: Stopwatch, _: &RequestOutcome) {}

    pub(super) fn resent(&self) {}

    pub(super) fn fan_out(&self, _: impl FnOnce() -> usize) {}

    pub(super) fn sent(&self, _: usize) {}

    pub(super) fn received(&self, _: usize) {}

    pub(super) fn node_up(&self, _: bool) {}

    pub(super) fn ejected(&self) {}

    pub(super) fn readmitted(&self) {}

    pub(super) fn reconnected(&self) {}

    pub(super) fn opened(&self, _: PoolKind) {}

    pub(super) fn closed(&self, _: PoolKind) {}

    pub(super) fn lent(&self, _: PoolKind) {}

    pub(super) fn given_back(&self, _: PoolKind) {}

    pub(super) fn waits(&self, _: PoolKind) {}

    pub(super) fn waited(&self, _: PoolKind) {}
}
