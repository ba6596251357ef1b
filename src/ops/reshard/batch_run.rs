//! A batch of units: its steps, carried out, and what is done when one of them fails. The order and the consequences of
//! failures are decided by `batch`.

use std::time::{Duration, Instant};

use super::batch::{AfterFailure, BatchStep};
use super::copy::{BatchKeys, Key, Reading, copy, unlink, verify};
use super::event::ReshardEvent;
use super::fault::Fault;
use super::link::Link;
use super::progress::closed_until;
use super::records::with_progress;
use super::source::{Source, publish_moved};
use crate::topology::record::{NodeRecord, UNITS};

/// How often a batch is copied again before its units are opened.
pub(super) const ATTEMPTS: u32 = 5;

/// How long the target's replicas may take, in milliseconds.
const REPLICAS_WITHIN: &str = "1000";

/// A batch on its way.
struct Batch {
    /// The pair it belongs to.
    pair: usize,
    /// The units end before this one.
    until: u32,
    keys: BatchKeys,
    bytes: u64,
    /// When the units were closed.
    closed_at: Instant,
    /// How long it took until nothing was written to them any more.
    fenced_after: Duration,
}

impl Source<'_, '_> {
    /// Moves the next units of a pair. Returns the number of bytes that were sent.
    pub(super) fn move_batch(&mut self, pair: usize, target: &mut Link) -> Result<u64, Fault> {
        self.refresh_index(pair)?;
        let (until, sized) = self.choose(pair)?;
        let limit = self.session.options.large_key_bytes;
        let large = sized.iter().filter(|(_, bytes)| *bytes > limit);
        let mut batch = Batch {
            pair,
            until,
            keys: BatchKeys {
                keys: Vec::new(),
                large: large.map(|(key, _)| key.clone()).collect(),
                sizes: sized.into_iter().collect(),
            },
            bytes: 0,
            closed_at: Instant::now(),
            fenced_after: Duration::ZERO,
        };
        let mut attempts_left = ATTEMPTS;
        let mut step = BatchStep::FIRST;
        loop {
            let Err(fault) = self.do_step(step, &mut batch, target) else {
                match step.next() {
                    Some(next) => step = next,
                    None => return Ok(batch.bytes),
                }
                continue;
            };
            let Some(failure) = fault.of_step() else {
                return Err(fault);
            };
            let after = step.after(failure, attempts_left);
            attempts_left = attempts_left.saturating_sub(1);
            step = match after {
                AfterFailure::Stop => return Err(fault),
                AfterFailure::Reopen => return Err(self.give_up(&batch, target, fault)),
                AfterFailure::Forward => {
                    self.replace_links(&batch, target)?;
                    step
                }
                AfterFailure::Repeat => {
                    self.notify_repeated(&batch, &fault);
                    match self.replace_links(&batch, target) {
                        Ok(()) => BatchStep::FIRST,
                        Err(fault) => return Err(self.give_up(&batch, target, fault)),
                    }
                }
                AfterFailure::AskTarget => match self.replace_links(&batch, target) {
                    Ok(()) if self.target_has(&batch) => BatchStep::PublishSource,
                    Ok(()) if attempts_left > 0 => BatchStep::FIRST,
                    Ok(()) => return Err(self.give_up(&batch, target, fault)),
                    // It has answered: it does not have the units. The next run would copy them again as well.
                    Err(lost) if self.is_lost_by_target(&batch, &lost) => {
                        return Err(self.give_up(&batch, target, lost));
                    }
                    Err(fault) => return Err(fault),
                },
            };
        }
    }

    fn do_step(
        &mut self,
        step: BatchStep,
        batch: &mut Batch,
        target: &mut Link,
    ) -> Result<(), Fault> {
        let session = self.session;
        let Some(pair) = self.pairs.get(batch.pair) else {
            return Ok(());
        };
        let (node, to) = (self.node, pair.target);
        session.step(&format!("{} {} {}", step.name(), node.name, to.name))?;
        match step {
            BatchStep::Close => self.close(batch),
            BatchStep::Fence => {
                let epoch = node.record.lock().epoch;
                session.fence(&mut self.link, epoch, session.options.fence_bound)
            }
            BatchStep::Settle => {
                self.settle_events()?;
                batch.fenced_after = batch.closed_at.elapsed();
                batch.keys.keys = self.index.keys_until(batch.pair, batch.until).keys;
                Ok(())
            }
            BatchStep::Clear => self.clear(batch, target),
            BatchStep::Copy => {
                let reading = Reading {
                    has_expiretime: self.reads_expiretime(batch.pair),
                    counts_frequency: node.facts.counts_frequency(),
                };
                batch.bytes = copy(&mut self.link, target, &batch.keys, reading)?;
                Ok(())
            }
            BatchStep::Compare => {
                let has_expiretime = self.reads_expiretime(batch.pair);
                verify(&mut self.link, target, &batch.keys.keys, has_expiretime)
            }
            BatchStep::Replicate => replicate(target, to.facts.replicas),
            BatchStep::PublishTarget => publish_moved(session, to, target, node, to, batch.until),
            BatchStep::PublishSource => {
                publish_moved(session, node, &mut self.link, node, to, batch.until)?;
                self.moved(batch);
                Ok(())
            }
            // In the background of the batches that follow: see `Sweeps`.
            BatchStep::Persist | BatchStep::Sweep => Ok(()),
        }
    }

    /// True if both nodes have PEXPIRETIME.
    fn reads_expiretime(&self, pair: usize) -> bool {
        let target = self.pairs.get(pair).map(|pair| &pair.target.facts);
        self.node.facts.is_7_0() && target.is_some_and(|facts| facts.is_7_0())
    }

    /// The source says that the units are closed.
    fn close(&mut self, batch: &mut Batch) -> Result<(), Fault> {
        let Some(pair) = self.pairs.get(batch.pair) else {
            return Ok(());
        };
        let (node, target, moved) = (self.node, &pair.target.name, pair.moved);
        let next = |record: &NodeRecord| {
            let closed = closed_until(moved, batch.until);
            with_progress(record, &node.name, target, closed)
        };
        batch.closed_at = Instant::now();
        self.session
            .publish(node, &mut self.link, None, next)
            .map(drop)
    }

    /// Deletes at the target what it has of the batch: leftovers of earlier copies, and the keys that are about to come.
    fn clear(&mut self, batch: &Batch, target: &mut Link) -> Result<(), Fault> {
        let Some(pair) = self.pairs.get_mut(batch.pair) else {
            return Ok(());
        };
        let rest = pair.leftovers.split_off(&(batch.until, Key::default()));
        // Never a key of a unit that has moved: it is the target's own.
        pair.leftovers = pair.leftovers.split_off(&(pair.moved, Key::default()));
        let leftovers = std::mem::replace(&mut pair.leftovers, rest);
        let keys = leftovers.iter().map(|(_, key)| key).chain(&batch.keys.keys);
        let cleared = unlink(target, keys.map(|key| &**key));
        // From here on the copies are leftovers, until they are published.
        let hash_tag = self.session.both.hash_tag();
        let unit = |key: &Key| crate::topology::record::unit_of(hash_tag.of(key));
        pair.leftovers.extend(leftovers);
        pair.leftovers
            .extend(batch.keys.keys.iter().map(|key| (unit(key), key.clone())));
        cleared
    }

    /// Both nodes call the units moved.
    fn moved(&mut self, batch: &mut Batch) {
        let closed = batch.closed_at.elapsed();
        let size = batch.keys.keys.iter().map(|key| {
            let bytes = batch.keys.sizes.get(key).copied().unwrap_or_default();
            bytes + super::batch_size::KEY_OVERHEAD
        });
        self.size.closed_for(size.sum(), batch.fenced_after, closed);
        self.index.moved(batch.pair, batch.until);
        let keys = std::mem::take(&mut batch.keys.keys);
        for key in &keys {
            self.sizes.remove(key);
        }
        let Some(pair) = self.pairs.get_mut(batch.pair) else {
            return;
        };
        pair.moved = batch.until;
        pair.leftovers = pair.leftovers.split_off(&(batch.until, Key::default()));
        let count = keys.len();
        pair.sweeps.add(Instant::now(), keys);
        self.session.notify(ReshardEvent::Batch {
            source: self.node.name.clone(),
            target: pair.target.name.clone(),
            units: batch.until.min(UNITS),
            keys: count,
            bytes: batch.bytes,
            closed,
        });
    }

    /// Replaces the connections to both nodes. The old ones are killed at their servers: what was sent over them must not
    /// be run later.
    fn replace_links(&mut self, batch: &Batch, target: &mut Link) -> Result<(), Fault> {
        let Some(to) = self.pairs.get(batch.pair).map(|pair| pair.target) else {
            return Ok(());
        };
        *target = self.session.reconnect(to, target)?;
        self.link = self.session.reconnect(self.node, &self.link)?;
        match self.drain_events() {
            Err(fault) if fault.is_broken() => self.reopen_events(),
            other => other,
        }
    }

    /// True if the target says that it has the units. Its record was read again with the connection to it.
    fn target_has(&self, batch: &Batch) -> bool {
        let pair = self.pairs.get(batch.pair);
        pair.is_some_and(|pair| {
            let progress = pair.target.progress(&self.node.name, &pair.target.name);
            progress.moved >= batch.until
        })
    }

    /// True if the target was emptied, or restarted with older data.
    fn is_lost_by_target(&self, batch: &Batch, fault: &Fault) -> bool {
        let pair = self.pairs.get(batch.pair);
        pair.is_some_and(|pair| fault.is_loss_of(&pair.target.name))
    }

    /// Opens the units at the source again, and deletes what the target has of them. Returns the fault that ends the run.
    fn give_up(&mut self, batch: &Batch, target: &mut Link, fault: Fault) -> Fault {
        let Some(to) = self.pairs.get(batch.pair).map(|pair| pair.target) else {
            return fault;
        };
        if let Err(killed) = self
            .session
            .step(&format!("reopen {} {}", self.node.name, to.name))
        {
            return killed;
        }
        let (session, node) = (self.session, self.node);
        // A connection that broke cannot say so. If the source cannot be reached, its units stay closed, as it does.
        let opened = session.reopen(node, &mut self.link, &to.name).or_else(|_| {
            self.link = session.reconnect(node, &self.link)?;
            session.reopen(node, &mut self.link, &to.name)
        });
        let keys = batch.keys.keys.iter().map(|key| &**key);
        // What is left there is found by the next run.
        let _ = opened.and_then(|()| unlink(target, keys));
        fault
    }

    fn notify_repeated(&self, batch: &Batch, fault: &Fault) {
        let target = self
            .pairs
            .get(batch.pair)
            .map(|pair| pair.target.name.clone());
        self.session.notify(ReshardEvent::Repeated {
            source: self.node.name.clone(),
            target: target.unwrap_or_default(),
            cause: fault.error.to_string(),
        });
    }
}

/// Waits until the target's replicas have what was copied.
pub(super) fn replicate(target: &mut Link, replicas: u32) -> Result<(), Fault> {
    if replicas == 0 {
        return Ok(());
    }
    let wanted = replicas.to_string();
    let reached = target.integer(&[b"WAIT", wanted.as_bytes(), REPLICAS_WITHIN.as_bytes()])?;
    match reached >= i64::from(replicas) {
        true => Ok(()),
        false => {
            let text = format!(
                "{reached} of its {replicas} replicas have the keys within {REPLICAS_WITHIN} ms"
            );
            Err(Fault::broken(target.node(), text))
        }
    }
}
