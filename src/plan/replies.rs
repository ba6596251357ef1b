//! The replies to the commands of a pipeline, and the errors of those that have none.
//!
//! ```text
//! SET a1 x · GET b1 · INCR a2        a: +OK · -WRONGTYPE        b: the connection broke
//!
//! values    OK      nil     -WRONGTYPE
//! failed            1: b                         no reply came
//! refused                   2: a                 the error is the server's own
//! ```
//!
//! Two results are made of them: [`each`](PipelineReplies::each), one for each command, and
//! [`whole`](PipelineReplies::whole), as redis-rs has it: a pipeline one of whose commands got no reply is an
//! error as a whole, while error replies are replies.

use std::sync::Arc;

use redis::Value;

use crate::command::{Access, Args, PackedCommands};
use crate::error::{Error, ErrorKind, PartOutcome, PartStatus, Retry, server_error};
use crate::partition::NodeIndex;
use crate::plan::Router;
use crate::plan::batch::{MovedTo, NodeRequest, ReplySlot};

/// The results of the commands of a pipeline, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct PipelineReplies {
    /// One per command, an error that stands for none for those in `failed`. For a transaction only the reply
    /// to EXEC.
    pub(crate) values: Vec<Value>,
    /// The commands without a reply of their own, and why, ascending; at most one entry for each.
    failed: Vec<(u32, Error)>,
    /// The commands with an error reply of a single node, and the node.
    refused: Vec<(u32, ReplyNode)>,
    /// The node of a transaction.
    exec: Option<ReplyNode>,
}

/// The node of a reply.
#[derive(Clone, Debug)]
pub(in crate::plan) enum ReplyNode {
    /// One of the topology by which the request was planned.
    Planned(NodeIndex),
    /// One of a newer topology.
    Moved(Arc<MovedTo>),
}

impl ReplyNode {
    /// The node that has replied to a request.
    pub(in crate::plan) fn of(request: &NodeRequest) -> Self {
        match &request.moved {
            Some(moved) => Self::Moved(Arc::clone(moved)),
            None => Self::Planned(request.node),
        }
    }

    /// Its name. `router` is that of the plan.
    fn name<'n>(&'n self, router: &'n Router) -> &'n str {
        match self {
            Self::Planned(node) => router.name(*node),
            Self::Moved(moved) => &moved.name,
        }
    }
}

/// Collects the [`PipelineReplies`] of a batch, whose nodes reply in any order.
#[derive(Debug)]
pub(in crate::plan) struct ReplyCollector {
    replies: PipelineReplies,
    /// Commands that failed, in the order of their nodes; `None` for one that another node has served since.
    failed: Vec<(u32, Option<Error>)>,
}

/// What is known of the keys of a pipeline, by node: the outcomes [`Done`](PartStatus::Done), `Failed` and
/// `Unknown`.
type Outcomes = Vec<[Option<PartOutcome>; 3]>;

impl ReplyCollector {
    /// Nil for each of this many commands.
    pub(in crate::plan) fn new(commands: usize) -> Self {
        let mut replies = PipelineReplies::default();
        replies.values.resize_with(commands, || Value::Nil);
        Self {
            replies,
            failed: Vec::new(),
        }
    }

    /// Records the reply to a command of this request.
    #[inline]
    pub(in crate::plan) fn reply(&mut self, slot: ReplySlot, request: &NodeRequest, value: Value) {
        let command = slot.command;
        if let Value::ServerError(_) = value {
            let node = ReplyNode::of(request);
            self.replies.refused.push((command, node));
        }
        // Another node may have failed to serve the command before.
        if !self.failed.is_empty() {
            self.failed.push((command, None));
        }
        self.replies.values[command as usize] = value;
    }

    /// Records the reply to a command that is made of those of several nodes.
    pub(in crate::plan) fn merged(&mut self, command: u32, reply: Result<Value, Error>) {
        match reply {
            Ok(value) => self.replies.values[command as usize] = value,
            Err(error) => self.failed(command, error),
        }
    }

    /// Records that a command has no reply.
    pub(in crate::plan) fn failed(&mut self, command: u32, error: Error) {
        self.failed.push((command, Some(error)));
    }

    /// Forgets the refusals of commands that were served elsewhere, and all but the last of each other.
    fn keep_last_refusals(&mut self) {
        let PipelineReplies {
            refused, values, ..
        } = &mut self.replies;
        refused.reverse();
        // Stable, so that the last refusal of each command comes first.
        refused.sort_by_key(|(command, _)| *command);
        refused.dedup_by_key(|(command, _)| *command);
        refused.retain(|(command, _)| matches!(values[*command as usize], Value::ServerError(_)));
    }

    /// The replies, when all are recorded.
    pub(in crate::plan) fn finish(mut self) -> PipelineReplies {
        self.keep_last_refusals();
        if self.failed.is_empty() {
            return self.replies;
        }
        let none = no_reply();
        // Stable, so that the last outcome of each command is the last of its entries.
        self.failed.sort_by_key(|(command, _)| *command);
        let mut failed = self.failed.into_iter().peekable();
        while let Some((command, outcome)) = failed.next() {
            let is_last = failed.peek().is_none_or(|(next, _)| *next != command);
            if let (true, Some(error)) = (is_last, outcome) {
                self.replies.values[command as usize].clone_from(&none);
                self.replies.failed.push((command, error));
            }
        }
        self.replies
    }
}

/// The value of a command without a reply. Not nil, which the script cache would take for success.
fn no_reply() -> Value {
    Value::ServerError(server_error("UNKNOWN", "no reply"))
}

impl PipelineReplies {
    /// The replies to a pipeline over a dedicated connection, whose errors need no node.
    pub(in crate::plan) fn private(values: Vec<Value>) -> Self {
        Self {
            values,
            ..Self::default()
        }
    }

    /// Sets the result of a command that was carried out after the others.
    pub(in crate::plan) fn set(&mut self, command: u32, reply: Result<Value, Error>) {
        let (value, error) = match reply {
            Ok(value) => (value, None),
            Err(error) => (no_reply(), Some(error)),
        };
        if let Some(place) = self.values.get_mut(command as usize) {
            *place = value;
        }
        if let Some(error) = error {
            let at = self.failed.partition_point(|(other, _)| *other < command);
            self.failed.insert(at, (command, error));
        }
    }

    /// The reply of `node` to EXEC.
    pub(in crate::plan) fn exec(node: ReplyNode, reply: Value) -> Self {
        Self {
            values: vec![reply],
            exec: Some(node),
            ..Self::default()
        }
    }

    /// The result of the only command.
    pub(in crate::plan) fn into_only(mut self) -> Result<Value, Error> {
        match self.failed.pop() {
            Some((_, error)) => Err(error),
            None => Ok(self.values.pop().unwrap_or_default()),
        }
    }

    /// Puts the results of `others` into the places of these commands; `None` drops one.
    pub(in crate::plan) fn replace(
        &mut self,
        places: impl IntoIterator<Item = Option<usize>>,
        others: Self,
    ) {
        let mut failed = others.failed.into_iter().peekable();
        let mut refused = others.refused;
        refused.sort_by_key(|(command, _)| *command);
        let mut refused = refused.into_iter().peekable();
        for ((number, place), value) in (0..).zip(places).zip(others.values) {
            let failed = failed.next_if(|(command, _)| *command == number);
            let refused = refused.next_if(|(command, _)| *command == number);
            let Some(place) = place.filter(|&place| place < self.values.len()) else {
                continue;
            };
            self.values[place] = value;
            let command = place as u32;
            // What is replaced was refused, by the same node.
            self.refused.retain(|(refused, _)| *refused != command);
            self.refused
                .extend(refused.map(|(_, node)| (command, node)));
            self.failed
                .extend(failed.map(|(_, error)| (command, error)));
        }
        self.failed.sort_by_key(|(command, _)| *command);
    }

    /// The replies as redis-rs' traits return them.
    ///
    /// # Errors
    ///
    /// When a command got no reply: the outcome of the whole pipeline, with the outcome of each node.
    /// `packed` is the pipeline, and `at` the node that all of it went to, if the user named one.
    pub(crate) fn whole(
        mut self,
        router: &Router,
        packed: &[u8],
        at: Option<NodeIndex>,
    ) -> Result<Vec<Value>, Error> {
        if self
            .failed
            .iter()
            .any(|(_, error)| error.missing_reply().is_some())
        {
            return Err(self.into_error(router, packed, at));
        }
        // All have replied: some with errors, or with replies that cannot be made one.
        for (command, error) in self.failed {
            self.values[command as usize] = error.to_reply();
        }
        Ok(self.values)
    }

    /// The result of each command, with the node and the keys of those that failed. `packed` is the pipeline,
    /// with MULTI and EXEC if it is a transaction.
    pub(crate) fn each(mut self, router: &Router, packed: &[u8]) -> Vec<Result<Value, Error>> {
        self.refused.sort_by_key(|(command, _)| *command);
        // The reply to EXEC is that to all commands; MULTI comes before them.
        let (before, values) = match (&mut self.values[..], &self.exec) {
            ([Value::Array(replies)], Some(_)) => (1, std::mem::take(replies)),
            _ => (0, self.values),
        };
        let exec = self.exec;
        let mut failed = self.failed.into_iter().peekable();
        let mut refused = self.refused.into_iter().peekable();
        let mut commands = Commands::new(packed, before);
        let results = (0..).zip(values).map(|(number, value)| {
            let failed = failed.next_if(|(command, _)| *command == number);
            let refused = refused.next_if(|(command, _)| *command == number);
            let error = match (failed, value) {
                (Some((_, error)), _) => error,
                (None, Value::ServerError(error)) => {
                    let node = refused.map(|(_, node)| node).or_else(|| exec.clone());
                    Error::from_server(&error, node.as_ref().map(|node| node.name(router)))
                }
                (None, value) => return Ok(value),
            };
            Err(router.with_keys(error, commands.skip_to(number)))
        });
        results.collect()
    }

    /// The error for a pipeline of which a command got no reply.
    ///
    /// It is of the kind of that failure if nothing was done, and [`Partial`](ErrorKind::Partial) otherwise.
    fn into_error(mut self, router: &Router, packed: &[u8], at: Option<NodeIndex>) -> Error {
        let mut outcomes: Outcomes = Vec::new();
        outcomes.resize_with(router.topology().nodes().len(), Default::default);
        let mut commands = Commands::new(packed, 0);
        let (mut is_any_done, mut is_safe) = (false, true);
        self.refused.sort_by_key(|(command, _)| *command);
        let mut refused = self.refused.iter().peekable();
        let mut failed = self.failed.iter().peekable();
        for (number, value) in (0..).zip(&self.values) {
            let frame = commands.skip_to(number);
            let failed = failed.next_if(|(command, _)| *command == number);
            let refused = refused.next_if(|(command, _)| *command == number);
            match (failed, value) {
                (Some((_, error)), _) => {
                    let is_done = |part: &PartOutcome| part.status == PartStatus::Done;
                    is_any_done |= error.parts().iter().any(is_done);
                    is_safe &= error.is_retryable();
                    router.record_failure(&mut outcomes, frame, error);
                }
                (None, Value::ServerError(error)) => {
                    let node = refused.map(|(_, node)| node.name(router));
                    let error = Error::from_server(error, node);
                    is_safe &= error.is_retryable();
                    router.record_failure(&mut outcomes, frame, &error);
                }
                (None, _) => {
                    is_any_done = true;
                    is_safe &= router.is_read(frame);
                    router.record_done(&mut outcomes, frame, at);
                }
            }
        }
        let parts: Vec<PartOutcome> = outcomes.into_iter().flatten().flatten().collect();
        let retry = match is_safe {
            true => Retry::Safe,
            false => Retry::Unsafe,
        };
        let missing = |error: &Error| error.missing_reply().is_some();
        let worst =
            |(_, error): &(u32, Error)| (!missing(error), error.kind() != ErrorKind::Unknown);
        let Some((_, first)) = self.failed.into_iter().min_by_key(worst) else {
            return Error::partial("the pipeline", parts, retry);
        };
        match is_any_done {
            true => {
                let io = first.missing_reply();
                Error::partial("the pipeline", parts, retry).with_io(io)
            }
            false => first.with_parts(parts, retry),
        }
    }
}

/// The status of the keys of a command that failed with this error.
fn status_of(error: &Error) -> PartStatus {
    match error.kind() {
        ErrorKind::Unknown => PartStatus::Unknown,
        _ => PartStatus::Failed,
    }
}

/// The commands of a packed pipeline, read again for the few that failed.
struct Commands<'p> {
    packed: PackedCommands<'p>,
    args: Args<'p>,
    /// Number of the next command.
    next: u32,
}

impl<'p> Commands<'p> {
    /// The commands after the first `before`.
    fn new(packed: &'p [u8], before: usize) -> Self {
        let mut commands = Self {
            packed: PackedCommands::new(packed),
            args: Args::new(),
            next: 0,
        };
        for _ in 0..before {
            commands.frame();
        }
        commands
    }

    /// The bytes of the next command. It parsed when it was planned.
    fn frame(&mut self) -> &'p [u8] {
        self.packed
            .next(&mut self.args)
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// The bytes of command `number`, which is not before the last one asked for.
    fn skip_to(&mut self, number: u32) -> &'p [u8] {
        let mut frame = &[][..];
        while self.next <= number {
            frame = self.frame();
            self.next += 1;
        }
        frame
    }
}

impl Router {
    /// Adds the only part of a pipeline to the error of a transaction that got no reply.
    pub(crate) fn with_transaction(&self, error: Error, packed: &[u8]) -> Error {
        let (Some(name), Some(_), []) = (error.node(), error.missing_reply(), error.parts()) else {
            return error;
        };
        let mut commands = Commands::new(packed, 0);
        let frames =
            std::iter::from_fn(|| Some(commands.frame()).filter(|frame| !frame.is_empty()));
        let keys = frames.flat_map(|frame| self.keys_of(frame)).collect();
        let retry = match error.is_retryable() {
            true => Retry::Safe,
            false => Retry::Unsafe,
        };
        let part = PartOutcome::new(name, keys, status_of(&error), Some(error.to_string()));
        error.with_parts(vec![part], retry)
    }

    /// True if a packed command is a read.
    fn is_read(&self, frame: &[u8]) -> bool {
        let mut args = Args::new();
        matches!(PackedCommands::new(frame).next(&mut args), Ok(Some(_)))
            && self
                .lookup(&args)
                .is_ok_and(|command| command.access() == Access::Read)
    }

    /// The keys of a packed command; none if they are not known.
    fn keys_of(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut args = Args::new();
        let Ok(Some(_)) = PackedCommands::new(frame).next(&mut args) else {
            return Vec::new();
        };
        let found = self
            .lookup(&args)
            .and_then(|command| self.keys(command, &args));
        let positions = found.map(|found| found.keys).unwrap_or_default();
        positions
            .iter()
            .map(|&at| args[at as usize].to_vec())
            .collect()
    }

    /// Adds a command that was done to the outcomes of the nodes of its keys, or of `at`.
    fn record_done(&self, outcomes: &mut Outcomes, frame: &[u8], at: Option<NodeIndex>) {
        let keys = self.keys_of(frame);
        if let (Some(node), true) = (at, keys.is_empty()) {
            self.record(outcomes, node, PartStatus::Done, [], None);
        }
        for key in keys {
            if let Some(node) = at.or_else(|| self.topology().locate(&key)) {
                self.record(outcomes, node, PartStatus::Done, [key], None);
            }
        }
    }

    /// Adds a command that failed to the outcomes of its nodes.
    fn record_failure(&self, outcomes: &mut Outcomes, frame: &[u8], error: &Error) {
        for part in error.parts() {
            if let Some(node) = self.topology().index_of(&part.node) {
                let keys = part.keys.iter().cloned();
                let reason = part.reason.as_deref();
                self.record(outcomes, node, part.status, keys, reason);
            }
        }
        if let (true, Some(name)) = (error.parts().is_empty(), error.node())
            && let Some(node) = self.topology().index_of(name)
        {
            let status = status_of(error);
            let reason = error.to_string();
            self.record(outcomes, node, status, self.keys_of(frame), Some(&reason));
        }
    }

    /// Adds keys to one outcome of a node. The first reason stands for all.
    fn record(
        &self,
        outcomes: &mut Outcomes,
        node: NodeIndex,
        status: PartStatus,
        keys: impl IntoIterator<Item = Vec<u8>>,
        reason: Option<&str>,
    ) {
        let place = match status {
            PartStatus::Done => 0,
            PartStatus::Failed => 1,
            PartStatus::Unknown => 2,
        };
        outcomes[node.get()][place]
            .get_or_insert_with(|| {
                let reason = reason.map(str::to_owned);
                PartOutcome::new(self.name(node), Vec::new(), status, reason)
            })
            .keys
            .extend(keys);
    }
}
