//! What only the async client has to prove: sharing, dropped futures, blocking commands, reconnecting.
#![cfg(all(feature = "tokio-comp", feature = "testing"))]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use redis::{AsyncCommands, RedisResult, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, ErrorKind, ShardedClient, aio};
use support::Servers;

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

fn key_on(client: &aio::ShardedClient, index: usize) -> String {
    (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| client.node_for(key).unwrap().index().get() == index)
        .unwrap()
}

fn kind<T: std::fmt::Debug>(result: &RedisResult<T>) -> ErrorKind {
    ErrorKind::of(result.as_ref().expect_err("an error"))
}

async fn until<F: Future<Output = bool>>(mut done: impl FnMut() -> F) {
    let start = Instant::now();
    while !done().await {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "it never came about"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn async_client_shares_one_connection_per_node_among_tasks() {
    let (nodes, builder) = nodes(4);
    let client = builder
        .response_timeout(Duration::from_secs(20))
        .build_async()
        .unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let mut client = client.clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    let key = format!("key:{task}:{number}");
                    let _: () = client.set(&key, number).await.unwrap();
                    let found: i64 = client.get(&key).await.unwrap();
                    assert_eq!(found, number);
                    let pair: (i64, i64) = pipe()
                        .get(&key)
                        .incr(&key, 1)
                        .query_async(&mut client)
                        .await
                        .unwrap();
                    assert_eq!(pair, (number, number + 1));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(
        nodes.iter().all(|node| node.accepted() == 1),
        "one connection each"
    );
}

#[tokio::test]
async fn connections_per_node_opens_that_many_connections() {
    let (nodes, builder) = nodes(1);
    let client = builder.connections_per_node(3).build_async().unwrap();
    for _ in 0..9 {
        let _: () = client.clone().set("k", 1).await.unwrap();
    }
    assert_eq!(nodes[0].accepted(), 3);
}

#[tokio::test]
async fn dropped_future_leaves_the_async_connection_in_step() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.build_async().unwrap();
    let _: () = client.set("other", "yes").await.unwrap();
    for round in 0..50 {
        let mut dropped = client.clone();
        let mut incr = Box::pin(async move { dropped.incr::<_, _, i64>("n", 1).await });
        if round % 2 == 0 {
            // Handed over, and dropped before or after the answer.
            assert!(incr.as_mut().now_or_never().is_none());
        } else {
            drop(tokio::time::timeout(Duration::from_micros(200), incr.as_mut()).await);
        }
        drop(incr);
        let other: String = client.get("other").await.unwrap();
        assert_eq!(other, "yes", "never the answer of another");
    }
    let n: i64 = client.get("n").await.unwrap();
    assert_eq!(n, 50, "what was polled is carried out");
    let mut never = client.clone();
    drop(never.incr::<_, _, i64>("n", 1));
    let n: i64 = client.get("n").await.unwrap();
    assert_eq!(n, 50, "what was not polled is not");
    assert_eq!(nodes[0].accepted(), 1, "and all on the one connection");
}

#[tokio::test]
async fn late_reply_is_never_given_to_another_request_of_the_async_client() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.build_async().unwrap();
    let _: () = client.mset(&[("a", "1"), ("b", "2")]).await.unwrap();
    nodes[0].fail("GET", Fault::Delay(TIMEOUT * 3 / 2), 1);
    assert_eq!(
        kind(&client.get::<_, String>("a").await),
        ErrorKind::Timeout
    );
    assert_eq!(nodes[0].faults_left(), 0);
    for _ in 0..20 {
        if let Ok(b) = client.get::<_, String>("b").await {
            assert_eq!(b, "2");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.get::<_, String>("b").await.unwrap(), "2");
}

#[tokio::test]
async fn async_write_without_a_reply_is_unknown_and_a_read_is_resent() {
    let (nodes, builder) = nodes(2);
    let mut client = builder.build_async().unwrap();
    let key = key_on(&client, 0);
    let _: () = client.set(&key, "v").await.unwrap();
    for fault in [
        Fault::CloseAfter,
        Fault::CloseBefore,
        Fault::HalfReplyThenClose,
        Fault::HangAfter,
    ] {
        nodes[0].clear_received();
        nodes[0].fail("SET", fault.clone(), 1);
        let result: RedisResult<()> = client.set(&key, "v").await;
        assert_eq!(kind(&result), ErrorKind::Unknown, "{fault:?}");
        assert_eq!(nodes[0].count_of("SET"), 1, "{fault:?}");
        assert_eq!(nodes[0].faults_left(), 0, "{fault:?}");
        let _: () = client
            .set(&key, "v")
            .await
            .expect("the next one goes through");
    }
    nodes[0].clear_received();
    nodes[0].fail("GET", Fault::CloseBefore, 1);
    let found: String = client.get(&key).await.unwrap();
    assert_eq!((found.as_str(), nodes[0].count_of("GET")), ("v", 2));
    assert_eq!(nodes[0].faults_left(), 0);
}

#[tokio::test]
async fn async_client_reconnects_to_a_dead_node_in_the_background_and_others_go_on() {
    let (nodes, builder) = nodes(3);
    let mut client = builder.build_async().unwrap();
    let keys: Vec<String> = (0..3).map(|index| key_on(&client, index)).collect();
    for key in &keys {
        let _: () = client.set(key, 1).await.unwrap();
    }
    nodes[0].stop();
    until(async || client.clone().get::<_, i64>(&keys[0]).await.is_err()).await;
    let start = Instant::now();
    for _ in 0..200 {
        let result: RedisResult<i64> = client.get(&keys[0]).await;
        assert_eq!(kind(&result), ErrorKind::NodeDown);
        let _: i64 = client.get(&keys[1]).await.unwrap();
    }
    assert!(start.elapsed() < 10 * TIMEOUT, "{:?}", start.elapsed());
    nodes[0].restart().unwrap();
    let accepted = nodes[0].accepted();
    until(async || nodes[0].accepted() > accepted).await;
    until(async || client.clone().get::<_, i64>(&keys[0]).await.is_ok()).await;
}

#[tokio::test]
async fn async_client_makes_one_connection_attempt_at_a_time() {
    let (nodes, builder) = nodes(1);
    let client = builder.build_async().unwrap();
    let tasks = (0..100).map(|_| {
        let mut client = client.clone();
        async move { client.set::<_, _, ()>("k", 1).await.unwrap() }
    });
    futures_util::future::join_all(tasks).await;
    assert_eq!(nodes[0].accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_that_arrive_during_a_connection_attempt_share_the_connection() {
    let nodes = TestNode::start_many(1).unwrap();
    let mut clients = Vec::new();
    for _ in 0..200 {
        let client = aio::ShardedClient::open([nodes[0].url()]).unwrap();
        let tasks: Vec<_> = (0..32)
            .map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move { client.set::<_, _, ()>("k", 1).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        clients.push(client);
    }
    // A second attempt would come a little later.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(nodes[0].accepted(), 200, "one connection for each client");
}

#[tokio::test]
async fn async_blpop_does_not_delay_other_commands() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(Duration::from_millis(300))
        .build_async()
        .unwrap();
    let mut waiting = client.clone();
    let popped = tokio::spawn(async move {
        cmd("BLPOP")
            .arg("{q}list")
            .arg(10)
            .query_async::<(String, String)>(&mut waiting)
            .await
    });
    let mut other = client.clone();
    for _ in 0..50 {
        let start = Instant::now();
        let _: Option<String> = other.get("{q}beside").await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(250));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _: () = other.rpush("{q}list", "item").await.unwrap();
    assert_eq!(popped.await.unwrap().unwrap().1, "item");
    let nothing: Option<(String, String)> = cmd("BLPOP")
        .arg("{q}list")
        .arg(0.4)
        .query_async(&mut other)
        .await
        .unwrap();
    assert_eq!(
        nothing, None,
        "its own time comes on top of the response timeout"
    );
}

#[tokio::test]
async fn dropped_blpop_future_releases_its_exclusive_connection() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = support::builder(&servers)
        .blocking_pool_size(1)
        .build_async()
        .unwrap();
    for _ in 0..3 {
        let mut waiting = client.clone();
        let mut pop = cmd("BLPOP");
        pop.arg("list").arg(0);
        let popped = tokio::time::timeout(
            Duration::from_millis(100),
            pop.query_async::<(String, String)>(&mut waiting),
        );
        assert!(popped.await.is_err(), "nothing to pop");
    }
    let mut direct = servers.connection(0);
    let start = Instant::now();
    loop {
        let info: redis::InfoDict = cmd("INFO").arg("clients").query(&mut direct).unwrap();
        if info.get::<u64>("blocked_clients") == Some(0) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _: () = client.clone().rpush("list", "item").await.unwrap();
    let length: i64 = client.clone().llen("list").await.unwrap();
    assert_eq!(length, 1, "no ghost takes it");
}

#[tokio::test]
async fn async_transaction_repeats_after_a_watch_conflict() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = support::builder(&servers).build_async().unwrap();
    let key = "counter:{7}";
    let add = async || {
        for _ in 0..25 {
            let (_,): (i64,) = client
                .transaction(key, async |connection, pipeline| {
                    let old: Option<i64> = connection.get(key).await?;
                    pipeline
                        .set(key, old.unwrap_or(0) + 1)
                        .ignore()
                        .get(key)
                        .query_async(connection)
                        .await
                })
                .await
                .unwrap();
        }
    };
    futures_util::join!(add(), add(), add(), add());
    let total: i64 = client.clone().get(key).await.unwrap();
    assert_eq!(total, 100);
    let home = client.node_for(key).unwrap().name().to_owned();
    let foreign = (0..)
        .map(|n| format!("key:{n}"))
        .find(|key| client.node_for(key).unwrap().name() != home)
        .unwrap();
    let strayed: RedisResult<()> = client
        .transaction(key, async |connection, pipeline| {
            pipeline.set(&foreign, 1).query_async(connection).await
        })
        .await;
    assert_eq!(kind(&strayed), ErrorKind::CrossNode);
}

#[tokio::test]
async fn async_dedicated_connection_keeps_its_state_to_itself() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = support::builder(&servers).build_async().unwrap();
    let mut dedicated = client.dedicated("k").await.unwrap();
    cmd("CLIENT")
        .arg("SETNAME")
        .arg("mine")
        .exec_async(&mut dedicated)
        .await
        .unwrap();
    cmd("WATCH")
        .arg("k")
        .exec_async(&mut dedicated)
        .await
        .unwrap();
    let _: () = client.clone().set("k", "changed").await.unwrap();
    let lost: Option<(i64,)> = pipe()
        .atomic()
        .incr("{k}n", 1)
        .query_async(&mut dedicated)
        .await
        .unwrap();
    assert_eq!(lost, None);
    drop(dedicated);
    let mut next = client.dedicated("k").await.unwrap();
    let name: Option<String> = cmd("CLIENT")
        .arg("GETNAME")
        .query_async(&mut next)
        .await
        .unwrap();
    assert!(name.unwrap_or_default().is_empty());
    let mut node = client.node("node-1").unwrap();
    let info: redis::InfoDict = cmd("INFO").query_async(&mut node).await.unwrap();
    assert!(info.get::<String>("redis_version").is_some());
}

#[tokio::test]
async fn async_scan_is_a_stream_and_resumes_a_position_of_the_blocking_client() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = support::builder(&servers).build_async().unwrap();
    let keys: BTreeSet<Vec<u8>> = (0..500)
        .map(|number| format!("key:{number}").into_bytes())
        .collect();
    for key in &keys {
        let _: () = client.set(key, 1).await.unwrap();
    }
    let all: BTreeSet<Vec<u8>> = client
        .scan_all()
        .with_count(50)
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(all, keys);
    let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut scan = client.scan_all().with_pattern("key:*");
    for _ in 0..200 {
        found.insert(scan.next_key().await.unwrap().unwrap());
    }
    let position = scan.position();
    let blocking = support::client(&servers);
    let rest: BTreeSet<Vec<u8>> = tokio::task::spawn_blocking(move || {
        blocking
            .resume_scan(position)
            .unwrap()
            .map(Result::unwrap)
            .collect()
    })
    .await
    .unwrap();
    found.extend(rest);
    assert_eq!(found, keys);
    let iterated: BTreeSet<Vec<u8>> = {
        let mut iterator = client.scan_match::<_, Vec<u8>>("key:*").await.unwrap();
        let mut iterated = BTreeSet::new();
        while let Some(key) = iterator.next_item().await {
            iterated.insert(key.unwrap());
        }
        iterated
    };
    assert_eq!(
        iterated, keys,
        "redis-rs' own iterator works over all nodes"
    );
}

#[cfg(feature = "script")]
#[tokio::test]
async fn async_evalsha_runs_a_script_on_every_node() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = support::builder(&servers).build_async().unwrap();
    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for number in 0..20 {
        let value: i64 = script
            .key(format!("key:{number}"))
            .arg(3)
            .invoke_async(&mut client)
            .await
            .unwrap();
        assert_eq!(value, 3);
    }
}

#[tokio::test]
async fn async_client_sends_pipelines_of_100000_commands_and_large_values() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = support::builder(&servers)
        .response_timeout(Duration::from_secs(30))
        .build_async()
        .unwrap();
    let mut pipeline = pipe();
    for number in 0..100_000_usize {
        pipeline
            .cmd("SET")
            .arg(format!("key:{number}"))
            .arg(number)
            .ignore();
    }
    pipeline.query_async::<()>(&mut client).await.unwrap();
    let keys: Vec<String> = (0..10_000).map(|number| format!("key:{number}")).collect();
    let found: Vec<usize> = client.mget(&keys).await.unwrap();
    assert!(found.into_iter().eq(0..10_000));
    let big: Vec<u8> = (0..16 << 20).map(|number| (number % 251) as u8).collect();
    let _: () = client.set("big", &big).await.unwrap();
    let found: Vec<u8> = client.get("big").await.unwrap();
    assert!(found == big);
}

#[test]
fn async_client_works_on_another_runtime_after_its_first_one_ended() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = support::builder(&servers).build_async().unwrap();
    for round in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut client = client.clone();
        runtime.block_on(async move {
            let _: () = client.set("k", round).await.unwrap();
            assert_eq!(client.get::<_, i64>("k").await.unwrap(), round);
        });
    }
}

#[tokio::test]
async fn async_client_is_not_delayed_by_a_paused_server_of_another_node() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(TIMEOUT)
        .connect_timeout(TIMEOUT)
        .build_async()
        .unwrap();
    let keys: Vec<String> = (0..3).map(|index| key_on(&client, index)).collect();
    for key in &keys {
        let _: () = client.clone().set(key, 1).await.unwrap();
    }
    servers.pause(0);
    let mut stuck = client.clone();
    let mut other = client.clone();
    let (stuck, ()) = futures_util::join!(stuck.get::<_, i64>(&keys[0]), async {
        let start = Instant::now();
        for _ in 0..100 {
            let _: i64 = other.get(&keys[1]).await.unwrap();
        }
        assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
    });
    assert_eq!(kind(&stuck), ErrorKind::Timeout);
    let mget: RedisResult<Vec<Value>> = client.clone().mget(&keys).await;
    assert_eq!(kind(&mget), ErrorKind::Partial);
    servers.resume(0);
    until(async || client.clone().get::<_, i64>(&keys[0]).await.is_ok()).await;
}
