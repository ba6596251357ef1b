//! The two forms of replies: decoded values, or frames as they were received.
//!
//! Clients decode every reply. The proxy forwards frames, and decodes only errors and the replies that must
//! be merged. An operation is generic over the form, so that both make the same decisions: `simulation` runs
//! every row of a single command in both forms.
//!
//! The form of the clients, `Vec<Value>`, is here; that of the proxy is in `raw`.

use redis::Value;

use crate::command::Access;
use crate::error::Error;
use crate::plan::batch::{Batch, missing};
use crate::plan::missing::decode_miss;
use crate::plan::operation::ScriptStore;
use crate::plan::scripts::Recovery;
use crate::plan::{Answers, Exchange, ReplyBuffer, Scope};

/// A form in which replies of nodes are kept and turned into the reply to a command.
pub(crate) trait ReplyForm: ReplyBuffer {
    /// The reply to one command.
    type Reply;
    /// Further input for making a reply, such as the protocol version of the proxy's client.
    type Context: Copy;

    /// The reply of `node` to one request. An error reply is a reply.
    ///
    /// # Errors
    ///
    /// When the reply is missing; `access` then decides between a retryable error and `Unknown`.
    fn single(answers: Answers<Self>, node: &str, access: Access) -> Result<Self::Reply, Error>;

    /// The result of a command whose only reply, of `node`, is `reply`.
    ///
    /// # Errors
    ///
    /// In the form of the clients, when the reply is an error: the error names the node, and the reply has no
    /// room for it. The proxy passes an error on as the server wrote it.
    fn result(reply: Self::Reply, node: &str) -> Result<Self::Reply, Error>;

    /// The reply to the only command of a batch, merged from the replies of its nodes.
    ///
    /// # Errors
    ///
    /// When the parts cannot be merged because some of them failed.
    fn merged(
        batch: Batch<'_, '_>,
        exchange: Exchange<Self>,
        context: Self::Context,
        entropy: u64,
    ) -> Result<Self::Reply, Error>;

    /// How to repeat a script command that the node refused because it lacks the script; `None` when the
    /// reply is final.
    fn recovery(scripts: &dyn ScriptStore, args: &[&[u8]], reply: &Self::Reply)
    -> Option<Recovery>;

    /// Records the effect of a script command, as its reply shows it, and returns the reply for the client.
    fn record(
        scripts: &dyn ScriptStore,
        args: &[&[u8]],
        scope: Scope,
        context: Self::Context,
        reply: Self::Reply,
    ) -> Self::Reply;

    /// A reply that stands for that of a node, as a frame; `None` if it cannot be decoded.
    fn from_frame(frame: Vec<u8>) -> Option<Self::Reply>;

    /// A reply that was made here.
    fn from_value(value: Value, context: Self::Context) -> Self::Reply;

    /// The first of these replies, decoded; `None` when there is none or it cannot be decoded.
    fn first_value(&self) -> Option<Value>;

    /// These replies, decoded, up to the first that cannot be.
    fn into_values(self) -> Vec<Value>;
}

impl ReplyForm for Vec<Value> {
    type Reply = Value;
    type Context = ();

    fn single(mut answers: Answers, node: &str, access: Access) -> Result<Value, Error> {
        // A reply counts even if the connection failed after it: there was only one request.
        match (answers.values.pop(), answers.failure) {
            (Some(value), _) => Ok(value),
            (None, Some(failure)) => Err(failure.error(node, 0, access)),
            (None, None) => Err(missing(None, node)),
        }
    }

    fn result(reply: Value, node: &str) -> Result<Value, Error> {
        match reply {
            Value::ServerError(error) => Err(Error::from_server(&error, Some(node))),
            reply => Ok(reply),
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

    fn recovery(scripts: &dyn ScriptStore, args: &[&[u8]], reply: &Value) -> Option<Recovery> {
        // Only an error needs the cache, which is behind a lock.
        match reply {
            Value::ServerError(_) => scripts.snapshot().recovery(args, reply),
            _ => None,
        }
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

    fn from_frame(frame: Vec<u8>) -> Option<Value> {
        decode_miss(&frame)
    }

    fn from_value(value: Value, (): ()) -> Value {
        value
    }

    fn into_values(self) -> Self {
        self
    }

    fn first_value(&self) -> Option<Value> {
        // Copied, since the caller has the replies by reference; only a FUNCTION LIST is ever read this way.
        self.first().cloned()
    }
}
