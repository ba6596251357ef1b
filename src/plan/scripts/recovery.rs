//! What to do when a node lacks what the client remembers.

use redis::Value;

use crate::partition::NodeIndex;
use crate::plan::scripts::command::ScriptCommand;
use crate::plan::scripts::{ScriptCache, ScriptJournal};
use crate::plan::{Batch, Exchange, RoutedCommand, Router, parse_one};

/// What makes a request work that a node could not carry out. Nothing of it was run.
#[derive(Debug)]
pub(crate) enum Recovery {
    /// This request in its place.
    Resend(Vec<u8>),
    /// The same request, after these, whose answers do not matter.
    LoadThenResend(Vec<Vec<u8>>),
}

impl ScriptCache {
    /// What to do about this answer to one request: EVALSHA is sent again as EVAL when the node does not have the script,
    /// FCALL after the libraries are loaded again when it does not have the function. `None` when the answer is an
    /// answer, and when nothing is remembered that would help.
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

/// The request for all libraries, which any node may answer.
pub(in crate::plan) const LIST_LIBRARIES: &[u8] =
    b"*3\r\n$8\r\nFUNCTION\r\n$4\r\nLIST\r\n$8\r\nWITHCODE\r\n";

/// Functions of a pipeline that are called again, after the libraries were loaded on the nodes that lacked them.
#[derive(Debug)]
pub(crate) struct FunctionRetry<'r> {
    batch: Batch<'r, 'r>,
    /// For each of its requests, whose answer it is that comes back; none for a load.
    places: Vec<Option<usize>>,
}

impl<'r> FunctionRetry<'r> {
    /// For the commands that were answered so by nodes that lack a function.
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
            let args = parse_one(frame).ok()?;
            let remedy = values
                .get(place)
                .and_then(|value| cache.recovery(&args, value));
            let Some(Recovery::LoadThenResend(loads)) = remedy else {
                continue;
            };
            if !loaded.contains(&node) {
                loaded.push(node);
                for load in &loads {
                    retry.add(node, load, RoutedCommand::write(node), None);
                }
            }
            let routed = router.route_at(node, &args).ok()?;
            retry.add(node, frame, routed, Some(place));
        }
        (!loaded.is_empty()).then_some(retry)
    }

    /// What each node gets.
    pub(crate) fn exchange(&mut self) -> Exchange {
        self.batch.exchange()
    }

    /// Puts the new replies in the places of the old ones.
    pub(crate) fn finish(&self, exchange: Exchange, values: &mut [Value]) {
        // No reply of these is drawn by lot.
        let replies = self.batch.finish(exchange, 0);
        for (place, reply) in self.places.iter().zip(replies) {
            if let Some(value) = place.and_then(|place| values.get_mut(place)) {
                *value = reply;
            }
        }
    }

    fn add(&mut self, node: NodeIndex, frame: &[u8], routed: RoutedCommand, place: Option<usize>) {
        self.batch.add_at(node, frame, routed);
        self.places.push(place);
    }
}
