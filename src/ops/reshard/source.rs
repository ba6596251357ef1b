//! [`Source`]: moving all keys that leave one node, pair by pair.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::batch_size::BatchSize;
use super::copy::{Key, unlink};
use super::event::ReshardEvent;
use super::facts::Durability;
use super::fault::Fault;
use super::index::KeyIndex;
use super::key_events::KeyEvents;
use super::link::{Link, items_of, text_of};
use super::pace::Pace;
use super::progress::Resumption;
use super::session::{Session, SessionNode};
use super::settings::{do_not_compress, put_back};
use super::sweeps::{BeforeLast, Sweeps};
use crate::error::Error;
use crate::topology::record::{NodeRecord, UNITS};

/// Number of keys that one SCAN looks at.
const SCAN_COUNT: &str = "1000";

/// How often a pause is looked for while the mover waits.
const TURN: Duration = Duration::from_millis(20);

/// What is left of a pause of another source for it to be joined, and measured.
const PAUSE_SEEN: Duration = Duration::from_millis(20);

/// How long a server may take to save its data.
const SAVE_WITHIN: Duration = Duration::from_secs(3600);

/// A node whose keys leave.
pub(super) struct Source<'s, 'o> {
    pub(super) session: &'s Session<'o>,
    pub(super) node: &'s SessionNode,
    /// The position of the node.
    pub(super) position: usize,
    pub(super) link: Link,
    pub(super) events: KeyEvents,
    pub(super) index: KeyIndex,
    pub(super) pairs: Vec<Pair<'s>>,
    pub(super) size: BatchSize,
    pace: Pace,
    /// When the commands of programs were counted last, and their number.
    counted: Option<(Instant, u64)>,
    /// Bytes of keys that move soon.
    pub(super) sizes: HashMap<Key, u64>,
}

/// The keys that move from the source to one target.
pub(super) struct Pair<'s> {
    pub(super) target: &'s SessionNode,
    /// The position of the target.
    pub(super) position: usize,
    /// Units below are at the target.
    pub(super) moved: u32,
    /// Keys of the pair at the target that no client has written there: copies of batches that were given up.
    pub(super) leftovers: BTreeSet<(u32, Key)>,
    pub(super) sweeps: Sweeps,
}

impl<'s, 'o> Source<'s, 'o> {
    /// Moves the keys that leave the node at this position to nodes at these. Returns early when the session stops.
    pub(super) fn run(
        session: &'s Session<'o>,
        position: usize,
        targets: &[usize],
    ) -> Result<(), Fault> {
        let Some(node) = session.nodes.get(position) else {
            return Ok(());
        };
        let mut link = session.connect(node)?;
        let mut pairs = Vec::new();
        for target_position in targets {
            let Some(target) = session.nodes.get(*target_position) else {
                continue;
            };
            let resumption = Resumption::new(
                node.progress(&node.name, &target.name),
                target.progress(&node.name, &target.name),
            );
            if resumption.source_is_behind {
                session.step(&format!(
                    "publish-source-again {} {}",
                    node.name, target.name
                ))?;
                publish_moved(session, node, &mut link, node, target, resumption.moved)?;
            }
            pairs.push(Pair {
                target,
                position: *target_position,
                moved: resumption.moved,
                leftovers: BTreeSet::new(),
                sweeps: Sweeps::new(target.facts.durability_after(&node.facts)),
            });
        }
        let moved: Vec<u32> = pairs.iter().map(|pair| pair.moved).collect();
        do_not_compress(&mut link)?;
        let mut source = Self {
            session,
            node,
            position,
            events: KeyEvents::open(session, node)?,
            link,
            index: KeyIndex::new(&moved, session.options.index_bytes),
            pairs,
            size: BatchSize::new(session.options.closure_goal),
            pace: Pace::new(session.options.foreground_share),
            counted: None,
            sizes: HashMap::new(),
        };
        let moved = source.move_all();
        // A mover that is stopped as if it were killed puts nothing back.
        if moved.as_ref().is_err_and(|fault| fault.of_step().is_none()) {
            return moved;
        }
        // Over a connection of its own, as the others may have broken.
        let link = session.connect(node);
        let put_back = link.and_then(|mut link| put_back(&mut link));
        // The first failure is what matters; the former configuration is remembered at the node.
        moved.and(put_back)
    }

    /// Moves the pairs, one after another.
    fn move_all(&mut self) -> Result<(), Fault> {
        self.scan()?;
        self.notify_counts();
        self.move_empty_pairs()?;
        for pair in 0..self.pairs.len() {
            self.move_pair(pair)?;
            if self.session.stops() {
                break;
            }
        }
        Ok(())
    }

    /// Moves one pair.
    fn move_pair(&mut self, number: usize) -> Result<(), Fault> {
        let Some(pair) = self.pairs.get(number) else {
            return Ok(());
        };
        let (target, position) = (pair.target, pair.position);
        if pair.moved >= UNITS && pair.sweeps.is_empty() {
            self.notify_done(target);
            return Ok(());
        }
        let mut link = self.session.connect(target)?;
        if pair.moved < UNITS {
            let leftovers = match self.leftovers(&mut link, position, pair.moved) {
                Err(fault) if fault.is_broken() => {
                    link = self.session.reconnect(target, &link)?;
                    self.leftovers(&mut link, position, pair.moved)?
                }
                other => other?,
            };
            if let Some(pair) = self.pairs.get_mut(number) {
                pair.leftovers = leftovers;
            }
        }
        let start = Instant::now();
        let mut sent = 0;
        self.counted = self.commands_of_programs();
        while self
            .pairs
            .get(number)
            .is_some_and(|pair| pair.moved < UNITS)
            && !self.session.stops()
        {
            let moved = self.move_batch(number, &mut link);
            sent += moved.map_err(Fault::without_retry)?;
            self.sweep_due(number, &mut link)?;
            self.slow_down(start, sent)?;
            self.make_way()?;
        }
        self.sweep_rest(number, &mut link)?;
        if self
            .pairs
            .get(number)
            .is_some_and(|pair| pair.moved >= UNITS)
        {
            self.notify_done(target);
        }
        Ok(())
    }

    /// Deletes what may be deleted by now.
    fn sweep_due(&mut self, number: usize, target: &mut Link) -> Result<(), Fault> {
        loop {
            let Some(pair) = self.pairs.get_mut(number) else {
                return Ok(());
            };
            let durability = pair.sweeps.durability();
            let Some(keys) = pair.sweeps.take_due(Instant::now()) else {
                return Ok(());
            };
            self.sweep(number, &keys, durability, target)?;
        }
    }

    /// Deletes all keys of a pair that have moved, once they are safe.
    fn sweep_rest(&mut self, number: usize, target: &mut Link) -> Result<(), Fault> {
        let Some(pair) = self.pairs.get_mut(number) else {
            return Ok(());
        };
        let before = pair.sweeps.before_last(Instant::now());
        let (durability, keys) = (pair.sweeps.durability(), pair.sweeps.take_all());
        if keys.is_empty() {
            return Ok(());
        }
        match before {
            BeforeLast::Delete => {}
            BeforeLast::Wait(time) => thread::sleep(time),
            BeforeLast::Save => save(target)?,
        }
        self.sweep(number, &keys, durability, target)
    }

    fn sweep(
        &mut self,
        number: usize,
        keys: &[Key],
        durability: Durability,
        target: &mut Link,
    ) -> Result<(), Fault> {
        let Some(to) = self.pairs.get(number).map(|pair| pair.target) else {
            return Ok(());
        };
        self.session
            .step(&format!("unlink {} {}", self.node.name, to.name))?;
        // A target that was restarted without its data has not got the keys any more: the source keeps them.
        if target.words(&["PING"]).is_err() {
            *target = self.session.reconnect(to, target)?;
        }
        if durability == Durability::WaitAof {
            // An error of a service that does not have it; two seconds have passed in any case.
            let _ = target.words(&["WAITAOF", "1", "0", "5000"]);
        }
        match unlink(&mut self.link, keys.iter().map(|key| &**key)) {
            // Once more: to delete a key twice does no harm before the reshard ends.
            Err(fault) if fault.is_broken() => {
                self.link = self.session.reconnect(self.node, &self.link)?;
                unlink(&mut self.link, keys.iter().map(|key| &**key))
            }
            other => other,
        }
    }

    /// Waits until no more bytes than the limit have been sent in a second.
    fn slow_down(&mut self, start: Instant, sent: u64) -> Result<(), Fault> {
        let Some(limit) = self.session.options.bytes_per_second else {
            return Ok(());
        };
        let due = Duration::from_secs_f64(sent as f64 / limit as f64);
        self.sleep_until(start + due)
    }

    /// Leaves the node to programs for as long as they need to have their share.
    fn make_way(&mut self) -> Result<(), Fault> {
        if self.pace.is_off() {
            return Ok(());
        }
        let before = self.counted.take();
        self.counted = self.commands_of_programs();
        let (Some((from, before)), Some((now, commands))) = (before, self.counted) else {
            return Ok(());
        };
        let time = now.saturating_duration_since(from);
        let pause = self.pace.worked(commands.saturating_sub(before), time);
        // A pause is one of all sources: programs wait for each of them.
        let end = {
            let mut quiet_until = self.session.quiet_until.lock();
            *quiet_until = (*quiet_until).max(pause.map(|pause| now + pause));
            *quiet_until
        };
        let Some(end) = end.filter(|end| *end > now + PAUSE_SEEN) else {
            return Ok(());
        };
        // Other batches end first, and what has waited for them comes before anything is measured.
        self.sleep_until(now + end.saturating_duration_since(now) / 2)?;
        let before = self.commands_of_programs();
        self.sleep_until(end)?;
        self.counted = self.commands_of_programs();
        if let (Some((from, before)), Some((now, commands))) = (before, self.counted) {
            let time = now.saturating_duration_since(from);
            self.pace.rested(commands.saturating_sub(before), time);
        }
        Ok(())
    }

    /// The number of commands of others that the node has processed. `None` if it cannot be asked; whoever needs the
    /// connection next finds out why.
    fn commands_of_programs(&mut self) -> Option<(Instant, u64)> {
        if self.pace.is_off() {
            return None;
        }
        let info = self.link.text(&["INFO", "stats"]).ok()?;
        let mut lines = info.lines();
        let all = lines.find_map(|line| line.strip_prefix("total_commands_processed:"))?;
        let own = self.node.own_commands.load(Ordering::Relaxed);
        let all: u64 = all.trim().parse().ok()?;
        Some((Instant::now(), all.saturating_sub(own)))
    }

    /// Sleeps until then, or until the session stops. Takes in what the node says of new keys meanwhile: a server closes a
    /// connection that does not read.
    fn sleep_until(&mut self, end: Instant) -> Result<(), Fault> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.session.stops() {
                return Ok(());
            }
            thread::sleep(TURN.min(left));
            match self.drain_events() {
                Err(fault) if fault.is_broken() => return Ok(()),
                other => other?,
            }
        }
    }

    fn notify_done(&self, target: &SessionNode) {
        self.session.notify(ReshardEvent::PairDone {
            source: self.node.name.clone(),
            target: target.name.clone(),
        });
    }

    fn notify_counts(&self) {
        let keys = self.pairs.iter().enumerate();
        let keys = keys.map(|(number, pair)| (pair.target.name.clone(), self.index.count(number)));
        let keys = keys.filter(|(_, count)| *count > 0);
        self.session.notify(ReshardEvent::Scanned {
            source: self.node.name.clone(),
            keys: keys.collect(),
        });
    }
}

/// Publishes at `node` that the units below `until` are at the target.
pub(super) fn publish_moved(
    session: &Session<'_>,
    node: &SessionNode,
    link: &mut Link,
    source: &SessionNode,
    target: &SessionNode,
    until: u32,
) -> Result<(), Fault> {
    let next = |record: &NodeRecord| {
        let moved = super::progress::moved_until(until);
        super::records::with_progress(record, &source.name, &target.name, moved)
    };
    session.publish(node, link, None, next).map(drop)
}

/// Has a server write its data to disk, and waits for that.
pub(super) fn save(link: &mut Link) -> Result<(), Fault> {
    let start = Instant::now();
    let failed = |text: &str, node: &str| {
        Fault::from(Error::config(format!("node {node:?}: {text}")).at_node(node))
    };
    // Refused while another one is under way, which may have begun too early: asked again.
    while let Err(fault) = link.words(&["BGSAVE"]) {
        if fault.is_broken() {
            return Err(fault);
        }
        if start.elapsed() > SAVE_WITHIN {
            return Err(failed("BGSAVE is refused; see its log", link.node()));
        }
        thread::sleep(10 * TURN);
    }
    loop {
        thread::sleep(TURN);
        let info = link.text(&["INFO", "persistence"])?;
        let is_done = info.contains("rdb_bgsave_in_progress:0");
        match (is_done, info.contains("rdb_last_bgsave_status:ok")) {
            (true, true) => return Ok(()),
            (true, false) => return Err(failed("BGSAVE has failed; see its log", link.node())),
            (false, _) if start.elapsed() > SAVE_WITHIN => {
                return Err(failed("BGSAVE does not end; see its log", link.node()));
            }
            (false, _) => {}
        }
    }
}

/// One SCAN: the next cursor, and the keys.
pub(super) fn scan_step(link: &mut Link, cursor: &str) -> Result<(String, Vec<Key>), Fault> {
    let reply = link.words(&["SCAN", cursor, "COUNT", SCAN_COUNT])?;
    let mut items = items_of(reply).unwrap_or_default().into_iter();
    let next = items.next().and_then(|cursor| text_of(&cursor));
    let next = next.ok_or_else(|| link.unexpected())?;
    let keys = items.next().and_then(items_of).unwrap_or_default();
    let keys = keys.into_iter().filter_map(|key| match key {
        redis::Value::BulkString(key) => Some(key.into_boxed_slice()),
        _ => None,
    });
    Ok((next, keys.collect()))
}
