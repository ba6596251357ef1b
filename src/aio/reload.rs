//! Exchanges that go on by the newest topology of their client, while a reshard moves keys.

use std::sync::Arc;
use std::time::Instant;

use crate::aio::executor::Executor;
use crate::aio::in_flight::ReplyChannel;
use crate::endpoint::Deadline;
use crate::plan::{Exchange, Newest, Pause};

impl Executor {
    /// Goes on with an exchange from this pause on.
    pub(super) async fn exchange_after<R: ReplyChannel>(
        &self,
        pause: Pause,
        exchange: &mut Exchange<R>,
        deadline: Deadline,
    ) {
        let mut newer: Option<Self> = None;
        let mut next = Some(pause);
        while let Some(pause) = next {
            if !pause.time.is_zero() {
                tokio::time::sleep(pause.time).await;
            }
            if pause.reloads {
                newer = self.reload(newer, exchange);
            }
            let executor = newer.as_ref().unwrap_or(self);
            next = executor.exchange_until_pause(exchange, deadline).await;
        }
    }

    /// Has an exchange, which these connections have begun, planned again by the newest topology. `newer` are the
    /// connections by which it was sent since. Returns those by which it goes on, if they are others than these.
    pub(crate) fn reload<R: ReplyChannel>(
        &self,
        newer: Option<Self>,
        exchange: &mut Exchange<R>,
    ) -> Option<Self> {
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
