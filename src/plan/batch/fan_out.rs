//! [`FanOut`]: a command with more than one part, and its parts merged into one reply or one error.

use redis::Value;

use crate::command::{Access, Args, Merge, PackedCommands, Partial};
use crate::error::{Error, ErrorKind, PartOutcome, PartStatus, Retry};
use crate::partition::NodeIndex;
use crate::plan::batch::Batch;
use crate::plan::merge::{self, Answer, Question};
use crate::plan::partial::{self, is_unreachable};
use crate::plan::scan::CursorStep;
use crate::plan::{Plan, Router};

/// A command whose reply is made from those of several nodes, or rewritten: [`Plan::Split`], [`Plan::All`],
/// [`Plan::Scan`].
#[derive(Debug)]
pub(in crate::plan) struct FanOut<'f> {
    /// Number of the command within the batch.
    pub(in crate::plan) command: u32,
    /// Its plan.
    pub(in crate::plan) plan: Plan,
    /// The packed command, for its name and keys: merges and errors need them.
    pub(in crate::plan) frame: &'f [u8],
    /// Whether the replies of the reachable nodes may stand for all nodes.
    pub(in crate::plan) partial: Partial,
}

impl Batch<'_, '_> {
    /// Merges the outcomes of all parts of a fan-out into one reply.
    ///
    /// A failed part is excused when the merge rule expects some nodes to fail, or when its node is
    /// unreachable and the reply may be partial. At least one part must have succeeded; only a scan may skip
    /// a node that is its sole part.
    ///
    /// # Errors
    ///
    /// When a part failed that is not excused, or all did.
    pub(in crate::plan) fn merge(
        &self,
        fan_out: &FanOut<'_>,
        parts: Vec<PartReply>,
        entropy: u64,
    ) -> Result<Value, Error> {
        // The usual case first, in few steps: in a cluster there may be a part for each key.
        if let Plan::Split(split) = &fan_out.plan
            && split.merge == Merge::KeyOrder
            && parts.iter().all(|part| is_good(&part.outcome))
        {
            let answers = split.parts().zip(parts).map(|(part, reply)| {
                let node = self.router.name(part.node);
                let value = reply.outcome.unwrap_or_default();
                (Answer { node, value }, part.keys)
            });
            return merge::by_key(split.key_count(), answers);
        }
        let outcomes = PartReply::settle(parts);
        let nodes: Vec<NodeIndex> = fan_out.nodes(self.router).collect();
        let rule = fan_out.merge();
        let good = outcomes.iter().filter(|outcome| is_good(outcome)).count();
        let excused = |outcome: &Outcome| {
            is_good(outcome)
                || is_excused(rule, outcome)
                || partial::is_excused(fan_out.partial, outcome)
        };
        let all_excused = outcomes.iter().all(excused);
        // A scan asks one node per step, so an unreachable node is skipped here, not merged away.
        if let (true, true, Some(step)) = (all_excused, good == 0, fan_out.scan_step())
            && let Some(answer) = step.skip(self.router)
        {
            return Ok(answer);
        }
        if good == 0 || !all_excused {
            return Err(self.failed(fan_out, &nodes, outcomes, good));
        }
        let (answers, mut missing) = self.reachable(rule, &nodes, outcomes);
        if let Plan::All(_) = fan_out.plan {
            // Not asked, and missing all the same.
            let out = self.router.topology().out().iter();
            missing.extend(out);
            missing.sort_unstable();
        }
        let missing: Vec<&str> = missing
            .into_iter()
            .map(|node| self.router.name(node))
            .collect();
        match (&fan_out.plan, fan_out.scan_step()) {
            (Plan::Split(split), _) if split.merge == Merge::KeyOrder => {
                let keys = split.parts().map(|part| part.keys);
                merge::by_key(split.key_count(), answers.into_iter().zip(keys))
            }
            (_, Some(step)) => {
                let value = answers.into_iter().next().map(|answer| answer.value);
                step.after_reply(value.unwrap_or_default(), self.router)
            }
            _ => {
                let question = Question {
                    args: &fan_out.args(),
                    missing: &missing,
                    // Each command of a pipeline needs other bits, or all RANDOMKEYs would choose the same
                    // node.
                    entropy: entropy.rotate_left(fan_out.command.wrapping_mul(7)),
                };
                merge::merge(rule, question, answers)
            }
        }
    }

    /// The replies to merge, and the unreachable nodes.
    ///
    /// Failed parts are left out, except where the merged reply lists texts by node: there the error stands
    /// in the place of the text.
    fn reachable<'n>(
        &'n self,
        rule: Merge,
        nodes: &[NodeIndex],
        outcomes: Vec<Outcome>,
    ) -> (Vec<Answer<'n>>, Vec<NodeIndex>) {
        let mut answers = Vec::with_capacity(nodes.len());
        let mut unreachable = Vec::new();
        for (&node, outcome) in nodes.iter().zip(outcomes) {
            if is_unreachable(&outcome) {
                unreachable.push(node);
            }
            let node = self.router.name(node);
            // Failures that are left out here were excused by the caller.
            let value = match outcome {
                Ok(Value::ServerError(_)) | Err(_) if rule != Merge::Texts => continue,
                Ok(value) => value,
                Err(error) => missing(error, node).to_reply(),
            };
            answers.push(Answer { node, value });
        }
        (answers, unreachable)
    }

    /// The error for a fan-out with at least one failed part; `good` is the number of parts that succeeded.
    ///
    /// If no part succeeded and all failed alike, it is the first error, so that its kind is kept; otherwise
    /// [`Partial`](ErrorKind::Partial). Either lists all parts; those of one node that ended alike are one, since in a
    /// cluster a node has a part for each slot.
    fn failed(
        &self,
        fan_out: &FanOut<'_>,
        nodes: &[NodeIndex],
        outcomes: Vec<Outcome>,
        good: usize,
    ) -> Error {
        let args = fan_out.args();
        let mut errors = Vec::new();
        let mut parts = Vec::with_capacity(nodes.len());
        for (number, (outcome, &node)) in outcomes.into_iter().zip(nodes).enumerate() {
            let name = self.router.name(node);
            let error = match outcome {
                Ok(Value::ServerError(error)) => Error::from_server(&error, Some(name)),
                Ok(value) => {
                    parts.push(EndedPart::done(number, node, value));
                    continue;
                }
                Err(error) => missing(error, name),
            };
            parts.push(EndedPart::failed(number, node, &error));
            errors.push(error);
        }
        // Stable: parts that ended alike stay in their order.
        parts.sort_by(|a, b| a.group().cmp(&b.group()));
        let groups = parts.chunk_by_mut(|a, b| a.group() == b.group());
        let parts: Vec<PartOutcome> = groups
            .map(|group| self.outcome(fan_out, group, &args))
            .collect();
        // Repeating the command also repeats the parts that succeeded, which is safe only for reads.
        let retry =
            match errors.iter().all(Error::is_retryable) && (good == 0 || self.only_reads(&args)) {
                true => Retry::Safe,
                false => Retry::Unsafe,
            };
        // Prefer a reply that is missing, and any other error to NOTBUSY, which only means that this node runs
        // no script.
        let has_reply = |error: &Error| error.missing_reply().is_none();
        let rank = |error: &Error| (has_reply(error), error.has_server_code("NOTBUSY"));
        let first = errors.into_iter().min_by_key(rank);
        let io = first.as_ref().and_then(Error::missing_reply);
        match first {
            // An error of a fan-out with a single part reads like that of a command for one node.
            Some(error) if good == 0 && parts.len() == 1 => error.with_parts(parts, retry),
            Some(error) if good == 0 && same_status(&parts) => error.with_parts(parts, retry),
            _ => Error::partial(&fan_out.name(&args), parts, retry).with_io(io),
        }
    }

    /// The outcome of parts of one node that ended alike, as one.
    fn outcome(
        &self,
        fan_out: &FanOut<'_>,
        group: &mut [EndedPart],
        args: &[&[u8]],
    ) -> PartOutcome {
        let name = self.router.name(group[0].node);
        let (status, reason) = (group[0].status, group[0].reason.take());
        let mut keys: Vec<u32> = Vec::new();
        keys.extend(
            group
                .iter()
                .flat_map(|part| fan_out.key_numbers(part.number)),
        );
        let values = group.iter_mut().map(|part| part.value.take());
        let mut values: Vec<Value> = values.flatten().collect();
        let value = match values.len() {
            0 | 1 => values.pop(),
            _ => {
                let question = Question {
                    args,
                    missing: &[],
                    entropy: 0,
                };
                let answers = values.into_iter().map(|value| Answer { node: name, value });
                merge::merge(fan_out.merge(), question, answers.collect()).ok()
            }
        };
        // Back in the order of the request, which the parts have lost.
        let value = match value {
            Some(Value::Array(items)) if items.len() == keys.len() => {
                let mut pairs: Vec<(u32, Value)> = keys.iter().copied().zip(items).collect();
                pairs.sort_by_key(|(key, _)| *key);
                Some(Value::Array(
                    pairs.into_iter().map(|(_, item)| item).collect(),
                ))
            }
            value => value,
        };
        keys.sort_unstable();
        PartOutcome::new(name, fan_out.keys(&keys, args), status, reason).with_value(value)
    }

    /// True if the command is a read, so that the parts that succeeded may be repeated.
    fn only_reads(&self, args: &[&[u8]]) -> bool {
        let command = self.router.lookup(args);
        command.is_ok_and(|command| command.access() == Access::Read)
    }
}

impl FanOut<'_> {
    /// The rule by which the replies become one.
    pub(in crate::plan) fn merge(&self) -> Merge {
        match &self.plan {
            Plan::All(merge) => *merge,
            Plan::Split(split) => split.merge,
            Plan::One(_) | Plan::Any | Plan::Scan { .. } | Plan::ScanSlots { .. } => {
                Merge::AllSucceeded
            }
        }
    }

    /// The step of a scan, if the command is one.
    pub(in crate::plan) fn scan_step(&self) -> Option<CursorStep> {
        match self.plan {
            Plan::Scan {
                node,
                answered,
                is_second_pass,
                ..
            } => Some(CursorStep {
                node,
                answered,
                is_second_pass,
            }),
            _ => None,
        }
    }

    /// The numbers of the parts.
    pub(in crate::plan) fn part_count(&self, router: &Router) -> std::ops::Range<usize> {
        0..self.nodes(router).count()
    }

    /// The nodes of the parts, in the order of their numbers.
    pub(in crate::plan) fn nodes<'s>(
        &'s self,
        router: &'s Router,
    ) -> Box<dyn Iterator<Item = NodeIndex> + 's> {
        match &self.plan {
            Plan::All(_) => Box::new(router.topology().living()),
            Plan::Split(split) => Box::new(split.parts().map(|part| part.node)),
            Plan::Scan { node, .. } if router.topology().out().contains(*node) => {
                Box::new(std::iter::empty())
            }
            Plan::One(node) | Plan::Scan { node, .. } => Box::new(std::iter::once(*node)),
            // Sent by an operation of its own.
            Plan::ScanSlots { .. } => Box::new(std::iter::empty()),
            Plan::Any => Box::new(std::iter::empty()),
        }
    }

    /// The arguments, parsed again. They parsed when the command was planned, so an error is impossible here.
    pub(in crate::plan) fn args(&self) -> Args<'_> {
        let mut args = Args::new();
        let _ = PackedCommands::new(self.frame).next(&mut args);
        args
    }

    /// The name of the command in upper case, for errors.
    fn name(&self, args: &[&[u8]]) -> String {
        args.first()
            .map(|name| name.escape_ascii().to_string().to_ascii_uppercase())
            .unwrap_or_default()
    }

    /// Numbers of the keys of one part; none for commands that are not split.
    fn key_numbers(&self, part: usize) -> &[u32] {
        match &self.plan {
            Plan::Split(split) => split.parts.get(part).map_or(&[], |part| part.keys),
            _ => &[],
        }
    }

    /// The keys with these numbers.
    fn keys(&self, numbers: &[u32], args: &[&[u8]]) -> Vec<Vec<u8>> {
        let Plan::Split(split) = &self.plan else {
            return Vec::new();
        };
        let keys = numbers
            .iter()
            .filter_map(|&key| args.get(split.position(key)));
        keys.map(|key| key.to_vec()).collect()
    }
}

/// How one part ended, for the error of its fan-out.
struct EndedPart {
    /// Number of the part.
    number: usize,
    node: NodeIndex,
    status: PartStatus,
    /// The reason if it was not done.
    reason: Option<String>,
    /// The reply if it was done.
    value: Option<Value>,
}

impl EndedPart {
    /// A part that was done.
    fn done(number: usize, node: NodeIndex, value: Value) -> Self {
        Self {
            number,
            node,
            status: PartStatus::Done,
            reason: None,
            value: Some(value),
        }
    }

    /// A part that was not done, or nobody knows.
    fn failed(number: usize, node: NodeIndex, error: &Error) -> Self {
        Self {
            number,
            node,
            status: match error.kind() {
                ErrorKind::Unknown => PartStatus::Unknown,
                _ => PartStatus::Failed,
            },
            reason: Some(error.to_string()),
            value: None,
        }
    }

    /// What parts have in common that are one in the error.
    fn group(&self) -> (NodeIndex, u8, Option<&str>) {
        (self.node, self.status as u8, self.reason.as_deref())
    }
}

/// The reply to one part, which may be an error reply; or the error in its place. `Err(None)` stands for a
/// part without any result.
pub(in crate::plan) type Outcome = Result<Value, Option<Error>>;

/// The outcome of one part of a fan-out.
#[derive(Debug)]
pub(in crate::plan) struct PartReply {
    /// The reply, or the error in its place.
    pub(in crate::plan) outcome: Outcome,
    /// The reply to use instead of a failure, if the part may be answered as if its keys did not exist.
    pub(in crate::plan) miss: Option<Value>,
}

impl From<Outcome> for PartReply {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            miss: None,
        }
    }
}

impl PartReply {
    /// The outcomes to merge. Parts are answered as if their keys did not exist only if that completes the
    /// reply: in the error of a command that fails all the same, they have failed.
    fn settle(parts: Vec<Self>) -> Vec<Outcome> {
        let is_complete = parts
            .iter()
            .all(|part| is_good(&part.outcome) || part.miss.is_some());
        parts
            .into_iter()
            .map(|part| match part.miss {
                Some(value) if is_complete => Ok(value),
                _ => part.outcome,
            })
            .collect()
    }
}

/// True for a reply that is not an error.
fn is_good(outcome: &Outcome) -> bool {
    !matches!(outcome, Ok(Value::ServerError(_)) | Err(_))
}

/// True if the merge rule accepts this failure of one node as long as another node succeeds.
fn is_excused(rule: Merge, outcome: &Outcome) -> bool {
    match rule {
        Merge::OneSucceeded => true,
        // An error reply is listed among the texts; a missing reply is not.
        Merge::Texts => outcome.is_ok(),
        _ => false,
    }
}

/// True if all parts ended in the same way.
fn same_status(parts: &[PartOutcome]) -> bool {
    parts
        .windows(2)
        .all(|pair| pair[0].status == pair[1].status)
}

/// The error of a request, or one that stands in for a result that the executor failed to deliver.
///
/// Executors return a reply or a failure for every request. If one were forgotten, it must not look like a
/// reply, and since nothing is known about it, it counts as possibly applied.
pub(in crate::plan) fn missing(error: Option<Error>, node: &str) -> Error {
    error.unwrap_or_else(|| {
        Error::new(
            ErrorKind::Unknown,
            format!(
                "node {node}: the reply is missing; the command may or may not have been applied; check before you repeat \
                 it"
            ),
        )
        .at_node(node)
    })
}
