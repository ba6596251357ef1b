//! Keys of any type.

use super::super::glob;
use super::super::protocol::Reply;
use super::{Answer, Call, Failure, exact, integer, lower, upper};

pub(super) fn del(call: &mut Call<'_>) -> Answer {
    let store = &mut call.database.store;
    let gone = call
        .args
        .iter()
        .skip(1)
        .filter(|key| store.remove(key).is_some());
    Ok(Reply::count(gone.count()))
}

/// EXISTS and TOUCH: a key that is named twice counts twice.
pub(super) fn exists(call: &mut Call<'_>) -> Answer {
    let store = &mut call.database.store;
    let there = call.args.iter().skip(1).filter(|key| store.contains(key));
    Ok(Reply::count(there.count()))
}

pub(super) fn kind(call: &mut Call<'_>) -> Answer {
    let entry = call.database.store.entry(call.key());
    Ok(Reply::Status(
        entry.map_or("none", |entry| entry.value.kind()),
    ))
}

pub(super) fn rename(call: &mut Call<'_>) -> Answer {
    let (from, to, store) = (call.key(), &call.args[2], &mut call.database.store);
    if !store.contains(from) {
        return Err(Failure::NO_SUCH_KEY);
    }
    if from != to
        && let Some(entry) = store.remove(from)
    {
        store.put(to, entry.value, entry.expires_at_ms);
    }
    Ok(Reply::OK)
}

pub(super) fn renamenx(call: &mut Call<'_>) -> Answer {
    let (from, to, store) = (call.key(), &call.args[2], &mut call.database.store);
    if store.contains(from) && store.contains(to) {
        return Ok(Reply::Integer(0));
    }
    rename(call)?;
    Ok(Reply::Integer(1))
}

pub(super) fn keys(call: &mut Call<'_>) -> Answer {
    let keys = call.database.store.keys();
    let matching = keys.iter().filter(|key| glob::matches(call.key(), key));
    Ok(Reply::bulks(matching))
}

pub(super) fn dbsize(call: &mut Call<'_>) -> Answer {
    Ok(Reply::count(call.database.store.len()))
}

pub(super) fn flush(call: &mut Call<'_>) -> Answer {
    match call.rest(1) {
        [] => {}
        [mode] if matches!(upper(mode).as_str(), "ASYNC" | "SYNC") => {}
        _ => return Err(Failure::SYNTAX),
    }
    call.database.store.clear();
    Ok(Reply::OK)
}

pub(super) fn randomkey(call: &mut Call<'_>) -> Answer {
    let keys = call.database.store.keys();
    // Random enough for a test: the clock.
    let chosen = super::super::store::now_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let position = usize::try_from(chosen).unwrap_or(0) % keys.len().max(1);
    Ok(Reply::maybe(keys.get(position)))
}

pub(super) fn scan(call: &mut Call<'_>) -> Answer {
    let cursor: u64 = exact(call.key()).ok_or(Failure::from("ERR invalid cursor"))?;
    let (mut pattern, mut count, mut kind) = (&b"*"[..], 10, None);
    for option in call.rest(2).chunks(2) {
        // An option without its value is found out last: the first mistake counts.
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
    let keys = keys.iter().filter(|(key, is)| {
        let fits = kind.as_ref().is_none_or(|kind| kind == is);
        fits && glob::matches(pattern, key)
    });
    Ok(Reply::Array(vec![
        Reply::text(next.to_string()),
        Reply::bulks(keys.map(|(key, _)| key)),
    ]))
}
