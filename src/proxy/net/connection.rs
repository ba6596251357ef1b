//! Serves one client: [`ClientConnection`].
//!
//! A loop of rounds. Each [round](ClientConnection::round) sends requests to the nodes and encodes their
//! replies into `out`; then `NextStep` names what follows: reading, an action (in `actions`), an upload, or
//! the end.
//!
//! `out` is written when it has [`WRITE_BYTES`] bytes, before anything waits for the client, and at the end.
//! A round that follows at once does not write first, so pipelined requests get their replies in few packets.

use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::aio::{Shared, Subscriber};
use crate::builder::TIMEOUT_MAX;
use crate::plan::pubsub::Event;
use crate::plan::{RawPipeline, ScriptStore, SharedByteMeter, WriteProgress};
use crate::proxy::net::Proxy;
use crate::proxy::net::call::{Waiting, send, send_for};
use crate::proxy::net::client_io::{ClientIo, Interrupt, unless_killed};
use crate::proxy::net::input::RequestBuffer;
use crate::proxy::net::lease::LeasedConnection;
use crate::proxy::net::memory::ClientMemory;
use crate::proxy::net::registry::{ClientEntry, ClientRegistry};
use crate::proxy::net::streaming::stream_oversized_reply;
use crate::proxy::{NextStep, Session};
use crate::resp::{Protocol, write_error};
use crate::topology::Topology;

/// Number of bytes of replies that are written without waiting for more.
const WRITE_BYTES: usize = 256 << 10;

/// After a round with more commands the task yields: such a client sends without a break, and its socket
/// would never be pending.
const LONG_ROUND_COMMANDS: u32 = 1000;

/// One client, from its first byte to its last.
pub(super) struct ClientConnection<'f, S> {
    pub(super) proxy: &'f Proxy,
    pub(super) io: ClientIo<S>,
    /// State of the client. Replaced by a placeholder while a heavy request is carried out on another thread.
    pub(super) session: Session,
    /// This client in the registry.
    pub(super) entry: Arc<ClientEntry>,
    /// Bytes that were read and not carried out.
    pub(super) input: RequestBuffer,
    /// Replies and messages that were not written, in their order.
    pub(super) out: Vec<u8>,
    /// The exclusive connection of WATCH. Dropping it closes the connection, and with it the watch.
    pub(super) lease: Option<LeasedConnection>,
    /// The snapshot of the round under way and of what follows it. `None` while the client sends nothing: an idle
    /// client must not keep the connections of a former topology open.
    pub(super) current: Option<(Protocol, Arc<Shared>)>,
    /// The topology by which the keys of a transaction or of WATCH were placed, while there are any.
    pub(super) placed_by: Option<Arc<Topology>>,
}

/// Removes a client from the registry when it is dropped, since the future of `serve` may be dropped at any
/// await.
struct Deregister<'f>(&'f ClientRegistry, u64);

impl Drop for Deregister<'_> {
    fn drop(&mut self) {
        self.0.deregister(self.1);
    }
}

impl<'f, S: AsyncRead + AsyncWrite + Send + Unpin> ClientConnection<'f, S> {
    /// Serves a client: see [`Proxy::serve`].
    pub(super) async fn serve(
        proxy: &'f Proxy,
        mut stream: S,
        peer: &str,
        local: &str,
    ) -> io::Result<()> {
        let Some((entry, client)) = proxy.registry.register(peer, local) else {
            let mut out = Vec::new();
            proxy.registry.metrics.refused();
            // The text of a server. A proxy that stops closes without one, as a server that has gone.
            if !proxy.registry.is_stopping() {
                write_error(&mut out, "ERR", "max number of clients reached");
            }
            stream.write_all(&out).await?;
            return stream.shutdown().await;
        };
        let _leaving = Deregister(&proxy.registry, client.id);
        proxy.registry.metrics.connected();
        let memory = Arc::new(ClientMemory::new(
            Arc::clone(&proxy.registry),
            Arc::clone(&entry),
        ));
        let limits = proxy.registry.limits();
        let mut connection = Self {
            proxy,
            io: ClientIo::new(stream, Arc::clone(&entry), memory, limits),
            session: Session::new(client, proxy.registry.auth())
                .with_cluster(proxy.registry.cluster()),
            entry,
            input: RequestBuffer::default(),
            out: Vec::new(),
            lease: None,
            current: None,
            placed_by: None,
        };
        let entry = Arc::clone(&connection.entry);
        unless_killed(&entry, async {
            connection.run().await?;
            // Replies from before the end (to QUIT, of a protocol error, before the end of the stream) are
            // still written.
            connection.flush().await
        })
        .await?;
        connection.io.stream().shutdown().await
    }

    /// Runs steps until the client or the proxy ends the connection.
    async fn run(&mut self) -> io::Result<()> {
        while self.step().await?.is_continue() {
            // A client that has killed itself. The caller writes the reply to that.
            if self.entry.is_killed() {
                return Ok(());
            }
            // Requests that need no node (PING) find everything ready, and would never yield to other tasks.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// Runs one round, and what follows it.
    async fn step(&mut self) -> io::Result<ControlFlow<()>> {
        let next = self.round().await?;
        // Before and after, since a client that waits for input has no snapshot any more, and WATCH is an action.
        self.note_placement();
        let flow = self.after(next).await;
        self.note_placement();
        flow
    }

    /// Keeps the topology by which keys of a transaction or of WATCH were placed, as long as there are any.
    fn note_placement(&mut self) {
        if !self.session.has_placed_keys() {
            self.placed_by = None;
        } else if let (None, Some((_, shared))) = (&self.placed_by, &self.current) {
            self.placed_by = Some(Arc::clone(shared.router.topology()));
        }
    }

    /// Loads the snapshot for the next round: node indices mean other nodes in another one. A transaction or a
    /// watch of keys that have moved fails, as its keys may change elsewhere.
    fn begin_round(&mut self) -> Arc<Shared> {
        let protocol = self.session.protocol();
        let shared = self.proxy.snapshot(protocol);
        self.check_placement(&shared);
        self.current = Some((protocol, Arc::clone(&shared)));
        shared
    }

    /// The snapshot of the round. Another one after HELLO, whose connections use the client's new protocol.
    pub(super) fn shared(&self) -> Arc<Shared> {
        match &self.current {
            Some((protocol, shared)) if *protocol == self.session.protocol() => Arc::clone(shared),
            _ => self.proxy.snapshot(self.session.protocol()),
        }
    }

    /// Carries out what follows a round.
    async fn after(&mut self, next: NextStep) -> io::Result<ControlFlow<()>> {
        if self.out.len() >= WRITE_BYTES {
            self.flush().await?;
        }
        match next {
            NextStep::Round => {}
            NextStep::Upload { node } => {
                self.count_commands(1);
                return self.upload(node).await;
            }
            // Bytes that came during the last write belong before those still in the socket.
            NextStep::Input(_) if self.io.has_arrived() => self.io.take_arrived(&mut self.input),
            NextStep::Input(needed) => {
                // The client may wait for these replies before it sends more.
                self.flush().await?;
                self.current = None;
                if self.io.has_arrived() {
                    return Ok(ControlFlow::Continue(()));
                }
                // Here every request that has arrived is answered.
                if self.proxy.registry.is_stopping() {
                    return Ok(ControlFlow::Break(()));
                }
                return self.read(needed).await;
            }
            NextStep::Requests(packed) => self.input.put_before(packed),
            NextStep::Heavy(length) => {
                self.count_commands(1);
                return Box::pin(self.round_off_thread(length)).await;
            }
            NextStep::Act {
                action,
                wants_reply,
            } => {
                self.count_commands(1);
                // On the heap: it is large, and most clients never need it.
                return Box::pin(self.perform(action, wants_reply)).await;
            }
            NextStep::Broken(why) => {
                write_error(&mut self.out, "ERR", &why);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Sends as many requests as go together, and encodes their replies into `out`.
    async fn round(&mut self) -> io::Result<NextStep> {
        let protocol = self.session.protocol();
        let ready = self.proxy.shared(protocol).ready_async().await;
        self.session.set_map_error(ready.err());
        let shared = &*self.begin_round();
        let bytes = self.input.rest();
        let snapshot = || shared.snapshot();
        // Chooses the node for commands without a key, and must be the same when the replies are merged.
        let entropy = rand::random();
        let mut pipeline = RawPipeline::new(&shared.router, &snapshot, bytes.len(), entropy);
        self.session.set_pause(self.proxy.registry.pause());
        let round = self.session.read_round(bytes, &mut pipeline);
        let mut requests = pipeline.exchange();
        self.count_memory();
        let meter = self.meter();
        let mut waiting = Waiting {
            io: &mut self.io,
            session: &self.session,
        };
        send_for(shared, &mut requests, &meter, &mut waiting).await?;
        let (commands, _) = pipeline.size();
        let bytes = requests
            .parts()
            .map(|(_, answers)| answers.values.byte_count());
        self.session.answered(commands, bytes.sum());
        self.count_commands(commands);
        let mut writer = pipeline.reply_writer(&requests, protocol, entropy);
        loop {
            let written = writer.write_next(&mut self.out, WRITE_BYTES);
            if let WriteProgress::All = written {
                break;
            }
            let io = &mut self.io;
            flush(io, &mut self.out, &self.session).await?;
            match written {
                WriteProgress::All | WriteProgress::Enough => {}
                // Written from where it was received: a copy in `out` would double the memory of a large
                // reply.
                WriteProgress::Next(frame) => io.write(frame, &self.session, &mut self.out).await?,
                WriteProgress::Until(large) => {
                    let session = &self.session;
                    let (client, out) = (&mut Waiting { io, session }, &mut self.out);
                    if let Err(cause) =
                        Box::pin(stream_oversized_reply(shared, &large, client, &meter, out))
                            .await?
                    {
                        large.write_failure(&shared.router, cause, protocol, out);
                    }
                }
            }
        }
        if commands > LONG_ROUND_COMMANDS || self.out.len() > WRITE_BYTES / 4 {
            tokio::task::yield_now().await;
        }
        let is_rewritten = self.input.is_rewritten();
        // Only now: the pipeline refers to these bytes until the replies are merged.
        self.input.consume(round.consumed);
        if let Some(client) = self.session.take_info() {
            self.entry.publish(client);
        }
        Ok(match round.next {
            // Behind the rewritten requests are the bytes that arrived after them.
            NextStep::Input(_) if is_rewritten => NextStep::Round,
            next => next,
        })
    }

    /// Carries out a request with very many arguments, the first `length` bytes of the input, on a thread for
    /// blocking work. Planning it and merging its replies takes long, and other clients of this thread are
    /// served in the meantime.
    async fn round_off_thread(&mut self, length: usize) -> io::Result<ControlFlow<()>> {
        let request = self.input.take(length);
        // The session moves to the other thread and back. Nothing reads the placeholder: this future waits
        // all the time, and if it is dropped, so is the connection.
        let placeholder = Session::new(self.session.client(), self.proxy.registry.auth());
        let mut session = std::mem::replace(&mut self.session, placeholder);
        let shared = self.shared();
        let (meter, entropy) = (self.meter(), rand::random());
        let runtime = tokio::runtime::Handle::current();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let task = tokio::task::spawn_blocking(move || {
            let snapshot = || shared.snapshot();
            let mut pipeline = RawPipeline::new(&shared.router, &snapshot, request.len(), entropy);
            let round = session.read_heavy_round(&request, &mut pipeline);
            let mut requests = pipeline.whole_exchange();
            // May block this thread. The pipeline borrows the request, so both stay here until the replies
            // are merged.
            runtime.block_on(send(&shared, &mut requests, &meter, stopped.notified()));
            let mut out = Vec::new();
            pipeline
                .reply_writer(&requests, session.protocol(), entropy)
                .write_next(&mut out, usize::MAX);
            (session, round.next, out)
        });
        let mut task = pin!(task);
        let done = match select(
            task.as_mut(),
            pin!(self.io.pause(TIMEOUT_MAX, &self.session)),
        )
        .await
        {
            Either::Left((done, _)) => done,
            Either::Right((left, _)) => {
                stop.notify_one();
                left?;
                task.await
            }
        };
        let (session, next, out) = done.map_err(io::Error::other)?;
        self.session = session;
        self.out.extend_from_slice(&out);
        if let Some(client) = self.session.take_info() {
            self.entry.publish(client);
        }
        match next {
            // Asks for more than the request, which is all that was read. The rest is in the input.
            NextStep::Input(_) => Ok(ControlFlow::Continue(())),
            next => self.after(next).await,
        }
    }

    /// Returns what counts the bytes of replies that are held for this client.
    pub(super) fn meter(&self) -> SharedByteMeter {
        Arc::clone(&self.io.memory) as SharedByteMeter
    }

    /// Records how many bytes the buffers of this client hold now.
    pub(super) fn count_memory(&self) {
        let buffers = self.input.held() + self.out.capacity() + self.io.buffered();
        self.io.memory.set_buffers(buffers + self.session.held());
    }

    /// Counts commands for the metrics.
    fn count_commands(&self, commands: u32) {
        let registry = &self.proxy.registry;
        registry
            .metrics
            .commands(commands, || registry.memory.used());
    }

    /// Writes all of `out` to the client.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        flush(&mut self.io, &mut self.out, &self.session).await
    }

    /// Reads until `needed` more bytes have arrived. Messages are written to the client in the meantime.
    pub(super) async fn read(&mut self, needed: usize) -> io::Result<ControlFlow<()>> {
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
            // `ClientIo::read` reports only that some flag was set, so each wait begins with a look at them.
            if self.entry.is_killed() || self.proxy.registry.is_stopping() {
                return Ok(ControlFlow::Break(()));
            }
            let idle = self
                .io
                .limits
                .idle
                // As on a server, a subscriber may be silent for as long as it likes.
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
                    // All messages that are there are written together.
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

    /// Encodes a message. Ends the connection when messages were missed, as a failing server would: when the
    /// client subscribes again, it knows that there is a gap.
    pub(super) fn push_event(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Message(message) => {
                self.session.message(&message, &mut self.out);
                ControlFlow::Continue(())
            }
            Event::Disconnected { .. } | Event::Missed { .. } => ControlFlow::Break(()),
        }
    }

    /// Encodes the messages that have arrived, up to [`WRITE_BYTES`] bytes of output.
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

/// Writes `out`, and the messages that arrive while it is written. Frees the buffer if it has become large.
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
