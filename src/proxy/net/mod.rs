//! A proxy: how do the bytes of programs that take us for one server go to the nodes and back?
//!
//! * [`Proxy`]: serves any number of connections over one client's nodes.
//! * `connection`: serves one connection; `actions`: carries out the steps of what is more than requests and replies (SUBSCRIBE, EXEC,
//!   BLPOP, ...); `call`: sends one command by itself.
//! * `client_io`: reads from a client also while it is written to, within limits; `input`: bytes that wait to be carried out;
//!   `memory`: what all clients hold, and who goes when it is too much.
//! * `streaming`: passes on a request or reply that is too large to be kept. `registry`: all connections, for CLIENT LIST and KILL.
//!
//! What a client is answered is decided by `proxy` and `plan`; here bytes are moved and waited for.

mod actions;
mod build;
mod call;
mod client_io;
mod connection;
mod input;
mod memory;
mod registry;
mod streaming;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use redis::ProtocolVersion;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::aio::{Executor, Shared, WriteCoalescing};
use crate::config::ClientConfig;
use crate::config::limits;
use crate::plan::ScriptCache;
use crate::proxy::net::connection::ClientConnection;
use crate::proxy::net::registry::ClientRegistry;
use crate::proxy::{Auth, OutputLimit, QUERY_BYTES_MIN};
use crate::resp::Protocol;
use crate::topology::Topology;

pub use registry::DEFAULT_MEMORY_LIMIT;

/// Unanswered probes until a client counts as gone, as on a server.
const KEEPALIVE_PROBES: u32 = 3;

/// Serves programs that speak the Redis protocol, in any language, as if all nodes were one server.
///
/// RESP2, and RESP3 after `HELLO 3`. Commands are routed, cut and merged as by
/// [`ShardedClient`](crate::aio::ShardedClient), and what cannot be done over many nodes is refused with the same code
/// words. Replies of one node are passed on as they came. Requests of one connection are carried out in their order as far
/// as they concern the same node, which those of the same key do.
///
/// A connection may use MULTI, EXEC, DISCARD and WATCH (keys of one node), subscribe to channels and patterns of all nodes,
/// wait with BLPOP and the like, and has an id, a name and a place in CLIENT LIST. It has database 0 only.
///
/// Made by [`Builder::build_proxy`](crate::Builder::build_proxy). The listener is yours:
///
/// ```no_run
/// # use redis_sharding::ShardedClient;
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let proxy = ShardedClient::builder()
///     .node("a", "redis://10.0.0.1/")
///     .node("b", "redis://10.0.0.2/")
///     .build_proxy()?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:6379").await?;
/// loop {
///     let (stream, _) = listener.accept().await?;
///     let proxy = proxy.clone();
///     tokio::spawn(async move { proxy.serve_tcp(stream).await });
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Proxy {
    upstreams: Arc<Upstreams>,
    registry: Arc<ClientRegistry>,
}

/// The ways to the nodes.
#[derive(Debug)]
struct Upstreams {
    /// For clients that speak RESP2, and for those that speak RESP3: a server's replies differ by more than their marks, so
    /// each gets those that were made for it.
    shared: [Arc<Shared>; 2],
    config: ClientConfig,
}

/// What scripts went through the proxy, by whichever connection.
type SharedScriptCache = Arc<RwLock<Arc<ScriptCache>>>;

impl Upstreams {
    fn open(config: ClientConfig, scripts: &SharedScriptCache) -> Self {
        let shared = [ProtocolVersion::RESP2, ProtocolVersion::RESP3].map(|version| {
            let endpoints = config.endpoints.iter();
            let endpoints = endpoints.map(|endpoint| endpoint.speaking(version));
            Arc::new(Shared {
                router: config.router.clone(),
                // As many may wait as there are clients: one that waits for a connection to wait on would miss what
                // comes for it.
                executor: Executor::new(
                    endpoints.collect(),
                    &config.settings,
                    usize::MAX,
                    WriteCoalescing::OneYield,
                ),
                scripts: Arc::clone(scripts),
                db: config.db,
            })
        });
        Self { shared, config }
    }
}

impl Proxy {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self {
            registry: Arc::new(ClientRegistry::new(config.settings.max_clients)),
            upstreams: Arc::new(Upstreams::open(config, &Arc::default())),
        }
    }

    /// The most connections at a time, as [`Builder::max_clients`](crate::Builder::max_clients). A number outside of its
    /// limits counts as the nearest one. Defaults to what the builder was told.
    #[must_use]
    pub fn with_max_clients(self, clients: usize) -> Self {
        self.registry
            .set_clients_max(limits::CLIENTS_MAX.clamp(clients));
        self
    }

    /// Clients must say this password, by AUTH or HELLO, before anything else. It has nothing to do with the nodes' own. Applies
    /// to those who come from now on. Defaults to none: everybody who can connect is let in.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        self.registry.set_auth(Auth::with_password(password));
        self
    }

    /// How much memory all clients together may hold: requests and replies on their way, queued commands. Beyond it those
    /// that hold most are disconnected, as with `maxmemory-clients` of a server; [`evicted_client_count`](Self::evicted_client_count)
    /// counts them. Zero is no limit. Defaults to [`DEFAULT_MEMORY_LIMIT`].
    #[must_use]
    pub fn with_memory_limit(self, bytes: usize) -> Self {
        let limit = if bytes == 0 { usize::MAX } else { bytes };
        self.registry.memory.set_limit(limit);
        self
    }

    /// How many bytes of requests may wait of one client; who sends more without reading replies, or a larger request, is
    /// disconnected. Less than 1 MB counts as 1 MB, as on a server. Applies to clients that come from now on. Defaults to
    /// [`REQUEST_BYTES_MAX`](super::REQUEST_BYTES_MAX).
    #[must_use]
    pub fn with_query_limit(self, bytes: usize) -> Self {
        let bytes = bytes.max(QUERY_BYTES_MIN);
        self.registry
            .change_limits(|limits| limits.query_bytes = bytes);
        self
    }

    /// How many bytes of replies may wait until a client without subscriptions reads them. Applies to clients that come
    /// from now on. Defaults to [`OutputLimit::NONE`].
    #[must_use]
    pub fn with_output_limit(self, limit: OutputLimit) -> Self {
        self.registry.change_limits(|limits| limits.normal = limit);
        self
    }

    /// How many bytes of messages and replies may wait until a client with subscriptions reads them. Applies to clients
    /// that come from now on. Defaults to [`OutputLimit::PUB_SUB`].
    #[must_use]
    pub fn with_pub_sub_output_limit(self, limit: OutputLimit) -> Self {
        self.registry.change_limits(|limits| limits.pub_sub = limit);
        self
    }

    /// After how long a silence of a client its host is asked whether it is still there, so that connections of clients that
    /// have vanished do not stay for ever, as with `tcp-keepalive` of a server. From 1 s to
    /// [`TCP_KEEPALIVE_MAX`](crate::builder::TCP_KEEPALIVE_MAX); what is outside counts as the nearest. For
    /// [`serve_tcp`](Self::serve_tcp). Defaults to 300 s; `None` is never.
    #[must_use]
    pub fn with_tcp_keepalive(self, idle: impl Into<Option<Duration>>) -> Self {
        let idle = idle.into().map(|idle| limits::TCP_KEEPALIVE.clamp(idle));
        self.registry
            .change_limits(|limits| limits.tcp_keepalive = idle);
        self
    }

    /// Disconnects clients that send nothing for so long, unless they have subscriptions or wait for a blocking command.
    /// Applies to clients that come from now on. Defaults to `None`: they may stay.
    #[must_use]
    pub fn with_idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        self.registry.change_limits(|limits| limits.idle = timeout);
        self
    }

    /// The same proxy, with the same clients in CLIENT LIST, over connections of its own. One for every thread, each
    /// with a runtime of its own, spares threads waking each other.
    #[must_use]
    pub fn with_separate_upstreams(&self) -> Self {
        Self {
            upstreams: Arc::new(Upstreams::open(
                self.upstreams.config.clone(),
                &self.shared(Protocol::Resp2).scripts,
            )),
            registry: Arc::clone(&self.registry),
        }
    }

    /// The nodes and their placement: an immutable snapshot.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(self.upstreams.config.router.topology())
    }

    /// Serves a connection over TCP until its end: sets its options, and then does as [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve), and when its options cannot be set.
    pub async fn serve_tcp(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        if let Some(idle) = self.registry.limits().tcp_keepalive {
            let interval = (idle / KEEPALIVE_PROBES).max(Duration::from_secs(1));
            let keepalive = TcpKeepalive::new().with_time(idle);
            let keepalive = keepalive.with_interval(interval);
            let keepalive = keepalive.with_retries(KEEPALIVE_PROBES);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        }
        let address = |address: io::Result<SocketAddr>| {
            address.map_or_else(|_| String::new(), |address| address.to_string())
        };
        let (peer, local) = (address(stream.peer_addr()), address(stream.local_addr()));
        self.serve(stream, &peer, &local).await
    }

    /// Serves one connection until its end. `peer` and `local` are its addresses, as CLIENT LIST shows them.
    ///
    /// When the future is dropped, the connection is closed; commands that were handed over are carried out all the same.
    ///
    /// # Errors
    ///
    /// When bytes cannot be read from or written to the connection.
    pub async fn serve<S>(&self, stream: S, peer: &str, local: &str) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        ClientConnection::serve(self, stream, peer, local).await
    }

    /// How many connections are served.
    pub fn client_count(&self) -> usize {
        self.registry.count()
    }

    /// How many bytes of memory all clients together hold, as far as [`with_memory_limit`](Self::with_memory_limit) counts.
    pub fn memory_used(&self) -> usize {
        self.registry.memory.used()
    }

    /// How many clients were disconnected because all held too much memory.
    pub fn evicted_client_count(&self) -> usize {
        self.registry.memory.evicted()
    }

    /// Ends: connections are closed as soon as what they have asked is answered, new ones at once.
    pub fn stop(&self) {
        self.registry.stop();
    }

    /// Waits until no connection is served any more, but not longer than `limit`. Whether none is left.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.registry.wait_until_empty(limit).await
    }

    fn shared(&self, protocol: Protocol) -> &Arc<Shared> {
        &self.upstreams.shared[usize::from(protocol == Protocol::Resp3)]
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("topology", self.upstreams.config.router.topology())
            .field("clients", &self.client_count())
            .finish_non_exhaustive()
    }
}
