//! Strings that hold numbers: INCR, DECRBY, INCRBYFLOAT and the like.

use super::super::protocol::Reply;
use super::super::store::Text;
use super::{Answer, Call, Failure, float, float_text, integer};

/// INCR: returns the new number.
pub(super) fn incr(call: &mut Call<'_>) -> Answer {
    add(call, 1)
}

/// DECR: returns the new number.
pub(super) fn decr(call: &mut Call<'_>) -> Answer {
    add(call, -1)
}

/// INCRBY: returns the new number.
pub(super) fn incrby(call: &mut Call<'_>) -> Answer {
    let by = integer(&call.args[2])?;
    add(call, by)
}

/// DECRBY: returns the new number. The smallest integer has no negative, so it is refused.
pub(super) fn decrby(call: &mut Call<'_>) -> Answer {
    let by = integer(&call.args[2])?;
    let by = by
        .checked_neg()
        .ok_or(Failure::from("ERR decrement would overflow"))?;
    add(call, by)
}

/// Adds to the number at a key, which is 0 if it does not exist. Its expiry is kept.
fn add(call: &mut Call<'_>, by: i64) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    // Read by `view`, not `edit`: an error must leave no empty key behind.
    let old = store
        .view::<Text>(key)?
        .map_or(Ok(0), |text| integer(text))?;
    let new = old.checked_add(by).ok_or(OVERFLOW)?;
    *store.edit::<Text>(key)? = new.to_string().into_bytes();
    store.touched(key);
    Ok(Reply::Integer(new))
}

/// The error for a sum beyond 64 bits.
pub(super) const OVERFLOW: Failure = Failure::fixed("ERR increment or decrement would overflow");

/// INCRBYFLOAT: returns the new number as a string.
pub(super) fn incrbyfloat(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    let old = store
        .view::<Text>(key)?
        .map_or(Some(0.0), |text| float(text));
    let new = old.zip(float(&call.args[2])).map(|(old, by)| old + by);
    let new = new.ok_or(Failure::NOT_FLOAT)?;
    if !new.is_finite() {
        return Err("ERR increment would produce NaN or Infinity".into());
    }
    let text = float_text(new);
    store.edit::<Text>(key)?.clone_from(&text);
    store.touched(key);
    Ok(Reply::Bulk(text))
}
