//! Large requests of a client, forwarded to their node as they arrive.

use std::io;
use std::ops::ControlFlow;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::aio::Shared;
use crate::partition::NodeIndex;
use crate::plan::{Answers, Cause, Failure, NodeRequest, RawReplies};
use crate::proxy::net::call::send_for;
use crate::proxy::net::connection::ClientConnection;
use crate::proxy::net::streaming::{ReplyProgress, StreamingConnection};
use crate::resp::{FrameScanner, write_error};

/// How the client's bytes have ended.
enum Forwarded {
    /// The whole request was forwarded, or read and dropped because the node failed.
    All(Result<StreamingConnection, Cause>),
    /// The client is gone, or has broken the protocol.
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ClientConnection<'_, S> {
    /// Forwards a large request as it arrives, and then its reply, over a connection of its own: on a shared
    /// one, a client that sends slowly would hold up the requests of all others.
    ///
    /// When the node fails, the rest of the request is read and dropped, so that the client gets an error and
    /// may go on. In a Redis Cluster it is kept instead, since another server may serve it.
    pub(super) async fn upload(&mut self, node: NodeIndex) -> io::Result<ControlFlow<()>> {
        // The client may wait for earlier replies before it sends the rest.
        self.flush().await?;
        let shared = self.shared();
        let mut kept = shared.router.is_cluster().then(Vec::new);
        let mut pipe = match self.forward(&shared, node, &mut kept).await? {
            Forwarded::All(pipe) => pipe,
            Forwarded::Ended => return Ok(ControlFlow::Break(())),
        };
        let mut progress = ReplyProgress::new(kept.is_some());
        let (cause, sent) = match &mut pipe {
            Err(cause) => (cause.clone(), 0),
            Ok(pipe) => {
                let (io, session) = (&mut self.io, &self.session);
                let passed = pipe.stream_reply(io, session, &mut progress, &mut self.out);
                match passed.await {
                    // Nothing of the reply was written yet, so an error can take its place. Behind a part of
                    // a reply it could not be told from the rest, and the connection is closed.
                    Err(error) if progress.written == 0 => (Cause::of_io(&error), 1),
                    Ok(()) if !progress.error.is_empty() => {
                        let mut values = RawReplies::with_meter(Some(self.meter()));
                        values.push(&progress.error);
                        let failure = None;
                        let answers = Answers { values, failure };
                        return self.upload_again(&shared, node, kept, answers).await;
                    }
                    passed => return passed.map(|()| ControlFlow::Continue(())),
                }
            }
        };
        let failure = Failure { cause, sent };
        match kept {
            Some(_) => {
                let answers = Answers::failed(failure);
                self.upload_again(&shared, node, kept, answers).await
            }
            None => {
                // The outcome is unknown if the whole request was sent.
                let error = failure.of_write(shared.router.name(node), sent);
                self.write_error_reply(&error);
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// Forwards the bytes of the request to the node. They are kept as well if there is a buffer for them.
    async fn forward(
        &mut self,
        shared: &Shared,
        node: NodeIndex,
        kept: &mut Option<Vec<u8>>,
    ) -> io::Result<Forwarded> {
        let connector = shared.executor.connector(node);
        let connector = (&connector, shared.executor.epoch(node));
        let opened = StreamingConnection::open(connector, shared.executor.response_timeout()).await;
        let mut pipe = opened.map_err(Cause::from);
        let mut scanner = FrameScanner::default();
        while !scanner.is_complete() {
            let Ok(count) = scanner.advance(self.input.rest()) else {
                write_error(&mut self.out, "ERR", "Protocol error: invalid bulk length");
                return Ok(Forwarded::Ended);
            };
            let piece = &self.input.rest()[..count];
            if let Ok(open) = &mut pipe
                && let Err(error) = open.write(piece).await
            {
                pipe = Err(Cause::of_io(&error));
            }
            if let Some(kept) = kept {
                if kept.len() + count > self.io.limits.query_bytes {
                    let text = "Protocol error: the request is too large";
                    write_error(&mut self.out, "ERR", text);
                    return Ok(Forwarded::Ended);
                }
                kept.extend_from_slice(piece);
                let buffers = self.input.held() + self.out.capacity() + kept.capacity();
                self.io.memory.set_buffers(buffers + self.session.held());
            }
            self.input.consume(count);
            if !scanner.is_complete() && self.read(1).await?.is_break() {
                return Ok(Forwarded::Ended);
            }
        }
        Ok(Forwarded::All(pipe))
    }

    /// Writes the reply that `node` has given, or the lack of one; in a Redis Cluster that of another server, if that one
    /// serves the request.
    async fn upload_again(
        &mut self,
        shared: &Shared,
        node: NodeIndex,
        kept: Option<Vec<u8>>,
        answers: Answers<RawReplies>,
    ) -> io::Result<ControlFlow<()>> {
        let request = NodeRequest::single_write(node, kept.unwrap_or_default());
        let bytes = request.packed.len();
        let mut requests = shared.router.exchange_after(request, answers);
        let meter = self.meter();
        self.count_memory();
        // The request, which is in none of the buffers any more.
        meter.add(bytes);
        let sent = send_for(shared, &mut requests, &meter, &mut self.waiting()).await;
        meter.subtract(bytes);
        sent?;
        let Some((request, answers)) = requests.into_last() else {
            return Ok(ControlFlow::Continue(()));
        };
        match (answers.values.frame(0), answers.failure) {
            (Some(frame), _) => self.out.extend_from_slice(frame),
            (None, failure) => {
                let name = request.node_name(&shared.router);
                let error = failure.map(|failure| failure.write_error(&name));
                if let Some(error) = error {
                    self.write_error_reply(&error);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
