//! Requests and moments that once led a client astray.
#![cfg(feature = "testing")]

mod support;

use std::time::{Duration, Instant};

use redis::{Commands, ConnectionLike, Value, cmd, pipe};
use redis_sharding::command::CommandSpec;
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, ErrorKind, ShardedClient};
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

#[test]
fn declared_command_without_its_key_is_an_arity_error() {
    let (_nodes, builder) = nodes(2);
    let client = builder
        .command(CommandSpec::declare("MY.GET").key(1).read())
        .build()
        .unwrap();
    let error = client.execute(&cmd("MY.GET")).unwrap_err();
    assert!(
        error.to_string().contains("wrong number of arguments"),
        "{error}"
    );
}

#[test]
fn sort_by_patterns_must_stay_on_the_node_in_pipelines_and_dedicated_connections() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = support::client(&servers);
    let _: () = client.rpush("{t}list", &[1, 2]).unwrap();
    let mut dedicated = client.dedicated("{t}list").unwrap();
    // Whichever node the pattern itself would be placed on.
    for number in 0..20 {
        let pattern = format!("weight-{number}:*");
        let error = pipe()
            .atomic()
            .cmd("SORT")
            .arg("{t}list")
            .arg("BY")
            .arg(&pattern)
            .query::<Value>(&mut client)
            .unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode, "{pattern}");
        let error = cmd("SORT")
            .arg("{t}list")
            .arg("BY")
            .arg(&pattern)
            .query::<Value>(&mut dedicated)
            .unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode, "{pattern}");
    }
    let sorted: Vec<i64> = cmd("SORT")
        .arg("{t}list")
        .arg("BY")
        .arg("{t}weight:*")
        .query(&mut dedicated)
        .unwrap();
    assert_eq!(sorted, [1, 2]);
}

#[test]
fn blpops_of_one_pipeline_add_up_their_timeouts() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(TIMEOUT)
        .build()
        .unwrap();
    let mut pipeline = pipe();
    for number in 0..4 {
        pipeline
            .cmd("BLPOP")
            .arg(format!("empty:{number}"))
            .arg(0.3);
    }
    let start = Instant::now();
    let answers: Vec<Option<(String, String)>> = pipeline.query(&mut client.clone()).unwrap();
    assert_eq!(answers, [None, None, None, None]);
    assert!(start.elapsed() >= 4 * Duration::from_millis(300));
}

#[test]
fn command_with_no_response_leaves_the_dedicated_connection_in_step() {
    let (_nodes, builder) = nodes(1);
    let client = builder.build().unwrap();
    let mut dedicated = client.dedicated("k").unwrap();
    cmd("SET")
        .arg("k")
        .arg("v")
        .set_no_response(true)
        .exec(&mut dedicated)
        .unwrap();
    assert_eq!(dedicated.get::<_, String>("k").unwrap(), "v");
    // Fewer answers are asked for than there are commands.
    let packed = pipe().get("k").cmd("ECHO").arg("x").get_packed_pipeline();
    let answers = dedicated.req_packed_commands(&packed, 0, 1).unwrap();
    assert_eq!(answers, [Value::BulkString(b"v".to_vec())]);
    assert_eq!(dedicated.get::<_, String>("k").unwrap(), "v");
}

#[test]
fn node_handle_refuses_multi_whose_exec_is_only_a_value() {
    let (_nodes, builder) = nodes(1);
    let client = builder.pool_size(1).build().unwrap();
    let mut node = client.node("node-0").unwrap();
    let packed = pipe()
        .cmd("MULTI")
        .cmd("SET")
        .arg("k")
        .arg("*1\r\n$4\r\nEXEC")
        .get_packed_pipeline();
    for count in [1, 2] {
        assert!(node.req_packed_commands(&packed, count, 1).is_err());
    }
    assert_eq!(node.set::<_, _, Value>("k", "v").unwrap(), Value::Okay);
}

/// A transaction that the server does not end leaves its connection to nobody.
#[test]
fn pool_connection_with_an_open_multi_is_never_reused() {
    let (nodes, builder) = nodes(1);
    let mut client = builder.pool_size(1).build().unwrap();
    let _: () = client.set("k", "v").unwrap();
    let mut dedicated = client.dedicated("k").unwrap();
    for refusal in ["LOADING Redis is loading", "ERR unknown command 'EXEC'"] {
        nodes[0].fail("EXEC", Fault::Error(refusal.into()), 1);
        let error = client.execute_pipeline(pipe().atomic().set("k", "w"));
        assert_eq!(nodes[0].faults_left(), 0);
        assert_eq!(error.unwrap_err().node(), Some("node-0"));
        assert_eq!(client.get::<_, String>("k").unwrap(), "v", "not QUEUED");
    }
    nodes[0].fail("EXEC", Fault::Error("LOADING Redis is loading".into()), 1);
    assert!(pipe().atomic().set("k", "w").exec(&mut dedicated).is_err());
    assert_eq!(nodes[0].faults_left(), 0);
    assert!(dedicated.get::<_, Value>("k").is_err(), "not QUEUED");
}

#[test]
fn invalid_url_error_does_not_contain_the_password() {
    for url in [
        "redis://user:hunter2@host:port/",
        "redis://user:hunter2@host:99999/",
        "redis://user:hunter2@/0",
        "redis://user:hunter2@host/database",
        "http://user:hunter2@host/",
        "user:hunter2@host",
        "redis://user:hunter2@host/?protocol=resp9",
        "redis+unix://user:hunter2@/path?db=x",
    ] {
        for builder in [
            ShardedClient::builder().node("a", url),
            ShardedClient::builder().unnamed_node(url),
        ] {
            let mut shown = format!("{builder:?}");
            match builder.build() {
                Ok(client) => shown += &format!("{client:?}"),
                Err(error) => shown += &format!("{error:?} {error}"),
            }
            assert!(!shown.contains("hunter2"), "{url}: {shown}");
        }
    }
}

#[test]
fn request_queued_for_a_pool_slot_fails_when_the_node_goes_down() {
    let (nodes, builder) = nodes(1);
    let client = builder.pool_size(1).response_timeout(None).build().unwrap();
    client.execute(&cmd("PING")).unwrap();
    nodes[0].fail("GET", Fault::Delay(Duration::from_millis(300)), 1);
    let (sender, done) = std::sync::mpsc::channel();
    let get = |key: &'static str| {
        let (client, sender) = (client.clone(), sender.clone());
        std::thread::spawn(move || {
            let _ = client.execute(cmd("GET").arg(key));
            let _ = sender.send(());
        });
        std::thread::sleep(Duration::from_millis(20));
    };
    get("the one that has the connection");
    for _ in 0..5 {
        get("one that waits for it");
    }
    assert_eq!(nodes[0].faults_left(), 0, "it waits for its answer");
    nodes[0].stop();
    for number in 0..6 {
        done.recv_timeout(Duration::from_secs(5))
            .unwrap_or_else(|_| panic!("only {number} of 6 came back"));
    }
}

#[test]
fn error_reply_that_is_not_utf8_does_not_break_the_connection() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut client = support::client(&servers);
    let error = redis::cmd("EVAL")
        .arg("return redis.error_reply('ERR ' .. ARGV[1])")
        .arg(1)
        .arg("k")
        .arg(&b"\xff\xfe"[..])
        .query::<Value>(&mut client)
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Redis, "{error}");
}

#[cfg(feature = "tokio-comp")]
mod aio {
    use redis::AsyncCommands;
    use redis_sharding::Event;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_already_submitted_are_sent_after_all_async_handles_are_dropped() {
        let Some(servers) = Servers::start(2) else {
            return;
        };
        let mut reader = support::client(&servers);
        let keys: Vec<String> = (0..50).map(|number| format!("k:{number}")).collect();
        for round in 0..40 {
            let client = support::builder(&servers).build_async().unwrap();
            let _: () = client.clone().set("{k:0}", 1).await.unwrap();
            let _: () = client.clone().set("k:1", 1).await.unwrap();
            let _: Value = client.clone().mget(&keys).await.unwrap();
            for key in &keys {
                let mut client = client.clone();
                let value = format!("{round}:{:2000}", "");
                futures_util::FutureExt::now_or_never(client.set::<_, _, Value>(key, value));
            }
            drop(client);
            let start = Instant::now();
            for key in &keys {
                while !Commands::get::<_, String>(&mut reader, key)
                    .is_ok_and(|value| value.starts_with(&format!("{round}:")))
                {
                    assert!(
                        start.elapsed() < Duration::from_secs(5),
                        "{key} is lost in round {round}"
                    );
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    #[tokio::test]
    async fn empty_async_pipeline_on_a_dedicated_connection_is_an_error() {
        let (_nodes, builder) = nodes(1);
        let client = builder.response_timeout(None).build_async().unwrap();
        let mut dedicated = client.dedicated("k").await.unwrap();
        let nothing = pipe();
        let nothing = nothing.query_async::<()>(&mut dedicated);
        tokio::time::timeout(Duration::from_secs(5), nothing)
            .await
            .expect("an answer")
            .expect_err("as with redis-rs");
        let _: () = dedicated.set("k", 1).await.unwrap();
        assert_eq!(dedicated.get::<_, i64>("k").await.unwrap(), 1);
    }

    #[test]
    fn async_client_reconnects_on_the_next_runtime_to_a_node_that_was_down() {
        let (nodes, builder) = nodes(1);
        let client = builder.build_async().unwrap();
        nodes[0].stop();
        runtime().block_on(async {
            client.clone().get::<_, Value>("k").await.unwrap_err();
        });
        nodes[0].restart().unwrap();
        runtime().block_on(async {
            let start = Instant::now();
            while client.clone().get::<_, Value>("k").await.is_err() {
                assert!(
                    start.elapsed() < Duration::from_secs(5),
                    "it is down for ever"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    #[test]
    fn async_client_without_a_runtime_panics_and_does_not_deadlock() {
        let (_nodes, builder) = nodes(1);
        let client = builder.build_async().unwrap();
        let (sender, done) = std::sync::mpsc::channel();
        let mut alone = client.clone();
        std::thread::spawn(move || {
            let poll = std::panic::AssertUnwindSafe(|| {
                use futures_util::FutureExt;
                alone.get::<_, Value>("k").now_or_never()
            });
            let _ = sender.send(std::panic::catch_unwind(poll).is_err());
        });
        let panicked = done.recv_timeout(Duration::from_secs(5));
        assert!(panicked.expect("the thread comes back"));
        runtime().block_on(async {
            let _: Value = client
                .clone()
                .get("k")
                .await
                .expect("as if nothing had been");
        });
    }

    #[tokio::test]
    async fn async_connection_with_an_open_multi_is_never_reused() {
        let (nodes, builder) = nodes(1);
        let mut client = builder.build_async().unwrap();
        let _: () = client.set("k", "v").await.unwrap();
        nodes[0].fail("EXEC", Fault::Error("LOADING Redis is loading".into()), 1);
        let mut other = client.clone();
        // Both are handed over before the first is answered.
        let mut transaction = pipe();
        let transaction = transaction.atomic().set("k", "w");
        let (refused, found) = futures_util::join!(
            transaction.query_async::<Value>(&mut client),
            other.get::<_, String>("k"),
        );
        assert!(refused.is_err());
        assert_eq!(nodes[0].faults_left(), 0);
        assert_eq!(found.unwrap(), "v", "not QUEUED");
        let mut dedicated = client.dedicated("k").await.unwrap();
        nodes[0].fail("EXEC", Fault::Error("LOADING Redis is loading".into()), 1);
        let refused = transaction.query_async::<Value>(&mut dedicated).await;
        assert!(refused.is_err());
        assert_eq!(nodes[0].faults_left(), 0);
        assert!(dedicated.get::<_, Value>("k").await.is_err(), "not QUEUED");
    }

    #[tokio::test]
    async fn event_missed_comes_only_after_resubscription_is_confirmed() {
        let (nodes, builder) = nodes(1);
        let client = builder.build_async().unwrap();
        let mut subscriber = client.subscriber();
        let channels: Vec<String> = (0..50).map(|number| format!("channel:{number}")).collect();
        subscriber.subscribe(&channels).await.unwrap();
        // The new connection is there, its subscriptions are not.
        nodes[0].fail("SUBSCRIBE", Fault::HangBefore, 1);
        nodes[0].close_connections();
        let mut told = Vec::new();
        let mut listen = async |subscriber: &mut redis_sharding::aio::Subscriber, limit| {
            let event = tokio::time::timeout(limit, subscriber.next_event(None)).await;
            told.extend(event.unwrap_or_default().map(|event| match event {
                Event::Disconnected { .. } => "disconnected",
                Event::Missed { .. } => "missed",
                _ => "message",
            }));
            told.len()
        };
        assert_eq!(listen(&mut subscriber, Duration::from_secs(5)).await, 1);
        let none = listen(&mut subscriber, Duration::from_millis(500)).await;
        assert_eq!(none, 1, "the subscriptions are not there again");
        assert_eq!(nodes[0].faults_left(), 0);
        nodes[0].close_connections();
        assert_eq!(listen(&mut subscriber, Duration::from_secs(5)).await, 2);
        assert_eq!(listen(&mut subscriber, Duration::from_secs(5)).await, 3);
        assert_eq!(told, ["disconnected", "disconnected", "missed"]);
        // Whoever looks at the data now misses nothing from then on.
        for channel in &channels {
            let heard: i64 = client.clone().publish(channel, "news").await.unwrap();
            assert_eq!(heard, 1);
            let event =
                tokio::time::timeout(Duration::from_secs(5), subscriber.next_event(None)).await;
            assert!(matches!(event, Ok(Some(Event::Message(_)))), "{event:?}");
        }
    }
}
