//! The setters of [`Builder`] for clients that follow the record of their fleet.

use std::sync::Arc;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::config::{Builder, Purpose};
#[cfg(test)]
use crate::endpoint::RecordSource;
use crate::endpoint::tls::refused_url;
use crate::error::Error;
use crate::record::{RecordMonitor, discover};
use crate::topology::record::RECORD_DB;

impl Builder {
    /// Has the client follow the record that each of its nodes keeps of the fleet, which
    /// `redis-sharding topology publish` writes: see [`guide::record`](crate::guide::record).
    ///
    /// Every new connection reads the record of its node in its handshake, and is used only if the node names the
    /// client's topology; otherwise requests fail with [`ErrorKind::Stale`](crate::ErrorKind::Stale) before they are
    /// sent, so no key is written where other clients do not look for it. When the record changes, the nodes tell the
    /// client, which goes on by the new topology and the new addresses; its [`set_topology`](crate::ShardedClient::set_topology)
    /// is an error.
    ///
    /// ```
    /// use redis_sharding::{ShardedClient, Topology};
    ///
    /// let topology: Topology = "redis-sharding topology 1
    /// placement rendezvous/1
    /// node a 10.0.0.1:6379
    /// node b 10.0.0.2:6379
    /// ".parse()?;
    /// let client = ShardedClient::builder().topology(&topology).agreed().build()?;
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// Defaults to a client that neither reads nor needs a record.
    pub fn agreed(mut self) -> Self {
        self.is_agreed = true;
        self
    }

    /// Takes the topology from the record of a fleet, and [follows](Self::agreed) it. The nodes at these URLs are asked for
    /// it at once, one after the other until one names it, each within the [connect timeout](Self::connect_timeout).
    ///
    /// The text beside the record holds no passwords. Nodes have those of [`password`](Self::password) and of its
    /// relatives, or else the username and the password of the first URL.
    ///
    /// Blocks: in a task use [`aio::ShardedClient::discover`](crate::aio::ShardedClient::discover), or
    /// `tokio::task::spawn_blocking`.
    ///
    /// # Errors
    ///
    /// If no node names the topology: each with its reason.
    pub fn discover<U: IntoConnectionInfo>(
        mut self,
        seeds: impl IntoIterator<Item = U>,
    ) -> Result<Self, Error> {
        let seeds = Self::seeds_of(seeds)?;
        if let Some(first) = seeds.first()
            && !self.has_login()
        {
            let settings = first.redis_settings();
            if let Some(password) = settings.password() {
                self = self.password(password);
                self.login.username = settings.username().map(str::to_owned);
            }
        }
        let limit = self.settings.connect_timeout;
        let endpoints = seeds.into_iter().map(|info| self.seed(info).map(Arc::new));
        let endpoints = endpoints.collect::<Result<Vec<_>, Error>>()?;
        let topology = discover(&endpoints, limit)?;
        Ok(self.topology(&topology).agreed())
    }

    /// Reads the URLs of nodes that are to be asked.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for one that cannot be parsed.
    pub(crate) fn seeds_of<U: IntoConnectionInfo>(
        seeds: impl IntoIterator<Item = U>,
    ) -> Result<Vec<ConnectionInfo>, Error> {
        let info = |(url, number): (U, usize)| {
            let info = url.into_connection_info();
            info.map_err(|error| {
                let why = refused_url(&error);
                Error::config(format!("node number {number} to be asked: {why}"))
            })
        };
        let seeds = seeds.into_iter().zip(1..).map(info);
        seeds.collect()
    }

    /// Has the client follow the records that its nodes keep of their fleet, as this source knows them.
    #[cfg(test)]
    pub(crate) fn record_source(mut self, source: Arc<dyn RecordSource>) -> Self {
        self.record_source = Some(source);
        self
    }

    /// Who follows the records of the nodes, if the client is to.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for settings that such a client cannot have.
    pub(super) fn record_monitor(
        &self,
        watches_file: bool,
    ) -> Result<Option<Arc<RecordMonitor>>, Error> {
        if !self.is_agreed {
            return Ok(None);
        }
        let nodes = || self.nodes.iter().flatten();
        let contradiction = if self.cluster.is_some() {
            "the servers of a Redis Cluster decide by themselves where keys live, and keep no record; leave out \
             `Builder::agreed` or `Builder::cluster`"
        } else if watches_file {
            "the topology comes from the record of the nodes, and cannot come from a file as well; leave out \
             `Builder::agreed` or `Builder::watch_topology`"
        } else if self.purpose != Purpose::Store {
            "the record says where keys live, and a client that ejects nodes looks for them elsewhere; leave out \
             `Builder::agreed` or `Builder::cache`"
        } else if self.replicas.discovers || !self.replicas.given.is_empty() {
            "replicas are not asked for the record before they serve reads; leave out `Builder::agreed` or the replicas"
        } else if nodes().any(|node| node.access.sentinel.is_some()) {
            "a server that Sentinel makes the primary of a node has the record of the former one, which does not count \
             for it; leave out `Builder::agreed` or give fixed addresses"
        } else if nodes().any(|node| node.access.info.redis_settings().db() == RECORD_DB) {
            "database 15 is that of the record; use another one for the data"
        } else {
            return Ok(Some(RecordMonitor::new(self.settings.connect_timeout)));
        };
        Err(Error::config(contradiction))
    }
}
