//! Decides whether the replies of the reachable nodes stand for all nodes, when others cannot be reached.
//!
//! Each command has a rule of its own in the command table (`Partial`); [`PartialReads`] is the user's choice
//! for the commands that leave it to the user. Reads by key have a choice of their own, in `missing`; which
//! nodes count as out of reach is decided here for both.

use redis::Value;

use crate::command::Partial;
use crate::error::{Error, ErrorKind};

/// The treatment of reads over all nodes when some nodes cannot be reached.
///
/// Concerns KEYS, SCAN, DBSIZE, RANDOMKEY, and the other commands that the column *partial* of
/// `docs/commands.md` marks with *on request*. Their replies have no room to show that something is missing,
/// so incomplete replies must be asked for.
///
/// [`ReadsAs`](crate::ReadsAs) is the same choice for reads by key (GET, MGET, EXISTS), and nodes are out of
/// reach for both in the same cases. A node that refuses the password is not one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartialReads {
    /// The replies of the reachable nodes are returned. It is an error when no node can be reached.
    Allowed,
    /// The command fails with [`Partial`](ErrorKind::Partial), [`NodeDown`](ErrorKind::NodeDown) or
    /// [`Timeout`](ErrorKind::Timeout); the error names the nodes.
    #[default]
    Refused,
}

impl PartialReads {
    /// True if a command with this rule may be completed from the replies of some of the nodes.
    pub(super) fn allow(self, partial: Partial) -> bool {
        match partial {
            Partial::Refused => false,
            Partial::OptIn => self == Self::Allowed,
            Partial::Allowed => true,
        }
    }
}

/// True for the kinds of errors that say that a node cannot be reached, or did not reply in time. A request that was not
/// sent for want of time has such a kind too, and must be told apart.
pub(super) fn is_out_of_reach(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NodeDown | ErrorKind::Timeout)
}

/// True if a command that may be completed by this rule is completed without this part.
///
/// A reply that cannot show what is missing is not completed without a node that refuses the password: that
/// is an error in the settings, which would otherwise go unnoticed.
pub(super) fn is_excused(partial: Partial, outcome: &Result<Value, Option<Error>>) -> bool {
    match (partial, outcome) {
        (Partial::OptIn, Err(Some(error))) => !error.is_untried() && is_out_of_reach(error.kind()),
        (Partial::Allowed, outcome) => is_unreachable(outcome),
        _ => false,
    }
}

/// True if there is no reply because the node cannot be reached, refuses the password, or did not reply in
/// time.
///
/// A full pool ([`PoolTimeout`](ErrorKind::PoolTimeout)) does not count: the node is well, and leaving its
/// keys out would hide a limit of this client. Neither does an error reply: the node was reached.
pub(super) fn is_unreachable(outcome: &Result<Value, Option<Error>>) -> bool {
    // `Err(None)`, a result that was lost, does not count: it would turn a defect into silently missing keys.
    let Err(Some(error)) = outcome else {
        return false;
    };
    !error.is_untried() && is_out_of_reach(error.kind()) || error.kind() == ErrorKind::Auth
}
