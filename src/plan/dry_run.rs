//! A request's whole way but the wire, so that it can be measured alone.

use std::io;

use redis::Value;

use crate::error::{Error, ErrorKind};
use crate::plan::request::{PipelineKind, PlannedPipeline};
use crate::plan::{Answers, Exchange, Router, ScriptCache};
use crate::resp::{self, Slice};

impl Router {
    /// Reads a packed pipeline, plans it, writes what each node gets, and makes answers of `replies`: for each node, the
    /// bytes it would send.
    ///
    /// # Errors
    ///
    /// As for [`plan`](Self::plan), and when the replies are not those to the requests.
    #[doc(hidden)]
    pub fn dry_run(&self, packed: &[u8], replies: &[Vec<u8>]) -> Result<Vec<Value>, Error> {
        let PlannedPipeline::Batch { mut batch, .. } =
            self.route_pipeline(packed, PipelineKind::Plain, &ScriptCache::empty, 0)?
        else {
            return Ok(Vec::new());
        };
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
        Ok(batch.finish(exchange, 0))
    }
}
