//! [`Source`]: moving all keys that leave one node, pair by pair.

use std::collections::{BTreeSet, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use super::batch_size::{BatchSize, KEY_OVERHEAD};
use super::copy::{Key, sizes, unlink};
use super::event::ReshardEvent;
use super::facts::Durability;
use super::fault::Fault;
use super::index::KeyIndex;
use super::key_events::KeyEvents;
use super::link::{Link, items_of, text_of};
use super::progress::Resumption;
use super::session::{Session, SessionNode};
use super::settings::{do_not_compress, put_back};
use super::sweeps::{BeforeLast, Sweeps};
use crate::error::{Error, KeyText};
use crate::partition::NodeIndex;
use crate::topology::record::{NodeRecord, UNITS};

/// Number of keys that one SCAN looks at.
const SCAN_COUNT: &str = "1000";

/// Number of keys whose sizes are asked for before a batch. A batch has no more, unless a unit has.
const SIZED_AT_ONCE: usize = 20_000;

/// How often a scan is begun again because a connection broke.
const SCAN_ATTEMPTS: u32 = 3;

/// How often a pause is looked for while the mover waits.
const TURN: Duration = Duration::from_millis(20);

/// How long a server may take to save its data.
const SAVE_WITHIN: Duration = Duration::from_secs(3600);

/// A node whose keys leave.
pub(super) struct Source<'s, 'o> {
    pub(super) session: &'s Session<'o>,
    pub(super) node: &'s SessionNode,
    /// The position of the node.
    position: usize,
    pub(super) link: Link,
    pub(super) events: KeyEvents,
    pub(super) index: KeyIndex,
    pub(super) pairs: Vec<Pair<'s>>,
    pub(super) size: BatchSize,
    /// Bytes of keys that move soon.
    pub(super) sizes: HashMap<Key, u64>,
}

/// The keys that move from the source to one target.
pub(super) struct Pair<'s> {
    pub(super) target: &'s SessionNode,
    /// The position of the target.
    position: usize,
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
        }
        self.sweep_rest(number, &mut link)?;
        if self
            .pairs
            .get(number)
            .is_some_and(|pair| pair.moved >= UNITS)
        {
            self.session.notify(ReshardEvent::PairDone {
                source: self.node.name.clone(),
                target: target.name.clone(),
            });
        }
        Ok(())
    }

    /// Fills the index. What the node says of new keys meanwhile is added, so that it is complete whenever a key was made.
    pub(super) fn scan(&mut self) -> Result<(), Fault> {
        for _ in 0..SCAN_ATTEMPTS {
            match self.scan_once() {
                Err(fault) if fault.is_broken() => self.reconnect()?,
                other => return other,
            }
        }
        self.scan_once()
    }

    fn scan_once(&mut self) -> Result<(), Fault> {
        self.index.clear();
        self.sizes.clear();
        let mut stale: Vec<Vec<Key>> = self.pairs.iter().map(|_| Vec::new()).collect();
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys) = scan_step(&mut self.link, &cursor)?;
            for key in keys {
                self.add(&key, Some(&mut stale))?;
            }
            self.drain_events()?;
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        // Keys of units that have moved: whoever moved them was stopped before they were deleted.
        let now = Instant::now();
        for (pair, keys) in self.pairs.iter_mut().zip(stale) {
            pair.sweeps.add(now, keys);
        }
        Ok(())
    }

    /// Adds a key to the index if it moves; to `stale` if it has moved.
    fn add(&mut self, key: &[u8], stale: Option<&mut Vec<Vec<Key>>>) -> Result<(), Fault> {
        let both = &self.session.both;
        let tag = both.hash_tag().of(key);
        let way = both.moving().and_then(|moving| moving.way(tag));
        let Some((source, target, unit)) = way else {
            if self.session.to.locate(key).is_none() {
                let text = format!(
                    "the key {} has no owner by the new topology; give that one a rule for it, or delete the key",
                    KeyText(key)
                );
                return Err(Fault::refused(&self.node.name, text));
            }
            return Ok(());
        };
        // A key that the node does not own stays: no client reads it there.
        if source.get() != self.position {
            return Ok(());
        }
        let pair = self
            .pairs
            .iter()
            .position(|pair| NodeIndex::new(pair.position as u16) == target);
        let Some(pair) = pair else {
            return Ok(());
        };
        let moved = self.pairs.get(pair).map_or(0, |pair| pair.moved);
        match stale {
            Some(stale) if unit < moved => {
                if let Some(keys) = stale.get_mut(pair) {
                    keys.push(key.into());
                }
            }
            _ => self.index.insert(pair, unit, key),
        }
        Ok(())
    }

    /// Takes in what the node has said of new keys.
    pub(super) fn drain_events(&mut self) -> Result<(), Fault> {
        let mut keys: Vec<Key> = Vec::new();
        self.events.drain(|key| keys.push(key.into()))?;
        keys.iter().try_for_each(|key| self.add(key, None))
    }

    /// Waits until the node has said all that it has to say of new keys.
    pub(super) fn settle_events(&mut self) -> Result<(), Fault> {
        let mut keys: Vec<Key> = Vec::new();
        self.events.settle(|key| keys.push(key.into()))?;
        keys.iter().try_for_each(|key| self.add(key, None))
    }

    /// Keeps the index true before a batch: another connection for the events if that one broke, and another scan if the
    /// last one has left keys out.
    pub(super) fn refresh_index(&mut self, pair: usize) -> Result<(), Fault> {
        match self.drain_events() {
            Ok(()) => {}
            Err(fault) if fault.is_broken() => {
                self.reopen_events()?;
            }
            Err(fault) => return Err(fault),
        }
        if self.index.is_used_up(pair) {
            self.scan()?;
        }
        Ok(())
    }

    /// Replaces the connection for events. New keys may have been missed meanwhile.
    pub(super) fn reopen_events(&mut self) -> Result<(), Fault> {
        self.reconnect()?;
        self.scan()
    }

    /// Replaces both connections to the node. Waits for it if it is being restarted, after which it has its own
    /// configuration again.
    fn reconnect(&mut self) -> Result<(), Fault> {
        self.link = self.session.reconnect(self.node, &self.link)?;
        do_not_compress(&mut self.link)?;
        self.events = KeyEvents::open(self.session, self.node)?;
        Ok(())
    }

    /// Chooses the units of the next batch, and returns the first one behind them with the sizes of their keys as far as
    /// they are known.
    pub(super) fn choose(&mut self, pair: usize) -> Result<(u32, Vec<(Key, u64)>), Fault> {
        let limit = self.size.size();
        // No more fit, however small they are.
        let count = usize::try_from(limit / KEY_OVERHEAD).unwrap_or(SIZED_AT_ONCE);
        let keys = self.index.peek(pair, SIZED_AT_ONCE.min(count + 1));
        self.ask_sizes(&keys)?;
        let size = |key: Key| {
            let bytes = self.sizes.get(&key).copied().unwrap_or_default();
            (key, bytes)
        };
        let sized: Vec<(Key, u64)> = keys.into_iter().map(size).collect();
        // In the order of the index, which has no two keys alike.
        let mut known = sized.iter();
        let until = self.index.next_units(pair, limit, |_| match known.next() {
            Some((_, bytes)) => bytes + KEY_OVERHEAD,
            None => limit + 1,
        });
        let moved = self.pairs.get(pair).map_or(UNITS, |pair| pair.moved);
        Ok((until.unwrap_or(moved), sized))
    }

    /// Asks for the sizes of those keys that were not asked for before an earlier batch.
    fn ask_sizes(&mut self, keys: &[Key]) -> Result<(), Fault> {
        let is_new = |key: &&Key| !self.sizes.contains_key(*key);
        let new: Vec<Key> = keys.iter().filter(is_new).cloned().collect();
        let bytes = match sizes(&mut self.link, &new) {
            Err(fault) if fault.is_broken() => {
                self.link = self.session.reconnect(self.node, &self.link)?;
                sizes(&mut self.link, &new)?
            }
            other => other?,
        };
        self.sizes.extend(new.into_iter().zip(bytes));
        Ok(())
    }

    /// Finds the keys of the pair at its target that no client has written there: those of units from `moved` on. What is
    /// below has moved, and belongs to the target.
    fn leftovers(
        &self,
        link: &mut Link,
        target: usize,
        moved: u32,
    ) -> Result<BTreeSet<(u32, Key)>, Fault> {
        let mut found = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys) = scan_step(link, &cursor)?;
            for key in keys {
                let way = self.session.both.moving();
                let way = way.and_then(|moving| moving.way(self.session.both.hash_tag().of(&key)));
                if let Some((from, to, unit)) = way
                    && (from.get(), to.get()) == (self.position, target)
                    && unit >= moved
                {
                    found.insert((unit, key));
                }
            }
            cursor = next;
            if cursor == "0" {
                return Ok(found);
            }
        }
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
        while start.elapsed() < due && !self.session.stops() {
            thread::sleep(TURN.min(due.saturating_sub(start.elapsed())));
            // A server closes a connection that does not read.
            match self.drain_events() {
                Err(fault) if fault.is_broken() => return Ok(()),
                other => other?,
            }
        }
        Ok(())
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
