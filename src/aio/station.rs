//! The way to one node: a connection that is made when it is first needed, and made again in the background when it
//! breaks.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{ConnectionAddr, RedisResult};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::aio::driver::{Driver, Pace};
use crate::aio::link::{Limit, Link, Mailbox};
use crate::aio::tls;
use crate::endpoint::Endpoint;
use crate::handshake::Handshake;
use crate::health::{Health, PAUSE_MIN};
use crate::inbox::Inbox;
use crate::plan::{Answers, Cause, Ending};

/// How to make connections to one node.
#[derive(Clone)]
pub(super) struct Connector {
    endpoint: Endpoint,
    pub(super) address: String,
    pub(super) timeout: Duration,
    pace: Pace,
}

/// One shared connection to one node.
pub(super) struct Station {
    connector: Connector,
    current: ArcSwapOption<Link>,
    state: Mutex<State>,
    /// A connection was made, or an attempt failed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// A task tries to make a connection; never two at a time.
    connecting: bool,
    /// When the last connection was made.
    made: Option<Instant>,
    health: Health,
}

/// A stream to a server, of whichever kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Connector {
    pub(super) fn new(endpoint: Endpoint, timeout: Duration, pace: Pace) -> Self {
        Self {
            address: endpoint.address.clone(),
            endpoint,
            timeout,
            pace,
        }
    }

    /// A stream of one's own on which these first words are said and answered, and what came behind the answers.
    pub(super) async fn open(
        &self,
        handshake: Handshake,
    ) -> Result<(Box<dyn Duplex>, Inbox), String> {
        let open = async {
            let mut inbox = Inbox::new();
            let mut stream = self.connect_stream().await?;
            stream.write_all(&handshake.packed()).await?;
            let mut answers = Vec::new();
            while answers.len() < handshake.count() {
                match inbox.reply()? {
                    Some(answer) => answers.push(answer),
                    None => {
                        let read = read(&mut stream, &mut inbox).await;
                        let hung_up = |error| format!("{error}{}", self.endpoint.hint());
                        inbox.arrived(read.map_err(hung_up).map_err(io::Error::other)?);
                    }
                }
            }
            handshake.check(&answers).map_err(io::Error::other)?;
            Ok::<_, io::Error>((stream, inbox))
        };
        match tokio::time::timeout(self.timeout, open).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(error)) => Err(format!("{}: {error}", self.address)),
            Err(_) => Err(format!("{}: timed out", self.address)),
        }
    }

    /// The first words of a connection for commands.
    pub(super) fn handshake(&self) -> Handshake {
        Handshake::new(self.endpoint.info.redis_settings())
    }

    async fn connect_stream(&self) -> io::Result<Box<dyn Duplex>> {
        match self.endpoint.info.addr() {
            ConnectionAddr::Tcp(host, port) => Ok(Box::new(self.connect_tcp(host, *port).await?)),
            ConnectionAddr::TcpTls { host, port, .. } => self.connect_tls(host, *port).await,
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        self.endpoint.options.apply(SockRef::from(&stream))?;
        Ok(stream)
    }

    async fn connect_tls(&self, host: &str, port: u16) -> io::Result<Box<dyn Duplex>> {
        let Some(tls) = &self.endpoint.tls else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let stream = self.connect_tcp(host, port).await?;
        // In a box, as what a handshake needs is large, and most connections have none.
        let shaken = Box::pin(tls::connect(tls, stream)).await;
        shaken.map_err(|error| tls.handshake_error(error))
    }

    /// The first words of a connection for SUBSCRIBE, in the protocol that mixes messages and replies as arrays.
    pub(super) fn listener_handshake(&self) -> Handshake {
        let settings = self.endpoint.info.redis_settings().clone();
        Handshake::new(&settings.set_protocol(redis::ProtocolVersion::RESP2))
    }

    /// A connection, ready for commands.
    pub(super) async fn connect(
        &self,
        closed: impl FnOnce() + Send + 'static,
    ) -> Result<Link, String> {
        let limit = Limit::start(Some(self.timeout));
        let connect = self.try_connect(limit, closed);
        match tokio::time::timeout(self.timeout, connect).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(format!("{}: {error}", self.address)),
            Err(_) => Err(format!("{}: timed out", self.address)),
        }
    }

    async fn try_connect(
        &self,
        limit: Limit,
        closed: impl FnOnce() + Send + 'static,
    ) -> RedisResult<Link> {
        // The streams of most nodes are known by their type, so that no byte of theirs takes a detour.
        let link = match self.endpoint.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                drive(self.connect_tcp(host, *port).await?, self.pace, closed)
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => {
                drive(UnixStream::connect(path).await?, self.pace, closed)
            }
            _ => drive(self.connect_stream().await?, self.pace, closed),
        };
        let handshake = self.handshake();
        if handshake.count() > 0 {
            let answers: Answers = link
                .exchange(&handshake.packed(), handshake.count(), Ending::Any, limit)
                .await;
            if let Some(failure) = answers.failure {
                let hint = match failure.cause {
                    Cause::Dropped(_) => self.endpoint.hint(),
                    _ => "",
                };
                let error = std::io::Error::other(format!("{}{hint}", failure.cause));
                return Err(error.into());
            }
            handshake.check(&answers.values)?;
        }
        Ok(link)
    }
}

/// Reads into the inbox's room. Dropping the future loses nothing.
pub(super) async fn read(stream: &mut Box<dyn Duplex>, inbox: &mut Inbox) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut room = ReadBuf::new(inbox.room());
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
        Poll::Ready(match room.filled().len() {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        })
    })
    .await
}

/// A link over `stream`, and the task that drives it. `closed` is called when it ends.
fn drive<S>(stream: S, pace: Pace, closed: impl FnOnce() + Send + 'static) -> Link
where
    S: Duplex + 'static,
{
    let mailbox = Arc::new(Mailbox::default());
    let driver = Driver::new(stream, Arc::clone(&mailbox), pace);
    tokio::spawn(async move {
        driver.await;
        closed();
    });
    Link::plain(mailbox)
}

impl Station {
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            connector,
            current: ArcSwapOption::empty(),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The connection. Waits for the first one; while the node is known to be down, fails at once.
    pub(super) async fn link(self: &Arc<Self>, limit: Limit) -> Result<Arc<Link>, Cause> {
        if let Some(link) = self.living() {
            return Ok(link);
        }
        // In a box, as all that is seldom waited for: it would be in the future of every request.
        Box::pin(self.wait_for_link(limit)).await
    }

    async fn wait_for_link(self: &Arc<Self>, limit: Limit) -> Result<Arc<Link>, Cause> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(link) = self.living() {
                return Ok(link);
            }
            // Also while the node is down: the task that tries again may have ended with its runtime.
            self.make_connection();
            {
                let state = self.state.lock();
                if let Some((reason, since)) = state.health.trouble(Instant::now()) {
                    let seconds = since.as_secs_f64();
                    return Err(Cause::Connect(format!(
                        "{reason} (down for {seconds:.1} s)"
                    )));
                }
            }
            match limit.end() {
                None => changed.await,
                Some(end) => {
                    if tokio::time::timeout_at(end.into(), changed).await.is_err() {
                        let text = format!("{}: no connection yet", self.connector.address);
                        return Err(Cause::Connect(text));
                    }
                }
            }
        }
    }

    /// The connection, if there is one that is not closed.
    fn living(&self) -> Option<Arc<Link>> {
        self.current.load_full().filter(|link| !link.is_closed())
    }

    /// Starts the task that makes a connection, if there is neither a connection nor such a task. After a connection that
    /// did not live long it waits a little, lest a server that hangs up on everybody is called without end.
    fn make_connection(self: &Arc<Self>) {
        let mut state = self.state.lock();
        // Looked at again under the lock: a connection may have been made since the caller looked.
        if self.living().is_some() || std::mem::replace(&mut state.connecting, true) {
            return;
        }
        let short_lived = state.made.is_some_and(|made| made.elapsed() < PAUSE_MIN);
        drop(state);
        let pause = if short_lived {
            PAUSE_MIN
        } else {
            Duration::ZERO
        };
        // Not under the lock: a runtime that is ending drops the task here and now, and so does a missing one.
        let task = Connecting {
            station: Arc::downgrade(self),
            ended: false,
        };
        tokio::spawn(task.run(pause));
    }
}

/// The task that makes a connection, again and again until there is one or nobody needs it.
struct Connecting {
    station: Weak<Station>,
    /// It has given the word that it is no more; another may run already.
    ended: bool,
}

impl Connecting {
    async fn run(mut self, mut pause: Duration) {
        loop {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match self.attempt().await {
                Some(longer) => pause = longer,
                None => break,
            }
        }
        self.ended = true;
    }

    /// Tries once; how long to wait before the next time, or `None` when there is a connection or nobody to have it.
    async fn attempt(&self) -> Option<Duration> {
        let connector = self.station.upgrade()?.connector.clone();
        let weak = self.station.clone();
        let made = connector
            .connect(move || {
                if let Some(station) = weak.upgrade() {
                    station.make_connection();
                }
            })
            .await;
        let station = self.station.upgrade()?;
        let mut state = station.state.lock();
        let pause = match made {
            Ok(link) => {
                state.health.connected();
                state.connecting = false;
                state.made = Some(Instant::now());
                link.leave_when_answered();
                station.current.store(Some(Arc::new(link)));
                None
            }
            Err(reason) => Some(state.health.failed(Instant::now(), rand::random(), reason)),
        };
        drop(state);
        station.changed.notify_waiters();
        pause
    }
}

impl Drop for Connecting {
    /// The runtime may end while the task sleeps; the next request starts another.
    fn drop(&mut self) {
        if !self.ended
            && let Some(station) = self.station.upgrade()
        {
            station.state.lock().connecting = false;
            station.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Station")
            .field("address", &self.connector.address)
            .field("link", &self.current.load())
            .finish_non_exhaustive()
    }
}
