//! One list of failures, met by the blocking client, the async client and the proxy: the same kind, node, keys and advice on
//! repeating the call, and the same text, word for word, each time.
#![cfg(all(feature = "proxy", feature = "testing"))]

mod support;

use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, RedisResult, cmd};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{
    Builder, Error, ErrorKind, PartStatus, RetryPolicy, ShardedClient, TemporaryErrors, aio,
};
use support::builder_over;
use support::local_proxy::{LocalProxy, RawClient};

/// Long enough for a busy machine, short enough to wait for.
const TIMEOUT: Duration = Duration::from_millis(250);
const LATE: Fault = Fault::Delay(Duration::from_millis(400));

/// All that may be asked of an error, apart from its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: ErrorKind,
    node: Option<String>,
    keys: Vec<String>,
    retryable: bool,
    text: String,
}

impl Seen {
    fn of(error: &Error) -> Self {
        let flat: RedisError = error.clone().into();
        assert_eq!(ErrorKind::of(&flat), error.kind(), "{error}");
        let keys = error.keys().iter();
        Self {
            kind: error.kind(),
            node: error.node().map(str::to_owned),
            keys: keys
                .map(|key| String::from_utf8(key.clone()).unwrap())
                .collect(),
            retryable: error.is_retryable(),
            text: error.to_string(),
        }
    }

    #[track_caller]
    fn expect(&self, kind: ErrorKind, node: Option<&str>, keys: &[&str], retryable: bool) {
        assert_eq!(
            (self.kind, self.node.as_deref(), self.retryable),
            (kind, node, retryable),
            "{self:?}"
        );
        assert_eq!(self.keys, keys, "{self:?}");
        if let Some(node) = node {
            assert!(self.text.contains(node), "{self:?}");
        }
    }
}

/// Two nodes, and all who ask them.
struct Doors {
    nodes: Vec<TestNode>,
    blocking: ShardedClient,
    tokio: aio::ShardedClient,
    runtime: tokio::runtime::Runtime,
    _proxy: LocalProxy,
    raw: RawClient,
    /// Keys of both nodes.
    warm: Vec<String>,
}

impl Doors {
    fn open() -> Self {
        Self::open_with(|builder| builder.response_timeout(TIMEOUT))
    }

    /// Clients that do not wait for a node that is loading its data.
    fn open_at_once() -> Self {
        let policy = RetryPolicy::READS.with_temporary_errors(TemporaryErrors::Returned);
        Self::open_with(|builder| builder.response_timeout(TIMEOUT).retry(policy))
    }

    fn open_with(change: impl Fn(Builder) -> Builder) -> Self {
        let nodes = TestNode::start_many(2).unwrap();
        let urls: Vec<String> = nodes.iter().map(TestNode::url).collect();
        Self::over(nodes, &urls, change)
    }

    fn over(nodes: Vec<TestNode>, urls: &[String], change: impl Fn(Builder) -> Builder) -> Self {
        let builder = || change(builder_over(urls.iter().cloned()));
        let proxy = LocalProxy::open(builder());
        Self {
            nodes,
            blocking: builder().build().unwrap(),
            tokio: builder().build_async().unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            raw: proxy.talk(),
            _proxy: proxy,
            warm: (0..20).map(|number| format!("key:{number}")).collect(),
        }
    }

    /// A key that lives on node `index`.
    fn key_on(&self, index: usize) -> String {
        (0..)
            .map(|number| format!("key:{number}"))
            .find(|key| self.blocking.node_for(key).unwrap().index().get() == index)
            .unwrap()
    }

    /// The errors with which `request` fails in both clients, which are one, after `arm` each time. The proxy's reply is the same
    /// error as redis-rs' traits give it.
    #[track_caller]
    fn errors(&mut self, request: &Cmd, arm: impl Fn(&[TestNode])) -> Error {
        let fired = |nodes: &[TestNode]| {
            for node in nodes {
                assert_eq!(node.faults_left(), 0, "a fault that did not strike");
            }
        };
        // Connections that an earlier fault has broken are made again, where they can be.
        let mut warm = cmd("EXISTS");
        warm.arg(&self.warm);
        let _ = self.blocking.execute(&warm);
        arm(&self.nodes);
        let blocking = self.blocking.execute(request).unwrap_err();
        fired(&self.nodes);
        let _ = self.runtime.block_on(self.tokio.execute(&warm));
        arm(&self.nodes);
        let tokio = self.runtime.block_on(self.tokio.execute(request));
        let tokio = tokio.unwrap_err();
        fired(&self.nodes);
        assert_eq!(Seen::of(&blocking), Seen::of(&tokio));
        assert_eq!(blocking.parts(), tokio.parts());

        self.raw.ask(&format!("EXISTS {}", self.warm.join(" ")));
        arm(&self.nodes);
        let words: Vec<Vec<u8>> = request.args_iter().map(word).collect();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.raw.say_words(&words);
        let reply = self.raw.hear();
        fired(&self.nodes);
        let flat: RedisError = blocking.clone().into();
        let expected = match flat.code() {
            Some(code) => format!("-{code} {}", flat.detail().unwrap_or_default()),
            None => format!("-{} {blocking}", blocking.kind().code()),
        };
        assert_eq!(reply, expected);
        blocking
    }

    #[track_caller]
    fn seen(&mut self, request: &Cmd, arm: impl Fn(&[TestNode])) -> Seen {
        Seen::of(&self.errors(request, arm))
    }

    /// The error of a transaction, of `dedicated` and the like, which the two clients have in forms of their own.
    #[track_caller]
    fn both(
        &self,
        blocking: impl FnOnce(&ShardedClient) -> Error,
        tokio: impl AsyncFnOnce(&aio::ShardedClient) -> Error,
    ) -> Seen {
        let blocking = Seen::of(&blocking(&self.blocking));
        let tokio = self.runtime.block_on(tokio(&self.tokio));
        assert_eq!(blocking, Seen::of(&tokio));
        blocking
    }
}

fn word(arg: redis::Arg<&[u8]>) -> Vec<u8> {
    match arg {
        redis::Arg::Simple(word) => word.to_vec(),
        _ => b"0".to_vec(),
    }
}

fn request(words: &[&str]) -> Cmd {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command
}

/// No digits but those of the address, the names and the keys: no duration, no counter.
#[track_caller]
fn is_constant(text: &str, node: &TestNode, keys: &[&str]) {
    let mut rest = text
        .replace(&node.addr().to_string(), "")
        .replace("node-0", "")
        .replace("node-1", "")
        // "Connection refused (os error 111)"
        .replace("os error 111", "");
    for key in keys {
        rest = rest.replace(key, "");
    }
    assert!(!rest.contains(|c: char| c.is_ascii_digit()), "{text}");
}

#[test]
fn nodedown_error_names_the_node_and_key_with_a_constant_text() {
    let mut doors = Doors::open();
    let key = doors.key_on(0);
    doors.nodes[0].stop();
    for words in [&["GET", &key][..], &["SET", &key, "v"], &["GET", &key]] {
        let seen = doors.seen(&request(words), |_| ());
        seen.expect(ErrorKind::NodeDown, Some("node-0"), &[&key], true);
        is_constant(&seen.text, &doors.nodes[0], &[&key]);
        std::thread::sleep(Duration::from_millis(70));
        assert_eq!(doors.seen(&request(words), |_| ()), seen, "later as well");
    }
}

#[test]
fn late_reply_is_a_timeout_for_a_read_and_unknown_for_a_write() {
    let mut texts = Vec::new();
    for timeout in [TIMEOUT, TIMEOUT / 2] {
        let mut doors = Doors::open_with(|builder| builder.response_timeout(timeout));
        let key = doors.key_on(1);
        let late = |name: &'static str| move |nodes: &[TestNode]| nodes[1].fail(name, LATE, 1);
        let read = doors.seen(&request(&["GET", &key]), late("GET"));
        read.expect(ErrorKind::Timeout, Some("node-1"), &[&key], true);
        let write = doors.seen(&request(&["SET", &key, "v"]), late("SET"));
        write.expect(ErrorKind::Unknown, Some("node-1"), &[&key], false);
        for seen in [read, write] {
            is_constant(&seen.text, &doors.nodes[1], &[&key]);
            texts.push(seen.text);
        }
    }
    let (first, second) = texts.split_at(2);
    assert_eq!(first, second, "however long the timeout is");
}

#[test]
fn broken_connection_error_has_one_text_for_every_cause() {
    let mut doors = Doors::open();
    let key = doors.key_on(0);
    let mut texts = Vec::new();
    for fault in [
        Fault::CloseBefore,
        Fault::CloseAfter,
        Fault::HalfReplyThenClose,
    ] {
        // A read is sent twice, a write once.
        for (words, times, kind) in [
            (&["GET", &key][..], 2, ErrorKind::NodeDown),
            (&["SET", &key, "v"], 1, ErrorKind::Unknown),
        ] {
            let seen = doors.seen(&request(words), |nodes| {
                nodes[0].fail(words[0], fault.clone(), times);
            });
            let retryable = kind == ErrorKind::NodeDown;
            seen.expect(kind, Some("node-0"), &[&key], retryable);
            texts.push((kind, seen.text));
        }
    }
    texts.sort_by_key(|(kind, _)| kind.code());
    texts.dedup();
    assert_eq!(texts.len(), 2, "{texts:#?}");
}

#[test]
fn silent_node_is_nodedown_or_timeout_depending_on_the_shorter_timeout() {
    let silent = || {
        let nodes = TestNode::start_many(1).unwrap();
        nodes[0].always(Fault::HangBefore);
        let urls = [nodes[0].url()];
        (nodes, urls)
    };
    let get = request(&["GET", "k"]);
    for (connect, response, kind) in [(1, 8, ErrorKind::NodeDown), (8, 1, ErrorKind::Timeout)] {
        let (nodes, urls) = silent();
        let doors = Doors::over(nodes, &urls, |builder| {
            builder
                .connect_timeout(connect * TIMEOUT)
                .response_timeout(response * TIMEOUT)
        });
        let start = Instant::now();
        let seen = doors.both(
            |client| client.execute(&get).unwrap_err(),
            async |client| client.execute(&get).await.unwrap_err(),
        );
        seen.expect(kind, Some("node-0"), &["k"], true);
        is_constant(&seen.text, &doors.nodes[0], &[]);
        assert!(start.elapsed() < 8 * TIMEOUT);
        assert!(doors.nodes[0].accepted() > 1);
        let seen = doors.both(
            |client| client.dedicated("k").unwrap_err(),
            async |client| client.dedicated("k").await.unwrap_err(),
        );
        seen.expect(kind, Some("node-0"), &[], true);
    }
}

#[test]
fn wrong_and_missing_passwords_are_auth_errors() {
    let start = || TestNode::builder().password("right").start().unwrap();
    let nodes = vec![start()];
    let urls = [format!("redis://:hunter2@{}/", nodes[0].addr())];
    let mut doors = Doors::over(nodes, &urls, |builder| builder);
    let first = doors.seen(&request(&["GET", "k"]), |_| ());
    first.expect(ErrorKind::Auth, Some("node-0"), &["k"], false);
    assert!(first.text.contains("WRONGPASS") && !first.text.contains("hunter2"));
    is_constant(&first.text, &doors.nodes[0], &[]);
    for words in [&["SET", "k", "v"][..], &["BLPOP", "k", "1"]] {
        let seen = doors.seen(&request(words), |_| ());
        assert_eq!(seen, first, "while it is not tried again, and when it is");
        std::thread::sleep(Duration::from_millis(70));
    }
    let seen = doors.both(
        |client| client.dedicated("k").unwrap_err(),
        async |client| client.dedicated("k").await.unwrap_err(),
    );
    seen.expect(ErrorKind::Auth, Some("node-0"), &[], false);
    let seen = doors.both(
        |client| client.subscriber().subscribe("news").unwrap_err(),
        async |client| client.subscriber().subscribe("news").await.unwrap_err(),
    );
    seen.expect(ErrorKind::Auth, Some("node-0"), &[], false);

    let nodes = vec![start()];
    let urls = [format!("redis://{}/", nodes[0].addr())];
    let mut doors = Doors::over(nodes, &urls, |builder| builder);
    let error = doors.errors(&request(&["GET", "k"]), |_| ());
    Seen::of(&error).expect(ErrorKind::Auth, Some("node-0"), &["k"], false);
    let flat: RedisError = error.into();
    assert_eq!(flat.code(), Some("NOAUTH"), "the server's own code");
}

#[test]
fn pool_timeout_error_has_one_text_in_both_clients() {
    let doors = Doors::open_with(|builder| builder.blocking_pool_size(1).response_timeout(TIMEOUT));
    let key = doors.key_on(0);
    let seen = doors.both(
        |client| {
            let _held = client.dedicated(&key).unwrap();
            client.dedicated(&key).unwrap_err()
        },
        async |client| {
            let _held = client.dedicated(&key).await.unwrap();
            client.dedicated(&key).await.unwrap_err()
        },
    );
    seen.expect(ErrorKind::PoolTimeout, Some("node-0"), &[], true);
    assert!(seen.text.contains("`Builder::blocking_pool_size`"));
    is_constant(&seen.text, &doors.nodes[0], &[]);
    let blpop = request(&["BLPOP", &key, "0.1"]);
    let seen = doors.both(
        |client| {
            let _held = client.dedicated(&key).unwrap();
            client.execute(&blpop).unwrap_err()
        },
        async |client| {
            let _held = client.dedicated(&key).await.unwrap();
            client.execute(&blpop).await.unwrap_err()
        },
    );
    seen.expect(ErrorKind::PoolTimeout, Some("node-0"), &[&key], true);
}

#[test]
fn transaction_that_never_succeeds_fails_with_attempts() {
    let doors = Doors::open();
    let key = doors.key_on(1);
    let blocking: RedisResult<()> = doors.blocking.transaction(&key, |_, _| Ok(None));
    let tokio: RedisResult<()> = doors
        .runtime
        .block_on(doors.tokio.transaction(&key, async |_, _| Ok(None)));
    let (blocking, tokio) = (blocking.unwrap_err(), tokio.unwrap_err());
    assert_eq!(blocking.to_string(), tokio.to_string());
    for error in [blocking, tokio] {
        assert_eq!(error.code(), Some("ATTEMPTS"));
        assert_eq!(ErrorKind::of(&error), ErrorKind::Attempts);
        assert!(ErrorKind::of(&error).is_retryable());
        assert!(error.to_string().contains("node node-1"), "{error}");
    }
}

#[test]
fn server_error_names_its_node_and_is_retryable_by_its_code() {
    let mut doors = Doors::open_at_once();
    let key = doors.key_on(1);
    for (text, kind, retryable) in [
        (
            "LOADING Redis is loading the dataset in memory",
            ErrorKind::Redis,
            true,
        ),
        (
            "BUSY Redis is busy running a script.",
            ErrorKind::Redis,
            true,
        ),
        (
            "READONLY You can't write against a read only replica.",
            ErrorKind::Redis,
            true,
        ),
        ("OOM command not allowed", ErrorKind::Redis, false),
        ("WRONGTYPE Operation against a key", ErrorKind::Redis, false),
        (
            "NOPERM this user has no permissions",
            ErrorKind::Redis,
            false,
        ),
        ("NOAUTH Authentication required.", ErrorKind::Auth, false),
    ] {
        let seen = doors.seen(&request(&["SET", &key, "v"]), |nodes| {
            nodes[1].fail("SET", Fault::Error(text.into()), 1);
        });
        seen.expect(kind, Some("node-1"), &[&key], retryable);
    }
}

#[test]
fn partial_error_is_retryable_for_reads_whose_failures_are_retryable() {
    let mut doors = Doors::open_at_once();
    let (a, b) = (doors.key_on(0), doors.key_on(1));
    let loading = || Fault::Error("LOADING Redis is loading".into());
    let wrong = || Fault::Error("WRONGTYPE Operation against a key".into());
    let down = |name: &'static str, fault: Fault, times| {
        move |nodes: &[TestNode]| nodes[0].fail(name, fault.clone(), times)
    };
    let mget = request(&["MGET", &a, &b]);
    let del = request(&["DEL", &a, &b]);
    for (request, name, fault, times, retryable) in [
        (&mget, "MGET", loading(), 1, true),
        (&mget, "MGET", LATE, 1, true),
        (&mget, "MGET", Fault::CloseBefore, 2, true),
        (&mget, "MGET", wrong(), 1, false),
        (&del, "DEL", loading(), 1, false),
        (&del, "DEL", Fault::CloseBefore, 1, false),
    ] {
        let error = doors.errors(request, down(name, fault, times));
        Seen::of(&error).expect(ErrorKind::Partial, None, &[&a], retryable);
        assert_eq!(error.parts()[1].status, PartStatus::Done);
    }
    // Nothing was done anywhere, so the whole of it may be done again.
    let all = |nodes: &[TestNode]| {
        for node in nodes {
            node.fail("DEL", loading(), 1);
        }
    };
    let seen = doors.seen(&del, all);
    seen.expect(ErrorKind::Redis, None, &[&a, &b], true);
    for node in &doors.nodes {
        node.stop();
    }
    let seen = doors.seen(&mget, |_| ());
    seen.expect(ErrorKind::NodeDown, None, &[&a, &b], true);
    let seen = doors.seen(&request(&["DBSIZE"]), |_| ());
    seen.expect(ErrorKind::NodeDown, None, &[], true);
}

#[test]
fn crossnode_and_unroutable_errors_name_their_keys_and_node() {
    let mut doors = Doors::open();
    let (a, b) = (doors.key_on(0), doors.key_on(1));
    let seen = doors.seen(&request(&["RENAME", &a, &b]), |_| ());
    seen.expect(ErrorKind::CrossNode, None, &[&a, &b], false);
    let seen = doors.seen(&request(&["SINTER", &b, &a]), |_| ());
    seen.expect(ErrorKind::CrossNode, None, &[&b, &a], false);
    let seen = doors.both(
        |client| client.dedicated((&a, &b)).unwrap_err(),
        async |client| client.dedicated((&a, &b)).await.unwrap_err(),
    );
    seen.expect(ErrorKind::CrossNode, None, &[&a, &b], false);
    let unknown = request(&["NOSUCH", &a]);
    let seen = doors.both(
        |client| client.execute(&unknown).unwrap_err(),
        async |client| client.execute(&unknown).await.unwrap_err(),
    );
    seen.expect(ErrorKind::Unroutable, None, &[], false);
    let stateful = request(&["WATCH", &a]);
    let seen = doors.both(
        |client| client.execute(&stateful).unwrap_err(),
        async |client| client.execute(&stateful).await.unwrap_err(),
    );
    seen.expect(ErrorKind::Stateful, None, &[&a], false);
}

#[test]
fn broken_dedicated_connection_fails_with_an_error_that_is_not_retryable() {
    let doors = Doors::open();
    let key = doors.key_on(0);
    let mut blocking = doors.blocking.dedicated(&key).unwrap();
    let mut tokio = doors.runtime.block_on(doors.tokio.dedicated(&key)).unwrap();
    let get = request(&["GET", &key]);
    let mut ask = || {
        let blocking: RedisError = get.exec(&mut blocking).unwrap_err();
        let tokio = doors.runtime.block_on(get.exec_async(&mut tokio));
        let tokio = tokio.unwrap_err();
        assert_eq!(blocking.to_string(), tokio.to_string());
        (ErrorKind::of(&blocking), blocking.to_string())
    };
    doors.nodes[0].fail("GET", Fault::CloseBefore, 2);
    let (kind, text) = ask();
    assert_eq!(doors.nodes[0].faults_left(), 0);
    assert_eq!(kind, ErrorKind::NodeDown, "{text}");
    let (kind, text) = ask();
    assert_eq!(kind, ErrorKind::NodeDown, "{text}");
    assert!(text.contains("failed before"), "{text}");
}
