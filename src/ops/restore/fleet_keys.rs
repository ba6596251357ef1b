//! The keys of a fleet, read node by node.

use std::collections::BTreeSet;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use redis::{FromRedisValue, Value, cmd, pipe};

use super::clients::Clients;
use super::input::InputKey;
use super::servers::{TargetServer, node_text};
use crate::error::{Error, ErrorKind};
use crate::ops::clock::time_of;
use crate::rdb::{Access, KeyInfo, of_dump};
use crate::sync::Node;

/// Keys that are asked for at once.
const COUNT: usize = 200;

/// Batches that wait.
const QUEUE: usize = 8;

/// A key of a fleet.
pub(super) struct FleetKey {
    pub(super) key: InputKey,
    /// By how many milliseconds its expiry may be later than it is given: more than 0 if the server says only how long is
    /// left.
    pub(super) slack: u64,
}

/// Reads all keys, with a thread for each node. `map` is called in these threads, `sink` in this one.
///
/// # Errors
///
/// If a node cannot be reached, and those of `sink`.
pub(super) fn read<T: Send>(
    clients: &Clients,
    map: &(dyn Fn(FleetKey) -> Result<T, Error> + Sync),
    sink: &mut dyn FnMut(T) -> Result<(), Error>,
) -> Result<(), Error> {
    let client = clients.first()?;
    let servers = TargetServer::ask_all(&client)?;
    let mut databases: BTreeSet<u32> = BTreeSet::new();
    for node in client.nodes() {
        databases.extend(databases_of(&node_text(&node, &["INFO", "keyspace"])?));
    }
    for db in databases {
        let client = clients.of(db)?;
        client.shared().ready()?;
        let (sender, receiver) = sync_channel::<Result<Vec<T>, Error>>(QUEUE);
        thread::scope(|scope| {
            for node in client.nodes() {
                let server = servers.iter().find(|server| server.name == node.name());
                let has_times = server.is_some_and(|server| server.version.has_redis_7());
                let sender = sender.clone();
                scope.spawn(move || {
                    if let Err(error) = read_node(node, (db, has_times), map, &sender) {
                        // Nobody may wait for it any more.
                        let _ = sender.send(Err(error));
                    }
                });
            }
            drop(sender);
            // The receiver is dropped on an error, which ends the threads.
            let receiver = receiver;
            for batch in &receiver {
                batch?.into_iter().try_for_each(&mut *sink)?;
            }
            Ok::<(), Error>(())
        })?;
    }
    Ok(())
}

/// Reads the keys of a database of a node.
fn read_node<T: Send>(
    mut node: Node,
    (db, has_times): (u32, bool),
    map: &(dyn Fn(FleetKey) -> Result<T, Error> + Sync),
    sender: &SyncSender<Result<Vec<T>, Error>>,
) -> Result<(), Error> {
    let mut cursor = "0".to_owned();
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("COUNT").arg(COUNT);
        let reply = scan.query::<(String, Vec<Vec<u8>>)>(&mut node);
        let (next, keys) = reply.map_err(|error| failed(&node, &error))?;
        let mut batch = Vec::with_capacity(keys.len());
        let (between, replies) = dump(&mut node, keys, has_times)?;
        for (key, reply) in replies {
            if let Some(key) = fleet_key(db, key, &reply, between) {
                batch.push(map(key)?);
            }
        }
        if sender.send(Ok(batch)).is_err() {
            return Ok(());
        }
        cursor = next;
        if cursor == "0" {
            return Ok(());
        }
    }
}

/// When a server has replied, by its own clock: between these two times in milliseconds.
type Between = Option<(i64, i64)>;

/// A key with the replies for its expiry and its value.
type Dumped = (Vec<u8>, [Value; 2]);

/// Asks for expiry and value of some keys. Without `has_times`, the server says how long each has left, and the time.
fn dump(
    node: &mut Node,
    keys: Vec<Vec<u8>>,
    has_times: bool,
) -> Result<(Between, Vec<Dumped>), Error> {
    if keys.is_empty() {
        return Ok((None, Vec::new()));
    }
    let mut requests = pipe();
    requests.cmd("TIME");
    for key in &keys {
        let time = if has_times { "PEXPIRETIME" } else { "PTTL" };
        requests.cmd(time).arg(key).cmd("DUMP").arg(key);
    }
    requests.cmd("TIME");
    let replies = requests.query::<Vec<Value>>(node);
    let mut replies = replies.map_err(|error| failed(node, &error))?;
    let end = replies.pop().as_ref().and_then(time_of);
    let mut replies = replies.into_iter();
    let start = replies.next().as_ref().and_then(time_of);
    let dumped = keys.into_iter().map_while(|key| {
        let pair = [replies.next()?, replies.next()?];
        Some((key, pair))
    });
    let between = start.zip(end).filter(|_| !has_times);
    Ok((between, dumped.collect()))
}

/// A key with its expiry and payload; `None` if it is gone.
fn fleet_key(
    db: u32,
    key: Vec<u8>,
    [time, payload]: &[Value; 2],
    between: Between,
) -> Option<FleetKey> {
    let time = i64::from_redis_value(time.clone()).ok()?;
    let Value::BulkString(payload) = payload else {
        return None;
    };
    let (value_type, value, version) = of_dump(payload).ok()?;
    let (expires_at, slack) = match (time >= 0, between) {
        (false, _) => (None, 0),
        (true, None) => (Some(time), 0),
        (true, Some((start, end))) => (Some(start.saturating_add(time)), end.abs_diff(start) + 1),
    };
    let info = KeyInfo {
        db,
        key,
        expires_at,
        access: Access::Unknown,
        value_type,
    };
    let value = value.to_vec();
    let key = InputKey {
        info,
        version,
        value,
    };
    Some(FleetKey { key, slack })
}

/// The databases that have keys, by INFO.
fn databases_of(info: &str) -> Vec<u32> {
    let databases = info.lines().filter_map(|line| {
        let (number, _) = line.strip_prefix("db")?.split_once(':')?;
        number.parse().ok()
    });
    databases.collect()
}

fn failed(node: &Node, error: &redis::RedisError) -> Error {
    match Error::of(error) {
        Some(own) => own.clone(),
        None => {
            let text = format!("node {:?}: {error}", node.name());
            Error::new(ErrorKind::of(error), text).at_node(node.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_with_keys_are_those_of_info() {
        let info = "# Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\ndb15:keys=1,expires=0\r\n";
        assert_eq!(databases_of(info), [0, 15]);
    }
}
