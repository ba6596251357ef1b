//! [`KeyEvents`]: the connection over which a source says which keys are new.

use std::time::Duration;

use redis::{ProtocolVersion, Value};

use super::fault::{Fault, FaultKind};
use super::link::{Link, Requests, items_of, text_of};
use super::session::{Session, SessionNode};
use crate::topology::record::RECORD_DB;

/// The parameter of the configuration that has servers send events of keys.
const PARAMETER: &str = "notify-keyspace-events";

/// The key beside the record with the former value of [`PARAMETER`], so that a mover that takes over can put it back.
const FORMER_KEY: &str = "redis-sharding:former-events";

/// Remembers a value, unless one is remembered already.
const REMEMBER: &str = "redis.call('SELECT', 15) redis.call('SETNX', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])";

/// Returns the value that is remembered, and forgets it.
const TAKE_FORMER: &str = "\
redis.call('SELECT', 15)
local former = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1])
return former";

/// A connection in RESP3 that is told of keys. Once it has broken, the source must be scanned again.
pub(super) struct KeyEvents {
    link: Link,
}

impl KeyEvents {
    /// Has the node send the names of new keys.
    pub(super) fn open(session: &Session<'_>, node: &SessionNode) -> Result<Self, Fault> {
        let mut link = session.connect_with(node, ProtocolVersion::RESP3)?;
        let are_on = node.facts.is_7_0() && switch_on(&mut link)?;
        match are_on {
            true => {
                let channel = format!("__keyevent@{}__:new", session.db);
                let mut subscribe = Requests::default();
                subscribe.words(&["SUBSCRIBE", &channel]);
                link.send(&subscribe)?;
                // It is confirmed by a push message.
                let confirmed = link.message()?;
                link.checked(confirmed)?;
            }
            // It tells of every key that is written, new or not.
            false => {
                link.words(&["CLIENT", "TRACKING", "ON", "BCAST"])?;
            }
        }
        Ok(Self { link })
    }

    /// Passes on what has arrived.
    pub(super) fn drain(&mut self, mut key: impl FnMut(&[u8])) -> Result<(), Fault> {
        while self.link.wait(Duration::ZERO)? {
            let message = self.link.message()?;
            keys_of(message, &mut key);
        }
        Ok(())
    }

    /// Waits until everything that the server has to say about commands before this call has arrived: two PINGs, the second
    /// one sent after the reply to the first. One is not enough where several threads of a server write to connections.
    pub(super) fn settle(&mut self, mut key: impl FnMut(&[u8])) -> Result<(), Fault> {
        for _ in 0..2 {
            let mut ping = Requests::default();
            ping.words(&["PING"]);
            self.link.send(&ping)?;
            loop {
                let message = self.link.message()?;
                if is_pong(&message) {
                    break;
                }
                keys_of(message, &mut key);
            }
        }
        Ok(())
    }
}

/// Puts the configuration of a node back as it was before any mover changed it.
pub(super) fn put_back(link: &mut Link) -> Result<(), Fault> {
    let former = link.call(&[b"EVAL", TAKE_FORMER.as_bytes(), b"1", FORMER_KEY.as_bytes()])?;
    match text_of(&former) {
        Some(former) => link.words(&["CONFIG", "SET", PARAMETER, &former]).map(drop),
        None => Ok(()),
    }
}

/// Has the server send events of new keys. False if it or its user does not allow that.
fn switch_on(link: &mut Link) -> Result<bool, Fault> {
    let refused = |result: Result<Value, Fault>| match result {
        Ok(reply) => Ok(Some(reply)),
        Err(fault) if fault.kind == FaultKind::Refused => Ok(None),
        Err(fault) => Err(fault),
    };
    let Some(reply) = refused(link.words(&["CONFIG", "GET", PARAMETER]))? else {
        return Ok(false);
    };
    let current = items_of(reply).and_then(|items| text_of(items.get(1)?));
    let current = current.unwrap_or_default();
    let Some(wanted) = with_new_keys(&current) else {
        return Ok(true);
    };
    // First remembered, then changed.
    let key = FORMER_KEY.as_bytes();
    link.call(&[b"EVAL", REMEMBER.as_bytes(), b"1", key, current.as_bytes()])?;
    Ok(refused(link.words(&["CONFIG", "SET", PARAMETER, &wanted]))?.is_some())
}

/// The value of the parameter with what is missing for events of new keys. `None` if nothing is.
fn with_new_keys(current: &str) -> Option<String> {
    // `A` stands for many kinds, but not for new keys.
    let missing = ['E', 'n']
        .into_iter()
        .filter(|kind| !current.contains(*kind));
    let missing: String = missing.collect();
    (!missing.is_empty()).then(|| format!("{current}{missing}"))
}

fn is_pong(message: &Value) -> bool {
    matches!(message, Value::SimpleString(text) if text == "PONG")
}

/// Passes on the keys that a message names.
fn keys_of(message: Value, key: &mut impl FnMut(&[u8])) {
    let Value::Array(items) = message else {
        return;
    };
    let mut items = items.into_iter();
    let kind = items.next().and_then(|kind| text_of(&kind));
    match (kind.as_deref(), items.next(), items.next()) {
        (Some("message"), Some(_), Some(Value::BulkString(name))) => key(&name),
        // Null stands for a FLUSHALL, after which there are no keys.
        (Some("invalidate"), Some(Value::Array(names)), _) => {
            for name in names {
                if let Value::BulkString(name) = name {
                    key(&name);
                }
            }
        }
        _ => {}
    }
}

const _: () = assert!(RECORD_DB == 15, "the scripts above select it");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_new_keys_are_added_to_what_is_configured() {
        let with = |current| with_new_keys(current);
        assert_eq!(with("").as_deref(), Some("En"));
        assert_eq!(with("AKE").as_deref(), Some("AKEn"));
        assert_eq!(with("xKn").as_deref(), Some("xKnE"));
        assert_eq!(with("nE"), None);
    }

    #[test]
    fn keys_are_read_from_both_kinds_of_messages() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let read = |message: Vec<Value>| {
            let mut keys: Vec<String> = Vec::new();
            keys_of(Value::Array(message), &mut |key: &[u8]| {
                keys.push(String::from_utf8_lossy(key).into_owned());
            });
            keys
        };
        let event = vec![bulk("message"), bulk("__keyevent@0__:new"), bulk("a")];
        assert_eq!(read(event), ["a"]);
        let names = Value::Array(vec![bulk("a"), bulk("b")]);
        assert_eq!(read(vec![bulk("invalidate"), names]), ["a", "b"]);
        assert!(read(vec![bulk("invalidate"), Value::Nil]).is_empty());
        assert!(
            read(vec![
                bulk("subscribe"),
                bulk("__keyevent@0__:new"),
                Value::Int(1)
            ])
            .is_empty()
        );
        assert!(is_pong(&Value::SimpleString("PONG".into())));
    }
}
