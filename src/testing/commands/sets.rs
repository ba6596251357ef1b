//! Sets. Members come in the order of their bytes.

use super::super::protocol::Reply;
use super::super::store::Set;
use super::{Answer, Call, Failure};

pub(super) fn sadd(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
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

pub(super) fn smembers(call: &mut Call<'_>) -> Answer {
    let set = members(call, call.key())?;
    Ok(reply(&set))
}

pub(super) fn scard(call: &mut Call<'_>) -> Answer {
    Ok(Reply::count(members(call, call.key())?.len()))
}

pub(super) fn sismember(call: &mut Call<'_>) -> Answer {
    let there = members(call, call.key())?.contains(&call.args[2]);
    Ok(Reply::Integer(there.into()))
}

pub(super) fn sunion(call: &mut Call<'_>) -> Answer {
    combine(call, |a, b| a | b)
}

pub(super) fn sinter(call: &mut Call<'_>) -> Answer {
    combine(call, |a, b| a & b)
}

pub(super) fn sdiff(call: &mut Call<'_>) -> Answer {
    combine(call, |a, b| a - b)
}

fn combine(call: &mut Call<'_>, both: fn(&Set, &Set) -> Set) -> Answer {
    let mut result = members(call, call.key())?;
    for key in call.rest(2) {
        result = both(&result, &members(call, key)?);
    }
    Ok(reply(&result))
}

fn members(call: &mut Call<'_>, key: &[u8]) -> Result<Set, Failure> {
    let set = call.database.store.view::<Set>(key)?;
    Ok(set.cloned().unwrap_or_default())
}

fn reply(set: &Set) -> Reply {
    Reply::Set(set.iter().cloned().map(Reply::Bulk).collect())
}
