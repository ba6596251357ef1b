//! Pairs between which no key moves: all those of a source go through the steps of a batch together.
//!
//! The order of the steps is that of `batch`; what the source says of them, it says of all at once: that they are closed, and
//! that they have moved, or are open again. The records say of each pair what they would say if it had moved by itself, so
//! that a mover that goes on need not know. Each target has a connection of its own, over which it is cleared and told.
//!
//! A pair that cannot be moved so is opened again, and goes through batches of its own.

use std::time::Instant;

use super::batch::StepFailure;
use super::batch_run::{ATTEMPTS, replicate};
use super::copy::unlink;
use super::event::ReshardEvent;
use super::fault::{Fault, FaultKind};
use super::link::Link;
use super::progress::{closed_until, moved_until, reopened};
use super::records::with_progress;
use super::source::{Source, publish_moved};
use crate::topology::record::{NodeRecord, Progress, UNITS};

/// A pair without keys on its way.
struct EmptyPair {
    /// Its number among the pairs of the source.
    number: usize,
    target: Link,
    fate: Fate,
}

/// What the source is to say of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The target was told nothing: the units are opened again.
    Open,
    /// The target says that the units are its own.
    Moved,
    /// The target may have been told, and cannot be asked: the units stay closed.
    Unknown,
}

/// Decides what becomes of a pair whose target could not be told: `is_moved` is what it says now, if it can be asked.
fn fate_of(failure: StepFailure, is_moved: Option<bool>) -> Fate {
    match (failure, is_moved) {
        (_, Some(true)) => Fate::Moved,
        // It has refused: nothing has changed there.
        (StepFailure::Refused, _) | (_, Some(false)) => Fate::Open,
        (_, None) => Fate::Unknown,
    }
}

/// What the source says of a pair whose units below `moved` have moved before. `None` if it says nothing.
fn progress_of(fate: Fate, moved: u32) -> Option<Progress> {
    match fate {
        Fate::Open => Some(reopened(moved)),
        Fate::Moved => Some(moved_until(UNITS)),
        Fate::Unknown => None,
    }
}

impl Source<'_, '_> {
    /// Moves all pairs that have no keys, if there are several.
    pub(super) fn move_empty_pairs(&mut self) -> Result<(), Fault> {
        let numbers: Vec<usize> = (0..self.pairs.len())
            .filter(|number| {
                let pair = self.pairs.get(*number);
                pair.is_some_and(|pair| pair.moved < UNITS) && self.index.has_none(*number)
            })
            .collect();
        if numbers.len() < 2 || self.session.stops() {
            return Ok(());
        }
        let pairs = numbers.into_iter().map(|number| self.empty_pair(number));
        let mut pairs = match pairs.collect::<Result<Vec<EmptyPair>, Fault>>() {
            Ok(pairs) => pairs,
            // Nothing is closed: each is tried by itself.
            Err(fault) if fault.is_broken() => return Ok(()),
            Err(fault) => return Err(fault),
        };
        let closed_at = Instant::now();
        let mut failure = self.close_empty(&pairs).err();
        if failure.is_none() {
            failure = self.hand_over(&mut pairs).err();
        }
        if let Some(fault) = failure.take_if(|fault| is_final(fault)) {
            return Err(fault);
        }
        if let Err(fault) = self.publish_fates(&pairs) {
            return Err(failure.unwrap_or(fault));
        }
        for pair in pairs.iter().filter(|pair| pair.fate == Fate::Moved) {
            self.empty_moved(pair.number, closed_at);
        }
        let is_unknown = pairs.iter().any(|pair| pair.fate == Fate::Unknown);
        match failure {
            // Units that stay closed are those of the next run.
            Some(fault) if is_unknown || !fault.is_broken() => Err(fault.without_retry()),
            _ => Ok(()),
        }
    }

    /// Connects to the target of a pair, and finds what was left there.
    fn empty_pair(&mut self, number: usize) -> Result<EmptyPair, Fault> {
        let Some((node, position, moved)) = self
            .pairs
            .get(number)
            .map(|pair| (pair.target, pair.position, pair.moved))
        else {
            return Err(super::life::panicked());
        };
        let mut target = self.session.connect(node)?;
        let leftovers = self.leftovers(&mut target, position, moved)?;
        if let Some(pair) = self.pairs.get_mut(number) {
            pair.leftovers = leftovers;
        }
        Ok(EmptyPair {
            number,
            target,
            fate: Fate::Open,
        })
    }

    /// Closes all units of the pairs, and waits until nobody writes to them and all that was made is known.
    fn close_empty(&mut self, pairs: &[EmptyPair]) -> Result<(), Fault> {
        let (session, node) = (self.session, self.node);
        session.step(&format!("empty-close {}", node.name))?;
        self.publish_pairs(pairs, |_, moved| Some(closed_until(moved, UNITS)))?;
        session.step(&format!("empty-fence {}", node.name))?;
        let epoch = node.record.lock().epoch;
        session.fence(&mut self.link, epoch, session.options.fence_bound)?;
        session.step(&format!("empty-settle {}", node.name))?;
        self.settle_events()
    }

    /// Tells the targets of those that still have no keys. Ends with the first failure: those behind it are opened again.
    fn hand_over(&mut self, pairs: &mut [EmptyPair]) -> Result<(), Fault> {
        for pair in pairs {
            // Keys were made before the closure.
            if self.index.has_none(pair.number) {
                self.hand_over_pair(pair)?;
            }
        }
        Ok(())
    }

    fn hand_over_pair(&mut self, empty: &mut EmptyPair) -> Result<(), Fault> {
        let (session, node) = (self.session, self.node);
        let Some(pair) = self.pairs.get(empty.number) else {
            return Ok(());
        };
        let to = pair.target;
        session.step(&format!("empty-clear {} {}", node.name, to.name))?;
        let leftovers = pair.leftovers.iter().map(|(_, key)| &**key);
        let cleared = unlink(&mut empty.target, leftovers);
        let cleared = cleared.and_then(|()| match pair.leftovers.is_empty() {
            true => Ok(()),
            false => replicate(&mut empty.target, to.facts.replicas),
        });
        if let Err(fault) = cleared {
            if fault.is_broken() {
                // What was sent over the broken connection must not be run later.
                let link = session.reconnect(to, &empty.target);
                empty.target = link.map_err(Fault::without_retry)?;
            }
            return Err(fault);
        }
        session.step(&format!("empty-publish-target {} {}", node.name, to.name))?;
        let told = publish_moved(session, to, &mut empty.target, node, to, UNITS);
        let Err(fault) = told else {
            empty.fate = Fate::Moved;
            return Ok(());
        };
        let Some(failure) = fault.of_step().filter(|_| !is_final(&fault)) else {
            return Err(fault);
        };
        let is_moved = match failure {
            StepFailure::Broken => match session.reconnect(to, &empty.target) {
                Ok(link) => {
                    empty.target = link;
                    Some(to.progress(&node.name, &to.name).moved >= UNITS)
                }
                // It has answered: it does not have the units.
                Err(lost) if lost.is_loss_of(&to.name) => return Err(lost),
                Err(_) => None,
            },
            _ => Some(false),
        };
        empty.fate = fate_of(failure, is_moved);
        match empty.fate {
            Fate::Moved => Ok(()),
            Fate::Open | Fate::Unknown => Err(fault),
        }
    }

    /// The source says what has become of the pairs.
    fn publish_fates(&mut self, pairs: &[EmptyPair]) -> Result<(), Fault> {
        if pairs.iter().all(|pair| pair.fate == Fate::Unknown) {
            return Ok(());
        }
        let step = format!("empty-publish-source {}", self.node.name);
        self.session.step(&step)?;
        let fate = |pair: &EmptyPair, moved| progress_of(pair.fate, moved);
        for _ in 1..ATTEMPTS {
            match self.publish_pairs(pairs, fate) {
                // A node that was restarted has ended the connection for events too, which is noticed before a batch.
                Err(fault) if fault.is_broken() => {
                    self.link = self.session.reconnect(self.node, &self.link)?;
                }
                other => return other,
            }
        }
        self.publish_pairs(pairs, fate)
    }

    /// Publishes at the source what `progress` makes of each pair, of which so many units have moved before.
    fn publish_pairs(
        &mut self,
        pairs: &[EmptyPair],
        progress: impl Fn(&EmptyPair, u32) -> Option<Progress>,
    ) -> Result<(), Fault> {
        let (node, own) = (self.node, &self.pairs);
        let next = |record: &NodeRecord| {
            let changes = pairs.iter().filter_map(|empty| {
                let pair = own.get(empty.number)?;
                Some((&*pair.target.name, progress(empty, pair.moved)?))
            });
            changes.fold(record.clone(), |record, (target, progress)| {
                with_progress(&record, &node.name, target, progress)
            })
        };
        self.session
            .publish(node, &mut self.link, None, next)
            .map(drop)
    }

    /// Both nodes call the units moved.
    fn empty_moved(&mut self, number: usize, closed_at: Instant) {
        self.index.moved(number, UNITS);
        let Some(pair) = self.pairs.get_mut(number) else {
            return;
        };
        pair.moved = UNITS;
        pair.leftovers.clear();
        self.session.notify(ReshardEvent::Batch {
            source: self.node.name.clone(),
            target: pair.target.name.clone(),
            units: UNITS,
            keys: 0,
            bytes: 0,
            closed: closed_at.elapsed(),
        });
    }
}

/// True if nothing may be changed any more: another mover has the term, or this one was stopped.
fn is_final(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Superseded | FaultKind::Killed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_without_keys_is_opened_again_only_if_its_target_was_told_nothing() {
        for failure in [StepFailure::Broken, StepFailure::Refused] {
            assert_eq!(fate_of(failure, Some(true)), Fate::Moved);
            assert_eq!(fate_of(failure, Some(false)), Fate::Open);
        }
        assert_eq!(fate_of(StepFailure::Broken, None), Fate::Unknown);
        assert_eq!(progress_of(Fate::Unknown, 4), None);
        assert_eq!(progress_of(Fate::Open, 4), Some(reopened(4)));
        assert_eq!(progress_of(Fate::Moved, 4), Some(moved_until(UNITS)));
    }
}
