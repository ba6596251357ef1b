//! The in-process nodes of `redis_sharding::testing` answer as a real server does: the same random commands go to both.
//!
//! What is not compared, on purpose:
//!
//! * the order inside of hashes and sets, and of KEYS: a server promises none;
//! * remaining time to live, up to two seconds: time goes on between the two;
//! * which keys a page of SCAN holds: only what a whole scan finds;
//! * ids, clocks, versions, and INFO, which are a server's own;
//! * what expires while the test runs, except where it is the point;
//! * DBSIZE while keys have expired that no command has looked at: a server still counts those;
//! * unknown commands and subcommands, for which the node has a text of its own;
//! * floats that no 64 bits hold exactly: a server has 80.
#![cfg(feature = "testing")]

mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use redis::{Connection, ConnectionLike, Value};
use redis_sharding::testing::TestNode;

use support::Servers;

/// Commands in their shape, a word of which may be: `K` key, `V` value, `N` number, `F` float, `S` seconds, `D` field, `I` index,
/// `T` time to live, `A` time since 1970, `O` option. Lower case words stand for themselves.
const SHAPES: &[&str] = &[
    "append K V",
    "blpop K K 0.01",
    "brpop K S",
    "client getname",
    "client setname V",
    "del K K K",
    "decr K",
    "decrby K N",
    "del K",
    "del K K K",
    "discard",
    "echo V",
    "exec",
    "exists K K K",
    "expire K T",
    "expire K T O",
    "expire K T O O",
    "expireat K A",
    "expireat K A O",
    "expiretime K",
    "flushdb O",
    "get K",
    "getdel K",
    "getex K",
    "getex K O",
    "getex K ex T",
    "getex K exat A",
    "getex K O T",
    "getrange K I I",
    "getset K V",
    "hdel K D D",
    "hexists K D",
    "hget K D",
    "hgetall K",
    "hincrby K D N",
    "hkeys K",
    "hlen K",
    "hmget K D D D",
    "hmset K D V D V",
    "hset K D V",
    "hset K D V D N",
    "hsetnx K D V",
    "hvals K",
    "incr K",
    "incrby K N",
    "incrbyfloat K F",
    "keys *",
    "keys ?[a-b]*",
    "llen K",
    "lpop K",
    "lpop K I",
    "lpush K V V",
    "lrange K I I",
    "mget K K K K",
    "mset K V K V",
    "msetnx K V K V",
    "multi",
    "persist K",
    "pexpire K T",
    "pexpireat K A",
    "pexpireat K A O",
    "pexpiretime K",
    "ping",
    "ping V",
    "psetex K T V",
    "pttl K",
    "publish V V",
    "rename K K",
    "renamenx K K",
    "rpop K",
    "rpop K I",
    "rpush K V N",
    "sadd K V N",
    "scard K",
    "sdiff K K",
    "select N",
    "set K F",
    "set K N",
    "set K V",
    "set K V O",
    "set K V O O",
    "set K V O ex T",
    "set K V exat A",
    "set K V get O T O",
    "set K V px T get",
    "setex K T V",
    "setnx K V",
    "setrange K I V",
    "sinter K K",
    "sismember K V",
    "smembers K",
    "srem K V V",
    "strlen K",
    "sunion K K K",
    "touch K K",
    "ttl K",
    "type K",
    "unlink K K",
    "unwatch",
    "wait 0 0",
    "watch K",
    "watch K K",
];

/// What may be queued in a transaction: commands whose answers are equal without a second look.
const QUEUED: &[&str] = &[
    "append K V",
    "blpop K 0",
    "discard",
    "exec",
    "exec",
    "get K",
    "hset K D V",
    "incr K",
    "lpush K V",
    "mget K K",
    "multi",
    "pexpireat K A",
    "set K V O",
    "type K",
    "watch K",
];

#[test]
fn test_node_replies_to_random_commands_as_a_real_server_in_resp2() {
    compare(2, 0x5eed_0001, 6_000);
}

#[test]
fn test_node_replies_to_random_commands_as_a_real_server_in_resp3() {
    compare(3, 0x5eed_0002, 3_000);
}

#[test]
fn test_node_scan_finds_the_same_keys_as_a_real_server() {
    let Some(pair) = Pair::start(2) else { return };
    let mut dice = Dice(7);
    let [mut node, mut server] = pair.connections();
    for _ in 0..300 {
        let shapes = ["set K:N V", "sadd K:N V", "hset K:N D V", "rpush K:N V"];
        let words = dice.command(dice.clone().pick(&shapes));
        let _ = (send(&mut node, &words), send(&mut server, &words));
    }
    for options in [
        "",
        "count 7",
        "match *a* count 3",
        "type hash",
        "type string match ?[b-c]*",
        "type none",
    ] {
        let [(ours, pages), (theirs, _)] =
            [&mut node, &mut server].map(|connection| scan(connection, options));
        assert_eq!(ours, theirs, "SCAN {options}");
        assert!(pages > 1, "SCAN {options}");
    }
    for words in [
        "scan x",
        "scan 0 count 0",
        "scan 0 count x",
        "scan 0 match",
        "scan 0 novel x",
    ] {
        let words = split(words);
        assert_eq!(send(&mut node, &words), send(&mut server, &words));
    }
}

#[test]
fn test_node_expires_keys_as_a_real_server() {
    let Some(pair) = Pair::start(2) else { return };
    let [mut node, mut server] = pair.connections();
    let before = [
        "set a 1 px 40",
        "set b 1",
        "pexpire b 40",
        "set c 1",
        "getex c px 40",
        "rpush l 1",
        "pexpire l 40",
    ];
    let after = [
        "get a",
        "ttl a",
        "exists a b c l",
        "append a x",
        "ttl a",
        "dbsize",
        "del K K K",
        "set b 2 xx",
        "rename c d",
        "rpush l 2",
    ];
    for (words, pause) in before
        .iter()
        .map(|words| (words, 0))
        .chain(after.iter().map(|words| (words, 10)))
    {
        thread::sleep(Duration::from_millis(pause * 6));
        let words = split(words);
        assert_eq!(
            send(&mut node, &words),
            send(&mut server, &words),
            "{words:?}"
        );
    }
}

#[test]
fn test_node_auth_and_hello_reply_as_a_real_server() {
    let node = TestNode::builder().password("secret").start().unwrap();
    let Some(servers) = Servers::builder().password("secret").start(1) else {
        return;
    };
    let [mut ours, mut theirs] = [node.url(), servers.url(0)].map(|url| connect(&url, 2));
    for words in [
        "auth wrong",
        "auth nobody secret",
        "auth a b c",
        "hello 3 auth default wrong",
        "hello 4",
        "hello x",
        "hello 3 novel",
        "hello 3 auth default secret setname me",
        "client getname",
        "get k",
        "config get maxmemory-policy",
        "config get novel",
        "config set novel 1",
        "config get",
        "client id x",
        "hello 2",
        "reset",
        "get k",
        "hello",
        "hello 3",
        "auth secret",
        "select 0",
        "select x",
    ] {
        let words = split(words);
        let [ours, theirs] =
            [send(&mut ours, &words), send(&mut theirs, &words)].map(without_identity);
        assert_eq!(ours, theirs, "{words:?}");
    }
}

/// Every option in every order, repeated and together with what it contradicts.
#[test]
fn test_node_handles_repeated_and_conflicting_options_as_a_real_server() {
    let Some(pair) = Pair::start(2) else { return };
    let mut connections = pair.connections();
    let mut compare = |commands: &[String]| {
        for command in commands {
            let words = split(command);
            let [ours, theirs] = connections
                .each_mut()
                .map(|connection| without_identity(send(connection, &words)));
            match (command.starts_with("pttl"), &ours, &theirs) {
                (true, Ok(Value::Int(ours)), Ok(Value::Int(theirs))) => {
                    assert!(
                        ours.abs_diff(*theirs) <= 5_000,
                        "{commands:?}: {ours} {theirs}"
                    );
                }
                _ => assert_eq!(ours, theirs, "{commands:?}"),
            }
        }
    };
    let times = [
        "ex 50000",
        "ex 60000",
        "px 100000000",
        "exat 4000000000",
        "pxat 4000000000000",
        "EX x",
        "px",
    ];
    let of_set = [&times[..], &["keepttl", "nx", "XX", "get", "persist"]].concat();
    let of_getex = [&times[..], &["persist", "PERSIST", "keepttl", "exat 1"]].concat();
    for before in ["del k", "set k 1", "set k 1 ex 70000"].map(str::to_owned) {
        for (command, words) in [("set k 2", &of_set), ("getex k", &of_getex)] {
            for options in sequences(words, 2) {
                let command = format!("{command} {options}");
                compare(&[before.clone(), command, "pttl k".into(), "get k".into()]);
            }
        }
        for options in sequences(&["nx", "xx", "GT", "lt", "novel"], 3) {
            for command in [
                "expire k 60000",
                "expireat k 5000000000",
                "pexpire k 80000000",
            ] {
                compare(&[
                    before.clone(),
                    format!("{command} {options}"),
                    "pttl k".into(),
                ]);
            }
        }
    }
    for options in sequences(&["sync", "ASYNC", "novel"], 3) {
        compare(&[format!("flushdb {options}"), format!("flushall {options}")]);
    }
    for options in sequences(
        &[
            "setname a",
            "setname b",
            "auth default x",
            "auth a",
            "novel",
        ],
        3,
    ) {
        for version in ["2", "x", "4"] {
            let hello = format!("hello {version} {options}");
            compare(&[
                "hello 2 setname before".into(),
                hello,
                "client getname".into(),
            ]);
        }
    }
    for options in sequences(
        &[
            "maxmemory-policy noeviction",
            "MAXMEMORY-policy noeviction",
            "novel 1",
            "other",
        ],
        3,
    ) {
        compare(&[format!("config set {options}")]);
    }
    for options in sequences(&["maxmemory-policy", "maxmemory-pol*", "novel"], 3) {
        compare(&[format!("config get {options}")]);
    }
    for options in sequences(&["getname", "setname a", "id x", "no"], 3) {
        // A lone subcommand that it does not know is answered in the node's own words.
        if !options.starts_with("no") && options != "id" {
            compare(&[format!("client {options}")]);
        }
    }
}

#[test]
fn test_node_scan_accepts_repeated_options_as_a_real_server() {
    let Some(pair) = Pair::start(2) else { return };
    let [mut node, mut server] = pair.connections();
    for number in 0..20 {
        for connection in [&mut node, &mut server] {
            for words in ["set a:N 1", "rpush b:N 1"] {
                send(connection, &split(&words.replace('N', &number.to_string()))).unwrap();
            }
        }
    }
    let words = [
        "match a*",
        "MATCH b*",
        "match",
        "count 3",
        "count 1000",
        "count 0",
        "count x",
        "type list",
        "TYPE string",
        "type",
        "novel 1",
        "novel",
    ];
    for options in sequences(&words, 2) {
        let command = split(&format!("scan 0 {options}"));
        let [ours, theirs] =
            [&mut node, &mut server].map(|connection| send(connection, &command).map(|_| ()));
        assert_eq!(ours, theirs, "{command:?}");
        if theirs.is_ok() {
            let [ours, theirs] =
                [&mut node, &mut server].map(|connection| scan(connection, &options).0);
            assert_eq!(ours, theirs, "{command:?}");
        }
    }
}

/// None or up to so many of these in every order, separated by spaces.
fn sequences(words: &[&str], most: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..most {
        let longer = |before: &String| {
            let longer: Vec<_> = words
                .iter()
                .map(|word| format!("{before} {word}"))
                .collect();
            longer
        };
        last = last.iter().flat_map(longer).collect();
        all.extend(last.iter().map(|words| words.trim().to_owned()));
    }
    all
}

/// Sends the same commands to both over two connections each, so that what is watched may change.
fn compare(protocol: u8, seed: u64, commands: usize) {
    let Some(pair) = Pair::start(protocol) else {
        return;
    };
    let mut dice = Dice(seed);
    let mut clients = [pair.connections(), pair.connections()];
    let mut in_transaction = [false, false];
    let (mut errors, mut committed, mut conflicts, mut aborted) = (0, 0, 0, 0);
    for position in 0..commands {
        let which = usize::from(dice.below(4) == 0);
        let shapes = if in_transaction[which] {
            QUEUED
        } else {
            SHAPES
        };
        let shape = dice.pick(shapes);
        let mut words = dice.command(shape);
        if dice.below(12) == 0 {
            dice.spoil(&mut words);
        }
        if is_left_out(&words, in_transaction[which]) {
            continue;
        }
        let [node, server] = &mut clients[which];
        let name = words[0].to_ascii_lowercase();
        if name == "incrbyfloat" && is_inexact(server, &words) {
            continue;
        }
        let answers = [send(node, &words), send(server, &words)];
        match (name.as_str(), &answers[1]) {
            ("multi", Ok(_)) => in_transaction[which] = true,
            ("exec" | "discard" | "reset", Ok(_)) => in_transaction[which] = false,
            ("exec", Err(text)) if text.contains("ExecAbort") => {
                in_transaction[which] = false;
                aborted += 1;
            }
            _ => {}
        }
        match (name.as_str(), &answers[1]) {
            ("exec", Ok(Value::Nil)) => conflicts += 1,
            ("exec", Ok(_)) => committed += 1,
            (_, Err(_)) => errors += 1,
            _ => {}
        }
        let [ours, theirs] = answers.map(|answer| answer.map(|value| comparable(&name, value)));
        let alike = match (name.as_str(), &ours, &theirs) {
            ("ttl" | "expiretime", Ok(Value::Int(ours)), Ok(Value::Int(theirs))) => {
                ours.abs_diff(*theirs) <= 2
            }
            ("pttl" | "pexpiretime", Ok(Value::Int(ours)), Ok(Value::Int(theirs))) => {
                ours.abs_diff(*theirs) <= 2000
            }
            _ => ours == theirs,
        };
        assert!(
            alike,
            "command {position} of seed {seed:#x}: {words:?}\n  node: {ours:?}\nserver: {theirs:?}"
        );
    }
    // The test is only worth something when all of this happened.
    assert!(
        errors * 2 < commands && errors * 40 > commands,
        "{errors} errors"
    );
    assert!(
        committed > 5 && conflicts > 0 && aborted > 0,
        "{committed} {conflicts} {aborted}"
    );
}

/// Commands whose answers differ for a reason that the module's head gives.
fn is_left_out(words: &[String], in_transaction: bool) -> bool {
    let name = words[0].to_ascii_lowercase();
    let known = SHAPES
        .iter()
        .any(|shape| shape.split(' ').next() == Some(name.as_str()));
    let is_subcommand = |word: &String| ["getname", "setname"].contains(&word.as_str());
    let is_soon = |word: &String| {
        word.parse()
            .is_ok_and(|time: i64| (1..10_000).contains(&time))
    };
    let is_time = |word: &String| {
        let word = word.to_ascii_lowercase();
        ["ex", "px", "expire", "pexpire", "setex", "psetex"].contains(&word.as_str())
    };
    if words.iter().any(is_time) && words.iter().any(is_soon) {
        return true;
    }
    let other_database = |word: &String| word.parse().is_ok_and(|number: i64| number != 0);
    let is_long = |word: &String| {
        word.parse()
            .is_ok_and(|seconds: f64| seconds == 0.0 || seconds > 0.1)
    };
    match name.as_str() {
        // Waits for long, unless it is in a transaction.
        "blpop" | "brpop" => !in_transaction && words.last().is_some_and(is_long),
        "client" => !words.get(1).is_some_and(is_subcommand) || words.contains(&String::new()),
        // Waits for replicas that there are none of.
        "wait" => words.get(1).is_some_and(|replicas| replicas != "0"),
        "select" => words.get(1).is_some_and(other_database),
        _ => !known,
    }
}

/// Whether the number is too long for 64 bits.
fn is_inexact(server: &mut Connection, words: &[String]) -> bool {
    let length = words
        .get(1)
        .map(|key| send(server, &["strlen".to_owned(), key.clone()]));
    matches!(length, Some(Ok(Value::Int(15..)))) || words.iter().any(|word| word.len() >= 15)
}

struct Pair {
    node: TestNode,
    servers: Servers,
    protocol: u8,
}

impl Pair {
    fn start(protocol: u8) -> Option<Self> {
        let (node, servers) = (TestNode::start().unwrap(), Servers::start(1)?);
        Some(Self {
            node,
            servers,
            protocol,
        })
    }

    fn connections(&self) -> [Connection; 2] {
        [self.node.url(), self.servers.url(0)].map(|url| connect(&url, self.protocol))
    }
}

fn connect(url: &str, protocol: u8) -> Connection {
    let url = format!("{url}?protocol=resp{protocol}");
    redis::Client::open(url).unwrap().get_connection().unwrap()
}

fn send(connection: &mut Connection, words: &[String]) -> Result<Value, String> {
    let mut command = redis::Cmd::new();
    command.arg(words);
    let answer = connection.req_packed_command(&command.get_packed_command());
    match answer.unwrap() {
        Value::ServerError(error) => Err(format!("{error:?}")),
        value => Ok(value),
    }
}

/// The answer without an order that nobody promised.
fn comparable(name: &str, value: Value) -> Value {
    let sorted = |mut items: Vec<Value>| {
        items.sort_by_key(|item| format!("{item:?}"));
        items
    };
    match (name, value) {
        ("hgetall", Value::Array(items)) => {
            let pairs = items.chunks(2).map(|pair| Value::Array(pair.to_vec()));
            Value::Array(sorted(pairs.collect()))
        }
        ("hgetall", Value::Map(mut pairs)) => {
            pairs.sort_by_key(|pair| format!("{pair:?}"));
            Value::Map(pairs)
        }
        (
            "hkeys" | "hvals" | "keys" | "smembers" | "sunion" | "sinter" | "sdiff",
            Value::Array(items),
        ) => Value::Array(sorted(items)),
        (_, Value::Set(items)) => Value::Set(sorted(items)),
        (_, value) => value,
    }
}

/// A greeting without the id of the connection and the version of the server.
fn without_identity(answer: Result<Value, String>) -> Result<Value, String> {
    let is_identity = |key: &Value| {
        ["id", "version"]
            .iter()
            .any(|name| *key == Value::BulkString((*name).into()))
    };
    answer.map(|value| match value {
        Value::Map(mut pairs) => {
            pairs.retain(|(key, _)| !is_identity(key));
            Value::Map(pairs)
        }
        Value::Array(items) => {
            let pairs = items.chunks(2).filter(|pair| !is_identity(&pair[0]));
            Value::Array(pairs.flatten().cloned().collect())
        }
        value => value,
    })
}

fn scan(connection: &mut Connection, options: &str) -> (BTreeSet<String>, usize) {
    let (mut cursor, mut found, mut pages) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let words = split(&format!("scan {cursor} {options}"));
        let page = send(connection, &words).unwrap();
        let (next, keys): (String, Vec<String>) = redis::from_redis_value(page).unwrap();
        found.extend(keys);
        pages += 1;
        cursor = next;
        if cursor == "0" {
            return (found, pages);
        }
    }
}

fn split(words: &str) -> Vec<String> {
    words
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Random numbers that are the same in every run.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).unwrap() % end
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn command(&mut self, shape: &str) -> Vec<String> {
        split(shape).iter().map(|word| self.word(word)).collect()
    }

    fn word(&mut self, kind: &str) -> String {
        let numbers = [
            "0",
            "1",
            "2",
            "-1",
            "-7",
            "41",
            "07",
            "+1",
            "1.5",
            "x",
            "",
            "9223372036854775807",
            "-9223372036854775808",
        ];
        let word = match kind {
            "K" => self.pick(&["ka", "kb", "kc", "kd", "ke", "kf", "kg"]),
            "K:N" => return format!("k{}:{}", self.pick(&["a", "b", "c"]), self.below(100)),
            "V" => self.pick(&["", "a", "b", "hello", "7", "héllo wörld", "\r\n$3\r\n"]),
            "D" => self.pick(&["f", "g", "h"]),
            "N" => self.pick(&numbers),
            "F" => self.pick(&[
                "0.5", "-1.5", "3", "1e2", "-0.25", "x", "", "nan", "inf", "-inf", "1e10", "0.125",
            ]),
            "I" => self.pick(&[
                "0",
                "1",
                "2",
                "3",
                "-1",
                "-2",
                "-3",
                "-100",
                "100",
                "x",
                "-9223372036854775808",
            ]),
            "S" => self.pick(&["0.01", "0.02", "-1", "x", ""]),
            "T" => self.pick(&[
                "50000",
                "100000",
                "100000000",
                "0",
                "-1",
                "x",
                "1.5",
                "9223372036854775807",
            ]),
            "A" => self.pick(&[
                "1",
                "-5",
                "0",
                "4000000000",
                "5000000000",
                "4000000000000",
                "5000000000000",
                "x",
            ]),
            "O" => self.pick(&[
                "nx", "XX", "gt", "lt", "get", "keepttl", "persist", "ex", "px", "pxat", "novel",
                "sync",
            ]),
            word => word,
        };
        word.to_owned()
    }

    /// Makes a command wrong, mostly.
    fn spoil(&mut self, words: &mut Vec<String>) {
        match self.below(3) {
            0 => drop(words.pop().filter(|_| !words.is_empty())),
            1 => words.push(self.word("V")),
            _ => {
                let position = self.below(words.len());
                words[position] = self.word("N");
            }
        }
        if words.is_empty() {
            words.push("ping".to_owned());
        }
    }
}
