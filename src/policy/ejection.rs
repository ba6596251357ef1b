//! [`Ejection`]: when is a node of a cache left out, and when is it used again?

use std::time::Duration;

/// The largest number of failures in a row, and of probes in a row, that can be set.
pub const EJECTION_COUNT_MAX: u32 = 1000;

/// The shortest time that can be set.
pub const EJECTION_TIME_MIN: Duration = Duration::from_millis(10);

/// The longest time that can be set, but for [`Readmission::AfterTtl`].
pub const EJECTION_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Failures at most this far apart count as one: a server that hangs fails all requests under way at once.
pub(crate) const FAILURE_SPACING_MAX: Duration = Duration::from_millis(100);

/// In how many parts a node that was readmitted gets its keys back, with [`Ejection::with_ramp`].
pub(crate) const RAMP_STEPS: u8 = 16;

/// When the nodes of a cache are ejected and readmitted: see [`Builder::cache`](crate::Builder::cache).
///
/// A node that fails several times in a row is *ejected*: its keys go to other nodes, as the partitioner says for
/// the set of nodes that are out. It is *probed* with PING over new connections, and *readmitted* when it replies
/// again. So is a node that has failed only once or twice, before it is ejected: a node that fails is found within
/// the [window](Self::with_window), however few requests it gets.
///
/// Every client decides for itself. Two clients place keys alike while the same nodes are out for both.
///
/// | | counts as a failure |
/// |---|---|
/// | an attempt to connect fails: refused, unreachable, no reply to the handshake in time | yes |
/// | a request gets no reply within its timeout | yes |
/// | a PING of a probe or of the heartbeat fails | yes |
/// | `LOADING`, `READONLY`, `MASTERDOWN` | with [`with_refusals`](Self::with_refusals) |
/// | a connection breaks | no, but the attempt to connect again may be one |
/// | wrong password, refused certificate, other error replies | no |
/// | a request fails at once, as the node is known to be down, or had no time left | no |
///
/// Failures at the same time (less than a tenth of a second apart) count as one.
///
/// ```
/// use std::time::Duration;
///
/// use redis_sharding::{Ejection, Readmission, Refusal};
///
/// let ejection = Ejection::new()
///     .with_failures(5)
///     .with_window(Duration::from_secs(2))
///     .with_refusals(&[Refusal::Loading])
///     .with_readmission(Readmission::Flushed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Number of failures in a row. `None` never ejects.
    failures: Option<u32>,
    window: Duration,
    refusals: Refusals,
    max_ejected_percent: u32,
    probe_min: Duration,
    probe_max: Duration,
    heartbeat: Option<Duration>,
    requests_count: bool,
    retry_after: Option<Duration>,
    readmission: Readmission,
    successes: u32,
    ramp: Option<Duration>,
}

/// What is done about the values that a node kept while it was out, before it is used again. They may be stale:
/// the keys were written and deleted on other nodes in the meantime.
///
/// Whatever is chosen, a node that was out during FLUSHALL or FLUSHDB is flushed before it is used again.
///
/// The other nodes keep what was written to them while the node was out. Unless it expires, it is read again if the
/// node is ejected again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readmission {
    /// Nothing: stale values may be read, as with twemproxy and go-redis.
    #[default]
    AsItIs,
    /// The client's database on the node is emptied with FLUSHDB ASYNC. Needs the permission to do so; a node that
    /// refuses stays out. Each client that has ejected the node flushes it by itself, and with it what others have
    /// written since.
    Flushed,
    /// The node stays out for at least this long, from its ejection on. For a cache of which every value expires
    /// within this time. From [`EJECTION_TIME_MIN`](crate::config::builder::EJECTION_TIME_MIN) to [`TIMEOUT_MAX`](crate::config::builder::TIMEOUT_MAX).
    AfterTtl(Duration),
}

/// An error reply by which a server says that it serves no requests for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// `LOADING`: the server is reading its data from disk.
    Loading,
    /// `MASTERDOWN`: the server is a replica that has lost its primary and must not serve stale data.
    MasterDown,
    /// `READONLY`: the server is a replica, and refuses writes.
    ReadOnly,
}

/// A set of [`Refusal`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals(u8);

impl Ejection {
    /// Ejects a node after three failures in a row within three seconds.
    pub const fn new() -> Self {
        Self {
            failures: Some(3),
            window: Duration::from_secs(3),
            refusals: Refusals(0),
            max_ejected_percent: 50,
            probe_min: Duration::from_secs(1),
            probe_max: Duration::from_secs(10),
            heartbeat: None,
            requests_count: true,
            retry_after: None,
            readmission: Readmission::AsItIs,
            successes: 1,
            ramp: None,
        }
    }

    /// Ejects no node. The client is a cache all the same: its topology may be replaced by any other.
    pub const fn never() -> Self {
        Self {
            failures: None,
            ..Self::new()
        }
    }

    /// As twemproxy's `auto_eject_hosts`: out after two failures with no success in between, for 30 seconds, then in
    /// again without a probe. All nodes but one may be out.
    ///
    /// `server_failure_limit` is [`with_failures`](Self::with_failures), `server_retry_timeout`
    /// [`with_retry_after`](Self::with_retry_after).
    pub const fn twemproxy() -> Self {
        Self::new()
            .with_failures(2)
            .with_window(EJECTION_TIME_MAX)
            .with_max_ejected_percent(100)
            .with_retry_after(Some(Duration::from_secs(30)))
    }

    /// As the Ring of go-redis: PING to every node twice a second, out after three that fail, in again after one
    /// that does not. Failed requests do not count. All nodes but one may be out.
    pub const fn go_redis() -> Self {
        let heartbeat = Duration::from_millis(500);
        Self::new()
            .with_heartbeat(Some(heartbeat))
            .with_request_failures(false)
            .with_max_ejected_percent(100)
            .with_probe_interval(heartbeat, heartbeat)
    }

    /// Sets the number of failures in a row, without a success in between, after which a node is ejected. From 1
    /// to [`EJECTION_COUNT_MAX`](crate::config::builder::EJECTION_COUNT_MAX). Defaults to 3.
    #[must_use]
    pub const fn with_failures(mut self, failures: u32) -> Self {
        self.failures = Some(failures);
        self
    }

    /// Sets the time within which the failures must occur. A node that stops to reply is ejected at the latest this
    /// long after the first failure. From [`EJECTION_TIME_MIN`](crate::config::builder::EJECTION_TIME_MIN) to [`EJECTION_TIME_MAX`](crate::config::builder::EJECTION_TIME_MAX). Defaults to 3 seconds.
    #[must_use]
    pub const fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets the error replies that count as failures. Defaults to none.
    #[must_use]
    pub const fn with_refusals(mut self, refusals: &[Refusal]) -> Self {
        self.refusals = Refusals::of(refusals);
        self
    }

    /// Sets the largest share of the nodes that may be out, in percent. If more have failed, all nodes count as in
    /// again, as below Envoy's panic threshold: the failure is probably the client's own, and the nodes that are left
    /// would not bear the load. But a node stays out that must not be read yet, by its [`Readmission`].
    ///
    /// From 1 to 100; at least one node is always in. Defaults to 50.
    #[must_use]
    pub const fn with_max_ejected_percent(mut self, percent: u32) -> Self {
        self.max_ejected_percent = percent;
        self
    }

    /// Sets the pauses before the probes of a node that is out: the first takes `min`, and each further one twice as
    /// long, up to `max`, of which up to a half is taken off at random. A node that fails again soon after it was
    /// readmitted begins with a pause twice as long as the time before. Each from [`EJECTION_TIME_MIN`](crate::config::builder::EJECTION_TIME_MIN) to
    /// [`EJECTION_TIME_MAX`](crate::config::builder::EJECTION_TIME_MAX). Defaults to 1 and 10 seconds.
    #[must_use]
    pub const fn with_probe_interval(mut self, min: Duration, max: Duration) -> Self {
        self.probe_min = min;
        self.probe_max = max;
        self
    }

    /// Sets the interval of a PING to every node, also to those that do not fail, so that a node is found dead before
    /// a request needs it. From [`EJECTION_TIME_MIN`](crate::config::builder::EJECTION_TIME_MIN) to [`EJECTION_TIME_MAX`](crate::config::builder::EJECTION_TIME_MAX). Defaults to none: nodes that do
    /// not fail are not probed.
    #[must_use]
    pub const fn with_heartbeat(mut self, interval: Option<Duration>) -> Self {
        self.heartbeat = interval;
        self
    }

    /// Sets whether failed requests and attempts to connect count, or only the PINGs of the
    /// [heartbeat](Self::with_heartbeat). Defaults to true.
    #[must_use]
    pub const fn with_request_failures(mut self, count: bool) -> Self {
        self.requests_count = count;
        self
    }

    /// Sets the time after which a node that is out is used again without a probe, as after twemproxy's
    /// `server_retry_timeout`; there are then no probes at all. From [`EJECTION_TIME_MIN`](crate::config::builder::EJECTION_TIME_MIN) to [`EJECTION_TIME_MAX`](crate::config::builder::EJECTION_TIME_MAX).
    /// Defaults to none: a node that is out is probed.
    #[must_use]
    pub const fn with_retry_after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }

    /// Sets what is done about the values that a node kept while it was out. Defaults to [`Readmission::AsItIs`].
    #[must_use]
    pub const fn with_readmission(mut self, readmission: Readmission) -> Self {
        self.readmission = readmission;
        self
    }

    /// Sets the number of probes in a row that must succeed before a node is readmitted. From 1 to
    /// [`EJECTION_COUNT_MAX`](crate::config::builder::EJECTION_COUNT_MAX). Defaults to 1.
    #[must_use]
    pub const fn with_successes(mut self, probes: u32) -> Self {
        self.successes = probes;
        self
    }

    /// Sets the time over which a node that was readmitted gets its keys back, in equal steps, so that it is not hit
    /// by all misses at once. Partitioners that rebuild their placement over the nodes that are in, such as
    /// twemproxy's, give all keys back at once. From [`EJECTION_TIME_MIN`](crate::config::builder::EJECTION_TIME_MIN) to [`EJECTION_TIME_MAX`](crate::config::builder::EJECTION_TIME_MAX). Defaults to
    /// none: all keys at once.
    #[must_use]
    pub const fn with_ramp(mut self, ramp: Option<Duration>) -> Self {
        self.ramp = ramp;
        self
    }
}

impl Ejection {
    /// Number of failures in a row. `None` never ejects.
    pub(crate) fn failures(&self) -> Option<u32> {
        self.failures
    }

    /// The time within which they must occur.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// The error replies that count.
    pub(crate) fn refusals(&self) -> Refusals {
        self.refusals
    }

    pub(crate) fn max_ejected_percent(&self) -> u32 {
        self.max_ejected_percent
    }

    /// The first pause before a probe, and the longest one.
    pub(crate) fn probe_interval(&self) -> (Duration, Duration) {
        (self.probe_min, self.probe_max)
    }

    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }

    /// True if failed requests count.
    pub(crate) fn requests_count(&self) -> bool {
        self.requests_count
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn readmission(&self) -> Readmission {
        self.readmission
    }

    /// Number of probes in a row that must succeed.
    pub(crate) fn successes(&self) -> u32 {
        self.successes
    }

    pub(crate) fn ramp(&self) -> Option<Duration> {
        self.ramp
    }

    /// The most nodes of `count` that may be out.
    pub(crate) fn max_ejected(&self, count: usize) -> usize {
        let share = count * self.max_ejected_percent.min(100) as usize / 100;
        share.min(count.saturating_sub(1))
    }

    /// The time between two probes of a node that has failed and is not out yet, and the longest time of each: as
    /// many as are needed fit into the window.
    pub(crate) fn suspect_interval(&self) -> Duration {
        self.window / self.failures.unwrap_or(1).max(1).saturating_mul(2)
    }

    /// Failures less than this far apart count as one.
    pub(crate) fn failure_spacing(&self) -> Duration {
        self.suspect_interval().min(FAILURE_SPACING_MAX)
    }
}

impl Default for Ejection {
    /// [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl Refusal {
    /// The refusal with this code of an error reply.
    pub(crate) fn of_code(code: &[u8]) -> Option<Self> {
        match code {
            b"LOADING" => Some(Self::Loading),
            b"MASTERDOWN" => Some(Self::MasterDown),
            b"READONLY" => Some(Self::ReadOnly),
            _ => None,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Refusals {
    const fn of(refusals: &[Refusal]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < refusals.len() {
            bits |= refusals[at].bit();
            at += 1;
        }
        Self(bits)
    }

    pub(crate) fn contains(self, refusal: Refusal) -> bool {
        self.0 & refusal.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_ejected_is_a_share_of_the_nodes_and_never_all_of_them() {
        let at = |percent, count| {
            Ejection::new()
                .with_max_ejected_percent(percent)
                .max_ejected(count)
        };
        let rows = [
            (50, 1, 0),
            (50, 2, 1),
            (50, 3, 1),
            (50, 4, 2),
            (50, 1000, 500),
            (100, 5, 4),
            (29, 100, 29),
            (1, 99, 0),
            (1, 100, 1),
            (50, 0, 0),
        ];
        for (percent, count, expected) in rows {
            assert_eq!(at(percent, count), expected, "{percent} % of {count}");
        }
    }

    #[test]
    fn refusals_are_those_that_were_chosen() {
        const CHOSEN: Ejection =
            Ejection::new().with_refusals(&[Refusal::Loading, Refusal::ReadOnly]);
        let of = |code: &[u8]| {
            Refusal::of_code(code).is_some_and(|refusal| CHOSEN.refusals().contains(refusal))
        };
        assert!(of(b"LOADING") && of(b"READONLY"));
        assert!(!of(b"MASTERDOWN") && !of(b"ERR") && !of(b""));
        assert_eq!(Ejection::new().refusals(), Refusals::default());
    }

    #[test]
    fn ejection_presets_are_those_of_their_peers() {
        let twemproxy = Ejection::twemproxy();
        assert_eq!(twemproxy.failures(), Some(2));
        assert_eq!(twemproxy.retry_after(), Some(Duration::from_secs(30)));
        assert_eq!(twemproxy.max_ejected(5), 4);
        let go_redis = Ejection::go_redis();
        assert_eq!(go_redis.heartbeat(), Some(Duration::from_millis(500)));
        assert_eq!((go_redis.failures(), go_redis.successes()), (Some(3), 1));
        assert!(!go_redis.requests_count() && twemproxy.requests_count());
        assert_eq!(Ejection::never().failures(), None);
    }

    #[test]
    fn probes_of_a_suspect_fit_into_the_window() {
        for failures in [1, 2, 3, 10, EJECTION_COUNT_MAX] {
            let ejection = Ejection::new()
                .with_failures(failures)
                .with_window(Duration::from_secs(1));
            // Each takes its time and is followed by a pause.
            let total = ejection.suspect_interval() * 2 * (failures - 1);
            assert!(total < ejection.window(), "{failures}: {total:?}");
        }
    }
}
