//! The setters about single requests: how long one may wait, how often it may be sent, and which keys it may
//! combine. [`with_request_options`] gives a handle the methods with which it overrides them.

use std::time::Duration;

use crate::config::Builder;
use crate::plan::HashTags;
use crate::policy::RetryPolicy;

impl Builder {
    /// Maximum duration of a request that blocks without end: BLPOP, BRPOP, BLMOVE, BZPOPMIN and the like, WAIT
    /// and WAITAOF with timeout 0, XREAD and XREADGROUP with `BLOCK 0`, and a pipeline that contains one of
    /// them. Jedis calls it the blocking socket timeout.
    ///
    /// Afterwards the request fails as any other without a reply: reads (XREAD) with
    /// [`Timeout`](crate::ErrorKind::Timeout), all others with [`Unknown`](crate::ErrorKind::Unknown), since the
    /// server may just have taken an element for it. The connection is closed, which ends the command on the
    /// server. A timeout in the command itself is therefore the better choice where the program can set it: it
    /// ends with nil, and loses nothing.
    ///
    /// Applies to the clients of a proxy as well. A node whose machine has vanished is detected without it: see
    /// [`tcp_keepalive`](Self::tcp_keepalive). At most [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX). Defaults to
    /// `None`: such a command waits for ever, as on a server.
    pub fn blocking_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.blocking_timeout = timeout.into();
        self
    }

    /// Sets when a request that failed is sent again, within its response timeout. A write that may have been
    /// applied never is. Applies to the clients of a proxy as well. Defaults to [`RetryPolicy::READS`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// Sets whether the keys of a command, script or transaction that cannot be split must share a hash tag,
    /// even if they happen to live on one node. Defaults to [`HashTags::Optional`].
    pub fn hash_tags(mut self, hash_tags: HashTags) -> Self {
        self.hash_tags = hash_tags;
        self
    }
}

/// The longest timeout that a handle takes: longer ones are cut, as a handle has no way to refuse them.
pub(crate) fn bounded(timeout: Option<Duration>) -> Option<Duration> {
    timeout.map(|timeout| timeout.min(crate::builder::TIMEOUT_MAX))
}

/// Defines `with_timeout`, `with_blocking_timeout` and `with_retry` for a cheap handle, whose field `shared` has
/// a method `with_options`.
macro_rules! with_request_options {
    ($handle:ty) => {
        impl $handle {
            /// A handle over the same connections whose requests have this timeout instead of
            /// [`Builder::response_timeout`](crate::Builder::response_timeout): single commands, pipelines,
            /// transactions, scans, and what is made from it.
            ///
            /// The timeout of a blocking command is added to it; see
            /// [`with_blocking_timeout`](Self::with_blocking_timeout) for one without end. `None` waits for
            /// ever. With zero, as of a deadline that has passed, every request fails with
            /// [`Timeout`](crate::ErrorKind::Timeout) and nothing is sent. More than
            /// [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX) counts as that.
            #[must_use]
            pub fn with_timeout(&self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
                let timeout = $crate::config::bounded(timeout.into());
                let mut handle = self.clone();
                handle.shared = self
                    .shared
                    .with_options(|options| options.response_timeout = timeout);
                handle
            }

            /// A handle over the same connections whose commands without end have this timeout instead of
            /// [`Builder::blocking_timeout`](crate::Builder::blocking_timeout). `None` waits for ever, zero
            /// sends nothing, and more than [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX) counts as that.
            #[must_use]
            pub fn with_blocking_timeout(
                &self,
                timeout: impl Into<Option<std::time::Duration>>,
            ) -> Self {
                let timeout = $crate::config::bounded(timeout.into());
                let mut handle = self.clone();
                handle.shared = self
                    .shared
                    .with_options(|options| options.blocking_timeout = timeout);
                handle
            }

            /// A handle over the same connections whose requests are sent again by this policy instead of that
            /// of [`Builder::retry`](crate::Builder::retry). A number out of its range counts as the nearest in
            /// it.
            #[must_use]
            pub fn with_retry(&self, policy: $crate::RetryPolicy) -> Self {
                let mut handle = self.clone();
                handle.shared = self
                    .shared
                    .with_options(|options| options.retry = policy.clamped());
                handle
            }
        }
    };
}
pub(crate) use with_request_options;
