//! [`TargetServer`]: what the nodes of the target can take, and why they cannot.

use redis::{FromRedisValue, Value};

use super::RestoreOptions;
use super::run::Unit;
use crate::error::Error;
use crate::rdb::RdbError;
use crate::rdb::convert::{FieldExpiries, Fit, Target, fit};
use crate::rdb::server::{ServerFamily, ServerVersion};
use crate::rdb::value::Kind;
use crate::resp::info_field;
use crate::sync::{Node, ShardedClient};

/// The length of the longest argument that servers take unless told otherwise.
const ARGUMENT_MAX: u64 = 512 << 20;

/// Bytes in memory that a key needs beside its value, at least.
const KEY_BYTES: u64 = 48;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetServer {
    pub(super) name: String,
    pub(super) version: ServerVersion,
    pub(super) run_id: String,
    pub(super) used_memory: u64,
    /// Zero without a limit.
    pub(super) max_memory: u64,
    /// What is removed when the memory is full.
    pub(super) eviction: String,
    pub(super) evicted: u64,
    pub(super) is_replica: bool,
    pub(super) in_cluster: bool,
    /// The longest argument.
    pub(super) argument_max: u64,
}

/// Why the nodes cannot take the keys, and what else is to be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) refusals: Vec<(String, String)>,
    pub(super) remarks: Vec<String>,
}

impl TargetServer {
    /// Asks all nodes of a client, which has asked its cluster for them.
    ///
    /// # Errors
    ///
    /// If a node cannot be reached.
    pub(super) fn ask_all(client: &ShardedClient) -> Result<Vec<Self>, Error> {
        client.nodes().map(|node| Self::ask(&node)).collect()
    }

    /// Asks a node.
    fn ask(node: &Node) -> Result<Self, Error> {
        let info = node_text(node, &["INFO"])?;
        let bulk = node_reply(node, &["CONFIG", "GET", "proto-max-bulk-len"]);
        // A user that may not ask gets the default.
        let bulk = bulk.ok().and_then(|reply| {
            let pair: Vec<String> = FromRedisValue::from_redis_value(reply).ok()?;
            pair.last()?.parse().ok()
        });
        Self::of_info(node.name(), &info, bulk).ok_or_else(|| {
            Error::config(format!("node {:?} does not name its version", node.name()))
        })
    }

    /// Reads the reply to INFO.
    fn of_info(name: &str, info: &str, argument_max: Option<u64>) -> Option<Self> {
        let field = |name: &str| info_field(info, name);
        let number = |name| field(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let text = |name| field(name).unwrap_or_default().to_owned();
        Some(Self {
            name: name.to_owned(),
            version: ServerVersion::of_info(info)?,
            run_id: text("run_id"),
            used_memory: number("used_memory"),
            max_memory: number("maxmemory"),
            eviction: text("maxmemory_policy"),
            evicted: number("evicted_keys"),
            is_replica: field("role") == Some("slave"),
            in_cluster: field("cluster_enabled") == Some("1"),
            argument_max: argument_max.unwrap_or(ARGUMENT_MAX),
        })
    }

    /// How values are written for this server.
    pub(super) fn target(&self, options: &RestoreOptions) -> Target {
        Target {
            server: self.version,
            argument_max: self.argument_max,
            field_expiries: match options.drops_field_expiries {
                true => FieldExpiries::Dropped,
                false => FieldExpiries::Required,
            },
        }
    }

    /// True if it has libraries of functions.
    pub(super) fn has_functions(&self) -> bool {
        self.version.has_redis_7()
            && (self.version.family == ServerFamily::Redis || self.version.major >= 7)
    }

    /// The memory that is left; `None` without a limit.
    pub(super) fn free(&self) -> Option<u64> {
        (self.max_memory > 0).then(|| self.max_memory.saturating_sub(self.used_memory))
    }
}

/// Returns how a key comes into its server: as the server takes it, but element by element if it is large.
///
/// # Errors
///
/// If its bytes must be decoded for that, and do not fit its type.
pub(super) fn fit_of(
    unit: &Unit,
    target: &Target,
    options: &RestoreOptions,
) -> Result<Fit, RdbError> {
    let value_type = unit.info.value_type;
    let fit = fit(value_type, &unit.value, unit.version, target)?;
    let (bytes, is_lossy) = match &fit {
        Fit::AsIs(_) => (unit.value.len(), false),
        Fit::Rewritten {
            value, is_lossy, ..
        } => (value.len(), *is_lossy),
        Fit::Elements { .. } | Fit::Impossible(_) => return Ok(fit),
    };
    let is_large = options
        .element_bytes
        .is_some_and(|limit| bytes as u64 >= limit);
    match is_large && Kind::of(value_type, unit.version) != Kind::Opaque {
        true => Ok(Fit::Elements { is_lossy }),
        false => Ok(fit),
    }
}

/// Checks whether the nodes can take this many keys, with values of this many bytes.
pub(super) fn check(
    servers: &[TargetServer],
    keys: Option<u64>,
    bytes: Option<u64>,
    options: &RestoreOptions,
) -> Findings {
    let mut findings = Findings::default();
    let estimate = bytes.unwrap_or(0) + keys.unwrap_or(0) * KEY_BYTES;
    let share = estimate / (servers.len() as u64).max(1);
    for server in servers {
        let mut refuse = |text: String| findings.refusals.push((server.name.clone(), text));
        if server.is_replica {
            refuse("it is a replica; name its primary".into());
        }
        let evicts = server.max_memory > 0 && !matches!(&*server.eviction, "" | "noeviction");
        if evicts && !options.takes_evicting {
            refuse(format!(
                "its maxmemory-policy is {}: when its memory is full, keys vanish without an error. Set noeviction \
                 meanwhile, or allow it by --allow-eviction",
                server.eviction
            ));
        }
        let Some(free) = server.free() else {
            continue;
        };
        // A node may own less than its share: half of it must fit in any case.
        if free < share / 2 && !options.takes_little_memory {
            refuse(format!(
                "it has {free} bytes left below its maxmemory, and its share is about {share}; raise maxmemory, or \
                 allow it by --allow-little-memory"
            ));
        } else if free < share + share / 2 {
            let text = format!(
                "node {:?} has {free} bytes left below its maxmemory, and its share is about {share} or more",
                server.name
            );
            findings.remarks.push(text);
        }
    }
    findings
}

/// Sends a command of words to a node.
///
/// # Errors
///
/// Those of the client, and of the server.
pub(super) fn node_reply(node: &Node, words: &[&str]) -> Result<Value, Error> {
    let mut command = redis::Cmd::new();
    command.arg(words);
    let reply = command.query::<Value>(&mut node.clone());
    reply.map_err(|error| match Error::of(&error) {
        Some(own) => own.clone(),
        None => Error::new(
            crate::ErrorKind::of(&error),
            format!("node {:?}: {error}", node.name()),
        )
        .at_node(node.name()),
    })
}

/// Sends a request to a node, and returns the text of its reply.
///
/// # Errors
///
/// As for [`node_reply`], and if the reply is no text.
pub(super) fn node_text(node: &Node, words: &[&str]) -> Result<String, Error> {
    let reply = node_reply(node, words)?;
    String::from_redis_value(reply).map_err(|_| {
        let text = format!(
            "node {:?} has replied to {} with no text",
            node.name(),
            words.join(" ")
        );
        Error::config(text).at_node(node.name())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nused_memory:100\r\nmaxmemory:1000\r\n\
                        maxmemory_policy:allkeys-lru\r\nevicted_keys:3\r\nrole:master\r\ncluster_enabled:0\r\n";

    #[test]
    fn restore_refuses_servers_that_evict_and_those_without_memory() {
        let server = TargetServer::of_info("a", INFO, None).unwrap();
        assert_eq!((server.evicted, server.argument_max), (3, 512 << 20));
        let options = RestoreOptions::new();
        let found = check(std::slice::from_ref(&server), None, None, &options);
        assert_eq!(found.refusals.len(), 1);
        assert!(found.refusals[0].1.contains("allkeys-lru"));
        let options = options.with_evicting(true);
        let servers = [server];
        assert_eq!(check(&servers, None, None, &options), Findings::default());
        let found = check(&servers, Some(100), Some(2000), &options);
        assert!(found.refusals[0].1.contains("900 bytes left"), "{found:?}");
        let found = check(&servers, Some(1), Some(800), &options);
        assert_eq!((found.refusals.len(), found.remarks.len()), (0, 1));
        let options = options.with_little_memory(true);
        assert!(
            check(&servers, Some(100), Some(2000), &options)
                .refusals
                .is_empty()
        );
        let unlimited = INFO.replace("maxmemory:1000", "maxmemory:0");
        let unlimited = TargetServer::of_info("a", &unlimited, None).unwrap();
        let found = check(&[unlimited], Some(100), Some(2000), &RestoreOptions::new());
        assert_eq!(found, Findings::default());
    }
}
