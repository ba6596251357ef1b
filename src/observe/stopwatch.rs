//! [`Stopwatch`]: the duration of a request, measured only with the feature `metrics`.

use std::time::Instant;

use crate::command::BlockingTime;

/// When a request began. Empty without the feature `metrics`, where nothing reads the clock for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    #[cfg(feature = "metrics")]
    start: Option<Instant>,
}

impl Stopwatch {
    /// Measures from now on, unless the command may block: its duration says nothing about the node.
    #[inline]
    pub(crate) fn start(blocking: BlockingTime) -> Self {
        #[cfg(feature = "metrics")]
        return Self {
            start: (blocking == BlockingTime::None).then(Instant::now),
        };
        #[cfg(not(feature = "metrics"))]
        Self::since(blocking, None)
    }

    /// Measures from `start` on, unless the command may block. For callers that have just read the clock.
    #[inline]
    pub(crate) fn since(blocking: BlockingTime, start: impl Into<Option<Instant>>) -> Self {
        #[cfg(feature = "metrics")]
        return Self {
            start: start.into().filter(|_| blocking == BlockingTime::None),
        };
        #[cfg(not(feature = "metrics"))]
        {
            let _ = (blocking, start.into());
            Self {}
        }
    }

    /// Time since the start. `None` if it is not measured.
    #[cfg(feature = "metrics")]
    #[inline]
    pub(super) fn elapsed(self) -> Option<std::time::Duration> {
        self.start.map(|start| start.elapsed())
    }
}
