//! Connections that the server has closed, that fall silent, or whose other side writes before it reads: in every pool of
//! both clients.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::{Builder, ErrorKind, Event, ShardedClient};
use support::Servers;

const PATIENCE: Duration = Duration::from_secs(30);

/// Closes all connections to a server but its own.
fn kill_connections(servers: &Servers) {
    let mut connection = servers.connection(0);
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("SKIPME").arg("yes");
    let killed: i64 = kill.query(&mut connection).unwrap();
    assert!(killed > 0, "there was nothing to close");
    // On a busy machine it takes a moment until the other end knows.
    thread::sleep(Duration::from_millis(20));
}

/// What a blocking client does with connections of each pool.
type Use = (&'static str, fn(&ShardedClient) -> RedisResult<()>);

const USES: [Use; 6] = [
    ("SET", |client| client.clone().set("{k}", 1)),
    ("a pipeline", |client| {
        pipe()
            .set("{k}", 1)
            .incr("{k}", 1)
            .query(&mut client.clone())
    }),
    ("BLPOP", |client| {
        let mut connection = client.clone();
        connection.rpush::<_, _, ()>("{k}list", "x")?;
        connection.blpop::<_, Value>("{k}list", 1.0).map(drop)
    }),
    ("a transaction", |client| {
        client.transaction(&["{k}"], |connection, pipe| {
            pipe.set("{k}", 2).query(connection)
        })
    }),
    ("an atomic pipeline", |client| {
        pipe()
            .atomic()
            .set("{k}", 3)
            .query::<Value>(&mut client.clone())
            .map(drop)
    }),
    ("a dedicated connection", |client| {
        client.dedicated("{k}")?.set("{k}", 4)
    }),
];

fn lie_idle(client: &ShardedClient) -> RedisResult<()> {
    client.transaction(&["{k}"], |connection, pipe| {
        pipe.set("{k}", 5).query(connection)
    })
}

#[test]
fn connection_closed_by_the_server_is_not_used_by_any_pool_of_the_blocking_client() {
    for (what, act) in USES {
        for unix in [false, true] {
            let builder = Servers::builder();
            let builder = if unix { builder.unix() } else { builder };
            let Some(servers) = builder.start(1) else {
                return;
            };
            let client = support::client(&servers);
            act(&client).unwrap();
            for round in 0..4 {
                // Dedicated connections are not given back, so that one must lie in the pool.
                lie_idle(&client).unwrap();
                thread::sleep(Duration::from_millis(20));
                kill_connections(&servers);
                act(&client).unwrap_or_else(|error| panic!("{what}, round {round}: {error}"));
            }
        }
    }
}

#[test]
fn connecting_to_a_silent_server_times_out_once_with_a_clear_message() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let limit = Duration::from_secs(1);
    let describe = || {
        support::builder(&servers)
            .connect_timeout(limit)
            .response_timeout(Duration::from_secs(10))
    };
    let check = |what: &str, start: Instant, error: String| {
        let taken = start.elapsed();
        assert!(taken < limit * 9 / 5, "{what}: {taken:?}");
        assert!(error.contains("timed out"), "{what}: {error}");
        assert!(!error.contains("os error"), "{what}: {error}");
        assert!(error.contains("node-0"), "{what}: {error}");
    };
    servers.pause(0);
    for (what, act) in USES {
        // The BLPOP of the list is preceded by a command of another pool.
        let client = describe().build().unwrap();
        let start = Instant::now();
        let error = act(&client).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{what}");
        check(what, start, error.to_string());
    }
    let client = describe().build().unwrap();
    let start = Instant::now();
    let blpop = cmd("BLPOP").arg("{k}list").arg(1).exec(&mut client.clone());
    check("BLPOP alone", start, blpop.unwrap_err().to_string());
    let start = Instant::now();
    let error = client.subscriber().subscribe("news").unwrap_err();
    check("a subscriber", start, error.to_string());
    servers.resume(0);
}

#[test]
fn response_timeout_is_reported_for_a_server_that_stops_replying() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let mut dedicated = client.dedicated("{k}").unwrap();
    let () = dedicated.set("{k}", 1).unwrap();
    let () = client.clone().set("{k}", 1).unwrap();
    let writer = support::builder(&servers)
        .response_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let () = writer.clone().set("{k}", 1).unwrap();
    servers.pause(0);
    let large = "x".repeat(64 << 20);
    let errors = [
        client.clone().get::<_, Value>("{k}").unwrap_err(),
        dedicated.get::<_, Value>("{k}").unwrap_err(),
        // More than the sockets take.
        writer.clone().set::<_, _, ()>("{k}", &large).unwrap_err(),
    ];
    servers.resume(0);
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("no reply in time"), "{text}");
        assert!(!text.contains("os error"), "{text}");
    }
}

/// A server that reads nothing while what it has answered is not read, as many proxies do. Every command is answered with a
/// thousand bytes, but those of transactions and subscriptions as they should be.
struct WriteFirst {
    url: String,
}

impl WriteFirst {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || Self::serve(&stream));
            }
        });
        Self { url }
    }

    fn builder(&self) -> Builder {
        ShardedClient::builder()
            .node("node-0", self.url.as_str())
            .response_timeout(PATIENCE)
    }

    fn serve(stream: &TcpStream) -> Option<()> {
        let mut input = BufReader::new(stream);
        let mut output = stream;
        let mut queued = None;
        let mut replies = Vec::new();
        loop {
            let args = Self::request(&mut input)?;
            Self::answer(&args, &mut queued, &mut replies);
            if args[0] == b"QUIT" {
                return None;
            }
            if replies.len() >= 1 << 16 || input.buffer().is_empty() {
                output.write_all(&replies).ok()?;
                replies.clear();
            }
        }
    }

    fn request(input: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
        let number = |mark: u8, input: &mut dyn BufRead| {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            assert_eq!(*line.as_bytes().first()?, mark, "{line}");
            line[1..].trim_end().parse::<usize>().ok()
        };
        let count = number(b'*', input)?;
        let mut args = Vec::new();
        for _ in 0..count {
            let length = number(b'$', input)?;
            let mut arg = vec![0; length + 2];
            input.read_exact(&mut arg).ok()?;
            arg.truncate(length);
            args.push(arg);
        }
        Some(args)
    }

    fn answer(args: &[Vec<u8>], queued: &mut Option<usize>, out: &mut Vec<u8>) {
        let padding = "x".repeat(1000);
        let text = match (args[0].as_slice(), &mut *queued) {
            (b"MULTI", _) => {
                *queued = Some(0);
                "+OK\r\n".to_owned()
            }
            (b"EXEC", Some(count)) => {
                let text = format!("*{count}\r\n{}", "+OK\r\n".repeat(*count));
                *queued = None;
                text
            }
            (_, Some(count)) => {
                *count += 1;
                format!("+QUEUED {padding}\r\n")
            }
            (b"SUBSCRIBE", _) => {
                for name in &args[1..] {
                    out.extend_from_slice(b"*3\r\n$9\r\nsubscribe\r\n");
                    out.extend_from_slice(format!("${}\r\n", name.len()).as_bytes());
                    out.extend_from_slice(name);
                    out.extend_from_slice(b"\r\n:1\r\n");
                }
                return;
            }
            (b"CLIENT", _) => "+OK\r\n".to_owned(),
            _ => format!("$1000\r\n{padding}\r\n"),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// Twenty megabytes of requests, more than the buffers of two sockets hold.
fn huge_pipeline() -> Pipeline {
    let value = "v".repeat(1000);
    let mut pipeline = pipe();
    for _ in 0..20_000 {
        pipeline.cmd("GETSET").arg("{k}").arg(&value);
    }
    pipeline
}

fn long_names() -> Vec<String> {
    (0..60_000).map(|number| format!("{number:0300}")).collect()
}

#[test]
fn blocking_client_reads_replies_while_it_writes_a_huge_pipeline() {
    let server = WriteFirst::start();
    let client = server.builder().build().unwrap();
    let mut pipeline = huge_pipeline();
    let values: Vec<Value> = pipeline.query(&mut client.clone()).unwrap();
    assert_eq!(values.len(), 20_000);
    let values: Vec<Value> = pipeline
        .query(&mut client.dedicated("{k}").unwrap())
        .unwrap();
    assert_eq!(values.len(), 20_000, "a dedicated connection");
    let values: Vec<Value> = pipeline.query(&mut client.nodes().next().unwrap()).unwrap();
    assert_eq!(values.len(), 20_000, "the handle of one node");
    let values: Vec<Value> = pipeline.atomic().query(&mut client.clone()).unwrap();
    assert_eq!(values.len(), 20_000, "a transaction");
    let mut waiting = huge_pipeline();
    waiting.cmd("BLPOP").arg("{k}").arg(1);
    let values: Vec<Value> = waiting.query(&mut client.clone()).unwrap();
    assert_eq!(values.len(), 20_001, "an exclusive connection");
    // It is in step all the same.
    assert_eq!(client.clone().get::<_, String>("{k}").unwrap().len(), 1000);
}

#[test]
fn blocking_subscriber_reads_confirmations_while_it_writes_a_huge_subscribe() {
    let server = WriteFirst::start();
    let client = server.builder().build().unwrap();
    let mut subscriber = client.subscriber();
    subscriber.subscribe(long_names()).unwrap();
}

#[test]
fn blocking_subscriber_limits_the_bytes_of_queued_events() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = support::client(&servers);
    let mut subscriber = client.subscriber().with_event_bytes_max(1 << 20);
    subscriber.subscribe("news").unwrap();
    let published = publish_much(&servers);
    let mut messages = 0;
    loop {
        match subscriber.next_event(PATIENCE) {
            Some(Event::Message(message)) => {
                assert_eq!(message.payload.len(), 1 << 20);
                messages += 1;
            }
            Some(Event::Disconnected { node }) => {
                assert_eq!(node, "node-0");
                break;
            }
            other => panic!("{other:?} after {messages} messages"),
        }
    }
    assert!(0 < messages && messages < published, "{messages}");
    assert!(matches!(
        subscriber.next_event(PATIENCE),
        Some(Event::Missed { .. })
    ));
}

/// Publishes a megabyte until the server gives up the subscriber, which takes none of it. How many times.
fn publish_much(servers: &Servers) -> usize {
    let mut connection = servers.connection(0);
    cmd("CONFIG")
        .arg(&["SET", "client-output-buffer-limit", "pubsub 4mb 4mb 1"])
        .exec(&mut connection)
        .unwrap();
    let payload = vec![b'x'; 1 << 20];
    for published in 1..200 {
        let heard: i64 = connection.publish("news", &payload).unwrap();
        if heard == 0 {
            return published;
        }
    }
    panic!("the subscriber keeps everything");
}

#[test]
fn blocking_subscriber_subscribes_to_100000_channels_in_linear_time() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(PATIENCE)
        .build()
        .unwrap();
    let mut subscriber = client.subscriber();
    let channels: Vec<String> = (0..100_000).map(|number| format!("c:{number}")).collect();
    let start = Instant::now();
    subscriber.subscribe(&channels).unwrap();
    let took = start.elapsed();
    assert!(took < PATIENCE, "{took:?}");
    let (mut connection, heard) = (client.clone(), "c:99999");
    assert_eq!(connection.publish::<_, _, i64>(heard, "x").unwrap(), 1);
    subscriber.unsubscribe(&channels).unwrap();
    assert_eq!(connection.publish::<_, _, i64>(heard, "x").unwrap(), 0);
}

#[cfg(feature = "tokio-comp")]
mod asynchronous {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use redis::AsyncCommands;
    use redis_sharding::aio;

    use super::*;

    fn client(servers: &Servers) -> aio::ShardedClient {
        support::builder(servers).build_async().unwrap()
    }

    async fn event(subscriber: &mut aio::Subscriber) -> Event {
        let event = tokio::time::timeout(PATIENCE, subscriber.next_event(None)).await;
        event.expect("an event in time").unwrap()
    }

    const USES: [&str; 5] = [
        "SET",
        "BLPOP",
        "a transaction",
        "an atomic pipeline",
        "a dedicated connection",
    ];

    async fn act(what: &str, client: &aio::ShardedClient) -> RedisResult<()> {
        let mut connection = client.clone();
        match what {
            "SET" => connection.set("{k}", 1).await,
            "BLPOP" => {
                // From the exclusive pool alone, so that no other connection finds out first.
                let mut pipeline = pipe();
                pipeline.rpush("{k}list", "x").blpop("{k}list", 1.0);
                pipeline
                    .query_async::<Value>(&mut connection)
                    .await
                    .map(drop)
            }
            "a transaction" => {
                client
                    .transaction(&["{k}"], async |connection, pipe| {
                        pipe.set("{k}", 2).query_async(connection).await
                    })
                    .await
            }
            "an atomic pipeline" => {
                let mut pipeline = pipe();
                let pipeline = pipeline.atomic().set("{k}", 3);
                pipeline
                    .query_async::<Value>(&mut connection)
                    .await
                    .map(drop)
            }
            _ => client.dedicated("{k}").await?.set("{k}", 4).await,
        }
    }

    /// Also on a runtime that is not run while the server closes its connections.
    #[test]
    fn connection_closed_by_the_server_is_not_used_by_any_pool_of_the_async_client() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        for what in USES {
            for workers in [0, 2] {
                let mut builder = match workers {
                    0 => tokio::runtime::Builder::new_current_thread(),
                    _ => tokio::runtime::Builder::new_multi_thread(),
                };
                let runtime = builder.worker_threads(workers.max(1)).enable_all().build();
                let runtime = runtime.unwrap();
                let client = client(&servers);
                runtime.block_on(act(what, &client)).unwrap();
                for round in 0..4 {
                    // Dedicated connections are not given back, so that one must lie in the pool.
                    runtime.block_on(act("a transaction", &client)).unwrap();
                    thread::sleep(Duration::from_millis(20));
                    kill_connections(&servers);
                    runtime
                        .block_on(act(what, &client))
                        .unwrap_or_else(|error| panic!("{what}, round {round}: {error}"));
                }
            }
        }
    }

    #[tokio::test]
    async fn async_connecting_to_a_silent_server_times_out_with_a_clear_message() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        let limit = Duration::from_secs(1);
        servers.pause(0);
        for what in USES {
            let client = support::builder(&servers)
                .connect_timeout(limit)
                .response_timeout(Duration::from_secs(10))
                .build_async()
                .unwrap();
            let start = Instant::now();
            let error = act(what, &client).await.unwrap_err().to_string();
            let taken = start.elapsed();
            assert!(taken < limit * 9 / 5, "{what}: {taken:?}");
            assert!(
                error.contains("timed out") && error.contains("node-0"),
                "{what}: {error}"
            );
            let error = client.subscriber().subscribe("news").await.unwrap_err();
            assert!(error.to_string().contains("timed out"), "{error}");
        }
        servers.resume(0);
    }

    #[tokio::test]
    async fn async_client_reads_replies_while_it_writes_a_huge_pipeline() {
        let server = WriteFirst::start();
        let client = server.builder().build_async().unwrap();
        let mut pipeline = huge_pipeline();
        let values: Vec<Value> = pipeline.query_async(&mut client.clone()).await.unwrap();
        assert_eq!(values.len(), 20_000);
        let mut dedicated = client.dedicated("{k}").await.unwrap();
        let values: Vec<Value> = pipeline.query_async(&mut dedicated).await.unwrap();
        assert_eq!(values.len(), 20_000, "a dedicated connection");
        let values: Vec<Value> = pipeline
            .atomic()
            .query_async(&mut client.clone())
            .await
            .unwrap();
        assert_eq!(values.len(), 20_000, "a transaction");
        let mut waiting = huge_pipeline();
        waiting.cmd("BLPOP").arg("{k}").arg(1);
        let values: Vec<Value> = waiting.query_async(&mut client.clone()).await.unwrap();
        assert_eq!(values.len(), 20_001, "an exclusive connection");
    }

    #[tokio::test]
    async fn async_subscriber_reads_confirmations_while_it_writes_a_huge_subscribe() {
        let server = WriteFirst::start();
        let client = server.builder().build_async().unwrap();
        let mut subscriber = client.subscriber();
        subscriber.subscribe(long_names()).await.unwrap();
    }

    #[tokio::test]
    async fn async_subscriber_limits_the_bytes_of_queued_events() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        let client = client(&servers);
        let mut subscriber = client.subscriber().with_event_bytes_max(1 << 20);
        subscriber.subscribe("news").await.unwrap();
        let servers = Arc::new(servers);
        let publisher = Arc::clone(&servers);
        let published = tokio::task::spawn_blocking(move || publish_much(&publisher)).await;
        let published = published.unwrap();
        let mut messages = 0;
        loop {
            match event(&mut subscriber).await {
                Event::Message(_) => messages += 1,
                Event::Disconnected { .. } => break,
                other => panic!("{other:?} after {messages} messages"),
            }
        }
        assert!(0 < messages && messages < published, "{messages}");
        assert!(matches!(event(&mut subscriber).await, Event::Missed { .. }));
    }

    /// On one thread, so that whoever holds it keeps everybody from running.
    #[tokio::test]
    async fn async_subscribe_to_100000_channels_lets_other_tasks_run() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        let client = support::builder(&servers)
            .response_timeout(PATIENCE)
            .build_async()
            .unwrap();
        let mut subscriber = client.subscriber();
        let channels: Vec<Vec<u8>> = (0..100_000)
            .map(|number| format!("c:{number}").into_bytes())
            .collect();
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let counter = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let start = Instant::now();
        subscriber.subscribe(&channels).await.unwrap();
        let taken = start.elapsed();
        let turns = turns.load(Ordering::Relaxed);
        // So many pieces at least: routing, wanting and confirming a few hundred names each.
        assert!(turns > 500, "{turns} turns in {taken:?}");
        let heard: i64 = client.clone().publish("c:99999", "x").await.unwrap();
        assert_eq!(heard, 1);
        assert!(matches!(event(&mut subscriber).await, Event::Message(_)));

        // And again, when the connection was lost.
        kill_connections(&servers);
        assert!(matches!(
            event(&mut subscriber).await,
            Event::Disconnected { .. }
        ));
        assert!(matches!(event(&mut subscriber).await, Event::Missed { .. }));
        let heard: i64 = client.clone().publish("c:99999", "x").await.unwrap();
        assert_eq!(heard, 1);
        subscriber.unsubscribe(&channels).await.unwrap();
        counter.abort();
    }
}
