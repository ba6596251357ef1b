//! Pipelines, transactions and single commands while a reshard moves keys: each command runs exactly once, at the node
//! that owns its keys then, never while they are on the way, and in the order of the pipeline for each key.
//!
//! The reshard advances by chance, between requests, and the client learns of it some time later. A request that was
//! planned by an older record than that of its node is refused.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use redis::Value;

use super::text::{pack, show, show_request};
use super::world::{RESPONSE_TIMEOUT, Scripts, SimulatedForm, beginning};
use crate::command::{Args, CommandTable, PackedCommands};
use crate::error::{Error, ErrorKind, server_error};
use crate::partition::{NodeId, NodeSpec, from_fn};
use crate::plan::operation::{
    CommandOperation, Operation, PipelineOperation, Request, ScriptStore, Selection, Step,
};
use crate::plan::{
    Answers, Cause, Exchange, ExchangeStep, Failure, Newest, NodeRequest, Router, SplitWrites,
    parse_one,
};
use crate::policy::{ReadFrom, RequestOptions, RetryPolicy};
use crate::topology::record::{
    NodeRecord, PairRecord, Progress, RecordEpoch, ReshardRecord, UNITS,
};
use crate::topology::{ReshardView, Topology};

/// The topology before: `a` and `b`. Behind it: `c`, `a`, and `b` has left.
const PAIRS: [(&str, &str); 3] = [("a", "c"), ("b", "a"), ("b", "c")];

/// The units that are closed and moved at once.
const BATCHES: [u32; 3] = [20_000, 45_000, UNITS];

fn topology(names: &[&str], rule: &'static str, owner: fn(&[u8]) -> usize) -> Topology {
    let node = |name: &&str| NodeSpec::new(*name, format!("{name}:1"));
    let nodes = names.iter().map(node).collect();
    let rule = from_fn(rule, move |key, _| owner(key));
    Topology::new(nodes, Arc::new(rule)).expect("a topology")
}

fn router(topology: Topology, split_writes: SplitWrites) -> Router {
    let table = Cow::Borrowed(CommandTable::built_in());
    Router::new(Arc::new(topology), table, split_writes)
}

/// One state of the fleet.
struct State {
    router: Router,
    /// For each node, the number of the last state that concerns it.
    epochs: HashMap<&'static str, usize>,
}

/// All states of a reshard, in their order.
fn states(split_writes: SplitWrites) -> Vec<State> {
    let from = topology(&["a", "b"], "first/1", |key| usize::from(key[0] & 1));
    let to = topology(&["c", "a"], "second/1", |key| usize::from(key[1] & 1));
    let none: HashMap<&'static str, usize> = ["a", "b", "c"].map(|node| (node, 0)).into();
    let mut states = vec![State {
        router: router(from.clone(), split_writes),
        epochs: none,
    }];
    let mut progress: HashMap<(&str, &str), Progress> = PAIRS
        .map(|pair| {
            (
                pair,
                Progress {
                    moved: 0,
                    closed: 0,
                },
            )
        })
        .into();
    let mut add = |progress: &HashMap<(&'static str, &'static str), Progress>,
                   concerned: &[&'static str],
                   is_end: bool| {
        let number = states.len();
        let mut epochs = states[number - 1].epochs.clone();
        for node in concerned {
            epochs.insert(node, number);
        }
        let next = match is_end {
            true => to.clone(),
            false => Topology::while_moving(&from, &to, &view(progress)).expect("a topology"),
        };
        let router = router(next, split_writes);
        states.push(State { router, epochs });
    };
    add(&progress, &["a", "b", "c"], false);
    for batch in BATCHES {
        for pair in PAIRS {
            let at = progress.get_mut(&pair).expect("a pair");
            at.closed = batch;
            add(&progress, &[pair.0], false);
            progress.get_mut(&pair).expect("a pair").moved = batch;
            add(&progress, &[pair.0, pair.1], false);
        }
    }
    add(&progress, &["a", "b", "c"], true);
    states
}

fn view(progress: &HashMap<(&'static str, &'static str), Progress>) -> ReshardView {
    let mut view = ReshardView::default();
    for (&(source, target), &progress) in progress {
        let record = NodeRecord {
            epoch: RecordEpoch::new(1, 1),
            topology: 1,
            seal: "s".into(),
            is_retired: false,
            mover: None,
            reshard: Some(ReshardRecord {
                to: 2,
                pairs: vec![PairRecord {
                    source: source.into(),
                    target: target.into(),
                    progress,
                }],
            }),
        };
        view.add(source, &record);
    }
    view
}

/// The nodes, and the client's view of them.
struct Fleet {
    states: Vec<State>,
    /// The state that the records have.
    now: usize,
    /// The state that the client knows.
    known: usize,
    /// The values that each node has of each key.
    lists: HashMap<(String, Vec<u8>), Vec<String>>,
    /// True if FLUSHALL deletes keys.
    deletes: bool,
    random: u64,
    /// Of 16, how often the reshard advances.
    pace: u64,
    clock: Instant,
    /// Number of requests that were refused, as they were planned by an older state.
    superseded: usize,
    reloads: usize,
    /// The timeouts of the blocking commands.
    timeouts: Vec<String>,
    /// True if CLIENT UNBLOCK ends the first, as the reshard goes on.
    unblocks: bool,
    /// What was sent for the last request.
    log: Vec<String>,
}

impl Fleet {
    fn new(split_writes: SplitWrites, seed: u64, pace: u64) -> Self {
        Self {
            states: states(split_writes),
            now: 0,
            known: 0,
            lists: HashMap::new(),
            deletes: false,
            random: seed | 1,
            pace,
            clock: beginning(),
            superseded: 0,
            reloads: 0,
            timeouts: Vec::new(),
            unblocks: false,
            log: Vec::new(),
        }
    }

    fn chance(&mut self, of_16: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) % 16 < of_16
    }

    /// The node of a key now. `None` while it is on the way.
    fn owner(&self, state: usize, key: &[u8]) -> Option<String> {
        let router = &self.states[state].router;
        let topology = router.topology();
        if topology
            .moving()
            .is_some_and(|moving| moving.is_closed(key))
        {
            return None;
        }
        topology
            .locate(key)
            .map(|node| router.name(node).to_owned())
    }

    /// Goes on to the next state, with the keys that move.
    fn advance(&mut self) {
        if self.now + 1 == self.states.len() {
            return;
        }
        self.now += 1;
        let keys: Vec<(String, Vec<u8>)> = self.lists.keys().cloned().collect();
        for at in keys {
            if let Some(owner) = self.owner(self.now, &at.1)
                && owner != at.0
            {
                let list = self.lists.remove(&at).expect("it was there");
                let before = self.lists.insert((owner, at.1), list);
                assert!(before.is_none(), "two owners");
            }
        }
    }

    fn live(&mut self) {
        if self.chance(self.pace) {
            self.advance();
        }
        if self.chance(self.pace.max(4)) {
            self.known = self.now;
        }
    }

    /// What a node replies to a request that was planned by the state `used`.
    fn serve(&mut self, request: &NodeRequest, used: usize) -> Answers {
        self.live();
        let state = &self.states[used];
        let node = state.router.name(request.receiver()).to_owned();
        let planned = state.epochs[&*node];
        if self.chance(1) {
            let cause = Cause::Dropped("reset".into());
            return Answers::failed(Failure { cause, sent: 0 });
        }
        let mut commands = PackedCommands::new(&request.packed);
        let mut args = Args::new();
        let mut values = Vec::new();
        let mut queue: Option<Vec<Value>> = None;
        while let Ok(Some(_)) = commands.next(&mut args) {
            // The next chunk of a long request.
            if queue.is_none() && values.len() % 3 == 2 {
                self.live();
            }
            if queue.is_none() && planned < self.states[self.now].epochs[&*node] {
                self.superseded += 1;
                let sent = values.len();
                let cause = Cause::Superseded;
                let failure = Some(Box::new(Failure { cause, sent }));
                return Answers { values, failure };
            }
            let reply = match args[0] {
                b"MULTI" => {
                    queue = Some(Vec::new());
                    Value::Okay
                }
                b"EXEC" => Value::Array(queue.take().expect("MULTI before")),
                _ => self.run(&node, &args),
            };
            match &mut queue {
                Some(queue) if args[0] != b"MULTI" => {
                    queue.push(reply);
                    values.push(Value::SimpleString("QUEUED".into()));
                }
                _ => values.push(reply),
            }
        }
        assert_eq!(values.len(), request.slots.len());
        Answers {
            values,
            failure: None,
        }
    }

    fn run(&mut self, node: &str, args: &[&[u8]]) -> Value {
        let keys = match args[0] {
            b"RPUSH" | b"BLPOP" => &args[1..2],
            b"PING" => return Value::SimpleString("PONG".into()),
            // In the form that keeps the record.
            b"EVAL" => {
                let topology = self.states[self.now].router.topology();
                let is_closed = |key: &&str| {
                    let moving = topology.moving();
                    moving.is_some_and(|moving| moving.is_closed(key.as_bytes()))
                };
                let source = |key: &&str| {
                    let source = topology.locate(key.as_bytes()).expect("an owner");
                    topology.node(source).name() == node
                };
                let mut keys = KEYS.iter();
                let closed = keys.find(|key| is_closed(key) && source(key));
                assert_eq!(closed, None, "FLUSHALL while keys are on the way");
                if self.deletes {
                    self.lists.retain(|(at, _), _| at != node);
                }
                return Value::Okay;
            }
            _ => &args[1..],
        };
        for key in keys {
            let owner = self.owner(self.now, key);
            let command = args[0].escape_ascii();
            assert_eq!(
                owner.as_deref(),
                Some(node),
                "{command} {}",
                key.escape_ascii()
            );
        }
        let at = |key: &[u8]| (node.to_owned(), key.to_vec());
        match args[0] {
            b"RPUSH" => {
                let values = self.lists.entry(at(args[1])).or_default();
                values.push(args[2].escape_ascii().to_string());
                Value::Int(values.len() as i64)
            }
            b"BLPOP" => {
                self.timeouts.push(args[2].escape_ascii().to_string());
                if self.timeouts.len() > 1 || !self.unblocks {
                    return Value::Nil;
                }
                self.clock += Duration::from_millis(300);
                self.advance();
                let text = "client unblocked via CLIENT UNBLOCK";
                Value::ServerError(server_error("UNBLOCKED", text))
            }
            b"TOUCH" => {
                for key in keys {
                    let list = self.lists.entry(at(key)).or_default();
                    list.push("touched".into());
                }
                Value::Int(keys.len() as i64)
            }
            b"MGET" => {
                let value = |key: &&[u8]| {
                    let list = self.lists.get(&at(key)).map(|list| list.join(","));
                    Value::BulkString(list.unwrap_or_default().into_bytes())
                };
                Value::Array(keys.iter().map(value).collect())
            }
            other => panic!("{} is not expected", other.escape_ascii()),
        }
    }

    /// Sends all of an exchange that was planned by the state `began`.
    fn carry_out<R: SimulatedForm>(&mut self, exchange: &mut Exchange<R>, began: usize) {
        let options = RequestOptions {
            response_timeout: Some(RESPONSE_TIMEOUT),
            blocking_timeout: Some(RESPONSE_TIMEOUT),
            retry: RetryPolicy::attempts(20),
            read_from: ReadFrom::Primary,
            hedge_after: None,
            usual_timeout: Some(RESPONSE_TIMEOUT),
        };
        exchange.begin(self.clock, &options, 7);
        exchange.keep_records();
        let mut used = began;
        loop {
            match exchange.poll(self.clock) {
                ExchangeStep::Send => {
                    let attempts: Vec<_> = exchange.attempts().collect();
                    let answers = attempts.iter().map(|attempt| {
                        let answers = self.serve(attempt.request, used);
                        let sent = show_request(attempt.request);
                        let line = format!("{used}/{} {sent} -> {answers:?}", self.now);
                        self.log.push(line);
                        Answers {
                            values: R::of(&answers.values),
                            failure: answers.failure,
                        }
                    });
                    let answers = answers.collect();
                    drop(attempts);
                    exchange.handle(answers);
                }
                ExchangeStep::Wait(pause) => self.clock += pause,
                ExchangeStep::Reload(pause) => {
                    self.clock += pause;
                    self.reloads += 1;
                    self.live();
                    let identity: HashMap<_, NodeId> = {
                        let topology = self.states[began].router.topology();
                        let nodes = topology.indices();
                        nodes.map(|node| (node, topology.node(node).id())).collect()
                    };
                    let newest = Newest {
                        router: &self.states[self.known].router,
                        is_newer: self.known != used,
                        follows_record: true,
                        identity: &|node| identity.get(&node).copied(),
                    };
                    exchange.replan(&newest, self.clock);
                    used = self.known;
                }
                ExchangeStep::Done => return,
            }
        }
    }

    /// Runs a pipeline and returns the result of each command; for a transaction those of its commands.
    fn pipeline(&mut self, text: &str) -> Vec<Result<Value, Error>> {
        self.log.clear();
        let began = self.known;
        let router = self.states[began].router.clone();
        let scripts = Scripts::default();
        let packed = &pack(text);
        let count = text.split("; ").count();
        let selection = match text.starts_with("MULTI; ") {
            true => Selection::of(packed, count - 1, 1),
            false => Selection::of(packed, 0, count),
        };
        let kind = selection.expect("commands").kind;
        let mut operation =
            PipelineOperation::by_keys(&router, &scripts, packed, kind, 0).expect("a plan");
        loop {
            match operation.poll(self.clock) {
                Step::Send(exchange) => self.carry_out(exchange, began),
                Step::Done(Ok(replies)) => return replies.each(&router, packed),
                Step::Done(Err(error)) => return vec![Err(error)],
            }
        }
    }

    /// Runs one command.
    fn command(&mut self, text: &str) -> Result<Value, Error> {
        self.command_as::<Vec<Value>>(text)
    }

    /// Runs one command with replies in this form.
    fn command_as<R: SimulatedForm>(&mut self, text: &str) -> Result<R::Reply, Error> {
        self.log.clear();
        let began = self.known;
        let router = self.states[began].router.clone();
        let scripts = Scripts::default();
        let packed = &pack(text);
        let args = &parse_one(packed).expect("one command");
        let routed = router.route(args, &|| scripts.snapshot());
        let request = Request { packed, args };
        let mut operation: CommandOperation<'_, R> =
            CommandOperation::new(&router, &scripts, request, routed, R::CONTEXT, 0);
        loop {
            match operation.poll(self.clock) {
                Step::Send(exchange) => self.carry_out(exchange, began),
                Step::Done(result) => return result,
            }
        }
    }
}

/// The keys of the property, of all combinations of owners.
const KEYS: [&str; 8] = ["aa", "ab", "ba", "bb", "acx", "adx", "bay", "bby"];

#[derive(Clone, Debug)]
enum Command {
    Push(usize),
    Touch(Vec<usize>),
    Get(Vec<usize>),
    Ping,
    Flush,
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let keys = || prop::collection::vec(0..KEYS.len(), 1..5);
    let command = prop_oneof![
        6 => (0..KEYS.len()).prop_map(Command::Push),
        2 => keys().prop_map(Command::Touch),
        3 => keys().prop_map(Command::Get),
        1 => Just(Command::Ping),
        1 => Just(Command::Flush),
    ];
    prop::collection::vec(command, 1..12)
}

/// What one server would hold and reply.
#[derive(Default)]
struct Model {
    lists: HashMap<&'static str, Vec<String>>,
    pushed: usize,
}

impl Model {
    /// The text of a command, and the reply to it.
    fn run(&mut self, command: &Command) -> (String, Value) {
        let names = |keys: &[usize]| keys.iter().map(|&key| KEYS[key]).collect::<Vec<_>>();
        match command {
            Command::Push(key) => {
                self.pushed += 1;
                let value = format!("v{}", self.pushed);
                let list = self.lists.entry(KEYS[*key]).or_default();
                list.push(value.clone());
                let reply = Value::Int(list.len() as i64);
                (format!("RPUSH {} {value}", KEYS[*key]), reply)
            }
            Command::Touch(keys) => {
                for key in names(keys) {
                    self.lists.entry(key).or_default().push("touched".into());
                }
                let reply = Value::Int(keys.len() as i64);
                (format!("TOUCH {}", names(keys).join(" ")), reply)
            }
            Command::Get(keys) => {
                let value = |key: &&str| {
                    let list = self.lists.get(key).cloned().unwrap_or_default();
                    Value::BulkString(list.join(",").into_bytes())
                };
                let values = names(keys).iter().map(value).collect();
                (
                    format!("MGET {}", names(keys).join(" ")),
                    Value::Array(values),
                )
            }
            Command::Ping => ("PING".into(), Value::SimpleString("PONG".into())),
            Command::Flush => ("FLUSHALL".into(), Value::Okay),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn pipeline_while_keys_move_runs_each_command_once_at_its_owner_in_order(
        pipelines in prop::collection::vec(commands(), 1..12),
        seed in any::<u64>(),
        pace in 1_u64..12,
    ) {
        let mut fleet = Fleet::new(SplitWrites::Allowed, seed, pace);
        let mut model = Model::default();
        for commands in &pipelines {
            let (texts, expected): (Vec<String>, Vec<Value>) =
                commands.iter().map(|command| model.run(command)).unzip();
            let replies = fleet.pipeline(&texts.join("; "));
            prop_assert_eq!(replies.len(), commands.len());
            for ((reply, expected), command) in replies.into_iter().zip(expected).zip(commands) {
                // The part of a node that has left is not done.
                let is_for_all = matches!(command, Command::Ping | Command::Flush);
                if reply.is_err() && is_for_all {
                    continue;
                }
                let reply = reply.map_err(|error| error.to_string());
                prop_assert_eq!(reply, Ok(expected), "{:?} of {}: {:#?}", command, texts.join("; "), fleet.log);
            }
        }
        let mut held: HashMap<&str, Vec<String>> = HashMap::new();
        for ((_, key), list) in &fleet.lists {
            let key = KEYS.iter().find(|name| name.as_bytes() == key).expect("a key");
            prop_assert!(held.insert(key, list.clone()).is_none_or(|other| other.is_empty()));
        }
        held.retain(|_, list| !list.is_empty());
        prop_assert_eq!(held, model.lists);
    }

    #[test]
    fn transactions_and_commands_while_keys_move_run_once_at_their_owner(
        commands in prop::collection::vec((0..KEYS.len(), any::<bool>()), 1..40),
        seed in any::<u64>(),
        pace in 1_u64..12,
    ) {
        let mut fleet = Fleet::new(SplitWrites::Allowed, seed, pace);
        let mut lengths = [0_i64; KEYS.len()];
        for (key, is_transaction) in commands {
            let name = KEYS[key];
            if is_transaction {
                lengths[key] += 2;
                let text = format!("MULTI; RPUSH {name} x; RPUSH {name} y; EXEC");
                let replies = fleet.pipeline(&text);
                let replies: Result<Vec<Value>, Error> = replies.into_iter().collect();
                let expected = vec![Value::Int(lengths[key] - 1), Value::Int(lengths[key])];
                prop_assert_eq!(replies.map_err(|error| error.to_string()), Ok(expected));
            } else {
                lengths[key] += 1;
                let reply = fleet.command(&format!("RPUSH {name} x"));
                let expected = Ok(Value::Int(lengths[key]));
                prop_assert_eq!(reply.map_err(|error| error.to_string()), expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn flushall_while_keys_move_leaves_none_of_those_before_it(
        seed in any::<u64>(),
        pace in 1_u64..16,
    ) {
        let mut fleet = Fleet::new(SplitWrites::Allowed, seed, pace);
        fleet.deletes = true;
        for _ in 0..8 {
            for key in KEYS {
                fleet.command(&format!("RPUSH {key} x")).expect("written");
            }
            fleet.log.clear();
            // If a node has joined or left since it was planned, it is to be repeated.
            if fleet.command("FLUSHALL").is_ok() {
                prop_assert!(fleet.lists.is_empty(), "{:?}: {:#?}", fleet.lists, fleet.log);
            }
        }
    }
}

/// The number of the first state in which this holds.
fn first_state(fleet: &Fleet, holds: impl Fn(&Fleet, usize) -> bool) -> usize {
    (0..fleet.states.len())
        .find(|&state| holds(fleet, state))
        .expect("such a state")
}

/// A fleet that stays in this state, and whose client knows it.
fn resting(split_writes: SplitWrites, holds: impl Fn(&Fleet, usize) -> bool) -> Fleet {
    let mut fleet = Fleet::new(split_writes, 3, 0);
    let state = first_state(&fleet, holds);
    while fleet.now < state {
        fleet.advance();
    }
    fleet.known = state;
    fleet
}

#[test]
fn key_that_stays_on_the_way_fails_after_the_time_of_the_request_and_nothing_is_sent() {
    let mut fleet = resting(SplitWrites::Allowed, |fleet, state| {
        fleet.owner(state, b"aa").is_none() || fleet.owner(state, b"ab").is_none()
    });
    let is_closed = |key: &&&str| fleet.owner(fleet.now, key.as_bytes()).is_none();
    let key = *KEYS.iter().find(is_closed).expect("a key");
    let began = fleet.clock;
    let error = fleet
        .command(&format!("RPUSH {key} x"))
        .expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Moving, "{error}");
    assert!(error.is_retryable());
    assert!(error.to_string().contains(&format!("\"{key}\"")), "{error}");
    assert!(error.node().is_some());
    assert_eq!(fleet.clock - began, RESPONSE_TIMEOUT);
    assert!(fleet.reloads > 100);
    let error = fleet.pipeline(&format!("RPUSH {key} x; PING")).remove(0);
    assert_eq!(error.expect_err("closed").kind(), ErrorKind::Moving);
    let error = fleet
        .pipeline(&format!("MULTI; RPUSH {key} x; EXEC"))
        .remove(0);
    assert_eq!(error.expect_err("closed").kind(), ErrorKind::Moving);
    assert!(fleet.lists.is_empty());
}

#[test]
fn command_that_may_not_be_split_fails_once_its_keys_are_on_two_nodes() {
    // Two keys of one node before, one of which has moved.
    let mut fleet = Fleet::new(SplitWrites::Refused, 5, 0);
    let pair = |fleet: &Fleet, state: usize| {
        let open = |key: &str| fleet.owner(state, key.as_bytes());
        let mut pairs = KEYS.iter().flat_map(|a| KEYS.iter().map(move |b| (*a, *b)));
        pairs.find(|(a, b)| {
            let before = fleet.owner(0, a.as_bytes()) == fleet.owner(0, b.as_bytes());
            before && open(a).is_some() && open(b).is_some() && open(a) != open(b)
        })
    };
    let state = first_state(&fleet, |fleet, state| pair(fleet, state).is_some());
    let (a, b) = pair(&fleet, state).expect("a pair");
    while fleet.now < state {
        fleet.advance();
    }
    // The client learns of it with the first refusal.
    fleet.pace = 0;
    for (text, is_split) in [
        (format!("DEL {a} {b}"), false),
        (format!("MGET {a} {b}"), true),
        (format!("RENAME {a} {b}"), false),
    ] {
        fleet.known = 0;
        let result = fleet.command(&text);
        match is_split {
            true => assert!(matches!(result, Ok(Value::Array(values)) if values.len() == 2)),
            false => {
                let error = result.expect_err("on two nodes");
                assert_eq!(error.kind(), ErrorKind::Moving, "{error}");
                assert!(error.is_retryable(), "{error}");
            }
        }
    }
    fleet.known = 0;
    let text = format!("MULTI; RPUSH {a} x; RPUSH {b} x; EXEC");
    let error = fleet.pipeline(&text).remove(0).expect_err("on two nodes");
    assert_eq!(error.kind(), ErrorKind::Moving, "{error}");
    assert!(fleet.superseded >= 4);
}

#[test]
fn pauses_before_the_newest_topology_is_looked_at_are_short() {
    let mut fleet = resting(SplitWrites::Allowed, |fleet, state| {
        KEYS.iter()
            .any(|key| fleet.owner(state, key.as_bytes()).is_none())
    });
    let is_closed = |key: &&&str| fleet.owner(fleet.now, key.as_bytes()).is_none();
    let key = *KEYS.iter().find(is_closed).expect("a key");
    let began = fleet.clock;
    fleet.pace = 16;
    fleet.command(&format!("RPUSH {key} x")).expect("it opens");
    assert!(fleet.clock - began <= Duration::from_millis(60));
}

#[test]
fn blocking_command_that_a_reshard_has_ended_goes_on_with_the_time_that_is_left() {
    let mut fleet = Fleet::new(SplitWrites::Allowed, 9, 0);
    fleet.unblocks = true;
    assert_eq!(fleet.command("BLPOP aa 2").expect("a reply"), Value::Nil);
    let [first, second] = &fleet.timeouts[..] else {
        panic!("{:?}", fleet.timeouts);
    };
    let second: f64 = second.parse().expect("seconds");
    assert!(first == "2" && second < 1.71 && second > 1.5, "{second}");
}

#[test]
fn blocking_command_that_a_user_has_ended_ends() {
    let mut fleet = Fleet::new(SplitWrites::Allowed, 9, 0);
    fleet.unblocks = true;
    // It does not go on.
    fleet.states.truncate(1);
    let error = fleet.command("BLPOP aa 2").expect_err("CLIENT UNBLOCK");
    assert_eq!(error.server_reply().expect("a reply").code(), "UNBLOCKED");
    assert_eq!(fleet.timeouts, ["2"]);
}

#[cfg(feature = "proxy")]
#[test]
fn command_goes_key_by_key_with_replies_as_they_came() {
    use crate::plan::RawReplies;

    let mut fleet = Fleet::new(SplitWrites::Allowed, 5, 0);
    for key in KEYS {
        fleet
            .command(&format!("RPUSH {key} of-{key}"))
            .expect("open");
    }
    while fleet.now + 1 < fleet.states.len() {
        fleet.advance();
    }
    for names in [&KEYS[..2], &KEYS[2..4], &KEYS[..]] {
        fleet.known = 0;
        let text = format!("MGET {}", names.join(" "));
        let values = names.iter().map(|key| format!("of-{key}").into_bytes());
        let expected = Value::Array(values.map(Value::BulkString).collect());
        let reply = fleet.command_as::<RawReplies>(&text).expect("a reply");
        assert_eq!(
            RawReplies::show(&reply),
            show(&expected),
            "{:#?}",
            fleet.log
        );
        fleet.known = 0;
        assert_eq!(fleet.command(&text).expect("a reply"), expected);
    }
}
