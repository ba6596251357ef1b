//! How long may one request take, and how often may it be sent? By the builder's settings, or by those of one
//! handle.

use std::time::Duration;

use crate::command::BlockingTime;
use crate::policy::RetryPolicy;

/// The settings of requests that one handle makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOptions {
    /// Maximum duration of a request that the server does not hold back. `None` is unlimited.
    pub(crate) response_timeout: Option<Duration>,
    /// Maximum duration of a request that the server may hold back for ever. `None` is unlimited.
    pub(crate) blocking_timeout: Option<Duration>,
    /// When a request is sent again.
    pub(crate) retry: RetryPolicy,
    /// The response timeout of the client, which handles with another one share their connections with: a node
    /// is judged by it, so that a request in a hurry does no harm to others.
    pub(crate) usual_timeout: Option<Duration>,
}

impl RequestOptions {
    /// Maximum duration of a request that the server may hold back for `blocking`. `None` is unlimited.
    pub(crate) fn limit(&self, blocking: BlockingTime) -> Option<Duration> {
        blocking.limit(self.response_timeout, self.blocking_timeout)
    }

    /// Time after which a node that has sent nothing at all counts as silent, for a request that it may hold
    /// back for `blocking`.
    pub(crate) fn usual_limit(&self, blocking: BlockingTime) -> Option<Duration> {
        blocking.limit(self.usual_timeout, self.blocking_timeout)
    }
}
