//! A pipeline planned, packed per node, decoded and merged without any I/O, so that benchmarks measure only
//! that.

use std::io;

use redis::Value;

use crate::error::{Error, ErrorKind};
use crate::plan::request::{PipelineKind, PlannedPipeline};
use crate::plan::{Answers, Exchange, Router, ScriptCache};
use crate::resp::{self, Slice};

impl Router {
    /// Plans a packed pipeline, writes the request of each node, and merges the replies decoded from
    /// `replies`.
    ///
    /// `replies` holds the bytes that each node would send, in node order. A pipeline of MULTI ... EXEC is
    /// planned but has no replies here: the result is empty.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan), and [`Redis`](ErrorKind::Redis) when the bytes do not hold one reply
    /// per request.
    ///
    /// # Panics
    ///
    /// When `replies` has no entry for a node that receives a request.
    #[doc(hidden)]
    pub fn dry_run(&self, packed: &[u8], replies: &[Vec<u8>]) -> Result<Vec<Value>, Error> {
        let PlannedPipeline::Batch { mut batch, .. } =
            self.route_pipeline(packed, PipelineKind::Plain, &ScriptCache::empty, 0)?
        else {
            return Ok(Vec::new());
        };
        // One wave without failures: nothing is resent here.
        let mut exchange: Exchange = batch.exchange();
        let answers = exchange.attempts().map(|attempt| {
            let mut answers = Answers::default();
            let mut input = Slice(&replies[attempt.request.node.get()]);
            resp::read_all(&mut input, attempt.request.slots.len(), &mut answers.values)?;
            Ok(answers)
        });
        let answers = answers
            .collect::<io::Result<_>>()
            .map_err(|error| Error::new(ErrorKind::Redis, error.to_string()))?;
        exchange.handle(answers);
        batch.finish(exchange, 0).whole(self, packed, None)
    }
}
