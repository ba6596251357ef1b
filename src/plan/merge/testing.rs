//! Replies for the unit tests of this module, written briefly.

use redis::Value;

use super::{Answer, Question};

/// A request without arguments, for rules that do not look at it.
pub(super) const NOTHING: Question<'static> = Question {
    args: &[],
    entropy: 0,
    missing: &[],
};

/// Replies of the nodes `a`, `b`, `c` and `d`, in this order.
pub(super) fn answers(values: impl IntoIterator<Item = Value>) -> Vec<Answer<'static>> {
    values
        .into_iter()
        .zip(["a", "b", "c", "d"])
        .map(|(value, node)| Answer { node, value })
        .collect()
}

/// A bulk string.
pub(super) fn text(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

/// An array of bulk strings.
pub(super) fn texts(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|one| text(one)).collect())
}

/// An array of integers.
pub(super) fn ints(numbers: &[i64]) -> Value {
    Value::Array(numbers.iter().copied().map(Value::Int).collect())
}

/// Names with values as RESP2 has them: a flat array.
pub(super) fn flat(pairs: &[(&str, Value)]) -> Value {
    let items = pairs
        .iter()
        .flat_map(|(name, value)| [text(name), value.clone()]);
    Value::Array(items.collect())
}

/// Names with values as RESP3 has them: a map.
pub(super) fn map(pairs: &[(&str, Value)]) -> Value {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (text(name), value.clone()));
    Value::Map(pairs.collect())
}
