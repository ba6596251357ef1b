//! Keys of any type: DEL, EXISTS, RENAME, KEYS, SCAN and the like.

use super::super::protocol::Reply;
use super::{Answer, Call, Failure, exact, integer, lower, upper};
use crate::plan::glob_matches;

/// DEL and UNLINK: the number of keys removed.
pub(super) fn del(call: &mut Call<'_>) -> Answer {
    let store = &mut call.database.store;
    let gone = call
        .args
        .iter()
        .skip(1)
        .filter(|key| store.remove(key).is_some());
    Ok(Reply::count(gone.count()))
}

/// EXISTS and TOUCH: the number of keys that exist; one that is given twice counts twice.
pub(super) fn exists(call: &mut Call<'_>) -> Answer {
    let store = &mut call.database.store;
    let there = call.args.iter().skip(1).filter(|key| store.contains(key));
    Ok(Reply::count(there.count()))
}

/// TYPE: the name of the type, `none` without a key.
pub(super) fn kind(call: &mut Call<'_>) -> Answer {
    let entry = call.database.store.entry(call.key());
    Ok(Reply::Status(
        entry.map_or("none", |entry| entry.value.kind()),
    ))
}

/// RENAME: the key takes its expiry along.
pub(super) fn rename(call: &mut Call<'_>) -> Answer {
    let (from, to, store) = (call.key(), &call.args[2], &mut call.database.store);
    if !store.contains(from) {
        return Err(Failure::NO_SUCH_KEY);
    }
    // RENAME of a key to itself changes nothing, but the key must exist.
    if from != to
        && let Some(entry) = store.remove(from)
    {
        store.put(to, entry.value, entry.expires_at_ms);
    }
    Ok(Reply::OK)
}

/// RENAMENX: 1, or 0 if the new key exists.
pub(super) fn renamenx(call: &mut Call<'_>) -> Answer {
    let (from, to, store) = (call.key(), &call.args[2], &mut call.database.store);
    // Without the old key the error is that of `rename`.
    if store.contains(from) && store.contains(to) {
        return Ok(Reply::Integer(0));
    }
    rename(call)?;
    Ok(Reply::Integer(1))
}

/// KEYS: all keys that match a pattern.
pub(super) fn keys(call: &mut Call<'_>) -> Answer {
    let keys = call.database.store.keys();
    let matching = keys.iter().filter(|key| glob_matches(call.key(), key));
    Ok(Reply::bulks(matching))
}

/// DBSIZE: the number of keys.
pub(super) fn dbsize(call: &mut Call<'_>) -> Answer {
    Ok(Reply::count(call.database.store.len()))
}

/// FLUSHALL and FLUSHDB, which are the same with one database.
pub(super) fn flush(call: &mut Call<'_>) -> Answer {
    match call.rest(1) {
        [] => {}
        [mode] if matches!(upper(mode).as_str(), "ASYNC" | "SYNC") => {}
        _ => return Err(Failure::SYNTAX),
    }
    call.database.store.clear();
    Ok(Reply::OK)
}

/// RANDOMKEY: a key, or nil.
pub(super) fn randomkey(call: &mut Call<'_>) -> Answer {
    let keys = call.database.store.keys();
    // The clock is random enough for a test.
    let chosen = super::super::store::now_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let position = usize::try_from(chosen).unwrap_or(0) % keys.len().max(1);
    Ok(Reply::maybe(keys.get(position)))
}

/// SCAN: the next cursor, and keys filtered by pattern and type.
pub(super) fn scan(call: &mut Call<'_>) -> Answer {
    let cursor: u64 = exact(call.key()).ok_or(Failure::from("ERR invalid cursor"))?;
    let (mut pattern, mut count, mut kind) = (&b"*"[..], 10, None);
    for option in call.rest(2).chunks(2) {
        // An option without a value is found last: the first mistake decides about the error, as in Redis.
        let [name, value] = option else {
            return Err(Failure::SYNTAX);
        };
        match upper(name).as_str() {
            "COUNT" => count = integer(value)?,
            "MATCH" => pattern = value,
            "TYPE" => kind = Some(lower(value)),
            _ => return Err(Failure::SYNTAX),
        }
        if count < 1 {
            return Err(Failure::SYNTAX);
        }
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (next, keys) = call.database.store.page(cursor, count);
    // Filtered after the page was cut, so a page may be empty before the end, as in Redis.
    let keys = keys.iter().filter(|(key, is)| {
        let fits = kind.as_ref().is_none_or(|kind| kind == is);
        fits && glob_matches(pattern, key)
    });
    Ok(Reply::Array(vec![
        Reply::text(next.to_string()),
        Reply::bulks(keys.map(|(key, _)| key)),
    ]))
}
