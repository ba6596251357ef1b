//! Everything at once: many users of both clients, over nodes that break in every way, and a model of what must be true.
//!
//! Every user has keys of its own and keeps account of each write: acknowledged, unknown, or certainly not done. Whatever
//! happens, an acknowledged write is there, nothing is done twice, what was said not to be done was not done, and every
//! answer belongs to its question. `CHAOS_SEED` repeats the choices (though not the timing), `CHAOS_SECONDS` prolongs it.
#![cfg(feature = "testing")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use redis::{Cmd, Pipeline, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, Error, ErrorKind, PartStatus, ShardedClient};

const NODES: usize = 4;
const KEYS: usize = 6;
const TIMEOUT: Duration = Duration::from_millis(150);
/// One command of so many is met by a fault.
const FAULTS_ONE_IN: u64 = 150;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What became of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Unknown,
    NotDone,
}

fn fate_of_kind(kind: ErrorKind) -> Fate {
    match kind {
        ErrorKind::Unknown => Fate::Unknown,
        // An error of the server: the faults say that it did nothing.
        ErrorKind::NodeDown | ErrorKind::PoolTimeout | ErrorKind::Redis | ErrorKind::Timeout => {
            Fate::NotDone
        }
        other => panic!("{other:?} is no answer to these requests"),
    }
}

/// A string that is set again and again.
struct Text {
    key: String,
    acknowledged: Option<u64>,
    /// Writes of unknown fate. They may be applied late, so they stay possible for ever.
    possible: BTreeSet<u64>,
}

impl Text {
    fn wrote(&mut self, number: u64, fate: Fate) {
        match fate {
            Fate::Done => self.acknowledged = Some(number),
            Fate::Unknown => drop(self.possible.insert(number)),
            Fate::NotDone => {}
        }
    }

    fn value(&self, number: u64) -> String {
        format!("{}={number}", self.key)
    }

    fn read(&self, value: &Value) {
        let number = match value {
            Value::Nil => None,
            Value::BulkString(text) => {
                let text = std::str::from_utf8(text).expect("text");
                let (key, number) = text.split_once('=').expect("a value of ours");
                assert_eq!(key, self.key, "an answer to another question");
                Some(number.parse::<u64>().expect("a number"))
            }
            other => panic!("GET {} answered {other:?}", self.key),
        };
        assert!(
            number == self.acknowledged || number.is_some_and(|n| self.possible.contains(&n)),
            "{} is {number:?}, acknowledged was {:?}, possible are {:?}",
            self.key,
            self.acknowledged,
            self.possible,
        );
    }
}

#[derive(Default)]
struct Counter {
    key: String,
    acknowledged: i64,
    possible: i64,
    last: i64,
}

impl Counter {
    fn added(&mut self, by: i64, fate: Fate) {
        match fate {
            Fate::Done => self.acknowledged += by,
            Fate::Unknown => self.possible += by,
            Fate::NotDone => {}
        }
    }

    fn read(&mut self, value: &Value) {
        let Value::Int(now) = *value else {
            panic!("INCR {} answered {value:?}", self.key);
        };
        assert!(now > self.last, "{}: {now} after {}", self.key, self.last);
        self.last = now;
    }

    fn check(&self, now: i64) {
        assert!(
            (self.acknowledged..=self.acknowledged + self.possible).contains(&now),
            "{} is {now}; {} were acknowledged, {} are unknown",
            self.key,
            self.acknowledged,
            self.possible,
        );
    }
}

/// A list that is pushed to.
struct Log {
    key: String,
    acknowledged: BTreeSet<u64>,
    possible: BTreeSet<u64>,
}

impl Log {
    fn wrote(&mut self, number: u64, fate: Fate) {
        match fate {
            Fate::Done => drop(self.acknowledged.insert(number)),
            Fate::Unknown => drop(self.possible.insert(number)),
            Fate::NotDone => {}
        }
    }

    fn check(&self, items: Vec<String>) {
        let mut seen = BTreeSet::new();
        for item in items {
            let (key, number) = item.split_once('=').expect("an item of ours");
            let number: u64 = number.parse().expect("a number");
            assert_eq!(key, self.key);
            assert!(seen.insert(number), "{item} was pushed twice");
            assert!(
                self.acknowledged.contains(&number) || self.possible.contains(&number),
                "{item} is there, and was said not to be"
            );
        }
        let lost: Vec<_> = self.acknowledged.difference(&seen).collect();
        assert!(
            lost.is_empty(),
            "{}: {lost:?} were acknowledged and are lost",
            self.key
        );
    }
}

/// One user and what it believes.
struct User {
    random: Random,
    texts: Vec<Text>,
    counters: Vec<Counter>,
    logs: Vec<Log>,
    number: u64,
    answered: u64,
    failed: u64,
}

/// What a user does next; numbers are places of keys and values written.
enum Deed {
    Set(usize, u64),
    Get(usize),
    Incr(usize),
    Push(usize, u64),
    MGet(Vec<usize>),
    MSet(u64),
    Pipe(Vec<Deed>),
    /// Pushes to a log and adds one to its counter.
    Atomic(usize, u64),
    /// The same after watching both.
    Watched(usize, u64),
}

enum Request {
    Cmd(Cmd),
    Pipe(Pipeline),
    Atomic(Pipeline),
    Watched([String; 2], Pipeline),
}

type Outcome = Result<Value, Error>;

/// The results of a pipeline as one array, in which each error is a reply with the word of its kind.
fn as_replies(results: Vec<Result<Value, Error>>) -> Value {
    let reply = |error: Error| {
        let code = error.kind().code();
        let plain = || redis::make_extension_error(code.into(), None);
        let error = redis::ServerError::try_from(redis::RedisError::from(error));
        let error = error.or_else(|_| redis::ServerError::try_from(plain()));
        Value::ServerError(error.expect("an extension error is a server's"))
    };
    let replies = results.into_iter();
    Value::Array(replies.map(|result| result.unwrap_or_else(reply)).collect())
}

impl User {
    fn new(name: &str, seed: u64) -> Self {
        // A log and a counter of one number live together, for transactions.
        let key = |kind: &str, at: usize| match kind {
            "text" => format!("{name}:text:{at}"),
            _ => format!("{{{name}:{at}}}:{kind}"),
        };
        Self {
            random: Random(seed),
            texts: (0..KEYS)
                .map(|at| Text {
                    key: key("text", at),
                    acknowledged: None,
                    possible: BTreeSet::new(),
                })
                .collect(),
            counters: (0..KEYS)
                .map(|at| Counter {
                    key: key("counter", at),
                    ..Counter::default()
                })
                .collect(),
            logs: (0..KEYS)
                .map(|at| Log {
                    key: key("log", at),
                    acknowledged: BTreeSet::new(),
                    possible: BTreeSet::new(),
                })
                .collect(),
            number: 0,
            answered: 0,
            failed: 0,
        }
    }

    fn choose(&mut self) -> Deed {
        match self.random.below(10) {
            0 => {
                let count = self.random.below(12) as usize;
                Deed::MGet((0..=count).map(|_| self.place()).collect())
            }
            1 => {
                self.number += 1;
                Deed::MSet(self.number)
            }
            2 | 3 => {
                let count = self.random.below(12);
                let mut deeds: Vec<Deed> = (0..=count).map(|_| self.choose_single()).collect();
                let places = (0..4).map(|_| self.place()).collect();
                deeds.push(Deed::MGet(places));
                Deed::Pipe(deeds)
            }
            4 => {
                self.number += 1;
                match self.random.below(2) {
                    0 => Deed::Atomic(self.place(), self.number),
                    _ => Deed::Watched(self.place(), self.number),
                }
            }
            _ => self.choose_single(),
        }
    }

    fn choose_single(&mut self) -> Deed {
        let at = self.place();
        self.number += 1;
        match self.random.below(4) {
            0 => Deed::Set(at, self.number),
            1 => Deed::Get(at),
            2 => Deed::Incr(at),
            _ => Deed::Push(at, self.number),
        }
    }

    fn place(&mut self) -> usize {
        self.random.below(KEYS as u64) as usize
    }

    fn cmd(&self, deed: &Deed) -> Cmd {
        let mut request = Cmd::new();
        match *deed {
            Deed::Set(at, number) => {
                let text = &self.texts[at];
                request.arg("SET").arg(&text.key).arg(text.value(number))
            }
            Deed::Get(at) => request.arg("GET").arg(&self.texts[at].key),
            Deed::Incr(at) => request.arg("INCR").arg(&self.counters[at].key),
            Deed::Push(at, number) => {
                let key = &self.logs[at].key;
                request.arg("RPUSH").arg(key).arg(format!("{key}={number}"))
            }
            Deed::MGet(ref places) => {
                request.arg("MGET");
                for &at in places {
                    request.arg(&self.texts[at].key);
                }
                &mut request
            }
            Deed::MSet(number) => {
                request.arg("MSET");
                for text in &self.texts {
                    request.arg(&text.key).arg(text.value(number));
                }
                &mut request
            }
            Deed::Pipe(_) | Deed::Atomic(..) | Deed::Watched(..) => {
                unreachable!("no single command")
            }
        };
        request
    }

    fn request(&self, deed: &Deed) -> Request {
        match deed {
            Deed::Pipe(deeds) => {
                let mut pipeline = pipe();
                for deed in deeds {
                    pipeline.add_command(self.cmd(deed));
                }
                Request::Pipe(pipeline)
            }
            &Deed::Atomic(at, number) | &Deed::Watched(at, number) => {
                let mut pipeline = pipe();
                pipeline
                    .atomic()
                    .add_command(self.cmd(&Deed::Push(at, number)))
                    .add_command(self.cmd(&Deed::Incr(at)));
                let keys = [self.logs[at].key.clone(), self.counters[at].key.clone()];
                match deed {
                    Deed::Watched(..) => Request::Watched(keys, pipeline),
                    _ => Request::Atomic(pipeline),
                }
            }
            single => Request::Cmd(self.cmd(single)),
        }
    }

    /// Takes the answer; `None` when nobody waited for it.
    fn hear(&mut self, deed: &Deed, outcome: Option<Outcome>) {
        match (deed, outcome) {
            (Deed::Pipe(deeds), Some(Ok(Value::Array(answers)))) => {
                assert_eq!(answers.len(), deeds.len());
                for (deed, answer) in deeds.iter().zip(answers) {
                    match answer {
                        Value::ServerError(error) => {
                            let kind = ErrorKind::of(&redis::RedisError::from(error));
                            self.hear_one(deed, None, Some(kind), None);
                        }
                        answer => self.hear_one(deed, Some(&answer), None, None),
                    }
                }
            }
            (Deed::Pipe(deeds), None) => {
                for deed in deeds {
                    self.hear_one(deed, None, Some(ErrorKind::Unknown), None);
                }
            }
            (Deed::Pipe(_), Some(other)) => panic!("a pipeline answered {other:?}"),
            (deed, None) => self.hear_one(deed, None, Some(ErrorKind::Unknown), None),
            (deed, Some(Ok(value))) => self.hear_one(deed, Some(&value), None, None),
            (deed, Some(Err(error))) => {
                self.hear_one(deed, None, Some(error.kind()), Some(&error));
            }
        }
    }

    fn hear_one(
        &mut self,
        deed: &Deed,
        answer: Option<&Value>,
        kind: Option<ErrorKind>,
        error: Option<&Error>,
    ) {
        match answer {
            Some(_) => self.answered += 1,
            None => self.failed += 1,
        }
        let whole = match kind {
            None => Fate::Done,
            Some(ErrorKind::Partial) => Fate::Unknown,
            Some(kind) => fate_of_kind(kind),
        };
        match *deed {
            Deed::Set(at, number) => {
                self.texts[at].wrote(number, whole);
                assert!(answer.is_none_or(|answer| *answer == Value::Okay));
            }
            Deed::Get(at) => {
                if let Some(value) = answer {
                    self.texts[at].read(value);
                }
            }
            Deed::Incr(at) => {
                self.counters[at].added(1, whole);
                if let Some(value) = answer {
                    self.counters[at].read(value);
                }
            }
            Deed::Push(at, number) => {
                self.logs[at].wrote(number, whole);
                assert!(answer.is_none_or(|answer| matches!(answer, Value::Int(1..))));
            }
            Deed::MGet(ref places) => {
                if let Some(answer) = answer {
                    let Value::Array(values) = answer else {
                        panic!("MGET answered {answer:?}");
                    };
                    assert_eq!(values.len(), places.len());
                    for (&at, value) in places.iter().zip(values) {
                        self.texts[at].read(value);
                    }
                }
            }
            Deed::MSet(number) => {
                let parts = error.map(Error::parts).unwrap_or_default();
                for text in &mut self.texts {
                    let part = parts
                        .iter()
                        .find(|part| part.keys.iter().any(|key| *key == text.key.as_bytes()));
                    let fate = part.map_or(whole, |part| match part.status {
                        PartStatus::Done => Fate::Done,
                        PartStatus::Failed => Fate::NotDone,
                        _ => Fate::Unknown,
                    });
                    text.wrote(number, fate);
                }
            }
            Deed::Atomic(at, number) | Deed::Watched(at, number) => {
                self.counters[at].added(1, whole);
                self.logs[at].wrote(number, whole);
                match answer {
                    None => {}
                    Some(Value::Array(values)) if values.len() == 2 => {
                        assert!(matches!(values[0], Value::Int(1..)));
                        self.counters[at].read(&values[1]);
                    }
                    Some(other) => panic!("EXEC answered {other:?}"),
                }
            }
            Deed::Pipe(_) => unreachable!("pipelines hold no pipelines"),
        }
    }

    /// Takes the error of a transaction.
    fn hear_failed(&mut self, deed: &Deed, error: &redis::RedisError) {
        // With MULTI refused, the server runs what follows as if there were none.
        let kind = match error.to_string().contains("one by one") {
            true => ErrorKind::Unknown,
            false => ErrorKind::of(error),
        };
        self.hear_one(deed, None, Some(kind), None);
    }

    /// Compares what is there with what must be.
    fn check(&self, client: &ShardedClient) {
        let ask = |name: &str, key: &str| client.execute(cmd(name).arg(key)).expect("it is healed");
        for text in &self.texts {
            text.read(&ask("GET", &text.key));
        }
        for counter in &self.counters {
            let now = redis::from_redis_value::<Option<i64>>(ask("GET", &counter.key)).unwrap();
            counter.check(now.unwrap_or(0));
        }
        for log in &self.logs {
            let items = client.execute(cmd("LRANGE").arg(&log.key).arg(0).arg(-1));
            log.check(redis::from_redis_value(items.unwrap()).unwrap());
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("CHAOS_SEED").ok().map_or_else(
        || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |seed| seed.parse().expect("CHAOS_SEED is a number"),
    );
    println!("CHAOS_SEED={seed}");
    seed
}

fn duration() -> Duration {
    let seconds = std::env::var("CHAOS_SECONDS").map_or(3, |seconds| {
        seconds.parse().expect("CHAOS_SECONDS is a number")
    });
    Duration::from_secs(seconds)
}

/// Nodes that answer some commands with a fault.
fn nodes(seed: u64) -> (Arc<Vec<TestNode>>, Builder) {
    let nodes = TestNode::start_many(NODES).unwrap();
    let faults = [
        Fault::CloseAfter,
        Fault::CloseBefore,
        Fault::HalfReplyThenClose,
        Fault::HalfReplyThenHang,
        Fault::HangAfter,
        Fault::HangBefore,
        Fault::Delay(TIMEOUT / 3),
        Fault::Delay(TIMEOUT * 2),
        Fault::Trickle(Duration::from_millis(1)),
        Fault::Error("OOM command not allowed when used memory > 'maxmemory'.".into()),
        Fault::Garbage(b"?\r\n".to_vec()),
    ];
    let one_in = FAULTS_ONE_IN * faults.len() as u64;
    for (number, node) in (0..).zip(&nodes) {
        for (kind, fault) in (0..).zip(&faults) {
            let dice = AtomicU64::new(seed ^ (number << 8) ^ kind);
            node.fail_if(
                move |command| {
                    let mut random = Random(dice.fetch_add(1, Ordering::Relaxed));
                    command.name() != "CLIENT" && random.below(one_in) == 0
                },
                fault.clone(),
                usize::MAX,
            );
        }
    }
    let builder = (0..)
        .zip(&nodes)
        .fold(ShardedClient::builder(), |builder, (number, node)| {
            builder.node(format!("node-{number}"), node.url())
        })
        .response_timeout(TIMEOUT)
        .connect_timeout(TIMEOUT)
        .pool_size(4)
        .blocking_pool_size(3);
    (Arc::new(nodes), builder)
}

/// Breaks connections and stops nodes until it is told to end.
fn breaker(nodes: &Arc<Vec<TestNode>>, seed: u64) -> impl FnOnce() {
    let ended = Arc::new(AtomicBool::new(false));
    let (nodes, end) = (Arc::clone(nodes), Arc::clone(&ended));
    let thread = std::thread::spawn(move || {
        let mut random = Random(seed);
        while !ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20 + random.below(150)));
            let node = &nodes[random.below(NODES as u64) as usize];
            match random.below(3) {
                0 => {
                    node.stop();
                    std::thread::sleep(Duration::from_millis(random.below(200)));
                    node.restart().unwrap();
                }
                _ => node.close_connections(),
            }
        }
    });
    move || {
        end.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

/// Everything is well again; compares.
fn settle(nodes: &[TestNode], users: &[User]) {
    for node in nodes {
        node.heal().unwrap();
    }
    // Late writes have come by then.
    std::thread::sleep(TIMEOUT * 3);
    let client = (0..)
        .zip(nodes)
        .fold(ShardedClient::builder(), |builder, (number, node)| {
            builder.node(format!("node-{number}"), node.url())
        })
        .build()
        .unwrap();
    users.iter().for_each(|user| user.check(&client));
    let sum = |count: fn(&User) -> u64| users.iter().map(count).sum::<u64>();
    let (answered, failed) = (sum(|user| user.answered), sum(|user| user.failed));
    println!("{answered} answered, {failed} failed");
    assert!(answered > 500, "only {answered} were answered");
    assert!(failed > 10, "only {failed} failed");
}

#[test]
fn blocking_client_reports_outcomes_truthfully_under_random_faults() {
    use redis::Commands;

    let seed = seed();
    let (nodes, builder) = nodes(seed);
    let client = builder.build().unwrap();
    let stop = breaker(&nodes, seed);
    let end = Instant::now() + duration();
    let users: Vec<User> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let mut client = client.clone();
                let mut user = User::new(&format!("thread-{number}"), seed + number);
                scope.spawn(move || {
                    while Instant::now() < end {
                        let deed = user.choose();
                        let start = Instant::now();
                        let outcome = match user.request(&deed) {
                            Request::Cmd(cmd) => client.execute(&cmd),
                            Request::Pipe(pipeline) => {
                                client.execute_pipeline(&pipeline).map(as_replies)
                            }
                            Request::Atomic(pipeline) => {
                                match pipeline.query::<Value>(&mut client) {
                                    Ok(value) => Ok(value),
                                    Err(error) => {
                                        user.hear_failed(&deed, &error);
                                        continue;
                                    }
                                }
                            }
                            Request::Watched(keys, pipeline) => {
                                let ran = client.transaction(&keys, |connection, _| {
                                    let _: Value = connection.get(&keys[1])?;
                                    pipeline.query::<Option<Value>>(connection)
                                });
                                match ran {
                                    Ok(value) => Ok(value),
                                    Err(error) => {
                                        user.hear_failed(&deed, &error);
                                        continue;
                                    }
                                }
                            }
                        };
                        let took = start.elapsed();
                        assert!(took < TIMEOUT * 20, "an answer after {took:?}");
                        user.hear(&deed, Some(outcome));
                    }
                    user
                })
            })
            .collect();
        let users = threads.into_iter().map(|thread| thread.join().unwrap());
        users.collect()
    });
    stop();
    settle(&nodes, &users);
    let open: usize = nodes.iter().map(TestNode::connections).sum();
    drop(client);
    println!("{open} connections at the end");
}

#[cfg(feature = "tokio-comp")]
#[test]
fn async_client_reports_outcomes_truthfully_under_random_faults() {
    use redis::AsyncCommands;
    use redis_sharding::aio;

    let seed = seed();
    let (nodes, builder) = nodes(seed);
    let client = builder.build_async().unwrap();
    let stop = breaker(&nodes, seed);
    let end = Instant::now() + duration();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let users: Vec<User> = runtime.block_on(async {
        let tasks: Vec<_> = (0..32)
            .map(|number| {
                let mut client = client.clone();
                let mut user = User::new(&format!("task-{number}"), seed + number);
                tokio::spawn(async move {
                    while Instant::now() < end {
                        let deed = user.choose();
                        let request = user.request(&deed);
                        let impatient = user.random.below(20) == 0;
                        let ask = async {
                            match request {
                                Request::Cmd(cmd) => client.execute(&cmd).await.map_err(Some),
                                Request::Pipe(pipeline) => {
                                    let results = client.execute_pipeline(&pipeline).await;
                                    results.map(as_replies).map_err(Some)
                                }
                                Request::Atomic(pipeline) => {
                                    match pipeline.query_async::<Value>(&mut client).await {
                                        Ok(value) => Ok(value),
                                        Err(error) => {
                                            user.hear_failed(&deed, &error);
                                            Err(None)
                                        }
                                    }
                                }
                                Request::Watched(keys, pipeline) => {
                                    let key = keys[1].clone();
                                    let attempt = async move |connection: &mut aio::Dedicated, _: &mut Pipeline| {
                                        let _: Value = connection.get(&key).await?;
                                        pipeline.query_async::<Option<Value>>(connection).await
                                    };
                                    let ran = client.transaction(keys.to_vec(), attempt).await;
                                    match ran {
                                        Ok(value) => Ok(value),
                                        Err(error) => {
                                            user.hear_failed(&deed, &error);
                                            Err(None)
                                        }
                                    }
                                }
                            }
                        };
                        // Some futures are dropped before they are done.
                        let patience = match impatient {
                            true => Duration::from_micros(300),
                            false => TIMEOUT * 20,
                        };
                        match tokio::time::timeout(patience, ask).await {
                            Ok(Ok(value)) => user.hear(&deed, Some(Ok(value))),
                            Ok(Err(Some(error))) => user.hear(&deed, Some(Err(error))),
                            Ok(Err(None)) => {}
                            Err(_) if impatient => user.hear(&deed, None),
                            Err(_) => panic!("no answer within {patience:?}"),
                        }
                    }
                    user
                })
            })
            .collect();
        let mut users = Vec::new();
        for task in tasks {
            users.push(task.await.unwrap());
        }
        users
    });
    stop();
    drop(client);
    // Whatever ran for the client ends with it.
    let start = Instant::now();
    while runtime.metrics().num_alive_tasks() > 0 {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{} tasks are left",
            runtime.metrics().num_alive_tasks()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    settle(&nodes, &users);
}
