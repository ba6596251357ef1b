//! Commands and breaks by chance: what holds whatever happens.

use std::collections::HashMap;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::Config;
use redis::Value;

use super::text::{Break, pack, show, show_error, value};
use super::world::{NODES, Nodes, Scripts, SimulatedForm, beginning, router, run};
use crate::command::{Access, Args, PackedCommands};
use crate::error::{Error, ErrorKind, PartStatus};
use crate::partition::NodeIndex;
use crate::plan::operation::{
    CommandOperation, PipelineOperation, Request, ScriptStore, Selection,
};
use crate::plan::{Answers, Attempt, DedicatedState, KeyCheck, PartialReads, Router, parse_one};
use crate::policy::RetryPolicy;

/// The most exchanges that one operation takes: libraries are listed, the command is sent, libraries are loaded, the
/// command is sent again.
const EXCHANGES_MAX: usize = 4;

/// The most attempts at one node.
const ATTEMPTS_MAX: u8 = 4;

/// The most waves: in each exchange every node may be asked, because those before could not be reached, and at each one
/// the rest is resent.
const WAVES_MAX: usize = EXCHANGES_MAX * ATTEMPTS_MAX as usize * NODES.len();

/// How many runs by default. `REDIS_SHARDING_SIMULATION_RUNS` asks for more.
const RUNS: u32 = 400;

/// Nodes that break as a tape of random bytes says.
struct Chance<'t> {
    tape: std::slice::Iter<'t, u8>,
    router: &'t Router,
    has_script: [bool; 3],
    has_function: [bool; 3],
    /// How often a write was applied, by its text.
    applied: HashMap<String, usize>,
    waves: usize,
    retry: RetryPolicy,
}

impl Chance<'_> {
    /// A number below `limit`. After the end of the tape nothing breaks any more.
    fn pick(&mut self, limit: usize) -> usize {
        self.tape.next().map_or(0, |&byte| usize::from(byte)) % limit
    }

    /// What breaks under so many requests, and how many replies came before.
    fn fate(&mut self, count: usize) -> (Option<Break>, usize) {
        let kind = self.pick(8);
        let sent = self.pick(count + 1);
        let answered = self.pick(sent + 1);
        match kind {
            0..=3 => (None, count),
            4 => (Some(Break::Refused), 0),
            5 | 6 => (Some(Break::Dropped(sent)), answered),
            _ if sent == 0 => (Some(Break::Pool), 0),
            _ => (Some(Break::Late(sent)), answered),
        }
    }

    /// Carries out all requests that were sent. Gives the replies.
    fn serve(&mut self, attempt: &Attempt<'_>, sent: usize) -> Vec<Value> {
        let node = attempt.request.node.get();
        let mut commands = PackedCommands::new(&attempt.request.packed);
        let mut args = Args::new();
        let mut replies = Vec::new();
        let mut queued: Option<Vec<Vec<u8>>> = None;
        let mut aborts = false;
        while replies.len() < sent
            && let Ok(Some(frame)) = commands.next(&mut args)
        {
            let reply = match (args[0], queued.take()) {
                (b"MULTI", _) => {
                    queued = Some(Vec::new());
                    Value::Okay
                }
                (b"EXEC", Some(_)) if aborts => value("-EXECABORT Transaction discarded."),
                (_, Some(commands)) if args[0] != b"EXEC" && self.refuses() => {
                    aborts = true;
                    queued = Some(commands);
                    value(LOADING)
                }
                (b"EXEC", Some(commands)) => {
                    let replies = commands.iter().map(|command| {
                        let args = parse_one(command).expect("one command");
                        self.apply(node, &args)
                    });
                    Value::Array(replies.collect())
                }
                (_, Some(mut commands)) => {
                    commands.push(frame.to_vec());
                    queued = Some(commands);
                    Value::SimpleString("QUEUED".into())
                }
                (_, None) if self.refuses() => value(LOADING),
                (_, None) => self.apply(node, &args),
            };
            replies.push(reply);
        }
        replies
    }

    /// True if a server refuses a command because it is loading its data.
    fn refuses(&mut self) -> bool {
        self.pick(5) == 4
    }

    /// Carries one command out: every reply says which command it answers.
    fn apply(&mut self, node: usize, args: &[&[u8]]) -> Value {
        match args[0] {
            b"EVALSHA" if !self.has_script[node] => {
                return value("-NOSCRIPT No matching script. Please use EVAL.");
            }
            b"FCALL" | b"FCALL_RO" if !self.has_function[node] => {
                return value("-ERR Function not found");
            }
            b"EVAL" => self.has_script[node] = true,
            b"FUNCTION" if args[1] == b"LOAD" => {
                self.has_function[node] = true;
                return value("clock");
            }
            b"FUNCTION" => return value("[[library_code | CLOCK]]"),
            _ => {}
        }
        let text = spoken(args);
        let access = self.router.lookup(args).expect("a known command").access();
        if access == Access::Write {
            *self.applied.entry(text.clone()).or_default() += 1;
        }
        reply_to(&text)
    }
}

/// How a server refuses a command for the time being.
const LOADING: &str = "-LOADING Redis is loading the dataset in memory";

/// A command as it was given, also when it goes as another.
fn spoken(args: &[&[u8]]) -> String {
    let words: Vec<String> = args
        .iter()
        .map(|arg| show(&Value::BulkString(arg.to_vec())))
        .collect();
    words.join(" ").replace("EVAL SOURCE", "EVALSHA SHA")
}

/// The reply by which a command is known.
fn reply_to(text: &str) -> Value {
    let words: Vec<&str> = text.split(' ').collect();
    match words[0] {
        "MGET" => {
            let items = words[1..].iter();
            Value::Array(items.map(|key| value(&format!("of-{key}"))).collect())
        }
        "KEYS" => Value::Array(vec![value(text.replace(' ', "-").as_str())]),
        "MSET" => Value::Okay,
        _ => value(&text.replace(' ', "-")),
    }
}

impl<R: SimulatedForm> Nodes<R> for Chance<'_> {
    fn retry(&self) -> RetryPolicy {
        self.retry
    }

    fn wave(
        &mut self,
        attempts: &[Attempt<'_>],
        now: &mut Instant,
        end: Option<Instant>,
    ) -> Vec<Answers<R>> {
        self.waves += 1;
        assert!(self.waves <= WAVES_MAX, "more than {WAVES_MAX} waves");
        let mut answers = Vec::new();
        for attempt in attempts {
            let count = attempt.request.slots.len();
            let (breaks, answered) = self.fate(count);
            let sent = breaks.map_or(count, |kind| kind.failure().sent);
            let mut replies = self.serve(attempt, sent);
            replies.truncate(answered);
            if breaks.is_some_and(|kind| kind.takes_all_time()) {
                *now = (*now).max(end.expect("an end"));
            }
            answers.push(Answers {
                values: R::of(&replies),
                failure: breaks.map(|kind| Box::new(kind.failure())),
            });
        }
        answers
    }
}

/// One of the commands, with a number that no other has.
fn command(kind: u8, node: u8, number: usize) -> String {
    let node = NODES[usize::from(node) % NODES.len()];
    match kind % 12 {
        0 => format!("GET {node}{number}"),
        1 => format!("SET {node}{number} x"),
        2 => format!("EVALSHA SHA 1 {node}{number}"),
        3 => format!("FCALL clock 1 {node}{number}"),
        4 => format!("FCALL_RO clock 1 {node}{number}"),
        // Those for one node end here.
        5 => format!("MGET c{number} a{number} b{number}"),
        6 => format!("MSET a{number} x b{number} y"),
        7 => format!("ECHO e{number}"),
        8 => format!("KEYS k{number}"),
        9 => format!("EVALSHA SHA 0 e{number}"),
        10 => format!("FCALL clock 0 e{number}"),
        _ => format!("INCR {node}{number}"),
    }
}

/// What must come of a command that succeeds.
fn right_reply(text: &str) -> Value {
    match text.split(' ').next() {
        Some("KEYS") => {
            let one = value(&text.replace(' ', "-"));
            Value::Array(vec![one; NODES.len()])
        }
        _ => reply_to(text),
    }
}

/// A request, what is known, and what breaks.
#[derive(Clone, Debug)]
struct Case {
    how: How,
    commands: Vec<String>,
    knows_library: bool,
    entropy: u64,
    has_script: [bool; 3],
    has_function: [bool; 3],
    tape: Vec<u8>,
    /// The number of attempts; none for the default.
    attempts: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Command,
    #[cfg(feature = "proxy")]
    RawCommand,
    Pipeline,
    Transaction,
    Dedicated,
}

fn cases() -> impl Strategy<Value = Case> {
    let how = prop_oneof![
        Just(How::Command),
        #[cfg(feature = "proxy")]
        Just(How::RawCommand),
        Just(How::Pipeline),
        Just(How::Transaction),
        Just(How::Dedicated),
    ];
    let commands = prop::collection::vec((any::<u8>(), any::<u8>()), 1..8);
    let tape = prop::collection::vec(any::<u8>(), 0..60);
    let nodes = any::<([bool; 3], [bool; 3])>();
    let attempts = prop::option::of(1..=ATTEMPTS_MAX);
    (
        how,
        commands,
        tape,
        nodes,
        any::<bool>(),
        any::<u64>(),
        attempts,
    )
        .prop_map(
            |(how, picks, tape, (has_script, has_function), knows_library, entropy, attempts)| {
                let numbered = (1..).zip(&picks);
                let commands = numbered.map(|(number, &(kind, node))| match how {
                    How::Transaction | How::Dedicated => command(kind % 5, 0, number),
                    _ => command(kind, node, number),
                });
                let mut commands: Vec<String> = commands.collect();
                if !matches!(how, How::Pipeline | How::Transaction | How::Dedicated) {
                    commands.truncate(1);
                }
                Case {
                    how,
                    commands,
                    // A pipeline lists no libraries, and its functions without keys need them.
                    knows_library: knows_library || commands_need_library(how),
                    entropy,
                    has_script,
                    has_function,
                    tape,
                    attempts,
                }
            },
        )
}

fn commands_need_library(how: How) -> bool {
    matches!(how, How::Pipeline)
}

fn check(case: &Case) {
    let router = router(PartialReads::Refused);
    let scripts = Scripts::default();
    scripts.update(&mut |cache| {
        let cache = std::sync::Arc::make_mut(cache);
        cache.record_sent(&parse_one(&pack("SCRIPT LOAD SOURCE")).expect("one command"));
        if case.knows_library {
            cache.record_sent(&parse_one(&pack("FUNCTION LOAD CLOCK")).expect("one command"));
        }
    });
    let mut nodes = Chance {
        tape: case.tape.iter(),
        router: &router,
        has_script: case.has_script,
        has_function: case.has_function,
        applied: HashMap::new(),
        waves: 0,
        retry: case.attempts.map_or(RetryPolicy::READS, |attempts| {
            RetryPolicy::attempts(attempts.into())
        }),
    };
    match case.how {
        How::Command => check_command::<Vec<Value>>(case, &router, &scripts, &mut nodes),
        #[cfg(feature = "proxy")]
        How::RawCommand => {
            check_command::<crate::plan::RawReplies>(case, &router, &scripts, &mut nodes);
        }
        _ => check_pipeline(case, &router, &scripts, &mut nodes),
    }
    for (text, &times) in &nodes.applied {
        assert!(times <= 1, "{text} was applied {times} times");
    }
}

fn check_command<R: SimulatedForm>(
    case: &Case,
    router: &Router,
    scripts: &Scripts,
    nodes: &mut Chance<'_>,
) {
    let text = &case.commands[0];
    let packed = &pack(text);
    let args = &parse_one(packed).expect("one command");
    let routed = router.route(args, &|| scripts.snapshot());
    let request = Request { packed, args };
    let operation: CommandOperation<'_, R> =
        CommandOperation::new(router, scripts, request, routed, R::CONTEXT, case.entropy);
    match run(operation, &mut beginning(), nodes) {
        Ok(reply) => check_reply(text, &R::show(&reply), &nodes.applied),
        Err(error) => check_error(text, &error, &nodes.applied),
    }
}

fn check_pipeline(case: &Case, router: &Router, scripts: &Scripts, nodes: &mut Chance<'_>) {
    let commands = case.commands.join("; ");
    let text = match case.how {
        How::Transaction => format!("MULTI; {commands}; EXEC"),
        _ => commands,
    };
    let packed = &pack(&text);
    let count = case.commands.len();
    let selection = match case.how {
        How::Transaction => Selection::of(packed, count + 1, 1),
        _ => Selection::of(packed, 0, count),
    }
    .expect("there is a command");
    let mut state = DedicatedState::new(NodeIndex::new(0), KeyCheck::Owned);
    let operation = match case.how {
        How::Dedicated => state.pipeline(router, scripts, packed, selection.kind),
        _ => router
            .route_pipeline(packed, selection.kind, &|| scripts.snapshot(), case.entropy)
            .map(|planned| PipelineOperation::new(router, scripts, planned, case.entropy)),
    };
    let operation = operation.expect("it is not refused");
    match run(operation, &mut beginning(), nodes) {
        Ok(replies) => {
            let results = replies.clone().each(router, packed);
            assert_eq!(results.len(), count);
            for (text, result) in case.commands.iter().zip(&results) {
                match result {
                    Ok(reply) => check_reply(text, &show(reply), &nodes.applied),
                    Err(error) => check_error(text, error, &nodes.applied),
                }
            }
            match replies.whole(router, packed, None) {
                Ok(values) => assert_eq!(selection.select(values).len(), selection.count),
                Err(error) => check_whole(case, &error, &nodes.applied),
            }
        }
        Err(error) if matches!(case.how, How::Dedicated) => {
            // One error for all: those before it may have been applied.
            assert!(error.kind() != ErrorKind::Redis, "{error}");
        }
        // A transaction is sent as one write, whatever is in it.
        Err(error) if error.kind() == ErrorKind::Unknown => {}
        Err(error) => {
            for text in &case.commands {
                check_error(text, &error, &nodes.applied);
            }
        }
    }
}

fn is_write(text: &str) -> bool {
    !["GET ", "MGET ", "ECHO ", "KEYS ", "FCALL_RO "]
        .iter()
        .any(|read| text.starts_with(read))
}

/// A reply is that to its own command, or an error that is true.
fn check_reply(text: &str, reply: &str, applied: &HashMap<String, usize>) {
    let times = applied.get(text).copied().unwrap_or(0);
    match reply.strip_prefix(['!', '-']) {
        None => {
            assert_eq!(reply, show(&right_reply(text)), "the reply to {text}");
            let is_whole = is_write(text) && !text.starts_with("MSET");
            assert!(!is_whole || times == 1, "{text} was acknowledged");
        }
        Some(error) if error.starts_with("unknown") => {
            assert!(is_write(text), "{text} changes nothing: {reply}");
        }
        Some(error) if error.starts_with("partial") => {}
        Some(_) => assert_eq!(times, 0, "{text} was applied, and failed with {reply}"),
    }
}

fn check_error(text: &str, error: &Error, applied: &HashMap<String, usize>) {
    let parts = error.parts();
    if parts.is_empty() {
        return check_reply(text, &show_error(error), applied);
    }
    for part in parts.iter().filter(|part| !part.keys.is_empty()) {
        let key = part.keys[0].escape_ascii().to_string();
        let is_of_part = |sent: &&String| sent.starts_with("MSET") && sent.contains(&key);
        let times: usize = applied
            .keys()
            .filter(is_of_part)
            .map(|sent| applied[sent])
            .sum();
        match part.status {
            PartStatus::Failed => assert_eq!(times, 0, "{text}: {part:?}"),
            PartStatus::Done => assert!(!is_write(text) || times == 1, "{text}: {part:?}"),
            PartStatus::Unknown => assert!(is_write(text), "{text}: {part:?}"),
        }
    }
}

/// The error of a whole pipeline says of each key what is true.
fn check_whole(case: &Case, error: &Error, applied: &HashMap<String, usize>) {
    assert!(error.missing_reply().is_some(), "{error}");
    assert!(!error.parts().is_empty(), "{error}");
    if error.is_retryable() {
        assert!(applied.is_empty(), "{error}: {applied:?}");
    }
    for part in error.parts() {
        for key in &part.keys {
            let key = key.escape_ascii().to_string();
            let has_key = |text: &&String| text.split(' ').any(|word| word == key);
            let text = case.commands.iter().find(has_key).expect("its command");
            // A part of a split command has fewer keys than the command.
            let times: usize = applied
                .keys()
                .filter(has_key)
                .map(|sent| applied[sent])
                .sum();
            match part.status {
                PartStatus::Failed => assert_eq!(times, 0, "{text}: {part:?}"),
                PartStatus::Done => assert!(!is_write(text) || times == 1, "{text}: {part:?}"),
                PartStatus::Unknown => assert!(is_write(text), "{text}: {part:?}"),
            }
        }
    }
}

#[test]
fn every_operation_ends_under_random_faults_and_no_write_is_applied_twice_or_misreported() {
    let runs = std::env::var("REDIS_SHARDING_SIMULATION_RUNS").ok();
    let runs = runs.map_or(RUNS, |runs| runs.parse().expect("a number of runs"));
    let mut runner = proptest::test_runner::TestRunner::new(Config {
        cases: runs,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&cases(), |case| {
        check(&case);
        Ok(())
    });
    if let Err(failed) = result {
        panic!("{failed}");
    }
}
