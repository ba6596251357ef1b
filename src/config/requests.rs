//! The setters about single requests: how long one may take, how often it may be sent, and which keys it may
//! combine. [`with_request_options`] defines the methods with which a handle overrides the first two.

use std::time::Duration;

use crate::config::Builder;
use crate::plan::HashTags;
use crate::policy::RetryPolicy;

impl Builder {
    /// Sets the maximum duration of a request that may block for ever: BLPOP, BRPOP, BLMOVE, BZPOPMIN and the like,
    /// WAIT and WAITAOF with timeout 0, XREAD and XREADGROUP with `BLOCK 0`, and a pipeline that contains one of
    /// them. Jedis calls it the blocking socket timeout.
    ///
    /// Afterwards the request fails like any other without a reply: reads (XREAD) with
    /// [`Timeout`](crate::ErrorKind::Timeout), all others with [`Unknown`](crate::ErrorKind::Unknown), since the
    /// server may just have taken an element for it. The connection is closed, which ends the command on the
    /// server. A timeout in the command itself is the better choice where the program can set one: the command
    /// then ends with nil, and loses nothing.
    ///
    /// Applies to the clients of a proxy as well. A node whose machine has vanished is detected without it: see
    /// [`tcp_keepalive`](Self::tcp_keepalive). At most [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX). Defaults to
    /// `None`: such a command waits for ever, as on a server.
    pub fn blocking_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.blocking_timeout = timeout.into();
        self
    }

    /// Sets when a request that failed is sent again, within its response timeout. A write that may have been
    /// applied is never sent again. Applies to the clients of a proxy as well. Defaults to [`RetryPolicy::READS`].
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

/// The timeout, or [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX) if that is shorter: a handle has no way to refuse
/// one.
pub(crate) fn bounded(timeout: Option<Duration>) -> Option<Duration> {
    timeout.map(|timeout| timeout.min(crate::builder::TIMEOUT_MAX))
}

/// Defines `with_timeout`, `with_blocking_timeout`, `with_retry`, `with_read_from` and `with_hedged_reads` for a handle that is cheap to clone, and whose
/// field `shared` has a method `with_options`.
macro_rules! with_request_options {
    ($handle:ty) => {
        impl $handle {
            /// Returns a handle over the same connections whose requests have this timeout instead of
            /// [`Builder::response_timeout`](crate::Builder::response_timeout): single commands, pipelines,
            /// transactions, scans, and what is made from it.
            ///
            /// The timeout of a blocking command is added to it; commands that may block for ever have
            /// [`with_blocking_timeout`](Self::with_blocking_timeout) instead. `None` waits for ever. With zero,
            /// such as the rest of a deadline that has passed, every request fails with
            /// [`Timeout`](crate::ErrorKind::Timeout) and nothing is sent. Longer timeouts than
            /// [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX) are cut to it.
            #[must_use]
            pub fn with_timeout(&self, timeout: impl Into<Option<std::time::Duration>>) -> Self {
                let timeout = $crate::config::bounded(timeout.into());
                let mut handle = self.clone();
                handle.shared = self
                    .shared
                    .with_options(|options| options.response_timeout = timeout);
                handle
            }

            /// Returns a handle over the same connections whose commands that may block for ever have this timeout
            /// instead of [`Builder::blocking_timeout`](crate::Builder::blocking_timeout). `None` waits for ever,
            /// zero sends nothing, and longer timeouts than [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX) are cut to
            /// it.
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

            /// Returns a handle over the same connections whose requests are sent again by this policy instead of
            /// that of [`Builder::retry`](crate::Builder::retry). A number out of its range counts as the nearest
            /// one within it.
            #[must_use]
            pub fn with_retry(&self, policy: $crate::RetryPolicy) -> Self {
                let mut handle = self.clone();
                handle.shared = self
                    .shared
                    .with_options(|options| options.retry = policy.clamped());
                handle
            }

            /// Returns a handle over the same connections whose reads by key go to these servers of their nodes instead
            /// of those of [`Builder::read_from`](crate::Builder::read_from). Has no effect on nodes without replicas.
            #[must_use]
            pub fn with_read_from(&self, read_from: $crate::ReadFrom) -> Self {
                let mut handle = self.clone();
                handle.shared = self
                    .shared
                    .with_options(|options| options.read_from = read_from);
                handle
            }

            /// Returns a handle over the same connections whose single reads are sent to a second server after this time
            /// instead of that of [`Builder::hedged_reads`](crate::Builder::hedged_reads). With `None` none is.
            #[must_use]
            pub fn with_hedged_reads(&self, after: impl Into<Option<std::time::Duration>>) -> Self {
                let after = $crate::config::bounded(after.into());
                let mut handle = self.clone();
                handle.shared = self
                    .shared
                    .with_options(|options| options.hedge_after = after);
                handle
            }
        }
    };
}

/// Defines `set_timeout` and `set_blocking_timeout` for a dedicated connection, whose field `shared` has a method
/// `with_options`.
macro_rules! set_request_options {
    ($connection:ty) => {
        impl $connection {
            /// Sets the timeout of requests over this connection, with the bounds of
            /// [`ShardedClient::with_timeout`](crate::ShardedClient::with_timeout). Defaults to that of the handle
            /// that opened it.
            pub fn set_timeout(&mut self, timeout: impl Into<Option<std::time::Duration>>) {
                let timeout = $crate::config::bounded(timeout.into());
                self.shared = self
                    .shared
                    .with_options(|options| options.response_timeout = timeout);
            }

            /// Sets the timeout of commands that may block for ever over this connection, with the bounds of
            /// [`ShardedClient::with_blocking_timeout`](crate::ShardedClient::with_blocking_timeout). Defaults to
            /// that of the handle that opened it.
            pub fn set_blocking_timeout(
                &mut self,
                timeout: impl Into<Option<std::time::Duration>>,
            ) {
                let timeout = $crate::config::bounded(timeout.into());
                self.shared = self
                    .shared
                    .with_options(|options| options.blocking_timeout = timeout);
            }
        }
    };
}

pub(crate) use {set_request_options, with_request_options};
