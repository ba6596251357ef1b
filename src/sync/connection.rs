//! One connection to one node, and how it is made.

use std::sync::Arc;
use std::time::Instant;

use redis::{RedisError, Value};

use crate::blocking::{RespStream, Socket};
use crate::endpoint::Deadline;
use crate::endpoint::{Endpoint, FORMER_PRIMARY_GRACE, NodeBackoff, Presented, PrimaryVersion};
use crate::observe::{NodeObserver, OpenConnection, PoolKind};
use crate::plan::{Cause, ReplyBuffer, is_of_replica};
use crate::policy::{ConnectError, HandshakeScope, is_timeout};

/// The epoch of requests that concern no key, and of those to servers without a record: no connection refuses it.
pub(super) const ANY_EPOCH: u64 = u64::MAX;

/// How to make connections to one node. Clones share the node's backoff.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    /// Address, TLS and socket options.
    endpoint: Endpoint,
    /// One for all connections to the node, including those made by other clones.
    pub(super) backoff: Arc<NodeBackoff>,
}

/// A connection on which no reply is owed. One that failed, or on which a reply is still due, is dropped and
/// never used again: its next reply would be taken for that of another request.
pub(super) struct NodeConnection {
    /// Boxed, as connections are moved in and out of the pool.
    stream: Box<RespStream>,
    /// When the last request began. Decides whether the connection is checked before it is used again.
    pub(super) last_used: Instant,
    /// The generation of the pool when the connection was made.
    pub(super) generation: u64,
    /// False if its handshake was made for one request only.
    pub(super) is_reusable: bool,
    /// The version of the login, and the epoch of the record, that the connection has presented.
    presented: Presented,
    /// The version of the address that the connection was made to, if it may change.
    primary: Option<PrimaryVersion>,
    /// Reports the end of the connection. Last, so that the socket is closed before.
    _open: OpenConnection,
}

/// How a request failed, and whether any of it may have reached the server.
pub(super) struct SendError {
    pub(super) cause: Cause,
    pub(super) sent: Delivery,
}

/// How far a failed request may have got. A write that may have reached the server is never resent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The socket took no byte.
    NotSent,
    /// The socket took some bytes, which the kernel may or may not have sent.
    MaybeSent,
}

impl Connector {
    /// Receives what happens to the node, for events and metrics.
    pub(super) fn observer(&self) -> &Arc<NodeObserver> {
        &self.endpoint.observer
    }

    /// A connector whose node has not failed yet.
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            backoff: NodeBackoff::of_endpoint(&endpoint),
            endpoint,
        }
    }

    /// The error of a failed attempt, with the node's address.
    pub(super) fn error(&self, error: &RedisError) -> ConnectError {
        ConnectError::new(&self.endpoint.address, error)
    }

    /// Connects a socket for SUBSCRIBE. Always in RESP2, where messages and confirmations have one form:
    /// arrays. Returns the version of the node's address as well, if that may change.
    pub(super) fn connect_pub_sub(
        &self,
        deadline: &Deadline,
    ) -> Result<(Socket, Option<PrimaryVersion>), ConnectError> {
        let handshake = self.endpoint.pub_sub_handshake()?;
        let (stream, primary) = RespStream::open(&self.endpoint, &handshake, deadline)?;
        // Nothing was read ahead: before the first SUBSCRIBE the node sends nothing but the replies to the
        // handshake.
        Ok((stream.into_socket(), primary))
    }

    /// Makes a connection for commands, for a pool of this kind and generation.
    pub(super) fn connect(
        &self,
        deadline: &Deadline,
        pool: PoolKind,
        generation: u64,
        scope: HandshakeScope,
    ) -> Result<NodeConnection, ConnectError> {
        let (handshake, presented) = self.endpoint.handshake(scope)?;
        let (mut stream, primary) = RespStream::open(&self.endpoint, &handshake, deadline)?;
        // Not before: a connection that cannot be made is not lost.
        stream.set_pushes(self.endpoint.pushes.clone());
        Ok(NodeConnection {
            stream: Box::new(stream),
            last_used: deadline.start,
            generation,
            is_reusable: scope == HandshakeScope::Full,
            presented,
            primary,
            _open: OpenConnection::new(&self.endpoint.observer, pool),
        })
    }

    /// True if the credentials, the name of the client or the record of the node have changed since `connection` presented
    /// them.
    #[inline]
    pub(super) fn is_renewal_due(&self, connection: &NodeConnection) -> bool {
        self.endpoint.is_renewal_due(connection.presented)
    }

    /// True if the client goes by a newer record than `connection` has presented.
    #[inline]
    pub(super) fn is_superseded(&self, connection: &NodeConnection) -> bool {
        connection.presented.epoch < self.endpoint.record_epoch()
    }

    /// Presents the current credentials, the name of the client and the record on a connection that exists. After an
    /// error the connection must not be used.
    pub(super) fn renew(
        &self,
        connection: &mut NodeConnection,
        deadline: &Deadline,
    ) -> Result<(), ConnectError> {
        let (renewal, presented) = self.endpoint.renewal(connection.presented)?;
        connection
            .stream
            .run_handshake(&self.endpoint, &renewal, deadline)
            .map_err(|error| self.error(&error))?;
        connection.presented = presented;
        Ok(())
    }
}

impl NodeConnection {
    /// Writes all of `bytes`, requests that were placed by the record of this epoch.
    pub(super) fn send(
        &mut self,
        bytes: &[u8],
        epoch: u64,
        deadline: &Deadline,
    ) -> Result<(), SendError> {
        if self.is_newer_than(epoch) {
            return Err(SendError {
                cause: Cause::Superseded,
                sent: Delivery::NotSent,
            });
        }
        if self.is_outdated() {
            return Err(SendError {
                cause: Cause::Connect(ConnectError::PrimaryChanged),
                sent: Delivery::NotSent,
            });
        }
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

    /// Reads `count` replies into `values`. On an error, the replies read before it stay there.
    pub(super) fn receive(
        &mut self,
        count: usize,
        deadline: &Deadline,
        values: &mut Vec<Value>,
    ) -> Result<(), Cause> {
        self.wait_at_primary(deadline)?;
        let read = self.stream.read_all(count, deadline, values);
        if let Some(primary) = &self.primary
            && values.shows_a_replica()
        {
            primary.demoted();
        }
        read.map_err(|error| Cause::of_io(&error))
    }

    /// Reads one reply.
    pub(super) fn reply(&mut self, deadline: &Deadline) -> Result<Value, Cause> {
        self.wait_at_primary(deadline)?;
        let read = self.stream.read(deadline);
        if let (Some(primary), Ok(reply)) = (&self.primary, &read)
            && is_of_replica(reply)
        {
            primary.demoted();
        }
        read.map_err(|error| Cause::of_io(&error))
    }

    /// Waits until a primary that may change begins to reply, but not for long once it is none any more.
    fn wait_at_primary(&mut self, deadline: &Deadline) -> Result<(), Cause> {
        let Some(primary) = &self.primary else {
            return Ok(());
        };
        let mut was_current = true;
        loop {
            match self.stream.wait(&deadline.within(FORMER_PRIMARY_GRACE)) {
                Err(error) if is_timeout(&error) && !deadline.is_over() => {}
                // Also at the end of the time, which reading reports.
                Err(error) if is_timeout(&error) => return Ok(()),
                other => return other.map_err(|error| Cause::of_io(&error)),
            }
            if !was_current {
                self.stream.lost();
                let why = "the node has another primary now, and the one before does not reply";
                return Err(Cause::Dropped(why.into()));
            }
            was_current = primary.is_current();
        }
    }

    /// True if the connection leads to a server that is not the node's primary any more.
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        self.primary
            .as_ref()
            .is_some_and(|primary| !primary.is_current())
    }

    /// True if the connection has presented a newer record than that of this epoch.
    #[inline]
    pub(super) fn is_newer_than(&self, epoch: u64) -> bool {
        epoch < self.presented.epoch
    }

    /// Waits until bytes have arrived.
    pub(super) fn wait(&mut self, deadline: &Deadline) -> Result<(), Cause> {
        self.stream
            .wait(deadline)
            .map_err(|error| Cause::of_io(&error))
    }

    /// Reads one reply or RESP3 push message.
    pub(super) fn message(&mut self, deadline: &Deadline) -> Result<Value, Cause> {
        self.stream
            .read_message(deadline)
            .map_err(|error| Cause::of_io(&error))
    }

    /// Sends one request, placed by the record of this epoch, and reads its reply.
    pub(super) fn call(
        &mut self,
        bytes: &[u8],
        epoch: u64,
        deadline: &Deadline,
    ) -> Result<Value, SendError> {
        self.send(bytes, epoch, deadline)?;
        self.reply(deadline).map_err(|cause| SendError {
            cause,
            sent: Delivery::MaybeSent,
        })
    }

    /// Reports that the connection is lost, once, to the receiver of its push messages.
    pub(super) fn lost(&mut self) {
        self.stream.lost();
    }

    /// True if the server has closed the connection, as far as its socket shows; no request is sent.
    pub(super) fn is_stale(&self) -> bool {
        self.stream.is_stale()
    }
}
