//! Opening a connection: the socket, TLS, and the first requests.

use std::io;

use redis::{RedisError, RedisResult};

use crate::blocking::RespStream;
use crate::endpoint::{Deadline, Endpoint, PrimaryVersion};
use crate::policy::{ConnectError, IoFailure, is_timeout};
use crate::resp::Handshake;

impl RespStream {
    /// Connects to the current address of an endpoint and runs the handshake. Returns the version of the address as
    /// well, if it may change.
    pub(crate) fn open(
        endpoint: &Endpoint,
        handshake: &Handshake,
        deadline: &Deadline,
    ) -> Result<(Self, Option<PrimaryVersion>), ConnectError> {
        let located = endpoint.locate(deadline)?;
        let endpoint = &located.endpoint;
        let opened = Self::connect(endpoint, deadline)
            .map_err(RedisError::from)
            .and_then(|mut stream| {
                stream.run_handshake(endpoint, handshake, deadline)?;
                Ok(stream)
            });
        let stream = opened.map_err(|error| ConnectError::new(&endpoint.address, &error))?;
        if let Some(primary) = &located.primary {
            primary.confirmed();
        }
        Ok((stream, located.primary))
    }

    /// Sends the handshake in one go and checks its replies.
    pub(crate) fn run_handshake(
        &mut self,
        endpoint: &Endpoint,
        handshake: &Handshake,
        deadline: &Deadline,
    ) -> RedisResult<()> {
        // The hint is for a server that closes during the handshake, which is how a missing client
        // certificate shows in TLS 1.3.
        let hung_up = |error: io::Error| match is_timeout(&error) {
            true => error,
            false => endpoint.handshake_broke(IoFailure::broken(&error)),
        };
        if let Err(failed) = self.write(&handshake.packed(), deadline) {
            // A server that has closed the connection may have sent the reason before: a TLS alert.
            let reason = self
                .read(deadline)
                .err()
                .filter(|_| !is_timeout(&failed.error));
            return Err(hung_up(reason.unwrap_or(failed.error)).into());
        }
        // Replies to the whole handshake are read even if one of them is an error, so that a refused CLIENT
        // SETINFO, which is harmless, does not leave the rest in the stream.
        let answers = (0..handshake.count())
            .map(|_| self.read(deadline).map_err(hung_up))
            .collect::<Result<Vec<_>, _>>()?;
        endpoint.check(handshake, &answers)
    }
}
