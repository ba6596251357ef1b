//! How clients learn the map of a Redis Cluster: the first one, slots that move, primaries that are replaced, and the many
//! ways in which servers name themselves.
#![cfg(feature = "tokio-comp")]

mod support;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use redis::{AsyncCommands, Commands, RedisResult, cmd};
use redis_sharding::partition::Ring;
use redis_sharding::{
    Builder, ClientEvent, Ejection, Error, ErrorKind, ReadFrom, ShardedClient, Topology, aio,
};
use support::clusters::{Cluster, key_in, on_each_server, servers};
use support::replicas::wait_until;

/// Long enough for everything that is only late.
const PATIENCE: Duration = Duration::from_secs(10);

fn describe(seeds: impl IntoIterator<Item = String>) -> Builder {
    let builder = ShardedClient::builder().cluster(seeds);
    builder.response_timeout(PATIENCE)
}

fn names(topology: &Topology) -> Vec<String> {
    let nodes = topology.nodes().iter();
    nodes.map(|node| node.name().to_owned()).collect()
}

fn addresses(cluster: &Cluster, nodes: &[usize]) -> Vec<String> {
    let mut addresses: Vec<String> = nodes.iter().map(|&node| cluster.addr(node)).collect();
    addresses.sort_unstable();
    addresses
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// How often the servers were asked for the map.
fn questions(cluster: &Cluster) -> u64 {
    let nodes = cluster.running().into_iter();
    nodes
        .map(|node| cluster.calls(node, "cluster|shards"))
        .sum()
}

#[test]
fn cluster_client_asks_nobody_before_its_first_request_and_one_seed_is_enough() {
    on_each_server(|server| {
        let cluster = Cluster::shared(server);
        let seed = cluster.url(1);
        let mut client = ShardedClient::cluster([seed.clone()]).unwrap();
        assert_eq!(names(&client.topology()), [cluster.addr(1)]);
        let key = key_in(cluster.own_slot(0), "first");
        let () = client.set(&key, 1).unwrap();
        assert_eq!(
            sorted(names(&client.topology())),
            addresses(&cluster, &[0, 1, 2])
        );
        assert_eq!(client.node_for(&key).unwrap().name(), cluster.addr(0));
        runtime().block_on(async {
            let mut client = aio::ShardedClient::cluster([seed]).unwrap();
            assert_eq!(client.topology().nodes().len(), 1);
            let value: i64 = client.get(&key).await.unwrap();
            assert_eq!((value, client.topology().nodes().len()), (1, 3));
        });
    });
}

#[test]
fn redirects_of_many_tasks_mend_the_cluster_map_and_refresh_it_a_few_times() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 0);
        let changes: Arc<Mutex<Vec<ClientEvent>>> = Arc::default();
        let events = Arc::clone(&changes);
        let client = describe(cluster.urls()).on_event(move |event| {
            if let ClientEvent::TopologyChanged { .. } = event {
                events.lock().unwrap().push(event.clone());
            }
        });
        let client = client.build_async().unwrap();
        let slots: Vec<u16> = (0..300).collect();
        let runtime = runtime();
        runtime.block_on(async {
            let mut client = client.clone();
            let () = client.set(key_in(0, "k"), 0).await.unwrap();
        });
        cluster.move_slots(&slots, 1);
        let before = questions(&cluster);
        let start = Instant::now();
        runtime.block_on(async {
            let tasks = slots.iter().map(|&slot| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let () = client.set(key_in(slot, "k"), slot).await?;
                    client.get::<_, u16>(key_in(slot, "k")).await
                })
            });
            let tasks: Vec<_> = tasks.collect();
            for (slot, task) in slots.iter().zip(tasks) {
                assert_eq!(task.await.unwrap().unwrap(), *slot);
            }
        });
        let (asked, time) = (questions(&cluster) - before, start.elapsed());
        // At once, then after 0.1 s, 0.2 s and so on.
        let most = 3 + time.as_millis() as u64 / 200;
        assert!(
            (1..=most).contains(&asked),
            "asked {asked} times in {time:?}"
        );
        let owner = client.node_for(key_in(7, "k")).unwrap();
        assert_eq!(owner.name(), cluster.addr(1));
        // The nodes are the same, however many slots have moved.
        assert_eq!(changes.lock().unwrap().len(), 1, "the first map");
    });
}

#[test]
fn promoted_replica_is_a_node_of_the_cluster_and_commands_to_all_nodes_wait_for_it() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        let client = describe(cluster.urls()).build().unwrap();
        let mut connection = client.clone();
        for slot in 0..100 {
            let () = connection.set(key_in(slot, "k"), slot).unwrap();
        }
        assert_eq!(
            sorted(names(&client.topology())),
            addresses(&cluster, &[0, 1, 2])
        );
        cluster.wait_until_linked();
        cluster.kill(0);
        // Its keys exist: a count without them would be wrong. It fails, or is that of the replica that took over.
        loop {
            let count: RedisResult<u64> = cmd("DBSIZE").query(&mut connection);
            match count {
                Ok(count) => break assert_eq!(count, 100),
                Err(error) => assert!(Error::of(&error).is_none_or(Error::is_retryable), "{error}"),
            }
        }
        let (promoted, _) = cluster.wait_until_promoted(0);
        assert_eq!(connection.get::<_, u16>(key_in(7, "k")).unwrap(), 7);
        let expected = addresses(&cluster, &[1, 2, promoted]);
        wait_until("the map without the dead primary", || {
            let _: RedisResult<u16> = connection.get(key_in(7, "k"));
            sorted(names(&client.topology())) == expected
        });
        assert_eq!(
            client.node_for(key_in(7, "k")).unwrap().name(),
            cluster.addr(promoted)
        );
    });
}

#[test]
fn cluster_that_cannot_be_reached_is_an_error_with_the_seeds_and_the_cause() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = format!("redis://{}/", closed.local_addr().unwrap());
    drop(closed);
    // Accepts connections, and never replies.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap(), silent);
    let silent_url = format!("redis://{}/", silent.0);
    let get = cmd("GET").arg("k").to_owned();
    let describe = |seed: &str| {
        let builder = ShardedClient::builder().cluster([seed]);
        builder.response_timeout(Duration::from_millis(300))
    };
    let runtime = runtime();
    for (seed, kind, cause) in [
        (&refusing, ErrorKind::NodeDown, "refused"),
        (&silent_url, ErrorKind::Timeout, "in time"),
    ] {
        let start = Instant::now();
        let blocking = describe(seed).build().unwrap().execute(&get).unwrap_err();
        let client = describe(seed).build_async().unwrap();
        let on_tokio = runtime.block_on(client.execute(&get)).unwrap_err();
        assert!(start.elapsed() < PATIENCE);
        for error in [blocking, on_tokio] {
            assert_eq!(error.kind(), kind, "{error}");
            let address = seed.trim_start_matches("redis://").trim_end_matches('/');
            let text = error.to_string();
            assert!(
                error.is_retryable() && text.contains(address) && text.contains(cause),
                "{text}"
            );
        }
    }
    // With one that lives, the others do no harm.
    for server in servers() {
        let cluster = Cluster::shared(&server);
        let seeds = [silent_url.clone(), refusing.clone(), cluster.url(2)];
        let client = ShardedClient::builder().cluster(seeds).build().unwrap();
        client.execute(&get).unwrap();
        assert_eq!(client.topology().nodes().len(), 3);
    }
}

#[test]
fn cluster_is_found_as_soon_as_a_seed_is_there() {
    let Some(server) = servers().into_iter().next() else {
        return;
    };
    let cluster = Cluster::start(&server, 3, 0);
    for node in 0..3 {
        cluster.pause(node);
    }
    let client = describe(cluster.urls()).build().unwrap();
    let waiting = {
        let client = client.clone();
        thread::spawn(move || client.execute(cmd("GET").arg("k")))
    };
    thread::sleep(Duration::from_millis(300));
    for node in 0..3 {
        cluster.resume(node);
    }
    waiting.join().unwrap().unwrap();
}

#[test]
fn server_that_is_none_of_a_cluster_is_a_config_error_with_the_remedy() {
    let Some(node) = support::Servers::start(1) else {
        return;
    };
    let client = ShardedClient::cluster([format!("redis://{}/", node.addr(0))]).unwrap();
    let error = client.execute(cmd("GET").arg("k")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("cluster-enabled") && text.contains("Builder::node"),
        "{text}"
    );
}

#[test]
fn cluster_servers_are_reached_however_they_announce_themselves() {
    on_each_server(|server| {
        let unknown = ["--cluster-preferred-endpoint-type", "unknown-endpoint"];
        let cluster = Cluster::builder(server).option(unknown).start(3, 0);
        let client = describe([cluster.url(1)]).build().unwrap();
        client.execute(cmd("GET").arg(key_in(0, "k"))).unwrap();
        assert_eq!(
            sorted(names(&client.topology())),
            addresses(&cluster, &[0, 1, 2])
        );
        drop(cluster);
        let by_name = ["--cluster-preferred-endpoint-type", "hostname"];
        let name = ["--cluster-announce-hostname", "nat.example"];
        let cluster = Cluster::builder(server).option(by_name).option(name);
        let cluster = cluster.start(3, 0);
        let seed = cluster.addr(1);
        let gateway = seed.rsplit_once(':').unwrap().0.to_owned();
        let client = describe([cluster.url(1)]).address_map(move |host, port| match host {
            "nat.example" => (gateway.clone(), port),
            other => (other.to_owned(), port),
        });
        let client = client.build().unwrap();
        for slot in (0..16_384).step_by(1000) {
            client
                .execute(cmd("SET").arg(key_in(slot, "k")).arg(slot))
                .unwrap();
        }
        let ports = |addresses: Vec<String>| -> Vec<String> {
            let port = |address: String| address.rsplit(':').next().unwrap().to_owned();
            addresses.into_iter().map(port).collect()
        };
        let expected = ports(addresses(&cluster, &[0, 1, 2]));
        assert_eq!(ports(sorted(names(&client.topology()))), expected);
        // A redirect names the servers as they announce themselves.
        let slot = cluster.own_slot(0);
        cluster.move_slot(slot, 2);
        client
            .execute(cmd("SET").arg(key_in(slot, "k")).arg(1))
            .unwrap();
        let mut nodes = names(&client.topology());
        nodes.sort_unstable();
        assert_eq!(ports(nodes), expected);
    });
}

#[test]
fn cluster_with_a_password_is_asked_with_it() {
    let Some(server) = servers().into_iter().next() else {
        return;
    };
    let cluster = Cluster::start(&server, 3, 0);
    for node in 0..3 {
        let () = cluster
            .ask(node, &["CONFIG", "SET", "requirepass", "pw-of-cluster"])
            .unwrap();
    }
    let get = cmd("GET").arg("k").to_owned();
    for (builder, is_right) in [
        (describe(cluster.urls()), false),
        (describe(cluster.urls()).password("pw-wrong"), false),
        (describe(cluster.urls()).password("pw-of-cluster"), true),
        (
            describe(
                cluster
                    .urls()
                    .into_iter()
                    .map(|url| url.replace("//", "//:pw-of-cluster@")),
            ),
            true,
        ),
    ] {
        match builder.build().unwrap().execute(&get) {
            Ok(_) => assert!(is_right),
            Err(error) => {
                assert!(!is_right && error.kind() == ErrorKind::Auth, "{error:?}");
                assert!(!error.to_string().contains("pw-"), "{error}");
            }
        }
    }
}

#[test]
fn replicas_of_a_cluster_are_found_and_read_from() {
    on_each_server(|server| {
        let cluster = Cluster::start(server, 3, 1);
        let client = describe(cluster.urls()).read_from(ReadFrom::PreferReplica);
        let mut client = client.build().unwrap();
        let key = key_in(7, "k");
        let () = client.set(&key, 5).unwrap();
        cluster.wait_until_linked();
        let replica = cluster.replicas(0)[0];
        let deadline = Instant::now() + PATIENCE;
        while cluster.calls(replica, "get") == 0 {
            assert_eq!(client.get::<_, u16>(&key).unwrap(), 5);
            assert!(Instant::now() < deadline, "{}", client.health());
            thread::sleep(Duration::from_millis(20));
        }
        let value: u16 = runtime().block_on(async {
            let client = describe(cluster.urls()).read_from(ReadFrom::PreferReplica);
            let mut client = client.build_async().unwrap();
            client.get(&key).await.unwrap()
        });
        assert_eq!(value, 5);
    });
}

#[test]
fn settings_that_a_cluster_cannot_have_are_config_errors_with_the_remedy() {
    let cluster = || ShardedClient::builder().cluster(["redis://10.0.0.1:7000"]);
    let none: [&str; 0] = [];
    let text = "redis-sharding topology 1\nplacement twemproxy-ketama/1\nnode 10.0.0.1:6379\n";
    let topology: Topology = text.parse().unwrap();
    for (builder, part) in [
        (
            cluster().node("a", "redis://10.0.0.1"),
            "both nodes and a cluster",
        ),
        (
            cluster().sentinel(["redis://10.0.0.1:26379"], "m"),
            "both nodes and a cluster",
        ),
        (cluster().topology(&topology), "both nodes and a cluster"),
        (cluster().partitioner(Ring::new()), "partitioner"),
        (cluster().cache(Ejection::default()), "Builder::cache"),
        (
            cluster().replica("a", "redis://10.0.0.1"),
            "Builder::replica",
        ),
        (cluster().watch_topology("/nowhere/topology"), "topology"),
        (
            cluster().cluster(["redis://:other@10.0.0.2:7000"]),
            "reached alike",
        ),
        (
            cluster().cluster(["redis://10.0.0.2:7000/1"]),
            "reached alike",
        ),
        (
            cluster().cluster(["unix:///run/redis.sock"]),
            "host and a port",
        ),
        (cluster().cluster(["http://10.0.0.2"]), "server number 1"),
        (
            ShardedClient::builder().cluster(none),
            "no server of the cluster",
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("other@"), "{error}");
    }
    let client = cluster().build().unwrap();
    let error = client.set_topology(&topology).unwrap_err();
    assert!(error.to_string().contains("cluster"), "{error}");
    let plain = ShardedClient::open(["redis://10.0.0.1"]).unwrap();
    let error = plain.set_topology(&client.topology()).unwrap_err();
    assert!(error.to_string().contains("cluster"), "{error}");
}

#[test]
fn cluster_as_a_topology_text_is_read_back_and_holds_no_password() {
    let text = "redis-sharding topology 1\n\ncluster redis://app:secret@10.0.0.1:7000/ 10.0.0.2:7000 [2001:db8::1]:7000 # seeds\n";
    let topology: Topology = text.parse().unwrap();
    assert_eq!(
        names(&topology),
        ["10.0.0.1:7000", "10.0.0.2:7000", "[2001:db8::1]:7000"]
    );
    let written = "redis-sharding topology 1\n\ncluster redis://app@10.0.0.1:7000 10.0.0.2:7000 [2001:db8::1]:7000\n";
    assert_eq!(topology.to_string().replace(":7000/", ":7000"), written);
    let shown = topology.text_with_passwords();
    assert!(shown.contains("app:secret@"), "{shown}");
    let again: Topology = topology.to_string().parse().unwrap();
    assert_eq!(again.to_string(), topology.to_string());
    let client = ShardedClient::builder()
        .topology(&topology)
        .build()
        .unwrap();
    let client_text = client.topology().text_with_passwords();
    // The others have the user of the first.
    assert_eq!(
        client_text.matches("app:secret@").count(),
        3,
        "{client_text}"
    );
    for (line, cause) in [
        ("cluster", "missing"),
        ("cluster /run/redis.sock", "host:port"),
        ("cluster redis-sentinel://10.0.0.1:26379#m", "host:port"),
        (
            "cluster 10.0.0.1:7000\ncluster 10.0.0.2:7000",
            "given in line 2",
        ),
        (
            "cluster 10.0.0.1:7000\nnode 10.0.0.2:7000",
            "decide where keys live",
        ),
        (
            "placement rendezvous/1\ncluster 10.0.0.1:7000",
            "decide where keys live",
        ),
    ] {
        let refusal = Topology::parse(&format!("redis-sharding topology 1\n{line}\n")).unwrap_err();
        assert!(refusal.to_string().contains(cause), "{line}: {refusal}");
    }
}

#[test]
fn cluster_client_in_topology_text_lists_its_primaries() {
    let Some(server) = servers().into_iter().next() else {
        return;
    };
    let cluster = Cluster::shared(&server);
    let text = format!("redis-sharding topology 1\ncluster {}\n", cluster.addr(0));
    let client = ShardedClient::builder()
        .topology(&text.parse().unwrap())
        .build()
        .unwrap();
    client.execute(cmd("GET").arg("k")).unwrap();
    let shown = client.topology().to_string();
    for node in 0..3 {
        assert!(
            shown.contains(&format!("\n# primary {}\n", cluster.addr(node))),
            "{shown}"
        );
    }
    assert_eq!(shown.parse::<Topology>().unwrap().nodes().len(), 1);
}
