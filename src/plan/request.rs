//! Packed requests, as the handles receive them from redis-rs, parsed, checked and planned.
//!
//! redis-rs hands over bytes in the wire format: one command, or a pipeline together with the number of
//! replies to skip and to return. This file finds the commands in them:
//!
//! * [`parse_one`]: the arguments of a single command.
//! * [`PipelineKind`]: whether a pipeline is atomic, recognized by its bytes.
//! * [`PlannedPipeline`]: a pipeline for the nodes of its keys, or for a node that the user named.
//! * [`check_each`], [`finish_private`]: a pipeline over a dedicated connection.
//! * [`select_replies`]: the replies that redis-rs returns to its caller.
//!
//! Bytes that do not parse are an error, never a panic: users can pack requests themselves.

use redis::Value;

use crate::command::BlockingTime;
use crate::command::{Access, Args, CommandSpec, PackedCommands, Scripting};
use crate::error::{Error, ErrorKind};
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Batch, CacheSnapshot, NodeRequest, Plan, PlannedTransaction, Rewritten, RoutedCommand,
    Router, Scope, ScriptJournal, ScriptRewriter,
};

/// The plan of a packed pipeline. The journals record its script commands, for the replies to be recorded in
/// the cache.
#[derive(Debug)]
pub(crate) enum PlannedPipeline<'r, 'p> {
    /// MULTI and EXEC with nothing between them. Nothing is sent: no key chooses a node, and the reply is
    /// known.
    Empty,
    /// MULTI ... EXEC for one node.
    Transaction {
        node: NodeIndex,
        request: NodeRequest,
        journal: Option<ScriptJournal<'p>>,
    },
    /// Commands that each go to the nodes of their keys.
    Batch {
        batch: Batch<'r, 'p>,
        journal: Option<ScriptJournal<'p>>,
    },
}

impl Router {
    /// Plans a packed pipeline for the nodes of its keys. `entropy` is a random number: see [`Batch::new`].
    ///
    /// # Errors
    ///
    /// When one of the commands is refused; then none is sent. The error says which command of the pipeline
    /// it was.
    pub(crate) fn route_pipeline<'r, 'p>(
        &'r self,
        packed: &'p [u8],
        kind: PipelineKind,
        snapshot: CacheSnapshot<'_>,
        entropy: u64,
    ) -> Result<PlannedPipeline<'r, 'p>, Error> {
        let PipelineKind::Atomic { commands } = kind else {
            let mut batch = Batch::new(self, packed.len(), entropy);
            let mut rewriter = None;
            for_each_command(packed, 0, |frame, args| {
                let command = self.lookup(args)?;
                // The rewriter takes a snapshot of the script cache, so it is only made for the first command
                // that needs it.
                if command.scripting() == Scripting::No {
                    batch.add(frame, args, self.route_as(command, args, snapshot)?);
                    return Ok(());
                }
                rewriter
                    .get_or_insert_with(|| ScriptRewriter::new(snapshot(), Scope::AllNodes))
                    .route(&mut batch, command, frame, args)
            })?;
            return Ok(PlannedPipeline::of(batch, rewriter));
        };
        if commands == 0 {
            // Still parsed: bytes that only begin and end like a transaction are an error, not an empty one.
            for_each_inner_command(packed, 0, |_| Ok(()))?;
            return Ok(PlannedPipeline::Empty);
        }
        // All commands are checked before the first is rewritten: a refused transaction leaves no trace in
        // any cache.
        let mut atomic = PlannedTransaction::default();
        for_each_inner_command(packed, commands, |args| atomic.add(self, args, snapshot))?;
        let (node, scripting) = (atomic.owner()?, atomic.scripting());
        let rewriter = || ScriptRewriter::new(snapshot(), Scope::AllNodes);
        Ok(PlannedPipeline::of_atomic(
            node, packed, commands, scripting, rewriter,
        ))
    }

    /// Plans a packed pipeline for a node that the user named. Keys are not checked.
    ///
    /// # Errors
    ///
    /// When one of the commands must not be sent over a shared connection; then none is sent.
    pub(crate) fn route_pipeline_at<'r, 'p>(
        &'r self,
        node: NodeIndex,
        packed: &'p [u8],
        kind: PipelineKind,
        snapshot: CacheSnapshot<'_>,
    ) -> Result<PlannedPipeline<'r, 'p>, Error> {
        let new_rewriter = || ScriptRewriter::new(snapshot(), Scope::OneNode);
        let PipelineKind::Atomic { commands } = kind else {
            // No randomness is needed: no command here is left to any node.
            let mut batch = Batch::new(self, packed.len(), 0);
            let mut rewriter = None;
            for_each_command(packed, 0, |frame, args| {
                let routed = self.route_at(node, args)?;
                match routed.scripting {
                    Scripting::No => batch.add_at(node, frame, routed),
                    Scripting::Yes => rewriter
                        .get_or_insert_with(new_rewriter)
                        .push(&mut batch, frame, args, routed),
                }
                Ok(())
            })?;
            return Ok(PlannedPipeline::of(batch, rewriter));
        };
        // MULTI and EXEC are stateful commands, which `route_at` refuses: only those between them are routed.
        let mut scripting = Scripting::No;
        for_each_inner_command(packed, commands, |args| {
            scripting = scripting.or(self.route_at(node, args)?.scripting);
            Ok(())
        })?;
        Ok(PlannedPipeline::of_atomic(
            node,
            packed,
            commands,
            scripting,
            new_rewriter,
        ))
    }
}

impl<'r, 'p> PlannedPipeline<'r, 'p> {
    /// A batch, with the journal of its rewriter, if a command needed one.
    fn of(batch: Batch<'r, 'p>, rewriter: Option<ScriptRewriter<'p>>) -> Self {
        Self::Batch {
            batch,
            journal: rewriter.map(ScriptRewriter::into_journal),
        }
    }

    /// A transaction for `node` of `commands` commands between MULTI and EXEC, with scripts rewritten if
    /// there are any.
    fn of_atomic(
        node: NodeIndex,
        packed: &'p [u8],
        commands: usize,
        scripting: Scripting,
        rewriter: impl FnOnce() -> ScriptRewriter<'p>,
    ) -> Self {
        if scripting == Scripting::No {
            return Self::Transaction {
                node,
                request: PlannedTransaction::exchange(node, packed, commands),
                journal: None,
            };
        }
        let kind = PipelineKind::Atomic { commands };
        let Rewritten { packed, journal } = rewriter().rewrite_all(node, packed, kind);
        // The FUNCTION LOADs stand before MULTI and have replies of their own.
        let commands = journal.preloads() + commands;
        Self::Transaction {
            node,
            request: PlannedTransaction::exchange(node, &packed, commands),
            journal: Some(journal),
        }
    }
}

impl<'p> ScriptRewriter<'p> {
    /// Plans the next command of a pipeline, which concerns scripts, and adds it to `batch`.
    ///
    /// Routed by the cache as the commands before it leave it: a SCRIPT LOAD in the same pipeline counts as
    /// done. Not inlined, because it would slow down the loop for the many pipelines without scripts.
    #[inline(never)]
    pub(crate) fn route(
        &mut self,
        batch: &mut Batch<'_, 'p>,
        command: &CommandSpec,
        frame: &'p [u8],
        args: &[&[u8]],
    ) -> Result<(), Error> {
        let routed = batch.router.route_as(command, args, &|| self.cache())?;
        self.push(batch, frame, args, routed);
        Ok(())
    }

    /// Adds a routed command that concerns scripts to `batch`, as EVAL if its node may lack the script.
    pub(crate) fn push(
        &mut self,
        batch: &mut Batch<'_, 'p>,
        frame: &'p [u8],
        args: &[&[u8]],
        routed: RoutedCommand,
    ) {
        let node = match routed.plan {
            Plan::One(node) => Some(node),
            // The batch sends all commands for any node to this one, so it is the node to prepare for.
            Plan::Any => Some(batch.any_node()),
            _ => None,
        };
        // The rewriter before the batch: the journal finds the reply of a command by the number that it is
        // about to get.
        match (
            self.add(batch.commands as usize, node, frame, args),
            &routed.plan,
        ) {
            (Some(eval), Plan::Any) => batch.add_any(&eval, routed),
            (Some(eval), &Plan::One(node)) => batch.add_at(node, &eval, routed),
            // Not rewritten: the node has the script, or the command goes to all nodes as it is.
            _ => batch.add(frame, args, routed),
        }
    }
}

/// Properties of a packed pipeline for a dedicated connection, found when its commands were checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipelineSummary {
    /// How long the server may hold replies back, over all commands.
    pub(crate) blocking: BlockingTime,
    /// Number of commands, which is the number of replies.
    pub(crate) commands: usize,
    /// `Yes` if any of the commands concerns scripts.
    scripting: Scripting,
}

impl PipelineSummary {
    /// The pipeline to send in its place when it concerns scripts; `None` when it is sent unchanged.
    pub(crate) fn rewritten<'p>(
        &self,
        node: NodeIndex,
        packed: &'p [u8],
        kind: PipelineKind,
        snapshot: CacheSnapshot<'_>,
    ) -> Option<Rewritten<'p>> {
        match self.scripting {
            Scripting::No => None,
            Scripting::Yes => Some(
                ScriptRewriter::new(snapshot(), Scope::OneNode).rewrite_all(node, packed, kind),
            ),
        }
    }
}

/// Checks every command of a packed pipeline for a dedicated connection, up to the first error.
///
/// # Errors
///
/// The error of `check`, with the number of the command; or when the bytes do not parse.
pub(crate) fn check_each(
    packed: &[u8],
    mut check: impl FnMut(&[&[u8]]) -> Result<RoutedCommand, Error>,
) -> Result<PipelineSummary, Error> {
    let mut checked = PipelineSummary {
        blocking: BlockingTime::None,
        commands: 0,
        scripting: Scripting::No,
    };
    for_each_command(packed, 0, |_, args| {
        let routed = check(args)?;
        // A server runs the commands of one connection one after another, so their blocking times add up.
        checked.blocking = checked.blocking.then(routed.blocking);
        checked.commands += 1;
        checked.scripting = checked.scripting.or(routed.scripting);
        Ok(())
    })?;
    Ok(checked)
}

/// The kind of a pipeline packed by redis-rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PipelineKind {
    /// MULTI, this number of commands, EXEC: `redis::Pipeline::atomic`.
    Atomic { commands: usize },
    /// Independent commands, each with its own reply.
    Plain,
}

impl PipelineKind {
    /// The kind of a pipeline that was not packed yet.
    pub(crate) fn of_pipeline(pipeline: &redis::Pipeline) -> Self {
        match pipeline.is_transaction() {
            true => Self::Atomic {
                commands: pipeline.len(),
            },
            false => Self::Plain,
        }
    }

    /// Recognizes the kind by what `redis::Pipeline` passes along: it skips `offset` replies and returns
    /// `count`.
    ///
    /// An atomic pipeline skips the replies to MULTI and to each command (QUEUED), and returns that to EXEC.
    /// The bytes alone would not do: a value may end in the bytes of EXEC, so the number of commands is
    /// checked when they are parsed.
    pub(crate) fn of(packed: &[u8], offset: usize, count: usize) -> Self {
        use crate::resp::{EXEC, MULTI};
        match offset > 0 && count == 1 && packed.starts_with(MULTI) && packed.ends_with(EXEC) {
            true => Self::Atomic {
                commands: offset - 1,
            },
            false => Self::Plain,
        }
    }
}

/// Turns the replies of a dedicated connection to a pipeline into the result for the user.
///
/// # Errors
///
/// When the connection failed. A plain pipeline then fails as a whole, as over redis-rs' own connections,
/// with the error of the first command without a reply.
pub(crate) fn finish_private(
    node: &str,
    kind: PipelineKind,
    answers: Answers,
) -> Result<Vec<Value>, Error> {
    if kind != PipelineKind::Plain {
        return Ok(vec![PlannedTransaction::finish(node, answers)?]);
    }
    let Answers { values, failure } = answers;
    match failure {
        // As a write, whatever the command was: it may have depended on a transaction or a WATCH before it.
        Some(failure) => Err(failure.error(node, values.len(), Access::Write)),
        None => Ok(values),
    }
}

/// Selects the replies that `redis::Pipeline` expects: `count` of them after the first `offset`.
///
/// For an atomic pipeline `values` is the reply to EXEC alone, and is returned unchanged.
pub(crate) fn select_replies(
    mut values: Vec<Value>,
    kind: PipelineKind,
    offset: usize,
    count: usize,
) -> Vec<Value> {
    match kind {
        PipelineKind::Atomic { .. } => values,
        PipelineKind::Plain if offset == 0 && count == values.len() => values,
        // Bounded on both ends: the caller's numbers need not fit the replies.
        PipelineKind::Plain => {
            values.truncate(offset + count);
            values.drain(..offset.min(values.len()));
            values
        }
    }
}

/// Parses one packed command into its arguments.
///
/// # Errors
///
/// [`Unroutable`](ErrorKind::Unroutable) when the bytes do not hold exactly one command: a second one would
/// be sent to the node of the first, and its reply would be taken for the reply to the next request.
pub(crate) fn parse_one(packed: &[u8]) -> Result<Args<'_>, Error> {
    let mut args = Args::new();
    let mut commands = PackedCommands::new(packed);
    match commands.next(&mut args) {
        Ok(Some(frame)) if frame.len() == packed.len() => Ok(args),
        Ok(Some(_)) => Err(unreadable("it contains more than one command")),
        Ok(None) => Err(unreadable("it is empty")),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

/// Calls `visit` with the bytes and the arguments of every command, up to the first error.
///
/// The first `before` commands were not written by the user (MULTI), so error messages do not count them.
fn for_each_command<'p>(
    packed: &'p [u8],
    before: usize,
    mut visit: impl FnMut(&'p [u8], &[&'p [u8]]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut args = Args::new();
    let mut commands = PackedCommands::new(packed);
    let mut number = 0_usize;
    while let Some(frame) = commands
        .next(&mut args)
        .map_err(|error| unreadable(&error.to_string()))?
    {
        visit(frame, &args).map_err(|error| error.at_command(number.saturating_sub(before)))?;
        number += 1;
    }
    Ok(())
}

/// Calls `visit` with the arguments of every command between MULTI and EXEC.
///
/// # Errors
///
/// When there are not exactly `commands` of them, or the last command is not EXEC. If such bytes were sent,
/// the connection would stay inside the transaction, or deliver one reply too many, and its next user would
/// receive the wrong replies.
fn for_each_inner_command<'p>(
    packed: &'p [u8],
    commands: usize,
    mut visit: impl FnMut(&[&'p [u8]]) -> Result<(), Error>,
) -> Result<(), Error> {
    let misfit =
        || unreadable("the number of commands between MULTI and EXEC does not match the pipeline");
    let mut number = 0;
    for_each_command(packed, 1, |_, args| {
        number += 1;
        match number {
            // MULTI, whose bytes `PipelineKind::of` has compared.
            1 => Ok(()),
            last if last < commands + 2 => visit(args),
            last if last == commands + 2 && args[..] == [b"EXEC"] => Ok(()),
            _ => Err(misfit()),
        }
    })?;
    match number == commands + 2 {
        true => Ok(()),
        false => Err(misfit()),
    }
}

/// The error of redis-rs' own connections for a pipeline without commands.
pub(crate) fn empty_pipeline() -> redis::RedisError {
    (redis::ErrorKind::Client, "empty command").into()
}

/// Error for bytes that are not the packed command or pipeline that they should be.
fn unreadable(why: &str) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!("the packed request is malformed: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_that_looks_like_exec_does_not_end_a_transaction() {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("MULTI")
            .cmd("SET")
            .arg("k")
            .arg("*1\r\n$4\r\nEXEC");
        let packed = pipeline.get_packed_pipeline();
        let kind = PipelineKind::of(&packed, 1, 1);
        assert_eq!(
            kind,
            PipelineKind::Atomic { commands: 0 },
            "by its last bytes"
        );
        for commands in 0..3 {
            assert!(for_each_inner_command(&packed, commands, |_| Ok(())).is_err());
        }
    }
}
