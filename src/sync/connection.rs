//! One connection to one node.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use redis::{ProtocolVersion, RedisError, RedisResult, Value};

use crate::endpoint::Deadline;
use crate::endpoint::{Endpoint, NodeBackoff};
use crate::plan::Cause;
use crate::policy::{ConnectError, broken_text, is_timeout};
use crate::resp::Handshake;
use crate::sync::resp_stream::RespStream;
use crate::sync::socket::Socket;

/// How to make connections to one node. Its clones share what is known of the node's reachability.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    endpoint: Endpoint,
    /// One for all connections to the node.
    pub(super) backoff: Arc<NodeBackoff>,
}

/// A connection that owes nothing. One that failed, or still owes a reply, is dropped and never used again.
pub(super) struct NodeConnection {
    stream: Box<RespStream>,
    pub(super) last_used: Instant,
    /// The generation of the pool that made it.
    pub(super) generation: u64,
}

/// How a request failed, and whether any of it left the machine.
pub(super) struct SendError {
    pub(super) cause: Cause,
    pub(super) sent: Delivery,
}

/// Whether a failed request may have reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    NotSent,
    MaybeSent,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            backoff: Arc::default(),
        }
    }

    /// The error for an attempt that failed.
    pub(super) fn error(&self, error: &RedisError) -> ConnectError {
        ConnectError::new(&self.endpoint.address, error)
    }

    /// A socket that is ready for SUBSCRIBE, in the protocol that mixes messages and replies as arrays.
    pub(super) fn connect_pub_sub(&self, deadline: &Deadline) -> RedisResult<Socket> {
        let mut stream = RespStream::connect(&self.endpoint, deadline)?;
        let settings = self.endpoint.info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP2);
        self.run_handshake(&mut stream, &Handshake::new(&settings), deadline)?;
        Ok(stream.into_socket())
    }

    /// A connection, ready for commands.
    pub(super) fn connect(
        &self,
        deadline: &Deadline,
        generation: u64,
    ) -> RedisResult<NodeConnection> {
        let mut stream = RespStream::connect(&self.endpoint, deadline)?;
        let handshake = Handshake::new(self.endpoint.info.redis_settings());
        self.run_handshake(&mut stream, &handshake, deadline)?;
        Ok(NodeConnection {
            stream: Box::new(stream),
            last_used: deadline.start,
            generation,
        })
    }

    /// Says the first words.
    fn run_handshake(
        &self,
        stream: &mut RespStream,
        handshake: &Handshake,
        deadline: &Deadline,
    ) -> RedisResult<()> {
        let hung_up = |error: io::Error| match is_timeout(&error) {
            true => error,
            false => {
                let text = format!("{}{}", broken_text(&error), self.endpoint.hint());
                io::Error::new(error.kind(), text)
            }
        };
        stream
            .write(&handshake.packed(), deadline)
            .map_err(|failed| hung_up(failed.error))?;
        let answers = (0..handshake.count())
            .map(|_| stream.read(deadline).map_err(hung_up))
            .collect::<Result<Vec<_>, _>>()?;
        handshake.check(&answers)
    }
}

impl NodeConnection {
    /// Writes all of `bytes`.
    pub(super) fn send(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), SendError> {
        self.stream
            .write(bytes, deadline)
            .map_err(|failed| SendError {
                cause: Cause::of_io(&failed.error),
                sent: if failed.written == 0 {
                    Delivery::NotSent
                } else {
                    Delivery::MaybeSent
                },
            })
    }

    /// Reads `count` replies into `values`; those that came stay there when one does not.
    pub(super) fn receive(
        &mut self,
        count: usize,
        deadline: &Deadline,
        values: &mut Vec<Value>,
    ) -> Result<(), Cause> {
        self.stream
            .read_all(count, deadline, values)
            .map_err(|error| Cause::of_io(&error))
    }

    /// Reads one reply.
    pub(super) fn reply(&mut self, deadline: &Deadline) -> Result<Value, Cause> {
        self.stream
            .read(deadline)
            .map_err(|error| Cause::of_io(&error))
    }

    /// Waits until something has come.
    pub(super) fn wait(&mut self, deadline: &Deadline) -> Result<(), Cause> {
        self.stream
            .wait(deadline)
            .map_err(|error| Cause::of_io(&error))
    }

    /// Reads one reply or push message.
    pub(super) fn message(&mut self, deadline: &Deadline) -> Result<Value, Cause> {
        self.stream
            .read_message(deadline)
            .map_err(|error| Cause::of_io(&error))
    }

    /// One request and its reply.
    pub(super) fn call(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<Value, SendError> {
        self.send(bytes, deadline)?;
        self.reply(deadline).map_err(|cause| SendError {
            cause,
            sent: Delivery::MaybeSent,
        })
    }

    /// Whether the other side has gone, as far as can be told without asking it.
    pub(super) fn is_stale(&self) -> bool {
        self.stream.is_stale()
    }
}
