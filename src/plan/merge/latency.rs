//! LATENCY LATEST, LATENCY HISTORY and LATENCY HISTOGRAM.
//!
//! Nodes measure by their own clocks. Spikes of one second on two nodes count as one sample, the worse one;
//! nothing here corrects for clocks that differ.

use std::collections::BTreeMap;

use redis::Value;

use crate::error::Error;
use crate::plan::merge::pairs::{self, Pairs};
use crate::plan::merge::{Answer, elements, kind_of, unexpected};

/// Merges LATENCY LATEST: events `[name, time, latest, worst, ...]`, times in seconds since 1970, latencies
/// in milliseconds. `[fork, 100, 5, 90]` and `[fork, 200, 7, 8]` are `[fork, 200, 7, 90]`. Newer servers
/// append a sum and a count, which are added.
pub(super) fn latest(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut merged: Vec<Vec<Value>> = Vec::new();
    for answer in answers {
        let node = answer.node;
        for value in elements(answer)? {
            let event = elements(Answer { node, value })?;
            // `add_event` indexes up to the worst latency.
            if event.len() < 4 {
                return Err(unexpected(node, "an event that is too short"));
            }
            match merged.iter_mut().find(|known| known[0] == event[0]) {
                None => merged.push(event),
                Some(known) => add_event(known, event),
            }
        }
    }
    Ok(Value::Array(merged.into_iter().map(Value::Array).collect()))
}

/// Merges another node's event of the same name. Time and latest latency belong together, so both come from
/// the later event.
fn add_event(known: &mut [Value], event: Vec<Value>) {
    let is_later = int(&event[1]) > int(&known[1]);
    for (at, (one, other)) in known.iter_mut().zip(event).enumerate().skip(1) {
        match at {
            // Position 1 is the time and 2 the latency of the last spike: one is meaningless without the
            // other.
            1 | 2 if is_later => *one = other,
            1 | 2 => {}
            // Position 3 is the worst latency ever, of whichever spike.
            3 => *one = Value::Int(int(one).max(int(&other))),
            _ => *one = Value::Int(int(one).saturating_add(int(&other))),
        }
    }
}

/// Merges LATENCY HISTORY: samples `[seconds, milliseconds]`, the oldest first. `[[10, 5], [30, 2]]` and
/// `[[30, 9]]` are `[[10, 5], [30, 9]]`: a server keeps the worst latency of a second, and so does this.
pub(super) fn samples(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    // Sorted by second: each node's samples are, but the merged ones would not be.
    let mut worst: BTreeMap<i64, i64> = BTreeMap::new();
    for answer in answers {
        let node = answer.node;
        for value in elements(answer)? {
            let sample = elements(Answer { node, value })?;
            let [Value::Int(second), Value::Int(latency)] = sample[..] else {
                return Err(unexpected(node, "a sample that is not two numbers"));
            };
            let known = worst.entry(second).or_insert(latency);
            *known = latency.max(*known);
        }
    }
    let pair = |(second, latency)| Value::Array(vec![Value::Int(second), Value::Int(latency)]);
    Ok(Value::Array(worst.into_iter().map(pair).collect()))
}

/// Merges LATENCY HISTOGRAM: for each command `calls`, which are added, and `histogram_usec`, the cumulative
/// number of calls that took at most a time in microseconds.
pub(super) fn histograms(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let merged = pairs::join_all(answers, |node, _, one, other| {
        let value = std::mem::take(one);
        let mut command = Pairs::read(Answer { node, value })?;
        let other = Pairs::read(Answer { node, value: other })?;
        command.join(other, |_, one, other| add_figure(node, one, other))?;
        *one = command.into_value();
        Ok(())
    })?;
    Ok(merged.map_or(Value::Nil, Pairs::into_value))
}

/// Merges one entry of a command: the number of calls, or the histogram.
fn add_figure(node: &str, one: &mut Value, other: Value) -> Result<(), Error> {
    match (&mut *one, other) {
        (Value::Int(one), Value::Int(other)) => *one = one.saturating_add(other),
        (Value::Map(_) | Value::Array(_), other) => {
            let value = std::mem::take(one);
            let mut histogram = Pairs::read(Answer { node, value })?;
            let other = Pairs::read(Answer { node, value: other })?;
            histogram.pairs = add_counts(&histogram, &other);
            *one = histogram.into_value();
        }
        (_, other) => return Err(unexpected(node, kind_of(&other))),
    }
    Ok(())
}

/// Adds two cumulative histograms. A server omits the times at which its count does not grow, so each
/// histogram counts at such a time as many calls as at the time before:
///
/// ```text
/// one       1us 2            4us 5
/// other              2us 1
/// merged    1us 2    2us 3   4us 6
/// ```
fn add_counts(one: &Pairs, other: &Pairs) -> Vec<(Value, Value)> {
    let read = |pairs: &Pairs| -> BTreeMap<i64, i64> {
        let number = |(time, count): &(Value, Value)| (int(time), int(count));
        pairs.pairs.iter().map(number).collect()
    };
    let (one, other) = (read(one), read(other));
    let until = |counts: &BTreeMap<i64, i64>, time| {
        counts
            .range(..=time)
            .next_back()
            .map_or(0, |(_, &count)| count)
    };
    let mut times: Vec<i64> = one.keys().chain(other.keys()).copied().collect();
    times.sort_unstable();
    times.dedup();
    let count = |&time: &i64| {
        // Cumulative counts may be added at any time that either has; saturating, since they come from
        // outside.
        let both = until(&one, time).saturating_add(until(&other, time));
        (Value::Int(time), Value::Int(both))
    };
    times.iter().map(count).collect()
}

/// The integer, or 0: servers send nothing else in these places.
fn int(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answers, flat, ints, map, text};
    use super::*;

    fn event(name: &str, numbers: &[i64]) -> Value {
        let numbers = numbers.iter().copied().map(Value::Int);
        Value::Array([text(name)].into_iter().chain(numbers).collect())
    }

    #[test]
    fn latency_latest_keeps_the_latest_and_the_worst_of_each_event() {
        let one = Value::Array(vec![event("command", &[100, 5, 90])]);
        let other = Value::Array(vec![
            event("fork", &[50, 1, 1]),
            event("command", &[200, 7, 8]),
        ]);
        let merged = latest(answers([one, other])).unwrap();
        let expected = vec![event("command", &[200, 7, 90]), event("fork", &[50, 1, 1])];
        assert_eq!(merged, Value::Array(expected));
    }

    #[test]
    fn latency_latest_adds_sums_and_counts() {
        let one = Value::Array(vec![event("command", &[200, 5, 9, 30, 3])]);
        let other = Value::Array(vec![event("command", &[100, 7, 8, 20, 4])]);
        let merged = latest(answers([one, other])).unwrap();
        let expected = vec![event("command", &[200, 5, 9, 50, 7])];
        assert_eq!(merged, Value::Array(expected));
    }

    #[test]
    fn latency_history_is_sorted_and_keeps_the_worst_of_each_second() {
        let list = |samples: &[[i64; 2]]| {
            Value::Array(samples.iter().map(|sample| ints(sample)).collect())
        };
        let merged = samples(answers([
            list(&[[10, 5], [30, 2]]),
            list(&[[20, 1], [30, 9]]),
        ]));
        assert_eq!(merged.unwrap(), list(&[[10, 5], [20, 1], [30, 9]]));
    }

    fn histogram(kind: fn(&[(&str, Value)]) -> Value, calls: i64, counts: &[i64]) -> Value {
        let histogram = match kind(&[]) {
            Value::Map(_) => Value::Map(
                counts
                    .chunks(2)
                    .map(|pair| (Value::Int(pair[0]), Value::Int(pair[1])))
                    .collect(),
            ),
            _ => ints(counts),
        };
        kind(&[("calls", Value::Int(calls)), ("histogram_usec", histogram)])
    }

    #[test]
    fn latency_histograms_are_added_bucket_by_bucket() {
        for kind in [flat, map] {
            let one = kind(&[("get", histogram(kind, 5, &[1, 2, 4, 5]))]);
            let other = kind(&[
                ("set", histogram(kind, 1, &[8, 1])),
                ("get", histogram(kind, 3, &[2, 1, 8, 3])),
            ]);
            let merged = histograms(answers([one, other])).unwrap();
            let expected = kind(&[
                ("get", histogram(kind, 8, &[1, 2, 2, 3, 4, 6, 8, 8])),
                ("set", histogram(kind, 1, &[8, 1])),
            ]);
            assert_eq!(merged, expected);
        }
    }
}
