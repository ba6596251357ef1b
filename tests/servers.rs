//! The real servers of the tests do what the tests count on.

mod support;

use std::time::{Duration, Instant};

use redis::{Commands, RedisResult};

use support::Servers;
use support::delay_proxy::DelayProxy;

#[test]
fn killed_test_server_refuses_and_restarts_empty_on_its_port() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let urls = servers.urls();
    let () = servers.connection(0).set("k", 1).unwrap();
    let () = servers.connection(1).set("k", 2).unwrap();
    servers.kill(0);
    let client = redis::Client::open(servers.url(0)).unwrap();
    assert!(
        client
            .get_connection()
            .err()
            .unwrap()
            .is_connection_refusal()
    );
    servers.restart(0);
    assert_eq!(servers.urls(), urls);
    let values: [Option<i32>; 2] =
        [0, 1].map(|server| servers.connection(server).get("k").unwrap());
    assert_eq!(values, [None, Some(2)]);
}

#[test]
fn paused_test_server_is_silent_until_resumed() {
    let Some(servers) = Servers::builder().unix().password("secret").start(1) else {
        return;
    };
    let mut connection = servers.connection(0);
    connection
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    servers.pause(0);
    let answer: RedisResult<()> = connection.set("k", 1);
    assert!(answer.unwrap_err().is_timeout());
    servers.resume(0);
    let value: i32 = servers.connection(0).get("k").unwrap();
    assert_eq!(value, 1);
}

#[test]
fn paused_test_server_is_stopped_on_drop() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let pid = servers.pid(0);
    servers.pause(0);
    drop(servers);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn delay_proxy_delays_a_round_trip_twice() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let proxy = DelayProxy::start(&servers.addr(0), Duration::from_millis(10)).unwrap();
    let mut connection = redis::Client::open(proxy.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let start = Instant::now();
    let () = connection.set("k", 1).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
}
