//! One connection of a front end.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::aio::exclusive_pool::Lease;
use crate::aio::front::FrontEnd;
use crate::aio::front::client_io::{ClientIo, Heard, unless_ended};
use crate::aio::front::hall::{Guest, Hall};
use crate::aio::front::input::Input;
use crate::aio::front::memory::ClientMemory;
use crate::aio::front::pipe::{Pipe, pass_large};
use crate::aio::{Shared, Subscriber};
use crate::front::{Next, Session};
use crate::node::NodeIndex;
use crate::passage::Passage;
use crate::plan::{Answers, Cause, Exchange, Failure, Frames, Hold, Meter, Relay, Told};
use crate::reply::{Protocol, write_error};
use crate::subscribe::Event;

/// Replies are written when there are so many bytes of them, and when the client has asked nothing more.
const WRITE_BYTES: usize = 256 << 10;

/// Others have their turn behind a round of more commands.
const LONG_ROUND_COMMANDS: u32 = 1000;

/// One connection, from its first byte to its last.
pub(super) struct Talk<'f, S> {
    pub(super) front: &'f FrontEnd,
    pub(super) io: ClientIo<S>,
    pub(super) session: Session,
    pub(super) guest: Arc<Guest>,
    pub(super) input: Input,
    pub(super) out: Vec<u8>,
    /// The connection of WATCH, and what those it was taken from speak.
    pub(super) lease: Option<(Protocol, Lease)>,
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
        let memory = Arc::new(ClientMemory::new(
            Arc::clone(&front.hall),
            Arc::clone(&guest),
        ));
        let limits = front.hall.limits();
        let mut talk = Self {
            front,
            io: ClientIo::new(stream, Arc::clone(&guest), memory, limits),
            session: Session::new(client, front.hall.door()),
            guest,
            input: Input::default(),
            out: Vec::new(),
            lease: None,
        };
        let guest = Arc::clone(&talk.guest);
        unless_ended(&guest, async {
            talk.run().await?;
            talk.flush().await
        })
        .await?;
        talk.io.stream().shutdown().await
    }

    async fn run(&mut self) -> io::Result<()> {
        while self.step().await? == Going::On {
            if self.guest.is_ended() {
                return Ok(());
            }
            // Requests that need no node would never let others have their turn.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// One round, and what comes after it.
    async fn step(&mut self) -> io::Result<Going> {
        let next = self.round().await?;
        self.after(next).await
    }

    /// What comes when a round is answered.
    async fn after(&mut self, next: Next) -> io::Result<Going> {
        if self.out.len() >= WRITE_BYTES {
            self.flush().await?;
        }
        match next {
            Next::Round => {}
            Next::Upload { node } => return self.upload(node).await,
            Next::Input(_) if self.io.has_arrived() => self.io.take_arrived(&mut self.input),
            Next::Input(needed) => {
                self.flush().await?;
                if self.io.has_arrived() {
                    return Ok(Going::On);
                }
                if self.front.hall.is_stopping() {
                    return Ok(Going::Over);
                }
                return self.read(needed).await;
            }
            Next::Requests(packed) => self.input.put_before(packed),
            Next::Heavy(length) => return Box::pin(self.heavy(length)).await,
            Next::Work { work, silent } => return self.work(work, silent).await,
            Next::Broken(why) => {
                write_error(&mut self.out, "ERR", &why);
                return Ok(Going::Over);
            }
        }
        Ok(Going::On)
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
        self.count_memory();
        let answers = exchange(shared, &mut exchanges, Hold::No, self.meter()).await;
        let (commands, _) = relay.size();
        let bytes = answers.iter().map(|answers| answers.values.byte_count());
        self.session.answered(commands, bytes.sum());
        let mut telling = relay.telling(&exchanges, &answers, protocol, entropy);
        loop {
            let told = telling.tell(&mut self.out, WRITE_BYTES);
            if let Told::All = told {
                break;
            }
            let io = &mut self.io;
            flush(io, &mut self.out, &self.session).await?;
            match told {
                Told::All | Told::Enough => {}
                Told::Next(frame) => io.write(frame, &self.session, &mut self.out).await?,
                Told::Until(large) => {
                    let (session, out) = (&self.session, &mut self.out);
                    if let Err(error) = pass_large(shared, &large, io, session, out).await? {
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
        if let Some(client) = self.session.take_news() {
            self.guest.show(client);
        }
        Ok(match gathered.next {
            // Behind requests that were rewritten come those that were not.
            Next::Input(_) if is_rewritten => Next::Round,
            next => next,
        })
    }

    /// Takes a request with very many arguments. To plan it and to put its answer together takes long, so that is done on
    /// a thread for such work, while this one serves others.
    async fn heavy(&mut self, length: usize) -> io::Result<Going> {
        let request = self.input.take(length);
        let placeholder = Session::new(self.session.client(), self.front.hall.door());
        let mut session = std::mem::replace(&mut self.session, placeholder);
        let shared = Arc::clone(self.front.shared(session.protocol()));
        let (meter, entropy) = (self.meter(), rand::random());
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            let recall = || shared.recall();
            let mut relay = Relay::new(&shared.router, &recall, request.len(), entropy);
            let gathered = session.gather_heavy(&request, &mut relay);
            let mut exchanges = relay.take_whole_exchanges();
            let exchanged = exchange(&shared, &mut exchanges, Hold::No, meter);
            let answers = runtime.block_on(exchanged);
            let mut out = Vec::new();
            relay
                .telling(&exchanges, &answers, session.protocol(), entropy)
                .tell(&mut out, usize::MAX);
            (session, gathered.next, out)
        });
        let (session, next, out) = task.await.map_err(io::Error::other)?;
        self.session = session;
        self.out.extend_from_slice(&out);
        if let Some(client) = self.session.take_news() {
            self.guest.show(client);
        }
        match next {
            // All of the request was taken.
            Next::Input(_) => Ok(Going::On),
            next => self.after(next).await,
        }
    }

    /// Counts the replies that are held for this client.
    pub(super) fn meter(&self) -> Meter {
        Arc::clone(&self.io.memory) as Meter
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
    async fn upload(&mut self, node: NodeIndex) -> io::Result<Going> {
        self.flush().await?;
        let shared = Arc::clone(self.front.shared(self.session.protocol()));
        let connector = shared.executor.connector(node);
        let opened = Pipe::open(&connector, shared.executor.response_timeout()).await;
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
                let passed = pipe.pass_reply(&mut self.io, &self.session, &mut told, &mut self.out);
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
        let wanted = self.input.len() + needed;
        self.io.take_arrived(&mut self.input);
        if wanted > self.session.query_bytes_max(self.io.limits.query_bytes) {
            write_error(
                &mut self.out,
                "ERR",
                "Protocol error: the request is too large",
            );
            return Ok(Going::Over);
        }
        while self.input.len() < wanted {
            // What it is told may have come while something was written.
            if self.guest.is_ended() || self.front.hall.is_stopping() {
                return Ok(Going::Over);
            }
            let idle = self.io.limits.idle.filter(|_| !self.session.listens());
            let listen = self.io.listen(&mut self.input, wanted, &self.session);
            let heard = match idle {
                None => listen.await?,
                Some(limit) => match tokio::time::timeout(limit, listen).await {
                    Ok(heard) => heard?,
                    Err(_) => return Ok(Going::Over),
                },
            };
            match heard {
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

    /// A server that loses messages would have lost the connection, and so it ends: who subscribes again knows that there
    /// is a gap.
    pub(super) fn pass_on(&mut self, event: Event) -> Going {
        match event {
            Event::Message(message) => {
                self.session.message(&message, &mut self.out);
                Going::On
            }
            Event::Disconnected { .. } | Event::Missed { .. } => Going::Over,
        }
    }

    /// Passes on what has come already.
    pub(super) fn pass_on_events(&mut self) -> Going {
        while self.out.len() < WRITE_BYTES {
            let subscriber = self.io.subscriber.as_mut();
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

/// Sends a round to the nodes. `meter` counts the bytes of the answers.
pub(super) async fn exchange(
    shared: &Shared,
    exchanges: &mut Vec<Exchange>,
    hold: Hold,
    meter: Meter,
) -> Vec<Answers<Frames>> {
    for exchange in exchanges.iter_mut() {
        exchange.meter = Some(Arc::clone(&meter));
    }
    match exchanges.is_empty() {
        true => Vec::new(),
        false => shared.executor.exchange(exchanges, hold).await,
    }
}
