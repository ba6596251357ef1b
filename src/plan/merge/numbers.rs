//! Sums and extremes of integers, and of figures by name.

use redis::Value;

use crate::error::Error;
use crate::plan::merge::pairs::{self, Pairs};
use crate::plan::merge::{Answer, kind_of, plain, texts, unexpected};

/// Combines integers, or arrays of integers element by element: `[1, 1, 0]` and `[1, 0, 0]` with `min` are
/// `[1, 0, 0]`. Booleans of RESP3 stay booleans. Arrays of different lengths are an error.
pub(super) fn fold(answers: Vec<Answer<'_>>, combine: fn(i64, i64) -> i64) -> Result<Value, Error> {
    let mut answers = answers.into_iter();
    let Some(mut merged) = answers.next().map(number).transpose()? else {
        return Ok(Value::Nil);
    };
    for answer in answers {
        let node = answer.node;
        combine_into(&mut merged, number(answer)?, combine, node)?;
    }
    Ok(merged)
}

/// Adds the numbers of equal names in `[name, number, ...]`. All nodes must list the same names in the same
/// order, which they do: the names are arguments of the request.
pub(super) fn sum_by_name(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut merged: Vec<(Value, i64)> = Vec::new();
    for answer in answers {
        let node = answer.node;
        for (number, (name, count)) in Pairs::read(answer)?.pairs.into_iter().enumerate() {
            let Value::Int(count) = count else {
                return Err(unexpected(node, kind_of(&count)));
            };
            // A name may be given twice in the request, so its place identifies it, not the name.
            match merged.get_mut(number) {
                Some((known, total)) if *known == name => *total = total.saturating_add(count),
                Some(_) => return Err(unexpected(node, "other names than the node before it")),
                None => merged.push((name, count)),
            }
        }
    }
    Ok(Value::Array(
        merged
            .into_iter()
            .flat_map(|(name, total)| [name, Value::Int(total)])
            .collect(),
    ))
}

/// Merges MEMORY STATS: figures by name, some of which are maps of figures themselves. Integers are added,
/// ratios have their largest. Nodes that cannot be reached are listed under `nodes.unreachable`.
pub(super) fn figures(answers: Vec<Answer<'_>>, missing: &[&str]) -> Result<Value, Error> {
    let Some(mut merged) = pairs::join_all(answers, add)? else {
        return Ok(Value::Nil);
    };
    // The sum of the nodes' averages means nothing; the average follows from the sums.
    if let Some(mean) = bytes_per_key(&merged)
        && let Some(place) = merged.get_mut(b"keys.bytes-per-key")
    {
        *place = Value::Int(mean);
    }
    if !missing.is_empty() {
        let names = texts::bulk(&missing.join(","));
        merged.pairs.push((texts::bulk("nodes.unreachable"), names));
    }
    Ok(merged.into_value())
}

/// Merges one figure. Counts and sizes are integers; ratios and percentages are doubles, which in RESP2 are
/// texts.
fn add(node: &str, name: &Value, one: &mut Value, other: Value) -> Result<(), Error> {
    match (&mut *one, plain(other)) {
        (Value::Int(one), Value::Int(other)) => *one = one.saturating_add(other),
        // Ratios cannot be added. The largest points at the node that has a problem, such as fragmentation.
        (Value::Double(one), Value::Double(other)) => *one = one.max(other),
        (Value::Map(_) | Value::Array(_), other @ (Value::Map(_) | Value::Array(_))) => {
            let value = std::mem::take(one);
            let mut inner = Pairs::read(Answer { node, value })?;
            let other = Pairs::read(Answer { node, value: other })?;
            inner.join(other, |name, one, other| add(node, name, one, other))?;
            *one = inner.into_value();
        }
        (Value::BulkString(one), Value::BulkString(other)) => {
            // RESP2 has no doubles: a ratio is a text like `1.52`, and a text that is not a number must be
            // the same everywhere.
            match (decimal(one), decimal(&other)) {
                (Some(a), Some(b)) if b > a => *one = other,
                (Some(_), Some(_)) => {}
                _ if *one == other => {}
                _ => return Err(unexpected(node, &format!("another text for {name:?}"))),
            }
        }
        (_, other) => return Err(unexpected(node, kind_of(&other))),
    }
    Ok(())
}

/// Average size of a key in bytes, by the server's own formula; `None` if the figures for it are missing.
fn bytes_per_key(figures: &Pairs) -> Option<i64> {
    let int = |name: &[u8]| match figures.get(name)? {
        Value::Int(number) => Some(*number),
        _ => None,
    };
    // The server's own formula: memory beyond that of an empty server, divided by the keys.
    let used = int(b"total.allocated")?.saturating_sub(int(b"startup.allocated")?);
    Some(used.checked_div(int(b"keys.count")?).unwrap_or(0))
}

/// Parses a text such as `1.52`.
fn decimal(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Merges one node's value into that of the nodes before it.
fn combine_into(
    merged: &mut Value,
    value: Value,
    combine: fn(i64, i64) -> i64,
    node: &str,
) -> Result<(), Error> {
    match (merged, value) {
        (Value::Array(all), Value::Array(items)) if all.len() == items.len() => {
            for (one, item) in all.iter_mut().zip(items) {
                combine_into(one, item, combine, node)?;
            }
            Ok(())
        }
        (Value::Int(a), Value::Int(b)) => {
            *a = combine(*a, b);
            Ok(())
        }
        // The rules compute with 0 and 1; the result stays a boolean, as the client asked for RESP3.
        (Value::Boolean(a), Value::Boolean(b)) => {
            *a = combine((*a).into(), b.into()) != 0;
            Ok(())
        }
        (_, other) => Err(unexpected(node, kind_of(&other))),
    }
}

/// Checks that a reply is an integer, a boolean or an array. The elements of an array are checked when they
/// are combined.
fn number(answer: Answer<'_>) -> Result<Value, Error> {
    match plain(answer.value) {
        value @ (Value::Int(_) | Value::Array(_) | Value::Boolean(_)) => Ok(value),
        other => Err(unexpected(answer.node, kind_of(&other))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::merge;
    use super::super::testing::{NOTHING, answers, flat, ints, map, text};
    use super::*;
    use crate::command::Merge;

    #[test]
    fn merge_sum_min_and_max_of_integers() {
        let given = || answers([Value::Int(3), Value::Int(1), Value::Int(2)]);
        let merged = |rule| merge(rule, NOTHING, given()).unwrap();
        assert_eq!(merged(Merge::Sum), Value::Int(6));
        assert_eq!(merged(Merge::Min), Value::Int(1));
        assert_eq!(merged(Merge::Max), Value::Int(3));
    }

    #[test]
    fn merge_logical_and_and_min_work_element_by_element() {
        let given = answers([ints(&[1, 1, 0]), ints(&[1, 0, 0])]);
        let merged = merge(Merge::LogicalAnd, NOTHING, given);
        assert_eq!(merged.unwrap(), ints(&[1, 0, 0]));
        let given = answers([ints(&[1]), ints(&[1, 2])]);
        assert!(merge(Merge::Min, NOTHING, given).is_err());
    }

    #[test]
    fn pubsub_numsub_counts_are_added_by_channel() {
        let one = || flat(&[("news", Value::Int(1)), ("sport", Value::Int(2))]);
        let merged = merge(Merge::SumByName, NOTHING, answers([one(), one()])).unwrap();
        let expected = flat(&[("news", Value::Int(2)), ("sport", Value::Int(4))]);
        assert_eq!(merged, expected);
    }

    #[test]
    fn memory_stats_adds_figures_and_takes_the_largest_ratio() {
        let node = |keys: i64, total: i64, ratio: &str| {
            flat(&[
                ("total.allocated", Value::Int(total)),
                ("startup.allocated", Value::Int(100)),
                ("keys.count", Value::Int(keys)),
                ("keys.bytes-per-key", Value::Int((total - 100) / keys)),
                (
                    "db.0",
                    flat(&[("overhead.hashtable.main", Value::Int(keys * 8))]),
                ),
                ("fragmentation", text(ratio)),
            ])
        };
        let merged = figures(answers([node(1, 200, "1.5"), node(3, 700, "10.25")]), &[]).unwrap();
        assert_eq!(
            merged,
            flat(&[
                ("total.allocated", Value::Int(900)),
                ("startup.allocated", Value::Int(200)),
                ("keys.count", Value::Int(4)),
                ("keys.bytes-per-key", Value::Int(175)),
                ("db.0", flat(&[("overhead.hashtable.main", Value::Int(32))])),
                ("fragmentation", text("10.25")),
            ])
        );
    }

    #[test]
    fn memory_stats_in_resp3_is_merged_to_a_map() {
        let node = |ratio| map(&[("a", Value::Int(1)), ("b", Value::Double(ratio))]);
        let merged = figures(
            answers([node(2.5), node(1.5), map(&[("c", Value::Int(7))])]),
            &[],
        );
        let expected = [
            ("a", Value::Int(2)),
            ("b", Value::Double(2.5)),
            ("c", Value::Int(7)),
        ];
        assert_eq!(merged.unwrap(), map(&expected));
    }

    #[test]
    fn memory_stats_names_the_nodes_that_cannot_be_reached() {
        let merged = figures(answers([flat(&[("x", Value::Int(1))])]), &["c", "d"]).unwrap();
        let expected = flat(&[("x", Value::Int(1)), ("nodes.unreachable", text("c,d"))]);
        assert_eq!(merged, expected);
    }
}
