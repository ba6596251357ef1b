//! Sets. Members are returned in the order of their bytes.

use super::super::protocol::Reply;
use super::super::store::Set;
use super::{Answer, Call, Failure};

/// SADD: the number of members added.
pub(super) fn sadd(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    // At least one member follows, so no empty set is left.
    let set = store.edit::<Set>(key)?;
    let new = call
        .args
        .iter()
        .skip(2)
        .filter(|member| set.insert((*member).clone()));
    let new = new.count();
    if new > 0 {
        store.touched(key);
    }
    Ok(Reply::count(new))
}

/// SREM: the number of members removed.
pub(super) fn srem(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    let Some(set) = store.view::<Set>(key)? else {
        return Ok(Reply::Integer(0));
    };
    let gone = call
        .args
        .iter()
        .skip(2)
        .filter(|member| set.remove(*member))
        .count();
    if gone > 0 {
        store.touched(key);
    }
    Ok(Reply::count(gone))
}

/// SMEMBERS: all members.
pub(super) fn smembers(call: &mut Call<'_>) -> Answer {
    let set = members(call, call.key())?;
    Ok(reply(&set))
}

/// SCARD: the number of members.
pub(super) fn scard(call: &mut Call<'_>) -> Answer {
    Ok(Reply::count(members(call, call.key())?.len()))
}

/// SISMEMBER: 1 or 0.
pub(super) fn sismember(call: &mut Call<'_>) -> Answer {
    let there = members(call, call.key())?.contains(&call.args[2]);
    Ok(Reply::Integer(there.into()))
}

/// SUNION: the members of any set.
pub(super) fn sunion(call: &mut Call<'_>) -> Answer {
    combine(call, |a, b| a | b)
}

/// SINTER: the members of all sets.
pub(super) fn sinter(call: &mut Call<'_>) -> Answer {
    combine(call, |a, b| a & b)
}

/// SDIFF: the members of the first set that no other has.
pub(super) fn sdiff(call: &mut Call<'_>) -> Answer {
    combine(call, |a, b| a - b)
}

/// Combines the sets from left to right.
fn combine(call: &mut Call<'_>, both: fn(&Set, &Set) -> Set) -> Answer {
    // A key of another type is an error, wherever it stands; one that does not exist is an empty set.
    let mut result = members(call, call.key())?;
    for key in call.rest(2) {
        result = both(&result, &members(call, key)?);
    }
    Ok(reply(&result))
}

/// Returns a copy of the set, empty if the key does not exist.
fn members(call: &mut Call<'_>, key: &[u8]) -> Result<Set, Failure> {
    let set = call.database.store.view::<Set>(key)?;
    Ok(set.cloned().unwrap_or_default())
}

/// Returns a set as a reply.
fn reply(set: &Set) -> Reply {
    Reply::Set(set.iter().cloned().map(Reply::Bulk).collect())
}
