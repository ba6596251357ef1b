//! The setter of [`Builder`] for caches.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Builder;
use crate::config::client_config::Purpose;
use crate::config::settings::{Limit, limits};
use crate::error::Error;
use crate::observe::Votes;
use crate::policy::{Ejection, Readmission};

impl Builder {
    /// Makes the client a cache: a node that fails is ejected, so that its keys go to other nodes until it is back,
    /// and the topology may be [replaced](crate::ShardedClient::set_topology) by one that places keys otherwise. A key
    /// that has moved is a miss.
    ///
    /// Reads and writes of a key go to its owner by the nodes that are in, also those of a pipeline, a split command
    /// or a transaction. Commands to all nodes, scans, pattern subscriptions and so on go to the nodes that are in.
    /// Handles to one node ([`node`](crate::ShardedClient::node),
    /// [`dedicated`](crate::ShardedClient::dedicated)) stay at their node. Until a node is ejected, its requests fail as
    /// they do in a store: see [`missing_nodes`](Self::missing_nodes) and [`retry`](Self::retry).
    ///
    /// A thread probes the nodes that have failed. It is started by the first failure, and ends after the last handle
    /// is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use redis_sharding::redis::Commands;
    /// use redis_sharding::{Ejection, ShardedClient};
    /// # use redis_sharding::testing::TestNode;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let servers = TestNode::start_many(3)?;
    /// let mut client = ShardedClient::builder()
    ///     .node("a", servers[0].url())
    ///     .node("b", servers[1].url())
    ///     .node("c", servers[2].url())
    ///     .cache(Ejection::new().with_window(Duration::from_millis(500)))
    ///     .build()?;
    /// let owner = client.node_for("user:1")?.name().to_owned();
    /// servers[["a", "b", "c"].iter().position(|name| *name == owner).unwrap()].stop();
    /// while client.set::<_, _, ()>("user:1", "Ada").is_err() {}
    /// assert_ne!(client.node_for("user:1")?.name(), owner);
    /// # Ok(()) }
    /// ```
    ///
    /// Defaults to none: the client is a data store, and keys never move.
    pub fn cache(mut self, ejection: Ejection) -> Self {
        self.purpose = Purpose::Cache(ejection);
        self
    }
}

/// What the connections of a cache record. `None` if no node is ever ejected.
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) if a number is out of its range.
pub(super) fn votes(ejection: &Ejection) -> Result<Option<Arc<Votes>>, Error> {
    check(ejection)?;
    Ok(ejection.failures().map(|_| Votes::new(*ejection, [])))
}

/// Checks that every number is within its limits.
fn check(ejection: &Ejection) -> Result<(), Error> {
    if let Some(failures) = ejection.failures() {
        limits::EJECTION_FAILURES.check(failures)?;
    }
    limits::EJECTION_WINDOW.check(ejection.window())?;
    limits::MAX_EJECTED.check(ejection.max_ejected_percent())?;
    limits::EJECTION_SUCCESSES.check(ejection.successes())?;
    let (min, max) = ejection.probe_interval();
    limits::PROBE_INTERVAL.check(min)?;
    limits::PROBE_INTERVAL.check(max)?;
    if min > max {
        return Err(Error::config(format!(
            "with_probe_interval of the ejection begins with {min:?}, which is more than its longest pause, {max:?}"
        )));
    }
    let check = |limit: &Limit<Duration>, time: Option<Duration>| {
        time.map_or(Ok(Duration::ZERO), |time| limit.check(time))
    };
    check(&limits::HEARTBEAT, ejection.heartbeat())?;
    check(&limits::RETRY_AFTER, ejection.retry_after())?;
    check(&limits::RAMP, ejection.ramp())?;
    if let Readmission::AfterTtl(ttl) = ejection.readmission() {
        limits::AFTER_TTL.check(ttl)?;
    }
    if !ejection.requests_count() && ejection.heartbeat().is_none() {
        return Err(Error::config(
            "with_request_failures(false) of the ejection needs with_heartbeat: without either, no failure is noticed",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{EJECTION_COUNT_MAX, EJECTION_TIME_MAX};

    #[test]
    fn ejection_settings_out_of_range_are_refused_by_name() {
        let ok = Ejection::new();
        let (short, long) = (
            Duration::from_millis(9),
            EJECTION_TIME_MAX + Duration::from_millis(1),
        );
        let rows = [
            (ok.with_failures(0), "with_failures"),
            (ok.with_failures(EJECTION_COUNT_MAX + 1), "with_failures"),
            (ok.with_window(short), "with_window"),
            (ok.with_window(long), "with_window"),
            (ok.with_max_ejected_percent(0), "with_max_ejected_percent"),
            (ok.with_max_ejected_percent(101), "with_max_ejected_percent"),
            (ok.with_successes(0), "with_successes"),
            (ok.with_probe_interval(short, long), "with_probe_interval"),
            (
                ok.with_probe_interval(EJECTION_TIME_MAX, Duration::from_secs(1)),
                "with_probe_interval",
            ),
            (ok.with_heartbeat(Some(short)), "with_heartbeat"),
            (ok.with_retry_after(Some(long)), "with_retry_after"),
            (ok.with_ramp(Some(short)), "with_ramp"),
            (
                ok.with_readmission(Readmission::AfterTtl(Duration::ZERO)),
                "AfterTtl",
            ),
            (ok.with_request_failures(false), "with_heartbeat"),
        ];
        for (ejection, setting) in rows {
            let builder = crate::ShardedClient::builder().node("a", "redis://h:1");
            let error = builder.cache(ejection).build().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Config);
            assert!(error.to_string().contains(setting), "{error}");
        }
        for ejection in [
            ok,
            Ejection::never(),
            Ejection::twemproxy(),
            Ejection::go_redis(),
        ] {
            check(&ejection).unwrap();
        }
    }
}
