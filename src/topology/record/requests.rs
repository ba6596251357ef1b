//! The requests that read and write a node's record, and what their replies mean.
//!
//! They are sent with EVAL, which every version of the server has, without keys and without a shebang. All of them
//! SELECT the database of the record: within a script that changes nothing for the connection.

use redis::{Cmd, Value, cmd};

use super::{NodeRecord, READ_SCRIPT, RecordEpoch, RecordReply};
use crate::error::{Error, ErrorKind};

/// Returns what [`READ_SCRIPT`] returns, and the texts beside the record. A key that is not there is false in a script, which
/// is null in the reply and does not end the array.
const READ_ALL: &str = "\
redis.call('SELECT', 15)
return {redis.call('GET', 'redis-sharding:record'), string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'),
redis.call('GET', 'redis-sharding:topology'), redis.call('GET', 'redis-sharding:target')}";

/// Replaces the record if its epoch is the first argument, which is empty for none; otherwise returns what is there.
/// Further arguments are the record, the text of the topology and that of the target; an empty text of the target
/// removes it.
///
/// DEL before SET: a server whose memory is full refuses the SET of a script that has not written anything yet, and
/// DEL needs no memory, also if there is nothing to remove. A record that cannot be read has no epoch that anybody
/// expects, so it is never overwritten.
const WRITE: &str = "\
redis.call('SELECT', 15)
local now = redis.call('GET', 'redis-sharding:record')
local epoch = ''
if now then epoch = string.match(now, '\\nepoch (%d+%.%d+)\\n') or '?' end
if epoch ~= ARGV[1] then return now or '' end
redis.call('DEL', 'redis-sharding:record')
redis.call('SET', 'redis-sharding:record', ARGV[2])
if ARGV[3] then redis.call('SET', 'redis-sharding:topology', ARGV[3]) end
if ARGV[4] == '' then redis.call('DEL', 'redis-sharding:target')
elseif ARGV[4] then redis.call('SET', 'redis-sharding:target', ARGV[4]) end
return redis.status_reply('OK')";

/// What a node has replied to a [question for its record](read).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordReading {
    /// The record. `None` if there is none.
    pub(crate) record: Option<NodeRecord>,
    /// The `run_id` of the server.
    pub(crate) run_id: String,
    /// The texts beside the record, if they were asked for.
    pub(crate) texts: RecordTexts,
}

/// The texts of topologies beside a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecordTexts {
    /// That of the topology in force.
    pub(crate) topology: Option<String>,
    /// That of the topology that a reshard leads to.
    pub(crate) target: Option<String>,
}

/// What became of a [record that was written](write).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordWrite {
    /// It is the node's record now.
    Done,
    /// Nothing has changed: the node has this one, and not the expected one.
    Other(Option<NodeRecord>),
}

/// Asks for the record.
pub(crate) fn read() -> Cmd {
    eval(READ_SCRIPT)
}

/// Asks for the record and the texts beside it.
pub(crate) fn read_all() -> Cmd {
    eval(READ_ALL)
}

/// Writes a record if the one that is there has this epoch; for `None`, if there is none. `texts` are written beside it,
/// unless they are to stay as they are.
pub(crate) fn write(
    expected: Option<RecordEpoch>,
    record: &NodeRecord,
    texts: Option<&RecordTexts>,
) -> Cmd {
    let mut request = eval(WRITE);
    request.arg(expected.map_or_else(String::new, |epoch| epoch.to_string()));
    request.arg(record.to_string());
    if let Some(RecordTexts {
        topology: Some(topology),
        target,
    }) = texts
    {
        request
            .arg(topology)
            .arg(target.as_deref().unwrap_or_default());
    }
    request
}

fn eval(script: &str) -> Cmd {
    let mut request = cmd("EVAL");
    request.arg(script).arg(0);
    request
}

impl RecordReading {
    /// Understands the reply to [`read`] or [`read_all`] of the node called `node`.
    ///
    /// # Errors
    ///
    /// If the server has refused the question, and if the record cannot be read.
    pub(crate) fn of(node: &str, reply: &Value) -> Result<Self, Error> {
        if let Value::ServerError(error) = reply {
            return Err(refused(node, error));
        }
        let parts = RecordReply::of(reply).ok_or_else(|| odd(node))?;
        let record = parts.record.map(|text| record(node, &text)).transpose()?;
        Ok(Self {
            record,
            run_id: parts.run_id,
            texts: parts.texts,
        })
    }

    /// True if the record was written to this very server, since its last start. `None` without a record.
    pub(crate) fn is_sealed(&self) -> Option<bool> {
        let record = self.record.as_ref()?;
        Some(record.seal == self.run_id)
    }

    /// The epoch of the record, as the next write expects it.
    pub(crate) fn epoch(&self) -> Option<RecordEpoch> {
        self.record.as_ref().map(|record| record.epoch)
    }
}

impl RecordWrite {
    /// Understands the reply to [`write`] of the node called `node`.
    ///
    /// # Errors
    ///
    /// If the server has refused the write, and if the record that is there cannot be read.
    pub(crate) fn of(node: &str, reply: &Value) -> Result<Self, Error> {
        match reply {
            Value::Okay => Ok(Self::Done),
            Value::BulkString(bytes) if bytes.is_empty() => Ok(Self::Other(None)),
            Value::BulkString(bytes) => {
                let found = record(node, &String::from_utf8_lossy(bytes))?;
                Ok(Self::Other(Some(found)))
            }
            Value::ServerError(error) => Err(refused(node, error)),
            _ => Err(odd(node)),
        }
    }
}

fn record(node: &str, text: &str) -> Result<NodeRecord, Error> {
    NodeRecord::parse(text)
        .map_err(|error| Error::config(format!("node {node:?}: {error}")).at_node(node))
}

/// The error of a server that does not run a script about the record.
fn refused(node: &str, error: &redis::ServerError) -> Error {
    let said = error.details().unwrap_or_default();
    let hint = match (error.code(), said) {
        ("NOPERM", _) => {
            "; the user needs `+eval +select +info +get +set +del ~redis-sharding:*`, and `+client` to be told of changes"
        }
        (_, said) if said.contains("out of range") => {
            "; the record is in database 15, and `databases` in the configuration of the server allows fewer than 16"
        }
        _ => "",
    };
    let text = format!(
        "node {node:?} has refused the script for its record: {} {said}{hint}",
        error.code()
    );
    let kind = match error.code() {
        "NOAUTH" | "NOPERM" | "WRONGPASS" => ErrorKind::Auth,
        "LOADING" | "BUSY" | "MASTERDOWN" | "READONLY" => ErrorKind::NodeDown,
        _ => ErrorKind::Config,
    };
    Error::new(kind, text).at_node(node)
}

fn odd(node: &str) -> Error {
    let text =
        format!("node {node:?} has replied to the script for its record what no server replies");
    Error::new(ErrorKind::Config, text).at_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::record::{RECORD_DB, RECORD_KEY, TARGET_KEY, TOPOLOGY_KEY};

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn record() -> NodeRecord {
        NodeRecord {
            epoch: RecordEpoch::new(3, 17),
            topology: 7,
            seal: "ab12".into(),
            is_retired: false,
            mover: None,
            reshard: None,
        }
    }

    fn words(request: &Cmd) -> Vec<String> {
        let words = request.args_iter().map(|word| match word {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        });
        words.collect()
    }

    #[test]
    fn scripts_name_the_database_and_the_keys_of_the_record() {
        let select = format!("redis.call('SELECT', {RECORD_DB})");
        for script in [READ_ALL, WRITE] {
            assert!(script.starts_with(&select) && script.contains(RECORD_KEY));
        }
        for script in [READ_ALL, WRITE] {
            assert!(script.contains(TOPOLOGY_KEY) && script.contains(TARGET_KEY));
        }
    }

    #[test]
    fn record_is_written_with_the_epoch_that_is_expected_and_the_texts_beside_it() {
        let text = record().to_string();
        let request = write(None, &record(), None);
        assert_eq!(words(&request)[2..], ["0", "", &text]);
        let texts = RecordTexts {
            topology: Some("t".into()),
            target: None,
        };
        let request = write(Some(record().epoch), &record(), Some(&texts));
        assert_eq!(words(&request)[2..], ["0", "3.17", &text, "t", ""]);
    }

    #[test]
    fn replies_about_a_record_are_understood() {
        let text = record().to_string();
        let reply = Value::Array(vec![bulk(&text), bulk("ab12"), bulk("t"), Value::Nil]);
        let reading = RecordReading::of("a", &reply).unwrap();
        assert_eq!(reading.record, Some(record()));
        assert_eq!(reading.is_sealed(), Some(true));
        assert_eq!(reading.texts.topology.as_deref(), Some("t"));
        assert_eq!(reading.texts.target, None);
        let none = Value::Array(vec![Value::Nil, bulk("ab12")]);
        let none = RecordReading::of("a", &none).unwrap();
        assert_eq!((none.epoch(), none.is_sealed()), (None, None));
        let other = |reply| RecordWrite::of("a", &reply);
        assert_eq!(other(Value::Okay).unwrap(), RecordWrite::Done);
        assert_eq!(other(bulk("")).unwrap(), RecordWrite::Other(None));
        assert_eq!(
            other(bulk(&text)).unwrap(),
            RecordWrite::Other(Some(record()))
        );
        let denied = crate::error::server_error("NOPERM", "this user has no permissions");
        let error = other(Value::ServerError(denied)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert!(error.to_string().contains("`+eval"), "{error}");
        let few = crate::error::server_error("ERR", "DB index is out of range");
        let error = other(Value::ServerError(few)).unwrap_err();
        assert!(error.to_string().contains("fewer than 16"), "{error}");
        assert!(RecordReading::of("a", &Value::Nil).is_err());
    }
}
