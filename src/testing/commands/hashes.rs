//! Hashes. Fields are returned in the order of their bytes.

use super::super::protocol::Reply;
use super::super::store::Hash;
use super::counters::OVERFLOW;
use super::{Answer, Call, Failure, exact, integer};

/// HSET: the number of fields added.
pub(super) fn hset(call: &mut Call<'_>) -> Answer {
    // Name, key and pairs: an even number.
    if !call.args.len().is_multiple_of(2) {
        return Err(call.wrong_arity());
    }
    let (key, store) = (call.key(), &mut call.database.store);
    let hash = store.edit::<Hash>(key)?;
    let pairs = call.args[2..].chunks_exact(2);
    let new = pairs.filter(|pair| hash.insert(pair[0].clone(), pair[1].clone()).is_none());
    let new = new.count();
    store.touched(key);
    Ok(Reply::count(new))
}

/// HMSET: like HSET, with OK as its reply.
pub(super) fn hmset(call: &mut Call<'_>) -> Answer {
    hset(call)?;
    Ok(Reply::OK)
}

/// HSETNX: 1 if the field was added, or 0.
pub(super) fn hsetnx(call: &mut Call<'_>) -> Answer {
    if hexists(call)? == Reply::Integer(1) {
        return Ok(Reply::Integer(0));
    }
    hset(call)
}

/// HGET: the value, or nil.
pub(super) fn hget(call: &mut Call<'_>) -> Answer {
    let hash = call.database.store.view::<Hash>(call.key())?;
    Ok(Reply::maybe(hash.and_then(|hash| hash.get(&call.args[2]))))
}

/// HMGET: the values in the order of the request, nil where there is none.
pub(super) fn hmget(call: &mut Call<'_>) -> Answer {
    let hash = call.database.store.view::<Hash>(call.key())?;
    let value = |field| Reply::maybe(hash.as_ref().and_then(|hash| hash.get(field)));
    Ok(Reply::Array(call.args.iter().skip(2).map(value).collect()))
}

/// HGETALL: a map.
pub(super) fn hgetall(call: &mut Call<'_>) -> Answer {
    let pairs = all(call)?.into_iter();
    let pairs = pairs.map(|(field, value)| (Reply::Bulk(field), Reply::Bulk(value)));
    Ok(Reply::Map(pairs.collect()))
}

/// HKEYS: the fields.
pub(super) fn hkeys(call: &mut Call<'_>) -> Answer {
    Ok(Reply::bulks(all(call)?.keys()))
}

/// HVALS: the values, in the order of the fields.
pub(super) fn hvals(call: &mut Call<'_>) -> Answer {
    Ok(Reply::bulks(all(call)?.values()))
}

/// HLEN: the number of fields.
pub(super) fn hlen(call: &mut Call<'_>) -> Answer {
    Ok(Reply::count(all(call)?.len()))
}

/// Returns a copy of the hash, empty if the key does not exist.
fn all(call: &mut Call<'_>) -> Result<Hash, Failure> {
    let hash = call.database.store.view::<Hash>(call.key())?;
    Ok(hash.cloned().unwrap_or_default())
}

/// HEXISTS: 1 or 0.
pub(super) fn hexists(call: &mut Call<'_>) -> Answer {
    let hash = call.database.store.view::<Hash>(call.key())?;
    let there = hash.is_some_and(|hash| hash.contains_key(&call.args[2]));
    Ok(Reply::Integer(there.into()))
}

/// HDEL: the number of fields removed.
pub(super) fn hdel(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    let Some(hash) = store.view::<Hash>(key)? else {
        return Ok(Reply::Integer(0));
    };
    let gone = call
        .args
        .iter()
        .skip(2)
        .filter(|field| hash.remove(*field).is_some());
    let gone = gone.count();
    // A command that changes nothing must not fail another client's EXEC.
    if gone > 0 {
        store.touched(key);
    }
    Ok(Reply::count(gone))
}

/// HINCRBY: the new number.
pub(super) fn hincrby(call: &mut Call<'_>) -> Answer {
    let by = integer(&call.args[3])?;
    let (key, field, store) = (call.key(), &call.args[2], &mut call.database.store);
    let old = store
        .view::<Hash>(key)?
        .and_then(|hash| hash.get(field).cloned());
    let old = old.map_or(Some(0), |old| exact::<i64>(&old));
    let old = old.ok_or(Failure::from("ERR hash value is not an integer"))?;
    let new = old.checked_add(by).ok_or(OVERFLOW)?;
    let hash = store.edit::<Hash>(key)?;
    hash.insert(field.clone(), new.to_string().into_bytes());
    store.touched(key);
    Ok(Reply::Integer(new))
}
