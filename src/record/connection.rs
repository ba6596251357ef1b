//! [`NodeConnection`]: a connection to one node, over which its record is read and written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ProtocolVersion, Value};

use crate::blocking::RespStream;
use crate::endpoint::{Deadline, Endpoint};
use crate::error::{Error, ErrorKind};
use crate::plan::{Cause, Failure};
use crate::policy::is_timeout;
use crate::topology::record::requests::{self, RecordReading, RecordTexts, RecordWrite};
use crate::topology::record::{NameSuffix, NodeRecord, RecordEpoch};

/// A connection to one node that belongs to no pool. After an error other than one that the server has replied, it
/// [is broken](Self::is_broken): what was sent may or may not have been carried out.
pub(crate) struct NodeConnection {
    endpoint: Arc<Endpoint>,
    stream: RespStream,
    /// Maximum duration of each call.
    limit: Duration,
    is_broken: bool,
}

impl NodeConnection {
    /// Connects to a node within `limit`, which is also that of each call, with a name that has this end.
    ///
    /// # Errors
    ///
    /// If the node cannot be reached, or refuses the user or the name.
    pub(crate) fn open(
        endpoint: &Arc<Endpoint>,
        protocol: ProtocolVersion,
        suffix: NameSuffix,
        limit: Duration,
    ) -> Result<Self, Error> {
        let not_connected = |error| {
            let node = endpoint.observer.node().name();
            Failure::not_sent(Cause::Connect(error)).without_answer(node)
        };
        let handshake = endpoint.record_handshake(protocol, suffix);
        let handshake = handshake.map_err(not_connected)?;
        let deadline = Deadline::start(Some(limit));
        let opened = RespStream::open(endpoint, &handshake, &deadline);
        let (stream, _) = opened.map_err(not_connected)?;
        Ok(Self {
            endpoint: Arc::clone(endpoint),
            stream,
            limit,
            is_broken: false,
        })
    }

    /// The name of the node.
    pub(crate) fn node(&self) -> &str {
        self.endpoint.observer.node().name()
    }

    /// How the node is reached.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// True once a call has failed without a reply. The connection is of no use any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Sets the maximum duration of each further call.
    pub(crate) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Sends a command and reads its reply.
    ///
    /// # Errors
    ///
    /// The server's own error, and that of a connection that breaks.
    pub(crate) fn call(&mut self, command: &Cmd) -> Result<Value, Error> {
        let reply = self.reply(command)?;
        match reply {
            Value::ServerError(error) => Err(Error::from_server(&error, Some(self.node()))),
            reply => Ok(reply),
        }
    }

    /// Sends `count` commands in the wire format at once and reads their replies, which may be errors of the server.
    ///
    /// # Errors
    ///
    /// If the connection breaks: some of the commands may have been carried out.
    pub(crate) fn call_packed(&mut self, packed: &[u8], count: usize) -> Result<Vec<Value>, Error> {
        let deadline = Deadline::start(Some(self.limit));
        let mut replies = Vec::with_capacity(count);
        let done = match self.stream.write(packed, &deadline) {
            Ok(()) => self.stream.read_all(count, &deadline, &mut replies),
            Err(failed) => Err(failed.error),
        };
        done.map_err(|error| self.broken(&error))?;
        Ok(replies)
    }

    /// Reads the record.
    ///
    /// # Errors
    ///
    /// If the server refuses, the record cannot be read, or the connection breaks.
    pub(crate) fn record(&mut self) -> Result<RecordReading, Error> {
        let reply = self.reply(&requests::read())?;
        RecordReading::of(self.node(), &reply)
    }

    /// Reads the record and the texts beside it.
    ///
    /// # Errors
    ///
    /// As for [`record`](Self::record).
    pub(crate) fn record_and_texts(&mut self) -> Result<RecordReading, Error> {
        let reply = self.reply(&requests::read_all())?;
        RecordReading::of(self.node(), &reply)
    }

    /// Replaces the record if the one that is there has the epoch `expected`, for `None` if there is none.
    ///
    /// # Errors
    ///
    /// As for [`record`](Self::record). After a connection that has broken, the record may have been written.
    pub(crate) fn compare_and_set(
        &mut self,
        expected: Option<RecordEpoch>,
        record: &NodeRecord,
        texts: Option<&RecordTexts>,
    ) -> Result<RecordWrite, Error> {
        let reply = self.reply(&requests::write(expected, record, texts))?;
        RecordWrite::of(self.node(), &reply)
    }

    /// Sends a command and reads its reply, which may be an error of the server.
    fn reply(&mut self, command: &Cmd) -> Result<Value, Error> {
        let mut replies = self.call_packed(&command.get_packed_command(), 1)?;
        Ok(replies.pop().unwrap_or(Value::Nil))
    }

    /// Waits until something has arrived. Returns false if nothing does within this time.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<bool, Error> {
        match self.stream.wait(&Deadline::start(Some(time))) {
            Ok(()) => Ok(true),
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// Reads one reply, or one message that the server has pushed, as an array.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub(crate) fn message(&mut self) -> Result<Value, Error> {
        let deadline = Deadline::start(Some(self.limit));
        let message = self.stream.read_message(&deadline);
        message.map_err(|error| self.broken(&error))
    }

    /// Sends a command without reading its reply.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub(crate) fn send(&mut self, packed: &[u8]) -> Result<(), Error> {
        let sent = self
            .stream
            .write(packed, &Deadline::start(Some(self.limit)));
        sent.map_err(|failed| self.broken(&failed.error))
    }

    /// Reads the replies to `count` commands that were [sent](Self::send).
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub(crate) fn receive(&mut self, count: usize) -> Result<Vec<Value>, Error> {
        let deadline = Deadline::start(Some(self.limit));
        let mut replies = Vec::with_capacity(count);
        let read = self.stream.read_all(count, &deadline, &mut replies);
        read.map_err(|error| self.broken(&error))?;
        Ok(replies)
    }

    /// Reads bytes that are no reply, as [`RespStream::read_bytes`] does, within the limit of a call.
    ///
    /// # Errors
    ///
    /// If the connection breaks. After a timeout it can be used on.
    #[cfg(feature = "backup")]
    pub(crate) fn read_bytes(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let deadline = Deadline::start(Some(self.limit));
        self.stream.read_bytes(into, &deadline)
    }

    fn broken(&mut self, error: &io::Error) -> Error {
        self.is_broken = true;
        let (node, address) = (self.node(), &self.endpoint.address);
        let text = match is_timeout(error) {
            true => format!(
                "node {node:?} at {address} has not replied within {:?}",
                self.limit
            ),
            false => format!("the connection to node {node:?} at {address} broke: {error}"),
        };
        Error::new(ErrorKind::NodeDown, text).at_node(node)
    }
}
