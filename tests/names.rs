//! Names of hosts are resolved again for each new connection: a failover by DNS. With a resolver of the test's own,
//! which a process of its own preloads.
#![cfg(all(
    feature = "testing",
    feature = "proxy",
    target_os = "linux",
    target_env = "gnu"
))]

mod support;

use std::fmt::Write as _;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use redis::{Value, cmd};
use redis_sharding::testing::TestNode;
use redis_sharding::{Builder, Event, RetryPolicy, ShardedClient};
use support::local_proxy::LocalProxy;
use tokio::runtime::Runtime;

/// More than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Names the file with the addresses of [`NAME`].
const ADDRESSES: &str = "REDIS_SHARDING_TEST_ADDRESSES";
/// A name that no other resolver knows.
const NAME: &str = "moves.invalid";

/// getaddrinfo that reads the addresses of one name from a file.
const RESOLVER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*resolver)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    resolver system = (resolver) dlsym(RTLD_NEXT, "getaddrinfo");
    if (!node || strcmp(node, "moves.invalid")) return system(node, service, hints, found);
    FILE *file = fopen(getenv("REDIS_SHARDING_TEST_ADDRESSES"), "r");
    if (!file) return EAI_AGAIN;
    char line[64];
    struct addrinfo *first = NULL, **end = &first;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!system(line, service, hints, end)) while (*end) end = &(*end)->ai_next;
    }
    fclose(file);
    *found = first;
    return first ? 0 : EAI_NONAME;
}
"#;

/// Forwards connections to one address to a server, until it is stopped.
struct Forwarder {
    listener: SocketAddr,
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Forwarder {
    fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let open = Arc::new(Mutex::new(Some(Vec::new())));
        let forwarder = Self {
            listener: listener.local_addr().unwrap(),
            open: Arc::clone(&open),
        };
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let mut open = open.lock().unwrap();
                let Some(open) = &mut *open else {
                    return;
                };
                let server = TcpStream::connect(to).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                open.extend([client, server]);
            }
        });
        forwarder
    }

    /// Closes the port and all connections.
    fn stop(&self) {
        for stream in self.open.lock().unwrap().take().unwrap() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.listener);
    }
}

/// What a key holds, once it is this.
#[track_caller]
fn await_value(what: &str, expected: &str, get: impl Fn() -> Result<String, String>) {
    let begun = Instant::now();
    loop {
        let found = get();
        if found.as_deref() == Ok(expected) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {found:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn names_of_nodes_are_resolved_again_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("r.c"), folder.path().join("r.so"));
    std::fs::write(&source, RESOLVER).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .expect("there is a C compiler");
    assert!(compiled.success());
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "with_a_resolver_of_its_own",
            "--ignored",
            "--nocapture",
        ])
        .env("LD_PRELOAD", &library)
        .env(ADDRESSES, folder.path().join("addresses"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}\n{errors}"
    );
}

/// Two servers behind two addresses with one port, of which a name has one at a time.
struct Moving {
    file: PathBuf,
    nodes: Vec<TestNode>,
    port: u16,
    forwarders: [Forwarder; 2],
}

impl Moving {
    fn start(file: &Path) -> Self {
        let nodes = TestNode::start_many(2).unwrap();
        for (node, name) in nodes.iter().zip(["first", "second"]) {
            let client = ShardedClient::open([node.url()]).unwrap();
            client.execute(cmd("SET").arg("who").arg(name)).unwrap();
        }
        let at = |last: u8, port| SocketAddr::from(([127, 0, 0, last], port));
        let (first, second, port) = loop {
            let first = Forwarder::start(at(2, 0), nodes[0].addr());
            let port = first.listener.port();
            // Another program may have this one.
            if TcpListener::bind(at(3, port)).is_ok() {
                break (first, Forwarder::start(at(3, port), nodes[1].addr()), port);
            }
        };
        let moving = Self {
            file: file.to_owned(),
            nodes,
            port,
            forwarders: [first, second],
        };
        // Nobody listens at the first of them.
        moving.resolve_to(&["127.0.0.4", "127.0.0.2"]);
        moving
    }

    fn resolve_to(&self, addresses: &[&str]) {
        let mut text = String::new();
        for address in addresses {
            writeln!(text, "{address}").unwrap();
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// The name leads to the second server, and the first is gone.
    fn fail_over(&self) {
        self.resolve_to(&["127.0.0.3"]);
        self.forwarders[0].stop();
    }

    fn builder(&self) -> Builder {
        ShardedClient::builder()
            .node("a", format!("redis://{NAME}:{}/", self.port))
            .retry(RetryPolicy::attempts(5))
    }
}

#[test]
#[ignore = "run by the test above, with another resolver"]
fn with_a_resolver_of_its_own() {
    let file = PathBuf::from(std::env::var_os(ADDRESSES).expect("the file is named"));
    let get = cmd("GET").arg("who").clone();
    let text = |value: Value| redis::from_redis_value::<String>(value).unwrap();

    let moving = Moving::start(&file);
    let client = moving.builder().build().unwrap();
    let ask = || {
        client
            .execute(&get)
            .map(text)
            .map_err(|error| error.to_string())
    };
    await_value("blocking", "first", ask);
    moving.fail_over();
    await_value("blocking", "second", ask);

    let runtime = Runtime::new().unwrap();
    let moving = Moving::start(&file);
    let client = moving.builder().build_async().unwrap();
    let ask = || {
        let reply = runtime.block_on(client.execute(&get));
        reply.map(text).map_err(|error| error.to_string())
    };
    await_value("async", "first", ask);
    moving.fail_over();
    await_value("async", "second", ask);

    let moving = Moving::start(&file);
    let door = LocalProxy::open(moving.builder());
    let ask = || Ok(door.talk().ask("GET who"));
    await_value("proxy", "first", ask);
    moving.fail_over();
    await_value("proxy", "second", ask);

    let moving = Moving::start(&file);
    let (blocking, on_tokio) = (
        moving.builder().build().unwrap(),
        moving.builder().build_async().unwrap(),
    );
    let mut subscriber = blocking.subscriber();
    subscriber.subscribe("news").unwrap();
    let mut stream = runtime.block_on(async {
        let mut subscriber = on_tokio.subscriber();
        subscriber.subscribe("news").await.unwrap();
        subscriber
    });
    moving.fail_over();
    let publisher = ShardedClient::open([moving.nodes[1].url()]).unwrap();
    let begun = Instant::now();
    let publish = cmd("PUBLISH").arg("news").arg("hello").clone();
    while publisher.execute(&publish).unwrap() != Value::Int(2) {
        assert!(begun.elapsed() < PATIENCE, "the subscribers do not move");
        thread::sleep(Duration::from_millis(20));
    }
    let is_hello =
        |event: &Event| matches!(event, Event::Message(message) if message.payload == b"hello");
    loop {
        let event = subscriber.next_event(PATIENCE).expect("a message");
        if is_hello(&event) {
            break;
        }
    }
    runtime.block_on(async {
        loop {
            let event = tokio::time::timeout(PATIENCE, stream.next()).await;
            if is_hello(&event.unwrap().unwrap()) {
                break;
            }
        }
    });
}
