//! The record that nodes keep of their fleet: publishing it, clients and a proxy that follow it, and what happens when it is
//! lost.
#![cfg(feature = "proxy")]

mod support;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Value, cmd};
use redis_sharding::ops::{FleetRecord, PublishOptions, RecordState};
use redis_sharding::{
    Builder, ClientEvent, Ejection, Error, ErrorKind, ShardedClient, Topology, aio,
};
use support::all_clients::{AllClients, AnyClient};
use support::{Servers, builder, builder_over};

/// More than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

const RECORD: &str = "redis-sharding:record";

fn topology(builder: Builder) -> Topology {
    (*builder.build().unwrap().topology()).clone()
}

fn record_of(topology: &Topology) -> FleetRecord {
    FleetRecord::new(ShardedClient::builder().topology(topology)).unwrap()
}

fn publish(topology: &Topology) {
    let record = record_of(topology);
    record.publish(topology, PublishOptions::default()).unwrap();
}

/// Servers that all name the topology of a client over them.
fn published(count: usize) -> Option<(Servers, Topology)> {
    let servers = Servers::start(count)?;
    let topology = topology(builder(&servers));
    publish(&topology);
    Some((servers, topology))
}

fn agreed(topology: &Topology) -> Builder {
    ShardedClient::builder().topology(topology).agreed()
}

fn states(topology: &Topology) -> Vec<RecordState> {
    let report = record_of(topology).check();
    report.nodes.iter().map(|node| node.state).collect()
}

#[track_caller]
fn wait_for(what: &str, mut is_done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn each(clients: &AllClients, mut act: impl FnMut(&mut AnyClient)) {
    for mut client in clients.each() {
        act(&mut client);
    }
}

/// A key of each node.
fn keys(topology: &Topology) -> Vec<String> {
    let of = |node: usize| {
        let mut keys = (0..).map(|number| format!("key:{number}"));
        let is_own = |key: &String| topology.locate(key.as_bytes()).unwrap().get() == node;
        keys.find(is_own).unwrap()
    };
    (0..topology.nodes().len()).map(of).collect()
}

// -------------------------------------------------------------------------------------------------------- publishing

#[test]
fn topology_is_published_on_every_node_once_and_checked() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let topology = topology(builder(&servers));
    assert_eq!(states(&topology), [RecordState::Missing; 3]);
    let record = record_of(&topology);
    let first = record
        .publish(&topology, PublishOptions::default())
        .unwrap();
    assert_eq!((first.written, first.retired, first.term), (3, 0, 1));
    let report = record.check();
    assert!(report.is_fine());
    for node in &report.nodes {
        assert_eq!(node.epoch.as_deref(), Some("1.1"));
        assert_eq!(node.fingerprint, Some(topology.fingerprint()));
    }
    assert_eq!(record.show().len(), 1);
    assert_eq!(record.show()[0].0, topology.to_string());
    let again = record
        .publish(&topology, PublishOptions::default())
        .unwrap();
    assert_eq!((again.written, again.term), (0, 1));
    servers.kill(1);
    let report = record.check();
    assert!(!report.is_fine());
    assert_eq!(report.nodes[1].state, RecordState::Unreachable);
    let error = record
        .publish(&topology, PublishOptions::default())
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.node()),
        (ErrorKind::NodeDown, Some("node-1"))
    );
}

#[test]
fn topology_that_would_move_keys_is_refused_unless_the_nodes_are_empty_or_a_cache() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let of = |count: usize| topology(builder_over(servers.urls().into_iter().take(count)));
    let (three, four) = (of(3), of(4));
    publish(&three);
    // No keys yet.
    publish(&four);
    assert_eq!(states(&four), [RecordState::Current; 4]);
    let mut client = agreed(&four).build().unwrap();
    for key in keys(&four) {
        let () = cmd("SET").arg(key).arg(1).query(&mut client).unwrap();
    }
    let record = record_of(&three);
    let error = record
        .publish(&three, PublishOptions::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(
        text.contains("redis-sharding reshard") && text.contains("has keys"),
        "{text}"
    );
    assert_eq!(states(&four), [RecordState::Current; 4]);
    let options = PublishOptions::default().with_allow_moves(true);
    let published = record.publish(&three, options).unwrap();
    assert_eq!((published.written, published.retired), (3, 1));
    assert_eq!(states(&three), [RecordState::Current; 3]);
    assert_eq!(states(&four)[3], RecordState::Retired);
    // The client goes on without the node that has left.
    wait_for("three nodes", || client.topology().nodes().len() == 3);
    for key in keys(&three) {
        let _: Option<i64> = cmd("GET").arg(key).query(&mut client).unwrap();
    }
}

#[test]
fn record_is_written_to_a_node_whose_memory_is_full() {
    let Some((servers, topology)) = published(2) else {
        return;
    };
    let mut node = servers.connection(0);
    let () = cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg(1)
        .query(&mut node)
        .unwrap();
    assert!(cmd("SET").arg("k").arg("v").exec(&mut node).is_err());
    let () = cmd("SELECT").arg(15).query(&mut node).unwrap();
    let () = cmd("DEL").arg(RECORD).query(&mut node).unwrap();
    assert_eq!(states(&topology)[0], RecordState::Missing);
    publish(&topology);
    assert_eq!(states(&topology), [RecordState::Current; 2]);
}

#[test]
fn of_several_who_publish_different_topologies_at_a_time_none_spoils_the_record() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let urls = servers.urls();
    let named = |number: usize| {
        let nodes = urls.iter().enumerate();
        let nodes = nodes.fold(ShardedClient::builder(), |builder, (node, url)| {
            builder.node(format!("{number}-{node}"), url.as_str())
        });
        topology(nodes)
    };
    let topologies: Vec<Topology> = (0..4).map(named).collect();
    thread::scope(|scope| {
        for topology in &topologies {
            scope.spawn(move || {
                for _ in 0..5 {
                    let record = record_of(topology);
                    let result = record.publish(topology, PublishOptions::default());
                    if let Err(error) = result {
                        let kinds = [ErrorKind::NodeDown, ErrorKind::Stale];
                        assert!(kinds.contains(&error.kind()), "{error}");
                    }
                }
            });
        }
    });
    publish(&topologies[2]);
    assert_eq!(states(&topologies[2]), [RecordState::Current; 3]);
}

#[test]
fn node_that_has_left_is_retired() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let all = topology(builder(&servers));
    let two = topology(builder_over(servers.urls().into_iter().take(2)));
    publish(&all);
    servers.kill(2);
    let record = record_of(&two);
    let published = record.publish(&two, PublishOptions::default()).unwrap();
    assert_eq!(published.not_retired, [servers.addr(2)]);
    servers.restart(2);
    let error = record.retire(servers.url(0)).unwrap_err();
    assert!(error.to_string().contains("cannot be retired"), "{error}");
    record.retire(servers.url(2)).unwrap();
    assert_eq!(states(&all)[2], RecordState::Retired);
    let mut client = agreed(&all).build().unwrap();
    let key = &keys(&all)[2];
    let error: Error = client_error(&mut client, key);
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
}

fn client_error(client: &mut ShardedClient, key: &str) -> Error {
    let mut get = cmd("GET");
    client.execute(get.arg(key)).unwrap_err()
}

// ---------------------------------------------------------------------------------------------------------- following

#[test]
fn all_clients_follow_the_record_and_their_connections_name_it() {
    let Some((servers, topology)) = published(3) else {
        return;
    };
    let clients = AllClients::open(|| agreed(&topology).client_name("web"));
    for (number, mut client) in clients.each().into_iter().enumerate() {
        for key in keys(&topology) {
            let () = client.ask(&["SET", &key, &number.to_string()]).unwrap();
            let value: usize = client.ask(&["GET", &key]).unwrap();
            assert_eq!(value, number);
        }
    }
    for node in 0..3 {
        let list: String = cmd("CLIENT")
            .arg("LIST")
            .query(&mut servers.connection(node))
            .unwrap();
        let count = |name: &str| list.matches(&format!("name=web#rs.{name} ")).count();
        assert!(count("c.1.1") >= 3, "{list}");
        assert_eq!(count("c.0.0"), 0, "{list}");
    }
    let error = clients.set_topology(&topology).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("topology publish"), "{error}");
}

#[test]
fn client_with_another_topology_is_refused_with_both_fingerprints() {
    let Some((servers, published)) = published(2) else {
        return;
    };
    let other = topology(builder(&servers).partitioner(redis_sharding::partition::Ring::new()));
    let clients = AllClients::open(|| agreed(&other));
    each(&clients, |client| {
        for key in ["a", "b", "c"] {
            let error = client.ask::<Value>(&["SET", key, "1"]).unwrap_err();
            assert_eq!(ErrorKind::of(&error), ErrorKind::Stale, "{error}");
            let text = error.to_string();
            for fingerprint in [published.fingerprint(), other.fingerprint()] {
                assert!(text.contains(&format!("{fingerprint:016x}")), "{text}");
            }
        }
    });
    for node in 0..2 {
        let keys: i64 = cmd("DBSIZE").query(&mut servers.connection(node)).unwrap();
        assert_eq!(keys, 0);
    }
}

#[test]
fn nodes_without_a_record_refuse_agreed_clients_only() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let clients = AllClients::open(|| builder(&servers).agreed());
    each(&clients, |client| {
        let error = client.ask::<Value>(&["SET", "a", "1"]).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Stale, "{error}");
        assert!(error.to_string().contains("topology publish"), "{error}");
    });
    let () = cmd("SET")
        .arg("a")
        .arg(1)
        .query(&mut builder(&servers).build().unwrap())
        .unwrap();
    publish(&topology(builder(&servers)));
    each(&clients, |client| {
        wait_for("the record", || {
            client.ask::<Value>(&["SET", "a", "1"]).is_ok()
        });
    });
}

#[test]
fn clients_are_told_of_another_topology_without_sending_anything() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let of = |count: usize| topology(builder_over(servers.urls().into_iter().take(count)));
    let (three, four) = (of(3), of(4));
    publish(&three);
    let clients = AllClients::open(|| agreed(&three));
    each(&clients, |client| {
        for key in keys(&three) {
            let () = client.ask(&["SET", &key, "1"]).unwrap();
        }
    });
    let options = PublishOptions::default().with_allow_moves(true);
    record_of(&four).publish(&four, options).unwrap();
    for (number, _) in clients.each().iter().enumerate() {
        wait_for("four nodes", || {
            clients.topologies()[number].nodes().len() == 4
        });
    }
    each(&clients, |client| {
        for key in keys(&four) {
            let () = client.ask(&["SET", &key, "2"]).unwrap();
        }
    });
    let mut last = servers.connection(3);
    let count: i64 = cmd("DBSIZE").query(&mut last).unwrap();
    assert_eq!(count, 1);
}

#[test]
fn node_that_moves_to_another_address_is_followed() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let mut urls: Vec<String> = servers.urls().into_iter().take(3).collect();
    let before = topology(builder_over(urls.clone()));
    publish(&before);
    let clients = AllClients::open(|| agreed(&before));
    each(&clients, |client| {
        for key in keys(&before) {
            let () = client.ask(&["SET", &key, "1"]).unwrap();
        }
    });
    urls[1] = servers.url(3);
    let after = topology(builder_over(urls));
    assert_eq!(before.fingerprint(), after.fingerprint());
    let published = record_of(&after)
        .publish(&after, PublishOptions::default())
        .unwrap();
    assert_eq!((published.written, published.retired), (3, 1));
    for (number, _) in clients.each().iter().enumerate() {
        wait_for("the address", || {
            clients.topologies()[number].nodes()[1].address() == servers.addr(3)
        });
    }
    each(&clients, |client| {
        for key in keys(&after) {
            let () = client.ask(&["SET", &key, "2"]).unwrap();
        }
    });
    let value: i64 = cmd("GET")
        .arg(&keys(&after)[1])
        .query(&mut servers.connection(3))
        .unwrap();
    assert_eq!(value, 2);
}

#[test]
fn clients_discover_the_topology_from_any_node() {
    let Some((servers, topology)) = published(3) else {
        return;
    };
    let client = ShardedClient::discover([servers.url(2)]).unwrap();
    assert_eq!(client.topology().fingerprint(), topology.fingerprint());
    let () = cmd("SET")
        .arg("a")
        .arg(1)
        .query(&mut client.clone())
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // The first one is down.
        let seeds = ["redis://127.0.0.1:1/".to_owned(), servers.url(1)];
        let mut client = aio::ShardedClient::discover(seeds).await.unwrap();
        let value: i64 = cmd("GET").arg("a").query_async(&mut client).await.unwrap();
        assert_eq!(value, 1);
    });
    let Some(others) = Servers::start(1) else {
        return;
    };
    let seeds = ["redis://127.0.0.1:1/".to_owned(), others.url(0)];
    let error = ShardedClient::discover(seeds).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1: "), "{error}");
    assert!(
        error.contains(&others.addr(0)) && error.contains("no record"),
        "{error}"
    );
    let error = ShardedClient::discover(Vec::<String>::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn passwords_are_not_in_the_record_and_come_from_the_client() {
    let Some(servers) = Servers::builder().password("hunter2").start(2) else {
        return;
    };
    let topology = topology(builder(&servers));
    let record = FleetRecord::new(builder(&servers)).unwrap();
    record
        .publish(&topology, PublishOptions::default())
        .unwrap();
    assert!(record.check().is_fine());
    let texts = record.show();
    assert!(!texts[0].0.contains("hunter2"));
    let clients = AllClients::open(|| builder(&servers).agreed());
    each(&clients, |client| {
        for key in keys(&topology) {
            let () = client.ask(&["SET", &key, "1"]).unwrap();
        }
    });
    let discovered = ShardedClient::discover([servers.url(1)]).unwrap();
    let count: i64 = cmd("DBSIZE").query(&mut discovered.clone()).unwrap();
    assert_eq!(count, 2);
}

// ------------------------------------------------------------------------------------------------------ what is lost

#[test]
fn commands_about_the_data_do_not_meet_the_record() {
    let Some((servers, topology)) = published(2) else {
        return;
    };
    let clients = AllClients::open(|| agreed(&topology));
    each(&clients, |client| {
        let () = client.ask(&["SET", "a", "1"]).unwrap();
        assert_eq!(client.ask::<Vec<String>>(&["KEYS", "*"]).unwrap(), ["a"]);
        assert_eq!(client.ask::<i64>(&["DBSIZE"]).unwrap(), 1);
        assert_eq!(client.ask::<String>(&["RANDOMKEY"]).unwrap(), "a");
        let () = client.ask(&["FLUSHALL"]).unwrap();
        assert_eq!(states(&topology), [RecordState::Current; 2]);
        assert_eq!(client.ask::<i64>(&["DBSIZE"]).unwrap(), 0);
        assert_eq!(client.ask::<Option<String>>(&["RANDOMKEY"]).unwrap(), None);
        let () = client.ask(&["FLUSHDB"]).unwrap();
        assert_eq!(states(&topology), [RecordState::Current; 2]);
    });
    for node in 0..2 {
        let functions: Vec<Value> = cmd("FUNCTION")
            .arg("LIST")
            .query(&mut servers.connection(node))
            .unwrap();
        assert!(functions.is_empty());
    }
}

#[test]
fn record_that_somebody_else_has_removed_is_written_again_at_once() {
    let Some((servers, topology)) = published(3) else {
        return;
    };
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&events);
    let client = agreed(&topology)
        .on_event(move |event| match event {
            ClientEvent::RecordLost { .. } | ClientEvent::RecordRepaired { .. } => {
                seen.lock().unwrap().push(event.to_string());
            }
            _ => {}
        })
        .build()
        .unwrap();
    for key in keys(&topology) {
        let () = cmd("SET")
            .arg(key)
            .arg(1)
            .query(&mut client.clone())
            .unwrap();
    }
    let () = cmd("FLUSHALL").query(&mut servers.connection(1)).unwrap();
    wait_for("the repair", || {
        *events.lock().unwrap() == ["record lost: node node-1", "record repaired: node node-1"]
    });
    assert_eq!(states(&topology), [RecordState::Current; 3]);
    for key in keys(&topology) {
        let () = cmd("SET")
            .arg(key)
            .arg(2)
            .query(&mut client.clone())
            .unwrap();
    }
}

#[test]
fn record_that_was_written_to_another_server_is_sealed_again() {
    let Some((servers, topology)) = published(3) else {
        return;
    };
    let client = agreed(&topology).build().unwrap();
    for key in keys(&topology) {
        let () = cmd("SET")
            .arg(key)
            .arg(1)
            .query(&mut client.clone())
            .unwrap();
    }
    // As after a restart from a snapshot.
    let mut node = servers.connection(1);
    let () = cmd("SELECT").arg(15).query(&mut node).unwrap();
    let record: String = cmd("GET").arg(RECORD).query(&mut node).unwrap();
    let (text, _) = record.split_once("seal").unwrap();
    let copied = format!("{text}seal \"of-another-server\"\n");
    let () = cmd("SET").arg(RECORD).arg(copied).query(&mut node).unwrap();
    wait_for("the seal", || {
        states(&topology) == [RecordState::Current; 3]
    });
    let sealed: String = cmd("GET").arg(RECORD).query(&mut node).unwrap();
    assert_eq!(sealed, record);
}

#[test]
fn node_that_restarts_empty_is_refused_until_a_client_has_repaired_its_record() {
    let Some((servers, topology)) = published(3) else {
        return;
    };
    let keys = keys(&topology);
    let clients = AllClients::open(|| agreed(&topology));
    each(&clients, |client| {
        for key in &keys {
            let () = client.ask(&["SET", key, "1"]).unwrap();
        }
    });
    servers.restart(1);
    each(&clients, |client| {
        wait_for("the repair", || {
            match client.ask::<Value>(&["SET", &keys[1], "2"]) {
                Ok(_) => true,
                Err(error) => {
                    let kinds = [ErrorKind::Stale, ErrorKind::NodeDown, ErrorKind::Unknown];
                    assert!(kinds.contains(&ErrorKind::of(&error)), "{error}");
                    false
                }
            }
        });
    });
    assert_eq!(states(&topology), [RecordState::Current; 3]);
}

#[test]
fn record_is_not_repaired_where_most_other_nodes_cannot_be_asked() {
    let Some((servers, topology)) = published(3) else {
        return;
    };
    let client = agreed(&topology).build().unwrap();
    let keys = keys(&topology);
    for key in &keys {
        let () = cmd("SET")
            .arg(key)
            .arg(1)
            .query(&mut client.clone())
            .unwrap();
    }
    servers.kill(0);
    servers.kill(2);
    servers.restart(1);
    // Neither a client that has known all of them, nor a new one.
    for mut client in [client, agreed(&topology).build().unwrap()] {
        wait_for("the refusal", || {
            client_error(&mut client, &keys[1]).kind() == ErrorKind::Stale
        });
        thread::sleep(Duration::from_millis(1000));
        assert_eq!(client_error(&mut client, &keys[1]).kind(), ErrorKind::Stale);
    }
    assert_eq!(states(&topology)[1], RecordState::Missing);
}

// ------------------------------------------------------------------------------------------------------ descriptions

#[test]
fn agreed_clients_refuse_what_does_not_go_with_a_record() {
    let nodes = || {
        ShardedClient::builder()
            .node("a", "redis://10.0.0.1/")
            .node("b", "redis://10.0.0.2/")
            .agreed()
    };
    let refused = |builder: Builder, expected: &str| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains("leave out") || text.contains("use another"),
            "{text}"
        );
    };
    refused(
        ShardedClient::builder()
            .cluster(["redis://10.0.0.1/"])
            .agreed(),
        "Redis Cluster",
    );
    refused(nodes().cache(Ejection::default()), "ejects nodes");
    refused(nodes().watch_topology("/nowhere"), "file");
    refused(nodes().discover_replicas(), "replicas");
    refused(
        ShardedClient::builder()
            .node("a", "redis://10.0.0.1/15")
            .agreed(),
        "database 15",
    );
    assert!(nodes().build().is_ok());
    let error = FleetRecord::new(ShardedClient::builder().node("a", "redis://10.0.0.1/15"));
    assert!(error.unwrap_err().to_string().contains("database 15"));
}
