//! Lists, with as few commands as queues need.

use std::time::Duration;

use super::super::protocol::Reply;
use super::super::store::List;
use super::{Answer, Call, Failure, float, integer, slice};

/// End of a list.
#[derive(Clone, Copy)]
enum End {
    Left,
    Right,
}

impl End {
    /// Adds an item at this end.
    fn push(self, list: &mut List, item: Vec<u8>) {
        match self {
            Self::Left => list.push_front(item),
            Self::Right => list.push_back(item),
        }
    }

    /// Removes the item at this end.
    fn pop(self, list: &mut List) -> Option<Vec<u8>> {
        match self {
            Self::Left => list.pop_front(),
            Self::Right => list.pop_back(),
        }
    }
}

/// LPUSH: the new length.
pub(super) fn lpush(call: &mut Call<'_>) -> Answer {
    push(call, End::Left)
}

/// RPUSH: the new length.
pub(super) fn rpush(call: &mut Call<'_>) -> Answer {
    push(call, End::Right)
}

/// Adds items at an end, one after the other.
fn push(call: &mut Call<'_>, end: End) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    // At least one item follows, as the arity requires, so no empty list is left.
    let list = store.edit::<List>(key)?;
    call.args[2..]
        .iter()
        .for_each(|item| end.push(list, item.clone()));
    let length = list.len();
    store.touched(key);
    Ok(Reply::count(length))
}

/// LPOP: an item, or with a count an array.
pub(super) fn lpop(call: &mut Call<'_>) -> Answer {
    pop(call, End::Left)
}

/// RPOP: an item, or with a count an array.
pub(super) fn rpop(call: &mut Call<'_>) -> Answer {
    pop(call, End::Right)
}

/// Removes items at an end. Without a key the reply is a null of the kind that was asked for.
fn pop(call: &mut Call<'_>, end: End) -> Answer {
    let count = match call.rest(2) {
        [] => None,
        [count] => Some(exact_count(count)?),
        _ => return Err(call.wrong_arity()),
    };
    let (key, store) = (call.key(), &mut call.database.store);
    // The count is checked before: a wrong one is an error without a key too.
    let Some(list) = store.view::<List>(key)? else {
        return Ok(count.map_or(Reply::Nil, |_| Reply::NilArray));
    };
    let wanted = count.unwrap_or(1).min(list.len());
    let mut items: Vec<Vec<u8>> = (0..wanted).filter_map(|_| end.pop(list)).collect();
    if !items.is_empty() {
        store.touched(key);
    }
    Ok(match count {
        None => Reply::maybe(items.pop().as_ref()),
        Some(_) => Reply::bulks(&items),
    })
}

/// Parses the count of LPOP, which has an error text of its own.
fn exact_count(bytes: &[u8]) -> Result<usize, Failure> {
    let count = integer(bytes).map_err(|_| Failure::NOT_POSITIVE)?;
    usize::try_from(count).map_err(|_| Failure::NOT_POSITIVE)
}

/// LLEN: the length, 0 without a key.
pub(super) fn llen(call: &mut Call<'_>) -> Answer {
    let list = call.database.store.view::<List>(call.key())?;
    Ok(Reply::count(list.map_or(0, |list| list.len())))
}

/// LRANGE: the items between two positions, both included.
pub(super) fn lrange(call: &mut Call<'_>) -> Answer {
    let (start, end) = (integer(&call.args[2])?, integer(&call.args[3])?);
    let Some(list) = call.database.store.view::<List>(call.key())? else {
        return Ok(Reply::Array(Vec::new()));
    };
    let range = slice(start, end, list.len());
    Ok(Reply::bulks(
        range.into_iter().flat_map(|range| list.range(range)),
    ))
}

/// BLPOP: key and item, or nil after the timeout.
pub(super) fn blpop(call: &mut Call<'_>) -> Answer {
    blocking_pop(call, End::Left)
}

/// BRPOP: key and item, or nil after the timeout.
pub(super) fn brpop(call: &mut Call<'_>) -> Answer {
    blocking_pop(call, End::Right)
}

/// Removes an item from the first key that has one, or asks to be called again when the data has changed.
fn blocking_pop(call: &mut Call<'_>, end: End) -> Answer {
    let (keys, timeout) = call.args[1..].split_at(call.args.len() - 2);
    let timeout = timeout_of(&timeout[0])?;
    let store = &mut call.database.store;
    for key in keys {
        if let Some(item) = store.view::<List>(key)?.and_then(|list| end.pop(list)) {
            store.touched(key);
            return Ok(Reply::bulks([key, &item]));
        }
    }
    // Inside EXEC nothing blocks: nil is the reply.
    if !call.session.in_exec {
        call.session.waiting = Some(timeout);
    }
    Ok(Reply::NilArray)
}

/// Parses a timeout in seconds; `None` is for ever.
fn timeout_of(bytes: &[u8]) -> Result<Option<Duration>, Failure> {
    let seconds =
        float(bytes).ok_or(Failure::from("ERR timeout is not a float or out of range"))?;
    // Redis 7.0 counts in 63 bits of milliseconds, and takes an overflow for a negative time.
    let timeout = Some(seconds).filter(|&seconds| seconds * 1000.0 < i64::MAX as f64);
    let timeout = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let timeout = timeout.ok_or(Failure::from("ERR timeout is negative"))?;
    Ok(Some(timeout).filter(|timeout| !timeout.is_zero()))
}
