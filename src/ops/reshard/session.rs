//! [`Session`]: a mover that has claimed its term, and what it knows of every node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::ProtocolVersion;

use super::event::ReshardEvent;
use super::facts::ServerFacts;
use super::fault::Fault;
use super::fence::{Exempt, Fence, FenceStep, ServerClient, behind};
use super::link::{Link, MoverName};
#[cfg(feature = "metrics")]
use super::metrics::ReshardMetrics;
#[cfg(not(feature = "metrics"))]
use super::no_metrics::ReshardMetrics;
use super::options::ReshardOptions;
use super::pause;
use super::records::Fingerprints;
use crate::endpoint::Endpoint;
use crate::topology::Topology;
use crate::topology::record::requests::{RecordTexts, RecordWrite, replace_copy};
use crate::topology::record::{NodeRecord, RecordEpoch};

/// How often laggards are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How often nodes are probed that may have been restarted.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

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
    /// Set when a node has been told that the mover is to stop at the next boundary between batches.
    pub(super) is_pause_requested: AtomicBool,
    pub(super) listener: Listener<'s>,
    /// Until then no source begins a batch, so that programs have all nodes for themselves.
    pub(super) quiet_until: Mutex<Option<Instant>>,
    pub(super) metrics: ReshardMetrics,
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
    /// Number of commands that this mover has sent to the node.
    pub(super) own_commands: Arc<AtomicU64>,
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
        [&self.failed, self.paused, &self.is_pause_requested]
            .iter()
            .any(|reason| reason.load(Ordering::Relaxed))
    }

    pub(super) fn notify(&self, event: ReshardEvent) {
        self.metrics.count(&event);
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
        link.count_in(&node.own_commands);
        // Locked first: another thread may write the record meanwhile, and what is read must not be older than that.
        let mut known = node.record.lock();
        let reading = link.record()?;
        let Some(found) = reading.record else {
            return Err(Fault::lost(
                &node.name,
                "its record is gone: the server was emptied, or restarted without its data. Restore its data; then run \
                 the reshard again",
            ));
        };
        if found.seal != reading.run_id && known.seal == reading.run_id {
            // It is a replica, or was one just now, and has taken in what its primary had: the record is a copy.
            let reply = link.command(&replace_copy(&known))?;
            drop(known);
            return match RecordWrite::of(&node.name, &reply)? {
                RecordWrite::Done => Ok(link),
                RecordWrite::Other(found) => {
                    let mover = found.and_then(|found| found.mover);
                    Err(Fault::superseded(&node.name, mover.as_deref()))
                }
            };
        }
        if found.mover.as_deref() != Some(&*self.name.id) || found.epoch.term != known.epoch.term {
            return Err(Fault::superseded(&node.name, found.mover.as_deref()));
        }
        check_not_older(&node.name, &known, &found)?;
        if found.epoch < known.epoch {
            // The server was restarted and has lost its last records: what was closed must not be open again.
            self.step(&format!("seal {}", node.name))?;
            let next = NodeRecord {
                epoch: known.epoch.next(),
                seal: reading.run_id,
                ..known.clone()
            };
            match link.compare_and_set(Some(found.epoch), &next, None)? {
                RecordWrite::Done => *known = next,
                RecordWrite::Other(found) => {
                    let mover = found.and_then(|found| found.mover);
                    return Err(Fault::superseded(&node.name, mover.as_deref()));
                }
            }
        } else {
            *known = found;
            // The next record is written to this server.
            known.seal = reading.run_id;
        }
        drop(known);
        Ok(link)
    }

    /// Connects to a node again, for as long as it may take a server to restart. `former` is a connection that is in
    /// doubt: it is killed first, so that nothing that was sent over it is run later.
    pub(super) fn reconnect(&self, node: &SessionNode, former: &Link) -> Result<Link, Fault> {
        let start = Instant::now();
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
        if link.is_of_same_server(former) {
            kill(&mut link, &[former.id().unsigned_abs()])?;
        }
        Ok(link)
    }

    /// Seals the records of nodes again that were restarted with their data, until the keys have moved: clients may not use
    /// such a node before, and only the mover may write its record. Errors are those of whoever moves keys. Looks for the
    /// request of a pause by the way.
    pub(super) fn keep_sealed(&self, has_ended: &AtomicBool) {
        let mut links: Vec<Option<Link>> = self.nodes.iter().map(|_| None).collect();
        let mut probed = None;
        while !has_ended.load(Ordering::Relaxed) {
            thread::sleep(POLL_INTERVAL * 10);
            if probed.is_some_and(|probed: Instant| probed.elapsed() < PROBE_INTERVAL) {
                continue;
            }
            probed = Some(Instant::now());
            for (node, link) in self.nodes.iter().zip(&mut links) {
                match link.as_mut().map(pause::requested) {
                    Some(Ok(to)) => {
                        if to == Some(self.to.fingerprint()) {
                            self.is_pause_requested.store(true, Ordering::Relaxed);
                        }
                    }
                    Some(Err(_)) | None => *link = self.seal_again(node).ok(),
                }
            }
        }
    }

    /// Connects to a node, and seals its record if it was written before a restart.
    fn seal_again(&self, node: &SessionNode) -> Result<Link, Fault> {
        let mut link = self.connect(node)?;
        if !link.is_sealed() {
            self.step(&format!("seal {}", node.name))?;
            let next = |record: &NodeRecord| NodeRecord {
                epoch: record.epoch.next(),
                ..record.clone()
            };
            self.publish(node, &mut link, None, next)?;
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

/// All pairs of nodes between which keys may move, by their positions.
pub(super) fn pairs(nodes: &[SessionNode]) -> Vec<(usize, usize)> {
    let positions = |which: fn(&SessionNode) -> bool| {
        let nodes = nodes.iter().enumerate();
        nodes.filter_map(move |(position, node)| which(node).then_some(position))
    };
    let pairs = positions(|node| node.is_old)
        .flat_map(|source| positions(|node| node.is_new).map(move |target| (source, target)));
    pairs.filter(|(source, target)| source != target).collect()
}

/// Refuses a node whose record is older than what it has acknowledged: keys that were moved to it may be lost.
fn check_not_older(node: &str, known: &NodeRecord, found: &NodeRecord) -> Result<(), Fault> {
    let pairs = known.reshard.iter().flat_map(|reshard| &reshard.pairs);
    let is_older = pairs.into_iter().any(|pair| {
        let found = found.progress(&pair.source, &pair.target);
        // Only this mover ends the reshard: a record without it is one of before the announcement.
        found.is_none_or(|found| found.moved < pair.progress.moved)
    });
    match is_older {
        false => Ok(()),
        true => Err(Fault::lost(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::record::{PairRecord, Progress, ReshardRecord};

    #[test]
    fn record_that_has_lost_what_was_acknowledged_is_refused() {
        let record = |moved: Option<u32>| NodeRecord {
            epoch: RecordEpoch::new(3, 4),
            topology: 1,
            seal: "run".into(),
            is_retired: false,
            mover: Some("m-1".into()),
            reshard: moved.map(|moved| ReshardRecord {
                to: 2,
                pairs: vec![PairRecord {
                    source: "a".into(),
                    target: "b".into(),
                    progress: Progress {
                        moved,
                        closed: moved,
                    },
                }],
            }),
        };
        let is_kept = |known, found| check_not_older("a", &record(known), &record(found)).is_ok();
        assert!(is_kept(Some(4), Some(4)) && is_kept(Some(4), Some(9)) && is_kept(None, None));
        assert!(is_kept(None, Some(0)));
        // The second was written before the reshard was announced.
        assert!(!is_kept(Some(4), Some(3)) && !is_kept(Some(0), None));
    }
}
