//! `health`, `ping_nodes` and `on_event`: what both clients know of their nodes and report, while servers are killed,
//! restarted and paused.
#![cfg(feature = "tokio-comp")]

mod support;

use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use redis::{RedisResult, cmd};
use redis_sharding::{
    Builder, ClientEvent, ClientHealth, ErrorKind, NodePing, NodeState, PoolKind, ShardedClient,
    aio,
};
use support::{Servers, builder};
use tokio::runtime::Runtime;

const TIMEOUT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Arc<Runtime>),
}

type Events = Arc<Mutex<Vec<ClientEvent>>>;

/// Both clients of a description, each with the events that it reports.
fn both(describe: impl Fn() -> Builder) -> [(Client, Events); 2] {
    [false, true].map(|is_async| {
        let events = Events::default();
        let kept = Arc::clone(&events);
        let builder = describe().on_event(move |event| kept.lock().unwrap().push(event.clone()));
        let client = match is_async {
            false => Client::Blocking(builder.build().unwrap()),
            true => {
                let mut runtime = tokio::runtime::Builder::new_multi_thread();
                let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
                Client::Async(builder.build_async().unwrap(), Arc::new(runtime))
            }
        };
        (client, events)
    })
}

impl Client {
    fn health(&self) -> ClientHealth {
        match self {
            Self::Blocking(client) => client.health(),
            Self::Async(client, _) => client.health(),
        }
    }

    fn ping_nodes(&self) -> Vec<NodePing> {
        match self {
            Self::Blocking(client) => client.ping_nodes(),
            Self::Async(client, runtime) => runtime.block_on(client.ping_nodes()),
        }
    }

    /// GET of a key of this node.
    fn get(&self, node: &str) -> RedisResult<Option<String>> {
        let key = |owner: &dyn Fn(&str) -> bool| {
            let keys = (0..).map(|number| format!("key:{number}"));
            keys.into_iter().find(|key| owner(key)).unwrap()
        };
        match self {
            Self::Blocking(client) => {
                let key = key(&|key| client.node_for(key).unwrap().name() == node);
                cmd("GET").arg(key).query(&mut client.clone())
            }
            Self::Async(client, runtime) => {
                let key = key(&|key| client.node_for(key).unwrap().name() == node);
                runtime.block_on(cmd("GET").arg(key).query_async(&mut client.clone()))
            }
        }
    }

    /// Repeats the GET until it is answered, or until it fails.
    fn get_until(&self, node: &str, answered: bool) {
        let start = Instant::now();
        while self.get(node).is_ok() != answered {
            assert!(start.elapsed() < PATIENCE, "{}", self.health());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The names of the events of a node, without those of connections.
fn changes(events: &Events, of: &str) -> Vec<&'static str> {
    let events = events.lock().unwrap();
    let name = |event: &ClientEvent| match event {
        ClientEvent::NodeDown { .. } => Some("down"),
        ClientEvent::NodeUp { .. } => Some("up"),
        ClientEvent::Reconnected { .. } => Some("reconnected"),
        _ => None,
    };
    let of_node = events
        .iter()
        .filter(|event| event.node().unwrap().name() == of);
    of_node.filter_map(name).collect()
}

/// Connections opened and closed.
fn connections(events: &Events, kind: PoolKind) -> (usize, usize) {
    let events = events.lock().unwrap();
    let count = |wanted: fn(&ClientEvent) -> Option<PoolKind>| {
        events
            .iter()
            .filter(|event| wanted(event) == Some(kind))
            .count()
    };
    let opened = count(|event| match event {
        ClientEvent::ConnectionOpened { pool, .. } => Some(*pool),
        _ => None,
    });
    let closed = count(|event| match event {
        ClientEvent::ConnectionClosed { pool, .. } => Some(*pool),
        _ => None,
    });
    (opened, closed)
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn health_and_events_follow_a_server_that_is_killed_and_restarted() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    for (client, events) in both(|| builder(&servers).response_timeout(TIMEOUT)) {
        servers.restart(1);
        for node in client.health().nodes {
            assert_eq!(node.state, NodeState::Unknown, "{node}");
            assert!(
                node.is_up() && node.last_error.is_none() && node.shared.open == 0,
                "{node}"
            );
        }
        client.get("node-0").unwrap();
        client.get("node-1").unwrap();
        let health = client.health();
        for node in &health.nodes {
            assert!(matches!(node.state, NodeState::Up { .. }), "{node}");
            assert_eq!((node.shared.open, node.exclusive.open), (1, 0), "{node}");
        }
        assert_eq!(connections(&events, PoolKind::Shared), (2, 0));

        servers.kill(1);
        client.get_until("node-1", false);
        wait_for("it is known to be down", || !client.health().is_up());
        // The attempts that follow are no news.
        let failures = || client.health().node("node-1").unwrap().consecutive_failures;
        wait_for("more attempts fail", || {
            let _ = client.get("node-1");
            failures() > 1
        });
        let health = client.health();
        let down = health.node("node-1").unwrap();
        assert!(matches!(down.state, NodeState::Down { .. }), "{health}");
        assert!(
            down.next_attempt.is_some() && down.shared.open == 0,
            "{health}"
        );
        let error = down.last_error.as_ref().unwrap();
        assert_eq!(
            (error.kind(), error.node()),
            (ErrorKind::NodeDown, Some("node-1"))
        );
        assert!(health.node("node-0").unwrap().is_up(), "{health}");
        assert_eq!(health.to_string().lines().count(), 2, "{health}");
        assert!(health.to_string().contains("DOWN for"), "{health}");
        assert_eq!(changes(&events, "node-1"), ["down"]);

        servers.restart(1);
        client.get_until("node-1", true);
        let health = client.health();
        let up = health.node("node-1").unwrap();
        assert!(health.is_up() && up.reconnects == 1, "{health}");
        assert!(
            up.last_error.is_some() && up.next_attempt.is_none(),
            "{health}"
        );
        wait_for("the events are delivered", || {
            changes(&events, "node-1") == ["down", "up", "reconnected"]
        });
        assert_eq!(changes(&events, "node-0"), [""; 0]);
        drop(client);
        // The async client's drivers end by themselves.
        wait_for("all connections are closed", || {
            let (opened, closed) = connections(&events, PoolKind::Shared);
            opened == closed && opened >= 3
        });
    }
}

#[test]
fn ping_nodes_reports_each_node_by_itself() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    for (client, _) in both(|| builder(&servers).response_timeout(TIMEOUT)) {
        servers.restart(2);
        let pings = client.ping_nodes();
        assert!(pings.iter().all(|ping| ping.result.is_ok()), "{pings:?}");
        let names: Vec<&str> = pings.iter().map(|ping| &*ping.name).collect();
        assert_eq!(names, ["node-0", "node-1", "node-2"]);
        servers.pause(1);
        servers.kill(2);
        let pings = client.ping_nodes();
        servers.resume(1);
        assert!(pings[0].result.is_ok(), "{pings:?}");
        let error = |number: usize| pings[number].result.clone().unwrap_err();
        assert_eq!(
            (error(1).kind(), error(1).node()),
            (ErrorKind::Timeout, Some("node-1"))
        );
        assert_eq!(
            (error(2).kind(), error(2).node()),
            (ErrorKind::NodeDown, Some("node-2"))
        );
    }
}

#[test]
fn events_and_health_of_a_refused_password_do_not_show_it() {
    let Some(servers) = Servers::builder().password("right-77").start(1) else {
        return;
    };
    let url = format!("redis://:wrong-88@{}/", servers.addr(0));
    for (client, events) in both(|| ShardedClient::builder().node("node-0", &*url)) {
        client.get("node-0").unwrap_err();
        wait_for("it is reported", || changes(&events, "node-0") == ["down"]);
        let health = client.health();
        let error = health.nodes[0].last_error.clone().unwrap();
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        let shown = format!(
            "{health} {health:?} {:?} {client:?}",
            events.lock().unwrap()
        );
        assert!(
            !shown.contains("wrong-88") && !shown.contains("right-77"),
            "{shown}"
        );
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blocking(client) => client.fmt(f),
            Self::Async(client, _) => client.fmt(f),
        }
    }
}

#[test]
fn health_counts_the_connections_in_use_idle_and_waited_for() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let describe = || builder(&servers).blocking_pool_size(1);
    for (client, events) in both(describe) {
        let pool = || client.health().nodes[0].exclusive;
        // Holds the only exclusive connection until told.
        let waiter = client.clone();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let holder = thread::spawn(move || match waiter {
            Client::Blocking(client) => {
                let held = client.dedicated("key").unwrap();
                released.recv().unwrap();
                drop(held);
            }
            Client::Async(client, runtime) => {
                let held = runtime.block_on(client.dedicated("key")).unwrap();
                released.recv().unwrap();
                drop(held);
            }
        });
        wait_for("it is in use", || pool().in_use == 1);
        assert_eq!((pool().open, pool().idle, pool().max), (1, 0, 1));
        let other = client.clone();
        let blpop = thread::spawn(move || {
            let mut blpop = cmd("BLPOP");
            blpop.arg("none").arg(0.01);
            match other {
                Client::Blocking(client) => blpop.exec(&mut client.clone()),
                Client::Async(client, runtime) => {
                    runtime.block_on(blpop.exec_async(&mut client.clone()))
                }
            }
        });
        wait_for("one waits", || pool().waiting == 1);
        release.send(()).unwrap();
        holder.join().unwrap();
        blpop.join().unwrap().unwrap();
        assert_eq!(
            (pool().open, pool().in_use, pool().idle, pool().waiting),
            (1, 0, 1, 0)
        );
        wait_for("the dedicated one is closed, the other kept", || {
            connections(&events, PoolKind::Exclusive) == (2, 1)
        });
    }
}

#[test]
fn event_listener_may_ask_for_health_and_may_panic() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    let client: Arc<OnceLock<Client>> = Arc::default();
    for is_async in [false, true] {
        servers.restart(0);
        let client: Arc<OnceLock<Client>> = if is_async {
            Arc::default()
        } else {
            client.clone()
        };
        let asked = Arc::clone(&client);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let describe = builder(&servers)
            .response_timeout(PATIENCE)
            .on_event(|_| panic!("the listener of a test panics"))
            .on_event(move |event| {
                // Every lock that were held here would be a deadlock.
                let health = asked.get().unwrap().health();
                kept.lock().unwrap().push(format!("{event}; {health}"));
            });
        let _ = client.set(match is_async {
            false => Client::Blocking(describe.build().unwrap()),
            true => Client::Async(
                describe.build_async().unwrap(),
                Arc::new(Runtime::new().unwrap()),
            ),
        });
        let client = client.get().unwrap();
        client.get("node-0").unwrap();
        servers.kill(0);
        client.get_until("node-0", false);
        wait_for("the node is down", || !client.health().is_up());
        servers.restart(0);
        client.get_until("node-0", true);
        wait_for("all kinds of events are reported", || {
            let lines = lines.lock().unwrap();
            let starts = [
                "down",
                "up",
                "reconnected",
                "connection opened",
                "connection closed",
            ];
            starts
                .iter()
                .all(|start| lines.iter().any(|line| line.starts_with(start)))
        });
    }
}
