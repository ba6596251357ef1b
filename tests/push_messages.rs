//! RESP3 push messages of both clients: `Builder::push_sender`, with real servers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use redis::{Commands, ConnectionLike, PushInfo, PushKind, Value, cmd};
use redis_sharding::{Builder, ErrorKind, ShardedClient};
use support::{Servers, builder_over};

const PATIENCE: Duration = Duration::from_secs(10);

/// The messages of all nodes, each with the name of its node.
type Pushes = Receiver<(String, PushInfo)>;

/// The description of a client that is reached in RESP3, and the messages that it gets.
fn pushing(urls: impl IntoIterator<Item = String>) -> (Builder, Pushes) {
    let (sender, pushes) = mpsc::channel();
    let send = move |node: &str, push: PushInfo| {
        let _ = sender.send((node.to_owned(), push));
    };
    let urls = urls.into_iter().map(|url| format!("{url}?protocol=resp3"));
    (builder_over(urls).push_sender(send), pushes)
}

fn invalidated(node: &str, key: &str) -> (String, PushInfo) {
    let keys = Value::Array(vec![Value::BulkString(key.into())]);
    let push = PushInfo {
        kind: PushKind::Invalidate,
        data: vec![keys],
    };
    (node.to_owned(), push)
}

fn disconnected(node: &str) -> (String, PushInfo) {
    let push = PushInfo {
        kind: PushKind::Disconnection,
        data: Vec::new(),
    };
    (node.to_owned(), push)
}

/// A key of this node.
fn key_of(client: &ShardedClient, node: &str) -> String {
    (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| client.node_for(key).unwrap().name() == node)
        .unwrap()
}

/// Sends PING until there is a message, as a message may arrive behind the reply to the first one.
fn next_with_ping(connection: &mut impl ConnectionLike, pushes: &Pushes) -> (String, PushInfo) {
    let start = Instant::now();
    loop {
        cmd("PING").exec(connection).unwrap();
        match pushes.try_recv() {
            Ok(push) => return push,
            Err(_) => assert!(start.elapsed() < PATIENCE, "no message"),
        }
    }
}

fn track(connection: &mut impl ConnectionLike, key: &str) {
    let mut tracking = cmd("CLIENT");
    tracking.arg("TRACKING").arg("ON").exec(connection).unwrap();
    connection.get::<_, Option<String>>(key).unwrap();
}

#[test]
fn client_tracking_on_a_dedicated_connection_sends_invalidate_with_the_name_of_its_node() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let (builder, pushes) = pushing(servers.urls());
    let mut client = builder.build().unwrap();
    for node in ["node-0", "node-2"] {
        let key = key_of(&client, node);
        let mut connection = client.dedicated(&key).unwrap();
        track(&mut connection, &key);
        client.set::<_, _, ()>(&key, "new").unwrap();
        assert_eq!(
            next_with_ping(&mut connection, &pushes),
            invalidated(node, &key)
        );
        // The reply behind the message is that of its own request.
        let value: String = connection.get(&key).unwrap();
        assert_eq!(value, "new");
    }
    // Both connections were dropped by their user, and nothing was lost.
    assert!(pushes.try_recv().is_err());
}

#[test]
fn subscribe_on_a_dedicated_connection_sends_its_messages_to_the_push_sender() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let (builder, pushes) = pushing(servers.urls());
    let mut client = builder.build().unwrap();
    let node = client.node_for("news").unwrap().name().to_owned();
    let mut connection = client.dedicated("news").unwrap();
    let mut subscribe = cmd("SUBSCRIBE");
    subscribe.arg("news").set_no_response(true);
    subscribe.exec(&mut connection).unwrap();
    let confirmed = next_with_ping(&mut connection, &pushes);
    assert_eq!((confirmed.0, confirmed.1.kind), (node, PushKind::Subscribe));
    assert_eq!(client.publish::<_, _, u32>("news", "hello").unwrap(), 1);
    let (_, message) = next_with_ping(&mut connection, &pushes);
    let message = redis::Msg::from_push_info(message).unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "hello");

    // `as_pubsub` returns the messages, and the sender gets a copy, as in redis-rs.
    let mut pubsub = connection.as_pubsub().unwrap();
    pubsub.subscribe("news").unwrap();
    assert_eq!(client.publish::<_, _, u32>("news", "again").unwrap(), 1);
    let message = pubsub.get_message().unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "again");
    let copies: Vec<PushKind> = pushes.try_iter().map(|(_, push)| push.kind).collect();
    assert_eq!(copies, [PushKind::Subscribe, PushKind::Message]);
}

#[test]
fn killed_node_sends_disconnection_for_a_connection_in_use_and_an_idle_one() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let (builder, pushes) = pushing(servers.urls());
    let mut client = builder.build().unwrap();
    let key = key_of(&client, "node-1");
    let mut connection = client.dedicated(&key).unwrap();
    client.set::<_, _, ()>(&key, 1).unwrap();
    connection.set::<_, _, ()>(&key, 2).unwrap();
    servers.kill(1);
    connection.get::<_, String>(&key).unwrap_err();
    assert_eq!(pushes.try_recv(), Ok(disconnected("node-1")));
    connection.get::<_, String>(&key).unwrap_err();
    assert!(pushes.try_recv().is_err(), "it is lost once");
    // The idle connection of the pool is found closed before it is used; another cannot be made, which is no loss.
    client.get::<_, String>(&key).unwrap_err();
    assert_eq!(pushes.try_recv(), Ok(disconnected("node-1")));
    client.get::<_, String>(&key).unwrap_err();
    assert!(pushes.try_recv().is_err());
}

#[test]
fn dedicated_connection_given_up_after_a_timeout_sends_disconnection() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let (builder, pushes) = pushing(servers.urls());
    let timeout = Duration::from_millis(200);
    let client = builder.response_timeout(timeout).build().unwrap();
    let mut connection = client.dedicated("k").unwrap();
    track(&mut connection, "k");
    servers.pause(0);
    connection.get::<_, Option<String>>("k").unwrap_err();
    servers.resume(0);
    assert_eq!(pushes.try_recv(), Ok(disconnected("node-0")));
}

#[test]
fn push_sender_for_a_node_in_resp2_is_a_config_error_that_names_the_node() {
    let describe = || {
        let (sender, _pushes) = mpsc::channel::<PushInfo>();
        ShardedClient::builder()
            .node("a", "redis://10.0.0.1/?protocol=resp3")
            .node("b", "redis://10.0.0.2/")
            .push_sender(sender)
    };
    let mut errors = vec![describe().build().unwrap_err()];
    #[cfg(feature = "tokio-comp")]
    errors.push(describe().build_async().unwrap_err());
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(error.node(), Some("b"));
        assert!(error.to_string().contains("protocol=resp3"), "{error}");
    }
}

#[test]
fn push_message_to_a_full_bounded_channel_is_lost_and_nothing_waits_for_it() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let (sender, pushes) = mpsc::sync_channel::<PushInfo>(1);
    let url = format!("{}?protocol=resp3", servers.url(0));
    let builder = ShardedClient::builder().node("a", url);
    let client = builder.push_sender(sender).build().unwrap();
    let mut connection = client.dedicated("a").unwrap();
    for channel in ["a", "b", "c"] {
        let mut subscribe = cmd("SUBSCRIBE");
        subscribe.arg(channel).set_no_response(true);
        subscribe.exec(&mut connection).unwrap();
    }
    cmd("PING").exec(&mut connection).unwrap();
    assert_eq!(pushes.try_iter().count(), 1);
}

/// Panics for every message, and counts them.
fn panicking(received: &Arc<AtomicU32>) -> impl Fn(&str, PushInfo) + Send + Sync + use<> {
    let received = Arc::clone(received);
    move |_, push| {
        received.fetch_add(1, Ordering::Relaxed);
        panic!("no use for {:?}", push.kind);
    }
}

#[test]
fn push_sender_that_panics_costs_no_connection() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let received = Arc::default();
    let url = format!("{}?protocol=resp3", servers.url(0));
    let builder = ShardedClient::builder().node("a", url);
    let client = builder.push_sender(panicking(&received)).build().unwrap();
    let mut connection = client.dedicated("k").unwrap();
    track(&mut connection, "k");
    let () = client.clone().set("k", "new").unwrap();
    assert_eq!(connection.get::<_, String>("k").unwrap(), "new");
    assert_eq!(received.load(Ordering::Relaxed), 1);
    // It is told of the loss as well.
    servers.kill(0);
    connection.get::<_, String>("k").unwrap_err();
    assert!(received.load(Ordering::Relaxed) > 1);
}

#[cfg(feature = "tokio-comp")]
mod asynchronous {
    use redis::AsyncCommands;
    use redis::aio::ConnectionLike as AsyncConnectionLike;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn pushing(
        urls: impl IntoIterator<Item = String>,
    ) -> (Builder, UnboundedReceiver<(String, PushInfo)>) {
        let (sender, pushes) = unbounded_channel();
        let send = move |node: &str, push: PushInfo| {
            let _ = sender.send((node.to_owned(), push));
        };
        let urls = urls.into_iter().map(|url| format!("{url}?protocol=resp3"));
        (builder_over(urls).push_sender(send), pushes)
    }

    async fn next(pushes: &mut UnboundedReceiver<(String, PushInfo)>) -> (String, PushInfo) {
        let next = tokio::time::timeout(PATIENCE, pushes.recv()).await;
        next.expect("a message in time").expect("a sender")
    }

    async fn track(connection: &mut (impl AsyncConnectionLike + Send + Sync), key: &str) {
        let mut tracking = cmd("CLIENT");
        let tracking = tracking.arg("TRACKING").arg("ON");
        tracking.exec_async(connection).await.unwrap();
        let _: Option<String> = connection.get(key).await.unwrap();
    }

    #[tokio::test]
    async fn async_dedicated_connection_receives_invalidate_without_another_request() {
        let Some(servers) = Servers::start(3) else {
            return;
        };
        let (builder, mut pushes) = pushing(servers.urls());
        let mut client = builder.build_async().unwrap();
        let node = client.node_for("k").unwrap().name().to_owned();
        let mut connection = client.dedicated("k").await.unwrap();
        track(&mut connection, "k").await;
        let () = client.set("k", "new").await.unwrap();
        assert_eq!(next(&mut pushes).await, invalidated(&node, "k"));
        let value: String = connection.get("k").await.unwrap();
        assert_eq!(value, "new");
        drop(connection);
        // The server has closed it once another connection is served behind it.
        let () = client
            .dedicated("k")
            .await
            .unwrap()
            .set("k", 1)
            .await
            .unwrap();
        assert!(pushes.try_recv().is_err(), "dropped by its user, not lost");
    }

    #[tokio::test]
    async fn push_sender_that_panics_costs_no_connection_of_the_async_client() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        let received = Arc::default();
        let url = format!("{}?protocol=resp3", servers.url(0));
        let builder = ShardedClient::builder().node("a", url);
        let builder = builder.push_sender(panicking(&received));
        let mut client = builder.build_async().unwrap();
        let mut connection = client.dedicated("k").await.unwrap();
        track(&mut connection, "k").await;
        let () = client.set("k", "new").await.unwrap();
        let value: String = connection.get("k").await.unwrap();
        assert_eq!(value, "new");
        assert_eq!(received.load(Ordering::Relaxed), 1);
        servers.kill(0);
        let lost = connection.get::<_, String>("k").await;
        lost.unwrap_err();
        let start = Instant::now();
        while received.load(Ordering::Relaxed) == 1 {
            assert!(start.elapsed() < PATIENCE, "not told of the loss");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn killed_node_sends_disconnection_for_each_connection_of_the_async_client() {
        let Some(servers) = Servers::start(2) else {
            return;
        };
        let (builder, mut pushes) = pushing(servers.urls());
        let mut client = builder.build_async().unwrap();
        let node = client.node_for("k").unwrap().name().to_owned();
        let mut connection = client.dedicated("k").await.unwrap();
        let () = client.set("k", 1).await.unwrap();
        let () = connection.set("k", 2).await.unwrap();
        servers.kill(usize::from(node == "node-1"));
        assert_eq!(next(&mut pushes).await, disconnected(&node));
        assert_eq!(next(&mut pushes).await, disconnected(&node));
        client.get::<_, i64>("k").await.unwrap_err();
        connection.get::<_, i64>("k").await.unwrap_err();
        assert!(
            pushes.try_recv().is_err(),
            "attempts to connect lose nothing"
        );
    }

    #[tokio::test]
    async fn async_dedicated_connection_given_up_after_a_timeout_sends_disconnection() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        let (builder, mut pushes) = pushing(servers.urls());
        let timeout = Duration::from_millis(200);
        let client = builder.response_timeout(timeout).build_async().unwrap();
        let mut connection = client.dedicated("k").await.unwrap();
        track(&mut connection, "k").await;
        servers.pause(0);
        connection.get::<_, Option<String>>("k").await.unwrap_err();
        servers.resume(0);
        assert_eq!(next(&mut pushes).await, disconnected("node-0"));
    }

    #[tokio::test]
    async fn subscribe_on_an_async_dedicated_connection_sends_its_messages_to_the_push_sender() {
        let Some(servers) = Servers::start(1) else {
            return;
        };
        cmd("ACL")
            .arg(&["SETUSER", "default", "resetchannels", "&news"])
            .exec(&mut servers.connection(0))
            .unwrap();
        let (builder, mut pushes) = pushing(servers.urls());
        let mut client = builder.build_async().unwrap();
        let mut connection = client.dedicated("news").await.unwrap();
        let mut subscribe = cmd("SUBSCRIBE");
        subscribe.arg("news").set_no_response(true);
        subscribe.exec_async(&mut connection).await.unwrap();
        // Confirmed: whatever is published from now on is received.
        let receivers: u32 = client.publish("news", "hello").await.unwrap();
        assert_eq!(receivers, 1);
        assert_eq!(next(&mut pushes).await.1.kind, PushKind::Subscribe);
        let message = redis::Msg::from_push_info(next(&mut pushes).await.1).unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), "hello");
        let () = connection.set("news", 1).await.unwrap();

        let mut refused = cmd("SUBSCRIBE");
        refused.arg("other").set_no_response(true);
        let mut other = client.dedicated("other").await.unwrap();
        let error = refused.exec_async(&mut other).await.unwrap_err();
        assert_eq!(error.code(), Some("NOPERM"), "{error}");
        // The reply to the PING behind it is due on that connection, which is closed.
        let error = other.get::<_, Option<i64>>("other").await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
    }

    #[tokio::test]
    async fn server_that_closes_during_the_handshake_sends_no_disconnection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        // It ends with the process.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let (builder, mut pushes) = pushing([url.clone()]);
        let mut client = builder.build_async().unwrap();
        let error = client.get::<_, i64>("k").await.unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::NodeDown, "{error}");
        drop(client);
        assert!(pushes.try_recv().is_err());

        let (builder, pushes) = super::pushing([url]);
        let mut client = builder.build().unwrap();
        Commands::get::<_, i64>(&mut client, "k").unwrap_err();
        assert!(pushes.try_recv().is_err());
    }
}

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
#[test]
fn invalidate_arrives_over_tls_in_both_clients() {
    use redis::TlsCertificates;
    use support::authority::Authority;

    let authority = Authority::new("push messages");
    let Some(servers) = Servers::builder().tls(&authority, false).start(1) else {
        return;
    };
    let certificates = || TlsCertificates {
        client_tls: None,
        root_cert: Some(authority.pem().into_bytes()),
    };
    let (builder, pushes) = pushing([servers.tls_url(0)]);
    let mut client = builder.tls_certificates(certificates()).build().unwrap();
    let mut connection = client.dedicated("k").unwrap();
    track(&mut connection, "k");
    client.set::<_, _, ()>("k", 1).unwrap();
    assert_eq!(
        next_with_ping(&mut connection, &pushes),
        invalidated("node-0", "k")
    );

    #[cfg(any(feature = "tokio-rustls-comp", feature = "tokio-native-tls-comp"))]
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        use redis::AsyncCommands;

        // The client on tokio of the same description, with the same receiver.
        let mut client = client.get_multiplexed_async_connection().await.unwrap();
        let mut connection = client.dedicated("k").await.unwrap();
        let mut tracking = cmd("CLIENT");
        let tracking = tracking.arg("TRACKING").arg("ON");
        tracking.exec_async(&mut connection).await.unwrap();
        let _: i64 = connection.get("k").await.unwrap();
        let () = client.set("k", 2).await.unwrap();
        let push = pushes.recv_timeout(PATIENCE).unwrap();
        assert_eq!(push, invalidated("node-0", "k"));
    });
}
