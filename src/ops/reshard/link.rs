//! [`Link`]: a connection of the mover to one node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{ProtocolVersion, Value};

use super::fault::{Fault, FaultKind};
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind};
use crate::record::NodeConnection;
use crate::resp::write_command;
use crate::topology::record::requests::{RecordReading, RecordTexts, RecordWrite};
use crate::topology::record::{ConnectionRole, NameSuffix, NodeRecord, RecordEpoch};

/// Time for each call: a busy server must not be taken for one that is gone.
const REPLY_WITHIN: Duration = Duration::from_secs(10);

/// Number of commands that a server counts for a record that is written: those of the script, and the script.
const COMMANDS_OF_A_WRITE: usize = 5;

/// Requests in the wire format, to be sent at once.
#[derive(Default)]
pub(super) struct Requests {
    packed: Vec<u8>,
    count: usize,
}

/// Who a connection is of, and in which term.
#[derive(Clone, Debug)]
pub(super) struct MoverName {
    pub(super) id: Arc<str>,
    pub(super) epoch: RecordEpoch,
}

/// A connection on which no reply is owed between two calls.
pub(super) struct Link {
    connection: NodeConnection,
    /// The id of the connection at its server, by which it is killed when it is in doubt.
    id: i64,
    /// The `run_id` of the server, once the record was read.
    server: String,
    /// True if the record was written to that server, when it was read.
    is_sealed: bool,
    /// Counts the commands that are sent, for all connections to the node.
    commands: Arc<AtomicU64>,
}

impl Requests {
    pub(super) fn add(&mut self, args: &[&[u8]]) {
        write_command(&mut self.packed, args);
        self.count += 1;
    }

    /// Adds a request of words.
    pub(super) fn words(&mut self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.add(&words);
    }

    /// Number of requests.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Number of bytes of all requests.
    pub(super) fn bytes(&self) -> usize {
        self.packed.len()
    }
}

impl Link {
    /// Connects to a node and shows the name of the mover. The name comes before anything is read: a connection that
    /// finds the record unchanged afterwards is visible to everybody who changes it later.
    pub(super) fn open(
        endpoint: &Arc<Endpoint>,
        protocol: ProtocolVersion,
        name: &MoverName,
        limit: Duration,
    ) -> Result<Self, Fault> {
        let suffix = NameSuffix {
            role: ConnectionRole::Mover,
            epoch: name.epoch,
        };
        let connection = NodeConnection::open(endpoint, protocol, suffix, limit);
        let connection = connection.map_err(Fault::of_connection)?;
        let mut link = Self {
            connection,
            id: 0,
            server: String::new(),
            is_sealed: false,
            commands: Arc::default(),
        };
        link.connection.set_limit(limit.max(REPLY_WITHIN));
        // The id in place of the user's name, by which other movers find their own connections.
        let name = format!("{}{suffix}", name.id);
        link.words(&["CLIENT", "SETNAME", &name])?;
        link.id = link.integer(&[b"CLIENT", b"ID"])?;
        Ok(link)
    }

    /// Has the commands counted here that are sent from now on.
    pub(super) fn count_in(&mut self, commands: &Arc<AtomicU64>) {
        self.commands = Arc::clone(commands);
    }

    fn count(&self, commands: usize) {
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
    }

    /// The name of the node.
    pub(super) fn node(&self) -> &str {
        self.connection.node()
    }

    /// The id of the connection at its server.
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// True if the record of the node was written to this server, when it was read.
    pub(super) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// True if both connections are to the same process.
    pub(super) fn is_of_same_server(&self, other: &Self) -> bool {
        self.server == other.server
    }

    /// Sends a request and returns its reply.
    ///
    /// # Errors
    ///
    /// If the connection breaks, and if the server replies with an error.
    pub(super) fn call(&mut self, args: &[&[u8]]) -> Result<Value, Fault> {
        let mut requests = Requests::default();
        requests.add(args);
        let mut replies = self.exchange(&requests)?;
        self.checked(replies.pop().unwrap_or(Value::Nil))
    }

    /// Sends a command and returns its reply.
    pub(super) fn command(&mut self, command: &redis::Cmd) -> Result<Value, Fault> {
        let reply = self.connection.call(command);
        reply.map_err(|error| self.fault(error))
    }

    /// Sends a request of words and returns its reply.
    pub(super) fn words(&mut self, words: &[&str]) -> Result<Value, Fault> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.call(&words)
    }

    /// Sends a request whose reply is a number.
    pub(super) fn integer(&mut self, args: &[&[u8]]) -> Result<i64, Fault> {
        match self.call(args)? {
            Value::Int(number) => Ok(number),
            _ => Err(self.unexpected()),
        }
    }

    /// Sends a request of words whose reply is text.
    pub(super) fn text(&mut self, words: &[&str]) -> Result<String, Fault> {
        let reply = self.words(words)?;
        text_of(&reply).ok_or_else(|| self.unexpected())
    }

    /// Sends requests and returns their replies, errors of the server among them.
    pub(super) fn exchange(&mut self, requests: &Requests) -> Result<Vec<Value>, Fault> {
        self.count(requests.count);
        let replies = self
            .connection
            .call_packed(&requests.packed, requests.count);
        replies.map_err(|error| self.fault(error))
    }

    /// Sends requests whose replies are read later.
    pub(super) fn send(&mut self, requests: &Requests) -> Result<(), Fault> {
        self.count(requests.count);
        let sent = self.connection.send(&requests.packed);
        sent.map_err(|error| self.fault(error))
    }

    /// Reads replies that are due.
    pub(super) fn receive(&mut self, count: usize) -> Result<Vec<Value>, Fault> {
        let replies = self.connection.receive(count);
        replies.map_err(|error| self.fault(error))
    }

    /// Waits until something arrives. False if nothing does within this time.
    pub(super) fn wait(&mut self, time: Duration) -> Result<bool, Fault> {
        let waited = self.connection.wait(time);
        waited.map_err(|error| self.fault(error))
    }

    /// Reads one reply, or one push message as an array.
    pub(super) fn message(&mut self) -> Result<Value, Fault> {
        let message = self.connection.message();
        message.map_err(|error| self.fault(error))
    }

    /// Reads the record of the node, and the texts beside it.
    pub(super) fn record(&mut self) -> Result<RecordReading, Fault> {
        let reading = self.connection.record_and_texts();
        let reading = reading.map_err(|error| match error.kind() {
            // A server that still reads its data is waited for like one that does not run yet.
            ErrorKind::NodeDown => Fault {
                kind: FaultKind::Broken,
                error,
            },
            _ => self.fault(error),
        })?;
        self.server.clone_from(&reading.run_id);
        self.is_sealed = reading.is_sealed() == Some(true);
        Ok(reading)
    }

    /// Replaces the record if the one that is there has the epoch `expected`.
    pub(super) fn compare_and_set(
        &mut self,
        expected: Option<RecordEpoch>,
        record: &NodeRecord,
        texts: Option<&RecordTexts>,
    ) -> Result<RecordWrite, Fault> {
        self.count(COMMANDS_OF_A_WRITE);
        let written = self.connection.compare_and_set(expected, record, texts);
        written.map_err(|error| self.fault(error))
    }

    /// Returns a reply that is no error.
    pub(super) fn checked(&self, reply: Value) -> Result<Value, Fault> {
        match reply {
            Value::ServerError(error) => Err(Fault {
                kind: FaultKind::Refused,
                error: Error::from_server(&error, Some(self.node())),
            }),
            reply => Ok(reply),
        }
    }

    /// The fault of a reply that no server sends.
    pub(super) fn unexpected(&self) -> Fault {
        Fault::refused(self.node(), "a reply is of a type that was not expected")
    }

    fn fault(&self, error: Error) -> Fault {
        let kind = match self.connection.is_broken() {
            true => FaultKind::Broken,
            false => FaultKind::Refused,
        };
        Fault { kind, error }
    }
}

/// The text of a reply.
pub(super) fn text_of(reply: &Value) -> Option<String> {
    match reply {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The bytes of a reply.
pub(super) fn bytes_of(reply: Value) -> Option<Vec<u8>> {
    match reply {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        // RESP3 has numbers of their own.
        Value::Double(number) => Some(number.to_string().into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

/// The items of a reply.
pub(super) fn items_of(reply: Value) -> Option<Vec<Value>> {
    match reply {
        Value::Array(items) | Value::Set(items) => Some(items),
        Value::Map(pairs) => {
            let items = pairs.into_iter().flat_map(|(key, value)| [key, value]);
            Some(items.collect())
        }
        _ => None,
    }
}
