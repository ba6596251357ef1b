//! The async client on runtimes that run only while somebody blocks on them, and on several runtimes one after another.
#![cfg(feature = "tokio-comp")]

mod support;

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use redis::{AsyncCommands, RedisResult, Value, cmd};
use redis_sharding::{Error, ErrorKind, Event, aio};
use support::Servers;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(10);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn client(servers: &Servers) -> aio::ShardedClient {
    support::builder(servers)
        .response_timeout(Duration::from_secs(3))
        .build_async()
        .unwrap()
}

/// Blocks on the future that is made, again and again with pauses between, until it is well.
fn until_ok<F, T, E>(runtime: &Runtime, mut make: impl FnMut() -> F)
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    let start = Instant::now();
    while let Err(error) = runtime.block_on(make()) {
        assert!(start.elapsed() < PATIENCE, "it never comes back: {error}");
        thread::sleep(Duration::from_millis(250));
    }
}

async fn set(client: &aio::ShardedClient) -> RedisResult<()> {
    client.clone().set("k", 1).await
}

async fn blpop(client: &aio::ShardedClient) -> RedisResult<()> {
    let mut blpop = cmd("BLPOP");
    let nothing: Value = blpop
        .arg("none")
        .arg(0.01)
        .query_async(&mut client.clone())
        .await?;
    assert_eq!(nothing, Value::Nil);
    Ok(())
}

async fn dedicated(client: &aio::ShardedClient) -> RedisResult<()> {
    client.dedicated("k").await?.set("k", 1).await
}

async fn transaction(client: &aio::ShardedClient) -> RedisResult<()> {
    client
        .transaction(&["k"], async |connection, pipe| {
            pipe.set("k", 2).query_async(connection).await
        })
        .await
}

#[test]
fn async_client_reconnects_on_a_runtime_that_runs_only_in_block_on() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let (runtime, client) = (runtime(), client(&servers));
    for _ in 0..2 {
        runtime.block_on(set(&client)).unwrap();
        runtime.block_on(blpop(&client)).unwrap();
        runtime.block_on(transaction(&client)).unwrap();
        servers.kill(0);
        for _ in 0..3 {
            let error = runtime.block_on(set(&client)).unwrap_err();
            assert!(matches!(
                ErrorKind::of(&error),
                ErrorKind::NodeDown | ErrorKind::Unknown
            ));
            runtime.block_on(blpop(&client)).unwrap_err();
            runtime.block_on(dedicated(&client)).unwrap_err();
        }
        servers.restart(0);
        until_ok(&runtime, || set(&client));
        until_ok(&runtime, || blpop(&client));
        until_ok(&runtime, || dedicated(&client));
        until_ok(&runtime, || transaction(&client));
    }
}

/// The next connection is made in vain, for the server takes it and says nothing.
#[test]
fn only_one_request_at_a_time_waits_for_a_silent_node() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let limit = Duration::from_millis(500);
    let client = support::builder(&servers)
        .connect_timeout(limit)
        .build_async()
        .unwrap();
    let runtime = runtime();
    servers.pause(0);
    runtime.block_on(async {
        nobody_but_one_waits(limit, || set(&client)).await;
        nobody_but_one_waits(limit, || blpop(&client)).await;
    });
    servers.resume(0);
    until_ok(&runtime, || set(&client));
    until_ok(&runtime, || blpop(&client));
}

async fn nobody_but_one_waits<F>(limit: Duration, make: impl Fn() -> F)
where
    F: Future<Output = RedisResult<()>>,
{
    make().await.unwrap_err();
    let start = Instant::now();
    while start.elapsed() < 4 * limit {
        // One of them may carry an attempt, the others do not wait for it.
        let begun = Instant::now();
        let all = (0..10).map(|_| async {
            let error = make().await.unwrap_err();
            assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown);
            begun.elapsed() > limit / 2
        });
        let waited = futures_util::future::join_all(all).await;
        let waited = waited.into_iter().filter(|waited| *waited).count();
        assert!(waited <= 1, "{waited} of 10 waited");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn async_client_works_on_a_second_runtime_while_the_first_is_not_polled() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = client(&servers);
    let (first, second) = (runtime(), runtime());
    for runtime in [&first, &second, &first, &second] {
        runtime.block_on(async {
            set(&client).await.unwrap();
            blpop(&client).await.unwrap();
            transaction(&client).await.unwrap();
            dedicated(&client).await.unwrap();
        });
    }
}

#[test]
fn connection_attempt_of_an_unpolled_runtime_is_repeated_on_another() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = client(&servers);
    let (first, second) = (runtime(), runtime());
    first.block_on(set(&client)).unwrap();
    servers.kill(0);
    first.block_on(set(&client)).unwrap_err();
    servers.restart(0);
    until_ok(&second, || set(&client));
    until_ok(&first, || set(&client));
}

#[test]
fn async_client_and_its_exclusive_connections_outlive_their_runtime() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = client(&servers);
    for _ in 0..3 {
        runtime().block_on(async {
            set(&client).await.unwrap();
            blpop(&client).await.unwrap();
            transaction(&client).await.unwrap();
            dedicated(&client).await.unwrap();
        });
    }
}

async fn event(subscriber: &mut aio::Subscriber) -> Event {
    let event = tokio::time::timeout(PATIENCE, subscriber.next_event(None)).await;
    event.expect("an event in time").unwrap()
}

fn is_disconnected(event: &Event) -> bool {
    matches!(event, Event::Disconnected { node } if node == "node-0")
}

fn is_missed(event: &Event) -> bool {
    matches!(event, Event::Missed { node } if node == "node-0")
}

#[test]
fn async_subscriber_reconnects_on_a_runtime_that_runs_only_in_block_on() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let (runtime, client) = (runtime(), client(&servers));
    let mut subscriber = client.subscriber();
    runtime.block_on(subscriber.subscribe("news")).unwrap();
    servers.kill(0);
    assert!(is_disconnected(&runtime.block_on(event(&mut subscriber))));
    for _ in 0..3 {
        let more = runtime.block_on(subscriber.subscribe("more"));
        assert_eq!(more.unwrap_err().kind(), ErrorKind::NodeDown);
    }
    servers.restart(0);
    let start = Instant::now();
    loop {
        let more: Result<(), Error> = runtime.block_on(subscriber.subscribe("more"));
        if more.is_ok() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it never comes back: {more:?}");
        thread::sleep(Duration::from_millis(250));
    }
    assert!(is_missed(&runtime.block_on(event(&mut subscriber))));
    runtime.block_on(async {
        let heard: i64 = client.clone().publish("news", "x").await.unwrap();
        assert_eq!(heard, 1);
        assert!(matches!(event(&mut subscriber).await, Event::Message(_)));
    });
}

#[test]
fn async_subscriber_outlives_its_runtime() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = client(&servers);
    let mut subscriber = client.subscriber();
    runtime().block_on(subscriber.subscribe("news")).unwrap();
    for number in 0..3 {
        runtime().block_on(async {
            assert!(is_disconnected(&event(&mut subscriber).await));
            assert!(is_missed(&event(&mut subscriber).await));
            let heard: i64 = client.clone().publish("news", number).await.unwrap();
            assert_eq!(heard, 1);
            assert!(matches!(event(&mut subscriber).await, Event::Message(_)));
        });
    }
    runtime().block_on(subscriber.subscribe("more")).unwrap();
}

#[test]
fn async_subscriber_continues_on_another_runtime_while_its_first_is_not_polled() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = client(&servers);
    let mut subscriber = client.subscriber();
    let (first, second) = (runtime(), runtime());
    first.block_on(subscriber.subscribe("news")).unwrap();
    second.block_on(async {
        assert!(is_disconnected(&event(&mut subscriber).await));
        assert!(is_missed(&event(&mut subscriber).await));
        let heard: i64 = client.clone().publish("news", "x").await.unwrap();
        // The first runtime keeps its connection until it is run.
        assert!(heard >= 1);
        assert!(matches!(event(&mut subscriber).await, Event::Message(_)));
        subscriber.subscribe("more").await.unwrap();
    });
    first.block_on(subscriber.subscribe("even more")).unwrap();
}
