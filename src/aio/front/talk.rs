//! One connection of a front end.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::aio::front::FrontEnd;
use crate::aio::front::hall::{Guest, Hall};
use crate::aio::front::pipe::Pipe;
use crate::aio::waiting::Lease;
use crate::aio::{Shared, Subscriber};
use crate::command::Args;
use crate::error::Error;
use crate::front::{Next, Ready, Session, Unblocked, Work};
use crate::node::NodeIndex;
use crate::passage::Passage;
use crate::plan::{
    Answers, Atomic, Cause, Ending, Exchange, Failure, Frames, Hold, Large, Relay, parse_one,
};
use crate::reply::{Protocol, write_error};
use crate::subscribe::{Change, Event, Subscription};

/// Read at once at least.
const READ_BYTES: usize = 16 << 10;

/// Read at once at most.
const READ_BYTES_MAX: usize = 1 << 20;

/// A buffer of more bytes is given back when it is empty.
const BYTES_KEPT: usize = 256 << 10;

/// So many bytes of requests may wait while a blocking command does.
const BYTES_BEHIND_MAX: usize = 1 << 20;

/// A request may have so many bytes, like a server's buffer for them (`client-query-buffer-limit`).
const REQUEST_BYTES_MAX: usize = 1 << 30;

/// One connection, from its first byte to its last.
pub(super) struct Talk<'f, S> {
    front: &'f FrontEnd,
    stream: S,
    session: Session,
    guest: Arc<Guest>,
    input: Input,
    out: Vec<u8>,
    /// The connection of WATCH.
    lease: Option<Lease>,
    subscriber: Option<Subscriber>,
}

/// What has arrived and is not taken yet.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    start: usize,
}

/// What happens while a connection waits.
enum Heard {
    /// So many bytes came; none is the end.
    Bytes(usize),
    Event(Event),
    /// Somebody says something to it: see its [`Guest`].
    Told,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
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
            session: Session::new(client),
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
            match self.round().await? {
                Next::Round => {}
                Next::Upload(node) => {
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
        let mut relay = Relay::new(&shared.router, bytes.len());
        let gathered = self.session.gather(&shared.router, bytes, &mut relay);
        let exchanges = relay.take_exchanges();
        let answers = exchange(shared, &exchanges, Hold::No).await;
        let mut telling = relay.telling(&exchanges, &answers, protocol, rand::random());
        while let Some(large) = telling.tell(&mut self.out) {
            flush(&mut self.stream, &mut self.out, &self.guest).await?;
            let passed = pass_large(shared, &large, &mut self.stream).await?;
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

    async fn flush(&mut self) -> io::Result<()> {
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
                match pipe.pass_reply(&mut self.stream, &mut told).await {
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
            match self.listen(wanted).await? {
                Heard::Bytes(0) => return Ok(Going::Over),
                Heard::Bytes(_) => self.guest.heard(),
                Heard::Event(event) => {
                    if self.pass_on(event) == Going::Over {
                        return Ok(Going::Over);
                    }
                    self.pass_on_events();
                    self.flush().await?;
                }
                Heard::Told if self.guest.is_ended() => return Ok(Going::Over),
                Heard::Told if self.front.hall.is_stopping() => return Ok(Going::Over),
                Heard::Told => {}
            }
        }
        Ok(Going::On)
    }

    /// Waits for whatever comes first.
    async fn listen(&mut self, wanted: usize) -> io::Result<Heard> {
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
    fn pass_on(&mut self, event: Event) -> Going {
        match event {
            Event::Message(message) => {
                self.session.message(&message, &mut self.out);
                Going::On
            }
            Event::Missed { .. } => Going::Over,
        }
    }

    /// Passes on what has come already.
    fn pass_on_events(&mut self) {
        while self.out.len() < BYTES_KEPT {
            let Some(event) = self
                .subscriber
                .as_mut()
                .and_then(Subscriber::try_next_event)
            else {
                break;
            };
            if let Event::Message(message) = event {
                self.session.message(&message, &mut self.out);
            }
        }
    }

    async fn work(&mut self, work: Work, silent: bool) -> io::Result<Going> {
        let before = self.out.len();
        let mut going = Going::On;
        match work {
            Work::Wait(packed) => going = self.wait(&packed).await?,
            Work::Watch { node, packed } => self.watch(node, &packed).await,
            Work::Forget => self.forget().await,
            Work::Exec(ready) => self.exec(&ready).await,
            Work::Subscribe {
                change,
                kind,
                names,
            } => self.subscribe(change, kind, names).await,
            Work::Clients(ask) => {
                self.guest.show(self.session.client());
                let (id, protocol) = (self.session.id(), self.session.protocol());
                self.front.hall.answer(&ask, id, protocol, &mut self.out);
            }
            Work::Greet(hello) => {
                let version = self.front.server_version().await;
                self.session.greet(&hello, &version, &mut self.out);
            }
            Work::Reset => {
                self.forget().await;
                self.subscriber = None;
                self.session.reset(&mut self.out);
            }
            Work::Close => going = Going::Over,
        }
        if silent {
            self.out.truncate(before);
        }
        self.guest.show(self.session.client());
        Ok(going)
    }

    /// A command that may wait. What the client sends meanwhile is kept, and its end noticed.
    async fn wait(&mut self, packed: &[u8]) -> io::Result<Going> {
        self.flush().await?;
        self.guest.set_blocked(true);
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.front.shared(protocol));
        let mut reply = pin!(alone(&shared, packed, protocol));
        let going = loop {
            let wanted = match self.input.rest().len() {
                BYTES_BEHIND_MAX.. => 0,
                behind => behind + 1,
            };
            let next = match select(reply.as_mut(), pin!(self.listen(wanted))).await {
                Either::Left((reply, _)) => Either::Left(reply),
                Either::Right((heard, _)) => Either::Right(heard?),
            };
            match next {
                Either::Left(reply) => {
                    self.out.extend_from_slice(&reply);
                    break Going::On;
                }
                Either::Right(heard) => match heard {
                    Heard::Bytes(0) => break Going::Over,
                    Heard::Bytes(_) => {}
                    Heard::Event(event) => {
                        if self.pass_on(event) == Going::Over {
                            break Going::Over;
                        }
                        self.flush().await?;
                    }
                    Heard::Told if self.guest.is_ended() => break Going::Over,
                    Heard::Told if self.front.hall.is_stopping() => break Going::Over,
                    Heard::Told => {
                        if let Some(how) = self.guest.take_unblocked() {
                            self.unblocked(packed, how);
                            break Going::On;
                        }
                    }
                },
            }
        };
        self.guest.set_blocked(false);
        Ok(going)
    }

    fn unblocked(&mut self, packed: &[u8], how: Unblocked) {
        let args = parse_one(packed).unwrap_or_default();
        let protocol = self.session.protocol();
        how.write(&args, protocol, &mut self.out);
    }

    async fn watch(&mut self, node: NodeIndex, packed: &[u8]) {
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.front.shared(protocol));
        if self.lease.is_none() {
            let limit = shared.executor.limit(Hold::No);
            match shared.executor.lease(node, limit).await {
                Ok(lease) => self.lease = Some(lease),
                Err(cause) => {
                    let failure = Failure::not_sent(cause);
                    self.session.watch_failed();
                    let error = failure.without_answer(shared.router.name(node));
                    return self.say_error(&error);
                }
            }
        }
        let answers = self.on_lease(&shared, packed, 1, Ending::Any).await;
        let answers = answers.unwrap_or_default();
        match (answers.values.get(0), &answers.failure) {
            (Some(frame), _) => self.out.extend_from_slice(frame),
            (None, Some(failure)) => {
                self.session.watch_failed();
                let error = failure.without_answer(shared.router.name(node));
                self.say_error(&error);
            }
            (None, None) => {}
        }
    }

    /// Requests on the connection of WATCH, if there is one. It is closed when that fails.
    async fn on_lease(
        &mut self,
        shared: &Shared,
        packed: &[u8],
        count: usize,
        ending: Ending,
    ) -> Option<Answers<Frames>> {
        let lease = self.lease.take()?;
        let limit = shared.executor.limit(Hold::No);
        let answers: Answers<Frames> = lease.link.exchange(packed, count, ending, limit).await;
        if answers.failure.is_none() {
            self.lease = Some(lease);
        }
        Some(answers)
    }

    /// Gives the connection of WATCH back, with nothing watched on it.
    async fn forget(&mut self) {
        const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";
        let shared = Arc::clone(self.front.shared(self.session.protocol()));
        let answers = self.on_lease(&shared, UNWATCH, 1, Ending::Any).await;
        if answers.is_some_and(|answers| answers.values.get(0) == Some(b"+OK\r\n"))
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
        self.lease = None;
    }

    async fn exec(&mut self, ready: &Ready) {
        let protocol = self.session.protocol();
        let shared = Arc::clone(self.front.shared(protocol));
        let count = ready.commands + 2;
        let answers = match self
            .on_lease(&shared, &ready.packed, count, Ending::Exec)
            .await
        {
            Some(answers) => answers,
            None => {
                let exchange = Atomic::exchange(ready.node, &ready.packed, ready.commands);
                let answers = shared.executor.exchange(&[exchange], Hold::No).await;
                answers.into_iter().next().unwrap_or_default()
            }
        };
        if let Some(lease) = self.lease.take()
            && answers.failure.is_none()
        {
            lease.give_back();
        }
        let node = shared.router.name(ready.node);
        Atomic::pass_on(node, &answers, protocol, &mut self.out);
    }

    async fn subscribe(&mut self, change: Change, kind: Subscription, names: Vec<Vec<u8>>) {
        let shared = self.front.shared(Protocol::Resp2);
        let subscriber = self
            .subscriber
            .get_or_insert_with(|| Subscriber::new(Arc::clone(shared)));
        let changed = subscriber.change(change, kind, names.clone()).await;
        if changed.is_err() && change == Change::Begin {
            // Who is told that it failed will not look for messages.
            let _ = subscriber.change(Change::End, kind, names.clone()).await;
        }
        match changed {
            Err(error) => self.say_error(&error),
            Ok(()) => {
                if change == Change::End {
                    self.pass_on_events();
                }
                self.session.subscribed(change, kind, &names, &mut self.out);
            }
        }
        if !self.session.listens() {
            self.subscriber = None;
        }
    }

    fn say_error(&mut self, error: &Error) {
        let protocol = self.session.protocol();
        protocol.write(&mut self.out, &error.to_reply());
    }
}

/// Writes what there is to write, unless somebody ends the connection.
async fn flush<S: AsyncWrite + Unpin>(
    stream: &mut S,
    out: &mut Vec<u8>,
    guest: &Guest,
) -> io::Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    {
        let mut write = pin!(stream.write_all(out));
        loop {
            let told = pin!(guest.told.notified());
            match select(write.as_mut(), told).await {
                Either::Left((written, _)) => break written?,
                Either::Right(_) if guest.is_ended() => {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                // The end of all is no reason to keep an answer back. What it is about is looked at later.
                Either::Right(_) => {}
            }
        }
    }
    out.clear();
    if out.capacity() > BYTES_KEPT {
        *out = Vec::new();
    }
    Ok(())
}

/// Sends a round to the nodes.
async fn exchange(shared: &Shared, exchanges: &[Exchange], hold: Hold) -> Vec<Answers<Frames>> {
    match exchanges.is_empty() {
        true => Vec::new(),
        false => shared.executor.exchange(exchanges, hold).await,
    }
}

/// Asks again for a reply that was too large to be kept, and passes it on as it comes. The error that can be told instead.
async fn pass_large<S: AsyncWrite + Unpin>(
    shared: &Shared,
    large: &Large<'_>,
    client: &mut S,
) -> io::Result<Result<(), Error>> {
    let name = shared.router.name(large.node);
    let failed = |cause| Ok(Err(Failure::not_sent(cause).without_answer(name)));
    let connector = shared.executor.connector(large.node);
    let mut pipe = match Pipe::open(&connector, shared.executor.patience()).await {
        Ok(pipe) => pipe,
        Err(why) => return failed(Cause::Connect(why)),
    };
    if let Err(error) = pipe.write(large.request).await {
        return failed(Cause::Dropped(error.to_string()));
    }
    let mut told = 0;
    match pipe.pass_reply(client, &mut told).await {
        Err(error) if told == 0 => failed(Cause::Dropped(error.to_string())),
        passed => passed.map(Ok),
    }
}

/// One command by itself, and the reply to it.
async fn alone(shared: &Shared, packed: &[u8], protocol: Protocol) -> Vec<u8> {
    let mut out = Vec::new();
    let mut batch = Relay::new(&shared.router, packed.len());
    let args: Args<'_> = parse_one(packed).unwrap_or_default();
    match shared.router.planned(&args) {
        Err(error) => protocol.write(&mut out, &error.to_reply()),
        Ok(planned) => {
            let hold = planned.hold;
            batch.add(packed, &args, planned);
            let exchanges = batch.take_whole_exchanges();
            let answers = exchange(shared, &exchanges, hold).await;
            batch
                .telling(&exchanges, &answers, protocol, 0)
                .tell(&mut out);
        }
    }
    out
}

impl Input {
    fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > BYTES_KEPT {
                self.bytes = Vec::new();
            }
        }
    }

    /// Reads what is there, unless there is as much as is wanted. How many bytes came.
    fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let there = self.rest().len();
        if there >= wanted {
            return Poll::Pending;
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes
            .reserve((wanted - there).clamp(READ_BYTES, READ_BYTES_MAX));
        // Into the room behind the bytes, which need not be cleared. It holds nothing between two calls.
        pin!(stream.read_buf(&mut self.bytes)).poll(cx)
    }
}
