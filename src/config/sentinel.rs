//! The setters of [`Builder`] for nodes whose addresses Sentinel knows.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use crate::config::Builder;
use crate::config::client_config::NodeConfig;
use crate::endpoint::tls::refused_url;
use crate::error::Error;
use crate::partition::NodeSpec;
use crate::partition::password::{ADVICE, holds_password};
use crate::topology::{NodeAccess, SentinelSource};

/// A group of Sentinels, and how the primaries that they name are reached: see
/// [`Builder::sentinel_nodes`].
///
/// ```
/// use std::num::NonZeroU32;
///
/// use redis_sharding::{Sentinel, SentinelMaster, ShardedClient};
///
/// let sentinel = Sentinel::new(["redis://10.0.0.1:26379", "redis://10.0.0.2:26379", "redis://10.0.0.3:26379"])
///     .with_password("of the Sentinels")
///     .with_node("redis://app:of-the-nodes@any-host/");
/// let large = SentinelMaster::new("users-c").with_weight(NonZeroU32::new(2).unwrap());
/// let client = ShardedClient::builder()
///     .sentinel_nodes(sentinel, ["users-a".into(), "users-b".into(), large])
///     .build()?;
/// assert_eq!(client.nodes().len(), 3);
/// # Ok::<(), redis_sharding::Error>(())
/// ```
#[derive(Clone)]
pub struct Sentinel {
    /// The error of the first URL that was refused.
    urls: Result<Vec<ConnectionInfo>, String>,
    username: Option<String>,
    password: Option<String>,
    /// How the nodes are reached, apart from their address.
    node: Result<ConnectionInfo, String>,
}

/// A master of a group of Sentinels that is a node of the client.
#[derive(Clone, Debug)]
pub struct SentinelMaster {
    master: String,
    /// The name of the node, if it is another one.
    name: Option<String>,
    weight: NonZeroU32,
}

impl Sentinel {
    /// The group of the Sentinels with these URLs. One is enough while it can be reached, as it names the others; better
    /// are all. The usual port of Sentinels is 26379, which each URL has to name: redis-rs takes 6379 for a URL
    /// without a port.
    ///
    /// A username and a password in a URL are those of the Sentinel, and `rediss://` is TLS to it, with the
    /// certificates and the server name of [`Builder::tls_certificates`] and [`Builder::tls_server_name`]. They must be
    /// the same for all Sentinels of the group.
    pub fn new<U: IntoConnectionInfo>(urls: impl IntoIterator<Item = U>) -> Self {
        let info = |(url, number): (U, usize)| {
            let info = url.into_connection_info();
            info.map_err(|error| format!("Sentinel number {number}: {}", refused_url(&error)))
        };
        Self {
            urls: urls.into_iter().zip(1..).map(info).collect(),
            username: None,
            password: None,
            node: plain_node(),
        }
    }

    /// Sets the username of the Sentinels whose URLs have none. Defaults to none, which is the default user.
    #[must_use]
    pub fn with_username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets the password of the Sentinels whose URLs have none. It is not that of the nodes. Defaults to none.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Sets how the nodes are reached: username, password, database, protocol and whether over TLS. The address in it
    /// has no meaning. [`Builder::username`], [`Builder::password`] and [`Builder::credentials`] apply to these nodes as
    /// to all others. Defaults to `redis://`, without credentials and TLS, and to database 0.
    #[must_use]
    pub fn with_node(mut self, node: impl IntoConnectionInfo) -> Self {
        let info = node.into_connection_info();
        self.node = info.map_err(|error| format!("with_node: {}", refused_url(&error)));
        self
    }

    /// The Sentinels with their credentials.
    fn sentinels(&self) -> Result<Arc<[ConnectionInfo]>, String> {
        let complete = |info: &ConnectionInfo| {
            let mut settings = info.redis_settings().clone();
            if let (None, Some(password)) = (settings.password(), &self.password) {
                settings = settings.set_password(password);
                if let (None, Some(username)) = (settings.username(), &self.username) {
                    settings = settings.set_username(username);
                }
            }
            info.clone().set_redis_settings(settings)
        };
        Ok(self
            .urls
            .as_ref()
            .map_err(Clone::clone)?
            .iter()
            .map(complete)
            .collect())
    }
}

/// A node without credentials. Its address has no meaning.
fn plain_node() -> Result<ConnectionInfo, String> {
    let address = ConnectionAddr::Tcp("primary".to_owned(), 6379);
    address
        .into_connection_info()
        .map_err(|error| refused_url(&error))
}

impl SentinelMaster {
    /// The node that is named after its master and has weight one.
    pub fn new(master: impl Into<String>) -> Self {
        Self {
            master: master.into(),
            name: None,
            weight: NonZeroU32::MIN,
        }
    }

    /// Sets the name of the node, which places its keys. Defaults to the name of the master.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how many shares of the keys the node owns. Defaults to one.
    #[must_use]
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }
}

impl From<&str> for SentinelMaster {
    fn from(master: &str) -> Self {
        Self::new(master)
    }
}

impl From<String> for SentinelMaster {
    fn from(master: String) -> Self {
        Self::new(master)
    }
}

impl Builder {
    /// Adds a node of weight one whose address Sentinel knows: the primary that the Sentinels with these URLs call
    /// `master`. The node is named after it, which places its keys; where the primary is has no influence on that.
    ///
    /// The Sentinels are asked when the node is first used, and again when a connection to it is lost or cannot be made,
    /// when a server refuses a write as a replica, when a Sentinel announces a new primary (`+switch-master`), and every
    /// few seconds. Of different answers, the one of the largest config-epoch counts, so that a Sentinel that lags behind
    /// does no harm. From then on, nothing is sent to the former primary: requests go over new connections, on which ROLE
    /// has confirmed the role, subscribers subscribe again, and a [`Dedicated`](crate::Dedicated) connection returns an
    /// error, as its WATCH or MULTI has no meaning on another server. A write that the former primary has received without
    /// a reply is [`Unknown`](crate::ErrorKind::Unknown), and one that it has acknowledged may be lost if it was not
    /// replicated: WAIT helps. [`RetryPolicy::attempts`](crate::RetryPolicy::attempts) lets requests wait for the new
    /// primary.
    ///
    /// [`sentinel_nodes`](Self::sentinel_nodes) is for several masters, for credentials and for TLS. The threads that ask
    /// and listen are plain threads, also for the client on tokio.
    ///
    /// ```
    /// use redis_sharding::ShardedClient;
    ///
    /// let client = ShardedClient::builder()
    ///     .sentinel(["redis://10.0.0.1:26379", "redis://10.0.0.2:26379"], "users-a")
    ///     .node("users-b", "redis://10.0.0.9/")
    ///     .build()?;
    /// assert_eq!(client.topology().nodes()[0].address(), "users-a@10.0.0.1:26379,10.0.0.2:26379");
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn sentinel<U: IntoConnectionInfo>(
        self,
        urls: impl IntoIterator<Item = U>,
        master: impl Into<String>,
    ) -> Self {
        self.sentinel_nodes(Sentinel::new(urls), [SentinelMaster::new(master)])
    }

    /// Adds several masters of one group of Sentinels as nodes. All are asked for together.
    pub fn sentinel_nodes<M: Into<SentinelMaster>>(
        mut self,
        sentinel: Sentinel,
        masters: impl IntoIterator<Item = M>,
    ) -> Self {
        for master in masters {
            let master = master.into();
            let number = self.nodes.len() + 1;
            self.nodes.push(node(&sentinel, master, number));
        }
        self
    }

    /// Sets the function that maps the addresses that Sentinels and the servers of a [cluster](Self::cluster) name to those
    /// that the client can connect to, for networks with address translation. It is called with the host and the port of
    /// a server as it is named, a primary, a replica or another Sentinel, and returns the host and the port to connect to; for an address that
    /// needs no mapping, what it was given. The addresses in URLs are not mapped. [`ClientHealth`](crate::ClientHealth)
    /// and [`ClientEvent`](crate::ClientEvent) show the mapped addresses. It must not block. Defaults to none.
    ///
    /// ```
    /// use redis_sharding::ShardedClient;
    ///
    /// let client = ShardedClient::builder()
    ///     .sentinel(["redis://nat.example:26379"], "users-a")
    ///     // 10.0.0.7:6379 behind the gateway is port 10007 of the gateway.
    ///     .address_map(|host, port| match host.rsplit_once('.').and_then(|(_, last)| last.parse::<u16>().ok()) {
    ///         Some(last) if host.starts_with("10.0.0.") => ("nat.example".to_owned(), 10_000 + last),
    ///         _ => (host.to_owned(), port),
    ///     })
    ///     .build()?;
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn address_map(
        mut self,
        map: impl Fn(&str, u16) -> (String, u16) + Send + Sync + 'static,
    ) -> Self {
        self.address_map = Some(Arc::new(map));
        self
    }
}

/// The node of a master.
fn node(sentinel: &Sentinel, node: SentinelMaster, number: usize) -> Result<NodeConfig, Error> {
    let name = node.name.as_ref().unwrap_or(&node.master);
    // Such a name must not be quoted.
    if holds_password(name) || holds_password(&node.master) {
        return Err(Error::config(format!(
            "the name of node number {number} {ADVICE}"
        )));
    }
    let failed = |why: String| Error::config(format!("node {name:?}: {why}")).at_node(name);
    let sentinels = sentinel.sentinels().map_err(failed)?;
    let source = SentinelSource::new(sentinels, &node.master).map_err(failed)?;
    let info = sentinel.node.clone().map_err(failed)?;
    let spec = NodeSpec::new(name.clone(), source.address());
    Ok(NodeConfig {
        spec: spec.with_weight(node.weight),
        access: NodeAccess::behind(source, info),
    })
}

impl fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = self.urls.as_deref().unwrap_or_default();
        let addresses: Vec<String> = urls.iter().map(|info| info.addr().to_string()).collect();
        f.debug_struct("Sentinel")
            .field("urls", &addresses)
            .finish_non_exhaustive()
    }
}
