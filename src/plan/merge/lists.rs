//! Arrays: by key, one after another, without repetition; and the first or any reply that is not nil.

use std::collections::HashSet;

use redis::Value;

use crate::error::Error;
use crate::plan::merge::{Answer, elements, unexpected};

/// Puts each element in the place of its key in the request, which has `total` keys; each part comes with the places of
/// its keys. MGET k0 k1 k2 with parts `[v0, v2]` for places 0, 2 and `[v1]` for place 1 is `[v0, v1, v2]`.
///
/// # Errors
///
/// [`Redis`](crate::error::ErrorKind::Redis) if a part has not one element for each of its keys: filled up
/// with nil, it would claim that keys do not exist.
pub(in crate::plan) fn by_key<'n, 'k>(
    total: usize,
    parts: impl Iterator<Item = (Answer<'n>, &'k [u32])>,
) -> Result<Value, Error> {
    let mut merged = Vec::new();
    // Every place is filled below, since the parts have all keys between them; nil is never returned for a
    // key that a node did not reply to.
    merged.resize_with(total, || Value::Nil);
    for (answer, keys) in parts {
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

/// Concatenates arrays, sets and maps in node order: `[x]` and `[y, z]` are `[x, y, z]`. The result is a map
/// if there are maps and no elements, otherwise an array.
pub(super) fn concat(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut maps: Vec<(Value, Value)> = Vec::new();
    let mut items = Vec::new();
    for answer in answers {
        match answer.value {
            Value::Map(pairs) => maps.extend(pairs),
            value => items.extend(elements(Answer { value, ..answer })?),
        }
    }
    // Empty replies look alike in both forms, so without any element the result is an empty array.
    Ok(match (maps.is_empty(), items.is_empty()) {
        (false, true) => Value::Map(maps),
        _ => Value::Array(items),
    })
}

/// Concatenates arrays without elements that were there before: `[x, y]` and `[y]` are `[x, y]`.
pub(super) fn union(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut seen = HashSet::new();
    let mut merged = Vec::new();
    for answer in answers {
        for item in elements(answer)? {
            // Bulk strings are what servers list here, in great number; anything else is rare enough for a
            // search.
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

/// Iterates over the replies that are not nil, in node order.
pub(super) fn non_nil<'n>(answers: Vec<Answer<'n>>) -> impl Iterator<Item = Value> + use<'n> {
    answers
        .into_iter()
        .map(|answer| answer.value)
        .filter(|value| *value != Value::Nil)
}

/// Returns one of the replies that are not nil, chosen by `entropy`, each as likely as the others; nil if
/// there is none. A node with few keys is thus as likely as one with many.
pub(super) fn any_non_nil(answers: Vec<Answer<'_>>, entropy: u64) -> Value {
    let mut found: Vec<Value> = non_nil(answers).collect();
    if found.is_empty() {
        return Value::Nil;
    }
    // The bias of the remainder is below 2^-48 for at most 2^16 nodes.
    let chosen = entropy % found.len() as u64;
    found.swap_remove(chosen as usize)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOTHING, answers, text, texts};
    use super::super::{Question, merge};
    use super::*;
    use crate::command::Merge;
    use crate::error::ErrorKind;

    #[test]
    fn mget_elements_are_merged_in_key_order() {
        let merged = by_key(
            4,
            answers([
                Value::Array(vec![text("1"), Value::Nil]),
                Value::Array(vec![text("0"), text("3")]),
            ])
            .into_iter()
            .zip([&[1, 2][..], &[0, 3]]),
        );
        let expected = vec![text("0"), text("1"), Value::Nil, text("3")];
        assert_eq!(merged.unwrap(), Value::Array(expected));
    }

    #[test]
    fn mget_reply_with_too_few_elements_is_an_error() {
        let merged = by_key(2, answers([texts(&["1"])]).into_iter().zip([&[0, 1][..]]));
        assert_eq!(merged.unwrap_err().kind(), ErrorKind::Redis);
    }

    #[test]
    fn merge_concat_joins_lists_in_node_order() {
        let merged = merge(
            Merge::Concat,
            NOTHING,
            answers([texts(&["x"]), Value::Set(vec![text("y")])]),
        );
        assert_eq!(merged.unwrap(), texts(&["x", "y"]));
    }

    #[test]
    fn merge_union_removes_duplicates() {
        let merged = merge(
            Merge::Union,
            NOTHING,
            answers([texts(&["x", "y"]), texts(&["y"])]),
        );
        assert_eq!(merged.unwrap(), texts(&["x", "y"]));
    }

    #[test]
    fn merge_first_non_nil_skips_nil() {
        let merged = merge(
            Merge::FirstNonNil,
            NOTHING,
            answers([Value::Nil, text("k"), text("l")]),
        );
        assert_eq!(merged.unwrap(), text("k"));
    }

    #[test]
    fn randomkey_is_chosen_among_the_nodes_with_keys() {
        let chosen = |entropy| {
            let question = Question { entropy, ..NOTHING };
            let given = answers([Value::Nil, text("k"), Value::Nil, text("l")]);
            merge(Merge::AnyNonNil, question, given).unwrap()
        };
        assert_eq!([chosen(0), chosen(1)], [text("k"), text("l")]);
        assert_eq!(chosen(u64::MAX), text("l"));
        let none = merge(Merge::AnyNonNil, NOTHING, answers([Value::Nil, Value::Nil]));
        assert_eq!(none.unwrap(), Value::Nil);
    }
}
