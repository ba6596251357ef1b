//! One connection of a front end.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::aio::front::hall::{Guest, Hall};
use crate::aio::front::input::Input;
use crate::aio::front::pipe::{Pipe, pass_large};
use crate::aio::front::{FrontEnd, REQUEST_BYTES_MAX};
use crate::aio::waiting::Lease;
use crate::aio::{Shared, Subscriber};
use crate::front::{Next, Session};
use crate::node::NodeIndex;
use crate::passage::Passage;
use crate::plan::{Answers, Cause, Exchange, Failure, Frames, Hold, Relay};
use crate::reply::{Protocol, write_error};
use crate::subscribe::Event;

/// A buffer of more bytes is given back when it is empty.
const BYTES_KEPT: usize = 256 << 10;

/// One connection, from its first byte to its last.
pub(super) struct Talk<'f, S> {
    pub(super) front: &'f FrontEnd,
    pub(super) stream: S,
    pub(super) session: Session,
    pub(super) guest: Arc<Guest>,
    pub(super) input: Input,
    pub(super) out: Vec<u8>,
    /// The connection of WATCH, and what those it was taken from speak.
    pub(super) lease: Option<(Protocol, Lease)>,
    pub(super) subscriber: Option<Subscriber>,
}

/// What happens while a connection waits.
pub(super) enum Heard {
    /// So many bytes came; none is the end.
    Bytes(usize),
    Event(Event),
    /// Somebody says something to it: see its [`Guest`].
    Told,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    On,
    Over,
}

/// Takes its guest out of the hall, however it ends.
struct Leaving<'f>(&'f Hall, u64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

impl<'f, S: AsyncRead + AsyncWrite + Send + Unpin> Talk<'f, S> {
    pub(super) async fn begin(
        front: &'f FrontEnd,
        mut stream: S,
        peer: &str,
        local: &str,
    ) -> io::Result<()> {
        let Some((guest, client)) = front.hall.enter(peer, local) else {
            let mut out = Vec::new();
            if !front.hall.is_stopping() {
                write_error(&mut out, "ERR", "max number of clients reached");
            }
            stream.write_all(&out).await?;
            return stream.shutdown().await;
        };
        let _leaving = Leaving(&front.hall, client.id);
        let mut talk = Self {
            front,
            stream,
            session: Session::new(client, front.hall.door()),
            guest,
            input: Input::default(),
            out: Vec::new(),
            lease: None,
            subscriber: None,
        };
        talk.run().await?;
        talk.flush().await?;
        talk.stream.shutdown().await
    }

    async fn run(&mut self) -> io::Result<()> {
        loop {
            let next = match self.round().await? {
                Next::Upload { node, needed } if !self.is_plain(node) => Next::Input(needed),
                next => next,
            };
            match next {
                Next::Round => {}
                Next::Upload { node, .. } => {
                    if self.upload(node).await? == Going::Over {
                        return Ok(());
                    }
                }
                Next::Input(needed) => {
                    self.flush().await?;
                    if self.front.hall.is_stopping() || self.read(needed).await? == Going::Over {
                        return Ok(());
                    }
                }
                Next::Request(packed) => {
                    let rest = std::mem::replace(&mut self.input, Input::of(packed));
                    let next = self.round().await?;
                    self.input = rest;
                    if let Next::Work { work, silent } = next
                        && self.work(work, silent).await? == Going::Over
                    {
                        return Ok(());
                    }
                }
                Next::Work { work, silent } => {
                    if self.work(work, silent).await? == Going::Over {
                        return Ok(());
                    }
                }
                Next::Broken(why) => {
                    write_error(&mut self.out, "ERR", &why);
                    return Ok(());
                }
            }
            if self.guest.is_ended() {
                return Ok(());
            }
        }
    }

    /// Sends as many requests as go together, and puts their answers into `out`.
    async fn round(&mut self) -> io::Result<Next> {
        let protocol = self.session.protocol();
        let shared = self.front.shared(protocol);
        let bytes = self.input.rest();
        let recall = || shared.recall();
        let entropy = rand::random();
        let mut relay = Relay::new(&shared.router, &recall, bytes.len(), entropy);
        self.session.set_pause(self.front.hall.pause());
        let gathered = self.session.gather(bytes, &mut relay);
        let mut exchanges = relay.take_exchanges();
        let answers = exchange(shared, &mut exchanges, Hold::No).await;
        let mut telling = relay.telling(&exchanges, &answers, protocol, entropy);
        while let Some(large) = telling.tell(&mut self.out) {
            flush(&mut self.stream, &mut self.out, &self.guest).await?;
            let passed = pass_large(shared, &large, &mut self.stream, &self.guest).await?;
            if let Err(error) = passed {
                protocol.write(&mut self.out, &error.to_reply());
            }
        }
        self.input.consume(gathered.consumed);
        if let Some(client) = self.session.take_news() {
            self.guest.show(client);
        }
        Ok(gathered.next)
    }

    /// Whether a request can go to this node in pieces: over TLS only redis-rs knows how to send it.
    fn is_plain(&self, node: NodeIndex) -> bool {
        let shared = self.front.shared(self.session.protocol());
        shared.executor.connector(node).is_plain()
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        flush(&mut self.stream, &mut self.out, &self.guest).await
    }

    /// Passes a large request on as it comes, and then the reply. When the node fails, the rest of the request is thrown away,
    /// so that the client hears of it and may go on.
    async fn upload(&mut self, node: NodeIndex) -> io::Result<Going> {
        self.flush().await?;
        let shared = Arc::clone(self.front.shared(self.session.protocol()));
        let connector = shared.executor.connector(node);
        let opened = Pipe::open(&connector, shared.executor.patience()).await;
        let mut pipe = opened.map_err(Cause::Connect);
        let mut passage = Passage::default();
        while !passage.is_over() {
            let Ok(count) = passage.take(self.input.rest()) else {
                write_error(&mut self.out, "ERR", "Protocol error: invalid bulk length");
                return Ok(Going::Over);
            };
            let piece = &self.input.rest()[..count];
            if let Ok(open) = &mut pipe
                && let Err(error) = open.write(piece).await
            {
                pipe = Err(Cause::Dropped(error.to_string()));
            }
            self.input.consume(count);
            if !passage.is_over() && self.read(1).await? == Going::Over {
                return Ok(Going::Over);
            }
        }
        let (cause, sent) = match pipe {
            Err(cause) => (cause, 0),
            Ok(mut pipe) => {
                let mut told = 0;
                let passed = pipe.pass_reply(&mut self.stream, &self.guest, &mut told);
                match passed.await {
                    Err(error) if told == 0 => (Cause::Dropped(error.to_string()), 1),
                    passed => return passed.map(|()| Going::On),
                }
            }
        };
        let failure = Failure::not_sent(cause);
        let error = failure.of_write(shared.router.name(node), sent);
        self.say_error(&error);
        Ok(Going::On)
    }

    /// Reads until so many bytes more are there. Messages are passed on meanwhile.
    async fn read(&mut self, needed: usize) -> io::Result<Going> {
        let wanted = self.input.rest().len() + needed;
        if wanted > REQUEST_BYTES_MAX {
            write_error(
                &mut self.out,
                "ERR",
                "Protocol error: the request is too large",
            );
            return Ok(Going::Over);
        }
        while self.input.rest().len() < wanted {
            // What it is told may have come while something was written.
            if self.guest.is_ended() || self.front.hall.is_stopping() {
                return Ok(Going::Over);
            }
            match self.listen(wanted).await? {
                Heard::Bytes(0) => return Ok(Going::Over),
                Heard::Bytes(_) => self.guest.heard(),
                Heard::Event(event) => {
                    if self.pass_on(event) == Going::Over || self.pass_on_events() == Going::Over {
                        return Ok(Going::Over);
                    }
                    self.flush().await?;
                }
                Heard::Told => {}
            }
        }
        Ok(Going::On)
    }

    /// Waits for whatever comes first.
    pub(super) async fn listen(&mut self, wanted: usize) -> io::Result<Heard> {
        let Self {
            stream,
            guest,
            input,
            subscriber,
            session,
            ..
        } = self;
        let mut told = pin!(guest.told.notified());
        std::future::poll_fn(|cx| {
            if let Poll::Ready(count) = input.poll_fill(stream, wanted, cx)? {
                return Poll::Ready(Ok(Heard::Bytes(count)));
            }
            if told.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Heard::Told));
            }
            if session.listens()
                && let Some(subscriber) = subscriber
                && let Poll::Ready(Some(event)) =
                    futures_util::Stream::poll_next(Pin::new(subscriber), cx)
            {
                return Poll::Ready(Ok(Heard::Event(event)));
            }
            Poll::Pending
        })
        .await
    }

    /// A server that loses messages would have lost the connection, and so it ends: who subscribes again knows that there
    /// is a gap.
    pub(super) fn pass_on(&mut self, event: Event) -> Going {
        match event {
            Event::Message(message) => {
                self.session.message(&message, &mut self.out);
                Going::On
            }
            Event::Missed { .. } => Going::Over,
        }
    }

    /// Passes on what has come already.
    pub(super) fn pass_on_events(&mut self) -> Going {
        while self.out.len() < BYTES_KEPT {
            let subscriber = self.subscriber.as_mut();
            let Some(event) = subscriber.and_then(Subscriber::try_next_event) else {
                break;
            };
            if self.pass_on(event) == Going::Over {
                return Going::Over;
            }
        }
        Going::On
    }
}

/// Writes what there is to write, unless somebody ends the connection.
pub(super) async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    guest: &Guest,
) -> io::Result<()> {
    let mut write = pin!(stream.write_all(bytes));
    loop {
        let told = pin!(guest.told.notified());
        match select(write.as_mut(), told).await {
            Either::Left((written, _)) => return written,
            Either::Right(_) if guest.is_ended() => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // The end of all is no reason to keep an answer back. What it is about is looked at later.
            Either::Right(_) => {}
        }
    }
}

/// Writes what was said, and gives a large buffer back.
async fn flush<S: AsyncWrite + Unpin>(
    stream: &mut S,
    out: &mut Vec<u8>,
    guest: &Guest,
) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    write(stream, out, guest).await?;
    out.clear();
    if out.capacity() > BYTES_KEPT {
        *out = Vec::new();
    }
    Ok(())
}

/// Sends a round to the nodes.
pub(super) async fn exchange(
    shared: &Shared,
    exchanges: &mut Vec<Exchange>,
    hold: Hold,
) -> Vec<Answers<Frames>> {
    match exchanges.is_empty() {
        true => Vec::new(),
        false => shared.executor.exchange(exchanges, hold).await,
    }
}
