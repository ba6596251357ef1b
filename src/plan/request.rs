//! Requests in the wire format, as the handles get them, made ready for an executor.

use redis::Value;

use crate::command::BlockingTime;
use crate::command::{Access, Args, CommandSpec, PackedCommands, Scripting};
use crate::error::{Error, ErrorKind};
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, Batch, CacheSnapshot, NodeRequest, Plan, PlannedTransaction, Rewritten, RoutedCommand,
    Router, Scope, ScriptJournal, ScriptRewriter, with_node_name,
};

/// What a packed pipeline becomes.
#[derive(Debug)]
pub(crate) enum PlannedPipeline<'r, 'p> {
    /// MULTI and EXEC with nothing between them.
    Empty,
    /// MULTI ... EXEC for one node. The journal, here and below, is of the scripts in it.
    Transaction {
        node: NodeIndex,
        request: NodeRequest,
        journal: Option<ScriptJournal<'p>>,
    },
    /// Commands that go to their own nodes.
    Batch {
        batch: Batch<'r, 'p>,
        journal: Option<ScriptJournal<'p>>,
    },
}

impl Router {
    /// Plans a packed pipeline. `entropy` is any number: see [`Batch::new`].
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
            for_each_inner_command(packed, 0, |_| Ok(()))?;
            return Ok(PlannedPipeline::Empty);
        }
        let mut atomic = PlannedTransaction::default();
        for_each_inner_command(packed, commands, |args| atomic.add(self, args, snapshot))?;
        let (node, scripting) = (atomic.owner()?, atomic.scripting());
        let rewriter = || ScriptRewriter::new(snapshot(), Scope::AllNodes);
        Ok(PlannedPipeline::of_atomic(
            node, packed, commands, scripting, rewriter,
        ))
    }

    /// Plans a packed pipeline that goes to `node` because the user says so.
    pub(crate) fn route_pipeline_at<'r, 'p>(
        &'r self,
        node: NodeIndex,
        packed: &'p [u8],
        kind: PipelineKind,
        snapshot: CacheSnapshot<'_>,
    ) -> Result<PlannedPipeline<'r, 'p>, Error> {
        let new_rewriter = || ScriptRewriter::new(snapshot(), Scope::OneNode);
        let PipelineKind::Atomic { commands } = kind else {
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
    fn of(batch: Batch<'r, 'p>, rewriter: Option<ScriptRewriter<'p>>) -> Self {
        Self::Batch {
            batch,
            journal: rewriter.map(ScriptRewriter::into_journal),
        }
    }

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
        let commands = journal.preloads() + commands;
        Self::Transaction {
            node,
            request: PlannedTransaction::exchange(node, &packed, commands),
            journal: Some(journal),
        }
    }
}

impl<'p> ScriptRewriter<'p> {
    /// Plans the next command, which concerns scripts, by what is known when it comes, and adds it to a batch.
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

    /// Adds it to a batch.
    pub(crate) fn push(
        &mut self,
        batch: &mut Batch<'_, 'p>,
        frame: &'p [u8],
        args: &[&[u8]],
        routed: RoutedCommand,
    ) {
        let node = match routed.plan {
            Plan::One(node) => Some(node),
            Plan::Any => Some(batch.any_node()),
            _ => None,
        };
        match (
            self.add(batch.commands as usize, node, frame, args),
            &routed.plan,
        ) {
            (Some(eval), Plan::Any) => batch.add_any(&eval, routed),
            (Some(eval), &Plan::One(node)) => batch.add_at(node, &eval, routed),
            _ => batch.add(frame, args, routed),
        }
    }
}

/// A packed pipeline for a private connection, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipelineSummary {
    /// How long it may take.
    pub(crate) blocking: BlockingTime,
    /// How many answers come.
    pub(crate) commands: usize,
    scripting: Scripting,
}

impl PipelineSummary {
    /// What is sent in its place, when scripts are in it.
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

/// Checks a packed pipeline for a private connection.
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
        checked.blocking = checked.blocking.then(routed.blocking);
        checked.commands += 1;
        checked.scripting = checked.scripting.or(routed.scripting);
        Ok(())
    })?;
    Ok(checked)
}

/// What kind of pipeline redis-rs has packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PipelineKind {
    /// MULTI, so many commands, EXEC.
    Atomic { commands: usize },
    /// Commands one after another.
    Plain,
}

impl PipelineKind {
    /// Tells it as `redis::Pipeline` does: `offset` replies are left out, `count` are wanted.
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

/// What a private connection answered to a pipeline.
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
        Some(failure) => Err(failure.error(node, values.len(), Access::Write)),
        None => Ok(values
            .into_iter()
            .map(|value| with_node_name(value, node))
            .collect()),
    }
}

/// The replies that `redis::Pipeline` wants to see.
pub(crate) fn select_replies(
    mut values: Vec<Value>,
    kind: PipelineKind,
    offset: usize,
    count: usize,
) -> Vec<Value> {
    match kind {
        PipelineKind::Atomic { .. } => values,
        PipelineKind::Plain if offset == 0 && count == values.len() => values,
        PipelineKind::Plain => {
            values.truncate(offset + count);
            values.drain(..offset.min(values.len()));
            values
        }
    }
}

/// The arguments of one packed request.
pub(crate) fn parse_one(packed: &[u8]) -> Result<Args<'_>, Error> {
    let mut args = Args::new();
    let mut commands = PackedCommands::new(packed);
    match commands.next(&mut args) {
        Ok(Some(frame)) if frame.len() == packed.len() => Ok(args),
        Ok(Some(_)) => Err(unreadable("it holds more than one command")),
        Ok(None) => Err(unreadable("it is empty")),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

/// Calls `visit` with the bytes and the arguments of every command. `before` of them at the beginning are not the user's,
/// and do not count in messages.
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

/// Calls `visit` with the arguments of every command between MULTI and EXEC, which are where they must be: a connection
/// that is left in a transaction, or with an answer too many, would lead its next user astray.
fn for_each_inner_command<'p>(
    packed: &'p [u8],
    commands: usize,
    mut visit: impl FnMut(&[&'p [u8]]) -> Result<(), Error>,
) -> Result<(), Error> {
    let misfit =
        || unreadable("there are not as many commands between MULTI and EXEC as there should be");
    let mut number = 0;
    for_each_command(packed, 1, |_, args| {
        number += 1;
        match number {
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

/// What redis-rs' connections say of a pipeline without commands.
pub(crate) fn empty_pipeline() -> redis::RedisError {
    (redis::ErrorKind::Client, "empty command").into()
}

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
