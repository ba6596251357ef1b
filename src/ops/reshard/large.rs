//! Copying one large key element by element, so that no server is blocked by it.

use redis::Value;

use super::copy::{Reading, expiry, item};
use super::fault::Fault;
use super::link::{Link, Requests, items_of, text_of};
use crate::error::KeyText;

/// Number of bytes of a string that are copied at a time.
const STRING_BYTES: usize = 1 << 20;

/// Number of elements that are copied at a time.
const ELEMENTS: &str = "500";

/// [`ELEMENTS`] as a number.
const ELEMENTS_COUNT: usize = 500;

/// How the elements of a type are read and written.
struct Elements {
    /// The command that returns some elements and a cursor.
    scan: &'static str,
    /// The command that adds elements.
    add: &'static str,
    /// The command that counts elements.
    count: &'static str,
}

/// Copies a key whose units are closed. The key must not exist at the target. Returns the number of bytes sent there.
///
/// Streams, and the types of modules, are copied whole.
pub(super) fn copy_large(
    source: &mut Link,
    target: &mut Link,
    key: &[u8],
    reading: Reading,
) -> Result<u64, Fault> {
    let Some(expires) = expiry(source, key, reading.has_expiretime)?.absttl() else {
        return Ok(0);
    };
    let kind = source.call(&[b"TYPE", key])?;
    let kind = text_of(&kind).unwrap_or_default();
    let sent = match &*kind {
        "string" => string(source, target, key)?,
        "list" => list(source, target, key)?,
        "hash" => elements(
            source,
            target,
            key,
            &Elements {
                scan: "HSCAN",
                add: "HSET",
                count: "HLEN",
            },
        )?,
        "set" => elements(
            source,
            target,
            key,
            &Elements {
                scan: "SSCAN",
                add: "SADD",
                count: "SCARD",
            },
        )?,
        "zset" => elements(
            source,
            target,
            key,
            &Elements {
                scan: "ZSCAN",
                add: "ZADD",
                count: "ZCARD",
            },
        )?,
        "none" => return Ok(0),
        _ => return whole(source, target, key, expires),
    };
    if expires != 0 {
        target.call(&[b"PEXPIREAT", key, expires.to_string().as_bytes()])?;
    }
    Ok(sent)
}

/// Copies a key by DUMP and RESTORE.
fn whole(source: &mut Link, target: &mut Link, key: &[u8], expires: i64) -> Result<u64, Fault> {
    match source.call(&[b"DUMP", key])? {
        Value::BulkString(dump) => {
            target.call(&[
                b"RESTORE",
                key,
                expires.to_string().as_bytes(),
                &dump,
                b"ABSTTL",
            ])?;
            Ok(dump.len() as u64)
        }
        _ => Ok(0),
    }
}

fn string(source: &mut Link, target: &mut Link, key: &[u8]) -> Result<u64, Fault> {
    let length = source.integer(&[b"STRLEN", key])?.unsigned_abs() as usize;
    for start in (0..length).step_by(STRING_BYTES) {
        let end = start + STRING_BYTES - 1;
        let (start, end) = (start.to_string(), end.to_string());
        let part = source.call(&[b"GETRANGE", key, start.as_bytes(), end.as_bytes()])?;
        target.call(&[b"APPEND", key, &item(part)])?;
    }
    check_count(source, target, key, "STRLEN")?;
    Ok(length as u64)
}

fn list(source: &mut Link, target: &mut Link, key: &[u8]) -> Result<u64, Fault> {
    let (mut bytes, mut start) = (0, 0);
    loop {
        let end = (start + ELEMENTS_COUNT - 1).to_string();
        let part = source.call(&[b"LRANGE", key, start.to_string().as_bytes(), end.as_bytes()])?;
        let part = items_of(part).ok_or_else(|| source.unexpected())?;
        if part.is_empty() {
            break;
        }
        start += part.len();
        bytes += add(
            target,
            "RPUSH",
            key,
            &part.into_iter().map(item).collect::<Vec<_>>(),
        )?;
    }
    check_count(source, target, key, "LLEN")?;
    Ok(bytes)
}

/// Copies a hash, a set or a sorted set. An element that SCAN returns twice is written twice, which changes nothing.
fn elements(
    source: &mut Link,
    target: &mut Link,
    key: &[u8],
    rule: &Elements,
) -> Result<u64, Fault> {
    let (mut bytes, mut cursor) = (0, "0".to_owned());
    loop {
        let scan = [
            rule.scan.as_bytes(),
            key,
            cursor.as_bytes(),
            b"COUNT",
            ELEMENTS.as_bytes(),
        ];
        let reply = items_of(source.call(&scan)?).unwrap_or_default();
        let mut reply = reply.into_iter();
        let next = reply.next().and_then(|cursor| text_of(&cursor));
        let part = reply.next().and_then(items_of).unwrap_or_default();
        let mut part: Vec<Vec<u8>> = part.into_iter().map(item).collect();
        if rule.scan == "ZSCAN" {
            // Members come before scores there, and behind them in ZADD.
            part.chunks_exact_mut(2).for_each(|pair| pair.reverse());
        }
        if !part.is_empty() {
            bytes += add(target, rule.add, key, &part)?;
        }
        if rule.scan == "HSCAN" {
            field_expiries(source, target, key, &part)?;
        }
        cursor = next.ok_or_else(|| source.unexpected())?;
        if cursor == "0" {
            break;
        }
    }
    check_count(source, target, key, rule.count)?;
    Ok(bytes)
}

/// Copies when fields of a hash expire, which newer servers know.
fn field_expiries(
    source: &mut Link,
    target: &mut Link,
    key: &[u8],
    part: &[Vec<u8>],
) -> Result<(), Fault> {
    let fields: Vec<&[u8]> = part
        .chunks_exact(2)
        .filter_map(|pair| pair.first().map(|field| &**field))
        .collect();
    if fields.is_empty() {
        return Ok(());
    }
    let count = fields.len().to_string();
    let mut question: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
    question.extend(&fields);
    let mut requests = Requests::default();
    requests.add(&question);
    // An error of a server that does not have them.
    let Some(Value::Array(times)) = source.exchange(&requests)?.pop() else {
        return Ok(());
    };
    let mut requests = Requests::default();
    for (field, time) in fields.iter().zip(times) {
        if let Value::Int(time) = time
            && time > 0
        {
            let time = time.to_string();
            requests.add(&[b"HPEXPIREAT", key, time.as_bytes(), b"FIELDS", b"1", field]);
        }
    }
    for reply in target.exchange(&requests)? {
        target.checked(reply)?;
    }
    Ok(())
}

fn add(target: &mut Link, command: &str, key: &[u8], items: &[Vec<u8>]) -> Result<u64, Fault> {
    let mut args: Vec<&[u8]> = vec![command.as_bytes(), key];
    args.extend(items.iter().map(|item| &**item));
    target.call(&args)?;
    Ok(items.iter().map(|item| item.len() as u64).sum())
}

/// Compares the number of elements.
fn check_count(
    source: &mut Link,
    target: &mut Link,
    key: &[u8],
    command: &str,
) -> Result<(), Fault> {
    let args = [command.as_bytes(), key];
    let (one, other) = (source.integer(&args)?, target.integer(&args)?);
    match one == other {
        true => Ok(()),
        false => {
            let text = format!(
                "the copy of the key {} differs in its number of elements",
                KeyText(key)
            );
            Err(Fault::broken(target.node(), text))
        }
    }
}
