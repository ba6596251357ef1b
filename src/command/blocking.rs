//! How long may a server hold back the reply to one request?

use std::time::Duration;

/// Time for which a server may hold back the reply to one request because the request asks for it (BLPOP,
/// XREAD BLOCK, WAIT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockingTime {
    /// It replies at once.
    None,
    /// It replies after this time at the latest, with nil if nothing came.
    AtMost(Duration),
    /// It replies when an element comes, which may be never.
    Forever,
}

impl BlockingTime {
    /// Returns the timeout of a request, when a reply that is not held back may take `response`, and one that
    /// is held back without end may take `forever`. `None` means no limit.
    pub(crate) fn limit(
        self,
        response: Option<Duration>,
        forever: Option<Duration>,
    ) -> Option<Duration> {
        match self {
            Self::None => response,
            Self::AtMost(blocking) => response.map(|response| response.saturating_add(blocking)),
            // Not the response timeout as well: it would be counted from the sending.
            Self::Forever => forever,
        }
    }

    /// True for a command that servers obey while a script runs: it replies at once, over a connection of its own.
    pub(crate) fn is_out_of_band(self) -> bool {
        self == Self::AtMost(Duration::ZERO)
    }

    /// Returns the time of two requests on one connection. The times add up, since a server begins with the
    /// second only when it has replied to the first.
    pub(crate) fn then(self, other: Self) -> Self {
        match (self, other) {
            (Self::Forever, _) | (_, Self::Forever) => Self::Forever,
            (Self::AtMost(a), Self::AtMost(b)) => Self::AtMost(a.saturating_add(b)),
            (Self::None, blocking) | (blocking, Self::None) => blocking,
        }
    }
}
