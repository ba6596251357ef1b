//! [`RawReplies`] as the form in which an operation returns its reply: the bytes of one frame.

use redis::Value;

use crate::command::Access;
use crate::error::Error;
use crate::plan::batch::{Batch, missing};
use crate::plan::operation::{ReplyForm, ScriptStore};
use crate::plan::scripts::Recovery;
use crate::plan::{Answers, Exchange, RawPipeline, RawReplies, ReplyBuffer, Scope, ScriptCache};
use crate::resp::{self, Protocol, Slice};

impl ReplyForm for RawReplies {
    type Reply = Vec<u8>;
    /// Protocol in which replies are encoded that do not come from a node: merged ones, and errors.
    type Context = Protocol;

    /// Returns the frame of a command that went to one node.
    fn single(answers: Answers<Self>, node: &str, access: Access) -> Result<Vec<u8>, Error> {
        match (answers.values.frame(0), answers.failure) {
            (Some(frame), _) => Ok(frame.to_vec()),
            (None, Some(failure)) => Err(failure.error(node, 0, access)),
            (None, None) => Err(missing(None, node)),
        }
    }

    fn result(reply: Vec<u8>, _: &str) -> Result<Vec<u8>, Error> {
        Ok(reply)
    }

    /// Returns the one reply of a command that went to several nodes.
    fn merged(
        batch: Batch<'_, '_>,
        exchange: Exchange<Self>,
        protocol: Protocol,
        entropy: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        // One command has one reply, and nothing else is in this pipeline, so `usize::MAX` writes all of it:
        // no large reply stops the writer, since the exchange of an operation keeps all replies.
        RawPipeline::of(batch)
            .reply_writer(&exchange, protocol, entropy)
            .write_next(&mut out, usize::MAX);
        Ok(out)
    }

    fn recovery(scripts: &dyn ScriptStore, args: &[&[u8]], reply: &Vec<u8>) -> Option<Recovery> {
        // Only an error needs the cache, which is behind a lock.
        match reply.first() {
            Some(b'-') => scripts.snapshot().raw_recovery(args, reply),
            _ => None,
        }
    }

    /// Records the effect of a script command in the cache. Returns the reply as the client must see it.
    fn record(
        scripts: &dyn ScriptStore,
        args: &[&[u8]],
        _: Scope,
        protocol: Protocol,
        reply: Vec<u8>,
    ) -> Vec<u8> {
        // The common case, a script that runs again and again, takes the shared lock only.
        if scripts.snapshot().is_known(args) {
            return reply;
        }
        let mut recorded = reply;
        scripts.update(&mut |cache| {
            recorded = ScriptCache::record_raw_reply(cache, args, &recorded, protocol).into_owned();
        });
        recorded
    }

    fn from_frame(frame: Vec<u8>) -> Option<Vec<u8>> {
        Some(frame)
    }

    fn from_value(value: Value, protocol: Protocol) -> Vec<u8> {
        let mut frame = Vec::new();
        protocol.write(&mut frame, &value);
        frame
    }

    fn into_values(self) -> Vec<Value> {
        let frames = (0..self.count()).map_while(|number| self.frame(number));
        frames
            .map_while(|frame| resp::read(&mut Slice(frame)).ok())
            .collect()
    }

    /// Decodes the first reply; `None` if there is none, or it is malformed.
    fn first_value(&self) -> Option<Value> {
        resp::read(&mut Slice(self.frame(0)?)).ok()
    }
}
