//! A pause that was requested at the nodes: beside the record of each, so that any machine can request it, and a mover that
//! is started meanwhile finds it.
//!
//! It names the topology that the reshard leads to, so that one which is left behind means nothing to another reshard. It is
//! no part of the record: clients need not know of it.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::fence::ServerClient;
use super::link::{Link, text_of};
use super::records::Stage;
use super::view::View;
use crate::error::Error;
use crate::topology::record::{ConnectionRole, NameSuffix, RECORD_DB, RecordEpoch};

/// Returns the fingerprint of the topology to which the reshard is to pause.
const READ: &str =
    "redis.call('SELECT', 15) return redis.call('GET', 'redis-sharding:reshard-pause')";

/// Requests a pause. DEL first, as for the record: a node whose memory is full takes it too.
const REQUEST: &str = "redis.call('SELECT', 15) redis.call('DEL', 'redis-sharding:reshard-pause') \
                       return redis.call('SET', 'redis-sharding:reshard-pause', ARGV[1])";

/// Takes the request back.
const CLEAR: &str =
    "redis.call('SELECT', 15) return redis.call('DEL', 'redis-sharding:reshard-pause')";

/// How often the nodes are asked for connections of a mover.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How long no node may have a connection of a mover until it is taken for gone: between two steps it may have none.
const GONE_AFTER: Duration = Duration::from_secs(1);

const _: () = assert!(RECORD_DB == 15, "the scripts above select it");

/// What became of a pause that was [requested](super::Reshard::request_pause).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PauseOutcome {
    /// The mover has stopped. No unit is closed, unless its run has ended with an error.
    Paused,
    /// No mover was at work: the run has been stopped before. The next one does not begin before it is resumed either.
    NoMover,
    /// All keys have moved meanwhile.
    Finished,
    /// The mover is still at work, at these addresses. It stops behind its batch; the request stays.
    NotYet(Vec<String>),
}

impl fmt::Display for PauseOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("the mover has stopped"),
            Self::NoMover => f.write_str("no mover is at work"),
            Self::Finished => f.write_str("all keys have moved meanwhile"),
            Self::NotYet(addresses) => write!(
                f,
                "the mover at {} has not stopped yet; it does behind its batch",
                addresses.join(", ")
            ),
        }
    }
}

/// The topology to which the reshard is to pause, as this node has been told.
pub(super) fn requested(link: &mut Link) -> Result<Option<u64>, Fault> {
    let reply = link.call(&[b"EVAL", READ.as_bytes(), b"0"])?;
    Ok(text_of(&reply).and_then(|text| u64::from_str_radix(&text, 16).ok()))
}

/// Takes the request at this node back.
pub(super) fn clear(link: &mut Link) -> Result<(), Fault> {
    link.call(&[b"EVAL", CLEAR.as_bytes(), b"0"]).map(drop)
}

/// Requests a pause at all nodes, and waits for the mover.
pub(super) fn request(view: &mut View, id: &str, within: Duration) -> Result<PauseOutcome, Error> {
    match view.stage()? {
        Stage::UnderWay => {}
        Stage::NotBegun => {
            return Err(Error::config("no reshard to this topology is under way"));
        }
        Stage::Finishing | Stage::Finished => {
            return Err(Error::config(
                "all keys have moved already; `redis-sharding reshard run` ends the reshard, which does not pause any more",
            ));
        }
    }
    let to = format!("{:016x}", view.to.fingerprint());
    let suffix = NameSuffix {
        role: ConnectionRole::Monitor,
        epoch: RecordEpoch::default(),
    };
    for node in &mut view.nodes {
        let reply = node.reply.as_mut().map_err(|error| error.clone())?;
        // From here on it looks, and no fence of the mover has to wait for it.
        let name = format!("{id}{suffix}");
        reply.link.words(&["CLIENT", "SETNAME", &name])?;
        reply
            .link
            .call(&[b"EVAL", REQUEST.as_bytes(), b"0", to.as_bytes()])?;
    }
    let start = Instant::now();
    let mut seen_at: Option<Instant> = None;
    loop {
        let movers = movers(view, id)?;
        let now = Instant::now();
        if !movers.is_empty() {
            seen_at = Some(now);
            if now.duration_since(start) >= within {
                return Ok(PauseOutcome::NotYet(movers));
            }
        } else if now.duration_since(seen_at.unwrap_or(start)) >= GONE_AFTER {
            return Ok(match seen_at {
                Some(_) => PauseOutcome::Paused,
                None => PauseOutcome::NoMover,
            });
        }
        thread::sleep(PROBE_INTERVAL);
    }
}

/// The addresses from which movers that have claimed a term are connected.
fn movers(view: &mut View, id: &str) -> Result<Vec<String>, Fault> {
    let mut addresses = Vec::new();
    for node in &mut view.nodes {
        let Ok(reply) = &mut node.reply else {
            continue;
        };
        let clients = ServerClient::list(&reply.link.text(&["CLIENT", "LIST"])?);
        let clients = clients.into_iter();
        let movers = clients.filter(|client| client.is_of_other_mover(id) && client.has_term());
        addresses.extend(movers.map(|client| client.host().to_owned()));
    }
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_the_key_that_flushall_keeps() {
        let key = "'redis-sharding:reshard-pause'";
        for script in [
            READ,
            REQUEST,
            CLEAR,
            crate::topology::record::FLUSHALL_SCRIPT,
        ] {
            assert!(script.contains(key), "{script}");
        }
    }
}
