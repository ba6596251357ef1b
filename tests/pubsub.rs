//! Publish and subscribe over many nodes, by both clients.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use redis::{Commands, cmd};
use redis_sharding::{ErrorKind, Event, Message, ShardedClient, Subscriber, SubscriptionKind};
use support::{Servers, client};

const PATIENCE: Duration = Duration::from_secs(10);

fn message(subscriber: &mut Subscriber) -> Message {
    match subscriber.next_event(PATIENCE) {
        Some(Event::Message(message)) => message,
        other => panic!("no message but {other:?}"),
    }
}

fn disconnected(node: &str) -> Event {
    Event::Disconnected { node: node.into() }
}

fn channels(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("channel:{number}"))
        .collect()
}

#[test]
fn subscriber_receives_channels_of_all_nodes_in_one_stream() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let mut subscriber = client.subscriber();
    let channels = channels(40);
    subscriber.subscribe(&channels).unwrap();
    for channel in &channels {
        let heard: i64 = client.publish(channel, format!("to {channel}")).unwrap();
        assert_eq!(heard, 1, "confirmed means heard");
    }
    let mut heard = BTreeSet::new();
    for _ in &channels {
        let message = message(&mut subscriber);
        let channel = String::from_utf8(message.channel).unwrap();
        assert_eq!(message.payload, format!("to {channel}").into_bytes());
        assert_eq!(
            (message.kind, message.pattern),
            (SubscriptionKind::Channel, None)
        );
        heard.insert(channel);
    }
    assert_eq!(heard, channels.iter().cloned().collect());

    subscriber.unsubscribe(&channels[..39]).unwrap();
    for channel in &channels {
        let _: i64 = client.publish(channel, "again").unwrap();
    }
    assert_eq!(message(&mut subscriber).channel, b"channel:39");
    assert_eq!(subscriber.next_event(Duration::from_millis(200)), None);
}

#[test]
fn psubscribe_receives_each_message_of_every_node_once() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut client = client(&servers);
    let mut subscriber = client.subscriber();
    subscriber.psubscribe("channel:*").unwrap();
    for channel in channels(40) {
        let _: i64 = client.publish(&channel, "hello").unwrap();
    }
    let heard: BTreeSet<Vec<u8>> = (0..40).map(|_| message(&mut subscriber).channel).collect();
    assert_eq!(heard.len(), 40);
    assert_eq!(
        subscriber.next_event(Duration::from_millis(200)),
        None,
        "nothing comes twice"
    );
    assert_eq!(
        cmd("PUBSUB")
            .arg("NUMPAT")
            .query::<i64>(&mut client)
            .unwrap(),
        1
    );
    subscriber.punsubscribe("channel:*").unwrap();
    assert_eq!(client.publish::<_, _, i64>("channel:1", "x").unwrap(), 0);
}

/// Keys of every node, and the channels on which their changes are told.
fn changes() -> Vec<(String, Vec<u8>)> {
    (0..40)
        .map(|number| {
            let key = format!("key:{number}");
            (format!("__keyspace@0__:{key}"), key.into_bytes())
        })
        .collect()
}

fn notifying() -> Option<Servers> {
    Servers::builder()
        .option(["--notify-keyspace-events", "KEA"])
        .start(4)
}

#[test]
fn subscriber_receives_keyspace_notifications_of_all_nodes() {
    let Some(servers) = notifying() else {
        return;
    };
    let mut client = client(&servers);
    let mut subscriber = client.subscriber();
    subscriber.subscribe("__keyevent@0__:set").unwrap();
    for (_, key) in changes() {
        let _: () = client.set(&key, 1).unwrap();
    }
    let heard: BTreeSet<Vec<u8>> = (0..40).map(|_| message(&mut subscriber).payload).collect();
    assert_eq!(heard, changes().into_iter().map(|(_, key)| key).collect());
    subscriber.unsubscribe("__keyevent@0__:set").unwrap();

    let channels: Vec<String> = changes().into_iter().map(|(channel, _)| channel).collect();
    subscriber.subscribe(&channels).unwrap();
    for (_, key) in changes() {
        let _: () = client.del(&key).unwrap();
    }
    let heard: BTreeSet<Vec<u8>> = (0..40).map(|_| message(&mut subscriber).channel).collect();
    assert_eq!(
        heard,
        channels.into_iter().map(String::into_bytes).collect()
    );
    assert_eq!(
        subscriber.next_event(Duration::from_millis(200)),
        None,
        "nothing comes twice"
    );
    let heard: i64 = client.publish("__keyevent@0__:mine", "x").unwrap();
    assert_eq!(heard, 0);
}

#[test]
fn ssubscribe_receives_spublish_messages() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = client(&servers);
    let mut subscriber = client.subscriber();
    subscriber.ssubscribe(&["a", "b", "c"]).unwrap();
    for channel in ["a", "b", "c"] {
        let heard: i64 = cmd("SPUBLISH")
            .arg(channel)
            .arg("x")
            .query(&mut client)
            .unwrap();
        assert_eq!(heard, 1);
    }
    let heard: BTreeSet<Vec<u8>> = (0..3).map(|_| message(&mut subscriber).channel).collect();
    assert_eq!(heard.len(), 3);
    let shard: Vec<String> = cmd("PUBSUB")
        .arg("SHARDCHANNELS")
        .query(&mut client)
        .unwrap();
    assert_eq!(shard.len(), 3);
}

#[test]
fn subscriber_resubscribes_after_a_restart_and_reports_event_missed() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut client = client(&servers);
    let mut subscriber = client.subscriber();
    let channels = channels(12);
    subscriber.subscribe(&channels).unwrap();
    subscriber.psubscribe("pattern:*").unwrap();
    servers.kill(1);
    let event = subscriber.next_event(PATIENCE);
    assert_eq!(event, Some(disconnected("node-1")), "while it is down");
    servers.restart(1);
    let event = subscriber.next_event(PATIENCE);
    assert_eq!(
        event,
        Some(Event::Missed {
            node: "node-1".into()
        })
    );
    let mut total = 0;
    for channel in &channels {
        let start = std::time::Instant::now();
        loop {
            let heard: Result<i64, _> = client.publish(channel, "hello");
            if heard == Ok(1) {
                break;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{channel} is not heard again: {heard:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        total += 1;
    }
    let heard: BTreeSet<Vec<u8>> = (0..total)
        .map(|_| message(&mut subscriber).channel)
        .collect();
    assert_eq!(heard.len(), channels.len());
}

#[test]
fn subscribe_to_a_dead_node_is_nodedown_and_takes_effect_later() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client = client(&servers);
    let channel = channels(50)
        .into_iter()
        .find(|channel| client.node_for(channel).unwrap().name() == "node-1")
        .unwrap();
    servers.kill(1);
    let mut subscriber = client.subscriber();
    let error = subscriber.subscribe(&channel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NodeDown);
    assert!(error.to_string().contains("node-1"), "{error}");
    servers.restart(1);
    let start = std::time::Instant::now();
    while client.publish::<_, _, i64>(&channel, "hello").unwrap_or(0) == 0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(message(&mut subscriber).payload, b"hello");
    assert_eq!(
        subscriber.subscribe(&[] as &[&str]).unwrap_err().kind(),
        ErrorKind::Redis
    );
}

#[test]
fn refused_subscribe_reports_noperm() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    cmd("ACL")
        .arg(&["SETUSER", "default", "resetchannels", "&allowed"])
        .exec(&mut servers.connection(0))
        .unwrap();
    let client = client(&servers);
    let mut subscriber = client.subscriber();
    subscriber.subscribe("allowed").unwrap();
    let error = subscriber.subscribe("forbidden").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Redis);
    assert!(
        error.to_string().contains("NOPERM") && error.to_string().contains("node-0"),
        "{error}"
    );
    subscriber
        .subscribe("allowed")
        .expect("the others are as they were");
}

#[test]
fn dropped_subscriber_is_unsubscribed() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let mut client: ShardedClient = client(&servers);
    let mut subscriber = client.subscriber();
    subscriber.subscribe(channels(10)).unwrap();
    drop(subscriber);
    let start = std::time::Instant::now();
    while client.publish::<_, _, i64>("channel:1", "x").unwrap() > 0 {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(feature = "tokio-comp")]
mod asynchronous {
    use redis::AsyncCommands;
    use redis_sharding::aio;

    use super::*;

    async fn message(subscriber: &mut aio::Subscriber) -> Message {
        match tokio::time::timeout(PATIENCE, subscriber.next_event(None)).await {
            Ok(Some(Event::Message(message))) => message,
            other => panic!("no message but {other:?}"),
        }
    }

    fn client(servers: &Servers) -> aio::ShardedClient {
        support::builder(servers).build_async().unwrap()
    }

    #[tokio::test]
    async fn async_subscriber_receives_channels_patterns_and_shard_channels_in_one_stream() {
        let Some(servers) = Servers::start(4) else {
            return;
        };
        let mut client = client(&servers);
        let mut subscriber = client.subscriber();
        let channels = channels(40);
        subscriber.subscribe(&channels).await.unwrap();
        subscriber.psubscribe("pattern:*").await.unwrap();
        subscriber.ssubscribe("shard").await.unwrap();
        for channel in &channels {
            assert_eq!(client.publish::<_, _, i64>(channel, "x").await.unwrap(), 1);
        }
        for number in 0..20 {
            let channel = format!("pattern:{number}");
            assert_eq!(client.publish::<_, _, i64>(channel, "x").await.unwrap(), 1);
        }
        let heard: i64 = cmd("SPUBLISH")
            .arg("shard")
            .arg("x")
            .query_async(&mut client)
            .await
            .unwrap();
        assert_eq!(heard, 1);
        let mut heard = BTreeSet::new();
        for _ in 0..61 {
            heard.insert(message(&mut subscriber).await.channel);
        }
        assert_eq!(heard.len(), 61);
        subscriber.unsubscribe(&channels).await.unwrap();
        assert_eq!(
            client.publish::<_, _, i64>("channel:1", "x").await.unwrap(),
            0
        );
        let waited =
            tokio::time::timeout(Duration::from_millis(200), subscriber.next_event(None)).await;
        assert!(waited.is_err(), "nothing comes twice");
    }

    #[tokio::test]
    async fn async_subscriber_resubscribes_after_a_restart_and_reports_event_missed() {
        let Some(servers) = Servers::start(3) else {
            return;
        };
        let mut client = client(&servers);
        let mut subscriber = client.subscriber();
        let channels = channels(12);
        subscriber.subscribe(&channels).await.unwrap();
        servers.kill(1);
        let event = tokio::time::timeout(PATIENCE, subscriber.next_event(None))
            .await
            .unwrap();
        assert_eq!(event, Some(disconnected("node-1")), "while it is down");
        servers.restart(1);
        let event = tokio::time::timeout(PATIENCE, subscriber.next_event(None))
            .await
            .unwrap();
        assert_eq!(
            event,
            Some(Event::Missed {
                node: "node-1".into()
            })
        );
        for channel in &channels {
            let start = std::time::Instant::now();
            while client.publish::<_, _, i64>(channel, "x").await != Ok(1) {
                assert!(start.elapsed() < PATIENCE, "{channel} is not heard again");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(message(&mut subscriber).await.channel, channel.as_bytes());
        }
    }

    #[tokio::test]
    async fn async_subscriber_receives_keyspace_notifications_of_all_nodes() {
        let Some(servers) = notifying() else {
            return;
        };
        let mut client = client(&servers);
        let mut subscriber = client.subscriber();
        subscriber.subscribe("__keyevent@0__:set").await.unwrap();
        for (_, key) in changes() {
            let _: () = client.set(&key, 1).await.unwrap();
        }
        let mut heard = BTreeSet::new();
        for _ in 0..40 {
            heard.insert(message(&mut subscriber).await.payload);
        }
        assert_eq!(heard, changes().into_iter().map(|(_, key)| key).collect());
        subscriber.unsubscribe("__keyevent@0__:set").await.unwrap();
        let _: () = client.set("key:0", 2).await.unwrap();
        let waited =
            tokio::time::timeout(Duration::from_millis(200), subscriber.next_event(None)).await;
        assert!(waited.is_err(), "nothing comes twice, or after the end");
    }

    #[tokio::test]
    async fn async_subscribe_reports_noperm_and_nodedown() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        let client = client(&servers);
        let mut subscriber = client.subscriber();
        cmd("ACL")
            .arg(&["SETUSER", "default", "resetchannels", "&allowed"])
            .exec(&mut servers.connection(0))
            .unwrap();
        subscriber.subscribe("allowed").await.unwrap();
        let error = subscriber.subscribe("forbidden").await.unwrap_err();
        assert!(error.to_string().contains("NOPERM"), "{error}");
        servers.kill(0);
        let mut other = client.subscriber();
        let error = other.subscribe("allowed").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NodeDown);
    }
}

#[test]
fn subscribe_behind_many_unread_messages_is_confirmed() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client = client(&servers);
    let mut subscriber = client.subscriber();
    subscriber.subscribe("news").unwrap();
    let mut publish = redis::pipe();
    for number in 0..20_000 {
        publish.cmd("PUBLISH").arg("news").arg(number).ignore();
    }
    let mut connection = servers.connection(0);
    for _ in 0..4 {
        publish.query::<()>(&mut connection).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    subscriber.subscribe("other").unwrap();
    for number in (0..20_000).cycle().take(80_000) {
        assert_eq!(
            message(&mut subscriber).payload,
            number.to_string().into_bytes()
        );
    }
}

#[test]
fn publish_of_a_script_reaches_patterns_and_channels_with_the_hash_tag_of_its_keys() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let client = client(&servers);
    let mut by_channel = client.subscriber();
    let mut by_pattern = client.subscriber();
    let channels: Vec<String> = (0..20)
        .map(|number| format!("events:{{{number}}}"))
        .collect();
    by_channel.subscribe(&channels).unwrap();
    by_pattern.psubscribe("events:*").unwrap();
    let script = "return redis.call('PUBLISH', ARGV[1], KEYS[1])";
    for (number, channel) in channels.iter().enumerate() {
        let key = format!("cart:{{{number}}}:items");
        let heard: i64 = cmd("EVAL")
            .arg(script)
            .arg(1)
            .arg(&key)
            .arg(channel)
            .query(&mut client.clone())
            .unwrap();
        assert_eq!(heard, 2, "{channel}");
        assert_eq!(message(&mut by_channel).payload, key.as_bytes());
        assert_eq!(message(&mut by_pattern).payload, key.as_bytes());
    }
    // A script that declares no key goes where the channel lives that it shows.
    for number in 0..20 {
        let text = format!("return redis.call('PUBLISH', 'events:{{{number}}}', 'x')");
        let heard: i64 = cmd("EVAL")
            .arg(text)
            .arg(0)
            .query(&mut client.clone())
            .unwrap();
        assert_eq!(heard, 2, "{number}");
    }
}
