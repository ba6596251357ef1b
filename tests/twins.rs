//! What the blocking and the async client must do alike, over real sockets: each scenario is run through both, and compared with
//! what is expected.
#![cfg(feature = "tokio-comp")]

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{AsyncCommands, Commands, IntoConnectionInfo, RedisResult, cmd};
use redis_sharding::{Builder, ErrorKind, Event, ShardedClient, aio};
use socket2::TcpKeepalive;
use support::Servers;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(10);

/// The connections that a client has to one node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Connection {
    Shared,
    Exclusive,
    Dedicated,
    PubSub,
}

const ALL: [Connection; 4] = [
    Connection::Shared,
    Connection::Exclusive,
    Connection::Dedicated,
    Connection::PubSub,
];

enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Runtime),
}

/// Both clients of one description.
fn both(describe: impl Fn() -> Builder) -> [Client; 2] {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    [
        Client::Blocking(describe().build().unwrap()),
        Client::Async(describe().build_async().unwrap(), runtime),
    ]
}

impl Client {
    fn name(&self) -> &'static str {
        match self {
            Self::Blocking(_) => "blocking",
            Self::Async(..) => "async",
        }
    }

    /// Uses a connection of a kind, and gives the kind of the error.
    fn act(&self, connection: Connection) -> Result<(), (ErrorKind, String)> {
        let told = |error: redis::RedisError| (ErrorKind::of(&error), error.to_string());
        let done: RedisResult<()> = match self {
            Self::Blocking(client) => act(client, connection),
            Self::Async(client, runtime) => runtime.block_on(act_async(client, connection)),
        };
        done.map_err(told)
    }

    #[track_caller]
    fn act_on_all(&self) {
        for connection in ALL {
            self.act_now(connection);
        }
    }

    #[track_caller]
    fn act_now(&self, connection: Connection) {
        let done = self.act(connection);
        assert!(done.is_ok(), "{}: {connection:?}: {done:?}", self.name());
    }
}

fn act(client: &ShardedClient, connection: Connection) -> RedisResult<()> {
    match connection {
        Connection::Shared => client.clone().set("k", 1),
        Connection::Exclusive => {
            let mut blpop = cmd("BLPOP");
            blpop.arg("none").arg(0.01).exec(&mut client.clone())
        }
        Connection::Dedicated => client.dedicated("k")?.set("k", 2),
        Connection::PubSub => Ok(client.subscriber().subscribe("news")?),
    }
}

async fn act_async(client: &aio::ShardedClient, connection: Connection) -> RedisResult<()> {
    match connection {
        Connection::Shared => client.clone().set("k", 1).await,
        Connection::Exclusive => {
            let mut blpop = cmd("BLPOP");
            let blpop = blpop.arg("none").arg(0.01);
            blpop.exec_async(&mut client.clone()).await
        }
        Connection::Dedicated => client.dedicated("k").await?.set("k", 2).await,
        Connection::PubSub => Ok(client.subscriber().subscribe("news").await?),
    }
}

/// A server that hangs up on everybody, and counts them.
struct HangUp {
    url: String,
    accepted: Arc<AtomicU32>,
}

impl HangUp {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        let accepted = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&accepted);
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Self { url, accepted }
    }
}

/// How many attempts there can be within `time`, one at a time, with the shortest pauses between them.
fn attempts_within(time: Duration) -> u32 {
    let (mut attempts, mut pause, mut at) = (1, 25, Duration::ZERO);
    loop {
        at += Duration::from_millis(pause);
        if at > time {
            return attempts;
        }
        attempts += 1;
        pause = (2 * pause).min(500);
    }
}

#[test]
fn backoff_of_a_node_is_shared_by_all_pools_and_subscribers() {
    let server = HangUp::start();
    for client in both(|| ShardedClient::builder().node("a", server.url.as_str())) {
        server.accepted.store(0, Ordering::SeqCst);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1200) {
            for connection in ALL {
                let (kind, text) = client.act(connection).unwrap_err();
                let name = client.name();
                assert_eq!(kind, ErrorKind::NodeDown, "{name}: {connection:?}: {text}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        let (accepted, most) = (
            server.accepted.load(Ordering::SeqCst),
            // One may be under way.
            attempts_within(start.elapsed()) + 1,
        );
        let name = client.name();
        assert!(
            (2..=most).contains(&accepted),
            "{name}: {accepted}, not {most}"
        );
    }
}

#[test]
fn backoff_of_a_node_ends_for_all_connections_when_one_reconnects() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    for finder in ALL {
        for client in both(|| support::builder(&servers)) {
            client.act_on_all();
            servers.kill(0);
            let start = Instant::now();
            // So that the pauses are long.
            while start.elapsed() < Duration::from_millis(500) {
                for connection in ALL {
                    client.act(connection).unwrap_err();
                }
                thread::sleep(Duration::from_millis(10));
            }
            servers.restart(0);
            let start = Instant::now();
            while let Err(error) = client.act(finder) {
                assert!(start.elapsed() < PATIENCE, "{}: {error:?}", client.name());
                thread::sleep(Duration::from_millis(5));
            }
            client.act_on_all();
        }
    }
}

#[test]
fn client_kill_of_a_pub_sub_connection_starts_no_backoff_for_other_connections() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("pubsub");
    for client in both(|| support::builder(&servers)) {
        let (mut one, mut other) = (None, None);
        match &client {
            Client::Blocking(client) => {
                one.insert(client.subscriber()).subscribe("news").unwrap();
            }
            Client::Async(client, runtime) => {
                let subscriber = other.insert(client.subscriber());
                runtime.block_on(subscriber.subscribe("news")).unwrap();
            }
        }
        let mut killed = 0;
        let start = Instant::now();
        while killed < 3 {
            killed += kill.query::<i64>(&mut servers.connection(0)).unwrap();
            for _ in 0..5 {
                client.act_now(Connection::Dedicated);
                thread::sleep(Duration::from_millis(3));
            }
            assert!(start.elapsed() < PATIENCE, "{}: {killed}", client.name());
        }
        drop((one, other));
    }
}

#[test]
fn unix_socket_with_tcp_keepalive_settings_works_for_every_connection() {
    let Some(servers) = Servers::builder().unix().start(1) else {
        return;
    };
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(7));
    let own = TcpSettings::default().set_keepalive(keepalive);
    let info = servers.url(0).into_connection_info().unwrap();
    let info = info.set_tcp_settings(own);
    let describe = || {
        ShardedClient::builder()
            .node("a", info.clone())
            .tcp_keepalive(Duration::from_secs(60))
    };
    for client in both(describe) {
        client.act_on_all();
    }
}

#[test]
fn exhausted_pool_of_exclusive_connections_is_a_pool_timeout() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let describe = || {
        support::builder(&servers)
            .blocking_pool_size(1)
            .response_timeout(Duration::from_millis(600))
    };
    for client in both(describe) {
        let (mut one, mut other) = (None, None);
        match &client {
            Client::Blocking(client) => drop(
                one.insert(client.dedicated("k").unwrap())
                    .set::<_, _, ()>("k", 1),
            ),
            Client::Async(client, runtime) => {
                let leased = runtime.block_on(client.dedicated("k")).unwrap();
                let _ = other.insert(leased);
            }
        }
        for connection in [Connection::Exclusive, Connection::Dedicated] {
            let (kind, text) = client.act(connection).unwrap_err();
            let name = client.name();
            assert_eq!(
                kind,
                ErrorKind::PoolTimeout,
                "{name}: {connection:?}: {text}"
            );
        }
        // Nobody waits for these.
        client.act_now(Connection::Shared);
        client.act_now(Connection::PubSub);
        drop((one, other));
        client.act_now(Connection::Exclusive);
    }
}

#[test]
fn next_event_is_none_only_when_nothing_arrives_within_its_timeout() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let publish = |text: &str| {
        let heard: i64 = servers.connection(0).publish("news", text).unwrap();
        assert_eq!(heard, 1);
    };
    let is_text = |event: Option<Event>, text: &str| matches!(event, Some(Event::Message(message)) if message.payload == text.as_bytes());
    let short = Duration::from_millis(50);
    for client in both(|| support::builder(&servers)) {
        let later = || {
            thread::sleep(3 * short);
            publish("later");
        };
        match &client {
            Client::Blocking(client) => {
                let mut subscriber = client.subscriber();
                subscriber.subscribe("news").unwrap();
                assert_eq!(subscriber.next_event(short), None);
                publish("now");
                assert!(is_text(subscriber.next_event(PATIENCE), "now"));
                thread::scope(|scope| {
                    scope.spawn(later);
                    assert!(is_text(subscriber.next_event(None), "later"));
                });
                assert_eq!(subscriber.next_event(Duration::ZERO), None);
            }
            Client::Async(client, runtime) => {
                let mut subscriber = client.subscriber();
                runtime.block_on(subscriber.subscribe("news")).unwrap();
                let mut next =
                    |limit: Option<Duration>| runtime.block_on(subscriber.next_event(limit));
                assert_eq!(next(Some(short)), None);
                publish("now");
                assert!(is_text(next(Some(PATIENCE)), "now"));
                thread::scope(|scope| {
                    scope.spawn(later);
                    assert!(is_text(next(None), "later"));
                });
                assert_eq!(next(Some(Duration::ZERO)), None);
            }
        }
    }
}
