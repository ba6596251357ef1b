//! How long may a server hold back the reply to one request?
//!
//! A blocking command that goes on at another server, as its slot has moved there, has the time that is left:
//! [`CommandSpec::write_blocking_at_most`] writes it with a shorter timeout.

use std::time::Duration;

use super::{Blocking, CommandSpec};
use crate::resp::{write_arg, write_header};

/// The shortest timeout in seconds that is written. Servers before 7.0 cut it down to milliseconds, and 0 would mean for
/// ever.
const SECONDS_MIN: Duration = Duration::from_millis(2);
/// The shortest timeout in milliseconds that is written.
const MILLIS_MIN: Duration = Duration::from_millis(1);

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

impl CommandSpec {
    /// Appends the request with these arguments, with a timeout of `left` instead of its own. Returns false, and appends
    /// nothing, if its own is not longer, or if it blocks for ever or not at all.
    ///
    /// The time is rounded up, and never written as 0, which means for ever.
    pub(crate) fn write_blocking_at_most(
        &self,
        args: &[&[u8]],
        left: Duration,
        out: &mut Vec<u8>,
    ) -> bool {
        let BlockingTime::AtMost(own) = self.blocking_time(args) else {
            return false;
        };
        let (at, least) = match self.blocking {
            Blocking::Seconds(at) => (self.timeout_at(at, args), SECONDS_MIN),
            Blocking::Millis(at) => (self.timeout_at(at, args), MILLIS_MIN),
            Blocking::No | Blocking::OutOfBand => return false,
        };
        let left = left.max(least);
        let Some(at) = at.filter(|_| left < own) else {
            return false;
        };
        let millis = left.as_micros().div_ceil(1000);
        let timeout = match self.blocking {
            Blocking::Seconds(_) => format!("{}.{:03}", millis / 1000, millis % 1000),
            _ => millis.to_string(),
        };
        write_header(out, args.len());
        for (number, arg) in args.iter().enumerate() {
            write_arg(
                out,
                if number == at {
                    timeout.as_bytes()
                } else {
                    arg
                },
            );
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CommandTable;

    fn shortened(request: &str, left: Duration) -> Option<String> {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let mut out = Vec::new();
        let command = CommandTable::built_in().find(&args).unwrap();
        let is_written = command.write_blocking_at_most(&args, left, &mut out);
        assert!(is_written || out.is_empty());
        let mut read = crate::command::Args::new();
        let mut commands = crate::command::PackedCommands::new(&out);
        is_written.then(|| {
            assert_eq!(commands.next(&mut read), Ok(Some(&out[..])));
            let words: Vec<String> = read
                .iter()
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect();
            words.join(" ")
        })
    }

    #[test]
    fn blocking_command_is_written_with_the_time_that_is_left() {
        let millis = Duration::from_millis;
        for (request, left, expected) in [
            ("BLPOP a b 5", millis(1234), "BLPOP a b 1.234"),
            ("brpop a 5", millis(999), "brpop a 0.999"),
            (
                "BLMOVE a b LEFT LEFT 5",
                millis(4000),
                "BLMOVE a b LEFT LEFT 4.000",
            ),
            ("BLMPOP 5 1 a LEFT", millis(20), "BLMPOP 0.020 1 a LEFT"),
            ("BZMPOP 5 1 a MIN", millis(20), "BZMPOP 0.020 1 a MIN"),
            ("BZPOPMIN z 0.5", millis(20), "BZPOPMIN z 0.020"),
            ("WAIT 1 500", millis(20), "WAIT 1 20"),
            (
                "XREAD COUNT 1 BLOCK 700 STREAMS BLOCK 9",
                millis(20),
                "XREAD COUNT 1 BLOCK 20 STREAMS BLOCK 9",
            ),
            (
                "XREADGROUP GROUP g c BLOCK 700 STREAMS a >",
                millis(699),
                "XREADGROUP GROUP g c BLOCK 699 STREAMS a >",
            ),
            // Rounded up.
            (
                "XREAD BLOCK 700 STREAMS a 9",
                Duration::from_micros(20_001),
                "XREAD BLOCK 21 STREAMS a 9",
            ),
        ] {
            assert_eq!(shortened(request, left).as_deref(), Some(expected));
        }
    }

    #[test]
    fn blocking_command_whose_time_is_over_does_not_wait_for_ever() {
        for (request, expected) in [
            ("BLPOP a 5", "BLPOP a 0.002"),
            ("XREAD BLOCK 5 STREAMS a 9", "XREAD BLOCK 1 STREAMS a 9"),
        ] {
            assert_eq!(
                shortened(request, Duration::ZERO).as_deref(),
                Some(expected)
            );
        }
    }

    #[test]
    fn timeout_that_is_not_longer_than_the_time_that_is_left_stays_as_it_is() {
        let left = Duration::from_secs(5);
        for request in [
            "BLPOP a 0",
            "BLPOP a 5",
            "BLPOP a 0.001",
            "BLPOP a x",
            "XREAD BLOCK 0 STREAMS a 9",
            "XREAD STREAMS a 9",
            "GET a",
            "SCRIPT KILL",
        ] {
            assert_eq!(shortened(request, left), None, "{request}");
        }
        assert_eq!(shortened("BLPOP a 0.001", Duration::ZERO), None);
        assert_eq!(shortened("SCRIPT KILL", Duration::ZERO), None);
    }
}
