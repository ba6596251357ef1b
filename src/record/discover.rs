//! [`discover`]: the topology that a node names.

use std::sync::Arc;
use std::time::Duration;

use redis::ProtocolVersion;

use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind};
use crate::record::connection::NodeConnection;
use crate::topology::Topology;
use crate::topology::record::{ConnectionRole, NameSuffix, RecordEpoch};

/// Asks these nodes for the topology in force, one after the other until one names it.
///
/// # Errors
///
/// If none does: each with its reason.
pub(crate) fn discover(seeds: &[Arc<Endpoint>], limit: Duration) -> Result<Topology, Error> {
    let mut failures = Vec::new();
    let mut kind = None;
    for seed in seeds {
        match ask(seed, limit) {
            Ok(topology) => return Ok(topology),
            Err(error) => {
                kind = kind.or(Some(error.kind()));
                failures.push(format!("{}: {error}", seed.address));
            }
        }
    }
    let text = match failures.is_empty() {
        true => {
            "no node was given to ask for the topology; give the URL of at least one".to_owned()
        }
        false => format!(
            "none of the nodes that were given has named the topology of the fleet: {}",
            failures.join("; ")
        ),
    };
    Err(Error::new(kind.unwrap_or(ErrorKind::Config), text))
}

fn ask(seed: &Arc<Endpoint>, limit: Duration) -> Result<Topology, Error> {
    let suffix = NameSuffix {
        role: ConnectionRole::Monitor,
        epoch: RecordEpoch::default(),
    };
    let mut connection = NodeConnection::open(seed, ProtocolVersion::RESP2, suffix, limit)?;
    let reading = connection.record_and_texts()?;
    let stale = |text: &str| Err(Error::new(ErrorKind::Stale, text));
    match (&reading.record, &reading.texts.topology) {
        (None, _) => stale(
            "it keeps no record of a fleet; publish one with `redis-sharding topology publish`",
        ),
        (Some(_), None) => stale(
            "it keeps a record without the text of the topology; publish it again with `redis-sharding topology publish`",
        ),
        (Some(record), _) if record.is_retired => stale("it has left the fleet; ask another node"),
        (Some(record), Some(text)) => {
            let topology = Topology::parse(text)?;
            match topology.fingerprint() == record.topology {
                true => Ok(topology),
                false => stale("its record and the text beside it name different topologies"),
            }
        }
    }
}
