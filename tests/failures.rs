//! What a user sees when something breaks, and that nothing is done twice.
#![cfg(feature = "testing")]

mod support;

use std::time::{Duration, Instant};

use redis::{Commands, RedisResult, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, Error, ErrorKind, PartStatus, ShardedClient};
use support::Servers;

/// Long enough for a busy machine, short enough to wait for.
const TIMEOUT: Duration = Duration::from_millis(400);

fn nodes(count: usize) -> (Vec<TestNode>, Builder) {
    let nodes = TestNode::start_many(count).unwrap();
    let builder = (0..)
        .zip(&nodes)
        .fold(ShardedClient::builder(), |builder, (number, node)| {
            builder.node(format!("node-{number}"), node.url())
        })
        .response_timeout(TIMEOUT)
        .connect_timeout(TIMEOUT);
    (nodes, builder)
}

/// A key that lives on node `index`.
fn key_on(client: &ShardedClient, index: usize) -> String {
    (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| client.node_for(key).unwrap().index().get() == index)
        .unwrap()
}

fn kind<T: std::fmt::Debug>(result: &RedisResult<T>) -> ErrorKind {
    ErrorKind::of(result.as_ref().expect_err("an error"))
}

fn set(key: &str) -> redis::Cmd {
    let mut set = cmd("SET");
    set.arg(key).arg("v");
    set
}

fn get(key: &str) -> redis::Cmd {
    let mut get = cmd("GET");
    get.arg(key);
    get
}

#[test]
fn write_without_a_reply_is_unknown_and_never_resent() {
    let (nodes, builder) = nodes(2);
    let client = builder.build().unwrap();
    let key = key_on(&client, 0);
    client.execute(&get(&key)).unwrap();
    for fault in [
        Fault::CloseAfter,
        Fault::CloseBefore,
        Fault::HalfReplyThenClose,
        Fault::HangAfter,
        Fault::HangBefore,
    ] {
        nodes[0].clear_received();
        nodes[0].fail("SET", fault.clone(), 1);
        let error = client.execute(&set(&key)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown, "{fault:?}: {error}");
        assert!(
            error.to_string().contains("node-0") && error.to_string().contains("may or may not"),
            "{error}"
        );
        assert_eq!(nodes[0].count_of("SET"), 1, "{fault:?}");
        assert_eq!(nodes[0].faults_left(), 0, "{fault:?}");
        client
            .execute(&set(&key))
            .expect("the next one goes through on a new connection");
    }
}

#[test]
fn read_is_resent_after_its_connection_broke() {
    let (nodes, builder) = nodes(2);
    let client = builder.build().unwrap();
    let key = key_on(&client, 0);
    client.execute(&set(&key)).unwrap();
    for fault in [
        Fault::CloseAfter,
        Fault::CloseBefore,
        Fault::HalfReplyThenClose,
        Fault::Garbage(b"?what\r\n".to_vec()),
    ] {
        nodes[0].clear_received();
        nodes[0].fail("GET", fault.clone(), 1);
        assert_eq!(
            client.execute(&get(&key)).unwrap(),
            Value::BulkString(b"v".to_vec()),
            "{fault:?}"
        );
        assert_eq!(nodes[0].count_of("GET"), 2);
        assert_eq!(nodes[0].faults_left(), 0, "{fault:?}");
    }
    nodes[0].fail("GET", Fault::CloseBefore, usize::MAX);
    nodes[0].clear_received();
    assert_eq!(
        client.execute(&get(&key)).unwrap_err().kind(),
        ErrorKind::NodeDown
    );
    assert_eq!(nodes[0].count_of("GET"), 2, "once again, not for ever");
}

#[test]
fn connection_with_an_outstanding_reply_is_never_reused() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.build().unwrap();
    let _: () = client.set("a", "1").unwrap();
    let _: () = client.set("b", "2").unwrap();
    for fault in [Fault::Delay(2 * TIMEOUT), Fault::HalfReplyThenHang] {
        nodes[0].fail("GET", fault, 1);
        assert_eq!(kind(&client.get::<_, String>("a")), ErrorKind::Timeout);
        assert_eq!(nodes[0].faults_left(), 0);
        for _ in 0..20 {
            assert_eq!(
                client.get::<_, String>("b").unwrap(),
                "2",
                "never the late answer of another"
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

#[test]
fn response_timeout_is_one_deadline_for_a_whole_request() {
    let (nodes, builder) = nodes(3);
    let mut client = builder.build().unwrap();
    let keys: Vec<String> = (0..3).map(|index| key_on(&client, index)).collect();
    let _: () = client
        .mset(&keys.iter().map(|key| (key, 1)).collect::<Vec<_>>())
        .unwrap();

    // Every byte comes in time, the whole does not.
    nodes[0].fail("GET", Fault::Trickle(TIMEOUT / 4), 1);
    let start = Instant::now();
    assert_eq!(kind(&client.get::<_, String>(&keys[0])), ErrorKind::Timeout);
    assert!(start.elapsed() < 2 * TIMEOUT, "{:?}", start.elapsed());
    assert_eq!(nodes[0].faults_left(), 0);

    // Ten replies, each of them in time by itself.
    let mut pipeline = pipe();
    for _ in 0..10 {
        pipeline.get(&keys[0]);
    }
    nodes[0].fail("GET", Fault::Delay(TIMEOUT / 2), 10);
    let start = Instant::now();
    assert!(pipeline.query::<Vec<i64>>(&mut client).is_err());
    assert!(start.elapsed() < 2 * TIMEOUT, "{:?}", start.elapsed());
    assert!(nodes[0].faults_left() < 10);
    nodes[0].heal().unwrap();

    // All nodes hang at once.
    for node in &nodes {
        node.fail("MGET", Fault::HangBefore, 1);
        node.fail("GET", Fault::HangBefore, 1);
    }
    let start = Instant::now();
    assert!(client.mget::<_, Vec<i64>>(&keys).is_err());
    assert!(
        start.elapsed() < 2 * TIMEOUT,
        "the slowest node, not the sum: {:?}",
        start.elapsed()
    );
    for node in &nodes {
        // A connection that was given up may still take the one for GET.
        assert!(node.faults_left() <= 1, "neither of the two happened");
    }
}

#[test]
fn split_mset_error_reports_the_outcome_of_each_node() {
    let (nodes, builder) = nodes(3);
    let client = builder.build().unwrap();
    let keys: Vec<String> = (0..3).map(|index| key_on(&client, index)).collect();
    let mut mset = cmd("MSET");
    for key in &keys {
        mset.arg(key).arg("secret-value");
    }
    client.execute(&mset).unwrap();

    nodes[0].fail("MSET", Fault::CloseAfter, 1);
    nodes[2].fail("MSET", Fault::Error("OOM command not allowed".into()), 1);
    let error = client.execute(&mset).unwrap_err();
    assert_eq!((nodes[0].faults_left(), nodes[2].faults_left()), (0, 0));
    assert_eq!(error.kind(), ErrorKind::Partial);
    let outcomes: Vec<_> = error
        .parts()
        .iter()
        .map(|part| (part.node.as_str(), part.status, part.keys.clone()))
        .collect();
    let key = |index: usize| vec![keys[index].clone().into_bytes()];
    assert_eq!(
        outcomes,
        [
            ("node-0", PartStatus::Unknown, key(0)),
            ("node-1", PartStatus::Done, key(1)),
            ("node-2", PartStatus::Failed, key(2)),
        ]
    );
    assert!(
        error.to_string().contains("OOM") && !error.to_string().contains("secret-value"),
        "{error}"
    );
    let flat: redis::RedisError = error.into();
    assert!(flat.is_connection_dropped(), "{flat}");
    assert_eq!(Error::of(&flat).unwrap().parts().len(), 3);
}

#[test]
fn mget_and_dbsize_with_a_failed_node_are_partial_errors_and_never_nil() {
    let (nodes, builder) = nodes(3);
    let client = builder.build().unwrap();
    let keys: Vec<String> = (0..3).map(|index| key_on(&client, index)).collect();
    nodes[1].stop();
    let mut mget = cmd("MGET");
    mget.arg(&keys);
    let error = client.execute(&mget).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Partial);
    assert_eq!(error.parts()[1].status, PartStatus::Failed);
    let error = client.execute(&cmd("DBSIZE")).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Partial,
        "a sum over some nodes is not the sum"
    );
    for node in &nodes {
        node.stop();
    }
    let error: Error = client.execute(&mget).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::NodeDown,
        "all of them failed alike"
    );
    assert_eq!(error.parts().len(), 3);
}

#[test]
fn dead_node_does_not_affect_others_and_is_used_again_when_it_returns() {
    let (nodes, builder) = nodes(3);
    let mut client = builder.build().unwrap();
    let keys: Vec<String> = (0..3).map(|index| key_on(&client, index)).collect();
    for key in &keys {
        let _: () = client.set(key, 1).unwrap();
    }
    nodes[0].stop();
    let first = client.execute(&get(&keys[0])).unwrap_err();
    assert_eq!(first.kind(), ErrorKind::NodeDown);
    assert!(
        first.to_string().contains(&nodes[0].addr().to_string()),
        "{first}"
    );
    let start = Instant::now();
    for _ in 0..200 {
        assert!(client.execute(&get(&keys[0])).is_err());
        assert_eq!(client.get::<_, i64>(&keys[1]).unwrap(), 1);
    }
    assert!(
        start.elapsed() < 10 * TIMEOUT,
        "a node known to be down costs nothing: {:?}",
        start.elapsed()
    );
    let later = client.execute(&get(&keys[0])).unwrap_err();
    assert_eq!(
        later.to_string(),
        first.to_string(),
        "each time the same words, so that log lines group"
    );

    let (answers, errors): (Vec<_>, Vec<_>) = {
        let mut pipeline = pipe();
        for key in keys.iter().cycle().take(30) {
            pipeline.get(key);
        }
        let whole = pipeline.query::<Vec<i64>>(&mut client).unwrap_err();
        assert!(whole.is_connection_refusal(), "{whole}");
        let all = client.execute_pipeline(&pipeline).unwrap();
        all.into_iter().partition(|answer| answer.is_ok())
    };
    assert_eq!((answers.len(), errors.len()), (20, 10));
    let is_down =
        |error: &Result<Value, Error>| error.as_ref().unwrap_err().kind() == ErrorKind::NodeDown;
    assert!(errors.iter().all(is_down));

    nodes[0].restart().unwrap();
    let start = Instant::now();
    while client.get::<_, i64>(&keys[0]).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "it is back and not used"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn closed_pool_connection_is_detected_before_a_write() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.build().unwrap();
    for number in 0..5 {
        let _: () = client
            .set("k", number)
            .expect("no write is lost on a closed connection");
        nodes[0].close_connections();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(nodes[0].count_of("SET"), 5);
}

#[test]
fn idle_check_pings_an_idle_pool_connection_before_use() {
    let (nodes, builder) = nodes(1);
    let mut client = builder
        .idle_check(Duration::from_millis(100))
        .build()
        .unwrap();
    let _: () = client.set("k", 1).unwrap();
    // It looks open, but nobody is there.
    nodes[0].fail("PING", Fault::HangBefore, 1);
    std::thread::sleep(Duration::from_millis(200));
    let _: () = client
        .set("k", 2)
        .expect("the write goes out on a new connection");
    assert_eq!(
        (
            nodes[0].count_of("PING"),
            nodes[0].count_of("SET"),
            nodes[0].accepted()
        ),
        (1, 2, 2)
    );
    assert_eq!(nodes[0].faults_left(), 0);
}

#[test]
fn exhausted_pool_is_a_pool_timeout_and_recovers() {
    let (nodes, builder) = nodes(1);
    let client = builder.pool_size(2).build().unwrap();
    nodes[0].fail("GET", Fault::Delay(3 * TIMEOUT / 4), 4);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| client.execute(&get("k"))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let exhausted: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .collect();
    assert!(!exhausted.is_empty() && exhausted.len() <= 4, "{results:?}");
    assert!(
        exhausted.iter().any(|error| {
            error.kind() == ErrorKind::PoolTimeout
                && error.to_string().contains("all connections")
                && error.to_string().contains("`Builder::pool_size`")
        }),
        "{exhausted:?}"
    );
    assert!(nodes[0].faults_left() < 4);
    nodes[0].heal().unwrap();
    client.execute(&get("k")).expect("free again");
    let start = Instant::now();
    while nodes[0].connections() > 2 {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "connections beyond the limit stay open"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn refused_multi_is_an_error_and_leaves_the_connection_in_step() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.build().unwrap();
    nodes[0].fail(
        "MULTI",
        Fault::Error("NOPERM this user has no permissions to run the 'multi' command".into()),
        1,
    );
    let result: RedisResult<(i64,)> = pipe().atomic().incr("{t}a", 1).query(&mut client);
    let error = result.unwrap_err();
    assert_eq!(nodes[0].faults_left(), 0);
    assert_eq!(error.code(), Some("NOPERM"));
    assert!(error.to_string().contains("one by one"), "{error}");
    let result: RedisResult<(i64,)> = pipe().atomic().incr("{t}b", 1).query(&mut client);
    assert_eq!(result.unwrap(), (1,), "the connection is in step");
}

#[test]
fn atomic_pipeline_with_a_lost_exec_reply_is_unknown_and_never_resent() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.build().unwrap();
    nodes[0].fail("EXEC", Fault::CloseAfter, 1);
    let result: RedisResult<(i64,)> = pipe().atomic().incr("n", 1).query(&mut client);
    assert_eq!(kind(&result), ErrorKind::Unknown);
    assert_eq!(nodes[0].count_of("EXEC"), 1);
    assert_eq!(nodes[0].faults_left(), 0);
    assert_eq!(client.get::<_, i64>("n").unwrap(), 1);
}

#[test]
fn broken_pipeline_resends_only_reads() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.build().unwrap();
    let _: () = client.set("k", 7).unwrap();
    nodes[0].clear_received();
    nodes[0].fail("GET", Fault::CloseBefore, 1);
    let reads: Vec<i64> = pipe().get("k").get("k").query(&mut client).unwrap();
    assert_eq!(reads, [7, 7], "reads are asked again");
    assert_eq!(nodes[0].faults_left(), 0);

    nodes[0].clear_received();
    nodes[0].fail("GET", Fault::CloseBefore, 1);
    let mixed = client
        .execute_pipeline(pipe().incr("n", 1).get("k").incr("n", 1))
        .unwrap();
    assert_eq!(nodes[0].faults_left(), 0);
    let kinds: Vec<_> = mixed
        .iter()
        .map(|result| result.as_ref().map_err(Error::kind))
        .collect();
    assert_eq!(
        kinds[0],
        Ok(&Value::Int(1)),
        "what was answered stays answered"
    );
    assert_eq!(
        kinds[1..],
        [Err(ErrorKind::NodeDown), Err(ErrorKind::Unknown)]
    );
    assert_eq!(
        nodes[0].count_of("INCRBY"),
        1,
        "the second one was never applied, nor repeated"
    );
}

#[test]
fn moved_reply_of_a_cluster_node_is_reported() {
    let (nodes, builder) = nodes(2);
    let client = builder.build().unwrap();
    let key = key_on(&client, 0);
    nodes[0].fail(
        "GET",
        Fault::Moved {
            slot: 42,
            to: nodes[1].addr(),
        },
        1,
    );
    let error = client.execute(&get(&key)).unwrap_err();
    assert_eq!(nodes[0].faults_left(), 0);
    assert_eq!(error.kind(), ErrorKind::Redis);
    assert!(error.to_string().contains("node-0"), "{error}");
    let flat: redis::RedisError = error.into();
    assert_eq!(
        flat.redirect_node(),
        Some((nodes[1].addr().to_string().as_str(), 42))
    );
}

#[test]
fn wrong_password_error_does_not_contain_the_password() {
    let node = TestNode::builder().password("right").start().unwrap();
    let client = ShardedClient::open([format!("redis://:hunter2@{}/", node.addr())]).unwrap();
    let error = client.execute(&get("k")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(
        error.to_string().contains("WRONGPASS") || error.to_string().contains("invalid"),
        "{error}"
    );
    assert!(
        !format!("{error:?} {client:?}").contains("hunter2"),
        "{error:?} {client:?}"
    );
    let client = ShardedClient::open([node.url()]).unwrap();
    client.execute(&get("k")).unwrap();
}

#[test]
fn builder_config_errors_name_the_mistake() {
    let build = |builder: Builder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let start = ShardedClient::builder;
    assert!(build(start()).contains("no nodes"));
    let text = build(start().node("a", "redis://h1/").node("a", "redis://h2/"));
    assert!(text.contains("\"a\""), "{text}");
    let text = build(
        start()
            .node("a", "redis://h1/")
            .node("b", "redis://h1:6379/"),
    );
    assert!(
        text.contains("\"a\"") && text.contains("\"b\"") && text.contains("h1:6379"),
        "{text}"
    );
    let text = build(start().node("a", "redis://h1/1").node("b", "redis://h2/2"));
    assert!(
        text.contains("database 1") && text.contains("database 2"),
        "{text}"
    );
    let text = build(start().node("a", "nonsense://user:hunter2@h1/"));
    assert!(text.contains('a') && !text.contains("hunter2"), "{text}");
    let text = build(start().node("a", "redis://h1/").pool_size(0));
    assert!(text.contains("pool_size"), "{text}");
}

#[test]
fn mget_of_threads_in_opposite_key_order_does_not_deadlock_on_the_pool() {
    let (_nodes, builder) = nodes(4);
    let client = builder
        .pool_size(1)
        .response_timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    let keys: Vec<String> = (0..4).map(|index| key_on(&client, index)).collect();
    let backwards: Vec<String> = keys.iter().rev().cloned().collect();
    std::thread::scope(|scope| {
        for keys in [&keys, &backwards, &keys, &backwards] {
            let mut client = client.clone();
            scope.spawn(move || {
                for _ in 0..300 {
                    let _: () = client
                        .mset(&keys.iter().map(|key| (key, 1)).collect::<Vec<_>>())
                        .unwrap();
                    let _: Vec<i64> = client.mget(keys).unwrap();
                }
            });
        }
    });
}

#[test]
fn killed_node_under_load_loses_no_acknowledged_write_of_other_nodes() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(Duration::from_secs(2))
        .build()
        .unwrap();
    let victim = 1;
    let acknowledged: Vec<(String, bool)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let client = &client;
                scope.spawn(move || {
                    let write = |number: usize| {
                        let key = format!("key:{thread}:{number}");
                        let done = client.execute(&set(&key)).is_ok();
                        (key, done)
                    };
                    (0..2_000).map(write).collect::<Vec<_>>()
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        servers.kill(victim);
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let owner = |key: &str| client.node_for(key).unwrap().index().get();
    for (key, done) in &acknowledged {
        if owner(key) != victim {
            assert!(done, "a node that lives refused {key}");
            assert_eq!(
                client.execute(&get(key)).unwrap(),
                Value::BulkString(b"v".to_vec())
            );
        }
    }
    assert!(
        acknowledged
            .iter()
            .any(|(key, done)| owner(key) == victim && !done),
        "the kill came too late"
    );
    servers.restart(victim);
    let key = key_on(&client, victim);
    let start = Instant::now();
    while client.execute(&set(&key)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn blocking_client_is_not_delayed_by_a_paused_server_of_another_node() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(TIMEOUT)
        .connect_timeout(TIMEOUT)
        .build()
        .unwrap();
    let keys: Vec<String> = (0..3).map(|index| key_on(&client, index)).collect();
    for key in &keys {
        client.execute(&set(key)).unwrap();
    }
    servers.pause(0);
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| client.execute(&get(&keys[0])));
        let start = Instant::now();
        for _ in 0..100 {
            client.execute(&get(&keys[1])).unwrap();
        }
        assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
        assert_eq!(
            stuck.join().unwrap().unwrap_err().kind(),
            ErrorKind::Timeout
        );
    });
    let error = client.execute(&set(&keys[0])).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Timeout,
        "never sent, so not unknown: {error}"
    );
    servers.resume(0);
    let start = Instant::now();
    while client.execute(&get(&keys[0])).is_err() {
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
    }
}
