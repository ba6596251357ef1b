//! One connection to one node.

use std::io;
use std::time::{Duration, Instant};

use redis::{Connection, RedisError, RedisResult, Value};

use crate::handshake::Handshake;
use crate::plan::Cause;
use crate::settings::is_ordinary;
use crate::sync::deadline::Deadline;
use crate::sync::socket::Socket;
use crate::sync::wire::Wire;

/// Which kind of connection is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// A socket of our own where the node's address and settings allow it.
    Plain,
    /// redis-rs' connection, which can be handed to the user for publish and subscribe.
    RedisRs,
}

/// How to make a connection.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    client: redis::Client,
    kind: LinkKind,
}

/// A connection that owes nothing. One that failed, or still owes a reply, is dropped and never used again.
pub(super) struct Link {
    channel: Channel,
    pub(super) last_used: Instant,
    /// The generation of the pool that made it.
    pub(super) generation: u64,
}

enum Channel {
    Plain(Box<Wire>),
    RedisRs(Box<Connection>),
}

/// How a request failed, and whether any of it left the machine.
pub(super) struct Lost {
    pub(super) cause: Cause,
    pub(super) sent: Sent,
}

/// Whether a failed request may have reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Nothing,
    Perhaps,
}

impl Connector {
    pub(super) fn new(client: redis::Client, kind: LinkKind) -> Self {
        let info = client.get_connection_info();
        let tcp = info.tcp_settings();
        let ordinary = is_ordinary(tcp);
        let kind = match Socket::reaches(info.addr()) && ordinary {
            true => kind,
            false => LinkKind::RedisRs,
        };
        Self { client, kind }
    }

    /// redis-rs' own connection, which can be handed to the user for publish and subscribe.
    pub(super) fn connect_redis_rs(
        &self,
        deadline: &Deadline,
        generation: u64,
    ) -> RedisResult<Link> {
        let connector = Self {
            client: self.client.clone(),
            kind: LinkKind::RedisRs,
        };
        connector.connect(deadline, generation)
    }

    /// Whether its connections are sockets of our own.
    pub(super) fn is_plain(&self) -> bool {
        self.kind == LinkKind::Plain
    }

    /// A socket that is ready for SUBSCRIBE, in the protocol that mixes messages and replies as arrays.
    pub(super) fn connect_listener(&self, deadline: &Deadline) -> RedisResult<Socket> {
        let info = self.client.get_connection_info();
        let mut wire = Wire::connect(info.addr(), deadline)?;
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(redis::ProtocolVersion::RESP2);
        greet(&mut wire, &Handshake::new(&settings), deadline)?;
        Ok(wire.into_socket())
    }

    /// A connection, ready for commands.
    pub(super) fn connect(&self, deadline: &Deadline, generation: u64) -> RedisResult<Link> {
        let info = self.client.get_connection_info();
        let channel = match self.kind {
            LinkKind::Plain => {
                let mut wire = Wire::connect(info.addr(), deadline)?;
                greet(&mut wire, &Handshake::new(info.redis_settings()), deadline)?;
                Channel::Plain(Box::new(wire))
            }
            LinkKind::RedisRs => {
                let timeout = deadline
                    .remaining()
                    .unwrap_or(Duration::MAX)
                    .max(Duration::from_millis(1));
                Channel::RedisRs(Box::new(self.client.get_connection_with_timeout(timeout)?))
            }
        };
        Ok(Link {
            channel,
            last_used: deadline.start,
            generation,
        })
    }
}

impl Link {
    /// Writes all of `bytes`.
    pub(super) fn send(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), Lost> {
        match &mut self.channel {
            Channel::Plain(wire) => wire.write(bytes, deadline).map_err(|failed| Lost {
                cause: cause(&failed.error.into(), deadline),
                sent: if failed.written == 0 {
                    Sent::Nothing
                } else {
                    Sent::Perhaps
                },
            }),
            Channel::RedisRs(connection) => arm(connection, deadline)
                .and_then(|()| connection.send_packed_command(bytes))
                .map_err(|error| Lost {
                    cause: cause(&error, deadline),
                    sent: Sent::Perhaps,
                }),
        }
    }

    /// Reads `count` replies into `values`; those that came stay there when one does not.
    pub(super) fn receive(
        &mut self,
        count: usize,
        deadline: &Deadline,
        values: &mut Vec<Value>,
    ) -> Result<(), Cause> {
        match &mut self.channel {
            Channel::Plain(wire) => wire
                .read_all(count, deadline, values)
                .map_err(|error| cause(&error.into(), deadline)),
            Channel::RedisRs(_) => {
                for _ in 0..count {
                    values.push(self.reply(deadline)?);
                }
                Ok(())
            }
        }
    }

    /// Reads one reply.
    pub(super) fn reply(&mut self, deadline: &Deadline) -> Result<Value, Cause> {
        match &mut self.channel {
            Channel::Plain(wire) => wire.read(deadline).map_err(RedisError::from),
            Channel::RedisRs(connection) => {
                arm(connection, deadline).and_then(|()| reply(connection))
            }
        }
        .map_err(|error| cause(&error, deadline))
    }

    /// One request and its reply.
    pub(super) fn call(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<Value, Lost> {
        self.send(bytes, deadline)?;
        self.reply(deadline).map_err(|cause| Lost {
            cause,
            sent: Sent::Perhaps,
        })
    }

    /// Whether the other side has gone, as far as can be told without asking it.
    pub(super) fn is_stale(&self) -> bool {
        match &self.channel {
            Channel::Plain(wire) => wire.is_stale(),
            Channel::RedisRs(_) => false,
        }
    }

    /// redis-rs' own connection, if it is one.
    pub(super) fn redis_rs(&mut self) -> Option<&mut Connection> {
        match &mut self.channel {
            Channel::Plain(_) => None,
            Channel::RedisRs(connection) => Some(connection),
        }
    }
}

/// Says the first words.
fn greet(wire: &mut Wire, handshake: &Handshake, deadline: &Deadline) -> RedisResult<()> {
    wire.write(&handshake.packed(), deadline)
        .map_err(|failed| failed.error)?;
    let answers = (0..handshake.count())
        .map(|_| wire.read(deadline))
        .collect::<Result<Vec<_>, _>>()?;
    handshake.check(&answers)
}

/// Tells redis-rs' connection how long a read or a write may wait.
fn arm(connection: &Connection, deadline: &Deadline) -> RedisResult<()> {
    let left = deadline
        .remaining()
        .map(|left| left.max(Duration::from_millis(1)));
    connection.set_read_timeout(left)?;
    connection.set_write_timeout(left)
}

fn reply(connection: &mut Connection) -> RedisResult<Value> {
    loop {
        match connection.recv_response()? {
            // RESP3 may put messages between replies.
            Value::Push { .. } => {}
            value => return Ok(value),
        }
    }
}

/// What a failed read or write means.
fn cause(error: &RedisError, deadline: &Deadline) -> Cause {
    match error.is_timeout() || is_timed_out(error) {
        true => Cause::Timeout(deadline.missed()),
        false => Cause::Dropped(error.to_string()),
    }
}

fn is_timed_out(error: &RedisError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
            )
        })
}
