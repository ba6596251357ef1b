//! [`Sweeps`]: keys that have moved and are still at the source, until the target has them on disk.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::copy::Key;
use super::facts::Durability;

/// How long an append-only file that is written once a second is behind at most.
const EVERY_SECOND: Duration = Duration::from_secs(2);

/// Keys to be deleted at one source, of one pair.
#[derive(Debug)]
pub(super) struct Sweeps {
    durability: Durability,
    /// In the order in which they have moved.
    waiting: VecDeque<(Instant, Vec<Key>)>,
}

/// What is done before the last keys of a pair are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BeforeLast {
    /// Nothing.
    Delete,
    /// Wait for so long.
    Wait(Duration),
    /// Have the target save its data, and wait for that.
    Save,
}

impl Sweeps {
    pub(super) fn new(durability: Durability) -> Self {
        Self {
            durability,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    /// True if no key waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds the keys of a batch that both nodes call moved since `now`.
    pub(super) fn add(&mut self, now: Instant, keys: Vec<Key>) {
        if !keys.is_empty() {
            self.waiting.push_back((now, keys));
        }
    }

    /// Takes the keys of the oldest batch that may be deleted now. They must not be before the target has them on disk, or
    /// a loss of power there takes what the source has had on disk for long.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Vec<Key>> {
        let (moved, _) = self.waiting.front()?;
        let is_due = match self.durability {
            Durability::None => true,
            Durability::WaitAof | Durability::EverySecond => {
                now.saturating_duration_since(*moved) >= EVERY_SECOND
            }
            Durability::Snapshot => false,
        };
        is_due
            .then(|| self.waiting.pop_front())
            .flatten()
            .map(|(_, keys)| keys)
    }

    /// What is done before the rest is deleted.
    pub(super) fn before_last(&self, now: Instant) -> BeforeLast {
        let Some((moved, _)) = self.waiting.back() else {
            return BeforeLast::Delete;
        };
        match self.durability {
            Durability::None => BeforeLast::Delete,
            Durability::WaitAof | Durability::EverySecond => {
                let waited = now.saturating_duration_since(*moved);
                BeforeLast::Wait(EVERY_SECOND.saturating_sub(waited))
            }
            Durability::Snapshot => BeforeLast::Save,
        }
    }

    /// Takes all keys that are left.
    pub(super) fn take_all(&mut self) -> Vec<Key> {
        self.waiting.drain(..).flat_map(|(_, keys)| keys).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Vec<Key> {
        vec![name.as_bytes().into()]
    }

    #[test]
    fn keys_are_deleted_once_the_target_has_them_as_safe_as_the_source_had() {
        let now = Instant::now();
        for (durability, at_once, later, last) in [
            (Durability::None, true, true, BeforeLast::Delete),
            (
                Durability::EverySecond,
                false,
                true,
                BeforeLast::Wait(EVERY_SECOND),
            ),
            (
                Durability::WaitAof,
                false,
                true,
                BeforeLast::Wait(EVERY_SECOND),
            ),
            (Durability::Snapshot, false, false, BeforeLast::Save),
        ] {
            let mut sweeps = Sweeps::new(durability);
            assert_eq!(sweeps.before_last(now), BeforeLast::Delete);
            sweeps.add(now, key("a"));
            sweeps.add(now, Vec::new());
            assert_eq!(sweeps.before_last(now), last);
            assert_eq!(sweeps.take_due(now).is_some(), at_once, "{durability:?}");
            sweeps.add(now, key("b"));
            assert_eq!(sweeps.take_due(now + EVERY_SECOND).is_some(), later);
            assert!(!sweeps.take_all().is_empty() || at_once);
            assert_eq!(sweeps.take_due(now + EVERY_SECOND), None);
        }
    }
}
