//! Requests and replies that are too large to be kept in memory, forwarded in pieces as they arrive.
//!
//! * [`StreamingConnection`]: a connection to a node for one request and its reply. Not a shared one: a slow
//!   client would hold up the replies of all others behind its own.
//! * [`stream_oversized_reply`]: asks again for a reply that turned out to be too large, and forwards it.
//!   Only replies to reads are dropped for their size, so asking twice has no effect on the data.
//!
//! Once a byte of a reply has been written to the client, a failure cannot be reported any more and ends the
//! connection.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::aio::Shared;
use crate::aio::peek::Duplex;
use crate::aio::reconnecting::Connector;
use crate::endpoint::PrimaryVersion;
use crate::observe::NodeObserver;
use crate::plan::{AttemptKind, Cause, OversizedReply};
use crate::policy::{ConnectError, HandshakeScope};
use crate::proxy::Session;
use crate::proxy::net::client_io::ClientIo;
use crate::resp::FrameScanner;

/// Maximum number of bytes read at once.
const PIECE_BYTES: usize = 128 << 10;

/// A connection to a node for one request whose bytes are not kept.
pub(super) struct StreamingConnection {
    stream: Box<dyn Duplex>,
    /// The version of the node's address, if it may change.
    primary: Option<PrimaryVersion>,
    /// Maximum time for which the node may take or send nothing. Not a deadline for the whole: a large value
    /// may take minutes.
    timeout: Option<Duration>,
    /// Counts the bytes sent and received.
    observer: Arc<NodeObserver>,
}

impl StreamingConnection {
    /// Connects to the node, unless it is in its backoff after failures.
    pub(super) async fn open(
        connector: &Connector,
        timeout: Option<Duration>,
    ) -> Result<Self, ConnectError> {
        let attempt = connector
            .backoff
            .try_begin(connector.timeout, HandshakeScope::Full);
        let attempt = attempt.map_err(|down| down.reason)?;
        let opened = connector.open().await;
        let opened = attempt.end(opened)?;
        let observer = Arc::clone(connector.observer());
        observer.started(AttemptKind::First);
        Ok(Self {
            stream: opened.stream,
            primary: opened.primary,
            timeout,
            observer,
        })
    }

    /// Sends a piece of the request.
    pub(super) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        // A large request takes its time, in which another server may become the primary.
        if self
            .primary
            .as_ref()
            .is_some_and(|primary| !primary.is_current())
        {
            let text = ConnectError::PrimaryChanged.to_string();
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, text));
        }
        let write = self.stream.write_all(piece);
        within(self.timeout, &self.observer, write).await?;
        self.observer.sent(piece.len());
        Ok(())
    }

    /// Forwards one reply to the client; messages that arrive in the meantime are appended to `behind`.
    /// `written` counts the bytes written: while it is zero, the caller can still report a failure.
    pub(super) async fn stream_reply<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        client: &mut ClientIo<S>,
        session: &Session,
        written: &mut usize,
        behind: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut scanner = FrameScanner::default();
        let mut piece = vec![0; PIECE_BYTES];
        while !scanner.is_complete() {
            let read = self.stream.read(&mut piece);
            let count = within(self.timeout, &self.observer, read).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.observer.received(count);
            let count = scanner.advance(&piece[..count])?;
            // Before the write, which may fail after a part of it.
            *written += count;
            client.write(&piece[..count], session, behind).await?;
        }
        Ok(())
    }
}

/// Runs one step, with a timeout if there is one.
async fn within<T>(
    timeout: Option<Duration>,
    observer: &NodeObserver,
    step: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match timeout {
        None => step.await,
        Some(timeout) => match tokio::time::timeout(timeout, step).await {
            Ok(done) => done,
            Err(_) => {
                observer.timed_out();
                Err(io::ErrorKind::TimedOut.into())
            }
        },
    }
}

/// Requests a reply again that was too large to be kept, and forwards it as it arrives. The inner error says
/// why there is none, and nothing was written then; the outer one ends the connection.
pub(super) async fn stream_oversized_reply<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    large: &OversizedReply<'_>,
    client: &mut ClientIo<S>,
    session: &Session,
    behind: &mut Vec<u8>,
) -> io::Result<Result<(), Cause>> {
    let connector = shared.executor.connector(large.node);
    let mut pipe =
        match StreamingConnection::open(&connector, shared.executor.response_timeout()).await {
            Ok(pipe) => pipe,
            Err(why) => return Ok(Err(Cause::Connect(why))),
        };
    if let Err(error) = pipe.write(large.request).await {
        return Ok(Err(Cause::of_io(&error)));
    }
    let mut written = 0;
    match pipe
        .stream_reply(client, session, &mut written, behind)
        .await
    {
        Err(error) if written == 0 => Ok(Err(Cause::of_io(&error))),
        passed => passed.map(Ok),
    }
}
