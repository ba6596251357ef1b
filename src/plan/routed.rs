//! A plan, and what is needed of its command to carry it out.

use redis::Value;

use crate::command::{Access, BlockingTime, Scripting};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::{Failure, Plan, with_node_name};

/// A plan, and what an executor must know of the command to carry it out.
#[derive(Clone, Debug)]
pub(crate) struct RoutedCommand {
    pub(crate) plan: Plan,
    pub(crate) access: Access,
    pub(crate) blocking: BlockingTime,
    pub(crate) wait_scope: WaitScope,
    pub(crate) scripting: Scripting,
    /// Whether the nodes that can be reached answer for all.
    pub(crate) partial: bool,
}

/// Which writes a command is about, when it is about writes that were made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitScope {
    /// None, or those of its own connection.
    OwnWrites,
    /// All that were acknowledged before, by whichever connection: WAIT, WAITAOF.
    AllWrites,
}

impl RoutedCommand {
    /// The node, when the command goes to one and its reply needs nothing but to be given back: no operation need be built
    /// for it.
    #[inline]
    pub(crate) fn direct(&self) -> Option<NodeIndex> {
        match (&self.plan, self.scripting) {
            (&Plan::One(node), Scripting::No) => Some(node),
            _ => None,
        }
    }

    /// A command that changes nothing.
    pub(crate) fn read(node: NodeIndex) -> Self {
        Self {
            access: Access::Read,
            ..Self::write(node)
        }
    }

    /// A command of which nothing is known but its node.
    pub(crate) fn write(node: NodeIndex) -> Self {
        Self {
            plan: Plan::One(node),
            access: Access::Write,
            blocking: BlockingTime::None,
            wait_scope: WaitScope::OwnWrites,
            scripting: Scripting::No,
            partial: false,
        }
    }

    /// The reply to a command that goes to `node` and needs nothing else: see [`direct`](Self::direct).
    #[inline]
    pub(crate) fn reply(&self, node: &str, result: Result<Value, Failure>) -> Result<Value, Error> {
        match result {
            Ok(value @ Value::ServerError(_)) => Ok(with_node_name(value, node)),
            Ok(value) => Ok(value),
            Err(failure) => Err(failure.error(node, 0, self.access)),
        }
    }
}
