//! The bytes from and to one client.
//!
//! A client may send all of its requests before it reads the first reply. So whoever writes to it goes on reading from it,
//! and takes the messages of its subscriptions, within limits: otherwise the two would wait for each other for ever.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Sleep;

use crate::aio::Subscriber;
use crate::plan::pubsub::Event;
use crate::proxy::net::input::RequestBuffer;
use crate::proxy::net::memory::ClientMemory;
use crate::proxy::net::registry::ClientEntry;
use crate::proxy::{ClientLimits, OutputDecision, OutputWatch, Session};

/// Read at once at least.
const READ_BYTES: usize = 16 << 10;

/// Read at once at most.
const READ_BYTES_MAX: usize = 1 << 20;

/// Read in a row at most, before others have their turn.
const TURN_BYTES: usize = 1 << 20;

/// A client's socket, what has arrived from it out of turn, and what limits there are.
pub(super) struct ClientIo<S> {
    stream: S,
    entry: Arc<ClientEntry>,
    pub(super) memory: Arc<ClientMemory>,
    pub(super) limits: ClientLimits,
    /// What the client sent while something was written to it.
    arrived: Vec<u8>,
    /// The client will send no more.
    is_at_end: bool,
    pub(super) subscriber: Option<Subscriber>,
    /// Messages that came while something was written. Empty whenever nothing is.
    messages: Vec<u8>,
    output: OutputWatch,
    /// When the output must have become less.
    deadline: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// What happens while a connection waits.
pub(super) enum Interrupt {
    /// The number of bytes that came; zero at the end of the stream.
    Bytes(usize),
    Event(Event),
    /// Somebody says something to it: see its [`ClientEntry`].
    Notified,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientIo<S> {
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

    /// The stream, at the end of all.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Bytes of memory that its buffers have.
    pub(super) fn buffered(&self) -> usize {
        self.arrived.capacity() + self.messages.capacity()
    }

    /// Whether the client has sent something while something was written to it.
    pub(super) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// Adds what has arrived out of turn to `input`.
    pub(super) fn take_arrived(&mut self, input: &mut RequestBuffer) {
        input.append(std::mem::take(&mut self.arrived));
    }

    /// Writes all of `bytes`, and appends the messages that came meanwhile to `behind`, which go out next.
    ///
    /// # Errors
    ///
    /// When the connection breaks, somebody ends it, or the client exceeds a limit.
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
                Poll::Ready(count) => *written += count,
                Poll::Pending => {
                    return self.poll_while_writing(bytes.len() - *written, session, cx);
                }
            }
        }
        // Bytes that a stream of TLS keeps would wait for the next ones.
        match Pin::new(&mut self.stream).poll_flush(cx)? {
            Poll::Ready(()) => {
                self.deadline = None;
                self.output = OutputWatch::default();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.poll_while_writing(0, session, cx),
        }
    }

    /// The client does not read now, and `waiting` bytes are to be written to it.
    fn poll_while_writing<T>(
        &mut self,
        waiting: usize,
        session: &Session,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        let query_bytes_max = session.query_bytes_max(self.limits.query_bytes);
        self.poll_arrived(query_bytes_max, cx)?;
        self.poll_messages(session, cx)?;
        self.memory.set_buffers(self.buffered() + waiting);
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

    /// Takes what the client sends out of turn.
    fn poll_arrived(&mut self, bytes_max: usize, cx: &mut Context<'_>) -> io::Result<()> {
        let before = self.arrived.len();
        while !self.is_at_end {
            if self.arrived.len() > bytes_max {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    "the client sends requests and reads no replies",
                ));
            }
            if self.arrived.len() - before >= TURN_BYTES {
                cx.waker().wake_by_ref();
                break;
            }
            let more = self.arrived.len().clamp(READ_BYTES, READ_BYTES_MAX);
            match poll_read(&mut self.stream, &mut self.arrived, more, cx)? {
                Poll::Ready(0) => self.is_at_end = true,
                Poll::Ready(_) => self.entry.touch(),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Takes messages that come while something else is written.
    fn poll_messages(&mut self, session: &Session, cx: &mut Context<'_>) -> io::Result<()> {
        let before = self.messages.len();
        while self.messages.len() - before < TURN_BYTES {
            match self.poll_event(session, cx) {
                Poll::Ready(Event::Message(message)) => {
                    session.message(&message, &mut self.messages);
                }
                // Who subscribes again knows that there is a gap.
                Poll::Ready(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Poll::Pending => return Ok(()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The next event of the client's subscriptions.
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

    /// Waits for whatever comes first: more bytes for `input`, up to `wanted` altogether, an event, or a word to it.
    pub(super) async fn read(
        &mut self,
        input: &mut RequestBuffer,
        wanted: usize,
        session: &Session,
    ) -> io::Result<Interrupt> {
        std::future::poll_fn(|cx| {
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
                    return Poll::Ready(Ok(Interrupt::Bytes(count)));
                }
            }
            self.poll_event(session, cx)
                .map(|event| Ok(Interrupt::Event(event)))
        })
        .await
    }
}

/// Serves `client` by `future`, unless somebody ends it before.
pub(super) async fn unless_killed(
    client: &ClientEntry,
    future: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        client.set_waker(cx);
        match client.is_killed() {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            false => Poll::Pending,
        }
    })
    .await
}

fn write_timed_out() -> io::Error {
    io::Error::new(
        io::ErrorKind::QuotaExceeded,
        "the client does not read what is sent to it",
    )
}

/// Appends what is there to `bytes`, which has room for `more` then. How many bytes came; none is the end.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    more: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    bytes.reserve(more);
    // Into the room behind the bytes, which need not be cleared. The future holds nothing between two calls.
    pin!(stream.read_buf(bytes)).poll(cx)
}
