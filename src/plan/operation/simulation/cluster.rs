//! Requests to a Redis Cluster whose slots move by chance, key by key, while they are under way.
//!
//! The client's map knows three primaries; a fourth server takes part in the moves without being in the map. What holds
//! in every run: a write is applied once, or its reply says that it was not; a read sees every earlier write of its
//! request; the writes of one request to one key are applied in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::Config;
use redis::{Value, cmd};

use super::world::{Nodes, Scripts, beginning, run};
use crate::command::{Args, CommandTable, PackedCommands};
use crate::error::server_error;
use crate::hash::{HashTag, slot};
use crate::partition::NodeIndex;
use crate::plan::operation::{CommandOperation, PipelineOperation, Request};
use crate::plan::{
    Answers, Attempt, Cause, ExpectedEnd, Failure, PipelineKind, ReplyBuffer, Router, SplitWrites,
    parse_one,
};
use crate::topology::HostPort;
use crate::topology::cluster::ClusterMap;

/// The servers. The last is not in the client's map.
const SERVERS: u16 = 4;

/// How many runs by default. `REDIS_SHARDING_SIMULATION_RUNS` asks for more.
const RUNS: u32 = 500;

/// Tags of the keys; each has a slot of its own.
const TAGS: [&str; 3] = ["{a}", "{b}", "{c}"];

fn address(server: u16) -> HostPort {
    HostPort {
        host: format!("server-{server}"),
        port: 7000,
    }
}

/// A slot of the cluster.
#[derive(Debug)]
struct Slot {
    owner: u16,
    /// Where it moves to, if it does.
    target: Option<u16>,
    /// The keys that are at the target already.
    moved: BTreeSet<String>,
}

/// The servers of a cluster, and a tape of random bytes that says what happens to them.
struct Servers<'t> {
    tape: std::slice::Iter<'t, u8>,
    slots: BTreeMap<u16, Slot>,
    values: BTreeMap<String, Vec<String>>,
    /// True while all servers refuse commands with keys.
    is_down: bool,
    /// Server whose connections break before anything is sent.
    unreachable: Option<u16>,
    waves: usize,
    /// True if slots stay half moved after the end of the tape.
    rests: bool,
}

impl Servers<'_> {
    fn pick(&mut self, limit: usize) -> usize {
        self.tape.next().map_or(0, |&byte| usize::from(byte)) % limit
    }

    /// Something happens. After the end of the tape all slots are at rest, and everything is reachable.
    fn happen(&mut self) {
        if self.tape.len() == 0 {
            self.is_down = false;
            self.unreachable = None;
            if !self.rests {
                for slot in self.slots.values_mut() {
                    slot.finish();
                }
            }
            return;
        }
        let server = self.pick(SERVERS.into()) as u16;
        let tag = TAGS[self.pick(TAGS.len())];
        let key = format!("{tag}{}", self.pick(3));
        let event = self.pick(8);
        let slot = self.slots.get_mut(&slot_of(tag)).expect("a slot of a tag");
        match event {
            0 | 1 if slot.target.is_none() && server != slot.owner => slot.target = Some(server),
            2 | 3 if slot.target.is_some() && self.values.contains_key(&key) => {
                slot.moved.insert(key);
            }
            4 => slot.finish(),
            5 => self.is_down = !self.is_down,
            6 => {
                self.unreachable = match self.unreachable {
                    None => Some(server),
                    Some(_) => None,
                }
            }
            _ => {}
        }
    }

    /// The error of a server that does not serve these keys.
    fn refusal(&self, server: u16, keys: &[&str], is_asking: bool) -> Option<Value> {
        let first = keys.first()?;
        let number = slot_of(first);
        let slot = &self.slots[&number];
        let error = |code: &str, text: String| Some(Value::ServerError(server_error(code, &text)));
        if self.is_down {
            return error("CLUSTERDOWN", "The cluster is down".into());
        }
        let there = |server: u16, key: &&&str| {
            let is_moved = slot.moved.contains(**key) || !self.values.contains_key(**key);
            match Some(server) == slot.target {
                true => is_moved && self.values.contains_key(**key),
                false => !is_moved,
            }
        };
        let present = keys.iter().filter(|key| there(server, key)).count();
        let try_again = || {
            error(
                "TRYAGAIN",
                "Multiple keys request during rehashing of slot".into(),
            )
        };
        if server == slot.owner {
            return match slot.target {
                Some(_) if present == keys.len() => None,
                Some(target) if present == 0 => {
                    error("ASK", format!("{number} {}", address(target)))
                }
                Some(_) => try_again(),
                None => None,
            };
        }
        match Some(server) == slot.target && is_asking {
            true if keys.len() > 1 && present < keys.len() => try_again(),
            true => None,
            false => error("MOVED", format!("{number} {}", address(slot.owner))),
        }
    }

    /// Carries out one command that is not refused.
    fn serve(&mut self, server: u16, args: &[&str]) -> Value {
        match args[0] {
            "APPEND" => {
                self.write(server, args[1], args[2]);
                Value::Int(self.values[args[1]].len() as i64)
            }
            "MSET" => {
                for pair in args[1..].chunks(2) {
                    self.write(server, pair[0], pair[1]);
                }
                Value::Okay
            }
            "GET" => self.read(args[1]),
            "MGET" => Value::Array(args[1..].iter().map(|key| self.read(key)).collect()),
            other => panic!("{other} is not simulated"),
        }
    }

    fn write(&mut self, server: u16, key: &str, text: &str) {
        let is_new = !self.values.contains_key(key);
        let slot = self.slots.get_mut(&slot_of(key)).expect("a slot of a tag");
        if is_new && slot.target == Some(server) {
            slot.moved.insert(key.to_owned());
        }
        self.values
            .entry(key.to_owned())
            .or_default()
            .push(text.to_owned());
    }

    fn read(&self, key: &str) -> Value {
        match self.values.get(key) {
            Some(texts) => Value::BulkString(texts.join(" ").into_bytes()),
            None => Value::Nil,
        }
    }

    /// The replies of a server to the requests of one attempt.
    fn reply_all(&mut self, server: u16, attempt: &Attempt<'_>) -> Vec<Value> {
        let mut commands = PackedCommands::new(&attempt.request.packed);
        let (mut args, mut replies) = (Args::new(), Vec::new());
        let mut is_asking = false;
        let mut queued: Option<Vec<Vec<String>>> = None;
        let mut is_aborted = false;
        while let Ok(Some(_)) = commands.next(&mut args) {
            let words: Vec<String> = args
                .iter()
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let reply = match words[0] {
                "ASKING" => {
                    is_asking = true;
                    replies.push(Value::Okay);
                    continue;
                }
                "MULTI" => {
                    queued = Some(Vec::new());
                    replies.push(Value::Okay);
                    continue;
                }
                "EXEC" => {
                    let queued = queued.take().expect("MULTI");
                    let all: Vec<&str> = queued.iter().flat_map(|words| keys_of(words)).collect();
                    let distinct: BTreeSet<&str> = all.into_iter().collect();
                    let distinct: Vec<&str> = distinct.into_iter().collect();
                    if is_aborted {
                        let text = "Transaction discarded because of previous errors.";
                        Value::ServerError(server_error("EXECABORT", text))
                    } else if let Some(refusal) = self.refusal(server, &distinct, is_asking) {
                        refusal
                    } else {
                        let each = |words: &Vec<String>| {
                            let words: Vec<&str> = words.iter().map(String::as_str).collect();
                            self.serve(server, &words)
                        };
                        Value::Array(queued.iter().map(each).collect())
                    }
                }
                _ => {
                    let owned: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
                    let refusal = self.refusal(server, &keys_of(&owned), is_asking);
                    match (&mut queued, refusal) {
                        (Some(_), Some(refusal)) => {
                            is_aborted = true;
                            refusal
                        }
                        (Some(queued), None) => {
                            queued.push(owned);
                            Value::SimpleString("QUEUED".into())
                        }
                        (None, Some(refusal)) => refusal,
                        (None, None) => self.serve(server, &words),
                    }
                }
            };
            is_asking &= queued.is_some();
            replies.push(reply);
            // Slots also move between two commands of one pipeline.
            if attempt.request.ending != ExpectedEnd::Exec {
                self.happen();
            }
        }
        replies
    }
}

impl Slot {
    fn finish(&mut self) {
        if let Some(target) = self.target.take() {
            self.owner = target;
        }
        self.moved.clear();
    }
}

impl Nodes<Vec<Value>> for Servers<'_> {
    fn wave(
        &mut self,
        attempts: &[Attempt<'_>],
        now: &mut Instant,
        _: Option<Instant>,
    ) -> Vec<Answers> {
        self.waves += 1;
        assert!(self.waves < 5000, "requests go round in circles");
        *now += Duration::from_micros(100);
        let each = |attempt: &Attempt<'_>| {
            self.happen();
            let node = attempt.request.node.get() as u16;
            let server = match attempt.request.server() {
                Some(named) => (0..SERVERS)
                    .find(|&server| address(server) == *named)
                    .expect("a server that there is"),
                None => node,
            };
            if self.unreachable == Some(server) {
                let refused = Cause::Connect("refused".into());
                return Answers::failed(Failure::not_sent(refused));
            }
            let values = self.reply_all(server, attempt);
            let asking = usize::from(attempt.request.packed.starts_with(b"*1\r\n$6\r\nASKING"));
            assert!(values.count() >= attempt.request.slots.len().min(1 + asking));
            Answers {
                values,
                failure: None,
            }
        };
        attempts.iter().map(each).collect()
    }
}

fn slot_of(key: &str) -> u16 {
    slot(HashTag::Braces.of(key.as_bytes()))
}

/// The keys of a command.
fn keys_of(words: &[String]) -> Vec<&str> {
    let step = if words[0] == "MSET" { 2 } else { 1 };
    let end = if words[0] == "APPEND" { 2 } else { words.len() };
    words[1..end]
        .iter()
        .step_by(step)
        .map(String::as_str)
        .collect()
}

/// A command of a request. Every write has a text of its own.
fn command() -> impl Strategy<Value = (u8, usize, usize, usize)> {
    (0..4_u8, 0..TAGS.len(), 0..3_usize, 0..3_usize)
}

fn packed_command(
    number: usize,
    (kind, tag, first, second): (u8, usize, usize, usize),
) -> redis::Cmd {
    let tag = TAGS[tag];
    let (first, second) = (format!("{tag}{first}"), format!("{tag}{second}"));
    let text = format!("w{number}");
    match kind {
        0 => cmd("APPEND").arg(first).arg(text).take(),
        1 => cmd("GET").arg(first).take(),
        2 if first != second => {
            let other = format!("{text}b");
            cmd("MSET")
                .arg(first)
                .arg(text)
                .arg(second)
                .arg(other)
                .take()
        }
        2 => cmd("MSET").arg(first).arg(text).take(),
        _ => cmd("MGET").arg(first).arg(second).take(),
    }
}

fn cluster_router() -> Router {
    let known: Vec<HostPort> = (0..SERVERS - 1).map(address).collect();
    // All that the client believes may be wrong.
    let map = Arc::new(ClusterMap::new(known, |slot| {
        Some(NodeIndex::new(slot % 3))
    }));
    let topology = map.topology().expect("a topology");
    let table = std::borrow::Cow::Borrowed(CommandTable::built_in());
    Router::new(Arc::new(topology), table, SplitWrites::Allowed)
}

fn servers(tape: &[u8], rests: bool) -> Servers<'_> {
    let slots = TAGS.iter().zip(0..).map(|(tag, number)| {
        let slot = Slot {
            owner: number % SERVERS,
            target: None,
            moved: BTreeSet::new(),
        };
        (slot_of(tag), slot)
    });
    Servers {
        tape: tape.iter(),
        slots: slots.collect(),
        values: BTreeMap::new(),
        is_down: false,
        unreachable: None,
        waves: 0,
        rests,
    }
}

/// Checks what was applied against the replies to the commands of one request.
fn check(
    commands: &[redis::Cmd],
    replies: &[Result<Value, String>],
    applied: &BTreeMap<String, Vec<String>>,
) -> Result<(), TestCaseError> {
    let words = |command: &redis::Cmd| -> Vec<String> {
        let packed = command.get_packed_command();
        let args = parse_one(&packed).expect("a command");
        args.iter()
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect()
    };
    for (number, (command, reply)) in commands.iter().zip(replies).enumerate() {
        let words = words(command);
        let texts: Vec<(&String, &String)> = match &*words[0] {
            "APPEND" => vec![(&words[1], &words[2])],
            "MSET" => words[1..]
                .chunks(2)
                .map(|pair| (&pair[0], &pair[1]))
                .collect(),
            _ => Vec::new(),
        };
        for (key, text) in texts {
            let times = applied
                .get(key)
                .map_or(0, |all| all.iter().filter(|one| *one == text).count());
            let expected = usize::from(reply.is_ok());
            prop_assert_eq!(times, expected, "{:?} -> {:?}", &words, reply);
        }
        if let ("GET", Ok(Value::BulkString(read))) = (&*words[0], reply) {
            let read = String::from_utf8_lossy(read).into_owned();
            // Every write before it in the request that was applied is seen.
            for text in applied[&words[1]].iter() {
                let at: usize = text
                    .trim_matches(|c: char| !c.is_ascii_digit())
                    .parse()
                    .unwrap();
                if at < number {
                    prop_assert!(
                        read.split(' ').any(|one| one == text),
                        "{:?} misses {}",
                        &words,
                        text
                    );
                }
            }
        }
    }
    for texts in applied.values() {
        let order: Vec<usize> = texts
            .iter()
            .map(|text| {
                text.trim_matches(|c: char| !c.is_ascii_digit())
                    .parse()
                    .unwrap()
            })
            .collect();
        prop_assert!(order.is_sorted(), "applied out of order: {texts:?}");
    }
    Ok(())
}

fn config() -> Config {
    let runs = std::env::var("REDIS_SHARDING_SIMULATION_RUNS");
    Config {
        cases: runs.ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pipelines_over_moving_slots_apply_each_write_once_and_in_order(
        commands in prop::collection::vec(command(), 1..12),
        tape in prop::collection::vec(any::<u8>(), 0..400),
        rests in any::<bool>(),
    ) {
        let router = cluster_router();
        let mut servers = servers(&tape, rests);
        let commands: Vec<redis::Cmd> = commands
            .into_iter()
            .enumerate()
            .map(|(number, command)| packed_command(number, command))
            .collect();
        let packed: Vec<u8> = commands.iter().flat_map(redis::Cmd::get_packed_command).collect();
        let scripts = Scripts::default();
        let mut now = beginning();
        let operation =
            PipelineOperation::by_keys(&router, &scripts, &packed, PipelineKind::Plain, 0).unwrap();
        let replies = run(operation, &mut now, &mut servers).unwrap().each(&router, &packed);
        let replies: Vec<Result<Value, String>> = replies
            .into_iter()
            .map(|reply| reply.map_err(|error| error.to_string()))
            .collect();
        check(&commands, &replies, &servers.values)?;
    }

    #[test]
    fn transactions_over_moving_slots_run_once_or_not_at_all(
        inner in prop::collection::vec((0..4_u8, 0..3_usize, 0..3_usize), 1..5),
        tag in 0..TAGS.len(),
        tape in prop::collection::vec(any::<u8>(), 0..300),
        rests in any::<bool>(),
    ) {
        let router = cluster_router();
        let mut servers = servers(&tape, rests);
        let commands: Vec<redis::Cmd> = inner
            .into_iter()
            .enumerate()
            .map(|(number, (kind, first, second))| packed_command(number, (kind, tag, first, second)))
            .collect();
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for command in &commands {
            pipeline.add_command(command.clone());
        }
        let packed = pipeline.get_packed_pipeline();
        let scripts = Scripts::default();
        let mut now = beginning();
        let kind = PipelineKind::Atomic { commands: commands.len() };
        let operation = PipelineOperation::by_keys(&router, &scripts, &packed, kind, 0).unwrap();
        let result = run(operation, &mut now, &mut servers).map(|replies| replies.values);
        let replies: Vec<Result<Value, String>> = match result {
            Ok(mut values) => match values.pop() {
                Some(Value::Array(values)) => values.into_iter().map(Ok).collect(),
                other => panic!("EXEC: {other:?}"),
            },
            Err(error) => commands.iter().map(|_| Err(error.to_string())).collect(),
        };
        check(&commands, &replies, &servers.values)?;
    }

    #[test]
    fn commands_over_moving_slots_apply_once_or_not_at_all(
        command in command(),
        tape in prop::collection::vec(any::<u8>(), 0..200),
        rests in any::<bool>(),
    ) {
        let router = cluster_router();
        let mut servers = servers(&tape, rests);
        let command = packed_command(0, command);
        let packed = &command.get_packed_command();
        let args = &parse_one(packed).unwrap();
        let scripts = Scripts::default();
        let mut now = beginning();
        let request = Request { packed, args };
        let routed = router.route_by_keys(args);
        let operation: CommandOperation<'_, Vec<Value>> =
            CommandOperation::new(&router, &scripts, request, routed, (), 0);
        let reply = run(operation, &mut now, &mut servers).map_err(|error| error.to_string());
        match &reply {
            Ok(_) => check(&[command], &[reply], &servers.values)?,
            // The servers were out of reach until the deadline. A command that is sent key by key may be done in part.
            Err(error) => {
                prop_assert!(!error.contains("MOVED") && !error.contains("ASK"), "{error}");
                prop_assert!(servers.values.len() < 2);
            }
        }
    }
}
