//! The configuration of a source while its keys move: what is changed, and put back.
//!
//! The former value of a parameter is remembered beside the record before it is changed, so that a mover that takes over
//! can put it back.

use redis::Value;

use super::fault::{Fault, FaultKind};
use super::link::{Link, items_of, text_of};
use crate::topology::record::RECORD_DB;

/// Has servers send events of keys.
const EVENTS: Parameter = Parameter {
    name: "notify-keyspace-events",
    former_key: "redis-sharding:former-events",
};

/// Has servers compress what they save, and what DUMP returns.
const COMPRESSION: Parameter = Parameter {
    name: "rdbcompression",
    former_key: "redis-sharding:former-compression",
};

/// Remembers a value, unless one is remembered already.
const REMEMBER: &str = "redis.call('SELECT', 15) redis.call('SETNX', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])";

/// Returns the value that is remembered.
const FORMER: &str = "redis.call('SELECT', 15) return redis.call('GET', KEYS[1])";

/// Forgets the value that is remembered.
const FORGET: &str = "redis.call('SELECT', 15) return redis.call('DEL', KEYS[1])";

/// A parameter of the configuration.
struct Parameter {
    name: &'static str,
    /// The key beside the record with its former value.
    former_key: &'static str,
}

/// Has the server send events of new keys. False if it or its user does not allow that.
pub(super) fn send_events_of_new_keys(link: &mut Link) -> Result<bool, Fault> {
    EVENTS.change(link, with_new_keys)
}

/// Has the server's DUMP compress nothing: for values that do not become smaller, that is most of the work. A server that
/// does not allow it goes on as it is.
pub(super) fn do_not_compress(link: &mut Link) -> Result<(), Fault> {
    COMPRESSION.change(link, without_compression).map(drop)
}

/// Puts the configuration of a node back as it was before any mover changed it.
pub(super) fn put_back(link: &mut Link) -> Result<(), Fault> {
    EVENTS.put_back(link)?;
    COMPRESSION.put_back(link)
}

impl Parameter {
    /// Sets the parameter to what `wanted` makes of its value; `None` leaves it. False if that is not allowed.
    fn change(
        &self,
        link: &mut Link,
        wanted: impl Fn(&str) -> Option<String>,
    ) -> Result<bool, Fault> {
        let Some(reply) = if_allowed(link.words(&["CONFIG", "GET", self.name]))? else {
            return Ok(false);
        };
        let current = items_of(reply).and_then(|items| text_of(items.get(1)?));
        let current = current.unwrap_or_default();
        let Some(wanted) = wanted(&current) else {
            return Ok(true);
        };
        // First remembered, then changed.
        let key = self.former_key.as_bytes();
        link.call(&[b"EVAL", REMEMBER.as_bytes(), b"1", key, current.as_bytes()])?;
        let is_set = if_allowed(link.words(&["CONFIG", "SET", self.name, &wanted]))?.is_some();
        if !is_set {
            // There is nothing to put back, and it would be refused as well.
            self.script(link, FORGET)?;
        }
        Ok(is_set)
    }

    /// Puts the former value back, and forgets it then.
    fn put_back(&self, link: &mut Link) -> Result<(), Fault> {
        if let Some(former) = text_of(&self.script(link, FORMER)?) {
            link.words(&["CONFIG", "SET", self.name, &former])?;
            self.script(link, FORGET)?;
        }
        Ok(())
    }

    fn script(&self, link: &mut Link, script: &str) -> Result<Value, Fault> {
        let key = self.former_key.as_bytes();
        link.call(&[b"EVAL", script.as_bytes(), b"1", key])
    }
}

/// `None` instead of a refusal by the server.
fn if_allowed(result: Result<Value, Fault>) -> Result<Option<Value>, Fault> {
    match result {
        Ok(reply) => Ok(Some(reply)),
        Err(fault) if fault.kind == FaultKind::Refused => Ok(None),
        Err(fault) => Err(fault),
    }
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

/// The value of the parameter for no compression. `None` if there is none, and for a server without the parameter.
fn without_compression(current: &str) -> Option<String> {
    (current == "yes").then(|| "no".to_owned())
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
    fn former_values_are_kept_by_flushall() {
        for parameter in [EVENTS, COMPRESSION] {
            let key = format!("'{}'", parameter.former_key);
            assert!(crate::topology::record::FLUSHALL_SCRIPT.contains(&key));
        }
    }

    #[test]
    fn compression_is_switched_off_where_it_is_on() {
        assert_eq!(without_compression("yes").as_deref(), Some("no"));
        assert_eq!(without_compression("no"), None);
        assert_eq!(without_compression(""), None);
    }
}
