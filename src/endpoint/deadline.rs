//! How long a request may take: one type for both executors.

use std::time::{Duration, Instant};

/// The end of a request's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) start: Instant,
    limit: Option<Duration>,
}

impl Deadline {
    /// Starts now and ends after `limit`; never, if there is none.
    pub(crate) fn start(limit: Option<Duration>) -> Self {
        Self {
            start: Instant::now(),
            limit,
        }
    }

    /// What is left; nothing after the end, `None` when it never ends.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.limit
            .map(|limit| limit.saturating_sub(self.start.elapsed()))
    }

    /// All of it.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// The instant of the end.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.limit.and_then(|limit| self.start.checked_add(limit))
    }

    /// One that ends no later than this one, and within `limit` from now.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        Self::start(Some(self.remaining().map_or(limit, |left| left.min(limit))))
    }

    /// The shorter of `limit` and all of it.
    pub(crate) fn within_limit(&self, limit: Duration) -> Duration {
        self.limit.map_or(limit, |all| all.min(limit))
    }

    /// Whether it passed longer ago than this.
    pub(crate) fn is_past(&self, grace: Duration) -> bool {
        self.limit
            .is_some_and(|limit| self.start.elapsed() > limit.saturating_add(grace))
    }

    /// Whether it has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }
}
