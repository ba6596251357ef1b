//! [`SentinelConnection`]: a connection to one Sentinel.

use std::io;
use std::time::Duration;

use redis::Value;

use crate::blocking::RespStream;
use crate::endpoint::{Deadline, Endpoint};
use crate::policy::{ConnectError, HandshakeScope, is_timeout};
use crate::sentinel::group::GroupState;
use crate::topology::HostPort;
use crate::topology::sentinel::{Questions, Report};

/// How long a connection without a reply is left before another is looked at.
const TURN: Duration = Duration::from_millis(2);

/// A connection on which no reply is owed.
pub(super) struct SentinelConnection {
    stream: RespStream,
    /// Names the Sentinel, in place of an id that it does not have.
    address: String,
}

impl SentinelConnection {
    /// Connects to the Sentinel at this address.
    pub(super) fn open(
        group: &GroupState,
        address: &HostPort,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        let given = &group.settings.sentinels;
        let is_it = |endpoint: &&Endpoint| endpoint.host_and_port().as_ref() == Some(address);
        // One that was given may be reached otherwise than the rest. The first is as good as any for one that was
        // not: there is one, as a source without Sentinels is refused.
        let Some(endpoint) = given.iter().find(is_it).or(given.first()) else {
            return Err("no Sentinel was given".into());
        };
        let endpoint = endpoint.at_host(address)?;
        let (handshake, _) = endpoint.handshake(HandshakeScope::Full)?;
        let deadline = Deadline::start(Some(limit));
        let (stream, _) = RespStream::open(&endpoint, &handshake, &deadline)?;
        Ok(Self {
            stream,
            address: endpoint.address,
        })
    }

    /// Sends a request.
    pub(super) fn send(&mut self, packed: &[u8], deadline: &Deadline) -> io::Result<()> {
        self.stream
            .write(packed, deadline)
            .map_err(|failed| failed.error)
    }

    /// Waits for a short while until a reply begins to arrive. Returns false if none does.
    pub(super) fn is_ready(&mut self) -> io::Result<bool> {
        self.wait(TURN)
    }

    /// Waits until something arrives. Returns false if nothing does.
    pub(super) fn wait(&mut self, limit: Duration) -> io::Result<bool> {
        match self.stream.wait(&Deadline::start(Some(limit))) {
            Ok(()) => Ok(true),
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the replies to `questions`, and the id of the Sentinel, or its address if it has none.
    pub(super) fn report(
        &mut self,
        questions: &Questions,
        deadline: &Deadline,
    ) -> Result<(String, Report), String> {
        let mut replies: Vec<Value> = Vec::new();
        let read = self
            .stream
            .read_all(questions.count, deadline, &mut replies);
        read.map_err(|error| error.to_string())?;
        let report = Questions::parse(&replies)?;
        let id = report.id.clone().unwrap_or_else(|| self.address.clone());
        Ok((id, report))
    }

    /// Reads one message, which has begun to arrive.
    pub(super) fn message(&mut self, deadline: &Deadline) -> io::Result<Value> {
        self.stream.read_message(deadline)
    }
}
