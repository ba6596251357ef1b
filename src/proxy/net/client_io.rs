//! The socket of one client: writes to it, and reads from it at the same time.
//!
//! A client may send all of its requests before it reads the first reply. If the proxy only wrote, both sides
//! would wait for each other for ever, once the buffers of both sockets are full. So while
//! [`ClientIo::write`] waits for the socket, it reads requests and takes messages of subscriptions, both up
//! to a limit.
//!
//! ```text
//!                  ┌── arrived ◀── bytes that came during a write; `take_arrived` moves them to Input
//! client ◀──▶ stream
//!                  └── messages ◀─ messages that came during a write; written right after it
//! ```

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Sleep;

use crate::aio::Subscriber;
use crate::plan::pubsub::Event;
use crate::proxy::net::input::RequestBuffer;
use crate::proxy::net::memory::ClientMemory;
use crate::proxy::net::registry::ClientEntry;
use crate::proxy::{ClientLimits, OutputDecision, OutputWatch, Session};

/// Minimum number of bytes of room for one read.
const READ_BYTES: usize = 16 << 10;

/// Maximum number of bytes of room for one read, however large the expected request.
const READ_BYTES_MAX: usize = 1 << 20;

/// Number of bytes read without a break, before other tasks get their turn.
const TURN_BYTES: usize = 1 << 20;

/// A client's socket, the bytes and messages that arrived out of turn, and the limits.
pub(super) struct ClientIo<S> {
    stream: S,
    /// Where others kill or wake this client.
    entry: Arc<ClientEntry>,
    pub(super) memory: Arc<ClientMemory>,
    /// Limits in force when the client connected.
    pub(super) limits: ClientLimits,
    /// Bytes that the client sent while something was written to it. Older than what is still in the socket,
    /// so they must be taken before the next read.
    arrived: Vec<u8>,
    /// True once the client has closed its side. What it sent before is still carried out.
    is_at_end: bool,
    /// The pub/sub connections, while the client has subscriptions.
    pub(super) subscriber: Option<Subscriber>,
    /// Encoded messages that arrived while something was written. Empty at any other time.
    messages: Vec<u8>,
    /// Compares the waiting output with the limit. New for every write.
    output: OutputWatch,
    /// Instant at which the soft limit ends the connection, and its timer. Without the timer a client that
    /// reads nothing would never wake this task.
    deadline: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// An event that ends the wait of [`ClientIo::read`].
pub(super) enum Interrupt {
    /// This many bytes arrived; zero at the end of the stream.
    Bytes(usize),
    /// A message of a subscription, or the loss of some.
    Event(Event),
    /// Another client or the proxy set a flag in the [`ClientEntry`].
    Notified,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientIo<S> {
    /// Wraps the socket of a client that has just connected.
    pub(super) fn new(
        stream: S,
        entry: Arc<ClientEntry>,
        memory: Arc<ClientMemory>,
        limits: ClientLimits,
    ) -> Self {
        Self {
            stream,
            entry,
            memory,
            limits,
            arrived: Vec::new(),
            is_at_end: false,
            subscriber: None,
            messages: Vec::new(),
            output: OutputWatch::default(),
            deadline: None,
        }
    }

    /// Returns the socket, for the shutdown at the end.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Number of bytes of memory that the buffers hold.
    pub(super) fn buffered(&self) -> usize {
        self.arrived.capacity() + self.messages.capacity()
    }

    /// True if the client has sent something while something was written to it.
    pub(super) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Moves the bytes that arrived out of turn to `input`.
    pub(super) fn take_arrived(&mut self, input: &mut RequestBuffer) {
        input.append(std::mem::take(&mut self.arrived));
    }

    /// Writes all of `bytes`, and appends messages that arrived in the meantime to `behind`, which is written
    /// next: a message must not split a reply.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or the client exceeds the limit of its requests or of its output. A kill
    /// interrupts it from outside: see [`unless_killed`].
    pub(super) async fn write(
        &mut self,
        bytes: &[u8],
        session: &Session,
        behind: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut written = 0;
        std::future::poll_fn(|cx| self.poll_write(bytes, &mut written, session, cx)).await?;
        behind.append(&mut self.messages);
        Ok(())
    }

    /// Writes as much as the socket takes, and otherwise does as
    /// [`poll_while_writing`](Self::poll_while_writing).
    fn poll_write(
        &mut self,
        bytes: &[u8],
        written: &mut usize,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while *written < bytes.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &bytes[*written..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => {
                    *written += count;
                    self.memory.metrics().sent(count);
                }
                Poll::Pending => {
                    return self.poll_while_writing(bytes.len() - *written, session, cx);
                }
            }
        }
        // A TLS stream buffers records. Unflushed, they would wait for the next reply.
        match Pin::new(&mut self.stream).poll_flush(cx)? {
            Poll::Ready(()) => {
                self.deadline = None;
                self.output = OutputWatch::default();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.poll_while_writing(0, session, cx),
        }
    }

    /// Handles what is due while the client does not read and `waiting` bytes remain to be written: reads
    /// from it, takes messages, and checks the output limit.
    ///
    /// Never ready without an error. The caller is woken by the socket, by a message, or by the timer of the
    /// soft limit.
    fn poll_while_writing<T>(
        &mut self,
        waiting: usize,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        let query_bytes_max = session.query_bytes_max(self.limits.query_bytes);
        self.poll_arrived(query_bytes_max, cx)?;
        self.poll_messages(session, cx)?;
        // Reported here too: the memory of a client that does not read grows only while it is written to.
        self.memory.set_buffers(self.buffered() + waiting);
        // Replies that the nodes have sent and that are not encoded yet wait for this client too.
        let waiting = waiting + self.messages.len() + self.memory.replies();
        let limit = match session.is_subscribed() {
            true => self.limits.pub_sub,
            false => self.limits.normal,
        };
        match self.output.check(limit, waiting, Instant::now()) {
            OutputDecision::Within => self.deadline = None,
            OutputDecision::Exceeded => return Poll::Ready(Err(write_timed_out())),
            OutputDecision::Until(end) => {
                if self.deadline.as_ref().is_none_or(|(set, _)| *set != end) {
                    let sleep = tokio::time::sleep_until(end.into());
                    self.deadline = Some((end, Box::pin(sleep)));
                }
                if let Some((_, sleep)) = &mut self.deadline
                    && sleep.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Err(write_timed_out()));
                }
            }
        }
        Poll::Pending
    }

    /// Reads what the client sends out of turn, up to `bytes_max` bytes. Beyond it the client only sends and
    /// never reads, and is disconnected.
    fn poll_arrived(&mut self, bytes_max: usize, cx: &mut Context<'_>) -> io::Result<()> {
        let before = self.arrived.len();
        while !self.is_at_end {
            if self.arrived.len() > bytes_max {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    "the client sends requests and reads no replies",
                ));
            }
            // The socket may be ready again at once: without the break a fast client would keep the thread.
            if self.arrived.len() - before >= TURN_BYTES {
                cx.waker().wake_by_ref();
                break;
            }
            let more = self.arrived.len().clamp(READ_BYTES, READ_BYTES_MAX);
            match poll_read(&mut self.stream, &mut self.arrived, more, cx)? {
                // Half closed. Replies are still written, since the client may read them: `printf ... | nc`
                // does.
                Poll::Ready(0) => self.is_at_end = true,
                Poll::Ready(count) => {
                    self.memory.metrics().received(count);
                    self.entry.touch();
                }
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Takes messages that arrive while something is written.
    fn poll_messages(&mut self, session: &Session, cx: &mut Context<'_>) -> io::Result<()> {
        let before = self.messages.len();
        while self.messages.len() - before < TURN_BYTES {
            match self.poll_event(session, cx) {
                Poll::Ready(Event::Message(message)) => {
                    session.message(&message, &mut self.messages);
                }
                // Messages were missed. The connection is closed, so that the client subscribes again and
                // knows of the gap.
                Poll::Ready(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Poll::Pending => return Ok(()),
            }
        }
        // More messages may be there already, and those do not wake again.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Polls for the next event of the client's subscriptions.
    fn poll_event(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Event> {
        if session.is_subscribed()
            && let Some(subscriber) = &mut self.subscriber
            && let Poll::Ready(Some(event)) =
                futures_util::Stream::poll_next(Pin::new(subscriber), cx)
        {
            return Poll::Ready(event);
        }
        Poll::Pending
    }

    /// Waits for `pause`, and reads what the client sends in the meantime. Returns true at once when the client has
    /// closed its side: nobody waits for the node any more.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or the client exceeds the limit of its requests.
    pub(super) async fn pause(&mut self, pause: Duration, session: &Session) -> io::Result<bool> {
        let query_bytes_max = session.query_bytes_max(self.limits.query_bytes);
        let mut sleep = pin!(tokio::time::sleep(pause));
        std::future::poll_fn(|cx| {
            self.poll_arrived(query_bytes_max, cx)?;
            self.memory.set_buffers(self.buffered());
            match self.is_at_end {
                true => Poll::Ready(Ok(true)),
                false => sleep.as_mut().poll(cx).map(|()| Ok(false)),
            }
        })
        .await
    }

    /// Waits for the first of: more bytes for `input`, while it has less than `wanted` bytes; an event of a
    /// subscription; a flag in the [`ClientEntry`].
    ///
    /// Cancellation safe: bytes that were read are in `input`.
    pub(super) async fn read(
        &mut self,
        input: &mut RequestBuffer,
        wanted: usize,
        session: &Session,
    ) -> io::Result<Interrupt> {
        std::future::poll_fn(|cx| {
            // Registered before the flag is read, so that no wake-up between the two is lost.
            self.entry.set_waker(cx);
            if self.entry.take_woken() {
                return Poll::Ready(Ok(Interrupt::Notified));
            }
            let there = input.len();
            if there < wanted {
                if self.is_at_end {
                    return Poll::Ready(Ok(Interrupt::Bytes(0)));
                }
                let more = (wanted - there).clamp(READ_BYTES, READ_BYTES_MAX);
                if let Poll::Ready(count) = poll_read(&mut self.stream, input.room(), more, cx)? {
                    self.is_at_end = count == 0;
                    self.memory.metrics().received(count);
                    return Poll::Ready(Ok(Interrupt::Bytes(count)));
                }
            }
            self.poll_event(session, cx)
                .map(|event| Ok(Interrupt::Event(event)))
        })
        .await
    }
}

/// Runs `future` until it is done or the client is killed. Covers all waits for nodes and for the socket, so
/// that CLIENT KILL and the memory limit end a client that neither reads nor sends.
pub(super) async fn unless_killed(
    client: &ClientEntry,
    future: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        // Polled first: a client that kills itself gets the reply to that, if its socket takes it at once.
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        // Registered before the flag is read, and after the future has registered its own.
        client.set_waker(cx);
        match client.is_killed() {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            false => Poll::Pending,
        }
    })
    .await
}

/// The error for a client whose output exceeds its limit.
fn write_timed_out() -> io::Error {
    io::Error::new(
        io::ErrorKind::QuotaExceeded,
        "the client does not read what is sent to it",
    )
}

/// Appends what is there to `bytes`, after reserving room for `more` bytes. Returns the number of bytes that
/// came; zero at the end of the stream.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    more: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    bytes.reserve(more);
    // Reads into spare capacity, which is not zeroed first. The future keeps no state, so it may be dropped
    // after each poll.
    pin!(stream.read_buf(bytes)).poll(cx)
}
