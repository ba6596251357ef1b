//! How much may wait to be sent to a client, as `client-output-buffer-limit` of a server says it.

use std::time::{Duration, Instant};

/// The smallest limit of [`Proxy::with_query_limit`](crate::proxy::Proxy::with_query_limit), as on a server.
pub(crate) const QUERY_BYTES_MIN: usize = 1 << 20;

/// The default of [`Proxy::with_query_limit`](crate::proxy::Proxy::with_query_limit), which is that of a server.
pub const REQUEST_BYTES_MAX: usize = 1 << 30;

/// How many bytes may wait to be sent to one client. One that does not read, and goes beyond, is disconnected.
///
/// As `client-output-buffer-limit` of redis.conf: at once beyond `hard`, and beyond `soft` when it stays there for
/// `soft_for`. Zero is no limit.
///
/// ```
/// use redis_sharding::proxy::OutputLimit;
///
/// assert_eq!("32mb 8mb 60".parse(), Ok(OutputLimit::PUB_SUB));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputLimit {
    /// Bytes beyond which a client is disconnected at once.
    pub hard: usize,
    /// Bytes beyond which a client must not stay for `soft_for`.
    pub soft: usize,
    /// How long a client may stay beyond `soft`.
    pub soft_for: Duration,
}

impl OutputLimit {
    /// No limit but that of all clients together: a server's default for clients without subscriptions.
    pub const NONE: Self = Self::new(0, 0, Duration::ZERO);

    /// 32 MB at once and 8 MB for 60 s: a server's default for subscribers.
    pub const PUB_SUB: Self = Self::new(32 << 20, 8 << 20, Duration::from_secs(60));

    /// A limit of so many bytes.
    #[must_use]
    pub const fn new(hard: usize, soft: usize, soft_for: Duration) -> Self {
        Self {
            hard,
            soft,
            soft_for,
        }
    }
}

/// What one client may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLimits {
    /// Bytes of requests that wait to be carried out, as `client-query-buffer-limit` of a server.
    pub(crate) query_bytes: usize,
    /// Output to clients without subscriptions.
    pub(crate) normal: OutputLimit,
    /// Output to clients with subscriptions.
    pub(crate) pub_sub: OutputLimit,
    /// How long a client may be idle.
    pub(crate) idle: Option<Duration>,
    /// After how long a silence its host is asked whether it is still there.
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

/// Why a text is no [`OutputLimit`].
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

/// A number of bytes as redis.conf has it: `1048576`, `1mb`, `1m` (a million), `1gb`; in capitals or not.
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

/// What waits to be sent to one client, compared with its limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OutputWatch {
    above_soft_since: Option<Instant>,
}

/// What the limit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputDecision {
    /// There is room.
    Within,
    /// The client is to be disconnected then, unless it reads.
    Until(Instant),
    /// The client is to be disconnected.
    Exceeded,
}

impl OutputWatch {
    /// Compares `bytes`, which wait now, with the limit.
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
            // As good as never.
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
