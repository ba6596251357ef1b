//! [`KeyEvents`]: the connection over which a source says which keys are new.

use std::time::Duration;

use redis::{ProtocolVersion, Value};

use super::fault::Fault;
use super::link::{Link, Requests, text_of};
use super::session::{Session, SessionNode};
use super::settings::send_events_of_new_keys;

/// A connection in RESP3 that is told of keys. Once it has broken, the source must be scanned again.
pub(super) struct KeyEvents {
    link: Link,
}

impl KeyEvents {
    /// Has the node send the names of new keys.
    pub(super) fn open(session: &Session<'_>, node: &SessionNode) -> Result<Self, Fault> {
        let mut link = session.connect_with(node, ProtocolVersion::RESP3)?;
        let are_on = node.facts.is_7_0() && send_events_of_new_keys(&mut link)?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
