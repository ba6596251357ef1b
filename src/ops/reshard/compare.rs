//! Do source and target have the same keys of a batch, with the same expiries?

/// When a key expires, by one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// The server does not have the key.
    NoKey,
    Never,
    /// Milliseconds of Unix time.
    At(i64),
}

/// The times at which the servers were asked, in milliseconds of their own clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) source: i64,
    pub(super) target: i64,
}

/// What is to be done about a key after it was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// Both agree.
    Same,
    /// It has expired at the source since: it is deleted at the target, whose clock may be behind.
    Expired,
    /// They disagree, so the batch is copied again.
    Different,
}

impl Expiry {
    /// Reads the reply to PEXPIRETIME.
    pub(super) fn of_pexpiretime(reply: i64) -> Self {
        match reply {
            -2 => Self::NoKey,
            -1 => Self::Never,
            at => Self::At(at),
        }
    }

    /// Reads the replies to PTTL and TIME of one transaction, for servers before 7.0. A time to live of zero, which a key
    /// has in its last millisecond, must not read as none: such a key would never expire.
    pub(super) fn of_pttl(pttl: i64, now: i64) -> Self {
        match pttl {
            -2 => Self::NoKey,
            -1 => Self::Never,
            pttl => Self::At(now.saturating_add(pttl.max(1))),
        }
    }

    /// The argument of RESTORE ... ABSTTL. `None` without a key.
    pub(super) fn absttl(self) -> Option<i64> {
        match self {
            Self::NoKey => None,
            Self::Never => Some(0),
            // Zero would mean none.
            Self::At(at) => Some(at.max(1)),
        }
    }
}

/// Compares what both servers say of one key. `slack` is how far two readings of one expiry may differ.
pub(super) fn compare(source: Expiry, target: Expiry, clocks: Clocks, slack: i64) -> Comparison {
    use Expiry::{At, Never, NoKey};
    match (source, target) {
        (NoKey, NoKey) | (Never, Never) => Comparison::Same,
        (At(one), At(other)) if one.abs_diff(other) <= slack.unsigned_abs() => Comparison::Same,
        // Nobody may delete a key of a closed unit, so it is time that has passed.
        (NoKey, At(at)) if at <= clocks.source.saturating_add(slack) => Comparison::Expired,
        // The clock of the target is ahead.
        (At(at), NoKey) if at <= clocks.target.saturating_add(slack) => Comparison::Same,
        _ => Comparison::Different,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Expiry::{At, Never, NoKey};

    const CLOCKS: Clocks = Clocks {
        source: 1000,
        target: 1100,
    };

    #[test]
    fn comparison_finds_keys_and_expiries_that_differ() {
        let compared = |source, target| compare(source, target, CLOCKS, 0);
        for (source, target, expected) in [
            (NoKey, NoKey, Comparison::Same),
            (Never, Never, Comparison::Same),
            (At(5000), At(5000), Comparison::Same),
            (At(5000), At(5001), Comparison::Different),
            (At(5000), Never, Comparison::Different),
            (Never, At(5000), Comparison::Different),
            (Never, NoKey, Comparison::Different),
            (NoKey, Never, Comparison::Different),
            // Expired at the source meanwhile, or at the target, which is ahead by 100 ms.
            (NoKey, At(999), Comparison::Expired),
            (NoKey, At(1001), Comparison::Different),
            (At(1050), NoKey, Comparison::Same),
            (At(1101), NoKey, Comparison::Different),
        ] {
            assert_eq!(compared(source, target), expected, "{source:?} {target:?}");
        }
        // Servers before 7.0 tell the time that is left, so two readings differ.
        assert_eq!(compare(At(5000), At(5002), CLOCKS, 2), Comparison::Same);
        assert_eq!(
            compare(At(5000), At(5003), CLOCKS, 2),
            Comparison::Different
        );
    }

    #[test]
    fn expiry_of_a_key_in_its_last_millisecond_is_not_lost() {
        assert_eq!(Expiry::of_pttl(0, 1000), At(1001));
        assert_eq!(Expiry::of_pttl(7, 1000), At(1007));
        assert_eq!(
            [Expiry::of_pttl(-1, 1000), Expiry::of_pttl(-2, 1000)],
            [Never, NoKey]
        );
        assert_eq!(Expiry::of_pexpiretime(1007), At(1007));
        let absttl = [NoKey, Never, At(0), At(1007)].map(Expiry::absttl);
        assert_eq!(absttl, [None, Some(0), Some(1), Some(1007)]);
    }
}
