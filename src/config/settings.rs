//! Timeouts and sizes of connections: plain data that the builder fills and the executors follow, and the
//! limits of everything that can be set.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::policy::{
    EJECTION_COUNT_MAX, EJECTION_TIME_MAX, EJECTION_TIME_MIN, RETRY_ATTEMPTS_MAX,
    RETRY_BACKOFF_MAX, RETRY_BACKOFF_MIN, ReadFrom, RequestOptions, RetryPolicy,
};

/// Idle time after which a connection is checked before it is used: has the server closed it? A write sent on
/// a closed connection would have an unknown outcome.
pub(crate) const PROBE_AFTER: Duration = Duration::from_millis(1);

/// The longest timeout that can be set: one year.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The largest number of connections in one pool of one node.
pub const POOL_SIZE_MAX: usize = 65_535;
/// The largest number of connections to one node that the tasks of the async client can share.
pub const CONNECTIONS_PER_NODE_MAX: usize = 256;
/// The largest number of clients that a proxy can serve at a time.
pub const CLIENTS_LIMIT_MAX: usize = 1_000_000;
/// The longest idle time of [`Builder::tcp_keepalive`](crate::Builder::tcp_keepalive), as the kernel counts
/// whole seconds in 15 bits.
pub const TCP_KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// The range of every number that the builder sets. One line each, so that none is left without a limit.
pub(crate) mod limits {
    use super::*;

    pub(crate) const BLOCKING_TIMEOUT: Limit<Duration> =
        Limit::new("blocking_timeout", INSTANT, TIMEOUT_MAX);
    pub(crate) const CLIENTS_MAX: Limit<usize> = Limit::new("max_clients", 1, CLIENTS_LIMIT_MAX);
    pub(crate) const CONNECTIONS_PER_NODE: Limit<usize> =
        Limit::new("connections_per_node", 1, CONNECTIONS_PER_NODE_MAX);
    pub(crate) const CONNECT_TIMEOUT: Limit<Duration> =
        Limit::new("connect_timeout", INSTANT, TIMEOUT_MAX);
    pub(crate) const DATABASE: Limit<i64> = Limit::new("the database", 0, i32::MAX as i64);
    pub(crate) const HEDGED_READS: Limit<Duration> =
        Limit::new("hedged_reads", INSTANT, TIMEOUT_MAX);
    pub(crate) const AFTER_TTL: Limit<Duration> = Limit::new(
        "Readmission::AfterTtl of the ejection",
        EJECTION_TIME_MIN,
        TIMEOUT_MAX,
    );
    pub(crate) const EJECTION_FAILURES: Limit<u32> =
        Limit::new("with_failures of the ejection", 1, EJECTION_COUNT_MAX);
    pub(crate) const EJECTION_SUCCESSES: Limit<u32> =
        Limit::new("with_successes of the ejection", 1, EJECTION_COUNT_MAX);
    pub(crate) const EJECTION_WINDOW: Limit<Duration> =
        ejection_time("with_window of the ejection");
    pub(crate) const HEARTBEAT: Limit<Duration> = ejection_time("with_heartbeat of the ejection");
    pub(crate) const IDLE_CHECK: Limit<Duration> =
        Limit::new("idle_check", Duration::ZERO, TIMEOUT_MAX);
    pub(crate) const MAX_EJECTED: Limit<u32> =
        Limit::new("with_max_ejected_percent of the ejection", 1, 100);
    pub(crate) const POOL_SIZE: Limit<usize> = Limit::new("pool_size", 1, POOL_SIZE_MAX);
    pub(crate) const PROBE_INTERVAL: Limit<Duration> =
        ejection_time("with_probe_interval of the ejection");
    pub(crate) const RAMP: Limit<Duration> = ejection_time("with_ramp of the ejection");
    pub(crate) const RESPONSE_TIMEOUT: Limit<Duration> =
        Limit::new("response_timeout", INSTANT, TIMEOUT_MAX);
    pub(crate) const RETRY_AFTER: Limit<Duration> =
        ejection_time("with_retry_after of the ejection");
    pub(crate) const RETRY_ATTEMPTS: Limit<u32> =
        Limit::new("the number of attempts of retry", 1, RETRY_ATTEMPTS_MAX);
    pub(crate) const RETRY_BACKOFF: Limit<Duration> =
        Limit::new("the backoff of retry", RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX);
    pub(crate) const TCP_KEEPALIVE: Limit<Duration> =
        Limit::new("tcp_keepalive", Duration::from_secs(1), TCP_KEEPALIVE_MAX);
    pub(crate) const BLOCKING_POOL_SIZE: Limit<usize> =
        Limit::new("blocking_pool_size", 1, POOL_SIZE_MAX);

    const fn ejection_time(name: &'static str) -> Limit<Duration> {
        Limit::new(name, EJECTION_TIME_MIN, EJECTION_TIME_MAX)
    }

    const INSTANT: Duration = Duration::from_nanos(1);
}

/// The smallest and the largest value of a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit<T> {
    /// Name of the setter, for the error.
    name: &'static str,
    min: T,
    max: T,
}

impl<T: Copy + Ord + fmt::Debug> Limit<T> {
    const fn new(name: &'static str, min: T, max: T) -> Self {
        Self { name, min, max }
    }

    /// Returns the value if it is within the limits.
    pub(crate) fn check(&self, value: T) -> Result<T, Error> {
        let Self { name, min, max } = self;
        match (*min..=*max).contains(&value) {
            true => Ok(value),
            false => Err(Error::config(format!(
                "{name} is {value:?}, but must be in {min:?}..={max:?}"
            ))),
        }
    }

    /// Returns the nearest value within the limits.
    #[cfg(feature = "proxy")]
    pub(crate) fn clamp(&self, value: T) -> T {
        value.clamp(self.min, self.max)
    }
}

/// Timeouts and sizes of a client's connections; see the builder's setters of the same names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Maximum duration of connecting, handshake included.
    pub(crate) connect_timeout: Duration,
    /// Maximum duration of a request. `None` is unlimited.
    pub(crate) response_timeout: Option<Duration>,
    /// Maximum duration of a request that may block for ever. `None` is unlimited.
    pub(crate) blocking_timeout: Option<Duration>,
    /// When a request is sent again.
    pub(crate) retry: RetryPolicy,
    /// Maximum number of connections to one node for requests that are served at once. Blocking client only.
    pub(crate) pool_size: usize,
    /// Maximum number of exclusive connections to one node.
    pub(crate) blocking_pool_size: usize,
    /// Number of connections to one node that tasks share. Async client and proxy only.
    pub(crate) connections_per_node: usize,
    /// Idle time after which a connection is checked with PING. Blocking client only.
    pub(crate) idle_check: Duration,
    /// Idle time after which the kernel probes the peer.
    pub(crate) tcp_keepalive: Option<Duration>,
    /// Maximum number of clients of a proxy.
    pub(crate) max_clients: usize,
    /// The servers of a node that reads are sent to.
    pub(crate) read_from: ReadFrom,
    /// Time after which a read is sent to a second server. `None` is never.
    pub(crate) hedge_after: Option<Duration>,
}

impl Settings {
    /// The options of requests of handles that have none of their own.
    pub(crate) fn request_options(&self) -> RequestOptions {
        RequestOptions {
            response_timeout: self.response_timeout,
            blocking_timeout: self.blocking_timeout,
            retry: self.retry,
            usual_timeout: self.response_timeout,
            read_from: self.read_from,
            hedge_after: self.hedge_after,
        }
    }

    /// Checks that every number is within its limits.
    pub(crate) fn check(&self) -> Result<(), Error> {
        limits::CONNECT_TIMEOUT.check(self.connect_timeout)?;
        if let Some(timeout) = self.response_timeout {
            limits::RESPONSE_TIMEOUT.check(timeout)?;
        }
        if let Some(timeout) = self.blocking_timeout {
            limits::BLOCKING_TIMEOUT.check(timeout)?;
        }
        limits::RETRY_ATTEMPTS.check(self.retry.attempts_max())?;
        let (min, max) = self.retry.backoff();
        limits::RETRY_BACKOFF.check(min)?;
        limits::RETRY_BACKOFF.check(max)?;
        if min > max {
            return Err(Error::config(format!(
                "the backoff of retry begins with {min:?}, which is more than its longest pause, {max:?}"
            )));
        }
        if let Some(idle) = self.tcp_keepalive {
            limits::TCP_KEEPALIVE.check(idle)?;
        }
        limits::POOL_SIZE.check(self.pool_size)?;
        limits::BLOCKING_POOL_SIZE.check(self.blocking_pool_size)?;
        limits::CONNECTIONS_PER_NODE.check(self.connections_per_node)?;
        limits::IDLE_CHECK.check(self.idle_check)?;
        limits::CLIENTS_MAX.check(self.max_clients)?;
        if let Some(after) = self.hedge_after {
            limits::HEDGED_READS.check(after)?;
        }
        Ok(())
    }
}
