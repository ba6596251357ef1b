//! Many commands as one request per node, and the answers back in the order asked.

mod relay;

use redis::Value;

use crate::command::{Access, Args, Merge, PackedCommands};
use crate::error::{Error, ErrorKind, PartOutcome, PartStatus, named_server_error};
use crate::node::NodeIndex;
use crate::plan::merge::{self, Answer, Question};
use crate::plan::router::{Hold, Planned, Since};
use crate::plan::scan::continue_scan;
use crate::plan::{Answers, Ending, Meter, Plan, Router, Split};

pub(crate) use relay::{Large, Relay, Told};

/// So many bytes of requests may be on their way to one node; a longer batch goes in rounds.
///
/// A server that answers while it is still being written to must find its answers read at some time, and a Redis server
/// keeps unread answers in memory.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// A node's buffer begins with no less than this, or all of the bytes.
const SHARE_BYTES_MIN: usize = 128;

/// What one node gets.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) node: NodeIndex,
    /// Requests in the wire format, one after another.
    pub(crate) request: Vec<u8>,
    /// One per request: where its answer belongs.
    pub(crate) slots: Vec<Slot>,
    /// Ends of the rounds before the last: bytes and requests.
    rounds: Vec<(usize, usize)>,
    pub(crate) ending: Ending,
    /// Counts the bytes of replies that are passed on unread.
    pub(crate) meter: Option<Meter>,
}

/// Where an answer belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    command: u32,
    /// The part of a command that went to several nodes, or [`WHOLE`].
    part: u16,
    pub(crate) access: Access,
}

const WHOLE: u16 = u16::MAX;

/// Goes before WAIT. A server waits for what the asking connection wrote, and a connection of a pool may have written
/// nothing; a message that nobody listens to is replicated like a write and touches no key, so that the connection's mark
/// stands behind every write that was acknowledged before, by whichever connection.
const MARK: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n$19\r\nredis-sharding:wait\r\n$0\r\n\r\n";

impl Slot {
    pub(crate) fn whole(command: u32, access: Access) -> Self {
        Self {
            command,
            part: WHOLE,
            access,
        }
    }
}

/// A stretch of an exchange that is written before its answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round<'e> {
    pub(crate) bytes: &'e [u8],
    /// How many requests it holds.
    pub(crate) count: usize,
}

impl Exchange {
    fn new(node: NodeIndex) -> Self {
        Self {
            node,
            request: Vec::new(),
            slots: Vec::new(),
            rounds: Vec::new(),
            ending: Ending::Any,
            meter: None,
        }
    }

    /// Requests that go in one round, because they are one.
    pub(crate) fn transaction(node: NodeIndex, request: Vec<u8>, slots: Vec<Slot>) -> Self {
        Self {
            node,
            request,
            slots,
            rounds: Vec::new(),
            ending: Ending::Exec,
            meter: None,
        }
    }

    /// Whether the connection is as it was, now that these are all the answers.
    pub(crate) fn has_ended_well(&self, answers: &[Value]) -> bool {
        answers
            .last()
            .is_none_or(|last| self.ending.is_met_by(last))
    }

    /// How many rounds it takes.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.len() + 1
    }

    /// One round, or `None` after the last.
    pub(crate) fn round(&self, number: usize) -> Option<Round<'_>> {
        let (first_byte, first) = match number.checked_sub(1) {
            None => (0, 0),
            Some(before) => *self.rounds.get(before)?,
        };
        let (last_byte, last) = match self.rounds.get(number) {
            Some(&end) => end,
            None => (self.request.len(), self.slots.len()),
        };
        Some(Round {
            bytes: &self.request[first_byte..last_byte],
            count: last - first,
        })
    }

    /// What is left from request number `first` on.
    pub(crate) fn rest(&self, first: usize) -> Self {
        let mut rest = Self::new(self.node);
        rest.ending = self.ending;
        rest.meter.clone_from(&self.meter);
        let mut commands = PackedCommands::new(&self.request);
        let mut args = Args::new();
        for (number, &slot) in self.slots.iter().enumerate() {
            let Ok(Some(frame)) = commands.next(&mut args) else {
                debug_assert!(false, "an exchange holds one request per slot");
                break;
            };
            if number >= first {
                rest.push(slot, |out| out.extend_from_slice(frame));
            }
        }
        rest
    }

    #[inline]
    fn push(&mut self, slot: Slot, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.request.len();
        write(&mut self.request);
        let start = self.rounds.last().map_or(0, |&(bytes, _)| bytes);
        if self.request.len() - start > IN_FLIGHT_BYTES_MAX && before > start {
            self.rounds.push((before, self.slots.len()));
        }
        self.slots.push(slot);
    }
}

/// Commands on their way, grouped by node.
#[derive(Debug)]
pub(crate) struct Batch<'r, 'f> {
    pub(super) router: &'r Router,
    /// Bytes that most nodes' requests fit into, so that their buffers need not grow.
    share: usize,
    /// In node order; nodes without a request have none.
    exchanges: Vec<Option<Exchange>>,
    spread: Vec<Spread<'f>>,
    pub(super) commands: u32,
    hold: Hold,
}

/// A command whose answers come from several nodes, or need another touch.
#[derive(Debug)]
struct Spread<'f> {
    command: u32,
    plan: Plan,
    frame: &'f [u8],
}

impl<'r, 'f> Batch<'r, 'f> {
    /// For requests of so many bytes altogether.
    pub(crate) fn new(router: &'r Router, bytes: usize) -> Self {
        let nodes = router.topology().nodes().len();
        Self {
            router,
            share: bytes.min(bytes / nodes * 5 / 4 + SHARE_BYTES_MIN),
            exchanges: (0..nodes).map(|_| None).collect(),
            spread: Vec::new(),
            commands: 0,
            hold: Hold::No,
        }
    }

    /// Adds one command: its packed bytes, its arguments, its plan.
    #[inline]
    pub(crate) fn add(&mut self, frame: &'f [u8], args: &[&[u8]], planned: Planned) {
        let Plan::One(node) = planned.plan else {
            return self.spread(frame, args, planned);
        };
        self.check_owner(node, args);
        self.add_at(node, frame, planned);
    }

    fn spread(&mut self, frame: &'f [u8], args: &[&[u8]], planned: Planned) {
        let command = self.commands;
        self.commands += 1;
        self.hold = self.hold.then(planned.hold);
        let access = planned.access;
        match &planned.plan {
            Plan::One(node) => {
                let slot = Slot {
                    command,
                    part: 0,
                    access,
                };
                self.push(*node, slot, |out| out.extend_from_slice(frame));
            }
            Plan::All(_) => {
                for node in self.router.topology().indices() {
                    let slot = Slot {
                        command,
                        part: node.as_u16(),
                        access,
                    };
                    if planned.since == Since::AllWrites {
                        self.push(node, slot, |out| out.extend_from_slice(MARK));
                    }
                    self.push(node, slot, |out| out.extend_from_slice(frame));
                }
            }
            Plan::Split(split) => {
                for (number, part) in (0..).zip(&split.parts) {
                    debug_assert!(part.keys.iter().all(|&key| {
                        self.router.topology().locate(args[split.position(key)]) == Some(part.node)
                    }));
                    let slot = Slot {
                        command,
                        part: number,
                        access,
                    };
                    self.push(part.node, slot, |out| split.write_part(part, args, out));
                }
            }
            &Plan::Scan { node, cursor } => {
                let slot = Slot {
                    command,
                    part: 0,
                    access,
                };
                self.push(node, slot, |out| write_scan(args, cursor, out));
            }
        }
        self.spread.push(Spread {
            command,
            plan: planned.plan,
            frame,
        });
    }

    /// Adds one command that goes to `node` because the user says so.
    #[inline]
    pub(crate) fn add_at(&mut self, node: NodeIndex, frame: &[u8], planned: Planned) {
        let slot = Slot::whole(self.commands, planned.access);
        self.commands += 1;
        self.hold = self.hold.then(planned.hold);
        self.push(node, slot, |out| out.extend_from_slice(frame));
    }

    /// How long the servers may hold answers back by the commands' own wish.
    pub(crate) fn hold(&self) -> Hold {
        self.hold
    }

    /// What each node gets, in node order.
    pub(crate) fn take_exchanges(&mut self) -> Vec<Exchange> {
        std::mem::take(&mut self.exchanges)
            .into_iter()
            .flatten()
            .collect()
    }

    /// Puts the answers in the order of the commands. What went wrong is a server error in its place, with a code word
    /// of ours where the server said nothing. `dice` is any number, for commands that leave their answer to chance.
    pub(crate) fn finish(
        &self,
        exchanges: &[Exchange],
        answers: Vec<Answers>,
        dice: u64,
    ) -> Vec<Value> {
        let (mut values, spread) = self.collect(exchanges, answers);
        for (spread, outcomes) in self.spread.iter().zip(spread) {
            values[spread.command as usize] = self
                .merge(spread, outcomes, dice)
                .unwrap_or_else(|error| error.to_reply());
        }
        values
    }

    /// The answer of the only command in the batch.
    pub(crate) fn finish_one(
        &self,
        exchanges: &[Exchange],
        answers: Vec<Answers>,
        dice: u64,
    ) -> Result<Value, Error> {
        let (mut values, mut outcomes) = self.collect(exchanges, answers);
        match (self.spread.first(), outcomes.pop()) {
            (Some(spread), Some(outcomes)) => self.merge(spread, outcomes, dice),
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
    fn push(&mut self, node: NodeIndex, slot: Slot, write: impl FnOnce(&mut Vec<u8>)) {
        match &mut self.exchanges[node.get()] {
            Some(exchange) => exchange.push(slot, write),
            empty => {
                let mut exchange = Exchange::new(node);
                exchange.request.reserve(self.share);
                exchange.push(slot, write);
                // As many slots as there is room for requests like the first.
                exchange.slots.reserve(self.share / exchange.request.len());
                *empty = Some(exchange);
            }
        }
    }

    /// Sorts answers into the places of whole commands, and the outcomes of spread ones.
    fn collect(
        &self,
        exchanges: &[Exchange],
        answers: Vec<Answers>,
    ) -> (Vec<Value>, Vec<Vec<Outcome>>) {
        let mut values = Vec::new();
        values.resize_with(self.commands as usize, || Value::Nil);
        let mut outcomes: Vec<Vec<Outcome>> = self
            .spread
            .iter()
            .map(|spread| spread.part_count(self.router).map(|_| Err(None)).collect())
            .collect();
        for (exchange, answers) in exchanges.iter().zip(answers) {
            let name = self.router.name(exchange.node);
            let answered = answers.values.len();
            for (slot, value) in exchange.slots.iter().zip(answers.values) {
                let value = named(value, name);
                match slot.part {
                    WHOLE => values[slot.command as usize] = value,
                    _ => self.settle(&mut outcomes, *slot, Ok(value)),
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
                    _ => self.settle(&mut outcomes, *slot, Err(error)),
                }
            }
        }
        (values, outcomes)
    }

    /// Notes what came of one part of a spread command.
    fn settle(&self, outcomes: &mut [Vec<Outcome>], slot: Slot, outcome: Outcome) {
        let spread = self
            .spread
            .partition_point(|spread| spread.command < slot.command);
        let place = &mut outcomes[spread][slot.part as usize];
        // What was refused stays refused, whatever the request behind it says.
        if !matches!(place, Ok(Value::ServerError(_))) {
            *place = outcome;
        }
    }

    fn merge(
        &self,
        spread: &Spread<'_>,
        outcomes: Vec<Outcome>,
        dice: u64,
    ) -> Result<Value, Error> {
        let nodes: Vec<NodeIndex> = spread.nodes(self.router).collect();
        let rule = spread.merge();
        let good = outcomes.iter().filter(|outcome| is_good(outcome)).count();
        let excused = |outcome: &Outcome| is_good(outcome) || is_excused(rule, outcome);
        if good == 0 || !outcomes.iter().all(excused) {
            return Err(self.failed(spread, &nodes, outcomes, good));
        }
        let answers = nodes
            .iter()
            .zip(outcomes)
            .filter(|(_, outcome)| is_good(outcome) || rule == Merge::Texts)
            .filter_map(|(&node, outcome)| {
                Some(Answer {
                    node: self.router.name(node),
                    value: outcome.ok()?,
                })
            })
            .collect::<Vec<_>>();
        match &spread.plan {
            Plan::Split(Split {
                parts,
                merge: Merge::KeyOrder,
                ..
            }) => {
                let keys: Vec<&[u32]> = parts.iter().map(|part| part.keys.as_slice()).collect();
                merge::by_key(answers, &keys)
            }
            &Plan::Scan { node, .. } => {
                let value = answers
                    .into_iter()
                    .next()
                    .map_or(Value::Nil, |answer| answer.value);
                continue_scan(
                    value,
                    node,
                    self.router.name(node),
                    self.router.topology().nodes().len(),
                )
            }
            _ => {
                let question = Question {
                    args: &spread.args(),
                    // Other bits for every command of a pipeline.
                    dice: dice.rotate_left(spread.command.wrapping_mul(7)),
                };
                merge::merge(rule, question, answers)
            }
        }
    }

    /// The error for a command of which at least one part failed.
    fn failed(
        &self,
        spread: &Spread<'_>,
        nodes: &[NodeIndex],
        outcomes: Vec<Outcome>,
        good: usize,
    ) -> Error {
        let frame_args = spread.args();
        let errors: Vec<Option<Error>> = outcomes
            .into_iter()
            .zip(nodes)
            .map(|(outcome, &node)| match outcome {
                Ok(Value::ServerError(error)) => Some(Error::said(&error)),
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
        // A node with something to say against it says more than one with nothing to kill.
        let errors = errors.into_iter().flatten();
        let first = errors.min_by_key(|error| error.is_said("NOTBUSY"));
        match first {
            Some(error) if good == 0 && parts.len() == 1 => error.with_parts(parts),
            Some(error) if good == 0 && same_status(&parts) => error.with_parts(parts),
            _ => Error::partial(&spread.name(&frame_args), parts),
        }
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
fn missing(error: Option<Error>, node: &str) -> Error {
    error.unwrap_or_else(|| {
        Error::new(
            ErrorKind::Unknown,
            format!("node {node}: the answer is missing"),
        )
    })
}

/// A server error gains the name of its node; everything else stays as it is.
#[inline]
pub(crate) fn named(value: Value, node: &str) -> Value {
    match value {
        Value::ServerError(error) => Value::ServerError(named_server_error(&error, node)),
        other => other,
    }
}

fn write_scan(args: &[&[u8]], cursor: u64, out: &mut Vec<u8>) {
    use crate::command::{write_arg, write_header};
    write_header(out, args.len());
    write_arg(out, args[0]);
    write_arg(out, cursor.to_string().as_bytes());
    for arg in &args[2..] {
        write_arg(out, arg);
    }
}

impl Spread<'_> {
    fn merge(&self) -> Merge {
        match &self.plan {
            Plan::All(merge) => *merge,
            Plan::Split(split) => split.merge,
            Plan::One(_) | Plan::Scan { .. } => Merge::AllSucceeded,
        }
    }

    fn part_count(&self, router: &Router) -> std::ops::Range<usize> {
        0..self.nodes(router).count()
    }

    fn nodes<'s>(&'s self, router: &Router) -> Box<dyn Iterator<Item = NodeIndex> + 's> {
        match &self.plan {
            Plan::All(_) => Box::new(router.topology().indices()),
            Plan::Split(split) => Box::new(split.parts.iter().map(|part| part.node)),
            Plan::One(node) | Plan::Scan { node, .. } => Box::new(std::iter::once(*node)),
        }
    }

    /// The arguments again; they were read once already.
    fn args(&self) -> Args<'_> {
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
