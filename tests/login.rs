//! What connections present to their servers: the name of the client, usernames and passwords, and credentials that
//! change. For both clients, in RESP2 and RESP3, on every kind of connection.
#![cfg(feature = "tokio-comp")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::{AsyncCommands, Commands, RedisError, RedisResult, cmd};
use redis_sharding::{
    Builder, Credentials, CredentialsError, CredentialsProvider, Dedicated, ErrorKind,
    RotatingCredentials, ShardedClient, Subscriber, aio,
};
use support::{Servers, builder_over};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(10);

/// Both clients behind one face.
enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Runtime),
}

/// A connection that is held, and a subscriber.
enum Held {
    Blocking(Dedicated, Subscriber),
    Async(aio::Dedicated, aio::Subscriber),
}

/// Both clients of one description, for each version of the protocol.
fn each(servers: &Servers, describe: impl Fn(Builder) -> Builder, mut check: impl FnMut(&Client)) {
    for protocol in ["resp2", "resp3"] {
        let urls = || {
            let with = |url: String| format!("{url}?protocol={protocol}");
            servers.urls().into_iter().map(with)
        };
        let blocking = describe(builder_over(urls())).build().unwrap();
        check(&Client::Blocking(blocking));
        let client = describe(builder_over(urls())).build_async().unwrap();
        check(&Client::Async(client, Runtime::new().unwrap()));
    }
}

impl Client {
    fn run(&self, words: &[&str]) -> RedisResult<redis::Value> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        match self {
            Self::Blocking(client) => command.query(&mut client.clone()),
            Self::Async(client, runtime) => {
                runtime.block_on(command.query_async(&mut client.clone()))
            }
        }
    }

    /// Uses a shared and an exclusive connection.
    fn use_pools(&self) -> RedisResult<()> {
        self.run(&["SET", "k", "1"])?;
        self.run(&["BLPOP", "none", "0.01"]).map(drop)
    }

    fn hold(&self) -> Held {
        match self {
            Self::Blocking(client) => {
                let mut held = client.dedicated("k").unwrap();
                let () = held.set("k", 2).unwrap();
                let mut subscriber = client.subscriber();
                subscriber.subscribe("news").unwrap();
                Held::Blocking(held, subscriber)
            }
            Self::Async(client, runtime) => runtime.block_on(async {
                let mut held = client.dedicated("k").await.unwrap();
                let () = held.set("k", 2).await.unwrap();
                let mut subscriber = client.subscriber();
                subscriber.subscribe("news").await.unwrap();
                Held::Async(held, subscriber)
            }),
        }
    }

    /// Uses the connection that is held.
    fn use_held(&self, held: &mut Held) -> RedisResult<()> {
        match (self, held) {
            (Self::Blocking(_), Held::Blocking(held, _)) => held.set("k", 3),
            (Self::Async(_, runtime), Held::Async(held, _)) => {
                runtime.block_on(async { held.set("k", 3).await })
            }
            _ => unreachable!("both are of one client"),
        }
    }

    /// Waits until the subscriber has subscribed again after its connection broke.
    fn wait_resubscribed(&self, held: &mut Held) {
        let is_missed = |event| matches!(event, redis_sharding::Event::Missed { .. });
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "not subscribed again");
            let event = match (self, &mut *held) {
                (Self::Blocking(_), Held::Blocking(_, subscriber)) => {
                    subscriber.next_event(PATIENCE)
                }
                (Self::Async(_, runtime), Held::Async(_, subscriber)) => {
                    runtime.block_on(subscriber.next_event(Some(PATIENCE)))
                }
                _ => unreachable!("both are of one client"),
            };
            if event.is_some_and(is_missed) {
                return;
            }
        }
    }
}

/// A field of every connection to the server but the one that asks: of those for commands, and of subscribers.
fn fields(direct: &mut redis::Connection, field: &str) -> (Vec<String>, Vec<String>) {
    let list: String = cmd("CLIENT").arg("LIST").query(direct).unwrap();
    let get = |line: &str, field: &str| {
        let start = format!("{field}=");
        let value = line.split(' ').find_map(|word| word.strip_prefix(&start));
        value.unwrap_or_default().to_owned()
    };
    let others = list.lines().filter(|line| get(line, "name") != "observer");
    let (subscribers, normal): (Vec<&str>, Vec<&str>) =
        others.partition(|line| get(line, "sub") != "0");
    let of = |lines: Vec<&str>| lines.into_iter().map(|line| get(line, field)).collect();
    (of(normal), of(subscribers))
}

fn observer(servers: &Servers) -> redis::Connection {
    let mut direct = servers.connection(0);
    let mut name = cmd("CLIENT");
    name.arg("SETNAME")
        .arg("observer")
        .exec(&mut direct)
        .unwrap();
    direct
}

fn kill_all(direct: &mut redis::Connection) {
    for kind in ["normal", "pubsub"] {
        let mut kill = cmd("CLIENT");
        kill.arg(&["KILL", "TYPE", kind]).exec(direct).unwrap();
    }
}

fn all_are(found: &[String], expected: &str) -> bool {
    !found.is_empty() && found.iter().all(|found| found == expected)
}

#[test]
fn client_name_is_set_on_every_connection_and_again_after_each_reconnect() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut direct = observer(&servers);
    each(
        &servers,
        |builder| builder.client_name("web"),
        |client| {
            let mut held = client.hold();
            client.use_pools().unwrap();
            let (normal, subscribers) = fields(&mut direct, "name");
            assert!(
                normal.len() >= 3,
                "shared, exclusive, dedicated: {normal:?}"
            );
            assert!(all_are(&normal, "web") && all_are(&subscribers, "web"));
            kill_all(&mut direct);
            client.wait_resubscribed(&mut held);
            // Reads: a write may have had an unknown outcome.
            let start = Instant::now();
            while client.run(&["GET", "k"]).is_err()
                || client.run(&["BLPOP", "none", "0.01"]).is_err()
            {
                assert!(start.elapsed() < PATIENCE);
            }
            let (normal, subscribers) = fields(&mut direct, "name");
            assert!(all_are(&normal, "web") && all_are(&subscribers, "web"));
        },
    );
}

#[test]
fn client_setname_renames_the_connections_of_a_client_and_getname_returns_it() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut direct = observer(&servers);
    each(
        &servers,
        |builder| builder,
        |client| {
            assert_eq!(
                client.run(&["CLIENT", "GETNAME"]).unwrap(),
                redis::Value::Nil
            );
            let mut held = client.hold();
            client.use_pools().unwrap();
            let ids = fields(&mut direct, "id").0;
            client.run(&["client", "setname", "worker-1"]).unwrap();
            let name: String =
                redis::from_redis_value(client.run(&["CLIENT", "GETNAME"]).unwrap()).unwrap();
            assert_eq!(name, "worker-1");
            client.use_pools().unwrap();
            client.use_held(&mut held).unwrap();
            let (normal, subscribers) = fields(&mut direct, "name");
            assert!(all_are(&normal, "worker-1"), "{normal:?}");
            assert_eq!(
                fields(&mut direct, "id").0,
                ids,
                "the connections are the same"
            );
            // A subscribed connection cannot be renamed; the next one has the name.
            assert!(all_are(&subscribers, ""), "{subscribers:?}");
            kill_all(&mut direct);
            client.wait_resubscribed(&mut held);
            assert!(all_are(&fields(&mut direct, "name").1, "worker-1"));

            let error = client.run(&["CLIENT", "SETNAME", "a b"]).unwrap_err();
            let server = cmd("CLIENT").arg(&["SETNAME", "a b"]).exec(&mut direct);
            let server = server.unwrap_err();
            assert_eq!(
                (error.code(), error.detail()),
                (server.code(), server.detail())
            );
            let start = Instant::now();
            while client.run(&["GET", "k"]).is_err() {
                assert!(start.elapsed() < PATIENCE);
            }
            client.run(&["CLIENT", "SETNAME", ""]).unwrap();
            assert_eq!(
                client.run(&["CLIENT", "GETNAME"]).unwrap(),
                redis::Value::Nil
            );
            client.run(&["GET", "k"]).unwrap();
            let info = client.run(&["CLIENT", "INFO"]).unwrap();
            let info: String = redis::from_redis_value(info).unwrap();
            assert!(
                info.contains(" name= ") && info.contains(" db=0 "),
                "{info}"
            );
        },
    );
}

#[test]
fn client_commands_about_one_connection_are_refused_with_what_to_do_instead() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    each(
        &servers,
        |builder| builder,
        |client| {
            for (words, instead) in [
                (&["CLIENT", "ID"][..], "client.dedicated(key)?"),
                (&["CLIENT", "NO-EVICT", "ON"], "client.dedicated(key)?"),
                (&["CLIENT", "NO-TOUCH", "ON"], "client.dedicated(key)?"),
                (&["CLIENT", "TRACKING", "ON"], "client.dedicated(key)?"),
                (&["CLIENT", "GETREDIR"], "client.dedicated(key)?"),
                (&["CLIENT", "SETINFO", "LIB-NAME", "x"], "set_lib_name"),
                (&["AUTH", "hunter2"], "Builder::credentials"),
                (&["HELLO", "3"], "?protocol=resp3"),
                (&["SELECT", "1"], "redis://host/1"),
                (&["MULTI"], "redis::pipe().atomic()"),
                (&["EXEC"], "redis::pipe().atomic()"),
                (&["SUBSCRIBE", "news"], "client.subscriber()"),
            ] {
                let error = client.run(words).unwrap_err();
                assert_eq!(ErrorKind::of(&error), ErrorKind::Stateful, "{words:?}");
                let text = error.to_string();
                assert!(text.contains(instead), "{words:?}: {text}");
                assert!(!text.contains("hunter2"), "{text}");
            }
        },
    );
}

/// Two ACL users besides the default one.
fn add_users(direct: &mut redis::Connection) {
    for (user, password) in [("one", ">first"), ("two", ">second")] {
        let mut rule = cmd("ACL");
        rule.arg(&["SETUSER", user, "on", password, "~*", "&*", "+@all"]);
        rule.exec(direct).unwrap();
    }
}

#[test]
fn username_and_password_of_the_builder_authenticate_all_connections() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut direct = observer(&servers);
    add_users(&mut direct);
    each(
        &servers,
        |builder| builder.username("one").password("first"),
        |client| {
            client.use_pools().unwrap();
            let _held = client.hold();
            let (normal, subscribers) = fields(&mut direct, "user");
            assert!(all_are(&normal, "one") && all_are(&subscribers, "one"));
        },
    );
    each(
        &servers,
        |builder| builder.username("one").password("hunter2"),
        |client| assert_refused(client.run(&["GET", "k"]).unwrap_err(), "hunter2"),
    );
}

fn assert_refused(error: RedisError, secret: &str) {
    assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{error}");
    for shown in [error.to_string(), format!("{error:?}")] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn rotated_credentials_are_presented_on_live_connections_before_their_next_request() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut direct = observer(&servers);
    add_users(&mut direct);
    let credentials = RotatingCredentials::new(Credentials::new("one", "first"));
    each(
        &servers,
        |builder| builder.credentials(credentials.clone()),
        |client| {
            credentials.rotate(Credentials::new("one", "first"));
            let mut held = client.hold();
            client.use_pools().unwrap();
            let ids = fields(&mut direct, "id");
            assert!(all_are(&fields(&mut direct, "user").0, "one"));
            credentials.rotate(Credentials::new("two", "second"));
            client.use_pools().unwrap();
            client.use_held(&mut held).unwrap();
            assert!(all_are(&fields(&mut direct, "user").0, "two"));
            assert_eq!(
                fields(&mut direct, "id"),
                ids,
                "the connections are the same"
            );
            // A subscriber's connection stays as it is; the next one is the new user's.
            assert!(all_are(&fields(&mut direct, "user").1, "one"));
            kill_all(&mut direct);
            client.wait_resubscribed(&mut held);
            assert!(all_are(&fields(&mut direct, "user").1, "two"));

            // Refused ones: the node fails, until they are right again.
            let start = Instant::now();
            while client.run(&["GET", "k"]).is_err() {
                assert!(start.elapsed() < PATIENCE);
            }
            credentials.rotate(Credentials::new("two", "hunter2"));
            assert_refused(client.run(&["SET", "k", "4"]).unwrap_err(), "hunter2");
            assert_refused(
                client.run(&["BLPOP", "none", "0.01"]).unwrap_err(),
                "hunter2",
            );
            credentials.rotate(Credentials::new("two", "second"));
            let start = Instant::now();
            while client.use_pools().is_err() {
                assert!(start.elapsed() < PATIENCE, "the right password is not used");
                std::thread::sleep(Duration::from_millis(5));
            }
        },
    );
}

#[test]
fn rotated_credentials_wait_for_the_end_of_a_transaction_on_a_dedicated_connection() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut direct = observer(&servers);
    add_users(&mut direct);
    let credentials = RotatingCredentials::new(Credentials::new("one", "first"));
    let builder = support::builder(&servers).credentials(credentials.clone());
    let client = builder.build().unwrap();
    let mut held = client.dedicated("k").unwrap();
    cmd("WATCH").arg("k").exec(&mut held).unwrap();
    cmd("MULTI").exec(&mut held).unwrap();
    credentials.rotate(Credentials::new("two", "second"));
    cmd("SET").arg("k").arg(1).exec(&mut held).unwrap();
    let done: Vec<String> = cmd("EXEC").query(&mut held).unwrap();
    assert_eq!(done, ["OK"]);
    assert!(all_are(&fields(&mut direct, "user").0, "one"));
    let () = held.set("k", 2).unwrap();
    assert!(all_are(&fields(&mut direct, "user").0, "two"));
    // Its user has chosen another one.
    cmd("AUTH").arg("one").arg("first").exec(&mut held).unwrap();
    credentials.rotate(Credentials::new("two", "second"));
    let () = held.set("k", 3).unwrap();
    assert!(all_are(&fields(&mut direct, "user").0, "one"));
}

/// Has nothing to give.
struct Sealed;

impl CredentialsProvider for Sealed {
    fn credentials(&self, node: &str) -> Result<Credentials, CredentialsError> {
        Err(format!("the vault has nothing for {node}").into())
    }
}

#[test]
fn credentials_provider_without_credentials_fails_requests_with_its_reason() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    each(
        &servers,
        |builder| builder.credentials(Sealed),
        |client| {
            let error = client.run(&["GET", "k"]).unwrap_err();
            assert_eq!(ErrorKind::of(&error), ErrorKind::Auth);
            let text = error.to_string();
            assert!(text.contains("the vault has nothing for node-0"), "{text}");
        },
    );
}

/// Has the credentials of a user, or panics while it is broken.
#[derive(Clone, Default)]
struct Breakable(Arc<AtomicBool>);

impl CredentialsProvider for Breakable {
    fn credentials(&self, _: &str) -> Result<Credentials, CredentialsError> {
        assert!(!self.0.load(Ordering::Relaxed), "broken");
        Ok(Credentials::new("one", "first"))
    }

    fn version(&self) -> u64 {
        self.0.load(Ordering::Relaxed).into()
    }
}

#[test]
fn credentials_provider_that_panics_has_no_credentials_and_takes_no_connection_along() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    add_users(&mut observer(&servers));
    let provider = Breakable::default();
    each(
        &servers,
        |builder| builder.pool_size(1).credentials(provider.clone()),
        |client| {
            client.use_pools().unwrap();
            provider.0.store(true, Ordering::Relaxed);
            for _ in 0..3 {
                let error = client.run(&["GET", "k"]).unwrap_err();
                assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{error}");
                assert!(error.to_string().contains("panicked"), "{error}");
            }
            provider.0.store(false, Ordering::Relaxed);
            let start = Instant::now();
            while let Err(error) = client.use_pools() {
                assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{error}");
                assert!(start.elapsed() < PATIENCE, "{error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        },
    );
}

#[tokio::test]
async fn rotated_credentials_in_a_request_without_time_cost_the_others_no_connection() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut direct = observer(&servers);
    add_users(&mut direct);
    let credentials = RotatingCredentials::new(Credentials::new("one", "first"));
    let builder = support::builder(&servers).credentials(credentials.clone());
    let client = builder.build_async().unwrap();
    let () = client.clone().set("k", 0).await.unwrap();
    let mut accepted = || {
        let info: redis::InfoDict = cmd("INFO").arg("stats").query(&mut direct).unwrap();
        info.get::<u64>("total_connections_received").unwrap()
    };
    let before = accepted();
    credentials.rotate(Credentials::new("two", "second"));
    servers.pause(0);
    let hasty = async {
        let mut hasty = client.with_timeout(Duration::from_millis(20));
        hasty.get::<_, Option<String>>("k").await
    };
    let patient = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.clone().set::<_, _, ()>("k", 1).await
    };
    let resume = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        servers.resume(0);
    };
    let (hasty, patient, ()) = tokio::join!(hasty, patient, resume);
    assert_eq!(ErrorKind::of(&hasty.unwrap_err()), ErrorKind::Timeout);
    patient.unwrap();
    let value: i32 = client.clone().get("k").await.unwrap();
    assert_eq!((value, accepted()), (1, before));
    assert!(all_are(&fields(&mut direct, "user").0, "two"));
}

#[test]
fn builder_refuses_settings_of_the_login_that_contradict_one_another() {
    let builder = || ShardedClient::builder().node("a", "redis://h:1");
    let rotating = || RotatingCredentials::new(Credentials::of_default_user("hunter2"));
    for (builder, what) in [
        (builder().username("app"), "no password"),
        (builder().client_name("a b"), "printable ASCII"),
        (
            builder().credentials(rotating()).password("hunter2"),
            "Builder::credentials",
        ),
        (
            builder().credentials(rotating()).username("app"),
            "Builder::credentials",
        ),
    ] {
        let shown = format!("{builder:?}");
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(what), "{error}");
        for text in [error.to_string(), shown] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    // What the URL says goes first.
    let own = ShardedClient::builder().node("a", "redis://other:own@h:1");
    own.credentials(rotating()).build().unwrap();
}
