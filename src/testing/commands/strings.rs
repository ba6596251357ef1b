//! Strings: GET, SET with its options, MSET, APPEND, GETRANGE and the like.

use super::super::protocol::Reply;
use super::super::store::{Text, Value};
use super::expiry::Unit;
use super::{Answer, Call, Failure, integer, slice, upper};

/// Maximum length of a string in bytes. As in Redis.
const STRING_MAX: usize = 512 * 1024 * 1024;

/// GET: the value, or nil.
pub(super) fn get(call: &mut Call<'_>) -> Answer {
    let text = call.database.store.view::<Text>(call.key())?;
    Ok(Reply::maybe(text.map(|text| &*text)))
}

/// SET: OK, nil if NX or XX refuses, with GET the old value.
pub(super) fn set(call: &mut Call<'_>) -> Answer {
    let options = SetOptions::parse(call)?;
    let (key, store) = (call.key(), &mut call.database.store);
    // Read first: with GET, a key of another type is an error, and nothing is set.
    let old = match options.returns_old {
        true => Some(store.view::<Text>(key)?.cloned()),
        false => None,
    };
    // After `view`, which may have removed an expired key.
    let existing = store.entry(key).map(|entry| entry.expires_at_ms);
    let refused = match options.condition {
        Condition::Always => false,
        Condition::IfExists => existing.is_none(),
        Condition::IfMissing => existing.is_some(),
    };
    if !refused {
        let expires = match options.keeps_ttl {
            true => existing.flatten(),
            false => options.expires_at_ms,
        };
        store.put(key, Value::Text(call.args[2].clone()), expires);
    }
    Ok(match old {
        Some(old) => Reply::maybe(old.as_ref()),
        None if refused => Reply::Nil,
        None => Reply::OK,
    })
}

/// Condition under which SET sets.
#[derive(Default)]
enum Condition {
    /// No condition.
    #[default]
    Always,
    /// XX.
    IfExists,
    /// NX.
    IfMissing,
}

/// What happens to the expiry of the key.
#[derive(Default)]
enum Expiry<'a> {
    /// No option was given: SET removes it, GETEX leaves it.
    #[default]
    Unsaid,
    /// KEEPTTL of SET.
    Keep,
    /// PERSIST of GETEX.
    Persist,
    /// EX, PX, EXAT or PXAT with its argument, parsed only when all options are known.
    At(Unit, &'a [u8]),
}

impl<'a> Expiry<'a> {
    /// Takes an option of SET or GETEX. As in Redis it may be repeated, the last one counting, and excludes
    /// all others.
    fn take(
        &mut self,
        word: &str,
        words: &mut std::slice::Iter<'a, Vec<u8>>,
    ) -> Result<(), Failure> {
        let unit = Unit::of(word).ok_or(Failure::SYNTAX)?;
        match self {
            Self::Unsaid => {}
            Self::At(before, _) if *before == unit => {}
            Self::At(..) | Self::Keep | Self::Persist => return Err(Failure::SYNTAX),
        }
        *self = Self::At(unit, words.next().ok_or(Failure::SYNTAX)?);
        Ok(())
    }
}

/// The options of SET.
#[derive(Default)]
struct SetOptions {
    condition: Condition,
    returns_old: bool,
    keeps_ttl: bool,
    expires_at_ms: Option<u64>,
}

impl SetOptions {
    /// Parses the options of SET, in any order.
    fn parse(call: &Call<'_>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut expiry = Expiry::default();
        let mut words = call.rest(3).iter();
        while let Some(word) = words.next() {
            match (upper(word).as_str(), &options.condition, &expiry) {
                ("NX", Condition::Always | Condition::IfMissing, _) => {
                    options.condition = Condition::IfMissing
                }
                ("XX", Condition::Always | Condition::IfExists, _) => {
                    options.condition = Condition::IfExists
                }
                ("GET", _, _) => options.returns_old = true,
                ("KEEPTTL", _, Expiry::Unsaid | Expiry::Keep) => expiry = Expiry::Keep,
                (word, _, _) => expiry.take(word, &mut words)?,
            }
        }
        match expiry {
            Expiry::At(unit, time) => options.expires_at_ms = Some(unit.positive(call, time)?),
            Expiry::Keep => options.keeps_ttl = true,
            Expiry::Unsaid | Expiry::Persist => {}
        }
        Ok(options)
    }
}

/// SETNX: 1 if the key was set, or 0.
pub(super) fn setnx(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    if store.contains(key) {
        return Ok(Reply::Integer(0));
    }
    store.put(key, Value::Text(call.args[2].clone()), None);
    Ok(Reply::Integer(1))
}

/// SETEX: OK.
pub(super) fn setex(call: &mut Call<'_>) -> Answer {
    set_expiring(call, Unit::Seconds)
}

/// PSETEX: OK.
pub(super) fn psetex(call: &mut Call<'_>) -> Answer {
    set_expiring(call, Unit::Milliseconds)
}

/// Sets a key with an expiry, which must be positive.
fn set_expiring(call: &mut Call<'_>, unit: Unit) -> Answer {
    let expires = unit.positive(call, &call.args[2])?;
    let value = Value::Text(call.args[3].clone());
    call.database.store.put(call.key(), value, Some(expires));
    Ok(Reply::OK)
}

/// GETSET: the old value, or nil. The expiry is removed.
pub(super) fn getset(call: &mut Call<'_>) -> Answer {
    let old = get(call)?;
    let value = Value::Text(call.args[2].clone());
    call.database.store.put(call.key(), value, None);
    Ok(old)
}

/// GETDEL: the value, which is removed, or nil.
pub(super) fn getdel(call: &mut Call<'_>) -> Answer {
    let old = get(call)?;
    call.database.store.remove(call.key());
    Ok(old)
}

/// GETEX: the value, or nil. Only a change of the expiry counts as a change of the key.
pub(super) fn getex(call: &mut Call<'_>) -> Answer {
    let mut expiry = Expiry::default();
    let mut words = call.rest(2).iter();
    while let Some(word) = words.next() {
        match (upper(word).as_str(), &expiry) {
            ("PERSIST", Expiry::Unsaid | Expiry::Persist) => expiry = Expiry::Persist,
            (word, _) => expiry.take(word, &mut words)?,
        }
    }
    let old = get(call)?;
    let expires = match expiry {
        // Without a key the time is not parsed, so a wrong one is no error, as in Redis.
        Expiry::At(unit, time) if old != Reply::Nil => Some(Some(unit.positive(call, time)?)),
        Expiry::Persist => Some(None),
        Expiry::At(..) | Expiry::Keep | Expiry::Unsaid => None,
    };
    let (key, store) = (call.key(), &mut call.database.store);
    if let (Some(expires), Some(entry)) = (expires, store.entry(key)) {
        let changes = entry.expires_at_ms != expires;
        entry.expires_at_ms = expires;
        if changes {
            store.touched(key);
        }
    }
    Ok(old)
}

/// MGET: the values in the order of the request, nil where there is none.
pub(super) fn mget(call: &mut Call<'_>) -> Answer {
    let store = &mut call.database.store;
    let mut values = Vec::new();
    for key in call.args.iter().skip(1) {
        // A key of another type counts as missing here.
        let text = store.view::<Text>(key).unwrap_or_default();
        values.push(Reply::maybe(text.map(|text| &*text)));
    }
    Ok(Reply::Array(values))
}

/// MSET: OK.
pub(super) fn mset(call: &mut Call<'_>) -> Answer {
    if call.args.len().is_multiple_of(2) {
        return Err(call.wrong_arity());
    }
    for pair in call.rest(1).chunks_exact(2) {
        let value = Value::Text(pair[1].clone());
        call.database.store.put(&pair[0], value, None);
    }
    Ok(Reply::OK)
}

/// MSETNX: 1 if all keys were set, or 0 if any exists.
pub(super) fn msetnx(call: &mut Call<'_>) -> Answer {
    if call.args.len().is_multiple_of(2) {
        return Err(call.wrong_arity());
    }
    let store = &mut call.database.store;
    if call.args[1..]
        .iter()
        .step_by(2)
        .any(|key| store.contains(key))
    {
        return Ok(Reply::Integer(0));
    }
    mset(call)?;
    Ok(Reply::Integer(1))
}

/// APPEND: the new length.
pub(super) fn append(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    let length = store.view::<Text>(key)?.map_or(0, |text| text.len());
    if length + call.args[2].len() > STRING_MAX {
        return Err(Failure::TOO_LONG);
    }
    let text = store.edit::<Text>(key)?;
    text.extend_from_slice(&call.args[2]);
    let length = text.len();
    store.touched(key);
    Ok(Reply::count(length))
}

/// STRLEN: the length, 0 without a key.
pub(super) fn strlen(call: &mut Call<'_>) -> Answer {
    let text = call.database.store.view::<Text>(call.key())?;
    Ok(Reply::count(text.map_or(0, |text| text.len())))
}

/// GETRANGE: the bytes between two positions, both included.
pub(super) fn getrange(call: &mut Call<'_>) -> Answer {
    let (start, end) = (integer(&call.args[2])?, integer(&call.args[3])?);
    let text = call.database.store.view::<Text>(call.key())?;
    let text = text.map(|text| &text[..]).unwrap_or_default();
    // Two negative ends in the wrong order give nothing, although each alone would be cut to the first byte.
    let backwards = start < 0 && end < 0 && start > end;
    let end = end.max(-i64::try_from(text.len()).unwrap_or(i64::MAX));
    let range = slice(start, end, text.len()).filter(|_| !backwards);
    Ok(Reply::Bulk(
        range.map(|range| text[range].to_vec()).unwrap_or_default(),
    ))
}

/// SETRANGE: the new length. A gap is filled with zero bytes; nothing to write changes nothing.
pub(super) fn setrange(call: &mut Call<'_>) -> Answer {
    let offset = integer(&call.args[2])?;
    let offset =
        usize::try_from(offset).map_err(|_| Failure::from("ERR offset is out of range"))?;
    let (key, bytes, store) = (call.key(), &call.args[3], &mut call.database.store);
    let length = store.view::<Text>(key)?.map_or(0, |text| text.len());
    // Before the offset is checked against the maximum, as in Redis: nothing is written.
    if bytes.is_empty() {
        return Ok(Reply::count(length));
    }
    let end = offset
        .checked_add(bytes.len())
        .filter(|&end| end <= STRING_MAX);
    let end = end.ok_or(Failure::TOO_LONG)?;
    let text = store.edit::<Text>(key)?;
    text.resize(length.max(end), 0);
    text[offset..end].copy_from_slice(bytes);
    store.touched(key);
    Ok(Reply::count(length.max(end)))
}
