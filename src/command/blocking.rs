//! How long may the server hold a reply back?

use std::time::Duration;

/// How long a server may hold the reply to one request back, by the request's own wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockingTime {
    /// Not at all: it replies at once.
    None,
    /// At most this long.
    AtMost(Duration),
    /// Until something happens.
    Forever,
}

impl BlockingTime {
    /// How long a request may take altogether, when a reply that is not held back may take `response`.
    pub(crate) fn with_response(self, response: Option<Duration>) -> Option<Duration> {
        match self {
            Self::None => response,
            Self::AtMost(blocking) => response.map(|response| response.saturating_add(blocking)),
            Self::Forever => None,
        }
    }

    /// The time of two requests on one connection: a server begins with the second when it has replied to the first.
    pub(crate) fn then(self, other: Self) -> Self {
        match (self, other) {
            (Self::Forever, _) | (_, Self::Forever) => Self::Forever,
            (Self::AtMost(a), Self::AtMost(b)) => Self::AtMost(a.saturating_add(b)),
            (Self::None, blocking) | (blocking, Self::None) => blocking,
        }
    }
}
