//! Errors in redis-rs' traits: what its predicates answer, compared with its own connections to one server to which the
//! same happens, and what is found of this crate's error inside.
#![cfg(all(feature = "testing", feature = "tokio-comp"))]

mod support;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, Error, ErrorKind, PartStatus, ShardedClient};
use support::{Servers, builder_over};

/// Long enough for a busy machine, short enough to wait for.
const TIMEOUT: Duration = Duration::from_millis(500);

/// All that redis-rs can be asked about an error.
#[derive(Debug, PartialEq, Eq)]
struct Predicates {
    kind: redis::ErrorKind,
    is_io_error: bool,
    is_timeout: bool,
    is_connection_dropped: bool,
    is_connection_refusal: bool,
    is_unrecoverable_error: bool,
    retry_method: String,
}

impl Predicates {
    fn of(error: &RedisError) -> Self {
        Self {
            kind: error.kind(),
            is_io_error: error.is_io_error(),
            is_timeout: error.is_timeout(),
            is_connection_dropped: error.is_connection_dropped(),
            is_connection_refusal: error.is_connection_refusal(),
            is_unrecoverable_error: error.is_unrecoverable_error(),
            retry_method: format!("{:?}", error.retry_method()),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// The error of a blocking connection of redis-rs, and that of one on tokio.
fn of_redis_rs(url: &str, request: &Cmd, happen: &dyn Fn()) -> [RedisError; 2] {
    let client = redis::Client::open(url).unwrap();
    let ask = || -> RedisResult<Value> {
        let mut connection = client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        happen();
        request.query(&mut connection)
    };
    let blocking = ask().unwrap_err();
    let tokio = runtime().block_on(async {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        happen();
        request.query_async::<Value>(&mut connection).await
    });
    [blocking, tokio.unwrap_err()]
}

/// The errors of both clients of this crate, the first and one of the requests after it: that one is refused by the backoff if
/// the node cannot be reached.
fn ours(url: &str, request: &Cmd, happen: &dyn Fn()) -> [[RedisError; 2]; 2] {
    let builder = || {
        builder_over([url.to_owned()])
            .connect_timeout(TIMEOUT)
            .response_timeout(TIMEOUT)
    };
    let mut client = builder().build().unwrap();
    // Connects, if that is possible.
    let _ = cmd("EXISTS").arg("k").exec(&mut client);
    happen();
    let blocking = [(); 2].map(|()| request.query::<Value>(&mut client).unwrap_err());
    let tokio = runtime().block_on(async {
        let mut client = builder().build_async().unwrap();
        let _ = cmd("EXISTS").arg("k").exec_async(&mut client).await;
        happen();
        let first = request.query_async::<Value>(&mut client).await;
        let second = request.query_async::<Value>(&mut client).await;
        [first.unwrap_err(), second.unwrap_err()]
    });
    [blocking, tokio]
}

/// Compares all errors, and returns the kind of ours, which is one.
#[track_caller]
fn compare(what: &str, url: &str, request: &Cmd, happen: &dyn Fn()) -> ErrorKind {
    let theirs = of_redis_rs(url, request, happen);
    let ours = ours(url, request, happen);
    let kind = ErrorKind::of(&ours[0][0]);
    for (theirs, ours) in theirs.iter().zip(&ours) {
        let [first, second] = ours;
        for ours in [first, second, &second.clone()] {
            assert_eq!(
                Predicates::of(ours),
                Predicates::of(theirs),
                "{what}: {ours} | {theirs}"
            );
            assert_eq!(ErrorKind::of(ours), kind, "{what}: {ours}");
            let text = ours.to_string();
            assert!(text.contains("node-0"), "{what}: {text}");
            assert_eq!(
                ours.is_timeout(),
                text.contains("timed out"),
                "{what}: {text}"
            );
            assert!(!text.contains("os error 11)"), "{what}: {text}");
            // redis-rs' error for a refused password has no room for another.
            let inner = Error::of(ours);
            assert_eq!(inner.is_some(), kind != ErrorKind::Auth, "{what}");
            assert!(inner.is_none_or(|inner| inner.keys() == [b"k"]), "{what}");
            assert!(
                inner.is_none_or(|inner| inner.node() == Some("node-0")),
                "{what}"
            );
        }
    }
    kind
}

fn get() -> Cmd {
    cmd("GET").arg("k").clone()
}

fn set() -> Cmd {
    cmd("SET").arg("k").arg("v").clone()
}

#[test]
fn refused_port_and_missing_unix_socket_answer_as_in_redis_rs() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("redis://{}/", free.local_addr().unwrap());
    drop(free);
    let socket = std::env::temp_dir().join("redis-sharding-no-such.sock");
    let socket = format!("redis+unix://{}", socket.display());
    for url in [port, socket] {
        for request in [get(), set()] {
            let kind = compare(&url, &url, &request, &|| ());
            assert_eq!(kind, ErrorKind::NodeDown);
        }
    }
}

#[test]
fn server_that_closes_answers_as_in_redis_rs() {
    let node = TestNode::start().unwrap();
    for fault in [Fault::CloseBefore, Fault::CloseAfter] {
        node.fail("GET", fault.clone(), usize::MAX);
        node.fail("SET", fault, usize::MAX);
        let kind = compare("GET", &node.url(), &get(), &|| ());
        assert_eq!(kind, ErrorKind::NodeDown);
        let kind = compare("SET", &node.url(), &set(), &|| ());
        assert_eq!(kind, ErrorKind::Unknown);
        assert!(node.count_of("SET") >= 6);
        node.heal().unwrap();
    }
}

#[test]
fn server_killed_during_a_write_answers_as_in_redis_rs() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let url = servers.url(0);
    let victim = || {
        servers.pause(0);
        let pid = servers.pid(0).to_string();
        thread::spawn(move || {
            thread::sleep(TIMEOUT / 5);
            let mut kill = std::process::Command::new("kill");
            assert!(kill.args(["-9", &pid]).status().unwrap().success());
        })
    };
    let client = redis::Client::open(url.as_str()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let killing = victim();
    let theirs = set().exec(&mut connection).unwrap_err();
    killing.join().unwrap();
    servers.restart(0);

    let mut client = builder_over([url.clone()]).build().unwrap();
    get().exec(&mut client).unwrap();
    let killing = victim();
    let blocking = set().exec(&mut client).unwrap_err();
    killing.join().unwrap();
    servers.restart(0);

    let tokio = runtime().block_on(async {
        let mut client = builder_over([url.clone()]).build_async().unwrap();
        get().exec_async(&mut client).await.unwrap();
        let killing = victim();
        let error = set().exec_async(&mut client).await.unwrap_err();
        killing.join().unwrap();
        error
    });
    assert!(theirs.is_connection_dropped(), "{theirs}");
    for ours in [blocking, tokio] {
        assert_eq!(Predicates::of(&ours), Predicates::of(&theirs), "{ours}");
        assert_eq!(ErrorKind::of(&ours), ErrorKind::Unknown);
        assert!(!Error::of(&ours).unwrap().is_retryable());
    }
}

#[test]
fn server_that_hangs_is_a_timeout_as_in_redis_rs() {
    let node = TestNode::start().unwrap();
    node.fail("GET", Fault::HangBefore, usize::MAX);
    node.fail("SET", Fault::HangBefore, usize::MAX);
    let kind = compare("GET", &node.url(), &get(), &|| ());
    assert_eq!(kind, ErrorKind::Timeout);
    let kind = compare("SET", &node.url(), &set(), &|| ());
    assert_eq!(kind, ErrorKind::Unknown);
    assert!(node.count_of("SET") >= 6);
}

#[test]
fn server_that_does_not_read_is_a_timeout_as_in_redis_rs() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    // More than the buffers of both sockets take.
    let large = cmd("SET").arg("k").arg(vec![b'x'; 32 << 20]).clone();
    let url = servers.url(0);
    let theirs = of_redis_rs(&url, &large, &|| servers.pause(0));
    servers.resume(0);
    let builder = || builder_over([url.clone()]).response_timeout(TIMEOUT);
    let mut client = builder().build().unwrap();
    get().exec(&mut client).unwrap();
    servers.pause(0);
    let blocking = large.exec(&mut client).unwrap_err();
    servers.resume(0);
    let tokio = runtime().block_on(async {
        let mut client = builder().build_async().unwrap();
        get().exec_async(&mut client).await.unwrap();
        servers.pause(0);
        large.exec_async(&mut client).await.unwrap_err()
    });
    servers.resume(0);
    for (ours, theirs) in [blocking, tokio].iter().zip(&theirs) {
        assert!(theirs.is_timeout(), "{theirs}");
        assert_eq!(Predicates::of(ours), Predicates::of(theirs), "{ours}");
        assert_eq!(ErrorKind::of(ours), ErrorKind::Unknown);
        assert!(ours.to_string().contains("timed out"), "{ours}");
    }
}

#[test]
fn connection_that_is_not_accepted_is_a_timeout_as_in_redis_rs() {
    use socket2::{Domain, Socket, Type};
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    full.bind(&any.into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    // The kernel accepts one or two by itself.
    let fill = || std::net::TcpStream::connect_timeout(&address, TIMEOUT / 2);
    let _waiting: Vec<_> = std::iter::from_fn(|| fill().ok()).take(8).collect();
    let url = format!("redis://{address}/");
    let kind = compare("connect", &url, &get(), &|| ());
    // One time limit for all: which one ends first decides.
    assert!(
        matches!(kind, ErrorKind::NodeDown | ErrorKind::Timeout),
        "{kind:?}"
    );
}

#[test]
fn wrong_password_and_unknown_user_are_authentication_failed_as_in_redis_rs() {
    let Some(servers) = Servers::builder().password("right").start(1) else {
        return;
    };
    for user in [":wrong", "nobody:right", "default:wrong"] {
        let url = format!("redis://{user}@{}/", servers.addr(0));
        let kind = compare(user, &url, &get(), &|| ());
        assert_eq!(kind, ErrorKind::Auth);
        // redis-rs passes on the server's own error here.
        for [first, second] in ours(&format!("{url}?protocol=resp3"), &set(), &|| ()) {
            for error in [first, second] {
                assert_eq!(error.kind(), redis::ErrorKind::AuthenticationFailed);
                assert_eq!(ErrorKind::of(&error), ErrorKind::Auth);
                assert!(!ErrorKind::Auth.is_retryable());
                let text = error.to_string();
                assert!(
                    text.contains("WRONGPASS") && text.contains("node-0"),
                    "{text}"
                );
                assert!(!text.contains("when the node is back"), "{text}");
            }
        }
    }
}

#[test]
fn exhausted_pool_is_a_timeout_for_redis_rs() {
    let node = TestNode::start().unwrap();
    let builder = || {
        builder_over([node.url()])
            .blocking_pool_size(1)
            .response_timeout(TIMEOUT)
    };
    let blpop = cmd("BLPOP").arg("k").arg(0.1).clone();
    let mut client = builder().build().unwrap();
    let held = client.dedicated("k").unwrap();
    let blocking = blpop.exec(&mut client).unwrap_err();
    drop(held);
    let tokio = runtime().block_on(async {
        let mut client = builder().build_async().unwrap();
        let _held = client.dedicated("k").await.unwrap();
        blpop.exec_async(&mut client).await.unwrap_err()
    });
    for error in [blocking, tokio] {
        assert!(error.is_io_error() && error.is_timeout(), "{error}");
        assert_eq!(ErrorKind::of(&error), ErrorKind::PoolTimeout);
        assert!(Error::of(&error).unwrap().is_retryable());
    }
}

/// Two nodes, and a key of each.
fn pair() -> (Vec<TestNode>, impl Fn() -> Builder, [String; 2]) {
    let nodes = TestNode::start_many(2).unwrap();
    let urls: Vec<String> = nodes.iter().map(TestNode::url).collect();
    let builder = move || builder_over(urls.clone()).response_timeout(TIMEOUT);
    let client = builder().build().unwrap();
    let key_on = |index: usize| {
        let keys = (0..).map(|number| format!("key:{number}"));
        let owner = |key: &String| client.node_for(key).unwrap().index().get();
        keys.into_iter().find(|key| owner(key) == index).unwrap()
    };
    let keys = [key_on(0), key_on(1)];
    (nodes, builder, keys)
}

/// The error of a pipeline through redis-rs' traits of both clients, once after each call of `arm`.
fn pipeline_errors(
    builder: &impl Fn() -> Builder,
    pipeline: &redis::Pipeline,
    keys: &[String; 2],
    arm: impl Fn(),
) -> [RedisError; 2] {
    let mut warm = cmd("EXISTS");
    warm.arg(keys);
    let mut client: ShardedClient = builder().build().unwrap();
    let _ = warm.exec(&mut client);
    arm();
    let blocking = pipeline.query::<Value>(&mut client).unwrap_err();
    let tokio = runtime().block_on(async {
        let mut client = builder().build_async().unwrap();
        let _ = warm.exec_async(&mut client).await;
        arm();
        pipeline
            .query_async::<Value>(&mut client)
            .await
            .unwrap_err()
    });
    assert_eq!(blocking.to_string(), tokio.to_string());
    [blocking, tokio]
}

#[test]
fn pipeline_with_a_dead_node_fails_as_a_whole_and_lists_the_parts() {
    let (nodes, builder, keys) = pair();
    let [a, b] = &keys;
    nodes[0].stop();
    let mut reads = pipe();
    reads.get(a).get(b).ignore_errors();
    let mut writes = pipe();
    writes.set(b, 1).get(b).get(a);
    let mut dead = pipe();
    dead.set(a, 1).get(a);
    for (pipeline, kind, retryable, parts) in [
        (
            &reads,
            ErrorKind::Partial,
            true,
            &[(0, PartStatus::Failed, 1), (1, PartStatus::Done, 1)][..],
        ),
        (
            &writes,
            ErrorKind::Partial,
            false,
            &[(0, PartStatus::Failed, 1), (1, PartStatus::Done, 2)],
        ),
        (
            &dead,
            ErrorKind::NodeDown,
            true,
            &[(0, PartStatus::Failed, 2)],
        ),
    ] {
        for error in pipeline_errors(&builder, pipeline, &keys, || ()) {
            assert!(
                error.is_connection_refusal() && error.is_connection_dropped(),
                "{error}"
            );
            assert_eq!(ErrorKind::of(&error), kind, "{error}");
            let inner = Error::of(&error).unwrap();
            assert_eq!(inner.is_retryable(), retryable, "{error}");
            let found = inner.parts().iter().map(|part| {
                let number = usize::from(part.node == "node-1");
                assert!(part.keys.iter().all(|key| key == keys[number].as_bytes()));
                (number, part.status, part.keys.len())
            });
            let found: Vec<_> = found.collect();
            assert_eq!(found, parts, "{error}");
            assert_eq!(inner.keys().first(), Some(&a.clone().into_bytes()));
        }
    }
}

#[test]
fn pipeline_without_a_reply_to_a_write_is_unknown_and_a_late_one_a_timeout() {
    let (nodes, builder, keys) = pair();
    let [a, b] = &keys;
    let mut one = pipe();
    one.get(a).set(a, 1);
    let mut both = pipe();
    both.incr(b, 1).set(a, 1).get(a);
    let mut atomic = pipe();
    atomic.atomic().set(a, 1);
    for (pipeline, name, fault, kind, timeout) in [
        (&one, "GET", Fault::CloseBefore, ErrorKind::Unknown, false),
        (&both, "SET", Fault::CloseAfter, ErrorKind::Partial, false),
        (&both, "SET", Fault::HangBefore, ErrorKind::Partial, true),
        (
            &atomic,
            "EXEC",
            Fault::CloseAfter,
            ErrorKind::Unknown,
            false,
        ),
        (&atomic, "EXEC", Fault::HangAfter, ErrorKind::Unknown, true),
    ] {
        let arm = || nodes[0].fail(name, fault.clone(), 1);
        for error in pipeline_errors(&builder, pipeline, &keys, arm) {
            assert_eq!(nodes[0].faults_left(), 0);
            assert_eq!(ErrorKind::of(&error), kind, "{error}");
            assert_eq!(error.is_timeout(), timeout, "{error}");
            assert_eq!(error.is_connection_dropped(), !timeout, "{error}");
            let inner = Error::of(&error).unwrap();
            assert!(!inner.is_retryable(), "{error}");
            let unknown = |status| status == PartStatus::Unknown;
            let parts = inner.parts();
            assert!(parts.iter().any(|part| unknown(part.status)), "{error}");
            assert_eq!(
                inner.keys().first(),
                Some(&a.clone().into_bytes()),
                "{error}"
            );
        }
    }
}

#[test]
fn error_replies_of_a_pipeline_stay_in_its_list_with_their_numbers() {
    let (nodes, builder, keys) = pair();
    let [a, b] = &keys;
    let text = "WRONGTYPE Operation against a key holding the wrong kind of value";
    let mut pipeline = pipe();
    pipeline.get(b).get(a).get(b).mget(&keys);
    let arm = || {
        nodes[0].fail("GET", Fault::Error(text.into()), 1);
        nodes[0].fail("MGET", Fault::Error("OOM no".into()), 1);
    };
    for error in pipeline_errors(&builder, &pipeline, &keys, arm) {
        assert_eq!(nodes[0].faults_left(), 0);
        assert_eq!(ErrorKind::of(&error), ErrorKind::Redis);
        let list = error.into_server_errors().unwrap();
        let list: Vec<_> = list.iter().map(|(at, error)| (*at, error.code())).collect();
        assert_eq!(list, [(1, "WRONGTYPE"), (3, "PARTIAL")]);
    }
}

#[test]
fn execute_pipeline_gives_each_command_its_result_with_node_and_keys() {
    let (nodes, builder, keys) = pair();
    let [a, b] = &keys;
    let client = builder().build().unwrap();
    let tokio = builder().build_async().unwrap();
    let runtime = runtime();
    let run = |pipeline: &redis::Pipeline, arm: &dyn Fn()| {
        let mut warm = cmd("EXISTS");
        warm.arg(&keys);
        let _ = client.execute(&warm);
        arm();
        let blocking = client.execute_pipeline(pipeline).unwrap();
        let _ = runtime.block_on(tokio.execute(&warm));
        arm();
        let tokio = runtime.block_on(tokio.execute_pipeline(pipeline)).unwrap();
        let text = |results: &[Result<Value, Error>]| format!("{results:?}");
        assert_eq!(text(&blocking), text(&tokio));
        blocking
    };
    let mut pipeline = pipe();
    pipeline
        .set(b, 1)
        .ignore()
        .get(a)
        .set(a, 1)
        .get(b)
        .mget(&keys);
    let results = run(&pipeline, &|| nodes[0].fail("GET", Fault::CloseBefore, 1));
    assert_eq!(nodes[0].faults_left(), 0);
    assert_eq!(results.len(), 5);
    assert!(results[0].is_ok() && results[3].is_ok());
    for (number, kind, node) in [
        (1, ErrorKind::NodeDown, Some("node-0")),
        (2, ErrorKind::Unknown, Some("node-0")),
        (4, ErrorKind::Partial, None),
    ] {
        let error = results[number].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.node()), (kind, node), "{error}");
        assert_eq!(error.keys(), [a.as_bytes()], "{error}");
        assert!(
            error.to_string().contains("closed by the server"),
            "{error}"
        );
    }

    // A string that is used as a list, outside of a transaction and in one.
    let mut list = pipe();
    list.set(a, 1).rpush(a, 1).get(a);
    for atomic in [false, true] {
        if atomic {
            list.atomic();
        }
        let results = run(&list, &|| ());
        assert_eq!(results.len(), 3);
        assert!(results[0].is_ok() && results[2].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(
            (error.kind(), error.node()),
            (ErrorKind::Redis, Some("node-0"))
        );
        assert_eq!(error.keys(), [a.as_bytes()]);
        let error: RedisError = error.clone().into();
        assert_eq!(error.code(), Some("WRONGTYPE"));
    }
    assert!(run(&pipe(), &|| ()).is_empty());
    assert!(run(pipe().atomic(), &|| ()).is_empty());
    let refused = client.execute_pipeline(pipe().get(a).rename(a, b));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::CrossNode);
    nodes[0].fail("EXEC", Fault::CloseAfter, 1);
    let lost = client.execute_pipeline(pipe().atomic().set(a, 1));
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Unknown);
    assert_eq!(nodes[0].faults_left(), 0);
}
