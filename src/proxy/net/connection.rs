//! One connection of a proxy.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::aio::Subscriber;
use crate::aio::exclusive_pool::Lease;
use crate::partition::NodeIndex;
use crate::plan::pubsub::Event;
use crate::plan::{Cause, Failure, RawPipeline, ScriptStore, SharedByteMeter, WriteProgress};
use crate::proxy::net::Proxy;
use crate::proxy::net::call::send;
use crate::proxy::net::client_io::{ClientIo, Interrupt, unless_killed};
use crate::proxy::net::input::RequestBuffer;
use crate::proxy::net::memory::ClientMemory;
use crate::proxy::net::registry::{ClientEntry, ClientRegistry};
use crate::proxy::net::streaming::{StreamingConnection, stream_oversized_reply};
use crate::proxy::{NextStep, Session};
use crate::resp::FrameScanner;
use crate::resp::write_error;

/// Replies are written when there are so many bytes of them, and when the client has asked nothing more.
const WRITE_BYTES: usize = 256 << 10;

/// Others have their turn behind a round of more commands.
const LONG_ROUND_COMMANDS: u32 = 1000;

/// One connection, from its first byte to its last.
pub(super) struct ClientConnection<'f, S> {
    pub(super) proxy: &'f Proxy,
    pub(super) io: ClientIo<S>,
    pub(super) session: Session,
    pub(super) entry: Arc<ClientEntry>,
    pub(super) input: RequestBuffer,
    pub(super) out: Vec<u8>,
    /// The exclusive connection of WATCH.
    pub(super) lease: Option<Lease>,
}

/// Takes its entry out of the registry, however it ends.
struct Deregister<'f>(&'f ClientRegistry, u64);

impl Drop for Deregister<'_> {
    fn drop(&mut self) {
        self.0.deregister(self.1);
    }
}

impl<'f, S: AsyncRead + AsyncWrite + Send + Unpin> ClientConnection<'f, S> {
    pub(super) async fn serve(
        proxy: &'f Proxy,
        mut stream: S,
        peer: &str,
        local: &str,
    ) -> io::Result<()> {
        let Some((entry, client)) = proxy.registry.register(peer, local) else {
            let mut out = Vec::new();
            if !proxy.registry.is_stopping() {
                write_error(&mut out, "ERR", "max number of clients reached");
            }
            stream.write_all(&out).await?;
            return stream.shutdown().await;
        };
        let _leaving = Deregister(&proxy.registry, client.id);
        let memory = Arc::new(ClientMemory::new(
            Arc::clone(&proxy.registry),
            Arc::clone(&entry),
        ));
        let limits = proxy.registry.limits();
        let mut connection = Self {
            proxy,
            io: ClientIo::new(stream, Arc::clone(&entry), memory, limits),
            session: Session::new(client, proxy.registry.auth()),
            entry,
            input: RequestBuffer::default(),
            out: Vec::new(),
            lease: None,
        };
        let entry = Arc::clone(&connection.entry);
        unless_killed(&entry, async {
            connection.run().await?;
            connection.flush().await
        })
        .await?;
        connection.io.stream().shutdown().await
    }

    async fn run(&mut self) -> io::Result<()> {
        while self.step().await?.is_continue() {
            if self.entry.is_killed() {
                return Ok(());
            }
            // Requests that need no node would never let others have their turn.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// One round, and what comes after it.
    async fn step(&mut self) -> io::Result<ControlFlow<()>> {
        let next = self.round().await?;
        self.after(next).await
    }

    /// What comes when a round is answered.
    async fn after(&mut self, next: NextStep) -> io::Result<ControlFlow<()>> {
        if self.out.len() >= WRITE_BYTES {
            self.flush().await?;
        }
        match next {
            NextStep::Round => {}
            NextStep::Upload { node } => return self.upload(node).await,
            NextStep::Input(_) if self.io.has_arrived() => self.io.take_arrived(&mut self.input),
            NextStep::Input(needed) => {
                self.flush().await?;
                if self.io.has_arrived() {
                    return Ok(ControlFlow::Continue(()));
                }
                if self.proxy.registry.is_stopping() {
                    return Ok(ControlFlow::Break(()));
                }
                return self.read(needed).await;
            }
            NextStep::Requests(packed) => self.input.put_before(packed),
            NextStep::Heavy(length) => return Box::pin(self.round_off_thread(length)).await,
            NextStep::Act {
                action,
                wants_reply,
            } => {
                // On the heap, so that clients that only send requests for the nodes take no memory for it.
                return Box::pin(self.perform(action, wants_reply)).await;
            }
            NextStep::Broken(why) => {
                write_error(&mut self.out, "ERR", &why);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Sends as many requests as go together, and puts their answers into `out`.
    async fn round(&mut self) -> io::Result<NextStep> {
        let protocol = self.session.protocol();
        let shared = self.proxy.shared(protocol);
        let bytes = self.input.rest();
        let snapshot = || shared.snapshot();
        let entropy = rand::random();
        let mut pipeline = RawPipeline::new(&shared.router, &snapshot, bytes.len(), entropy);
        self.session.set_pause(self.proxy.registry.pause());
        let gathered = self.session.read_round(bytes, &mut pipeline);
        let mut requests = pipeline.exchange();
        self.count_memory();
        send(shared, &mut requests, &self.meter()).await;
        let (commands, _) = pipeline.size();
        let bytes = requests
            .parts()
            .map(|(_, answers)| answers.values.byte_count());
        self.session.answered(commands, bytes.sum());
        let mut writer = pipeline.reply_writer(&requests, protocol, entropy);
        loop {
            let told = writer.write_next(&mut self.out, WRITE_BYTES);
            if let WriteProgress::All = told {
                break;
            }
            let io = &mut self.io;
            flush(io, &mut self.out, &self.session).await?;
            match told {
                WriteProgress::All | WriteProgress::Enough => {}
                WriteProgress::Next(frame) => io.write(frame, &self.session, &mut self.out).await?,
                WriteProgress::Until(large) => {
                    let (session, out) = (&self.session, &mut self.out);
                    if let Err(error) =
                        stream_oversized_reply(shared, &large, io, session, out).await?
                    {
                        protocol.write(out, &error.to_reply());
                    }
                }
            }
        }
        if commands > LONG_ROUND_COMMANDS || self.out.len() > WRITE_BYTES / 4 {
            tokio::task::yield_now().await;
        }
        let is_rewritten = self.input.is_rewritten();
        self.input.consume(gathered.consumed);
        if let Some(client) = self.session.take_info() {
            self.entry.publish(client);
        }
        Ok(match gathered.next {
            // Behind requests that were rewritten come those that were not.
            NextStep::Input(_) if is_rewritten => NextStep::Round,
            next => next,
        })
    }

    /// Takes a request with very many arguments. To plan it and to put its answer together takes long, so that is done on
    /// a thread for such action, while this one serves others.
    async fn round_off_thread(&mut self, length: usize) -> io::Result<ControlFlow<()>> {
        let request = self.input.take(length);
        let placeholder = Session::new(self.session.client(), self.proxy.registry.auth());
        let mut session = std::mem::replace(&mut self.session, placeholder);
        let shared = Arc::clone(self.proxy.shared(session.protocol()));
        let (meter, entropy) = (self.meter(), rand::random());
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            let snapshot = || shared.snapshot();
            let mut pipeline = RawPipeline::new(&shared.router, &snapshot, request.len(), entropy);
            let gathered = session.read_heavy_round(&request, &mut pipeline);
            let mut requests = pipeline.whole_exchange();
            runtime.block_on(send(&shared, &mut requests, &meter));
            let mut out = Vec::new();
            pipeline
                .reply_writer(&requests, session.protocol(), entropy)
                .write_next(&mut out, usize::MAX);
            (session, gathered.next, out)
        });
        let (session, next, out) = task.await.map_err(io::Error::other)?;
        self.session = session;
        self.out.extend_from_slice(&out);
        if let Some(client) = self.session.take_info() {
            self.entry.publish(client);
        }
        match next {
            // All of the request was taken.
            NextStep::Input(_) => Ok(ControlFlow::Continue(())),
            next => self.after(next).await,
        }
    }

    /// Counts the replies that are held for this client.
    pub(super) fn meter(&self) -> SharedByteMeter {
        Arc::clone(&self.io.memory) as SharedByteMeter
    }

    /// Counts the buffers of this client.
    pub(super) fn count_memory(&self) {
        let buffers = self.input.held() + self.out.capacity() + self.io.buffered();
        self.io.memory.set_buffers(buffers + self.session.held());
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        flush(&mut self.io, &mut self.out, &self.session).await
    }

    /// Passes a large request on as it comes, and then the reply. When the node fails, the rest of the request is thrown away,
    /// so that the client hears of it and may go on.
    async fn upload(&mut self, node: NodeIndex) -> io::Result<ControlFlow<()>> {
        self.flush().await?;
        let shared = Arc::clone(self.proxy.shared(self.session.protocol()));
        let connector = shared.executor.connector(node);
        let opened =
            StreamingConnection::open(&connector, shared.executor.response_timeout()).await;
        let mut pipe = opened.map_err(Cause::Connect);
        let mut scanner = FrameScanner::default();
        while !scanner.is_complete() {
            let Ok(count) = scanner.advance(self.input.rest()) else {
                write_error(&mut self.out, "ERR", "Protocol error: invalid bulk length");
                return Ok(ControlFlow::Break(()));
            };
            let piece = &self.input.rest()[..count];
            if let Ok(open) = &mut pipe
                && let Err(error) = open.write(piece).await
            {
                pipe = Err(Cause::of_io(&error));
            }
            self.input.consume(count);
            if !scanner.is_complete() && self.read(1).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let (cause, sent) = match pipe {
            Err(cause) => (cause, 0),
            Ok(mut pipe) => {
                let mut told = 0;
                let passed =
                    pipe.stream_reply(&mut self.io, &self.session, &mut told, &mut self.out);
                match passed.await {
                    Err(error) if told == 0 => (Cause::of_io(&error), 1),
                    passed => return passed.map(|()| ControlFlow::Continue(())),
                }
            }
        };
        let failure = Failure::not_sent(cause);
        let error = failure.of_write(shared.router.name(node), sent);
        self.write_error_reply(&error);
        Ok(ControlFlow::Continue(()))
    }

    /// Reads until so many bytes more are there. Messages are passed on meanwhile.
    async fn read(&mut self, needed: usize) -> io::Result<ControlFlow<()>> {
        let wanted = self.input.len() + needed;
        self.io.take_arrived(&mut self.input);
        if wanted > self.session.query_bytes_max(self.io.limits.query_bytes) {
            write_error(
                &mut self.out,
                "ERR",
                "Protocol error: the request is too large",
            );
            return Ok(ControlFlow::Break(()));
        }
        while self.input.len() < wanted {
            // What it is told may have come while something was written.
            if self.entry.is_killed() || self.proxy.registry.is_stopping() {
                return Ok(ControlFlow::Break(()));
            }
            let idle = self
                .io
                .limits
                .idle
                .filter(|_| !self.session.is_subscribed());
            let listen = self.io.read(&mut self.input, wanted, &self.session);
            let heard = match idle {
                None => listen.await?,
                Some(limit) => match tokio::time::timeout(limit, listen).await {
                    Ok(heard) => heard?,
                    Err(_) => return Ok(ControlFlow::Break(())),
                },
            };
            match heard {
                Interrupt::Bytes(0) => return Ok(ControlFlow::Break(())),
                Interrupt::Bytes(_) => self.entry.touch(),
                Interrupt::Event(event) => {
                    if self.push_event(event).is_break() || self.push_events().is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    self.flush().await?;
                }
                Interrupt::Notified => {}
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// A server that loses messages would have lost the connection, and so it ends: who subscribes again knows that there
    /// is a gap.
    pub(super) fn push_event(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Message(message) => {
                self.session.message(&message, &mut self.out);
                ControlFlow::Continue(())
            }
            Event::Disconnected { .. } | Event::Missed { .. } => ControlFlow::Break(()),
        }
    }

    /// Passes on what has come already.
    pub(super) fn push_events(&mut self) -> ControlFlow<()> {
        while self.out.len() < WRITE_BYTES {
            let subscriber = self.io.subscriber.as_mut();
            let Some(event) = subscriber.and_then(Subscriber::try_next_event) else {
                break;
            };
            if self.push_event(event).is_break() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// Writes what was said, and gives a large buffer back.
async fn flush<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut ClientIo<S>,
    out: &mut Vec<u8>,
    session: &Session,
) -> io::Result<()> {
    while !out.is_empty() {
        let mut behind = Vec::new();
        io.write(out, session, &mut behind).await?;
        out.clear();
        if out.capacity() > 2 * WRITE_BYTES {
            *out = Vec::new();
        }
        out.append(&mut behind);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;
    use crate::ShardedClient;

    /// A stream that may go to another thread, and that only one thread may look at.
    struct NotSync(Cell<u8>);

    impl AsyncRead for NotSync {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for NotSync {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.set(1);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn proxy_serve_can_be_spawned_for_a_stream_that_is_not_sync() {
        let proxy = ShardedClient::builder()
            .node("a", "redis://127.0.0.1:1/")
            .build_proxy()
            .unwrap();
        let serving = tokio::spawn(async move { proxy.serve(NotSync(Cell::new(0)), "", "").await });
        serving.await.unwrap().unwrap();
    }
}
