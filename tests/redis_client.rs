//! What a program that was written for `redis::Client` finds under the same names: connections and subscriptions.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::{Commands, ControlFlow, PubSubCommands, RedisError, RedisResult, cmd};
use redis_sharding::{ErrorKind, PubSub, ShardedClient};
use support::{Servers, builder, builder_over, client};

const PATIENCE: Duration = Duration::from_secs(10);

fn channels(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("channel:{number}"))
        .collect()
}

/// Number of connections of a server, but for the one that asks.
fn connections(servers: &Servers, index: usize) -> usize {
    let mut list = cmd("CLIENT");
    let list: String = list
        .arg("LIST")
        .query(&mut servers.connection(index))
        .unwrap();
    list.lines().count() - 1
}

fn wait_until(mut is_done: impl FnMut() -> bool, what: &str) {
    let start = Instant::now();
    while !is_done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The error of a gap, as redis-rs reports a lost connection.
#[track_caller]
fn assert_gap(error: &RedisError, node: &str) {
    assert!(error.is_connection_dropped(), "{error:?}");
    assert!(!error.is_timeout(), "{error:?}");
    assert!(error.is_unrecoverable_error(), "{error:?}");
    assert!(error.to_string().contains(node), "{error}");
}

#[test]
fn get_connection_needs_one_node_that_answers() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = client(&servers);
    let mut connection = client.get_connection().unwrap();
    connection.set::<_, _, ()>("k", 1).unwrap();
    servers.kill(0);
    servers.kill(2);
    for _ in 0..10 {
        client.get_connection().unwrap();
        client.get_connection_with_timeout(PATIENCE).unwrap();
    }
    servers.kill(1);
    let error = client.get_connection().unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
}

#[test]
fn get_connection_reports_a_refused_password_and_a_missing_one() {
    let Some(servers) = Servers::builder().password("secret").start(2) else {
        return;
    };
    let urls = |with: &str| {
        servers
            .urls()
            .into_iter()
            .map(|url| url.replace(":secret@", with))
            .collect::<Vec<_>>()
    };
    for with in [":wrong@", ""] {
        let client = builder_over(urls(with)).build().unwrap();
        let error = client.get_connection().unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{with}: {error}");
    }
    builder_over(urls(":secret@"))
        .build()
        .unwrap()
        .get_connection()
        .unwrap();
}

#[test]
fn get_connection_with_timeout_ends_in_time_when_all_nodes_hang() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = client(&servers);
    client.get_connection().unwrap();
    for index in 0..servers.len() {
        servers.pause(index);
    }
    let start = Instant::now();
    let timeout = Duration::from_millis(100);
    client.get_connection_with_timeout(timeout).unwrap_err();
    // The response timeout is 5 s.
    assert!(start.elapsed() < Duration::from_secs(3));
    for index in 0..servers.len() {
        servers.resume(index);
    }
}

#[test]
fn as_pubsub_receives_redis_rs_messages_of_all_nodes() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = client(&servers);
    let mut pubsub: PubSub = client.as_pubsub();
    let channels = channels(20);
    pubsub.subscribe(&channels).unwrap();
    pubsub.psubscribe("pattern:*").unwrap();
    for channel in &channels {
        assert_eq!(client.publish::<_, _, u32>(channel, channel).unwrap(), 1);
    }
    let mut received = BTreeSet::new();
    for _ in &channels {
        let message = pubsub.get_message().unwrap();
        let channel: String = message.get_channel().unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), channel);
        assert!(!message.from_pattern());
        received.insert(channel);
    }
    assert_eq!(received, channels.iter().cloned().collect());
    client.publish::<_, _, ()>("pattern:1", "x").unwrap();
    let message = pubsub.get_message().unwrap();
    assert_eq!(message.get_channel_name(), "pattern:1");
    assert_eq!(message.get_pattern::<String>().unwrap(), "pattern:*");

    pubsub.unsubscribe(&channels[..1]).unwrap();
    assert_eq!(client.publish::<_, _, u32>(&channels[0], "x").unwrap(), 0);
    pubsub.unsubscribe(Vec::<String>::new()).unwrap();
    pubsub.punsubscribe(Vec::<String>::new()).unwrap();
    for channel in channels.iter().map(String::as_str).chain(["pattern:1"]) {
        assert_eq!(client.publish::<_, _, u32>(channel, "x").unwrap(), 0);
    }
    pubsub.unsubscribe(Vec::<String>::new()).unwrap();
    pubsub.subscribe(Vec::<String>::new()).unwrap_err();

    pubsub.set_read_timeout(Some(Duration::ZERO)).unwrap_err();
    let limit = Some(Duration::from_millis(20));
    pubsub.set_read_timeout(limit).unwrap();
    let error = pubsub.get_message().unwrap_err();
    assert!(
        error.is_timeout() && !error.is_connection_dropped(),
        "{error:?}"
    );
}

#[test]
fn get_message_reports_a_lost_node_and_its_return_and_receives_the_others_meanwhile() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client = client(&servers);
    let channel_of = |node: &str| {
        let is_there = |channel: &&String| client.node_for(channel).unwrap().name() == node;
        channels(50).iter().find(is_there).unwrap().clone()
    };
    let (stays, lost) = (channel_of("node-0"), channel_of("node-1"));
    let mut pubsub = client.as_pubsub();
    pubsub.set_read_timeout(Some(PATIENCE)).unwrap();
    pubsub.subscribe(&[&stays, &lost]).unwrap();
    client.publish::<_, _, ()>(&lost, "before").unwrap();
    wait_until(|| connections(&servers, 1) > 0, "no connection");
    let message = pubsub.get_message().unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "before");

    servers.kill(1);
    assert_gap(&pubsub.get_message().unwrap_err(), "node-1");
    client.publish::<_, _, ()>(&stays, "meanwhile").unwrap();
    let message = pubsub.get_message().unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "meanwhile");
    servers.restart(1);
    assert_gap(&pubsub.get_message().unwrap_err(), "node-1");
    wait_until(
        || client.publish::<_, _, u32>(&lost, "after") == Ok(1),
        "not subscribed again",
    );
    let message = pubsub.get_message().unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "after");
}

#[test]
fn pub_sub_commands_call_back_until_the_closure_breaks() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client = client(&servers);
    let mut dedicated = client.dedicated("channel:1").unwrap();
    let publisher = client.clone();
    // Publishes until the receiver is there.
    let publish = |channels: &[&str]| {
        for channel in channels {
            let is_received =
                || publisher.clone().publish::<_, _, u32>(*channel, *channel) == Ok(1);
            wait_until(is_received, "nobody has subscribed");
        }
    };
    let names = ["channel:1", "channel:2", "channel:3"];
    let collect = |received: &mut Vec<String>, message: redis::Msg| {
        received.push(message.get_payload().unwrap());
        match received.len() {
            3 => ControlFlow::Break(received.len()),
            _ => ControlFlow::Continue,
        }
    };
    let run = |subscribe: &mut dyn FnMut(&mut Vec<String>) -> RedisResult<usize>| {
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| publish(&names));
            assert_eq!(subscribe(&mut received), Ok(3));
        });
        received.sort();
        assert_eq!(received, names);
    };
    run(&mut |received| client.subscribe(&names, |message| collect(received, message)));
    wait_until(
        || publisher.clone().publish::<_, _, u32>("channel:1", "") == Ok(0),
        "still subscribed",
    );
    run(&mut |received| client.psubscribe("channel:*", |message| collect(received, message)));

    // On one node; the connection takes commands again.
    let one = std::thread::scope(|scope| {
        wait_until(
            || publisher.clone().publish::<_, _, u32>("channel:1", "") == Ok(0),
            "still subscribed",
        );
        scope.spawn(|| publish(&["channel:1"]));
        dedicated.subscribe("channel:1", |message| {
            ControlFlow::Break(message.get_payload::<String>().unwrap())
        })
    });
    assert_eq!(one.unwrap(), "channel:1");
    dedicated.set::<_, _, ()>("channel:1", 1).unwrap();
}

#[cfg(feature = "tokio-comp")]
mod asynchronous {
    use futures_util::StreamExt;
    use redis::{AsyncCommands, Msg};
    use redis_sharding::aio;

    use super::*;

    async fn next(stream: &mut (impl futures_util::Stream<Item = Msg> + Unpin)) -> Option<String> {
        let next = tokio::time::timeout(PATIENCE, stream.next()).await;
        next.expect("a message in time")
            .map(|message| message.get_payload().unwrap())
    }

    #[tokio::test]
    async fn one_client_gives_both_kinds_of_connection_and_the_async_ones_share_theirs() {
        let Some(servers) = Servers::start(2) else {
            return;
        };
        let client: ShardedClient = super::client(&servers);
        let mut blocking = client.get_connection().unwrap();
        for number in 0..20 {
            let mut connection: aio::ShardedClient =
                client.get_multiplexed_async_connection().await.unwrap();
            let () = connection.set(format!("k:{number}"), number).await.unwrap();
            let value: u32 = Commands::get(&mut blocking, format!("k:{number}")).unwrap();
            assert_eq!(value, number);
        }
        let mut manager = client.clone().get_connection_manager().await.unwrap();
        let _: u32 = manager.get("k:1").await.unwrap();
        let again = manager.get_multiplexed_async_connection().await.unwrap();
        let _: u32 = again
            .get_connection_manager()
            .await
            .unwrap()
            .get("k:2")
            .await
            .unwrap();
        for index in 0..servers.len() {
            // One of each client.
            assert_eq!(connections(&servers, index), 2);
        }
    }

    #[tokio::test]
    async fn get_multiplexed_async_connection_needs_one_node_that_answers() {
        let Some(servers) = Servers::start(2) else {
            return;
        };
        let client = builder(&servers).build_async().unwrap();
        servers.kill(0);
        for _ in 0..10 {
            client.get_multiplexed_async_connection().await.unwrap();
        }
        servers.kill(1);
        let error = client.get_multiplexed_async_connection().await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
        client.get_async_pubsub().await.unwrap_err();
        super::client(&servers)
            .get_async_pubsub()
            .await
            .unwrap_err();
    }

    #[tokio::test]
    async fn get_async_pubsub_receives_redis_rs_messages_of_all_nodes() {
        let Some(servers) = Servers::start(3) else {
            return;
        };
        let client = super::client(&servers);
        let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
        let mut pubsub: aio::PubSub = client.get_async_pubsub().await.unwrap();
        let channels = channels(20);
        pubsub.subscribe(&channels).await.unwrap();
        pubsub.psubscribe("pattern:*").await.unwrap();
        for channel in channels.iter().map(String::as_str).chain(["pattern:1"]) {
            let receivers: u32 = publisher.publish(channel, channel).await.unwrap();
            assert_eq!(receivers, 1);
        }
        let mut received = BTreeSet::new();
        for _ in 0..=channels.len() {
            received.insert(next(&mut pubsub.on_message()).await.unwrap());
        }
        assert_eq!(received.len(), channels.len() + 1);
        assert!(received.contains("pattern:1"));
        pubsub.punsubscribe("pattern:*").await.unwrap();
        pubsub.unsubscribe(Vec::<String>::new()).await.unwrap();
        for channel in channels.iter().map(String::as_str).chain(["pattern:1"]) {
            let receivers: u32 = publisher.publish(channel, "x").await.unwrap();
            assert_eq!(receivers, 0);
        }
        pubsub.subscribe("last").await.unwrap();
        let mut stream = pubsub.into_on_message();
        let () = publisher.publish("last", "y").await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap(), "y");
        drop(stream);
        let start = Instant::now();
        while publisher.publish::<_, _, u32>("last", "z").await != Ok(0) {
            assert!(start.elapsed() < PATIENCE, "still subscribed");
        }
    }

    #[tokio::test]
    async fn split_pubsub_subscribes_while_its_stream_is_awaited_and_ends_with_the_stream() {
        let Some(servers) = Servers::start(3) else {
            return;
        };
        let client = super::client(&servers);
        let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
        let (sink, mut stream) = client.get_async_pubsub().await.unwrap().split();
        let reader = tokio::spawn(async move {
            let mut received = BTreeSet::new();
            for _ in 0..40 {
                received.insert(next(&mut stream).await.unwrap());
            }
            (received, stream)
        });
        // The reader waits before there is any subscription, and several sinks subscribe at the same time.
        tokio::task::yield_now().await;
        let channels = channels(40);
        let subscribe = channels.chunks(10).map(|channels| {
            let mut sink = sink.clone();
            async move { sink.subscribe(channels).await }
        });
        for done in futures_util::future::join_all(subscribe).await {
            done.unwrap();
        }
        for channel in &channels {
            let receivers: u32 = publisher.publish(channel, channel).await.unwrap();
            assert_eq!(receivers, 1);
        }
        let (received, stream) = reader.await.unwrap();
        assert_eq!(received, channels.into_iter().collect());
        let mut sink = sink;
        sink.unsubscribe("channel:1").await.unwrap();
        drop(stream);
        let error = sink.subscribe("channel:1").await.unwrap_err();
        assert!(error.is_connection_dropped(), "{error:?}");
    }

    #[tokio::test]
    async fn async_pubsub_stream_returns_none_for_a_lost_node_and_for_its_return() {
        let Some(servers) = Servers::start(2) else {
            return;
        };
        let client = super::client(&servers);
        let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
        let channel_of = |node: &str| {
            let is_there = |channel: &&String| client.node_for(channel).unwrap().name() == node;
            channels(50).iter().find(is_there).unwrap().clone()
        };
        let (stays, lost) = (channel_of("node-0"), channel_of("node-1"));
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.subscribe(&[&stays, &lost]).await.unwrap();
        let () = publisher.publish(&lost, "before").await.unwrap();
        assert_eq!(next(&mut pubsub.on_message()).await.unwrap(), "before");
        servers.kill(1);
        assert_eq!(next(&mut pubsub.on_message()).await, None);
        let () = publisher.publish(&stays, "meanwhile").await.unwrap();
        assert_eq!(next(&mut pubsub.on_message()).await.unwrap(), "meanwhile");
        servers.restart(1);
        assert_eq!(next(&mut pubsub.on_message()).await, None);
        let start = Instant::now();
        while publisher.publish::<_, _, u32>(&lost, "after").await != Ok(1) {
            assert!(start.elapsed() < PATIENCE, "not subscribed again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(next(&mut pubsub.on_message()).await.unwrap(), "after");
    }

    #[cfg(any(feature = "tokio-rustls-comp", feature = "tokio-native-tls-comp"))]
    #[tokio::test]
    async fn one_client_gives_both_kinds_of_connection_and_pubsub_over_tls() {
        use redis::TlsCertificates;
        use support::authority::Authority;

        let authority = Authority::new("redis client");
        let Some(servers) = Servers::builder().tls(&authority, false).start(2) else {
            return;
        };
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(authority.pem().into_bytes()),
        };
        let urls = (0..servers.len()).map(|index| servers.tls_url(index));
        let client = builder_over(urls)
            .tls_certificates(certificates)
            .build()
            .unwrap();
        let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
        let mut blocking = client.as_pubsub();
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        blocking.subscribe("news").unwrap();
        pubsub.subscribe("news").await.unwrap();
        let receivers: u32 = publisher.publish("news", "x").await.unwrap();
        assert_eq!(receivers, 2);
        let message = blocking.get_message().unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), "x");
        assert_eq!(next(&mut pubsub.on_message()).await.unwrap(), "x");
    }
}
