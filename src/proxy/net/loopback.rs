//! [`LoopbackProxy`]: a proxy inside the program, for crates that require the URL of one server.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;

use redis::RedisError;
use tokio::runtime;
use tokio::sync::oneshot;

use crate::config::Builder;
use crate::error::Error;
use crate::proxy::Proxy;

/// A proxy on 127.0.0.1, on a thread of its own, for crates that require a `redis::Client` or a URL. It serves until
/// it is dropped.
///
/// Other users of the machine can connect to the port, so clients must send a password, a random one for each proxy,
/// which [`url`](Self::url) contains. `Debug` prints neither.
///
/// The proxy needs no runtime of the caller, so it also serves programs that block. Dropping it closes the
/// port and then each connection, as soon as its running requests are answered; this happens in the
/// background. [`stop`](Self::stop) waits for it.
///
/// ```
/// use redis_sharding::redis::{self, Commands};
/// # use redis_sharding::{ShardedClient, testing::TestNode};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let servers = TestNode::start_many(2)?;
/// # let builder = ShardedClient::builder().node("a", servers[0].url()).node("b", servers[1].url());
/// let proxy = builder.proxy_on_loopback()?;
/// let client = redis::Client::open(proxy.url())?;
///
/// let mut connection = client.get_connection()?;
/// let () = connection.mset(&[("user:1", "Ada"), ("user:2", "Grace")])?;
/// assert_eq!(connection.get::<_, String>("user:2")?, "Grace");
/// # Ok(()) }
/// ```
pub struct LoopbackProxy {
    url: String,
    proxy: Proxy,
    /// Dropped to shut down.
    shutdown: oneshot::Sender<()>,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl Builder {
    /// Builds a proxy and serves it on a free port of 127.0.0.1 until it is dropped, for crates that open a
    /// `redis::Client` of their own. [`guide::ecosystem`](crate::guide::ecosystem) lists crates that are tested with
    /// it.
    ///
    /// # Errors
    ///
    /// As for [`build_proxy`](Self::build_proxy), and [`Config`](crate::ErrorKind::Config) when the system has
    /// no port or no thread for it.
    pub fn proxy_on_loopback(self) -> Result<LoopbackProxy, Error> {
        let password: String = rand::random::<[u8; 32]>().map(hexadecimal).concat();
        let proxy = self.build_proxy()?.with_password(&password);
        LoopbackProxy::start(proxy, &password).map_err(|error| {
            let text = format!("no proxy can be started on 127.0.0.1: {error}");
            Error::config(text).caused_by(Arc::new(RedisError::from(error)))
        })
    }
}

impl LoopbackProxy {
    fn start(proxy: Proxy, password: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (shutdown, told) = oneshot::channel::<()>();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let served = proxy.clone();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let shutdown = async { drop(told.await) };
            served.run(listener, shutdown).await
        };
        let thread = thread::Builder::new()
            .name("loopback-proxy".into())
            .spawn(move || {
                let outcome = runtime.block_on(serve);
                // A request that is planned on a thread for blocking work must not delay the end.
                runtime.shutdown_background();
                outcome
            })?;
        Ok(Self {
            url: format!("redis://:{password}@{address}/"),
            proxy,
            shutdown,
            thread,
        })
    }

    /// The URL to connect to, with its password: `redis://:PASSWORD@127.0.0.1:PORT/`. Anyone who has it can use the
    /// nodes while the proxy runs; do not log it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The proxy itself, for its counters and settings.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Stops the proxy and waits until all clients are disconnected, which takes as long as their running
    /// requests, at most [`Proxy::with_shutdown_timeout`]. Blocks the calling thread; async code drops the
    /// proxy instead.
    ///
    /// # Errors
    ///
    /// When the proxy had ended before, because its socket failed or its thread panicked.
    pub fn stop(self) -> io::Result<()> {
        drop(self.shutdown);
        let panicked = |_| Err(io::Error::other("the thread of the proxy has panicked"));
        self.thread.join().unwrap_or_else(panicked)
    }
}

impl fmt::Debug for LoopbackProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackProxy")
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

fn hexadecimal(byte: u8) -> String {
    format!("{byte:02x}")
}
