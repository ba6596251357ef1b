//! The metrics of a reshard without the feature `metrics`: empty functions.

use super::event::ReshardEvent;

/// No metrics.
pub(super) struct ReshardMetrics;

impl ReshardMetrics {
    pub(super) fn new<'n>(_: impl Iterator<Item = (&'n str, &'n str)>) -> Self {
        Self
    }

    pub(super) fn count(&self, _: &ReshardEvent) {}
}
