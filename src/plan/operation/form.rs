//! The two forms in which replies are given: decoded, or as they came.
//!
//! An operation decides by what a reply says, and gives it back in the form it came in. Clients decode every reply; the
//! proxy passes frames on, and reads only errors and what has to be merged. Both take the same decisions: `simulation` runs
//! every row of a single command in both forms.

use redis::Value;

use crate::command::Access;
use crate::error::Error;
use crate::plan::batch::{Batch, missing};
use crate::plan::operation::ScriptStore;
use crate::plan::scripts::Recovery;
use crate::plan::{Answers, Exchange, ReplyBuffer, Scope, ScriptCache, with_node_name};

/// A form in which the replies of nodes are kept, and the reply of a command is made of them.
pub(crate) trait ReplyForm: ReplyBuffer {
    /// The reply to one command.
    type Reply;
    /// What else it takes to make one.
    type Context: Copy;

    /// The reply of `node` to one request. An error of the server is a reply.
    fn single(answers: Answers<Self>, node: &str, access: Access) -> Result<Self::Reply, Error>;

    /// The reply to the only command of a batch, merged from the parts of its nodes.
    fn merged(
        batch: Batch<'_, '_>,
        exchange: Exchange<Self>,
        context: Self::Context,
        entropy: u64,
    ) -> Result<Self::Reply, Error>;

    /// What makes a script command work that a node could not carry out; `None` when the reply stands.
    fn recovery(cache: &ScriptCache, args: &[&[u8]], reply: &Self::Reply) -> Option<Recovery>;

    /// Records what a script command did by its reply. Gives the reply as the client has to see it.
    fn record(
        scripts: &dyn ScriptStore,
        args: &[&[u8]],
        scope: Scope,
        context: Self::Context,
        reply: Self::Reply,
    ) -> Self::Reply;

    /// The first of these replies, decoded; `None` when there is none or it cannot be read.
    fn first_value(&self) -> Option<Value>;
}

impl ReplyForm for Vec<Value> {
    type Reply = Value;
    type Context = ();

    fn single(mut answers: Answers, node: &str, access: Access) -> Result<Value, Error> {
        match (answers.values.pop(), answers.failure) {
            (Some(value), _) => Ok(with_node_name(value, node)),
            (None, Some(failure)) => Err(failure.error(node, 0, access)),
            (None, None) => Err(missing(None, node)),
        }
    }

    fn merged(
        batch: Batch<'_, '_>,
        exchange: Exchange,
        (): (),
        entropy: u64,
    ) -> Result<Value, Error> {
        batch.finish_one(exchange, entropy)
    }

    fn recovery(cache: &ScriptCache, args: &[&[u8]], reply: &Value) -> Option<Recovery> {
        cache.recovery(args, reply)
    }

    fn record(
        scripts: &dyn ScriptStore,
        args: &[&[u8]],
        scope: Scope,
        (): (),
        reply: Value,
    ) -> Value {
        scripts.record_reply(args, scope, reply)
    }

    fn first_value(&self) -> Option<Value> {
        self.first().cloned()
    }
}
