//! The spans and events of both clients, as a subscriber of the crate `tracing` receives them.
#![cfg(all(feature = "tracing", feature = "tokio-comp"))]

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, RedisResult, Value, cmd, pipe};
use redis_sharding::{Builder, Ejection, ShardedClient, aio};
use support::{Servers, builder};
use tokio::runtime::Runtime;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// A span or an event.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    level: Level,
    target: String,
    fields: BTreeMap<String, String>,
    /// Number of the span in which an event occurred.
    parent: Option<usize>,
}

/// Keeps all spans and events, each with its fields as text.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Entry>>>);

/// The number of a span among the entries.
struct Number(usize);

struct Fields<'f>(&'f mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Kept {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = BTreeMap::new();
        attributes.record(&mut Fields(&mut fields));
        let metadata = attributes.metadata();
        let number = self.keep(metadata, metadata.name(), fields, None);
        let span = context.span(id).unwrap();
        span.extensions_mut().insert(Number(number));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let number = span.extensions().get::<Number>().unwrap().0;
        values.record(&mut Fields(&mut self.0.lock().unwrap()[number].fields));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        let parent = context.event_span(event);
        let parent = parent.and_then(|span| Some(span.extensions().get::<Number>()?.0));
        let name = fields.remove("message").unwrap_or_default();
        self.keep(event.metadata(), &name, fields, parent);
    }
}

impl Kept {
    fn keep(
        &self,
        metadata: &tracing::Metadata<'_>,
        name: &str,
        fields: BTreeMap<String, String>,
        parent: Option<usize>,
    ) -> usize {
        let mut entries = self.0.lock().unwrap();
        entries.push(Entry {
            name: name.to_owned(),
            level: *metadata.level(),
            target: metadata.target().to_owned(),
            fields,
            parent,
        });
        entries.len() - 1
    }

    /// All entries of the crate.
    fn entries(&self) -> Vec<Entry> {
        let entries = self.0.lock().unwrap();
        entries
            .iter()
            .filter(|entry| entry.target.starts_with("redis_sharding"))
            .cloned()
            .collect()
    }

    /// The last span of a request.
    fn last_span(&self) -> BTreeMap<String, String> {
        let entries = self.entries();
        let mut spans = entries.into_iter().rev();
        let span = spans
            .find(|entry| entry.name == "redis_request")
            .expect("there is a span");
        assert_eq!(
            (span.level, &*span.target),
            (Level::DEBUG, "redis_sharding")
        );
        span.fields
    }
}

enum Client {
    Blocking(ShardedClient),
    /// On this thread, whose subscriber is the test's.
    Async(aio::ShardedClient, Runtime),
}

fn both(describe: impl Fn() -> Builder) -> [Client; 2] {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    [
        Client::Blocking(describe().build().unwrap()),
        Client::Async(
            describe().build_async().unwrap(),
            runtime.enable_all().build().unwrap(),
        ),
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
        let mut keys = (0..).map(|number| format!("secret-key:{number}"));
        keys.find(owns).unwrap()
    }
}

#[test]
fn span_of_a_request_has_its_command_plan_and_node_and_never_a_key_or_a_value() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    for client in both(|| builder(&servers)) {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(kept.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        let (first, second) = (client.key("node-0"), client.key("node-1"));
        let address = servers.addr(0);
        let (host, port) = address.rsplit_once(':').unwrap();

        client
            .ask(cmd("SET").arg(&first).arg("secret-value"))
            .unwrap();
        let expected = [
            ("db.namespace", "0"),
            ("db.operation.name", "SET"),
            ("db.system.name", "redis"),
            ("otel.kind", "client"),
            ("otel.name", "SET"),
            ("redis_sharding.node", "node-0"),
            ("redis_sharding.plan", "one"),
            ("server.address", host),
            ("server.port", port),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(kept.last_span(), BTreeMap::from(expected));

        let plan = |span: &BTreeMap<String, String>| {
            let field = |name: &str| span.get(name).map_or("", |value| value).to_owned();
            [
                field("db.operation.name"),
                field("redis_sharding.plan"),
                field("redis_sharding.node"),
            ]
        };
        client.ask(cmd("MGET").arg(&[&first, &second])).unwrap();
        assert_eq!(plan(&kept.last_span()), ["MGET", "split", ""]);
        client.ask(&cmd("DBSIZE")).unwrap();
        assert_eq!(plan(&kept.last_span()), ["DBSIZE", "all", ""]);
        client.ask(cmd("ECHO").arg("secret-value")).unwrap();
        assert_eq!(plan(&kept.last_span()), ["ECHO", "any", ""]);
        client
            .ask_all(pipe().get(&first).get(&second).get(&first))
            .unwrap();
        let span = kept.last_span();
        assert_eq!(plan(&span), ["PIPELINE", "pipeline", ""]);
        assert_eq!(span["db.operation.batch.size"], "3");
        client
            .ask_all(pipe().atomic().get(&first).get(&first))
            .unwrap();
        let span = kept.last_span();
        assert_eq!(plan(&span), ["MULTI", "pipeline", ""]);
        assert_eq!(span["db.operation.batch.size"], "2");

        client
            .ask(cmd("LPUSH").arg(&first).arg("secret-value"))
            .unwrap_err();
        let span = kept.last_span();
        assert_eq!(span["db.response.status_code"], "WRONGTYPE");
        assert_eq!(span["error.type"], "WRONGTYPE");
        client
            .ask(cmd("RENAME").arg(&first).arg(&second))
            .unwrap_err();
        let span = kept.last_span();
        assert_eq!(plan(&span), ["RENAME", "refused", ""]);
        assert_eq!(span["error.type"], "CROSSNODE");
        client
            .ask(cmd("secret-command").arg("secret-value"))
            .unwrap_err();
        assert_eq!(plan(&kept.last_span()), ["unknown", "refused", ""]);

        let entries = kept.entries();
        assert!(entries.len() > 20, "{entries:#?}");
        for entry in entries {
            assert!(entry.level > Level::INFO, "{entry:?}");
            assert!(!format!("{entry:?}").contains("secret"), "{entry:?}");
        }
    }
}

#[test]
fn span_of_the_async_client_follows_its_future() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = builder(&servers).build_async().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let kept = Kept::default();
    let subscriber = tracing_subscriber::registry().with(kept.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    runtime.block_on(async {
        let gets = (0..20).map(|number| {
            let mut client = client.clone();
            async move {
                cmd("GET")
                    .arg(number)
                    .query_async::<Value>(&mut client)
                    .await
            }
        });
        // All at once on one thread, so that their polls alternate.
        for reply in futures_util::future::join_all(gets).await {
            reply.unwrap();
        }
        let nothing = tracing::Span::current();
        assert!(nothing.is_none(), "no span is left entered");
    });
    let all = kept.0.lock().unwrap().clone();
    let ends = all
        .iter()
        .filter(|entry| entry.name == "requests to a node have ended");
    let ends: Vec<_> = ends.collect();
    assert_eq!(ends.len(), 20);
    let mut parents: Vec<usize> = ends.iter().map(|end| end.parent.expect("a span")).collect();
    for (end, parent) in ends.iter().zip(&parents) {
        assert_eq!(end.level, Level::TRACE);
        let of_span = &all[*parent].fields["redis_sharding.node"];
        assert_eq!(&end.fields["redis_sharding.node"], of_span);
    }
    parents.sort_unstable();
    parents.dedup();
    assert_eq!(parents.len(), 20, "each in a span of its own");
}

#[test]
fn nodes_that_go_down_and_come_back_are_logged_once() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    for client in both(|| builder(&servers).response_timeout(Duration::from_secs(2))) {
        servers.restart(1);
        let kept = Kept::default();
        let subscriber = tracing_subscriber::registry().with(kept.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        let key = client.key("node-1");
        let get = || client.ask(cmd("GET").arg(&key));
        get().unwrap();
        servers.kill(1);
        let until = |answered: bool| {
            let start = Instant::now();
            while get().is_ok() != answered {
                assert!(start.elapsed() < Duration::from_secs(20), "{answered}");
                thread::sleep(Duration::from_millis(5));
            }
        };
        until(false);
        for _ in 0..20 {
            get().unwrap_err();
            thread::sleep(Duration::from_millis(20));
        }
        servers.restart(1);
        until(true);
        let lines = |level: Level| {
            let entries = kept.entries().into_iter();
            entries
                .filter(|entry| entry.level == level)
                .collect::<Vec<_>>()
        };
        let (down, up) = (lines(Level::WARN), lines(Level::INFO));
        assert_eq!((down.len(), up.len()), (1, 1), "{down:#?} {up:#?}");
        assert_eq!(down[0].name, "node is down");
        assert_eq!(down[0].fields["redis_sharding.node"], "node-1");
        assert!(
            down[0].fields["error"].contains("node node-1: "),
            "{down:?}"
        );
        assert_eq!(up[0].name, "node is up again");
        let debug = lines(Level::DEBUG);
        assert!(
            debug.iter().any(|entry| entry.name == "reconnected"),
            "{debug:#?}"
        );
    }
}

#[test]
fn log_lines_name_a_node_that_is_ejected_and_readmitted() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let pause = Duration::from_millis(50);
    let ejection = Ejection::new()
        .with_window(Duration::from_millis(600))
        .with_probe_interval(pause, pause);
    let kept = Kept::default();
    // The lines come from the thread that probes.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(kept.clone()))
        .unwrap();
    let client = builder(&servers).cache(ejection).build().unwrap();
    let get = || cmd("GET").arg("key").query::<Value>(&mut client.clone());
    let owner = client.node_for("key").unwrap().name().to_owned();
    let line = |name: &str| {
        let start = Instant::now();
        loop {
            let mut entries = kept.entries().into_iter();
            let found = |entry: &Entry| {
                entry.name == name && entry.fields.get("redis_sharding.node") == Some(&owner)
            };
            if let Some(entry) = entries.find(found) {
                return entry;
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "no line {name:?}"
            );
            let _ = get();
            thread::sleep(Duration::from_millis(5));
        }
    };
    let index = usize::from(owner == "node-1");
    servers.kill(index);
    let ejected = line("node was ejected");
    assert_eq!(
        (ejected.level, &*ejected.fields["failures"]),
        (Level::WARN, "3")
    );
    servers.restart(index);
    assert_eq!(line("node was readmitted").level, Level::INFO);
}
