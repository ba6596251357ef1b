//! A fleet of servers whose keys move: clients of it, keys that nobody touches, and a check of what each server has.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use redis_sharding::partition::Partitioner;
use redis_sharding::{Builder, ShardedClient, Topology};

use super::Servers;
use super::all_clients::AllClients;

/// A description of a client over the first servers.
pub fn over(servers: &Servers, count: usize) -> Builder {
    let urls = servers.urls().into_iter().take(count);
    (0..)
        .zip(urls)
        .fold(ShardedClient::builder(), |builder, (number, url)| {
            builder.node(format!("node-{number}"), url)
        })
}

pub fn topology(
    servers: &Servers,
    count: usize,
    rule: impl Partitioner + 'static,
) -> Arc<Topology> {
    let client = over(servers, count).partitioner(rule).build().unwrap();
    client.topology()
}

/// Keys that no worker touches, with their expiries.
pub fn bystanders(client: &ShardedClient, count: usize) -> HashMap<String, Option<i64>> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let far = now.unwrap().as_millis() as i64 + 50_000_000;
    let mut keys = HashMap::new();
    let mut pipeline = redis::pipe();
    for number in 0..count {
        let key = format!("bystander:{number}");
        match number % 4 {
            0 => pipeline.cmd("SET").arg(&key).arg(number),
            1 => pipeline.cmd("RPUSH").arg(&key).arg("a").arg(number),
            2 => pipeline.cmd("HSET").arg(&key).arg("field").arg(number),
            _ => pipeline.cmd("ZADD").arg(&key).arg(number).arg("member"),
        };
        let expiry = (number % 3 == 0).then_some(far + number as i64);
        if let Some(expiry) = expiry {
            pipeline.cmd("PEXPIREAT").arg(&key).arg(expiry);
        }
        keys.insert(key, expiry);
    }
    let _: redis::Value = pipeline.query(&mut client.clone()).unwrap();
    keys
}

/// Every key with the servers that have it, and its expiry there.
fn keys_of_servers(servers: &Servers) -> HashMap<String, Vec<(usize, i64)>> {
    let mut all: HashMap<String, Vec<(usize, i64)>> = HashMap::new();
    for server in 0..servers.len() {
        let mut connection = servers.connection(server);
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        let expiries = expiries(&mut connection, &keys);
        for (key, expiry) in keys.into_iter().zip(expiries) {
            all.entry(key).or_default().push((server, expiry));
        }
    }
    all
}

/// When these keys expire, in milliseconds of Unix time; -1 for those that do not.
fn expiries(connection: &mut redis::Connection, keys: &[String]) -> Vec<i64> {
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("PEXPIRETIME").arg(key);
    }
    if keys.is_empty() {
        return Vec::new();
    }
    if let Ok(found) = pipeline.query(connection) {
        return found;
    }
    // Servers before 7.0 say how long it takes until then.
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("TIME");
    for key in keys {
        pipeline.cmd("PTTL").arg(key);
    }
    let (now, left): (Vec<i64>, Vec<i64>) = {
        let mut found: Vec<redis::Value> = pipeline.query(connection).unwrap();
        let left = found.split_off(1).into_iter().map(redis::from_redis_value);
        let now = redis::from_redis_value(found.remove(0)).unwrap();
        (now, left.collect::<Result<_, _>>().unwrap())
    };
    let now = now[0] * 1_000 + now[1] / 1_000;
    let at = left.into_iter().map(|left| match left {
        -1 => -1,
        left => now + left,
    });
    at.collect()
}

/// Each key is at its owner alone, with its expiry, and there are no others.
pub fn check_servers(
    servers: &Servers,
    topology: &Topology,
    expected: &HashMap<String, Option<i64>>,
) {
    let found = keys_of_servers(servers);
    for (key, places) in &found {
        let owner = topology.locate(key.as_bytes()).unwrap();
        let owner = topology.node(owner).address().to_owned();
        let at: Vec<String> = places
            .iter()
            .map(|(server, _)| servers.addr(*server))
            .collect();
        assert_eq!(at, [owner], "owners of {key}");
        let expiry = expected
            .get(key)
            .unwrap_or_else(|| panic!("{key} should not exist"));
        let found = places[0].1;
        assert!(
            (found - expiry.unwrap_or(-1)).abs() <= 5,
            "expiry of {key}: {found}, not {expiry:?}"
        );
    }
    let missing: Vec<_> = expected
        .keys()
        .filter(|key| !found.contains_key(*key))
        .collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

/// Waits until all clients go by this topology.
pub fn wait_until_followed(clients: &AllClients, to: &Topology) {
    let end = Instant::now() + Duration::from_secs(20);
    let is_there = |known: &Arc<Topology>| known.to_string() == to.to_string();
    while !clients.topologies().iter().all(is_there) {
        assert!(
            Instant::now() < end,
            "not followed: {:?}",
            clients.topologies()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A seed that differs from run to run.
pub fn seed_of_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_nanos() as u64 % 1_000_000
}
