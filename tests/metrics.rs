//! The metrics of both clients, as a recorder of the crate `metrics` receives them. Each client has a recorder of its own:
//! handles are resolved when a client is built.
#![cfg(all(feature = "metrics", feature = "tokio-comp", feature = "testing"))]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use redis::{Cmd, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::testing::{Fault, TestNode};
use redis_sharding::{Builder, Ejection, ShardedClient, aio};
use support::{Servers, builder, builder_over};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Arc<Runtime>),
}

/// Both clients of a description, each with its recorder.
fn both(describe: impl Fn() -> Builder) -> [(Client, Snapshotter); 2] {
    let recorded = |build: &dyn Fn() -> Client| {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        (metrics::with_local_recorder(&recorder, build), snapshotter)
    };
    [
        recorded(&|| Client::Blocking(describe().build().unwrap())),
        recorded(&|| {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
            Client::Async(describe().build_async().unwrap(), Arc::new(runtime))
        }),
    ]
}

impl Client {
    fn ask(&self, cmd: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => cmd.query(&mut client.clone()),
            Self::Async(client, runtime) => runtime.block_on(cmd.query_async(&mut client.clone())),
        }
    }

    fn ask_all(&self, pipe: &Pipeline) -> RedisResult<Value> {
        match self {
            Self::Blocking(client) => pipe.query(&mut client.clone()),
            Self::Async(client, runtime) => runtime.block_on(pipe.query_async(&mut client.clone())),
        }
    }

    /// A key of this node.
    fn key(&self, node: &str) -> String {
        let owns = |key: &String| match self {
            Self::Blocking(client) => client.node_for(key).unwrap().name() == node,
            Self::Async(client, _) => client.node_for(key).unwrap().name() == node,
        };
        let mut keys = (0..).map(|number| format!("key:{number}"));
        keys.find(owns).unwrap()
    }
}

/// What a recorder has received: by name and labels.
struct Figures(BTreeMap<String, (Option<Unit>, DebugValue)>);

impl Figures {
    /// Takes them from the recorder, which begins again.
    fn take(snapshotter: &Snapshotter) -> Self {
        let taken = snapshotter.snapshot().into_vec();
        Self(
            taken
                .into_iter()
                .map(|(key, unit, text, value)| {
                    assert!(text.is_some(), "{key:?} is described");
                    let (_, key) = key.into_parts();
                    let mut labels: Vec<String> = key
                        .labels()
                        .map(|label| format!("{}={}", label.key(), label.value()))
                        .collect();
                    labels.sort();
                    (
                        format!("{}{{{}}}", key.name(), labels.join(",")),
                        (unit, value),
                    )
                })
                .collect(),
        )
    }

    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        match self.0.get(&format!("redis_sharding_{name}")) {
            Some((_, DebugValue::Counter(value))) => *value as f64,
            Some((_, DebugValue::Gauge(value))) => value.into_inner(),
            other => panic!("{name}: {other:?} in {:#?}", self.0.keys()),
        }
    }

    #[track_caller]
    fn histogram(&self, name: &str) -> Vec<f64> {
        match self.0.get(&format!("redis_sharding_{name}")) {
            Some((_, DebugValue::Histogram(values))) => {
                values.iter().map(|value| value.into_inner()).collect()
            }
            other => panic!("{name}: {other:?} in {:#?}", self.0.keys()),
        }
    }
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
fn metrics_count_requests_bytes_errors_and_durations_of_each_node() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    for (client, snapshotter) in both(|| builder(&servers)) {
        let (first, second) = (client.key("node-0"), client.key("node-1"));
        client.ask(&cmd("FLUSHALL")).unwrap();
        let _ = Figures::take(&snapshotter);
        let mut bytes = 0;
        let mut ask = |words: &[&str]| {
            let mut request = cmd(words[0]);
            request.arg(&words[1..]);
            bytes += request.get_packed_command().len();
            client.ask(&request)
        };
        ask(&["SET", &first, "a value"]).unwrap();
        for _ in 0..3 {
            ask(&["GET", &first]).unwrap();
        }
        ask(&["LPUSH", &first, "element"]).unwrap_err();
        ask(&["BLPOP", &first, "0.01"]).unwrap_err();
        let figures = Figures::take(&snapshotter);
        assert_eq!(figures.value("requests_total{node=node-0}"), 6.0);
        assert_eq!(figures.value("requests_total{node=node-1}"), 0.0);
        let errors =
            |kind: &str| figures.value(&format!("request_errors_total{{kind={kind},node=node-0}}"));
        assert_eq!(errors("REDIS"), 2.0);
        for kind in ["AUTH", "NODEDOWN", "POOLTIMEOUT", "TIMEOUT", "UNKNOWN"] {
            assert_eq!(errors(kind), 0.0, "{kind}");
        }
        let durations = figures.histogram("request_duration_seconds{node=node-0}");
        assert_eq!(durations.len(), 5, "not that of BLPOP: {durations:?}");
        assert!(
            durations.iter().all(|seconds| (0.0..5.0).contains(seconds)),
            "{durations:?}"
        );
        let unit = &figures.0["redis_sharding_request_duration_seconds{node=node-0}"].0;
        assert_eq!(*unit, Some(Unit::Seconds));
        // The handshake of the exclusive connection comes on top.
        let sent = figures.value("sent_bytes_total{node=node-0}") as usize;
        assert!((bytes..bytes + 400).contains(&sent), "{sent} for {bytes}");
        assert!(figures.value("received_bytes_total{node=node-0}") > 50.0);
        assert!(figures.histogram("fan_out_nodes{}").is_empty());

        client.ask(cmd("MGET").arg(&[&first, &second])).unwrap();
        client.ask_all(pipe().get(&first).get(&first)).unwrap();
        let figures = Figures::take(&snapshotter);
        assert_eq!(
            figures.value("requests_total{node=node-0}"),
            2.0,
            "a pipeline is one"
        );
        assert_eq!(figures.value("requests_total{node=node-1}"), 1.0);
        let mut widths = figures.histogram("fan_out_nodes{}");
        widths.sort_by(f64::total_cmp);
        assert_eq!(widths, [1.0, 2.0]);
        assert_eq!(
            figures
                .histogram("request_duration_seconds{node=node-1}")
                .len(),
            1
        );
    }
}

#[test]
fn metrics_count_connections_in_use_and_waited_for() {
    let Some(servers) = Servers::start(1) else {
        return;
    };
    for (client, snapshotter) in both(|| builder(&servers).blocking_pool_size(1)) {
        client.ask(&cmd("DBSIZE")).unwrap();
        let holder = client.clone();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (hold, holds) = std::sync::mpsc::channel::<()>();
        let holder = thread::spawn(move || match holder {
            Client::Blocking(client) => {
                let held = client.dedicated("key").unwrap();
                hold.send(()).unwrap();
                released.recv().unwrap();
                drop(held);
            }
            Client::Async(client, runtime) => {
                let held = runtime.block_on(client.dedicated("key")).unwrap();
                hold.send(()).unwrap();
                released.recv().unwrap();
                drop(held);
            }
        });
        let exclusive = || match &client {
            Client::Blocking(client) => client.health().nodes[0].exclusive,
            Client::Async(client, _) => client.health().nodes[0].exclusive,
        };
        holds.recv().unwrap();
        assert_eq!(exclusive().in_use, 1);
        let waiter = client.clone();
        let waiter = thread::spawn(move || waiter.ask(cmd("BLPOP").arg("none").arg(0.01)));
        wait_for("one waits", || exclusive().waiting == 1);
        let figures = Figures::take(&snapshotter);
        let gauge = |name: &str, pool: &str| {
            figures.value(&format!("connections_{name}{{node=node-0,pool={pool}}}"))
        };
        assert_eq!(gauge("open", "shared"), 1.0);
        assert_eq!(gauge("in_use", "shared"), 0.0);
        let exclusives = ["open", "in_use", "waiting"].map(|name| gauge(name, "exclusive"));
        assert_eq!(exclusives, [1.0; 3]);
        assert_eq!(figures.value("node_up{node=node-0}"), 1.0);
        release.send(()).unwrap();
        holder.join().unwrap();
        waiter.join().unwrap().unwrap();
        // The snapshot has set the gauges to zero: one connection less is in use, and the other was lent and
        // given back; one was opened and one closed; nobody waits.
        let figures = Figures::take(&snapshotter);
        let gauge = |name: &str| {
            figures.value(&format!("connections_{name}{{node=node-0,pool=exclusive}}"))
        };
        assert_eq!(["in_use", "waiting"].map(gauge), [-1.0, -1.0]);
        drop(client);
        let mut open = figures.value("connections_open{node=node-0,pool=exclusive}");
        // Both connections are closed in the end, and one of them was opened after the first snapshot.
        wait_for("all are closed", || {
            let figures = Figures::take(&snapshotter);
            open += figures.value("connections_open{node=node-0,pool=exclusive}");
            open == -1.0
        });
    }
}

#[test]
fn metrics_count_resends_reconnects_other_nodes_and_nodes_that_are_down() {
    let nodes = TestNode::start_many(2).unwrap();
    let urls = || nodes.iter().map(TestNode::url);
    for (client, snapshotter) in both(|| builder_over(urls())) {
        let key = client.key("node-1");
        let get = || client.ask(cmd("GET").arg(&key));
        get().unwrap();
        nodes[1].fail_next(Fault::CloseBefore);
        get().unwrap();
        assert_eq!(nodes[1].faults_left(), 0, "the fault has fired");
        let figures = Figures::take(&snapshotter);
        assert_eq!(figures.value("resends_total{node=node-1}"), 1.0);
        assert_eq!(figures.value("requests_total{node=node-1}"), 2.0);
        assert_eq!(figures.value("reconnects_total{node=node-1}"), 1.0);
        assert_eq!(
            figures.value("request_errors_total{kind=NODEDOWN,node=node-1}"),
            0.0
        );

        nodes[1].stop();
        wait_for("the node is down", || get().is_err());
        for _ in 0..64 {
            client.ask(cmd("ECHO").arg("text")).unwrap();
        }
        let figures = Figures::take(&snapshotter);
        assert_eq!(figures.value("node_up{node=node-1}"), 0.0);
        assert!(figures.value("request_errors_total{kind=NODEDOWN,node=node-1}") >= 1.0);
        assert_eq!(
            figures.value("request_errors_total{kind=NODEDOWN,node=node-0}"),
            0.0
        );
        assert!(figures.value("other_node_total{node=node-0}") >= 1.0);
        assert_eq!(figures.value("other_node_total{node=node-1}"), 0.0);

        nodes[1].restart().unwrap();
        wait_for("the node is back", || get().is_ok());
        assert_eq!(
            Figures::take(&snapshotter).value("node_up{node=node-1}"),
            1.0
        );
    }
}

#[test]
fn metrics_show_nodes_of_a_cache_that_are_ejected() {
    let nodes = TestNode::start_many(2).unwrap();
    let urls = || nodes.iter().map(TestNode::url);
    let pause = Duration::from_millis(50);
    let ejection = Ejection::new()
        .with_window(Duration::from_millis(600))
        .with_probe_interval(pause, pause);
    for (client, snapshotter) in both(|| builder_over(urls()).cache(ejection)) {
        let key = client.key("node-1");
        let set = || client.ask(cmd("SET").arg(&key).arg("value"));
        set().unwrap();
        let gauge = "node_ejected{node=node-1}";
        let figures = Figures::take(&snapshotter);
        assert_eq!(figures.value(gauge), 0.0);
        assert_eq!(figures.value("ejections_total{node=node-1}"), 0.0);
        nodes[1].stop();
        // Of node-0, which takes its place.
        wait_for("the node is out", || set().is_ok());
        let mut ejections = 0.0;
        wait_for("the figures", || {
            let figures = Figures::take(&snapshotter);
            ejections += figures.value("ejections_total{node=node-1}");
            figures.value(gauge) == 1.0 || ejections > 0.0
        });
        assert_eq!(ejections, 1.0);
        nodes[1].restart_empty().unwrap();
        wait_for("the node is in", || {
            set().unwrap();
            nodes[1].keys().len() == 1
        });
        let figures = Figures::take(&snapshotter);
        assert_eq!(figures.value(gauge), 0.0);
        assert_eq!(figures.value("ejections_total{node=node-0}"), 0.0);
    }
}
