//! A new node as the replica of the node whose keys it takes: how it becomes one, how far it is, and how it ends to be one.

use std::thread;
use std::time::{Duration, Instant};

use super::fault::{Fault, FaultKind};
use super::link::{Link, items_of, text_of};
use super::method::host_and_port;
use super::session::{Session, SessionNode, kill};
use crate::resp::info_field;
use crate::topology::record::FLUSHALL_SCRIPT;
use crate::topology::record::requests::{self, Foreign, RecordWrite};

/// How often a replica is asked how far it is while it takes all keys in.
const SYNC_POLL: Duration = Duration::from_millis(20);

/// How long a replica may do nothing before it is given up. A primary may wait for 5 s for further replicas.
const SYNC_IDLE_WITHIN: Duration = Duration::from_secs(30);

/// How long a node that cannot be reached is waited for.
const REACHED_WITHIN: Duration = Duration::from_secs(15);

/// What INFO says of replication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replication {
    pub(super) is_replica: bool,
    /// Number of replicas.
    pub(super) replicas: u32,
    /// The replica has all keys, and is sent what changes.
    is_up: bool,
    /// The keys are on their way.
    is_syncing: bool,
    /// Which history the server has.
    id: String,
    /// How much of it: what a primary has sent, or a replica has run.
    pub(super) offset: u64,
    /// Which history a former replica had, and how far.
    former: (String, u64),
}

impl Replication {
    pub(super) fn new(info: &str) -> Self {
        let field = |name: &str| info_field(info, name).unwrap_or_default();
        let is_replica = field("role") == "slave";
        let offset = match is_replica {
            true => field("slave_repl_offset"),
            false => field("master_repl_offset"),
        };
        Self {
            is_replica,
            replicas: field("connected_slaves").parse().unwrap_or(0),
            is_up: field("master_link_status") == "up",
            is_syncing: field("master_sync_in_progress") == "1",
            id: field("master_replid").to_owned(),
            offset: offset.parse().unwrap_or(0),
            former: (
                field("master_replid2").to_owned(),
                // The first byte of its own.
                field("second_repl_offset").parse().unwrap_or(0),
            ),
        }
    }

    pub(super) fn of(link: &mut Link) -> Result<Self, Fault> {
        Ok(Self::new(&link.text(&["INFO", "replication"])?))
    }

    /// By how many bytes the replica is behind. `None` if it is not a replica of this primary, or has lost it.
    pub(super) fn behind(&self, primary: &Self) -> Option<u64> {
        let follows = self.is_replica && self.is_up && self.id == primary.id;
        follows.then(|| primary.offset.saturating_sub(self.offset))
    }

    /// True if the server is no replica any more, and was one of this primary, with all that it had sent.
    pub(super) fn has_had(&self, primary: &Self) -> bool {
        let (id, next) = &self.former;
        !self.is_replica && *id == primary.id && *next > primary.offset
    }
}

/// A setting of the replica as it was, to be put back.
pub(super) type Former = Vec<(&'static str, String)>;

/// Connects to a node without a look at its record, which may be a copy of another node's.
pub(super) fn connect(session: &Session<'_>, node: &SessionNode) -> Result<Link, Fault> {
    let start = Instant::now();
    loop {
        let protocol = redis::ProtocolVersion::RESP2;
        match Link::open(&node.endpoint, protocol, &session.name, session.limit) {
            Err(fault) if fault.is_broken() && start.elapsed() < REACHED_WITHIN => {
                thread::sleep(5 * SYNC_POLL);
            }
            other => return other,
        }
    }
}

/// Connects to a node as [`connect`] does. `former` is a connection that is in doubt: it is killed, so that nothing that was
/// sent over it is run later.
pub(super) fn replace(
    session: &Session<'_>,
    node: &SessionNode,
    former: &Link,
) -> Result<Link, Fault> {
    let mut link = connect(session, node)?;
    // A server that was restarted counts its connections from the beginning.
    if link.record()?.run_id == node.record.lock().seal {
        kill(&mut link, &[former.id().unsigned_abs()])?;
    }
    Ok(link)
}

/// The name of the node that is being split, as it is beside the record of this one.
pub(super) fn split_mark(link: &mut Link) -> Result<Option<String>, Fault> {
    Ok(text_of(&link.command(&requests::read_split())?))
}

/// Has the node say which one is being split, or none. What is written to the record of a node that says so is not sent to
/// its replicas.
pub(super) fn mark_split(link: &mut Link, source: Option<&str>) -> Result<(), Fault> {
    link.command(&requests::write_split(source)).map(drop)
}

/// Has the target become a replica of the source. It can be written to nevertheless: its record is its own. The settings
/// that are changed for that are added to `former`.
pub(super) fn attach(
    source: &SessionNode,
    target: &SessionNode,
    link: &mut Link,
    former: &mut Former,
) -> Result<(), Fault> {
    let Some((host, port)) = host_and_port(source.endpoint.info.addr()) else {
        return Err(Fault::refused(
            &source.name,
            "it is reached by a unix socket",
        ));
    };
    let settings = source.endpoint.info.redis_settings();
    let (user, password) = source.endpoint.login.presented(settings).map_err(|error| {
        let text = format!("a replica has no password for it: {error:?}");
        Fault::refused(&source.name, text)
    })?;
    for (name, value) in [
        ("replica-read-only", Some("no".to_owned())),
        ("masteruser", user),
        ("masterauth", password),
    ] {
        let value = value.unwrap_or_default();
        let now = items_of(link.words(&["CONFIG", "GET", name])?);
        let now = now.and_then(|items| text_of(items.get(1)?));
        let now = now.unwrap_or_default();
        if now == value {
            continue;
        }
        // The server's own error may repeat the value.
        if let Err(fault) = link.words(&["CONFIG", "SET", name, &value]) {
            return Err(match fault.kind {
                FaultKind::Refused => {
                    Fault::refused(&target.name, format!("it refuses CONFIG SET {name}"))
                }
                _ => fault,
            });
        }
        former.push((name, now));
    }
    link.words(&["REPLICAOF", host, &port.to_string()])
        .map(drop)
}

/// Waits until the replica has all keys, and has them on disk as far as it writes to one.
pub(super) fn wait_for_keys(
    session: &Session<'_>,
    source: &mut Link,
    target: &mut Link,
    node: &SessionNode,
) -> Result<(), Fault> {
    let mut idle_since = Instant::now();
    let mut last = Replication::default();
    loop {
        let now = Replication::of(target)?;
        let primary = Replication::of(source)?;
        if now.behind(&primary).is_some() && (!writes_file(node) || has_file(target)?) {
            return Ok(());
        }
        if now != last || now.is_syncing || now.is_up {
            idle_since = Instant::now();
        }
        if idle_since.elapsed() > SYNC_IDLE_WITHIN || session.stops() {
            return Err(Fault::refused(
                &node.name,
                "it does not become a replica; see its log. Its user needs +psync +replconf +ping at the source",
            ));
        }
        last = now;
        thread::sleep(SYNC_POLL);
    }
}

fn writes_file(node: &SessionNode) -> bool {
    node.facts.has_append_only_file
}

/// True if the append-only file has what the replica took in.
fn has_file(target: &mut Link) -> Result<bool, Fault> {
    let info = target.text(&["INFO", "persistence"])?;
    let has = |text: &str| info.contains(text);
    Ok(has("aof_enabled:1")
        && has("aof_rewrite_in_progress:0")
        && has("aof_rewrite_scheduled:0")
        && has("aof_last_bgrewrite_status:ok"))
}

/// The replica is a node of its own again. Its data stays.
pub(super) fn detach(link: &mut Link) -> Result<(), Fault> {
    link.words(&["REPLICAOF", "NO", "ONE"]).map(drop)
}

/// Puts the settings of a node back. What it does not take is left.
pub(super) fn put_settings_back(link: &mut Link, former: &Former) -> Result<(), Fault> {
    for (name, value) in former {
        match link.words(&["CONFIG", "SET", name, value]) {
            Err(fault) if fault.is_broken() => return Err(fault),
            _ => {}
        }
    }
    Ok(())
}

/// Gives the node its own record again, if it has that of another node from a copy, or none.
pub(super) fn keep_record(
    session: &Session<'_>,
    node: &SessionNode,
    link: &mut Link,
) -> Result<(), Fault> {
    let mut known = node.record.lock();
    let found = link.record()?;
    if found.record.as_ref() == Some(&*known) {
        return Ok(());
    }
    known.seal = found.run_id;
    known.mover = Some(session.name.id.to_string());
    let reply = link.command(&requests::replace_copy(&known))?;
    match RecordWrite::of(&node.name, &reply)? {
        RecordWrite::Done => Ok(()),
        RecordWrite::Other(found) => {
            let mover = found.and_then(|found| found.mover);
            Err(Fault::superseded(&node.name, mover.as_deref()))
        }
    }
}

/// Makes the node empty again, with its own record. It has published nothing.
pub(super) fn reset(
    session: &Session<'_>,
    node: &SessionNode,
    link: &mut Link,
) -> Result<(), Fault> {
    detach(link)?;
    link.call(&[b"EVAL", FLUSHALL_SCRIPT.as_bytes(), b"0", b"ASYNC"])?;
    keep_record(session, node, link)?;
    link.command(&requests::write_foreign(Foreign::None))?;
    mark_split(link, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_is_as_far_as_its_primary_only_with_the_same_history_and_a_link() {
        let primary =
            Replication::new("role:master\r\nmaster_replid:ab\r\nmaster_repl_offset:90\r\n");
        assert_eq!((primary.is_replica, primary.offset), (false, 90));
        let replica = |link: &str, id: &str, offset: u64| {
            let info = format!(
                "role:slave\r\nmaster_link_status:{link}\r\nmaster_sync_in_progress:0\r\n\
                 slave_repl_offset:{offset}\r\nmaster_replid:{id}\r\nmaster_repl_offset:1\r\n"
            );
            Replication::new(&info).behind(&primary)
        };
        assert_eq!(replica("up", "ab", 90), Some(0));
        assert_eq!(replica("up", "ab", 40), Some(50));
        assert_eq!(replica("down", "ab", 90), None);
        assert_eq!(replica("up", "cd", 90), None);
        assert_eq!(primary.behind(&primary), None);
        let former = |id: &str, next: u64| {
            let info =
                format!("role:master\r\nmaster_replid2:{id}\r\nsecond_repl_offset:{next}\r\n");
            Replication::new(&info).has_had(&primary)
        };
        assert!(former("ab", 91) && !former("ab", 90) && !former("cd", 91));
    }
}
