//! The sockets of the proxy, on tokio: how do the bytes of its clients get to the nodes and back, and what do
//! all clients share?
//!
//! * [`Proxy`]: the handle. Serves any number of client connections over one set of nodes. `build`:
//!   [`Builder::build_proxy`](crate::Builder::build_proxy). `run`: accepts connections until shutdown.
//!   `loopback`: a proxy inside the program, on a thread of its own.
//! * `connection`: [`ClientConnection`], which serves one client from its first byte to its last, round by
//!   round.
//! * `actions`: its second half: carries out the steps of an `ActionTask` (WATCH, EXEC, BLPOP, SUBSCRIBE,
//!   ...). `call`: sends one command that is not part of a round.
//! * `client_io`: the client's socket. Reads from a client that is written to, and enforces the output limit.
//!   `input`: bytes that were read and not carried out.
//! * `lease`: the exclusive connection of WATCH.
//! * `streaming`: requests and replies too large to be kept, forwarded in pieces over a connection of their
//!   own. `upload`: such a request of a client.
//! * `registry`: all clients, for CLIENT LIST, KILL and UNBLOCK; the pause; what stops the proxy. `memory`:
//!   how much all clients hold, and which are disconnected when it is too much.
//! * `metrics`: the proxy's own metrics. `exporter`: [`serve_metrics`](super::serve_metrics), all metrics of
//!   the process as Prometheus text.
//!
//! # Who owns what
//!
//! ```text
//! Proxy ─┬─ Arc<ClientRegistry>      shared by all handles, with_separate_upstreams too
//!        │    ├─ ClientEntry, one for each client: CLIENT INFO, killed, unblocked, waker
//!        │    ├─ MemoryBudget: bytes held by all clients, and the limit
//!        │    └─ limits for new clients, password, pause, version of the servers
//!        └─ Arc<Upstreams>           one set for each handle of with_separate_upstreams
//!             └─ Shared × 2          RESP2 and RESP3: executor, connections, script cache
//!
//! ClientConnection                   a local of the future of Proxy::serve
//!   ├─ Session                       what the client has set (pure)
//!   ├─ Input, out                    bytes before and after a round
//!   ├─ ClientIo                      socket, limits, Subscriber, bytes read out of turn
//!   ├─ Option<LeasedConnection>      the exclusive connection of WATCH
//!   └─ Arc<ClientMemory>             also held by replies under way, which may outlive the client
//! ```
//!
//! A dropped future of `serve` drops all of this: the entry is deregistered, the lease closed, the
//! subscriptions ended. Other clients reach a connection only through its `ClientEntry`: they set a flag
//! there and wake the task, which reads the flag.
//!
//! # What runs where
//!
//! * Everything of one client runs in the task that polls `serve`: there is no task for each direction, and
//!   none for messages.
//! * A request with more than 4096 arguments is planned and merged in `spawn_blocking`, because that takes
//!   long enough for other clients of the thread to notice.
//! * Connections to the nodes have tasks of their own (`aio`), so a command that was sent is completed after
//!   its client has gone.
//!
//! # Limits
//!
//! | limit | default | set by | beyond it |
//! |---|---|---|---|
//! | clients | 10,000 | [`Proxy::with_max_clients`] | an error, and the connection is closed |
//! | memory of all clients | 4 GiB | [`Proxy::with_memory_limit`] | the largest holders are disconnected |
//! | queued requests of a client | 1 GiB | [`Proxy::with_query_limit`] | disconnected |
//! | the same before AUTH | 1 MiB, 10 arguments of 16 KiB | fixed | disconnected |
//! | output, not subscribed | none | [`Proxy::with_output_limit`] | disconnected |
//! | output, subscribed | 32 MiB, or 8 MiB for 60 s | [`Proxy::with_pub_sub_output_limit`] | disconnected |
//! | idle time | none | [`Proxy::with_idle_timeout`] | disconnected |
//! | TCP keepalive | 300 s | [`Proxy::with_tcp_keepalive`] | the kernel closes the connection |
//! | time for requests at shutdown | 10 s | [`Proxy::with_shutdown_timeout`] | disconnected |
//! | connections accepted for a thread | 1024 | fixed | no more are accepted until it takes one |
//! | transaction | 512 MiB | fixed | the command is refused, EXEC aborts |
//! | argument; inline request | 512 MiB; 64 KiB | fixed | protocol error, disconnected |
//! | round | 4096 commands, 16,384 arguments, 4 MiB | fixed | the rest is the next round |
//! | request or reply kept in memory | 4 MiB, if it can be streamed | fixed | forwarded in pieces; over a Redis Cluster a request is kept as well, since it may be redirected |
//!
//! The content of replies is decided in `proxy` and `plan`; here bytes are moved and waited for.

mod actions;
mod build;
mod call;
mod client_io;
mod connection;
#[cfg(feature = "cli")]
mod exporter;
mod input;
mod lease;
mod loopback;
mod memory;
mod metrics;
mod registry;
mod run;
mod streaming;
mod upload;

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

use crate::aio::{ConnectionPurpose, Shared};
use crate::config::ClientConfig;
use crate::config::limits;
use crate::error::Error;
use crate::plan::ScriptCache;
use crate::proxy::net::connection::ClientConnection;
use crate::proxy::net::registry::ClientRegistry;
use crate::proxy::{Auth, ClusterMode, OutputLimit, QUERY_BYTES_MIN};
use crate::resp::Protocol;
use crate::snapshot::{Publisher, SnapshotHandle};
use crate::topology::Topology;

#[cfg(feature = "cli")]
pub use exporter::serve_metrics;
pub use loopback::LoopbackProxy;
pub use registry::DEFAULT_MEMORY_LIMIT;
pub use run::{DEFAULT_SHUTDOWN_TIMEOUT, THREADS_MAX};

/// Number of unanswered TCP keepalive probes after which the kernel closes a connection, as on a server.
const KEEPALIVE_PROBES: u32 = 3;

/// Serves programs that use the Redis protocol, in any language, as if all nodes were one server.
///
/// RESP2, and RESP3 after `HELLO 3`. Commands are routed, split and merged as by
/// [`ShardedClient`](crate::aio::ShardedClient), and what cannot be done over many nodes is refused with the
/// same error codes. Replies of one node are passed on as they came. Requests of one connection are carried
/// out in their order as far as they concern the same node, which those of the same key do.
///
/// A client may use MULTI, EXEC, DISCARD and WATCH (keys of one node), subscribe to channels and patterns of
/// all nodes, block with BLPOP and the like, and has an id, a name and a line in CLIENT LIST. It has database
/// 0 only.
///
/// Cloning is cheap, and clones share everything. Made by
/// [`Builder::build_proxy`](crate::Builder::build_proxy). [`run`](Self::run) serves all connections of a
/// listener; a program that accepts by itself, over TLS for example, calls [`serve`](Self::serve) for each.
#[derive(Clone)]
pub struct Proxy {
    upstreams: Arc<Upstreams>,
    registry: Arc<ClientRegistry>,
}

/// The connections to the nodes.
#[derive(Debug)]
struct Upstreams {
    /// For clients of RESP2 and for those of RESP3. The replies of a server differ between the two by more
    /// than their markers, so each client gets replies that were made for its protocol.
    shared: [SnapshotHandle<Shared>; 2],
    /// Where new topologies come from.
    publisher: Arc<Publisher>,
}

/// Scripts that went through the proxy, of all clients and for both protocols.
type SharedScriptCache = Arc<RwLock<Arc<ScriptCache>>>;

impl Upstreams {
    /// Prepares the connections; none is opened before its first command.
    fn open(publisher: Arc<Publisher>, scripts: &SharedScriptCache) -> Self {
        let shared = [ProtocolVersion::RESP2, ProtocolVersion::RESP3].map(|version| {
            SnapshotHandle::open(&publisher, |config| {
                let purpose = ConnectionPurpose::Proxy(version);
                Shared::new(config, Arc::clone(scripts), purpose)
            })
        });
        Self { shared, publisher }
    }
}

impl Proxy {
    /// Creates a proxy without clients.
    ///
    /// # Errors
    ///
    /// As for [`Publisher::new`].
    pub(crate) fn new(config: ClientConfig) -> Result<Self, Error> {
        let clients_max = config.settings.max_clients;
        let publisher = Publisher::new(config)?;
        Ok(Self {
            registry: Arc::new(ClientRegistry::new(clients_max)),
            upstreams: Arc::new(Upstreams::open(publisher, &Arc::default())),
        })
    }

    /// Sets the maximum number of connections at a time, as
    /// [`Builder::max_clients`](crate::Builder::max_clients). A number outside of its limits counts as the
    /// nearest one. A new client beyond it gets an error and is closed; clients that are connected stay.
    /// Defaults to the number given to the builder.
    #[must_use]
    pub fn with_max_clients(self, clients: usize) -> Self {
        self.registry
            .set_clients_max(limits::CLIENTS_MAX.clamp(clients));
        self
    }

    /// Requires clients to send this password, by AUTH or HELLO, before any other command. It has nothing to
    /// do with the passwords of the nodes. Applies to clients that connect from now on. Defaults to none:
    /// every client that can connect is let in.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        self.registry.set_auth(Auth::with_password(password));
        self
    }

    /// Sets what programs are told that ask for a Redis Cluster, with any kind of nodes. Applies to clients that connect
    /// from now on. Defaults to [`ClusterMode::Disabled`]: the proxy looks like one server.
    #[must_use]
    pub fn with_cluster_mode(self, mode: ClusterMode) -> Self {
        self.registry.change_cluster(|cluster| cluster.mode = mode);
        self
    }

    /// Sets the host and the port at which clients of an [emulated](ClusterMode::Emulated) cluster reach the proxy, as
    /// `cluster-announce-ip` and `cluster-announce-port` of a server. Applies to clients that connect from now on.
    /// Defaults to the address that each client has connected to.
    #[must_use]
    pub fn with_cluster_announce(self, host: &str, port: u16) -> Self {
        let announced = Some((host.to_owned(), port));
        self.registry
            .change_cluster(|cluster| cluster.announced = announced);
        self
    }

    /// Sets how many bytes of memory all clients together may hold: requests and replies on their way, queued
    /// commands. Beyond it the clients that hold most are disconnected, as with `maxmemory-clients` of a
    /// server; [`evicted_client_count`](Self::evicted_client_count) counts them. Zero means no limit.
    /// Defaults to [`DEFAULT_MEMORY_LIMIT`].
    #[must_use]
    pub fn with_memory_limit(self, bytes: usize) -> Self {
        let limit = if bytes == 0 { usize::MAX } else { bytes };
        self.registry.memory.set_limit(limit);
        self
    }

    /// Sets how many bytes of requests of one client may wait. A client that sends more without reading
    /// replies, or a larger request that cannot be forwarded as it arrives, is disconnected. Less than 1 MiB
    /// counts as 1 MiB, as on a server. Applies to clients that connect from now on. Defaults to
    /// [`REQUEST_BYTES_MAX`](super::REQUEST_BYTES_MAX).
    #[must_use]
    pub fn with_query_limit(self, bytes: usize) -> Self {
        let bytes = bytes.max(QUERY_BYTES_MIN);
        self.registry
            .change_limits(|limits| limits.query_bytes = bytes);
        self
    }

    /// Sets how many bytes of replies may wait to be read by a client without subscriptions. Applies to
    /// clients that connect from now on. Defaults to [`OutputLimit::NONE`].
    #[must_use]
    pub fn with_output_limit(self, limit: OutputLimit) -> Self {
        self.registry.change_limits(|limits| limits.normal = limit);
        self
    }

    /// Sets how many bytes of messages and replies may wait to be read by a client with subscriptions.
    /// Applies to clients that connect from now on. Defaults to [`OutputLimit::PUB_SUB`].
    #[must_use]
    pub fn with_pub_sub_output_limit(self, limit: OutputLimit) -> Self {
        self.registry.change_limits(|limits| limits.pub_sub = limit);
        self
    }

    /// Sets the time without traffic after which a client's host is probed, so that the connections of
    /// clients that have vanished are closed, as with `tcp-keepalive` of a server. From 1 s to
    /// [`TCP_KEEPALIVE_MAX`](crate::builder::TCP_KEEPALIVE_MAX); a time outside of that counts as the
    /// nearest. `None` means never. Used by [`serve_tcp`](Self::serve_tcp), for clients that connect from now
    /// on. Defaults to 300 s.
    #[must_use]
    pub fn with_tcp_keepalive(self, idle: impl Into<Option<Duration>>) -> Self {
        let idle = idle.into().map(|idle| limits::TCP_KEEPALIVE.clamp(idle));
        self.registry
            .change_limits(|limits| limits.tcp_keepalive = idle);
        self
    }

    /// Disconnects clients that send nothing for this long, unless they have subscriptions or wait for a
    /// blocking command. Applies to clients that connect from now on. Defaults to `None`: no client is
    /// disconnected.
    #[must_use]
    pub fn with_idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into();
        self.registry.change_limits(|limits| limits.idle = timeout);
        self
    }

    /// Returns a handle with the same clients in CLIENT LIST, the same settings and the same script cache,
    /// and with connections to the nodes of its own. Use one for each thread, each on its own runtime, to
    /// avoid wake-ups across threads.
    #[must_use]
    pub fn with_separate_upstreams(&self) -> Self {
        Self {
            upstreams: Arc::new(Upstreams::open(
                Arc::clone(&self.upstreams.publisher),
                &self.snapshot(Protocol::Resp2).scripts,
            )),
            registry: Arc::clone(&self.registry),
        }
    }

    /// Returns the nodes and their placement: an immutable snapshot.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(self.upstreams.publisher.config().router.topology())
    }

    /// Replaces the nodes and their placement, on all threads and for the clients that are connected. As
    /// [`ShardedClient::set_topology`](crate::ShardedClient::set_topology): a proxy is a store unless it was built
    /// with [`Builder::cache`](crate::Builder::cache).
    ///
    /// A transaction that a client has begun fails with EXECABORT if keys have moved.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the topology does not fit this proxy, or would move keys of a store;
    /// nothing has changed then.
    pub fn set_topology(&self, topology: &Topology) -> Result<(), Error> {
        self.upstreams.publisher.set_topology(topology)
    }

    /// Serves a TCP connection until its end: sets `TCP_NODELAY` and keepalive, and then does as
    /// [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// As for [`serve`](Self::serve), and when its options cannot be set.
    pub async fn serve_tcp(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        if let Some(idle) = self.registry.limits().tcp_keepalive {
            // The probes take as long again as the silence before the first, as on a server.
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
    /// When the future is dropped, the connection is closed; commands that were sent to nodes are carried out
    /// all the same. A connection beyond the maximum number of clients gets an error, and is not an error
    /// here.
    ///
    /// # Errors
    ///
    /// When reading from or writing to the connection fails, the client exceeds a limit, or it is killed
    /// while it is written to.
    pub async fn serve<S>(&self, stream: S, peer: &str, local: &str) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        ClientConnection::serve(self, stream, peer, local).await
    }

    /// Number of connections that are served.
    pub fn client_count(&self) -> usize {
        self.registry.count()
    }

    /// Number of bytes of memory that all clients together hold, as counted by
    /// [`with_memory_limit`](Self::with_memory_limit).
    pub fn memory_used(&self) -> usize {
        self.registry.memory.used()
    }

    /// Number of clients that were disconnected because of [`with_memory_limit`](Self::with_memory_limit).
    pub fn evicted_client_count(&self) -> usize {
        self.registry.memory.evicted()
    }

    /// Stops the proxy: a connection is closed as soon as the requests that it has sent are answered, a
    /// blocked one and a new one at once. Cannot be undone. [`drain`](Self::drain) waits for the end.
    pub fn stop(&self) {
        self.registry.stop();
    }

    /// Waits until no connection is served any more, at most for `limit`. Returns true if none is left. Does
    /// not [stop](Self::stop) anything by itself.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.registry.wait_until_empty(limit).await
    }

    /// Returns the connections for clients of this protocol.
    fn shared(&self, protocol: Protocol) -> &SnapshotHandle<Shared> {
        &self.upstreams.shared[usize::from(protocol == Protocol::Resp3)]
    }

    /// Returns the current snapshot for clients of this protocol.
    fn snapshot(&self, protocol: Protocol) -> Arc<Shared> {
        self.shared(protocol).load_full()
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("topology", &self.topology())
            .field("clients", &self.client_count())
            .finish_non_exhaustive()
    }
}
