//! [`Dispatcher`]: which thread sends which keys, and when.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use super::run::{Batch, Run, Unit};
use crate::error::Error;
use crate::ops::rate::Pace;

/// The most keys of a batch.
const KEYS_MAX: usize = 2048;

/// The most bytes of values that are held, beside one that is longer.
const HELD_MAX: u64 = 256 << 20;

/// The pause before the memory is looked at again.
const HELD_PAUSE: Duration = Duration::from_millis(1);

/// Fills the batches of all threads.
pub(super) struct Dispatcher<'d, 'r> {
    run: &'d Run<'r>,
    lanes: Vec<Lane>,
    pace: Pace,
}

/// A thread, and the batch that is filled for it.
struct Lane {
    sender: SyncSender<Batch>,
    open: Option<Batch>,
}

impl Lane {
    fn flush(&mut self) -> Result<(), Error> {
        match self.open.take() {
            None => Ok(()),
            Some(batch) => self.sender.send(batch).map_err(|_| ended()),
        }
    }
}

impl<'d, 'r> Dispatcher<'d, 'r> {
    /// A dispatcher to these threads.
    pub(super) fn new(run: &'d Run<'r>, senders: Vec<SyncSender<Batch>>) -> Self {
        let lanes = senders
            .into_iter()
            .map(|sender| Lane { sender, open: None });
        Self {
            run,
            lanes: lanes.collect(),
            pace: Pace::new(run.options.bytes_per_second, Instant::now()),
        }
    }

    /// Puts a key into the batch of its thread: those of a node have some, and each key always the same.
    ///
    /// # Errors
    ///
    /// If the run has ended, or the file with the progress cannot be written.
    pub(super) fn take(&mut self, unit: Unit) -> Result<(), Error> {
        let bytes = unit.value.len() as u64;
        self.wait(bytes)?;
        let lane = lane_of(&unit, self.run.targets.len(), self.lanes.len());
        let lane = self.lanes.get_mut(lane).ok_or_else(ended)?;
        let limit = self.run.options.batch_bytes as u64;
        let is_full = |batch: &Batch| {
            batch.db != unit.info.db || batch.bytes + bytes > limit || batch.units.len() >= KEYS_MAX
        };
        if lane.open.as_ref().is_some_and(is_full) {
            lane.flush()?;
        }
        self.run.taken(unit.number, lane.open.is_none())?;
        self.run.in_flight.fetch_add(bytes, Ordering::Relaxed);
        let batch = lane.open.get_or_insert_with(|| Batch {
            db: unit.info.db,
            units: Vec::new(),
            bytes: 0,
            first: unit.number,
        });
        batch.bytes += bytes;
        batch.units.push(unit);
        match batch.bytes >= limit {
            true => lane.flush(),
            false => Ok(()),
        }
    }

    /// Sends what is left.
    ///
    /// # Errors
    ///
    /// If the run has ended.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.lanes.iter_mut().try_for_each(Lane::flush)
    }

    /// Waits until this many bytes may be held and sent.
    fn wait(&mut self, bytes: u64) -> Result<(), Error> {
        let pause = self.pace.pause(bytes, Instant::now());
        if !pause.is_zero() {
            // What was read so far is sent meanwhile.
            self.flush()?;
            thread::sleep(pause);
        }
        loop {
            if self.run.stops() {
                return Err(ended());
            }
            let held = self.run.in_flight.load(Ordering::Relaxed);
            if held == 0 || held + bytes <= HELD_MAX {
                return Ok(());
            }
            self.flush()?;
            thread::sleep(HELD_PAUSE);
        }
    }
}

/// The thread of a key.
fn lane_of(unit: &Unit, nodes: usize, lanes: usize) -> usize {
    let each = (lanes / nodes.max(1)).max(1);
    let hash = xxh3_64(&unit.info.key) as usize;
    match lanes {
        0 => 0,
        _ => (unit.owner * each + hash % each) % lanes,
    }
}

/// Replaced by the reason why the run has ended.
pub(super) fn ended() -> Error {
    Error::config("the restore has ended")
}
