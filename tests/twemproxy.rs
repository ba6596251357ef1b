//! Moving from twemproxy to the client side: what nutcracker has written is found, and the other way round.
//!
//! The pool and the topology are those of docs/from-twemproxy.md, word by word but for the addresses. Without `nutcracker` in the PATH
//! these tests are left out, and say so.

mod support;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis_sharding::redis::{self, IntoConnectionInfo};
use redis_sharding::{NodeIndex, ShardedClient, Topology};
use support::Servers;
use support::servers::Watchdog;
use tempfile::TempDir;

const PAGE: &str = include_str!("../docs/from-twemproxy.md");
const KEYS: &str = include_str!("vectors/keys.txt");
const READY_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn migration_from_the_twemproxy_pool_of_the_readme_moves_no_key() {
    let Some(nutcracker) = nutcracker() else {
        return;
    };
    let Some(servers) = Servers::start(4) else {
        return;
    };
    let addresses: Vec<String> = (0..4).map(|server| servers.addr(server)).collect();
    let with_addresses = |text: &str| {
        let replace = |text: String, number: usize| {
            text.replace(&format!("10.0.0.{}:6379", number + 1), &addresses[number])
        };
        (0..4).fold(text.to_owned(), replace)
    };
    let pool = with_addresses(block(PAGE, "```yaml"));
    let topology = with_addresses(block(PAGE, "```text"));
    assert!(
        addresses
            .iter()
            .all(|address| pool.contains(address) && topology.contains(address))
    );
    let proxy = Proxy::start(&nutcracker, &pool.replace("127.0.0.1:22121", "SOCKET"));
    check(&proxy, &servers, &Topology::parse(&topology).unwrap());
}

#[test]
fn migration_from_a_twemproxy_pool_without_names_moves_no_key() {
    let Some(nutcracker) = nutcracker() else {
        return;
    };
    for (distribution, hash, weights) in [
        ("ketama", "md5", [1, 1, 1, 1]),
        ("ketama", "murmur", [1, 5, 2, 1]),
        ("modula", "crc32a", [1, 2, 1, 1]),
    ] {
        let Some(servers) = Servers::start(4) else {
            return;
        };
        let mut pool = format!(
            "p:\n  listen: SOCKET\n  redis: true\n  hash: {hash}\n  distribution: {distribution}\n  servers:\n"
        );
        let mut topology = format!(
            "redis-sharding topology 1\nplacement twemproxy-{distribution}/1\noption hash = {hash}\n"
        );
        for (server, weight) in weights.into_iter().enumerate() {
            let address = servers.addr(server);
            pool.push_str(&format!("    - {address}:{weight}\n"));
            topology.push_str(&format!("node {address} weight={weight}\n"));
        }
        let proxy = Proxy::start(&nutcracker, &pool);
        check(&proxy, &servers, &Topology::parse(&topology).unwrap());
    }
}

/// Pools with `auto_eject_hosts` while one of five servers is dead, and while two are: where nutcracker puts each key, as the
/// servers themselves say.
#[test]
fn topology_with_nodes_out_places_keys_as_twemproxy_does_while_servers_are_ejected() {
    let Some(nutcracker) = nutcracker() else {
        return;
    };
    let Some(servers) = Servers::start(5) else {
        return;
    };
    let names = ["cache-e", "b", "cache-d", "cache-c", "aa"];
    for (distribution, hash, weights, named, dead) in [
        ("ketama", "fnv1a_64", [1, 1, 1, 1, 1], false, [3, 0]),
        ("ketama", "md5", [1, 5, 2, 1, 3], false, [1, 4]),
        ("ketama", "murmur", [1, 1, 1, 1, 1], true, [0, 1]),
        ("ketama", "crc16", [7, 1, 1, 2, 1], true, [4, 2]),
        ("modula", "crc32a", [1, 1, 1, 1, 1], false, [2, 3]),
        ("modula", "jenkins", [1, 2, 3, 1, 2], true, [1, 2]),
    ] {
        let case = format!("{distribution} {hash} {weights:?}, dead {dead:?}");
        // Ejected by the first failure, for longer than the test takes.
        let mut pool = format!(
            "p:\n  listen: SOCKET\n  redis: true\n  hash: {hash}\n  distribution: {distribution}\n  \
             auto_eject_hosts: true\n  server_failure_limit: 1\n  server_retry_timeout: 3600000\n  servers:\n"
        );
        let mut text = format!(
            "redis-sharding topology 1\nplacement twemproxy-{distribution}/1\noption hash = {hash}\n"
        );
        for (server, weight) in weights.into_iter().enumerate() {
            let (address, name) = (servers.addr(server), names[server]);
            match named {
                true => {
                    pool.push_str(&format!("    - {address}:{weight} {name}\n"));
                    text.push_str(&format!("node {name} {address} weight={weight}\n"));
                }
                false => {
                    pool.push_str(&format!("    - {address}:{weight}\n"));
                    text.push_str(&format!("node {address} weight={weight}\n"));
                }
            }
        }
        let all = Topology::parse(&text).unwrap();
        let proxy = Proxy::start(&nutcracker, &pool);
        let mut connection = proxy.connection();
        check_owners(&mut connection, &servers, &all, &case);
        for count in 1..=dead.len() {
            servers.kill(dead[count - 1].into());
            eject(&mut connection);
            let out = dead[..count].iter().map(|&server| NodeIndex::new(server));
            let topology = all.without(&out.collect()).unwrap();
            check_owners(&mut connection, &servers, &topology, &case);
        }
        for server in dead {
            servers.restart(server.into());
        }
    }
}

/// Asks for keys until no server fails: those that are dead are ejected then. nutcracker may have noticed already, by
/// connections that were closed.
fn eject(proxy: &mut redis::Connection) {
    for _ in 0..10 {
        let mut failed = 0;
        for i in 0..500 {
            let reply = redis::cmd("GET").arg(format!("user:{i}")).exec(proxy);
            failed += usize::from(reply.is_err());
        }
        if failed == 0 {
            return;
        }
    }
    panic!("nutcracker does not eject the dead server");
}

/// Writes all keys through the proxy, and compares the server that has each with its owner in the topology.
fn check_owners(proxy: &mut redis::Connection, servers: &Servers, topology: &Topology, case: &str) {
    // Some thousands, of each kind.
    let keys: Vec<String> = keys().into_iter().step_by(3).collect();
    for node in topology.living() {
        redis::cmd("FLUSHALL")
            .exec(&mut servers.connection(node.get()))
            .unwrap();
    }
    for keys in keys.chunks(1000) {
        sets(keys).exec(proxy).unwrap();
    }
    let mut owners: HashMap<String, NodeIndex> = HashMap::new();
    for node in topology.living() {
        let mut connection = servers.connection(node.get());
        let found: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        assert!(
            !found.is_empty(),
            "{case}: {node:?} has no key, {} out",
            topology.out().len()
        );
        for key in found {
            assert!(owners.insert(key, node).is_none());
        }
    }
    assert_eq!(owners.len(), keys.len());
    let wrong = keys
        .iter()
        .filter(|key| topology.locate(key.as_bytes()) != owners.get(*key).copied());
    let wrong: Vec<_> = wrong.collect();
    assert!(
        wrong.is_empty(),
        "{case}: {} of {} keys with {:?} out",
        wrong.len(),
        keys.len(),
        topology.out()
    );
}

/// Writes through the proxy and reads with the client, and the other way round.
fn check(proxy: &Proxy, servers: &Servers, topology: &Topology) {
    let mut client = ShardedClient::builder().topology(topology).build().unwrap();
    let mut proxy = proxy.connection();
    let keys = keys();
    let (by_proxy, by_client) = keys.split_at(keys.len() / 2);

    for keys in by_proxy.chunks(1000) {
        sets(keys).exec(&mut proxy).unwrap();
    }
    for keys in by_client.chunks(1000) {
        sets(keys).exec(&mut client).unwrap();
    }
    for keys in keys.chunks(1000) {
        let values: Vec<Option<String>> = redis::cmd("MGET").arg(keys).query(&mut client).unwrap();
        let misses = keys
            .iter()
            .zip(values)
            .filter(|(key, value)| value.as_ref() != Some(key));
        assert_eq!(misses.count(), 0, "by the client");
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.get(key);
        }
        let values: Vec<Option<String>> = pipe.query(&mut proxy).unwrap();
        let misses = keys
            .iter()
            .zip(values)
            .filter(|(key, value)| value.as_ref() != Some(key));
        assert_eq!(misses.count(), 0, "by the proxy");
    }

    // Each key is on its owner and nowhere else.
    let sizes = (0..servers.len()).map(|server| {
        redis::cmd("DBSIZE")
            .query::<usize>(&mut servers.connection(server))
            .unwrap()
    });
    let sizes: Vec<usize> = sizes.collect();
    assert_eq!(sizes.iter().sum::<usize>(), keys.len(), "{sizes:?}");
    assert!(sizes.iter().all(|&size| size > 0), "{sizes:?}");
}

/// Every key has itself as value.
fn sets(keys: &[String]) -> redis::Pipeline {
    let mut pipe = redis::pipe();
    for key in keys {
        pipe.set(key, key).ignore();
    }
    pipe
}

/// Odd keys and ordinary ones, with tags and without.
fn keys() -> Vec<String> {
    let ordinary = (0..5000).flat_map(|i| [format!("user:{i}"), format!("{{user:{i}}}:cart")]);
    let mut keys: Vec<String> = KEYS.lines().map(str::to_owned).chain(ordinary).collect();
    keys.sort();
    keys.dedup();
    // So that both halves have some of each kind.
    let (even, odd): (Vec<_>, Vec<_>) = (0..).zip(keys).partition(|(i, _)| i % 2 == 0);
    even.into_iter().chain(odd).map(|(_, key)| key).collect()
}

fn block<'t>(text: &'t str, fence: &str) -> &'t str {
    let (_, block) = text.split_once(&format!("{fence}\n")).unwrap();
    block.split_once("```").unwrap().0
}

/// A running nutcracker, which listens on a unix socket.
struct Proxy {
    home: TempDir,
    process: Child,
    watchdog: Option<Watchdog>,
}

impl Proxy {
    /// `SOCKET` in the text of the pool stands for where it listens.
    fn start(binary: &Path, pool: &str) -> Self {
        loop {
            let home = tempfile::Builder::new()
                .prefix("redis-sharding")
                .tempdir()
                .unwrap();
            let at = |file: &str| home.path().join(file);
            let socket = at("proxy.sock");
            fs::write(
                at("nutcracker.yml"),
                pool.replace("SOCKET", socket.to_str().unwrap()),
            )
            .unwrap();
            // It cannot do without a port for its statistics.
            let statistics = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = statistics.local_addr().unwrap().port().to_string();
            drop(statistics);
            let process = Command::new(binary)
                .arg("--conf-file")
                .arg(at("nutcracker.yml"))
                .arg("--output")
                .arg(at("log"))
                .arg("--pid-file")
                .arg(at("pid"))
                .args(["--stats-addr", "127.0.0.1", "--stats-port", &port])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let watchdog = Some(Watchdog::start(process.id()));
            let mut proxy = Self {
                home,
                process,
                watchdog,
            };
            let log = || fs::read_to_string(at_log(&proxy.home)).unwrap_or_default();
            let deadline = Instant::now() + READY_WITHIN;
            while proxy.process.try_wait().unwrap().is_none() {
                if socket.exists() {
                    return proxy;
                }
                assert!(
                    Instant::now() < deadline,
                    "nutcracker does not listen: {}",
                    log()
                );
                thread::sleep(Duration::from_millis(5));
            }
            assert!(log().contains("in use"), "nutcracker has ended: {}", log());
        }
    }

    fn connection(&self) -> redis::Connection {
        let url = format!("unix://{}", self.home.path().join("proxy.sock").display());
        let info = url.into_connection_info().unwrap();
        // twemproxy closes a connection that sends CLIENT.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let client = redis::Client::open(info.set_redis_settings(settings)).unwrap();
        client.get_connection_with_timeout(READY_WITHIN).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.watchdog.take();
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn at_log(home: &TempDir) -> PathBuf {
    home.path().join("log")
}

fn nutcracker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where Debian puts it is not in everybody's PATH.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders
        .map(|folder| folder.join("nutcracker"))
        .find(|file| file.is_file());
    if found.is_none() {
        // Not by eprintln!, which nobody sees when the test passes.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: no nutcracker on this machine; the package is called nutcracker, or twemproxy"
        );
    }
    found
}
