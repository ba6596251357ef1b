//! Connections whose other end has vanished: TCP keepalive, and what is noticed at the next use.

mod support;

#[cfg(target_os = "linux")]
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use redis::{AsyncCommands, Commands, Value, cmd};
use redis_sharding::{Builder, ErrorKind, ShardedClient, builder::DEFAULT_TCP_KEEPALIVE};
use support::Servers;
use support::local_proxy::LocalProxy;
use support::relay::Relay;

/// Whose port it is.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
enum End {
    Local = 1,
    Remote = 2,
}

/// For each connection with this port that nothing is under way on, when the kernel asks the peer; `None` if never.
#[cfg(target_os = "linux")]
fn keepalive_timers(end: End, port: u16) -> Vec<Option<Duration>> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    // The kernel prints the table piece by piece, and one connection twice if others come and go meanwhile.
    let mut timers = BTreeMap::new();
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, state, timer) = (words[end as usize], words[3], words[5]);
        let is_ours = address.ends_with(&format!(":{port:04X}"));
        if !is_ours || state != "01" {
            continue;
        }
        let (kind, ticks) = timer.split_once(':').unwrap();
        let ticks = u64::from_str_radix(ticks, 16).unwrap();
        // Hundredths of seconds, as the kernel tells all programs.
        let asks = (kind == "02").then(|| Duration::from_millis(10 * ticks));
        timers.insert((words[1], words[2]), asks);
    }
    timers.into_values().collect()
}

/// The same, once as many connections are there and quiet.
#[cfg(target_os = "linux")]
fn quiet_timers(end: End, port: u16, wanted: usize) -> Vec<Option<Duration>> {
    let begun = Instant::now();
    loop {
        // Under way, the timer is that of the bytes.
        let timers = keepalive_timers(end, port);
        let settled = timers.len() >= wanted && timers.iter().all(Option::is_some);
        if settled || begun.elapsed() > Duration::from_secs(3) {
            return timers;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(target_os = "linux")]
fn port(servers: &Servers) -> u16 {
    servers.addr(0).rsplit_once(':').unwrap().1.parse().unwrap()
}

fn over(servers: &Servers) -> Builder {
    ShardedClient::builder().node("a", servers.url(0))
}

#[cfg(target_os = "linux")]
#[test]
fn tcp_keepalive_is_on_for_every_client_of_a_proxy() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let cases = [
        (None, Some(300)),
        (Some(Some(77)), Some(77)),
        (Some(None), None),
    ];
    for (set, expected) in cases {
        let mut proxy = over(&servers).build_proxy().unwrap();
        if let Some(seconds) = set {
            proxy = proxy.with_tcp_keepalive(seconds.map(Duration::from_secs));
        }
        let door = LocalProxy::open_for(proxy);
        let mut talker = door.talk();
        assert_eq!(talker.ask("PING"), "+PONG");
        let address = door.address();
        let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
        let timers = quiet_timers(End::Local, port, 1);
        let [timer] = timers[..] else {
            panic!("{timers:?}");
        };
        match expected {
            None => assert_eq!(timer, None),
            Some(seconds) => {
                let left = timer.unwrap();
                let set = Duration::from_secs(seconds);
                assert!(
                    left <= set && left + Duration::from_secs(10) > set,
                    "{left:?}"
                );
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn tcp_keepalive_is_on_for_every_connection_to_a_node() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let port = port(&servers);
    // The blocking client: a connection for commands, one that waits, one of a subscriber.
    let mut client = over(&servers).build().unwrap();
    let () = client.set("k", 1).unwrap();
    let dedicated = client.dedicated("k").unwrap();
    let mut subscriber = client.subscriber();
    subscriber.subscribe("news").unwrap();
    // The async client: the same three.
    let shared = over(&servers).build_async().unwrap();
    let () = shared.clone().set("k", 1).await.unwrap();
    let leased = shared.dedicated("k").await.unwrap();
    let mut listener = shared.subscriber();
    listener.subscribe("news").await.unwrap();
    // The proxy: one for each version of the protocol that was spoken.
    let door = LocalProxy::open(over(&servers));
    assert_eq!(door.talk().ask("SET k 1"), "+OK");
    let timers = quiet_timers(End::Remote, port, 7);
    assert!(timers.len() >= 7, "{timers:?}");
    for timer in timers {
        let left = timer.expect("every connection has it");
        assert!(
            left <= DEFAULT_TCP_KEEPALIVE && left > DEFAULT_TCP_KEEPALIVE / 2,
            "{left:?}"
        );
    }
    drop((dedicated, subscriber, leased, listener));
}

#[cfg(target_os = "linux")]
#[test]
fn tcp_keepalive_of_a_node_can_be_set_or_turned_off() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let mut client = over(&servers)
        .tcp_keepalive(Duration::from_secs(300))
        .build()
        .unwrap();
    let () = client.set("k", 1).unwrap();
    let timers = quiet_timers(End::Remote, port(&servers), 1);
    let left = timers[0].expect("it has one");
    assert!(left > Duration::from_secs(200), "{left:?}");
    drop(client);
    let mut client = over(&servers).tcp_keepalive(None).build().unwrap();
    let () = client.set("k", 1).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(keepalive_timers(End::Remote, port(&servers)).contains(&None));
}

#[test]
fn tcp_keepalive_out_of_bounds_is_a_config_error() {
    for idle in [0, 999, 40_000_000].map(Duration::from_millis) {
        let builder = ShardedClient::builder().node("a", "redis://10.0.0.1/");
        let error = builder.tcp_keepalive(idle).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("tcp_keepalive"), "{error}");
    }
}

fn impatient(relay: &Relay) -> Builder {
    let builder = ShardedClient::builder().node("a", format!("redis://{}/", relay.addr()));
    builder.response_timeout(Duration::from_millis(300))
}

#[test]
fn half_open_connection_is_closed_at_its_next_use_and_replaced_by_the_blocking_client() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let relay = Relay::start(&servers.addr(0));
    let mut client = impatient(&relay).build().unwrap();
    let () = client.set("k", 1).unwrap();
    let () = client.rpush("list", 1).unwrap();
    let _: Value = cmd("BLPOP").arg("list").arg(1).query(&mut client).unwrap();
    relay.silence();
    let begun = Instant::now();
    assert!(client.incr::<_, _, i64>("k", 1).is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(relay.swallowed() > 0, "the request went into the void");
    assert_eq!(client.get("k"), Ok(1));
    assert_eq!(client.incr("k", 1), Ok(2));
}

#[tokio::test]
async fn half_open_connection_is_closed_at_its_next_use_and_replaced_by_the_async_client() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let relay = Relay::start(&servers.addr(0));
    let client = impatient(&relay).build_async().unwrap();
    let mut connection = client.clone();
    let () = connection.set("k", 1).await.unwrap();
    relay.silence();
    let begun = Instant::now();
    assert!(connection.incr::<_, _, i64>("k", 1).await.is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(relay.swallowed() > 0, "the request went into the void");
    assert_eq!(connection.get("k").await, Ok(1));
    assert_eq!(connection.incr("k", 1).await, Ok(2));
}
