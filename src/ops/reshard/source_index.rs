//! Which keys of a source move where: its index, filled by SCAN and kept true by what the node says of new keys.

use std::collections::BTreeSet;
use std::time::Instant;

use super::batch_size::KEY_OVERHEAD;
use super::copy::{Key, sizes};
use super::fault::Fault;
use super::key_events::KeyEvents;
use super::link::Link;
use super::settings::do_not_compress;
use super::source::{Source, scan_step};
use crate::error::KeyText;
use crate::partition::NodeIndex;
use crate::topology::record::UNITS;

/// Number of keys whose sizes are asked for before a batch. A batch has no more, unless a unit has.
const SIZED_AT_ONCE: usize = 20_000;

/// How often a scan is begun again because a connection broke.
const SCAN_ATTEMPTS: u32 = 3;

impl Source<'_, '_> {
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
    pub(super) fn reconnect(&mut self) -> Result<(), Fault> {
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
    pub(super) fn leftovers(
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
}
