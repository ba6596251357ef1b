//! Accepts connections and serves them until the proxy is told to shut down: [`Proxy::run`] and
//! [`Proxy::run_on_threads`].

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::proxy::Proxy;

/// Default of [`Proxy::with_shutdown_timeout`].
pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of threads of [`Proxy::run_on_threads`]: each has its own connections to all nodes.
pub const THREADS_MAX: usize = 1024;

/// Pause after an error of the listener, such as too many open files, which lasts until other programs close files
/// or clients disconnect.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Number of accepted connections that one thread has not taken yet, beyond which no more are accepted.
const HANDOVER_MAX: usize = 1024;

/// The settings of `run` and `run_on_threads`.
#[derive(Clone)]
pub(super) struct RunSettings {
    shutdown_timeout: Duration,
    accept_error: Arc<dyn Fn(&io::Error) + Send + Sync>,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            shutdown_timeout: DEFAULT_SHUTDOWN_TIMEOUT,
            accept_error: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for RunSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunSettings")
            .field("shutdown_timeout", &self.shutdown_timeout)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// Sets how long [`run`](Self::run) waits at shutdown for running requests; clients that are still connected
    /// then are disconnected. Defaults to [`DEFAULT_SHUTDOWN_TIMEOUT`].
    #[must_use]
    pub fn with_shutdown_timeout(self, timeout: Duration) -> Self {
        self.registry
            .change_run(|settings| settings.shutdown_timeout = timeout);
        self
    }

    /// Calls `handler` with each error of the listener after which [`run`](Self::run) goes on, such as too
    /// many open files, so that the program can log it. Defaults to doing nothing.
    #[must_use]
    pub fn with_accept_error_handler(
        self,
        handler: impl Fn(&io::Error) + Send + Sync + 'static,
    ) -> Self {
        self.registry
            .change_run(|settings| settings.accept_error = Arc::new(handler));
        self
    }

    /// Accepts connections and serves them until `shutdown` resolves. Then no more are accepted, the proxy is
    /// [stopped](Self::stop), running requests are finished within
    /// [`with_shutdown_timeout`](Self::with_shutdown_timeout), and all clients are disconnected.
    ///
    /// An error of the listener does not end it: the handler of
    /// [`with_accept_error_handler`](Self::with_accept_error_handler) is called, and after 50 ms the next connection
    /// is accepted. When the future is dropped, the listener and all connections that it serves are closed at
    /// once.
    ///
    /// ```no_run
    /// use redis_sharding::ShardedClient;
    /// use tokio::net::TcpListener;
    ///
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// let proxy = ShardedClient::builder()
    ///     .node("a", "redis://10.0.0.1/")
    ///     .node("b", "redis://10.0.0.2/")
    ///     .build_proxy()?;
    /// let shutdown = async {
    ///     let _ = tokio::signal::ctrl_c().await;
    /// };
    /// proxy.run(TcpListener::bind("127.0.0.1:6379").await?, shutdown).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the socket does not listen, or no longer does. Its clients are then served as at a shutdown.
    pub async fn run(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut shutdown = pin!(shutdown);
        let mut clients = JoinSet::new();
        let outcome = loop {
            match self.accept(&listener, shutdown.as_mut()).await {
                Ok(Some(stream)) => serve_in(self, stream, &mut clients),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(listener);
        self.stop();
        self.finish(clients).await;
        outcome
    }

    /// Like [`run`](Self::run), but distributes the connections in turn over threads. Each thread has its own
    /// runtime and its own connections to the nodes, which avoids wake-ups across threads; requests of different
    /// threads are not written together. From 1 to [`THREADS_MAX`] threads; a number outside of
    /// that counts as the nearest. The caller's runtime only accepts.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run), and when a thread cannot be started or has panicked.
    pub async fn run_on_threads(
        &self,
        threads: usize,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let threads = threads.clamp(1, THREADS_MAX);
        let workers = (0..threads).map(|number| Worker::start(self, number));
        let workers = workers.collect::<io::Result<Vec<_>>>()?;
        let mut shutdown = pin!(shutdown);
        let mut next = workers.iter().cycle();
        let outcome = loop {
            let stream = match self.accept(&listener, shutdown.as_mut()).await {
                Ok(Some(stream)) => stream,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            if let (Ok(stream), Some(worker)) = (stream.into_std(), next.next()) {
                let handover = pin!(worker.streams.send(stream));
                // A worker that is gone has panicked, which is reported at the end; the others continue.
                if let Either::Left(_) = select(shutdown.as_mut(), handover).await {
                    break Ok(());
                }
            }
        };
        drop(listener);
        self.stop();
        let ends: Vec<WorkerEnd> = workers.into_iter().map(Worker::close).collect();
        let mut joined = Ok(());
        for end in ends {
            joined = joined.and(end.join().await);
        }
        outcome.and(joined)
    }

    /// Accepts the next connection. `None` once `shutdown` has resolved; an error if there will be none.
    async fn accept<F: Future<Output = ()>>(
        &self,
        listener: &TcpListener,
        mut shutdown: Pin<&mut F>,
    ) -> io::Result<Option<TcpStream>> {
        loop {
            let accepted = pin!(listener.accept());
            let error = match select(shutdown.as_mut(), accepted).await {
                Either::Left(_) => return Ok(None),
                Either::Right((Ok((stream, _)), _)) => return Ok(Some(stream)),
                Either::Right((Err(error), _)) => error,
            };
            match error.kind() {
                // The client has disconnected before it was accepted.
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => continue,
                // The socket does not listen.
                io::ErrorKind::InvalidInput => return Err(error),
                _ => (self.registry.run_settings().accept_error)(&error),
            }
            let pause = pin!(tokio::time::sleep(ACCEPT_PAUSE));
            if let Either::Left(_) = select(shutdown.as_mut(), pause).await {
                return Ok(None);
            }
        }
    }

    /// Waits until these connections have ended, at most for the shutdown timeout, and closes the others.
    async fn finish(&self, mut clients: JoinSet<()>) {
        let timeout = self.registry.run_settings().shutdown_timeout;
        let ended = async { while clients.join_next().await.is_some() {} };
        // Beyond what an `Instant` can represent tokio waits for some decades.
        let _ = tokio::time::timeout(timeout, ended).await;
        clients.shutdown().await;
    }
}

/// Serves a connection in a task of the set.
fn serve_in(proxy: &Proxy, stream: TcpStream, clients: &mut JoinSet<()>) {
    let proxy = proxy.clone();
    clients.spawn(async move {
        // A broken connection affects only its own client.
        let _ = proxy.serve_tcp(stream).await;
    });
    // The set keeps tasks that have ended until they are joined.
    while clients.try_join_next().is_some() {}
}

/// A thread that serves connections.
struct Worker {
    /// Sends connections to the thread.
    streams: mpsc::Sender<std::net::TcpStream>,
    end: WorkerEnd,
}

/// The end of a thread that serves connections.
struct WorkerEnd {
    /// Resolves, to an error, when the thread ends.
    ended: oneshot::Receiver<()>,
    thread: thread::JoinHandle<()>,
}

impl Worker {
    fn start(proxy: &Proxy, number: usize) -> io::Result<Self> {
        let proxy = proxy.with_separate_upstreams();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (sender, streams) = mpsc::channel(HANDOVER_MAX);
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("proxy-{number}"))
            .spawn(move || {
                let _end = end;
                runtime.block_on(serve_all(&proxy, streams));
                // A request that is planned on a thread for blocking work must not delay the end.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            streams: sender,
            end: WorkerEnd { ended, thread },
        })
    }

    /// Drops the channel, so that the thread ends when its clients have.
    fn close(self) -> WorkerEnd {
        self.end
    }
}

impl WorkerEnd {
    async fn join(self) -> io::Result<()> {
        let _ = self.ended.await;
        let joined = self.thread.join();
        joined.map_err(|_| io::Error::other("a thread of the proxy has panicked"))
    }
}

/// Serves the connections that arrive through the channel until it is closed, and then to their end.
async fn serve_all(proxy: &Proxy, mut streams: mpsc::Receiver<std::net::TcpStream>) {
    let mut clients = JoinSet::new();
    while let Some(stream) = streams.recv().await {
        // It fails only if the runtime cannot watch the socket; then this client alone is disconnected.
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve_in(proxy, stream, &mut clients);
        }
    }
    // Otherwise the future of `run_on_threads` was dropped, and so are the connections.
    if proxy.registry.is_stopping() {
        proxy.finish(clients).await;
    }
}
