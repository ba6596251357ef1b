//! [`RequestOptions`]: how long may a request of this handle take, and how often may it be sent?

use std::time::Duration;

use crate::command::BlockingTime;
use crate::policy::{ReadFrom, RetryPolicy};

/// The settings of requests that one handle makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOptions {
    /// Maximum duration of a request that does not block. `None` is unlimited.
    pub(crate) response_timeout: Option<Duration>,
    /// Maximum duration of a request that may block for ever. `None` is unlimited.
    pub(crate) blocking_timeout: Option<Duration>,
    /// When a request is sent again.
    pub(crate) retry: RetryPolicy,
    /// The response timeout of the client, whose connections all handles share. It decides whether a node counts as
    /// silent, so that a handle with a short timeout does not close connections that others use.
    pub(crate) usual_timeout: Option<Duration>,
    /// The servers of a node that reads are sent to.
    pub(crate) read_from: ReadFrom,
    /// Time after which a read without a reply is sent to a second server. `None` is never.
    pub(crate) hedge_after: Option<Duration>,
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
