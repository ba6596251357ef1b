//! The answers of several nodes as one.

use std::collections::HashSet;

use redis::Value;

use crate::command::Merge;
use crate::error::{Error, ErrorKind};

/// One node's good answer.
pub(super) struct Answer<'n> {
    pub(super) node: &'n str,
    pub(super) value: Value,
}

/// Makes one answer of the nodes' answers, in node order. None of them is a server error.
///
/// [`Merge::KeyOrder`] needs to know which key each element belongs to, so it has [`by_key`].
pub(super) fn merge(rule: Merge, answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    match rule {
        Merge::AllSucceeded | Merge::OneSucceeded => Ok(first(answers)),
        Merge::Concat | Merge::KeyOrder => concat(answers),
        Merge::FirstNonNil => Ok(answers
            .into_iter()
            .map(|answer| answer.value)
            .find(|value| *value != Value::Nil)
            .unwrap_or(Value::Nil)),
        Merge::LogicalAnd => fold(answers, |a, b| i64::from(a != 0 && b != 0)),
        Merge::Max => fold(answers, i64::max),
        Merge::Min => fold(answers, i64::min),
        Merge::PerNode => Ok(Value::Map(
            answers
                .into_iter()
                .map(|answer| {
                    (
                        Value::BulkString(answer.node.as_bytes().to_vec()),
                        answer.value,
                    )
                })
                .collect(),
        )),
        Merge::Sum => fold(answers, i64::saturating_add),
        Merge::SumByName => sum_by_name(answers),
        Merge::Union => union(answers),
    }
}

/// Puts each element back to its key's place in the question: `keys[i]` are the key numbers of part `i`.
pub(super) fn by_key(answers: Vec<Answer<'_>>, keys: &[&[u32]]) -> Result<Value, Error> {
    let total = keys.iter().map(|part| part.len()).sum();
    let mut merged = Vec::new();
    merged.resize_with(total, || Value::Nil);
    for (answer, keys) in answers.into_iter().zip(keys) {
        let node = answer.node;
        let items = elements(answer)?;
        if items.len() != keys.len() {
            return Err(unexpected(
                node,
                &format!("{} elements for {} keys", items.len(), keys.len()),
            ));
        }
        for (&key, item) in keys.iter().zip(items) {
            merged[key as usize] = item;
        }
    }
    Ok(Value::Array(merged))
}

fn first(answers: Vec<Answer<'_>>) -> Value {
    answers
        .into_iter()
        .next()
        .map_or(Value::Nil, |answer| answer.value)
}

/// Numbers, or arrays of numbers element by element. Booleans of RESP3 stay booleans.
fn fold(answers: Vec<Answer<'_>>, combine: fn(i64, i64) -> i64) -> Result<Value, Error> {
    let mut answers = answers.into_iter();
    let Some(mut merged) = answers.next().map(plain).transpose()? else {
        return Ok(Value::Nil);
    };
    for answer in answers {
        let node = answer.node;
        combine_into(&mut merged, plain(answer)?, combine, node)?;
    }
    Ok(merged)
}

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
        (Value::Boolean(a), Value::Boolean(b)) => {
            *a = combine((*a).into(), b.into()) != 0;
            Ok(())
        }
        (_, other) => Err(unexpected(node, shape(&other))),
    }
}

fn concat(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut maps: Vec<(Value, Value)> = Vec::new();
    let mut items = Vec::new();
    for answer in answers {
        match answer.value {
            Value::Map(pairs) => maps.extend(pairs),
            value => items.extend(elements(Answer { value, ..answer })?),
        }
    }
    Ok(match (maps.is_empty(), items.is_empty()) {
        (false, true) => Value::Map(maps),
        _ => Value::Array(items),
    })
}

fn union(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut seen = HashSet::new();
    let mut merged = Vec::new();
    for answer in answers {
        for item in elements(answer)? {
            let known = match &item {
                Value::BulkString(bytes) => !seen.insert(bytes.clone()),
                other => merged.contains(other),
            };
            if !known {
                merged.push(item);
            }
        }
    }
    Ok(Value::Array(merged))
}

fn sum_by_name(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut merged: Vec<(Value, i64)> = Vec::new();
    for answer in answers {
        let node = answer.node;
        let pairs: Vec<(Value, Value)> = match answer.value {
            Value::Map(pairs) => pairs,
            value => {
                let mut items = elements(Answer { node, value })?.into_iter();
                std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
            }
        };
        for (number, (name, count)) in pairs.into_iter().enumerate() {
            let Value::Int(count) = count else {
                return Err(unexpected(node, shape(&count)));
            };
            // Every node answers for the same names in the same order.
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

/// The elements of an array or a set.
fn elements(answer: Answer<'_>) -> Result<Vec<Value>, Error> {
    match answer.value {
        Value::Array(items) | Value::Set(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        Value::Attribute { data, .. } => elements(Answer {
            node: answer.node,
            value: *data,
        }),
        other => Err(unexpected(answer.node, shape(&other))),
    }
}

/// The value without RESP3's attributes.
fn plain(answer: Answer<'_>) -> Result<Value, Error> {
    match answer.value {
        Value::Attribute { data, .. } => plain(Answer {
            node: answer.node,
            value: *data,
        }),
        value @ (Value::Int(_) | Value::Array(_) | Value::Boolean(_)) => Ok(value),
        other => Err(unexpected(answer.node, shape(&other))),
    }
}

fn unexpected(node: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Redis,
        format!("node {node} answered with {what}, which does not fit the other nodes' answers"),
    )
}

/// What a value is, without saying its content.
fn shape(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Int(_) => "a number",
        Value::BulkString(_) => "a string",
        Value::Array(_) => "an array",
        Value::SimpleString(_) | Value::Okay => "a status",
        Value::Map(_) => "a map",
        Value::Set(_) => "a set",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(values: impl IntoIterator<Item = Value>) -> Vec<Answer<'static>> {
        values
            .into_iter()
            .zip(["a", "b", "c", "d"])
            .map(|(value, node)| Answer { node, value })
            .collect()
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn ints(numbers: &[i64]) -> Value {
        Value::Array(numbers.iter().copied().map(Value::Int).collect())
    }

    #[test]
    fn numbers_are_added_or_compared() {
        let given = || answers([Value::Int(3), Value::Int(1), Value::Int(2)]);
        assert_eq!(merge(Merge::Sum, given()).unwrap(), Value::Int(6));
        assert_eq!(merge(Merge::Min, given()).unwrap(), Value::Int(1));
        assert_eq!(merge(Merge::Max, given()).unwrap(), Value::Int(3));
    }

    #[test]
    fn arrays_of_numbers_merge_element_by_element() {
        let merged = merge(
            Merge::LogicalAnd,
            answers([ints(&[1, 1, 0]), ints(&[1, 0, 0])]),
        );
        assert_eq!(merged.unwrap(), ints(&[1, 0, 0]));
        assert!(merge(Merge::Min, answers([ints(&[1]), ints(&[1, 2])])).is_err());
    }

    #[test]
    fn elements_return_to_the_places_of_their_keys() {
        let merged = by_key(
            answers([
                Value::Array(vec![text("1"), Value::Nil]),
                Value::Array(vec![text("0"), text("3")]),
            ]),
            &[&[1, 2], &[0, 3]],
        );
        let expected = vec![text("0"), text("1"), Value::Nil, text("3")];
        assert_eq!(merged.unwrap(), Value::Array(expected));
    }

    #[test]
    fn an_answer_with_too_few_elements_is_an_error_not_a_nil() {
        let merged = by_key(answers([Value::Array(vec![text("1")])]), &[&[0, 1]]);
        assert_eq!(merged.unwrap_err().kind(), ErrorKind::Redis);
    }

    #[test]
    fn the_first_key_found_is_the_answer_of_randomkey() {
        let merged = merge(
            Merge::FirstNonNil,
            answers([Value::Nil, text("k"), text("l")]),
        );
        assert_eq!(merged.unwrap(), text("k"));
    }

    #[test]
    fn lists_follow_one_another_in_node_order() {
        let merged = merge(
            Merge::Concat,
            answers([Value::Array(vec![text("x")]), Value::Set(vec![text("y")])]),
        );
        assert_eq!(merged.unwrap(), Value::Array(vec![text("x"), text("y")]));
    }

    #[test]
    fn a_union_names_nothing_twice() {
        let merged = merge(
            Merge::Union,
            answers([
                Value::Array(vec![text("x"), text("y")]),
                Value::Array(vec![text("y")]),
            ]),
        );
        assert_eq!(merged.unwrap(), Value::Array(vec![text("x"), text("y")]));
    }

    #[test]
    fn counts_of_equal_names_are_added() {
        let one = || {
            Value::Array(vec![
                text("news"),
                Value::Int(1),
                text("sport"),
                Value::Int(2),
            ])
        };
        let merged = merge(Merge::SumByName, answers([one(), one()])).unwrap();
        let expected = vec![text("news"), Value::Int(2), text("sport"), Value::Int(4)];
        assert_eq!(merged, Value::Array(expected));
    }

    #[test]
    fn answers_can_be_kept_by_node() {
        let merged = merge(Merge::PerNode, answers([Value::Int(1), Value::Int(2)])).unwrap();
        let expected = vec![(text("a"), Value::Int(1)), (text("b"), Value::Int(2))];
        assert_eq!(merged, Value::Map(expected));
    }
}
