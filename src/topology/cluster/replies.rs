//! The replies to CLUSTER INFO, CLUSTER NODES, CLUSTER SHARDS and CLUSTER SLOTS, in RESP2 and RESP3.

use std::collections::HashMap;

use redis::Value;

use crate::hash::SLOTS;
use crate::topology::HostPort;

/// Longest host name that is accepted, as in DNS with room for an IPv6 zone.
const HOST_BYTES_MAX: usize = 300;

/// Longest id of a server that is accepted. Those of Redis have 40 bytes.
const ID_BYTES_MAX: usize = 64;

/// One line of CLUSTER NODES.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NodeLine<'t> {
    pub(super) id: &'t str,
    pub(super) ip: Option<&'t str>,
    pub(super) hostname: Option<&'t str>,
    pub(super) port: Option<u16>,
    /// True for the server that replies.
    pub(super) is_myself: bool,
    pub(super) is_primary: bool,
    /// The id of its primary, of a replica.
    pub(super) primary: Option<&'t str>,
    pub(super) is_failing: bool,
    /// True for a server that has not introduced itself yet, or has no address any more.
    pub(super) is_unknown: bool,
    pub(super) epoch: u64,
    pub(super) slots: Vec<(u16, u16)>,
}

/// The endpoints of servers, by id.
#[derive(Debug, Default)]
pub(super) struct Endpoints(HashMap<String, Endpoint>);

/// How clients are to connect to a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `None` is the host that this connection was made to.
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
}

/// True if the reply to CLUSTER INFO says that the cluster serves requests.
///
/// # Errors
///
/// If it says neither yes nor no.
pub(super) fn is_ok(info: &Value) -> Result<bool, String> {
    let info = text(info).unwrap_or_default();
    let state = info
        .lines()
        .find_map(|line| line.strip_prefix("cluster_state:"));
    match state.map(str::trim) {
        Some(state) => Ok(state == "ok"),
        None => Err("its reply to CLUSTER INFO has no cluster_state".into()),
    }
}

/// The lines of CLUSTER NODES.
///
/// # Errors
///
/// If the reply is no text, and the iterator's if a line cannot be parsed.
pub(super) fn node_lines(
    nodes: &Value,
) -> Result<impl Iterator<Item = Result<NodeLine<'_>, String>>, String> {
    let lines = text(nodes).ok_or("its reply to CLUSTER NODES is no text")?;
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    Ok(lines.zip(1..).map(|(line, number)| {
        node_line(line)
            .ok_or_else(|| format!("line {number} of its reply to CLUSTER NODES cannot be read"))
    }))
}

/// `id ip:port@bus,hostname flags primary ping pong epoch link slots...`.
fn node_line(line: &str) -> Option<NodeLine<'_>> {
    let mut words = line.split_ascii_whitespace();
    let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
    let primary = words.next().filter(|primary| *primary != "-");
    // The last PING and the last PONG.
    let epoch = words.nth(2)?.parse().ok()?;
    let _link = words.next()?;
    if id.len() > ID_BYTES_MAX {
        return None;
    }
    let mut parts = address.split(',');
    let (ip, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
    let hostname = parts.next().filter(|name| !name.contains('='));
    let has = |flag: &str| flags.split(',').any(|word| word == flag);
    let port = port.parse().ok().filter(|port| *port != 0);
    // Behind them are `[slot->-id]` and `[slot-<-id]` for slots that are being moved.
    let slots = words.take_while(|word| !word.starts_with('[')).map(range);
    Some(NodeLine {
        id,
        ip: Some(ip).filter(is_host),
        hostname: hostname.filter(is_host),
        port,
        is_myself: has("myself"),
        is_primary: has("master") || has("primary"),
        primary,
        is_failing: has("fail"),
        is_unknown: has("handshake") || has("noaddr"),
        epoch,
        slots: slots.collect::<Option<_>>()?,
    })
}

/// `slot` or `first-last`.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let slot = |text: &str| text.parse().ok().filter(|slot| *slot < SLOTS);
    let (first, last) = (slot(first)?, slot(last)?);
    (first <= last).then_some((first, last))
}

impl Endpoints {
    /// The endpoint of a server, if it is listed.
    pub(super) fn of(&self, id: &str) -> Option<&Endpoint> {
        self.0.get(id)
    }

    /// Those in the reply to CLUSTER SHARDS.
    ///
    /// # Errors
    ///
    /// If it is no list of shards.
    pub(super) fn of_shards(shards: &Value, is_tls: bool) -> Result<Self, String> {
        let shards = items(shards).ok_or("its reply to CLUSTER SHARDS is no list")?;
        let mut endpoints = Self::default();
        for shard in shards {
            for node in field(shard, "nodes").and_then(items).unwrap_or_default() {
                let Some(id) = field(node, "id").and_then(text) else {
                    continue;
                };
                let port = |name| field(node, name).and_then(port);
                let (plain, tls) = (port("port"), port("tls-port"));
                let endpoint = Endpoint {
                    host: host(field(node, "endpoint")),
                    port: match is_tls {
                        true => tls.or(plain),
                        false => plain.or(tls),
                    },
                };
                endpoints.add(id, endpoint);
            }
        }
        Ok(endpoints)
    }

    /// Those in the reply to CLUSTER SLOTS, whose ports are those of this kind of connection.
    ///
    /// # Errors
    ///
    /// If it is no list of slots.
    pub(super) fn of_slots(slots: &Value) -> Result<Self, String> {
        let ranges = items(slots).ok_or("its reply to CLUSTER SLOTS is no list")?;
        let mut endpoints = Self::default();
        // The first and the last slot, then the servers.
        for server in ranges
            .iter()
            .filter_map(items)
            .flat_map(|r| r.iter().skip(2))
        {
            if let [address, at, id, ..] = items(server).unwrap_or_default()
                && let Some(id) = text(id)
            {
                let endpoint = Endpoint {
                    host: host(Some(address)),
                    port: port(at),
                };
                endpoints.add(id, endpoint);
            }
        }
        Ok(endpoints)
    }

    fn add(&mut self, id: &str, endpoint: Endpoint) {
        if id.len() <= ID_BYTES_MAX && self.0.len() < super::view::SERVERS_MAX {
            self.0.insert(id.to_owned(), endpoint);
        }
    }
}

impl HostPort {
    /// The address, if it can be one.
    pub(crate) fn new(host: &str, port: u16) -> Option<Self> {
        (is_host(&host) && port != 0).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// A host that a reply names. `None` if it names none.
fn host(value: Option<&Value>) -> Option<String> {
    value.and_then(text).filter(is_host).map(str::to_owned)
}

/// True if this can be the name or the address of a host.
fn is_host(host: &&str) -> bool {
    let is_clean = |char: char| !char.is_control() && !char.is_whitespace();
    !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.chars().all(is_clean)
}

fn port(value: &Value) -> Option<u16> {
    let number = match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    };
    number.filter(|port| *port != 0)
}

/// A field of a description: of the pairs of a flat array, or of a map.
fn field<'v>(description: &'v Value, name: &str) -> Option<&'v Value> {
    match description {
        Value::Map(entries) => {
            let found = entries.iter().find(|(field, _)| text(field) == Some(name));
            found.map(|(_, value)| value)
        }
        other => {
            let mut pairs = items(other)?.chunks_exact(2);
            let found = pairs.find(|pair| text(&pair[0]) == Some(name));
            found.map(|pair| &pair[1])
        }
    }
}

fn items(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(items) | Value::Set(items) => Some(items),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}
