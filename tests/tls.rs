//! Nodes behind TLS, by both clients and the proxy, with both libraries where both are compiled in.

mod support;

use redis_sharding::{ErrorKind, ShardedClient};

/// What is said of `rediss://` where nothing was compiled in for it.
#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
#[test]
fn rediss_node_without_a_tls_feature_is_a_config_error_that_names_the_features() {
    let topology =
        "redis-sharding topology 1\nplacement rendezvous/1\nnode a rediss://10.0.0.1:6379\n";
    let topology: redis_sharding::Topology = topology.parse().unwrap();
    for builder in [
        ShardedClient::builder().node("a", "rediss://10.0.0.1/"),
        ShardedClient::builder().unnamed_node("rediss://10.0.0.1/"),
        ShardedClient::builder().topology(&topology),
        ShardedClient::builder().node(
            "a",
            redis::ConnectionAddr::TcpTls {
                host: "10.0.0.1".into(),
                port: 6379,
                insecure: false,
                tls_params: None,
            },
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for feature in ["tls-rustls", "tls-native-tls", "tokio-rustls-comp"] {
            assert!(error.to_string().contains(feature), "{error}");
        }
    }
}

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
mod nodes {
    use std::thread;
    use std::time::{Duration, Instant};

    use redis::{ClientTlsConfig, Commands, ConnectionLike, TlsCertificates, Value, cmd};
    use redis_sharding::{Builder, Event, TlsBackend};

    use super::support::Servers;
    use super::support::authority::Authority;
    use super::support::relay::Relay;
    use super::{ErrorKind, ShardedClient};

    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// Attempts to connect while a node refuses for a second and a half: the pauses grow from 50 ms to a second.
    pub const ATTEMPTS_MAX: usize = 12;

    /// One way to do it.
    #[derive(Clone, Copy, Debug)]
    pub struct Way {
        pub backend: TlsBackend,
        pub protocol: &'static str,
    }

    /// Every library that is compiled in, with both protocols.
    pub fn ways() -> Vec<Way> {
        let mut backends = Vec::new();
        if cfg!(feature = "tls-rustls") {
            backends.push(TlsBackend::Rustls);
        }
        if cfg!(feature = "tls-native-tls") {
            backends.push(TlsBackend::NativeTls);
        }
        let way = |backend| ["resp2", "resp3"].map(|protocol| Way { backend, protocol });
        backends.into_iter().flat_map(way).collect()
    }

    /// One for each library.
    pub fn backends() -> Vec<Way> {
        let mut ways = ways();
        ways.retain(|way| way.protocol == "resp3");
        ways
    }

    /// How many replies [`large_both_ways`] gets.
    pub const LARGE_REPLIES: usize = 32;

    /// A pipeline of 12 MB that is answered with 20 MB: more than the buffers between the two hold. Few large replies, as
    /// Redis 7.0 itself drops TLS clients that are slow to take many small ones ("bad length" in its log).
    pub fn large_both_ways() -> redis::Pipeline {
        let value = vec![b'x'; 1_000_000];
        let mut pipeline = redis::pipe();
        for _ in 0..12 {
            pipeline.set("k", &value);
        }
        for _ in 12..LARGE_REPLIES {
            pipeline.get("k");
        }
        pipeline
    }

    pub fn trusting(authority: &Authority) -> TlsCertificates {
        TlsCertificates {
            client_tls: None,
            root_cert: Some(authority.pem().into_bytes()),
        }
    }

    pub fn with_certificate(authority: &Authority) -> TlsCertificates {
        let issued = authority.issue(&["client"]);
        TlsCertificates {
            client_tls: Some(ClientTlsConfig {
                client_cert: issued.certificate.into_bytes(),
                client_key: issued.key.into_bytes(),
            }),
            ..trusting(authority)
        }
    }

    /// A certificate that a server of `authority` refuses, as `stranger` has signed it.
    pub fn with_foreign_certificate(
        authority: &Authority,
        stranger: &Authority,
    ) -> TlsCertificates {
        TlsCertificates {
            client_tls: with_certificate(stranger).client_tls,
            ..trusting(authority)
        }
    }

    /// Nodes called `node-0`, `node-1`, ... at these addresses.
    pub fn builder_at(way: Way, addrs: impl IntoIterator<Item = String>) -> Builder {
        let builder = ShardedClient::builder().tls_backend(way.backend);
        (0..).zip(addrs).fold(builder, |builder, (number, addr)| {
            let url = format!("rediss://{addr}/?protocol={}", way.protocol);
            builder.node(format!("node-{number}"), url)
        })
    }

    pub fn builder(way: Way, servers: &Servers) -> Builder {
        builder_at(way, (0..servers.len()).map(|index| servers.tls_addr(index)))
    }

    pub fn client(way: Way, servers: &Servers, authority: &Authority) -> ShardedClient {
        let builder = builder(way, servers).tls_certificates(trusting(authority));
        builder.build().unwrap()
    }

    fn start(count: usize) -> Option<(Servers, Authority)> {
        let authority = Authority::new("the tests' own");
        let servers = Servers::builder().tls(&authority, false).start(count)?;
        Some((servers, authority))
    }

    fn connections_made(servers: &Servers, index: usize) -> u64 {
        let info: redis::InfoDict = cmd("INFO")
            .arg("stats")
            .query(&mut servers.connection(index))
            .unwrap();
        info.get("total_connections_received").unwrap()
    }

    #[test]
    fn blocking_client_commands_pipelines_and_large_values_work_over_tls() {
        let Some((servers, authority)) = start(2) else {
            return;
        };
        for way in ways() {
            let mut client = client(way, &servers, &authority);
            let pairs: Vec<(String, i64)> = (0..50).map(|n| (format!("key:{n}"), n)).collect();
            let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
            let () = client.mset(&pairs).unwrap();
            let values: Vec<i64> = client.mget(&keys).unwrap();
            assert_eq!(values, (0..50).collect::<Vec<_>>(), "{way:?}");
            let large = vec![b'x'; 6_000_000];
            let () = client.set("large", &large).unwrap();
            assert_eq!(client.get::<_, Vec<u8>>("large").unwrap(), large, "{way:?}");
            let (one, two): (i64, Value) = redis::pipe()
                .cmd("INCR")
                .arg("counter")
                .cmd("HGETALL")
                .arg("nothing")
                .query(&mut client)
                .unwrap();
            assert!(one > 0);
            match way.protocol {
                "resp2" => assert_eq!(two, Value::Array(Vec::new())),
                _ => assert_eq!(two, Value::Map(Vec::new())),
            }
            let over_tls: u64 = client.del(&keys).unwrap();
            assert_eq!(over_tls, 50);
        }
    }

    #[test]
    fn blpop_timeout_and_exec_after_a_watch_conflict_are_nil_over_tls() {
        let Some((servers, authority)) = start(2) else {
            return;
        };
        for way in ways() {
            let mut client = client(way, &servers, &authority);
            let blpop = cmd("BLPOP").arg("nothing").arg(0.05).clone();
            assert_eq!(blpop.query::<Value>(&mut client), Ok(Value::Nil), "{way:?}");
            let () = client.del("k").unwrap();
            let mut dedicated = client.dedicated("k").unwrap();
            assert_eq!(
                cmd("BLPOP").arg("k").arg(0.05).query(&mut dedicated),
                Ok(Value::Nil),
                "{way:?}"
            );
            let () = cmd("WATCH").arg("k").query(&mut dedicated).unwrap();
            let () = client.set("k", "theirs").unwrap();
            let mut pipeline = redis::pipe();
            pipeline.atomic().set("k", "mine");
            let values: Value = pipeline.query(&mut dedicated).unwrap();
            assert_eq!(values, Value::Nil, "{way:?}");
            assert_eq!(client.get("k"), Ok("theirs".to_owned()), "{way:?}");

            let mut attempts = 0;
            let mut other = client.clone();
            let () = client
                .transaction("k", |connection, pipeline| {
                    attempts += 1;
                    if attempts == 1 {
                        let () = other.set("k", "again")?;
                    }
                    pipeline.set("k", "mine").ignore().query(connection)
                })
                .unwrap();
            assert_eq!(attempts, 2, "{way:?}");
            assert_eq!(client.get("k"), Ok("mine".to_owned()), "{way:?}");
        }
    }

    #[test]
    fn subscriber_works_over_tls_and_reconnects_after_a_restart() {
        let Some((servers, authority)) = start(2) else {
            return;
        };
        for way in ways() {
            let mut client = client(way, &servers, &authority);
            let mut subscriber = client.subscriber();
            subscriber.subscribe("news").unwrap();
            subscriber.psubscribe("weather:*").unwrap();
            let large = "x".repeat(3_000_000);
            for (channel, text) in [("news", "hello"), ("weather:here", &large)] {
                let _: i64 = client.publish(channel, text).unwrap();
                match subscriber.next_event(PATIENCE) {
                    Some(Event::Message(message)) => {
                        assert_eq!(message.channel, channel.as_bytes(), "{way:?}");
                        assert_eq!(message.payload, text.as_bytes(), "{way:?}");
                    }
                    other => panic!("{way:?}: no message but {other:?}"),
                }
            }
            // Many names in one request, while a thread reads from the same connection.
            let names: Vec<String> = (0..5000).map(|n| format!("channel:{n:0100}")).collect();
            subscriber.subscribe(&names).unwrap();
            servers.restart(0);
            let gone = subscriber.next_event(PATIENCE);
            assert!(
                matches!(gone, Some(Event::Disconnected { .. })),
                "{way:?}: {gone:?}"
            );
            let missed = subscriber.next_event(PATIENCE);
            assert!(
                matches!(missed, Some(Event::Missed { .. })),
                "{way:?}: {missed:?}"
            );
        }
    }

    #[test]
    fn dedicated_connection_over_tls_receives_messages_and_takes_commands_again() {
        let Some((servers, authority)) = start(1) else {
            return;
        };
        for way in ways() {
            let client = client(way, &servers, &authority);
            let mut dedicated = client.dedicated("news").unwrap();
            {
                let mut listener = dedicated.as_pubsub().unwrap();
                listener.subscribe(&["news", "more"]).unwrap();
                listener.psubscribe("weather:*").unwrap();
                for channel in ["news", "weather:here", "more"] {
                    let _: i64 = client.clone().publish(channel, "hello").unwrap();
                    let message = listener.get_message().unwrap();
                    assert_eq!(message.get_channel_name(), channel, "{way:?}");
                    assert_eq!(message.get_payload::<String>(), Ok("hello".to_owned()));
                }
                let short = Duration::from_millis(30);
                listener.set_read_timeout(Some(short)).unwrap();
                assert!(listener.get_message().unwrap_err().is_timeout(), "{way:?}");
                let _: i64 = client.clone().publish("news", "late").unwrap();
                listener.set_read_timeout(Some(PATIENCE)).unwrap();
                let late = listener.get_message().unwrap();
                assert_eq!(
                    late.get_payload::<String>(),
                    Ok("late".to_owned()),
                    "{way:?}"
                );
            }
            let () = cmd("SET").arg("news").arg(1).query(&mut dedicated).unwrap();
            assert_eq!(
                cmd("GET").arg("news").query(&mut dedicated),
                Ok(1),
                "{way:?}"
            );
        }
    }

    #[test]
    fn pipeline_larger_than_the_socket_buffers_does_not_hang_over_tls() {
        let Some((servers, authority)) = start(1) else {
            return;
        };
        for way in backends() {
            let mut client = client(way, &servers, &authority);
            let pipeline = large_both_ways();
            let values: Vec<Value> = pipeline.query(&mut client).unwrap();
            assert_eq!(values.len(), LARGE_REPLIES, "{way:?}");
            let mut dedicated = client.dedicated("k").unwrap();
            let values: Vec<Value> = pipeline.query(&mut dedicated).unwrap();
            assert_eq!(values.len(), LARGE_REPLIES, "{way:?}");
            let mut atomic = large_both_ways();
            let values: Vec<Value> = atomic.atomic().query(&mut client).unwrap();
            assert_eq!(values.len(), LARGE_REPLIES, "{way:?}");
        }
    }

    #[test]
    fn tls_session_tickets_do_not_cause_a_new_connection() {
        let Some((servers, authority)) = start(1) else {
            return;
        };
        for way in backends() {
            let mut client = client(way, &servers, &authority);
            let () = client.set("k", 1).unwrap();
            let before = connections_made(&servers, 0);
            for _ in 0..3 {
                // Longer than a connection may lie unused without being looked at.
                thread::sleep(Duration::from_millis(80));
                let () = client.set("k", 1).unwrap();
            }
            // One is that which asks.
            assert_eq!(connections_made(&servers, 0) - before, 1, "{way:?}");
        }
    }

    #[test]
    fn tls_connection_closed_by_the_server_is_not_reused() {
        let Some((servers, authority)) = start(1) else {
            return;
        };
        for way in ways() {
            let mut client = client(way, &servers, &authority);
            for round in 0..3 {
                let () = client.incr("k", 1).unwrap();
                let () = client.rpush("list", 1).unwrap();
                let _: Value = cmd("BLPOP").arg("list").arg(1).query(&mut client).unwrap();
                let killed: u64 = cmd("CLIENT")
                    .arg(&["KILL", "TYPE", "normal"])
                    .query(&mut servers.connection(0))
                    .unwrap();
                assert!(killed >= 2, "both connections were there: {killed}");
                thread::sleep(Duration::from_millis(80));
                let incremented = client.incr::<_, _, i64>("k", 1);
                assert!(incremented.is_ok(), "{way:?}, {round}: {incremented:?}");
                let () = client.rpush("list", 1).unwrap();
                let popped = cmd("BLPOP").arg("list").arg(1).query::<Value>(&mut client);
                assert!(popped.is_ok(), "{way:?}, {round}: {popped:?}");
            }
        }
    }

    #[test]
    fn paused_tls_server_is_a_timeout_within_the_response_timeout() {
        let Some((servers, authority)) = start(1) else {
            return;
        };
        for way in backends() {
            let builder = builder(way, &servers).tls_certificates(trusting(&authority));
            let builder = builder.response_timeout(Duration::from_millis(300));
            let mut client = builder.build().unwrap();
            let () = client.set("k", 1).unwrap();
            servers.pause(0);
            let begun = Instant::now();
            // More than the buffers between the two hold.
            let large = vec![0; 50_000_000];
            let large = client.set::<_, _, ()>("large", large).unwrap_err();
            let small = client.get::<_, i64>("k").unwrap_err();
            let took = begun.elapsed();
            servers.resume(0);
            assert!(
                large.to_string().contains("no reply in time"),
                "{way:?}: {large}"
            );
            assert_eq!(
                ErrorKind::of(&small),
                ErrorKind::Timeout,
                "{way:?}: {small}"
            );
            assert!(took < Duration::from_secs(5), "{way:?}: {took:?}");
        }
    }

    /// It is an I/O error as in redis-rs, but none that goes away.
    #[track_caller]
    pub fn is_refused(error: &redis::RedisError) {
        assert!(error.is_io_error(), "{error}");
        assert!(
            !error.is_timeout() && !error.is_connection_dropped(),
            "{error}"
        );
        assert!(
            matches!(error.retry_method(), redis::RetryMethod::NoRetry),
            "{error}"
        );
        let inner = redis_sharding::Error::of(error).unwrap();
        assert!(
            !inner.is_retryable() && inner.node() == Some("node-0"),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("tls_certificates") && !text.contains("is back"),
            "{text}"
        );
    }

    /// Asks for a second and a half; the last error.
    fn refused(client: &mut ShardedClient) -> redis::RedisError {
        let begun = Instant::now();
        loop {
            let error = client.get::<_, i64>("k").unwrap_err();
            if begun.elapsed() > Duration::from_millis(1500) {
                return error;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn untrusted_tls_certificate_is_an_auth_error_and_respects_the_backoff() {
        let Some((servers, _)) = start(1) else {
            return;
        };
        let stranger = Authority::new("a stranger");
        for way in backends() {
            let relay = Relay::start(&servers.tls_addr(0));
            let builder = builder_at(way, [relay.addr()])
                .tls_certificates(trusting(&stranger))
                .tls_server_name("localhost");
            let mut client = builder.build().unwrap();
            let error = refused(&mut client);
            assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{way:?}: {error}");
            is_refused(&error);
            for word in [
                "node-0",
                &relay.addr(),
                "certificate of the server was refused",
                "tls_certificates",
            ] {
                assert!(error.to_string().contains(word), "{way:?}: {error}");
            }
            let attempts = relay.accepted();
            assert!(
                (1..=ATTEMPTS_MAX).contains(&attempts),
                "{way:?}: {attempts}"
            );

            let mut subscriber = client.subscriber();
            let error = subscriber.subscribe("news").unwrap_err();
            assert!(
                error.to_string().contains("certificate"),
                "{way:?}: {error}"
            );
            thread::sleep(Duration::from_millis(1500));
            let more = relay.accepted() - attempts;
            assert!((1..=ATTEMPTS_MAX).contains(&more), "{way:?}: {more}");
        }
    }

    #[test]
    fn tls_client_certificate_is_sent_or_its_absence_is_reported() {
        let authority = Authority::new("the tests' own");
        let Some(servers) = Servers::builder().tls(&authority, true).start(1) else {
            return;
        };
        for way in ways() {
            let relay = Relay::start(&servers.tls_addr(0));
            let at_relay = || builder_at(way, [relay.addr()]).tls_server_name("localhost");
            let builder = at_relay().tls_certificates(with_certificate(&authority));
            let mut client = builder.build().unwrap();
            let () = client.set("k", 1).unwrap();
            let mut subscriber = client.subscriber();
            subscriber.subscribe("news").unwrap();

            let before = relay.accepted();
            let mut client = at_relay()
                .tls_certificates(trusting(&authority))
                .build()
                .unwrap();
            let error = refused(&mut client);
            assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{way:?}: {error}");
            is_refused(&error);
            let error = error.to_string();
            assert!(error.contains("node-0"), "{way:?}: {error}");
            assert!(
                error.to_lowercase().contains("certificate"),
                "{way:?}: {error}"
            );
            let mut subscriber = client.subscriber();
            assert!(subscriber.subscribe("news").is_err(), "{way:?}");
            let attempts = relay.accepted() - before;
            assert!(
                (2..=2 * ATTEMPTS_MAX).contains(&attempts),
                "{way:?}: {attempts}"
            );
        }
    }

    #[test]
    fn tls_client_certificate_that_the_server_refuses_is_an_auth_error_and_says_so() {
        let authority = Authority::new("the tests' own");
        let stranger = Authority::new("a stranger");
        let Some(servers) = Servers::builder().tls(&authority, true).start(1) else {
            return;
        };
        for way in ways() {
            let certificates = with_foreign_certificate(&authority, &stranger);
            let builder = builder(way, &servers).tls_certificates(certificates);
            let mut client = builder.build().unwrap();
            for error in [(); 3].map(|()| client.get::<_, i64>("k").unwrap_err()) {
                assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{way:?}: {error}");
                is_refused(&error);
                let text = "the server refused the certificate of this client";
                assert!(error.to_string().contains(text), "{way:?}: {error}");
            }
        }
    }

    #[test]
    fn node_tls_certificates_apply_to_one_node() {
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        let start = |authority| Servers::builder().tls(authority, true).start(1);
        let (Some(first), Some(second)) = (start(&one), start(&two)) else {
            return;
        };
        for way in backends() {
            let addrs = [first.tls_addr(0), second.tls_addr(0)];
            let builder = builder_at(way, addrs)
                .tls_certificates(with_certificate(&one))
                .node_tls_certificates("node-1", with_certificate(&two));
            let mut client = builder.build().unwrap();
            for key in 0..20 {
                let () = client.set(key, key).unwrap();
            }
            for servers in [&first, &second] {
                let keys: u64 = cmd("DBSIZE").query(&mut servers.connection(0)).unwrap();
                assert!(keys > 0, "{way:?}");
                let () = cmd("FLUSHALL").query(&mut servers.connection(0)).unwrap();
            }
        }
    }

    #[test]
    fn tls_server_name_is_checked_against_the_certificate_unless_insecure() {
        let Some((servers, authority)) = start(1) else {
            return;
        };
        // At an address that stands in no certificate.
        let relay = Relay::start(&servers.tls_addr(0));
        for way in backends() {
            let at_relay =
                || builder_at(way, [relay.addr()]).tls_certificates(trusting(&authority));
            let mut client = at_relay().build().unwrap();
            let error = client.set::<_, _, ()>("k", 1).unwrap_err().to_string();
            assert!(error.contains("certificate"), "{way:?}: {error}");
            let mut client = at_relay().tls_server_name("localhost").build().unwrap();
            let () = client.set("k", 1).unwrap();
            let url = format!("rediss://localhost:{}/", relay.port());
            let builder = ShardedClient::builder()
                .tls_backend(way.backend)
                .node("a", url);
            let mut client = builder
                .tls_certificates(trusting(&authority))
                .build()
                .unwrap();
            let () = client.set("k", 1).unwrap();
            let url = format!("rediss://{}/#insecure", relay.addr());
            let builder = ShardedClient::builder()
                .tls_backend(way.backend)
                .node("a", url);
            let mut client = builder.build().unwrap();
            let () = client.set("k", 1).unwrap();
            assert!(client.check_connection(), "{way:?}");
        }
    }

    #[test]
    fn tls_1_2_only_servers_are_supported() {
        let authority = Authority::new("the tests' own");
        let servers = Servers::builder().tls(&authority, false);
        let Some(servers) = servers.option(["--tls-protocols", "TLSv1.2"]).start(1) else {
            return;
        };
        for way in backends() {
            let mut client = client(way, &servers, &authority);
            let () = client.set("k", 1).unwrap();
            assert_eq!(client.get("k"), Ok(1), "{way:?}");
        }
    }

    #[test]
    fn topology_with_rediss_nodes_is_opened_as_it_was_written() {
        let Some((servers, authority)) = start(2) else {
            return;
        };
        let way = backends()[0];
        let written = client(way, &servers, &authority).topology().to_string();
        assert!(written.contains("rediss://"), "{written}");
        let topology: redis_sharding::Topology = written.parse().unwrap();
        let builder = ShardedClient::builder().topology(&topology);
        let mut client = builder
            .tls_certificates(trusting(&authority))
            .build()
            .unwrap();
        let () = client.set("k", 1).unwrap();
    }
}

#[cfg(any(feature = "tokio-rustls-comp", feature = "tokio-native-tls-comp"))]
mod on_tokio {
    use std::time::{Duration, Instant};

    use redis::{AsyncCommands, Value, cmd};
    use redis_sharding::{Event, TlsBackend};
    use tokio::time::timeout;

    use super::ErrorKind;
    use super::nodes::{
        ATTEMPTS_MAX, LARGE_REPLIES, PATIENCE, Way, backends, builder, builder_at, is_refused,
        large_both_ways, trusting, ways, with_certificate, with_foreign_certificate,
    };
    use super::support::Servers;
    use super::support::authority::Authority;
    use super::support::local_proxy::LocalProxy;
    use super::support::relay::Relay;

    fn is_there(way: &Way) -> bool {
        match way.backend {
            TlsBackend::Rustls => cfg!(feature = "tokio-rustls-comp"),
            _ => cfg!(feature = "tokio-native-tls-comp"),
        }
    }

    fn start(count: usize) -> Option<(Servers, Authority)> {
        let authority = Authority::new("the tests' own");
        let servers = Servers::builder().tls(&authority, false).start(count)?;
        Some((servers, authority))
    }

    #[tokio::test]
    async fn async_client_commands_large_values_nil_and_transactions_work_over_tls() {
        let Some((servers, authority)) = start(2) else {
            return;
        };
        for way in ways().into_iter().filter(is_there) {
            let builder = builder(way, &servers).tls_certificates(trusting(&authority));
            let client = builder.build_async().unwrap();
            let mut connection = client.clone();
            let large = vec![b'x'; 6_000_000];
            let () = connection.set("large", &large).await.unwrap();
            let got: Vec<u8> = connection.get("large").await.unwrap();
            assert!(got == large, "{way:?}");
            let blpop = cmd("BLPOP").arg("nothing").arg(0.05).clone();
            let popped: Value = blpop.query_async(&mut connection).await.unwrap();
            assert_eq!(popped, Value::Nil, "{way:?}");
            let mut dedicated = client.dedicated("k").await.unwrap();
            let () = cmd("WATCH")
                .arg("k")
                .query_async(&mut dedicated)
                .await
                .unwrap();
            let () = connection.set("k", "theirs").await.unwrap();
            let mut pipeline = redis::pipe();
            pipeline.atomic().set("k", "mine");
            let values: Value = pipeline.query_async(&mut dedicated).await.unwrap();
            assert_eq!(values, Value::Nil, "{way:?}");
            if way.protocol == "resp2" {
                continue;
            }
            let all = large_both_ways();
            let values: Vec<Value> = all.query_async(&mut connection).await.unwrap();
            assert_eq!(values.len(), LARGE_REPLIES, "{way:?}");
            let values: Vec<Value> = all.query_async(&mut dedicated).await.unwrap();
            assert_eq!(values.len(), LARGE_REPLIES, "{way:?}");
        }
    }

    #[tokio::test]
    async fn async_tasks_share_one_tls_connection() {
        let Some((servers, authority)) = start(1) else {
            return;
        };
        for way in backends().into_iter().filter(is_there) {
            let builder = builder(way, &servers).tls_certificates(trusting(&authority));
            let client = builder.build_async().unwrap();
            let task = |number: usize| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let text = number.to_string().repeat(1 + number * 7 % 5000);
                    let key = format!("key:{number}");
                    let () = client.set(&key, &text).await.unwrap();
                    let got: String = client.get(&key).await.unwrap();
                    assert!(got == text);
                })
            };
            for task in (0..300).map(task).collect::<Vec<_>>() {
                task.await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn async_subscriber_works_over_tls_and_reconnects_after_a_restart() {
        let Some((servers, authority)) = start(2) else {
            return;
        };
        for way in ways().into_iter().filter(is_there) {
            let builder = builder(way, &servers).tls_certificates(trusting(&authority));
            let client = builder.build_async().unwrap();
            let mut subscriber = client.subscriber();
            subscriber.subscribe("news").await.unwrap();
            subscriber.psubscribe("weather:*").await.unwrap();
            let large = "x".repeat(3_000_000);
            for (channel, text) in [("news", "hello"), ("weather:here", &large)] {
                let _: i64 = client.clone().publish(channel, text).await.unwrap();
                let event = timeout(PATIENCE, subscriber.next_event(None)).await;
                match event.unwrap_or_else(|_| panic!("{way:?}: no message")) {
                    Some(Event::Message(message)) => {
                        assert!(message.payload == text.as_bytes(), "{way:?}");
                    }
                    other => panic!("{way:?}: no message but {other:?}"),
                }
            }
            let names: Vec<String> = (0..5000).map(|n| format!("channel:{n:0100}")).collect();
            subscriber.subscribe(&names).await.unwrap();
            servers.restart(0);
            let event = timeout(PATIENCE, subscriber.next_event(None)).await;
            assert!(
                matches!(event, Ok(Some(Event::Disconnected { .. }))),
                "{way:?}: {event:?}"
            );
            let event = timeout(PATIENCE, subscriber.next_event(None)).await;
            assert!(
                matches!(event, Ok(Some(Event::Missed { .. }))),
                "{way:?}: {event:?}"
            );
        }
    }

    #[tokio::test]
    async fn untrusted_tls_certificate_is_an_auth_error_and_respects_the_backoff_of_the_async_client()
     {
        let Some((servers, _)) = start(1) else {
            return;
        };
        let stranger = Authority::new("a stranger");
        for way in backends().into_iter().filter(is_there) {
            let relay = Relay::start(&servers.tls_addr(0));
            let builder = builder_at(way, [relay.addr()]).tls_certificates(trusting(&stranger));
            let client = builder.tls_server_name("localhost").build_async().unwrap();
            let error = refused(client.clone()).await;
            assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{way:?}: {error}");
            is_refused(&error);
            for word in [
                "node-0",
                &relay.addr(),
                "certificate of the server was refused",
            ] {
                assert!(error.to_string().contains(word), "{way:?}: {error}");
            }
            let attempts = relay.accepted();
            assert!(
                (1..=ATTEMPTS_MAX).contains(&attempts),
                "{way:?}: {attempts}"
            );

            let mut subscriber = client.subscriber();
            let error = subscriber.subscribe("news").await.unwrap_err();
            assert!(
                error.to_string().contains("certificate"),
                "{way:?}: {error}"
            );
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let more = relay.accepted() - attempts;
            // The client goes on meanwhile, too.
            assert!((1..=2 * ATTEMPTS_MAX).contains(&more), "{way:?}: {more}");
        }
    }

    /// Asks for a second and a half; the last error.
    async fn refused(mut client: redis_sharding::aio::ShardedClient) -> redis::RedisError {
        let begun = Instant::now();
        loop {
            let error = client.get::<_, i64>("k").await.unwrap_err();
            if begun.elapsed() > Duration::from_millis(1500) {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn tls_client_certificate_is_sent_or_its_absence_is_reported_by_the_async_client() {
        let authority = Authority::new("the tests' own");
        let Some(servers) = Servers::builder().tls(&authority, true).start(1) else {
            return;
        };
        for way in ways().into_iter().filter(is_there) {
            let relay = Relay::start(&servers.tls_addr(0));
            let at_relay = || builder_at(way, [relay.addr()]).tls_server_name("localhost");
            let builder = at_relay().tls_certificates(with_certificate(&authority));
            let client = builder.build_async().unwrap();
            let () = client.clone().set("k", 1).await.unwrap();
            client.subscriber().subscribe("news").await.unwrap();
            drop(client);

            let before = relay.accepted();
            let builder = at_relay().tls_certificates(trusting(&authority));
            let client = builder.build_async().unwrap();
            let error = refused(client.clone()).await;
            assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{way:?}: {error}");
            is_refused(&error);
            let error = error.to_string();
            assert!(error.contains("node-0"), "{way:?}: {error}");
            assert!(
                error.to_lowercase().contains("certificate"),
                "{way:?}: {error}"
            );
            let subscribed = client.subscriber().subscribe("news").await;
            assert!(subscribed.is_err(), "{way:?}");
            let attempts = relay.accepted() - before;
            assert!(
                (2..=2 * ATTEMPTS_MAX).contains(&attempts),
                "{way:?}: {attempts}"
            );
        }
    }

    #[tokio::test]
    async fn tls_client_certificate_that_the_server_refuses_is_an_auth_error_of_the_async_client() {
        let authority = Authority::new("the tests' own");
        let stranger = Authority::new("a stranger");
        let Some(servers) = Servers::builder().tls(&authority, true).start(1) else {
            return;
        };
        for way in ways().into_iter().filter(is_there) {
            let certificates = with_foreign_certificate(&authority, &stranger);
            let builder = builder(way, &servers).tls_certificates(certificates);
            let mut client = builder.build_async().unwrap();
            for _ in 0..3 {
                let error = client.get::<_, i64>("k").await.unwrap_err();
                assert_eq!(ErrorKind::of(&error), ErrorKind::Auth, "{way:?}: {error}");
                is_refused(&error);
                let text = "the server refused the certificate of this client";
                assert!(error.to_string().contains(text), "{way:?}: {error}");
            }
        }
    }

    #[test]
    fn proxy_passes_on_large_replies_of_tls_nodes() {
        let Some((servers, authority)) = start(2) else {
            return;
        };
        for way in backends().into_iter().filter(is_there) {
            let door =
                LocalProxy::open(builder(way, &servers).tls_certificates(trusting(&authority)));
            let client = redis::Client::open(format!("redis://{}/", door.address())).unwrap();
            for protocol in [2, 3] {
                let mut connection = client.get_connection().unwrap();
                connection.set_read_timeout(Some(PATIENCE)).unwrap();
                let _: Value = cmd("HELLO").arg(protocol).query(&mut connection).unwrap();
                let value = vec![b'a' + protocol; 9_000_000];
                for key in ["large", "larger", "largest"] {
                    let () = cmd("SET")
                        .arg(key)
                        .arg(&value)
                        .query(&mut connection)
                        .unwrap();
                    let got: Vec<u8> = cmd("GET").arg(key).query(&mut connection).unwrap();
                    assert!(got == value, "{way:?}, RESP{protocol}, {key}");
                }
                let blpop = cmd("BLPOP").arg("nothing").arg(0.05).clone();
                assert_eq!(blpop.query(&mut connection), Ok(Value::Nil), "{way:?}");
                let many: Vec<Value> = cmd("MGET")
                    .arg(&["large", "no", "larger"])
                    .query(&mut connection)
                    .unwrap();
                assert_eq!(many.len(), 3);
                assert_eq!(many[1], Value::Nil, "{way:?}");
            }
            let mut talker = door.talk();
            assert_eq!(talker.ask("WATCH k"), "+OK");
            let mut other = client.get_connection().unwrap();
            let () = cmd("SET").arg("k").arg(1).query(&mut other).unwrap();
            assert_eq!(talker.ask("MULTI"), "+OK");
            assert_eq!(talker.ask("SET k 2"), "+QUEUED");
            assert_eq!(talker.ask("EXEC"), "*-1", "{way:?}");
            assert_eq!(talker.ask("SUBSCRIBE news"), "*3 subscribe news :1");
            let _: i64 = cmd("PUBLISH")
                .arg("news")
                .arg("hello")
                .query(&mut other)
                .unwrap();
            assert_eq!(talker.hear(), "*3 message news hello", "{way:?}");
        }
    }
}
