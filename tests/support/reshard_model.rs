//! Workers that know what each of their keys must hold, and check every reply, while somebody moves the keys.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use redis::{Cmd, RedisResult, Value, cmd, pipe};

use super::all_clients::{AnyClient, Random};

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

/// The keys of one worker, and when they expire, in milliseconds of Unix time.
#[derive(Default)]
pub struct Model {
    pub keys: HashMap<String, (Held, Option<i64>)>,
}

/// The keys that nobody else touches, and a client.
pub struct Worker {
    pub model: Model,
    pub operations: u64,
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
            client,
            name,
            random: Random(seed),
            keys,
            now: now.unwrap().as_millis() as i64,
        }
    }

    /// One operation, and a check of its reply.
    pub fn step(&mut self) {
        self.operations += 1;
        match self.random.below(16) {
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
        }
    }

    /// Looks at every key.
    pub fn check_all(&mut self) {
        let mut keys: Vec<String> = self.model.keys.keys().cloned().collect();
        keys.sort();
        for key in keys {
            self.check(&key);
        }
    }

    fn key(&mut self, kind: &str) -> String {
        let number = self.random.below(self.keys);
        // Some share a hash tag.
        match number % 4 {
            0 => format!("{{{}:{}}}:{kind}:{number}", self.name, number % 16),
            _ => format!("{}:{kind}:{number}", self.name),
        }
    }

    fn value(&mut self) -> String {
        let length = self.random.below(60) + 1;
        format!("{:0length$}", self.random.below(1_000_000))
    }

    fn send<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> T {
        let result: RedisResult<T> = self.client.command(command);
        result.unwrap_or_else(|error| {
            let words = String::from_utf8_lossy(&command.get_packed_command()).replace("\r\n", " ");
            panic!("{}: {words}: {error} ({:?})", self.name, error.kind())
        })
    }

    fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        self.send(cmd(words[0]).arg(&words[1..]))
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

    fn set(&mut self) {
        let (key, value) = (self.key("text"), self.value());
        let expiry = (self.random.below(3) == 0)
            .then(|| self.now + FAR + self.random.below(1_000_000) as i64);
        let mut set = cmd("SET");
        set.arg(&key).arg(&value);
        if let Some(expiry) = expiry {
            set.arg("PXAT").arg(expiry);
        }
        self.send::<()>(&set);
        self.model.keys.insert(key, (Held::Text(value), expiry));
    }

    fn get(&mut self) {
        let key = self.key("text");
        let found: Option<String> = self.ask(&["GET", &key]);
        assert_eq!(found, self.text(&key), "GET {key}");
    }

    fn increment(&mut self) {
        let key = self.key("number");
        let found: i64 = self.ask(&["INCR", &key]);
        let expected = self.number(&key) + 1;
        assert_eq!(found, expected, "INCR {key}");
        self.put(key, Held::Number(expected));
    }

    fn number(&self, key: &str) -> i64 {
        match self.held(key) {
            Some(Held::Number(number)) => *number,
            _ => 0,
        }
    }

    /// Another value of a key that keeps its expiry.
    fn put(&mut self, key: String, held: Held) {
        let is_empty = match &held {
            Held::List(list) => list.is_empty(),
            Held::Set(set) => set.is_empty(),
            Held::Sorted(set) => set.is_empty(),
            Held::Hash(hash) => hash.is_empty(),
            _ => false,
        };
        if is_empty {
            self.model.keys.remove(&key);
            return;
        }
        let expiry = self.model.keys.get(&key).and_then(|(_, expiry)| *expiry);
        self.model.keys.insert(key, (held, expiry));
    }

    fn list(&mut self) {
        let key = self.key("list");
        let mut list = match self.held(&key) {
            Some(Held::List(list)) => list.clone(),
            _ => VecDeque::new(),
        };
        if list.len() > 12 || self.random.below(3) == 0 {
            let found: Option<String> = self.ask(&["LPOP", &key]);
            assert_eq!(found, list.pop_front(), "LPOP {key}");
        } else {
            let value = self.value();
            list.push_back(value.clone());
            let length: usize = self.ask(&["RPUSH", &key, &value]);
            assert_eq!(length, list.len(), "RPUSH {key}");
        }
        self.put(key, Held::List(list));
    }

    fn hash(&mut self) {
        let key = self.key("hash");
        let mut hash = match self.held(&key) {
            Some(Held::Hash(hash)) => hash.clone(),
            _ => BTreeMap::new(),
        };
        let (field, value) = (format!("f{}", self.random.below(30)), self.value());
        let added: i64 = self.ask(&["HSET", &key, &field, &value]);
        let is_new = hash.insert(field, value).is_none();
        assert_eq!(added, i64::from(is_new), "HSET {key}");
        self.put(key, Held::Hash(hash));
    }

    fn set_members(&mut self) {
        let key = self.key("set");
        let mut set = match self.held(&key) {
            Some(Held::Set(set)) => set.clone(),
            _ => BTreeSet::new(),
        };
        let member = format!("m{}", self.random.below(20));
        if self.random.below(2) == 0 {
            let removed: i64 = self.ask(&["SREM", &key, &member]);
            assert_eq!(removed, i64::from(set.remove(&member)), "SREM {key}");
        } else {
            let added: i64 = self.ask(&["SADD", &key, &member]);
            assert_eq!(added, i64::from(set.insert(member)), "SADD {key}");
        }
        self.put(key, Held::Set(set));
    }

    fn sorted(&mut self) {
        let key = self.key("sorted");
        let mut set = match self.held(&key) {
            Some(Held::Sorted(set)) => set.clone(),
            _ => BTreeMap::new(),
        };
        let (member, score) = (
            format!("m{}", self.random.below(20)),
            self.random.below(100) as i64,
        );
        let added: i64 = self.ask(&["ZADD", &key, &score.to_string(), &member]);
        let is_new = set.insert(member, score).is_none();
        assert_eq!(added, i64::from(is_new), "ZADD {key}");
        self.put(key, Held::Sorted(set));
    }

    fn stream(&mut self) {
        let key = self.key("stream");
        let length = match self.held(&key) {
            Some(Held::Stream(length)) => *length,
            _ => 0,
        };
        let value = self.value();
        let _: String = self.ask(&["XADD", &key, "*", "field", &value]);
        let found: usize = self.ask(&["XLEN", &key]);
        assert_eq!(found, length + 1, "XLEN {key}");
        self.put(key, Held::Stream(length + 1));
    }

    fn delete(&mut self) {
        let kinds = ["text", "number", "list", "hash", "set", "sorted", "stream"];
        let mut keys: Vec<String> = (0..3)
            .map(|_| {
                let kind = kinds[self.random.below(kinds.len())];
                self.key(kind)
            })
            .collect();
        keys.sort();
        keys.dedup();
        let mut delete = cmd("DEL");
        delete.arg(&keys);
        let found: usize = self.send(&delete);
        let expected = keys
            .iter()
            .filter(|key| self.model.keys.remove(*key).is_some());
        assert_eq!(found, expected.count(), "DEL {keys:?}");
    }

    fn get_many(&mut self) {
        let keys: Vec<String> = (0..8).map(|_| self.key("text")).collect();
        let mut get = cmd("MGET");
        get.arg(&keys);
        let found: Vec<Option<String>> = self.send(&get);
        let expected: Vec<Option<String>> = keys.iter().map(|key| self.text(key)).collect();
        assert_eq!(found, expected, "MGET {keys:?}");
    }

    fn set_many(&mut self) {
        let pairs: Vec<(String, String)> =
            (0..4).map(|_| (self.key("text"), self.value())).collect();
        let mut set = cmd("MSET");
        for (key, value) in &pairs {
            set.arg(key).arg(value);
        }
        self.send::<()>(&set);
        for (key, value) in pairs {
            self.model.keys.insert(key, (Held::Text(value), None));
        }
    }

    fn pipeline(&mut self) {
        let mut pipeline = pipe();
        let mut expected = Vec::new();
        for _ in 0..self.random.below(12) + 2 {
            match self.random.below(2) {
                0 => {
                    let key = self.key("number");
                    let number = self.number(&key) + 1;
                    pipeline.cmd("INCR").arg(&key);
                    expected.push(Value::Int(number));
                    self.put(key, Held::Number(number));
                }
                _ => {
                    let key = self.key("text");
                    pipeline.cmd("GET").arg(&key);
                    let value = self.text(&key);
                    expected.push(value.map_or(Value::Nil, |text| Value::BulkString(text.into())));
                }
            }
        }
        let found = self.client.pipeline(&pipeline);
        let found = found.unwrap_or_else(|error| panic!("{}: pipeline: {error}", self.name));
        assert_eq!(found, expected, "pipeline of {}", self.name);
    }

    /// A transaction over two keys of one hash tag.
    fn transaction(&mut self) {
        let tag = format!("{{{}:tx:{}}}", self.name, self.random.below(self.keys));
        let keys = ["a", "b"].map(|part| format!("{tag}:{part}"));
        let mut pipeline = pipe();
        pipeline.atomic();
        let mut expected = Vec::new();
        for key in keys {
            let number = self.number(&key) + 1;
            pipeline.cmd("INCR").arg(&key);
            expected.push(number);
            self.put(key, Held::Number(number));
        }
        let found: RedisResult<Vec<i64>> = self.client.query(&pipeline);
        let found =
            found.unwrap_or_else(|error| panic!("{}: transaction {tag}: {error}", self.name));
        assert_eq!(found, expected, "transaction {tag}");
    }

    fn script(&mut self) {
        let key = self.key("number");
        let code = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
        let found: i64 = self.ask(&["EVAL", code, "1", &key, "5"]);
        let expected = self.number(&key) + 5;
        assert_eq!(found, expected, "EVAL {key}");
        self.put(key, Held::Number(expected));
    }

    fn expire(&mut self) {
        let key = self.key("hash");
        let at = self.now + FAR + self.random.below(1_000_000) as i64;
        let found: i64 = self.ask(&["PEXPIREAT", &key, &at.to_string()]);
        let known = self.model.keys.get_mut(&key);
        assert_eq!(found, i64::from(known.is_some()), "PEXPIREAT {key}");
        if let Some((_, expiry)) = known {
            *expiry = Some(at);
        }
    }

    /// A blocking command whose key has an element.
    fn pop_blocking(&mut self) {
        let key = self.key("list");
        let Some(Held::List(mut list)) = self.held(&key).cloned() else {
            return;
        };
        let found: Option<(String, String)> = self.ask(&["BLPOP", &key, "10"]);
        let expected = list.pop_front().map(|value| (key.clone(), value));
        assert_eq!(found, expected, "BLPOP {key}");
        self.put(key, Held::List(list));
    }

    fn check(&mut self, key: &str) {
        let Some((held, expiry)) = self.model.keys.get(key).cloned() else {
            return;
        };
        match held {
            Held::Text(text) => assert_eq!(
                self.ask::<Option<String>>(&["GET", key]),
                Some(text),
                "{key}"
            ),
            Held::Number(number) => assert_eq!(
                self.ask::<Option<i64>>(&["GET", key]),
                Some(number),
                "{key}"
            ),
            Held::List(list) => {
                let found: VecDeque<String> =
                    self.ask::<Vec<String>>(&["LRANGE", key, "0", "-1"]).into();
                assert_eq!(found, list, "{key}");
            }
            Held::Hash(hash) => assert_eq!(
                self.ask::<BTreeMap<String, String>>(&["HGETALL", key]),
                hash,
                "{key}"
            ),
            Held::Set(set) => assert_eq!(
                self.ask::<BTreeSet<String>>(&["SMEMBERS", key]),
                set,
                "{key}"
            ),
            Held::Sorted(set) => {
                let found: BTreeMap<String, i64> =
                    self.ask(&["ZRANGE", key, "0", "-1", "WITHSCORES"]);
                assert_eq!(found, set, "{key}");
            }
            Held::Stream(length) => assert_eq!(self.ask::<usize>(&["XLEN", key]), length, "{key}"),
        }
        let left: i64 = self.ask(&["PTTL", key]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap().as_millis() as i64;
        match expiry {
            None => assert_eq!(left, -1, "expiry of {key}"),
            // The reply takes a while: exact times are compared at the servers.
            Some(at) => assert!((now + left - at).abs() < 5_000, "expiry of {key}: {left}"),
        }
    }
}
