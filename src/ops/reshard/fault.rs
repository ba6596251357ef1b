//! [`Fault`]: why a step of the mover has failed, and what that means.

use super::batch::StepFailure;
use crate::error::{Error, ErrorKind};

/// An error, and what kind of failure it is.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    pub(super) error: Error,
}

/// The kinds of failures that the mover tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The connection to a node broke.
    Broken,
    /// A server has replied with an error.
    Refused,
    /// A server can be reached, and has lost its record, or has an older one than it had acknowledged.
    Lost,
    /// Another mover has written a record.
    Superseded,
    /// The program that watches the steps has stopped the mover: nothing is put back, as if it were killed.
    Killed,
}

impl Fault {
    /// The connection to this node broke.
    pub(super) fn broken(node: &str, text: impl std::fmt::Display) -> Self {
        let error = Error::new(ErrorKind::NodeDown, format!("node {node:?}: {text}"));
        Self {
            kind: FaultKind::Broken,
            error: error.at_node(node),
        }
    }

    /// A connection could not be made.
    pub(super) fn of_connection(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NodeDown | ErrorKind::Timeout => FaultKind::Broken,
            _ => FaultKind::Refused,
        };
        Self { kind, error }
    }

    /// Something about this node cannot work.
    pub(super) fn refused(node: &str, text: impl std::fmt::Display) -> Self {
        Self {
            kind: FaultKind::Refused,
            error: Error::config(format!("node {node:?}: {text}")).at_node(node),
        }
    }

    /// This node has lost what it was told.
    pub(super) fn lost(node: &str, text: impl std::fmt::Display) -> Self {
        Self {
            kind: FaultKind::Lost,
            ..Self::refused(node, text)
        }
    }

    /// True if this node has lost what it was told.
    pub(super) fn is_loss_of(&self, node: &str) -> bool {
        self.kind == FaultKind::Lost && self.error.node() == Some(node)
    }

    /// The record of this node was written by somebody else.
    pub(super) fn superseded(node: &str, mover: Option<&str>) -> Self {
        let by = match mover {
            Some(mover) => format!("the mover {mover:?}"),
            None => "somebody else".to_owned(),
        };
        let text = format!(
            "node {node:?}: its record was changed by {by}; this mover stops. `redis-sharding reshard status` shows who \
             is at work"
        );
        Self {
            kind: FaultKind::Superseded,
            error: Error::config(text).at_node(node),
        }
    }

    /// The mover was stopped at this step.
    pub(super) fn killed(step: &str) -> Self {
        Self {
            kind: FaultKind::Killed,
            error: Error::config(format!("the mover was stopped before the step {step:?}")),
        }
    }

    /// True if the connection broke, so that another one may do.
    pub(super) fn is_broken(&self) -> bool {
        self.kind == FaultKind::Broken
    }

    /// The failure where another attempt with new connections is no remedy: what was sent over the old ones may be
    /// on its way.
    pub(super) fn without_retry(self) -> Self {
        let kind = match self.kind {
            FaultKind::Broken => FaultKind::Refused,
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// What the failure means for a step of a batch. `None` if the mover was stopped.
    pub(super) fn of_step(&self) -> Option<StepFailure> {
        match self.kind {
            FaultKind::Broken => Some(StepFailure::Broken),
            FaultKind::Refused | FaultKind::Lost => Some(StepFailure::Refused),
            FaultKind::Superseded => Some(StepFailure::Superseded),
            FaultKind::Killed => None,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self {
            kind: FaultKind::Refused,
            error,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}
