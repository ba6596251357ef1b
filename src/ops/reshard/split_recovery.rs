//! What is left of splits: keys that each node has too many of, and nodes that a mover that was stopped has left as replicas.

use std::thread;
use std::time::Duration;

use super::copy::Key;
use super::facts::Durability;
use super::fault::Fault;
use super::life::panicked;
use super::link::Link;
use super::replica::{self, Replication};
use super::session::{Session, SessionNode};
use super::source::{save, scan_step};
use super::split::Split;
use crate::topology::record::UNITS;
use crate::topology::record::requests;

/// How often a sweep is begun again because a connection broke.
const SWEEP_ATTEMPTS: u32 = 3;

/// Number of keys that are deleted by one command: more would stall the server.
const DELETED_AT_ONCE: usize = 100;

/// How long an append-only file that is written once a second is behind at most.
const EVERY_SECOND: Duration = Duration::from_secs(2);

impl Session<'_> {
    /// The node with this name, and its position.
    pub(super) fn node_named(&self, name: &str) -> Option<(usize, &SessionNode)> {
        let mut nodes = self.nodes.iter().enumerate();
        nodes.find(|(_, node)| node.name == name)
    }

    /// The positions of the nodes that have a key before and after the reshard, if it moves.
    pub(super) fn way(&self, key: &[u8]) -> Option<(usize, usize)> {
        let tag = self.both.hash_tag().of(key);
        let (source, target, _) = self.both.moving()?.way(tag)?;
        Some((source.get(), target.get()))
    }
}

/// How long a node may take to see that a replica has gone.
const GONE_WITHIN: Duration = Duration::from_millis(100);

/// Ends the splits of a mover that was stopped: new nodes that have not published their units are emptied, and the units
/// opened again. Returns what has moved, and is still to be swept.
pub(super) fn recover(session: &mut Session<'_>) -> Result<Vec<Split>, Fault> {
    let (marked, moved) = end_splits(session)?;
    if marked.is_empty() {
        return Ok(moved);
    }
    // What were replicas are none any more, and nobody is to wait for them.
    thread::sleep(GONE_WITHIN);
    for position in marked {
        if let Some(source) = session.nodes.get(position) {
            let replicas = Replication::of(&mut session.connect(source)?)?.replicas;
            if let Some(source) = session.nodes.get_mut(position) {
                source.facts.replicas = replicas;
            }
        }
    }
    Ok(moved)
}

/// Empties the new nodes that have not published their units, and opens these again. Returns the positions of nodes that were
/// being split, and what has moved.
fn end_splits(session: &Session<'_>) -> Result<(Vec<usize>, Vec<Split>), Fault> {
    let (mut marked, mut moved) = (Vec::new(), Vec::new());
    for (position, node) in session.nodes.iter().enumerate() {
        let mut link = replica::connect(session, node)?;
        let mark = replica::split_mark(&mut link)?;
        let of = mark.and_then(|name| session.node_named(&name));
        let of = of.filter(|(_, source)| source.is_old);
        if node.is_old {
            if of.is_some() {
                marked.push(position);
            }
            continue;
        }
        let is_replica = Replication::of(&mut link)?.is_replica;
        let pairs = || {
            session
                .nodes
                .iter()
                .map(|source| node.progress(&source.name, &node.name))
        };
        match of {
            Some((source, _)) if pairs().any(|progress| progress.moved > 0) => {
                moved.push((source, position));
            }
            // Old nodes come first.
            Some(_) => reset(session, node, &mut link)?,
            None if is_replica && !marked.is_empty() => reset(session, node, &mut link)?,
            None => {}
        }
    }
    for source in marked
        .iter()
        .filter_map(|position| session.nodes.get(*position))
    {
        let mut link = session.connect(source)?;
        for target in &session.nodes {
            let progress = source.progress(&source.name, &target.name);
            let is_moved = target.progress(&source.name, &target.name).moved >= UNITS;
            if progress.has_closed() && !is_moved {
                session.step(&format!("reopen {} {}", source.name, target.name))?;
                session.reopen(source, &mut link, &target.name)?;
            }
        }
        session.step(&format!("split-unmark {}", source.name))?;
        replica::mark_split(&mut link, None)?;
    }
    Ok((marked, moved))
}

fn reset(session: &Session<'_>, node: &SessionNode, link: &mut Link) -> Result<(), Fault> {
    session.step(&format!("split-reset {}", node.name))?;
    replica::reset(session, node, link)
}

/// Deletes what each side has too many of: the new nodes, what they have taken in and do not own; and the sources, what has
/// moved. Nothing else is moved to the new nodes before that.
pub(super) fn sweep_all(session: &Session<'_>, moved: &[Split]) -> Result<(), Fault> {
    thread::scope(|scope| {
        let threads: Vec<_> = moved
            .iter()
            .map(|split| scope.spawn(|| sweep(session, *split)))
            .collect();
        let mut results = threads.into_iter().map(|thread| thread.join());
        results.try_for_each(|result| result.unwrap_or_else(|_| Err(panicked())))
    })
}

fn sweep(session: &Session<'_>, split: Split) -> Result<(), Fault> {
    let (Some(source), Some(target)) = (session.nodes.get(split.0), session.nodes.get(split.1))
    else {
        return Ok(());
    };
    session.step(&format!("split-sweep {} {}", source.name, target.name))?;
    let mut link = session.connect(target)?;
    // The target owns the keys of this pair alone: those of others come later.
    delete(session, target, &mut link, |key| {
        session.way(key) != Some(split)
    })?;
    persist(source, target, &mut link)?;
    let mut at_source = session.connect(source)?;
    session.step(&format!("split-unlink {} {}", source.name, target.name))?;
    delete(session, source, &mut at_source, |key| {
        session.way(key) == Some(split)
    })?;
    session.step(&format!("split-unmark {}", target.name))?;
    replica::mark_split(&mut link, None)
}

/// Waits until the target has the keys on disk, as far as the source had them.
fn persist(source: &SessionNode, target: &SessionNode, link: &mut Link) -> Result<(), Fault> {
    match target.facts.durability_after(&source.facts) {
        Durability::None => Ok(()),
        Durability::EverySecond => {
            thread::sleep(EVERY_SECOND);
            Ok(())
        }
        Durability::WaitAof => {
            thread::sleep(EVERY_SECOND);
            // An error of a service that does not have it.
            let _ = link.words(&["WAITAOF", "1", "0", "5000"]);
            Ok(())
        }
        Durability::Snapshot => save(link),
    }
}

/// Deletes the keys of a node that `is_foreign` names.
fn delete(
    session: &Session<'_>,
    node: &SessionNode,
    link: &mut Link,
    is_foreign: impl Fn(&Key) -> bool,
) -> Result<(), Fault> {
    for _ in 0..SWEEP_ATTEMPTS {
        match delete_once(link, &is_foreign) {
            Err(fault) if fault.is_broken() => *link = session.reconnect(node, link)?,
            other => return other,
        }
    }
    delete_once(link, &is_foreign)
}

fn delete_once(link: &mut Link, is_foreign: &impl Fn(&Key) -> bool) -> Result<(), Fault> {
    let mut cursor = "0".to_owned();
    loop {
        let (next, mut keys) = scan_step(link, &cursor)?;
        keys.retain(is_foreign);
        for few in keys.chunks(DELETED_AT_ONCE) {
            link.command(&requests::delete_foreign(few.iter().map(|key| &**key)))?;
        }
        cursor = next;
        if cursor == "0" {
            return Ok(());
        }
    }
}
