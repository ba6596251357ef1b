//! [`Scanner`]: the keys of a node one by one, where the server sends no stream of them.

use std::collections::HashSet;

use redis::{Value, cmd};
use xxhash_rust::xxh3::Xxh3;

use super::facts::SourceFacts;
use crate::error::{Error, ErrorKind};
use crate::ops::clock::time_of;
use crate::ops::connection::NodeConnection;
use crate::rdb::{Access, KeyInfo, RdbVersion, of_dump};

/// Number of keys that a server looks at for a reply to SCAN.
const SCAN_COUNT: usize = 500;

/// Number of keys whose values are asked for at a time. So many values are in memory.
const BATCH: usize = 32;

/// Number of replies for a key: MULTI, QUEUED for each command in it, EXEC.
const COMMANDS: usize = 4;

/// What was read.
pub(super) enum Piece {
    /// The source of a library of functions.
    Function(Vec<u8>, RdbVersion),
    /// A key with its value.
    Key(KeyInfo, RdbVersion, Vec<u8>),
    /// Something that a reader of the archive should know.
    Note(String),
}

/// Reads all keys over a connection.
pub(super) struct Scanner<'s> {
    pub(super) connection: &'s mut NodeConnection,
    pub(super) facts: &'s SourceFacts,
}

/// Takes what was read.
pub(super) type Sink<'s> = dyn FnMut(Piece) -> Result<(), Error> + 's;

impl Scanner<'_> {
    /// Reads all functions and all keys. SCAN may name a key twice: the hashes of those that were read are kept, in about 40
    /// bytes of memory for each key.
    ///
    /// # Errors
    ///
    /// If the connection breaks, the server refuses a command, or `sink` fails.
    pub(super) fn run(&mut self, sink: &mut Sink<'_>) -> Result<(), Error> {
        // Reading keys is no use of them. Servers before 7.2 do not know it.
        let no_touch = cmd("CLIENT").arg("NO-TOUCH").arg("ON").to_owned();
        let _ = self.connection.call(&no_touch);
        if self.facts.is_7_0() {
            self.functions(sink)?;
        }
        for (db, _) in &self.facts.databases {
            if *db > 0 || !self.facts.in_cluster {
                self.connection.call(&cmd("SELECT").arg(*db).to_owned())?;
            }
            self.database(*db, sink)?;
        }
        Ok(())
    }

    fn functions(&mut self, sink: &mut Sink<'_>) -> Result<(), Error> {
        let list = cmd("FUNCTION").arg("LIST").arg("WITHCODE").to_owned();
        let reply = match self.connection.call(&list) {
            Ok(reply) => reply,
            Err(error) if self.connection.is_broken() => return Err(error),
            Err(_) => {
                let node = self.connection.node();
                let note = format!("node {node:?} does not let its functions be read");
                return sink(Piece::Note(note));
            }
        };
        for source in sources(&reply) {
            // Its version matters for values alone.
            sink(Piece::Function(source, RdbVersion(10)))?;
        }
        Ok(())
    }

    fn database(&mut self, db: u32, sink: &mut Sink<'_>) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys) = page(self.connection.call(&scan)?)
                .ok_or_else(|| self.odd("has replied to SCAN what no server replies"))?;
            let new = keys
                .into_iter()
                .filter(|key| seen.insert(hash(key)))
                .collect::<Vec<_>>();
            for keys in new.chunks(BATCH) {
                self.values(db, keys, sink)?;
            }
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Reads some keys, each at one moment.
    fn values(&mut self, db: u32, keys: &[Vec<u8>], sink: &mut Sink<'_>) -> Result<(), Error> {
        let mut requests = Vec::new();
        for key in keys {
            cmd("MULTI").write_packed_command(&mut requests);
            let usage = match self.facts.counts_frequency {
                true => "FREQ",
                false => "IDLETIME",
            };
            // Before the value, whose reading may count as a use.
            let mut access = cmd("OBJECT");
            access.arg(usage).arg(key);
            access.write_packed_command(&mut requests);
            match self.facts.is_7_0() {
                true => {
                    cmd("PEXPIRETIME")
                        .arg(key)
                        .write_packed_command(&mut requests);
                    cmd("PING").write_packed_command(&mut requests);
                }
                false => {
                    cmd("PTTL").arg(key).write_packed_command(&mut requests);
                    cmd("TIME").write_packed_command(&mut requests);
                }
            }
            cmd("DUMP").arg(key).write_packed_command(&mut requests);
            cmd("EXEC").write_packed_command(&mut requests);
        }
        let per_key = COMMANDS + 2;
        let replies = self
            .connection
            .call_packed(&requests, keys.len() * per_key)?;
        for (key, replies) in keys.iter().zip(replies.chunks(per_key)) {
            let refused = replies.iter().find_map(|reply| match reply {
                Value::ServerError(error) => Some(error),
                _ => None,
            });
            if let Some(error) = refused {
                let error = Error::from_server(error, Some(self.connection.node()));
                return Err(error.about_keys([key.as_slice()]));
            }
            let Some(Value::Array(results)) = replies.last() else {
                return Err(self.odd("has replied to EXEC what no server replies"));
            };
            if let Some(piece) = self.piece(db, key, results)? {
                sink(piece)?;
            }
        }
        Ok(())
    }

    /// Understands the replies about a key. `None` if it is gone.
    fn piece(&self, db: u32, key: &[u8], results: &[Value]) -> Result<Option<Piece>, Error> {
        let [access, expiry, time, dump] = results else {
            return Err(self.odd("has replied to EXEC what no server replies"));
        };
        let Value::BulkString(dump) = dump else {
            return Ok(None);
        };
        let expires_at = match (expiry, time_of(time)) {
            (Value::Int(at @ 0..), None) => Some(*at),
            (Value::Int(left @ 0..), Some(now)) => Some(now + left),
            _ => None,
        };
        let access = match access {
            Value::Int(count) if self.facts.counts_frequency => {
                u8::try_from(*count).map_or(Access::Unknown, Access::Frequency)
            }
            Value::Int(seconds) if self.facts.counts_idle_time => {
                u64::try_from(*seconds).map_or(Access::Unknown, Access::Idle)
            }
            _ => Access::Unknown,
        };
        let (value_type, value, version) = of_dump(dump).map_err(|error| {
            let node = self.connection.node();
            let text = format!("node {node:?} has replied to DUMP: {error}");
            let error = Error::new(ErrorKind::Archive, text).at_node(node);
            error.about_keys([key])
        })?;
        let info = KeyInfo {
            db,
            key: key.to_vec(),
            expires_at,
            access,
            value_type,
        };
        Ok(Some(Piece::Key(info, version, value.to_vec())))
    }

    fn odd(&self, text: &str) -> Error {
        let node = self.connection.node();
        Error::new(ErrorKind::NodeDown, format!("node {node:?} {text}")).at_node(node)
    }
}

/// The cursor and the keys of a reply to SCAN.
fn page(reply: Value) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let Value::Array(items) = reply else {
        return None;
    };
    let mut items = items.into_iter();
    match (items.next()?, items.next()?) {
        (Value::BulkString(cursor), Value::Array(keys)) => {
            let keys = keys.into_iter().map(|key| match key {
                Value::BulkString(key) => Some(key),
                _ => None,
            });
            Some((cursor, keys.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// The sources in a reply to FUNCTION LIST.
fn sources(reply: &Value) -> Vec<Vec<u8>> {
    let Value::Array(libraries) = reply else {
        return Vec::new();
    };
    let source = |library: &Value| {
        let Value::Array(fields) = library else {
            return None;
        };
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [Value::BulkString(name), Value::BulkString(code)] if name == b"library_code" => {
                Some(code.clone())
            }
            _ => None,
        })
    };
    libraries.iter().filter_map(source).collect()
}

/// A hash of so many bits that two keys never share one.
fn hash(key: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn reply_to_scan_is_a_cursor_and_keys() {
        let keys = Value::Array(vec![bulk("a"), bulk("b")]);
        let reply = Value::Array(vec![bulk("17"), keys]);
        let expected = (b"17".to_vec(), vec![b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(page(reply), Some(expected));
        assert_eq!(page(Value::Nil), None);
    }

    #[test]
    fn sources_of_libraries_are_read() {
        let library = |code| {
            Value::Array(vec![
                bulk("engine"),
                bulk("LUA"),
                bulk("library_code"),
                bulk(code),
            ])
        };
        let reply = Value::Array(vec![library("one"), library("two")]);
        assert_eq!(sources(&reply), [b"one".to_vec(), b"two".to_vec()]);
    }
}
