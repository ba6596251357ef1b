//! The time limit of a request. One type for both executors.
//!
//! All steps of a request, from waiting for a connection to its last reply, including a resend, share one
//! [`Deadline`].

use std::time::{Duration, Instant};

use crate::command::BlockingTime;
use crate::plan::{Answers, EarlyAttempt, Exchange, ReplyBuffer};
use crate::policy::RequestOptions;

/// An instant by which something must be done, kept as a start and a limit: the limit may be too long to be
/// added to an [`Instant`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// When the request began.
    pub(crate) start: Instant,
    /// Maximum duration. `None` is unlimited.
    limit: Option<Duration>,
    /// Maximum duration that requests of the client have unless their handle has another; see
    /// [`RequestOptions::usual_timeout`](crate::policy::RequestOptions).
    usual: Option<Duration>,
}

impl Deadline {
    /// Starts now and ends after `limit`; never, if that is `None`.
    pub(crate) fn start(limit: Option<Duration>) -> Self {
        Self {
            start: Instant::now(),
            limit,
            usual: limit,
        }
    }

    /// The deadline, from now, of a request that the server may hold back for `blocking`.
    pub(crate) fn of_request(options: &RequestOptions, blocking: BlockingTime) -> Self {
        Self::start(options.limit(blocking)).with_usual(options.usual_limit(blocking))
    }

    /// Starts the clock of an exchange.
    pub(crate) fn of_exchange<R: ReplyBuffer>(
        exchange: &mut Exchange<R>,
        options: &RequestOptions,
    ) -> Self {
        let limit = exchange.begin(Instant::now(), options, rand::random());
        let usual = options.usual_limit(exchange.blocking_time());
        Self::start(limit).with_usual(usual)
    }

    /// Sets the duration that the client's requests usually have. Defaults to that of this one.
    pub(crate) fn with_usual(self, usual: Option<Duration>) -> Self {
        Self { usual, ..self }
    }

    /// True if the request has no time at all, so that nothing of it may be sent.
    pub(crate) fn is_zero(&self) -> bool {
        self.limit == Some(Duration::ZERO)
    }

    /// Time left: zero after the end, `None` if there is no limit.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.limit
            .map(|limit| limit.saturating_sub(self.start.elapsed()))
    }

    /// The instant of the end. `None` if there is none, or if it is beyond the range of the clock.
    pub(crate) fn end(&self) -> Option<Instant> {
        // A limit of years may exceed the clock; such a request does not end.
        self.limit.and_then(|limit| self.start.checked_add(limit))
    }

    /// An attempt with this deadline, which had these replies.
    pub(crate) fn early_attempt<R>(&self, answers: Answers<R>) -> EarlyAttempt<R> {
        EarlyAttempt {
            answers,
            started: self.start,
            end: self.end(),
        }
    }

    /// A new deadline that starts now and ends after `limit`, but no later than this one. What is usual is not
    /// shortened: a node that is silent for a part of the time is not silent.
    pub(crate) fn within(&self, limit: Duration) -> Self {
        Self::start(Some(self.remaining().map_or(limit, |left| left.min(limit))))
            .with_usual(self.usual)
    }

    /// The shorter of `limit` and the whole duration that requests usually have.
    fn usual_within(&self, limit: Duration) -> Duration {
        self.usual.map_or(limit, |all| all.min(limit))
    }

    /// True if this part of the time of `request`, for something that may take up to `limit`, is less than half
    /// of what there usually is: that nothing came within it is no evidence against the node.
    pub(crate) fn is_short(&self, request: &Self, limit: Duration) -> bool {
        let usual = request.usual_within(limit);
        self.limit.is_some_and(|own| own < usual / 2)
    }

    /// The instant from which on a node that has sent nothing since the start counts as silent: the end of the
    /// usual duration, or of this one if that is later. `None` if there is no such instant.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn silent_from(&self) -> Option<Instant> {
        let limit = self.limit?.max(self.usual?);
        self.start.checked_add(limit)
    }

    /// True if the end was longer ago than `grace`.
    pub(crate) fn is_past(&self, grace: Duration) -> bool {
        self.limit
            // Saturating, as the limit may be the longest duration there is.
            .is_some_and(|limit| self.start.elapsed() > limit.saturating_add(grace))
    }

    /// True if no time is left.
    pub(crate) fn is_over(&self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }
}
