//! Workers that know what each of their keys must hold, and check every reply, while somebody moves the keys.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, RedisResult, Value, cmd, pipe};
use redis_sharding::{ErrorKind, ShardedClient, Topology};

use super::all_clients::{AllClients, AnyClient, Random};
use super::servers::Servers;

/// Expiries lie this far ahead at least: no key goes while a test runs.
const FAR: i64 = 10_000_000;

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    Text(String),
    Number(i64),
    List(VecDeque<String>),
    Hash(BTreeMap<String, String>),
    Set(BTreeSet<String>),
    Sorted(BTreeMap<String, i64>),
    Stream(usize),
}

/// What a key holds and when it expires, in milliseconds of Unix time. `None` if there is no such key.
pub type State = Option<(Held, Option<i64>)>;

/// The keys of one worker.
#[derive(Default)]
pub struct Model {
    pub keys: HashMap<String, (Held, Option<i64>)>,
    /// Keys of which nobody knows whether a write was applied: they hold one of these.
    doubts: HashMap<String, Vec<State>>,
}

/// What an error says of the keys of its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterError {
    /// They are as they were.
    Unchanged,
    /// Each is as it was, or as it was to be.
    Either,
}

/// How long a worker rests when an operation has failed.
const REST: Duration = Duration::from_millis(3);

/// The keys that nobody else touches, and a client.
pub struct Worker {
    pub model: Model,
    pub operations: u64,
    /// Operations that have failed and have changed nothing.
    pub refused: u64,
    /// Writes of which nobody knows whether they were applied.
    pub unknown: u64,
    /// Whether operations may fail in the stated ways.
    pub is_tolerant: bool,
    client: AnyClient,
    name: String,
    random: Random,
    keys: usize,
    now: i64,
}

impl Worker {
    /// A worker with as many keys of each type.
    pub fn new(name: String, client: AnyClient, seed: u64, keys: usize) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            model: Model::default(),
            operations: 0,
            refused: 0,
            unknown: 0,
            is_tolerant: false,
            client,
            name,
            random: Random(seed),
            keys,
            now: now.unwrap().as_millis() as i64,
        }
    }

    /// Lets operations fail, while nodes are away: an error must say truly whether the keys were changed.
    pub fn tolerant(mut self) -> Self {
        self.is_tolerant = true;
        self
    }

    /// One operation, and a check of its reply.
    pub fn step(&mut self) {
        self.operations += 1;
        // Nothing if the operation has failed, or if a key is in doubt and cannot be read.
        let _: Option<()> = match self.random.below(16) {
            0 => self.set(),
            1 => self.get(),
            2 => self.increment(),
            3 => self.list(),
            4 => self.hash(),
            5 => self.set_members(),
            6 => self.sorted(),
            7 => self.stream(),
            8 => self.delete(),
            9 => self.get_many(),
            10 => self.set_many(),
            11 => self.pipeline(),
            12 => self.transaction(),
            13 => self.script(),
            14 => self.expire(),
            _ => self.pop_blocking(),
        };
    }

    /// Looks at every key. No operation may fail from now on.
    pub fn check_all(&mut self) {
        self.is_tolerant = false;
        let mut keys: Vec<String> = self.model.keys.keys().cloned().collect();
        keys.extend(self.model.doubts.keys().cloned());
        keys.sort();
        keys.dedup();
        for key in keys {
            self.check(&key);
        }
    }

    /// A key of which is known what it holds.
    fn key(&mut self, kind: &str) -> Option<String> {
        let number = self.random.below(self.keys);
        // Some share a hash tag.
        let key = match number % 4 {
            0 => format!("{{{}:{}}}:{kind}:{number}", self.name, number % 16),
            _ => format!("{}:{kind}:{number}", self.name),
        };
        self.resolve(&key).map(|()| key)
    }

    /// Looks what a key holds that is in doubt. `None` if it cannot be read.
    fn resolve(&mut self, key: &str) -> Option<()> {
        let Some(states) = self.model.doubts.get(key).cloned() else {
            return Some(());
        };
        let kind = states.iter().flatten().next().map(|(held, _)| held.clone());
        let found = match kind {
            Some(kind) => self.read_state(key, &kind)?,
            None => None,
        };
        assert!(
            states.contains(&found),
            "{key} is {found:?}, and may be {states:?}"
        );
        self.model.doubts.remove(key);
        self.set_state(key.to_owned(), found);
        Some(())
    }

    /// Reads a key of the type of `kind`.
    fn read_state(&mut self, key: &str, kind: &Held) -> Option<State> {
        let expiry = self.expiry(key)?;
        if expiry == -2 {
            return Some(None);
        }
        let held = match kind {
            Held::Text(_) => Held::Text(self.ask(&["GET", key])?),
            Held::Number(_) => Held::Number(self.ask(&["GET", key])?),
            Held::List(_) => {
                let list: Vec<String> = self.ask(&["LRANGE", key, "0", "-1"])?;
                Held::List(list.into())
            }
            Held::Hash(_) => Held::Hash(self.ask(&["HGETALL", key])?),
            Held::Set(_) => Held::Set(self.ask(&["SMEMBERS", key])?),
            Held::Sorted(_) => Held::Sorted(self.ask(&["ZRANGE", key, "0", "-1", "WITHSCORES"])?),
            Held::Stream(_) => Held::Stream(self.ask(&["XLEN", key])?),
        };
        Some(Some((held, (expiry >= 0).then_some(expiry))))
    }

    /// When a key expires: -1 for never, -2 if there is no such key.
    fn expiry(&mut self, key: &str) -> Option<i64> {
        let exact: RedisResult<i64> = self.client.command(cmd("PEXPIRETIME").arg(key));
        let is_old = |error: &RedisError| error.to_string().contains("unknown command");
        match exact {
            Err(error) if is_old(&error) => {}
            exact => return self.changed(exact, Vec::new(), "PEXPIRETIME"),
        }
        // Servers before 7.0 say how long it takes until then.
        let left: i64 = self.ask(&["PTTL", key])?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let at = now.unwrap().as_millis() as i64 + left;
        let states = self.model.doubts.get(key).into_iter().flatten().flatten();
        let known = self.model.keys.get(key).into_iter().chain(states);
        let known = known.filter_map(|(_, expiry)| *expiry);
        let near = known.min_by_key(|known| (known - at).abs());
        let near = near.filter(|near| (near - at).abs() < 5_000);
        Some(if left < 0 { left } else { near.unwrap_or(at) })
    }

    fn value(&mut self) -> String {
        let length = self.random.below(60) + 1;
        format!("{:0length$}", self.random.below(1_000_000))
    }

    /// What an error says, if operations may fail in this way.
    fn after(&self, error: &RedisError, words: &str) -> AfterError {
        let is_pipeline = words.starts_with("pipeline");
        // redis-rs keeps no error of EXEC.
        let is_exec = error.to_string().contains("multi response");
        let first = error.clone().into_server_errors();
        let first = first.as_deref().and_then(<[_]>::first);
        let code = first.map_or(error.code(), |(_, error)| Some(error.code()));
        let after = match ErrorKind::of(error) {
            ErrorKind::Moving
            | ErrorKind::NodeDown
            | ErrorKind::PoolTimeout
            | ErrorKind::Stale
            | ErrorKind::Timeout => Some(AfterError::Unchanged),
            ErrorKind::Unknown | ErrorKind::Partial => Some(AfterError::Either),
            ErrorKind::Redis if matches!(code, Some("LOADING" | "OOM" | "EXECABORT")) => {
                Some(AfterError::Unchanged)
            }
            ErrorKind::Redis if is_exec => Some(AfterError::Either),
            _ => None,
        };
        match after.filter(|_| self.is_tolerant) {
            // The other commands of a pipeline may have run.
            Some(_) if is_pipeline => AfterError::Either,
            Some(after) => after,
            None => panic!("{}: {words}: {error} ({:?})", self.name, error.kind()),
        }
    }

    /// The reply to a command that makes these changes, which are known to be made or not behind it.
    fn change<T: redis::FromRedisValue>(
        &mut self,
        command: &Cmd,
        changes: Vec<(String, State)>,
    ) -> Option<T> {
        let result: RedisResult<T> = self.client.command(command);
        let words = String::from_utf8_lossy(&command.get_packed_command()).replace("\r\n", " ");
        self.changed(result, changes, &words)
    }

    fn changed<T>(
        &mut self,
        result: RedisResult<T>,
        changes: Vec<(String, State)>,
        words: &str,
    ) -> Option<T> {
        let error = match result {
            Ok(reply) => {
                for (key, state) in changes {
                    self.set_state(key, state);
                }
                return Some(reply);
            }
            Err(error) => error,
        };
        if self.refused.is_power_of_two() && std::env::var("REDIS_SHARDING_TRACE").is_ok() {
            println!("{}: {words}: {error}", self.name);
        }
        match self.after(&error, words) {
            AfterError::Unchanged => self.refused += 1,
            AfterError::Either if changes.is_empty() => self.refused += 1,
            AfterError::Either => {
                self.unknown += 1;
                for (key, state) in changes {
                    let before = self.model.keys.get(&key).cloned();
                    let states = self.model.doubts.entry(key);
                    states.or_insert_with(|| vec![before]).push(state);
                }
            }
        }
        thread::sleep(REST);
        None
    }

    /// The reply to a command in words that changes nothing.
    fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> Option<T> {
        self.change(cmd(words[0]).arg(&words[1..]), Vec::new())
    }

    /// The reply to a command in words that makes a change.
    fn write<T: redis::FromRedisValue>(
        &mut self,
        words: &[&str],
        change: (String, State),
    ) -> Option<T> {
        self.change(cmd(words[0]).arg(&words[1..]), vec![change])
    }

    fn held(&self, key: &str) -> Option<&Held> {
        self.model.keys.get(key).map(|(held, _)| held)
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.held(key) {
            Some(Held::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn number(&self, key: &str) -> i64 {
        match self.held(key) {
            Some(Held::Number(number)) => *number,
            _ => 0,
        }
    }

    fn set_state(&mut self, key: String, state: State) {
        match state {
            Some(state) => self.model.keys.insert(key, state),
            None => self.model.keys.remove(&key),
        };
    }

    /// Another value of a key that keeps its expiry.
    fn with(&self, key: &str, held: Held) -> (String, State) {
        let is_empty = match &held {
            Held::List(list) => list.is_empty(),
            Held::Set(set) => set.is_empty(),
            Held::Sorted(set) => set.is_empty(),
            Held::Hash(hash) => hash.is_empty(),
            _ => false,
        };
        let expiry = self.model.keys.get(key).and_then(|(_, expiry)| *expiry);
        (key.to_owned(), (!is_empty).then_some((held, expiry)))
    }

    fn set(&mut self) -> Option<()> {
        let (key, value) = (self.key("text")?, self.value());
        let expiry = (self.random.below(3) == 0)
            .then(|| self.now + FAR + self.random.below(1_000_000) as i64);
        let mut set = cmd("SET");
        set.arg(&key).arg(&value);
        if let Some(expiry) = expiry {
            set.arg("PXAT").arg(expiry);
        }
        self.change::<()>(&set, vec![(key, Some((Held::Text(value), expiry)))])
    }

    fn get(&mut self) -> Option<()> {
        let key = self.key("text")?;
        let found: Option<String> = self.ask(&["GET", &key])?;
        assert_eq!(found, self.text(&key), "GET {key}");
        Some(())
    }

    fn increment(&mut self) -> Option<()> {
        let key = self.key("number")?;
        let expected = self.number(&key) + 1;
        let change = self.with(&key, Held::Number(expected));
        let found: i64 = self.write(&["INCR", &key], change)?;
        assert_eq!(found, expected, "INCR {key}");
        Some(())
    }

    fn list(&mut self) -> Option<()> {
        let key = self.key("list")?;
        let mut list = match self.held(&key) {
            Some(Held::List(list)) => list.clone(),
            _ => VecDeque::new(),
        };
        if list.len() > 12 || self.random.below(3) == 0 {
            let expected = list.pop_front();
            let change = self.with(&key, Held::List(list));
            let found: Option<String> = self.write(&["LPOP", &key], change)?;
            assert_eq!(found, expected, "LPOP {key}");
        } else {
            let value = self.value();
            list.push_back(value.clone());
            let expected = list.len();
            let change = self.with(&key, Held::List(list));
            let length: usize = self.write(&["RPUSH", &key, &value], change)?;
            assert_eq!(length, expected, "RPUSH {key}");
        }
        Some(())
    }

    fn hash(&mut self) -> Option<()> {
        let key = self.key("hash")?;
        let mut hash = match self.held(&key) {
            Some(Held::Hash(hash)) => hash.clone(),
            _ => BTreeMap::new(),
        };
        let (field, value) = (format!("f{}", self.random.below(30)), self.value());
        let is_new = hash.insert(field.clone(), value.clone()).is_none();
        let change = self.with(&key, Held::Hash(hash));
        let added: i64 = self.write(&["HSET", &key, &field, &value], change)?;
        assert_eq!(added, i64::from(is_new), "HSET {key}");
        Some(())
    }

    fn set_members(&mut self) -> Option<()> {
        let key = self.key("set")?;
        let mut set = match self.held(&key) {
            Some(Held::Set(set)) => set.clone(),
            _ => BTreeSet::new(),
        };
        let member = format!("m{}", self.random.below(20));
        let (command, expected) = match self.random.below(2) {
            0 => ("SREM", set.remove(&member)),
            _ => ("SADD", set.insert(member.clone())),
        };
        let change = self.with(&key, Held::Set(set));
        let found: i64 = self.write(&[command, &key, &member], change)?;
        assert_eq!(found, i64::from(expected), "{command} {key}");
        Some(())
    }

    fn sorted(&mut self) -> Option<()> {
        let key = self.key("sorted")?;
        let mut set = match self.held(&key) {
            Some(Held::Sorted(set)) => set.clone(),
            _ => BTreeMap::new(),
        };
        let member = format!("m{}", self.random.below(20));
        let score = self.random.below(100) as i64;
        let is_new = set.insert(member.clone(), score).is_none();
        let change = self.with(&key, Held::Sorted(set));
        let added: i64 = self.write(&["ZADD", &key, &score.to_string(), &member], change)?;
        assert_eq!(added, i64::from(is_new), "ZADD {key}");
        Some(())
    }

    fn stream(&mut self) -> Option<()> {
        let key = self.key("stream")?;
        let expected = match self.held(&key) {
            Some(Held::Stream(length)) => *length + 1,
            _ => 1,
        };
        let value = self.value();
        let change = self.with(&key, Held::Stream(expected));
        let _: String = self.write(&["XADD", &key, "*", "field", &value], change)?;
        let found: usize = self.ask(&["XLEN", &key])?;
        assert_eq!(found, expected, "XLEN {key}");
        Some(())
    }

    fn delete(&mut self) -> Option<()> {
        let kinds = ["text", "number", "list", "hash", "set", "sorted", "stream"];
        let keys = (0..3).map(|_| {
            let kind = kinds[self.random.below(kinds.len())];
            self.key(kind)
        });
        let mut keys: Vec<String> = keys.collect::<Option<_>>()?;
        keys.sort();
        keys.dedup();
        let mut delete = cmd("DEL");
        delete.arg(&keys);
        let expected = keys.iter();
        let expected = expected.filter(|key| self.model.keys.contains_key(*key));
        let expected = expected.count();
        let changes = keys.iter().map(|key| (key.clone(), None)).collect();
        let found: usize = self.change(&delete, changes)?;
        assert_eq!(found, expected, "DEL {keys:?}");
        Some(())
    }

    fn get_many(&mut self) -> Option<()> {
        let keys = (0..8).map(|_| self.key("text"));
        let keys: Vec<String> = keys.collect::<Option<_>>()?;
        let mut get = cmd("MGET");
        get.arg(&keys);
        let found: Vec<Option<String>> = self.change(&get, Vec::new())?;
        let expected: Vec<Option<String>> = keys.iter().map(|key| self.text(key)).collect();
        assert_eq!(found, expected, "MGET {keys:?}");
        Some(())
    }

    fn set_many(&mut self) -> Option<()> {
        let pairs = (0..4).map(|_| Some((self.key("text")?, self.value())));
        let pairs: Vec<(String, String)> = pairs.collect::<Option<_>>()?;
        let mut set = cmd("MSET");
        for (key, value) in &pairs {
            set.arg(key).arg(value);
        }
        let pairs = pairs.into_iter();
        let changes = pairs.map(|(key, value)| (key, Some((Held::Text(value), None))));
        self.change::<()>(&set, changes.collect())
    }

    fn pipeline(&mut self) -> Option<()> {
        let mut pipeline = pipe();
        let mut expected = Vec::new();
        let mut changes: Vec<(String, State)> = Vec::new();
        for _ in 0..self.random.below(12) + 2 {
            match self.random.below(2) {
                0 => {
                    let key = self.key("number")?;
                    let (known, expiry) =
                        match changes.iter().rev().find(|(other, _)| *other == key) {
                            Some((_, Some((Held::Number(number), expiry)))) => (*number, *expiry),
                            _ => {
                                let known = self.model.keys.get(&key);
                                (self.number(&key), known.and_then(|(_, expiry)| *expiry))
                            }
                        };
                    pipeline.cmd("INCR").arg(&key);
                    expected.push(Value::Int(known + 1));
                    changes.push((key, Some((Held::Number(known + 1), expiry))));
                }
                _ => {
                    let key = self.key("text")?;
                    pipeline.cmd("GET").arg(&key);
                    let value = self.text(&key);
                    expected.push(value.map_or(Value::Nil, |text| Value::BulkString(text.into())));
                }
            }
        }
        let found = self.client.pipeline(&pipeline);
        let found = self.changed(found, changes, "pipeline")?;
        assert_eq!(found, expected, "pipeline of {}", self.name);
        Some(())
    }

    /// A transaction over two keys of one hash tag.
    fn transaction(&mut self) -> Option<()> {
        let tag = format!("{{{}:tx:{}}}", self.name, self.random.below(self.keys));
        let mut pipeline = pipe();
        pipeline.atomic();
        let (mut expected, mut changes) = (Vec::new(), Vec::new());
        for key in ["a", "b"].map(|part| format!("{tag}:{part}")) {
            self.resolve(&key)?;
            let number = self.number(&key) + 1;
            pipeline.cmd("INCR").arg(&key);
            expected.push(number);
            changes.push(self.with(&key, Held::Number(number)));
        }
        let found: RedisResult<Vec<i64>> = self.client.query(&pipeline);
        let found = self.changed(found, changes, &format!("transaction {tag}"))?;
        assert_eq!(found, expected, "transaction {tag}");
        Some(())
    }

    fn script(&mut self) -> Option<()> {
        let key = self.key("number")?;
        let code = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
        let expected = self.number(&key) + 5;
        let change = self.with(&key, Held::Number(expected));
        let found: i64 = self.write(&["EVAL", code, "1", &key, "5"], change)?;
        assert_eq!(found, expected, "EVAL {key}");
        Some(())
    }

    fn expire(&mut self) -> Option<()> {
        let key = self.key("hash")?;
        let at = self.now + FAR + self.random.below(1_000_000) as i64;
        let state = self.held(&key).cloned().map(|held| (held, Some(at)));
        let expected = i64::from(state.is_some());
        let found: i64 = self.write(&["PEXPIREAT", &key, &at.to_string()], (key.clone(), state))?;
        assert_eq!(found, expected, "PEXPIREAT {key}");
        Some(())
    }

    /// A blocking command whose key has an element.
    fn pop_blocking(&mut self) -> Option<()> {
        let key = self.key("list")?;
        let Some(Held::List(mut list)) = self.held(&key).cloned() else {
            return None;
        };
        let expected = list.pop_front().map(|value| (key.clone(), value));
        let change = self.with(&key, Held::List(list));
        let found: Option<(String, String)> = self.write(&["BLPOP", &key, "10"], change)?;
        assert_eq!(found, expected, "BLPOP {key}");
        Some(())
    }

    /// Checks the keys that can be read. Returns their number.
    pub fn check_reachable(&mut self) -> usize {
        let keys: Vec<String> = self.model.keys.keys().cloned().collect();
        keys.iter().filter(|key| self.check(key).is_some()).count()
    }

    /// `None` if the key cannot be read.
    fn check(&mut self, key: &str) -> Option<()> {
        self.resolve(key)?;
        let (held, expiry) = self.model.keys.get(key).cloned()?;
        let found = self.read_state(key, &held)?;
        assert_eq!(found, Some((held, expiry)), "{key}");
        Some(())
    }
}

/// Keys that no worker touches, with their expiries.
pub fn bystanders(client: &ShardedClient, count: usize) -> HashMap<String, Option<i64>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let far = now.unwrap().as_millis() as i64 + 50_000_000;
    let mut keys = HashMap::new();
    let mut pipeline = redis::pipe();
    for number in 0..count {
        let key = format!("bystander:{number}");
        match number % 4 {
            0 => pipeline.cmd("SET").arg(&key).arg(number),
            1 => pipeline.cmd("RPUSH").arg(&key).arg("a").arg(number),
            2 => pipeline.cmd("HSET").arg(&key).arg("field").arg(number),
            _ => pipeline.cmd("ZADD").arg(&key).arg(number).arg("member"),
        };
        let expiry = (number % 3 == 0).then_some(far + number as i64);
        if let Some(expiry) = expiry {
            pipeline.cmd("PEXPIREAT").arg(&key).arg(expiry);
        }
        keys.insert(key, expiry);
    }
    let _: redis::Value = pipeline.query(&mut client.clone()).unwrap();
    keys
}

/// Every key with the servers that have it, and its expiry there.
fn keys_of_servers(servers: &Servers) -> HashMap<String, Vec<(usize, i64)>> {
    let mut all: HashMap<String, Vec<(usize, i64)>> = HashMap::new();
    for server in 0..servers.len() {
        let mut connection = servers.connection(server);
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        let expiries = expiries(&mut connection, &keys);
        for (key, expiry) in keys.into_iter().zip(expiries) {
            all.entry(key).or_default().push((server, expiry));
        }
    }
    all
}

/// When these keys expire, in milliseconds of Unix time; -1 for those that do not.
fn expiries(connection: &mut redis::Connection, keys: &[String]) -> Vec<i64> {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("PEXPIRETIME").arg(key);
    }
    if keys.is_empty() {
        return Vec::new();
    }
    if let Ok(found) = pipeline.query(connection) {
        return found;
    }
    // Servers before 7.0 say how long it takes until then.
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("TIME");
    for key in keys {
        pipeline.cmd("PTTL").arg(key);
    }
    let (now, left): (Vec<i64>, Vec<i64>) = {
        let mut found: Vec<redis::Value> = pipeline.query(connection).unwrap();
        let left = found.split_off(1).into_iter().map(redis::from_redis_value);
        let now = redis::from_redis_value(found.remove(0)).unwrap();
        (now, left.collect::<Result<_, _>>().unwrap())
    };
    let now = now[0] * 1_000 + now[1] / 1_000;
    let at = left.into_iter().map(|left| match left {
        -1 => -1,
        left => now + left,
    });
    at.collect()
}

/// Server `n` is the node `node-n`. Each key is at its owner alone, with its expiry, and there are no others.
pub fn check_servers(
    servers: &Servers,
    topology: &Topology,
    expected: &HashMap<String, Option<i64>>,
) {
    let found = keys_of_servers(servers);
    for (key, places) in &found {
        let owner = topology.locate(key.as_bytes()).unwrap();
        let owner = topology.node(owner).name();
        let at = places.iter().map(|(server, _)| format!("node-{server}"));
        let at: Vec<String> = at.collect();
        assert_eq!(at, [owner], "owners of {key}");
        let expiry = expected
            .get(key)
            .unwrap_or_else(|| panic!("{key} should not exist"));
        let found = places[0].1;
        assert!(
            (found - expiry.unwrap_or(-1)).abs() <= 5,
            "expiry of {key}: {found}, not {expiry:?}"
        );
    }
    let missing: Vec<_> = expected
        .keys()
        .filter(|key| !found.contains_key(*key))
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

/// Waits until all clients go by this topology.
pub fn wait_until_followed(clients: &AllClients, to: &Topology) {
    let end = Instant::now() + Duration::from_secs(20);
    let is_there = |known: &Arc<Topology>| known.to_string() == to.to_string();
    while !clients.topologies().iter().all(is_there) {
        assert!(
            Instant::now() < end,
            "not followed: {:?}",
            clients.topologies()
        );
        thread::sleep(Duration::from_millis(10));
    }
}
