//! Answers for the tests of this room.

use redis::Value;

use super::{Answer, Question};

/// Nobody asked.
pub(super) const NOTHING: Question<'static> = Question {
    args: &[],
    entropy: 0,
    missing: &[],
};

/// Answers of the nodes `a`, `b`, `c` and `d`.
pub(super) fn answers(values: impl IntoIterator<Item = Value>) -> Vec<Answer<'static>> {
    values
        .into_iter()
        .zip(["a", "b", "c", "d"])
        .map(|(value, node)| Answer { node, value })
        .collect()
}

pub(super) fn text(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

pub(super) fn texts(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|one| text(one)).collect())
}

pub(super) fn ints(numbers: &[i64]) -> Value {
    Value::Array(numbers.iter().copied().map(Value::Int).collect())
}

/// A map as RESP2 has it.
pub(super) fn flat(pairs: &[(&str, Value)]) -> Value {
    let items = pairs
        .iter()
        .flat_map(|(name, value)| [text(name), value.clone()]);
    Value::Array(items.collect())
}

/// A map as RESP3 has it.
pub(super) fn map(pairs: &[(&str, Value)]) -> Value {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (text(name), value.clone()));
    Value::Map(pairs.collect())
}
