//! Expiry: EXPIRE, TTL, PERSIST and their variants.

use super::super::protocol::Reply;
use super::super::store::now_ms;
use super::{Answer, Call, Failure, integer, upper};

/// Meaning of a time in a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// From now on.
    Milliseconds,
    /// From now on.
    Seconds,
    /// Since 1970.
    UnixMilliseconds,
    /// Since 1970.
    UnixSeconds,
}

impl Unit {
    /// Returns the unit of an option of SET or GETEX.
    pub(super) fn of(word: &str) -> Option<Self> {
        Some(match word {
            "EX" => Self::Seconds,
            "EXAT" => Self::UnixSeconds,
            "PX" => Self::Milliseconds,
            "PXAT" => Self::UnixMilliseconds,
            _ => return None,
        })
    }

    /// Returns the time in milliseconds since 1970. The number given must be positive.
    pub(super) fn positive(self, call: &Call<'_>, time: &[u8]) -> Result<u64, Failure> {
        let at = self.at(call, integer(time)?)?;
        let positive = integer(time)? > 0;
        u64::try_from(at)
            .ok()
            .filter(|_| positive)
            .ok_or_else(|| call.invalid_expire())
    }

    /// Returns the time in milliseconds since 1970, which may be in the past.
    fn at(self, call: &Call<'_>, time: i64) -> Result<i64, Failure> {
        let ms = match self {
            Self::Seconds | Self::UnixSeconds => time.checked_mul(1000),
            Self::Milliseconds | Self::UnixMilliseconds => Some(time),
        };
        let at = match self {
            Self::Seconds | Self::Milliseconds => ms.and_then(|ms| ms.checked_add(now())),
            Self::UnixSeconds | Self::UnixMilliseconds => ms,
        };
        at.ok_or_else(|| call.invalid_expire())
    }
}

/// EXPIRE: 1 if the expiry was set, or 0.
pub(super) fn expire(call: &mut Call<'_>) -> Answer {
    expire_at(call, Unit::Seconds)
}

/// PEXPIRE: like EXPIRE, in milliseconds.
pub(super) fn pexpire(call: &mut Call<'_>) -> Answer {
    expire_at(call, Unit::Milliseconds)
}

/// EXPIREAT: like EXPIRE, at a time.
pub(super) fn expireat(call: &mut Call<'_>) -> Answer {
    expire_at(call, Unit::UnixSeconds)
}

/// PEXPIREAT: like EXPIRE, at a time in milliseconds.
pub(super) fn pexpireat(call: &mut Call<'_>) -> Answer {
    expire_at(call, Unit::UnixMilliseconds)
}

/// Sets the expiry of a key. A time in the past removes the key at once.
fn expire_at(call: &mut Call<'_>, unit: Unit) -> Answer {
    let condition = Condition::parse(call.rest(3))?;
    let at = unit.at(call, integer(&call.args[2])?)?;
    let (key, store) = (call.key(), &mut call.database.store);
    let Some(entry) = store.entry(key) else {
        return Ok(Reply::Integer(0));
    };
    if !condition.holds(entry.expires_at_ms, at) {
        return Ok(Reply::Integer(0));
    }
    // As in Redis: a time in the past deletes the key instead of setting an expiry.
    if at <= now() {
        store.remove(key);
        return Ok(Reply::Integer(1));
    }
    entry.expires_at_ms = u64::try_from(at).ok();
    store.touched(key);
    Ok(Reply::Integer(1))
}

/// Conditions of EXPIRE; all that are set must hold.
#[derive(Default)]
struct Condition {
    /// NX: the key has no expiry.
    if_none: bool,
    /// XX: the key has an expiry.
    if_some: bool,
    /// GT: the new expiry is later. A key without expiry never expires, so nothing is later.
    if_later: bool,
    /// LT: the new expiry is earlier.
    if_earlier: bool,
}

impl Condition {
    /// Parses the options of EXPIRE, and refuses those that exclude one another.
    fn parse(words: &[Vec<u8>]) -> Result<Self, Failure> {
        let mut condition = Self::default();
        for word in words {
            match upper(word).as_str() {
                "NX" => condition.if_none = true,
                "XX" => condition.if_some = true,
                "GT" => condition.if_later = true,
                "LT" => condition.if_earlier = true,
                _ => {
                    let word = String::from_utf8_lossy(word);
                    return Err(Failure::new(format!("ERR Unsupported option {word}")));
                }
            }
        }
        if condition.if_none && (condition.if_some || condition.if_later || condition.if_earlier) {
            return Err(
                "ERR NX and XX, GT or LT options at the same time are not compatible".into(),
            );
        }
        if condition.if_later && condition.if_earlier {
            return Err("ERR GT and LT options at the same time are not compatible".into());
        }
        Ok(condition)
    }

    /// True if the conditions hold for the current and the new expiry.
    fn holds(&self, current: Option<u64>, new: i64) -> bool {
        let current = current.map(|at| i64::try_from(at).unwrap_or(i64::MAX));
        !(self.if_none && current.is_some()
            || self.if_some && current.is_none()
            || self.if_later && current.is_none_or(|current| new <= current)
            || self.if_earlier && current.is_some_and(|current| new >= current))
    }
}

/// TTL: the seconds left, -1 without expiry, -2 without a key.
pub(super) fn ttl(call: &mut Call<'_>) -> Answer {
    time_of(call, now(), seconds)
}

/// PTTL: like TTL, in milliseconds.
pub(super) fn pttl(call: &mut Call<'_>) -> Answer {
    time_of(call, now(), |ms| ms)
}

/// EXPIRETIME: like TTL, since 1970.
pub(super) fn expiretime(call: &mut Call<'_>) -> Answer {
    time_of(call, 0, seconds)
}

/// PEXPIRETIME: like TTL, in milliseconds since 1970.
pub(super) fn pexpiretime(call: &mut Call<'_>) -> Answer {
    time_of(call, 0, |ms| ms)
}

/// Returns the expiry of a key, less `since`, in a unit.
fn time_of(call: &mut Call<'_>, since: i64, unit: fn(i64) -> i64) -> Answer {
    let entry = call.database.store.entry(call.key());
    Ok(Reply::Integer(
        // A key without expiry and no key at all are told apart by -1 and -2.
        match entry.map(|entry| entry.expires_at_ms) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) => unit((i64::try_from(at).unwrap_or(i64::MAX) - since).max(0)),
        },
    ))
}

/// Rounds milliseconds to seconds, as Redis does for TTL.
fn seconds(ms: i64) -> i64 {
    ms / 1000 + (ms % 1000 + 500) / 1000
}

/// PERSIST: 1 if the key had an expiry, or 0.
pub(super) fn persist(call: &mut Call<'_>) -> Answer {
    let (key, store) = (call.key(), &mut call.database.store);
    let expires = store
        .entry(key)
        .and_then(|entry| entry.expires_at_ms.take());
    if expires.is_none() {
        return Ok(Reply::Integer(0));
    }
    store.touched(key);
    Ok(Reply::Integer(1))
}

/// Returns the time in milliseconds since 1970, as a signed number.
fn now() -> i64 {
    i64::try_from(now_ms()).unwrap_or(i64::MAX)
}
