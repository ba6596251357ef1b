//! Limits for one client: how many bytes may wait to be sent to it or be carried out for it, and how long it
//! may be idle.
//!
//! * [`OutputLimit`]: a hard and a soft limit for output, with the meaning and the syntax of
//!   `client-output-buffer-limit` in redis.conf.
//! * [`ClientLimits`]: all limits of one client, fixed when it connects.
//! * [`OutputWatch`]: compares the waiting bytes with the limit over time. It gets the time as an argument
//!   and reads no clock.
//!
//! The limit of all clients together is not here; it belongs to the memory budget in `net`.

use std::time::{Duration, Instant};

/// Smallest limit of [`Proxy::with_query_limit`](crate::proxy::Proxy::with_query_limit), in bytes. A server
/// has the same minimum for `client-query-buffer-limit`.
pub(crate) const QUERY_BYTES_MIN: usize = 1 << 20;

/// Default of [`Proxy::with_query_limit`](crate::proxy::Proxy::with_query_limit), in bytes: 1 GiB, as on a
/// server.
pub const REQUEST_BYTES_MAX: usize = 1 << 30;

/// Number of bytes that may wait to be sent to one client. A client that exceeds it because it does not read
/// is disconnected.
///
/// Works as `client-output-buffer-limit` in redis.conf: the client is disconnected at once beyond `hard`, and
/// beyond `soft` when it stays there for `soft_for`. Zero means no limit.
///
/// ```
/// use redis_sharding::proxy::OutputLimit;
///
/// assert_eq!("32mb 8mb 60".parse(), Ok(OutputLimit::PUB_SUB));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputLimit {
    /// Number of bytes beyond which a client is disconnected at once. Zero means no limit.
    pub hard: usize,
    /// Number of bytes beyond which a client must not stay for `soft_for`. Zero means no limit.
    pub soft: usize,
    /// Maximum time for which a client may stay beyond `soft`.
    pub soft_for: Duration,
}

impl OutputLimit {
    /// No limit for the single client; only the memory limit of all clients together applies. A server's
    /// default for clients without subscriptions.
    pub const NONE: Self = Self::new(0, 0, Duration::ZERO);

    /// 32 MiB at once, or 8 MiB for 60 s: a server's default for clients with subscriptions.
    pub const PUB_SUB: Self = Self::new(32 << 20, 8 << 20, Duration::from_secs(60));

    /// Creates a limit of `hard` bytes at once and `soft` bytes for longer than `soft_for`.
    #[must_use]
    pub const fn new(hard: usize, soft: usize, soft_for: Duration) -> Self {
        Self {
            hard,
            soft,
            soft_for,
        }
    }
}

/// Limits of one client. Copied when the client connects, so a changed setting applies to later clients only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLimits {
    /// Maximum number of bytes of requests that wait to be carried out (`client-query-buffer-limit`).
    pub(crate) query_bytes: usize,
    /// Output limit while the client has no subscriptions (class `normal`).
    pub(crate) normal: OutputLimit,
    /// Output limit while the client has subscriptions (class `pubsub`).
    pub(crate) pub_sub: OutputLimit,
    /// Time without a request after which the client is disconnected (`timeout`). `None` means never.
    pub(crate) idle: Option<Duration>,
    /// Time without traffic before the first TCP keepalive probe (`tcp-keepalive`). `None` means no probes.
    pub(crate) tcp_keepalive: Option<Duration>,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            query_bytes: REQUEST_BYTES_MAX,
            normal: OutputLimit::NONE,
            pub_sub: OutputLimit::PUB_SUB,
            idle: None,
            tcp_keepalive: Some(Duration::from_secs(300)),
        }
    }
}

/// The text of an [`OutputLimit`] is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an output limit is `HARD SOFT SECONDS`, such as `32mb 8mb 60`")]
pub struct OutputLimitError;

impl std::str::FromStr for OutputLimit {
    type Err = OutputLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [hard, soft, seconds] = words[..] else {
            return Err(OutputLimitError);
        };
        let bytes = |word| parse_bytes(word).ok_or(OutputLimitError);
        let seconds: u32 = seconds.parse().map_err(|_| OutputLimitError)?;
        let soft_for = Duration::from_secs(seconds.into());
        Ok(Self::new(bytes(hard)?, bytes(soft)?, soft_for))
    }
}

/// Parses a number of bytes as in redis.conf: `1048576`, `1mb`, `1m` (a million), `1gb`, in upper or lower
/// case.
///
/// Returns `None` for anything else, and for a number that does not fit into a `usize`.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<usize> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<usize>().ok()?.checked_mul(unit)
}

/// Compares the output that waits for one client with its limit, over time.
///
/// [`check`](Self::check) is called whenever the socket takes no more bytes, and a new watch begins as soon
/// as everything has been written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OutputWatch {
    /// First check of the current stretch beyond the soft limit.
    above_soft_since: Option<Instant>,
}

/// Result of [`OutputWatch::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputDecision {
    /// The output is within its limits.
    Within,
    /// The soft limit is exceeded: the client is disconnected at this instant, unless it reads before.
    Until(Instant),
    /// The client is disconnected now.
    Exceeded,
}

impl OutputWatch {
    /// Compares the `bytes` that wait now with `limit`.
    ///
    /// The soft limit is measured from the first check beyond it, and starts anew as soon as one check finds
    /// the output below it, as on a server.
    pub(crate) fn check(
        &mut self,
        limit: OutputLimit,
        bytes: usize,
        now: Instant,
    ) -> OutputDecision {
        if limit.hard > 0 && bytes > limit.hard {
            return OutputDecision::Exceeded;
        }
        if limit.soft == 0 || bytes <= limit.soft {
            self.above_soft_since = None;
            return OutputDecision::Within;
        }
        let since = *self.above_soft_since.get_or_insert(now);
        match since.checked_add(limit.soft_for) {
            // The end lies beyond what an `Instant` can represent, which is as good as no soft limit.
            None => OutputDecision::Within,
            Some(end) if end <= now => OutputDecision::Exceeded,
            Some(end) => OutputDecision::Until(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_limit_applies_hard_at_once_and_soft_after_its_time() {
        let limit = OutputLimit::new(100, 10, Duration::from_secs(60));
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut watch = OutputWatch::default();
        assert_eq!(watch.check(limit, 10, start), OutputDecision::Within);
        assert_eq!(watch.check(limit, 101, start), OutputDecision::Exceeded);
        assert_eq!(
            watch.check(limit, 11, start),
            OutputDecision::Until(later(60))
        );
        assert_eq!(
            watch.check(limit, 99, later(59)),
            OutputDecision::Until(later(60))
        );
        assert_eq!(watch.check(limit, 5, later(59)), OutputDecision::Within);
        assert_eq!(
            watch.check(limit, 11, later(61)),
            OutputDecision::Until(later(121))
        );
        assert_eq!(watch.check(limit, 11, later(121)), OutputDecision::Exceeded);
        let forever = OutputLimit::new(0, 10, Duration::MAX);
        assert_eq!(watch.check(forever, 11, start), OutputDecision::Within);
        let mut watch = OutputWatch::default();
        assert_eq!(
            watch.check(OutputLimit::NONE, usize::MAX, start),
            OutputDecision::Within
        );
    }

    #[test]
    fn byte_sizes_are_parsed_as_in_redis_conf() {
        let cases = [
            ("0", Some(0)),
            ("10", Some(10)),
            ("1k", Some(1000)),
            ("1KB", Some(1024)),
            ("2mb", Some(2 << 20)),
            ("1gb", Some(1 << 30)),
            ("", None),
            ("mb", None),
            ("-1", None),
            ("1tb", None),
            ("99999999999gb", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        for text in ["", "1 2", "1 2 3 4", "x 1 1", "1 1 -1", "1 1 99999999999"] {
            assert_eq!(
                text.parse::<OutputLimit>(),
                Err(OutputLimitError),
                "{text:?}"
            );
        }
    }
}
