//! The metrics of a reshard, for recorders of the crate `metrics`.
//!
//! The handles are resolved once, on the thread that begins the run.

use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};

use super::event::ReshardEvent;

const KEYS: &str = "redis_sharding_reshard_keys_total";
const BYTES: &str = "redis_sharding_reshard_bytes_total";
const BATCHES: &str = "redis_sharding_reshard_batches_total";
const REPEATED: &str = "redis_sharding_reshard_repeated_batches_total";
const CLOSED: &str = "redis_sharding_reshard_closed_seconds";

/// Handles of the metrics of all pairs of nodes.
pub(super) struct ReshardMetrics {
    pairs: Vec<PairMetrics>,
}

/// Handles of the metrics of one pair.
struct PairMetrics {
    source: String,
    target: String,
    keys: Counter,
    bytes: Counter,
    batches: Counter,
    repeated: Counter,
    closed: Histogram,
}

impl ReshardMetrics {
    /// Registers the metrics of these pairs of names with the current recorder.
    pub(super) fn new<'n>(pairs: impl Iterator<Item = (&'n str, &'n str)>) -> Self {
        describe();
        Self {
            pairs: pairs
                .map(|(source, target)| PairMetrics::new(source, target))
                .collect(),
        }
    }

    /// Counts what has happened.
    pub(super) fn count(&self, event: &ReshardEvent) {
        match event {
            ReshardEvent::Batch {
                source,
                target,
                keys,
                bytes,
                closed,
                ..
            } => {
                if let Some(pair) = self.pair(source, target) {
                    pair.keys.increment(*keys as u64);
                    pair.bytes.increment(*bytes);
                    pair.batches.increment(1);
                    pair.closed.record(*closed);
                }
            }
            ReshardEvent::Repeated { source, target, .. } => {
                if let Some(pair) = self.pair(source, target) {
                    pair.repeated.increment(1);
                }
            }
            _ => {}
        }
    }

    fn pair(&self, source: &str, target: &str) -> Option<&PairMetrics> {
        let mut pairs = self.pairs.iter();
        pairs.find(|pair| pair.source == source && pair.target == target)
    }
}

impl PairMetrics {
    fn new(source: &str, target: &str) -> Self {
        let labels = [("source", source.to_owned()), ("target", target.to_owned())];
        Self {
            source: source.to_owned(),
            target: target.to_owned(),
            keys: counter!(KEYS, &labels),
            bytes: counter!(BYTES, &labels),
            batches: counter!(BATCHES, &labels),
            repeated: counter!(REPEATED, &labels),
            closed: histogram!(CLOSED, &labels),
        }
    }
}

/// Gives the recorder the unit and the description of each metric.
fn describe() {
    let count = Unit::Count;
    describe_counter!(KEYS, count, "Keys moved from one node to another");
    describe_counter!(BYTES, Unit::Bytes, "Bytes sent to the target for them");
    describe_counter!(BATCHES, count, "Batches of units that have moved");
    describe_counter!(
        REPEATED,
        count,
        "Times that a batch was copied again, because a connection broke or the copy differed"
    );
    describe_histogram!(
        CLOSED,
        Unit::Seconds,
        "Time for which the units of a batch were closed"
    );
}
