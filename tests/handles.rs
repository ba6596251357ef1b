//! When one must think of nodes.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Commands, ConnectionLike, RedisResult, Value, cmd, pipe};
use redis_sharding::command::CommandSpec;
use redis_sharding::{ErrorKind, ShardedClient};
use support::{Servers, client};

#[test]
fn node_handle_sends_commands_to_its_own_server_only() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = client(&servers);
    assert!(client.node("nobody").is_none());
    let mut node = client.node("node-1").unwrap();
    assert_eq!((node.name(), node.index().get()), ("node-1", 1));
    let _: () = node.set("anything", 1).unwrap();
    let direct: i64 = Commands::get(&mut servers.connection(1), "anything").unwrap();
    assert_eq!(direct, 1);
    let info: redis::InfoDict = cmd("INFO").query(&mut node).unwrap();
    assert!(info.get::<String>("redis_version").is_some());
    let (a, b): (i64, i64) = pipe()
        .atomic()
        .incr("x", 1)
        .incr("y", 1)
        .query(&mut node)
        .unwrap();
    assert_eq!((a, b), (1, 1));
    let (c,): (Value,) = pipe().cmd("OBJECT").arg("HELP").query(&mut node).unwrap();
    assert!(matches!(c, Value::Array(_)));
    let error = cmd("NOSUCH").query::<Value>(&mut node).unwrap_err();
    assert!(
        error.to_string().contains("unknown command"),
        "the server itself says so: {error}"
    );
    let error = cmd("SUBSCRIBE")
        .arg("c")
        .query::<Value>(&mut node)
        .unwrap_err();
    assert_eq!(ErrorKind::of(&error), ErrorKind::Stateful);
    assert!(node.check_connection());
    assert_eq!(
        client
            .nodes()
            .map(|node| node.name().to_owned())
            .collect::<Vec<_>>(),
        ["node-0", "node-1", "node-2"]
    );
}

#[test]
fn topology_and_node_handles_outlive_their_client() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = client(&servers);
    let (topology, nodes) = (client.topology(), client.nodes());
    assert_eq!(nodes.len(), 3);
    drop(client);
    for (index, mut node) in topology.indices().zip(nodes) {
        let spec = topology.node(index);
        assert_eq!((node.id(), node.index()), (spec.id(), index));
        assert_eq!(topology.index_of_id(node.id()), Some(index));
        assert_eq!((node.spec(), node.name()), (spec, spec.name()));
        let () = node.set("mine", node.name().to_owned()).unwrap();
    }
    for number in 0..3 {
        let name: String = Commands::get(&mut servers.connection(number), "mine").unwrap();
        assert_eq!(name, format!("node-{number}"));
    }
    assert_eq!(topology.epoch(), 0);
}

#[cfg(feature = "proxy")]
#[tokio::test]
async fn node_ids_are_the_same_in_both_clients_and_the_proxy() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let ids: Vec<_> = client(&servers).nodes().map(|node| node.id()).collect();
    let asynchronous = support::builder(&servers).build_async().unwrap();
    let nodes = asynchronous.nodes();
    drop(asynchronous);
    for (mut node, id) in nodes.zip(&ids) {
        assert_eq!(node.id(), *id);
        let pong: String = cmd("PING").query_async(&mut node).await.unwrap();
        assert_eq!(pong, "PONG");
    }
    let proxy = support::builder(&servers).build_proxy().unwrap();
    let topology = proxy.topology();
    drop(proxy);
    let of_proxy: Vec<_> = topology.nodes().iter().map(|node| node.id()).collect();
    assert_eq!(of_proxy, ids);
}

#[test]
fn transaction_repeats_after_a_watch_conflict() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = client(&servers);
    let key = "counter:{7}";
    let attempts = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let (_,): (i64,) = client
                        .transaction(key, |connection, pipeline| {
                            attempts.fetch_add(1, Ordering::Relaxed);
                            let old: Option<i64> = connection.get(key)?;
                            pipeline
                                .set(key, old.unwrap_or(0) + 1)
                                .ignore()
                                .get(key)
                                .query(connection)
                        })
                        .unwrap();
                }
            });
        }
    });
    let total: i64 = client.clone().get(key).unwrap();
    assert_eq!(total, 200);
    assert!(attempts.load(Ordering::Relaxed) >= 200);
}

#[test]
fn transaction_refuses_keys_of_other_nodes() {
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let client = client(&servers);
    let apart = client.transaction(&["a", "b", "c", "d"], |_, _| Ok(Some(())));
    assert_eq!(ErrorKind::of(&apart.unwrap_err()), ErrorKind::CrossNode);
    let none: RedisResult<()> = client.transaction(&[] as &[&str], |_, _| Ok(Some(())));
    assert_eq!(ErrorKind::of(&none.unwrap_err()), ErrorKind::Unroutable);
    let home = client.node_for("{t}").unwrap().name().to_owned();
    let foreign = (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| client.node_for(key).unwrap().name() != home);
    let foreign = foreign.unwrap();
    let strayed: RedisResult<()> = client.transaction("{t}", |connection, pipeline| {
        pipeline.set(&foreign, 1).query(connection)
    });
    assert_eq!(ErrorKind::of(&strayed.unwrap_err()), ErrorKind::CrossNode);
    let everything = client.scan_all().count();
    assert_eq!(everything, 0, "nothing was written");
}

#[test]
fn transaction_leaves_no_watch_on_its_connection() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = client(&servers);
    for _ in 0..3 {
        client
            .transaction("k", |connection, _| {
                let _: Option<i64> = connection.get("k")?;
                Ok(Some(()))
            })
            .unwrap();
    }
    let _: () = client.clone().set("k", 1).unwrap();
    let (value,): (i64,) = client
        .transaction("other:{k}", |connection, pipeline| {
            pipeline.incr("{k}n", 1).query(connection)
        })
        .unwrap();
    assert_eq!(value, 1);
}

#[test]
fn dedicated_connection_keeps_client_setname_and_watch_to_itself() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let client = client(&servers);
    let mut dedicated = client.dedicated("k").unwrap();
    assert_eq!(dedicated.node_name(), client.node_for("k").unwrap().name());
    cmd("CLIENT")
        .arg("SETNAME")
        .arg("mine")
        .exec(&mut dedicated)
        .unwrap();
    let name: String = cmd("CLIENT").arg("GETNAME").query(&mut dedicated).unwrap();
    assert_eq!(name, "mine");
    cmd("WATCH").arg("k").exec(&mut dedicated).unwrap();
    let _: () = client.clone().set("k", "changed").unwrap();
    let lost: Option<(i64,)> = pipe()
        .atomic()
        .incr("{k}n", 1)
        .query(&mut dedicated)
        .unwrap();
    assert_eq!(lost, None, "the watched key changed");
    cmd("MULTI").exec(&mut dedicated).unwrap();
    let queued: String = cmd("INCR").arg("{k}n").query(&mut dedicated).unwrap();
    assert_eq!(queued, "QUEUED");
    let done: (i64,) = cmd("EXEC").query(&mut dedicated).unwrap();
    assert_eq!(done, (1,));

    let home = dedicated.node_name().to_owned();
    let foreign = (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| client.node_for(key).unwrap().name() != home);
    let strayed = Commands::set::<_, _, ()>(&mut dedicated, foreign.unwrap(), 1);
    assert_eq!(ErrorKind::of(&strayed.unwrap_err()), ErrorKind::CrossNode);
    drop(dedicated);
    let mut next = client.dedicated("k").unwrap();
    let name: Option<String> = cmd("CLIENT").arg("GETNAME").query(&mut next).unwrap();
    assert!(
        name.unwrap_or_default().is_empty(),
        "a changed connection is not used again"
    );
}

#[test]
fn dedicated_connection_receives_pubsub_messages() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = client(&servers);
    let mut dedicated = client.dedicated("news").unwrap();
    let mut listener = dedicated.as_pubsub().unwrap();
    listener.subscribe("news").unwrap();
    let heard: i64 = client.clone().publish("news", "hello").unwrap();
    assert_eq!(
        heard, 1,
        "PUBLISH goes to the node that owns the channel's name"
    );
    listener
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let message: String = listener.get_message().unwrap().get_payload().unwrap();
    assert_eq!(message, "hello");
}

#[test]
fn declared_command_is_routed_by_its_keys() {
    let Some(servers) = Servers::start(3) else {
        return;
    };
    let mut builder = ShardedClient::builder();
    for (number, url) in servers.urls().into_iter().enumerate() {
        builder = builder.node(format!("node-{number}"), url);
    }
    let client = builder
        .command(CommandSpec::declare("MY.GET").arity(2).key(1).read())
        .build()
        .unwrap();
    let error = client.execute(cmd("MY.GET").arg("k")).unwrap_err();
    let home = client.node_for("k").unwrap().name().to_owned();
    assert!(
        error.to_string().contains("unknown command"),
        "it was sent: {error}"
    );
    assert_eq!(error.node(), Some(&home[..]), "to the owner: {error}");
}

#[test]
fn blpop_does_not_delay_other_commands_of_the_blocking_client() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let client = support::builder(&servers)
        .response_timeout(Duration::from_millis(300))
        .pool_size(1)
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        let mut waiting = client.clone();
        let popped = scope.spawn(move || {
            cmd("BLPOP")
                .arg("{q}list")
                .arg(10)
                .query::<(String, String)>(&mut waiting)
        });
        let mut other = client.clone();
        for _ in 0..50 {
            let _: Option<String> = other.get("{q}beside").unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        let _: () = other.rpush("{q}list", "item").unwrap();
        let answer = popped.join().unwrap().unwrap();
        assert_eq!(
            answer.1, "item",
            "its own time comes on top of the response timeout"
        );
    });
    let nothing: Option<(String, String)> = cmd("BLPOP")
        .arg("{q}list")
        .arg(0.4)
        .query(&mut client.clone())
        .unwrap();
    assert_eq!(nothing, None);
}

#[cfg(feature = "r2d2")]
#[test]
fn client_is_an_r2d2_connection_manager() {
    let Some(servers) = Servers::start(2) else {
        return;
    };
    let pool = r2d2::Pool::builder()
        .max_size(2)
        .build(client(&servers))
        .unwrap();
    let mut connection = pool.get().unwrap();
    let _: () = Commands::set(&mut *connection, "k", 1).unwrap();
    assert_eq!(Commands::get::<_, i64>(&mut *connection, "k").unwrap(), 1);
}

#[test]
fn wait_covers_the_writes_of_every_connection_of_the_client() {
    let Some(primary) = Servers::builder()
        .option(["--repl-diskless-sync-delay", "0"])
        .start(1)
    else {
        return;
    };
    let address = primary.addr(0);
    let (host, port) = address.rsplit_once(':').unwrap();
    let replica = Servers::builder()
        .option(["--replicaof", host, port])
        .start(1)
        .unwrap();
    let mut client = client(&primary);
    let _: () = client.set("k", 1).unwrap();
    let synced = |client: &mut ShardedClient, limit: u64| {
        cmd("WAIT").arg(1).arg(limit).query::<i64>(client).unwrap()
    };
    assert_eq!(synced(&mut client, 20_000), 1, "the replica catches up");
    replica.pause(0);
    let _: () = client.set("k", 2).unwrap();
    assert_eq!(
        synced(&mut client, 300),
        0,
        "the connection that waits is not the one that wrote"
    );
    replica.resume(0);
    assert_eq!(synced(&mut client, 20_000), 1);
    assert_eq!(client.get::<_, i64>("k").unwrap(), 2);
}
