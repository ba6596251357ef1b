//! [`Session`]: a mover that has claimed its term, and what it knows of every node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::ProtocolVersion;

use super::event::ReshardEvent;
use super::facts::ServerFacts;
use super::fault::Fault;
use super::fence::{Exempt, Fence, FenceStep, ServerClient, behind};
use super::link::{Link, MoverName};
use super::options::ReshardOptions;
use super::records::Fingerprints;
use crate::endpoint::Endpoint;
use crate::topology::Topology;
use crate::topology::record::requests::{RecordTexts, RecordWrite, replace_copy};
use crate::topology::record::{NodeRecord, RecordEpoch};

/// How often laggards are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long a node that cannot be reached is waited for.
const RECONNECT_WITHIN: Duration = Duration::from_secs(15);

/// The pause between two attempts to reach a node.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Receives what happens, from all threads.
pub(super) type Listener<'l> = Mutex<&'l mut (dyn FnMut(ReshardEvent) + Send)>;

/// A mover at work.
pub(super) struct Session<'s> {
    pub(super) from: Topology,
    pub(super) to: Topology,
    /// The nodes of both topologies, by which keys are placed while they move.
    pub(super) both: Topology,
    /// In the order of `both`.
    pub(super) nodes: Vec<SessionNode>,
    /// The database of the data.
    pub(super) db: i64,
    pub(super) name: MoverName,
    pub(super) options: &'s ReshardOptions,
    /// Time for connecting, and for each call.
    pub(super) limit: Duration,
    /// Set when the mover is to stop at the next boundary between batches.
    pub(super) paused: &'s AtomicBool,
    /// Set when one of the threads has failed, so that the others stop.
    pub(super) failed: AtomicBool,
    pub(super) listener: Listener<'s>,
}

/// A node, and what it says by the last record that this mover has read or written.
pub(super) struct SessionNode {
    pub(super) name: String,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) is_old: bool,
    pub(super) is_new: bool,
    pub(super) facts: ServerFacts,
    /// Locked while it is written: several pairs share a node.
    pub(super) record: Mutex<NodeRecord>,
}

impl<'s> Session<'s> {
    pub(super) fn fingerprints(&self) -> Fingerprints {
        Fingerprints {
            from: self.from.fingerprint(),
            to: self.to.fingerprint(),
        }
    }

    /// Asks whether this step may be done.
    pub(super) fn step(&self, step: &str) -> Result<(), Fault> {
        match self.options.may_do(step) {
            true => Ok(()),
            false => Err(Fault::killed(step)),
        }
    }

    /// True if no further batch is to begin.
    pub(super) fn stops(&self) -> bool {
        self.paused.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn notify(&self, event: ReshardEvent) {
        let mut listener = self.listener.lock();
        (*listener)(event);
    }

    /// Who need not follow the record.
    pub(super) fn exempt(&self) -> Exempt<'_> {
        Exempt {
            mover: &self.name.id,
            administrators: &self.options.administrators,
        }
    }

    /// Connects to a node as a client does: first the name, then a look at the record, which must still be this mover's.
    pub(super) fn connect(&self, node: &SessionNode) -> Result<Link, Fault> {
        self.connect_with(node, ProtocolVersion::RESP2)
    }

    /// Connects to a node with this version of the protocol.
    pub(super) fn connect_with(
        &self,
        node: &SessionNode,
        protocol: ProtocolVersion,
    ) -> Result<Link, Fault> {
        let mut link = Link::open(&node.endpoint, protocol, &self.name, self.limit)?;
        // Locked first: another thread may write the record meanwhile, and what is read must not be older than that.
        let mut known = node.record.lock();
        let reading = link.record()?;
        let Some(found) = reading.record else {
            return Err(Fault::refused(
                &node.name,
                "its record is gone: the server was emptied, or restarted without its data. Restore its data; then run \
                 the reshard again",
            ));
        };
        if found.mover.as_deref() != Some(&*self.name.id) || found.epoch.term != known.epoch.term {
            return Err(Fault::superseded(&node.name, found.mover.as_deref()));
        }
        if found.seal != reading.run_id && known.seal == reading.run_id {
            // It was a replica just now, and somebody has emptied the fleet: the record is a copy of its primary's.
            link.command(&replace_copy(&known))?;
            drop(known);
            return Ok(link);
        }
        check_not_older(&node.name, &known, &found)?;
        *known = found;
        // The next record is written to this server.
        known.seal = reading.run_id;
        drop(known);
        Ok(link)
    }

    /// Connects to a node again, for as long as it may take a server to restart. `former` is a connection that is in
    /// doubt: it is killed first, so that nothing that was sent over it is run later.
    pub(super) fn reconnect(&self, node: &SessionNode, former: &Link) -> Result<Link, Fault> {
        let start = Instant::now();
        let seal = node.record.lock().seal.clone();
        let mut link = loop {
            match self.connect(node) {
                Ok(link) => break link,
                Err(fault) if fault.is_broken() && start.elapsed() < RECONNECT_WITHIN => {
                    thread::sleep(RECONNECT_PAUSE);
                }
                Err(fault) => return Err(fault),
            }
        };
        // A server that was restarted counts its connections from the beginning.
        if node.record.lock().seal == seal {
            kill(&mut link, &[former.id().unsigned_abs()])?;
        }
        Ok(link)
    }

    /// Replaces the record of a node by what `next` makes of it. Returns its epoch.
    ///
    /// # Errors
    ///
    /// If somebody else has written a record since.
    pub(super) fn publish(
        &self,
        node: &SessionNode,
        link: &mut Link,
        texts: Option<&RecordTexts>,
        next: impl Fn(&NodeRecord) -> NodeRecord,
    ) -> Result<RecordEpoch, Fault> {
        let mut known = node.record.lock();
        // The second time after a write whose reply was lost.
        for _ in 0..2 {
            let record = next(&known);
            match link.compare_and_set(Some(known.epoch), &record, texts)? {
                RecordWrite::Done => {
                    *known = record;
                    return Ok(known.epoch);
                }
                RecordWrite::Other(Some(found))
                    if found.mover.as_deref() == Some(&*self.name.id)
                        && found.epoch.term == known.epoch.term =>
                {
                    check_not_older(&node.name, &known, &found)?;
                    *known = found;
                }
                RecordWrite::Other(found) => {
                    let mover = found.and_then(|found| found.mover);
                    return Err(Fault::superseded(&node.name, mover.as_deref()));
                }
            }
        }
        Err(Fault::superseded(&node.name, None))
    }

    /// Waits until each connection of the node that is not exempt has acknowledged this epoch or a newer one; those that
    /// have not within `bound` are killed.
    pub(super) fn fence(
        &self,
        link: &mut Link,
        epoch: RecordEpoch,
        bound: Duration,
    ) -> Result<(), Fault> {
        let exempt = self.exempt();
        let mut fence = Fence::new(Instant::now(), bound);
        let mut clients = ServerClient::list(&link.text(&["CLIENT", "LIST"])?);
        loop {
            let left = behind(&clients, epoch, &exempt);
            let ids = match fence.next(Instant::now(), &left) {
                FenceStep::Done => return Ok(()),
                FenceStep::Kill(ids) => return kill(link, &ids),
                FenceStep::Unblock(ids) => {
                    for id in &ids {
                        link.words(&["CLIENT", "UNBLOCK", &id.to_string(), "ERROR"])?;
                    }
                    left.iter().map(|client| client.id).collect()
                }
                FenceStep::Poll(ids) => {
                    thread::sleep(POLL_INTERVAL);
                    ids
                }
            };
            clients = ServerClient::list(&list(link, &ids)?);
        }
    }
}

impl SessionNode {
    /// How far this pair has come by the record of this node.
    pub(super) fn progress(&self, source: &str, target: &str) -> crate::topology::record::Progress {
        let record = self.record.lock();
        record.progress(source, target).unwrap_or_default()
    }
}

/// Refuses a node whose record is older than what it has acknowledged: keys that were moved to it may be lost.
fn check_not_older(node: &str, known: &NodeRecord, found: &NodeRecord) -> Result<(), Fault> {
    let pairs = known.reshard.iter().flat_map(|reshard| &reshard.pairs);
    let is_older = pairs.into_iter().any(|pair| {
        let found = found.progress(&pair.source, &pair.target);
        // A record without the reshard is one of its end.
        found.is_some_and(|found| found.moved < pair.progress.moved)
    });
    match is_older {
        false => Ok(()),
        true => Err(Fault::refused(
            node,
            "the server was restarted with older data than it had acknowledged, so that keys that were moved to it may be \
             lost. Restore its newest data; then run the reshard again",
        )),
    }
}

/// CLIENT LIST of some connections.
fn list(link: &mut Link, ids: &[u64]) -> Result<String, Fault> {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    let mut words = vec!["CLIENT", "LIST", "ID"];
    words.extend(ids.iter().map(|id| &**id));
    link.text(&words)
}

/// Kills connections. Nothing that they have sent is run after the reply.
pub(super) fn kill(link: &mut Link, ids: &[u64]) -> Result<(), Fault> {
    for id in ids {
        // Zero if it has ended by itself.
        link.words(&["CLIENT", "KILL", "ID", &id.to_string()])?;
    }
    Ok(())
}
