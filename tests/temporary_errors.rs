//! Servers that reply and serve nothing for a while: LOADING, BUSY, MASTERDOWN, CLUSTERDOWN, TRYAGAIN. Blocking client,
//! async client, proxy.
#![cfg(all(feature = "testing", feature = "proxy"))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{
    Builder, ClientEvent, Error, ErrorKind, NodePing, NodeState, ReadsAs, RetryPolicy,
    ShardedClient, TemporaryErrors, aio,
};
use support::Servers;
use support::clients::{builder, builder_over};
use support::local_proxy::LocalProxy;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// More than anything takes.
const PATIENT: Duration = Duration::from_secs(30);
/// How long a server serves nothing, while requests wait for it.
const WHILE: Duration = Duration::from_millis(400);
/// Far more than a request takes on a busy machine, and far less than the time for which one waits.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The text of Redis.
const LOADING: &str = "Redis is loading the dataset in memory";

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
    fn with_timeout(&self, timeout: Duration) -> Self {
        match self {
            Self::Blocking(client) => Self::Blocking(client.with_timeout(timeout)),
            Self::Async(client, on) => Self::Async(client.with_timeout(timeout), Arc::clone(on)),
        }
    }

    fn with_retry(&self, policy: RetryPolicy) -> Self {
        match self {
            Self::Blocking(client) => Self::Blocking(client.with_retry(policy)),
            Self::Async(client, on) => Self::Async(client.with_retry(policy), Arc::clone(on)),
        }
    }

    fn execute(&self, words: &str) -> Result<Value, Error> {
        match self {
            Self::Blocking(client) => client.execute(&command(words)),
            Self::Async(client, on) => on.block_on(client.execute(&command(words))),
        }
    }

    fn pipeline(&self, pipeline: &Pipeline) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => pipeline.query(&mut client.clone()),
            Self::Async(client, on) => on.block_on(pipeline.query_async(&mut client.clone())),
        }
    }

    /// A command over a dedicated connection.
    fn dedicated(&self, key: &str, words: &str) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => command(words).query(&mut client.dedicated(key)?),
            Self::Async(client, on) => on.block_on(async {
                command(words)
                    .query_async(&mut client.dedicated(key).await?)
                    .await
            }),
        }
    }

    fn ping_nodes(&self) -> Vec<NodePing> {
        match self {
            Self::Blocking(client) => client.ping_nodes(),
            Self::Async(client, on) => on.block_on(client.ping_nodes()),
        }
    }

    fn state(&self, node: usize) -> NodeState {
        match self {
            Self::Blocking(client) => client.health().nodes[node].state,
            Self::Async(client, _) => client.health().nodes[node].state,
        }
    }

    fn key_count(&self) -> Result<usize, Error> {
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

/// Asserts that this fails at once with the server's own error, and which.
#[track_caller]
fn refused_at_once(code: &str, act: impl FnOnce() -> Result<Value, Error>) -> Error {
    let begun = Instant::now();
    let error = act().unwrap_err();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Redis, "{error}");
    let told = redis::RedisError::from(error.clone());
    assert_eq!(told.code(), Some(code), "{error}");
    assert!(error.is_retryable(), "{error}");
    error
}

/// A server that loads its data until it is told to be quick.
struct Loading {
    servers: Servers,
    _folder: TempDir,
}

impl Loading {
    /// Number of keys besides those of a test.
    const KEYS: usize = 4000;

    /// A server with data: `n` is 5, and `list` has an element.
    fn saved() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let servers = Servers::builder()
            .option(["--dir", folder.path().to_str().unwrap()])
            // Microseconds for each key, as in the tests of Redis.
            .option(["--key-load-delay", "4000"])
            // It replies after each key, as each is as long as that.
            .option(["--loading-process-events-interval-bytes", "1024"])
            .option(["--rdbcompression", "no"])
            .start(1)?;
        let mut admin = servers.connection(0);
        let mut fill = pipe();
        for number in 0..Self::KEYS {
            fill.cmd("SETRANGE")
                .arg(format!("key:{number}"))
                .arg(1020)
                .arg("1")
                .ignore();
        }
        fill.set("n", 5).ignore().rpush("list", "x").ignore();
        let () = fill.query(&mut admin).unwrap();
        let () = cmd("SAVE").query(&mut admin).unwrap();
        Some(Self {
            servers,
            _folder: folder,
        })
    }

    /// Starts the server again; it is loading then.
    fn restart(&self) {
        self.servers.restart(0);
        assert!(self.is_loading());
    }

    fn is_loading(&self) -> bool {
        let info: redis::InfoDict = cmd("INFO").query(&mut self.servers.connection(0)).unwrap();
        info.get::<u8>("loading").unwrap() == 1
    }

    /// Lets the server load the rest at once.
    fn finish(&self) {
        let () = command("CONFIG SET key-load-delay 0")
            .query(&mut self.servers.connection(0))
            .unwrap();
    }

    /// Lets the server load the rest after a while.
    fn finish_meanwhile<T>(&self, act: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(WHILE);
                assert!(self.is_loading(), "the requests must have waited");
                self.finish();
            });
            act()
        })
    }
}

/// A request that is made at the same time as others.
type Request<'r> = &'r (dyn Fn() -> Result<(), String> + Sync);

/// Runs these at the same time.
fn at_once(requests: &[(&str, Request<'_>)]) {
    thread::scope(|scope| {
        for (what, request) in requests {
            scope.spawn(move || {
                let begun = Instant::now();
                if let Err(error) = request() {
                    panic!("{what}: {error}");
                }
                assert!(begun.elapsed() >= WHILE / 2, "{what} did not wait");
            });
        }
    });
}

fn done<T: std::fmt::Debug, E: std::fmt::Display>(
    result: Result<T, E>,
    expected: &str,
) -> Result<(), String> {
    let text = match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => return Err(error.to_string()),
    };
    match text == expected {
        true => Ok(()),
        false => Err(format!("{text} instead of {expected}")),
    }
}

#[test]
fn requests_wait_for_a_server_that_is_loading_its_data() {
    let Some(server) = Loading::saved() else {
        return;
    };
    for query in ["", "?protocol=resp3"] {
        let url = format!("{}{query}", server.servers.url(0));
        let describe = || builder_over([url.clone()]).response_timeout(PATIENT);
        let door = LocalProxy::open(describe());
        for client in both(describe) {
            server.restart();
            state_of_a_loading_server(&client);
            let counted = AtomicUsize::new(0);
            let incr = || {
                let reply = client
                    .execute("INCR n")
                    .map_err(|error| error.to_string())?;
                let Value::Int(value @ 6..) = reply else {
                    return Err(format!("{reply:?}"));
                };
                counted.fetch_max(value as usize, Ordering::Relaxed);
                Ok(())
            };
            let ask = |request: &str| -> Result<String, String> { Ok(door.talk().ask(request)) };
            server.finish_meanwhile(|| {
                at_once(&[
                    ("GET", &|| done(client.execute("STRLEN key:1"), "int(1021)")),
                    ("SET", &|| done(client.execute("SET new 1"), "ok")),
                    ("INCR", &incr),
                    ("INCR", &incr),
                    ("MSET", &|| done(client.execute("MSET a 1 b 2"), "ok")),
                    ("BLPOP", &|| {
                        let popped = client.execute("BLPOP list 1");
                        popped.map(drop).map_err(|error| error.to_string())
                    }),
                    ("a pipeline", &|| {
                        let pipeline = pipe().set("p", 1).ignore().exists("p").clone();
                        done(client.pipeline(&pipeline), "array([int(1)])")
                    }),
                    ("MULTI", &|| {
                        let pipeline = pipe().atomic().set("q", 1).ignore().exists("q").clone();
                        done(client.pipeline(&pipeline), "array([int(1)])")
                    }),
                    ("SCAN", &|| {
                        let count = client.key_count().map_err(|error| error.to_string())?;
                        // Two are deleted at the same time.
                        match count >= Loading::KEYS - 2 {
                            true => Ok(()),
                            false => Err(format!("{count} keys")),
                        }
                    }),
                    ("SCRIPT LOAD", &|| {
                        let loaded = client.execute("SCRIPT LOAD return(1)");
                        loaded.map(drop).map_err(|error| error.to_string())
                    }),
                    ("GET through the proxy", &|| {
                        done(ask("STRLEN key:2"), "\":1021\"")
                    }),
                    ("SET through the proxy", &|| done(ask("SET r 1"), "\"+OK\"")),
                    ("DEL through the proxy", &|| {
                        done(ask("DEL key:3 key:4"), "\":2\"")
                    }),
                    ("MULTI through the proxy", &|| {
                        let mut talker = door.talk();
                        talker.ask("MULTI");
                        talker.ask("SET s 1");
                        done(Ok::<_, String>(talker.ask("EXEC")), "\"*1 +OK\"")
                    }),
                    ("BLPOP through the proxy", &|| {
                        let reply = door.talk().ask("BLPOP none list 0.01");
                        match reply.starts_with('-') {
                            true => Err(reply),
                            false => Ok(()),
                        }
                    }),
                ]);
            });
            assert_eq!(counted.into_inner(), 7, "5 was saved, and 2 were added");
        }
    }
}

/// What does not wait for a server that is loading.
fn state_of_a_loading_server(client: &Client) {
    let begun = Instant::now();
    let pings = client.ping_nodes();
    let error = pings[0].result.as_ref().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("node node-0: LOADING: {LOADING}")
    );
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    refused_at_once("LOADING", || client.execute("PING"));
    let info = client.execute("INFO persistence").unwrap();
    let info: String = redis::from_redis_value(info).unwrap();
    assert!(info.contains("loading:1"), "{info}");
    assert!(matches!(client.state(0), NodeState::Up { .. }));
    // Where waiting is switched off.
    for policy in [
        RetryPolicy::OFF,
        RetryPolicy::READS.with_temporary_errors(TemporaryErrors::Returned),
        RetryPolicy::attempts(9).with_temporary_errors(TemporaryErrors::Returned),
    ] {
        let client = client.with_retry(policy);
        let error = refused_at_once("LOADING", || client.execute("GET key:1"));
        assert_eq!(
            error.to_string(),
            format!("node node-0: LOADING: {LOADING}")
        );
        assert_eq!(
            (error.node(), error.keys()),
            (Some("node-0"), &[b"key:1".to_vec()][..])
        );
    }
    // Scripts may have chosen the code, and what is sent over a dedicated connection is sent once.
    refused_at_once("LOADING", || client.execute("EVAL return(1) 1 n"));
    let begun = Instant::now();
    let refused = client.dedicated("n", "INCR n").unwrap_err();
    assert_eq!(refused.code(), Some("LOADING"));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // The time of a request is its limit, and the server's error the result.
    let begun = Instant::now();
    let hasty = client.with_timeout(Duration::from_secs(1));
    let error = hasty.execute("GET key:1").unwrap_err();
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(500) && took < Duration::from_secs(3),
        "{took:?}"
    );
    assert_eq!(
        error.to_string(),
        format!("node node-0: LOADING: {LOADING}")
    );
    assert!(error.is_retryable() && error.kind() == ErrorKind::Redis);
}

#[test]
fn missing_nodes_does_not_take_the_keys_of_a_loading_server_for_missing() {
    let Some(server) = Loading::saved() else {
        return;
    };
    server.restart();
    let describe = || {
        builder(&server.servers)
            .missing_nodes(ReadsAs::Miss)
            .response_timeout(Duration::from_secs(2))
    };
    for client in both(describe) {
        let error = client.execute("GET key:1").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("node node-0: LOADING: {LOADING}")
        );
        let found = server.finish_meanwhile(|| client.with_timeout(PATIENT).execute("GET n"));
        assert_eq!(found.unwrap(), Value::BulkString(b"5".into()));
        server.restart();
    }
    let reply = LocalProxy::open(describe()).talk().ask("GET key:1");
    assert_eq!(reply, format!("-LOADING {LOADING}"));
}

#[test]
fn writers_lose_and_double_nothing_while_their_server_restarts_and_loads() {
    let Some(server) = Loading::saved() else {
        return;
    };
    let retry = RetryPolicy::attempts(20);
    let describe = || {
        builder(&server.servers)
            .response_timeout(PATIENT)
            .retry(retry)
    };
    let door = LocalProxy::open(describe());
    let clients = both(describe);
    let (acknowledged, unknown) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for client in clients.iter().flat_map(|client| [client; 3]) {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    match client.execute("INCR n") {
                        Ok(_) => acknowledged.fetch_add(1, Ordering::SeqCst),
                        Err(error) if error.kind() == ErrorKind::Unknown => {
                            unknown.fetch_add(1, Ordering::SeqCst)
                        }
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
        scope.spawn(|| {
            let mut talker = door.talk();
            while !is_over.load(Ordering::SeqCst) {
                match talker.ask("INCR n") {
                    reply if reply.starts_with(':') => acknowledged.fetch_add(1, Ordering::SeqCst),
                    reply if reply.starts_with("-UNKNOWN ") => {
                        unknown.fetch_add(1, Ordering::SeqCst)
                    }
                    reply => panic!("{reply}"),
                };
            }
        });
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(50));
            // Everything that was acknowledged is saved.
            let ended: RedisResult<()> =
                command("SHUTDOWN SAVE").query(&mut server.servers.connection(0));
            assert!(ended.is_err(), "there is no reply");
            server.restart();
            thread::sleep(WHILE);
            server.finish();
        }
        thread::sleep(Duration::from_millis(100));
        is_over.store(true, Ordering::SeqCst);
    });
    let value: usize = command("GET n")
        .query(&mut server.servers.connection(0))
        .unwrap();
    let value = value - 5;
    let (acknowledged, unknown) = (acknowledged.into_inner(), unknown.into_inner());
    assert!(acknowledged > 20, "{acknowledged}");
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&value),
        "{acknowledged} acknowledged, {unknown} unknown, {value} there"
    );
}

/// Keeps the first server busy with a script, until somebody kills it.
fn busy_meanwhile<T>(servers: &Servers, act: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let mut connection = servers.connection(0);
        scope.spawn(move || {
            let ended: RedisResult<()> = cmd("EVAL")
                .arg("while true do end")
                .arg(0)
                .query(&mut connection);
            let error = ended.unwrap_err().to_string();
            assert!(error.contains("killed"), "{error}");
        });
        let begun = Instant::now();
        while cmd("PING").exec(&mut servers.connection(0)).is_ok() {
            assert!(begun.elapsed() < PATIENT, "the server does not become busy");
            thread::sleep(Duration::from_millis(5));
        }
        let _end = KillScript(servers);
        act()
    })
}

/// Kills the script of the first server when it is dropped, or a test that fails would wait for its end.
struct KillScript<'s>(&'s Servers);

impl Drop for KillScript<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _: RedisResult<()> = command("SCRIPT KILL").query(&mut self.0.connection(0));
    }
}

#[test]
fn requests_wait_for_a_busy_server_and_script_kill_reaches_it_at_once() {
    let Some(servers) = Servers::builder()
        .option(["--lua-time-limit", "10"])
        .start(2)
    else {
        return;
    };
    // SELECT and CLIENT SETNAME are refused while a script runs.
    let urls = || (0..2).map(|index| format!("{}1", servers.url(index)));
    for query in ["", "?protocol=resp3"] {
        let events = Arc::new(Mutex::new(Vec::new()));
        let describe = || {
            let events = Arc::clone(&events);
            builder_over(urls().map(|url| format!("{url}{query}")))
                .client_name("patient")
                .response_timeout(PATIENT)
                .on_event(move |event| {
                    if let ClientEvent::NodeDown { node, error, .. } = event {
                        let text = format!("{}: {error}", node.name());
                        events.lock().unwrap().push(text);
                    }
                })
        };
        for client in both(describe) {
            let Client::Blocking(blocking) = &both(describe)[0] else {
                unreachable!("the first is blocking")
            };
            let on = |index: usize| {
                let keys = (0..).map(|number| format!("key:{number}"));
                let on = |key: &String| blocking.node_for(key).unwrap().index().get() == index;
                keys.into_iter().find(on).unwrap()
            };
            let (here, there) = (on(0), on(1));
            busy_meanwhile(&servers, || {
                thread::scope(|scope| {
                    // None of these has a connection yet.
                    for words in [
                        format!("INCR {here}"),
                        format!("MSET {here}:{{x}} 1 {there} 1"),
                        format!("BLPOP list:{here} 0.01"),
                        format!("GET {here}"),
                    ] {
                        let client = client.clone();
                        scope.spawn(move || {
                            let done = client.execute(&words);
                            assert!(done.is_ok(), "{words}: {done:?}");
                        });
                    }
                    thread::sleep(WHILE);
                    let begun = Instant::now();
                    client.execute(&format!("INCR {there}")).unwrap();
                    let begun_to_kill = Instant::now();
                    assert!(begun_to_kill - begun < AT_ONCE, "the other node");
                    client.execute("SCRIPT KILL").unwrap();
                    assert!(begun_to_kill.elapsed() < AT_ONCE, "SCRIPT KILL");
                });
            });
            let begun = Instant::now();
            client.execute(&format!("INCR {here}")).unwrap();
            assert!(begun.elapsed() < AT_ONCE, "the backoff is not poisoned");
            assert!(matches!(client.state(0), NodeState::Up { .. }));
            client.execute(&format!("DEL {here} {there}")).unwrap();
        }
        let door = LocalProxy::open(describe());
        busy_meanwhile(&servers, || {
            let (mut waiting, mut other) = (door.talk(), door.talk());
            let Client::Blocking(client) = &both(describe)[0] else {
                unreachable!("the first is blocking")
            };
            let on = |index: usize| {
                let keys = (0..).map(|number| format!("key:{number}"));
                let on = |key: &String| client.node_for(key).unwrap().index().get() == index;
                keys.into_iter().find(on).unwrap()
            };
            waiting.say(&format!("INCR {}", on(0)));
            thread::sleep(WHILE);
            let begun = Instant::now();
            assert_eq!(other.ask(&format!("INCR {}", on(1))), ":1");
            assert_eq!(other.ask("SCRIPT KILL"), "+OK");
            assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
            assert_eq!(waiting.hear(), ":1");
            assert_eq!(other.ask(&format!("DEL {} {}", on(0), on(1))), ":2");
        });
        assert_eq!(*events.lock().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn requests_wait_for_a_replica_without_its_primary_and_for_a_cluster_without_slots() {
    let Some(replica) = Servers::builder()
        .option(["--replica-serve-stale-data", "no"])
        .start(1)
    else {
        return;
    };
    let Some(cluster) = Servers::builder()
        .option(["--cluster-enabled", "yes"])
        .start(1)
    else {
        return;
    };
    // A write to a replica is refused with READONLY.
    for (servers, before, after, code, request, reply) in [
        (
            &replica,
            "REPLICAOF 127.0.0.1 1",
            "REPLICAOF NO ONE",
            "MASTERDOWN",
            "EXISTS k",
            "int(0)",
        ),
        (
            &cluster,
            "CLUSTER FLUSHSLOTS",
            "CLUSTER ADDSLOTSRANGE 0 16383",
            "CLUSTERDOWN",
            "SET k v",
            "ok",
        ),
    ] {
        let describe = || builder(servers).response_timeout(PATIENT);
        let door = LocalProxy::open(describe());
        let mut admin = servers.connection(0);
        for client in both(describe) {
            let () = command(before).query(&mut admin).unwrap();
            let off = client.with_retry(RetryPolicy::OFF);
            refused_at_once(code, || off.execute("GET k"));
            let admin = &mut admin;
            thread::scope(|scope| {
                scope.spawn(move || {
                    thread::sleep(WHILE);
                    let () = command(after).query(admin).unwrap();
                });
                at_once(&[
                    ("GET", &|| done(client.execute("GET other"), "nil")),
                    (request, &|| done(client.execute(request), reply)),
                    ("MULTI", &|| {
                        let mut pipeline = pipe();
                        pipeline.atomic().add_command(command(request));
                        done(client.pipeline(&pipeline), &format!("array([{reply}])"))
                    }),
                    ("the proxy", &|| {
                        let reply = door.talk().ask(request);
                        match reply.starts_with('-') {
                            true => Err(reply),
                            false => Ok(()),
                        }
                    }),
                ]);
            });
            let () = command("FLUSHALL")
                .query(&mut servers.connection(0))
                .unwrap();
        }
    }
}

#[test]
fn handshake_that_is_refused_for_the_time_being_is_waited_for() {
    let node = TestNode::builder().password("secret").start().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    for (query, refused) in [("?protocol=resp3", "HELLO"), ("", "AUTH"), ("", "CLIENT")] {
        let describe = || {
            let events = Arc::clone(&events);
            builder_over([format!("{}{query}", node.url())])
                .client_name("patient")
                .on_event(move |event| events.lock().unwrap().push(event.clone()))
        };
        for client in both(describe) {
            let loading = || Fault::Error(format!("LOADING {LOADING}"));
            node.close_connections();
            node.fail(refused, loading(), 3);
            assert_eq!(client.execute("INCR n").unwrap(), Value::Int(1));
            assert_eq!(node.faults_left(), 0, "{refused}");
            assert!(matches!(client.state(0), NodeState::Up { .. }));
            client.execute("DEL n").unwrap();
        }
        // What does not wait gets the error of the server.
        for client in both(describe) {
            let loading = || Fault::Error(format!("LOADING {LOADING}"));
            node.fail(refused, loading(), 1);
            let off = client.with_retry(RetryPolicy::OFF);
            let error = refused_at_once("LOADING", || off.execute("SET n 1"));
            assert_eq!(
                error.to_string(),
                format!("node node-0: LOADING: {LOADING}")
            );
            assert_eq!(node.faults_left(), 0, "{refused}");
            node.fail(refused, loading(), 2);
            client.dedicated("n", "SET n 1").unwrap();
            assert_eq!(node.faults_left(), 0, "{refused}");
            client.execute("DEL n").unwrap();
        }
        let door = LocalProxy::open(describe());
        let refused = if refused == "HELLO" { "AUTH" } else { refused };
        node.fail(refused, Fault::Error(format!("LOADING {LOADING}")), 2);
        assert_eq!(door.talk().ask("INCR n"), ":1");
        assert_eq!(node.faults_left(), 0, "{refused}");
        assert_eq!(door.talk().ask("DEL n"), ":1");
    }
    let events = events.lock().unwrap();
    let is_down = |event: &&ClientEvent| matches!(event, ClientEvent::NodeDown { .. });
    let down: Vec<&ClientEvent> = events.iter().filter(is_down).collect();
    assert!(down.is_empty(), "{down:?}");
}

#[test]
fn tryagain_is_waited_for_in_order_and_nothing_is_applied_twice() {
    let nodes = TestNode::start_many(2).unwrap();
    let urls = || nodes.iter().map(TestNode::url);
    let tryagain =
        || Fault::Error("TRYAGAIN Multiple keys request during rehashing of slot".into());
    for client in both(|| builder_over(urls())) {
        for (name, words, times) in [
            ("GET", "GET k", 3),
            ("INCR", "INCR n", 3),
            ("MSET", "MSET a 1 b 2 c 3 d 4", 2),
            ("RPUSH", "RPUSH list x", 1),
        ] {
            for node in &nodes {
                node.fail(name, tryagain(), times);
                node.clear_received();
            }
            client.execute(words).unwrap();
            let failed: usize = nodes
                .iter()
                .map(|node| 2 * times - node.faults_left())
                .sum();
            let left: usize = nodes.iter().map(TestNode::faults_left).sum();
            assert!(failed > 0 && left <= times, "{name}");
            let received: usize = nodes.iter().map(|node| node.count_of(name)).sum();
            let parts = if name == "MSET" { 2 } else { 1 };
            assert_eq!(received, parts * (times + 1), "{name}");
            nodes.iter().for_each(|node| node.heal().unwrap());
        }
        let mut pushes = pipe();
        for number in 0..10 {
            pushes.rpush("numbers", number).ignore();
        }
        for node in &nodes {
            node.fail("RPUSH", tryagain(), 3);
        }
        // The first is refused and those behind it are not: the refusal stays.
        let refused = client.pipeline(&pushes).unwrap_err();
        assert!(refused.to_string().contains("TryAgain"), "{refused}");
        nodes.iter().for_each(|node| node.heal().unwrap());
        client.execute("DEL numbers list n").unwrap();
        // All are refused twice.
        for node in &nodes {
            node.fail("RPUSH", tryagain(), 20);
        }
        client.pipeline(&pushes).unwrap();
        let numbers = client.execute("LRANGE numbers 0 -1").unwrap();
        let numbers: Vec<u8> = redis::from_redis_value(numbers).unwrap();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        nodes.iter().for_each(|node| node.heal().unwrap());
        client.execute("DEL numbers").unwrap();
    }
}

#[test]
fn client_of_the_proxy_that_leaves_does_not_wait_any_longer() {
    let node = TestNode::start().unwrap();
    let door = LocalProxy::open(builder_over([node.url()]).response_timeout(None));
    let loading = || Fault::Error(format!("LOADING {LOADING}"));
    let mut other = door.talk();
    // More arguments than are planned on the thread of the other clients.
    let heavy = (0..20_000).fold("DEL".to_owned(), |words, number| {
        format!("{words} k{number}")
    });
    for request in ["SET k v", "EVAL_RO return(1) 1 k", "MULTI", &heavy] {
        for name in ["SET", "EVAL_RO", "DEL"] {
            node.fail(name, loading(), usize::MAX);
        }
        let mut leaving = door.talk();
        if request == "MULTI" {
            leaving.ask("MULTI");
            leaving.ask("SET k v");
            leaving.say("EXEC");
        } else {
            leaving.say(request);
        }
        let begun = Instant::now();
        let clients = |other: &mut support::local_proxy::RawClient| {
            other.ask("CLIENT LIST").matches("id=").count()
        };
        thread::sleep(WHILE);
        assert_eq!(clients(&mut other), 2, "it waits");
        leaving.hang_up();
        while clients(&mut other) > 1 {
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{}",
                &request[..3]
            );
            thread::sleep(Duration::from_millis(10));
        }
        node.heal().unwrap();
        node.clear_received();
        thread::sleep(Duration::from_millis(1200));
        assert!(node.received().is_empty(), "nothing more is sent for it");
    }
    // One that only sends no more gets the last error.
    node.fail("SET", loading(), usize::MAX);
    let mut half = door.talk();
    half.say("SET k v");
    thread::sleep(Duration::from_millis(100));
    half.close_output();
    assert_eq!(half.hear(), format!("-LOADING {LOADING}"));
    assert!(half.is_hung_up_on());
}

#[test]
fn temporary_error_stays_the_result_when_the_last_attempt_gets_no_reply() {
    let node = TestNode::start().unwrap();
    let describe = || {
        builder_over([node.url()])
            .missing_nodes(ReadsAs::Miss)
            .response_timeout(Duration::from_millis(1500))
    };
    let door = LocalProxy::open(describe());
    assert_eq!(door.talk().ask("SET k v"), "+OK");
    let loading = || Fault::Error(format!("LOADING {LOADING}"));
    let expected = format!("node node-0: LOADING: {LOADING}");
    for client in both(describe) {
        for (name, words) in [("GET", "GET k"), ("MGET", "MGET k l")] {
            // A silent connection may be in use for a while.
            node.close_connections();
            let patient = client.with_retry(RetryPolicy::attempts(9));
            patient.execute("EXISTS k").unwrap();
            node.fail(name, loading(), 1);
            node.fail(name, Fault::HangBefore, 1);
            let error = client.execute(words).unwrap_err();
            assert!(error.to_string().contains(&expected), "{error}");
            assert_eq!(node.faults_left(), 0, "{words}");
        }
    }
    node.fail("GET", loading(), 1);
    node.fail("GET", Fault::HangBefore, 1);
    assert_eq!(door.talk().ask("GET k"), format!("-LOADING {LOADING}"));
    assert_eq!(node.faults_left(), 0);
}
