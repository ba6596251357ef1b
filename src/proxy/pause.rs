//! CLIENT PAUSE: the nodes hold commands back, and a connection that many clients share must not carry those.

use std::time::Duration;

use crate::command::Access;
use crate::resp::canonical_integer;

/// No pause is longer: a century.
const PAUSE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What the nodes hold back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pause {
    #[default]
    Nothing,
    Writes,
    Everything,
}

impl Pause {
    /// What CLIENT PAUSE asks for, and for how long. `None` when it makes no sense, which the nodes will say.
    pub(super) fn parse(args: &[&[u8]]) -> Option<(Self, Duration)> {
        let pause = match args.get(3) {
            None => Self::Everything,
            Some(word) if word.eq_ignore_ascii_case(b"ALL") => Self::Everything,
            Some(word) if word.eq_ignore_ascii_case(b"WRITE") => Self::Writes,
            Some(_) => return None,
        };
        let milliseconds = canonical_integer(args.get(2)?)?.try_into().ok()?;
        Some((pause, Duration::from_millis(milliseconds).min(PAUSE_MAX)))
    }

    /// Whether a command may be held back. One that is not, although it may be, only costs a connection.
    #[inline]
    pub(super) fn may_delay(self, access: Access) -> bool {
        match self {
            Self::Nothing => false,
            Self::Writes => access == Access::Write,
            Self::Everything => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_pause_arguments_are_parsed_as_by_a_server() {
        let parse = |words: &str| {
            let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            Pause::parse(&args)
        };
        let second = Duration::from_secs(1);
        assert_eq!(
            parse("client pause 1000"),
            Some((Pause::Everything, second))
        );
        assert_eq!(
            parse("client pause 1000 all"),
            Some((Pause::Everything, second))
        );
        assert_eq!(
            parse("client pause 1000 write"),
            Some((Pause::Writes, second))
        );
        assert_eq!(
            parse("client pause 9223372036854775807"),
            Some((Pause::Everything, PAUSE_MAX))
        );
        for wrong in [
            "client pause",
            "client pause x",
            "client pause -1",
            "client pause 1 reads",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn client_pause_write_does_not_delay_reads() {
        assert!(!Pause::Nothing.may_delay(Access::Write));
        assert!(!Pause::Writes.may_delay(Access::Read) && Pause::Writes.may_delay(Access::Write));
        assert!(Pause::Everything.may_delay(Access::Read));
    }
}
