//! What is left in the end: every key with its type, content and time to live, and every library of functions.

use std::collections::BTreeMap;
use std::io;

use super::judge::LATER_MAX;
use super::wire::{Connection, Reply, Shown};
use super::world::World;

/// The data of one server.
pub struct Data {
    entries: BTreeMap<Vec<u8>, Entry>,
    libraries: Vec<Reply>,
}

struct Entry {
    /// Type, encoding and what is inside, sorted where the server has no order.
    content: Vec<Reply>,
    /// As PTTL says it.
    ttl: i64,
}

impl Data {
    pub fn read(connection: &mut Connection) -> io::Result<Self> {
        let keys = connection.ask(&["KEYS", "*"])?;
        let keys: Vec<&[u8]> = keys
            .items()
            .into_iter()
            .flatten()
            .filter_map(Reply::bytes)
            .collect();
        let about: Vec<Vec<&[u8]>> = keys
            .iter()
            .flat_map(|key| {
                [
                    vec![b"PTTL".as_slice(), key],
                    vec![b"TYPE", key],
                    vec![b"OBJECT", b"ENCODING", key],
                ]
            })
            .collect();
        let about = connection.ask_all(&about)?;
        let types = about.chunks(3).map(|about| &about[1]);
        let readings = keys.iter().zip(types).map(|(key, kind)| reading(key, kind));
        let contents = connection.ask_all(&readings.collect::<Vec<_>>())?;
        let mut entries = BTreeMap::new();
        for ((key, about), content) in keys.iter().zip(about.chunks(3)).zip(contents) {
            let mut content = vec![about[1].clone(), about[2].clone(), content];
            if about[1].is_line("stream") {
                content.push(connection.ask(&[b"XINFO", b"GROUPS".as_slice(), key])?);
            }
            let content = content.into_iter().map(|reply| canonical(reply, &about[1]));
            let ttl = about[0].integer().expect("PTTL is a number");
            let entry = Entry {
                content: content.collect(),
                ttl,
            };
            entries.insert(key.to_vec(), entry);
        }
        let libraries = connection.ask(&["FUNCTION", "LIST", "WITHCODE"])?;
        let mut libraries = libraries.items().unwrap_or_default().to_vec();
        libraries.sort_unstable();
        Ok(Self { entries, libraries })
    }
}

/// The command that reads all of a key.
fn reading<'k>(key: &'k [u8], kind: &Reply) -> Vec<&'k [u8]> {
    let Reply::Line(_, kind) = kind else {
        panic!("TYPE says {kind:?}");
    };
    match kind.as_slice() {
        b"string" => vec![b"GET", key],
        b"hash" => vec![b"HGETALL", key],
        b"list" => vec![b"LRANGE", key, b"0", b"-1"],
        b"set" => vec![b"SMEMBERS", key],
        b"zset" => vec![b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        b"stream" => vec![b"XINFO", b"STREAM", key],
        // It has just expired.
        b"none" => vec![b"EXISTS", key],
        other => panic!("no test makes a {}", Shown(other)),
    }
}

fn canonical(reply: Reply, kind: &Reply) -> Reply {
    let size = match kind {
        Reply::Line(_, kind) if kind == b"hash" => 2,
        Reply::Line(_, kind) if kind == b"set" => 1,
        _ => return reply,
    };
    match reply {
        Reply::Many(mark, Some(items)) => {
            let mut groups: Vec<&[Reply]> = items.chunks(size).collect();
            groups.sort_unstable();
            Reply::Many(mark, Some(groups.concat()))
        }
        reply => reply,
    }
}

/// Compares what the two sides hold, and where the nodes hold it.
pub fn compare(world: &mut World) -> io::Result<Result<(), String>> {
    let one = world.data_of_one()?;
    let nodes = world.data_of_nodes()?;
    Ok(differences(world, &one, &nodes))
}

fn differences(world: &World, one: &Data, nodes: &[Data]) -> Result<(), String> {
    let name = |node: usize| format!("node {node}");
    for (number, node) in nodes.iter().enumerate() {
        if let Some(key) = node.entries.keys().find(|key| world.owner(key) != number) {
            let owner = name(world.owner(key));
            return Err(format!(
                "{:?} is on {}, but its owner is {owner}",
                Shown(key).to_string(),
                name(number)
            ));
        }
        if node.libraries != one.libraries {
            return Err(format!(
                "libraries of {}: {:?}\nof one server: {:?}",
                name(number),
                node.libraries,
                one.libraries
            ));
        }
        if let Some(key) = node
            .entries
            .keys()
            .find(|key| !one.entries.contains_key(*key))
        {
            return Err(format!("{:?} is only in the fleet", Shown(key).to_string()));
        }
    }
    for (key, entry) in &one.entries {
        let shown = Shown(key).to_string();
        let owner = world.owner(key);
        let Some(other) = nodes[owner].entries.get(key) else {
            return Err(format!("{shown:?} is not in the fleet"));
        };
        if entry.content != other.content {
            return Err(format!(
                "{shown:?}\none server: {:?}\nthe fleet:  {:?}",
                entry.content, other.content
            ));
        }
        let never_or_gone = entry.ttl < 0 || other.ttl < 0;
        if entry.ttl != other.ttl && (never_or_gone || entry.ttl.abs_diff(other.ttl) > LATER_MAX) {
            return Err(format!(
                "time to live of {shown:?}: {} on one server, {} in the fleet",
                entry.ttl, other.ttl
            ));
        }
    }
    Ok(())
}
