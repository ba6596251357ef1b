//! What the records of source and target together say of a pair, and how the mover goes on from there.

use crate::topology::record::Progress;

/// How a pair goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resumption {
    /// Units below are at the target. The mover goes on from here.
    pub(super) moved: u32,
    /// The target says that units have moved, and the source does not know it yet: it is told first.
    pub(super) source_is_behind: bool,
    /// Units from `moved` on were closed by whoever stopped: they are closed again in a new epoch, and copied again.
    pub(super) was_closed: bool,
}

impl Resumption {
    /// Decides from what the records of both nodes say. The first publication at the target is the point of no return:
    /// what either of them calls moved has moved.
    pub(super) fn new(source: Progress, target: Progress) -> Self {
        let moved = source.moved.max(target.moved);
        Self {
            moved,
            source_is_behind: source.moved < moved,
            was_closed: source.closed > moved,
        }
    }
}

/// What the source publishes before a batch: the units below `until` are closed.
pub(super) fn closed_until(moved: u32, until: u32) -> Progress {
    Progress {
        moved,
        closed: until.max(moved),
    }
}

/// What target and source publish behind a batch: the units below `until` are at the target.
pub(super) fn moved_until(until: u32) -> Progress {
    Progress {
        moved: until,
        closed: until,
    }
}

/// What the source publishes when a batch is given up before anything was published at the target.
pub(super) fn reopened(moved: u32) -> Progress {
    Progress {
        moved,
        closed: moved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(moved: u32, closed: u32) -> Progress {
        Progress { moved, closed }
    }

    #[test]
    fn pair_goes_on_from_what_either_node_calls_moved() {
        let cases = [
            // Nothing has begun.
            (progress(0, 0), progress(0, 0), (0, false, false)),
            // Closed, and not published at the target: closed and copied again.
            (progress(4, 9), progress(4, 4), (4, false, true)),
            // Published at the target alone: only forward.
            (progress(4, 9), progress(9, 9), (9, true, false)),
            (progress(9, 9), progress(9, 9), (9, false, false)),
            // A target that has lost its last record, while the source knows better.
            (progress(9, 9), progress(4, 4), (9, false, false)),
        ];
        for (source, target, (moved, source_is_behind, was_closed)) in cases {
            let expected = Resumption {
                moved,
                source_is_behind,
                was_closed,
            };
            assert_eq!(Resumption::new(source, target), expected);
        }
    }

    #[test]
    fn pair_never_moves_back() {
        assert_eq!(closed_until(4, 9), progress(4, 9));
        assert_eq!(closed_until(4, 3), progress(4, 4));
        assert_eq!(
            (moved_until(9), reopened(4)),
            (progress(9, 9), progress(4, 4))
        );
    }
}
