//! Timeouts and retries of single requests, of the client and of single handles: blocking client, async client, proxy.
#![cfg(all(feature = "testing", feature = "proxy"))]

mod support;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis::{AsyncCommands, Cmd, Commands, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{
    Builder, ErrorKind, HashTags, PartialReads, ReadsAs, RetryPolicy, ShardedClient, aio,
};
use support::Servers;
use support::clients::{builder, builder_over};
use support::local_proxy::LocalProxy;
use tokio::runtime::Runtime;

/// A timeout of a request in a hurry.
const SHORT: Duration = Duration::from_millis(50);
/// Far more than a request in a hurry takes on a busy machine, and less than the timeout of the client.
const IN_TIME: Duration = Duration::from_secs(3);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// More than anything takes.
const PATIENT: Duration = Duration::from_secs(30);

/// A request, to be made more than once.
type Request<'r> = &'r dyn Fn() -> RedisResult<Value>;
/// The same through any client.
type RequestOf<'r> = &'r dyn Fn(&Client) -> RedisResult<Value>;

#[derive(Clone)]
enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Arc<Runtime>),
}

/// Both clients of one description.
fn both(describe: impl Fn() -> Builder) -> [Client; 2] {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    [
        Client::Blocking(describe().build().unwrap()),
        Client::Async(describe().build_async().unwrap(), Arc::new(runtime)),
    ]
}

impl Client {
    fn name(&self) -> &'static str {
        match self {
            Self::Blocking(_) => "blocking",
            Self::Async(..) => "async",
        }
    }

    fn with_timeout(&self, timeout: impl Into<Option<Duration>>) -> Self {
        match self {
            Self::Blocking(client) => Self::Blocking(client.with_timeout(timeout)),
            Self::Async(client, on) => Self::Async(client.with_timeout(timeout), Arc::clone(on)),
        }
    }

    fn with_blocking_timeout(&self, timeout: Duration) -> Self {
        match self {
            Self::Blocking(client) => Self::Blocking(client.with_blocking_timeout(timeout)),
            Self::Async(client, on) => {
                Self::Async(client.with_blocking_timeout(timeout), Arc::clone(on))
            }
        }
    }

    fn with_retry(&self, policy: RetryPolicy) -> Self {
        match self {
            Self::Blocking(client) => Self::Blocking(client.with_retry(policy)),
            Self::Async(client, on) => Self::Async(client.with_retry(policy), Arc::clone(on)),
        }
    }

    fn query(&self, cmd: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => cmd.query(&mut client.clone()),
            Self::Async(client, on) => on.block_on(cmd.query_async(&mut client.clone())),
        }
    }

    fn pipeline(&self, pipeline: &Pipeline) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => pipeline.query(&mut client.clone()),
            Self::Async(client, on) => on.block_on(pipeline.query_async(&mut client.clone())),
        }
    }

    fn at_node(&self, name: &str, cmd: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => cmd.query(&mut client.node(name).unwrap()),
            Self::Async(client, on) => {
                on.block_on(cmd.query_async(&mut client.node(name).unwrap()))
            }
        }
    }

    /// GET over a connection of its own.
    fn dedicated(&self, key: &str) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => client.dedicated(key)?.get(key),
            Self::Async(client, on) => {
                on.block_on(async { client.dedicated(key).await?.get(key).await })
            }
        }
    }

    /// The same over an open one, whose timeout is set there.
    fn dedicated_in_a_hurry(
        &self,
        key: &str,
        before: impl FnOnce(),
        timeout: Duration,
    ) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => {
                let mut connection = client.dedicated(key)?;
                before();
                connection.set_timeout(timeout);
                connection.get(key)
            }
            Self::Async(client, on) => on.block_on(async {
                let mut connection = client.dedicated(key).await?;
                before();
                connection.set_timeout(timeout);
                connection.get(key).await
            }),
        }
    }

    /// Sets a key to 1 in an optimistic transaction.
    fn transaction(&self, key: &str) -> RedisResult<()> {
        match self {
            Self::Blocking(client) => client.transaction(key, |connection, pipe| {
                pipe.set(key, 1).ignore().query(connection)
            }),
            Self::Async(client, on) => {
                let done = client.transaction(key, async |connection, pipe| {
                    pipe.set(key, 1).ignore().query_async(connection).await
                });
                on.block_on(done)
            }
        }
    }

    /// Number of all keys.
    fn scan(&self) -> Result<usize, redis_sharding::Error> {
        match self {
            Self::Blocking(client) => Ok(client.scan_all().collect::<Result<Vec<_>, _>>()?.len()),
            Self::Async(client, on) => on.block_on(async {
                let mut scan = client.scan_all();
                let mut count = 0;
                while let Some(key) = scan.next_key().await {
                    key?;
                    count += 1;
                }
                Ok(count)
            }),
        }
    }
}

fn command(words: &str) -> Cmd {
    let mut words = words.split(' ');
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command
}

fn kind<T: std::fmt::Debug>(result: &RedisResult<T>) -> ErrorKind {
    ErrorKind::of(result.as_ref().expect_err("an error"))
}

/// A key of each node.
fn keys(client: &Client, nodes: usize) -> Vec<String> {
    let Client::Blocking(client) = client else {
        panic!("the blocking client is asked");
    };
    let of = |index: usize| {
        (0..)
            .map(|number| format!("key:{number}"))
            .find(|key| client.node_for(key).unwrap().index().get() == index)
    };
    (0..nodes).map(|index| of(index).unwrap()).collect()
}

/// Runs this in its own time, and fails if it takes too long.
#[track_caller]
fn in_time<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = act();
    let took = begun.elapsed();
    assert!(took < IN_TIME, "{what} took {took:?}");
    done
}

// ----------------------------------------------------------------------------------------------------------- timeouts

#[test]
fn with_timeout_ends_every_kind_of_request_to_a_hung_node_in_time() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let clients = both(|| builder(&servers).response_timeout(CLIENT_TIMEOUT));
    let of_node = keys(&clients[0], 2);
    let (up, hung) = (&of_node[0], &of_node[1]);
    for client in &clients {
        let name = client.name();
        let hasty = client.with_timeout(SHORT);
        // Connections that are open when the node stops, and none that are free.
        client.query(&command(&format!("SET {hung} 1"))).unwrap();
        let dedicated = client.dedicated_in_a_hurry(hung, || servers.pause(1), SHORT);
        assert_eq!(kind(&dedicated), ErrorKind::Timeout, "{name}");
        let get = command(&format!("GET {hung}"));
        let requests: [(&str, Request<'_>, ErrorKind); 7] = [
            ("GET", &|| hasty.query(&get), ErrorKind::Timeout),
            (
                "SET",
                &|| hasty.query(&command(&format!("SET {hung} 2"))),
                ErrorKind::Unknown,
            ),
            (
                "MGET",
                &|| hasty.query(&command(&format!("MGET {up} {hung}"))),
                ErrorKind::Partial,
            ),
            (
                "a pipeline",
                &|| hasty.pipeline(pipe().get(up).get(hung)),
                ErrorKind::Partial,
            ),
            (
                "a node",
                &|| hasty.at_node("node-1", &get),
                ErrorKind::Timeout,
            ),
            ("dedicated", &|| hasty.dedicated(hung), ErrorKind::Timeout),
            (
                "scan",
                &|| Ok(hasty.scan().map(|count| Value::Int(count as i64))?),
                ErrorKind::Timeout,
            ),
        ];
        for (what, request, expected) in requests {
            let what = format!("{what} of the {name} client");
            let result = in_time(&what, request);
            let told = kind(&result);
            // One that found no connection was not sent.
            let is_expected =
                told == expected || (expected, told) == (ErrorKind::Unknown, ErrorKind::Timeout);
            assert!(is_expected, "{what}: {result:?}");
        }
        let atomic = in_time("MULTI", || {
            hasty.pipeline(pipe().atomic().set(hung, 3).set(hung, 4))
        });
        assert!(
            matches!(kind(&atomic), ErrorKind::Unknown | ErrorKind::Timeout),
            "{atomic:?}"
        );
        let optimistic = in_time("transaction", || hasty.transaction(hung));
        assert_eq!(kind(&optimistic), ErrorKind::Timeout);
        servers.resume(1);
        client.query(&get).expect("the client itself is patient");
    }
}

#[test]
fn with_timeout_of_one_handle_costs_others_neither_their_connection_nor_the_node() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    for client in both(|| builder(&servers).response_timeout(PATIENT)) {
        let name = client.name();
        let hasty = client.with_timeout(SHORT);
        // Without a connection: that none could be made in so short a time does not mean that the node is down.
        servers.pause(0);
        assert_eq!(kind(&hasty.query(&command("GET k"))), ErrorKind::Timeout);
        let patient = client.clone();
        let first = thread::spawn(move || patient.query(&command("DEL n")));
        thread::sleep(2 * SHORT);
        servers.resume(0);
        first.join().unwrap().expect(name);
        // With one: a write is under way, and the handle in a hurry gives up behind it.
        servers.pause(0);
        let patient = client.clone();
        let write = thread::spawn(move || patient.query(&command("INCR n")));
        thread::sleep(SHORT);
        for _ in 0..3 {
            assert_eq!(kind(&hasty.query(&command("GET n"))), ErrorKind::Timeout);
        }
        servers.resume(0);
        let reply = write.join().unwrap();
        assert_eq!(reply.expect(name), Value::Int(1), "{name}");
        let read = client.query(&command("GET n"));
        assert_eq!(read.unwrap(), Value::BulkString(b"1".to_vec()), "{name}");
    }
}

#[test]
fn request_of_a_patient_handle_is_not_lost_when_others_time_out_behind_it() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    for client in both(|| builder(&servers).response_timeout(4 * SHORT)) {
        let name = client.name();
        client.query(&command("DEL n")).unwrap();
        servers.pause(0);
        let patient = client.with_timeout(PATIENT);
        let write = thread::spawn(move || patient.query(&command("INCR n")));
        thread::sleep(SHORT);
        // The blocking client, which needs another connection for it, finds the node down the second time.
        assert_eq!(kind(&client.query(&command("GET n"))), ErrorKind::Timeout);
        client.query(&command("GET n")).unwrap_err();
        servers.resume(0);
        assert_eq!(write.join().unwrap().expect(name), Value::Int(1), "{name}");
    }
}

#[test]
fn silent_connection_is_still_replaced_after_the_usual_time_of_the_client() {
    let node = TestNode::start().unwrap();
    let describe = || builder_over([node.url()]).response_timeout(6 * SHORT);
    for client in both(describe) {
        client.query(&command("SET k v")).unwrap();
        let before = node.accepted();
        node.fail("GET", Fault::HangBefore, 1);
        let hasty = client.with_timeout(SHORT);
        assert_eq!(kind(&hasty.query(&command("GET k"))), ErrorKind::Timeout);
        assert_eq!(node.faults_left(), 0);
        // Silent for as long as the client waits for any reply.
        thread::sleep(9 * SHORT);
        let read = client.query(&command("GET k"));
        assert_eq!(read.unwrap(), Value::BulkString(b"v".to_vec()));
        assert!(node.accepted() > before, "{}", client.name());
    }
}

#[test]
fn with_timeout_of_zero_no_node_counts_as_missing() {
    let nodes = TestNode::start_many(2).unwrap();
    let clients = both(|| {
        builder_over(nodes.iter().map(TestNode::url))
            .missing_nodes(ReadsAs::Miss)
            .partial_reads(PartialReads::Allowed)
    });
    let of_node = keys(&clients[0], 2);
    for client in &clients {
        let over = client.with_timeout(Duration::ZERO);
        for request in [
            format!("GET {}", of_node[0]),
            format!("MGET {} {}", of_node[0], of_node[1]),
            format!("TTL {}", of_node[0]),
            "SCAN 0".to_owned(),
            "DBSIZE".to_owned(),
        ] {
            let result = over.query(&command(&request));
            assert_eq!(kind(&result), ErrorKind::Timeout, "{request}");
        }
        let result = over.pipeline(pipe().get(&of_node[0]));
        assert_eq!(kind(&result), ErrorKind::Timeout);
    }
    // With time, a node that is down does.
    nodes.iter().for_each(TestNode::stop);
    for client in &clients {
        let get = command(&format!("GET {}", of_node[0]));
        assert_eq!(client.query(&get).unwrap(), Value::Nil);
    }
}

#[test]
fn with_timeout_of_zero_sends_nothing_and_a_huge_one_is_none() {
    let nodes = TestNode::start_many(2).unwrap();
    let clients = both(|| builder_over(nodes.iter().map(TestNode::url)));
    let of_node = keys(&clients[0], 2);
    let key = &of_node[0];
    for client in &clients {
        client.query(&command(&format!("SET {key} v"))).unwrap();
        client.dedicated(key).unwrap();
        nodes.iter().for_each(TestNode::clear_received);
        let over = client.with_timeout(Duration::ZERO);
        let set = command(&format!("SET {key} v"));
        assert_eq!(kind(&over.query(&set)), ErrorKind::Timeout);
        assert_eq!(kind(&over.at_node("node-0", &set)), ErrorKind::Timeout);
        assert_eq!(kind(&over.pipeline(pipe().set(key, 1))), ErrorKind::Timeout);
        let atomic = over.pipeline(pipe().atomic().set(key, 1).set(key, 2));
        assert_eq!(kind(&atomic), ErrorKind::Timeout);
        let mset = command(&format!("MSET {} 1 {} 2", of_node[0], of_node[1]));
        assert_eq!(kind(&over.query(&mset)), ErrorKind::Timeout);
        assert_eq!(kind(&over.dedicated(key)), ErrorKind::Timeout);
        assert_eq!(kind(&over.transaction(key)), ErrorKind::Timeout);
        let blpop = command(&format!("BLPOP {key} 0"));
        let blocking = client.with_blocking_timeout(Duration::ZERO);
        assert_eq!(kind(&blocking.query(&blpop)), ErrorKind::Timeout);
        for node in &nodes {
            for name in ["SET", "MSET", "MULTI", "WATCH", "BLPOP"] {
                assert_eq!(node.count_of(name), 0, "{name} of {}", client.name());
            }
        }
        for timeout in [
            Some(Duration::MAX),
            Some(Duration::from_secs(1 << 40)),
            None,
        ] {
            let patient = client.with_timeout(timeout);
            patient.query(&set).unwrap();
            patient.query(&mset).unwrap();
            patient.pipeline(pipe().get(key)).unwrap();
            patient.dedicated(key).unwrap();
            let blocking = patient.with_blocking_timeout(Duration::MAX);
            blocking.query(&command("RPUSH list x")).unwrap();
            blocking.query(&command("BLPOP list 0")).unwrap();
        }
    }
}

// -------------------------------------------------------------------------------------------------- commands without end

/// Waits until as many clients are blocked at the server.
#[track_caller]
fn await_blocked(servers: &Servers, wanted: u64) {
    let begun = Instant::now();
    loop {
        let mut info = cmd("INFO");
        let info: redis::InfoDict = info
            .arg("clients")
            .query(&mut servers.connection(0))
            .unwrap();
        let blocked: u64 = info.get("blocked_clients").unwrap();
        if blocked == wanted {
            return;
        }
        assert!(begun.elapsed() < IN_TIME, "{blocked} clients are blocked");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn blocking_timeout_ends_commands_without_end_and_their_connection() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let describe = || {
        builder(&servers)
            .response_timeout(PATIENT)
            .blocking_timeout(SHORT)
    };
    for client in both(describe) {
        for (words, expected) in [
            ("BLPOP none 0", ErrorKind::Unknown),
            ("BRPOPLPUSH none other 0", ErrorKind::Unknown),
            ("BZPOPMIN none 0", ErrorKind::Unknown),
            ("XREAD BLOCK 0 STREAMS none $", ErrorKind::Timeout),
            ("WAIT 1 0", ErrorKind::Unknown),
        ] {
            let result = in_time(words, || client.query(&command(words)));
            assert_eq!(kind(&result), expected, "{words} of {}", client.name());
            await_blocked(&servers, 0);
        }
        let result = in_time("a pipeline", || {
            client.pipeline(pipe().get("k").cmd("BLPOP").arg("none").arg(0))
        });
        assert!(result.is_err());
        // Its own timeout is not cut.
        let result = client.query(&command("BLPOP none 0.3"));
        assert_eq!(result.unwrap(), Value::Nil, "{}", client.name());
        // A handle may wait longer.
        let patient = client.with_blocking_timeout(PATIENT);
        let waiting = thread::spawn(move || patient.query(&command("BLPOP list 0")));
        await_blocked(&servers, 1);
        thread::sleep(2 * SHORT);
        client.query(&command("RPUSH list x")).unwrap();
        waiting.join().unwrap().unwrap();
    }
}

#[test]
fn blocking_timeout_is_none_by_default_and_a_command_without_end_outlasts_the_response_timeout() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    for client in both(|| builder(&servers).response_timeout(2 * SHORT)) {
        let waits = client.clone();
        let waiting = thread::spawn(move || waits.query(&command("BLPOP list 0")));
        await_blocked(&servers, 1);
        thread::sleep(6 * SHORT);
        client.query(&command("RPUSH list x")).unwrap();
        let popped = waiting.join().unwrap();
        assert!(popped.is_ok(), "{}: {popped:?}", client.name());
    }
}

#[test]
fn proxy_bounds_commands_without_end_only_if_a_blocking_timeout_is_set() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let describe = || builder(&servers).response_timeout(2 * SHORT);
    let door = LocalProxy::open(describe().blocking_timeout(SHORT));
    let mut talker = door.talk();
    let reply = in_time("BLPOP", || talker.ask("BLPOP none 0"));
    assert!(reply.starts_with("-UNKNOWN "), "{reply}");
    let reply = in_time("XREAD", || talker.ask("XREAD BLOCK 0 STREAMS none $"));
    assert!(reply.starts_with("-TIMEOUT "), "{reply}");
    await_blocked(&servers, 0);
    assert_eq!(talker.ask("PING"), "+PONG");

    let door = LocalProxy::open(describe());
    let mut talker = door.talk();
    talker.say("BLPOP list 0");
    await_blocked(&servers, 1);
    thread::sleep(6 * SHORT);
    assert_eq!(door.talk().ask("RPUSH list x"), ":1");
    assert_eq!(talker.hear(), "*2 list x");
}

#[test]
fn settings_of_requests_out_of_their_range_are_config_errors() {
    let builder = || ShardedClient::builder().node("a", "redis://10.0.0.1/");
    let year = redis_sharding::builder::TIMEOUT_MAX;
    let second = Duration::from_secs(1);
    let retry = |attempts, min, max| {
        builder().retry(RetryPolicy::attempts(attempts).with_backoff(min, max))
    };
    for (described, named) in [
        (
            builder().blocking_timeout(Duration::ZERO),
            "blocking_timeout",
        ),
        (
            builder().blocking_timeout(year + second),
            "blocking_timeout",
        ),
        (retry(0, second, second), "attempts of retry"),
        (retry(1001, second, second), "attempts of retry"),
        (retry(5, Duration::ZERO, second), "backoff of retry"),
        (
            retry(5, Duration::from_nanos(1), second),
            "backoff of retry",
        ),
        (retry(5, second, Duration::MAX), "backoff of retry"),
        (retry(5, 2 * second, second), "backoff of retry"),
    ] {
        let error = described.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    retry(1000, Duration::from_millis(1), 3600 * second)
        .build()
        .unwrap();
    // A handle has no way to refuse.
    let client = builder().build().unwrap();
    let _ = client.with_retry(RetryPolicy::attempts(0).with_backoff(Duration::MAX, second));
}

// ------------------------------------------------------------------------------------------------------------- retries

/// Five attempts, with pauses that a server needs to start on a busy machine.
fn patient() -> RetryPolicy {
    RetryPolicy::attempts(5).with_backoff(Duration::from_millis(500), Duration::from_secs(4))
}

/// Five attempts without much of a pause.
fn brisk() -> RetryPolicy {
    RetryPolicy::attempts(5).with_backoff(Duration::from_millis(1), Duration::from_millis(2))
}

/// Starts the server again after a while, while `act` goes on.
fn restarted_meanwhile<T>(servers: &Servers, index: usize, act: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        servers.kill(index);
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            servers.restart(index);
        });
        act()
    })
}

#[test]
fn server_that_restarts_in_time_is_not_noticed_with_five_attempts() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let clients = both(|| builder(&servers).response_timeout(PATIENT).retry(patient()));
    let of_node = keys(&clients[0], 2);
    let (up, down) = (&of_node[0], &of_node[1]);
    for client in &clients {
        let requests: [(&str, Request<'_>); 8] = [
            ("GET", &|| client.query(&command(&format!("GET {down}")))),
            ("SET", &|| client.query(&command(&format!("SET {down} 1")))),
            ("MSET", &|| {
                client.query(&command(&format!("MSET {up} 1 {down} 2")))
            }),
            ("a pipeline", &|| {
                client.pipeline(pipe().set(up, 1).set(down, 2).get(down))
            }),
            ("MULTI", &|| {
                client.pipeline(pipe().atomic().set(down, 1).get(down))
            }),
            ("transaction", &|| {
                client.transaction(down).map(|()| Value::Okay)
            }),
            ("dedicated", &|| client.dedicated(down)),
            ("BLPOP", &|| {
                client.query(&command(&format!("BLPOP list:{down} 0.01")))
            }),
        ];
        for (what, request) in requests {
            let what = format!("{what} of the {} client", client.name());
            // Idle connections break now and not under the request, of which a write would be unknown.
            let done = restarted_meanwhile(&servers, 1, request);
            assert!(done.is_ok(), "{what}: {done:?}");
        }
        let scanned = restarted_meanwhile(&servers, 1, || client.scan());
        assert!(scanned.is_ok(), "{scanned:?}");
        // The first failure, without a policy.
        servers.kill(1);
        let off = client.with_retry(RetryPolicy::OFF);
        let failed = in_time("GET", || off.query(&command(&format!("GET {down}"))));
        assert_eq!(kind(&failed), ErrorKind::NodeDown);
        servers.restart(1);
    }
}

#[test]
fn proxy_waits_for_a_server_that_restarts_as_its_policy_says() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let describe = || builder(&servers).response_timeout(PATIENT);
    let of_node = keys(&both(describe)[0], 2);
    let (up, down) = (&of_node[0], &of_node[1]);
    let door = LocalProxy::open(describe().retry(patient()));
    let mut talker = door.talk();
    let requests = [
        (format!("GET {down}"), "$-1"),
        (format!("MSET {up} 1 {down} 2"), "+OK"),
        (format!("BLPOP list:{down} 0.01"), "*-1"),
        (format!("WATCH {down}"), "+OK"),
    ];
    for (request, expected) in requests {
        let reply = restarted_meanwhile(&servers, 1, || talker.ask(&request));
        assert_eq!(reply, expected, "{request}");
    }
    assert_eq!(talker.ask("UNWATCH"), "+OK");
    assert_eq!(talker.ask("MULTI"), "+OK");
    assert_eq!(talker.ask(&format!("SET {down} 7")), "+QUEUED");
    let reply = restarted_meanwhile(&servers, 1, || talker.ask("EXEC"));
    assert_eq!(reply, "*1 +OK");

    let door = LocalProxy::open(describe());
    let mut talker = door.talk();
    servers.kill(1);
    let reply = in_time("GET", || talker.ask(&format!("GET {down}")));
    assert!(reply.starts_with("-NODEDOWN "), "{reply}");
}

#[test]
fn write_that_was_sent_is_never_repeated_under_any_policy() {
    let node = TestNode::start().unwrap();
    for policy in [RetryPolicy::OFF, RetryPolicy::READS, brisk()] {
        let describe = || builder_over([node.url()]).retry(policy);
        let door = LocalProxy::open(describe());
        let mut talker = door.talk();
        for client in both(describe) {
            for fault in [
                Fault::CloseAfter,
                Fault::CloseBefore,
                Fault::HalfReplyThenClose,
            ] {
                client.query(&command("PING")).unwrap();
                let requests: [(&str, Request<'_>); 4] = [
                    ("INCR", &|| client.query(&command("INCR n"))),
                    ("INCR", &|| {
                        client.pipeline(pipe().cmd("INCR").arg("n").get("n"))
                    }),
                    ("EXEC", &|| client.pipeline(pipe().atomic().incr("n", 1))),
                    ("EVAL", &|| client.query(&command("EVAL return(1) 1 n"))),
                ];
                for (name, request) in requests {
                    node.clear_received();
                    node.fail(name, fault.clone(), 1);
                    let result = request();
                    assert_eq!(
                        kind(&result),
                        ErrorKind::Unknown,
                        "{name} {fault:?} {result:?}"
                    );
                    assert_eq!(node.faults_left(), 0);
                    assert_eq!(node.count_of(name), 1, "{policy:?} {fault:?}");
                }
            }
        }
        node.clear_received();
        node.fail("INCR", Fault::CloseAfter, 1);
        let reply = talker.ask("INCR n");
        assert!(reply.starts_with("-UNKNOWN "), "{reply}");
        assert_eq!((node.faults_left(), node.count_of("INCR")), (0, 1));
    }
}

#[test]
fn read_is_sent_as_often_as_its_policy_says() {
    let node = TestNode::start().unwrap();
    for (policy, expected) in [(RetryPolicy::OFF, 1), (RetryPolicy::READS, 2), (brisk(), 5)] {
        for client in both(|| builder_over([node.url()])) {
            let client = client.with_retry(policy);
            node.fail("GET", Fault::CloseBefore, usize::MAX);
            node.clear_received();
            assert_eq!(kind(&client.query(&command("GET k"))), ErrorKind::NodeDown);
            assert_eq!(node.count_of("GET"), expected, "{policy:?}");
            node.heal().unwrap();
            node.fail("GET", Fault::CloseBefore, usize::MAX);
            node.clear_received();
            assert_eq!(kind(&client.pipeline(pipe().get("k"))), ErrorKind::NodeDown);
            assert_eq!(node.count_of("GET"), expected, "{policy:?}");
            node.heal().unwrap();
        }
    }
}

#[test]
fn readonly_is_repeated_only_by_a_policy_with_attempts() {
    let node = TestNode::start().unwrap();
    let readonly = || Fault::Error("READONLY You can't write against a read only replica.".into());
    for client in both(|| builder_over([node.url()])) {
        let waits = client.with_retry(brisk());
        let requests: [(&str, RequestOf<'_>); 4] = [
            ("SET", &|client| client.query(&command("SET k v"))),
            ("MSET", &|client| client.query(&command("MSET k v l w"))),
            ("SET", &|client| {
                client.pipeline(pipe().set("k", 1).get("k"))
            }),
            ("SET", &|client| {
                client.pipeline(pipe().atomic().set("k", 1).set("l", 1))
            }),
        ];
        for (name, request) in requests {
            node.fail(name, readonly(), 2);
            request(&waits).unwrap();
            assert_eq!(node.faults_left(), 0, "{name}");
            node.clear_received();
            node.fail(name, readonly(), 1);
            let refused = request(&client);
            assert!(refused.is_err(), "{refused:?}");
            assert_eq!(node.faults_left(), 0, "{name}");
            node.fail(name, readonly(), usize::MAX);
            let refused = request(&waits);
            assert!(refused.is_err(), "{refused:?}");
            node.heal().unwrap();
        }
    }
    let door = LocalProxy::open(builder_over([node.url()]).retry(brisk()));
    node.fail("SET", readonly(), 2);
    assert_eq!(door.talk().ask("SET k v"), "+OK");
    assert_eq!(node.faults_left(), 0);
}

#[test]
fn write_to_a_replica_waits_until_it_is_promoted() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut admin = servers.connection(0);
    for client in both(|| builder(&servers).response_timeout(PATIENT)) {
        // A primary that there is not.
        let () = cmd("REPLICAOF")
            .arg("127.0.0.1")
            .arg(1)
            .query(&mut admin)
            .unwrap();
        let refused = client.query(&command("INCR n")).unwrap_err();
        assert_eq!(refused.code(), Some("READONLY"));
        let waits = client.with_retry(patient());
        let counted = thread::scope(|scope| {
            let admin = &mut admin;
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(100));
                let () = cmd("REPLICAOF").arg("NO").arg("ONE").query(admin).unwrap();
            });
            waits.query(&command("INCR n"))
        });
        assert_eq!(counted.unwrap(), Value::Int(1));
        client.query(&command("DEL n")).unwrap();
    }
}

#[tokio::test]
async fn dropped_future_of_a_request_that_waits_sends_nothing_more() {
    let node = TestNode::start().unwrap();
    let waits = RetryPolicy::attempts(5)
        .with_backoff(Duration::from_millis(200), Duration::from_millis(200));
    let client = builder_over([node.url()])
        .retry(waits)
        .build_async()
        .unwrap();
    node.fail("SET", Fault::Error("LOADING no".into()), 1);
    let mut connection = client.clone();
    let set = connection.set::<_, _, ()>("k", "v");
    tokio::time::timeout(SHORT, set).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!((node.faults_left(), node.count_of("SET")), (0, 1));
}

// ----------------------------------------------------------------------------------------------------------- hash tags

#[test]
fn hash_tags_required_holds_in_both_clients_and_the_proxy() {
    let node = TestNode::start().unwrap();
    let describe = || builder_over([node.url()]).hash_tags(HashTags::Required);
    for client in both(describe) {
        client
            .query(&command("MSET a 1 b 2 {t}a 3 {t}b 4"))
            .unwrap();
        client.query(&command("MGET a b")).unwrap();
        client.query(&command("RENAME {t}a {t}c")).unwrap();
        let refused = client.query(&command("RENAME a b"));
        assert_eq!(kind(&refused), ErrorKind::CrossNode);
        let refused = client.pipeline(pipe().atomic().set("a", 1).set("b", 2));
        assert_eq!(kind(&refused), ErrorKind::CrossNode);
        client.pipeline(pipe().set("a", 1).set("b", 2)).unwrap();
        client
            .pipeline(pipe().atomic().set("{t}a", 1).set("{t}b", 2))
            .unwrap();
        match &client {
            Client::Blocking(client) => {
                let refused = client.explain(&command("RENAME a b")).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::CrossNode);
                assert!(client.dedicated(&["a", "b"]).is_err());
                let mut connection = client.dedicated("{t}a").unwrap();
                let () = connection.set("{t}b", 1).unwrap();
                assert_eq!(kind(&connection.get::<_, Value>("a")), ErrorKind::CrossNode);
            }
            Client::Async(client, on) => on.block_on(async {
                let refused = client.explain(&command("RENAME a b")).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::CrossNode);
                assert!(client.dedicated(&["a", "b"]).await.is_err());
                let mut connection = client.dedicated("{t}a").await.unwrap();
                let () = connection.set("{t}b", 1).await.unwrap();
                let refused = connection.get::<_, Value>("a").await;
                assert_eq!(kind(&refused), ErrorKind::CrossNode);
            }),
        }
    }
    let door = LocalProxy::open(describe());
    let mut talker = door.talk();
    let ask = |talker: &mut support::local_proxy::RawClient, request: &str| {
        let reply = talker.ask(request);
        reply.split(' ').next().unwrap().to_owned()
    };
    for (request, expected) in [
        ("RENAME a b", "-CROSSNODE"),
        ("RENAME {t}b {t}a", "+OK"),
        ("WATCH a b", "-CROSSNODE"),
        ("UNWATCH", "+OK"),
        ("WATCH {t}a", "+OK"),
        ("MULTI", "+OK"),
        ("SET a 1", "-CROSSNODE"),
        ("EXEC", "-EXECABORT"),
        ("MULTI", "+OK"),
        ("SET {t}a 1", "+QUEUED"),
        ("SET {t}b 1", "+QUEUED"),
        ("EXEC", "*2"),
    ] {
        assert_eq!(ask(&mut talker, request), expected, "{request}");
    }
}
