//! Whether the nodes that can be reached answer for all nodes.

use redis::Value;

use crate::command::Partial;
use crate::error::{Error, ErrorKind};

/// Whether commands about keys of all nodes are answered by the nodes that can be reached, when others cannot: KEYS, SCAN,
/// DBSIZE, RANDOMKEY, and others that the column *partial* of `docs/commands.md` marks with *on request*.
///
/// Their answers cannot show that something is missing from them, so that is refused unless asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartialReads {
    /// They are answered by those nodes. It is an error when no node can be reached.
    Allowed,
    /// They fail with [`Partial`](ErrorKind::Partial), [`NodeDown`](ErrorKind::NodeDown) or
    /// [`Timeout`](ErrorKind::Timeout), which name the nodes.
    #[default]
    Refused,
}

impl PartialReads {
    /// Whether a command of this kind may be answered by some of the nodes.
    pub(super) fn allow(self, partial: Partial) -> bool {
        match partial {
            Partial::Refused => false,
            Partial::OptIn => self == Self::Allowed,
            Partial::Allowed => true,
        }
    }
}

/// Whether there is no outcome because the node cannot be reached, refuses the password, or did not answer in time.
pub(super) fn is_unreachable(outcome: &Result<Value, Option<Error>>) -> bool {
    let Err(Some(error)) = outcome else {
        return false;
    };
    matches!(
        error.kind(),
        ErrorKind::Auth | ErrorKind::NodeDown | ErrorKind::Timeout
    )
}
