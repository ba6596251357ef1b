//! [`ServerConnection`]: a connection to one server, over which it is asked about its replication.

use std::io;
use std::time::{Duration, Instant};

use redis::Value;

use crate::blocking::RespStream;
use crate::endpoint::{Deadline, Endpoint};
use crate::policy::{ConnectError, is_timeout};
use crate::resp::{INFO_REPLICATION, ROLE};
use crate::topology::replication::Replication;

/// A connection on which at most one reply is owed.
pub(super) struct ServerConnection {
    stream: RespStream,
    /// True for a user who may not run INFO.
    asks_role: bool,
    /// When the reply that is due was asked for.
    asked_at: Instant,
}

impl ServerConnection {
    /// Connects to a server.
    pub(super) fn open(endpoint: &Endpoint, limit: Duration) -> Result<Self, ConnectError> {
        let handshake = endpoint.monitor_handshake()?;
        let deadline = Deadline::start(Some(limit));
        let (stream, _) = RespStream::open(endpoint, &handshake, &deadline)?;
        Ok(Self {
            stream,
            asks_role: false,
            asked_at: Instant::now(),
        })
    }

    /// Sends the question.
    pub(super) fn ask(&mut self, limit: Duration) -> io::Result<()> {
        let question = match self.asks_role {
            true => ROLE,
            false => INFO_REPLICATION,
        };
        self.asked_at = Instant::now();
        let deadline = Deadline::start(Some(limit));
        let sent = self.stream.write(question, &deadline);
        sent.map_err(|failed| failed.error)
    }

    /// Time since the question was sent.
    pub(super) fn elapsed(&self) -> Duration {
        self.asked_at.elapsed()
    }

    /// Waits until the reply begins to arrive. Returns false if it does not within this time.
    pub(super) fn is_ready(&mut self, time: Duration) -> io::Result<bool> {
        match self.stream.wait(&Deadline::start(Some(time))) {
            Ok(()) => Ok(true),
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the reply, which has begun to arrive. `None` if it says nothing about replication.
    ///
    /// # Errors
    ///
    /// If the connection breaks.
    pub(super) fn reply(&mut self, limit: Duration) -> io::Result<Option<Replication>> {
        let reply = self.stream.read(&Deadline::start(Some(limit)))?;
        let parsed = match self.asks_role {
            true => Replication::of_role(&reply),
            false => Replication::of_info(&reply),
        };
        // Another question from now on: ROLE says less, but may be allowed.
        self.asks_role |= matches!(reply, Value::ServerError(_));
        Ok(parsed.ok())
    }
}
