//! SLOWLOG GET, COMMANDLOG GET and ACL LOG: the entries of all nodes as one log.
//!
//! Entries of SLOWLOG carry the time at which they were made, those of ACL LOG their age. Ids are each node's
//! own, and stay as they are: two entries of the merged log may have the same. For the ids of one node, and
//! to see which node an entry is from, the node has to be named.

use redis::Value;

use crate::error::Error;
use crate::plan::merge::pairs::Pairs;
use crate::plan::merge::{Answer, elements, first, unexpected};

/// Number of entries that a server returns when none is asked for.
const ENTRIES: usize = 10;

/// Merges logs: entries by time, the newest first, as many as were asked for. With `RESET`, an argument of
/// ACL LOG, the replies are statuses, and the first is returned.
pub(super) fn entries(answers: Vec<Answer<'_>>, args: &[&[u8]]) -> Result<Value, Error> {
    let is_status =
        |answer: &Answer<'_>| matches!(answer.value, Value::Okay | Value::SimpleString(_));
    if answers.iter().all(is_status) {
        return Ok(first(answers));
    }
    let mut dated = Vec::new();
    for answer in answers {
        let node = answer.node;
        for entry in elements(answer)? {
            let age = age(&entry).ok_or_else(|| unexpected(node, "an entry without a time"))?;
            dated.push((age, entry));
        }
    }
    // A stable sort: entries of one second stay in node order, and those of one node in its own.
    dated.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    dated.truncate(limit(args));
    Ok(Value::Array(
        dated.into_iter().map(|(_, entry)| entry).collect(),
    ))
}

/// A number that grows with the age of an entry: from `[id, seconds, ...]`, where the time is since 1970, or
/// from a map with `age-seconds`. The two are never compared, since one command has entries of one form.
/// `None` if an entry has neither.
fn age(entry: &Value) -> Option<f64> {
    if let Value::Array(items) = entry
        && let [Value::Int(_), Value::Int(seconds), ..] = items.as_slice()
    {
        return Some(-(*seconds as f64));
    }
    let entry = Answer {
        node: "",
        value: entry.clone(),
    };
    match Pairs::read(entry).ok()?.get(b"age-seconds")? {
        Value::Double(age) => Some(*age),
        Value::Int(age) => Some(*age as f64),
        Value::BulkString(age) => std::str::from_utf8(age).ok()?.parse().ok(),
        _ => None,
    }
}

/// Number of entries to return: the argument after the subcommand, or [`ENTRIES`]. All if it is negative.
fn limit(args: &[&[u8]]) -> usize {
    let Some(count) = args.get(2) else {
        return ENTRIES;
    };
    let count = std::str::from_utf8(count).ok();
    let count: Option<i64> = count.and_then(|count| count.parse().ok());
    // An argument that is not a number is refused by the servers, so there are no entries to limit.
    count.map_or(usize::MAX, |count| {
        usize::try_from(count).unwrap_or(usize::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answers, flat, map, text};
    use super::*;

    fn entry(id: i64, seconds: i64) -> Value {
        Value::Array(vec![Value::Int(id), Value::Int(seconds), text("rest")])
    }

    fn given() -> Vec<Answer<'static>> {
        answers([
            Value::Array(vec![entry(5, 300), entry(4, 100)]),
            Value::Array(vec![entry(9, 300), entry(8, 200)]),
        ])
    }

    #[test]
    fn slowlog_entries_come_newest_first_and_in_node_order() {
        let merged = entries(given(), &[b"SLOWLOG", b"GET"]).unwrap();
        let expected = [entry(5, 300), entry(9, 300), entry(8, 200), entry(4, 100)];
        assert_eq!(merged, Value::Array(expected.into()));
    }

    #[test]
    fn slowlog_get_returns_at_most_the_requested_count() {
        let count = |args: &[&[u8]]| match entries(given(), args).unwrap() {
            Value::Array(entries) => entries.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(count(&[b"SLOWLOG", b"GET", b"3"]), 3);
        assert_eq!(count(&[b"SLOWLOG", b"GET", b"-1"]), 4);
        assert_eq!(count(&[b"COMMANDLOG", b"GET", b"1", b"slow"]), 1);
        let many = || Value::Array((0..9).map(|id| entry(id, id)).collect());
        let merged = entries(answers([many(), many()]), &[b"SLOWLOG", b"GET"]).unwrap();
        assert!(matches!(merged, Value::Array(entries) if entries.len() == 10));
    }

    #[test]
    fn acl_log_entries_are_sorted_by_age() {
        let two = flat(&[("count", Value::Int(1)), ("age-seconds", text("2.5"))]);
        let three = map(&[("age-seconds", Value::Double(1.5))]);
        let given = [
            Value::Array(vec![two.clone()]),
            Value::Array(vec![three.clone()]),
        ];
        let merged = entries(answers(given), &[b"ACL", b"LOG"]).unwrap();
        assert_eq!(merged, Value::Array(vec![three, two]));
    }

    #[test]
    fn acl_log_reset_is_merged_to_ok() {
        let merged = entries(
            answers([Value::Okay, Value::Okay]),
            &[b"ACL", b"LOG", b"RESET"],
        );
        assert_eq!(merged.unwrap(), Value::Okay);
    }

    #[test]
    fn slowlog_entry_without_a_time_is_an_error() {
        let odd = Value::Array(vec![Value::Int(1)]);
        assert!(entries(answers([odd]), &[b"SLOWLOG", b"GET"]).is_err());
    }
}
