//! What is too large to be kept: from the client to a node, and from a node to the client, as it comes.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::aio::Shared;
use crate::aio::peek::Duplex;
use crate::aio::reconnecting::Connector;
use crate::error::Error;
use crate::plan::{Cause, Failure, OversizedReply};
use crate::policy::ConnectError;
use crate::proxy::Session;
use crate::proxy::net::client_io::ClientIo;
use crate::resp::FrameScanner;

/// Read at once at most.
const PIECE_BYTES: usize = 128 << 10;

/// A connection to a node for one request whose bytes are kept nowhere.
pub(super) struct StreamingConnection {
    stream: Box<dyn Duplex>,
    /// How long the node may do nothing.
    timeout: Option<Duration>,
}

impl StreamingConnection {
    pub(super) async fn open(
        connector: &Connector,
        timeout: Option<Duration>,
    ) -> Result<Self, ConnectError> {
        let attempt = connector.backoff.try_begin(connector.timeout);
        let attempt = attempt.map_err(|down| down.reason)?;
        let opened = connector.open(connector.handshake()).await;
        let (stream, _) = attempt.end(opened)?;
        Ok(Self { stream, timeout })
    }

    /// Passes a piece of the request on.
    pub(super) async fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        within(self.timeout, self.stream.write_all(piece)).await
    }

    /// Passes the reply on; messages that come meanwhile are appended to `behind`. The number of bytes that the client got
    /// says whether a failure can still be told.
    pub(super) async fn stream_reply<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        client: &mut ClientIo<S>,
        session: &Session,
        told: &mut usize,
        behind: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut scanner = FrameScanner::default();
        let mut piece = vec![0; PIECE_BYTES];
        while !scanner.is_complete() {
            let count = within(self.timeout, self.stream.read(&mut piece)).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = scanner.advance(&piece[..count])?;
            *told += count;
            client.write(&piece[..count], session, behind).await?;
        }
        Ok(())
    }
}

async fn within<T>(
    timeout: Option<Duration>,
    step: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match timeout {
        None => step.await,
        Some(timeout) => match tokio::time::timeout(timeout, step).await {
            Ok(done) => done,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
    }
}

/// Asks again for a reply that was too large to be kept, and passes it on as it comes. The error that can be told instead.
pub(super) async fn stream_oversized_reply<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    large: &OversizedReply<'_>,
    client: &mut ClientIo<S>,
    session: &Session,
    behind: &mut Vec<u8>,
) -> io::Result<Result<(), Error>> {
    let name = shared.router.name(large.node);
    let failed = |cause| Ok(Err(Failure::not_sent(cause).without_answer(name)));
    let connector = shared.executor.connector(large.node);
    let mut pipe =
        match StreamingConnection::open(&connector, shared.executor.response_timeout()).await {
            Ok(pipe) => pipe,
            Err(why) => return failed(Cause::Connect(why)),
        };
    if let Err(error) = pipe.write(large.request).await {
        return failed(Cause::of_io(&error));
    }
    let mut told = 0;
    match pipe.stream_reply(client, session, &mut told, behind).await {
        Err(error) if told == 0 => failed(Cause::of_io(&error)),
        passed => passed.map(Ok),
    }
}
