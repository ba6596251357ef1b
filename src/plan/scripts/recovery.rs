//! What to do when a node lacks a script or function that the client remembers.
//!
//! NOSCRIPT and `Function not found` mean that nothing was run, so sending something again is safe even for a
//! write. Each request is repaired once; a second refusal is its reply.

use redis::Value;

use crate::partition::NodeIndex;
use crate::plan::scripts::command::ScriptCommand;
use crate::plan::scripts::{ScriptCache, ScriptJournal};
use crate::plan::{Batch, Exchange, PipelineReplies, RoutedCommand, Router, parse_one};

/// The requests that repair a refusal.
#[derive(Debug)]
pub(crate) enum Recovery {
    /// This request instead: the EVAL for an EVALSHA.
    Resend(Vec<u8>),
    /// The request itself again, after these FUNCTION LOADs, whose replies are ignored: most fail because the
    /// node has the library.
    LoadThenResend(Vec<Vec<u8>>),
}

impl ScriptCache {
    /// True if NOSCRIPT in reply to this request can be repaired.
    pub(in crate::plan) fn repairs_noscript(&self, args: &[&[u8]]) -> bool {
        match ScriptCommand::of(args) {
            Some(ScriptCommand::EvalSha(sha)) => self.source(sha).is_some(),
            _ => false,
        }
    }

    /// Returns the repair for this reply to one request: EVAL after NOSCRIPT, all libraries and the call
    /// again after `Function not found`. `None` for any other reply, and if nothing is remembered that would
    /// help.
    ///
    /// The beginning of the error's text is compared as well as its code, since a script may return errors of
    /// its own. One that imitates the server's text is taken for it.
    pub(crate) fn recovery(&self, args: &[&[u8]], answer: &Value) -> Option<Recovery> {
        let Value::ServerError(error) = answer else {
            return None;
        };
        let says = |code: &str, text: &str| {
            error.code() == code
                && error
                    .details()
                    .is_some_and(|details| details.starts_with(text))
        };
        match ScriptCommand::of(args)? {
            ScriptCommand::EvalSha(_) if says("NOSCRIPT", "No matching script") => {
                self.rewrite(args).map(Recovery::Resend)
            }
            ScriptCommand::Call(_) if says("ERR", "Function not found") && !self.has_no_loads() => {
                Some(Recovery::LoadThenResend(self.reloads()))
            }
            _ => None,
        }
    }
}

/// FUNCTION LIST WITHCODE, packed. Any node may reply, since libraries are loaded on all.
pub(in crate::plan) const LIST_LIBRARIES: &[u8] =
    b"*3\r\n$8\r\nFUNCTION\r\n$4\r\nLIST\r\n$8\r\nWITHCODE\r\n";

/// A second attempt at the FCALLs of a pipeline that failed with `Function not found`. Each node first gets the
/// FUNCTION LOADs.
///
/// The calls now run after commands that followed them in the pipeline. Between nodes a pipeline promises no
/// order; on one node this is the price of not preloading every library in every pipeline.
#[derive(Debug)]
pub(crate) struct FunctionRetry<'r> {
    batch: Batch<'r, 'r>,
    /// For each request of `batch`, the place of its reply in the pipeline; `None` for a FUNCTION LOAD.
    places: Vec<Option<usize>>,
}

impl<'r> FunctionRetry<'r> {
    /// Returns the retry for the commands of the journal whose replies say that their node lacks a function;
    /// `None` if there are none.
    pub(crate) fn of(
        journal: &ScriptJournal<'_>,
        router: &'r Router,
        cache: &ScriptCache,
        values: &[Value],
    ) -> Option<Self> {
        let mut retry = Self {
            batch: Batch::new(router, 0, 0),
            places: Vec::new(),
        };
        let mut loaded: Vec<NodeIndex> = Vec::new();
        for (place, node, frame) in journal.at_one_node() {
            let Ok(args) = parse_one(frame) else {
                continue;
            };
            let recovery = values
                .get(place)
                .and_then(|value| cache.recovery(&args, value));
            let Some(Recovery::LoadThenResend(loads)) = recovery else {
                continue;
            };
            let Ok(routed) = router.route_at(node, &args) else {
                continue;
            };
            // Once per node, ahead of its first call: one connection carries them in this order.
            if !loaded.contains(&node) {
                loaded.push(node);
                for load in &loads {
                    retry.add(node, load, RoutedCommand::write(node), None);
                }
            }
            retry.add(node, frame, routed, Some(place));
        }
        (!loaded.is_empty()).then_some(retry)
    }

    /// Returns the requests of each node.
    pub(crate) fn exchange(&mut self) -> Exchange {
        self.batch.exchange()
    }

    /// Puts the new results in the places of the refusals; those of loads are dropped.
    pub(crate) fn finish(&self, exchange: Exchange, replies: &mut PipelineReplies) {
        // Entropy chooses among replies of several nodes; each request here has one node.
        let again = self.batch.finish(exchange, 0);
        replies.replace(self.places.iter().copied(), again);
    }

    /// Adds a request and the place of its reply. Both vectors must grow together.
    fn add(&mut self, node: NodeIndex, frame: &[u8], routed: RoutedCommand, place: Option<usize>) {
        self.batch.add_at(node, frame, routed);
        self.places.push(place);
    }
}
