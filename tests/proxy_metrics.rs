//! The example `proxy` with `--metrics`: scraped over HTTP, in front of real servers.
#![cfg(feature = "cli")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Commands, RedisResult, cmd};
use support::example_proxy::ExampleProxy;
use support::{Servers, client};

const PATIENCE: Duration = Duration::from_secs(20);

/// The lines of a scrape.
struct Scrape(String);

impl Scrape {
    fn of(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(
            head.to_lowercase().contains("content-type: text/plain"),
            "{head}"
        );
        Self(body.to_owned())
    }

    /// The sum of all samples of this name whose labels contain these.
    fn value(&self, name: &str, labels: &[&str]) -> f64 {
        let name = format!("redis_sharding_{name}");
        let samples = self.0.lines().filter(|line| {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            line[..end] == name && labels.iter().all(|label| line.contains(label))
        });
        let values = samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap());
        let values: Vec<f64> = values.collect();
        assert!(!values.is_empty(), "{name} {labels:?} in\n{}", self.0);
        values.into_iter().sum()
    }
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn proxy_serves_its_metrics_and_those_of_its_nodes_as_prometheus_text() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let address = free_address();
    let proxy =
        ExampleProxy::start_with(&servers.urls(), &["--metrics", &address, "--threads", "1"]);
    let before = Scrape::of(&address);
    assert_eq!(before.value("proxy_clients", &[]), 0.0);
    assert_eq!(before.value("requests_total", &["node=\"node-0\""]), 0.0);

    let key = |node: &str| {
        let placed = client(&servers);
        let mut keys = (0..).map(|number| format!("secret-key:{number}"));
        keys.find(|key| placed.node_for(key).unwrap().name() == node)
            .unwrap()
    };
    let (first, second) = (key("node-0"), key("node-1"));
    let opened = redis::Client::open(format!("redis://{}/", proxy.address())).unwrap();
    let mut connection = opened.get_connection().unwrap();
    for _ in 0..10 {
        let () = connection.set(&first, "secret-value").unwrap();
    }
    let _: Vec<Option<String>> = connection.mget(&[&first, &second]).unwrap();
    let refused: RedisResult<()> = connection.lpush(&first, "secret-value");
    refused.unwrap_err();
    let now = Scrape::of(&address);
    let by_node = |name: &str, node: &str| now.value(name, &[&format!("node=\"{node}\"")]);
    assert!(by_node("requests_total", "node-0") >= 12.0, "{}", now.0);
    assert!(by_node("requests_total", "node-1") >= 1.0, "{}", now.0);
    assert!(
        by_node("request_duration_seconds_count", "node-0") >= 12.0,
        "{}",
        now.0
    );
    assert!(by_node("sent_bytes_total", "node-0") > 300.0, "{}", now.0);
    assert!(
        by_node("received_bytes_total", "node-0") > 50.0,
        "{}",
        now.0
    );
    assert!(by_node("connections_open", "node-0") >= 1.0, "{}", now.0);
    assert_eq!(by_node("node_up", "node-1"), 1.0, "{}", now.0);
    let redis = now.value(
        "request_errors_total",
        &["node=\"node-0\"", "kind=\"REDIS\""],
    );
    assert!(redis >= 1.0, "{}", now.0);
    assert!(now.value("fan_out_nodes_count", &[]) >= 12.0, "{}", now.0);
    assert_eq!(now.value("proxy_clients", &[]), 1.0);
    assert!(now.value("proxy_commands_total", &[]) >= 12.0, "{}", now.0);
    assert!(
        now.value("proxy_received_bytes_total", &[]) > 300.0,
        "{}",
        now.0
    );
    assert!(now.value("proxy_sent_bytes_total", &[]) > 50.0, "{}", now.0);
    assert!(now.value("proxy_memory_bytes", &[]) >= 0.0);
    for text in [
        "# HELP redis_sharding_requests_total ",
        "# TYPE redis_sharding_requests_total counter",
        "# TYPE redis_sharding_request_duration_seconds histogram",
        "redis_sharding_request_duration_seconds_bucket{node=\"node-0\",le=\"0.001\"}",
    ] {
        assert!(now.0.contains(text), "{text} in\n{}", now.0);
    }
    assert!(!now.0.contains("secret"), "{}", now.0);

    servers.kill(1);
    let start = Instant::now();
    while connection.get::<_, Option<String>>(&second).is_ok() {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
    connection.get::<_, Option<String>>(&second).unwrap_err();
    let down = Scrape::of(&address);
    assert_eq!(
        down.value("node_up", &["node=\"node-1\""]),
        0.0,
        "{}",
        down.0
    );
    let errors = down.value(
        "request_errors_total",
        &["node=\"node-1\"", "kind=\"NODEDOWN\""],
    );
    assert!(errors >= 1.0, "{}", down.0);
    drop(connection);
    while Scrape::of(&address).value("proxy_clients", &[]) > 0.0 {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(
        cmd("PING")
            .exec(&mut opened.get_connection().unwrap())
            .is_ok()
    );
}
