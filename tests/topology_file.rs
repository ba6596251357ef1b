//! A topology in a file that changes: `Builder::watch_topology`, of both clients and the proxy.
#![cfg(all(feature = "testing", feature = "proxy"))]

mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Value, cmd};
use redis_sharding::proxy::Proxy;
use redis_sharding::testing::TestNode;
use redis_sharding::{
    Builder, ClientEvent, Ejection, ErrorKind, ShardedClient, Topology, aio, builder,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// More than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for a file to be read a few times.
const A_WHILE: Duration = Duration::from_millis(2500);

struct TopologyFile {
    _folder: TempDir,
    path: PathBuf,
}

impl TopologyFile {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            path: folder.path().join("users.topology"),
            _folder: folder,
        }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }
}

/// The text of a topology of these nodes.
fn text<'n>(nodes: impl IntoIterator<Item = (&'n str, &'n TestNode)>) -> String {
    let lines = nodes
        .into_iter()
        .map(|(name, node)| format!("node {name} {}\n", node.addr()));
    let lines: String = lines.collect();
    format!("redis-sharding topology 1\nplacement rendezvous/1\n{lines}")
}

/// The events about the topology of a client, as texts.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn listen(&self, builder: Builder) -> Builder {
        let events = Arc::clone(&self.0);
        builder.on_event(move |event| {
            if let ClientEvent::TopologyChanged { .. } | ClientEvent::TopologyRefused { .. } = event
            {
                assert!(event.node().is_none());
                events.lock().unwrap().push(event.to_string());
            }
        })
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Waits for this many events.
    #[track_caller]
    fn wait(&self, count: usize) -> Vec<String> {
        let begun = Instant::now();
        while self.0.lock().unwrap().len() < count {
            assert!(begun.elapsed() < PATIENCE, "{:?}", self.take());
            thread::sleep(Duration::from_millis(10));
        }
        self.take()
    }
}

enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Runtime),
    Proxy(Proxy),
}

impl Client {
    fn all(describe: impl Fn() -> Builder) -> [(Self, Events); 3] {
        let build = |make: &dyn Fn(Builder) -> Self| {
            let events = Events::default();
            (make(events.listen(describe())), events)
        };
        [
            build(&|builder| Self::Blocking(builder.build().unwrap())),
            build(&|builder| Self::Async(builder.build_async().unwrap(), Runtime::new().unwrap())),
            build(&|builder| Self::Proxy(builder.build_proxy().unwrap())),
        ]
    }

    fn addresses(&self) -> Vec<String> {
        let topology = match self {
            Self::Blocking(client) => client.topology(),
            Self::Async(client, _) => client.topology(),
            Self::Proxy(proxy) => proxy.topology(),
        };
        let nodes = topology.nodes().iter();
        nodes.map(|node| node.address().to_owned()).collect()
    }

    /// What a key holds. A proxy is not asked.
    fn get(&self, key: &str) -> Option<Value> {
        let get = cmd("GET").arg(key).clone();
        match self {
            Self::Blocking(client) => Some(client.execute(&get).unwrap()),
            Self::Async(client, on) => Some(on.block_on(client.execute(&get)).unwrap()),
            Self::Proxy(_) => None,
        }
    }
}

fn addresses(nodes: &[&TestNode]) -> Vec<String> {
    nodes.iter().map(|node| node.addr().to_string()).collect()
}

#[test]
fn watched_topology_file_is_followed_and_a_wrong_one_changes_nothing() {
    let nodes = TestNode::start_many(3).unwrap();
    let file = TopologyFile::new();
    let first = text([("a", &nodes[0]), ("b", &nodes[1])]);
    file.write(&first);
    let clients = Client::all(|| ShardedClient::builder().watch_topology(&file.path));
    let path = format!("{:?}", file.path);
    let current = |expected: &[&TestNode]| {
        for (client, _) in &clients {
            assert_eq!(client.addresses(), addresses(expected));
        }
    };
    current(&[&nodes[0], &nodes[1]]);
    // The value is on the server to which `b` moves.
    let (owned, _) = (0..)
        .map(|number| format!("key:{number}"))
        .map(|key| (Topology::parse(&first).unwrap().locate(key.as_bytes()), key))
        .map(|(owner, key)| (key, owner.unwrap().get()))
        .find(|(_, owner)| *owner == 1)
        .unwrap();
    let direct = ShardedClient::open([nodes[2].url()]).unwrap();
    direct.execute(cmd("SET").arg(&owned).arg("moved")).unwrap();
    for (client, _) in &clients {
        assert!(matches!(client.get(&owned), None | Some(Value::Nil)));
    }

    file.write(&text([("a", &nodes[0]), ("b", &nodes[2])]));
    for (client, events) in &clients {
        assert_eq!(events.wait(1), ["topology changed: from epoch 0 to 1"]);
        if let Some(value) = client.get(&owned) {
            assert_eq!(value, Value::BulkString(b"moved".into()));
        }
    }
    current(&[&nodes[0], &nodes[2]]);

    // Each wrong content is reported once, with what is wrong.
    let other_names = text([("a", &nodes[0]), ("c", &nodes[2])]);
    let too_large = " ".repeat(builder::TOPOLOGY_FILE_BYTES_MAX as usize + 1);
    for (wrong, why) in [
        ("half of a top", "line 1"),
        (&other_names, "sample keys would move"),
        ("", "topology"),
        (&too_large, "larger than"),
    ] {
        file.write(wrong);
        for (_, events) in &clients {
            let refused = events.wait(1);
            assert_eq!(refused.len(), 1, "{refused:?}");
            assert!(
                refused[0].starts_with("topology refused: ")
                    && refused[0].contains(why)
                    && refused[0].contains(&path),
                "{refused:?}"
            );
        }
    }
    std::fs::remove_file(&file.path).unwrap();
    for (_, events) in &clients {
        assert!(events.wait(1)[0].contains("cannot be read"));
    }
    thread::sleep(A_WHILE);
    for (_, events) in &clients {
        assert_eq!(events.take(), Vec::<String>::new());
    }
    current(&[&nodes[0], &nodes[2]]);

    // What is in force already is no change, and what follows is taken over.
    file.write(&text([("a", &nodes[0]), ("b", &nodes[2])]));
    thread::sleep(A_WHILE);
    file.write(&first);
    for (_, events) in &clients {
        assert_eq!(events.wait(1), ["topology changed: from epoch 1 to 2"]);
    }
    current(&[&nodes[0], &nodes[1]]);
}

#[test]
fn cache_takes_any_nodes_over_from_its_topology_file() {
    let nodes = TestNode::start_many(3).unwrap();
    let file = TopologyFile::new();
    file.write(&text([("a", &nodes[0]), ("b", &nodes[1])]));
    // Nodes that are given come first, and the file follows.
    let given = nodes[0].url();
    let describe = || {
        ShardedClient::builder()
            .node("a", &given[..])
            .cache(Ejection::never())
            .watch_topology(&file.path)
    };
    let clients = Client::all(describe);
    for (client, events) in &clients {
        events.wait(1);
        assert_eq!(client.addresses(), addresses(&[&nodes[0], &nodes[1]]));
    }
    file.write(&text([("c", &nodes[2]), ("a", &nodes[0])]));
    for (client, events) in &clients {
        events.wait(1);
        assert_eq!(client.addresses(), addresses(&[&nodes[2], &nodes[0]]));
    }
}

#[test]
fn client_over_a_topology_file_that_is_missing_or_wrong_is_a_config_error_with_its_path() {
    let file = TopologyFile::new();
    let build = |path: &Path| ShardedClient::builder().watch_topology(path).build();
    let error = build(&file.path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let path = format!("{:?}", file.path);
    assert!(error.to_string().contains(&path), "{error}");
    file.write("redis-sharding topology 1\nplacement nowhere/1\n");
    let error = build(&file.path).unwrap_err();
    assert!(
        error.to_string().contains(&path) && error.to_string().contains("nowhere"),
        "{error}"
    );
}

#[test]
fn watched_topology_file_does_not_keep_a_client() {
    let node = TestNode::start().unwrap();
    let file = TopologyFile::new();
    file.write(&text([("a", &node)]));
    let marker = Arc::new(());
    let held = Arc::clone(&marker);
    let client = ShardedClient::builder()
        .watch_topology(&file.path)
        .on_event(move |_| drop(Arc::clone(&held)))
        .build()
        .unwrap();
    client.execute(&cmd("PING")).unwrap();
    thread::sleep(A_WHILE);
    assert!(Arc::strong_count(&marker) > 1);
    drop(client);
    let begun = Instant::now();
    while Arc::strong_count(&marker) > 1 {
        assert!(begun.elapsed() < PATIENCE, "the client is kept");
        thread::sleep(Duration::from_millis(10));
    }
}
