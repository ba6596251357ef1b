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
use redis::{ConnectionAddr, RedisError, RedisResult};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::runtime::{Handle, Id, RuntimeFlavor};

use crate::aio::driver::{Driver, WriteCoalescing};
use crate::aio::multiplexed::{MultiplexedConnection, SendQueue};
use crate::aio::peek::Duplex;
use crate::aio::tls;
use crate::endpoint::Deadline;
use crate::endpoint::{ConnectAttempt, Endpoint, NodeBackoff};
use crate::plan::{Answers, Cause, ExpectedEnd};
use crate::policy::{BACKOFF_MIN, ConnectError, OVERDUE_SLACK, broken_text};
use crate::resp::Handshake;
use crate::resp::ReplyDecoder;

/// How to make connections to one node.
#[derive(Clone)]
pub(crate) struct Connector {
    endpoint: Endpoint,
    pub(crate) address: String,
    pub(crate) timeout: Duration,
    coalescing: WriteCoalescing,
    /// One for all connections to the node, also those that other clones of this make.
    pub(crate) backoff: Arc<NodeBackoff>,
}

/// One shared connection to one node.
pub(crate) struct ReconnectingConnection {
    connector: Connector,
    current: ArcSwapOption<MultiplexedConnection>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The task that makes a connection; never two at a time, as far as they are run.
    attempt: Option<ConnectTask>,
    /// How many such tasks there were: the number of the last.
    tasks: u64,
    /// A request waits for the attempt that is due.
    polled_by_request: bool,
    /// When the last connection was made.
    connected_at: Option<Instant>,
}

/// A task that makes a connection.
struct ConnectTask {
    /// Its runtime runs only while somebody blocks on it.
    only_when_blocked_on: bool,
    /// By then it has ended or begun its next try, if it is run at all.
    overdue: Instant,
    /// It waits, because the node is known to be down.
    is_left_alone: bool,
}

impl Connector {
    pub(crate) fn new(endpoint: Endpoint, timeout: Duration, coalescing: WriteCoalescing) -> Self {
        Self {
            address: endpoint.address.clone(),
            endpoint,
            timeout,
            coalescing,
            backoff: Arc::default(),
        }
    }

    /// A stream of one's own on which these first words are said and answered, and what came behind the answers.
    pub(crate) async fn open(
        &self,
        handshake: Handshake,
    ) -> Result<(Box<dyn Duplex>, ReplyDecoder), ConnectError> {
        let open = async {
            let mut decoder = ReplyDecoder::new();
            let mut stream = self.connect_stream().await?;
            stream.write_all(&handshake.packed()).await?;
            let mut answers = Vec::new();
            while answers.len() < handshake.count() {
                match decoder.next_reply()? {
                    Some(answer) => answers.push(answer),
                    None => {
                        let read = read(&mut stream, &mut decoder).await;
                        let hung_up =
                            |error| format!("{}{}", broken_text(&error), self.endpoint.hint());
                        decoder.advance(read.map_err(hung_up).map_err(io::Error::other)?);
                    }
                }
            }
            handshake.check(&answers)?;
            Ok::<_, RedisError>((stream, decoder))
        };
        match tokio::time::timeout(self.timeout, open).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(error)) => Err(ConnectError::new(&self.address, &error)),
            Err(_) => Err(ConnectError::timed_out(&self.address)),
        }
    }

    /// The first words of a connection for commands.
    pub(crate) fn handshake(&self) -> Handshake {
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
    pub(crate) fn pub_sub_handshake(&self) -> Handshake {
        let settings = self.endpoint.info.redis_settings().clone();
        Handshake::new(&settings.set_protocol(redis::ProtocolVersion::RESP2))
    }

    /// A connection, ready for commands.
    pub(crate) async fn connect(
        &self,
        closed: impl FnOnce() + Send + 'static,
    ) -> Result<MultiplexedConnection, ConnectError> {
        let deadline = Deadline::start(Some(self.timeout));
        let connect = self.try_connect(deadline, closed);
        match tokio::time::timeout(self.timeout, connect).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(ConnectError::new(&self.address, &error)),
            Err(_) => Err(ConnectError::timed_out(&self.address)),
        }
    }

    async fn try_connect(
        &self,
        deadline: Deadline,
        closed: impl FnOnce() + Send + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        // The streams of most nodes are known by their type, so that no byte of theirs takes a detour.
        let connection = match self.endpoint.info.addr() {
            ConnectionAddr::Tcp(host, port) => drive(
                self.connect_tcp(host, *port).await?,
                self.coalescing,
                closed,
            ),
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => {
                drive(UnixStream::connect(path).await?, self.coalescing, closed)
            }
            _ => drive(self.connect_stream().await?, self.coalescing, closed),
        };
        let handshake = self.handshake();
        if handshake.count() > 0 {
            let answers: Answers = connection
                .exchange(
                    &handshake.packed(),
                    handshake.count(),
                    ExpectedEnd::Any,
                    deadline,
                )
                .await;
            if let Some(failure) = answers.failure {
                let error = match failure.cause {
                    Cause::Dropped(text) => {
                        io::Error::other(format!("{text}{}", self.endpoint.hint()))
                    }
                    Cause::Timeout(_) => io::ErrorKind::TimedOut.into(),
                    other => io::Error::other(other.to_string()),
                };
                return Err(error.into());
            }
            handshake.check(&answers.values)?;
        }
        Ok(connection)
    }
}

/// Reads into the decoder's spare room. Dropping the future loses nothing.
pub(crate) async fn read(
    stream: &mut Box<dyn Duplex>,
    decoder: &mut ReplyDecoder,
) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut room = ReadBuf::new(decoder.spare_mut());
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
        Poll::Ready(match room.filled().len() {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        })
    })
    .await
}

/// A connection over `stream`, and the task that drives it. `closed` is called when it ends.
fn drive<S>(
    stream: S,
    coalescing: WriteCoalescing,
    closed: impl FnOnce() + Send + 'static,
) -> MultiplexedConnection
where
    S: Duplex + 'static,
{
    let queue = Arc::new(SendQueue::default());
    let driver = Driver::new(stream, Arc::clone(&queue), coalescing);
    tokio::spawn(async move {
        driver.await;
        closed();
    });
    MultiplexedConnection::new(queue, current_thread_runtime())
}

/// The runtime that this is called on, if it runs only while somebody blocks on it: what lives on it cannot be counted on
/// from elsewhere.
pub(crate) fn current_thread_runtime() -> Option<Id> {
    let handle = Handle::try_current().ok()?;
    let is_blocked_on = handle.runtime_flavor() == RuntimeFlavor::CurrentThread;
    is_blocked_on.then(|| handle.id())
}

impl ReconnectingConnection {
    pub(crate) fn new(connector: Connector) -> Self {
        Self {
            connector,
            current: ArcSwapOption::empty(),
            state: Mutex::default(),
        }
    }

    /// The connection. Waits for the first one; while the node is known to be down, fails at once.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Result<Arc<MultiplexedConnection>, Cause> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        // In a box, as all that is seldom waited for: it would be in the future of every request.
        Box::pin(self.wait_connected(deadline)).await
    }

    async fn wait_connected(
        self: &Arc<Self>,
        deadline: Deadline,
    ) -> Result<Arc<MultiplexedConnection>, Cause> {
        let mut carrier: Option<PollingRequest> = None;
        loop {
            let changed = self.connector.backoff.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(connection) = self.current() {
                return Ok(connection);
            }
            // Also while the node is down: the task that tries again may have ended with its runtime, or is not run.
            self.start_connecting();
            let backoff = &self.connector.backoff;
            let overdue = {
                let mut state = self.state.lock();
                if let Some(down) = backoff.outage() {
                    let goes_on = match &carrier {
                        Some(carrier) => carrier.failed == backoff.failed_count(),
                        None => backoff.is_due() && state.needs_polling(),
                    };
                    if !goes_on {
                        return Err(down.into());
                    }
                    if carrier.is_none() {
                        carrier = Some(PollingRequest::new(self, &mut state));
                    }
                }
                state.attempt.as_ref().map(|attempt| attempt.overdue)
            };
            // An attempt that is overdue is looked at again: its runtime may not be run any more.
            let end = match (deadline.end(), overdue) {
                (Some(end), Some(overdue)) => Some(end.min(overdue)),
                (end, overdue) => end.or(overdue),
            };
            let waited = match end {
                None => {
                    changed.await;
                    Ok(())
                }
                Some(end) => tokio::time::timeout_at(end.into(), changed).await,
            };
            if waited.is_err() && deadline.end().is_some_and(|end| end <= Instant::now()) {
                return Err(Cause::no_connection_in_time(&self.connector.address));
            }
        }
    }

    /// The connection, if there is one that is not closed.
    fn current(&self) -> Option<Arc<MultiplexedConnection>> {
        self.current
            .load_full()
            .filter(|connection| !connection.is_closed())
    }

    /// Starts the task that makes a connection, if there is neither a connection nor such a task that is run. After a
    /// connection that did not live long it waits a little, lest a server that hangs up on everybody is called without end.
    fn start_connecting(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        // Looked at again under the lock: a connection may have been made since the caller looked.
        // One that leaves the node alone is replaced when another connection has found the node again.
        let is_found = self.connector.backoff.outage().is_none();
        let is_run =
            |attempt: &ConnectTask| now < attempt.overdue && !(attempt.is_left_alone && is_found);
        if self.current().is_some() || state.attempt.as_ref().is_some_and(is_run) {
            return;
        }
        let short_lived = state
            .connected_at
            .is_some_and(|made| made.elapsed() < BACKOFF_MIN);
        let pause = if short_lived {
            BACKOFF_MIN
        } else {
            Duration::ZERO
        };
        state.tasks += 1;
        let number = state.tasks;
        state.attempt = Some(ConnectTask {
            only_when_blocked_on: current_thread_runtime().is_some(),
            overdue: self.overdue(pause),
            is_left_alone: false,
        });
        drop(state);
        // Not under the lock: a runtime that is ending drops the task here and now.
        let task = Connecting {
            owner: Arc::downgrade(self),
            number,
        };
        tokio::spawn(task.run(pause));
    }

    fn overdue(&self, pause: Duration) -> Instant {
        Instant::now() + pause + self.connector.timeout + OVERDUE_SLACK
    }
}

impl State {
    /// Whether the next request waits for an attempt although the node is known to be down. A runtime that runs only while
    /// somebody blocks on it makes no attempt in the background, so one request at a time stays until the attempt that is
    /// due has been made. All others fail at once.
    fn needs_polling(&self) -> bool {
        let needs_it = |attempt: &ConnectTask| attempt.only_when_blocked_on;
        !self.polled_by_request
            && (current_thread_runtime().is_some() || self.attempt.as_ref().is_some_and(needs_it))
    }
}

/// A request that waits for an attempt of a node that is down.
struct PollingRequest {
    owner: Weak<ReconnectingConnection>,
    /// How many attempts had failed when it began.
    failed: u64,
}

impl PollingRequest {
    fn new(owner: &Arc<ReconnectingConnection>, state: &mut State) -> Self {
        state.polled_by_request = true;
        Self {
            owner: Arc::downgrade(owner),
            failed: owner.connector.backoff.failed_count(),
        }
    }
}

impl Drop for PollingRequest {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.state.lock().polled_by_request = false;
        }
    }
}

/// The task that makes a connection, again and again until there is one or nobody needs it.
struct Connecting {
    owner: Weak<ReconnectingConnection>,
    number: u64,
}

impl Connecting {
    async fn run(self, pause: Duration) {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        while let Some(next) = self.begin() {
            match next {
                Next::Try(connector, attempt) => self.attempt(&connector, attempt).await,
                Next::Wait(backoff, pause) => {
                    // No longer than until another connection has found out more. Either way the backoff is asked next.
                    let _ = tokio::time::timeout(pause, backoff.changed()).await;
                }
            }
        }
    }

    /// Tries once.
    async fn attempt(&self, connector: &Connector, attempt: ConnectAttempt) {
        let weak = self.owner.clone();
        let made = connector
            .connect(move || {
                if let Some(owner) = weak.upgrade() {
                    owner.start_connecting();
                }
            })
            .await;
        let Ok(connection) = attempt.end(made) else {
            return;
        };
        let Some(owner) = self.owner.upgrade() else {
            return;
        };
        let mut state = owner.state.lock();
        if state.tasks != self.number {
            return;
        }
        state.attempt = None;
        state.connected_at = Some(Instant::now());
        connection.drain_on_drop();
        owner.current.store(Some(Arc::new(connection)));
        drop(state);
        connector.backoff.notify();
    }

    /// What to do next, if there is still something for this task to do: it may have slept with its runtime, and another begun.
    fn begin(&self) -> Option<Next> {
        let owner = self.owner.upgrade()?;
        let connector = &owner.connector;
        let mut state = owner.state.lock();
        if state.tasks != self.number {
            return None;
        }
        let attempt = state.attempt.as_mut()?;
        let begun = connector.backoff.try_begin(connector.timeout);
        attempt.is_left_alone = begun.is_err();
        let (next, pause) = match begun {
            Ok(begun) => (
                Next::Try(Box::new(connector.clone()), begun),
                Duration::ZERO,
            ),
            Err(down) => {
                let backoff = Arc::clone(&connector.backoff);
                (Next::Wait(backoff, down.retry_in), down.retry_in)
            }
        };
        attempt.overdue = owner.overdue(pause);
        Some(next)
    }
}

/// What a task does next.
enum Next {
    Try(Box<Connector>, ConnectAttempt),
    /// Nothing: the node is known to be down, and is left alone for so long.
    Wait(Arc<NodeBackoff>, Duration),
}

impl Drop for Connecting {
    /// The runtime may end while the task sleeps; the next request starts another.
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            let mut state = owner.state.lock();
            if state.tasks == self.number && state.attempt.take().is_some() {
                drop(state);
                owner.connector.backoff.notify();
            }
        }
    }
}

impl fmt::Debug for ReconnectingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconnectingConnection")
            .field("address", &self.connector.address)
            .field("connection", &self.current.load())
            .finish_non_exhaustive()
    }
}
