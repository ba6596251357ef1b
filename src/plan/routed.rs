//! A plan together with the properties of its command that an executor needs.

use redis::Value;

use crate::command::{Access, BlockingTime, Partial, Scripting};
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::missing::decode_miss;
use crate::plan::{Failure, Plan, ReadsAs, Router};
use crate::policy::ReadFrom;

/// A plan together with the properties of its command.
///
/// Made once per command, by one of the `route` methods of [`Router`](crate::plan::Router); the command table
/// is not consulted again after that.
#[derive(Clone, Debug)]
pub(crate) struct RoutedCommand {
    /// The nodes that receive the command.
    pub(crate) plan: Plan,
    /// Read or write: a read may be resent when its reply is missing.
    pub(crate) access: Access,
    /// How long a server may hold the reply back.
    pub(crate) blocking: BlockingTime,
    /// Which writes WAIT and WAITAOF wait for.
    pub(crate) wait_scope: WaitScope,
    /// `Yes` for commands about scripts or functions: they may need a recovery, and their replies are
    /// recorded.
    pub(crate) scripting: Scripting,
    /// Whether the replies of the reachable nodes may stand for all nodes.
    pub(crate) partial: Partial,
    /// The treatment of a read by key whose node cannot be reached.
    pub(crate) reads_as: ReadsAs,
    /// True if a replica of the node may serve the command.
    pub(crate) may_use_replica: bool,
    /// Of a command that any node may serve, the node to ask first; `None` leaves it to chance.
    pub(crate) preferred: Option<NodeIndex>,
    /// True if the request is sent in another form, for which its bytes must be looked at.
    pub(crate) is_rewritten: bool,
}

/// The earlier writes that a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitScope {
    /// None, or the writes of its own connection: all commands on a dedicated connection, where the server's
    /// own rule holds.
    OwnWrites,
    /// All writes acknowledged before, over any connection: WAIT and WAITAOF to all nodes. The connection
    /// that such a command happens to get may not have written anything.
    AllWrites,
}

impl RoutedCommand {
    /// The node of a command that needs no operation: it goes to one node, and its reply is returned
    /// unchanged.
    ///
    /// This is the short cut for nearly all commands; not for reads that may go to a replica, as another server may
    /// have to be asked after the first.
    #[inline]
    pub(crate) fn direct(&self, read_from: ReadFrom) -> Option<NodeIndex> {
        match (&self.plan, self.scripting) {
            (&Plan::One(node), Scripting::No)
                if !self.is_rewritten
                    && (!self.may_use_replica || read_from == ReadFrom::Primary) =>
            {
                Some(node)
            }
            _ => None,
        }
    }

    /// The same, with reads of keys out of reach failing if `limit` is [`ReadsAs::Error`]. A client whose reads
    /// decide about a write, which is where that limit applies, reads from the primary.
    #[cfg(feature = "proxy")]
    #[inline]
    pub(crate) fn limited_to(mut self, limit: ReadsAs) -> Self {
        if limit == ReadsAs::Error {
            self.reads_as = limit;
            self.may_use_replica = false;
        }
        self
    }

    /// A read for `node` that does not block and concerns no script.
    pub(crate) fn read(node: NodeIndex) -> Self {
        Self {
            access: Access::Read,
            ..Self::write(node)
        }
    }

    /// A command for `node` about which nothing else is known: it counts as a write, so it is never sent
    /// twice.
    pub(crate) fn write(node: NodeIndex) -> Self {
        Self {
            plan: Plan::One(node),
            access: Access::Write,
            blocking: BlockingTime::None,
            wait_scope: WaitScope::OwnWrites,
            scripting: Scripting::No,
            partial: Partial::Refused,
            reads_as: ReadsAs::Error,
            may_use_replica: false,
            preferred: None,
            is_rewritten: false,
        }
    }

    /// The result of a command with these arguments that went [directly](Self::direct) to `node`.
    ///
    /// # Errors
    ///
    /// When there is no reply, or the reply is an error.
    #[inline]
    pub(crate) fn reply(
        &self,
        router: &Router,
        node: NodeIndex,
        args: &[&[u8]],
        result: Result<Value, Failure>,
    ) -> Result<Value, Error> {
        match result {
            Ok(Value::ServerError(error)) => {
                Err(Error::from_server(&error, Some(router.name(node))))
            }
            Ok(value) => Ok(value),
            Err(failure) => {
                let mut frame = Vec::new();
                router
                    .miss_reply(self.reads_as.into(), node, args, &failure, &mut frame)
                    .then(|| decode_miss(&frame))
                    .flatten()
                    .ok_or_else(|| failure.error(router.name(node), 0, self.access))
            }
        }
    }
}
