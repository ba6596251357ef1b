//! Exchanges that go on by the newest topology of their client, while a reshard moves keys.

use std::sync::Arc;
use std::time::Instant;

use crate::plan::{Exchange, Newest};
use crate::sync::executor::Executor;

impl Executor {
    /// Has an exchange, which these connections have begun, planned again by the newest topology. `newer` are the
    /// connections by which it was sent since. Returns those by which it goes on, if they are others than these.
    pub(super) fn reload(&self, newer: Option<Self>, exchange: &mut Exchange) -> Option<Self> {
        let Some(latest) = self.latest.upgrade().and_then(|latest| latest.load()) else {
            exchange.give_up_held();
            return newer;
        };
        let used = newer.as_ref().unwrap_or(self);
        let is_newer = !Arc::ptr_eq(&used.nodes, &latest.executor.nodes);
        let newest = Newest {
            router: &latest.router,
            is_newer,
            follows_record: latest.executor.records.is_some(),
            identity: &|node| Some(self.nodes.get(node.get())?.endpoint.observer.node().id()),
        };
        exchange.replan(&newest, Instant::now());
        match is_newer {
            true => Some(latest.executor.with_options(self.options)),
            false => newer,
        }
    }
}
