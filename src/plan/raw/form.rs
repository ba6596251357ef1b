//! Replies as they came, as the form in which an operation gives them.

use redis::Value;

use crate::command::Access;
use crate::error::Error;
use crate::plan::batch::{Batch, missing};
use crate::plan::operation::{ReplyForm, ScriptStore};
use crate::plan::scripts::Recovery;
use crate::plan::{Answers, Exchange, RawPipeline, RawReplies, Scope, ScriptCache};
use crate::resp::{self, Protocol, Slice};

impl ReplyForm for RawReplies {
    type Reply = Vec<u8>;
    /// The protocol of replies that are made here.
    type Context = Protocol;

    fn single(answers: Answers<Self>, node: &str, access: Access) -> Result<Vec<u8>, Error> {
        match (answers.values.frame(0), answers.failure) {
            (Some(frame), _) => Ok(frame.to_vec()),
            (None, Some(failure)) => Err(failure.error(node, 0, access)),
            (None, None) => Err(missing(None, node)),
        }
    }

    fn merged(
        batch: Batch<'_, '_>,
        exchange: Exchange<Self>,
        protocol: Protocol,
        entropy: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        RawPipeline::of(batch)
            .reply_writer(&exchange, protocol, entropy)
            .write_next(&mut out, usize::MAX);
        Ok(out)
    }

    fn recovery(cache: &ScriptCache, args: &[&[u8]], reply: &Vec<u8>) -> Option<Recovery> {
        cache.raw_recovery(args, reply)
    }

    fn record(
        scripts: &dyn ScriptStore,
        args: &[&[u8]],
        _: Scope,
        protocol: Protocol,
        reply: Vec<u8>,
    ) -> Vec<u8> {
        // A script that runs again and again needs no lock that only one can hold.
        if scripts.snapshot().is_known(args) {
            return reply;
        }
        let mut recorded = reply;
        scripts.update(&mut |cache| {
            recorded = ScriptCache::record_raw_reply(cache, args, &recorded, protocol).into_owned();
        });
        recorded
    }

    fn first_value(&self) -> Option<Value> {
        resp::read(&mut Slice(self.frame(0)?)).ok()
    }
}
