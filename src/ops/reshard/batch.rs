//! [`BatchStep`]: the order in which the units of a batch move, and what a failure of each step means.

/// A step of a batch. Their order is the safety of the whole: each closes a race that is named beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BatchStep {
    /// The source says that the units are closed.
    Close,
    /// Every connection of the source has acknowledged that, or is gone: nothing is written to the units any more.
    Fence,
    /// What the source has said of new keys before the fence has arrived: the index is true.
    Settle,
    /// What an earlier copy has left at the target is deleted: keys that were deleted since must not come back.
    Clear,
    Copy,
    /// Source and target have the same keys with the same expiries.
    Compare,
    /// The target's replicas have them too: they serve reads from the next step on.
    Replicate,
    /// The target says that the units are its own, over the connection that copied: a target that was restarted meanwhile
    /// has lost that connection. The point of no return.
    PublishTarget,
    /// The source says it as well.
    PublishSource,
    /// The target has written the keys to disk, if the source had.
    Persist,
    /// The keys are deleted at the source.
    Sweep,
}

/// Why a step has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepFailure {
    /// The connection to a node broke, or the comparison failed: what was done may be lost.
    Broken,
    /// A server has replied with an error, which another attempt would get as well.
    Refused,
    /// The record is not what this mover has written: there is another one.
    Superseded,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterFailure {
    /// Close and fence again, over new connections; those that broke are killed at their nodes first.
    Repeat,
    /// Open the units again at the source, and stop.
    Reopen,
    /// Ask the target, over a new connection, whether the step was done; kill the broken one first.
    AskTarget,
    /// The step is done again, over new connections: there is no way back.
    Forward,
    /// Stop and change nothing.
    Stop,
}

/// The steps, in their order.
const STEPS: [BatchStep; 11] = [
    BatchStep::Close,
    BatchStep::Fence,
    BatchStep::Settle,
    BatchStep::Clear,
    BatchStep::Copy,
    BatchStep::Compare,
    BatchStep::Replicate,
    BatchStep::PublishTarget,
    BatchStep::PublishSource,
    BatchStep::Persist,
    BatchStep::Sweep,
];

impl BatchStep {
    pub(super) const FIRST: Self = Self::Close;

    /// The step after this one. `None` after the last.
    pub(super) fn next(self) -> Option<Self> {
        let at = STEPS.iter().position(|step| *step == self)?;
        STEPS.get(at + 1).copied()
    }

    /// True from the first publication at the target on: the units cannot be opened at the source any more.
    pub(super) fn is_behind_point_of_no_return(self) -> bool {
        self > Self::PublishTarget
    }

    /// What follows a failure of this step.
    pub(super) fn after(self, failure: StepFailure, attempts_left: u32) -> AfterFailure {
        match failure {
            // Another mover has the term: it decides, and anything done now would disturb it.
            StepFailure::Superseded => AfterFailure::Stop,
            // The record that the target keeps decides, not what this mover believes.
            StepFailure::Broken if self == Self::PublishTarget => AfterFailure::AskTarget,
            StepFailure::Broken if self.is_behind_point_of_no_return() => match attempts_left {
                0 => AfterFailure::Stop,
                _ => AfterFailure::Forward,
            },
            StepFailure::Refused if self.is_behind_point_of_no_return() => AfterFailure::Stop,
            StepFailure::Broken if attempts_left > 0 => AfterFailure::Repeat,
            StepFailure::Broken | StepFailure::Refused => AfterFailure::Reopen,
        }
    }

    /// The name of the step, for messages and for the program that watches the steps.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Fence => "fence",
            Self::Settle => "settle",
            Self::Clear => "clear",
            Self::Copy => "copy",
            Self::Compare => "compare",
            Self::Replicate => "replicate",
            Self::PublishTarget => "publish-target",
            Self::PublishSource => "publish-source",
            Self::Persist => "persist",
            Self::Sweep => "sweep",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_has_every_step_once_in_the_order_that_is_safe() {
        let mut steps = vec![BatchStep::FIRST];
        while let Some(next) = steps.last().and_then(|step| step.next()) {
            steps.push(next);
        }
        assert_eq!(steps, STEPS);
        assert!(steps.is_sorted());
        let at = |step| steps.iter().position(|other| *other == step).unwrap();
        use BatchStep::*;
        for (first, then) in [
            (Close, Fence),
            (Fence, Settle),
            (Settle, Clear),
            (Clear, Copy),
            (Copy, Compare),
            (Compare, PublishTarget),
            (PublishTarget, PublishSource),
            (PublishSource, Sweep),
            (Persist, Sweep),
        ] {
            assert!(at(first) < at(then));
        }
    }

    #[test]
    fn batch_is_opened_again_only_before_the_target_was_told() {
        for step in STEPS {
            for failure in [
                StepFailure::Broken,
                StepFailure::Refused,
                StepFailure::Superseded,
            ] {
                for attempts_left in [0, 1] {
                    let after = step.after(failure, attempts_left);
                    let is_before = step <= BatchStep::PublishTarget;
                    let goes_back = matches!(after, AfterFailure::Repeat | AfterFailure::Reopen);
                    assert!(is_before || !goes_back, "{step:?} {failure:?}");
                    if failure == StepFailure::Superseded {
                        assert_eq!(after, AfterFailure::Stop);
                    }
                }
            }
        }
        // Nobody knows whether it was done.
        let after = BatchStep::PublishTarget.after(StepFailure::Broken, 0);
        assert_eq!(after, AfterFailure::AskTarget);
        let after = BatchStep::PublishSource.after(StepFailure::Broken, 1);
        assert_eq!(after, AfterFailure::Forward);
    }
}
