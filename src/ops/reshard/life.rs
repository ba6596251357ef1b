//! The life of a reshard: claimed, announced, ended or aborted. What lies between is `source`.

use std::thread;

use super::copy::unlink;
use super::event::ReshardEvent;
use super::fault::{Fault, FaultKind};
use super::fence::ServerClient;
use super::link::Link;
use super::pause;
use super::records::{Fingerprints, KnownNode, announced, claimed, ended, is_majority, restored};
use super::session::{Session, SessionNode, kill, pairs};
use super::settings::put_back;
use super::source::scan_step;
use super::view::ViewNode;
use crate::error::Error;
use crate::topology::record::requests::{RecordTexts, RecordWrite};
use crate::topology::record::{NodeRecord, RecordEpoch};

/// Claims a term on all nodes, in their order. Returns the record of each.
///
/// Nothing else is changed before a majority has the claim: two movers that claim the same term cannot both have one.
///
/// # Errors
///
/// If another mover is faster, or a node cannot be reached.
pub(super) fn claim(
    nodes: &mut [ViewNode],
    fingerprints: Fingerprints,
    term: u32,
    mover: &str,
    may_do: impl Fn(&str) -> bool,
) -> Result<Vec<NodeRecord>, Fault> {
    let all = nodes.len();
    let before: Vec<KnownNode> = nodes
        .iter()
        .map(ViewNode::known)
        .collect::<Result<_, _>>()?;
    let mut records = Vec::with_capacity(all);
    for node in nodes {
        let step = format!("claim {}", node.name);
        if !may_do(&step) {
            return Err(Fault::killed(&step));
        }
        let mut known = node.known()?;
        let has_majority = is_majority(records.len(), all);
        let reply = node
            .reply
            .as_mut()
            .map_err(|error| Fault::from(error.clone()))?;
        let record = loop {
            let expected = known.record.as_ref().map(|record| record.epoch);
            known.record = restored(&known, &before, fingerprints);
            let next = claimed(&known, fingerprints.from, term, mover);
            match reply.link.compare_and_set(expected, &next, None)? {
                RecordWrite::Done => break next,
                RecordWrite::Other(found) => {
                    let found_term = found.as_ref().map_or(0, |found| found.epoch.term);
                    // Of two movers with one term, the one with a majority goes on.
                    if found_term > term || (found_term == term && !has_majority) {
                        let mover = found.and_then(|found| found.mover);
                        return Err(Fault::superseded(&node.name, mover.as_deref()));
                    }
                    known.record = found;
                }
            }
        };
        records.push(record);
    }
    Ok(records)
}

impl Session<'_> {
    /// Kills the connections of every other mover at all nodes, before anything else is sent to them: what a former mover
    /// has sent may still be on its way.
    pub(super) fn kill_other_movers(&self) -> Result<(), Fault> {
        for node in &self.nodes {
            self.step(&format!("kill-former-mover {}", node.name))?;
            let mut link = self.connect(node)?;
            let clients = ServerClient::list(&link.text(&["CLIENT", "LIST"])?);
            let others = clients.iter();
            let others = others.filter(|client| client.is_of_other_mover(&self.name.id));
            let ids: Vec<u64> = others.map(|client| client.id).collect();
            kill(&mut link, &ids)?;
        }
        Ok(())
    }

    /// All pairs of nodes between which keys may move, by their positions.
    pub(super) fn pairs(&self) -> Vec<(usize, usize)> {
        pairs(&self.nodes)
    }

    fn name_of(&self, position: usize) -> &str {
        self.nodes.get(position).map_or("", |node| &node.name)
    }

    /// Tells all nodes of the reshard, and waits until their clients have acknowledged that. Nothing is closed yet, so
    /// idle and lost connections are found while nobody waits.
    pub(super) fn announce(&self) -> Result<(), Fault> {
        let pairs = self.pairs();
        let texts = RecordTexts {
            topology: Some(self.from.to_string()),
            target: Some(self.to.to_string()),
        };
        self.copy_functions()?;
        let mut told: Vec<(&SessionNode, RecordEpoch)> = Vec::new();
        for (position, node) in self.nodes.iter().enumerate() {
            self.step(&format!("announce {}", node.name))?;
            let own = pairs.iter();
            let own = own.filter(|(source, target)| [source, target].contains(&&position));
            let own = own.map(|(source, target)| (self.name_of(*source), self.name_of(*target)));
            let own: Vec<(&str, &str)> = own.collect();
            let mut link = self.connect(node)?;
            let all = self.fingerprints();
            let next = |record: &NodeRecord| announced(record, all, &own);
            let epoch = self.publish(node, &mut link, Some(&texts), next)?;
            told.push((node, epoch));
        }
        self.step("announce-fence")?;
        self.fence_all(&told)?;
        self.notify(ReshardEvent::Announced { pairs: pairs.len() });
        Ok(())
    }

    /// Fences several nodes at a time.
    fn fence_all(&self, nodes: &[(&SessionNode, RecordEpoch)]) -> Result<(), Fault> {
        let fence = |node: &SessionNode, epoch| {
            let mut link = self.connect(node)?;
            self.fence(&mut link, epoch, self.options.announce_bound)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = nodes
                .iter()
                .map(|(node, epoch)| scope.spawn(|| fence(node, *epoch)))
                .collect();
            let mut results = threads.into_iter().map(|thread| thread.join());
            results.try_for_each(|result| result.unwrap_or_else(|_| Err(panicked())))
        })
    }

    /// Copies the functions of an old node to those that are new. Those of clients are loaded everywhere, so all old nodes
    /// have the same.
    fn copy_functions(&self) -> Result<(), Fault> {
        let first = self.nodes.iter().find(|node| node.is_old);
        let Some(first) = first.filter(|node| node.facts.is_7_0()) else {
            return Ok(());
        };
        let added = self
            .nodes
            .iter()
            .filter(|node| !node.is_old && node.facts.is_7_0());
        let added: Vec<&SessionNode> = added.collect();
        if added.is_empty() {
            return Ok(());
        }
        self.step("functions")?;
        let functions = self.connect(first)?.words(&["FUNCTION", "DUMP"]);
        let Ok(redis::Value::BulkString(functions)) = functions else {
            // A service without functions, or a user who may not see them.
            return Ok(());
        };
        for node in added {
            let mut link = self.connect(node)?;
            let restored = link.call(&[b"FUNCTION", b"RESTORE", &functions, b"APPEND"]);
            // They are there already if the mover was stopped behind this step.
            if let Err(fault) = restored
                && !(fault.kind == FaultKind::Refused
                    && fault.error.to_string().contains("already exists"))
            {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Puts the new topology in force, at its own nodes and at those that leave.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.end(&self.to.to_string(), self.to.fingerprint(), |node| {
            node.is_new
        })
    }

    /// Puts the old topology in force again, at its own nodes and at those that were only new.
    pub(super) fn put_back(&self) -> Result<(), Fault> {
        self.end(&self.from.to_string(), self.from.fingerprint(), |node| {
            node.is_old
        })
    }

    /// Ends the reshard at all nodes: at members but the last, then at those that leave, then at the last member. By its
    /// record a mover that goes on finds those that leave, which no other names any more.
    fn end(
        &self,
        text: &str,
        topology: u64,
        is_member: impl Fn(&SessionNode) -> bool,
    ) -> Result<(), Fault> {
        let texts = RecordTexts {
            topology: Some(text.to_owned()),
            target: None,
        };
        let (mut order, leaving): (Vec<&SessionNode>, Vec<&SessionNode>) =
            self.nodes.iter().partition(|node| is_member(node));
        let last = order.pop();
        for node in order.into_iter().chain(leaving).chain(last) {
            self.step(&format!("end {}", node.name))?;
            let mut link = self.connect(node)?;
            // First: a reshard that has ended must not leave one to the next that leads to the same topology.
            pause::clear(&mut link)?;
            let next = |record: &NodeRecord| ended(record, topology, is_member(node));
            self.publish(node, &mut link, Some(&texts), next)?;
        }
        Ok(())
    }

    /// Refuses to go back once a unit has moved.
    pub(super) fn check_nothing_moved(&self) -> Result<(), Error> {
        for node in &self.nodes {
            let record = node.record.lock();
            let pairs = record.reshard.iter().flat_map(|reshard| &reshard.pairs);
            let moved = pairs.into_iter().find(|pair| pair.progress.moved > 0);
            let is_finished = record.reshard.is_none() && record.topology == self.to.fingerprint();
            if moved.is_some() || (is_finished && self.to.fingerprint() != self.from.fingerprint())
            {
                let text = format!(
                    "node {:?}: keys have moved already, and were changed since. Finish the reshard with `redis-sharding \
                     reshard run`; then reshard back",
                    node.name
                );
                return Err(Error::config(text).at_node(&node.name));
            }
        }
        Ok(())
    }

    /// Opens all units again at their sources.
    pub(super) fn reopen_all(&self) -> Result<(), Fault> {
        for (source, target) in self.pairs() {
            let (Some(node), target) = (self.nodes.get(source), self.name_of(target)) else {
                continue;
            };
            if node.progress(&node.name, target).has_closed() {
                self.step(&format!("reopen {} {target}", node.name))?;
                let mut link = self.connect(node)?;
                self.reopen(node, &mut link, target)?;
            }
        }
        Ok(())
    }

    /// Deletes the copies at all targets, none of which was published, and puts the configurations back.
    pub(super) fn clean_up(&self) -> Result<(), Fault> {
        for (position, node) in self.nodes.iter().enumerate() {
            self.step(&format!("clean-up {}", node.name))?;
            let mut link = self.connect(node)?;
            put_back(&mut link)?;
            if !node.is_new {
                continue;
            }
            let mut cursor = "0".to_owned();
            loop {
                let (next, mut keys) = scan_step(&mut link, &cursor)?;
                keys.retain(|key| self.is_copy(key, position));
                unlink(&mut link, keys.iter().map(|key| &**key))?;
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    /// True for a key of another node that moves to the node at this position.
    fn is_copy(&self, key: &[u8], position: usize) -> bool {
        let tag = self.both.hash_tag().of(key);
        let way = self.both.moving().and_then(|moving| moving.way(tag));
        way.is_some_and(|(_, target, _)| target.get() == position)
    }

    /// Opens the units of a pair again at the source, in a new epoch.
    pub(super) fn reopen(
        &self,
        source: &SessionNode,
        link: &mut Link,
        target: &str,
    ) -> Result<(), Fault> {
        let next = |record: &NodeRecord| {
            let progress = record.progress(&source.name, target).unwrap_or_default();
            let open = super::progress::reopened(progress.moved);
            super::records::with_progress(record, &source.name, target, open)
        };
        self.publish(source, link, None, next).map(drop)
    }
}

/// The fault of a thread that has panicked, which none does.
pub(super) fn panicked() -> Fault {
    Fault::from(Error::config("a thread of the mover has panicked"))
}
