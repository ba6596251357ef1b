//! Copying the keys of a batch from its source to its target, clearing and comparing them.

use std::collections::HashSet;

use redis::Value;

use super::compare::{Clocks, Comparison, Expiry, compare};
use super::fault::{Fault, FaultKind};
use super::large::copy_large;
use super::link::{Link, Requests, bytes_of, text_of};
use crate::error::{Error, KeyText};
use crate::ops::clock::time_of;

/// Number of keys that are asked for at a time.
const CHUNK: usize = 128;

/// Number of bytes of values that are asked for at a time, as far as sizes are known.
const CHUNK_BYTES: u64 = 512 << 10;

/// Number of keys that are deleted by one command: more would stall the server.
const DELETED_AT_ONCE: usize = 100;

/// Number of keys whose expiries are compared at a time.
const COMPARED_AT_ONCE: usize = 500;

/// How far two readings of an expiry may differ where a server tells the time that is left, in milliseconds.
const TTL_SLACK: i64 = 5;

/// A name of a key.
pub(super) type Key = Box<[u8]>;

/// How the keys of a source are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// PEXPIRETIME, or else PTTL and TIME.
    pub(super) has_expiretime: bool,
    /// OBJECT FREQ, or else OBJECT IDLETIME.
    pub(super) counts_frequency: bool,
}

/// The keys of a batch, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct BatchKeys {
    pub(super) keys: Vec<Key>,
    /// Those that are copied element by element.
    pub(super) large: HashSet<Key>,
    /// Bytes of each key, as far as they are known.
    pub(super) sizes: std::collections::HashMap<Key, u64>,
}

/// Deletes keys, a hundred by one command.
pub(super) fn unlink<'k>(
    link: &mut Link,
    keys: impl Iterator<Item = &'k [u8]>,
) -> Result<(), Fault> {
    let keys: Vec<&[u8]> = keys.collect();
    // At most so many commands at a time, so that other clients have their turn.
    for group in keys.chunks(10 * DELETED_AT_ONCE) {
        let mut requests = Requests::default();
        for few in group.chunks(DELETED_AT_ONCE) {
            let mut args: Vec<&[u8]> = vec![b"UNLINK"];
            args.extend(few);
            requests.add(&args);
        }
        for reply in link.exchange(&requests)? {
            link.checked(reply)?;
        }
    }
    Ok(())
}

/// Copies keys. Returns the number of bytes that were sent to the target.
pub(super) fn copy(
    source: &mut Link,
    target: &mut Link,
    batch: &BatchKeys,
    reading: Reading,
) -> Result<u64, Fault> {
    let mut bytes = 0;
    let small: Vec<&Key> = batch
        .keys
        .iter()
        .filter(|key| !batch.large.contains(*key))
        .collect();
    let mut chunks = chunks(&small, &batch.sizes).into_iter();
    let mut asked = chunks.next();
    if let Some(chunk) = asked {
        source.send(&questions(chunk, reading))?;
    }
    let mut due: Option<(&[&Key], usize)> = None;
    while let Some(chunk) = asked {
        let replies = source.receive(questions(chunk, reading).count())?;
        // The source works on the next keys while the target takes these.
        asked = chunks.next();
        if let Some(next) = asked {
            source.send(&questions(next, reading))?;
        }
        let restores = restores(source, chunk, replies, reading)?;
        if let Some((keys, count)) = due.take() {
            restored(target, keys, count)?;
        }
        bytes += restores.bytes() as u64;
        target.send(&restores)?;
        due = Some((chunk, restores.count()));
    }
    if let Some((keys, count)) = due {
        restored(target, keys, count)?;
    }
    for key in batch.keys.iter().filter(|key| batch.large.contains(*key)) {
        bytes += copy_large(source, target, key, reading)?;
    }
    Ok(bytes)
}

/// Compares the keys and expiries of both nodes, and deletes at the target what has expired at the source meanwhile.
pub(super) fn verify(
    source: &mut Link,
    target: &mut Link,
    keys: &[Key],
    has_expiretime: bool,
) -> Result<(), Fault> {
    let slack = if has_expiretime { 0 } else { TTL_SLACK };
    for keys in keys.chunks(COMPARED_AT_ONCE) {
        let (now, at_source) = expiries(source, keys, has_expiretime)?;
        let (there, at_target) = expiries(target, keys, has_expiretime)?;
        let clocks = Clocks {
            source: now,
            target: there,
        };
        let mut expired = Vec::new();
        for (key, (one, other)) in keys.iter().zip(at_source.into_iter().zip(at_target)) {
            match compare(one, other, clocks, slack) {
                Comparison::Same => {}
                Comparison::Expired => expired.push(&**key),
                Comparison::Different => {
                    let text = format!("the copy of the key {} differs", KeyText(key));
                    return Err(Fault::broken(target.node(), text));
                }
            }
        }
        unlink(target, expired.into_iter())?;
    }
    Ok(())
}

/// When one key expires.
pub(super) fn expiry(link: &mut Link, key: &[u8], has_expiretime: bool) -> Result<Expiry, Fault> {
    let (_, expiries) = expiries(link, &[key.into()], has_expiretime)?;
    expiries.first().copied().ok_or_else(|| link.unexpected())
}

/// The time at a server, and when keys expire there.
fn expiries(
    link: &mut Link,
    keys: &[Key],
    has_expiretime: bool,
) -> Result<(i64, Vec<Expiry>), Fault> {
    let mut requests = Requests::default();
    requests.words(&["MULTI"]);
    requests.words(&["TIME"]);
    let question: &[u8] = if has_expiretime {
        b"PEXPIRETIME"
    } else {
        b"PTTL"
    };
    for key in keys {
        requests.add(&[question, key]);
    }
    requests.words(&["EXEC"]);
    let last = link.exchange(&requests)?.pop().unwrap_or(Value::Nil);
    let Value::Array(items) = link.checked(last)? else {
        return Err(link.unexpected());
    };
    let mut items = items.into_iter();
    let now = items.next().as_ref().and_then(time_of);
    let now = now.ok_or_else(|| link.unexpected())?;
    let expiry = |reply: Value| match (link.checked(reply)?, has_expiretime) {
        (Value::Int(at), true) => Ok(Expiry::of_pexpiretime(at)),
        (Value::Int(left), false) => Ok(Expiry::of_pttl(left, now)),
        _ => Err(link.unexpected()),
    };
    Ok((now, items.map(expiry).collect::<Result<_, _>>()?))
}

/// Divides keys by their number and their bytes.
fn chunks<'k, 'c>(
    keys: &'c [&'k Key],
    sizes: &std::collections::HashMap<Key, u64>,
) -> Vec<&'c [&'k Key]> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, key) in keys.iter().enumerate() {
        let size = sizes.get(*key).copied().unwrap_or_default();
        if at > start && (at - start >= CHUNK || bytes + size > CHUNK_BYTES) {
            chunks.extend(keys.get(start..at));
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    chunks.extend(keys.get(start..).filter(|rest| !rest.is_empty()));
    chunks
}

/// Asks for keys. Idle time or frequency comes first, as DUMP resets it.
fn questions(keys: &[&Key], reading: Reading) -> Requests {
    let mut requests = Requests::default();
    let age: &[u8] = if reading.counts_frequency {
        b"FREQ"
    } else {
        b"IDLETIME"
    };
    for key in keys {
        requests.add(&[b"OBJECT", age, key]);
        match reading.has_expiretime {
            true => requests.add(&[b"PEXPIRETIME", key]),
            false => {
                requests.words(&["MULTI"]);
                requests.add(&[b"PTTL", key]);
                requests.words(&["TIME"]);
                requests.words(&["EXEC"]);
            }
        }
        requests.add(&[b"DUMP", key]);
    }
    requests
}

/// The requests that make the keys at the target, from the replies to [`questions`].
fn restores(
    source: &Link,
    keys: &[&Key],
    replies: Vec<Value>,
    reading: Reading,
) -> Result<Requests, Fault> {
    let mut requests = Requests::default();
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Value::Nil);
    for key in keys {
        // Errors where another policy is in force by now: the key is copied without it.
        let age = text_of(&next());
        let expiry = match reading.has_expiretime {
            true => match source.checked(next())? {
                Value::Int(at) => Expiry::of_pexpiretime(at),
                _ => return Err(source.unexpected()),
            },
            false => {
                let _queued = [next(), next(), next()];
                expiry_of_exec(&source.checked(next())?).ok_or_else(|| source.unexpected())?
            }
        };
        let dump = match source.checked(next())? {
            Value::BulkString(dump) => dump,
            // Deleted before the closure, or expired.
            Value::Nil => continue,
            _ => return Err(source.unexpected()),
        };
        let Some(ttl) = expiry.absttl() else {
            continue;
        };
        let ttl = ttl.to_string();
        let mut args: Vec<&[u8]> = vec![b"RESTORE", key, ttl.as_bytes(), &dump, b"ABSTTL"];
        if let Some(age) = &age {
            args.push(if reading.counts_frequency {
                b"FREQ"
            } else {
                b"IDLETIME"
            });
            args.push(age.as_bytes());
        }
        requests.add(&args);
    }
    Ok(requests)
}

/// The expiry from the reply to MULTI, PTTL, TIME, EXEC.
fn expiry_of_exec(reply: &Value) -> Option<Expiry> {
    match reply {
        Value::Array(items) => match (items.first()?, items.get(1)?) {
            (Value::Int(pttl), time) => Some(Expiry::of_pttl(*pttl, time_of(time)?)),
            _ => None,
        },
        _ => None,
    }
}

/// Reads the replies to RESTORE.
fn restored(target: &mut Link, keys: &[&Key], count: usize) -> Result<(), Fault> {
    for reply in target.receive(count)? {
        if let Value::ServerError(error) = &reply {
            let first = keys
                .first()
                .map(|key| KeyText(key).to_string())
                .unwrap_or_default();
            let remedy = match error.code() {
                "OOM" => "; give it more memory",
                "BUSYKEY" => "; it has keys that no client of the fleet has written",
                _ => {
                    "; a server that is older than the source, or lacks a module, cannot take its keys"
                }
            };
            let said = error.details().unwrap_or_default();
            let text = format!(
                "node {:?} does not take one of the keys from {first} on: {} {said}{remedy}",
                target.node(),
                error.code()
            );
            return Err(Fault {
                kind: FaultKind::Refused,
                error: Error::config(text).at_node(target.node()),
            });
        }
    }
    Ok(())
}

/// The number of bytes of each key, by MEMORY USAGE.
pub(super) fn sizes(link: &mut Link, keys: &[Key]) -> Result<Vec<u64>, Fault> {
    let mut sizes = Vec::with_capacity(keys.len());
    for keys in keys.chunks(1000) {
        let mut requests = Requests::default();
        for key in keys {
            requests.add(&[b"MEMORY", b"USAGE", key]);
        }
        let replies = link.exchange(&requests)?;
        sizes.extend(replies.into_iter().map(|reply| match reply {
            Value::Int(bytes) => bytes.unsigned_abs(),
            // Gone, or the user may not ask.
            _ => 0,
        }));
    }
    Ok(sizes)
}

/// The bytes of an item of a reply, empty if it has none.
pub(super) fn item(value: Value) -> Vec<u8> {
    bytes_of(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_asked_for_in_chunks_of_bounded_size() {
        let keys: Vec<Key> = (0..300)
            .map(|i| format!("k{i}").into_bytes().into())
            .collect();
        let few: Vec<&Key> = keys.iter().collect();
        let lengths = |sizes: &std::collections::HashMap<Key, u64>, keys: &[&Key]| -> Vec<usize> {
            chunks(keys, sizes)
                .iter()
                .map(|chunk| chunk.len())
                .collect()
        };
        assert_eq!(lengths(&Default::default(), &few), [128, 128, 44]);
        assert!(lengths(&Default::default(), &[]).is_empty());
        let sizes = few
            .iter()
            .map(|key| ((*key).clone(), CHUNK_BYTES / 2))
            .collect();
        assert_eq!(lengths(&sizes, &few[..5]), [2, 2, 1]);
        // One that is larger than a chunk goes alone.
        let sizes = few
            .iter()
            .map(|key| ((*key).clone(), 2 * CHUNK_BYTES))
            .collect();
        assert_eq!(lengths(&sizes, &few[..2]), [1, 1]);
    }

    #[test]
    fn idle_time_is_asked_for_before_the_value() {
        let key: Key = b"k".as_slice().into();
        let reading = |has_expiretime, counts_frequency| Reading {
            has_expiretime,
            counts_frequency,
        };
        let new = questions(&[&key], reading(true, false));
        assert_eq!(new.count(), 3);
        let old = questions(&[&key], reading(false, true));
        assert_eq!(old.count(), 6);
    }
}
