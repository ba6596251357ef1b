//! Splitting a node by replication: new nodes become its replicas, and then all units that they get move at once.
//!
//! ```text
//! mark S ─▶ REPLICAOF S at T ─▶ T has all keys ─▶ T has its own record ─▶ (announcement)
//!   ─▶ close at S ─▶ fence S ─▶ T has run what S had sent ─▶ REPLICAOF NO ONE ─▶ compare
//!   ─▶ publish at T ─▶ publish at S ─▶ sweep both
//! ```
//!
//! * T becomes a replica before any client knows of it: while it takes the keys in, it cannot reply.
//! * What is written to the record of S while it is marked is not sent to T, whose own record thereby stays.
//! * S has sent to T what it had run before the fence has ended, so T has everything once it is as far as S was after that.
//! * Before it has published anything, T is emptied when anything fails, and its keys are copied one by one.

use std::time::{Duration, Instant};

use super::copy::{Key, verify};
use super::event::ReshardEvent;
use super::fault::{Fault, FaultKind};
use super::link::Link;
use super::plan::PlannedSplit;
use super::progress::{closed_until, moved_until, reopened};
use super::records::with_progress;
use super::replica::{self, Former, Replication};
use super::session::{Session, SessionNode};
use super::source::{publish_moved, scan_step};
use crate::topology::record::requests::{self, Foreign};
use crate::topology::record::{NodeRecord, Progress, UNITS};

/// How far replicas may be behind when the units are closed, in bytes.
const BEHIND_MAX: u64 = 64 << 10;

/// How long replicas may take to be no further behind.
const NEAR_WITHIN: Duration = Duration::from_secs(30);

/// How long replicas may take for the last bytes, while the units are closed.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(2);

/// How often they are asked then.
const CATCH_UP_POLL: Duration = Duration::from_millis(1);

/// Number of keys of each pair that are compared.
const COMPARED: usize = 200;

/// Number of SCANs for the keys that are compared.
const SCANS_MAX: usize = 50;

/// A node that is split, and the new nodes that get its keys.
pub(super) struct Group<'s> {
    source: &'s SessionNode,
    position: usize,
    members: Vec<Member<'s>>,
}

/// A new node that is a replica.
struct Member<'s> {
    node: &'s SessionNode,
    position: usize,
    /// Number of keys that it gets, by the plan.
    keys: u64,
    link: Link,
    /// What has been changed in its configuration.
    former: Former,
    /// Some keys that it gets.
    sample: Vec<Key>,
}

/// Keys that have moved: the positions of the node that had them, and of the one that has them.
pub(super) type Split = (usize, usize);

/// True if nothing else may be done behind this fault.
fn is_final(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Killed | FaultKind::Superseded)
}

/// Has all new nodes that are planned for that become replicas, and waits until they have all keys. Those that do not are
/// left out, empty as they were.
pub(super) fn attach_all<'s>(
    session: &'s Session<'_>,
    planned: &[PlannedSplit],
) -> Result<Vec<Group<'s>>, Fault> {
    let mut groups: Vec<Group<'s>> = Vec::new();
    for split in planned {
        let (Some((position, source)), Some((at, node))) = (
            session.node_named(&split.source),
            session.node_named(&split.target),
        ) else {
            continue;
        };
        if !groups.iter().any(|group| group.position == position) {
            session.step(&format!("split-mark {}", source.name))?;
            replica::mark_split(&mut session.connect(source)?, Some(&source.name))?;
            groups.push(Group {
                source,
                position,
                members: Vec::new(),
            });
        }
        session.step(&format!("split-attach {} {}", source.name, node.name))?;
        let mut member = Member {
            node,
            position: at,
            keys: split.keys,
            link: replica::connect(session, node)?,
            former: Former::new(),
            sample: Vec::new(),
        };
        let attached = replica::attach(source, node, &mut member.link, &mut member.former);
        let group = groups.iter_mut().find(|group| group.position == position);
        match (attached, group) {
            (Ok(()), Some(group)) => group.members.push(member),
            (Ok(()), None) => {}
            (Err(fault), _) => give_up(session, source, member, fault)?,
        }
    }
    for group in &mut groups {
        group.wait_for_keys(session)?;
    }
    Ok(groups)
}

/// Makes a new node empty again, whose keys are copied one by one then.
fn give_up(
    session: &Session<'_>,
    source: &SessionNode,
    mut member: Member<'_>,
    fault: Fault,
) -> Result<(), Fault> {
    if is_final(&fault) {
        return Err(fault);
    }
    let node = member.node;
    session.step(&format!("split-reset {} {}", source.name, node.name))?;
    if replica::reset(session, node, &mut member.link).is_err() {
        member.link = replica::replace(session, node, &member.link)?;
        replica::reset(session, node, &mut member.link)?;
    }
    replica::put_settings_back(&mut member.link, &member.former)?;
    session.notify(ReshardEvent::SplitGivenUp {
        source: source.name.clone(),
        target: node.name.clone(),
        cause: fault.error.to_string(),
    });
    Ok(())
}

impl<'s> Group<'s> {
    /// Waits until the replicas have all keys, and gives each its own record again, which it has from the source.
    fn wait_for_keys(&mut self, session: &Session<'_>) -> Result<(), Fault> {
        let mut link = session.connect(self.source)?;
        for mut member in std::mem::take(&mut self.members) {
            let (source, node) = (self.source, member.node);
            session.step(&format!("split-sync {} {}", source.name, node.name))?;
            let mut wait = || {
                replica::wait_for_keys(session, &mut link, &mut member.link, node)?;
                session.step(&format!("split-record {} {}", source.name, node.name))?;
                replica::keep_record(session, node, &mut member.link)?;
                // Before programs know of it.
                let all = requests::write_foreign(Foreign::All);
                member.link.command(&all).map(drop)
            };
            match wait() {
                Ok(()) => self.members.push(member),
                Err(fault) => give_up(session, source, member, fault)?,
            }
        }
        if self.members.is_empty() {
            replica::mark_split(&mut link, None)?;
        }
        Ok(())
    }

    /// Moves all units of the group: closed once, and published when the replicas have the last bytes. Returns what has
    /// moved.
    pub(super) fn switch(mut self, session: &Session<'_>) -> Result<Vec<Split>, Fault> {
        if self.members.is_empty() {
            return Ok(Vec::new());
        }
        let source = self.source;
        let mut link = session.connect(source)?;
        let mut closed_at = Instant::now();
        let closed = self.close(session, &mut link, &mut closed_at);
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        let members = std::mem::take(&mut self.members);
        match closed {
            Err(fault) => failed.extend(members.into_iter().map(|member| (member, fault.clone()))),
            Ok(primary) => {
                for mut member in members {
                    match member.take_over(session, source, &mut link, &primary) {
                        Ok(()) => done.push(member),
                        Err(fault) => failed.push((member, fault)),
                    }
                }
            }
        }
        if let Some((_, fault)) = failed.iter().find(|(_, fault)| is_final(fault)) {
            return Err(fault.clone());
        }
        session.step(&format!("split-publish-source {}", source.name))?;
        if publish(session, source, &mut link, &done, &failed).is_err() {
            link = session.reconnect(source, &link)?;
            publish(session, source, &mut link, &done, &failed)?;
        }
        let closed = closed_at.elapsed();
        if !done.is_empty() {
            session.notify(ReshardEvent::Split {
                source: source.name.clone(),
                targets: done.iter().map(|member| member.node.name.clone()).collect(),
                keys: done.iter().map(|member| member.keys).sum(),
                closed,
            });
        }
        for (member, fault) in failed {
            give_up(session, source, member, fault)?;
        }
        session.step(&format!("split-unmark {}", source.name))?;
        replica::mark_split(&mut link, None)?;
        let mut moved = Vec::new();
        for mut member in done {
            // What the node was configured with matters less than what has moved.
            let _ = replica::put_settings_back(&mut member.link, &member.former);
            moved.push((self.position, member.position));
        }
        Ok(moved)
    }

    /// Closes all units, and waits until nothing is written to them any more. Returns how far the source is then.
    fn close(
        &mut self,
        session: &Session<'_>,
        link: &mut Link,
        closed_at: &mut Instant,
    ) -> Result<Replication, Fault> {
        let source = self.source;
        self.sample(session, link)?;
        let near_by = Instant::now() + NEAR_WITHIN;
        for member in &mut self.members {
            member.wait_until_near(session, link, near_by)?;
        }
        session.step(&format!("split-close {}", source.name))?;
        let targets: Vec<&str> = self
            .members
            .iter()
            .map(|member| &*member.node.name)
            .collect();
        let next = |record: &NodeRecord| {
            let mut next = record.clone();
            for target in &targets {
                let progress = next.progress(&source.name, target).unwrap_or_default();
                let closed = closed_until(progress.moved, UNITS);
                next = with_progress(&next, &source.name, target, closed);
            }
            next
        };
        *closed_at = Instant::now();
        let epoch = session.publish(source, link, None, next)?;
        session.step(&format!("split-fence {}", source.name))?;
        session.fence(link, epoch, session.options.fence_bound)?;
        Replication::of(link)
    }

    /// Finds some keys that move, to be compared later.
    fn sample(&mut self, session: &Session<'_>, link: &mut Link) -> Result<(), Fault> {
        let mut cursor = "0".to_owned();
        for _ in 0..SCANS_MAX {
            let (next, keys) = scan_step(link, &cursor)?;
            for key in keys {
                let way = session.way(&key);
                let mut members = self.members.iter_mut();
                let member = members.find(|member| way == Some((self.position, member.position)));
                if let Some(member) = member.filter(|member| member.sample.len() < COMPARED) {
                    member.sample.push(key);
                }
            }
            cursor = next;
            if cursor == "0"
                || self
                    .members
                    .iter()
                    .all(|member| member.sample.len() >= COMPARED)
            {
                break;
            }
        }
        Ok(())
    }
}

impl Member<'_> {
    /// Waits until the replica is not far behind.
    fn wait_until_near(
        &mut self,
        session: &Session<'_>,
        source: &mut Link,
        until: Instant,
    ) -> Result<(), Fault> {
        loop {
            // Somebody may have emptied the fleet: then the replica has the record of its primary.
            replica::keep_record(session, self.node, &mut self.link)?;
            let primary = Replication::of(source)?;
            let behind = Replication::of(&mut self.link)?.behind(&primary);
            if behind.is_some_and(|behind| behind <= BEHIND_MAX) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(self.late());
            }
            std::thread::sleep(CATCH_UP_POLL);
        }
    }

    fn late(&self) -> Fault {
        Fault::broken(&self.node.name, "it does not catch up as a replica")
    }

    /// Takes all units of the pair over, once it has what the source had sent.
    fn take_over(
        &mut self,
        session: &Session<'_>,
        source: &SessionNode,
        link: &mut Link,
        primary: &Replication,
    ) -> Result<(), Fault> {
        let step =
            |step: &str| session.step(&format!("split-{step} {} {}", source.name, self.node.name));
        step("catch-up")?;
        let start = Instant::now();
        while Replication::of(&mut self.link)?.behind(primary) != Some(0) {
            if start.elapsed() > CAUGHT_UP_WITHIN {
                return Err(self.late());
            }
            std::thread::sleep(CATCH_UP_POLL);
        }
        step("detach")?;
        replica::detach(&mut self.link)?;
        if !Replication::of(&mut self.link)?.has_had(primary) {
            return Err(self.late());
        }
        replica::keep_record(session, self.node, &mut self.link)?;
        step("compare")?;
        let has_expiretime = source.facts.is_7_0() && self.node.facts.is_7_0();
        verify(link, &mut self.link, &self.sample, has_expiretime)?;
        // What moves is counted at the source until it is deleted there.
        let foreign = requests::write_foreign(Foreign::AsNow);
        self.link.command(&foreign)?;
        step("publish-target")?;
        match publish_moved(session, self.node, &mut self.link, source, self.node, UNITS) {
            Err(fault) if fault.is_broken() => self.ask_target(session, source, fault),
            other => other,
        }
    }

    /// Asks the target, over a new connection, whether it has published the units.
    fn ask_target(
        &mut self,
        session: &Session<'_>,
        source: &SessionNode,
        fault: Fault,
    ) -> Result<(), Fault> {
        // A target that cannot be reached may have: the mover stops, and its units stay closed.
        let link = session.reconnect(self.node, &self.link);
        self.link = link.map_err(|fault| Fault {
            kind: FaultKind::Superseded,
            ..fault
        })?;
        match self.node.progress(&source.name, &self.node.name).moved {
            UNITS => Ok(()),
            _ => Err(fault),
        }
    }
}

/// The source says what has moved, and opens what has not.
fn publish(
    session: &Session<'_>,
    source: &SessionNode,
    link: &mut Link,
    done: &[Member<'_>],
    failed: &[(Member<'_>, Fault)],
) -> Result<(), Fault> {
    let done = done.iter().map(|member| (member.node, moved_until(UNITS)));
    let failed = failed.iter().map(|(member, _)| (member.node, reopened(0)));
    let all: Vec<(&SessionNode, Progress)> = done.chain(failed).collect();
    let next = |record: &NodeRecord| {
        all.iter()
            .fold(record.clone(), |record, (target, progress)| {
                with_progress(&record, &source.name, &target.name, *progress)
            })
    };
    session.publish(source, link, None, next).map(drop)
}
