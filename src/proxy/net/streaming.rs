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
use crate::aio::connector::Connector;
use crate::aio::peek::Duplex;
use crate::endpoint::PrimaryVersion;
use crate::observe::NodeObserver;
use crate::plan::{
    Answers, AttemptKind, Cause, Exchange, Failure, NodeRequest, OversizedReply, RawReplies,
    SharedByteMeter,
};
use crate::policy::{ConnectError, HandshakeScope};
use crate::proxy::Session;
use crate::proxy::net::call::{Waiting, send_for};
use crate::proxy::net::client_io::ClientIo;
use crate::resp::FrameScanner;

/// Maximum number of bytes read at once.
const PIECE_BYTES: usize = 128 << 10;

/// What has come of a reply.
pub(super) struct ReplyProgress {
    /// Number of bytes written to the client: while it is zero, the caller can still report a failure.
    pub(super) written: usize,
    /// The reply, if it is an error and those are kept.
    pub(super) error: Vec<u8>,
    /// True if an error is not written to the client, since another server may serve the request.
    keeps_errors: bool,
}

impl ReplyProgress {
    pub(super) fn new(keeps_errors: bool) -> Self {
        Self {
            written: 0,
            error: Vec::new(),
            keeps_errors,
        }
    }

    /// True if this piece of the reply belongs to an error that is kept.
    fn is_error(&self, piece: &[u8]) -> bool {
        let begins = self.written == 0 && matches!(piece, [b'-' | b'!', ..]);
        self.keeps_errors && (begins || !self.error.is_empty())
    }
}

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
    /// Connects to the node for a request that was placed by the record of this epoch, unless the node is in its backoff
    /// after failures.
    pub(super) async fn open(
        (connector, epoch): (&Connector, u64),
        timeout: Option<Duration>,
    ) -> Result<Self, ConnectError> {
        let attempt = connector
            .backoff
            .try_begin(connector.timeout, HandshakeScope::Full);
        let attempt = attempt.map_err(|down| down.reason)?;
        let opened = connector.open().await;
        let opened = attempt.end(opened)?;
        if epoch < opened.epoch {
            return Err(ConnectError::Superseded);
        }
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
    pub(super) async fn stream_reply<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        client: &mut ClientIo<S>,
        session: &Session,
        progress: &mut ReplyProgress,
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
            if progress.is_error(&piece[..count]) {
                progress.error.extend_from_slice(&piece[..count]);
                continue;
            }
            // Before the write, which may fail after a part of it.
            progress.written += count;
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
///
/// In a Redis Cluster the reply may have moved to another server. It is kept whole then.
pub(super) async fn stream_oversized_reply<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    large: &OversizedReply<'_>,
    client: &mut Waiting<'_, S>,
    meter: &SharedByteMeter,
    behind: &mut Vec<u8>,
) -> io::Result<Result<(), Cause>> {
    let request = large.again();
    // The reply to ASKING would come first, and a node of a newer topology is not known here.
    if request.is_asking() || request.has_moved() {
        let again = shared.router.exchange_again(request);
        return fetch(shared, again, client, meter, behind).await;
    }
    let mut progress = ReplyProgress::new(shared.router.is_cluster());
    let cause = match stream_once(shared, &request, client, &mut progress, behind).await {
        Ok(()) if progress.error.is_empty() => return Ok(Ok(())),
        Ok(()) => None,
        Err(Ok(cause)) => Some(cause),
        Err(Err(error)) => return Err(error),
    };
    let answers = match cause {
        Some(cause) if !shared.router.is_cluster() && !cause.keeps_connection() => {
            return Ok(Err(cause));
        }
        Some(cause) => Answers::failed(Failure::not_sent(cause)),
        None => {
            let mut values = RawReplies::with_meter(Some(Arc::clone(meter)));
            values.push(&progress.error);
            let failure = None;
            Answers { values, failure }
        }
    };
    let again = shared.router.exchange_after(request, answers);
    fetch(shared, again, client, meter, behind).await
}

/// Sends a request to its server and forwards the reply. Fails with a cause if nothing was written, and with an error that
/// ends the connection otherwise.
async fn stream_once<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    request: &NodeRequest,
    client: &mut Waiting<'_, S>,
    progress: &mut ReplyProgress,
    behind: &mut Vec<u8>,
) -> Result<(), Result<Cause, io::Error>> {
    let Some(connector) = shared.executor.connector_for(request) else {
        return Err(Ok(Cause::server_left()));
    };
    let connector = (&connector, shared.executor.epoch(request.node));
    let opened = StreamingConnection::open(connector, shared.executor.response_timeout()).await;
    let mut pipe = opened.map_err(|why| Ok(Cause::from(why)))?;
    let written = pipe.write(&request.packed).await;
    written.map_err(|error| Ok(Cause::of_io(&error)))?;
    let passed = pipe
        .stream_reply(client.io, client.session, progress, behind)
        .await;
    passed.map_err(|error| match progress.written {
        0 => Ok(Cause::of_io(&error)),
        _ => Err(error),
    })
}

/// Carries an exchange of one request out, and writes its reply to the client.
async fn fetch<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut requests: Exchange<RawReplies>,
    client: &mut Waiting<'_, S>,
    meter: &SharedByteMeter,
    behind: &mut Vec<u8>,
) -> io::Result<Result<(), Cause>> {
    send_for(shared, &mut requests, meter, client).await?;
    let answers = requests.into_last().map(|(_, answers)| answers);
    let answers = answers.unwrap_or_default();
    if let Some(frame) = answers.values.frame(0) {
        client.io.write(frame, client.session, behind).await?;
        return Ok(Ok(()));
    }
    let cause = answers.failure.map(|failure| failure.cause);
    Ok(Err(cause.unwrap_or_else(Cause::no_reply)))
}
