//! Many commands as one request per node, and the answers back in the order asked.

mod node_request;

use redis::Value;

use crate::command::BlockingTime;
use crate::command::{Access, Args, Merge, PackedCommands};
use crate::error::{Error, ErrorKind, PartOutcome, PartStatus, Retry, named_server_error};
use crate::partition::NodeIndex;
use crate::plan::merge::{self, Answer, Question};
use crate::plan::partial::is_unreachable;
use crate::plan::routed::{RoutedCommand, WaitScope};
use crate::plan::scan::CursorStep;
use crate::plan::{Exchange, Plan, ReplyBuffer, Router, Split};

pub(crate) use node_request::{NodeRequest, ReplySlot};

pub(in crate::plan) use node_request::WHOLE;

/// A node's buffer begins with no less than this, or all of the bytes.
const SHARE_BYTES_MIN: usize = 128;

/// Goes before WAIT. A server waits for what the asking connection wrote, and a connection of a pool may have written
/// nothing; a message that nobody listens to is replicated like a write and touches no key, so that the connection's mark
/// stands behind every write that was acknowledged before, by whichever connection.
const WAIT_BARRIER: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n$19\r\nredis-sharding:wait\r\n$0\r\n\r\n";

/// Commands on their way, grouped by node.
#[derive(Debug)]
pub(crate) struct Batch<'r, 'f> {
    pub(in crate::plan) router: &'r Router,
    /// Bytes that most nodes' requests fit into, so that their buffers need not grow.
    bytes_per_node: usize,
    /// Where commands go that any node may answer.
    any: NodeIndex,
    /// In node order; nodes without a request have none.
    requests: Vec<Option<NodeRequest>>,
    pub(in crate::plan) fan_outs: Vec<FanOut<'f>>,
    pub(in crate::plan) commands: u32,
    blocking: BlockingTime,
}

/// A command whose answers come from several nodes, or need another touch.
#[derive(Debug)]
pub(in crate::plan) struct FanOut<'f> {
    pub(in crate::plan) command: u32,
    pub(in crate::plan) plan: Plan,
    pub(in crate::plan) frame: &'f [u8],
    /// Whether the nodes that can be reached answer for all.
    pub(in crate::plan) partial: bool,
}

impl<'r, 'f> Batch<'r, 'f> {
    /// For requests of so many bytes altogether. `entropy` is any number: it chooses the node for what any node may answer.
    pub(crate) fn new(router: &'r Router, bytes: usize, entropy: u64) -> Self {
        let nodes = router.topology().nodes().len();
        Self {
            router,
            bytes_per_node: bytes.min(bytes / nodes * 5 / 4 + SHARE_BYTES_MIN),
            any: router.random_node(entropy),
            requests: (0..nodes).map(|_| None).collect(),
            fan_outs: Vec::new(),
            commands: 0,
            blocking: BlockingTime::None,
        }
    }

    /// Adds one command: its packed bytes, its arguments, its plan.
    #[inline]
    pub(crate) fn add(&mut self, frame: &'f [u8], args: &[&[u8]], routed: RoutedCommand) {
        match routed.plan {
            Plan::One(node) => {
                self.check_owner(node, args);
                self.add_at(node, frame, routed);
            }
            Plan::Any => self.add_any(frame, routed),
            _ => self.add_fan_out(frame, args, routed),
        }
    }

    /// Adds one command that any node may answer.
    pub(crate) fn add_any(&mut self, frame: &[u8], routed: RoutedCommand) {
        let slot = ReplySlot::whole(self.commands, routed.access).anywhere();
        self.add_whole(self.any, slot, frame, routed.blocking);
    }

    /// Where commands go that any node may answer.
    pub(crate) fn any_node(&self) -> NodeIndex {
        self.any
    }

    fn add_fan_out(&mut self, frame: &'f [u8], args: &[&[u8]], routed: RoutedCommand) {
        let command = self.commands;
        self.commands += 1;
        self.blocking = self.blocking.then(routed.blocking);
        let access = routed.access;
        match &routed.plan {
            Plan::One(_) | Plan::Any => debug_assert!(false, "these are no fan-outs"),
            Plan::All(_) => {
                for node in self.router.topology().indices() {
                    let slot = ReplySlot::part(command, node.as_u16(), access);
                    if routed.wait_scope == WaitScope::AllWrites {
                        self.push(node, slot, |out| out.extend_from_slice(WAIT_BARRIER));
                    }
                    self.push(node, slot, |out| out.extend_from_slice(frame));
                }
            }
            Plan::Split(split) => {
                for (number, part) in (0..).zip(&split.parts) {
                    debug_assert!(part.keys.iter().all(|&key| {
                        self.router.topology().locate(args[split.position(key)]) == Some(part.node)
                    }));
                    let slot = ReplySlot::part(command, number, access);
                    self.push(part.node, slot, |out| split.write_part(part, args, out));
                }
            }
            &Plan::Scan { node, cursor, .. } => {
                let slot = ReplySlot::part(command, 0, access);
                self.push(node, slot, |out| write_scan(args, cursor, out));
            }
        }
        self.fan_outs.push(FanOut {
            command,
            plan: routed.plan,
            frame,
            partial: routed.partial,
        });
    }

    /// Adds one command that goes to `node` because the user says so.
    #[inline]
    pub(crate) fn add_at(&mut self, node: NodeIndex, frame: &[u8], routed: RoutedCommand) {
        let slot = ReplySlot::whole(self.commands, routed.access);
        self.add_whole(node, slot, frame, routed.blocking);
    }

    #[inline]
    fn add_whole(
        &mut self,
        node: NodeIndex,
        slot: ReplySlot,
        frame: &[u8],
        blocking: BlockingTime,
    ) {
        self.commands += 1;
        self.blocking = self.blocking.then(blocking);
        self.push(node, slot, |out| out.extend_from_slice(frame));
    }

    /// What each node gets, in node order, ready to be sent.
    pub(crate) fn exchange<R: ReplyBuffer>(&mut self) -> Exchange<R> {
        let requests = std::mem::take(&mut self.requests);
        let nodes = requests.len();
        Exchange::new(requests.into_iter().flatten(), self.blocking, nodes)
    }

    /// Puts the replies in the order of the commands. What went wrong is a server error in its place, with a code word
    /// of ours where the server said nothing. `entropy` is any number, for commands that leave their reply to chance.
    pub(crate) fn finish(&self, exchange: Exchange, entropy: u64) -> Vec<Value> {
        let (mut values, outcomes) = self.collect(exchange);
        for (fan_out, outcomes) in self.fan_outs.iter().zip(outcomes) {
            values[fan_out.command as usize] = self
                .merge(fan_out, outcomes, entropy)
                .unwrap_or_else(|error| error.to_reply());
        }
        values
    }

    /// The reply of the only command in the batch.
    pub(crate) fn finish_one(&self, exchange: Exchange, entropy: u64) -> Result<Value, Error> {
        let (mut values, mut outcomes) = self.collect(exchange);
        match (self.fan_outs.first(), outcomes.pop()) {
            (Some(fan_out), Some(outcomes)) => self.merge(fan_out, outcomes, entropy),
            _ => Ok(values.pop().unwrap_or_default()),
        }
    }

    /// Before a part is sent, the placement is asked again.
    fn check_owner(&self, node: NodeIndex, args: &[&[u8]]) {
        if cfg!(debug_assertions)
            && let Ok(command) = self.router.lookup(args)
            && let Some(key) = command.sole_key().and_then(|at| args.get(at))
            && command.route() == crate::command::Route::Keys
        {
            debug_assert_eq!(self.router.topology().locate(key), Some(node));
        }
    }

    #[inline]
    fn push(&mut self, node: NodeIndex, slot: ReplySlot, write: impl FnOnce(&mut Vec<u8>)) {
        match &mut self.requests[node.get()] {
            Some(exchange) => exchange.push(slot, write),
            empty => {
                let mut exchange = NodeRequest::new(node);
                exchange.packed.reserve(self.bytes_per_node);
                exchange.push(slot, write);
                // As many slots as there is room for requests like the first.
                exchange
                    .slots
                    .reserve(self.bytes_per_node / exchange.packed.len());
                *empty = Some(exchange);
            }
        }
    }

    /// Sorts answers into the places of whole commands, and the outcomes of spread ones.
    fn collect(&self, exchange: Exchange) -> (Vec<Value>, Vec<Vec<Outcome>>) {
        let mut values = Vec::new();
        values.resize_with(self.commands as usize, || Value::Nil);
        let mut outcomes: Vec<Vec<Outcome>> = self
            .fan_outs
            .iter()
            .map(|spread| spread.part_count(self.router).map(|_| Err(None)).collect())
            .collect();
        for (exchange, answers) in exchange.into_parts() {
            let name = self.router.name(exchange.node);
            let answered = answers.values.len();
            for (slot, value) in exchange.slots.iter().zip(answers.values) {
                let value = with_node_name(value, name);
                match slot.part {
                    WHOLE => values[slot.command as usize] = value,
                    _ => self.record(&mut outcomes, *slot, Ok(value)),
                }
            }
            for (number, slot) in exchange.slots.iter().enumerate().skip(answered) {
                let failure = answers.failure.as_ref();
                let error = failure.map(|failure| match slot.part {
                    WHOLE if number > answered => failure.error_again(name, number, slot.access),
                    _ => failure.error(name, number, slot.access),
                });
                match slot.part {
                    WHOLE => values[slot.command as usize] = missing(error, name).to_reply(),
                    _ => self.record(&mut outcomes, *slot, Err(error)),
                }
            }
        }
        (values, outcomes)
    }

    /// Notes what came of one part of a spread command.
    fn record(&self, outcomes: &mut [Vec<Outcome>], slot: ReplySlot, outcome: Outcome) {
        let spread = self
            .fan_outs
            .partition_point(|spread| spread.command < slot.command);
        let place = &mut outcomes[spread][slot.part as usize];
        // What was refused stays refused, whatever the request behind it says.
        if !matches!(place, Ok(Value::ServerError(_))) {
            *place = outcome;
        }
    }

    pub(in crate::plan) fn merge(
        &self,
        spread: &FanOut<'_>,
        outcomes: Vec<Outcome>,
        entropy: u64,
    ) -> Result<Value, Error> {
        let nodes: Vec<NodeIndex> = spread.nodes(self.router).collect();
        let rule = spread.merge();
        let good = outcomes.iter().filter(|outcome| is_good(outcome)).count();
        let excused = |outcome: &Outcome| {
            is_good(outcome)
                || is_excused(rule, outcome)
                || spread.partial && is_unreachable(outcome)
        };
        let all_excused = outcomes.iter().all(excused);
        if let (true, true, Some(step)) = (all_excused, good == 0, spread.scan_step())
            && let Some(answer) = step.skip(self.router)
        {
            return Ok(answer);
        }
        if good == 0 || !all_excused {
            return Err(self.failed(spread, &nodes, outcomes, good));
        }
        let (answers, missing) = self.reachable(rule, &nodes, outcomes);
        match &spread.plan {
            Plan::Split(Split {
                parts,
                merge: Merge::KeyOrder,
                ..
            }) => {
                let keys: Vec<&[u32]> = parts.iter().map(|part| part.keys.as_slice()).collect();
                merge::by_key(answers, &keys)
            }
            &Plan::Scan { node, answered, .. } => {
                let value = answers.into_iter().next().map(|answer| answer.value);
                CursorStep { node, answered }.after_reply(value.unwrap_or_default(), self.router)
            }
            _ => {
                let question = Question {
                    args: &spread.args(),
                    missing: &missing,
                    // Other bits for every command of a pipeline.
                    entropy: entropy.rotate_left(spread.command.wrapping_mul(7)),
                };
                merge::merge(rule, question, answers)
            }
        }
    }

    /// The answers there are, and the names of the nodes that cannot be reached. Where texts stand under the names of their
    /// nodes, an error stands in the place of a text.
    fn reachable<'n>(
        &'n self,
        rule: Merge,
        nodes: &[NodeIndex],
        outcomes: Vec<Outcome>,
    ) -> (Vec<Answer<'n>>, Vec<&'n str>) {
        let mut answers = Vec::with_capacity(nodes.len());
        let mut unreachable = Vec::new();
        for (&node, outcome) in nodes.iter().zip(outcomes) {
            let node = self.router.name(node);
            if is_unreachable(&outcome) {
                unreachable.push(node);
            }
            let value = match outcome {
                Ok(Value::ServerError(_)) | Err(_) if rule != Merge::Texts => continue,
                Ok(value) => value,
                Err(error) => missing(error, node).to_reply(),
            };
            answers.push(Answer { node, value });
        }
        (answers, unreachable)
    }

    /// The error for a command of which at least one part failed.
    fn failed(
        &self,
        spread: &FanOut<'_>,
        nodes: &[NodeIndex],
        outcomes: Vec<Outcome>,
        good: usize,
    ) -> Error {
        let frame_args = spread.args();
        let errors: Vec<Option<Error>> = outcomes
            .into_iter()
            .zip(nodes)
            .map(|(outcome, &node)| match outcome {
                Ok(Value::ServerError(error)) => Some(Error::from_server(&error)),
                Ok(_) => None,
                Err(error) => Some(missing(error, self.router.name(node))),
            })
            .collect();
        let parts = nodes.iter().enumerate().map(|(number, &node)| {
            let (status, reason) = match &errors[number] {
                None => (PartStatus::Done, None),
                Some(error) if error.kind() == ErrorKind::Unknown => {
                    (PartStatus::Unknown, Some(error.to_string()))
                }
                Some(error) => (PartStatus::Failed, Some(error.to_string())),
            };
            PartOutcome::new(
                self.router.name(node),
                spread.keys(number, &frame_args),
                status,
                reason,
            )
        });
        let parts: Vec<PartOutcome> = parts.collect();
        let retry = match errors.iter().flatten().all(Error::is_retryable)
            && (good == 0 || self.only_reads(&frame_args))
        {
            true => Retry::Safe,
            false => Retry::Unsafe,
        };
        // Prefer any other error to NOTBUSY, which only means that this node runs no script.
        let errors = errors.into_iter().flatten();
        let first = errors.min_by_key(|error| error.has_server_code("NOTBUSY"));
        match first {
            Some(error) if good == 0 && parts.len() == 1 => error.with_parts(parts, retry),
            Some(error) if good == 0 && same_status(&parts) => error.with_parts(parts, retry),
            _ => Error::partial(&spread.name(&frame_args), parts, retry),
        }
    }

    /// Whether a command changes nothing, so that the parts of it that were done may be done again.
    fn only_reads(&self, args: &[&[u8]]) -> bool {
        let command = self.router.lookup(args);
        command.is_ok_and(|command| command.access() == Access::Read)
    }
}

/// A part's answer; or why there is none.
type Outcome = Result<Value, Option<Error>>;

fn is_good(outcome: &Outcome) -> bool {
    !matches!(outcome, Ok(Value::ServerError(_)) | Err(_))
}

/// Whether a node may fail where others do not.
fn is_excused(rule: Merge, outcome: &Outcome) -> bool {
    match rule {
        Merge::OneSucceeded => true,
        Merge::Texts => outcome.is_ok(),
        _ => false,
    }
}

fn same_status(parts: &[PartOutcome]) -> bool {
    parts
        .windows(2)
        .all(|pair| pair[0].status == pair[1].status)
}

/// An executor gives an answer or a failure for every request; were one forgotten, it must not look like an answer.
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

/// A server error gains the name of its node; everything else stays as it is.
#[inline]
pub(crate) fn with_node_name(value: Value, node: &str) -> Value {
    match value {
        Value::ServerError(error) => Value::ServerError(named_server_error(&error, node)),
        other => other,
    }
}

fn write_scan(args: &[&[u8]], cursor: u64, out: &mut Vec<u8>) {
    use crate::resp::{write_arg, write_header};
    write_header(out, args.len());
    write_arg(out, args[0]);
    write_arg(out, cursor.to_string().as_bytes());
    for arg in &args[2..] {
        write_arg(out, arg);
    }
}

impl FanOut<'_> {
    pub(in crate::plan) fn merge(&self) -> Merge {
        match &self.plan {
            Plan::All(merge) => *merge,
            Plan::Split(split) => split.merge,
            Plan::One(_) | Plan::Any | Plan::Scan { .. } => Merge::AllSucceeded,
        }
    }

    /// The step of a scan that it is, if it is one.
    pub(in crate::plan) fn scan_step(&self) -> Option<CursorStep> {
        match self.plan {
            Plan::Scan { node, answered, .. } => Some(CursorStep { node, answered }),
            _ => None,
        }
    }

    pub(in crate::plan) fn part_count(&self, router: &Router) -> std::ops::Range<usize> {
        0..self.nodes(router).count()
    }

    pub(in crate::plan) fn nodes<'s>(
        &'s self,
        router: &Router,
    ) -> Box<dyn Iterator<Item = NodeIndex> + 's> {
        match &self.plan {
            Plan::All(_) => Box::new(router.topology().indices()),
            Plan::Split(split) => Box::new(split.parts.iter().map(|part| part.node)),
            Plan::One(node) | Plan::Scan { node, .. } => Box::new(std::iter::once(*node)),
            Plan::Any => Box::new(std::iter::empty()),
        }
    }

    /// The arguments again; they were read once already.
    pub(in crate::plan) fn args(&self) -> Args<'_> {
        let mut args = Args::new();
        let _ = PackedCommands::new(self.frame).next(&mut args);
        args
    }

    fn name(&self, args: &[&[u8]]) -> String {
        args.first()
            .map(|name| name.escape_ascii().to_string().to_ascii_uppercase())
            .unwrap_or_default()
    }

    fn keys(&self, part: usize, args: &[&[u8]]) -> Vec<Vec<u8>> {
        match &self.plan {
            Plan::Split(split) => split.parts[part]
                .keys
                .iter()
                .filter_map(|&key| args.get(split.position(key)).map(|key| key.to_vec()))
                .collect(),
            _ => Vec::new(),
        }
    }
}
